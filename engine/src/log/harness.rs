//! The crash harness: the machine ends at every operation of its disk, in several workloads, with all
//! kinds of loss; then it starts again, goes on, ends again. After each start the log must hold an exact
//! prefix of what was appended, with everything in it that was acknowledged.
//!
//! The known bugs of [`bugs`], and an acknowledgement before the sync, must be found by it.

use super::tests::open_with;
use super::*;
use crate::disk::SimDisk;
use crate::disk::sim::Loss;
use crate::journal::Record;
use crate::stamp::{Rng, Stamp};
use std::cell::Cell;

/// Starts and ends of the machine in one run.
const LIVES: u64 = 3;
const LOSSES: [Loss; 3] = [Loss::Nothing, Loss::Everything, Loss::Some];

/// What a workload does between two appends.
#[derive(Clone, Copy, Debug)]
enum Workload {
    /// A sync after each batch of appends, as `appendfsync always` has it.
    Always,
    /// A write after each batch, a sync now and then, as `everysec` has it.
    Everysec,
    /// As `Always`, and old records are let go of, as after snapshots.
    Snapshots,
    /// As `Everysec`, and a sync fails at some time.
    FailingSync,
}

const WORKLOADS: [Workload; 4] =
    [Workload::Always, Workload::Everysec, Workload::Snapshots, Workload::FailingSync];

/// What the outside knows.
#[derive(Default)]
struct Outside {
    /// The value of each record that was appended, from index 1 on.
    appended: Vec<Vec<u8>>,
    /// Acknowledged as written, and as durable.
    written: u64,
    durable: u64,
    /// Records up to here are in a durable snapshot.
    floor: u64,
}

thread_local! {
    /// What was only appended counts as durable: a bug of the host, not of the log.
    static ACKNOWLEDGED_EARLY: Cell<bool> = const { Cell::new(false) };
}

/// One life: opens the log, checks it, and works until the machine ends or `steps` are done.
fn live(
    disk: &SimDisk,
    workload: Workload,
    seed: u64,
    steps: u64,
    outside: &mut Outside,
) -> Result<(), String> {
    let log = match open_with(disk, seed, outside.floor) {
        Ok((log, _)) => log,
        Err(_) if disk.is_stopped() => return Ok(()),
        Err(error) => return Err(format!("the log does not open: {error}")),
    };
    check(&log, outside).or_else(|error| if disk.is_stopped() { Ok(()) } else { Err(error) })?;
    let mut random = Rng::new(seed);
    for step in 0..steps {
        for _ in 0..=random.below(3) {
            // Mostly of one size, so that what is left of old records lies where new ones end.
            let size = if random.below(8) == 0 { random.below(2000) } else { 200 };
            let mut value = random.next_u64().to_le_bytes().to_vec();
            value.resize(value.len() + size, seed as u8);
            let stamp = Stamp::new(step as i64, seed);
            log.append(&[Record { stamp: &stamp, db: 0, args: &[&value] }]);
            outside.appended.push(value);
        }
        let sync = match workload {
            Workload::Always | Workload::Snapshots => true,
            Workload::Everysec => step % 7 == 6,
            Workload::FailingSync => {
                if random.below(20) == 0 {
                    disk.fail_syncs(1);
                }
                step % 3 == 2
            }
        };
        if sync {
            let result = log.sync();
            if result.is_ok() || ACKNOWLEDGED_EARLY.get() {
                outside.durable = log.appended();
            }
        }
        if log.write().is_ok() {
            outside.written = log.written();
        }
        if random.below(2) == 0 {
            // Its failures show in what follows.
            log.tend().ok();
        }
        if matches!(workload, Workload::Snapshots) && step % 5 == 4 {
            // As much as a snapshot would allow: it is durable, and names a durable index.
            outside.floor = outside.durable.saturating_sub(random.below(8) as u64);
            log.release_before(outside.floor + 1).ok();
        }
        if disk.is_stopped() {
            return Ok(());
        }
    }
    Ok(())
}

/// The log must hold an exact prefix of what was appended, and what was acknowledged.
fn check(log: &Log, outside: &mut Outside) -> Result<(), String> {
    let last = log.appended();
    if last < outside.durable {
        return Err(format!(
            "records up to {} were acknowledged, {last} are there",
            outside.durable
        ));
    }
    if last > outside.appended.len() as u64 {
        return Err(format!("{} were appended, {last} are there", outside.appended.len()));
    }
    let (mut reader, mut next) = (log.read_from(outside.floor + 1), outside.floor + 1);
    while let Some(mut batch) = reader.next().map_err(|error| error.to_string())? {
        let expected = &outside.appended[usize::try_from(next).unwrap() - 1];
        let found = batch.calls.next().ok_or("a record without a call")?;
        if batch.index != next || found.args[0] != &expected[..] {
            return Err(format!("record {next} is another one"));
        }
        next += 1;
    }
    if next != last + 1 {
        return Err(format!("the records end before {next}, the log with {last}"));
    }
    outside.appended.truncate(usize::try_from(last).unwrap());
    // What a start finds it has made durable.
    (outside.written, outside.durable) = (last, last);
    Ok(())
}

