//! One simulated site: a real engine, what it knows of the others, and a log that survives crashes.

use ashlar_engine::command::Command;
use ashlar_engine::engine::{Engine, EngineOptions, command_table};
use ashlar_engine::executor::{Call, Prefetched};
use ashlar_engine::journal::{Journal, Record};
use ashlar_engine::reply::{Protocol, Reply};
use ashlar_engine::stamp::Stamp;
use ashlar_replication::sites::link::{Outgoing, Plan};
use ashlar_replication::sites::node::SiteNode;
use ashlar_tests::resp::{Value, parse};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// A call as the log has it.
#[derive(Clone)]
struct Logged {
    stamp: Stamp,
    db: u32,
    args: Vec<Vec<u8>>,
}

#[derive(Default)]
struct MemoryLog(Mutex<Vec<Logged>>);

impl Journal for MemoryLog {
    fn append(&self, calls: &[Record<'_>]) -> u64 {
        let mut log = self.0.lock().expect("no test thread panics with it");
        log.extend(calls.iter().map(|call| Logged {
            stamp: *call.stamp,
            db: call.db,
            args: call.args.iter().map(|arg| arg.to_vec()).collect(),
        }));
        log.len() as u64
    }
}

/// A link to a peer: its end here, and what is on its way.
pub struct Link {
    pub outgoing: Outgoing,
    /// Number of the connection; 0 while there is none.
    pub session: u64,
    pub waits_for: Option<Plan>,
    pub idle_steps: u32,
}

/// A site.
pub struct Site {
    pub id: u16,
    pub engine: Arc<Engine>,
    pub node: Arc<SiteNode>,
    log: Arc<MemoryLog>,
    /// The newest snapshot.
    image: Option<Vec<u8>>,
    pub offset_ms: i64,
    pub links: BTreeMap<u16, Link>,
    /// The connections that each peer has made to this site since it started.
    pub sessions: BTreeMap<u16, u64>,
    calls: u64,
    promised: u64,
}

fn global() -> ashlar_replication::sites::node::IsGlobal {
    Box::new(|key: &[u8]| !key.starts_with(b"local:"))
}

impl Site {
    pub fn new(id: u16, members: &[u16]) -> Site {
        let mut site = Site {
            id,
            engine: Arc::new(Engine::with_options(EngineOptions::default())),
            node: Arc::new(SiteNode::new(id, 7, global())),
            log: Arc::default(),
            image: None,
            offset_ms: 0,
            links: BTreeMap::new(),
            sessions: BTreeMap::new(),
            calls: 0,
            promised: 0,
        };
        site.start(members);
        site
    }

    /// Comes up again from its snapshot and its log, with nothing else.
    pub fn start(&mut self, members: &[u16]) {
        let options = EngineOptions { shards: 2, hash_seed: 7, ..EngineOptions::default() };
        let engine = match &self.image {
            Some(image) => Engine::from_image(options, image).expect("its own image"),
            None => Engine::with_options(options),
        };
        let node = Arc::new(SiteNode::new(self.id, 7, global()));
        engine.set_sites(node.clone());
        let logged = self.log.0.lock().expect("no panic").clone();
        let mut executor = engine.executor();
        for call in &logged {
            let args: Vec<&[u8]> = call.args.iter().map(Vec::as_slice).collect();
            let (db, stamp) = (call.db, &call.stamp);
            let command = find(&args).expect("it was logged");
            let call = Call { command, args: &args, db, stamp, may_block: false, no_touch: false };
            let mut out = Vec::new();
            executor.run(&call, Prefetched::NONE, &mut Reply::new(&mut out, Protocol::Resp2));
            executor.release();
        }
        drop(executor);
        engine.set_journal(self.log.clone());
        node.recovered();
        engine.set_sites_active(true);
        (self.engine, self.node) = (Arc::new(engine), node);
        self.links.clear();
        self.sessions.clear();
        self.promised = 0;
        let own = self.id;
        for member in members.iter().filter(|member| **member != own) {
            self.join(*member);
        }
    }

    /// Another site takes part.
    pub fn join(&mut self, member: u16) {
        self.node.site().add_member(member);
        let outgoing = Outgoing::new(member, 0);
        let link = Link { outgoing, session: 0, waits_for: None, idle_steps: 0 };
        self.links.insert(member, link);
    }

