//! Scripts and functions, which run on every replica of a group.

use crate::growth::ports;
use ashlar_engine::slot::slot_of;
use ashlar_tests::cluster::client::{ClusterClient, Outcome};
use ashlar_tests::cluster::{Cluster, PATIENCE};
use ashlar_tests::process::Server;
use ashlar_tests::resp::{Argv, Client, Value, words};

/// One function that counts, one that only reads, and one that would count in a local variable.
const LIBRARY: &str = "#!lua name=counting
local calls = 0
redis.register_function('bump', function(keys, args)
    redis.call('SADD', keys[1] .. ':seen', args[1])
    redis.call('SPOP', keys[1] .. ':seen')
    return redis.call('INCRBY', keys[1], args[1])
end)
redis.register_function('calls', function(keys)
    calls = calls + 1
    redis.call('SET', keys[1], calls)
    return calls
end)
redis.register_function{function_name='look', callback=function(keys)
    return redis.call('GET', keys[1])
end, flags={'no-writes'}}";

fn argv(words: &[&str]) -> Argv {
    words.iter().map(|word| word.as_bytes().to_vec()).collect()
}

fn call(client: &mut ClusterClient, words: &[&str]) -> Value {
    match client.call(&argv(words)) {
        Outcome::Reply(reply) => reply,
        other => panic!("{words:?}: {other:?}"),
    }
}

fn ask(client: &mut Client, words: &[&str]) -> String {
    client.call(words).unwrap_or_else(|error| panic!("{words:?}: {error}")).text()
}

/// Waits until every node has this in a key, whoever leads its group. Those that do not keep it redirect.
fn replicas_have(cluster: &Cluster, replicas: usize, key: &str, value: &str) {
    cluster.wait_until(&format!("all replicas have {key}"), |cluster| {
        let running = cluster.nodes().iter().filter(|node| node.is_running());
        let there = running.filter(|node| {
            let mut client = node.client();
            client.line("READONLY").is_ok_and(|reply| !reply.is_error())
                && client.line(&format!("GET {key}")).is_ok_and(|reply| reply.text() == value)
        });
        there.count() == replicas
    });
}

fn nodes_have(cluster: &Cluster, what: &str, libraries: usize) {
    cluster.wait_until(what, |cluster| {
        let mut running = cluster.nodes().iter().filter(|node| node.is_running());
        running.all(|node| {
            let list = node.client().line("FUNCTION LIST WITHCODE");
            list.is_ok_and(|list| list.items().is_some_and(|list| list.len() == libraries))
        })
    });
}

#[test]
fn scripts_do_the_same_on_all_replicas() {
    let cluster = Cluster::created(3, 3, 2, &[]);
    cluster.wait_ok();
    let mut client = ClusterClient::new(ports(&cluster));
    let script = "redis.call('SADD', KEYS[1] .. ':set', 1, 2, 3, 4, 5, 6, 7)
        local one = redis.call('SPOP', KEYS[1] .. ':set')
        redis.call('SET', KEYS[1], one .. ':' .. redis.call('TIME')[2] .. ':' .. math.random(1000000))
        return redis.call('GET', KEYS[1])";
    for key in ["{a}", "{b}", "{c}", "{d}"] {
        let value = call(&mut client, &["EVAL", script, "1", key]).text();
        assert_eq!(value.split(':').count(), 3, "{value}");
        replicas_have(&cluster, 3, key, &value);
    }
    let other = "return redis.call('SET', '{b}', 1)";
    let refused = call(&mut client, &["EVAL", other, "1", "{a}"]).text();
    assert!(refused.contains("keys that do not hash to the same slot"), "{refused}");
}

