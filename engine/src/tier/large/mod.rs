//! Large values on disk: parts of them are read without the rest.
//!
//! ```text
//! stream:     key | value in its byte form | directory
//! directory:  members   place u32 for each place and one more | entries: tag u16, offset u32
//!             ranks     of a sorted set, behind its members: score f64, offset u32, by rank
//!             strides   offset u32 of each `places`-th element
//!             none      for strings, where an offset is an index
//! ```
//! An offset counts from the start of the stream. The hash of a field or member (32 bits of a SipHash that is keyed by the
//! engine's seed) chooses one of `places` places; the number that stands there says with which entry those of this place
//! begin, the next number where they end. The lower half of the hash is the entry's tag; the field itself is at the entry's
//! offset. So one field of a hash of any size takes the rows with two numbers, with some hundred entries, and with the
//! field: four or five, and one more where it lies across two.
//!
//! The form has its elements in the order in which they came, and is not cut anew for the directory: whoever wants the
//! whole reads it from the first row to the last, and gets the order, which is part of the value.
//!
//! ```text
//! writer     rows of a stream, as it comes; the first row last, so that nothing is named that is not whole
//! directory  made while the form is written, looked up in rows
//! reader     any part of a stream, row by row
//! answer     what a call asks for, as a `Part`
//! demote     writes a value in steps, with its shard locked for one at a time
//! ```

mod answer;
mod demote;
mod directory;
mod reader;
#[cfg(test)]
mod tests;
mod writer;

pub(super) use answer::answer;
pub(super) use demote::can_write;
use directory::Builder;
pub(super) use directory::Directory;
pub(super) use reader::Reader;
use writer::Writer;

/// Bytes of memory of a value above which parts of it can be read from disk: rows of a smaller one are about as many as a
/// part would take.
pub const LARGE_BYTES: usize = 64 << 10;

/// Bytes that a part may have beside its first element: for more the whole is brought in.
pub const PART_BYTES_MAX: usize = 1 << 20;
