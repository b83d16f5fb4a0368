//! The sending end of a link between two sites.
//!
//! ```text
//!            everything since `acknowledged` is in `recent`
//!   Follow  <-----------------------------------------------+
//!     |  no: the peer is new, or was away for long          |
//!     +-----> Fill: all keys, one after the other ----------+
//!     +-----> Repair: all keys of groups of slots whose digests differ
//! ```
//! One batch is on its way at a time. What is lost is sent again, as the peer says up to where it
//! has everything; so a link needs no queue of its own, and nothing of it has to be durable here.

use super::element::{Element, SiteId};
use super::key::Key;
use super::site::Site;
use super::slots::Slots;
use crate::bug;
use ashlar_engine::slot::slot_of;
use std::cmp::Ordering;
use std::collections::BTreeSet;

/// Most elements of a batch, but for those of one stamp.
pub const BATCH_ITEMS_MAX: usize = 2_000;
/// Bytes of names and keys above which a batch is closed.
pub const BATCH_BYTES_MAX: usize = 256 << 10;
/// Keys that one step of a fill looks at.
const FILL_KEYS_MAX: usize = 2_000;

/// Elements that are to be sent next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The peer has to have everything up to here.
    pub from: u64,
    /// It has everything up to here afterwards.
    pub to: u64,
    /// Keys and names of elements.
    pub elements: Vec<Place>,
}

/// A key and the name of an element.
type Place = (Vec<u8>, Vec<u8>);

/// Where a walk through all keys is: a part of them, and the last element in it that was looked at.
#[derive(Clone, Debug, Default)]
struct Spot {
    block: usize,
    after: Option<Place>,
}

#[derive(Clone, Debug)]
struct Fill {
    from: Spot,
    /// Only what this site did after this stamp; everything of every site if 0.
    since: u64,
    /// The peer has everything up to this stamp afterwards.
    until: u64,
    /// Only keys of these groups of slots.
    groups: Option<BTreeSet<usize>>,
}

/// The sending end of a link.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// The site at the other end.
    pub peer: SiteId,
    /// The slots that it has, if it is a group of a cluster.
    pub slots: Option<Slots>,
    acknowledged: u64,
    fill: Option<Fill>,
    /// Elements that were sent.
    pub sent: u64,
    /// Times that all keys were looked at, as the peer was new or away for long.
    pub fills: u64,
    /// Times that groups of keys were sent again, as digests differed.
    pub repairs: u64,
}

impl Outgoing {
    /// A link to a peer that has everything up to `acknowledged`, as it says.
    pub fn new(peer: SiteId, acknowledged: u64) -> Outgoing {
        let (slots, fill) = (None, None);
        Outgoing { peer, slots, acknowledged, fill, sent: 0, fills: 0, repairs: 0 }
    }

    /// The same to a group of a cluster, which has only these slots.
    #[must_use]
    pub fn of_slots(self, slots: Slots) -> Outgoing {
        Outgoing { slots: Some(slots), ..self }
    }

    fn wants(&self, site: &Site, key: &[u8]) -> bool {
        wants(site, self.slots.as_ref(), key)
    }

    /// The peer has everything up to this stamp.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// Whether all keys, or some groups of them, are being sent.
    pub fn is_filling(&self) -> bool {
        self.fill.is_some()
    }

    /// The link was made anew, and the peer has everything up to this stamp.
    pub fn restart(&mut self, acknowledged: u64) {
        let ahead = bug!(CursorRunsAhead) && self.acknowledged > 0;
        self.acknowledged = if ahead { self.acknowledged } else { acknowledged };
        self.fill = None;
    }

    /// The peer has taken in the plan.
    pub fn accepted(&mut self, plan: &Plan) {
        self.acknowledged = self.acknowledged.max(plan.to);
        self.sent += plan.elements.len() as u64;
    }

    /// Sends the keys of groups of slots again.
    pub fn repair(&mut self, groups: BTreeSet<usize>) {
        if self.fill.is_none() && !groups.is_empty() {
            self.repairs += 1;
            let until = self.acknowledged;
            self.fill = Some(Fill { from: Spot::default(), since: 0, until, groups: Some(groups) });
        }
    }

    /// What to send next. `own` is a stamp below which this site does nothing any more; it says so
    /// where there is nothing else to say.
    pub fn plan(&mut self, site: &Site, own: u64) -> Plan {
        if self.fill.is_none()
            && (!site.recent.reaches(self.acknowledged) || self.acknowledged == 0)
        {
            self.fills += 1;
            // Of slots that came from other groups there are changes of these.
            let since = if site.is_group() { 0 } else { self.acknowledged };
            self.fill = Some(Fill { from: Spot::default(), since, until: own, groups: None });
        }
        match self.fill.take() {
            Some(fill) => self.plan_fill(site, fill),
            None => self.plan_recent(site, own),
        }
    }

