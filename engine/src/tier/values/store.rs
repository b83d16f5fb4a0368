//! A store whose larger rows are in a value log.

use super::compact::Compaction;
use super::log::{End, ValueLog};
use super::recent::{Change, Recent, Ticket};
use super::{Place, segment};
use crate::disk::Disk;
use crate::tier::store::{Batch, ColdError, ColdStore, EachRow};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// Bytes of a row from which on it goes into the log.
const ROW_BYTES_MIN: usize = 128;
/// Bytes of rows that are appended before they are forced to the disk. File systems with a journal write all of them out
/// when the back end forces its own few bytes there: whoever waits for that is not to wait for seconds.
const UNSYNCED_BYTES_MAX: usize = 8 << 20;
/// How often a row is looked for that is moved meanwhile.
const LOOKS_MAX: usize = 8;

/// A store of a back end, with a value log beside it.
pub(in crate::tier) struct Separated {
    pub(super) rows: Box<dyn ColdStore>,
    pub(super) log: ValueLog,
    pub(super) recent: Recent,
    pub(super) writer: Mutex<Writer>,
}

/// What only one thread at a time uses: the one that writes.
pub(super) struct Writer {
    pub end: End,
    pub compaction: Compaction,
    /// Bytes of rows that were appended since they were last forced to the disk here.
    pub unsynced: usize,
}

pub(super) fn failed(error: io::Error) -> ColdError {
    ColdError::Failed(format!("the value log: {error}"))
}

/// Whether a row goes into the log. One that is as long as a place must, since it would be taken for one.
fn is_separate(row: &[u8]) -> bool {
    row.len() >= ROW_BYTES_MIN || row.len() == Place::BYTES
}

impl Separated {
    /// Puts the value log in the folder `dir` beside the back end's rows, with so many bytes of memory for places.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn open(
        rows: Box<dyn ColdStore>,
        disk: Arc<dyn Disk>,
        dir: &Path,
        memory_bytes: u64,
    ) -> Result<Separated, ColdError> {
        Separated::with_segments(rows, disk, dir, memory_bytes, segment::SEGMENT_BYTES_MAX)
    }

    /// The same with files of so many bytes.
    pub(super) fn with_segments(
        rows: Box<dyn ColdStore>,
        disk: Arc<dyn Disk>,
        dir: &Path,
        memory_bytes: u64,
        segment_bytes: usize,
    ) -> Result<Separated, ColdError> {
        let log = ValueLog::open(disk, dir, segment_bytes).map_err(failed)?;
        let compaction = Compaction::new(&log);
        let writer = Mutex::new(Writer { end: End::default(), compaction, unsynced: 0 });
        Ok(Separated { rows, log, recent: Recent::new(memory_bytes), writer })
    }

    /// The row that a value of the back end stands for. An empty one where it is lost: no checksum takes that for
    /// a value.
    fn resolve(
        &self,
        mut ticket: Ticket,
        key: &[u8],
        mut value: Vec<u8>,
    ) -> Result<Option<Vec<u8>>, ColdError> {
        for _ in 0..LOOKS_MAX {
            let Some(place) = Place::read(&value) else { return Ok(Some(value)) };
            if let Some(row) = self.log.read(place, key.len()).map_err(failed)? {
                self.recent.note(ticket, key, place);
                return Ok(Some(row));
            }
            // It may have been moved in between.
            ticket = self.recent.ticket();
            match self.rows.get(key)? {
                None => return Ok(None),
                Some(again) if again == value => break,
                Some(again) => value = again,
            }
        }
        Ok(Some(Vec::new()))
    }

    /// Puts rows where they belong: the large ones into the log, and everything else, with the places of those,
    /// into the back end.
    fn write(&self, writer: &mut Writer, batch: &Batch) -> Result<(), ColdError> {
        let last: HashMap<&[u8], usize, foldhash::fast::FixedState> =
            batch.rows().enumerate().map(|(nth, (key, _))| (key, nth)).collect();
        let (mut separate, mut writes) = (Vec::new(), Batch::default());
        let (mut changes, mut released) = (Vec::new(), Vec::new());
        for (nth, (key, row)) in batch.rows().enumerate() {
            if last.get(key) != Some(&nth) {
                // A later write of the batch replaces it.
                continue;
            }
            if let Some(place) = self.rows.get(key)?.and_then(|old| Place::read(&old))
                && writer.compaction.is_counted(&self.log, place, key)
            {
                released.push((place, key.len()));
            }
            match row {
                Some(row) if is_separate(row) => {
                    separate.push((key, row));
                    continue;
                }
                Some(row) => writes.put(key.to_vec(), row.to_vec()),
                None => writes.delete(key.to_vec()),
            }
            changes.push((key, Change::Forget));
        }
        let places = self.log.append(&mut writer.end, &separate).map_err(failed)?;
        writer.unsynced += separate.iter().map(|(_, row)| row.len()).sum::<usize>();
        if writer.unsynced >= UNSYNCED_BYTES_MAX {
            self.log.sync().map_err(failed)?;
            writer.unsynced = 0;
        }
        for ((key, _), place) in separate.iter().zip(places) {
            writes.put(key.to_vec(), place.to_bytes().to_vec());
            changes.push((key, Change::Written(place)));
        }
        self.recent.change(changes.into_iter(), || self.rows.apply(&writes))?;
        self.log.release(&released);
        Ok(())
    }
}

