//! Values of any type and representation, to be read in one way.

use super::hash::HashRef;
use super::list::ListRef;
use super::set::SetRef;
use super::stream::Stream;
use super::zset::ZsetRef;
use super::{NewValue, Type, Value};
use crate::keyspace::{EntryRef, Kind};

/// Longest string that OBJECT ENCODING calls `embstr`.
const EMBSTR_MAX: usize = 44;
/// Bytes of the hash table that an entry accounts for: its slot, at the usual load.
const SLOT_BYTES: usize = 13;

/// A value of an entry.
pub enum View<'a> {
    /// A string.
    Str(&'a [u8]),
    /// A string that is an integer.
    Int(i64),
    /// A list.
    List(ListRef<'a>),
    /// A hash.
    Hash(HashRef<'a>),
    /// A set.
    Set(SetRef<'a>),
    /// A sorted set.
    Zset(ZsetRef<'a>),
    /// A stream.
    Stream(&'a Stream),
}

impl<'a> View<'a> {
    /// The value of `entry` at a time, in Unix milliseconds.
    pub fn new(entry: &EntryRef<'a>, now_ms: i64) -> View<'a> {
        match (entry.int(), entry.big()) {
            (Some(int), _) => View::Int(int),
            (None, Some(value)) => View::of(value, now_ms),
            (None, None) => match entry.shape() {
                Some(shape) => View::Hash(HashRef::Shaped(shape, entry.bytes())),
                None => View::packed(entry.kind(), entry.bytes()),
            },
        }
    }

    /// A value that is in no entry.
    pub fn of_new(value: &'a NewValue<'a>, now_ms: i64) -> View<'a> {
        match value {
            NewValue::Str(bytes) | NewValue::StrRaw(bytes) => View::Str(bytes),
            NewValue::Int(int) => View::Int(*int),
            NewValue::Packed(kind, bytes) => View::packed(*kind, bytes),
            NewValue::Big(value) => View::of(value, now_ms),
        }
    }

    fn packed(kind: Kind, bytes: &'a [u8]) -> View<'a> {
        match kind {
            Kind::PackedList => View::List(ListRef::Packed(bytes)),
            Kind::PackedHash => View::Hash(HashRef::Packed(bytes)),
            Kind::PackedSet => View::Set(SetRef::Packed(bytes)),
            Kind::IntSet => View::Set(SetRef::Ints(bytes)),
            Kind::PackedZset => View::Zset(ZsetRef::Packed(bytes)),
            // A hash with a shape is not told by its bytes alone, and never comes here.
            Kind::Str | Kind::StrRaw | Kind::Int | Kind::Big | Kind::ShapedHash => View::Str(bytes),
        }
    }

    fn of(value: &'a Value, now_ms: i64) -> View<'a> {
        match value {
            Value::Str(bytes) => View::Str(bytes),
            Value::List(list) => View::List(ListRef::Big(list)),
            Value::Hash(hash) => View::Hash(HashRef::Big(hash, now_ms)),
            Value::Set(set) => View::Set(SetRef::Big(set)),
            Value::Zset(zset) => View::Zset(ZsetRef::Big(zset)),
            Value::Stream(stream) => View::Stream(stream),
        }
    }
}

/// The name that OBJECT ENCODING has for a value's representation.
pub fn encoding(entry: &EntryRef<'_>) -> &'static str {
    match (entry.kind(), entry.type_of()) {
        (Kind::Int, _) => "int",
        (Kind::Str, _) if entry.bytes().len() <= EMBSTR_MAX => "embstr",
        (Kind::IntSet, _) => "intset",
        (Kind::PackedList | Kind::PackedHash | Kind::PackedSet | Kind::PackedZset, _)
        | (Kind::ShapedHash, _) => "listpack",
        (_, Type::String) => "raw",
        (_, Type::List) => "quicklist",
        (_, Type::Hash) => match entry.big() {
            Some(Value::Hash(hash)) if hash.is_compact() => "listpackex",
            _ => "hashtable",
        },
        (_, Type::Set) => "hashtable",
        (_, Type::Zset) => "skiplist",
        (_, Type::Stream) => "stream",
    }
}

/// Bytes that a key and its value take, the slot in the hash table included.
pub fn memory(entry: &EntryRef<'_>) -> usize {
    SLOT_BYTES + entry.entry_bytes() + entry.shape_bytes() + entry.big().map_or(0, Value::memory)
}
