//! Strong writes next to three nodes of etcd, as Debian packages it.
//!
//! etcd is loaded by its own `etcdctl check perf`: for a minute 1,000 clients put values of 1 KiB, with 15,000 a
//! second at most. ashlar gets values of the same size.

use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use super::{Cluster, NODES, push, rate_of};
use crate::options::Settings;
use crate::results::TierFigure;
use crate::server::{dies_with_us, free_port, temp_dir};
use crate::work::Op;

/// Bytes of the values that etcdctl puts.
const VALUE: usize = 1024;

/// Measures both.
pub fn measure(settings: &Settings) -> Result<Vec<TierFigure>, String> {
    let mut figures = Vec::new();
    let etcd = puts()?;
    push(&mut figures, "3 nodes of etcd", "put, 1,000 clients: requests/s", etcd);
    let cluster = Cluster::start(&settings.ashlar, 1, &[])?;
    let name = format!("{NODES} nodes, values of 1 KiB");
    for load in [(1000, 1), (32, 16)] {
        rate_of(settings, cluster.leader()?, &name, (Op::Set, VALUE), load, &mut figures)?;
        // The rate stands before the latency.
        let rate = figures[figures.len() - 2].value;
        let figure = format!("SET, {} clients, P{}: of etcd", load.0, load.1);
        push(&mut figures, &name, figure, rate / etcd);
    }
    Ok(figures)
}

/// Nodes that run; their directory goes with them.
struct Nodes(Vec<Child>, std::path::PathBuf);

impl Drop for Nodes {
    fn drop(&mut self) {
        for node in &mut self.0 {
            let _ = node.kill();
            let _ = node.wait();
        }
        let _ = std::fs::remove_dir_all(&self.1);
    }
}

/// Puts a second.
fn puts() -> Result<f64, String> {
    let ports: Vec<(u16, u16)> =
        (0..NODES).map(|_| Ok((free_port()?, free_port()?))).collect::<Result<_, String>>()?;
    let url = |port: u16| format!("http://127.0.0.1:{port}");
    let members: Vec<String> =
        ports.iter().enumerate().map(|(nth, (_, peer))| format!("n{nth}={}", url(*peer))).collect();
    let dir = temp_dir("etcd", ports[0].0)?;
    let mut nodes = Nodes(Vec::new(), dir.clone());
    for (nth, (client, peer)) in ports.iter().enumerate() {
        let mut command = dies_with_us("etcd".as_ref());
        command.args(["--name", &format!("n{nth}"), "--initial-cluster-state", "new"]);
        command.args(["--initial-cluster", &members.join(",")]);
        for (name, port) in [("", client), ("initial-", peer)] {
            let kind = if name.is_empty() { "client" } else { "peer" };
            command.args([format!("--listen-{kind}-urls"), url(*port)]);
            command.args([format!("--{name}advertise-{kind}-urls"), url(*port)]);
        }
        command.arg("--data-dir").arg(dir.join(nth.to_string()));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        nodes.0.push(command.spawn().map_err(|error| format!("etcd: {error}"))?);
    }
    sleep(Duration::from_secs(3));
    let endpoints: Vec<String> = ports.iter().map(|(client, _)| url(*client)).collect();
    let mut command = Command::new("etcdctl");
    command.env("ETCDCTL_API", "3").args(["--endpoints", &endpoints.join(",")]);
    let output = command.args(["check", "perf", "--load", "xl"]).output();
    let output = output.map_err(|error| format!("etcdctl: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let words: Vec<&str> = text.split_whitespace().collect();
    let at = words.iter().position(|word| *word == "writes/s");
    let rate = at.and_then(|at| words.get(at.checked_sub(1)?)?.parse().ok());
    rate.ok_or_else(|| format!("etcdctl check perf: {text}"))
}
