//! States of an interpreter for the replicas of a group, to which it is put back.
//!
//! To compile a script takes as long as to run it. So of one that comes again a copy is kept of the state in which it has
//! just been compiled. What runs from there sees the very same as what runs behind a compilation.

use super::cache::Sha;
use super::lua::StateCopy;
use super::shebang::ScriptFlags;
use std::collections::VecDeque;
use std::ffi::c_int;

/// Most bytes of the copies of one interpreter; each has some 50 KB.
pub const COPIES_BYTES_MAX: usize = 4 << 20;
/// Scripts that were compiled last: if one of them comes again, a copy is taken.
const SEEN_MAX: usize = 64;

/// A script that was compiled.
pub struct Known {
    /// The function, by its number in the interpreter.
    pub function: c_int,
    /// What it says of itself.
    pub flags: ScriptFlags,
    /// The state behind its compilation.
    pub state: StateCopy,
}

/// The states of one interpreter.
pub struct Copies {
    /// As it was made.
    pub base: StateCopy,
    /// The script to which it was put back last; none for the base.
    pub current: Option<Sha>,
    /// The one that was used last comes last.
    known: Vec<(Sha, Known)>,
    bytes: usize,
    seen: VecDeque<Sha>,
}

impl Copies {
    /// Those of one that has just been made.
    pub fn new(base: StateCopy) -> Copies {
        let (known, bytes, seen) = (Vec::new(), 0, VecDeque::new());
        Copies { base, current: None, known, bytes, seen }
    }

    /// What is known of a script.
    pub fn find(&mut self, sha: &Sha) -> Option<&Known> {
        let at = self.known.iter().rposition(|(other, _)| other == sha)?;
        if at + 1 < self.known.len() {
            let used = self.known.remove(at);
            self.known.push(used);
        }
        self.known.last().map(|(_, known)| known)
    }

    /// Whether the state is another than the one for a script.
    pub fn is_elsewhere(&mut self, sha: &Sha) -> bool {
        match self.current {
            Some(current) => current != *sha,
            None => self.find(sha).is_some(),
        }
    }

    /// Whether a script that was compiled now was so of late: otherwise it is remembered.
    pub fn comes_again(&mut self, sha: &Sha) -> bool {
        let again = self.seen.contains(sha);
        if !again {
            if self.seen.len() == SEEN_MAX {
                self.seen.pop_front();
            }
            self.seen.push_back(*sha);
        }
        again
    }

    /// Keeps what is known of the script that has just been compiled; those that were used least lately make room.
    pub fn add(&mut self, sha: Sha, known: Known) {
        self.bytes += known.state.bytes();
        self.known.push((sha, known));
        self.current = Some(sha);
        let mut gone = 0;
        while self.bytes > COPIES_BYTES_MAX && gone + 1 < self.known.len() {
            self.bytes -= self.known[gone].1.state.bytes();
            gone += 1;
        }
        self.known.drain(..gone);
    }

    /// Bytes of all copies but the first.
    #[cfg(test)]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}
