//! What the server tells about itself: INFO, SLOWLOG, LATENCY, and MEMORY apart from USAGE, which
//! looks at a key and is the engine's.

use crate::config::ids;
use crate::facts::Facts;
use crate::host::Host;
use crate::registry::{HostCommand, HostRun};
use crate::{clock, info};
use ashlar_engine::command::{Command, Flags, Group};
use ashlar_engine::error::{CmdResult, Error};
use ashlar_engine::reply::Reply;
use ashlar_engine::tier::KeyCounts;

const ANY_TIME: Flags = Flags::LOADING.union(Flags::STALE);
const ADMIN: Flags = Flags::ADMIN.union(Flags::LOADING).union(Flags::STALE);

const fn command(
    name: &'static str,
    arity: i32,
    syntax: &'static str,
    summary: &'static str,
) -> Command {
    Command::hosted(name, arity, Group::Server)
        .flags(ADMIN)
        .syntax(syntax)
        .docs("2.8.13", "O(1)", summary)
}

const fn help(run: HostRun) -> HostCommand {
    let help = Command::hosted("HELP", 2, Group::Server).flags(ANY_TIME);
    HostCommand::new(help.docs("2.8.13", "O(1)", "Lists the subcommands."), run)
}

/// The family's commands.
pub const COMMANDS: &[HostCommand] = &[
    HostCommand::new(
        Command::hosted("INFO", -1, Group::Server)
            .flags(ANY_TIME.union(Flags::DANGEROUS))
            .syntax("[section...]")
            .docs("1.0.0", "O(1)", "Returns facts and figures about the server."),
        info,
    ),
    HostCommand::container(
        Command::hosted("SLOWLOG", -2, Group::Server).docs(
            "2.2.12",
            "",
            "Shows the commands that took long.",
        ),
        SLOWLOG,
    ),
    HostCommand::container(
        Command::hosted("LATENCY", -2, Group::Server).docs(
            "2.8.13",
            "",
            "Shows how long events and commands took.",
        ),
        LATENCY,
    ),
];

const SLOWLOG: &[HostCommand] = &[
    HostCommand::new(
        command("GET", -2, "[count:integer]", "Returns the newest slow commands."),
        |host, args, reply| Ok(host.shared.slow_log.reply_get(args, reply)?),
    ),
    HostCommand::new(
        command("LEN", 2, "", "Counts the slow commands that are kept."),
        |host, _, reply| {
            reply.int(host.shared.slow_log.len() as i64);
            Ok(())
        },
    ),
    HostCommand::new(command("RESET", 2, "", "Forgets the slow commands."), |host, _, reply| {
        host.shared.slow_log.reset();
        reply.ok();
        Ok(())
    }),
    help(|_, _, reply| {
        let lines = [
            ("GET [<count>]", "Return the newest entries (default: 10, -1 means all)."),
            ("LEN", "Return how many entries there are."),
            ("RESET", "Remove all entries."),
        ];
        super::help(reply, "SLOWLOG", &lines);
        Ok(())
    }),
];

const LATENCY: &[HostCommand] = &[
    HostCommand::new(command("LATEST", 2, "", "Returns the last sample of every event."), latest),
    HostCommand::new(
        command("HISTORY", 3, "event", "Returns the samples of an event."),
        |host, args, reply| {
            let samples = host.shared.latency.history(args[2]);
            reply.array(samples.len());
            for sample in samples {
                reply.array(2);
                reply.int(sample.time_seconds);
                reply.int(millis(sample.ms));
            }
            Ok(())
        },
    ),
    HostCommand::new(
        command("RESET", -2, "[event...]", "Forgets the samples of events."),
        |host, args, reply| {
            let count = host.shared.latency.reset(args.get(2..).unwrap_or_default());
            reply.int(count as i64);
            Ok(())
        },
    ),
    HostCommand::new(command("GRAPH", 3, "event", "Draws the samples of an event."), graph),
    HostCommand::new(
        command("DOCTOR", 2, "", "Says what was slow, and what may help."),
        |host, _, reply| {
            let settings = &host.shared.settings;
            let threshold = settings.count(ids::LATENCY_MONITOR_THRESHOLD);
            let slow_log = settings.number(ids::SLOWLOG_LOG_SLOWER_THAN);
            reply.verbatim("txt", &host.shared.latency.doctor(threshold, slow_log));
            Ok(())
        },
    ),
    HostCommand::new(
        command("HISTOGRAM", -2, "[command...]", "Returns how run times are distributed."),
        histogram,
    ),
    help(|_, _, reply| {
        let lines = [
            ("DOCTOR", "Return what was slow, and what may help."),
            ("GRAPH <event>", "Return a graph of the samples of an event."),
            ("HISTOGRAM [<command> ...]", "Return how run times are distributed."),
            ("HISTORY <event>", "Return the samples of an event."),
            ("LATEST", "Return the last sample of every event."),
            ("RESET [<event> ...]", "Remove the samples of the events, or of all."),
        ];
        super::help(reply, "LATENCY", &lines);
        Ok(())
    }),
];

