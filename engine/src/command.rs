//! What the engine knows of a command: one entry, next to the function that runs it.
//!
//! COMMAND and its subcommands, ACL categories, routing, memory checks, the random test grammar
//! and the documentation all read this one entry, so adding a command touches one file.

use crate::context::Cx;
use crate::error::CmdResult;
use crate::reply::Reply;
use crate::value::part::Ask;
use bitflags::bitflags;
use smallvec::SmallVec;

/// A command's function. `args[0]` is the command's name (and `args[1]` a subcommand's).
pub type Run = fn(&mut Cx<'_>, &[&[u8]], &mut Reply<'_>) -> CmdResult;

/// Positions of keys in an argument list.
pub type KeyList = SmallVec<[usize; 8]>;

bitflags! {
    /// What is true of a command, under the names that COMMAND INFO gives.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Flags: u32 {
        /// May change the data.
        const WRITE = 1;
        /// Only reads the data.
        const READONLY = 1 << 1;
        /// Refused when memory is above `maxmemory` and nothing can be evicted.
        const DENYOOM = 1 << 2;
        /// For administrators.
        const ADMIN = 1 << 3;
        /// Publish and subscribe.
        const PUBSUB = 1 << 4;
        /// Not callable from a script.
        const NOSCRIPT = 1 << 5;
        /// May block the client.
        const BLOCKING = 1 << 6;
        /// Allowed while the data is loaded.
        const LOADING = 1 << 7;
        /// Allowed on a replica that has lost its primary.
        const STALE = 1 << 8;
        /// Not shown by MONITOR and SLOWLOG.
        const SKIP_MONITOR = 1 << 9;
        /// Constant or logarithmic time.
        const FAST = 1 << 10;
        /// Allowed before authentication.
        const NO_AUTH = 1 << 11;
        /// Allowed while a script is busy.
        const ALLOW_BUSY = 1 << 12;
        /// Not allowed inside MULTI.
        const NO_MULTI = 1 << 13;
        /// The positions of keys follow from the arguments.
        const MOVABLE_KEYS = 1 << 14;
        /// May write even where it only seems to read (PFCOUNT).
        const MAY_REPLICATE = 1 << 15;
        /// Touches keys that its arguments do not name, or all of a database.
        const WHOLE_KEYSPACE = 1 << 16;
        /// Not reachable by a client.
        const INTERNAL = 1 << 17;
        /// Dangerous, for the ACL category of that name.
        const DANGEROUS = 1 << 18;
        /// Works on keys whose values are on disk without reading them.
        const BLIND = 1 << 19;
    }
}

/// Families of commands, as COMMAND DOCS groups them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Group {
    Generic,
    String,
    List,
    Set,
    SortedSet,
    Hash,
    PubSub,
    Transactions,
    Connection,
    Server,
    Scripting,
    HyperLogLog,
    Cluster,
    Sentinel,
    Geo,
    Stream,
    Bitmap,
}

impl Group {
    /// The name in COMMAND DOCS.
    pub const fn name(self) -> &'static str {
        match self {
            Group::Generic => "generic",
            Group::String => "string",
            Group::List => "list",
            Group::Set => "set",
            Group::SortedSet => "sorted-set",
            Group::Hash => "hash",
            Group::PubSub => "pubsub",
            Group::Transactions => "transactions",
            Group::Connection => "connection",
            Group::Server => "server",
            Group::Scripting => "scripting",
            Group::HyperLogLog => "hyperloglog",
            Group::Cluster => "cluster",
            Group::Sentinel => "sentinel",
            Group::Geo => "geo",
            Group::Stream => "stream",
            Group::Bitmap => "bitmap",
        }
    }

    /// The ACL category that all commands of the group have, if there is one.
    pub const fn category(self) -> Option<&'static str> {
        Some(match self {
            Group::Generic => "keyspace",
            Group::String => "string",
            Group::List => "list",
            Group::Set => "set",
            Group::SortedSet => "sortedset",
            Group::Hash => "hash",
            Group::PubSub => "pubsub",
            Group::Transactions => "transaction",
            Group::Connection => "connection",
            Group::Scripting => "scripting",
            Group::HyperLogLog => "hyperloglog",
            Group::Geo => "geo",
            Group::Stream => "stream",
            Group::Bitmap => "bitmap",
            Group::Server | Group::Cluster | Group::Sentinel => return None,
        })
    }
}

