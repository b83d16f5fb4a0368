//! The thread of a node: waits for its sockets, its clock and other threads, and lets its driver turn.

use super::driver::Driver;
use super::handle::Handle;
use super::peers::Peers;
use super::{DriverOptions, FileSizes, Host, Options};
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// Starts a node; its thread ends after [`Event::Stop`](super::Event::Stop).
///
/// # Errors
/// If its files are damaged, or the system gives no thread or socket.
pub fn start<H: Host>(
    host: H,
    options: Options,
    nonce: impl FnMut() -> [u8; 32] + Send + 'static,
) -> io::Result<(Arc<Handle>, JoinHandle<()>)> {
    let Options { disk, dir, name, listener, secret, security, settings, seed } = options;
    let peer_port = listener.local_addr()?.port();
    let (peers, waker) = Peers::new(listener, secret, security, Box::new(nonce))?;
    let handle = Arc::new(Handle::new(waker, peer_port));
    let sizes = FileSizes::default();
    let options = DriverOptions { disk, dir, name, settings, seed, sizes };
    let own = handle.clone();
    let (started, wait) = std::sync::mpsc::channel();
    let thread = std::thread::Builder::new().name("ashlar-raft".into()).spawn(move || {
        match Driver::open(host, options, Box::new(peers), own.clone()) {
            Ok(mut driver) => {
                drop(started.send(Ok(())));
                run(&mut driver);
                own.end();
                driver.join_writers();
            }
            Err(error) => drop(started.send(Err(error))),
        }
        own.end();
    })?;
    wait.recv().map_err(|_| io::Error::other("the node's thread ended"))??;
    Ok((handle, thread))
}

fn run<H: Host>(driver: &mut Driver<H>) {
    loop {
        let now_us = driver.handle.now_us();
        let wait_us = match driver.handle.is_waiting() {
            true => 0,
            false => driver.due_us().saturating_sub(now_us),
        };
        // Rounded up: a turn that comes too early does nothing.
        let wait = Duration::from_millis(wait_us.div_ceil(1000));
        if let Err(error) = driver.links.wait(wait) {
            return driver.fail(&error.to_string());
        }
        let now_us = driver.handle.now_us();
        if !driver.turn(now_us) {
            return;
        }
    }
}
