//! The byte forms of changes and of the topology.
//!
//! ```text
//! change    version u8 | kind u8 | fields in the order of the variant
//! topology  version u8 | version u64 | cluster 20 | epoch u64 | next: node u64, group u32, move u64
//!           nodes | groups | list of (range, group u32) | moves | settings: list of (text, text)
//!           | where there are or were rules or libraries: classes of keys: bytes, as the engine has them
//!           | where there are or were libraries: version u64, list of (name bytes, text bytes)
//!           | where the table of sites was ever changed: that, as bytes; all three parts before it are there then
//! node      id u64 | name 20 | host hostname site version: text each | port tls peer: u32 each
//!           | role u8 | draining u8
//! group     id u32 | members, learners: list of u64 | preferred u64 | epoch u64 | born u8
//! move      id u64 | list of range | from u32 | to u32 | state u8
//! range     first u16 << 16 | last u16, as u32
//! text      length u32, then UTF-8     list: number u32, then as many
//! ```

use super::change::{BATCH_MAX, Change};
use super::{
    GroupInfo, LibraryChange, MoveState, NodeInfo, Role, SiteChange, SiteTable, SlotMove,
    SlotRange, Topology,
};
use crate::bytes::{Malformed, Reader, push_bytes, push_len, push_u64};
use crate::raft::GroupId;
use ashlar_engine::policy::{Rule, Table};
use std::collections::BTreeMap;

/// Version of the forms: two neighbouring versions understand each other.
const VERSION: u8 = 1;
/// Bytes of the shortest node, group, move.
const NODE_BYTES_MIN: usize = 58;
const GROUP_BYTES_MIN: usize = 29;
const MOVE_BYTES_MIN: usize = 21;

impl Change {
    /// The change as bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        push_change(&mut out, self);
        out
    }

    /// A change from bytes.
    ///
    /// # Errors
    /// If they are none.
    pub fn decode(bytes: &[u8]) -> Result<Change, Malformed> {
        let mut reader = Reader(bytes);
        if reader.u8()? != VERSION {
            return Err(Malformed);
        }
        let change = read_change(&mut reader, true)?;
        reader.end()?;
        Ok(change)
    }
}

impl Topology {
    /// The topology as bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        push_u64(&mut out, self.version);
        out.extend_from_slice(&self.cluster_id);
        push_u64(&mut out, self.current_epoch);
        push_u64(&mut out, self.next_node);
        push_u32(&mut out, self.next_group);
        push_u64(&mut out, self.next_move);
        push_list(&mut out, self.nodes.values(), push_node);
        push_list(&mut out, self.groups.values(), push_group);
        push_owners(&mut out, &self.all_ranges());
        push_list(&mut out, self.moves.values(), push_move);
        push_list(&mut out, self.settings.iter(), |out, (name, value)| {
            push_bytes(out, name.as_bytes());
            push_bytes(out, value.as_bytes());
        });
        let has_sites = self.sites.version > 0;
        let has_libraries = self.libraries.version > 0 || has_sites;
        if self.policies.version() > 0 || has_libraries {
            let mut bytes = Vec::new();
            self.policies.encode(&mut bytes);
            push_bytes(&mut out, &bytes);
        }
        if has_libraries {
            push_u64(&mut out, self.libraries.version);
            push_list(&mut out, self.libraries.by_name.iter(), |out, (name, text)| {
                push_bytes(out, name);
                push_bytes(out, text);
            });
        }
        if has_sites {
            let mut bytes = Vec::new();
            self.sites.encode(&mut bytes);
            push_bytes(&mut out, &bytes);
        }
        out
    }

    /// A topology from bytes.
    ///
    /// # Errors
    /// If they are none.
    pub fn decode(bytes: &[u8]) -> Result<Topology, Malformed> {
        let mut reader = Reader(bytes);
        let reader = &mut reader;
        if reader.u8()? != VERSION {
            return Err(Malformed);
        }
        let mut made = Topology { version: reader.u64()?, ..Topology::default() };
        made.cluster_id = read_name(reader)?;
        made.current_epoch = reader.u64()?;
        made.next_node = reader.u64()?;
        made.next_group = reader.u32()?;
        made.next_move = reader.u64()?;
        made.nodes = by(reader.list(NODE_BYTES_MIN, read_node)?, |node| node.id)?;
        made.groups = by(reader.list(GROUP_BYTES_MIN, read_group)?, |group| group.id)?;
        for ((first, last), group) in read_owners(reader)? {
            let slots = made.slots.get_mut(usize::from(first)..=usize::from(last));
            slots.ok_or(Malformed)?.fill(group);
        }
        made.count_assigned();
        made.moves = by(reader.list(MOVE_BYTES_MIN, read_move)?, |one| one.id)?;
        let settings = reader.list(8, |reader| Ok((read_text(reader)?, read_text(reader)?)))?;
        made.settings = settings.into_iter().collect();
        if !reader.0.is_empty() {
            made.policies = Table::decode(reader.bytes()?).ok_or(Malformed)?;
        }
        if !reader.0.is_empty() {
            made.libraries.version = reader.u64()?;
            let libraries = reader.list(8, read_pair)?;
            let libraries = libraries.into_iter().map(|(name, text)| (name, text.into()));
            made.libraries.by_name = libraries.collect();
        }
        if !reader.0.is_empty() {
            made.sites = SiteTable::decode(reader.bytes()?).ok_or(Malformed)?;
        }
        reader.end()?;
        made.check().map_err(|_| Malformed)?;
        Ok(made)
    }
}

