//! Replication with Redis servers, and cluster mode.

use super::super::kind::Kind;
use super::super::setting::Setting;
use super::super::special::{read_names, read_primary};
use super::{int, int_from, memory_from};

const UNUSED: &str = "it makes no difference here";

const fn repl(
    name: &'static str,
    old: &'static [&'static str],
    kind: Kind,
    default: &'static str,
    doc: &'static str,
) -> Setting {
    Setting::new(name, kind, default, doc).aliases(old).ignored(UNUSED)
}

/// A setting that is honoured.
const fn used(
    name: &'static str,
    old: &'static [&'static str],
    kind: Kind,
    default: &'static str,
    doc: &'static str,
) -> Setting {
    Setting::new(name, kind, default, doc).aliases(old)
}

pub(super) const REPLICATION: &[Setting] = &[
    Setting::new(
        "replicaof",
        Kind::Words { read: read_primary, form: "HOST PORT" },
        "",
        "The primary to follow.",
    )
    .aliases(&["slaveof"])
    .start(),
    Setting::new(
        "site-id",
        int(0, 1_023),
        "0",
        "Number of this server among sites that all take writes; 0 if it is none. A cluster has its own \
         (CLUSTER ASHLAR SET site-id).",
    )
    .start(),
    Setting::new("site-name", Kind::Text, "", "Name of the site; site-N if it is empty.").start(),
    Setting::new(
        "site-backup",
        Kind::Bool,
        "no",
        "Only follow the other sites: refuse writes on global keys until SITE PROMOTE.",
    )
    .start(),
    used(
        "site-clock-drift",
        &[],
        int_from(0),
        "86400",
        "Seconds that stamps of other sites may be ahead of the clock here; what is further is refused. 0 takes any.",
    ),
    used("site-user", &[], Kind::Text, "", "User name at the other sites."),
    used("site-password", &[], Kind::Text, "", "Password at the other sites.").secret(),
    used(
        "min-replicas-to-write",
        &["min-slaves-to-write"],
        int_from(0),
        "0",
        "Refuse writes with fewer replicas than this; 0 is off.",
    ),
    used(
        "min-replicas-max-lag",
        &["min-slaves-max-lag"],
        int_from(0),
        "10",
        "Seconds since it was last heard of that a replica may have to count; 0 turns that off.",
    ),
    used("masterauth", &[], Kind::Text, "", "Password of the primary.").secret(),
    used("masteruser", &[], Kind::Text, "", "User name at the primary."),
    used("replica-priority", &["slave-priority"], int_from(0), "100", "Rank in a fail-over."),
    used("replica-read-only", &["slave-read-only"], Kind::Bool, "yes", "Refuse writes."),
    used(
        "replica-serve-stale-data",
        &["slave-serve-stale-data"],
        Kind::Bool,
        "yes",
        "Answer while the primary can't be reached.",
    ),
    repl(
        "replica-lazy-flush",
        &["slave-lazy-flush"],
        Kind::Bool,
        "no",
        "Free old data in the background on a full copy.",
    ),
    used(
        "replica-ignore-maxmemory",
        &["slave-ignore-maxmemory"],
        Kind::Bool,
        "yes",
        "Leave eviction to the primary.",
    ),
    repl("replica-ignore-disk-write-errors", &[], Kind::Bool, "no", "Go on when the disk fails."),
    repl("replica-announced", &[], Kind::Bool, "yes", "Be listed by Sentinel."),
    repl(
        "replica-announce-ip",
        &["slave-announce-ip"],
        Kind::Text,
        "",
        "Address to tell the primary.",
    ),
    used(
        "replica-announce-port",
        &["slave-announce-port"],
        int(0, 65535),
        "0",
        "Port to tell the primary.",
    ),
    used(
        "repl-ping-replica-period",
        &["repl-ping-slave-period"],
        int_from(1),
        "10",
        "Seconds between signs of life.",
    ),
    used("repl-timeout", &[], int_from(1), "60", "Seconds of silence until a link is given up."),
    repl("repl-disable-tcp-nodelay", &[], Kind::Bool, "no", "Send in fewer, later packets."),
    repl("repl-diskless-sync", &[], Kind::Bool, "yes", "Send a full copy without a file."),
    repl("repl-diskless-sync-delay", &[], int_from(0), "5", "Seconds to wait for more replicas."),
    repl("repl-diskless-sync-max-replicas", &[], int_from(0), "0", "Replicas to wait for at most."),
    repl(
        "repl-diskless-load",
        &[],
        Kind::Enum(&[("disabled", 0), ("on-empty-db", 1), ("swapdb", 2)]),
        "disabled",
        "Load a full copy straight from the socket.",
    ),
    repl(
        "propagation-error-behavior",
        &[],
        Kind::Enum(&[("ignore", 0), ("panic", 1), ("panic-on-replicas", 2)]),
        "ignore",
        "What to do when a command of the primary fails.",
    ),
];

const NO_CLUSTER: &str = "groups of replicas do without it";

const fn cluster(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    doc: &'static str,
) -> Setting {
    Setting::new(name, kind, default, doc).ignored(NO_CLUSTER)
}

/// Nodes that follow answer as a Redis replica does.
pub const REDIRECTS_READONLY: i64 = 1;
/// `cluster-async-reads nearest`.
pub const ASYNC_READS_NEAREST: i64 = 0;
/// How a read of a strong key makes sure that it sees the newest value.
pub const READS_READINDEX: i64 = 0;
/// By a lease that the leader holds on its own clock.
pub const READS_LEASE: i64 = 1;
/// Not at all.
pub const READS_LOCAL: i64 = 2;

