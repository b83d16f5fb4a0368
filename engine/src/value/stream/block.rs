//! A run of consecutive stream entries, packed.
//!
//! ```text
//! block    n varint | n field names            those of its first entry
//!          entry...
//! entry    size varint                          of all that follows, up to the trailer
//!          flags u8                             1: deleted, 2: has the block's field names
//!          ms varint                            less the block's first ms
//!          seq varint                           less the block's first seq, if ms is 0
//!          values                               with the block's field names, or
//!          n varint | field, value...           with its own
//!          trailer                              bytes before it, read from the right
//! ```
//! Names and values are elements as `packed` has them.
//!
//! A block is full after as many entries or bytes as one of Redis's stream nodes, since `XADD ~` and
//! `XTRIM ~` remove whole nodes and so show where they begin. Therefore each block also counts the bytes
//! that its entries would take in Redis's own format.

use super::id::Id;
use crate::value::packed::{self, Elem, Encoded, IntBuf};
use crate::value::varint;

const DELETED: u8 = 1;
const SAME_FIELDS: u8 = 2;

/// Bytes of a Redis node where the setting names none.
const NODE_BYTES_MAX: usize = 1 << 30;
/// Frame of a listpack.
const LISTPACK_FRAME: usize = 7;

/// When a block is full: `stream-node-max-entries` and `stream-node-max-bytes`; 0 is no limit.
#[derive(Clone, Copy, Debug)]
pub struct NodeLimit {
    /// Entries, counting deleted ones.
    pub entries: usize,
    /// Bytes, as Redis would count them.
    pub bytes: usize,
}

/// Entries with ascending ids, at least one of them not deleted.
#[derive(Clone, Debug)]
pub(super) struct Block {
    pub first: Id,
    /// Id of the last entry, which may be deleted.
    pub last: Id,
    pub live: u32,
    pub deleted: u32,
    /// Offset of the first entry.
    entries_at: usize,
    /// Bytes as Redis would count them, but for its two entry counts.
    listpack_bytes: usize,
    bytes: Vec<u8>,
}

/// An entry as it lies in its block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Raw<'a> {
    pub id: Id,
    flags: u8,
    flags_at: usize,
    body: &'a [u8],
    pub start: usize,
    pub end: usize,
}

impl Raw<'_> {
    pub fn is_deleted(&self) -> bool {
        self.flags & DELETED != 0
    }
}

impl Block {
    /// A block whose first entry will be `id` with these fields and values, in turn.
    pub fn new(id: Id, fields: &[&[u8]]) -> Self {
        let mut bytes = Vec::with_capacity(64);
        let count = fields.len() / 2;
        varint::push(&mut bytes, count as u64);
        let mut listpack_bytes = LISTPACK_FRAME + listpack_int(count as i64) + listpack_int(0);
        for field in fields.iter().step_by(2) {
            Encoded::new(field).push_to(&mut bytes);
            listpack_bytes += listpack_size(Elem::Bytes(field));
        }
        let entries_at = bytes.len();
        Block { first: id, last: id, live: 0, deleted: 0, entries_at, listpack_bytes, bytes }
    }

    /// Whether an entry with these fields and values starts a new block.
    pub fn is_full(&self, fields: &[&[u8]], limit: NodeLimit) -> bool {
        let added: usize = fields.iter().map(|part| part.len()).sum();
        let bytes_max = match limit.bytes {
            1..=NODE_BYTES_MAX => limit.bytes,
            _ => NODE_BYTES_MAX,
        };
        let counts = listpack_int(self.live.into()) + listpack_int(self.deleted.into());
        self.listpack_bytes + counts + added >= bytes_max
            || (limit.entries > 0 && self.live as usize + self.deleted as usize >= limit.entries)
    }