    fn plan_recent(&mut self, site: &Site, own: u64) -> Plan {
        let from = self.acknowledged;
        let mut plan = Plan { from, to: from.max(own), elements: Vec::new() };
        let (mut bytes, mut last) = (0, from);
        let mut seen = BTreeSet::new();
        for change in site.recent.after(from) {
            let full = plan.elements.len() >= BATCH_ITEMS_MAX || bytes >= BATCH_BYTES_MAX;
            if full && change.stamp != last {
                plan.to = last;
                plan.elements.sort_unstable();
                return plan;
            }
            last = change.stamp;
            if !self.wants(site, change.key) {
                continue;
            }
            bytes += change.key.len() + change.name.len();
            if seen.insert((change.key, change.name)) {
                plan.elements.push((change.key.to_vec(), change.name.to_vec()));
            }
        }
        plan.to = plan.to.max(last);
        // All of a key together, and its expiry last.
        plan.elements.sort_unstable();
        if bug!(CursorRunsAhead) {
            self.acknowledged = plan.to;
        }
        plan
    }

    fn plan_fill(&mut self, site: &Site, mut fill: Fill) -> Plan {
        let from = self.acknowledged;
        let mut plan = Plan { from, to: from, elements: Vec::new() };
        let mut walk = Walk { bytes: 0, looked: 0 };
        let stopped = walk.run(site, &fill, self.slots.as_ref(), &mut plan.elements);
        match stopped {
            None => plan.to = from.max(fill.until),
            Some(spot) => {
                fill.from = spot;
                self.fill = Some(fill);
            }
        }
        plan
    }
}

/// Whether a key is one of the sender, and of the receiver.
fn wants(site: &Site, slots: Option<&Slots>, key: &[u8]) -> bool {
    let is_theirs = slots.is_none_or(|slots| slots.contains(slot_of(key)));
    is_theirs && (site.has_slot_of(key) || bug!(SendsWhatComes))
}

/// One step of a fill.
struct Walk {
    bytes: usize,
    looked: usize,
}

impl Walk {
    /// Collects elements up to the bounds of a batch; returns the last place that was looked at, `None`
    /// at the end of all keys.
    fn run(
        &mut self,
        site: &Site,
        fill: &Fill,
        slots: Option<&Slots>,
        out: &mut Vec<Place>,
    ) -> Option<Spot> {
        for block in fill.from.block..site.blocks() {
            let inside = fill.from.after.as_ref().filter(|_| block == fill.from.block);
            for (key, state) in site.block(block) {
                if !wants(site, slots, key) {
                    self.looked += 1;
                    if self.looked >= FILL_KEYS_MAX {
                        return Some(Spot { block, after: Some((key.to_vec(), Vec::new())) });
                    }
                    continue;
                }
                let after = match inside.map(|(last, name)| (last.as_slice().cmp(key), name)) {
                    Some((Ordering::Greater, _)) => continue,
                    Some((Ordering::Equal, name)) => Some(name.as_slice()),
                    Some((Ordering::Less, _)) | None => None,
                };
                if let Some(place) = self.key(site, fill, key, &state, after, out) {
                    return Some(Spot { block, after: Some(place) });
                }
            }
        }
        None
    }

    fn key(
        &mut self,
        site: &Site,
        fill: &Fill,
        key: &[u8],
        state: &Key,
        after: Option<&[u8]>,
        out: &mut Vec<Place>,
    ) -> Option<Place> {
        self.looked += 1;
        let wanted =
            fill.groups.as_ref().is_none_or(|groups| groups.contains(&Site::group_of(key)));
        let mut last = after.unwrap_or(&[]);
        if wanted {
            let rest = state.range_from(last).skip_while(|(name, _)| Some(*name) == after);
            for (name, element) in rest {
                if fill.since == 0 || is_newer(&element, site.id(), fill.since) {
                    self.bytes += key.len() + name.len();
                    out.push((key.to_vec(), name.to_vec()));
                }
                last = name;
                if out.len() >= BATCH_ITEMS_MAX || self.bytes >= BATCH_BYTES_MAX {
                    return Some((key.to_vec(), name.to_vec()));
                }
            }
        }
        (self.looked >= FILL_KEYS_MAX).then(|| (key.to_vec(), last.to_vec()))
    }
}

/// Whether a site did something to an element after a stamp.
fn is_newer(element: &Element, site: SiteId, stamp: u64) -> bool {
    element.removed_at() > stamp
        || element.part(site).is_some_and(|part| part.wrote.max(part.counted) > stamp)
}
