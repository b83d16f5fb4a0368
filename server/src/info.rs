//! INFO: the server's state as text, in Redis's sections and field names.
//!
//! Monitoring tools read these fields by name, so every field of Redis that has a meaning here is
//! present, with zero where the feature does not exist. Only the sections that are asked for are
//! computed, since some of them have to visit every shard.

mod replication;

use self::replication::replication;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use ashlar_engine::engine::{DbStats, Engine};
use ashlar_engine::log::{Health, LogStats};
use ashlar_engine::storage::Saved;
use ashlar_engine::tier::KeyCounts;

use crate::acl::Reason;
use crate::config::{Settings, human_bytes, ids, percentiles};
use crate::proc;
use crate::replication::Replication;
use crate::stats::{Counter, Stats};
use crate::tier::ColdTier;

/// The version of Redis whose behaviour clients may expect.
pub const REDIS_VERSION: &str = "7.4.2";
/// The version of this server.
pub const ASHLAR_VERSION: &str = env!("CARGO_PKG_VERSION");

/// What identifies this run of the server.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Forty random hexadecimal digits.
    pub run_id: String,
    /// The name of the history of changes; replicas compare it.
    pub replication_id: String,
    /// When the server was started.
    pub started: Instant,
    /// The same in seconds since 1970.
    pub started_unix: i64,
}

impl Identity {
    /// Of a server that starts now, with 40 random bytes.
    pub fn new(random: [u8; 40]) -> Self {
        let (run, replication) = random.split_at(20);
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        Self {
            run_id: hex(run),
            replication_id: hex(replication),
            started: Instant::now(),
            started_unix: unix_micros() / 1_000_000,
        }
    }
}

/// Clients, for the section of that name.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClientFacts {
    /// Connected.
    pub connected: u64,
    /// Waiting in a blocking command.
    pub blocked: u64,
    /// With client-side caching on.
    pub tracking: u64,
    /// Subscribed to something.
    pub pubsub: u64,
    /// With watched keys.
    pub watching: u64,
    /// Keys that somebody watches.
    pub watched_keys: u64,
    /// Keys that somebody is blocked on.
    pub blocking_keys: u64,
    /// The longest input buffer of late.
    pub input_buffer_max: u64,
    /// The longest output buffer of late.
    pub output_buffer_max: u64,
    /// Channels with a subscriber.
    pub channels: u64,
    /// Patterns with a subscriber.
    pub patterns: u64,
    /// Sharded channels with a subscriber.
    pub shard_channels: u64,
    /// Keys that are remembered for client-side caching.
    pub tracked_keys: u64,
    /// Pairs of a remembered key and a client.
    pub tracked_items: u64,
    /// Prefixes of broadcasting mode.
    pub tracked_prefixes: u64,
}

/// Memory, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct MemoryFacts {
    /// What the server uses: what counts against `maxmemory`.
    pub used: u64,
    /// The most that was ever used.
    pub peak: u64,
    /// What it used when it had started.
    pub startup: u64,
    /// Tables and buffers, as opposed to data.
    pub overhead: u64,
    /// Buffers of clients.
    pub clients: u64,
    /// The allocator's pages that hold something.
    pub allocator_active: u64,
    /// The allocator's pages in memory.
    pub allocator_resident: u64,
    /// Large values that wait for being freed.
    pub lazyfree_pending: u64,
}

/// The log of writes.
#[derive(Clone, Debug)]
pub struct LogFacts {
    /// Its figures.
    pub stats: LogStats,
    /// Whether it takes writes.
    pub health: Health,
    /// The last index that was appended, that the system has, and that is durable.
    pub appended: u64,
    /// See `appended`.
    pub written: u64,
    /// See `appended`.
    pub durable: u64,
}

