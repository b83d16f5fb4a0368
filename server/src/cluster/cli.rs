//! `ashlar cluster`: makes and changes a cluster from the command line, by asking its nodes for it.
//!
//! Everything is a command that any client can send as well (CLUSTER ASHLAR); what is added here is to
//! ask several nodes, to wait until what was begun is done, and to say so.

use super::own::LOOPBACK;
use crate::replication::link::{Credentials, Link};
use crate::tls::Arguments;
use std::ffi::OsString;
use std::io::{self, Read};
use std::time::{Duration, Instant};

/// How long one node may be silent.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How often it is looked whether something is done.
const LOOK: Duration = Duration::from_millis(100);
/// Bytes of a reply at most.
const REPLY_BYTES_MAX: usize = 16 << 20;

/// How it is used.
pub const USAGE: &str = "\
ashlar cluster create HOST:PORT ... [--groups N] [--replicas N]
ashlar cluster add-node HOST:PORT NEW-HOST:PORT [--rebalance]
ashlar cluster remove-node HOST:PORT NODE [--shrink]
ashlar cluster rebalance HOST:PORT
ashlar cluster status HOST:PORT
               [--user USER] [--password PASSWORD] [--wait SECONDS]
               [--tls --cacert FILE [--cert FILE --key FILE]]
               HOST:PORT is any node; NODE is its number or name, as status shows them.
               (a password is better given as ASHLAR_PASSWORD=...)
";

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Task {
    Create { groups: Option<String>, replicas: Option<String> },
    AddNode { rebalance: bool },
    RemoveNode { shrink: bool },
    Rebalance,
    Status,
}

/// What the command line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    task: Task,
    /// What stands for itself: nodes' addresses, and the node to be removed.
    words: Vec<String>,
    user: String,
    password: String,
    tls: Arguments,
    wait: Duration,
}

impl Options {
    /// Reads what follows `cluster` on the command line.
    ///
    /// # Errors
    /// What is wrong about it.
    pub fn parse(args: &[OsString]) -> Result<Options, String> {
        let mut args = args.iter().map(|arg| arg.to_string_lossy().into_owned());
        let (mut groups, mut replicas) = (None, None);
        let (mut rebalance, mut shrink) = (false, false);
        let mut words = Vec::new();
        let mut options = Options {
            task: Task::Status,
            words: Vec::new(),
            user: String::new(),
            password: std::env::var("ASHLAR_PASSWORD").unwrap_or_default(),
            tls: Arguments::default(),
            wait: Duration::from_secs(600),
        };
        let task = args.next().ok_or("say what is to be done with the cluster")?;
        while let Some(word) = args.next() {
            let mut value = || args.next().ok_or_else(|| format!("'{word}' needs a value"));
            match (task.as_str(), word.as_str()) {
                ("create", "--groups") => groups = Some(value()?),
                ("create", "--replicas") => replicas = Some(value()?),
                ("add-node", "--rebalance") => rebalance = true,
                ("remove-node", "--shrink") => shrink = true,
                (_, "--user") => options.user = value()?,
                (_, "--password" | "-a") => options.password = value()?,
                (_, "--wait") => {
                    let text = value()?;
                    let seconds = text.parse().map_err(|_| format!("'{text}' is no number"))?;
                    options.wait = Duration::from_secs(seconds);
                }
                (_, word) if options.tls.take(word, &mut value)? => {}
                (_, word) if word.starts_with('-') => {
                    return Err(format!("unknown option '{word}'"));
                }
                _ => words.push(word),
            }
        }
        let (count, known) = match task.as_str() {
            "create" => (1..=1_000, Task::Create { groups, replicas }),
            "add-node" => (2..=2, Task::AddNode { rebalance }),
            "remove-node" => (2..=2, Task::RemoveNode { shrink }),
            "rebalance" => (1..=1, Task::Rebalance),
            "status" => (1..=1, Task::Status),
            other => return Err(format!("unknown task 'cluster {other}'")),
        };
        if !count.contains(&words.len()) {
            return Err(format!("'cluster {task}' takes {} addresses", count.start()));
        }
        (options.task, options.words) = (known, words);
        Ok(options)
    }

