//! Functions: FCALL, FCALL_RO and FUNCTION.

use super::scripting::{is_flush_mode, split_keys};
use crate::cluster;
use crate::host::Host;
use crate::registry::{Family, HostCommand};
use crate::scripting::interpreter::Invocation;
use crate::scripting::library::{Functions, Library, Registered, parse_library};
use crate::scripting::shebang::{FLAG_NAMES, ScriptFlags};
use crate::scripting::{with_functions, with_interpreter_of_functions};
use ashlar_engine::command::{Command, Flags, Group, Keys};
use ashlar_engine::error::{CmdResult, Error};
use ashlar_engine::reply::Reply;
use ashlar_engine::{glob, rdb};
use ashlar_replication::topology::LibraryChange;
use std::collections::HashSet;

const CALL: Flags =
    Flags::NOSCRIPT.union(Flags::STALE).union(Flags::SKIP_MONITOR).union(Flags::MAY_REPLICATE);
const CALL_RO: Flags =
    Flags::NOSCRIPT.union(Flags::STALE).union(Flags::SKIP_MONITOR).union(Flags::READONLY);
const KEYS: Keys = Keys::Numkeys { at: 2, also_first: false };
const SYNTAX: &str = "function numkeys:integer [key...] [arg...]";

/// The family's commands.
pub const COMMANDS: &[HostCommand] = &[
    HostCommand::new(
        Command::hosted("FCALL", -3, Group::Scripting).flags(CALL).keys(KEYS).syntax(SYNTAX).docs(
            "7.0.0",
            "Depends on the function",
            "Calls a function.",
        ),
        |host, args, reply| call(host, args, reply, false),
    ),
    HostCommand::new(
        Command::hosted("FCALL_RO", -3, Group::Scripting)
            .flags(CALL_RO)
            .keys(KEYS)
            .syntax(SYNTAX)
            .docs("7.0.0", "Depends on the function", "Calls a function that only reads."),
        |host, args, reply| call(host, args, reply, true),
    ),
    HostCommand::container(
        Command::hosted("FUNCTION", -2, Group::Scripting).docs(
            "7.0.0",
            "",
            "Manages the libraries of functions.",
        ),
        FUNCTION,
    ),
];

const FAMILY: Family =
    Family { group: Group::Scripting, since: "7.0.0", complexity: "O(N) for N libraries" };

const ANY: Flags = Flags::NOSCRIPT;
const WRITE: Flags = Flags::NOSCRIPT.union(Flags::WRITE);

const FUNCTION: &[HostCommand] = &[
    FAMILY.sub(
        "LOAD",
        -3,
        WRITE.union(Flags::DENYOOM),
        "[REPLACE] code",
        "Adds a library of functions.",
        load,
    ),
    FAMILY.sub("DELETE", 3, WRITE, "library", "Removes a library.", delete),
    FAMILY.sub("FLUSH", -2, WRITE, "[ASYNC|SYNC]", "Removes all libraries.", flush),
    FAMILY.sub("DUMP", 2, ANY, "", "Returns all libraries as a payload.", |host, _, reply| {
        let (libraries, _) = host.shared.engine.libraries().all();
        reply.bulk(&rdb::encode_functions(libraries.iter().map(|(_, text)| &text[..])));
        Ok(())
    }),
    FAMILY.sub(
        "RESTORE",
        -3,
        WRITE.union(Flags::DENYOOM),
        "payload [FLUSH|APPEND|REPLACE]",
        "Adds the libraries of a payload.",
        restore,
    ),
    FAMILY.sub("LIST", -2, ANY, "[LIBRARYNAME pattern] [WITHCODE]", "Lists the libraries.", list),
    FAMILY.sub(
        "STATS",
        2,
        ANY.union(Flags::ALLOW_BUSY),
        "",
        "Tells which function runs, and how many there are.",
        stats,
    ),
    FAMILY.sub(
        "KILL",
        2,
        ANY.union(Flags::ALLOW_BUSY),
        "",
        "Ends the function that runs, if it has not written.",
        |host, _, reply| {
            host.shared.scripts.kill(true)?;
            reply.ok();
            Ok(())
        },
    ),
    FAMILY.sub("HELP", 2, Flags::LOADING.union(Flags::STALE), "", "Lists the subcommands.", help),
];

