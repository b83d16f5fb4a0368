//! A server under test: started on a free port in a directory of its own, and stopped always.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::{Advice, fadvise};

use crate::proc;
use crate::protocol::Protocol;

/// How long a server may take until it accepts connections.
const START_MAX: Duration = Duration::from_secs(20);

/// What to start, and how.
#[derive(Clone, Debug)]
pub struct Program {
    /// The name in the tables.
    pub name: String,
    /// The executable file.
    pub file: PathBuf,
    /// Which command line it takes.
    pub kind: Kind,
    /// Further arguments.
    pub args: Vec<String>,
}

/// Which command line a server takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `FILE server --port N ...`
    Ashlar,
    /// `FILE --port N ...`, as redis-server and its relatives
    Redis,
    /// `FILE -p N ...`
    Memcached,
}

/// A running server. Dropping it kills the process and removes its directory.
pub struct Server {
    /// What runs.
    pub program: Program,
    /// Where it listens.
    pub address: SocketAddr,
    child: Child,
    dir: PathBuf,
}

impl Program {
    /// What it speaks.
    pub fn protocol(&self) -> Protocol {
        match self.kind {
            Kind::Ashlar | Kind::Redis => Protocol::Resp,
            Kind::Memcached => Protocol::Memcached,
        }
    }

    /// The first line that `FILE --version` prints.
    pub fn version(&self) -> String {
        let output = Command::new(&self.file).arg("--version").stdin(Stdio::null()).output();
        let text = output.map(|output| output.stdout).unwrap_or_default();
        String::from_utf8_lossy(&text).lines().next().unwrap_or("unknown version").to_owned()
    }

    /// Starts it with persistence off and waits until it accepts connections.
    pub fn start(&self) -> Result<Server, String> {
        let port = free_port()?;
        let dir = temp_dir(&self.name, port)?;
        let started = self.command(port, &dir).and_then(|mut command| {
            command.spawn().map_err(|error| format!("{}: {error}", self.file.display()))
        });
        let child = started.inspect_err(|_| drop(fs::remove_dir_all(&dir)))?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut server = Server { program: self.clone(), address, child, dir };
        server.wait_until_ready()?;
        Ok(server)
    }

    fn command(&self, port: u16, dir: &Path) -> Result<Command, String> {
        let (port, path) = (port.to_string(), dir.display().to_string());
        let redis = ["--port", &port, "--bind", "127.0.0.1", "--dir", &path, "--save", ""];
        let redis = [&redis[..], &["--appendonly", "no"]].concat();
        let args: Vec<&str> = match self.kind {
            Kind::Ashlar => [&["server"], &redis[..]].concat(),
            Kind::Redis => redis,
            // As root it wants to be told whom to become.
            Kind::Memcached => {
                vec![
                    "-p",
                    &port,
                    "-U",
                    "0",
                    "-l",
                    "127.0.0.1",
                    "-u",
                    "root",
                    "-m",
                    "1024",
                    "-c",
                    "4096",
                ]
            }
        };
        let log = File::create(dir.join("log")).map_err(|error| format!("{path}/log: {error}"))?;
        let copy = log.try_clone().map_err(|error| format!("{path}/log: {error}"))?;
        let mut command = dies_with_us(&self.file);
        command.args(args).args(&self.args).current_dir(dir);
        command.stdin(Stdio::null()).stdout(log).stderr(copy);
        Ok(command)
    }
}

impl Server {
    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Has the system forget what it has of the server's files in its page cache, once they are on disk.
    pub fn drop_page_cache(&self) -> Result<(), String> {
        let mut folders = vec![self.dir.clone()];
        while let Some(folder) = folders.pop() {
            let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
            for entry in fs::read_dir(&folder).map_err(failed)? {
                let path = entry.map_err(failed)?.path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                // A store may have removed it meanwhile.
                let Ok(file) = File::open(&path) else { continue };
                file.sync_all().map_err(failed)?;
                fadvise(&file, 0, None, Advice::DontNeed).map_err(|error| error.to_string())?;
            }
        }
        Ok(())
    }

    /// CPU time so far, in seconds.
    pub fn cpu_seconds(&self) -> Result<f64, String> {
        proc::cpu_seconds(self.pid()).map_err(|error| self.with_log(&error))
    }

    /// Kills the process as a power cut would, its disk excepted.
    pub fn kill(&mut self) -> Result<(), String> {
        self.child.kill().map_err(|error| error.to_string())?;
        self.child.wait().map(drop).map_err(|error| error.to_string())
    }

    /// Starts it again on its directory and its port, after [`Server::kill`].
    pub fn start_again(&mut self) -> Result<(), String> {
        let mut command = self.program.command(self.address.port(), &self.dir)?;
        self.child = command.spawn().map_err(|error| error.to_string())?;
        self.wait_until_ready()
    }

    /// An error if the process has ended.
    pub fn check(&mut self) -> Result<(), String> {
        match self.child.try_wait() {
            Ok(Some(status)) => Err(self.with_log(&format!("ended with {status}"))),
            _ => Ok(()),
        }
    }

    /// `error`, with the end of what the server has printed.
    pub fn with_log(&self, error: &str) -> String {
        let log = fs::read(self.dir.join("log")).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<_> = log.lines().collect();
        let end = lines[lines.len().saturating_sub(10)..].join("\n    ");
        format!("{}: {error}\n    {end}", self.program.name)
    }

    fn wait_until_ready(&mut self) -> Result<(), String> {
        let start = Instant::now();
        while TcpStream::connect(self.address).is_err() {
            self.check()?;
            if start.elapsed() > START_MAX {
                return Err(self.with_log("does not accept connections"));
            }
            sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Nothing that it holds is worth an orderly end; both fail only where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// A command whose process the kernel kills when this one dies, however that comes about.
pub fn dies_with_us(program: &Path) -> Command {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let setpriv = std::env::split_paths(&path).map(|dir| dir.join("setpriv")).find(|f| f.is_file());
    match setpriv {
        Some(setpriv) => {
            let mut command = Command::new(setpriv);
            command.args(["--pdeathsig", "KILL", "--"]).arg(program);
            command
        }
        None => Command::new(program),
    }
}

/// A port that nobody listens on.
pub fn free_port() -> Result<u16, String> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let address = listener.and_then(|listener| listener.local_addr());
    address.map(|address| address.port()).map_err(|error| format!("no free port: {error}"))
}

/// A new directory of its own.
pub fn temp_dir(name: &str, port: u16) -> Result<PathBuf, String> {
    let name = format!("side-by-side-{}-{name}-{port}", std::process::id());
    let dir = std::env::temp_dir().join(name);
    fs::create_dir_all(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    Ok(dir)
}
