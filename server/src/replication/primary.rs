//! Serves a replica on a thread of its own: the full copy where it needs one, then the stream.
//!
//! ```text
//! PSYNC id offset --> +CONTINUE id ----------------------------------------> stream
//!                 \-> +FULLRESYNC id offset --> RDB --> first REPLCONF ACK --^
//! SYNC            --> RDB --------------------------------------------------^
//! ```

use super::feed::Next;
use super::ship::sender::{self, Has};
use super::socket::Socket;
use super::{Replica, snapshot};
use crate::clients::Client;
use crate::clock;
use crate::config::ids;
use crate::resp::decode::{Limits, Parsed, parse};
use crate::shared::Shared;
use ashlar_engine::number;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Bytes of the mark behind a copy that is sent while it is made.
const MARK_BYTES: usize = 40;
/// Most bytes of a request of a replica, which only tells how far it is.
const REQUEST_BYTES_MAX: usize = 64 << 10;
/// How long to wait for commands before looking at other things.
const WAIT: Duration = Duration::from_millis(500);

/// What a replica said about itself before it asked to follow.
#[derive(Clone, Debug, Default)]
pub struct Hello {
    /// `REPLCONF listening-port`
    pub port: u16,
    /// `REPLCONF ip-address`
    pub ip: Option<String>,
    /// `REPLCONF capa eof`: the copy may come without its length.
    pub eof: bool,
    /// Whether it is a node of ashlar, which may be offered more than Redis's protocol one day.
    pub native: bool,
}

/// What a replica asks for.
#[derive(Clone, Debug)]
pub enum Wish {
    /// SYNC: a copy, then the stream.
    Sync,
    /// PSYNC with the stream's name and the offset of the first byte that is missing.
    Partial(Vec<u8>, i64),
    /// REPLICATION FOLLOW of a node of ashlar.
    Native(Has),
}

/// A connection that leaves its worker to become a replica.
#[derive(Clone, Debug)]
pub struct Detach {
    /// What it said about itself.
    pub hello: Hello,
    /// What it asks for.
    pub wish: Wish,
    /// Replies that are to be sent first.
    pub pending: Vec<u8>,
}

/// Serves a replica until its connection ends, on threads of its own.
pub fn spawn(shared: Arc<Shared>, client: Arc<Client>, mut socket: Socket, detach: Detach) {
    let replica = Arc::new(Replica {
        id: client.address.id,
        ip: detach.hello.ip.clone().unwrap_or_else(|| host_of(&client.peer).to_owned()),
        port: detach.hello.port,
        acked: AtomicU64::new(0),
        native: matches!(detach.wish, Wish::Native(_)),
        durable: AtomicU64::new(0),
        asked: AtomicBool::new(false),
        from_disk: AtomicBool::new(false),
        acked_ms: AtomicI64::new(clock::now_ms()),
        online: AtomicBool::new(false),
        gone: AtomicBool::new(false),
    });
    shared.replication.add(replica.clone());
    let (id, on_thread) = (replica.id, shared.clone());
    let work = move || {
        let peer = &client.peer;
        match serve(&on_thread, &replica, &mut socket, &detach) {
            Ok(()) => tracing::info!("the replica {peer} is done"),
            Err(error) => tracing::info!("the connection of the replica {peer} ends: {error}"),
        }
        replica.gone.store(true, Ordering::Release);
        socket.shutdown();
        on_thread.replication.remove(replica.id);
        on_thread.clients.remove(replica.id);
        on_thread.clients.leave();
    };
    if let Err(error) = std::thread::Builder::new().name("ashlar-replica".into()).spawn(work) {
        tracing::error!("no thread for a replica: {error}");
        shared.replication.remove(id);
        shared.clients.remove(id);
        shared.clients.leave();
    }
}

fn host_of(peer: &str) -> &str {
    peer.rsplit_once(':').map_or(peer, |(host, _)| host)
}

