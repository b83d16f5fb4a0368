//! Memory, eviction, expiry and the compact encodings.

use super::super::kind::Kind;
use super::super::setting::Setting;
use super::{int, int_from, long_from, memory_from};

const POLICIES: Kind = Kind::Enum(&[
    ("volatile-lru", 0),
    ("volatile-lfu", 1),
    ("volatile-random", 2),
    ("volatile-ttl", 3),
    ("allkeys-lru", 4),
    ("allkeys-lfu", 5),
    ("allkeys-random", 6),
    ("noeviction", 7),
    ("tier", POLICY_TIER),
]);

/// The policy that has values leave memory for the disk.
pub const POLICY_TIER: i64 = 8;

const ALWAYS_LAZY: &str = "large values are always freed in the background";

pub(super) const MEMORY: &[Setting] = &[
    Setting::new(
        "maxmemory",
        memory_from(0),
        "0",
        "The memory above which `maxmemory-policy` acts; 0 is no bound.",
    ),
    Setting::new(
        "maxmemory-policy",
        POLICIES,
        "noeviction",
        "What gives way when `maxmemory` is reached: a kind of key, nothing (writes fail), or with \
         `tier` memory itself: values go to disk. `tier` has to be set at the start, or a \
         `cold-store`.",
    ),
    Setting::new(
        "cold-store",
        Kind::Enum(&[("no", 0), ("sled", 1), ("fjall", 2)]),
        "no",
        "The store on disk for values that leave memory, below `dir`; with `maxmemory-policy tier` \
         `no` stands for sled.",
    )
    .start(),
    Setting::new(
        "cold-threshold",
        int_from(0),
        "86400",
        "Seconds without access after which a value leaves memory for the cold store; 0 is never.",
    ),
    Setting::new(
        "hot-threshold",
        int(1, 255),
        "100",
        "Accesses after which a key that was read from disk stays in memory as if it had never left; \
         before that it is the first to leave again, if it was not used a second time, and \
         needs no write to do so.",
    ),
    Setting::new(
        "cold-memory",
        memory_from(8 << 20),
        "33554432",
        "Memory for the caches and buffers of the cold store; it counts against `maxmemory`.",
    )
    .start(),
    Setting::new("cold-readers", int(1, 64), "2", "Threads that read values from the cold store.")
        .start(),
    Setting::new(
        "maxmemory-samples",
        int(1, 64),
        "5",
        "How many keys are compared to choose one to evict.",
    ),
    Setting::new(
        "maxmemory-eviction-tenacity",
        int(0, 100),
        "10",
        "How much time eviction may take, from 0 (little) to 100 (all it needs).",
    )
    .ignored("each command evicts as many keys as it needs, up to a bound"),
    Setting::new(
        "lfu-log-factor",
        int_from(0),
        "10",
        "How many accesses it takes to raise a key's frequency count; more is slower.",
    ),
    Setting::new(
        "lfu-decay-time",
        int_from(0),
        "1",
        "Minutes without access that lower a key's frequency count by one; 0 never does.",
    ),
    Setting::new(
        "active-expire-effort",
        int(1, 10),
        "1",
        "How hard expired keys that nobody reads are looked for.",
    ),
    Setting::new("lazyfree-lazy-eviction", Kind::Bool, "no", "Free evicted values lazily.")
        .ignored(ALWAYS_LAZY),
    Setting::new("lazyfree-lazy-expire", Kind::Bool, "no", "Free expired values lazily.")
        .ignored(ALWAYS_LAZY),
    Setting::new("lazyfree-lazy-server-del", Kind::Bool, "no", "Free overwritten values lazily.")
        .ignored(ALWAYS_LAZY),
    Setting::new("lazyfree-lazy-user-del", Kind::Bool, "no", "Let DEL work as UNLINK.")
        .ignored(ALWAYS_LAZY),
    Setting::new(
        "lazyfree-lazy-user-flush",
        Kind::Bool,
        "no",
        "Let FLUSHALL and FLUSHDB work as with ASYNC.",
    )
    .ignored(ALWAYS_LAZY),
    Setting::new("activerehashing", Kind::Bool, "yes", "Finish the growth of tables when idle.")
        .ignored("tables grow in small steps with the writes"),
    Setting::new("activedefrag", Kind::Bool, "no", "Move values to fight fragmentation.")
        .ignored("values are not moved"),
    Setting::new("active-defrag-ignore-bytes", memory_from(1), "104857600", "Waste to ignore.")
        .ignored("values are not moved"),
    Setting::new("active-defrag-threshold-lower", int(0, 1000), "10", "Percentage to start at.")
        .ignored("values are not moved"),
    Setting::new(
        "active-defrag-threshold-upper",
        int(0, 1000),
        "100",
        "Percentage of full effort.",
    )
    .ignored("values are not moved"),
    Setting::new("active-defrag-cycle-min", int(1, 99), "1", "Least CPU percentage.")
        .ignored("values are not moved"),
    Setting::new("active-defrag-cycle-max", int(1, 99), "25", "Greatest CPU percentage.")
        .ignored("values are not moved"),
    Setting::new("active-defrag-max-scan-fields", long_from(1), "1000", "Fields at a time.")
        .ignored("values are not moved"),
    Setting::new(
        "jemalloc-bg-thread",
        Kind::Bool,
        "yes",
        "Give free memory back to the system by a thread, also while nothing happens.",
    ),
];

pub(super) const ENCODINGS: &[Setting] = &[
    Setting::new(
        "hash-max-listpack-entries",
        long_from(0),
        "512",
        "The most fields of a hash in its compact form.",
    )
    .aliases(&["hash-max-ziplist-entries"]),
    Setting::new(
        "hash-max-listpack-value",
        memory_from(0),
        "64",
        "The longest field or value of a hash in its compact form.",
    )
    .aliases(&["hash-max-ziplist-value"]),
    Setting::new(
        "list-max-listpack-size",
        int(-0x8000_0000, 0x7fff_ffff),
        "-2",
        "The size of a list's nodes: elements, or -1 to -5 for 4, 8, 16, 32, 64 KiB.",
    )
    .aliases(&["list-max-ziplist-size"]),
    Setting::new(
        "list-compress-depth",
        int_from(0),
        "0",
        "Nodes at each end of a list that are not compressed; 0 compresses none.",
    )
    .ignored("list nodes are not compressed"),
    Setting::new(
        "set-max-intset-entries",
        long_from(0),
        "512",
        "The most members of a set of integers in its compact form.",
    ),
    Setting::new(
        "set-max-listpack-entries",
        long_from(0),
        "128",
        "The most members of a set in its compact form.",
    ),
    Setting::new(
        "set-max-listpack-value",
        memory_from(0),
        "64",
        "The longest member of a set in its compact form.",
    ),
    Setting::new(
        "zset-max-listpack-entries",
        long_from(0),
        "128",
        "The most members of a sorted set in its compact form.",
    )
    .aliases(&["zset-max-ziplist-entries"]),
    Setting::new(
        "zset-max-listpack-value",
        memory_from(0),
        "64",
        "The longest member of a sorted set in its compact form.",
    )
    .aliases(&["zset-max-ziplist-value"]),
    Setting::new(
        "stream-node-max-bytes",
        memory_from(0),
        "4096",
        "The most bytes of a stream's node; 0 is no bound.",
    ),
    Setting::new(
        "stream-node-max-entries",
        long_from(0),
        "100",
        "The most entries of a stream's node; 0 is no bound.",
    ),
    Setting::new(
        "hll-sparse-max-bytes",
        memory_from(0),
        "3000",
        "The longest sparse form of a HyperLogLog.",
    ),
];