/// A map of what has a number; none may be there twice.
fn by<K: Ord, T>(list: Vec<T>, key: impl Fn(&T) -> K) -> Result<BTreeMap<K, T>, Malformed> {
    let count = list.len();
    let map: BTreeMap<K, T> = list.into_iter().map(|one| (key(&one), one)).collect();
    if map.len() == count { Ok(map) } else { Err(Malformed) }
}

fn push_u32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_le_bytes());
}

fn push_list<T>(
    out: &mut Vec<u8>,
    list: impl ExactSizeIterator<Item = T>,
    push: impl Fn(&mut Vec<u8>, T),
) {
    push_len(out, list.len());
    list.for_each(|one| push(out, one));
}

fn push_node(out: &mut Vec<u8>, node: &NodeInfo) {
    push_u64(out, node.id);
    out.extend_from_slice(&node.name);
    for text in [&node.host, &node.hostname, &node.site, &node.version] {
        push_bytes(out, text.as_bytes());
    }
    for port in [node.port, node.tls_port, node.peer_port] {
        push_u32(out, port.into());
    }
    out.push(match node.role {
        Role::Data => 0,
        Role::Witness => 1,
    });
    out.push(node.draining.into());
}

fn read_node(reader: &mut Reader<'_>) -> Result<NodeInfo, Malformed> {
    let (id, name) = (reader.u64()?, read_name(reader)?);
    let (host, hostname) = (read_text(reader)?, read_text(reader)?);
    let (site, version) = (read_text(reader)?, read_text(reader)?);
    let (port, tls_port) = (read_u16(reader)?, read_u16(reader)?);
    let peer_port = read_u16(reader)?;
    let role = match reader.u8()? {
        0 => Role::Data,
        1 => Role::Witness,
        _ => return Err(Malformed),
    };
    let draining = read_bool(reader)?;
    Ok(NodeInfo {
        id,
        name,
        host,
        hostname,
        port,
        tls_port,
        peer_port,
        site,
        role,
        draining,
        version,
    })
}

fn push_group(out: &mut Vec<u8>, group: &GroupInfo) {
    push_u32(out, group.id);
    for list in [&group.members, &group.learners] {
        push_list(out, list.iter(), |out, id| push_u64(out, *id));
    }
    push_u64(out, group.preferred);
    push_u64(out, group.config_epoch);
    out.push(u8::from(group.born));
}

fn read_group(reader: &mut Reader<'_>) -> Result<GroupInfo, Malformed> {
    Ok(GroupInfo {
        id: reader.u32()?,
        members: reader.list(8, Reader::u64)?,
        learners: reader.list(8, Reader::u64)?,
        preferred: reader.u64()?,
        config_epoch: reader.u64()?,
        born: read_bool(reader)?,
    })
}

fn push_range(out: &mut Vec<u8>, (first, last): SlotRange) {
    push_u32(out, u32::from(first) << 16 | u32::from(last));
}

fn read_range(reader: &mut Reader<'_>) -> Result<SlotRange, Malformed> {
    let word = reader.u32()?;
    Ok(((word >> 16) as u16, word as u16))
}

fn push_ranges(out: &mut Vec<u8>, slots: &[SlotRange]) {
    push_list(out, slots.iter(), |out, range| push_range(out, *range));
}

fn read_ranges(reader: &mut Reader<'_>) -> Result<Vec<SlotRange>, Malformed> {
    reader.list(4, read_range)
}

fn push_owners(out: &mut Vec<u8>, owners: &[(SlotRange, GroupId)]) {
    push_list(out, owners.iter(), |out, (range, group)| {
        push_range(out, *range);
        push_u32(out, *group);
    });
}

fn read_owners(reader: &mut Reader<'_>) -> Result<Vec<(SlotRange, GroupId)>, Malformed> {
    reader.list(8, |reader| Ok((read_range(reader)?, reader.u32()?)))
}

fn push_move(out: &mut Vec<u8>, one: &SlotMove) {
    push_u64(out, one.id);
    push_ranges(out, &one.slots);
    push_u32(out, one.from);
    push_u32(out, one.to);
    push_state(out, one.state);
}

