//! Moves slots between groups while clients go on.
//!
//! The leader of the group that has them drives it; whoever leads next starts over and meets what was
//! done:
//!
//! ```text
//! INSTALL in the new group    the keys, piece by piece, then those that have changed meanwhile, until
//!                             few are left; under an attempt that rises with every start
//! SESSIONS in the new group   which requests the old one has applied, so that none is applied again
//! FREEZE in the old group     from here on it takes no writes to the slots: their keys stand still
//! INSTALL in the new group    the last changes
//! SESSIONS in the new group   the last requests
//! POLICIES in the new group   the classes of keys of the old one, where there are any
//! FinishMove in the meta group  the slots belong to the new group
//! DROPSLOTS in the old group  their keys go; it still takes no writes to them
//! ```
//! So the slots stand still for four agreements, five where there are classes, however many keys they have. A slot that was frozen stays
//! so until the move is finished or given up, whoever leads: FinishMove may be on its way.

use super::driver::Driver;
use super::handle::Done;
use super::requests::bare;
use super::state::State;
use super::{Data, Host, calls};
use crate::bug;
use crate::raft::sessions::Mark;
use crate::raft::{Answer, GroupId, OwnedCall};
use crate::topology::{Change, Release, SlotMove, SlotRange, Topology};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// Bytes of keys that one entry brings: few, since the requests of clients wait behind it.
const PIECE_BYTES: usize = 16 << 10;
/// Microseconds after which a step without an answer is tried again.
const STEP_US: u64 = 5_000_000;
/// Keys that may have changed for the slots to be frozen.
const FEW_KEYS: usize = 64;
/// Pieces of changes after which the slots are frozen, however many are left.
const FOLLOW_MAX: u32 = 64;
/// After a piece a move rests for so many times as long as that took, for those who go on with the keys...
const REST_PER_PIECE: u64 = 2;
/// ... but not for more microseconds than these.
const REST_US_MAX: u64 = 10_000;
/// Steps of a move in one turn.
const TURN_STEPS: usize = 16;

const WAITING: u8 = 0;
const DONE: u8 = 1;
const FAILED: u8 = 2;

/// What a move does next.
#[derive(Clone, Copy)]
enum Step {
    /// The keys from a position on.
    Copy(u64),
    /// What has changed meanwhile, so many pieces of it.
    Follow(u32),
    /// The requests of clients.
    Sessions,
    Freeze,
    /// What has changed until the slots were frozen.
    Rest,
    /// The requests of clients until then, so many pieces of them.
    LastSessions(u32),
    /// The classes of keys, so that no write finds older ones in the new group than before it in the old one.
    Policies,
    Finish,
    /// Waits for the topology to say that it is over.
    End,
}

struct Moving {
    from: GroupId,
    term: u64,
    /// Rises with every start, of whatever leader.
    attempt: u64,
    /// The number of the next piece.
    sequence: u64,
    /// Which requests of clients were sent.
    mark: Mark,
    step: Step,
    /// The answer to the entry that was proposed last.
    answer: Arc<AtomicU8>,
    since_us: u64,
    /// When the next piece goes, once the one before has arrived.
    rests_until_us: Option<u64>,
}

/// Slots without keys, and what must not have changed since for that to be true: the version by which they
/// were frozen, and the pieces that came in.
#[derive(PartialEq, Eq)]
struct Empty {
    frozen_by: u64,
    pieces: u64,
    slots: Vec<SlotRange>,
}

#[derive(Default)]
pub(super) struct Moves {
    moving: BTreeMap<u64, Moving>,
    /// Starts so far.
    starts: u64,
    /// Slots of groups that are being thawed or dropped: since when.
    cleaning_us: BTreeMap<GroupId, u64>,
    /// Frozen slots of groups that this node leads and that were found to have no keys any more.
    empty: BTreeMap<GroupId, Empty>,
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
    /// When the next piece of a move goes, where one waits.
    pub fn due_us(&self) -> Option<u64> {
        self.moving.values().filter_map(|moving| moving.rests_until_us).min()
    }

