//! The bytes of a record: one atomic batch of calls.
//!
//! ```text
//! 0   length u32   words of 8 bytes, header and padding included; 0 where there is no record
//! 4   crc32c u32   over the segment's salt, bytes 0 to 4, and bytes 8 to the end
//! 8   index u64    of this batch; a mark repeats that of the batch before it
//! 16  durable u64  the largest index that was durable when this record was written
//! 24  group u32    0
//! 28  kind u8      1 calls, 2 mark
//! 29  version u8   of the payload: 1
//! 30  flags u16    0
//! 32  payload      zeros up to a multiple of 8 bytes
//! ```
//! All numbers are little-endian. The payload of calls:
//! ```text
//! number of calls varint, then each:
//!   flags u8, time i64 (Unix milliseconds), seed u64, [site u16: flag 1], [clock u64: flag 2]
//!   database varint, number of arguments varint, each argument: length varint, bytes
//! ```
//! A clock that is left out is the time shifted by 16 bits.

use crate::journal::Record;
use crate::stamp::Stamp;
use crate::value::varint;
use smallvec::SmallVec;

/// Bytes of a record's header.
pub const HEADER_BYTES: usize = 32;
/// Bytes to a multiple of which records are padded.
pub const ALIGN: usize = 8;
/// Version of the payload.
pub const VERSION: u8 = 1;

const HAS_SITE: u8 = 1;
const HAS_CLOCK: u8 = 2;

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A batch of calls.
    Calls,
    /// Only says what was durable, after the last record before a quiet time.
    Mark,
}

/// A record's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Bytes of the whole record.
    pub bytes: usize,
    /// Its index.
    pub index: u64,
    /// The largest index that was durable when it was written.
    pub durable: u64,
    /// What it is.
    pub kind: Kind,
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

/// The checksum of a segment's salt, with which those of its records begin.
pub fn salt_crc(salt: u64) -> u32 {
    crc32c::crc32c(&salt.to_le_bytes())
}

fn checksum(salt_crc: u32, record: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(salt_crc, &record[..4]), &record[8..])
}

/// Appends a batch as a record without checksum and durable index: [`seal`] enters them once it is
/// known in which segment the record goes.
///
/// # Panics
/// If the record takes 32 GiB or more; no limit of the server or the values lets it come to that.
pub fn push_calls(out: &mut Vec<u8>, index: u64, calls: &[Record<'_>]) {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER_BYTES]);
    push_payload(out, calls);
    finish(out, start, index, 1);
}

/// The same of a batch whose payload is there as bytes.
///
/// # Panics
/// As [`push_calls`].
pub fn push_copied(out: &mut Vec<u8>, index: u64, payload: &[u8]) {
    let start = out.len();
    out.reserve(HEADER_BYTES + payload.len() + ALIGN);
    out.extend_from_slice(&[0; HEADER_BYTES]);
    out.extend_from_slice(payload);
    finish(out, start, index, 1);
}

/// Appends the payload of a batch alone.
pub fn push_payload(out: &mut Vec<u8>, calls: &[Record<'_>]) {
    varint::push(out, calls.len() as u64);
    for call in calls {
        push_call(out, call);
    }
}

/// Appends a mark.
pub fn push_mark(out: &mut Vec<u8>, index: u64) {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER_BYTES]);
    finish(out, start, index, 2);
}

fn finish(out: &mut Vec<u8>, start: usize, index: u64, kind: u8) {
    let end = start + (out.len() - start).next_multiple_of(ALIGN);
    out.resize(end, 0);
    let words = u32::try_from((end - start) / ALIGN).expect("a record is below 32 GiB");
    let header = &mut out[start..start + HEADER_BYTES];
    header[..4].copy_from_slice(&words.to_le_bytes());
    header[8..16].copy_from_slice(&index.to_le_bytes());
    header[28] = kind;
    header[29] = VERSION;
}

#[inline]
fn push_call(out: &mut Vec<u8>, call: &Record<'_>) {
    let stamp = call.stamp;
    let bytes: usize = call.args.iter().map(|arg| arg.len() + varint::MAX).sum();
    out.reserve(bytes + 64);
    let mut flags = 0;
    if stamp.site != 0 {
        flags |= HAS_SITE;
    }
    if stamp.clock != implied_clock(stamp.now_ms) {
        flags |= HAS_CLOCK;
    }
    let mut fixed = [0; 17];
    fixed[0] = flags;
    fixed[1..9].copy_from_slice(&stamp.now_ms.to_le_bytes());
    fixed[9..17].copy_from_slice(&stamp.seed.to_le_bytes());
    out.extend_from_slice(&fixed);
    if flags & HAS_SITE != 0 {
        out.extend_from_slice(&stamp.site.to_le_bytes());
    }
    if flags & HAS_CLOCK != 0 {
        out.extend_from_slice(&stamp.clock.to_le_bytes());
    }
    varint::push(out, u64::from(call.db));
    varint::push(out, call.args.len() as u64);
    for arg in call.args {
        varint::push(out, arg.len() as u64);
        out.extend_from_slice(arg);
    }
}

