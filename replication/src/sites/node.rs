//! A site with its engine: what the server and the simulator use.

use super::codec::{self, Batch, Item, VERSION};
use super::derive::{Now, derive};
use super::element::SiteId;
use super::intent::{Intent, Meaning, asserts, meaning};
use super::key::{Key, Kind};
use super::link::{Outgoing, Plan};
use super::merge::{Before, merge};
use super::peers::Peers;
use super::recent::{GROUP_BYTES_MAX, Recent};
use super::site::Site;
use super::view::Held;
use crate::bug;
use crate::bytes::{Malformed, Reader};
use ashlar_engine::command::KeyList;
use ashlar_engine::context::Cx;
use ashlar_engine::engine::command_table;
use ashlar_engine::executor::{Call, Executor};
use ashlar_engine::sites::{After, RECORD, Sites};
use ashlar_engine::slot::slot_of;
use ashlar_engine::stamp::Stamp;
use ashlar_engine::value::Type;
use ashlar_engine::value::view::View;
use parking_lot::{Mutex, MutexGuard, RwLock};
use std::borrow::Cow;

/// Elements of a record of [`Sites::dump`].
const DUMP_ELEMENTS_MAX: usize = 1_000;
/// Keys that one part of a dump looks at, while all keys are locked.
const DUMP_KEYS_MAX: usize = 1_000;

/// Says which keys several sites write.
pub type IsGlobal = Box<dyn Fn(&[u8]) -> bool + Send + Sync>;

/// Most keys with values that are gone that wait for their group to agree on it; more are found again.
const LOST_MAX: usize = 1_000;

/// A site with its engine.
pub struct SiteNode {
    site: Mutex<Site>,
    is_global: RwLock<IsGlobal>,
    /// Of a group: keys, and elements whose values have expired.
    lost: Mutex<Vec<Lost>>,
}

/// A key, and elements whose values have expired.
pub type Lost = (Vec<u8>, Vec<Vec<u8>>);

/// Why a batch was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Something is missing before it: the sender is to go on from this stamp.
    Gap(u64),
    /// It is none.
    Malformed,
}

impl SiteNode {
    /// A site that knows nothing yet; `seed` is for the places of keys, and nobody else's to know.
    pub fn new(id: SiteId, seed: u64, is_global: IsGlobal) -> SiteNode {
        SiteNode {
            site: Mutex::new(Site::new(id, seed)),
            is_global: RwLock::new(is_global),
            lost: Mutex::default(),
        }
    }

    /// The state of a group of a cluster: its log has what led to it, so that no records are made.
    pub(super) fn of_group(id: SiteId, seed: u64, is_global: IsGlobal) -> SiteNode {
        let node = SiteNode::new(id, seed, is_global);
        {
            let mut site = node.site.lock();
            site.group = Some(Default::default());
            // A link that is at 0 has sent nothing yet, and begins with all keys, over and over.
            site.clock.observe(1);
            site.recent = Recent::with_bytes(GROUP_BYTES_MAX);
        }
        node
    }

    /// Has the log keep a change of a key's state; that of a group has what led to it.
    fn record(&self, exec: &mut Executor<'_>, key: &[u8], record: &[u8], stamp: &Stamp) {
        if !self.site.lock().is_group() {
            exec.run_own(&[RECORD.as_bytes(), key, record], stamp);
        }
    }

    /// Elements whose values were found to have expired, which the group is to agree on.
    pub fn take_lost(&self) -> Vec<Lost> {
        std::mem::take(&mut *self.lost.lock())
    }

    /// Removes elements of a group whose values have expired, those that still have none.
    pub(super) fn settle_lost(
        &self,
        exec: &mut Executor<'_>,
        key: &[u8],
        names: &[&[u8]],
        stamp: &Stamp,
    ) {
        self.at_key(exec, key, stamp, |cx| {
            let value = cx.peek(key).map(|entry| Held(View::new(&entry, cx.now_ms())));
            let mut site = self.site.lock();
            let Some(state) = site.key(key).filter(|_| site.has_slot_of(key)) else { return };
            let is_lost = |name: &&&[u8]| {
                let held = state.get(name).is_some_and(|element| element.is_held());
                let held = held && Kind::of(name) != Some(Kind::Set);
                held && value.as_ref().and_then(|value| value.get(name)).is_none()
            };
            let lost: Vec<&[u8]> = names.iter().filter(is_lost).copied().collect();
            drop(state);
            site.edit(key, cx.now_ms(), |edit| lost.iter().for_each(|name| edit.remove(name)));
        });
    }

