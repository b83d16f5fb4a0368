//! A segment: a file of fixed length that was filled with zeros before its first record.
//!
//! Writing into blocks that exist spares the file system a change of its own at each sync, which
//! halves the time that one takes. Where nobody waits for syncs the zeros cost more than they bring: there
//! the file system is only asked for the room. So a segment is made ahead, and one that is no longer needed
//! is used again: under a new number and with a new salt, so that its old records are not
//! mistaken for new ones.
//!
//! ```text
//! NUMBER.tmp --zeros, header, sync, rename, sync of the directory--> NUMBER.log
//! NUMBER.log --no longer needed--> NUMBER.spare --header, sync, rename, ...--> NUMBER.log
//! ```
//! The header:
//! ```text
//! 0   magic        "ASHLRLOG"
//! 8   version u32  1
//! 12  crc32c u32   over bytes 0 to 12 and 16 to 64
//! 16  number u64
//! 24  salt u64     random; part of the checksum of each record
//! 32  length u64   of the file when it was made
//! 40  zeros to 64, where the first record starts
//! ```

use super::{LogError, record};
use crate::disk::{Disk, File, Mode};
use crate::stamp::Rng;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes of a segment's header.
pub const HEADER_BYTES: usize = 64;
/// The first bytes of each segment.
pub const MAGIC: &[u8; 8] = b"ASHLRLOG";
/// Version of the format.
pub const VERSION: u32 = 1;
/// Zeros that are written at a time.
const ZEROS_BYTES: usize = 1 << 20;
/// The share of a whole segment that a start begins with, unless one is there to be used again: 4 MiB.
const FIRST_SHARE: u64 = 16;
/// Files that are kept to be used again.
pub const SPARES_MAX: usize = 2;

/// A segment that can take records.
pub struct Segment {
    /// Its number.
    pub number: u64,
    /// Its file.
    pub file: Arc<dyn File>,
    /// Its salt.
    pub salt: u64,
    /// The checksum of the salt.
    pub salt_crc: u32,
    /// Bytes of the file.
    pub bytes: u64,
}

/// What a segment's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Its number, which is also its name.
    pub number: u64,
    /// Its salt.
    pub salt: u64,
    /// Length of the file when it was made.
    pub bytes: u64,
}

impl Header {
    /// The bytes.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.number.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.salt.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.bytes.to_le_bytes());
        let crc = checksum(&bytes);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads them.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn decode(bytes: &[u8]) -> Result<Header, &'static str> {
        let Some(bytes) = bytes.get(..HEADER_BYTES) else {
            return Err("the file is shorter than a segment's header");
        };
        if bytes[..8] != *MAGIC {
            return Err("the file does not begin as a segment does");
        }
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(word)
        };
        if word(8) >> 32 != u64::from(checksum(bytes)) {
            return Err("the checksum of the segment's header is wrong");
        }
        if word(8) as u32 != VERSION {
            return Err("the segment is of a version that this program does not know");
        }
        Ok(Header { number: word(16), salt: word(24), bytes: word(32) })
    }
}

fn checksum(header: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&header[..12]), &header[16..HEADER_BYTES])
}

/// The file of a segment.
pub fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:016}.log"))
}

/// The number of the segment that a file of this name and ending is.
pub fn number_of(name: &str, ending: &str) -> Option<u64> {
    let digits = name.strip_suffix(ending)?;
    (digits.len() == 16 && digits.bytes().all(|byte| byte.is_ascii_digit())).then_some(())?;
    digits.parse().ok()
}

/// Makes segments, and keeps those that are to be used again.
pub struct Maker {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    bytes: u64,
    next: u64,
    salts: Rng,
    spares: Vec<PathBuf>,
    /// Whether new segments are filled with zeros; otherwise only their room is taken.
    pub zeroed: bool,
}

impl Maker {
    /// A maker of segments of `bytes` in `dir`, the next with number `next`.
    pub fn new(disk: Arc<dyn Disk>, dir: PathBuf, bytes: u64, next: u64, salt_seed: u64) -> Maker {
        Maker {
            disk,
            dir,
            bytes,
            next,
            salts: Rng::new(salt_seed),
            spares: Vec::new(),
            zeroed: true,
        }
    }

    /// Makes a segment with room for a record of `record_bytes`.
    ///
    /// # Errors
    /// Those of the disk; what was begun is removed, so that the room it took is free again.
    pub fn make(&mut self, record_bytes: u64) -> Result<Segment, LogError> {
        let needed = record_bytes + HEADER_BYTES as u64;
        let made = match self.spares.pop() {
            Some(spare) if needed <= self.bytes => self.reuse(spare),
            other => {
                self.spares.extend(other);
                self.create(needed.max(self.bytes))
            }
        };
        if made.is_err() {
            // Its names are not used again: a power cut may bring back what was begun under them.
            self.next += 1;
        }
        made.map_err(|error| LogError::io("make a segment of the log", &error))
    }

