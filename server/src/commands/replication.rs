//! Replication as Redis's clients and servers see it: REPLICAOF, PSYNC, REPLCONF, ROLE, WAIT.

use crate::host::Host;
use crate::registry::HostCommand;
use crate::replication::NATIVE;
use crate::replication::follower::{Phase, set_primary};
use crate::replication::primary::{Detach, Wish};
use ashlar_engine::command::{Command, Flags, Group};
use ashlar_engine::error::{CmdResult, Error, Stop};
use ashlar_engine::number;
use ashlar_engine::reply::Reply;
use std::sync::atomic::Ordering;

const ADMIN: Flags = Flags::ADMIN.union(Flags::NOSCRIPT).union(Flags::STALE);
/// Not in a transaction: its locks would be waited for.
const SYNC: Flags = ADMIN.union(Flags::NO_MULTI);
const ANY_TIME: Flags = Flags::LOADING.union(Flags::STALE).union(Flags::NOSCRIPT);

const fn command(name: &'static str, arity: i32, flags: Flags, summary: &'static str) -> Command {
    Command::hosted(name, arity, Group::Server).flags(flags).docs("1.0.0", "O(1)", summary)
}

/// The family's commands.
pub const COMMANDS: &[HostCommand] = &[
    HostCommand::new(
        command("REPLICAOF", 3, SYNC, "Follows a Redis primary, or no longer (NO ONE).")
            .syntax("host port"),
        replicaof,
    ),
    HostCommand::new(
        command("SLAVEOF", 3, SYNC, "Follows a Redis primary, or no longer (NO ONE).")
            .syntax("host port"),
        replicaof,
    ),
    HostCommand::new(
        command("ROLE", 1, ANY_TIME.union(Flags::FAST).union(Flags::ADMIN), "Returns the role."),
        role,
    ),
    HostCommand::new(
        command("SYNC", 1, SYNC, "Becomes a replica: a full copy, then the commands that follow."),
        |host, _, reply| detach(host, Wish::Sync, reply),
    ),
    HostCommand::new(
        command("PSYNC", -3, SYNC, "Becomes a replica, which goes on where it was if possible.")
            .syntax("replicationid offset:integer"),
        psync,
    ),
    HostCommand::new(
        command("REPLCONF", -1, ANY_TIME.union(Flags::ADMIN), "What a replica tells of itself."),
        replconf,
    ),
    HostCommand::new(
        Command::hosted("WAIT", 3, Group::Generic)
            .flags(Flags::NOSCRIPT.union(Flags::BLOCKING))
            .syntax("numreplicas:integer timeout:integer")
            .docs("3.0.0", "O(1)", "Waits until so many replicas have the writes so far."),
        wait,
    ),
];

fn replicaof(host: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let (name, port) = (args[1], args[2]);
    let shared = host.shared.arc().ok_or(Error::text("ERR the server stops"))?;
    let follower = &shared.replication.follower;
    if name.eq_ignore_ascii_case(b"NO") && port.eq_ignore_ascii_case(b"ONE") {
        if follower.is_following() {
            tracing::info!("REPLICAOF NO ONE: this server is a primary now");
            set_primary(&shared, None);
        }
        reply.ok();
        return Ok(());
    }
    let port = number::parse_i64(port).ok_or(Error::text("ERR Invalid master port"))?;
    let port = u16::try_from(port).map_err(|_| Error::text("ERR Invalid master port"))?;
    let name = String::from_utf8_lossy(name).into_owned();
    if follower.status().primary == Some((name.clone(), port)) {
        reply.simple("OK Already connected to specified master");
        return Ok(());
    }
    tracing::info!("REPLICAOF: this server follows {name}:{port}");
    set_primary(&shared, Some((name, port)));
    reply.ok();
    Ok(())
}

