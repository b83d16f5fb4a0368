//! Clients that find a key's node by what the nodes say, as cluster clients do, and the way of a request
//! through the node that it reaches.

use super::machine::TRY_AGAIN;
use super::world::{NODES, What, World};
use ashlar_engine::slot::slot_of;
use ashlar_engine::stamp::Stamp;
use ashlar_replication::raft::{Answer, GroupId, OwnedCall, Request, RequestId};
use ashlar_replication::runtime::{Event as Ask, State};
use ashlar_tests::history::{Event, Op};

/// Attempts after which an operation is given up.
const ATTEMPTS_MAX: u64 = 80;
/// Operations of each client.
const OPERATIONS: usize = 40;
/// Keys of each kind.
pub const KEYS: usize = 4;
/// The kinds.
const KINDS: [(&str, Op); 4] =
    [("register", Op::Get), ("count", Op::Count), ("list", Op::Range), ("pair", Op::Range)];

/// All keys: a pair is two lists under one hash tag, written by transactions.
pub fn keys() -> impl Iterator<Item = (String, Op)> {
    KINDS
        .into_iter()
        .flat_map(|(kind, read)| (0..KEYS).map(move |key| (format!("{kind}:{key}"), read.clone())))
}

/// The slot of a key of the history.
pub fn key_slot(key: &str) -> u16 {
    slot_of(key.as_bytes())
}

/// An answer on its way.
#[derive(Clone, Debug)]
pub struct Outcome {
    client: usize,
    attempt: u64,
    group: GroupId,
    answer: Answer,
}

/// An operation under way.
#[derive(Clone, Debug)]
struct Wanted {
    event: usize,
    slot: u16,
    reads: bool,
    request: Request,
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
    wanted: Option<Wanted>,
    final_reads: Vec<(String, Op)>,
}

impl Client {
    /// A client that has done nothing yet.
    pub fn new(number: usize) -> Client {
        let (done, answered, sequence, attempt) = (0, 0, 0, 0);
        let final_reads = Vec::new();
        Client { number, done, answered, sequence, attempt, wanted: None, final_reads }
    }

    /// From now on it only looks at every key once.
    pub fn read_all(&mut self) {
        self.final_reads = keys().collect();
    }

    /// Whether nothing is left to do.
    pub fn is_done(&self) -> bool {
        self.wanted.is_none() && self.final_reads.is_empty()
    }

    /// What it waits for, for an error text.
    pub fn waits_for(&self) -> String {
        format!("{:?}", self.wanted.as_ref().map(|wanted| wanted.slot))
    }

    /// The first one does not name its requests, and so cannot repeat them.
    fn names(&self) -> bool {
        self.number > 0
    }
}

fn call(words: &[&str]) -> OwnedCall {
    OwnedCall { db: 0, args: words.iter().map(|word| word.as_bytes().to_vec()).collect() }
}

fn calls(key: &str, op: &Op) -> Vec<OwnedCall> {
    let (a, b) = (format!("{{{key}}}a"), format!("{{{key}}}b"));
    let pair = key.starts_with("pair");
    match op {
        Op::Push(value) if pair => {
            let value = value.to_string();
            vec![call(&["MULTI"]), call(&["RPUSH", &a, &value]), call(&["RPUSH", &b, &value])]
        }
        Op::Range if pair => {
            let range = |key: &str| call(&["LRANGE", key, "0", "-1"]);
            vec![call(&["MULTI"]), range(&a), range(&b)]
        }
        Op::Set(value) => vec![call(&["SET", key, &value.to_string()])],
        Op::Get | Op::Count => vec![call(&["GET", key])],
        Op::Push(value) => vec![call(&["RPUSH", key, &value.to_string()])],
        Op::Range => vec![call(&["LRANGE", key, "0", "-1"])],
        Op::Incr => vec![call(&["INCR", key])],
        Op::Add(_) | Op::Pop => unreachable!("there are no sets here"),
    }
}

