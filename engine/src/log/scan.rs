//! Looks through the segments of a log: where it begins, where it ends, and whether it is whole.
//!
//! At the first place `x` that holds no record, valid records are still looked for behind it, in
//! this segment and in later ones. Each says what was durable when it was written; `D` is the
//! largest of these. If `x <= D`, an acknowledged record is damaged: an error. If `x > D`,
//! nothing from `x` on was ever called durable: it is a torn tail, which is cut.
//!
//! ```text
//! segment 7            segment 8
//! 1 2 3 4 5 6 (torn)   7' 8'            6 is cut: a start after a power cut went on with 6 in 8?
//!           ^x=6       no: 8 begins with 7, so x = 6; D says whether that is damage or a tail
//! ```
//! Records of a segment that begins exactly with the index that is missing go on the chain: that
//! is what a start writes after it has cut a tail.

use super::record::{self, Found, Kind};
use super::segment::{self, HEADER_BYTES, Header};
use super::{LogError, record::HEADER_BYTES as RECORD_BYTES};
use crate::disk::{Disk, Mapping, Mode};
use std::path::Path;

/// Bytes of a segment from which on a log is looked through by two threads.
const LARGE_BYTES: u64 = 16 << 20;
/// Indexes that a record found behind a gap may be ahead: more cannot have been written since.
const AHEAD_MAX: u64 = 1 << 40;

/// A segment and what was found in it.
#[derive(Clone, Debug)]
pub struct Part {
    /// Its number.
    pub number: u64,
    /// The checksum of its salt.
    pub salt_crc: u32,
    /// Its length.
    pub bytes: u64,
    /// The index with which it goes on: that of its first record, or one more where that is a mark.
    pub first: Option<u64>,
    /// The index after its last record before a gap; meaningless without `first`.
    pub next: u64,
    /// The offset after that record.
    pub end: u64,
    /// Records of calls before the gap.
    pub records: u64,
    /// Whether there is a trace of a record at the gap, or valid records behind it.
    pub torn: bool,
    /// Valid records of calls behind the gap.
    pub stranded: u64,
}

/// A place in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Number of the segment.
    pub segment: u64,
    /// Offset in it.
    pub offset: u64,
    /// The index of the record that should be there.
    pub index: u64,
}

/// A log that was looked through.
#[derive(Clone, Debug, Default)]
pub struct Scan {
    /// Segments that hold the log, in order.
    pub chain: Vec<Part>,
    /// Segments before it that a snapshot has made superfluous.
    pub stale: Vec<Part>,
    /// Segments behind its end.
    pub behind: Vec<Part>,
    /// The index of the first record; equal to `next` if there is none.
    pub first: u64,
    /// The index after the last record.
    pub next: u64,
    /// The largest index that a record calls durable.
    pub durable: u64,
    /// Where an acknowledged record is damaged or missing: then `next` is its index.
    pub damage: Option<Place>,
    /// Highest number of a segment.
    pub last_number: u64,
    /// Segments that are needed and whose header is damaged, and how.
    pub bad_headers: Vec<(u64, &'static str)>,
    /// Files that are no segments yet or any more.
    pub spares: Vec<String>,
    /// Files that were being made.
    pub temporary: Vec<String>,
}

impl Scan {
    /// Where the log ends.
    pub fn end(&self) -> Place {
        let last = self.chain.last();
        let (segment, offset) = last.map_or((0, 0), |part| (part.number, part.end));
        Place { segment, offset, index: self.next }
    }

