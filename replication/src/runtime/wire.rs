//! What travels between nodes: the greeting, then frames.
//!
//! Each node dials every other one and sends on the connection that it dialled; what the other
//! has to say comes on the one that it dialled. So there are two one-way streams a pair, and no question
//! of which connection is the right one.
//!
//! ```text
//! acceptor -> dialler   nonce [32]
//! dialler -> acceptor   magic [8] | cluster [20] | from u64 | to u64 | port u16 | nonce [32]
//!                       | proof [32]
//! acceptor -> dialler   proof [32]
//! dialler -> acceptor   frames: length u32 | kind u8 | payload
//! ```
//! A proof is HMAC-SHA-256 (RFC 2104) of the greeting and both nonces under the cluster's secret.
//! All numbers are little-endian.

use crate::bytes::{Malformed, Reader, push_bytes, push_u64};
use crate::node::NodeId;
use crate::raft::{Answer, GroupId};
use sha2::{Digest, Sha256};

/// Version of the wire in its last byte.
pub const MAGIC: [u8; 8] = *b"ashlar\0\x01";
/// Bytes of a nonce and of a proof.
pub const NONCE_BYTES: usize = 32;
/// Bytes of the dialler's greeting.
pub const HELLO_BYTES: usize = 8 + 20 + 8 + 8 + 2 + NONCE_BYTES + 32;
/// Bytes of a frame's header.
pub const HEADER_BYTES: usize = 5;
/// Bytes of a frame at most.
pub const FRAME_BYTES_MAX: usize = 128 << 20;
/// Bytes of a snapshot in one frame.
pub const CHUNK_BYTES: usize = 256 << 10;

/// Messages of groups, as [`Node::receive`](crate::Node::receive) takes them.
pub const RAFT: u8 = 1;
/// The beginning of a snapshot: group u32, length u64, message.
pub const SNAPSHOT: u8 = 2;
/// The next bytes of the snapshot that was begun.
pub const CHUNK: u8 = 3;
/// A request that the receiver's leader is to propose: ticket u64, group u32, request.
pub const FORWARD: u8 = 4;
/// What became of it: ticket u64, answer.
pub const FORWARDED: u8 = 5;
/// Nothing but a sign of life.
pub const ALIVE: u8 = 6;
/// For the host of the receiving node.
pub const HOST: u8 = 7;

/// Asks whether the sender is a member of a group: group u32.
pub const ASK_MEMBER: u8 = 8;
/// The answer of one that leads it: group u32, index of the last applied entry u64, whether it is one u8.
pub const MEMBER: u8 = 9;

/// The dialler's greeting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The cluster.
    pub cluster: [u8; 20],
    /// Who dials.
    pub from: NodeId,
    /// Whom it means to reach.
    pub to: NodeId,
    /// The port that it is reached at: who was just added does not know that yet.
    pub port: u16,
    /// Its random bytes.
    pub nonce: [u8; NONCE_BYTES],
}

impl Hello {
    /// The bytes that are sent.
    pub fn encode(&self, secret: &[u8], their_nonce: &[u8; NONCE_BYTES]) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&self.cluster);
        push_u64(&mut out, self.from);
        push_u64(&mut out, self.to);
        out.extend_from_slice(&self.port.to_le_bytes());
        out.extend_from_slice(&self.nonce);
        let proof = proof(secret, &[b"dial", &out, their_nonce]);
        out.extend_from_slice(&proof);
        out
    }

    /// Reads a greeting; the second part is what the acceptor answers.
    ///
    /// # Errors
    /// If it is none of this version, or its proof is wrong.
    pub fn decode(
        bytes: &[u8],
        secret: &[u8],
        my_nonce: &[u8; NONCE_BYTES],
    ) -> Result<(Hello, [u8; 32]), Malformed> {
        let (greeting, theirs) = bytes.split_at_checked(HELLO_BYTES - 32).ok_or(Malformed)?;
        let mut reader = Reader(greeting);
        if reader.take(8)? != MAGIC {
            return Err(Malformed);
        }
        let mut cluster = [0; 20];
        cluster.copy_from_slice(reader.take(20)?);
        let (from, to) = (reader.u64()?, reader.u64()?);
        let port = u16::from_le_bytes([reader.u8()?, reader.u8()?]);
        let mut nonce = [0; NONCE_BYTES];
        nonce.copy_from_slice(reader.take(NONCE_BYTES)?);
        reader.end()?;
        if !same(theirs, &proof(secret, &[b"dial", greeting, my_nonce])) {
            return Err(Malformed);
        }
        let hello = Hello { cluster, from, to, port, nonce };
        Ok((hello, proof(secret, &[b"accept", greeting, my_nonce])))
    }

    /// What the acceptor has to answer to a greeting that was sent.
    pub fn expected(sent: &[u8], secret: &[u8], their_nonce: &[u8; NONCE_BYTES]) -> [u8; 32] {
        proof(secret, &[b"accept", &sent[..HELLO_BYTES - 32], their_nonce])
    }
}

