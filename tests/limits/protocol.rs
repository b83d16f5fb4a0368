//! Bytes that are no requests, and requests in unusual pieces.

use crate::{LAST, LAST_REPLY, ask, exchange, read_until, shown, text};
use ashlar_tests::process::Server;
use ashlar_tests::resp::{Argv, encode, words};
use std::io::Write;

/// What is sent, and whether the server must close the connection over it.
fn oddities() -> Vec<(Vec<u8>, bool)> {
    let mut all: Vec<(Vec<u8>, bool)> = Vec::new();
    for bad in [
        &b"*x\r\n"[..],
        b"*99999999999\r\n",
        b"*9223372036854775808\r\n",
        b"*1 \r\n",
        b"*+1\r\n",
        b"*01\r\n",
        b"*1\r\nfoo\r\n",
        b"*1\r\n\x01\r\n",
        b"*1\r\n:1\r\n",
        b"*1\r\n\n\r\n",
        b"*2\r\n$3\r\nGET\r\n*1\r\n",
        b"*1\r\n$\r\n",
        b"*1\r\n$abc\r\n",
        b"*1\r\n$-1\r\n",
        b"*1\r\n$-2147483648\r\n",
        b"*1\r\n$9223372036854775807\r\n",
        b"*1\r\n$536870913\r\n",
        b"*2\r\n$3\r\nGET\r\n$1048577\r\n",
        b"set \"k\r\n",
        b"set 'k\r\n",
        b"set \"k\"v\r\n",
        b"set k 'a'b\r\n",
    ] {
        all.push((bad.to_vec(), true));
    }
    for good in [
        &b""[..],
        b"\r\n",
        b"\n\n\n",
        b"   \r\n",
        b"*0\r\n",
        b"*-1\r\n",
        b"*-10\r\n",
        b"*1\r\n$0\r\n\r\n",
        b"*2\r\n$4\r\nECHO\r\n$0\r\n\r\n",
        b"PING\r\n",
        b"ping\n",
        b"  ECHO   two \r\n",
        b"\tECHO\tx\r\n",
        b"ECHO \"a b\\x41\\n\\t\\\\\\\"\"\r\n",
        b"ECHO 'a \\' b \\x41'\r\n",
        b"ECHO \"\"\r\n",
        b"SET k\r\n",
        b"nonsense\r\n",
        b"nonsense a b \"c d\"\r\n",
        b"*3\r\n$8\r\nnonsense\r\n$1\r\na\r\n$4\r\nb\r\nc\r\n",
        b"*1\r\n$7\r\nCONFIG \r\n",
        b"*2\r\n$6\r\nCONFIG\r\n$3\r\nfoo\r\n",
        b"*2\r\n$6\r\nOBJECT\r\n$3\r\na\r\nb\r\n",
        b"*2\r\n$3\r\nGET\r\n$4\r\n\xff\xfe\x00\xc3\r\n",
        b"*3\r\n$3\r\nSET\r\n$2\r\n\xff\x00\r\n$3\r\n\x80\r\n\r\n*2\r\n$3\r\nGET\r\n$2\r\n\xff\x00\r\n",
        b"*1\r\n$4\r\nPINGxx*1\r\n$4\r\nPING\r\n",
        b"GET / HTTP/1.0\r\n",
    ] {
        all.push((good.to_vec(), false));
    }
    let long = vec![b'n'; 1_000];
    all.push((
        [b"*2\r\n$1000\r\n".as_slice(), &long, b"\r\n$1000\r\n", &long, b"\r\n"].concat(),
        false,
    ));
    all.push(([b"*2\r\n$3\r\nSET\r\n$1000\r\n".as_slice(), &long, b"\r\n"].concat(), false));
    all
}

#[test]
fn bad_bytes_are_answered_as_redis_does_and_close_the_connection() {
    let settings = ["--proto-max-bulk-len", "1mb"];
    let (ashlar, redis) = (Server::ashlar(&settings), Server::redis(&settings));
    let mut failures = Vec::new();
    for (bytes, closes) in oddities() {
        // What comes before the error in the same packet is executed and answered.
        let before = b"SET before 1\r\n*2\r\n$4\r\nINCR\r\n$6\r\nbefore\r\n".as_slice();
        for bytes in [bytes.clone(), [before, &bytes].concat()] {
            let (ours, theirs) = (exchange(&ashlar, &bytes), exchange(&redis, &bytes));
            let closed = !ours.ends_with(LAST_REPLY);
            if ours != theirs || closed != closes {
                failures.push(format!(
                    "{}\n  {}\n  {}",
                    shown(&bytes),
                    shown(&ours),
                    shown(&theirs)
                ));
            }
        }
    }
    assert!(failures.is_empty(), "sent, ashlar's answer, Redis's:\n{}", failures.join("\n"));
}

