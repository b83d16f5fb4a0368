//! The names of histories, and what the log has to do with positions.

use crate::number;
use std::collections::VecDeque;

/// Names of earlier histories that are remembered.
pub const HISTORIES_MAX: usize = 16;
/// Points that are remembered: one for each start, snapshot and change of role.
const POINTS_MAX: usize = 4096;
/// The name of the call that has a history in the log.
pub const NAME: &[u8] = b"ASHLAR.HISTORY";

/// A line of records, by name: nodes that have the same position of the same history have the same
/// data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// Its name; empty where there is none.
    pub id: String,
    /// Whether it is that of a primary, which alone adds to it.
    pub followed: bool,
    /// Histories that it goes on from, the latest first, each with the position up to which they
    /// are one.
    pub earlier: Vec<(String, u64)>,
}

impl History {
    /// Goes on under another name from `position`.
    pub(super) fn succeed(&mut self, id: &str, position: u64) {
        let before = std::mem::replace(&mut self.id, id.to_owned());
        if !before.is_empty() {
            self.earlier.insert(0, (before, position));
            self.earlier.truncate(HISTORIES_MAX);
        }
        self.followed = false;
    }

    /// The position up to which the history `id` is this one; `end` is the last of this one.
    pub(super) fn valid_to(&self, id: &[u8], end: u64) -> Option<u64> {
        if !self.id.is_empty() && self.id.as_bytes() == id {
            return Some(end);
        }
        let found = self.earlier.iter().find(|(name, _)| name.as_bytes() == id);
        found.map(|(_, position)| *position)
    }
}

/// A position of a history.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// The history.
    pub history: History,
    /// Records of it so far.
    pub position: u64,
}

impl Position {
    /// As a call in the log: name, id, position, whether it is followed, then the earlier ones.
    pub fn encode(&self) -> Vec<Vec<u8>> {
        let mut words = vec![NAME.to_vec()];
        words.extend(self.words());
        words
    }

    /// The words behind the name.
    pub fn words(&self) -> Vec<Vec<u8>> {
        let number = |number: u64| number.to_string().into_bytes();
        let History { id, followed, earlier } = &self.history;
        let mut words =
            vec![id.clone().into(), number(self.position), number(u64::from(*followed))];
        for (id, position) in earlier {
            words.extend([id.clone().into(), number(*position)]);
        }
        words
    }

    /// Reads [`Position::words`]; `None` if they are something else.
    pub fn decode(words: &[&[u8]]) -> Option<Position> {
        let name = |word: &[u8]| String::from_utf8(word.to_vec()).ok().filter(|id| id.len() <= 40);
        let number = |word: &[u8]| u64::try_from(number::parse_i64(word)?).ok();
        let [id, position, followed, earlier @ ..] = words else { return None };
        if earlier.len() % 2 != 0 || earlier.len() > 2 * HISTORIES_MAX {
            return None;
        }
        let pairs = earlier.chunks_exact(2);
        let earlier = pairs.map(|pair| Some((name(pair[0])?, number(pair[1])?)));
        let history = History {
            id: name(id)?,
            followed: number(followed)? != 0,
            earlier: earlier.collect::<Option<_>>()?,
        };
        Some(Position { history, position: number(position)? })
    }
}

/// A record of the log that is none of the history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Point {
    /// Its index in the log.
    pub index: u64,
    /// The position behind which it stands.
    pub position: u64,
}

/// The latest points, ascending.
#[derive(Debug, Default)]
pub(super) struct Points(VecDeque<Point>);

impl Points {
    pub fn push(&mut self, point: Point) {
        if self.0.len() == POINTS_MAX {
            self.0.pop_front();
        }
        self.0.push_back(point);
    }

    /// What was before has no positions any more.
    pub fn reset(&mut self, index: u64, position: u64) {
        self.0.clear();
        self.push(Point { index, position });
    }

    /// The position at a record of the log.
    pub fn position_of(&self, index: u64) -> u64 {
        let point = self.0.iter().rev().find(|point| point.index <= index);
        match point {
            Some(point) => point.position + (index - point.index),
            None => 0,
        }
    }

    /// The index of the record behind a position.
    pub fn index_behind(&self, position: u64) -> Option<u64> {
        let point = self.0.iter().rev().find(|point| point.position <= position)?;
        Some(point.index + (position - point.position) + 1)
    }
}