/// Runs a machine that ends at operation `stop` of its first life, and at random ones later.
fn run(workload: Workload, stop: u64, loss: Loss, seed: u64, deaf: bool) -> Result<(), String> {
    let mut random = Rng::new(seed ^ stop.rotate_left(32));
    let mut disk = SimDisk::new(seed);
    let mut outside = Outside::default();
    for life in 0..LIVES {
        if deaf {
            disk.ignore_syncs();
        }
        disk.stop_at(if life == 0 { stop } else { 1 + random.below(150) as u64 });
        live(&disk, workload, random.next_u64(), 30, &mut outside)?;
        disk.stop();
        if loss == Loss::Nothing {
            // A killed process: what was written counts as much as what was synced.
            outside.durable = outside.durable.max(outside.written);
        }
        disk = disk.reboot(loss, random.next_u64());
    }
    live(&disk, workload, seed, 0, &mut outside)
}

/// Runs machines that end at each operation; how many, or the first that fails.
fn sweep(seeds: std::ops::Range<u64>, step: usize, deaf: bool) -> Result<u64, String> {
    let mut runs = 0;
    for workload in WORKLOADS {
        for loss in LOSSES {
            for seed in seeds.clone() {
                let disk = SimDisk::new(seed);
                let whole = live(&disk, workload, seed, 30, &mut Outside::default());
                whole.map_err(|error| format!("without an end: {error}"))?;
                for stop in (1..=disk.operations()).step_by(step) {
                    run(workload, stop, loss, seed, deaf).map_err(|error| {
                        format!("run({workload:?}, {stop}, Loss::{loss:?}, {seed}): {error}")
                    })?;
                    runs += 1;
                }
            }
        }
    }
    Ok(runs)
}

#[test]
fn a_machine_that_ends_anywhere_loses_nothing_acknowledged() {
    // A larger number for a longer run by hand.
    let seeds = std::env::var("ASHLAR_CRASH_SEEDS").ok().and_then(|text| text.parse().ok());
    match sweep(0..seeds.unwrap_or(4), 1, false) {
        Ok(runs) => assert!(runs > 4_000, "only {runs} ends were tried"),
        Err(error) => panic!("{error}"),
    }
}

/// What a power cut left in a segment is not taken for records of its next use. For this the first
/// records of a segment have to be lost and later ones not, and then as many be written anew: too
/// rare for the sweep.
fn reuse() -> Result<(), String> {
    let append = |log: &Log, outside: &mut Outside, life: u8| {
        let (stamp, value) = (Stamp::new(0, 0), vec![life; 200]);
        log.append(&[Record { stamp: &stamp, db: 0, args: &[&value] }]);
        outside.appended.push(value);
    };
    for seed in 0..200 {
        let (disk, mut outside) = (SimDisk::new(seed), Outside::default());
        let (log, _) = open_with(&disk, 1, 0).map_err(|error| error.to_string())?;
        // 15 fill a segment; the others are torn.
        (0..15).for_each(|_| append(&log, &mut outside, 1));
        outside.durable = log.sync().map_err(|error| error.to_string())?;
        (0..8).for_each(|_| append(&log, &mut outside, 1));
        log.write().map_err(|error| error.to_string())?;
        let disk = disk.reboot(Loss::Some, seed);
        let (log, _) = open_with(&disk, 2, 0).map_err(|error| error.to_string())?;
        check(&log, &mut outside)?;
        (0..seed % 5).for_each(|_| append(&log, &mut outside, 2));
        outside.durable = log.sync().map_err(|error| error.to_string())?;
        let disk = disk.reboot(Loss::Everything, seed);
        let (log, _) = open_with(&disk, 3, 0).map_err(|error| error.to_string())?;
        check(&log, &mut outside).map_err(|error| format!("seed {seed}: {error}"))?;
    }
    Ok(())
}

#[test]
fn a_segment_that_is_used_again_shows_nothing_old() {
    reuse().unwrap();
}

/// Runs the harness with a bug, which it must find.
fn must_find(what: &str, bug: &'static std::thread::LocalKey<Cell<bool>>) {
    bug.set(true);
    let found = sweep(0..12, 1, false);
    bug.set(false);
    assert!(found.is_err(), "{what} was not found in {} runs", found.unwrap_or(0));
}

#[test]
fn known_bugs_are_found() {
    must_find("an early acknowledgement", &ACKNOWLEDGED_EARLY);
    must_find("ignored checksums", &bugs::IGNORE_CHECKSUMS);
    bugs::ONE_SALT.set(true);
    let found = reuse();
    bugs::ONE_SALT.set(false);
    assert!(found.is_err(), "one salt for all was not found");
    must_find("a segment that goes on", &bugs::SEGMENT_GOES_ON);
    must_find("a second sync", &bugs::SYNC_AGAIN);
    must_find("a sealed segment without sync", &bugs::FORGET_SEALED);
    must_find("a directory without sync", &bugs::FORGET_DIRECTORY);
    assert!(sweep(0..2, 3, true).is_err(), "a disk that ignores syncs was not found");
}
