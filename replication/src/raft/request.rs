//! What a group agrees on: calls with their stamp, and who asked for them.
//!
//! ```text
//! request   version u8 | protocol u8 | client u64 | sequence u64
//!           stamp: now_ms i64, seed u64, site u16, clock u64
//!           conditions: list of (database u32, key bytes, digest u64)
//!           calls: list of (database u32, list of argument bytes)
//! ```
//! It is the data of an entry. An entry without data is a new leader's first.

use crate::bytes::{Malformed, Reader, push_bytes, push_len, push_u64};
use ashlar_engine::reply::Protocol;
use ashlar_engine::stamp::Stamp;

const VERSION: u8 = 1;

/// Who asks, and which of its requests it is. Repeated under the same id, a request is applied
/// once and answered as the first time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestId {
    /// The client; 0 for a request that is not to be repeated.
    pub client: u64,
    /// Ascending for each client.
    pub sequence: u64,
}

/// A key that must still have the value that the client saw, or the calls are not run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Database of the key.
    pub db: u32,
    /// The key.
    pub key: Vec<u8>,
    /// Digest of its value, 0 where it was absent.
    pub digest: u64,
}

/// One call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedCall {
    /// The selected database.
    pub db: u32,
    /// The arguments, the name first.
    pub args: Vec<Vec<u8>>,
}

/// Calls that are applied as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Who asks.
    pub id: RequestId,
    /// In which form the replies are.
    pub protocol: Protocol,
    /// Time and random seed, filled by the node that accepted the request.
    pub stamp: Stamp,
    /// What must hold.
    pub conditions: Vec<Condition>,
    /// What to do.
    pub calls: Vec<OwnedCall>,
}

impl Request {
    /// A request of one call.
    pub fn one(id: RequestId, stamp: Stamp, args: &[&[u8]]) -> Request {
        let args = args.iter().map(|arg| arg.to_vec()).collect();
        let calls = vec![OwnedCall { db: 0, args }];
        Request { id, protocol: Protocol::Resp2, stamp, conditions: Vec::new(), calls }
    }

    /// The byte form.
    pub fn encode(&self) -> Vec<u8> {
        let protocol = if self.protocol == Protocol::Resp3 { 3 } else { 2 };
        let mut out = vec![VERSION, protocol];
        push_u64(&mut out, self.id.client);
        push_u64(&mut out, self.id.sequence);
        push_u64(&mut out, self.stamp.now_ms as u64);
        push_u64(&mut out, self.stamp.seed);
        out.extend_from_slice(&self.stamp.site.to_le_bytes());
        push_u64(&mut out, self.stamp.clock);
        push_len(&mut out, self.conditions.len());
        for condition in &self.conditions {
            out.extend_from_slice(&condition.db.to_le_bytes());
            push_bytes(&mut out, &condition.key);
            push_u64(&mut out, condition.digest);
        }
        push_len(&mut out, self.calls.len());
        for call in &self.calls {
            out.extend_from_slice(&call.db.to_le_bytes());
            push_len(&mut out, call.args.len());
            call.args.iter().for_each(|arg| push_bytes(&mut out, arg));
        }
        out
    }

    /// Reads the byte form.
    ///
    /// # Errors
    /// If the bytes are none.
    pub fn decode(bytes: &[u8]) -> Result<Request, Malformed> {
        let mut reader = Reader(bytes);
        if reader.u8()? != VERSION {
            return Err(Malformed);
        }
        let protocol = match reader.u8()? {
            2 => Protocol::Resp2,
            3 => Protocol::Resp3,
            _ => return Err(Malformed),
        };
        let id = RequestId { client: reader.u64()?, sequence: reader.u64()? };
        let (now_ms, seed) = (reader.u64()? as i64, reader.u64()?);
        let site = u16::from_le_bytes([reader.u8()?, reader.u8()?]);
        let stamp = Stamp { now_ms, seed, site, clock: reader.u64()? };
        let conditions = reader.list(16, |reader| {
            let (db, key) = (reader.u32()?, reader.bytes()?.to_vec());
            Ok(Condition { db, key, digest: reader.u64()? })
        })?;
        let calls = reader.list(8, |reader| {
            let db = reader.u32()?;
            let args = reader.list(4, |reader| Ok(reader.bytes()?.to_vec()))?;
            Ok(OwnedCall { db, args })
        })?;
        reader.end()?;
        Ok(Request { id, protocol, stamp, conditions, calls })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_comes_back() {
        let id = RequestId { client: 7, sequence: 9 };
        let mut request = Request::one(id, Stamp::new(1_000, 5), &[b"SET", b"k", b""]);
        request.conditions.push(Condition { db: 3, key: b"k".to_vec(), digest: 11 });
        let bytes = request.encode();
        assert_eq!(Request::decode(&bytes), Ok(request));
        for cut in 0..bytes.len() {
            assert_eq!(Request::decode(&bytes[..cut]), Err(Malformed));
        }
    }
}
