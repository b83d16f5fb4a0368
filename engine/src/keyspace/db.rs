//! One database of one shard: its entries, and an index of those that expire.

mod entry_mut;
mod lane;

use super::entry::{COLOUR, EntryPtr, Kind, Parts, big_payload, shape_payload};
use super::saving::{HandOver, Saving};
use super::shapes::{Shapes, copy_values};
use super::table::{Place, SlotRef, Table};
use crate::cut::{ColdRow, Handed, Rows};
use crate::prefetch::same_bytes;
use crate::tier::db::ColdDb;
use crate::value::hash::shape::Shape;
use crate::value::packed::canonical_int;
use crate::value::set::Set;
use crate::value::{NewValue, Type, Value};
use std::hash::{BuildHasher, Hasher};
use std::marker::PhantomData;
use std::sync::Arc;

/// Longest string that is stored inside its entry.
pub const STRING_INLINE_MAX: usize = 16_384;
/// Longest string inside its entry once it has been edited in place: larger ones get room to grow.
pub const STRING_EDITED_INLINE_MAX: usize = 1_024;

/// Cold keys that one step of a cut takes on, about.
const COLD_ROWS_A_STEP: usize = 256;

/// Boxed values that were removed; they are dropped away from the hot path.
pub(crate) type Garbage = Vec<Box<Value>>;

/// Hash of a key; the seed is the engine's.
#[derive(Clone, Debug)]
pub(crate) struct KeyHasher(foldhash::fast::FixedState);

impl KeyHasher {
    pub fn new(seed: u64) -> KeyHasher {
        KeyHasher(foldhash::fast::FixedState::with_seed(seed))
    }

    #[inline]
    pub fn hash(&self, key: &[u8]) -> u64 {
        let mut hasher = self.0.build_hasher();
        hasher.write(key);
        hasher.finish()
    }
}

/// A database's part in one shard.
pub(crate) struct Db {
    table: Table,
    /// The entries that have an expiry. They belong to `table`.
    expires: Table,
    /// Scan position in `expires` from which the next sweep goes on.
    sweep: u64,
    /// Keys of hashes with fields that expire; a key stays here until a sweep finds it out of date.
    timed: Set,
    /// Position in `timed` from which the next sweep goes on.
    timed_sweep: usize,
    hasher: KeyHasher,
    /// The names of fields that small hashes share.
    shapes: Shapes,
    /// The colour of entries that no cut has still to save: new ones are born with it.
    colour: u8,
    /// What a running cut has still to save here; the entries of the other colour.
    saving: Option<Box<Saving>>,
    /// The keys that are on disk, if there have been any.
    cold: Option<Box<ColdDb>>,
    /// The life of the database between two flushes, the same in all shards and no other's: it
    /// grows by `databases`, so that the lives of two databases never meet.
    generation: u32,
    databases: u32,
}

impl Db {
    /// Database `number` of `databases`.
    pub fn new(hasher: KeyHasher, number: u32, databases: u32) -> Db {
        Db {
            table: Table::new(),
            expires: Table::new(),
            sweep: 0,
            timed: Set::new(),
            timed_sweep: 0,
            hasher,
            shapes: Shapes::default(),
            colour: 0,
            saving: None,
            cold: None,
            generation: number,
            databases,
        }
    }

    /// The shapes of small hashes.
    #[cfg(test)]
    pub fn shapes(&self) -> &Shapes {
        &self.shapes
    }

    /// Begins a cut: what is here now is to be saved, as part of database `number`.
    pub fn begin_saving(&mut self, number: u32, handed: &Arc<Handed>) {
        debug_assert!(self.saving.is_none(), "there is one cut at a time");
        self.colour ^= COLOUR;
        self.saving = Some(Box::new(Saving::new(number, handed)));
        if let Some(cold) = &mut self.cold {
            cold.begin_cut();
        }
    }

    /// Whether a running cut has still to save something here.
    pub fn is_saving(&self) -> bool {
        self.saving.is_some()
    }

