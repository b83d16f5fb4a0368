//! Lua's allocator: counts, refuses above a bound, and keeps small blocks for the next script.
//!
//! A script of a few commands makes and drops a dozen strings and tables. Taking their blocks from
//! lists of a state's own is a few instructions, where the general allocator has to find out where
//! a block belongs.

use super::Extra;
use super::image::{Arena, Image};
use mlua_sys as ffi;
use std::alloc::{Layout, alloc, dealloc, handle_alloc_error, realloc};
use std::cell::Cell;
use std::ffi::c_void;
use std::ptr::null_mut;

/// Lua's types have at most this alignment; blocks are multiples of it.
pub(super) const ALIGN: usize = 16;
/// Largest block that is kept, in bytes.
const SMALL_BYTES_MAX: usize = 256;
const CLASSES: usize = SMALL_BYTES_MAX / ALIGN;
/// Most bytes of blocks that are kept for later.
const KEPT_BYTES_MAX: usize = 512 << 10;

/// Above this the collector runs as often as Lua has it by default.
const LAZY_BYTES_MAX: usize = 8 << 20;
/// Growth since the last collection, in percent, at which the next one starts. A state without
/// much in it is a hundred kilobytes, all of which each collection has to look at.
const LAZY_PAUSE: i32 = 400;
const PAUSE: i32 = 200;

/// The first free block of each size.
pub(super) type Lists = [*mut Free; CLASSES];

/// Blocks that are free, by size.
pub(super) struct Blocks {
    lists: [Cell<*mut Free>; CLASSES],
    kept_bytes: Cell<usize>,
    /// Where the blocks are, of a state that can be put back.
    arena: Option<Arena>,
}

/// A free block; its size is at least that of a pointer.
pub(super) struct Free {
    next: *mut Free,
}

impl Default for Blocks {
    fn default() -> Blocks {
        let lists = std::array::from_fn(|_| Cell::new(null_mut()));
        Blocks { lists, kept_bytes: Cell::new(0), arena: None }
    }
}

/// Which list has the blocks for so many bytes, from 1 to `SMALL_BYTES_MAX`.
const fn class_of(bytes: usize) -> usize {
    (bytes - 1) / ALIGN
}

/// Bytes and alignment of a block for so many bytes; `None` where that is more than there can be.
fn layout_of(bytes: usize) -> Option<Layout> {
    let whole = if bytes <= SMALL_BYTES_MAX { (class_of(bytes) + 1) * ALIGN } else { bytes };
    Layout::from_size_align(whole, ALIGN).ok()
}

impl Blocks {
    /// Those of a state that can be put back; `None` where there is no memory.
    pub fn in_arena() -> Option<Blocks> {
        let mut blocks = Blocks::default();
        blocks.arena = Some(Arena::new()?);
        Some(blocks)
    }

    /// A copy of all as it is now, where it can be put back.
    pub fn copy(&self) -> Option<Image> {
        let lists = std::array::from_fn(|class| self.lists[class].get());
        self.arena.as_ref()?.copy(lists)
    }

    /// Puts all back to what it was; whether that could be done.
    ///
    /// # Safety
    /// As for [`Arena::put_back`].
    pub unsafe fn put_back(&self, image: &Image) -> bool {
        // SAFETY: the caller promises the same.
        let lists = self.arena.as_ref().and_then(|arena| unsafe { arena.put_back(image) });
        let Some(lists) = lists else { return false };
        self.lists.iter().zip(lists).for_each(|(list, first)| list.set(first));
        true
    }

    /// A block for so many bytes, which are not 0; null where there is no memory.
    #[inline]
    fn take(&self, bytes: usize) -> *mut c_void {
        if bytes <= SMALL_BYTES_MAX {
            let list = &self.lists[class_of(bytes)];
            let block = list.get();
            if !block.is_null() {
                // SAFETY: what is in a list is a block of its own that nobody uses.
                list.set(unsafe { (*block).next });
                if self.arena.is_none() {
                    let kept = self.kept_bytes.get() - (class_of(bytes) + 1) * ALIGN;
                    self.kept_bytes.set(kept);
                }
                return block.cast();
            }
        }
        match (layout_of(bytes), &self.arena) {
            (Some(layout), Some(arena)) => arena.take(layout).cast(),
            // SAFETY: the size is not 0.
            (Some(layout), None) => unsafe { alloc(layout).cast() },
            (None, _) => null_mut(),
        }
    }

    /// Takes a block back.
    ///
    /// # Safety
    /// `take` or `resize` gave it for so many bytes, and nobody uses it any more.
    #[inline]
    unsafe fn give_back(&self, block: *mut c_void, bytes: usize) {
        let Some(layout) = layout_of(bytes) else { return };
        if let Some(arena) = &self.arena {
            if bytes > SMALL_BYTES_MAX || !arena.has(block.cast()) {
                // SAFETY: as the caller says, and it is none of the small ones.
                return unsafe { arena.give_back(block.cast(), layout) };
            }
            // However many there are, they stay in the arena.
            // SAFETY: the caller's block is a small one.
            return unsafe { self.put_into_list(block, bytes) };
        }
        if bytes <= SMALL_BYTES_MAX {
            let kept = self.kept_bytes.get() + layout.size();
            if kept <= KEPT_BYTES_MAX {
                // SAFETY: the caller's block is as that function wants it.
                unsafe { self.put_into_list(block, bytes) };
                return self.kept_bytes.set(kept);
            }
        }
        // SAFETY: it came from the general allocator with this layout.
        unsafe { dealloc(block.cast(), layout) };
    }

