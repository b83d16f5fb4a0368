//! This end of a link: a server that is a site, or a group of a cluster that this node leads.

use super::Sites;
use super::groups::ClusterSites;
use crate::clock;
use crate::shared::Shared;
use ashlar_engine::executor::Executor;
use ashlar_engine::stamp::Stamp;
use ashlar_replication::sites::element::SiteId;
use ashlar_replication::sites::group::GroupSite;
use ashlar_replication::sites::node::SiteNode;
use ashlar_replication::sites::slots::Slots;
use std::sync::Arc;

/// One end of a link.
#[derive(Clone)]
pub enum Local {
    /// This server.
    Server(Arc<Sites>),
    /// A group of this cluster.
    Group(Arc<ClusterSites>, Arc<GroupSite>),
}

impl Local {
    /// Its number.
    pub fn id(&self) -> SiteId {
        match self {
            Local::Server(sites) => sites.id,
            Local::Group(_, group) => group.id(),
        }
    }

    /// What it knows.
    pub fn node(&self) -> &SiteNode {
        match self {
            Local::Server(sites) => &sites.node,
            Local::Group(_, group) => group.node(),
        }
    }

    /// Its name.
    pub fn name(&self, shared: &Shared) -> String {
        match self {
            Local::Server(sites) => sites.name.clone(),
            Local::Group(..) => {
                let member = shared.cluster.get();
                member.map_or_else(String::new, |member| member.topology().sites.shown_name())
            }
        }
    }

    /// Whether links start here: those of a group do where it is led, from the state that it has.
    pub fn is_here(&self, shared: &Shared) -> bool {
        match self {
            Local::Server(_) => true,
            Local::Group(sites, group) => sites.leads(shared, group),
        }
    }

    /// The slots that it has; `None` for all of them.
    pub fn slots(&self) -> Option<Slots> {
        match self {
            Local::Server(_) => None,
            Local::Group(_, group) => Some(group.held().1),
        }
    }

    /// Has an executor see what belongs to it.
    pub fn enter(&self, exec: &mut Executor<'_>) {
        if let Local::Group(_, group) = self {
            exec.see_only(group.shard());
        }
    }

    /// A stamp at or below which it does nothing any more.
    pub fn own(&self, shared: &Shared, exec: &mut Executor<'_>) -> u64 {
        match self {
            Local::Server(sites) => sites.promise(shared, exec),
            Local::Group(_, group) => group.own(),
        }
    }

    /// The stamp with which it looks at its keys.
    pub fn stamp(&self, shared: &Shared) -> Stamp {
        match self {
            Local::Server(_) => shared.stamp(clock::now_ms()),
            Local::Group(_, group) => Stamp::new(group.now_ms(), 0),
        }
    }

    /// The other end has told that it knows this one up to a stamp: of this life, or one before.
    pub fn was_known(&self, known: u64) {
        // What a group has told, its log has.
        if let Local::Server(sites) = self {
            sites.node.site().clock.observe(known);
        }
    }
}
