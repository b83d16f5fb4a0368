//! Data ten times as large as memory: ashlar with a cold tier next to itself without one, and next to
//! plain sled.
//!
//! Keys are read with Zipf's distribution (0.99), as YCSB has it: a few are read very often, and the
//! long tail seldom. What does not fit into memory is read from files, which the system's page cache
//! may hold: the figures are those of a disk that answers from there, as on any machine with memory to
//! spare.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ashlar_engine::stamp::Rng;
use ashlar_engine::tier::fjall::Fjall;
use ashlar_engine::tier::sled::Sled;
use ashlar_engine::tier::store::{Batch, ColdError, ColdStore, StoreKind};

use crate::client::Client;
use crate::cores::Apart;
use crate::load::{Pace, drive};
use crate::options::{Settings, TierPart};
use crate::proc;
use crate::results::TierFigure;
use crate::server::Server;
use crate::work::{Keys, Op, Work, Zipf};

/// Keys of a full run.
const KEYS: f64 = 600_000.0;
/// Bytes of a value.
const VALUE: usize = 1_000;
/// Bytes of a key with its value, about, of which memory gets a tenth.
const ENTRY: u64 = 1_064;
/// Skew of the reads.
const SKEW: f64 = 0.99;
/// Keys that are read all the time where that is asked for.
const HOT_KEYS: u64 = 2_000;
const CLIENTS: usize = 50;

/// Measures both stores, one after the other.
pub fn measure(settings: &Settings) -> Result<Vec<TierFigure>, String> {
    let keys = settings.keys.unwrap_or((KEYS * settings.memory_scale) as u64);
    let mut figures = Vec::new();
    let zipf = Arc::new(Zipf::new(keys, SKEW));
    let reads = |pipeline: usize| (Work::over(Op::Get, VALUE, Keys::Zipf(zipf.clone())), pipeline);
    // What only a part of is measured of is not compared with anything.
    let compares = settings.parts.is_empty();
    let memory = if compares {
        let server = settings.ashlar.start()?;
        fill(&server, keys)?;
        let mut rates = Vec::new();
        for (work, pipeline) in [1, 16].map(reads) {
            rates.push(rate(settings, &server, &work, pipeline)?);
        }
        rates
    } else {
        Vec::new()
    };
    for (rate, pipeline) in memory.iter().zip([1, 16]) {
        push(&mut figures, "memory", &format!("Zipf GET/s, P{pipeline}"), *rate);
    }
    let wanted = |kind: &StoreKind| settings.stores.iter().any(|name| name == kind.name());
    let all = settings.stores.is_empty();
    for kind in StoreKind::ALL.into_iter().filter(|kind| all || wanted(kind)) {
        let mut plain = None;
        if compares {
            let rate = plain_rate(settings, kind, keys, &zipf)?;
            push(&mut figures, kind.name(), "plain store: Zipf get/s, 2 threads", rate);
            plain = Some(rate);
        }
        tier(settings, kind, keys, &zipf, &memory, plain, &mut figures)?;
    }
    Ok(figures)
}

fn push(figures: &mut Vec<TierFigure>, what: &str, figure: &str, value: f64) {
    eprintln!("{what}: {figure}: {value:.2}");
    figures.push(TierFigure { what: what.to_owned(), figure: figure.to_owned(), value });
}

fn tier(
    settings: &Settings,
    kind: StoreKind,
    keys: u64,
    zipf: &Arc<Zipf>,
    memory: &[f64],
    plain: Option<f64>,
    figures: &mut Vec<TierFigure>,
) -> Result<(), String> {
    let max = keys * ENTRY / 10;
    let mut program = settings.ashlar.clone();
    let args = [
        ("--maxmemory", max.to_string()),
        ("--maxmemory-policy", "tier".to_owned()),
        ("--cold-store", kind.name().to_owned()),
        ("--cold-memory", (max / 6).max(8 << 20).to_string()),
    ];
    program.args.extend(args.into_iter().flat_map(|(name, value)| [name.to_owned(), value]));
    let server = program.start()?;
    let name = kind.name();
    let (peak, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| watch(&server, &peak, &stop));
        let result = with_tier(settings, &server, name, keys, zipf, memory, plain, figures);
        stop.store(true, Ordering::Relaxed);
        result
    })?;
    let peak = peak.load(Ordering::Relaxed) as f64;
    push(figures, name, "peak resident memory / maxmemory", peak / max as f64);
    Ok(())
}

