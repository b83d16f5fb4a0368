//! Clients: each does one operation after the other, repeats what may not have arrived, and writes
//! down what it was told.

use crate::world::{What, World};
use ashlar_engine::stamp::Stamp;
use ashlar_replication::raft::{Answer, GroupId, OwnedCall, Request, RequestId};
use ashlar_tests::history::{Event, Op};

/// Attempts after which an operation is given up.
const ATTEMPTS_MAX: u64 = 60;
/// Keys of each kind.
const KEYS: usize = 3;

/// An operation under way.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Its place in the history; `None` for what is not checked by key.
    event: Option<usize>,
    /// The group of its keys.
    pub group: GroupId,
    /// Whether it only reads.
    pub reads: bool,
    /// The request, without its stamp.
    pub request: Request,
    /// The attempts: the first and the last.
    attempts: (u64, u64),
}

/// A client.
#[derive(Clone, Debug)]
pub struct Client {
    number: usize,
    /// Operations so far.
    pub done: usize,
    /// Operations that were answered.
    pub answered: usize,
    sequence: u64,
    attempt: u64,
    /// What is under way.
    pub wanted: Option<Wanted>,
    /// The last operations: one of each kind on each key, to see what came of it.
    final_reads: Vec<(GroupId, usize)>,
}

impl Client {
    /// A client that has done nothing yet.
    pub fn new(number: usize) -> Client {
        let final_reads = Vec::new();
        Client { number, done: 0, answered: 0, sequence: 0, attempt: 0, wanted: None, final_reads }
    }

    /// The request of an attempt that the client still cares for.
    pub fn request_of(&self, attempt: u64) -> Option<&Wanted> {
        self.wanted.as_ref().filter(|wanted| wanted.attempts.0 <= attempt)
    }

    /// From now on it only looks at every key once.
    pub fn read_all(&mut self, groups: GroupId) {
        let all = (0..groups).flat_map(|group| (0..3 * KEYS).map(move |key| (group, key)));
        self.final_reads = all.collect();
    }

    /// Whether nothing is left to do.
    pub fn is_done(&self) -> bool {
        self.wanted.is_none() && self.final_reads.is_empty()
    }
}

impl World {
    /// A client starts its next operation.
    pub fn step(&mut self, client: usize) {
        if self.clients[client].wanted.is_some() {
            return;
        }
        let limit = self.shape.operations;
        let (group, key, op) = match self.clients[client].final_reads.pop() {
            Some((group, key)) => {
                let op = [Op::Get, Op::Range, Op::Count][key % 3].clone();
                let name = ["register", "list", "count"][key % 3];
                (group, format!("{name}:{group}:{}", key / 3), op)
            }
            None if self.clients[client].done < limit => self.choose(client),
            None => return,
        };
        self.clients[client].done += 1;
        let event = Event { key, op, start: self.now, end: u64::MAX, reply: None };
        self.begin(client, group, event);
    }

    fn choose(&mut self, client: usize) -> (GroupId, String, Op) {
        let unique = (client as u64 + 1) * 10_000 + self.clients[client].done as u64;
        let group = self.random.below(self.shape.groups as usize) as GroupId;
        let key = self.random.below(KEYS);
        let kinds = if self.shape.contested { 6 } else { 16 };
        let (name, op) = match self.random.below(kinds) {
            0..3 => ("register", Op::Set(unique)),
            3..6 => ("register", Op::Get),
            6..8 => ("list", Op::Push(unique)),
            8..10 => ("list", Op::Range),
            10..12 => ("count", Op::Incr),
            12 => ("count", Op::Count),
            13..15 => ("set", Op::Add(unique)),
            _ => ("set", Op::Pop),
        };
        (group, format!("{name}:{group}:{key}"), op)
    }

    fn begin(&mut self, client: usize, group: GroupId, event: Event) {
        let value = |value: &u64| value.to_string().into_bytes();
        let key = event.key.clone().into_bytes();
        let word = |word: &str| word.as_bytes().to_vec();
        let args = match &event.op {
            Op::Set(new) => vec![word("SET"), key, value(new)],
            Op::Get | Op::Count => vec![word("GET"), key],
            Op::Push(new) => vec![word("RPUSH"), key, value(new)],
            Op::Range => vec![word("LRANGE"), key, word("0"), word("-1")],
            Op::Incr => vec![word("INCR"), key],
            Op::Add(new) => vec![word("SADD"), key, value(new)],
            Op::Pop => vec![word("SPOP"), key],
        };
        let mut calls = vec![OwnedCall { db: 0, args }];
        let reads = event.op.reads();
        if !reads && self.random.chance(30) {
            // Beside it, in the same request, what no history shows but the replicas must agree on.
            calls.extend(self.side_calls(client));
        }
        // Most clients name their requests, so that they may repeat them.
        let named = client >= self.shape.unnamed;
        let state = &mut self.clients[client];
        state.sequence += 1;
        let id = RequestId {
            client: if named { state.number as u64 + 1 } else { 0 },
            sequence: if named { state.sequence } else { 0 },
        };
        let mut request = Request::one(id, Stamp::default(), &[]);
        request.calls = calls;
        state.attempt += 1;
        let attempts = (state.attempt, state.attempt);
        let event_at = self.history.len();
        state.wanted = Some(Wanted { event: Some(event_at), group, reads, request, attempts });
        self.history.push(event);
        let node = self.any_node(group);
        self.send_request(client, attempts.0, node);
    }

