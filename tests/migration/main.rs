//! Data from and to a real redis-server: single values, files, and live.

mod content;
mod functions;
mod into_dir;
mod live;
mod payloads;
mod start;
