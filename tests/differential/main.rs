//! ashlar against the redis-server of this machine, and the harness against itself.

mod harness;
