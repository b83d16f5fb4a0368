//! The wire protocol: requests are parsed where they lie in the read buffer.

pub mod decode;
