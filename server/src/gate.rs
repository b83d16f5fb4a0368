//! The reply gate: no reply leaves before what it depends on is as safe as `appendfsync` asks.
//!
//! A reply depends on every record that was appended by then: its own, and those of others that it
//! may have seen. With `everysec` and `no` it leaves once they are written to the system, so that
//! the end of the process loses nothing; with `always` once they are durable.
//!
//! A worker gathers the replies of one turn of its loop and passes the gate once. With `everysec`
//! and `no` that is one write. With `always` a turn after which few records are not durable syncs right
//! there: who sent something meanwhile is in the next turn, and so in the next sync. One with more leaves
//! it to the log's thread and goes on, and the connections wait meanwhile: nothing is read from them.
//!
//! ```text
//! turn of a worker: calls -> replies gathered -> written | synced here -> leave
//!                                    \-> held -> log's thread syncs -> Message::Durable -> leave
//! ```

use crate::config::{Settings, ids};
use crate::mailbox::{Mailbox, Message};
use crate::shared::Shared;
use ashlar_engine::engine::Engine;
use ashlar_engine::error::Error;
use ashlar_engine::log::{Health, Log, LogError};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::Thread;
use std::time::{Duration, Instant};

/// How often the log's thread looks after the log.
const TEND_EVERY: Duration = Duration::from_millis(50);
/// How often it syncs with `everysec`.
const SYNC_EVERY: Duration = Duration::from_secs(1);
/// Records that wait for a sync above which it is left to the log's thread. To pass it on and to be woken
/// again takes as long as some 50 commands; with 50 clients who send one at a time it cost a third of all
/// commands a second. What is run during the sync has to be worth more than that.
const SYNCED_HERE_MAX: u64 = 128;

/// When a write counts as safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Once the system has it.
    No = 0,
    /// Once it is durable.
    Always = 1,
    /// Once the system has it; it is durable a second later.
    Everysec = 2,
}

impl Policy {
    fn from_number(number: u8) -> Policy {
        match number {
            1 => Policy::Always,
            2 => Policy::Everysec,
            _ => Policy::No,
        }
    }

    /// What the settings say.
    pub fn of(settings: &Settings) -> Policy {
        Policy::from_number(u8::try_from(settings.number(ids::APPENDFSYNC)).unwrap_or(0))
    }
}

/// What the gate says to the replies of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passage {
    /// They leave.
    Open,
    /// They wait for [`Message::Durable`].
    Wait,
    /// What they depend on will never be safe.
    Closed,
}

