//! Changes to a set of any form, which turns into a larger form where it has to.

use super::{Set, SetRef, intset, packed};
use crate::config::EngineConfig;
use crate::error::Error;
use crate::keyspace::{EntryRef, INLINE_BYTES_MAX, Kind};
use crate::value::blob::Blob;
use crate::value::holder::{Draft, Holder};
use crate::value::packed::{Encoded, IntBuf, canonical_int};
use crate::value::small::SmallBytes;
use crate::value::{NewValue, Value};

/// How large a small set can get.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Members that are all integers (`set-max-intset-entries`).
    pub integers: usize,
    /// Members (`set-max-listpack-entries`).
    pub entries: usize,
    /// Bytes of a member (`set-max-listpack-value`).
    pub value: usize,
}

impl Limits {
    /// The limits of a configuration.
    pub fn of(config: &EngineConfig) -> Self {
        Limits {
            integers: config.set_max_intset_entries,
            entries: config.set_max_listpack_entries,
            value: config.set_max_listpack_value,
        }
    }
}

impl<'a> SetRef<'a> {
    /// The set of an entry.
    ///
    /// # Errors
    /// If it holds another type.
    #[inline]
    pub fn of(entry: EntryRef<'a>) -> Result<Self, Error> {
        match (entry.kind(), entry.big()) {
            (Kind::IntSet, _) => Ok(SetRef::Ints(entry.bytes())),
            (Kind::PackedSet, _) => Ok(SetRef::Packed(entry.bytes())),
            (Kind::Big, Some(Value::Set(set))) => Ok(SetRef::Big(set)),
            _ => Err(Error::WrongType),
        }
    }
}

/// An empty set in the form that suits `first` as its first member and, with it, `expected`.
pub fn draft(first: &[u8], expected: usize, limits: Limits) -> Draft {
    if canonical_int(first).is_some() && expected <= limits.integers {
        Draft::packed(Kind::IntSet)
    } else if expected <= limits.entries {
        Draft::packed(Kind::PackedSet)
    } else {
        Draft::big(Value::Set(Set::new()))
    }
}

/// A set, to be edited.
pub struct SetMut<'a> {
    holder: &'a mut dyn Holder,
    limits: Limits,
}

impl<'a> SetMut<'a> {
    /// The set that `holder` has.
    ///
    /// # Errors
    /// If it has another type.
    #[inline]
    pub fn of(holder: &'a mut dyn Holder, limits: Limits) -> Result<Self, Error> {
        match (holder.kind(), holder.big()) {
            (Kind::IntSet | Kind::PackedSet, _) | (Kind::Big, Some(Value::Set(_))) => {
                Ok(SetMut { holder, limits })
            }
            _ => Err(Error::WrongType),
        }
    }

