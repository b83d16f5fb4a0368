//! What a replica costs its primary, and how fast one catches up that was away.
//!
//! Primary, replica and load client share the machine's cores, so on two cores the replica's own work is
//! part of the price. The same is measured of redis-server with a replica of its kind.

use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::client::Client;
use crate::load::{Pace, drive};
use crate::options::Settings;
use crate::proc;
use crate::results::TierFigure;
use crate::server::{Program, Server};
use crate::work::{Keys, Op, Work};

const CLIENTS: usize = 50;
const VALUE: usize = 100;
const KEYS: u64 = 100_000;
/// Records that a replica has to catch up, of a full run.
const MISSED: f64 = 1_000_000.0;
/// The thread of a primary that serves a replica.
const SHIPPING: &str = "ashlar-replica";
/// How long a replica may take to get somewhere.
const PATIENCE: Duration = Duration::from_secs(60);

/// Measures both.
pub fn measure(settings: &Settings) -> Result<Vec<TierFigure>, String> {
    let mut figures = Vec::new();
    for program in [&settings.ashlar, &settings.redis] {
        price(settings, program, &mut figures)?;
    }
    catch_up(settings, &mut figures)?;
    Ok(figures)
}

fn push(figures: &mut Vec<TierFigure>, what: &str, figure: String, value: f64) {
    eprintln!("{what}: {figure}: {value:.2}");
    figures.push(TierFigure { what: what.to_owned(), figure, value });
}

fn work() -> Work {
    Work::over(Op::Set, VALUE, Keys::Uniform(KEYS))
}

fn price(
    settings: &Settings,
    program: &Program,
    figures: &mut Vec<TierFigure>,
) -> Result<(), String> {
    for &pipeline in &settings.pipelines {
        let (mut alone, mut with) = (Vec::new(), Vec::new());
        for _ in 0..settings.rounds {
            let server = program.start()?;
            alone.push(rate(settings, &server, pipeline, None)?);
            let replica = follower(program, &server)?;
            with.push(rate(settings, &server, pipeline, Some(&replica))?);
        }
        let mut put = |figure: &str, value| {
            push(figures, &program.name, figure.replace("P?", &format!("P{pipeline}")), value);
        };
        let of = |rates: &[Rate], figure: fn(&Rate) -> f64| {
            middle(&mut rates.iter().map(figure).collect::<Vec<_>>())
        };
        let (alone_rate, with_rate) =
            (of(&alone, |rate| rate.per_second), of(&with, |rate| rate.per_second));
        put("SET/s, P?, alone", alone_rate);
        put("SET/s, P?, with a replica", with_rate);
        put("share of alone, P?", with_rate / alone_rate);
        put("CPU s/M, P?: primary alone", of(&alone, |rate| rate.primary));
        put("CPU s/M, P?: primary with a replica", of(&with, |rate| rate.primary));
        if of(&with, |rate| rate.shipping) > 0.0 {
            put("CPU s/M, P?: of that the thread that ships", of(&with, |rate| rate.shipping));
        }
        put("CPU s/M, P?: replica", of(&with, |rate| rate.replica));
    }
    Ok(())
}

fn middle(rates: &mut [f64]) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

/// What a run has shown; CPU seconds are for a million records.
struct Rate {
    per_second: f64,
    primary: f64,
    shipping: f64,
    replica: f64,
}

