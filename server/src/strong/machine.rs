//! A group's shard of the engine, as the state that its replicas agree on.
//!
//! ```text
//! snapshot  version u8 | time i64 | list of frozen range | list of installed move
//!           | list of row: database u32, access u32, expiry i64, key bytes, value bytes
//! ```
//! What a request does here follows from the request alone: its time is the group's, which never
//! goes back, its random numbers come with it, and a script runs on every replica.

use super::frozen::FrozenSlots;
use crate::acl::{Rules, User};
use crate::clients::Client;
use crate::clock;
use crate::conn::Again;
use crate::host::{Host, settle};
use crate::mailbox::Address;
use crate::session::Session;
use crate::shared::Shared;
use ashlar_engine::command::{Command, Flags, KeyList};
use ashlar_engine::cut::{Row, Rows};
use ashlar_engine::engine::{Engine, command_table};
use ashlar_engine::error::{Error, Stop};
use ashlar_engine::executor::{Call, Executor, Prefetched};
use ashlar_engine::reply::Reply;
use ashlar_engine::slot::{SLOTS, slot_of};
use ashlar_engine::stamp::{Rng, Stamp};
use ashlar_replication::bytes::{Malformed, Reader, push_bytes, push_len, push_u64};
use ashlar_replication::raft::{Capture, Machine, OwnedCall, Request};
use ashlar_replication::runtime::{Data, Piece, calls};
use ashlar_replication::topology::{SlotRange, ranges};
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

const VERSION: u8 = 1;
/// Moves that are remembered: late pieces of older ones are no longer under way.
const MOVES_MAX: usize = 1_024;
/// Bytes of a snapshot that are written at once.
const CAPTURE_BYTES: usize = 256 << 10;
/// Bytes of an expiry that says there is none.
const NO_EXPIRY: i64 = i64::MIN;

/// What has come of a move from another group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Installed {
    /// The term of the leader that sends.
    attempt: u64,
    /// The number of the next piece.
    next: u64,
    /// Whether all of it is there.
    whole: bool,
}

/// The state of a group.
pub struct ShardMachine {
    shared: Weak<Shared>,
    engine: Arc<Engine>,
    shard: usize,
    /// The time of the last request, Unix milliseconds.
    now_ms: i64,
    /// Slots that take no writes.
    frozen: Box<[bool; SLOTS as usize]>,
    frozen_count: usize,
    /// The same for threads that serve clients.
    shown: Arc<FrozenSlots>,
    installed: BTreeMap<u64, Installed>,
    session: Option<Session>,
}

/// The session with which what was agreed on is run.
fn session(shared: &Shared) -> Session {
    let address = Address { worker: 0, slot: usize::MAX, id: shared.clients.next_id() };
    let client = Client::new(address, "cluster".into(), String::new(), -1, clock::now_ms());
    let user = Arc::new(User::new("cluster".into(), Rules::unrestricted(&shared.registry)));
    let mut session = Session::new(Arc::new(client), user, true);
    session.in_transaction = true;
    session.applies = true;
    session
}

impl ShardMachine {
    /// The empty state of a group in that shard.
    pub fn new(shared: &Arc<Shared>, shard: usize, shown: Arc<FrozenSlots>) -> ShardMachine {
        ShardMachine {
            shared: Arc::downgrade(shared),
            engine: shared.engine.clone(),
            shard,
            now_ms: 0,
            frozen: Box::new([false; SLOTS as usize]),
            frozen_count: 0,
            shown,
            installed: BTreeMap::new(),
            session: None,
        }
    }

    /// What comes before the keys in a snapshot.
    fn snapshot_head(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        push_u64(&mut out, self.now_ms as u64);
        let frozen = self.frozen();
        push_len(&mut out, frozen.len());
        for (first, last) in frozen {
            out.extend_from_slice(&first.to_le_bytes());
            out.extend_from_slice(&last.to_le_bytes());
        }
        push_len(&mut out, self.installed.len());
        for (id, installed) in &self.installed {
            [*id, installed.attempt, installed.next].iter().for_each(|n| push_u64(&mut out, *n));
            out.push(u8::from(installed.whole));
        }
        out
    }

    fn freeze(&mut self, slots: &[SlotRange], frozen: bool) {
        for (first, last) in slots {
            self.frozen[usize::from(*first)..=usize::from(*last)].fill(frozen);
        }
        self.shown.set(self.shard, slots, frozen);
        self.frozen_count = self.frozen.iter().filter(|frozen| **frozen).count();
    }

