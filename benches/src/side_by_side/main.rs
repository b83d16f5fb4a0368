//! `side-by-side`: ashlar next to redis-server and memcached, on one machine, in one run.
//!
//! Every figure is taken from ashlar and from the others in turn, round after round, so that what
//! changes on the machine meanwhile meets all of them. See `docs/benchmarking.md`.

mod caches;
mod catalogue;
mod client;
mod cluster;
mod cores;
mod durability;
mod goals;
mod import;
mod latency;
mod load;
mod memory;
mod options;
mod proc;
mod protocol;
mod redis_benchmark;
mod replica;
mod report;
mod restart;
mod results;
mod server;
mod sites;
mod stats;
mod svg;
mod table;
mod throughput;
mod tiers;
mod work;

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Parser;

use options::{Mode, Options, Settings};
use proc::Cores;
use results::{About, Results, TierFigure};
use server::{Kind, Program};

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("side-by-side: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), String> {
    let mut results = match &options.from {
        Some(file) => read(file)?,
        None => measure(options)?,
    };
    results.goals = goals::goals(&results);
    println!("{}", report::render(&results, false));
    if let Some(file) = &options.json {
        let text = serde_json::to_string_pretty(&results).map_err(|error| error.to_string())?;
        write(file, &(text + "\n"))?;
    }
    if let Some(file) = &options.markdown {
        write(file, &report::render(&results, true))?;
    }
    options.svg.as_deref().map_or(Ok(()), |dir| svg::draw(&results, dir))?;
    match results.failures.as_slice() {
        [] => Ok(()),
        failures => Err(format!("could not be measured:\n{}", failures.join("\n"))),
    }
}

/// What takes the figures of a mode.
type Measure = fn(&Settings) -> Result<Vec<TierFigure>, String>;

fn measure(options: &Options) -> Result<Results, String> {
    let tests = catalogue::select(&options.tests)?;
    let settings = options.settings()?;
    let (start, cores) = (Instant::now(), Cores::now());
    let mut results = Results { about: about(&settings), ..Results::default() };
    // One mode that fails leaves the others their figures.
    if options.wants(Mode::Memory) {
        match memory::measure(&settings) {
            Ok(memory) => results.memory = memory,
            Err(error) => results.fail(error),
        }
    }
    if options.wants(Mode::Latency) {
        match latency::measure(&settings) {
            Ok(latency) => results.latency = latency,
            Err(error) => results.fail(error),
        }
    }
    if options.wants(Mode::Caches) {
        match caches::measure(&settings) {
            Ok(caches) => results.caches = caches,
            Err(error) => results.fail(error),
        }
    }
    if options.wants(Mode::Tiers) {
        match tiers::measure(&settings) {
            Ok(tiers) => results.tiers = tiers,
            Err(error) => results.fail(error),
        }
    }
    if options.wants(Mode::Restart) {
        match restart::measure(&settings) {
            Ok(restart) => results.restart = restart,
            Err(error) => results.fail(error),
        }
    }
    if options.wants(Mode::Snapshot) {
        match restart::during_snapshots(&settings) {
            Ok(snapshot) => results.snapshot = snapshot,
            Err(error) => results.fail(error),
        }
    }
    if options.wants(Mode::Replica) {
        match replica::measure(&settings) {
            Ok(replica) => results.replica = replica,
            Err(error) => results.fail(error),
        }
    }
    if options.wants(Mode::Sites) {
        match sites::measure(&settings) {
            Ok(sites) => results.sites = sites,
            Err(error) => results.fail(error),
        }
    }
    if options.wants(Mode::Import) {
        match import::measure(&settings) {
            Ok(import) => results.import = import,
            Err(error) => results.fail(error),
        }
    }
    let strong: [(Mode, Measure); 4] = [
        (Mode::Cluster, cluster::measure),
        (Mode::Failover, cluster::failover::measure),
        (Mode::Moves, cluster::moves::measure),
        (Mode::Etcd, cluster::etcd::measure),
    ];
    for (_, measure) in strong.iter().filter(|(mode, _)| options.wants(*mode)) {
        match measure(&settings) {
            Ok(mut figures) => results.cluster.append(&mut figures),
            Err(error) => results.fail(error),
        }
    }
    if options.wants(Mode::Throughput) {
        throughput::measure(&settings, &tests, &mut results)
            .unwrap_or_else(|error| results.fail(error));
    }
    if options.wants(Mode::Durability) {
        durability::measure(&settings, &mut results).unwrap_or_else(|error| results.fail(error));
    }
    results.about.seconds = start.elapsed().as_secs_f64();
    (_, results.about.stolen) = Cores::now().since(cores);
    Ok(results)
}

fn about(settings: &Settings) -> About {
    let before = Cores::now();
    sleep(Duration::from_secs(1));
    let (busy_before, _) = Cores::now().since(before);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let benchmark = Program {
        name: "redis-benchmark".to_owned(),
        file: settings.redis_benchmark.clone(),
        kind: Kind::Redis,
        args: Vec::new(),
    };
    let programs = [Some(&settings.ashlar), Some(&settings.redis), settings.memcached.as_ref()];
    let programs = programs.into_iter().flatten().chain([&benchmark]);
    let args: Vec<String> = std::env::args().skip(1).collect();
    About {
        command: format!("side-by-side {}", args.join(" ")).trim().to_owned(),
        machine: format!("{}, {cores} cores, Linux {}", proc::cpu_model(), proc::kernel()),
        cores,
        busy_before,
        stolen: 0.0,
        programs: programs.map(|program| (program.name.clone(), program.version())).collect(),
        unix_time: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs()),
        seconds: 0.0,
    }
}

fn read(file: &Path) -> Result<Results, String> {
    let text = fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
    serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", file.display()))
}

fn write(file: &Path, text: &str) -> Result<(), String> {
    fs::write(file, text).map_err(|error| format!("{}: {error}", file.display()))?;
    eprintln!("wrote {}", file.display());
    Ok(())
}
