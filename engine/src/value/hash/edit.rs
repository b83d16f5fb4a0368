//! Changes to a hash of either form, which turns into the large form where it has to.

use super::packed::{self, Found};
use super::{Hash, HashRef, shape};
use crate::config::EngineConfig;
use crate::error::Error;
use crate::keyspace::{EntryRef, INLINE_BYTES_MAX, Kind};
use crate::value::holder::Holder;
use crate::value::packed::{Elem, Encoded};
use crate::value::{NewValue, Value};

/// How large a small hash can get.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Fields (`hash-max-listpack-entries`).
    pub entries: usize,
    /// Bytes of a field or value (`hash-max-listpack-value`).
    pub value: usize,
}

impl Limits {
    /// The limits of a configuration.
    pub fn of(config: &EngineConfig) -> Self {
        Limits { entries: config.hash_max_listpack_entries, value: config.hash_max_listpack_value }
    }
}

impl<'a> HashRef<'a> {
    /// The hash of an entry.
    ///
    /// # Errors
    /// If it holds another type.
    #[inline]
    pub fn of(entry: EntryRef<'a>, now_ms: i64) -> Result<Self, Error> {
        match (entry.kind(), entry.big()) {
            (Kind::PackedHash, _) => Ok(HashRef::Packed(entry.bytes())),
            (Kind::Big, Some(Value::Hash(hash))) => Ok(HashRef::Big(hash, now_ms)),
            _ => match entry.shape() {
                Some(shape) => Ok(HashRef::Shaped(shape, entry.bytes())),
                None => Err(Error::WrongType),
            },
        }
    }
}

/// A hash, to be edited.
pub struct HashMut<'a> {
    holder: &'a mut dyn Holder,
    limits: Limits,
}

impl<'a> HashMut<'a> {
    /// The hash that `holder` has.
    ///
    /// # Errors
    /// If it has another type.
    #[inline]
    pub fn of(holder: &'a mut dyn Holder, limits: Limits) -> Result<Self, Error> {
        match (holder.kind(), holder.big()) {
            (Kind::PackedHash | Kind::ShapedHash, _) | (Kind::Big, Some(Value::Hash(_))) => {
                Ok(HashMut { holder, limits })
            }
            _ => Err(Error::WrongType),
        }
    }

    /// The large form, if it has it.
    #[inline]
    pub fn big(&self) -> Option<&Hash> {
        match self.holder.big() {
            Some(Value::Hash(hash)) => Some(hash),
            _ => None,
        }
    }

    /// The large form, to be edited, if it has it.
    #[inline]
    pub fn big_mut(&mut self) -> Option<&mut Hash> {
        match self.holder.big_mut() {
            Some(Value::Hash(hash)) => Some(hash),
            _ => None,
        }
    }

    /// The large form, into which it is brought for the expiry of its fields.
    pub fn expiring(&mut self) -> &mut Hash {
        if self.big().is_none() {
            self.grow(true);
        }
        if self.big().is_some_and(|hash| hash.next_deadline().is_none()) {
            self.holder.fields_expire();
        }
        self.big_mut().expect("the hash was just given the large form")
    }

    fn grow(&mut self, is_compact: bool) {
        self.unshape();
        let mut hash = Hash::from_packed(self.holder.bytes());
        hash.set_compact(is_compact);
        self.holder.replace(NewValue::Big(Box::new(Value::Hash(hash))));
    }

    /// Gives a hash its own names again.
    fn unshape(&mut self) {
        if let Some(names) = self.holder.shape() {
            let mut pairs = Vec::new();
            shape::pairs(names, self.holder.bytes(), &mut pairs);
            self.holder.replace(NewValue::Packed(Kind::PackedHash, &pairs));
        }
    }

    /// Whether there are no fields.
    pub fn is_empty(&self) -> bool {
        match self.big() {
            Some(hash) => hash.is_empty(),
            None => self.holder.bytes().is_empty(),
        }
    }

