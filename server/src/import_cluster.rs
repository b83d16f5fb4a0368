//! `ashlar import` into a cluster: each key goes to the node that answers for its slot, and to another one where
//! it is sent on or where that node is lost.
//!
//! ```text
//! file --cut into keys--> by slot --> lane of a node: requests --> node
//!                            ^                        <-- replies
//!                            +---- again: MOVED, TRYAGAIN, CLUSTERDOWN, a connection that ended
//! ```
//! A request is kept until it is answered. One that is sent again after its connection ended may have been carried
//! out before: then its key counts as one that was there already.

use crate::cluster::cli::ask;
use crate::replication::link::Link;
use crate::replication::socket::Socket;
use crate::transfer::{
    Options, Outcome, SEND_BYTES, TIMEOUT, Target, hand_on, next_line, push_key,
};
use ashlar_engine::rdb::{Entry, Reader};
use ashlar_engine::slot::{SLOTS, slot_of};
use parking_lot::{Condvar, Mutex};
use std::collections::HashMap;
use std::io::{self, BufReader, Read, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Bytes of requests that are not answered yet, above which nothing is sent.
const IN_FLIGHT_BYTES_MAX: usize = 64 << 20;
/// The same for their number.
const IN_FLIGHT_MAX: usize = 50_000;
/// Before a slot without a leader is tried again.
const PAUSE: Duration = Duration::from_millis(50);

/// A key on its way.
struct Request {
    slot: u16,
    key: Vec<u8>,
    bytes: Vec<u8>,
}

/// What has come of the requests.
#[derive(Default)]
struct State {
    /// Those that are not answered yet, and their bytes.
    waiting: usize,
    bytes: usize,
    /// Answered ones, and how many of them were there already.
    done: u64,
    kept: u64,
    /// To be sent again, to the address that was named.
    again: Vec<(Request, Option<String>)>,
    /// Lanes that have ended, by address.
    ended: Vec<String>,
    error: Option<io::Error>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// A connection to a node.
struct Lane {
    link: Link,
    queue: Sender<Request>,
    out: Vec<u8>,
    replies: JoinHandle<()>,
}

struct Import<'a> {
    options: &'a Options,
    /// To the node that was named: it is told of libraries, which are those of all nodes.
    first: Link,
    shared: Arc<Shared>,
    /// The address of each slot's node.
    owners: Vec<Option<String>>,
    known: Vec<String>,
    lanes: HashMap<String, Lane>,
    payload: Vec<u8>,
    /// How many were answered when that number last grew.
    progress: (u64, Instant),
}

/// The addresses of slots as `CLUSTER NODES` lists them; what is not named is reached at `host`.
fn owners(nodes: &str, host: &str) -> Vec<Option<String>> {
    let mut owners = vec![None; usize::from(SLOTS)];
    for line in nodes.lines() {
        let mut words = line.split(' ').skip(1);
        let address = words.next().and_then(|word| word.split('@').next()).unwrap_or_default();
        let address = match address.strip_prefix(':') {
            Some(port) => format!("{host}:{port}"),
            None => address.to_owned(),
        };
        for range in words.skip(6).filter(|word| !word.starts_with('[')) {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            if let (Ok(first), Ok(last)) = (first.parse::<usize>(), last.parse::<usize>())
                && let Some(slots) = owners.get_mut(first..=last)
            {
                slots.fill(Some(address.clone()));
            }
        }
    }
    owners
}

/// Whether the server that a link leads to is a node of a cluster: what its nodes are then.
///
/// # Errors
/// If the connection ends.
pub(crate) fn nodes(link: &mut Link) -> io::Result<Option<String>> {
    let info = link.call(&[b"CLUSTER", b"NODES"])?;
    if info.starts_with(b"-") {
        return Ok(None);
    }
    // The text behind that line.
    link.unread(&[&info[..], b"\r\n"].concat());
    crate::cluster::cli::text(link).map(Some)
}

/// Sends a file's keys to the nodes of a cluster, of which `first` leads to one that lists them as `listed`.
///
/// # Errors
/// If the file fails, a node refuses a key, or nothing is answered for a minute; keys before that are there.
pub(crate) fn import<R: Read>(
    options: &Options,
    reader: Reader<R>,
    total: u64,
    first: Link,
    listed: &str,
) -> io::Result<Outcome> {
    let known = vec![format!("{}:{}", options.host, options.port)];
    let owners = owners(listed, &options.host);
    let (shared, lanes) = (Arc::default(), HashMap::new());
    let (payload, progress) = (Vec::new(), (0, Instant::now()));
    let mut import = Import { options, first, shared, owners, known, lanes, payload, progress };
    let result = hand_on(reader, total, options.quiet, &mut import).and_then(|outcome| {
        import.finish()?;
        Ok(outcome)
    });
    for (_, lane) in std::mem::take(&mut import.lanes) {
        lane.link.stream().shutdown();
        drop(lane.queue);
        drop(lane.replies.join());
    }
    let state = import.shared.state.lock();
    result.map(|outcome| Outcome { kept: state.kept, keys: outcome.keys - state.kept, ..outcome })
}

impl Target for Import<'_> {
    fn database(&mut self, db: u64) -> io::Result<()> {
        match db {
            0 => Ok(()),
            _ => {
                let text = format!("the file has keys of database {db}: a cluster has one, 0");
                Err(io::Error::other(text))
            }
        }
    }

    fn library(&mut self, code: &[u8]) -> io::Result<()> {
        let code = std::str::from_utf8(code).map_err(io::Error::other)?;
        let policy = if self.options.replace { &["REPLACE"][..] } else { &[] };
        ask(&mut self.first, &[&["FUNCTION", "LOAD"], policy, &[code]].concat()).map(drop)
    }

    fn key(&mut self, entry: &Entry<'_>) -> io::Result<()> {
        let mut bytes = Vec::new();
        push_key(entry, self.options.replace, &mut self.payload, &mut bytes);
        let (slot, key) = (slot_of(entry.key), entry.key.to_vec());
        self.add(Request { slot, key, bytes })
    }
}