    /// The running cut's part here, for the test of the hand-over.
    pub(super) fn saving_mut(&mut self) -> Option<&mut Saving> {
        self.saving.as_deref_mut()
    }

    /// Saves the entries of the next few buckets, until `rows` has `bytes_max` bytes. Rows of cold keys
    /// are appended to `cold`, to be read once no lock is held.
    pub fn save_some(
        &mut self,
        rows: &mut Rows,
        buckets: usize,
        bytes_max: usize,
        cold: &mut Vec<ColdRow>,
    ) {
        let Some(saving) = &self.saving else { return };
        let (number, colour) = (saving.number(), self.colour);
        if let Some(cold_db) = &mut self.cold {
            let mut found = Vec::new();
            let more = cold_db.cut_some(COLD_ROWS_A_STEP, &mut found);
            cold.extend(found.into_iter().map(|(row, expiry)| ColdRow { db: number, row, expiry }));
            if more {
                return;
            }
        }
        for _ in 0..buckets {
            let (db, mut position) = (&*self, 0);
            if let Some(saving) = &self.saving {
                position = db.table.scan(saving.position, |entry| {
                    if entry.colour() != colour {
                        if !entry.is_backed() || !db.is_cached(entry) {
                            rows.push(number, &EntryRef { ptr: entry, life: PhantomData });
                        }
                        entry.paint(colour);
                    }
                });
            }
            let Some(saving) = &mut self.saving else { return };
            saving.position = position;
            if position == 0 {
                saving.finish(rows);
                self.saving = None;
                return;
            }
            if rows.bytes() >= bytes_max {
                return;
            }
        }
    }

    /// An entry that a cut has still to save is about to change: its present state is kept.
    #[cold]
    #[inline(never)]
    fn hand_over(&mut self, entry: EntryPtr, reason: HandOver) {
        let cached = entry.is_backed() && self.is_cached(entry);
        if let Some(saving) = &mut self.saving
            && !cached
        {
            saving.keep(&EntryRef { ptr: entry, life: PhantomData }, reason);
        }
        entry.paint(self.colour);
    }

    /// Before any change of an entry.
    #[inline]
    pub(super) fn about_to_change(&mut self, entry: EntryPtr, reason: HandOver) {
        if entry.colour() != self.colour {
            self.hand_over(entry, reason);
        }
        if entry.is_backed() {
            self.detach(entry);
        }
    }

    /// Keys, those on disk included.
    pub fn len(&self) -> usize {
        self.table.len() + self.cold.as_ref().map_or(0, |cold| cold.len())
    }

    /// Keys with an expiry, those on disk included.
    pub fn expiring(&self) -> usize {
        self.expires.len() + self.cold.as_ref().map_or(0, |cold| cold.expiring())
    }

    /// Bytes of the hash tables, without the entries.
    pub fn table_bytes(&self) -> usize {
        self.table.bytes() + self.expires.bytes()
    }

    pub fn table(&self) -> &Table {
        &self.table
    }

    pub fn expires(&self) -> &Table {
        &self.expires
    }

    /// Visits the keys with an expiry of the next few buckets; call after call, all of them.
    pub fn sweep_expires(&mut self, buckets: usize, mut each: impl FnMut(EntryPtr)) {
        for _ in 0..buckets {
            self.sweep = self.expires.scan(self.sweep, &mut each);
            if self.sweep == 0 {
                break;
            }
        }
    }

    /// Visits the keys of the next `count` hashes with fields that expire, and when the first field
    /// of each does; call after call, all of them. Returns how many were looked at.
    pub fn sweep_timed(&mut self, count: usize, mut each: impl FnMut(&[u8], i64)) -> usize {
        let count = count.min(self.timed.len());
        for _ in 0..count {
            if self.timed_sweep >= self.timed.len() {
                self.timed_sweep = 0;
            }
            let Some(key) = self.timed.at(self.timed_sweep) else { break };
            let entry = self.find(self.hasher.hash(key), key);
            match entry.and_then(EntryPtr::big).and_then(Value::next_deadline) {
                Some(at_ms) => {
                    each(key, at_ms);
                    self.timed_sweep += 1;
                }
                None => drop(self.timed.remove_at(self.timed_sweep)),
            }
        }
        count
    }