/// Snapshots and loading.
#[derive(Clone, Copy, Debug, Default)]
pub struct SaveFacts {
    /// Whether data is being loaded.
    pub loading: bool,
    /// Since when, seconds since 1970.
    pub loading_since: i64,
    /// Bytes of the snapshot that are loaded.
    pub loading_bytes: u64,
    /// Bytes of the snapshot.
    pub loading_total_bytes: u64,
    /// Keys of the snapshot that was loaded.
    pub loaded_keys: u64,
    /// Whether the log was turned on and waits for the snapshot it begins with.
    pub basing: bool,
    /// Since when a snapshot is being taken, seconds since 1970; 0 if none is.
    pub saving_since: i64,
    /// Whether it is for the log.
    pub rewrites: bool,
    /// Whether another one is to follow.
    pub scheduled: bool,
    /// Its keys, and those that are written.
    pub keys_total: u64,
    /// See `keys_total`.
    pub keys: u64,
    /// Bytes that wait in memory, as they were changed meanwhile, and the most that were.
    pub waiting_bytes: u64,
    /// See `waiting_bytes`.
    pub waiting_bytes_peak: u64,
    /// When the last one was done, seconds since 1970.
    pub last_unix: i64,
    /// How long it took; -1 before the first.
    pub last_seconds: i64,
    /// Whether the last one failed.
    pub last_failed: bool,
    /// Snapshots so far.
    pub saves: u64,
    /// The last one that was taken.
    pub last: Saved,
    /// Bytes of the newest snapshot, and of the log behind it.
    pub snapshot_bytes: u64,
    /// See `snapshot_bytes`.
    pub log_growth: u64,
}

/// Where INFO gets its facts from.
pub trait InfoSource {
    /// What identifies this run.
    fn identity(&self) -> &Identity;
    /// The settings.
    fn settings(&self) -> &Settings;
    /// The counters.
    fn stats(&self) -> &Stats;
    /// The port that is listened on.
    fn port(&self) -> u16;
    /// Refusals of the ACL.
    fn refusals(&self, _: Reason) -> u64 {
        0
    }
    /// Clients.
    fn clients(&self) -> ClientFacts;
    /// Memory.
    fn memory(&self) -> MemoryFacts;
    /// Keys of each database.
    fn databases(&self) -> Vec<DbStats>;
    /// Replication, where there is any.
    fn replication(&self) -> Option<&Replication> {
        None
    }

    /// The cluster, in cluster mode.
    fn cluster(&self) -> Option<ClusterFacts> {
        None
    }

    /// The data, where there is any.
    fn engine(&self) -> Option<&Engine> {
        None
    }
    /// Scripts and functions.
    fn scripts(&self) -> ScriptFacts {
        ScriptFacts::default()
    }
    /// Writes since the last snapshot.
    fn changes(&self) -> u64;
    /// Snapshots and loading.
    fn saves(&self) -> SaveFacts {
        SaveFacts {
            last_unix: self.identity().started_unix,
            last_seconds: -1,
            ..Default::default()
        }
    }
    /// The log, where there is one.
    fn log(&self) -> Option<LogFacts> {
        None
    }
    /// Writes what the server or its cluster is among sites; `false` if it is none.
    fn sites(&self, _out: &mut String) -> bool {
        false
    }
    /// The cold tier, if there is one, with the data that it serves.
    fn cold(&self) -> Option<(&ColdTier, KeyCounts)> {
        None
    }
    /// The allocator's name.
    fn allocator(&self) -> &'static str {
        "jemalloc"
    }
}

/// Fields of a node of a cluster, each with its name.
#[derive(Clone, Debug, Default)]
pub struct ClusterFacts {
    /// Its role, for the section about replication.
    pub replication: Vec<(String, String)>,
    /// Groups as Sentinel clients see them.
    pub sentinel: Vec<(String, String)>,
    /// The section about the cluster.
    pub cluster: Vec<(String, String)>,
}

