//! The values in memory: a bounded map that forgets what was not used for long.

use parking_lot::RwLock;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

/// What an entry costs beside its key (twice, in the map and in the ring) and value.
const ENTRY_BYTES: usize = 128;

/// A value, or that there is none: that too is worth remembering.
pub(crate) type Cached = Option<Arc<[u8]>>;

#[derive(Debug)]
struct Entry {
    value: Cached,
    until: Instant,
    /// Whether it was read since the hand of the clock came by.
    used: AtomicBool,
}

#[derive(Debug, Default)]
struct Inner {
    entries: HashMap<Arc<[u8]>, Entry>,
    /// Keys in the order in which the hand of the clock visits them. A key that was dropped stays
    /// until then.
    ring: VecDeque<Arc<[u8]>>,
    bytes: usize,
}

/// The map, for any thread.
#[derive(Debug)]
pub(crate) struct Cache {
    inner: RwLock<Inner>,
    entries_max: AtomicUsize,
    bytes_max: AtomicUsize,
}

fn cost(key: &[u8], value: &Cached) -> usize {
    ENTRY_BYTES + key.len() + value.as_ref().map_or(0, |value| value.len())
}

impl Inner {
    fn remove(&mut self, key: &[u8]) -> bool {
        let Some((key, entry)) = self.entries.remove_entry(key) else { return false };
        self.bytes -= cost(&key, &entry.value);
        true
    }

    /// One step of the clock: what was used since the last round stays once more.
    fn make_room(&mut self) {
        while let Some(key) = self.ring.pop_front() {
            match self.entries.get(&key) {
                Some(entry) if entry.used.swap(false, Ordering::Relaxed) => {
                    self.ring.push_back(key);
                }
                Some(_) => {
                    self.remove(&key);
                    return;
                }
                None => {}
            }
        }
    }
}

impl Cache {
    pub fn new(entries_max: usize, bytes_max: usize) -> Cache {
        let (entries_max, bytes_max) = (entries_max.into(), bytes_max.into());
        Cache { inner: RwLock::default(), entries_max, bytes_max }
    }

    /// Other bounds from now on; what is above them goes with the next value that comes.
    pub fn bound(&self, entries_max: usize, bytes_max: usize) {
        self.entries_max.store(entries_max, Ordering::Relaxed);
        self.bytes_max.store(bytes_max, Ordering::Relaxed);
    }

    /// Forgets all keys but these.
    pub fn keep(&self, keep: impl Fn(&[u8]) -> bool) {
        let mut inner = self.inner.write();
        let gone: Vec<Arc<[u8]>> = inner.entries.keys().filter(|key| !keep(key)).cloned().collect();
        for key in gone {
            inner.remove(&key);
        }
    }

    /// The value, if it is here and may still be served.
    pub fn get(&self, key: &[u8], now: Instant) -> Option<Cached> {
        let inner = self.inner.read();
        let entry = inner.entries.get(key).filter(|entry| now < entry.until)?;
        entry.used.store(true, Ordering::Relaxed);
        Some(entry.value.clone())
    }

    /// Keeps a value until then; what is too large is not kept. Returns how many others had to go.
    pub fn insert(&self, key: &[u8], value: Cached, until: Instant) -> u64 {
        let entries_max = self.entries_max.load(Ordering::Relaxed);
        let bytes_max = self.bytes_max.load(Ordering::Relaxed);
        let mut inner = self.inner.write();
        let old = inner.remove(key);
        let bytes = cost(key, &value);
        if bytes > bytes_max || entries_max == 0 {
            return 0;
        }
        let mut evicted = 0;
        while inner.entries.len() >= entries_max || inner.bytes + bytes > bytes_max {
            inner.make_room();
            evicted += 1;
        }
        // Keys that come and go must not pile up in the ring.
        if inner.ring.len() >= 2 * entries_max.max(8) {
            let Inner { entries, ring, .. } = &mut *inner;
            let mut seen = std::collections::HashSet::new();
            ring.retain(|key| entries.contains_key(key) && seen.insert(key.clone()));
        }
        let key: Arc<[u8]> = key.into();
        if !old {
            inner.ring.push_back(key.clone());
        }
        inner.bytes += bytes;
        inner.entries.insert(key, Entry { value, until, used: AtomicBool::new(false) });
        evicted
    }

    /// An entry ends with what it was read from: the server says so only once it has noticed.
    pub fn shorten(&self, key: &[u8], lifetime: std::time::Duration) {
        let until = Instant::now() + lifetime;
        if let Some(entry) = self.inner.write().entries.get_mut(key) {
            entry.until = entry.until.min(until);
        }
    }

    /// Forgets a key; whether it was here.
    pub fn remove(&self, key: &[u8]) -> bool {
        self.inner.write().remove(key)
    }

    /// Forgets everything; how much that was.
    pub fn clear(&self) -> usize {
        let old = std::mem::take(&mut *self.inner.write());
        old.entries.len()
    }

    /// Entries, and the bytes that they are counted with.
    pub fn size(&self) -> (usize, usize) {
        let inner = self.inner.read();
        (inner.entries.len(), inner.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn it_is_bounded_and_keeps_what_is_used() {
        let cache = Cache::new(100, 1 << 20);
        let now = Instant::now();
        let until = now + Duration::from_secs(60);
        cache.insert(b"hot", Some((*b"v").into()), until);
        for n in 0..10_000 {
            cache.insert(format!("key{n}").as_bytes(), None, until);
            assert!(cache.get(b"hot", now).is_some(), "after {n}");
            assert!(cache.size().0 <= 100);
        }
        let small = Cache::new(1_000, 10_000);
        for n in 0..1_000 {
            small.insert(format!("key{n}").as_bytes(), Some(vec![0; 500].into()), until);
            assert!(small.size().1 <= 10_000);
        }
        assert_eq!(small.insert(b"huge", Some(vec![0; 10_000].into()), until), 0);
        assert!(small.get(b"huge", now).is_none(), "what does not fit is not kept");
    }

    #[test]
    fn entries_end() {
        let cache = Cache::new(100, 1 << 20);
        let now = Instant::now();
        cache.insert(b"a", None, now + Duration::from_secs(1));
        assert_eq!(cache.get(b"a", now), Some(None));
        assert_eq!(cache.get(b"a", now + Duration::from_secs(1)), None);
        assert!(cache.remove(b"a") && !cache.remove(b"a"));
        for _ in 0..10_000 {
            cache.insert(b"b", None, now);
            cache.remove(b"b");
        }
        assert!(cache.inner.read().ring.len() <= 200);
        cache.insert(b"b", None, now);
        assert_eq!(cache.clear(), 1);
        assert_eq!(cache.size(), (0, 0));
    }
}
