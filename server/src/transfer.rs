//! `ashlar import` and `ashlar export`: RDB files into and out of a running server.
//!
//! ```text
//! file --cut into keys--> SET and RESTORE, pipelined --> server      one value in memory at a time
//! server --full copy, as to a replica--> file                        nothing in memory
//! ```
//! Both work with any server that speaks Redis's protocol.

use crate::replication::link::{Answer, Credentials, Extent, Link, UNKNOWN};
use crate::replication::socket::Socket;
use crate::tls::Arguments;
use ashlar_engine::propagate::push_request;
use ashlar_engine::rdb::{self, Entry, Reader, Record};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

/// Batches of commands that are sent before their replies are read.
const IN_FLIGHT_MAX: usize = 16;
/// Bytes of commands after which they are sent.
pub(crate) const SEND_BYTES: usize = 128 << 10;
/// How long the server may be silent.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(60);
/// How often progress is shown.
const PROGRESS: Duration = Duration::from_secs(1);
/// The number of a plain string's encoding.
const KIND_STRING: u8 = 0;
/// Longest string that is sent as SET: its bytes are there as they are.
const PLAIN_MAX: usize = 0x3FFF;

/// What the command line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The RDB file; `-` is standard input or output.
    pub file: PathBuf,
    /// The server's address.
    pub host: String,
    /// The server's port.
    pub port: u16,
    /// The user's name; empty for the default user.
    pub user: String,
    /// The password; empty for none.
    pub password: String,
    /// Whether and how the connection is encrypted.
    pub tls: Arguments,
    /// Whether keys that are there are replaced.
    pub replace: bool,
    /// Whether nothing is said on the way.
    pub quiet: bool,
    /// The directory of a server that does not run, in the place of a server.
    pub dir: Option<PathBuf>,
}

impl Options {
    /// Reads what follows `import` or `export` on the command line.
    ///
    /// # Errors
    /// What is wrong about it.
    pub fn parse(args: &[OsString]) -> Result<Options, String> {
        let mut options = Options {
            file: PathBuf::new(),
            host: "127.0.0.1".into(),
            port: 6379,
            user: String::new(),
            password: std::env::var("ASHLAR_PASSWORD").unwrap_or_default(),
            tls: Arguments::default(),
            replace: false,
            quiet: false,
            dir: None,
        };
        let mut words = args.iter();
        let mut file = None;
        while let Some(word) = words.next() {
            let name = word.to_string_lossy();
            let mut value = || {
                let value = words.next().ok_or_else(|| format!("'{name}' needs a value"))?;
                Ok::<String, String>(value.to_string_lossy().into_owned())
            };
            match word.as_bytes() {
                b"--host" | b"-h" => options.host = value()?,
                b"--port" | b"-p" => {
                    let port = value()?;
                    options.port = port.parse().map_err(|_| format!("'{port}' is no port"))?;
                }
                b"--user" => options.user = value()?,
                b"--password" | b"-a" => options.password = value()?,
                b"--dir" => options.dir = Some(PathBuf::from(value()?)),
                b"--replace" => options.replace = true,
                b"--quiet" => options.quiet = true,
                _ if options.tls.take(&name, &mut value)? => {}
                bytes if bytes.starts_with(b"-") && bytes.len() > 1 => {
                    return Err(format!("unknown option '{name}'"));
                }
                _ if file.is_some() => return Err("one file at a time".into()),
                _ => file = Some(PathBuf::from(word)),
            }
        }
        options.file = file.ok_or("name an RDB file")?;
        Ok(options)
    }

    fn connect(&self) -> io::Result<Link> {
        let explain = |error: io::Error| {
            let (host, port) = (&self.host, self.port);
            io::Error::new(error.kind(), format!("can't reach {host}:{port}: {error}"))
        };
        Link::for_command(&self.host, self.port, TIMEOUT, &self.tls).map_err(explain)
    }

    pub(crate) fn credentials(&self) -> Credentials {
        Credentials { user: self.user.clone(), password: self.password.clone() }
    }
}

/// What an import or export came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Keys.
    pub keys: u64,
    /// Keys that were there already and stayed as they were.
    pub kept: u64,
    /// Keys that had expired and were left out.
    pub expired: u64,
    /// Bytes of the file.
    pub bytes: u64,
}

/// Shows how far it is, on a line of standard error that is written over.
pub(crate) struct Progress {
    quiet: bool,
    total: u64,
    start: Instant,
    shown: Instant,
}

impl Progress {
    pub fn new(quiet: bool, total: u64) -> Progress {
        Progress { quiet, total, start: Instant::now(), shown: Instant::now() }
    }