    #[inline]
    pub fn find(&self, hash: u64, key: &[u8]) -> Option<EntryPtr> {
        self.table.find(hash, |entry| same_bytes(entry.key(), key))
    }

    /// The same, where the entry is probably at `place`.
    #[inline]
    pub fn find_near(&self, hash: u64, place: Place, key: &[u8]) -> Option<EntryPtr> {
        let is = |entry: EntryPtr| same_bytes(entry.key(), key);
        match self.table.find_at(place, hash, is) {
            None => self.table.find(hash, is),
            found => found,
        }
    }

    #[inline]
    fn find_slot(&mut self, hash: u64, place: Place, key: &[u8]) -> Option<SlotRef> {
        let is = |entry: EntryPtr| same_bytes(entry.key(), key);
        match self.table.find_slot_at(place, hash, is) {
            None => self.table.find_slot(hash, is),
            found => found,
        }
    }

    /// The entry of `key`, which is probably at `place`, to be edited.
    #[inline]
    pub fn entry(&mut self, hash: u64, place: Place, key: &[u8]) -> Option<EntryMut<'_>> {
        let slot = self.find_slot(hash, place, key)?;
        let ptr = self.table.at(slot);
        self.about_to_change(ptr, HandOver::Edit);
        Some(EntryMut { db: self, hash, slot, ptr })
    }

    /// Sets `key` to `value`; the expiry goes unless `keep_expiry`. Says whether the key is new.
    /// With the key's hash and where its entry probably is.
    pub fn put(
        &mut self,
        (hash, place): (u64, Place),
        key: &[u8],
        value: NewValue<'_>,
        keep_expiry: bool,
        garbage: &mut Garbage,
    ) -> (EntryMut<'_>, bool) {
        let value = value.settle();
        if let Settled::Big(value) = &value
            && value.next_deadline().is_some()
        {
            self.timed.insert(key);
        }
        let Some(slot) = self.find_slot(hash, place, key) else {
            let cold = self.forget_cold(hash, key);
            let ptr = self.make_entry(value, key, None);
            let hasher = &self.hasher;
            let slot = self.table.insert(hash, ptr, |entry| hasher.hash(entry.key()));
            let mut entry = EntryMut { db: self, hash, slot, ptr };
            if let Some(expiry) = cold.flatten()
                && keep_expiry
            {
                entry.set_expiry(Some(expiry));
            }
            return (entry, cold.is_none());
        };
        let old = self.table.at(slot);
        self.about_to_change(old, HandOver::Put);
        let expiry = old.expiry();
        if expiry.is_none() || keep_expiry {
            let in_place = match value {
                Settled::Str(bytes) => old.overwrite_str(bytes),
                Settled::Int(int) if old.kind() == Kind::Int => {
                    old.set_payload(int as u64);
                    true
                }
                _ => false,
            };
            if in_place {
                return (EntryMut { db: self, hash, slot, ptr: old }, false);
            }
        }
        let ptr = self.make_entry(value, key, if keep_expiry { expiry } else { None });
        ptr.set_access(old.access());
        let mut entry = EntryMut { db: self, hash, slot, ptr: old };
        if expiry.is_some() && !keep_expiry {
            entry.forget_expiry();
        }
        entry.moved(ptr);
        garbage.extend(old.free());
        (entry, false)
    }

    /// Removes `key`; its boxed value goes to `garbage`.
    pub fn remove(&mut self, hash: u64, key: &[u8], garbage: &mut Garbage) -> bool {
        let Some(slot) = self.find_slot(hash, Place::NONE, key) else {
            return self.forget_cold(hash, key).is_some();
        };
        let ptr = self.table.at(slot);
        self.about_to_change(ptr, HandOver::Remove);
        if ptr.expiry().is_some() {
            EntryMut { db: self, hash, slot, ptr }.forget_expiry();
        }
        let hasher = &self.hasher;
        self.table.remove_at(hash, slot, |entry| hasher.hash(entry.key()));
        garbage.extend(ptr.free());
        true
    }

    /// Makes room for this many keys in an empty database.
    pub fn reserve(&mut self, keys: usize, expiring: usize) {
        self.table.reserve(keys);
        self.expires.reserve(expiring);
    }

    /// Asks for the bucket of `hash` to be brought near, ahead of [`Db::adopt`].
    #[inline]
    pub fn prefetch_bucket(&self, hash: u64) {
        self.table.prefetch_bucket(hash);
    }

    /// Takes an entry in that was made elsewhere; `false`, and it is dropped, if its key is there.
    pub fn adopt(&mut self, hash: u64, entry: Loose) -> bool {
        if self.find(hash, entry.0.key()).is_some() {
            return false;
        }
        let mut ptr = entry.into_ptr();
        ptr.paint(self.colour);
        if let Some(shaped) = self.shaped(ptr) {
            // A hash in pairs has no boxed value.
            drop(ptr.free());
            ptr = shaped;
        }
        let hasher = &self.hasher;
        self.table.insert(hash, ptr, |entry| hasher.hash(entry.key()));
        if ptr.expiry().is_some() {
            self.expires.insert(hash, ptr, |entry| hasher.hash(entry.key()));
        }
        if ptr.big().and_then(Value::next_deadline).is_some() {
            self.timed.insert(ptr.key());
        }
        true
    }

    /// Removes an entry whose value is on disk as well.
    pub(super) fn drop_entry(&mut self, hash: u64, key: &[u8], garbage: &mut Garbage) {
        let Some(slot) = self.find_slot(hash, Place::NONE, key) else { return };
        let ptr = self.table.at(slot);
        if ptr.expiry().is_some() {
            EntryMut { db: self, hash, slot, ptr }.forget_expiry();
        }
        let hasher = &self.hasher;
        self.table.remove_at(hash, slot, |entry| hasher.hash(entry.key()));
        garbage.extend(ptr.free());
    }

    /// Before an entry is dropped whose value was just written to disk.
    pub(super) fn before_drop(&mut self, entry: EntryPtr) {
        if entry.colour() != self.colour {
            self.hand_over(entry, HandOver::Remove);
        }
    }

    /// Whether an entry is cached: the cold tier has a row with the same value, and a cut has it from there.
    #[cold]
    fn is_cached(&self, entry: EntryPtr) -> bool {
        self.cold.as_ref().is_some_and(|cold| {
            let hash = self.hasher.hash(entry.key());
            cold.index().get(cold.print(hash, entry.key())).is_some()
        })
    }

    /// Adds an entry for a key that has none.
    pub(super) fn insert_new(
        &mut self,
        hash: u64,
        key: &[u8],
        value: NewValue<'_>,
        expiry: Option<i64>,
    ) -> EntryPtr {
        let value = value.settle();
        if let Settled::Big(value) = &value
            && value.next_deadline().is_some()
        {
            self.timed.insert(key);
        }
        let entry = self.make_entry(value, key, expiry);
        let hasher = &self.hasher;
        self.table.insert(hash, entry, |entry| hasher.hash(entry.key()));
        if expiry.is_some() {
            self.expires.insert(hash, entry, |entry| hasher.hash(entry.key()));
        }
        entry
    }

    /// An entry with a value; a small hash gets its shape.
    #[inline]
    fn make_entry(&mut self, value: Settled<'_>, key: &[u8], expiry: Option<i64>) -> EntryPtr {
        if let Settled::Inline(Kind::PackedHash, pairs) = value
            && let Some(entry) = self.shaped_entry(key, expiry, pairs)
        {
            return entry;
        }
        value.entry(key, expiry, self.colour)
    }

    /// An entry of kind `ShapedHash` with these pairs, if they have a shape.
    fn shaped_entry(&mut self, key: &[u8], expiry: Option<i64>, pairs: &[u8]) -> Option<EntryPtr> {
        let (shape, values_bytes) = self.shapes.of_pairs(&self.hasher, pairs)?;
        let entry = EntryPtr::new(&Parts {
            kind: Kind::ShapedHash,
            key,
            expiry,
            payload: shape_payload(shape),
            // As many bytes as the values have; these are written next.
            inline: &pairs[..values_bytes],
            colour: self.colour,
        });
        copy_values(pairs, entry.inline_mut());
        Some(entry)
    }

    /// A copy of an entry as kind `ShapedHash`, if it is a hash in pairs that have a shape.
    fn shaped(&mut self, entry: EntryPtr) -> Option<EntryPtr> {
        if entry.kind() != Kind::PackedHash {
            return None;
        }
        let fresh = self.shaped_entry(entry.key(), entry.expiry(), entry.inline())?;
        fresh.set_access(entry.access());
        Some(fresh)
    }

    /// See the field.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// Goes on with the life that the database had when a snapshot was taken.
    pub fn set_generation(&mut self, generation: u32) {
        self.generation = generation;
        if let Some(cold) = &mut self.cold {
            cold.set_generation(generation);
        }
    }

    /// The number that the database had at the running cut.
    pub fn number_at_cut(&self) -> Option<u32> {
        self.saving.as_ref().map(|saving| saving.number())
    }

    pub(super) fn cold_mut(&mut self) -> &mut Option<Box<ColdDb>> {
        &mut self.cold
    }

    pub fn hasher(&self) -> &KeyHasher {
        &self.hasher
    }

    /// The keys on disk, if there have been any.
    #[inline]
    pub fn cold(&self) -> Option<&ColdDb> {
        self.cold.as_deref()
    }

    /// Takes everything out, with what a running cut has still to save of it.
    pub fn take(&mut self) -> Db {
        if let Some(cold) = &self.cold {
            // Not only with its drop, which may come late: its rows are known to be given up.
            cold.tier().drop_generation(self.generation);
        }
        let mut fresh = Db::new(self.hasher.clone(), self.generation, self.databases);
        fresh.colour = self.colour;
        fresh.generation = self.generation.wrapping_add(self.databases);
        std::mem::replace(self, fresh)
    }
}

