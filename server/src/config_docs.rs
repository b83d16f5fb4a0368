//! The settings for people: `ashlar --help` and `docs/configuration.md`, from the one table.

use std::fmt::Write;

use crate::config::setting::Mutability;
use crate::config::table::{GROUPS, TABLE};
use crate::config::{Setting, Support};

/// The column at which help text is broken.
const WIDTH: usize = 100;

/// The settings by group, for the terminal.
pub fn help() -> String {
    let mut out = String::new();
    for (group, settings) in GROUPS {
        let shown: Vec<&Setting> =
            settings.iter().filter(|setting| setting.support == Support::Yes).collect();
        if shown.is_empty() {
            continue;
        }
        push(&mut out, format_args!("{}:\n", group.title()));
        for setting in shown {
            push(&mut out, format_args!("  --{}\n", setting.name));
            let default = if setting.default.is_empty() { "none" } else { setting.default };
            wrap(&mut out, &format!("{} (default: {default})", setting.doc), "      ");
        }
        out.push('\n');
    }
    out.push_str("Accepted as redis-server has them, without an effect:\n");
    let ignored = TABLE.iter().filter(|setting| matches!(setting.support, Support::Ignored(_)));
    let names: Vec<&str> = ignored.map(|setting| setting.name).collect();
    wrap(&mut out, &names.join(" "), "  ");
    out.push_str("\nAccepted with their defaults only:\n");
    let fixed = TABLE.iter().filter(|setting| matches!(setting.support, Support::OnlyDefault(_)));
    let names: Vec<&str> = fixed.map(|setting| setting.name).collect();
    wrap(&mut out, &names.join(" "), "  ");
    out
}

fn push(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string can't fail.
    let _ = out.write_fmt(text);
}

fn wrap(out: &mut String, text: &str, indent: &str) {
    let mut line = indent.to_owned();
    for word in text.split(' ') {
        if line.len() > indent.len() && line.len() + 1 + word.len() > WIDTH {
            push(out, format_args!("{line}\n"));
            line.replace_range(indent.len().., "");
        }
        if line.len() > indent.len() {
            line.push(' ');
        }
        line.push_str(word);
    }
    push(out, format_args!("{line}\n"));
}

const INTRODUCTION: &str = "\
# Configuration

Settings have the names and value forms of Redis, so an existing `redis.conf` can be used. They
come from a file, from standard input, and from the command line; a later one wins:

```sh
ashlar redis.conf --port 7000 --maxmemory 2gb
echo 'maxmemory 128mb' | ashlar -
ashlar check-config redis.conf
```

A file has a setting and its values on each line, `#` starts a comment line, `\"...\"` with the escapes
`\\n \\r \\t \\b \\a \\\\ \\\" \\xHH` and `'...'` quote, and `include FILE` reads another file (its name may be a pattern).
Bytes may have a unit: `1k` is 1,000 and `1kb` is 1,024, up to `gb`.

What is unknown, wrong, or can't be honoured is refused with its file and line; `ashlar` does not start with
a configuration that it would only partly follow. While it runs, `CONFIG GET` shows the settings,
`CONFIG SET` changes all of the named ones or none, and `CONFIG REWRITE` writes them back into the file.

In the tables, *start* is a setting that is read at start only, *protected* one that `CONFIG SET` may change only
if `enable-protected-configs` says so, and *none* a setting that is accepted since existing files have it, but does
nothing; the reason is given. *Only the default* is refused with any other value.

This file is written by `ashlar --print-config-docs`.
";

/// All settings as Markdown.
pub fn markdown() -> String {
    let mut out = INTRODUCTION.to_owned();
    for (group, settings) in GROUPS {
        push(&mut out, format_args!("\n## {}\n\n", group.title()));
        out.push_str("| setting | value | default | changes | meaning |\n");
        out.push_str("| --- | --- | --- | --- | --- |\n");
        for setting in *settings {
            push(
                &mut out,
                format_args!(
                    "| {} | {} | {} | {} | {} |\n",
                    names(setting),
                    setting.kind.form().replace('|', "\\|"),
                    default(setting),
                    changes(setting),
                    meaning(setting)
                ),
            );
        }
    }
    out
}

fn names(setting: &Setting) -> String {
    let names: Vec<String> = setting.names().map(|name| format!("`{name}`")).collect();
    names.join(", ")
}

fn default(setting: &Setting) -> String {
    match setting.default {
        "" => "`\"\"`".into(),
        default => format!("`{default}`"),
    }
}

fn changes(setting: &Setting) -> &'static str {
    match (setting.support, setting.mutability) {
        (Support::Ignored(_), _) => "none",
        (Support::OnlyDefault(_), _) => "only the default",
        (Support::Yes, Mutability::RunTime) => "at any time",
        (Support::Yes, Mutability::Start) => "start",
        (Support::Yes, Mutability::Protected) => "protected",
    }
}

fn meaning(setting: &Setting) -> String {
    match setting.support {
        Support::Yes => setting.doc.into(),
        Support::Ignored(why) | Support::OnlyDefault(why) => format!("{} ({why})", setting.doc),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_is_documented() {
        let (help, markdown) = (help(), markdown());
        for setting in TABLE {
            assert!(help.contains(setting.name), "{}", setting.name);
            assert!(markdown.contains(&format!("| `{}`", setting.name)), "{}", setting.name);
        }
        assert!(help.lines().all(|line| line.len() <= WIDTH));
    }

    #[test]
    fn the_documentation_is_current() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");
        let text = std::fs::read_to_string(file).unwrap_or_default();
        assert!(
            text == markdown(),
            "write it anew: cargo run -- --print-config-docs > docs/configuration.md"
        );
    }
}
