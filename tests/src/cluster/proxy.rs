//! The network between nodes: what one sends to another can be held back and delayed.
//!
//! A node's other nodes know the proxy's port as its own. Who is at the other end of a connection is told by
//! its address, as each node dials from one of its own. Nodes of old releases do not; they are found by the
//! socket: its number among those of the nodes' processes. Bytes that are held back are
//! not lost, as TCP would send them again; to a node it looks as if packets went nowhere.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often a pump looks whether it may go on.
const LOOK: Duration = Duration::from_millis(5);
/// How often it is looked for the owner of a socket.
const OWNER_LOOKS: usize = 3;

/// The address that a node dials from: all of 127.0.0.0/8 is this machine.
pub fn source(node: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 1, 0, node as u8)
}

/// The node that dials from an address.
fn node_of(address: IpAddr) -> Option<usize> {
    match address {
        IpAddr::V4(address) => match address.octets() {
            [127, 1, 0, node] => Some(usize::from(node)),
            _ => None,
        },
        IpAddr::V6(_) => None,
    }
}

/// Which node may reach which.
#[derive(Debug, Default)]
pub struct Network {
    cut: Mutex<HashSet<(usize, usize)>>,
    pids: Mutex<HashMap<usize, u32>>,
    delay_us: AtomicU64,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Network {
    /// Tells which process a node is.
    pub fn set_pid(&self, node: usize, pid: u32) {
        locked(&self.pids).insert(node, pid);
    }

    /// Holds back what `from` sends to `to`, or no longer.
    pub fn cut(&self, from: usize, to: usize, cut: bool) {
        let mut cuts = locked(&self.cut);
        if cut {
            cuts.insert((from, to));
        } else {
            cuts.remove(&(from, to));
        }
    }

    /// Lets everything through.
    pub fn heal(&self) {
        locked(&self.cut).clear();
    }

    /// Lets everything take this long.
    pub fn delay(&self, delay: Duration) {
        self.delay_us.store(delay.as_micros() as u64, Ordering::Relaxed);
    }

    fn is_cut(&self, from: Option<usize>, to: Option<usize>) -> bool {
        let (Some(from), Some(to)) = (from, to) else { return false };
        locked(&self.cut).contains(&(from, to))
    }

    /// The node that dials from this address, or whose socket has it. The system's table of sockets may lack a line while others open and
    /// close theirs, so one look is not enough.
    fn owner(&self, address: SocketAddr) -> Option<usize> {
        let look = || (0..OWNER_LOOKS).find_map(|_| self.look_for_owner(address));
        node_of(address.ip()).or_else(look)
    }

    fn look_for_owner(&self, address: SocketAddr) -> Option<usize> {
        let inode = inode_of(address)?;
        let link = format!("socket:[{inode}]");
        let pids = locked(&self.pids).clone();
        pids.into_iter().find_map(|(node, pid)| {
            let mut files = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
            let is_it = |file: io::Result<fs::DirEntry>| {
                file.ok()
                    .and_then(|file| fs::read_link(file.path()).ok())
                    .is_some_and(|target| target.to_string_lossy() == link)
            };
            files.any(is_it).then_some(node)
        })
    }
}

/// The number of the local TCP socket with this address.
fn inode_of(address: SocketAddr) -> Option<String> {
    let SocketAddr::V4(address) = address else { return None };
    let ip = u32::from_le_bytes(address.ip().octets());
    let wanted = format!("{ip:08X}:{:04X}", address.port());
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        (fields.get(1) == Some(&wanted.as_str()))
            .then(|| fields.get(9).map(|inode| (*inode).to_owned()))?
    })
}

