//! Hashes: one run of bytes while they are small ([`packed`], or [`shape`] where many have the same
//! fields), a hash table that keeps the order
//! of insertion when large or when a field has an expiry ([`struct@Hash`]).

mod edit;
pub mod packed;
mod pair;
pub mod shape;
#[cfg(test)]
mod tests;
mod ttl;

use self::pair::Pair;
use self::shape::Shape;
use self::ttl::Deadlines;
use super::dense::{self, Dense, Entry};
use super::packed::{Elem, Encoded, IntBuf, read_canonical};
use super::part::{Found, Part};
use super::varint;
use crate::known_bugs::{self, Bug};
use std::fmt;

pub use self::edit::{HashMut, Limits};
pub use self::ttl::is_past;

/// The encoded form has expiry times.
const FLAG_DEADLINES: u8 = 1;
/// The encoded form is of a hash that [`Hash::is_compact`].
const FLAG_COMPACT: u8 = 2;

/// A large hash, or one with fields that expire.
#[derive(Clone, Default)]
pub struct Hash {
    fields: Dense<Pair>,
    deadlines: Option<Box<Deadlines>>,
    is_compact: bool,
}

impl Hash {
    /// The table of its members, to be prefetched from.
    pub(crate) fn table(&self) -> &Dense<Pair> {
        &self.fields
    }

    /// A hash without fields.
    pub fn new() -> Self {
        Self::default()
    }

    /// A hash with the fields of a small one.
    pub fn from_packed(bytes: &[u8]) -> Self {
        let mut hash = Hash::new();
        let (mut field_buf, mut value_buf) = (IntBuf::new(), IntBuf::new());
        for (field, value) in packed::iter(bytes) {
            hash.set(field.as_bytes(&mut field_buf), value.as_bytes(&mut value_buf));
        }
        if known_bugs::is_back(Bug::HashGrowthLoses)
            && let Some((field, _)) = packed::iter(bytes).next()
        {
            hash.remove(field.as_bytes(&mut field_buf));
        }
        hash
    }

    /// Number of fields, including those that have expired but were not purged yet.
    pub fn len(&self) -> usize {
        self.fields.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// Number of fields that have not expired by `now_ms`.
    pub fn live_len(&self, now_ms: i64) -> usize {
        let expired = self.deadlines.as_ref().map_or(0, |deadlines| deadlines.expired(now_ms));
        self.fields.len().saturating_sub(expired)
    }

    /// Whether the hash is here for its fields' expiry only: small enough to be packed otherwise.
    pub fn is_compact(&self) -> bool {
        self.is_compact
    }

    /// Says whether it is; see [`Hash::is_compact`].
    pub fn set_compact(&mut self, is_compact: bool) {
        self.is_compact = is_compact;
    }

    /// Bytes of memory the hash takes; values beyond the first few are estimated by these.
    pub fn memory(&self) -> usize {
        const SAMPLES: usize = 64;
        let sampled: usize = self.fields.iter().take(SAMPLES).map(Pair::heap_size).sum();
        let pairs = sampled * self.len() / self.len().clamp(1, SAMPLES);
        let deadlines = self.deadlines.as_ref().map_or(0, |deadlines| deadlines.memory());
        size_of::<Self>() + self.fields.memory() + pairs + deadlines
    }

    /// The value of a field that has not expired by `now_ms`.
    #[inline]
    pub fn get(&self, field: &[u8], now_ms: i64) -> Option<&[u8]> {
        let pair = self.fields.get(field)?;
        (!self.is_expired(field, now_ms)).then(|| pair.value())
    }

    #[inline]
    fn is_expired(&self, field: &[u8], now_ms: i64) -> bool {
        self.deadlines.as_ref().is_some_and(|deadlines| {
            deadlines.has_expired(now_ms)
                && deadlines.get(field).is_some_and(|at_ms| is_past(at_ms, now_ms))
        })
    }

    /// Sets a field, which then no longer expires. Returns whether it is new; purge first.
    #[inline]
    pub fn set(&mut self, field: &[u8], value: &[u8]) -> bool {
        self.persist(field);
        self.set_keeping_deadline(field, value)
    }

    /// Sets a field and leaves its expiry as it is. Returns whether it is new; purge first.
    #[inline]
    pub fn set_keeping_deadline(&mut self, field: &[u8], value: &[u8]) -> bool {
        match self.fields.entry(field) {
            Entry::Found(position) => {
                if let Some(pair) = self.fields.at_mut(position) {
                    pair.set_value(value);
                }
                false
            }
            Entry::Vacant(vacant) => {
                vacant.insert(Pair::new(field, value));
                true
            }
        }
    }

    /// Removes a field. Returns whether it was there; purge first.
    pub fn remove(&mut self, field: &[u8]) -> bool {
        self.persist(field);
        self.fields.remove(field).is_some()
    }

    /// The field and value at a position below [`Hash::len`], unless it has expired by `now_ms`.
    pub fn at(&self, position: usize, now_ms: i64) -> Option<(&[u8], &[u8])> {
        let pair = self.fields.at(position)?;
        let is_live = !self.is_expired(pair.field(), now_ms);
        is_live.then(|| (pair.field(), pair.value()))
    }

    /// Visits up to `count` fields and returns the next cursor, as [`Dense::scan`] does.
    pub fn scan<'s>(
        &'s self,
        cursor: u64,
        count: usize,
        now_ms: i64,
        mut visit: impl FnMut(&'s [u8], &'s [u8]),
    ) -> u64 {
        self.fields.scan(cursor, count, |pair| {
            if !self.is_expired(pair.field(), now_ms) {
                visit(pair.field(), pair.value());
            }
        })
    }

