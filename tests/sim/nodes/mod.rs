//! The second simulated world: whole nodes, with what only they have: files, a topology that changes,
//! members that come and go by it, slots that move, clients that follow.

mod client;
mod faults;
mod links;
mod machine;
pub mod world;

use super::invariants::{replicas_equal, slots_served_once};
use ashlar_replication::known_bugs::Bug;
use ashlar_replication::runtime::{Data, State};
use ashlar_replication::topology::{META_GROUP, Topology};
use ashlar_tests::simulation::{assert_found, caught, seed_count};
use world::{NODES, What, World};

/// Microseconds until the last fault.
const FAULTS_US: u64 = 7_000_000;
/// Microseconds after it within which everything has to work again.
const HEAL_US: u64 = 20_000_000;

/// What a run did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    trace: u64,
    answered: usize,
    entries: usize,
    elections: usize,
    moves: u64,
}

fn simulate(seed: u64, lease: bool, bug: Option<Bug>) -> Result<Summary, String> {
    let mut world = World::new(seed, lease, bug);
    world.run_until(FAULTS_US)?;
    heal(&mut world);
    world.run_until(FAULTS_US + HEAL_US / 2)?;
    world.clients[1].read_all();
    world.at(0, What::Step(1));
    // Most runs are over long before.
    for step in 1..=10 {
        world.run_until(FAULTS_US + HEAL_US / 2 + HEAL_US / 20 * step)?;
        if healed(&world).is_ok() {
            break;
        }
    }
    healed(&world)?;
    ashlar_tests::history::check(&world.history)?;
    Ok(Summary {
        trace: world.trace(),
        answered: world.clients.iter().map(|client| client.answered).sum(),
        entries: world.entries.len(),
        elections: world.elections.elections(),
        moves: world.moved(),
    })
}

/// Ends all faults.
fn heal(world: &mut World) {
    world.faulty = false;
    world.net = world::Net::default();
    for node in 0..NODES {
        let one = &mut world.nodes[node];
        one.disk.set_capacity(1 << 40);
        one.disk_us = 500;
        world.at(0, What::Start(node));
    }
}

/// Whether everything works, now that nothing is wrong.
fn healed(world: &World) -> Result<(), String> {
    if let Some(client) = world.clients.iter().position(|client| !client.is_done()) {
        let waits_for = world.clients[client].waits_for();
        return Err(format!("client {client} gets no answer to {waits_for}"));
    }
    let topology = world.topology();
    if !topology.moves.is_empty() {
        return Err(format!("slots still move: {:?}", topology.moves));
    }
    for group in topology.groups.keys().copied().chain([META_GROUP]) {
        let leader = world.leader_of(group).ok_or(format!("group {group} has no leader"))?;
        let members = world.replica(leader, group).expect("it leads it").members();
        let mut ids: Vec<u64> = members.get_voters().to_vec();
        ids.sort_unstable();
        let wanted = topology.groups.get(&group).map(|group| &group.members);
        if wanted.is_some_and(|wanted| *wanted != ids) {
            return Err(format!("group {group} is kept by {ids:?}, not by {wanted:?}"));
        }
        let index = |id: u64| {
            let port = topology.nodes.get(&id).map_or(0, |node| usize::from(node.port));
            port.checked_sub(1)
        };
        let replicas: Vec<replicas_equal::Replica> = ids
            .iter()
            .filter_map(|id| {
                let replica = world.replica(index(*id)?, group)?;
                Some((*id, replica.applied(), replica.digest()))
            })
            .collect();
        if replicas.len() != ids.len() {
            return Err(format!("group {group} lacks replicas: {replicas:?} of {ids:?}"));
        }
        replicas_equal::check(group, &replicas)?;
        if let Some(State::Data(data)) = world.replica(leader, group).map(|one| one.machine()) {
            let (has, wanted) = (data.policies().version(), topology.policies.version());
            if has != wanted {
                return Err(format!("group {group} has rules of version {has}, not {wanted}"));
            }
        }
    }
    nobody_keeps_what_it_left(world, &topology)?;
    slots_served_once::check(world)
}

