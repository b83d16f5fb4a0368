//! Short questions to a server, and waiting for what happens in the background.

use crate::resp::{Client, Value};
use std::time::{Duration, Instant};

/// How long a test waits for what happens in the background.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The reply to a line as text.
///
/// # Panics
/// If there is none.
pub fn ask(client: &mut Client, line: &str) -> String {
    match client.line(line).unwrap_or_else(|error| panic!("{line}: {error}")) {
        Value::Int(number) => number.to_string(),
        other => other.text(),
    }
}

/// A field of INFO.
///
/// # Panics
/// If INFO does not have it.
pub fn info(client: &mut Client, field: &str) -> String {
    let text = ask(client, "INFO everything");
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{field}:")));
    line.unwrap_or_else(|| panic!("INFO has {field}")).trim().to_owned()
}

/// Waits until something holds.
///
/// # Panics
/// If it does not in [`PATIENCE`].
pub fn wait_for(what: &str, is: impl FnMut() -> bool) {
    wait_within(PATIENCE, what, is);
}

/// The same with a limit of one's own.
///
/// # Panics
/// If it does not in that time.
pub fn wait_within(limit: Duration, what: &str, mut is: impl FnMut() -> bool) {
    let since = Instant::now();
    while !is() {
        assert!(since.elapsed() < limit, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
