//! The byte forms of raft's messages, entries and states.
//!
//! The raft crate describes them as protobuf messages, with a protobuf runtime that is not meant
//! for untrusted input. Only its structs are used here; what is sent and stored is this form.
//!
//! ```text
//! message   version u8 | type u8 | flags u8 | to from term log_term index commit commit_term
//!           request_snapshot reject_hint priority: u64 each | context bytes | entries | [snapshot]
//! entry     type u8 | term u64 | index u64 | data bytes | context bytes
//! hard      term u64 | vote u64 | commit u64
//! conf      four lists of u64 (voters, learners, outgoing, next learners) | auto_leave u8
//! change    transition u8 | list of (type u8, node u64) | context bytes
//! bytes     length u32, then as many       list: number u32, then as many
//! ```

use crate::bytes::{Malformed, Reader, push_bytes, push_len, push_u64};
use raft::eraftpb::{
    ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState, Entry,
    EntryType, HardState, Message, MessageType, Snapshot, SnapshotMetadata,
};

/// Version of the form of messages: two neighbouring versions understand each other.
pub const VERSION: u8 = 1;
const REJECT: u8 = 1;
const HAS_SNAPSHOT: u8 = 2;
/// Bytes of an entry without data.
const ENTRY_BYTES_MIN: usize = 25;

/// The types that travel between nodes, by their number in the form.
const TYPES: [MessageType; 13] = [
    MessageType::MsgAppend,
    MessageType::MsgAppendResponse,
    MessageType::MsgRequestVote,
    MessageType::MsgRequestVoteResponse,
    MessageType::MsgSnapshot,
    MessageType::MsgHeartbeat,
    MessageType::MsgHeartbeatResponse,
    MessageType::MsgTransferLeader,
    MessageType::MsgTimeoutNow,
    MessageType::MsgReadIndex,
    MessageType::MsgReadIndexResp,
    MessageType::MsgRequestPreVote,
    MessageType::MsgRequestPreVoteResponse,
];

/// Appends a message; a snapshot travels without its data, which has a way of its own.
///
/// # Panics
/// If the message is one that never leaves its node.
pub fn push_message(out: &mut Vec<u8>, message: &Message) {
    let number = TYPES.iter().position(|one| *one == message.get_msg_type());
    let number = number.expect("local messages stay in the node");
    let snapshot = !message.get_snapshot().is_empty();
    let reject = if message.reject { REJECT } else { 0 };
    out.extend([VERSION, number as u8, reject | if snapshot { HAS_SNAPSHOT } else { 0 }]);
    for word in [
        message.to,
        message.from,
        message.term,
        message.log_term,
        message.index,
        message.commit,
        message.commit_term,
        message.request_snapshot,
        message.reject_hint,
        message.priority as u64,
    ] {
        push_u64(out, word);
    }
    push_bytes(out, &message.context);
    push_entries(out, message.get_entries());
    if snapshot {
        push_metadata(out, message.get_snapshot().get_metadata());
    }
}

/// Reads a message.
///
/// # Errors
/// If the bytes are none.
pub fn read_message(reader: &mut Reader<'_>) -> Result<Message, Malformed> {
    if reader.u8()? != VERSION {
        return Err(Malformed);
    }
    let mut message = Message::default();
    let kind = TYPES.get(usize::from(reader.u8()?)).ok_or(Malformed)?;
    message.set_msg_type(*kind);
    let flags = reader.u8()?;
    message.reject = flags & REJECT != 0;
    message.to = reader.u64()?;
    message.from = reader.u64()?;
    message.term = reader.u64()?;
    message.log_term = reader.u64()?;
    message.index = reader.u64()?;
    message.commit = reader.u64()?;
    message.commit_term = reader.u64()?;
    message.request_snapshot = reader.u64()?;
    message.reject_hint = reader.u64()?;
    message.priority = reader.u64()? as i64;
    message.context = reader.bytes()?.to_vec().into();
    message.entries = read_entries(reader)?.into();
    if flags & HAS_SNAPSHOT != 0 {
        let mut snapshot = Snapshot::default();
        snapshot.set_metadata(read_metadata(reader)?);
        message.set_snapshot(snapshot);
    }
    Ok(message)
}

