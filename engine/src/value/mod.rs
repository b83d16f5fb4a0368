//! The data types: packed forms for small values, structures of their own for large ones.

pub mod blob;
pub mod dense;
mod index;
pub mod list;
pub mod packed;
pub mod small;
pub mod stream;
pub mod varint;
