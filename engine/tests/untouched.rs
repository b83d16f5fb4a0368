//! What sled allocates and never touches is as much as the store says.

use ashlar_engine::tier::store::{StoreKind, open};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// A table of sled's metrics.
const TABLE_BYTES: usize = 8 << 16;

static ZEROED: AtomicUsize = AtomicUsize::new(0);

/// Counts what is asked for as zeros, in pieces of the size of a table.
struct Counting;

// SAFETY: every call is passed on unchanged to the system's allocator, which keeps the contract.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if layout.size() == TABLE_BYTES {
            ZEROED.fetch_add(TABLE_BYTES, Ordering::Relaxed);
        }
        // SAFETY: the caller's promise is the same.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is the same.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

#[test]
fn the_tables_of_sled_are_untouched_and_counted() {
    let dir = std::env::temp_dir().join(format!("ashlar-untouched-{}", std::process::id()));
    let store = open(StoreKind::Sled, &dir, 8 << 20).unwrap().store;
    assert_eq!(store.untouched_bytes(), ZEROED.load(Ordering::Relaxed));
    store.destroy().unwrap();
}
