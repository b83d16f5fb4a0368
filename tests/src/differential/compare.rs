//! When two replies count as the same: exactly what Redis determines, no less. Everything that is
//! let through is named here, with the reason.

use super::sequence::Step;
use crate::resp::{Argv, Value};

/// How far apart two clocks may be, in the unit of a reply in seconds.
const SECONDS: i64 = 2;
/// The same for a reply in milliseconds.
const MILLISECONDS: i64 = 2_500;

/// What Redis determines of a command's reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// All of it.
    Exact,
    /// The elements, not their order.
    Unordered,
    /// Pairs of elements, not their order.
    UnorderedPairs,
    /// The scores as numbers: 7.0 writes 17 digits, 7.2 and later the shortest form.
    Scores,
    /// Times, as far as two clocks agree.
    Time(i64),
    /// How many and of what shape; the step says what may be chosen.
    Random,
    /// A cursor and elements in any order (pairs of them for hashes and sorted sets).
    Scan(usize),
    /// Places found, in any order, with coordinates as numbers.
    Places,
    /// Idle times in milliseconds among other things.
    Idle,
    /// An encoding, some of which got other names since 7.0.
    Encoding,
    /// That it answers; which fields there are depends on the version.
    Shape,
}

/// The policy of a call.
pub fn policy(argv: &Argv) -> Policy {
    let word = |at: usize| {
        argv.get(at)
            .map(|arg| String::from_utf8_lossy(arg).to_ascii_uppercase())
            .unwrap_or_default()
    };
    let has = |word: &[u8]| argv.iter().any(|arg| arg.eq_ignore_ascii_case(word));
    match word(0).as_str() {
        "SMEMBERS" | "SUNION" | "SINTER" | "SDIFF" | "HKEYS" | "HVALS" | "KEYS" => {
            Policy::Unordered
        }
        "HGETALL" => Policy::UnorderedPairs,
        // A part of what may have no order.
        "SORT" | "SORT_RO" if has(b"BY") && has(b"LIMIT") => Policy::Shape,
        // By nothing, or by the words of a locale.
        "SORT" | "SORT_RO" if has(b"BY") || has(b"ALPHA") => Policy::Unordered,
        "SPOP" | "SRANDMEMBER" | "HRANDFIELD" | "ZRANDMEMBER" | "RANDOMKEY" => Policy::Random,
        "TTL" | "EXPIRETIME" => Policy::Time(SECONDS),
        "PTTL" | "PEXPIRETIME" => Policy::Time(MILLISECONDS),
        // A cursor that no call gave out means nothing in particular.
        "SCAN" if word(1) != "0" => Policy::Shape,
        "SSCAN" | "HSCAN" | "ZSCAN" if word(2) != "0" => Policy::Shape,
        "SCAN" | "SSCAN" => Policy::Scan(1),
        "HSCAN" | "ZSCAN" => Policy::Scan(2),
        "XPENDING" => Policy::Idle,
        "XINFO" => Policy::Shape,
        // An id that is the time of the server.
        "XADD" if has(b"*") => Policy::Shape,
        // Before 7.2 a consumer that found nothing to take was not created.
        "XGROUP" if word(1) == "CREATECONSUMER" => Policy::Shape,
        "OBJECT" if word(1) == "ENCODING" => Policy::Encoding,
        name if name.starts_with("GEO") && has(b"ANY") => Policy::Random,
        name if name.starts_with("GEOSEARCH") || name.starts_with("GEORADIUS") => Policy::Places,
        name if name.starts_with("GEO") => Policy::Scores,
        name if name.starts_with('Z') || name.starts_with("BZ") => Policy::Scores,
        _ => Policy::Exact,
    }
}

