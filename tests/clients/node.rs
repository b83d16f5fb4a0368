//! ioredis, node-redis and BullMQ.

use super::{require, succeed};
use ashlar_tests::process::{Server, workspace};
use std::process::Command;

fn script(name: &str) {
    let server = Server::subject(&[]);
    let dir = workspace().join("tests/clients/node");
    require(&dir.join("node_modules"));
    succeed(Command::new("node").arg(dir.join(name)).arg(server.port().to_string()), b"");
}

#[test]
fn ioredis() {
    script("ioredis.mjs");
}

#[test]
fn node_redis() {
    script("node-redis.mjs");
}

#[test]
fn bullmq() {
    script("bullmq.mjs");
}
