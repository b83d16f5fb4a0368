//! Client-side caching: tells clients which of the keys that they read have changed.
//!
//! ```text
//! read by a tracking client -> engine's table (key -> readers), under the lock of the read
//! change of a key, by whomever -> Effects::invalidated -> settle -> mailbox of the reader's worker
//! ```
//!
//! What a client may rely on: the invalidation of a value comes after the reply that brought it, on
//! the same connection, since a worker sends the replies of a connection before it looks into its
//! mailbox. And it is in the mailbox before the locks of the change are released: whoever reads the
//! new value can be told of nothing older later. A pipeline that writes and reads the same key gets
//! the invalidation after all its replies: one too many, never one too few.
//!
//! In a cluster a node hears of changes while it keeps the keys. So it tells its clients that nothing is
//! current any more when it no longer leads a group, which happens also when it is cut off from the others, and
//! before slots that it leads go to another group.

use crate::clients::Client;
use crate::mailbox::Message;
use crate::shared::Shared;
use ashlar_engine::effects::Effects;
use ashlar_engine::executor::Executor;
use ashlar_engine::keyspace::{Invalidation, Tracker};
use ashlar_engine::reply::{Protocol, Reply};
use parking_lot::RwLock;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Most prefixes that a client follows: every change of a key looks at all of them.
pub const PREFIXES_MAX: usize = 1_024;
/// Where a RESP2 client that others redirect to hears of invalid keys.
pub const CHANNEL: &[u8] = b"__redis__:invalidate";

/// Which keys are tracked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// All that the client reads.
    #[default]
    All,
    /// Those that it reads right after CLIENT CACHING YES.
    OptIn,
    /// All but those that it reads right after CLIENT CACHING NO.
    OptOut,
    /// Whatever changes and begins with one of its prefixes, read or not.
    Broadcast,
}

/// A session's part: how the client asked for tracking.
#[derive(Debug)]
pub struct SessionTracking {
    /// Which keys.
    pub mode: Mode,
    /// Whether CLIENT CACHING was the command before.
    pub caching: bool,
    /// Whether the client hears nothing of its own changes.
    pub no_loop: bool,
    /// The client that is told instead; 0 for none.
    pub redirect: u64,
    /// The prefixes of [`Mode::Broadcast`].
    pub prefixes: Vec<Box<[u8]>>,
    /// Stands for the client in the engine's table.
    pub tracker: Tracker,
}

impl SessionTracking {
    /// Whether the keys of a read that runs now are to be tracked.
    pub fn wants_keys(&self) -> bool {
        match self.mode {
            Mode::All => true,
            Mode::OptIn => self.caching,
            Mode::OptOut => !self.caching,
            Mode::Broadcast => false,
        }
    }
}

/// A client that is to be told.
#[derive(Debug)]
struct Reader {
    client: Arc<Client>,
    redirect: u64,
    no_loop: bool,
}

type ByPrefix = BTreeMap<Box<[u8]>, Vec<Arc<Reader>>>;

/// All clients that track.
#[derive(Debug, Default)]
pub struct Tracking {
    readers: RwLock<HashMap<u64, Arc<Reader>>>,
    by_prefix: RwLock<ByPrefix>,
    clients: AtomicUsize,
}

impl Tracking {
    /// Number of clients that track.
    pub fn clients(&self) -> usize {
        self.clients.load(Ordering::Acquire)
    }

    /// Number of different prefixes.
    pub fn prefixes(&self) -> usize {
        self.by_prefix.read().len()
    }

    /// A client tracks from now on, or in another way than before.
    pub fn start(&self, exec: &mut Executor<'_>, client: &Arc<Client>, how: &SessionTracking) {
        let reader = Arc::new(Reader {
            client: client.clone(),
            redirect: how.redirect,
            no_loop: how.no_loop,
        });
        let id = client.address.id;
        let fresh = self.readers.write().insert(id, reader.clone()).is_none();
        if fresh {
            self.clients.fetch_add(1, Ordering::AcqRel);
        }
        let broadcast = how.mode == Mode::Broadcast;
        if broadcast {
            let mut by_prefix = self.by_prefix.write();
            for prefix in &how.prefixes {
                let readers = by_prefix.entry(prefix.clone()).or_default();
                readers.retain(|other| other.client.address.id != id);
                readers.push(reader.clone());
            }
        }
        if broadcast && fresh {
            exec.broadcast_changes(true);
            exec.release();
        }
        client.broken_redirect.store(false, Ordering::Relaxed);
        client.broadcast.store(broadcast, Ordering::Relaxed);
        client.redirect.store(i64::try_from(how.redirect).unwrap_or(0), Ordering::Relaxed);
    }

