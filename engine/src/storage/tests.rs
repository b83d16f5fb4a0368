//! The crash harness for whole data directories: the machine ends at every operation of its disk, in
//! the middle of snapshots too, while commands run between their steps. After each start the engine
//! must be as it was after some record, with everything that was acknowledged. So it is with a cold tier,
//! while values leave memory and come back.

use super::save::{BUG, Bug};
use super::*;
use crate::config::EngineConfig;
use crate::disk::sim::{Loss, SimDisk};
use crate::engine::{EngineOptions, command_table};
use crate::executor::{Call, Executor, Prefetched};
use crate::reply::{Protocol, Reply};
use crate::stamp::{Rng, Stamp};
use crate::tier::Tier;
use crate::tier::memory::MemoryStore;
use crate::tier::store::{Batch, ColdError, ColdStore, EachRow};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

mod switch;

const LOSSES: [Loss; 3] = [Loss::Nothing, Loss::Everything, Loss::Some];
const NOW_MS: i64 = 1_700_000_000_000;
/// Commands of one life.
const COMMANDS: u64 = 60;
/// Starts and ends of the machine in one run.
const LIVES: u64 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Workload {
    /// A sync after each command.
    Always,
    /// A write after each command, a sync now and then.
    Everysec,
    /// Snapshots alone.
    NoLog,
}

/// The cold store of a machine, whose writes are operations of its disk.
#[derive(Clone)]
struct ColdDisk {
    rows: MemoryStore,
    disk: SimDisk,
}

impl ColdDisk {
    fn operation(&self) -> Result<(), ColdError> {
        let done = self.disk.sync_dir(Path::new("/"));
        done.map_err(|error| ColdError::Failed(error.to_string()))
    }
}

impl ColdStore for ColdDisk {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, ColdError> {
        self.rows.get(key)
    }

    fn apply(&self, batch: &Batch) -> Result<(), ColdError> {
        self.operation()?;
        self.rows.apply(batch)
    }

    fn range(&self, from: &[u8], to: &[u8], each: &mut EachRow<'_>) -> Result<(), ColdError> {
        self.rows.range(from, to, each)
    }

    fn flush_durable(&self) -> Result<(), ColdError> {
        self.operation()?;
        if has_bug(Bug::NoColdFlush) { Ok(()) } else { self.rows.flush_durable() }
    }

    fn size(&self) -> u64 {
        self.rows.size()
    }

    fn destroy(self: Box<Self>) -> Result<(), ColdError> {
        Ok(())
    }
}

fn has_bug(bug: Bug) -> bool {
    BUG.get() == Some(bug)
}

/// What the outside knows.
struct Outside {
    /// The digest of the engine after each record, from record 0 on: the empty engine.
    digests: Vec<u64>,
    /// Acknowledged as written, and as durable.
    written: u64,
    durable: u64,
    /// Without a log: the digest of each snapshot by its number; several where one was given up.
    snapshots: BTreeMap<u64, Vec<u64>>,
}

impl Outside {
    fn new() -> Outside {
        let empty = Engine::with_options(EngineOptions::default()).digest();
        let snapshots = BTreeMap::from([(0, vec![empty])]);
        Outside { digests: vec![empty], written: 0, durable: 0, snapshots }
    }
}

fn options(log: bool) -> RecoverOptions {
    RecoverOptions { log, segment_bytes: 4096, zeroed: false, threads: 2, relieve: None }
}

fn open(
    disk: &SimDisk,
    seed: u64,
    options: &RecoverOptions,
) -> Result<(Storage, Opened), StorageError> {
    open_with(disk, None, seed, options)
}

