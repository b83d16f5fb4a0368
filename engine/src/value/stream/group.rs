//! Consumer groups: what was delivered to whom and not yet acknowledged.

use super::id::Id;
use crate::value::varint;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeBounds;

/// Names a consumer within its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConsumerId(u64);

/// An entry that was delivered and is not acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    /// Whose it is.
    pub consumer: ConsumerId,
    /// When it was last delivered, in milliseconds since 1970.
    pub delivered_ms: i64,
    /// How often it was delivered.
    pub deliveries: u64,
}

/// A member of a group.
#[derive(Clone, Debug)]
pub struct Consumer {
    name: Box<[u8]>,
    /// When it last tried to read or claim, in milliseconds since 1970.
    pub seen_ms: i64,
    /// When it last got an entry; `None` if it never did.
    pub active_ms: Option<i64>,
    pending: BTreeSet<Id>,
}

impl Consumer {
    /// Its name.
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// Ids of the entries it has to acknowledge.
    pub fn pending(&self) -> &BTreeSet<Id> {
        &self.pending
    }
}

/// A consumer group.
#[derive(Clone, Debug)]
pub struct Group {
    /// The last id that was delivered.
    pub last_id: Id,
    /// How many entries of the stream it has read, where that is known.
    pub entries_read: Option<u64>,
    pending: BTreeMap<Id, Pending>,
    names: BTreeMap<Box<[u8]>, ConsumerId>,
    consumers: BTreeMap<ConsumerId, Consumer>,
    next_consumer: u64,
}

impl Group {
    pub(super) fn new(last_id: Id, entries_read: Option<u64>) -> Self {
        Group {
            last_id,
            entries_read,
            pending: BTreeMap::new(),
            names: BTreeMap::new(),
            consumers: BTreeMap::new(),
            next_consumer: 0,
        }
    }

    pub(super) fn memory(&self) -> usize {
        let names: usize = self.names.keys().map(|name| 2 * name.len()).sum();
        // Nodes of the ordered maps are about two thirds full.
        let pending = size_of::<(Id, Pending)>() + size_of::<Id>();
        let consumer = size_of::<Consumer>() + size_of::<(Box<[u8]>, ConsumerId)>();
        let entries = self.pending.len() * pending + self.consumers.len() * consumer;
        size_of::<Self>() + names + entries + entries / 2
    }

    /// Number of entries that wait for an acknowledgement.
    pub fn pending_len(&self) -> usize {
        self.pending.len()
    }

    /// The entries that wait for an acknowledgement, by id.
    pub fn pending(
        &self,
        range: impl RangeBounds<Id>,
    ) -> impl DoubleEndedIterator<Item = (Id, &Pending)> {
        self.pending.range(range).map(|(id, pending)| (*id, pending))
    }

    /// The pending entry with this id.
    pub fn pending_entry(&self, id: Id) -> Option<&Pending> {
        self.pending.get(&id)
    }

    /// The pending entry with this id, whose time and count may be changed.
    pub fn pending_entry_mut(&mut self, id: Id) -> Option<(&mut i64, &mut u64)> {
        self.pending.get_mut(&id).map(|p| (&mut p.delivered_ms, &mut p.deliveries))
    }

    /// The consumers, by name.
    pub fn consumers(&self) -> impl ExactSizeIterator<Item = &Consumer> {
        self.names.values().map(|id| &self.consumers[id])
    }

    /// Finds a consumer.
    pub fn find_consumer(&self, name: &[u8]) -> Option<ConsumerId> {
        self.names.get(name).copied()
    }

    /// A consumer of this group.
    pub fn consumer(&self, id: ConsumerId) -> Option<&Consumer> {
        self.consumers.get(&id)
    }

    /// A consumer of this group, to change.
    pub fn consumer_mut(&mut self, id: ConsumerId) -> Option<&mut Consumer> {
        self.consumers.get_mut(&id)
    }

    /// Adds a consumer; the caller has looked for one of this name.
    pub fn create_consumer(&mut self, name: &[u8], now_ms: i64) -> ConsumerId {
        let id = ConsumerId(self.next_consumer);
        self.next_consumer += 1;
        self.names.insert(name.into(), id);
        let consumer = Consumer {
            name: name.into(),
            seen_ms: now_ms,
            active_ms: None,
            pending: BTreeSet::new(),
        };
        self.consumers.insert(id, consumer);
        id
    }

