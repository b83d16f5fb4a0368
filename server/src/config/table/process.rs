//! The process: threads, files, supervision, scripts, tuning.

use super::super::kind::Kind;
use super::super::setting::Setting;
use super::super::special::{read_cores, read_dir, read_oom_scores};
use super::{int, int_from, long_from};

const SHUTDOWN: Kind =
    Kind::EnumFlags(&[("default", 0), ("save", 1), ("nosave", 2), ("now", 4), ("force", 8)]);

const fn cores(name: &'static str, aliases: &'static [&'static str], doc: &'static str) -> Setting {
    let kind = Kind::Word { read: read_cores, form: "CORES" };
    Setting::new(name, kind, "", doc).aliases(aliases).start()
}

pub(super) const GENERAL: &[Setting] = &[
    Setting::new(
        "io-threads",
        int(1, 128),
        "1",
        "Worker threads, each with its own connections and event loop; the default is half of \
         the machine's cores, at least one.",
    )
    .aliases(&["worker-threads"])
    .start(),
    Setting::new("databases", int(1, 65536), "16", "The number of databases for SELECT.").start(),
    Setting::new(
        "dir",
        Kind::Word { read: read_dir, form: "DIRECTORY" },
        ".",
        "The working directory; the default is the one the server is started in.",
    )
    .protected(),
    Setting::new("daemonize", Kind::Bool, "no", "Go to the background after start.").start(),
    Setting::new("pidfile", Kind::Text, "", "File that gets the process id.").start(),
    Setting::new(
        "supervised",
        Kind::Enum(&[("no", 0), ("upstart", 3), ("systemd", 1), ("auto", 2)]),
        "no",
        "Tell the supervisor when the server is ready: `systemd`, or `auto` to find out.",
    )
    .start(),
    Setting::new("hz", Kind::Clamped { min: 1, max: 500 }, "10", "Rounds of upkeep a second."),
    Setting::new(
        "shutdown-timeout",
        int_from(0),
        "10",
        "Seconds a shutdown waits for replicas to catch up.",
    ),
    Setting::new("shutdown-on-sigint", SHUTDOWN, "default", "What SIGINT does besides stopping.")
        .ignored("nothing is saved on shutdown in this version"),
    Setting::new("shutdown-on-sigterm", SHUTDOWN, "default", "What SIGTERM does besides stopping.")
        .ignored("nothing is saved on shutdown in this version"),
    cores(
        "server-cpulist",
        &["server_cpulist"],
        "Cores of the workers, such as `0,2-5`, or `0-6:2` for each other one; empty: all.",
    ),
    cores(
        "bio-cpulist",
        &["bio_cpulist"],
        "Cores of the threads that sync the log, read and write the cold tier, and free memory.",
    ),
    cores(
        "aof-rewrite-cpulist",
        &["aof_rewrite_cpulist"],
        "Cores of snapshots by BGREWRITEAOF; empty: those of the workers.",
    ),
    cores(
        "bgsave-cpulist",
        &["bgsave_cpulist"],
        "Cores of snapshots by BGSAVE and `save`; empty: those of the workers.",
    ),
];

pub(super) const SCRIPTING: &[Setting] = &[Setting::new(
    "busy-reply-threshold",
    long_from(0),
    "5000",
    "Milliseconds after which a running script is reported as busy; 0 is never.",
)
.aliases(&["lua-time-limit"])];

const fn tuning(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    doc: &'static str,
    why: &'static str,
) -> Setting {
    Setting::new(name, kind, default, doc).ignored(why)
}

const OWN_THREADS: &str = "every worker reads, executes and writes by itself";

pub(super) const TUNING: &[Setting] = &[
    tuning("io-threads-do-reads", Kind::Bool, "no", "Read in the I/O threads.", OWN_THREADS)
        .start(),
    tuning(
        "dynamic-hz",
        Kind::Bool,
        "yes",
        "More upkeep with more clients.",
        "upkeep does not grow with the number of clients",
    ),
    tuning("always-show-logo", Kind::Bool, "no", "Show a drawing at start.", "there is no drawing")
        .start(),
    tuning(
        "set-proc-title",
        Kind::Bool,
        "yes",
        "Show the server's state as its process name.",
        "the process keeps its name",
    )
    .start(),
    tuning(
        "proc-title-template",
        Kind::Text,
        "{title} {listen-addr} {server-mode}",
        "Form of the process name.",
        "the process keeps its name",
    ),
    tuning(
        "locale-collate",
        Kind::Text,
        "",
        "Locale by which SORT ALPHA compares.",
        "text is always compared byte by byte",
    ),
    tuning(
        "disable-thp",
        Kind::Bool,
        "yes",
        "Turn transparent huge pages off.",
        "the server does not fork, so huge pages cost it nothing",
    )
    .start(),
    tuning(
        "oom-score-adj",
        Kind::Enum(&[("no", 0), ("yes", 1), ("relative", 1), ("absolute", 2)]),
        "no",
        "Tell the kernel which process to kill first.",
        "the kernel's own choice applies",
    ),
    tuning(
        "oom-score-adj-values",
        Kind::Words { read: read_oom_scores, form: "PRIMARY REPLICA CHILD" },
        "0 200 800",
        "The scores for it.",
        "the kernel's own choice applies",
    ),
    tuning(
        "ignore-warnings",
        Kind::Text,
        "",
        "Warnings of the machine to start in spite of.",
        "there are no such warnings",
    ),
];
