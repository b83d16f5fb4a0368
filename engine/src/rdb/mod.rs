//! Redis's dump format: what DUMP and RESTORE carry, and what is in an RDB file.
//!
//! ```text
//! payload   type u8 | body | version u16 | CRC-64                        DUMP, RESTORE
//! file      "REDIS" version | (attributes, type, key, body)... | EOF | CRC-64
//! ```
//! [`decode()`] reads a body in any encoding that Redis 2.4 to 7.4 wrote; [`encode()`] writes the
//! plain encodings that every Redis from 5.0 on loads, and those of 7.4 only where a hash has
//! fields that expire. [`Reader`] cuts a stream into keys and raw bodies, so that a file of any size
//! is read with no more than one value in memory; [`Writer`] makes a stream.
//!
//! Nothing here trusts a length: bytes are looked at only once they are there, and no room is made
//! for more than they can hold. What does not fit together is a [`Malformed`].

mod bytes;
pub mod crc64;
mod decode;
mod decode_stream;
mod encode;
mod encode_stream;
mod functions;
mod listpack;
pub mod lzf;
mod reader;
mod writer;
mod ziplist;

pub use self::decode::{Decoded, decode};
pub use self::encode::{encode, encode_value};
pub use self::functions::{decode_functions, encode_functions};
pub use self::reader::{Entry, ReadError, Reader, Record};
pub use self::writer::{Use, Writer};

use std::borrow::Cow;
use std::fmt;

/// The version that is written: the one of Redis 7.0, so that 7.0 and all later ones load it.
pub const VERSION: u16 = 10;
/// The version of what only Redis 7.4 can express: hashes with fields that expire.
pub const VERSION_FIELD_TTL: u16 = 12;
/// The latest version that is read.
pub const VERSION_MAX: u16 = 12;
/// Longest string in a dump, as long as `proto-max-bulk-len` by default: a few compressed bytes
/// can stand for many.
pub const STRING_BYTES_MAX: usize = 512 << 20;
/// Bytes of version and checksum behind a payload.
const FOOTER_BYTES: usize = 10;

/// Types of values, by their numbers in the format.
pub(crate) mod kind {
    pub const STRING: u8 = 0;
    pub const LIST: u8 = 1;
    pub const SET: u8 = 2;
    pub const ZSET: u8 = 3;
    pub const HASH: u8 = 4;
    pub const ZSET_2: u8 = 5;
    pub const MODULE_PRE_GA: u8 = 6;
    pub const MODULE_2: u8 = 7;
    pub const HASH_ZIPMAP: u8 = 9;
    pub const LIST_ZIPLIST: u8 = 10;
    pub const SET_INTSET: u8 = 11;
    pub const ZSET_ZIPLIST: u8 = 12;
    pub const HASH_ZIPLIST: u8 = 13;
    pub const LIST_QUICKLIST: u8 = 14;
    pub const STREAM: u8 = 15;
    pub const HASH_LISTPACK: u8 = 16;
    pub const ZSET_LISTPACK: u8 = 17;
    pub const LIST_QUICKLIST_2: u8 = 18;
    pub const STREAM_2: u8 = 19;
    pub const SET_LISTPACK: u8 = 20;
    pub const STREAM_3: u8 = 21;
    pub const HASH_METADATA_PRE_GA: u8 = 22;
    pub const HASH_LISTPACK_EX_PRE_GA: u8 = 23;
    pub const HASH_METADATA: u8 = 24;
    pub const HASH_LISTPACK_EX: u8 = 25;
}

/// Bytes that are no dump, with what is wrong about them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed(pub Cow<'static, str>);

impl Malformed {
    pub(crate) const fn new(what: &'static str) -> Malformed {
        Malformed(Cow::Borrowed(what))
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Malformed {}

/// Adds version and checksum to a type and a body, which makes it a payload of DUMP.
pub fn seal(payload: &mut Vec<u8>) {
    let version = match payload.first() {
        Some(&kind::HASH_METADATA) => VERSION_FIELD_TTL,
        _ => VERSION,
    };
    payload.extend_from_slice(&version.to_le_bytes());
    let sum = crc64::update(0, payload);
    payload.extend_from_slice(&sum.to_le_bytes());
}

/// The type and the body of a payload of DUMP; `None` if its version or checksum are wrong.
pub fn open(payload: &[u8]) -> Option<(u8, &[u8])> {
    let (content, footer) = payload.split_at_checked(payload.len().checked_sub(FOOTER_BYTES)?)?;
    let (version, sum) = footer.split_first_chunk()?;
    if u16::from_le_bytes(*version) > VERSION_MAX {
        return None;
    }
    let covered = payload.get(..payload.len() - sum.len())?;
    if crc64::update(0, covered).to_le_bytes() != *sum {
        return None;
    }
    content.split_first().map(|(&kind, body)| (kind, body))
}

/// The name of a module's type, from the number that stands for it.
pub(crate) fn module_name(id: u64) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    (0..9).map(|nth| LETTERS[(id >> (58 - 6 * nth)) as usize & 63] as char).collect()
}

#[cfg(test)]
mod tests;
