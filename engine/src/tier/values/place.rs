//! Where a row is.

use super::segment::{SEGMENT_BYTES_MAX, UNIT_BYTES};

const LEN_BITS: u32 = 13;
const UNIT_BITS: u32 = 22;
const SEGMENT_BITS: u32 = 21;

/// Highest number of a segment. After it numbers begin again with those that no file has.
pub(super) const SEGMENT_MAX: u32 = (1 << SEGMENT_BITS) - 1;

const _: () = assert!(LEN_BITS + UNIT_BITS + SEGMENT_BITS == 8 * Place::BYTES as u32);
const _: () = assert!(SEGMENT_BYTES_MAX / UNIT_BYTES <= 1 << UNIT_BITS);
const _: () = assert!(crate::tier::store::ROW_BYTES_MAX < 1 << LEN_BITS);

/// Where a row is. In the back end it has the place of the row, and is told from one by its length: all rows
/// of 7 bytes are in the value log.
///
/// ```text
/// big-endian, 56 bits: segment 21 | record's offset / 16, 22 | bytes of the row, 13
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Place {
    /// The number of its file.
    pub segment: u32,
    /// Offset of its record there.
    pub offset: u32,
    /// Bytes of the row.
    pub len: usize,
}

impl Place {
    pub const BYTES: usize = 7;

    /// The bits, in the lower seven bytes.
    pub fn to_word(self) -> u64 {
        let unit = u64::from(self.offset) / UNIT_BYTES as u64;
        u64::from(self.segment) << (UNIT_BITS + LEN_BITS) | unit << LEN_BITS | self.len as u64
    }

    /// Takes what [`Place::to_word`] made.
    pub fn from_word(word: u64) -> Place {
        let unit = (word >> LEN_BITS) as u32 & ((1 << UNIT_BITS) - 1);
        Place {
            segment: (word >> (UNIT_BITS + LEN_BITS)) as u32,
            offset: unit * UNIT_BYTES as u32,
            len: (word & ((1 << LEN_BITS) - 1)) as usize,
        }
    }

    pub fn to_bytes(self) -> [u8; Place::BYTES] {
        let [_, bytes @ ..] = self.to_word().to_be_bytes();
        bytes
    }

    /// The place that stands for a row in the back end; `None` if that is the row itself.
    pub fn read(value: &[u8]) -> Option<Place> {
        let bytes: [u8; Place::BYTES] = value.try_into().ok()?;
        let mut word = [0; 8];
        word[1..].copy_from_slice(&bytes);
        Some(Place::from_word(u64::from_be_bytes(word)))
    }
}
