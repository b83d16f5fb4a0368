//! The promise of strong keys on real daemons: what clients were told can be put in one order, nothing that was
//! acknowledged is lost, and a write that is repeated under its id is applied once.

use ashlar_tests::cluster::Cluster;
use ashlar_tests::cluster::client::{ClusterClient, Outcome};
use ashlar_tests::history::{Event, Op, check};
use ashlar_tests::random::{Random, seeds};
use ashlar_tests::resp::{Value, words};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Histories, each of so many operations of so many clients on so many keys.
const RUNS: usize = 20;
const OPERATIONS: usize = 2_000;
const CLIENTS: usize = 4;
const KEYS: usize = 12;

fn client(cluster: &Cluster) -> ClusterClient {
    ClusterClient::new(cluster.nodes().iter().map(|node| node.port()))
}

/// A reply as RESP2 bytes.
fn bytes(value: &Value) -> Vec<u8> {
    match value {
        Value::Simple(text) => [b"+", text.as_slice(), b"\r\n"].concat(),
        Value::Int(number) => format!(":{number}\r\n").into_bytes(),
        Value::Bulk(text) => [format!("${}\r\n", text.len()).as_bytes(), text, b"\r\n"].concat(),
        Value::Null => b"$-1\r\n".to_vec(),
        Value::Array(items) => {
            let items: Vec<Vec<u8>> = items.iter().map(bytes).collect();
            [format!("*{}\r\n", items.len()).into_bytes(), items.concat()].concat()
        }
        other => panic!("{other:?} is no reply of these commands"),
    }
}

/// One operation on a key of its type, as an event and as a command.
fn operation(random: &mut Random, run: usize, next: &AtomicU64) -> (String, Op, String) {
    let nth = random.below(KEYS);
    let value = next.fetch_add(1, Ordering::Relaxed);
    let name = |kind: &str| format!("{kind}:{run}:{nth}");
    match (nth % 3, random.chance(50)) {
        (0, true) => (name("r"), Op::Set(value), format!("SET {} {value}", name("r"))),
        (0, false) => (name("r"), Op::Get, format!("GET {}", name("r"))),
        (1, true) => (name("c"), Op::Incr, format!("INCR {}", name("c"))),
        (1, false) => (name("c"), Op::Count, format!("GET {}", name("c"))),
        (_, true) => (name("l"), Op::Push(value), format!("RPUSH {} {value}", name("l"))),
        (_, false) => (name("l"), Op::Range, format!("LRANGE {} 0 -1", name("l"))),
    }
}

/// The same in all clients.
struct Shared {
    run: usize,
    since: Instant,
    next: AtomicU64,
    /// Whether replicas are read, and how many reads they or leaders have answered that were not chosen.
    anywhere: bool,
    answered: AtomicUsize,
}

fn work(ports: &[u16], seed: u64, shared: &Shared) -> Vec<Event> {
    let Shared { run, since, next, anywhere, answered } = shared;
    let mut random = Random::new(seed);
    let mut client = ClusterClient::new(ports.iter().copied());
    client.reads_anywhere = *anywhere;
    let now = || since.elapsed().as_nanos() as u64;
    let mut events = Vec::new();
    for _ in 0..OPERATIONS / CLIENTS {
        let (key, op, line) = operation(&mut random, *run, next);
        let start = now();
        let (reply, end) = match client.call(&words(&line)) {
            Outcome::Reply(Value::Error(text)) => {
                let text = String::from_utf8_lossy(&text).into_owned();
                assert!(text.starts_with("UNCERTAIN"), "{line}: {text}");
                (None, u64::MAX)
            }
            Outcome::Reply(reply) => (Some(bytes(&reply)), now()),
            Outcome::Unknown => (None, u64::MAX),
            Outcome::NotRun => continue,
        };
        events.push(Event { key, op, start, end, reply });
    }
    answered.fetch_add(client.answered_anywhere, Ordering::Relaxed);
    events
}

