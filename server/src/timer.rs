//! Times commands: for INFO commandstats, the latency histograms and SLOWLOG.
//!
//! One look at the processor's counter a command: the end of one is the start of the next. Runs of
//! the same command, which pipelines are made of, are entered into the statistics together.

use crate::config::ids;
use crate::host::Host;
use crate::stats::Slot;
use quanta::Clock;
use std::sync::OnceLock;

fn clock() -> &'static Clock {
    static CLOCK: OnceLock<Clock> = OnceLock::new();
    CLOCK.get_or_init(Clock::new)
}

/// Times the commands of a group.
pub struct Timer {
    clock: &'static Clock,
    last: u64,
    /// Command, number of runs and nanoseconds that are not entered yet.
    run: (usize, u64, u64),
    slow_nanos: u64,
}

impl Timer {
    /// Starts with the first command.
    #[inline]
    pub fn start(host: &Host<'_, '_>) -> Timer {
        let clock = clock();
        let slow = host.shared.settings.number(ids::SLOWLOG_LOG_SLOWER_THAN);
        let slow_nanos = u64::try_from(slow).map_or(u64::MAX, |slow| slow.saturating_mul(1000));
        Timer { clock, last: clock.raw(), run: (usize::MAX, 0, 0), slow_nanos }
    }

    /// A command has run; `reply` is what it answered, `id` its number in the registry, or one
    /// that there is not where the command is unknown.
    #[inline]
    pub fn lap(&mut self, host: &Host<'_, '_>, id: usize, args: &[&[u8]], reply: &[u8]) {
        let now = self.clock.raw();
        let nanos = self.clock.delta_as_nanos(self.last, now);
        self.last = now;
        if self.run.0 != id {
            self.enter(host);
            self.run = (id, 0, 0);
        }
        self.run.1 += 1;
        self.run.2 += nanos;
        if nanos >= self.slow_nanos {
            slow(host, id, args, nanos);
        }
        if reply.first() == Some(&b'-') {
            failed(host, id, reply);
        }
    }

    /// Enters what is left.
    #[inline]
    pub fn finish(&mut self, host: &Host<'_, '_>) {
        self.enter(host);
        self.run = (usize::MAX, 0, 0);
    }

    #[inline]
    fn enter(&self, host: &Host<'_, '_>) {
        let (id, calls, nanos) = self.run;
        if calls != 0 && id != usize::MAX {
            let stats = host.shared.stats.worker(host.worker);
            let track = host.shared.settings.flag(ids::LATENCY_TRACKING);
            stats.commands(Slot::of(id), calls, nanos, track);
            host.session.client.last_command.store(id, std::sync::atomic::Ordering::Relaxed);
        }
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
    if id != usize::MAX {
        stats.failed(Slot::of(id));
    }
}
