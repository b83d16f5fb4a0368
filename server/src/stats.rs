//! Counters of what the server did, cheap enough to count every command.
//!
//! Each worker thread owns one [`WorkerStats`] and is the only one that writes it, so a count is a
//! load and a store without a lock prefix and no cache line is shared between writers. Readers add
//! the workers up. CONFIG RESETSTAT can't write into a worker's counters; it remembers the totals
//! of that moment instead, and they are subtracted from then on.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use ashlar_engine::command::{Command, CommandTable};
use parking_lot::Mutex;

use crate::histogram::{Histogram, HistogramTotals};

/// How many kinds of errors are told apart; further kinds are counted in the total only.
pub const ERROR_KINDS_MAX: usize = 128;
/// The longest prefix of an error reply that is taken for its kind.
const ERROR_PREFIX_BYTES_MAX: usize = 32;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What is counted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Counter {
            $($(#[$doc])* $name,)*
        }

        const COUNTERS: usize = [$(Counter::$name),*].len();
    };
}

counters! {
    /// Commands that were run.
    Commands,
    /// Connections that were accepted.
    Connections,
    /// Connections that were refused, `maxclients` being reached.
    RejectedConnections,
    /// Bytes read from clients.
    InputBytes,
    /// Bytes written to clients.
    OutputBytes,
    /// Reads of sockets.
    Reads,
    /// Writes to sockets.
    Writes,
    /// Lookups that found their key.
    KeyspaceHits,
    /// Lookups that did not.
    KeyspaceMisses,
    /// Keys removed since their time had come.
    ExpiredKeys,
    /// Hash fields removed since their time had come.
    ExpiredFields,
    /// Keys removed to free memory.
    EvictedKeys,
    /// Clients disconnected to free memory (`maxmemory-clients`).
    EvictedClients,
    /// Clients disconnected by `client-output-buffer-limit`.
    OutputLimitDisconnections,
    /// Clients disconnected by `client-query-buffer-limit`.
    QueryLimitDisconnections,
    /// Error replies.
    ErrorReplies,
    /// Milliseconds of eviction during which `maxmemory` was exceeded.
    EvictionExceededMs,
    /// Large values that were freed in the background.
    LazyFreed,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It replied.
    Done,
    /// It ran and replied with an error.
    Failed,
}

/// The place of a command or subcommand in the statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot(u32);

impl Slot {
    /// The slot of the command with this number in the registry.
    #[inline]
    pub fn of(id: usize) -> Slot {
        Slot(id as u32)
    }
}

#[derive(Default)]
struct CommandCell {
    calls: AtomicU64,
    nanos: AtomicU64,
    failed: AtomicU64,
    rejected: AtomicU64,
    /// Made at the first timed call, as most commands are never used.
    histogram: OnceLock<Box<Histogram>>,
}

/// The counters of one worker thread; only that thread may write them.
#[repr(align(128))]
pub struct WorkerStats {
    counters: [AtomicU64; COUNTERS],
    commands: Box<[CommandCell]>,
    errors: Mutex<BTreeMap<Box<str>, u64>>,
}

/// Adds to a counter that only this thread writes.
#[inline]
pub(crate) fn bump(counter: &AtomicU64, by: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
}

impl WorkerStats {
    fn new(slots: usize) -> Self {
        Self {
            counters: std::array::from_fn(|_| AtomicU64::new(0)),
            commands: (0..slots).map(|_| CommandCell::default()).collect(),
            errors: Mutex::new(BTreeMap::new()),
        }
    }

    /// Counts.
    #[inline]
    pub fn add(&self, counter: Counter, by: u64) {
        bump(&self.counters[counter as usize], by);
    }

    /// Counts a command that was run, with its time and, if `track`, in its histogram.
    #[inline]
    pub fn command(&self, slot: Slot, nanos: u64, outcome: Outcome, track: bool) {
        self.commands(slot, 1, nanos, track);
        if outcome == Outcome::Failed
            && let Some(cell) = self.commands.get(slot.0 as usize)
        {
            bump(&cell.failed, 1);
        }
    }