    pub fn show(&mut self, outcome: &Outcome, last: bool) {
        if self.quiet || (!last && self.shown.elapsed() < PROGRESS) {
            return;
        }
        self.shown = Instant::now();
        let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let seconds = self.start.elapsed().as_secs_f64();
        let percent = match self.total {
            0 => String::new(),
            total => format!("{:.0} %, ", outcome.bytes as f64 * 100.0 / total as f64),
        };
        let end = if last { "\n" } else { "" };
        eprint!(
            "\r{percent}{} keys, {:.1} MiB in {seconds:.1} s{end}",
            outcome.keys,
            mebibytes(outcome.bytes)
        );
    }
}

/// What was sent, by the order of the replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    /// A command that must succeed.
    Command(&'static str),
    /// A key that may be there already: where its name ends in the batch's.
    Key(usize),
}

/// What was sent at a time. The thread of the replies is told of it once, and not of each key: that would
/// cost more than to send the key.
#[derive(Debug, Default)]
struct Batch {
    sent: Vec<Sent>,
    /// The names of its keys, one after the other; of none where all are replaced.
    names: Vec<u8>,
}

/// Sends a file's keys to a server. Keys that are there already stay unless `replace` is set.
///
/// # Errors
/// If the file or the connection fails or the server refuses a key; keys before it are there.
pub fn import(options: &Options) -> io::Result<Outcome> {
    if let Some(dir) = &options.dir {
        return crate::import_dir::import(options, dir);
    }
    let (from, total): (Box<dyn Read>, u64) = match options.file.as_os_str().as_bytes() {
        b"-" => (Box::new(io::stdin().lock()), 0),
        _ => {
            let explain = |error: io::Error| {
                let file = options.file.display();
                io::Error::new(error.kind(), format!("can't read {file}: {error}"))
            };
            let file = File::open(&options.file).map_err(explain)?;
            let total = file.metadata()?.len();
            (Box::new(file), total)
        }
    };
    let reader = Reader::new(from).map_err(io::Error::other)?;
    let mut link = options.connect()?;
    let credentials = options.credentials();
    link.log_in(&credentials)?;
    if let Some(listed) = crate::import_cluster::nodes(&mut link)? {
        return crate::import_cluster::import(options, reader, total, link, &listed);
    }
    let replies = link.stream().try_clone()?;
    let (queue, sent) = sync_channel(IN_FLIGHT_MAX);
    let checker = std::thread::Builder::new().name("replies".into());
    let checker = checker.spawn(move || check_replies(replies, &sent))?;
    let (out, payload, batch) = (Vec::new(), Vec::new(), Batch::default());
    let mut import = Import { link: &mut link, queue, out, payload, batch, options };
    let result = hand_on(reader, total, options.quiet, &mut import);
    // Also where the file is damaged: what comes before is to be answered.
    let result = import.flush().and(result);
    drop(import);
    // What the server refused says more than that the connection ended.
    let kept = checker.join().map_err(|_| io::Error::other("the thread of the replies failed"))?;
    let (kept, outcome) = match (kept, result) {
        (Err(error), _) | (Ok(_), Err(error)) => return Err(error),
        (Ok(kept), Ok(outcome)) => (kept, outcome),
    };
    Ok(Outcome { kept, keys: outcome.keys - kept, ..outcome })
}

struct Import<'a> {
    link: &'a mut Link,
    queue: SyncSender<Batch>,
    out: Vec<u8>,
    /// A value on its way to `out`.
    payload: Vec<u8>,
    /// What `out` holds.
    batch: Batch,
    options: &'a Options,
}

/// Where the records of a file go.
pub(crate) trait Target {
    /// The keys that follow are of this database.
    fn database(&mut self, db: u64) -> io::Result<()>;
    /// A library of functions.
    fn library(&mut self, code: &[u8]) -> io::Result<()>;
    /// A key that has not expired.
    fn key(&mut self, entry: &Entry<'_>) -> io::Result<()>;
}

/// Hands all records of a file on, and shows how far it is.
pub(crate) fn hand_on<R: Read>(
    mut reader: Reader<R>,
    total: u64,
    quiet: bool,
    target: &mut impl Target,
) -> io::Result<Outcome> {
    let (mut progress, mut outcome) = (Progress::new(quiet, total), Outcome::default());
    let mut nth = 0u32;
    while let Some(record) = reader.next_record().map_err(io::Error::other)? {
        match record {
            Record::Aux(..) | Record::Sizes(..) => {}
            Record::Db(db) => target.database(db)?,
            Record::ModuleAux(name) => eprintln!("data of the module {name} is left out"),
            Record::Function(code) => target.library(&code)?,
            Record::Entry(entry) if entry.has_expired(crate::clock::now_ms()) => {
                outcome.expired += 1;
            }
            Record::Entry(entry) => {
                target.key(&entry)?;
                outcome.keys += 1;
            }
        }
        nth = nth.wrapping_add(1);
        if nth.is_multiple_of(1024) {
            outcome.bytes = reader.position();
            progress.show(&outcome, false);
        }
    }
    outcome.bytes = reader.position();
    progress.show(&outcome, true);
    Ok(outcome)
}

impl Target for Import<'_> {
    fn database(&mut self, db: u64) -> io::Result<()> {
        self.push("SELECT", &[b"SELECT", db.to_string().as_bytes()])
    }

