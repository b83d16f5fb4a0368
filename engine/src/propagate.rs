//! What a server that follows as Redis's replicas do has to be told of a call.
//!
//! ashlar's own log repeats the call itself, with its stamp. A real Redis has no stamp: it gets
//! commands that do the same at any time and on any machine, such as SREM for SPOP or PEXPIREAT for
//! EXPIRE. Most calls are that already; a command that is not says what to tell instead
//! ([`Cx::tell`](crate::context::Cx::tell)).

/// Commands in the order in which they are to be repeated, as requests of the protocol.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Runs of commands on one database.
    runs: Vec<(u32, Vec<u8>)>,
    commands: usize,
}

impl Batch {
    /// Adds a command.
    pub fn push(&mut self, db: u32, args: &[&[u8]]) {
        if self.runs.last().is_none_or(|(last, _)| *last != db) {
            self.runs.push((db, Vec::new()));
        }
        if let Some((_, bytes)) = self.runs.last_mut() {
            push_request(args, bytes);
            self.commands += 1;
        }
    }

    /// Moves the commands of `other` to the end of these.
    pub fn append(&mut self, other: &mut Batch) {
        self.runs.append(&mut other.runs);
        self.commands += std::mem::take(&mut other.commands);
    }

    /// Number of commands.
    pub fn len(&self) -> usize {
        self.commands
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.commands == 0
    }

    /// Takes all commands out.
    pub fn clear(&mut self) {
        self.runs.clear();
        self.commands = 0;
    }

    /// Runs of commands, each with its database.
    pub fn runs(&self) -> impl Iterator<Item = (u32, &[u8])> {
        self.runs.iter().map(|(db, bytes)| (*db, &bytes[..]))
    }
}

/// Appends a command as a request of the protocol.
pub fn push_request(args: &[&[u8]], out: &mut Vec<u8>) {
    let mut digits = itoa::Buffer::new();
    let mut number = |mark: u8, number: usize, out: &mut Vec<u8>| {
        out.push(mark);
        out.extend_from_slice(digits.format(number).as_bytes());
        out.extend_from_slice(b"\r\n");
    };
    number(b'*', args.len(), out);
    for arg in args {
        number(b'$', arg.len(), out);
        out.extend_from_slice(arg);
        out.extend_from_slice(b"\r\n");
    }
}

/// Takes what followers are to be told.
pub trait Propagate: Send + Sync {
    /// Takes commands that are to be repeated as one. The locks of their keys are held, so that the
    /// order is that in which they took effect: no I/O here.
    fn append(&self, batch: &Batch);
}

/// What the running call told so far.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// Whether anybody wants to know.
    pub active: bool,
    pub batch: Batch,
    /// What is to be told behind the call.
    pub after: Batch,
    /// Whether the commands stand for the call, which is not to be repeated itself.
    pub instead: bool,
}
