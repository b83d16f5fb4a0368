//! Values to their bodies, in the plain encodings.

use super::{encode_stream, kind, lzf};
use crate::keyspace::EntryRef;
use crate::value::NewValue;
use crate::value::hash::{Hash, HashRef};
use crate::value::packed::{IntBuf, canonical_int};
use crate::value::view::View;

/// Strings up to this length are not worth compressing.
const COMPRESS_ABOVE: usize = 20;
/// The longest text of an integer of 32 bits.
const INT_TEXT_MAX: usize = 11;

/// Appends the number of a string's bytes or a collection's elements, or any other integer.
pub(super) fn push_number(out: &mut Vec<u8>, number: u64) {
    match number {
        0..0x40 => out.push(number as u8),
        0x40..0x4000 => out.extend_from_slice(&(0x4000 | number as u16).to_be_bytes()),
        _ => match u32::try_from(number) {
            Ok(short) => {
                out.push(0x80);
                out.extend_from_slice(&short.to_be_bytes());
            }
            Err(_) => {
                out.push(0x81);
                out.extend_from_slice(&number.to_be_bytes());
            }
        },
    }
}

/// Appends a string as it is.
pub(super) fn push_plain(out: &mut Vec<u8>, string: &[u8]) {
    push_number(out, string.len() as u64);
    out.extend_from_slice(string);
}

/// Appends a string: as an integer where it is one, compressed where that makes it shorter.
pub(super) fn push_string(out: &mut Vec<u8>, string: &[u8]) {
    if string.len() <= INT_TEXT_MAX
        && let Some(int) = canonical_int(string).and_then(|int| i32::try_from(int).ok())
    {
        return push_int(out, int);
    }
    if string.len() > COMPRESS_ABOVE {
        let mut compressed = Vec::new();
        if lzf::compress(string, &mut compressed) {
            out.push(0xC3);
            push_number(out, compressed.len() as u64);
            push_number(out, string.len() as u64);
            out.extend_from_slice(&compressed);
            return;
        }
    }
    push_plain(out, string);
}

fn push_int(out: &mut Vec<u8>, int: i32) {
    let bytes = int.to_le_bytes();
    match int {
        -0x80..=0x7F => out.extend_from_slice(&[0xC0, bytes[0]]),
        -0x8000..=0x7FFF => out.extend_from_slice(&[0xC1, bytes[0], bytes[1]]),
        _ => {
            out.push(0xC2);
            out.extend_from_slice(&bytes);
        }
    }
}

/// Appends the type of a live entry's value and its body. Fields that have expired by `now_ms` are
/// left out. Returns whether there is anything: a hash of which all fields have expired is gone, though its
/// key may not have been removed yet, and nobody could read one without fields.
#[must_use]
pub fn encode(entry: &EntryRef<'_>, now_ms: i64, out: &mut Vec<u8>) -> bool {
    encode_view(&View::new(entry, now_ms), out)
}

/// Appends the type of a value that is in no entry and its body; see [`encode`].
#[must_use]
pub fn encode_value(value: &NewValue<'_>, now_ms: i64, out: &mut Vec<u8>) -> bool {
    encode_view(&View::of_new(value, now_ms), out)
}

fn encode_view(view: &View<'_>, out: &mut Vec<u8>) -> bool {
    let mut buf = IntBuf::new();
    match *view {
        View::Str(bytes) => {
            out.push(kind::STRING);
            push_string(out, bytes);
        }
        View::Int(int) => {
            out.push(kind::STRING);
            push_string(out, buf.format(int).as_bytes());
        }
        View::List(list) => {
            out.push(kind::LIST);
            push_number(out, list.len() as u64);
            list.iter().for_each(|elem| push_string(out, elem.as_bytes(&mut buf)));
        }
        View::Set(set) => {
            out.push(kind::SET);
            push_number(out, set.len() as u64);
            set.iter().for_each(|member| push_string(out, member.as_bytes(&mut buf)));
        }
        View::Zset(zset) => {
            out.push(kind::ZSET_2);
            push_number(out, zset.len() as u64);
            // From the highest down, as Redis writes it: its skip list adds fastest in front.
            zset.for_range(0..zset.len(), true, |member, score| {
                push_string(out, member);
                out.extend_from_slice(&score.to_le_bytes());
            });
        }
        View::Hash(hash) if hash.is_empty() => return false,
        View::Hash(hash @ HashRef::Big(big, _)) if big.next_deadline().is_some() => {
            push_expiring(big, hash, out);
        }
        View::Hash(hash) => push_hash(hash, out),
        View::Stream(stream) => encode_stream::push(stream, out),
    }
    true
}

fn push_hash(hash: HashRef<'_>, out: &mut Vec<u8>) {
    let (mut field_buf, mut value_buf) = (IntBuf::new(), IntBuf::new());
    out.push(kind::HASH);
    push_number(out, hash.len() as u64);
    for (field, value) in hash.iter() {
        push_string(out, field.as_bytes(&mut field_buf));
        push_string(out, value.as_bytes(&mut value_buf));
    }
}

/// A hash with fields that expire: their times, relative to the earliest plus one, go first.
fn push_expiring(big: &Hash, hash: HashRef<'_>, out: &mut Vec<u8>) {
    let (mut field_buf, mut value_buf) = (IntBuf::new(), IntBuf::new());
    let mut deadlines = Vec::with_capacity(hash.len());
    for (field, _) in hash.iter() {
        deadlines.push(big.deadline(field.as_bytes(&mut field_buf)));
    }
    let Some(first_ms) = deadlines.iter().flatten().min().copied() else {
        return push_hash(hash, out);
    };
    out.push(kind::HASH_METADATA);
    out.extend_from_slice(&first_ms.to_le_bytes());
    push_number(out, hash.len() as u64);
    for ((field, value), deadline) in hash.iter().zip(deadlines) {
        push_number(out, deadline.map_or(0, |at_ms| at_ms.abs_diff(first_ms) + 1));
        push_string(out, field.as_bytes(&mut field_buf));
        push_string(out, value.as_bytes(&mut value_buf));
    }
}
