//! Gives the space of rows back that are used no more.
//!
//! ```text
//! after a start    count      goes through all places once, for how much of each older file is in use
//! then             choose     the file with the least in use, at most half of it
//!                  move       what is in use: append, sync, write the new places
//!                  remove     once the new places are durable
//! ```
//! [`ColdStore::tidy`](crate::tier::store::ColdStore::tidy) does some of it each second. Whoever writes does more where more is wasted than
//! [`WASTED_MAX`] and a few files: so files never take much more than three times what is in use, however fast
//! rows are replaced.

use super::Place;
use super::bugs::{Bug, is_back};
use super::log::ValueLog;
use super::recent::Change;
use super::segment::{self, Found, RECORD_BYTES_MAX};
use super::store::{Separated, Writer, failed};
use crate::tier::store::{Batch, ColdError};

/// Of what is in use, how much more may be wasted before writers help.
const WASTED_MAX: u64 = 2;
/// Files that may be wasted besides.
const WASTED_FILES: u64 = 4;
/// Bytes of files that a writer goes through for each batch.
const HELP_BYTES: usize = 2 << 20;
/// Bytes that are read at a time.
const PIECE_BYTES: usize = 256 << 10;
/// Bytes of rows that are moved for one sync.
const MOVED_BYTES: usize = 4 << 20;
/// Places that are counted at a time, by the upkeep and by who writes.
const COUNTED_PLACES: usize = 20_000;
const HELP_PLACES: usize = 2_000;
/// Longer than any key of a row.
const AFTER_ALL: [u8; 257] = [0xFF; 257];

/// How far it is.
pub(super) struct Compaction {
    /// The key from which on places have still to be counted.
    uncounted: Option<Vec<u8>>,
    /// The file that is being moved, and how far.
    moving: Option<(u32, u64)>,
    /// Rows that stand in another file already, whose new places are yet to be written.
    moved: Vec<Moved>,
    moved_bytes: usize,
}

/// A row that stands in two files.
struct Moved {
    key: Vec<u8>,
    from: Place,
    to: Place,
}

impl Compaction {
    pub fn new(log: &ValueLog) -> Compaction {
        let has_old = log.bytes().0 > 0;
        let uncounted = has_old.then(Vec::new);
        Compaction { uncounted, moving: None, moved: Vec::new(), moved_bytes: 0 }
    }

    /// Whether a key's place is part of what is known to be in use of its file.
    pub fn is_counted(&self, log: &ValueLog, place: Place, key: &[u8]) -> bool {
        match &self.uncounted {
            Some(from) => key < from.as_slice() || !log.is_old(place.segment),
            None => true,
        }
    }
}

impl Separated {
    /// What a writer does so that files do not grow faster than space is given back.
    pub(super) fn keep_up(&self, writer: &mut Writer) -> Result<(), ColdError> {
        if writer.compaction.uncounted.is_some() {
            return self.count_some(writer, HELP_PLACES);
        }
        let (bytes, used) = self.log.bytes();
        let spare = WASTED_FILES * self.log.segment_bytes() as u64;
        if bytes.saturating_sub(used) > WASTED_MAX * used + spare {
            self.compact(writer, HELP_BYTES)?;
        }
        Ok(())
    }

    /// Counts places, or goes through about `bytes_max` bytes of files that are half empty. Returns the bytes of
    /// files that were removed.
    pub(super) fn compact(&self, writer: &mut Writer, bytes_max: usize) -> Result<u64, ColdError> {
        if writer.compaction.uncounted.is_some() {
            self.count_some(writer, COUNTED_PLACES)?;
            return Ok(0);
        }
        let (mut passed, mut removed) = (0, 0);
        while passed < bytes_max {
            let moving = writer.compaction.moving;
            let Some((number, offset)) = moving.or_else(|| self.choose(writer)) else { break };
            let known = self.log.segment(number);
            if let Some(known) = known.filter(|known| known.used > 0 && offset < known.len) {
                let next = self.move_some(writer, number, offset)?.unwrap_or(known.len);
                writer.compaction.moving = Some((number, next));
                passed += (next - offset) as usize;
                continue;
            }
            self.end_moves(writer)?;
            writer.compaction.moving = None;
            match self.log.segment(number) {
                // Not all of its rows were found: something in it is damaged.
                Some(known) if known.used > 0 => self.log.set_damaged(number),
                _ => {
                    if !is_back(Bug::FilesGoEarly) {
                        self.rows.flush_durable()?;
                    }
                    removed += self.log.remove(number).map_err(failed)?;
                }
            }
        }
        Ok(removed)
    }