    /// What the site knows. Nobody may lock shards of the engine while this is held.
    pub fn site(&self) -> MutexGuard<'_, Site> {
        self.site.lock()
    }

    /// From now on these keys are the ones that several sites write.
    pub fn set_global(&self, is_global: IsGlobal) {
        *self.is_global.write() = is_global;
    }

    /// Whether several sites write a key.
    pub fn is_global(&self, key: &[u8]) -> bool {
        (self.is_global.read())(key)
    }

    /// The site has been brought up to date from its log.
    pub fn recovered(&self) {
        self.site.lock().recovered();
    }

    /// Moves the clock to the time and records it, so that this site does nothing at or below the stamp
    /// that is returned, not even after a restart with a clock that is wrong.
    pub fn promise(&self, exec: &mut Executor<'_>, stamp: &Stamp) -> u64 {
        let own = self.site.lock().promise(stamp.now_ms);
        self.record_vector(exec, stamp);
        own
    }

    /// Forgets what every site knows to be gone, of some keys, and removes those that have expired
    /// everywhere.
    pub fn tidy(&self, exec: &mut Executor<'_>, own: u64, stamp: &Stamp, keys_max: usize) {
        let expired = self.site.lock().forget(own, stamp.now_ms, keys_max);
        for key in expired {
            let record = self.at_key(exec, &key, stamp, |_| {
                let mut site = self.site.lock();
                let state = site.key(&key).and_then(|state| state.expiry());
                if state.is_none_or(|at_ms| at_ms >= stamp.now_ms) {
                    return None;
                }
                site.edit(&key, stamp.now_ms, |edit| edit.remove_all()).1
            });
            if let Some(record) = record {
                self.record(exec, &key, &record, &merged(stamp));
            }
        }
        exec.release();
    }

    fn record_vector(&self, exec: &mut Executor<'_>, stamp: &Stamp) {
        let record = vector_record(&self.site.lock());
        self.record(exec, b"", &record, &merged(stamp));
        exec.release();
    }

    /// Changes the list of the other sites, and records it.
    pub fn change_peers(
        &self,
        exec: &mut Executor<'_>,
        stamp: &Stamp,
        change: impl FnOnce(&mut Peers),
    ) {
        let record = {
            let mut site = self.site.lock();
            change(&mut site.peers);
            site.peers.version += 1;
            peers_record(&site)
        };
        // It is taken in again from the record, as after a restart.
        exec.run_own(&[RECORD.as_bytes(), b"", &record], &merged(stamp));
        exec.release();
    }

    /// Takes in keys that have become ones which several sites write, and of which nothing is known.
    pub fn adopt(&self, exec: &mut Executor<'_>, stamp: &Stamp) {
        exec.lock_all();
        let mut after = After::default();
        let args: [&[u8]; 3] = [RECORD.as_bytes(), b"", b""];
        let found = command_table().find(args[0]);
        let command = found.expect("the internal commands are in the table").1;
        let call = Call { command, args: &args, db: 0, stamp, may_block: false, no_touch: true };
        exec.inspect(&call, |cx| self.adopt_all(cx, &mut after));
        for (key, record) in &after.records {
            self.record(exec, key, record, &merged(stamp));
        }
        exec.release();
    }

    fn adopt_all(&self, cx: &mut Cx<'_>, after: &mut After) {
        let mut keys: Vec<Vec<u8>> = Vec::new();
        cx.for_each(|entry| {
            if self.is_global(entry.key()) {
                keys.push(entry.key().to_vec());
            }
        });
        keys.retain(|key| self.site.lock().key(key).is_none());
        // Replicas of a group may have them in different places.
        keys.sort_unstable();
        for key in keys {
            self.derive(cx, &key, &Intent::Replace, after);
        }
    }

    /// What a link sends next.
    pub fn plan(&self, link: &mut Outgoing, own: u64) -> Plan {
        link.plan(&self.site.lock(), own)
    }

    /// Reads the elements of a plan, with their values.
    pub fn read(&self, exec: &mut Executor<'_>, plan: &Plan, own: u64, stamp: &Stamp) -> Batch {
        let mut items = Vec::with_capacity(plan.elements.len());
        for of_key in plan.elements.chunk_by(|a, b| a.0 == b.0) {
            let Some((key, _)) = of_key.first() else { continue };
            let names = of_key.iter().map(|(_, name)| name.as_slice());
            let lost =
                self.at_key(exec, key, stamp, |cx| self.read_key(cx, key, names, &mut items));
            if let Some(record) = lost {
                self.record(exec, key, &record, &merged(stamp));
            }
        }
        exec.release();
        let site = self.site.lock();
        let vector = site.vector(own.max(plan.to));
        let slots = site.group.as_ref().map(super::group::GroupSlots::told);
        Batch { from: plan.from, to: plan.to, vector, slots, items }
    }

    /// Looks at a key with its lock held, after its value was brought into memory.
    fn at_key<T>(
        &self,
        exec: &mut Executor<'_>,
        key: &[u8],
        stamp: &Stamp,
        look: impl FnOnce(&mut Cx<'_>) -> T,
    ) -> T {
        let args: [&[u8]; 3] = [RECORD.as_bytes(), key, b""];
        let found = command_table().find(args[0]);
        let command = found.expect("the internal commands are in the table").1;
        let call = Call { command, args: &args, db: 0, stamp, may_block: false, no_touch: true };
        exec.lock_keys(&[key]);
        if exec.inspect(&call, |cx| cx.exists(key) && cx.peek(key).is_none()) {
            exec.run_own(&[b"STRLEN", key], stamp);
        }
        exec.inspect(&call, look)
    }

    /// Adds elements with their values. What has expired here before it was sent has no value any
    /// more, and nobody else has it: it is removed, so that it does not come back without one where
    /// another site lets go of the expiry. Returns the record of that.
    fn read_key<'a>(
        &self,
        cx: &mut Cx<'_>,
        key: &[u8],
        names: impl Iterator<Item = &'a [u8]>,
        items: &mut Vec<Item>,
    ) -> Option<Vec<u8>> {
        let value = cx.peek(key).map(|entry| Held(View::new(&entry, cx.now_ms())));
        let mut site = self.site.lock();
        let state = site.key(key)?;
        let mut lost: Vec<&[u8]> = Vec::new();
        for name in names {
            let Some(element) = state.get(name) else { continue };
            let mut element = element.into_owned();
            if element.is_held() && Kind::of(name) != Some(Kind::Set) {
                let Some(bytes) = value.as_ref().and_then(|value| value.get(name)) else {
                    lost.push(name);
                    continue;
                };
                element.hydrate(&bytes);
            }
            items.push(Item { key: key.to_vec(), name: name.to_vec(), element });
        }
        if lost.is_empty() {
            return None;
        }
        drop(state);
        if site.is_group() {
            let mut all = self.lost.lock();
            if all.len() < LOST_MAX {
                all.push((key.to_vec(), lost.iter().map(|name| name.to_vec()).collect()));
            }
            return None;
        }
        site.edit(key, cx.now_ms(), |edit| lost.iter().for_each(|name| edit.remove(name))).1
    }

    /// Takes in a batch of another site, and brings the engine to it.
    ///
    /// # Errors
    /// If something is missing before it.
    pub fn take(
        &self,
        exec: &mut Executor<'_>,
        from: SiteId,
        batch: &Batch,
        stamp: &Stamp,
    ) -> Result<(), Refused> {
        let (known, held) = {
            let site = self.site.lock();
            (site.known_of(from), site.group.as_ref().map(|group| group.held.clone()))
        };
        if batch.from > known && !bug!(CursorRunsAhead) {
            return Err(Refused::Gap(known));
        }
        let merged = merged(stamp);
        for items in batch.items.chunk_by(|a, b| a.key == b.key) {
            if held.as_ref().is_some_and(|held| !held.contains(slot_of(&items[0].key))) {
                continue;
            }
            // All that it has, for it is new here. Slots that move bring a group what others know and have sent on.
            let is_first = batch.from == 0 && held.is_none() && batch.slots.is_none();
            self.take_key(exec, items, is_first, &merged, known);
        }
        let news = {
            let mut site = self.site.lock();
            site.member_knows(from, &batch.vector, batch.slots.as_ref());
            let before = site.known_of(from);
            site.now_knows(from, batch.to);
            !batch.items.is_empty() && site.known_of(from) > before
        };
        if news {
            // Otherwise it is recorded with the next promise.
            self.record_vector(exec, stamp);
        }
        exec.release();
        Ok(())
    }

    fn take_key(
        &self,
        exec: &mut Executor<'_>,
        items: &[Item],
        is_first: bool,
        stamp: &Stamp,
        news_after: u64,
    ) {
        let Some(key) = items.first().map(|first| &first.key) else { return };
        let (calls, record) = self.at_key(exec, key, stamp, |cx| {
            let entry = cx.peek(key);
            let before = Before {
                expiry: entry.as_ref().and_then(|entry| entry.expiry()),
                value: entry.map(|entry| Held(View::new(&entry, cx.now_ms()))),
                now_ms: cx.now_ms(),
                news_after,
            };
            let mut site = self.site.lock();
            let (mut items, mut undone) = (Cow::Borrowed(items), Vec::new());
            if is_first {
                undone = site.undo_forgotten(items.to_mut(), cx.now_ms());
            }
            let mut open = site.open(key);
            let mut more = Vec::new();
            let calls = merge(&mut open, key, &items, &before, &mut more);
            let names = items.iter().map(|item| item.name.as_slice());
            let record = open.record(names.chain(more.iter().map(Vec::as_slice)));
            drop(open);
            undone.iter().for_each(|(stamp, name)| site.tell(*stamp, key, name));
            (calls, record)
        });
        exec.begin_batch();
        for call in calls {
            exec.run_own(&call, stamp);
        }
        self.record(exec, key, &record, stamp);
        exec.commit_batch();
    }

    fn derive(&self, cx: &mut Cx<'_>, key: &[u8], intent: &Intent<'_>, after: &mut After) {
        if !self.is_global(key) {
            return;
        }
        let entry = cx.peek(key);
        if entry.is_none() && cx.exists(key) && *intent != Intent::Expiry {
            // Its value is on disk: the call did not look at it, and so has not changed it.
            return;
        }
        let expiry = cx.key_expiry(key).flatten();
        let now_ms = cx.now_ms();
        let value = entry.map(|entry| Held(View::new(&entry, now_ms)));
        let now = Now { value, expiry, now_ms };
        let mut site = self.site.lock();
        let (fixes, record) = site.edit(key, now_ms, |edit| derive(edit, key, &now, intent));
        after.records.extend(record.map(|record| (key.to_vec(), record)));
        after.fixes.extend(fixes);
    }
}

