//! A cluster as a site: the groups that this node leads have links of their own, and what comes from other sites are
//! entries of the groups' logs.

use super::local::Local;
use super::peer::{Home, Peer};
use crate::clock;
use crate::cluster::propose::park;
use crate::host::Host;
use crate::shared::Shared;
use crate::strong::Strong;
use ashlar_engine::error::{CmdResult, Error};
use ashlar_engine::reply::{Protocol, Reply};
use ashlar_replication::raft::{Answer, GroupId, OwnedCall};
use ashlar_replication::runtime::{Done, calls};
use ashlar_replication::sites::codec::Batch;
use ashlar_replication::sites::element::SiteId;
use ashlar_replication::sites::group::{GroupSite, GroupSites};
use ashlar_replication::sites::site::PER_GROUP;
use ashlar_replication::topology::{Change, SiteChange, Topology};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Milliseconds between two rounds of forgetting.
const TIDY_EVERY_MS: i64 = 1_000;

/// The groups of this node among the sites.
pub struct ClusterSites {
    groups: Arc<GroupSites>,
    peers: Mutex<BTreeMap<String, Arc<Peer>>>,
    /// The last connection of each other site to a group here.
    sessions: Mutex<BTreeMap<(SiteId, SiteId), u64>>,
    next_session: AtomicU64,
    /// Batches that were refused, as their stamps were too far ahead.
    pub refused_clock: AtomicU64,
    /// When the groups were last to forget.
    tidied_ms: Mutex<i64>,
}

impl ClusterSites {
    /// Those of a node.
    pub fn new(groups: Arc<GroupSites>) -> Arc<ClusterSites> {
        Arc::new(ClusterSites {
            groups,
            peers: Mutex::default(),
            sessions: Mutex::default(),
            next_session: AtomicU64::new(1),
            refused_clock: AtomicU64::new(0),
            tidied_ms: Mutex::default(),
        })
    }

    /// The groups' states.
    pub fn groups(&self) -> &Arc<GroupSites> {
        &self.groups
    }

    /// Whether this node leads a group, whose state is that of now.
    pub fn leads(&self, shared: &Shared, group: &Arc<GroupSite>) -> bool {
        let leads =
            shared.strong.get().is_some_and(|strong| strong.leads(group.shard() as GroupId));
        leads && self.groups.of(group.shard()).is_some_and(|now| Arc::ptr_eq(&now, group))
    }

    /// The groups that this node leads and that are sites.
    pub fn led(&self, shared: &Shared) -> Vec<Arc<GroupSite>> {
        let all = self.groups.all();
        all.into_iter().filter(|group| self.leads(shared, group)).collect()
    }

    /// The links from here.
    pub fn links(&self) -> Vec<Arc<super::link::LinkState>> {
        self.peers.lock().values().flat_map(|peer| peer.links()).collect()
    }

    /// The topology has changed: the other sites may be others.
    pub fn follow(self: &Arc<Self>, shared: &Arc<Shared>, topology: &Topology) {
        let wanted = &topology.sites.peers;
        let mut peers = self.peers.lock();
        peers.retain(|name, peer| {
            let stays = wanted.get(name).is_some_and(|wanted| {
                (&wanted.host, wanted.port) == (&peer.address.0, peer.address.1)
            });
            if !stays {
                peer.stop();
            }
            stays
        });
        for (name, peer) in wanted {
            if !peers.contains_key(name) {
                let address = (peer.host.clone(), peer.port);
                peers.insert(name.clone(), Peer::spawn(shared, self.clone(), name, address));
            }
        }
    }

    /// Ten times a second: has groups forget what all sites know to be gone, and settle values that have expired.
    pub fn tick(&self, shared: &Shared, now_ms: i64) {
        let due = {
            let mut tidied_ms = self.tidied_ms.lock();
            let due = (now_ms - *tidied_ms).abs() >= TIDY_EVERY_MS;
            if due {
                *tidied_ms = now_ms;
            }
            due
        };
        for group in self.led(shared) {
            for (key, names) in group.take_lost() {
                let args = [calls::SITE_LOST.to_vec(), key].into_iter().chain(names).collect();
                propose(shared, &group, args, Box::new(|_| {}));
            }
            if due && let Some(from) = group.tidy_from() {
                let args = vec![calls::SITE_TIDY.to_vec(), from];
                propose(shared, &group, args, Box::new(|_| {}));
            }
        }
    }

    /// The group of that number, if it is led here.
    fn group(&self, shared: &Shared, id: SiteId) -> Result<Arc<GroupSite>, Error> {
        let group = self.groups.of(usize::from(id / PER_GROUP));
        let group = group.filter(|group| group.id() == id && self.leads(shared, group));
        group.ok_or(Error::text("ERR this node does not lead that group: see SITE GROUPS"))
    }