    /// Whether a call is about a slot that takes no writes.
    fn is_frozen(&self, shared: &Shared, args: &[&[u8]]) -> bool {
        if self.frozen_count == 0 {
            return false;
        }
        let Ok(resolved) = shared.registry.resolve(args) else { return false };
        let mut keys = KeyList::new();
        resolved.command.keys.positions(args, &mut keys);
        keys.iter().any(|at| self.frozen[usize::from(slot_of(args[*at]))])
    }

    /// A call by which slots move; `None` if it is another one.
    fn move_slots(&mut self, call: &OwnedCall) -> Option<Result<(), Error>> {
        let (name, args) = call.args.split_first()?;
        let wrong = || Error::text("ERR wrong arguments of a move");
        let result = match name.as_slice() {
            calls::FREEZE | calls::THAW => slots_of(args).map(|slots| {
                self.freeze(&slots, name == calls::FREEZE);
            }),
            calls::DROP => slots_of(args).map(|slots| {
                self.engine.drop_slots(self.shard, within(&slots));
            }),
            calls::INSTALL => return Some(self.install(args)),
            _ => return None,
        };
        Some(result.ok_or_else(wrong))
    }

    fn install(&mut self, args: &[Vec<u8>]) -> Result<(), Error> {
        let wrong = || Error::text("ERR wrong arguments of a move");
        let [id, attempt, sequence, last, piece, slots @ ..] = args else { return Err(wrong()) };
        let number = |arg: &[u8]| std::str::from_utf8(arg).ok()?.parse::<u64>().ok();
        let (Some(id), Some(attempt), Some(sequence), Some(slots)) =
            (number(id), number(attempt), number(sequence), slots_of(slots))
        else {
            return Err(wrong());
        };
        let mut installed = self.installed.get(&id).copied().unwrap_or_default();
        if installed.whole {
            return Ok(());
        }
        if attempt < installed.attempt {
            return Err(Error::text("ERR a later leader sends these slots"));
        }
        if sequence == 0 {
            installed = Installed { attempt, ..Installed::default() };
            self.engine.drop_slots(self.shard, within(&slots));
        } else if attempt != installed.attempt || sequence != installed.next {
            return Err(Error::text("ERR a piece of the slots is missing"));
        }
        let (rows, gone) = read_piece(piece).map_err(|_| wrong())?;
        if !self.engine.put_rows(self.shard, rows) {
            return Err(wrong());
        }
        self.engine.remove_keys(self.shard, gone);
        installed.next = sequence + 1;
        installed.whole = last.as_slice() == b"1";
        if installed.whole {
            self.freeze(&slots, false);
        }
        self.installed.insert(id, installed);
        while self.installed.len() > MOVES_MAX {
            self.installed.pop_first();
        }
        Ok(())
    }

    fn run(&mut self, shared: &Shared, request: &Request, out: &mut Vec<u8>) {
        let mut exec = shared.engine.executor();
        exec.see_only(self.shard);
        exec.lock_all();
        let stamp = Stamp { now_ms: self.now_ms, ..request.stamp };
        let mut reply = Reply::new(out, request.protocol);
        let calls = match request.calls.split_first() {
            Some((first, calls)) if is_multi(first) => {
                let kept = request.conditions.iter().all(|condition| {
                    exec.value_digest(condition.db, &condition.key, stamp.now_ms)
                        == condition.digest
                });
                if !kept {
                    reply.null_array();
                    return;
                }
                reply.array(calls.len());
                calls
            }
            _ => request.calls.as_slice(),
        };
        let mut session = self.session.take().unwrap_or_else(|| session(shared));
        for (nth, call) in calls.iter().enumerate() {
            let args: Vec<&[u8]> = call.args.iter().map(Vec::as_slice).collect();
            session.protocol = request.protocol;
            session.db = call.db;
            let mut reply = Reply::new(out, request.protocol);
            if self.is_frozen(shared, &args) {
                reply.error(&super::try_again());
                continue;
            }
            let seed = Rng::new(stamp.seed ^ nth as u64).next_u64();
            let stamp = Stamp { seed, ..stamp };
            run_call(shared, &mut session, &mut exec, stamp, &args, &mut reply);
        }
        self.session = Some(session);
        settle(shared, &mut exec, &stamp);
    }
}

/// A command of the engine's own upkeep, which clients cannot name.
fn internal(args: &[&[u8]]) -> Option<&'static Command> {
    let name = args.first().filter(|name| name.starts_with(b"ASHLAR."))?;
    let (_, command) = command_table().find(name)?;
    command.flags.contains(Flags::INTERNAL).then_some(command)
}

