//! Data from and to a real redis-server: single values, files, and live.

mod content;
mod live;
mod payloads;