impl World {
    /// A client starts its next operation.
    pub fn step(&mut self, client: usize) {
        if self.clients[client].wanted.is_some() {
            return;
        }
        let (key, op) = match self.clients[client].final_reads.pop() {
            Some(read) => read,
            None if self.clients[client].done < OPERATIONS => self.choose(client),
            None => return,
        };
        let (event, slot, reads) = (self.history.len(), key_slot(&key), op.reads());
        let state = &mut self.clients[client];
        state.done += 1;
        state.sequence += 1;
        state.attempt += 1;
        let id = RequestId { client: state.number as u64, sequence: state.sequence };
        let mut request = Request::one(id, Stamp::default(), &[]);
        if !state.names() {
            request.id = RequestId::default();
        }
        request.calls = calls(&key, &op);
        let attempt = state.attempt;
        let attempts = (attempt, attempt);
        state.wanted = Some(Wanted { event, slot, reads, request, attempts });
        self.history.push(Event { key, op, start: self.now, end: u64::MAX, reply: None });
        let node = self.guess(slot);
        self.send_request(client, attempt, node);
    }

    fn choose(&mut self, client: usize) -> (String, Op) {
        let unique = (client as u64 + 1) * 10_000 + self.clients[client].done as u64;
        let (kind, read) = KINDS[self.random.below(KINDS.len())].clone();
        let op = match kind {
            _ if self.random.chance(35) => read,
            "register" => Op::Set(unique),
            "count" => Op::Incr,
            _ => Op::Push(unique),
        };
        (format!("{kind}:{}", self.random.below(KEYS)), op)
    }

    fn guess(&mut self, slot: u16) -> usize {
        let owner = self.topology().group_of(slot).and_then(|group| self.leader_of(group));
        match owner {
            Some(leader) if self.random.chance(70) => leader,
            _ => self.random.below(NODES),
        }
    }

    fn send_request(&mut self, client: usize, attempt: u64, node: usize) {
        if let Some(after) = self.client_delay() {
            // Not at once: an election, or a move, takes a while.
            let pause = self.random.between(0, 20_000) as u64;
            self.at(after + pause, What::Request { client, attempt, node });
        }
        self.at(400_000, What::Timeout { client, attempt });
    }

    /// A request has arrived at a node.
    pub fn request(&mut self, client: usize, attempt: u64, node: usize) {
        let wanted = self.clients[client].wanted.clone();
        let Some(wanted) = wanted.filter(|wanted| wanted.attempts.0 <= attempt) else { return };
        let Some(process) = &self.nodes[node].process else { return };
        let (handle, outcomes) = (process.handle.clone(), self.outcomes.clone());
        let topology = handle.topology();
        let refuse = |hint| Outcome { client, attempt, group: 0, answer: Answer::NotLeader(hint) };
        let Some(group) = topology.group_of(wanted.slot) else {
            return self.outcome(node, 0, refuse(None));
        };
        let leader = handle.leader(group);
        if leader != Some(handle.me()) {
            let leader = leader.or(topology.groups.get(&group).map(|group| group.preferred));
            return self.outcome(node, 0, refuse(leader));
        }
        let done = Box::new(move |answer| {
            let outcome = Outcome { client, attempt, group, answer };
            outcomes.lock().expect("no panic").push(outcome);
        });
        if wanted.reads {
            if self.lease && handle.holds_lease(group) {
                let answer = Answer::Reply(Vec::new());
                return self.outcome(node, 0, Outcome { client, attempt, group, answer });
            }
            return self.ask(node, Ask::Confirm(group, done));
        }
        let request = Request { stamp: self.stamp(node), ..wanted.request };
        self.ask(node, Ask::Propose(group, Box::new(request), done));
    }

