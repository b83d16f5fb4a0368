//! Clients that wait for a key: BLPOP and its like.
//!
//! A blocking command that finds nothing is parked here while the locks of its keys are still
//! held, so no push can slip in between. When a key is ready, the thread that made it ready runs
//! the parked commands in the order in which they came and hands each reply to the worker that
//! owns the client.
//!
//! ```text
//! Waiting --claim--> Serving --reply--> Done
//!    ^                  |
//!    +--nothing there---+          Waiting --timeout, unblock, disconnect--> Done
//! ```

use crate::mailbox::{Address, Message};
use crate::registry::Resolved;
use crate::shared::Shared;
use ashlar_engine::command::{Command, Group, KeyList};
use ashlar_engine::context::Cx;
use ashlar_engine::executor::{Call, Executor, Outcome, Prefetched};
use ashlar_engine::keyspace::Tracker;
use ashlar_engine::number;
use ashlar_engine::reply::{Protocol, Reply};
use ashlar_engine::stamp::Stamp;
use ashlar_engine::value::Type;
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

const WAITING: u8 = 0;
const SERVING: u8 = 1;
const DONE: u8 = 2;
/// Being tried, in a cluster, while something more came for it.
const AGAIN: u8 = 3;
/// Being tried, in a cluster, while its time ran out: it ends with the try.
const LATE: u8 = 4;

/// What becomes of a command after a try that found nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// It goes on waiting.
    Wait,
    /// It is tried again: something came meanwhile.
    Again,
    /// Its time is up.
    Late,
}

/// What came of taking a parked command back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cancel {
    /// It waits no longer, and nobody will answer it.
    Cancelled,
    /// It has been answered, or will be.
    Served,
    /// Another thread is about to serve it: to be tried again once that one could have its locks.
    Later,
}

/// A parked command.
#[derive(Debug)]
pub struct Waiter {
    /// The client.
    pub address: Address,
    /// The command.
    pub resolved: Resolved,
    /// Its arguments, the name first.
    pub args: Vec<Vec<u8>>,
    /// Selected database.
    pub db: u32,
    /// Protocol of the reply.
    pub protocol: Protocol,
    /// Who is told once what it read changes.
    pub tracker: Option<Tracker>,
    /// Whether each try is an agreement of its group.
    pub is_agreed_on: bool,
    keys: Vec<Box<[u8]>>,
    state: AtomicU8,
}

impl Waiter {
    /// A command that is to be parked.
    pub fn new(
        address: Address,
        resolved: Resolved,
        args: Vec<Vec<u8>>,
        db: u32,
        protocol: Protocol,
    ) -> Waiter {
        let slices: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
        let mut positions = KeyList::new();
        // What the server runs waits for something else than its keys.
        if resolved.host.is_none() {
            resolved.command.keys.positions(&slices, &mut positions);
        }
        let mut keys: Vec<Box<[u8]>> = Vec::new();
        for at in positions {
            if !keys.iter().any(|key| **key == *slices[at]) {
                keys.push(slices[at].into());
            }
        }
        let state = AtomicU8::new(WAITING);
        Waiter {
            address,
            resolved,
            args,
            db,
            protocol,
            tracker: None,
            is_agreed_on: false,
            keys,
            state,
        }
    }

    /// Whether it has been answered or has given up.
    pub fn is_done(&self) -> bool {
        self.state.load(Ordering::Acquire) == DONE
    }

    /// The first of its keys.
    pub fn first_key(&self) -> Option<&[u8]> {
        self.keys.first().map(|key| &**key)
    }

    /// Begins a try that another thread will end; `false` where one is under way, which is then
    /// repeated, or where it is too late.
    pub fn begin_try(&self) -> bool {
        self.become_from(WAITING, SERVING) || {
            self.become_from(SERVING, AGAIN);
            false
        }
    }

    /// Ends a try that found nothing.
    pub fn end_try(&self) -> After {
        if self.become_from(SERVING, WAITING) {
            After::Wait
        } else if self.become_from(AGAIN, WAITING) {
            After::Again
        } else {
            After::Late
        }
    }

    /// Ends the wait: there is a reply.
    pub fn finish(&self) {
        self.state.store(DONE, Ordering::Release);
    }

