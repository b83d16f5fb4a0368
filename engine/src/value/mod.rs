//! The data types: packed forms for small values, structures of their own for large ones.

use crate::keyspace::Kind;

pub mod bits;
pub mod blob;
pub mod build;
pub mod dense;
pub mod form;
pub mod geohash;
pub mod hash;
pub mod hll;
pub mod holder;
mod index;
pub mod list;
pub mod packed;
pub mod part;
pub mod set;
pub mod small;
pub mod steps;
pub mod stream;
pub mod string;
pub mod varint;
pub mod view;
pub mod zset;

/// The data types, as TYPE names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Type {
    String,
    List,
    Hash,
    Set,
    Zset,
    Stream,
}

impl Type {
    /// The name that TYPE gives.
    pub const fn name(self) -> &'static str {
        match self {
            Type::String => "string",
            Type::List => "list",
            Type::Hash => "hash",
            Type::Set => "set",
            Type::Zset => "zset",
            Type::Stream => "stream",
        }
    }
}

/// A value with a structure of its own, for what does not fit into its key's entry.
#[derive(Clone, Debug)]
pub enum Value {
    /// A long string, or one that is edited in place.
    Str(Vec<u8>),
    /// A list.
    List(list::List),
    /// A hash.
    Hash(hash::Hash),
    /// A set.
    Set(set::Set),
    /// A sorted set.
    Zset(Box<zset::Zset>),
    /// A stream.
    Stream(Box<stream::Stream>),
}

/// Elements above which a value is dropped away from the hot path.
const HEAVY_ELEMENTS: usize = 64;
/// Bytes of a string above which it is dropped away from the hot path.
const HEAVY_BYTES: usize = 1 << 20;

impl Value {
    /// The data type.
    pub fn type_of(&self) -> Type {
        match self {
            Value::Str(_) => Type::String,
            Value::List(_) => Type::List,
            Value::Hash(_) => Type::Hash,
            Value::Set(_) => Type::Set,
            Value::Zset(_) => Type::Zset,
            Value::Stream(_) => Type::Stream,
        }
    }

    /// When the first of its fields expires, for a hash with such fields.
    pub fn next_deadline(&self) -> Option<i64> {
        match self {
            Value::Hash(hash) => hash.next_deadline(),
            _ => None,
        }
    }

    /// Bytes of memory the value takes outside its key's entry.
    pub fn memory(&self) -> usize {
        let inside = match self {
            Value::Str(bytes) => bytes.capacity(),
            Value::List(list) => list.memory() - size_of::<list::List>(),
            Value::Hash(hash) => hash.memory() - size_of::<hash::Hash>(),
            Value::Set(set) => set.memory() - size_of::<set::Set>(),
            Value::Zset(zset) => zset.memory(),
            Value::Stream(stream) => stream.memory(),
        };
        size_of::<Value>() + inside
    }

    /// Asks for the index place of a member to be brought near; returns the member's hash.
    #[inline]
    pub(crate) fn prefetch_index(&self, member: &[u8]) -> u32 {
        match self {
            Value::Hash(hash) => hash.table().prefetch_index(member),
            Value::Set(set) => set.table().prefetch_index(member),
            Value::Zset(zset) => zset.table().prefetch_index(member),
            _ => 0,
        }
    }

    /// Asks for the member with this hash to be brought near.
    #[inline]
    pub(crate) fn prefetch_element(&self, hash: u32) {
        match self {
            Value::Hash(table) => table.table().prefetch_element(hash),
            Value::Set(table) => table.table().prefetch_element(hash),
            Value::Zset(table) => table.table().prefetch_element(hash),
            _ => {}
        }
    }

    /// Whether dropping the value takes long.
    pub fn is_heavy(&self) -> bool {
        match self {
            Value::Str(bytes) => bytes.len() > HEAVY_BYTES,
            Value::List(list) => list.len() > HEAVY_ELEMENTS,
            Value::Hash(hash) => hash.len() > HEAVY_ELEMENTS,
            Value::Set(set) => set.len() > HEAVY_ELEMENTS,
            Value::Zset(zset) => zset.len() > HEAVY_ELEMENTS,
            Value::Stream(_) => true,
        }
    }
}

/// A value on its way into an entry.
pub enum NewValue<'a> {
    /// A string; its representation is chosen by what it holds.
    Str(&'a [u8]),
    /// A string that was edited in place.
    StrRaw(&'a [u8]),
    /// An integer.
    Int(i64),
    /// A value as it is stored inline, usually a packed collection: the kind and its bytes, at most
    /// [`crate::keyspace::INLINE_BYTES_MAX`].
    Packed(Kind, &'a [u8]),
    /// A value with a structure of its own.
    Big(Box<Value>),
}
