//! The threads of the cold tier: readers that bring values in for connections, and one that takes
//! values out, gives space back and watches the memory of the process.
//!
//! ```text
//! worker --Jobs--> reader --Message::Loaded--> worker: the request is run again
//! worker --"memory is short"--> upkeep --Message::Room--> workers: those that wait for room go on
//! ```
//! A connection has at most one job, so the queue is never longer than there are connections. To pass work to
//! another thread costs as much as a read from a store that answers from memory, so a worker hands over the
//! jobs of one turn of its loop together, and a reader takes several and answers them together.

use crate::alloc;
use crate::clock;
use crate::config::{POLICY_TIER, Settings, ids};
use crate::host::settle;
use crate::mailbox::{Address, Message};
use crate::memory::PRESS_SHARE;
use crate::proc;
use crate::shared::Shared;
use ashlar_engine::tier::store::{ColdError, StoreKind, open, open_durable};
use ashlar_engine::tier::{Brought, Needs, Tier};
use crossbeam::channel::{Receiver, Sender, bounded};
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Once};
use std::time::{Duration, Instant};

/// Bytes that are written to disk before memory is looked at again and waiting connections are woken.
const SLICE_BYTES: usize = 1 << 20;
/// Of `maxmemory`, the part that is kept free so that writers seldom wait: one of so many.
const FREE_SHARE: usize = 16;
/// Milliseconds between looks at idle keys.
const TICK: Duration = Duration::from_millis(100);
/// Ticks between two passes that give space back.
const TIDY_TICKS: usize = 10;
/// How long memory may be short, whatever is taken out, before writers are refused.
const PATIENCE: Duration = Duration::from_secs(2);

/// Bytes above `maxmemory` that values which come from disk may take: then readers wait until others have
/// left, and read nothing ahead. Each may have the share of [`Tier::load_with`] in hand.
const READ_ABOVE_BYTES: usize = 2 << 20;
/// Of what the resident memory is above its mark, what has to go with each look: one part of so many, and at most one
/// of so many of `maxmemory`.
const HOLES_SHARE: usize = 4;
const HOLES_STEPS: usize = 256;
/// Bytes of resident memory above `maxmemory` from which on these steps are longer.
const RESIDENT_ABOVE_BYTES: usize = 8 << 20;
const HOLES_HASTY_STEPS: usize = 64;
/// The part of `maxmemory` that holes and tables of the allocator take at least, as values come and go.
const HOLES_EXPECTED: usize = 10;
/// Bytes of values that a reader lets go of at most for each of its turns.
const WAY_BYTES: usize = 32 << 10;
/// How long a reader waits before it looks again whether there is room.
const ROOM_EVERY: Duration = Duration::from_millis(1);
/// Milliseconds after which a look at the resident memory is too old to let more in on.
const LOOK_MS_MAX: i64 = 500;

/// Jobs that a reader takes at a time: more would wait for each other.
const JOBS_MAX: usize = 8;
/// Jobs that a worker gathers before it hands them over in the middle of a turn.
const GATHERED_MAX: usize = 8;

/// What a connection waits for.
#[derive(Debug)]
struct Job {
    address: Address,
    needs: Needs,
}

/// Jobs of one worker that are yet to be handed over.
#[derive(Debug, Default)]
pub struct Gathered(Vec<Job>);

/// Jobs that wait for a reader.
#[derive(Default)]
struct Queue {
    jobs: Mutex<VecDeque<Job>>,
    come: Condvar,
}

/// The cold tier of a server.
pub struct ColdTier {
    tier: Arc<Tier>,
    queue: Queue,
    readers: usize,
    pressed: Sender<()>,
    pressure: Receiver<()>,
    /// Resident memory beyond what the allocator has given out: fragmentation, stacks; see [`ColdTier::measure`].
    overhead: AtomicUsize,
    /// When that was found out.
    looked_ms: AtomicI64,
    /// Whether memory stays short, whatever is taken out.
    barren: AtomicBool,
}

/// Whether a cold tier is asked for.
pub fn is_wanted(settings: &Settings) -> bool {
    settings.string(ids::COLD_STORE) != "no" || settings.string(ids::MAXMEMORY_POLICY) == "tier"
}

