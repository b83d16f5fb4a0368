//! What a command's run function works with: the keys, the stamp, the settings.

use crate::config::{EngineConfig, Event};
use crate::effects::{Effects, Notification};
use crate::error::{Error, Stop};
use crate::executor::Prefetched;
use crate::keyspace::{
    Db, EntryMut, EntryRef, KeyHasher, Place, Shard, Sharding, TrackTable, access,
    access::AccessScheme,
};
use crate::libraries::Libraries;
use crate::policy::Policies;
use crate::rdb;
use crate::sites::Sites;
use crate::stamp::{Rng, Stamp};
use crate::tier::Tier;
use crate::tier::row::RowId;
use crate::value::NewValue;
use crate::value::part::Part;
use smallvec::SmallVec;

/// Most shards an engine has: a SCAN cursor has that much room for their number.
pub const SHARDS_MAX: usize = 1024;
pub(crate) const SHARD_BITS: u32 = SHARDS_MAX.trailing_zeros();

/// The locked shards of a call.
pub(crate) enum LockedShards<'a> {
    /// The only shard there is.
    One(&'a mut Shard),
    /// Some of several, with their numbers, in ascending order.
    Some(SmallVec<[(usize, &'a mut Shard); 1]>),
}

impl<'a> LockedShards<'a> {
    /// The place of the shard with this number.
    #[cold]
    fn place_of(&self, number: usize) -> usize {
        match self {
            LockedShards::One(_) => 0,
            LockedShards::Some(shards) => {
                let at = shards.binary_search_by_key(&number, |(number, _)| *number);
                at.expect("a command touches only keys that its table entry declares")
            }
        }
    }

    /// The number of the shard at a place below [`LockedShards::len`].
    pub(crate) fn number(&self, place: usize) -> usize {
        match self {
            LockedShards::One(_) => 0,
            LockedShards::Some(shards) => shards[place].0,
        }
    }

    /// The shard at a place below [`LockedShards::len`].
    #[inline]
    pub(crate) fn at(&self, place: usize) -> &Shard {
        match self {
            LockedShards::One(shard) => shard,
            LockedShards::Some(shards) => shards[place].1,
        }
    }

    #[inline]
    fn at_mut(&mut self, place: usize) -> &mut Shard {
        match self {
            LockedShards::One(shard) => shard,
            LockedShards::Some(shards) => shards[place].1,
        }
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            LockedShards::One(_) => 1,
            LockedShards::Some(shards) => shards.len(),
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Shard> {
        (0..self.len()).map(|place| self.at(place))
    }
}

/// The context of one call. Every access to keys goes through it.
pub struct Cx<'a> {
    pub(crate) shards: LockedShards<'a>,
    pub(crate) sharding: &'a Sharding,
    pub(crate) hasher: &'a KeyHasher,
    pub(crate) config: &'a EngineConfig,
    pub(crate) libraries: &'a Libraries,
    pub(crate) policies: &'a Policies,
    pub(crate) sites: Option<&'a dyn Sites>,
    pub(crate) effects: &'a mut Effects,
    pub(crate) stamp: Stamp,
    /// The time by which keys expire: the stamp's, unless a primary decides.
    pub(crate) expiry_now_ms: i64,
    pub(crate) rng: Rng,
    pub(crate) db: u32,
    pub(crate) may_block: bool,
    pub(crate) no_touch: bool,
    /// What the prefetch found out about the call's first key.
    pub(crate) hint: Prefetched,
}

impl Cx<'_> {
    /// The call's time, Unix milliseconds.
    pub fn now_ms(&self) -> i64 {
        self.stamp.now_ms
    }

    /// The time up to which keys and fields have expired for this call: [`Cx::now_ms`], or the
    /// beginning of time where the call is a primary's, see [`Stamp::FOLLOWED`].
    pub fn expiry_now_ms(&self) -> i64 {
        self.expiry_now_ms
    }

    /// The call's stamp.
    pub fn stamp(&self) -> &Stamp {
        &self.stamp
    }

    /// The call's random numbers.
    pub fn rng(&mut self) -> &mut Rng {
        &mut self.rng
    }

    /// The settings.
    pub fn config(&self) -> &EngineConfig {
        self.config
    }

    /// The selected database.
    pub fn db(&self) -> u32 {
        self.db
    }

    /// Whether the client can be blocked; not so in a transaction or a script.
    pub fn may_block(&self) -> bool {
        self.may_block
    }

    /// Counts changes that no key stands for (a FLUSHALL, a new consumer).
    pub fn add_dirty(&mut self, changes: u64) {
        self.effects.dirty += changes;
    }

    #[inline]
    fn hash(&self, key: &[u8]) -> u64 {
        if self.hint.is_of(key) { self.hint.hash } else { self.hasher.hash(key) }
    }

    /// The hash of a key, and where the prefetch has seen its entry.
    #[inline]
    fn near(&self, key: &[u8]) -> (u64, Place) {
        if self.hint.is_of(key) {
            (self.hint.hash, self.hint.place)
        } else {
            (self.hasher.hash(key), Place::NONE)
        }
    }

    /// The place of the shard of `key` among those that are locked.
    #[inline]
    fn shard_at(&self, key: &[u8]) -> usize {
        match &self.shards {
            LockedShards::One(_) => 0,
            shards if self.hint.is_of(key) && self.sharding.is_fixed() => {
                shards.place_of(self.hint.shard)
            }
            shards => shards.place_of(self.sharding.of(key)),
        }
    }

    #[inline]
    fn shard(&self, key: &[u8]) -> &Shard {
        self.shards.at(self.shard_at(key))
    }

    #[inline]
    fn shard_mut(&mut self, key: &[u8]) -> &mut Shard {
        let place = self.shard_at(key);
        self.shards.at_mut(place)
    }

    /// The live entry of `key`; counts as an access and as a hit or a miss.
    #[inline]
    pub fn get(&self, key: &[u8]) -> Option<EntryRef<'_>> {
        let Some(entry) = self.peek(key) else {
            self.missed(key);
            return None;
        };
        self.effects.hits.set(self.effects.hits.get() + 1);
        self.touch(&entry);
        Some(entry)
    }

    /// The live entry of `key`; counts as a hit or a miss but not as an access.
    #[inline]
    pub fn look(&self, key: &[u8]) -> Option<EntryRef<'_>> {
        let entry = self.peek(key);
        match entry {
            Some(_) => self.effects.hits.set(self.effects.hits.get() + 1),
            None => self.missed(key),
        }
        entry
    }

    /// The live entry of `key`; not an access.
    #[inline]
    pub fn peek(&self, key: &[u8]) -> Option<EntryRef<'_>> {
        let db = self.shard(key).db(self.db);
        let (hash, place) = self.near(key);
        let Some(entry) = db.find_near(hash, place, key) else {
            if db.cold().is_some() {
                self.meet_cold(db, key);
            }
            return None;
        };
        if entry.expired(self.expiry_now_ms) {
            self.effects.lapsed.borrow_mut().push((self.db, key.into()));
            return None;
        }
        Some(EntryRef::new(entry, db))
    }

    /// Notes that the value of a key is needed if it is on disk: the call is run again with it.
    #[cold]
    fn meet_cold(&self, db: &Db, key: &[u8]) {
        if let Some(cold) = db.find_cold(self.hash(key), key) {
            if cold.expired(self.expiry_now_ms) {
                self.effects.lapsed.borrow_mut().push((self.db, key.into()));
            } else {
                if self.valid_part(db, cold.row, key).is_none() {
                    let often = db.is_used(self.hash(key), self.config.hot_threshold);
                    self.effects.cold.need_value(self.db, key, often);
                }
            }
        }
    }

    /// What was read for this call of a key's large value, whose row this is.
    fn valid_part(&self, db: &Db, row: RowId, key: &[u8]) -> Option<&Part> {
        self.effects.cold.part(row, key, |number| db.is_read(row, number))
    }

    /// What this call asks of the large value of a live key, where that is on disk: for commands whose table entry says
    /// what they read, after [`Cx::get`] has found nothing.
    pub fn part(&self, key: &[u8]) -> Option<&Part> {
        if !self.effects.cold.has_parts() {
            return None;
        }
        let db = self.shard(key).db(self.db);
        let cold = db.find_cold(self.hash(key), key)?;
        if cold.expired(self.expiry_now_ms) {
            return None;
        }
        self.valid_part(db, cold.row, key)
    }

    /// Whether any key of the selected database may be on disk, as far as the locked shards tell.
    pub fn has_cold(&self) -> bool {
        self.shards.iter().any(|shard| shard.db(self.db).cold().is_some())
    }

    /// Stops the call, before it has changed anything, if it met keys whose values are on disk. For
    /// commands that write and find keys which their arguments do not name.
    ///
    /// # Errors
    /// [`Stop::Cold`]
    pub fn check_cold(&self) -> Result<(), Stop> {
        if self.effects.cold.is_lacking() { Err(Stop::Cold) } else { Ok(()) }
    }

    /// When the live key expires, whether its value is in memory or on disk; `None` without the key.
    pub fn key_expiry(&self, key: &[u8]) -> Option<Option<i64>> {
        let (db, hash) = (self.shard(key).db(self.db), self.hash(key));
        let (expiry, expired) = match db.find(hash, key) {
            Some(entry) => (entry.expiry(), entry.expired(self.expiry_now_ms)),
            None => {
                let cold = db.find_cold(hash, key)?;
                (cold.expiry, cold.expired(self.expiry_now_ms))
            }
        };
        if expired {
            self.effects.lapsed.borrow_mut().push((self.db, key.into()));
            return None;
        }
        Some(expiry)
    }

    /// Whether the live key is there, in memory or on disk; not an access.
    pub fn exists(&self, key: &[u8]) -> bool {
        self.key_expiry(key).is_some()
    }

    /// The same, and it counts as a hit or a miss, as [`Cx::look`] does.
    pub fn look_expiry(&self, key: &[u8]) -> Option<Option<i64>> {
        let found = self.key_expiry(key);
        match found {
            Some(_) => self.effects.hits.set(self.effects.hits.get() + 1),
            None => self.missed(key),
        }
        found
    }

    /// Where the value of a live key is: `hot`, `cached` or `cold`.
    pub fn tier_of(&self, key: &[u8]) -> Option<&'static str> {
        self.key_expiry(key)?;
        Some(Tier::tier_of(self.shard(key), self.db, self.hasher, key))
    }

    #[cold]
    fn missed(&self, key: &[u8]) {
        if self.part(key).is_some() {
            self.effects.hits.set(self.effects.hits.get() + 1);
            if !self.no_touch {
                let db = self.shard(key).db(self.db);
                db.use_cached(self.hash(key), self.config.hot_threshold);
            }
            return;
        }
        self.effects.misses.set(self.effects.misses.get() + 1);
        if self.config.notify.contains(Event::KEY_MISS) {
            self.effects.missed.borrow_mut().push((self.db, key.into()));
        }
    }

    #[inline]
    fn touch(&self, entry: &EntryRef<'_>) {
        if self.no_touch {
            return;
        }
        if entry.is_backed() {
            self.touch_cached(entry.key());
        }
        let old = entry.access();
        let new = match self.config.access {
            AccessScheme::Recency => access::recency(self.stamp.now_ms),
            AccessScheme::Frequency => {
                let random = self.stamp.seed ^ self.effects.hits.get().wrapping_mul(0x9E37_79B9);
                let random = Rng::new(random).next_u64();
                access::frequency_touch(old, self.stamp.now_ms, self.config.frequency, random)
            }
        };
        if new != old {
            entry.set_access(new);
        }
    }

    /// A key that was read from disk was used.
    #[cold]
    fn touch_cached(&self, key: &[u8]) {
        let db = self.shard(key).db(self.db);
        if db.use_cached(self.hash(key), self.config.hot_threshold) {
            self.effects.cold.used.borrow_mut().push((self.db, key.into()));
        }
    }

    /// The live entry of `key`, to be edited. A key past its expiry is deleted first.
    #[inline]
    pub fn get_mut(&mut self, key: &[u8]) -> Option<EntryMut<'_>> {
        let ((hash, place), db, now_ms) = (self.near(key), self.db, self.stamp.now_ms);
        self.purge((hash, place), key);
        let recency = self.config.access == AccessScheme::Recency;
        let mut entry = self.shard_mut(key).db_mut(db).entry(hash, place, key)?;
        if recency {
            entry.set_access(access::recency(now_ms));
        }
        Some(entry)
    }

    /// Deletes `key` if it is past its expiry.
    #[inline]
    fn purge(&mut self, (hash, place): (u64, Place), key: &[u8]) {
        let db = self.shard(key).db(self.db);
        if db.expiring() == 0 {
            return;
        }
        let now_ms = self.expiry_now_ms;
        let expired = match db.find_near(hash, place, key) {
            Some(entry) => entry.expired(now_ms),
            None => db.find_cold(hash, key).is_some_and(|cold| cold.expired(now_ms)),
        };
        if expired {
            self.expire(key);
        }
    }

    #[cold]
    fn expire(&mut self, key: &[u8]) {
        self.take_out(key);
        self.tell_before(&[b"DEL", key]);
        self.effects.expired_keys += 1;
        self.modified_by(key, false);
        self.notify(Event::EXPIRED, "expired", key);
    }

    /// Sets `key` to `value`, whatever it was; it has no expiry then.
    #[inline]
    pub fn insert(&mut self, key: &[u8], value: NewValue<'_>) -> EntryMut<'_> {
        self.put(key, value, false)
    }

    /// Sets `key` to `value`, whatever it was, and keeps its expiry.
    pub fn insert_keeping_expiry(&mut self, key: &[u8], value: NewValue<'_>) -> EntryMut<'_> {
        self.put(key, value, true)
    }

    #[inline]
    fn put(&mut self, key: &[u8], value: NewValue<'_>, keep_expiry: bool) -> EntryMut<'_> {
        let (hash, place) = self.near(key);
        self.purge((hash, place), key);
        if self.config.notify.contains(Event::NEW) && !self.exists(key) {
            self.notify(Event::NEW, "new", key);
        }
        let (db, now_ms, scheme) = (self.db, self.stamp.now_ms, self.config.access);
        let locked = self.shard_at(key);
        let shard = self.shards.at_mut(locked);
        if shard.is_awaited(db, key) {
            self.effects.ready.push((db, key.into()));
        }
        let database = shard.db_mut(db);
        let (mut entry, fresh) =
            database.put((hash, place), key, value, keep_expiry, &mut self.effects.garbage);
        match scheme {
            AccessScheme::Recency => entry.set_access(access::recency(now_ms)),
            AccessScheme::Frequency if fresh => entry.set_access(access::frequency_new(now_ms)),
            AccessScheme::Frequency => {}
        }
        entry
    }

    /// Removes `key`; says whether it was there. A key past its expiry counts as absent: that it goes is a
    /// change all the same, which has to be on record.
    pub fn remove(&mut self, key: &[u8]) -> bool {
        self.purge(self.near(key), key);
        self.take_out(key)
    }

    /// Takes a key out of its database, past its expiry or not; says whether it was there.
    fn take_out(&mut self, key: &[u8]) -> bool {
        let (hash, db) = (self.hash(key), self.db);
        let locked = self.shard_at(key);
        let shard = self.shards.at_mut(locked);
        if shard.is_awaited(db, key) {
            self.effects.ready.push((db, key.into()));
        }
        let before = self.effects.garbage.len();
        let there = shard.db_mut(db).remove(hash, key, &mut self.effects.garbage);
        // Small values are dropped here: handing them to another thread would cost more.
        if self.effects.garbage.len() > before
            && !self.effects.garbage.last().is_some_and(|value| value.is_heavy())
        {
            self.effects.garbage.pop();
        }
        there
    }

    /// Sets or clears the expiry of a live key; says whether the key is there.
    pub fn set_expiry(&mut self, key: &[u8], expiry: Option<i64>) -> bool {
        match self.get_mut(key) {
            Some(mut entry) => {
                entry.set_expiry(expiry);
                true
            }
            None => {
                let (hash, db) = (self.hash(key), self.db);
                let database = self.shard_mut(key).db_mut(db);
                let cold = database.find_cold(hash, key).is_some();
                if cold {
                    database.set_cold_expiry(hash, key, expiry);
                }
                cold
            }
        }
    }

    /// The key was modified: counts it, tells who watches it and notifies.
    #[inline]
    pub fn changed(&mut self, key: &[u8], class: Event, event: &'static str) {
        self.modified(key);
        self.notify(class, event, key);
    }

    /// The key was modified, without a notification of its own.
    #[inline]
    pub fn modified(&mut self, key: &[u8]) {
        self.modified_by(key, true);
    }

    /// A value has another representation now and is the same to all who ask: the call is recorded, as replicas are to
    /// have that representation too, and nobody is told.
    pub fn reformed(&mut self) {
        self.effects.dirty += 1;
    }

    #[inline]
    fn modified_by(&mut self, key: &[u8], by_caller: bool) {
        self.effects.dirty += 1;
        let (db, at) = (self.db, self.shard_at(key));
        self.shards.at_mut(at).modified(db, key, by_caller, &mut self.effects.invalidated);
    }

    /// Adds a keyspace notification, if its class is asked for.
    #[inline]
    pub fn notify(&mut self, class: Event, event: &'static str, key: &[u8]) {
        if self.config.notify.intersects(class) {
            let db = self.db;
            self.effects.notifications.push(Notification { db, class, event, key: key.into() });
        }
    }

    /// A list, sorted set or stream got elements: blocked clients may go on.
    #[inline]
    pub fn ready(&mut self, key: &[u8]) {
        if self.shard(key).is_awaited(self.db, key) {
            self.effects.ready.push((self.db, key.into()));
        }
    }

    /// Whether followers are to be told of the call: otherwise there is no need to find out what.
    #[inline]
    pub fn is_told(&self) -> bool {
        self.effects.told.active
    }

    /// Tells followers to run this command, and others that are told, instead of the call itself.
    #[inline]
    pub fn tell(&mut self, args: &[&[u8]]) {
        self.tell_nothing();
        self.tell_before(args);
    }

    /// Followers are not to run the call itself.
    #[inline]
    pub fn tell_nothing(&mut self) {
        self.effects.told.instead = true;
    }

    /// Tells followers to run this command before the call itself.
    #[inline]
    pub fn tell_before(&mut self, args: &[&[u8]]) {
        if self.effects.told.active {
            self.effects.told.batch.push(self.db, args);
        }
    }

    /// Tells followers to run this command behind the call itself.
    pub fn tell_after(&mut self, args: &[&[u8]]) {
        if self.effects.told.active {
            self.effects.told.after.push(self.db, args);
        }
    }

    /// Tells followers what a key holds now, instead of the call itself: for what depends on the
    /// order of elements that have none.
    pub fn tell_value(&mut self, key: &[u8]) {
        if !self.is_told() {
            return;
        }
        let mut payload = Vec::new();
        let entry = self.peek(key);
        let entry = entry.filter(|entry| rdb::encode(entry, self.stamp.now_ms, &mut payload));
        let Some(entry) = entry else { return self.tell(&[b"DEL", key]) };
        rdb::seal(&mut payload);
        let at_ms = entry.expiry().unwrap_or(0).to_string();
        self.tell(&[b"RESTORE", key, at_ms.as_bytes(), &payload, b"REPLACE", b"ABSTTL"]);
    }

    /// What is left of a stream entry's sequence number divided by [`Stamp::SITES`], so that no two
    /// sites give the same id; `None` where there is only one site.
    pub fn stream_part(&self) -> Option<u64> {
        let site = u64::from(self.stamp.site);
        (1..Stamp::SITES).contains(&site).then_some(site)
    }

    /// Counts keys that were evicted.
    pub fn count_evicted(&mut self, keys: u64) {
        self.effects.evicted_keys += keys;
    }

    /// Counts hash fields that had expired.
    pub fn count_expired_fields(&mut self, fields: u64) {
        self.effects.expired_fields += fields;
    }

    /// Removes `key` if it is past its expiry; says whether it was.
    pub fn remove_if_expired(&mut self, key: &[u8]) -> bool {
        let before = self.effects.expired_keys;
        self.purge(self.near(key), key);
        self.effects.expired_keys != before
    }

    /// Runs `work` with another database selected.
    pub fn in_db<T>(&mut self, db: u32, work: impl FnOnce(&mut Self) -> T) -> T {
        let before = std::mem::replace(&mut self.db, db);
        let result = work(self);
        self.db = before;
        result
    }

    /// The number of a database from an argument.
    ///
    /// # Errors
    /// Where it is not a number or there is no such database, with Redis's texts.
    pub fn parse_db(&self, arg: &[u8]) -> Result<u32, Error> {
        let db = crate::number::parse_i64(arg).ok_or(Error::NotInteger)?;
        if i32::try_from(db).is_err() {
            return Err(Error::text(
                "ERR value is out of range, value must between -2147483648 and 2147483647",
            ));
        }
        match u32::try_from(db) {
            Ok(db) if db < self.config.databases => Ok(db),
            _ => Err(Error::text("ERR DB index is out of range")),
        }
    }
}

/// Access to whole databases; for commands with the flag `WHOLE_KEYSPACE`.
impl Cx<'_> {
    /// Keys of the selected database, those past their expiry included.
    pub fn db_len(&self) -> usize {
        self.shards.iter().map(|shard| shard.db(self.db).len()).sum()
    }

    /// Visits the live entries of the selected database that are in memory, in no particular order.
    pub fn for_each<'s>(&'s self, mut each: impl FnMut(EntryRef<'s>)) {
        let now_ms = self.stamp.now_ms;
        for shard in self.shards.iter() {
            let db = shard.db(self.db);
            db.table().for_each(|entry| {
                if !entry.expired(now_ms) {
                    each(EntryRef::new(entry, db));
                }
            });
        }
    }

    /// Empties a database; returns the number of keys it had.
    pub fn flush_db(&mut self, db: u32) -> usize {
        let mut removed = 0;
        for place in 0..self.shards.len() {
            let shard = self.shards.at_mut(place);
            let (hasher, now) = (self.hasher, shard.db(db));
            shard.all_modified(db, |key| now.holds(hasher.hash(key), key));
            shard.with_tracked(TrackTable::clear);
            let awaited = shard.awaited_keys(db).map(|key| (db, key.into()));
            self.effects.ready.extend(awaited.collect::<Vec<_>>());
            let (len, old) = shard.flush(db);
            removed += len;
            self.effects.flushed.extend(old);
        }
        self.effects.all_invalidated = true;
        self.effects.dirty += removed as u64;
        removed
    }

    /// Swaps two databases.
    pub fn swap_dbs(&mut self, a: u32, b: u32) {
        for place in 0..self.shards.len() {
            let shard = self.shards.at_mut(place);
            for (from, to) in [(a, b), (b, a)] {
                let there = |db: &Db, key: &[u8]| db.holds(self.hasher.hash(key), key);
                shard.all_modified(from, |key| {
                    there(shard.db(from), key) || there(shard.db(to), key)
                });
            }
            shard.with_tracked(TrackTable::clear);
            shard.swap_dbs(a, b);
            for db in [a, b] {
                let awaited = shard.awaited_keys(db).map(|key| (db, key.into()));
                self.effects.ready.extend(awaited.collect::<Vec<_>>());
            }
        }
        self.effects.all_invalidated = true;
        self.effects.dirty += 1;
    }
}
