//! Runs the records of a log on an engine.

use super::{LogError, Reader, settings};
use crate::command::Command;
use crate::engine::{Engine, command_table};
use crate::executor::{Call, Prefetched};
use crate::reply::{Protocol, Reply};
use crate::shipping::{self, Point, Position};
use std::sync::atomic::Ordering;

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

/// Runs the records that `reader` has, in order. The engine must not have a journal yet.
/// `progress` gets the index of a record now and then; `relieve` is called with no lock held, to make
/// room in memory.
///
/// # Errors
/// If a record cannot be read, or names a command that this version does not have, or the cold tier
/// lacks a value that it needs. What came before it has been run.
pub fn replay(
    engine: &Engine,
    mut reader: Reader,
    mut progress: impl FnMut(u64),
    relieve: impl Fn(),
) -> Result<Replayed, LogError> {
    // A limit that was lowered since must not refuse what was accepted then.
    let config = engine.config();
    engine.update_config(|config| config.proto_max_bulk_len = usize::MAX);
    let result = run(engine, &mut reader, &mut progress, &relieve);
    engine.update_config(|now| *now = (*config).clone());
    result
}

fn run(
    engine: &Engine,
    reader: &mut Reader,
    progress: &mut impl FnMut(u64),
    relieve: &impl Fn(),
) -> Result<Replayed, LogError> {
    let mut done = Replayed::default();
    let (mut executor, mut out) = (engine.executor(), Vec::new());
    let faults = || engine.tier().map_or(0, |tier| tier.stats.faults.load(Ordering::Relaxed));
    let faults_before = faults();
    while let Some(mut batch) = reader.next()? {
        let mut is_local = false;
        for logged in batch.calls.by_ref() {
            if logged.args.first() == Some(&settings::NAME) {
                executor.release();
                engine.update_config(|config| settings::apply(&logged.args, config));
                done.config = Some(logged.args.iter().map(|arg| arg.to_vec()).collect());
                continue;
            }
            if logged.args.first() == Some(&shipping::HISTORY_CALL) {
                let here = Position::decode(&logged.args[1..]);
                let here = here.ok_or(LogError::Unreadable(batch.place))?;
                done.points.push(Point { index: batch.index, position: here.position });
                done.here = Some(here);
                is_local = true;
                continue;
            }
            let unreadable = LogError::Unreadable(batch.place);
            let command = resolve(&logged.args).ok_or(unreadable)?;
            let call = Call {
                command,
                args: &logged.args,
                db: logged.db,
                stamp: &logged.stamp,
                may_block: false,
                no_touch: false,
            };
            out.clear();
            executor.run(&call, Prefetched::NONE, &mut Reply::new(&mut out, Protocol::Resp2));
            done.calls += 1;
        }
        if batch.calls.is_broken() {
            return Err(LogError::Unreadable(batch.place));
        }
        if let Some(here) = done.here.as_mut().filter(|_| !is_local) {
            here.position += 1;
        }
        executor.release();
        // Nobody waits for these; counters go too, they count what clients did.
        executor.effects = Default::default();
        done.batches += 1;
        if faults() != faults_before {
            // Without the value the call did something else than when it was logged.
            let fault = engine.tier().and_then(|tier| tier.fault());
            let fault = fault.map_or_else(String::new, |fault| fault.to_string());
            return Err(LogError::Io(format!(
                "record {} needs a value on disk: {fault}",
                batch.index
            )));
        }
        if done.batches.is_multiple_of(RELIEVED_EVERY) {
            relieve();
        }
        if done.batches.is_multiple_of(REPORTED_EVERY) {
            progress(batch.index);
        }
    }
    Ok(done)
}
