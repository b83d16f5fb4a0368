//! The ashlar engine: a key-value store in memory with Redis's data types, to be embedded.
//!
//! A [`Store`] is a handle that any number of threads share. It needs no async runtime and starts
//! no thread; its commands, replies and errors are those of Redis.
//!
//! ```
//! use ashlar_engine::prelude::*;
//! use std::time::Duration;
//!
//! let store = Store::in_memory();
//! store.set("page:1", "hello")?;
//! store.set_with("session", "ada", SetOptions::new().ttl(Duration::from_secs(60)))?;
//! assert_eq!(store.get("page:1")?, Some(b"hello".to_vec()));
//!
//! store.hset("user:1", &[("name", "Ada"), ("role", "admin")])?;
//! store.zadd("ranking", &[(2.5, "user:1"), (1.5, "user:2")])?;
//! assert_eq!(store.zrank("ranking", "user:1")?, Some(1));
//!
//! // Any command, as in redis-cli:
//! let reply = store.call(&[b"OBJECT", b"ENCODING", b"user:1"])?;
//! assert_eq!(reply.into_bytes()?, Some(b"listpack".to_vec()));
//! # Ok::<(), ashlar_engine::Error>(())
//! ```
//!
//! # Inside
//! At the heart is one synchronous function, `execute(keyspace, stamp, call)`: [`Executor::run`].
//! All that is not deterministic about a call is in its [`Stamp`], so that the same calls with the
//! same stamps lead to the same state; logs and replicas stand on that. A host with needs of its
//! own, such as a server, works on [`Engine`] and [`Executor`]; the [`embedded`] API does the same.
//!
//! ```text
//! embedded | server -> executor -> commands -> context -> keyspace -> value
//! ```

pub mod clock;
pub mod command;
pub mod commands;
pub mod config;
pub mod context;
pub mod cut;
pub mod disk;
pub mod effects;
pub mod embedded;
pub mod engine;
pub mod error;
pub mod executor;
pub mod extended;
pub mod glob;
pub mod groups;
pub mod image;
pub mod journal;
pub mod keyspace;
#[cfg_attr(not(feature = "known-bugs"), doc(hidden))]
pub mod known_bugs;
pub mod lanes;
pub mod libraries;
pub mod log;
pub mod number;
pub mod policy;
mod prefetch;
pub mod propagate;
pub mod rdb;
pub mod reply;
pub mod shipping;
pub mod sites;
pub mod slot;
pub mod snapshot;
pub mod stamp;
pub mod storage;
pub mod tier;
pub mod upkeep;
pub mod value;

pub use embedded::{Call, ReplyValue, Store};
pub use engine::Engine;
pub use error::Error;
pub use executor::Executor;
pub use stamp::Stamp;

/// What a program that embeds the engine needs: `use ashlar_engine::prelude::*`.
pub mod prelude {
    pub use crate::embedded::{
        Call, Hashes, Keys, Lists, ReplyValue, SetOptions, Sets, SortedSets, Store, Strings, Ttl,
    };
    pub use crate::error::Error;
}

/// The example of the README is a test as well.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;
