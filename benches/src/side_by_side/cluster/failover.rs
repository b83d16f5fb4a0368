//! How long writes stand still when the leader is killed, and whether anything that was acknowledged is lost.
//!
//! Writers count keys up, each its own, all the time; the leader is killed with SIGKILL, started again once
//! writes go on, and the next one is killed once the cluster is whole again. A count below what was
//! acknowledged is a lost write, one above what was sent a doubled one.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use super::routed::{Outcome, Routed, number};
use super::{Cluster, push, until};
use crate::options::Settings;
use crate::results::TierFigure;

const WRITERS: usize = 4;
/// Milliseconds without a leader after which another is elected, by default.
const ELECTION_MS: f64 = 1000.0;

#[derive(Default)]
struct Watch {
    stop: AtomicBool,
    /// When the leader was dead, and when the first write that was sent afterwards was answered.
    dead: Mutex<Option<(Instant, Option<Instant>)>>,
}

impl Watch {
    fn answered(&self, sent: Instant) {
        let mut dead = self.dead.lock().unwrap_or_else(|error| error.into_inner());
        if let Some((since, first @ None)) = &mut *dead
            && sent > *since
        {
            *first = Some(Instant::now());
        }
    }

    fn gap(&self) -> Option<Duration> {
        let dead = self.dead.lock().unwrap_or_else(|error| error.into_inner());
        dead.and_then(|(since, first)| Some(first?.duration_since(since)))
    }

    fn set(&self, dead: Option<Instant>) {
        let mut place = self.dead.lock().unwrap_or_else(|error| error.into_inner());
        *place = dead.map(|since| (since, None));
    }
}

/// What a writer knows at the end.
#[derive(Default)]
struct Written {
    acknowledged: u64,
    unknown: u64,
    wrong: u64,
}

/// Measures it, with the timing that clusters have by default.
pub fn measure(settings: &Settings) -> Result<Vec<TierFigure>, String> {
    let mut cluster = Cluster::start(&settings.ashlar, 1, &[])?;
    cluster.settle()?;
    let watch = Watch::default();
    let clients: Vec<Routed> = (0..WRITERS).map(|_| Routed::new(&cluster)).collect();
    let (gaps, written) = scope(|scope| {
        let writers: Vec<_> = clients
            .into_iter()
            .enumerate()
            .map(|(nth, client)| {
                let watch = &watch;
                scope.spawn(move || write(client, nth, watch))
            })
            .collect();
        let gaps = kill(&mut cluster, settings.kills, &watch);
        watch.stop.store(true, Ordering::Relaxed);
        let written: Result<Vec<Written>, String> = writers
            .into_iter()
            .map(|writer| writer.join().map_err(|_| "a writer panicked".to_owned())?)
            .collect();
        (gaps, written)
    });
    // What a writer says comes first: without writers nothing goes on.
    let written = written?;
    let mut gaps = gaps?;
    gaps.sort_by(f64::total_cmp);
    let at = |share: f64| gaps[((gaps.len() - 1) as f64 * share).round() as usize];
    let mut figures = Vec::new();
    let what = format!("{} kills of the leader", gaps.len());
    let mut say = |figure: &str, value: f64| push(&mut figures, &what, figure, value);
    say("ms until writes go on, median", at(0.5));
    say("ms until writes go on, 90 of 100", at(0.9));
    say("ms until writes go on, longest", at(1.0));
    let within = gaps.iter().filter(|gap| **gap <= 2.0 * ELECTION_MS).count();
    say("percent within two election time-outs", within as f64 * 100.0 / gaps.len() as f64);
    say("writes acknowledged", written.iter().map(|one| one.acknowledged as f64).sum());
    say("writes whose end is unknown", written.iter().map(|one| one.unknown as f64).sum());
    say("writes lost or doubled", written.iter().map(|one| one.wrong as f64).sum());
    Ok(figures)
}

fn kill(cluster: &mut Cluster, kills: usize, watch: &Watch) -> Result<Vec<f64>, String> {
    let mut gaps = Vec::new();
    for nth in 0..kills {
        // At different moments between two heartbeats.
        sleep(Duration::from_millis(200 + (nth as u64 * 37) % 200));
        let leader = cluster.leader_at()?;
        cluster.nodes[leader].kill()?;
        watch.set(Some(Instant::now()));
        let mut gap = None;
        until("writes go on", || {
            gap = watch.gap();
            Ok(gap.is_some())
        })?;
        gaps.extend(gap.map(|gap| gap.as_secs_f64() * 1e3));
        watch.set(None);
        cluster.nodes[leader].start_again()?;
        cluster.settle()?;
        eprintln!("kill {nth}: {:.0} ms", gaps.last().copied().unwrap_or(0.0));
    }
    Ok(gaps)
}

fn write(mut client: Routed, nth: usize, watch: &Watch) -> Result<Written, String> {
    let key = format!("count:{nth}");
    let mut written = Written::default();
    // What the key holds at least and at most.
    let (mut least, mut most) = (0_u64, 0_u64);
    while !watch.stop.load(Ordering::Relaxed) {
        most += 1;
        match client.call(&key, &["INCR", &key])? {
            Outcome::Unknown => written.unknown += 1,
            Outcome::Reply(reply, sent) => {
                watch.answered(sent);
                let now = number(&reply).ok_or("INCR gives no number")?;
                written.acknowledged += 1;
                written.wrong += (least + 1).saturating_sub(now) + now.saturating_sub(most);
                (least, most) = (now, now);
            }
        }
    }
    Ok(written)
}
