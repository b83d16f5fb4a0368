//! The thread of another site: asks which ends it has, one or one a group, and keeps a link from each end here to each
//! of them.
//!
//! ```text
//! SITE GROUPS of any of its nodes -> ends there x ends here -> threads of links
//! ```

use super::link::{self, LinkState, To};
use super::local::Local;
use crate::replication::link::Link;
use crate::shared::Shared;
use ashlar_engine::number;
use ashlar_replication::sites::element::SiteId;
use ashlar_replication::sites::site::PER_GROUP;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// An end at the other site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// Its number.
    pub id: SiteId,
    /// Where it is reached; empty while that is not known.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// Another site.
pub struct Peer {
    /// Its name here.
    pub name: String,
    /// Where an administrator said that it is.
    pub address: (String, u16),
    stopped: AtomicBool,
    /// Shown until its ends are known.
    first: Arc<LinkState>,
    links: Mutex<BTreeMap<(SiteId, SiteId), Arc<LinkState>>>,
}

/// What this process is among the sites: its ends, and who keeps what it learns.
pub trait Home: Send + Sync {
    /// The ends that are here now.
    fn ends(&self, shared: &Shared) -> Vec<Local>;
    /// Another site has told its ends; `id` is its number, that of the cluster if it is one.
    fn learn(&self, shared: &Arc<Shared>, name: &str, id: SiteId, groups: &[SiteId]);
}

impl Peer {
    /// Starts its thread.
    pub fn spawn(
        shared: &Arc<Shared>,
        home: Arc<dyn Home>,
        name: &str,
        address: (String, u16),
    ) -> Arc<Peer> {
        let peer = Arc::new(Peer {
            name: name.to_owned(),
            first: Arc::new(LinkState::new(name, 0, address.clone())),
            address,
            stopped: AtomicBool::new(false),
            links: Mutex::default(),
        });
        let (weak, its) = (Arc::downgrade(shared), peer.clone());
        let thread = std::thread::Builder::new().name("ashlar-peer".into()).spawn(move || {
            let mut asked = Asked::default();
            while let Some(shared) = weak.upgrade() {
                if its.stopped.load(Ordering::Acquire) || shared.stopping.load(Ordering::Acquire) {
                    break;
                }
                match asked.ends(&shared, &its.address) {
                    Ok(ends) => its.take(&shared, &*home, &ends),
                    Err(error) => {
                        asked.link = None;
                        // Links that are there go on as long as they can.
                        its.first.fail(&error);
                        its.keep(&shared, &*home, &asked.known);
                    }
                }
                drop(shared);
                std::thread::sleep(LOOK_EVERY);
            }
            its.links.lock().values().for_each(|link| link.stop());
        });
        if let Err(error) = thread {
            tracing::error!("no thread for another site: {error}");
        }
        peer
    }

    /// Ends its thread, and the links.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.links.lock().values().for_each(|link| link.stop());
    }

    /// Its links.
    pub fn links(&self) -> Vec<Arc<LinkState>> {
        let links: Vec<Arc<LinkState>> = self.links.lock().values().cloned().collect();
        if links.is_empty() { vec![self.first.clone()] } else { links }
    }

    fn take(&self, shared: &Arc<Shared>, home: &dyn Home, ends: &[End]) {
        let is_cluster = ends.first().is_some_and(|end| end.id >= PER_GROUP && end.port > 0);
        let groups: Vec<SiteId> =
            if is_cluster { ends.iter().map(|end| end.id).collect() } else { Vec::new() };
        if let Some(first) = ends.first() {
            let id = if is_cluster { first.id % PER_GROUP } else { first.id };
            home.learn(shared, &self.name, id, &groups);
        }
        self.keep(shared, home, ends);
    }

    /// Keeps a link from each end here to each end there.
    fn keep(&self, shared: &Arc<Shared>, home: &dyn Home, ends: &[End]) {
        if ends.is_empty() || self.stopped.load(Ordering::Acquire) {
            return;
        }
        let here = home.ends(shared);
        let mut links = self.links.lock();
        let stays = |(local, to): &(SiteId, SiteId)| {
            here.iter().any(|end| end.id() == *local) && ends.iter().any(|end| end.id == *to)
        };
        links.retain(|pair, link| {
            let stays = stays(pair);
            if !stays {
                link.stop();
            }
            stays
        });
        for local in &here {
            for end in ends {
                let address = match end.port {
                    0 => self.address.clone(),
                    port => (end.host.clone(), port),
                };
                if address.0.is_empty() {
                    continue;
                }
                let state = links.entry((local.id(), end.id)).or_insert_with(|| {
                    let state = Arc::new(LinkState::new(&self.name, local.id(), address.clone()));
                    let to = To { id: end.id, is_group: end.port > 0 };
                    link::spawn(shared, local.clone(), state.clone(), to);
                    state
                });
                *state.address.lock() = address;
            }
        }
    }
}

/// The connection on which a site is asked for its ends.
#[derive(Default)]
struct Asked {
    link: Option<Link>,
    /// The ends that it told last.
    known: Vec<End>,
    /// Connections that were tried.
    tries: usize,
}

impl Asked {
    fn ends(&mut self, shared: &Arc<Shared>, address: &(String, u16)) -> io::Result<Vec<End>> {
        if self.link.is_none() {
            // Any of its nodes knows.
            let mut addresses = vec![address.clone()];
            let others = self.known.iter().filter(|end| end.port > 0);
            addresses.extend(others.map(|end| (end.host.clone(), end.port)));
            let (host, port) = &addresses[self.tries % addresses.len()];
            self.tries += 1;
            self.link = Some(link::connect(shared, host, *port)?);
        }
        let Some(link) = &mut self.link else { return Ok(Vec::new()) };
        self.known = ask(link)?;
        self.tries = 0;
        Ok(self.known.clone())
    }
}

/// SITE GROUPS.
fn ask(link: &mut Link) -> io::Result<Vec<End>> {
    let wrong = |line: &[u8]| io::Error::other(String::from_utf8_lossy(line).into_owned());
    let number_of = |line: &[u8], kind: u8| {
        let number = line.strip_prefix(&[kind]).and_then(number::parse_i64);
        number.ok_or_else(|| wrong(line))
    };
    let answer = link.call(&[b"SITE", b"GROUPS"])?;
    if answer.starts_with(b"-ERR unknown subcommand") {
        // Release 0.1: a single server.
        let id = link.demand(&[b"SITE", b"ID"])?;
        let id = SiteId::try_from(number_of(&id, b':')?).map_err(|_| wrong(&id))?;
        return Ok(vec![End { id, host: String::new(), port: 0 }]);
    }
    let count = number_of(&answer, b'*')?;
    let mut ends = Vec::new();
    for _ in 0..count.min(i64::from(PER_GROUP)) {
        link.line()?;
        let line = link.line()?;
        let id = SiteId::try_from(number_of(&line, b':')?).map_err(|_| wrong(&line))?;
        // An empty line is passed over.
        let host = match number_of(&link.line()?, b'$')? {
            0 => Vec::new(),
            _ => link.line()?,
        };
        let line = link.line()?;
        let port = u16::try_from(number_of(&line, b':')?).map_err(|_| wrong(&line))?;
        ends.push(End { id, host: String::from_utf8_lossy(&host).into_owned(), port });
    }
    Ok(ends)
}
