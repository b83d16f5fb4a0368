//! SITE and CONFLICTS: the other sites, and the writes that were dropped. See docs/consistency.md.

use crate::cluster::sites as cluster;
use crate::config::ids;
use crate::host::Host;
use crate::registry::{Family, HostCommand};
use crate::sites::groups::ClusterSites;
use crate::sites::link::{VERSION, parse_slots};
use crate::sites::{STALE, Sites, not_known, status};
use ashlar_engine::command::{Command, Flags, Group};
use ashlar_engine::error::{CmdResult, Error};
use ashlar_engine::number;
use ashlar_engine::reply::Reply;
use ashlar_replication::sites::clock::ms_of;
use ashlar_replication::sites::codec::Batch;
use ashlar_replication::sites::conflicts::{CONFLICTS_MAX, Conflict};
use ashlar_replication::sites::element::SiteId;
use ashlar_replication::sites::node::Refused;
use ashlar_replication::sites::peers::{PEERS_MAX, Peer};
use ashlar_replication::sites::site::Site;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const CHANGE: Flags =
    Flags::ADMIN.union(Flags::DANGEROUS).union(Flags::NOSCRIPT).union(Flags::NO_MULTI);
const LOOK: Flags = Flags::STALE.union(Flags::NOSCRIPT);

/// The families' commands.
pub const COMMANDS: &[HostCommand] = &[
    HostCommand::container(
        Command::hosted("SITE", -2, Group::Server).docs("7.4.0", "", "Manages the other sites."),
        SITE,
    ),
    HostCommand::container(
        Command::hosted("CONFLICTS", -2, Group::Server).docs(
            "7.4.0",
            "",
            "Shows which writes were dropped, as several sites wrote at once.",
        ),
        CONFLICTS,
    ),
];

const FAMILY: Family = Family { group: Group::Server, since: "7.4.0", complexity: "O(N)" };

const SITE: &[HostCommand] = &[
    FAMILY.sub("ADD", 5, CHANGE, "name host port:integer", "Adds another site.", add),
    FAMILY.sub("REMOVE", 3, CHANGE, "name", "Takes a site out.", remove),
    FAMILY.sub("LIST", 2, LOOK, "", "Lists the other sites.", list),
    FAMILY.sub("STATUS", 2, LOOK, "", "Tells how this site and its links are.", show_status),
    FAMILY.sub("PROMOTE", 2, CHANGE, "", "Makes a backup take writes from now on.", promote),
    FAMILY.sub("ID", 2, LOOK, "", "Returns the number of this site.", id),
    FAMILY.sub(
        "GROUPS",
        2,
        CHANGE,
        "",
        "Tells another site the numbers of this one's groups, and where to reach them.",
        groups,
    ),
    FAMILY.sub(
        "HELLO",
        -5,
        CHANGE,
        "version:integer id:integer name [group:integer]",
        "A site introduces itself, to a group if this is a cluster.",
        hello,
    ),
    FAMILY.sub(
        "MERGE",
        -5,
        CHANGE,
        "id:integer session:integer batch [group:integer version:integer]",
        "Takes in a batch, of a group if this is a cluster.",
        merge,
    ),
    FAMILY.sub(
        "DIGEST",
        -2,
        CHANGE,
        "[group:integer slots]",
        "Returns digests of groups of keys, of some slots only if asked so.",
        digest,
    ),
];

const CONFLICTS: &[HostCommand] = &[
    FAMILY.sub("COUNT", 2, LOOK, "", "Counts the writes that were dropped.", conflicts_count),
    FAMILY.sub(
        "LIST",
        -2,
        LOOK,
        "[count:integer]",
        "Lists the last ones, newest first.",
        conflicts_list,
    ),
    FAMILY.sub("RESET", 2, CHANGE, "", "Forgets them.", conflicts_reset),
];

