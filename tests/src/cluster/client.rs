//! A client of a cluster, as simple as one can be: it sends each command to the node that it believes
//! to lead the key's slot, goes where MOVED sends it, and tries again where the cluster asks for that.

use crate::resp::{Argv, Client, Value};
use ashlar_engine::slot::slot_of;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::time::{Duration, Instant};

/// How long it waits before it tries again.
const PAUSE: Duration = Duration::from_millis(10);

/// How a command ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It was answered.
    Reply(Value),
    /// The connection broke once it was sent: it may have been run or not.
    Unknown,
    /// It was not run in time.
    NotRun,
}

/// The client.
#[derive(Debug)]
pub struct ClusterClient {
    /// Ports of the nodes that are known from the start.
    ports: Vec<u16>,
    connections: HashMap<u16, Client>,
    leaders: HashMap<u16, u16>,
    /// How long a command may take.
    pub timeout: Duration,
    /// How long a node may take to answer.
    pub patience: Duration,
    /// Whether GET and LRANGE are asked of whichever node first, which is told that replicas will do.
    pub reads_anywhere: bool,
    /// Reads that the first node has answered.
    pub answered_anywhere: usize,
    /// Redirections and errors that asked for another try.
    pub retries: usize,
    next: usize,
}

impl ClusterClient {
    /// A client that knows these nodes of this machine.
    pub fn new(ports: impl IntoIterator<Item = u16>) -> ClusterClient {
        ClusterClient {
            ports: ports.into_iter().collect(),
            connections: HashMap::new(),
            leaders: HashMap::new(),
            timeout: Duration::from_secs(20),
            patience: Duration::from_secs(5),
            reads_anywhere: false,
            answered_anywhere: 0,
            retries: 0,
            next: 0,
        }
    }

    /// Runs a command whose first argument is its key. It is sent once more only where the answer says
    /// that it was not run.
    pub fn call(&mut self, argv: &Argv) -> Outcome {
        let name = argv.first().map(|name| name.to_ascii_uppercase()).unwrap_or_default();
        // Those with a number of keys have the first one behind it.
        let at = if name.starts_with(b"EVAL") || name.starts_with(b"FCALL") { 3 } else { 1 };
        let slot = argv.get(at).map_or(0, |key| slot_of(key));
        let mut anywhere = self.reads_anywhere && matches!(&*name, b"GET" | b"LRANGE");
        let since = Instant::now();
        while since.elapsed() < self.timeout {
            let first = std::mem::take(&mut anywhere);
            let leader = self.leaders.get(&slot).copied().filter(|_| !first);
            let port = leader.unwrap_or_else(|| self.any());
            let Ok(client) = self.connection(port) else {
                self.forget(slot, port);
                continue;
            };
            let reply = match client.call(argv) {
                Ok(reply) => reply,
                Err(_) => {
                    self.forget(slot, port);
                    return Outcome::Unknown;
                }
            };
            let Value::Error(text) = &reply else {
                self.answered_anywhere += usize::from(first);
                return Outcome::Reply(reply);
            };
            let text = String::from_utf8_lossy(text).into_owned();
            let words: Vec<&str> = text.split(' ').collect();
            match words.first().copied() {
                Some("MOVED") => {
                    let port = words.get(2).and_then(|address| address.rsplit_once(':'));
                    let port = port.and_then(|(_, port)| port.parse().ok());
                    self.retries += 1;
                    self.leaders.insert(slot, port.unwrap_or(0));
                }
                Some("CLUSTERDOWN" | "TRYAGAIN" | "LOADING") => {
                    self.forget(slot, port);
                    std::thread::sleep(PAUSE);
                }
                _ => return Outcome::Reply(reply),
            }
        }
        Outcome::NotRun
    }

    /// The same by words of one line; what is no reply is an error.
    ///
    /// # Errors
    /// If it may not have been run.
    pub fn line(&mut self, line: &str) -> io::Result<Value> {
        match self.call(&crate::resp::words(line)) {
            Outcome::Reply(reply) => Ok(reply),
            other => Err(io::Error::other(format!("{line}: {other:?}"))),
        }
    }

    fn any(&mut self) -> u16 {
        self.next += 1;
        self.ports[self.next % self.ports.len()]
    }

    fn forget(&mut self, slot: u16, port: u16) {
        self.retries += 1;
        self.leaders.remove(&slot);
        self.connections.remove(&port);
    }

    fn connection(&mut self, port: u16) -> io::Result<&mut Client> {
        // A node that was stopped has closed it: nothing is sent there, so nothing is unknown.
        if self.connections.get(&port).is_some_and(|client| !is_open(client)) {
            self.connections.remove(&port);
        }
        let (reads_anywhere, patience) = (self.reads_anywhere, self.patience);
        match self.connections.entry(port) {
            Entry::Occupied(known) => Ok(known.into_mut()),
            Entry::Vacant(place) => {
                // The node may be on its way.
                let mut client =
                    Client::connect(port).inspect_err(|_| std::thread::sleep(PAUSE))?;
                client.set_timeout(patience)?;
                if reads_anywhere {
                    client.line("READONLY")?;
                }
                Ok(place.insert(client))
            }
        }
    }
}

/// Whether the other end has not closed the connection yet.
fn is_open(client: &Client) -> bool {
    let stream = client.stream();
    if stream.set_nonblocking(true).is_err() {
        return false;
    }
    let seen = stream.peek(&mut [0]);
    let blocks = stream.set_nonblocking(false).is_ok();
    blocks && matches!(seen, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}