    /// Adds an entry; `id` is larger than all before.
    pub fn append(&mut self, id: Id, fields: &[&[u8]]) {
        let start = self.bytes.len();
        let same = self.has_fields(fields);
        let delta = id.ms - self.first.ms;
        let seq = if delta == 0 { id.seq - self.first.seq } else { id.seq };
        let count = fields.len() / 2;
        // The entry's size is known once it is written, and most sizes take this one byte.
        self.bytes.push(0);
        self.bytes.push(if same { SAME_FIELDS } else { 0 });
        varint::push(&mut self.bytes, delta);
        varint::push(&mut self.bytes, seq);
        if !same {
            varint::push(&mut self.bytes, count as u64);
        }
        let (skip, step) = if same { (1, 2) } else { (0, 1) };
        let mut listpack_bytes = 0;
        for part in fields.iter().skip(skip).step_by(step) {
            Encoded::new(part).push_to(&mut self.bytes);
            listpack_bytes += listpack_size(Elem::Bytes(part));
        }
        self.listpack_bytes += listpack_bytes + listpack_entry(id, self.first, count, same);
        self.close_entry(start);
        self.last = id;
        self.live += 1;
    }

    fn close_entry(&mut self, start: usize) {
        let size = self.bytes.len() - start - 1;
        let width = varint::size(size as u64);
        if width == 1 {
            self.bytes[start] = size as u8;
        } else {
            let mut prefix = Vec::with_capacity(varint::MAX);
            varint::push(&mut prefix, size as u64);
            self.bytes.splice(start..start + 1, prefix);
        }
        let (trailer, trailer_len) = varint::reversed(size + width);
        self.bytes.extend_from_slice(&trailer[..trailer_len]);
    }

    fn has_fields(&self, fields: &[&[u8]]) -> bool {
        let Some((count, mut at)) = varint::read(&self.bytes, 0) else { return false };
        count == fields.len() as u64 / 2
            && fields.iter().step_by(2).all(|field| {
                let encoded = Encoded::new(field);
                let found = encoded.matches(&self.bytes[at..self.entries_at]);
                at += encoded.size();
                found
            })
    }

    /// Gives memory back that a block behind others won't use.
    pub fn seal(&mut self) {
        self.bytes.shrink_to_fit();
    }

    /// Bytes of memory behind the block.
    pub fn memory(&self) -> usize {
        self.bytes.capacity()
    }