/// The way to one node.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    stopping: Arc<AtomicBool>,
    listener: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Opens the way to node `to`, which listens on `target`.
    ///
    /// # Errors
    /// If the system gives no port or no thread.
    pub fn start(to: usize, target: u16, network: Arc<Network>) -> io::Result<Proxy> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let port = listener.local_addr()?.port();
        let stopping = Arc::new(AtomicBool::new(false));
        let stop = stopping.clone();
        let thread = std::thread::Builder::new().name(format!("proxy-{to}")).spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                // A connection that cannot be served is closed; its node tries again.
                let _ = stream.and_then(|stream| serve(stream, to, target, &network, &stop));
            }
        })?;
        Ok(Proxy { port, stopping, listener: Some(thread) })
    }

    /// The port that others are told.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        // Its thread waits for one more connection.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        if let Some(thread) = self.listener.take() {
            let _ = thread.join();
        }
    }
}

fn serve(
    near: TcpStream,
    to: usize,
    target: u16,
    network: &Arc<Network>,
    stop: &Arc<AtomicBool>,
) -> io::Result<()> {
    let from = network.owner(near.peer_addr()?);
    let far = TcpStream::connect(("127.0.0.1", target))?;
    for stream in [&near, &far] {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(LOOK))?;
    }
    let ways = [(near.try_clone()?, far.try_clone()?, from, Some(to)), (far, near, Some(to), from)];
    for (source, sink, from, to) in ways {
        let (network, stop) = (network.clone(), stop.clone());
        std::thread::Builder::new().name("pump".into()).spawn(move || {
            // The end of one way is the end of the other.
            let _ = pump(&source, &sink, || network.is_cut(from, to), &network, &stop);
            let _ = source.shutdown(std::net::Shutdown::Both);
            let _ = sink.shutdown(std::net::Shutdown::Both);
        })?;
    }
    Ok(())
}

fn pump(
    mut source: &TcpStream,
    mut sink: &TcpStream,
    is_cut: impl Fn() -> bool,
    network: &Network,
    stop: &AtomicBool,
) -> io::Result<()> {
    let mut buf = vec![0; 64 << 10];
    while !stop.load(Ordering::Relaxed) {
        let got = match source.read(&mut buf) {
            Ok(0) => return Ok(()),
            Ok(got) => got,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                continue;
            }
            Err(error) => return Err(error),
        };
        let delay_us = network.delay_us.load(Ordering::Relaxed);
        if delay_us > 0 {
            std::thread::sleep(Duration::from_micros(delay_us));
        }
        while is_cut() && !stop.load(Ordering::Relaxed) {
            std::thread::sleep(LOOK);
        }
        sink.write_all(&buf[..got])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that sends back what it gets, once.
    fn echo() -> (u16, JoinHandle<()>) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let port = listener.local_addr().expect("its address").port();
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a connection");
            let mut buf = [0; 64];
            while let Ok(got @ 1..) = stream.read(&mut buf) {
                if stream.write_all(&buf[..got]).is_err() {
                    return;
                }
            }
        });
        (port, thread)
    }

    #[test]
    fn what_is_cut_arrives_once_it_is_healed() {
        let (target, thread) = echo();
        let network = Arc::new(Network::default());
        // This process is node 0, and so is the one behind the proxy node 1.
        network.set_pid(0, std::process::id());
        let proxy = Proxy::start(1, target, network.clone()).expect("a proxy");
        let mut stream = TcpStream::connect(("127.0.0.1", proxy.port())).expect("a way");
        stream.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
        let mut buf = [0; 5];
        stream.write_all(b"hello").expect("sent");
        // The reply may take longer than the timeout on a busy machine.
        while stream.peek(&mut buf).is_err() {}
        stream.read_exact(&mut buf).expect("an echo");
        for (from, to) in [(0, 1), (1, 0)] {
            network.cut(from, to, true);
            stream.write_all(b"again").expect("sent");
            assert!(stream.peek(&mut buf).is_err(), "{from} to {to} is cut");
            network.heal();
            while stream.peek(&mut buf).is_err() {}
            stream.read_exact(&mut buf).expect("an echo");
            assert_eq!(&buf, b"again");
        }
        drop(stream);
        thread.join().expect("the server ends");
    }
}
