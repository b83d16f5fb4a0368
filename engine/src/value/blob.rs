//! Bytes that are edited in place.
//!
//! A small collection is one run of bytes inside its key's entry. Its code edits that run through
//! [`Blob`], so it is the same whether the bytes live in an entry or, in tests, in a `Vec`.

/// The bytes of a packed value.
pub trait Blob {
    /// The bytes as they are now.
    fn bytes(&self) -> &[u8];

    /// Replaces `remove` bytes at offset `at` by the parts of `insert`, one after the other.
    ///
    /// # Panics
    /// If `at + remove` lies beyond the end: offsets come from a walk over the same bytes.
    fn splice(&mut self, at: usize, remove: usize, insert: &[&[u8]]);
}

impl Blob for Vec<u8> {
    fn bytes(&self) -> &[u8] {
        self
    }

    fn splice(&mut self, at: usize, remove: usize, insert: &[&[u8]]) {
        let added: usize = insert.iter().map(|part| part.len()).sum();
        let old_len = self.len();
        let tail = at + remove;
        assert!(tail <= old_len, "a splice stays inside the value");
        if added > remove {
            self.resize(old_len + added - remove, 0);
        }
        self.copy_within(tail..old_len, at + added);
        self.truncate(old_len + added - remove);
        let mut to = at;
        for part in insert {
            self[to..to + part.len()].copy_from_slice(part);
            to += part.len();
        }
    }
}
