//! Exactly once: the last requests of each client and what they were answered.
//!
//! Part of the replicated state: every replica has the same sessions, and so has a snapshot.
//! (After Ongaro, "Consensus: Bridging Theory and Practice", section 6.3.)

use super::request::RequestId;
use crate::bytes::{Malformed, Reader, push_bytes, push_len, push_u64};
use std::collections::{BTreeMap, VecDeque};

/// Clients that are remembered; the one that was silent for longest goes first.
pub const SESSIONS_MAX: usize = 10_000;
/// Requests that are remembered of each client: as many may be under way at once.
pub const REQUESTS_MAX: usize = 64;
/// Bytes of a reply that is kept; a longer one is only known to have been given.
pub const REPLY_BYTES_MAX: usize = 16 * 1024;

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

/// The sessions of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sessions {
    by_client: BTreeMap<u64, Session>,
    /// (last use, client), to find the one to forget.
    by_use: BTreeMap<u64, u64>,
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
        self.by_use.remove(&session.used);
        session.used = index;
        self.by_use.insert(index, id.client);
        let kept = (reply.len() <= REPLY_BYTES_MAX).then(|| reply.to_vec());
        session.requests.push_back((id.sequence, kept));
        if session.requests.len() > REQUESTS_MAX
            && let Some((sequence, _)) = session.requests.pop_front()
        {
            session.forgotten = session.forgotten.max(sequence);
        }
        if self.by_client.len() > SESSIONS_MAX
            && let Some((_, client)) = self.by_use.pop_first()
        {
            self.by_client.remove(&client);
        }
    }

    /// Appends the byte form: for each client its id, use, forgotten sequence and requests.
    pub fn encode(&self, out: &mut Vec<u8>) {
        push_len(out, self.by_client.len());
        for (client, session) in &self.by_client {
            [*client, session.used, session.forgotten].into_iter().for_each(|n| push_u64(out, n));
            push_len(out, session.requests.len());
            for (sequence, reply) in &session.requests {
                push_u64(out, *sequence);
                out.push(u8::from(reply.is_some()));
                push_bytes(out, reply.as_deref().unwrap_or_default());
            }
        }
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
            sessions.by_use.insert(session.used, client);
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
