//! Who read which keys, so that they can be told once a key changes: the ground of client-side
//! caching.
//!
//! A shard keeps the part of the table whose keys map to it, and changes it under its own lock.
//! That is what makes the scheme sound: the reader is entered while the lock of its read is still
//! held, so no change can come between what it read and its entry. As in Redis keys are tracked by
//! name alone, whatever their database.

use smallvec::SmallVec;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A reader that wants to be told. Cheap to clone; all clones are the same reader.
#[derive(Clone, Debug)]
pub struct Tracker(Arc<State>);

#[derive(Debug)]
struct State {
    id: u64,
    live: AtomicBool,
}

impl Tracker {
    /// A reader with a number that means something to the host.
    pub fn new(id: u64) -> Tracker {
        Tracker(Arc::new(State { id, live: AtomicBool::new(true) }))
    }

    /// The number it was made with.
    pub fn id(&self) -> u64 {
        self.0.id
    }

    /// Nobody listens any more: what is left in the table is dropped when it is met.
    pub fn stop(&self) {
        self.0.live.store(false, Ordering::Release);
    }

    /// Whether somebody listens.
    pub fn is_live(&self) -> bool {
        self.0.live.load(Ordering::Acquire)
    }

    fn same(&self, other: &Tracker) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// The readers of a key.
pub type Trackers = SmallVec<[Tracker; 2]>;

/// A key that changed, with who is to be told.
#[derive(Clone, Debug)]
pub struct Invalidation {
    /// The key.
    pub key: Box<[u8]>,
    /// Its readers; none where only those are to be told who follow changes by prefix.
    pub trackers: Trackers,
    /// Whether the caller changed it, and not its expiry or the lack of room.
    pub by_caller: bool,
}

/// Readers of a key from which on those that have stopped are looked for before one more is added.
const READERS_SWEPT: usize = 16;

/// A shard's part of the table.
#[derive(Debug, Default)]
pub(crate) struct TrackTable {
    keys: HashMap<Box<[u8]>, Trackers, foldhash::fast::FixedState>,
    /// Those who are told of every change.
    broadcasts: usize,
    /// Pairs of a key and a reader.
    pairs: usize,
}

impl TrackTable {
    /// Whether any change is of interest to anybody.
    pub fn is_idle(&self) -> bool {
        self.keys.is_empty() && self.broadcasts == 0
    }

    /// Enters a reader of `key`. Where that makes more than `keys_max` keys (0 is no bound), another
    /// key is forgotten and its readers told, since nobody would tell them later.
    pub fn track(
        &mut self,
        key: &[u8],
        tracker: &Tracker,
        keys_max: usize,
        out: &mut Vec<Invalidation>,
    ) {
        if let Some(readers) = self.keys.get_mut(key) {
            if readers.iter().any(|reader| reader.same(tracker)) {
                return;
            }
            // Clients come and go while a key that never changes stays: without this, its list
            // would grow with all clients there ever were.
            if readers.len() >= READERS_SWEPT && readers.len().is_power_of_two() {
                let before = readers.len();
                readers.retain(|reader| reader.is_live());
                self.pairs -= before - readers.len();
            }
            readers.push(tracker.clone());
            self.pairs += 1;
            return;
        }
        if keys_max != 0
            && self.keys.len() >= keys_max
            && let Some(key) = self.keys.keys().next().cloned()
        {
            self.changed(&key, false, out);
        }
        self.keys.insert(key.into(), SmallVec::from_iter([tracker.clone()]));
        self.pairs += 1;
    }

    /// A key changed: its readers are told once, and have to read it again to be told again.
    pub fn changed(&mut self, key: &[u8], by_caller: bool, out: &mut Vec<Invalidation>) {
        match self.keys.remove_entry(key) {
            Some((key, trackers)) => {
                self.pairs -= trackers.len();
                out.push(Invalidation { key, trackers, by_caller });
            }
            None if self.broadcasts != 0 => {
                out.push(Invalidation { key: key.into(), trackers: Trackers::new(), by_caller });
            }
            None => {}
        }
    }

    /// Forgets all keys; everybody is told that nothing holds any more.
    pub fn clear(&mut self) {
        self.keys = HashMap::default();
        self.pairs = 0;
    }

    /// One more, or one less, who is told of every change.
    pub fn broadcast(&mut self, on: bool) {
        match on {
            true => self.broadcasts += 1,
            false => self.broadcasts = self.broadcasts.saturating_sub(1),
        }
    }

    /// Keys, and pairs of a key and a reader.
    pub fn counts(&self) -> (usize, usize) {
        (self.keys.len(), self.pairs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(out: &mut Vec<Invalidation>) -> Vec<(String, Vec<u64>)> {
        let one = |one: Invalidation| {
            let ids = one.trackers.iter().map(Tracker::id).collect();
            (String::from_utf8_lossy(&one.key).into_owned(), ids)
        };
        out.drain(..).map(one).collect()
    }

    #[test]
    fn readers_are_told_once() {
        let (mut table, mut out) = (TrackTable::default(), Vec::new());
        let (a, b) = (Tracker::new(1), Tracker::new(2));
        for reader in [&a, &b, &a] {
            table.track(b"k", reader, 0, &mut out);
        }
        assert_eq!(table.counts(), (1, 2));
        table.changed(b"other", true, &mut out);
        table.changed(b"k", true, &mut out);
        table.changed(b"k", true, &mut out);
        assert_eq!(keys(&mut out), [("k".to_owned(), vec![1, 2])]);
        assert!(table.is_idle());
    }

    #[test]
    fn broadcasts_hear_of_every_key() {
        let (mut table, mut out) = (TrackTable::default(), Vec::new());
        table.broadcast(true);
        table.changed(b"k", true, &mut out);
        table.changed(b"k", true, &mut out);
        assert_eq!(keys(&mut out).len(), 2);
        table.broadcast(false);
        table.changed(b"k", true, &mut out);
        assert!(out.is_empty() && table.is_idle());
    }

    #[test]
    fn the_table_is_bounded_and_who_is_forgotten_is_told() {
        let (mut table, mut out) = (TrackTable::default(), Vec::new());
        let reader = Tracker::new(7);
        for n in 0..1_000 {
            table.track(format!("key{n}").as_bytes(), &reader, 10, &mut out);
        }
        assert_eq!(table.counts(), (10, 10));
        assert_eq!(keys(&mut out).len(), 990);
        // Clients that went away do not pile up at a key that never changes.
        for n in 0..10_000 {
            let gone = Tracker::new(n);
            table.track(b"stays", &gone, 0, &mut out);
            gone.stop();
        }
        table.changed(b"stays", true, &mut out);
        assert!(out[0].trackers.len() <= 2 * READERS_SWEPT, "{}", out[0].trackers.len());
    }
}
