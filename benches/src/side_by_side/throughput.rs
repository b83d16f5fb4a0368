//! Throughput: redis-benchmark against ashlar and redis-server in turn.

use std::time::Duration;

use crate::caches;
use crate::catalogue::Test;
use crate::client::Client;
use crate::options::Settings;
use crate::proc;
use crate::redis_benchmark::{self, Load};
use crate::results::{Results, Run, Throughput};
use crate::server::Server;
use crate::work::Work;

/// What a run may take besides the time that it is meant to.
const SLACK: Duration = Duration::from_secs(30);
/// A slow server's run may take so much longer than a fast one's.
const SLOWER_MAX: u32 = 20;
/// Fewest requests of a run: the CPU time of fewer is lost in the clock's ticks.
const REQUESTS_MIN: u64 = 10_000;

/// Measures every test at every point of the grid. A test that fails is told and left out; a server that
/// has ended ends it all.
pub fn measure(settings: &Settings, tests: &[&Test], results: &mut Results) -> Result<(), String> {
    let mut ashlar = settings.ashlar.start()?;
    let mut redis = settings.redis.start()?;
    for &pipeline in &settings.pipelines {
        for &clients in &settings.clients {
            for (index, &size) in settings.sizes.iter().enumerate() {
                // What the size does not change is measured with the first one only.
                for &test in tests.iter().filter(|test| index == 0 || test.sized) {
                    let cell = Cell { settings, test, load: Load { pipeline, clients, size } };
                    match cell.measure(&ashlar, &redis) {
                        Ok(result) => results.throughput.push(result),
                        Err(error) => results.fail(error),
                    }
                    ashlar.check()?;
                    redis.check()?;
                }
            }
        }
    }
    Ok(())
}

/// Measures a test at one point (pipeline, clients, size) against both servers in turn.
pub fn measure_point(
    settings: &Settings,
    test: &Test,
    (pipeline, clients, size): (usize, usize, usize),
    (ashlar, redis): (&Server, &Server),
) -> Result<Throughput, String> {
    let load = Load { pipeline, clients, size };
    Cell { settings, test, load }.measure(ashlar, redis)
}

/// One test at one point of the grid.
struct Cell<'a> {
    settings: &'a Settings,
    test: &'a Test,
    load: Load,
}

impl Cell<'_> {
    fn measure(&self, ashlar: &Server, redis: &Server) -> Result<Throughput, String> {
        let Load { pipeline, clients, size } = self.load;
        let requests = self.requests(ashlar, redis)?;
        let mut result = Throughput {
            test: self.test.name.to_owned(),
            standard: self.test.standard,
            pipeline,
            clients,
            size,
            requests,
            ashlar: Vec::new(),
            redis: Vec::new(),
        };
        for _ in 0..self.settings.rounds {
            result.ashlar.push(self.run(ashlar, requests)?);
            result.redis.push(self.run(redis, requests)?);
        }
        let ratio = |figure| result.ratio(figure).unwrap_or(f64::NAN);
        eprintln!(
            "{:<13} P{pipeline:<3} c{clients:<4} d{size:<5} {requests:>9} requests: \
             throughput {:.2}x  p99 {:.2}x  CPU {:.2}x",
            self.test.name,
            ratio(|run| run.rps),
            ratio(|run| run.p99_ms),
            ratio(|run| run.cpu_per_million),
        );
        Ok(result)
    }

    /// So many that the faster server is busy for the time asked for. A short run of each finds out how
    /// fast it is, and warms it up.
    fn requests(&self, ashlar: &Server, redis: &Server) -> Result<u64, String> {
        let probe = match self.load.pipeline {
            0..=4 => 10_000,
            5..=31 => 50_000,
            _ => 100_000,
        };
        // Probes of slow tests would take longer than the test.
        let probe = if self.test.name.starts_with("LRANGE") { probe / 10 } else { probe };
        let probe = probe.min(self.test.requests_max(self.load.size));
        let fastest = self.run(ashlar, probe)?.rps.max(self.run(redis, probe)?.rps);
        let requests = (fastest * self.settings.seconds) as u64;
        let most = self.test.requests_max(self.load.size);
        Ok(requests.clamp(REQUESTS_MIN, most.max(REQUESTS_MIN)).next_multiple_of(1_000))
    }

    /// The same command from the own load client, which is done with a reply in less time.
    fn run_own(&self, server: &Server, requests: u64) -> Result<Run, String> {
        let Load { pipeline, clients, size } = self.load;
        let work = Work::of_words(&self.test.words(size));
        let me = std::process::id();
        let before = proc::cpu_seconds(me)?;
        let run = caches::run(server, &work, pipeline, clients, requests)?;
        let own_s = proc::cpu_seconds(me)? - before;
        Ok(Run { client_share: own_s * run.rps / requests as f64, ..run })
    }

    fn run(&self, server: &Server, requests: u64) -> Result<Run, String> {
        let limit = SLACK + Duration::from_secs_f64(self.settings.seconds) * SLOWER_MAX;
        let program = &self.settings.redis_benchmark;
        let mut client = Client::connect(server)?;
        let run = self
            .test
            .prepare(&mut client, self.load.size, requests)
            .map_err(|error| server.with_log(&error))
            .and_then(|()| {
                if self.settings.own_client {
                    return self.run_own(server, requests);
                }
                redis_benchmark::run(program, server, self.test, self.load, requests, limit)
            });
        // The other server shall not have to share the memory.
        client.call(&["FLUSHALL", "SYNC"]).map_err(|error| server.with_log(&error))?;
        run.map_err(|error| {
            format!("{} at pipeline {}: {error}", self.test.name, self.load.pipeline)
        })
    }
}
