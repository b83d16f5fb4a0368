//! Bugs that are known, to be put back one at a time: a simulation that does not find them would
//! not find their like either. Compiled only with the feature `known-bugs`, which tests ask for.

use std::cell::Cell;

/// A bug that replicated systems have had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// The leader answers once it has appended, before a majority has.
    AcknowledgeBeforeCommit,
    /// A follower acknowledges entries that it has not persisted.
    AcknowledgeBeforePersist,
    /// A node forgets its vote when it restarts.
    ForgetVote,
    /// A leader reads from its own state without asking whether it still leads.
    ReadWithoutQuorum,
    /// A follower reads from its own state without asking its leader.
    FollowerReadsAtOnce,
    /// The lease outlives the election timeout.
    LeaseTooLong,
    /// The lease is kept while leadership is handed over.
    LeaseKeptOnTransfer,
    /// A random choice is made anew on each replica.
    RandomPerReplica,
    /// The time of a call is read anew on each replica.
    ClockPerReplica,
    /// A request that was retried is applied again.
    RetryAppliedTwice,
    /// Sessions are missing from snapshots.
    SessionsLostInSnapshot,
    /// The log is cut one entry behind the snapshot.
    LogCutBeyondSnapshot,
    /// Entries that conflict with the leader's are kept.
    ConflictKept,
    /// A snapshot is installed without dropping what the state held before.
    SnapshotMerged,
    /// A request that may have been proposed is reported as surely refused.
    AmbiguousCalledRefused,
    /// A torn record at the end of the log is read as if it were whole.
    TornRecordAccepted,
    /// A move copies the keys of its slots while writes go on, to the end.
    MoveWithoutFreeze,
    /// The old group drops the keys of a move as soon as it has sent the last of them.
    DropBeforeInstalled,
    /// Pieces of a move that an earlier leader sent, or that are out of their order, are accepted. Whole nodes are too
    /// seldom that slow: the tests of `slots` find it.
    OldPieceAccepted,
    /// Frozen slots are missing from snapshots.
    FrozenLostInSnapshot,
    /// A request that was refused while its slot moved is refused for ever under its id.
    RefusalRemembered,
    /// The new group of slots that moved does not learn which requests of clients the old one has applied.
    SessionsStayBehind,
    /// A node that has left a group and forgotten what it acknowledged there still votes.
    RetiredVotes,
    /// After a restart, entries are applied again that the snapshot holds already.
    AppliedTwiceAfterRestart,
    /// An element of another site replaces one's own, instead of being merged with it.
    MergeOverwrites,
    /// What was undone is forgotten before every site knows of it.
    ForgetEarly,
    /// A link takes what it has sent for acknowledged.
    CursorRunsAhead,
    /// The sums of increments are not in the log.
    SumsNotLogged,
    /// What was merged is taken for news, and sent on.
    Echo,
    /// The clock of a site follows the wall clock back.
    ClockGoesBack,
    /// A removal undoes what the site has not seen.
    RemovalUndoesUnseen,
    /// A site that is new here brings back what was removed and forgotten: it was made from an old copy of another one.
    CopyBringsBack,
    /// A removal is forgotten while no group of another cluster says that it has the slot.
    ForgetMoving,
    /// What a group has not sent yet of slots that leave is sent by nobody.
    UnsentStaysBehind,
    /// A group that gets slots takes them for as new as what it has.
    ArrivalKnowsAll,
    /// A group sends keys of slots that have not come as a whole.
    SendsWhatComes,
    /// A group forgets removals in slots that are on their way, from it or to it.
    ForgetFrozen,
    /// What others acknowledge counts for slots that they, or the sender, have no more.
    SentWithoutSlots,
    /// Slots that stay after all send nothing again.
    ThawSendsNothing,
}

impl Bug {
    /// Those of sites that merge.
    pub const SITES: [Bug; 8] = [
        Bug::MergeOverwrites,
        Bug::ForgetEarly,
        Bug::CursorRunsAhead,
        Bug::SumsNotLogged,
        Bug::Echo,
        Bug::ClockGoesBack,
        Bug::RemovalUndoesUnseen,
        Bug::CopyBringsBack,
    ];

    /// Those of groups of clusters that merge.
    pub const GROUPS: [Bug; 7] = [
        Bug::ForgetMoving,
        Bug::UnsentStaysBehind,
        Bug::ArrivalKnowsAll,
        Bug::SendsWhatComes,
        Bug::ForgetFrozen,
        Bug::SentWithoutSlots,
        Bug::ThawSendsNothing,
    ];

    /// Those that show only where whole nodes run: with files, a topology, and slots that move.
    pub const NODES: [Bug; 7] = [
        Bug::MoveWithoutFreeze,
        Bug::DropBeforeInstalled,
        Bug::FrozenLostInSnapshot,
        Bug::RefusalRemembered,
        Bug::SessionsStayBehind,
        Bug::RetiredVotes,
        Bug::AppliedTwiceAfterRestart,
    ];

    /// Those of groups that agree.
    pub const ALL: [Bug; 16] = [
        Bug::AcknowledgeBeforeCommit,
        Bug::AcknowledgeBeforePersist,
        Bug::ForgetVote,
        Bug::ReadWithoutQuorum,
        Bug::FollowerReadsAtOnce,
        Bug::LeaseTooLong,
        Bug::LeaseKeptOnTransfer,
        Bug::RandomPerReplica,
        Bug::ClockPerReplica,
        Bug::RetryAppliedTwice,
        Bug::SessionsLostInSnapshot,
        Bug::LogCutBeyondSnapshot,
        Bug::ConflictKept,
        Bug::SnapshotMerged,
        Bug::AmbiguousCalledRefused,
        Bug::TornRecordAccepted,
    ];
}

thread_local! {
    static ON: Cell<Option<Bug>> = const { Cell::new(None) };
}

/// Switches one bug on in this thread, and any other off.
pub fn switch_on(bug: Option<Bug>) {
    ON.set(bug);
}

/// Whether a bug is on in this thread.
pub fn is_on(bug: Bug) -> bool {
    ON.get() == Some(bug)
}
