//! The frames of the stream.
//!
//! ```text
//! 0   kind u8       1 records, 2 part of a copy, 3 end of a copy, 4 sign of life, 5 question,
//!                   6 state that comes before a copy: one record, which is none of the history
//! 1   flags u8      1 = the payload is an LZ4 block behind its length (u32)
//! 2   2 bytes 0
//! 4   length u32    of the payload
//! 8   crc32c u32    of bytes 0..8 and 12..24, and of the payload
//! 12  count u32     records
//! 16  position u64  before the first record; of the last one, in a sign of life
//! 24  payload
//! ```
//! Numbers are little-endian. The payload of records: each with its length (varint) in front, as in
//! a log (docs/formats.md); that of a sign of life: the primary's time, i64, Unix milliseconds.

use std::io;

/// Bytes before the payload.
pub const HEADER_BYTES: usize = 24;
/// The longest payload that is accepted. A record takes one frame, whatever its length.
pub const PAYLOAD_BYTES_MAX: usize = u32::MAX as usize;
/// The longest payload that is accepted compressed: what it unfolds to is allocated at once.
pub const PACKED_BYTES_MAX: usize = 4 << 20;
/// Bytes below which compressing is not worth it.
const PACKED_BYTES_MIN: usize = 512;

const PACKED: u8 = 1;

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Records.
    Records = 1,
    /// A part of a copy of all keys, which is a snapshot.
    Copy = 2,
    /// The end of the copy.
    CopyEnd = 3,
    /// The primary is alive, and this is its last position.
    Alive = 4,
    /// The replica is to tell at once how far it is.
    Ask = 5,
    /// The settings that data depends on, which come before a copy.
    State = 6,
}

impl Kind {
    fn from_number(number: u8) -> Option<Kind> {
        use Kind::{Alive, Ask, Copy, CopyEnd, Records, State};
        [Records, Copy, CopyEnd, Alive, Ask, State].into_iter().find(|kind| *kind as u8 == number)
    }
}

/// A frame.
#[derive(Debug)]
pub struct Frame<'a> {
    /// What it holds.
    pub kind: Kind,
    /// Number of records.
    pub count: u32,
    /// The position before them.
    pub position: u64,
    /// Its payload.
    pub payload: std::borrow::Cow<'a, [u8]>,
    /// Bytes of the whole frame.
    pub bytes: usize,
}

/// Appends a frame; with `packs` it is compressed if that makes it shorter.
pub fn push(
    out: &mut Vec<u8>,
    kind: Kind,
    count: u32,
    position: u64,
    payload: &[u8],
    packs: bool,
) -> io::Result<()> {
    let fits = (PACKED_BYTES_MIN..=PACKED_BYTES_MAX).contains(&payload.len());
    let packed = (packs && fits).then(|| lz4_flex::compress_prepend_size(payload));
    let packed = packed.filter(|packed| packed.len() < payload.len());
    let (flags, payload) = match &packed {
        Some(packed) => (PACKED, &packed[..]),
        None => (0, payload),
    };
    let len = u32::try_from(payload.len());
    let len = len.map_err(|_| io::Error::other("a record is too long for a replica"))?;
    let start = out.len();
    out.extend([kind as u8, flags, 0, 0]);
    out.extend(len.to_le_bytes());
    out.extend([0; 4]);
    out.extend(count.to_le_bytes());
    out.extend(position.to_le_bytes());
    let crc = checksum(&out[start..start + HEADER_BYTES], payload);
    out[start + 8..start + 12].copy_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(payload);
    Ok(())
}

fn checksum(header: &[u8], payload: &[u8]) -> u32 {
    let crc = crc32c::crc32c_append(crc32c::crc32c(&header[..8]), &header[12..]);
    crc32c::crc32c_append(crc, payload)
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// The frame at the start of `bytes`; `None` if it has not come as a whole yet.
///
/// # Errors
/// If it is damaged or no frame at all.
pub fn parse(bytes: &[u8]) -> io::Result<Option<Frame<'_>>> {
    let Some(header) = bytes.get(..HEADER_BYTES) else { return Ok(None) };
    let broken = |what| io::Error::new(io::ErrorKind::InvalidData, what);
    let kind = Kind::from_number(header[0]).ok_or(broken("there is no such kind of frame"))?;
    if header[1] & !PACKED != 0 || header[2..4] != [0; 2] {
        return Err(broken("the header of a frame has unknown bytes"));
    }
    let bytes_in_all = HEADER_BYTES + word(header, 4) as usize;
    let Some(payload) = bytes.get(HEADER_BYTES..bytes_in_all) else { return Ok(None) };
    if checksum(header, payload) != word(header, 8) {
        return Err(broken("the checksum of a frame is wrong"));
    }
    let payload = if header[1] & PACKED == 0 {
        payload.into()
    } else {
        let unfolded = payload.get(..4).map_or(usize::MAX, |len| word(len, 0) as usize);
        if unfolded > PACKED_BYTES_MAX {
            return Err(broken("a compressed frame is too long"));
        }
        let unfolded = lz4_flex::decompress_size_prepended(payload);
        unfolded.map_err(|_| broken("a compressed frame cannot be read"))?.into()
    };
    let position = u64::from(word(header, 16)) | u64::from(word(header, 20)) << 32;
    let count = word(header, 12);
    Ok(Some(Frame { kind, count, position, payload, bytes: bytes_in_all }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_and_no_other_bytes_pass() {
        let text = b"log line ".repeat(200);
        for packs in [false, true] {
            let mut bytes = Vec::new();
            push(&mut bytes, Kind::Records, 7, 1 << 40, &text, packs).unwrap();
            assert_eq!(bytes.len() < text.len(), packs);
            let frame = parse(&bytes).unwrap().unwrap();
            assert_eq!((frame.kind, frame.count, frame.position), (Kind::Records, 7, 1 << 40));
            assert_eq!((&*frame.payload, frame.bytes), (&text[..], bytes.len()));
            for end in 0..bytes.len() {
                assert!(parse(&bytes[..end]).unwrap().is_none());
            }
            for byte in 0..bytes.len().min(200) {
                bytes[byte] ^= 4;
                assert!(!matches!(parse(&bytes), Ok(Some(_))), "byte {byte}");
                bytes[byte] ^= 4;
            }
        }
    }
}