/// Whoever has left a group keeps nothing of it.
fn nobody_keeps_what_it_left(world: &World, topology: &Topology) -> Result<(), String> {
    for node in 0..NODES {
        for group in topology.groups.values() {
            let kept = world.replica(node, group.id).filter(|replica| !replica.is_retired());
            let wanted = group.replicas().any(|id| {
                topology.nodes.get(&id).is_some_and(|one| usize::from(one.port) == node + 1)
            });
            if kept.is_some() && !wanted {
                return Err(format!("node {node} still keeps group {}", group.id));
            }
        }
    }
    Ok(())
}

fn try_simulate(seed: u64, lease: bool, bug: Option<Bug>) -> Result<Summary, String> {
    caught(|| simulate(seed, lease, bug))
}

/// Seeds that failed once:
///
/// - 13: keys that were copied to a group stayed there when their move was given up;
/// - 2 with leases: a leader that was removed from its group went on, and panicked;
/// - 23, and 21 with leases: a node that was told who it is while its disk was full ended;
/// - 93 with leases: a move to a group went on asking a node that does not lead it;
/// - 355: a node that ended between a snapshot and its record found a gap in its log at the start after the next
///   (`node::tests` has it; with leases the seed leaves a move unfinished, which is not mended yet);
/// - 127: a node that had left a group and forgotten it voted there;
/// - 99: keys of a move that was given up stayed in slots of which the leader had seen before that they are empty.
const FOUND: [u64; 7] = [13, 2, 23, 21, 93, 127, 99];
/// Seeds of every run; `ASHLAR_SIM_SEEDS` sets how many.
const SEEDS: u64 = 200;

fn all_hold(name: &str, lease: bool, fixed: u64) {
    let fixed: Vec<u64> = FOUND.into_iter().chain(1..=seed_count(fixed)).collect();
    let seeds = ashlar_tests::random::seeds(&fixed);
    let mut sum = Summary::default();
    for &seed in &seeds {
        match try_simulate(seed, lease, None) {
            Ok(one) => {
                sum.answered += one.answered;
                sum.entries += one.entries;
                sum.elections += one.elections;
                sum.moves += one.moves;
            }
            Err(error) => panic!(
                "{name}, seed {seed}: {error}\n\
                 replay: ASHLAR_SEED={seed} cargo test -p ashlar-tests --test sim {name}"
            ),
        }
    }
    let runs = seeds.len();
    println!("{name}: {runs} seeds, {sum:?}");
    // A simulation in which nothing happens would find nothing.
    let enough = sum.answered > runs * 50 && sum.entries > runs * 50;
    assert!(enough && (runs < 10 || sum.moves > runs as u64), "too little happened: {sum:?}");
}

#[test]
fn whole_nodes_under_faults() {
    all_hold("whole_nodes_under_faults", false, SEEDS);
}

#[test]
fn whole_nodes_with_leases() {
    all_hold("whole_nodes_with_leases", true, SEEDS / 2);
}

#[test]
fn the_same_seed_is_the_same_run_of_nodes() {
    for seed in [1, 2] {
        let first = simulate(seed, false, None).expect("the seed holds");
        let second = simulate(seed, false, None).expect("the seed holds");
        assert_eq!(first, second, "seed {seed}");
    }
}

/// Each known bug that needs whole nodes is found within a bounded number of seeds, by a run that holds
/// without it.
#[test]
fn known_bugs_of_nodes_are_found() {
    const SEEDS_MAX: u64 = 200;
    assert_found(&Bug::NODES, SEEDS_MAX, |bug, seed| {
        let error = try_simulate(seed, false, Some(bug)).err();
        let error = error.filter(|error| !error.contains("was not found out"));
        error.filter(|_| try_simulate(seed, false, None).is_ok())
    });
}
