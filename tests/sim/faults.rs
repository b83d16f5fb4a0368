//! What goes wrong, and when.

use crate::world::{What, World};
use raft::eraftpb::ConfChangeType;

/// Ticket of changes that nobody waits for.
const NOBODY: u64 = u64::MAX;

impl World {
    /// The next fault; they come until [`World::faulty`] is off.
    ///
    /// # Errors
    /// The invariant that does not hold.
    pub fn fault(&mut self) -> Result<(), String> {
        if !self.faulty {
            return Ok(());
        }
        let (least, most) = if self.shape.restless { (1_000, 40_000) } else { (40_000, 500_000) };
        let pause = self.random.between(least, most) as u64;
        self.at(pause, What::Fault);
        let all: Vec<u64> = (1..=self.shape.nodes).collect();
        let victim = *self.random.pick(&all);
        let group = self.random.below(self.shape.groups as usize) as u32;
        let leader = self.leader_of(group).unwrap_or(victim);
        if self.shape.restless {
            self.net.delay_us = (1_000, 90_000);
            self.crash_and_start(victim);
            return Ok(());
        }
        let fault = match self.shape.contested {
            true => *self.random.pick(&[0, 2, 4, 5, 6, 8, 8, 10, 12, 13, 13]),
            false => self.random.below(15),
        };
        match fault {
            0 | 1 => self.crash_and_start(victim),
            2 | 3 => self.crash_and_start(leader),
            4 => {
                let other = *self.random.pick(&all);
                self.net.partition(&[leader, other], &all);
            }
            5 => self.net.partition(&[leader], &all),
            6 => {
                // One way only: it is heard but does not hear, or the other way round.
                let (from, to) = (*self.random.pick(&all), leader);
                if self.random.chance(50) { self.net.cut(from, to) } else { self.net.cut(to, from) }
            }
            7 => {
                self.net.loss_percent = self.random.below(30);
                self.net.double_percent = self.random.below(30);
                self.net.delay_us.1 = self.random.between(1_000, 60_000);
            }
            8 | 9 => self.net.heal(),
            10 => {
                let rates = self.shape.rates;
                let node = &mut self.nodes[victim as usize - 1];
                node.wall_offset_ms += self.random.between(-5_000, 5_000);
                node.rate = self.random.between(rates.0, rates.1) as u64;
            }
            11 => {
                let node = &mut self.nodes[victim as usize - 1];
                node.disk_us = self.random.between(500, 80_000);
                node.disk.full = self.random.chance(25);
            }
            12 => return self.drive(leader, |node, _| node.transfer(group, victim)),
            13 => {
                // The one who takes over cannot tell the one it takes over from.
                self.net.cut(victim, leader);
                return self.drive(leader, |node, _| node.transfer(group, victim));
            }
            _ => return self.change_members(group, leader),
        }
        Ok(())
    }

    fn crash_and_start(&mut self, id: u64) {
        if self.nodes[id as usize - 1].process.is_some() {
            self.crash(id);
            let pause = self.random.between(1_000, self.shape.down_us) as u64;
            self.at(pause, What::Start(id));
        }
    }

    /// Adds a learner, makes one a voter, replaces or removes a voter.
    fn change_members(&mut self, group: u32, leader: u64) -> Result<(), String> {
        if self.shape.witness.is_some() {
            return Ok(());
        }
        let members = self.nodes[leader as usize - 1].process.as_ref();
        let Some(members) = members.and_then(|process| process.group(group)).map(|g| g.members())
        else {
            return Ok(());
        };
        let voters = members.get_voters().to_vec();
        let learners = members.get_learners().to_vec();
        let outside: Vec<u64> = (1..=self.shape.nodes)
            .filter(|id| !voters.contains(id) && !learners.contains(id))
            .collect();
        let mut changes = Vec::new();
        match self.random.below(4) {
            0 if !outside.is_empty() => {
                changes.push((ConfChangeType::AddLearnerNode, *self.random.pick(&outside)));
            }
            1 if !learners.is_empty() => {
                changes.push((ConfChangeType::AddNode, *self.random.pick(&learners)));
            }
            2 if !learners.is_empty() && voters.len() > 2 => {
                // Two at once: through a joint configuration.
                changes.push((ConfChangeType::AddNode, *self.random.pick(&learners)));
                changes.push((ConfChangeType::RemoveNode, *self.random.pick(&voters)));
            }
            3 if voters.len() > 3 => {
                changes.push((ConfChangeType::RemoveNode, *self.random.pick(&voters)));
            }
            _ => return Ok(()),
        }
        self.drive(leader, |node, out| node.propose_change(group, NOBODY, &changes, out))
    }
}
