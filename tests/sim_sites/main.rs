//! The simulator of several sites that all take writes: real engines, real merges, one thread, one
//! seed a run. Links are cut, one way or both, lose and double what they carry, and bring it late;
//! sites crash and come back from their logs and snapshots; clocks jump.
//!
//! ```sh
//! cargo test -p ashlar-tests --test sim_sites
//! ASHLAR_SEED=17 cargo test -p ashlar-tests --test sim_sites        # one seed again
//! ASHLAR_SIM_SEEDS=5000 cargo test -p ashlar-tests --test sim_sites # many more
//! ```

mod clusters;
mod expiry;
mod failures;
mod groups;
mod site;
mod world;

use ashlar_replication::known_bugs::Bug;
use ashlar_tests::random::seeds;
use ashlar_tests::simulation::{assert_found, caught, seed_count};
use site::text;
use world::{Shape, World};

/// Seeds of each kind of run; `ASHLAR_SIM_SEEDS` sets how many.
const SEEDS: u64 = 40;

fn simulate(shape: &Shape, seed: u64, bug: Option<Bug>) -> Result<(usize, usize), String> {
    let mut world = World::new(shape.clone(), seed, bug);
    world.run()?;
    world.heal()?;
    if shape.restores {
        world.forget()?;
        world.restore_last();
        world.heal()?;
        world.repair()?;
    }
    // Whatever is to expire has expired, and is gone from every site.
    world.now_ms += 10_000;
    check(&mut world)?;
    Ok((world.facts.calls, world.facts.batches))
}

/// What must hold once the links work and nobody writes.
fn check(world: &mut World) -> Result<(), String> {
    let now_ms = world.now_ms;
    for site in &mut world.sites {
        site.offset_ms = 0;
    }
    let first = world.sites[0].content(now_ms);
    let digest = world.sites[0].node.site().digest();
    let states_1 = states(&world.sites[0].node.site());
    for site in &mut world.sites[1..] {
        let content = site.content(now_ms);
        for key in first.keys().chain(content.keys()) {
            let (one, other) = (first.get(key), content.get(key));
            if one != other {
                let known = states(&site.node.site());
                let of_key = |known: &[String]| {
                    let start = format!("{key}, ");
                    let some = known.iter().filter(|known| known.starts_with(&start));
                    some.cloned().collect::<Vec<String>>()
                };
                let (mine, theirs) = (of_key(&states_1), of_key(&known));
                return Err(format!(
                    "site {} has {key} {other:?}, site 1 {one:?}\n{theirs:#?}\n{mine:#?}",
                    site.id
                ));
            }
        }
        // Keys that have expired are forgotten one site after the other.
        if !EXPIRES.get() && site.node.site().digest() != digest {
            let other = states(&site.node.site());
            let differ = states_1.iter().zip(&other).find(|(one, other)| one != other);
            return Err(format!("site {} and site 1 know {differ:#?}", site.id));
        }
    }
    let show = |line: &str, world: &mut World| {
        let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        text(&world.sites[0].call(now_ms, &words))
    };
    for (name, line) in
        [("count", "GET count"), ("counts", "HGET counts f"), ("scores", "ZSCORE scores m")]
    {
        if let Some(sum) = world.facts.counters.get(name).copied() {
            let shown = show(line, world);
            if shown != sum.to_string() {
                return Err(format!("{line} is {shown}, and should be {sum}"));
            }
        }
    }
    for member in world.facts.added.clone() {
        if show(&format!("SISMEMBER added {member}"), world) != "1" {
            return Err(format!("{member} was added and is lost"));
        }
    }
    for member in world.facts.removed.clone() {
        if show(&format!("SISMEMBER gone {member}"), world) != "0" {
            return Err(format!("{member} was removed and is back"));
        }
    }
    let entries = show("XLEN stream", world);
    if entries != world.facts.entries.len().to_string() {
        let added = world.facts.entries.len();
        return Err(format!("the stream has {entries} of {added} entries"));
    }
    Ok(())
}

/// What a site knows of the elements that are there.
fn states(site: &ashlar_replication::sites::site::Site) -> Vec<String> {
    let mut states = Vec::new();
    for (key, state) in site.keys() {
        let key = String::from_utf8_lossy(key);
        for (name, element) in state.iter().filter(|(_, element)| element.is_live()) {
            states.push(format!("{key}, {:?}: {element:?}", name.escape_ascii().to_string()));
        }
    }
    states.sort_unstable();
    states
}

thread_local! {
    static EXPIRES: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

fn try_simulate(shape: &Shape, seed: u64, bug: Option<Bug>) -> Result<(usize, usize), String> {
    EXPIRES.set(shape.expires);
    caught(|| simulate(shape, seed, bug))
}

fn all_hold(name: &str, shape: &Shape) {
    let fixed: Vec<u64> = (1..=seed_count(SEEDS)).collect();
    let (mut calls, mut batches) = (0, 0);
    for seed in seeds(&fixed) {
        match try_simulate(shape, seed, None) {
            Ok((more, sent)) => (calls, batches) = (calls + more, batches + sent),
            Err(error) => panic!(
                "{name}, seed {seed}: {error}\n\
                 replay: ASHLAR_SEED={seed} cargo test -p ashlar-tests --test sim_sites {name}"
            ),
        }
    }
    println!("{name}: {calls} calls, {batches} batches");
    assert!(calls > 100 && batches > 30, "too little happened");
}

#[test]
fn two_sites_converge() {
    all_hold(
        "two_sites_converge",
        &Shape { sites: 2, steps: 1_500, expires: false, restores: false },
    );
}

#[test]
fn three_sites_converge() {
    all_hold(
        "three_sites_converge",
        &Shape { sites: 3, steps: 2_000, expires: false, restores: false },
    );
}

#[test]
fn keys_that_expire_leave_every_site() {
    all_hold(
        "keys_that_expire_leave_every_site",
        &Shape { sites: 3, steps: 2_000, expires: true, restores: false },
    );
}

/// One site is lost in the end, and comes back from an old copy of its files.
#[test]
fn a_site_from_an_old_copy_brings_nothing_back() {
    let shape = Shape { sites: 3, steps: 1_500, expires: false, restores: true };
    all_hold("a_site_from_an_old_copy_brings_nothing_back", &shape);
}

/// Each known bug is found within a bounded number of seeds.
#[test]
fn known_bugs_are_found() {
    const SEEDS_MAX: u64 = 20;
    assert_found(&Bug::SITES, SEEDS_MAX, |bug, seed| {
        let restores = bug == Bug::CopyBringsBack;
        let shape = Shape { sites: 3, steps: 2_000, expires: false, restores };
        try_simulate(&shape, seed, Some(bug)).err()
    });
}