/// What ends a script, or is seen by it, is the same on all replicas, so that they stay equal.
#[test]
fn scripts_end_at_the_same_place_on_all_replicas() {
    let cluster = Cluster::created(
        3,
        1,
        2,
        &["--busy-reply-threshold", "1", "--down-after-milliseconds", "15000"],
    );
    cluster.wait_ok();
    let mut client = ClusterClient::new(ports(&cluster));
    // Scripts that run to their bounds take seconds on a busy machine.
    client.patience = PATIENCE;
    // Replicas have run different things before.
    let garbage = "local t = {} for i = 1, tonumber(ARGV[1]) do t[i] = ('y'):rep(100000) .. i end";
    for (nth, node) in cluster.nodes().iter().enumerate() {
        let mut client = node.client();
        client.line("READONLY").expect("a reply");
        let pieces = (nth * 700).to_string();
        ask(&mut client, &["EVAL_RO", garbage, "1", "{a}", &pieces]);
    }
    let seen = "redis.call('SET', KEYS[1], tostring({}) .. os.clock() .. collectgarbage('count')) \
                return redis.call('GET', KEYS[1])";
    let value = call(&mut client, &["EVAL", seen, "1", "{a}"]).text();
    replicas_have(&cluster, 3, "{a}", &value);
    // By memory, by instructions, and by somebody who would end it on one of them.
    let fill = "local t = {} while true do local u = {} for i = 1, 600 do u[i] = i end \
                t[#t + 1] = u redis.call('INCR', KEYS[1]) end";
    let endless = "while true do for i = 1, 1000 do end redis.call('INCR', KEYS[1]) end";
    for (script, key, wanted) in
        [(fill, "{b}", "not enough memory"), (endless, "{c}", "more instructions")]
    {
        let ended = call(&mut client, &["EVAL", script, "1", key]).text();
        assert!(ended.contains(wanted), "{ended}");
        // A replica where the script still runs sends nobody on.
        let mut count = "BUSY".to_owned();
        while count.starts_with("BUSY") {
            count = call(&mut client, &["GET", key]).text();
        }
        assert!(count.parse::<u64>().is_ok_and(|count| count > 100), "{count}");
        replicas_have(&cluster, 3, key, &count);
    }
    let slow = "for i = 1, 4e7 do end redis.call('SET', KEYS[1], ARGV[1]) return 1";
    let leader = cluster.leader_of(slot_of(b"{d}"), 0).expect("a leader");
    let mut waiting = cluster.node(leader).client();
    let mut killers: Vec<Client> = cluster.nodes().iter().map(|node| node.client()).collect();
    let mut tried = 0;
    // It takes a fifth of a second, in which a busy machine may have no time for those who would end it.
    for round in (0..50).map(|round| round.to_string()) {
        waiting.send(&argv(&["EVAL", slow, "1", "{d}", &round])).expect("it is sent");
        loop {
            for killer in &mut killers {
                let reply = ask(killer, &["SCRIPT", "KILL"]);
                let ended = ["UNKILLABLE The script runs on all replicas", "NOTBUSY"];
                assert!(ended.iter().any(|text| reply.starts_with(text)), "{reply}");
                tried += usize::from(reply.starts_with("UNKILLABLE"));
            }
            if cluster.nodes().iter().all(|node| {
                let mut client = node.client();
                client.line("READONLY").is_ok()
                    && client.line("GET {d}").is_ok_and(|reply| reply.text() == round)
            }) {
                break;
            }
        }
        assert_eq!(waiting.value().expect("its reply"), Value::Int(1));
        replicas_have(&cluster, 3, "{d}", &round);
        if tried > 0 {
            break;
        }
    }
    assert!(tried > 0, "nobody met the script while it ran");
}

