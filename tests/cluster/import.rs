//! `ashlar import` into a cluster: a file of a real Redis, while slots move and a leader is killed.

use crate::growth::ports;
use ashlar_tests::cluster::Cluster;
use ashlar_tests::cluster::client::ClusterClient;
use ashlar_tests::process::{Server, ashlar_binary};
use ashlar_tests::resp::{Value, words};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Strings, and collections of each type.
const STRINGS: usize = 60_000;
const COLLECTIONS: usize = 2_000;

fn fill(redis: &Server) {
    let mut client = redis.client();
    let script = "for n = 1, ARGV[1] do redis.call('SET', 's:' .. n, n) end
                  for n = 1, ARGV[2] do
                    redis.call('RPUSH', 'l:' .. n, n, n + 1, n + 2)
                    redis.call('ZADD', 'z:' .. n, n, 'a', 2, 'b')
                    redis.call('HSET', 'h:' .. n, 'f', n)
                    redis.call('SET', 'x:' .. n, n, 'PX', 10000000)
                    redis.call('SET', 'gone:' .. n, n, 'PX', 1)
                  end";
    let (strings, collections) = (STRINGS.to_string(), COLLECTIONS.to_string());
    for line in [&["EVAL", script, "0", &strings, &collections][..], &["SAVE"]] {
        let argv = line.iter().map(|word| word.as_bytes().to_vec()).collect::<Vec<_>>();
        let reply = client.call(&argv).expect("a reply");
        assert!(!matches!(reply, Value::Error(_)), "{reply:?}");
    }
}

fn start_import(file: &Path, port: u16, more: &[&str]) -> Child {
    let mut command = Command::new(ashlar_binary());
    command.arg("import").arg(file).args(["--port", &port.to_string()]).args(more);
    command.stderr(Stdio::piped()).spawn().expect("it runs")
}

fn end(import: Child) -> String {
    let output = import.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    said
}

/// All that the file has, as the cluster answers for it.
fn compare(client: &mut ClusterClient) {
    let mut ask = |line: String| client.line(&line).expect("a reply");
    for n in 1..=STRINGS {
        assert_eq!(ask(format!("GET s:{n}")), Value::bulk(n.to_string()), "s:{n}");
    }
    for n in 1..=COLLECTIONS {
        let bulks = |words: &[String]| Value::Array(words.iter().map(Value::bulk).collect());
        let list = [n.to_string(), (n + 1).to_string(), (n + 2).to_string()];
        assert_eq!(ask(format!("LRANGE l:{n} 0 -1")), bulks(&list));
        assert_eq!(ask(format!("ZSCORE z:{n} a")), Value::bulk(n.to_string()));
        assert_eq!(ask(format!("HGET h:{n} f")), Value::bulk(n.to_string()));
        let Value::Int(ttl_ms) = ask(format!("PTTL x:{n}")) else { panic!("x:{n} has no time") };
        assert!((1..=10_000_000).contains(&ttl_ms), "{ttl_ms}");
        assert_eq!(ask(format!("EXISTS gone:{n}")), Value::Int(0));
    }
}

#[test]
fn a_file_is_imported_into_a_cluster() {
    let redis = Server::redis(&["--enable-debug-command", "yes"]);
    fill(&redis);
    let file = redis.dir().join("dump.rdb");
    let mut cluster = Cluster::created(3, 3, 2, &["--down-after-milliseconds", "1000"]);
    cluster.wait_ok();

    let import = start_import(&file, cluster.node(0).port(), &[]);
    std::thread::sleep(Duration::from_millis(300));
    for (first, group) in [(100, 2), (6_000, 3), (12_000, 1)] {
        let line = format!("CLUSTER ASHLAR MOVE {first} {} {group}", first + 1_000);
        cluster.node(0).text(&line);
    }
    let leader = cluster.leader_of(3_000, 0).expect("a leader");
    cluster.kill(leader);
    std::thread::sleep(Duration::from_millis(500));
    cluster.restart(leader);
    let said = end(import);
    assert!(said.contains("imported: "), "{said}");
    let mut client = ClusterClient::new(ports(&cluster));
    compare(&mut client);

    // What is there stays, or is replaced; either way every key is accounted for.
    cluster.wait_ok();
    assert_eq!(client.line("SET s:1 changed").expect("a reply").text(), "OK");
    let all = STRINGS + 4 * COLLECTIONS;
    let said = end(start_import(&file, cluster.node(1).port(), &["--quiet"]));
    assert_eq!(said, "");
    assert_eq!(client.line("GET s:1").expect("a reply").text(), "changed");
    let said = end(start_import(&file, cluster.node(1).port(), &[]));
    assert!(said.contains(&format!(", {all} kept as they were")), "{said}");
    let said = end(start_import(&file, cluster.node(2).port(), &["--replace"]));
    assert!(said.contains(&format!(", {all} keys")), "{said}");
    assert_eq!(client.line("GET s:1").expect("a reply").text(), "1");
    // A cluster has one database.
    let mut other = redis.client();
    for line in ["SELECT 3", "SET three 3", "SAVE"] {
        other.call(&words(line)).expect("a reply");
    }
    let output = start_import(&file, cluster.node(0).port(), &["--quiet"]).wait_with_output();
    let output = output.expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("keys of database 3"), "{said}");
}
