//! The system's packages that the tests need, installed with apt where they are missing.

use std::ffi::{OsStr, OsString};
use std::io::{IsTerminal, stdin};
use std::process::{Command, Stdio};

use crate::step::{Outcome, command, find, run, run_twice, succeeds};

/// A program that the tests run, and Debian's package that holds it.
struct Need {
    program: &'static str,
    package: &'static str,
    /// The service that Debian starts on installing the package.
    service: Option<&'static str>,
}

const NEEDS: &[Need] = &[
    Need { program: "redis-server", package: "redis-server", service: Some("redis-server") },
    Need { program: "redis-cli", package: "redis-tools", service: None },
    Need { program: "redis-benchmark", package: "redis-tools", service: None },
    Need { program: "memcached", package: "memcached", service: Some("memcached") },
    Need { program: "python3", package: "python3", service: None },
    Need { program: "node", package: "nodejs", service: None },
    Need { program: "npm", package: "npm", service: None },
];

/// Installs what is missing from `path`. Services that this starts are stopped again: the tests
/// start their own, and a machine shall not get a listening server by running tests.
pub fn provide(path: &OsStr, may_install: bool) -> Outcome {
    let missing = missing(path);
    if missing.is_empty() {
        return Ok(());
    }
    let packages = packages(&missing);
    if !may_install {
        return Err(format!("not found: {}; install {}", programs(&missing), packages.join(" ")));
    }
    install(path, &packages)?;
    for need in &missing {
        if let Some(service) = need.service {
            stop(path, service);
        }
    }
    match self::missing(path) {
        still if still.is_empty() => Ok(()),
        still => Err(format!("installed, but still not in PATH: {}", programs(&still))),
    }
}

/// Installs `packages` with apt, as root or through sudo.
pub fn install(path: &OsStr, packages: &[&str]) -> Outcome {
    let list = packages.join(" ");
    if find("apt-get", path).is_none() {
        return Err(format!(
            "the tests need {list}, and there is no apt-get here: install them by hand"
        ));
    }
    let Some(prefix) = root_prefix(path) else {
        return Err(format!(
            "the tests need packages, and neither root nor sudo without a password is at hand. \
             Run\n    sudo apt-get install --no-install-recommends {list}\nand try again"
        ));
    };
    // A stale package list is no reason to stop: the packages may be there all the same.
    let update = || apt(path, &prefix, &["update", "-q"]);
    if let Err(error) = run_twice("apt-get update", update) {
        eprintln!("{error}");
    }
    let mut args = vec!["install", "-y", "-q", "--no-install-recommends"];
    args.extend(packages);
    run_twice(&format!("apt-get install {list}"), || apt(path, &prefix, &args))
}

fn missing(path: &OsStr) -> Vec<&'static Need> {
    NEEDS.iter().filter(|need| find(need.program, path).is_none()).collect()
}

fn packages(needs: &[&Need]) -> Vec<&'static str> {
    let mut packages: Vec<_> = needs.iter().map(|need| need.package).collect();
    packages.dedup();
    packages
}

fn programs(needs: &[&Need]) -> String {
    needs.iter().map(|need| need.program).collect::<Vec<_>>().join(", ")
}

/// What stands before a command that needs root: nothing for root itself, else sudo, which may ask
/// for a password only where somebody can give it.
fn root_prefix(path: &OsStr) -> Option<Vec<OsString>> {
    let id = command(find("id", path)?, &["-u"]).output().ok()?;
    if id.stdout.trim_ascii() == b"0" {
        return Some(Vec::new());
    }
    let sudo = find("sudo", path)?;
    let mut asks_nothing = command(&sudo, &["-n", "true"]);
    asks_nothing.env("PATH", path);
    (succeeds(asks_nothing) || stdin().is_terminal()).then(|| vec![sudo.into()])
}

fn apt(path: &OsStr, prefix: &[OsString], args: &[&str]) -> Command {
    let mut words = prefix.to_vec();
    words.extend(["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"].map(OsString::from));
    let mut command = command(find_first(&words[0], path), &[]);
    command.args(&words[1..]).args(args).env("PATH", path);
    if !prefix.is_empty() {
        // sudo may have to ask.
        command.stdin(Stdio::inherit());
    }
    command
}

fn find_first(program: &OsStr, path: &OsStr) -> OsString {
    program.to_str().and_then(|name| find(name, path)).map_or_else(|| program.into(), Into::into)
}

