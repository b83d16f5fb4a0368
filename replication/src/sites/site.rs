//! A site's knowledge of the keys that all sites write: the merge, what was changed of late, what may
//! be forgotten.
//!
//! ```text
//! local write --> edit ----> keys ----> recent ---> links to the other sites
//! batch ------> join ------^   |
//!                              +--> forget, once every site has acknowledged
//! ```
//! A [`Vector`] has for each site up to which stamp everything is known that this site did. Links are
//! in order, so one stamp a site is enough; an element travels with all that is known of it, so
//! anything that is lost, doubled or late does no harm.

use super::clock::{Clock, ms_of};
use super::codec::{Item, Vector};
use super::conflicts::Conflicts;
use super::element::{Element, SiteId};
use super::group::GroupSlots;
use super::hash;
use super::key::Key;
use super::open::{Edit, Open};
use super::peers::Peers;
use super::recent::Recent;
use super::slots::Slots;
use super::table::Table;
use crate::bug;
use ashlar_engine::slot::slot_of;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

/// Number of hash slots, for each of which there is a digest.
pub const SLOTS: usize = 16_384;
/// Groups of slots whose digests sites compare.
pub const GROUPS: usize = 256;

/// Another site, as far as it has told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Member {
    /// What it knows.
    pub knows: Vector,
    /// The slots that it has, if it is a group of a cluster; all of them otherwise.
    pub slots: Option<Slots>,
}

/// A cluster is a site of as many members as it has groups: their numbers are its own and so many for each group.
pub const PER_GROUP: SiteId = 256;

/// The number of a group of a cluster, as a site; `None` where there is none for them.
pub fn group_site(cluster: SiteId, group: u32) -> Option<SiteId> {
    let group = SiteId::try_from(group).ok().filter(|group| (1..PER_GROUP).contains(group))?;
    (1..PER_GROUP).contains(&cluster).then(|| group * PER_GROUP + cluster)
}

/// A site.
#[derive(Debug)]
pub struct Site {
    id: SiteId,
    /// Gives the stamps of what is done here.
    pub clock: Clock,
    pub(super) keys: Table,
    /// What is known of the other sites.
    pub(super) vector: Vector,
    /// What was known of sites that take no part any more.
    left: Vector,
    /// Stamps above the first and up to the second may have been given to acts that a crash has taken from this site's
    /// log, and that others know.
    lost: (u64, u64),
    /// The other sites, and what they said to know.
    pub(super) members: BTreeMap<SiteId, Member>,
    /// Of a group of a cluster, which slots it has.
    pub(super) group: Option<GroupSlots>,
    /// Keys of slots that are being copied to another group, as they change.
    pub(super) noted: Option<(Slots, BTreeSet<Box<[u8]>>)>,
    /// Elements that were changed here.
    pub recent: Recent,
    /// Writes that were dropped.
    pub conflicts: Conflicts,
    /// Keys of which something may be forgotten some day.
    pub(super) undone: BTreeSet<Box<[u8]>>,
    /// From where the next round of forgetting starts.
    forget_from: Box<[u8]>,
    pub(super) digests: Vec<u64>,
    /// The other sites, as an administrator named them.
    pub peers: Peers,
    /// Elements that came from other sites.
    pub merged: u64,
    /// Elements that were forgotten, as every site knows that they are gone.
    pub forgotten: u64,
}

impl Site {
    /// A site that knows nothing; see [`Table::new`] for the seed.
    pub fn new(id: SiteId, seed: u64) -> Site {
        Site {
            id,
            clock: Clock::default(),
            keys: Table::new(seed),
            vector: Vector::new(),
            left: Vector::new(),
            lost: (0, 0),
            members: BTreeMap::new(),
            group: None,
            noted: None,
            recent: Recent::default(),
            conflicts: Conflicts::default(),
            undone: BTreeSet::new(),
            forget_from: Box::default(),
            digests: vec![0; SLOTS],
            peers: Peers::default(),
            merged: 0,
            forgotten: 0,
        }
    }

    /// Its number.
    pub fn id(&self) -> SiteId {
        self.id
    }