    fn connect(&self, address: &str) -> io::Result<Link> {
        let explain = |error: &dyn std::fmt::Display| {
            io::Error::other(format!("can't reach {address}: {error}"))
        };
        let parts = address.rsplit_once(':');
        let (host, port) = parts.ok_or_else(|| explain(&"it is not HOST:PORT"))?;
        let port = port.parse().map_err(|_| explain(&"its port is no number"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let mut link =
            Link::for_command(host, port, TIMEOUT, &self.tls).map_err(|error| explain(&error))?;
        let (user, password) = (self.user.clone(), self.password.clone());
        link.log_in(&Credentials { user, password }).map_err(|error| explain(&error))?;
        Ok(link)
    }
}

/// Sends a command and returns its reply, which is a status, a number or a text.
pub(crate) fn ask(link: &mut Link, args: &[&str]) -> io::Result<String> {
    let args: Vec<&[u8]> = args.iter().map(|arg| arg.as_bytes()).collect();
    link.send(&args)?;
    text(link)
}

/// The answer to a command, be it a line or a text.
pub(crate) fn text(link: &mut Link) -> io::Result<String> {
    let line = link.line()?;
    if line.starts_with(b"-") {
        return Err(io::Error::other(String::from_utf8_lossy(&line).into_owned()));
    }
    let Some(len) = line.strip_prefix(b"$") else {
        return Ok(String::from_utf8_lossy(line.get(1..).unwrap_or_default()).into_owned());
    };
    let len = ashlar_engine::number::parse_i64(len).and_then(|len| usize::try_from(len).ok());
    let len = len.filter(|len| *len <= REPLY_BYTES_MAX);
    let mut bytes = vec![0; len.ok_or_else(|| io::Error::other("not a reply of this server"))? + 2];
    link.read_exact(&mut bytes)?;
    bytes.truncate(bytes.len() - 2);
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A node's description, with the address by which it was reached where the node does not know one that
/// other machines could use.
fn reachable(description: &str, address: &str) -> String {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let is_local = matches!(host, "localhost" | "::1") || host.starts_with("127.");
    let own = format!("host={LOOPBACK}");
    let words = description.split(' ');
    let words = words.map(|word| match word == own && !is_local {
        true => format!("host={host}"),
        false => word.to_owned(),
    });
    words.collect::<Vec<_>>().join(" ")
}

/// The value of a field of CLUSTER INFO.
fn field<'t>(info: &'t str, name: &str) -> Option<&'t str> {
    info.lines().find_map(|line| line.trim_end().strip_prefix(name)?.strip_prefix(':'))
}

/// Looks until `done` says so; what it gives otherwise is what is missing.
fn wait(options: &Options, mut done: impl FnMut() -> io::Result<Option<String>>) -> io::Result<()> {
    let since = Instant::now();
    loop {
        let missing = done()?;
        let Some(missing) = missing else { return Ok(()) };
        if since.elapsed() > options.wait {
            let text = format!("not done after {} s: {missing}", options.wait.as_secs());
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        }
        std::thread::sleep(LOOK);
    }
}

/// Whether the same command may be taken in a moment.
fn is_too_early(error: &io::Error) -> bool {
    let text = error.to_string();
    text.starts_with("-TRYAGAIN") || text.contains("try again") || text.contains("under way")
}

/// What is not as the topology says yet.
fn missing(link: &mut Link) -> io::Result<Option<String>> {
    let info = ask(link, &["CLUSTER", "INFO"])?;
    let number = |name| field(&info, name).and_then(|text| text.parse::<usize>().ok()).unwrap_or(0);
    let (moves, groups) = (number("ashlar_moves"), number("ashlar_groups"));
    let (served, settled) = (number("ashlar_groups_served"), number("ashlar_groups_settled"));
    let done = moves == 0 && served == groups && settled == groups;
    Ok((!done).then(|| {
        format!(
            "{moves} moves of slots left; {served} served and {settled} settled of {groups} groups"
        )
    }))
}

/// Does what the command line asks for; what it came to, for people.
///
/// # Errors
/// If a node can't be reached or refuses, or it is not done in time. What was begun goes on.
pub fn run(options: &Options) -> io::Result<String> {
    let first = &options.words[0];
    match &options.task {
        Task::Create { groups, replicas } => {
            create(options, groups.as_deref(), replicas.as_deref())
        }
        Task::AddNode { rebalance: and_rebalance } => {
            let new = &options.words[1];
            let node = ask(&mut options.connect(new)?, &["CLUSTER", "ASHLAR", "SELF"])?;
            let node = reachable(&node, new);
            let mut link = options.connect(first)?;
            let id = ask(&mut link, &["CLUSTER", "ASHLAR", "ADDNODE", &node])?;
            if !and_rebalance {
                return Ok(format!(
                    "node {id} added; it keeps nothing until `ashlar cluster rebalance`"
                ));
            }
            let line = format!("node={id} ");
            wait(options, || {
                let status = ask(&mut link, &["CLUSTER", "ASHLAR", "STATUS"])?;
                let seen = status.lines().any(|known| known.starts_with(&line));
                Ok((!seen).then(|| "the node is not known yet".to_owned()))
            })?;
            rebalance(options, &mut link)?;
            Ok(format!("node {id} added and given its share"))
        }
        Task::RemoveNode { shrink } => {
            let mut link = options.connect(first)?;
            let node = options.words[1].as_str();
            let mut args = vec!["CLUSTER", "ASHLAR", "REMOVENODE", node];
            args.extend(shrink.then_some("SHRINK"));
            wait(options, || match ask(&mut link, &args) {
                Ok(reply) if reply == "OK" => Ok(None),
                Ok(reply) => Ok(Some(reply)),
                Err(error) if is_too_early(&error) => Ok(Some(error.to_string())),
                Err(error) => Err(error),
            })?;
            Ok(format!("node {node} removed; it can be stopped"))
        }
        Task::Rebalance => {
            rebalance(options, &mut options.connect(first)?)?;
            Ok("replicas, slots and leaders are spread evenly".to_owned())
        }
        Task::Status => ask(&mut options.connect(first)?, &["CLUSTER", "ASHLAR", "STATUS"]),
    }
}

fn rebalance(options: &Options, link: &mut Link) -> io::Result<()> {
    wait(options, || missing(link))?;
    let version = |info: &str| field(info, "ashlar_topology_version").map(str::to_owned);
    let (mut before, mut changes) = (None, String::new());
    wait(options, || {
        before = version(&ask(link, &["CLUSTER", "INFO"])?);
        match ask(link, &["CLUSTER", "ASHLAR", "REBALANCE"]) {
            Ok(reply) => changes = reply,
            Err(error) if is_too_early(&error) => return Ok(Some(error.to_string())),
            Err(error) => return Err(error),
        }
        Ok(None)
    })?;
    if changes == "0" {
        return Ok(());
    }
    // Only once the node has seen the change itself does it tell what is missing of it.
    wait(options, || {
        let seen = version(&ask(link, &["CLUSTER", "INFO"])?) != before;
        Ok((!seen).then(|| "the node has not seen the change".to_owned()))
    })?;
    wait(options, || missing(link))
}

fn create(options: &Options, groups: Option<&str>, replicas: Option<&str>) -> io::Result<String> {
    let mut links = Vec::new();
    let mut nodes = Vec::new();
    for address in &options.words {
        let mut link = options.connect(address)?;
        let explain = |error: io::Error| io::Error::other(format!("{address}: {error}"));
        if ask(&mut link, &["CLUSTER", "ASHLAR", "STATUS"]).map_err(explain)?.trim_end()
            != "no cluster"
        {
            return Err(io::Error::other(format!("{address} is in a cluster already")));
        }
        nodes.push(reachable(&ask(&mut link, &["CLUSTER", "ASHLAR", "SELF"])?, address));
        links.push(link);
    }
    let mut args = vec!["CLUSTER", "ASHLAR", "CREATE"];
    for (name, value) in [("GROUPS", groups), ("REPLICAS", replicas)] {
        args.extend(value.into_iter().flat_map(|value| [name, value]));
    }
    args.push("NODES");
    args.extend(nodes.iter().map(String::as_str));
    ask(&mut links[0], &args)?;
    for (link, address) in links.iter_mut().zip(&options.words) {
        wait(options, || {
            let info = ask(link, &["CLUSTER", "INFO"])?;
            if field(&info, "cluster_state") != Some("ok") {
                return Ok(Some(format!("{address} does not see the whole cluster")));
            }
            // A group starts at one node; only once the others have joined it does it stand their loss.
            missing(link)
        })?;
    }
    ask(&mut links[0], &["CLUSTER", "ASHLAR", "STATUS"])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, String> {
        let args: Vec<OsString> = line.split_ascii_whitespace().map(OsString::from).collect();
        Options::parse(&args)
    }

    #[test]
    fn tasks_take_what_they_need() {
        let options = parse("create a:1 b:2 --groups 3 c:3 --wait 5").unwrap();
        assert_eq!(options.words, ["a:1", "b:2", "c:3"]);
        assert_eq!(options.task, Task::Create { groups: Some("3".into()), replicas: None });
        assert_eq!(options.wait, Duration::from_secs(5));
        assert_eq!(
            parse("add-node a:1 b:2 --rebalance").unwrap().task,
            Task::AddNode { rebalance: true }
        );
        for wrong in [
            "",
            "create",
            "add-node a:1",
            "status a:1 b:2",
            "grow a:1",
            "status --groups 2 a:1",
            "create a --wait x",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_node_gets_the_address_it_was_reached_by() {
        let node = "name=x host=127.0.0.1 port=1";
        assert_eq!(reachable(node, "db1.example:1"), "name=x host=db1.example port=1");
        assert_eq!(reachable(node, "[fd00::1]:1"), "name=x host=fd00::1 port=1");
        assert_eq!(reachable(node, "localhost:1"), node);
        assert_eq!(
            reachable("name=x host=10.0.0.1 port=1", "db1:1"),
            "name=x host=10.0.0.1 port=1"
        );
    }

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let info = "cluster_state:ok\r\nashlar_groups:3\r\nashlar_groups_served:2\r\n";
        assert_eq!(field(info, "ashlar_groups"), Some("3"));
        assert_eq!(field(info, "ashlar_groups_served"), Some("2"));
        assert_eq!(field(info, "cluster"), None);
    }
}
