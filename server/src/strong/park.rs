//! Commands that wait for a key, in a cluster: each try is an agreement of its group.

use super::node::Strong;
use super::path::refusals;
use crate::blocking::{After, Waiter};
use crate::clock;
use crate::mailbox::Message;
use crate::shared::Shared;
use ashlar_engine::reply::Reply;
use ashlar_engine::slot::slot_of;
use ashlar_replication::raft::{Answer, GroupId, OwnedCall, Request, RequestId};
use ashlar_replication::runtime::Event;
use std::collections::BTreeSet;
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
    send(shared, |slot| strong.group_of(slot) == Some(group));
}

/// These slots are another group's now: those who wait for their keys are told so, even where this node leads
/// that group as well, since they are entered with the old one.
pub fn send_after(shared: &Arc<Shared>, slots: &BTreeSet<u16>) {
    if !slots.is_empty() {
        send(shared, |slot| slots.contains(&slot));
    }
}

fn send(shared: &Arc<Shared>, concerned: impl Fn(u16) -> bool) {
    let Some(strong) = shared.strong.get() else { return };
    let slot_of = |waiter: &Waiter| waiter.first_key().map(slot_of);
    let mut exec = shared.engine.executor();
    for waiter in shared.blocking.all() {
        let Some(slot) = slot_of(&waiter).filter(|slot| concerned(*slot)) else { continue };
        let reply = match strong.group_of(slot) {
            Some(group) if strong.leads(group) => {
                let mut out = Vec::new();
                Reply::new(&mut out, waiter.protocol).error(&super::try_again());
                out
            }
            _ => refusals(shared, &[slot], &Answer::NotLeader(None), waiter.protocol),
        };
        shared.answer(&mut exec, &waiter, reply);
    }
}
