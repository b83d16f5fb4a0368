//! Snapshots and the append-only file.

use super::super::kind::Kind;
use super::super::setting::Setting;
use super::super::special::read_save;
use super::{INT_MAX, int, int_from, memory_from};

const ITS_OWN_WAY: &str = "snapshots and the log work in their own way here";

const fn unused(name: &'static str, default: &'static str, doc: &'static str) -> Setting {
    Setting::new(name, Kind::Bool, default, doc).ignored(ITS_OWN_WAY)
}

pub(super) const PERSISTENCE: &[Setting] = &[
    Setting::new(
        "save",
        Kind::Words { read: read_save, form: "SECONDS CHANGES ..." },
        "3600 1 300 100 60 10000",
        "Take a snapshot after SECONDS if there were CHANGES writes; `save \"\"` takes none, and a \
         stop of the server none either. Snapshots are in `ashlar-data/snapshot` below `dir`.",
    ),
    Setting::new(
        "appendonly",
        Kind::Bool,
        "no",
        "Log every write to disk, in `ashlar-data/log` below `dir`. A log that is there is loaded at \
         start in any case. With `no` and `save \"\"` nothing is kept. Turned on at run time it counts \
         once a snapshot is done (`aof_rewrite_in_progress` is 0).",
    ),
    Setting::new(
        "appendfsync",
        Kind::Enum(&[("everysec", 2), ("always", 1), ("no", 0)]),
        "everysec",
        "When a logged write is forced to disk: before its reply (`always`), within a second \
         (`everysec`), or when the system likes (`no`). With each of them the system has it before \
         its reply, so that the end of the process loses nothing.",
    ),
    Setting::new(
        "log-segment-size",
        memory_from(4096),
        "67108864",
        "Bytes of a file of the log. With `appendfsync always` each is written full of zeros before \
         it is used, unless they fill up too fast for that.",
    )
    .start(),
    Setting::new(
        "appendfilename",
        Kind::Text,
        "appendonly.aof",
        "The name that a Redis gave its log. A server that has no data of its own yet starts with the \
         log, where there is one in `dir`; it writes none there.",
    )
    .start(),
    Setting::new(
        "appenddirname",
        Kind::Text,
        "appendonlydir",
        "The directory below `dir` in which a Redis has the files of its log.",
    )
    .start(),
    Setting::new(
        "dbfilename",
        Kind::Text,
        "dump.rdb",
        "The name that a Redis gave its snapshot. A server that has no data of its own yet starts with \
         it, where there is one in `dir`; it writes none there.",
    )
    .protected(),
    unused("no-appendfsync-on-rewrite", "no", "Do not force the log while it is rewritten."),
    Setting::new(
        "auto-aof-rewrite-percentage",
        int_from(0),
        "100",
        "Take a snapshot once the log behind the last one has so many percent of its size; 0 never.",
    ),
    Setting::new(
        "auto-aof-rewrite-min-size",
        memory_from(0),
        "67108864",
        "Bytes of snapshot and log below which their growth starts no snapshot.",
    ),
    Setting::new(
        "aof-load-truncated",
        Kind::Bool,
        "yes",
        "Accept a log of a Redis whose end is torn.",
    ),
    unused("aof-use-rdb-preamble", "yes", "Start a rewritten log with a snapshot."),
    unused("aof-timestamp-enabled", "no", "Note the time in the log."),
    unused("aof-rewrite-incremental-fsync", "yes", "Force a rewritten log in steps."),
    unused("aof-disable-auto-gc", "no", "Keep logs that are no longer needed."),
    unused("rdbcompression", "yes", "Compress strings in snapshots."),
    unused("rdbchecksum", "yes", "End snapshots with a checksum.").start(),
    unused("rdb-del-sync-files", "no", "Remove snapshots that replication made."),
    unused("rdb-save-incremental-fsync", "yes", "Force snapshots to disk in steps."),
    Setting::new(
        "stop-writes-on-bgsave-error",
        Kind::Bool,
        "yes",
        "Refuse writes while the last snapshot failed, if `save` asks for any.",
    ),
    Setting::new(
        "sanitize-dump-payload",
        Kind::Enum(&[("no", 0), ("yes", 1), ("clients", 2)]),
        "no",
        "Check all of what RESTORE and snapshots bring.",
    )
    .ignored("RESTORE always checks all of its input"),
    Setting::new("repl-backlog-size", memory_from(1), "1048576", "Bytes kept for replicas."),
    Setting::new("repl-backlog-ttl", int(0, INT_MAX), "3600", "Seconds it is kept without one."),
];
