//! `check`, which only reads, and `fix`, which rewrites.

use std::fs;
use std::path::Path;

use crate::step::{Outcome, cargo, command, root, run, run_twice, succeeds};

/// Where the crates of `Cargo.lock` come from.
const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";
/// Where the packages of `package-lock.json` come from, where it says so.
const NPM: &str = "https://registry.npmjs.org/";

/// Format, lints, documentation and lock files.
pub fn check() -> Outcome {
    components()?;
    run("format", cargo(&["fmt", "--all", "--check"]))?;
    lock_files()?;
    let clippy = ["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"];
    run("clippy", cargo(&clippy))?;
    let mut doc = cargo(&["doc", "--workspace", "--no-deps", "--locked"]);
    doc.env("RUSTDOCFLAGS", "-D warnings");
    run("documentation", doc)
}

/// Applies clippy's own corrections, then formats.
pub fn fix() -> Outcome {
    components()?;
    let clippy = ["clippy", "--fix", "--allow-dirty", "--allow-staged"];
    run("clippy --fix", cargo(&[&clippy[..], &["--workspace", "--all-targets"]].concat()))?;
    run("format", cargo(&["fmt", "--all"]))
}

/// A minimal toolchain comes without rustfmt and clippy.
fn components() -> Outcome {
    for (tool, component) in [("fmt", "rustfmt"), ("clippy", "clippy")] {
        if !succeeds(cargo(&[tool, "--version"])) {
            let add = || command("rustup", &["component", "add", component]);
            run_twice(&format!("add {component}"), add)?;
        }
    }
    Ok(())
}

/// No lock file may name a registry other than the public one.
fn lock_files() -> Outcome {
    let cargo = foreign(&root().join("Cargo.lock"), "source = ", CRATES_IO)?;
    let npm = foreign(&root().join("tests/clients/node/package-lock.json"), "\"resolved\": ", NPM)?;
    match cargo.or(npm) {
        Some(line) => Err(format!("a lock file names a registry that is not public: {line}")),
        None => Ok(()),
    }
}

/// The first line of `file` that starts with `field` and whose value does not start with `allowed`.
fn foreign(file: &Path, field: &str, allowed: &str) -> Result<Option<String>, String> {
    let text = fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(first_foreign(&text, field, allowed).map(str::to_owned))
}

fn first_foreign<'a>(text: &'a str, field: &str, allowed: &str) -> Option<&'a str> {
    text.lines().map(str::trim).find(|line| {
        line.strip_prefix(field)
            .is_some_and(|value| !value.trim_start_matches('"').starts_with(allowed))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_registry_is_found() {
        let npm = |url: &str| format!("  \"x\": {{\n    \"resolved\": \"{url}\",\n  }}");
        let ours = npm("https://registry.npmjs.org/ms/-/ms-2.1.3.tgz");
        let other = npm("https://mirror.example/ms-2.1.3.tgz");
        assert_eq!(first_foreign(&ours, "\"resolved\": ", NPM), None);
        let found = first_foreign(&other, "\"resolved\": ", NPM);
        assert_eq!(found, Some("\"resolved\": \"https://mirror.example/ms-2.1.3.tgz\","));
        let git = "[[package]]\nsource = \"git+https://example/x\"\n";
        assert!(first_foreign(git, "source = ", CRATES_IO).is_some());
    }
}