    /// When a field expires.
    pub fn deadline(&self, field: &[u8]) -> Option<i64> {
        self.deadlines.as_ref()?.get(field)
    }

    /// When the first field expires.
    pub fn next_deadline(&self) -> Option<i64> {
        self.deadlines.as_ref()?.next_ms()
    }

    /// Sets when a field, which must be there, expires.
    pub fn set_deadline(&mut self, field: &[u8], at_ms: i64) {
        debug_assert!(self.fields.find(field).is_some(), "a field that expires is there");
        self.deadlines.get_or_insert_default().set(field, at_ms);
    }

    /// Lets a field stay for ever. Returns when it would have expired.
    #[inline]
    pub fn persist(&mut self, field: &[u8]) -> Option<i64> {
        let deadlines = self.deadlines.as_mut()?;
        let cleared = deadlines.clear(field);
        if deadlines.is_empty() {
            self.deadlines = None;
        }
        cleared
    }

    /// Whether a field has expired by `now_ms` and was not purged yet.
    #[inline]
    pub fn has_expired(&self, now_ms: i64) -> bool {
        self.deadlines.as_ref().is_some_and(|deadlines| deadlines.has_expired(now_ms))
    }

    /// Names of up to `limit` fields that have expired by `now_ms`, the earliest first.
    pub fn expired_fields(&self, now_ms: i64, limit: usize) -> Vec<&[u8]> {
        let deadlines = self.deadlines.iter();
        deadlines.flat_map(|deadlines| deadlines.expired_fields(now_ms)).take(limit).collect()
    }

    /// Removes up to `limit` fields that have expired by `now_ms`, the earliest first. Returns
    /// their number.
    pub fn purge(&mut self, now_ms: i64, limit: usize) -> usize {
        let Some(deadlines) = self.deadlines.as_mut() else { return 0 };
        let mut purged = 0;
        while purged < limit
            && let Some(field) = deadlines.pop_expired(now_ms)
        {
            self.fields.remove(field.as_bytes());
            purged += 1;
        }
        if deadlines.is_empty() {
            self.deadlines = None;
        }
        purged
    }

    /// Appends the canonical form: flags, the number of fields, then each field and value as
    /// [`super::packed`] has them, followed, if any field expires, by the milliseconds when this
    /// one does (little-endian; -1 for never).
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.encode_head(out);
        self.fields.iter().for_each(|pair| self.encode_pair(pair, out));
    }

    /// Appends what comes before the first field in the canonical form.
    pub(super) fn encode_head(&self, out: &mut Vec<u8>) {
        let with_deadlines = if self.deadlines.is_some() { FLAG_DEADLINES } else { 0 };
        out.push(with_deadlines | if self.is_compact { FLAG_COMPACT } else { 0 });
        varint::push(out, self.fields.len() as u64);
    }

    /// Appends the field at a position, in the canonical form; its name.
    pub(super) fn encode_at(&self, position: usize, out: &mut Vec<u8>) -> Option<&[u8]> {
        let pair = self.fields.at(position)?;
        self.encode_pair(pair, out);
        Some(pair.field())
    }

    fn encode_pair(&self, pair: &Pair, out: &mut Vec<u8>) {
        Encoded::new(pair.field()).push_to(out);
        Encoded::new(pair.value()).push_to(out);
        if let Some(deadlines) = &self.deadlines {
            let at_ms = deadlines.get(pair.field()).unwrap_or(-1);
            out.extend_from_slice(&at_ms.to_le_bytes());
        }
    }

    /// An empty hash for what a canonical form's flags say; `None` where fields expire.
    pub(super) fn of_flags(flags: u8) -> Option<Hash> {
        let is_known = flags & !FLAG_COMPACT == 0;
        is_known.then(|| Hash { is_compact: flags & FLAG_COMPACT != 0, ..Hash::default() })
    }

    /// Reads what [`Hash::encode`] wrote; `None` for anything else.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let flags = *bytes.first().filter(|&&flags| flags <= FLAG_DEADLINES | FLAG_COMPACT)?;
        let (count, mut at) = varint::read(bytes, 1)?;
        let mut hash = Hash { is_compact: flags & FLAG_COMPACT != 0, ..Hash::default() };
        let (mut field_buf, mut value_buf) = (IntBuf::new(), IntBuf::new());
        for _ in 0..count {
            let (field, value_at) = read_canonical(bytes, at)?;
            let (value, end) = read_canonical(bytes, value_at)?;
            let field = field.as_bytes(&mut field_buf);
            if !hash.set(field, value.as_bytes(&mut value_buf)) {
                return None;
            }
            at = end;
            if flags & FLAG_DEADLINES != 0 {
                let (at_ms, _) = bytes.get(at..)?.split_first_chunk()?;
                at += 8;
                match i64::from_le_bytes(*at_ms) {
                    -1 => {}
                    at_ms if at_ms < 0 => return None,
                    at_ms => hash.set_deadline(field, at_ms),
                }
            }
        }
        let has_deadlines = hash.deadlines.is_some() == (flags & FLAG_DEADLINES != 0);
        (at == bytes.len() && count > 0 && has_deadlines).then_some(hash)
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hash").field("len", &self.len()).finish_non_exhaustive()
    }
}

