//! The command line of `ashlar`, and what it says at start.
//!
//! ```text
//! ashlar [server] [redis.conf] [--setting value ...] [-]     ashlar check-config FILE
//! ashlar check DIR [--repair]
//! ashlar import FILE [--host H] [--port P] ...     ashlar export FILE ...
//! ashlar cluster create|add-node|remove-node|rebalance|status ...
//! ashlar --version | --help | --print-config-docs | --print-command-docs
//! ```

use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use ashlar_engine::disk::RealDisk;
use ashlar_engine::{log, storage};

use crate::config::{CONFIG_BYTES_MAX, ConfigError, Settings, Source, ids, load};
use crate::info::{ASHLAR_VERSION, REDIS_VERSION};
use crate::transfer::{self, Options, Outcome};
use crate::{cluster, command_docs, config_docs};

/// Tells a process that it was started in the background by `daemonize`.
const DETACHED: &str = "ASHLAR_DETACHED";

const USAGE: &str = "\
Usage: ashlar [server] [redis.conf] [--setting value ...] [-]
       ashlar check-config FILE    say what is wrong with a configuration, start nothing
       ashlar check DIR [--repair] say what a data directory holds and what of it is damaged;
                                   --repair drops everything from the damage on
       ashlar import FILE.rdb      load an RDB file into a running server
       ashlar export FILE.rdb      write all keys of a running server to an RDB file
                                   [--host HOST] [--port PORT] [--user USER] [--password PASSWORD]
                                   [--tls --cacert FILE [--cert FILE --key FILE]]
                                   [--quiet]; import: [--replace] keys that are there already,
                                   [--dir DIR] into the empty directory of a server that
                                   does not run
                                   (a password is better given as ASHLAR_PASSWORD=...)
       ashlar cluster create HOST:PORT ...    make a cluster of nodes; also add-node, remove-node,
                                   rebalance, status: see ashlar cluster --help
       ashlar --version
       ashlar --help
       ashlar --print-config-docs  all settings as Markdown
       ashlar --print-command-docs all commands as Markdown

Settings are those of redis.conf. A later one wins: the file, then standard input (-), then the
command line.

Examples:
       ashlar                                   the defaults, on port 6379
       ashlar /etc/ashlar.conf --port 7000
       ashlar --maxmemory 2gb --maxmemory-policy allkeys-lru
       echo 'maxmemory 128mb' | ashlar -
";

/// What the command line asks for.
#[derive(Debug)]
pub enum Start {
    /// Run the server with these settings.
    Run(Box<Settings>),
    /// Everything is done; leave with this code.
    Done(ExitCode),
}

/// What the words of the command line mean.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Request {
    Serve { file: Option<PathBuf>, stdin: bool, flags: Vec<Vec<u8>> },
    Check(PathBuf),
    CheckData { dir: PathBuf, repair: bool },
    Version,
    Help,
    ConfigDocs,
    CommandDocs,
    Import(Vec<OsString>),
    Export(Vec<OsString>),
    Cluster(Vec<OsString>),
    ClusterHelp,
    Wrong(String),
}

/// Reads the command line (without the program's name), does what needs no server and otherwise
/// returns the settings to run with. Prints errors itself.
pub fn start(args: impl IntoIterator<Item = OsString>) -> Start {
    let args: Vec<OsString> = args.into_iter().collect();
    match request(&args) {
        Request::Version => done(&version()),
        Request::Help => done(&format!("{USAGE}\n{}", config_docs::help())),
        Request::ConfigDocs => done(&config_docs::markdown()),
        Request::CommandDocs => done(&command_docs::markdown()),
        Request::Check(file) => check(file),
        Request::CheckData { dir, repair } => check_data(&dir, repair),
        Request::Import(args) => transfer(&args, transfer::import, "imported"),
        Request::Export(args) => transfer(&args, transfer::export, "exported"),
        Request::Cluster(args) => manage(&args),
        Request::ClusterHelp => done(cluster::cli::USAGE),
        Request::Wrong(message) => {
            eprintln!("ashlar: {message}\nTry: ashlar --help");
            Start::Done(ExitCode::from(2))
        }
        Request::Serve { file, stdin, flags } => serve(file, stdin, flags, &args),
    }
}

fn done(text: &str) -> Start {
    // A reader that has gone away (`ashlar --help | head`) is no reason to fail.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Start::Done(ExitCode::SUCCESS)
}

fn version() -> String {
    format!("ashlar {ASHLAR_VERSION} (compatible with Redis {REDIS_VERSION})\n")
}

