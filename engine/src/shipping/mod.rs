//! The stream of records that replicas run again: where it stands, and its last part in memory.
//!
//! ```text
//! executor --record--> ring (this module) --+--> replicas
//!                 \--> journal (the log) ---+   those that are behind what the ring has
//! ```
//! A *position* counts the records of a history; a [`History`] has a name. Where there is a log, each
//! record has an index there too, and the two go in step but for records that concern this node alone
//! (`log::history`), each of which says what position it stands at: a [`Point`]. So the position needs no
//! counter of its own while nobody follows, and a record that the ring has let go of is found in the log.
//!
//! The ring takes records under the locks of their keys, in the order of the log. What it hands out
//! is in the log already where there is one: a primary that is killed comes back with all that its
//! replicas have. Nothing here does I/O or reads a clock, waiting aside.

mod history;
mod ring;

pub use history::NAME as HISTORY_CALL;
pub use history::{HISTORIES_MAX, History, Point, Position};
pub use ring::{Next, Part};

use crate::journal::{Journal, Record, next_payload};
use crate::log::record;
use crate::policy::{Class, Policies};
use history::Points;
use parking_lot::{Condvar, Mutex};
use ring::Ring;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The stream of an engine.
#[derive(Default)]
pub struct Shipping {
    /// Whether records go into the ring.
    on: AtomicBool,
    /// Taken under the locks of shards, before those of the log.
    inner: Mutex<Inner>,
    grown: Condvar,
}

#[derive(Default)]
struct Inner {
    history: History,
    /// Whether there ever was a history: then the log has to say so even where there is none any more.
    named: bool,
    points: Points,
    ring: Ring,
}

impl Inner {
    /// The position of the last record.
    fn position(&self, on: bool, journal: Option<&dyn Journal>) -> u64 {
        match journal {
            _ if on => self.ring.end(),
            Some(journal) => self.points.position_of(journal.last()),
            None => self.ring.end(),
        }
    }
}

