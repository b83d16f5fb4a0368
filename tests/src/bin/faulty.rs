//! A server with a fault: `ASHLAR_KNOWN_BUG` names the one that is put back. The tests start it to
//! prove that they find the fault; see `ashlar_tests::faults`.

use ashlar_engine::known_bugs::{VULNERABILITIES, put_back_everywhere};
use ashlar_server::cli::{self, Start};
use ashlar_server::server::Server;
use ashlar_tests::faults::VARIABLE;
use std::process::ExitCode;

fn main() -> ExitCode {
    let name = std::env::var(VARIABLE).unwrap_or_default();
    let Some(bug) = VULNERABILITIES.into_iter().find(|bug| format!("{bug:?}") == name) else {
        eprintln!("{VARIABLE} names no fault: {name:?}");
        return ExitCode::FAILURE;
    };
    put_back_everywhere(bug);
    // What ends in a panic here would have been worse without Rust's checks: the server is gone.
    std::panic::set_hook(Box::new(|info| {
        eprintln!("{info}");
        std::process::abort();
    }));
    let settings = match cli::start(std::env::args_os().skip(1)) {
        Start::Done(code) => return code,
        Start::Run(settings) => settings,
    };
    match Server::start(*settings).and_then(Server::wait) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
