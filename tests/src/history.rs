//! What clients did and what they were told, and whether that can have happened in one order.

use std::collections::{BTreeMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

/// States that a search visits: far more than a history of an ordinary run needs.
const STEPS_MAX: usize = 1_000_000;

/// What a client asked of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// SET to a value that no other operation uses.
    Set(u64),
    /// GET
    Get,
    /// RPUSH of a value that no other operation uses.
    Push(u64),
    /// LRANGE of all.
    Range,
    /// INCR
    Incr,
    /// GET of a counter.
    Count,
    /// SADD of a value that no other operation uses.
    Add(u64),
    /// SPOP
    Pop,
}

impl Op {
    /// Whether it leaves the key as it was.
    pub fn reads(&self) -> bool {
        matches!(self, Op::Get | Op::Range | Op::Count)
    }
}

/// An operation with its reply.
#[derive(Clone, Debug)]
pub struct Event {
    /// The key.
    pub key: String,
    /// What was asked.
    pub op: Op,
    /// When it was asked.
    pub start: u64,
    /// When it was answered; `u64::MAX` where the answer never came: it may have taken effect at
    /// any time since, or not at all.
    pub end: u64,
    /// The reply in RESP2; `None` where there was none.
    pub reply: Option<Vec<u8>>,
}

/// The value of a key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct State {
    register: Option<u64>,
    list: Vec<u64>,
    count: u64,
    set: Vec<u64>,
}

impl State {
    /// The states that an operation can lead to, given what it was answered.
    fn after(&self, op: &Op, reply: Option<&[u8]>) -> Vec<State> {
        let mut next = self.clone();
        let expected = match op {
            Op::Set(value) => {
                next.register = Some(*value);
                b"+OK\r\n".to_vec()
            }
            Op::Get => bulk(self.register),
            Op::Push(value) => {
                next.list.push(*value);
                format!(":{}\r\n", next.list.len()).into_bytes()
            }
            Op::Range => {
                let items: Vec<Vec<u8>> = self.list.iter().map(|item| bulk(Some(*item))).collect();
                [format!("*{}\r\n", items.len()).into_bytes(), items.concat()].concat()
            }
            Op::Incr => {
                next.count += 1;
                format!(":{}\r\n", next.count).into_bytes()
            }
            Op::Count => bulk(Some(self.count).filter(|count| *count > 0)),
            Op::Add(value) => {
                next.set.push(*value);
                next.set.sort_unstable();
                b":1\r\n".to_vec()
            }
            Op::Pop => return self.after_pop(reply),
        };
        if reply.is_none_or(|reply| reply == expected) { vec![next] } else { Vec::new() }
    }

    fn after_pop(&self, reply: Option<&[u8]>) -> Vec<State> {
        let without = |value: u64| {
            let mut next = self.clone();
            next.set.retain(|member| *member != value);
            next
        };
        match reply {
            None if self.set.is_empty() => vec![self.clone()],
            None => self.set.iter().map(|value| without(*value)).collect(),
            Some(b"$-1\r\n") if self.set.is_empty() => vec![self.clone()],
            Some(reply) => {
                let taken = self.set.iter().find(|value| bulk(Some(**value)) == reply);
                taken.map(|value| without(*value)).into_iter().collect()
            }
        }
    }
}

fn bulk(value: Option<u64>) -> Vec<u8> {
    match value {
        None => b"$-1\r\n".to_vec(),
        Some(value) => {
            let text = value.to_string();
            format!("${}\r\n{text}\r\n", text.len()).into_bytes()
        }
    }
}

/// Whether each key's events can have taken effect one after the other, each between its start and
/// its end (Herlihy and Wing, 1990). The search is Wing and Gong's (1993) with Lowe's memory of
/// what was tried (2017).
///
/// # Errors
/// The events of a key for which there is no such order.
pub fn check(events: &[Event]) -> Result<(), String> {
    let mut by_key: BTreeMap<&str, Vec<&Event>> = BTreeMap::new();
    for event in events {
        // What was never answered and never seen need not have happened.
        let unseen = match event.op {
            Op::Set(value) => event.reply.is_none() && !was_read(events, &event.key, value),
            _ => event.reply.is_none() && event.op.reads(),
        };
        if !unseen {
            by_key.entry(&event.key).or_default().push(event);
        }
    }
    for (key, mut events) in by_key {
        events.sort_by_key(|event| (event.start, event.end));
        let mut search = Search::new(&events);
        let found = search.step(&State::default());
        if search.seen.len() >= STEPS_MAX {
            let open = events.iter().filter(|event| event.end == u64::MAX).count();
            let all = events.len();
            return Err(format!(
                "whether an order explains {key} was not found out: {all} events, {open} unanswered"
            ));
        }
        if !found {
            let lines = events.iter().map(|event| {
                let reply = event.reply.as_ref().map(|reply| String::from_utf8_lossy(reply));
                let end = if event.end == u64::MAX { "..".into() } else { event.end.to_string() };
                format!("  {} - {end} {:?} -> {reply:?}\n", event.start, event.op)
            });
            return Err(format!("no order explains {key}:\n{}", lines.collect::<String>()));
        }
    }
    Ok(())
}

