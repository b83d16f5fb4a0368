//! A blocking client that goes to the leader of a key's slot, as cluster clients do.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::SocketAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use ashlar_engine::slot::slot_of;

use super::{Cluster, PATIENCE};
use crate::client::Client;
use crate::protocol::Protocol;

/// How long it waits before it tries again.
const PAUSE: Duration = Duration::from_millis(1);

/// How a command ended.
pub enum Outcome {
    /// It was answered; when the try that was had been sent.
    Reply(Vec<u8>, Instant),
    /// The connection broke: it may have been run or not.
    Unknown,
}

/// The client.
pub struct Routed {
    addresses: Vec<SocketAddr>,
    connections: HashMap<SocketAddr, Client>,
    leaders: HashMap<u16, SocketAddr>,
    next: usize,
}

impl Routed {
    pub fn new(cluster: &Cluster) -> Routed {
        let addresses = cluster.nodes.iter().map(|node| node.address).collect();
        Routed { addresses, connections: HashMap::new(), leaders: HashMap::new(), next: 0 }
    }

    /// Runs a command on a key, and again where the reply says that it was not run.
    pub fn call(&mut self, key: &str, args: &[&str]) -> Result<Outcome, String> {
        let (slot, since) = (slot_of(key.as_bytes()), Instant::now());
        while since.elapsed() < PATIENCE {
            let address = self.leaders.get(&slot).copied().unwrap_or_else(|| self.any());
            let Some(client) = self.connection(address) else {
                self.leaders.remove(&slot);
                sleep(PAUSE);
                continue;
            };
            let sent = Instant::now();
            let error = match client.call(args) {
                Ok(reply) => return Ok(Outcome::Reply(reply, sent)),
                Err(error) => error,
            };
            let words: Vec<&str> = error.trim_start_matches('-').split(' ').collect();
            match words.as_slice() {
                ["MOVED", _, address] => {
                    let address = address.parse().map_err(|_| format!("moved to {address}"))?;
                    self.leaders.insert(slot, address);
                }
                ["CLUSTERDOWN" | "TRYAGAIN" | "LOADING", ..] => {
                    self.leaders.remove(&slot);
                    sleep(PAUSE);
                }
                ["UNCERTAIN", ..] => return Ok(Outcome::Unknown),
                _ if error.starts_with('-') => return Err(error),
                _ => {
                    self.leaders.remove(&slot);
                    self.connections.remove(&address);
                    return Ok(Outcome::Unknown);
                }
            }
        }
        Err(format!("{args:?}: not answered in {PATIENCE:?}"))
    }

    fn any(&mut self) -> SocketAddr {
        self.next += 1;
        self.addresses[self.next % self.addresses.len()]
    }

    fn connection(&mut self, address: SocketAddr) -> Option<&mut Client> {
        match self.connections.entry(address) {
            Entry::Occupied(known) => Some(known.into_mut()),
            Entry::Vacant(place) => {
                Some(place.insert(Client::connect_to(address, Protocol::Resp).ok()?))
            }
        }
    }
}

/// The number in a reply.
pub fn number(reply: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(reply).ok()?;
    let last = text.trim_end().rsplit("\r\n").next()?;
    last.trim_start_matches(':').parse().ok()
}
