//! The near cache of a cluster: a cache and a connection for each node that answers.
//!
//! ```text
//! key -> slot -> node that answers for it -> its NearCache: memory, or its connection
//!            MOVED, CLUSTER SLOTS -> table of slots; what a node answered of slots that left it is dropped
//! ```
//! Each node says what changes of the keys that were read from it, and what it said rests on its connection. So
//! there is nothing to agree on between nodes: a value is served while the node that it was read from answers
//! for its slot, and its connection lives.

use crate::near::{NearCache, Options, Stats};
use crate::{Error, Value};
use parking_lot::{Mutex, RwLock};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Slots of a cluster.
const SLOTS: usize = 16_384;
/// Nodes that are spoken to at most: more than a cluster has.
const NODES_MAX: usize = 1_000;
/// How long to wait before trying again what the cluster cannot answer at the moment.
const PAUSE: Duration = Duration::from_millis(20);
/// Redirections that are followed at once; then there is a pause before each.
const QUICK_MAX: usize = 4;

/// Who answers for which slot.
#[derive(Debug, Default)]
struct Table {
    /// By address, `host:port`.
    nodes: BTreeMap<String, Arc<NearCache>>,
    /// The node of each slot, where it is known; empty or as many as there are slots.
    slots: Vec<Option<Arc<NearCache>>>,
    /// What nodes have done that are spoken to no more.
    past: Stats,
}

/// A cache of a cluster's strings, for all threads of a program. It keeps the promises of a
/// [`NearCache`], with a connection to each node that leads, and these of its own:
///
/// - A lost connection takes with it what was read from that node, and nothing else.
/// - Slots that move, and nodes that are replaced, are found out by redirections. A node of ashlar says, before
///   anybody else can answer for a slot, that nothing of it is current any more. What is cut off from the others
///   notices within its election time-out; until then hits may be stale.
#[derive(Debug)]
pub struct ClusterNearCache {
    seeds: Vec<String>,
    options: Options,
    table: RwLock<Table>,
    /// Held while the table is made anew, so that only one thread does.
    refreshing: Mutex<()>,
}

/// What becomes of an error.
enum Next {
    /// Once more, at the node that the table has now.
    Again,
    /// The same after a pause, with a new table.
    Later,
    /// It is the caller's.
    Give(Error),
}

impl ClusterNearCache {
    /// Connects to a cluster by the addresses of some of its nodes, each `host:port`.
    ///
    /// # Errors
    /// If none of them can be reached, or refuses the credentials, or is none of a cluster.
    pub fn connect(seeds: &[&str], options: Options) -> Result<ClusterNearCache, Error> {
        let seeds = seeds.iter().map(|seed| (*seed).to_owned()).collect();
        let table = RwLock::default();
        let cache = ClusterNearCache { seeds, options, table, refreshing: Mutex::new(()) };
        cache.refresh(None)?;
        Ok(cache)
    }

    /// The string of a key; `None` where there is no such key. From memory if it is there.
    ///
    /// # Errors
    /// If nobody answers for the key within [`Options::retry_for`], or it holds something else than a string.
    pub fn get(&self, key: &[u8]) -> Result<Option<Arc<[u8]>>, Error> {
        // Whatever becomes of it, to read once more does no harm.
        self.at_node(key, |node| node.get(key).map_err(|error| (error, true)))
    }

    /// Sets the string of a key. The next read has it, or something newer.
    ///
    /// # Errors
    /// As for [`ClusterNearCache::call`].
    pub fn set(&self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        self.call(&[b"SET", key, value], &[key]).map(drop)
    }

    /// Deletes a key; whether it was there.
    ///
    /// # Errors
    /// As for [`ClusterNearCache::call`].
    pub fn delete(&self, key: &[u8]) -> Result<bool, Error> {
        Ok(self.call(&[b"DEL", key], &[key])? != Value::Int(0))
    }

    /// Runs any command at the node that answers for the first of `keys`, the keys that it changes, which are of
    /// one slot; without any, at some node.
    ///
    /// # Errors
    /// If the cluster refuses it, or nobody answers for the key within [`Options::retry_for`]. If the connection is
    /// lost before the reply the command may have run or not, and is not sent again.
    pub fn call(&self, args: &[&[u8]], keys: &[&[u8]]) -> Result<Value, Error> {
        let key = keys.first().copied().unwrap_or_default();
        self.at_node(key, |node| {
            let connection = node.connection().map_err(|error| (error, true))?;
            connection.call(args, keys).map_err(|error| (error, false))
        })
    }

    /// What the cache has done, of all nodes together, and its size.
    pub fn stats(&self) -> Stats {
        let table = self.table.read();
        table.nodes.values().fold(table.past, |sum, node| sum.plus(&node.stats()))
    }

