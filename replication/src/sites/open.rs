//! One key that is being changed: its state is taken out of the table once, and put back at the end.

use super::codec;
use super::conflicts::{Conflict, Reason, cut};
use super::element::{Element, SiteId, Sum};
use super::key::{Key, Kind, STRING, Short};
use super::shown::{Shown, shown};
use super::site::{SLOTS, Site};
use super::table::Place;
use crate::bug;
use ashlar_engine::slot::slot_of;
use smallvec::SmallVec;
use std::borrow::Cow;

/// The name of an element; most are short.
pub(super) type Name = SmallVec<[u8; 24]>;

/// How an element was before and is after something came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Joined {
    /// Whether it was there.
    pub was_live: bool,
    /// Whether it is.
    pub is_live: bool,
}

/// A key that is being changed, until it is dropped.
pub struct Open<'a> {
    site: &'a mut Site,
    key: &'a [u8],
    place: Place,
    hash: u64,
    state: Key,
    /// What is added to the digest of the key's slot.
    digest: u64,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        let mut state = std::mem::take(&mut self.state);
        let site = &mut *self.site;
        if self.digest != 0 {
            let slot = usize::from(slot_of(self.key)) % SLOTS;
            site.digests[slot] = site.digests[slot].wrapping_add(self.digest);
        }
        if let Some((slots, keys)) = &mut site.noted
            && slots.contains(slot_of(self.key))
            && !keys.contains(self.key)
        {
            keys.insert(self.key.into());
        }
        state.shrink();
        match state.has_undone() {
            true if !site.undone.contains(self.key) => {
                site.undone.insert(self.key.into());
            }
            false if !site.undone.is_empty() => {
                site.undone.remove(self.key);
            }
            _ => {}
        }
        site.keys.put(&self.place, self.key, state);
    }
}