    /// # Safety
    /// The block is one for so many bytes, at most `SMALL_BYTES_MAX`, and nobody uses it any more.
    #[inline]
    unsafe fn put_into_list(&self, block: *mut c_void, bytes: usize) {
        let list = &self.lists[class_of(bytes)];
        let block = block.cast::<Free>();
        // SAFETY: the block is this function's, and has room and alignment for a pointer.
        unsafe { block.write(Free { next: list.get() }) };
        list.set(block);
    }

    /// A block of another size with the same content.
    ///
    /// # Safety
    /// As for `give_back`; the old block is not used any more unless the result is null.
    unsafe fn resize(&self, old: *mut c_void, old_bytes: usize, bytes: usize) -> *mut c_void {
        let (Some(from), Some(to)) = (layout_of(old_bytes), layout_of(bytes)) else {
            return null_mut();
        };
        if from == to {
            return old;
        }
        if old_bytes > SMALL_BYTES_MAX && bytes > SMALL_BYTES_MAX && self.arena.is_none() {
            // SAFETY: it came from the general allocator with this layout.
            return unsafe { realloc(old.cast(), from, to.size()).cast() };
        }
        let new = self.take(bytes);
        if !new.is_null() {
            // SAFETY: both blocks have so many bytes, and they are two.
            unsafe {
                new.cast::<u8>().copy_from_nonoverlapping(old.cast(), old_bytes.min(bytes));
                self.give_back(old, old_bytes);
            }
        }
        new
    }
}

impl Drop for Blocks {
    fn drop(&mut self) {
        if self.arena.is_some() {
            // All that is in the lists goes with it.
            return;
        }
        for (class, list) in self.lists.iter().enumerate() {
            while !list.get().is_null() {
                let block = list.get();
                // SAFETY: what is in a list came from the general allocator with its class's layout.
                unsafe {
                    list.set((*block).next);
                    let layout = Layout::from_size_align_unchecked((class + 1) * ALIGN, ALIGN);
                    dealloc(block.cast(), layout);
                }
            }
        }
    }
}

/// Makes the collector wait for longer while there is little to collect.
pub(super) fn be_lazy(extra: &Extra, state: *mut ffi::lua_State) {
    if extra.used_bytes.get() < LAZY_BYTES_MAX / 2 && extra.eager.replace(false) {
        // SAFETY: the state is valid, and this sets a number in it.
        unsafe { ffi::lua_gc(state, ffi::LUA_GCSETPAUSE, LAZY_PAUSE) };
    }
}

#[cold]
fn be_eager(extra: &Extra) {
    let state = extra.state.get();
    if !state.is_null() {
        extra.eager.set(true);
        // SAFETY: the state is valid, and this sets a number in it that the collector looks at when
        // it is through.
        unsafe { ffi::lua_gc(state, ffi::LUA_GCSETPAUSE, PAUSE) };
    }
}

/// Lua's allocator: refuses above the bound unless Rust is on top of the stack.
pub(super) unsafe extern "C" fn allocate(
    extra: *mut c_void,
    old: *mut c_void,
    old_bytes: usize,
    new_bytes: usize,
) -> *mut c_void {
    // SAFETY: the user data of every state is its Extra, see `Lua::new`.
    let extra = unsafe { &*extra.cast::<Extra>() };
    let used = extra.used_bytes.get();
    if new_bytes == 0 {
        if !old.is_null() {
            extra.used_bytes.set(used - old_bytes);
            // SAFETY: Lua frees what this function gave, with the size it asked for.
            unsafe { extra.blocks.give_back(old, old_bytes) };
        }
        return null_mut();
    }
    let old_bytes = if old.is_null() { 0 } else { old_bytes };
    let wanted = (used - old_bytes).saturating_add(new_bytes);
    if wanted > LAZY_BYTES_MAX && new_bytes > old_bytes {
        if wanted > extra.bytes_max() && !extra.in_rust.get() {
            return null_mut();
        }
        if !extra.eager.get() {
            be_eager(extra);
        }
    }
    let block = if old.is_null() {
        extra.blocks.take(new_bytes)
    } else {
        // SAFETY: `old` came from here with the old size.
        unsafe { extra.blocks.resize(old, old_bytes, new_bytes) }
    };
    if block.is_null() {
        if extra.in_rust.get() {
            handle_alloc_error(layout_of(new_bytes).unwrap_or(Layout::new::<Free>()));
        }
        return block;
    }
    extra.used_bytes.set(wanted);
    block
}