impl Shipping {
    /// Whether records go into the ring.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    /// Takes a record for the journal, if there is one, and the ring. Returns its index there.
    #[cold]
    pub(crate) fn append(
        &self,
        calls: &[Record<'_>],
        journal: Option<&dyn Journal>,
        policies: &Policies,
    ) -> u64 {
        let relaxed = policies.any() && calls.iter().all(|call| is_async(call.args, policies));
        let mut inner = self.inner.lock();
        let index = journal.map_or(0, |journal| journal.append(calls));
        if self.is_on() {
            let push = |out: &mut Vec<u8>| record::push_payload(out, calls);
            inner.ring.push(push, relaxed, journal.map(|_| index));
        }
        drop(inner);
        if journal.is_none() {
            self.grown.notify_all();
        }
        index
    }

    /// Takes records of a primary as they came, each with its length in front, for the journal, if there is
    /// one, and the ring: what an executor does for each that it has run. All shards are
    /// locked until they have been run.
    pub fn append_copied(
        &self,
        records: &[u8],
        count: u64,
        journal: Option<&dyn Journal>,
        policies: &Policies,
    ) {
        let mut inner = self.inner.lock();
        let mut append = |records: &[u8], count: u64, relaxed: bool| {
            let index = journal.map(|journal| journal.append_payloads(records));
            if self.is_on() {
                inner.ring.push_many(records, count, relaxed, index);
            }
        };
        if policies.any() {
            let mut at = 0;
            while let Some((payload, next)) = next_payload(records, at) {
                let relaxed = is_relaxed(record::Calls::new(payload), policies);
                append(&records[at..next], 1, relaxed);
                at = next;
            }
        } else {
            append(records, count, false);
        }
        drop(inner);
        if journal.is_none() {
            self.grown.notify_all();
        }
    }

    /// The history, and the position of its last record.
    pub fn position(&self, journal: Option<&dyn Journal>) -> Position {
        let inner = self.inner.lock();
        let position = inner.position(self.is_on(), journal);
        Position { history: inner.history.clone(), position }
    }

    /// The record of the log that has the history as it is, for [`Shipping::note`]; `None` where there
    /// never was one.
    pub(crate) fn call(&self, journal: &dyn Journal) -> Option<Vec<Vec<u8>>> {
        let here = self.position(Some(journal));
        self.inner.lock().named.then(|| here.encode())
    }

    /// Appends a record of this node alone, which is none of the history.
    pub(crate) fn note(&self, calls: &[Record<'_>], journal: &dyn Journal) {
        let mut inner = self.inner.lock();
        let position = inner.position(self.is_on(), Some(journal));
        let index = journal.append(calls);
        inner.points.push(Point { index, position });
    }

    /// Goes on with a history that was read from the log, or that a primary has handed over: from now on
    /// the last record is at its position. Whoever follows has to ask anew.
    pub fn adopt(&self, here: &Position, journal: Option<&dyn Journal>) {
        let mut inner = self.inner.lock();
        inner.history = here.history.clone();
        inner.named = true;
        inner.ring.reset(here.position);
        inner.points.reset(journal.map_or(0, |journal| journal.last()), here.position);
        drop(inner);
        self.grown.notify_all();
    }

    /// The history has another name from here on, if its position is still `position`: this node follows
    /// the one that named it so.
    pub fn rename(&self, history: History) {
        self.inner.lock().history = history;
    }

    /// Some changes were not recorded: nobody can go on from what was before. A history that had a name
    /// gets another one, and `index` is the last record of the log.
    pub(crate) fn renew(&self, fresh: &str, index: u64) {
        let mut inner = self.inner.lock();
        if inner.named {
            inner.history = History { id: fresh.to_owned(), ..History::default() };
        }
        let end = inner.ring.end().max(index);
        inner.ring.reset(end);
        inner.points.reset(index, end);
    }

    /// Begins a history of this node's own, which goes on from what it has: those who know the one
    /// before need no copy.
    pub fn begin(&self, id: &str, journal: Option<&dyn Journal>) {
        let mut inner = self.inner.lock();
        let position = inner.position(self.is_on(), journal);
        inner.history.succeed(id, position);
        inner.named = true;
    }

    /// Goes on where a recovery has found it, with the points of the log in ascending order.
    pub(crate) fn recover(&self, here: &Position, points: impl IntoIterator<Item = Point>) {
        let mut inner = self.inner.lock();
        inner.history = here.history.clone();
        inner.named = true;
        inner.ring.reset(here.position);
        points.into_iter().for_each(|point| inner.points.push(point));
    }

    /// Goes on from a position that was noted when this engine last stopped, where no log has it: from now on
    /// records go into the ring. Nobody has changed anything yet.
    pub fn carry_on(&self, here: &Position) {
        let mut inner = self.inner.lock();
        inner.history = here.history.clone();
        inner.named = true;
        inner.ring.reset(here.position);
        self.on.store(true, Ordering::Release);
    }

    /// From now on records go into the ring. All shards are locked. `fresh` names the history if nobody
    /// has counted so far, so that what was before has no position.
    pub fn turn_on(&self, fresh: &str, journal: Option<&dyn Journal>) {
        let mut inner = self.inner.lock();
        if self.is_on() {
            return;
        }
        let position = inner.position(false, journal);
        if journal.is_none() {
            inner.history = History { id: fresh.to_owned(), ..History::default() };
            inner.named = true;
        }
        inner.ring.reset(position);
        self.on.store(true, Ordering::Release);
    }

    /// Records no longer go into the ring. All shards are locked.
    pub fn turn_off(&self) {
        let mut inner = self.inner.lock();
        self.on.store(false, Ordering::Release);
        let end = inner.ring.end();
        inner.ring.reset(end);
    }

    /// Sets how many bytes are kept for replicas that come back, and for those that are slow.
    pub fn set_limits(&self, kept: u64, pending: u64) {
        self.inner.lock().ring.set_limits(kept, pending);
    }

    /// Lets a replica go on behind `position` if the ring still has what comes then.
    pub fn enter(&self, replica: u64, position: u64) -> bool {
        self.inner.lock().ring.enter(replica, position)
    }

    /// A replica is gone.
    pub fn forget(&self, replica: u64) {
        self.inner.lock().ring.forget(replica);
    }

    /// Whether this node has been at `position` of the history `id`.
    pub fn knows(&self, id: &[u8], position: u64, journal: Option<&dyn Journal>) -> bool {
        let inner = self.inner.lock();
        let end = inner.position(self.is_on(), journal);
        position <= end && inner.history.valid_to(id, end).is_some_and(|last| position <= last)
    }

    /// The index in the log of the record behind `position`, as far as is known.
    pub fn index_behind(&self, position: u64) -> Option<u64> {
        self.inner.lock().points.index_behind(position)
    }

    /// The position of the record with this index in the log.
    pub fn position_of(&self, index: u64) -> u64 {
        self.inner.lock().points.position_of(index)
    }

    /// What comes next for a replica; waits for it, but not for long.
    pub fn next(&self, replica: u64, journal: Option<&dyn Journal>, wait: Duration) -> Next {
        let written = || journal.map_or(u64::MAX, |journal| journal.written());
        let mut inner = self.inner.lock();
        inner.ring.release(written());
        if inner.ring.is_idle(replica) {
            self.grown.wait_for(&mut inner, wait);
            inner.ring.release(written());
        }
        inner.ring.next(replica)
    }

    /// There may be more for replicas: the log was written.
    pub fn wake(&self) {
        if self.is_on() {
            self.grown.notify_all();
        }
    }

    /// How far a replica that has everything up to `position` is behind, as the ring knows it.
    pub fn behind(&self, position: u64) -> Behind {
        self.inner.lock().ring.behind(position)
    }

    /// Position before the first record of the ring, bytes in it, and whether it is on.
    pub fn kept(&self) -> (u64, u64, bool) {
        let inner = self.inner.lock();
        (inner.ring.start(), inner.ring.bytes(), self.is_on())
    }
}

/// How far a replica is behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Behind {
    /// Records.
    pub records: u64,
    /// Bytes of the stream; an estimate where the ring has let go of some.
    pub bytes: u64,
    /// When the first record that it lacks was made, Unix milliseconds; none if it lacks none, or the
    /// ring does not know.
    pub since_ms: Option<i64>,
}

/// Whether all calls of a record may come late.
pub fn is_relaxed(mut calls: record::Calls<'_>, policies: &Policies) -> bool {
    calls.all(|call| is_async(&call.args, policies))
}

/// Whether a call may come late.
fn is_async(args: &[&[u8]], policies: &Policies) -> bool {
    let command = crate::engine::command_table().find(args.first().copied().unwrap_or_default());
    let at = command.map_or(0, |(_, command)| command.first_key(args));
    at != 0 && policies.class_of(args[at]) == Class::Async
}

#[cfg(test)]
mod tests;