    /// Counts several runs of a command that were timed together: `nanos` is their sum.
    #[inline]
    pub fn commands(&self, slot: Slot, calls: u64, nanos: u64, track: bool) {
        self.add(Counter::Commands, calls);
        let Some(cell) = self.commands.get(slot.0 as usize) else { return };
        bump(&cell.calls, calls);
        bump(&cell.nanos, nanos);
        if track {
            let average = nanos.checked_div(calls).unwrap_or(0);
            cell.histogram.get_or_init(Default::default).record(average, calls);
        }
    }

    /// Counts a command that failed, where the run itself was counted with others.
    pub fn failed(&self, slot: Slot) {
        if let Some(cell) = self.commands.get(slot.0 as usize) {
            bump(&cell.failed, 1);
        }
    }

    /// Counts a command that was refused before it ran (arity, authentication, memory).
    pub fn rejected(&self, slot: Slot) {
        if let Some(cell) = self.commands.get(slot.0 as usize) {
            bump(&cell.rejected, 1);
        }
    }

    /// Counts an error reply by its kind, the first word of `message` (without the `-`).
    pub fn error(&self, message: &str) {
        self.add(Counter::ErrorReplies, 1);
        let kind = message.split([' ', '\r']).next().unwrap_or_default();
        if kind.is_empty() || kind.len() > ERROR_PREFIX_BYTES_MAX {
            return;
        }
        let mut errors = self.errors.lock();
        if let Some(count) = errors.get_mut(kind) {
            *count += 1;
        } else if errors.len() < ERROR_KINDS_MAX {
            errors.insert(kind.into(), 1);
        }
    }
}

/// The sums of one command over all workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CommandTotals {
    /// Runs.
    pub calls: u64,
    /// Time of all runs.
    pub nanos: u64,
    /// Runs that replied with an error.
    pub failed: u64,
    /// Refusals before a run.
    pub rejected: u64,
}

/// Rates over the last samples, as INFO shows them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rates {
    /// Commands a second.
    pub commands: u64,
    /// KiB a second read.
    pub input_kib: f64,
    /// KiB a second written.
    pub output_kib: f64,
}

/// Samples that a rate is the mean of.
const RATE_SAMPLES: usize = 16;

#[derive(Default)]
struct Sampler {
    last: Option<(i64, [u64; 3])>,
    rates: [[f64; RATE_SAMPLES]; 3],
    next: usize,
}

#[derive(Default)]
struct Baseline {
    counters: [u64; COUNTERS],
    commands: Vec<CommandTotals>,
    histograms: BTreeMap<usize, HistogramTotals>,
}

/// The statistics of the whole server.
pub struct Stats {
    workers: Box<[WorkerStats]>,
    /// Full names of the slots: `get`, `config|set`.
    names: Vec<String>,
    /// The slot of each command of the table; its subcommands follow it.
    first: Vec<u32>,
    baseline: Mutex<Baseline>,
    sampler: Mutex<Sampler>,
}

impl Stats {
    /// Statistics of so many workers for the commands of a table.
    pub fn new(workers: usize, table: &CommandTable) -> Self {
        let mut names = Vec::new();
        let mut first = Vec::new();
        for command in table.all() {
            first.push(names.len() as u32);
            let name = command.name.to_ascii_lowercase();
            let subcommands = command.subcommands.iter();
            let full = subcommands.map(|sub| format!("{name}|{}", sub.name.to_ascii_lowercase()));
            let full: Vec<String> = full.collect();
            names.push(name);
            names.extend(full);
        }
        Self {
            workers: (0..workers).map(|_| WorkerStats::new(names.len())).collect(),
            names,
            first,
            baseline: Mutex::new(Baseline::default()),
            sampler: Mutex::new(Sampler::default()),
        }
    }

    /// The counters of worker `number`; a number beyond the last gives the last.
    pub fn worker(&self, number: usize) -> &WorkerStats {
        &self.workers[number.min(self.workers.len() - 1)]
    }

    /// The slot of the command with number `id` in the table.
    pub fn slot(&self, id: usize) -> Slot {
        Slot(self.first.get(id).copied().unwrap_or(u32::MAX))
    }

    /// The slot of a subcommand of the command with number `id`.
    pub fn subcommand_slot(&self, id: usize, command: &Command, subcommand: &Command) -> Slot {
        let at = command.subcommands.iter().position(|sub| std::ptr::eq(sub, subcommand));
        let Slot(first) = self.slot(id);
        Slot(at.map_or(first, |at| first.saturating_add(1 + at as u32)))
    }

