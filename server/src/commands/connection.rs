//! Connections: authentication, protocol, database.

use crate::acl::{Place, Reason};
use crate::host::Host;
use crate::info::REDIS_VERSION;
use crate::pubsub::Kind;
use crate::registry::HostCommand;
use crate::session::{Multi, ReplyMode, Session};
use crate::shared::Shared;
use ashlar_engine::command::{Command, Flags, Group};
use ashlar_engine::error::{CmdResult, Error};
use ashlar_engine::executor::Executor;
use ashlar_engine::number;
use ashlar_engine::reply::{Protocol, Reply};
use std::sync::Arc;

const ANY_TIME: Flags = Flags::NOSCRIPT
    .union(Flags::LOADING)
    .union(Flags::STALE)
    .union(Flags::FAST)
    .union(Flags::NO_AUTH)
    .union(Flags::ALLOW_BUSY);

/// The family's commands.
pub const COMMANDS: &[HostCommand] = &[
    HostCommand::new(
        Command::hosted("PING", -1, Group::Connection).flags(Flags::FAST).syntax("[message]").docs(
            "1.0.0",
            "O(1)",
            "Answers PONG, or the message.",
        ),
        ping,
    )
    .only_replies(),
    HostCommand::new(
        Command::hosted("ECHO", 2, Group::Connection)
            .flags(Flags::LOADING.union(Flags::STALE).union(Flags::FAST))
            .syntax("message")
            .docs("1.0.0", "O(1)", "Answers the message."),
        echo,
    )
    .only_replies(),
    HostCommand::new(
        Command::hosted("SELECT", 2, Group::Connection)
            .flags(Flags::LOADING.union(Flags::STALE).union(Flags::FAST))
            .syntax("index:integer")
            .docs("1.0.0", "O(1)", "Selects the database of the connection."),
        select,
    ),
    HostCommand::new(
        Command::hosted("AUTH", -2, Group::Connection)
            .flags(ANY_TIME.union(Flags::SKIP_MONITOR))
            .syntax("[username] password")
            .docs("1.0.0", "O(1)", "Authenticates the connection."),
        auth,
    ),
    HostCommand::new(
        Command::hosted("HELLO", -1, Group::Connection)
            .flags(ANY_TIME.union(Flags::SKIP_MONITOR))
            .syntax("[protover:integer [AUTH username password] [SETNAME clientname]]")
            .docs("6.0.0", "O(1)", "Chooses the protocol, and tells about the server."),
        hello,
    ),
    HostCommand::new(
        Command::hosted("QUIT", -1, Group::Connection).flags(ANY_TIME).docs(
            "1.0.0",
            "O(1)",
            "Closes the connection.",
        ),
        quit,
    ),
    HostCommand::new(
        Command::hosted("RESET", 1, Group::Connection).flags(ANY_TIME).docs(
            "6.2.0",
            "O(1)",
            "Brings the connection back to how it was at its start.",
        ),
        reset,
    ),
];

/// Most characters of a wrong name that ACL LOG keeps.
const NAME_CHARS_LOGGED: usize = 256;

fn ping(host: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    if args.len() > 2 {
        return Err(Error::arity("ping").into());
    }
    let message = args.get(1);
    if host.session.is_subscriber() && host.session.protocol == Protocol::Resp2 {
        reply.array(2);
        reply.bulk(b"pong");
        reply.bulk(message.copied().unwrap_or_default());
    } else {
        match message {
            Some(message) => reply.bulk(message),
            None => reply.simple("PONG"),
        }
    }
    Ok(())
}

fn echo(_: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    reply.bulk(args[1]);
    Ok(())
}

fn select(host: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let db = number::parse_i64(args[1]).ok_or(Error::NotInteger)?;
    if i32::try_from(db).is_err() {
        let text = "ERR value is out of range, value must between -2147483648 and 2147483647";
        return Err(Error::text(text).into());
    }
    let databases = host.shared.engine.config().databases;
    match u32::try_from(db) {
        Ok(db) if db < databases => host.session.db = db,
        _ => return Err(Error::text("ERR DB index is out of range").into()),
    }
    reply.ok();
    Ok(())
}

fn authenticate(
    host: &mut Host<'_, '_>,
    args: &[&[u8]],
    user: &[u8],
    password: &[u8],
) -> Result<(), Error> {
    if let Some(user) = host.shared.acl.authenticate(user, password) {
        host.session.become_user(user);
        return Ok(());
    }
    let name = String::from_utf8_lossy(user).chars().take(NAME_CHARS_LOGGED).collect();
    let object = args.first().copied().unwrap_or_default().to_vec();
    host.log_refusal(Reason::Auth, Place::TopLevel, object, name);
    Err(Error::text("WRONGPASS invalid username-password pair or user is disabled."))
}

fn auth(host: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    match args {
        [_, password] => {
            if host.shared.acl.default_user().rules().no_password {
                return Err(Error::text(
                    "ERR AUTH <password> called without any password configured for the default \
                     user. Are you sure your configuration is correct?",
                )
                .into());
            }
            authenticate(host, args, b"default", password)?;
        }
        [_, user, password] => authenticate(host, args, user, password)?,
        _ => return Err(Error::Syntax.into()),
    }
    reply.ok();
    Ok(())
}