impl ColdTier {
    /// Opens the store that the settings name: empty, unless it is `durable` since snapshots and the
    /// log bring its keys back.
    ///
    /// # Errors
    /// If it cannot be opened or emptied.
    pub fn open(settings: &Settings, hash_seed: u64, durable: bool) -> io::Result<ColdTier> {
        let name = settings.string(ids::COLD_STORE);
        let kind = StoreKind::from_name(&name).unwrap_or_default();
        let dir = settings.string(ids::DIR);
        let folder = Path::new(&dir).join("ashlar-data").join("cold");
        std::fs::create_dir_all(&folder)?;
        let folder = folder.join(kind.name());
        let memory = u64::try_from(settings.number(ids::COLD_MEMORY)).unwrap_or(0);
        let failed = |error: ColdError| io::Error::other(error.to_string());
        let store = if durable {
            open_durable(kind, &folder, memory).map_err(failed)?
        } else {
            // What another run left is not named by anything.
            open(kind, &folder, memory).map_err(failed)?.store.destroy().map_err(failed)?;
            open(kind, &folder, memory).map_err(failed)?.store
        };
        static DISCOUNTED: Once = Once::new();
        DISCOUNTED.call_once(|| alloc::discount(store.untouched_bytes()));
        let tier = Tier::new(store, kind.name(), hash_seed);
        if durable {
            tier.set_durable();
        }
        let readers = settings.count(ids::COLD_READERS).max(1) as usize;
        let (pressed, pressure) = bounded(1);
        Ok(ColdTier {
            tier,
            queue: Queue::default(),
            readers,
            pressed,
            pressure,
            overhead: AtomicUsize::new(0),
            looked_ms: AtomicI64::new(i64::MAX),
            barren: AtomicBool::new(false),
        })
    }

    /// The engine's part.
    pub fn tier(&self) -> &Arc<Tier> {
        &self.tier
    }

    /// Has what a connection needs read in, at the latest with [`ColdTier::hand_over`]; it gets a message.
    pub fn load(&self, gathered: &mut Gathered, address: Address, needs: Needs) {
        self.tier.count_wait();
        gathered.0.push(Job { address, needs });
        if gathered.0.len() >= GATHERED_MAX {
            self.hand_over(gathered);
        }
    }

    /// Hands the jobs over that a worker has gathered.
    pub fn hand_over(&self, gathered: &mut Gathered) {
        let count = gathered.0.len();
        if count == 0 {
            return;
        }
        self.queue.jobs.lock().extend(gathered.0.drain(..));
        for _ in 0..count.min(self.readers) {
            if !self.queue.come.notify_one() {
                // All of them are at work, and look again.
                break;
            }
        }
    }

    /// Takes the share of one reader of what waits; waits for a moment where there is nothing.
    fn take(&self, jobs: &mut Vec<Job>) {
        let mut queue = self.queue.jobs.lock();
        if queue.is_empty() {
            self.queue.come.wait_for(&mut queue, TICK);
        }
        let share = queue.len().div_ceil(self.readers).min(JOBS_MAX);
        jobs.extend(queue.drain(..share));
    }

    /// Connections that wait for the disk.
    pub fn queue_len(&self) -> usize {
        self.queue.jobs.lock().len()
    }

    /// Asks for values to be taken out.
    pub fn press(&self) {
        // Full: it has been asked already.
        let _ = self.pressed.try_send(());
    }

    /// Whether memory stays short, whatever is taken out: writers are to be refused.
    pub fn is_barren(&self) -> bool {
        self.barren.load(Ordering::Relaxed)
    }

    /// Bytes that count against `maxmemory`: resident memory, as of the last look, and what has been
    /// allocated since.
    pub fn used_bytes(&self) -> usize {
        alloc::used_bytes() + self.overhead.load(Ordering::Relaxed)
    }

