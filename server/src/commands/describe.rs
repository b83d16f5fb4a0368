//! A command table entry in the forms of COMMAND INFO and COMMAND DOCS.

use ashlar_engine::command::{Command, Flags, KeyList, Keys};
use ashlar_engine::commands::syntax::{self, Arg, ArgKind};
use ashlar_engine::reply::Reply;

/// Flags under the names that COMMAND INFO gives them.
const FLAG_NAMES: &[(Flags, &str)] = &[
    (Flags::WRITE, "write"),
    (Flags::READONLY, "readonly"),
    (Flags::DENYOOM, "denyoom"),
    (Flags::ADMIN, "admin"),
    (Flags::PUBSUB, "pubsub"),
    (Flags::NOSCRIPT, "noscript"),
    (Flags::BLOCKING, "blocking"),
    (Flags::LOADING, "loading"),
    (Flags::STALE, "stale"),
    (Flags::SKIP_MONITOR, "skip_monitor"),
    (Flags::FAST, "fast"),
    (Flags::NO_AUTH, "no_auth"),
    (Flags::MAY_REPLICATE, "may_replicate"),
    (Flags::NO_MULTI, "no_multi"),
    (Flags::ALLOW_BUSY, "allow_busy"),
];

/// The name in lower case, with the container's in front: `config|get`.
pub fn full_name(container: Option<&Command>, command: &Command) -> String {
    let name = command.name.to_ascii_lowercase();
    match container {
        Some(container) => format!("{}|{name}", container.name.to_ascii_lowercase()),
        None => name,
    }
}

/// The flags of a command, under the names of COMMAND INFO.
pub fn flag_names(command: &Command) -> Vec<&'static str> {
    let movable = matches!(command.keys, Keys::Numkeys { .. } | Keys::Custom(_))
        || command.flags.contains(Flags::MOVABLE_KEYS);
    let flags = FLAG_NAMES.iter().filter(|(flag, _)| command.flags.contains(*flag));
    let names = flags.map(|(_, name)| *name);
    names.chain(movable.then_some("movablekeys")).collect()
}

/// The ACL categories of a command, without the `@`.
pub fn categories(command: &Command) -> Vec<&'static str> {
    let flags = command.flags;
    // These belong to a group by what they do, but not by whom they concern.
    let group = match command.name {
        "SORT" | "SORT_RO" => None,
        "WAIT" | "WAITAOF" | "ASKING" | "READONLY" | "READWRITE" => Some("connection"),
        _ => command.group.category(),
    };
    let mut categories: Vec<&'static str> = group.into_iter().collect();
    let mut add = |is: bool, name: &'static str| {
        if is && !categories.contains(&name) {
            categories.push(name);
        }
    };
    add(flags.contains(Flags::READONLY), "read");
    add(flags.contains(Flags::WRITE), "write");
    add(flags.contains(Flags::PUBSUB), "pubsub");
    let admin = flags.contains(Flags::ADMIN) || command.name == "LASTSAVE";
    add(admin, "admin");
    add(flags.contains(Flags::FAST), "fast");
    add(!flags.contains(Flags::FAST), "slow");
    add(flags.contains(Flags::BLOCKING), "blocking");
    add(admin || flags.contains(Flags::DANGEROUS), "dangerous");
    for category in command.categories {
        add(true, category);
    }
    categories
}

/// The first and last key and the distance of keys, as old clients read them.
fn key_range(command: &Command) -> (i64, i64, i64) {
    match command.keys {
        Keys::Range { first, last, step } => (first as i64, last as i64, step as i64),
        Keys::Numkeys { also_first: true, .. } => (1, 1, 1),
        // Shard channels are routed like keys, though they are none.
        Keys::None if command.name == "SPUBLISH" => (1, 1, 1),
        Keys::None if ["SSUBSCRIBE", "SUNSUBSCRIBE"].contains(&command.name) => (1, -1, 1),
        // Where the first key stands in the same place whatever the arguments are.
        Keys::Custom(find) => {
            let mut keys = KeyList::new();
            find(&[&b""[..]; 16], &mut keys);
            if keys.first() == Some(&1) { (1, 1, 1) } else { (0, 0, 0) }
        }
        Keys::None | Keys::Numkeys { .. } => (0, 0, 0),
    }
}

/// How a command uses its keys.
pub fn key_flags(command: &Command) -> &'static [&'static str] {
    if command.flags.contains(Flags::WRITE) {
        &["RW", "access", "update"]
    } else {
        &["RO", "access"]
    }
}

/// One element of COMMAND INFO.
pub fn info(reply: &mut Reply<'_>, container: Option<&Command>, command: &Command) {
    reply.array(10);
    reply.bulk(full_name(container, command).as_bytes());
    reply.int(i64::from(command.arity));
    let names = flag_names(command);
    reply.set(names.len());
    names.iter().for_each(|name| reply.simple(name));
    let (first, last, step) = key_range(command);
    [first, last, step].into_iter().for_each(|number| reply.int(number));
    let categories = categories(command);
    reply.set(categories.len());
    categories.iter().for_each(|category| reply.simple(&format!("@{category}")));
    reply.array(0);
    key_specs(reply, command);
    reply.array(command.subcommands.len());
    for sub in command.subcommands {
        info(reply, Some(command), sub);
    }
}

