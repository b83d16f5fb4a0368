//! Strong keys: three nodes on one machine that sync every write, next to one redis-server that does.
//!
//! The three nodes and the load client share the machine's cores, so a write costs three times what it costs on one
//! node, and what is measured is mostly processor time.

pub mod etcd;
pub mod failover;
pub mod moves;
mod routed;

use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::client::Client;
use crate::load::{Pace, drive};
use crate::options::Settings;
use crate::results::TierFigure;
use crate::server::{Program, Server};
use crate::work::{Keys, Op, RANDOM, Work};

const NODES: usize = 3;
const VALUE: usize = 256;
const KEYS: u64 = 100_000;
/// How long the cluster may take to get somewhere.
const PATIENCE: Duration = Duration::from_secs(60);
/// Seconds for which idle nodes are watched.
const IDLE_SECONDS: u64 = 10;
/// Groups of the idle cluster.
const IDLE_GROUPS: usize = 256;

/// A script of three commands, one of which writes an own key of each call.
const SCRIPT: &str = "redis.call('SET', KEYS[1], ARGV[1]) \
    redis.call('INCR', KEYS[1]) return redis.call('GET', KEYS[1])";
const SCRIPT_LOAD: (usize, usize) = (50, 16);

/// Measures them.
pub fn measure(settings: &Settings) -> Result<Vec<TierFigure>, String> {
    let mut figures = Vec::new();
    for reads in ["readindex", "lease"] {
        let cluster = Cluster::start(&settings.ashlar, 1, &["--cluster-reads", reads])?;
        let leader = cluster.leader()?;
        let name = format!("{NODES} nodes, {reads}");
        if reads == "readindex" {
            for (clients, pipeline) in [(1, 1), (64, 1), (512, 1), (32, 16)] {
                rate(settings, leader, &name, Op::Set, (clients, pipeline), &mut figures)?;
            }
        }
        rate(settings, leader, &name, Op::Set, (8, 16), &mut figures)?;
        if reads == "readindex" {
            scripts(settings, leader, &name, &mut figures)?;
        }
        for (clients, pipeline) in [(64, 1), (4, 16), (32, 16)] {
            rate(settings, leader, &name, Op::Get, (clients, pipeline), &mut figures)?;
        }
    }
    let mut program = settings.redis.clone();
    program.args.extend(["--appendonly", "yes", "--appendfsync", "always"].map(str::to_owned));
    let redis = program.start()?;
    let name = format!("{}, appendfsync always", program.name);
    for (clients, pipeline) in [(1, 1), (64, 1), (512, 1), (32, 16)] {
        rate(settings, &redis, &name, Op::Set, (clients, pipeline), &mut figures)?;
    }
    scripts(settings, &redis, &name, &mut figures)?;
    drop(redis);
    idle(settings, &mut figures)?;
    Ok(figures)
}

fn push(figures: &mut Vec<TierFigure>, what: &str, figure: impl Into<String>, value: f64) {
    let figure = figure.into();
    eprintln!("{what}: {figure}: {value:.2}");
    figures.push(TierFigure { what: what.to_owned(), figure, value });
}

fn rate(
    settings: &Settings,
    server: &Server,
    name: &str,
    op: Op,
    load: (usize, usize),
    figures: &mut Vec<TierFigure>,
) -> Result<(), String> {
    rate_of(settings, server, name, (op, VALUE), load, figures)
}

fn rate_of(
    settings: &Settings,
    server: &Server,
    name: &str,
    (op, value): (Op, usize),
    load: (usize, usize),
    figures: &mut Vec<TierFigure>,
) -> Result<(), String> {
    let work = Work::over(op, value, Keys::Uniform(KEYS));
    let op = if matches!(op, Op::Set) { "SET" } else { "GET" };
    rate_of_work(settings, server, name, (op, &work), load, figures)
}

fn scripts(
    settings: &Settings,
    server: &Server,
    name: &str,
    figures: &mut Vec<TierFigure>,
) -> Result<(), String> {
    let key = format!("key:{RANDOM}");
    let work = Work::of_words(&["EVAL", SCRIPT, "1", &key, "7"].map(str::to_owned));
    rate_of_work(settings, server, name, ("EVAL", &work), SCRIPT_LOAD, figures)
}

