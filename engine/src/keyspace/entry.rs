//! One key with its value: a single heap allocation, reached through a thin pointer.
//!
//! ```text
//! byte 0  kind (low 4 bits), flags (high 4 bits: expiry, backed, long key, colour)
//!      1  key length; with the LONG_KEY flag it is in a word below
//!      2  inline length u16: bytes of value that follow the key
//!      4  access data u32, see `access`
//!      8  [expiry i64: Unix milliseconds]        with HAS_EXPIRY
//!         [payload u64: an integer or a pointer]  of kinds Int, Big and ShapedHash
//!         [key length u64]                        with LONG_KEY
//!         key bytes, inline value bytes
//! ```
//! Small strings and packed collections live inline; only large values have an allocation of
//! their own. Small hashes with the same fields share the names of these. The size of the allocation follows from the header alone, so none is stored.
//! The colour tells what a running cut has still to save, see `saving`; backed entries are known to
//! the cold tier.
//!
//! This file and `table` are where the engine uses `unsafe`: the thin pointer saves 24 bytes a key
//! against boxed keys and values and one cache miss an access, which measured as half of the CPU
//! time of a pipelined GET.

use crate::known_bugs::{self, Bug};
use crate::prefetch::LINE_BYTES;
use crate::value::Value;
use crate::value::hash::shape::Shape;
use std::alloc::{Layout, alloc, dealloc, handle_alloc_error, realloc};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// How a value is represented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A string, inline.
    Str = 0,
    /// A string that was edited in place (APPEND, SETRANGE), inline.
    StrRaw = 1,
    /// A string that is an integer.
    Int = 2,
    /// A value with a structure of its own.
    Big = 3,
    /// A small list, inline.
    PackedList = 4,
    /// A small hash, inline.
    PackedHash = 5,
    /// A small set, inline.
    PackedSet = 6,
    /// A small set of integers, inline.
    IntSet = 7,
    /// A small sorted set, inline.
    PackedZset = 8,
    /// A small hash, its values inline, its fields' names in a [`Shape`]. Only in memory: in byte form
    /// such a hash is a `PackedHash`.
    ShapedHash = 9,
}

impl Kind {
    const ALL: [Kind; 10] = [
        Kind::Str,
        Kind::StrRaw,
        Kind::Int,
        Kind::Big,
        Kind::PackedList,
        Kind::PackedHash,
        Kind::PackedSet,
        Kind::IntSet,
        Kind::PackedZset,
        Kind::ShapedHash,
    ];

    /// The kind with this number, if there is one.
    pub fn from_number(number: u8) -> Option<Kind> {
        Kind::ALL.get(number as usize).copied()
    }

    pub(super) fn has_payload(self) -> bool {
        has_payload(self as u8)
    }
}

/// Most bytes of value that an entry holds inline.
pub const INLINE_BYTES_MAX: usize = 60_000;

const HAS_EXPIRY: u8 = 0x10;
/// The cold tier knows of this entry, see `tier::db`.
const BACKED: u8 = 0x20;
const LONG_KEY: u8 = 0x40;
/// The bit that is an entry's colour.
pub(crate) const COLOUR: u8 = 0x80;
/// The flags that each stand for a word behind the header.
const WORDS: u8 = HAS_EXPIRY | LONG_KEY;
const KIND_MASK: u8 = 0x0F;
const HEADER: usize = 8;

/// What an entry is made from.
pub(crate) struct Parts<'a> {
    pub kind: Kind,
    pub key: &'a [u8],
    pub expiry: Option<i64>,
    /// The integer, or the pointer of the boxed value or the shape.
    pub payload: u64,
    pub inline: &'a [u8],
    /// 0 or [`COLOUR`].
    pub colour: u8,
}

/// A pointer to an entry. It is plain data: who holds the table decides when to free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EntryPtr(NonNull<u8>);

// SAFETY: an entry is owned by one table, which is behind its shard's lock; everything inside is
// Send (bytes and Box<Value>), and the access word is atomic.
unsafe impl Send for EntryPtr {}
// SAFETY: as above; shared access only reads, but for the atomic access word.
unsafe impl Sync for EntryPtr {}