    fn library(&mut self, code: &[u8]) -> io::Result<()> {
        let policy: &[u8] = if self.options.replace { b"REPLACE" } else { b"" };
        let args = [b"FUNCTION", &b"LOAD"[..], policy, code];
        let args: Vec<&[u8]> = args.into_iter().filter(|arg| !arg.is_empty()).collect();
        self.push("FUNCTION LOAD", &args)
    }

    fn key(&mut self, entry: &Entry<'_>) -> io::Result<()> {
        if !self.options.replace {
            self.batch.names.extend_from_slice(entry.key);
        }
        let sent = Sent::Key(self.batch.names.len());
        push_key(entry, self.options.replace, &mut self.payload, &mut self.out);
        self.queued(sent)
    }
}

impl Import<'_> {
    fn push(&mut self, name: &'static str, args: &[&[u8]]) -> io::Result<()> {
        self.send(Sent::Command(name), args)
    }

    fn send(&mut self, sent: Sent, args: &[&[u8]]) -> io::Result<()> {
        push_request(args, &mut self.out);
        self.queued(sent)
    }

    /// Something was put into the buffer.
    fn queued(&mut self, sent: Sent) -> io::Result<()> {
        self.batch.sent.push(sent);
        if self.out.len() >= SEND_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        // All before it is on its way, so its turn comes.
        let ended = |_| io::Error::from(io::ErrorKind::ConnectionAborted);
        self.queue.send(std::mem::take(&mut self.batch)).map_err(ended)?;
        self.link.stream_mut().write_all(&self.out)?;
        self.out.clear();
        self.out.shrink_to(2 * SEND_BYTES);
        Ok(())
    }
}

/// Appends the command that makes a key, which stays as it is where it is there already unless `replace` is set.
pub(crate) fn push_key(entry: &Entry<'_>, replace: bool, payload: &mut Vec<u8>, out: &mut Vec<u8>) {
    let at_ms = entry.expiry_ms.unwrap_or(0).to_string();
    if let Some(string) = plain_string(entry) {
        let mut args: Vec<&[u8]> = vec![b"SET", entry.key, string];
        if entry.expiry_ms.is_some() {
            args.extend([b"PXAT", at_ms.as_bytes()]);
        }
        if !replace {
            args.push(b"NX");
        }
        return push_request(&args, out);
    }
    payload.clear();
    payload.push(entry.kind);
    payload.extend_from_slice(entry.body);
    rdb::seal(payload);
    let mut args: Vec<&[u8]> = vec![b"RESTORE", entry.key, at_ms.as_bytes(), payload];
    if entry.expiry_ms.is_some() {
        args.push(b"ABSTTL");
    }
    if replace {
        args.push(b"REPLACE");
    }
    push_request(&args, out);
}

/// The bytes of a string that is stored as it is.
fn plain_string<'a>(entry: &Entry<'a>) -> Option<&'a [u8]> {
    if entry.kind != KIND_STRING || entry.idle_seconds.is_some() || entry.frequency.is_some() {
        return None;
    }
    let (&first, rest) = entry.body.split_first()?;
    match first >> 6 {
        0 => Some(rest),
        1 => rest.get(1..).filter(|string| string.len() <= PLAIN_MAX),
        _ => None,
    }
}

/// Reads a reply for each that was sent; returns how many keys were there already.
fn check_replies(mut stream: Socket, sent: &Receiver<Batch>) -> io::Result<u64> {
    let result = check(&mut stream, sent);
    if result.is_err() {
        // Whoever sends has to stop.
        stream.shutdown();
    }
    result
}

fn check(stream: &mut Socket, sent: &Receiver<Batch>) -> io::Result<u64> {
    let mut kept = 0;
    let mut stream = BufReader::with_capacity(64 << 10, stream);
    let mut line = Vec::new();
    for batch in sent {
        let mut name_start = 0;
        for sent in batch.sent {
            if stream.fill_buf()?.starts_with(b"+OK\r\n") {
                stream.consume(5);
            } else {
                next_line(&mut stream, &mut line)?;
                let name = match sent {
                    Sent::Key(end) => batch.names.get(name_start..end).unwrap_or_default(),
                    Sent::Command(name) => name.as_bytes(),
                };
                kept += u64::from(!is_done(sent, name, &line)?);
                if matches!(sent, Sent::Command(_)) && line.starts_with(b"$") {
                    // The name of the library.
                    next_line(&mut stream, &mut line)?;
                }
            }
            if let Sent::Key(end) = sent {
                name_start = end;
            }
        }
    }
    Ok(kept)
}

