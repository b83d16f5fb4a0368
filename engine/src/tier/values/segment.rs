//! The files of the value log.
//!
//! ```text
//! name      eight hexadecimal digits, the number | ".values"
//! record    crc32c u32 (over the lengths and the key) | key length u16 | row length u16 | key | row | zeros
//! ```
//! Numbers are little-endian; a record begins at a multiple of 16. The checksum is for those who walk through a
//! file: rows have checksums of their own (see `row`), and who reads one knows where it is and how long. A file is
//! only appended to, by the process that made it; what another process has left is never appended to. Where a
//! record is damaged, the walk goes on at the next multiple of 16: what it takes for a record counts only
//! if the back end has that place for its key.

use super::Place;
use crate::tier::store::{ROW_BYTES_MAX, ROW_KEY_BYTES_MAX};

/// Bytes of a file at most.
pub(super) const SEGMENT_BYTES_MAX: usize = 64 << 20;
/// Records begin at multiples of it.
pub(super) const UNIT_BYTES: usize = 16;
/// Bytes of a record before its key.
const HEADER: usize = 8;
/// Bytes of the largest record.
pub(super) const RECORD_BYTES_MAX: usize =
    (HEADER + ROW_KEY_BYTES_MAX + ROW_BYTES_MAX).next_multiple_of(UNIT_BYTES);

const SUFFIX: &str = ".values";

/// The name of a segment's file.
pub(super) fn name(number: u32) -> String {
    format!("{number:08x}{SUFFIX}")
}

/// The number of a segment by the name of its file.
pub(super) fn number(name: &str) -> Option<u32> {
    let digits = name.strip_suffix(SUFFIX).filter(|digits| digits.len() == 8)?;
    u32::from_str_radix(digits, 16).ok().filter(|number| *number <= super::place::SEGMENT_MAX)
}

/// Bytes of a record.
pub(super) fn record_bytes(key_len: usize, row_len: usize) -> usize {
    (HEADER + key_len + row_len).next_multiple_of(UNIT_BYTES)
}

/// Where a row begins that is in a place.
pub(super) fn row_offset(place: Place, key_len: usize) -> u64 {
    u64::from(place.offset) + (HEADER + key_len) as u64
}

/// Whether a record's head says that it has this key and a row of so many bytes.
pub(super) fn is_of(record: &[u8], key: &[u8], row_len: usize) -> bool {
    let [k0, k1] = (key.len() as u16).to_le_bytes();
    let [r0, r1] = (row_len as u16).to_le_bytes();
    record.get(4..HEADER) == Some(&[k0, k1, r0, r1]) && record[HEADER..].starts_with(key)
}

/// Appends a record.
pub(super) fn push(out: &mut Vec<u8>, key: &[u8], row: &[u8]) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    // Rows and their keys are bounded by what a batch takes.
    out.extend_from_slice(&(key.len() as u16).to_le_bytes());
    out.extend_from_slice(&(row.len() as u16).to_le_bytes());
    out.extend_from_slice(key);
    let crc = crc32c::crc32c(&out[start + 4..]);
    out[start..start + 4].copy_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(row);
    out.resize(start + record_bytes(key.len(), row.len()), 0);
}

/// What stands at the beginning of some bytes of a file.
pub(super) enum Found<'a> {
    /// A record: key and row.
    Record(&'a [u8], &'a [u8]),
    /// There may be one, of which more bytes have to be read.
    Cut,
    /// None.
    Nothing,
}

/// Looks at the beginning of some bytes of a file.
pub(super) fn find(bytes: &[u8]) -> Found<'_> {
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER>() else { return Found::Cut };
    let [c0, c1, c2, c3, k0, k1, r0, r1] = *header;
    let key_len = usize::from(u16::from_le_bytes([k0, k1]));
    let row_len = usize::from(u16::from_le_bytes([r0, r1]));
    if key_len > ROW_KEY_BYTES_MAX || row_len > ROW_BYTES_MAX {
        return Found::Nothing;
    }
    let Some((key, rest)) = rest.split_at_checked(key_len) else { return Found::Cut };
    let crc = crc32c::crc32c_append(crc32c::crc32c(&header[4..]), key);
    if crc != u32::from_le_bytes([c0, c1, c2, c3]) {
        return Found::Nothing;
    }
    match rest.get(..row_len) {
        Some(row) => Found::Record(key, row),
        None => Found::Cut,
    }
}
