//! The command line, and what follows from it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::{Parser, ValueEnum};

use crate::server::{Kind, Program};

/// Compares ashlar with redis-server and memcached on this machine.
#[derive(Parser, Debug)]
#[command(name = "side-by-side")]
pub struct Options {
    /// What to measure; everything if nothing is named
    pub modes: Vec<Mode>,
    /// One round of short runs, 50 clients, 3-byte values, a tenth of the keys: a look, not a figure
    #[arg(long)]
    pub quick: bool,
    /// Tests of the throughput mode, by name, separated by commas
    #[arg(long, value_delimiter = ',')]
    pub tests: Vec<String>,
    /// Commands that a connection sends at a time [default: 1,16,64]
    #[arg(long, value_delimiter = ',', value_parser = positive)]
    pub pipelines: Vec<usize>,
    /// Connections [default: 50,500]
    #[arg(long, value_delimiter = ',', value_parser = positive)]
    pub clients: Vec<usize>,
    /// Bytes of a value [default: 3,1024]
    #[arg(long, value_delimiter = ',', value_parser = positive)]
    pub sizes: Vec<usize>,
    /// Runs of each server at each point, in turn [default: 3]
    #[arg(long)]
    pub rounds: Option<usize>,
    /// How long the faster server's run is meant to take [default: 1.2]
    #[arg(long)]
    pub seconds: Option<f64>,
    /// Keys of the modes tiers, restart and snapshot [default: 600000, 5000000, and a fifth of these]
    #[arg(long)]
    pub keys: Option<u64>,
    /// Cold stores of the tiers mode, separated by commas [default: all]
    #[arg(long, value_delimiter = ',')]
    pub stores: Vec<String>,
    /// Parts of the tiers mode that are measured, separated by commas, without what they are compared with [default: all]
    #[arg(long, value_delimiter = ',')]
    pub parts: Vec<TierPart>,
    /// Latency mode: the rate, as a share of what the slower server can do
    #[arg(long, default_value_t = 0.5)]
    pub load_share: f64,
    /// ashlar's binary; built in release mode if not given. A redis-server or valkey-server works too
    #[arg(long)]
    pub ashlar: Option<PathBuf>,
    /// A further argument for ashlar; can be repeated
    #[arg(long = "ashlar-arg", allow_hyphen_values = true)]
    pub ashlar_args: Vec<String>,
    /// What to compare with
    #[arg(long, default_value = "redis-server")]
    pub redis: PathBuf,
    /// memcached; left out if it is not there
    #[arg(long, default_value = "memcached")]
    pub memcached: PathBuf,
    /// memcached's worker threads
    #[arg(long, default_value_t = 1)]
    pub memcached_threads: usize,
    /// The load client of the throughput mode
    #[arg(long, default_value = "redis-benchmark")]
    pub redis_benchmark: PathBuf,
    /// Throughput mode: the same commands from a load client of its own, which is faster than redis-benchmark
    #[arg(long)]
    pub own_client: bool,
    /// Failover mode: how many leaders are killed [default: 100]
    #[arg(long, value_parser = positive)]
    pub kills: Option<usize>,
    /// Import mode: keys in the file [default: 5000000]
    #[arg(long)]
    pub import_keys: Option<u64>,
    /// Writes everything measured to this file
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// Draws charts into this directory
    #[arg(long)]
    pub svg: Option<PathBuf>,
    /// Writes the tables to this file, as Markdown
    #[arg(long)]
    pub markdown: Option<PathBuf>,
    /// Measures nothing: takes the figures of a file that --json wrote
    #[arg(long)]
    pub from: Option<PathBuf>,
}

/// What to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// redis-benchmark's tests against ashlar and redis-server
    Throughput,
    /// GET and SET against ashlar, redis-server and memcached
    Caches,
    /// Latency at the same request rate
    Latency,
    /// SET with each `appendfsync`, and without a log
    Durability,
    /// Bytes a key
    Memory,
    /// Data ten times as large as memory, in a cold tier; only if it is named
    Tiers,
    /// How long a start takes with data on disk; only if it is named
    Restart,
    /// What a snapshot costs those who write meanwhile; only if it is named
    Snapshot,
    /// What a replica costs, and how fast one catches up; only if it is named
    Replica,
    /// What keys cost that several sites write; only if it is named
    Sites,
    /// An RDB file loaded by redis-server and by ashlar; only if it is named
    Import,
    /// Strong keys on three nodes; only if it is named
    Cluster,
    /// Leaders of strong keys killed, one after the other; only if it is named
    Failover,
    /// Slots that move under load; only if it is named
    Moves,
    /// Strong keys next to etcd; only if it is named
    Etcd,
}

/// A part of the tiers mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TierPart {
    /// Reads by Zipf's distribution from 50 clients
    Zipf,
    /// Reads of any key from 4 clients
    Any,
    /// Reads of hot keys, quiet and beside reads of cold ones
    Hot,
}

