//! Checks that take a nightly toolchain, or long: Miri, AddressSanitizer, fuzzing. CI does not run
//! them; run them after a change of `unsafe` code, of a decoder or of a value's structure.

use std::process::Command;

use crate::step::{Outcome, cargo, command, root, run, succeeds};

/// The unit tests of the modules with `unsafe` code, and of the structures that lean on it. Their
/// loops are shorter under Miri (`cfg!(miri)`).
const UNSAFE_MODULES: [&str; 4] = ["keyspace::", "value::dense", "value::index", "value::small"];

/// All targets of `fuzz/`.
const FUZZ_TARGETS: [&str; 7] =
    ["decode", "execute", "image", "payload", "rdb_file", "acl", "script"];

/// The triple of the machine: a sanitizer wants it named, so that build scripts go without.
const HOST: &str = "x86_64-unknown-linux-gnu";

/// The engine's `unsafe` modules under Miri, which finds undefined behaviour that runs well.
pub fn miri() -> Outcome {
    let miri = |args: &[&str]| {
        let mut miri = command("cargo", &[&["+nightly", "miri"], args].concat());
        miri.env("CARGO_TARGET_DIR", root().join("target/miri"));
        // The tests read no file and no clock, but their library of random cases looks for one.
        miri.env("MIRIFLAGS", "-Zmiri-disable-isolation");
        miri.env_remove("RUSTUP_TOOLCHAIN");
        miri
    };
    if !succeeds(miri(&["--version"])) {
        return Err("Miri is missing: rustup toolchain install nightly --profile minimal \
                    --component miri --component rust-src"
            .into());
    }
    let tests = [&["test", "-p", "ashlar-engine", "--lib", "--"], &UNSAFE_MODULES[..]].concat();
    run("Miri", miri(&tests))
}

/// The engine's unit tests and the random calls of the determinism test with AddressSanitizer,
/// which finds what is read or written outside of its allocation, or after it was freed.
pub fn sanitize() -> Outcome {
    let with_sanitizer = |args: &[&str]| {
        let mut test = cargo(&["test", "--target", HOST, "--target-dir", "target/sanitize"]);
        test.args(args);
        // The sanitizers are part of the stable toolchain, but not promised to stay as they are.
        test.env("RUSTC_BOOTSTRAP", "1").env("RUSTFLAGS", "-Zsanitizer=address");
        test
    };
    // Simulated disks fail at every operation there: minutes of safe code.
    let skipped = ["--skip", "storage::tests", "--skip", "log::harness"];
    let unit_tests = [&["-p", "ashlar-engine", "--lib", "--"], &skipped[..]].concat();
    run("AddressSanitizer, unit tests", with_sanitizer(&unit_tests))?;
    let calls = ["-p", "ashlar-tests", "--test", "determinism", "--test", "fuzz"];
    run("AddressSanitizer, random calls", with_sanitizer(&calls))
}

/// The fuzz targets, guided by coverage, for so many seconds each. What is new goes to
/// `fuzz/found`; what fails goes to `fuzz/artifacts`.
pub fn fuzz(seconds: u32) -> Outcome {
    if !succeeds(cargo(&["fuzz", "--version"])) {
        return Err("cargo-fuzz is missing: cargo install cargo-fuzz --locked".into());
    }
    for target in FUZZ_TARGETS {
        let found = root().join("fuzz/found").join(target);
        std::fs::create_dir_all(&found).map_err(|error| format!("{}: {error}", found.display()))?;
        let time = format!("-max_total_time={seconds}");
        let corpus = format!("fuzz/corpus/{target}");
        let mut fuzz: Command = cargo(&["fuzz", "run", target]);
        // The first folder is the one that grows; the corpus that is kept stays small.
        fuzz.arg(found).arg(corpus).args(["--", &time, "-max_len=4096", "-timeout=20"]);
        fuzz.env("RUSTC_BOOTSTRAP", "1");
        run(&format!("fuzz {target}"), fuzz)?;
    }
    Ok(())
}
