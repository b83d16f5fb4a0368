//! Lists: one run of bytes while they are small ([`packed`]), a deque of such runs when large
//! ([`List`]).
//!
//! Both ends of a large list take and give elements in constant time; anything else skips whole
//! chunks by their element counts and walks one chunk, from its nearer end.

mod chunk;
pub mod codec;
pub mod packed;
#[cfg(test)]
mod tests;

use self::chunk::Chunk;
use self::codec::{Framed, Walk};
use super::packed::{Elem, Encoded, read};
use super::part::{Found, Part};
use super::varint;
use std::collections::VecDeque;

/// An end of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The head, where LPUSH adds.
    Left,
    /// The tail, where RPUSH adds.
    Right,
}

/// A large list.
#[derive(Clone, Debug, Default)]
pub struct List {
    chunks: VecDeque<Chunk>,
    len: usize,
}

impl List {
    /// A list without elements.
    pub fn new() -> Self {
        Self::default()
    }

    /// A list with the elements of a small one.
    pub fn from_packed(bytes: &[u8]) -> Self {
        let mut list = List::new();
        let mut buf = super::packed::IntBuf::new();
        for elem in packed::iter(bytes) {
            list.push_back(elem.as_bytes(&mut buf));
        }
        list
    }

    /// The list in small form, if it has shrunk to where `limit` wants that.
    pub fn to_packed(&self, limit: packed::Limit) -> Option<Vec<u8>> {
        let (first, second) = match self.chunks.len() {
            0 => return Some(packed::EMPTY.to_vec()),
            1 => (self.chunks.front()?.bytes(), &[][..]),
            2 => (self.chunks.front()?.bytes(), self.chunks.back()?.bytes()),
            _ => return None,
        };
        limit
            .allows_again(first.len() + second.len(), self.len)
            .then(|| packed::from_elements(self.len, [first, second]))
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of memory the list takes.
    pub fn memory(&self) -> usize {
        size_of::<Self>()
            + self.chunks.capacity() * size_of::<Chunk>()
            + self.chunks.iter().map(Chunk::capacity).sum::<usize>()
    }

    /// Adds an element at the head.
    pub fn push_front(&mut self, bytes: &[u8]) {
        let framed = Framed::new(bytes);
        match self.chunks.front_mut() {
            Some(chunk) if chunk.has_room(framed.size()) => chunk.push_front(&framed),
            full => {
                if let Some(full) = full {
                    full.seal();
                }
                self.chunks.push_front(Chunk::with_head_room(&framed));
            }
        }
        self.len += 1;
    }

    /// Adds an element at the tail.
    pub fn push_back(&mut self, bytes: &[u8]) {
        let framed = Framed::new(bytes);
        match self.chunks.back_mut() {
            Some(chunk) if chunk.has_room(framed.size()) => chunk.push_back(&framed),
            full => {
                if let Some(full) = full {
                    full.seal();
                }
                self.chunks.push_back(Chunk::with_tail_room(&framed));
            }
        }
        self.len += 1;
    }

    /// Adds an element at an end.
    pub fn push(&mut self, side: Side, bytes: &[u8]) {
        match side {
            Side::Left => self.push_front(bytes),
            Side::Right => self.push_back(bytes),
        }
    }

    /// The element at `index`.
    pub fn get(&self, index: usize) -> Option<Elem<'_>> {
        self.iter_at(index, false).next()
    }

