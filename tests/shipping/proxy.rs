//! A connection between nodes that can be cut: a port that stays while what is behind it changes.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

/// The proxy.
pub struct Proxy {
    /// Where to connect to.
    pub port: u16,
    target: Arc<AtomicU16>,
    open: Arc<AtomicBool>,
    streams: Arc<Mutex<Vec<TcpStream>>>,
}

impl Proxy {
    pub fn new(target: u16) -> Proxy {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let target = Arc::new(AtomicU16::new(target));
        let open = Arc::new(AtomicBool::new(true));
        let streams = Arc::new(Mutex::new(Vec::new()));
        let proxy = Proxy { port, target, open, streams };
        let (target, open) = (proxy.target.clone(), proxy.open.clone());
        let streams = proxy.streams.clone();
        // It ends with the test's process.
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let port = target.load(Ordering::Acquire);
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                if !open.load(Ordering::Acquire) {
                    continue;
                }
                let mut held = streams.lock().unwrap();
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    held.push(from.try_clone().unwrap());
                    thread::spawn(move || pump(from, to));
                }
            }
        });
        proxy
    }

    /// Cuts all connections; with `open` new ones are let through.
    pub fn cut(&self, open: bool) {
        self.open.store(open, Ordering::Release);
        for stream in self.streams.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// From now on another server is behind it.
    pub fn lead_to(&self, port: u16) {
        self.target.store(port, Ordering::Release);
        self.cut(true);
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream) {
    let mut buf = [0; 16 << 10];
    while let Ok(got @ 1..) = from.read(&mut buf) {
        if to.write_all(&buf[..got]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
