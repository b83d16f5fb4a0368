//! Stands between two servers, and cuts what goes through when it is told to.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A proxy on a port of its own.
pub struct Proxy {
    pub port: u16,
    cut: Arc<AtomicBool>,
}

/// How soon a cut is noticed.
const TICK: Duration = Duration::from_millis(20);

impl Proxy {
    pub fn to(port: u16) -> Proxy {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let own = listener.local_addr().expect("it is bound").port();
        let cut = Arc::new(AtomicBool::new(false));
        let flag = cut.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if flag.load(Ordering::Acquire) {
                    continue;
                }
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                let copies = (client.try_clone(), server.try_clone());
                if let (Ok(client_too), Ok(server_too)) = copies {
                    let (one, two) = (flag.clone(), flag.clone());
                    std::thread::spawn(move || pump(client, server, &one));
                    std::thread::spawn(move || pump(server_too, client_too, &two));
                }
            }
        });
        Proxy { port: own, cut }
    }

    pub fn cut(&self, cut: bool) {
        self.cut.store(cut, Ordering::Release);
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream, cut: &AtomicBool) {
    let mut buf = vec![0; 64 << 10];
    let _ = from.set_read_timeout(Some(TICK));
    while !cut.load(Ordering::Acquire) {
        match from.read(&mut buf) {
            Ok(0) => break,
            // What was sent after the cut does not get through, even where the read began before.
            Ok(_) if cut.load(Ordering::Acquire) => break,
            Ok(len) => {
                if to.write_all(&buf[..len]).is_err() {
                    break;
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => break,
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
