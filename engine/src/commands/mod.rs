//! The commands, one file a family: table entries and the functions that run them.

use crate::command::Command;

pub mod bitfield;
pub mod bitmap;
pub mod counter;
pub mod debug;
pub mod dump;
pub mod expire;
mod expiry_form;
pub mod generic;
pub mod geo;
pub mod hash;
pub mod hash_ttl;
pub mod hyperloglog;
pub mod internal;
pub mod keyspace;
pub mod lcs;
pub mod library;
pub mod list;
pub mod list_blocking;
mod mpop;
pub mod object;
pub mod policy;
mod sample;
pub mod scan;
mod scan_args;
pub mod set;
pub mod set_algebra;
mod set_options;
pub mod sort;
pub mod stream;
pub mod stream_claim;
pub mod stream_group;
pub mod stream_info;
pub mod stream_read;
pub mod string;
pub mod string_edit;
pub mod syntax;
pub mod zset;

/// All families. To add a command, add it to its family's `COMMANDS`.
pub const FAMILIES: &[&[Command]] = &[
    bitfield::COMMANDS,
    bitmap::COMMANDS,
    counter::COMMANDS,
    debug::COMMANDS,
    dump::COMMANDS,
    expire::COMMANDS,
    generic::COMMANDS,
    geo::COMMANDS,
    geo::search::COMMANDS,
    hash::COMMANDS,
    hash_ttl::COMMANDS,
    hyperloglog::COMMANDS,
    internal::COMMANDS,
    keyspace::COMMANDS,
    lcs::COMMANDS,
    library::COMMANDS,
    list::COMMANDS,
    list_blocking::COMMANDS,
    object::COMMANDS,
    policy::COMMANDS,
    scan::COMMANDS,
    set::COMMANDS,
    set_algebra::COMMANDS,
    sort::COMMANDS,
    stream::COMMANDS,
    stream_claim::COMMANDS,
    stream_group::COMMANDS,
    stream_info::COMMANDS,
    stream_read::COMMANDS,
    string::COMMANDS,
    string_edit::COMMANDS,
    zset::COMMANDS,
    zset::combine::COMMANDS,
    zset::pop::COMMANDS,
    zset::range::COMMANDS,
];