/// Functions of commands that the engine describes but that are the server's to run.
pub const OVERLAYS: &[(&str, &str, HostRun)] = &[
    ("MEMORY", "DOCTOR", memory_doctor),
    ("MEMORY", "MALLOC-STATS", |_, _, reply| {
        reply.bulk(b"Stats not supported for the current allocator");
        Ok(())
    }),
    ("MEMORY", "PURGE", |_, _, reply| {
        crate::alloc::purge();
        reply.ok();
        Ok(())
    }),
    ("MEMORY", "STATS", memory_stats),
];

fn millis(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

fn info(host: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let names = args.get(1..).unwrap_or_default();
    let databases = match info::includes(names, "Keyspace") {
        true => host.exec.db_stats(),
        false => Vec::new(),
    };
    let tracked = match info::includes(names, "Stats") {
        true => host.exec.tracked(),
        false => (0, 0),
    };
    // All of it is asked of the executor: it may hold locks that nobody else gets meanwhile.
    let tiers = match info::includes(names, "Tiers") {
        true => host.exec.tier_counts(),
        false => KeyCounts::default(),
    };
    let facts = Facts { shared: host.shared, databases, tracked, tiers };
    reply.verbatim("txt", &info::text(&facts, names));
    Ok(())
}

fn latest(host: &mut Host<'_, '_>, _: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let events = host.shared.latency.latest();
    reply.array(events.len());
    for latest in events {
        reply.array(4);
        reply.bulk(latest.event.as_bytes());
        reply.int(latest.last.time_seconds);
        reply.int(millis(latest.last.ms));
        reply.int(millis(latest.max_ms));
    }
    Ok(())
}

fn graph(host: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let now_seconds = clock::now_ms() / 1000;
    match host.shared.latency.graph(args[2], now_seconds) {
        Some(graph) => reply.verbatim("txt", &graph),
        None => {
            let text = "ERR No samples available for event '{}'";
            return Err(Error::quoting(text, &[args[2]]).into());
        }
    }
    Ok(())
}

/// Whether a full name (`get`, `config|set`) is, or is part of, the command `asked` for.
fn is_asked(asked: &[u8], full_name: &str) -> bool {
    let full_name = full_name.as_bytes();
    match full_name.split_at_checked(asked.len()) {
        Some((start, rest)) => start.eq_ignore_ascii_case(asked) && matches!(rest, [] | [b'|', ..]),
        None => false,
    }
}

fn histogram(host: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let asked = args.get(2..).unwrap_or_default();
    let mut shown = host.shared.stats.histograms();
    shown.retain(|(name, _)| asked.is_empty() || asked.iter().any(|one| is_asked(one, name)));
    reply.map(shown.len());
    for (name, histogram) in shown {
        reply.bulk(name.as_bytes());
        reply.map(2);
        reply.bulk(b"calls");
        reply.int(millis(histogram.count()));
        reply.bulk(b"histogram_usec");
        let steps = histogram.doubling_micros();
        reply.map(steps.len());
        for (micros, count) in steps {
            reply.int(millis(micros));
            reply.int(millis(count));
        }
    }
    Ok(())
}

/// Below this many bytes MEMORY DOCTOR has nothing to judge.
const DOCTOR_BYTES_MIN: u64 = 5 << 20;

fn memory_doctor(host: &mut Host<'_, '_>, _: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let tiers = KeyCounts::default();
    let facts = Facts { shared: host.shared, databases: Vec::new(), tracked: (0, 0), tiers };
    let memory = info::InfoSource::memory(&facts);
    let rss = crate::proc::resident_bytes();
    let mut report = String::new();
    let mut say = |line: &str| {
        report.push_str(line);
        report.push('\n');
    };
    if memory.used < DOCTOR_BYTES_MIN {
        say("There is too little data to say anything about the use of memory.");
    } else {
        if memory.peak > memory.used.saturating_mul(3) / 2 {
            say("- At its peak the server used more than one and a half times the memory it uses \
                 now; the system may not have got all of it back.");
        }
        if rss > memory.used.saturating_mul(7) / 5 && rss - memory.used > 10 << 20 {
            say("- The process is more than 1.4 times as large as what it has allocated: pages \
                 are fragmented, or not given back yet.");
        }
        let max = host.shared.settings.count(ids::MAXMEMORY);
        if max != 0 && memory.used > max / 10 * 9 {
            say("- More than nine tenths of maxmemory are used.");
        }
        if report.is_empty() {
            report.push_str("Nothing unusual was found in the use of memory.\n");
        }
    }
    reply.verbatim("txt", &report);
    Ok(())
}

fn memory_stats(host: &mut Host<'_, '_>, _: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let databases = host.exec.db_stats();
    let tiers = KeyCounts::default();
    let facts = Facts { shared: host.shared, databases, tracked: (0, 0), tiers };
    let memory = info::InfoSource::memory(&facts);
    let keys: u64 = facts.databases.iter().map(|db| db.keys as u64).sum();
    let dataset = memory.used.saturating_sub(memory.overhead);
    let net = memory.used.saturating_sub(memory.startup);
    let rss = crate::proc::resident_bytes();
    let percent =
        |part: u64, whole: u64| if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 };
    let used = facts.databases.iter().enumerate().filter(|(_, db)| db.keys > 0);
    let numbers: [(&str, u64); 11] = [
        ("peak.allocated", memory.peak),
        ("total.allocated", memory.used),
        ("startup.allocated", memory.startup),
        ("replication.backlog", 0),
        ("clients.slaves", 0),
        ("clients.normal", memory.clients),
        ("cluster.links", 0),
        ("aof.buffer", 0),
        ("lua.caches", 0),
        ("functions.caches", 0),
        ("script.VMs", 0),
    ];
    let map = reply.deferred_map();
    let mut count = 0;
    for (name, value) in numbers {
        reply.bulk(name.as_bytes());
        reply.int(millis(value));
        count += 1;
    }
    for (number, db) in used {
        reply.bulk(format!("db.{number}").as_bytes());
        reply.map(2);
        reply.bulk(b"overhead.hashtable.main");
        reply.int(db.table_bytes as i64);
        reply.bulk(b"overhead.hashtable.expires");
        reply.int(0);
        count += 1;
    }
    for (name, value) in [
        ("overhead.total", memory.overhead),
        ("keys.count", keys),
        ("keys.bytes-per-key", net.checked_div(keys).unwrap_or(0)),
        ("dataset.bytes", dataset),
    ] {
        reply.bulk(name.as_bytes());
        reply.int(millis(value));
        count += 1;
    }
    for (name, value) in [
        ("dataset.percentage", percent(dataset, net).min(100.0)),
        ("peak.percentage", percent(memory.used, memory.peak)),
    ] {
        reply.bulk(name.as_bytes());
        reply.double(value);
        count += 1;
    }
    for (name, value) in [
        ("allocator.allocated", memory.used),
        ("allocator.active", memory.allocator_active),
        ("allocator.resident", memory.allocator_resident),
    ] {
        reply.bulk(name.as_bytes());
        reply.int(millis(value));
        count += 1;
    }
    reply.bulk(b"fragmentation");
    reply.double(percent(rss, memory.used) / 100.0);
    reply.bulk(b"fragmentation.bytes");
    reply.int(millis(rss).saturating_sub(millis(memory.used)));
    reply.close(map, count + 2);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::is_asked;

    #[test]
    fn a_command_stands_for_its_subcommands() {
        assert!(is_asked(b"CONFIG", "config|get") && is_asked(b"config|get", "config|get"));
        assert!(is_asked(b"get", "get"));
        assert!(!is_asked(b"get", "getset") && !is_asked(b"getset", "get"));
    }
}