    /// Removes a consumer and what is pending for it; `None` if there is none of this name, else how
    /// many entries were pending.
    pub fn delete_consumer(&mut self, name: &[u8]) -> Option<usize> {
        let id = self.names.remove(name)?;
        let consumer = self.consumers.remove(&id)?;
        for entry in &consumer.pending {
            self.pending.remove(entry);
        }
        Some(consumer.pending.len())
    }

    /// Makes an entry pending for `consumer`, whoever had it before.
    pub fn assign(&mut self, id: Id, pending: Pending) {
        match self.pending.insert(id, pending) {
            Some(before) if before.consumer == pending.consumer => return,
            Some(before) => {
                if let Some(owner) = self.consumers.get_mut(&before.consumer) {
                    owner.pending.remove(&id);
                }
            }
            None => {}
        }
        if let Some(owner) = self.consumers.get_mut(&pending.consumer) {
            owner.pending.insert(id);
        }
    }

    /// Acknowledges an entry; says whether it was pending.
    pub fn acknowledge(&mut self, id: Id) -> bool {
        let Some(pending) = self.pending.remove(&id) else { return false };
        if let Some(owner) = self.consumers.get_mut(&pending.consumer) {
            owner.pending.remove(&id);
        }
        true
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        self.last_id.encode(out);
        match self.entries_read {
            Some(count) => {
                out.push(1);
                varint::push(out, count);
            }
            None => out.push(0),
        }
        varint::push(out, self.names.len() as u64);
        let mut places = BTreeMap::new();
        for (place, consumer) in self.consumers().enumerate() {
            places.insert(self.names[&consumer.name], place as u64);
            varint::push(out, consumer.name.len() as u64);
            out.extend_from_slice(&consumer.name);
            varint::push_signed(out, consumer.seen_ms);
            match consumer.active_ms {
                Some(ms) => {
                    out.push(1);
                    varint::push_signed(out, ms);
                }
                None => out.push(0),
            }
        }
        varint::push(out, self.pending.len() as u64);
        for (id, pending) in &self.pending {
            id.encode(out);
            varint::push(out, places[&pending.consumer]);
            varint::push_signed(out, pending.delivered_ms);
            varint::push(out, pending.deliveries);
        }
    }

    pub(super) fn decode(bytes: &[u8], at: usize) -> Option<(Self, usize)> {
        let (last_id, at) = Id::decode(bytes, at)?;
        let (entries_read, mut at) = match bytes.get(at)? {
            0 => (None, at + 1),
            1 => varint::read(bytes, at + 1).map(|(count, at)| (Some(count), at))?,
            _ => return None,
        };
        let mut group = Group::new(last_id, entries_read);
        let consumers;
        (consumers, at) = varint::read(bytes, at)?;
        for _ in 0..consumers {
            at = group.decode_consumer(bytes, at)?;
        }
        let pending;
        (pending, at) = varint::read(bytes, at)?;
        for _ in 0..pending {
            at = group.decode_pending(bytes, at)?;
        }
        Some((group, at))
    }

    fn decode_consumer(&mut self, bytes: &[u8], at: usize) -> Option<usize> {
        let (name, at) = read_name(bytes, at)?;
        if self.names.last_key_value().is_some_and(|(last, _)| **last >= *name) {
            return None;
        }
        let (seen_ms, at) = varint::read_signed(bytes, at)?;
        let (active_ms, at) = match bytes.get(at)? {
            0 => (None, at + 1),
            1 => varint::read_signed(bytes, at + 1).map(|(ms, at)| (Some(ms), at))?,
            _ => return None,
        };
        let id = self.create_consumer(name, seen_ms);
        self.consumers.get_mut(&id)?.active_ms = active_ms;
        Some(at)
    }

    fn decode_pending(&mut self, bytes: &[u8], at: usize) -> Option<usize> {
        let (id, at) = Id::decode(bytes, at)?;
        let (place, at) = varint::read(bytes, at)?;
        let (delivered_ms, at) = varint::read_signed(bytes, at)?;
        let (deliveries, at) = varint::read(bytes, at)?;
        let consumer = ConsumerId(place);
        let in_order = self.pending.last_key_value().is_none_or(|(last, _)| *last < id);
        if !in_order || !self.consumers.contains_key(&consumer) {
            return None;
        }
        self.assign(id, Pending { consumer, delivered_ms, deliveries });
        Some(at)
    }
}

/// Reads a length and that many bytes.
pub(super) fn read_name(bytes: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let (len, at) = varint::read(bytes, at)?;
    let end = at.checked_add(usize::try_from(len).ok()?)?;
    Some((bytes.get(at..end)?, end))
}
