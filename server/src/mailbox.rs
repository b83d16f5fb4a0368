//! Messages to a worker: the only way to reach a connection from outside its thread.

use crate::strong::Agreed;
use ashlar_engine::tier::Brought;
use bytes::Bytes;
use parking_lot::Mutex;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Bytes of messages in a mailbox above which connections whose commands send some have to wait
/// until it has been emptied.
pub const MAILBOX_BYTES_MAX: usize = 64 << 20;

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
    /// Send these bytes, which all that get them share: a published message, an invalidation.
    Send(Address, Bytes),
    /// The command that blocks the client is done; this is its reply.
    Unblock(Address, Vec<u8>),
    /// The command that blocks the client has been cancelled: it is answered with an error or as
    /// if its time were up.
    GiveUp(Address, bool),
    /// Close the connection.
    Kill(Address),
    /// The log has got further: replies that were held may leave.
    Durable,
    /// Look again at clients that were paused.
    Resume,
    /// Serve the other end of this stream: a connection that no listener accepted.
    Adopt(mio::net::UnixStream),
    /// What the connection's next request needs from disk is in memory, with names that were read; or the
    /// error that it gets.
    Loaded(Address, Result<Brought, String>),
    /// The agreement that the connection waits for has come about, or not.
    Agreed(Address, Agreed),
    /// Counts down: this worker is between two calls.
    Between(Arc<AtomicUsize>),
    /// There is room in memory: run the requests that wait for it.
    Room,
    /// Stop.
    Shutdown,
}

impl Message {
    fn bytes(&self) -> usize {
        let payload = match self {
            Message::Send(_, bytes) => bytes.len(),
            Message::Unblock(_, bytes) | Message::Agreed(_, Agreed::Replies(bytes)) => bytes.len(),
            _ => 0,
        };
        payload + size_of::<Message>()
    }
}

/// A worker's queue. A worker whose commands fill one stops running requests until it is empty
/// again (see [`MAILBOX_BYTES_MAX`]); what is delivered is bounded by the output limits of the
/// receiving connections.
#[derive(Debug)]
pub struct Mailbox {
    queue: Mutex<Vec<Message>>,
    waker: mio::Waker,
    waiting: AtomicBool,
    bytes: AtomicUsize,
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
            bytes: AtomicUsize::new(0),
        })
    }

    /// Puts a message into the queue and wakes the worker.
    pub fn post(&self, message: Message) {
        self.bytes.fetch_add(message.bytes(), Ordering::Relaxed);
        self.queue.lock().push(message);
        if !self.waiting.swap(true, Ordering::AcqRel) {
            // A full pipe means that the worker is about to wake up anyway.
            self.waker.wake().ok();
        }
    }

    /// Puts several messages into the queue and wakes the worker once.
    pub fn post_all(&self, messages: Vec<Message>) {
        let bytes = messages.iter().map(Message::bytes).sum();
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.queue.lock().extend(messages);
        if !self.waiting.swap(true, Ordering::AcqRel) {
            self.waker.wake().ok();
        }
    }

    /// Whether there are messages.
    pub fn is_waiting(&self) -> bool {
        self.waiting.load(Ordering::Acquire)
    }

    /// Whether those who fill it have to wait.
    pub fn is_full(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) > MAILBOX_BYTES_MAX
    }

    /// Moves all messages to `out`.
    pub fn take(&self, out: &mut Vec<Message>) {
        self.waiting.store(false, Ordering::Release);
        out.append(&mut self.queue.lock());
        let bytes = out.iter().map(Message::bytes).sum();
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}