    /// Reads the entry at offset `start`; `None` at the end.
    pub fn read_at(&self, start: usize) -> Option<Raw<'_>> {
        let (size, flags_at) = varint::read(&self.bytes, start)?;
        let size = usize::try_from(size).ok()?;
        let stop = flags_at.checked_add(size)?;
        let flags = *self.bytes.get(flags_at)?;
        let (delta, at) = varint::read(&self.bytes, flags_at + 1)?;
        let (seq, at) = varint::read(&self.bytes, at)?;
        let base = if delta == 0 { self.first.seq } else { 0 };
        let id = Id::new(self.first.ms.checked_add(delta)?, base.checked_add(seq)?);
        let body = self.bytes.get(at..stop)?;
        let end = stop + varint::reversed_width(stop - start);
        Some(Raw { id, flags, flags_at, body, start, end })
    }

    /// Reads the entry that ends at offset `end`; `None` at the start.
    pub fn read_before(&self, end: usize) -> Option<Raw<'_>> {
        if end <= self.entries_at {
            return None;
        }
        let (size, at) = varint::read_reversed(&self.bytes, end)?;
        self.read_at(at.checked_sub(size)?)
    }

    /// Offsets of the first entry and behind the last one.
    pub fn bounds(&self) -> (usize, usize) {
        (self.entries_at, self.bytes.len())
    }

    /// Offset of the first entry whose id is not below `id`, looking from the end if `near_end`.
    pub fn seek(&self, id: Id, near_end: bool) -> usize {
        let (mut at, mut end) = self.bounds();
        if id <= self.first {
            return at;
        }
        if near_end || id > self.last {
            while let Some(raw) = self.read_before(end) {
                if raw.id < id {
                    break;
                }
                end = raw.start;
            }
            return end;
        }
        while let Some(raw) = self.read_at(at) {
            if raw.id >= id {
                break;
            }
            at = raw.end;
        }
        at
    }

    /// The fields of an entry of this block.
    pub fn fields<'a>(&'a self, raw: &Raw<'a>) -> Fields<'a> {
        if raw.flags & SAME_FIELDS != 0 {
            let (count, at) = varint::read(&self.bytes, 0).unwrap_or_default();
            let names = self.bytes.get(at..self.entries_at).unwrap_or_default();
            Fields { left: count as usize, names: Some(names), body: raw.body }
        } else {
            let (count, at) = varint::read(raw.body, 0).unwrap_or_default();
            let body = raw.body.get(at..).unwrap_or_default();
            Fields { left: count as usize, names: None, body }
        }
    }

    /// Marks the entry with this id as deleted; says whether it was there.
    pub fn delete(&mut self, id: Id) -> bool {
        let found = self.read_at(self.seek(id, false));
        match found.map(|raw| (raw.id == id && !raw.is_deleted(), raw.flags_at)) {
            Some((true, flags_at)) => {
                self.mark_deleted(flags_at);
                true
            }
            _ => false,
        }
    }

    fn mark_deleted(&mut self, flags_at: usize) {
        if let Some(flags) = self.bytes.get_mut(flags_at) {
            *flags |= DELETED;
            self.live -= 1;
            self.deleted += 1;
        }
    }

    /// Drops deleted entries from the end, so that ids below theirs can follow.
    pub fn drop_deleted_end(&mut self) {
        let mut end = self.bytes.len();
        while let Some(raw) = self.read_before(end) {
            if !raw.is_deleted() {
                self.last = raw.id;
                break;
            }
            end = raw.start;
            self.deleted -= 1;
        }
        self.bytes.truncate(end);
    }

    /// Marks entries from the first on as deleted while `wanted(id)`; says how many.
    pub fn delete_while(&mut self, mut wanted: impl FnMut(Id) -> bool) -> u64 {
        let mut at = self.entries_at;
        let mut count = 0;
        while let Some(raw) = self.read_at(at) {
            let (flags_at, deleted, end) = (raw.flags_at, raw.is_deleted(), raw.end);
            if !deleted {
                if !wanted(raw.id) {
                    break;
                }
                self.mark_deleted(flags_at);
                count += 1;
            }
            at = end;
        }
        count
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        self.first.encode(out);
        varint::push(out, self.bytes.len() as u64);
        out.extend_from_slice(&self.bytes);
    }

    /// Reads what [`Block::encode`] wrote at offset `at`, and where it ends.
    pub fn decode(bytes: &[u8], at: usize) -> Option<(Block, usize)> {
        let (first, at) = Id::decode(bytes, at)?;
        let (len, at) = varint::read(bytes, at)?;
        let end = at.checked_add(usize::try_from(len).ok()?)?;
        let bytes = bytes.get(at..end)?;
        let (count, mut entries_at) = varint::read(bytes, 0)?;
        let mut listpack_bytes =
            LISTPACK_FRAME + listpack_int(i64::try_from(count).ok()?) + listpack_int(0);
        for _ in 0..count {
            let (elem, after) = read_canonical(bytes, entries_at)?;
            listpack_bytes += listpack_size(elem);
            entries_at = after;
        }
        let mut block = Block {
            first,
            last: first,
            live: 0,
            deleted: 0,
            entries_at,
            listpack_bytes,
            bytes: bytes.to_vec(),
        };
        block.count_entries(count)?;
        (block.live > 0).then_some((block, end))
    }

    /// Checks every entry and fills in what follows from them.
    fn count_entries(&mut self, names: u64) -> Option<()> {
        let mut at = self.entries_at;
        let (mut live, mut deleted, mut listpack_bytes) = (0, 0, 0);
        let mut last = None;
        while at < self.bytes.len() {
            let raw = self.read_at(at)?;
            let in_order = last.map_or(raw.id == self.first, |last| raw.id > last);
            let before = raw.start..raw.end;
            let (size, start) =
                varint::read_reversed(self.bytes.get(before)?, raw.end - raw.start)?;
            if !in_order || size != start || raw.flags & !(DELETED | SAME_FIELDS) != 0 {
                return None;
            }
            let same = raw.flags & SAME_FIELDS != 0;
            let (count, mut body_at) = if same { (names, 0) } else { varint::read(raw.body, 0)? };
            for _ in 0..if same { count } else { count.checked_mul(2)? } {
                let (elem, after) = read_canonical(raw.body, body_at)?;
                listpack_bytes += listpack_size(elem);
                body_at = after;
            }
            if body_at != raw.body.len() || count == 0 {
                return None;
            }
            listpack_bytes += listpack_entry(raw.id, self.first, count as usize, same);
            *(if raw.is_deleted() { &mut deleted } else { &mut live }) += 1;
            last = Some(raw.id);
            at = raw.end;
        }
        self.last = last?;
        self.live = live;
        self.deleted = deleted;
        self.listpack_bytes += listpack_bytes;
        Some(())
    }
}

