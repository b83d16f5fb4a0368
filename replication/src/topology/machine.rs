//! The topology as the replicated state of the meta group.

use super::{Change, Topology};
use crate::bytes::Malformed;
use crate::raft::{Machine, OwnedCall, Request};

/// Name of the one call that the meta group knows.
const NAME: &[u8] = b"TOPOLOGY";
const DONE: u8 = 0;
const REFUSED: u8 = 1;

/// The call that proposes a change to the meta group.
pub fn request(change: &Change) -> OwnedCall {
    OwnedCall { db: 0, args: vec![NAME.to_vec(), change.encode()] }
}

/// What the meta group's reply to a [`request`] says: the number of what was made, or why it is not.
///
/// # Errors
/// Why the change was refused, or that the bytes are no reply.
pub fn answer(reply: &[u8]) -> Result<u64, String> {
    match reply.split_first() {
        Some((&DONE, made)) => match made.try_into() {
            Ok(made) => Ok(u64::from_le_bytes(made)),
            Err(_) => Err(Malformed.to_string()),
        },
        Some((&REFUSED, text)) => Err(String::from_utf8_lossy(text).into_owned()),
        _ => Err(Malformed.to_string()),
    }
}

impl Machine for Topology {
    /// Changes come one in a request: the reply has no mark where the next one would begin.
    fn apply(&mut self, request: &Request, out: &mut Vec<u8>) {
        let result = match request.calls.as_slice() {
            [call] if call.args.len() == 2 && call.args[0] == NAME => {
                let change = Change::decode(&call.args[1]).map_err(|error| error.to_string());
                change.and_then(|change| Topology::apply(self, &change))
            }
            _ => Err("the meta group takes one change of the topology at a time".into()),
        };
        match result {
            Ok(made) => {
                out.push(DONE);
                out.extend_from_slice(&made.to_le_bytes());
            }
            Err(text) => {
                out.push(REFUSED);
                out.extend_from_slice(text.as_bytes());
            }
        }
    }

    /// A read gives the whole topology, encoded.
    fn read(&mut self, _: &Request, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.encode());
    }

    fn snapshot(&mut self) -> Vec<u8> {
        self.encode()
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        *self = if bytes.is_empty() { Topology::default() } else { Topology::decode(bytes)? };
        Ok(())
    }

    fn digest(&self) -> u64 {
        // FNV-1a (Fowler, Noll, Vo): replicas compare it, nobody attacks it.
        self.encode().iter().fold(0xCBF2_9CE4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3)
        })
    }
}
