//! The state of one connection that commands read and change.

use crate::acl::{Identity, User};
use crate::clients::Client;
use crate::mailbox::Address;
use crate::replication::Target;
use crate::replication::primary::Hello;
use crate::tracking::SessionTracking;
use ashlar_engine::keyspace::WatchToken;
use ashlar_engine::reply::Protocol;
use ashlar_replication::raft::RequestId;
use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Most commands that a transaction queues.
pub const QUEUED_COMMANDS_MAX: usize = 1 << 20;
/// Most keys that a connection watches.
pub const WATCHED_KEYS_MAX: usize = 1 << 20;
/// Most channels and patterns that a connection subscribes to, of each kind.
pub const SUBSCRIPTIONS_MAX: usize = 1 << 20;

/// CLIENT REPLY
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReplyMode {
    /// Every command is answered.
    #[default]
    On,
    /// None is.
    Off,
    /// The command that is running is not, nor is the next one.
    SkipNext,
    /// The next command is not.
    Skip,
}

/// A command that a transaction queued.
#[derive(Debug)]
pub struct Queued {
    /// The command.
    pub resolved: crate::registry::Resolved,
    /// Its arguments, the name first.
    pub args: Vec<Box<[u8]>>,
}

/// A transaction between MULTI and EXEC.
#[derive(Debug, Default)]
pub struct Multi {
    /// The commands so far.
    pub queue: Vec<Queued>,
    /// Whether one was refused, so that EXEC is too.
    pub aborted: bool,
    /// Bytes that the commands take.
    pub bytes: usize,
}

/// Bytes that a name in a table of the session takes besides its own.
pub const NAME_BYTES: usize = 64;

/// What decides what a script does that a group has agreed on, besides its text and its arguments.
#[derive(Clone, Debug, Default)]
pub struct AgreedScript {
    /// Whether memory was above `maxmemory`.
    pub full: bool,
    /// Of a function, the text of its library.
    pub library: Arc<[u8]>,
    /// Whether its user may not do everything.
    pub restricted: bool,
}

/// Channels, patterns or shard channels.
pub type Channels = HashSet<Box<[u8]>>;

/// The state of a connection.
#[derive(Debug)]
pub struct Session {
    /// Where the connection is.
    pub address: Address,
    /// The connection as other threads see it.
    pub client: Arc<Client>,
    /// Selected database.
    pub db: u32,
    /// Protocol of replies.
    pub protocol: Protocol,
    /// Whether the client has authenticated, or need not.
    pub authenticated: bool,
    /// The user and its permissions.
    pub identity: Identity,
    /// CLIENT REPLY
    pub reply_mode: ReplyMode,
    /// The transaction that is being queued.
    pub multi: Option<Box<Multi>>,
    /// Keys that are watched, with whether they had expired already.
    pub watched: HashMap<(u32, Box<[u8]>), bool>,
    /// Turns dirty with the first change of a watched key.
    pub watch_token: WatchToken,
    /// Channels, patterns and shard channels that are subscribed to.
    pub subscriptions: [Channels; 3],
    /// CLIENT TRACKING
    pub tracking: Option<Box<SessionTracking>>,
    /// Bytes that the watched keys and the subscriptions take.
    pub name_bytes: [usize; 2],
    /// MONITOR
    pub monitor: bool,
    /// CLIENT NO-TOUCH
    pub no_touch: bool,
    /// Close the connection once the reply is sent.
    pub close_after_reply: bool,
    /// Whether commands run inside EXEC or a script and cannot block.
    pub in_transaction: bool,
    /// Whether the commands come from the primary that this server follows.
    pub from_primary: bool,
    /// What it says about itself as a replica.
    pub hello: Hello,
    /// What a blocked WAIT or WAITAOF is about.
    pub wait_target: Option<Target>,
    /// Whether a script runs: time stands still in it.
    pub in_script: bool,
    /// Whether it runs what a group has agreed on.
    pub applies: bool,
    /// The shard of the group whose log it runs, while that only follows other sites.
    pub backup: Option<usize>,
    /// What goes with a script that is run so.
    pub agreed: AgreedScript,
    /// The id of its next write, where the client has named it.
    pub request_id: Cell<RequestId>,
    /// READONLY
    pub reads_replicas: bool,
    /// Whether the connection is encrypted: it is sent to other nodes' ports for such.
    pub encrypted: bool,
    /// Whether the client has shown a certificate, which then is a good one.
    pub certified: bool,
}

impl Session {
    /// The session of a connection that was just accepted.
    pub fn new(client: Arc<Client>, user: Arc<User>, authenticated: bool) -> Session {
        Session {
            address: client.address,
            client,
            db: 0,
            protocol: Protocol::Resp2,
            authenticated,
            identity: Identity::new(user),
            reply_mode: ReplyMode::On,
            multi: None,
            watched: HashMap::new(),
            watch_token: WatchToken::default(),
            subscriptions: Default::default(),
            tracking: None,
            name_bytes: [0; 2],
            monitor: false,
            no_touch: false,
            close_after_reply: false,
            in_transaction: false,
            from_primary: false,
            hello: Hello::default(),
            wait_target: None,
            in_script: false,
            applies: false,
            backup: None,
            agreed: AgreedScript::default(),
            request_id: Cell::default(),
            reads_replicas: false,
            encrypted: false,
            certified: false,
        }
    }

    /// Whether commands of the engine can run without any of the session's special cases.
    pub fn is_plain(&self) -> bool {
        self.authenticated
            && self.multi.is_none()
            && self.reply_mode == ReplyMode::On
            && self.tracking.is_none()
            && !(self.is_subscriber() && self.protocol == Protocol::Resp2)
    }

    /// The client is this user from now on.
    pub fn become_user(&mut self, user: Arc<User>) {
        self.authenticated = true;
        self.client.names.lock().user = user.name.clone();
        self.identity = Identity::new(user);
    }

    /// Whether anything is subscribed to.
    pub fn is_subscriber(&self) -> bool {
        self.subscriptions.iter().any(|channels| !channels.is_empty())
    }

    /// Shows other threads how the session is now.
    pub fn publish(&self) {
        let client = &self.client;
        client.db.store(self.db, Ordering::Relaxed);
        client.resp3.store(self.protocol == Protocol::Resp3, Ordering::Relaxed);
        let queued = self.multi.as_ref().map_or(-1, |multi| multi.queue.len() as i64);
        client.queued.store(queued, Ordering::Relaxed);
        for (count, channels) in client.subscriptions.iter().zip(&self.subscriptions) {
            count.store(channels.len(), Ordering::Relaxed);
        }
        let queued_bytes = self.multi.as_ref().map_or(0, |multi| multi.bytes);
        let session_bytes = queued_bytes + self.name_bytes[0] + self.name_bytes[1];
        client.session_bytes.store(session_bytes, Ordering::Relaxed);
        client.watched.store(self.watched.len(), Ordering::Relaxed);
        client.monitor.store(self.monitor, Ordering::Relaxed);
        client.no_touch.store(self.no_touch, Ordering::Relaxed);
    }
}
