//! Counts the memory of the process, for `maxmemory` and INFO.
//!
//! Each thread counts by itself and adds to the common figure once it has moved by
//! [`STEP_BYTES`], so the figure is exact to that much a thread and costs no shared write on the
//! hot path.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicIsize, Ordering};

/// How far a thread's count may be from what it has reported.
pub const STEP_BYTES: isize = 16 * 1024;

static USED: AtomicIsize = AtomicIsize::new(0);

thread_local! {
    static UNREPORTED: Cell<isize> = const { Cell::new(0) };
}

/// Bytes that are allocated now.
pub fn used_bytes() -> usize {
    usize::try_from(USED.load(Ordering::Relaxed)).unwrap_or(0)
}

/// Counts so many bytes no more, for good: somebody has allocated them and never touches them.
pub fn discount(bytes: usize) {
    USED.fetch_sub(isize::try_from(bytes).unwrap_or(0), Ordering::Relaxed);
}

/// What the allocator that the program chose can do about memory that is free.
#[derive(Clone, Copy)]
pub struct GiveBack {
    /// Gives all of it back to the system now.
    pub now: fn(),
    /// Whether a thread gives it back by and by.
    pub in_background: fn(bool),
    /// Has the calling thread take memory from the arena of this number.
    pub from_arena: fn(u32),
}

static GIVE_BACK: OnceLock<GiveBack> = OnceLock::new();

/// Says how free memory is given back to the system.
pub fn set_give_back(how: GiveBack) {
    // A program has one allocator: the first one holds.
    GIVE_BACK.get_or_init(|| how);
}

/// Gives free memory back to the system, where the program has said how.
pub fn purge() {
    if let Some(how) = GIVE_BACK.get() {
        (how.now)();
    }
}

/// Whether free memory goes back to the system by itself, also while nothing happens.
pub fn purge_in_background(on: bool) {
    if let Some(how) = GIVE_BACK.get() {
        (how.in_background)(on);
    }
}

/// Threads that take memory from one arena, see [`share_arena`].
const THREADS_AN_ARENA: usize = 4;

/// Has the calling thread, the one of its kind with this `number`, take memory from the same arena as others. An
/// allocator that has an arena for each thread keeps room in each that no other thread can use, as values come in by
/// one thread and are let go of by another: where memory is short that is room for values.
pub fn share_arena(number: usize) {
    if let Some(how) = GIVE_BACK.get() {
        (how.from_arena)(u32::try_from(number / THREADS_AN_ARENA).unwrap_or(0));
    }
}

#[inline]
fn count(bytes: isize) {
    // A thread that is ending has no local storage any more.
    let counted = UNREPORTED.try_with(|unreported| {
        let sum = unreported.get() + bytes;
        if sum.abs() < STEP_BYTES {
            unreported.set(sum);
        } else {
            unreported.set(0);
            USED.fetch_add(sum, Ordering::Relaxed);
        }
    });
    if counted.is_err() {
        USED.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// An allocator that counts what another one gives out.
pub struct Counting<A>(pub A);

// SAFETY: every call is passed on unchanged to `A`, which keeps the contract.
unsafe impl<A: GlobalAlloc> GlobalAlloc for Counting<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's contract is ours.
        unsafe { self.0.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: as above.
        unsafe { self.0.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: as above.
        unsafe { self.0.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count(new_size as isize - layout.size() as isize);
        // SAFETY: as above.
        unsafe { self.0.realloc(ptr, layout, new_size) }
    }
}
