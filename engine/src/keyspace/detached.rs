//! A value outside of any entry, exactly as it was represented there: on its way to another key.

use super::{EntryMut, EntryRef, Kind};
use crate::value::hash::shape;
use crate::value::{NewValue, Value};

/// A value that was copied or taken out of an entry.
#[derive(Clone, Debug)]
pub enum Detached {
    /// Kind `Int`.
    Int(i64),
    /// A kind that is stored inline; a hash with a shape is one in pairs here.
    Inline(Kind, Vec<u8>),
    /// Kind `Big`.
    Big(Box<Value>),
}

impl Detached {
    /// A copy of an entry's value.
    pub fn copy(entry: &EntryRef<'_>) -> Detached {
        if let Some(names) = entry.shape() {
            let mut pairs = Vec::new();
            shape::pairs(names, entry.bytes(), &mut pairs);
            return Detached::Inline(Kind::PackedHash, pairs);
        }
        match (entry.big(), entry.int(), entry.kind()) {
            (Some(value), ..) => Detached::Big(Box::new(value.clone())),
            (None, Some(int), _) => Detached::Int(int),
            (None, None, kind) => Detached::Inline(kind, entry.bytes().to_vec()),
        }
    }

    /// Takes the value out of an entry that is to be removed: what it leaves there has no meaning.
    pub fn take(entry: &mut EntryMut<'_>) -> Detached {
        match entry.big_mut() {
            Some(value) => {
                Detached::Big(Box::new(std::mem::replace(value, Value::Str(Vec::new()))))
            }
            None => Detached::copy(&entry.as_ref()),
        }
    }

    /// The value as it goes into an entry; `room` holds its bytes on the way.
    pub fn into_new(self, room: &mut Vec<u8>) -> NewValue<'_> {
        match self {
            Detached::Int(int) => NewValue::Int(int),
            Detached::Big(value) => NewValue::Big(value),
            Detached::Inline(kind, bytes) => {
                *room = bytes;
                NewValue::Packed(kind, room)
            }
        }
    }
}