fn request(args: &[OsString]) -> Request {
    let words: Vec<&[u8]> = args.iter().map(|arg| arg.as_bytes()).collect();
    match words.as_slice() {
        [b"-v" | b"--version"] => return Request::Version,
        [b"-h" | b"--help" | b"help"] => return Request::Help,
        [b"--print-config-docs"] => return Request::ConfigDocs,
        [b"--print-command-docs"] => return Request::CommandDocs,
        [b"check-config", file] => return Request::Check(path(file)),
        [b"check", dir] => return Request::CheckData { dir: path(dir), repair: false },
        [b"check", dir, b"--repair"] | [b"check", b"--repair", dir] => {
            return Request::CheckData { dir: path(dir), repair: true };
        }
        [b"check", ..] => return Request::Wrong("check takes one directory".into()),
        [b"import", ..] => return Request::Import(args[1..].to_vec()),
        [b"export", ..] => return Request::Export(args[1..].to_vec()),
        [b"cluster"] | [b"cluster", b"-h" | b"--help" | b"help"] => return Request::ClusterHelp,
        [b"cluster", ..] => return Request::Cluster(args[1..].to_vec()),
        [b"check-config", ..] => return Request::Wrong("check-config takes one file".into()),
        _ => {}
    }
    let words = words.strip_prefix(&[&b"server"[..]]).unwrap_or(&words);
    let (file, rest) = match words.split_first() {
        Some((first, rest)) if *first != b"-" && !first.starts_with(b"--") => (Some(*first), rest),
        _ => (None, words),
    };
    if let Some(option) = file.filter(|file| file.starts_with(b"-")) {
        let option = String::from_utf8_lossy(option);
        return Request::Wrong(format!("unknown option '{option}'"));
    }
    if matches!(rest.first(), Some(&b"--test-memory" | &b"--check-system" | &b"--sentinel")) {
        let option = String::from_utf8_lossy(rest.first().unwrap_or(&&b""[..])).into_owned();
        return Request::Wrong(format!("'{option}' of redis-server does not exist here"));
    }
    // `-` stands before or after the settings, but is a value right after a `--setting`.
    let (stdin, flags) = match rest {
        [b"-", flags @ ..] => (true, flags),
        [.., before, b"-"] if !before.starts_with(b"--") => {
            (true, rest.get(..rest.len() - 1).unwrap_or(rest))
        }
        flags => (false, flags),
    };
    Request::Serve {
        file: file.map(path),
        stdin,
        flags: flags.iter().map(|flag| flag.to_vec()).collect(),
    }
}

fn path(word: &[u8]) -> PathBuf {
    PathBuf::from(OsString::from_vec(word.to_vec()))
}

fn complain(errors: &[ConfigError]) {
    for error in errors {
        eprintln!("ashlar: {error}");
    }
}

/// Imports or exports and says what came of it.
fn transfer(args: &[OsString], run: fn(&Options) -> std::io::Result<Outcome>, done: &str) -> Start {
    let options = match Options::parse(args) {
        Ok(options) => options,
        Err(message) => {
            eprintln!("ashlar: {message}\nTry: ashlar --help");
            return Start::Done(ExitCode::from(2));
        }
    };
    match run(&options) {
        Ok(Outcome { keys, kept, expired, bytes }) => {
            if !options.quiet {
                let mut text = format!("{done}: {bytes} bytes");
                for (count, what) in
                    [(keys, "keys"), (kept, "kept as they were"), (expired, "had expired")]
                {
                    if count > 0 {
                        text.push_str(&format!(", {count} {what}"));
                    }
                }
                eprintln!("{text}");
            }
            Start::Done(ExitCode::SUCCESS)
        }
        Err(error) => {
            eprintln!("ashlar: {error}");
            Start::Done(ExitCode::FAILURE)
        }
    }
}

/// `ashlar cluster`
fn manage(args: &[OsString]) -> Start {
    let options = match cluster::cli::Options::parse(args) {
        Ok(options) => options,
        Err(message) => {
            eprintln!("ashlar: {message}\n{}", cluster::cli::USAGE);
            return Start::Done(ExitCode::from(2));
        }
    };
    match cluster::cli::run(&options) {
        Ok(text) => done(&format!("{}\n", text.trim_end())),
        Err(error) => {
            eprintln!("ashlar: {error}");
            Start::Done(ExitCode::FAILURE)
        }
    }
}

fn check(file: PathBuf) -> Start {
    let shown = file.display().to_string();
    match load(&[Source::File(file)]) {
        Err(errors) => {
            complain(&errors);
            Start::Done(ExitCode::FAILURE)
        }
        Ok(settings) => done(&format!("{shown}: correct\n{}", differences(&settings))),
    }
}

