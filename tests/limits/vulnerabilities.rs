//! What was wrong in Redis and Valkey and is tested nowhere else, a test a class; docs/security.md has
//! the table of all of them. After each the server still answers.

use super::protocol::before_authentication_errors_do_not_pile_up;
use super::{ask, exchange, shown, text};
use ashlar_engine::known_bugs::Bug;
use ashlar_tests::faults::prove;
use ashlar_tests::process::{Server, temporary_dir};
use ashlar_tests::resp::Value;
use std::os::unix::fs::PermissionsExt;

/// CVE-2022-36021, CVE-2024-31228: patterns whose matching takes time or stack without a bound.
#[test]
fn patterns_neither_recurse_nor_explode() {
    let server = Server::ashlar(&[]);
    let mut client = server.client();
    let key = "a".repeat(2_000);
    let stars = format!("{}b", "a*".repeat(1_000));
    let long = format!("{}b", "*?".repeat(50_000));
    let sets = "[a-".repeat(30_000);
    ask(&mut client, &format!("SET {key} 1"));
    ask(&mut client, &format!("HSET h {key} 1"));
    ask(&mut client, &format!("SADD s {key}"));
    for pattern in [&stars, &long, &sets] {
        assert_eq!(ask(&mut client, &format!("KEYS {pattern}")), Value::Array(vec![]));
        for scan in ["SCAN 0", "SSCAN s 0", "HSCAN h 0"] {
            let reply = ask(&mut client, &format!("{scan} COUNT 100 MATCH {pattern}"));
            assert!(reply.items().is_some(), "{scan}: {reply:?}");
        }
        assert_eq!(ask(&mut client, &format!("CONFIG GET {pattern}")), Value::Array(vec![]));
        assert_eq!(ask(&mut client, &format!("PUBSUB CHANNELS {pattern}")), Value::Array(vec![]));
        let mut subscriber = server.client();
        ask(&mut subscriber, &format!("PSUBSCRIBE {pattern}"));
        assert_eq!(ask(&mut client, &format!("PUBLISH {key} x")), Value::Int(0));
        ask(&mut client, &format!("ACL SETUSER u on nopass ~{pattern} +get"));
        let dry_run = format!("ACL DRYRUN u GET {key}");
        assert!(ask(&mut client, &dry_run).text().contains("no permissions"));
        ask(&mut client, "ACL DELUSER u");
    }
    // As many stars as would fill a stack with calls.
    let deep = format!("{}b", "a*".repeat(100_000));
    ask(&mut client, &format!("SET {} 1", "a".repeat(200_000)));
    assert_eq!(ask(&mut client, &format!("KEYS {deep}")), Value::Array(vec![]));
}

/// CVE-2024-31227, CVE-2024-51741: rules and selectors that are cut off, nested or empty.
#[test]
fn malformed_selectors_are_refused() {
    let server = Server::ashlar(&[]);
    let mut client = server.client();
    for rules in [
        "(",
        ")",
        "()",
        "(()",
        "(+get",
        "+get)",
        "(+get) (",
        "((+get))",
        "(%",
        "(%)",
        "%",
        "%R",
        "%~",
        "%RW",
        "%RWX~k",
        "%R~",
        "(%R~k",
        "(~)",
        "(on)",
        "(>x)",
        "(clearselectors)",
        "+",
        "-",
        "+@",
        "-@",
        "+@nothing",
        "+get|",
        "+|get",
        "+config|",
        "+config|get|x",
        "~",
        "&",
        "#",
        "#abc",
        "!",
        "!abc",
        "<",
        "<none",
        ">",
    ] {
        // Some are rules; none may bring the server down or leave half of itself.
        let before = ask(&mut client, "ACL LIST");
        let set = format!("ACL SETUSER broken on {rules}");
        if ask(&mut client, &set).is_error() {
            assert_eq!(ask(&mut client, "ACL LIST"), before, "{rules}");
        }
        ask(&mut client, "ACL DELUSER broken");
    }
    let nested = format!("ACL SETUSER u {}+get{}", "(".repeat(10_000), ")".repeat(10_000));
    assert!(ask(&mut client, &nested).is_error());
    for call in [
        "ACL DRYRUN default",
        "ACL DRYRUN nobody GET k",
        "ACL DRYRUN default NOTHING",
        "ACL DRYRUN default SORT",
        "COMMAND GETKEYS EVAL x 99 k",
        "COMMAND GETKEYSANDFLAGS XREAD STREAMS",
        "COMMAND GETKEYS ZUNIONSTORE d -1 k",
        "COMMAND GETKEYS LMPOP 9223372036854775807 k LEFT",
    ] {
        assert!(ask(&mut client, call).is_error(), "{call}");
    }
}

