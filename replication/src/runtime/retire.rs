//! Gives back what a node keeps of groups that it has left.
//!
//! A node that is removed from a group is told nothing: the others stop to send to it. So it asks those who
//! shall keep the group, and one that leads it answers as of an entry that it has applied. Whoever has nothing from behind
//! that entry has agreed to nothing since, and may forget all but its term and vote, even if it is a member again by
//! then. It votes for nobody until a snapshot comes: a member that has not heard of its leaving would count the vote.

use super::Host;
use super::driver::Driver;
use super::wire;
use crate::bytes::{Malformed, Reader};
use crate::node::NodeId;
use crate::raft::GroupId;
use crate::topology::{META_GROUP, Release};

/// Microseconds between two looks.
const LOOK_US: u64 = 1_000_000;

impl<H: Host> Driver<H> {
    /// Looks for groups that this node keeps and is not to keep.
    pub(super) fn look_for_left(&mut self) {
        if self.now_us < self.left_due_us || !self.topology.is_created() {
            return;
        }
        self.left_due_us = self.now_us + LOOK_US;
        let (topology, me) = (self.topology.clone(), self.identity.me);
        let Some(node) = &self.node else { return };
        let kept = node.groups().filter(|group| group.id() != META_GROUP && !group.is_retired());
        let kept: Vec<GroupId> = kept.map(crate::raft::Group::id).collect();
        for id in kept {
            if topology.was_removed(id) {
                self.retire(id);
            } else if let Some(group) = topology.groups.get(&id)
                && !group.has(me)
                && topology.release() >= Release::ASKS_MEMBER
            {
                for other in group.replicas() {
                    self.links.send(other, wire::ASK_MEMBER, &[&id.to_le_bytes()]);
                }
            }
        }
    }

    /// Another node asks whether it is a member.
    pub(super) fn tell_member(&mut self, from: NodeId, payload: &[u8]) {
        let Ok(id) = Reader(payload).u32() else { return };
        let group = self.node.as_ref().and_then(|node| node.group(id));
        let Some(group) = group.filter(|group| group.is_leader()) else { return };
        let conf = group.members();
        let lists = [&conf.voters, &conf.learners, &conf.voters_outgoing, &conf.learners_next];
        let member = lists.iter().any(|ids| ids.contains(&from));
        let applied = group.applied().to_le_bytes();
        self.links.send(from, wire::MEMBER, &[&id.to_le_bytes(), &applied, &[u8::from(member)]]);
    }

    /// The answer.
    pub(super) fn told_member(&mut self, payload: &[u8]) {
        let mut reader = Reader(payload);
        let mut read = || Ok::<_, Malformed>((reader.u32()?, reader.u64()?, reader.u8()? != 0));
        let Ok((id, applied, member)) = read() else { return };
        let wanted = self.topology.groups.get(&id);
        let has_left = !member && wanted.is_some_and(|group| !group.has(self.identity.me));
        let here = self.node.as_ref().and_then(|node| node.group(id));
        if has_left && here.is_some_and(|here| here.log().last() <= applied) {
            self.retire(id);
        }
    }

    fn retire(&mut self, id: GroupId) {
        if let Some(node) = &mut self.node
            && node.retire(id, &mut self.out)
        {
            self.note_witness();
            self.publish();
        }
    }
}
