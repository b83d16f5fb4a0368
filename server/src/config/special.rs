//! Settings whose values have a form of their own: lists, classes of limits.
//!
//! Their text form is kept canonical, so that what CONFIG GET shows is what was read, and the
//! server parses it once more when it needs numbers; none of them is read on a hot path.

use super::kind::{Reason, parse_int};
use super::units::parse_bytes;

/// The most words of a list that are accepted (addresses, save points, percentiles).
const WORDS_MAX: usize = 64;

/// What a class of clients may have waiting in its output buffers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClassLimit {
    /// Above this many bytes the client is cut off at once; 0 is no limit.
    pub hard_bytes: u64,
    /// Above this many bytes for `soft_seconds` the client is cut off; 0 is no limit.
    pub soft_bytes: u64,
    /// How long the soft limit may be exceeded.
    pub soft_seconds: u64,
}

/// The classes of `client-output-buffer-limit`, in the order of [`output_limits`].
const CLASSES: [&str; 3] = ["normal", "slave", "pubsub"];

/// The limits of the classes normal, replica and pubsub from the setting's text.
pub fn output_limits(text: &[u8]) -> [ClassLimit; 3] {
    let words: Vec<&[u8]> = text.split(|byte| *byte == b' ').collect();
    let mut limits = [ClassLimit::default(); 3];
    for class in words.chunks_exact(4) {
        if let Ok((at, limit)) = read_class(class) {
            limits[at] = limit;
        }
    }
    limits
}

fn read_class(words: &[&[u8]]) -> Result<(usize, ClassLimit), Reason> {
    let [name, hard, soft, seconds] = words else {
        return Err("Wrong number of arguments in buffer limit configuration.".into());
    };
    let name = if name.eq_ignore_ascii_case(b"replica") { b"slave" } else { *name };
    let at = CLASSES
        .iter()
        .position(|class| class.as_bytes().eq_ignore_ascii_case(name))
        .ok_or("Invalid client class specified in buffer limit configuration.")?;
    let amount = |word: &[u8]| parse_bytes(word).and_then(|bytes| u64::try_from(bytes).ok());
    let seconds = parse_int(seconds).ok().and_then(|seconds| u64::try_from(seconds).ok());
    match (amount(hard), amount(soft), seconds) {
        (Some(hard_bytes), Some(soft_bytes), Some(soft_seconds)) => {
            Ok((at, ClassLimit { hard_bytes, soft_bytes, soft_seconds }))
        }
        _ => {
            Err("Error in hard, soft or soft_seconds setting in buffer limit configuration.".into())
        }
    }
}

/// `client-output-buffer-limit`: classes that are not named keep their limits.
pub(super) fn read_output_limits(
    words: &[&[u8]],
    current: &[u8],
    _again: bool,
) -> Result<Vec<u8>, Reason> {
    if words.is_empty() || !words.len().is_multiple_of(4) {
        return Err("Wrong number of arguments in buffer limit configuration.".into());
    }
    let mut limits = output_limits(current);
    for class in words.chunks_exact(4) {
        let (at, limit) = read_class(class)?;
        limits[at] = limit;
    }
    let classes = CLASSES.iter().zip(limits).map(|(class, limit)| {
        format!("{class} {} {} {}", limit.hard_bytes, limit.soft_bytes, limit.soft_seconds)
    });
    Ok(classes.collect::<Vec<_>>().join(" ").into_bytes())
}

/// `save`: pairs of seconds and changes; the lines of a file add up, an empty value clears.
pub(super) fn read_save(words: &[&[u8]], current: &[u8], again: bool) -> Result<Vec<u8>, Reason> {
    if matches!(words, [b""]) {
        return Ok(Vec::new());
    }
    let valid = |pair: &[&[u8]]| {
        let [seconds, changes] = pair else { return false };
        let (Ok(seconds), Ok(changes)) = (parse_int(seconds), parse_int(changes)) else {
            return false;
        };
        seconds >= 1 && changes >= 0
    };
    if words.is_empty()
        || words.len() > WORDS_MAX
        || !words.len().is_multiple_of(2)
        || !words.chunks(2).all(valid)
    {
        return Err("Invalid save parameters".into());
    }
    let mut text = if again { current.to_vec() } else { Vec::new() };
    if !text.is_empty() {
        text.push(b' ');
    }
    text.extend(words.join(&b' '));
    Ok(text)
}

