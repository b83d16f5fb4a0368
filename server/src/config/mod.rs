//! The settings: one table, read by everything that has to do with them.
//!
//! Names and value forms are Redis's, so an existing `redis.conf` works unchanged. A setting is
//! described once, in [`table`]; the configuration file, the command line, CONFIG GET / SET /
//! REWRITE, `--help` and `docs/configuration.md` are all derived from that description. A line that
//! cannot be honoured is refused with its place and a reason: a server that silently ignores a
//! setting such as `save 60 1` loses data that its operator believes safe.
//!
//! ```text
//! redis.conf, stdin, --flags --> load --> Settings (running values) <--> CONFIG GET/SET/REWRITE
//!                                           |          |
//!                                  numbers without   subscribers: what must act on a change
//!                                  a lock
//! ```

mod engine;
pub mod ids;
pub mod kind;
pub mod line;
pub mod load;
mod rewrite;
mod rlimit;
pub mod setting;
mod special;
pub mod store;
mod suggest;
pub mod table;
mod units;

use ashlar_engine::glob::matches;
pub use engine::{connect, engine_config};
pub use ids::Id;
pub use kind::Value;
pub use load::{ConfigError, Source, load};
pub(crate) use rewrite::replace as replace_file;
pub use rlimit::raise_open_files;
pub use setting::{Group, Setting, Support};
pub(crate) use special::os_text;
pub use special::{ClassLimit, output_limits, percentiles};
pub use store::{Caller, SetError, Settings};
pub use table::{
    ASYNC_READS_NEAREST, POLICY_TIER, READS_LEASE, READS_LOCAL, READS_READINDEX, REDIRECTS_READONLY,
};
pub use units::{human_bytes, parse_bytes};

/// How deep `include` may nest.
pub const INCLUDE_DEPTH_MAX: usize = 16;
/// The longest configuration text that is read, in bytes, over all included files.
pub const CONFIG_BYTES_MAX: u64 = 16 << 20;
/// How many mistakes of a configuration are listed before the rest is left out.
pub const CONFIG_ERRORS_MAX: usize = 20;
