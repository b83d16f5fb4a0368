//! Transactions: MULTI, EXEC, WATCH.

use super::connection::unwatch;
use crate::acl::{Place, Reason, Refusal};
use crate::host::{AGAIN_MAX, Flow, Host};
use crate::memory::{self, Room};
use crate::registry::HostCommand;
use crate::session::{Multi, NAME_BYTES, Queued, WATCHED_KEYS_MAX};
use ashlar_engine::command::{Command, Flags, Group, Keys};
use ashlar_engine::error::{CmdResult, Error, Stop};
use ashlar_engine::executor::{Call, Prefetched};
use ashlar_engine::policy;
use ashlar_engine::reply::{Reply, TOO_LONG};
use ashlar_engine::tier::Needs;
use std::sync::atomic::Ordering;

const ANY: Flags =
    Flags::NOSCRIPT.union(Flags::LOADING).union(Flags::STALE).union(Flags::ALLOW_BUSY);

/// The family's commands.
pub const COMMANDS: &[HostCommand] = &[
    HostCommand::new(
        Command::hosted("MULTI", 1, Group::Transactions).flags(ANY.union(Flags::FAST)).docs(
            "1.2.0",
            "O(1)",
            "Starts a transaction: commands are queued until EXEC.",
        ),
        multi,
    ),
    HostCommand::new(
        Command::hosted("EXEC", 1, Group::Transactions).flags(ANY).docs(
            "1.2.0",
            "Depends on the commands",
            "Runs the queued commands as one.",
        ),
        exec,
    ),
    HostCommand::new(
        Command::hosted("DISCARD", 1, Group::Transactions).flags(ANY.union(Flags::FAST)).docs(
            "2.0.0",
            "O(N) for N queued commands",
            "Gives up the transaction.",
        ),
        discard,
    ),
    HostCommand::new(
        Command::hosted("WATCH", -2, Group::Transactions)
            .flags(ANY.union(Flags::FAST))
            .keys(Keys::ALL)
            .syntax("key...")
            .docs(
                "2.2.0",
                "O(1) for each key",
                "Makes the next transaction fail if one of the keys changes before it.",
            ),
        watch,
    ),
    HostCommand::new(
        Command::hosted("UNWATCH", 1, Group::Transactions).flags(ANY.union(Flags::FAST)).docs(
            "2.2.0",
            "O(1)",
            "Forgets the watched keys.",
        ),
        |host, _, reply| {
            unwatch(host.exec, host.session);
            reply.ok();
            Ok(())
        },
    ),
];

fn multi(host: &mut Host<'_, '_>, _: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    if host.session.multi.is_some() {
        return Err(Error::text("ERR MULTI calls can not be nested").into());
    }
    host.session.multi = Some(Box::default());
    reply.ok();
    Ok(())
}

fn discard(host: &mut Host<'_, '_>, _: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    if host.session.multi.take().is_none() {
        return Err(Error::text("ERR DISCARD without MULTI").into());
    }
    unwatch(host.exec, host.session);
    reply.ok();
    Ok(())
}

fn watch(host: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    if host.session.multi.is_some() {
        return Err(Error::text("ERR WATCH inside MULTI is not allowed").into());
    }
    let db = host.session.db;
    if host.shared.scripts.is_running.load(Ordering::Acquire) && !host.exec.try_lock_all() {
        return Err(host.shared.scripts.busy_error().into());
    }
    for &key in &args[1..] {
        let session = &mut *host.session;
        let place = (db, Box::from(key));
        if session.watched.contains_key(&place) {
            continue;
        }
        if session.watched.len() >= WATCHED_KEYS_MAX {
            return Err(Error::text("ERR too many watched keys").into());
        }
        let lapsed = host.exec.is_lapsed(db, key, host.stamp.now_ms);
        host.exec.watch(db, key, &session.watch_token);
        session.watched.insert(place, lapsed);
        session.name_bytes[0] += key.len() + NAME_BYTES;
    }
    host.exec.release();
    reply.ok();
    Ok(())
}

/// Whether a watched key has changed. One that has expired since counts as changed.
pub fn is_spoiled(host: &mut Host<'_, '_>) -> bool {
    if host.session.watch_token.is_dirty() {
        return true;
    }
    let now_ms = host.stamp.now_ms;
    let exec = &mut *host.exec;
    let watched = &host.session.watched;
    watched.iter().any(|((db, key), lapsed)| !lapsed && exec.is_lapsed(*db, key, now_ms))
}

