//! The other sites, as an administrator named them: part of the site's state, so that it comes back
//! from the log.

use super::codec::{push_bytes, push_number, read_bytes, read_number};
use super::element::SiteId;
use super::site::PER_GROUP;
use crate::bytes::{Malformed, Reader};
use std::collections::BTreeMap;

/// Most sites besides this one.
pub const PEERS_MAX: usize = 64;

/// Another site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its number, once it has told it.
    pub id: Option<SiteId>,
    /// Where it listens.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The numbers of its groups, if it is a cluster and has told them.
    pub groups: Vec<SiteId>,
}

/// The other sites by the names they were given here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peers {
    /// Grows with every change.
    pub version: u64,
    /// By name.
    pub list: BTreeMap<String, Peer>,
    /// Whether a backup was made a site that takes writes.
    pub promoted: bool,
}

impl Peers {
    /// The site of this number, which may be that of one of its groups.
    pub fn by_id(&self, id: SiteId) -> Option<(&str, &Peer)> {
        let is = |peer: &Peer| match peer.groups.as_slice() {
            [] => peer.id == Some(id),
            groups => groups.contains(&id),
        };
        let found = self.list.iter().find(|(_, peer)| is(peer));
        found.map(|(name, peer)| (name.as_str(), peer))
    }

    /// Whether any of the sites is a cluster.
    pub fn have_groups(&self) -> bool {
        self.list.values().any(|peer| !peer.groups.is_empty())
    }

    /// Appends the form of the log: `version number | promoted u8 | count number`, then of each peer
    /// `name bytes | id number (0: unknown) | host bytes | port number`; then, if any of them is a cluster, of each one
    /// `count number | number of group`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        push_number(out, self.version);
        out.push(u8::from(self.promoted));
        push_number(out, self.list.len() as u64);
        for (name, peer) in &self.list {
            push_bytes(out, name.as_bytes());
            push_number(out, peer.id.unwrap_or(0).into());
            push_bytes(out, peer.host.as_bytes());
            push_number(out, peer.port.into());
        }
        if self.have_groups() {
            for peer in self.list.values() {
                push_number(out, peer.groups.len() as u64);
                peer.groups.iter().for_each(|group| push_number(out, (*group).into()));
            }
        }
    }

    /// Reads that form.
    ///
    /// # Errors
    /// If the bytes are something else.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Peers, Malformed> {
        let version = read_number(reader)?;
        let promoted = reader.u8()? != 0;
        let count = read_number(reader)?;
        let mut list = BTreeMap::new();
        if count > PEERS_MAX as u64 {
            return Err(Malformed);
        }
        for _ in 0..count {
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).map_err(|_| Malformed);
            let name = text(read_bytes(reader)?)?;
            let id = SiteId::try_from(read_number(reader)?).map_err(|_| Malformed)?;
            let host = text(read_bytes(reader)?)?;
            let port = u16::try_from(read_number(reader)?).map_err(|_| Malformed)?;
            list.insert(name, Peer { id: (id > 0).then_some(id), host, port, groups: Vec::new() });
        }
        if !reader.0.is_empty() {
            for peer in list.values_mut() {
                let count = read_number(reader)?;
                if count > u64::from(PER_GROUP) {
                    return Err(Malformed);
                }
                let group = |reader: &mut Reader<'_>| {
                    SiteId::try_from(read_number(reader)?).map_err(|_| Malformed)
                };
                peer.groups = (0..count).map(|_| group(reader)).collect::<Result<_, _>>()?;
            }
        }
        Ok(Peers { version, list, promoted })
    }
}
