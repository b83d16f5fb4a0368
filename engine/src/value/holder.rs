//! What holds a value that may change its form: an entry of the keyspace, or a draft of one.
//!
//! Code that edits a collection works on a [`Holder`], so that the same lines fill a new value
//! before it enters the keyspace and change one that is there.

use super::blob::Blob;
use super::hash::shape::Shape;
use super::packed::Encoded;
use super::{NewValue, Value};
use crate::keyspace::{EntryMut, Kind};

/// Holds a value, packed in bytes or as a structure of its own.
pub trait Holder: Blob {
    /// The representation.
    fn kind(&self) -> Kind;
    /// The structure of kind `Big`.
    fn big(&self) -> Option<&Value>;
    /// The structure of kind `Big`, to be edited.
    fn big_mut(&mut self) -> Option<&mut Value>;
    /// Changes the representation.
    fn replace(&mut self, value: NewValue<'_>);
    /// Fields of the value are about to get an expiry: active expiry has to know.
    fn fields_expire(&mut self) {}
    /// The names of a hash's fields, if it shares them with others: its bytes are only the values.
    fn shape(&self) -> Option<&Shape> {
        None
    }
    /// Adds a field to a hash with a shape, or says `false` where the result has none.
    fn push_shaped(&mut self, _field: &Encoded<'_>, _value: &Encoded<'_>) -> bool {
        false
    }
    /// Lets a hash in pairs share its names, if others have the same.
    fn reshape(&mut self) {}
}

impl Holder for EntryMut<'_> {
    #[inline]
    fn kind(&self) -> Kind {
        self.kind()
    }

    #[inline]
    fn big(&self) -> Option<&Value> {
        self.big()
    }

    #[inline]
    fn big_mut(&mut self) -> Option<&mut Value> {
        self.big_mut()
    }

    fn replace(&mut self, value: NewValue<'_>) {
        self.replace(value);
    }

    fn fields_expire(&mut self) {
        self.track_field_expiry();
    }

    #[inline]
    fn shape(&self) -> Option<&Shape> {
        self.shape()
    }

    fn push_shaped(&mut self, field: &Encoded<'_>, value: &Encoded<'_>) -> bool {
        self.push_shaped(field, value)
    }

    fn reshape(&mut self) {
        self.reshape();
    }
}

/// Room that a draft begins with: most small collections fit.
const DRAFT_BYTES: usize = 128;

/// A collection that is not in the keyspace yet.
pub struct Draft {
    kind: Kind,
    bytes: Vec<u8>,
    big: Option<Box<Value>>,
}

impl Draft {
    /// An empty collection of a packed kind.
    pub fn packed(kind: Kind) -> Self {
        Draft { kind, bytes: Vec::with_capacity(DRAFT_BYTES), big: None }
    }

    /// A collection with a structure of its own.
    pub fn big(value: Value) -> Self {
        Draft { kind: Kind::Big, bytes: Vec::new(), big: Some(Box::new(value)) }
    }

    /// The value, to be inserted; the draft is spent then.
    pub fn value(&mut self) -> NewValue<'_> {
        match self.big.take() {
            Some(value) => NewValue::Big(value),
            None => NewValue::Packed(self.kind, &self.bytes),
        }
    }
}

impl Blob for Draft {
    fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn splice(&mut self, at: usize, remove: usize, insert: &[&[u8]]) {
        Blob::splice(&mut self.bytes, at, remove, insert);
    }
}

impl Holder for Draft {
    fn kind(&self) -> Kind {
        self.kind
    }

    fn big(&self) -> Option<&Value> {
        self.big.as_deref()
    }

    fn big_mut(&mut self) -> Option<&mut Value> {
        self.big.as_deref_mut()
    }

    fn replace(&mut self, value: NewValue<'_>) {
        match value {
            NewValue::Big(value) => {
                *self = Draft { kind: Kind::Big, bytes: Vec::new(), big: Some(value) }
            }
            NewValue::Packed(kind, bytes) => {
                *self = Draft { kind, bytes: bytes.to_vec(), big: None };
            }
            NewValue::Str(_) | NewValue::StrRaw(_) | NewValue::Int(_) => {
                debug_assert!(false, "a draft is of a collection");
            }
        }
    }
}