/// Is told of an event of the latency monitor, and how long it took.
type Observer = Box<dyn Fn(&'static str, Duration) + Send + Sync>;

/// The log of a server and what waits for it.
pub struct Gate {
    /// The log.
    pub log: Arc<Log>,
    policy: AtomicU8,
    /// The log's thread.
    thread: OnceLock<Thread>,
    /// Whether a sync is asked for.
    wanted: AtomicBool,
    stopping: AtomicBool,
    /// Is told how long writes and syncs take.
    observer: OnceLock<Observer>,
    /// Of each worker, whether it waits for the log.
    waiting: Box<[AtomicBool]>,
}

impl Gate {
    /// The gate before the log of a data directory.
    pub fn new(log: &Arc<Log>, workers: usize) -> Gate {
        Gate {
            log: log.clone(),
            policy: AtomicU8::new(0),
            thread: OnceLock::new(),
            wanted: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            observer: OnceLock::new(),
            waiting: (0..workers).map(|_| AtomicBool::new(false)).collect(),
        }
    }

    /// Connects the gate with the settings and the workers, and starts the log's thread.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn start(shared: &Arc<Shared>) -> io::Result<Option<std::thread::JoinHandle<()>>> {
        let Some(gate) = shared.gate.get() else { return Ok(None) };
        let weak = Arc::downgrade(shared);
        let connected = shared.settings.subscribe(&[ids::APPENDFSYNC], move |settings| {
            if let Some(gate) = weak.upgrade().as_ref().and_then(|shared| shared.gate.get()) {
                gate.policy.store(Policy::of(settings) as u8, Ordering::Release);
                gate.log.set_zeroed(gate.policy() == Policy::Always);
                gate.wake();
            }
            Ok(())
        });
        debug_assert!(connected.is_ok(), "the subscriber refuses nothing");
        let weak = Arc::downgrade(shared);
        gate.log.on_progress(move || {
            if let Some(shared) = weak.upgrade()
                && let Some(gate) = shared.gate.get()
            {
                gate.tell(&shared.mailboxes);
                shared.engine.shipping().wake();
            }
        });
        let weak = Arc::downgrade(shared);
        let observer = move |event, took| {
            if let Some(shared) = weak.upgrade() {
                shared.note_latency(event, took);
            }
        };
        // A gate starts once.
        drop(gate.observer.set(Box::new(observer)));
        let thread = shared.clone();
        std::thread::Builder::new()
            .name("ashlar-log".into())
            .spawn(move || {
                crate::cores::bind(&thread.settings, crate::config::ids::BIO_CPULIST);
                if let Some(gate) = thread.gate.get() {
                    gate.run(&thread.engine);
                }
            })
            .map(Some)
    }

    /// `appendfsync`
    pub fn policy(&self) -> Policy {
        Policy::from_number(self.policy.load(Ordering::Acquire))
    }

    /// The last index that is as safe as `appendfsync` asks.
    pub fn safe(&self) -> u64 {
        match self.policy() {
            Policy::Always => self.log.durable(),
            Policy::Everysec | Policy::No => self.log.written(),
        }
    }

    /// Whether a reply that is ready now has to pass the gate: there are records that are not safe
    /// yet. While the log takes no writes, reads go on: then only what the connection itself
    /// appended counts, up to `own`.
    #[inline]
    pub fn holds(&self, own: u64) -> bool {
        let safe = self.safe();
        self.log.appended() > safe && (self.log.is_well() || own > safe)
    }

    /// Asks for passage for replies that depend on records up to `index`. With `now` it waits for the log
    /// right here, whatever that takes.
    pub fn pass(&self, index: u64, now: bool) -> Passage {
        let durable = self.log.durable();
        let result = match self.policy() {
            Policy::Always if durable >= index => return Passage::Open,
            Policy::Always if !now && index - durable > SYNCED_HERE_MAX => {
                self.wanted.store(true, Ordering::Release);
                self.wake();
                return Passage::Wait;
            }
            Policy::Always => self.timed("aof-fsync-always", || self.log.sync_to(index)),
            Policy::Everysec | Policy::No => self.timed("aof-write", || self.log.write()),
        };
        self.passage(result, index)
    }

    /// The same at once, whatever it takes.
    pub fn pass_now(&self) -> Passage {
        let index = self.log.appended();
        self.pass(index, true)
    }

    fn passage(&self, result: Result<u64, LogError>, index: u64) -> Passage {
        match result {
            Ok(safe) if safe >= index => Passage::Open,
            Ok(_) => Passage::Wait,
            Err(error) if error.passes() => Passage::Wait,
            Err(_) => Passage::Closed,
        }
    }

    /// Says that a worker waits, for [`Message::Durable`]. It looks once more afterwards.
    pub fn wait(&self, worker: usize) {
        self.waiting[worker].store(true, Ordering::SeqCst);
    }

    /// Tells the workers that wait that something has changed.
    fn tell(&self, mailboxes: &[Mailbox]) {
        for (waits, mailbox) in self.waiting.iter().zip(mailboxes) {
            if waits.load(Ordering::SeqCst) && waits.swap(false, Ordering::SeqCst) {
                mailbox.post(Message::Durable);
            }
        }
    }

    /// Why writes are refused, if they are.
    #[inline]
    pub fn refusal(&self) -> Option<Error> {
        if self.log.is_well() {
            return None;
        }
        match self.log.health() {
            Health::Well => None,
            Health::Blocked(reason) | Health::Failed(reason) => {
                let reason = of_system(&reason);
                Some(Error::owned(format!("MISCONF Errors writing to the AOF file: {reason}")))
            }
        }
    }

    fn timed<T>(&self, event: &'static str, work: impl FnOnce() -> T) -> T {
        let since = Instant::now();
        let result = work();
        if let Some(observer) = self.observer.get() {
            observer(event, since.elapsed());
        }
        result
    }

    fn wake(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    /// Ends the log's thread, which makes everything durable first.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.wake();
    }

    /// The log's thread.
    fn run(&self, engine: &Engine) {
        // The cell is empty: the thread runs once.
        let _ = self.thread.set(std::thread::current());
        let (mut tended, mut synced) = (Instant::now(), Instant::now());
        let mut health = Health::Well;
        while !self.stopping.load(Ordering::Acquire) {
            if !self.wanted.load(Ordering::Acquire) {
                std::thread::park_timeout(TEND_EVERY.saturating_sub(tended.elapsed()));
            }
            if self.wanted.swap(false, Ordering::AcqRel) {
                // Whoever waits sees what came of it in the log's health.
                let _ = self.timed("aof-fsync-always", || self.log.sync());
            }
            if tended.elapsed() >= TEND_EVERY && engine.journal().is_some() {
                tended = Instant::now();
                let _ = self.log.tend();
            }
            if engine.journal().is_none() {
                std::thread::park_timeout(TEND_EVERY);
                continue;
            }
            if synced.elapsed() >= SYNC_EVERY && self.policy() == Policy::Everysec {
                synced = Instant::now();
                let _ = self.log.sync();
            }
            report(&self.log, &mut health);
        }
        if engine.journal().is_none() {
            // It was closed when it ended.
            return;
        }
        if let Err(error) = self.log.close() {
            tracing::error!("the log could not be closed: {error}");
        }
    }
}

/// Of a reason as "can't DO: TEXT (os error N)" what the system says, as Redis has it.
fn of_system(reason: &str) -> &str {
    let text = reason.split_once(" (os error ").map(|(text, _)| text);
    text.map_or(reason, |text| text.rsplit_once(": ").map_or(text, |(_, text)| text))
}

/// Says in the server's own log when the health of the log changes.
fn report(log: &Log, before: &mut Health) {
    let health = log.health();
    if health == *before {
        return;
    }
    match &health {
        Health::Well => tracing::info!("the log can be written to again"),
        Health::Blocked(reason) => tracing::error!("writes are refused for now: {reason}"),
        Health::Failed(reason) => {
            tracing::error!("writes are refused until the server is restarted: {reason}");
        }
    }
    *before = health;
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gate").field("policy", &self.policy()).field("log", &self.log).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::of_system;

    #[test]
    fn the_reason_of_a_refusal_is_the_systems() {
        let full = "can't make a segment of the log: No space left on device (os error 28)";
        assert_eq!(of_system(full), "No space left on device");
        assert_eq!(of_system("can't sync the log: it ended"), "can't sync the log: it ended");
    }
}