/// `bind`: addresses, the optional ones with a `-` in front.
pub(super) fn read_bind(words: &[&[u8]], _current: &[u8], _again: bool) -> Result<Vec<u8>, Reason> {
    if words.len() > 16 {
        return Err("Too many bind addresses specified.".into());
    }
    for word in words {
        let address = word.strip_prefix(b"-").unwrap_or(word);
        let text = std::str::from_utf8(address).map_err(|_| "an address must be text")?;
        let known = text.is_empty() && words.len() == 1
            || matches!(text, "*" | "::*" | "localhost")
            || text.parse::<std::net::IpAddr>().is_ok()
            || text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte))
                && text.bytes().any(|byte| byte.is_ascii_alphabetic());
        if !known {
            return Err(format!("'{text}' is neither an IP address nor a host name").into());
        }
    }
    Ok(words.join(&b' '))
}

/// `bind-source-addr`: an address, or none.
pub(super) fn read_source(
    words: &[&[u8]],
    _current: &[u8],
    _again: bool,
) -> Result<Vec<u8>, Reason> {
    let [word] = words else { return Err("it is one address".into()) };
    let text = String::from_utf8_lossy(word);
    if !text.is_empty() && text.parse::<std::net::IpAddr>().is_err() {
        return Err(format!("'{text}' is no IP address").into());
    }
    Ok(word.to_vec())
}

/// `latency-tracking-info-percentiles`: numbers from 0 to 100; an empty value clears.
pub(super) fn read_percentiles(
    words: &[&[u8]],
    _current: &[u8],
    _again: bool,
) -> Result<Vec<u8>, Reason> {
    if matches!(words, [b""]) {
        return Ok(Vec::new());
    }
    if words.len() > WORDS_MAX {
        return Err("too many percentiles".into());
    }
    let mut shown = Vec::new();
    for word in words {
        let number = std::str::from_utf8(word).ok().and_then(|text| text.parse::<f64>().ok());
        let number = number.ok_or("Invalid latency-tracking-info-percentiles parameters")?;
        if !(0.0..=100.0).contains(&number) {
            return Err("latency-tracking-info-percentiles parameters should sit between \
                        [0.0,100.0]"
                .into());
        }
        shown.push(number.to_string());
    }
    Ok(shown.join(" ").into_bytes())
}

/// The percentiles of the setting's text.
pub fn percentiles(text: &[u8]) -> Vec<f64> {
    let text = String::from_utf8_lossy(text);
    text.split_ascii_whitespace().filter_map(|word| word.parse().ok()).collect()
}

/// `oom-score-adj-values`: three numbers.
pub(super) fn read_oom_scores(
    words: &[&[u8]],
    _current: &[u8],
    _again: bool,
) -> Result<Vec<u8>, Reason> {
    if words.len() != 3 {
        return Err("wrong number of arguments".into());
    }
    let valid = |word: &&[u8]| parse_int(word).is_ok_and(|score| (-2000..=2000).contains(&score));
    if !words.iter().all(valid) {
        return Err("Invalid oom-score-adj-values, elements must be between -2000 and 2000.".into());
    }
    Ok(words.join(&b' '))
}

/// `dir`: a directory that exists, kept as an absolute path.
pub(super) fn read_dir(word: &[u8]) -> Result<Vec<u8>, Reason> {
    let path = std::str::from_utf8(word).map_err(|_| "the path must be UTF-8")?;
    let path = std::fs::canonicalize(path).map_err(|error| os_text(&error))?;
    if !path.is_dir() {
        return Err("Not a directory".into());
    }
    Ok(path.to_string_lossy().into_owned().into_bytes())
}

