//! What a node keeps on disk: one log for all of its groups, and the newest snapshot of each.
//!
//! ```text
//! <dir>/log/...                     the engine's log as a container: a batch is one record, each
//!                                   of its calls has one argument, a `LogRecord` of a group
//! <dir>/floor                       index u64 | CRC-32C u32: records up to it are not needed
//! <dir>/snapshots/<group>.snap      the group's newest snapshot, with its CRC-32C at the end
//! <dir>/snapshots/<group>.<index>   one that is being written, or that no batch has named yet
//! ```
//! A batch whose first call is a checkpoint holds all that the node has to remember; what comes
//! before it is not needed any more, and its segments are used again.

use crate::node::{Batch, Node};
use crate::raft::{CaptureJob, GroupId, LogRecord, Machine};
use ashlar_engine::disk::{Disk, Mode};
use ashlar_engine::journal::{Journal, Record};
use ashlar_engine::log::{Log, LogError, LogOptions};
use ashlar_engine::stamp::Stamp;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const RECORD: &[u8] = b"R";
const CHECKPOINT: &[u8] = b"C";
/// Sizes of a node's files: small ones let a simulation see what seldom happens.
#[derive(Clone, Copy, Debug)]
pub struct FileSizes {
    /// Of a segment of the log.
    pub segment_bytes: u64,
    /// Of the log after which a checkpoint takes its place.
    pub checkpoint_bytes: u64,
}

impl Default for FileSizes {
    fn default() -> FileSizes {
        let segment_bytes = LogOptions::default().segment_bytes;
        FileSizes { segment_bytes, checkpoint_bytes: 256 << 20 }
    }
}

/// A node's files.
pub struct NodeDisk {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    snapshots: PathBuf,
    log: Log,
    sizes: FileSizes,
    /// A batch of which nothing is in the log yet, as there was no room for its snapshots.
    waiting: Option<Batch>,
    /// Bytes of the last checkpoint.
    checkpoint_bytes: u64,
    /// Bytes of log right after it.
    bytes_then: u64,
}

/// What a node remembers after a restart.
#[derive(Default)]
pub struct Remembered {
    /// The records of its log, from the last checkpoint on.
    pub records: Vec<LogRecord>,
    /// The newest snapshot of each group that has one.
    pub snapshots: BTreeMap<GroupId, Vec<u8>>,
}

fn failed(what: &str, error: impl std::fmt::Display) -> io::Error {
    io::Error::other(format!("{what}: {error}"))
}