/// A database that was emptied, with all it had: its drop takes time.
pub struct FlushedDb(#[expect(dead_code, reason = "held to be dropped")] Db);

impl FlushedDb {
    pub(crate) fn new(db: Db) -> FlushedDb {
        FlushedDb(db)
    }
}

impl Drop for Db {
    fn drop(&mut self) {
        if self.table.is_lane() {
            return;
        }
        self.table.for_each(|entry| drop(entry.free()));
    }
}

/// An entry that is in no database yet.
pub(crate) struct Loose(EntryPtr);

impl Loose {
    /// An entry with these parts.
    pub fn new(key: &[u8], value: NewValue<'_>, expiry: Option<i64>, access: u32) -> Loose {
        let ptr = value.settle().entry(key, expiry, 0);
        ptr.set_access(access);
        Loose(ptr)
    }

    /// The entry, to be read.
    pub fn as_ref(&self) -> EntryRef<'_> {
        EntryRef { ptr: self.0, life: PhantomData }
    }

    fn into_ptr(self) -> EntryPtr {
        std::mem::ManuallyDrop::new(self).0
    }
}

impl Drop for Loose {
    fn drop(&mut self) {
        drop(self.0.free());
    }
}

/// A value as it goes into an entry.
enum Settled<'a> {
    Str(&'a [u8]),
    Int(i64),
    Inline(Kind, &'a [u8]),
    Big(Box<Value>),
}

impl<'a> NewValue<'a> {
    /// Chooses the representation.
    fn settle(self) -> Settled<'a> {
        match self {
            NewValue::Str(bytes) => match canonical_int(bytes) {
                Some(int) => Settled::Int(int),
                None if bytes.len() <= STRING_INLINE_MAX => Settled::Str(bytes),
                None => Settled::Big(Box::new(Value::Str(bytes.to_vec()))),
            },
            NewValue::StrRaw(bytes) if bytes.len() <= STRING_EDITED_INLINE_MAX => {
                Settled::Inline(Kind::StrRaw, bytes)
            }
            NewValue::StrRaw(bytes) => Settled::Big(Box::new(Value::Str(bytes.to_vec()))),
            NewValue::Int(int) => Settled::Int(int),
            NewValue::Packed(kind, bytes) => Settled::Inline(kind, bytes),
            NewValue::Big(value) => Settled::Big(value),
        }
    }
}

