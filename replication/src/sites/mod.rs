//! Keys that several sites write at once, and that become the same at all of them.
//!
//! Beside the engine's value of such a key each site keeps who wrote what and when ([`key`],
//! [`element`]); merging that of two sites is commutative, associative and idempotent. A call runs on
//! the engine as any other; what it meant is then read off the value ([`derive`](mod@derive)), stamped by a
//! hybrid logical [`clock`] and sent to the other sites ([`link`]), which merge it and bring their
//! engine to what it shows now ([`merge`]). Keys of other classes have none of this.
//!
//! ```text
//! call -> engine -> derive -> Site (elements) -> recent -> link ~~~> merge -> Site -> calls -> engine
//!                      |                                              |
//!                      +--> ASHLAR.SITE record in the log <-----------+
//! ```

pub mod clock;
pub mod codec;
pub mod conflicts;
pub mod derive;
pub mod element;
pub mod group;
mod hash;
pub mod intent;
pub mod key;
pub mod link;
pub mod merge;
pub mod node;
pub mod open;
pub mod order;
pub mod peers;
pub mod recent;
pub mod shown;
pub mod site;
pub mod slots;
pub mod table;
#[cfg(test)]
mod tests;
pub mod view;
