//! A connection between servers that can be cut: a port that stays while what is behind it changes.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

/// The proxy.
#[derive(Debug)]
pub struct Proxy {
    /// Where to connect to.
    pub port: u16,
    target: Arc<AtomicU16>,
    gate: Arc<Mutex<Gate>>,
}

/// What goes through at the moment.
#[derive(Debug, Default)]
struct Gate {
    shut: bool,
    streams: Vec<TcpStream>,
}

fn locked(gate: &Mutex<Gate>) -> MutexGuard<'_, Gate> {
    gate.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Gate {
    /// Ends all connections. Also what was read already does not get through from here on.
    fn end(&mut self) {
        for stream in self.streams.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Proxy {
    /// Leads to a port of this machine.
    ///
    /// # Panics
    /// If there is no free port.
    pub fn to(target: u16) -> Proxy {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let (target, gate) = (Arc::new(AtomicU16::new(target)), Arc::default());
        let proxy = Proxy { port, target, gate };
        let (target, gate) = (proxy.target.clone(), proxy.gate.clone());
        // It ends with the test's process.
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let port = target.load(Ordering::Acquire);
                if let Ok(server) = TcpStream::connect(("127.0.0.1", port)) {
                    // One that cannot be served is closed.
                    let _ = let_through(&client, &server, &gate);
                }
            }
        });
        proxy
    }

    /// Ends all connections; new ones are let through.
    pub fn interrupt(&self) {
        let mut gate = locked(&self.gate);
        gate.shut = false;
        gate.end();
    }

    /// Ends all connections and lets none through.
    pub fn shut(&self) {
        let mut gate = locked(&self.gate);
        gate.shut = true;
        gate.end();
    }

    /// Lets connections through again.
    pub fn open(&self) {
        locked(&self.gate).shut = false;
    }

    /// From now on another server is behind it.
    pub fn lead_to(&self, port: u16) {
        self.target.store(port, Ordering::Release);
        self.interrupt();
    }
}

fn let_through(client: &TcpStream, server: &TcpStream, gate: &Mutex<Gate>) -> std::io::Result<()> {
    let mut gate = locked(gate);
    if gate.shut {
        return Ok(());
    }
    for (from, to) in [(client, server), (server, client)] {
        let (from, to) = (from.try_clone()?, to.try_clone()?);
        gate.streams.push(from.try_clone()?);
        thread::spawn(move || pump(from, to));
    }
    Ok(())
}

fn pump(mut from: TcpStream, mut to: TcpStream) {
    let mut buf = vec![0; 64 << 10];
    while let Ok(got @ 1..) = from.read(&mut buf) {
        if to.write_all(&buf[..got]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
