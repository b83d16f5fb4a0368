//! MIGRATE: moves keys to another server.
//!
//! The client waits, the thread that serves its socket does not: the move runs on a thread of its
//! own. A key that changes on the way is sent again; it is deleted here only once what the target
//! has is what is here.

use crate::clock;
use crate::config::ids;
use crate::host::Host;
use crate::registry::HostCommand;
use crate::replication::link::{Credentials, Link};
use crate::shared::Shared;
use ashlar_engine::command::{Command, Flags, Group, KeyList, Keys};
use ashlar_engine::engine::Engine;
use ashlar_engine::error::{CmdResult, Error, Stop};
use ashlar_engine::executor::{Call, Executor, Prefetched};
use ashlar_engine::keyspace::WatchToken;
use ashlar_engine::number;
use ashlar_engine::reply::{Protocol, Reply};
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// How often keys that change on the way are sent again.
const ATTEMPTS_MAX: usize = 5;
const TIMEOUT_MS_DEFAULT: i64 = 1000;

/// The family's commands.
pub const COMMANDS: &[HostCommand] = &[HostCommand::new(
    Command::hosted("MIGRATE", -6, Group::Generic)
        .flags(
            Flags::WRITE
                .union(Flags::MOVABLE_KEYS)
                .union(Flags::DANGEROUS)
                .union(Flags::NOSCRIPT)
                .union(Flags::NO_MULTI),
        )
        .keys(Keys::Custom(keys))
        .syntax(
            "host port key destination-db:integer timeout:integer [COPY] [REPLACE] \
             [AUTH password|AUTH2 username password] [KEYS key...]",
        )
        .docs("2.6.0", "O(N) for N keys", "Moves keys to another server."),
    migrate,
)];

fn keys(args: &[&[u8]], out: &mut KeyList) {
    match args.get(3) {
        Some(&b"") => {
            let at = args.iter().skip(6).position(|arg| arg.eq_ignore_ascii_case(b"KEYS"));
            if let Some(at) = at {
                out.extend(6 + at + 1..args.len());
            }
        }
        Some(_) => out.push(3),
        None => {}
    }
}

/// What is to be moved, and where to.
#[derive(Clone, Debug)]
struct Plan {
    host: String,
    port: u16,
    credentials: Credentials,
    from_db: u32,
    to_db: Vec<u8>,
    timeout: Duration,
    copy: bool,
    replace: bool,
    keys: Vec<Vec<u8>>,
}

impl Plan {
    fn parse(args: &[&[u8]], from_db: u32) -> Result<Plan, Error> {
        let text = |arg: &[u8]| String::from_utf8_lossy(arg).into_owned();
        let port = number::parse_i64(args[2]).and_then(|port| u16::try_from(port).ok());
        let timeout_ms = number::parse_i64(args[5]).ok_or(Error::NotInteger)?;
        number::parse_i64(args[4]).ok_or(Error::NotInteger)?;
        let timeout_ms = if timeout_ms <= 0 { TIMEOUT_MS_DEFAULT } else { timeout_ms };
        let mut plan = Plan {
            host: text(args[1]),
            port: port.ok_or(Error::NotInteger)?,
            credentials: Credentials::default(),
            from_db,
            to_db: args[4].to_vec(),
            timeout: Duration::from_millis(timeout_ms.unsigned_abs()),
            copy: false,
            replace: false,
            keys: vec![args[3].to_vec()],
        };
        let mut rest = &args[6..];
        loop {
            let named = |name: &str| {
                rest.first().is_some_and(|word| word.eq_ignore_ascii_case(name.as_bytes()))
            };
            rest = match rest {
                [] => return Ok(plan),
                [_, rest @ ..] if named("COPY") => {
                    plan.copy = true;
                    rest
                }
                [_, rest @ ..] if named("REPLACE") => {
                    plan.replace = true;
                    rest
                }
                [_, password, rest @ ..] if named("AUTH") => {
                    plan.credentials =
                        Credentials { user: String::new(), password: text(password) };
                    rest
                }
                [_, user, password, rest @ ..] if named("AUTH2") => {
                    plan.credentials = Credentials { user: text(user), password: text(password) };
                    rest
                }
                [_, keys @ ..] if named("KEYS") => {
                    if !args[3].is_empty() {
                        return Err(Error::text(
                            "ERR When using MIGRATE KEYS option, the key argument must be set to \
                             the empty string",
                        ));
                    }
                    plan.keys = keys.iter().map(|key| key.to_vec()).collect();
                    &[]
                }
                _ => return Err(Error::Syntax),
            };
        }
    }
}

