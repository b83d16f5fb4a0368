//! How fast an RDB file becomes data that is served: redis-server that starts with it, and ashlar by
//! both of its ways.
//!
//! redis-server writes the file: nine of ten keys are strings of 32 bytes, the others hashes of five
//! fields. Both servers read it from the page cache. What is compared is the time until the server
//! answers with all keys there.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::client::Client;
use crate::memory::{hash, string};
use crate::options::Settings;
use crate::protocol::Protocol;
use crate::results::TierFigure;
use crate::server::{Program, dies_with_us, free_port, temp_dir};

/// How long a server may take to load.
const PATIENCE: Duration = Duration::from_secs(120);

/// Loads the same file in turn, round after round; the medians.
pub fn measure(settings: &Settings) -> Result<Vec<TierFigure>, String> {
    let keys = settings.import_keys;
    let dir = Dir(temp_dir("import", 0)?);
    let file = write_file(&settings.redis, &dir.0, keys)?;
    let (mut redis, mut into_dir, mut start, mut running) = (vec![], vec![], vec![], vec![]);
    for _ in 0..settings.rounds {
        redis.push(start_on(&settings.redis, &dir.0, keys)?.0);
        let data = Dir(temp_dir("import-into", 0)?);
        let path = data.0.display().to_string();
        into_dir.push(import(&settings.ashlar, &file, &["--dir", &path])?);
        start.push(start_on(&settings.ashlar, &data.0, keys)?.0);
        let server = settings.ashlar.start()?;
        let port = server.address.port().to_string();
        running.push(import(&settings.ashlar, &file, &["--port", &port])?);
        check(&mut Client::connect(&server)?, keys)?;
    }
    let (redis, into_dir, start, running) =
        (middle(&mut redis), middle(&mut into_dir), middle(&mut start), middle(&mut running));
    let mut figures = Vec::new();
    let mut push = |what: &str, figure: &str, value: f64| {
        eprintln!("{what}: {figure}: {value:.2}");
        let (what, figure) = (what.to_owned(), figure.to_owned());
        figures.push(TierFigure { what, figure, value });
    };
    push("the file", "keys", keys as f64);
    push("redis-server", "starts with the file, s", redis);
    push("ashlar", "import --dir, s", into_dir);
    push("ashlar", "starts on that directory, s", start);
    push("ashlar", "import into a running server, s", running);
    push("ashlar", "import --dir and start: rate, x redis-server", redis / (into_dir + start));
    push("ashlar", "import into a running server: rate, x redis-server", redis / running);
    Ok(figures)
}

/// A directory that goes with what is in it.
struct Dir(PathBuf);

impl Drop for Dir {
    fn drop(&mut self) {
        // Left over it would only take room.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A server on a directory; killed when it is dropped.
struct On(Child);

impl Drop for On {
    fn drop(&mut self) {
        // Both fail only where it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn middle(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Has redis-server write `dump.rdb`.
fn write_file(redis: &Program, dir: &Path, keys: u64) -> Result<PathBuf, String> {
    let (_, (_running, mut client)) = start_on(redis, dir, 0)?;
    client.fill(
        keys,
        |out, index| if index % 10 == 0 { hash(out, index) } else { string(out, index) },
    )?;
    check(&mut client, keys)?;
    client.call(&["SAVE"])?;
    Ok(dir.join("dump.rdb"))
}

fn check(client: &mut Client, keys: u64) -> Result<(), String> {
    let reply = client.call(&["DBSIZE"])?;
    let wanted = format!(":{keys}\r\n");
    let found = String::from_utf8_lossy(&reply).into_owned();
    if found == wanted { Ok(()) } else { Err(format!("{keys} keys, but DBSIZE gives {found}")) }
}

/// Starts a server on a directory: the seconds until it answers, and it has all keys.
fn start_on(program: &Program, dir: &Path, keys: u64) -> Result<(f64, (On, Client)), String> {
    let port = free_port()?;
    let path = dir.display().to_string();
    let mut command = dies_with_us(&program.file);
    if program.kind == crate::server::Kind::Ashlar {
        command.arg("server");
    }
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--dir", &path]);
    command.args(["--save", "", "--appendonly", "no"]).args(&program.args);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let start = Instant::now();
    let child = On(command.spawn().map_err(|error| error.to_string())?);
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    while start.elapsed() < PATIENCE {
        if let Ok(mut client) = Client::connect_to(address, Protocol::Resp)
            && client.call(&["PING"]).is_ok_and(|reply| reply.starts_with(b"+PONG"))
        {
            let seconds = start.elapsed().as_secs_f64();
            check(&mut client, keys)?;
            return Ok((seconds, (child, client)));
        }
        sleep(Duration::from_millis(2));
    }
    Err(format!("{} does not answer", program.name))
}

/// `ashlar import`: the seconds that it takes.
fn import(ashlar: &Program, file: &Path, args: &[&str]) -> Result<f64, String> {
    let mut command = Command::new(&ashlar.file);
    command.arg("import").arg(file).args(args).arg("--quiet").stdin(Stdio::null());
    let start = Instant::now();
    let output = command.output().map_err(|error| error.to_string())?;
    match output.status.success() {
        true => Ok(start.elapsed().as_secs_f64()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}