impl Settled<'_> {
    fn entry(self, key: &[u8], expiry: Option<i64>, colour: u8) -> EntryPtr {
        let (kind, payload, inline): (_, _, &[u8]) = match self {
            Settled::Str(bytes) => (Kind::Str, 0, bytes),
            Settled::Int(int) => (Kind::Int, int as u64, &[]),
            Settled::Inline(kind, bytes) => (kind, 0, bytes),
            Settled::Big(value) => (Kind::Big, big_payload(value), &[]),
        };
        EntryPtr::new(&Parts { kind, key, expiry, payload, inline, colour })
    }
}

fn type_of(entry: EntryPtr) -> Type {
    match entry.kind() {
        Kind::Str | Kind::StrRaw | Kind::Int => Type::String,
        Kind::PackedList => Type::List,
        Kind::PackedHash | Kind::ShapedHash => Type::Hash,
        Kind::PackedSet | Kind::IntSet => Type::Set,
        Kind::PackedZset => Type::Zset,
        Kind::Big => entry.big().expect("the kind is Big").type_of(),
    }
}

pub use self::entry_mut::EntryMut;

/// A key and its value, to be read.
#[derive(Clone, Copy)]
pub struct EntryRef<'a> {
    ptr: EntryPtr,
    life: PhantomData<&'a Db>,
}

