//! The state of any group of a node.

use super::Data;
use crate::bytes::Malformed;
use crate::raft::{Capture, Machine, Request};
use crate::topology::Topology;

/// The state of any group: the topology, or data.
pub enum State<D> {
    /// That of the meta group.
    Meta(Box<Topology>),
    /// That of a group with data.
    Data(D),
}

impl<D: Data> Machine for State<D> {
    fn apply(&mut self, request: &Request, out: &mut Vec<u8>) {
        match self {
            State::Meta(topology) => Machine::apply(&mut **topology, request, out),
            State::Data(data) => data.apply(request, out),
        }
    }

    fn refuses(&self, request: &Request) -> bool {
        match self {
            State::Meta(topology) => topology.refuses(request),
            State::Data(data) => data.refuses(request),
        }
    }

    fn read(&mut self, request: &Request, out: &mut Vec<u8>) {
        match self {
            State::Meta(topology) => topology.read(request, out),
            State::Data(data) => data.read(request, out),
        }
    }

    fn snapshot(&mut self) -> Vec<u8> {
        match self {
            State::Meta(topology) => topology.snapshot(),
            State::Data(data) => data.snapshot(),
        }
    }

    fn capture(&mut self) -> Option<Capture> {
        match self {
            State::Meta(topology) => topology.capture(),
            State::Data(data) => data.capture(),
        }
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        match self {
            State::Meta(topology) => topology.restore(bytes),
            State::Data(data) => data.restore(bytes),
        }
    }

    fn digest(&self) -> u64 {
        match self {
            State::Meta(topology) => topology.digest(),
            State::Data(data) => data.digest(),
        }
    }
}