    /// The sum of a counter since the last reset.
    pub fn total(&self, counter: Counter) -> u64 {
        let base = self.baseline.lock().counters[counter as usize];
        self.raw(counter).saturating_sub(base)
    }

    fn raw(&self, counter: Counter) -> u64 {
        let counts =
            self.workers.iter().map(|w| w.counters[counter as usize].load(Ordering::Relaxed));
        counts.fold(0, u64::wrapping_add)
    }

    /// The commands that were called or refused since the last reset, by full name.
    pub fn command_totals(&self) -> Vec<(&str, CommandTotals)> {
        let baseline = self.baseline.lock();
        let totals = self.names.iter().enumerate().map(|(slot, name)| {
            let raw = self.raw_command(slot);
            let base = baseline.commands.get(slot).copied().unwrap_or_default();
            let since = CommandTotals {
                calls: raw.calls.saturating_sub(base.calls),
                nanos: raw.nanos.saturating_sub(base.nanos),
                failed: raw.failed.saturating_sub(base.failed),
                rejected: raw.rejected.saturating_sub(base.rejected),
            };
            (name.as_str(), since)
        });
        totals.filter(|(_, totals)| totals.calls + totals.failed + totals.rejected > 0).collect()
    }

    fn raw_command(&self, slot: usize) -> CommandTotals {
        let mut sum = CommandTotals::default();
        for cell in self.workers.iter().filter_map(|worker| worker.commands.get(slot)) {
            sum.calls += cell.calls.load(Ordering::Relaxed);
            sum.nanos += cell.nanos.load(Ordering::Relaxed);
            sum.failed += cell.failed.load(Ordering::Relaxed);
            sum.rejected += cell.rejected.load(Ordering::Relaxed);
        }
        sum
    }

    /// The histograms of the commands that were timed since the last reset, by full name.
    pub fn histograms(&self) -> Vec<(&str, HistogramTotals)> {
        let baseline = self.baseline.lock();
        let mut found = Vec::new();
        for (slot, name) in self.names.iter().enumerate() {
            let Some(mut totals) = self.raw_histogram(slot) else { continue };
            if let Some(base) = baseline.histograms.get(&slot) {
                totals.subtract(base);
            }
            if totals.count() > 0 {
                found.push((name.as_str(), totals));
            }
        }
        found
    }

    fn raw_histogram(&self, slot: usize) -> Option<HistogramTotals> {
        let cells = self.workers.iter().filter_map(|worker| worker.commands.get(slot));
        let mut sum: Option<HistogramTotals> = None;
        for histogram in cells.filter_map(|cell| cell.histogram.get()) {
            sum.get_or_insert_default().add(histogram);
        }
        sum
    }

    /// Error replies by kind since the last reset, at most [`ERROR_KINDS_MAX`] kinds.
    pub fn error_totals(&self) -> BTreeMap<Box<str>, u64> {
        let mut sum = BTreeMap::new();
        for worker in &self.workers {
            for (kind, count) in worker.errors.lock().iter() {
                if sum.len() < ERROR_KINDS_MAX || sum.contains_key(kind) {
                    *sum.entry(kind.clone()).or_insert(0) += count;
                }
            }
        }
        sum
    }

    /// CONFIG RESETSTAT: everything counts from zero.
    pub fn reset(&self) {
        let mut baseline = self.baseline.lock();
        for worker in &self.workers {
            worker.errors.lock().clear();
        }
        for (at, base) in baseline.counters.iter_mut().enumerate() {
            let counts = self.workers.iter().map(|w| w.counters[at].load(Ordering::Relaxed));
            *base = counts.fold(0, u64::wrapping_add);
        }
        let slots = 0..self.names.len();
        baseline.commands = slots.clone().map(|slot| self.raw_command(slot)).collect();
        baseline.histograms =
            slots.filter_map(|slot| Some((slot, self.raw_histogram(slot)?))).collect();
    }

