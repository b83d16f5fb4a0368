//! The cluster as one site among others: what the nodes agree on, and the commands that change it.
//!
//! ```text
//! CLUSTER ASHLAR SET site-id, SITE ADD -> Change::Sites -> topology of every node -> SITES in each group's log
//! ```
//! To the other sites each group is a site of its own; SITE GROUPS tells them the numbers, and who leads.

use super::propose::propose_table;
use super::{Member, live_leader, route};
use crate::config::{Settings, ids};
use crate::host::Host;
use crate::strong::tables::Kind;
use ashlar_engine::error::{CmdResult, Error};
use ashlar_engine::number::parse_i64;
use ashlar_engine::reply::Reply;
use ashlar_replication::sites::element::SiteId;
use ashlar_replication::sites::site::group_site;
use ashlar_replication::topology::{
    CLUSTER_SITE_MAX, Change, SITE_BACKUP, SITE_ID, SITE_NAME, SiteChange, SiteTable, Topology,
};
use std::io;

/// Settings of a single server that is a site; those of a cluster are the cluster's.
const SETTINGS: [&str; 3] = [SITE_ID, SITE_NAME, SITE_BACKUP];

/// Refuses to start a node that is to be a site by itself.
///
/// # Errors
/// What is to be done instead.
pub fn check_settings(settings: &Settings) -> io::Result<()> {
    let set = [
        settings.number(ids::SITE_ID) != 0,
        !settings.string(ids::SITE_NAME).is_empty(),
        settings.flag(ids::SITE_BACKUP),
    ];
    let wrong = SETTINGS.iter().zip(set).find(|(_, set)| *set);
    if let Some((name, _)) = wrong.filter(|_| settings.flag(ids::CLUSTER_ENABLED)) {
        return Err(io::Error::other(format!(
            "{name} is for single servers, and does not go with cluster-enabled: a cluster is a site as a whole, \
             so leave it out, and say CLUSTER ASHLAR SET {name} VALUE once to the cluster"
        )));
    }
    Ok(())
}

/// The change that a setting of the cluster asks for; `None` where it is none of the site.
///
/// # Errors
/// If it cannot have that value.
pub fn setting(name: &[u8], value: &[u8]) -> Result<Option<SiteChange>, Error> {
    let Some(name) = SETTINGS.iter().find(|known| known.as_bytes() == name) else {
        return Ok(None);
    };
    Ok(Some(match *name {
        SITE_ID => {
            let number = parse_i64(value).and_then(|number| SiteId::try_from(number).ok());
            let number = number.filter(|number| (1..=CLUSTER_SITE_MAX).contains(number));
            let wrong =
                || Error::owned(format!("ERR {SITE_ID} is a number from 1 to {CLUSTER_SITE_MAX}"));
            SiteChange::Id(number.ok_or_else(wrong)?)
        }
        SITE_NAME => SiteChange::Name(text(value)),
        _ => match value {
            b"yes" => SiteChange::Backup(true),
            b"no" => SiteChange::Backup(false),
            _ => return Err(Error::owned(format!("ERR {SITE_BACKUP} takes yes or no"))),
        },
    }))
}

/// Those settings as they are, where they were ever set.
pub fn settings(table: &SiteTable) -> Vec<(&'static str, String)> {
    let backup = if table.backup { "yes" } else { "no" };
    let all = [
        (table.id > 0, SITE_ID, table.id.to_string()),
        (!table.name.is_empty(), SITE_NAME, table.name.clone()),
        (table.version > 0, SITE_BACKUP, backup.to_owned()),
    ];
    let set = all.into_iter().filter(|(is_set, ..)| *is_set);
    set.map(|(_, name, value)| (name, value)).collect()
}

/// Changes the table; the client is answered once each group has taken it over.
///
/// # Errors
/// As [`propose_table`].
pub fn change(host: &mut Host<'_, '_>, change: SiteChange) -> CmdResult {
    let ok = |_| b"+OK\r\n".to_vec();
    propose_table(host, Kind::Sites, Change::Sites(change), |version| version, ok)
}

/// The table, where the cluster is a site.
///
/// # Errors
/// Where it is none.
pub fn table(topology: &Topology) -> Result<&SiteTable, Error> {
    let table = Some(&topology.sites).filter(|table| table.id != 0);
    table.ok_or(Error::text(
        "ERR this cluster is no site: give it a number with CLUSTER ASHLAR SET site-id",
    ))
}

/// SITE ADD
pub fn add(host: &mut Host<'_, '_>, name: &[u8], place: &[u8], port: u16) -> CmdResult {
    change(host, SiteChange::Add { name: text(name), host: text(place), port })
}

/// SITE REMOVE
pub fn remove(host: &mut Host<'_, '_>, name: &[u8]) -> CmdResult {
    change(host, SiteChange::Remove(text(name)))
}

/// SITE PROMOTE
pub fn promote(host: &mut Host<'_, '_>, member: &dyn Member) -> CmdResult {
    table(&member.topology())?;
    change(host, SiteChange::Backup(false))
}

/// SITE LIST
pub fn list(member: &dyn Member, reply: &mut Reply<'_>) -> CmdResult {
    let topology = member.topology();
    crate::commands::site::list_peers(&table(&topology)?.peers, reply);
    Ok(())
}

/// SITE ID
pub fn id(member: &dyn Member, reply: &mut Reply<'_>) -> CmdResult {
    reply.int(table(&member.topology())?.id.into());
    Ok(())
}

/// SITE GROUPS
pub fn groups(host: &Host<'_, '_>, member: &dyn Member, reply: &mut Reply<'_>) -> CmdResult {
    let topology = member.topology();
    let cluster = table(&topology)?.id;
    let encrypted = host.shared.settings.flag(ids::TLS_REPLICATION);
    reply.array(topology.groups.len());
    for group in topology.groups.keys() {
        let leader = live_leader(member, &host.shared.settings, *group);
        let leader = leader.and_then(|leader| topology.nodes.get(&leader));
        let (place, port) =
            leader.map_or(("", 0), |node| (&node.host, route::port(node, encrypted)));
        reply.array(3);
        // A cluster that is a site has no groups without a number.
        reply.int(group_site(cluster, *group).unwrap_or(0).into());
        reply.bulk(place.as_bytes());
        reply.int(port.into());
    }
    Ok(())
}

fn text(arg: &[u8]) -> String {
    String::from_utf8_lossy(arg).into_owned()
}
