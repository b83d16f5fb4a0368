//! The connected clients, as CLIENT LIST shows them and CLIENT KILL finds them.

use crate::blocking::Waiter;
use crate::mailbox::Address;
use ashlar_engine::reply::Protocol;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, AtomicUsize, Ordering};

/// Start of the address that a connection from inside the process shows.
pub const IN_PROCESS: &str = "in-process";

/// What a client says about itself.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// CLIENT SETNAME
    pub name: Vec<u8>,
    /// CLIENT SETINFO LIB-NAME
    pub lib_name: Vec<u8>,
    /// CLIENT SETINFO LIB-VER
    pub lib_ver: Vec<u8>,
    /// The user it authenticated as.
    pub user: String,
}

/// A connected client, as seen from any thread. Its worker keeps the figures current.
#[derive(Debug)]
pub struct Client {
    /// Where it is.
    pub address: Address,
    /// Remote address.
    pub peer: String,
    /// Local address.
    pub local: String,
    /// File descriptor.
    pub fd: i32,
    /// When it connected, Unix milliseconds.
    pub created_ms: i64,
    /// Names it gave.
    pub names: Mutex<Names>,
    /// Selected database.
    pub db: AtomicU32,
    /// When it last sent a command, Unix milliseconds.
    pub active_ms: AtomicI64,
    /// Number of its last command in the registry.
    pub last_command: AtomicUsize,
    /// Queued commands of a transaction; -1 outside of one.
    pub queued: AtomicI64,
    /// Channels, patterns and shard channels it is subscribed to.
    pub subscriptions: [AtomicUsize; 3],
    /// Watched keys.
    pub watched: AtomicUsize,
    /// Bytes of input that are not a whole command yet.
    pub input_bytes: AtomicUsize,
    /// Bytes of output that the client has not read yet.
    pub output_bytes: AtomicUsize,
    /// Bytes received and sent.
    pub traffic: [AtomicU64; 2],
    /// Whether it speaks RESP3.
    pub resp3: AtomicBool,
    /// Whether a command blocks it.
    pub blocked: AtomicBool,
    /// The command that blocks it.
    pub waiter: Mutex<Option<Arc<Waiter>>>,
    /// Whether it is a monitor.
    pub monitor: AtomicBool,
    /// Where its invalidations go: another client's id, 0 to itself, -1 without CLIENT TRACKING.
    pub redirect: AtomicI64,
    /// Whether that client is gone.
    pub broken_redirect: AtomicBool,
    /// CLIENT TRACKING with BCAST
    pub broadcast: AtomicBool,
    /// Whether it is a replica.
    pub replica: AtomicBool,
    /// Bytes of its transaction's commands, watched keys and subscriptions.
    pub session_bytes: AtomicUsize,
    /// Bytes that were last counted for `maxmemory-clients`.
    pub counted_bytes: AtomicUsize,
    /// Whether it is being disconnected for `maxmemory-clients`.
    pub evicted: AtomicBool,
    /// CLIENT NO-EVICT
    pub no_evict: AtomicBool,
    /// CLIENT NO-TOUCH
    pub no_touch: AtomicBool,
}

impl Client {
    /// A client that just connected.
    pub fn new(address: Address, peer: String, local: String, fd: i32, now_ms: i64) -> Client {
        Client {
            address,
            peer,
            local,
            fd,
            created_ms: now_ms,
            names: Mutex::new(Names { user: "default".into(), ..Names::default() }),
            db: AtomicU32::new(0),
            active_ms: AtomicI64::new(now_ms),
            last_command: AtomicUsize::new(usize::MAX),
            queued: AtomicI64::new(-1),
            subscriptions: Default::default(),
            watched: AtomicUsize::new(0),
            input_bytes: AtomicUsize::new(0),
            output_bytes: AtomicUsize::new(0),
            traffic: Default::default(),
            resp3: AtomicBool::new(false),
            blocked: AtomicBool::new(false),
            waiter: Mutex::new(None),
            monitor: AtomicBool::new(false),
            redirect: AtomicI64::new(-1),
            broken_redirect: AtomicBool::new(false),
            broadcast: AtomicBool::new(false),
            replica: AtomicBool::new(false),
            session_bytes: AtomicUsize::new(0),
            counted_bytes: AtomicUsize::new(0),
            evicted: AtomicBool::new(false),
            no_evict: AtomicBool::new(false),
            no_touch: AtomicBool::new(false),
        }
    }