/// Refuses what only another site may ask, if this is none.
fn admit_peer(host: &Host<'_, '_>) -> Result<(), Error> {
    if !crate::replication::admits(host.shared, host.session) {
        let peer = &host.session.client.peer;
        tracing::warn!("{peer} wants to be a site without a certificate: refused");
        let text = "ERR tls-replication asks sites for TLS and a certificate";
        return Err(Error::text(text));
    }
    Ok(())
}

/// The sites, for what only another site may say.
fn sites_for_peer(host: &Host<'_, '_>) -> Result<Arc<Sites>, Error> {
    admit_peer(host)?;
    if host.shared.replication.failover.is_on() {
        return Err(Error::text("ERR this site's primary hands its role over"));
    }
    sites(host)
}

fn sites(host: &Host<'_, '_>) -> Result<Arc<Sites>, Error> {
    host.shared.sites.clone().ok_or(Error::text("ERR this server is no site (see site-id)"))
}

fn number_of(arg: &[u8]) -> Result<u64, Error> {
    let number = number::parse_i64(arg).and_then(|number| u64::try_from(number).ok());
    number.ok_or(Error::NotInteger)
}

fn site_of(arg: &[u8]) -> Result<SiteId, Error> {
    SiteId::try_from(number_of(arg)?).map_err(|_| Error::text("ERR no number of a site"))
}

fn add(host: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let port = u16::try_from(number_of(args[4])?).ok().filter(|port| *port > 0);
    let port = port.ok_or(Error::text("ERR Invalid port"))?;
    if host.shared.cluster.get().is_some() {
        return cluster::add(host, args[2], args[3], port);
    }
    let sites = sites(host)?;
    let text = |arg: &[u8]| String::from_utf8_lossy(arg).into_owned();
    let (name, place) = (text(args[2]), text(args[3]));
    let full = {
        let site = sites.node.site();
        site.peers.list.len() >= PEERS_MAX && !site.peers.list.contains_key(&name)
    };
    if full {
        return Err(Error::owned(format!("ERR at most {PEERS_MAX} other sites")).into());
    }
    let shared = host.shared.arc().ok_or(Error::text("ERR the server stops"))?;
    let peer = Peer { id: None, host: place.clone(), port, groups: Vec::new() };
    sites.node.change_peers(host.exec, &host.stamp, |peers| {
        peers.list.insert(name.clone(), peer);
    });
    sites.start(&shared, &name, &place, port);
    reply.ok();
    Ok(())
}

fn remove(host: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    if host.shared.cluster.get().is_some() {
        return cluster::remove(host, args[2]);
    }
    let sites = sites(host)?;
    let name = String::from_utf8_lossy(args[2]).into_owned();
    if !sites.node.site().peers.list.contains_key(&name) {
        return Err(Error::text("ERR no such site").into());
    }
    sites.stop(&name);
    sites.node.change_peers(host.exec, &host.stamp, |peers| {
        peers.list.remove(&name);
    });
    reply.ok();
    Ok(())
}

fn list(host: &mut Host<'_, '_>, _: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    if let Some(member) = host.shared.cluster.get() {
        return cluster::list(&**member, reply);
    }
    let peers = sites(host)?.node.site().peers.clone();
    list_peers(&peers.list, reply);
    Ok(())
}

/// The other sites by name, as SITE LIST shows them.
pub fn list_peers(peers: &BTreeMap<String, Peer>, reply: &mut Reply<'_>) {
    reply.array(peers.len());
    for (name, peer) in peers {
        reply.map(4);
        reply.bulk(b"name");
        reply.bulk(name.as_bytes());
        reply.bulk(b"id");
        reply.int(peer.id.unwrap_or(0).into());
        reply.bulk(b"host");
        reply.bulk(peer.host.as_bytes());
        reply.bulk(b"port");
        reply.int(peer.port.into());
    }
}

fn show_status(host: &mut Host<'_, '_>, _: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let mut text = String::new();
    if !status::write_any(host.shared, &mut text) {
        match host.shared.strong.get() {
            Some(strong) => cluster::table(&strong.handle().topology()).map(drop)?,
            None => drop(sites(host)?),
        }
    }
    reply.bulk(text.as_bytes());
    Ok(())
}