/// Where a command's keys are among its arguments.
#[derive(Clone, Copy, Debug)]
pub enum Keys {
    /// It has none.
    None,
    /// From `first` to `last` (from the end where negative), each `step`-th.
    Range {
        /// Position of the first key.
        first: usize,
        /// Position of the last key; -1 is the last argument.
        last: isize,
        /// Distance between keys.
        step: usize,
    },
    /// A count at `args[at]`, the keys after it. With `also_first` the first argument is a key too
    /// (the destination).
    Numkeys {
        /// Position of the count.
        at: usize,
        /// Whether `args[1]` is a key as well.
        also_first: bool,
    },
    /// Found by a function.
    Custom(fn(&[&[u8]], &mut KeyList)),
}

impl Keys {
    /// Whether a command has one key or none, whatever its arguments are.
    #[inline]
    pub fn is_one(self) -> bool {
        match self {
            Keys::None => true,
            Keys::Range { first, last, .. } => first as isize == last,
            Keys::Numkeys { .. } | Keys::Custom(_) => false,
        }
    }

    /// The first argument is the one key.
    pub const FIRST: Keys = Keys::Range { first: 1, last: 1, step: 1 };
    /// The argument after the subcommand is the one key.
    pub const SECOND: Keys = Keys::Range { first: 2, last: 2, step: 1 };
    /// The first two arguments are keys.
    pub const FIRST_TWO: Keys = Keys::Range { first: 1, last: 2, step: 1 };
    /// Every argument is a key.
    pub const ALL: Keys = Keys::Range { first: 1, last: -1, step: 1 };
    /// Every argument but the last is a key.
    pub const ALL_BUT_LAST: Keys = Keys::Range { first: 1, last: -2, step: 1 };

    /// Whether there are as many keys as their count says, where there is one.
    pub fn has_all_counted(&self, args: &[&[u8]]) -> bool {
        let Keys::Numkeys { at, .. } = *self else { return true };
        let count = args.get(at).and_then(|count| crate::number::parse_i64(count));
        let count = count.and_then(|count| usize::try_from(count).ok());
        count.is_some_and(|count| count > 0 && count < args.len() - at)
    }

    /// Adds the positions of the keys in `args` to `out`. Arguments that do not fit give fewer.
    pub fn positions(&self, args: &[&[u8]], out: &mut KeyList) {
        match *self {
            Keys::None => {}
            Keys::Range { first, last, step } => {
                let last = if last < 0 { args.len() as isize + last } else { last } as usize;
                let end = last.saturating_add(1).min(args.len());
                out.extend((first..end).step_by(step.max(1)));
            }
            Keys::Numkeys { at, also_first } => {
                if also_first && args.len() > 1 {
                    out.push(1);
                }
                let count = args.get(at).and_then(|count| crate::number::parse_i64(count));
                let count = count.and_then(|count| usize::try_from(count).ok()).unwrap_or(0);
                let end = at.saturating_add(1).saturating_add(count).min(args.len());
                out.extend(at + 1..end);
            }
            Keys::Custom(find) => {
                find(args, out);
                out.retain(|at| *at < args.len());
            }
        }
    }
}

/// What a command that only reads needs of the value of its key.
#[derive(Clone, Copy, Debug)]
pub enum Reads {
    /// All of it.
    Whole,
    /// Its type and length.
    Head,
    /// The fields or members that the arguments from here on name.
    Members(usize),
    /// The element or byte with the index at `args[at]`.
    Element(usize),
    /// Those from the index at `args[at]` to that behind it.
    Range(usize),
    /// The rank of the member `args[at]`.
    Rank(usize),
    /// Found by a function; `None` is the whole.
    Custom(fn(&[&[u8]]) -> Option<Ask>),
}

impl Reads {
    /// Whether it needs all.
    pub const fn is_whole(self) -> bool {
        matches!(self, Reads::Whole)
    }

    /// What a call asks for; `None` where that is the whole.
    pub fn ask(self, args: &[&[u8]]) -> Option<Ask> {
        let index = |at: usize| args.get(at).and_then(|arg| crate::number::parse_i64(arg));
        Some(match self {
            Reads::Whole => return None,
            Reads::Head => Ask::Head,
            Reads::Rank(at) => Ask::Rank((*args.get(at)?).into()),
            Reads::Custom(find) => return find(args),
            Reads::Members(from) => {
                Ask::Members(args.get(from..)?.iter().map(|&name| name.into()).collect())
            }
            // Without numbers the command comes to an error.
            Reads::Element(at) => index(at).map_or(Ask::Head, |at| Ask::Range(at, at)),
            Reads::Range(at) => match (index(at), index(at + 1)) {
                (Some(first), Some(last)) => Ask::Range(first, last),
                _ => Ask::Head,
            },
        })
    }
}

