//! Rules in, permissions out.

use super::*;
use crate::commands::FAMILIES;

fn acl() -> (Registry, Acl) {
    let registry = Registry::new(FAMILIES);
    let acl = Acl::new(&registry);
    (registry, acl)
}

fn set(registry: &Registry, acl: &Acl, name: &str, rules: &str) -> Result<(), String> {
    let words: Vec<&[u8]> = rules.split_ascii_whitespace().map(str::as_bytes).collect();
    let context = Context { registry, all_channels: false };
    acl.set_user(context, name.as_bytes(), &words).map(drop)
}

fn may(registry: &Registry, acl: &Acl, name: &str, call: &str) -> Result<(), Reason> {
    let args: Vec<&[u8]> = call.split_ascii_whitespace().map(str::as_bytes).collect();
    let resolved = registry.resolve(&args).expect("a command");
    let rules = acl.find(name.as_bytes()).expect("the user").rules();
    rules.check(resolved, &args).map_err(|denied| denied.reason)
}

#[test]
fn commands_keys_and_channels() {
    let (registry, acl) = acl();
    for (rules, call, expected) in [
        ("", "GET a", Err(Reason::Command)),
        ("", "AUTH x", Ok(())),
        ("+get", "GET a", Err(Reason::Key)),
        ("+get ~b*", "GET a", Err(Reason::Key)),
        ("+get ~a*", "GET abc", Ok(())),
        ("+@all -get ~*", "GET a", Err(Reason::Command)),
        ("+@all -@string ~*", "STRLEN a", Err(Reason::Command)),
        ("+@string ~*", "SET a b", Ok(())),
        ("+@read ~*", "SET a b", Err(Reason::Command)),
        ("+config|get", "CONFIG GET x", Ok(())),
        ("+config|get", "CONFIG SET x y", Err(Reason::Command)),
        ("+config -config|set", "CONFIG SET x y", Err(Reason::Command)),
        ("+config -config|set", "CONFIG GET x", Ok(())),
        ("+select|0", "SELECT 0", Ok(())),
        ("+select|0", "SELECT 1", Err(Reason::Command)),
        ("+select|0 -select", "SELECT 0", Err(Reason::Command)),
        ("+@all %R~a", "GET a", Ok(())),
        ("+@all %R~a", "SET a b", Err(Reason::Key)),
        ("+@all %W~a", "SET a b", Ok(())),
        ("+@all %W~a", "SET a b GET", Err(Reason::Key)),
        ("+@all %W~a", "GET a", Err(Reason::Key)),
        ("+@all %W~a", "STRLEN a", Ok(())),
        ("+@all %R~a %W~b", "COPY a b", Ok(())),
        ("+@all %R~a %W~b", "COPY b a", Err(Reason::Key)),
        ("+@all %R~a %W~b", "SINTERSTORE b a a", Ok(())),
        ("+@all %R~a %W~b", "SINTERSTORE b a b", Err(Reason::Key)),
        ("+@all %R~a %W~b", "SORT a STORE b", Ok(())),
        ("+@all %R~a %W~b", "SORT b STORE a", Err(Reason::Key)),
        ("+@all %R~a", "BITFIELD a GET u8 0", Ok(())),
        ("+@all %R~a", "BITFIELD a SET u8 0 1", Err(Reason::Key)),
        ("+@all %R~a %W~a", "LMOVE a a LEFT LEFT", Ok(())),
        ("+@all ~a", "MSET a 1 b 2", Err(Reason::Key)),
        ("+@all ~a ~b", "MSET a 1 b 2", Ok(())),
        ("+@all ~a", "XREAD STREAMS a b 0 0", Err(Reason::Key)),
        ("+@all ~a", "ZUNIONSTORE a 2 a b", Err(Reason::Key)),
        ("+@all &c*", "PUBLISH c1 m", Ok(())),
        ("+@all &c*", "PUBLISH d m", Err(Reason::Channel)),
        ("+@all &c*", "SUBSCRIBE c1 d", Err(Reason::Channel)),
        ("+@all &c*", "PSUBSCRIBE c1*", Err(Reason::Channel)),
        ("+@all &c*", "PSUBSCRIBE c*", Ok(())),
        ("+@all &c*", "UNSUBSCRIBE d", Ok(())),
        ("+get ~a (+set ~b) (+@all %R~c)", "SET b 1", Ok(())),
        ("+get ~a (+set ~b) (+@all %R~c)", "GET c", Ok(())),
        ("+get ~a (+set ~b) (+@all %R~c)", "SET a 1", Err(Reason::Key)),
        ("+get ~a (+set ~b) (+@all %R~c)", "MGET a c", Err(Reason::Key)),
    ] {
        set(&registry, &acl, "u", &format!("reset {rules}")).expect("rules");
        assert_eq!(may(&registry, &acl, "u", call), expected, "{rules}: {call}");
    }
}

