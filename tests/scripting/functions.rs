//! Functions: payloads of redis-server, and libraries on all workers.

use super::{ask, text};
use ashlar_tests::process::Server;
use ashlar_tests::resp::Value;

const LIBRARY: &str = "#!lua name=lib\n\
    local function add(keys, args) return redis.call('incrby', keys[1], args[1]) end\n\
    redis.register_function('add', add)\n\
    redis.register_function{function_name = 'peek', callback = function(keys) \
      return redis.call('get', keys[1]) end, flags = {'no-writes'}, description = 'reads'}\n\
    -- some text that compresses: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

fn payload(reply: Value) -> Vec<u8> {
    reply.bytes().expect("a payload").to_vec()
}

#[test]
fn payloads_go_both_ways() {
    let (ashlar, redis) = (Server::ashlar(&[]), Server::redis(&[]));
    for (from, to) in [(&ashlar, &redis), (&redis, &ashlar), (&ashlar, &ashlar)] {
        let (mut from, mut to) = (from.client(), to.client());
        ask(&mut from, &["FUNCTION", "FLUSH"]);
        ask(&mut to, &["FUNCTION", "FLUSH"]);
        let empty = payload(ask(&mut from, &["FUNCTION", "DUMP"]));
        assert_eq!(text(&to.call(&[b"FUNCTION", &b"RESTORE"[..], &empty]).unwrap()), "OK");
        assert_eq!(text(&ask(&mut from, &["FUNCTION", "LOAD", LIBRARY])), "lib");
        let dump = payload(ask(&mut from, &["FUNCTION", "DUMP"]));
        ask(&mut to, &["FUNCTION", "FLUSH"]);
        assert_eq!(text(&to.call(&[b"FUNCTION", &b"RESTORE"[..], &dump]).unwrap()), "OK");
        ask(&mut to, &["DEL", "n"]);
        assert_eq!(text(&ask(&mut to, &["FCALL", "add", "1", "n", "5"])), "5");
        assert_eq!(text(&ask(&mut to, &["FCALL_RO", "peek", "1", "n"])), "5");
        let again = to.call(&[b"FUNCTION", &b"RESTORE"[..], &dump, b"APPEND"]).unwrap();
        assert_eq!(text(&again), "ERR Library lib already exists");
        let again = to.call(&[b"FUNCTION", &b"RESTORE"[..], &dump, b"REPLACE"]).unwrap();
        assert_eq!(text(&again), "OK");
        let again = to.call(&[b"FUNCTION", &b"RESTORE"[..], &dump, b"FLUSH"]).unwrap();
        assert_eq!(text(&again), "OK");
        let mut damaged = dump.clone();
        damaged[3] ^= 1;
        let refused = to.call(&[b"FUNCTION", &b"RESTORE"[..], &damaged]).unwrap();
        assert_eq!(text(&refused), "ERR DUMP payload version or checksum are wrong");
    }
}

#[test]
fn a_library_is_there_on_every_worker() {
    let server = Server::ashlar(&["--io-threads", "3"]);
    let mut clients: Vec<_> = (0..9).map(|_| server.client()).collect();
    assert_eq!(text(&ask(&mut clients[0], &["FUNCTION", "LOAD", LIBRARY])), "lib");
    for (n, client) in clients.iter_mut().enumerate() {
        let reply = ask(client, &["FCALL", "add", "1", "n", "1"]);
        assert_eq!(text(&reply), (n + 1).to_string());
    }
    let code = "#!lua name=lib\nredis.register_function('add', function() return 'new' end)";
    assert_eq!(text(&ask(&mut clients[3], &["FUNCTION", "LOAD", "REPLACE", code])), "lib");
    for client in &mut clients {
        assert_eq!(text(&ask(client, &["FCALL", "add", "0"])), "new");
        assert_eq!(text(&ask(client, &["FCALL", "peek", "0"])), "ERR Function not found");
    }
    assert_eq!(text(&ask(&mut clients[5], &["FUNCTION", "DELETE", "lib"])), "OK");
    for client in &mut clients {
        assert_eq!(text(&ask(client, &["FCALL", "add", "0"])), "ERR Function not found");
    }
}
