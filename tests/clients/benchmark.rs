//! redis-benchmark as it is: all of its default tests must end and report a rate.

use super::succeed;
use ashlar_tests::process::Server;
use std::process::Command;

fn benchmark(server: &Server, args: &[&str]) -> String {
    let mut command = Command::new("redis-benchmark");
    command.args(["-p", &server.port().to_string(), "--csv"]).args(args);
    succeed(&mut command, b"")
}

#[test]
fn its_default_tests() {
    let server = Server::subject(&[]);
    for pipeline in ["1", "16"] {
        let csv = benchmark(&server, &["-n", "4000", "-P", pipeline]);
        let rates = csv.lines().filter(|line| line.starts_with('"')).skip(1).collect::<Vec<_>>();
        assert_eq!(rates.len(), 20, "{csv}");
        assert!(!csv.contains("rror"), "{csv}");
    }
}

#[test]
fn its_options() {
    let server = Server::subject(&[]);
    let random =
        ["-n", "20000", "-r", "1000", "-d", "1024", "-c", "200", "-t", "set,get,hset,zadd"];
    assert_eq!(benchmark(&server, &random).lines().count(), 5);
    let custom = ["-n", "2000", "-3", "HSET", "hash:__rand_int__", "field", "value"];
    let csv = benchmark(&server, &custom);
    assert!(csv.contains("HSET"), "{csv}");
}
