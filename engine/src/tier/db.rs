//! The cold keys of one database in one shard.
//!
//! A key is in one of these states:
//!
//! ```text
//! hot       an entry in the table, nothing here
//! moving    an entry with the flag BACKED that the index does not name: its value is being written
//! cold      no entry; the index names its row
//! cached    an entry with the flag BACKED, and the index names a row with the same value
//! ```
//! Whoever changes or removes an entry with the flag takes the flag and the name in the index away
//! first, so that a row is never older than its key. Dropping a cached entry needs no write.

use super::Tier;
use super::fingerprint::Fingerprint;
use super::index::{ColdIndex, Named};
use super::row::RowId;
use super::sketch::Sketch;
use indexmap::IndexMap;
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

type State = foldhash::fast::FixedState;

/// Keys whose fingerprint is that of another key and that are known not to be cold; more are
/// forgotten and found out again.
const ABSENT_MAX: usize = 64;

/// In the place of a snapshot period, which are numbered from 1 on: no snapshot names the row.
const UNNAMED: u64 = 0;

/// A cold key, as memory knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ColdKey {
    pub row: RowId,
    pub expiry: Option<i64>,
}

impl ColdKey {
    /// Whether the key is past its expiry at `now_ms`.
    pub fn expired(&self, now_ms: i64) -> bool {
        self.expiry.is_some_and(|expiry| expiry < now_ms)
    }
}

/// The cold keys of one database in one shard.
pub(crate) struct ColdDb {
    tier: Arc<Tier>,
    generation: u32,
    index: ColdIndex,
    /// When cold and cached keys expire.
    expires: IndexMap<Fingerprint, i64, State>,
    /// Position in `expires` from which the next sweep goes on.
    sweep: usize,
    /// Keys with an entry as well, and those of them that expire.
    cached: usize,
    cached_expiring: usize,
    /// Rows that are being read, or of which parts were, with the number of the read: a change of the key ends it.
    loading: HashMap<Fingerprint, u64, State>,
    /// Keys that are being written, so that no two with one fingerprint are.
    moving: HashSet<Fingerprint, State>,
    /// Rows that no key has any more, with the snapshot period in which that happened, or with
    /// [`UNNAMED`].
    garbage: HashMap<(Fingerprint, u8), u64, State>,
    /// Keys that share a fingerprint with a cold one, and are not it.
    absent: HashSet<Box<[u8]>, State>,
    /// What a running cut has still to save.
    cut: Option<ColdCut>,
    /// How often cached keys are used.
    pub sketch: RefCell<Sketch>,
}

impl ColdDb {
    pub fn new(tier: &Arc<Tier>, generation: u32) -> ColdDb {
        ColdDb {
            tier: tier.clone(),
            generation,
            index: ColdIndex::default(),
            expires: IndexMap::default(),
            sweep: 0,
            cached: 0,
            cached_expiring: 0,
            cut: None,
            loading: HashMap::default(),
            moving: HashSet::default(),
            garbage: HashMap::default(),
            absent: HashSet::default(),
            sketch: RefCell::default(),
        }
    }

    pub fn tier(&self) -> &Arc<Tier> {
        &self.tier
    }

    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// The database goes on with the life that it had when a snapshot was taken.
    pub fn set_generation(&mut self, generation: u32) {
        self.generation = generation;
    }

    /// The names of cold and cached keys.
    pub fn index(&self) -> &ColdIndex {
        &self.index
    }

    /// Keys without an entry.
    pub fn len(&self) -> usize {
        self.index.len() - self.cached
    }

    /// Keys with an entry as well.
    pub fn cached(&self) -> usize {
        self.cached
    }

    /// Keys without an entry that have an expiry.
    pub fn expiring(&self) -> usize {
        self.expires.len() - self.cached_expiring
    }

    /// Bytes of the index, and of the map of expiries.
    pub fn bytes(&self) -> (usize, usize) {
        // An entry of the map is a hash, a fingerprint and an expiry, and its place in an index.
        (self.index.bytes(), self.expires.capacity() * (8 + 16 + 8 + 9))
    }

    pub fn print(&self, hash: u64, key: &[u8]) -> Fingerprint {
        Fingerprint::new(self.tier.seed(), hash, key)
    }

    fn row(&self, print: Fingerprint, epoch: u8) -> RowId {
        RowId { generation: self.generation, print, epoch }
    }

    /// What is known of a key without an entry; `None` if there is none.
    pub fn find(&self, hash: u64, key: &[u8]) -> Option<ColdKey> {
        if self.index.is_empty() {
            return None;
        }
        let print = self.print(hash, key);
        let epoch = self.index.get(print)?;
        if !self.absent.is_empty() && self.absent.contains(key) {
            return None;
        }
        Some(ColdKey { row: self.row(print, epoch), expiry: self.expires.get(&print).copied() })
    }

