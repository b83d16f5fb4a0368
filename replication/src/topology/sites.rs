//! The cluster as one site among others: its number, and which others there are.
//!
//! The meta group has the table; each group with data takes it into its own log, as it does the classes of keys
//! (`runtime/steward.rs`), and before classes that came later. A group has the number `id + 256 * group` among the
//! sites.

use super::change::{Done, check_text, ensure};
use super::{Release, Topology};
use crate::bytes::{Malformed, Reader, push_bytes, push_len, push_u64};
use crate::raft::GroupId;
use crate::sites::element::SiteId;
use crate::sites::peers::{PEERS_MAX, Peer};
use std::collections::BTreeMap;

/// The largest number of a cluster among the sites, of a group of such a cluster, and of a site next to one.
pub const CLUSTER_SITE_MAX: SiteId = 255;
/// The setting of a cluster that gives it its number among the sites.
pub const SITE_ID: &str = "site-id";
/// The setting of a cluster that names it among the sites.
pub const SITE_NAME: &str = "site-name";
/// The setting of a cluster that says whether it only follows the other sites.
pub const SITE_BACKUP: &str = "site-backup";

/// Version of the form.
const VERSION: u8 = 1;
/// Bytes of the shortest peer.
const PEER_BYTES_MIN: usize = 16;

/// What the cluster is among the sites, and which others there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SiteTable {
    /// Grows with every change; 0: never set.
    pub version: u64,
    /// The number of the cluster as a site; 0: none. It is set once: under a new number it would count anew.
    pub id: SiteId,
    /// Name of this site; empty while it has none. It is set once.
    pub name: String,
    /// The other sites by name, at most [`PEERS_MAX`].
    pub peers: BTreeMap<String, Peer>,
    /// A backup only follows, until it is promoted.
    pub backup: bool,
}

/// A change of the table. Made: its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SiteChange {
    /// Gives the cluster its number.
    Id(SiteId),
    /// Names it.
    Name(String),
    /// Adds another site, or says that it is somewhere else now.
    Add {
        /// Its name here.
        name: String,
        /// Where it listens.
        host: String,
        /// Its port for clients.
        port: u16,
    },
    /// Takes a site out.
    Remove(String),
    /// Another site has told its number; of a cluster, that of the cluster.
    Learn {
        /// Its name here.
        name: String,
        /// Its number.
        id: SiteId,
    },
    /// Says whether the cluster only follows.
    Backup(bool),
}

impl SiteTable {
    /// The name that other sites see.
    pub fn shown_name(&self) -> String {
        if self.name.is_empty() { format!("site-{}", self.id) } else { self.name.clone() }
    }