fn promote(host: &mut Host<'_, '_>, _: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    if let Some(member) = host.shared.cluster.get().cloned() {
        return cluster::promote(host, &*member);
    }
    let sites = sites(host)?;
    sites.is_backup.store(false, Ordering::Release);
    sites.node.change_peers(host.exec, &host.stamp, |peers| peers.promoted = true);
    tracing::info!("SITE PROMOTE: this site takes writes from now on");
    reply.ok();
    Ok(())
}

fn id(host: &mut Host<'_, '_>, _: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    if let Some(member) = host.shared.cluster.get() {
        return cluster::id(&**member, reply);
    }
    reply.int(sites(host)?.id.into());
    Ok(())
}

/// Which sites there are here, and where to reach each: of a single server itself.
fn groups(host: &mut Host<'_, '_>, _: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    admit_peer(host)?;
    if let Some(member) = host.shared.cluster.get() {
        return cluster::groups(host, &**member, reply);
    }
    let id = sites(host)?.id;
    reply.array(1);
    reply.array(3);
    reply.int(id.into());
    reply.bulk(b"");
    reply.int(0);
    Ok(())
}

/// The groups of this cluster, if it is one.
fn groups_for_peer(host: &Host<'_, '_>) -> Result<Option<Arc<ClusterSites>>, Error> {
    let Some(strong) = host.shared.strong.get() else { return Ok(None) };
    admit_peer(host)?;
    Ok(Some(strong.sites().clone()))
}

/// The group that another site means.
fn group_of(args: &[&[u8]], at: usize) -> Result<SiteId, Error> {
    let group = args.get(at).ok_or(Error::text("ERR this site is a cluster: see SITE GROUPS"))?;
    site_of(group)
}

fn hello(host: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let version = number_of(args[2])?;
    if version != VERSION {
        let text = format!(
            "ERR this site speaks version {VERSION} of the protocol between sites, the other {version}: \
             the link goes on once both are of one release"
        );
        return Err(Error::owned(text).into());
    }
    let id = site_of(args[3])?;
    if let Some(sites) = groups_for_peer(host)? {
        return sites.hello(host.shared, group_of(args, 5)?, id, reply);
    }
    let sites = sites_for_peer(host)?;
    if id == sites.id {
        return Err(Error::text("ERR both sites have the same site-id").into());
    }
    if sites.node.site().peers.by_id(id).is_none() {
        return Err(not_known(id).into());
    }
    let session = sites.begin_session(id);
    let known = sites.node.site().known_of(id);
    reply.simple(&format!("{} {session} {known}", sites.id));
    Ok(())
}

fn merge(host: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let (id, session) = (site_of(args[2])?, number_of(args[3])?);
    let batch = || Batch::decode(args[4]).map_err(|_| Error::text("ERR malformed batch"));
    if let Some(sites) = groups_for_peer(host)? {
        let (group, batch) = (group_of(args, 5)?, batch()?);
        let version = args.get(6).map_or(Ok(0), |version| number_of(version))?;
        check_clock(host, &sites.refused_clock, id, &batch)?;
        return sites.merge(host, &batch, (id, session), (group, version), args[4], reply);
    }
    let sites = sites_for_peer(host)?;
    let batch = batch()?;
    check_clock(host, &sites.refused_clock, id, &batch)?;
    let taking = sites.taking.lock();
    let is_peer = sites.node.site().peers.by_id(id).is_some();
    if !is_peer || !sites.is_current(id, session) {
        return Err(Error::text(STALE).into());
    }
    let taken = sites.node.take(host.exec, id, &batch, &host.stamp);
    drop(taking);
    match taken {
        Ok(()) => reply.ok(),
        Err(Refused::Gap(known)) => {
            return Err(Error::owned(format!("SITEGAP {known}")).into());
        }
        Err(Refused::Malformed) => return Err(Error::text("ERR malformed batch").into()),
    }
    Ok(())
}

