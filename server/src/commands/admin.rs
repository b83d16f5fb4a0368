//! The server as a whole: MONITOR, SHUTDOWN, WAITAOF, DEBUG's parts that are not about data.

use crate::config::ids;
use crate::host::Host;
use crate::registry::{HostCommand, HostRun};
use ashlar_engine::command::{Command, Flags, Group};
use ashlar_engine::error::{CmdResult, Error};
use ashlar_engine::executor::Prefetched;
use ashlar_engine::number;
use ashlar_engine::reply::Reply;
use std::sync::atomic::Ordering;
use std::time::Duration;

const ADMIN: Flags = Flags::ADMIN
    .union(Flags::NOSCRIPT)
    .union(Flags::LOADING)
    .union(Flags::STALE)
    .union(Flags::DANGEROUS);

/// The family's commands.
pub const COMMANDS: &[HostCommand] = &[
    HostCommand::new(
        Command::hosted("MONITOR", 1, Group::Server).flags(ADMIN).docs(
            "1.0.0",
            "",
            "Shows every command that the server is given.",
        ),
        monitor,
    ),
    HostCommand::new(
        Command::hosted("SHUTDOWN", -1, Group::Server)
            .flags(ADMIN.union(Flags::NO_MULTI).union(Flags::ALLOW_BUSY))
            .syntax("[NOSAVE|SAVE] [NOW] [FORCE] [ABORT]")
            .docs("1.0.0", "O(1)", "Stops the server."),
        shutdown,
    ),
];

/// Functions of commands that the engine describes but that are the server's to run.
pub const OVERLAYS: &[(&str, &str, HostRun)] = &[
    ("DEBUG", "SLEEP", sleep),
    ("DEBUG", "SET-ACTIVE-EXPIRE", set_active_expire),
    ("DEBUG", "SYNC-FAULT", sync_fault),
    ("DEBUG", "RELOAD", super::persistence::reload),
];

/// DEBUG: who may call it can stop everybody else, so `enable-debug-command` is asked first.
///
/// # Errors
/// With Redis's text, where the setting forbids it.
pub fn debug(host: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let allowed = match &*host.shared.settings.show(ids::ENABLE_DEBUG_COMMAND) {
        b"yes" => true,
        b"local" => host.session.client.is_local(),
        _ => false,
    };
    if !allowed {
        return Err(Error::text(
            "ERR DEBUG command not allowed. If the enable-debug-command option is set to \"local\", \
             you can run it from a local connection, otherwise you need to set this option in the \
             configuration file, and then restart the server.",
        )
        .into());
    }
    let name = args.get(1).copied().unwrap_or_default();
    let own = OVERLAYS.iter().find(|one| one.0 == "DEBUG" && is(name, one.1));
    if let Some((_, _, run)) = own {
        return run(host, args, reply);
    }
    let resolved = host.shared.registry.resolve(args)?;
    // The engine's part: it has no time of its own, so it cannot block.
    host.call_engine(resolved, args, Prefetched::NONE, reply);
    Ok(())
}

fn is(arg: &[u8], name: &str) -> bool {
    arg.eq_ignore_ascii_case(name.as_bytes())
}

fn monitor(host: &mut Host<'_, '_>, _: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    if host.session.in_transaction {
        return Err(Error::text("ERR MONITOR isn't allowed for DENY BLOCKING client").into());
    }
    if !std::mem::replace(&mut host.session.monitor, true) {
        host.shared.monitors.write().push(host.session.client.clone());
        host.shared.monitored.store(true, Ordering::Release);
    }
    reply.ok();
    Ok(())
}

fn shutdown(host: &mut Host<'_, '_>, args: &[&[u8]], _: &mut Reply<'_>) -> CmdResult {
    let settings = &host.shared.settings;
    let mut saves = !settings.text(ids::SAVE).is_empty();
    let mut force = false;
    for option in &args[1..] {
        match option.to_ascii_uppercase().as_slice() {
            b"NOSAVE" => saves = false,
            b"SAVE" => saves = true,
            b"FORCE" => force = true,
            b"NOW" => host.shared.replication.hurries.store(true, Ordering::Release),
            b"ABORT" if args.len() == 2 => {
                return Err(Error::text("ERR No shutdown in progress.").into());
            }
            _ => return Err(Error::Syntax.into()),
        }
    }
    let persistence = host.shared.persistence.clone();
    let dirty = persistence.changes.load(Ordering::Relaxed) > 0 || persistence.is_saving();
    let loading = persistence.loading.load(Ordering::Acquire);
    // The workers still serve: what they change meanwhile is saved once they have ended.
    if saves && dirty && !loading && !persistence.is_saving() {
        host.exec.release();
        if persistence.save(&host.shared.settings).is_err() && !force {
            return Err(Error::text("ERR Errors trying to SHUTDOWN. Check logs.").into());
        }
    }
    // The first SHUTDOWN counts.
    let _ = host.shared.saves_at_end.set(saves);
    tracing::info!("SHUTDOWN: the server stops");
    host.session.close_after_reply = true;
    host.shared.stop();
    Ok(())
}

/// Longest DEBUG SLEEP.
const SLEEP_SECONDS_MAX: f64 = 3600.0;

fn sleep(_: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let seconds = number::parse_f64(args[2]).ok_or(Error::NotFloat)?;
    std::thread::sleep(Duration::from_secs_f64(seconds.clamp(0.0, SLEEP_SECONDS_MAX)));
    reply.ok();
    Ok(())
}

fn sync_fault(_: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let on = number::parse_i64(args[2]).ok_or(Error::NotInteger)?;
    ashlar_engine::disk::fail_syncs(on != 0);
    reply.ok();
    Ok(())
}

fn set_active_expire(host: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let on = number::parse_i64(args[2]).ok_or(Error::NotInteger)?;
    host.shared.active_expire.store(on != 0, Ordering::Release);
    reply.ok();
    Ok(())
}
