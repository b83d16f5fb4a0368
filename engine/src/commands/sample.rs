//! Random elements of a collection: what SRANDMEMBER, HRANDFIELD and their like share.

use crate::error::Error;
use crate::known_bugs::{self, Bug};
use crate::number;
use crate::reply::Reply;
use crate::stamp::Rng;
use foldhash::fast::FixedState;
use std::collections::HashSet;

/// Bytes that the reply to a count with repetitions may take: beyond this the count is refused.
const REPLY_BYTES_MAX: usize = 1 << 30;
/// Bytes of the shortest element of a reply, an empty string. A count that leads beyond the bound with
/// these alone is refused before anything is written.
const ELEMENT_BYTES_MIN: u64 = 6;

/// How many random elements are asked for: with repetitions where negative.
pub(crate) fn parse_count(arg: &[u8]) -> Result<i64, Error> {
    match number::parse_i64(arg).ok_or(Error::NotInteger)? {
        i64::MIN if !known_bugs::is_back(Bug::RandomCountOverflows) => Err(Error::text(
            "ERR value is out of range, value must between -9223372036854775807 and \
             9223372036854775807",
        )),
        count => Ok(count),
    }
}

/// `count` different positions below `len`, which must be more, in random order.
pub(crate) fn distinct(rng: &mut Rng, len: usize, count: usize) -> Vec<usize> {
    if count > len / 4 {
        let mut positions: Vec<usize> = (0..len).collect();
        for at in 0..count {
            let other = at + rng.below(len - at);
            positions.swap(at, other);
        }
        positions.truncate(count);
        return positions;
    }
    let mut taken = HashSet::with_capacity_and_hasher(count, FixedState::with_seed(0));
    let mut positions = Vec::with_capacity(count);
    while positions.len() < count {
        let position = rng.below(len);
        if taken.insert(position) {
            positions.push(position);
        }
    }
    positions
}

/// Writes `count` random elements, each as `write` does for a position below `len`, which must not
/// be 0. Elements may come more than once.
pub(crate) fn repeated(
    rng: &mut Rng,
    len: usize,
    count: u64,
    reply: &mut Reply<'_>,
    mut write: impl FnMut(usize, &mut Reply<'_>),
) -> Result<(), Error> {
    const TOO_LONG: Error = Error::text("ERR value is out of range");
    if count > REPLY_BYTES_MAX as u64 / ELEMENT_BYTES_MIN {
        return Err(TOO_LONG);
    }
    for _ in 0..count {
        write(rng.below(len), reply);
        if reply.written() > REPLY_BYTES_MAX {
            return Err(TOO_LONG);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distinct_positions_are_distinct_and_cover_all() {
        let mut rng = Rng::new(7);
        for (len, count) in [(2, 1), (10, 9), (100, 3), (1000, 250), (1000, 251)] {
            let mut positions = distinct(&mut rng, len, count);
            positions.sort_unstable();
            positions.dedup();
            assert_eq!(positions.len(), count);
            assert!(positions.iter().all(|&position| position < len));
        }
        let mut seen = [0; 8];
        for _ in 0..4000 {
            for position in distinct(&mut rng, 8, 2) {
                seen[position] += 1;
            }
        }
        assert!(seen.iter().all(|&times| (850..1150).contains(&times)), "{seen:?}");
    }

    #[test]
    fn a_reply_stays_bounded() {
        let mut out = Vec::new();
        let mut reply = Reply::new(&mut out, Default::default());
        let big = vec![0; 64 << 20];
        let mut times = 0;
        let error = repeated(&mut Rng::new(1), 3, 1_000, &mut reply, |_, reply| {
            times += 1;
            reply.bulk(&big);
        });
        assert!(error.is_err() && times <= 17);
        for count in [u64::MAX, i64::MAX as u64, 1 << 30] {
            let write = |_, _: &mut Reply<'_>| panic!("nothing is written for {count} elements");
            assert!(repeated(&mut Rng::new(1), 3, count, &mut reply, write).is_err());
        }
    }
}
