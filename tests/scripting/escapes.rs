//! What has been wrong with scripts in Redis and Valkey, each as a test: ways out of the sandbox,
//! overflows in the libraries, recursion without a bound, and memory without one. After each the
//! server still answers, and the next script finds nothing of the last.

use super::{ask, eval, text};
use ashlar_engine::known_bugs::Bug;
use ashlar_tests::faults::prove;
use ashlar_tests::process::Server;
use ashlar_tests::resp::Client;
use std::io::Read;

/// Runs scripts, none of which may bring the server down; returns their replies as texts.
fn survive(scripts: &[&str]) -> Vec<String> {
    let server = Server::ashlar(&[]);
    let mut client = server.client();
    let replies = scripts.iter().map(|script| text(&eval(&mut client, script))).collect();
    assert_eq!(text(&ask(&mut client, &["PING"])), "PONG", "its log:\n{}", server.log());
    replies
}

/// As [`survive`], where each script has to fail with a text that holds `wanted`.
fn refuse(cases: &[(&str, &str)]) {
    let scripts: Vec<&str> = cases.iter().map(|(script, _)| *script).collect();
    for (reply, (script, wanted)) in survive(&scripts).iter().zip(cases) {
        assert!(reply.contains(wanted), "{script}: {reply}, not {wanted}");
    }
}

/// CVE-2022-0543, CVE-2015-4335: libraries and bytecode that lead out of Lua.
#[test]
fn nothing_leads_out_of_the_sandbox() {
    refuse(&[
        ("return package.loadlib('x', 'y')", "nonexistent global variable 'package'"),
        ("return io.popen('id')", "nonexistent global variable 'io'"),
        ("return os.execute('id')", "attempt to call field 'execute'"),
        ("return require('io')", "nonexistent global variable 'require'"),
        ("return dofile('/etc/passwd')", "nonexistent global variable 'dofile'"),
        ("return loadfile('/etc/passwd')", "nonexistent global variable 'loadfile'"),
        ("return debug.getregistry()", "nonexistent global variable 'debug'"),
        ("return getfenv(0)", "nonexistent global variable 'getfenv'"),
        ("setfenv(1, {})", "nonexistent global variable 'setfenv'"),
        ("return newproxy(true)", "nonexistent global variable 'newproxy'"),
        ("return string.dump", ""),
    ]);
}

#[test]
fn bytecode_is_not_loaded() {
    refuse(&[
        (
            "return loadstring(string.dump(function() return 1 end))()",
            "attempt to call a nil value",
        ),
        (
            "local c = string.dump(function() return 1 end) local n = 0 \
          return load(function() n = n + 1 if n == 1 then return c end end)()",
            "attempt to call a nil value",
        ),
        (
            "local c = string.dump(function() return 1 end) local n = 0 \
          return load(function() n = n + 1 return c:sub(n, n) end)()",
            "attempt to call a nil value",
        ),
        ("\u{1b}Lua", "Error compiling script"),
    ]);
}

/// CVE-2022-24735, CVE-2025-46818: what one script leaves for another user's.
#[test]
fn scripts_leave_nothing_behind() {
    refuse(&[
        ("string.rep = nil", "readonly table"),
        ("redis.call = nil", "readonly table"),
        ("_G.x = 1", "readonly table"),
        ("x = 1", "readonly table"),
        ("function redis.call() end", "readonly table"),
        ("rawset(_G, 'x', 1)", "readonly table"),
        ("rawset(cjson, 'encode', 1)", "readonly table"),
        ("table.insert(math, 1)", "readonly table"),
        ("table.remove(math)", "readonly table"),
        ("table.sort(redis)", "readonly table"),
        ("setmetatable(_G, {})", "readonly table"),
        ("setmetatable(string, {})", "readonly table"),
        ("getmetatable('').__index = {}", "attempt to index a boolean value"),
        ("getmetatable(_G).__index = {}", "attempt to index a boolean value"),
        ("getmetatable(redis).__index.call = nil", "attempt to index a boolean value"),
        ("local t = next(getmetatable(_G) or {}) return tostring(t)", "nil"),
        ("return tostring(rawget(_G, '__index'))", "nil"),
        ("for k, v in pairs(_G) do if v == 1 then return k end end return 'clean'", "clean"),
        ("return tostring(#_G) .. tostring(#string) .. tostring(#redis)", "000"),
    ]);
}

