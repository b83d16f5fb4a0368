//! Slots that move from one group to another while their keys are written.
//!
//! Each client counts keys up, its own ones, so at the end every count is known: a smaller one is a lost
//! write, a greater one a doubled one. Clients do what cluster clients do with MOVED and TRYAGAIN; the time
//! that takes is part of a write's latency.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use ashlar_engine::slot::slot_of;
use hdrhistogram::Histogram;

use super::routed::{Outcome, Routed, number};
use super::{Cluster, push, until};
use crate::client::Client;
use crate::options::Settings;
use crate::results::TierFigure;

const CLIENTS: usize = 8;
const KEYS: usize = 100_000;
/// The slots that move: the first group's.
const LAST_SLOT: u16 = 8191;
/// Seconds before the move.
const QUIET_SECONDS: u64 = 5;

const QUIET: u8 = 0;
const MOVING: u8 = 1;

/// What a client has seen.
struct Seen {
    latencies: [Histogram<u64>; 2],
    wrong: u64,
    writes: u64,
}

/// Measures it.
pub fn measure(settings: &Settings) -> Result<Vec<TierFigure>, String> {
    let cluster = Cluster::start(&settings.ashlar, 2, &[])?;
    cluster.settle()?;
    let wanted = (KEYS as f64 * settings.memory_scale) as usize;
    let keys = (0..).map(|nth| format!("key:{nth}"));
    let keys: Vec<String> =
        keys.filter(|key| slot_of(key.as_bytes()) <= LAST_SLOT).take(wanted).collect();
    let (stop, phase) = (AtomicBool::new(false), AtomicU8::new(QUIET));
    let clients: Vec<Routed> = (0..CLIENTS).map(|_| Routed::new(&cluster)).collect();
    let (moved, seen) = scope(|scope| {
        let writers: Vec<_> = clients
            .into_iter()
            .enumerate()
            .map(|(nth, client)| {
                let own = keys.iter().skip(nth).step_by(CLIENTS).map(String::as_str).collect();
                let (stop, phase) = (&stop, &phase);
                scope.spawn(move || write(client, own, stop, phase))
            })
            .collect();
        let moved = run(&cluster, &phase, keys.len());
        stop.store(true, Ordering::Relaxed);
        let seen: Result<Vec<Seen>, String> = writers
            .into_iter()
            .map(|writer| writer.join().map_err(|_| "a writer panicked".to_owned())?)
            .collect();
        (moved, seen)
    });
    let seen = seen?;
    let seconds = moved?;
    let mut all = [histogram()?, histogram()?];
    for one in &seen {
        for (all, latencies) in all.iter_mut().zip(&one.latencies) {
            all.add(latencies).map_err(|error| error.to_string())?;
        }
    }
    let ms =
        |phase: u8, quantile: f64| all[usize::from(phase)].value_at_quantile(quantile) as f64 / 1e6;
    let mut figures = Vec::new();
    let what = format!("{} keys move, {CLIENTS} clients write them", keys.len());
    let mut say = |figure: &str, value: f64| push(&mut figures, &what, figure, value);
    say("seconds", seconds);
    say("p50 before, ms", ms(QUIET, 0.5));
    say("p50 during, ms", ms(MOVING, 0.5));
    say("p99 before, ms", ms(QUIET, 0.99));
    say("p99 during, ms", ms(MOVING, 0.99));
    say("p99 during / before", ms(MOVING, 0.99) / ms(QUIET, 0.99));
    say("longest during, ms", all[usize::from(MOVING)].max() as f64 / 1e6);
    say("writes", seen.iter().map(|one| one.writes as f64).sum());
    say("writes lost or doubled", seen.iter().map(|one| one.wrong as f64).sum());
    Ok(figures)
}

fn histogram() -> Result<Histogram<u64>, String> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).map_err(|error| error.to_string())
}

/// Lets the slots move; how many seconds that took.
fn run(cluster: &Cluster, phase: &AtomicU8, keys: usize) -> Result<f64, String> {
    // Every key has been written once before that.
    let written = Instant::now();
    until("all keys are there", || {
        let count = |node| {
            let reply = Client::connect(node)?.call(&["DBSIZE"])?;
            Ok::<u64, String>(number(&reply).unwrap_or(0))
        };
        let counts: Result<Vec<u64>, String> = cluster.nodes.iter().map(count).collect();
        Ok(counts?.iter().any(|count| *count >= keys as u64))
    })?;
    eprintln!("{keys} keys after {:.1} s", written.elapsed().as_secs_f64());
    sleep(Duration::from_secs(QUIET_SECONDS));
    let mut client = Client::connect(&cluster.nodes[0])?;
    phase.store(MOVING, Ordering::Relaxed);
    let start = Instant::now();
    client.call(&["CLUSTER", "ASHLAR", "MOVE", "0", &LAST_SLOT.to_string(), "2"])?;
    until("the slots have moved", || {
        // The node may not know of the move yet, so it is asked who has the slots.
        let status = client.call(&["CLUSTER", "ASHLAR", "STATUS"])?;
        let status = String::from_utf8_lossy(&status).into_owned();
        let left = status.lines().find(|line| line.starts_with("group=1 "));
        Ok(left.is_some_and(|group| group.contains(" slots=0 ")))
    })?;
    Ok(start.elapsed().as_secs_f64())
}

fn write(
    mut client: Routed,
    keys: Vec<&str>,
    stop: &AtomicBool,
    phase: &AtomicU8,
) -> Result<Seen, String> {
    let mut seen = Seen { latencies: [histogram()?, histogram()?], wrong: 0, writes: 0 };
    let mut counts = vec![0_u64; keys.len()];
    let mut at = 0;
    while !stop.load(Ordering::Relaxed) {
        let start = Instant::now();
        let Outcome::Reply(reply, _) = client.call(keys[at], &["INCR", keys[at]])? else {
            return Err("a connection broke".to_owned());
        };
        let phase = usize::from(phase.load(Ordering::Relaxed));
        // The first round fills the cluster.
        if counts[at] > 0 {
            seen.latencies[phase].saturating_record(start.elapsed().as_nanos() as u64);
        }
        counts[at] += 1;
        seen.writes += 1;
        let now = number(&reply).ok_or("INCR gives no number")?;
        seen.wrong += now.abs_diff(counts[at]);
        counts[at] = now;
        // In no order that a slot's keys have.
        at = (at + 7919) % keys.len();
    }
    for (key, count) in keys.iter().zip(counts) {
        let Outcome::Reply(reply, _) = client.call(key, &["GET", key])? else {
            return Err("a connection broke".to_owned());
        };
        seen.wrong += number(&reply).unwrap_or(0).abs_diff(count);
    }
    Ok(seen)
}