fn rate(
    settings: &Settings,
    server: &Server,
    pipeline: usize,
    replica: Option<&Server>,
) -> Result<Rate, String> {
    let probe = drive(server, &work(), pipeline, CLIENTS, Pace::Closed { requests: 50_000 })?;
    let requests = (probe.requests as f64 / probe.seconds * settings.seconds) as u64;
    let spent = || -> Result<[f64; 3], String> {
        let primary = server.pid();
        let replica = replica.map_or(Ok(0.0), |replica| proc::cpu_seconds(replica.pid()))?;
        Ok([proc::cpu_seconds(primary)?, proc::thread_seconds(primary, SHIPPING), replica])
    };
    let before = spent()?;
    let outcome = drive(server, &work(), pipeline, CLIENTS, Pace::Closed { requests })?;
    if let Some(replica) = replica {
        caught_up(server, replica)?;
    }
    let millions = outcome.requests as f64 / 1e6;
    let after = spent()?;
    let [primary, shipping, replica] = [0, 1, 2].map(|at| (after[at] - before[at]) / millions);
    let per_second = outcome.requests as f64 / outcome.seconds;
    Ok(Rate { per_second, primary, shipping, replica })
}

/// A replica that has all that its primary has.
fn follower(program: &Program, primary: &Server) -> Result<Server, String> {
    let replica = program.start()?;
    let mut client = Client::connect(&replica)?;
    client.call(&["REPLICAOF", "127.0.0.1", &primary.address.port().to_string()])?;
    until(|| Ok(info(&mut client, "master_link_status")?.as_deref() == Some("up")))?;
    caught_up(primary, &replica)?;
    Ok(replica)
}

fn info(client: &mut Client, field: &str) -> Result<Option<String>, String> {
    let reply = client.call(&["INFO", "replication"])?;
    let text = String::from_utf8_lossy(&reply);
    let value = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    Ok(value.map(|value| value.trim().to_owned()))
}

fn until(mut is: impl FnMut() -> Result<bool, String>) -> Result<(), String> {
    let since = Instant::now();
    while !is()? {
        if since.elapsed() > PATIENCE {
            return Err("the replica does not get there".to_owned());
        }
        sleep(Duration::from_millis(2));
    }
    Ok(())
}

fn caught_up(primary: &Server, replica: &Server) -> Result<(), String> {
    let offset = info(&mut Client::connect(primary)?, "master_repl_offset")?;
    let offset: u64 = offset.and_then(|offset| offset.parse().ok()).ok_or("no offset")?;
    let mut client = Client::connect(replica)?;
    until(|| {
        let has = info(&mut client, "slave_repl_offset")?;
        Ok(has.and_then(|has| has.parse::<u64>().ok()).is_some_and(|has| has >= offset))
    })
}

/// A replica stands still while a million records are written to a primary with a log.
fn catch_up(settings: &Settings, figures: &mut Vec<TierFigure>) -> Result<(), String> {
    let missed = (MISSED * settings.memory_scale) as u64;
    let mut program = settings.ashlar.clone();
    program.args.extend(["--appendonly".to_owned(), "yes".to_owned()]);
    let primary = program.start()?;
    let replica = follower(&settings.ashlar, &primary)?;
    let name = settings.ashlar.name.clone();
    for pipeline in [1, 64] {
        signal(&replica, "STOP")?;
        let written =
            drive(&primary, &work(), pipeline, CLIENTS, Pace::Closed { requests: missed });
        signal(&replica, "CONT")?;
        let start = Instant::now();
        caught_up(&primary, &replica)?;
        let seconds = start.elapsed().as_secs_f64();
        let written = written?;
        let wrote = written.requests as f64 / written.seconds;
        let caught = missed as f64 / seconds;
        push(figures, &name, format!("written while it was away, P{pipeline}: records/s"), wrote);
        push(figures, &name, format!("caught up, P{pipeline}: records/s"), caught);
        push(figures, &name, format!("caught up / written, P{pipeline}"), caught / wrote);
    }
    let copies = Client::connect(&primary)?.info_number("stats", "sync_full")?;
    push(figures, &name, "copies in all".to_owned(), copies as f64);
    Ok(())
}

fn signal(server: &Server, name: &str) -> Result<(), String> {
    let sent = Command::new("kill").args(["-s", name, &server.pid().to_string()]).status();
    sent.map_err(|error| error.to_string()).and_then(|status| match status.success() {
        true => Ok(()),
        false => Err(format!("SIG{name} was not sent")),
    })
}
