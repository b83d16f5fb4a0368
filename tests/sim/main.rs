//! The simulator: clusters under faults, one seed a run.
//!
//! ```sh
//! cargo test -p ashlar-tests --test sim                       # what CI runs
//! ASHLAR_SEED=17 cargo test -p ashlar-tests --test sim        # one seed again
//! ASHLAR_SIM_SEEDS=5000 cargo test --release -p ashlar-tests --test sim   # many more
//! ```
//! `nodes` is a second world, of whole nodes.

mod client;
mod disk;
mod faults;
mod invariants;
mod net;
mod nodes;
mod world;

use ashlar_replication::known_bugs::Bug;
use ashlar_tests::random::seeds;
use ashlar_tests::simulation::{assert_found, caught, seed_count};
use invariants::replicas_equal;
use world::{Shape, World};

/// Seeds of every run; `ASHLAR_SIM_SEEDS` sets how many.
const SEEDS: u64 = 200;
/// Microseconds during which faults happen.
const FAULTS_US: u64 = 6_000_000;
/// Microseconds after the last fault within which everything has to work again.
const HEAL_US: u64 = 8_000_000;

/// What a run did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Summary {
    trace: u64,
    answered: usize,
    entries: usize,
    elections: usize,
}

/// Runs one seed.
fn simulate(shape: &Shape, seed: u64, bug: Option<Bug>) -> Result<Summary, String> {
    let mut world = World::new(shape.clone(), seed, bug);
    world.run_until(FAULTS_US)?;
    heal(&mut world);
    world.run_until(FAULTS_US + HEAL_US / 2)?;
    world.clients[1].read_all(world.shape.groups);
    let now = world.now;
    world.at(0, world::What::Step(1));
    world.run_until(now + HEAL_US / 2)?;
    if let Some(client) = world.clients.iter().position(|client| !client.is_done()) {
        return Err(format!("client {client} gets no answer though nothing is wrong any more"));
    }
    compare_replicas(&world)?;
    ashlar_tests::history::check(&world.history)?;
    Ok(Summary {
        trace: world.trace(),
        answered: world.clients.iter().map(|client| client.answered).sum(),
        entries: world.entries.len(),
        elections: world.elections.elections(),
    })
}

/// Ends all faults.
fn heal(world: &mut World) {
    world.faulty = false;
    world.net.heal();
    for id in 1..=world.shape.nodes {
        let node = &mut world.nodes[id as usize - 1];
        node.disk.full = false;
        node.disk_us = world.shape.disk_us;
        world.at(0, world::What::Start(id));
    }
}

fn compare_replicas(world: &World) -> Result<(), String> {
    for group in 0..world.shape.groups {
        let leader = world.leader_of(group).ok_or(format!("group {group} has no leader"))?;
        let replica = |id: u64| world.nodes[id as usize - 1].process.as_ref()?.group(group);
        let members = replica(leader).expect("the leader has a replica").members();
        let ids = members.get_voters().iter().chain(members.get_learners());
        let data = ids.filter(|id| world.shape.witness != Some(**id));
        let replicas = data.filter_map(|id| {
            replica(*id).map(|replica| (*id, replica.applied(), replica.digest()))
        });
        replicas_equal::check(group, &replicas.collect::<Vec<_>>())?;
    }
    Ok(())
}

/// The same, where a panic is an error like any other.
fn try_simulate(shape: &Shape, seed: u64, bug: Option<Bug>) -> Result<Summary, String> {
    caught(|| simulate(shape, seed, bug))
}

/// Runs the seeds, each of which has to hold.
fn all_hold(name: &str, shape: &Shape, fixed: u64) {
    let fixed: Vec<u64> = (1..=seed_count(fixed)).collect();
    let mut sum = Summary::default();
    let seeds = seeds(&fixed);
    for &seed in &seeds {
        match try_simulate(shape, seed, None) {
            Ok(summary) => {
                sum.answered += summary.answered;
                sum.entries += summary.entries;
                sum.elections += summary.elections;
            }
            Err(error) => panic!(
                "{name}, seed {seed}: {error}\n\
                 replay: ASHLAR_SEED={seed} cargo test -p ashlar-tests --test sim {name}"
            ),
        }
    }
    let runs = seeds.len();
    println!(
        "{name}: {runs} seeds, {} answers, {} entries, {} elections",
        sum.answered, sum.entries, sum.elections
    );
    // A simulation in which nothing happens would find nothing.
    assert!(sum.answered > runs * 20 && sum.entries > runs * 20, "too little happened: {sum:?}");
}

#[test]
fn members_come_and_go_under_faults() {
    all_hold("members_come_and_go_under_faults", &Shape::default(), SEEDS * 6 / 10);
}

#[test]
fn leases_hold_under_faults() {
    all_hold("leases_hold_under_faults", &Shape::busy(true), SEEDS * 2 / 10);
}

#[test]
fn clocks_may_go_as_they_like() {
    all_hold("clocks_may_go_as_they_like", &Shape::busy(false), SEEDS / 10);
}

#[test]
fn votes_are_kept() {
    all_hold("votes_are_kept", &Shape::restless(), SEEDS / 10);
}

#[test]
fn a_witness_keeps_two_sites_safe() {
    let shape = Shape { nodes: 3, witness: Some(3), groups: 1, ..Shape::default() };
    all_hold("a_witness_keeps_two_sites_safe", &shape, SEEDS * 2 / 10);
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in [1, 2, 3] {
        let first = simulate(&Shape::default(), seed, None).expect("the seed holds");
        let second = simulate(&Shape::default(), seed, None).expect("the seed holds");
        assert_eq!(first, second, "seed {seed}");
    }
    let other = simulate(&Shape::default(), 4, None).expect("the seed holds");
    assert_ne!(other.trace, simulate(&Shape::default(), 1, None).expect("it holds").trace);
}

/// Each known bug is found within a bounded number of seeds.
#[test]
fn known_bugs_are_found() {
    const SEEDS_MAX: u64 = 150;
    assert_found(&Bug::ALL, SEEDS_MAX, |bug, seed| {
        let shape = match bug {
            Bug::LeaseTooLong | Bug::LeaseKeptOnTransfer => Shape::busy(true),
            Bug::ReadWithoutQuorum => Shape::busy(false),
            Bug::ForgetVote => Shape::restless(),
            _ => Shape::default(),
        };
        let error = try_simulate(&shape, seed, Some(bug)).err();
        error.filter(|error| !error.contains("was not found out"))
    });
}
