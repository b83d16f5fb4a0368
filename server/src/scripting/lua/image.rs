//! A state that can be put back to what it was when it was made.
//!
//! To make a state costs some 50 microseconds, most of them for functions and names that are the same in each.
//! A state of this kind has its memory in one place, of which a copy is taken once it is furnished; copying that back
//! makes a fresh state of a used one. Further copies are taken of states in which a script has just been compiled, for
//! scripts that come again. Nothing of what ran stays: not an object, not a threshold of the
//! collector, not a byte that counts. Finalizers of what was there do not run.
//!
//! ```text
//! arena  | furnished state          | what a script takes: small blocks, used again by size |   free   |
//!          copied away, and back      gone when the state is put back
//! outside  what does not fit, one allocation each, in a list: freed then
//! ```

use super::memory::{ALIGN, Lists};
use std::alloc::{Layout, alloc, alloc_zeroed, dealloc};
use std::cell::Cell;
use std::ptr::{NonNull, null_mut};

/// Bytes of the arena: a furnished state takes a hundred thousand, a script of some commands a few thousand.
const ARENA_BYTES: usize = 512 << 10;
const ARENA: Layout = match Layout::from_size_align(ARENA_BYTES, ALIGN) {
    Ok(layout) => layout,
    Err(_) => panic!("the size is a multiple of the alignment"),
};

/// In front of a block outside of the arena.
#[repr(C, align(16))]
struct Outside {
    before: *mut Outside,
    after: *mut Outside,
    /// Of the whole allocation.
    layout: Layout,
}

const HEAD_BYTES: usize = size_of::<Outside>();
const _: () = assert!(HEAD_BYTES.is_multiple_of(ALIGN));

/// What an arena had in it at one moment.
pub(super) struct Image {
    /// Where the arena is: addresses in the copy are of there.
    base: NonNull<u8>,
    bytes: Box<[u8]>,
    lists: Lists,
}

impl Image {
    /// Bytes of the copy.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }
}

/// The memory of one state.
pub(super) struct Arena {
    base: NonNull<u8>,
    /// Bytes that are in use, or were.
    top: Cell<usize>,
    outside: Cell<*mut Outside>,
}

impl Arena {
    /// An empty one; `None` where there is no memory.
    pub fn new() -> Option<Arena> {
        // SAFETY: the size is not 0.
        let base = NonNull::new(unsafe { alloc_zeroed(ARENA) })?;
        let (top, outside) = (Cell::new(0), Cell::new(null_mut()));
        Some(Arena { base, top, outside })
    }

    /// Whether a block lies in the arena.
    #[inline]
    pub fn has(&self, block: *const u8) -> bool {
        block.addr().wrapping_sub(self.base.as_ptr().addr()) < ARENA_BYTES
    }

    /// A block; null where there is no memory.
    pub fn take(&self, layout: Layout) -> *mut u8 {
        let (top, bytes) = (self.top.get(), layout.size().next_multiple_of(ALIGN));
        if bytes <= ARENA_BYTES - top {
            self.top.set(top + bytes);
            // SAFETY: it ends within the arena.
            return unsafe { self.base.as_ptr().add(top) };
        }
        let Some(layout) = outside(layout) else { return null_mut() };
        // SAFETY: the size is not 0.
        let head = unsafe { alloc(layout) }.cast::<Outside>();
        if head.is_null() {
            return null_mut();
        }
        let after = self.outside.replace(head);
        // SAFETY: the allocation has room for the head, and a head in the list is one that lives.
        unsafe {
            head.write(Outside { before: null_mut(), after, layout });
            if !after.is_null() {
                (*after).before = head;
            }
            head.cast::<u8>().add(HEAD_BYTES)
        }
    }

    /// Takes a block back that is no small one of the arena.
    ///
    /// # Safety
    /// `take` gave it for this layout, and nobody uses it any more.
    pub unsafe fn give_back(&self, block: *mut u8, layout: Layout) {
        if self.has(block) {
            let bytes = layout.size().next_multiple_of(ALIGN);
            // SAFETY: both are of the arena.
            let from = unsafe { block.offset_from_unsigned(self.base.as_ptr()) };
            if from + bytes == self.top.get() {
                self.top.set(from);
            }
            return;
        }
        // SAFETY: in front of such a block is its head, whose neighbours live.
        unsafe {
            let head = block.sub(HEAD_BYTES).cast::<Outside>();
            let Outside { before, after, layout } = head.read();
            match before.is_null() {
                true => self.outside.set(after),
                false => (*before).after = after,
            }
            if !after.is_null() {
                (*after).before = before;
            }
            dealloc(head.cast(), layout);
        }
    }

    /// A copy of the state, with the lists of its free blocks; `None` if not all of it lies in the arena, for then it
    /// could not be put back.
    pub fn copy(&self, lists: Lists) -> Option<Image> {
        if !self.outside.get().is_null() {
            return None;
        }
        // SAFETY: the arena was made of zeros, so all of it is initialised, and nobody writes there now.
        let bytes = unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.top.get()) };
        Some(Image { base: self.base, bytes: bytes.into(), lists })
    }

    /// Puts a state back, and returns the lists of its free blocks; `None` if the copy is of another arena.
    ///
    /// # Safety
    /// Nothing runs in the state, and nobody keeps an address of anything in it that was not there when the copy was
    /// taken.
    pub unsafe fn put_back(&self, image: &Image) -> Option<Lists> {
        if image.base != self.base {
            return None;
        }
        self.free_outside();
        // SAFETY: the copy was taken from there, and is no part of it.
        unsafe {
            self.base
                .copy_from_nonoverlapping(NonNull::from(&image.bytes[..]).cast(), image.bytes.len())
        };
        self.top.set(image.bytes.len());
        Some(image.lists)
    }

    fn free_outside(&self) {
        let mut next = self.outside.replace(null_mut());
        while !next.is_null() {
            // SAFETY: heads in the list live, and nobody uses their blocks any more.
            unsafe {
                let Outside { after, layout, .. } = next.read();
                dealloc(next.cast(), layout);
                next = after;
            }
        }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        self.free_outside();
        // SAFETY: made by `new` with this layout.
        unsafe { dealloc(self.base.as_ptr(), ARENA) };
    }
}

fn outside(layout: Layout) -> Option<Layout> {
    Layout::from_size_align(layout.size().checked_add(HEAD_BYTES)?, ALIGN).ok()
}