    /// Visits the rows of cold and cached keys whose fingerprints' words are in a range, but those
    /// past their expiry.
    pub fn for_rows(&self, from: u64, to: u64, now_ms: i64, mut each: impl FnMut(RowId)) {
        self.index.for_range(from, to, |print, epoch| {
            let expiry = self.expires.get(&print).copied();
            let key = ColdKey { row: self.row(print, epoch), expiry };
            if !key.expired(now_ms) {
                each(key.row);
            }
        });
    }

    /// Whether a row is that of a cold or cached key that has not expired.
    pub fn names(&self, row: RowId, now_ms: i64) -> bool {
        let expired = || self.expires.get(&row.print).is_some_and(|expiry| *expiry < now_ms);
        row.generation == self.generation
            && self.index.get(row.print) == Some(row.epoch)
            && !expired()
    }

    /// The row of a random cold or cached key.
    pub fn random(&self, random: u64) -> Option<RowId> {
        self.index.random(random).map(|(print, epoch)| self.row(print, epoch))
    }

    /// Names the row of a key that loses its entry; `false` where its fingerprint is taken.
    pub fn add(&mut self, key: &[u8], print: Fingerprint, epoch: u8, expiry: Option<i64>) -> bool {
        let named = Named { epoch, kept: false };
        if self.garbage.contains_key(&(print, epoch)) || !self.index.insert(print, named) {
            return false;
        }
        self.absent.remove(key);
        if let Some(expiry) = expiry {
            self.expires.insert(print, expiry);
        }
        if let Some(cut) = &mut self.cut {
            // It was in memory at the cut, which has it from there.
            cut.saved.insert(print);
        }
        true
    }

    /// Cold and cached keys that expire.
    pub fn all_expiring(&self) -> usize {
        self.expires.len()
    }

    /// Visits the rows of all cold and cached keys, with their expiries.
    pub fn for_all(&self, mut each: impl FnMut(RowId, Option<i64>)) {
        self.index.for_range(0, u64::MAX, |print, epoch| {
            each(self.row(print, epoch), self.expires.get(&print).copied());
        });
    }

    /// Names a row that a snapshot names.
    pub fn restore(&mut self, print: Fingerprint, epoch: u8, expiry: Option<i64>) -> bool {
        if let Some(expiry) = expiry {
            self.expires.insert(print, expiry);
        }
        self.index.insert(print, Named { epoch, kept: true })
    }

    /// Whether a row is in use, or waits to be deleted in its turn.
    pub fn knows(&self, row: RowId) -> bool {
        self.index.get(row.print) == Some(row.epoch)
            || self.garbage.contains_key(&(row.print, row.epoch))
            || self.moving.contains(&row.print)
    }

    /// A key is about to be written; `false` where its fingerprint is taken, or the row that it would
    /// get is still to be deleted.
    pub fn begin_move(&mut self, print: Fingerprint, epoch: u8) -> bool {
        self.index.get(print).is_none()
            && !self.garbage.contains_key(&(print, epoch))
            && self.moving.insert(print)
    }

    /// Whether a key is being written.
    pub fn is_moving(&self, print: Fingerprint) -> bool {
        self.moving.contains(&print)
    }

    /// A key was written.
    pub fn end_move(&mut self, print: Fingerprint) {
        self.moving.remove(&print);
    }

    /// A row was written, in whole or in part, and nothing will name it.
    pub fn reject(&mut self, print: Fingerprint, epoch: u8) {
        let period = if self.tier.is_durable() { UNNAMED } else { self.tier.period() };
        self.garbage.insert((print, epoch), period);
    }

    /// A cached key loses its entry.
    pub fn uncache(&mut self, print: Fingerprint) {
        self.cached -= 1;
        self.cached_expiring -= usize::from(self.expires.contains_key(&print));
    }

    /// A cold key got an entry.
    pub fn cache(&mut self, print: Fingerprint) {
        self.cached += 1;
        self.cached_expiring += usize::from(self.expires.contains_key(&print));
    }

    /// Takes the name of a key away: it is changed or removed. `has_entry` says whether it is cached
    /// or cold. Returns whether it was named, and its expiry if it was cold.
    pub fn forget(&mut self, print: Fingerprint, has_entry: bool) -> Option<Option<i64>> {
        self.loading.remove(&print);
        let Named { epoch, kept } = self.index.remove(print)?;
        let expiry = self.expires.swap_remove(&print);
        if has_entry {
            self.cached -= 1;
            self.cached_expiring -= usize::from(expiry.is_some());
        }
        let row = self.row(print, epoch);
        let mut named = kept || !self.tier.is_durable();
        if let Some(cut) = &mut self.cut {
            named |= cut.is_to_come(print);
            cut.keep(row, expiry);
        }
        let period = if named { self.tier.period() } else { UNNAMED };
        self.garbage.insert((print, epoch), period);
        Some(expiry)
    }

