//! What a call did besides its reply: for the host to act on once the locks are released.

use crate::config::Event;
use crate::keyspace::{FlushedDb, Invalidation};
use crate::propagate::Told;
use crate::tier::ColdCall;
use crate::value::Value;
use std::cell::{Cell, RefCell};

/// A keyspace notification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    /// Database of the key.
    pub db: u32,
    /// Class of the event.
    pub class: Event,
    /// Name of the event, for example `set`.
    pub event: &'static str,
    /// The key.
    pub key: Box<[u8]>,
}

/// The side effects of calls, collected until the host takes them.
#[derive(Default)]
pub struct Effects {
    /// Number of changes to the data.
    pub dirty: u64,
    /// The index of the last record that the journal was given; 0 if there was none.
    pub log_index: u64,
    /// Keyspace notifications, in order.
    pub notifications: Vec<Notification>,
    /// Keys that blocked clients wait for and that changed: (database, key).
    pub ready: Vec<(u32, Box<[u8]>)>,
    /// Keys that changed and that somebody tracks, in order.
    pub invalidated: Vec<Invalidation>,
    /// Whether databases were emptied or swapped, so that whatever was read of them is void.
    pub all_invalidated: bool,
    /// Large values that were removed; dropping them takes time.
    pub garbage: Vec<Box<Value>>,
    /// Databases that were emptied; dropping them takes time too.
    pub flushed: Vec<FlushedDb>,
    /// Keys that were deleted because they had expired.
    pub expired_keys: u64,
    /// Hash fields that were deleted because they had expired.
    pub expired_fields: u64,
    /// Keys that were evicted.
    pub evicted_keys: u64,
    /// Reads that found their key.
    pub hits: Cell<u64>,
    /// Reads that did not.
    pub misses: Cell<u64>,
    /// Keys that a read met past their expiry: they are to be deleted by a call of their own.
    pub lapsed: RefCell<Vec<(u32, Box<[u8]>)>>,
    /// Keys that a read missed, where that is to be notified.
    pub missed: RefCell<Vec<(u32, Box<[u8]>)>>,
    /// What followers are to be told of the running call.
    pub(crate) told: Told,
    /// What the call needs from the cold tier, and what was read for it.
    pub(crate) cold: ColdCall,
}

impl Effects {
    /// Adds what other calls did, which nobody was to be told of.
    pub(crate) fn join(&mut self, mut other: Effects) {
        self.dirty += other.dirty;
        self.garbage.append(&mut other.garbage);
        self.expired_keys += other.expired_keys;
        self.expired_fields += other.expired_fields;
        self.evicted_keys += other.evicted_keys;
        self.hits.set(self.hits.get() + other.hits.get());
        self.misses.set(self.misses.get() + other.misses.get());
        self.lapsed.get_mut().append(other.lapsed.get_mut());
    }

    /// Whether there is nothing for the host to act on, counters aside.
    pub fn is_quiet(&self) -> bool {
        self.notifications.is_empty()
            && self.ready.is_empty()
            && self.invalidated.is_empty()
            && !self.all_invalidated
            && self.garbage.is_empty()
            && self.flushed.is_empty()
            && self.lapsed.borrow().is_empty()
            && self.missed.borrow().is_empty()
    }
}