/// The first command of the step whose replies differ.
pub fn step(step: &Step, oracle: &[Value], subject: &[Value]) -> Option<usize> {
    let queued = || step.0.iter().zip(oracle).filter(|(_, reply)| reply.bytes() == Some(b"QUEUED"));
    (0..step.0.len()).find(|&index| {
        let (argv, oracle_reply, subject_reply) = (&step.0[index], &oracle[index], &subject[index]);
        match (oracle_reply, subject_reply) {
            (Value::Array(left), Value::Array(right)) if argv[0] == b"EXEC" => {
                let same = |((argv, _), (left, right))| same(argv, left, right);
                left.len() != right.len() || !queued().zip(left.iter().zip(right)).all(same)
            }
            _ => {
                let chosen = policy(argv) == Policy::Random && index > 0;
                let wrong = |reply: &Value, from: &Value| {
                    chosen && !reply.is_error() && !from.is_error() && !is_from(reply, from)
                };
                !same(argv, oracle_reply, subject_reply)
                    || wrong(oracle_reply, &oracle[index - usize::from(chosen)])
                    || wrong(subject_reply, &subject[index - usize::from(chosen)])
            }
        }
    })
}

/// True if all strings of `reply` are among those of `from`.
fn is_from(reply: &Value, from: &Value) -> bool {
    let mut allowed = Vec::new();
    leaves(from, &mut allowed);
    let mut chosen = Vec::new();
    leaves(reply, &mut chosen);
    chosen.iter().all(|leaf| allowed.contains(leaf))
}

fn leaves<'a>(value: &'a Value, out: &mut Vec<&'a [u8]>) {
    match value {
        Value::Map(pairs) => pairs.iter().for_each(|(key, value)| {
            leaves(key, out);
            leaves(value, out);
        }),
        _ => match value.items() {
            Some(items) => items.iter().for_each(|item| leaves(item, out)),
            None => out.extend(value.bytes()),
        },
    }
}

/// True if the two replies to this call count as the same.
pub fn same(argv: &Argv, oracle: &Value, subject: &Value) -> bool {
    if oracle == subject || refused_since(subject) {
        return true;
    }
    if let (Value::Error(_), _) | (_, Value::Error(_)) = (oracle, subject) {
        return same_error(argv, oracle, subject) || checked_first(argv, oracle, subject);
    }
    match policy(argv) {
        Policy::Exact => equal(oracle, subject, &|_, _| false),
        Policy::Unordered => multiset(oracle, subject, 1, &|_, _| false),
        Policy::UnorderedPairs => multiset(oracle, subject, 2, &|_, _| false),
        Policy::Scores => equal(oracle, subject, &same_number),
        Policy::Places => multiset(oracle, subject, 1, &close_number),
        Policy::Time(tolerance) => close_time(oracle, subject, tolerance),
        Policy::Idle => {
            equal(oracle, subject, &|left, right| close_time(left, right, MILLISECONDS))
        }
        Policy::Random => same_shape(oracle, subject),
        Policy::Scan(chunk) => scan(oracle, subject, chunk),
        Policy::Encoding => encoding(&oracle.text()) == encoding(&subject.text()),
        Policy::Shape => std::mem::discriminant(oracle) == std::mem::discriminant(subject),
    }
}

/// Whether this is the refusal of something that the oracle's 7.0 let through.
fn refused_since(subject: &Value) -> bool {
    let texts: [&[u8]; 2] = [
        b"ERR timeout is out of range",
        b"ERR The ID specified in XSETID is smaller than current max_deleted_entry_id",
    ];
    matches!(subject, Value::Error(error) if texts.contains(&error.as_slice()))
}

/// Errors whose texts changed between the oracle's 7.0 and the 7.4 that ashlar follows.
fn same_error(argv: &Argv, oracle: &Value, subject: &Value) -> bool {
    let (Value::Error(oracle), Value::Error(subject)) = (oracle, subject) else { return false };
    // Our errors are text: what is no UTF-8 in an argument that they repeat is replaced.
    let oracle = String::from_utf8_lossy(oracle).into_owned();
    let subject = String::from_utf8_lossy(subject).into_owned();
    let both_start = |start: &str| oracle.starts_with(start) && subject.starts_with(start);
    // A timeout beyond 64 bits overflowed into a negative one.
    let timeout = oracle == "ERR timeout is negative" && subject.starts_with("ERR timeout is ");
    // A C string ends at a NUL of the argument that it repeats.
    let has_nul = argv.iter().any(|arg| arg.contains(&0));
    let cut = has_nul && oracle.split(' ').next() == subject.split(' ').next();
    oracle == subject || timeout || cut || both_start("ERR Unbalanced ")
}

