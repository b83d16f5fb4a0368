//! Bounds what sled has let go of and cannot free yet.
//!
//! A page that sled replaces or takes out of its cache is freed when no thread can be looking at it any more: two epochs
//! later (see crossbeam-epoch). An epoch ends once each thread that is inside of sled has seen it. So a thread that
//! has no turn for a while, where cores are short, keeps all pages that the others let go of meanwhile.
//!
//! What is counted is a mark behind the pages of each thread: it is freed as they are, and not before.

use crossbeam_epoch as epoch;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Bytes of rows whose pages may wait to be freed. For each row that is read or written a page is read in and another one
/// let go of, of some 22 rows.
pub(super) const UNFREED_BYTES_MAX: usize = 256 << 10;
/// Looks for which a thread only lets others go first, and how long it waits between later ones.
const YIELDS: usize = 4;
const LOOK_EVERY: Duration = Duration::from_micros(50);

/// Counts rows whose pages wait to be freed.
#[derive(Debug, Default)]
pub(super) struct Reclaim {
    unfreed: Arc<AtomicUsize>,
    /// Threads that wait.
    waiting: AtomicUsize,
}

impl Reclaim {
    /// Notes that pages for `bytes` of rows have been let go of.
    pub fn note(&self, bytes: usize) {
        self.unfreed.fetch_add(bytes, Ordering::Relaxed);
        let unfreed = self.unfreed.clone();
        epoch::pin().defer(move || unfreed.fetch_sub(bytes, Ordering::Relaxed));
    }

    /// Hands in what this thread has let go of, and frees what can be freed: a thread would keep up to 64 pages to
    /// itself.
    pub fn hand_in(&self) {
        epoch::pin().flush();
    }

    fn is_full(&self) -> bool {
        self.unfreed.load(Ordering::Relaxed) > UNFREED_BYTES_MAX
    }

    /// Bytes of rows whose pages wait to be freed.
    #[cfg(test)]
    pub fn unfreed(&self) -> usize {
        self.unfreed.load(Ordering::Relaxed)
    }

    /// Threads that wait.
    #[cfg(test)]
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Waits until there are fewer. The caller may not be inside of sled.
    #[inline]
    pub fn wait(&self) {
        if self.is_full() {
            self.wait_for_others();
        }
    }

    #[cold]
    fn wait_for_others(&self) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let mut looks = 0;
        while self.is_full() {
            self.hand_in();
            if looks < YIELDS {
                std::thread::yield_now();
            } else {
                std::thread::sleep(LOOK_EVERY);
            }
            looks += 1;
        }
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}