/// Appends entries.
pub fn push_entries(out: &mut Vec<u8>, entries: &[Entry]) {
    push_len(out, entries.len());
    for entry in entries {
        out.push(entry.get_entry_type() as u8);
        push_u64(out, entry.term);
        push_u64(out, entry.index);
        push_bytes(out, &entry.data);
        push_bytes(out, &entry.context);
    }
}

/// Reads entries.
///
/// # Errors
/// If the bytes are none.
pub fn read_entries(reader: &mut Reader<'_>) -> Result<Vec<Entry>, Malformed> {
    reader.list(ENTRY_BYTES_MIN, |reader| {
        let mut entry = Entry::default();
        entry.set_entry_type(match reader.u8()? {
            0 => EntryType::EntryNormal,
            1 => EntryType::EntryConfChange,
            2 => EntryType::EntryConfChangeV2,
            _ => return Err(Malformed),
        });
        entry.term = reader.u64()?;
        entry.index = reader.u64()?;
        entry.data = reader.bytes()?.to_vec().into();
        entry.context = reader.bytes()?.to_vec().into();
        Ok(entry)
    })
}

/// Appends a hard state.
pub fn push_hard_state(out: &mut Vec<u8>, state: &HardState) {
    [state.term, state.vote, state.commit].into_iter().for_each(|word| push_u64(out, word));
}

/// Reads a hard state.
///
/// # Errors
/// If the bytes are none.
pub fn read_hard_state(reader: &mut Reader<'_>) -> Result<HardState, Malformed> {
    let mut state = HardState::default();
    state.term = reader.u64()?;
    state.vote = reader.u64()?;
    state.commit = reader.u64()?;
    Ok(state)
}

/// Appends a snapshot's place in the log and the membership there.
pub fn push_metadata(out: &mut Vec<u8>, metadata: &SnapshotMetadata) {
    push_u64(out, metadata.index);
    push_u64(out, metadata.term);
    push_conf_state(out, metadata.get_conf_state());
}

/// Reads a snapshot's place.
///
/// # Errors
/// If the bytes are none.
pub fn read_metadata(reader: &mut Reader<'_>) -> Result<SnapshotMetadata, Malformed> {
    let mut metadata = SnapshotMetadata::default();
    metadata.index = reader.u64()?;
    metadata.term = reader.u64()?;
    metadata.set_conf_state(read_conf_state(reader)?);
    Ok(metadata)
}

/// Appends a membership.
pub fn push_conf_state(out: &mut Vec<u8>, state: &ConfState) {
    for ids in [
        state.get_voters(),
        state.get_learners(),
        state.get_voters_outgoing(),
        state.get_learners_next(),
    ] {
        push_len(out, ids.len());
        ids.iter().for_each(|id| push_u64(out, *id));
    }
    out.push(u8::from(state.auto_leave));
}

/// Reads a membership.
///
/// # Errors
/// If the bytes are none.
pub fn read_conf_state(reader: &mut Reader<'_>) -> Result<ConfState, Malformed> {
    let mut state = ConfState::default();
    state.set_voters(reader.list(8, Reader::u64)?);
    state.set_learners(reader.list(8, Reader::u64)?);
    state.set_voters_outgoing(reader.list(8, Reader::u64)?);
    state.set_learners_next(reader.list(8, Reader::u64)?);
    state.auto_leave = reader.u8()? != 0;
    Ok(state)
}