#[test]
fn arguments_of_one_script_are_not_the_next_ones() {
    let server = Server::ashlar(&[]);
    let mut client = server.client();
    let script = "local n = #KEYS + #ARGV KEYS[9] = 'kept' return n";
    ask(&mut client, &["EVAL", script, "1", "k", "a"]);
    let reply = eval(&mut client, "return tostring(KEYS[9]) .. #KEYS .. #ARGV");
    assert_eq!(text(&reply), "nil00");
    // Nor are its settings.
    eval(&mut client, "cjson.encode_max_depth(1) redis.setresp(3)");
    let reply = eval(&mut client, "return cjson.encode({{1}}) .. tostring(redis.call('get', 'x'))");
    assert_eq!(text(&reply), "[[1]]false");
}

/// KEYS and ARGV are tables that are used again: whatever a script does to them, the next one finds
/// lists of its own arguments and nothing else.
#[test]
fn lists_of_arguments_are_plain_whatever_the_last_script_did() {
    let server = Server::ashlar(&[]);
    let mut client = server.client();
    let deeds = [
        "KEYS[16] = 'kept' ARGV[15] = 'kept'",
        "KEYS[17] = 'kept' ARGV.kept = 'kept'",
        "KEYS[1] = nil KEYS.kept = 1 KEYS.kept = nil",
        "KEYS[1] = nil ARGV[1] = nil",
        "KEYS[-1] = 'kept' KEYS[1.5] = 'kept' KEYS[KEYS] = ARGV",
        "setmetatable(KEYS, {__index = function() return 'kept' end, __len = 5})",
        "setmetatable(ARGV, getmetatable(KEYS)) rawset(KEYS, 'x', 1) rawset(KEYS, 'x', nil)",
        "for i = 1, 100 do table.insert(KEYS, i) end",
        "for i = 1, 100 do KEYS['k' .. i] = i end for i = 1, 100 do KEYS['k' .. i] = nil end",
        "for k in pairs(KEYS) do KEYS[k] = nil end collectgarbage()",
        "table.sort(ARGV) table.remove(KEYS) table.remove(KEYS)",
        "local t = KEYS t.self = t error('in the middle')",
        "_G.KEYS[3] = 'kept' loadstring('ARGV[4] = 1 KEYS.x = 2')()",
    ];
    let look = "local n = 0 for k, v in pairs(KEYS) do n = n + 1 end for k in pairs(ARGV) do n = n + 1 end \
                return {n, #KEYS, #ARGV, tostring(KEYS[1]), tostring(KEYS[3]), tostring(ARGV[1]), \
                tostring(getmetatable(KEYS)), tostring(KEYS.kept), tostring(_G.KEYS == KEYS), \
                loadstring('return #KEYS + #ARGV')()}";
    let long = "x".repeat(5_000);
    let fill = |prefix: &str, count: usize| (0..count).map(|n| format!("{prefix}{n}")).collect();
    for deed in deeds {
        for (keys, args) in [(0, 0), (2, 1), (1, 3), (16, 16), (17, 2), (2, 40)] {
            let (mut keys, args): (Vec<String>, Vec<String>) = (fill("k", keys), fill("a", args));
            for round in 0..3 {
                if round == 2 && !keys.is_empty() {
                    keys[0].clone_from(&long);
                }
                let count = keys.len().to_string();
                let given = keys.iter().chain(&args).map(String::as_str);
                let call = |script: &str, client: &mut Client| {
                    let argv = ["EVAL", script, &count].into_iter().chain(given.clone());
                    client.call(&argv.collect::<Vec<_>>()).expect("a reply")
                };
                call(deed, &mut client);
                let reply = call(look, &mut client);
                let at = |list: &[String], n: usize| list.get(n).cloned().unwrap_or("nil".into());
                let items = reply.items().unwrap_or_else(|| panic!("{deed}: {reply:?}"));
                let shown: Vec<String> = items.iter().map(text).collect();
                let wanted = [
                    (keys.len() + args.len()).to_string(),
                    keys.len().to_string(),
                    args.len().to_string(),
                    at(&keys, 0),
                    at(&keys, 2),
                    at(&args, 0),
                    "nil".into(),
                    "nil".into(),
                    "true".into(),
                    (keys.len() + args.len()).to_string(),
                ];
                assert_eq!(shown, wanted, "after {deed}");
            }
        }
    }
}

