//! Clusters of real daemons on this machine: started, created, killed, paused, cut off.
//!
//! Nodes reach each other through [`proxy`], so that the bytes from one to another can be held back. Ports
//! are chosen once and stay through restarts.

pub mod client;
pub mod proxy;

use crate::process::{Server, ashlar_binary, free_port, temporary_dir};
use crate::resp::{Client, Value};
use proxy::{Network, Proxy};
use std::io;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a cluster may take for anything that it does by itself.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// How often it is looked whether something has come true.
const LOOK: Duration = Duration::from_millis(10);
/// How often a start is tried on ports that may have been taken meanwhile.
const START_ATTEMPTS: usize = 3;

/// A node: its process while it runs, and what it is started with.
#[derive(Debug)]
pub struct Node {
    server: Option<Server>,
    /// Its directory while it does not run.
    dir: PathBuf,
    port: u16,
    settings: Vec<String>,
    program: PathBuf,
}

impl Node {
    /// Its directory.
    ///
    /// # Panics
    /// If it does not run.
    pub fn dir(&self) -> &std::path::Path {
        self.server().dir()
    }

    /// The port for clients.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The process.
    ///
    /// # Panics
    /// If it does not run.
    pub fn server(&self) -> &Server {
        self.server.as_ref().expect("the node runs")
    }

    /// Whether it runs.
    pub fn is_running(&self) -> bool {
        self.server.is_some()
    }

    /// A new connection.
    pub fn client(&self) -> Client {
        self.server().client()
    }

    /// The text of a reply; an error or a broken connection gives what it says.
    pub fn text(&self, line: &str) -> String {
        match Client::connect(self.port) {
            Ok(mut client) => {
                let _ = client.set_timeout(PATIENCE);
                client.line(line).map_or_else(|error| error.to_string(), |reply| reply.text())
            }
            Err(error) => error.to_string(),
        }
    }

