//! A group of a cluster as a site: the state of its `global` keys is part of what its replicas agree on.
//!
//! ```text
//! client's write  -> the group's log -> engine -> SiteNode (what it meant), on every replica alike
//! link of a peer  -> leader -> SITEMERGE in the group's log -> SiteNode, engine, on every replica alike
//! SiteNode of the leader -> links to the other sites
//! ```
//! To the other sites each group is a site of its own, with a number of its own ([`group_site`]) and only some of the
//! slots. All of it follows from the log: stamps from the time of the entries, so a replica that takes over goes on
//! where the last leader was, and nothing has to be recorded besides. Three things are different from a server that
//! is a site, since slots move between groups:
//!
//! - What a group knows of other sites, it knows of the slots that it has ([`GroupSlots`]). A slot that arrives from a
//!   group that knew less takes that down, and the others send again what came since.
//! - What a group has not sent yet of slots that leave, is sent by the group that gets them ([`Leaves`]).
//! - A removal is forgotten once for its slot each site has a group which says that it has it, and knows.

use super::codec::{self, Batch, Vector};
use super::element::SiteId;
use super::key::Key;
use super::node::{Lost, Refused, SiteNode, record_of, restore};
use super::peers::Peers;
use super::site::{Member, group_site};
use super::slots::Slots;
use super::table::Table;
use crate::bug;
use crate::bytes::{Malformed, Reader, push_bytes, push_len, push_u64};
use crate::topology::SlotRange;
use ashlar_engine::context::Cx;
use ashlar_engine::engine::Engine;
use ashlar_engine::executor::{Call, Executor};
use ashlar_engine::policy::Class;
use ashlar_engine::sites::{After, Sites};
use ashlar_engine::slot::slot_of;
use ashlar_engine::stamp::Stamp;
use parking_lot::RwLock;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

/// Version of the form in snapshots.
const VERSION: u8 = 1;
/// Bytes of keys and names that travel with slots, as they have not been sent to all sites. If there is more, all
/// elements of the slots are sent again.
const LEAVES_BYTES_MAX: usize = 1 << 20;
/// Keys that one entry looks at to forget what all sites know to be gone.
const TIDY_KEYS_MAX: usize = 1_024;

/// The slots of a group, as far as its log tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupSlots {
    /// Those that it has, and that take writes.
    pub held: Slots,
    /// Rises with every change of them.
    pub version: u64,
    /// Those of them that came, while the topology may not have it that they stay: if it gives the move up, what other
    /// sites have told since is gone with them.
    coming: Slots,
    /// Slots that were frozen, until they are gone or take writes again.
    frozen: Vec<Frozen>,
}

/// Slots that were frozen together. What comes and goes from then on is without them.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Frozen {
    slots: Slots,
    /// What was known of other sites by then.
    known: Vector,
    /// Up to where all other sites knew by then what the group had done to them.
    sent: u64,
}

impl GroupSlots {
    fn set(&mut self, held: Slots) {
        if held != self.held {
            self.held = held;
            self.version += 1;
        }
    }

    /// Those that it tells other sites to have, so that they forget what it knows to be gone.
    pub(super) fn told(&self) -> Slots {
        self.held.without(self.coming.ranges())
    }

    /// What was known when slots were frozen, and sent; `None` if none of them is.
    fn frozen(&self, slots: &Slots) -> Option<(Vector, u64)> {
        let of = self.frozen.iter().filter(|frozen| !frozen.slots.and(slots).is_empty());
        of.map(|frozen| (frozen.known.clone(), frozen.sent)).reduce(|(mut known, sent), other| {
            lower(&mut known, &other.0);
            (known, sent.min(other.1))
        })
    }

    /// Slots are frozen no more.
    fn end_frozen(&mut self, slots: &[SlotRange]) {
        self.frozen.iter_mut().for_each(|frozen| frozen.slots = frozen.slots.without(slots));
        self.frozen.retain(|frozen| !frozen.slots.is_empty());
    }
}

/// What travels with the last keys of slots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leaves {
    /// The version of the classes of keys there.
    pub classes: u64,
    /// The last stamp of the group that had them.
    clock: u64,
    /// What that knew of other sites, when the slots were frozen.
    vector: Vector,
    /// Elements that not all sites have been sent; `None`: it may be any.
    unsent: Option<Vec<(Vec<u8>, Vec<u8>)>>,
}

