//! Runs the golden scripts of the server's own commands against a running server.
//!
//! `UPDATE_GOLDEN=1` writes the replies that come into the scripts; review the diff.

use ashlar_tests::golden::{Host, run_all};
use ashlar_tests::process::{Server, workspace};
use ashlar_tests::resp::{Argv, Client, Value};

/// A connection to a server; its clock is the machine's and does not move for a script.
struct Connection {
    server: Server,
    client: Client,
}

impl Host for Connection {
    fn reset(&mut self) {
        self.client = self.server.client();
        for line in ["FLUSHALL", "CONFIG RESETSTAT", "SLOWLOG RESET", "LATENCY RESET"] {
            self.client.line(line).expect("a reply");
        }
    }

    fn advance(&mut self, ms: i64) {
        panic!("the clock of a running server can't be moved by {ms} ms");
    }

    fn protocol(&mut self, protocol: u8) {
        self.client.line(&format!("HELLO {protocol}")).expect("a reply");
    }

    fn call(&mut self, argv: &Argv) -> Value {
        self.client.call(argv).expect("a reply")
    }
}

#[test]
fn scripts_of_server_commands_hold() {
    let server = Server::subject(&[]);
    let client = server.client();
    let dir = workspace().join("server/tests/golden");
    let mut host = Connection { server, client };
    let (commands, failures) = run_all(&dir, &mut host).expect("the scripts can be read");
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
    let mut listed = host.client.line("COMMAND LIST FILTERBY PATTERN *").expect("a reply");
    let containers = [
        "config|",
        "slowlog|",
        "latency|",
        "command|",
        "module|",
        "memory|",
        "script|",
        "function|",
        "policy|",
        "site|",
        "conflicts|",
        "replication|",
    ];
    let Value::Array(names) = &mut listed else { panic!("an array, not {listed:?}") };
    let mut missing: Vec<String> = names.iter().map(Value::text).collect();
    missing.retain(|name| containers.iter().any(|container| name.starts_with(container)));
    missing.retain(|name| !commands.contains(&name.to_ascii_uppercase().replace('|', " ")));
    assert!(missing.is_empty(), "no script in {} has {}", dir.display(), missing.join(", "));
}