impl NodeDisk {
    /// Opens a node's files below `dir`; its owner has locked the directory. `salt_seed` is random.
    ///
    /// # Errors
    /// If they are damaged, or those of the disk.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        sizes: FileSizes,
        salt_seed: u64,
    ) -> io::Result<(NodeDisk, Remembered)> {
        let snapshots = dir.join("snapshots");
        disk.create_dir(&snapshots)?;
        let mut remembered = Remembered::default();
        for name in disk.list(&snapshots)? {
            let number = name.strip_suffix(".snap").and_then(|name| name.parse().ok());
            let Some(group) = number else {
                disk.remove(&snapshots.join(&name))?;
                continue;
            };
            remembered.snapshots.insert(group, read_snapshot(&*disk, &snapshots.join(&name))?);
        }
        let options = LogOptions {
            segment_bytes: sizes.segment_bytes,
            floor: read_floor(&*disk, dir)?,
            salt_seed,
            ..LogOptions::default()
        };
        let opened = Log::open(disk.clone(), &dir.join("log"), options);
        let (log, recovered) = opened.map_err(|error| failed("the node's log", error))?;
        let mut reader = log.read_from(recovered.first);
        while let Some(batch) = reader.next().map_err(|error| failed("the node's log", error))? {
            let mut calls = batch.calls;
            for call in calls.by_ref() {
                match call.args.as_slice() {
                    [CHECKPOINT] => remembered.records.clear(),
                    [RECORD, bytes] => remembered.records.push(LogRecord(bytes.to_vec())),
                    _ => return Err(failed("the node's log", "a record is of no known kind")),
                }
            }
            if calls.is_broken() {
                return Err(failed("the node's log", "a record cannot be read"));
            }
        }
        drop(reader);
        let bytes_then = 0;
        let node = NodeDisk {
            dir: dir.to_path_buf(),
            disk,
            snapshots,
            log,
            sizes,
            waiting: None,
            checkpoint_bytes: 0,
            bytes_then,
        };
        Ok((node, remembered))
    }

    /// Makes a batch durable.
    ///
    /// # Errors
    /// [`LogError::Blocked`] if there is no room: [`NodeDisk::retry`] tries again. Any other is final.
    pub fn write(&mut self, batch: &Batch) -> Result<(), LogError> {
        for snapshot in &batch.snapshots {
            if let Err(error) = self.write_snapshot(snapshot.group, &snapshot.data) {
                let text = format!("can't write a snapshot: {error}");
                if !is_full(&error) {
                    return Err(LogError::Failed(text));
                }
                self.waiting = Some(batch.clone());
                return Err(LogError::Blocked(text));
            }
        }
        for (group, index) in &batch.written {
            let renamed = self.disk.rename(&self.part(*group, *index), &self.path(*group));
            renamed
                .and_then(|()| self.disk.sync_dir(&self.snapshots))
                .map_err(|error| LogError::Failed(format!("can't keep a snapshot: {error}")))?;
        }
        self.append(&[], &batch.records);
        self.log.sync()?;
        for group in &batch.retired {
            // The log says that it counts no more; it is removed some other time if it cannot be now.
            drop(self.disk.remove(&self.path(*group)));
        }
        Ok(())
    }

    /// Where another thread writes a snapshot.
    pub fn part_file(&self, group: GroupId, index: u64) -> PartFile {
        PartFile { disk: self.disk.clone(), path: self.part(group, index) }
    }

    /// A snapshot that another thread has written is not wanted any more.
    pub fn forget_part(&self, group: GroupId, index: u64) {
        // It is removed at the next start if it cannot be now.
        drop(self.disk.remove(&self.part(group, index)));
    }

    fn part(&self, group: GroupId, index: u64) -> PathBuf {
        self.snapshots.join(format!("{group}.{index}"))
    }

    /// Tries again to make durable what there was no room for.
    ///
    /// # Errors
    /// As [`NodeDisk::write`].
    pub fn retry(&mut self) -> Result<(), LogError> {
        if let Some(batch) = self.waiting.take() {
            return self.write(&batch);
        }
        self.log.tend()?;
        self.log.sync().map(drop)
    }

    fn append(&self, first: &[&[u8]], records: &[LogRecord]) {
        let stamp = Stamp::default();
        let args: Vec<[&[u8]; 2]> =
            records.iter().map(|record| [RECORD, record.0.as_slice()]).collect();
        let mut calls: Vec<Record<'_>> = Vec::with_capacity(args.len() + 1);
        if !first.is_empty() {
            calls.push(Record { stamp: &stamp, db: 0, args: first });
        }
        calls.extend(args.iter().map(|args| Record { stamp: &stamp, db: 0, args }));
        if !calls.is_empty() {
            self.log.append(&calls);
        }
    }

    /// Now and then: prepares segments, and puts a checkpoint in the place of a long log. Batches before
    /// are durable.
    ///
    /// # Errors
    /// As [`NodeDisk::write`].
    pub fn tend<M: Machine>(&mut self, node: &Node<M>) -> Result<(), LogError> {
        self.log.tend()?;
        let grown = self.log.stats().bytes.saturating_sub(self.bytes_then);
        if grown < self.sizes.checkpoint_bytes.max(4 * self.checkpoint_bytes) {
            return Ok(());
        }
        let records = node.checkpoint();
        self.checkpoint_bytes = records.iter().map(|record| record.0.len() as u64).sum();
        let index = self.log.appended() + 1;
        self.append(&[CHECKPOINT], &records);
        self.bytes_then = self.log.stats().bytes;
        self.log.sync()?;
        // What comes before goes only once a start will not look for it; without room for saying so it
        // goes after the next checkpoint.
        match write_floor(&*self.disk, &self.dir, index - 1) {
            Ok(()) => {}
            Err(error) if is_full(&error) => return Ok(()),
            Err(error) => return Err(LogError::Failed(format!("can't write the floor: {error}"))),
        }
        self.log.release_before(index)?;
        self.bytes_then = self.log.stats().bytes;
        Ok(())
    }

    fn path(&self, group: GroupId) -> PathBuf {
        self.snapshots.join(format!("{group}.snap"))
    }

    fn write_snapshot(&self, group: GroupId, data: &[u8]) -> io::Result<()> {
        let temporary = self.snapshots.join(format!("{group}.tmp"));
        let file = self.disk.open(&temporary, Mode::Create)?;
        file.set_len(0)?;
        file.write_at(data, 0)?;
        file.write_at(&crc32c::crc32c(data).to_le_bytes(), data.len() as u64)?;
        file.sync_data()?;
        drop(file);
        self.disk.rename(&temporary, &self.path(group))?;
        self.disk.sync_dir(&self.snapshots)
    }

    /// The newest snapshot of a group.
    ///
    /// # Errors
    /// If there is none, or it is damaged.
    pub fn read_snapshot(&self, group: GroupId) -> io::Result<Vec<u8>> {
        read_snapshot(&*self.disk, &self.path(group))
    }

    /// Bytes of the log.
    pub fn log_bytes(&self) -> u64 {
        self.log.stats().bytes
    }
}

