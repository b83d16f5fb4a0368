//! One connection: writers put commands in, one thread reads what comes and applies it in order.
//!
//! ```text
//! caller --command + what its reply is for--> socket ... reply or push --> reader thread
//!                                                   reply: cache it, wake the caller
//!                                                   push:  drop keys
//! ```
//! That everything comes on one connection and is applied by one thread is what makes the cache
//! right: the server sends the invalidation of a value after the value, so there is no moment at
//! which a reply that is already out of date could be put into the cache.

use crate::Error;
use crate::cache::Cache;
use crate::near::{Counters, Options};
use crate::resp::{self, ReadError, Value};
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::io::{BufReader, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Most commands that wait for their replies; whoever wants to send more waits too.
const PENDING_MAX: usize = 10_000;

/// What the reply of a command is for.
#[derive(Debug)]
enum Purpose {
    /// Only that it comes, in its turn.
    Ignored,
    /// The value of a key.
    Get(Arc<[u8]>),
    /// How long the value that came just before may live. It goes to who asked for the value.
    Lifetime(Arc<[u8]>, Arc<Answer>),
    /// The caller's; after it these keys are not what they were.
    Call(Vec<Box<[u8]>>, Arc<Answer>),
}

/// Where a caller waits.
#[derive(Debug, Default)]
struct Answer {
    value: Mutex<Option<Result<Value, Error>>>,
    ready: Condvar,
}

impl Answer {
    fn give(&self, value: Result<Value, Error>) {
        *self.value.lock() = Some(value);
        self.ready.notify_one();
    }

    fn wait(&self) -> Result<Value, Error> {
        let mut value = self.value.lock();
        loop {
            if let Some(value) = value.take() {
                return value;
            }
            self.ready.wait(&mut value);
        }
    }
}

/// What the connection's threads share.
#[derive(Debug)]
pub(crate) struct Connection {
    /// Held while a command is written, so that the order of `pending` is that of the socket.
    out: Mutex<TcpStream>,
    /// Another handle of the socket, to end it from anywhere.
    socket: TcpStream,
    pending: Mutex<VecDeque<Purpose>>,
    alive: AtomicBool,
}

impl Connection {
    /// Connects, authenticates, turns tracking on, and starts the thread that reads.
    pub fn open(
        address: &str,
        options: &Options,
        cache: &Arc<Cache>,
        counters: &Arc<Counters>,
    ) -> Result<Arc<Connection>, Error> {
        let mut failure = Error::Disconnected(format!("{address}: no address"));
        for address in address.to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, options.connect_timeout) {
                Ok(socket) => return Connection::start(socket, options, cache, counters),
                Err(error) => failure = error.into(),
            }
        }
        Err(failure)
    }

    fn start(
        mut socket: TcpStream,
        options: &Options,
        cache: &Arc<Cache>,
        counters: &Arc<Counters>,
    ) -> Result<Arc<Connection>, Error> {
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(options.connect_timeout))?;
        socket.set_write_timeout(Some(options.connect_timeout))?;
        let mut reader = BufReader::new(socket.try_clone()?);
        for command in greeting(options) {
            let mut bytes = Vec::new();
            let args: Vec<&[u8]> = command.iter().map(String::as_bytes).collect();
            resp::encode(&args, &mut bytes);
            socket.write_all(&bytes)?;
            match resp::read(&mut reader) {
                Ok(Value::Error(text)) => return Err(Error::Refused(text)),
                Ok(_) => {}
                Err(ReadError::Lost(error)) => return Err(error),
                Err(ReadError::Silent) => {
                    return Err(Error::Disconnected("the server does not answer".into()));
                }
            }
        }
        socket.set_read_timeout(Some(options.ping_every))?;
        let connection = Arc::new(Connection {
            out: Mutex::new(socket.try_clone()?),
            socket,
            pending: Mutex::default(),
            alive: AtomicBool::new(true),
        });
        let reading = Reading {
            connection: connection.clone(),
            cache: cache.clone(),
            counters: counters.clone(),
            ttl_max: options.ttl_max,
            asked: false,
            last: None,
        };
        std::thread::Builder::new()
            .name("ashlar-near-cache".into())
            .spawn(move || reading.run(&mut reader))?;
        Ok(connection)
    }

    /// Whether nothing has been lost yet: while it is, what the cache holds is current.
    pub fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Acquire)
    }

    /// Ends the connection; its thread then takes back all that rested on it.
    pub fn close(&self) {
        // It may be closed already, which is as good.
        drop(self.socket.shutdown(Shutdown::Both));
    }

    fn send<const N: usize>(&self, commands: [(&[&[u8]], Purpose); N]) -> Result<(), Error> {
        let mut bytes = Vec::new();
        commands.iter().for_each(|(args, _)| resp::encode(args, &mut bytes));
        let mut out = self.out.lock();
        {
            let mut pending = self.pending.lock();
            // The reader takes all that is pending once it has marked the connection as lost.
            if !self.is_alive() {
                return Err(Error::Disconnected("the connection was lost".into()));
            }
            if pending.len() >= PENDING_MAX {
                return Err(Error::Disconnected("too many commands wait for replies".into()));
            }
            pending.extend(commands.into_iter().map(|(_, purpose)| purpose));
        }
        if let Err(error) = out.write_all(&bytes) {
            // A part may have been sent: nothing after it would be understood.
            self.close();
            return Err(error.into());
        }
        Ok(())
    }

    /// Asks for a key's value, which is in the cache once this returns.
    pub fn get(&self, key: &[u8]) -> Result<Value, Error> {
        let answer = Arc::new(Answer::default());
        let shared: Arc<[u8]> = key.into();
        self.send([
            (&[b"CLIENT", b"CACHING", b"YES"], Purpose::Ignored),
            (&[b"GET", key], Purpose::Get(shared.clone())),
            (&[b"PTTL", key], Purpose::Lifetime(shared, answer.clone())),
        ])?;
        answer.wait()
    }

    /// Runs any command; `keys` are those that it changes.
    pub fn call(&self, args: &[&[u8]], keys: &[&[u8]]) -> Result<Value, Error> {
        let answer = Arc::new(Answer::default());
        let keys = keys.iter().map(|key| (*key).into()).collect();
        self.send([(args, Purpose::Call(keys, answer.clone()))])?;
        answer.wait()
    }
}

