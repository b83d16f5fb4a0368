//! Runs the records of a log on an engine.

use super::record::LoggedCall;
use super::{Batch, Group, LogError, Reader, settings};
use crate::command::Command;
use crate::engine::{Engine, command_table};
use crate::executor::{Call, Executor, Prefetched};
use crate::lanes::{self, Item, Lanes, Part};
use crate::reply::{Protocol, Reply};
use crate::shipping::{self, Point, Position};
use smallvec::SmallVec;
use std::ops::Range;
use std::sync::atomic::Ordering;

/// Records that are looked at ahead, so that what they need is on its way from memory.
const GROUP: usize = 32;
/// Records between two calls of the host that may make room.
const RELIEVED_EVERY: u64 = 64;
/// Records between two reports of progress.
const REPORTED_EVERY: u64 = 10_000;

/// What a replay did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Records.
    pub batches: u64,
    /// Calls in them.
    pub calls: u64,
    /// Records that ran beside others, on several threads.
    pub together: u64,
    /// The history as the last record about it has it, with the position at the end of the log.
    pub here: Option<Position>,
    /// The records about histories.
    pub points: Vec<Point>,
    /// The settings that the last calls were run with, as they stand in a record.
    pub config: Option<Vec<Vec<u8>>>,
}

/// The command of a logged call: internal ones included, its subcommand where it names one.
pub fn resolve(args: &[&[u8]]) -> Option<&'static Command> {
    let (_, command) = command_table().find(args.first()?)?;
    let subcommand = args.get(1).and_then(|name| command.subcommand(name));
    Some(subcommand.unwrap_or(command))
}

/// How a log is replayed.
pub struct Replaying<'a> {
    /// Threads that run records of one key each; at most [`lanes::THREADS_MAX`](crate::lanes::THREADS_MAX).
    pub threads: usize,
    /// Records in a row from which they do, [`lanes::TOGETHER_MIN`](crate::lanes::TOGETHER_MIN) where nothing
    /// else is to be tested.
    pub together_min: usize,
    /// Gets the index of a record now and then.
    pub progress: &'a mut dyn FnMut(u64),
    /// Called with no lock held, to make room in memory.
    pub relieve: &'a dyn Fn(),
}

/// Runs the records that `reader` has, in order, or as if they were. The engine must not have a journal yet.
///
/// # Errors
/// If a record cannot be read, or names a command that this version does not have, or the cold tier
/// lacks a value that it needs. What came before it has been run.
pub fn replay(
    engine: &Engine,
    mut reader: Reader,
    how: Replaying<'_>,
) -> Result<Replayed, LogError> {
    // A limit that was lowered since must not refuse what was accepted then.
    let config = engine.config();
    engine.update_config(|config| config.proto_max_bulk_len = usize::MAX);
    let lanes = Lanes::new(engine, how.threads);
    let (executor, done) = (engine.executor(), Replayed::default());
    let faults = faults(engine);
    let together_min = how.together_min.max(1);
    let mut replay = Replay {
        engine,
        lanes,
        executor,
        out: Vec::new(),
        done,
        faults,
        together_min,
        relieved: 0,
    };
    let result = replay.all(&mut reader, how);
    replay.executor.release();
    let result = result.map(|()| std::mem::take(&mut replay.done));
    drop(replay);
    engine.update_config(|now| *now = (*config).clone());
    result
}

/// Values on disk that could not be read so far.
fn faults(engine: &Engine) -> u64 {
    engine.tier().map_or(0, |tier| tier.stats.faults.load(Ordering::Relaxed))
}

/// A replay on its way.
struct Replay<'a> {
    engine: &'a Engine,
    lanes: Option<Lanes<'a>>,
    executor: Executor<'a>,
    out: Vec<u8>,
    done: Replayed,
    faults: u64,
    together_min: usize,
    /// Records when the host was last called to make room.
    relieved: u64,
}