/// One command, or one subcommand.
#[derive(Clone, Copy, Debug)]
pub struct Command {
    /// The name, in upper case.
    pub name: &'static str,
    /// Number of arguments with the name; at least that many where negative.
    pub arity: i32,
    /// The family.
    pub group: Group,
    /// What is true of it.
    pub flags: Flags,
    /// Where its keys are.
    pub keys: Keys,
    /// Its arguments, see `commands::syntax`.
    pub syntax: &'static str,
    /// The version of Redis that introduced it.
    pub since: &'static str,
    /// Its time complexity.
    pub complexity: &'static str,
    /// What it does, in a sentence.
    pub summary: &'static str,
    /// Its subcommands.
    pub subcommands: &'static [Command],
    /// Further ACL categories, besides those that follow from group and flags.
    pub categories: &'static [&'static str],
    /// Position of the first field or member that it looks up, to be prefetched; 0 for none.
    pub member: usize,
    /// What it reads of the value of its key, which is its first argument.
    pub reads: Reads,
    /// The function that runs it; `None` for a container and for commands of the server.
    pub run: Option<Run>,
}

impl Command {
    /// A command that the engine runs.
    pub const fn new(name: &'static str, arity: i32, group: Group, run: Run) -> Command {
        let mut command = Command::hosted(name, arity, group);
        command.run = Some(run);
        command
    }

    /// A command that the server runs: it concerns connections, not data.
    pub const fn hosted(name: &'static str, arity: i32, group: Group) -> Command {
        Command {
            name,
            arity,
            group,
            flags: Flags::empty(),
            keys: Keys::None,
            syntax: "",
            since: "1.0.0",
            complexity: "",
            summary: "",
            subcommands: &[],
            categories: &[],
            member: 0,
            reads: Reads::Whole,
            run: None,
        }
    }

    /// A command that has subcommands only.
    pub const fn container(
        name: &'static str,
        group: Group,
        subcommands: &'static [Command],
    ) -> Command {
        let mut command = Command::hosted(name, -2, group);
        command.subcommands = subcommands;
        command
    }

    /// Sets the flags.
    pub const fn flags(mut self, flags: Flags) -> Command {
        self.flags = flags;
        self
    }

    /// Sets where the keys are.
    pub const fn keys(mut self, keys: Keys) -> Command {
        self.keys = keys;
        self
    }

    /// Sets the arguments' syntax.
    pub const fn syntax(mut self, syntax: &'static str) -> Command {
        self.syntax = syntax;
        self
    }

    /// Says which argument is the first field or member that it looks up.
    pub const fn member(mut self, at: usize) -> Command {
        self.member = at;
        self
    }

    /// Says what it reads of the value of its key, `args[1]`, where that is less than the whole: so much is read of a
    /// large value on disk, and given to it by [`Cx::part`].
    pub const fn reads(mut self, reads: Reads) -> Command {
        self.reads = reads;
        self
    }

    /// Adds ACL categories.
    pub const fn categories(mut self, categories: &'static [&'static str]) -> Command {
        self.categories = categories;
        self
    }

    /// Adds subcommands to a command that also runs by itself.
    pub const fn subcommands(mut self, subcommands: &'static [Command]) -> Command {
        self.subcommands = subcommands;
        self
    }

    /// Sets the documentation.
    pub const fn docs(
        mut self,
        since: &'static str,
        complexity: &'static str,
        summary: &'static str,
    ) -> Command {
        self.since = since;
        self.complexity = complexity;
        self.summary = summary;
        self
    }

    /// Whether `count` arguments, name included, are as many as the command takes.
    pub fn accepts(&self, count: usize) -> bool {
        let wanted = self.arity.unsigned_abs() as usize;
        if self.arity < 0 { count >= wanted } else { count == wanted }
    }

    /// Whether the command may change data.
    pub fn is_write(&self) -> bool {
        self.flags.contains(Flags::WRITE)
    }

    /// Its subcommand of that name.
    pub fn subcommand(&self, name: &[u8]) -> Option<&'static Command> {
        self.subcommands.iter().find(|sub| sub.name.as_bytes().eq_ignore_ascii_case(name))
    }

    /// The position of the first key, for routing; 0 where there is none.
    #[inline]
    pub fn first_key(&self, args: &[&[u8]]) -> usize {
        match self.keys {
            Keys::None => 0,
            Keys::Range { first, .. } if first < args.len() => first,
            Keys::Range { .. } => 0,
            _ => {
                let mut positions = KeyList::new();
                self.keys.positions(args, &mut positions);
                positions.first().copied().unwrap_or(0)
            }
        }
    }
}

