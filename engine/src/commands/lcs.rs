//! LCS: the longest common subsequence of two strings.
//!
//! Dynamic programming over all pairs of positions, as in Redis, so that of several longest ones
//! the same is found. Two rows of lengths are kept, and for the way back one bit a pair: whether
//! the length came from the row above.

use super::string::string;
use crate::command::{Command, Flags, Group, Keys};
use crate::context::Cx;
use crate::error::{CmdResult, Error};
use crate::number;
use crate::reply::Reply;
use crate::value::packed::IntBuf;

/// The family's commands.
pub const COMMANDS: &[Command] = &[Command::new("LCS", -3, Group::String, lcs)
    .flags(Flags::READONLY)
    .keys(Keys::FIRST_TWO)
    .syntax("key1:key key2:key [LEN] [IDX] [MINMATCHLEN min-match-len:integer] [WITHMATCHLEN]")
    .docs("7.0.0", "O(N*M) for strings of N and M bytes", "Finds the longest common subsequence.")];

/// What Redis needs for each pair of positions; it limits the product of the lengths.
const REDIS_BYTES_A_PAIR: usize = 4;

#[derive(Default)]
struct Options {
    len: bool,
    idx: bool,
    with_match_len: bool,
    match_len_min: i64,
}

impl Options {
    fn parse(args: &[&[u8]]) -> Result<Options, Error> {
        let mut options = Options::default();
        let mut rest = args.iter();
        while let Some(word) = rest.next() {
            let is = |name: &str| word.eq_ignore_ascii_case(name.as_bytes());
            if is("IDX") {
                options.idx = true;
            } else if is("LEN") {
                options.len = true;
            } else if is("WITHMATCHLEN") {
                options.with_match_len = true;
            } else if is("MINMATCHLEN") {
                let arg = rest.next().ok_or(Error::Syntax)?;
                options.match_len_min = number::parse_i64(arg).ok_or(Error::NotInteger)?.max(0);
            } else {
                return Err(Error::Syntax);
            }
        }
        if options.idx && options.len {
            return Err(Error::text(
                "ERR If you want both the length and indexes, please just use IDX.",
            ));
        }
        Ok(options)
    }
}

fn lcs(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let (mut buf_a, mut buf_b) = (IntBuf::new(), IntBuf::new());
    let wrong = |_| Error::text("ERR The specified keys must contain string values");
    let a = cx.get(args[1]).map(|entry| string(entry, &mut buf_a));
    let b = cx.get(args[2]).map(|entry| string(entry, &mut buf_b));
    let a = a.transpose().map_err(wrong)?.unwrap_or_default();
    let b = b.transpose().map_err(wrong)?.unwrap_or_default();
    let options = Options::parse(&args[3..])?;
    let pairs = (a.len() + 1).checked_mul(b.len() + 1);
    let bytes = pairs.and_then(|pairs| pairs.checked_mul(REDIS_BYTES_A_PAIR));
    if bytes.is_none_or(|bytes| bytes > cx.config().proto_max_bulk_len) {
        return Err(Error::text(
            "ERR Insufficient memory, transient memory for LCS exceeds proto-max-bulk-len",
        )
        .into());
    }
    let table = Table::new(a, b);
    if options.len {
        reply.int(table.len as i64);
    } else if options.idx {
        let mut matches = table.matches();
        matches.retain(|found| found.len() as i64 >= options.match_len_min);
        reply.map(2);
        reply.bulk(b"matches");
        reply.array(matches.len());
        for found in &matches {
            found.write(options.with_match_len, reply);
        }
        reply.bulk(b"len");
        reply.int(table.len as i64);
    } else {
        let mut text: Vec<u8> = table.pairs().map(|(at, _)| a[at]).collect();
        text.reverse();
        reply.bulk(&text);
    }
    Ok(())
}

/// Equal parts of both strings, by their first and last positions.
struct Match {
    a: (usize, usize),
    b: (usize, usize),
}

impl Match {
    fn len(&self) -> usize {
        self.a.1 - self.a.0 + 1
    }

    fn write(&self, with_len: bool, reply: &mut Reply<'_>) {
        reply.array(2 + usize::from(with_len));
        for (first, last) in [self.a, self.b] {
            reply.array(2);
            reply.int(first as i64);
            reply.int(last as i64);
        }
        if with_len {
            reply.int(self.len() as i64);
        }
    }
}

struct Table<'a> {
    a: &'a [u8],
    b: &'a [u8],
    /// For each pair of positions, whether the way back leads up.
    up: Vec<u64>,
    len: usize,
}

impl<'a> Table<'a> {
    fn new(a: &'a [u8], b: &'a [u8]) -> Table<'a> {
        let mut up = vec![0u64; (a.len() * b.len()).div_ceil(64)];
        let mut above = vec![0u32; b.len() + 1];
        let mut row = above.clone();
        for (i, x) in a.iter().enumerate() {
            for (j, y) in b.iter().enumerate() {
                row[j + 1] = if x == y {
                    above[j] + 1
                } else {
                    let at = i * b.len() + j;
                    up[at / 64] |= u64::from(above[j + 1] > row[j]) << (at % 64);
                    above[j + 1].max(row[j])
                };
            }
            std::mem::swap(&mut above, &mut row);
        }
        Table { a, b, up, len: above.last().map_or(0, |len| *len as usize) }
    }

    /// The positions of the common bytes, from the end.
    fn pairs(&self) -> impl Iterator<Item = (usize, usize)> {
        let (mut i, mut j) = (self.a.len(), self.b.len());
        std::iter::from_fn(move || {
            while i > 0 && j > 0 {
                if self.a[i - 1] == self.b[j - 1] {
                    (i, j) = (i - 1, j - 1);
                    return Some((i, j));
                }
                let at = (i - 1) * self.b.len() + j - 1;
                if self.up[at / 64] >> (at % 64) & 1 == 1 {
                    i -= 1;
                } else {
                    j -= 1;
                }
            }
            None
        })
    }

    /// The common bytes joined to runs, from the end.
    fn matches(&self) -> Vec<Match> {
        let mut matches: Vec<Match> = Vec::new();
        for (i, j) in self.pairs() {
            match matches.last_mut() {
                Some(last) if last.a.0 == i + 1 && last.b.0 == j + 1 => {
                    (last.a.0, last.b.0) = (i, j);
                }
                _ => matches.push(Match { a: (i, i), b: (j, j) }),
            }
        }
        matches
    }
}