/// The next records, and what is known of them.
struct Ahead {
    group: Group,
    items: Vec<Item>,
    parts: Vec<Part>,
}

/// Reads and looks at the next records.
fn read_ahead(
    lanes: Option<&Lanes<'_>>,
    reader: &mut Reader,
    together_min: usize,
) -> Result<Ahead, LogError> {
    let Some(lanes) = lanes else {
        let group = reader.next_group(GROUP)?;
        let parts = vec![Part::InTurn(0..group.len())];
        return Ok(Ahead { group, items: Vec::new(), parts });
    };
    let group = reader.next_group(lanes::BATCH_MAX)?;
    let look = |(nth, payload)| lanes.look(nth, group.bytes(), payload);
    let mut items: Vec<Item> = group.payloads().enumerate().map(look).collect();
    let parts = lanes::parts(&mut items, together_min);
    Ok(Ahead { group, items, parts })
}

impl Replay<'_> {
    fn all(&mut self, reader: &mut Reader, how: Replaying<'_>) -> Result<(), LogError> {
        let mut reported = 0;
        let mut now = read_ahead(self.lanes.as_ref(), reader, self.together_min)?;
        while let Some(index) = now.group.last() {
            let mut next = None;
            for part in &now.parts {
                let range = match part {
                    Part::Together(range) | Part::InTurn(range) => range.clone(),
                };
                if !self.together(&now, part, reader, &mut next) {
                    self.in_turn(&now, range, how.relieve)?;
                }
            }
            if self.done.batches - reported >= REPORTED_EVERY {
                reported = self.done.batches;
                (how.progress)(index);
            }
            now = match next {
                Some(next) => next?,
                None => read_ahead(self.lanes.as_ref(), reader, self.together_min)?,
            };
        }
        Ok(())
    }

    /// Runs records at the same time, if they can; the next ones are read meanwhile.
    fn together(
        &mut self,
        now: &Ahead,
        part: &Part,
        reader: &mut Reader,
        next: &mut Option<Result<Ahead, LogError>>,
    ) -> bool {
        let (Part::Together(range), Some(lanes)) = (part, &self.lanes) else { return false };
        let items = &now.items[range.clone()];
        if !lanes.can_run(&mut self.executor, items) {
            return false;
        }
        let meanwhile = || {
            if next.is_none() {
                *next = Some(read_ahead(Some(lanes), reader, self.together_min));
            }
        };
        lanes.run(&mut self.executor, now.group.bytes(), items, meanwhile);
        self.executor.release();
        self.executor.effects = Default::default();
        let count = items.len() as u64;
        self.done.calls += count;
        self.done.batches += count;
        self.done.together += count;
        if let Some(here) = &mut self.done.here {
            here.position += count;
        }
        true
    }

    /// Runs records one after the other.
    fn in_turn(
        &mut self,
        now: &Ahead,
        range: Range<usize>,
        relieve: &dyn Fn(),
    ) -> Result<(), LogError> {
        let nth = |at: usize| now.items.get(at).map_or(at, Item::nth);
        let mut start = range.start;
        while start < range.end {
            let end = range.end.min(start + GROUP);
            let group = (start..end).map(|at| now.group.batch(nth(at))).collect();
            start = end;
            let (db, group) = self.look_ahead(group);
            for (batch, first) in group {
                let index = batch.index;
                self.batch(batch, first, db)?;
                if faults(self.engine) != self.faults {
                    // Without the value the call did something else than when it was logged.
                    let fault = self.engine.tier().and_then(|tier| tier.fault());
                    let fault = fault.map_or_else(String::new, |fault| fault.to_string());
                    let text = format!("record {index} needs a value on disk: {fault}");
                    return Err(LogError::Io(text));
                }
            }
            if self.done.batches - self.relieved >= RELIEVED_EVERY {
                self.relieved = self.done.batches;
                relieve();
            }
        }
        Ok(())
    }
}