    /// Makes the segment that a start begins with: one that is there to be used again, or else a small one.
    /// A start need not wait until a whole one is full of zeros; the next is made beside it.
    ///
    /// # Errors
    /// As [`Maker::make`].
    pub fn make_first(&mut self) -> Result<Segment, LogError> {
        let io = |error: io::Error| LogError::io("look at a spare segment", &error);
        while let Some(spare) = self.spares.last() {
            if self.disk.open(spare, Mode::Write).and_then(|file| file.len()).map_err(io)?
                == self.bytes
            {
                return self.make(0);
            }
            self.disk.remove(spare).map_err(io)?;
            self.spares.pop();
        }
        let whole = self.bytes;
        self.bytes = whole / FIRST_SHARE;
        let made = self.make(0);
        self.bytes = whole;
        made
    }

    /// Whether a segment of `bytes` is smaller than those that are made.
    pub fn is_small(&self, bytes: u64) -> bool {
        bytes < self.bytes
    }

    fn header(&mut self, bytes: u64) -> Header {
        #[cfg(test)]
        if super::bugs::ONE_SALT.get() {
            return Header { number: self.next, salt: 0, bytes };
        }
        Header { number: self.next, salt: self.salts.next_u64(), bytes }
    }

    fn create(&mut self, bytes: u64) -> io::Result<Segment> {
        let header = self.header(bytes);
        let temporary = self.dir.join(format!("{:016}.tmp", header.number));
        let made =
            self.fill(&temporary, header).and_then(|file| self.finish(&temporary, file, header));
        if made.is_err() {
            // Only to get its room back; the next start removes it too.
            self.disk.remove(&temporary).ok();
        }
        made
    }

    fn fill(&self, path: &Path, header: Header) -> io::Result<Arc<dyn File>> {
        let file = self.disk.open(path, Mode::Create)?;
        file.set_len(0)?;
        if !self.zeroed {
            file.reserve(header.bytes)?;
            return Ok(file);
        }
        let zeros = vec![0; ZEROS_BYTES.min(usize::try_from(header.bytes).unwrap_or(ZEROS_BYTES))];
        let mut at = 0;
        while at < header.bytes {
            let count = (header.bytes - at).min(zeros.len() as u64);
            file.write_at(&zeros[..usize::try_from(count).unwrap_or(0)], at)?;
            at += count;
        }
        Ok(file)
    }

    fn reuse(&mut self, spare: PathBuf) -> io::Result<Segment> {
        let header = self.header(self.bytes);
        let file = self.disk.open(&spare, Mode::Write)?;
        if file.len()? != self.bytes {
            // Cut by a recovery, or of another size: not worth keeping.
            self.disk.remove(&spare)?;
            return self.create(self.bytes);
        }
        self.finish(&spare, file, header)
    }

    fn finish(&mut self, from: &Path, file: Arc<dyn File>, header: Header) -> io::Result<Segment> {
        file.write_at(&header.encode(), 0)?;
        file.sync_data()?;
        self.disk.rename(from, &path(&self.dir, header.number))?;
        self.sync()?;
        self.next += 1;
        let salt_crc = record::salt_crc(header.salt);
        Ok(Segment {
            number: header.number,
            file,
            salt: header.salt,
            salt_crc,
            bytes: header.bytes,
        })
    }

    /// Lets go of a segment's file. It is kept to be used again unless `removed` or there are
    /// enough; [`Maker::sync`] has to follow before the next segment is made.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn release(&mut self, number: u64, removed: bool) -> io::Result<()> {
        let path = path(&self.dir, number);
        if removed || self.spares.len() >= SPARES_MAX {
            return self.disk.remove(&path);
        }
        let spare = self.dir.join(format!("{number:016}.spare"));
        self.disk.rename(&path, &spare)?;
        self.spares.push(spare);
        Ok(())
    }

    /// Makes the names in the directory durable.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn sync(&self) -> io::Result<()> {
        #[cfg(test)]
        if super::bugs::FORGET_DIRECTORY.get() {
            return Ok(());
        }
        self.disk.sync_dir(&self.dir)
    }

    /// Takes a spare file that was found in the directory, or removes it where there are enough.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn adopt(&mut self, name: &str) -> io::Result<()> {
        let path = self.dir.join(name);
        if self.spares.len() >= SPARES_MAX {
            return self.disk.remove(&path);
        }
        self.spares.push(path);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_come_back_and_damage_shows() {
        let header = Header { number: 3, salt: 7, bytes: 1 << 26 };
        let mut bytes = header.encode();
        assert_eq!(Header::decode(&bytes), Ok(header));
        for at in 0..HEADER_BYTES {
            bytes[at] ^= 4;
            assert!(Header::decode(&bytes).is_err(), "byte {at}");
            bytes[at] ^= 4;
        }
        assert!(Header::decode(&bytes[..63]).is_err());
    }

    #[test]
    fn names_have_16_digits() {
        assert_eq!(path(Path::new("/d"), 12).to_string_lossy(), "/d/0000000000000012.log");
        assert_eq!(number_of("0000000000000012.log", ".log"), Some(12));
        for other in ["12.log", "0000000000000012.tmp", "00000000000000-2.log", ".log"] {
            assert_eq!(number_of(other, ".log"), None);
        }
    }
}
