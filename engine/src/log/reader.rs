//! Goes through the records of a log.

use super::record::{self, Calls, HEADER_BYTES as RECORD_BYTES, Kind};
use super::scan::Place;
use super::segment::HEADER_BYTES;
use super::{Log, LogError, scan};
use crate::disk::{Disk, Mapping};
use crate::prefetch::{LINE_BYTES, prefetch};
use std::collections::VecDeque;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

/// A record of calls.
#[derive(Clone, Debug)]
pub struct Batch<'a> {
    /// Its index.
    pub index: u64,
    /// Where it stands.
    pub place: Place,
    /// Its calls.
    pub calls: Calls<'a>,
}

/// A segment to be read up to an offset; its file stays as long as the pin.
struct Segment {
    number: u64,
    end: usize,
    _pin: Arc<()>,
}

/// Where a record was found in the present segment.
struct Found {
    place: Place,
    payload: Range<usize>,
}

/// Records that were found, with the segment that they stand in.
#[derive(Default)]
pub struct Group {
    bytes: Option<Mapping>,
    found: Vec<Found>,
}

impl Group {
    /// How many.
    pub fn len(&self) -> usize {
        self.found.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// Where the payloads stand in [`Group::bytes`].
    pub fn payloads(&self) -> impl Iterator<Item = Range<usize>> {
        self.found.iter().map(|found| found.payload.clone())
    }

    /// The segment.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.as_deref().unwrap_or_default()
    }

    /// One of them, by its number from 0 on.
    pub fn batch(&self, nth: usize) -> Batch<'_> {
        let found = &self.found[nth];
        let calls = Calls::new(&self.bytes()[found.payload.clone()]);
        Batch { index: found.place.index, place: found.place, calls }
    }

    /// The index of the last one.
    pub fn last(&self) -> Option<u64> {
        self.found.last().map(|found| found.place.index)
    }
}

/// Reads records in order. While there is one, the segments that it has still to read stay.
pub struct Reader {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    segments: VecDeque<Segment>,
    current: Option<(Segment, u32, Mapping)>,
    at: usize,
    next: u64,
    last: u64,
    is_verified: bool,
}

impl Log {
    /// The records from `index` on, up to the last one that is written now.
    pub fn read_from(&self, index: u64) -> Reader {
        let writer = self.writer.lock();
        let needed = writer.sealed.iter().filter(|sealed| sealed.next > index);
        let segment = |number, end: u64, pin: &Arc<()>| Segment {
            number,
            end: usize::try_from(end).unwrap_or(usize::MAX),
            _pin: pin.clone(),
        };
        let mut segments: VecDeque<Segment> =
            needed.map(|sealed| segment(sealed.number, sealed.end, &sealed.pin)).collect();
        if writer.first_here.is_some() {
            segments.push_back(segment(writer.segment.number, writer.offset, &writer.pin));
        }
        Reader {
            disk: self.disk.clone(),
            dir: self.dir.clone(),
            segments,
            current: None,
            at: 0,
            next: index,
            last: writer.last,
            is_verified: false,
        }
    }

    /// As [`Log::read_from`], for a log that was just opened: that has compared all checksums, which is not
    /// done again.
    pub(crate) fn read_opened(&self, index: u64) -> Reader {
        Reader { is_verified: true, ..self.read_from(index) }
    }
}

impl Reader {
    /// Index of the last record that it reads.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// The next record of calls; `None` after the last.
    ///
    /// # Errors
    /// [`LogError::Damaged`] if a record is not intact, or those of the disk.
    #[allow(clippy::should_implement_trait, reason = "what it returns borrows from the reader")]
    pub fn next(&mut self) -> Result<Option<Batch<'_>>, LogError> {
        let found = self.step(true)?;
        Ok(found.map(|found| self.batch(found)))
    }

    /// Finds the next records of calls, at least one and at most `max`; none after the last.
    ///
    /// # Errors
    /// As [`Reader::next`], once what comes before has been given out.
    pub fn next_group(&mut self, max: usize) -> Result<Group, LogError> {
        let mut found = Vec::new();
        found.extend(self.step(true)?);
        while !found.is_empty() && found.len() < max {
            // What is wrong here is found again by the next call. Those of a group are in one segment.
            let Ok(Some(next)) = self.step(false) else { break };
            found.push(next);
        }
        let bytes = self.current.as_ref().map(|(_, _, bytes)| bytes.clone());
        Ok(Group { bytes, found })
    }

    fn batch(&self, found: Found) -> Batch<'_> {
        let (_, _, bytes) = self.current.as_ref().expect("it was just read from");
        let calls = Calls::new(&bytes[found.payload]);
        Batch { index: found.place.index, place: found.place, calls }
    }

    /// Finds the next record of calls; `None` after the last, or where it is in another segment and that is
    /// not wanted.
    fn step(&mut self, changes: bool) -> Result<Option<Found>, LogError> {
        loop {
            let done = self.current.as_ref().is_none_or(|(segment, ..)| self.at >= segment.end);
            if done && !changes {
                return Ok(None);
            }
            if done {
                let Some(segment) = self.segments.pop_front() else { return Ok(None) };
                let (header, bytes) = scan::open(&*self.disk, &self.dir, segment.number)?;
                self.current = Some((segment, record::salt_crc(header.salt), bytes));
                self.at = HEADER_BYTES;
                continue;
            }
            let Some((segment, salt_crc, bytes)) = &self.current else { continue };
            let place = Place { segment: segment.number, offset: self.at as u64, index: self.next };
            let rest = bytes.get(self.at..).unwrap_or_default();
            let header = match self.is_verified {
                true => record::plausible(rest),
                false => record::look(rest, *salt_crc).record(),
            };
            let Some(header) = header else {
                return Err(LogError::Damaged { place, durable: self.last });
            };
            let is_next = header.kind == Kind::Calls && header.index >= self.next;
            if is_next && header.index != self.next {
                return Err(LogError::Damaged { place, durable: self.last });
            }
            let payload = self.at + RECORD_BYTES..self.at + header.bytes;
            self.at = payload.end;
            if is_next {
                // It is read once all records of a group are found.
                prefetch(rest.as_ptr().wrapping_add(LINE_BYTES));
                self.next += 1;
                return Ok(Some(Found { place, payload }));
            }
        }
    }
}
