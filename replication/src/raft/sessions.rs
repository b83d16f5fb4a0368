//! Exactly once: the last requests of each client and what they were answered.
//!
//! Part of the replicated state: every replica has the same sessions, and so has a snapshot.
//! (After Ongaro, "Consensus: Bridging Theory and Practice", section 6.3.)

use super::request::RequestId;
use crate::bytes::{Malformed, Reader, push_bytes, push_len, push_u64};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;

/// Clients that are remembered; the one that was silent for longest goes first.
pub const SESSIONS_MAX: usize = 10_000;
/// Requests that are remembered of each client: as many may be under way at once.
pub const REQUESTS_MAX: usize = 64;
/// Bytes of a reply that is kept; a longer one is only known to have been given.
pub const REPLY_BYTES_MAX: usize = 16 * 1024;

/// The call by which a group takes over the sessions of another one, whose slots come to it; no client can
/// make it: `SESSIONS sessions`.
pub const TAKE_OVER: &[u8] = b"ASHLAR.SESSIONS";

/// A place in the order in which sessions were used last: the entry's index, and the client.
pub type Mark = (u64, u64);

/// What is known of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// Nothing: it is to be applied.
    New,
    /// It was applied, with this reply; `None` where the reply was too long to be kept.
    Applied(Option<Vec<u8>>),
    /// It is so old that nothing is known of it.
    Forgotten,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Session {
    /// Index of the entry that used the session last.
    used: u64,
    /// Sequence numbers up to this one are not known any more.
    forgotten: u64,
    requests: VecDeque<(u64, Option<Vec<u8>>)>,
}

impl Session {
    fn encode(&self, client: u64, out: &mut Vec<u8>) {
        [client, self.used, self.forgotten].into_iter().for_each(|n| push_u64(out, n));
        push_len(out, self.requests.len());
        for (sequence, reply) in &self.requests {
            push_u64(out, *sequence);
            out.push(u8::from(reply.is_some()));
            push_bytes(out, reply.as_deref().unwrap_or_default());
        }
    }
}

/// The sessions of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sessions {
    by_client: BTreeMap<u64, Session>,
    /// (last use, client), to find the one to forget, and those used since.
    by_use: BTreeSet<(u64, u64)>,
}

impl Sessions {
    /// What is known of a request.
    pub fn known(&self, id: RequestId) -> Known {
        let Some(session) = self.by_client.get(&id.client).filter(|_| id.client != 0) else {
            return Known::New;
        };
        let found = session.requests.iter().find(|(sequence, _)| *sequence == id.sequence);
        match found {
            Some((_, reply)) => Known::Applied(reply.clone()),
            None if id.sequence <= session.forgotten => Known::Forgotten,
            None => Known::New,
        }
    }

    /// Notes that the entry at `index` applied a request.
    pub fn applied(&mut self, id: RequestId, index: u64, reply: &[u8]) {
        if id.client == 0 {
            return;
        }
        let session = self.by_client.entry(id.client).or_default();
        self.by_use.remove(&(session.used, id.client));
        session.used = index;
        self.by_use.insert((index, id.client));
        let kept = (reply.len() <= REPLY_BYTES_MAX).then(|| reply.to_vec());
        session.requests.push_back((id.sequence, kept));
        if session.requests.len() > REQUESTS_MAX
            && let Some((sequence, _)) = session.requests.pop_front()
        {
            session.forgotten = session.forgotten.max(sequence);
        }
        self.forget_silent();
    }

    fn forget_silent(&mut self) {
        while self.by_client.len() > SESSIONS_MAX
            && let Some((_, client)) = self.by_use.pop_first()
        {
            self.by_client.remove(&client);
        }
    }

    /// Sessions that were used after the entry at `used` by a client above `client`, or later, in order, in the
    /// byte form; about `bytes` of them. With them comes where to go on, and whether more follow.
    pub fn used_after(&self, mark: Mark, bytes: usize) -> (Vec<u8>, Mark, bool) {
        let (mut out, mut count, mut last, mut more) = (Vec::new(), 0_u32, mark, false);
        push_len(&mut out, 0);
        for one in self.by_use.range((Bound::Excluded(mark), Bound::Unbounded)) {
            more = out.len() >= bytes;
            if more {
                break;
            }
            if let Some(session) = self.by_client.get(&one.1) {
                session.encode(one.1, &mut out);
                (count, last) = (count + 1, *one);
            }
        }
        out[..4].copy_from_slice(&count.to_le_bytes());
        (out, last, more)
    }

    /// Takes over sessions of another group, whose slots come here, by the entry at `index`.
    ///
    /// # Errors
    /// If the bytes are none.
    pub fn take_over(&mut self, bytes: &[u8], index: u64) -> Result<(), Malformed> {
        let mut reader = Reader(bytes);
        let others = Sessions::decode(&mut reader)?;
        reader.end()?;
        for (client, other) in others.by_client {
            let session = self.by_client.entry(client).or_default();
            self.by_use.remove(&(session.used, client));
            self.by_use.insert((index, client));
            session.used = index;
            session.forgotten = session.forgotten.max(other.forgotten);
            for request in other.requests {
                if session.requests.iter().all(|(sequence, _)| *sequence != request.0) {
                    session.requests.push_back(request);
                }
            }
            session.requests.make_contiguous().sort_by_key(|(sequence, _)| *sequence);
            let beyond = session.requests.len().saturating_sub(REQUESTS_MAX);
            for (sequence, _) in session.requests.drain(..beyond) {
                session.forgotten = session.forgotten.max(sequence);
            }
        }
        self.forget_silent();
        Ok(())
    }

