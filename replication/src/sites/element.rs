//! One element: a string, a field, a member, an item of a list, an entry of a stream, an expiry.
//!
//! For each site that touched it an element has a [`Part`], and merging is the larger of each of a
//! part's three pairs. So it is commutative, associative and idempotent by construction:
//!
//! ```text
//! wrote    stamp of the site's last write            with the value it wrote
//! counted  stamp of the site's last increment        with the sum of its increments, since `since`
//! seen     stamps of the site up to here are undone  with the sum of its increments by then
//! ```
//!
//! A write, an increment or a removal says what it has seen of each site, and undoes that. What
//! it has not seen stays: an add wins over a concurrent removal, an increment over a concurrent SET.
//! Of several writes that none has seen, the one with the largest stamp shows; the others come
//! back if it alone is removed.

use super::hash;
use crate::bug;
use smallvec::SmallVec;

/// The number of a site.
pub type SiteId = u16;

/// Increments, of integers and of floating-point numbers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum {
    /// Of integers; wraps, as only differences are looked at.
    pub int: i64,
    /// Of floating-point numbers.
    pub float: f64,
}

impl PartialEq for Sum {
    fn eq(&self, other: &Sum) -> bool {
        self.int == other.int && self.float.to_bits() == other.float.to_bits()
    }
}

impl Sum {
    fn minus(self, other: Sum) -> Sum {
        Sum { int: self.int.wrapping_sub(other.int), float: self.float - other.float }
    }

    /// The sum of both.
    pub fn plus(self, other: Sum) -> Sum {
        Sum { int: self.int.wrapping_add(other.int), float: self.float + other.float }
    }
}

/// What one site did to an element, and what others have seen and undone of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Part {
    /// The site.
    pub site: SiteId,
    /// Stamp of its last write that is in force; 0 if there is none.
    pub wrote: u64,
    /// What it wrote; `None` where the engine holds it.
    pub value: Option<Box<[u8]>>,
    /// Stamp of its last increment that is in force; 0 if there is none.
    pub counted: u64,
    /// The increments that `sum` has are those above this stamp.
    pub since: u64,
    /// The sum of its increments.
    pub sum: Sum,
    /// What it did up to this stamp is undone.
    pub seen: u64,
    /// Its sum at that stamp.
    pub seen_sum: Sum,
}

impl Part {
    fn of(site: SiteId) -> Part {
        Part { site, ..Part::default() }
    }

    /// Whether its write is in force.
    pub fn writes(&self) -> bool {
        self.wrote > self.seen
    }

    /// Whether increments of it are in force.
    pub fn counts(&self) -> bool {
        self.counted > self.seen
    }

    /// The increments that are in force.
    pub fn amount(&self) -> Sum {
        match () {
            () if !self.counts() => Sum::default(),
            () if self.seen > self.since => self.sum.minus(self.seen_sum),
            () => self.sum,
        }
    }

    fn last(&self) -> u64 {
        self.wrote.max(self.counted)
    }

    fn is_empty(&self) -> bool {
        self.wrote == 0 && self.counted == 0 && self.seen == 0
    }

    /// Undoes all that it did so far.
    fn undo(&mut self) {
        let last = self.last();
        if last > self.seen {
            (self.seen, self.seen_sum) = (last, self.sum);
        }
        self.settle();
    }

    fn join(&mut self, other: &Part) {
        if other.wrote > self.wrote {
            (self.wrote, self.value) = (other.wrote, other.value.clone());
        } else if other.wrote == self.wrote && self.value.is_none() {
            self.value.clone_from(&other.value);
        }
        if other.counted > self.counted {
            (self.counted, self.since, self.sum) = (other.counted, other.since, other.sum);
        }
        if other.seen > self.seen {
            (self.seen, self.seen_sum) = (other.seen, other.seen_sum);
        }
        self.settle();
    }

    /// Lets go of what is undone: that it was follows from `seen`.
    fn settle(&mut self) {
        if !self.writes() {
            (self.wrote, self.value) = (0, None);
        }
        if !self.counts() {
            (self.counted, self.since, self.sum) = (0, 0, Sum::default());
        }
    }
}

/// An element.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Element {
    parts: SmallVec<[Part; 1]>,
    /// Stamp of the last removal or overwriting.
    removed_at: u64,
}

impl Element {
    /// An element that one site wrote.
    pub fn written(site: SiteId, stamp: u64, value: Option<Box<[u8]>>) -> Element {
        let part = Part { site, wrote: stamp, value, ..Part::default() };
        Element { parts: SmallVec::from_iter([part]), removed_at: 0 }
    }

