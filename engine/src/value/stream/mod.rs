//! Streams: entries under ascending ids, and the consumer groups that read them.
//!
//! ```text
//! Stream   blocks      [100 entries] [100 entries] [37 entries]     packed, see block
//!          groups      name -> last delivered id
//!                              pending    id -> consumer, time, count
//!                              consumers  name -> its pending ids, times
//! ```
//! Entries are added at the end and mostly removed at the start, so the blocks are a deque: a lookup is
//! a binary search for the block and a short walk in it.

mod block;
mod group;
mod id;
mod progress;
#[cfg(test)]
mod tests;

pub use self::block::{Fields, NodeLimit};
pub use self::group::{Consumer, ConsumerId, Group, Pending};
pub use self::id::{Id, IdBuf};
pub use self::progress::Progress;

use self::block::Block;
use super::varint;
use std::collections::{BTreeMap, VecDeque};

/// A stream.
#[derive(Clone, Debug, Default)]
pub struct Stream {
    blocks: VecDeque<Block>,
    len: u64,
    last_id: Id,
    max_deleted_id: Id,
    entries_added: u64,
    groups: BTreeMap<Box<[u8]>, Group>,
}

/// What a trim keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// This many entries, the last ones.
    Last(u64),
    /// Entries from this id on.
    From(Id),
}

/// An entry of a stream.
#[derive(Clone, Debug)]
pub struct Entry<'a> {
    /// Its id.
    pub id: Id,
    /// Its fields and values.
    pub fields: Fields<'a>,
}

impl Stream {
    /// A stream without entries.
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of entries.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Number of blocks.
    pub fn block_count(&self) -> usize {
        self.blocks.len()
    }

    /// The largest id that was ever added, or what XSETID made of it.
    pub fn last_id(&self) -> Id {
        self.last_id
    }

    /// The largest id that XDEL removed.
    pub fn max_deleted_id(&self) -> Id {
        self.max_deleted_id
    }

    /// Number of entries that were ever added.
    pub fn entries_added(&self) -> u64 {
        self.entries_added
    }

    /// Sets the last id. The caller has checked that no entry is above it; deleted ones may be, and
    /// give way.
    pub fn set_last_id(&mut self, id: Id) {
        if let Some(block) = self.blocks.back_mut()
            && block.last > id
        {
            block.drop_deleted_end();
        }
        self.last_id = id;
    }

    /// What the counters of groups are reckoned from.
    pub fn progress(&self) -> Progress {
        Progress {
            len: self.len,
            first_id: self.first_id(),
            last_id: self.last_id,
            max_deleted_id: self.max_deleted_id,
            entries_added: self.entries_added,
        }
    }

    /// First ids of the blocks.
    pub fn block_ids(&self) -> impl ExactSizeIterator<Item = Id> {
        self.blocks.iter().map(|block| block.first)
    }

    /// Sets the count of entries ever added.
    pub fn set_entries_added(&mut self, count: u64) {
        self.entries_added = count;
    }

    /// Sets the largest deleted id.
    pub fn set_max_deleted_id(&mut self, id: Id) {
        self.max_deleted_id = id;
    }

    /// Id of the first entry, [`Id::MIN`] if there is none.
    pub fn first_id(&self) -> Id {
        self.range(Id::MIN, Id::MAX, false).next().map_or(Id::MIN, |entry| entry.id)
    }

    /// Id of the last entry that is still there, [`Id::MIN`] if there is none.
    pub fn top_id(&self) -> Id {
        self.range(Id::MIN, Id::MAX, true).next().map_or(Id::MIN, |entry| entry.id)
    }

    /// Bytes of memory the stream takes, about.
    pub fn memory(&self) -> usize {
        let groups: usize = self.groups.iter().map(|(name, g)| name.len() + g.memory()).sum();
        size_of::<Self>()
            + self.blocks.capacity() * size_of::<Block>()
            + self.blocks.iter().map(Block::memory).sum::<usize>()
            + groups
    }

    /// Adds an entry of fields and values, in turn. `id` is larger than the last id.
    pub fn append(&mut self, id: Id, fields: &[&[u8]], limit: NodeLimit) {
        debug_assert!(id > self.last_id && fields.len() >= 2 && fields.len().is_multiple_of(2));
        match self.blocks.back_mut() {
            Some(block) if !block.is_full(fields, limit) => block.append(id, fields),
            full => {
                if let Some(full) = full {
                    full.seal();
                }
                let mut block = Block::new(id, fields);
                block.append(id, fields);
                self.blocks.push_back(block);
            }
        }
        self.len += 1;
        self.last_id = id;
        self.entries_added += 1;
    }