impl Import<'_> {
    /// A new request: waits until there is room for it.
    fn add(&mut self, request: Request) -> io::Result<()> {
        loop {
            let mut state = self.shared.state.lock();
            if let Some(error) = state.error.take() {
                return Err(error);
            }
            let full = state.bytes >= IN_FLIGHT_BYTES_MAX || state.waiting >= IN_FLIGHT_MAX;
            if !full && state.again.is_empty() {
                state.waiting += 1;
                state.bytes += request.bytes.len();
                break;
            }
            drop(state);
            self.step()?;
        }
        self.send(request, None);
        Ok(())
    }

    /// Waits until everything is answered.
    fn finish(&mut self) -> io::Result<()> {
        while self.shared.state.lock().waiting > 0 {
            self.step()?;
        }
        self.shared.state.lock().error.take().map_or(Ok(()), Err)
    }

    /// Sends what waits, waits for answers, and sends again what was sent on.
    fn step(&mut self) -> io::Result<()> {
        let addresses: Vec<String> = self.lanes.keys().cloned().collect();
        addresses.iter().for_each(|address| self.flush(address));
        let (again, ended) = {
            let mut state = self.shared.state.lock();
            if state.done == self.progress.0 && state.again.is_empty() && state.error.is_none() {
                self.shared.changed.wait_for(&mut state, PAUSE);
            }
            if state.done > self.progress.0 {
                self.progress = (state.done, Instant::now());
            } else if self.progress.1.elapsed() > TIMEOUT {
                return Err(io::Error::other("the cluster does not answer"));
            }
            if let Some(error) = state.error.take() {
                return Err(error);
            }
            (std::mem::take(&mut state.again), std::mem::take(&mut state.ended))
        };
        for address in ended {
            if let Some(lane) = self.lanes.remove(&address) {
                drop(lane.queue);
                drop(lane.replies.join());
            }
        }
        // Where nobody says who has the slot now, the nodes are asked.
        if again.iter().any(|(_, address)| address.is_none()) {
            std::thread::sleep(PAUSE);
            self.learn();
        }
        for (request, address) in again {
            self.send(request, address);
        }
        Ok(())
    }

    /// Puts a request into the lane of its slot's node.
    fn send(&mut self, request: Request, named: Option<String>) {
        let owner = &mut self.owners[usize::from(request.slot)];
        if named.is_some() {
            *owner = named;
        }
        let Some(address) = owner.clone() else { return self.put_back(request) };
        if !self.lanes.contains_key(&address) {
            match self.open(&address) {
                Ok(lane) => drop(self.lanes.insert(address.clone(), lane)),
                Err(_) => {
                    // It may be gone: whoever has its slots by now is asked for.
                    self.owners[usize::from(request.slot)] = None;
                    return self.put_back(request);
                }
            }
        }
        let Some(lane) = self.lanes.get_mut(&address) else { return };
        lane.out.extend_from_slice(&request.bytes);
        let full = lane.out.len() >= SEND_BYTES;
        if let Err(error) = lane.queue.send(request) {
            // Its replies have ended.
            lane.out.clear();
            self.put_back(error.0);
        } else if full {
            self.flush(&address);
        }
    }

    fn put_back(&self, request: Request) {
        self.shared.state.lock().again.push((request, None));
    }

    fn flush(&mut self, address: &str) {
        if let Some(lane) = self.lanes.get_mut(address) {
            // Whoever reads the replies sees that the connection has ended.
            if lane.link.stream_mut().write_all(&lane.out).is_err() {
                lane.link.stream().shutdown();
            }
            lane.out.clear();
            lane.out.shrink_to(2 * SEND_BYTES);
        }
    }

    fn connect(&self, address: &str) -> io::Result<Link> {
        let wrong = || io::Error::other(format!("{address} is no address"));
        let (host, port) = address.rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse().map_err(|_| wrong())?;
        let mut link = Link::for_command(host, port, TIMEOUT, &self.options.tls)?;
        link.log_in(&self.options.credentials())?;
        Ok(link)
    }

    fn open(&mut self, address: &str) -> io::Result<Lane> {
        let link = self.connect(address)?;
        if !self.known.iter().any(|known| known == address) {
            self.known.push(address.to_owned());
        }
        let (queue, sent) = channel();
        let (socket, shared) = (link.stream().try_clone()?, self.shared.clone());
        let address = address.to_owned();
        let replies = std::thread::Builder::new()
            .name("replies".into())
            .spawn(move || read_replies(socket, &sent, &shared, &address))?;
        Ok(Lane { link, queue, out: Vec::new(), replies })
    }

    /// Asks the nodes who has which slots.
    fn learn(&mut self) {
        for address in self.known.clone() {
            let listed = self.connect(&address).and_then(|mut link| nodes(&mut link));
            let host = address.rsplit_once(':').map_or("", |(host, _)| host);
            if let Ok(Some(listed)) = listed {
                self.owners = owners(&listed, host);
                // One that is cut off may be wrong: the next one is asked first if there is a next time.
                self.known.rotate_left(1);
                return;
            }
        }
    }
}