fn open_with(
    disk: &SimDisk,
    cold: Option<&MemoryStore>,
    seed: u64,
    options: &RecoverOptions,
) -> Result<(Storage, Opened), StorageError> {
    let directory = Directory::open(Arc::new(disk.clone()), Path::new("/data"), seed)?;
    let hash_seed = directory.hash_seed();
    let tier = cold.map(|rows| {
        let store = ColdDisk { rows: rows.clone(), disk: disk.clone() };
        let tier = Tier::new(Box::new(store), "memory", hash_seed);
        tier.set_durable();
        // Every value with a structure of its own, which two elements are enough for here.
        tier.set_large_bytes(0);
        tier
    });
    let mut config = EngineConfig::default();
    if tier.is_some() {
        config.hash_max_listpack_entries = 1;
        config.set_max_intset_entries = 1;
        config.set_max_listpack_entries = 1;
        config.zset_max_listpack_entries = 1;
        config.list_max_listpack_size = 1;
    }
    let engine = EngineOptions { config, shards: 3, hash_seed, tier, ..EngineOptions::default() };
    let engine = Arc::new(Engine::with_options(engine));
    let mut options = options.clone();
    if cold.is_some() {
        let engine = engine.clone();
        options.relieve = Some(Arc::new(move || demote(&engine, seed)));
    }
    directory.recover(&engine, &options, &Recovering::default())
}

/// Some values leave memory. A failure shows as one of the disk.
fn demote(engine: &Engine, random: u64) {
    let tier = engine.tier().unwrap();
    let _ = tier.make_room(engine, NOW_MS, random, 1 + random as usize % 3000, &|| 2000);
}

fn run(executor: &mut Executor<'_>, line: &str, seed: u64) {
    let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
    let (_, command) = command_table().find(args[0]).unwrap();
    let (mut out, stamp) = (Vec::new(), Stamp::new(NOW_MS, seed));
    let call =
        Call { command, args: &args, db: 0, stamp: &stamp, may_block: false, no_touch: false };
    executor.run(&call, Prefetched::NONE, &mut Reply::new(&mut out, Protocol::Resp2));
}

/// A random command.
fn line(random: &mut Rng) -> String {
    let (key, other) = (random.below(25), random.below(25));
    match random.below(24) {
        0..5 => format!("SET k{key} {}", random.next_u64()),
        5 => format!("SET k{key} {}", "long".repeat(random.below(600))),
        6..9 => format!("RPUSH l{key} {other}"),
        9..12 => format!("HSET h{key} f{other} v"),
        12 => format!("ZADD z{key} {other} m{other}"),
        13 => format!("SADD s{key} {other}"),
        14 => format!("XADD x{key} * f {other}"),
        15 => format!("INCR n{key}"),
        16 => format!("DEL k{key} l{other} h{other}"),
        17 => format!("RENAME k{key} k{other}"),
        18 => format!("EXPIRE k{key} 100000"),
        19 => format!("MOVE k{key} 2"),
        20 => format!("SPOP s{key}"),
        21 if random.below(5) == 0 => "FLUSHDB".into(),
        22 => "SWAPDB 0 2".into(),
        _ => format!("APPEND k{key} more"),
    }
}

/// A machine at work.
struct Machine<'a> {
    disk: &'a SimDisk,
    storage: &'a Storage,
    workload: Workload,
    random: Rng,
    outside: &'a mut Outside,
}

impl Machine<'_> {
    /// One command, or a transaction, and its acknowledgement.
    fn act(&mut self) {
        let engine = self.storage.engine().clone();
        if let Some(tier) = engine.tier() {
            match self.random.below(6) {
                0..3 => demote(&engine, self.random.next_u64()),
                3 => drop(tier.tidy(&mut engine.executor(), &Stamp::new(NOW_MS, 1))),
                _ => {}
            }
        }
        // Records of settings change nothing.
        self.note_digests();
        let mut executor = engine.executor();
        if self.random.below(10) == 0 {
            executor.lock_all();
            executor.begin_batch();
            for _ in 0..3 {
                run(&mut executor, &line(&mut self.random), 1);
            }
            executor.commit_batch();
        } else {
            run(&mut executor, &line(&mut self.random), 2);
        }
        executor.release();
        drop(executor);
        let Some(log) = self.storage.log() else { return };
        self.note_digests();
        let sync = self.workload == Workload::Always || self.random.below(7) == 0;
        if sync && log.sync().is_ok() {
            self.outside.durable = log.appended();
        }
        if log.write().is_ok() {
            self.outside.written = log.written();
        }
        if self.random.below(3) == 0 {
            // Its failures show in what follows.
            log.tend().ok();
        }
    }

    /// The state after the records that were appended since the last look.
    fn note_digests(&mut self) {
        let Some(log) = self.storage.log() else { return };
        while (self.outside.digests.len() as u64) <= log.appended() {
            self.outside.digests.push(self.storage.engine().digest());
        }
    }

    fn snapshot(&mut self, now_ms: i64) {
        let (storage, digest) = (self.storage, self.storage.engine().digest());
        if self.workload == Workload::NoLog {
            let number = storage.number.load(Ordering::Relaxed) + 1;
            self.outside.snapshots.entry(number).or_default().push(digest);
        }
        let given_up = self.random.below(8) == 0;
        let saved = storage.snapshot(
            now_ms,
            || (),
            || {
                (0..self.random.below(4)).for_each(|_| self.act());
                !given_up
            },
        );
        match saved {
            Ok(saved) if self.workload == Workload::NoLog => self.outside.durable = saved.log_index,
            Ok(_) => {}
            Err(_) => assert!(given_up || self.disk.is_stopped()),
        }
    }
}

