//! The other sites, as an administrator named them: part of the site's state, so that it comes back
//! from the log.

use super::codec::{push_bytes, push_number, read_bytes, read_number};
use super::element::SiteId;
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
    /// The site of this number.
    pub fn by_id(&self, id: SiteId) -> Option<(&str, &Peer)> {
        let found = self.list.iter().find(|(_, peer)| peer.id == Some(id));
        found.map(|(name, peer)| (name.as_str(), peer))
    }

    /// Appends the form of the log: `version number | promoted u8 | count number`, then of each peer
    /// `name bytes | id number (0: unknown) | host bytes | port number`.
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
            list.insert(name, Peer { id: (id > 0).then_some(id), host, port });
        }
        Ok(Peers { version, list, promoted })
    }
}