fn migrate(host: &mut Host<'_, '_>, args: &[&[u8]], _: &mut Reply<'_>) -> CmdResult {
    let plan = Plan::parse(args, host.session.db)?;
    if host.session.in_transaction || host.session.from_primary {
        return Err(Error::text("ERR MIGRATE has to wait, which it cannot here").into());
    }
    host.block_until_ms = Some(None);
    host.after_park = Some(Box::new(move |shared, waiter| {
        let on_thread = shared.clone();
        let for_thread = waiter.clone();
        let work = move || {
            let mut exec = on_thread.engine.executor();
            let reply = run(&on_thread, &mut exec, &plan);
            on_thread.answer(&mut exec, &for_thread, reply);
        };
        if std::thread::Builder::new().name("ashlar-migrate".into()).spawn(work).is_err() {
            let reply = b"-ERR the system gives no thread for MIGRATE\r\n".to_vec();
            shared.answer(&mut shared.engine.executor(), &waiter, reply);
        }
    }));
    Err(Stop::WouldBlock)
}

/// Why keys were not moved, as the client is told.
fn failed(what: &str, error: &io::Error) -> Vec<u8> {
    tracing::debug!("MIGRATE: {what}: {error}");
    format!("-IOERR error or timeout {what}\r\n").into_bytes()
}

/// A key with its time to live and its dump.
type Dumped = (Vec<u8>, Vec<u8>, Vec<u8>);

/// Moves the keys and returns the reply.
fn run(shared: &Arc<Shared>, exec: &mut Executor<'_>, plan: &Plan) -> Vec<u8> {
    let mut link: Option<Link> = None;
    let mut replace = plan.replace;
    for _ in 0..ATTEMPTS_MAX {
        let token = WatchToken::default();
        for key in &plan.keys {
            exec.watch(plan.from_db, key, &token);
        }
        let dumped = dump(shared, exec, plan);
        exec.release();
        let sent = if dumped.is_empty() {
            Err(b"+NOKEY\r\n".to_vec())
        } else {
            send(shared, &mut link, plan, &dumped, replace)
        };
        let mut again = false;
        let reply = match sent {
            Err(reply) => reply,
            Ok(sent) => {
                again = !plan.copy && !delete(shared, exec, plan, &sent.moved, &token);
                sent.reply
            }
        };
        for key in &plan.keys {
            exec.unwatch(plan.from_db, key, &token);
        }
        exec.release();
        crate::host::settle(shared, exec, &shared.stamp(clock::now_ms()));
        if !again {
            return reply;
        }
        // What was sent is out of date, and is there.
        replace = true;
    }
    b"-ERR the keys changed again and again while they were moved\r\n".to_vec()
}

/// Runs a command of the engine and returns its reply.
fn call(shared: &Shared, exec: &mut Executor<'_>, db: u32, args: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    let stamp = shared.stamp(clock::now_ms());
    if let Some(command) = Engine::find_command(args) {
        let call = Call { command, args, db, stamp: &stamp, may_block: false, no_touch: true };
        exec.run(&call, Prefetched::NONE, &mut Reply::new(&mut out, Protocol::Resp2));
    }
    out
}

/// The text of a reply of one string or number.
fn text(reply: &[u8]) -> Option<&[u8]> {
    let (head, rest) = reply.split_at_checked(memchr::memchr(b'\n', reply)? + 1)?;
    match head.first()? {
        b':' => head[1..].strip_suffix(b"\r\n"),
        b'$' if !head.starts_with(b"$-") => rest.strip_suffix(b"\r\n"),
        _ => None,
    }
}

