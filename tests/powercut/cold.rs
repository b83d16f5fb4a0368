//! Cold stores: batches of puts, overwrites and deletions, each flushed and then acknowledged.

use ashlar_engine::stamp::Rng;
use ashlar_engine::tier::fingerprint::Fingerprint;
use ashlar_engine::tier::row::{self, ColdValue, RowId};
use ashlar_engine::tier::store::{self, Batch, ColdStore, StoreKind};
use ashlar_tests::powercut::Rig;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// A workload: its name, and what runs so many cuts of it and tells what it saw.
pub type Workload = (&'static str, fn(usize) -> String);

/// The workloads of cold stores.
pub const WORKLOADS: [Workload; 3] = [
    ("cold-sled", |cuts| cut(StoreKind::Sled, cuts, false)),
    ("cold-fjall", |cuts| cut(StoreKind::Fjall, cuts, false)),
    ("cold-flawed", |_| flawed()),
];

/// The test is tested: a writer that acknowledges without forcing anything to disk is caught.
fn flawed() -> String {
    for kind in StoreKind::ALL {
        let caught = std::panic::catch_unwind(|| cut(kind, 10, true)).is_err();
        assert!(caught, "{}: a writer that never flushes was not caught", kind.name());
    }
    "caught, as it should be".to_owned()
}

const KEYS: usize = 3_000;
const WRITES_A_STEP: usize = 24;
const MEMORY_BYTES: u64 = 16 << 20;

fn id(key: usize) -> RowId {
    let word = (key as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    RowId { generation: 1, print: Fingerprint { word, tag: key as u16 }, epoch: 0 }
}

/// What step `step` does: keys, with their new values or none.
fn writes(seed: u64, step: u64) -> Vec<(usize, Option<Vec<u8>>)> {
    let mut rng = Rng::new(seed ^ step.wrapping_mul(0x2545_F491_4F6C_DD1D));
    let value = |rng: &mut Rng| {
        let len = match rng.below(20) {
            0 => rng.below(40_000),
            1..4 => rng.below(4_000),
            _ => rng.below(300),
        };
        vec![rng.next_u64() as u8; len]
    };
    let write = |rng: &mut Rng| {
        let key = rng.below(KEYS);
        (key, (rng.below(10) != 0).then(|| value(rng)))
    };
    // The last write of a key is what the step makes of it.
    let writes: BTreeMap<_, _> = (0..WRITES_A_STEP).map(|_| write(&mut rng)).collect();
    writes.into_iter().collect()
}

fn short(value: Option<&Vec<u8>>) -> String {
    match value {
        Some(value) => format!("{} bytes of {:?}", value.len(), value.first()),
        None => "nothing".to_owned(),
    }
}

fn open(kind: StoreKind, dir: &Path) -> Box<dyn ColdStore> {
    let opened = store::open(kind, &dir.join(kind.name()), MEMORY_BYTES);
    let opened = opened.expect("a store opens after a power cut");
    assert!(opened.set_aside.is_none(), "a store opens after a power cut without losing its files");
    opened.store
}

/// Writes until it is stopped: `KIND FOLDER SEED STEP FLAWED`.
pub fn child(args: &[String]) {
    let [kind, dir, seed, step, flawed] = args else { panic!("five arguments") };
    let kind = StoreKind::from_name(kind).expect("a kind of store");
    let (seed, mut step) = (seed.parse().expect("a seed"), step.parse().expect("a step"));
    let store = open(kind, Path::new(dir));
    loop {
        let mut batch = Batch::default();
        for (key, value) in writes(seed, step) {
            row::delete(&*store, &mut batch, id(key)).expect("the store works");
            if let Some(body) = value {
                let value = ColdValue { expiry: None, access: 0, body, key_len: 0 };
                let write = step as u32;
                row::write(&*store, &mut batch, id(key), write, &value).expect("the store works");
            }
        }
        store.apply(&batch).expect("the store works");
        if flawed != "true" {
            store.flush_durable().expect("the store works");
        }
        assert_eq!(store.alarm(), None);
        println!("{step}");
        std::io::stdout().flush().expect("the parent reads");
        step += 1;
    }
}

/// Cuts the power of a store's writer again and again, and looks at what is left each time.
fn cut(kind: StoreKind, cuts: usize, flawed: bool) -> String {
    let seed = std::env::var("ASHLAR_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    println!("{}: seed {seed} (ASHLAR_SEED), {cuts} cuts (ASHLAR_CUTS)", kind.name());
    let mut rig = Rig::new(kind.name()).expect("it worked a moment ago");
    let mut rng = Rng::new(seed);
    let (mut model, mut step) = (BTreeMap::<usize, Vec<u8>>::new(), 0u64);
    for nth in 0..cuts {
        let exe = std::env::current_exe().expect("the test has a program");
        let dir = rig.mount_point();
        let mut child = Command::new(exe);
        child.args(["child", "cold", kind.name()]).arg(&dir);
        child.args([seed.to_string(), step.to_string(), flawed.to_string()]);
        let after = Duration::from_millis(rng.below(250) as u64);
        let acknowledged = rig.cut(&mut child, after).expect("the cut works");
        let last: u64 = acknowledged.parse().expect("a step");
        for step in step..=last {
            for (key, value) in writes(seed, step) {
                match value {
                    Some(value) => drop(model.insert(key, value)),
                    None => drop(model.remove(&key)),
                }
            }
        }
        let store = open(kind, &dir);
        // The step after the last one may have been written in part.
        let beyond: BTreeMap<_, _> = writes(seed, last + 1).into_iter().collect();
        for key in 0..KEYS {
            let found = row::read(&*store, id(key), usize::MAX);
            if let Some(next) = beyond.get(&key) {
                // Torn is allowed where nothing was acknowledged, a wrong value is not.
                if let Ok(found) = found {
                    let found = found.map(|found| found.body);
                    let known = found.as_ref() == model.get(&key) || found == *next;
                    assert!(
                        known,
                        "cut {nth}, {last} acknowledged: key {key} has a value that it never had: {}, \
                         where {} was acknowledged and {} was on its way; it is that of {:?}",
                        short(found.as_ref()),
                        short(model.get(&key)),
                        short(next.as_ref()),
                        (0..=last + 3).rev().find(|step| {
                            writes(seed, *step)
                                .iter()
                                .any(|(k, value)| *k == key && *value == found)
                        })
                    );
                    match found {
                        Some(found) => drop(model.insert(key, found)),
                        None => drop(model.remove(&key)),
                    }
                } else {
                    let mut batch = Batch::default();
                    batch.delete(id(key).key(0));
                    store.apply(&batch).expect("the store works");
                    model.remove(&key);
                }
                continue;
            }
            let found = found.expect("an acknowledged value can be read").map(|found| found.body);
            assert!(found.as_ref() == model.get(&key), "cut {nth}: key {key} of step <= {last}");
        }
        store.flush_durable().expect("the store works");
        drop(store);
        step = last + 1;
    }
    format!("{cuts} cuts, {step} acknowledged batches, {} keys at the end", model.len())
}