/// Rounds a size up to the allocator's size classes, so that growth inside a class costs nothing.
fn class_size(size: usize) -> usize {
    if size <= 128 {
        return (size + 15) & !15;
    }
    let step = size.next_power_of_two() >> 3;
    (size + step - 1) & !(step - 1)
}

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 8).expect("an entry is far smaller than the address space")
}

/// The kinds with a payload, a bit each.
const PAYLOAD_KINDS: u32 =
    1 << Kind::Int as u32 | 1 << Kind::Big as u32 | 1 << Kind::ShapedHash as u32;

/// Whether an entry with these flags has a payload.
const fn has_payload(flags: u8) -> bool {
    PAYLOAD_KINDS >> (flags & KIND_MASK) & 1 != 0
}

/// Bytes of the header and of the words that the flags announce.
const fn fixed(flags: u8) -> usize {
    HEADER + 8 * ((flags & WORDS).count_ones() as usize + has_payload(flags) as usize)
}

impl EntryPtr {
    /// Asks for its first cache line, which tells most about it.
    #[inline]
    pub fn prefetch(self) {
        crate::prefetch::prefetch(self.0.as_ptr());
    }

    /// Asks for the cache lines behind the first one. Stores to memory that is far away fill the processor's buffer for
    /// them, so that whatever follows a SET waits; a GET waits for itself.
    #[inline]
    pub fn prefetch_value(self) {
        for at in self.further_lines() {
            crate::prefetch::prefetch(self.0.as_ptr().wrapping_add(at));
        }
    }

    /// Offsets of the cache lines behind the first one, those of a value of 1 KB.
    #[inline]
    fn further_lines(self) -> impl Iterator<Item = usize> {
        /// Further lines come by themselves: the processor has seen by then that they are used in order.
        const BYTES_MAX: usize = 17 * LINE_BYTES;
        let end = (HEADER + self.byte(1) as usize + self.inline_len()).min(BYTES_MAX);
        (LINE_BYTES..end).step_by(LINE_BYTES)
    }

    pub fn new(parts: &Parts<'_>) -> EntryPtr {
        assert!(parts.inline.len() <= INLINE_BYTES_MAX, "an inline value fits its length field");
        let long = parts.key.len() > 254;
        let mut flags = parts.kind as u8 | parts.colour & COLOUR;
        flags |= if parts.expiry.is_some() { HAS_EXPIRY } else { 0 };
        flags |= if long { LONG_KEY } else { 0 };
        let fixed = fixed(flags);
        let size = class_size(fixed + parts.key.len() + parts.inline.len());
        let layout = layout(size);
        // SAFETY: the size is at least the header's. Every write below stays inside `size`: the
        // words counted in `fixed`, then the key, then the inline bytes.
        unsafe {
            let Some(base) = NonNull::new(alloc(layout)) else { handle_alloc_error(layout) };
            let ptr = base.as_ptr();
            ptr.write(flags);
            ptr.add(1).write(if long { 255 } else { parts.key.len() as u8 });
            ptr.add(2).cast::<u16>().write(parts.inline.len() as u16);
            ptr.add(4).cast::<u32>().write(0);
            let mut at = HEADER;
            if let Some(expiry) = parts.expiry {
                ptr.add(at).cast::<i64>().write(expiry);
                at += 8;
            }
            if parts.kind.has_payload() {
                ptr.add(at).cast::<u64>().write(parts.payload);
                at += 8;
            }
            if long {
                ptr.add(at).cast::<u64>().write(parts.key.len() as u64);
            }
            let body = ptr.add(fixed);
            body.copy_from_nonoverlapping(parts.key.as_ptr(), parts.key.len());
            body.add(parts.key.len())
                .copy_from_nonoverlapping(parts.inline.as_ptr(), parts.inline.len());
            EntryPtr(base)
        }
    }

    /// # Safety
    /// `ptr` came from [`EntryPtr::as_ptr`] and the entry is alive.
    pub unsafe fn from_ptr(ptr: *mut u8) -> EntryPtr {
        // SAFETY: as_ptr never gives null.
        EntryPtr(unsafe { NonNull::new_unchecked(ptr) })
    }

    pub fn as_ptr(self) -> *mut u8 {
        self.0.as_ptr()
    }

    fn byte(self, at: usize) -> u8 {
        // SAFETY: callers pass offsets inside the 8-byte header, which every entry has.
        unsafe { self.0.as_ptr().add(at).read() }
    }

