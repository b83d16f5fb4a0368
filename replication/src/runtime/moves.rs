//! Moves slots between groups while clients go on.
//!
//! The leader of the group that has them drives it; each step is an entry of a group's log, so whoever
//! leads next starts over and meets what was done:
//!
//! ```text
//! FREEZE in the old group     from here on it takes no writes to the slots: their keys stand still
//! INSTALL in the new group    their keys, piece by piece, under the leader's term as attempt
//! FinishMove in the meta group  the slots belong to the new group
//! DROPSLOTS in the old group  their keys go; it still takes no writes to them
//! ```
//! Slots go a few at a time, so that each stands still for some milliseconds only. A write to
//! one that stands still waits at the old leader until it is another's.

use super::driver::{Driver, State, bare};
use super::handle::Done;
use super::{Data, Host, calls};
use crate::raft::{Answer, GroupId, OwnedCall};
use crate::topology::{Change, SlotMove, SlotRange, Topology};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// Bytes of keys that one entry brings.
const PIECE_BYTES: usize = 512 << 10;
/// Microseconds after which a step without an answer is tried again.
const STEP_US: u64 = 5_000_000;

const WAITING: u8 = 0;
const DONE: u8 = 1;
const FAILED: u8 = 2;

/// What a move is doing.
enum Step {
    Freeze,
    Install(Vec<Vec<u8>>, usize),
    Finish,
}

struct Moving {
    term: u64,
    step: Step,
    /// The answer to the entry that was proposed last.
    answer: Arc<AtomicU8>,
    since_us: u64,
}

#[derive(Default)]
pub(super) struct Moves {
    moving: BTreeMap<u64, Moving>,
    /// Slots of groups that are being thawed or dropped: since when.
    cleaning_us: BTreeMap<GroupId, u64>,
}

fn wait_for(answer: &Arc<AtomicU8>) -> Done {
    let answer = answer.clone();
    Box::new(move |result| {
        let done = matches!(&result, Answer::Reply(reply) if !reply.starts_with(b"-"));
        answer.store(if done { DONE } else { FAILED }, Ordering::Release);
    })
}

fn call(name: &[u8], fixed: &[&[u8]], slots: &[SlotRange]) -> OwnedCall {
    let mut args = vec![name.to_vec()];
    args.extend(fixed.iter().map(|arg| arg.to_vec()));
    args.extend(
        slots.iter().flat_map(|(first, last)| {
            [first.to_string().into_bytes(), last.to_string().into_bytes()]
        }),
    );
    OwnedCall { db: 0, args }
}

impl Moves {
    pub fn look<H: Host>(&mut self, driver: &mut Driver<H>) {
        let topology = driver.topology.clone();
        self.moving.retain(|id, _| topology.moves.contains_key(id));
        for one in topology.moves.values() {
            let Some(node) = &driver.node else { return };
            let leads = node.group(one.from).filter(|group| group.is_leader());
            let Some(term) = leads.map(crate::raft::Group::term) else {
                self.moving.remove(&one.id);
                continue;
            };
            self.advance(driver, one, term);
        }
        self.clean(driver, &topology);
    }

    fn advance<H: Host>(&mut self, driver: &mut Driver<H>, one: &SlotMove, term: u64) {
        let now_us = driver.now_us;
        let moving = self.moving.get_mut(&one.id).filter(|moving| moving.term == term);
        let Some(moving) = moving else {
            let answer = Arc::new(AtomicU8::new(WAITING));
            let freeze = bare(vec![call(calls::FREEZE, &[], &one.slots)]);
            driver.propose(one.from, &freeze, wait_for(&answer));
            let step = Step::Freeze;
            self.moving.insert(one.id, Moving { term, step, answer, since_us: now_us });
            return;
        };
        match moving.answer.load(Ordering::Acquire) {
            WAITING if now_us < moving.since_us + STEP_US => return,
            DONE => {}
            _ => {
                // Starting over does no harm.
                self.moving.remove(&one.id);
                return;
            }
        }
        let next = match &mut moving.step {
            Step::Freeze => Step::Install(pieces(driver, one), 0),
            Step::Install(pieces, at) if *at + 1 < pieces.len() => {
                Step::Install(std::mem::take(pieces), *at + 1)
            }
            Step::Install(..) | Step::Finish => Step::Finish,
        };
        moving.since_us = now_us;
        moving.answer = Arc::new(AtomicU8::new(WAITING));
        let done = wait_for(&moving.answer);
        match &next {
            Step::Install(pieces, at) => {
                let last: &[u8] = if *at + 1 == pieces.len() { b"1" } else { b"0" };
                let numbers = [one.id, term, *at as u64].map(|n| n.to_string().into_bytes());
                let [id, attempt, sequence] = &numbers;
                let fixed: [&[u8]; 5] = [id, attempt, sequence, last, &pieces[*at]];
                let install = bare(vec![call(calls::INSTALL, &fixed, &one.slots)]);
                driver.submit(one.to, install, done);
            }
            Step::Finish | Step::Freeze => {
                let change = crate::topology::request(&Change::FinishMove(one.id));
                let done: Done = Box::new(move |answer| {
                    // Refused, it was finished before: the topology will say so.
                    done(match answer {
                        Answer::Reply(_) => Answer::Reply(Vec::new()),
                        other => other,
                    });
                });
                driver.submit(crate::topology::META_GROUP, bare(vec![change]), done);
            }
        }
        moving.step = next;
    }

    /// Frees slots whose move was given up, and drops the keys of those that have moved.
    fn clean<H: Host>(&mut self, driver: &mut Driver<H>, topology: &Topology) {
        let Some(node) = &driver.node else { return };
        let mut todo: Vec<(GroupId, OwnedCall)> = Vec::new();
        for group in node.groups().filter(|group| group.is_leader()) {
            let State::Data(data) = group.machine() else { continue };
            let frozen = data.frozen();
            if frozen.is_empty() {
                continue;
            }
            let slots = || frozen.iter().flat_map(|(first, last)| *first..=*last);
            let still = |slot: &u16| topology.move_of(*slot).is_none();
            let own = |slot: &u16| topology.group_of(*slot) == Some(group.id());
            let thaw = crate::topology::ranges(slots().filter(|slot| still(slot) && own(slot)));
            let drop = crate::topology::ranges(slots().filter(|slot| still(slot) && !own(slot)));
            let busy = self.cleaning_us.get(&group.id());
            if busy.is_some_and(|since_us| driver.now_us < since_us + STEP_US / 5) {
                continue;
            }
            if !thaw.is_empty() {
                todo.push((group.id(), call(calls::THAW, &[], &thaw)));
            } else if !drop.is_empty() && data.has_keys(&drop) {
                todo.push((group.id(), call(calls::DROP, &[], &drop)));
            }
        }
        for (group, call) in todo {
            self.cleaning_us.insert(group, driver.now_us);
            driver.propose(group, &bare(vec![call]), Box::new(|_| {}));
        }
    }
}

fn pieces<H: Host>(driver: &Driver<H>, one: &SlotMove) -> Vec<Vec<u8>> {
    let group = driver.node.as_ref().and_then(|node| node.group(one.from));
    let mut pieces = match group.map(crate::raft::Group::machine) {
        Some(State::Data(data)) => data.pieces(&one.slots, PIECE_BYTES),
        _ => Vec::new(),
    };
    if pieces.is_empty() {
        pieces.push(Vec::new());
    }
    pieces
}