fn read_move(reader: &mut Reader<'_>) -> Result<SlotMove, Malformed> {
    Ok(SlotMove {
        id: reader.u64()?,
        slots: read_ranges(reader)?,
        from: reader.u32()?,
        to: reader.u32()?,
        state: read_state(reader)?,
    })
}

fn push_state(out: &mut Vec<u8>, state: MoveState) {
    out.push(match state {
        MoveState::Copying => 0,
        MoveState::Switching => 1,
    });
}

fn read_state(reader: &mut Reader<'_>) -> Result<MoveState, Malformed> {
    match reader.u8()? {
        0 => Ok(MoveState::Copying),
        1 => Ok(MoveState::Switching),
        _ => Err(Malformed),
    }
}

fn read_name(reader: &mut Reader<'_>) -> Result<[u8; 20], Malformed> {
    reader.take(20)?.try_into().map_err(|_| Malformed)
}

fn read_text(reader: &mut Reader<'_>) -> Result<String, Malformed> {
    String::from_utf8(reader.bytes()?.to_vec()).map_err(|_| Malformed)
}

fn read_pair(reader: &mut Reader<'_>) -> Result<(Vec<u8>, Vec<u8>), Malformed> {
    Ok((reader.bytes()?.to_vec(), reader.bytes()?.to_vec()))
}

fn read_u16(reader: &mut Reader<'_>) -> Result<u16, Malformed> {
    u16::try_from(reader.u32()?).map_err(|_| Malformed)
}

fn read_bool(reader: &mut Reader<'_>) -> Result<bool, Malformed> {
    match reader.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Malformed),
    }
}

fn push_change(out: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Create { cluster_id, nodes, groups, slots } => {
            out.push(1);
            out.extend_from_slice(cluster_id);
            push_list(out, nodes.iter(), push_node);
            push_list(out, groups.iter(), push_group);
            push_owners(out, slots);
        }
        Change::AddNode(node) => tagged(out, 2, |out| push_node(out, node)),
        Change::UpdateNode(node) => tagged(out, 3, |out| push_node(out, node)),
        Change::RemoveNode(node) => tagged(out, 4, |out| push_u64(out, *node)),
        Change::AddGroup(group) => tagged(out, 5, |out| push_group(out, group)),
        Change::RemoveGroup(group) => tagged(out, 6, |out| push_u32(out, *group)),
        Change::SetMembers { group, members, learners } => tagged(out, 7, |out| {
            push_u32(out, *group);
            for list in [members, learners] {
                push_list(out, list.iter(), |out, id| push_u64(out, *id));
            }
        }),
        Change::Assign { slots, group } => tagged(out, 8, |out| {
            push_ranges(out, slots);
            push_u32(out, *group);
        }),
        Change::StartMove { slots, from, to } => tagged(out, 9, |out| {
            push_ranges(out, slots);
            push_u32(out, *from);
            push_u32(out, *to);
        }),
        Change::SetMoveState(id, state) => tagged(out, 10, |out| {
            push_u64(out, *id);
            push_state(out, *state);
        }),
        Change::FinishMove(id) => tagged(out, 11, |out| push_u64(out, *id)),
        Change::AbortMove(id) => tagged(out, 12, |out| push_u64(out, *id)),
        Change::SetPreferred(group, node) => tagged(out, 13, |out| {
            push_u32(out, *group);
            push_u64(out, *node);
        }),
        Change::Drain(node, draining) => tagged(out, 14, |out| {
            push_u64(out, *node);
            out.push((*draining).into());
        }),
        Change::Set(name, value) => tagged(out, 15, |out| {
            push_bytes(out, name.as_bytes());
            push_bytes(out, value.as_bytes());
        }),
        Change::BumpEpoch(group) => tagged(out, 16, |out| push_u32(out, *group)),
        Change::Libraries(change) => tagged(out, 21, |out| {
            push_u64(out, change.version);
            out.push(change.flush.into());
            push_list(out, change.remove.iter(), |out, name| push_bytes(out, name));
            push_list(out, change.set.iter(), |out, (name, text)| {
                push_bytes(out, name);
                push_bytes(out, text);
            });
        }),
        Change::Sites(change) => tagged(out, 22, |out| push_site_change(out, change)),
        Change::Born(group) => tagged(out, 18, |out| push_u32(out, *group)),
        Change::SetPolicy(rule) => tagged(out, 19, |out| {
            push_bytes(out, &rule.pattern);
            push_bytes(out, rule.class.name().as_bytes());
            push_u64(out, rule.ttl_seconds);
            push_bytes(out, rule.tier.name().as_bytes());
        }),
        Change::RemovePolicies(patterns) => tagged(out, 20, |out| {
            push_list(out, patterns.iter(), |out, pattern| push_bytes(out, pattern));
        }),
        Change::Batch { version, changes } => tagged(out, 17, |out| {
            push_u64(out, *version);
            push_list(out, changes.iter(), push_change);
        }),
    }
}