    /// Appends the byte form: for each client its id, use, forgotten sequence and requests.
    pub fn encode(&self, out: &mut Vec<u8>) {
        push_len(out, self.by_client.len());
        self.by_client.iter().for_each(|(client, session)| session.encode(*client, out));
    }

    /// Reads the byte form.
    ///
    /// # Errors
    /// If the bytes are none.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Sessions, Malformed> {
        let mut sessions = Sessions::default();
        for (client, session) in reader.list(28, |reader| {
            let client = reader.u64()?;
            let (used, forgotten) = (reader.u64()?, reader.u64()?);
            let requests = reader.list(13, |reader| {
                let (sequence, kept) = (reader.u64()?, reader.u8()? != 0);
                let reply = reader.bytes()?.to_vec();
                Ok((sequence, kept.then_some(reply)))
            })?;
            Ok((client, Session { used, forgotten, requests: requests.into() }))
        })? {
            sessions.by_use.insert((session.used, client));
            sessions.by_client.insert(client, session);
        }
        Ok(sessions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(client: u64, sequence: u64) -> RequestId {
        RequestId { client, sequence }
    }

    #[test]
    fn a_request_is_known_until_it_is_forgotten() {
        let mut sessions = Sessions::default();
        for sequence in 1..=REQUESTS_MAX as u64 + 1 {
            assert_eq!(sessions.known(id(5, sequence)), Known::New);
            sessions.applied(id(5, sequence), sequence, b"+OK\r\n");
        }
        assert_eq!(sessions.known(id(5, 1)), Known::Forgotten);
        assert_eq!(sessions.known(id(5, 2)), Known::Applied(Some(b"+OK\r\n".to_vec())));
        assert_eq!(sessions.known(id(6, 1)), Known::New);
        sessions.applied(id(6, 1), 1_000, &vec![0; REPLY_BYTES_MAX + 1]);
        assert_eq!(sessions.known(id(6, 1)), Known::Applied(None));
        let mut bytes = Vec::new();
        sessions.encode(&mut bytes);
        assert_eq!(Sessions::decode(&mut Reader(&bytes)), Ok(sessions));
    }

    #[test]
    fn sessions_go_to_another_group_piece_by_piece() {
        let (mut from, mut to) = (Sessions::default(), Sessions::default());
        for client in 1..=100 {
            from.applied(id(client, 7), client, b"+OK\r\n");
        }
        to.applied(id(5, 9), 1, b":1\r\n");
        let (mut mark, mut pieces, mut more) = ((0, 0), 0, true);
        while more {
            let piece;
            (piece, mark, more) = from.used_after(mark, 500);
            pieces += 1;
            to.take_over(&piece, 10 + pieces).unwrap();
        }
        assert!(pieces > 5, "{pieces}");
        for client in 1..=100 {
            assert_eq!(to.known(id(client, 7)), Known::Applied(Some(b"+OK\r\n".to_vec())));
        }
        assert_eq!(to.known(id(5, 9)), Known::Applied(Some(b":1\r\n".to_vec())));
        assert_eq!(to.known(id(5, 8)), Known::New);
        // What was used since then is all that is still to come.
        from.applied(id(3, 8), 200, b"+OK\r\n");
        let (piece, last, more) = from.used_after(mark, 500);
        assert_eq!((last, more, Reader(&piece).u32()), ((200, 3), false, Ok(1)));
        assert_eq!(to.take_over(&piece[..piece.len() - 1], 300), Err(Malformed));
    }

    #[test]
    fn of_what_both_groups_know_the_latest_stays() {
        let (mut from, mut to) = (Sessions::default(), Sessions::default());
        for sequence in 1..=40 {
            from.applied(id(5, sequence), sequence, b"+A\r\n");
            to.applied(id(5, sequence + 40), sequence, b"+B\r\n");
        }
        let (piece, ..) = from.used_after((0, 0), usize::MAX);
        to.take_over(&piece, 100).unwrap();
        assert_eq!(to.known(id(5, 16)), Known::Forgotten);
        assert_eq!(to.known(id(5, 17)), Known::Applied(Some(b"+A\r\n".to_vec())));
        assert_eq!(to.known(id(5, 80)), Known::Applied(Some(b"+B\r\n".to_vec())));
    }

    #[test]
    fn the_silent_client_goes_first() {
        let mut sessions = Sessions::default();
        for client in 1..=SESSIONS_MAX as u64 {
            sessions.applied(id(client, 1), client, b"");
        }
        sessions.applied(id(1, 2), 20_000, b"");
        sessions.applied(id(99_999, 1), 20_001, b"");
        assert_eq!(sessions.known(id(2, 1)), Known::New);
        assert_eq!(sessions.known(id(1, 1)), Known::Applied(Some(Vec::new())));
        assert_eq!(sessions.by_client.len(), SESSIONS_MAX);
    }
}