/// Why a batch was not merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotMerged {
    /// The sender is none of the other sites.
    Unknown,
    /// The group's slots are others by now: their version.
    Slots(u64),
    /// Something is missing before it: the sender is to go on from this stamp.
    Gap(u64),
}

/// The groups of a node, as sites.
pub struct GroupSites {
    engine: Weak<Engine>,
    /// For the places of keys; nobody else's to know.
    seed: u64,
    groups: RwLock<Vec<Option<Arc<GroupSite>>>>,
}

/// A group's state as a site.
pub struct GroupSite {
    node: SiteNode,
    shard: usize,
    /// The time of the last entry, Unix milliseconds.
    now_ms: AtomicI64,
    /// Up to where the leader has last had things forgotten.
    tidied: AtomicU64,
}

impl GroupSites {
    /// No group is a site yet. The engine asks it from now on.
    pub fn install(engine: &Arc<Engine>, seed: u64) -> Arc<GroupSites> {
        let groups = RwLock::new(Vec::new());
        let sites = Arc::new(GroupSites { engine: Arc::downgrade(engine), seed, groups });
        engine.set_sites(sites.clone());
        sites
    }

    /// The group that has a shard of the engine, if it is a site.
    pub fn of(&self, shard: usize) -> Option<Arc<GroupSite>> {
        self.groups.read().get(shard)?.clone()
    }

    /// All of them.
    pub fn all(&self) -> Vec<Arc<GroupSite>> {
        self.groups.read().iter().flatten().cloned().collect()
    }

    /// The group is one of a cluster of this number from now on, with nothing known yet; `None` if there is no number
    /// for it.
    pub fn begin(&self, shard: usize, cluster: SiteId) -> Option<Arc<GroupSite>> {
        let id = group_site(cluster, u32::try_from(shard).ok()?)?;
        let engine = self.engine.clone();
        let is_global = move |key: &[u8]| {
            let engine = engine.upgrade();
            engine.is_some_and(|engine| engine.shard_policies(shard).class_of(key) == Class::Global)
        };
        let site = Arc::new(GroupSite {
            node: SiteNode::of_group(id, self.seed, Box::new(is_global)),
            shard,
            now_ms: AtomicI64::new(0),
            tidied: AtomicU64::new(0),
        });
        self.put(shard, Some(site.clone()));
        if let Some(engine) = self.engine.upgrade() {
            engine.set_sites_active(true);
        }
        Some(site)
    }

    /// The group has no state any more.
    pub fn end(&self, shard: usize) {
        self.put(shard, None);
    }

    fn put(&self, shard: usize, site: Option<Arc<GroupSite>>) {
        let mut groups = self.groups.write();
        if groups.len() <= shard {
            groups.resize(shard + 1, None);
        }
        groups[shard] = site;
    }
}

impl Sites for GroupSites {
    fn concerns(&self, call: &Call<'_>, shard: Option<usize>) -> bool {
        let site = shard.and_then(|shard| self.of(shard));
        site.is_some_and(|site| site.node.concerns(call, shard))
    }

    fn after(
        &self,
        cx: &mut Cx<'_>,
        call: &Call<'_>,
        shard: Option<usize>,
        changed: bool,
    ) -> After {
        match shard.and_then(|shard| self.of(shard)) {
            Some(site) => site.node.after(cx, call, shard, changed),
            None => After::default(),
        }
    }

    /// Nothing is recorded: the group's log has all that leads to its state.
    fn restore(&self, _: &[u8], _: &[u8]) {}

    fn dump(&self, _: Option<Vec<u8>>, _: &mut dyn FnMut(&[u8], &[u8])) -> Option<Vec<u8>> {
        None
    }
}

impl GroupSite {
    /// What it knows, and what its links use. Its state changes by the group's log alone.
    pub fn node(&self) -> &SiteNode {
        &self.node
    }

    /// Its number among the sites.
    pub fn id(&self) -> SiteId {
        self.node.site().id()
    }

    /// The shard of the engine that has its keys.
    pub fn shard(&self) -> usize {
        self.shard
    }

    /// The time of the group.
    pub fn now_ms(&self) -> i64 {
        self.now_ms.load(Ordering::Acquire)
    }

    /// An entry is applied.
    pub fn set_now(&self, now_ms: i64) {
        self.now_ms.store(now_ms, Ordering::Release);
    }

    /// The slots that it has, and the version of that.
    pub fn held(&self) -> (u64, Slots) {
        let site = self.node.site();
        let group = site.group.as_ref().expect("a group's state has its slots");
        (group.version, group.held.clone())
    }