fn read_canonical(bytes: &[u8], at: usize) -> Option<(Elem<'_>, usize)> {
    let (elem, after) = packed::read(bytes, at)?;
    let size = Encoded::new(elem.as_bytes(&mut IntBuf::new())).size();
    (size == after - at).then_some((elem, after))
}

/// The fields of an entry and their values, in the order they were given.
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    left: usize,
    names: Option<&'a [u8]>,
    body: &'a [u8],
}

impl<'a> Iterator for Fields<'a> {
    type Item = (Elem<'a>, Elem<'a>);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let from = self.names.as_mut().unwrap_or(&mut self.body);
        let (name, after) = packed::read(from, 0)?;
        *from = &from[after..];
        let (value, after) = packed::read(self.body, 0)?;
        self.body = &self.body[after..];
        Some((name, value))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Fields<'_> {}

/// Bytes of a listpack that an entry takes beside its fields and values.
fn listpack_entry(id: Id, first: Id, count: usize, same: bool) -> usize {
    let flags = listpack_int(SAME_FIELDS.into());
    let id_bytes = listpack_int(id.ms.wrapping_sub(first.ms) as i64)
        + listpack_int(id.seq.wrapping_sub(first.seq) as i64);
    let count = count as i64;
    let tail = if same {
        listpack_int(count + 3)
    } else {
        listpack_int(count) + listpack_int(2 * count + 4)
    };
    flags + id_bytes + tail
}

/// Bytes of a listpack that an element takes.
fn listpack_size(elem: Elem<'_>) -> usize {
    let bytes = match elem {
        Elem::Int(int) => return listpack_int(int),
        Elem::Bytes(bytes) => bytes,
    };
    if let Some(int) = packed::canonical_int(bytes) {
        return listpack_int(int);
    }
    with_back_length(match bytes.len() {
        len @ 0..64 => 1 + len,
        len @ 64..4096 => 2 + len,
        len => 5 + len,
    })
}

fn listpack_int(int: i64) -> usize {
    with_back_length(match int {
        0..=127 => 1,
        -4096..=4095 => 2,
        -0x8000..=0x7FFF => 3,
        -0x80_0000..=0x7F_FFFF => 4,
        -0x8000_0000..=0x7FFF_FFFF => 5,
        _ => 9,
    })
}

fn with_back_length(len: usize) -> usize {
    len + match len {
        0..=127 => 1,
        128..16_383 => 2,
        16_383..2_097_151 => 3,
        2_097_151..268_435_455 => 4,
        _ => 5,
    }
}