/// A list of cores, or nothing.
pub(super) fn read_cores(word: &[u8]) -> Result<Vec<u8>, Reason> {
    if !word.is_empty() && crate::cores::parse(word).is_none() {
        return Err("argument must be a list of cores, such as 0,2-5 or 0-6:2".into());
    }
    Ok(word.to_vec())
}

/// `replicaof`: `no one`, nothing, or a host and a port.
pub(super) fn read_primary(
    words: &[&[u8]],
    _current: &[u8],
    _again: bool,
) -> Result<Vec<u8>, Reason> {
    let nobody = |words: &[&[u8]]| matches!(words, [no, one] if no.eq_ignore_ascii_case(b"no") && one.eq_ignore_ascii_case(b"one"));
    match words {
        [b""] => Ok(Vec::new()),
        words if nobody(words) => Ok(Vec::new()),
        [_, _] => Ok(words.join(&b' ')),
        _ => Err("wrong number of arguments".into()),
    }
}

/// `sentinel-master-names`: names of groups in their order, as Sentinel allows them.
pub(super) fn read_names(words: &[&[u8]], current: &[u8], again: bool) -> Result<Vec<u8>, Reason> {
    if matches!(words, [b""]) {
        return Ok(Vec::new());
    }
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b".-_".contains(byte);
    if words.iter().any(|word| word.is_empty() || !word.iter().all(allowed)) {
        return Err("a name is letters, digits, '.', '-' and '_'".into());
    }
    // The `sentinel monitor` lines of a file add up.
    let mut names: Vec<&[u8]> = Vec::new();
    if again {
        names.extend(current.split(|byte| *byte == b' ').filter(|name| !name.is_empty()));
    }
    for word in words {
        if names.contains(word) {
            return Err("a name stands twice".into());
        }
        names.push(word);
    }
    if names.len() > WORDS_MAX {
        return Err("too many names".into());
    }
    Ok(names.join(&b' '))
}

/// The text of an I/O error without the `(os error N)` that Rust appends.
pub(crate) fn os_text(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<&[u8]> {
        text.split(' ').map(str::as_bytes).collect()
    }

    #[test]
    fn save_points_add_up_in_one_source() {
        assert_eq!(read_save(&words("3600 1"), b"9 9", false).unwrap(), b"3600 1");
        assert_eq!(read_save(&words("300 100"), b"3600 1", true).unwrap(), b"3600 1 300 100");
        assert_eq!(read_save(&[b""], b"3600 1", true).unwrap(), b"");
        for wrong in ["1", "1 2 3", "0 1", "1 -1", "a b", "1 "] {
            assert!(read_save(&words(wrong), b"", false).is_err(), "{wrong}");
        }
    }

    #[test]
    fn names_of_groups_add_up() {
        assert_eq!(read_names(&words("one two"), b"x", false).unwrap(), b"one two");
        assert_eq!(read_names(&words("two"), b"one", true).unwrap(), b"one two");
        for wrong in ["a a", "a:b", "a  b"] {
            assert!(read_names(&words(wrong), b"", false).is_err(), "{wrong}");
        }
    }

    #[test]
    fn output_limits_keep_the_classes_not_named() {
        let all = read_output_limits(&words("replica 1kb 2k 3"), b"normal 7 8 9", false).unwrap();
        assert_eq!(all, b"normal 7 8 9 slave 1024 2000 3 pubsub 0 0 0");
        let replica = ClassLimit { hard_bytes: 1024, soft_bytes: 2000, soft_seconds: 3 };
        assert_eq!(output_limits(&all)[1], replica);
        for wrong in ["foo 1 2 3", "normal 1 2", "normal -1 2 3", ""] {
            assert!(read_output_limits(&words(wrong), b"", false).is_err(), "{wrong}");
        }
    }

    #[test]
    fn bind_takes_addresses_and_names() {
        for good in ["127.0.0.1 -::1", "* -::*", "", "my-host.example", "0.0.0.0"] {
            assert!(read_bind(&words(good), b"", false).is_ok(), "{good}");
        }
        for bad in ["1.2.3", "a b/c", "300.1.1.1", "127.0.0.1 "] {
            assert!(read_bind(&words(bad), b"", false).is_err(), "{bad}");
        }
    }
}
