//! The files of a data directory besides the log's.
//!
//! The seed file, 24 bytes: `ASHLSEED`, the seed u64, 4 bytes 0, crc32c of the 20 bytes before; numbers
//! are little-endian. The seed is kept since fingerprints of cold keys depend on it, and since a
//! snapshot loads fastest into tables of the same seed.

use crate::disk::{self, Disk, File, Mode, read_exact_at};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const SEED_MAGIC: [u8; 8] = *b"ASHLSEED";
const SEED_BYTES: usize = 24;
/// Bytes of a snapshot after which they are synced: a disk then has no burst to write at the end.
const SYNC_BYTES: u64 = 16 << 20;

pub fn snapshot_dir(dir: &Path) -> PathBuf {
    dir.join("snapshot")
}

pub fn snapshot_path(dir: &Path, number: u64) -> PathBuf {
    snapshot_dir(dir).join(format!("{number:016}.snap"))
}

pub fn temporary_path(dir: &Path, number: u64) -> PathBuf {
    snapshot_dir(dir).join(format!("{number:016}.tmp"))
}

/// The number of a file named `NUMBER` and `suffix`.
fn number_of(name: &str, suffix: &str) -> Option<u64> {
    let digits = name.strip_suffix(suffix)?;
    let all = digits.len() >= 16 && digits.bytes().all(|byte| byte.is_ascii_digit());
    if all { digits.parse().ok() } else { None }
}

/// The index up to which the newest snapshot has the log's records, 0 without one: where the log may
/// begin. Changes nothing, and does not look whether the snapshot can be read.
///
/// # Errors
/// If the directory cannot be listed.
pub fn newest_snapshot(disk: &dyn Disk, dir: &Path) -> io::Result<u64> {
    let names = match disk.list(&snapshot_dir(dir)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        names => names?,
    };
    Ok(names.iter().filter_map(|name| number_of(name, ".snap")).max().unwrap_or(0))
}

/// The numbers of the snapshots, ascending. What an earlier process did not finish is removed.
pub fn snapshots(disk: &dyn Disk, dir: &Path) -> io::Result<Vec<u64>> {
    let dir = snapshot_dir(dir);
    let names = disk.list(&dir)?;
    for name in names.iter().filter(|name| number_of(name, ".tmp").is_some()) {
        disk.remove(&dir.join(name))?;
    }
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| number_of(name, ".snap")).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// The seed of the directory; `None` if there is none or it is damaged.
pub fn read_seed(disk: &dyn Disk, dir: &Path) -> io::Result<Option<u64>> {
    let file = match disk.open(&dir.join("seed"), Mode::Read) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = [0; SEED_BYTES];
    match read_exact_at(&*file, &mut bytes, 0) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let mut seed = [0; 8];
    seed.copy_from_slice(&bytes[8..16]);
    let seed = u64::from_le_bytes(seed);
    Ok((bytes == seed_bytes(seed)).then_some(seed))
}

fn seed_bytes(seed: u64) -> [u8; SEED_BYTES] {
    let mut bytes = [0; SEED_BYTES];
    bytes[..8].copy_from_slice(&SEED_MAGIC);
    bytes[8..16].copy_from_slice(&seed.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[..20]);
    bytes[20..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

pub fn write_seed(disk: &dyn Disk, dir: &Path, seed: u64) -> io::Result<()> {
    disk::replace(disk, dir, "seed", &seed_bytes(seed))
}

/// A file that is written from its beginning to its end.
pub struct Sink {
    file: Arc<dyn File>,
    at: u64,
    synced: u64,
}

impl Sink {
    pub fn new(file: Arc<dyn File>) -> Sink {
        Sink { file, at: 0, synced: 0 }
    }

    pub fn bytes(&self) -> u64 {
        self.at
    }

    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_at(bytes, self.at)?;
        self.at += bytes.len() as u64;
        if self.at - self.synced >= SYNC_BYTES {
            self.file.sync_data()?;
            self.synced = self.at;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A file that is read from its beginning to its end.
pub struct Source {
    file: Arc<dyn File>,
    at: u64,
}

impl Source {
    pub fn new(file: Arc<dyn File>) -> Source {
        Source { file, at: 0 }
    }
}

impl Read for Source {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buf, self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}
