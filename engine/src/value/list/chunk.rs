//! A part of a large list: some KiB of elements in a buffer with room at either end.

use super::codec::{self, Framed, Walk};
use crate::value::packed::Elem;

/// Bytes of elements in one chunk; a larger element is alone in its own.
pub(super) const CHUNK_MAX: usize = 4096;

/// Elements, never none, in `buf` from `start` on.
#[derive(Debug)]
pub(super) struct Chunk {
    buf: Vec<u8>,
    /// Free bytes at the front: less than [`CHUNK_MAX`] plus what has been taken off the head.
    start: u32,
    count: u32,
}

impl Clone for Chunk {
    fn clone(&self) -> Self {
        Chunk { buf: self.bytes().to_vec(), start: 0, count: self.count }
    }
}

impl Chunk {
    /// A chunk that will grow at its tail.
    pub fn with_tail_room(framed: &Framed<'_>) -> Self {
        let mut buf = Vec::with_capacity(first_capacity(framed.size()));
        for part in framed.parts() {
            buf.extend_from_slice(part);
        }
        Chunk { buf, start: 0, count: 1 }
    }

    /// A chunk that will grow at its head.
    pub fn with_head_room(framed: &Framed<'_>) -> Self {
        let capacity = first_capacity(framed.size());
        let start = capacity - framed.size();
        let mut buf = vec![0; capacity];
        framed.write(&mut buf[start..]);
        Chunk { buf, start: start as u32, count: 1 }
    }

    fn from_elements(bytes: &[u8], count: usize) -> Self {
        Chunk { buf: bytes.to_vec(), start: 0, count: count as u32 }
    }

    /// The elements.
    pub fn bytes(&self) -> &[u8] {
        &self.buf[self.start as usize..]
    }

    /// Number of elements.
    pub fn count(&self) -> usize {
        self.count as usize
    }

    /// Bytes of the buffer.
    pub fn capacity(&self) -> usize {
        self.buf.capacity()
    }

    /// Whether an element of this size may join.
    pub fn has_room(&self, size: usize) -> bool {
        self.bytes().len() + size <= CHUNK_MAX
    }