    /// SITE HELLO to a group.
    ///
    /// # Errors
    /// If the group is not led here, or does not know the other site.
    pub fn hello(
        &self,
        shared: &Shared,
        to: SiteId,
        from: SiteId,
        reply: &mut Reply<'_>,
    ) -> CmdResult {
        let group = self.group(shared, to)?;
        let (known, is_known) = {
            let site = group.node().site();
            (site.known_of(from), site.peers.by_id(from).is_some())
        };
        if !is_known {
            return Err(super::not_known(from).into());
        }
        let session = self.next_session.fetch_add(1, Ordering::AcqRel);
        self.sessions.lock().insert((to, from), session);
        let (version, slots) = group.held();
        let slots = super::link::show_slots(&slots);
        reply.simple(&format!("{to} {session} {known} {version} {slots}"));
        Ok(())
    }

    /// SITE MERGE to a group.
    ///
    /// # Errors
    /// As a command that blocks does, or why it is not taken.
    pub fn merge(
        &self,
        host: &mut Host<'_, '_>,
        batch: &Batch,
        from: (SiteId, u64),
        to: (SiteId, u64),
        bytes: &[u8],
        reply: &mut Reply<'_>,
    ) -> CmdResult {
        if host.session.in_transaction {
            return Err(Error::text("TRYAGAIN the group has not agreed in time").into());
        }
        let group = self.group(host.shared, to.0)?;
        if self.sessions.lock().get(&(to.0, from.0)) != Some(&from.1) {
            return Err(Error::text(super::STALE).into());
        }
        if group.is_stale(from.0, batch) {
            reply.ok();
            return Ok(());
        }
        let number = |number: u64| number.to_string().into_bytes();
        let args =
            vec![calls::SITE_MERGE.to_vec(), number(from.0.into()), number(to.1), bytes.to_vec()];
        park(host, move |shared, answerer| {
            let weak = Arc::downgrade(shared);
            let done: Done = Box::new(move |answer| {
                let Some(shared) = weak.upgrade() else { return };
                let reply = match answer {
                    Answer::Reply(reply) => reply,
                    _ => b"-TRYAGAIN the group has not agreed\r\n".to_vec(),
                };
                answerer(&shared, reply);
            });
            propose(shared, &group, args, done);
        })
    }

    /// SITE DIGEST of a group.
    ///
    /// # Errors
    /// If it is not led here.
    pub fn digests(
        &self,
        shared: &Shared,
        to: SiteId,
        slots: &ashlar_replication::sites::slots::Slots,
    ) -> Result<Vec<u64>, Error> {
        let group = self.group(shared, to)?;
        let slots = slots.and(&group.held().1);
        Ok(group.node().site().group_digests(Some(&slots)))
    }
}

/// Has a group agree on a call of the sites.
fn propose(shared: &Shared, group: &GroupSite, args: Vec<Vec<u8>>, done: Done) {
    if let Some(strong) = shared.strong.get() {
        let (stamp, calls) = (shared.stamp(clock::now_ms()), vec![OwnedCall { db: 0, args }]);
        strong.propose(group.shard() as GroupId, Protocol::Resp2, stamp, calls, done);
    }
}

impl Home for ClusterSites {
    fn ends(&self, shared: &Shared) -> Vec<Local> {
        let Some(sites) = shared.strong.get().map(|strong| strong.sites().clone()) else {
            return Vec::new();
        };
        self.led(shared).into_iter().map(|group| Local::Group(sites.clone(), group)).collect()
    }

    fn learn(&self, shared: &Arc<Shared>, name: &str, id: SiteId, groups: &[SiteId]) {
        let Some(strong) = shared.strong.get() else { return };
        let known = strong.handle().topology().sites.peers.get(name).map(|peer| peer.id);
        let Some(known) = known else { return };
        if known != Some(id) {
            learn_number(strong, name, id);
            return;
        }
        for group in self.led(shared) {
            let is_other = group
                .node()
                .site()
                .peers
                .list
                .get(name)
                .is_some_and(|peer| peer.id == Some(id) && peer.groups != groups);
            if is_other {
                let number = |id: &SiteId| id.to_string().into_bytes();
                let head = [calls::SITE_GROUPS.to_vec(), number(&id)].into_iter();
                let args = head.chain(groups.iter().map(number)).collect();
                propose(shared, &group, args, Box::new(|_| {}));
            }
        }
    }
}

fn learn_number(strong: &Strong, name: &str, id: SiteId) {
    use crate::cluster::Member;
    let change = Change::Sites(SiteChange::Learn { name: name.to_owned(), id });
    let name = name.to_owned();
    strong.change(
        change,
        Box::new(move |result| {
            if let Err(error) = result {
                tracing::warn!("the number of site {name} is not taken: {error}");
            }
        }),
    );
}