    /// Whether something that was written is behind the end: a torn tail.
    pub fn has_tail(&self) -> bool {
        self.chain.last().is_some_and(|part| part.torn)
            || self.behind.iter().any(|part| part.first.is_some() || part.torn)
    }
}

/// Looks through the log in `dir`. Records up to `floor` are not needed: a snapshot has them.
///
/// # Errors
/// If files cannot be read, or one is no segment although its name says so.
pub fn scan(disk: &dyn Disk, dir: &Path, floor: u64) -> Result<Scan, LogError> {
    let mut scan = Scan::default();
    let mut numbers = Vec::new();
    let names = disk.list(dir).map_err(|error| LogError::io("list the log's files", &error))?;
    for name in names {
        if let Some(number) = segment::number_of(&name, ".log") {
            numbers.push(number);
        } else if segment::number_of(&name, ".spare").is_some() {
            scan.spares.push(name);
        } else if segment::number_of(&name, ".tmp").is_some() {
            scan.temporary.push(name);
        }
    }
    let parts = look_through_all(disk, dir, &numbers, &mut scan)?;
    scan.last_number = parts.last().map_or(0, |part| part.number);
    chain(&mut scan, parts, floor);
    let stale = std::mem::take(&mut scan.stale);
    scan.bad_headers.retain(|(number, _)| stale.iter().all(|part| part.number != *number));
    scan.stale = stale;
    Ok(scan)
}

/// Opens a segment's file as memory and reads its header.
pub fn open(disk: &dyn Disk, dir: &Path, number: u64) -> Result<(Header, Mapping), LogError> {
    let path = segment::path(dir, number);
    let open = || disk.open(&path, Mode::Read)?.map();
    let bytes = open().map_err(|error| LogError::io("read a segment of the log", &error))?;
    let header = Header::decode(&bytes).and_then(|header| match header.number == number {
        true => Ok(header),
        false => Err("the segment's header has another number than its file's name"),
    });
    let damaged = |what| LogError::Header { segment: number, what };
    Ok((header.map_err(damaged)?, bytes))
}

/// Looks through segments: those of a large log in two halves at the same time, since their checksums are a
/// good part of a start.
fn look_through_all(
    disk: &dyn Disk,
    dir: &Path,
    numbers: &[u64],
    scan: &mut Scan,
) -> Result<Vec<Part>, LogError> {
    let half = |numbers: &[u64]| -> Result<(Vec<Part>, Scan), LogError> {
        let mut found = Scan::default();
        let parts = numbers.iter().map(|number| look_through(disk, dir, *number, &mut found));
        Ok((parts.collect::<Result<_, _>>()?, found))
    };
    let (left, right) = numbers.split_at(numbers.len() / 2);
    let (left, right) = match is_large(disk, dir, numbers) {
        false => (half(left), half(right)),
        true => std::thread::scope(|scope| {
            let other = scope.spawn(|| half(left));
            let right = half(right);
            (other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), right)
        }),
    };
    let mut all = Vec::new();
    for one in [left, right] {
        let (parts, found) = one?;
        all.extend(parts);
        scan.durable = scan.durable.max(found.durable);
        scan.bad_headers.extend(found.bad_headers);
    }
    Ok(all)
}

/// Whether a thread more is worth it, as far as the last segment but one tells: the last one may be as good as
/// empty.
fn is_large(disk: &dyn Disk, dir: &Path, numbers: &[u64]) -> bool {
    let Some(number) = numbers.len().checked_sub(2).map(|at| numbers[at]) else { return false };
    let file = disk.open(&segment::path(dir, number), Mode::Read);
    file.and_then(|file| file.len()).is_ok_and(|bytes| bytes >= LARGE_BYTES)
}

