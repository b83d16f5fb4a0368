//! Times commands: for INFO commandstats, the latency histograms and SLOWLOG.
//!
//! One look at the processor's counter a command: the end of one is the start of the next. Runs of
//! the same command, which pipelines are made of, are entered into the statistics together.

use crate::config::ids;
use crate::host::Host;
use crate::registry::Resolved;
use crate::stats::Slot;
use quanta::Clock;
use std::sync::OnceLock;
use std::sync::atomic::Ordering;

/// The clock, and how many of its ticks make a second.
fn clock() -> &'static (Clock, u64) {
    static CLOCK: OnceLock<(Clock, u64)> = OnceLock::new();
    CLOCK.get_or_init(|| {
        const TICKS: u64 = 1 << 32;
        let clock = Clock::new();
        let nanos = clock.delta_as_nanos(0, TICKS).max(1);
        let a_second = u128::from(TICKS) * 1_000_000_000 / u128::from(nanos);
        (clock, u64::try_from(a_second).unwrap_or(u64::MAX))
    })
}

/// Times the commands of a group. In ticks of the clock, which become nanoseconds when a run of
/// commands is entered.
pub struct Timer {
    clock: &'static Clock,
    first: u64,
    last: u64,
    /// The command of the run that is not entered yet, and how often it ran.
    id: usize,
    calls: u64,
    slow_ticks: u64,
}

/// The number of commands that are unknown: there is no such place in the statistics.
const UNKNOWN: usize = usize::MAX;

impl Timer {
    /// Starts with the first command.
    #[inline]
    pub fn start(host: &Host<'_, '_>) -> Timer {
        let (clock, ticks_a_second) = clock();
        let slow_us = host.shared.settings.number(ids::SLOWLOG_LOG_SLOWER_THAN);
        let slow_ticks = u64::try_from(slow_us).map_or(u64::MAX, |slow_us| {
            let ticks = u128::from(slow_us) * u128::from(*ticks_a_second) / 1_000_000;
            u64::try_from(ticks).unwrap_or(u64::MAX)
        });
        let now = clock.raw();
        Timer { clock, first: now, last: now, id: UNKNOWN, calls: 0, slow_ticks }
    }

    /// What was done since the last command is not the next one's.
    #[inline]
    pub fn skip(&mut self) {
        self.last = self.clock.raw();
        self.first = self.last;
    }

    /// A command has run; `reply` is what it answered, `found` what it is, where it is known.
    #[inline]
    pub fn lap(
        &mut self,
        host: &Host<'_, '_>,
        found: Option<&Resolved>,
        args: &[&[u8]],
        reply: &[u8],
    ) {
        let id = found.map_or(UNKNOWN, |found| found.id);
        if self.id != id {
            self.enter(host);
            self.id = id;
        }
        let now = self.clock.raw();
        self.calls += 1;
        if now.saturating_sub(self.last) >= self.slow_ticks {
            slow(host, id, args, self.clock.delta_as_nanos(self.last, now));
        }
        self.last = now;
        if reply.first() == Some(&b'-') {
            failed(host, id, reply);
        }
    }

    /// Enters what is left.
    #[inline]
    pub fn finish(&mut self, host: &Host<'_, '_>) {
        self.enter(host);
        self.id = UNKNOWN;
    }

    /// Enters the run of one command into the statistics; another begins.
    fn enter(&mut self, host: &Host<'_, '_>) {
        if self.calls != 0 && self.id != UNKNOWN {
            let nanos = self.clock.delta_as_nanos(self.first, self.last);
            let stats = host.shared.stats.worker(host.worker);
            let track = host.shared.settings.flag(ids::LATENCY_TRACKING);
            stats.commands(Slot::of(self.id), self.calls, nanos, track);
            host.session.client.last_command.store(self.id, Ordering::Relaxed);
        }
        self.first = self.last;
        self.calls = 0;
    }
}

#[cold]
fn slow(host: &Host<'_, '_>, id: usize, args: &[&[u8]], nanos: u64) {
    use ashlar_engine::command::{Command, Flags};
    let registry = &host.shared.registry;
    let hidden = |command: &Command| command.flags.contains(Flags::SKIP_MONITOR);
    if registry.command(id).is_none_or(hidden) {
        return;
    }
    let client = &host.session.client;
    let name = client.names.lock().name.clone();
    let len_max = host.shared.settings.count(ids::SLOWLOG_MAX_LEN);
    let seconds = host.stamp.now_ms / 1000;
    host.shared.slow_log.add(args, nanos / 1000, seconds, (&client.peer, &name), len_max);
}

#[cold]
fn failed(host: &Host<'_, '_>, id: usize, reply: &[u8]) {
    let line = reply.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let stats = host.shared.stats.worker(host.worker);
    stats.error(&String::from_utf8_lossy(&line[1..]));
    if id != UNKNOWN {
        stats.failed(Slot::of(id));
    }
}