impl<'a> EntryRef<'a> {
    /// `ptr` must live as long as the borrow of the database it was found in.
    pub(crate) fn new(ptr: EntryPtr, _db: &'a Db) -> EntryRef<'a> {
        EntryRef { ptr, life: PhantomData }
    }

    /// The representation.
    pub fn kind(&self) -> Kind {
        self.ptr.kind()
    }

    /// The data type.
    pub fn type_of(&self) -> Type {
        type_of(self.ptr)
    }

    /// The key.
    pub fn key(&self) -> &'a [u8] {
        self.ptr.key()
    }

    /// The inline bytes; empty where the value is not inline.
    pub fn bytes(&self) -> &'a [u8] {
        self.ptr.inline()
    }

    /// The integer of kind `Int`.
    pub fn int(&self) -> Option<i64> {
        (self.kind() == Kind::Int).then(|| self.ptr.payload() as i64)
    }

    /// The boxed value of kind `Big`.
    pub fn big(&self) -> Option<&'a Value> {
        self.ptr.big()
    }

    /// The names of the fields of kind `ShapedHash`.
    #[inline]
    pub fn shape(&self) -> Option<&'a Shape> {
        self.ptr.shape()
    }

    /// The entry's part of the memory of its shape.
    pub fn shape_bytes(&self) -> usize {
        self.shape().map_or(0, |shape| shape.memory() / self.ptr.sharers().max(1))
    }

    /// When the key expires, Unix milliseconds.
    pub fn expiry(&self) -> Option<i64> {
        self.ptr.expiry()
    }

    /// The access data, see [`crate::keyspace::access`].
    pub fn access(&self) -> u32 {
        self.ptr.access()
    }

    /// Overwrites the access data.
    pub fn set_access(&self, access: u32) {
        self.ptr.set_access(access);
    }

    /// Whether the cold tier knows of the entry.
    #[inline]
    pub(crate) fn is_backed(&self) -> bool {
        self.ptr.is_backed()
    }

    /// Bytes of the entry's own allocation.
    pub fn entry_bytes(&self) -> usize {
        self.ptr.size()
    }
}
