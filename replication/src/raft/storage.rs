//! What a group remembers: its entries from the last snapshot on, votes, membership.
//!
//! The entries are in memory, where raft reads them; every change leaves as a [`LogRecord`] that
//! the node's log makes durable, and [`GroupLog::replay`] reads those back after a restart.
//!
//! ```text
//! record    kind u8 | group u32 | body
//! kinds     1 entries: list of entry; those at and after the first one's index are replaced
//!           2 hard state
//!           3 snapshot: metadata; the entries up to it are dropped, and all of them where the log
//!             has none at its index with its term
//!           4 retired: hard state; the node keeps nothing of the group but its vote
//! ```

use super::codec;
use crate::bug;
use crate::bytes::{Malformed, Reader};
use raft::eraftpb::{ConfState, Entry, HardState, Snapshot, SnapshotMetadata};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};
use std::cell::Cell;
use std::collections::VecDeque;

/// Number of a group.
pub type GroupId = u32;

const ENTRIES: u8 = 1;
const HARD_STATE: u8 = 2;
const SNAPSHOT: u8 = 3;
const RETIRED: u8 = 4;

/// A change of a group's memory, to be appended to the node's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRecord(pub Vec<u8>);

impl LogRecord {
    fn new(kind: u8, group: GroupId, body: impl FnOnce(&mut Vec<u8>)) -> LogRecord {
        let mut bytes = vec![kind];
        bytes.extend_from_slice(&group.to_le_bytes());
        body(&mut bytes);
        LogRecord(bytes)
    }

    /// Entries.
    pub fn entries(group: GroupId, entries: &[Entry]) -> LogRecord {
        LogRecord::new(ENTRIES, group, |out| codec::push_entries(out, entries))
    }

    /// A hard state.
    pub fn hard_state(group: GroupId, state: &HardState) -> LogRecord {
        LogRecord::new(HARD_STATE, group, |out| codec::push_hard_state(out, state))
    }

    /// A snapshot, which is durable elsewhere by now.
    pub fn snapshot(group: GroupId, metadata: &SnapshotMetadata) -> LogRecord {
        LogRecord::new(SNAPSHOT, group, |out| codec::push_metadata(out, metadata))
    }

    /// The node keeps nothing of the group any more, but for its vote.
    pub fn retired(group: GroupId, state: &HardState) -> LogRecord {
        LogRecord::new(RETIRED, group, |out| codec::push_hard_state(out, state))
    }

    /// The group that the record is of.
    ///
    /// # Errors
    /// If it is no record.
    pub fn group(&self) -> Result<GroupId, Malformed> {
        let mut reader = Reader(&self.0);
        reader.u8()?;
        reader.u32()
    }
}

/// The memory of one group.
#[derive(Clone, Debug, Default)]
pub struct GroupLog {
    hard: HardState,
    /// The last snapshot's place: what comes before is not here any more.
    snapshot: SnapshotMetadata,
    /// The membership as of the last applied change.
    conf: ConfState,
    /// The entries after the snapshot, without a gap.
    entries: VecDeque<Entry>,
    /// Bytes of the entries' data.
    bytes: usize,
    /// Raft asked for a newer snapshot than there is.
    snapshot_wanted: Cell<bool>,
    /// Nothing is kept but the vote, and a snapshot on disk is one from before.
    retired: bool,
}

impl GroupLog {
    /// The memory of a group that starts with these members.
    pub fn new(members: ConfState) -> GroupLog {
        let mut log = GroupLog { conf: members.clone(), ..GroupLog::default() };
        // The members are entry 1, which every one of them has.
        log.snapshot.index = 1;
        log.snapshot.term = 1;
        log.snapshot.set_conf_state(members);
        (log.hard.term, log.hard.commit) = (1, 1);
        log
    }

    /// The memory of a group that this node has left: it must not vote twice should it come back, and that is all.
    pub fn retired(hard: &HardState) -> GroupLog {
        let hard = HardState { commit: 0, ..hard.clone() };
        GroupLog { hard, retired: true, ..GroupLog::default() }
    }

    /// Whether nothing is kept but the vote.
    pub fn is_retired(&self) -> bool {
        self.retired
    }

