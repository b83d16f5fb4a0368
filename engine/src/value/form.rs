//! The byte form of a value, whatever its representation: it survives the process that made it and
//! brings back the same representation, so that two engines with equal histories stay equal through
//! it.
//!
//! ```text
//! kind u8 | body      Str, StrRaw: the bytes   Int: i64, little-endian   packed: their bytes
//!                     Big: type u8, then what the type's own `encode` writes
//! ```

use super::{NewValue, Type, Value, hash, list, set, stream, zset};
use crate::keyspace::{EntryRef, INLINE_BYTES_MAX, Kind};

/// The first byte of the form of a value with a structure of its own.
pub(super) const BIG: u8 = Kind::Big as u8;
// A type that gets a structure of its own gets a number here.
pub(super) const BIG_STR: u8 = 0;
pub(super) const BIG_LIST: u8 = 1;
const BIG_STREAM: u8 = 2;
pub(super) const BIG_HASH: u8 = 3;
pub(super) const BIG_SET: u8 = 4;
pub(super) const BIG_ZSET: u8 = 5;

/// Appends the form of an entry's value to `out`.
pub fn encode(entry: &EntryRef<'_>, out: &mut Vec<u8>) {
    if let Some(names) = entry.shape() {
        out.push(Kind::PackedHash as u8);
        return hash::shape::pairs(names, entry.bytes(), out);
    }
    out.push(entry.kind() as u8);
    match (entry.int(), entry.big()) {
        (Some(int), _) => out.extend_from_slice(&int.to_le_bytes()),
        (None, Some(value)) => encode_big(value, out),
        (None, None) => out.extend_from_slice(entry.bytes()),
    }
}

/// Appends the type and the bytes of a value with a structure of its own.
fn encode_big(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Str(bytes) => {
            out.push(BIG_STR);
            out.extend_from_slice(bytes);
        }
        Value::List(list) => {
            out.push(BIG_LIST);
            list.encode(out);
        }
        Value::Hash(hash) => {
            out.push(BIG_HASH);
            hash.encode(out);
        }
        Value::Set(set) => {
            out.push(BIG_SET);
            set.encode(out);
        }
        Value::Zset(zset) => {
            out.push(BIG_ZSET);
            zset.encode(out);
        }
        Value::Stream(stream) => {
            out.push(BIG_STREAM);
            stream.encode(out);
        }
    }
}

/// The type of a value in its byte form, from its first two bytes.
pub fn type_of(bytes: &[u8]) -> Option<Type> {
    Some(match Kind::from_number(*bytes.first()?)? {
        Kind::Str | Kind::StrRaw | Kind::Int => Type::String,
        Kind::PackedList => Type::List,
        Kind::PackedHash => Type::Hash,
        Kind::PackedSet | Kind::IntSet => Type::Set,
        Kind::PackedZset => Type::Zset,
        Kind::Big => match *bytes.get(1)? {
            BIG_STR => Type::String,
            BIG_LIST => Type::List,
            BIG_HASH => Type::Hash,
            BIG_SET => Type::Set,
            BIG_ZSET => Type::Zset,
            BIG_STREAM => Type::Stream,
            _ => return None,
        },
        Kind::ShapedHash => return None,
    })
}

/// Reads what [`encode`] wrote; `None` for anything else.
pub fn decode(bytes: &[u8]) -> Option<NewValue<'_>> {
    let (&kind, body) = bytes.split_first()?;
    let kind = Kind::from_number(kind)?;
    let valid = match kind {
        // Not `NewValue::Str`, which would choose a representation anew.
        Kind::Str | Kind::StrRaw => true,
        Kind::Int => return Some(NewValue::Int(i64::from_le_bytes(body.try_into().ok()?))),
        Kind::Big => return Some(NewValue::Big(Box::new(decode_big(body)?))),
        Kind::PackedList => list::packed::validate(body),
        Kind::PackedHash => hash::packed::validate(body),
        Kind::PackedSet => set::packed::validate(body),
        Kind::IntSet => set::intset::validate(body),
        Kind::PackedZset => zset::packed::validate(body),
        // The names are not in the bytes: never written.
        Kind::ShapedHash => false,
    };
    (valid && body.len() <= INLINE_BYTES_MAX).then_some(NewValue::Packed(kind, body))
}

fn decode_big(bytes: &[u8]) -> Option<Value> {
    let (&kind, body) = bytes.split_first()?;
    Some(match kind {
        BIG_STR => Value::Str(body.to_vec()),
        BIG_LIST => Value::List(list::List::decode(body)?),
        BIG_HASH => Value::Hash(hash::Hash::decode(body)?),
        BIG_SET => Value::Set(set::Set::decode(body)?),
        BIG_ZSET => Value::Zset(Box::new(zset::Zset::decode(body)?)),
        BIG_STREAM => Value::Stream(Box::new(stream::Stream::decode(body)?)),
        _ => return None,
    })
}