/// Disturbs a cluster while clients work, and lets it be again.
fn disturb(cluster: &mut Cluster, random: &mut Random, run: usize) {
    let at = cluster.leader_of(random.below(16_384) as u16, run % 3).unwrap_or(run % 3);
    std::thread::sleep(Duration::from_millis(30));
    match run % 6 {
        0 => {
            cluster.kill(at);
            std::thread::sleep(Duration::from_millis(300));
            cluster.restart(at);
        }
        1 => {
            cluster.isolate(at);
            std::thread::sleep(Duration::from_millis(900));
            cluster.heal();
        }
        2 => {
            cluster.pause(at);
            std::thread::sleep(Duration::from_millis(900));
            cluster.resume(at);
        }
        3 => {
            cluster.cut(at, (at + 1) % 3);
            std::thread::sleep(Duration::from_millis(600));
            cluster.heal();
        }
        4 => cluster.restart(at),
        _ => {
            // Slots go from group to group, and back.
            for _ in 0..4 {
                let first = random.below(16_000);
                let line =
                    format!("CLUSTER ASHLAR MOVE {first} {} {}", first + 300, 1 + random.below(3));
                let moved = cluster.node(at).text(&line);
                assert!(!moved.starts_with("UNCERTAIN"), "{moved}");
                std::thread::sleep(Duration::from_millis(50));
            }
            for group in 1..=3 {
                // Whole groups: their keys are surely among them.
                for (first, last) in owned(cluster, at, group) {
                    let to = 1 + group % 3;
                    cluster.node(at).text(&format!("CLUSTER ASHLAR MOVE {first} {last} {to}"));
                }
                cluster.wait_until("the slots have moved", |cluster| {
                    cluster.node(at).text("CLUSTER INFO").contains("ashlar_moves:0\r\n")
                });
            }
        }
    }
}

/// The slots of a group, as a node has it.
fn owned(cluster: &Cluster, asked: usize, group: usize) -> Vec<(u16, u16)> {
    let status = cluster.node(asked).text("CLUSTER ASHLAR STATUS");
    let line = status.lines().find(|line| line.starts_with(&format!("group={group} ")));
    let ranges = line.and_then(|line| line.split(" ranges=").nth(1)).unwrap_or("-");
    let range = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some((first.parse().ok()?, last.parse().ok()?))
    };
    ranges.split(' ').next().unwrap_or("-").split(',').filter_map(range).collect()
}

fn histories(settings: &[&str], anywhere: bool) {
    let seed = seeds(&[0x5EED_0001])[0];
    println!("seed {seed:#x}");
    let mut random = Random::new(seed);
    let mut cluster = Cluster::created(3, 3, 2, settings);
    cluster.wait_ok();
    let (next, answered, since) = (AtomicU64::new(1), AtomicUsize::new(0), Instant::now());
    let mut shared = Shared { run: 0, since, next, anywhere, answered };
    let mut reads = 0;
    for run in 0..RUNS {
        (shared.run, shared.since) = (run, Instant::now());
        let ports: Vec<u16> = cluster.nodes().iter().map(|node| node.port()).collect();
        let seeds: Vec<u64> = (0..CLIENTS).map(|_| random.bits()).collect();
        let events = std::thread::scope(|scope| {
            let (shared, ports) = (&shared, &ports);
            let threads: Vec<_> =
                seeds.iter().map(|seed| scope.spawn(move || work(ports, *seed, shared))).collect();
            disturb(&mut cluster, &mut random, run);
            threads
                .into_iter()
                .flat_map(|thread| thread.join().expect("a client's thread"))
                .collect::<Vec<Event>>()
        });
        let answered = events.iter().filter(|event| event.reply.is_some()).count();
        assert!(answered * 10 > OPERATIONS * 8, "run {run}: only {answered} were answered");
        if let Err(error) = check(&events) {
            panic!("run {run}, seed {seed:#x}: {error}");
        }
        reads += events.iter().filter(|event| event.op.reads()).count();
        cluster.wait_ok();
    }
    // A third of them happens to meet the leader.
    let answered = shared.answered.into_inner();
    println!("{answered} of {reads} reads were answered where they were asked first");
    assert_eq!(anywhere, answered * 3 > reads * 2);
}