/// CVE-2023-45145: for a moment everybody could connect to the socket in the file system.
#[test]
fn the_socket_file_has_its_permissions_from_the_start() {
    let dir = temporary_dir().expect("a directory");
    let path = dir.join("socket");
    let socket = path.to_str().expect("a path").to_owned();
    for mode in [0o700, 0o770, 0o600] {
        let perm = format!("{mode:o}");
        let _server = Server::ashlar(&["--unixsocket", &socket, "--unixsocketperm", &perm]);
        let found = std::fs::metadata(&path).expect("a socket").permissions().mode();
        assert_eq!(found & 0o777, mode);
    }
    std::fs::remove_dir_all(dir).expect("it goes");
}

/// CVE-2023-28856: HINCRBYFLOAT left a field that could not be read again.
#[test]
fn increments_leave_numbers_only() {
    let server = Server::ashlar(&[]);
    let mut client = server.client();
    for by in ["nan", "-nan", "inf", "-inf", "1e5000", "0x", "", "1e", "1 "] {
        for start in ["HINCRBYFLOAT h f", "INCRBYFLOAT n", "ZINCRBY z"] {
            let mut argv: Vec<&str> = start.split(' ').collect();
            argv.push(by);
            if start == "ZINCRBY z" {
                argv.push("m");
                // A score may be infinite; it may not be no number.
                if by.ends_with("inf") {
                    continue;
                }
            }
            let reply = client.call(&argv).expect("a reply");
            assert!(reply.is_error(), "{argv:?}: {reply:?}");
        }
    }
    ask(&mut client, "ZADD z inf m");
    assert!(ask(&mut client, "ZINCRBY z -inf m").is_error());
    assert_eq!(ask(&mut client, "EXISTS h n"), Value::Int(0));
    ask(&mut client, "HSET h f 1.1e4932");
    let reply = ask(&mut client, "HINCRBYFLOAT h f 1.1e4932");
    assert!(reply.is_error(), "{reply:?}");
    assert_eq!(text(&mut client, "HGET h f"), "1.1e4932");
}

/// CVE-2023-28425: one key twice in MSETNX.
#[test]
fn a_key_may_be_named_twice() {
    let server = Server::ashlar(&[]);
    let mut client = server.client();
    assert_eq!(ask(&mut client, "MSETNX k 1 k 2"), Value::Int(1));
    assert_eq!(text(&mut client, "GET k"), "2");
    ask(&mut client, "SADD s a b");
    ask(&mut client, "ZADD z 1 a");
    ask(&mut client, "RPUSH l a b");
    for line in [
        "RENAME k k",
        "COPY k k",
        "SMOVE s s a",
        "SDIFFSTORE s s s",
        "SUNIONSTORE s s s",
        "ZUNIONSTORE z 2 z z",
        "ZRANGESTORE z z 0 -1",
        "LMOVE l l LEFT RIGHT",
        "BITOP NOT k k",
        "PFMERGE hll hll",
        "SORT l ALPHA STORE l",
        "GEOSEARCHSTORE g g FROMLONLAT 1 1 BYRADIUS 1 m",
        "LCS k k",
        "DEL k k",
        "UNLINK l l",
        "SINTERCARD 2 s s",
        "BLMPOP 0.01 2 q q LEFT",
    ] {
        ask(&mut client, line);
        assert_eq!(text(&mut client, "PING"), "PONG", "after {line}");
    }
}

/// CVE-2021-32625, CVE-2021-29477: the table that LCS needs is the product of two lengths.
#[test]
fn lcs_has_a_bound() {
    let server = Server::ashlar(&[]);
    let mut client = server.client();
    let value = "x".repeat(1 << 20);
    ask(&mut client, &format!("MSET a {value} b {value}"));
    let before = server.peak_rss();
    assert!(ask(&mut client, "LCS a b").is_error());
    assert!(server.peak_rss() < before + (64 << 20), "it is refused before it has memory");
}