    fn flags(self) -> u8 {
        self.byte(0)
    }

    pub fn kind(self) -> Kind {
        Kind::ALL[(self.flags() & KIND_MASK) as usize]
    }

    /// 0 or [`COLOUR`].
    pub fn colour(self) -> u8 {
        self.flags() & COLOUR
    }

    /// Gives the entry a colour; the caller has the only access to the entry.
    pub fn paint(self, colour: u8) {
        // SAFETY: byte 0 of the header, which every entry has.
        unsafe { self.0.as_ptr().write(self.flags() & !COLOUR | colour & COLOUR) }
    }

    /// Whether the cold tier knows of the entry.
    #[inline]
    pub fn is_backed(self) -> bool {
        self.flags() & BACKED != 0
    }

    /// Says whether the cold tier knows of the entry; the caller has the only access to it.
    pub fn set_backed(self, backed: bool) {
        let flags = self.flags() & !BACKED | if backed { BACKED } else { 0 };
        // SAFETY: byte 0 of the header, which every entry has.
        unsafe { self.0.as_ptr().write(flags) }
    }

    fn fixed(self) -> usize {
        fixed(self.flags())
    }

    /// Reads the word at byte `at`, one of the words that the flags announce.
    fn word(self, at: usize) -> u64 {
        debug_assert!(at < self.fixed());
        // SAFETY: the flags say that the word is there; words are 8-aligned like the entry.
        unsafe { self.0.as_ptr().add(at).cast::<u64>().read() }
    }

    fn set_word(self, at: usize, word: u64) {
        debug_assert!(at < self.fixed());
        // SAFETY: as for `word`; the caller holds the table's lock mutably.
        unsafe { self.0.as_ptr().add(at).cast::<u64>().write(word) }
    }

    pub fn expiry(self) -> Option<i64> {
        (self.flags() & HAS_EXPIRY != 0).then(|| self.word(HEADER) as i64)
    }

    /// Whether the key is past its expiry at `now_ms`. In that very millisecond it is still there,
    /// as in Redis.
    pub fn expired(self, now_ms: i64) -> bool {
        let now_ms = now_ms + i64::from(known_bugs::is_back(Bug::ExpiryTooEarly));
        self.flags() & HAS_EXPIRY != 0 && (self.word(HEADER) as i64) < now_ms
    }

    /// Overwrites the expiry of an entry that has one.
    pub fn overwrite_expiry(self, expiry: i64) {
        assert!(self.flags() & HAS_EXPIRY != 0, "the entry has room for an expiry");
        self.set_word(HEADER, expiry as u64);
    }

    fn payload_at(self) -> usize {
        HEADER + if self.flags() & HAS_EXPIRY != 0 { 8 } else { 0 }
    }

    pub fn payload(self) -> u64 {
        assert!(has_payload(self.flags()), "the kind has a payload");
        self.word(self.payload_at())
    }

    pub fn set_payload(self, payload: u64) {
        assert!(has_payload(self.flags()), "the kind has a payload");
        self.set_word(self.payload_at(), payload);
    }

    pub fn access(self) -> u32 {
        // SAFETY: bytes 4..8 are the access word, aligned, and only ever used atomically.
        unsafe { AtomicU32::from_ptr(self.0.as_ptr().add(4).cast()) }.load(Ordering::Relaxed)
    }

    pub fn set_access(self, access: u32) {
        // SAFETY: as in `access`.
        unsafe { AtomicU32::from_ptr(self.0.as_ptr().add(4).cast()) }
            .store(access, Ordering::Relaxed);
    }

    fn key_len(self) -> usize {
        if self.flags() & LONG_KEY != 0 {
            self.word(self.fixed() - 8) as usize
        } else {
            self.byte(1) as usize
        }
    }

    /// The key. The lifetime is the caller's to bound: no longer than the entry.
    pub fn key<'a>(self) -> &'a [u8] {
        // SAFETY: the key lies behind the fixed part, both lengths come from the header.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().add(self.fixed()), self.key_len()) }
    }

    pub fn inline_len(self) -> usize {
        // SAFETY: bytes 2..4 of the header, 2-aligned.
        unsafe { self.0.as_ptr().add(2).cast::<u16>().read() as usize }
    }