    /// Changes the expiry of a key without an entry.
    pub fn set_expiry(&mut self, print: Fingerprint, expiry: Option<i64>) {
        if let Some(epoch) = self.index.get(print) {
            let (row, old) = (self.row(print, epoch), self.expires.get(&print).copied());
            if let Some(cut) = &mut self.cut {
                cut.keep(row, old);
            }
        }
        match expiry {
            Some(expiry) => self.expires.insert(print, expiry),
            None => self.expires.swap_remove(&print),
        };
        // What is being read has the old one.
        self.loading.remove(&print);
    }

    /// The number of a read of a row that begins, or has begun.
    pub fn begin_load(&mut self, print: Fingerprint) -> u64 {
        *self.loading.entry(print).or_insert_with(|| self.tier.next_number())
    }

    /// Whether the row may be used that a read found: the key was not changed meanwhile. Ends it.
    pub fn end_load(&mut self, print: Fingerprint, number: u64) -> bool {
        let valid = self.loading.get(&print) == Some(&number);
        if valid {
            self.loading.remove(&print);
        }
        valid
    }

    /// Whether the key has not changed since a read of its row with this number began. The number stays known
    /// until then, for parts of a large value, whose read does not end with the value in memory.
    pub fn is_read(&self, print: Fingerprint, number: u64) -> bool {
        self.loading.get(&print) == Some(&number)
    }

    /// The row under its fingerprint is another key's.
    pub fn set_absent(&mut self, key: &[u8]) {
        if self.absent.len() >= ABSENT_MAX {
            self.absent.clear();
        }
        self.absent.insert(key.into());
    }

    /// Looks at the next `count` keys that have an expiry and appends the rows of those past it.
    pub fn sweep_expired(&mut self, count: usize, now_ms: i64, out: &mut Vec<RowId>) {
        for _ in 0..count.min(self.expires.len()) {
            if self.sweep >= self.expires.len() {
                self.sweep = 0;
            }
            if let Some((&print, &expiry)) = self.expires.get_index(self.sweep)
                && expiry < now_ms
                && let Some(epoch) = self.index.get(print)
            {
                out.push(self.row(print, epoch));
            }
            self.sweep += 1;
        }
    }

    /// Begins a cut: what is named now is to be saved.
    pub fn begin_cut(&mut self) {
        self.cut = Some(ColdCut::default());
    }

    /// Appends some rows that a running cut has still to save, with their expiries, and says whether
    /// there are more.
    pub fn cut_some(&mut self, rows_max: usize, out: &mut Vec<(RowId, Option<i64>)>) -> bool {
        let Some(cut) = &mut self.cut else { return false };
        out.append(&mut cut.handed);
        while let Some(from) = cut.next
            && out.len() < rows_max
        {
            self.index.keep(from);
            let (generation, saved, expires) = (self.generation, &cut.saved, &self.expires);
            cut.next = self.index.step(from, |print, epoch| {
                if !saved.contains(&print) {
                    let row = RowId { generation, print, epoch };
                    out.push((row, expires.get(&print).copied()));
                }
            });
        }
        if cut.next.is_none() {
            self.cut = None;
        }
        self.cut.is_some()
    }

    /// Whether a running cut has still to save something here.
    pub fn is_in_cut(&self) -> bool {
        self.cut.is_some()
    }

    /// Takes out rows that may be deleted: those that were let go before the period `before`, and
    /// those that no snapshot names.
    pub fn take_garbage(&mut self, before: u64, out: &mut Vec<RowId>) {
        let generation = self.generation;
        self.garbage.retain(|&(print, epoch), period| {
            let goes = *period < before.max(1);
            if goes {
                out.push(RowId { generation, print, epoch });
            }
            !goes
        });
        if self.garbage.is_empty() {
            self.garbage.shrink_to(64);
        }
    }
}

/// What a cut has still to save of the cold keys of a database in one shard. Cached keys are among them:
/// their entries are not saved.
struct ColdCut {
    /// Word of the fingerprint from which the walk over the index goes on; `None` at its end.
    next: Option<u64>,
    /// Keys that the walk leaves out: they are saved otherwise.
    saved: HashSet<Fingerprint, State>,
    /// Rows that were given up before the walk came to them. They are deleted only after the cut.
    handed: Vec<(RowId, Option<i64>)>,
}

impl Default for ColdCut {
    fn default() -> ColdCut {
        ColdCut { next: Some(0), saved: HashSet::default(), handed: Vec::new() }
    }
}

impl ColdCut {
    /// Whether the walk has still to come to a key.
    fn is_to_come(&self, print: Fingerprint) -> bool {
        self.next.is_some_and(|next| print.word >= next)
    }

    /// A row is given up, or gets another expiry: the cut keeps it as it is.
    fn keep(&mut self, row: RowId, expiry: Option<i64>) {
        if self.is_to_come(row.print) && self.saved.insert(row.print) {
            self.handed.push((row, expiry));
        }
    }
}

impl Drop for ColdDb {
    fn drop(&mut self) {
        self.tier.stats.flushed.fetch_add(self.index.len() as u64, Ordering::Relaxed);
        self.tier.drop_generation(self.generation);
    }
}
