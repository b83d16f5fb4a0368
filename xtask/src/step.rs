//! Commands as steps: printed, timed, started in the root of the workspace, without standard input.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// What every task answers: nothing, or a sentence that says what went wrong and what to do.
pub type Outcome = Result<(), String>;

/// The root of the workspace.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// A command to run in the root of the workspace.
pub fn command(program: impl AsRef<OsStr>, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(args).current_dir(root()).stdin(Stdio::null());
    command
}

/// The cargo that started this program.
pub fn cargo(args: &[&str]) -> Command {
    command(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()), args)
}

/// Runs `command` as the step `name`.
pub fn run(name: &str, mut command: Command) -> Outcome {
    eprintln!("==> {name}");
    let start = Instant::now();
    let status =
        command.status().map_err(|error| format!("{name}: {}: {error}", program(&command)))?;
    let seconds = start.elapsed().as_secs_f64();
    if status.success() {
        eprintln!("<== {name}: {seconds:.1} s");
        Ok(())
    } else {
        Err(format!("{name}: {} ended with {status} after {seconds:.1} s", program(&command)))
    }
}

/// Runs what `make` gives, and once more if that fails: for what depends on a network.
pub fn run_twice(name: &str, make: impl Fn() -> Command) -> Outcome {
    run(name, make()).or_else(|error| {
        eprintln!("{error}; trying once more");
        run(name, make())
    })
}

/// Whether `command` ends well; its output is dropped.
pub fn succeeds(mut command: Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
}

/// The first executable file named `program` in the directories of `path`.
pub fn find(program: &str, path: &OsStr) -> Option<PathBuf> {
    env::split_paths(path).map(|dir| dir.join(program)).find(|file| is_executable(file))
}

/// This process's PATH, with the directories of system programs that an ordinary user's may lack.
pub fn search_path() -> std::ffi::OsString {
    let mut path = env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/local/sbin:/usr/sbin:/sbin");
    path
}

#[cfg(unix)]
fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(not(unix))]
fn is_executable(file: &Path) -> bool {
    file.is_file()
}

fn program(command: &Command) -> String {
    let args = command.get_args().map(OsStr::to_string_lossy);
    let words: Vec<_> =
        std::iter::once(command.get_program().to_string_lossy()).chain(args).collect();
    words.join(" ")
}