    /// A stamp at or below which the group does nothing any more.
    pub fn own(&self) -> u64 {
        self.node.site().clock.last()
    }

    /// The other sites, as an administrator named them. Of clusters it has been told the groups, which stay.
    pub fn set_peers(&self, mut peers: Peers) {
        let mut site = self.node.site();
        for (name, peer) in &mut peers.list {
            let before = site.peers.list.get(name).filter(|before| before.id == peer.id);
            if let Some(before) = before {
                peer.groups.clone_from(&before.groups);
            }
        }
        site.set_peers(peers);
    }

    /// The groups of another site that is a cluster.
    pub fn set_groups(&self, cluster: SiteId, groups: &[SiteId]) {
        let mut site = self.node.site();
        let mut peers = site.peers.clone();
        let of = peers.list.values_mut().filter(|peer| peer.id == Some(cluster));
        of.for_each(|peer| peer.groups = groups.to_vec());
        site.set_peers(peers);
    }

    /// Takes in keys that are `global` and of which nothing is known.
    pub fn adopt(&self, exec: &mut Executor<'_>, stamp: &Stamp) {
        self.node.adopt(exec, stamp);
    }

    /// Merges a batch of another site.
    ///
    /// # Errors
    /// Why not; nothing was changed.
    pub fn merge(
        &self,
        exec: &mut Executor<'_>,
        from: SiteId,
        version: u64,
        batch: &Batch,
        stamp: &Stamp,
    ) -> Result<(), NotMerged> {
        {
            let site = self.node.site();
            if !site.members().any(|id| id == from) {
                return Err(NotMerged::Unknown);
            }
            let now = site.group.as_ref().map_or(0, |group| group.version);
            if now != version {
                return Err(NotMerged::Slots(now));
            }
        }
        match self.node.take(exec, from, batch, stamp) {
            Ok(()) => {}
            Err(Refused::Gap(known)) => return Err(NotMerged::Gap(known)),
            Err(Refused::Malformed) => return Err(NotMerged::Gap(batch.from)),
        }
        let mut site = self.node.site();
        let known = site.known_by_all();
        site.recent.release(known);
        Ok(())
    }

    /// Whether a batch tells nothing that is worth an entry of the log.
    pub fn is_stale(&self, from: SiteId, batch: &Batch) -> bool {
        let site = self.node.site();
        let member = Member { knows: batch.vector.clone(), slots: batch.slots.clone() };
        batch.items.is_empty()
            && batch.from <= site.known_of(from)
            && batch.to <= site.known_of(from)
            && site.members.get(&from) == Some(&member)
    }

    /// The key from which the group is to forget on, if there is something to forget by now; for the leader.
    pub fn tidy_from(&self) -> Option<Vec<u8>> {
        let site = self.node.site();
        if site.undone() == 0 {
            return None;
        }
        let stable = site.stable(site.clock.last());
        let more = !site.forget_from().is_empty();
        let new = self.tidied.swap(stable, Ordering::AcqRel) < stable;
        (new || more).then(|| site.forget_from().to_vec())
    }

    /// Forgets what all sites know to be gone, of some keys from this one on.
    pub fn tidy(&self, exec: &mut Executor<'_>, from: &[u8], stamp: &Stamp) {
        let own = {
            let mut site = self.node.site();
            site.set_forget_from(from);
            site.clock.last()
        };
        self.node.tidy(exec, own, stamp, TIDY_KEYS_MAX);
    }

    /// Elements whose values have expired, which the group is to agree on; for the leader.
    pub fn take_lost(&self) -> Vec<Lost> {
        self.node.take_lost()
    }

    /// Removes such elements.
    pub fn settle_lost(&self, exec: &mut Executor<'_>, key: &[u8], names: &[&[u8]], stamp: &Stamp) {
        self.node.settle_lost(exec, key, names, stamp);
        exec.release();
    }

    /// The slots that it tells other sites to have.
    pub fn told(&self) -> Slots {
        self.node.site().group.as_ref().map(GroupSlots::told).unwrap_or_default()
    }

    /// It has these slots, some of which stay as the topology has it.
    pub fn hold(&self, slots: Slots, stay: &[SlotRange]) {
        if let Some(group) = &mut self.node.site().group {
            group.set(slots);
            group.coming = group.coming.without(stay);
        }
    }