    fn inline_ptr(self) -> *mut u8 {
        // SAFETY: the inline bytes follow the key inside the allocation.
        unsafe { self.0.as_ptr().add(self.fixed() + self.key_len()) }
    }

    /// The inline bytes; lifetime as for `key`.
    pub fn inline<'a>(self) -> &'a [u8] {
        // SAFETY: the inline bytes follow the key, their length is in the header.
        unsafe { std::slice::from_raw_parts(self.inline_ptr(), self.inline_len()) }
    }

    /// The inline bytes, to be edited; the caller has the only access to the entry.
    pub fn inline_mut<'a>(self) -> &'a mut [u8] {
        // SAFETY: as in `inline`; exclusiveness is the caller's, who holds the table mutably.
        unsafe { std::slice::from_raw_parts_mut(self.inline_ptr(), self.inline_len()) }
    }

    /// Bytes of the allocation.
    pub fn size(self) -> usize {
        class_size(self.fixed() + self.key_len() + self.inline_len())
    }

    /// Gives the inline value another length; bytes past the old one are undefined to the caller
    /// until written (they are initialised memory of this allocation or zero). The entry may move.
    pub fn resize_inline(self, len: usize) -> EntryPtr {
        assert!(len <= INLINE_BYTES_MAX, "an inline value fits its length field");
        let old_len = self.inline_len();
        let before = self.fixed() + self.key_len();
        let (old_size, new_size) = (class_size(before + old_len), class_size(before + len));
        let mut ptr = self.0;
        // SAFETY: `old_size` is the size this entry was allocated with, since it follows from the
        // header. After the move the new length is written before anyone reads it; fresh bytes
        // are zeroed so that none is read uninitialised.
        unsafe {
            if new_size != old_size {
                let moved = realloc(ptr.as_ptr(), layout(old_size), new_size);
                ptr = match NonNull::new(moved) {
                    Some(moved) => moved,
                    None => handle_alloc_error(layout(new_size)),
                };
            }
            if len > old_len {
                ptr.as_ptr().add(before + old_len).write_bytes(0, len - old_len);
            }
            ptr.as_ptr().add(2).cast::<u16>().write(len as u16);
        }
        EntryPtr(ptr)
    }

    /// Overwrites kind `Str`'s bytes where the allocation stays the same; says whether it did.
    pub fn overwrite_str(self, value: &[u8]) -> bool {
        if self.flags() & KIND_MASK != Kind::Str as u8 || value.len() > INLINE_BYTES_MAX {
            return false;
        }
        let before = self.fixed() + self.key_len();
        if class_size(before + value.len()) != class_size(before + self.inline_len()) {
            return false;
        }
        // SAFETY: the size class is unchanged, so the allocation has room for `value`.
        unsafe {
            let to = self.0.as_ptr().add(before);
            to.copy_from_nonoverlapping(value.as_ptr(), value.len());
            self.0.as_ptr().add(2).cast::<u16>().write(value.len() as u16);
        }
        true
    }

    /// The boxed value of kind `Big`; lifetime as for `key`.
    pub fn big<'a>(self) -> Option<&'a Value> {
        (self.kind() == Kind::Big).then(|| {
            // SAFETY: the payload of kind Big is a pointer from Box::into_raw, freed only with the
            // entry or after it was taken out.
            unsafe { &*(self.payload() as *const Value) }
        })
    }

    /// The boxed value, to be edited; the caller has the only access to the entry.
    pub fn big_mut<'a>(self) -> Option<&'a mut Value> {
        (self.kind() == Kind::Big).then(|| {
            // SAFETY: as in `big`; exclusiveness is the caller's.
            unsafe { &mut *(self.payload() as *mut Value) }
        })
    }

    /// The shape of kind `ShapedHash`; lifetime as for `key`.
    #[inline]
    pub fn shape<'a>(self) -> Option<&'a Shape> {
        (self.kind() == Kind::ShapedHash).then(|| {
            // SAFETY: the payload of kind ShapedHash is a pointer from Arc::into_raw, of which the
            // entry has one count until it is freed or gets another shape.
            unsafe { &*(self.payload() as *const Shape) }
        })
    }