/// What scripts and functions take.
#[derive(Clone, Copy, Debug, Default)]
pub struct ScriptFacts {
    /// Bytes of all interpreters.
    pub lua_bytes: u64,
    /// Scripts that are known.
    pub scripts: u64,
    /// Bytes of their text.
    pub script_bytes: u64,
    /// Scripts that made room for others.
    pub evicted: u64,
    /// Libraries of functions.
    pub libraries: u64,
    /// Bytes of their text.
    pub library_bytes: u64,
}

type Section = fn(&dyn InfoSource, &mut String);

/// All sections in their order: name, whether it is shown without being asked for, how it is made.
const SECTIONS: &[(&str, bool, Section)] = &[
    ("Server", true, server),
    ("Clients", true, clients),
    ("Memory", true, memory),
    ("Persistence", true, persistence),
    ("Stats", true, stats),
    ("Replication", true, replication),
    ("CPU", true, cpu),
    ("Modules", true, |_, _| {}),
    ("Commandstats", false, command_stats),
    ("Errorstats", true, error_stats),
    ("Latencystats", false, latency_stats),
    ("Tiers", true, tiers),
    ("Sites", true, |source, out| {
        if !source.sites(out) {
            field(out, "site_id", 0);
        }
    }),
    ("Cluster", true, cluster),
    ("Sentinel", false, |source, out| {
        fields(out, source.cluster().unwrap_or_default().sentinel);
    }),
    ("Keyspace", true, keyspace),
];

/// Whether the section `title` is among those that `names` ask for.
pub fn includes(names: &[&[u8]], title: &str) -> bool {
    let asked = |word: &str| names.iter().any(|name| name.eq_ignore_ascii_case(word.as_bytes()));
    let by_default = SECTIONS.iter().any(|(name, by_default, _)| *name == title && *by_default);
    // As in Redis, whose Sentinels have it and whose servers do not.
    if title == "Sentinel" {
        return asked(title);
    }
    // `all` leaves out what modules generate, which is nothing but the section's title.
    asked(title)
        || asked("everything")
        || asked("all") && title != "Modules"
        || (names.is_empty() || asked("default")) && by_default
}

/// The text of the sections that `names` ask for (the default ones without a name).
pub fn text(source: &dyn InfoSource, names: &[&[u8]]) -> String {
    let mut out = String::new();
    for (name, _, make) in SECTIONS {
        if includes(names, name) {
            if !out.is_empty() {
                out.push_str("\r\n");
            }
            line(&mut out, format_args!("# {name}"));
            make(source, &mut out);
        }
    }
    out
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string can't fail.
    let _ = out.write_fmt(text);
    out.push_str("\r\n");
}

fn field(out: &mut String, name: &str, value: impl std::fmt::Display) {
    line(out, format_args!("{name}:{value}"));
}

fn fields(out: &mut String, fields: Vec<(String, String)>) {
    for (name, value) in fields {
        field(out, &name, value);
    }
}

fn cluster(source: &dyn InfoSource, out: &mut String) {
    match source.cluster() {
        None => field(out, "cluster_enabled", 0),
        Some(facts) => fields(out, facts.cluster),
    }
}

/// Fields that are zero, since the feature does not exist.
fn zeros(out: &mut String, names: &[&str]) {
    for name in names {
        field(out, name, 0);
    }
}

/// A byte count, and once more for people.
fn bytes(out: &mut String, name: &str, value: u64) {
    field(out, name, value);
    line(out, format_args!("{name}_human:{}", human_bytes(value)));
}

fn unix_micros() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_micros()).unwrap_or(i64::MAX)
}