fn tagged(out: &mut Vec<u8>, kind: u8, fields: impl FnOnce(&mut Vec<u8>)) {
    out.push(kind);
    fields(out);
}

fn push_site_change(out: &mut Vec<u8>, change: &SiteChange) {
    match change {
        SiteChange::Id(id) => tagged(out, 1, |out| push_u32(out, (*id).into())),
        SiteChange::Name(name) => tagged(out, 2, |out| push_bytes(out, name.as_bytes())),
        SiteChange::Add { name, host, port } => tagged(out, 3, |out| {
            push_bytes(out, name.as_bytes());
            push_bytes(out, host.as_bytes());
            push_u32(out, (*port).into());
        }),
        SiteChange::Remove(name) => tagged(out, 4, |out| push_bytes(out, name.as_bytes())),
        SiteChange::Learn { name, id } => tagged(out, 5, |out| {
            push_bytes(out, name.as_bytes());
            push_u32(out, (*id).into());
        }),
        SiteChange::Backup(backup) => tagged(out, 6, |out| out.push((*backup).into())),
    }
}

fn read_site_change(reader: &mut Reader<'_>) -> Result<SiteChange, Malformed> {
    Ok(match reader.u8()? {
        1 => SiteChange::Id(read_u16(reader)?),
        2 => SiteChange::Name(read_text(reader)?),
        3 => SiteChange::Add {
            name: read_text(reader)?,
            host: read_text(reader)?,
            port: read_u16(reader)?,
        },
        4 => SiteChange::Remove(read_text(reader)?),
        5 => SiteChange::Learn { name: read_text(reader)?, id: read_u16(reader)? },
        6 => SiteChange::Backup(read_bool(reader)?),
        _ => return Err(Malformed),
    })
}

fn read_rule(reader: &mut Reader<'_>) -> Result<Rule, Malformed> {
    let (pattern, class, ttl) = (reader.bytes()?, reader.bytes()?, reader.u64()?.to_string());
    let words = [pattern, class, b"ttl", ttl.as_bytes(), b"tier", reader.bytes()?];
    Rule::parse(&words).map_err(|_| Malformed)
}

/// `outermost`: a batch may stand here, but not in another one.
fn read_change(reader: &mut Reader<'_>, outermost: bool) -> Result<Change, Malformed> {
    Ok(match reader.u8()? {
        1 => Change::Create {
            cluster_id: read_name(reader)?,
            nodes: reader.list(NODE_BYTES_MIN, read_node)?,
            groups: reader.list(GROUP_BYTES_MIN, read_group)?,
            slots: read_owners(reader)?,
        },
        2 => Change::AddNode(read_node(reader)?),
        3 => Change::UpdateNode(read_node(reader)?),
        4 => Change::RemoveNode(reader.u64()?),
        5 => Change::AddGroup(read_group(reader)?),
        6 => Change::RemoveGroup(reader.u32()?),
        7 => Change::SetMembers {
            group: reader.u32()?,
            members: reader.list(8, Reader::u64)?,
            learners: reader.list(8, Reader::u64)?,
        },
        8 => Change::Assign { slots: read_ranges(reader)?, group: reader.u32()? },
        9 => Change::StartMove {
            slots: read_ranges(reader)?,
            from: reader.u32()?,
            to: reader.u32()?,
        },
        10 => Change::SetMoveState(reader.u64()?, read_state(reader)?),
        11 => Change::FinishMove(reader.u64()?),
        12 => Change::AbortMove(reader.u64()?),
        13 => Change::SetPreferred(reader.u32()?, reader.u64()?),
        14 => Change::Drain(reader.u64()?, read_bool(reader)?),
        15 => Change::Set(read_text(reader)?, read_text(reader)?),
        16 => Change::BumpEpoch(reader.u32()?),
        18 => Change::Born(reader.u32()?),
        19 => Change::SetPolicy(read_rule(reader)?),
        20 => Change::RemovePolicies(reader.list(4, |reader| Ok(reader.bytes()?.to_vec()))?),
        21 => Change::Libraries(LibraryChange {
            version: reader.u64()?,
            flush: read_bool(reader)?,
            remove: reader.list(4, |reader| Ok(reader.bytes()?.to_vec()))?,
            set: reader.list(8, read_pair)?,
        }),
        22 => Change::Sites(read_site_change(reader)?),
        17 if outermost => {
            let version = reader.u64()?;
            let changes = reader.list(5, |reader| read_change(reader, false))?;
            if changes.len() > BATCH_MAX {
                return Err(Malformed);
            }
            Change::Batch { version, changes }
        }
        _ => return Err(Malformed),
    })
}