fn serve(
    shared: &Arc<Shared>,
    replica: &Arc<Replica>,
    socket: &mut Socket,
    detach: &Detach,
) -> io::Result<()> {
    let seconds = shared.settings.count(ids::REPL_TIMEOUT).max(1);
    let timeout = Duration::from_secs(seconds);
    socket.prepare(timeout)?;
    socket.write_all(&detach.pending)?;
    listen(shared, replica, socket.try_clone()?)?;
    if let Wish::Native(has) = &detach.wish {
        let ended = sender::serve(shared, replica, socket, has, timeout);
        shared.engine.shipping().forget(replica.id);
        return ended;
    }
    let feed = &shared.replication.feed;
    let resumed = match &detach.wish {
        Wish::Partial(replid, offset) => {
            let has = offset.checked_sub(1).and_then(|has| u64::try_from(has).ok());
            has.is_some_and(|has| feed.resume(replica.id, replid, has))
        }
        Wish::Sync | Wish::Native(_) => false,
    };
    let asked = matches!(&detach.wish, Wish::Partial(_, offset) if *offset >= 0);
    let count = |nth: usize| {
        shared.replication.syncs[nth].fetch_add(1, Ordering::Relaxed);
    };
    if resumed {
        count(1);
        socket.write_all(format!("+CONTINUE {}\r\n", feed.replid()).as_bytes())?;
    } else {
        count(0);
        if asked {
            count(2);
        }
        send_copy(shared, replica, socket, detach, timeout)?;
    }
    replica.online.store(true, Ordering::Release);
    let mut written = Instant::now();
    while !replica.gone.load(Ordering::Acquire) && !shared.replication.is_closed() {
        match feed.next(replica.id, WAIT) {
            Next::Bytes(bytes) => {
                socket.write_all(&bytes)?;
                written = Instant::now();
            }
            Next::Nothing if written.elapsed() > timeout => {
                return Err(io::ErrorKind::TimedOut.into());
            }
            Next::Nothing => {}
            Next::Lost => {
                return Err(io::Error::other("it reads too slowly and has to start over"));
            }
        }
        let silent_ms = clock::now_ms() - replica.acked_ms.load(Ordering::Relaxed);
        if silent_ms > timeout.as_millis() as i64 {
            return Err(io::Error::other("it has been silent for too long"));
        }
    }
    Ok(())
}