/// A snapshot that another thread writes.
pub struct PartFile {
    disk: Arc<dyn Disk>,
    path: PathBuf,
}

impl PartFile {
    /// Writes it and makes it durable; how many bytes it has. `stop` is looked at now and then.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn write(&self, head: &[u8], job: CaptureJob, stop: &AtomicBool) -> io::Result<u64> {
        let file = self.disk.open(&self.path, Mode::Create)?;
        file.set_len(0)?;
        let (mut at, mut crc) = (0, 0);
        let mut write = |piece: &[u8]| {
            if stop.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            file.write_at(piece, at)?;
            at += piece.len() as u64;
            crc = crc32c::crc32c_append(crc, piece);
            Ok(())
        };
        write(head)?;
        job(&mut write)?;
        file.write_at(&crc.to_le_bytes(), at)?;
        file.sync_data()?;
        Ok(at)
    }
}

/// Whether an error passes once the disk takes writes again.
fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | ReadOnlyFilesystem)
}

/// The index up to which the log's records are not needed, as a checkpoint follows.
fn read_floor(disk: &dyn Disk, dir: &Path) -> io::Result<u64> {
    let path = dir.join("floor");
    let file = match disk.open(&path, Mode::Read) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    let (mut index, mut crc) = ([0; 8], [0; 4]);
    ashlar_engine::disk::read_exact_at(&*file, &mut index, 0)?;
    ashlar_engine::disk::read_exact_at(&*file, &mut crc, 8)?;
    if crc32c::crc32c(&index).to_le_bytes() != crc {
        return Err(failed("the floor of the log is damaged", path.display()));
    }
    Ok(u64::from_le_bytes(index))
}

fn write_floor(disk: &dyn Disk, dir: &Path, floor: u64) -> io::Result<()> {
    let mut bytes = floor.to_le_bytes().to_vec();
    bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
    ashlar_engine::disk::replace(disk, dir, "floor", &bytes)
}

fn read_snapshot(disk: &dyn Disk, path: &Path) -> io::Result<Vec<u8>> {
    let damaged = || failed("a snapshot is damaged", path.display());
    let file = disk.open(path, Mode::Read)?;
    let len = usize::try_from(file.len()?).map_err(|_| damaged())?;
    let mut data = vec![0; len];
    ashlar_engine::disk::read_exact_at(&*file, &mut data, 0)?;
    let crc = data.split_off(len.checked_sub(4).ok_or_else(damaged)?);
    if crc32c::crc32c(&data).to_le_bytes() != *crc {
        return Err(damaged());
    }
    Ok(data)
}
