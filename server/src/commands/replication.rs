//! Replication as Redis's clients and servers see it: REPLICAOF, PSYNC, REPLCONF, ROLE, WAIT.

use crate::clock;
use crate::host::Host;
use crate::registry::HostCommand;
use crate::replication::follower::{Phase, set_primary};
use crate::replication::primary::{Detach, Wish};
use crate::replication::ship::receiver::{self, parse_position};
use crate::replication::ship::sender::Has;
use crate::replication::ship::{SPOKEN, VERSION};
use crate::replication::{NATIVE, Replica, Target, failover};
use ashlar_engine::command::{Command, Flags, Group};
use ashlar_engine::error::{CmdResult, Error, Stop};
use ashlar_engine::number;
use ashlar_engine::reply::Reply;
use std::sync::atomic::Ordering;
use std::time::Duration;

const ADMIN: Flags = Flags::ADMIN.union(Flags::NOSCRIPT).union(Flags::STALE);
/// Longest wait of FAILOVER: a client's mistake must not stop writes for years.
const TIMEOUT_MS_MAX: u64 = 1000 * 60 * 60 * 24 * 366;
/// Not in a transaction: its locks would be waited for.
const SYNC: Flags = ADMIN.union(Flags::NO_MULTI);
const ANY_TIME: Flags = Flags::LOADING.union(Flags::STALE).union(Flags::NOSCRIPT);

const fn command(name: &'static str, arity: i32, flags: Flags, summary: &'static str) -> Command {
    Command::hosted(name, arity, Group::Server).flags(flags).docs("1.0.0", "O(1)", summary)
}