/// Histories of clients on daemons that are killed, paused and cut off, with reads that ask a majority.
#[test]
fn one_order_explains_what_clients_saw() {
    histories(&["--down-after-milliseconds", "1000"], false);
}

/// The same with reads under a lease.
#[test]
fn one_order_explains_it_with_leases() {
    histories(&["--down-after-milliseconds", "1000", "--cluster-reads", "lease"], false);
}

/// The same with reads that any replica answers once it has asked its leader.
#[test]
fn one_order_explains_it_with_replica_reads() {
    let settings = ["--down-after-milliseconds", "1000", "--cluster-replica-reads", "readindex"];
    histories(&settings, true);
}

/// A write repeated under its id is applied once, also by the leader that follows.
#[test]
fn a_repeated_write_is_applied_once() {
    let mut cluster = Cluster::created(3, 1, 2, &["--down-after-milliseconds", "1000"]);
    cluster.wait_ok();
    let add = |cluster: &Cluster, sequence: u64| {
        for nth in 0..1_000 {
            let node = cluster.node(nth % 3);
            if !node.is_running() {
                continue;
            }
            let mut client = node.client();
            let reply = client.line(&format!("CLIENT REQUESTID 7 {sequence}")).expect("a reply");
            assert_eq!(reply, Value::Simple(b"OK".to_vec()));
            match client.line("INCR counter").expect("a reply") {
                // Elsewhere, or nowhere at the moment.
                Value::Error(_) => std::thread::sleep(Duration::from_millis(20)),
                reply => return reply,
            }
        }
        panic!("nobody adds");
    };
    assert_eq!(add(&cluster, 1), Value::Int(1));
    assert_eq!(add(&cluster, 1), Value::Int(1));
    assert_eq!(add(&cluster, 2), Value::Int(2));
    let leader = cluster.leader_of(0, 0).expect("a leader");
    let other = (leader + 1) % 3;
    cluster.kill(leader);
    cluster.wait_until("another node leads", |cluster| {
        cluster.leader_of(0, other).is_some_and(|new| new != leader)
    });
    assert_eq!(add(&cluster, 2), Value::Int(2));
    assert_eq!(add(&cluster, 3), Value::Int(3));
}

/// A node that had keys of its own founds a cluster: its groups start with them, and they survive the
/// end of all nodes at once.
#[test]
fn a_single_node_grows_into_a_cluster() {
    let mut cluster = Cluster::start(1, &["--cluster-enabled", "no", "--appendonly", "yes"]);
    let mut alone = cluster.node(0).client();
    for nth in 0..500 {
        alone.line(&format!("SET key:{nth} {nth}")).expect("a reply");
    }
    alone.line("HSET hash field value").expect("a reply");
    alone.line("SET soon 1 PX 600000").expect("a reply");
    drop(alone);
    cluster.reconfigure(0, &["--cluster-enabled", "yes", "--appendonly", "no"]);
    cluster.restart(0);
    for _ in 0..2 {
        cluster.add(&[]);
    }
    cluster.create(3, 2);
    cluster.wait_ok();
    for at in 0..3 {
        cluster.kill(at);
    }
    for at in 0..3 {
        cluster.restart(at);
    }
    cluster.wait_ok();
    let mut client = client(&cluster);
    for nth in 0..500 {
        let reply = client.line(&format!("GET key:{nth}")).expect("a reply");
        assert_eq!(reply, Value::bulk(nth.to_string()));
    }
    assert_eq!(client.line("HGET hash field").expect("a reply"), Value::bulk("value"));
    let Value::Int(left) = client.line("PTTL soon").expect("a reply") else {
        panic!("PTTL gives a number");
    };
    assert!((1..=600_000).contains(&left), "{left}");
}
