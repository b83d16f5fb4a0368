//! The own load client: one thread, many connections, pipelined; closed loop or open loop.
//!
//! In the closed loop a connection sends its next batch when the last is answered: it measures how much a
//! server can do. In the open loop batches leave at a fixed rate whether or not the server keeps up, and
//! latency counts from the moment a batch was due: a server that stalls cannot hide what it kept waiting
//! ("coordinated omission", Tene 2013). The client spins then, for a sleep would be late by more than
//! what it measures; so on two cores the server has the other one.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::protocol::{Protocol, Scan};
use crate::server::Server;
use crate::work::Work;

/// Longest time without any reply.
const STALL_MAX: Duration = Duration::from_secs(10);
/// Unsent bytes of a connection at which an open loop gives up: the server does not keep up.
const UNSENT_MAX: usize = 64 << 20;
/// Longest reply.
const REPLY_BYTES_MAX: usize = 16 << 20;
/// Longest latency that is told apart, in nanoseconds.
const LATENCY_MAX_NS: u64 = 60_000_000_000;

/// How fast to send.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// As fast as replies come, until so many requests are answered.
    Closed {
        /// Requests in all.
        requests: u64,
    },
    /// So many requests a second, for so long.
    Open {
        /// Requests a second.
        rate: f64,
        /// How long.
        seconds: f64,
    },
}

/// What came of it.
pub struct Outcome {
    /// Requests answered.
    pub requests: u64,
    /// From the first request to the last reply.
    pub seconds: f64,
    /// Nanoseconds from when a request was due to its reply.
    pub latency: Histogram<u64>,
    /// Nanoseconds from when a batch was due to when it was sent.
    pub late: Histogram<u64>,
}

impl Outcome {
    /// Milliseconds at `quantile` of the latencies.
    pub fn latency_ms(&self, quantile: f64) -> f64 {
        self.latency.value_at_quantile(quantile) as f64 / 1e6
    }
}

/// Sends `work` to `server` over `clients` connections in batches of `pipeline`.
pub fn drive(
    server: &Server,
    work: &Work,
    pipeline: usize,
    clients: usize,
    pace: Pace,
) -> Result<Outcome, String> {
    let load = Load::new(server, work.clone(), pipeline as u32, clients);
    load.and_then(|load| load.run(pace)).map_err(|error| server.with_log(&error))
}

/// Requests that left together.
struct Batch {
    due_ns: u64,
    /// Replies yet to come.
    replies: u32,
    /// Requests that one reply answers.
    requests: u32,
}

struct Connection {
    stream: TcpStream,
    unsent: Vec<u8>,
    sent: usize,
    input: Vec<u8>,
    filled: usize,
    waiting: VecDeque<Batch>,
}

struct Load {
    poll: Poll,
    events: Events,
    connections: Vec<Connection>,
    protocol: Protocol,
    work: Work,
    pipeline: u32,
    start: Instant,
    outcome: Outcome,
}

impl Load {
    fn new(server: &Server, work: Work, pipeline: u32, clients: usize) -> Result<Self, String> {
        let poll = Poll::new().map_err(|error| error.to_string())?;
        let mut connections = Vec::with_capacity(clients);
        for index in 0..clients {
            let connection = Connection::open(server, &poll, Token(index));
            connections.push(connection.map_err(|error| format!("connecting: {error}"))?);
        }
        let histogram =
            || Histogram::new_with_bounds(1, LATENCY_MAX_NS, 3).map_err(|error| error.to_string());
        let (latency, late) = (histogram()?, histogram()?);
        Ok(Load {
            poll,
            events: Events::with_capacity(clients.max(1)),
            connections,
            protocol: server.program.protocol(),
            work,
            pipeline,
            start: Instant::now(),
            outcome: Outcome { requests: 0, seconds: 0.0, latency, late },
        })
    }

    fn run(mut self, pace: Pace) -> Result<Outcome, String> {
        self.start = Instant::now();
        match pace {
            Pace::Closed { requests } => self.closed(requests)?,
            Pace::Open { rate, seconds } => self.open(rate, seconds)?,
        }
        self.outcome.seconds = self.start.elapsed().as_secs_f64();
        Ok(self.outcome)
    }

    fn closed(&mut self, requests: u64) -> Result<(), String> {
        let mut unsent = requests.div_ceil(u64::from(self.pipeline));
        let mut open = 0;
        for index in 0..self.connections.len() {
            if unsent > 0 {
                (unsent, open) = (unsent - 1, open + 1);
                self.send(index, self.now_ns())?;
            }
        }
        while open > 0 {
            for index in self.ready(Some(STALL_MAX))? {
                open -= self.receive(index)?;
                if unsent > 0 && self.connections[index].waiting.is_empty() {
                    (unsent, open) = (unsent - 1, open + 1);
                    self.send(index, self.now_ns())?;
                }
            }
        }
        Ok(())
    }