/// The family's commands.
pub const COMMANDS: &[HostCommand] = &[
    HostCommand::new(
        command("REPLICAOF", 3, SYNC, "Follows a primary, or no longer (NO ONE).")
            .syntax("host port"),
        replicaof,
    ),
    HostCommand::new(
        command("SLAVEOF", 3, SYNC, "Follows a primary, or no longer (NO ONE).")
            .syntax("host port"),
        replicaof,
    ),
    HostCommand::new(
        Command::hosted("FAILOVER", -1, Group::Server)
            .flags(SYNC)
            .syntax("[TO host port [FORCE]] [ABORT] [TIMEOUT milliseconds:integer]")
            .docs("6.2.0", "O(1)", "Hands the role of the primary over to a replica."),
        fail_over,
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
    HostCommand::new(
        Command::hosted("WAITAOF", 4, Group::Generic)
            .flags(Flags::NOSCRIPT.union(Flags::BLOCKING))
            .syntax("numlocal:integer numreplicas:integer timeout:integer")
            .docs("7.2.0", "O(1)", "Waits until the writes so far are on disk here and there."),
        wait_aof,
    ),
    HostCommand::container(
        Command::hosted("REPLICATION", -2, Group::Server).docs(
            "7.4.0",
            "",
            "Replication between nodes of ashlar.",
        ),
        REPLICATION,
    ),
];

const REPLICATION: &[HostCommand] = &[
    HostCommand::new(
        command("FOLLOW", -4, SYNC, "Becomes a replica of ashlar, which goes on where it was.")
            .syntax("version position:integer [history...]"),
        follow,
    ),
    HostCommand::new(
        command("TAKEOVER", 5, SYNC, "A primary hands its role over to this replica.")
            .syntax("version position history"),
        take_over,
    ),
    HostCommand::new(
        command("LAG", 2, ANY_TIME, "Tells how far replicas are behind, or this node its primary."),
        lag,
    ),
    HostCommand::new(command("HELP", 2, ANY_TIME, "Lists the subcommands."), |_, _, reply| {
        super::help(
            reply,
            "REPLICATION",
            &[
                (
                    "LAG",
                    "Tell how far replicas are behind in records, bytes and seconds; of a replica, \
                     how far it is behind its primary.",
                ),
                (
                    "FOLLOW <version> <position> [<history> ...]",
                    "Used by replicas to get what comes behind <position>.",
                ),
                (
                    "TAKEOVER <version> <position>|ANY <history>",
                    "Used by a primary that hands its role over.",
                ),
            ],
        );
        Ok(())
    }),
];

fn take_over(host: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    if args[2] != VERSION {
        return Err(Error::text("ERR this node replicates with version 1 only").into());
    }
    if !crate::replication::admits(host.shared, host.session) {
        let text = "ERR tls-replication asks nodes for TLS and a certificate";
        return Err(Error::text(text).into());
    }
    let position = match args[3] {
        failover::ANY => None,
        position => Some(parse_position(position).ok_or(Error::NotInteger)?),
    };
    let shared = host.shared.arc().ok_or(Error::text("ERR the server stops"))?;
    failover::take_over(&shared, position, args[4])?;
    reply.ok();
    Ok(())
}

fn fail_over(host: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    if host.shared.cluster.get().is_some() {
        return Err(Error::text("ERR FAILOVER not allowed in cluster mode.").into());
    }
    let shared = host.shared.arc().ok_or(Error::text("ERR the server stops"))?;
    if let [_, word] = args
        && word.eq_ignore_ascii_case(b"ABORT")
    {
        if !failover::abort(&shared, "Failover manually aborted") {
            return Err(Error::text("ERR No failover in progress.").into());
        }
        reply.ok();
        return Ok(());
    }
    failover::begin(&shared, parse_failover(&args[1..])?)?;
    reply.ok();
    Ok(())
}

fn parse_failover(mut rest: &[&[u8]]) -> Result<failover::Wish, Error> {
    let mut wish = failover::Wish::default();
    loop {
        let is = |name: &[u8]| rest.first().is_some_and(|word| word.eq_ignore_ascii_case(name));
        rest = match rest {
            [] => return Ok(wish),
            [_, ms, left @ ..] if is(b"TIMEOUT") && wish.timeout.is_none() => {
                let ms = number::parse_i64(ms).ok_or(Error::NotInteger)?;
                let ms = u64::try_from(ms).ok().filter(|ms| *ms > 0);
                let ms = ms.ok_or(Error::text("ERR FAILOVER timeout must be greater than 0"))?;
                wish.timeout = Some(Duration::from_millis(ms.min(TIMEOUT_MS_MAX)));
                left
            }
            [_, host, port, left @ ..] if is(b"TO") && wish.target.is_none() => {
                let port = number::parse_i64(port).ok_or(Error::NotInteger)?;
                // No replica listens on what is no port.
                let port = u16::try_from(port).unwrap_or(0);
                wish.target = Some((String::from_utf8_lossy(host).into_owned(), port));
                left
            }
            [_, left @ ..] if is(b"FORCE") && !wish.force => {
                wish.force = true;
                left
            }
            _ => return Err(Error::Syntax),
        };
    }
}

fn follow(host: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    if args[2] != VERSION {
        return Err(Error::text("ERR this node replicates with version 1 only").into());
    }
    let position = parse_position(args[3]).ok_or(Error::NotInteger)?;
    let ids = args[4..].iter().map(|id| id.to_vec()).collect();
    detach(host, Wish::Native(Has { position, ids }), reply)
}

fn lag(host: &mut Host<'_, '_>, _: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let replication = &host.shared.replication;
    let status = replication.follower.status();
    let replicas = replication.replicas();
    let field = |reply: &mut Reply<'_>, name: &str, text: &str| {
        reply.bulk(name.as_bytes());
        reply.bulk(text.as_bytes());
    };
    let number = |reply: &mut Reply<'_>, name: &str, value: u64| {
        reply.bulk(name.as_bytes());
        reply.int(i64::try_from(value).unwrap_or(i64::MAX));
    };
    reply.array(replicas.len() + usize::from(status.primary.is_some()));
    if let Some((name, port)) = &status.primary {
        let (records, seconds) = receiver::behind(host.shared);
        reply.map(5);
        field(reply, "primary", &format!("{name}:{port}"));
        field(reply, "kind", if status.native { "ashlar" } else { "redis" });
        number(reply, "position", u64::try_from(status.offset).unwrap_or(0));
        number(reply, "lag_records", records);
        number(reply, "lag_seconds", u64::try_from(seconds).unwrap_or(0));
    }
    for replica in &replicas {
        let lag = Lag::of(host, replica);
        reply.map(8);
        field(reply, "replica", &format!("{}:{}", replica.ip, replica.port));
        field(reply, "kind", if replica.native { "ashlar" } else { "redis" });
        field(reply, "state", lag.state);
        number(reply, "position", replica.acked.load(Ordering::Acquire));
        number(reply, "durable", replica.durable.load(Ordering::Acquire));
        number(reply, "lag_records", lag.records);
        number(reply, "lag_bytes", lag.bytes);
        number(reply, "lag_seconds", lag.seconds);
    }
    Ok(())
}

