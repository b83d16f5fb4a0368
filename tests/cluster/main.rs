//! Clusters of real daemons.
//!
//! The harness is `ashlar_tests::cluster`: nodes on free ports with a network between them that can be
//! cut, and a client that follows redirections.

mod clients;
mod functions;
mod global;
mod growth;
mod import;
mod merged;
mod near;
mod policies;
mod promise;
mod sites;
mod tls;
mod upgrade;
mod work;