    fn start(&mut self) -> io::Result<()> {
        let settings: Vec<&str> = self.settings.iter().map(String::as_str).collect();
        let server = Server::program_at(&self.program, self.port, self.dir.clone(), &settings)?;
        self.server = Some(server);
        Ok(())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // A process that runs takes its directory with it.
        if self.server.is_none() {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

/// Nodes and the network between them.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Node>,
    network: Arc<Network>,
    /// The way to each node for the others.
    proxies: Vec<Proxy>,
    /// What nodes that are added run.
    program: PathBuf,
}

impl Cluster {
    /// Starts `count` nodes that are in no cluster yet. `settings` are for all of them; fail-over is
    /// quick unless they say otherwise.
    ///
    /// # Panics
    /// If a node does not start.
    pub fn start(count: usize, settings: &[&str]) -> Cluster {
        Cluster::start_program(ashlar_binary(), count, settings)
    }

    /// The same with a binary that may be of another release.
    ///
    /// # Panics
    /// If a node does not start.
    pub fn start_program(program: PathBuf, count: usize, settings: &[&str]) -> Cluster {
        let (nodes, network, proxies) = (Vec::new(), Arc::default(), Vec::new());
        let mut cluster = Cluster { nodes, network, proxies, program };
        for _ in 0..count {
            cluster.add(settings);
        }
        cluster
    }

    /// Starts one more node, in no cluster yet; its place among the nodes.
    ///
    /// # Panics
    /// If it does not start.
    pub fn add(&mut self, settings: &[&str]) -> usize {
        let mut failures = String::new();
        for _ in 0..START_ATTEMPTS {
            match self.try_add(settings) {
                Ok(()) => return self.nodes.len() - 1,
                Err(error) => failures.push_str(&format!("{error}\n")),
            }
        }
        panic!("a node does not start:\n{failures}");
    }

    fn try_add(&mut self, settings: &[&str]) -> io::Result<()> {
        let (port, peer_port) = (free_port()?, free_port()?);
        let proxy = Proxy::start(self.nodes.len(), peer_port, self.network.clone())?;
        let own = [
            ("--bind", "127.0.0.1".to_owned()),
            ("--bind-source-addr", proxy::source(self.nodes.len()).to_string()),
            ("--cluster-enabled", "yes".to_owned()),
            ("--cluster-port", peer_port.to_string()),
            ("--cluster-announce-bus-port", proxy.port().to_string()),
            ("--down-after-milliseconds", "2000".to_owned()),
            ("--cluster-node-timeout", "2000".to_owned()),
            ("--io-threads", "1".to_owned()),
        ];
        // A node of release 0.1 takes no writes any more once `save` says that it is time.
        let old = (self.program != ashlar_binary()).then(|| ("--save", String::new()));
        let own = own.into_iter().chain(old);
        let own = own.flat_map(|(name, value)| [name.to_owned(), value]);
        let settings = own.chain(settings.iter().map(|word| (*word).to_owned())).collect();
        let (dir, program) = (temporary_dir()?, self.program.clone());
        let mut node = Node { server: None, dir, port, settings, program };
        node.start()?;
        self.network.set_pid(self.nodes.len(), node.server().pid());
        self.nodes.push(node);
        self.proxies.push(proxy);
        Ok(())
    }

    /// Starts `count` nodes and makes them a cluster.
    ///
    /// # Panics
    /// If that fails.
    pub fn created(count: usize, groups: usize, replicas: usize, settings: &[&str]) -> Cluster {
        let cluster = Cluster::start(count, settings);
        cluster.create(groups, replicas);
        cluster
    }

    /// Makes the nodes a cluster, founded by the first one.
    ///
    /// # Panics
    /// If that fails.
    pub fn create(&self, groups: usize, replicas: usize) {
        let (groups, replicas) = (groups.to_string(), replicas.to_string());
        let mut args = vec!["create".to_owned()];
        args.extend(self.addresses());
        args.extend(["--groups".into(), groups, "--replicas".into(), replicas]);
        self.manage_ok(&args.iter().map(String::as_str).collect::<Vec<_>>());
    }

    /// Settings that a node has from its next start on, besides those that it had.
    pub fn reconfigure(&mut self, at: usize, settings: &[&str]) {
        self.nodes[at].settings.extend(settings.iter().map(|word| (*word).to_owned()));
    }

    /// A node runs this binary from its next start on.
    pub fn replace(&mut self, at: usize, program: PathBuf) {
        self.nodes[at].program = program;
    }

    /// Asks a node to stop, and waits for it.
    ///
    /// # Panics
    /// If it does not run.
    pub fn stop(&mut self, at: usize) {
        let server = self.nodes[at].server.take().expect("the node runs");
        server.signal("TERM");
        self.nodes[at].dir = server.ended();
    }

    /// The addresses of the nodes for clients.
    pub fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect()
    }

    /// The nodes.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// A node.
    pub fn node(&self, at: usize) -> &Node {
        &self.nodes[at]
    }

    /// Runs `ashlar cluster` with these arguments.
    ///
    /// # Panics
    /// If it cannot be run.
    pub fn manage(&self, args: &[&str]) -> Output {
        let wait = ["--wait", "60"];
        let mut command = Command::new(ashlar_binary());
        command.arg("cluster").args(args).args(wait).output().expect("ashlar cluster runs")
    }

    /// The same, which must succeed; what it wrote.
    ///
    /// # Panics
    /// If it fails.
    pub fn manage_ok(&self, args: &[&str]) -> String {
        let output = self.manage(args);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let logs: Vec<String> =
            self.nodes.iter().filter_map(|node| Some(node.server.as_ref()?.log())).collect();
        assert!(
            output.status.success(),
            "ashlar cluster {args:?}: {}{}\n{}",
            text(&output.stdout),
            text(&output.stderr),
            logs.join("\n---\n")
        );
        text(&output.stdout)
    }

    /// Kills a node as a power cut would, its disk excepted.
    ///
    /// # Panics
    /// If it does not run.
    pub fn kill(&mut self, at: usize) {
        let server = self.nodes[at].server.take().expect("the node runs");
        self.nodes[at].dir = server.kill();
    }

    /// Starts a node again, on its directory and its ports.
    ///
    /// # Panics
    /// If it does not start.
    pub fn restart(&mut self, at: usize) {
        if let Some(server) = self.nodes[at].server.take() {
            self.nodes[at].dir = server.kill();
        }
        let since = Instant::now();
        // The system gives the port back in its own time.
        while let Err(error) = self.nodes[at].start() {
            assert!(since.elapsed() < PATIENCE, "node {at} does not start again: {error}");
        }
        self.network.set_pid(at, self.nodes[at].server().pid());
    }

    /// Stops a node's process where it is; [`Cluster::resume`] lets it go on.
    pub fn pause(&self, at: usize) {
        self.nodes[at].server().signal("STOP");
    }

    /// See [`Cluster::pause`].
    pub fn resume(&self, at: usize) {
        self.nodes[at].server().signal("CONT");
    }

    /// Holds back what one node sends to another.
    pub fn cut(&self, from: usize, to: usize) {
        self.network.cut(from, to, true);
    }

    /// Cuts a node off from all others, both ways.
    pub fn isolate(&self, at: usize) {
        for other in (0..self.nodes.len()).filter(|other| *other != at) {
            self.network.cut(at, other, true);
            self.network.cut(other, at, true);
        }
    }

    /// Lets everything through again, and what was held back.
    pub fn heal(&self) {
        self.network.heal();
    }

    /// Lets what nodes send to each other take this long.
    pub fn delay(&self, delay: Duration) {
        self.network.delay(delay);
    }

    /// Waits until something holds.
    ///
    /// # Panics
    /// If it does not in [`PATIENCE`], with what every node thinks of the cluster.
    pub fn wait_until(&self, what: &str, mut holds: impl FnMut(&Cluster) -> bool) {
        let since = Instant::now();
        while !holds(self) {
            if since.elapsed() > PATIENCE {
                let running = self.nodes.iter().filter(|node| node.is_running());
                let states: Vec<String> =
                    running.map(|node| node.text("CLUSTER ASHLAR STATUS")).collect();
                panic!("{what}: not in {PATIENCE:?}\n{}", states.join("\n"));
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Waits until every node that runs says that the cluster is whole, and each group kept by the nodes
    /// that shall keep it.
    ///
    /// # Panics
    /// As [`Cluster::wait_until`].
    pub fn wait_ok(&self) {
        self.wait_until("every node sees a whole cluster", |cluster| {
            let mut running = cluster.nodes.iter().filter(|node| node.is_running());
            running.all(|node| {
                let info = node.text("CLUSTER INFO");
                let number = |name: &str| {
                    let line = info.lines().find_map(|line| line.strip_prefix(name));
                    line.and_then(|line| line.strip_prefix(':')).map(str::to_owned)
                };
                info.contains("cluster_state:ok")
                    && number("ashlar_groups") == number("ashlar_groups_settled")
            })
        });
    }

    /// The node that leads the group of a slot, as the node `asked` has it.
    pub fn leader_of(&self, slot: u16, asked: usize) -> Option<usize> {
        let mut client = Client::connect(self.nodes[asked].port).ok()?;
        client.set_timeout(PATIENCE).ok()?;
        let reply = client.line("CLUSTER SLOTS").ok()?;
        let port = reply.items()?.iter().find_map(|entry| {
            let [Value::Int(first), Value::Int(last), leader, ..] = entry.items()? else {
                return None;
            };
            let Value::Int(port) = leader.items()?.get(1)? else { return None };
            (*first..=*last).contains(&i64::from(slot)).then_some(*port)
        })?;
        self.nodes.iter().position(|node| i64::from(node.port) == port)
    }
}
