//! Which promise holds for which keys: a table of rules from a pattern of keys to a [`Class`], with a
//! time to live and a tier where they are given.
//!
//! The table is part of the state, as function libraries are: it changes by calls (`ASHLAR.POLICY`),
//! which take all shards, are recorded and reach the replicas. So a change is a barrier: each write is
//! before it, under the old class, or behind it, under the new one, and in the same place everywhere.
//! What a class means for links between sites and for groups of nodes is the host's business; it asks
//! [`Policies::class_of`], and [`Policies::version`] to learn of changes.
//!
//! One rule counts for a key, whatever the order in which they were given: of those that match, the
//! one with the longest beginning without a wildcard; of several such, the one that is longer; then
//! the one that comes first by its bytes. Without rules nothing is looked up: one load.

pub(crate) mod enforce;
mod rule;
mod table;

pub use enforce::{check_keys, check_one_class};
pub use rule::{Class, Rule, TTL_SECONDS_MAX, TierChoice};
pub use table::{PATTERN_BYTES_MAX, RULES_MAX, Table};

use parking_lot::RwLock;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

const RULES: u8 = 1;
const TTLS: u8 = 2;
const TIERS: u8 = 4;
const GLOBALS: u8 = 8;

/// The rules of an engine.
#[derive(Debug, Default)]
pub struct Policies {
    table: RwLock<Arc<Table>>,
    /// What the table has, to know at once what need not be looked for.
    has: AtomicU8,
    /// The class of keys that no rule matches.
    default: Class,
}

impl Policies {
    /// No rules, and another class than [`Class::Local`] for keys that none matches.
    pub fn with_default(default: Class) -> Policies {
        Policies { default, ..Policies::default() }
    }

    /// The class of keys that no rule matches.
    pub fn default_class(&self) -> Class {
        self.default
    }

    /// The rules as they are now.
    pub fn table(&self) -> Arc<Table> {
        self.table.read().clone()
    }

    /// A number that grows with every change; equal on all replicas.
    pub fn version(&self) -> u64 {
        self.table.read().version()
    }

    /// The class of a key.
    #[inline]
    pub fn class_of(&self, key: &[u8]) -> Class {
        if !self.any() {
            return self.default;
        }
        self.table.read().find(key).map_or(self.default, |rule| rule.class)
    }

    /// Whether there are rules at all.
    #[inline]
    pub fn any(&self) -> bool {
        self.has.load(Ordering::Relaxed) != 0
    }

    /// Whether a rule has the class [`Class::Global`].
    #[inline]
    pub fn has_global(&self) -> bool {
        self.has.load(Ordering::Relaxed) & GLOBALS != 0
    }

    /// Whether a rule gives keys a time to live.
    #[inline]
    pub(crate) fn has_ttls(&self) -> bool {
        self.has.load(Ordering::Relaxed) & TTLS != 0
    }

    /// Whether a rule says where values are to be.
    #[inline]
    pub(crate) fn has_tiers(&self) -> bool {
        self.has.load(Ordering::Relaxed) & TIERS != 0
    }

    /// Where the values of a key are to be.
    #[inline]
    pub fn tier_of(&self, key: &[u8]) -> TierChoice {
        if !self.has_tiers() {
            return TierChoice::Auto;
        }
        self.table.read().find(key).map_or(TierChoice::Auto, |rule| rule.tier)
    }

    /// Puts another table in the place of this one: when a state is read, or by the call that
    /// changes it, all shards locked.
    pub fn replace(&self, table: Table) {
        let mut has = 0;
        for rule in table.rules() {
            has |= RULES;
            has |= if rule.class == Class::Global { GLOBALS } else { 0 };
            has |= if rule.ttl_seconds > 0 { TTLS } else { 0 };
            has |= if rule.tier == TierChoice::Auto { 0 } else { TIERS };
        }
        *self.table.write() = Arc::new(table);
        self.has.store(has, Ordering::Relaxed);
    }

    /// Appends the table as bytes; nothing where it was never changed.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let table = self.table();
        if table.version() > 0 {
            table.encode(out);
        }
    }

    /// Puts the table of [`Policies::encode`]'s bytes in the place of this one; `None` if the bytes
    /// are something else.
    pub fn decode(&self, bytes: &[u8]) -> Option<()> {
        let table = if bytes.is_empty() { Table::default() } else { Table::decode(bytes)? };
        self.replace(table);
        Some(())
    }
}