    /// All elements.
    pub fn iter(&self) -> Iter<'_> {
        self.iter_at(0, false)
    }

    /// The elements from `index` on to the tail, or (`reverse`) to the head.
    pub fn iter_at(&self, index: usize, reverse: bool) -> Iter<'_> {
        match self.locate(index) {
            Some((chunk, within)) => Iter {
                walk: self.chunks[chunk].walk_at(within, reverse),
                chunks: Some(&self.chunks),
                chunk,
                reverse,
            },
            None => Iter { walk: Walk::default(), chunks: None, chunk: 0, reverse },
        }
    }

    /// The chunk of the element at `index`, and its index in there.
    fn locate(&self, index: usize) -> Option<(usize, usize)> {
        if index >= self.len {
            return None;
        }
        if index <= self.len / 2 {
            let mut before = 0;
            for (at, chunk) in self.chunks.iter().enumerate() {
                if index < before + chunk.count() {
                    return Some((at, index - before));
                }
                before += chunk.count();
            }
        } else {
            let mut start = self.len;
            for (at, chunk) in self.chunks.iter().enumerate().rev() {
                start -= chunk.count();
                if index >= start {
                    return Some((at, index - start));
                }
            }
        }
        None
    }

    /// Adds an element in front of the one at `index`, or at the tail.
    pub fn insert(&mut self, index: usize, bytes: &[u8]) {
        let Some((at, within)) = self.locate(index) else { return self.push_back(bytes) };
        if index == 0 {
            return self.push_front(bytes);
        }
        let framed = Framed::new(bytes);
        self.len += 1;
        if self.chunks[at].has_room(framed.size()) {
            return self.chunks[at].insert(within, &framed);
        }
        if within == 0 {
            if self.chunks[at - 1].has_room(framed.size()) {
                return self.chunks[at - 1].push_back(&framed);
            }
        } else {
            let tail = self.chunks[at].split_off(within);
            self.chunks.insert(at + 1, tail);
            if self.chunks[at].has_room(framed.size()) {
                return self.chunks[at].push_back(&framed);
            }
            if self.chunks[at + 1].has_room(framed.size()) {
                return self.chunks[at + 1].push_front(&framed);
            }
        }
        let between = at + usize::from(within > 0);
        let mut chunk = Chunk::with_tail_room(&framed);
        chunk.seal();
        self.chunks.insert(between, chunk);
    }

    /// Replaces the element at `index`; says whether there is one.
    pub fn set(&mut self, index: usize, bytes: &[u8]) -> bool {
        let Some((at, within)) = self.locate(index) else { return false };
        let framed = Framed::new(bytes);
        let chunk = &mut self.chunks[at];
        let grows = framed.size().saturating_sub(chunk.size_of(within));
        if chunk.count() == 1 || grows == 0 || chunk.has_room(grows) {
            chunk.set(within, &framed);
            return true;
        }
        let mut middle = chunk.split_off(within);
        let tail = (middle.count() > 1).then(|| middle.split_off(1));
        middle.set(0, &framed);
        let mut at = at;
        if within == 0 {
            self.chunks[at] = middle;
        } else {
            at += 1;
            self.chunks.insert(at, middle);
        }
        if let Some(tail) = tail {
            self.chunks.insert(at + 1, tail);
        }
        true
    }

    /// Removes `n` elements from the head.
    pub fn trim_front(&mut self, n: usize) {
        let mut left = n.min(self.len);
        self.len -= left;
        while let Some(chunk) = self.chunks.front_mut() {
            if left < chunk.count() {
                if left > 0 {
                    chunk.trim_front(left);
                }
                return;
            }
            left -= chunk.count();
            self.chunks.pop_front();
        }
    }

    /// Removes `n` elements from the tail.
    pub fn trim_back(&mut self, n: usize) {
        let mut left = n.min(self.len);
        self.len -= left;
        while let Some(chunk) = self.chunks.back_mut() {
            if left < chunk.count() {
                if left > 0 {
                    chunk.trim_back(left);
                }
                return;
            }
            left -= chunk.count();
            self.chunks.pop_back();
        }
    }

    /// Removes the first `limit` elements (the last ones with `from_tail`) that equal `value`, and
    /// returns how many went.
    pub fn remove(&mut self, value: &[u8], limit: usize, from_tail: bool) -> usize {
        let needle = codec::needle(value);
        let mut removed = 0;
        let chunks = self.chunks.len();
        for step in 0..chunks {
            if removed >= limit {
                break;
            }
            let at = if from_tail { chunks - 1 - step } else { step };
            removed += self.chunks[at].remove(needle, limit - removed, from_tail);
        }
        if removed > 0 {
            self.len -= removed;
            self.join_chunks();
        }
        removed
    }

    /// Drops empty chunks and joins neighbours that have become small, so that a list from which
    /// much was removed does not stay a list of crumbs.
    fn join_chunks(&mut self) {
        let mut joined: VecDeque<Chunk> = VecDeque::with_capacity(self.chunks.len());
        for chunk in self.chunks.drain(..) {
            if chunk.count() == 0 {
                continue;
            }
            match joined.back_mut() {
                Some(last) if last.has_room(chunk.bytes().len()) => last.append(&chunk),
                _ => joined.push_back(chunk),
            }
        }
        self.chunks = joined;
    }

    /// Appends the list's canonical form: the number of elements, then each as [`super::packed`]
    /// has it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.encode_head(out);
        for chunk in 0..self.chunks.len() {
            self.encode_chunk(chunk, out, &mut |_| {});
        }
    }

    /// Appends what comes before the first element in the canonical form.
    pub(super) fn encode_head(&self, out: &mut Vec<u8>) {
        varint::push(out, self.len as u64);
    }

    /// Appends the elements of a chunk, in the canonical form, and tells where in `out` each begins; `false`
    /// where there is no such chunk.
    pub(super) fn encode_chunk(
        &self,
        chunk: usize,
        out: &mut Vec<u8>,
        each: &mut dyn FnMut(usize),
    ) -> bool {
        let Some(chunk) = self.chunks.get(chunk) else { return false };
        let mut buf = super::packed::IntBuf::new();
        for elem in chunk.walk() {
            each(out.len());
            Encoded::new(elem.as_bytes(&mut buf)).push_to(out);
        }
        true
    }

    /// Reads what [`List::encode`] wrote; `None` for anything else.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (count, mut at) = varint::read(bytes, 0)?;
        let mut list = List::new();
        let mut buf = super::packed::IntBuf::new();
        for _ in 0..count {
            let (elem, after) = read(bytes, at)?;
            let encoded = Encoded::new(elem.as_bytes(&mut buf));
            if encoded.size() != after - at {
                return None;
            }
            list.push_back(elem.as_bytes(&mut buf));
            at = after;
        }
        (at == bytes.len()).then_some(list)
    }
}