/// The state of a group that starts with the keys of these slots, which the engine has in the shard of
/// no group; nothing where there are none. They leave that shard.
pub(super) fn first_state(engine: &Engine, slots: &[SlotRange]) -> Vec<u8> {
    let mut rows = Rows::default();
    engine.rows_of(0, within(slots), &mut rows);
    if rows.is_empty() {
        return Vec::new();
    }
    let mut out = vec![VERSION];
    push_u64(&mut out, 0);
    push_len(&mut out, 0);
    push_len(&mut out, 0);
    push_rows(&mut out, &rows);
    engine.drop_slots(0, within(slots));
    out
}

fn is_multi(call: &OwnedCall) -> bool {
    matches!(call.args.as_slice(), [name] if name == b"MULTI")
}

fn run_call<'e>(
    shared: &'e Shared,
    session: &mut Session,
    exec: &mut Executor<'e>,
    stamp: Stamp,
    args: &[&[u8]],
    reply: &mut Reply<'_>,
) {
    if let Some(command) = internal(args) {
        let db = session.db;
        let call = Call { command, args, db, stamp: &stamp, may_block: false, no_touch: true };
        exec.run(&call, Prefetched::NONE, reply);
        return;
    }
    let resolved = match shared.registry.resolve(args) {
        Ok(resolved) => *resolved,
        Err(error) => return reply.error(&error),
    };
    let mut again = Again::default();
    let mut host = Host {
        shared,
        session,
        exec,
        worker: 0,
        stamp,
        block_until_ms: None,
        after_park: None,
        detach: None,
        others: None,
        again: &mut again,
    };
    let result = match resolved.host {
        Some(run) => run(&mut host, args, reply),
        None => {
            host.call_engine(&resolved, args, Prefetched::NONE, reply);
            Ok(())
        }
    };
    match result {
        Ok(()) => {}
        Err(Stop::Error(error)) => reply.error(&error),
        Err(Stop::WouldBlock | Stop::Cold) => {
            reply.error(&Error::text("ERR the command would block, which it cannot here"));
        }
    }
}

/// Whether a slot is in ranges.
fn within(slots: &[SlotRange]) -> impl Fn(u16) -> bool + '_ {
    |slot| slots.iter().any(|(first, last)| (*first..=*last).contains(&slot))
}

fn slots_of(args: &[Vec<u8>]) -> Option<Vec<SlotRange>> {
    let number = |arg: &[u8]| {
        let slot: u16 = std::str::from_utf8(arg).ok()?.parse().ok()?;
        (slot < SLOTS).then_some(slot)
    };
    let pairs = args.chunks(2).map(|pair| match pair {
        [first, last] => Some((number(first)?, number(last)?)),
        _ => None,
    });
    let slots: Option<Vec<SlotRange>> = pairs.collect();
    slots.filter(|slots| slots.iter().all(|(first, last)| first <= last))
}

fn push_row(out: &mut Vec<u8>, row: &Row<'_>) {
    out.extend_from_slice(&row.db.to_le_bytes());
    out.extend_from_slice(&row.access.to_le_bytes());
    out.extend_from_slice(&row.expiry.unwrap_or(NO_EXPIRY).to_le_bytes());
    push_bytes(out, row.key);
    push_bytes(out, row.value);
}

fn push_rows(out: &mut Vec<u8>, rows: &Rows) {
    push_len(out, rows.len());
    rows.iter().for_each(|row| push_row(out, &row));
}

/// Keys on their way to another group: `list of row | list of key that is gone`.
fn piece(rows: &Rows, gone: &[Box<[u8]>]) -> Vec<u8> {
    let mut out = Vec::with_capacity(rows.bytes() + 32 * rows.len());
    push_rows(&mut out, rows);
    push_len(&mut out, gone.len());
    gone.iter().for_each(|key| push_bytes(&mut out, key));
    out
}

fn read_piece(piece: &[u8]) -> Result<(Vec<Row<'_>>, Vec<&[u8]>), Malformed> {
    let mut reader = Reader(piece);
    let rows = read_list(&mut reader)?;
    let gone = reader.list(4, Reader::bytes)?;
    reader.end()?;
    Ok((rows, gone))
}

fn read_rows<'a>(reader: &mut Reader<'a>) -> Result<Vec<Row<'a>>, Malformed> {
    if reader.0.is_empty() {
        return Ok(Vec::new());
    }
    let rows = read_list(reader)?;
    reader.end()?;
    Ok(rows)
}