fn greeting(options: &Options) -> Vec<Vec<String>> {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    let mut hello: Vec<String> = words(&["HELLO", "3"]);
    if let Some((user, password)) = &options.credentials {
        hello.extend([String::from("AUTH"), user.clone(), password.clone()]);
    }
    let mut commands = vec![hello];
    if options.database != 0 {
        commands.push(words(&["SELECT", &options.database.to_string()]));
    }
    commands.push(words(&["CLIENT", "TRACKING", "ON", "OPTIN"]));
    commands
}

/// The state of the thread that reads.
struct Reading {
    connection: Arc<Connection>,
    cache: Arc<Cache>,
    counters: Arc<Counters>,
    ttl_max: Duration,
    /// Whether a PING was sent since anything came last.
    asked: bool,
    /// The value of the GET that came last.
    last: Option<Value>,
}

impl Reading {
    fn run(mut self, reader: &mut BufReader<TcpStream>) {
        let error = loop {
            match resp::read(reader) {
                Ok(Value::Push(parts)) => {
                    self.asked = false;
                    self.pushed(&parts);
                }
                Ok(value) => {
                    self.asked = false;
                    if let Err(error) = self.replied(value) {
                        break error;
                    }
                }
                Err(ReadError::Lost(error)) => break error,
                Err(ReadError::Silent) => {
                    if let Err(error) = self.ask_for_life() {
                        break error;
                    }
                }
            }
        };
        // In this order: nothing may be served on the strength of a later connection that was kept
        // on the strength of this one.
        let dropped = self.cache.clear();
        self.counters.lost(dropped);
        let mut pending = self.connection.pending.lock();
        self.connection.alive.store(false, Ordering::Release);
        let waiting = std::mem::take(&mut *pending);
        drop(pending);
        self.connection.close();
        for purpose in waiting {
            if let Purpose::Lifetime(_, answer) | Purpose::Call(_, answer) = purpose {
                answer.give(Err(error.clone()));
            }
        }
    }

    /// Nothing came for a while: is anybody there?
    fn ask_for_life(&mut self) -> Result<(), Error> {
        if self.asked {
            return Err(Error::Disconnected("the server went silent".into()));
        }
        self.asked = true;
        self.connection.send([(&[b"PING"], Purpose::Ignored)])
    }

    fn pushed(&mut self, parts: &[Value]) {
        if parts.first().and_then(Value::bytes) != Some(b"invalidate") {
            return;
        }
        match parts.get(1) {
            Some(Value::Array(keys)) => {
                for key in keys.iter().filter_map(Value::bytes) {
                    let dropped = self.cache.remove(key);
                    self.counters.invalidated(1, u64::from(dropped));
                }
            }
            _ => {
                let dropped = self.cache.clear();
                self.counters.invalidated(1, dropped as u64);
            }
        }
    }

    fn replied(&mut self, value: Value) -> Result<(), Error> {
        let purpose = self.connection.pending.lock().pop_front();
        match purpose.ok_or(Error::Protocol("a reply that nobody asked for"))? {
            Purpose::Ignored => {}
            Purpose::Get(key) => {
                // It goes in here and now, before any invalidation that follows it is looked at.
                if let Some(value) = cached(&value) {
                    self.counters.evicted(self.cache.insert(
                        &key,
                        value,
                        Instant::now() + self.ttl_max,
                    ));
                }
                self.last = Some(value);
            }
            Purpose::Lifetime(key, answer) => {
                match value {
                    Value::Int(ttl_ms) if ttl_ms >= 0 => {
                        self.cache.shorten(&key, Duration::from_millis(ttl_ms.unsigned_abs()));
                    }
                    // Without an expiry, or there is no such key.
                    Value::Int(_) => {}
                    _ => {
                        self.cache.remove(&key);
                    }
                }
                answer.give(refused(self.last.take().unwrap_or(Value::Null)));
            }
            Purpose::Call(keys, answer) => {
                for key in &keys {
                    self.cache.remove(key);
                }
                answer.give(refused(value));
            }
        }
        Ok(())
    }
}

fn refused(value: Value) -> Result<Value, Error> {
    match value {
        Value::Error(text) => Err(Error::Refused(text)),
        value => Ok(value),
    }
}

/// What is kept of a reply to GET; nothing of an error.
fn cached(value: &Value) -> Option<crate::cache::Cached> {
    match value {
        Value::Bulk(bytes) => Some(Some(bytes.as_slice().into())),
        Value::Null => Some(None),
        _ => None,
    }
}