impl ColdStore for Separated {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, ColdError> {
        if let Some(place) = self.recent.find(key)
            && let Some(row) = self.log.read_own(place, key).map_err(failed)?
        {
            return Ok(Some(row));
        }
        let ticket = self.recent.ticket();
        match self.rows.get(key)? {
            Some(value) => self.resolve(ticket, key, value),
            None => Ok(None),
        }
    }

    fn get_ready(&self, key: &[u8]) -> Option<Vec<u8>> {
        let place = self.recent.find(key)?;
        self.log.read_ready(place, key).ok()?
    }

    fn apply(&self, batch: &Batch) -> Result<(), ColdError> {
        let mut writer = self.writer.lock();
        self.write(&mut writer, batch)?;
        self.keep_up(&mut writer)
    }

    fn range(&self, from: &[u8], to: &[u8], each: &mut EachRow<'_>) -> Result<(), ColdError> {
        let mut result = Ok(());
        // Who goes through many rows is not to push out what is looked for.
        let ticket = Ticket::NEVER;
        self.rows.range(from, to, &mut |key, value| {
            if Place::read(value).is_none() {
                return each(key, value);
            }
            match self.resolve(ticket, key, value.to_vec()) {
                Ok(Some(row)) => each(key, &row),
                Ok(None) => true,
                Err(error) => {
                    result = Err(error);
                    false
                }
            }
        })?;
        result
    }

    fn range_keys(
        &self,
        from: &[u8],
        to: &[u8],
        each: &mut dyn FnMut(&[u8], usize) -> bool,
    ) -> Result<(), ColdError> {
        self.rows.range(from, to, &mut |key, value| {
            each(key, Place::read(value).map_or(value.len(), |place| place.len))
        })
    }

    fn flush_durable(&self) -> Result<(), ColdError> {
        self.log.sync().map_err(failed)?;
        self.rows.flush_durable()
    }

    fn size(&self) -> u64 {
        self.rows.size() + self.log.bytes().0
    }

    fn untouched_bytes(&self) -> usize {
        self.rows.untouched_bytes()
    }

    fn shrink(&self) -> Result<(), ColdError> {
        self.rows.shrink()
    }

    fn tidy(&self, bytes_max: usize) -> Result<u64, ColdError> {
        self.compact(&mut self.writer.lock(), bytes_max)
    }

    fn alarm(&self) -> Option<String> {
        self.rows.alarm()
    }

    fn destroy(self: Box<Self>) -> Result<(), ColdError> {
        let Separated { rows, log, .. } = *self;
        drop(log);
        rows.destroy()
    }
}