/// Names are found directly by scripts that assign to none: those that do are still refused, in
/// whatever function it is.
#[test]
fn globals_are_read_only_in_every_function_of_a_script() {
    let refused = "readonly table";
    refuse(&[
        ("KEYS = {}", refused),
        ("redis = nil", refused),
        ("local f = function() return function() ARGV = 1 end end f()()", refused),
        ("function string() end", refused),
        ("loadstring('KEYS = 1')()", refused),
        ("coroutine.wrap(function() math = 1 end)()", refused),
        ("local redis = {} redis.x = 1 return redis.x", "1"),
        ("return tostring(KEYS ~= nil and _G.KEYS == KEYS and _G._G == _G)", "true"),
        ("return nosuch", "nonexistent global variable 'nosuch'"),
        ("return _G.nosuch", "nonexistent global variable 'nosuch'"),
        (
            "local f = function() return nosuch end return f()",
            "nonexistent global variable 'nosuch'",
        ),
    ]);
}

/// A command's reply is left out where the script drops it; its error is not.
#[test]
fn results_that_are_dropped_are_not_missed() {
    let cases = [
        ("redis.call('set', 'k', 'v') return redis.call('get', 'k')", "v"),
        ("local a = redis.call('get', 'k') redis.call('get', 'k') return a", "v"),
        ("local a, b = redis.call('get', 'k') return tostring(a) .. tostring(b)", "vnil"),
        ("return select('#', redis.call('get', 'k'))", "1"),
        ("return {redis.call('get', 'k'), redis.call('get', 'k')}", ""),
        ("redis.call('incr', 'k') return 1", "not an integer"),
        ("redis.pcall('incr', 'k') return 'went on'", "went on"),
        ("redis.pcall('nosuch') return 'went on'", "went on"),
        ("return redis.pcall('incr', 'k').err", "not an integer"),
        ("return select(2, pcall(redis.call, 'get', 'k'))", "v"),
        ("local f = redis.call f('set', 'k', 'w') return f('get', 'k')", "w"),
        (
            "local t = setmetatable({}, {__index = redis.call}) return type(pcall(function() return t.x end))",
            "boolean",
        ),
        (
            "local c = coroutine.wrap(function() redis.call('set', 'k', 'x') coroutine.yield(redis.call('get', 'k')) end) return c()",
            "x",
        ),
        (
            "for i = 1, 300 do redis.call('set', 'k' .. i, i) end local s = 0 for i = 1, 300 do s = s + redis.call('get', 'k' .. i) end return s",
            "45150",
        ),
        (
            "for _, n in ipairs({1, -1, 0.5, 1e15, 123456789012345680, -0.0, 2^53}) do redis.call('rpush', 'l', n) end return table.concat(redis.call('lrange', 'l', '0', '-1'), ' ')",
            "1 -1 0.5 1000000000000000 1.2345678901234568e+17 -0 9007199254740992",
        ),
        (
            "for i = 1, 50 do local name = ('g'):rep(1) .. 'et' redis.call(name, 'k') collectgarbage() redis.call('GET', 'k') redis.call('Get', 'k') end return redis.call('get', 'k')",
            "x",
        ),
        ("redis.call('get') return 1", "Wrong number of args"),
        ("redis.call('get', 'k') redis.call('get', 'k', 'k') return 1", "Wrong number of args"),
    ];
    refuse(&cases);
}

