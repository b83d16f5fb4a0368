//! Tasks of the workspace, run as `cargo xtask TASK`.
//!
//! `check` only reads, `fix` is the one that rewrites files; `test` installs what the tests need and
//! runs them; `ci` is what CI does. Each step is printed with the time it took.

mod check;
mod clients;
mod deep;
mod packages;
mod step;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The tasks of the ashlar workspace.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Checks format, lints, documentation and lock files; changes nothing
    Check,
    /// Formats, and applies what clippy can mend by itself
    Fix,
    /// Installs what the tests need, then runs all of them
    Test {
        /// Takes the machine as it is: installs no system package
        #[arg(long)]
        no_install: bool,
        /// Arguments for `cargo test`, in place of the whole workspace
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// Installs what the tests need, and runs none
    Setup,
    /// Runs the engine's `unsafe` modules under Miri; needs a nightly toolchain
    Miri,
    /// Runs the engine's tests with AddressSanitizer
    Sanitize,
    /// Runs the fuzz targets, guided by coverage; needs cargo-fuzz
    Fuzz {
        /// Seconds for each target
        #[arg(default_value_t = 120)]
        seconds: u32,
    },
    /// `check`, then `test`
    Ci,
}

fn main() -> ExitCode {
    let result = match Cli::parse().task {
        Task::Check => check::check(),
        Task::Fix => check::fix(),
        Task::Test { no_install, args } => test::test(!no_install, &args),
        Task::Setup => test::setup(true),
        Task::Miri => deep::miri(),
        Task::Sanitize => deep::sanitize(),
        Task::Fuzz { seconds } => deep::fuzz(seconds),
        Task::Ci => check::check().and_then(|()| test::test(true, &[])),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nxtask: {error}");
            ExitCode::FAILURE
        }
    }
}