/// Whether a key is a set: a call that only makes sure of a member says nothing of others.
fn is_set(cx: &Cx<'_>, key: &[u8]) -> bool {
    cx.peek(key).is_some_and(|entry| entry.type_of() == Type::Set)
}

/// The stamp of calls that are merged.
fn merged(stamp: &Stamp) -> Stamp {
    Stamp { site: Stamp::MERGED, ..*stamp }
}

impl Sites for SiteNode {
    fn concerns(&self, call: &Call<'_>, _: Option<usize>) -> bool {
        if call.stamp.site == Stamp::MERGED && !bug!(Echo) {
            return false;
        }
        let name = call.args.first().copied().unwrap_or(b"");
        if name == RECORD.as_bytes() {
            return false;
        }
        let crosses = [&b"MOVE"[..], b"COPY", b"SWAPDB", b"FLUSHALL"];
        if call.db != 0 && !crosses.iter().any(|other| name.eq_ignore_ascii_case(other)) {
            return false;
        }
        let mut positions = KeyList::new();
        call.command.keys.positions(call.args, &mut positions);
        let is_global = self.is_global.read();
        let named = positions.iter().filter_map(|at| call.args.get(*at));
        positions.is_empty() || named.into_iter().any(|key| is_global(key))
    }

    fn after(&self, cx: &mut Cx<'_>, call: &Call<'_>, _: Option<usize>, changed: bool) -> After {
        let mut after = After::default();
        if !changed && !asserts(call.args.first().copied().unwrap_or(b"")) {
            return after;
        }
        cx.in_db(0, |cx| match meaning(call) {
            Meaning::Keys(keys) => {
                for (key, intent) in keys {
                    if !changed && !is_set(cx, key) {
                        continue;
                    }
                    self.derive(cx, key, &intent, &mut after);
                }
            }
            Meaning::Adopt => self.adopt_all(cx, &mut after),
            Meaning::Everything => {
                let mut keys: Vec<Vec<u8>> = {
                    let site = self.site.lock();
                    site.keys().map(|(key, _)| key.to_vec()).collect()
                };
                cx.for_each(|entry| {
                    if self.is_global(entry.key()) {
                        keys.push(entry.key().to_vec());
                    }
                });
                keys.sort_unstable();
                keys.dedup();
                for key in keys {
                    self.derive(cx, &key, &Intent::Replace, &mut after);
                }
            }
        });
        after
    }

