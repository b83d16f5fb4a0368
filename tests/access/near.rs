//! The near cache against a running server: what it serves is never older than what it was told.

use crate::{ask, ok};
use ashlar_client::{Error, NearCache, Options, Value};
use ashlar_tests::process::Server;
use ashlar_tests::random::{Random, seeds};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

fn connect(server: &Server, options: Options) -> NearCache {
    NearCache::connect(&format!("127.0.0.1:{}", server.port()), options).expect("a connection")
}

/// Waits for what must come; the timeout only ends a test that has failed.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let since = Instant::now();
    while !holds() {
        assert!(since.elapsed() < Duration::from_secs(20), "{what} did not come");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn hits_misses_and_own_writes() {
    let server = Server::subject(&[]);
    let cache = connect(&server, Options::default());
    assert_eq!(cache.get(b"a").expect("a reply"), None);
    assert_eq!(cache.get(b"a").expect("a reply"), None, "also that there is nothing is kept");
    for n in 0..200 {
        let value = n.to_string();
        cache.set(b"a", value.as_bytes()).expect("set");
        assert_eq!(cache.get(b"a").expect("a reply").as_deref(), Some(value.as_bytes()));
        cache.call(&[b"APPEND", b"a", b"!"], &[b"a"]).expect("a reply");
        let longer = format!("{value}!");
        assert_eq!(cache.get(b"a").expect("a reply").as_deref(), Some(longer.as_bytes()));
    }
    assert!(cache.delete(b"a").expect("a reply") && !cache.delete(b"a").expect("a reply"));
    cache.call(&[b"RPUSH", b"list", b"x"], &[]).expect("a reply");
    for _ in 0..2 {
        assert!(
            matches!(cache.get(b"list"), Err(Error::Refused(text)) if text.contains("WRONGTYPE"))
        );
    }
    assert_eq!(cache.call(&[b"PING"], &[]).expect("a reply"), Value::Simple("PONG".into()));
    let stats = cache.stats();
    assert_eq!((stats.hits, stats.disconnections), (1, 0));
    assert!(stats.misses >= 403, "{stats:?}");
}

#[test]
fn changes_of_others_arrive() {
    let server = Server::subject(&[]);
    let mut other = server.client();
    let cache = connect(&server, Options::default());
    for line in ["SET k 2", "DEL k", "SET k 3", "FLUSHALL", "SET k 4", "EXPIRE k 100"] {
        cache.get(b"k").expect("a reply");
        let before = cache.stats().invalidations;
        ask(&mut other, line);
        until("the invalidation", || cache.stats().invalidations > before);
        let expected = ask(&mut other, "GET k").bytes().map(<[u8]>::to_vec);
        assert_eq!(cache.get(b"k").expect("a reply").as_deref(), expected.as_deref(), "{line}");
    }
    // The end of a key's life needs no message.
    ok(&mut other, "CONFIG SET hz 1");
    ok(&mut other, "SET k v PX 30");
    cache.get(b"k").expect("a reply");
    std::thread::sleep(Duration::from_millis(40));
    assert_eq!(cache.get(b"k").expect("a reply"), None);
}

#[test]
fn it_is_bounded() {
    let server = Server::subject(&[]);
    let options = Options { entries_max: 50, bytes_max: 40_000, ..Options::default() };
    let cache = connect(&server, options);
    for n in 0..500 {
        cache.set(format!("k{n}").as_bytes(), &vec![b'x'; n * 10]).expect("set");
        cache.get(format!("k{n}").as_bytes()).expect("a reply");
        let stats = cache.stats();
        assert!(stats.entries <= 50 && stats.bytes <= 40_000, "{stats:?}");
    }
    assert!(cache.stats().evictions > 400);
    let refused =
        Options { credentials: Some(("nobody".into(), "x".into())), ..Options::default() };
    let address = format!("127.0.0.1:{}", server.port());
    assert!(matches!(NearCache::connect(&address, refused), Err(Error::Refused(_))));
}

/// Writers count each key up and publish, after the server's reply, how far they are. After a pause
/// in which the invalidations have arrived, a reader must not see less; and it never sees a key go
/// back, which a reply that overtakes an invalidation would make it do.
#[test]
fn concurrent_writers_and_readers() {
    const KEYS: usize = 8;
    for seed in seeds(&[1]) {
        let server = Server::ashlar(&["--io-threads", "2"]);
        let cache = connect(&server, Options { entries_max: 6, ..Options::default() });
        let written: Vec<AtomicU64> = (0..KEYS).map(|_| AtomicU64::new(0)).collect();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for writer in 0..2 {
                let (written, stop, server) = (&written, &stop, &server);
                scope.spawn(move || {
                    let mut client = server.client();
                    let mut random = Random::new(seed + writer);
                    for _ in 0..3_000 {
                        // Each key has one writer.
                        let key = random.below(KEYS / 2) * 2 + writer as usize;
                        let next = written[key].load(Ordering::Acquire) + 1;
                        ok(&mut client, &format!("SET key{key} {next}"));
                        written[key].store(next, Ordering::Release);
                    }
                    stop.store(true, Ordering::Release);
                });
            }
            for reader in 0..2 {
                let (cache, stop) = (&cache, &stop);
                scope.spawn(move || {
                    let mut random = Random::new(seed + 10 + reader);
                    let mut seen = [0; KEYS];
                    while !stop.load(Ordering::Acquire) {
                        let key = random.below(KEYS);
                        let now = number(cache, key);
                        assert!(
                            now >= seen[key],
                            "seed {seed}: key{key}: {now} after {}",
                            seen[key]
                        );
                        seen[key] = now;
                    }
                });
            }
        });
        // A reply on the cache's connection comes after every invalidation that was posted before.
        std::thread::sleep(Duration::from_millis(20));
        cache.call(&[b"PING"], &[]).expect("a reply");
        for (key, written) in written.iter().enumerate() {
            assert_eq!(
                number(&cache, key),
                written.load(Ordering::Acquire),
                "seed {seed}: key{key}"
            );
        }
        let stats = cache.stats();
        assert!(stats.hits > 0 && stats.invalidated_entries > 0, "{stats:?}");
    }
}