fn look_through(
    disk: &dyn Disk,
    dir: &Path,
    number: u64,
    scan: &mut Scan,
) -> Result<Part, LogError> {
    let mut part = Part {
        number,
        salt_crc: 0,
        bytes: 0,
        first: None,
        next: 0,
        end: HEADER_BYTES as u64,
        records: 0,
        torn: false,
        stranded: 0,
    };
    let (header, bytes) = match open(disk, dir, number) {
        Ok(opened) => opened,
        Err(LogError::Header { what, .. }) => {
            scan.bad_headers.push((number, what));
            return Ok(part);
        }
        Err(error) => return Err(error),
    };
    let durable = &mut scan.durable;
    let salt_crc = record::salt_crc(header.salt);
    (part.salt_crc, part.bytes) = (salt_crc, bytes.len() as u64);
    let mut at = HEADER_BYTES;
    while let Found::Record(header) = record::look(&bytes[at..], salt_crc) {
        let next = header.index + 1;
        let expected = match header.kind {
            Kind::Calls => header.index,
            Kind::Mark => next,
        };
        if part.first.is_some() && expected != part.next {
            break;
        }
        part.first.get_or_insert(expected);
        part.records += u64::from(header.kind == Kind::Calls);
        part.next = next;
        *durable = (*durable).max(header.durable);
        at += header.bytes;
    }
    part.end = at as u64;
    look_behind(&bytes, at, &mut part, durable);
    Ok(part)
}

/// Looks for valid records behind a place that holds none.
fn look_behind(bytes: &[u8], gap: usize, part: &mut Part, durable: &mut u64) {
    let newest = part.next;
    let is_near =
        |index: u64| part.first.is_none() || (index >= newest && index - newest < AHEAD_MAX);
    let mut at = gap;
    let mut stranded = 0;
    let mut traces = false;
    while at + RECORD_BYTES <= bytes.len() {
        let rest = &bytes[at..];
        match record::plausible(rest).filter(|header| is_near(header.index)) {
            Some(header) if record::is_intact(&rest[..header.bytes], part.salt_crc) => {
                stranded += u64::from(header.kind == Kind::Calls);
                traces = true;
                *durable = (*durable).max(header.durable);
                at += header.bytes;
                continue;
            }
            Some(_) if at == gap && part.first.is_some() => traces = true,
            _ => {}
        }
        at += record::ALIGN;
    }
    part.stranded = stranded;
    part.torn = traces;
}

/// Puts the segments together.
fn chain(scan: &mut Scan, parts: Vec<Part>, floor: u64) {
    let mut next: Option<u64> = None;
    let mut parts = parts.into_iter();
    for part in parts.by_ref() {
        let goes_on = match (part.first, next) {
            (None, _) | (_, None) => true,
            (Some(first), Some(next)) => first == next,
        };
        if goes_on {
            if let Some(first) = part.first {
                scan.first = next.map_or(first, |_| scan.first);
                next = Some(part.next);
            }
            scan.chain.push(part);
        } else if part.first.is_some_and(|first| first <= floor + 1 && next < Some(first)) {
            // What is missing is in the snapshot.
            scan.stale.append(&mut scan.chain);
            scan.first = part.first.unwrap_or(0);
            next = Some(part.next);
            scan.chain.push(part);
        } else {
            scan.behind.push(part);
            break;
        }
    }
    scan.behind.extend(parts);
    match next {
        None => {
            // Nothing but empty segments.
            (scan.first, scan.next) = (floor + 1, floor + 1);
            scan.stale.append(&mut scan.chain);
        }
        Some(next) => scan.next = next,
    }
    if scan.next <= scan.durable {
        scan.damage = Some(scan.end());
    } else if scan.next <= floor {
        // The log ends before the snapshot, which has all of it.
        scan.stale.append(&mut scan.chain);
        scan.stale.append(&mut scan.behind);
        (scan.first, scan.next) = (floor + 1, floor + 1);
    } else if scan.first > floor + 1 && scan.durable <= floor && starts_empty(scan) {
        // The first segment is there and lost what it had: all of it is a torn tail.
        scan.behind.append(&mut scan.chain);
        (scan.first, scan.next) = (floor + 1, floor + 1);
    } else if scan.first > floor + 1 {
        let segment = scan.chain.first().map_or(0, |part| part.number);
        let place = Place { segment, offset: HEADER_BYTES as u64, index: floor + 1 };
        scan.damage = Some(place);
    }
}

fn starts_empty(scan: &Scan) -> bool {
    scan.chain.first().is_some_and(|part| part.first.is_none())
}
