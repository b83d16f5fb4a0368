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
use super::codec::Vector;
use super::conflicts::{Conflict, Conflicts, Reason, cut};
use super::element::{Element, SiteId, Sum};
use super::key::{Key, Kind};
use super::peers::Peers;
use super::recent::Recent;
use super::shown::{Shown, shown};
use crate::bug;
use ashlar_engine::slot::slot_of;
use std::collections::{BTreeMap, BTreeSet};

/// Number of hash slots, for each of which there is a digest.
pub const SLOTS: usize = 16_384;
/// Groups of slots whose digests sites compare.
pub const GROUPS: usize = 256;

/// A site.
#[derive(Debug)]
pub struct Site {
    id: SiteId,
    /// Gives the stamps of what is done here.
    pub clock: Clock,
    keys: BTreeMap<Box<[u8]>, Key>,
    /// What is known of the other sites.
    vector: Vector,
    /// The other sites, and what they said to know.
    members: BTreeMap<SiteId, Vector>,
    /// Elements that were changed here.
    pub recent: Recent,
    /// Writes that were dropped.
    pub conflicts: Conflicts,
    /// Keys of which something may be forgotten some day.
    undone: BTreeSet<Box<[u8]>>,
    /// From where the next round of forgetting starts.
    forget_from: Box<[u8]>,
    digests: Vec<u64>,
    /// The other sites, as an administrator named them.
    pub peers: Peers,
    /// Elements that came from other sites.
    pub merged: u64,
    /// Elements that were forgotten, as every site knows that they are gone.
    pub forgotten: u64,
}

/// How an element was before and is after something came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Joined {
    /// Whether it was there.
    pub was_live: bool,
    /// Whether it is.
    pub is_live: bool,
}

