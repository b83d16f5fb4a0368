//! The binary of the release before this one, built from the history, to run side by side with this one.

use crate::process::workspace;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// The last commit of release 0.1.
const COMMIT: &str = "e7e7dbfcd5063ef4bc611d28027347e492ee3e68";
/// What its binary is called here, next to the one of this release.
const NAME: &str = "ashlar-0-1";

/// The `ashlar` binary of the release before. `ASHLAR_OLD_BINARY=path` takes another one;
/// `ASHLAR_OLD_BINARY=none` says that there is none, for a checkout without its history.
///
/// # Panics
/// If it cannot be built.
pub fn old_ashlar_binary() -> Option<PathBuf> {
    static BINARY: OnceLock<Option<PathBuf>> = OnceLock::new();
    let find = || match std::env::var_os("ASHLAR_OLD_BINARY") {
        Some(none) if none == "none" => {
            eprintln!(
                "LEFT OUT: what needs a binary of the release before, by ASHLAR_OLD_BINARY=none"
            );
            None
        }
        Some(path) => Some(path.into()),
        None => Some(build()),
    };
    BINARY.get_or_init(find).clone()
}

fn build() -> PathBuf {
    let this = std::env::current_exe().expect("the path of the test");
    let dir = this.parent().and_then(Path::parent).expect("tests lie in target/PROFILE/deps");
    let target = dir.parent().expect("the target directory");
    let sources = target.join("release-0.1");
    let _ = std::fs::remove_dir_all(&sources);
    std::fs::create_dir_all(&sources).expect("a directory for the sources");
    let mut archive = Command::new("git")
        .args(["archive", COMMIT])
        .current_dir(workspace())
        .stdout(Stdio::piped())
        .spawn()
        .expect("git runs");
    let tar = Command::new("tar")
        .args(["-x", "-C"])
        .arg(&sources)
        .stdin(archive.stdout.take().expect("it is piped"))
        .status();
    let archived = archive.wait().is_ok_and(|status| status.success());
    assert!(
        archived && tar.is_ok_and(|status| status.success()),
        "the history of this checkout does not reach release 0.1 ({COMMIT}): `git fetch --unshallow`, \
         or ASHLAR_OLD_BINARY=path of its binary, or ASHLAR_OLD_BINARY=none to leave this out"
    );
    // Under another name, for it is built next to the binary of this release: most of what both are made
    // of is there already.
    let manifest = sources.join("server/Cargo.toml");
    let text = std::fs::read_to_string(&manifest).expect("its manifest");
    let renamed = text.replace("\"ashlar\"", &format!("\"{NAME}\""));
    assert_ne!(text, renamed, "the binary is named in the manifest");
    std::fs::write(&manifest, renamed).expect("its manifest is written");
    let profile = if dir.ends_with("release") { "release" } else { "test" };
    let status = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--workspace", "--bin", NAME, "--profile", profile])
        .arg("--target-dir")
        .arg(target)
        .current_dir(&sources)
        .status();
    assert!(status.is_ok_and(|status| status.success()), "release 0.1 does not build");
    dir.join(NAME)
}
