//! CLIENT: what a connection asks and says about itself and others.

use super::client_kill;
use super::client_tracking;
use super::connection::check_name;
use crate::host::Host;
use crate::registry::HostCommand;
use crate::session::ReplyMode;
use ashlar_engine::command::{Command, Flags, Group};
use ashlar_engine::error::{CmdResult, Error};
use ashlar_engine::number;
use ashlar_engine::reply::Reply;
use ashlar_replication::raft::RequestId;
use std::sync::atomic::Ordering;

const ANY: Flags = Flags::NOSCRIPT.union(Flags::LOADING).union(Flags::STALE);
const ADMIN: Flags = ANY.union(Flags::ADMIN).union(Flags::DANGEROUS);

const fn sub(
    name: &'static str,
    arity: i32,
    flags: Flags,
    syntax: &'static str,
    since: &'static str,
    summary: &'static str,
) -> Command {
    Command::hosted(name, arity, Group::Connection)
        .flags(flags)
        .syntax(syntax)
        .docs(since, "O(1)", summary)
}

/// The family's commands.
pub const COMMANDS: &[HostCommand] = &[HostCommand::container(
    Command::hosted("CLIENT", -2, Group::Connection).docs(
        "2.4.0",
        "Depends on the subcommand",
        "Asks and tells about connections.",
    ),
    SUBCOMMANDS,
)];

const SUBCOMMANDS: &[HostCommand] = &[
    HostCommand::new(
        sub(
            "REQUESTID",
            4,
            ANY,
            "client:integer sequence:integer",
            "7.4.0",
            "Gives the next write an id: repeated under it, the write is applied once.",
        ),
        request_id,
    ),
    HostCommand::new(sub("ID", 2, ANY, "", "5.0.0", "Returns the connection's id."), id),
    HostCommand::new(sub("INFO", 2, ANY, "", "6.2.0", "Describes the connection."), info),
    HostCommand::new(
        sub(
            "LIST",
            -2,
            ADMIN,
            "[TYPE (NORMAL|MASTER|REPLICA|PUBSUB)] [ID client-id:integer...]",
            "2.4.0",
            "Describes the connections.",
        ),
        client_kill::list,
    ),
    HostCommand::new(
        sub(
            "KILL",
            -3,
            ADMIN,
            "(old-format|([ID client-id:integer] [TYPE (NORMAL|MASTER|REPLICA|PUBSUB)] \
             [USER username] [ADDR addr] [LADDR laddr] [SKIPME (YES|NO)] [MAXAGE age:integer])...)",
            "2.4.0",
            "Closes connections.",
        ),
        client_kill::kill,
    ),
    HostCommand::new(
        sub("SETNAME", 3, ANY, "connection-name", "2.6.9", "Names the connection."),
        set_name,
    ),
    HostCommand::new(
        sub("GETNAME", 2, ANY, "", "2.6.9", "Returns the connection's name."),
        get_name,
    ),
    HostCommand::new(
        sub(
            "SETINFO",
            4,
            ANY,
            "(LIB-NAME libname|LIB-VER libver)",
            "7.2.0",
            "Says which client library the connection uses.",
        ),
        set_info,
    ),
    HostCommand::new(
        sub("REPLY", 3, ANY, "(ON|OFF|SKIP)", "3.2.0", "Turns replies on or off."),
        reply_mode,
    ),
    HostCommand::new(
        sub("PAUSE", -3, ADMIN, "timeout:integer [WRITE|ALL]", "3.0.0", "Makes all clients wait."),
        pause,
    ),
    HostCommand::new(sub("UNPAUSE", 2, ADMIN, "", "6.2.0", "Ends a pause."), unpause),
    HostCommand::new(
        sub(
            "UNBLOCK",
            -3,
            ADMIN,
            "client-id:integer [TIMEOUT|ERROR]",
            "5.0.0",
            "Ends the wait of a blocked client.",
        ),
        unblock,
    ),
    HostCommand::new(
        sub("NO-EVICT", 3, ADMIN, "(ON|OFF)", "7.0.0", "Spares the connection from eviction."),
        no_evict,
    ),
    HostCommand::new(
        sub(
            "NO-TOUCH",
            3,
            ANY,
            "(ON|OFF)",
            "7.2.0",
            "Keeps the connection's reads from counting as accesses.",
        ),
        no_touch,
    ),
    HostCommand::new(
        sub("GETREDIR", 2, ANY, "", "6.0.0", "Tells to which client invalidations are redirected."),
        client_tracking::get_redir,
    ),
    HostCommand::new(
        sub("TRACKINGINFO", 2, ANY, "", "6.2.0", "Tells how client-side caching is set."),
        client_tracking::tracking_info,
    ),
    HostCommand::new(
        sub(
            "TRACKING",
            -3,
            ANY,
            "(ON|OFF) [REDIRECT client-id:integer] [PREFIX prefix]... [BCAST] [OPTIN] [OPTOUT] \
             [NOLOOP]",
            "6.0.0",
            "Turns client-side caching on or off: what was read is reported once it changes.",
        ),
        client_tracking::tracking,
    ),
    HostCommand::new(
        sub(
            "CACHING",
            3,
            ANY,
            "(YES|NO)",
            "6.0.0",
            "Says whether the keys of the next command are tracked.",
        ),
        client_tracking::caching,
    ),
    HostCommand::new(sub("HELP", 2, ANY, "", "5.0.0", "Lists the subcommands."), help),
];