    /// A node has an answer: a read that was confirmed runs now.
    pub fn outcome(&mut self, node: usize, took: u64, mut outcome: Outcome) {
        let wanted = self.clients[outcome.client].wanted.clone();
        let Some(wanted) = wanted.filter(|wanted| wanted.attempts.0 <= outcome.attempt) else {
            return;
        };
        if wanted.reads && matches!(outcome.answer, Answer::Reply(_)) {
            let replica = self.replica(node, outcome.group);
            outcome.answer = match replica.map(ashlar_replication::raft::Group::machine) {
                Some(State::Data(data)) => {
                    let reply = data.look(&wanted.request);
                    let frozen = data.is_frozen(wanted.slot);
                    Answer::Reply(if frozen { TRY_AGAIN.to_vec() } else { reply })
                }
                _ => Answer::NotLeader(None),
            };
        }
        if let Some(after) = self.client_delay() {
            self.at(took + after, What::Answer(outcome));
        }
    }

    /// An answer has arrived.
    pub fn answered(&mut self, outcome: Outcome) {
        let client = outcome.client;
        let wanted = self.clients[client].wanted.clone();
        let Some(wanted) = wanted.filter(|wanted| wanted.attempts.0 <= outcome.attempt) else {
            return;
        };
        let last = outcome.attempt == wanted.attempts.1;
        match outcome.answer {
            Answer::Reply(reply) if contains(&reply, b"-TRYAGAIN") => {
                // Surely not applied: another group may have it.
                if last {
                    if let Some(wanted) = &mut self.clients[client].wanted {
                        wanted.attempts.0 = wanted.attempts.1 + 1;
                    }
                    self.again(client, None);
                }
            }
            Answer::Reply(reply) => {
                let event = &mut self.history[wanted.event];
                event.end = self.now;
                event.reply = Some(whole_reply(&event.key, reply));
                self.clients[client].answered += 1;
                self.finish(client);
            }
            _ if !last => {}
            Answer::NotLeader(hint) => self.again(client, hint),
            Answer::Busy => self.again(client, None),
            _ if wanted.reads || self.clients[client].names() => self.again(client, None),
            _ => self.finish(client),
        }
    }

    /// No answer came in time.
    pub fn timed_out(&mut self, client: usize, attempt: u64) {
        let Some(wanted) = &self.clients[client].wanted else { return };
        if wanted.attempts.1 != attempt {
            return;
        }
        if wanted.reads || self.clients[client].names() {
            self.again(client, None);
        } else {
            // It may have been applied: repeating it could apply it twice.
            self.finish(client);
        }
    }

    fn again(&mut self, client: usize, hint: Option<u64>) {
        let state = &mut self.clients[client];
        let Some(wanted) = &mut state.wanted else { return };
        if wanted.attempts.1 >= wanted.attempts.0 + ATTEMPTS_MAX {
            return self.finish(client);
        }
        state.attempt += 1;
        wanted.attempts.1 = state.attempt;
        let (attempt, slot) = (state.attempt, wanted.slot);
        wanted.attempts.0 = wanted.attempts.0.min(attempt);
        let named = hint.and_then(|hint| self.topology().nodes.get(&hint).map(|node| node.port));
        let node = match named {
            Some(port) if self.random.chance(80) => usize::from(port) - 1,
            _ => self.guess(slot),
        };
        self.send_request(client, attempt, node);
    }

    fn finish(&mut self, client: usize) {
        self.clients[client].wanted = None;
        let pause = self.random.between(500, 120_000) as u64;
        self.at(pause, What::Step(client));
    }
}

fn contains(bytes: &[u8], word: &[u8]) -> bool {
    bytes.windows(word.len()).any(|window| window == word)
}

/// The reply of one list of a pair; of both where they differ, which nothing explains then.
fn whole_reply(key: &str, reply: Vec<u8>) -> Vec<u8> {
    if !key.starts_with("pair") {
        return reply;
    }
    let both = reply.strip_prefix(b"*2\r\n").unwrap_or(&reply);
    let (first, second) = both.split_at(both.len() / 2);
    if first == second { first.to_vec() } else { reply }
}