    /// A client tracks no longer.
    pub fn stop(&self, exec: &mut Executor<'_>, client: &Client, how: &SessionTracking) {
        how.tracker.stop();
        let id = client.address.id;
        if self.readers.write().remove(&id).is_some() {
            self.clients.fetch_sub(1, Ordering::AcqRel);
        }
        if how.mode == Mode::Broadcast {
            let mut by_prefix = self.by_prefix.write();
            for prefix in &how.prefixes {
                if let Some(readers) = by_prefix.get_mut(prefix) {
                    readers.retain(|other| other.client.address.id != id);
                    if readers.is_empty() {
                        by_prefix.remove(prefix);
                    }
                }
            }
            drop(by_prefix);
            exec.broadcast_changes(false);
            exec.release();
        }
        client.broken_redirect.store(false, Ordering::Relaxed);
        client.broadcast.store(false, Ordering::Relaxed);
        client.redirect.store(-1, Ordering::Relaxed);
    }

    /// Tells who read what has changed; `writer` is the client that changed it, if one did.
    pub fn publish(&self, shared: &Shared, effects: &mut Effects, writer: Option<u64>) {
        let all = std::mem::take(&mut effects.all_invalidated);
        if self.clients() == 0 {
            effects.invalidated.clear();
            return;
        }
        let invalidated = std::mem::take(&mut effects.invalidated);
        for one in &invalidated {
            for tracker in one.trackers.iter().filter(|tracker| tracker.is_live()) {
                let reader = self.readers.read().get(&tracker.id()).cloned();
                if let Some(reader) = reader.filter(|reader| is_told(reader, one, writer)) {
                    send(shared, &reader, Some(&[&one.key]));
                }
            }
        }
        self.publish_by_prefix(shared, &invalidated, writer);
        if all {
            self.forget_all(shared);
        }
    }

    /// Tells all clients that nothing of what they have read here is to be relied on.
    pub fn forget_all(&self, shared: &Shared) {
        if self.clients() > 0 {
            let readers: Vec<_> = self.readers.read().values().cloned().collect();
            readers.iter().for_each(|reader| send(shared, reader, None));
        }
    }

    /// Each client with a prefix gets all keys at once.
    fn publish_by_prefix(&self, shared: &Shared, changes: &[Invalidation], writer: Option<u64>) {
        let mut told: BTreeMap<u64, (Arc<Reader>, Vec<&[u8]>)> = BTreeMap::new();
        for (prefix, readers) in self.by_prefix.read().iter() {
            for change in changes.iter().filter(|change| change.key.starts_with(prefix)) {
                for reader in readers.iter().filter(|reader| is_told(reader, change, writer)) {
                    let id = reader.client.address.id;
                    let entry = told.entry(id).or_insert_with(|| (reader.clone(), Vec::new()));
                    if !entry.1.contains(&&*change.key) {
                        entry.1.push(&change.key);
                    }
                }
            }
        }
        for (reader, keys) in told.values() {
            send(shared, reader, Some(keys));
        }
    }
}

fn is_told(reader: &Reader, change: &Invalidation, writer: Option<u64>) -> bool {
    !(reader.no_loop && change.by_caller && writer == Some(reader.client.address.id))
}

/// Sends the keys that are invalid, or that all are.
fn send(shared: &Shared, reader: &Reader, keys: Option<&[&[u8]]>) {
    let redirected = match reader.redirect {
        0 => None,
        id => match shared.clients.get(id) {
            Some(client) => Some(client),
            None => return broken(shared, reader),
        },
    };
    let target = redirected.as_ref().unwrap_or(&reader.client);
    let protocol = target.protocol();
    let mut out = Vec::new();
    let mut reply = Reply::new(&mut out, protocol);
    if protocol == Protocol::Resp3 {
        reply.push(2);
        reply.bulk(b"invalidate");
    } else if redirected.is_some() && target.is_subscriber() {
        reply.push(3);
        reply.bulk(b"message");
        reply.bulk(CHANNEL);
    } else {
        // RESP2 has no messages outside of a subscription.
        return;
    }
    match keys {
        Some(keys) => {
            reply.array(keys.len());
            keys.iter().for_each(|key| reply.bulk(key));
        }
        None => reply.null(),
    }
    post(shared, target, out);
}

fn post(shared: &Shared, client: &Client, bytes: Vec<u8>) {
    let address = client.address;
    shared.mailboxes[address.worker].post(Message::Send(address, bytes.into()));
}

/// The client that was to be told is gone: what this one keeps can not be trusted any more.
fn broken(shared: &Shared, reader: &Reader) {
    reader.client.broken_redirect.store(true, Ordering::Relaxed);
    if reader.client.protocol() == Protocol::Resp3 {
        let mut out = Vec::new();
        let mut reply = Reply::new(&mut out, Protocol::Resp3);
        reply.push(2);
        reply.bulk(b"tracking-redir-broken");
        reply.int(i64::try_from(reader.redirect).unwrap_or(0));
        post(shared, &reader.client, out);
    }
}