/// Stops and disables a service that installing has just started, by whatever the machine has for it.
fn stop(path: &OsStr, service: &str) {
    let Some(prefix) = root_prefix(path) else { return };
    let ways: [&[&str]; 2] =
        [&["systemctl", "disable", "--now", service], &["service", service, "stop"]];
    let stopped = ways.into_iter().any(|way| {
        let Some(program) = find(way[0], path) else { return false };
        let mut words = prefix.clone();
        words.push(program.into());
        let mut stop = command(&words[0], &[]);
        stop.args(&words[1..]).args(&way[1..]).env("PATH", path);
        run(&format!("stop the service {service}"), stop).is_ok()
    });
    if !stopped {
        eprintln!("the service {service} may be running: this machine has no way to stop it");
    }
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::{Path, PathBuf};

    use super::*;

    /// A machine of its own: a PATH with nothing but the scripts put there.
    struct Machine(PathBuf);

    impl Machine {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("xtask-{}-{name}", std::process::id()));
            fs::create_dir_all(&dir).unwrap();
            let machine = Machine(dir);
            machine
                .script("env", "while case $1 in *=*) ;; *) false;; esac; do shift; done; \"$@\"");
            machine
        }

        fn script(&self, name: &str, body: &str) {
            let file = self.0.join(name);
            fs::write(&file, format!("#!/bin/sh\n{body}\n")).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        }

        fn root(&self, uid: u32) {
            self.script("id", &format!("echo {uid}"));
        }

        /// An apt-get that writes down what it is asked, and installs it.
        fn apt(&self) {
            let programs: Vec<_> = NEEDS.iter().map(|need| need.program).collect();
            let dir = self.0.display();
            self.script(
                "apt-get",
                &format!(
                    "echo \"$@\" >> {dir}/log\n[ $1 = install ] || exit 0\nfor p in {}; do\n\
                     [ -e {dir}/$p ] || /bin/cp {dir}/env {dir}/$p\ndone",
                    programs.join(" ")
                ),
            );
        }

        fn path(&self) -> &OsStr {
            self.0.as_os_str()
        }

        fn log(&self, name: &str) -> String {
            fs::read_to_string(self.0.join(name)).unwrap_or_default()
        }
    }

    impl Drop for Machine {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(Path::new(&self.0));
        }
    }

    #[test]
    fn what_is_missing_is_installed_and_its_services_stopped() {
        let machine = Machine::new("fresh");
        machine.root(0);
        machine.apt();
        let services = machine.0.join("services");
        machine.script("systemctl", &format!("echo \"$@\" >> {}", services.display()));
        machine.script("node", "");
        provide(machine.path(), true).unwrap();
        assert_eq!(
            machine.log("log"),
            "update -q\ninstall -y -q --no-install-recommends \
             redis-server redis-tools memcached python3 npm\n"
        );
        assert_eq!(
            machine.log("services"),
            "disable --now redis-server\ndisable --now memcached\n"
        );
        // A second run finds everything.
        provide(machine.path(), true).unwrap();
        assert_eq!(machine.log("log").lines().count(), 2);
    }

    #[test]
    fn an_ordinary_user_goes_through_sudo() {
        let machine = Machine::new("user");
        machine.root(1000);
        machine.apt();
        let log = machine.0.join("sudo-log");
        machine.script(
            "sudo",
            &format!("echo \"$@\" >> {}\n[ $1 != -n ] || shift\n\"$@\"", log.display()),
        );
        machine.script("true", "exit 0");
        provide(machine.path(), true).unwrap();
        assert!(
            machine.log("sudo-log").contains("env DEBIAN_FRONTEND=noninteractive apt-get install")
        );
    }

    #[test]
    fn without_apt_or_leave_the_message_names_the_packages() {
        let machine = Machine::new("bare");
        machine.root(0);
        let error = provide(machine.path(), true).unwrap_err();
        assert!(error.contains("redis-server") && error.contains("no apt-get"), "{error}");
        let error = provide(machine.path(), false).unwrap_err();
        assert!(error.contains("not found: redis-server, redis-cli"), "{error}");
        machine.apt();
        fs::remove_file(machine.0.join("id")).unwrap();
        let error = provide(machine.path(), true).unwrap_err();
        assert!(error.contains("sudo apt-get install --no-install-recommends redis"), "{error}");
    }

    #[test]
    fn what_fails_once_is_tried_again() {
        let machine = Machine::new("flaky");
        machine.root(0);
        machine.apt();
        let (dir, apt) = (machine.0.display(), machine.0.join("real-apt"));
        fs::rename(machine.0.join("apt-get"), &apt).unwrap();
        machine.script(
            "apt-get",
            &format!(
                "if [ $1 = install ] && [ ! -e {dir}/tried ]; then : > {dir}/tried; exit 1; fi\n\
                 exec {} \"$@\"",
                apt.display()
            ),
        );
        provide(machine.path(), true).unwrap();
    }
}