/// How far a replica is behind.
pub struct Lag {
    /// What it is doing.
    pub state: &'static str,
    /// Records; of a Redis those are not known.
    pub records: u64,
    /// Bytes of the stream.
    pub bytes: u64,
    /// Age of the first record that it lacks.
    pub seconds: u64,
}

impl Lag {
    /// Of this replica.
    pub fn of(host: &Host<'_, '_>, replica: &Replica) -> Lag {
        Lag::at(&host.shared.engine, &host.shared.replication, replica)
    }

    /// The same from the parts.
    pub fn at(
        engine: &ashlar_engine::Engine,
        replication: &crate::replication::Replication,
        replica: &Replica,
    ) -> Lag {
        let now_ms = clock::now_ms();
        let acked = replica.acked.load(Ordering::Acquire);
        let told_ms = replica.acked_ms.load(Ordering::Acquire);
        let seconds = |since_ms: i64| u64::try_from((now_ms - since_ms) / 1000).unwrap_or(0);
        let state = match replica.online.load(Ordering::Acquire) {
            false => "copy",
            true if replica.from_disk.load(Ordering::Relaxed) => "log",
            true => "online",
        };
        if !replica.native {
            let bytes = replication.feed.offset().saturating_sub(acked);
            let seconds = if bytes == 0 { 0 } else { seconds(told_ms) };
            return Lag { state, records: 0, bytes, seconds };
        }
        let behind = engine.shipping().behind(acked);
        let since_ms = behind.since_ms.unwrap_or(told_ms);
        let seconds = if behind.records == 0 { 0 } else { seconds(since_ms) };
        Lag { state, records: behind.records, bytes: behind.bytes, seconds }
    }
}

