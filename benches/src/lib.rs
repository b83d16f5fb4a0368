//! How fast and how small ashlar is.
//!
//! - `side-by-side` (a program) compares the server with redis-server and memcached;
//! - `benches/*.rs` measure parts of the engine with criterion.
//!
//! `docs/benchmarking.md` says how to run both, and what each figure means.
