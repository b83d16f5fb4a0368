//! Groups whose members stand in several sites: a write waits for two of them.
//!
//! ```text
//! members in two named sites or more   commits wait for members in two sites (raft's group commit)
//! only one site is left                `site-loss degrade`: commits wait for a majority, and it is said
//!                                      `site-loss refuse`: writes are refused, those under way are uncertain
//! another one is back and has caught up  as before
//! ```
//! A witness counts for the majority and for no site: its vote keeps the group going when a site is lost, yet
//! it has no data. Every member keeps the rule, so whoever is elected goes by it from its first entry on.

use super::Host;
use super::driver::Driver;
use crate::node::NodeId;
use crate::raft::GroupId;
use crate::topology::{META_GROUP, Role};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;

/// Setting of the cluster: `both` (the default) or `majority`.
pub const SITE_WRITES: &str = "site-writes";
/// Setting of the cluster: `degrade` (the default) or `refuse`.
pub const SITE_LOSS: &str = "site-loss";
/// Election time-outs of silence after which a site counts as lost.
const LOST_TIMEOUTS: u64 = 2;

/// How far a group's writes reach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum SiteWrites {
    /// There is one site, or the setting asks for no more than a majority.
    #[default]
    Majority,
    /// Two sites have each write before it is acknowledged.
    Both,
    /// Only one site is left: a majority has each write, which may be this site and the witness.
    Degraded,
    /// Only one site is left, and writes are refused.
    Refused,
}

impl SiteWrites {
    /// The one of a number.
    pub fn from_number(number: u8) -> SiteWrites {
        match number {
            1 => SiteWrites::Both,
            2 => SiteWrites::Degraded,
            3 => SiteWrites::Refused,
            _ => SiteWrites::Majority,
        }
    }

    /// Its name, as INFO shows it.
    pub fn name(self) -> &'static str {
        match self {
            SiteWrites::Majority => "majority",
            SiteWrites::Both => "both",
            SiteWrites::Degraded => "degraded",
            SiteWrites::Refused => "refused",
        }
    }
}

/// The groups that go on without a second site, as this node leads them.
#[derive(Default)]
pub(super) struct Sites {
    lost: BTreeSet<GroupId>,
}

impl Sites {
    pub fn look<H: Host>(&mut self, driver: &mut Driver<H>) {
        let Some(node) = &driver.node else { return };
        let ids: Vec<GroupId> =
            node.groups().map(|group| group.id()).filter(|id| *id != META_GROUP).collect();
        self.lost.retain(|id| ids.contains(id));
        for id in ids {
            self.look_at(driver, id);
        }
    }

    fn look_at<H: Host>(&mut self, driver: &mut Driver<H>, id: GroupId) {
        let topology = driver.topology.clone();
        let setting = |name: &str| topology.settings.get(name).map(String::as_str);
        let Some(group) = driver.node.as_ref().and_then(|node| node.group(id)) else { return };
        let voters = group.members().get_voters().to_vec();
        // Sites have numbers above 0; a witness, and who has no site, has none.
        let named: BTreeMap<NodeId, &str> = voters
            .iter()
            .filter_map(|voter| topology.nodes.get(voter))
            .filter(|node| node.role == Role::Data && !node.site.is_empty())
            .map(|node| (node.id, node.site.as_str()))
            .collect();
        let names: BTreeSet<&str> = named.values().copied().collect();
        let waits = names.len() > 1 && setting(SITE_WRITES) != Some("majority");
        let numbers: Vec<(NodeId, u64)> = voters
            .iter()
            .map(|voter| {
                let at = named.get(voter).and_then(|name| names.iter().position(|one| one == name));
                (*voter, at.map_or(0, |at| at as u64 + 1))
            })
            .collect();
        let leads = group.is_leader();
        let lost = waits && leads && {
            let me = driver.handle.me();
            let limit_us = LOST_TIMEOUTS * driver.settings.election_us();
            // A site that was lost is back once one of its members has what the leader has.
            let counts = |node: NodeId| {
                let heard_us = driver.links.heard_us(node).unwrap_or(0);
                let alive = heard_us + limit_us > driver.now_us;
                node == me || alive && (!self.lost.contains(&id) || group.is_caught_up(node))
            };
            let here = named.iter().filter(|(node, _)| counts(**node)).map(|(_, name)| *name);
            here.collect::<BTreeSet<_>>().len() < 2
        };
        let refuses = setting(SITE_LOSS) == Some("refuse");
        if lost {
            self.lost.insert(id);
        } else {
            self.lost.remove(&id);
        }
        let writes = match (waits, lost) {
            (false, _) => SiteWrites::Majority,
            (true, false) => SiteWrites::Both,
            (true, true) if refuses => SiteWrites::Refused,
            (true, true) => SiteWrites::Degraded,
        };
        let strict = waits && writes != SiteWrites::Degraded;
        let mut out = std::mem::take(driver.out());
        if let Some(group) = driver.node.as_mut().and_then(|node| node.group_mut(id)) {
            group.set_sites(&numbers, strict);
            group.set_site_lost(writes == SiteWrites::Refused, &mut out);
        }
        *driver.out() = out;
        if let Some(status) = driver.handle.group(id) {
            status.site_writes.store(writes as u8, Ordering::Release);
        }
    }
}