    fn restore(&self, key: &[u8], record: &[u8]) {
        let mut site = self.site.lock();
        // What is no record was not written by this version; the checksum of the log says that it is
        // as it was written.
        let _ = restore(&mut site, key, record);
    }

    fn dump(&self, from: Option<Vec<u8>>, put: &mut dyn FnMut(&[u8], &[u8])) -> Option<Vec<u8>> {
        let site = self.site.lock();
        if from.is_none() {
            put(b"", &vector_record(&site));
            if site.peers.version > 0 {
                put(b"", &peers_record(&site));
            }
        }
        let block = |place: Vec<u8>| place.try_into().map_or(usize::MAX, usize::from_le_bytes);
        let from = from.map_or(0, block);
        let mut keys = 0;
        for block in from..site.blocks() {
            for (key, state) in site.block(block) {
                let names: Vec<&[u8]> = state.iter().map(|(name, _)| name).collect();
                for names in names.chunks(DUMP_ELEMENTS_MAX) {
                    put(key, &record_of(&state, names));
                }
                keys += 1;
            }
            if keys >= DUMP_KEYS_MAX {
                return Some((block + 1).to_le_bytes().to_vec());
            }
        }
        None
    }
}

/// The record of elements of a key.
pub(super) fn record_of(state: &Key, names: &[&[u8]]) -> Vec<u8> {
    let mut out = vec![VERSION];
    for name in names {
        if let Some(element) = state.get(name) {
            codec::push_bytes(&mut out, name);
            codec::push_element(&mut out, &element);
        }
    }
    out
}

