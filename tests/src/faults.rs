//! Proofs that tests of vulnerabilities can fail: each runs against a server with the fault put back
//! (`src/bin/faulty.rs`), and has to fail, in the way that the fault shows.

use crate::process;
use ashlar_engine::known_bugs::Bug;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// Tells the server with a fault which one.
pub const VARIABLE: &str = "ASHLAR_KNOWN_BUG";

/// A fault, the test that finds it, and words of what the test then says.
pub type Proof = (Bug, fn(), &'static str);

/// Runs each test against `program`, which the test's crate knows as `CARGO_BIN_EXE_faulty`.
///
/// # Panics
/// If a test passes, or fails for another reason.
pub fn prove(program: &str, proofs: &[Proof]) {
    for (bug, test, words) in proofs {
        let name = format!("{bug:?}");
        println!("{name}: its test has to fail");
        let failed = process::with_faults(Path::new(program), &[(VARIABLE, &name)], || {
            catch_unwind(AssertUnwindSafe(test))
        });
        let Err(panic) = failed else { panic!("{name} was not found") };
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or_default();
        assert!(text.contains(words), "{name} was found by something else: {text}");
    }
}