fn role(host: &mut Host<'_, '_>, _: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    if crate::cluster::facts::reply_role(host.shared, reply) {
        return Ok(());
    }
    let replication = &host.shared.replication;
    let status = replication.follower.status();
    let Some((name, port)) = status.primary else {
        reply.array(3);
        reply.bulk(b"master");
        reply.int(replication.feed.offset() as i64);
        let replicas = replication.replicas();
        let online: Vec<_> =
            replicas.iter().filter(|replica| replica.online.load(Ordering::Acquire)).collect();
        reply.array(online.len());
        for replica in online {
            reply.array(3);
            reply.bulk(replica.ip.as_bytes());
            reply.bulk_int(replica.port.into());
            reply.bulk_int(replica.acked.load(Ordering::Acquire) as i64);
        }
        return Ok(());
    };
    reply.array(5);
    reply.bulk(b"slave");
    reply.bulk(name.as_bytes());
    reply.int(port.into());
    reply.bulk(match status.phase {
        Phase::Connecting => b"connect",
        Phase::Copying => b"sync",
        Phase::Connected => b"connected",
    });
    reply.int(status.offset);
    Ok(())
}

fn psync(host: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let offset = number::parse_i64(args[2]).ok_or(Error::NotInteger)?;
    detach(host, Wish::Partial(args[1].to_vec(), offset), reply)
}

/// The connection becomes a replica's: its worker gives it away.
fn detach(host: &mut Host<'_, '_>, wish: Wish, _: &mut Reply<'_>) -> CmdResult {
    if host.session.in_transaction || host.session.from_primary {
        return Err(Error::text("ERR a transaction can't become a replica").into());
    }
    if host.shared.replication.follower.loading.load(Ordering::Acquire) {
        let text = "NOMASTERLINK Can't SYNC while not connected with my master";
        return Err(Error::text(text).into());
    }
    host.detach = Some(Detach { hello: host.session.hello.clone(), wish, pending: Vec::new() });
    Ok(())
}

fn replconf(host: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    if args.len().is_multiple_of(2) {
        return Err(Error::Syntax.into());
    }
    for pair in args[1..].chunks_exact(2) {
        let (option, value) = (pair[0].to_ascii_lowercase(), pair[1]);
        match option.as_slice() {
            b"listening-port" => {
                let port = number::parse_i64(value).ok_or(Error::NotInteger)?;
                host.session.hello.port = u16::try_from(port).unwrap_or(0);
            }
            b"ip-address" => {
                host.session.hello.ip = Some(String::from_utf8_lossy(value).into_owned());
            }
            b"capa" => {
                host.session.hello.eof |= value.eq_ignore_ascii_case(b"eof");
                host.session.hello.native |= value.eq_ignore_ascii_case(NATIVE);
            }
            // Of a replica after its full copy, which has a thread of its own.
            b"ack" | b"getack" => return Ok(()),
            b"version" => {}
            b"rdb-only" | b"rdb-filter-only" => {
                number::parse_i64(value)
                    .map(drop)
                    .or((option == b"rdb-filter-only").then_some(()))
                    .ok_or(Error::NotInteger)?;
            }
            _ => {
                let option = String::from_utf8_lossy(pair[0]);
                let text = format!("ERR Unrecognized REPLCONF option: {option}");
                return Err(Error::owned(text).into());
            }
        }
    }
    reply.ok();
    Ok(())
}

fn wait(host: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let replication = &host.shared.replication;
    if replication.follower.is_following() {
        return Err(Error::text(
            "ERR WAIT cannot be used with replica instances. Please also note that writes to \
             replicas are just local and are not propagated.",
        )
        .into());
    }
    let wanted = number::parse_i64(args[1]).ok_or(Error::NotInteger)?;
    let timeout_ms = number::parse_i64(args[2])
        .ok_or(Error::text("ERR timeout is not an integer or out of range"))?;
    if timeout_ms < 0 {
        return Err(Error::text("ERR timeout is negative").into());
    }
    // Run once more at the end of its time, it asks for the same offset.
    let offset = host.session.wait_offset.take().unwrap_or_else(|| replication.feed.offset());
    let count = replication.acknowledged(offset);
    let wanted = usize::try_from(wanted).unwrap_or(0);
    if count >= wanted || host.session.in_transaction {
        reply.int(count as i64);
        return Ok(());
    }
    host.session.wait_offset = Some(offset);
    let until = (timeout_ms > 0).then(|| host.stamp.now_ms.saturating_add(timeout_ms));
    host.block_until_ms = Some(until);
    host.after_park = Some(Box::new(move |shared, waiter| {
        shared.replication.wait(waiter, offset, wanted);
        shared.replication.ask();
        // They may have answered since.
        crate::replication::primary::serve_waits(shared);
    }));
    Err(Stop::WouldBlock)
}
