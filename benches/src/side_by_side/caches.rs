//! GET and SET against ashlar, redis-server and memcached in turn, through the own load client.
//!
//! redis-benchmark does not speak memcached's protocol, and tools that do use other ways to measure:
//! here all three get the same load from the same code.

use crate::client::Client;
use crate::load::{Pace, drive};
use crate::options::Settings;
use crate::results::{Caches, Run};
use crate::server::Server;
use crate::work::{Op, Work};

/// Requests that find out how fast a server is.
const PROBE: u64 = 50_000;

/// Measures GET and SET at every point of the grid.
pub fn measure(settings: &Settings) -> Result<Vec<Caches>, String> {
    let programs = [Some(&settings.ashlar), Some(&settings.redis), settings.memcached.as_ref()];
    let servers: Vec<Server> =
        programs.into_iter().flatten().map(|program| program.start()).collect::<Result<_, _>>()?;
    let mut results = Vec::new();
    for &pipeline in &settings.pipelines {
        for &clients in &settings.clients {
            for &size in &settings.sizes {
                for op in [Op::Set, Op::Get] {
                    let work = Work::new(op, size);
                    let result = measure_one(settings, &servers, &work, (pipeline, clients, size))?;
                    results.push(result);
                }
            }
        }
    }
    Ok(results)
}

fn measure_one(
    settings: &Settings,
    servers: &[Server],
    work: &Work,
    (pipeline, clients, size): (usize, usize, usize),
) -> Result<Caches, String> {
    let mut fastest: f64 = 0.0;
    for server in servers {
        prepare(server, work)?;
        fastest = fastest.max(run(server, work, pipeline, clients, PROBE)?.rps);
    }
    let requests = ((fastest * settings.seconds) as u64).max(PROBE).next_multiple_of(1_000);
    let name = |server: &Server| (server.program.name.clone(), Vec::new());
    let mut results: Vec<(String, Vec<Run>)> = servers.iter().map(name).collect();
    for _ in 0..settings.rounds {
        for (server, (_, runs)) in servers.iter().zip(&mut results) {
            prepare(server, work)?;
            runs.push(run(server, work, pipeline, clients, requests)?);
        }
    }
    let line: Vec<_> = results.iter().map(|(name, runs)| summary(name, runs)).collect();
    eprintln!("{:<4} P{pipeline:<3} c{clients:<4} d{size:<5} {}", work.op.name(), line.join("  "));
    let test = work.op.name().to_owned();
    Ok(Caches { test, pipeline, clients, size, requests, servers: results })
}

fn prepare(server: &Server, work: &Work) -> Result<(), String> {
    let mut client = Client::connect(server)?;
    work.prepare(&mut client, server.program.protocol()).map_err(|error| server.with_log(&error))
}

/// One closed loop.
pub fn run(
    server: &Server,
    work: &Work,
    pipeline: usize,
    clients: usize,
    requests: u64,
) -> Result<Run, String> {
    let cpu_before = server.cpu_seconds()?;
    let outcome = drive(server, work, pipeline, clients, Pace::Closed { requests })?;
    let cpu_s = server.cpu_seconds()? - cpu_before;
    Ok(Run {
        rps: outcome.requests as f64 / outcome.seconds,
        avg_ms: outcome.latency.mean() / 1e6,
        min_ms: outcome.latency.min() as f64 / 1e6,
        p50_ms: outcome.latency_ms(0.5),
        p95_ms: outcome.latency_ms(0.95),
        p99_ms: outcome.latency_ms(0.99),
        max_ms: outcome.latency.max() as f64 / 1e6,
        cpu_s,
        cpu_per_million: cpu_s / outcome.requests as f64 * 1e6,
        client_share: 0.0,
    })
}

fn summary(name: &str, runs: &[Run]) -> String {
    let rps = crate::stats::median(runs.iter().map(|run| run.rps)).unwrap_or(f64::NAN);
    format!("{name} {:.0} krps", rps / 1e3)
}