    /// The set, to be read.
    pub fn as_ref(&self) -> SetRef<'_> {
        match (self.holder.kind(), self.holder.big()) {
            (_, Some(Value::Set(set))) => SetRef::Big(set),
            (Kind::IntSet, _) => SetRef::Ints(self.holder.bytes()),
            _ => SetRef::Packed(self.holder.bytes()),
        }
    }

    #[inline]
    fn big_mut(&mut self) -> Option<&mut Set> {
        match self.holder.big_mut() {
            Some(Value::Set(set)) => Some(set),
            _ => None,
        }
    }

    /// Takes the large form at once if so many members are about to be added that it will have to.
    pub fn expect(&mut self, members: usize) {
        let limit = match self.holder.kind() {
            Kind::IntSet => self.limits.integers,
            Kind::PackedSet => self.limits.entries,
            _ => return,
        };
        if members > limit {
            self.grow();
        }
    }

    fn grow(&mut self) {
        let set: Set = self.as_ref().iter().collect();
        self.holder.replace(NewValue::Big(Box::new(Value::Set(set))));
    }

    /// Number of members.
    pub fn len(&self) -> usize {
        self.as_ref().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        match self.holder.kind() {
            Kind::IntSet => self.holder.bytes().len() <= 1,
            Kind::PackedSet => self.holder.bytes().is_empty(),
            _ => self.as_ref().is_empty(),
        }
    }

    /// Adds a member. Returns whether it is new.
    #[inline]
    pub fn insert(&mut self, member: &[u8]) -> bool {
        if let Some(set) = self.big_mut() {
            return set.insert(member);
        }
        let small = match self.holder.kind() {
            Kind::IntSet => self.insert_integer(member),
            _ => self.insert_packed(member),
        };
        small.unwrap_or_else(|| {
            self.grow();
            self.big_mut().is_some_and(|set| set.insert(member))
        })
    }

    /// Adds a member to a set of integers; `None` if the set has to take the large form for it.
    fn insert_integer(&mut self, member: &[u8]) -> Option<bool> {
        let bytes = self.holder.bytes();
        let len = intset::len(bytes);
        let Some(int) = canonical_int(member) else {
            self.integers_to_packed(len)?;
            return self.insert_packed(member);
        };
        let Err(position) = intset::find(bytes, int) else { return Some(false) };
        let size_max = 1 + (len + 1) * size_of::<i64>();
        if len >= self.limits.integers || size_max > INLINE_BYTES_MAX {
            return None;
        }
        if bytes.is_empty() {
            let (first, size) = intset::one(int);
            self.holder.splice(0, 0, &[&first[..size]]);
        } else {
            intset::insert_at(self.holder, position, int);
        }
        Some(true)
    }

    /// Turns a set of integers into a packed one; `None` if it would be too large.
    fn integers_to_packed(&mut self, len: usize) -> Option<()> {
        let mut packed = Vec::new();
        let mut buf = IntBuf::new();
        if len >= self.limits.entries {
            return None;
        }
        for int in intset::iter(self.holder.bytes()) {
            let text = buf.format(int).as_bytes();
            if text.len() > self.limits.value {
                return None;
            }
            Encoded::new(text).push_to(&mut packed);
        }
        self.holder.replace(NewValue::Packed(Kind::PackedSet, &packed));
        Some(())
    }

    /// Adds a member to a packed set; `None` if the set has to take the large form for it.
    fn insert_packed(&mut self, member: &[u8]) -> Option<bool> {
        let encoded = Encoded::new(member);
        let bytes = self.holder.bytes();
        let Err(len) = packed::find(bytes, &encoded) else { return Some(false) };
        let fits = len < self.limits.entries
            && member.len() <= self.limits.value
            && bytes.len() + encoded.size() <= INLINE_BYTES_MAX;
        fits.then(|| {
            packed::push(self.holder, &encoded);
            true
        })
    }

    /// Removes a member. Returns whether it was there.
    #[inline]
    pub fn remove(&mut self, member: &[u8]) -> bool {
        if let Some(set) = self.big_mut() {
            return set.remove(member);
        }
        match self.holder.kind() {
            Kind::IntSet => {
                canonical_int(member).is_some_and(|int| intset::remove(self.holder, int))
            }
            _ => packed::remove(self.holder, member),
        }
    }

    /// Removes and returns the member at a position.
    #[inline]
    pub fn remove_at(&mut self, position: usize) -> Option<SmallBytes> {
        if let Some(set) = self.big_mut() {
            return set.remove_at(position);
        }
        let mut buf = IntBuf::new();
        if self.holder.kind() == Kind::IntSet {
            let int = intset::get(self.holder.bytes(), position)?;
            intset::remove_at(self.holder, position);
            return Some(SmallBytes::new(buf.format(int).as_bytes()));
        }
        let (member, at, end) = packed::at(self.holder.bytes(), position)?;
        let member = SmallBytes::new(member.as_bytes(&mut buf));
        self.holder.splice(at, end - at, &[]);
        Some(member)
    }
}

/// A set that is put together before it enters the keyspace.
pub struct Builder {
    draft: Draft,
    limits: Limits,
}

impl Builder {
    /// An empty set.
    pub fn new(limits: Limits) -> Self {
        Builder { draft: Draft::packed(Kind::IntSet), limits }
    }

    /// Adds a member. Returns whether it is new.
    pub fn insert(&mut self, member: &[u8]) -> bool {
        match SetMut::of(&mut self.draft, self.limits) {
            Ok(mut set) => set.insert(member),
            Err(_) => false,
        }
    }

    /// Removes a member. Returns whether it was there.
    pub fn remove(&mut self, member: &[u8]) -> bool {
        match SetMut::of(&mut self.draft, self.limits) {
            Ok(mut set) => set.remove(member),
            Err(_) => false,
        }
    }

    /// The set, to be read.
    pub fn as_ref(&self) -> SetRef<'_> {
        match self.draft.kind() {
            Kind::IntSet => SetRef::Ints(self.draft.bytes()),
            Kind::PackedSet => SetRef::Packed(self.draft.bytes()),
            _ => match Holder::big(&self.draft) {
                Some(Value::Set(set)) => SetRef::Big(set),
                _ => SetRef::Packed(&[]),
            },
        }
    }

    /// The value, to be inserted.
    pub fn into_draft(self) -> Draft {
        self.draft
    }
}
