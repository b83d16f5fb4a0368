//! The client libraries that the tests run, at the versions that the repository names.
//!
//! Python's go into `.venv`, so that `.venv/bin/python` finds them, but for the job libraries, some of
//! which want an older redis-py: these go into `.venv-jobs`. Node.js's go into
//! `tests/clients/node/node_modules`. Each place keeps a copy of the list it was made from: the work is
//! done again only when the list changes.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use crate::packages;
use crate::step::{Outcome, command, find, root, run, run_twice, succeeds};

/// Each environment of Python, the list that it is made from, and what shows that it is whole.
const ENVIRONMENTS: [(&str, &str, &str); 2] = [
    (
        ".venv",
        "tests/clients/python/requirements.txt",
        "import redis, celery, django, dramatiq, rq",
    ),
    (".venv-arq", "tests/clients/python/arq.txt", "import arq"),
];
const NODE: &str = "tests/clients/node";
/// The copy of the list that a place was made from.
const MADE_FROM: &str = ".made-from";

/// The Python interpreter of an environment.
fn python(place: &str) -> PathBuf {
    root().join(place).join("bin/python")
}

/// Makes the environments of Python with what their lists name.
pub fn provide_python(path: &OsStr, may_install: bool) -> Outcome {
    ENVIRONMENTS.iter().try_for_each(|environment| provide(environment, path, may_install))
}

fn provide(
    &(name, requirements, check): &(&str, &str, &str),
    path: &OsStr,
    may_install: bool,
) -> Outcome {
    let (list, place) = (root().join(requirements), root().join(name));
    if is_made(&list, &place) && succeeds(command(python(name), &["-c", check])) {
        return Ok(());
    }
    let _ = fs::remove_dir_all(&place);
    let site = format!("{name}/site");
    let pip = if make_environment(name, path, may_install)? {
        vec!["install", "-q", "-r", requirements]
    } else {
        vec!["install", "-q", "--target", &site, "-r", requirements]
    };
    let args = [&["-m", "pip", "--disable-pip-version-check"], &pip[..]].concat();
    run_twice("Python clients", || command(python(name), &args))?;
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

/// Makes a virtual environment: true. Where the machine's Python cannot (Debian splits the module
/// off): its `bin/python` is a script which adds its `site` to the paths of a plain Python.
fn make_environment(name: &str, path: &OsStr, may_install: bool) -> Result<bool, String> {
    let python3 = find("python3", path).ok_or("python3 is not in PATH")?;
    let venv = || command(&python3, &["-m", "venv", name]);
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
    write_wrapper(name, &python3).map_err(|error| format!("{name}/bin/python: {error}"))?;
    Ok(false)
}

fn write_wrapper(name: &str, python3: &Path) -> std::io::Result<()> {
    let (place, site) = (root().join(name), root().join(name).join("site"));
    let _ = fs::remove_dir_all(&place);
    fs::create_dir_all(place.join("bin"))?;
    let script =
        format!("#!/bin/sh\nPYTHONPATH='{}' exec '{}' \"$@\"\n", site.display(), python3.display());
    fs::write(python(name), script)?;
    make_executable(&python(name))
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