/// Notes the most resident memory that a server has.
fn watch(server: &Server, peak: &AtomicU64, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        peak.fetch_max(proc::rss_bytes(server.pid()).unwrap_or(0), Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[expect(clippy::too_many_arguments, reason = "one run with all that it is compared with")]
fn with_tier(
    settings: &Settings,
    server: &Server,
    name: &str,
    keys: u64,
    zipf: &Arc<Zipf>,
    memory: &[f64],
    plain: Option<f64>,
    figures: &mut Vec<TierFigure>,
) -> Result<(), String> {
    let start = Instant::now();
    fill(server, keys)?;
    push(figures, name, "ingest, SET/s", keys as f64 / start.elapsed().as_secs_f64());
    let mut client = Client::connect(server)?;
    let mut info = |field: &str| client.info_number("tiers", field);
    let (cold, all) = (info("tier_cold_keys")?, keys as f64);
    push(figures, name, "share of keys on disk", cold as f64 / all);
    push(figures, name, "index bytes a cold key", info("tier_index_bytes")? as f64 / cold as f64);
    let disk = info("tier_disk_bytes")? as f64 / info("tier_cold_bytes")?.max(1) as f64;
    push(figures, name, "bytes on disk / bytes of rows", disk);
    let wants = |part| settings.parts.is_empty() || settings.parts.contains(&part);
    for (nth, pipeline) in [1, 16].into_iter().enumerate().filter(|_| wants(TierPart::Zipf)) {
        let work = Work::over(Op::Get, VALUE, Keys::Zipf(zipf.clone()));
        let rate = rate(settings, server, &work, pipeline)?;
        push(figures, name, &format!("Zipf GET/s, P{pipeline}"), rate);
        if let Some(memory) = memory.get(nth) {
            push(figures, name, &format!("share of all in memory, P{pipeline}"), rate / memory);
        }
        if let Some(plain) = plain {
            push(figures, name, &format!("times plain store, P{pipeline}"), rate / plain);
        }
    }
    if wants(TierPart::Any) {
        let uniform = Work::over(Op::Get, VALUE, Keys::Uniform(keys));
        let requests = (settings.seconds * 20_000.0) as u64;
        let outcome = drive(server, &uniform, 1, 4, Pace::Closed { requests })?;
        push(figures, name, "reads of any key, 4 clients: p50 ms", outcome.latency_ms(0.5));
        push(figures, name, "reads of any key, 4 clients: p99 ms", outcome.latency_ms(0.99));
    }
    if wants(TierPart::Hot) {
        hot_reads(settings, server, name, keys, figures)?;
    }
    Ok(())
}

/// Hot reads that come at fixed times: quiet, beside more of them from other clients as fast as they go, and beside reads of
/// cold keys as fast as they go, from files that the system has in its page cache and from files that it has not.
fn hot_reads(
    settings: &Settings,
    server: &Server,
    name: &str,
    keys: u64,
    figures: &mut Vec<TierFigure>,
) -> Result<(), String> {
    let hot = Work::over(Op::Get, VALUE, Keys::Uniform(HOT_KEYS));
    let pace = Pace::Open { rate: 5_000.0, seconds: settings.seconds * 2.0 };
    let warm = || drive(server, &hot, 1, 8, Pace::Closed { requests: HOT_KEYS * 20 });
    let hot_p99 = || drive(server, &hot, 1, 8, pace).map(|outcome| outcome.latency_ms(0.99));
    // What the ingest has left in the page cache is not to be written out meanwhile.
    rustix::fs::sync();
    warm()?;
    // The load that comes at fixed times spins: it is not to take the server's core.
    let (quiet, memory, cached, disk) = Apart::new()?.during(server.pid(), || {
        let quiet = hot_p99()?;
        let memory = beside_reads(server, HOT_KEYS, 0, &hot_p99)?;
        let cached = beside_reads(server, keys, 1, &hot_p99)?;
        server.drop_page_cache()?;
        warm()?;
        let disk = beside_reads(server, keys, 2, &hot_p99)?;
        Ok::<_, String>((quiet, memory, cached, disk))
    })??;
    push(figures, name, "hot reads at 5,000/s, quiet: p99 ms", quiet);
    for (what, (p99, rate, from_disk)) in [
        ("hot reads", memory),
        ("cold reads from the page cache", cached),
        ("cold reads from disk", disk),
    ] {
        push(figures, name, &format!("beside {what}: p99 ms"), p99);
        push(figures, name, &format!("  {what}: p99 / quiet"), p99 / quiet);
        push(figures, name, &format!("  {what}: these a second"), rate);
        push(figures, name, &format!("  {what}: MB/s that came from disk"), from_disk / 1e6);
    }
    Ok(())
}

/// What `measured` says while eight clients read any of so many keys, the reads a second that they get, and the bytes a
/// second that come from disk.
fn beside_reads(
    server: &Server,
    keys: u64,
    seed: u64,
    measured: &impl Fn() -> Result<f64, String>,
) -> Result<(f64, f64, f64), String> {
    let uniform = Work::over(Op::Get, VALUE, Keys::Uniform(keys));
    let stop = AtomicBool::new(false);
    let (start, before) = (Instant::now(), proc::bytes_from_disk(server.pid())?);
    let (p99, reads) = std::thread::scope(|scope| {
        let others = scope.spawn(|| {
            let mut reads = 0;
            // The keys of a round that has been are in memory.
            for round in 0.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let uniform = uniform.with_seed(seed << 32 | round);
                reads += drive(server, &uniform, 1, 8, Pace::Closed { requests: 5_000 })?.requests;
            }
            Ok::<u64, String>(reads)
        });
        let p99 = measured();
        stop.store(true, Ordering::Relaxed);
        let reads = others.join().map_err(|_| "the load panicked".to_owned())??;
        Ok::<_, String>((p99?, reads))
    })?;
    let seconds = start.elapsed().as_secs_f64();
    let from_disk = proc::bytes_from_disk(server.pid())? - before;
    Ok((p99, reads as f64 / seconds, from_disk as f64 / seconds))
}

/// Requests a second of a closed loop, after the same load with other keys has run for as long to warm up: the same ones
/// would be read where they had just been.
fn rate(settings: &Settings, server: &Server, work: &Work, pipeline: usize) -> Result<f64, String> {
    let probe = drive(server, work, pipeline, CLIENTS, Pace::Closed { requests: 20_000 })?;
    let requests = (probe.requests as f64 / probe.seconds * settings.seconds * 3.0) as u64;
    drive(server, &work.with_seed(1), pipeline, CLIENTS, Pace::Closed { requests })?;
    let outcome = drive(server, &work.with_seed(2), pipeline, CLIENTS, Pace::Closed { requests })?;
    Ok(outcome.requests as f64 / outcome.seconds)
}

fn fill(server: &Server, keys: u64) -> Result<(), String> {
    let mut client = Client::connect(server)?;
    let set = Work::over(Op::Set, VALUE, Keys::Uniform(keys));
    client.fill(keys, |out, key| set.write_key(server.program.protocol(), key, out))
}

/// The same reads of a store without a server, by two threads, with the memory that the server has in
/// all for its cache.
fn plain_rate(
    settings: &Settings,
    kind: StoreKind,
    keys: u64,
    zipf: &Arc<Zipf>,
) -> Result<f64, String> {
    let dir = std::env::temp_dir().join(format!("side-by-side-{}-store", std::process::id()));
    let failed = |error: ColdError| error.to_string();
    // The back end by itself, without the value log that ashlar has beside it.
    let memory = keys * ENTRY / 10;
    let store: Box<dyn ColdStore> = match kind {
        StoreKind::Sled => Box::new(Sled::open(&dir, memory).map_err(failed)?),
        StoreKind::Fjall => Box::new(Fjall::open(&dir, memory).map_err(failed)?),
    };
    let mut batch = Batch::default();
    for key in 0..keys {
        batch.put(spread(key), vec![b'x'; VALUE]);
        if batch.is_full() || key + 1 == keys {
            store.apply(&batch).map_err(failed)?;
            batch.clear();
        }
    }
    let read = |seed: u64, seconds: f64| -> Result<u64, String> {
        let (mut rng, start, mut count) = (Rng::new(seed), Instant::now(), 0);
        while start.elapsed().as_secs_f64() < seconds {
            for _ in 0..100 {
                let key = spread(zipf.draw(rng.next_u64()));
                store.get(&key).map_err(failed)?.ok_or("a key is missing")?;
            }
            count += 100;
        }
        Ok(count)
    };
    let run = |seconds: f64| -> Result<u64, String> {
        std::thread::scope(|scope| {
            let two = scope.spawn(|| read(2, seconds));
            let one = read(1, seconds)?;
            Ok(one + two.join().map_err(|_| "a reader panicked".to_owned())??)
        })
    };
    run(settings.seconds)?;
    let seconds = settings.seconds * 2.0;
    let rate = run(seconds)? as f64 / seconds;
    let destroyed: Result<(), String> = store.destroy().map_err(failed);
    destroyed?;
    Ok(rate)
}

/// Keys in no order, as those of a hash table are.
fn spread(key: u64) -> Vec<u8> {
    key.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes().to_vec()
}