/// CVE-2021-32687, CVE-2021-32628, CVE-2021-29478, CVE-2021-41099: settings that let packed forms
/// and requests grow past what their headers can count.
#[test]
fn packed_forms_have_a_bound_whatever_the_settings() {
    let server = Server::ashlar(&[]);
    let mut client = server.client();
    let largest = i64::MAX.to_string();
    for setting in [
        "set-max-intset-entries",
        "hash-max-listpack-entries",
        "hash-max-listpack-value",
        "zset-max-listpack-entries",
        "zset-max-listpack-value",
        "list-max-listpack-size",
        "stream-node-max-bytes",
        "stream-node-max-entries",
        "proto-max-bulk-len",
    ] {
        // Refused or taken: the data has to stand it.
        ask(&mut client, &format!("CONFIG SET {setting} {largest}"));
    }
    let value = "v".repeat(3_000);
    for round in 0..300 {
        let line = format!(
            "HSET h {round} {value}|ZADD z {round} {round}{value}|RPUSH l {value}|\
             XADD x * f {value}|SADD s {round}"
        );
        line.split('|').for_each(|line| drop(ask(&mut client, line)));
    }
    for (line, count) in
        [("HLEN h", 300), ("ZCARD z", 300), ("LLEN l", 300), ("XLEN x", 300), ("SCARD s", 300)]
    {
        assert_eq!(ask(&mut client, line), Value::Int(count), "{line}");
    }
    assert_eq!(text(&mut client, "HGET h 299"), value);
    assert_eq!(text(&mut client, "LINDEX l -1"), value);
}

/// CVE-2021-32675: headers of requests that claim what never comes, before authentication.
#[test]
fn claims_of_strangers_cost_nothing() {
    let server = Server::ashlar(&["--requirepass", "secret"]);
    for claim in ["*1000000000\r\n", "*11\r\n", "*1\r\n$1000000000\r\n", "*1\r\n$16385\r\n"] {
        let answer = exchange(&server, claim.as_bytes());
        assert!(answer.starts_with(b"-ERR Protocol error: "), "{claim:?}: {}", shown(&answer));
    }
    assert!(server.peak_rss() < 150 << 20, "{} bytes", server.peak_rss());
}

/// CVE-2022-35951, CVE-2025-62507: numbers of entries that streams are asked for, and many ids.
#[test]
fn streams_take_any_count_and_many_ids() {
    let server = Server::ashlar(&[]);
    let mut client = server.client();
    ask(&mut client, "XADD x 1-1 f v");
    ask(&mut client, "XGROUP CREATE x g 0");
    ask(&mut client, "XREADGROUP GROUP g c STREAMS x >");
    let most = i64::MAX;
    for count in [0, -1, most, most / 16, most / 16 + 1, i64::from(i32::MAX) + 1, i64::MIN] {
        let reply = ask(&mut client, &format!("XAUTOCLAIM x g c2 0 0 COUNT {count}"));
        match count {
            1..=0x07FF_FFFF_FFFF_FFFF => assert_eq!(reply.items().map(<[_]>::len), Some(3)),
            _ => assert_eq!(reply.text(), "ERR COUNT must be > 0", "COUNT {count}"),
        }
        ask(&mut client, &format!("XREADGROUP GROUP g c COUNT {count} STREAMS x >"));
    }
    let ids = "1-1 ".repeat(5_000);
    for line in [
        format!("XACK x g {ids}"),
        format!("XDEL x {ids}"),
        format!("XCLAIM x g c 0 {ids}"),
        format!("XREAD STREAMS {} {}", "x ".repeat(500), "0 ".repeat(500)),
    ] {
        let reply = ask(&mut client, line.trim_end());
        assert!(!reply.is_error(), "{}: {reply:?}", &line[..12]);
    }
    assert_eq!(ask(&mut client, "XLEN x"), Value::Int(0));
}