    /// The file that is worth most to be moved.
    fn choose(&self, writer: &Writer) -> Option<(u32, u64)> {
        let sealed = self.log.sealed(&writer.end).into_iter();
        let worth = sealed.filter(|(_, known)| !known.is_damaged && known.used * 2 <= known.len);
        // In parts of a thousand: an empty one comes first, and an older one before a newer one.
        let best = worth.min_by_key(|(_, known)| known.used * 1000 / known.len.max(1));
        best.map(|(number, _)| (number, 0))
    }

    /// Appends what is in use of a piece of a file; returns where the next one begins, if there is one.
    fn move_some(
        &self,
        writer: &mut Writer,
        number: u32,
        offset: u64,
    ) -> Result<Option<u64>, ColdError> {
        let Some(file) = self.log.file(number).map_err(failed)? else { return Ok(None) };
        let mut piece = vec![0; PIECE_BYTES];
        let len = file.read_at(&mut piece, offset).map_err(failed)?;
        if len == 0 {
            return Ok(None);
        }
        let (mut at, mut rows, mut old) = (0, Vec::new(), Vec::new());
        while at < len {
            match segment::find(&piece[at..len]) {
                Found::Record(key, row) => {
                    let from = Place {
                        segment: number,
                        offset: offset as u32 + at as u32,
                        len: row.len(),
                    };
                    if self.rows.get(key)?.is_some_and(|value| value == from.to_bytes()) {
                        rows.push((key, row));
                        old.push(from);
                    }
                    at += segment::record_bytes(key.len(), row.len());
                }
                // The rest comes with the next piece.
                Found::Cut if at > 0 && len - at < RECORD_BYTES_MAX => break,
                Found::Cut | Found::Nothing => at += segment::UNIT_BYTES,
            }
        }
        let places = self.log.append(&mut writer.end, &rows).map_err(failed)?;
        let compaction = &mut writer.compaction;
        for (((key, row), from), to) in rows.iter().zip(old).zip(places) {
            compaction.moved_bytes += row.len();
            compaction.moved.push(Moved { key: key.to_vec(), from, to });
        }
        if compaction.moved_bytes >= MOVED_BYTES {
            self.end_moves(writer)?;
        }
        Ok(Some(offset + at as u64))
    }

    /// Writes the places of rows that were moved.
    fn end_moves(&self, writer: &mut Writer) -> Result<(), ColdError> {
        if !is_back(Bug::MovedRowsUnsynced) {
            // A place that comes to the disk before its row would lose a row that was durable.
            self.log.sync().map_err(failed)?;
        }
        let (mut writes, mut released) = (Batch::default(), Vec::new());
        let mut changes = Vec::new();
        let compaction = &mut writer.compaction;
        for Moved { key, from, to } in &compaction.moved {
            // It may have been written or deleted since.
            let is_used = is_back(Bug::MovesWin)
                || self.rows.get(key)?.is_some_and(|value| value == from.to_bytes());
            released.push((if is_used { *from } else { *to }, key.len()));
            if is_used {
                writes.put(key.clone(), to.to_bytes().to_vec());
                changes.push((key.as_slice(), Change::Moved(*to)));
            }
        }
        self.recent.change(changes.into_iter(), || self.rows.apply(&writes))?;
        self.log.release(&released);
        compaction.moved.clear();
        compaction.moved_bytes = 0;
        Ok(())
    }

    /// Counts some more places of older files.
    fn count_some(&self, writer: &mut Writer, places_max: usize) -> Result<(), ColdError> {
        let Some(from) = writer.compaction.uncounted.clone() else { return Ok(()) };
        let (mut seen, mut next) = (0, None);
        self.rows.range(&from, &AFTER_ALL, &mut |key, value| {
            if seen == places_max {
                next = Some(key.to_vec());
                return false;
            }
            seen += 1;
            if let Some(place) = Place::read(value)
                && self.log.is_old(place.segment)
            {
                self.log.count(place, key.len());
            }
            true
        })?;
        writer.compaction.uncounted = next;
        Ok(())
    }
}