    fn open(&mut self, rate: f64, seconds: f64) -> Result<(), String> {
        let every_ns = f64::from(self.pipeline) / rate * 1e9;
        let batches = (seconds * 1e9 / every_ns).ceil() as u64;
        let (mut sent, mut open) = (0, 0);
        let mut heard = Instant::now();
        while sent < batches || open > 0 {
            let due_ns = (sent as f64 * every_ns) as u64;
            if sent < batches && self.now_ns() >= due_ns {
                let index = (sent % self.connections.len() as u64) as usize;
                self.send(index, due_ns)?;
                let late = self.now_ns().saturating_sub(due_ns);
                self.outcome.late.saturating_record(late.max(1));
                (sent, open) = (sent + 1, open + 1);
            }
            for index in self.ready(Some(Duration::ZERO))? {
                open -= self.receive(index)?;
                heard = Instant::now();
            }
            if open > 0 && heard.elapsed() > STALL_MAX {
                return Err(format!("no reply for {STALL_MAX:?}"));
            }
        }
        Ok(())
    }

    fn now_ns(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    /// Connections that can be read or written.
    fn ready(&mut self, wait: Option<Duration>) -> Result<Vec<usize>, String> {
        match self.poll.poll(&mut self.events, wait) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(Vec::new()),
            Err(error) => return Err(error.to_string()),
        }
        if self.events.is_empty() && wait != Some(Duration::ZERO) {
            return Err(format!("no reply for {STALL_MAX:?}"));
        }
        Ok(self.events.iter().map(|event| event.token().0).collect())
    }

    /// Sends a batch that was due at `due_ns`.
    fn send(&mut self, index: usize, due_ns: u64) -> Result<(), String> {
        let connection = &mut self.connections[index];
        let replies = self.work.batch(self.protocol, self.pipeline, &mut connection.unsent);
        let requests = self.pipeline / replies;
        connection.waiting.push_back(Batch { due_ns, replies, requests });
        connection.flush()
    }

    /// Takes what has come; answers how many batches that completes.
    fn receive(&mut self, index: usize) -> Result<u64, String> {
        let connection = &mut self.connections[index];
        connection.flush()?;
        let mut completed = 0;
        loop {
            let Some(last) = connection.read()? else { return Ok(completed) };
            let now_ns = self.start.elapsed().as_nanos() as u64;
            let mut at = 0;
            loop {
                match self.protocol.scan(&connection.input[at..connection.filled]) {
                    Scan::Whole(len) => at += len,
                    Scan::Partial => break,
                    Scan::Error(_) | Scan::Garbage => {
                        let text = &connection.input[at..connection.filled.min(at + 200)];
                        return Err(format!("replied {:?}", String::from_utf8_lossy(text)));
                    }
                }
                let batch = connection.waiting.front_mut().ok_or("a reply to no request")?;
                let latency_ns = now_ns.saturating_sub(batch.due_ns);
                let requests = u64::from(batch.requests);
                self.outcome.latency.saturating_record_n(latency_ns.max(1), requests);
                self.outcome.requests += requests;
                batch.replies -= 1;
                if batch.replies == 0 {
                    connection.waiting.pop_front();
                    completed += 1;
                }
            }
            connection.input.copy_within(at..connection.filled, 0);
            connection.filled -= at;
            if last {
                return Ok(completed);
            }
        }
    }
}

impl Connection {
    fn open(server: &Server, poll: &Poll, token: Token) -> io::Result<Self> {
        let stream = std::net::TcpStream::connect(server.address)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let mut stream = TcpStream::from_std(stream);
        poll.registry().register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        Ok(Connection {
            stream,
            unsent: Vec::new(),
            sent: 0,
            input: vec![0; 64 << 10],
            filled: 0,
            waiting: VecDeque::new(),
        })
    }

    fn flush(&mut self) -> Result<(), String> {
        while self.sent < self.unsent.len() {
            match self.stream.write(&self.unsent[self.sent..]) {
                Ok(len) => self.sent += len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.unsent.len() - self.sent > UNSENT_MAX {
                        return Err("the server does not keep up with the rate".to_owned());
                    }
                    return Ok(());
                }
                Err(error) => return Err(format!("sending: {error}")),
            }
        }
        self.unsent.clear();
        self.sent = 0;
        Ok(())
    }

    /// Reads once: nothing there; something, and perhaps more (false); something, and no more (true).
    /// A read that does not fill its room has emptied the socket: epoll(7) says so for streams.
    fn read(&mut self) -> Result<Option<bool>, String> {
        if self.filled == self.input.len() {
            if self.filled >= REPLY_BYTES_MAX {
                return Err("a reply is too long".to_owned());
            }
            self.input.resize(self.filled * 2, 0);
        }
        loop {
            return match self.stream.read(&mut self.input[self.filled..]) {
                Ok(0) => Err("the server closed the connection".to_owned()),
                Ok(len) => {
                    self.filled += len;
                    Ok(Some(self.filled < self.input.len()))
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
                Err(error) => Err(format!("reading: {error}")),
            };
        }
    }
}