    /// What is known of a key.
    pub fn key(&self, key: &[u8]) -> Option<Cow<'_, Key>> {
        self.keys.get(key)
    }

    /// The parts in which the keys can be walked through, see [`Table`].
    pub fn blocks(&self) -> usize {
        self.keys.blocks()
    }

    /// The keys of a part.
    pub fn block(&self, block: usize) -> Vec<(&[u8], Cow<'_, Key>)> {
        self.keys.block(block)
    }

    /// All keys.
    pub fn keys(&self) -> impl Iterator<Item = (&[u8], Cow<'_, Key>)> {
        (0..self.keys.blocks()).flat_map(|block| self.keys.block(block))
    }

    /// Opens what is known of a key, to be changed.
    pub fn open<'a>(&'a mut self, key: &'a [u8]) -> Open<'a> {
        Open::new(self, key)
    }

    /// Keys of which anything is known.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Keys of which something is undone, or may expire, and has not been forgotten yet.
    pub fn undone(&self) -> usize {
        self.undone.len()
    }

    /// Something is done to a key here. `act` gives every change its stamp. Returns also the record of
    /// what changed, if anything did.
    pub fn edit<T>(
        &mut self,
        key: &[u8],
        now_ms: i64,
        act: impl FnOnce(&mut Edit<'_>) -> T,
    ) -> (T, Option<Vec<u8>>) {
        let mut edit = Edit::new(self.open(key), now_ms);
        let result = act(&mut edit);
        (result, edit.finish())
    }

    /// The hash of a key in digests.
    pub(super) fn hash_of(key: &[u8]) -> u64 {
        hash::bytes(0, key)
    }

    /// Up to which stamp a site is known.
    pub fn known_of(&self, site: SiteId) -> u64 {
        if site == self.id {
            return self.clock.last();
        }
        self.vector.get(&site).copied().unwrap_or(0)
    }

    /// All that a site did up to a stamp is known from now on.
    pub fn now_knows(&mut self, site: SiteId, stamp: u64) {
        self.clock.observe(stamp);
        let known = self.vector.entry(site).or_default();
        *known = (*known).max(stamp);
    }

    /// What is known of every site, up to `own` of this one.
    pub fn vector(&self, own: u64) -> Vector {
        let mut vector = self.vector.clone();
        vector.insert(self.id, own);
        vector
    }

    /// Another site takes part from now on.
    pub fn add_member(&mut self, site: SiteId) {
        if site != self.id {
            self.members.entry(site).or_default();
        }
    }

    /// A group of another cluster takes part from now on.
    pub(super) fn add_group(&mut self, site: SiteId) {
        let member = self.members.entry(site).or_default();
        member.slots.get_or_insert_default();
    }

    /// The other sites are these from now on, with their groups where they are clusters.
    pub(super) fn set_peers(&mut self, peers: Peers) {
        let of = |peer: &super::peers::Peer| match peer.groups.as_slice() {
            [] => peer.id.into_iter().collect(),
            groups => groups.to_vec(),
        };
        let ids: BTreeSet<SiteId> = peers.list.values().flat_map(of).collect();
        let gone: Vec<SiteId> = self.members().filter(|id| !ids.contains(id)).collect();
        gone.into_iter().for_each(|id| self.remove_member(id));
        for peer in peers.list.values() {
            match peer.groups.as_slice() {
                [] => peer.id.into_iter().for_each(|id| self.add_member(id)),
                groups => groups.iter().for_each(|id| self.add_group(*id)),
            }
        }
        self.peers = peers;
    }

    /// Whether this is a group of a cluster.
    pub fn is_group(&self) -> bool {
        self.group.is_some()
    }

    /// Whether the key is one of this site: of a group those of its slots are, once all of them have come.
    pub(super) fn has_slot_of(&self, key: &[u8]) -> bool {
        self.group.as_ref().is_none_or(|group| group.held.contains(slot_of(key)))
    }

    /// The cluster that a member is of, or the member itself.
    fn place_of(&self, site: SiteId) -> SiteId {
        let is_group = match self.members.get(&site) {
            Some(member) => member.slots.is_some(),
            None => self.is_group() && site >= PER_GROUP,
        };
        if is_group { site % PER_GROUP } else { site }
    }

    /// Whether each cluster has told which of its groups has a slot: what that one knows, it knows of the slot.
    fn is_held(&self, slot: u16) -> bool {
        let groups =
            || self.members.iter().filter_map(|(id, one)| Some((*id, one.slots.as_ref()?)));
        let clusters: BTreeSet<SiteId> = groups().map(|(id, _)| id % PER_GROUP).collect();
        clusters.into_iter().all(|cluster| {
            groups().any(|(id, slots)| id % PER_GROUP == cluster && slots.contains(slot))
        })
    }

    /// A site takes no part any more.
    pub fn remove_member(&mut self, site: SiteId) {
        if self.members.remove(&site).is_none() {
            return;
        }
        if let Some(known) = self.vector.remove(&site) {
            self.knew(site, known);
        }
    }

    /// What was known of sites that take no part any more.
    pub(super) fn left(&self) -> &Vector {
        &self.left
    }

    /// All that a site did up to a stamp was known here when it left.
    pub(super) fn knew(&mut self, site: SiteId, stamp: u64) {
        let known = self.left.entry(site).or_default();
        *known = (*known).max(stamp);
    }

    /// The site has been brought up to date from its log. What it did since may be known to others only.
    pub(super) fn recovered(&mut self) {
        let last = self.clock.last();
        self.recent.begin_at(last);
        self.lost = (last, u64::MAX);
    }

    /// Moves the clock to the time: nothing that is done here later is at or below the stamp that this returns.
    pub(super) fn promise(&mut self, now_ms: i64) -> u64 {
        let own = self.clock.advance(now_ms);
        self.lost.1 = self.lost.1.min(own);
        own
    }

    /// Whether an act of a site is known here, or was and is forgotten.
    fn has_known(&self, site: SiteId, stamp: u64) -> bool {
        if site == self.id {
            let (after, until) = self.lost;
            return stamp <= self.clock.last() && (stamp <= after || stamp > until);
        }
        let known = |of: &Vector| of.get(&site).copied().unwrap_or(0);
        stamp <= known(&self.vector).max(known(&self.left))
    }

    /// What a site that is new here sends of a key may be of before a removal that all others have forgotten, as
    /// where it was made from an old copy of another site. All that is known of, and is not there, was removed:
    /// it is undone in `items`, and named in the result with a stamp, to be [told](Site::tell) to all.
    pub(super) fn undo_forgotten(
        &mut self,
        items: &mut [Item],
        now_ms: i64,
    ) -> Vec<(u64, Vec<u8>)> {
        let mut undone = Vec::new();
        for item in items {
            if bug!(CopyBringsBack) {
                break;
            }
            let any = {
                let state = self.keys.get(&item.key);
                let mine = state.as_ref().and_then(|state| state.get(&item.name));
                let known = |site, stamp| self.has_known(site, stamp);
                item.element.undo_forgotten(mine.as_deref(), known)
            };
            if any {
                let stamp = self.clock.tick(now_ms);
                item.element.set_removed_at(stamp);
                undone.push((stamp, item.name.clone()));
            }
        }
        undone
    }

    /// Has the links send an element that changed here.
    pub(super) fn tell(&mut self, stamp: u64, key: &[u8], name: &[u8]) {
        match self.members.is_empty() {
            false => self.recent.push(stamp, key, name),
            // Nobody listens: whoever comes is told of all keys.
            true => self.recent.begin_at(stamp),
        }
    }

    /// The other sites.
    pub fn members(&self) -> impl Iterator<Item = SiteId> {
        self.members.keys().copied()
    }

    /// What another site says it knows, and, of a group of a cluster, of which slots. Where slots come and go
    /// a group may come to know less.
    pub fn member_knows(&mut self, site: SiteId, vector: &Vector, slots: Option<&Slots>) {
        let Some(member) = self.members.get_mut(&site) else { return };
        // The parts of a batch but for the last tell nothing.
        if vector.is_empty() {
            return;
        }
        if let Some(slots) = slots {
            *member = Member { knows: vector.clone(), slots: Some(slots.clone()) };
            return;
        }
        for (of, stamp) in vector {
            let known = member.knows.entry(*of).or_default();
            *known = (*known).max(*stamp);
        }
    }

    /// Up to where all other sites know what this one did.
    pub(super) fn known_by_all(&self) -> u64 {
        let known = |member: &Member| member.knows.get(&self.id).copied().unwrap_or(0);
        self.members.values().map(known).min().unwrap_or(u64::MAX)
    }

    /// Up to where all other sites know what this group did to keys of slots; 0 while there is a cluster of whose
    /// groups none says that it has all of them, as they may be on their way with less.
    pub(super) fn sent_of(&self, slots: &Slots) -> u64 {
        let is_held = slots
            .ranges()
            .iter()
            .all(|(first, last)| (*first..=*last).all(|slot| self.is_held(slot)));
        if is_held { self.known_by_all() } else { 0 }
    }

    /// The stamp up to which every site knows all that any site did.
    pub fn stable(&self, own: u64) -> u64 {
        if bug!(ForgetEarly) {
            return own;
        }
        let mut stable = own;
        for (&member, Member { knows, .. }) in &self.members {
            stable = stable.min(self.known_of(member));
            stable = stable.min(knows.get(&self.id).copied().unwrap_or(0));
            for &of in self.members.keys() {
                // The groups of a cluster have different keys, and nothing to tell each other.
                if of != member && self.place_of(of) == self.place_of(member) {
                    continue;
                }
                stable = stable.min(knows.get(&of).copied().unwrap_or(0));
            }
        }
        stable
    }

    /// Forgets what every site knows to be gone, of at most `keys_max` keys. `own` is up to where this
    /// site has said what it did. Returns keys that have expired for every site and that this one is
    /// to remove: until then their states stay, as a longer expiry may come.
    pub fn forget(&mut self, own: u64, now_ms: i64, keys_max: usize) -> Vec<Box<[u8]>> {
        let mut expired = Vec::new();
        let stable = self.stable(own);
        let expired_before = now_ms.min(i64::try_from(ms_of(stable)).unwrap_or(i64::MAX));
        let from: Box<[u8]> = std::mem::take(&mut self.forget_from);
        let some: Vec<Box<[u8]>> = self.undone.range(from..).take(keys_max).cloned().collect();
        if some.len() == keys_max {
            self.forget_from = some.last().cloned().unwrap_or_default();
        }
        let mine = self.place_of(self.id);
        let first = self.members.keys().map(|id| self.place_of(*id)).min();
        let first = first.unwrap_or(mine).min(mine);
        for key in some {
            let is_moving = !self.is_held(slot_of(&key)) && !bug!(ForgetMoving);
            let is_away = !self.has_slot_of(&key) && !bug!(ForgetFrozen);
            if is_moving || is_away {
                continue;
            }
            let mut open = Open::new(self, &key);
            let by = open.key().and_then(|state| state.expired_by(stable, expired_before));
            let forgotten = open.forget(stable);
            drop(open);
            self.forgotten += forgotten as u64;
            let by = by.map(|by| self.place_of(by)).map(|by| {
                let takes_part =
                    by == mine || self.members.keys().any(|id| self.place_of(*id) == by);
                if takes_part { by } else { first }
            });
            if by == Some(mine) {
                expired.push(key);
            }
        }
        expired
    }

    /// A digest of each group of slots: equal at sites that know the same. Only of some slots, where the sites have
    /// different ones.
    pub fn group_digests(&self, slots: Option<&Slots>) -> Vec<u64> {
        let mut groups = vec![0u64; GROUPS];
        for (slot, digest) in self.digests.iter().enumerate() {
            if slots.is_some_and(|slots| !slots.contains(slot as u16)) {
                continue;
            }
            let group = &mut groups[slot % GROUPS];
            *group = group.rotate_left(5).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ digest;
        }
        groups
    }

    /// A digest of everything.
    pub fn digest(&self) -> u64 {
        self.digests.iter().fold(0, |sum, digest| {
            u64::wrapping_mul(sum.rotate_left(5) ^ digest, 0x9E37_79B9_7F4A_7C15)
        })
    }

    /// The group of a key.
    pub fn group_of(key: &[u8]) -> usize {
        usize::from(slot_of(key)) % GROUPS
    }

    /// Drops the states of keys whose slot `gone` accepts: another group has them.
    pub(super) fn drop_slots(&mut self, gone: impl Fn(u16) -> bool) {
        for key in self.keys_of(&gone) {
            let (place, _) = self.keys.take(&key);
            self.keys.put(&place, &key, Key::default());
            self.undone.remove(&key[..]);
        }
        for (slot, digest) in self.digests.iter_mut().enumerate() {
            if gone(slot as u16) {
                *digest = 0;
            }
        }
    }

    /// The keys whose slot `wanted` accepts, in their order.
    pub(super) fn keys_of(&self, wanted: impl Fn(u16) -> bool) -> Vec<Vec<u8>> {
        let keys = self.keys().filter(|(key, _)| wanted(slot_of(key)));
        let mut keys: Vec<Vec<u8>> = keys.map(|(key, _)| key.to_vec()).collect();
        keys.sort_unstable();
        keys
    }

    /// The elements of slots, in their order.
    pub(super) fn elements_of(&self, slots: &Slots) -> Vec<(Vec<u8>, Vec<u8>)> {
        let of_key = |key: Vec<u8>| {
            let state = self.key(&key);
            let names = state.iter().flat_map(|state| state.iter());
            let names: Vec<Vec<u8>> = names.map(|(name, _)| name.to_vec()).collect();
            names.into_iter().map(|name| (key.clone(), name)).collect::<Vec<_>>()
        };
        self.keys_of(|slot| slots.contains(slot)).into_iter().flat_map(of_key).collect()
    }

    /// Sends an element again, as what it had come from may not have done so. What was undone of it is not
    /// forgotten before that.
    pub(super) fn send_again(&mut self, key: &[u8], name: &[u8], now_ms: i64) {
        let stamp = self.clock.tick(now_ms);
        let mut open = Open::new(self, key);
        if open.get(name).is_some_and(|element| element.removed_at() > 0) {
            open.removed_at(name, stamp);
        }
        drop(open);
        self.tell(stamp, key, name);
    }

    /// From where the next round of forgetting starts.
    pub(super) fn forget_from(&self) -> &[u8] {
        &self.forget_from
    }

    /// The next round of forgetting starts there.
    pub(super) fn set_forget_from(&mut self, key: &[u8]) {
        self.forget_from = key.into();
    }

    /// Takes in what the log or another copy of this site's state has: no conflicts, nothing to ship.
    pub fn restore(&mut self, key: &[u8], name: &[u8], element: &Element) {
        self.open(key).restore(name, element);
    }
}
