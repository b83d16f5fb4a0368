//! Real servers for tests: started on a free port, killed when they go out of scope.

use crate::resp::{Client, Value};
use std::cell::RefCell;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How often a start is tried, each time on another port.
const START_ATTEMPTS: usize = 5;
/// How long a server may take until it answers PING.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a server may take to stop when it is asked to.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// A program that is started in ashlar's place.
#[derive(Clone)]
struct Instead {
    program: PathBuf,
    variables: Vec<(String, String)>,
}

thread_local! {
    /// What this thread starts in ashlar's place.
    static INSTEAD: RefCell<Option<Instead>> = const { RefCell::new(None) };
}

/// Does something for which [`Server::ashlar`], on this thread, starts another program, with these
/// variables.
pub fn with_faults<T>(program: &Path, variables: &[(&str, &str)], work: impl FnOnce() -> T) -> T {
    let owned = variables.iter().map(|(name, value)| ((*name).into(), (*value).into()));
    INSTEAD.set(Some(Instead { program: program.to_owned(), variables: owned.collect() }));
    let result = work();
    INSTEAD.set(None);
    result
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    child: Child,
    port: u16,
    dir: PathBuf,
}

impl Server {
    /// Starts the redis-server of this machine, without persistence.
    pub fn redis(settings: &[&str]) -> Server {
        let program = std::env::var_os("ASHLAR_REDIS_SERVER").unwrap_or("redis-server".into());
        Server::start(&program, &[&["--save", "", "--daemonize", "no"], settings].concat())
    }

    /// Starts ashlar as this workspace builds it, without snapshots unless `settings` ask for them.
    pub fn ashlar(settings: &[&str]) -> Server {
        // A configuration file comes before all flags.
        let file = usize::from(settings.first().is_some_and(|first| !first.starts_with("--")));
        let (file, flags) = settings.split_at(file);
        let instead = INSTEAD.with_borrow(Option::clone);
        let program = instead.map_or_else(ashlar_binary, |instead| instead.program);
        Server::start(&program.into(), &[&["server"], file, &["--save", ""], flags].concat())
    }

    /// The server under test: ashlar, or with `ASHLAR_SUBJECT=redis` a redis-server, which tells
    /// whether a failing test is wrong or ashlar is.
    pub fn subject(settings: &[&str]) -> Server {
        match std::env::var("ASHLAR_SUBJECT").as_deref() {
            Ok("redis") => Server::redis(settings),
            _ => Server::ashlar(settings),
        }
    }

    fn start(program: &OsString, args: &[&str]) -> Server {
        let mut failures = String::new();
        for _ in 0..START_ATTEMPTS {
            match Server::try_start(program, args) {
                Ok(server) => return server,
                Err(error) => failures.push_str(&format!("{error}\n")),
            }
        }
        panic!(
            "{} does not start; `cargo xtask test` installs what the tests need\n{failures}",
            program.to_string_lossy()
        );
    }

    fn try_start(program: &OsString, args: &[&str]) -> io::Result<Server> {
        let dir = temporary_dir()?;
        let started = Server::start_in(program, args, dir.clone());
        started.inspect_err(|_| drop(fs::remove_dir_all(&dir)))
    }

    /// Starts ashlar once more on the directory of this server, which is killed if it still runs.
    pub fn restart(&mut self, settings: &[&str]) {
        let _ = self.child.kill();
        self.reap();
        let program = ashlar_binary().into();
        let args = [&["server"], settings].concat();
        let mut failures = String::new();
        for _ in 0..START_ATTEMPTS {
            match Server::start_in(&program, &args, self.dir.clone()) {
                Ok(mut next) => {
                    std::mem::swap(&mut self.child, &mut next.child);
                    std::mem::swap(&mut self.port, &mut next.port);
                    // The directory goes on; what is dropped is the process that has ended.
                    next.dir = PathBuf::new();
                    return;
                }
                Err(error) => failures.push_str(&format!("{error}\n")),
            }
        }
        panic!("the server does not start again:\n{failures}");
    }

    /// Waits for the end of the process.
    pub fn reap(&mut self) {
        let _ = self.child.wait();
    }

    /// Starts ashlar on this port and in this directory, which goes with the server in the end.
    ///
    /// # Errors
    /// If it does not start, with its log.
    pub fn ashlar_at(port: u16, dir: PathBuf, settings: &[&str]) -> io::Result<Server> {
        Server::program_at(&ashlar_binary(), port, dir, settings)
    }

    /// The same with a binary that may be of another release.
    ///
    /// # Errors
    /// If it does not start, with its log.
    pub fn program_at(
        program: &Path,
        port: u16,
        dir: PathBuf,
        settings: &[&str],
    ) -> io::Result<Server> {
        Server::start_on(port, &program.into(), &[&["server"], settings].concat(), dir)
    }

    /// Kills the process and gives its directory back. Where nobody wants that, the server is dropped.
    #[must_use]
    pub fn kill(mut self) -> PathBuf {
        let _ = self.child.kill();
        self.reap();
        std::mem::take(&mut self.dir)
    }

    /// Waits for the end of the process and gives its directory back.
    #[must_use]
    pub fn ended(mut self) -> PathBuf {
        self.reap();
        std::mem::take(&mut self.dir)
    }