fn implied_clock(now_ms: i64) -> u64 {
    (now_ms as u64) << 16
}

/// Bytes of the record at the start of `bytes`, which were made by [`push_calls`] or [`push_mark`].
pub fn length(bytes: &[u8]) -> usize {
    u32_at(bytes, 0) as usize * ALIGN
}

/// Index of the record at the start of `bytes`.
pub fn index(bytes: &[u8]) -> u64 {
    u64_at(bytes, 8)
}

/// Enters what a record is to say about durability, and its checksum.
pub fn seal(record: &mut [u8], salt_crc: u32, durable: u64) {
    record[16..24].copy_from_slice(&durable.to_le_bytes());
    let crc = checksum(salt_crc, record);
    record[4..8].copy_from_slice(&crc.to_le_bytes());
}

/// What stands at a place of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// A record.
    Record(Header),
    /// Zeros: nothing was written here.
    Nothing,
    /// Anything else: a torn or damaged record, or one of an earlier use of the file.
    Garbage,
}

impl Found {
    /// The record, if it is one.
    pub fn record(self) -> Option<Header> {
        match self {
            Found::Record(header) => Some(header),
            Found::Nothing | Found::Garbage => None,
        }
    }
}

/// The header at the start of `bytes`, if it can be one; its checksum is not looked at.
pub fn plausible(bytes: &[u8]) -> Option<Header> {
    let fixed = bytes.get(..HEADER_BYTES)?;
    let length = usize::try_from(u32_at(fixed, 0)).ok()?.checked_mul(ALIGN)?;
    let kind = match fixed[28] {
        1 => Kind::Calls,
        2 => Kind::Mark,
        _ => return None,
    };
    let fits = length >= HEADER_BYTES && length <= bytes.len();
    let known = fixed[24..28] == [0; 4] && fixed[29] == VERSION && fixed[30..32] == [0; 2];
    let header =
        Header { bytes: length, index: u64_at(fixed, 8), durable: u64_at(fixed, 16), kind };
    (fits && known).then_some(header)
}

/// Looks at what stands at the start of `bytes`.
pub fn look(bytes: &[u8], salt_crc: u32) -> Found {
    match plausible(bytes) {
        Some(header) if is_intact(&bytes[..header.bytes], salt_crc) => Found::Record(header),
        _ if bytes.iter().take(HEADER_BYTES).all(|byte| *byte == 0) => Found::Nothing,
        _ => Found::Garbage,
    }
}

/// Whether the checksum of a whole record is right.
pub fn is_intact(record: &[u8], salt_crc: u32) -> bool {
    #[cfg(test)]
    if super::bugs::IGNORE_CHECKSUMS.get() {
        return true;
    }
    checksum(salt_crc, record) == u32_at(record, 4)
}

/// A call as it stands in a record.
#[derive(Clone, Debug)]
pub struct LoggedCall<'a> {
    /// Its time and random seed.
    pub stamp: Stamp,
    /// The selected database.
    pub db: u32,
    /// The arguments, the name first.
    pub args: SmallVec<[&'a [u8]; 8]>,
}

/// The calls of a record, in order. Ends early, with `None` from `next_call` and
/// [`Calls::is_broken`], where the bytes are no calls.
#[derive(Clone, Debug)]
pub struct Calls<'a> {
    payload: &'a [u8],
    at: usize,
    left: u64,
    broken: bool,
}

impl<'a> Calls<'a> {
    /// The calls of a record's payload.
    pub fn new(payload: &'a [u8]) -> Calls<'a> {
        let count = varint::read(payload, 0);
        let (left, at) = count.unwrap_or((0, 0));
        Calls { payload, at, left, broken: count.is_none() }
    }

    /// The bytes that it reads from.
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// The name of the next call's command.
    pub fn name(&self) -> Option<&'a [u8]> {
        let flags = *self.payload.get(self.at)?;
        let optional =
            2 * usize::from(flags & HAS_SITE != 0) + 8 * usize::from(flags & HAS_CLOCK != 0);
        let (_, at) = varint::read(self.payload, self.at + 17 + optional)?;
        let (_, at) = varint::read(self.payload, at)?;
        let (len, at) = varint::read(self.payload, at)?;
        self.payload.get(at..at.checked_add(usize::try_from(len).ok()?)?)
    }