/// The protobuf form of a change of membership, which the raft crate puts into entries by itself
/// and reads back when it checks them: so few fields that they are written and read here.
/// Returns `None` for bytes that are no such change.
pub fn read_conf_change(data: &[u8]) -> Option<ConfChangeV2> {
    let mut change = ConfChangeV2::default();
    let mut at = 0;
    while at < data.len() {
        match (field(data, &mut at)?, change.changes.len()) {
            ((1, Field::Number(number)), _) => change.set_transition(match number {
                0 => ConfChangeTransition::Auto,
                1 => ConfChangeTransition::Implicit,
                2 => ConfChangeTransition::Explicit,
                _ => return None,
            }),
            ((2, Field::Bytes(bytes)), len) if len < CHANGES_MAX => {
                change.changes.push(read_single(bytes)?);
            }
            ((3, Field::Bytes(bytes)), _) => change.context = bytes.to_vec().into(),
            _ => return None,
        }
    }
    Some(change)
}

/// Most nodes that one change of membership names.
pub const CHANGES_MAX: usize = 64;

fn read_single(data: &[u8]) -> Option<ConfChangeSingle> {
    let mut single = ConfChangeSingle::default();
    let mut at = 0;
    while at < data.len() {
        match field(data, &mut at)? {
            (1, Field::Number(number)) => single.set_change_type(match number {
                0 => ConfChangeType::AddNode,
                1 => ConfChangeType::RemoveNode,
                2 => ConfChangeType::AddLearnerNode,
                _ => return None,
            }),
            (2, Field::Number(id)) => single.node_id = id,
            _ => return None,
        }
    }
    Some(single)
}

enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// One field of a protobuf message: its number and its value.
fn field<'a>(data: &'a [u8], at: &mut usize) -> Option<(u64, Field<'a>)> {
    let mut varint = || {
        let (value, end) = ashlar_engine::value::varint::read(data, *at)?;
        *at = end;
        Some(value)
    };
    let tag = varint()?;
    match tag & 7 {
        0 => Some((tag >> 3, Field::Number(varint()?))),
        2 => {
            let len = usize::try_from(varint()?).ok()?;
            let bytes = data.get(*at..at.checked_add(len)?)?;
            *at += len;
            Some((tag >> 3, Field::Bytes(bytes)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(index: u64, data: &[u8]) -> Entry {
        let mut entry = Entry::default();
        (entry.index, entry.term) = (index, 3);
        entry.data = data.to_vec().into();
        entry
    }

    #[test]
    fn a_message_comes_back() {
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgAppend);
        (message.to, message.from, message.term) = (1, 2, 3);
        (message.index, message.log_term, message.commit) = (7, 2, 6);
        message.reject = true;
        message.priority = -1;
        message.entries = vec![entry(8, b"x"), entry(9, b"")].into();
        let mut snapshot = Snapshot::default();
        snapshot.mut_metadata().index = 4;
        snapshot.mut_metadata().mut_conf_state().voters = vec![1, 2, 3];
        message.set_snapshot(snapshot);
        let mut bytes = Vec::new();
        push_message(&mut bytes, &message);
        let mut reader = Reader(&bytes);
        assert_eq!(read_message(&mut reader), Ok(message));
        assert_eq!(reader.end(), Ok(()));
        for cut in 0..bytes.len() {
            assert!(read_message(&mut Reader(&bytes[..cut])).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn a_change_of_membership_is_read_as_the_raft_crate_wrote_it() {
        let mut change = ConfChangeV2::default();
        change.set_transition(ConfChangeTransition::Explicit);
        for (kind, id) in [
            (ConfChangeType::AddNode, 4),
            (ConfChangeType::RemoveNode, 1),
            (ConfChangeType::AddLearnerNode, u64::MAX),
        ] {
            let mut single = ConfChangeSingle::default();
            single.set_change_type(kind);
            single.node_id = id;
            change.changes.push(single);
        }
        change.context = b"why".to_vec().into();
        let bytes = protobuf::Message::write_to_bytes(&change).unwrap();
        assert_eq!(read_conf_change(&bytes), Some(change.clone()));
        assert_eq!(read_conf_change(&[]), Some(ConfChangeV2::default()));
        assert_eq!(read_conf_change(&bytes[..bytes.len() - 1]), None);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read_message(&mut Reader(&bytes));
            let _ = read_conf_change(&bytes);
            let _ = read_conf_state(&mut Reader(&bytes));
        }
    }
}
