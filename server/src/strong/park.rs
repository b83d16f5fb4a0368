//! Commands that wait for a key, in a cluster: each try is an agreement of its group.

use super::node::Strong;
use super::path::refusals;
use crate::blocking::{After, Waiter};
use crate::clock;
use crate::mailbox::Message;
use crate::shared::Shared;
use ashlar_engine::slot::slot_of;
use ashlar_replication::raft::{Answer, GroupId, OwnedCall, Request, RequestId};
use ashlar_replication::runtime::Event;
use std::sync::Arc;

/// Whether a reply says that nothing was found.
fn is_nothing(reply: &[u8]) -> bool {
    matches!(reply, b"*-1\r\n" | b"$-1\r\n" | b"_\r\n")
}

/// Tries a parked command that writes: its group applies the form that does not wait.
pub fn serve(shared: &Shared, waiter: &Arc<Waiter>) {
    let (Some(strong), Some(shared)) = (shared.strong.get(), shared.arc()) else { return };
    let Some(slot) = waiter.first_key().map(slot_of) else { return };
    let Some(group) = strong.group_of(slot) else { return };
    if !waiter.begin_try() {
        return;
    }
    let request = Request {
        id: RequestId::default(),
        protocol: waiter.protocol,
        stamp: shared.stamp(clock::now_ms()),
        conditions: Vec::new(),
        calls: vec![OwnedCall { db: waiter.db, args: waiter.args.clone() }],
    };
    let waiter = waiter.clone();
    let done = Box::new(move |answer: Answer| {
        let reply = match answer {
            Answer::Reply(reply) if is_nothing(&reply) => match waiter.end_try() {
                After::Wait => return,
                After::Again => return serve(&shared, &waiter),
                After::Late => reply,
            },
            Answer::Reply(reply) => reply,
            answer => refusals(&shared, &[slot], &answer, waiter.protocol),
        };
        waiter.finish();
        let mut exec = shared.engine.executor();
        shared.blocking.remove(&waiter, &mut exec);
        exec.release();
        shared.mailboxes[waiter.address.worker].post(Message::Unblock(waiter.address, reply));
    });
    strong.handle().ask_or_refuse(Event::Propose(group, Box::new(request), done));
}

/// The group is led by another node now: those who wait here are sent there.
pub fn send_elsewhere(shared: &Arc<Shared>, strong: &Strong, group: GroupId) {
    let ours = |waiter: &Arc<Waiter>| {
        let slot = waiter.first_key().map(slot_of);
        slot.and_then(|slot| strong.group_of(slot)) == Some(group)
    };
    let mut exec = shared.engine.executor();
    for waiter in shared.blocking.all().into_iter().filter(ours) {
        let slot = waiter.first_key().map_or(0, slot_of);
        let reply = refusals(shared, &[slot], &Answer::NotLeader(None), waiter.protocol);
        shared.answer(&mut exec, &waiter, reply);
    }
}
