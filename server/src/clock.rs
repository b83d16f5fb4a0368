//! Time: the wall clock of stamps, and a counter of processor ticks to time commands with.

use std::time::{SystemTime, UNIX_EPOCH};

/// Wall-clock time, Unix microseconds.
pub fn now_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// Wall-clock time, Unix milliseconds.
pub fn now_ms() -> i64 {
    now_us() / 1000
}