    /// Appends the byte form: `form u8 | version u64 | id u32 | name | backup u8`, then a list of the peers, each
    /// `name | id u32 (0: unknown) | host | port u32`. Texts are a length in four bytes, then UTF-8.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let push_number =
            |out: &mut Vec<u8>, n: u16| out.extend_from_slice(&u32::from(n).to_le_bytes());
        out.push(VERSION);
        push_u64(out, self.version);
        push_number(out, self.id);
        push_bytes(out, self.name.as_bytes());
        out.push(u8::from(self.backup));
        push_len(out, self.peers.len());
        for (name, peer) in &self.peers {
            push_bytes(out, name.as_bytes());
            push_number(out, peer.id.unwrap_or(0));
            push_bytes(out, peer.host.as_bytes());
            push_number(out, peer.port);
        }
    }

    /// Reads that form, and nothing behind it; `None` if it is none.
    pub fn decode(bytes: &[u8]) -> Option<SiteTable> {
        let mut reader = Reader(bytes);
        let table = read(&mut reader).ok()?;
        reader.end().ok()?;
        table.check().ok()?;
        Some(table)
    }

    /// Whether it is one that changes can lead to.
    pub(super) fn check(&self) -> Done {
        check_id(self.id)?;
        check_text(&self.name)?;
        ensure(self.peers.len() <= PEERS_MAX, || format!("at most {PEERS_MAX} other sites"))?;
        self.peers.iter().try_for_each(|(name, peer)| {
            check_peer(name, &peer.host, peer.port)?;
            check_id(peer.id.unwrap_or(0))
        })
    }

    fn perform(&mut self, change: &SiteChange) -> Done {
        match change {
            SiteChange::Id(id) => {
                ensure(*id > 0, || format!("site-id is a number from 1 to {CLUSTER_SITE_MAX}"))?;
                check_id(*id)?;
                ensure(self.id == 0 || self.id == *id, || {
                    let own = self.id;
                    format!(
                        "the cluster is site {own} for good: under a new number it would count anew"
                    )
                })?;
                self.check_other(*id)?;
                self.id = *id;
            }
            SiteChange::Name(name) => {
                check_text(name)?;
                ensure(!name.is_empty(), || "a site has a name".into())?;
                ensure(self.name.is_empty() || self.name == *name, || {
                    format!("the site is named {} already", self.name)
                })?;
                self.name.clone_from(name);
            }
            SiteChange::Add { name, host, port } => self.add(name, host, *port)?,
            SiteChange::Remove(name) => {
                ensure(self.peers.remove(name).is_some(), || "no such site".into())?;
            }
            SiteChange::Learn { name, id } => self.learn(name, *id)?,
            SiteChange::Backup(backup) => self.backup = *backup,
        }
        Ok(())
    }

    fn add(&mut self, name: &str, host: &str, port: u16) -> Done {
        ensure(self.id > 0, || {
            "this cluster is no site: give it a number with CLUSTER ASHLAR SET site-id".into()
        })?;
        check_peer(name, host, port)?;
        let known = self.peers.get(name);
        let full = self.peers.len() >= PEERS_MAX && known.is_none();
        ensure(!full, || format!("at most {PEERS_MAX} other sites"))?;
        if known.is_none_or(|peer| peer.host != host || peer.port != port) {
            self.peers.insert(name.to_owned(), peer(0, host.to_owned(), port));
        }
        Ok(())
    }

    fn learn(&mut self, name: &str, id: SiteId) -> Done {
        ensure(id > 0, || "a site has a number".into())?;
        check_id(id)?;
        ensure(id != self.id, || format!("site {name} has the number of this one, {id}"))?;
        self.check_other(id).or_else(|text| match self.peers.get(name) {
            Some(peer) if peer.id == Some(id) => Ok(()),
            _ => Err(text),
        })?;
        let peer = self.peers.get_mut(name).ok_or("no such site")?;
        ensure(peer.id.is_none_or(|known| known == id), || {
            format!("site {name} was another one before: take it out with SITE REMOVE, then add it")
        })?;
        peer.id = Some(id);
        Ok(())
    }

    /// No other site may have this number.
    fn check_other(&self, id: SiteId) -> Done {
        let other = self.peers.iter().find(|(_, peer)| peer.id == Some(id));
        other.map_or(Ok(()), |(name, _)| Err(format!("site {name} has the number {id}")))
    }
}

impl Topology {
    /// Changes the table of sites. Returns its version.
    pub(super) fn change_sites(&mut self, change: &SiteChange) -> Result<u64, String> {
        let (needed, all) = (Release::SITES, self.release());
        ensure(all >= needed, || {
            format!("the cluster is of release {all}, and sites need {needed} on all nodes")
        })?;
        if matches!(change, SiteChange::Id(_)) {
            let most = GroupId::from(CLUSTER_SITE_MAX);
            ensure(self.groups.keys().all(|group| *group <= most), || {
                format!("groups of a site are numbered up to {most}, and there is one above that")
            })?;
        }
        let mut table = self.sites.clone();
        table.perform(change)?;
        if table != self.sites {
            table.version += 1;
            self.sites = table;
        }
        Ok(self.sites.version)
    }
}

/// Another site; with number 0 it has not told its own yet.
fn peer(id: SiteId, host: String, port: u16) -> Peer {
    Peer { id: (id > 0).then_some(id), host, port, groups: Vec::new() }
}

fn check_id(id: SiteId) -> Done {
    ensure(id <= CLUSTER_SITE_MAX, || {
        format!("next to a cluster sites are numbered up to {CLUSTER_SITE_MAX}: {id} is above that")
    })
}

fn check_peer(name: &str, host: &str, port: u16) -> Done {
    check_text(name)?;
    check_text(host)?;
    ensure(!name.is_empty() && !host.is_empty() && port > 0, || {
        "a site has a name, a host and a port".into()
    })
}

fn read(reader: &mut Reader<'_>) -> Result<SiteTable, Malformed> {
    let number = |reader: &mut Reader<'_>| u16::try_from(reader.u32()?).map_err(|_| Malformed);
    let text = |reader: &mut Reader<'_>| {
        String::from_utf8(reader.bytes()?.to_vec()).map_err(|_| Malformed)
    };
    if reader.u8()? != VERSION {
        return Err(Malformed);
    }
    let (version, id) = (reader.u64()?, number(reader)?);
    let name = text(reader)?;
    let backup = match reader.u8()? {
        0 => false,
        1 => true,
        _ => return Err(Malformed),
    };
    let list = reader.list(PEER_BYTES_MIN, |reader| {
        let (name, id) = (text(reader)?, number(reader)?);
        Ok((name, peer(id, text(reader)?, number(reader)?)))
    })?;
    let count = list.len();
    let peers: BTreeMap<String, Peer> = list.into_iter().collect();
    if peers.len() < count {
        return Err(Malformed);
    }
    Ok(SiteTable { version, id, name, peers, backup })
}
