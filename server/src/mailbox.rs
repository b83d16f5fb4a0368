//! Messages to a worker: the only way to reach a connection from outside its thread.

use parking_lot::Mutex;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A connection: its worker, its place there, and its id, which no other connection ever gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    /// Number of the worker.
    pub worker: usize,
    /// Place among the worker's connections.
    pub slot: usize,
    /// Client id.
    pub id: u64,
}

/// What a connection is told.
#[derive(Debug)]
pub enum Message {
    /// Send these bytes: a published message, an invalidation.
    Send(Address, Arc<[u8]>),
    /// The command that blocks the client is done; this is its reply.
    Unblock(Address, Vec<u8>),
    /// The command that blocks the client is to give up, with an error or as if its time were up.
    GiveUp(Address, bool),
    /// Close the connection.
    Kill(Address),
    /// The log has got further: replies that were held may leave.
    Durable,
    /// Look again at clients that were paused.
    Resume,
    /// Stop.
    Shutdown,
}

/// A worker's queue. Its length is bounded by the output limits of the receiving connections,
/// which are checked as the messages are delivered, once every turn of the worker's loop.
#[derive(Debug)]
pub struct Mailbox {
    queue: Mutex<Vec<Message>>,
    waker: mio::Waker,
    waiting: AtomicBool,
}

impl Mailbox {
    /// The mailbox of the worker that polls `registry`.
    ///
    /// # Errors
    /// If the system gives no event descriptor.
    pub fn new(registry: &mio::Registry, token: mio::Token) -> io::Result<Mailbox> {
        Ok(Mailbox {
            queue: Mutex::new(Vec::new()),
            waker: mio::Waker::new(registry, token)?,
            waiting: AtomicBool::new(false),
        })
    }

    /// Puts a message into the queue and wakes the worker.
    pub fn post(&self, message: Message) {
        self.queue.lock().push(message);
        if !self.waiting.swap(true, Ordering::AcqRel) {
            // A full pipe means that the worker is about to wake up anyway.
            self.waker.wake().ok();
        }
    }

    /// Whether there are messages.
    pub fn is_waiting(&self) -> bool {
        self.waiting.load(Ordering::Acquire)
    }

    /// Moves all messages to `out`.
    pub fn take(&self, out: &mut Vec<Message>) {
        self.waiting.store(false, Ordering::Release);
        out.append(&mut self.queue.lock());
    }
}