fn call(
    host: &mut Host<'_, '_>,
    args: &[&[u8]],
    reply: &mut Reply<'_>,
    read_only: bool,
) -> CmdResult {
    if host.session.applies {
        return call_agreed(host, args, reply, read_only);
    }
    with_functions(host, |host, functions| {
        let Some(found) = functions.find(args[1]) else {
            return Err(Error::text("ERR Function not found").into());
        };
        invoke(host, functions, found, args, reply, read_only)
    })
}

/// A function that a group has agreed to call. Its library is loaded anew: what it kept in local variables from
/// the last call would be another thing on each replica.
fn call_agreed(
    host: &mut Host<'_, '_>,
    args: &[&[u8]],
    reply: &mut Reply<'_>,
    read_only: bool,
) -> CmdResult {
    let text = host.session.agreed.library.clone();
    with_interpreter_of_functions(host, |host, functions| {
        let fresh = functions.load(host, &text)?;
        let found = fresh.iter().find(|function| function.name == args[1]);
        let result = match found.map(|found| (found.function, found.flags)) {
            Some(found) => invoke(host, functions, found, args, reply, read_only),
            None => Err(Error::text("ERR Function not found").into()),
        };
        functions.let_go(&fresh);
        result
    })
}

fn invoke(
    host: &mut Host<'_, '_>,
    functions: &mut Functions,
    (function, flags): (std::ffi::c_int, ScriptFlags),
    args: &[&[u8]],
    reply: &mut Reply<'_>,
    read_only: bool,
) -> CmdResult {
    let bad_number = Error::text("ERR Bad number of keys provided");
    let (keys, rest) = split_keys(args, bad_number)?;
    let what = Invocation {
        function,
        flags: flags.declared(),
        name: args[1],
        is_function: true,
        read_only,
        keys,
        args: rest,
    };
    functions.interpreter.invoke(host, &what, reply)
}

/// What is in the way of a library: one of its functions is another library's.
fn collision(functions: &Functions, name: &[u8], fresh: &[Registered]) -> Option<Error> {
    let others = functions.libraries.iter().filter(|(other, _)| ***other != *name);
    let taken: Vec<&[u8]> = others
        .flat_map(|(_, library)| &library.functions)
        .map(|function| &*function.name)
        .collect();
    let twice = fresh.iter().find(|function| taken.contains(&&*function.name))?;
    let twice = String::from_utf8_lossy(&twice.name);
    Some(Error::owned(format!("ERR Function {twice} already exists")))
}

fn load(host: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let replace = match &args[2..args.len() - 1] {
        [] => false,
        [option] if option.eq_ignore_ascii_case(b"REPLACE") => true,
        [option, ..] => {
            let option = String::from_utf8_lossy(option);
            return Err(Error::owned(format!("ERR Unknown option given: {option}")).into());
        }
    };
    let text = args[args.len() - 1];
    let (name, _) = parse_library(text)?;
    let in_cluster = host.shared.cluster.get().is_some();
    let version = cluster::functions::version(host.shared);
    // From the look at what there is to the change, nobody else changes it.
    host.exec.lock_all();
    let is_new = with_functions(host, |host, functions| {
        let there = functions.libraries.get(name);
        if in_cluster && there.is_some_and(|library| *library.text == *text) {
            // Clients send it to every node.
            return Ok(false);
        }
        if !replace && functions.libraries.contains_key(name) {
            let name = String::from_utf8_lossy(name);
            return Err(Error::owned(format!("ERR Library '{name}' already exists")));
        }
        let fresh = functions.load(host, text)?;
        let taken = collision(functions, name, &fresh);
        // The next call loads the library for good, as all workers do.
        functions.let_go(&fresh);
        if let Some(error) = taken {
            return Err(error);
        }
        if !in_cluster {
            host.exec.change_libraries(&[b"SET", name, text], &host.stamp)?;
        }
        Ok(true)
    })?;
    if in_cluster && is_new {
        let set = vec![(name.to_vec(), text.to_vec())];
        let change = LibraryChange { version, set, ..LibraryChange::default() };
        let name = [format!("${}\r\n", name.len()).as_bytes(), name, b"\r\n"].concat();
        return cluster::functions::change(host, change, name);
    }
    reply.bulk(name);
    Ok(())
}

/// What RESTORE does with the libraries that there are.
#[derive(Clone, Copy, PartialEq)]
enum Policy {
    Flush,
    Append,
    Replace,
}