    /// Slots are about to leave.
    pub fn freeze(&self, slots: &[SlotRange]) {
        let mut site = self.node.site();
        let Some(group) = &site.group else { return };
        let before: Vec<SlotRange> =
            group.frozen.iter().flat_map(|frozen| frozen.slots.ranges().to_vec()).collect();
        let new = Slots::new(slots).without(&before);
        let (known, sent) = (site.vector.clone(), site.sent_of(&new));
        let Some(group) = &mut site.group else { return };
        if !new.is_empty() {
            group.frozen.push(Frozen { slots: new, known, sent });
        }
        group.coming = group.coming.without(slots);
        group.set(group.held.without(slots));
    }

    /// They stay: what came meanwhile from other sites was not for them, and what was sent was without them.
    pub fn thaw(&self, slots: &[SlotRange]) {
        let now_ms = self.now_ms();
        let mut site = self.node.site();
        let Some(group) = &mut site.group else { return };
        let frozen = group.frozen(&Slots::new(slots));
        group.end_frozen(slots);
        group.set(group.held.with(slots));
        let Some((known, _)) = frozen else { return };
        if !bug!(ArrivalKnowsAll) {
            lower(&mut site.vector, &known);
        }
        // Replicas may have different changes of late, and are to do the same.
        if !bug!(ThawSendsNothing) {
            let places = site.elements_of(&Slots::new(slots));
            places.iter().for_each(|(key, name)| site.send_again(key, name, now_ms));
        }
    }

    /// Keys of slots go, which it has no more.
    pub fn drop_slots(&self, slots: &[SlotRange]) {
        let gone = Slots::new(slots);
        let mut site = self.node.site();
        site.drop_slots(|slot| gone.contains(slot));
        if let Some(group) = &mut site.group {
            group.end_frozen(slots);
            group.coming = group.coming.without(slots);
            group.set(group.held.without(slots));
        }
    }

    /// From now on notes the keys of these slots that change.
    pub fn note_changes(&self, slots: &[SlotRange]) {
        let noted = (!slots.is_empty()).then(|| (Slots::new(slots), Default::default()));
        self.node.site().noted = noted;
    }

    /// Whether anything is known of keys of slots.
    pub fn has_keys(&self, wanted: impl Fn(u16) -> bool) -> bool {
        self.node.site().keys().any(|(key, _)| wanted(slot_of(key)))
    }

    /// States of keys of some slots, from a part of them on, up to so many bytes; the next part, 0 at the end.
    pub fn copy(
        &self,
        wanted: impl Fn(u16) -> bool,
        from: u64,
        bytes: usize,
    ) -> (Vec<u8>, usize, u64) {
        /// Parts that one call looks at.
        const BLOCKS: usize = 4_096;
        let site = self.node.site();
        let (mut rows, mut at) = (Rows::default(), from as usize);
        let end = site.blocks().min(at + BLOCKS);
        while at < end && rows.bytes.len() < bytes {
            for (key, state) in site.block(at).iter().filter(|(key, _)| wanted(slot_of(key))) {
                rows.push(key, Some(state));
            }
            at += 1;
        }
        let next = if at < site.blocks() { at as u64 } else { 0 };
        (rows.bytes, rows.count, next)
    }

    /// States of keys that have changed, up to so many bytes, and how many are left.
    pub fn changes(&self, bytes: usize) -> (Vec<u8>, usize, u64) {
        let mut site = self.node.site();
        let mut rows = Rows::default();
        while rows.bytes.len() < bytes {
            let Some(key) = site.noted.as_mut().and_then(|(_, keys)| keys.pop_first()) else {
                break;
            };
            rows.push(&key, site.key(&key).as_deref());
        }
        let left = site.noted.as_ref().map_or(0, |(_, keys)| keys.len());
        (rows.bytes, rows.count, left as u64)
    }

    /// What goes with the last keys of slots.
    pub fn leaves(&self, slots: &[SlotRange], classes: u64) -> Leaves {
        let site = self.node.site();
        let slots = Slots::new(slots);
        let wanted = |slot| slots.contains(slot);
        let frozen = site.group.as_ref().and_then(|group| group.frozen(&slots));
        let (vector, sent) = frozen.unwrap_or_else(|| (site.vector.clone(), 0));
        // A site that is new since then knows nothing.
        let all = site.known_by_all();
        let known = if bug!(SentWithoutSlots) { all } else { sent.min(all) };
        let mut unsent = (known > 0 && site.recent.reaches(known)).then(Vec::new);
        let (mut bytes, mut seen) = (0, std::collections::BTreeSet::new());
        for change in site.recent.after(known).filter(|change| wanted(slot_of(change.key))) {
            let Some(list) = &mut unsent else { break };
            if seen.insert((change.key, change.name)) {
                bytes += change.key.len() + change.name.len();
                list.push((change.key.to_vec(), change.name.to_vec()));
            }
            if bytes > LEAVES_BYTES_MAX {
                unsent = None;
            }
        }
        if bug!(UnsentStaysBehind) {
            unsent = Some(Vec::new());
        }
        Leaves { classes, clock: site.clock.last(), vector, unsent }
    }

