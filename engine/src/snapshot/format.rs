//! The bytes of a snapshot, version 1. It is frozen: what changes gets a new version beside it.
//!
//! ```text
//! header    0  magic "ASHLARSN"
//!           8  version u8, 3 bytes 0
//!          12  crc32c of bytes 0..12 and 16..24
//!          16  id u64: frames of another snapshot do not pass as this one's
//! frame     0  length of the payload u32
//!           4  crc32c of the id, of bytes 0..4 and 8..16, and of the payload
//!           8  number of the frame u32, from 0
//!          12  kind u8
//!          13  flags u8: 1 = the next frame goes on with this one's payload; 2 bytes 0
//!          16  payload
//! ```
//! Numbers are little-endian. Payloads are rkyv archives (unaligned, little-endian, 32-bit offsets),
//! but for LARGE and END, which are below, COLD, which is the cold tier's, LIBRARIES and
//! POLICIES.

use rkyv::{Archive, Deserialize, Serialize};

pub const MAGIC: [u8; 8] = *b"ASHLARSN";
pub const VERSION: u8 = 1;
pub const HEADER_BYTES: usize = 24;
pub const FRAME_HEADER_BYTES: usize = 16;
/// Bytes of keys and values after which a frame of rows is written.
pub const ROWS_BYTES: usize = 256 << 10;
/// Bytes of key and value from which a row is written as LARGE, in frames of this size.
pub const LARGE_BYTES: usize = 1 << 20;
/// The longest payload of a frame.
pub const PAYLOAD_MAX: usize = 4 << 20;
/// The next frame goes on with this one's payload.
pub const MORE: u8 = 1;
/// Bytes before the key in a LARGE payload: db u32, access u32, expiry i64, key length u32.
pub const LARGE_HEADER_BYTES: usize = 20;
/// Bytes of an END payload: rows u64, frames before it u32.
pub const END_BYTES: usize = 12;
/// The expiry of a row without one.
pub const NO_EXPIRY: i64 = i64::MIN;

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// An [`InfoV1`]: the first frame.
    Info = 1,
    /// A [`RowsV1`].
    Rows = 2,
    /// One row, see [`LARGE_HEADER_BYTES`]; then key and value.
    Large = 3,
    /// A part of the index of the cold tier, in a form of its own.
    Cold = 4,
    /// The totals: the last frame.
    End = 5,
    /// All libraries of functions, see [`crate::libraries::Libraries::encode`]; at most once.
    Libraries = 6,
    /// The classes of keys, see [`crate::policy::Table::encode`]; at most once.
    Policies = 7,
}

impl Kind {
    pub fn from_number(number: u8) -> Option<Kind> {
        use Kind::{Cold, End, Info, Large, Libraries, Policies, Rows};
        let all = [Info, Rows, Large, Cold, End, Libraries, Policies];
        all.into_iter().find(|kind| *kind as u8 == number)
    }
}

/// The head of a frame.
#[derive(Clone, Copy, Debug)]
pub struct FrameHeader {
    pub len: u32,
    pub crc: u32,
    pub number: u32,
    pub kind: u8,
    pub flags: u8,
}

impl FrameHeader {
    pub fn encode(&self) -> [u8; FRAME_HEADER_BYTES] {
        let mut bytes = [0; FRAME_HEADER_BYTES];
        bytes[0..4].copy_from_slice(&self.len.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.crc.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.number.to_le_bytes());
        (bytes[12], bytes[13]) = (self.kind, self.flags);
        bytes
    }

    pub fn decode(bytes: &[u8; FRAME_HEADER_BYTES]) -> FrameHeader {
        let word = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let (len, crc, number) = (word(0), word(4), word(8));
        FrameHeader { len, crc, number, kind: bytes[12], flags: bytes[13] }
    }
}

/// The checksum of a frame: its header's own field does not count.
pub fn frame_crc(id: u64, header: &[u8; FRAME_HEADER_BYTES], payload: &[u8]) -> u32 {
    let crc = crc32c::crc32c(&id.to_le_bytes());
    let crc = crc32c::crc32c_append(crc, &header[0..4]);
    let crc = crc32c::crc32c_append(crc, &header[8..16]);
    crc32c::crc32c_append(crc, payload)
}

/// The header of a snapshot.
pub fn encode_header(id: u64) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    bytes[0..8].copy_from_slice(&MAGIC);
    bytes[8] = VERSION;
    bytes[16..24].copy_from_slice(&id.to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[0..12]), &bytes[16..24]);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Totals and the like of the whole snapshot.
#[derive(Archive, Serialize, Deserialize, Default)]
pub struct InfoV1 {
    pub log_index: u64,
    pub created_ms: i64,
    pub hash_seed: u64,
    pub dbs: Vec<DbV1>,
}

#[derive(Archive, Serialize, Deserialize, Default)]
pub struct DbV1 {
    pub db: u32,
    pub keys: u64,
    pub expires: u64,
}

/// Rows, column by column: what is not bytes is checked and read without a look at each row.
#[derive(Archive, Serialize, Default)]
pub struct RowsV1 {
    /// Consecutive rows of one database: its number, and how many.
    pub runs: Vec<RunV1>,
    /// Access data, a row.
    pub accesses: Vec<u32>,
    /// The rows that have an expiry, ascending, and when it is.
    pub expiring: Vec<u32>,
    pub expiries: Vec<i64>,
    /// Where a row's key ends in `bytes`, and then its value.
    pub key_ends: Vec<u32>,
    pub value_ends: Vec<u32>,
    /// Key, value, key, value, ...
    pub bytes: Vec<u8>,
}

#[derive(Archive, Serialize, Default)]
pub struct RunV1 {
    pub db: u32,
    pub rows: u32,
}

impl RowsV1 {
    pub fn clear(&mut self) {
        self.runs.clear();
        self.accesses.clear();
        self.expiring.clear();
        self.expiries.clear();
        self.key_ends.clear();
        self.value_ends.clear();
        self.bytes.clear();
    }
}