pub(super) const CLUSTER: &[Setting] = &[
    used("cluster-enabled", &[], Kind::Bool, "no", "Be a node of a cluster.")
        .start(),
    used(
        "cluster-secret",
        &[],
        Kind::Text,
        "",
        "What the nodes of the cluster know and others do not: without one, whoever reaches the port for \
         nodes is taken for a node.",
    )
    .start()
    .secret(),
    cluster("cluster-config-file", Kind::Text, "nodes.conf", "File of the node's state.").start(),
    used(
        "cluster-node-timeout",
        &[],
        int_from(1),
        "15000",
        "Milliseconds of silence until CLUSTER NODES shows a node as failing. Fail-over does not wait \
         for it, see `down-after-milliseconds`.",
    ),
    used(
        "down-after-milliseconds",
        &[],
        int(250, 600_000),
        "5000",
        "A leader that is silent has been replaced after this time: the election time-out is a fifth \
         of it. SENTINEL shows a node as `s_down` after it.",
    )
    .start(),
    used(
        "failover-timeout",
        &[],
        int(1, 600_000),
        "10000",
        "Milliseconds after which a hand-over of the leadership that somebody asked for is given up.",
    ),
    used(
        "sentinel-master-names",
        &[],
        Kind::Words { read: read_names, form: "NAME ..." },
        "",
        "Names of the first, second, ... group for SENTINEL; without one, the first group is \
         `mymaster` and group N is `ashlar-N`.",
    ),
    used("cluster-port", &[], int(0, 65535), "0", "Port for other nodes; 0 is `port` + 10000.")
        .start(),
    used("cluster-announce-ip", &[], Kind::Text, "", "Address to tell clients and other nodes."),
    used("cluster-announce-port", &[], int(0, 65535), "0", "Port to tell clients."),
    used("cluster-announce-tls-port", &[], int(0, 65535), "0", "TLS port to tell clients."),
    used("cluster-announce-bus-port", &[], int(0, 65535), "0", "Port to tell other nodes."),
    used("cluster-announce-hostname", &[], Kind::Text, "", "Host name to tell clients."),
    cluster("cluster-announce-human-nodename", Kind::Text, "", "Name of the node in logs."),
    used(
        "cluster-preferred-endpoint-type",
        &[],
        Kind::Enum(&[("ip", 0), ("hostname", 1), ("unknown-endpoint", 2)]),
        "ip",
        "What CLUSTER SLOTS and redirections name nodes by.",
    ),
    used("cluster-site", &[], Kind::Text, "", "The site that this node stands in.").start(),
    used(
        "cluster-witness",
        &[],
        Kind::Bool,
        "no",
        "Vote in groups, but keep no data and answer no reads.",
    )
    .start(),
    used(
        "cluster-reads",
        &[],
        Kind::Enum(&[
            ("readindex", READS_READINDEX),
            ("lease", READS_LEASE),
            ("local", READS_LOCAL),
        ]),
        "readindex",
        "How a leader makes sure that a read sees the newest write: by asking a majority, by a lease on \
         its own clock, or not at all.",
    )
    .start(),
    used(
        "cluster-replica-reads",
        &[],
        Kind::Enum(&[("local", READS_LOCAL), ("readindex", READS_READINDEX)]),
        "local",
        "What a client that reads from replicas (READONLY) gets: what the replica has, or, with \
         `readindex`, nothing older than the newest write: the replica asks its leader how far it has to be.",
    ),
    used(
        "cluster-async-reads",
        &[],
        Kind::Enum(&[("nearest", ASYNC_READS_NEAREST), ("leader", 1)]),
        "nearest",
        "Who answers reads of `async` keys in a cluster: the node that the client is at, if it keeps them \
         and is not cut off, or the leader.",
    ),
    used(
        "cluster-redirects",
        &[],
        Kind::Enum(&[("moved", 0), ("readonly", REDIRECTS_READONLY)]),
        "moved",
        "How a node that follows in a key's group answers: `moved` sends clients to the leader, as \
         cluster clients expect; `readonly` answers reads and refuses writes, as Sentinel clients \
         expect of a replica.",
    ),
    cluster("cluster-migration-barrier", int_from(0), "1", "Replicas a primary keeps."),
    cluster("cluster-allow-replica-migration", Kind::Bool, "yes", "Let replicas change primary."),
    cluster(
        "cluster-replica-validity-factor",
        int_from(0),
        "10",
        "How old a replica's data may be in a fail-over.",
    )
    .aliases(&["cluster-slave-validity-factor"]),
    cluster("cluster-replica-no-failover", Kind::Bool, "no", "Never take over by itself.")
        .aliases(&["cluster-slave-no-failover"]),
    used(
        "cluster-require-full-coverage",
        &[],
        Kind::Bool,
        "yes",
        "Answer for no key while a slot belongs to nobody.",
    ),
    used(
        "cluster-allow-reads-when-down",
        &[],
        Kind::Bool,
        "no",
        "Answer reads of READONLY clients from what is here while no leader is known.",
    ),
    used(
        "cluster-allow-pubsubshard-when-down",
        &[],
        Kind::Bool,
        "yes",
        "Sharded messages when the cluster is down.",
    ),
    cluster("cluster-link-sendbuf-limit", memory_from(0), "0", "Bytes waiting for a node."),
];