/// One life: opens the directory, checks it, and works until the machine ends or `commands` are done.
fn live(
    disk: &SimDisk,
    cold: Option<&MemoryStore>,
    workload: Workload,
    seed: u64,
    commands: u64,
    outside: &mut Outside,
) -> Result<(), String> {
    let (storage, opened) = match open_with(disk, cold, seed, &options(workload != Workload::NoLog))
    {
        Ok(opened) => opened,
        Err(_) if disk.is_stopped() => return Ok(()),
        Err(error) => return Err(format!("the directory does not open: {error}")),
    };
    check(&storage, opened.recovered.last, outside)?;
    if let Some(fault) = storage.engine().tier().and_then(|tier| tier.fault())
        && !disk.is_stopped()
    {
        return Err(fault.to_string());
    }
    let random = Rng::new(seed);
    let mut machine = Machine { disk, storage: &storage, workload, random, outside };
    for number in 0..commands {
        machine.act();
        if number % 12 == 8 {
            machine.snapshot((seed ^ number) as i64 & 0xFFFF);
        }
        if disk.is_stopped() {
            return Ok(());
        }
    }
    Ok(())
}

fn check(storage: &Storage, last: u64, outside: &mut Outside) -> Result<(), String> {
    let digest = storage.engine().digest();
    if storage.log().is_none() {
        let number = storage.number.load(Ordering::Relaxed);
        if number < outside.durable {
            return Err(format!("snapshot {} was durable, {number} is there", outside.durable));
        }
        let known = outside.snapshots.get(&number).is_some_and(|known| known.contains(&digest));
        outside.durable = number;
        return if known { Ok(()) } else { Err(format!("snapshot {number} has another state")) };
    }
    if last < outside.durable {
        return Err(format!("record {} was durable, {last} is the last", outside.durable));
    }
    let expected = outside.digests.get(usize::try_from(last).unwrap());
    if expected != Some(&digest) {
        return Err(format!("the state is not that after record {last}"));
    }
    outside.digests.truncate(usize::try_from(last).unwrap() + 1);
    (outside.written, outside.durable) = (last, last);
    Ok(())
}

/// Runs a machine that ends at operation `stop` of its first life, and at random ones later.
fn run_machine(
    workload: Workload,
    tiered: bool,
    stop: u64,
    loss: Loss,
    seed: u64,
) -> Result<(), String> {
    let rows = MemoryStore::default();
    let cold = tiered.then_some(&rows);
    let mut random = Rng::new(seed ^ stop.rotate_left(32));
    let (mut disk, mut outside) = (SimDisk::new(seed), Outside::new());
    for life in 0..LIVES {
        disk.stop_at(if life == 0 { stop } else { 1 + random.below(200) as u64 });
        live(&disk, cold, workload, random.next_u64(), COMMANDS, &mut outside)?;
        disk.stop();
        if loss == Loss::Nothing && workload != Workload::NoLog {
            // A killed process: what was written counts as much as what was synced.
            outside.durable = outside.durable.max(outside.written);
        }
        disk = disk.reboot(loss, random.next_u64());
        match loss {
            Loss::Nothing => {}
            Loss::Everything => rows.cut_power(),
            Loss::Some => rows.cut_power_partly(&mut random),
        }
    }
    live(&disk, cold, workload, seed, 0, &mut outside)
}

