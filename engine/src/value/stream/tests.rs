use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

const LIMIT: NodeLimit = NodeLimit { entries: 10, bytes: 300 };

type Model = BTreeMap<Id, Vec<Vec<u8>>>;

#[derive(Clone, Debug)]
enum Op {
    Add { ms: u64, seq: u64, fields: Vec<Vec<u8>> },
    Delete(usize),
    DeleteAbsent(u64, u64),
    Trim { keep: usize, by_id: bool },
    TrimBlocks { keep: u64, limit: u64 },
    Range(u64, u64),
}

fn fields() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let value = prop_oneof![
        "[a-z]{0,8}".prop_map(String::into_bytes),
        any::<i64>().prop_map(|n| n.to_string().into_bytes()),
        (0..200usize).prop_map(|len| vec![b'x'; len]),
    ];
    let names = prop_oneof![
        4 => Just(vec!["temp", "7"]),
        1 => Just(vec!["temp"]),
        1 => Just(vec!["a", "b", "a"]),
    ];
    (names, proptest::collection::vec(value, 3)).prop_map(|(names, values)| {
        names.iter().zip(values).flat_map(|(n, v)| [n.as_bytes().to_vec(), v]).collect()
    })
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        10 => (0..3u64, 1..4u64, fields()).prop_map(|(ms, seq, f)| Op::Add { ms, seq, fields: f }),
        3 => any::<usize>().prop_map(Op::Delete),
        1 => (0..50u64, 0..9u64).prop_map(|(ms, seq)| Op::DeleteAbsent(ms, seq)),
        1 => (any::<usize>(), any::<bool>()).prop_map(|(keep, by_id)| Op::Trim { keep, by_id }),
        1 => (0..60u64, 0..40u64).prop_map(|(keep, limit)| Op::TrimBlocks { keep, limit }),
        2 => (0..60u64, 0..60u64).prop_map(|(from, to)| Op::Range(from, to)),
    ]
}

fn collect(range: Range<'_>) -> Vec<(Id, Vec<Vec<u8>>)> {
    range
        .map(|entry| {
            (
                entry.id,
                entry.fields.flat_map(|(name, value)| [name.to_vec(), value.to_vec()]).collect(),
            )
        })
        .collect()
}

fn check_range(stream: &Stream, model: &Model, start: Id, end: Id) {
    let mut want: Vec<_> = if start <= end {
        model.range(start..=end).map(|(id, fields)| (*id, fields.clone())).collect()
    } else {
        Vec::new()
    };
    assert_eq!(collect(stream.range(start, end, false)), want);
    want.reverse();
    assert_eq!(collect(stream.range(start, end, true)), want);
}

fn apply(stream: &mut Stream, model: &mut Model, op: &Op) {
    match op {
        Op::Add { ms, seq, fields } => {
            let last = stream.last_id();
            let id = Id::new(last.ms + ms, if *ms == 0 { last.seq + seq } else { *seq });
            let parts: Vec<&[u8]> = fields.iter().map(|part| &part[..]).collect();
            stream.append(id, &parts, LIMIT);
            model.insert(id, fields.clone());
        }
        Op::Delete(at) if !model.is_empty() => {
            let id = *model.keys().nth(at % model.len()).unwrap();
            model.remove(&id);
            assert!(stream.contains(id));
            assert!(stream.delete(id));
            assert!(!stream.delete(id));
        }
        Op::Delete(_) => {}
        Op::DeleteAbsent(ms, seq) => {
            let id = Id::new(*ms, *seq);
            assert_eq!(stream.delete(id), model.remove(&id).is_some());
        }
        Op::Trim { keep, by_id } => {
            let gone = keep % (model.len() + 1);
            let rest = match model.keys().nth(gone) {
                Some(&first) => model.split_off(&first),
                None => Model::new(),
            };
            let keep = match (by_id, rest.keys().next()) {
                (true, Some(&first)) => Keep::From(first),
                (true, None) => Keep::From(Id::MAX),
                (false, _) => Keep::Last(rest.len() as u64),
            };
            assert_eq!(stream.trim(keep, false, 0), gone as u64);
            *model = rest;
        }
        Op::TrimBlocks { keep, limit } => {
            let removed = stream.trim(Keep::Last(*keep), true, *limit);
            assert!(*limit == 0 || removed <= *limit);
            assert!(removed == 0 || stream.len() >= *keep);
            for _ in 0..removed {
                model.pop_first();
            }
        }
        Op::Range(from, to) => check_range(stream, model, Id::new(*from, 2), Id::new(*to, 1)),
    }
}