/// CVE-2018-11218, CVE-2018-12326, CVE-2022-24834: overflows in cmsgpack and cjson.
#[test]
fn cmsgpack_and_cjson_keep_within_their_input() {
    refuse(&[
        ("return cmsgpack.unpack('\\221\\255\\255\\255\\255')", "Missing bytes"),
        ("return cmsgpack.unpack('\\223\\255\\255\\255\\255')", "Missing bytes"),
        ("return cmsgpack.unpack('\\219\\255\\255\\255\\255')", "Missing bytes"),
        ("return cmsgpack.unpack(('\\145'):rep(100000))", "stack overflow"),
        ("return cmsgpack.unpack(('\\129\\1'):rep(100000))", "stack overflow"),
        ("local t = {} t[1] = t return #cmsgpack.pack(t)", "17"),
        ("return #cmsgpack.pack(unpack({}, 1, 7000))", "7000"),
        ("return cmsgpack.unpack_one('\\1', 2147483647)", "greater than input length"),
        ("return cmsgpack.unpack_limit('\\1', 1, -2147483648)", "Invalid request"),
        ("return cmsgpack.unpack_one('\\1', 0/0)", "Invalid request"),
        ("local t = {} t.t = t return cjson.encode(t)", "excessive nesting"),
        (
            "cjson.encode_max_depth(2147483647) local t = {} t.t = t return cjson.encode(t)",
            "excessive nesting",
        ),
        (
            "cjson.decode_max_depth(2147483647) return cjson.decode(('['):rep(1000000))",
            "too many nested",
        ),
        ("return cjson.decode(('{\"a\":'):rep(1000000))", "too many nested"),
        ("local t = {} t[2147483647] = 1 return cjson.encode(t)", "excessively sparse array"),
        (
            "cjson.encode_sparse_array(true, 1, 1) local t = {} t[2147483647] = 1 return cjson.encode(t)",
            "{\"2147483647\":1}",
        ),
        ("return #cjson.encode(('\\1'):rep(1000000))", "6000002"),
    ]);
}

/// CVE-2018-11219, CVE-2020-14147: overflows in struct.
#[test]
fn struct_keeps_within_its_input() {
    refuse(&[
        ("return struct.pack('i99999999999', 1)", "integral size overflow"),
        ("return struct.pack('!99999999999 i', 1)", "integral size overflow"),
        ("return struct.pack('i33', 1)", "larger than limit"),
        ("return struct.pack('c2147483647', 'x')", "string too short"),
        ("return struct.unpack('c2147483647', 'x')", "too short"),
        ("return struct.unpack('b', 'x', 2147483647)", "too short"),
        ("return struct.unpack('b', 'x', 1e308)", "too short"),
        ("return struct.unpack('b', 'x', 0/0)", "must be 1 or greater"),
        ("return struct.unpack('b', 'x', -2147483648)", "must be 1 or greater"),
        ("return struct.unpack('dc0', struct.pack('d', 1e300))", "too short"),
        ("return struct.unpack('dc0', struct.pack('d', -1))", "too short"),
        ("return struct.unpack('dc0', struct.pack('d', 0/0))", "too short"),
        ("return struct.unpack(('b'):rep(100000), ('x'):rep(100000))", "too many results"),
        ("return struct.pack('!2147483648 b')", "integral size overflow"),
        ("return struct.size(('c2147483647'):rep(10))", ""),
        ("return #struct.pack(('!1073741824 b d '):rep(3), 1, 2, 3, 4, 5, 6)", "48"),
    ]);
}

/// CVE-2024-31449: `bit.tohex` and the smallest integer.
#[test]
fn bit_operations_take_every_integer() {
    refuse(&[
        ("return bit.tohex(1, -2147483648)", "00000001"),
        ("return bit.tohex(65535, 2147483647)", "0000ffff"),
        ("return bit.lshift(1, 1e308)", ""),
        ("return bit.bnot(0/0)", ""),
        ("return bit.rol(-2147483648, -2147483648)", "-2147483648"),
    ]);
}