    /// A counter that one site increments.
    pub fn counted(site: SiteId, stamp: u64, since: u64, sum: i64) -> Element {
        let sum = Sum { int: sum, float: 0.0 };
        let part = Part { site, counted: stamp, since, sum, ..Part::default() };
        Element { parts: SmallVec::from_iter([part]), removed_at: 0 }
    }

    pub(super) fn from_parts(parts: SmallVec<[Part; 1]>, removed_at: u64) -> Element {
        Element { parts, removed_at }
    }

    /// Its parts, by site.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// Stamp of the last removal or overwriting; 0 if there was none that has to be remembered.
    pub fn removed_at(&self) -> u64 {
        self.removed_at
    }

    /// The only write, by one site, held by the engine, with nothing to remember besides.
    pub fn as_plain(&self) -> Option<(SiteId, u64)> {
        match &*self.parts {
            [part] if self.removed_at == 0 && part.value.is_none() => {
                let plain = part.wrote > 0 && part.counted == 0 && part.seen == 0;
                plain.then_some((part.site, part.wrote))
            }
            _ => None,
        }
    }

    /// The increments of one site, with nothing to remember besides: the site, the stamp of the last
    /// one, the stamp before the first one, and their sum.
    pub fn as_count(&self) -> Option<(SiteId, u64, u64, i64)> {
        match &*self.parts {
            [part] if self.removed_at == 0 && part.wrote == 0 && part.seen == 0 => {
                let counts = part.counted > 0 && part.sum.float.to_bits() == 0;
                counts.then_some((part.site, part.counted, part.since, part.sum.int))
            }
            _ => None,
        }
    }

    /// The same where the value is here and has eight bytes.
    pub fn as_score(&self) -> Option<(SiteId, u64, [u8; 8])> {
        match &*self.parts {
            [part] if self.removed_at == 0 && part.counted == 0 && part.seen == 0 => {
                let value = part.value.as_deref()?.try_into().ok()?;
                (part.wrote > 0).then_some((part.site, part.wrote, value))
            }
            _ => None,
        }
    }

    fn part_mut(&mut self, site: SiteId) -> &mut Part {
        let at = match self.parts.binary_search_by_key(&site, |part| part.site) {
            Ok(at) => at,
            Err(at) => {
                self.parts.insert(at, Part::of(site));
                at
            }
        };
        &mut self.parts[at]
    }

    /// The part of a site.
    pub fn part(&self, site: SiteId) -> Option<&Part> {
        let at = self.parts.binary_search_by_key(&site, |part| part.site).ok()?;
        self.parts.get(at)
    }

    /// Whether it is there.
    pub fn is_live(&self) -> bool {
        self.parts.iter().any(|part| part.writes() || part.counts())
    }

    /// The newest stamp of what is in force; 0 if it is not there.
    pub fn newest(&self) -> (u64, SiteId) {
        let live = self.parts.iter().filter(|part| part.writes() || part.counts());
        live.map(|part| (part.last(), part.site)).max().unwrap_or_default()
    }

    /// The writes in force, the one that shows last.
    pub fn writes(&self) -> SmallVec<[&Part; 2]> {
        let mut writes: SmallVec<[&Part; 2]> =
            self.parts.iter().filter(|part| part.writes()).collect();
        writes.sort_unstable_by_key(|part| (part.wrote, part.site));
        writes
    }

    /// The write that shows.
    pub fn winner(&self) -> Option<&Part> {
        self.parts.iter().filter(|part| part.writes()).max_by_key(|part| (part.wrote, part.site))
    }

    /// The increments in force, added in the order of the sites; `None` if there are none.
    pub fn amount(&self) -> Option<Sum> {
        let mut counting = self.parts.iter().filter(|part| part.counts());
        let first = counting.next()?.amount();
        Some(counting.fold(first, |sum, part| sum.plus(part.amount())))
    }

    /// A site writes a value: what it has seen is undone.
    pub fn write(&mut self, site: SiteId, stamp: u64, value: Option<Box<[u8]>>) {
        let others = self.parts.iter().any(|part| part.site != site || part.counted > 0);
        if others {
            self.undo(stamp);
        }
        let part = self.part_mut(site);
        (part.wrote, part.value) = (stamp, value);
    }

    /// A site increments it. What the engine held until now is `base`, as it holds the sum from now on.
    pub fn count(&mut self, site: SiteId, stamp: u64, delta: Sum) {
        let part = self.part_mut(site);
        if !part.counts() {
            (part.since, part.sum) = (stamp - 1, Sum::default());
        }
        part.sum = part.sum.plus(delta);
        part.counted = stamp;
    }

