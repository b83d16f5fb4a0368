//! Scripts that the replicas of a group run, each for itself.
//!
//! In a cluster the group agrees on the script and not on its effects, so whatever ends a script, or
//! is seen by it, has to be the same on every replica:
//!
//! - Each runs in a state that is as good as fresh: one that is put back to what it was when it was made
//!   ([`Lua::put_back`](super::lua::Lua::put_back)). So its memory, and with it the moment at which it has too much, follows
//!   from the script alone, and not from what else a node has run or kept.
//! - It is ended by a number of instructions and not by a time ([`AGREED_LOOKS_MAX`](super::run::AGREED_LOOKS_MAX)).
//!   No SCRIPT KILL, no stop of a server and no bound on the time of loading ends it.
//! - It sees neither addresses nor a processor's time: `tostring` of a table has none, `os.clock` stands
//!   still, and tables are not walked that have keys whose order follows from addresses.

use super::lua::{Kind, Raise, Stack};
use super::sandbox::{Guard, unwrap_protected};
use std::ffi::c_int;

/// Functions of Lua that are looked at first, in the place of what looks at them in other states.
pub(super) const GUARDED: [Guard; 3] = [
    (None, c"tostring", hide_address),
    (None, c"next", check_at_start),
    (Some(c"table"), c"foreach", check_order),
];

/// `os.clock()`: no time passes.
pub fn clock(stack: &mut Stack<'_>) -> Result<c_int, Raise> {
    stack.push_number(0.0);
    Ok(1)
}

/// Before `tostring`: what would be shown by its address is shown by its type.
fn hide_address(stack: &mut Stack<'_>) -> Result<(), Raise> {
    let kind = stack.kind(1);
    if has_order(kind) || matches!(kind, Kind::None | Kind::Nil) {
        return Ok(());
    }
    if stack.push_metatable(1) {
        if stack.kind(-1) != Kind::Table {
            stack.pop(1);
        } else {
            stack.get_field(-1, c"__tostring");
            let has_own = stack.kind(-1) != Kind::Nil;
            stack.pop(2);
            if has_own {
                return Ok(());
            }
        }
    }
    stack.push_bytes(format!("{}: 0x0", kind.name()).as_bytes());
    stack.replace(1);
    Ok(())
}

/// Before `next`, where a walk begins.
fn check_at_start(stack: &mut Stack<'_>) -> Result<(), Raise> {
    unwrap_protected(stack)?;
    match stack.kind(2) {
        Kind::None | Kind::Nil => check_order(stack),
        _ => Ok(()),
    }
}

/// Before a walk through the first argument: the order of its keys has to be the same on every replica.
pub(super) fn check_order(stack: &mut Stack<'_>) -> Result<(), Raise> {
    if stack.kind(1) != Kind::Table {
        return Ok(());
    }
    stack.ensure(3)?;
    stack.push_nil();
    while stack.next(1) {
        if !has_order(stack.kind(-2)) {
            return Err(stack.error(
                "a table whose keys are tables or functions has another order on each replica",
            ));
        }
        stack.pop(1);
    }
    Ok(())
}

/// Whether a key's place in a table follows from its value, and not from its address.
pub(super) fn has_order(kind: Kind) -> bool {
    matches!(kind, Kind::Boolean | Kind::Number | Kind::String)
}

#[cfg(test)]
mod tests {
    use crate::scripting::copies::COPIES_BYTES_MAX;
    use crate::scripting::interpreter::Interpreter;

    const LOOKS: u32 = 1_000_000;

    fn run(interpreter: &mut Interpreter, script: &str) -> String {
        let reply = interpreter.run_alone(script.as_bytes(), LOOKS);
        let reply = reply.unwrap_or_else(|error| error.message().into_owned().into_bytes());
        String::from_utf8_lossy(&reply).into_owned()
    }

    /// Counts how far it comes until it has no memory.
    const FILL: &str = "local t, n = {}, 0 \
        pcall(function() while true do \
            n = n + 1 t[n] = {} for i = 1, 5000 do t[n][i] = i end \
        end end) \
        t = nil return n";

    #[test]
    fn memory_ends_a_script_at_the_same_moment_everywhere() {
        let ends = [(); 2].map(|()| run(&mut Interpreter::agreed().unwrap(), FILL));
        assert_eq!(ends[0], ends[1]);
    }

    /// Scripts of all kinds, with what they leave behind: garbage, coroutines in the middle, errors, no memory.
    const KINDS: [&str; 12] = [
        "return collectgarbage('count') * 1024",
        "local t = {} for n = 1, 3000 do t['k' .. n] = {n, tostring(n)} end return #t['k77'][2]",
        "local s = '' for n = 1, 200 do s = s .. ('y'):rep(n) end return #s",
        "local f = coroutine.wrap(function(...) for n = 1, 9 do coroutine.yield(n) end end) f() return f()",
        "return cjson.encode({a = {1, 2, {b = 'c'}}}) .. #cmsgpack.pack({1, 'two', {3}})",
        "cjson.encode_max_depth(2) local ok, why = pcall(cjson.encode, {{{{}}}}) return why",
        "error({err = 'ERR own'})",
        "local function f() return f() + 1 end return f()",
        "local ok = pcall(function() return ('x'):rep(200 * 1024 * 1024) end) return tostring(ok)",
        "return #string.format('%s %d %q', 'a', 7, 'q') + struct.size('i') + bit.band(7, 3)",
        "return redis.sha1hex(tostring(math.random(1000))) .. ('abc'):gsub('b', '%0%0')",
        "local t = setmetatable({}, {__gc = 1, __mode = 'k'}) t[{}] = 1 collectgarbage() return next(t) == nil",
    ];