/// BITCOUNT and BITPOS look at their arguments before the key since 7.4.
fn checked_first(argv: &Argv, oracle: &Value, subject: &Value) -> bool {
    let called = |name: &[u8]| argv[0].eq_ignore_ascii_case(name);
    let Value::Error(text) = subject else { return false };
    (called(b"BITCOUNT") || called(b"BITPOS"))
        && match oracle {
            Value::Int(reply) => matches!(reply, 0 | -1),
            Value::Error(text) => text.starts_with(b"WRONGTYPE"),
            _ => false,
        }
        && (text == b"ERR syntax error" || text.starts_with(b"ERR value is not an integer"))
}

/// Equal, where the sets and maps of RESP3 have no order and `leaf` may forgive two leaves.
fn equal(left: &Value, right: &Value, leaf: &dyn Fn(&Value, &Value) -> bool) -> bool {
    match (left, right) {
        (Value::Array(a), Value::Array(b)) | (Value::Push(a), Value::Push(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(left, right)| equal(left, right, leaf))
        }
        (Value::Set(_), Value::Set(_)) | (Value::Map(_), Value::Map(_)) => {
            multiset(left, right, 1, leaf)
        }
        (Value::Double(_), Value::Double(_)) => left == right || same_number(left, right),
        _ => left == right || leaf(left, right),
    }
}

/// The same elements, taken in groups of `chunk`, in any order.
fn multiset(
    left: &Value,
    right: &Value,
    chunk: usize,
    leaf: &dyn Fn(&Value, &Value) -> bool,
) -> bool {
    let groups = |value: &Value| -> Option<Vec<Value>> {
        match value {
            Value::Map(pairs) => {
                let pair =
                    |(key, value): &(Value, Value)| Value::Array(vec![key.clone(), value.clone()]);
                Some(pairs.iter().map(pair).collect())
            }
            _ => value.items().map(|items| {
                items.chunks(chunk).map(|chunk| Value::Array(chunk.to_vec())).collect()
            }),
        }
    };
    if std::mem::discriminant(left) != std::mem::discriminant(right) {
        return false;
    }
    let (Some(mut left), Some(mut right)) = (groups(left), groups(right)) else {
        return left == right || leaf(left, right);
    };
    let order = |value: &Value| format!("{value:?}");
    left.sort_by_cached_key(order);
    right.sort_by_cached_key(order);
    // Numbers written in two ways may sort differently, so whatever is left over is searched.
    left.len() == right.len()
        && left.iter().all(|group| {
            let at = right.iter().position(|other| equal(group, other, leaf));
            at.map(|at| right.remove(at)).is_some()
        })
}

fn number(value: &Value) -> Option<f64> {
    std::str::from_utf8(value.bytes()?).ok()?.parse().ok()
}

fn same_number(left: &Value, right: &Value) -> bool {
    let same_kind = std::mem::discriminant(left) == std::mem::discriminant(right);
    same_kind && number(left).is_some_and(|left| Some(left) == number(right))
}

/// The same coordinate or distance; the last digits depend on the mathematics library.
fn close_number(left: &Value, right: &Value) -> bool {
    let close = |(left, right): (f64, f64)| (left - right).abs() <= 1e-4;
    number(left).zip(number(right)).is_some_and(close)
}

fn close_time(left: &Value, right: &Value, tolerance: i64) -> bool {
    match (left, right) {
        (Value::Int(left), Value::Int(right)) if *left >= 0 && *right >= 0 => {
            left.abs_diff(*right) <= tolerance as u64
        }
        _ => left == right,
    }
}

