//! The server as a whole: MONITOR, SHUTDOWN, WAITAOF, DEBUG's parts that are not about data.

use crate::config::ids;
use crate::host::Host;
use crate::registry::{HostCommand, HostRun};
use ashlar_engine::command::{Command, Flags, Group};
use ashlar_engine::error::{CmdResult, Error, Stop};
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
    HostCommand::new(
        Command::hosted("WAITAOF", 4, Group::Generic)
            .flags(Flags::NOSCRIPT.union(Flags::BLOCKING))
            .syntax("numlocal:integer numreplicas:integer timeout:integer")
            .docs("7.2.0", "O(1)", "Makes the writes durable; refused without a log."),
        wait_aof,
    ),
];

/// Functions of commands that the engine describes but that are the server's to run.
pub const OVERLAYS: &[(&str, &str, HostRun)] = &[
    ("DEBUG", "SLEEP", sleep),
    ("DEBUG", "SET-ACTIVE-EXPIRE", set_active_expire),
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
            b"NOW" => {}
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

/// Waits until the time in `timeout` is up: no replica will ever answer.
fn wait_in_vain(host: &mut Host<'_, '_>, timeout: i64) -> Stop {
    let until = (timeout > 0).then(|| host.stamp.now_ms.saturating_add(timeout));
    host.block_until_ms = Some(until);
    Stop::WouldBlock
}

fn timeout(arg: &[u8]) -> Result<i64, Error> {
    let timeout = number::parse_i64(arg)
        .ok_or(Error::text("ERR timeout is not an integer or out of range"))?;
    if timeout < 0 {
        return Err(Error::text("ERR timeout is negative"));
    }
    Ok(timeout)
}

fn wait_aof(host: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let local = number::parse_i64(args[1]).ok_or(Error::NotInteger)?;
    if !(0..=1).contains(&local) {
        return Err(Error::text("ERR value is out of range, must be between 0 and 1").into());
    }
    let replicas = number::parse_i64(args[2]).ok_or(Error::NotInteger)?;
    if replicas < 0 {
        return Err(Error::text("ERR value is out of range, must be positive").into());
    }
    let timeout = timeout(args[3])?;
    let gate = host.shared.gate.get();
    if local > 0 && gate.is_none() {
        let text = "ERR WAITAOF cannot be used when numlocal is set but appendonly is disabled.";
        return Err(Error::text(text).into());
    }
    if replicas > 0 && !host.session.in_transaction {
        return Err(wait_in_vain(host, timeout));
    }
    // No need to wait: the sync is done here, by whoever asks first for all that has gathered.
    let durable = gate.filter(|_| local > 0).is_some_and(|gate| gate.log.sync().is_ok());
    reply.array(2);
    reply.int(i64::from(durable));
    reply.int(0);
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

fn set_active_expire(host: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let on = number::parse_i64(args[2]).ok_or(Error::NotInteger)?;
    host.shared.active_expire.store(on != 0, Ordering::Release);
    reply.ok();
    Ok(())
}
