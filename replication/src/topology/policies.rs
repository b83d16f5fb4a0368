//! The classes of keys in a cluster: what it promises, and what it refuses by name.
//!
//! The meta group has the rules; each group with data takes them into its own log, so that every write of its
//! keys is before a change or behind it (`runtime/steward.rs`). Keys that no rule matches are strong.

use super::change::{Done, ensure};
use super::{NodeInfo, Release, Role, Topology};
use ashlar_engine::policy::{Class, Rule, TierChoice};
use std::collections::BTreeSet;

/// What a change of rules makes, as one number: their version, and how many it concerned.
fn made(version: u64, count: u64) -> u64 {
    version << COUNT_BITS | count
}

/// The version of the rules that a change has made, and how many rules it concerned.
pub fn policies_made(made: u64) -> (u64, u64) {
    (made >> COUNT_BITS, made & ((1 << COUNT_BITS) - 1))
}

/// Bits for a number of rules, of which there are a few hundred at most.
const COUNT_BITS: u32 = 16;

impl Topology {
    /// Sets a rule. Returns [what was made](policies_made).
    pub(super) fn set_policy(&mut self, rule: &Rule) -> Result<u64, String> {
        let (needed, all) = (Release::POLICIES, self.release());
        ensure(all >= needed, || {
            format!("the cluster is of release {all}, and policies need {needed} on all nodes")
        })?;
        self.check_rule(rule)?;
        if self.policies.rule(&rule.pattern) != Some(rule) {
            ensure(self.policies.set(rule.clone()), || "too many policies".into())?;
        }
        Ok(made(self.policies.version(), 1))
    }

    /// Removes rules. Returns [what was made](policies_made).
    pub(super) fn remove_policies(&mut self, patterns: &[Vec<u8>]) -> Result<u64, String> {
        let removed = patterns.iter().filter(|pattern| self.policies.remove(pattern)).count();
        Ok(made(self.policies.version(), removed as u64))
    }

    /// Whether the cluster can promise what a rule says.
    pub(super) fn check_rule(&self, rule: &Rule) -> Done {
        ensure(rule.class != Class::Global || self.sites.id > 0, || {
            "the class global is for sites: give the cluster a number among them first, with CLUSTER ASHLAR SET \
             site-id"
                .into()
        })?;
        ensure(rule.tier != TierChoice::Cold, || {
            "a cluster keeps all keys in memory: it has no tier cold".into()
        })?;
        let sites = self.sites_with(None);
        ensure(rule.class != Class::Local || sites.len() < 2, || spread(&sites))
    }

    /// Keys of the class local stay in their site, and the slots of a cluster are anywhere: so it has to be
    /// of one site while there is such a rule.
    pub(super) fn check_local(&self, node: &NodeInfo) -> Done {
        let sites = self.sites_with(Some(node));
        let local = self.policies.rules().iter().any(|rule| rule.class == Class::Local);
        ensure(!local || sites.len() < 2, || {
            format!("there are policies of the class local, and with this node {}", spread(&sites))
        })
    }

    /// The named sites of all nodes that keep data, as they are with this node.
    fn sites_with<'a>(&'a self, node: Option<&'a NodeInfo>) -> BTreeSet<&'a str> {
        let others =
            self.nodes.values().filter(|other| node.is_none_or(|node| node.id != other.id));
        let all = others.chain(node).filter(|node| node.role == Role::Data);
        all.map(|node| node.site.as_str()).filter(|site| !site.is_empty()).collect()
    }
}

fn spread(sites: &BTreeSet<&str>) -> String {
    let names: Vec<&str> = sites.iter().copied().collect();
    format!("the cluster is in several sites ({}): no key stays in one", names.join(" "))
}