    /// Calls whose effect depends on time and chance.
    fn side_calls(&mut self, client: usize) -> Vec<OwnedCall> {
        let ttl = self.random.between(1, 400).to_string();
        let unique = self.random.bits().to_string();
        let lines: [&[&str]; 5] = [
            &["SET", "temporary", &unique, "PX", &ttl],
            &["SADD", "bag", "a", "b", "c", "d", "e", "f", &unique],
            &["SPOP", "bag", "3"],
            &["XADD", "stream", "*", "client", &client.to_string()],
            &["HINCRBYFLOAT", "hash", "field", "0.1"],
        ];
        let count = 1 + self.random.below(lines.len());
        let pick = |line: &&[&str]| OwnedCall {
            db: 0,
            args: line.iter().map(|word| word.as_bytes().to_vec()).collect(),
        };
        lines[..count].iter().map(pick).collect()
    }

    fn any_node(&mut self, group: GroupId) -> u64 {
        match self.leader_of(group) {
            Some(leader) if self.random.chance(70) => leader,
            _ => 1 + self.random.below(self.shape.nodes as usize) as u64,
        }
    }

    /// An answer has arrived.
    pub fn answered(&mut self, client: usize, attempt: u64, answer: Answer) {
        let Some(wanted) = self.clients[client].request_of(attempt).cloned() else { return };
        match answer {
            Answer::Reply(reply) => {
                if let Some(event) = wanted.event {
                    let event = &mut self.history[event];
                    event.end = self.now;
                    event.reply = Some(first_reply(&reply).to_vec());
                }
                self.clients[client].answered += 1;
                self.finish(client);
            }
            // Only the answer to the last attempt says that it is time for another.
            _ if attempt != wanted.attempts.1 => {}
            Answer::NotLeader(hint) => self.again(client, hint),
            Answer::Busy => self.again(client, None),
            _ if wanted.reads || wanted.request.id.client != 0 => self.again(client, None),
            _ => self.finish(client),
        }
    }

    /// No answer came in time.
    pub fn timed_out(&mut self, client: usize, attempt: u64) {
        let Some(wanted) = &self.clients[client].wanted else { return };
        if wanted.attempts.1 != attempt {
            return;
        }
        if wanted.reads || wanted.request.id.client != 0 {
            self.again(client, None);
        } else {
            // It may have been applied: repeating it could apply it twice.
            self.finish(client);
        }
    }

    /// Sends the request once more.
    fn again(&mut self, client: usize, hint: Option<u64>) {
        let state = &mut self.clients[client];
        let Some(wanted) = &mut state.wanted else { return };
        if wanted.attempts.1 - wanted.attempts.0 >= ATTEMPTS_MAX {
            return self.finish(client);
        }
        state.attempt += 1;
        wanted.attempts.1 = state.attempt;
        let (attempt, group) = (state.attempt, wanted.group);
        let node = match hint {
            Some(node) if self.random.chance(80) => node,
            _ => self.any_node(group),
        };
        // Not at once: an election takes a while.
        self.at(1, What::Timeout { client, attempt: 0 });
        self.send_request(client, attempt, node);
    }

    fn finish(&mut self, client: usize) {
        self.clients[client].wanted = None;
        let pause = self.random.between(500, self.shape.pause_us) as u64;
        self.at(pause, What::Step(client));
    }
}

/// The reply of the request's first call: those of the calls beside it follow.
fn first_reply(bytes: &[u8]) -> &[u8] {
    &bytes[..reply_len(bytes)]
}

fn reply_len(bytes: &[u8]) -> usize {
    let Some(line) = bytes.windows(2).position(|pair| pair == b"\r\n") else { return bytes.len() };
    let number: i64 = String::from_utf8_lossy(&bytes[1..line]).parse().unwrap_or(0);
    let mut len = line + 2;
    match bytes[0] {
        b'$' if number >= 0 => len += number as usize + 2,
        b'*' => {
            for _ in 0..number {
                len += reply_len(&bytes[len..]);
            }
        }
        _ => {}
    }
    len
}
