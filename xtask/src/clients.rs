//! The client libraries that the tests run, at the versions that the repository names.
//!
//! Python's go into `.venv`, so that `.venv/bin/python` finds them; Node.js's into
//! `tests/clients/node/node_modules`. Each place keeps a copy of the list it was made from: the work is
//! done again only when the list changes.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use crate::packages;
use crate::step::{Outcome, command, find, root, run, run_twice, succeeds};

const REQUIREMENTS: &str = "tests/clients/python/requirements.txt";
const NODE: &str = "tests/clients/node";
/// The copy of the list that a place was made from.
const MADE_FROM: &str = ".made-from";

/// The Python interpreter that finds the client libraries.
pub fn python() -> PathBuf {
    root().join(".venv/bin/python")
}

/// Makes `.venv` with what `requirements.txt` names.
pub fn provide_python(path: &OsStr, may_install: bool) -> Outcome {
    let (list, place) = (root().join(REQUIREMENTS), root().join(".venv"));
    if is_made(&list, &place) && succeeds(command(python(), &["-c", "import redis"])) {
        return Ok(());
    }
    let _ = fs::remove_dir_all(&place);
    let pip = if make_environment(path, may_install)? {
        vec!["install", "-q", "-r", REQUIREMENTS]
    } else {
        vec!["install", "-q", "--target", ".venv/site", "-r", REQUIREMENTS]
    };
    let args = [&["-m", "pip", "--disable-pip-version-check"], &pip[..]].concat();
    run_twice("Python clients", || command(python(), &args))?;
    made(&list, &place)
}

/// Installs what `package-lock.json` names.
pub fn provide_node(path: &OsStr) -> Outcome {
    let dir = root().join(NODE);
    let (list, place) = (dir.join("package-lock.json"), dir.join("node_modules"));
    if is_made(&list, &place) {
        return Ok(());
    }
    let npm = find("npm", path).ok_or("npm is not in PATH")?;
    run_twice("Node.js clients", || {
        let mut npm = command(&npm, &["ci", "--no-audit", "--no-fund", "--ignore-scripts"]);
        npm.current_dir(&dir).env("PATH", path);
        npm
    })?;
    made(&list, &place)
}

/// Makes `.venv` as a virtual environment: true. Where the machine's Python cannot (Debian splits the
/// module off): `.venv/bin/python` is a script which adds `.venv/site` to the paths of a plain Python.
fn make_environment(path: &OsStr, may_install: bool) -> Result<bool, String> {
    let python3 = find("python3", path).ok_or("python3 is not in PATH")?;
    let venv = || command(&python3, &["-m", "venv", ".venv"]);
    let can = || succeeds(command(&python3, &["-c", "import venv, ensurepip"]));
    if !can() && may_install {
        // Whether this worked is seen by asking again.
        let _ = packages::install(path, &["python3-venv"]);
    }
    if can() && run("Python environment", venv()).is_ok() {
        return Ok(true);
    }
    if !succeeds(command(&python3, &["-m", "pip", "--version"])) {
        return Err("this Python has neither venv nor pip: install python3-venv".to_owned());
    }
    write_wrapper(&python3).map_err(|error| format!(".venv/bin/python: {error}"))?;
    Ok(false)
}

fn write_wrapper(python3: &Path) -> std::io::Result<()> {
    let site = root().join(".venv/site");
    let _ = fs::remove_dir_all(root().join(".venv"));
    fs::create_dir_all(root().join(".venv/bin"))?;
    let script =
        format!("#!/bin/sh\nPYTHONPATH='{}' exec '{}' \"$@\"\n", site.display(), python3.display());
    fs::write(python(), script)?;
    make_executable(&python())
}

#[cfg(unix)]
fn make_executable(file: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(file, fs::Permissions::from_mode(0o755))
}

#[cfg(not(unix))]
fn make_executable(_file: &Path) -> std::io::Result<()> {
    Ok(())
}

fn is_made(list: &Path, place: &Path) -> bool {
    match (fs::read(list), fs::read(place.join(MADE_FROM))) {
        (Ok(wanted), Ok(made)) => wanted == made,
        _ => false,
    }
}

fn made(list: &Path, place: &Path) -> Outcome {
    let copied = fs::copy(list, place.join(MADE_FROM));
    copied.map(drop).map_err(|error| format!("{}: {error}", place.display()))
}