fn server(source: &dyn InfoSource, out: &mut String) {
    let (identity, settings) = (source.identity(), source.settings());
    let uptime = identity.started.elapsed().as_secs();
    field(out, "redis_version", REDIS_VERSION);
    field(out, "ashlar_version", ASHLAR_VERSION);
    field(out, "redis_git_sha1", "00000000");
    field(out, "redis_git_dirty", 0);
    field(out, "redis_build_id", 0);
    field(out, "redis_mode", if source.cluster().is_some() { "cluster" } else { "standalone" });
    field(out, "os", proc::system());
    field(out, "arch_bits", usize::BITS);
    field(out, "monotonic_clock", "POSIX clock_gettime");
    field(out, "multiplexing_api", "epoll");
    field(out, "process_id", std::process::id());
    let supervised = settings.show(ids::SUPERVISED);
    field(out, "process_supervised", String::from_utf8_lossy(&supervised));
    field(out, "run_id", &identity.run_id);
    field(out, "tcp_port", source.port());
    field(out, "server_time_usec", unix_micros());
    field(out, "uptime_in_seconds", uptime);
    field(out, "uptime_in_days", uptime / 86_400);
    field(out, "hz", settings.number(ids::HZ));
    field(out, "configured_hz", settings.number(ids::HZ));
    field(out, "lru_clock", (unix_micros() / 1_000_000) & 0xff_ffff);
    let executable = std::env::current_exe().unwrap_or_default();
    field(out, "executable", executable.display());
    let file = settings.file().map(|file| file.display().to_string());
    field(out, "config_file", file.unwrap_or_default());
    let threads = settings.number(ids::IO_THREADS);
    field(out, "io_threads_active", i32::from(threads > 1));
    field(out, "worker_threads", threads);
}