/// CVE-2025-46817: `unpack` with bounds whose difference overflows.
#[test]
fn unpack_counts_without_overflow() {
    refuse(&[
        ("return unpack({}, 1, 2147483647)", "too many results"),
        ("return unpack({}, -2147483648, 2147483647)", "too many results"),
        ("return unpack({}, 0, 2147483647)", "too many results"),
        ("return unpack({}, -2147483648, 0)", "too many results"),
        ("return #{unpack({}, 2147483647, -2147483648)}", "0"),
        ("return #{unpack({}, 2147483647, 2147483647)}", "0"),
    ]);
}

/// CVE-2025-49844: the parser and the collector.
#[test]
fn names_of_chunks_outlive_the_parser() {
    let collects = "for i = 1, 300 do \
                      local source = 'local x = ' .. ('{'):rep(50) .. ('\"' .. i .. '\",'):rep(200) \
                      loadstring(source, '@' .. ('n'):rep(100) .. i) collectgarbage('step') \
                    end return 'done'";
    refuse(&[(collects, "done")]);
}

/// CVE-2025-46819: long brackets with more signs than an integer counts, and those that do not end.
#[test]
fn long_brackets_end_with_the_text() {
    refuse(&[
        ("return loadstring('return [' .. ('='):rep(1000000))", ""),
        (
            "return #loadstring('return [' .. ('='):rep(1000) .. '[x]' .. ('='):rep(1000) .. ']')()",
            "1",
        ),
        ("return select(2, loadstring(('='):rep(17000000)))", "too many bytes"),
    ]);
}

#[test]
fn recursion_has_a_bound() {
    refuse(&[
        ("local function f() return f() + 1 end return f()", "stack overflow"),
        ("local function f() return pcall(f) end return tostring(f())", "true"),
        (
            "local t = setmetatable({}, {}) getmetatable(t).__index = function(t, k) return t[k] end \
          return t.x",
            "overflow",
        ),
        (
            "local t = setmetatable({}, {}) getmetatable(t).__index = t return t.x",
            "loop in gettable",
        ),
        ("return loadstring(('('):rep(100000))", ""),
        ("return loadstring('return ' .. ('{'):rep(100000))", ""),
        ("return loadstring('return ' .. ('-'):rep(10000) .. '1')", ""),
        ("local c c = function() return coroutine.wrap(c)() end return c()", "overflow"),
    ]);
}

#[test]
fn patterns_do_not_exhaust_the_stack() {
    refuse(&[
        ("return string.find(('x'):rep(300000), ('x?'):rep(300000))", "pattern too complex"),
        ("return string.match(('x'):rep(300000), ('x-'):rep(300000))", "pattern too complex"),
        ("return string.gsub(('x'):rep(300000), ('()'):rep(300000), '')", "pattern too complex"),
        (
            "for x in string.gmatch(('x'):rep(300000), ('x*'):rep(300000)) do end",
            "pattern too complex",
        ),
        ("return string.find(('x'):rep(300000), ('(x'):rep(300000))", "pattern too complex"),
        ("return ('x'):rep(300000):find(('x'):rep(300000))", "1"),
        ("return ('x'):rep(900):find(('x?'):rep(400))", "1"),
    ]);
}

#[test]
fn memory_has_a_bound() {
    let over = "not enough memory";
    refuse(&[
        ("return #string.rep('x', 2147483647)", "too large"),
        ("return #string.rep('x', 1e308)", "0"),
        ("return #string.rep('', 2147483647)", "0"),
        ("local s = ('x'):rep(200000000) return #(s .. s .. s)", over),
        ("local t = {} for i = 1, 1e9 do t[i] = ('x'):rep(10000000) .. i end", over),
        (
            "local s = ('x'):rep(100000000) local t = {} for i = 1, 9 do t[i] = s end \
          return #table.concat(t)",
            over,
        ),
        ("local s = ('\\1'):rep(100000000) return #cjson.encode({s, s})", ""),
        ("return 'still here'", "still here"),
    ]);
}