    pub fn look<H: Host>(&mut self, driver: &mut Driver<H>) {
        let topology = driver.topology.clone();
        let over = |id: &u64, _: &mut Moving| !topology.moves.contains_key(id);
        for (_, moving) in self.moving.extract_if(.., over) {
            note_changes(driver, moving.from, &[]);
        }
        // A group notes the changes of one move at a time.
        let mut busy = BTreeSet::new();
        for one in topology.moves.values().filter(|one| busy.insert(one.from)) {
            let Some(node) = &driver.node else { return };
            let leads = node.group(one.from).filter(|group| group.is_leader());
            let Some(term) = leads.map(crate::raft::Group::term) else {
                if self.moving.remove(&one.id).is_some() {
                    note_changes(driver, one.from, &[]);
                }
                continue;
            };
            for _ in 0..TURN_STEPS {
                if !self.advance(driver, one, term) {
                    break;
                }
            }
        }
        self.clean(driver, &topology);
    }

    /// Does the next step of a move; whether there may be another one at once.
    fn advance<H: Host>(&mut self, driver: &mut Driver<H>, one: &SlotMove, term: u64) -> bool {
        let now_us = driver.now_us;
        let Some(moving) = self.moving.get_mut(&one.id).filter(|moving| moving.term == term) else {
            self.start(driver, one, term);
            return true;
        };
        match moving.answer.load(Ordering::Acquire) {
            WAITING if now_us < moving.since_us + STEP_US => return false,
            DONE if moving.rests(now_us) => return false,
            DONE => {}
            _ => {
                // Starting over does no harm.
                self.moving.remove(&one.id);
                return false;
            }
        }
        moving.since_us = now_us;
        match moving.step {
            Step::Copy(position) => {
                let Some(data) = data(driver, one.from) else { return false };
                let piece = data.copy(&one.slots, position, PIECE_BYTES);
                moving.step = match piece.next {
                    0 => Step::Follow(0),
                    next => Step::Copy(next),
                };
                if piece.keys > 0 {
                    moving.install(driver, one, &piece.bytes, false);
                }
            }
            Step::Follow(pieces) => {
                let Some(piece) =
                    data(driver, one.from).and_then(|data| data.changes(&one.slots, PIECE_BYTES))
                else {
                    self.moving.remove(&one.id);
                    return false;
                };
                let few = piece.next == 0 && piece.keys <= FEW_KEYS;
                moving.step = match few || pieces >= FOLLOW_MAX {
                    true => Step::Sessions,
                    false => Step::Follow(pieces + 1),
                };
                if piece.keys > 0 {
                    moving.install(driver, one, &piece.bytes, false);
                }
            }
            Step::Sessions => {
                if !moving.send_sessions(driver, one, PIECE_BYTES) {
                    moving.step = Step::Freeze;
                }
            }
            Step::Freeze => {
                let version = driver.topology.version.to_string();
                let freeze = bare(vec![call(calls::FREEZE, &[version.as_bytes()], &one.slots)]);
                moving.step = Step::Rest;
                let done = moving.wait();
                driver.propose(one.from, &freeze, done);
            }
            Step::Rest => {
                let Some(piece) =
                    data(driver, one.from).and_then(|data| data.changes(&one.slots, PIECE_BYTES))
                else {
                    self.moving.remove(&one.id);
                    return false;
                };
                let last = piece.next == 0;
                moving.step = if last { Step::LastSessions(0) } else { Step::Rest };
                moving.install(driver, one, &piece.bytes, last);
                if bug!(DropBeforeInstalled) && last {
                    let drop = bare(vec![call(calls::DROP, &[], &one.slots)]);
                    driver.propose(one.from, &drop, Box::new(|_| {}));
                }
            }
            Step::LastSessions(pieces) => {
                // However many clients go on with other slots, this ends.
                let bytes = if pieces < FOLLOW_MAX { PIECE_BYTES } else { usize::MAX };
                moving.step = match moving.send_sessions(driver, one, bytes) {
                    true => Step::LastSessions(pieces + 1),
                    false => Step::Policies,
                };
            }
            Step::Policies => {
                moving.step = Step::Finish;
                let Some(table) = data(driver, one.from).map(|data| data.policies()) else {
                    return false;
                };
                if table.version() > 0 {
                    let done = moving.wait();
                    driver.submit(one.to, super::policies_request(&table), done);
                }
            }
            Step::Finish => {
                moving.step = Step::End;
                let change = crate::topology::request(&Change::FinishMove(one.id));
                let done = moving.wait();
                driver.submit(crate::topology::META_GROUP, bare(vec![change]), done);
            }
            Step::End => {
                // Refused, it was finished before: the topology will say so.
                moving.answer = Arc::new(AtomicU8::new(WAITING));
                return false;
            }
        }
        true
    }