fn read_list<'a>(reader: &mut Reader<'a>) -> Result<Vec<Row<'a>>, Malformed> {
    reader.list(24, |reader| {
        let (db, access, expiry) = (reader.u32()?, reader.u32()?, reader.u64()? as i64);
        let expiry = (expiry != NO_EXPIRY).then_some(expiry);
        Ok(Row { db, access, expiry, key: reader.bytes()?, value: reader.bytes()? })
    })
}

impl Machine for ShardMachine {
    fn apply(&mut self, request: &Request, out: &mut Vec<u8>) {
        let Some(shared) = self.shared.upgrade() else { return };
        self.now_ms = self.now_ms.max(request.stamp.now_ms);
        if let Some(call) = request.calls.first()
            && let Some(result) = self.move_slots(call)
        {
            let mut reply = Reply::new(out, request.protocol);
            return match result {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(&error),
            };
        }
        self.run(&shared, request, out);
    }

    /// Reads run on the threads of their clients once the group has said that they may.
    fn read(&mut self, _: &Request, _: &mut Vec<u8>) {}

    fn snapshot(&mut self) -> Vec<u8> {
        let mut out = self.snapshot_head();
        let mut rows = Rows::default();
        self.engine.rows_of(self.shard, |_| true, &mut rows);
        push_rows(&mut out, &rows);
        out
    }

    /// The keys are read by another thread, from a cut of the shard.
    fn capture(&mut self) -> Option<Capture> {
        let mut cut = self.engine.begin_group_cut(self.shard)?;
        let mut out = self.snapshot_head();
        push_len(&mut out, cut.keys());
        Some(Capture::Job(Box::new(move |write| {
            let mut rows = Rows::default();
            loop {
                let more = cut.step(&mut rows);
                rows.iter().for_each(|row| push_row(&mut out, &row));
                rows.clear();
                if out.len() >= CAPTURE_BYTES || !more {
                    write(&out)?;
                    out.clear();
                }
                if !more {
                    return Ok(());
                }
            }
        })))
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        self.engine.drop_slots(self.shard, |_| true);
        self.freeze(&[(0, SLOTS - 1)], false);
        self.installed.clear();
        self.now_ms = 0;
        if bytes.is_empty() {
            return Ok(());
        }
        let mut reader = Reader(bytes);
        if reader.u8()? != VERSION {
            return Err(Malformed);
        }
        self.now_ms = reader.u64()? as i64;
        let frozen = reader.list(4, |reader| {
            let range = reader.u32()?;
            Ok(((range & 0xFFFF) as u16, (range >> 16) as u16))
        })?;
        if frozen.iter().any(|(first, last)| first > last || *last >= SLOTS) {
            return Err(Malformed);
        }
        self.freeze(&frozen, true);
        let installed = reader.list(25, |reader| {
            let (id, attempt, next) = (reader.u64()?, reader.u64()?, reader.u64()?);
            Ok((id, Installed { attempt, next, whole: reader.u8()? != 0 }))
        })?;
        self.installed = installed.into_iter().collect();
        let rows = read_rows(&mut reader)?;
        match self.engine.put_rows(self.shard, rows) {
            true => Ok(()),
            false => Err(Malformed),
        }
    }

    fn digest(&self) -> u64 {
        self.engine.shard_digest(self.shard)
    }
}

impl Data for ShardMachine {
    fn frozen(&self) -> Vec<SlotRange> {
        if self.frozen_count == 0 {
            return Vec::new();
        }
        ranges((0..SLOTS).filter(|slot| self.frozen[usize::from(*slot)]))
    }

    fn note_changes(&self, slots: &[SlotRange]) {
        self.engine.note_changes(self.shard, slots);
    }

    fn copy(&self, slots: &[SlotRange], position: u64, bytes: usize) -> Piece {
        let mut rows = Rows::default();
        let next = self.engine.rows_from(self.shard, position, within(slots), bytes, &mut rows);
        Piece { keys: rows.len(), bytes: piece(&rows, &[]), next }
    }

    fn changes(&self, bytes: usize) -> Option<Piece> {
        let (mut rows, mut gone) = (Rows::default(), Vec::new());
        let left = self.engine.take_changes(self.shard, bytes, &mut rows, &mut gone)?;
        let keys = rows.len() + gone.len();
        Some(Piece { keys, bytes: piece(&rows, &gone), next: left as u64 })
    }

    fn has_keys(&self, slots: &[SlotRange]) -> bool {
        let mut rows = Rows::default();
        self.engine.rows_of(self.shard, within(slots), &mut rows);
        !rows.is_empty()
    }
}
