//! Everything that was measured, as it stands in the JSON file.

use serde::{Deserialize, Serialize};

use crate::stats::{median, median_ratio};

/// A whole run of the program.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Results {
    /// Machine, programs and settings.
    pub about: About,
    /// redis-benchmark against both.
    pub throughput: Vec<Throughput>,
    /// The own client against all three.
    pub caches: Vec<Caches>,
    /// Latency at the same request rate.
    pub latency: Vec<Latency>,
    /// Bytes a key.
    pub memory: Vec<Memory>,
    /// SET with each `appendfsync`.
    #[serde(default)]
    pub durability: Vec<Durability>,
    /// Data larger than memory.
    #[serde(default)]
    pub tiers: Vec<TierFigure>,
    /// Starts with data on disk.
    #[serde(default)]
    pub restart: Vec<TierFigure>,
    /// Writes during snapshots.
    #[serde(default)]
    pub snapshot: Vec<TierFigure>,
    /// Primaries with a replica.
    #[serde(default)]
    pub replica: Vec<TierFigure>,
    /// Keys that several sites write.
    #[serde(default)]
    pub sites: Vec<TierFigure>,
    /// RDB files that are loaded.
    #[serde(default)]
    pub import: Vec<TierFigure>,
    /// Strong keys on three nodes.
    #[serde(default)]
    pub cluster: Vec<TierFigure>,
    /// What was to be reached.
    pub goals: Vec<Goal>,
    /// What could not be measured, and why.
    pub failures: Vec<String>,
}

/// Machine, programs and settings.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct About {
    /// The command line.
    pub command: String,
    /// Processor, number of cores, kernel.
    pub machine: String,
    /// Cores that servers and load client share.
    pub cores: usize,
    /// Share of the cores' time that others took in the second before it began.
    pub busy_before: f64,
    /// Share of the cores' time that the hypervisor gave to others meanwhile.
    pub stolen: f64,
    /// Name and version of each server and of redis-benchmark.
    pub programs: Vec<(String, String)>,
    /// Seconds since 1970 when it began.
    pub unix_time: u64,
    /// How long it took, in seconds.
    pub seconds: f64,
}

/// A figure of the modes for tiers, replicas and clusters.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct TierFigure {
    /// The store, or `memory` for all in memory; the server.
    pub what: String,
    /// What it is.
    pub figure: String,
    /// How much.
    pub value: f64,
}

/// One run of one server.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Run {
    /// Requests a second.
    pub rps: f64,
    /// Average latency.
    pub avg_ms: f64,
    /// Least latency.
    pub min_ms: f64,
    /// Median latency.
    pub p50_ms: f64,
    /// 95th percentile.
    pub p95_ms: f64,
    /// 99th percentile.
    pub p99_ms: f64,
    /// Greatest latency.
    pub max_ms: f64,
    /// The server's CPU time.
    pub cpu_s: f64,
    /// CPU seconds a million commands.
    pub cpu_per_million: f64,
    /// Share of a core that redis-benchmark was busy; 0 where another client was the load.
    #[serde(default)]
    pub client_share: f64,
}

/// One test at one point of the grid.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Throughput {
    /// The test's name.
    pub test: String,
    /// One of redis-benchmark's twenty.
    pub standard: bool,
    /// Commands that a connection sends at a time.
    pub pipeline: usize,
    /// Connections.
    pub clients: usize,
    /// Bytes of a value.
    pub size: usize,
    /// Requests of a run.
    pub requests: u64,
    /// One run a round.
    pub ashlar: Vec<Run>,
    /// One run a round.
    pub redis: Vec<Run>,
}

/// SET at one point, with one `appendfsync` on both servers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Durability {
    /// `none` without a log.
    pub policy: String,
    /// The figures.
    pub throughput: Throughput,
}

/// GET or SET through the own load client.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Caches {
    /// `GET` or `SET`.
    pub test: String,
    /// Commands that a connection sends at a time.
    pub pipeline: usize,
    /// Connections.
    pub clients: usize,
    /// Bytes of a value.
    pub size: usize,
    /// Requests of a run.
    pub requests: u64,
    /// Each server's name, and one run a round.
    pub servers: Vec<(String, Vec<Run>)>,
}

/// Latency of one server at a given rate.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct LatencyRun {
    /// Requests a second that were answered.
    pub rps: f64,
    /// Median.
    pub p50_ms: f64,
    /// 99th percentile.
    pub p99_ms: f64,
    /// 99.9th percentile.
    pub p999_ms: f64,
    /// Greatest.
    pub max_ms: f64,
    /// CPU seconds a million commands.
    pub cpu_per_million: f64,
    /// How late the client itself was in sending, 99th percentile.
    pub late_p99_ms: f64,
}

/// Latency of both at one rate.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Latency {
    /// The test's name.
    pub test: String,
    /// Commands that are sent at a time.
    pub pipeline: usize,
    /// Connections.
    pub clients: usize,
    /// Bytes of a value.
    pub size: usize,
    /// Requests a second that were sent to each.
    pub rate: f64,
    /// One run a round.
    pub ashlar: Vec<LatencyRun>,
    /// One run a round.
    pub redis: Vec<LatencyRun>,
}

/// What a server's memory grew by.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Growth {
    /// Resident bytes a key.
    pub rss_per_key: f64,
    /// INFO's `used_memory` a key.
    pub used_per_key: f64,
    /// Seconds that loading took.
    pub load_s: f64,
}

/// Memory of both for one shape of data.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Memory {
    /// What a key holds.
    pub shape: String,
    /// Keys.
    pub keys: u64,
    /// ashlar's.
    pub ashlar: Growth,
    /// redis-server's.
    pub redis: Growth,
}

/// Something to reach.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Goal {
    /// What.
    pub what: String,
    /// The ratio to redis-server to reach.
    pub goal: f64,
    /// More is better: `goal` is the least; else it is the most.
    pub at_least: bool,
    /// What was measured.
    pub measured: f64,
}

impl Results {
    /// Tells of something that could not be measured, and keeps it.
    pub fn fail(&mut self, error: String) {
        eprintln!("FAILED {error}");
        self.failures.push(error);
    }
}

impl Goal {
    /// Whether it is reached.
    pub fn met(&self) -> bool {
        if self.at_least { self.measured >= self.goal } else { self.measured <= self.goal }
    }
}

/// Reads one figure of a run.
pub type Figure<R> = fn(&R) -> f64;

impl Throughput {
    /// The median over the rounds of ashlar's figure divided by redis-server's.
    pub fn ratio(&self, figure: Figure<Run>) -> Option<f64> {
        ratio(&self.ashlar, &self.redis, figure)
    }
}

impl Latency {
    /// The median over the rounds of ashlar's figure divided by redis-server's.
    pub fn ratio(&self, figure: Figure<LatencyRun>) -> Option<f64> {
        ratio(&self.ashlar, &self.redis, figure)
    }
}

impl Memory {
    /// ashlar's resident bytes and used memory a key, each divided by redis-server's.
    pub fn ratios(&self) -> (f64, f64) {
        let rss = self.ashlar.rss_per_key / self.redis.rss_per_key;
        (rss, self.ashlar.used_per_key / self.redis.used_per_key)
    }
}

/// The median of a figure over the rounds.
pub fn middle<R>(runs: &[R], figure: Figure<R>) -> Option<f64> {
    median(runs.iter().map(figure))
}

fn ratio<R>(ours: &[R], theirs: &[R], figure: Figure<R>) -> Option<f64> {
    let values = |runs: &[R]| runs.iter().map(figure).collect::<Vec<_>>();
    median_ratio(&values(ours), &values(theirs))
}
