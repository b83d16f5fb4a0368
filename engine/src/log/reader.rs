//! Goes through the records of a log.

use super::record::{self, Calls, Found, HEADER_BYTES as RECORD_BYTES, Kind};
use super::scan::Place;
use super::segment::HEADER_BYTES;
use super::{Log, LogError, scan};
use crate::disk::{Disk, Mapping};
use std::collections::VecDeque;
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

/// Reads records in order. While there is one, the segments that it has still to read stay.
pub struct Reader {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    segments: VecDeque<Segment>,
    current: Option<(Segment, u32, Mapping)>,
    at: usize,
    next: u64,
    last: u64,
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
        }
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
        loop {
            let done = self.current.as_ref().is_none_or(|(segment, ..)| self.at >= segment.end);
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
            let Found::Record(header) = record::look(rest, *salt_crc) else {
                return Err(LogError::Damaged { place, durable: self.last });
            };
            let start = self.at + RECORD_BYTES;
            self.at += header.bytes;
            if header.kind != Kind::Calls || header.index < self.next {
                continue;
            }
            if header.index != self.next {
                return Err(LogError::Damaged { place, durable: self.last });
            }
            self.next += 1;
            // Looked up once more, since the borrow has to outlive the loop.
            let (_, _, bytes) = self.current.as_ref().expect("it was just read from");
            let calls = Calls::new(&bytes[start..self.at]);
            return Ok(Some(Batch { index: header.index, place, calls }));
        }
    }
}