/// Refuses what a site with a clock far ahead has stamped: it would win over all that others write until
/// they hear of it, and take their clocks along for good.
fn check_clock(
    host: &Host<'_, '_>,
    refused: &AtomicU64,
    id: SiteId,
    batch: &Batch,
) -> Result<(), Error> {
    let most_ms = host.shared.settings.number(ids::SITE_CLOCK_DRIFT).saturating_mul(1_000);
    let ahead_ms = i64::try_from(ms_of(batch.last_stamp())).unwrap_or(i64::MAX) - host.stamp.now_ms;
    if most_ms == 0 || ahead_ms <= most_ms {
        return Ok(());
    }
    refused.fetch_add(1, Ordering::Relaxed);
    let text = format!(
        "SITECLOCK the stamps of site {id} are {} seconds ahead of the clock here (see site-clock-drift)",
        ahead_ms / 1_000
    );
    Err(Error::owned(text))
}

fn digest(host: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let slots = args.get(3).map(|slots| {
        let slots = std::str::from_utf8(slots).ok().and_then(parse_slots);
        slots.ok_or(Error::text("ERR Invalid or out of range slot"))
    });
    let slots = slots.transpose()?;
    let digests = match groups_for_peer(host)? {
        Some(sites) => {
            let group = group_of(args, 2)?;
            sites.digests(host.shared, group, &slots.unwrap_or_default())?
        }
        None => sites_for_peer(host)?.node.site().group_digests(slots.as_ref()),
    };
    let words: Vec<String> = digests.iter().map(|digest| format!("{digest:x}")).collect();
    reply.simple(&words.join(" "));
    Ok(())
}

/// Looks at what is known here: by this server, or by the groups of the cluster that it leads.
fn each<T>(host: &Host<'_, '_>, mut look: impl FnMut(&mut Site) -> T) -> Result<Vec<T>, Error> {
    if let Some(strong) = host.shared.strong.get() {
        let groups = strong.sites().led(host.shared);
        return Ok(groups.iter().map(|group| look(&mut group.node().site())).collect());
    }
    Ok(vec![look(&mut sites(host)?.node.site())])
}

fn conflicts_count(host: &mut Host<'_, '_>, _: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let count: u64 = each(host, |site| site.conflicts.count())?.iter().sum();
    reply.int(i64::try_from(count).unwrap_or(i64::MAX));
    Ok(())
}

fn conflicts_reset(host: &mut Host<'_, '_>, _: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    each(host, |site| site.conflicts.reset())?;
    reply.ok();
    Ok(())
}

fn conflicts_list(host: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let count = match args.get(2) {
        Some(count) => usize::try_from(number_of(count)?).unwrap_or(CONFLICTS_MAX),
        None => CONFLICTS_MAX,
    };
    let listed = each(host, |site| -> Vec<Conflict> {
        site.conflicts.list().take(count).cloned().collect()
    })?;
    let mut listed: Vec<Conflict> = listed.into_iter().flatten().collect();
    listed.sort_by_key(|one| std::cmp::Reverse(one.winner.1.max(one.loser.1)));
    listed.truncate(count);
    reply.array(listed.len());
    for conflict in listed {
        reply.map(8);
        for (name, value) in [
            (&b"key"[..], Some(&*conflict.key)),
            (b"element", Some(&*conflict.element)),
            (b"type", Some(conflict.kind.label().as_bytes())),
            (b"reason", Some(conflict.reason.name().as_bytes())),
            (b"dropped", conflict.dropped.as_deref()),
        ] {
            reply.bulk(name);
            match value {
                Some(value) => reply.bulk(value),
                None => reply.null(),
            }
        }
        reply.bulk(b"winner-site");
        reply.int(conflict.winner.0.into());
        reply.bulk(b"loser-site");
        reply.int(conflict.loser.0.into());
        reply.bulk(b"at-ms");
        let stamp = conflict.winner.1.max(conflict.loser.1);
        let at_ms = ms_of(stamp);
        reply.int(i64::try_from(at_ms).unwrap_or(0));
    }
    Ok(())
}