fn restore(host: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    if args.len() > 4 {
        return Err(Error::arity("function|restore").into());
    }
    let policy = args.get(3).map(|policy| policy.to_ascii_uppercase());
    let policy = match policy.as_deref() {
        None | Some(b"APPEND") => Policy::Append,
        Some(b"FLUSH") => Policy::Flush,
        Some(b"REPLACE") => Policy::Replace,
        Some(_) => {
            return Err(Error::text(
                "ERR Wrong restore policy given, value should be either FLUSH, APPEND or REPLACE.",
            )
            .into());
        }
    };
    let Some(texts) = rdb::decode_functions(args[2]) else {
        return Err(Error::text("ERR DUMP payload version or checksum are wrong").into());
    };
    let in_cluster = host.shared.cluster.get().is_some();
    let version = cluster::functions::version(host.shared);
    // From the look at what there is to the change, nobody else changes it.
    host.exec.lock_all();
    with_functions(host, |host, functions| {
        check_restored(host, functions, &texts, policy)?;
        if in_cluster {
            return Ok(());
        }
        let mut changes: Vec<&[u8]> = Vec::new();
        if policy == Policy::Flush {
            changes.push(b"FLUSH");
        }
        for text in &texts {
            changes.extend_from_slice(&[b"SET", parse_library(text)?.0, text]);
        }
        host.exec.change_libraries(&changes, &host.stamp)
    })?;
    if in_cluster {
        let flush = policy == Policy::Flush;
        let mut set = Vec::new();
        for text in texts {
            set.push((parse_library(&text)?.0.to_vec(), text));
        }
        let change = LibraryChange { version, flush, set, ..LibraryChange::default() };
        return cluster::functions::change(host, change, b"+OK\r\n".to_vec());
    }
    reply.ok();
    Ok(())
}

/// Whether all libraries of a payload load, and nothing that stays is in their way.
fn check_restored(
    host: &mut Host<'_, '_>,
    functions: &mut Functions,
    texts: &[Vec<u8>],
    policy: Policy,
) -> Result<(), Error> {
    let mut names: Vec<&[u8]> = Vec::new();
    for text in texts {
        let (name, _) = parse_library(text)?;
        let there = functions.libraries.get(name).filter(|_| policy == Policy::Append);
        // In a cluster clients send it to every node.
        let in_cluster = host.shared.cluster.get().is_some();
        let is_there = there.is_some_and(|there| !in_cluster || *there.text != **text);
        if is_there || names.contains(&name) {
            let name = String::from_utf8_lossy(name);
            return Err(Error::owned(format!("ERR Library {name} already exists")));
        }
        names.push(name);
    }
    let stays = |name: &[u8]| policy != Policy::Flush && !names.contains(&name);
    let there = functions.libraries.iter().filter(|(name, _)| stays(name));
    let mut taken: HashSet<Vec<u8>> = there
        .flat_map(|(_, library)| library.functions.iter().map(|function| function.name.clone()))
        .collect();
    for text in texts {
        let fresh = functions.load(host, text)?;
        functions.let_go(&fresh);
        if let Some(twice) = fresh.iter().find(|function| !taken.insert(function.name.clone())) {
            let twice = String::from_utf8_lossy(&twice.name);
            return Err(Error::owned(format!("ERR Function {twice} already exists")));
        }
    }
    Ok(())
}

fn delete(host: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let version = cluster::functions::version(host.shared);
    host.exec.lock_all();
    let (libraries, _) = host.shared.engine.libraries().all();
    if !libraries.iter().any(|(name, _)| **name == *args[2]) {
        return Err(Error::text("ERR Library not found").into());
    }
    if host.shared.cluster.get().is_some() {
        let remove = vec![args[2].to_vec()];
        let change = LibraryChange { version, remove, ..LibraryChange::default() };
        return cluster::functions::change(host, change, b"+OK\r\n".to_vec());
    }
    host.exec.change_libraries(&[b"REMOVE", args[2]], &host.stamp)?;
    reply.ok();
    Ok(())
}

fn flush(host: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    if !is_flush_mode(&args[2..]) {
        return Err(Error::text("ERR FUNCTION FLUSH only supports SYNC|ASYNC option").into());
    }
    if host.shared.cluster.get().is_some() {
        let version = cluster::functions::version(host.shared);
        let change = LibraryChange { version, flush: true, ..LibraryChange::default() };
        return cluster::functions::change(host, change, b"+OK\r\n".to_vec());
    }
    host.exec.change_libraries(&[b"FLUSH"], &host.stamp)?;
    reply.ok();
    Ok(())
}

