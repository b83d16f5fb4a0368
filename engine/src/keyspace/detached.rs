//! A value outside of any entry, exactly as it was represented there: on its way to another key.

use super::{EntryMut, EntryRef, Kind};
use crate::value::{NewValue, Value};

/// A value that was copied or taken out of an entry.
#[derive(Clone, Debug)]
pub enum Detached {
    /// Kind `Str`.
    Str(Vec<u8>),
    /// Kind `StrRaw`.
    StrRaw(Vec<u8>),
    /// Kind `Int`.
    Int(i64),
    /// One of the packed kinds.
    Packed(Kind, Vec<u8>),
    /// Kind `Big`.
    Big(Box<Value>),
}

impl Detached {
    /// A copy of an entry's value.
    pub fn copy(entry: &EntryRef<'_>) -> Detached {
        match (entry.big(), entry.int(), entry.kind()) {
            (Some(value), ..) => Detached::Big(Box::new(value.clone())),
            (None, Some(int), _) => Detached::Int(int),
            (None, None, kind) => Detached::inline(kind, entry.bytes()),
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

    fn inline(kind: Kind, bytes: &[u8]) -> Detached {
        match kind {
            Kind::Str => Detached::Str(bytes.to_vec()),
            Kind::StrRaw => Detached::StrRaw(bytes.to_vec()),
            kind => Detached::Packed(kind, bytes.to_vec()),
        }
    }

    /// The value as it goes into an entry; `room` holds its bytes on the way.
    pub fn into_new(self, room: &mut Vec<u8>) -> NewValue<'_> {
        match self {
            Detached::Int(int) => NewValue::Int(int),
            Detached::Big(value) => NewValue::Big(value),
            Detached::Str(bytes) => {
                *room = bytes;
                NewValue::Str(room)
            }
            Detached::StrRaw(bytes) => {
                *room = bytes;
                NewValue::StrRaw(room)
            }
            Detached::Packed(kind, bytes) => {
                *room = bytes;
                NewValue::Packed(kind, room)
            }
        }
    }
}
