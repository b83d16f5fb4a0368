//! Runs the golden scripts of CLUSTER and SENTINEL against a server in this process that is node 1 of
//! a cluster of three, whose other nodes exist in a value only.
//!
//! `UPDATE_GOLDEN=1` writes the replies that come into the scripts; review the diff.

use ashlar_server::Server;
use ashlar_server::cluster::fake::Fake;
use ashlar_server::config::{Source, load};
use ashlar_tests::golden::{Host, run_all};
use ashlar_tests::process::{free_port, workspace};
use ashlar_tests::resp::{Argv, Client, Value};
use std::sync::Arc;

struct Connection {
    server: Server,
    fake: Arc<Fake>,
    client: Client,
}

impl Host for Connection {
    fn reset(&mut self) {
        let fresh = Fake::cluster(3, 3);
        *self.fake.state.lock() = fresh.state.lock().clone();
        self.client = Client::connect(self.server.port()).expect("a connection");
        self.client.line("FLUSHALL").expect("a reply");
    }

    fn advance(&mut self, ms: i64) {
        panic!("the clock of a running server can't be moved by {ms} ms");
    }

    fn protocol(&mut self, protocol: u8) {
        self.client.line(&format!("HELLO {protocol}")).expect("a reply");
    }

    fn call(&mut self, argv: &Argv) -> Value {
        without_times(self.client.call(argv).expect("a reply"))
    }
}

/// Numbers of 13 digits are times of this run.
fn without_times(value: Value) -> Value {
    let change = |bytes: Vec<u8>| {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let is_time =
            |word: &&str| word.len() == 13 && word.bytes().all(|byte| byte.is_ascii_digit());
        let words = text.split(' ').map(|word| if is_time(&word) { "<time>" } else { word });
        words.collect::<Vec<_>>().join(" ").into_bytes()
    };
    match value {
        Value::Bulk(bytes) => Value::Bulk(change(bytes)),
        Value::Verbatim(format, bytes) => Value::Verbatim(format, change(bytes)),
        Value::Array(items) => Value::Array(items.into_iter().map(without_times).collect()),
        other => other,
    }
}

/// A server that is node 1 of three.
fn start() -> (Server, Arc<Fake>) {
    let port = free_port().expect("a port");
    // It announces what the fake says of it: otherwise it would correct that.
    let words = format!(
        "--port {port} --bind 127.0.0.1 --io-threads 1 --cluster-announce-ip 10.0.0.1 \
         --cluster-announce-port 7001 --cluster-announce-bus-port 17001 --save"
    );
    let flags: Vec<Vec<u8>> = words.split(' ').map(|word| word.as_bytes().to_vec()).collect();
    let settings = load(&[Source::Flags(flags)]).expect("settings");
    let server = Server::start(settings).expect("a server");
    let fake = Fake::cluster(3, 3);
    assert!(server.shared().cluster.set(fake.clone()).is_ok(), "it was no member before");
    (server, fake)
}

#[test]
fn scripts_of_cluster_commands_hold() {
    let (server, fake) = start();
    let client = Client::connect(server.port()).expect("a connection");
    let dir = workspace().join("server/tests/golden-cluster");
    let mut host = Connection { server, fake, client };
    let (commands, failures) = run_all(&dir, &mut host).expect("the scripts can be read");
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
    let listed = host.client.line("COMMAND LIST FILTERBY PATTERN *|*").expect("a reply");
    let Value::Array(names) = &listed else { panic!("an array, not {listed:?}") };
    let mut missing: Vec<String> = names.iter().map(Value::text).collect();
    missing.retain(|name| name.starts_with("cluster|") || name.starts_with("sentinel|"));
    missing.retain(|name| !commands.contains(&name.to_ascii_uppercase().replace('|', " ")));
    assert!(missing.is_empty(), "no script in {} has {}", dir.display(), missing.join(", "));
}

/// Sentinel clients wait for these messages.
#[test]
fn fail_overs_are_published() {
    let (server, fake) = start();
    let mut client = Client::connect(server.port()).expect("a connection");
    client.line("SUBSCRIBE +switch-master").expect("a reply");
    client.line("PSUBSCRIBE *down").expect("a reply");
    let one = "10.0.0.1 7001";
    let two = "10.0.0.2 7002";
    let slave = |name: &str, master: &str| format!("slave 10.0.0.2:7002 {two} @ {name} {master}");
    let switched = [("+switch-master", format!("ashlar-3 10.0.0.3 7003 {one}"))];
    let down = [
        ("+sdown", slave("mymaster", one)),
        ("+sdown", format!("master ashlar-2 {two}")),
        ("+odown", format!("master ashlar-2 {two} #quorum 2/2")),
        ("+sdown", slave("ashlar-3", one)),
    ];
    let up = [
        ("-sdown", slave("mymaster", one)),
        ("-sdown", format!("master ashlar-2 {two}")),
        ("-odown", format!("master ashlar-2 {two}")),
        ("-sdown", slave("ashlar-3", one)),
    ];
    // While a group has no leader, there is nothing to say.
    fake.state.lock().leaders.insert(1, None);
    fake.state.lock().leaders.insert(3, Some(1));
    expect(&mut client, &switched);
    fake.state.lock().leaders.insert(1, Some(1));
    fake.state.lock().silent_ms.insert(2, 60_000);
    expect(&mut client, &down);
    fake.state.lock().silent_ms.clear();
    expect(&mut client, &up);
}

/// These messages come next.
fn expect(client: &mut Client, wanted: &[(&str, String)]) {
    for (channel, text) in wanted {
        let message = client.value().expect("a message");
        let parts: Vec<String> = message.items().expect("parts").iter().map(Value::text).collect();
        let last = &parts[parts.len() - 2..];
        assert_eq!(last, [(*channel).to_owned(), text.clone()], "{parts:?}");
    }
}