    /// Looks at the memory of the process; where it is `short` of `max`, free pages are given back first.
    ///
    /// What leaves memory leaves holes: pages that have something else as well. The system gets none of them back,
    /// but the next values fill them, and pages that nothing new is put into become free as time goes on. If holes
    /// counted at once, more values would have to leave for them, whose holes would count next, until none were left.
    /// So the resident memory counts as it is while there is enough; then what is allocated has to become less in
    /// small steps as long as the resident memory is above its mark, and may become more where it is below.
    fn measure(&self, max: usize, short: bool) {
        if short {
            alloc::purge();
        }
        let resident = usize::try_from(proc::resident_private_bytes()).unwrap_or(usize::MAX);
        let beyond = resident.saturating_sub(alloc::used_bytes());
        let mark = max - max / PRESS_SHARE;
        let before = self.overhead.load(Ordering::Relaxed);
        // Nothing more is asked for before what was asked for has been done, or those who write, and fill holes,
        // would wait for good where values leave more slowly than that grows.
        let is_done = alloc::used_bytes() + before <= max;
        let is_far = resident > max + RESIDENT_ABOVE_BYTES;
        let step = max / if is_far { HOLES_HASTY_STEPS } else { HOLES_STEPS };
        let overhead = if max == 0 || resident <= max - max / FREE_SHARE {
            beyond
        } else if resident > mark && is_done {
            before + ((resident - mark) / HOLES_SHARE).min(step)
        } else if resident > mark {
            before
        } else {
            before.saturating_sub((mark - resident) / HOLES_SHARE)
        };
        let overhead = overhead.min(beyond).max(max / HOLES_EXPECTED);
        self.overhead.store(overhead, Ordering::Relaxed);
        self.looked_ms.store(clock::now_ms(), Ordering::Relaxed);
    }

    /// Whether the last look at the resident memory is too old: where cores are short, the thread that looks
    /// may not have its turn for long.
    pub fn is_outdated(&self, now_ms: i64) -> bool {
        now_ms.saturating_sub(self.looked_ms.load(Ordering::Relaxed)) > LOOK_MS_MAX
    }

    /// Whether a worker may bring more in, which waits for nothing.
    pub fn has_room(&self, shared: &Shared, now_ms: i64) -> bool {
        let max = usize::try_from(shared.settings.number(ids::MAXMEMORY)).unwrap_or(0);
        if max == 0 || shared.settings.number(ids::MAXMEMORY_POLICY) != POLICY_TIER {
            return true;
        }
        let used = self.used_bytes();
        if used <= max - max / PRESS_SHARE {
            return true;
        }
        used <= max && !self.is_outdated(now_ms)
    }

    /// Makes room for `brought` bytes of values that a thread has brought in, on that thread, as far as others can leave
    /// without a write: a turn of the thread that takes values out costs those who wait for a core more.
    pub fn make_way(&self, shared: &Shared, brought: usize, now_ms: i64) {
        let max = usize::try_from(shared.settings.number(ids::MAXMEMORY)).unwrap_or(0);
        if max == 0 || shared.settings.number(ids::MAXMEMORY_POLICY) != POLICY_TIER {
            return;
        }
        let above = self.used_bytes().saturating_sub(max - max / PRESS_SHARE);
        // A little more than came, or it would stay above.
        let wanted = above.min(2 * brought);
        if wanted > 0 {
            let seed = shared.stamp(now_ms).seed;
            if self.tier.drop_some(&shared.engine, now_ms, seed, wanted) < wanted {
                self.press();
            }
        }
    }

    /// Whether a reader may bring more in: waits for that if it is needed now.
    fn admits(&self, shared: &Shared, needed: bool) -> bool {
        let max = usize::try_from(shared.settings.number(ids::MAXMEMORY)).unwrap_or(0);
        if max == 0 || shared.settings.number(ids::MAXMEMORY_POLICY) != POLICY_TIER {
            return true;
        }
        let mut since = None;
        loop {
            let used = self.used_bytes();
            let outdated = used > max - max / PRESS_SHARE && self.is_outdated(clock::now_ms());
            if used <= max + READ_ABOVE_BYTES && !outdated {
                break;
            }
            if !needed {
                return false;
            }
            let waited = since.get_or_insert_with(Instant::now).elapsed();
            if self.is_barren() || waited > PATIENCE || shared.stopping.load(Ordering::Acquire) {
                // Nothing can leave: the one who asks is not to wait for ever.
                break;
            }
            self.press();
            std::thread::sleep(ROOM_EVERY);
        }
        true
    }
}