fn number(cache: &NearCache, key: usize) -> u64 {
    let value = cache.get(format!("key{key}").as_bytes()).expect("a reply");
    value.map_or(0, |value| std::str::from_utf8(&value).expect("text").parse().expect("a number"))
}

/// Passes connections on, until they are cut.
struct Proxy {
    port: u16,
    open: Arc<Mutex<Vec<TcpStream>>>,
    /// Whether bytes are swallowed: a cable that was pulled.
    mute: Arc<AtomicBool>,
}

impl Proxy {
    fn to(port: u16) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let own = listener.local_addr().expect("an address").port();
        let open: Arc<Mutex<Vec<TcpStream>>> = Arc::default();
        let mute = Arc::new(AtomicBool::new(false));
        let (kept, silent) = (open.clone(), mute.clone());
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let Ok(client) = client else { return };
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let from = from.try_clone().expect("a handle");
                    let to = to.try_clone().expect("a handle");
                    let silent = silent.clone();
                    std::thread::spawn(move || pump(from, to, &silent));
                }
                kept.lock().expect("the list").extend([client, server]);
            }
        });
        Proxy { port: own, open, mute }
    }

    fn cut(&self) {
        for socket in self.open.lock().expect("the list").drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream, mute: &AtomicBool) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(got) = from.read(&mut buffer) {
        if got == 0 {
            break;
        }
        if !mute.load(Ordering::Acquire) && to.write_all(&buffer[..got]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

#[test]
fn nothing_stale_after_a_lost_connection() {
    let server = Server::subject(&[]);
    let proxy = Proxy::to(server.port());
    let mut other = server.client();
    let options = Options { ping_every: Duration::from_millis(100), ..Options::default() };
    let cache =
        NearCache::connect(&format!("127.0.0.1:{}", proxy.port), options).expect("connected");
    for round in 0..20 {
        ok(&mut other, &format!("SET k {round}"));
        until("the value", || {
            cache
                .get(b"k")
                .is_ok_and(|value| value.as_deref() == Some(round.to_string().as_bytes()))
        });
        let lost = cache.stats().disconnections;
        // Announced in even rounds, in odd ones the other side just falls silent.
        match round % 2 {
            0 => proxy.cut(),
            _ => proxy.mute.store(true, Ordering::Release),
        }
        ok(&mut other, "SET k new");
        until("the loss", || cache.stats().disconnections > lost);
        assert_eq!(cache.stats().entries, 0);
        proxy.mute.store(false, Ordering::Release);
        // Whatever it says from now on is either an error or the truth.
        let mut served = false;
        until("a new connection", || {
            if let Ok(value) = cache.get(b"k") {
                assert_eq!(value.as_deref(), Some(&b"new"[..]), "round {round}");
                served = true;
            }
            served
        });
    }
    drop(other);
    drop(server);
    until("the end", || !cache.is_connected());
    assert!(cache.get(b"k").is_err());
}
