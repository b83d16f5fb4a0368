//! What this node tells others of itself, and the form it has in commands.

use super::Member;
use crate::config::{Settings, ids};
use crate::info::ASHLAR_VERSION;
use crate::shared::Shared;
use ashlar_replication::topology::{NodeInfo, Role, parse_hex};
use std::net::IpAddr;

/// Bytes of a description at most.
const DESCRIPTION_BYTES_MAX: usize = 8 * 1024;

/// This node by its settings; its number is 0 while it is in no cluster.
pub fn info(shared: &Shared, member: &dyn Member) -> NodeInfo {
    let settings = &shared.settings;
    let port = |announced, own: u16| match settings.number(announced) {
        0 => own,
        port => u16::try_from(port).unwrap_or(own),
    };
    let tls_port = u16::try_from(settings.number(ids::TLS_PORT)).unwrap_or(0);
    NodeInfo {
        id: member.me(),
        name: member.name(),
        host: host(settings).unwrap_or_else(|| LOOPBACK.to_owned()),
        hostname: settings.string(ids::CLUSTER_ANNOUNCE_HOSTNAME),
        port: port(ids::CLUSTER_ANNOUNCE_PORT, shared.port),
        tls_port: port(ids::CLUSTER_ANNOUNCE_TLS_PORT, tls_port),
        peer_port: port(ids::CLUSTER_ANNOUNCE_BUS_PORT, member.peer_port()),
        site: settings.string(ids::CLUSTER_SITE),
        role: if settings.flag(ids::CLUSTER_WITNESS) { Role::Witness } else { Role::Data },
        draining: false,
        version: ASHLAR_VERSION.to_owned(),
    }
}

/// What this node is known as where its settings do not say: right for trials on one machine.
/// `ashlar cluster` puts the address there by which it has reached the node.
pub const LOOPBACK: &str = "127.0.0.1";

/// The address that the settings say: the one to be announced, or the first that is listened on and
/// that others may reach.
fn host(settings: &Settings) -> Option<String> {
    let announced = settings.string(ids::CLUSTER_ANNOUNCE_IP);
    if !announced.is_empty() {
        return Some(announced);
    }
    bound_address(&settings.string(ids::BIND))
}

fn bound_address(bind: &str) -> Option<String> {
    let words = bind.split_ascii_whitespace().map(|word| word.trim_start_matches('-'));
    let mut addresses = words.filter_map(|word| word.parse::<IpAddr>().ok());
    addresses.find(|address| !address.is_unspecified()).map(|address| address.to_string())
}

/// What the cluster should know of this node, where that is not what it knows: its settings or its
/// version may have changed since.
pub fn correction(shared: &Shared, member: &dyn Member) -> Option<NodeInfo> {
    let topology = member.topology();
    let known = topology.nodes.get(&member.me())?;
    let mut own = info(shared, member);
    own.draining = known.draining;
    // A node keeps what it was when it joined.
    (own.name, own.role) = (known.name, known.role);
    if host(&shared.settings).is_none() {
        own.host = known.host.clone();
    }
    (own != *known).then_some(own)
}

/// A node as one word of a command: `name=... host=... port=...`, without what it has by default.
pub fn describe(node: &NodeInfo) -> String {
    let mut text = format!("name={} host={} port={}", node.hex(), node.host, node.port);
    let mut add = |name: &str, value: &str| {
        if !value.is_empty() && value != "0" {
            text.push_str(&format!(" {name}={value}"));
        }
    };
    add("tls-port", &node.tls_port.to_string());
    add("peer-port", &node.peer_port.to_string());
    add("hostname", &node.hostname);
    add("site", &node.site);
    add("version", &node.version);
    if node.role == Role::Witness {
        add("role", "witness");
    }
    text
}

/// Reads what [`describe`] writes. Fields that are not known are passed over: a newer node may have
/// written them.
///
/// # Errors
/// What is wrong, for people.
pub fn parse(description: &[u8]) -> Result<NodeInfo, String> {
    if description.len() > DESCRIPTION_BYTES_MAX {
        return Err("the description of a node is too long".into());
    }
    let text = std::str::from_utf8(description).map_err(|_| "a node is described by text")?;
    let mut node = NodeInfo::default();
    let mut named = false;
    for word in text.split_ascii_whitespace() {
        let (field, value) = word.split_once('=').ok_or("a node is described by FIELD=VALUE")?;
        let port = || value.parse::<u16>().map_err(|_| format!("'{value}' is no port"));
        match field {
            "name" => {
                let text = "a node's name is 40 hexadecimal digits";
                node.name = parse_hex(value.as_bytes()).ok_or(text)?;
                named = true;
            }
            "host" => node.host = value.to_owned(),
            "hostname" => node.hostname = value.to_owned(),
            "port" => node.port = port()?,
            "tls-port" => node.tls_port = port()?,
            "peer-port" => node.peer_port = port()?,
            "site" => node.site = value.to_owned(),
            "version" => node.version = value.to_owned(),
            "role" if value == "witness" => node.role = Role::Witness,
            "role" if value == "data" => node.role = Role::Data,
            "role" => return Err(format!("'{value}' is no role of a node")),
            _ => {}
        }
    }
    if !named || node.host.is_empty() || node.peer_port == 0 {
        return Err("a node's name, host and peer-port are needed".into());
    }
    Ok(node)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_is_read_as_it_was_written() {
        let node = NodeInfo {
            name: [0xab; 20],
            host: "10.0.0.1".into(),
            hostname: "one.example".into(),
            port: 7000,
            tls_port: 7443,
            peer_port: 17000,
            site: "east".into(),
            role: Role::Witness,
            version: "0.1.0".into(),
            ..NodeInfo::default()
        };
        assert_eq!(parse(describe(&node).as_bytes()), Ok(node.clone()));
        assert_eq!(parse(format!("{} later=1", describe(&node)).as_bytes()), Ok(node));
        for wrong in ["", "name=1", "name", "host=a peer-port=1", "port=x", "role=king", "\u{fffd}"]
        {
            assert!(parse(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_node_is_reached_where_it_listens() {
        assert_eq!(bound_address("10.0.0.7 -::1").as_deref(), Some("10.0.0.7"));
        assert_eq!(bound_address("* -::*"), None);
        assert_eq!(bound_address("0.0.0.0 -::1").as_deref(), Some("::1"));
    }
}