fn request_id(host: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let number = |arg: &[u8]| number::parse_i64(arg).and_then(|n| u64::try_from(n).ok());
    let (Some(client), Some(sequence)) = (number(args[2]), number(args[3])) else {
        return Err(Error::NotInteger.into());
    };
    if client == 0 {
        return Err(Error::text("ERR the client's number is above 0").into());
    }
    host.session.request_id.set(RequestId { client, sequence });
    reply.ok();
    Ok(())
}

fn id(host: &mut Host<'_, '_>, _: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    reply.int(host.session.address.id as i64);
    Ok(())
}

fn info(host: &mut Host<'_, '_>, _: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    host.session.publish();
    let mut line = client_kill::line(host, &host.session.client);
    line.push('\n');
    reply.verbatim("txt", &line);
    Ok(())
}

fn set_name(host: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    check_name(args[2])?;
    host.session.client.names.lock().name = args[2].to_vec();
    reply.ok();
    Ok(())
}

fn get_name(host: &mut Host<'_, '_>, _: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let names = host.session.client.names.lock();
    if names.name.is_empty() {
        reply.null();
    } else {
        reply.bulk(&names.name);
    }
    Ok(())
}

fn set_info(host: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let (field, value) = (args[2], args[3]);
    let mut names = host.session.client.names.lock();
    let (place, shown) = if field.eq_ignore_ascii_case(b"LIB-NAME") {
        (&mut names.lib_name, "lib-name")
    } else if field.eq_ignore_ascii_case(b"LIB-VER") {
        (&mut names.lib_ver, "lib-ver")
    } else {
        return Err(Error::quoting("ERR Unrecognized option '{}'", &[field]).into());
    };
    if !value.iter().all(|byte| (b'!'..=b'~').contains(byte)) {
        return Err(Error::owned(format!(
            "ERR {shown} cannot contain spaces, newlines or special characters."
        ))
        .into());
    }
    *place = value.to_vec();
    reply.ok();
    Ok(())
}

fn reply_mode(host: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let mode = args[2].to_ascii_uppercase();
    match mode.as_slice() {
        b"ON" => {
            host.session.reply_mode = ReplyMode::On;
            reply.ok();
        }
        b"OFF" => host.session.reply_mode = ReplyMode::Off,
        b"SKIP" if host.session.reply_mode == ReplyMode::On => {
            host.session.reply_mode = ReplyMode::SkipNext;
        }
        b"SKIP" => {}
        _ => return Err(Error::Syntax.into()),
    }
    Ok(())
}