    /// Puts states of keys in the place of what is known of them.
    ///
    /// # Errors
    /// If the bytes are none.
    pub fn put(&self, rows: &[u8]) -> Result<(), Malformed> {
        let mut reader = Reader(rows);
        let mut site = self.node.site();
        while !reader.0.is_empty() {
            let (key, record) = (reader.bytes()?, reader.bytes()?);
            site.open(key).clear();
            if !record.is_empty() {
                restore(&mut site, key, record)?;
            }
        }
        Ok(())
    }

    /// Slots are here with all of their keys. `None` where they come from a group that was no site: their `global`
    /// keys are [adopted](GroupSite::adopt).
    pub fn arrive(&self, slots: &[SlotRange], leaves: Option<&Leaves>) {
        let now_ms = self.now_ms();
        let mut site = self.node.site();
        if let Some(leaves) = leaves {
            site.clock.observe(leaves.clock);
            let is_new = site.group.as_ref().is_none_or(|group| group.held.is_empty());
            if is_new {
                site.vector.clone_from(&leaves.vector);
            } else if !bug!(ArrivalKnowsAll) {
                lower(&mut site.vector, &leaves.vector);
            }
            let mut places =
                leaves.unsent.clone().unwrap_or_else(|| site.elements_of(&Slots::new(slots)));
            // The expiry of a key after its values.
            places.sort_unstable();
            places.iter().for_each(|(key, name)| site.send_again(key, name, now_ms));
        }
        if let Some(group) = &mut site.group {
            group.end_frozen(slots);
            group.coming = group.coming.with(slots);
            group.set(group.held.with(slots));
        }
    }

    /// A digest, to compare replicas with.
    pub fn digest(&self) -> u64 {
        let mut head = Vec::new();
        self.encode_head(&mut head);
        head.iter().fold(self.node.site().digest(), |sum, byte| {
            (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3)
        })
    }

    fn encode_head(&self, out: &mut Vec<u8>) {
        let site = self.node.site();
        let vector = |of: &Vector| {
            let mut bytes = Vec::new();
            codec::push_vector(&mut bytes, of);
            bytes
        };
        let slots = |of: &Slots| {
            let mut bytes = Vec::new();
            of.encode(&mut bytes);
            bytes
        };
        out.push(VERSION);
        out.extend_from_slice(&site.id().to_le_bytes());
        push_u64(out, site.clock.last());
        push_bytes(out, &vector(&site.vector));
        let mut peers = Vec::new();
        site.peers.encode(&mut peers);
        push_bytes(out, &peers);
        push_len(out, site.members.len());
        for (id, member) in &site.members {
            push_u64(out, u64::from(*id));
            push_bytes(out, &vector(&member.knows));
            push_bytes(out, &member.slots.as_ref().map(&slots).unwrap_or_default());
        }
        let none = GroupSlots::default();
        let group = site.group.as_ref().unwrap_or(&none);
        push_u64(out, group.version);
        push_bytes(out, &slots(&group.held));
        push_bytes(out, &slots(&group.coming));
        push_len(out, group.frozen.len());
        for frozen in &group.frozen {
            push_bytes(out, &slots(&frozen.slots));
            push_bytes(out, &vector(&frozen.known));
            push_u64(out, frozen.sent);
        }
    }

    /// The state of this moment, to be [written](State::write) while entries go on.
    pub fn state(&self) -> State {
        let mut head = Vec::new();
        self.encode_head(&mut head);
        State { head, keys: self.node.site().keys.clone() }
    }

