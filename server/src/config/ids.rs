//! Handles of the settings that the server reads while it runs, resolved when it is compiled.
//!
//! A name that is not in the table does not compile.

use super::table::TABLE;

/// The place of a setting in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(u16);

impl Id {
    /// The place as an index into [`TABLE`].
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// The setting at a place of the table; `index` must be below the table's length.
    pub(super) const fn at(index: usize) -> Self {
        assert!(index < TABLE.len(), "a setting's index is below the table's length");
        Self(index as u16)
    }

    /// The setting with this name or alias, in any case.
    pub fn find(name: &[u8]) -> Option<Self> {
        TABLE.iter().position(|setting| setting.is_named(name)).map(Self::at)
    }

    /// The setting's description.
    pub const fn setting(self) -> &'static super::Setting {
        TABLE[self.0 as usize]
    }
}

const fn id(name: &str) -> Id {
    let mut at = 0;
    while at < TABLE.len() {
        if same(TABLE[at].name, name) {
            return Id(at as u16);
        }
        at += 1;
    }
    panic!("no setting has this name")
}

const fn same(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    if a.len() != b.len() {
        return false;
    }
    let mut at = 0;
    while at < a.len() {
        if a[at] != b[at] {
            return false;
        }
        at += 1;
    }
    true
}

macro_rules! ids {
    ($($handle:ident = $name:literal,)*) => {
        $(
            #[doc = concat!("`", $name, "`")]
            pub const $handle: Id = id($name);
        )*
    };
}