    /// Adds an entry wherever its id belongs; does nothing if there is one of this id. What was
    /// deleted near it is not remembered as deleted any more.
    pub fn insert(&mut self, id: Id, fields: &[&[u8]], limit: NodeLimit) {
        if id > self.last_id {
            return self.append(id, fields, limit);
        }
        if self.contains(id) {
            return;
        }
        let at = self.blocks.partition_point(|block| block.last < id);
        let mut fresh: Vec<Block> = Vec::new();
        let mut put = |id: Id, fields: &[&[u8]]| match fresh.last_mut() {
            Some(block) if !block.is_full(fields, limit) => block.append(id, fields),
            _ => {
                let mut block = Block::new(id, fields);
                block.append(id, fields);
                fresh.push(block);
            }
        };
        let mut pending = Some(fields);
        if let Some(old) = self.blocks.get(at) {
            let mut from = old.bounds().0;
            while let Some(raw) = old.read_at(from) {
                from = raw.end;
                if raw.is_deleted() {
                    continue;
                }
                if raw.id > id
                    && let Some(fields) = pending.take()
                {
                    put(id, fields);
                }
                let parts: Vec<Vec<u8>> = old
                    .fields(&raw)
                    .flat_map(|(field, value)| [field.to_vec(), value.to_vec()])
                    .collect();
                put(raw.id, &parts.iter().map(Vec::as_slice).collect::<Vec<_>>());
            }
            self.blocks.remove(at);
        }
        if let Some(fields) = pending {
            put(id, fields);
        }
        for (nth, block) in fresh.into_iter().enumerate() {
            self.blocks.insert(at + nth, block);
        }
        self.len += 1;
        self.entries_added += 1;
    }

    /// The block that holds `id`, if any does.
    fn block_of(&self, id: Id) -> Option<usize> {
        let at = self.blocks.partition_point(|block| block.last < id);
        self.blocks.get(at).is_some_and(|block| block.first <= id).then_some(at)
    }

    /// Removes the entry with this id; says whether it was there.
    pub fn delete(&mut self, id: Id) -> bool {
        let Some(at) = self.block_of(id) else { return false };
        if !self.blocks[at].delete(id) {
            return false;
        }
        if self.blocks[at].live == 0 {
            self.blocks.remove(at);
        }
        self.len -= 1;
        self.max_deleted_id = self.max_deleted_id.max(id);
        true
    }

    /// Whether an entry has this id.
    pub fn contains(&self, id: Id) -> bool {
        self.get(id).is_some()
    }

