//! The files of the value log: append, read, sync, and how much of each is in use.

use super::Place;
use super::bugs::{Bug, is_back};
use super::place::SEGMENT_MAX;
use super::segment;
use crate::disk::{Disk, File, Mode};
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Files that are kept open for reading.
const FILES_MAX: usize = 256;
/// Bytes that are gathered for one write.
const WRITE_BYTES: usize = 1 << 20;

/// What is known of a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    /// Bytes of records.
    pub len: u64,
    /// Of those, bytes of records in use.
    pub used: u64,
    /// Whether another process made it: what is used of it is known once all places were counted.
    pub is_old: bool,
    /// Whether rows in it cannot be found by going through it, so that it stays.
    pub is_damaged: bool,
}

/// The end of the log: whoever appends has it.
#[derive(Default)]
pub(super) struct End {
    active: Option<Active>,
}

/// The file that is appended to.
struct Active {
    number: u32,
    file: Arc<dyn File>,
    len: usize,
}

#[derive(Default)]
struct State {
    segments: BTreeMap<u32, Segment>,
    /// Files that have been written since they were synced.
    unsynced: BTreeMap<u32, Arc<dyn File>>,
}

pub(super) struct ValueLog {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    segment_bytes: usize,
    open: RwLock<HashMap<u32, Arc<dyn File>, foldhash::fast::FixedState>>,
    state: Mutex<State>,
    /// Held for a sync, with why an earlier one failed: what was written before that may be lost, whatever a
    /// later one says.
    sync: Mutex<Option<String>>,
}

impl ValueLog {
    /// Opens the files in a folder, which is made if it is missing.
    pub fn open(disk: Arc<dyn Disk>, dir: &Path, segment_bytes: usize) -> io::Result<ValueLog> {
        disk.create_dir(dir)?;
        let mut state = State::default();
        for number in disk.list(dir)?.iter().filter_map(|name| segment::number(name)) {
            let len = disk.open(&dir.join(segment::name(number)), Mode::Read)?.len()?;
            let segment = Segment { len, used: 0, is_old: true, is_damaged: false };
            state.segments.insert(number, segment);
        }
        Ok(ValueLog {
            disk,
            dir: dir.to_owned(),
            segment_bytes,
            open: RwLock::default(),
            state: Mutex::new(state),
            sync: Mutex::default(),
        })
    }

    /// Appends rows to the end and returns their places.
    pub fn append(&self, end: &mut End, rows: &[(&[u8], &[u8])]) -> io::Result<Vec<Place>> {
        let mut places = Vec::with_capacity(rows.len());
        let result = self.append_all(end, rows, &mut places);
        if result.is_err() {
            // Nobody will know of those that have been written.
            let keys = rows.iter().map(|(key, _)| key.len());
            self.release(&places.iter().copied().zip(keys).collect::<Vec<_>>());
        }
        result.map(|()| places)
    }

    fn append_all(
        &self,
        end: &mut End,
        rows: &[(&[u8], &[u8])],
        places: &mut Vec<Place>,
    ) -> io::Result<()> {
        let (mut bytes, mut begin) = (Vec::new(), 0);
        for (nth, (key, row)) in rows.iter().enumerate() {
            let more = segment::record_bytes(key.len(), row.len());
            let fits = |len: usize| len + more <= self.segment_bytes;
            let len = end.active.as_ref().map(|active| active.len + bytes.len());
            if bytes.len() + more > WRITE_BYTES || !len.is_some_and(fits) {
                self.write(end, &bytes, &rows[begin..nth], places)?;
                bytes.clear();
                begin = nth;
            }
            if !end.active.as_ref().is_some_and(|active| fits(active.len)) {
                end.active = Some(self.begin_segment()?);
            }
            segment::push(&mut bytes, key, row);
        }
        self.write(end, &bytes, &rows[begin..], places)
    }

    /// Writes gathered records behind those that are there.
    fn write(
        &self,
        end: &mut End,
        bytes: &[u8],
        rows: &[(&[u8], &[u8])],
        places: &mut Vec<Place>,
    ) -> io::Result<()> {
        let Some(active) = end.active.as_mut().filter(|_| !bytes.is_empty()) else {
            return Ok(());
        };
        self.state.lock().unsynced.entry(active.number).or_insert_with(|| active.file.clone());
        active.file.write_at(bytes, active.len as u64)?;
        let mut offset = active.len as u32;
        for (key, row) in rows {
            places.push(Place { segment: active.number, offset, len: row.len() });
            offset += segment::record_bytes(key.len(), row.len()) as u32;
        }
        active.len += bytes.len();
        if let Some(known) = self.state.lock().segments.get_mut(&active.number) {
            known.len += bytes.len() as u64;
            known.used += bytes.len() as u64;
        }
        Ok(())
    }

    /// Begins a file. Its name is durable before any place is in it, so that a number is not used again for which
    /// a place is left.
    fn begin_segment(&self) -> io::Result<Active> {
        let number = {
            let segments = &self.state.lock().segments;
            match segments.keys().next_back().map_or(0, |last| last + 1) {
                next if next <= SEGMENT_MAX => next,
                _ => (0..=SEGMENT_MAX)
                    .find(|number| !segments.contains_key(number))
                    .ok_or_else(|| io::Error::other("the value log has no number left"))?,
            }
        };
        let file = self.disk.open(&self.path(number), Mode::CreateNew)?;
        let segment = Segment { len: 0, used: 0, is_old: false, is_damaged: false };
        self.state.lock().segments.insert(number, segment);
        self.disk.sync_dir(&self.dir)?;
        self.keep_open(number, &file);
        Ok(Active { number, file, len: 0 })
    }