/// A call whose command is known, with what was found out about its first key.
struct Ready<'a> {
    logged: LoggedCall<'a>,
    command: Option<&'static Command>,
    hint: Prefetched,
}

impl<'a> Ready<'a> {
    fn new(logged: LoggedCall<'a>) -> Ready<'a> {
        let command = resolve(&logged.args);
        Ready { logged, command, hint: Prefetched::NONE }
    }

    fn first_key(&self) -> Option<&'a [u8]> {
        let at = self.command?.first_key(&self.logged.args);
        if at == 0 { None } else { self.logged.args.get(at).copied() }
    }
}

impl Replay<'_> {
    /// Takes the first call of each record and has what it looks for brought near. Of which database, and
    /// what was found: a hint is only a hint, whatever the calls before it do.
    fn look_ahead<'b>(
        &mut self,
        group: Vec<Batch<'b>>,
    ) -> (u32, Vec<(Batch<'b>, Option<Ready<'b>>)>) {
        let mut known: SmallVec<[Prefetched; GROUP]> = SmallVec::new();
        let mut db = None;
        let mut ready = Vec::with_capacity(group.len());
        for mut batch in group {
            let mut first = batch.calls.next().map(Ready::new);
            if let Some(first) = &mut first
                && *db.get_or_insert(first.logged.db) == first.logged.db
                && let Some(key) = first.first_key()
            {
                first.hint = self.executor.hint(key);
                known.extend((!first.hint.is_none()).then_some(first.hint));
            }
            ready.push((batch, first));
        }
        let db = db.unwrap_or(0);
        self.executor.prefetch(db, &mut known, true);
        let mut places = known.into_iter();
        for (_, first) in &mut ready {
            if let Some(first) = first.as_mut().filter(|first| !first.hint.is_none()) {
                first.hint = places.next().unwrap_or(Prefetched::NONE);
            }
        }
        (db, ready)
    }

    /// Runs the calls of a record, of which the first was taken already. Its hint is of the database `db`.
    fn batch<'b>(
        &mut self,
        mut batch: Batch<'b>,
        first: Option<Ready<'b>>,
        db: u32,
    ) -> Result<(), LogError> {
        let Batch { index, place, .. } = batch;
        let mut is_local = false;
        let rest = batch.calls.by_ref().map(Ready::new);
        for Ready { logged, command, hint } in first.into_iter().chain(rest) {
            if logged.args.first() == Some(&settings::NAME) {
                self.executor.release();
                self.engine.update_config(|config| settings::apply(&logged.args, config));
                let call = logged.args.iter().map(|arg| arg.to_vec()).collect();
                self.done.config = Some(call);
                continue;
            }
            if logged.args.first() == Some(&shipping::HISTORY_CALL) {
                let here = Position::decode(&logged.args[1..]);
                let here = here.ok_or(LogError::Unreadable(place))?;
                self.done.points.push(Point { index, position: here.position });
                self.done.here = Some(here);
                is_local = true;
                continue;
            }
            let command = command.ok_or(LogError::Unreadable(place))?;
            let call = Call {
                command,
                args: &logged.args,
                db: logged.db,
                stamp: &logged.stamp,
                may_block: false,
                no_touch: false,
            };
            self.out.clear();
            let hint = if logged.db == db { hint } else { Prefetched::NONE };
            let mut reply = Reply::new(&mut self.out, Protocol::Resp2);
            self.executor.run(&call, hint, &mut reply);
            self.done.calls += 1;
        }
        if batch.calls.is_broken() {
            return Err(LogError::Unreadable(place));
        }
        if let Some(here) = self.done.here.as_mut().filter(|_| !is_local) {
            here.position += 1;
        }
        self.executor.release();
        // Nobody waits for these; counters go too, they count what clients did.
        self.executor.effects = Default::default();
        self.done.batches += 1;
        Ok(())
    }
}