    fn become_from(&self, from: u8, to: u8) -> bool {
        self.state.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Takes the waiter out of the game; `false` where it was served already. Must not be called
    /// with a shard locked: it waits for a thread that is just trying to serve it.
    fn cancel(&self) -> bool {
        loop {
            match self.try_cancel() {
                Cancel::Cancelled => return true,
                Cancel::Served => return false,
                Cancel::Later => std::thread::yield_now(),
            }
        }
    }

    /// The same without waiting, for a thread that holds shards: the one that tries to serve it may need them to go on,
    /// since it lets go of its own while it reads a value from disk.
    fn try_cancel(&self) -> Cancel {
        if self.become_from(WAITING, DONE) {
            return Cancel::Cancelled;
        }
        if self.state.load(Ordering::Acquire) == DONE {
            return Cancel::Served;
        }
        // A try in a cluster takes as long as its group, and what it takes has to go to somebody.
        let is_late = self.is_agreed_on
            && (self.become_from(SERVING, LATE)
                || self.become_from(AGAIN, LATE)
                || self.state.load(Ordering::Acquire) == LATE);
        if is_late { Cancel::Served } else { Cancel::Later }
    }
}

type Queues = HashMap<(u32, Box<[u8]>), VecDeque<Arc<Waiter>>>;

/// All parked commands, by key.
#[derive(Debug, Default)]
pub struct Blocking {
    by_key: Mutex<Queues>,
    clients: AtomicUsize,
}

impl Blocking {
    /// Number of blocked clients.
    pub fn count(&self) -> usize {
        self.clients.load(Ordering::Relaxed)
    }