    /// Undoes all that was seen of it, by an act at `stamp`. Says whether there was anything.
    pub fn undo(&mut self, stamp: u64) -> bool {
        let live = self.is_live();
        if live {
            self.parts.iter_mut().for_each(Part::undo);
            if bug!(RemovalUndoesUnseen) {
                self.parts.iter_mut().for_each(|part| part.seen = stamp);
            }
            self.removed_at = self.removed_at.max(stamp);
        }
        live
    }

    /// Undoes what is in force here, was known once where `mine` is, and is there no more: it was undone and
    /// that was forgotten. `known` tells whether all that a site did up to a stamp is known there. Says whether
    /// there was anything.
    pub fn undo_forgotten(
        &mut self,
        mine: Option<&Element>,
        known: impl Fn(SiteId, u64) -> bool,
    ) -> bool {
        let mut any = false;
        for part in &mut self.parts {
            let none = Part::of(part.site);
            let held = mine.and_then(|mine| mine.part(part.site)).unwrap_or(&none);
            let is_gone = |stamp: u64, held_stamp: u64| {
                stamp > held_stamp.max(held.seen).max(part.seen) && known(part.site, stamp)
            };
            let wrote = if is_gone(part.wrote, held.wrote) { part.wrote } else { 0 };
            let counted = if is_gone(part.counted, held.counted) { part.counted } else { 0 };
            let gone = wrote.max(counted);
            let keeps = |stamp: u64| stamp > 0 && stamp <= gone;
            if gone == 0 || keeps(held.wrote) || keeps(held.counted) {
                continue;
            }
            let sum = if part.counted <= gone { part.sum } else { Sum::default() };
            (part.seen, part.seen_sum) = (gone, sum);
            part.settle();
            any = true;
        }
        any
    }

    /// The last removal or overwriting was at this stamp, or later.
    pub fn set_removed_at(&mut self, stamp: u64) {
        self.removed_at = self.removed_at.max(stamp);
    }

    /// Takes in what another site knows of it.
    pub fn join(&mut self, other: &Element) {
        for part in &other.parts {
            self.part_mut(part.site).join(part);
        }
        self.removed_at = self.removed_at.max(other.removed_at);
    }

    /// Gives the engine's value to the write that shows, where it holds it.
    pub fn hydrate(&mut self, value: &[u8]) {
        for part in &mut self.parts {
            if part.writes() && part.value.is_none() {
                part.value = Some(value.into());
            }
        }
    }

    /// Whether the engine holds a value that is not here.
    pub fn is_held(&self) -> bool {
        self.parts.iter().any(|part| part.writes() && part.value.is_none())
    }

    /// Lets the engine hold the value where that is what it shows: of the only write, without
    /// increments.
    pub fn let_engine_hold(&mut self) {
        if self.parts.iter().any(Part::counts) {
            return;
        }
        let mut writes = self.parts.iter_mut().filter(|part| part.writes());
        if let (Some(only), None) = (writes.next(), writes.next()) {
            only.value = None;
        }
    }

    /// Forgets what was undone, as every site knows all up to the stamp `stable`. Says whether
    /// nothing is left.
    pub fn forget(&mut self, stable: u64) -> bool {
        if self.removed_at != 0 && self.removed_at <= stable {
            let mut all = true;
            for part in &mut self.parts {
                if part.counted == 0 || part.since >= part.seen {
                    (part.seen, part.seen_sum) = (0, Sum::default());
                } else {
                    all = false;
                }
            }
            self.parts.retain(|part| !part.is_empty());
            if all {
                self.removed_at = 0;
            }
        }
        self.parts.is_empty()
    }

    /// The largest stamp anywhere in it.
    pub fn last_stamp(&self) -> u64 {
        self.parts.iter().map(Part::last).max().unwrap_or(0).max(self.removed_at)
    }

    /// A digest of what is in force of it, 0 where it is not there. `hash` is that of the key.
    pub fn digest(&self, hash: u64, name: &[u8]) -> u64 {
        let mut digest = 0;
        for part in self.parts.iter().filter(|part| part.writes() || part.counts()) {
            if digest == 0 {
                digest = hash::bytes(hash, name);
            }
            digest = hash::word(hash::word(digest, part.site.into()), part.wrote);
            if part.counts() {
                let amount = part.amount();
                for word in [part.counted, amount.int as u64, amount.float.to_bits()] {
                    digest = hash::word(digest, word);
                }
            }
        }
        digest
    }
}