/// Takes the replies of a node, and hands back what it has not done.
fn read_replies(socket: Socket, sent: &Receiver<Request>, shared: &Shared, address: &str) {
    let mut stream = BufReader::with_capacity(64 << 10, socket);
    let (mut line, mut ended) = (Vec::new(), false);
    for request in sent {
        let broken = ended || next_line(&mut stream, &mut line).is_err();
        let mut state = shared.state.lock();
        if broken {
            // Until whoever sends knows, all that comes.
            if !std::mem::replace(&mut ended, true) {
                stream.get_ref().shutdown();
                state.ended.push(address.to_owned());
            }
            state.again.push((request, None));
            shared.changed.notify_one();
            continue;
        }
        let words: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
        match words[0] {
            b"+OK" => {}
            b"$-1" | b"_" | b"-BUSYKEY" => state.kept += 1,
            b"-MOVED" => {
                let named = words.get(2).map(|word| String::from_utf8_lossy(word).into_owned());
                state.again.push((request, named));
                shared.changed.notify_one();
                continue;
            }
            b"-TRYAGAIN" | b"-CLUSTERDOWN" | b"-LOADING" | b"-UNCERTAIN" => {
                state.again.push((request, None));
                shared.changed.notify_one();
                continue;
            }
            _ => {
                let (key, line) =
                    (String::from_utf8_lossy(&request.key), String::from_utf8_lossy(&line));
                let text = format!("the key {key:?} is refused: {line}");
                state.error.get_or_insert_with(|| io::Error::other(text));
            }
        }
        state.done += 1;
        state.waiting -= 1;
        state.bytes -= request.bytes.len();
        shared.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owners_of_slots_are_read() {
        let nodes = "aa 10.0.0.1:7000@17000,host myself,master - 0 0 1 connected 0-99 200 [300->-bb]\n\
                     bb :7001@17001 master - 0 0 1 connected 100-199 99999-100000 16000-16383\n\
                     cc 10.0.0.3:7002@17002 slave aa 0 0 1 connected\n\nnonsense";
        let owners = owners(nodes, "seed");
        let at = |slot: usize| owners[slot].as_deref();
        assert_eq!((at(0), at(99), at(200)), (Some("10.0.0.1:7000"), Some("10.0.0.1:7000"), at(0)));
        assert_eq!((at(100), at(16383)), (Some("seed:7001"), Some("seed:7001")));
        assert_eq!((at(201), at(300)), (None, None));
    }
}
