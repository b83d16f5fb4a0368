//! Golden scripts: commands, each with the reply it must give.
//!
//! ```text
//! # A comment.
//! > SET k "two words"          a command, quoted as in redis-cli
//! OK                           its reply, as redis-cli --no-raw shows it
//! > @+1500ms                   the clock moves on
//! > @resp3                     replies in RESP3 from here on; @resp2 goes back
//! ```
//! A script starts on an empty keyspace. It is run by writing it anew with the replies that really
//! come; the test is that nothing changes. So `UPDATE_GOLDEN=1` can simply keep the new text, to be
//! reviewed as a diff.

use crate::cli;
use crate::resp::{Argv, Value};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::{fs, io};

/// What runs a script.
pub trait Host {
    /// Starts over on an empty keyspace, with RESP2 and the clock where every script starts.
    fn reset(&mut self);
    /// Moves the clock.
    fn advance(&mut self, ms: i64);
    /// Switches the protocol.
    fn protocol(&mut self, protocol: u8);
    /// Runs a command.
    fn call(&mut self, argv: &Argv) -> Value;
}

/// What running a script gave.
#[derive(Debug)]
pub struct Outcome {
    /// The script with the replies that came.
    pub text: String,
    /// The commands in it, each as one and as two upper-case words.
    pub commands: BTreeSet<String>,
}

/// Runs a script. An error names a line that cannot be read.
pub fn run(script: &str, host: &mut impl Host) -> Result<Outcome, String> {
    host.reset();
    let mut out = Outcome { text: String::new(), commands: BTreeSet::new() };
    let mut in_reply = false;
    for (index, line) in script.lines().enumerate() {
        let at = |what: &str| format!("line {}: {what}: {line}", index + 1);
        if let Some(command) = line.strip_prefix('>') {
            out.text.push_str(line.trim_end());
            out.text.push('\n');
            in_reply = match command.trim().strip_prefix('@') {
                Some(directive) => {
                    direct(directive, host).ok_or_else(|| at("an unknown directive"))?;
                    false
                }
                None => {
                    let argv = cli::split(command).ok_or_else(|| at("unbalanced quotes"))?;
                    let name = argv.first().ok_or_else(|| at("no command"))?;
                    let name = String::from_utf8_lossy(name).to_ascii_uppercase();
                    let second = argv.get(1).map(|word| String::from_utf8_lossy(word));
                    let second = second.unwrap_or_default().to_ascii_uppercase();
                    out.commands.extend([format!("{name} {second}"), name]);
                    out.text.push_str(&cli::show(&host.call(&argv)));
                    true
                }
            };
        } else if line.is_empty() || line.starts_with('#') {
            in_reply = false;
            out.text.push_str(line);
            out.text.push('\n');
        } else if !in_reply {
            return Err(at("a reply without a command"));
        }
    }
    Ok(out)
}

fn direct(directive: &str, host: &mut impl Host) -> Option<()> {
    match directive {
        "resp2" => host.protocol(2),
        "resp3" => host.protocol(3),
        _ => host.advance(directive.strip_prefix('+')?.strip_suffix("ms")?.parse().ok()?),
    }
    Some(())
}

/// Runs every `*.golden` file below a directory; returns the commands that occur and what differs.
pub fn run_all(dir: &Path, host: &mut impl Host) -> io::Result<(BTreeSet<String>, Vec<String>)> {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let (mut commands, mut failures) = (BTreeSet::new(), Vec::new());
    for path in scripts(dir)? {
        let script = fs::read_to_string(&path)?;
        match run(&script, host) {
            Err(error) => failures.push(format!("{}: {error}", path.display())),
            Ok(outcome) => {
                commands.extend(outcome.commands);
                if outcome.text == script {
                    continue;
                }
                match update {
                    true => fs::write(&path, outcome.text)?,
                    false => failures.push(difference(&path, &script, &outcome.text)),
                }
            }
        }
    }
    Ok((commands, failures))
}

fn scripts(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(scripts(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "golden") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The replies that differ, each with its command.
fn difference(path: &Path, wanted: &str, got: &str) -> String {
    let mut out = format!("{}:\n", path.display());
    let (wanted, got) = (blocks(wanted), blocks(got));
    for ((line, wanted), (_, got)) in wanted.iter().zip(&got) {
        if wanted != got {
            let (command, wanted) = wanted.split_once('\n').unwrap_or((wanted, ""));
            let reply = got.split_once('\n').map_or("", |(_, reply)| reply);
            out.push_str(&format!(
                "  line {line}: {command}\n    wanted: {}\n    got:    {}\n",
                wanted.trim_end().replace('\n', "\n            "),
                reply.trim_end().replace('\n', "\n            "),
            ));
        }
    }
    out
}

/// The script cut before each command, with the number of its line.
fn blocks(script: &str) -> Vec<(usize, String)> {
    let mut blocks: Vec<(usize, String)> = Vec::new();
    for (index, line) in script.lines().enumerate() {
        match blocks.last_mut() {
            Some((_, block)) if !line.starts_with('>') => {
                if !line.is_empty() && !line.starts_with('#') {
                    block.push_str(line);
                    block.push('\n');
                }
            }
            _ => blocks.push((index + 1, format!("{line}\n"))),
        }
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Echo(i64, u8);

    impl Host for Echo {
        fn reset(&mut self) {
            *self = Echo(0, 2);
        }
        fn advance(&mut self, ms: i64) {
            self.0 += ms;
        }
        fn protocol(&mut self, protocol: u8) {
            self.1 = protocol;
        }
        fn call(&mut self, argv: &Argv) -> Value {
            let last = Value::Bulk(argv[argv.len() - 1].clone());
            Value::Array(vec![Value::Int(self.0), Value::Int(i64::from(self.1)), last])
        }
    }

    #[test]
    fn a_script_that_holds_does_not_change() {
        let script = "# clock\n> ECHO \"a b\"\n1) (integer) 0\n2) (integer) 2\n3) \"a b\"\n\n\
                      > @+1500ms\n> @resp3\n> config get x\n1) (integer) 1500\n2) (integer) 3\n3) \"x\"\n";
        let outcome = run(script, &mut Echo::default()).expect("readable");
        assert_eq!(outcome.text, script);
        assert!(outcome.commands.contains("ECHO") && outcome.commands.contains("CONFIG GET"));
    }

    #[test]
    fn a_wrong_reply_is_replaced_and_reported() {
        let script = "> ECHO a\n(nil)\n> ECHO b\n";
        let outcome = run(script, &mut Echo::default()).expect("readable");
        let text = "> ECHO a\n1) (integer) 0\n2) (integer) 2\n3) \"a\"\n";
        assert!(outcome.text.starts_with(text));
        let report = difference(Path::new("x"), script, &outcome.text);
        assert!(
            report.contains("line 1: > ECHO a\n    wanted: (nil)\n    got:    1) (int"),
            "{report}"
        );
    }

    #[test]
    fn unreadable_scripts_are_refused() {
        for script in ["OK\n", "> @+5s\n", "> \"a\n", ">\n", "> A\n\nOK\n"] {
            assert!(run(script, &mut Echo::default()).is_err(), "{script}");
        }
    }
}