    /// Takes over a state, as [`State`] wrote it; the number in it is this group's.
    fn decode(&self, reader: &mut Reader<'_>) -> Result<(), Malformed> {
        let clock = reader.u64()?;
        let vector = codec::read_vector(&mut Reader(reader.bytes()?))?;
        let peers = Peers::decode(&mut Reader(reader.bytes()?))?;
        let members = reader.list(16, |reader| {
            let id = SiteId::try_from(reader.u64()?).map_err(|_| Malformed)?;
            let knows = codec::read_vector(&mut Reader(reader.bytes()?))?;
            let slots = match reader.bytes()? {
                [] => None,
                bytes => Some(Slots::decode(&mut Reader(bytes))?),
            };
            Ok((id, Member { knows, slots }))
        })?;
        let version = reader.u64()?;
        let held = Slots::decode(&mut Reader(reader.bytes()?))?;
        let coming = Slots::decode(&mut Reader(reader.bytes()?))?;
        let frozen = reader.list(16, |reader| {
            let slots = Slots::decode(&mut Reader(reader.bytes()?))?;
            let known = codec::read_vector(&mut Reader(reader.bytes()?))?;
            Ok(Frozen { slots, known, sent: reader.u64()? })
        })?;
        let keys = reader.rest();
        let mut site = self.node.site();
        site.clock.observe(clock);
        site.vector = vector;
        site.set_peers(peers);
        site.members = members.into_iter().collect();
        site.group = Some(GroupSlots { held, version, coming, frozen });
        drop(site);
        self.put(keys)?;
        self.node.site().recent.begin_at(clock);
        Ok(())
    }
}

impl GroupSites {
    /// The state of a group from a snapshot.
    ///
    /// # Errors
    /// If the bytes are none.
    pub fn restore(&self, shard: usize, bytes: &[u8]) -> Result<Arc<GroupSite>, Malformed> {
        let mut reader = Reader(bytes);
        if reader.u8()? != VERSION {
            return Err(Malformed);
        }
        let id = SiteId::from_le_bytes(reader.take(2)?.try_into().map_err(|_| Malformed)?);
        let site = self.begin(shard, id % super::site::PER_GROUP).ok_or(Malformed)?;
        site.decode(&mut reader)?;
        Ok(site)
    }
}

/// A group's state at one moment.
pub struct State {
    head: Vec<u8>,
    keys: Table,
}

impl State {
    /// Hands its bytes out, piece by piece.
    ///
    /// # Errors
    /// Those of `write`.
    pub fn write<E>(self, mut write: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        write(&self.head)?;
        for block in 0..self.keys.blocks() {
            let mut rows = Rows::default();
            self.keys.block(block).iter().for_each(|(key, state)| rows.push(key, Some(state)));
            write(&rows.bytes)?;
        }
        Ok(())
    }
}

#[derive(Default)]
struct Rows {
    bytes: Vec<u8>,
    count: usize,
}

impl Rows {
    /// Adds all that is known of a key; `None` if that is nothing any more.
    fn push(&mut self, key: &[u8], state: Option<&Key>) {
        let record = state.map(|state| {
            let names: Vec<&[u8]> = state.iter().map(|(name, _)| name).collect();
            record_of(state, &names)
        });
        push_bytes(&mut self.bytes, key);
        push_bytes(&mut self.bytes, &record.unwrap_or_default());
        self.count += 1;
    }
}

impl Leaves {
    /// Appends the form that travels: `classes u64 | clock u64 | vector bytes | all u8 | list of (key bytes, name bytes)`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        push_u64(out, self.classes);
        push_u64(out, self.clock);
        let mut vector = Vec::new();
        codec::push_vector(&mut vector, &self.vector);
        push_bytes(out, &vector);
        out.push(u8::from(self.unsent.is_none()));
        let unsent = self.unsent.as_deref().unwrap_or_default();
        push_len(out, unsent.len());
        for (key, name) in unsent {
            push_bytes(out, key);
            push_bytes(out, name);
        }
    }

    /// Reads that form.
    ///
    /// # Errors
    /// If the bytes are something else.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Leaves, Malformed> {
        let (classes, clock) = (reader.u64()?, reader.u64()?);
        let vector = codec::read_vector(&mut Reader(reader.bytes()?))?;
        let all = reader.u8()? != 0;
        let unsent =
            reader.list(8, |reader| Ok((reader.bytes()?.to_vec(), reader.bytes()?.to_vec())))?;
        Ok(Leaves { classes, clock, vector, unsent: (!all).then_some(unsent) })
    }
}

/// Takes what is known down to what is known elsewhere too. What was never heard of is named, with nothing known: it is
/// no site that is new.
fn lower(known: &mut Vector, other: &Vector) {
    for (site, stamp) in known.iter_mut() {
        *stamp = (*stamp).min(other.get(site).copied().unwrap_or(0));
    }
    for site in other.keys() {
        known.entry(*site).or_insert(0);
    }
}