    /// Whether it is on this machine.
    pub fn is_local(&self) -> bool {
        self.peer.starts_with("127.")
            || self.peer.starts_with(IN_PROCESS)
            || self.peer.starts_with("[::1]")
            || self.peer.starts_with('/')
    }

    /// Bytes of memory that it takes: its buffers, and what its session holds.
    pub fn memory_bytes(&self) -> usize {
        let held = [&self.input_bytes, &self.output_bytes, &self.session_bytes];
        size_of::<Client>() + held.iter().map(|bytes| bytes.load(Ordering::Relaxed)).sum::<usize>()
    }

    /// The protocol it speaks.
    pub fn protocol(&self) -> Protocol {
        if self.resp3.load(Ordering::Relaxed) { Protocol::Resp3 } else { Protocol::Resp2 }
    }

    /// Whether it is subscribed to anything.
    pub fn is_subscriber(&self) -> bool {
        self.subscriptions.iter().any(|count| count.load(Ordering::Relaxed) != 0)
    }

    /// The class that `client-output-buffer-limit` puts it in.
    pub fn output_class(&self) -> usize {
        match (self.replica.load(Ordering::Relaxed), self.is_subscriber()) {
            (true, _) => 1,
            (false, true) => 2,
            (false, false) => 0,
        }
    }

    /// The class as CLIENT LIST TYPE and CLIENT KILL TYPE name it.
    pub fn type_name(&self) -> &'static str {
        ["normal", "replica", "pubsub"][self.output_class()]
    }

    /// The flags letters of CLIENT LIST.
    pub fn flags(&self) -> String {
        let mut flags = String::new();
        let mut add = |is: bool, letter: char| {
            if is {
                flags.push(letter);
            }
        };
        add(self.replica.load(Ordering::Relaxed), 'S');
        add(self.monitor.load(Ordering::Relaxed), 'O');
        add(self.is_subscriber(), 'P');
        add(self.queued.load(Ordering::Relaxed) >= 0, 'x');
        add(self.blocked.load(Ordering::Relaxed), 'b');
        add(self.redirect.load(Ordering::Relaxed) >= 0, 't');
        add(self.broken_redirect.load(Ordering::Relaxed), 'R');
        add(self.broadcast.load(Ordering::Relaxed), 'B');
        add(self.no_evict.load(Ordering::Relaxed), 'e');
        add(self.no_touch.load(Ordering::Relaxed), 'T');
        if flags.is_empty() { "N".into() } else { flags }
    }

    /// The client's line in CLIENT LIST.
    pub fn line(&self, now_ms: i64, command_name: impl Fn(usize) -> String) -> String {
        let names = self.names.lock().clone();
        let get = |figure: &AtomicUsize| figure.load(Ordering::Relaxed);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let seconds = |since: i64| (now_ms - since).max(0) / 1000;
        let last = get(&self.last_command);
        let (input, output) = (get(&self.input_bytes), get(&self.output_bytes));
        format!(
            "id={} addr={} laddr={} fd={} name={} age={} idle={} flags={} db={} sub={} psub={} \
             ssub={} multi={} watch={} qbuf={input} qbuf-free=0 argv-mem=0 multi-mem={} rbs=16384 \
             rbp=16384 obl=0 oll={} omem={output} tot-mem={} events=r cmd={} user={} redir={} \
             resp={} lib-name={} lib-ver={} tot-net-in={} tot-net-out={}",
            self.address.id,
            self.peer,
            self.local,
            self.fd,
            text(&names.name),
            seconds(self.created_ms),
            seconds(self.active_ms.load(Ordering::Relaxed)),
            self.flags(),
            self.db.load(Ordering::Relaxed),
            get(&self.subscriptions[0]),
            get(&self.subscriptions[1]),
            get(&self.subscriptions[2]),
            self.queued.load(Ordering::Relaxed),
            get(&self.watched),
            get(&self.session_bytes),
            usize::from(output > 0),
            self.memory_bytes(),
            if last == usize::MAX { "NULL".into() } else { command_name(last) },
            names.user,
            self.redirect.load(Ordering::Relaxed),
            if self.resp3.load(Ordering::Relaxed) { 3 } else { 2 },
            text(&names.lib_name),
            text(&names.lib_ver),
            self.traffic[0].load(Ordering::Relaxed),
            self.traffic[1].load(Ordering::Relaxed),
        )
    }
}