    /// Takes a sample for the rates; to be called about ten times a second.
    pub fn sample(&self, now_ms: i64) {
        let counts = [Counter::Commands, Counter::InputBytes, Counter::OutputBytes];
        let counts = counts.map(|counter| self.raw(counter));
        let mut sampler = self.sampler.lock();
        if let Some((then, before)) = sampler.last {
            let ms = now_ms.saturating_sub(then).max(1) as f64;
            let next = sampler.next;
            for (rates, (count, before)) in sampler.rates.iter_mut().zip(counts.iter().zip(before))
            {
                rates[next] = count.wrapping_sub(before) as f64 * 1000.0 / ms;
            }
            sampler.next = (next + 1) % RATE_SAMPLES;
        }
        sampler.last = Some((now_ms, counts));
    }

    /// The rates over the last samples.
    pub fn rates(&self) -> Rates {
        let sampler = self.sampler.lock();
        let mean = |rates: [f64; RATE_SAMPLES]| rates.iter().sum::<f64>() / RATE_SAMPLES as f64;
        let [commands, input, output] = sampler.rates.map(mean);
        Rates { commands: commands as u64, input_kib: input / 1024.0, output_kib: output / 1024.0 }
    }
}

#[cfg(test)]
mod tests {
    use ashlar_engine::command::{Command, Group};

    use super::*;

    const SUBCOMMANDS: &[Command] = &[Command::hosted("GET", -2, Group::Server)];
    const TABLE: &[Command] = &[
        Command::hosted("PING", -1, Group::Connection),
        Command::container("CONFIG", Group::Server, SUBCOMMANDS),
        Command::hosted("GET", 2, Group::String),
    ];

    fn stats() -> Stats {
        Stats::new(2, &CommandTable::new(&[TABLE]))
    }

    #[test]
    fn workers_are_added_up_and_reset_counts_from_zero() {
        let stats = stats();
        let get = stats.slot(2);
        stats.worker(0).command(get, 2_000, Outcome::Done, true);
        stats.worker(1).command(get, 4_000, Outcome::Failed, true);
        stats.worker(1).rejected(get);
        stats.worker(1).commands(stats.slot(0), 10, 5_000, false);
        let totals = CommandTotals { calls: 2, nanos: 6_000, failed: 1, rejected: 1 };
        assert_eq!(stats.command_totals()[1], ("get", totals));
        assert_eq!(stats.total(Counter::Commands), 12);
        assert_eq!(stats.histograms().len(), 1);
        stats.reset();
        assert_eq!(stats.total(Counter::Commands), 0);
        assert!(stats.command_totals().is_empty() && stats.histograms().is_empty());
        stats.worker(0).command(get, 1_000, Outcome::Done, true);
        assert_eq!(stats.command_totals()[0].1.calls, 1);
        assert_eq!(stats.histograms()[0].1.count(), 1);
    }

    #[test]
    fn subcommands_have_slots_of_their_own() {
        let stats = stats();
        let table = CommandTable::new(&[TABLE]);
        let (id, config) = table.find(b"config").unwrap();
        let slot = stats.subcommand_slot(id, config, config.subcommand(b"get").unwrap());
        stats.worker(0).command(slot, 1, Outcome::Done, false);
        stats.worker(9).command(stats.slot(2), 1, Outcome::Done, false);
        stats.worker(0).command(stats.slot(99), 1, Outcome::Done, false);
        let names: Vec<_> = stats.command_totals().iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["config|get", "get"]);
    }

    #[test]
    fn kinds_of_errors_are_bounded() {
        let stats = stats();
        stats.worker(0).error("WRONGTYPE Operation against a key");
        stats.worker(1).error("WRONGTYPE Operation against a key");
        for kind in 0..1000 {
            stats.worker(0).error(&format!("KIND{kind} text"));
        }
        stats.worker(0).error(&"X".repeat(100));
        let totals = stats.error_totals();
        assert_eq!((totals.len(), totals["WRONGTYPE"]), (ERROR_KINDS_MAX, 2));
        assert_eq!(stats.total(Counter::ErrorReplies), 1003);
    }

    #[test]
    fn rates_are_means_of_samples() {
        let stats = stats();
        for tenth in 0..40 {
            stats.sample(tenth * 100);
            stats.worker(0).add(Counter::Commands, 50);
            stats.worker(0).add(Counter::InputBytes, 1024);
        }
        let rates = stats.rates();
        assert_eq!(rates.commands, 500);
        assert!((rates.input_kib - 10.0).abs() < 1e-9);
    }
}