    fn start<H: Host>(&mut self, driver: &mut Driver<H>, one: &SlotMove, term: u64) {
        self.starts += 1;
        note_changes(driver, one.from, &one.slots);
        let moving = Moving {
            from: one.from,
            term,
            attempt: term << 24 | (self.starts & 0xFF_FFFF),
            sequence: 0,
            mark: (0, 0),
            step: Step::Copy(0),
            answer: Arc::new(AtomicU8::new(DONE)),
            since_us: driver.now_us,
            rests_until_us: None,
        };
        self.moving.insert(one.id, moving);
    }

    /// Frees slots whose move was given up, and drops the keys of those that have moved or did not come.
    fn clean<H: Host>(&mut self, driver: &mut Driver<H>, topology: &Topology) {
        let Some(node) = &driver.node else { return };
        let (drop, end) = match topology.release() >= Release::KEEPS_COMING {
            true => (calls::DROP_GONE, calls::END_MOVE),
            false => (calls::DROP, calls::GIVE_UP),
        };
        let mut todo: Vec<(GroupId, OwnedCall)> = Vec::new();
        self.empty.retain(|id, _| node.group(*id).is_some_and(crate::raft::Group::is_leader));
        for group in node.groups().filter(|group| group.is_leader()) {
            let (id, State::Data(data)) = (group.id(), group.machine()) else { continue };
            let busy = self.cleaning_us.get(&id);
            if busy.is_some_and(|since_us| driver.now_us < since_us + STEP_US / 5) {
                continue;
            }
            let own = |slot: &u16| topology.group_of(*slot) == Some(id);
            let frozen = data.frozen();
            let stays = |slot: &u16| topology.move_of(*slot).is_none();
            // Whoever does not know of a move yet by which slots were frozen has no say about them.
            let (thaw, gone): (Vec<u16>, Vec<u16>) = match topology.version >= data.frozen_by() {
                true => all(&frozen).filter(stays).partition(own),
                false => Default::default(),
            };
            let gone = crate::topology::ranges(gone);
            if !thaw.is_empty() {
                todo.push((id, call(calls::THAW, &[], &crate::topology::ranges(thaw))));
            } else if !gone.is_empty() {
                // They take no writes, so once they are empty they stay so until they are frozen again, or a
                // late piece of a move comes in.
                let (frozen_by, pieces) = (data.frozen_by(), data.pieces());
                let empty = Empty { frozen_by, pieces, slots: gone };
                if self.empty.get(&id) != Some(&empty) {
                    if data.has_keys(&empty.slots) {
                        todo.push((id, call(drop, &[], &empty.slots)));
                    } else {
                        self.empty.insert(id, empty);
                    }
                }
            }
            let moves = || topology.moves.values().any(|one| one.from == id || one.to == id);
            if let Some(held) = data.site_slots().filter(|_| !moves()) {
                let slots = topology.ranges_of(id);
                if held != slots {
                    todo.push((id, call(calls::SITE_SLOTS, &[], &slots)));
                }
            }
            let ended = data.arrivals().into_iter().find_map(|(one, slots, whole)| {
                // Slots that have come and gone again are frozen. Those that never came may be so from before.
                let kept = |slot: &u16| own(slot) || whole && within(&frozen, *slot);
                let stray: Vec<u16> = all(&slots).filter(|slot| !kept(slot)).collect();
                (topology.is_over(one) && (!whole || !stray.is_empty())).then_some((one, stray))
            });
            if let Some((one, stray)) = ended {
                let coming = topology.moves.values().filter(|other| other.to == id);
                let coming: Vec<SlotRange> = coming.flat_map(|other| other.slots.clone()).collect();
                let stray = stray.into_iter().filter(|slot| !within(&coming, *slot));
                let stray = crate::topology::ranges(stray);
                todo.push((id, call(end, &[one.to_string().as_bytes()], &stray)));
            }
        }
        for (group, call) in todo {
            self.cleaning_us.insert(group, driver.now_us);
            driver.propose(group, &bare(vec![call]), Box::new(|_| {}));
        }
    }
}