/// A list of either form, to read.
#[derive(Clone, Copy, Debug)]
pub enum ListRef<'a> {
    /// A small one.
    Packed(&'a [u8]),
    /// A large one.
    Big(&'a List),
    /// Some elements of a large one on disk.
    Part(&'a Part),
}

impl<'a> ListRef<'a> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            ListRef::Packed(bytes) => packed::len(bytes),
            ListRef::Big(list) => list.len(),
            ListRef::Part(part) => part.len,
        }
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The element at `index`.
    pub fn get(&self, index: usize) -> Option<Elem<'a>> {
        match self {
            ListRef::Packed(bytes) => packed::get(bytes, index),
            ListRef::Big(list) => list.get(index),
            ListRef::Part(_) => self.iter_at(index, false).next(),
        }
    }

    /// The elements from `index` on to the tail, or (`reverse`) to the head.
    pub fn iter_at(&self, index: usize, reverse: bool) -> Iter<'a> {
        match self {
            ListRef::Packed(bytes) => Iter {
                walk: packed::walk_at(bytes, index, reverse),
                chunks: None,
                chunk: 0,
                reverse,
            },
            ListRef::Big(list) => list.iter_at(index, reverse),
            ListRef::Part(part) => match &part.found {
                Found::Elements(first, list) if index >= *first => {
                    list.iter_at(index - first, reverse)
                }
                _ => Iter { walk: Walk::default(), chunks: None, chunk: 0, reverse },
            },
        }
    }

    /// All elements.
    pub fn iter(&self) -> Iter<'a> {
        self.iter_at(0, false)
    }
}

/// The elements of a list, one way or the other.
#[derive(Clone, Debug)]
pub struct Iter<'a> {
    walk: Walk<'a>,
    chunks: Option<&'a VecDeque<Chunk>>,
    chunk: usize,
    reverse: bool,
}

impl<'a> Iter<'a> {
    /// Goes on with the first element of the next chunk; chunks are never empty.
    #[cold]
    fn next_chunk(&mut self) -> Option<Elem<'a>> {
        let step = if self.reverse { self.chunk.checked_sub(1)? } else { self.chunk + 1 };
        self.walk = self.chunks?.get(step)?.walk();
        self.chunk = step;
        if self.reverse { self.walk.next_back() } else { self.walk.next() }
    }
}

impl<'a> Iterator for Iter<'a> {
    type Item = Elem<'a>;

    #[inline]
    fn next(&mut self) -> Option<Elem<'a>> {
        let elem = if self.reverse { self.walk.next_back() } else { self.walk.next() };
        if elem.is_some() { elem } else { self.next_chunk() }
    }
}