/// Starts the threads.
///
/// # Errors
/// If the system gives none.
pub fn start(shared: &Arc<Shared>) -> io::Result<Vec<std::thread::JoinHandle<()>>> {
    let Some(cold) = &shared.cold else { return Ok(Vec::new()) };
    let mut threads = Vec::new();
    let spawn = |name: String, number: usize, run: fn(&Shared)| {
        let shared = shared.clone();
        std::thread::Builder::new().name(name).spawn(move || {
            crate::cores::bind(&shared.settings, ids::BIO_CPULIST);
            alloc::share_arena(number);
            crate::cores::take_short_turns();
            step_back();
            run(&shared);
        })
    };
    for number in 0..cold.readers {
        threads.push(spawn(format!("ashlar-read-{number}"), number, read)?);
    }
    threads.push(spawn("ashlar-tier".into(), 0, upkeep)?);
    Ok(threads)
}

/// Lets the threads that serve connections go first where cores are short: what is in memory is not
/// to wait for what is not.
pub fn step_back() {
    /// As `nice -n 5`.
    const NICE: i32 = 5;
    if let Err(error) = rustix::process::nice(NICE) {
        tracing::debug!("a thread keeps its priority: {error}");
    }
}

/// A reader: brings values in.
fn read(shared: &Shared) {
    let Some(cold) = &shared.cold else { return };
    let mut jobs = Vec::new();
    while !shared.stopping.load(Ordering::Acquire) {
        cold.take(&mut jobs);
        if jobs.is_empty() {
            continue;
        }
        let mut messages: Vec<Vec<Message>> = Vec::new();
        messages.resize_with(shared.mailboxes.len(), Vec::new);
        for (address, loaded) in load_all(shared, cold, std::mem::take(&mut jobs)) {
            messages[address.worker].push(Message::Loaded(address, loaded));
        }
        cold.make_way(shared, WAY_BYTES, clock::now_ms());
        for (mailbox, messages) in shared.mailboxes.iter().zip(messages) {
            if !messages.is_empty() {
                mailbox.post_all(messages);
            }
        }
    }
}

/// What a connection is told of its job.
type Loaded = (Address, Result<Brought, String>);

/// Does several jobs together; where that fails, one by one, so that each gets its own error.
fn load_all(shared: &Shared, cold: &ColdTier, jobs: Vec<Job>) -> Vec<Loaded> {
    let room = |needed| cold.admits(shared, needed);
    let load = |needs: &Needs| cold.tier.load_with(&shared.engine, needs, &room);
    if jobs.len() > 1 && jobs.iter().all(|job| job.needs.names.is_empty()) {
        let mut all = Needs::default();
        for job in &jobs {
            all.values.extend_from_slice(&job.needs.values);
            all.ahead.extend_from_slice(&job.needs.ahead);
        }
        if let Ok(brought) = load(&all) {
            let own = |job: &Job| {
                let wants = || job.needs.values.iter().chain(&job.needs.ahead);
                let parts =
                    brought.parts.iter().filter(|part| wants().any(|want| part.is_for(want)));
                Brought { parts: parts.cloned().collect(), ..Brought::default() }
            };
            return jobs.into_iter().map(|job| (job.address, Ok(own(&job)))).collect();
        }
    }
    let each = |job: Job| {
        let loaded = load(&job.needs).map_err(|error| {
            tracing::error!("{error}");
            format!("ERR {error}")
        });
        (job.address, loaded)
    };
    jobs.into_iter().map(each).collect()
}