/// HMAC-SHA-256 of the parts.
fn proof(secret: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    const BLOCK: usize = 64;
    let mut key = [0; BLOCK];
    if secret.len() > BLOCK {
        key[..32].copy_from_slice(&Sha256::digest(secret));
    } else {
        key[..secret.len()].copy_from_slice(secret);
    }
    let mut inner = Sha256::new_with_prefix(key.map(|byte| byte ^ 0x36));
    parts.iter().for_each(|part| inner.update(part));
    let mut outer = Sha256::new_with_prefix(key.map(|byte| byte ^ 0x5C));
    outer.update(inner.finalize());
    outer.finalize().into()
}

/// Whether two proofs are equal, in a time that does not tell where they differ.
pub fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |sum, (a, b)| sum | (a ^ b)) == 0
}

/// Appends a frame.
pub fn push_frame(out: &mut Vec<u8>, kind: u8, parts: &[&[u8]]) {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    let len = u32::try_from(len).expect("frames are bounded far below 4 GiB");
    out.extend_from_slice(&len.to_le_bytes());
    out.push(kind);
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

/// The frame at the start of `bytes`: its kind and payload; `None` where it is not all there.
///
/// # Errors
/// If it is too long.
pub fn first_frame(bytes: &[u8]) -> Result<Option<(u8, &[u8])>, Malformed> {
    let Some(head) = bytes.get(..HEADER_BYTES) else { return Ok(None) };
    let len = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
    if len > FRAME_BYTES_MAX {
        return Err(Malformed);
    }
    Ok(bytes.get(HEADER_BYTES..HEADER_BYTES + len).map(|payload| (head[4], payload)))
}

/// Appends an answer.
pub fn push_answer(out: &mut Vec<u8>, answer: &Answer) {
    match answer {
        Answer::Reply(reply) => {
            out.push(0);
            push_bytes(out, reply);
        }
        Answer::NotLeader(node) => {
            out.push(1);
            push_u64(out, node.unwrap_or(0));
        }
        Answer::Busy => out.push(2),
        Answer::Unknown => out.push(3),
        Answer::AppliedBefore => out.push(4),
        Answer::Forgotten => out.push(5),
        Answer::Refused => out.push(6),
        Answer::SiteLost => out.push(7),
    }
}

/// Reads an answer.
///
/// # Errors
/// If it is none.
pub fn read_answer(reader: &mut Reader<'_>) -> Result<Answer, Malformed> {
    Ok(match reader.u8()? {
        0 => Answer::Reply(reader.bytes()?.to_vec()),
        1 => Answer::NotLeader(Some(reader.u64()?).filter(|node| *node != 0)),
        2 => Answer::Busy,
        3 => Answer::Unknown,
        4 => Answer::AppliedBefore,
        5 => Answer::Forgotten,
        6 => Answer::Refused,
        7 => Answer::SiteLost,
        _ => return Err(Malformed),
    })
}

/// Reads the beginning of a [`FORWARD`] frame: ticket and group.
///
/// # Errors
/// If it is none.
pub fn read_forward(reader: &mut Reader<'_>) -> Result<(u64, GroupId), Malformed> {
    Ok((reader.u64()?, reader.u32()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_greeting_proves_the_secret() {
        let hello = Hello { cluster: [7; 20], from: 1, to: 2, port: 3, nonce: [3; 32] };
        let sent = hello.encode(b"secret", &[9; 32]);
        let (read, proof) = Hello::decode(&sent, b"secret", &[9; 32]).unwrap();
        assert_eq!(read, hello);
        assert_eq!(proof, Hello::expected(&sent, b"secret", &[9; 32]));
        assert!(Hello::decode(&sent, b"other", &[9; 32]).is_err());
        assert!(Hello::decode(&sent, b"secret", &[8; 32]).is_err());
        assert!(Hello::decode(&sent[..sent.len() - 1], b"secret", &[9; 32]).is_err());
    }

    #[test]
    fn hmac_is_that_of_rfc_4231() {
        // Test case 2.
        let proof = proof(b"Jefe", &[b"what do ya want ", b"for nothing?"]);
        assert_eq!(proof[..4], [0x5b, 0xdc, 0xc1, 0x46]);
        // Test case 6: a key longer than a block.
        let text = b"Test Using Larger Than Block-Size Key - Hash Key First";
        assert_eq!(super::proof(&[0xaa; 131], &[text])[..4], [0x60, 0xe4, 0x31, 0x59]);
    }

    #[test]
    fn frames_come_one_by_one() {
        let mut out = Vec::new();
        push_frame(&mut out, RAFT, &[b"ab", b"c"]);
        assert_eq!(first_frame(&out[..7]), Ok(None));
        assert_eq!(first_frame(&out), Ok(Some((RAFT, &b"abc"[..]))));
        assert_eq!(first_frame(&[0xFF; 8]), Err(Malformed));
    }

    #[test]
    fn answers_come_back() {
        for answer in [
            Answer::Reply(b"+OK\r\n".to_vec()),
            Answer::NotLeader(None),
            Answer::NotLeader(Some(4)),
            Answer::Busy,
            Answer::Unknown,
            Answer::AppliedBefore,
            Answer::Forgotten,
            Answer::Refused,
            Answer::SiteLost,
        ] {
            let mut bytes = Vec::new();
            push_answer(&mut bytes, &answer);
            let mut reader = Reader(&bytes);
            assert_eq!(read_answer(&mut reader), Ok(answer));
            assert_eq!(reader.end(), Ok(()));
        }
    }
}