    /// Gives an entry of kind `ShapedHash` another shape; the caller has the only access to it.
    pub fn set_shape(self, shape: Arc<Shape>) {
        assert!(self.kind() == Kind::ShapedHash, "only kind ShapedHash has a shape");
        let old = self.payload() as *const Shape;
        self.set_payload(shape_payload(shape));
        // SAFETY: as in `shape`; the entry's count of the old shape ends here.
        drop(unsafe { Arc::from_raw(old) });
    }

    /// Entries and tables that have the shape of kind `ShapedHash`.
    pub fn sharers(self) -> usize {
        if self.kind() != Kind::ShapedHash {
            return 0;
        }
        let shape = self.payload() as *const Shape;
        // SAFETY: as in `shape`: the pointer came from Arc::into_raw and is counted, and ManuallyDrop
        // leaves that count as it is. A reference to the shape would not do in its place: it may not
        // reach the counts, which lie in front of it.
        let shape = std::mem::ManuallyDrop::new(unsafe { Arc::from_raw(shape) });
        Arc::strong_count(&shape)
    }

    /// Frees the entry and hands out its boxed value.
    pub fn free(self) -> Option<Box<Value>> {
        // SAFETY: the caller has taken the entry out of its table, so this is the last use; the
        // payload of kind Big is a pointer from Box::into_raw, that of ShapedHash from Arc::into_raw.
        unsafe {
            if self.kind() == Kind::ShapedHash {
                drop(Arc::from_raw(self.payload() as *const Shape));
            }
            let value =
                (self.kind() == Kind::Big).then(|| Box::from_raw(self.payload() as *mut Value));
            dealloc(self.0.as_ptr(), layout(self.size()));
            value
        }
    }

    /// Frees the entry but not its boxed value or shape, which lives on in another entry.
    pub fn free_shell(self) {
        // SAFETY: as in `free`.
        unsafe { dealloc(self.0.as_ptr(), layout(self.size())) }
    }
}

/// The payload that holds `value`.
pub(crate) fn big_payload(value: Box<Value>) -> u64 {
    Box::into_raw(value).expose_provenance() as u64
}

/// The payload that holds `shape`.
pub(crate) fn shape_payload(shape: Arc<Shape>) -> u64 {
    Arc::into_raw(shape).expose_provenance() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_come_back() {
        for key_len in [0, 1, 16, 254, 255, 300, 70_000] {
            for expiry in [None, Some(-5)] {
                for inline_len in [0, 1, 32, 1000, INLINE_BYTES_MAX] {
                    let (key, inline) = (vec![7; key_len], vec![9; inline_len]);
                    let entry = EntryPtr::new(&Parts {
                        kind: Kind::Str,
                        key: &key,
                        expiry,
                        payload: 0,
                        inline: &inline,
                        colour: COLOUR,
                    });
                    assert_eq!(entry.key(), key);
                    assert_eq!(entry.inline(), inline);
                    assert_eq!(entry.expiry(), expiry);
                    // Lines inside the allocation, and all of them where it is not large.
                    entry.prefetch_value();
                    let lines: Vec<usize> = entry.further_lines().collect();
                    let asked = (key_len.min(255) + inline_len).div_ceil(LINE_BYTES);
                    assert!(lines.iter().all(|at| at % LINE_BYTES == 0 && *at < entry.size()));
                    assert!((asked.saturating_sub(1)..=asked).contains(&lines.len()) || asked > 16);
                    assert!(asked <= 16 || lines.len() == 16);
                    let entry = entry.resize_inline(inline_len / 2);
                    assert_eq!(entry.inline(), &inline[..inline_len / 2]);
                    assert_eq!(entry.key(), key);
                    assert!(entry.free().is_none());
                }
            }
        }
    }

    #[test]
    fn a_string_is_overwritten_inside_its_size_class() {
        let parts = Parts {
            kind: Kind::Str,
            key: b"key",
            expiry: None,
            payload: 0,
            inline: b"0123",
            colour: 0,
        };
        let entry = EntryPtr::new(&parts);
        assert!(entry.overwrite_str(b"45678"));
        assert_eq!(entry.inline(), b"45678");
        assert!(!entry.overwrite_str(&[1; 100]));
        entry.free();
    }

    #[test]
    fn classes_cover_their_sizes() {
        for size in 1..70_000 {
            let class = class_size(size);
            assert!(
                class >= size && class_size(class) == class && class.is_multiple_of(8),
                "{size}"
            );
        }
    }
}
