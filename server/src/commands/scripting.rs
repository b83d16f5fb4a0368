//! Scripts: EVAL and its like, and SCRIPT.

use crate::host::Host;
use crate::registry::{Family, HostCommand};
use crate::scripting::cache::{Sha, parse_sha, sha_of};
use crate::scripting::interpreter::{Interpreter, Invocation};
use crate::scripting::shebang::ScriptFlags;
use crate::scripting::with_scripts;
use ashlar_engine::command::{Command, Flags, Group, Keys};
use ashlar_engine::error::{CmdResult, Error};
use ashlar_engine::number::parse_i64;
use ashlar_engine::reply::Reply;
use std::ffi::c_int;

const FLAGS: Flags =
    Flags::NOSCRIPT.union(Flags::STALE).union(Flags::SKIP_MONITOR).union(Flags::MAY_REPLICATE);
const FLAGS_RO: Flags =
    Flags::NOSCRIPT.union(Flags::STALE).union(Flags::SKIP_MONITOR).union(Flags::READONLY);
const KEYS: Keys = Keys::Numkeys { at: 2, also_first: false };

const fn eval_command(
    name: &'static str,
    flags: Flags,
    syntax: &'static str,
    since: &'static str,
    summary: &'static str,
) -> Command {
    Command::hosted(name, -3, Group::Scripting).flags(flags).keys(KEYS).syntax(syntax).docs(
        since,
        "Depends on the script",
        summary,
    )
}

const EVAL_SYNTAX: &str = "script numkeys:integer [key...] [arg...]";
const EVALSHA_SYNTAX: &str = "sha1 numkeys:integer [key...] [arg...]";

/// The family's commands.
pub const COMMANDS: &[HostCommand] = &[
    HostCommand::new(
        eval_command("EVAL", FLAGS, EVAL_SYNTAX, "2.6.0", "Runs a script in Lua."),
        |host, args, reply| eval(host, args, reply, false),
    ),
    HostCommand::new(
        eval_command("EVAL_RO", FLAGS_RO, EVAL_SYNTAX, "7.0.0", "Runs a script that only reads."),
        |host, args, reply| eval(host, args, reply, true),
    ),
    HostCommand::new(
        eval_command(
            "EVALSHA",
            FLAGS,
            EVALSHA_SYNTAX,
            "2.6.0",
            "Runs a script that the server knows, by its SHA1 digest.",
        ),
        |host, args, reply| evalsha(host, args, reply, false),
    ),
    HostCommand::new(
        eval_command(
            "EVALSHA_RO",
            FLAGS_RO,
            EVALSHA_SYNTAX,
            "7.0.0",
            "Runs a script that the server knows and that only reads.",
        ),
        |host, args, reply| evalsha(host, args, reply, true),
    ),
    HostCommand::container(
        Command::hosted("SCRIPT", -2, Group::Scripting).docs(
            "2.6.0",
            "",
            "Manages the scripts that the server knows.",
        ),
        SCRIPT,
    ),
];

const FAMILY: Family = Family { group: Group::Scripting, since: "2.6.0", complexity: "O(1)" };

const ANY: Flags = Flags::NOSCRIPT;

const SCRIPT: &[HostCommand] = &[
    FAMILY.sub("LOAD", 3, ANY.union(Flags::STALE), "script", "Adds a script.", load),
    FAMILY.sub("EXISTS", -3, ANY, "sha1...", "Tells which scripts are known.", exists),
    FAMILY.sub("FLUSH", -2, ANY, "[ASYNC|SYNC]", "Forgets all scripts.", flush),
    FAMILY.sub(
        "KILL",
        2,
        ANY.union(Flags::ALLOW_BUSY),
        "",
        "Ends the script that runs, if it has not written.",
        |host, _, reply| {
            host.shared.scripts.kill(false)?;
            reply.ok();
            Ok(())
        },
    ),
    FAMILY.sub("SHOW", 3, ANY, "sha1", "Returns the text of a script.", show),
    FAMILY.sub("DEBUG", 3, ANY, "mode", "Refused: there is no debugger.", |_, args, reply| {
        if args[2].eq_ignore_ascii_case(b"no") {
            reply.ok();
            return Ok(());
        }
        Err(Error::text("ERR this server has no debugger for scripts").into())
    }),
    FAMILY.sub("HELP", 2, Flags::LOADING.union(Flags::STALE), "", "Lists the subcommands.", help),
];

/// Arguments of a command.
pub type Args<'a, 'b> = &'b [&'a [u8]];