fn same_shape(left: &Value, right: &Value) -> bool {
    if std::mem::discriminant(left) != std::mem::discriminant(right) {
        return false;
    }
    match (left.items(), right.items()) {
        (Some(left), Some(right)) => {
            left.len() == right.len()
                && left.iter().zip(right).all(|(left, right)| same_shape(left, right))
        }
        _ => true,
    }
}

fn scan(left: &Value, right: &Value, chunk: usize) -> bool {
    let (Value::Array(left), Value::Array(right)) = (left, right) else { return left == right };
    match (left.as_slice(), right.as_slice()) {
        ([left_cursor, left], [right_cursor, right]) => {
            let ended = [left_cursor, right_cursor].map(|cursor| cursor.bytes() == Some(b"0"));
            match ended {
                [true, true] => multiset(left, right, chunk, &same_number),
                _ => same_shape(left_cursor, right_cursor),
            }
        }
        _ => false,
    }
}

/// Small sets became listpacks in 7.2, small lists too.
fn encoding(name: &str) -> &str {
    match name {
        "listpack" | "hashtable" | "quicklist" | "skiplist" => "collection",
        name => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::{parse, words};

    fn check(line: &str, left: &[u8], right: &[u8]) -> bool {
        let value = |bytes| parse(bytes).expect("RESP").expect("all of it").0;
        same(&words(line), &value(left), &value(right))
    }

    #[test]
    fn forgives_only_what_redis_leaves_open() {
        let (ab, ba) = (b"*2\r\n+a\r\n+b\r\n", b"*2\r\n+b\r\n+a\r\n");
        assert!(check("SMEMBERS s", ab, ba));
        assert!(!check("LRANGE l 0 -1", ab, ba));
        assert!(!check("HGETALL h", ab, ba));
        assert!(!check("SMEMBERS s", ab, b"*2\r\n+a\r\n+a\r\n"));
        assert!(check("SMEMBERS s", b"~2\r\n+a\r\n+b\r\n", b"~2\r\n+b\r\n+a\r\n"));
        assert!(!check("SMEMBERS s", b"~0\r\n", b"*0\r\n"));
        assert!(check("PTTL k", b":1000\r\n", b":900\r\n"));
        assert!(!check("PTTL k", b":1000\r\n", b":-1\r\n"));
        assert!(!check("INCR k", b":1000\r\n", b":900\r\n"));
        assert!(check("ZSCORE z m", b"$19\r\n0.10000000000000001\r\n", b"$3\r\n0.1\r\n"));
        assert!(!check("ZSCORE z m", b"$3\r\n0.2\r\n", b"$3\r\n0.1\r\n"));
        assert!(!check("GET k", b"$3\r\n1.0\r\n", b"$1\r\n1\r\n"));
        assert!(!check("GET k", b"$-1\r\n", b"*-1\r\n"));
        assert!(!check("GET k", b"-ERR a\r\n", b"-ERR b\r\n"));
        assert!(check(
            "SCAN 0",
            b"*2\r\n$1\r\n0\r\n*2\r\n+a\r\n+b\r\n",
            b"*2\r\n$1\r\n0\r\n*2\r\n+b\r\n+a\r\n"
        ));
        assert!(check("SRANDMEMBER s 1", b"*1\r\n+a\r\n", b"*1\r\n+b\r\n"));
        assert!(!check("SRANDMEMBER s 1", b"*1\r\n+a\r\n", b"*0\r\n"));
    }

    #[test]
    fn a_random_choice_must_be_among_the_members() {
        let of = Step(vec![words("SMEMBERS s"), words("SRANDMEMBER s")]);
        let members = Value::Array(vec![Value::bulk("a"), Value::bulk("b")]);
        let chosen = |name: &str| vec![members.clone(), Value::bulk(name)];
        assert_eq!(step(&of, &chosen("a"), &chosen("b")), None);
        assert_eq!(step(&of, &chosen("a"), &chosen("x")), Some(1));
    }
}