    /// Takes in a record of the node's log.
    ///
    /// # Errors
    /// If it is none.
    pub fn replay(&mut self, record: &LogRecord) -> Result<(), Malformed> {
        let mut reader = Reader(&record.0);
        let kind = reader.u8()?;
        reader.u32()?;
        match kind {
            ENTRIES => {
                let entries = codec::read_entries(&mut reader)?;
                let first = entries.first().map_or(0, |entry| entry.index);
                if first > self.last() + 1 {
                    return Err(Malformed);
                }
                self.append(entries);
            }
            HARD_STATE => {
                let mut hard = codec::read_hard_state(&mut reader)?;
                if bug!(ForgetVote) {
                    hard.vote = 0;
                }
                self.hard = hard;
            }
            SNAPSHOT => {
                let metadata = codec::read_metadata(&mut reader)?;
                self.recover_snapshot(metadata);
            }
            RETIRED => *self = GroupLog::retired(&codec::read_hard_state(&mut reader)?),
            _ => return Err(Malformed),
        }
        reader.end()
    }

    /// After a restart, a snapshot is what there is: changes of membership after it are applied
    /// again.
    pub fn recover_snapshot(&mut self, metadata: SnapshotMetadata) {
        if metadata.index >= self.snapshot.index {
            self.conf = metadata.get_conf_state().clone();
            self.set_snapshot(metadata);
        }
    }

    /// What has to be in the node's log for this memory to come back, in order.
    pub fn records(&self, group: GroupId) -> Vec<LogRecord> {
        if self.retired {
            return vec![LogRecord::retired(group, &self.hard)];
        }
        let (head, tail) = self.entries.as_slices();
        let mut records = vec![LogRecord::snapshot(group, &self.snapshot)];
        for entries in [head, tail] {
            if !entries.is_empty() {
                records.push(LogRecord::entries(group, entries));
            }
        }
        records.push(LogRecord::hard_state(group, &self.hard));
        records
    }

    /// Adds entries; those that are there at or after the first one's index are replaced.
    pub fn append(&mut self, entries: Vec<Entry>) {
        for entry in entries {
            if entry.index <= self.snapshot.index {
                continue;
            }
            let at = (entry.index - self.snapshot.index - 1) as usize;
            if at < self.entries.len() && !bug!(ConflictKept) {
                let dropped: usize = self.entries.drain(at..).map(|entry| entry.data.len()).sum();
                self.bytes -= dropped;
            }
            if at == self.entries.len() {
                self.bytes += entry.data.len();
                self.entries.push_back(entry);
                self.retired = false;
            }
        }
    }

    /// Notes votes and the commit index.
    pub fn set_hard_state(&mut self, hard: HardState) {
        self.hard = hard;
    }

    /// Notes that the commit index has moved on.
    pub fn set_commit(&mut self, commit: u64) {
        self.hard.commit = self.hard.commit.max(commit);
    }

    /// Notes the membership of an applied change.
    pub fn set_conf_state(&mut self, conf: ConfState) {
        self.conf = conf;
    }

    /// The membership as of the last applied change.
    pub fn conf_state(&self) -> &ConfState {
        &self.conf
    }

    /// The last snapshot's place.
    pub fn snapshot_metadata(&self) -> &SnapshotMetadata {
        &self.snapshot
    }

    /// Whether raft asked for a newer snapshot than there is, since it was last asked.
    pub fn take_snapshot_wanted(&self) -> bool {
        self.snapshot_wanted.take()
    }

    /// Bytes that the entries' data takes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The metadata of a snapshot of the state after `applied` entries.
    pub fn metadata_at(&self, applied: u64) -> Option<SnapshotMetadata> {
        let mut metadata = SnapshotMetadata::default();
        metadata.index = applied;
        metadata.term = self.term_of(applied)?;
        metadata.set_conf_state(self.conf.clone());
        Some(metadata)
    }

    /// A snapshot is durable: what it holds needs no entries. One from elsewhere that the log does
    /// not lead up to replaces all of it.
    pub fn set_snapshot(&mut self, metadata: SnapshotMetadata) {
        if metadata.index <= self.snapshot.index {
            return;
        }
        self.retired = false;
        let keep = self.term_of(metadata.index) == Some(metadata.term);
        let mut drop = (metadata.index - self.snapshot.index) as usize;
        if bug!(LogCutBeyondSnapshot) && keep && drop < self.entries.len() {
            // The entry after the snapshot is lost, and its successor takes its place.
            let mut next = self.entries[drop + usize::from(drop + 1 < self.entries.len())].clone();
            next.index = metadata.index + 1;
            self.entries[drop] = next;
        }
        if !keep {
            drop = self.entries.len();
        }
        let dropped: usize = self.entries.drain(..drop).map(|entry| entry.data.len()).sum();
        self.bytes -= dropped;
        self.hard.commit = self.hard.commit.max(metadata.index);
        self.hard.term = self.hard.term.max(metadata.term);
        if !keep || self.conf.get_voters().is_empty() {
            self.conf = metadata.get_conf_state().clone();
        }
        self.snapshot = metadata;
    }