    /// The entry with this id.
    pub fn get(&self, id: Id) -> Option<Entry<'_>> {
        self.range(id, id, false).next()
    }

    /// Removes entries from the start, and says how many. `approx` removes whole blocks only;
    /// `limit`, if not 0, stops before more than that many entries are gone.
    pub fn trim(&mut self, keep: Keep, approx: bool, limit: u64) -> u64 {
        let mut removed = 0;
        while let Some(block) = self.blocks.front_mut() {
            let live = u64::from(block.live);
            if matches!(keep, Keep::Last(count) if self.len <= count)
                || (limit > 0 && removed + live > limit)
            {
                break;
            }
            let whole = match keep {
                Keep::Last(count) => self.len - live >= count,
                Keep::From(id) => block.last < id,
            };
            if whole {
                self.len -= live;
                removed += live;
                self.blocks.pop_front();
                continue;
            }
            if !approx {
                let len = &mut self.len;
                removed += block.delete_while(|id| {
                    let wanted = match keep {
                        Keep::Last(count) => *len > count,
                        Keep::From(from) => id < from,
                    };
                    *len -= u64::from(wanted);
                    wanted
                });
                if block.live == 0 {
                    self.blocks.pop_front();
                }
            }
            break;
        }
        removed
    }

    /// The entries with ids from `start` to `end`, both included, the last first if `reverse`.
    pub fn range(&self, start: Id, end: Id, reverse: bool) -> Range<'_> {
        let mut range = Range { blocks: &self.blocks, block: 0, at: 0, start, end, reverse };
        if reverse {
            let after = self.blocks.partition_point(|block| block.first <= end);
            range.block = after.wrapping_sub(1);
            if let Some(block) = self.blocks.get(range.block) {
                range.at = match end.next() {
                    Some(next) => block.seek(next, after == self.blocks.len()),
                    None => block.bounds().1,
                };
            }
        } else {
            range.block = self.blocks.partition_point(|block| block.last < start);
            if let Some(block) = self.blocks.get(range.block) {
                range.at = block.seek(start, range.block + 1 == self.blocks.len());
            }
        }
        range
    }

    /// The groups, by name.
    pub fn groups(&self) -> impl ExactSizeIterator<Item = (&[u8], &Group)> {
        self.groups.iter().map(|(name, group)| (&**name, group))
    }

    /// The group of this name.
    pub fn group(&self, name: &[u8]) -> Option<&Group> {
        self.groups.get(name)
    }

    /// The group of this name, to change.
    pub fn group_mut(&mut self, name: &[u8]) -> Option<&mut Group> {
        self.groups.get_mut(name)
    }

    /// Adds a group, unless there is one of this name; says whether it did.
    pub fn create_group(&mut self, name: &[u8], last_id: Id, entries_read: Option<u64>) -> bool {
        if self.groups.contains_key(name) {
            return false;
        }
        self.groups.insert(name.into(), Group::new(last_id, entries_read));
        true
    }

    /// Removes a group; says whether it was there.
    pub fn destroy_group(&mut self, name: &[u8]) -> bool {
        self.groups.remove(name).is_some()
    }

    /// Appends the stream's canonical form.
    pub fn encode(&self, out: &mut Vec<u8>) {
        varint::push(out, self.blocks.len() as u64);
        for block in &self.blocks {
            block.encode(out);
        }
        self.last_id.encode(out);
        self.max_deleted_id.encode(out);
        varint::push(out, self.entries_added);
        varint::push(out, self.groups.len() as u64);
        for (name, group) in &self.groups {
            varint::push(out, name.len() as u64);
            out.extend_from_slice(name);
            group.encode(out);
        }
    }

    /// Reads what [`Stream::encode`] wrote; `None` for anything else.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut stream = Stream::new();
        let (blocks, mut at) = varint::read(bytes, 0)?;
        for _ in 0..blocks {
            let (block, after) = Block::decode(bytes, at)?;
            if stream.blocks.back().is_some_and(|before| before.last >= block.first) {
                return None;
            }
            stream.len += u64::from(block.live);
            stream.blocks.push_back(block);
            at = after;
        }
        (stream.last_id, at) = Id::decode(bytes, at)?;
        (stream.max_deleted_id, at) = Id::decode(bytes, at)?;
        (stream.entries_added, at) = varint::read(bytes, at)?;
        if stream.blocks.back().is_some_and(|block| block.last > stream.last_id) {
            return None;
        }
        let groups;
        (groups, at) = varint::read(bytes, at)?;
        for _ in 0..groups {
            let (name, after) = group::read_name(bytes, at)?;
            if stream.groups.last_key_value().is_some_and(|(last, _)| **last >= *name) {
                return None;
            }
            let (group, after) = Group::decode(bytes, after)?;
            stream.groups.insert(name.into(), group);
            at = after;
        }
        (at == bytes.len()).then_some(stream)
    }
}

/// The entries of a range of ids.
#[derive(Clone, Debug)]
pub struct Range<'a> {
    blocks: &'a VecDeque<Block>,
    block: usize,
    at: usize,
    start: Id,
    end: Id,
    reverse: bool,
}

impl<'a> Iterator for Range<'a> {
    type Item = Entry<'a>;

    fn next(&mut self) -> Option<Entry<'a>> {
        loop {
            let block = self.blocks.get(self.block)?;
            let raw =
                if self.reverse { block.read_before(self.at) } else { block.read_at(self.at) };
            let Some(raw) = raw else {
                if self.reverse {
                    self.block = self.block.checked_sub(1)?;
                    self.at = self.blocks.get(self.block)?.bounds().1;
                } else {
                    self.block += 1;
                    self.at = self.blocks.get(self.block)?.bounds().0;
                }
                continue;
            };
            if raw.id > self.end || raw.id < self.start {
                return None;
            }
            self.at = if self.reverse { raw.start } else { raw.end };
            if !raw.is_deleted() {
                return Some(Entry { id: raw.id, fields: block.fields(&raw) });
            }
        }
    }
}