/// Whether a reply says that something was done; not where a key was there already.
fn is_done(sent: Sent, name: &[u8], line: &[u8]) -> io::Result<bool> {
    match (sent, line) {
        (_, b"+OK") => Ok(true),
        (Sent::Key(_), b"$-1" | b"_") => Ok(false),
        (Sent::Key(_), line) if line.starts_with(b"-BUSYKEY") => Ok(false),
        (Sent::Key(_), line) => {
            let (key, line) = (String::from_utf8_lossy(name), String::from_utf8_lossy(line));
            Err(io::Error::other(format!("the key {key:?} is refused: {line}")))
        }
        (Sent::Command(_), line) if !line.starts_with(b"-") => Ok(true),
        (Sent::Command(name), line) => {
            let line = String::from_utf8_lossy(line);
            Err(io::Error::other(format!("{name} is refused: {line}")))
        }
    }
}

pub(crate) fn next_line(stream: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<()> {
    line.clear();
    stream.read_until(b'\n', line)?;
    match line.strip_suffix(b"\r\n") {
        Some(text) => {
            line.truncate(text.len());
            Ok(())
        }
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Writes all keys of a server, as they are at one moment, to a file.
///
/// # Errors
/// If the connection or the file fails or the server refuses; no file is left then.
pub fn export(options: &Options) -> io::Result<Outcome> {
    if options.dir.is_some() {
        return Err(io::Error::other("export is from a running server: --dir is for import"));
    }
    let mut link = options.connect()?;
    link.introduce(&options.credentials(), 0)?;
    if !matches!(link.ask(UNKNOWN, -1)?, Answer::Full(..)) {
        return Err(io::Error::other("the server sends no copy of its keys"));
    }
    let extent = link.extent()?;
    if options.file.as_os_str().as_bytes() == b"-" {
        return receive(&mut link, &extent, &mut io::stdout().lock(), options.quiet);
    }
    let mut name = options.file.clone().into_os_string();
    name.push(".part");
    let part = PathBuf::from(name);
    let result = File::create(&part).and_then(|mut file| {
        let outcome = receive(&mut link, &extent, &mut file, options.quiet)?;
        file.sync_all()?;
        std::fs::rename(&part, &options.file)?;
        Ok(outcome)
    });
    if result.is_err() {
        // What was not received whole is of no use.
        drop(std::fs::remove_file(&part));
    }
    result
}

fn receive(
    link: &mut Link,
    extent: &Extent,
    out: &mut impl Write,
    quiet: bool,
) -> io::Result<Outcome> {
    let (left, mark) = match extent {
        Extent::Bytes(len) => (*len, &b""[..]),
        Extent::Mark(mark) => (u64::MAX, &mark[..]),
    };
    let mut progress = Progress::new(quiet, if mark.is_empty() { left } else { 0 });
    let mut outcome = Outcome::default();
    // The last bytes may be the mark, which is no part of the file.
    let (mut held, mut buf) = (Vec::new(), vec![0; 256 << 10]);
    while outcome.bytes < left {
        let most = usize::try_from(left - outcome.bytes).unwrap_or(usize::MAX).min(buf.len());
        let got = match link.read(&mut buf[..most]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(got) => got,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        held.extend_from_slice(&buf[..got]);
        if !mark.is_empty() && held.ends_with(mark) {
            held.truncate(held.len() - mark.len());
            out.write_all(&held)?;
            outcome.bytes += held.len() as u64;
            break;
        }
        let sure = held.len().saturating_sub(mark.len());
        out.write_all(&held[..sure])?;
        held.drain(..sure);
        outcome.bytes += sure as u64;
        progress.show(&outcome, false);
    }
    out.flush()?;
    progress.show(&outcome, true);
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, String> {
        Options::parse(&line.split_whitespace().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn the_forms_of_the_command_line() {
        let options = parse("a.rdb --host db -p 7000 --user u -a pw --replace --quiet").unwrap();
        assert_eq!((options.host.as_str(), options.port), ("db", 7000));
        assert_eq!((options.user.as_str(), options.password.as_str()), ("u", "pw"));
        assert!(options.replace && options.quiet && options.file == std::path::Path::new("a.rdb"));
        assert_eq!(parse("-").unwrap().file, PathBuf::from("-"));
        for wrong in ["", "a b", "a --port x", "a --port", "a --other"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