/// The keys and arguments of EVAL and FCALL: both after their number.
///
/// # Errors
/// Redis's texts; `bad_number` for what is no number.
pub fn split_keys<'a, 'b>(
    args: Args<'a, 'b>,
    bad_number: Error,
) -> Result<(Args<'a, 'b>, Args<'a, 'b>), Error> {
    let count = parse_i64(args[2]).ok_or(bad_number)?;
    if count < 0 {
        return Err(Error::text("ERR Number of keys can't be negative"));
    }
    let rest = &args[3..];
    let split = usize::try_from(count).ok().and_then(|count| rest.split_at_checked(count));
    split.ok_or(Error::text("ERR Number of keys can't be greater than number of args"))
}

fn eval(
    host: &mut Host<'_, '_>,
    args: &[&[u8]],
    reply: &mut Reply<'_>,
    read_only: bool,
) -> CmdResult {
    let keys = split_keys(args, Error::NotInteger)?;
    let sha = sha_of(args[1]);
    run(host, &sha, keys, reply, read_only, |host, interpreter| {
        let compiled = interpreter.compile(&sha, args[1])?;
        host.shared.scripts.cache.add(args[1], sha, compiled.1, false)?;
        Ok(compiled)
    })
}

fn evalsha(
    host: &mut Host<'_, '_>,
    args: &[&[u8]],
    reply: &mut Reply<'_>,
    read_only: bool,
) -> CmdResult {
    let keys = split_keys(args, Error::NotInteger)?;
    let sha = parse_sha(args[1]).ok_or_else(no_script)?;
    run(host, &sha, keys, reply, read_only, |host, interpreter| {
        let script = host.shared.scripts.cache.get(&sha).ok_or_else(no_script)?;
        interpreter.compile(&sha, &script.body)
    })
}

fn no_script() -> Error {
    Error::text("NOSCRIPT No matching script. Please use EVAL.")
}

/// Runs a script, which `compile` provides where this worker does not have it yet.
fn run(
    host: &mut Host<'_, '_>,
    sha: &Sha,
    (keys, args): (Args<'_, '_>, Args<'_, '_>),
    reply: &mut Reply<'_>,
    read_only: bool,
    compile: impl FnOnce(&mut Host<'_, '_>, &mut Interpreter) -> Result<(c_int, ScriptFlags), Error>,
) -> CmdResult {
    with_scripts(host, |host, interpreter| {
        let (function, flags) = match interpreter.find(sha) {
            Some(found) => found,
            None => compile(host, interpreter)?,
        };
        let what =
            Invocation { function, flags, name: sha, is_function: false, read_only, keys, args };
        interpreter.invoke(host, &what, reply)
    })
}

fn load(host: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let body = args[2];
    let sha = sha_of(body);
    with_scripts(host, |host, interpreter| {
        let (_, flags) = match interpreter.find(&sha) {
            Some(found) => found,
            None => interpreter.compile(&sha, body)?,
        };
        host.shared.scripts.cache.add(body, sha, flags, true)
    })?;
    reply.bulk(&sha);
    Ok(())
}

fn exists(host: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    reply.array(args.len() - 2);
    for sha in &args[2..] {
        let known = parse_sha(sha).and_then(|sha| host.shared.scripts.cache.get(&sha)).is_some();
        reply.int(i64::from(known));
    }
    Ok(())
}

/// Whether FLUSH's argument, if there is one, is one of the two modes.
pub fn is_flush_mode(args: &[&[u8]]) -> bool {
    match args {
        [] => true,
        [mode] => mode.eq_ignore_ascii_case(b"SYNC") || mode.eq_ignore_ascii_case(b"ASYNC"),
        _ => false,
    }
}

fn flush(host: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    if !is_flush_mode(&args[2..]) {
        return Err(Error::text("ERR SCRIPT FLUSH only support SYNC|ASYNC option").into());
    }
    host.shared.scripts.cache.flush();
    reply.ok();
    Ok(())
}

fn show(host: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let script = parse_sha(args[2]).and_then(|sha| host.shared.scripts.cache.get(&sha));
    let Some(script) = script else { return Err(no_script().into()) };
    reply.bulk(&script.body);
    Ok(())
}

fn help(_: &mut Host<'_, '_>, _: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let lines = [
        ("EXISTS <sha1> [<sha1> ...]", "Tell which scripts the server knows."),
        ("FLUSH [ASYNC|SYNC]", "Forget all scripts."),
        ("KILL", "End the script that runs, if it has not written."),
        ("LOAD <script>", "Add a script without running it."),
        ("SHOW <sha1>", "Return the text of a script."),
    ];
    super::help(reply, "SCRIPT", &lines);
    Ok(())
}