fn pairs(reply: &mut Reply<'_>, pairs: &[(&str, i64)]) {
    reply.map(pairs.len());
    for (name, number) in pairs {
        reply.bulk(name.as_bytes());
        reply.int(*number);
    }
}

/// One key specification: where to begin, and how to find the keys from there.
fn key_spec(
    reply: &mut Reply<'_>,
    command: &Command,
    begin: Option<i64>,
    find: (&str, &[(&str, i64)]),
) {
    let flags = key_flags(command);
    reply.map(3);
    reply.bulk(b"flags");
    let unsure: &[&str] = if begin.is_none() { &["incomplete"] } else { &[] };
    reply.set(flags.len() + unsure.len());
    flags.iter().chain(unsure).for_each(|flag| reply.simple(flag));
    reply.bulk(b"begin_search");
    reply.map(2);
    reply.bulk(b"type");
    reply.bulk(if begin.is_some() { b"index" } else { b"unknown" });
    reply.bulk(b"spec");
    match begin {
        Some(index) => pairs(reply, &[("index", index)]),
        None => reply.map(0),
    }
    let (kind, spec) = find;
    reply.bulk(b"find_keys");
    reply.map(2);
    reply.bulk(b"type");
    reply.bulk(kind.as_bytes());
    reply.bulk(b"spec");
    pairs(reply, spec);
}

fn key_specs(reply: &mut Reply<'_>, command: &Command) {
    let one: (&str, &[(&str, i64)]) = ("range", &[("lastkey", 0), ("keystep", 1), ("limit", 0)]);
    match command.keys {
        Keys::None => reply.array(0),
        Keys::Range { first, last, step } => {
            let (first, last, step) = (first as i64, last as i64, step as i64);
            let last = if last < 0 { last } else { last - first };
            let find = [("lastkey", last), ("keystep", step), ("limit", 0)];
            reply.array(1);
            key_spec(reply, command, Some(first), ("range", &find));
        }
        Keys::Numkeys { at, also_first } => {
            reply.array(if also_first { 2 } else { 1 });
            if also_first {
                key_spec(reply, command, Some(1), one);
            }
            let find = [("keynumidx", 0), ("firstkey", 1), ("keystep", 1)];
            key_spec(reply, command, Some(at as i64), ("keynum", &find));
        }
        Keys::Custom(_) => {
            reply.array(1);
            key_spec(reply, command, None, ("unknown", &[]));
        }
    }
}

/// The value of a command in COMMAND DOCS.
pub fn docs(reply: &mut Reply<'_>, command: &Command) {
    // A test of the engine reads every line of syntax, so that none is left out here.
    let args = syntax::parse(command.syntax).unwrap_or_default();
    let mut fields = vec![
        ("summary", command.summary),
        ("since", command.since),
        ("group", command.group.name()),
    ];
    if !command.complexity.is_empty() {
        fields.push(("complexity", command.complexity));
    }
    let with_args = usize::from(!args.is_empty());
    let with_subs = usize::from(!command.subcommands.is_empty());
    reply.map(fields.len() + with_args + with_subs);
    for (name, text) in fields {
        reply.bulk(name.as_bytes());
        reply.bulk(text.as_bytes());
    }
    if !args.is_empty() {
        reply.bulk(b"arguments");
        let mut next_key = 0;
        arguments(reply, &args, &mut next_key);
    }
    if !command.subcommands.is_empty() {
        reply.bulk(b"subcommands");
        reply.map(command.subcommands.len());
        for sub in command.subcommands {
            reply.bulk(full_name(Some(command), sub).as_bytes());
            docs(reply, sub);
        }
    }
}

fn arguments(reply: &mut Reply<'_>, args: &[Arg], next_key: &mut i64) {
    reply.array(args.len());
    for arg in args {
        argument(reply, arg, next_key);
    }
}

fn argument(reply: &mut Reply<'_>, arg: &Arg, next_key: &mut i64) {
    let map = reply.deferred_map();
    let mut count = 2;
    reply.bulk(b"name");
    reply.bulk(arg.name.as_bytes());
    reply.bulk(b"type");
    reply.bulk(arg.kind.name().as_bytes());
    if !matches!(arg.kind, ArgKind::OneOf(_) | ArgKind::Block(_)) {
        reply.bulk(b"display_text");
        reply.bulk(arg.name.as_bytes());
        count += 1;
    }
    if arg.kind == ArgKind::Key {
        reply.bulk(b"key_spec_index");
        reply.int(*next_key);
        *next_key += 1;
        count += 1;
    }
    if let Some(token) = &arg.token {
        reply.bulk(b"token");
        reply.bulk(token.as_bytes());
        count += 1;
    }
    let flags = [
        (arg.optional, "optional"),
        (arg.multiple, "multiple"),
        (arg.multiple_token, "multiple_token"),
    ];
    let flags: Vec<&str> = flags.iter().filter(|(is, _)| *is).map(|(_, name)| *name).collect();
    if !flags.is_empty() {
        reply.bulk(b"flags");
        reply.set(flags.len());
        flags.iter().for_each(|flag| reply.simple(flag));
        count += 1;
    }
    if let ArgKind::OneOf(inner) | ArgKind::Block(inner) = &arg.kind {
        reply.bulk(b"arguments");
        arguments(reply, inner, next_key);
        count += 1;
    }
    reply.close(map, count);
}