    /// The value of a field; expired ones must be purged before.
    #[inline]
    pub fn get(&self, field: &[u8]) -> Option<Elem<'_>> {
        match self.big() {
            Some(hash) => hash.get(field, i64::MIN).map(Elem::Bytes),
            None => match self.holder.shape() {
                Some(names) => shape::get(names, self.holder.bytes(), field),
                None => packed::get(self.holder.bytes(), field),
            },
        }
    }

    /// Sets a field, which then does not expire. Returns whether it is new.
    #[inline]
    pub fn set(&mut self, field: &[u8], value: &[u8]) -> bool {
        if let Some(hash) = self.big_mut() {
            hash.persist(field);
        }
        self.set_keeping_deadline(field, value)
    }

    /// Sets a field and leaves its expiry as it is. Returns whether it is new.
    #[inline]
    pub fn set_keeping_deadline(&mut self, field: &[u8], value: &[u8]) -> bool {
        let limits = self.limits;
        let fits = field.len() <= limits.value && value.len() <= limits.value;
        if let Some(hash) = self.big_mut() {
            let is_new = hash.set_keeping_deadline(field, value);
            if hash.is_compact() && (!fits || hash.len() > limits.entries) {
                hash.set_compact(false);
            }
            return is_new;
        }
        if let Some(is_new) = fits.then(|| self.set_packed(field, value)).flatten() {
            return is_new;
        }
        self.grow(false);
        self.big_mut().is_some_and(|hash| hash.set_keeping_deadline(field, value))
    }

    /// Sets a field of a small hash; `None` if the hash would get too large.
    fn set_packed(&mut self, field: &[u8], value: &[u8]) -> Option<bool> {
        let (field, value) = (Encoded::new(field), Encoded::new(value));
        if self.holder.shape().is_some() {
            return self.set_shaped(&field, &value);
        }
        let bytes = self.holder.bytes();
        match packed::find(bytes, &field) {
            Found::At { value: at, end, .. } => {
                let size = bytes.len() - (end - at) + value.size();
                (size <= INLINE_BYTES_MAX).then(|| {
                    packed::replace(self.holder, at, end, &value);
                    false
                })
            }
            Found::Missing { len } => {
                let size = bytes.len() + field.size() + value.size();
                (len < self.limits.entries && size <= INLINE_BYTES_MAX).then(|| {
                    packed::push(self.holder, &field, &value);
                    // Not with every field: that would be a walk over all of them each time.
                    if (len + 1).is_power_of_two() {
                        self.holder.reshape();
                    }
                    true
                })
            }
        }
    }

    /// As `set_packed`, where the names of the fields are shared.
    fn set_shaped(&mut self, field: &Encoded<'_>, value: &Encoded<'_>) -> Option<bool> {
        let (names, values) = (self.holder.shape()?, self.holder.bytes());
        let size = names.names().len() + values.len();
        match names.find(field) {
            Some(position) => {
                let (at, end) = shape::value_at(values, position)?;
                (size - (end - at) + value.size() <= INLINE_BYTES_MAX).then(|| {
                    packed::replace(self.holder, at, end, value);
                    false
                })
            }
            None => {
                let size = size + field.size() + value.size();
                (names.len() < self.limits.entries && size <= INLINE_BYTES_MAX).then(|| {
                    if !self.holder.push_shaped(field, value) {
                        self.unshape();
                        packed::push(self.holder, field, value);
                    }
                    true
                })
            }
        }
    }

    /// Removes a field. Returns whether it was there.
    pub fn remove(&mut self, field: &[u8]) -> bool {
        if let Some(hash) = self.big_mut() {
            return hash.remove(field);
        }
        if self.get(field).is_none() {
            return false;
        }
        self.unshape();
        let removed = packed::remove(self.holder, field);
        self.holder.reshape();
        removed
    }
}