    fn start_in(program: &OsString, args: &[&str], dir: PathBuf) -> io::Result<Server> {
        Server::start_on(free_port()?, program, args, dir)
    }

    fn start_on(port: u16, program: &OsString, args: &[&str], dir: PathBuf) -> io::Result<Server> {
        let log = File::options().create(true).append(true).open(dir.join("log"))?;
        let instead = INSTEAD.with_borrow(Option::clone);
        let child = Command::new(program)
            .envs(instead.map_or_else(Vec::new, |instead| instead.variables))
            .args(args)
            .args(["--port", &port.to_string()])
            .current_dir(&dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let mut server = Server { child, port, dir };
        let since = Instant::now();
        while since.elapsed() < START_TIMEOUT {
            if server.child.try_wait()?.is_some() {
                break;
            }
            if server.answers() {
                return Ok(server);
            }
            sleep(Duration::from_millis(5));
        }
        let error = format!("no answer on port {port}; its log:\n{}", server.log());
        // It belongs to whoever gave it.
        server.dir = PathBuf::new();
        Err(io::Error::other(error))
    }

    /// True once the server that answers is ours. (Another process may have taken the port between
    /// our look and the start; then ours has ended.)
    fn answers(&mut self) -> bool {
        let Ok(mut client) = Client::connect(self.port) else { return false };
        client.set_timeout(Duration::from_secs(2)).is_ok()
            && client.line("PING").is_ok_and(|reply| match reply {
                Value::Simple(text) => text == b"PONG",
                // A server that asks for a password answers too.
                Value::Error(text) => text.starts_with(b"NOAUTH"),
                _ => false,
            })
            && matches!(self.child.try_wait(), Ok(None))
    }

    /// The port that the server listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The server's process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The server's working directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A new connection.
    pub fn client(&self) -> Client {
        match Client::connect(self.port) {
            Ok(client) => client,
            Err(error) => panic!("no connection: {error}; its log:\n{}", self.log()),
        }
    }

    /// A new connection that speaks RESP2 or RESP3.
    pub fn client_of(&self, protocol: u8) -> Client {
        let mut client = self.client();
        let reply = client.line(&format!("HELLO {protocol}")).expect("an answer to HELLO");
        assert!(!reply.is_error(), "HELLO {protocol}: {reply:?}");
        client
    }

    /// What the server wrote so far.
    pub fn log(&self) -> String {
        let bytes = fs::read(self.dir.join("log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// True while the process runs.
    pub fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Asks the server to stop and returns its exit code; `None` if a signal ended it.
    pub fn stop(self) -> Option<i32> {
        let _ = self.client().line("SHUTDOWN NOSAVE");
        self.wait()
    }

    /// Sends the process a signal, named as `kill` names it.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args(["-s", name, &self.pid().to_string()]).status();
        assert!(status.is_ok_and(|status| status.success()), "SIG{name} was not sent");
    }

    /// The most memory that the process ever had resident, bytes.
    pub fn peak_rss(&self) -> u64 {
        self.memory("VmHWM:")
    }

    /// The memory that the process has resident, bytes.
    pub fn rss(&self) -> u64 {
        self.memory("VmRSS:")
    }

    fn memory(&self, field: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
        kib.expect("a figure of the process's memory") * 1024
    }

    /// Waits for the end of a server that has been asked to stop and returns its exit code; `None`
    /// if a signal ended it.
    pub fn wait(mut self) -> Option<i32> {
        let since = Instant::now();
        while since.elapsed() < STOP_TIMEOUT {
            if let Ok(Some(status)) = self.child.try_wait() {
                return status.code();
            }
            sleep(Duration::from_millis(5));
        }
        panic!("the server does not stop; its log:\n{}", self.log());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- log of the server on port {}:\n{}---", self.port, self.log());
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// A port that nothing listens on at this moment.
pub fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// A new directory of our own below the system's temporary one.
pub fn temporary_dir() -> io::Result<PathBuf> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("ashlar-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let dir = std::env::temp_dir().join(name);
    fs::create_dir_all(&dir)?;
    Ok(dir)
}

/// The root of the workspace.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests crate lies in the workspace")
}

/// The `ashlar` binary. Cargo tells only a package's own tests where its binaries are, so this
/// builds it: with the profile of the tests, so that most of it is there already.
/// `ASHLAR_BINARY=path` takes another one, for example a release build.
pub fn ashlar_binary() -> PathBuf {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    let build = || {
        if let Some(path) = std::env::var_os("ASHLAR_BINARY") {
            return PathBuf::from(path);
        }
        let this = std::env::current_exe().expect("the path of the test");
        let dir = this.parent().and_then(Path::parent).expect("tests lie in target/PROFILE/deps");
        let profile = if dir.ends_with("release") { "release" } else { "test" };
        let status = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--package", "ashlar-server", "--bin", "ashlar"])
            .args(["--profile", profile, "--target-dir"])
            .arg(dir.parent().expect("the target directory"))
            .current_dir(workspace())
            .status();
        assert!(status.is_ok_and(|status| status.success()), "the ashlar binary does not build");
        dir.join("ashlar")
    };
    BINARY.get_or_init(build).clone()
}