/// What a script does is looked at by the rules of its user, on every replica.
#[test]
fn scripts_do_what_their_user_may() {
    let cluster = Cluster::created(3, 1, 2, &[]);
    cluster.wait_ok();
    let leader = cluster.leader_of(0, 0).expect("a leader");
    let mut client = cluster.node(leader).client();
    let rules = ["ACL", "SETUSER", "app", "on", ">pw", "~app:*", "+@all", "-flushall", "-del"];
    assert_eq!(ask(&mut client, &rules), "OK");
    ask(&mut client, &["SET", "{t}secret", "1"]);
    assert_eq!(ask(&mut client, &["FUNCTION", "LOAD", LIBRARY]), "counting");
    assert_eq!(ask(&mut client, &["AUTH", "app", "pw"]), "OK");
    let script = "redis.call('SET', KEYS[1], ARGV[1]) return redis.call(unpack(ARGV, 2))";
    let key_of_others = "ERR The user executing the script can't access at least one of the keys";
    for (arguments, expected) in [
        (&["1", "GET", "{t}secret"][..], key_of_others),
        (&["2", "SET", "{t}secret", "2"], key_of_others),
        (&["3", "DEL", "app:{t}1"], "ERR The user executing the script can't run this command"),
        (&["4", "GET", "app:{t}1"], "4"),
    ] {
        let words = [&["EVAL", script, "1", "app:{t}1"], arguments].concat();
        let reply = ask(&mut client, &words);
        assert!(reply.starts_with(expected), "{arguments:?}: {reply}");
        replicas_have(&cluster, 3, "app:{t}1", arguments[0]);
    }
    assert_eq!(ask(&mut client, &["FCALL", "bump", "1", "app:{t}n", "3"]), "");
    replicas_have(&cluster, 3, "app:{t}n", "3");
    let reply = ask(&mut client, &["FCALL", "bump", "1", "{t}secret", "3"]);
    assert!(reply.starts_with("NOPERM"), "{reply}");
    replicas_have(&cluster, 3, "{t}secret", "1");
}

#[test]
fn functions_are_on_all_nodes() {
    let mut cluster = Cluster::created(3, 3, 2, &[]);
    cluster.wait_ok();
    let mut first = cluster.node(0).client();
    let load = ["FUNCTION", "LOAD", LIBRARY];
    assert_eq!(ask(&mut first, &load), "counting");
    // Who is answered may call it anywhere.
    for node in cluster.nodes() {
        let list = node.client().line("FUNCTION LIST").expect("a list");
        assert_eq!(list.items().map(<[_]>::len), Some(1), "{list:?}");
    }
    // Clients that send it to every node are not told that it is there; another text is another thing.
    for node in cluster.nodes() {
        assert_eq!(ask(&mut node.client(), &load), "counting");
        let other = LIBRARY.replace("calls + 1", "calls + 2");
        let reply = ask(&mut node.client(), &["FUNCTION", "LOAD", &other]);
        assert_eq!(reply, "ERR Library 'counting' already exists");
    }
    let reply = ask(&mut first, &["FUNCTION", "LOAD", "#!lua name=bad\nredis.nothing()"]);
    assert!(reply.starts_with("ERR Error registering functions"), "{reply}");
    let mut client = ClusterClient::new(ports(&cluster));
    let keys: Vec<String> = (0..9).map(|nth| format!("{{k{nth}}}")).collect();
    for key in &keys {
        assert_eq!(call(&mut client, &["FCALL", "bump", "1", key, "5"]), Value::Int(5));
        assert_eq!(call(&mut client, &["FCALL", "bump", "1", key, "2"]), Value::Int(7));
        assert_eq!(call(&mut client, &["FCALL_RO", "look", "1", key]), Value::bulk("7"));
        replicas_have(&cluster, 3, key, "7");
        // Nothing stays in a library from one call to the next.
        for _ in 0..3 {
            let counter = format!("{key}:calls");
            assert_eq!(call(&mut client, &["FCALL", "calls", "1", &counter]), Value::Int(1));
        }
    }
    let reply = call(&mut client, &["FCALL", "nothing", "1", "{k0}"]).text();
    assert_eq!(reply, "ERR Function not found");
    in_transactions(&cluster);
    // A node goes, and one comes.
    cluster.kill(1);
    for key in &keys {
        let n = call(&mut client, &["FCALL", "bump", "1", key, "1"]);
        assert_eq!(n, Value::Int(8), "{key}");
    }
    let names = [("counting", "more"), ("'bump'", "'more'"), ("'calls'", "'c'"), ("'look'", "'l'")];
    let more = names.iter().fold(LIBRARY.to_owned(), |text, (old, new)| text.replace(old, new));
    assert_eq!(ask(&mut first, &["FUNCTION", "LOAD", "REPLACE", &more]), "more");
    cluster.restart(1);
    cluster.wait_ok();
    nodes_have(&cluster, "the node that was down has both libraries", 2);
    let added = cluster.add(&[]);
    let addresses = cluster.addresses();
    cluster.manage_ok(&["add-node", &addresses[0], &addresses[added], "--rebalance"]);
    cluster.wait_until("the new node leads a group", |cluster| {
        (0..16_384).step_by(512).any(|slot| cluster.leader_of(slot, 0) == Some(added))
    });
    cluster.wait_ok();
    nodes_have(&cluster, "the new node has them too", 2);
    let mut client = ClusterClient::new(ports(&cluster));
    for key in &keys {
        assert_eq!(call(&mut client, &["FCALL", "more", "1", key, "1"]), Value::Int(9), "{key}");
    }
    deleted_and_restored(&cluster);
    // All of it comes back from disk.
    for node in 0..cluster.nodes().len() {
        cluster.kill(node);
    }
    for node in 0..cluster.nodes().len() {
        cluster.restart(node);
    }
    cluster.wait_ok();
    nodes_have(&cluster, "they are there after a restart", 2);
    let mut client = ClusterClient::new(ports(&cluster));
    assert_eq!(call(&mut client, &["FCALL", "bump", "1", &keys[0], "1"]), Value::Int(10));
}

