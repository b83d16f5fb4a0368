//! Answers sled's `sync_file_range` with "no such call", so that it takes `fsync` instead.
//!
//! `sync_file_range` forces data to disk but not the file's size or extents: after a power cut the
//! data may be unreachable. The function here takes the place of the C library's in the whole program;
//! it is a hint for everyone else, which they do without. On by the feature `sync-hook`; without
//! it, sled is not opened.

use std::sync::atomic::{AtomicU64, Ordering};

static CALLS: AtomicU64 = AtomicU64::new(0);

/// How often the hook was called. Sled's start-up test asks that it is.
pub fn calls() -> u64 {
    CALLS.load(Ordering::SeqCst)
}

/// See the module.
#[cfg(all(target_os = "linux", feature = "sync-hook"))]
// SAFETY: it has the signature and the error convention of the C library's function, whose place it
// takes.
#[unsafe(no_mangle)]
pub extern "C" fn sync_file_range(
    _fd: libc::c_int,
    _offset: libc::off64_t,
    _bytes: libc::off64_t,
    _flags: libc::c_uint,
) -> libc::c_int {
    CALLS.fetch_add(1, Ordering::SeqCst);
    // SAFETY: the address of this thread's errno, which is always valid.
    unsafe { *libc::__errno_location() = libc::ENOSYS };
    -1
}