fn list(host: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let (mut pattern, mut with_code) = (None, false);
    let mut rest = &args[2..];
    while let [option, after @ ..] = rest {
        rest = after;
        if !with_code && option.eq_ignore_ascii_case(b"WITHCODE") {
            with_code = true;
        } else if pattern.is_none() && option.eq_ignore_ascii_case(b"LIBRARYNAME") {
            let [name, after @ ..] = rest else {
                return Err(Error::text("ERR library name argument was not given").into());
            };
            pattern = Some(*name);
            rest = after;
        } else {
            let option = String::from_utf8_lossy(option);
            return Err(Error::owned(format!("ERR Unknown argument {option}")).into());
        }
    }
    with_functions(host, |_, functions| {
        let shown = |name: &[u8]| pattern.is_none_or(|pattern| glob::matches_nocase(pattern, name));
        let libraries: Vec<(&Box<[u8]>, &Library)> =
            functions.libraries.iter().filter(|(name, _)| shown(name)).collect();
        reply.array(libraries.len());
        for (name, library) in libraries {
            show_library(reply, name, library, with_code);
        }
        Ok::<(), Error>(())
    })?;
    Ok(())
}

fn show_library(reply: &mut Reply<'_>, name: &[u8], library: &Library, with_code: bool) {
    reply.map(if with_code { 4 } else { 3 });
    reply.bulk(b"library_name");
    reply.bulk(name);
    reply.bulk(b"engine");
    reply.bulk(b"LUA");
    reply.bulk(b"functions");
    reply.array(library.functions.len());
    for function in &library.functions {
        reply.map(3);
        reply.bulk(b"name");
        reply.bulk(&function.name);
        reply.bulk(b"description");
        match &function.description {
            Some(text) => reply.bulk(text),
            None => reply.null(),
        }
        reply.bulk(b"flags");
        let flags = FLAG_NAMES.iter().filter(|(_, flag)| function.flags.contains(*flag));
        reply.set(flags.clone().count());
        flags.for_each(|(name, _)| reply.simple(name));
    }
    if with_code {
        reply.bulk(b"library_code");
        reply.bulk(&library.text);
    }
}

fn stats(host: &mut Host<'_, '_>, _: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let counts = match host.shared.scripts.busy() {
        // What runs has the functions of this worker in its hands.
        Some(_) => (host.shared.engine.libraries().all().0.len(), 0),
        None => with_functions(host, |_, functions| {
            let count = functions.libraries.values().map(|library| library.functions.len()).sum();
            Ok::<_, Error>((functions.libraries.len(), count))
        })?,
    };
    reply.map(2);
    reply.bulk(b"running_script");
    match host.shared.scripts.busy() {
        None => reply.null(),
        Some(busy) => {
            reply.map(3);
            reply.bulk(b"name");
            reply.bulk(&busy.name);
            reply.bulk(b"command");
            reply.array(busy.command.len());
            busy.command.iter().for_each(|arg| reply.bulk(arg));
            reply.bulk(b"duration_ms");
            reply.int(i64::try_from(busy.started.elapsed().as_millis()).unwrap_or(i64::MAX));
        }
    }
    reply.bulk(b"engines");
    reply.map(1);
    reply.bulk(b"LUA");
    reply.map(2);
    reply.bulk(b"libraries_count");
    reply.int(counts.0 as i64);
    reply.bulk(b"functions_count");
    reply.int(counts.1 as i64);
    Ok(())
}

fn help(_: &mut Host<'_, '_>, _: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let lines = [
        ("LOAD [REPLACE] <FUNCTION CODE>", "Add a library of functions."),
        ("DELETE <LIBRARY NAME>", "Remove a library."),
        ("LIST [LIBRARYNAME PATTERN] [WITHCODE]", "List the libraries with their functions."),
        ("STATS", "Tell which function runs, and how many there are."),
        ("KILL", "End the function that runs, if it has not written."),
        ("FLUSH [ASYNC|SYNC]", "Remove all libraries."),
        ("DUMP", "Return all libraries as a payload."),
        ("RESTORE <PAYLOAD> [FLUSH|APPEND|REPLACE]", "Add the libraries of a payload."),
    ];
    super::help(reply, "FUNCTION", &lines);
    Ok(())
}