    /// A copy of its files under another number.
    pub fn copy(&self, id: u16) -> Site {
        let mut copy = Site::new(id, &[]);
        copy.image.clone_from(&self.image);
        copy.log = Arc::new(MemoryLog(Mutex::new(self.log.0.lock().expect("no panic").clone())));
        copy.offset_ms = self.offset_ms;
        copy
    }

    /// Another site takes no part any more.
    pub fn leave(&mut self, member: u16) {
        self.node.site().remove_member(member);
        self.links.remove(&member);
        self.sessions.remove(&member);
    }

    /// Takes a snapshot, and lets go of the log before it.
    pub fn snapshot(&mut self, now_ms: i64) {
        self.image = Some(self.engine.image());
        self.log.0.lock().expect("no panic").clear();
        self.engine.log_sites(&self.stamp(now_ms));
    }

    pub fn stamp(&self, now_ms: i64) -> Stamp {
        let mut stamp = Stamp::new(now_ms + self.offset_ms, self.calls);
        stamp.site = self.id;
        stamp
    }

    /// A client's call.
    pub fn call(&mut self, now_ms: i64, args: &[&[u8]]) -> Value {
        self.calls += 1;
        let stamp = self.stamp(now_ms);
        let command = find(args).expect("a command");
        let call = Call { command, args, db: 0, stamp: &stamp, may_block: false, no_touch: false };
        let mut out = Vec::new();
        let mut executor = self.engine.executor();
        executor.run(&call, Prefetched::NONE, &mut Reply::new(&mut out, Protocol::Resp2));
        parse(&out).expect("a reply").expect("a whole one").0
    }

    /// A stamp below which it does nothing any more.
    pub fn promise(&mut self, now_ms: i64) -> u64 {
        let stamp = self.stamp(now_ms);
        self.promised = self.node.promise(&mut self.engine.executor(), &stamp);
        self.promised
    }

    /// Forgets what all sites know to be gone, and deletes keys that have expired.
    pub fn tidy(&mut self, now_ms: i64) {
        let stamp = self.stamp(now_ms);
        self.node.tidy(&mut self.engine.executor(), self.promised, &stamp, 16);
    }

    /// All that clients see of the keys, in one order.
    pub fn content(&mut self, now_ms: i64) -> BTreeMap<String, String> {
        content(|args| self.call(now_ms, args))
    }
}

/// All that clients see of the keys that a call finds, in one order.
pub fn content(mut call: impl FnMut(&[&[u8]]) -> Value) -> BTreeMap<String, String> {
    let keys = call(&[b"KEYS", b"*"]);
    let keys: Vec<Vec<u8>> = keys
        .items()
        .expect("a list of keys")
        .iter()
        .map(|key| key.bytes().expect("a key").to_vec())
        .collect();
    let mut all = BTreeMap::new();
    for key in keys {
        let kind = call(&[b"TYPE", &key]).text();
        let mut value = match kind.as_str() {
            "string" => call(&[b"GET", &key]),
            "hash" => call(&[b"HGETALL", &key]),
            "set" => call(&[b"SMEMBERS", &key]),
            "zset" => call(&[b"ZRANGE", &key, b"0", b"-1", b"WITHSCORES"]),
            "list" => call(&[b"LRANGE", &key, b"0", b"-1"]),
            _ => call(&[b"XRANGE", &key, b"-", b"+"]),
        };
        if let Value::Array(items) = &mut value {
            let width = if kind == "hash" { 2 } else { 1 };
            if ["hash", "set"].contains(&kind.as_str()) {
                let mut parts: Vec<String> =
                    items.chunks(width).map(|part| format!("{part:?}")).collect();
                parts.sort_unstable();
                value = Value::bulk(parts.join(","));
            }
        }
        if kind == "stream" && value.items().is_some_and(<[Value]>::is_empty) {
            // Where the last entry was deleted by a client the empty stream stays, for its groups.
            continue;
        }
        let expiry = call(&[b"PEXPIRETIME", &key]);
        let key = String::from_utf8_lossy(&key).into_owned();
        all.insert(key, format!("{kind} {expiry:?} {value:?}"));
    }
    all
}

/// A reply as a text.
pub fn text(value: &Value) -> String {
    match value {
        Value::Int(int) => int.to_string(),
        other => other.text(),
    }
}

fn find(args: &[&[u8]]) -> Option<&'static Command> {
    command_table().find(args.first()?).map(|(_, command)| command)
}