impl<'a> Open<'a> {
    pub(super) fn new(site: &'a mut Site, key: &'a [u8]) -> Open<'a> {
        let (place, state) = site.keys.take(key);
        Open { site, key, place, hash: Site::hash_of(key), state, digest: 0 }
    }

    /// What is known of it.
    pub fn key(&self) -> Option<&Key> {
        (!self.state.is_empty()).then_some(&self.state)
    }

    /// An element.
    pub fn get(&self, name: &[u8]) -> Option<Cow<'_, Element>> {
        self.state.get(name)
    }

    /// Changes an element, and keeps the digest.
    fn update<T>(&mut self, name: &[u8], change: impl FnOnce(&mut Element) -> T) -> T {
        let (hash, mut digest) = (self.hash, self.digest);
        let result = self.state.update(name, |element| {
            digest = digest.wrapping_sub(element.digest(hash, name));
            let result = change(element);
            digest = digest.wrapping_add(element.digest(hash, name));
            result
        });
        self.digest = digest;
        result
    }

    /// The record of elements.
    pub fn record<'n>(&self, names: impl Iterator<Item = &'n [u8]>) -> Vec<u8> {
        let mut out = vec![codec::VERSION];
        for name in names {
            if let Some(element) = self.state.get(name) {
                let element = if bug!(SumsNotLogged) {
                    let writes = element.winner().map_or(0, |part| part.wrote.max(1));
                    Cow::Owned(Element::written(self.site.id(), writes, None))
                } else {
                    element
                };
                codec::push_bytes(&mut out, name);
                codec::push_element(&mut out, &element);
            }
        }
        out
    }

    /// Takes in an element from another site, and counts conflicts: what that did after the stamp
    /// `news_after` was not known here. The elements that the engine holds and that this one meets
    /// have been given their values.
    pub fn join(&mut self, name: &[u8], element: &Element, news_after: u64) -> Joined {
        self.site.clock.observe(element.last_stamp());
        let Some(kind) = Kind::of(name) else { return Joined { was_live: false, is_live: false } };
        let kinds = self.kinds();
        let (before, after) = self.update(name, |mine| {
            let before = mine.clone();
            if bug!(MergeOverwrites) {
                *mine = element.clone();
            }
            mine.join(element);
            (before, mine.clone())
        });
        self.note_conflicts(kind, &name[1..], (&before, element, &after), news_after);
        if kinds == 1 && self.kinds() > 1 {
            self.note_type(kind);
        }
        self.site.merged += 1;
        Joined { was_live: before.is_live(), is_live: after.is_live() }
    }

    /// Nothing is known of it any more.
    pub(super) fn clear(&mut self) {
        let names: Vec<Vec<u8>> = self.state.iter().map(|(name, _)| name.to_vec()).collect();
        names.iter().for_each(|name| self.update(name, |element| *element = Element::default()));
        self.state = Key::default();
    }

    /// The last removal of an element was at this stamp, or later.
    pub(super) fn removed_at(&mut self, name: &[u8], stamp: u64) {
        self.update(name, |element| element.set_removed_at(stamp));
    }

    /// Removes an element, and has the links tell the others.
    pub(super) fn undo(&mut self, name: &[u8], now_ms: i64) {
        let stamp = self.site.clock.tick(now_ms);
        if self.update(name, |element| element.undo(stamp)) {
            self.site.tell(stamp, self.key, name);
        }
    }

    /// Takes in an element of this site's own log.
    pub(super) fn restore(&mut self, name: &[u8], element: &Element) {
        self.site.clock.observe(element.last_stamp());
        self.update(name, |mine| mine.join(element));
    }

    /// Forgets what every site knows to be undone; see [`Key::forget`]. Nothing that shows changes, so the
    /// digest stays.
    pub(super) fn forget(&mut self, stable: u64) -> usize {
        self.state.forget(stable)
    }

    /// Kinds of data of which a key has elements.
    fn kinds(&self) -> usize {
        let live = |kind: &&Kind| **kind != Kind::Expiry && self.state.live(**kind) > 0;
        Kind::ALL.iter().filter(live).count()
    }

    fn note_type(&mut self, came: Kind) {
        let state = &self.state;
        let newest = |kind: Kind| state.live_of(kind).map(|(_, one)| one.newest()).max();
        let Some(shown) = state.kind() else { return };
        let hidden = Kind::ALL
            .into_iter()
            .find(|kind| ![Kind::Expiry, shown].contains(kind) && state.live(*kind) > 0);
        let stamps = |kind| newest(kind).map_or((0, 0), |(stamp, site)| (site, stamp));
        self.site.conflicts.push(Conflict {
            key: cut(self.key),
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
        kind: Kind,
        element: &[u8],
        (before, came, after): (&Element, &Element, &Element),
        news_after: u64,
    ) {
        let (id, key, conflicts) = (self.site.id(), self.key, &mut self.site.conflicts);
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
    pub fn hydrate(&mut self, name: &[u8], value: &[u8]) {
        if self.get(name).is_some_and(|one| one.is_held()) {
            self.update(name, |element| element.hydrate(value));
        }
    }

    /// The engine holds what the element shows.
    pub fn let_engine_hold(&mut self, name: &[u8]) {
        let kind = Kind::of(name);
        if matches!(kind, Some(Kind::List | Kind::Zset | Kind::Expiry) | None) {
            return;
        }
        if self.get(name).is_some() {
            self.update(name, Element::let_engine_hold);
        }
    }
}

/// An act of this site on one key.
pub struct Edit<'a> {
    open: Open<'a>,
    now_ms: i64,
    stamp: Option<u64>,
    changed: SmallVec<[(u64, Name); 2]>,
}

impl<'a> Edit<'a> {
    pub(super) fn new(open: Open<'a>, now_ms: i64) -> Edit<'a> {
        Edit { open, now_ms, stamp: None, changed: SmallVec::new() }
    }

    /// Tells the links what changed, and returns its record.
    pub(super) fn finish(mut self) -> Option<Vec<u8>> {
        let (site, key) = (&mut *self.open.site, self.open.key);
        for (stamp, name) in &self.changed {
            site.tell(*stamp, key, name);
        }
        if self.changed.len() > 1 {
            self.changed.sort_unstable_by(|a, b| a.1.cmp(&b.1));
            self.changed.dedup_by(|a, b| a.1 == b.1);
        }
        let names = self.changed.iter().map(|(_, name)| name.as_slice());
        (!self.changed.is_empty()).then(|| self.open.record(names))
    }

    /// What is known of the key.
    pub fn key(&self) -> Option<&Key> {
        self.open.key()
    }

    /// The site.
    pub fn site(&self) -> SiteId {
        self.open.site.id()
    }

    /// An element.
    pub fn get(&self, name: &[u8]) -> Option<Cow<'_, Element>> {
        self.open.get(name)
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
        let stamp = self.open.site.clock.tick(self.now_ms);
        self.stamp = Some(stamp);
        stamp
    }

    fn note(&mut self, stamp: u64, name: &[u8]) {
        self.changed.push((stamp, SmallVec::from_slice(name)));
    }

    /// Writes an element; the engine holds the value where it is `None`.
    pub fn write(&mut self, name: &[u8], value: Option<&[u8]>) {
        let (stamp, site) = (self.stamp(), self.site());
        let value = value.map(Into::into);
        self.open.update(name, |element| element.write(site, stamp, value));
        self.note(stamp, name);
    }

    /// Increments an element, which showed `base` until now.
    pub fn count(&mut self, name: &[u8], base: Option<&[u8]>, delta: Sum) {
        // Increments of one act follow each other: each has a stamp of its own.
        let (stamp, site) = (self.next_stamp(), self.site());
        self.open.update(name, |element| {
            if let Some(base) = base {
                element.hydrate(base);
            }
            element.count(site, stamp, delta);
        });
        self.note(stamp, name);
    }

    /// Increments a string of which nothing is known but that this site counts in it. Returns the sum;
    /// `None` if there is more to it, and nothing was done.
    pub fn count_more(&mut self, delta: i64) -> Option<i64> {
        let short = self.open.state.as_short().filter(|short| short.site == self.site())?;
        let (since, sum) = short.counted?;
        let stamp = self.next_stamp();
        let more = Short { stamp, counted: Some((since, sum.wrapping_add(delta))), ..short };
        let (hash, digest) = (self.open.hash, self.open.digest);
        let (before, after) = (short.digest(hash), more.digest(hash));
        self.open.digest = digest.wrapping_sub(before).wrapping_add(after);
        self.open.state = Key::from(more);
        self.note(stamp, STRING);
        more.counted.map(|(_, sum)| sum)
    }

    /// Removes an element, as far as it is known.
    pub fn remove(&mut self, name: &[u8]) {
        let stamp = self.stamp();
        if self.open.update(name, |element| element.undo(stamp)) {
            self.note(stamp, name);
        }
    }

    /// Sends all elements again, changed or not.
    pub fn touch_all(&mut self) {
        let stamp = self.stamp();
        let Some(key) = self.key() else { return };
        let names: Vec<Name> = key.iter().map(|(name, _)| SmallVec::from_slice(name)).collect();
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
