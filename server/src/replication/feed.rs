//! The stream of commands that replicas repeat, and its last part, from which a replica that was
//! away for a moment goes on.
//!
//! Offsets count the bytes of the stream since its name, the replication id, was chosen. What
//! connected replicas have not got yet stays, up to a limit; beyond it a replica that is too slow
//! has to start over.

use ashlar_engine::propagate::{Batch, Propagate, push_request};
use parking_lot::{Condvar, Mutex};
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Bytes of a part of the stream.
const CHUNK_BYTES: usize = 64 << 10;
/// Most bytes that are kept for a slow replica where `client-output-buffer-limit` has no limit.
pub const PENDING_BYTES_MAX: u64 = 1 << 30;

/// The stream.
pub struct Feed {
    inner: Mutex<Inner>,
    grown: Condvar,
    active: AtomicBool,
    /// `repl-backlog-size`, and the limit for replicas that are behind.
    kept_bytes: AtomicU64,
    pending_bytes: AtomicU64,
}

#[derive(Default)]
struct Inner {
    replid: String,
    chunks: VecDeque<Vec<u8>>,
    /// Offset of the first byte in `chunks`, and behind the last one.
    start: u64,
    end: u64,
    /// The database that the last command was for.
    db: Option<u32>,
    /// How far each replica has been sent the stream.
    cursors: BTreeMap<u64, u64>,
}

/// What a replica can be sent next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// These bytes of the stream.
    Bytes(Vec<u8>),
    /// Nothing for now.
    Nothing,
    /// What it needs is gone: it has to start over.
    Lost,
}

