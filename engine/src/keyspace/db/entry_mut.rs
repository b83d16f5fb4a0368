//! An entry of a database that is being edited: the table and the index of those that expire follow it
//! when it moves.

use super::{Db, EntryRef, type_of};
use crate::keyspace::entry::{EntryPtr, INLINE_BYTES_MAX, Kind, Parts};
use crate::keyspace::table::SlotRef;
use crate::value::blob::Blob;
use crate::value::hash::shape::Shape;
use crate::value::packed::Encoded;
use crate::value::{NewValue, Type, Value};
use std::marker::PhantomData;

/// A key and its value, to be edited. Inline values are edited through [`Blob`].
pub struct EntryMut<'a> {
    pub(super) db: &'a mut Db,
    pub(super) hash: u64,
    pub(super) slot: SlotRef,
    pub(super) ptr: EntryPtr,
}

impl EntryMut<'_> {
    /// The representation.
    pub fn kind(&self) -> Kind {
        self.ptr.kind()
    }

    /// The data type.
    pub fn type_of(&self) -> Type {
        type_of(self.ptr)
    }

    /// The key.
    pub fn key(&self) -> &[u8] {
        self.ptr.key()
    }

    /// The same entry, to be read.
    pub fn as_ref(&self) -> EntryRef<'_> {
        EntryRef { ptr: self.ptr, life: PhantomData }
    }

    /// The integer of kind `Int`.
    pub fn int(&self) -> Option<i64> {
        self.as_ref().int()
    }

    /// Overwrites the integer of kind `Int`.
    pub fn set_int(&mut self, int: i64) {
        assert!(self.kind() == Kind::Int, "only kind Int has an integer");
        self.ptr.set_payload(int as u64);
    }

    /// The inline bytes, to be overwritten without a change of length.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.ptr.inline_mut()
    }

    /// The boxed value of kind `Big`.
    pub fn big(&self) -> Option<&Value> {
        self.ptr.big()
    }

    /// The boxed value of kind `Big`, to be edited.
    pub fn big_mut(&mut self) -> Option<&mut Value> {
        self.ptr.big_mut()
    }

    /// When the key expires, Unix milliseconds.
    pub fn expiry(&self) -> Option<i64> {
        self.ptr.expiry()
    }

    /// Overwrites the access data.
    pub fn set_access(&mut self, access: u32) {
        self.ptr.set_access(access);
    }

    /// The names of the fields of kind `ShapedHash`.
    #[inline]
    pub fn shape(&self) -> Option<&Shape> {
        self.ptr.shape()
    }

    /// Adds a field to a hash of kind `ShapedHash`, if the new list of names has a shape; otherwise
    /// nothing has changed.
    pub fn push_shaped(&mut self, field: &Encoded<'_>, value: &Encoded<'_>) -> bool {
        let Some(shape) = self.ptr.shape() else { return false };
        let db = &mut *self.db;
        let Some(shape) = db.shapes.with(&db.hasher, shape, field) else { return false };
        let end = self.ptr.inline_len();
        self.splice(end, 0, &[value.head(), value.body()]);
        self.ptr.set_shape(shape);
        true
    }

    /// Gives a hash in pairs its shape, if it has one.
    pub fn reshape(&mut self) {
        let old = self.ptr;
        if let Some(fresh) = self.db.shaped(old) {
            self.moved(fresh);
            // A hash in pairs has no boxed value.
            drop(old.free());
        }
    }

    /// Fields of this hash get an expiry: active expiry has to know.
    pub fn track_field_expiry(&mut self) {
        self.db.timed.insert(self.ptr.key());
    }

    /// Changes the value or its representation; key, expiry and access data stay. A boxed value
    /// that is replaced is dropped here: it was emptied into the new one.
    pub fn replace(&mut self, value: NewValue<'_>) {
        let old = self.ptr;
        let fresh = value.settle().entry(old.key(), old.expiry(), self.db.colour);
        fresh.set_access(old.access());
        self.moved(fresh);
        drop(old.free());
    }

    /// Sets or clears the expiry.
    pub fn set_expiry(&mut self, expiry: Option<i64>) {
        let old = self.ptr;
        match (old.expiry(), expiry) {
            (None, None) => return,
            (Some(_), Some(expiry)) => return old.overwrite_expiry(expiry),
            (Some(_), None) => self.forget_expiry(),
            (None, Some(_)) => {}
        }
        let payload = if old.kind().has_payload() { old.payload() } else { 0 };
        let fresh = EntryPtr::new(&Parts {
            kind: old.kind(),
            key: old.key(),
            expiry,
            payload,
            inline: old.inline(),
            colour: self.db.colour,
        });
        fresh.set_access(old.access());
        self.db.table.replace_at(self.slot, fresh);
        self.ptr = fresh;
        if expiry.is_some() {
            let hasher = &self.db.hasher;
            self.db.expires.insert(self.hash, fresh, |entry| hasher.hash(entry.key()));
        }
        old.free_shell();
    }

    /// The entry is at another place now; the old place is not freed yet.
    pub(super) fn moved(&mut self, fresh: EntryPtr) {
        let old = self.ptr;
        if old.expiry().is_some() && fresh.expiry().is_some() && old != fresh {
            self.moved_in_expires(old, fresh);
        }
        self.db.table.replace_at(self.slot, fresh);
        self.ptr = fresh;
    }

    fn moved_in_expires(&mut self, old: EntryPtr, fresh: EntryPtr) {
        let slot = self.db.expires.find_slot(self.hash, |entry| entry == old);
        let slot = slot.expect("an entry with an expiry is in the index");
        self.db.expires.replace_at(slot, fresh);
    }

    /// Takes the entry out of the index of those that expire.
    pub(super) fn forget_expiry(&mut self) {
        let ptr = self.ptr;
        let slot = self.db.expires.find_slot(self.hash, |entry| entry == ptr);
        let slot = slot.expect("an entry with an expiry is in the index");
        let hasher = &self.db.hasher;
        self.db.expires.remove_at(self.hash, slot, |entry| hasher.hash(entry.key()));
    }
}

impl Blob for EntryMut<'_> {
    fn bytes(&self) -> &[u8] {
        self.ptr.inline()
    }

    fn splice(&mut self, at: usize, remove: usize, insert: &[&[u8]]) {
        let added: usize = insert.iter().map(|part| part.len()).sum();
        let old_len = self.ptr.inline_len();
        let tail = at + remove;
        assert!(tail <= old_len, "a splice stays inside the value");
        let new_len = old_len + added - remove;
        assert!(new_len <= INLINE_BYTES_MAX, "callers convert a value before it grows too large");
        if added > remove {
            self.resize(new_len);
        }
        let bytes = self.ptr.inline_mut();
        bytes.copy_within(tail..old_len, at + added);
        let mut to = at;
        for part in insert {
            bytes[to..to + part.len()].copy_from_slice(part);
            to += part.len();
        }
        if added < remove {
            self.resize(new_len);
        }
    }
}

impl EntryMut<'_> {
    fn resize(&mut self, len: usize) {
        let old = self.ptr;
        // The old place may be gone after the resize: the index only compares its address.
        let fresh = old.resize_inline(len);
        if fresh != old {
            if fresh.expiry().is_some() {
                self.moved_in_expires(old, fresh);
            }
            self.db.table.replace_at(self.slot, fresh);
            self.ptr = fresh;
        }
    }
}
