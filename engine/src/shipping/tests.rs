use super::*;
use crate::engine::{Engine, EngineOptions};
use crate::executor::{Call, Prefetched};
use crate::log::record::Calls;
use crate::reply::{Protocol, Reply};
use crate::stamp::Stamp;
use crate::value::varint;

const NO_WAIT: Duration = Duration::ZERO;

fn run(engine: &Engine, line: &str) {
    let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
    let command = Engine::find_command(&args).unwrap();
    let stamp = Stamp::new(1_000_000, 1);
    let call =
        Call { command, args: &args, db: 0, stamp: &stamp, may_block: false, no_touch: false };
    let mut out = Vec::new();
    engine.executor().run(&call, Prefetched::NONE, &mut Reply::new(&mut out, Protocol::Resp2));
}

fn primary() -> Engine {
    let engine = Engine::with_options(EngineOptions::default());
    engine.shipping().set_limits(1 << 20, 1 << 20);
    engine.shipping().turn_on("one", None);
    engine
}

/// The names of the first calls of what a replica gets.
fn received(engine: &Engine, replica: u64) -> Vec<String> {
    let mut names = Vec::new();
    while let Next::Records(part) = engine.shipping().next(replica, None, NO_WAIT) {
        let (mut at, mut count) = (0, 0);
        while at < part.bytes.len() {
            let (len, start) = varint::read(&part.bytes, at).unwrap();
            at = start + len as usize;
            let call = Calls::new(&part.bytes[start..at]).next().unwrap();
            let words = call.args.iter().map(|arg| String::from_utf8_lossy(arg).into_owned());
            names.push(words.collect::<Vec<_>>().join(" "));
            count += 1;
        }
        assert_eq!(count, part.records);
    }
    names
}

#[test]
fn a_replica_gets_each_record_once_wherever_it_enters() {
    let engine = primary();
    let lines: Vec<String> = (0..5_000).map(|n| format!("SET key{n} {n}")).collect();
    lines[..3_000].iter().for_each(|line| run(&engine, line));
    assert_eq!(engine.position().position, 3_000);
    for (replica, position) in [(1, 0), (2, 1), (3, 1_234), (4, 2_999), (5, 3_000)] {
        assert!(engine.shipping().enter(replica, position));
    }
    assert!(!engine.shipping().enter(6, 3_001));
    for (replica, position) in [(1, 0), (2, 1), (3, 1_234), (4, 2_999), (5, 3_000)] {
        assert_eq!(received(&engine, replica), lines[position..3_000], "from {position}");
    }
    lines[3_000..].iter().for_each(|line| run(&engine, line));
    assert_eq!(received(&engine, 5), lines[3_000..]);
    let behind = engine.shipping().behind(4_000);
    assert_eq!((behind.records, behind.since_ms), (1_000, Some(1_000_000)));
}

#[test]
fn what_is_not_waited_for_goes_and_who_needs_it_is_told() {
    let engine = primary();
    engine.shipping().set_limits(1_000, 200_000);
    assert!(engine.shipping().enter(1, 0));
    for n in 0..20_000 {
        run(&engine, &format!("SET key{n} {n}"));
    }
    let (start, bytes, on) = engine.shipping().kept();
    assert!(on && start > 0 && bytes < 300_000, "{start}, {bytes} bytes");
    assert_eq!(engine.shipping().next(1, None, NO_WAIT), Next::Gone(0));
    assert_eq!(engine.shipping().next(2, None, NO_WAIT), Next::Lost);
    assert!(!engine.shipping().enter(1, start - 1) && engine.shipping().enter(1, start));
    assert_eq!(received(&engine, 1).len() as u64, 20_000 - start);
}

#[test]
fn histories_are_known_by_their_names() {
    let engine = primary();
    (0..10).for_each(|n| run(&engine, &format!("SET key {n}")));
    engine.shipping().begin("two", None);
    (0..5).for_each(|n| run(&engine, &format!("SET key {n}")));
    let knows = |id: &str, position| engine.shipping().knows(id.as_bytes(), position, None);
    assert!(knows("one", 0) && knows("one", 10) && !knows("one", 11));
    assert!(knows("two", 3) && knows("two", 15) && !knows("two", 16) && !knows("", 0));
    let here = engine.position();
    let words = here.words();
    let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
    assert_eq!(Position::decode(&words), Some(here));
    assert_eq!(Position::decode(&words[..words.len() - 1]), None);
}

#[test]
fn positions_and_the_indices_of_a_log_go_in_step_between_points() {
    let mut points = history::Points::default();
    for (index, position) in [(1, 0), (11, 9), (12, 9), (30, 26)] {
        points.push(Point { index, position });
    }
    for (index, position) in [(2, 1), (10, 9), (13, 10), (29, 26), (31, 27)] {
        assert_eq!(points.position_of(index), position, "record {index}");
        assert_eq!(points.index_behind(position - 1), Some(index), "behind {}", position - 1);
    }
}