fn in_transactions(cluster: &Cluster) {
    let leader = cluster.leader_of(slot_of(b"n"), 0).expect("a leader");
    let mut client = cluster.node(leader).client();
    ask(&mut client, &["MULTI"]);
    ask(&mut client, &["FCALL", "bump", "1", "{n}", "1"]);
    ask(&mut client, &["FCALL_RO", "look", "1", "{n}"]);
    let replies = client.line("EXEC").expect("a reply");
    assert_eq!(replies, Value::Array(vec![Value::Int(1), Value::bulk("1")]));
    ask(&mut client, &["MULTI"]);
    let refused = ask(&mut client, &["FUNCTION", "FLUSH"]);
    assert!(refused.contains("can't be changed in a transaction"), "{refused}");
    assert!(ask(&mut client, &["EXEC"]).starts_with("EXECABORT"));
}

fn deleted_and_restored(cluster: &Cluster) {
    let mut client = cluster.node(1).client();
    let payload = client.line("FUNCTION DUMP").expect("a payload");
    let payload = payload.bytes().expect("bytes").to_vec();
    assert_eq!(ask(&mut client, &["FUNCTION", "DELETE", "more"]), "OK");
    nodes_have(cluster, "one library is gone", 1);
    assert_eq!(ask(&mut client, &["FUNCTION", "FLUSH"]), "OK");
    nodes_have(cluster, "all are gone", 0);
    let restore: Argv = [words("FUNCTION RESTORE"), vec![payload]].concat();
    // As clients do, to each node.
    for node in cluster.nodes() {
        let reply = node.client().call(&restore).expect("a reply");
        assert_eq!(reply.text(), "OK");
        nodes_have(cluster, "both are back", 2);
    }
}

/// A cluster that is founded by a node with the files of a Redis has its keys and its functions.
#[test]
fn a_cluster_starts_with_the_files_of_a_redis() {
    let redis = Server::redis(&[]);
    let mut from = redis.client();
    ask(&mut from, &["FUNCTION", "LOAD", LIBRARY]);
    for key in 0..100 {
        ask(&mut from, &["SET", &format!("{{k{key}}}"), &key.to_string()]);
    }
    ask(&mut from, &["SAVE"]);
    let mut cluster = Cluster::start(3, &[]);
    let dir = cluster.node(0).server().dir().to_owned();
    cluster.stop(0);
    std::fs::remove_dir_all(dir.join("ashlar-data")).expect("it goes");
    std::fs::copy(redis.dir().join("dump.rdb"), dir.join("dump.rdb")).expect("a copy");
    cluster.restart(0);
    cluster.create(3, 2);
    cluster.wait_ok();
    nodes_have(&cluster, "the library is everywhere", 1);
    let mut client = ClusterClient::new(ports(&cluster));
    for key in 0..100 {
        let key = key.to_string();
        let n = call(&mut client, &["FCALL", "bump", "1", &format!("{{k{key}}}"), "0"]);
        assert_eq!(n.text(), "", "{n:?}");
        assert_eq!(call(&mut client, &["GET", &format!("{{k{key}}}")]), Value::bulk(&key));
    }
}