ids! {
    ACLFILE = "aclfile",
    ACL_LOG_MAX_LEN = "acllog-max-len",
    ACL_PUBSUB_DEFAULT = "acl-pubsub-default",
    ACTIVE_EXPIRE_EFFORT = "active-expire-effort",
    APPENDFSYNC = "appendfsync",
    AOF_LOAD_TRUNCATED = "aof-load-truncated",
    APPENDDIRNAME = "appenddirname",
    APPENDFILENAME = "appendfilename",
    APPENDONLY = "appendonly",
    AUTO_AOF_REWRITE_MIN_SIZE = "auto-aof-rewrite-min-size",
    AUTO_AOF_REWRITE_PERCENTAGE = "auto-aof-rewrite-percentage",
    BIND = "bind",
    BIND_SOURCE_ADDR = "bind-source-addr",
    CLIENT_OUTPUT_BUFFER_LIMIT = "client-output-buffer-limit",
    CLIENT_QUERY_BUFFER_LIMIT = "client-query-buffer-limit",
    COLD_MEMORY = "cold-memory",
    COLD_READERS = "cold-readers",
    COLD_STORE = "cold-store",
    COLD_THRESHOLD = "cold-threshold",
    CLUSTER_ENABLED = "cluster-enabled",
    CLUSTER_ALLOW_PUBSUBSHARD_WHEN_DOWN = "cluster-allow-pubsubshard-when-down",
    CLUSTER_ALLOW_READS_WHEN_DOWN = "cluster-allow-reads-when-down",
    CLUSTER_ANNOUNCE_BUS_PORT = "cluster-announce-bus-port",
    CLUSTER_ANNOUNCE_HOSTNAME = "cluster-announce-hostname",
    CLUSTER_ANNOUNCE_IP = "cluster-announce-ip",
    CLUSTER_ANNOUNCE_PORT = "cluster-announce-port",
    CLUSTER_ANNOUNCE_TLS_PORT = "cluster-announce-tls-port",
    CLUSTER_NODE_TIMEOUT = "cluster-node-timeout",
    CLUSTER_PORT = "cluster-port",
    CLUSTER_PREFERRED_ENDPOINT_TYPE = "cluster-preferred-endpoint-type",
    CLUSTER_ASYNC_READS = "cluster-async-reads",
    CLUSTER_READS = "cluster-reads",
    CLUSTER_REDIRECTS = "cluster-redirects",
    CLUSTER_REPLICA_READS = "cluster-replica-reads",
    CLUSTER_REQUIRE_FULL_COVERAGE = "cluster-require-full-coverage",
    CLUSTER_SECRET = "cluster-secret",
    CLUSTER_SITE = "cluster-site",
    CLUSTER_WITNESS = "cluster-witness",
    DOWN_AFTER_MILLISECONDS = "down-after-milliseconds",
    FAILOVER_TIMEOUT = "failover-timeout",
    SENTINEL_MASTER_NAMES = "sentinel-master-names",
    AOF_REWRITE_CPULIST = "aof-rewrite-cpulist",
    BGSAVE_CPULIST = "bgsave-cpulist",
    BIO_CPULIST = "bio-cpulist",
    SERVER_CPULIST = "server-cpulist",
    DAEMONIZE = "daemonize",
    DATABASES = "databases",
    DBFILENAME = "dbfilename",
    DIR = "dir",
    ENABLE_DEBUG_COMMAND = "enable-debug-command",
    ENABLE_PROTECTED_CONFIGS = "enable-protected-configs",
    HASH_MAX_LISTPACK_ENTRIES = "hash-max-listpack-entries",
    HASH_MAX_LISTPACK_VALUE = "hash-max-listpack-value",
    HLL_SPARSE_MAX_BYTES = "hll-sparse-max-bytes",
    HOT_THRESHOLD = "hot-threshold",
    HZ = "hz",
    IO_THREADS = "io-threads",
    JEMALLOC_BG_THREAD = "jemalloc-bg-thread",
    LATENCY_MONITOR_THRESHOLD = "latency-monitor-threshold",
    LATENCY_TRACKING = "latency-tracking",
    LATENCY_TRACKING_INFO_PERCENTILES = "latency-tracking-info-percentiles",
    LFU_DECAY_TIME = "lfu-decay-time",
    LFU_LOG_FACTOR = "lfu-log-factor",
    LIST_COMPRESS_DEPTH = "list-compress-depth",
    LIST_MAX_LISTPACK_SIZE = "list-max-listpack-size",
    LOGFILE = "logfile",
    LOGLEVEL = "loglevel",
    LOG_SEGMENT_SIZE = "log-segment-size",
    MASTERAUTH = "masterauth",
    MASTERUSER = "masteruser",
    MAXCLIENTS = "maxclients",
    MAXMEMORY = "maxmemory",
    MAXMEMORY_CLIENTS = "maxmemory-clients",
    MAXMEMORY_EVICTION_TENACITY = "maxmemory-eviction-tenacity",
    MAXMEMORY_POLICY = "maxmemory-policy",
    MAXMEMORY_SAMPLES = "maxmemory-samples",
    NOTIFY_KEYSPACE_EVENTS = "notify-keyspace-events",
    PIDFILE = "pidfile",
    PORT = "port",
    PROTECTED_MODE = "protected-mode",
    PROTO_MAX_BULK_LEN = "proto-max-bulk-len",
    MIN_REPLICAS_MAX_LAG = "min-replicas-max-lag",
    MIN_REPLICAS_TO_WRITE = "min-replicas-to-write",
    REPLICAOF = "replicaof",
    REPLICA_ANNOUNCE_PORT = "replica-announce-port",
    REPLICA_IGNORE_MAXMEMORY = "replica-ignore-maxmemory",
    REPLICA_PRIORITY = "replica-priority",
    REPLICA_READ_ONLY = "replica-read-only",
    REPLICA_SERVE_STALE_DATA = "replica-serve-stale-data",
    REPL_BACKLOG_SIZE = "repl-backlog-size",
    REPL_BACKLOG_TTL = "repl-backlog-ttl",
    REPL_PING_REPLICA_PERIOD = "repl-ping-replica-period",
    REPL_TIMEOUT = "repl-timeout",
    REQUIREPASS = "requirepass",
    SAVE = "save",
    SET_MAX_INTSET_ENTRIES = "set-max-intset-entries",
    SET_MAX_LISTPACK_ENTRIES = "set-max-listpack-entries",
    SET_MAX_LISTPACK_VALUE = "set-max-listpack-value",
    SHUTDOWN_TIMEOUT = "shutdown-timeout",
    BUSY_REPLY_THRESHOLD = "busy-reply-threshold",
    SITE_BACKUP = "site-backup",
    SITE_CLOCK_DRIFT = "site-clock-drift",
    SITE_ID = "site-id",
    SITE_NAME = "site-name",
    SITE_PASSWORD = "site-password",
    SITE_USER = "site-user",
    SLOWLOG_LOG_SLOWER_THAN = "slowlog-log-slower-than",
    SLOWLOG_MAX_LEN = "slowlog-max-len",
    STOP_WRITES_ON_BGSAVE_ERROR = "stop-writes-on-bgsave-error",
    STREAM_NODE_MAX_BYTES = "stream-node-max-bytes",
    STREAM_NODE_MAX_ENTRIES = "stream-node-max-entries",
    SUPERVISED = "supervised",
    TCP_BACKLOG = "tcp-backlog",
    TCP_KEEPALIVE = "tcp-keepalive",
    TIMEOUT = "timeout",
    TLS_AUTH_CLIENTS = "tls-auth-clients",
    TLS_CA_CERT_DIR = "tls-ca-cert-dir",
    TLS_CA_CERT_FILE = "tls-ca-cert-file",
    TLS_CERT_FILE = "tls-cert-file",
    TLS_CLUSTER = "tls-cluster",
    TLS_CLIENT_CERT_FILE = "tls-client-cert-file",
    TLS_CLIENT_KEY_FILE = "tls-client-key-file",
    TLS_KEY_FILE = "tls-key-file",
    TLS_PORT = "tls-port",
    TLS_PROTOCOLS = "tls-protocols",
    TLS_REPLICATION = "tls-replication",
    TLS_SESSION_CACHE_SIZE = "tls-session-cache-size",
    TLS_SESSION_CACHING = "tls-session-caching",
    TRACKING_TABLE_MAX_KEYS = "tracking-table-max-keys",
    UNIXSOCKET = "unixsocket",
    UNIXSOCKETPERM = "unixsocketperm",
    ZSET_MAX_LISTPACK_ENTRIES = "zset-max-listpack-entries",
    ZSET_MAX_LISTPACK_VALUE = "zset-max-listpack-value",
}