    fn path(&self, number: u32) -> PathBuf {
        self.dir.join(segment::name(number))
    }

    fn keep_open(&self, number: u32, file: &Arc<dyn File>) {
        let mut open = self.open.write();
        if open.len() >= FILES_MAX
            && let Some(other) = open.keys().next().copied()
        {
            open.remove(&other);
        }
        open.insert(number, file.clone());
    }

    /// The file of a segment; `None` where there is none.
    pub fn file(&self, number: u32) -> io::Result<Option<Arc<dyn File>>> {
        if let Some(file) = self.open.read().get(&number) {
            return Ok(Some(file.clone()));
        }
        match self.disk.open(&self.path(number), Mode::Read) {
            Ok(file) => {
                self.keep_open(number, &file);
                Ok(Some(file))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The row in a place, if its record has this key; `None` where there is none.
    pub fn read_own(&self, place: Place, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let Some(file) = self.file(place.segment)? else { return Ok(None) };
        Self::read_record(place, key, |record| {
            crate::disk::read_exact_at(&*file, record, u64::from(place.offset))
        })
    }

    /// The same, and `None` as well where the disk would have to be waited for.
    pub fn read_ready(&self, place: Place, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let Some(file) = self.open.read().get(&place.segment).cloned() else { return Ok(None) };
        Self::read_record(place, key, |record| {
            match file.read_ready_at(record, u64::from(place.offset))? {
                Some(got) if got == record.len() => Ok(()),
                _ => Err(io::ErrorKind::UnexpectedEof.into()),
            }
        })
    }

    fn read_record(
        place: Place,
        key: &[u8],
        read: impl FnOnce(&mut [u8]) -> io::Result<()>,
    ) -> io::Result<Option<Vec<u8>>> {
        let head = segment::row_offset(place, key.len()) - u64::from(place.offset);
        let mut record = vec![0; head as usize + place.len];
        match read(&mut record) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        }
        if !segment::is_of(&record, key, place.len) && !is_back(Bug::KeysNotCompared) {
            return Ok(None);
        }
        record.drain(..head as usize);
        Ok(Some(record))
    }

    /// The row in a place; `None` where there is none.
    pub fn read(&self, place: Place, key_len: usize) -> io::Result<Option<Vec<u8>>> {
        let Some(file) = self.file(place.segment)? else { return Ok(None) };
        let mut row = vec![0; place.len];
        match crate::disk::read_exact_at(&*file, &mut row, segment::row_offset(place, key_len)) {
            Ok(()) => Ok(Some(row)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes what was appended durable.
    pub fn sync(&self) -> io::Result<()> {
        let mut failed = self.sync.lock();
        if let Some(why) = &*failed {
            return Err(io::Error::other(format!("an earlier sync failed: {why}")));
        }
        let files = std::mem::take(&mut self.state.lock().unsynced);
        for file in files.values() {
            if let Err(error) = file.sync_data() {
                if !is_back(Bug::SyncAgain) {
                    *failed = Some(error.to_string());
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// Whether another process made a segment.
    pub fn is_old(&self, number: u32) -> bool {
        self.state.lock().segments.get(&number).is_some_and(|segment| segment.is_old)
    }

    /// Notes that a record is used, of a file of another process.
    pub fn count(&self, place: Place, key_len: usize) {
        if let Some(segment) = self.state.lock().segments.get_mut(&place.segment) {
            segment.used += segment::record_bytes(key_len, place.len) as u64;
        }
    }

    /// Notes that records are used no more: places with the lengths of their keys.
    pub fn release(&self, places: &[(Place, usize)]) {
        let mut state = self.state.lock();
        for (place, key_len) in places {
            if let Some(segment) = state.segments.get_mut(&place.segment) {
                let bytes = segment::record_bytes(*key_len, place.len) as u64;
                segment.used = segment.used.saturating_sub(bytes);
            }
        }
    }

    /// The segments, with their numbers, that nothing is appended to any more. The one with the highest number is
    /// none of them: it keeps its number from being used again.
    pub fn sealed(&self, end: &End) -> Vec<(u32, Segment)> {
        let state = self.state.lock();
        let last = state.segments.keys().next_back().copied();
        let active = end.active.as_ref().map(|active| active.number);
        let sealed = state.segments.iter().map(|(number, segment)| (*number, *segment));
        sealed.filter(|(number, _)| Some(*number) != last && Some(*number) != active).collect()
    }

    /// What is known of a segment.
    pub fn segment(&self, number: u32) -> Option<Segment> {
        self.state.lock().segments.get(&number).copied()
    }

    /// Bytes of all files, and how many of them are in use.
    pub fn bytes(&self) -> (u64, u64) {
        let state = self.state.lock();
        let sum = |of: fn(&Segment) -> u64| state.segments.values().map(of).sum();
        (sum(|segment| segment.len), sum(|segment| segment.used))
    }

    /// Bytes of a full file.
    pub fn segment_bytes(&self) -> usize {
        self.segment_bytes
    }

    /// Notes that a segment stays, since not all of its rows can be found.
    pub fn set_damaged(&self, number: u32) {
        if let Some(segment) = self.state.lock().segments.get_mut(&number) {
            segment.is_damaged = true;
        }
    }

    /// Removes a file that nothing durable names any more; returns its bytes.
    pub fn remove(&self, number: u32) -> io::Result<u64> {
        self.open.write().remove(&number);
        self.disk.remove(&self.path(number))?;
        let mut state = self.state.lock();
        state.unsynced.remove(&number);
        let segment = state.segments.remove(&number);
        drop(state);
        self.disk.sync_dir(&self.dir)?;
        Ok(segment.map_or(0, |segment| segment.len))
    }
}