/// Runs machines that end at each operation; how many, or the first that fails.
fn sweep(tiered: bool, seeds: std::ops::Range<u64>, step: usize) -> Result<u64, String> {
    let mut runs = 0;
    for workload in [Workload::Always, Workload::Everysec, Workload::NoLog] {
        for seed in seeds.clone() {
            let disk = SimDisk::new(seed);
            let rows = MemoryStore::default();
            let (cold, mut outside) = (tiered.then_some(&rows), Outside::new());
            let random = Rng::new(seed).next_u64();
            let whole = live(&disk, cold, workload, random, COMMANDS, &mut outside);
            whole.map_err(|error| format!("without an end: {error}"))?;
            for loss in LOSSES {
                for stop in (1..=disk.operations()).step_by(step) {
                    run_machine(workload, tiered, stop, loss, seed).map_err(|error| {
                        format!(
                            "run_machine({workload:?}, {tiered}, {stop}, Loss::{loss:?}, {seed}): {error}"
                        )
                    })?;
                    runs += 1;
                }
            }
        }
    }
    Ok(runs)
}

#[test]
fn a_machine_that_ends_anywhere_comes_back_with_an_exact_prefix() {
    // A larger number for a longer run by hand.
    let seeds: Option<u64> =
        std::env::var("ASHLAR_CRASH_SEEDS").ok().and_then(|text| text.parse().ok());
    // With a tier a life has many more operations: without more time, some of them are tried.
    let by_hand = seeds.is_some();
    for (tiered, seeds, step) in
        [(false, seeds.unwrap_or(2), 1), (true, seeds.unwrap_or(1), if by_hand { 1 } else { 41 })]
    {
        match sweep(tiered, 0..seeds, step) {
            Ok(runs) => assert!(runs > 200, "only {runs} ends were tried"),
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn known_bugs_are_found() {
    for bug in [
        Bug::NoSync,
        Bug::NoSyncOfNames,
        Bug::LateIndex,
        Bug::EarlyRelease,
        Bug::NoColdFlush,
        Bug::EarlyGarbage,
    ] {
        BUG.set(Some(bug));
        let tiered = matches!(bug, Bug::NoColdFlush | Bug::EarlyGarbage);
        let found = sweep(tiered, 0..6, 2);
        BUG.set(None);
        assert!(found.is_err(), "{bug:?} was not found in {} runs", found.unwrap_or(0));
    }
}

/// A directory with two snapshots and, if wanted, a log; with the digest of its end.
fn filled(log: bool) -> (SimDisk, u64) {
    let disk = SimDisk::new(3);
    let mut outside = Outside::new();
    let (storage, _) = open(&disk, 1, &options(log)).unwrap();
    let workload = if log { Workload::Always } else { Workload::NoLog };
    let random = Rng::new(5);
    let mut machine =
        Machine { disk: &disk, storage: &storage, workload, random, outside: &mut outside };
    for part in 0..3 {
        (0..40).for_each(|_| machine.act());
        storage.snapshot(part, || (), || true).unwrap();
    }
    if log {
        (0..40).for_each(|_| machine.act());
    }
    let digest = storage.engine().digest();
    (disk, digest)
}

fn snapshot_files(disk: &SimDisk) -> Vec<PathBuf> {
    let dir = files::snapshot_dir(Path::new("/data"));
    disk.list(&dir).unwrap().iter().map(|name| dir.join(name)).collect()
}

#[test]
fn a_damaged_snapshot_is_replaced_by_the_older_one_and_the_log() {
    for byte in [0, 17, 40, 300, 900] {
        let (disk, digest) = filled(true);
        let paths = snapshot_files(&disk);
        assert_eq!(paths.len(), 2);
        disk.flip_bit(&paths[1], byte, 3);
        let (storage, opened) = open(&disk, 9, &options(true)).unwrap();
        assert_eq!(storage.engine().digest(), digest);
        assert_eq!(opened.damaged.len(), 1, "{:?}", opened.damaged);
        drop(storage);
        assert!(
            snapshot_files(&disk)[1].ends_with(paths[1].with_extension("bad").file_name().unwrap())
        );
        let (storage, opened) = open(&disk, 10, &options(true)).unwrap();
        assert_eq!((storage.engine().digest(), opened.damaged), (digest, Vec::new()));
        drop(storage);

        disk.flip_bit(&paths[0], byte, 5);
        let error = open(&disk, 9, &options(true)).unwrap_err().to_string();
        assert!(error.contains("damaged") && error.contains(".snap"), "{error}");
    }
}

#[test]
fn without_a_log_nothing_takes_the_place_of_a_damaged_snapshot() {
    let (disk, digest) = filled(false);
    let (storage, _) = open(&disk, 9, &options(false)).unwrap();
    assert_eq!(storage.engine().digest(), digest);
    drop(storage);
    let paths = snapshot_files(&disk);
    disk.flip_bit(&paths[1], 100, 0);
    let error = open(&disk, 9, &options(false)).unwrap_err().to_string();
    assert!(error.contains("move the damaged file away"), "{error}");
    // Nothing was touched: a repaired file is taken.
    disk.flip_bit(&paths[1], 100, 0);
    let (storage, _) = open(&disk, 9, &options(false)).unwrap();
    assert_eq!(storage.engine().digest(), digest);
}

#[test]
fn a_log_is_read_even_where_no_new_one_is_to_be_written() {
    let (disk, digest) = filled(true);
    for _ in 0..2 {
        let (storage, opened) = open(&disk, 9, &options(false)).unwrap();
        assert!(storage.log().is_none() && opened.replayed.batches > 0);
        assert_eq!(storage.engine().digest(), digest);
    }
    let (storage, _) = open(&disk, 9, &options(false)).unwrap();
    run(&mut storage.engine().executor(), "SET not logged", 1);
    let with_key = storage.engine().digest();
    storage.snapshot(0, || (), || true).unwrap();
    drop(storage);
    // The log starts anew behind what no log has.
    let (storage, opened) = open(&disk, 9, &options(true)).unwrap();
    assert_eq!((storage.engine().digest(), opened.replayed.batches), (with_key, 0));
    run(&mut storage.engine().executor(), "SET logged again", 1);
    storage.log().unwrap().sync().unwrap();
    let last = storage.engine().digest();
    drop(storage);
    let (storage, opened) = open(&disk, 9, &options(true)).unwrap();
    // The settings, and the command.
    assert_eq!((storage.engine().digest(), opened.replayed.batches), (last, 2));
}

#[test]
fn a_directory_has_one_user_and_one_seed() {
    let disk = SimDisk::new(1);
    let open = |random| Directory::open(Arc::new(disk.clone()), Path::new("/data"), random);
    let first = open(1).unwrap();
    assert!(matches!(open(2), Err(StorageError::InUse(_))));
    let seed = first.hash_seed();
    drop(first);
    assert_eq!(open(2).unwrap().hash_seed(), seed);
    // A damaged seed file is made anew: of what a snapshot says, where there is one.
    disk.flip_bit(Path::new("/data/seed"), 9, 1);
    assert_ne!(open(3).unwrap().hash_seed(), seed);
    let (disk, digest) = filled(true);
    disk.flip_bit(Path::new("/data/seed"), 9, 1);
    let (storage, _) = super::tests::open(&disk, 77, &options(true)).unwrap();
    assert_eq!(storage.engine().digest(), digest);
}

#[test]
fn a_full_disk_gives_up_a_snapshot_and_harms_nothing() {
    let (disk, digest) = filled(true);
    let (storage, _) = open(&disk, 9, &options(true)).unwrap();
    disk.set_capacity(0);
    let error = storage.snapshot(1, || (), || true).unwrap_err();
    assert!(matches!(error, StorageError::Io(_)), "{error}");
    disk.set_capacity(u64::MAX);
    storage.snapshot(2, || (), || true).unwrap();
    drop(storage);
    let (storage, _) = open(&disk, 10, &options(true)).unwrap();
    assert_eq!(storage.engine().digest(), digest);
}
