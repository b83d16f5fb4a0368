//! The data types: packed forms for small values, structures of their own for large ones.

pub mod blob;
pub mod packed;