#[test]
fn sort_with_patterns_needs_all_keys() {
    let (registry, acl) = acl();
    for (rules, call, forbidden) in [
        ("+@all ~a", "SORT a", None),
        ("+@all ~a", "SORT a BY nosort", None),
        ("+@all ~a", "SORT a BY w_*", Some("BY")),
        ("+@all ~a", "sort a alpha get x", Some("GET")),
        ("+@all ~a", "SORT_RO a LIMIT 0 1 GET #", Some("GET")),
        ("+@all ~*", "SORT a BY w_* GET *", None),
        ("+@all %R~*", "SORT a BY w_* GET *", None),
        ("+@all %W~*", "SORT a BY w_*", Some("BY")),
        ("+@all ~a (+get ~*)", "SORT a BY w_*", Some("BY")),
        ("+@all ~a (+sort ~*)", "SORT a BY w_*", None),
    ] {
        set(&registry, &acl, "u", &format!("reset {rules}")).expect("rules");
        let args: Vec<&[u8]> = call.split_ascii_whitespace().map(str::as_bytes).collect();
        let resolved = registry.resolve(&args).expect("a command");
        let rules_now = acl.find(b"u").expect("the user").rules();
        assert_eq!(rules_now.forbidden_sort(resolved, &args), forbidden, "{rules}: {call}");
    }
}

#[test]
fn what_is_shown_reads_back() {
    let (registry, acl) = acl();
    for (rules, shown) in [
        ("", "off resetchannels -@all"),
        ("on nopass ~* &* +@all", "on nopass ~* &* +@all"),
        ("~k* %R~r* %RW~b &c* +@all -get", "off ~k* %R~r* ~b resetchannels &c* +@all -get"),
        ("+get -@string +config|get -config", "off resetchannels -@all +get -@string -config"),
        ("+get +set -get", "off resetchannels -@all +set -get"),
        (
            "+GET +Select|0 (~x +get)",
            "off resetchannels -@all +get +select|0 (~x resetchannels -@all +get)",
        ),
    ] {
        set(&registry, &acl, "u", &format!("reset {rules}")).expect("rules");
        let user = acl.find(b"u").expect("the user");
        let text = String::from_utf8(user.rules().show()).expect("text");
        assert_eq!(text, shown, "{rules}");
        set(&registry, &acl, "v", &format!("reset {text}")).expect("what was shown");
        assert_eq!(acl.find(b"v").expect("the user").rules(), user.rules(), "{rules}");
    }
}

#[test]
fn a_wrong_rule_changes_nothing() {
    let (registry, acl) = acl();
    set(&registry, &acl, "u", "on >p +get ~a").expect("rules");
    let before = acl.find(b"u").expect("the user").rules();
    for rule in [
        "+nosuch",
        "-nosuch",
        "+@nosuch",
        "~a\tb~",
        "%X~a",
        "%~a",
        "%Ra",
        "<q",
        "#12",
        "+config|get|x",
        "+get|",
        "(+get",
        "(>p)",
        "foo",
    ] {
        let words = [&b"off"[..], rule.as_bytes()];
        let context = Context { registry: &registry, all_channels: false };
        assert!(acl.set_user(context, b"u", &words).is_err(), "{rule}");
        assert_eq!(acl.find(b"u").expect("the user").rules(), before, "{rule}");
    }
    for name in ["a b", "a\0b"] {
        let error = set(&registry, &acl, name, "on").expect_err("a bad name");
        assert_eq!(error, "ERR Usernames can't contain spaces or null characters");
    }
}

#[test]
fn passwords() {
    let (registry, acl) = acl();
    assert!(acl.authenticate(b"default", b"any").is_some());
    assert!(acl.authenticate(b"nobody", b"any").is_none());
    set(&registry, &acl, "u", "on >one >two").expect("rules");
    for (password, right) in [("one", true), ("two", true), ("three", false), ("", false)] {
        assert_eq!(acl.authenticate(b"u", password.as_bytes()).is_some(), right, "{password}");
    }
    set(&registry, &acl, "u", "<one").expect("rules");
    assert!(acl.authenticate(b"u", b"one").is_none());
    set(&registry, &acl, "u", "off").expect("rules");
    assert!(acl.authenticate(b"u", b"two").is_none());
    acl.set_default_password(b"secret");
    assert!(acl.needs_password() && acl.authenticate(b"default", b"").is_none());
    let shown = acl.lines().concat();
    assert!(!String::from_utf8_lossy(&shown).contains("secret"), "hashed at rest");
    acl.set_default_password(b"");
    assert!(!acl.needs_password());
}