/// Sends the state of all keys and what comes before and behind it.
fn send_copy(
    shared: &Shared,
    replica: &Replica,
    socket: &mut Socket,
    detach: &Detach,
    timeout: Duration,
) -> io::Result<()> {
    let (cut, replid, offset) = snapshot::begin(shared, replica.id, || socket.write_all(b"\n"))?;
    if matches!(detach.wish, Wish::Partial(..)) {
        socket.write_all(format!("+FULLRESYNC {replid} {offset}\r\n").as_bytes())?;
    }
    if !detach.hello.eof {
        // The length comes first, so that it has to be known.
        let mut file = tempfile(shared)?;
        snapshot::write(shared, cut, &mut file)?;
        let len = file.seek(SeekFrom::End(0))?;
        file.seek(SeekFrom::Start(0))?;
        socket.write_all(format!("${len}\r\n").as_bytes())?;
        io::copy(&mut file, socket)?;
        return Ok(());
    }
    let mark = super::feed::new_replid();
    debug_assert_eq!(mark.len(), MARK_BYTES);
    socket.write_all(format!("$EOF:{mark}\r\n").as_bytes())?;
    snapshot::write(shared, cut, &mut *socket)?;
    socket.write_all(mark.as_bytes())?;
    // A replica looks for the mark at the end of what it has read, so nothing may follow until it
    // has found it and says so.
    let sent_ms = clock::now_ms();
    replica.acked_ms.store(sent_ms, Ordering::Release);
    while replica.acked_ms.load(Ordering::Acquire) <= sent_ms {
        if replica.gone.load(Ordering::Acquire) || shared.stopping.load(Ordering::Acquire) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if clock::now_ms() - sent_ms > timeout.as_millis() as i64 * LOAD_FACTOR {
            return Err(io::Error::other("it has not said that it has loaded the copy"));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// How many times `repl-timeout` a replica may take to load a copy.
pub(super) const LOAD_FACTOR: i64 = 60;

/// A file without a name in the server's directory.
fn tempfile(shared: &Shared) -> io::Result<std::fs::File> {
    let name = format!("temp-{}-{}.rdb", std::process::id(), super::feed::new_replid());
    let path = std::path::Path::new(&shared.settings.string(ids::DIR)).join(name);
    let options = std::fs::File::options().read(true).write(true).create_new(true).open(&path);
    let file = options?;
    // It lives as long as it is open.
    std::fs::remove_file(&path)?;
    Ok(file)
}

/// Reads what the replica says, on a thread of its own.
fn listen(shared: &Arc<Shared>, replica: &Arc<Replica>, mut socket: Socket) -> io::Result<()> {
    let (shared, replica) = (shared.clone(), replica.clone());
    let work = move || {
        let ended = read_acks(&shared, &replica, &mut socket);
        if let Err(error) = ended {
            tracing::debug!("a replica says no more: {error}");
        }
        replica.gone.store(true, Ordering::Release);
        shared.replication.notify_acked();
    };
    std::thread::Builder::new().name("ashlar-acks".into()).spawn(work).map(drop)
}

fn read_acks(shared: &Arc<Shared>, replica: &Replica, socket: &mut Socket) -> io::Result<()> {
    let limits = Limits { authenticated: true, bulk_bytes_max: REQUEST_BYTES_MAX as i64 };
    let (mut bytes, mut buf) = (Vec::new(), vec![0; 4096]);
    loop {
        let got = match socket.read(&mut buf) {
            Ok(0) => return Ok(()),
            Ok(got) => got,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        bytes.extend_from_slice(&buf[..got]);
        // Signs of life while it loads.
        let blank = bytes.iter().take_while(|byte| **byte == b'\n').count();
        if blank > 0 {
            let now_ms = clock::now_ms();
            if replica.online.load(Ordering::Acquire) {
                replica.acked_ms.store(now_ms, Ordering::Release);
            }
            bytes.drain(..blank);
        }
        let mut at = 0;
        let mut args: Vec<&[u8]> = Vec::new();
        while let Ok(Parsed::Request(end)) = parse(&bytes, at, limits, &mut args) {
            at = end;
            if let [_, _, _, fsync, durable] = args[..]
                && fsync.eq_ignore_ascii_case(b"FACK")
                && let Some(durable) = number::parse_i64(durable)
            {
                let durable = u64::try_from(durable).unwrap_or(0);
                replica.durable.fetch_max(durable, Ordering::AcqRel);
            }
            if let [name, option, offset, ..] = args[..]
                && name.eq_ignore_ascii_case(b"REPLCONF")
                && option.eq_ignore_ascii_case(b"ACK")
                && let Some(offset) = number::parse_i64(offset)
            {
                acknowledge(shared, replica, offset);
            }
            args.clear();
        }
        drop(args);
        bytes.drain(..at);
        if bytes.len() > REQUEST_BYTES_MAX {
            return Err(io::Error::other("a request that is too long"));
        }
    }
}

fn acknowledge(shared: &Arc<Shared>, replica: &Replica, offset: i64) {
    replica.acked.fetch_max(u64::try_from(offset).unwrap_or(0), Ordering::AcqRel);
    // Later than the moment for which the thread that sends the copy waits.
    let before = replica.acked_ms.load(Ordering::Acquire);
    replica.acked_ms.store(clock::now_ms().max(before + 1), Ordering::Release);
    shared.replication.notify_acked();
    serve_waits(shared);
}

/// Answers the clients that wait for what replicas have told to have.
pub fn serve_waits(shared: &Arc<Shared>) {
    if !shared.replication.has_waits() {
        return;
    }
    let durable = shared.gate().map_or(0, |gate| gate.log.durable());
    let served = shared.replication.served(durable);
    if served.is_empty() {
        return;
    }
    let mut executor = shared.engine.executor();
    for (waiter, reply) in served {
        shared.answer(&mut executor, &waiter, reply);
    }
}