/// Whether a GET of the key returned the value.
fn was_read(events: &[Event], key: &str, value: u64) -> bool {
    let reply = bulk(Some(value));
    events.iter().any(|event| {
        event.op == Op::Get && event.key == key && event.reply.as_ref() == Some(&reply)
    })
}

struct Search<'a> {
    events: &'a [&'a Event],
    done: Vec<bool>,
    /// Events that have an answer and are not done.
    open: usize,
    seen: HashSet<u64>,
}

impl<'a> Search<'a> {
    fn new(events: &'a [&'a Event]) -> Search<'a> {
        let open = events.iter().filter(|event| event.end != u64::MAX).count();
        Search { events, done: vec![false; events.len()], open, seen: HashSet::new() }
    }

    fn step(&mut self, state: &State) -> bool {
        if self.open == 0 {
            return true;
        }
        let mut hasher = DefaultHasher::new();
        (&self.done, state).hash(&mut hasher);
        if self.seen.len() >= STEPS_MAX || !self.seen.insert(hasher.finish()) {
            return false;
        }
        // The next to take effect has started before any that is not done has ended.
        let undone = || (0..self.events.len()).filter(|at| !self.done[*at]);
        let first_end = undone().map(|at| self.events[at].end).min().unwrap_or(u64::MAX);
        let mut candidates: Vec<usize> =
            undone().take_while(|at| self.events[*at].start <= first_end).collect();
        // What was answered first comes first most likely, and what never was, if at all, late.
        candidates.sort_by_key(|at| self.events[*at].end);
        for at in candidates {
            let event = self.events[at];
            for next in state.after(&event.op, event.reply.as_deref()) {
                let answered = usize::from(event.end != u64::MAX);
                self.done[at] = true;
                self.open -= answered;
                if self.step(&next) {
                    return true;
                }
                self.done[at] = false;
                self.open += answered;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(op: Op, start: u64, end: u64, reply: &str) -> Event {
        let reply = (!reply.is_empty()).then(|| reply.as_bytes().to_vec());
        Event { key: "k".into(), op, start, end, reply }
    }

    #[test]
    fn overlapping_operations_may_take_any_order() {
        let events = [
            event(Op::Set(1), 0, 10, "+OK\r\n"),
            event(Op::Set(2), 5, 20, "+OK\r\n"),
            event(Op::Get, 21, 22, "$1\r\n1\r\n"),
        ];
        assert!(check(&events).is_ok());
    }

    #[test]
    fn a_stale_read_has_no_order() {
        let events = [
            event(Op::Set(1), 0, 10, "+OK\r\n"),
            event(Op::Set(2), 11, 20, "+OK\r\n"),
            event(Op::Get, 21, 22, "$1\r\n1\r\n"),
        ];
        assert!(check(&events).is_err());
    }

    #[test]
    fn an_unanswered_write_may_come_late_or_never() {
        let write = event(Op::Set(1), 0, u64::MAX, "");
        let seen = event(Op::Get, 50, 60, "$1\r\n1\r\n");
        let unseen = event(Op::Get, 30, 40, "$-1\r\n");
        assert!(check(&[write.clone(), unseen.clone(), seen.clone()]).is_ok());
        assert!(check(&[write.clone(), unseen]).is_ok());
        let gone = event(Op::Get, 70, 80, "$-1\r\n");
        assert!(check(&[write, seen, gone]).is_err());
    }

    #[test]
    fn a_lost_push_and_a_double_pop_have_no_order() {
        let events = [
            event(Op::Push(1), 0, 1, ":1\r\n"),
            event(Op::Push(2), 2, 3, ":2\r\n"),
            event(Op::Range, 4, 5, "*1\r\n$1\r\n2\r\n"),
        ];
        assert!(check(&events).is_err());
        let pops = [
            event(Op::Add(7), 0, 1, ":1\r\n"),
            event(Op::Pop, 2, 3, "$1\r\n7\r\n"),
            event(Op::Pop, 2, 9, "$1\r\n7\r\n"),
        ];
        assert!(check(&pops).is_err());
    }
}
