//! Whole data directories with a cold tier: calls, each step synced and then acknowledged, while values
//! leave memory, snapshots are taken and rows are given up.

use ashlar_engine::clock::SystemClock;
use ashlar_engine::disk::RealDisk;
use ashlar_engine::engine::{Engine, EngineOptions};
use ashlar_engine::prelude::*;
use ashlar_engine::stamp::{Rng, Stamp};
use ashlar_engine::storage::{Directory, RecoverOptions, Recovering, Storage};
use ashlar_engine::tier::Tier;
use ashlar_engine::tier::store::{StoreKind, open_durable};
use ashlar_tests::powercut::Rig;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use crate::cold::Workload;

/// The workloads of whole directories.
pub const WORKLOADS: [Workload; 2] = [
    ("directory-sled", |cuts| cut(StoreKind::Sled, cuts)),
    ("directory-fjall", |cuts| cut(StoreKind::Fjall, cuts)),
];

const KEYS: usize = 1_500;
const WRITES_A_STEP: usize = 12;
const SEGMENT_BYTES: u64 = 1 << 20;
const MEMORY_BYTES: u64 = 16 << 20;

/// What a step does with a key.
enum Change {
    Set(Vec<u8>),
    Append(Vec<u8>),
    Delete,
}

fn changes(seed: u64, step: u64) -> Vec<(usize, Change)> {
    let mut rng = Rng::new(seed ^ step.wrapping_mul(0x2545_F491_4F6C_DD1D));
    let change = |rng: &mut Rng| {
        let len = if rng.below(20) == 0 { rng.below(20_000) } else { 1 + rng.below(600) };
        let bytes = vec![rng.next_u64() as u8; len];
        match rng.below(10) {
            0 => Change::Delete,
            1..4 => Change::Append(bytes[..1].to_vec()),
            _ => Change::Set(bytes),
        }
    };
    // One change a key and step: then what it was before, or is afterwards, is all that may be.
    let all: BTreeMap<_, _> =
        (0..WRITES_A_STEP).map(|_| (rng.below(KEYS), change(&mut rng))).collect();
    all.into_iter().collect()
}

fn after(change: &Change, before: Option<&Vec<u8>>) -> Option<Vec<u8>> {
    match change {
        Change::Set(bytes) => Some(bytes.clone()),
        Change::Append(bytes) => Some([before.map_or(&[][..], Vec::as_slice), bytes].concat()),
        Change::Delete => None,
    }
}

fn open(kind: StoreKind, dir: &Path, random: u64) -> (Store, Storage) {
    let directory = Directory::open(Arc::new(RealDisk), dir, random).expect("a directory opens");
    let folder = dir.join("cold").join(kind.name());
    std::fs::create_dir_all(&folder).expect("a folder is made");
    let rows = open_durable(kind, &folder, MEMORY_BYTES).expect("a store opens after a power cut");
    let tier = Tier::new(rows, kind.name(), directory.hash_seed());
    tier.set_durable();
    let hash_seed = directory.hash_seed();
    let tier = Some(tier);
    let options = EngineOptions { shards: 4, hash_seed, tier, ..EngineOptions::default() };
    let engine = Arc::new(Engine::with_options(options));
    let zeroed = random.is_multiple_of(2);
    let options =
        RecoverOptions { segment_bytes: SEGMENT_BYTES, zeroed, ..RecoverOptions::default() };
    let opened = directory.recover(&engine, &options, &Recovering::default());
    let (storage, _) = opened.expect("a directory opens after a power cut");
    (Store::over(engine, Box::new(SystemClock), random), storage)
}

fn key(number: usize) -> String {
    format!("key:{number}")
}

/// Works until it is stopped: `KIND FOLDER SEED STEP`.
pub fn child(args: &[String]) {
    let [kind, dir, seed, step] = args else { panic!("four arguments") };
    let kind = StoreKind::from_name(kind).expect("a kind of store");
    let (seed, mut step): (u64, u64) =
        (seed.parse().expect("a seed"), step.parse().expect("a step"));
    let (store, storage) = open(kind, Path::new(dir), seed ^ step);
    let (engine, log) = (store.engine(), storage.log().expect("it has a log"));
    let tier = engine.tier().expect("it has a tier");
    loop {
        for (number, change) in changes(seed, step) {
            let done = match change {
                Change::Set(bytes) => store.set(key(number), bytes),
                Change::Append(bytes) => store.append(key(number), bytes).map(drop),
                Change::Delete => store.del(key(number)).map(drop),
            };
            done.expect("the store works");
        }
        log.sync().expect("the log works");
        println!("{step}");
        std::io::stdout().flush().expect("the parent reads");
        if step.is_multiple_of(3) {
            tier.make_room(engine, 0, step, 100_000, &|| 50_000).expect("the store works");
        }
        if step.is_multiple_of(17) {
            storage.snapshot(0, || (), || true).expect("the disk works");
        }
        if step.is_multiple_of(11) {
            tier.tidy(&mut engine.executor(), &Stamp::new(0, 1)).expect("the store works");
            log.tend().expect("the log works");
        }
        step += 1;
    }
}

fn cut(kind: StoreKind, cuts: usize) -> String {
    let seed = std::env::var("ASHLAR_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    println!("{}: seed {seed} (ASHLAR_SEED), {cuts} cuts (ASHLAR_CUTS)", kind.name());
    let mut rig = Rig::new(&format!("dir-{}", kind.name())).expect("it worked a moment ago");
    let mut rng = Rng::new(seed);
    let (mut model, mut step) = (BTreeMap::<usize, Vec<u8>>::new(), 0u64);
    let mut cold = 0;
    for nth in 0..cuts {
        let exe = std::env::current_exe().expect("the test has a program");
        let dir = rig.mount_point().join("data");
        let mut child = Command::new(exe);
        child.args(["child", "directory", kind.name()]).arg(&dir);
        child.args([seed.to_string(), step.to_string()]);
        let wait = Duration::from_millis(rng.below(300) as u64);
        let acknowledged = rig.cut(&mut child, wait).expect("the cut works");
        let last: u64 = acknowledged.parse().expect("a step");
        for step in step..=last {
            for (number, change) in changes(seed, step) {
                let value = after(&change, model.remove(&number).as_ref());
                model.extend(value.map(|value| (number, value)));
            }
        }
        let (store, storage) = open(kind, &dir, rng.next_u64());
        cold = cold.max(store.engine().executor().tier_counts().cold);
        // Of the step after the last one a first part may be there.
        let beyond: BTreeMap<_, _> = changes(seed, last + 1).into_iter().collect();
        for number in 0..KEYS {
            let found = store.get(key(number)).expect("every value can be read");
            let known = model.get(&number);
            let next = beyond.get(&number).map(|change| after(change, known));
            let fits = found.as_ref() == known || next.as_ref() == Some(&found);
            assert!(fits, "cut {nth}: key {number} of step <= {last}");
            model.remove(&number);
            model.extend(found.map(|found| (number, found)));
        }
        storage.log().expect("it has a log").close().expect("the log works");
        drop((store, storage));
        step = last + 1;
        // What was there of the next step is done again with other changes, so it is left out.
        step += 1;
    }
    assert!(cold > 50, "only {cold} keys were cold after a start");
    format!("{cuts} cuts, {step} acknowledged steps, {} keys, {cold} cold", model.len())
}