/// A new name for a history of changes: 40 hexadecimal digits.
pub fn new_replid() -> String {
    let mut random = [0; 20];
    // Without randomness from the system the clock has to do; the name is no secret.
    if getrandom::fill(&mut random).is_err() {
        random[..16].copy_from_slice(&(crate::clock::now_us() as u128).to_le_bytes());
    }
    random.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Feed {
    /// A stream of this name that nobody follows yet.
    pub fn new(replid: String) -> Feed {
        Feed {
            inner: Mutex::new(Inner { replid, ..Inner::default() }),
            grown: Condvar::new(),
            active: AtomicBool::new(false),
            kept_bytes: AtomicU64::new(1 << 20),
            pending_bytes: AtomicU64::new(256 << 20),
        }
    }

    /// Sets how many bytes are kept for replicas that come back, and for those that are slow.
    pub fn set_limits(&self, kept: u64, pending: u64) {
        let pending = if pending == 0 { PENDING_BYTES_MAX } else { pending };
        self.kept_bytes.store(kept, Ordering::Relaxed);
        self.pending_bytes.store(pending.min(PENDING_BYTES_MAX), Ordering::Relaxed);
    }

    /// Whether commands are kept.
    pub fn is_active(&self) -> bool {
        self.active.load(Ordering::Acquire)
    }

    /// The stream's name.
    pub fn replid(&self) -> String {
        self.inner.lock().replid.clone()
    }

    /// Offset of its end.
    pub fn offset(&self) -> u64 {
        self.inner.lock().end
    }

    /// Offset of the first byte that is kept, and how many are.
    pub fn kept(&self) -> (u64, u64) {
        let inner = self.inner.lock();
        (inner.start, inner.end - inner.start)
    }

    /// Ends the stream; the next one has another name.
    pub fn stop(&self, replid: &str) {
        let mut inner = self.inner.lock();
        self.active.store(false, Ordering::Release);
        let end = inner.end;
        *inner = Inner { replid: replid.to_owned(), start: end, end, ..Inner::default() };
    }

    /// Goes on as the stream of this name behind this offset, of which nothing is kept. Nobody has changed
    /// anything yet.
    pub fn carry_on(&self, replid: &str, offset: u64) {
        let replid = replid.to_owned();
        *self.inner.lock() = Inner { replid, start: offset, end: offset, ..Inner::default() };
        self.active.store(true, Ordering::Release);
    }

    /// Starts a replica with a full copy, whose state is that of this moment: all shards are locked.
    /// Returns the name of the stream and the offset from which it gets the stream.
    pub fn start(&self, replica: u64) -> (String, u64) {
        let mut inner = self.inner.lock();
        self.active.store(true, Ordering::Release);
        // The copy does not say which database is selected.
        inner.db = None;
        let end = inner.end;
        inner.cursors.insert(replica, end);
        (inner.replid.clone(), end)
    }

    /// Lets a replica go on that has everything before `offset` of the stream `replid`; says whether
    /// that is possible.
    pub fn resume(&self, replica: u64, replid: &[u8], offset: u64) -> bool {
        let mut inner = self.inner.lock();
        let known = self.is_active()
            && inner.replid.as_bytes() == replid
            && (inner.start..=inner.end).contains(&offset);
        if known {
            inner.cursors.insert(replica, offset);
        }
        known
    }

    /// A replica is gone.
    pub fn forget(&self, replica: u64) {
        self.inner.lock().cursors.remove(&replica);
    }

    /// Adds a command that is about no database.
    pub fn push(&self, args: &[&[u8]]) {
        if self.is_active() {
            let mut bytes = Vec::new();
            push_request(args, &mut bytes);
            self.add(&mut self.inner.lock(), &bytes);
        }
    }

    fn add(&self, inner: &mut Inner, bytes: &[u8]) {
        let room = |chunk: &Vec<u8>| chunk.len() + bytes.len() <= CHUNK_BYTES;
        match inner.chunks.back_mut().filter(|chunk| room(chunk)) {
            Some(chunk) => chunk.extend_from_slice(bytes),
            None => {
                let mut chunk = Vec::with_capacity(CHUNK_BYTES.max(bytes.len()));
                chunk.extend_from_slice(bytes);
                inner.chunks.push_back(chunk);
            }
        }
        inner.end += bytes.len() as u64;
        self.trim(inner);
        self.grown.notify_all();
    }

    /// Drops what is neither kept for all nor waited for.
    fn trim(&self, inner: &mut Inner) {
        let kept = self.kept_bytes.load(Ordering::Relaxed);
        let pending = self.pending_bytes.load(Ordering::Relaxed);
        let slowest = inner.cursors.values().min().copied().unwrap_or(inner.end);
        let wanted = slowest.min(inner.end.saturating_sub(kept));
        let first = wanted.max(inner.end.saturating_sub(pending.max(kept)));
        while let Some(chunk) = inner.chunks.front() {
            let after = inner.start + chunk.len() as u64;
            if after > first || inner.chunks.len() == 1 {
                break;
            }
            inner.start = after;
            inner.chunks.pop_front();
        }
    }

    /// What comes next for a replica; waits for it, but not for long.
    pub fn next(&self, replica: u64, wait: Duration) -> Next {
        let mut inner = self.inner.lock();
        let Some(&cursor) = inner.cursors.get(&replica) else { return Next::Lost };
        if cursor == inner.end {
            self.grown.wait_for(&mut inner, wait);
        }
        if cursor < inner.start {
            return Next::Lost;
        }
        let mut skip = (cursor - inner.start) as usize;
        for chunk in &inner.chunks {
            if skip < chunk.len() {
                let bytes = chunk[skip..].to_vec();
                inner.cursors.insert(replica, cursor + bytes.len() as u64);
                return Next::Bytes(bytes);
            }
            skip -= chunk.len();
        }
        Next::Nothing
    }
}

impl Propagate for Feed {
    fn append(&self, batch: &Batch) {
        let mut bytes = Vec::new();
        let mut inner = self.inner.lock();
        if !self.is_active() {
            return;
        }
        let as_one = batch.len() > 1;
        let mut started = false;
        for (db, commands) in batch.runs() {
            if inner.db != Some(db) {
                inner.db = Some(db);
                push_request(&[b"SELECT", db.to_string().as_bytes()], &mut bytes);
            }
            if as_one && !std::mem::replace(&mut started, true) {
                push_request(&[b"MULTI"], &mut bytes);
            }
            bytes.extend_from_slice(commands);
        }
        if as_one {
            push_request(&[b"EXEC"], &mut bytes);
        }
        self.add(&mut inner, &bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_WAIT: Duration = Duration::ZERO;

    fn all(feed: &Feed, replica: u64) -> Option<String> {
        let mut text = Vec::new();
        loop {
            match feed.next(replica, NO_WAIT) {
                Next::Bytes(bytes) => text.extend(bytes),
                Next::Nothing => return Some(String::from_utf8(text).unwrap()),
                Next::Lost => return None,
            }
        }
    }

    fn set(db: u32, key: &[u8]) -> Batch {
        let mut batch = Batch::default();
        batch.push(db, &[b"SET", key, b"v"]);
        batch
    }

    #[test]
    fn several_commands_are_a_transaction() {
        let feed = Feed::new("a".repeat(40));
        feed.append(&set(0, b"before"));
        assert_eq!(feed.start(1), ("a".repeat(40), 0));
        let mut batch = set(3, b"a");
        batch.append(&mut set(4, b"b"));
        feed.append(&batch);
        let text = all(&feed, 1).unwrap();
        let words: Vec<&str> =
            text.split("\r\n").filter(|word| word.starts_with(char::is_alphanumeric)).collect();
        assert_eq!(
            words,
            "SELECT 3 MULTI SET a v SELECT 4 SET b v EXEC".split(' ').collect::<Vec<_>>()
        );
        assert_eq!(feed.offset(), text.len() as u64);
    }

    #[test]
    fn a_replica_goes_on_where_it_was_unless_that_is_gone() {
        let feed = Feed::new("a".repeat(40));
        feed.set_limits(100_000, 300_000);
        feed.start(1);
        for n in 0..1000 {
            feed.append(&set(0, format!("{n:0100}").as_bytes()));
        }
        let text = all(&feed, 1).unwrap();
        let at = text.len() as u64 - 5000;
        assert!(!feed.resume(2, "b".repeat(40).as_bytes(), at));
        assert!(!feed.resume(2, "a".repeat(40).as_bytes(), text.len() as u64 + 1));
        assert!(feed.resume(2, "a".repeat(40).as_bytes(), at));
        assert_eq!(all(&feed, 2).unwrap(), text[at as usize..]);
        // One that reads nothing is dropped in the end.
        for n in 0..5000 {
            feed.append(&set(0, format!("{n:0100}").as_bytes()));
        }
        assert_eq!(all(&feed, 2), None);
        assert!(feed.kept().1 < 450_000);
        assert!(!feed.resume(3, "a".repeat(40).as_bytes(), 0));
    }
}