impl Site {
    /// A site that knows nothing.
    pub fn new(id: SiteId) -> Site {
        Site {
            id,
            clock: Clock::default(),
            keys: BTreeMap::new(),
            vector: Vector::new(),
            members: BTreeMap::new(),
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
    pub fn key(&self, key: &[u8]) -> Option<&Key> {
        self.keys.get(key)
    }

    /// The names of keys from one on, that one not included.
    pub fn keys_after<'a>(
        &'a self,
        after: Option<&[u8]>,
    ) -> impl Iterator<Item = (&'a [u8], &'a Key)> {
        use std::ops::Bound;
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let range = self.keys.range::<[u8], _>((start, Bound::Unbounded));
        range.map(|(name, key)| (&**name, key))
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

    /// Changes an element, and keeps the digest and the list of what may be forgotten.
    fn update<T>(&mut self, key: &[u8], name: &[u8], change: impl FnOnce(&mut Element) -> T) -> T {
        if !self.keys.contains_key(key) {
            self.keys.insert(key.into(), Key::default());
        }
        let state = self.keys.get_mut(key).expect("it was put there if it was missing");
        let slot = usize::from(slot_of(key)) % SLOTS;
        let before = state.get(name).map_or(0, |element| element.digest(key, name));
        let result = state.update(name, change);
        let after = state.get(name).map_or(0, |element| element.digest(key, name));
        self.digests[slot] = self.digests[slot].wrapping_sub(before).wrapping_add(after);
        state.shrink();
        if state.is_empty() {
            self.keys.remove(key);
        } else if !state.is_plain() && !self.undone.contains(key) {
            self.undone.insert(key.into());
        }
        result
    }

    /// Something is done to a key here. `edit` gives every change its stamp.
    pub fn edit<T>(
        &mut self,
        key: &[u8],
        now_ms: i64,
        act: impl FnOnce(&mut Edit<'_>) -> T,
    ) -> (T, Vec<Vec<u8>>) {
        let mut edit = Edit { site: self, key, now_ms, stamp: None, changed: Vec::new() };
        let result = act(&mut edit);
        let Edit { mut changed, .. } = edit;
        for (stamp, name) in &changed {
            match self.members.is_empty() {
                false => self.recent.push(*stamp, key, name),
                // Nobody listens: whoever comes is told of all keys.
                true => self.recent.begin_at(*stamp),
            }
        }
        changed.sort_unstable_by(|a, b| a.1.cmp(&b.1));
        changed.dedup_by(|a, b| a.1 == b.1);
        (result, changed.into_iter().map(|(_, name)| name).collect())
    }

    /// Takes in an element from another site, and counts conflicts: what that did after the stamp
    /// `news_after` was not known here. The elements that the engine holds and that this one meets
    /// have been given their values.
    pub fn join(&mut self, key: &[u8], name: &[u8], element: &Element, news_after: u64) -> Joined {
        self.clock.observe(element.last_stamp());
        let Some(kind) = Kind::of(name) else { return Joined { was_live: false, is_live: false } };
        let before = self.keys.get(key).and_then(|key| key.get(name)).map(|one| one.into_owned());
        let before = before.unwrap_or_default();
        let kinds = self.kinds(key);
        self.update(key, name, |mine| {
            if bug!(MergeOverwrites) {
                *mine = element.clone();
            }
            mine.join(element);
        });
        let after = self.keys.get(key).and_then(|key| key.get(name)).map(|one| one.into_owned());
        let after = after.unwrap_or_default();
        self.note_conflicts(key, kind, &name[1..], (&before, element, &after), news_after);
        if kinds == 1 && self.kinds(key) > 1 {
            self.note_type(key, kind);
        }
        self.merged += 1;
        Joined { was_live: before.is_live(), is_live: after.is_live() }
    }

    /// Kinds of data of which a key has elements.
    fn kinds(&self, key: &[u8]) -> usize {
        let Some(key) = self.keys.get(key) else { return 0 };
        Kind::ALL.iter().filter(|kind| **kind != Kind::Expiry && key.live(**kind) > 0).count()
    }

    fn note_type(&mut self, key: &[u8], came: Kind) {
        let Some(state) = self.keys.get(key) else { return };
        let newest = |kind: Kind| state.live_of(kind).map(|(_, one)| one.newest()).max();
        let Some(shown) = state.kind() else { return };
        let hidden = Kind::ALL
            .into_iter()
            .find(|kind| ![Kind::Expiry, shown].contains(kind) && state.live(*kind) > 0);
        let stamps = |kind| newest(kind).map_or((0, 0), |(stamp, site)| (site, stamp));
        self.conflicts.push(Conflict {
            key: cut(key),
            kind: hidden.unwrap_or(came),
            element: Box::default(),
            reason: Reason::OtherType,
            winner: stamps(shown),
            loser: hidden.map_or((0, 0), stamps),
            dropped: None,
        });
    }

    fn note_conflicts(
        &mut self,
        key: &[u8],
        kind: Kind,
        element: &[u8],
        (before, came, after): (&Element, &Element, &Element),
        news_after: u64,
    ) {
        let (id, conflicts) = (self.id, &mut self.conflicts);
        let mut push = |reason, winner, loser, dropped: Option<&[u8]>| {
            conflicts.push(Conflict {
                key: cut(key),
                kind,
                element: cut(element),
                reason,
                winner,
                loser,
                dropped: dropped.map(cut),
            });
        };
        let writes = after.writes();
        if kind != Kind::Set
            && let Some((winner, losers)) = writes.split_last()
            && !losers.is_empty()
        {
            let known = |part: &super::element::Part| {
                before.part(part.site).is_some_and(|mine| mine.wrote == part.wrote)
            };
            let is_union = kind == Kind::String
                && matches!(shown(kind, after), Some(Shown::Bytes(bytes)) if Some(&bytes[..]) != winner.value.as_deref() && after.amount().is_none());
            let reason =
                if kind == Kind::Expiry { Reason::LongerExpiry } else { Reason::LaterWrite };
            for loser in losers {
                let both_known = known(loser) && known(winner);
                if !both_known && !is_union {
                    let (winner, at) = ((winner.site, winner.wrote), (loser.site, loser.wrote));
                    push(reason, winner, at, loser.value.as_deref());
                }
            }
        }
        let newest = |element: &Element| {
            let (stamp, site) = element.newest();
            (site, stamp)
        };
        // A removal that came later than the add, by its stamp, and yet had not seen it. Or one that
        // comes now, after an act of this site which cannot have seen it.
        let lost_here = !before.is_live() && before.removed_at() > came.newest().0;
        let lost_there = before.part(id).is_some_and(|mine| mine.writes() || mine.counts())
            && !came.is_live()
            && came.removed_at() > news_after;
        if after.is_live() && (lost_here || lost_there) && kind != Kind::Expiry {
            let removal = if lost_here { before.removed_at() } else { came.removed_at() };
            push(Reason::AddWins, newest(after), (0, removal), None);
        }
    }

    /// The value that the engine holds for an element that is to be merged, or shipped.
    pub fn hydrate(&mut self, key: &[u8], name: &[u8], value: &[u8]) {
        if self.keys.get(key).and_then(|key| key.get(name)).is_some_and(|one| one.is_held()) {
            self.update(key, name, |element| element.hydrate(value));
        }
    }

    /// The engine holds what the element shows.
    pub fn let_engine_hold(&mut self, key: &[u8], name: &[u8]) {
        let kind = Kind::of(name);
        if matches!(kind, Some(Kind::List | Kind::Zset | Kind::Expiry) | None) {
            return;
        }
        if self.keys.get(key).and_then(|key| key.get(name)).is_some() {
            self.update(key, name, Element::let_engine_hold);
        }
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

    /// Forgets up to which stamp a site is known, so that it sends everything again.
    pub fn forget_site(&mut self, site: SiteId) {
        self.vector.remove(&site);
    }

    /// Another site takes part from now on.
    pub fn add_member(&mut self, site: SiteId) {
        if site != self.id {
            self.members.entry(site).or_default();
        }
    }

    /// A site takes no part any more.
    pub fn remove_member(&mut self, site: SiteId) {
        self.members.remove(&site);
        self.vector.remove(&site);
    }

    /// The other sites.
    pub fn members(&self) -> impl Iterator<Item = SiteId> {
        self.members.keys().copied()
    }

    /// What another site says it knows.
    pub fn member_knows(&mut self, site: SiteId, vector: &Vector) {
        let Some(mine) = self.members.get_mut(&site) else { return };
        for (of, stamp) in vector {
            let known = mine.entry(*of).or_default();
            *known = (*known).max(*stamp);
        }
    }

    /// The stamp up to which every site knows all that any site did.
    pub fn stable(&self, own: u64) -> u64 {
        if bug!(ForgetEarly) {
            return own;
        }
        let mut stable = own;
        for (&member, knows) in &self.members {
            stable = stable.min(self.known_of(member));
            stable = stable.min(knows.get(&self.id).copied().unwrap_or(0));
            for &of in self.members.keys() {
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
        for key in some {
            let Some(state) = self.keys.get_mut(&key) else {
                self.undone.remove(&key);
                continue;
            };
            let before = state.digest(&key);
            if let Some(by) = state.expired_by(stable, expired_before) {
                let first = self.members.keys().copied().next().unwrap_or(self.id).min(self.id);
                let by = if self.members.contains_key(&by) || by == self.id { by } else { first };
                if by == self.id {
                    expired.push(key.clone());
                }
            }
            self.forgotten += state.forget(stable) as u64;
            let slot = usize::from(slot_of(&key)) % SLOTS;
            let after = state.digest(&key);
            self.digests[slot] = self.digests[slot].wrapping_sub(before).wrapping_add(after);
            if !state.has_undone() {
                self.undone.remove(&key);
            }
            if state.is_empty() {
                self.keys.remove(&key);
            }
        }
        expired
    }

    /// A digest of each group of slots: equal at sites that know the same.
    pub fn group_digests(&self) -> Vec<u64> {
        let mut groups = vec![0u64; GROUPS];
        for (slot, digest) in self.digests.iter().enumerate() {
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

    /// Takes in what the log or another copy of this site's state has: no conflicts, nothing to ship.
    pub fn restore(&mut self, key: &[u8], name: &[u8], element: &Element) {
        self.clock.observe(element.last_stamp());
        self.update(key, name, |mine| mine.join(element));
    }
}

/// An act of this site on one key.
pub struct Edit<'a> {
    site: &'a mut Site,
    key: &'a [u8],
    now_ms: i64,
    stamp: Option<u64>,
    changed: Vec<(u64, Vec<u8>)>,
}

impl Edit<'_> {
    /// What is known of the key.
    pub fn key(&self) -> Option<&Key> {
        self.site.keys.get(self.key)
    }

    /// The site.
    pub fn site(&self) -> SiteId {
        self.site.id
    }

    /// An element.
    pub fn get(&self, name: &[u8]) -> Option<Element> {
        self.key()?.get(name).map(|element| element.into_owned())
    }

    /// The stamp of the act.
    fn stamp(&mut self) -> u64 {
        match self.stamp {
            Some(stamp) => stamp,
            None => self.next_stamp(),
        }
    }

    /// Another stamp of the act, above those before.
    pub fn next_stamp(&mut self) -> u64 {
        let stamp = self.site.clock.tick(self.now_ms);
        self.stamp = Some(stamp);
        stamp
    }

    /// Writes an element; the engine holds the value where it is `None`.
    pub fn write(&mut self, name: &[u8], value: Option<&[u8]>) {
        let (stamp, site) = (self.stamp(), self.site.id);
        let value = value.map(Into::into);
        self.site.update(self.key, name, |element| element.write(site, stamp, value));
        self.changed.push((stamp, name.to_vec()));
    }

    /// Increments an element, which showed `base` until now.
    pub fn count(&mut self, name: &[u8], base: Option<&[u8]>, delta: Sum) {
        // Increments of one act follow each other: each has a stamp of its own.
        let (stamp, site) = (self.next_stamp(), self.site.id);
        self.site.update(self.key, name, |element| {
            if let Some(base) = base {
                element.hydrate(base);
            }
            element.count(site, stamp, delta);
        });
        self.changed.push((stamp, name.to_vec()));
    }

    /// Removes an element, as far as it is known.
    pub fn remove(&mut self, name: &[u8]) {
        let stamp = self.stamp();
        if self.site.update(self.key, name, |element| element.undo(stamp)) {
            self.changed.push((stamp, name.to_vec()));
        }
    }

    /// Sends all elements again, changed or not.
    pub fn touch_all(&mut self) {
        let stamp = self.stamp();
        let Some(key) = self.key() else { return };
        let names: Vec<Vec<u8>> = key.iter().map(|(name, _)| name.to_vec()).collect();
        self.changed.extend(names.into_iter().map(|name| (stamp, name)));
    }

    /// Removes all elements of a kind.
    pub fn remove_kind(&mut self, kind: Kind) {
        let Some(key) = self.key().filter(|key| key.live(kind) > 0) else { return };
        let names: Vec<Vec<u8>> = key.live_of(kind).map(|(name, _)| kind.name(name)).collect();
        for name in names {
            self.remove(&name);
        }
    }

    /// Removes everything.
    pub fn remove_all(&mut self) {
        for kind in Kind::ALL {
            self.remove_kind(kind);
        }
    }
}
