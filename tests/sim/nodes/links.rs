//! Simulated connections, as TCP has them: what is sent on one arrives in its order, until it breaks; then
//! all that was under way is lost, and the sender learns of it sooner or later.

use ashlar_replication::node::NodeId;
use ashlar_replication::raft::GroupId;
use ashlar_replication::runtime::{Incoming, Links, PeerAddress};
use raft::eraftpb::Message;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Microseconds between two tries to reach a node.
const RETRY_US: u64 = 200_000;

/// What a node does to the network in a turn.
#[derive(Clone, Debug)]
pub enum Act {
    /// It dials: the number that it thinks the other has, and where that one is.
    Dial(NodeId, u16),
    /// It sends on a connection: its number, kind, payload.
    Send(u64, u8, Vec<u8>),
    /// It sends a snapshot on a connection.
    Snapshot(u64, GroupId, Message, Vec<u8>),
}

#[derive(Clone, Debug)]
struct Link {
    port: u16,
    /// The connection, once it is there.
    connection: Option<u64>,
    retry_at_us: u64,
}

/// What the world and a node's links share.
#[derive(Debug, Default)]
pub struct Shared {
    /// Number and cluster of the node; 0 while it has none.
    pub me: NodeId,
    /// Zeros while there is none.
    pub cluster: [u8; 20],
    links: BTreeMap<NodeId, Link>,
    /// What has come in.
    pub incoming: Vec<Incoming>,
    /// What the world is to do.
    pub acts: Vec<Act>,
    heard_us: BTreeMap<NodeId, u64>,
}

impl Shared {
    /// A node was heard of.
    pub fn heard(&mut self, from: NodeId, now_us: u64) {
        self.heard_us.insert(from, now_us);
    }

    /// A connection to a node is there.
    pub fn connected(&mut self, to: NodeId, connection: u64) {
        if let Some(link) = self.links.get_mut(&to) {
            link.connection = Some(connection);
        }
    }

    /// Another node has greeted: whom it means, which cluster, who it is and where. Whether it is welcome.
    pub fn greet(&mut self, to: NodeId, cluster: [u8; 20], from: NodeId, port: u16) -> bool {
        let meant = self.me == 0 || to == self.me;
        let known = self.cluster == [0; 20] || cluster == self.cluster;
        if !meant || !known {
            return false;
        }
        self.incoming.push(Incoming::Hello(to, cluster));
        let link = Link { port, connection: None, retry_at_us: 0 };
        self.links.entry(from).or_insert(link);
        if self.me == 0 {
            (self.me, self.cluster) = (to, cluster);
        }
        true
    }

    /// A connection broke.
    pub fn broken(&mut self, connection: u64) {
        for (to, link) in &mut self.links {
            if link.connection == Some(connection) {
                link.connection = None;
                self.incoming.push(Incoming::Unreachable(*to));
            }
        }
    }
}

/// A node's end of the network.
pub struct SimLinks(pub Arc<Mutex<Shared>>);

impl SimLinks {
    fn with<T>(&self, act: impl FnOnce(&mut Shared) -> T) -> T {
        act(&mut self.0.lock().expect("nobody panics with it"))
    }
}

impl Links for SimLinks {
    fn set_identity(&mut self, me: NodeId, cluster: [u8; 20]) {
        self.with(|shared| (shared.me, shared.cluster) = (me, cluster));
    }

    fn set_peers(&mut self, peers: &BTreeMap<NodeId, PeerAddress>) {
        self.with(|shared| {
            let known = |node: &NodeId, link: &Link| {
                peers.get(node).is_some_and(|address| address.port == link.port)
            };
            shared.links.retain(|node, link| known(node, link));
            for (node, address) in peers.iter().filter(|(node, _)| **node != shared.me) {
                let link = Link { port: address.port, connection: None, retry_at_us: 0 };
                shared.links.entry(*node).or_insert(link);
            }
        });
    }

    fn heard_us(&self, node: NodeId) -> Option<u64> {
        self.with(|shared| shared.heard_us.get(&node).copied())
    }

    fn is_linked(&self, node: NodeId) -> bool {
        self.with(|shared| shared.links.get(&node).is_some_and(|link| link.connection.is_some()))
    }

    fn send(&mut self, node: NodeId, kind: u8, parts: &[&[u8]]) -> bool {
        self.with(|shared| {
            let Some(connection) = shared.links.get(&node).and_then(|link| link.connection) else {
                return false;
            };
            shared.acts.push(Act::Send(connection, kind, parts.concat()));
            true
        })
    }

    fn send_snapshot(&mut self, group: GroupId, message: Message, data: Vec<u8>) -> bool {
        self.with(|shared| {
            let link = shared.links.get(&message.to);
            let Some(connection) = link.and_then(|link| link.connection) else { return false };
            shared.acts.push(Act::Snapshot(connection, group, message, data));
            true
        })
    }

    fn wait(&mut self, _: Duration) -> io::Result<()> {
        Ok(())
    }

    fn receive(&mut self, _: u64, incoming: &mut Vec<Incoming>) {
        self.with(|shared| incoming.append(&mut shared.incoming));
    }

    fn work(&mut self, now_us: u64, _: &mut Vec<Incoming>) {
        self.with(|shared| {
            let Shared { links, acts, me, .. } = shared;
            if *me == 0 {
                return;
            }
            for (node, link) in links.iter_mut().filter(|(_, link)| link.connection.is_none()) {
                if now_us >= link.retry_at_us {
                    link.retry_at_us = now_us + RETRY_US;
                    acts.push(Act::Dial(*node, link.port));
                }
            }
        });
    }
}
