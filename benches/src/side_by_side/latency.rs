//! Latency at equal load: both servers get the same request rate, well below what the slower can do.
//!
//! At full load latency only repeats throughput: the faster server's queue is shorter. At equal load
//! it says what a user of a server that is not overloaded waits for.

use crate::caches;
use crate::client::Client;
use crate::load::{Pace, drive};
use crate::options::Settings;
use crate::results::{Latency, LatencyRun};
use crate::server::Server;
use crate::work::{Op, Work};

/// What part of the time is spent on finding a server's limit.
const LIMIT_SHARE: f64 = 0.5;
/// Requests that find out roughly how fast a server is.
const PROBE: u64 = 20_000;

/// Measures each command at each pipeline, with the first number of clients and the first size.
pub fn measure(settings: &Settings) -> Result<Vec<Latency>, String> {
    let ashlar = settings.ashlar.start()?;
    let redis = settings.redis.start()?;
    let clients = settings.clients[0];
    let size = settings.sizes[0];
    let mut results = Vec::new();
    for &pipeline in &settings.pipelines {
        for op in [Op::Set, Op::Get, Op::Zadd] {
            let cell = Cell { settings, work: Work::new(op, size), pipeline, clients };
            results.push(cell.measure(&ashlar, &redis, size)?);
        }
    }
    Ok(results)
}

struct Cell<'a> {
    settings: &'a Settings,
    work: Work,
    pipeline: usize,
    clients: usize,
}

impl Cell<'_> {
    fn measure(&self, ashlar: &Server, redis: &Server, size: usize) -> Result<Latency, String> {
        let slower = self.limit(ashlar)?.min(self.limit(redis)?);
        let rate = slower * self.settings.load_share;
        let mut result = Latency {
            test: self.work.op.name().to_owned(),
            pipeline: self.pipeline,
            clients: self.clients,
            size,
            rate,
            ashlar: Vec::new(),
            redis: Vec::new(),
        };
        for _ in 0..self.settings.rounds {
            result.ashlar.push(self.run(ashlar, rate)?);
            result.redis.push(self.run(redis, rate)?);
        }
        let ratio = |figure| result.ratio(figure).unwrap_or(f64::NAN);
        eprintln!(
            "{:<4} P{:<3} at {:>7.0} requests/s: p50 {:.2}x  p99 {:.2}x  p99.9 {:.2}x",
            result.test,
            self.pipeline,
            rate,
            ratio(|run| run.p50_ms),
            ratio(|run| run.p99_ms),
            ratio(|run| run.p999_ms),
        );
        Ok(result)
    }

    /// The most requests a second that the server answers to this client.
    fn limit(&self, server: &Server) -> Result<f64, String> {
        self.prepare(server)?;
        let run = |requests| caches::run(server, &self.work, self.pipeline, self.clients, requests);
        let guess = run(PROBE)?.rps;
        Ok(run(((guess * self.settings.seconds * LIMIT_SHARE) as u64).max(PROBE))?.rps)
    }

    fn run(&self, server: &Server, rate: f64) -> Result<LatencyRun, String> {
        self.prepare(server)?;
        let send = |seconds| {
            drive(server, &self.work, self.pipeline, self.clients, Pace::Open { rate, seconds })
        };
        send(self.settings.seconds * LIMIT_SHARE / 2.0)?;
        let cpu_before = server.cpu_seconds()?;
        let outcome = send(self.settings.seconds * 2.0)?;
        let cpu_s = server.cpu_seconds()? - cpu_before;
        Ok(LatencyRun {
            rps: outcome.requests as f64 / outcome.seconds,
            p50_ms: outcome.latency_ms(0.5),
            p99_ms: outcome.latency_ms(0.99),
            p999_ms: outcome.latency_ms(0.999),
            max_ms: outcome.latency.max() as f64 / 1e6,
            cpu_per_million: cpu_s / outcome.requests as f64 * 1e6,
            late_p99_ms: outcome.late.value_at_quantile(0.99) as f64 / 1e6,
        })
    }

    fn prepare(&self, server: &Server) -> Result<(), String> {
        let mut client = Client::connect(server)?;
        let prepared = self.work.prepare(&mut client, server.program.protocol());
        prepared.map_err(|error| server.with_log(&error))
    }
}