/// All clients by id.
#[derive(Debug, Default)]
pub struct Clients {
    by_id: Mutex<BTreeMap<u64, Arc<Client>>>,
    next_id: AtomicU64,
    connected: AtomicUsize,
    bytes: AtomicUsize,
}

impl Clients {
    /// An id that no client had before; the first is 1.
    pub fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Adds a client.
    pub fn add(&self, client: Arc<Client>) {
        self.by_id.lock().insert(client.address.id, client);
    }

    /// Removes a client.
    pub fn remove(&self, id: u64) {
        let client = self.by_id.lock().remove(&id);
        if let Some(client) = client {
            self.forget_bytes(&client);
        }
    }

    /// Brings the memory of all clients up to date with that of one. Its worker calls this.
    pub fn account(&self, client: &Client) {
        let (now, before) = (client.memory_bytes(), client.counted_bytes.load(Ordering::Relaxed));
        if now == before || client.evicted.load(Ordering::Relaxed) {
            return;
        }
        // Who evicts may take the client's bytes away at the same time: what was taken is not
        // subtracted twice.
        let before = client.counted_bytes.swap(now, Ordering::Relaxed);
        self.bytes.fetch_add(now.wrapping_sub(before), Ordering::Relaxed);
    }

    fn forget_bytes(&self, client: &Client) {
        client.evicted.store(true, Ordering::Relaxed);
        let counted = client.counted_bytes.swap(0, Ordering::Relaxed);
        self.bytes.fetch_sub(counted, Ordering::Relaxed);
    }

    /// Bytes of memory that all clients take.
    pub fn memory_bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Chooses clients to be disconnected, those that take most first, until the others take at
    /// most `max` bytes. They count no longer.
    pub fn choose_to_evict(&self, max: usize) -> Vec<Arc<Client>> {
        let mut clients = self.all();
        clients.retain(|client| {
            !client.no_evict.load(Ordering::Relaxed) && !client.evicted.load(Ordering::Relaxed)
        });
        // Cached: the figures change while they are compared.
        clients.sort_by_cached_key(|client| std::cmp::Reverse(client.memory_bytes()));
        let mut chosen = Vec::new();
        for client in clients {
            if self.memory_bytes() <= max {
                break;
            }
            self.forget_bytes(&client);
            chosen.push(client);
        }
        chosen
    }

    /// Reserves a place for one more client, if there are fewer than `max`.
    pub fn admit(&self, max: usize) -> bool {
        let admitted = self.connected.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| {
            (now < max).then_some(now + 1)
        });
        admitted.is_ok()
    }

    /// Gives a place back.
    pub fn leave(&self) {
        self.connected.fetch_sub(1, Ordering::Relaxed);
    }

    /// Number of connected clients.
    pub fn count(&self) -> usize {
        self.connected.load(Ordering::Relaxed)
    }

    /// The client with this id.
    pub fn get(&self, id: u64) -> Option<Arc<Client>> {
        self.by_id.lock().get(&id).cloned()
    }

    /// All clients, by id.
    pub fn all(&self) -> Vec<Arc<Client>> {
        self.by_id.lock().values().cloned().collect()
    }
}