    /// Index of the last entry.
    pub fn last(&self) -> u64 {
        self.snapshot.index + self.entries.len() as u64
    }

    /// The votes and the commit index, inside what the log can have.
    pub fn hard(&self) -> &HardState {
        &self.hard
    }

    fn term_of(&self, index: u64) -> Option<u64> {
        if index == self.snapshot.index {
            return Some(self.snapshot.term);
        }
        let at = index.checked_sub(self.snapshot.index + 1)?;
        self.entries.get(usize::try_from(at).ok()?).map(|entry| entry.term)
    }
}

impl Storage for GroupLog {
    fn initial_state(&self) -> raft::Result<RaftState> {
        let mut hard = self.hard.clone();
        // A commit index is not always persisted with the entries that it covers.
        hard.commit = hard.commit.clamp(self.snapshot.index, self.last());
        Ok(RaftState { hard_state: hard, conf_state: self.conf.clone() })
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.snapshot.index {
            return Err(StorageError::Compacted.into());
        }
        assert!(high <= self.last() + 1, "raft asks for entries that it has appended");
        let max = max_size.into().unwrap_or(u64::MAX);
        let (from, to) = (low - self.snapshot.index - 1, high - self.snapshot.index - 1);
        let mut bytes = 0;
        let mut entries = Vec::new();
        for entry in self.entries.range(from as usize..to as usize) {
            bytes += entry.data.len() as u64 + 32;
            if bytes > max && !entries.is_empty() {
                break;
            }
            entries.push(entry.clone());
        }
        Ok(entries)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        self.term_of(index).ok_or_else(|| {
            let error = match index < self.snapshot.index {
                true => StorageError::Compacted,
                false => StorageError::Unavailable,
            };
            error.into()
        })
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.snapshot.index + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        // A node does not accept a snapshot from before it was a member.
        let conf = self.snapshot.get_conf_state();
        let lists = [&conf.voters, &conf.learners, &conf.voters_outgoing, &conf.learners_next];
        let known = lists.iter().any(|ids| ids.contains(&to));
        if request_index > self.snapshot.index || !known {
            self.snapshot_wanted.set(true);
            return Err(StorageError::SnapshotTemporarilyUnavailable.into());
        }
        // The data has a way of its own: see `Group::receive`.
        let mut snapshot = Snapshot::default();
        snapshot.set_metadata(self.snapshot.clone());
        Ok(snapshot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, term: u64) -> Entry {
        let mut entry = Entry::default();
        (entry.index, entry.term) = (index, term);
        entry.data = vec![index as u8; 3].into();
        entry
    }

    fn log() -> GroupLog {
        let mut log = GroupLog::new(ConfState::from((vec![1, 2, 3], vec![])));
        log.append((2..=10).map(|index| entry(index, 2)).collect());
        log
    }

    #[test]
    fn a_conflict_replaces_what_follows() {
        let mut log = log();
        log.append(vec![entry(5, 3)]);
        assert_eq!((log.last(), log.term_of(5), log.term_of(4)), (5, Some(3), Some(2)));
        assert_eq!(log.bytes(), 4 * 3);
    }

    #[test]
    fn a_snapshot_drops_what_it_holds() {
        let mut log = log();
        let metadata = log.metadata_at(6).unwrap();
        log.set_snapshot(metadata);
        assert_eq!((log.first_index().unwrap(), log.last(), log.bytes()), (7, 10, 12));
        assert!(log.term(5).is_err());
        assert_eq!(log.term(6).unwrap(), 2);
        // From another history: nothing of the log leads up to it.
        let mut other = SnapshotMetadata::default();
        (other.index, other.term) = (9, 7);
        log.set_snapshot(other);
        assert_eq!((log.first_index().unwrap(), log.last()), (10, 9));
    }

    #[test]
    fn the_memory_comes_back_from_its_records() {
        let mut log = log();
        log.set_snapshot(log.metadata_at(4).unwrap());
        let mut hard = HardState::default();
        (hard.term, hard.vote, hard.commit) = (3, 2, 8);
        log.set_hard_state(hard);
        let mut back = GroupLog::default();
        for record in log.records(7) {
            assert_eq!(record.group(), Ok(7));
            back.replay(&record).unwrap();
        }
        assert_eq!(back.entries, log.entries);
        assert_eq!((back.hard, back.snapshot), (log.hard, log.snapshot));
    }
}
