//! Snapshots by command: SAVE, BGSAVE, LASTSAVE, BGREWRITEAOF, and DEBUG RELOAD.

use crate::host::Host;
use crate::persistence::NotStarted;
use crate::registry::HostCommand;
use ashlar_engine::command::{Command, Flags, Group};
use ashlar_engine::error::{CmdResult, Error};
use ashlar_engine::reply::Reply;
use std::sync::atomic::Ordering;

const ADMIN: Flags = Flags::ADMIN.union(Flags::NOSCRIPT);

const fn command(name: &'static str, arity: i32, flags: Flags, summary: &'static str) -> Command {
    Command::hosted(name, arity, Group::Server).flags(flags).docs("1.0.0", "O(N)", summary)
}

/// The family's commands.
pub const COMMANDS: &[HostCommand] = &[
    HostCommand::new(
        command(
            "LASTSAVE",
            1,
            Flags::LOADING.union(Flags::STALE).union(Flags::FAST),
            "Returns when data was last saved.",
        ),
        last_save,
    ),
    HostCommand::new(
        command(
            "SAVE",
            1,
            ADMIN.union(Flags::NO_MULTI),
            "Saves the data to disk and waits for it.",
        ),
        save,
    ),
    HostCommand::new(
        command("BGSAVE", -1, ADMIN, "Saves the data to disk in the background.")
            .syntax("[SCHEDULE]"),
        bgsave,
    ),
    HostCommand::new(
        command("BGREWRITEAOF", 1, ADMIN, "Takes a snapshot and lets go of the log before it."),
        rewrite,
    ),
];

fn busy() -> Error {
    Error::text("ERR Background save already in progress")
}

fn last_save(host: &mut Host<'_, '_>, _: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    reply.int(host.shared.persistence.last().unix);
    Ok(())
}

fn save(host: &mut Host<'_, '_>, _: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    host.exec.release();
    save_now(host)?;
    reply.ok();
    Ok(())
}

/// Takes a snapshot and waits for it; the connections of this worker wait, too.
///
/// # Errors
/// If one is on its way, or it fails.
pub fn save_now(host: &mut Host<'_, '_>) -> Result<(), Error> {
    match host.shared.persistence.save(&host.shared.settings) {
        Ok(()) => Ok(()),
        Err(NotStarted::Busy) => Err(busy()),
        Err(NotStarted::Failed(text)) => Err(Error::owned(format!("ERR {text}"))),
    }
}

fn bgsave(host: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let schedule = match args {
        [_] => false,
        [_, option] if option.eq_ignore_ascii_case(b"schedule") => true,
        _ => return Err(Error::Syntax.into()),
    };
    let persistence = &host.shared.persistence;
    let rewrites = persistence.is_saving() && persistence.rewrites.load(Ordering::Relaxed);
    if persistence.is_saving() && !rewrites {
        return Err(busy().into());
    }
    if host.session.in_transaction || rewrites {
        if !schedule && !host.session.in_transaction {
            return Err(Error::text(
                "ERR Another child process is active (AOF?): can't BGSAVE right now. Use BGSAVE \
                 SCHEDULE in order to schedule a BGSAVE whenever possible.",
            )
            .into());
        }
        persistence.scheduled.store(true, Ordering::Relaxed);
        reply.simple("Background saving scheduled");
        return Ok(());
    }
    match persistence.save_in_background(&host.shared.settings, false) {
        Ok(()) => reply.simple("Background saving started"),
        Err(NotStarted::Busy) => return Err(busy().into()),
        Err(NotStarted::Failed(text)) => return Err(Error::owned(format!("ERR {text}")).into()),
    }
    Ok(())
}

fn rewrite(host: &mut Host<'_, '_>, _: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let persistence = &host.shared.persistence;
    if persistence.is_saving() && persistence.rewrites.load(Ordering::Relaxed) {
        let text = "ERR Background append only file rewriting already in progress";
        return Err(Error::text(text).into());
    }
    if persistence.is_saving() || host.session.in_transaction {
        persistence.scheduled.store(true, Ordering::Relaxed);
        reply.simple("Background append only file rewriting scheduled");
        return Ok(());
    }
    match persistence.save_in_background(&host.shared.settings, true) {
        Ok(()) => reply.simple("Background append only file rewriting started"),
        Err(NotStarted::Busy) => reply.simple("Background append only file rewriting scheduled"),
        Err(NotStarted::Failed(text)) => return Err(Error::owned(format!("ERR {text}")).into()),
    }
    Ok(())
}

/// `DEBUG RELOAD [NOSAVE] [NOFLUSH] [MERGE]`: saves the data, and takes all of it through the bytes of
/// a snapshot and back.
///
/// # Errors
/// If the snapshot fails, or one is on its way.
pub fn reload(host: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let is = |arg: &[u8], name: &str| arg.eq_ignore_ascii_case(name.as_bytes());
    let mut saves = true;
    for option in args.iter().skip(2) {
        match option {
            option if is(option, "nosave") => saves = false,
            option if is(option, "noflush") || is(option, "merge") => {}
            _ => {
                let text = "ERR DEBUG RELOAD only supports the MERGE, NOFLUSH and NOSAVE options.";
                return Err(Error::text(text).into());
            }
        }
    }
    host.exec.release();
    if saves {
        save_now(host)?;
    }
    match host.shared.engine.reload() {
        Ok(_) => {
            reply.ok();
            Ok(())
        }
        Err(error) => Err(Error::owned(format!("ERR {error}")).into()),
    }
}