fn all(ranges: &[SlotRange]) -> impl Iterator<Item = u16> + '_ {
    ranges.iter().flat_map(|(first, last)| *first..=*last)
}

fn within(ranges: &[SlotRange], slot: u16) -> bool {
    ranges.iter().any(|(first, last)| (*first..=*last).contains(&slot))
}

impl Moving {
    /// Whether the next piece has to wait.
    fn rests(&mut self, now_us: u64) -> bool {
        let Step::Copy(1..) = self.step else { return false };
        let took_us = now_us.saturating_sub(self.since_us);
        let rest_us = (took_us * REST_PER_PIECE).min(REST_US_MAX);
        let until_us = *self.rests_until_us.get_or_insert(now_us + rest_us);
        if now_us >= until_us {
            self.rests_until_us = None;
        }
        self.rests_until_us.is_some()
    }

    fn wait(&mut self) -> Done {
        self.answer = Arc::new(AtomicU8::new(WAITING));
        wait_for(&self.answer)
    }

    /// Tells the new group of requests that were applied since the last time; whether there are more.
    fn send_sessions<H: Host>(
        &mut self,
        driver: &mut Driver<H>,
        one: &SlotMove,
        bytes: usize,
    ) -> bool {
        let group = driver.node.as_ref().and_then(|node| node.group(one.from));
        let Some(group) = group.filter(|_| driver.topology.release() >= Release::REQUESTS_MOVE)
        else {
            return false;
        };
        let (sessions, mark, more) = group.sessions_after(self.mark, bytes);
        if mark != self.mark && !bug!(SessionsStayBehind) {
            self.mark = mark;
            let call = OwnedCall { db: 0, args: vec![calls::SESSIONS.to_vec(), sessions] };
            let done = self.wait();
            driver.submit(one.to, bare(vec![call]), done);
        }
        more
    }

    /// Sends a piece to the new group.
    fn install<H: Host>(
        &mut self,
        driver: &mut Driver<H>,
        one: &SlotMove,
        piece: &[u8],
        last: bool,
    ) {
        let numbers = [one.id, self.attempt, self.sequence].map(|n| n.to_string().into_bytes());
        self.sequence += 1;
        let [id, attempt, sequence] = &numbers;
        let last: &[u8] = if last { b"1" } else { b"0" };
        let install = call(calls::INSTALL, &[id, attempt, sequence, last, piece], &one.slots);
        let done = self.wait();
        driver.submit(one.to, bare(vec![install]), done);
    }
}

fn data<H: Host>(driver: &Driver<H>, group: GroupId) -> Option<&H::Data> {
    match driver.node.as_ref()?.group(group)?.machine() {
        State::Data(data) => Some(data),
        State::Meta(_) => None,
    }
}

fn note_changes<H: Host>(driver: &Driver<H>, group: GroupId, slots: &[SlotRange]) {
    if let Some(data) = data(driver, group) {
        data.note_changes(slots);
    }
}
