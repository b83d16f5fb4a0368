//! Sorted sets, typed.

use super::call::Call;
use super::strings::{count, with_all};
use super::value::{ReplyValue, unexpected};
use crate::error::Error;
use crate::number::{FloatBuf, format_f64};
use std::ops::{Bound, RangeBounds};

/// Calls on keys that hold sorted sets: members, each with a score, in the order of the scores.
///
/// ```
/// use ashlar_engine::prelude::*;
///
/// let store = Store::in_memory();
/// store.zadd("board", &[(10.0, "ann"), (30.0, "bob"), (20.0, "cid")])?;
/// assert_eq!(store.zincr_by("board", 15.0, "ann")?, 25.0);
/// assert_eq!(store.zrank("board", "ann")?, Some(1));
/// assert_eq!(store.zrange("board", 0, 1)?, [(b"cid".to_vec(), 20.0), (b"ann".to_vec(), 25.0)]);
/// assert_eq!(store.zrange_by_score("board", 25.5..)?, [(b"bob".to_vec(), 30.0)]);
/// assert_eq!(store.zpop_min("board")?, Some((b"cid".to_vec(), 20.0)));
/// # Ok::<(), ashlar_engine::Error>(())
/// ```
pub trait SortedSets: Call {
    /// Adds members or changes their scores; how many of them are new.
    ///
    /// # Errors
    /// [`Error::WrongType`] if the key holds another type; so for all calls of this trait.
    /// [`Error::NotFloat`] for a score that is not a number.
    fn zadd<M: AsRef<[u8]>>(
        &self,
        key: impl AsRef<[u8]>,
        members: &[(f64, M)],
    ) -> Result<usize, Error> {
        if members.is_empty() {
            return Ok(0);
        }
        let scores: Vec<String> = members.iter().map(|(score, _)| print(*score)).collect();
        let mut args: Vec<&[u8]> = vec![b"ZADD", key.as_ref()];
        for ((_, member), score) in members.iter().zip(&scores) {
            args.extend([score.as_bytes(), member.as_ref()]);
        }
        count(self.call(&args)?)
    }

    /// The score of a member.
    fn zscore(
        &self,
        key: impl AsRef<[u8]>,
        member: impl AsRef<[u8]>,
    ) -> Result<Option<f64>, Error> {
        self.call(&[b"ZSCORE", key.as_ref(), member.as_ref()])?.into_double()
    }

    /// The members from rank `start` to rank `stop`, both included, with their scores; negative
    /// ranks count from the end.
    fn zrange(
        &self,
        key: impl AsRef<[u8]>,
        start: i64,
        stop: i64,
    ) -> Result<Vec<(Vec<u8>, f64)>, Error> {
        let (start, stop) = (start.to_string(), stop.to_string());
        let args = [b"ZRANGE", key.as_ref(), start.as_bytes(), stop.as_bytes(), b"WITHSCORES"];
        scored(self.call(&args)?)
    }

    /// The members with scores in a range, with these.
    fn zrange_by_score(
        &self,
        key: impl AsRef<[u8]>,
        scores: impl RangeBounds<f64>,
    ) -> Result<Vec<(Vec<u8>, f64)>, Error> {
        let bound = |bound: Bound<&f64>, open: &str| match bound {
            Bound::Included(score) => print(*score),
            Bound::Excluded(score) => format!("({}", print(*score)),
            Bound::Unbounded => open.to_owned(),
        };
        let low = bound(scores.start_bound(), "-inf");
        let high = bound(scores.end_bound(), "+inf");
        let args = [b"ZRANGEBYSCORE", key.as_ref(), low.as_bytes(), high.as_bytes(), b"WITHSCORES"];
        scored(self.call(&args)?)
    }

    /// The rank of a member, 0 for the lowest score.
    fn zrank(
        &self,
        key: impl AsRef<[u8]>,
        member: impl AsRef<[u8]>,
    ) -> Result<Option<usize>, Error> {
        let rank = self.call(&[b"ZRANK", key.as_ref(), member.as_ref()])?.into_optional_int()?;
        rank.map(|rank| usize::try_from(rank).map_err(|_| unexpected())).transpose()
    }

    /// Removes members; how many there were.
    fn zrem<M: AsRef<[u8]>>(&self, key: impl AsRef<[u8]>, members: &[M]) -> Result<usize, Error> {
        if members.is_empty() {
            return Ok(0);
        }
        count(self.call(&with_all(&[b"ZREM", key.as_ref()], members))?)
    }

    /// Adds to the score of a member, 0 where it is none yet; returns the sum.
    fn zincr_by(
        &self,
        key: impl AsRef<[u8]>,
        increment: f64,
        member: impl AsRef<[u8]>,
    ) -> Result<f64, Error> {
        let increment = print(increment);
        let args = [b"ZINCRBY", key.as_ref(), increment.as_bytes(), member.as_ref()];
        self.call(&args)?.into_double()?.ok_or_else(unexpected)
    }

    /// Number of members.
    fn zcard(&self, key: impl AsRef<[u8]>) -> Result<usize, Error> {
        count(self.call(&[b"ZCARD", key.as_ref()])?)
    }

    /// Takes the member with the lowest score.
    fn zpop_min(&self, key: impl AsRef<[u8]>) -> Result<Option<(Vec<u8>, f64)>, Error> {
        pair(self.call(&[b"ZPOPMIN", key.as_ref()])?)
    }

    /// Takes the member with the highest score.
    fn zpop_max(&self, key: impl AsRef<[u8]>) -> Result<Option<(Vec<u8>, f64)>, Error> {
        pair(self.call(&[b"ZPOPMAX", key.as_ref()])?)
    }
}

impl<C: Call + ?Sized> SortedSets for C {}

fn print(score: f64) -> String {
    String::from_utf8_lossy(format_f64(&mut FloatBuf::new(), score)).into_owned()
}

/// A member and its score, from `[member, score]`; `None` from an empty array.
fn pair(reply: ReplyValue) -> Result<Option<(Vec<u8>, f64)>, Error> {
    let mut parts = reply.into_elements()?.into_iter();
    match (parts.next(), parts.next()) {
        (None, _) => Ok(None),
        (Some(member), Some(score)) => {
            let member = member.into_bytes()?.ok_or_else(unexpected)?;
            Ok(Some((member, score.into_double()?.ok_or_else(unexpected)?)))
        }
        _ => Err(unexpected()),
    }
}

/// Members with scores, from an array of such pairs.
fn scored(reply: ReplyValue) -> Result<Vec<(Vec<u8>, f64)>, Error> {
    let pairs = reply.into_elements()?.into_iter();
    pairs.map(|reply| pair(reply)?.ok_or_else(unexpected)).collect()
}
