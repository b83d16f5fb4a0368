//! How long a start takes with data on disk, and what a snapshot costs those who are served meanwhile.
//!
//! A start is timed from the start of the process to the first `PONG`: until then both servers answer that
//! they are loading. The process before was killed, so nothing was tidied up for the next one. The files
//! are in the system's page cache.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::client::Client;
use crate::cores::Apart;
use crate::load::{Pace, drive};
use crate::options::Settings;
use crate::results::TierFigure;
use crate::server::{Program, Server};
use crate::stats::median;
use crate::work::{Keys, Op, Work};

/// Keys of a full run, of 16 bytes with values of 32.
const KEYS: f64 = 5_000_000.0;
const VALUE: usize = 32;
/// How long a server may take to load, or to take a snapshot.
const PATIENCE: Duration = Duration::from_secs(120);
/// Requests a second during a snapshot, over so many connections.
const RATE: f64 = 20_000.0;
const CLIENTS: usize = 20;

fn push(figures: &mut Vec<TierFigure>, what: &str, figure: &str, value: f64) {
    eprintln!("{what}: {figure}: {value:.3}");
    figures.push(TierFigure { what: what.to_owned(), figure: figure.to_owned(), value });
}

fn keys(settings: &Settings) -> u64 {
    settings.keys.unwrap_or((KEYS * settings.memory_scale) as u64).max(1)
}

fn fill(server: &Server, keys: u64) -> Result<(), String> {
    let set = Work::over(Op::Set, VALUE, Keys::Uniform(keys));
    let write = |out: &mut Vec<u8>, key| set.write_key(server.program.protocol(), key, out);
    Client::connect(server)?.fill(keys, write)
}

/// Starts of both servers from a snapshot and from a log, in turn.
pub fn measure(settings: &Settings) -> Result<Vec<TierFigure>, String> {
    let mut figures = Vec::new();
    for (kind, log) in [("snapshot", false), ("log", true)] {
        let mut medians = Vec::new();
        for program in [&settings.ashlar, &settings.redis] {
            let seconds = starts(settings, program, log)?;
            let figure = format!("{} keys, {kind}: seconds to start", keys(settings));
            push(&mut figures, &program.name, &figure, seconds);
            medians.push(seconds);
        }
        let ratio = medians[1] / medians[0];
        push(&mut figures, "ratio", &format!("redis-server / ashlar, {kind}"), ratio);
    }
    Ok(figures)
}

fn starts(settings: &Settings, program: &Program, log: bool) -> Result<f64, String> {
    let mut program = program.clone();
    if log {
        let args = ["--appendonly", "yes", "--auto-aof-rewrite-percentage", "0"];
        program.args.extend(args.map(str::to_owned));
    }
    let mut server = program.start()?;
    // A log is opened, be it empty.
    wait_loaded(&server)?;
    fill(&server, keys(settings))?;
    if !log {
        Client::connect(&server)?.call(&["SAVE"])?;
    }
    let mut seconds = Vec::new();
    for _ in 0..settings.rounds {
        server.kill()?;
        let start = Instant::now();
        server.start_again()?;
        wait_loaded(&server)?;
        seconds.push(start.elapsed().as_secs_f64());
        let size = Client::connect(&server)?.call(&["DBSIZE"])?;
        if size != format!(":{}\r\n", keys(settings)).as_bytes() {
            return Err(server.with_log(&format!("has {}", String::from_utf8_lossy(&size))));
        }
    }
    Ok(median(seconds.iter().copied()).unwrap_or(0.0))
}

/// Waits until a server has loaded its data.
pub fn wait_loaded(server: &Server) -> Result<(), String> {
    let since = Instant::now();
    loop {
        let pong = Client::connect(server).and_then(|mut client| client.call(&["PING"]));
        match pong {
            Ok(_) => return Ok(()),
            Err(error) if since.elapsed() > PATIENCE => return Err(server.with_log(&error)),
            Err(_) => sleep(Duration::from_millis(2)),
        }
    }
}

/// The p99 of writes at a fixed rate, without and during snapshots, of both servers.
pub fn during_snapshots(settings: &Settings) -> Result<Vec<TierFigure>, String> {
    let mut figures = Vec::new();
    let apart = Apart::new()?;
    for program in [&settings.ashlar, &settings.redis] {
        let server = apart.start(|| program.start())??;
        let keys = keys(settings) / 5;
        fill(&server, keys)?;
        let work = Work::over(Op::Set, VALUE, Keys::Uniform(keys));
        let pace = Pace::Open { rate: RATE, seconds: settings.seconds * 3.0 };
        drive(&server, &work, 1, CLIENTS, pace)?;
        let quiet = drive(&server, &work, 1, CLIENTS, pace)?;
        let stop = AtomicBool::new(false);
        let (busy, snapshots) = std::thread::scope(|scope| {
            let saving = scope.spawn(|| save_again_and_again(&server, &stop));
            let busy = drive(&server, &work, 1, CLIENTS, pace);
            stop.store(true, Ordering::Relaxed);
            let saved = saving.join().map_err(|_| "a thread panicked".to_owned())?;
            Ok::<_, String>((busy?, saved?))
        })?;
        let name = &program.name;
        let (quiet, busy) = (quiet.latency_ms(0.99), busy.latency_ms(0.99));
        push(&mut figures, name, "SET at 20,000/s: p99 ms", quiet);
        push(&mut figures, name, "the same during snapshots: p99 ms", busy);
        push(&mut figures, name, "p99 during snapshots / without", busy / quiet);
        push(&mut figures, name, "snapshots that ended meanwhile", snapshots as f64);
    }
    Ok(figures)
}

fn save_again_and_again(server: &Server, stop: &AtomicBool) -> Result<u64, String> {
    let mut client = Client::connect(server)?;
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        client.call(&["BGSAVE"])?;
        let since = Instant::now();
        while client.info_number("persistence", "rdb_bgsave_in_progress")? == 1 {
            if stop.load(Ordering::Relaxed) {
                return Ok(count);
            }
            if since.elapsed() > PATIENCE {
                return Err(server.with_log("the snapshot does not end"));
            }
            sleep(Duration::from_millis(5));
        }
        count += 1;
    }
    Ok(count)
}