fn rate_of_work(
    settings: &Settings,
    server: &Server,
    name: &str,
    (what, work): (&str, &Work),
    (clients, pipeline): (usize, usize),
    figures: &mut Vec<TierFigure>,
) -> Result<(), String> {
    let probe = drive(server, work, pipeline, clients, Pace::Closed { requests: 2_000 })?;
    let requests = (probe.requests as f64 / probe.seconds * settings.seconds) as u64;
    let (mut rates, mut tails) = (Vec::new(), Vec::new());
    for _ in 0..settings.rounds {
        let outcome = drive(server, work, pipeline, clients, Pace::Closed { requests })?;
        rates.push(outcome.requests as f64 / outcome.seconds);
        tails.push(outcome.latency_ms(0.99));
    }
    let load = format!("{what}, {clients} clients, P{pipeline}");
    push(figures, name, format!("{load}: requests/s"), middle(&mut rates));
    push(figures, name, format!("{load}: p99 ms"), middle(&mut tails));
    Ok(())
}

/// Waits until something holds.
fn until(what: &str, mut holds: impl FnMut() -> Result<bool, String>) -> Result<(), String> {
    let since = Instant::now();
    while !holds()? {
        if since.elapsed() > PATIENCE {
            return Err(format!("{what}: not in {PATIENCE:?}"));
        }
        sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn middle(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// What nodes take that have many groups and nothing to do.
fn idle(settings: &Settings, figures: &mut Vec<TierFigure>) -> Result<(), String> {
    let cluster = Cluster::start(&settings.ashlar, IDLE_GROUPS, &[])?;
    sleep(Duration::from_secs(2));
    let before = cluster.cpu_seconds()?;
    sleep(Duration::from_secs(IDLE_SECONDS));
    let spent = cluster.cpu_seconds()? - before;
    let percent = spent / IDLE_SECONDS as f64 / NODES as f64 * 100.0;
    push(
        figures,
        &format!("{NODES} nodes, {IDLE_GROUPS} groups"),
        "idle: percent of a core a node",
        percent,
    );
    Ok(())
}

struct Cluster {
    nodes: Vec<Server>,
}

impl Cluster {
    fn start(program: &Program, groups: usize, args: &[&str]) -> Result<Cluster, String> {
        let mut program = program.clone();
        let own = ["--cluster-enabled", "yes"].iter().chain(args);
        program.args.extend(own.map(|word| (*word).to_owned()));
        let nodes: Vec<Server> = (0..NODES).map(|_| program.start()).collect::<Result<_, _>>()?;
        let addresses = nodes.iter().map(|node| format!("127.0.0.1:{}", node.address.port()));
        let mut command = Command::new(&program.file);
        command.args(["cluster", "create"]).args(addresses);
        command.args(["--groups", &groups.to_string(), "--wait", "60"]);
        let output = command.output().map_err(|error| error.to_string())?;
        match output.status.success() {
            true => Ok(Cluster { nodes }),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    /// The node that leads the one group.
    fn leader(&self) -> Result<&Server, String> {
        self.leader_at().map(|at| &self.nodes[at])
    }

    /// Its place among the nodes.
    fn leader_at(&self) -> Result<usize, String> {
        let mut leader = None;
        until("a node leads", || {
            leader = self.nodes.iter().position(|node| {
                let reply = Client::connect(node).and_then(|mut it| it.call(&["SET", "l", "1"]));
                reply.is_ok_and(|reply| reply.starts_with(b"+OK"))
            });
            Ok(leader.is_some())
        })?;
        leader.ok_or("no node leads".to_owned())
    }

    /// Waits until all groups are kept by those who shall keep them.
    fn settle(&self) -> Result<(), String> {
        until("the cluster is whole", || {
            for node in &self.nodes {
                let info = Client::connect(node)?.call(&["CLUSTER", "INFO"])?;
                let info = String::from_utf8_lossy(&info).into_owned();
                let field = |name: &str| {
                    let line = info.lines().find_map(|line| line.strip_prefix(name));
                    line.map(str::to_owned)
                };
                let settled = field("ashlar_groups:") == field("ashlar_groups_settled:");
                if !settled || !info.contains("cluster_state:ok") {
                    return Ok(false);
                }
            }
            Ok(true)
        })
    }

    fn cpu_seconds(&self) -> Result<f64, String> {
        self.nodes.iter().map(Server::cpu_seconds).sum()
    }
}