fn hello(host: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let mut protocol = host.session.protocol;
    if let Some(version) = args.get(1) {
        protocol = match number::parse_i64(version) {
            Some(2) => Protocol::Resp2,
            Some(3) => Protocol::Resp3,
            Some(_) => return Err(Error::text("NOPROTO unsupported protocol version").into()),
            None => {
                let text = "ERR Protocol version is not an integer or out of range";
                return Err(Error::text(text).into());
            }
        };
    }
    let mut rest = args.get(2..).unwrap_or_default();
    let (mut credentials, mut name) = (None, None);
    while let Some(option) = rest.first() {
        if option.eq_ignore_ascii_case(b"AUTH") && rest.len() >= 3 {
            credentials = Some((rest[1], rest[2]));
            rest = &rest[3..];
        } else if option.eq_ignore_ascii_case(b"SETNAME") && rest.len() >= 2 {
            name = Some(rest[1]);
            rest = &rest[2..];
        } else {
            return Err(Error::quoting("ERR Syntax error in HELLO option '{}'", &[option]).into());
        }
    }
    if let Some((user, password)) = credentials {
        authenticate(host, args, user, password)?;
    }
    if !host.session.authenticated {
        return Err(Error::text(
            "NOAUTH HELLO must be called with the client already authenticated, otherwise the \
             HELLO <proto> AUTH <user> <pass> option can be used to authenticate the client and \
             select the RESP protocol version at the same time",
        )
        .into());
    }
    if let Some(name) = name {
        check_name(name)?;
        host.session.client.names.lock().name = name.to_vec();
    }
    host.session.protocol = protocol;
    reply.set_protocol(protocol);
    reply.map(7);
    for (field, value) in [("server", "redis"), ("version", REDIS_VERSION)] {
        reply.bulk(field.as_bytes());
        reply.bulk(value.as_bytes());
    }
    reply.bulk(b"proto");
    reply.int(if protocol == Protocol::Resp3 { 3 } else { 2 });
    reply.bulk(b"id");
    reply.int(host.session.address.id as i64);
    let role = crate::cluster::facts::role(host.shared);
    let mode = if role.is_some() { "cluster" } else { "standalone" };
    for (field, value) in [("mode", mode), ("role", role.unwrap_or("master"))] {
        reply.bulk(field.as_bytes());
        reply.bulk(value.as_bytes());
    }
    reply.bulk(b"modules");
    reply.array(0);
    Ok(())
}

/// Whether a client may have this name.
///
/// # Errors
/// With Redis's text, where it has blanks, line breaks or other bytes that would break a list.
pub fn check_name(name: &[u8]) -> Result<(), Error> {
    if name.iter().all(|byte| (b'!'..=b'~').contains(byte)) {
        return Ok(());
    }
    Err(Error::text("ERR Client names cannot contain spaces, newlines or special characters."))
}

fn quit(host: &mut Host<'_, '_>, _: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    host.session.close_after_reply = true;
    reply.ok();
    Ok(())
}

fn reset(host: &mut Host<'_, '_>, _: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    forget(host.shared, host.exec, host.session);
    let session = &mut *host.session;
    session.db = 0;
    session.protocol = Protocol::Resp2;
    session.become_user(host.shared.acl.default_user());
    session.authenticated = !host.shared.needs_password();
    session.reply_mode = ReplyMode::On;
    session.no_touch = false;
    session.reads_replicas = false;
    session.client.names.lock().name.clear();
    reply.set_protocol(Protocol::Resp2);
    reply.simple("RESET");
    Ok(())
}

/// Takes back all that others know of the session: transaction, watched and tracked keys,
/// subscriptions, MONITOR.
pub fn forget(shared: &Shared, exec: &mut Executor<'_>, session: &mut Session) {
    session.multi = None::<Box<Multi>>;
    unwatch(exec, session);
    super::client_tracking::stop(shared, exec, session);
    for kind in [Kind::Channel, Kind::Pattern, Kind::Shard] {
        for channel in std::mem::take(&mut session.subscriptions[kind as usize]) {
            shared.pubsub.unsubscribe(kind, &channel, &session.client);
        }
    }
    session.name_bytes[1] = 0;
    if std::mem::take(&mut session.monitor) {
        let mut monitors = shared.monitors.write();
        monitors.retain(|other| !Arc::ptr_eq(other, &session.client));
        shared.monitored.store(!monitors.is_empty(), std::sync::atomic::Ordering::Release);
    }
}

/// Forgets all watched keys.
pub fn unwatch(exec: &mut Executor<'_>, session: &mut Session) {
    for (db, key) in std::mem::take(&mut session.watched).into_keys() {
        exec.unwatch(db, &key, &session.watch_token);
    }
    exec.release();
    session.watch_token = Default::default();
    session.name_bytes[0] = 0;
}