/// Redis's own answer depends on how much of the line has arrived when it looks.
#[test]
fn lines_without_an_end_are_refused() {
    let server = Server::ashlar(&[]);
    for (start, byte, what) in [
        (&b""[..], b'a', "too big inline request"),
        (b"*", b'1', "too big mbulk count string"),
        (b"*1\r\n$", b'1', "too big bulk count string"),
    ] {
        let answer = exchange(&server, &[start, &vec![byte; 140_000]].concat());
        assert_eq!(shown(&answer), format!("-ERR Protocol error: {what}\\r\\n"));
    }
}

#[test]
fn more_arguments_than_the_limit_are_refused_before_they_arrive() {
    let server = Server::ashlar(&[]);
    let refused = exchange(&server, b"*2147483648\r\n$3\r\nDEL\r\n");
    assert_eq!(shown(&refused), "-ERR Protocol error: invalid multibulk length\\r\\n");
    // As many as are allowed are not refused, and cost nothing until they come.
    let mut clients: Vec<_> = (0..50).map(|_| server.client()).collect();
    for client in &mut clients {
        client.send_raw(b"*2147483647\r\n$3\r\nDEL\r\n$536870912\r\nx").unwrap();
    }
    assert_eq!(text(&mut server.client(), "PING"), "PONG");
    assert!(server.peak_rss() < 200 << 20, "{} bytes", server.peak_rss());
}

#[test]
fn everything_before_a_protocol_error_is_executed() {
    const COUNT: usize = 100_000;
    let server = Server::ashlar(&[]);
    let mut bytes = Vec::new();
    for number in 0..COUNT {
        encode(&["SET".to_string(), format!("key:{number}"), "x".into()], &mut bytes);
    }
    bytes.extend_from_slice(b"*1\r\n!\r\n");
    let answer = exchange(&server, &bytes);
    let error = b"-ERR Protocol error: expected '$', got '!'\r\n";
    assert_eq!(answer.len(), COUNT * b"+OK\r\n".len() + error.len());
    assert!(answer.ends_with(error), "{}", shown(&answer[answer.len() - 100..]));
    assert_eq!(text(&mut server.client(), "DBSIZE"), COUNT.to_string());
}

#[test]
fn requests_may_be_cut_anywhere() {
    let (ashlar, redis) = (Server::ashlar(&[]), Server::redis(&[]));
    let mut bytes = Vec::new();
    for line in ["SET k hello", "APPEND k world", "GET k", "LPUSH l a b c", "LRANGE l 0 -1"] {
        encode(&words(line), &mut bytes);
    }
    bytes.extend_from_slice(b"ECHO \"in line\"\r\n*0\r\n\r\nDEL k l\r\n");
    bytes.extend_from_slice(LAST);
    let whole = exchange(&redis, &bytes[..bytes.len() - LAST.len()]);
    for cut in 1..bytes.len() {
        let mut client = ashlar.client();
        client.send_raw(&bytes[..cut]).unwrap();
        std::thread::yield_now();
        client.send_raw(&bytes[cut..]).unwrap();
        assert_eq!(shown(&read_until(&client, LAST_REPLY)), shown(&whole), "cut at {cut}");
    }
    let client = ashlar.client();
    for byte in &bytes {
        client.stream().write_all(&[*byte]).unwrap();
    }
    assert_eq!(shown(&read_until(&client, LAST_REPLY)), shown(&whole), "byte by byte");
}

#[test]
fn an_inline_request_may_be_long_and_come_in_pieces() {
    let server = Server::ashlar(&[]);
    let mut client = server.client();
    let value = "v".repeat(60_000);
    client.send_raw(b"PING\r\nSET k ").unwrap();
    assert_eq!(client.reply().unwrap().text(), "PONG");
    for piece in value.as_bytes().chunks(10_000) {
        client.send_raw(piece).unwrap();
        // The answer to another connection shows that the server had time to look.
        ask(&mut server.client(), "PING");
    }
    client.send_raw(b"\r\n").unwrap();
    assert_eq!(client.reply().unwrap().text(), "OK");
    assert_eq!(text(&mut client, "STRLEN k"), "60000");
}

