//! What goes wrong with whole nodes, and what their operators ask of them meanwhile.

use super::client::{key_slot, keys};
use super::world::{NODES, What, World, info, nobody};
use ashlar_engine::policy::{Class, Rule, TierChoice};
use ashlar_replication::node::NodeId;
use ashlar_replication::raft::GroupId;
use ashlar_replication::runtime::Event as Ask;
use ashlar_replication::topology::{Change, Topology, plan, ranges};

impl World {
    /// The next fault; they come until [`World::faulty`] is off.
    pub fn fault(&mut self) {
        if !self.faulty {
            return;
        }
        let pause = self.random.between(20_000, 250_000) as u64;
        self.at(pause, What::Fault);
        let node = self.random.below(NODES);
        match self.random.below(24) {
            0 | 1 if self.nodes[node].process.is_some() => {
                let down_us = self.random.between(1_000, 700_000) as u64;
                self.crash(node, down_us);
            }
            2 | 3 => {
                // Within one of its next writes: torn, lost, or between a file and its name.
                let after = 1 + self.random.below(30) as u64;
                let disk = &self.nodes[node].disk;
                disk.stop_at(disk.operations() + after);
            }
            4 => self.isolate(node),
            5 => {
                let other = self.random.below(NODES);
                self.net.down.insert((node, other));
            }
            6 | 7 => self.net.down.clear(),
            8 => self.net.breaks = self.random.below(20),
            9 => self.net.delay_us = self.random.between(1_000, 50_000),
            10 => self.net = super::world::Net::default(),
            11 => {
                let rate = self.random.between(950, 1_050) as u64;
                self.set_rate(node, rate);
                self.nodes[node].wall_offset_ms += self.random.between(-5_000, 5_000);
            }
            12 => self.nodes[node].disk_us = self.random.between(100, 60_000),
            13 => self.nodes[node].disk.set_capacity(0),
            14 => {
                for one in &mut self.nodes {
                    one.disk.set_capacity(1 << 40);
                    one.disk_us = 500;
                }
            }
            15 => {
                let group = self.random.below(super::world::GROUPS as usize + 1) as GroupId;
                let to = 1 + self.random.below(NODES) as u64;
                if let Some(leader) = self.leader_of(group) {
                    self.ask(leader, Ask::Transfer(group, to));
                }
            }
            _ => self.operate(node),
        }
    }

    /// Cuts a node off from the others, both ways.
    fn isolate(&mut self, node: usize) {
        for other in (0..NODES).filter(|other| *other != node) {
            self.net.down.insert((node, other));
            self.net.down.insert((other, node));
        }
    }

    /// Something that an operator asks for, of a node that may not be able to answer.
    fn operate(&mut self, node: usize) {
        let topology = self.topology();
        if topology.nodes.is_empty() {
            return;
        }
        let groups: Vec<GroupId> = topology.groups.keys().copied().collect();
        let nodes: Vec<NodeId> = topology.nodes.keys().copied().collect();
        let (group, one) = (*self.random.pick(&groups), *self.random.pick(&nodes));
        let change = match self.random.below(10) {
            0..5 => self.move_of(&topology, &groups),
            5 => topology.moves.keys().next().map(|id| Change::AbortMove(*id)),
            6 => {
                let spare = (0..NODES).find(|node| {
                    topology.nodes.values().all(|one| usize::from(one.port) != node + 1)
                });
                // A node keeps the number that it was given, so it joins once.
                let fresh = spare.filter(|node| {
                    let process = self.nodes[*node].process.as_ref();
                    process.is_some_and(|process| process.handle.me() == 0)
                });
                fresh.map(|node| Change::AddNode(info(node, 0)))
            }
            7 => {
                let mut members = nodes.clone();
                while members.len() > 3 {
                    members.remove(self.random.below(members.len()));
                }
                Some(Change::SetMembers { group, members, learners: Vec::new() })
            }
            8 => plan::rebalance(&topology)
                .ok()
                .filter(|changes| !changes.is_empty())
                .map(|changes| Change::Batch { version: topology.version, changes }),
            _ => Some(match self.random.chance(30) {
                // Whether a write gets an expiry depends on where in its group's log the rules are.
                false if topology.version.is_multiple_of(2) => {
                    Change::SetPolicy(rule(topology.version))
                }
                draining => Change::Drain(one, draining),
            }),
        };
        if let Some(change) = change {
            self.ask(node, Ask::Change(Box::new(change), nobody()));
        }
    }

    /// Moves the slots of some of the keys of a group, and some others.
    fn move_of(&mut self, topology: &Topology, groups: &[GroupId]) -> Option<Change> {
        let (from, to) = (*self.random.pick(groups), *self.random.pick(groups));
        let keys: Vec<u16> = keys().map(|(key, _)| key_slot(&key)).collect();
        let mut slots: Vec<u16> = keys
            .into_iter()
            .filter(|slot| topology.group_of(*slot) == Some(from))
            .filter(|_| self.random.chance(60))
            .collect();
        slots.sort_unstable();
        slots.dedup();
        if from == to || slots.is_empty() {
            return None;
        }
        Some(Change::StartMove { slots: ranges(slots), from, to })
    }
}

/// Rules that give keys an expiry after the end of the run, another one each time.
fn rule(version: u64) -> Rule {
    let (pattern, ttl_seconds) = (Box::from(*b"*"), 1_000_000 + version);
    Rule { pattern, class: Class::Strong, ttl_seconds, tier: TierChoice::Auto }
}