/// A hash of either form, to read at a time.
#[derive(Clone, Copy)]
pub enum HashRef<'a> {
    /// A small one.
    Packed(&'a [u8]),
    /// A small one that shares the names of its fields: these, and its values.
    Shaped(&'a Shape, &'a [u8]),
    /// A large one, and the time in milliseconds.
    Big(&'a Hash, i64),
    /// Some fields of a large one on disk, none of which expires.
    Part(&'a Part),
}

impl<'a> HashRef<'a> {
    /// Number of fields. A hash without any is to be treated as an absent key.
    pub fn len(&self) -> usize {
        match *self {
            HashRef::Packed(bytes) => packed::len(bytes),
            HashRef::Shaped(shape, _) => shape.len(),
            HashRef::Big(hash, now_ms) => hash.live_len(now_ms),
            HashRef::Part(part) => part.len,
        }
    }

    /// Whether all fields have expired.
    pub fn is_empty(&self) -> bool {
        match *self {
            HashRef::Packed(bytes) => bytes.is_empty(),
            HashRef::Shaped(shape, _) => shape.is_empty(),
            HashRef::Big(hash, now_ms) => hash.live_len(now_ms) == 0,
            HashRef::Part(part) => part.len == 0,
        }
    }

    /// The value of a field.
    #[inline]
    pub fn get(&self, field: &[u8]) -> Option<Elem<'a>> {
        match *self {
            HashRef::Packed(bytes) => packed::get(bytes, field),
            HashRef::Shaped(shape, values) => shape::get(shape, values, field),
            HashRef::Big(hash, now_ms) => hash.get(field, now_ms).map(Elem::Bytes),
            HashRef::Part(part) => match &part.found {
                Found::Fields(found) => found.get(field, i64::MIN).map(Elem::Bytes),
                _ => None,
            },
        }
    }

    /// The fields and values in order.
    pub fn iter(&self) -> Iter<'a> {
        match *self {
            HashRef::Packed(bytes) => Iter::Packed(packed::iter(bytes)),
            HashRef::Shaped(shape, values) => Iter::Shaped(shape::iter(shape, values)),
            HashRef::Big(hash, now_ms) => Iter::Big(hash.fields.iter(), hash, now_ms),
            HashRef::Part(part) => match &part.found {
                Found::Fields(found) => Iter::Big(found.fields.iter(), found, i64::MIN),
                _ => Iter::Packed(packed::iter(&[])),
            },
        }
    }
}

/// The fields and values of a hash.
pub enum Iter<'a> {
    /// Of a small one.
    Packed(packed::Iter<'a>),
    /// Of a small one that shares the names of its fields.
    Shaped(shape::Iter<'a>),
    /// Of a large one.
    Big(dense::Iter<'a, Pair>, &'a Hash, i64),
}

impl<'a> Iterator for Iter<'a> {
    type Item = (Elem<'a>, Elem<'a>);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Iter::Packed(iter) => iter.next(),
            Iter::Shaped(iter) => iter.next(),
            Iter::Big(iter, hash, now_ms) => iter
                .find(|pair| !hash.is_expired(pair.field(), *now_ms))
                .map(|pair| (Elem::Bytes(pair.field()), Elem::Bytes(pair.value()))),
        }
    }
}