    /// Calls that are left.
    pub fn left(&self) -> u64 {
        self.left
    }

    /// Whether the bytes turned out to be no calls: a record with the right checksum and a payload
    /// that this version cannot read.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    fn read(&mut self) -> Option<LoggedCall<'a>> {
        let payload = self.payload;
        let fixed = payload.get(self.at..self.at.checked_add(17)?)?;
        let flags = fixed[0];
        let (now_ms, seed) = (u64_at(fixed, 1) as i64, u64_at(fixed, 9));
        let mut at = self.at + 17;
        let mut stamp = Stamp { now_ms, seed, site: 0, clock: implied_clock(now_ms) };
        if flags & HAS_SITE != 0 {
            let bytes = payload.get(at..at + 2)?;
            stamp.site = u16::from_le_bytes([bytes[0], bytes[1]]);
            at += 2;
        }
        if flags & HAS_CLOCK != 0 {
            stamp.clock = u64_at(payload.get(at..at + 8)?, 0);
            at += 8;
        }
        let (db, next) = varint::read(payload, at)?;
        let (count, next) = varint::read(payload, next)?;
        at = next;
        let mut args = SmallVec::new();
        for _ in 0..count {
            let (length, next) = varint::read(payload, at)?;
            let end = next.checked_add(usize::try_from(length).ok()?)?;
            args.push(payload.get(next..end)?);
            at = end;
        }
        self.at = at;
        let known = flags & !(HAS_SITE | HAS_CLOCK) == 0;
        known.then_some(LoggedCall { stamp, db: u32::try_from(db).ok()?, args })
    }
}

impl<'a> Iterator for Calls<'a> {
    type Item = LoggedCall<'a>;

    fn next(&mut self) -> Option<LoggedCall<'a>> {
        if self.left == 0 || self.broken {
            return None;
        }
        self.left -= 1;
        let call = self.read();
        self.broken = call.is_none();
        call
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_comes_back() {
        let stamps = [
            Stamp::new(1_700_000_000_000, 7),
            Stamp { now_ms: -5, seed: u64::MAX, site: 3, clock: 99 },
        ];
        let long = vec![b'x'; 1000];
        let calls = [
            Record { stamp: &stamps[0], db: 0, args: &[b"SET", b"k", &long] },
            Record { stamp: &stamps[1], db: 15, args: &[b"DEL", b""] },
        ];
        let mut bytes = Vec::new();
        push_calls(&mut bytes, 42, &calls);
        seal(&mut bytes, salt_crc(9), 41);
        assert_eq!((bytes.len() % ALIGN, length(&bytes), index(&bytes)), (0, bytes.len(), 42));
        let header = Header { bytes: bytes.len(), index: 42, durable: 41, kind: Kind::Calls };
        assert_eq!(look(&bytes, salt_crc(9)), Found::Record(header));
        assert_eq!(look(&bytes, salt_crc(8)), Found::Garbage);
        let mut found = Calls::new(&bytes[HEADER_BYTES..]);
        let mut copied = Vec::new();
        push_copied(&mut copied, 42, found.payload());
        seal(&mut copied, salt_crc(9), 41);
        assert_eq!(copied, bytes);
        for call in &calls {
            assert_eq!(found.name(), Some(call.args[0]));
            let logged = found.next().unwrap();
            assert_eq!(
                (&logged.stamp, logged.db, &logged.args[..]),
                (call.stamp, call.db, call.args)
            );
        }
        assert!(found.next().is_none() && !found.is_broken());

        for byte in 0..bytes.len() {
            for bit in 0..8 {
                bytes[byte] ^= 1 << bit;
                assert_eq!(look(&bytes, salt_crc(9)), Found::Garbage, "byte {byte}, bit {bit}");
                bytes[byte] ^= 1 << bit;
            }
        }
        // Whatever the payload holds, reading it ends.
        for end in 0..bytes.len() - HEADER_BYTES {
            Calls::new(&bytes[HEADER_BYTES..][..end]).for_each(drop);
        }
    }

    #[test]
    fn a_mark_is_a_header() {
        let mut bytes = Vec::new();
        push_mark(&mut bytes, 5);
        seal(&mut bytes, salt_crc(1), 5);
        let header = Header { bytes: HEADER_BYTES, index: 5, durable: 5, kind: Kind::Mark };
        assert_eq!(look(&bytes, salt_crc(1)), Found::Record(header));
        assert_eq!(look(&[0; 40], 1), Found::Nothing);
    }
}