/// First byte of a record that is not of a key but of what is known of each site.
const OF_SITES: u8 = 0xFF;

/// First byte of a record that has the other sites.
const OF_PEERS: u8 = 0xFE;

fn peers_record(site: &Site) -> Vec<u8> {
    let mut out = vec![OF_PEERS];
    site.peers.encode(&mut out);
    out
}

fn vector_record(site: &Site) -> Vec<u8> {
    let mut out = vec![OF_SITES];
    codec::push_vector(&mut out, &site.vector(site.clock.last()));
    if !site.left().is_empty() {
        codec::push_vector(&mut out, site.left());
    }
    out
}

pub(super) fn restore(site: &mut Site, key: &[u8], record: &[u8]) -> Result<(), Malformed> {
    let mut reader = Reader(record);
    match reader.u8()? {
        OF_SITES => {
            for (of, stamp) in codec::read_vector(&mut reader)? {
                site.clock.observe(stamp);
                if of != site.id() {
                    site.now_knows(of, stamp);
                }
            }
            // Release 0.2 and later.
            if !reader.0.is_empty() {
                let left = codec::read_vector(&mut reader)?;
                left.into_iter().for_each(|(of, stamp)| site.knew(of, stamp));
            }
        }
        OF_PEERS => {
            let peers = Peers::decode(&mut reader)?;
            if peers.version >= site.peers.version {
                site.set_peers(peers);
            }
        }
        VERSION => {
            while !reader.0.is_empty() {
                let name = codec::read_bytes(&mut reader)?.to_vec();
                let element = codec::read_element(&mut reader)?;
                site.restore(key, &name, &element);
            }
        }
        _ => return Err(Malformed),
    }
    reader.end()
}