fn replicaof(host: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let (name, port) = (args[1], args[2]);
    if host.shared.replication.failover.is_on() {
        return Err(Error::text("ERR REPLICAOF not allowed while failing over.").into());
    }
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

/// Where the stream stands, as INFO and ROLE tell it: the one of Redis while a Redis follows.
pub fn offset_of(host: &Host<'_, '_>) -> u64 {
    let feed = &host.shared.replication.feed;
    if feed.is_active() { feed.offset() } else { host.shared.engine.position().position }
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
        reply.int(offset_of(host) as i64);
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
    if args.get(3).is_some_and(|word| word.eq_ignore_ascii_case(b"FAILOVER")) {
        take_over_from_redis(host, args[1])?;
    }
    detach(host, Wish::Partial(args[1].to_vec(), offset), reply)
}

/// A Redis hands its role over to this node, which follows it, and becomes its replica.
fn take_over_from_redis(host: &Host<'_, '_>, replid: &[u8]) -> Result<(), Error> {
    let shared = host.shared.arc().ok_or(Error::text("ERR the server stops"))?;
    let follower = &shared.replication.follower;
    if !follower.is_following() {
        return Err(Error::text("ERR PSYNC FAILOVER can't be sent to a master."));
    }
    if !follower.follows_stream(replid) || !crate::replication::admits(host.shared, host.session) {
        return Err(Error::text("ERR PSYNC FAILOVER replid must match my replid."));
    }
    tracing::warn!("this server is a primary now: a Redis hands its role over");
    set_primary(&shared, None);
    Ok(())
}

/// The connection becomes a replica's: its worker gives it away.
fn detach(host: &mut Host<'_, '_>, wish: Wish, _: &mut Reply<'_>) -> CmdResult {
    if host.session.in_transaction || host.session.from_primary {
        return Err(Error::text("ERR a transaction can't become a replica").into());
    }
    if host.shared.replication.failover.is_on() {
        return Err(Error::text("NOMASTERLINK Can't SYNC while failing over").into());
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
    let mut native = false;
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
                native |= value.eq_ignore_ascii_case(NATIVE);
                host.session.hello.native |= native;
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
    // Both know then that they are of a kind; a Redis says OK to whatever it is told.
    reply.simple(if native { SPOKEN } else { "OK" });
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
    let target = host.session.wait_target.take().unwrap_or_else(|| target_of(host, None));
    let count = replication.acknowledged(&target);
    let wanted = usize::try_from(wanted).unwrap_or(0);
    if count >= wanted || host.session.in_transaction {
        reply.int(count as i64);
        return Ok(());
    }
    park(host, target, wanted, timeout_ms)
}

/// The writes so far.
fn target_of(host: &Host<'_, '_>, aof: Option<u64>) -> Target {
    let offset = host.shared.replication.feed.offset();
    Target { offset, position: host.shared.engine.position().position, aof }
}

/// Blocks the client until so many replicas are there.
fn park(host: &mut Host<'_, '_>, target: Target, wanted: usize, timeout_ms: i64) -> CmdResult {
    host.session.wait_target = Some(target);
    let until = (timeout_ms > 0).then(|| host.stamp.now_ms.saturating_add(timeout_ms));
    host.block_until_ms = Some(until);
    host.after_park = Some(Box::new(move |shared, waiter| {
        shared.replication.wait(waiter, target, wanted);
        shared.replication.ask(&shared.engine);
        // They may have answered since.
        crate::replication::primary::serve_waits(shared);
    }));
    Err(Stop::WouldBlock)
}

fn wait_aof(host: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let replication = &host.shared.replication;
    if replication.follower.is_following() {
        return Err(Error::text(
            "ERR WAITAOF cannot be used with replica instances. Please also note that writes to \
             replicas are just local and are not propagated.",
        )
        .into());
    }
    let out_of_range = Error::text("ERR value is out of range, must be positive");
    let local = number::parse_i64(args[1]).ok_or(Error::NotInteger)?;
    if !(0..=1).contains(&local) {
        return Err(Error::text("ERR value is out of range, must be between 0 and 1").into());
    }
    let wanted = number::parse_i64(args[2]).ok_or(Error::NotInteger)?;
    let wanted = usize::try_from(wanted).map_err(|_| out_of_range)?;
    let timeout_ms = number::parse_i64(args[3])
        .ok_or(Error::text("ERR timeout is not an integer or out of range"))?;
    if timeout_ms < 0 {
        return Err(Error::text("ERR timeout is negative").into());
    }
    let log = host.shared.gate().map(|gate| &gate.log);
    if local == 1 && log.is_none() {
        let text = "ERR WAITAOF cannot be used when numlocal is set but appendonly is disabled.";
        return Err(Error::text(text).into());
    }
    // No need to wait for the log here: whoever asks first syncs all that has gathered.
    // One that waits for the snapshot it begins with keeps nothing yet.
    let counts = local == 1 && !host.shared.persistence.basing.load(Ordering::Acquire);
    let durable = log.filter(|_| counts).and_then(|log| log.sync().ok());
    let target = host.session.wait_target.take();
    let target = target.unwrap_or_else(|| target_of(host, Some(durable.unwrap_or(0))));
    let count = replication.acknowledged(&target);
    if count >= wanted || host.session.in_transaction {
        reply.array(2);
        reply.int(i64::from(durable.is_some()));
        reply.int(count as i64);
        return Ok(());
    }
    park(host, target, wanted, timeout_ms)
}