/// The keys that are there, as they are at one moment.
fn dump(shared: &Shared, exec: &mut Executor<'_>, plan: &Plan) -> Vec<Dumped> {
    let keys: Vec<&[u8]> = plan.keys.iter().map(Vec::as_slice).collect();
    exec.lock_keys(&keys);
    let mut dumped = Vec::new();
    for key in keys {
        let dump = call(shared, exec, plan.from_db, &[b"DUMP", key]);
        let ttl = call(shared, exec, plan.from_db, &[b"PTTL", key]);
        if let (Some(dump), Some(ttl)) = (text(&dump), text(&ttl)) {
            let ttl = if ttl == b"-1" { b"0" } else { ttl };
            dumped.push((key.to_vec(), ttl.to_vec(), dump.to_vec()));
        }
    }
    dumped
}

/// What became of keys that were sent.
struct Sent<'a> {
    /// Those that the target has taken.
    moved: Vec<&'a [u8]>,
    /// What the client is told.
    reply: Vec<u8>,
}

/// Sends keys.
///
/// # Errors
/// What the client is told where the target can't be reached.
fn send<'a>(
    shared: &Shared,
    link: &mut Option<Link>,
    plan: &Plan,
    dumped: &'a [Dumped],
    replace: bool,
) -> Result<Sent<'a>, Vec<u8>> {
    let refused = |answer: &[u8]| {
        let answer = String::from_utf8_lossy(answer.strip_prefix(b"-").unwrap_or(answer));
        format!("-ERR Target instance replied with error: {answer}\r\n").into_bytes()
    };
    let connecting = |error| failed("connecting to the client", &error);
    let writing = |error| failed("writing to target instance", &error);
    let reading = |error| failed("reading from target instance", &error);
    if link.is_none() {
        // The setting that Redis looks at, too, in a cluster or not.
        let encrypts = ids::TLS_CLUSTER;
        let fresh = Link::to_peer(shared, encrypts, &plan.host, plan.port, plan.timeout);
        let mut fresh = fresh.map_err(connecting)?;
        let (user, password) = (&plan.credentials.user, &plan.credentials.password);
        let words = [b"AUTH", user.as_bytes(), password.as_bytes()];
        if !password.is_empty() || !user.is_empty() {
            let words: Vec<&[u8]> = words.into_iter().filter(|word| !word.is_empty()).collect();
            let answer = fresh.call(&words).map_err(reading)?;
            if answer.starts_with(b"-") {
                return Err(refused(&answer));
            }
        }
        let answer = fresh.call(&[b"SELECT", &plan.to_db]).map_err(reading)?;
        if answer.starts_with(b"-") {
            return Err(refused(&answer));
        }
        *link = Some(fresh);
    }
    let Some(link) = link else { return Err(refused(b"ERR no connection")) };
    for (key, ttl, payload) in dumped {
        let mut words: Vec<&[u8]> = vec![b"RESTORE", key, ttl, payload];
        if replace {
            words.push(b"REPLACE");
        }
        link.send(&words).map_err(writing)?;
    }
    let (mut moved, mut reply) = (Vec::new(), b"+OK\r\n".to_vec());
    for (key, ..) in dumped {
        let answer = link.line().map_err(reading)?;
        if !answer.starts_with(b"-") {
            moved.push(key.as_slice());
        } else if reply.starts_with(b"+") {
            reply = refused(&answer);
        }
    }
    Ok(Sent { moved, reply })
}

/// Deletes keys that the target has taken; `false` where one has changed since it was dumped.
fn delete(
    shared: &Shared,
    exec: &mut Executor<'_>,
    plan: &Plan,
    moved: &[&[u8]],
    token: &WatchToken,
) -> bool {
    exec.lock_keys(moved);
    if token.is_dirty() {
        return false;
    }
    for key in moved {
        call(shared, exec, plan.from_db, &[b"DEL", key]);
    }
    true
}