fn clients(source: &dyn InfoSource, out: &mut String) {
    let facts = source.clients();
    field(out, "connected_clients", facts.connected);
    field(out, "cluster_connections", 0);
    field(out, "maxclients", source.settings().number(ids::MAXCLIENTS));
    field(out, "client_recent_max_input_buffer", facts.input_buffer_max);
    field(out, "client_recent_max_output_buffer", facts.output_buffer_max);
    field(out, "blocked_clients", facts.blocked);
    field(out, "tracking_clients", facts.tracking);
    field(out, "pubsub_clients", facts.pubsub);
    field(out, "watching_clients", facts.watching);
    field(out, "clients_in_timeout_table", 0);
    field(out, "total_watched_keys", facts.watched_keys);
    field(out, "total_blocking_keys", facts.blocking_keys);
    field(out, "total_blocking_keys_on_nokey", 0);
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

fn memory(source: &dyn InfoSource, out: &mut String) {
    let facts = source.memory();
    let rss = proc::resident_bytes();
    let dataset = facts.used.saturating_sub(facts.overhead);
    let net = facts.used.saturating_sub(facts.startup);
    bytes(out, "used_memory", facts.used);
    bytes(out, "used_memory_rss", rss);
    bytes(out, "used_memory_peak", facts.peak);
    line(out, format_args!("used_memory_peak_perc:{:.2}%", ratio(facts.used, facts.peak) * 100.0));
    field(out, "used_memory_overhead", facts.overhead);
    field(out, "used_memory_startup", facts.startup);
    field(out, "used_memory_dataset", dataset);
    let share = ratio(dataset, net).min(1.0) * 100.0;
    line(out, format_args!("used_memory_dataset_perc:{share:.2}%"));
    field(out, "allocator_allocated", facts.used);
    field(out, "allocator_active", facts.allocator_active);
    field(out, "allocator_resident", facts.allocator_resident);
    field(out, "allocator_muzzy", 0);
    bytes(out, "total_system_memory", proc::total_memory_bytes());
    let scripts = source.scripts();
    bytes(out, "used_memory_lua", scripts.lua_bytes);
    field(out, "used_memory_vm_eval", scripts.lua_bytes);
    field(out, "used_memory_scripts_eval", scripts.script_bytes);
    field(out, "number_of_cached_scripts", scripts.scripts);
    // Workers load functions when they need them: only their libraries are counted.
    zeros(out, &["number_of_functions", "used_memory_vm_functions"]);
    field(out, "number_of_libraries", scripts.libraries);
    bytes(out, "used_memory_vm_total", scripts.lua_bytes);
    field(out, "used_memory_functions", scripts.library_bytes);
    bytes(out, "used_memory_scripts", scripts.script_bytes + scripts.library_bytes);
    bytes(out, "maxmemory", source.settings().count(ids::MAXMEMORY));
    let policy = source.settings().show(ids::MAXMEMORY_POLICY);
    field(out, "maxmemory_policy", String::from_utf8_lossy(&policy));
    let apart = |name: &str, a: u64, b: u64, out: &mut String| {
        line(out, format_args!("{name}_ratio:{:.2}", ratio(a, b)));
        field(out, &format!("{name}_bytes"), a as i64 - b as i64);
    };
    apart("allocator_frag", facts.allocator_active, facts.used, out);
    apart("allocator_rss", facts.allocator_resident, facts.allocator_active, out);
    apart("rss_overhead", rss, facts.allocator_resident, out);
    apart("mem_fragmentation", rss, facts.used, out);
    zeros(out, &["mem_not_counted_for_evict", "mem_replication_backlog"]);
    zeros(out, &["mem_total_replication_buffers", "mem_clients_slaves"]);
    field(out, "mem_clients_normal", facts.clients);
    zeros(out, &["mem_cluster_links", "mem_aof_buffer"]);
    field(out, "mem_allocator", source.allocator());
    zeros(out, &["active_defrag_running"]);
    field(out, "lazyfree_pending_objects", facts.lazyfree_pending);
    field(out, "lazyfreed_objects", source.stats().total(Counter::LazyFreed));
}

fn persistence(source: &dyn InfoSource, out: &mut String) {
    let saves = source.saves();
    let running = |rewrites: bool| saves.saving_since != 0 && saves.rewrites == rewrites;
    let now = unix_micros() / 1_000_000;
    let since = |running: bool| if running { now - saves.saving_since } else { -1 };
    let follower = source.replication().map(|replication| &replication.follower);
    let follows = follower.is_some_and(|follower| follower.loading.load(Ordering::Relaxed));
    field(out, "loading", u8::from(saves.loading || follows));
    field(out, "async_loading", 0);
    field(out, "current_cow_peak", saves.waiting_bytes_peak);
    field(out, "current_cow_size", saves.waiting_bytes);
    zeros(out, &["current_cow_size_age"]);
    let saving = saves.saving_since != 0;
    let of_running = |value: u64| if saving { value } else { 0 };
    field(out, "current_fork_perc", "0.00");
    field(out, "current_save_keys_processed", of_running(saves.keys));
    field(out, "current_save_keys_total", of_running(saves.keys_total));
    field(out, "rdb_changes_since_last_save", source.changes());
    field(out, "rdb_bgsave_in_progress", u8::from(running(false)));
    field(out, "rdb_last_save_time", saves.last_unix);
    let status = if saves.last_failed { "err" } else { "ok" };
    field(out, "rdb_last_bgsave_status", status);
    field(out, "rdb_last_bgsave_time_sec", saves.last_seconds);
    field(out, "rdb_current_bgsave_time_sec", since(running(false)));
    field(out, "rdb_saves", saves.saves);
    field(out, "rdb_last_cow_size", saves.last.waiting_bytes_peak);
    field(out, "rdb_last_load_keys_expired", 0);
    field(out, "rdb_last_load_keys_loaded", saves.loaded_keys);
    let log = source.log();
    field(out, "aof_enabled", u8::from(log.is_some() || saves.basing));
    field(out, "aof_rewrite_in_progress", u8::from(running(true) || saves.basing));
    field(out, "aof_rewrite_scheduled", u8::from(saves.scheduled));
    field(out, "aof_last_rewrite_time_sec", saves.last_seconds);
    field(out, "aof_current_rewrite_time_sec", since(running(true)));
    field(out, "aof_last_bgrewrite_status", status);
    zeros(out, &["aof_rewrites", "aof_rewrites_consecutive_failures"]);
    let is_well = log.as_ref().is_none_or(|log| log.health == Health::Well);
    field(out, "aof_last_write_status", if is_well { "ok" } else { "err" });
    zeros(out, &["aof_last_cow_size", "module_fork_in_progress", "module_fork_last_cow_size"]);
    field(out, "snapshot_last_keys", saves.last.keys);
    field(out, "snapshot_last_bytes", saves.last.bytes);
    field(out, "snapshot_last_log_index", saves.last.log_index);
    if let Some(log) = log {
        log_fields(&log, &saves, out);
    }
    if saves.loading {
        loading_fields(&saves, now, out);
    }
}

fn loading_fields(saves: &SaveFacts, now: i64, out: &mut String) {
    let (bytes, total) = (saves.loading_bytes, saves.loading_total_bytes);
    field(out, "loading_start_time", saves.loading_since);
    field(out, "loading_total_bytes", total);
    field(out, "loading_rdb_used_mem", 0);
    field(out, "loading_loaded_bytes", bytes);
    line(out, format_args!("loading_loaded_perc:{:.2}", ratio(bytes, total) * 100.0));
    let elapsed = u64::try_from(now - saves.loading_since).unwrap_or(0).max(1);
    field(out, "loading_eta_seconds", total.saturating_sub(bytes) * elapsed / bytes.max(1));
}

fn log_fields(log: &LogFacts, saves: &SaveFacts, out: &mut String) {
    let stats = log.stats;
    field(out, "aof_current_size", saves.snapshot_bytes + saves.log_growth);
    field(out, "aof_base_size", saves.snapshot_bytes);
    field(out, "log_bytes", stats.bytes);
    field(out, "aof_pending_rewrite", 0);
    field(out, "aof_buffer_length", stats.buffered_bytes);
    field(out, "aof_pending_bio_fsync", u8::from(log.durable < log.written));
    field(out, "aof_delayed_fsync", 0);
    let health = match log.health {
        Health::Well => "ok",
        Health::Blocked(_) => "blocked",
        Health::Failed(_) => "failed",
    };
    field(out, "log_health", health);
    field(out, "log_segments", stats.segments);
    field(out, "log_first_index", stats.first);
    field(out, "log_appended_index", log.appended);
    field(out, "log_written_index", log.written);
    field(out, "log_durable_index", log.durable);
    field(out, "log_writes", stats.writes);
    field(out, "log_syncs", stats.syncs);
}

fn stats(source: &dyn InfoSource, out: &mut String) {
    let (stats, facts, rates) = (source.stats(), source.clients(), source.stats().rates());
    let count = |out: &mut String, name: &str, counter: Counter| {
        field(out, name, stats.total(counter));
    };
    count(out, "total_connections_received", Counter::Connections);
    count(out, "total_commands_processed", Counter::Commands);
    field(out, "instantaneous_ops_per_sec", rates.commands);
    count(out, "total_net_input_bytes", Counter::InputBytes);
    count(out, "total_net_output_bytes", Counter::OutputBytes);
    zeros(out, &["total_net_repl_input_bytes", "total_net_repl_output_bytes"]);
    line(out, format_args!("instantaneous_input_kbps:{:.2}", rates.input_kib));
    line(out, format_args!("instantaneous_output_kbps:{:.2}", rates.output_kib));
    field(out, "instantaneous_input_repl_kbps", "0.00");
    field(out, "instantaneous_output_repl_kbps", "0.00");
    count(out, "rejected_connections", Counter::RejectedConnections);
    for (nth, name) in ["sync_full", "sync_partial_ok", "sync_partial_err"].iter().enumerate() {
        let syncs = source.replication().map(|all| all.syncs[nth].load(Ordering::Relaxed));
        field(out, name, syncs.unwrap_or(0));
    }
    count(out, "expired_subkeys", Counter::ExpiredFields);
    count(out, "expired_keys", Counter::ExpiredKeys);
    field(out, "expired_stale_perc", "0.00");
    zeros(out, &["expired_time_cap_reached_count", "expire_cycle_cpu_milliseconds"]);
    count(out, "evicted_keys", Counter::EvictedKeys);
    count(out, "evicted_clients", Counter::EvictedClients);
    field(out, "evicted_scripts", source.scripts().evicted);
    count(out, "total_eviction_exceeded_time", Counter::EvictionExceededMs);
    field(out, "current_eviction_exceeded_time", 0);
    count(out, "keyspace_hits", Counter::KeyspaceHits);
    count(out, "keyspace_misses", Counter::KeyspaceMisses);
    field(out, "pubsub_channels", facts.channels);
    field(out, "pubsub_patterns", facts.patterns);
    field(out, "pubsubshard_channels", facts.shard_channels);
    zeros(out, &["latest_fork_usec", "total_forks", "migrate_cached_sockets"]);
    zeros(out, &["slave_expires_tracked_keys", "active_defrag_hits", "active_defrag_misses"]);
    zeros(out, &["active_defrag_key_hits", "active_defrag_key_misses"]);
    zeros(out, &["total_active_defrag_time", "current_active_defrag_time"]);
    field(out, "tracking_total_keys", facts.tracked_keys);
    field(out, "tracking_total_items", facts.tracked_items);
    field(out, "tracking_total_prefixes", facts.tracked_prefixes);
    field(out, "unexpected_error_replies", 0);
    count(out, "total_error_replies", Counter::ErrorReplies);
    field(out, "dump_payload_sanitizations", 0);
    count(out, "total_reads_processed", Counter::Reads);
    count(out, "total_writes_processed", Counter::Writes);
    zeros(out, &["io_threaded_reads_processed", "io_threaded_writes_processed"]);
    count(out, "client_query_buffer_limit_disconnections", Counter::QueryLimitDisconnections);
    count(out, "client_output_buffer_limit_disconnections", Counter::OutputLimitDisconnections);
    zeros(out, &["reply_buffer_shrinks", "reply_buffer_expands"]);
    for (name, reason) in [
        ("acl_access_denied_auth", Reason::Auth),
        ("acl_access_denied_cmd", Reason::Command),
        ("acl_access_denied_key", Reason::Key),
        ("acl_access_denied_channel", Reason::Channel),
    ] {
        field(out, name, source.refusals(reason));
    }
}

/// Keys and bytes of each tier, and what moves between them.
fn tiers(source: &dyn InfoSource, out: &mut String) {
    let Some((cold, counts)) = source.cold() else {
        return field(out, "cold_store", "no");
    };
    let tier = cold.tier();
    let stats = &tier.stats;
    let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let (disk, rows) = (tier.store().size(), get(&stats.row_bytes));
    field(out, "cold_store", tier.name());
    field(out, "tier_hot_keys", counts.hot);
    field(out, "tier_cached_keys", counts.cached);
    field(out, "tier_cold_keys", counts.cold);
    field(out, "tier_hot_bytes", cold.used_bytes());
    field(out, "tier_cold_bytes", rows);
    field(out, "tier_disk_bytes", disk);
    line(out, format_args!("tier_space_amplification:{:.2}", disk as f64 / rows.max(1) as f64));
    field(out, "tier_index_bytes", counts.index_bytes);
    let a_key = counts.index_bytes as f64 / counts.named.max(1) as f64;
    line(out, format_args!("tier_index_bytes_per_key:{a_key:.2}"));
    field(out, "tier_expires_bytes", counts.expires_bytes);
    let reads = source.stats().total(Counter::KeyspaceHits);
    field(out, "tier_hits", reads.saturating_sub(get(&stats.loads) + get(&stats.parts)));
    field(out, "tier_misses", get(&stats.loads));
    field(out, "tier_ready_loads", get(&stats.ready_loads));
    field(out, "tier_miss_bytes", get(&stats.load_bytes));
    field(out, "tier_parts", get(&stats.parts));
    field(out, "tier_part_bytes", get(&stats.part_bytes));
    field(out, "tier_waits", get(&stats.waits));
    field(out, "tier_locked_loads", get(&stats.locked_loads));
    field(out, "tier_names_read", get(&stats.names));
    field(out, "tier_promotions", get(&stats.promotions));
    field(out, "tier_demotions", get(&stats.demotions));
    field(out, "tier_demoted_bytes", get(&stats.demoted_bytes));
    field(out, "tier_dropped", get(&stats.dropped));
    field(out, "tier_stale_loads", get(&stats.stale_loads));
    field(out, "tier_stale_demotions", get(&stats.stale_demotions));
    field(out, "tier_expired_keys", get(&stats.expired));
    field(out, "tier_deleted_rows", get(&stats.deleted_rows));
    field(out, "tier_reclaimed_bytes", get(&stats.deleted_bytes));
    field(out, "tier_returned_bytes", get(&stats.returned_bytes));
    field(out, "tier_read_queue", cold.queue_len());
    field(out, "tier_faults", get(&stats.faults));
    let fault = tier.fault().map(|fault| fault.to_string()).or(tier.store().alarm());
    field(out, "tier_last_fault", fault.unwrap_or_default());
}

fn cpu(_source: &dyn InfoSource, out: &mut String) {
    let times = proc::cpu_seconds();
    line(out, format_args!("used_cpu_sys:{:.6}", times.system));
    line(out, format_args!("used_cpu_user:{:.6}", times.user));
    line(out, format_args!("used_cpu_sys_children:{:.6}", times.children_system));
    line(out, format_args!("used_cpu_user_children:{:.6}", times.children_user));
    let main = proc::main_thread_cpu_seconds();
    line(out, format_args!("used_cpu_sys_main_thread:{:.6}", main.system));
    line(out, format_args!("used_cpu_user_main_thread:{:.6}", main.user));
}

fn command_stats(source: &dyn InfoSource, out: &mut String) {
    for (name, totals) in source.stats().command_totals() {
        let micros = totals.nanos as f64 / 1000.0;
        let per_call = if totals.calls == 0 { 0.0 } else { micros / totals.calls as f64 };
        line(
            out,
            format_args!(
                "cmdstat_{name}:calls={},usec={},usec_per_call={per_call:.2},rejected_calls={},\
                 failed_calls={}",
                totals.calls,
                totals.nanos / 1000,
                totals.rejected,
                totals.failed
            ),
        );
    }
}

fn error_stats(source: &dyn InfoSource, out: &mut String) {
    for (kind, count) in source.stats().error_totals() {
        line(out, format_args!("errorstat_{kind}:count={count}"));
    }
}

fn latency_stats(source: &dyn InfoSource, out: &mut String) {
    let settings = source.settings();
    if !settings.flag(ids::LATENCY_TRACKING) {
        return;
    }
    let wanted = percentiles(&settings.text(ids::LATENCY_TRACKING_INFO_PERCENTILES));
    for (name, histogram) in source.stats().histograms() {
        let shown = wanted.iter().map(|percent| {
            format!("p{percent}={:.3}", histogram.percentile(*percent) as f64 / 1000.0)
        });
        let shown = shown.collect::<Vec<_>>().join(",");
        line(out, format_args!("latency_percentiles_usec_{name}:{shown}"));
    }
}

fn keyspace(source: &dyn InfoSource, out: &mut String) {
    for (number, db) in source.databases().iter().enumerate().filter(|(_, db)| db.keys > 0) {
        line(
            out,
            format_args!(
                "db{number}:keys={},expires={},avg_ttl=0,subexpiry=0",
                db.keys, db.expires
            ),
        );
    }
}

#[cfg(test)]
#[path = "info_tests.rs"]
mod tests;