    pub fn walk(&self) -> Walk<'_> {
        Walk::new(self.bytes(), 0, self.bytes().len())
    }

    /// The elements from `index` on to the tail, or (`reverse`) to the head.
    pub fn walk_at(&self, index: usize, reverse: bool) -> Walk<'_> {
        if reverse {
            Walk::new(self.bytes(), 0, self.offset_of(index + 1))
        } else {
            Walk::new(self.bytes(), self.offset_of(index), self.bytes().len())
        }
    }

    pub fn offset_of(&self, index: usize) -> usize {
        codec::offset_of(self.bytes(), self.count(), index)
    }

    pub fn push_back(&mut self, framed: &Framed<'_>) {
        self.make_tail_room(framed.size());
        for part in framed.parts() {
            self.buf.extend_from_slice(part);
        }
        self.count += 1;
    }

    fn make_tail_room(&mut self, size: usize) {
        if self.buf.len() + size <= self.buf.capacity() {
            return;
        }
        // Room that a queue's reader left at the front is used again once it is worth the move.
        if self.start as usize >= self.bytes().len().max(size) {
            self.buf.drain(..self.start as usize);
            self.start = 0;
        }
        let need = self.buf.len() + size;
        if need > self.buf.capacity() {
            self.buf.reserve_exact(grown(need) - self.buf.len());
        }
    }

    pub fn push_front(&mut self, framed: &Framed<'_>) {
        let size = framed.size();
        if (self.start as usize) < size {
            let live = self.bytes();
            let capacity = grown(live.len() + size);
            let start = capacity - live.len();
            let mut buf = Vec::with_capacity(capacity);
            buf.resize(start, 0);
            buf.extend_from_slice(live);
            self.buf = buf;
            self.start = start as u32;
        }
        let start = self.start as usize - size;
        framed.write(&mut self.buf[start..start + size]);
        self.start = start as u32;
        self.count += 1;
    }

    /// Removes the first `n` elements, fewer than there are.
    pub fn trim_front(&mut self, n: usize) {
        let at = self.offset_of(n);
        self.start += at as u32;
        self.count -= n as u32;
    }

    /// Removes the last `n` elements, fewer than there are.
    pub fn trim_back(&mut self, n: usize) {
        let at = self.offset_of(self.count() - n);
        self.buf.truncate(self.start as usize + at);
        self.count -= n as u32;
    }

    /// Gives memory back that a chunk between others will hardly use.
    pub fn seal(&mut self) {
        if self.buf.capacity() - self.bytes().len() > CHUNK_MAX / 8 {
            self.buf.drain(..self.start as usize);
            self.start = 0;
            self.buf.shrink_to_fit();
        }
    }

    /// Cuts the chunk before the element at `index`; the elements from there on come back.
    pub fn split_off(&mut self, index: usize) -> Chunk {
        let at = self.offset_of(index);
        let tail = Chunk::from_elements(&self.bytes()[at..], self.count() - index);
        self.buf.truncate(self.start as usize + at);
        self.count = index as u32;
        tail
    }

    /// Adds an element, for which there is room, in front of the one at `index`.
    pub fn insert(&mut self, index: usize, framed: &Framed<'_>) {
        let at = self.start as usize + self.offset_of(index);
        self.replace(at, 0, framed);
        self.count += 1;
    }

    /// Replaces the element at `index`, which exists.
    pub fn set(&mut self, index: usize, framed: &Framed<'_>) {
        let at = self.offset_of(index);
        if let Some((_, after)) = codec::next(self.bytes(), at) {
            self.replace(self.start as usize + at, after - at, framed);
        }
    }

    fn replace(&mut self, at: usize, remove: usize, framed: &Framed<'_>) {
        let size = framed.size();
        let old_len = self.buf.len();
        if size > remove {
            self.make_exact_room(size - remove);
            self.buf.resize(old_len + size - remove, 0);
        }
        self.buf.copy_within(at + remove..old_len, at + size);
        self.buf.truncate(old_len + size - remove);
        framed.write(&mut self.buf[at..at + size]);
    }

    fn make_exact_room(&mut self, size: usize) {
        let need = self.buf.len() + size;
        if need > self.buf.capacity() {
            self.buf.reserve_exact(grown(need) - self.buf.len());
        }
    }

    /// Bytes of the element at `index`, which exists.
    pub fn size_of(&self, index: usize) -> usize {
        let at = self.offset_of(index);
        codec::next(self.bytes(), at).map_or(0, |(_, after)| after - at)
    }

    /// Removes elements equal to `needle`, see [`codec::without`]; says how many went.
    pub fn remove(&mut self, needle: Elem<'_>, limit: usize, from_tail: bool) -> usize {
        match codec::without(self.bytes(), needle, limit, from_tail) {
            Some((kept, removed)) => {
                self.buf = kept;
                self.start = 0;
                self.count -= removed as u32;
                removed
            }
            None => 0,
        }
    }

    /// Appends the elements of `next`.
    pub fn append(&mut self, next: &Chunk) {
        self.make_exact_room(next.bytes().len());
        self.buf.extend_from_slice(next.bytes());
        self.count += next.count;
    }
}

/// Capacity of the buffer for a chunk's first element: all of it at once, unless the element leaves
/// no room for a second one of its kind.
fn first_capacity(size: usize) -> usize {
    if size > CHUNK_MAX / 2 { size } else { CHUNK_MAX }
}

/// Capacity for `need` bytes, so that the next few do not need to grow again.
fn grown(need: usize) -> usize {
    if need >= CHUNK_MAX { need } else { need.next_power_of_two().clamp(64, CHUNK_MAX) }
}