proptest! {
    #[test]
    fn a_stream_behaves_like_an_ordered_map(ops in proptest::collection::vec(op(), 0..120)) {
        let mut stream = Stream::new();
        let mut model = Model::new();
        for op in &ops {
            apply(&mut stream, &mut model, op);
            prop_assert_eq!(stream.len(), model.len() as u64);
        }
        check_range(&stream, &model, Id::MIN, Id::MAX);
        let first = model.keys().next().copied().unwrap_or_default();
        prop_assert_eq!(stream.first_id(), first);
        let mut bytes = Vec::new();
        stream.encode(&mut bytes);
        let mut again = Stream::decode(&bytes).unwrap();
        check_range(&again, &model, Id::MIN, Id::MAX);
        // What comes next lands in the same blocks, so the two stay the same byte for byte.
        for n in 0..12u8 {
            let id = stream.last_id().next().unwrap();
            let value = vec![n; n as usize * 7];
            stream.append(id, &[b"temp", &value], LIMIT);
            again.append(id, &[b"temp", &value], LIMIT);
        }
        let (mut one, mut two) = (Vec::new(), Vec::new());
        stream.encode(&mut one);
        again.encode(&mut two);
        prop_assert_eq!(one, two);
    }

    #[test]
    fn garbage_is_refused_without_a_panic(
        ops in proptest::collection::vec(op(), 0..20),
        flips in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..4),
    ) {
        let mut stream = Stream::new();
        let mut model = Model::new();
        for op in &ops {
            apply(&mut stream, &mut model, op);
        }
        stream.create_group(b"g", Id::new(3, 1), Some(2));
        let mut bytes = Vec::new();
        stream.encode(&mut bytes);
        for (at, byte) in flips {
            let len = bytes.len();
            bytes[at % len] = byte;
        }
        if let Some(stream) = Stream::decode(&bytes) {
            prop_assert_eq!(stream.range(Id::MIN, Id::MAX, false).count() as u64, stream.len());
            prop_assert_eq!(stream.range(Id::MIN, Id::MAX, true).count() as u64, stream.len());
        }
    }
}

#[test]
fn groups_come_back_in_canonical_form() {
    let mut stream = Stream::new();
    assert!(stream.create_group(b"g", Id::new(5, 0), None));
    assert!(!stream.create_group(b"g", Id::MIN, None));
    let group = stream.group_mut(b"g").unwrap();
    let zoe = group.create_consumer(b"zoe", 10);
    let amy = group.create_consumer(b"amy", 20);
    group.consumer_mut(amy).unwrap().active_ms = Some(25);
    for n in 0..5 {
        let consumer = if n % 2 == 0 { zoe } else { amy };
        group.assign(Id::new(n, 1), Pending { consumer, delivered_ms: 30, deliveries: 1 });
    }
    group.assign(Id::new(0, 1), Pending { consumer: amy, delivered_ms: 31, deliveries: 2 });
    assert_eq!(group.consumer(amy).unwrap().pending().len(), 3);
    assert!(group.acknowledge(Id::new(2, 1)));
    assert!(!group.acknowledge(Id::new(2, 1)));
    let mut bytes = Vec::new();
    stream.encode(&mut bytes);
    let mut again = Stream::decode(&bytes).unwrap();
    let mut twice = Vec::new();
    again.encode(&mut twice);
    assert_eq!(bytes, twice);
    let group = again.group_mut(b"g").unwrap();
    assert_eq!(group.delete_consumer(b"zoe"), Some(1));
    assert_eq!(group.delete_consumer(b"zoe"), None);
    assert_eq!(group.pending(..).count(), 3);
    assert_eq!(group.consumers().map(|c| c.name()).collect::<Vec<_>>(), [b"amy"]);
}

#[test]
fn approximate_trims_see_whole_blocks() {
    let limit = NodeLimit { entries: 100, bytes: 4096 };
    let mut stream = Stream::new();
    for n in 1..=1000 {
        stream.append(Id::new(n, 0), &[b"field", b"value"], limit);
    }
    assert_eq!(stream.block_count(), 10);
    assert_eq!(stream.trim(Keep::Last(555), true, 0), 400);
    assert_eq!(stream.trim(Keep::Last(10), true, 150), 100);
    assert_eq!(stream.trim(Keep::From(Id::new(700, 0)), true, 0), 100);
    assert_eq!(stream.trim(Keep::From(Id::new(701, 0)), true, 0), 100);
    assert_eq!(stream.len(), 300);
}

/// Entries that come late get into their places, whatever was there and was deleted.
#[test]
fn entries_are_inserted_in_their_places() {
    let mut stream = Stream::new();
    let mut expected = Vec::new();
    for nth in 0..200u64 {
        // Every number once, in an order that jumps back and forth.
        let id = Id::new(1 + nth * 77 % 200, 0);
        let text = id.ms.to_string();
        stream.insert(id, &[b"f", text.as_bytes()], LIMIT);
        stream.insert(id, &[b"again", b"x"], LIMIT);
        expected.push(id);
        if nth % 10 == 9 {
            let gone = expected.swap_remove(nth as usize % expected.len());
            assert!(stream.delete(gone));
        }
    }
    expected.sort_unstable();
    let entries: Vec<Id> = stream.range(Id::MIN, Id::MAX, false).map(|entry| entry.id).collect();
    assert_eq!(entries, expected);
    assert_eq!(stream.len(), expected.len() as u64);
    for entry in stream.range(Id::MIN, Id::MAX, true) {
        let (_, value) = entry.fields.clone().next().expect("it has a field");
        assert_eq!(value.to_vec(), entry.id.ms.to_string().into_bytes());
    }
    let mut bytes = Vec::new();
    stream.encode(&mut bytes);
    assert!(Stream::decode(&bytes).is_some_and(|copy| copy.len() == stream.len()));
}