/// The thread that takes values out.
fn upkeep(shared: &Shared) {
    let Some(cold) = &shared.cold else { return };
    let (mut exec, mut ticks) = (shared.engine.executor(), 0usize);
    let mut short_since = None;
    let mut next_tick = Instant::now();
    let mut faults = 0;
    while !shared.stopping.load(Ordering::Acquire) {
        let wait = next_tick.saturating_duration_since(Instant::now());
        // A tick, or a call for room: the loop does the same for both.
        let _ = cold.pressure.recv_timeout(wait);
        let ticked = Instant::now() >= next_tick;
        if ticked {
            next_tick = Instant::now() + TICK;
            ticks += 1;
            let max = usize::try_from(shared.settings.number(ids::MAXMEMORY)).unwrap_or(0);
            cold.measure(max, max > 0 && cold.used_bytes() > max - max / FREE_SHARE);
        }
        if shared.persistence.loading.load(Ordering::Acquire) {
            // What the index names is not known yet; the loader makes room itself.
            continue;
        }
        let now_ms = clock::now_ms();
        let mut result = make_room(shared, cold, now_ms, &mut short_since);
        let idle_ms = shared.settings.count(ids::COLD_THRESHOLD).saturating_mul(1000);
        if ticked && idle_ms > 0 {
            let share = cold.tier.age_share(&shared.engine, idle_ms, TICK);
            let aged = cold.tier.age(&shared.engine, now_ms, idle_ms, share);
            result = result.and(aged.map(drop));
        }
        if ticked && ticks.is_multiple_of(TIDY_TICKS) {
            let stamp = shared.stamp(now_ms);
            let tidied = cold.tier.tidy(&mut exec, &stamp);
            exec.release();
            settle(shared, &mut exec, &stamp);
            result = result.and(tidied.map(drop));
        }
        if let Err(error) = result {
            // Values stay in memory; the log is not to be filled with the same line.
            if faults == 0 {
                tracing::error!("{error}");
            }
            faults = (faults + 1) % 600;
            std::thread::sleep(TICK);
        } else {
            faults = 0;
        }
    }
}

/// While the log is run at the start: takes values out, where memory is short, before it goes on.
pub fn relieve(shared: &Shared) {
    let Some(cold) = &shared.cold else { return };
    let max = usize::try_from(shared.settings.number(ids::MAXMEMORY)).unwrap_or(0);
    if max == 0 || cold.used_bytes() <= max {
        return;
    }
    if let Err(error) = make_room(shared, cold, clock::now_ms(), &mut None) {
        // They stay in memory; whether that is too much shows.
        tracing::error!("{error}");
    }
}

/// Takes values out until there is room, a slice at a time.
fn make_room(
    shared: &Shared,
    cold: &ColdTier,
    now_ms: i64,
    short_since: &mut Option<Instant>,
) -> Result<(), ColdError> {
    let max = usize::try_from(shared.settings.number(ids::MAXMEMORY)).unwrap_or(0);
    let tiers = shared.settings.string(ids::MAXMEMORY_POLICY) == "tier";
    if max == 0 || !tiers {
        cold.barren.store(false, Ordering::Relaxed);
        shared.broadcast_waiting_for_room();
        return Ok(());
    }
    let low = max - max / FREE_SHARE;
    let mut measured = Instant::now();
    loop {
        let excess = || cold.used_bytes().saturating_sub(low);
        if excess() == 0 || shared.stopping.load(Ordering::Acquire) {
            break;
        }
        let seed = shared.stamp(now_ms).seed;
        let done = cold.tier.make_room(&shared.engine, now_ms, seed, SLICE_BYTES, &excess)?;
        if measured.elapsed() >= TICK {
            // While data comes in as fast as it leaves, this loop does not end.
            cold.measure(max, true);
            measured = Instant::now();
        }
        if cold.used_bytes() <= max {
            *short_since = None;
            shared.broadcast_waiting_for_room();
        }
        if done.written + done.dropped == 0 {
            break;
        }
        // As long as something leaves, writers wait and are not refused.
        *short_since = None;
    }
    if cold.used_bytes() > max && !shared.stopping.load(Ordering::Acquire) {
        // No value can leave, but the store's own buffers may go.
        cold.tier.store().shrink()?;
        cold.measure(max, true);
    }
    if cold.used_bytes() <= max {
        *short_since = None;
        cold.barren.store(false, Ordering::Relaxed);
        shared.broadcast_waiting_for_room();
    } else if short_since.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
        cold.barren.store(true, Ordering::Relaxed);
        shared.broadcast_waiting_for_room();
    }
    Ok(())
}