/// What the measurements need to know.
#[derive(Debug)]
pub struct Settings {
    /// ashlar.
    pub ashlar: Program,
    /// redis-server.
    pub redis: Program,
    /// memcached, if it is there.
    pub memcached: Option<Program>,
    /// The load client.
    pub redis_benchmark: PathBuf,
    /// Whether the own one takes its place.
    pub own_client: bool,
    /// Commands that a connection sends at a time.
    pub pipelines: Vec<usize>,
    /// Connections.
    pub clients: Vec<usize>,
    /// Bytes of a value.
    pub sizes: Vec<usize>,
    /// Runs of each server at each point.
    pub rounds: usize,
    /// How long the faster server's run is meant to take.
    pub seconds: f64,
    /// The rate of the latency mode, as a share of what the slower server can do.
    pub load_share: f64,
    /// Keys of the memory mode, as a share of the full number.
    pub memory_scale: f64,
    /// Leaders that the failover mode kills.
    pub kills: usize,
    /// Keys that the import mode loads.
    pub import_keys: u64,
    /// Keys of the modes tiers, restart and snapshot, where they are given.
    pub keys: Option<u64>,
    /// Cold stores of the tiers mode; all of them if empty.
    pub stores: Vec<String>,
    /// Parts of the tiers mode; all of them if empty.
    pub parts: Vec<TierPart>,
}

impl Options {
    /// Whether `mode` is asked for.
    pub fn wants(&self, mode: Mode) -> bool {
        let on_request = [
            Mode::Tiers,
            Mode::Restart,
            Mode::Snapshot,
            Mode::Replica,
            Mode::Sites,
            Mode::Import,
            Mode::Cluster,
            Mode::Failover,
            Mode::Moves,
            Mode::Etcd,
        ];
        let by_default = self.modes.is_empty() && !on_request.contains(&mode);
        by_default || self.modes.contains(&mode)
    }

    /// Finds the programs, and builds ashlar if need be.
    pub fn settings(&self) -> Result<Settings, String> {
        let ashlar = match &self.ashlar {
            Some(file) => find(file)?,
            None => build()?,
        };
        let kind = if takes_redis_arguments(&ashlar) { Kind::Redis } else { Kind::Ashlar };
        let program = |name: &str, file, kind, args: &[String]| Program {
            name: name.to_owned(),
            file,
            kind,
            args: args.to_vec(),
        };
        let memcached = find(&self.memcached).ok().map(|file| {
            let args = ["-t".to_owned(), self.memcached_threads.to_string()];
            program("memcached", file, Kind::Memcached, &args)
        });
        let or = |given: &[usize], quick: &[usize], full: &[usize]| match (given, self.quick) {
            ([], true) => quick.to_vec(),
            ([], false) => full.to_vec(),
            _ => given.to_vec(),
        };
        let (seconds, rounds) = if self.quick { (0.3, 1) } else { (1.2, 3) };
        Ok(Settings {
            ashlar: program("ashlar", ashlar, kind, &self.ashlar_args),
            redis: program("redis-server", find(&self.redis)?, Kind::Redis, &[]),
            memcached,
            redis_benchmark: find(&self.redis_benchmark)?,
            own_client: self.own_client,
            pipelines: or(&self.pipelines, &[1, 16, 64], &[1, 16, 64]),
            clients: or(&self.clients, &[50], &[50, 500]),
            sizes: or(&self.sizes, &[3], &[3, 1024]),
            rounds: self.rounds.unwrap_or(rounds).max(1),
            seconds: self.seconds.unwrap_or(seconds).clamp(0.05, 60.0),
            load_share: self.load_share.clamp(0.01, 0.95),
            memory_scale: if self.quick { 0.1 } else { 1.0 },
            import_keys: self.import_keys.unwrap_or(if self.quick { 200_000 } else { 5_000_000 }),
            kills: self.kills.unwrap_or(if self.quick { 5 } else { 100 }),
            keys: self.keys,
            stores: self.stores.clone(),
            parts: self.parts.clone(),
        })
    }
}

fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number @ 1..=100_000) => Ok(number),
        _ => Err("a number from 1 to 100000".to_owned()),
    }
}

fn takes_redis_arguments(file: &Path) -> bool {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with("redis-server") || name.starts_with("valkey-server")
}

/// The absolute path of `program`, which is a path or a name in PATH.
fn find(program: &Path) -> Result<PathBuf, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut files: Vec<_> = std::env::split_paths(&path).map(|dir| dir.join(program)).collect();
    if program.components().count() > 1 {
        files = vec![program.to_path_buf()];
    }
    let file = files.into_iter().find(|file| file.is_file());
    let file = file.ok_or(format!("{}: not found; name its path", program.display()))?;
    file.canonicalize().map(|real| resolve(&file, real)).map_err(|error| error.to_string())
}

/// Debian's redis-server is a link to a program that looks at the name it was called by.
fn resolve(file: &Path, real: PathBuf) -> PathBuf {
    let same_name = file.file_name() == real.file_name();
    if same_name { real } else { std::path::absolute(file).unwrap_or(real) }
}

/// Builds ashlar with the profile `release`, which is also this program's: they lie side by side.
fn build() -> Result<PathBuf, String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args([
        "build",
        "--release",
        "--locked",
        "--package",
        "ashlar-server",
        "--bin",
        "ashlar",
    ]);
    command.current_dir(env!("CARGO_MANIFEST_DIR")).stdin(Stdio::null());
    let status = command.status().map_err(|error| format!("cargo: {error}"))?;
    if !status.success() {
        return Err("ashlar does not build; --ashlar FILE takes a binary that is there".to_owned());
    }
    let here = std::env::current_exe().map_err(|error| error.to_string())?;
    let release = here.parent().and_then(Path::parent).map(|target| target.join("release/ashlar"));
    let file = release.filter(|file| file.is_file());
    file.ok_or("the built ashlar is not beside this program; name it with --ashlar".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory;
        Options::command().debug_assert();
    }

    #[test]
    fn programs_are_found_by_name_and_path() {
        assert!(find(Path::new("sh")).unwrap().is_absolute());
        assert!(find(Path::new("/bin/sh")).is_ok());
        assert!(find(Path::new("no-such-program")).is_err());
    }
}