/// `ashlar check`: `dir` is a data directory, or one that holds it.
fn check_data(dir: &Path, repair: bool) -> Start {
    let inner = dir.join(storage::DIRECTORY);
    let dir = if inner.is_dir() { inner } else { dir.to_path_buf() };
    let fail = |error: &dyn std::fmt::Display| {
        eprintln!("ashlar: {error}");
        Start::Done(ExitCode::FAILURE)
    };
    let log_dir = storage::log_dir(&dir);
    if !log_dir.is_dir() {
        return fail(&format_args!("{} is no data directory: it has no log", dir.display()));
    }
    // A running server writes meanwhile: what it has just begun would look torn.
    let _lock = match storage::lock(&RealDisk, &dir) {
        Ok(lock) => lock,
        Err(error) => return fail(&error),
    };
    match storage::is_log_baseless(&RealDisk, &dir) {
        Err(error) => return fail(&error),
        Ok(false) => {}
        Ok(true) => {
            let text = "log-begins is there: the log was being turned on, and the snapshot that it \
                        begins with was not durable yet; the next start loads the newest snapshot \
                        and drops this log\n";
            let _ = std::io::stdout().write_all(text.as_bytes());
            return Start::Done(ExitCode::SUCCESS);
        }
    }
    // A snapshot has what the log has let go.
    let floor = match storage::newest_snapshot(&RealDisk, &dir) {
        Ok(floor) => floor,
        Err(error) => return fail(&error),
    };
    let report = match repair {
        true => log::check::repair(&RealDisk, &log_dir, floor),
        false => log::check::check(&RealDisk, &log_dir, floor),
    };
    match report {
        Err(error) => fail(&error),
        Ok(report) => {
            let _ = std::io::stdout().write_all((report.lines.join("\n") + "\n").as_bytes());
            Start::Done(if report.is_whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
    }
}

fn serve(file: Option<PathBuf>, stdin: bool, flags: Vec<Vec<u8>>, args: &[OsString]) -> Start {
    let mut sources: Vec<Source> = file.map(Source::File).into_iter().collect();
    let mut piped = Vec::new();
    if stdin {
        let limited = std::io::stdin().lock().take(CONFIG_BYTES_MAX).read_to_end(&mut piped);
        if let Err(error) = limited {
            eprintln!("ashlar: can't read the configuration from standard input: {error}");
            return Start::Done(ExitCode::FAILURE);
        }
        sources.push(Source::Text("standard input", piped.clone()));
    }
    sources.push(Source::Flags(flags));
    let settings = match load(&sources) {
        Ok(settings) => settings,
        Err(errors) => {
            complain(&errors);
            eprintln!("ashlar: not started");
            return Start::Done(ExitCode::FAILURE);
        }
    };
    if std::env::var_os(DETACHED).is_some() {
        // The process that was started from a shell leaves the shell's session, so that it does
        // not end with it. It only fails for a process that leads a group already.
        let _ = rustix::process::setsid();
    } else if settings.flag(ids::DAEMONIZE) {
        return to_background(args, &piped);
    }
    if let Err(error) = std::env::set_current_dir(settings.string(ids::DIR)) {
        eprintln!("ashlar: can't change to '{}': {error}", settings.string(ids::DIR));
        return Start::Done(ExitCode::FAILURE);
    }
    Start::Run(Box::new(settings))
}

/// Starts this program once more, away from the terminal, and leaves.
fn to_background(args: &[OsString], piped: &[u8]) -> Start {
    let started = std::env::current_exe().and_then(|program| {
        let mut child = Command::new(program)
            .args(args)
            .env(DETACHED, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(piped))
    });
    match started {
        Ok(()) => Start::Done(ExitCode::SUCCESS),
        Err(error) => {
            eprintln!("ashlar: can't start in the background: {error}");
            Start::Done(ExitCode::FAILURE)
        }
    }
}

/// What the server says when it has started.
pub fn banner(settings: &Settings) -> String {
    let workers = settings.number(ids::IO_THREADS);
    let plural = if workers == 1 { "" } else { "s" };
    let socket = settings.string(ids::UNIXSOCKET);
    let socket = if socket.is_empty() { socket } else { format!(", socket {socket}") };
    format!(
        "ashlar {ASHLAR_VERSION} (compatible with Redis {REDIS_VERSION}) on port {}{socket}, pid \
         {}, {workers} worker{plural}\n{}",
        settings.number(ids::PORT),
        std::process::id(),
        differences(settings)
    )
}

fn differences(settings: &Settings) -> String {
    let changed = settings.changed();
    if changed.is_empty() {
        return "all settings have their defaults\n".into();
    }
    let lines = changed.iter().map(|(name, value)| format!("  {name} {value}\n"));
    format!("settings that differ from their defaults:\n{}", lines.collect::<String>())
}

/// Why the server can't listen on an address, and what to do.
pub fn listen_error(address: &str, error: &std::io::Error) -> String {
    use std::io::ErrorKind;
    let what = match error.kind() {
        ErrorKind::AddrInUse => {
            "the port is taken by another program; stop it, or choose another with --port"
        }
        ErrorKind::PermissionDenied => "not permitted; ports below 1024 need privileges",
        ErrorKind::AddrNotAvailable => "this machine does not have the address; see --bind",
        _ => return format!("can't listen on {address}: {error}"),
    };
    format!("can't listen on {address}: {what}")
}

/// Writes the process id into `pidfile`, if one is set.
///
/// # Errors
/// If the file can't be written; the server can run without.
pub fn write_pid_file(settings: &Settings) -> std::io::Result<()> {
    let file = settings.string(ids::PIDFILE);
    if file.is_empty() {
        return Ok(());
    }
    std::fs::write(file, format!("{}\n", std::process::id()))
}

/// Removes `pidfile` again; to be called when the server ends.
pub fn remove_pid_file(settings: &Settings) {
    let file = settings.string(ids::PIDFILE);
    if !file.is_empty() {
        // Another run overwrites what is left behind.
        let _ = std::fs::remove_file(file);
    }
}

/// Tells systemd (`supervised systemd` or `auto`) that the server answers.
///
/// # Errors
/// If the supervisor's socket can't be reached; the server can run without.
pub fn notify_ready(settings: &Settings) -> std::io::Result<()> {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};
    let supervised = settings.show(ids::SUPERVISED);
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else { return Ok(()) };
    if !matches!(supervised.as_slice(), b"systemd" | b"auto") {
        return Ok(());
    }
    let address = match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(&socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(b"READY=1\n", &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Request {
        request(&line.split_whitespace().map(OsString::from).collect::<Vec<_>>())
    }

    fn serve(file: Option<&str>, stdin: bool, flags: &str) -> Request {
        let flags = flags.split_whitespace().map(|flag| flag.as_bytes().to_vec()).collect();
        Request::Serve { file: file.map(PathBuf::from), stdin, flags }
    }

    #[test]
    fn the_forms_of_the_command_line() {
        assert_eq!(parse(""), serve(None, false, ""));
        assert_eq!(parse("server"), serve(None, false, ""));
        assert_eq!(parse("a.conf --port 1"), serve(Some("a.conf"), false, "--port 1"));
        assert_eq!(parse("server a.conf"), serve(Some("a.conf"), false, ""));
        assert_eq!(parse("--port 1 --save 60 1"), serve(None, false, "--port 1 --save 60 1"));
        assert_eq!(parse("-"), serve(None, true, ""));
        assert_eq!(parse("a.conf - --port 1"), serve(Some("a.conf"), true, "--port 1"));
        assert_eq!(parse("a.conf --port 1 -"), serve(Some("a.conf"), true, "--port 1"));
        assert_eq!(parse("--requirepass -"), serve(None, false, "--requirepass -"));
        assert_eq!(parse("check-config x"), Request::Check("x".into()));
        assert_eq!((parse("--version"), parse("-h")), (Request::Version, Request::Help));
        let data = |repair| Request::CheckData { dir: "x".into(), repair };
        assert_eq!((parse("check x"), parse("check x --repair")), (data(false), data(true)));
        for wrong in ["-x", "check", "check-config", "--sentinel", "--test-memory 3"] {
            assert!(matches!(parse(wrong), Request::Wrong(_)), "{wrong}");
        }
    }

    #[test]
    fn the_banner_names_what_differs() {
        let flags = ["--port", "7000", "--requirepass", "pw", "--io-threads", "1"];
        let flags = flags.map(|flag| flag.as_bytes().to_vec()).to_vec();
        let banner = banner(&load(&[Source::Flags(flags)]).unwrap());
        assert!(banner.contains("on port 7000, pid "), "{banner}");
        assert!(banner.contains("1 worker\n") && banner.contains("  port 7000\n"), "{banner}");
        assert!(banner.contains("  requirepass (redacted)\n") && !banner.contains("pw"));
    }

    #[test]
    fn a_taken_port_is_explained() {
        let taken = std::io::Error::from(std::io::ErrorKind::AddrInUse);
        assert!(listen_error("127.0.0.1:6379", &taken).contains("taken by another program"));
    }
}