    /// Runs `work` at the node that answers for a key, and once more where it has to be another one. An error comes
    /// with whether the command was certainly not run, or may be run twice.
    fn at_node<T>(
        &self,
        key: &[u8],
        work: impl Fn(&NearCache) -> Result<T, (Error, bool)>,
    ) -> Result<T, Error> {
        let (slot, started) = (slot_of(key), Instant::now());
        let mut tries = 0;
        loop {
            let node = self.node(slot);
            let result = match &node {
                Some(node) => work(node),
                None => Err((Error::Refused("CLUSTERDOWN Hash slot not served".into()), true)),
            };
            let (error, repeatable) = match result {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            tries += 1;
            let next = self.next(error.clone(), repeatable, node.as_deref());
            let late = started.elapsed() >= self.options.retry_for;
            match next {
                Next::Give(error) => return Err(error),
                _ if late => return Err(error),
                Next::Again if tries <= QUICK_MAX => {}
                Next::Again => std::thread::sleep(PAUSE),
                Next::Later => {
                    std::thread::sleep(PAUSE);
                    // Who cannot say it now may say it the next time.
                    drop(self.refresh(node.as_deref()));
                }
            }
        }
    }

    fn next(&self, error: Error, repeatable: bool, node: Option<&NearCache>) -> Next {
        match &error {
            Error::Refused(text) => {
                let mut words = text.split(' ');
                match words.next() {
                    Some("MOVED") => {
                        let slot = words.next().and_then(|slot| slot.parse::<usize>().ok());
                        let address = words.next().and_then(|to| address(to, node?.address()));
                        match (slot.filter(|slot| *slot < SLOTS), address) {
                            (Some(slot), Some(address)) if self.moved(slot, &address) => {
                                Next::Again
                            }
                            _ => Next::Later,
                        }
                    }
                    Some("CLUSTERDOWN" | "TRYAGAIN" | "LOADING" | "MASTERDOWN") => Next::Later,
                    _ => Next::Give(error),
                }
            }
            Error::Disconnected(_) if repeatable => Next::Later,
            Error::Disconnected(_) => {
                // It is not known whether the command was run; the next one is to find the new node.
                drop(self.refresh(node));
                Next::Give(error)
            }
            Error::Protocol(_) => Next::Give(error),
        }
    }

    fn node(&self, slot: usize) -> Option<Arc<NearCache>> {
        self.table.read().slots.get(slot)?.clone()
    }

    /// Another node answers for a slot; whether it can be reached.
    fn moved(&self, slot: usize, address: &str) -> bool {
        let Some(node) = self.connected(address) else { return false };
        let mut table = self.table.write();
        table.slots.resize(SLOTS, None);
        if let Some(old) = table.slots[slot].replace(node.clone())
            && !Arc::ptr_eq(&old, &node)
        {
            old.keep(|key| slot_of(key) != slot);
        }
        true
    }

    /// The node at an address, which is connected to if it was not spoken to so far.
    fn connected(&self, address: &str) -> Option<Arc<NearCache>> {
        let known = |table: &Table| table.nodes.get(address).cloned();
        if let Some(node) = known(&self.table.read()) {
            return Some(node);
        }
        let fresh = Arc::new(NearCache::connect(address, self.options.clone()).ok()?);
        let mut table = self.table.write();
        if let Some(node) = known(&table) {
            return Some(node);
        }
        if table.nodes.len() >= NODES_MAX {
            return None;
        }
        table.nodes.insert(address.to_owned(), fresh.clone());
        share_bounds(&table, &self.options);
        Some(fresh)
    }

    /// Asks the nodes one after the other who answers for which slot; the one that could not answer comes last: it
    /// may be cut off, and would name itself for ever.
    fn refresh(&self, doubted: Option<&NearCache>) -> Result<(), Error> {
        let Some(_one_at_a_time) = self.refreshing.try_lock() else {
            // Another thread does just that: what it finds is as good.
            drop(self.refreshing.lock());
            return Ok(());
        };
        let known: Vec<Arc<NearCache>> = self.table.read().nodes.values().cloned().collect();
        // Those that answer come first: to reach for others may take its time.
        let is_doubted = |address: &str| doubted.is_some_and(|node| node.address() == address);
        let (alive, others): (Vec<_>, Vec<_>) = known
            .into_iter()
            .filter(|node| !is_doubted(node.address()))
            .partition(|node| node.is_connected());
        let known = alive.into_iter().chain(others).map(Ok);
        let seeds = self.seeds.iter().filter(|seed| !is_doubted(seed));
        let seeds = seeds.map(|seed| NearCache::connect(seed, self.options.clone()).map(Arc::new));
        let mut failure = Error::Disconnected("no address of a cluster".into());
        for node in known.chain(seeds) {
            match node.and_then(|node| self.ask(&node)) {
                Ok(()) => return Ok(()),
                Err(error) => failure = error,
            }
        }
        doubted.map_or(Err(failure), |node| self.ask(node))
    }

    fn ask(&self, node: &NearCache) -> Result<(), Error> {
        let reply = node.call(&[b"CLUSTER", b"SLOTS"], &[])?;
        let ranges = ranges(&reply, node.address());
        let ranges = ranges.ok_or(Error::Protocol("a reply to CLUSTER SLOTS that is none"))?;
        let mut slots: Vec<Option<Arc<NearCache>>> = vec![None; SLOTS];
        for (first, last, address) in ranges {
            // A node that cannot be reached answers nothing: its slots are looked for again.
            let node = self.connected(&address);
            slots[first..=last].fill(node);
        }
        let mut table = self.table.write();
        let table = &mut *table;
        table.slots = slots;
        let in_use: Vec<*const NearCache> = {
            let mut last = std::ptr::null();
            let nodes = table.slots.iter().flatten().map(Arc::as_ptr);
            nodes.filter(|node| std::mem::replace(&mut last, *node) != *node).collect()
        };
        let past = &mut table.past;
        table.nodes.retain(|_, node| {
            let stays = in_use.contains(&Arc::as_ptr(node));
            if !stays {
                // Its entries go with it.
                *past = past.plus(&Stats { entries: 0, bytes: 0, ..node.stats() });
            }
            stays
        });
        for node in table.nodes.values() {
            node.keep(|key| {
                table.slots[slot_of(key)].as_ref().is_some_and(|owner| Arc::ptr_eq(owner, node))
            });
        }
        share_bounds(table, &self.options);
        Ok(())
    }
}

/// All nodes together keep as much as the options say.
fn share_bounds(table: &Table, options: &Options) {
    let count = table.nodes.len().max(1);
    for node in table.nodes.values() {
        node.bound(options.entries_max / count, options.bytes_max / count);
    }
}

/// The address that a node names; where it names no host, it is the one by which the node was reached.
fn address(named: &str, reached: &str) -> Option<String> {
    let (host, port) = named.rsplit_once(':')?;
    port.parse::<u16>().ok()?;
    match host {
        "" | "?" => Some(format!("{}:{port}", reached.rsplit_once(':')?.0)),
        host => Some(format!("{host}:{port}")),
    }
}

/// First slot, last slot and address of who answers for them.
fn ranges(reply: &Value, reached: &str) -> Option<Vec<(usize, usize, String)>> {
    let Value::Array(entries) = reply else { return None };
    let mut ranges = Vec::new();
    for entry in entries {
        let Value::Array(parts) = entry else { return None };
        let [Value::Int(first), Value::Int(last), Value::Array(node), ..] = parts.as_slice() else {
            return None;
        };
        let [host, Value::Int(port), ..] = node.as_slice() else { return None };
        let host = String::from_utf8(host.bytes().unwrap_or_default().to_vec()).ok()?;
        let (first, last) = (usize::try_from(*first).ok()?, usize::try_from(*last).ok()?);
        if first > last || last >= SLOTS {
            return None;
        }
        ranges.push((first, last, address(&format!("{host}:{port}"), reached)?));
    }
    Some(ranges)
}

/// The slot of a key: CRC16 (XMODEM) of what stands between its first braces, or of all of it.
fn slot_of(key: &[u8]) -> usize {
    let tag = key.iter().position(|byte| *byte == b'{').and_then(|start| {
        let rest = &key[start + 1..];
        let len = rest.iter().position(|byte| *byte == b'}').filter(|len| *len > 0)?;
        Some(&rest[..len])
    });
    let crc = tag.unwrap_or(key).iter().fold(0u16, |crc, byte| {
        (0..8).fold(crc ^ u16::from(*byte) << 8, |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 }
        })
    });
    usize::from(crc) % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_redis() {
        for (key, slot) in [
            (&b"123456789"[..], 0x31C3),
            (b"", 0),
            (b"foo", 12_182),
            (b"{foo}bar", 12_182),
            (b"x{foo}{bar}", 12_182),
            (b"{}foo", 9_500),
        ] {
            assert_eq!(slot_of(key), slot, "{}", String::from_utf8_lossy(key));
        }
    }

    #[test]
    fn what_a_cluster_says_of_its_slots() {
        let node = |host: &str, port| {
            Value::Array(vec![
                Value::Bulk(host.into()),
                Value::Int(port),
                Value::Bulk(b"id".to_vec()),
            ])
        };
        let entry =
            |first, last, node| Value::Array(vec![Value::Int(first), Value::Int(last), node]);
        let reply = Value::Array(vec![entry(0, 9, node("a", 1)), entry(10, 16_383, node("", 2))]);
        let expected = vec![(0, 9, "a:1".to_owned()), (10, 16_383, "here:2".to_owned())];
        assert_eq!(ranges(&reply, "here:7"), Some(expected));
        for wrong in [
            Value::Null,
            Value::Array(vec![Value::Null]),
            Value::Array(vec![entry(0, 16_384, node("a", 1))]),
            Value::Array(vec![entry(-1, 3, node("a", 1))]),
            Value::Array(vec![entry(4, 3, node("a", 1))]),
            Value::Array(vec![entry(0, 3, node("a", 70_000))]),
        ] {
            assert_eq!(ranges(&wrong, "here:7"), None, "{wrong:?}");
        }
    }
}
