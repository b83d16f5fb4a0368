//! Reads settings from `redis.conf`, standard input and the command line.
//!
//! Sources are read in order, a later one wins. Every mistake is reported with its place, not only
//! the first, so that a file is repaired in one go.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::ids::Id;
use super::kind::Value;
use super::setting::Support;
use super::special::os_text;
use super::store::Settings;
use super::suggest::closest;
use super::table::{COUNT, REFUSED, TABLE};
use ashlar_engine::policy::{RULES_MAX, Rule};

use super::{CONFIG_BYTES_MAX, CONFIG_ERRORS_MAX, INCLUDE_DEPTH_MAX, line};

/// Where settings come from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A file in the form of `redis.conf`.
    File(PathBuf),
    /// The same, as text that was read already; the name is used in error texts.
    Text(&'static str, Vec<u8>),
    /// Command line words in Redis's form: `--port 7000 --save 60 1`.
    Flags(Vec<Vec<u8>>),
}

/// A setting that can't be honoured, and where it was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file and line, or the command line.
    pub place: String,
    /// The setting and what is wrong with it.
    pub message: String,
    /// The line, as far as it can be shown.
    pub line: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)?;
        if !self.line.is_empty() {
            write!(f, "\n    {}", self.line)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// Reads the sources over the defaults.
///
/// # Errors
/// Every mistake that was found, up to [`CONFIG_ERRORS_MAX`]; never an empty list.
pub fn load(sources: &[Source]) -> Result<Settings, Vec<ConfigError>> {
    let mut loader = Loader::new();
    for source in sources {
        loader.source(source);
    }
    loader.refuse_unsupported();
    if loader.errors.is_empty() {
        let mut settings = Settings::from_values(loader.values, loader.file);
        settings.user_lines = loader.user_lines;
        settings.policies = loader.policies;
        Ok(settings)
    } else {
        Err(loader.errors)
    }
}

struct Loader {
    values: Vec<Value>,
    /// The last place that gave a setting, and its line.
    given: Vec<Option<(String, String)>>,
    errors: Vec<ConfigError>,
    /// The words of the `user` lines.
    user_lines: Vec<Vec<Vec<u8>>>,
    policies: Vec<Rule>,
    file: Option<PathBuf>,
    bytes_left: u64,
}

impl Loader {
    fn new() -> Self {
        Self {
            values: Settings::defaults(),
            given: vec![None; COUNT],
            errors: Vec::new(),
            user_lines: Vec::new(),
            policies: Vec::new(),
            file: None,
            bytes_left: CONFIG_BYTES_MAX,
        }
    }

    fn source(&mut self, source: &Source) {
        match source {
            Source::File(path) => {
                self.file = std::path::absolute(path).ok();
                self.read_file(path, 0, "command line");
            }
            Source::Text(name, text) => self.read_text(name, text, 0),
            Source::Flags(words) => self.read_flags(words),
        }
    }

    fn error(&mut self, place: &str, message: String, line: &str) {
        if self.errors.len() < CONFIG_ERRORS_MAX {
            self.errors.push(ConfigError { place: place.into(), message, line: line.into() });
        }
    }

    fn read_file(&mut self, path: &Path, depth: usize, from: &str) {
        let name = path.display().to_string();
        if depth > INCLUDE_DEPTH_MAX {
            let message = format!("'{name}' is included more than {INCLUDE_DEPTH_MAX} files deep");
            return self.error(from, message, "");
        }
        let mut text = Vec::new();
        let read = std::fs::File::open(path)
            .and_then(|file| file.take(self.bytes_left + 1).read_to_end(&mut text));
        match read {
            Err(error) => {
                self.error(from, format!("can't read '{name}': {}", os_text(&error)), "");
            }
            Ok(bytes) if bytes as u64 > self.bytes_left => {
                let message = format!("the configuration is longer than {CONFIG_BYTES_MAX} bytes");
                self.error(from, message, "");
            }
            Ok(bytes) => {
                self.bytes_left -= bytes as u64;
                self.read_text(&name, &text, depth);
            }
        }
    }

    fn read_text(&mut self, name: &str, text: &[u8], depth: usize) {
        for (at, line) in text.split(|byte| *byte == b'\n').enumerate() {
            let line = line.trim_ascii();
            if line.is_empty() || line.starts_with(b"#") {
                continue;
            }
            let place = format!("{name}, line {}", at + 1);
            let shown = String::from_utf8_lossy(line);
            let Some(words) = line::split(line) else {
                self.error(&place, "a quote is not closed".into(), &shown);
                continue;
            };
            let Some((first, rest)) = words.split_first() else { continue };
            if first.eq_ignore_ascii_case(b"include") {
                self.include(rest, depth, &place, &shown);
            } else {
                self.directive(first, rest, &place, &shown);
            }
        }
    }

    /// Reads the files of an `include` line; the file name may be a pattern.
    fn include(&mut self, words: &[Vec<u8>], depth: usize, place: &str, line: &str) {
        let [pattern] = words else {
            return self.error(place, "include: wrong number of arguments".into(), line);
        };
        let pattern = String::from_utf8_lossy(pattern).into_owned();
        match included_files(Path::new(&pattern)) {
            Ok(files) => {
                for file in files {
                    self.read_file(&file, depth + 1, place);
                }
            }
            Err(error) => {
                self.error(place, format!("include: '{pattern}': {}", os_text(&error)), line);
            }
        }
    }

    /// Reads `--name value ...` until the next `--`, as redis-server does.
    fn read_flags(&mut self, words: &[Vec<u8>]) {
        let place = "command line";
        let mut rest = words;
        while let Some((flag, after)) = rest.split_first() {
            let length = after.iter().position(|word| word.starts_with(b"--"));
            let (values, next) =
                after.split_at_checked(length.unwrap_or(after.len())).unwrap_or((after, &[]));
            rest = next;
            let shown = String::from_utf8_lossy(flag).into_owned();
            let Some(name) = flag.strip_prefix(b"--") else {
                let message = format!("'{shown}' is not a setting; settings start with --");
                self.error(place, message, "");
                continue;
            };
            if let Some(at) = name.iter().position(|byte| *byte == b'=') {
                let name = String::from_utf8_lossy(name.get(..at).unwrap_or(name));
                let message = format!("'{shown}': write --{name} VALUE, without '='");
                self.error(place, message, "");
                continue;
            }
            let line = values.iter().map(|value| String::from_utf8_lossy(value));
            let line = std::iter::once(shown.into()).chain(line).collect::<Vec<_>>().join(" ");
            let none = [Vec::new()];
            let values = if values.is_empty() && name == b"save" { &none } else { values };
            self.directive(name, values, place, &line);
        }
    }

    fn directive(&mut self, name: &[u8], words: &[Vec<u8>], place: &str, line: &str) {
        if name.eq_ignore_ascii_case(b"user") {
            // Its rules are about commands, which are not known here.
            return self.user_lines.push(words.to_vec());
        }
        if name.eq_ignore_ascii_case(b"policy") {
            let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
            match Rule::parse(&words) {
                Ok(rule) if self.policies.len() < RULES_MAX => self.policies.push(rule),
                Ok(_) => self.error(place, "policy: too many policies".into(), line),
                Err(reason) => self.error(place, format!("policy: {reason}"), line),
            }
            return;
        }
        if name.eq_ignore_ascii_case(b"sentinel") {
            return self.sentinel(words, place, line);
        }
        let shown = String::from_utf8_lossy(name).into_owned();
        let Some(id) = Id::find(name) else {
            return self.error(place, unknown(&shown), line);
        };
        let setting = id.setting();
        let line = if setting.secret { format!("{shown} (redacted)") } else { line.to_owned() };
        let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
        let again = self.given[id.index()].is_some();
        let current = &self.values[id.index()];
        match setting.kind.read(&words, current, again) {
            Ok(value) => {
                self.values[id.index()] = value;
                self.given[id.index()] = Some((place.to_owned(), line));
            }
            Err(reason) => self.error(place, format!("{shown}: {reason}"), &line),
        }
    }

    /// A line of `sentinel.conf`. The groups of a cluster watch over themselves: where the first primary
    /// is and how many Sentinels agree is accepted and needs no setting, a majority always decides.
    fn sentinel(&mut self, words: &[Vec<u8>], place: &str, line: &str) {
        let option = words.first().map(|word| word.to_ascii_lowercase()).unwrap_or_default();
        let (setting, value): (&[u8], _) = match (option.as_slice(), words) {
            (b"monitor", [_, name, _, _, _]) => (b"sentinel-master-names", name),
            (b"down-after-milliseconds", [_, _, ms]) => (b"down-after-milliseconds", ms),
            (b"failover-timeout", [_, _, ms]) => (b"failover-timeout", ms),
            (b"parallel-syncs", [_, _, _]) => return,
            _ => {
                let forms = "monitor NAME HOST PORT QUORUM, down-after-milliseconds NAME MS and \
                             failover-timeout NAME MS";
                let message =
                    format!("sentinel: every node is its own Sentinel; known are {forms}");
                return self.error(place, message, line);
            }
        };
        self.directive(setting, std::slice::from_ref(value), place, line);
    }

    /// A setting without an implementation may keep its default only.
    fn refuse_unsupported(&mut self) {
        let defaults = Settings::defaults();
        for (at, setting) in TABLE.iter().enumerate() {
            let Support::OnlyDefault(why) = setting.support else { continue };
            if self.values[at] == defaults[at] {
                continue;
            }
            if let Some((place, line)) = self.given[at].clone() {
                self.error(&place, format!("{}: {why}", setting.name), &line);
            }
        }
    }
}

fn unknown(name: &str) -> String {
    let refused = REFUSED.iter().find(|(refused, _)| refused.eq_ignore_ascii_case(name));
    if let Some((name, why)) = refused {
        return format!("{name}: {why}");
    }
    match closest(name) {
        Some(known) => format!("unknown setting '{name}'; did you mean '{known}'?"),
        None => format!("unknown setting '{name}'"),
    }
}

/// The files that an `include` names, in the order of their names.
fn included_files(pattern: &Path) -> std::io::Result<Vec<PathBuf>> {
    let name = pattern.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if !name.contains(['*', '?', '[']) {
        return Ok(vec![pattern.to_owned()]);
    }
    let folder = pattern.parent().filter(|folder| !folder.as_os_str().is_empty());
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder.unwrap_or(Path::new(".")))? {
        let path = entry?.path();
        let own = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !own.starts_with('.') && super::matches(name.as_bytes(), own.as_bytes()) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::super::ids;
    use super::*;

    fn text(config: &str) -> Result<Settings, Vec<String>> {
        load(&[Source::Text("redis.conf", config.into())])
            .map_err(|errors| errors.iter().map(ToString::to_string).collect())
    }

    fn flags(line: &str) -> Result<Settings, Vec<String>> {
        let words = line::split(line.as_bytes()).unwrap();
        load(&[Source::Flags(words)])
            .map_err(|errors| errors.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_file_is_read_line_by_line() {
        let settings =
            text("# top\nPORT 7000\n\n  maxmemory 2gb\nrequirepass \"a b\"\nslave-priority 5\n")
                .unwrap();
        assert_eq!(settings.number(ids::PORT), 7000);
        assert_eq!(settings.number(ids::MAXMEMORY), 2 << 30);
        assert_eq!(&*settings.text(ids::REQUIREPASS), b"a b");
        assert_eq!(settings.get(&[b"replica-priority"])[0].1, b"5");
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        let errors =
            text("port 1\nmaxmemry 1gb\nport abc\nbind \"x\nhz\nloadmodule a\n").unwrap_err();
        assert_eq!(
            errors,
            [
                "redis.conf, line 2: unknown setting 'maxmemry'; did you mean 'maxmemory'?\n    \
                 maxmemry 1gb",
                "redis.conf, line 3: port: argument couldn't be parsed into an integer\n    port abc",
                "redis.conf, line 4: a quote is not closed\n    bind \"x",
                "redis.conf, line 5: hz: wrong number of arguments\n    hz",
                "redis.conf, line 6: loadmodule: modules can't be loaded\n    loadmodule a",
            ]
        );
    }

    #[test]
    fn lines_of_a_sentinel_are_understood() {
        let settings = text(
            "sentinel monitor first 10.0.0.1 6379 2\nsentinel down-after-milliseconds first 3000\n\
             sentinel failover-timeout first 20000\nsentinel parallel-syncs first 1\n\
             sentinel monitor second 10.0.0.2 6379 2\n",
        )
        .unwrap();
        assert_eq!(settings.string(ids::SENTINEL_MASTER_NAMES), "first second");
        assert_eq!(settings.number(ids::DOWN_AFTER_MILLISECONDS), 3000);
        assert_eq!(settings.number(ids::FAILOVER_TIMEOUT), 20000);
        let errors = text("sentinel auth-pass first secret\nsentinel monitor a\n").unwrap_err();
        assert_eq!(errors.len(), 2, "{errors:?}");
    }

    #[test]
    fn a_promise_that_can_not_be_kept_is_refused() {
        assert_eq!(text("tls-key-file-pass secret").unwrap_err().len(), 1);
        for line in ["appendonly no", "save \"\"", "save 60 1\nsave \"\"", "replicaof no one"] {
            assert!(text(line).is_ok(), "{line}");
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let errors = text("requirepass one two").unwrap_err();
        assert_eq!(
            errors,
            [
                "redis.conf, line 1: requirepass: wrong number of arguments\n    requirepass (redacted)"
            ]
        );
    }

    #[test]
    fn flags_take_words_until_the_next_flag() {
        let settings = flags(
            "--port 7001 --save --bind 127.0.0.1 -::1 --client-output-buffer-limit 'normal 1 2 3'",
        )
        .unwrap();
        assert_eq!(settings.number(ids::PORT), 7001);
        assert_eq!(&*settings.text(ids::BIND), b"127.0.0.1 -::1");
        assert!(settings.text(ids::CLIENT_OUTPUT_BUFFER_LIMIT).starts_with(b"normal 1 2 3 slave"));
        assert_eq!(
            flags("--port=7 extra --prot 1").unwrap_err(),
            [
                "command line: '--port=7': write --port VALUE, without '='",
                "command line: unknown setting 'prot'; did you mean 'port'?\n    --prot 1"
            ]
        );
        assert_eq!(flags("7").unwrap_err().len(), 1);
    }

    #[test]
    fn includes_are_read_and_bounded() {
        let folder = std::env::temp_dir().join(format!("ashlar-include-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let main = folder.join("main.conf");
        let own = main.display();
        std::fs::write(folder.join("b-1.conf"), "port 1\n").unwrap();
        std::fs::write(folder.join("b-2.conf"), "port 2\nhz 7\n").unwrap();
        std::fs::write(&main, format!("include {}/b-*.conf\nhz 8\n", folder.display())).unwrap();
        let settings = load(&[Source::File(main.clone())]).unwrap();
        assert_eq!((settings.number(ids::PORT), settings.number(ids::HZ)), (2, 8));
        std::fs::write(&main, format!("include {own}\n")).unwrap();
        let errors = load(&[Source::File(main.clone())]).unwrap_err();
        assert!(errors[0].message.contains("more than 16 files deep"), "{errors:?}");
        std::fs::write(&main, "include /no/such/file.conf\n").unwrap();
        let errors = load(&[Source::File(main.clone())]).unwrap_err();
        assert!(errors[0].to_string().contains("line 1: can't read '/no/such"), "{errors:?}");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