/// A name in the index of a [`CommandTable`].
#[derive(Clone, Copy, Debug)]
struct Named {
    /// [`head`] of the name; with the length it tells short names apart.
    head: u64,
    len: u32,
    /// Number of the command; `u32::MAX` where there is none.
    id: u32,
}

/// Commands by name, in any case.
#[derive(Debug)]
pub struct CommandTable {
    commands: Vec<&'static Command>,
    /// Open addressing.
    index: Vec<Named>,
}

impl CommandTable {
    /// A table of all commands of `families`.
    ///
    /// # Panics
    /// If two commands have the same name.
    pub fn new(families: &[&'static [Command]]) -> CommandTable {
        const NOTHING: Named = Named { head: 0, len: 0, id: u32::MAX };
        let commands: Vec<&'static Command> = families.iter().copied().flatten().collect();
        let size = (commands.len() * 4).next_power_of_two();
        let mut index = vec![NOTHING; size];
        for (id, command) in commands.iter().enumerate() {
            let name = command.name.as_bytes();
            let head = name_head(name);
            let mut at = fold(name, head) as usize & (size - 1);
            while index[at].id != u32::MAX {
                let other = commands[index[at].id as usize];
                assert!(other.name != command.name, "{} is in the table twice", command.name);
                at = (at + 1) & (size - 1);
            }
            index[at] = Named { head, len: name.len() as u32, id: id as u32 };
        }
        CommandTable { commands, index }
    }

    /// The command of this name and its number in [`CommandTable::all`].
    #[inline]
    pub fn find(&self, name: &[u8]) -> Option<(usize, &'static Command)> {
        let mask = self.index.len() - 1;
        let head = name_head(name);
        let mut at = fold(name, head) as usize & mask;
        loop {
            let named = self.index[at];
            let id = named.id as usize;
            if named.head == head && named.len as usize == name.len() {
                // Names of up to eight bytes are letters (and `_`, which is unlike any other byte
                // but DEL under the mask), so their head says it all. An empty name is like a free
                // place.
                let command = *self.commands.get(id)?;
                if name.len() <= 8 || command.name.as_bytes().eq_ignore_ascii_case(name) {
                    return Some((id, command));
                }
            }
            if named.id == u32::MAX {
                return None;
            }
            at = (at + 1) & mask;
        }
    }

    /// All commands.
    pub fn all(&self) -> &[&'static Command] {
        &self.commands
    }
}

/// The first eight bytes of a name, in upper case where they are letters.
#[inline]
pub fn name_head(name: &[u8]) -> u64 {
    const UPPER: u64 = 0xDFDF_DFDF_DFDF_DFDF;
    let word = if let Some(first) = name.first_chunk::<8>() {
        u64::from_le_bytes(*first)
    } else if let (Some(first), Some(last)) = (name.first_chunk::<4>(), name.last_chunk::<4>()) {
        // The two overlap; no call of memcpy for a length that is not known.
        let last = u64::from(u32::from_le_bytes(*last)) << (8 * (name.len() - 4));
        u64::from(u32::from_le_bytes(*first)) | last
    } else {
        let byte = |at: usize| name.get(at).map_or(0, |byte| u64::from(*byte) << (8 * at));
        byte(0) | byte(1) | byte(2)
    };
    word & UPPER
}

/// A hash of a name that does not depend on its case.
#[inline]
fn fold(name: &[u8], head: u64) -> u64 {
    let last = name.last().map_or(0, |byte| u64::from(byte & 0xDF));
    let mixed = (head ^ (name.len() as u64) << 56 ^ last << 40).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    mixed >> 32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::command_table;

    #[test]
    fn short_names_are_letters_and_are_found_in_any_case() {
        let table = command_table();
        for (id, command) in table.all().iter().enumerate() {
            let name = command.name;
            // Then only letters that differ in case have the same head.
            let plain = name.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_');
            assert!(plain || name.len() > 8 || command.flags.contains(Flags::INTERNAL), "{name}");
            for spelled in [name.to_string(), name.to_lowercase()] {
                assert_eq!(table.find(spelled.as_bytes()).map(|found| found.0), Some(id));
            }
        }
        for unknown in ["", "GE", "GETT", "G\0T", "get ", "zrangebyscoreX"] {
            assert!(table.find(unknown.as_bytes()).is_none(), "{unknown}");
        }
    }
}