fn exec(host: &mut Host<'_, '_>, _: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let Some(multi) = host.session.multi.take() else {
        return Err(Error::text("ERR EXEC without MULTI").into());
    };
    if multi.aborted {
        unwatch(host.exec, host.session);
        let text = "EXECABORT Transaction discarded because of previous errors.";
        return Err(Error::text(text).into());
    }
    let grows = |queued: &Queued| queued.resolved.command.flags.contains(Flags::DENYOOM);
    // Commands of a transaction do not wait for room one by one, nor does the transaction itself.
    if multi.queue.iter().any(grows) && memory::make_room(host) == Room::No {
        unwatch(host.exec, host.session);
        return Err(Error::OutOfMemory.into());
    }
    let waits = host.again.tries < AGAIN_MAX && !host.session.from_primary;
    if waits && host.shared.cold.is_some() && needs_disk(host, &multi) {
        host.session.multi = Some(multi);
        return Err(Stop::Cold);
    }
    // From the check of the watched keys to the last command, nobody else gets in between.
    if host.session.from_primary {
        host.exec.lock_all();
    } else if !host.exec.try_lock_all() {
        // What is watched stays so, since to let go of it would wait too: at worst the next
        // transaction is refused.
        let reason = host.shared.scripts.busy_error();
        let reason = reason.message();
        let text = format!("EXECABORT Transaction discarded because of: {reason}");
        return Err(Error::owned(text).into());
    }
    let spoiled = is_spoiled(host);
    if spoiled {
        unwatch(host.exec, host.session);
        reply.null_array();
        return Ok(());
    }
    host.exec.lock_all();
    if let Err(error) = check_classes(host, &multi) {
        unwatch(host.exec, host.session);
        return Err(error.into());
    }
    host.session.in_transaction = true;
    host.exec.begin_batch();
    reply.array(multi.queue.len());
    host.exec.begin_group();
    let protocol = host.session.protocol;
    for queued in &multi.queue {
        let args: Vec<&[u8]> = queued.args.iter().map(|arg| &**arg).collect();
        let mut out = Vec::new();
        run_queued(host, queued, &args, &mut Reply::new(&mut out, host.session.protocol));
        if !reply.is_too_long() {
            reply.raw(&out);
        }
    }
    if reply.is_too_long() {
        // The commands have run; who asks for that much loses the replies and the connection.
        host.session.close_after_reply = true;
        reply.error(&Error::text(TOO_LONG));
    }
    host.exec.commit_batch();
    reply.set_protocol(protocol);
    host.exec.end_group();
    host.session.in_transaction = false;
    unwatch(host.exec, host.session);
    Ok(())
}

/// Refuses a transaction over two classes of keys.
fn check_classes(host: &Host<'_, '_>, multi: &Multi) -> Result<(), Error> {
    let queue = multi.queue.iter();
    let calls = queue.map(|queued| {
        let args: Vec<&[u8]> = queued.args.iter().map(|arg| &**arg).collect();
        (queued.resolved.command, args)
    });
    // Whose rules count is asked of a key only where groups have their own.
    let first = host.shared.cluster.get().and_then(|_| {
        let mut calls = calls.clone();
        calls.find_map(|(command, args)| match command.first_key(&args) {
            0 => None,
            at => args.get(at).copied(),
        })
    });
    policy::check_one_class(host.exec.policies_of(first.unwrap_or_default()), calls)
}

/// Whether commands of a transaction need values that are on disk: they are read before the locks are
/// taken.
fn needs_disk(host: &mut Host<'_, '_>, multi: &Multi) -> bool {
    let mut needs = Needs::default();
    let mut db = host.session.db;
    for queued in &multi.queue {
        let args: Vec<&[u8]> = queued.args.iter().map(|arg| &**arg).collect();
        if queued.resolved.command.name == "SELECT" {
            // A number that is none is refused when the command runs.
            let selected = args.get(1).and_then(|arg| std::str::from_utf8(arg).ok()?.parse().ok());
            db = selected.filter(|&db| db < host.exec.config().databases).unwrap_or(db);
        }
        let call = Call {
            command: queued.resolved.command,
            args: &args,
            db,
            stamp: &host.stamp,
            may_block: false,
            no_touch: true,
        };
        if queued.resolved.host.is_none() {
            needs.extend(host.exec.needs_of(&call));
        }
    }
    host.exec.release();
    let needed = !needs.is_empty();
    host.exec.set_needs(needs);
    needed
}

/// Runs one queued command; its reply is an element of EXEC's.
fn run_queued(host: &mut Host<'_, '_>, queued: &Queued, args: &[&[u8]], reply: &mut Reply<'_>) {
    let resolved = &queued.resolved;
    // The permissions may have changed since the command was queued.
    if let Err(refusal) = host.check_permissions(resolved, args, Place::Multi) {
        let denied = match refusal {
            Refusal::Sort(error) => return reply.error(&error),
            Refusal::Denied(denied) => denied,
        };
        let reason = match denied.reason {
            Reason::Command | Reason::Auth => "no permission to execute the command or subcommand",
            Reason::Key => "no permission to touch the specified keys",
            Reason::Channel => {
                "no permission to access one of the channels used as arguments to the command"
            }
        };
        return reply.error(&Error::owned(format!(
            "NOPERM ACLs rules changed between the moment the transaction was accumulated and the \
             EXEC call. This command is no longer allowed for the following reason: {reason}"
        )));
    }
    let result = match resolved.host {
        Some(run) => run(host, args, reply),
        None => match host.call_engine(resolved, args, Prefetched::NONE, reply) {
            Flow::Next => Ok(()),
            flow => unreachable!("commands do not block in a transaction, but {flow:?}"),
        },
    };
    if let Err(stop) = result {
        let text = match stop {
            Stop::Error(error) => error,
            Stop::WouldBlock | Stop::Cold => {
                Error::text("ERR the command would block, which it cannot in a transaction")
            }
        };
        reply.error(&text);
    }
}