/// CVE-2021-32761, CVE-2022-35977 and their like: an offset and a length, or an index and a
/// width, whose sum or product overflows. `numbers.rs` compares all of them with redis-server; here
/// each has to be refused, whatever that says.
#[test]
fn offsets_in_strings_do_not_overflow() {
    let server = Server::ashlar(&[]);
    let mut client = server.client();
    ask(&mut client, "SET s hello");
    let too_long = "ERR string exceeds maximum allowed size (proto-max-bulk-len)";
    let bad_offset = "ERR bit offset is not an integer or out of range";
    for key in ["s", "none"] {
        for offset in [i64::MAX, i64::MAX - 1, i64::from(u32::MAX), i64::from(i32::MAX)] {
            let reply = ask(&mut client, &format!("SETRANGE {key} {offset} abc"));
            assert_eq!(reply.text(), too_long, "SETRANGE {offset}");
        }
        for nth in [i64::MAX, i64::MIN, i64::MIN + 1, i64::MAX / 64 + 1, i64::MIN / 64 - 1] {
            for how in ["GET i64 #{}", "SET i64 #{} 1", "OVERFLOW SAT INCRBY i64 #{} 1"] {
                let how = how.replace("{}", &nth.to_string());
                let reply = ask(&mut client, &format!("BITFIELD {key} {how}"));
                assert_eq!(reply.text(), bad_offset, "BITFIELD {how}");
            }
        }
        for offset in [i64::MAX, i64::MAX - 7, i64::from(u32::MAX) + 1] {
            let reply = ask(&mut client, &format!("SETBIT {key} {offset} 1"));
            assert_eq!(reply.text(), bad_offset, "SETBIT {offset}");
        }
    }
    assert_eq!(text(&mut client, "GETRANGE s -9223372036854775808 9223372036854775807"), "hello");
    assert_eq!(text(&mut client, "EXISTS none"), "0");
    assert!(server.peak_rss() < 150 << 20, "{} bytes", server.peak_rss());
}

/// CVE-2022-35977: the numbers of LIMIT, whose sum overflows.
#[test]
fn limits_of_sort_do_not_overflow() {
    let server = Server::ashlar(&[]);
    let mut client = server.client();
    ask(&mut client, "RPUSH nums 3 1 2");
    let (most, least) = (i64::MAX, i64::MIN);
    for (limit, wanted) in [
        (format!("1 {most}"), vec!["2", "3"]),
        (format!("3 {most}"), vec![]),
        (format!("{most} {most}"), vec![]),
        (format!("{least} {most}"), vec!["1", "2", "3"]),
        ("1 -1".into(), vec!["2", "3"]),
    ] {
        let reply = ask(&mut client, &format!("SORT nums LIMIT {limit}"));
        let wanted = wanted.into_iter().map(Value::bulk).collect();
        assert_eq!(reply, Value::Array(wanted), "LIMIT {limit}");
    }
}

/// CVE-2022-35977, CVE-2023-22458, CVE-2023-25155: how many random elements are asked for.
#[test]
fn random_counts_do_not_overflow() {
    let server = Server::ashlar(&[]);
    let mut client = server.client();
    ask(&mut client, "SADD s a");
    ask(&mut client, "HSET h a 1");
    ask(&mut client, "ZADD z 1 a");
    for command in ["SRANDMEMBER s {}", "HRANDFIELD h {}", "HRANDFIELD h {} WITHVALUES"]
        .into_iter()
        .chain(["ZRANDMEMBER z {}", "ZRANDMEMBER z {} WITHSCORES"])
    {
        let mut with = |count: i64| ask(&mut client, &command.replace("{}", &count.to_string()));
        let reply = with(i64::MIN);
        assert!(reply.text().contains("value must between"), "{command}: {reply:?}");
        for count in [-i64::MAX, i64::MIN / 2, i64::MIN / 2 - 1] {
            let reply = with(count);
            assert!(reply.text().contains("value is out of range"), "{command}: {reply:?}");
        }
        assert!(!with(i64::from(i32::MAX)).is_error(), "{command}");
    }
    assert!(server.peak_rss() < 150 << 20, "{} bytes", server.peak_rss());
}

#[test]
fn faults_put_back_are_found() {
    prove(
        env!("CARGO_BIN_EXE_faulty"),
        &[
            (Bug::SetrangeOverflows, offsets_in_strings_do_not_overflow, "SETRANGE"),
            (Bug::BitfieldOverflows, offsets_in_strings_do_not_overflow, "BITFIELD"),
            (Bug::SortLimitOverflows, limits_of_sort_do_not_overflow, "LIMIT 1"),
            (Bug::RandomCountOverflows, random_counts_do_not_overflow, "SRANDMEMBER"),
            (Bug::AutoclaimOverflows, streams_take_any_count_and_many_ids, "COUNT"),
            (Bug::GlobRecurses, patterns_neither_recurse_nor_explode, "KEYS a*"),
            (Bug::StrangersFillMemory, before_authentication_errors_do_not_pile_up, "bytes"),
        ],
    );
}