#[test]
fn errors_of_any_kind_become_replies() {
    refuse(&[
        ("error({x = 'no err'})", "unknown error"),
        ("error({err = {}})", "unknown error"),
        ("error(nil)", "nil"),
        ("error(true)", "true"),
        ("error(setmetatable({}, {__tostring = function() error('x') end}))", "unknown error"),
        ("error({err = 'a\\r\\n+OK\\r\\n'})", "a  +OK"),
        ("return {err = 'a\\r\\n+OK\\r\\n'}", "a  +OK"),
        ("return {ok = 'a\\r\\n+OK\\r\\n'}", "a  +OK"),
        ("error(coroutine.create(function() end))", "thread"),
    ]);
}

#[test]
fn replies_are_cut_where_tables_hold_themselves() {
    let server = Server::ashlar(&[]);
    let mut client = server.client();
    // Deeper than a client reads: the bytes have to end with the reply to what comes after.
    client.send(&["EVAL", "local t = {} t[1] = t return t", "0"]).unwrap();
    client.send(&["EVAL", "local t = {} t.map = {a = t} redis.setresp(3) return t", "0"]).unwrap();
    client.send(&["PING"]).unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"+PONG\r\n") {
        let mut chunk = [0; 64 * 1024];
        let len = client.stream().read(&mut chunk).unwrap();
        assert!(len > 0, "the server closed the connection");
        answer.extend_from_slice(&chunk[..len]);
    }
    let text = String::from_utf8_lossy(&answer);
    assert!(text.starts_with("*1\r\n*1\r\n") && text.contains("-ERR reached lua stack limit"));
}

/// A script that holds on to a command's buffer, or calls from odd places.
#[test]
fn commands_can_be_called_from_anywhere_in_a_script() {
    refuse(&[
        ("return coroutine.wrap(function() return redis.call('ping').ok end)()", "PONG"),
        (
            "local t = {3, 2, 1} table.sort(t, function(a, b) redis.call('ping') return a < b end) \
          return t[1]",
            "1",
        ),
        ("return (('x'):gsub('x', function() return redis.call('ping').ok end))", "PONG"),
        (
            "return setmetatable({}, {__index = function() return redis.call('ping').ok end}).x",
            "PONG",
        ),
        (
            "local n = 0 return load(function() n = n + 1 if n == 1 then redis.call('ping') \
          return 'return 5' end end)()",
            "5",
        ),
        ("return redis.call(unpack({'mget', unpack({}, 1, 0)}))", "Wrong number of args"),
        (
            "local t = {'mget'} for i = 2, 7000 do t[i] = 'k' end return #redis.call(unpack(t))",
            "6999",
        ),
    ]);
}

/// Other clients' calls while a script is in the middle of a pipeline of many.
#[test]
fn pipelines_of_scripts_are_answered_in_order() {
    let server = Server::ashlar(&["--io-threads", "2"]);
    let run = |mut client: Client, key: String| {
        let script = "redis.call('incr', KEYS[1]) return redis.call('get', KEYS[1])";
        for n in 1..=200 {
            let reply = client.call(&["EVAL", script, "1", &key]).unwrap();
            assert_eq!(text(&reply), n.to_string());
        }
    };
    let threads: Vec<_> = (0..4)
        .map(|n| {
            let client = server.client();
            std::thread::spawn(move || run(client, format!("k{n}")))
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn faults_put_back_are_found() {
    prove(
        env!("CARGO_BIN_EXE_faulty"),
        &[
            (Bug::BytecodeIsLoaded, bytecode_is_not_loaded, "string.dump"),
            (Bug::UnpackOverflows, unpack_counts_without_overflow, "too many results"),
            (Bug::StructNumbersWrap, struct_keeps_within_its_input, "integral size overflow"),
            (Bug::LibrariesAreWritable, scripts_leave_nothing_behind, "readonly table"),
        ],
    );
}