    #[test]
    fn a_state_that_was_put_back_is_as_good_as_fresh() {
        let wanted: Vec<String> =
            KINDS.iter().map(|script| run(&mut Interpreter::agreed().unwrap(), script)).collect();
        let mut used = Interpreter::agreed().unwrap();
        let mut rng = ashlar_engine::stamp::Rng::new(7);
        for nth in 0..200 {
            // First each of them behind each other one, then at random.
            let at = if nth < 144 {
                nth % 12 * (nth % 2) + nth / 12 * (1 - nth % 2)
            } else {
                rng.next_u64() as usize % 12
            };
            assert_eq!(run(&mut used, KINDS[at]), wanted[at], "run {nth}: {}", KINDS[at]);
            assert!(used.put_back());
        }
        // Where a state ends does not depend on who was there before.
        assert_eq!(run(&mut used, FILL), run(&mut Interpreter::agreed().unwrap(), FILL));
        assert!(used.put_back());
        assert_eq!(run(&mut used, KINDS[0]), wanted[0]);
        // One that is not put back shows that somebody was there.
        assert_ne!(run(&mut used, KINDS[0]), wanted[0]);
    }

    /// As above, with scripts that are compiled once and found again.
    #[test]
    fn a_script_that_was_compiled_before_sees_the_same() {
        let text = |reply: Result<Vec<u8>, ashlar_engine::error::Error>| {
            let reply = reply.unwrap_or_else(|error| error.message().into_owned().into_bytes());
            String::from_utf8_lossy(&reply).into_owned()
        };
        let scripts = KINDS.iter().copied().chain([FILL]);
        let scripts: Vec<&str> = scripts.filter(|script| !script.contains("1024 * 1024")).collect();
        let fresh = |script: &&str| {
            text(Interpreter::agreed().unwrap().run_known(script.as_bytes(), LOOKS))
        };
        let wanted: Vec<String> = scripts.iter().map(fresh).collect();
        let mut used = Interpreter::agreed().unwrap();
        let mut rng = ashlar_engine::stamp::Rng::new(11);
        for nth in 0..300 {
            // The one that takes all the memory there is takes its time too.
            let of = scripts.len() - usize::from(nth % 20 > 0);
            let at = rng.next_u64() as usize % of;
            let seen = text(used.run_known(scripts[at].as_bytes(), LOOKS));
            assert_eq!(seen, wanted[at], "run {nth}: {}", scripts[at]);
            assert!(used.put_back());
            if nth % 7 == 0 {
                assert!(used.put_back_to_base());
                let seen = text(used.run_alone(scripts[0].as_bytes(), LOOKS));
                assert_eq!(seen, run(&mut Interpreter::agreed().unwrap(), scripts[0]));
                assert!(used.put_back());
            }
        }
    }

    #[test]
    fn copies_of_states_make_room_for_each_other() {
        let mut used = Interpreter::agreed().unwrap();
        for round in 0..3 {
            for nth in 0..60 {
                let script = format!("return {nth} .. '{}'", "x".repeat(100 * nth));
                let reply = used.run_known(script.as_bytes(), LOOKS).unwrap();
                assert!(reply.starts_with(b"$"), "{round}, {nth}");
                assert!(used.put_back());
                let bytes = used.copied_bytes();
                assert!(bytes <= COPIES_BYTES_MAX, "{bytes}");
                assert_eq!(bytes > 0, round > 0, "of the second time on");
            }
        }
        for nth in 0..200 {
            let script = format!("local t = {{{}}} return {nth}", "{},".repeat(1_000));
            for _ in 0..2 {
                used.run_known(script.as_bytes(), LOOKS).unwrap();
                assert!(used.put_back());
            }
            assert!(used.copied_bytes() <= COPIES_BYTES_MAX);
        }
    }

    #[test]
    fn nothing_is_seen_that_differs() {
        let look = "return tostring({}) .. tostring(print) .. tostring(pairs) .. os.clock() .. \
                    collectgarbage('count') .. tostring('s') .. tostring(1) .. tostring(nil) .. \
                    tostring(setmetatable({}, {__tostring = function() return 'own' end}))";
        let look = look.replace("tostring(print) .. ", "");
        let seen = [(); 2].map(|()| run(&mut Interpreter::agreed().unwrap(), &look));
        assert_eq!(seen[0], seen[1]);
        assert!(seen[0].contains("table: 0x0function: 0x00"), "{}", seen[0]);
        assert!(seen[0].ends_with("s1nilown\r\n"), "{}", seen[0]);
        let plain = run(&mut Interpreter::new(0).unwrap(), "return tostring({})");
        assert!(!plain.contains("table: 0x0\r"), "{plain}");
    }

    #[test]
    fn tables_are_walked_in_an_order_that_all_replicas_have() {
        let mut interpreter = Interpreter::agreed().unwrap();
        let refused = "another order on each replica";
        for (script, wanted) in [
            ("for k in pairs({[{}] = 1}) do end return 1", refused),
            ("return next({[pairs] = 1})", refused),
            ("table.foreach({[{}] = 1, a = 2}, function() end) return 1", refused),
            ("return cmsgpack.pack({[{}] = 1})", "has no order"),
            (
                "local s = '' for k, v in pairs({a = 1, [2] = 2, [true] = 3}) do s = s .. v end return #s",
                ":3",
            ),
            ("return next({a = 1})", "a"),
            ("local t = {[{}] = 1} return #t", ":0"),
            ("for k in pairs(string) do return k end return 'hidden'", ""),
            ("return type(next(string))", "string"),
        ] {
            let reply = run(&mut interpreter, script);
            assert!(reply.contains(wanted), "{script}: {reply}");
        }
    }
}
