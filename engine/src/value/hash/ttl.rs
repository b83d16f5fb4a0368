//! When the fields of a hash expire.
//!
//! It lies beside the fields, so that a hash whose fields don't expire pays one null pointer.

use std::collections::BTreeSet;

use crate::value::dense::{Dense, Entry, Keyed};
use crate::value::small::SmallBytes;

/// A field's time.
#[derive(Clone)]
struct Deadline {
    field: SmallBytes,
    at_ms: i64,
}

impl Keyed for Deadline {
    fn key(&self) -> &[u8] {
        self.field.as_bytes()
    }
}

/// Expiry times of fields, in milliseconds of Unix time.
#[derive(Clone, Default)]
pub(super) struct Deadlines {
    by_field: Dense<Deadline>,
    by_time: BTreeSet<(i64, SmallBytes)>,
    /// The earliest, to tell without a lookup that nothing has expired.
    next_ms: Option<i64>,
}

impl Deadlines {
    pub(super) fn is_empty(&self) -> bool {
        self.by_field.is_empty()
    }

    /// The earliest time.
    pub(super) fn next_ms(&self) -> Option<i64> {
        self.next_ms
    }

    pub(super) fn get(&self, field: &[u8]) -> Option<i64> {
        self.by_field.get(field).map(|deadline| deadline.at_ms)
    }

    pub(super) fn set(&mut self, field: &[u8], at_ms: i64) {
        let small = SmallBytes::new(field);
        match self.by_field.entry(field) {
            Entry::Found(position) => {
                if let Some(deadline) = self.by_field.at_mut(position) {
                    self.by_time.remove(&(deadline.at_ms, small.clone()));
                    deadline.at_ms = at_ms;
                }
            }
            Entry::Vacant(vacant) => vacant.insert(Deadline { field: small.clone(), at_ms }),
        }
        self.by_time.insert((at_ms, small));
        self.update_next();
    }

    /// Forgets a field's time, which is returned.
    pub(super) fn clear(&mut self, field: &[u8]) -> Option<i64> {
        let deadline = self.by_field.remove(field)?;
        self.by_time.remove(&(deadline.at_ms, deadline.field));
        self.update_next();
        Some(deadline.at_ms)
    }

    /// Number of fields that have expired by `now_ms`.
    pub(super) fn expired(&self, now_ms: i64) -> usize {
        if !self.has_expired(now_ms) {
            return 0;
        }
        self.by_time.iter().take_while(|(at_ms, _)| is_past(*at_ms, now_ms)).count()
    }

    /// The fields that have expired by `now_ms`, the earliest first.
    pub(super) fn expired_fields(&self, now_ms: i64) -> impl Iterator<Item = &[u8]> {
        let expired = self.by_time.iter().take_while(move |(at_ms, _)| is_past(*at_ms, now_ms));
        expired.map(|(_, field)| field.as_bytes())
    }

    /// Whether any field has expired by `now_ms`.
    pub(super) fn has_expired(&self, now_ms: i64) -> bool {
        self.next_ms.is_some_and(|at_ms| is_past(at_ms, now_ms))
    }

    /// Takes out the field that expired first, if one has by `now_ms`.
    pub(super) fn pop_expired(&mut self, now_ms: i64) -> Option<SmallBytes> {
        if !self.has_expired(now_ms) {
            return None;
        }
        let (_, field) = self.by_time.pop_first()?;
        self.by_field.remove(field.as_bytes());
        self.update_next();
        Some(field)
    }

    /// Bytes of memory.
    pub(super) fn memory(&self) -> usize {
        // A B-tree's nodes are about three quarters full.
        let tree = self.by_time.len() * size_of::<(i64, SmallBytes)>() * 4 / 3;
        let long: usize = self.by_time.iter().take(16).map(|(_, field)| field.heap_size()).sum();
        let long = long * self.by_time.len() / self.by_time.len().clamp(1, 16);
        size_of::<Self>() + self.by_field.memory() + tree + 2 * long
    }

    fn update_next(&mut self) {
        self.next_ms = self.by_time.first().map(|&(at_ms, _)| at_ms);
    }
}

/// Whether a time is past, as for keys: in that very millisecond it is not.
pub fn is_past(at_ms: i64, now_ms: i64) -> bool {
    at_ms < now_ms
}