/// Longest pause: a client's mistake must not stop a server for years.
const PAUSE_MS_MAX: i64 = 1000 * 60 * 60 * 24 * 366;

fn pause(host: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let writes_only = match args.get(3) {
        None => false,
        Some(mode) if mode.eq_ignore_ascii_case(b"ALL") => false,
        Some(mode) if mode.eq_ignore_ascii_case(b"WRITE") => true,
        Some(_) => return Err(Error::Syntax.into()),
    };
    if args.len() > 4 {
        return Err(Error::Syntax.into());
    }
    let timeout = number::parse_i64(args[2])
        .ok_or(Error::text("ERR timeout is not an integer or out of range"))?;
    if timeout < 0 {
        return Err(Error::text("ERR timeout is negative").into());
    }
    let until = host.stamp.now_ms + timeout.min(PAUSE_MS_MAX);
    let pause = &host.shared.pause;
    // A pause that is on already is only made longer and stricter.
    let already = pause.until_ms.load(Ordering::Acquire) > host.stamp.now_ms;
    let strict = already && !pause.writes_only.load(Ordering::Acquire);
    pause.writes_only.store(writes_only && !strict, Ordering::Release);
    let before = if already { pause.until_ms.load(Ordering::Acquire) } else { 0 };
    pause.until_ms.store(until.max(before), Ordering::SeqCst);
    pause.active.store(true, Ordering::SeqCst);
    reply.ok();
    Ok(())
}

fn unpause(host: &mut Host<'_, '_>, _: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let pause = &host.shared.pause;
    pause.until_ms.store(0, Ordering::SeqCst);
    pause.end_if_over(host.stamp.now_ms);
    host.shared.broadcast(|| crate::mailbox::Message::Resume);
    reply.ok();
    Ok(())
}

fn unblock(host: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let id = number::parse_i64(args[2]).ok_or(Error::NotInteger)?;
    let with_error = match args.get(3) {
        None => false,
        Some(how) if how.eq_ignore_ascii_case(b"TIMEOUT") => false,
        Some(how) if how.eq_ignore_ascii_case(b"ERROR") => true,
        Some(_) => {
            let text = "ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR";
            return Err(Error::text(text).into());
        }
    };
    let client = u64::try_from(id).ok().and_then(|id| host.shared.clients.get(id));
    // Cancelled here, so that the answer is true: one that is being served now is not unblocked.
    let blocked = client.filter(|client| {
        let waiter = client.waiter.lock().clone();
        waiter.is_some_and(|waiter| host.shared.blocking.cancel(&waiter, host.exec))
    });
    if let Some(client) = &blocked {
        let message = crate::mailbox::Message::GiveUp(client.address, with_error);
        host.shared.mailboxes[client.address.worker].post(message);
    }
    reply.int(i64::from(blocked.is_some()));
    Ok(())
}

fn on_or_off(arg: &[u8]) -> Result<bool, Error> {
    match arg.to_ascii_uppercase().as_slice() {
        b"ON" => Ok(true),
        b"OFF" => Ok(false),
        _ => Err(Error::Syntax),
    }
}

fn no_evict(host: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    host.session.client.no_evict.store(on_or_off(args[2])?, Ordering::Relaxed);
    reply.ok();
    Ok(())
}

fn no_touch(host: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    host.session.no_touch = on_or_off(args[2])?;
    reply.ok();
    Ok(())
}

fn help(_: &mut Host<'_, '_>, _: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let lines = SUBCOMMANDS.iter().map(|sub| &sub.command).filter(|sub| sub.name != "HELP");
    let lines: Vec<(String, &str)> =
        lines.map(|sub| (format!("{} {}", sub.name, sub.syntax), sub.summary)).collect();
    let lines: Vec<(&str, &str)> = lines.iter().map(|(form, text)| (form.trim(), *text)).collect();
    super::help(reply, "CLIENT", &lines);
    Ok(())
}
