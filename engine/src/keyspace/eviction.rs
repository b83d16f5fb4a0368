//! Which keys go first when memory is full: Redis's policies, by sampling.
//!
//! A sample of keys is scored and the best candidates are kept in a small pool from one eviction to
//! the next, so that few samples at a time come close to the exact order.

use super::access::{self, AccessScheme, FrequencySettings};
use super::entry::EntryPtr;

/// `maxmemory-policy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EvictionPolicy {
    /// Refuse writes that need memory.
    #[default]
    NoEviction,
    /// The keys that were not used for the longest time.
    AllKeysLru,
    /// The keys that are used most rarely.
    AllKeysLfu,
    /// Any keys.
    AllKeysRandom,
    /// As `AllKeysLru`, of those with an expiry.
    VolatileLru,
    /// As `AllKeysLfu`, of those with an expiry.
    VolatileLfu,
    /// As `AllKeysRandom`, of those with an expiry.
    VolatileRandom,
    /// The keys that expire first.
    VolatileTtl,
}

impl EvictionPolicy {
    /// All policies.
    pub const ALL: [EvictionPolicy; 8] = [
        EvictionPolicy::NoEviction,
        EvictionPolicy::AllKeysLru,
        EvictionPolicy::AllKeysLfu,
        EvictionPolicy::AllKeysRandom,
        EvictionPolicy::VolatileLru,
        EvictionPolicy::VolatileLfu,
        EvictionPolicy::VolatileRandom,
        EvictionPolicy::VolatileTtl,
    ];

    /// The name in the settings.
    pub const fn name(self) -> &'static str {
        match self {
            EvictionPolicy::NoEviction => "noeviction",
            EvictionPolicy::AllKeysLru => "allkeys-lru",
            EvictionPolicy::AllKeysLfu => "allkeys-lfu",
            EvictionPolicy::AllKeysRandom => "allkeys-random",
            EvictionPolicy::VolatileLru => "volatile-lru",
            EvictionPolicy::VolatileLfu => "volatile-lfu",
            EvictionPolicy::VolatileRandom => "volatile-random",
            EvictionPolicy::VolatileTtl => "volatile-ttl",
        }
    }

    /// The policy of that name, in any case.
    pub fn from_name(name: &str) -> Option<EvictionPolicy> {
        EvictionPolicy::ALL.into_iter().find(|policy| policy.name().eq_ignore_ascii_case(name))
    }

    /// Whether only keys with an expiry may go.
    pub const fn is_volatile(self) -> bool {
        matches!(
            self,
            EvictionPolicy::VolatileLru
                | EvictionPolicy::VolatileLfu
                | EvictionPolicy::VolatileRandom
                | EvictionPolicy::VolatileTtl
        )
    }

    /// Whether the choice is by chance alone.
    pub const fn is_random(self) -> bool {
        matches!(self, EvictionPolicy::AllKeysRandom | EvictionPolicy::VolatileRandom)
    }

    /// What the access data of keys has to mean under this policy.
    pub const fn access_scheme(self) -> AccessScheme {
        match self {
            EvictionPolicy::AllKeysLfu | EvictionPolicy::VolatileLfu => AccessScheme::Frequency,
            _ => AccessScheme::Recency,
        }
    }

    /// How good it is to evict an entry: the higher, the sooner it goes.
    pub(crate) fn score(self, entry: EntryPtr, now_ms: i64, settings: FrequencySettings) -> u64 {
        if entry.expired(now_ms) {
            return u64::MAX;
        }
        match self {
            EvictionPolicy::AllKeysLfu | EvictionPolicy::VolatileLfu => {
                u64::from(u8::MAX - access::frequency(entry.access(), now_ms, settings))
            }
            EvictionPolicy::VolatileTtl => {
                entry.expiry().map_or(0, |at_ms| i64::MAX.abs_diff(at_ms))
            }
            _ => access::idle_ms(entry.access(), now_ms),
        }
    }
}

/// A key that may be evicted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub score: u64,
    pub db: u32,
    pub key: Box<[u8]>,
}

/// The best candidates so far, the best one last.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    policy: EvictionPolicy,
    candidates: Vec<Candidate>,
}

impl Pool {
    /// Candidates that are kept.
    const SIZE: usize = 16;

    /// Starts over if the policy has changed: scores of two policies do not compare.
    pub fn set_policy(&mut self, policy: EvictionPolicy) {
        if self.policy != policy {
            *self = Pool { policy, candidates: Vec::new() };
        }
    }

    /// Offers a candidate; the key is copied only if it is taken.
    pub fn offer(&mut self, score: u64, db: u32, key: &[u8]) {
        let full = self.candidates.len() == Pool::SIZE;
        if full && self.candidates.first().is_some_and(|worst| score <= worst.score) {
            return;
        }
        if self.candidates.iter().any(|known| known.db == db && *known.key == *key) {
            return;
        }
        if full {
            self.candidates.remove(0);
        }
        let at = self.candidates.partition_point(|known| known.score <= score);
        self.candidates.insert(at, Candidate { score, db, key: key.into() });
    }

    /// Takes the best candidate out.
    pub fn pop(&mut self) -> Option<Candidate> {
        self.candidates.pop()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back() {
        for policy in EvictionPolicy::ALL {
            assert_eq!(EvictionPolicy::from_name(policy.name()), Some(policy));
        }
        assert_eq!(EvictionPolicy::from_name("ALLKEYS-LRU"), Some(EvictionPolicy::AllKeysLru));
        assert_eq!(EvictionPolicy::from_name("lru"), None);
    }

    #[test]
    fn the_pool_keeps_the_best() {
        let mut pool = Pool::default();
        for score in [5, 1, 9, 3, 9].into_iter().chain(10..40) {
            pool.offer(score, 0, &score.to_le_bytes());
            pool.offer(score, 0, &score.to_le_bytes());
        }
        let scores: Vec<u64> = std::iter::from_fn(|| pool.pop()).map(|best| best.score).collect();
        assert_eq!(scores, (24..40).rev().collect::<Vec<_>>());
        pool.offer(1, 0, b"k");
        pool.set_policy(EvictionPolicy::VolatileTtl);
        assert_eq!(pool.pop(), None);
    }
}