#[test]
fn a_large_request_may_come_in_many_pieces() {
    let server = Server::ashlar(&[]);
    let mut client = server.client();
    let large = vec![b'x'; 20 << 20];
    assert_eq!(client.call(&[b"SET".as_slice(), b"k", &large]).unwrap().text(), "OK");
    assert_eq!(text(&mut client, "STRLEN k"), large.len().to_string());
    let many: Argv = (0..300_000).map(|number| number.to_string().into_bytes()).collect();
    let args: Argv = [words("RPUSH l"), many].concat();
    assert_eq!(client.call(&args).unwrap(), ashlar_tests::resp::Value::Int(300_000));
    assert_eq!(text(&mut client, "LINDEX l -1"), "299999");
}

#[test]
fn a_huge_pipeline_is_answered_in_order() {
    let server = Server::ashlar(&[]);
    let mut bytes = Vec::new();
    let mut expected = Vec::new();
    for number in 1..=50_000 {
        bytes.extend_from_slice(b"*2\r\n$4\r\nINCR\r\n$1\r\nn\r\n");
        expected.extend_from_slice(format!(":{number}\r\n").as_bytes());
    }
    expected.extend_from_slice(LAST_REPLY);
    assert!(exchange(&server, &bytes) == expected);
}

#[test]
fn before_authentication_little_is_taken() {
    let (ashlar, redis) = (Server::ashlar(&[]), Server::redis(&[]));
    for server in [&ashlar, &redis] {
        ask(&mut server.client(), "CONFIG SET requirepass secret");
    }
    for bytes in [
        &b"*11\r\n$4\r\nPING\r\n"[..],
        b"*10\r\n$3\r\nDEL\r\n$1\r\na\r\n$1\r\na\r\n$1\r\na\r\n$1\r\na\r\n$1\r\na\r\n$1\r\na\r\n$1\r\na\r\n$1\r\na\r\n$1\r\na\r\n",
        b"*2\r\n$4\r\nAUTH\r\n$16385\r\n",
        b"GET k\r\nPING\r\nnonsense\r\nAUTH wrong\r\nAUTH default wrong\r\nAUTH a b\r\nHELLO 3\r\n",
        b"AUTH\r\nAUTH a b c\r\nHELLO 4\r\nHELLO 3 AUTH default wrong\r\nHELLO x\r\nHELLO 3 AUTH\r\n",
        b"MULTI\r\nEXEC\r\nSUBSCRIBE a\r\nRESET\r\nQUIT\r\n",
        b"AUTH secret\r\nGET k\r\nAUTH default secret\r\nRESET\r\nGET k\r\n",
        b"HELLO 2 AUTH default secret SETNAME me\r\nCLIENT GETNAME\r\nGET k\r\n",
    ] {
        let bytes = [bytes, b"QUIT\r\n"].concat();
        let (ours, theirs) = (exchange(&ashlar, &bytes), exchange(&redis, &bytes));
        // HELLO tells the name and version, which differ.
        let (ours, theirs) = (without_hello(&ours), without_hello(&theirs));
        assert_eq!(shown(&ours), shown(&theirs), "{}", shown(&bytes));
    }
}

fn without_hello(answer: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(answer).into_owned();
    match (text.find("*14\r\n"), text.find("modules\r\n*0\r\n")) {
        (Some(start), Some(end)) => format!("{}{}", &text[..start], &text[end..]).into_bytes(),
        _ => answer.to_vec(),
    }
}

#[test]
pub(super) fn before_authentication_errors_do_not_pile_up() {
    let limit = "normal 400mb 0 0";
    let server =
        Server::ashlar(&["--requirepass", "secret", "--client-output-buffer-limit", limit]);
    let client = server.client();
    let mut writer = client.stream().try_clone().unwrap();
    let flood = b"GET k\r\n".repeat(200_000);
    // The server hangs up on a client that does not read, or takes no more from it.
    writer.set_write_timeout(Some(std::time::Duration::from_secs(1))).unwrap();
    let sender = std::thread::spawn(move || while writer.write_all(&flood).is_ok() {});
    sender.join().unwrap();
    assert!(server.peak_rss() < 150 << 20, "{} bytes", server.peak_rss());
    assert_eq!(text(&mut server.client(), "PING"), "NOAUTH Authentication required.");
}
