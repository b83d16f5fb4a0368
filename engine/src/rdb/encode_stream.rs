//! Streams to their bodies; `decode_stream` shows the form.

use super::encode::{push_number, push_plain, push_string};
use super::kind;
use super::listpack::Builder;
use crate::value::packed::Elem;
use crate::value::stream::{Entry, Group, Id, Stream};

/// Entries and bytes of a node: Redis's defaults.
const NODE_ENTRIES: usize = 100;
const NODE_BYTES: usize = 4096;
const SAME_FIELDS: i64 = 2;

/// A node on its way: its entries, and the names of fields of its first one.
struct Node<'a> {
    first: Id,
    names: Vec<Elem<'a>>,
    entries: Vec<Entry<'a>>,
    bytes: usize,
}

/// Appends the type and the body of a stream.
pub(super) fn push(stream: &Stream, out: &mut Vec<u8>) {
    out.push(kind::STREAM_2);
    let mut nodes = Vec::new();
    let mut count = 0u64;
    let mut node: Option<Node<'_>> = None;
    for entry in stream.range(Id::MIN, Id::MAX, false) {
        let size: usize = entry.fields.clone().map(|(name, value)| size(name) + size(value)).sum();
        if let Some(full) = node
            .take_if(|node| node.entries.len() == NODE_ENTRIES || node.bytes + size > NODE_BYTES)
        {
            push_node(&full, &mut nodes);
            count += 1;
        }
        let node = node.get_or_insert_with(|| Node {
            first: entry.id,
            names: entry.fields.clone().map(|(name, _)| name).collect(),
            entries: Vec::new(),
            bytes: 0,
        });
        node.bytes += size;
        node.entries.push(entry);
    }
    if let Some(last) = node {
        push_node(&last, &mut nodes);
        count += 1;
    }
    push_number(out, count);
    out.append(&mut nodes);
    push_number(out, stream.len());
    for id in [stream.last_id(), stream.first_id(), stream.max_deleted_id()] {
        push_id(id, out);
    }
    push_number(out, stream.entries_added());
    push_number(out, stream.groups().len() as u64);
    for (name, group) in stream.groups() {
        push_plain(out, name);
        push_group(group, out);
    }
}

fn size(elem: Elem<'_>) -> usize {
    match elem {
        Elem::Bytes(bytes) => bytes.len() + 2,
        Elem::Int(_) => 6,
    }
}

fn push_elem(elem: Elem<'_>, node: &mut Builder) {
    match elem {
        Elem::Bytes(bytes) => node.push(bytes),
        Elem::Int(int) => node.push_int(int),
    }
}

fn push_node(node: &Node<'_>, out: &mut Vec<u8>) {
    let mut pack = Builder::new();
    pack.push_int(node.entries.len() as i64);
    pack.push_int(0);
    pack.push_int(node.names.len() as i64);
    node.names.iter().for_each(|name| push_elem(*name, &mut pack));
    pack.push_int(0);
    for entry in &node.entries {
        let fields = entry.fields.clone();
        let same = fields.len() == node.names.len()
            && fields.clone().zip(&node.names).all(|((name, _), of_node)| name == *of_node);
        pack.push_int(if same { SAME_FIELDS } else { 0 });
        pack.push_int(entry.id.ms.wrapping_sub(node.first.ms) as i64);
        pack.push_int(entry.id.seq.wrapping_sub(node.first.seq) as i64);
        let count = fields.len() as i64;
        if !same {
            pack.push_int(count);
        }
        for (name, value) in fields {
            if !same {
                push_elem(name, &mut pack);
            }
            push_elem(value, &mut pack);
        }
        pack.push_int(if same { count + 3 } else { 2 * count + 4 });
    }
    let mut first = [0; 16];
    first[..8].copy_from_slice(&node.first.ms.to_be_bytes());
    first[8..].copy_from_slice(&node.first.seq.to_be_bytes());
    push_plain(out, &first);
    push_string(out, &pack.finish());
}

fn push_id(id: Id, out: &mut Vec<u8>) {
    push_number(out, id.ms);
    push_number(out, id.seq);
}

fn push_raw_id(id: Id, out: &mut Vec<u8>) {
    out.extend_from_slice(&id.ms.to_be_bytes());
    out.extend_from_slice(&id.seq.to_be_bytes());
}

fn push_group(group: &Group, out: &mut Vec<u8>) {
    push_id(group.last_id, out);
    push_number(out, group.entries_read.unwrap_or(u64::MAX));
    push_number(out, group.pending_len() as u64);
    for (id, pending) in group.pending(..) {
        push_raw_id(id, out);
        out.extend_from_slice(&pending.delivered_ms.to_le_bytes());
        push_number(out, pending.deliveries);
    }
    push_number(out, group.consumers().len() as u64);
    for consumer in group.consumers() {
        push_plain(out, consumer.name());
        out.extend_from_slice(&consumer.seen_ms.to_le_bytes());
        push_number(out, consumer.pending().len() as u64);
        consumer.pending().iter().for_each(|id| push_raw_id(*id, out));
    }
}
