//! ACL LOG: the last refusals, those that are alike as one.

use super::selector::Reason;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

/// Milliseconds within which refusals that are alike count as one.
const GROUPED_MS: i64 = 60_000;
/// Most bytes that are kept of the object of a refusal, for instance a key.
const OBJECT_BYTES_MAX: usize = 1_024;
/// Most refusals that are kept, whatever `acllog-max-len` says.
const ENTRIES_MAX: usize = 65_536;
/// Refusals among which one that is alike is looked for.
const ALIKE_LOOKED_AT: usize = 10;

/// Where a call was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A command by itself.
    TopLevel,
    /// In EXEC.
    Multi,
    /// In a script.
    Lua,
}

impl Place {
    /// The name in ACL LOG.
    pub fn name(self) -> &'static str {
        match self {
            Place::TopLevel => "toplevel",
            Place::Multi => "multi",
            Place::Lua => "lua",
        }
    }
}

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its number since the server was started.
    pub id: u64,
    /// How many there were that are alike.
    pub count: u64,
    /// Why.
    pub reason: Reason,
    /// Where.
    pub place: Place,
    /// The command, key or channel.
    pub object: Vec<u8>,
    /// The user's name.
    pub user: String,
    /// When it first came, Unix milliseconds.
    pub created_ms: i64,
    /// When it last came.
    pub updated_ms: i64,
    /// The client's line of CLIENT LIST, of the last time.
    pub client: String,
}

/// The log.
#[derive(Debug, Default)]
pub struct Log {
    state: Mutex<State>,
    counts: [AtomicU64; 4],
}

#[derive(Debug, Default)]
struct State {
    next_id: u64,
    entries: VecDeque<Entry>,
}

impl Log {
    /// Enters a refusal; `len_max` is `acllog-max-len`. Its number and count are filled in here.
    pub fn add(&self, mut entry: Entry, len_max: u64) {
        self.counts[entry.reason as usize].fetch_add(1, Ordering::Relaxed);
        entry.object.truncate(OBJECT_BYTES_MAX);
        let mut state = self.state.lock();
        let alike = state.entries.iter().take(ALIKE_LOOKED_AT).position(|old| {
            (old.reason, old.place) == (entry.reason, entry.place)
                && old.object == entry.object
                && old.user == entry.user
                && entry.updated_ms - old.updated_ms <= GROUPED_MS
        });
        match alike.and_then(|at| state.entries.remove(at)) {
            Some(old) => {
                entry = Entry { id: old.id, created_ms: old.created_ms, ..entry };
                entry.count = old.count + 1;
            }
            None => {
                entry = Entry { id: state.next_id, count: 1, ..entry };
                state.next_id += 1;
            }
        }
        state.entries.push_front(entry);
        let len_max = usize::try_from(len_max).unwrap_or(usize::MAX).min(ENTRIES_MAX);
        state.entries.truncate(len_max);
    }

    /// The newest refusals first.
    pub fn newest(&self, count: usize) -> Vec<Entry> {
        self.state.lock().entries.iter().take(count).cloned().collect()
    }

    /// Refusals for this reason since the server was started.
    pub fn count(&self, reason: Reason) -> u64 {
        self.counts[reason as usize].load(Ordering::Relaxed)
    }

    /// Forgets all.
    pub fn reset(&self) {
        self.state.lock().entries.clear();
    }
}
