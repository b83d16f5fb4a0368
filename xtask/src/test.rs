//! `test`: one command that provides what the tests need and runs them all.

use crate::step::{Outcome, cargo, run, search_path};
use crate::{clients, packages};

/// Programs from the system's packages, then client libraries.
pub fn setup(may_install: bool) -> Outcome {
    let path = search_path();
    packages::provide(&path, may_install)?;
    clients::provide_python(&path, may_install)?;
    clients::provide_node(&path)
}

/// Runs every test, or what `args` say.
///
/// `ashlar` itself is built first, with the profile of the tests: those in `tests/` start it, and cargo
/// does not build another package's binary for them.
pub fn test(may_install: bool, args: &[String]) -> Outcome {
    setup(may_install)?;
    let build = ["build", "--workspace", "--bins", "--locked", "--profile", "test"];
    run("build", cargo(&build))?;
    if !args.is_empty() {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        return run("tests", cargo(&[&["test", "--locked"], &args[..]].concat()));
    }
    let targets = ["--lib", "--bins", "--tests", "--examples"];
    run("tests", cargo(&[&["test", "--workspace", "--locked"], &targets[..]].concat()))?;
    run("doc tests", cargo(&["test", "--workspace", "--locked", "--doc"]))
}