    /// Parks a command. The locks of its keys are held since it found nothing.
    pub fn park(&self, waiter: &Arc<Waiter>, exec: &mut Executor<'_>) {
        let mut by_key = self.by_key.lock();
        for key in &waiter.keys {
            by_key.entry((waiter.db, key.clone())).or_default().push_back(waiter.clone());
        }
        drop(by_key);
        for key in &waiter.keys {
            exec.await_key(waiter.db, key);
        }
        self.clients.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes a parked command back; `false` where it has been served already.
    pub fn cancel(&self, waiter: &Arc<Waiter>, exec: &mut Executor<'_>) -> bool {
        exec.release();
        let cancelled = waiter.cancel();
        if cancelled {
            self.remove(waiter, exec);
        }
        exec.release();
        cancelled
    }

    /// As [`Blocking::cancel`], with the shards held by `exec` throughout, and without waiting.
    pub fn cancel_locked(&self, waiter: &Arc<Waiter>, exec: &mut Executor<'_>) -> Cancel {
        let cancel = waiter.try_cancel();
        if cancel == Cancel::Cancelled {
            self.remove(waiter, exec);
        }
        cancel
    }

    /// All parked commands, each once for each of its keys.
    pub fn all(&self) -> Vec<Arc<Waiter>> {
        self.by_key.lock().values().flatten().cloned().collect()
    }

    /// Takes a command that has been answered out of its queues.
    pub fn remove(&self, waiter: &Arc<Waiter>, exec: &mut Executor<'_>) {
        let mut by_key = self.by_key.lock();
        for key in &waiter.keys {
            let place = (waiter.db, key.clone());
            if let Some(queue) = by_key.get_mut(&place) {
                queue.retain(|other| !Arc::ptr_eq(other, waiter));
                if queue.is_empty() {
                    by_key.remove(&place);
                }
            }
        }
        drop(by_key);
        for key in &waiter.keys {
            exec.unawait_key(waiter.db, key);
        }
        self.clients.fetch_sub(1, Ordering::Relaxed);
    }

    /// Runs the parked commands whose keys are ready, until none is.
    pub fn serve(&self, shared: &Shared, exec: &mut Executor<'_>, stamp: &Stamp) {
        while !exec.effects.ready.is_empty() {
            for (db, key) in std::mem::take(&mut exec.effects.ready) {
                let place = (db, key);
                let queue = self.by_key.lock().get(&place).cloned().unwrap_or_default();
                // Once a command that takes elements finds none, its like will not either.
                let mut found_none: Option<usize> = None;
                for waiter in queue {
                    if found_none != Some(waiter.resolved.id)
                        && !self.serve_one(&waiter, &place.1, shared, exec, stamp)
                        && !waiter.resolved.command.name.starts_with("XREAD")
                    {
                        found_none = Some(waiter.resolved.id);
                    }
                }
            }
        }
    }

    /// Tries one parked command, `key` being ready; `false` where there was nothing for it.
    fn serve_one(
        &self,
        waiter: &Arc<Waiter>,
        key: &[u8],
        shared: &Shared,
        exec: &mut Executor<'_>,
        stamp: &Stamp,
    ) -> bool {
        if waiter.is_agreed_on {
            crate::strong::serve(shared, waiter);
            return true;
        }
        let args: Vec<&[u8]> = waiter.args.iter().map(Vec::as_slice).collect();
        let call = Call {
            command: waiter.resolved.command,
            args: &args,
            db: waiter.db,
            stamp,
            may_block: true,
            no_touch: false,
        };
        if !claim(waiter, key, exec, &call) {
            return true;
        }
        let mut out = Vec::new();
        let outcome = exec.run(&call, Prefetched::NONE, &mut Reply::new(&mut out, waiter.protocol));
        if outcome == Outcome::WouldBlock {
            waiter.state.store(WAITING, Ordering::Release);
            return false;
        }
        if let Some(tracker) = &waiter.tracker {
            exec.track(waiter.resolved.command, &args, tracker);
        }
        waiter.state.store(DONE, Ordering::Release);
        self.remove(waiter, exec);
        shared.mailboxes[waiter.address.worker].post(Message::Unblock(waiter.address, out));
        true
    }
}

/// Claims a parked command that `key` has something for, with the locks of its keys held from before: whoever waits for
/// the end of a try may hold all shards, and the try would never get one.
fn claim(waiter: &Waiter, key: &[u8], exec: &mut Executor<'_>, call: &Call<'_>) -> bool {
    exec.inspect(call, |cx| suits(waiter.resolved.command, cx, key))
        && waiter.become_from(WAITING, SERVING)
}

/// Whether a key is of the type that a parked command waits for. One of another type is no reason
/// to disturb it; only who reads for a group has to learn that its stream is gone.
fn suits(command: &Command, cx: &Cx<'_>, key: &[u8]) -> bool {
    let Some(entry) = cx.peek(key) else { return true };
    match command.group {
        _ if command.name == "XREADGROUP" => true,
        Group::List => entry.type_of() == Type::List,
        Group::SortedSet => entry.type_of() == Type::Zset,
        Group::Stream => entry.type_of() == Type::Stream,
        _ => true,
    }
}

/// How long a blocking command waits, in milliseconds from now; `None` is for ever. The command
/// has checked the argument already.
pub fn timeout_ms(name: &str, args: &[&[u8]]) -> Option<i64> {
    let milliseconds = match name {
        "XREAD" | "XREADGROUP" => {
            let at = args.iter().position(|arg| arg.eq_ignore_ascii_case(b"BLOCK"))?;
            number::parse_i64(args.get(at + 1)?)?
        }
        "BLMPOP" | "BZMPOP" => seconds(args.get(1)?)?,
        _ => seconds(args.last()?)?,
    };
    (milliseconds > 0).then_some(milliseconds)
}

/// A timeout in seconds as milliseconds; a fraction of one counts as one.
fn seconds(arg: &[u8]) -> Option<i64> {
    Some((number::parse_f64(arg)? * 1000.0).ceil() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ashlar_engine::engine::{Engine, EngineOptions};
    use ashlar_engine::tier::Tier;
    use ashlar_engine::tier::memory::MemoryStore;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    fn blpop() -> Waiter {
        let args: [&[u8]; 3] = [b"BLPOP", b"q", b"0"];
        let command = Engine::find_command(&args).expect("a command");
        let resolved = Resolved { id: 0, command, host: None, only_replies: false };
        let address = Address { worker: 0, slot: 0, id: 1 };
        let owned = args.iter().map(|arg| arg.to_vec()).collect();
        Waiter::new(address, resolved, owned, 0, Protocol::Resp2)
    }

    fn call<'a>(waiter: &Waiter, args: &'a [&'a [u8]], stamp: &'a Stamp) -> Call<'a> {
        let command = waiter.resolved.command;
        Call { command, args, db: 0, stamp, may_block: true, no_touch: false }
    }

    /// A worker that holds all shards does not wait for one that has claimed a waiter and reads its value from disk,
    /// without a lock: that one cannot go on before it has a shard again.
    #[test]
    fn a_try_that_reads_from_disk_is_not_waited_for_with_all_shards_held() {
        let (begun_here, begun) = channel();
        let (end, end_there) = channel();
        // Reads tell that they have begun, and wait until they may end.
        let (store, end_there) = (MemoryStore::default(), Mutex::new(end_there));
        store.on_read(move || {
            // Whoever has given up has failed the test already.
            let _ = begun_here.send(());
            let _: Result<(), _> = end_there.lock().recv();
        });
        let tier = Tier::new(Box::new(store), "slow", 1);
        let options = EngineOptions {
            shards: 4,
            hash_seed: 1,
            tier: Some(tier.clone()),
            ..EngineOptions::default()
        };
        // Threads that wait for each other for good are left behind, so that the test fails.
        let engine: &'static Engine = Box::leak(Box::new(Engine::with_options(options)));
        engine.executor().run_own(&["RPUSH", "q", "a"], &Stamp::new(1, 1));
        let gone = tier.make_room(engine, 1, 1, 1 << 20, &|| 1).expect("a store that works");
        assert_eq!(gone.written, 1, "the list is on disk");
        let waiter = Arc::new(blpop());
        let claimed = waiter.clone();
        let trying = std::thread::spawn(move || {
            let (mut exec, stamp) = (engine.executor(), Stamp::new(1, 1));
            let args: Vec<&[u8]> = claimed.args.iter().map(Vec::as_slice).collect();
            let call = call(&claimed, &args, &stamp);
            assert!(claim(&claimed, b"q", &mut exec, &call), "nobody else wants it");
            let mut out = Vec::new();
            let mut reply = Reply::new(&mut out, Protocol::Resp2);
            exec.run(&call, Prefetched::NONE, &mut reply);
            claimed.finish();
            out
        });
        begun.recv().expect("a read");
        let (tried_here, tried) = channel();
        let blocking = Blocking::default();
        let other = waiter.clone();
        std::thread::spawn(move || {
            let mut exec = engine.executor();
            exec.lock_all();
            let cancel = blocking.cancel_locked(&other, &mut exec);
            exec.release();
            let _ = tried_here.send(cancel);
        });
        let cancel = tried.recv_timeout(Duration::from_secs(20));
        drop(end);
        assert_eq!(cancel, Ok(Cancel::Later), "they wait for each other");
        assert_eq!(trying.join().expect("no panic"), b"*2\r\n$1\r\nq\r\n$1\r\na\r\n");
        assert_eq!(waiter.try_cancel(), Cancel::Served);
    }

    /// A worker that holds all shards, as one does that closes connections, takes a waiter back while another one is on
    /// its way to serve it: it does not wait for that one, which waits for a shard.
    #[test]
    fn a_try_claims_nothing_before_it_has_its_locks() {
        let engine = Engine::with_options(EngineOptions { shards: 4, ..EngineOptions::default() });
        let waiter = blpop();
        let mut all = engine.executor();
        all.lock_all();
        std::thread::scope(|scope| {
            let trying = scope.spawn(|| {
                let (mut exec, stamp) = (engine.executor(), Stamp::new(1, 1));
                let args: Vec<&[u8]> = waiter.args.iter().map(Vec::as_slice).collect();
                claim(&waiter, b"q", &mut exec, &call(&waiter, &args, &stamp))
            });
            // Long enough for the other one to come to its lock.
            std::thread::sleep(Duration::from_millis(200));
            let state = waiter.state.load(Ordering::Acquire);
            let cancelled = state == WAITING && waiter.cancel();
            all.release();
            assert!(!trying.join().expect("no panic"), "it claims what was taken back");
            assert!(cancelled, "it was claimed without a lock");
        });
    }
}
