//! Sites whose links are encrypted, by `tls-replication`.

use super::{WAIT, line, number};
use ashlar_tests::ask::{wait_for, wait_within};
use ashlar_tests::authority::Authority;
use ashlar_tests::process::Server;
use ashlar_tests::resp::Value;

fn site(authority: &Authority, id: &str) -> (Server, u16) {
    let own = ["--appendonly", "yes", "--site-id", id, "--tls-replication", "yes"];
    let (server, port) = authority.daemon(&own);
    line(&mut server.client(), "POLICY SET g:* global");
    (server, port)
}

fn add(from: &Server, name: &str, port: u16) {
    line(&mut from.client(), &format!("SITE ADD {name} 127.0.0.1 {port}"));
}

fn is_same(sites: [&Server; 2], count: i64) -> bool {
    sites.iter().all(|site| number(&line(&mut site.client(), "GET g:count")) == count)
}

#[test]
fn sites_with_certificates_merge_and_others_are_refused() {
    let authority = Authority::new();
    authority.write("one");
    let ((one, one_port), (two, two_port)) = (site(&authority, "1"), site(&authority, "2"));
    add(&one, "two", two_port);
    add(&two, "one", one_port);
    for server in [&one, &two] {
        line(&mut server.client(), "INCRBY g:count 10");
    }
    wait_within(WAIT, "both sites have both counts", || is_same([&one, &two], 20));
    // One that speaks no TLS, to the plain port; and one with somebody else's certificate.
    let plain = Server::ashlar(&["--appendonly", "yes", "--site-id", "3"]);
    line(&mut plain.client(), "POLICY SET g:* global");
    let other = Authority::new();
    other.write("stranger");
    let (stranger, stranger_port) = site(&other, "4");
    for server in [&plain, &stranger] {
        line(&mut server.client(), "INCRBY g:count 100");
    }
    add(&plain, "one", one.port());
    add(&stranger, "one", one_port);
    add(&one, "plain", plain.port());
    add(&one, "stranger", stranger_port);
    wait_for("the plain one is refused", || {
        one.log().contains("wants to be a site without a certificate")
    });
    let refused = one.client().line("SITE GROUPS").expect("a reply").text();
    assert!(refused.starts_with("ERR tls-replication asks sites"), "{refused}");
    let here = Value::Array(vec![Value::Int(3), Value::bulk(""), Value::Int(0)]);
    assert_eq!(line(&mut plain.client(), "SITE GROUPS"), Value::Array(vec![here]));
    wait_for("neither believes the stranger", || {
        [&one, &stranger].iter().all(|site| site.log().contains("invalid peer certificate"))
    });
    line(&mut two.client(), "INCRBY g:count 1");
    wait_within(WAIT, "the sites go on", || is_same([&one, &two], 21));
}
