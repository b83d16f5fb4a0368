--- an unknown command
return redis.call('nosuch', 'x')
--- a wrong number of arguments
return redis.call('get')
--- a wrong number of arguments, caught
return redis.pcall('get')
--- no argument
return redis.call()
--- an argument of another type
return redis.call('set', KEYS[1], {})
--- true is no argument
return redis.call('set', KEYS[1], true)
--- nil is no argument
return redis.call('set', KEYS[1], nil)
--- a command that scripts cannot call
return redis.call('eval', 'return 1', 0)
--- MULTI, WATCH, SUBSCRIBE
return {redis.pcall('multi'), redis.pcall('watch', 'x'), redis.pcall('subscribe', 'x')}
--- an error of a command
redis.call('set', KEYS[1], 'x') return redis.call('incr', KEYS[1])
--- an error of a command on another line
redis.call('set', KEYS[1], 'x')

redis.call('lpush', KEYS[1], 'x')
--- pcall gives a table
redis.call('set', KEYS[1], 'x') local e = redis.pcall('incr', KEYS[1]) return {type(e), e.err, e}
--- Lua's pcall gives a text
redis.call('set', KEYS[1], 'x') local ok, e = pcall(redis.call, 'incr', KEYS[1]) return {tostring(ok), type(e), e}
--- Lua's pcall and a table
local ok, e = pcall(error, {err = 'MINE it is'}) return {tostring(ok), type(e), e}
--- xpcall
local ok, e = xpcall(function() error('x') end, function(e) return e .. '!' end) return {tostring(ok), e}
--- xpcall and a command
local ok, e = xpcall(function() return redis.call('nosuch') end, function(e) return e.err end) return {tostring(ok), e}
--- pcall passes results on
return {pcall(function(...) return ... end, 1, 2, 3)}
--- pcall of what is no function
local ok, e = pcall(1) return {tostring(ok), e}
--- error with a text
error('boom')
--- error with a text and no place
error('boom', 0)
--- error with a level
local function f() error('boom', 2) end
f()
--- error with a table
error({err = 'MYERR text'})
--- error with a number
error(42)
--- error in a coroutine
return coroutine.wrap(function() error('inside') end)()
--- an error of Lua
return nil + 1
--- an index of nil
local t = nil return t.x
--- a call of nil
local t = {} t.f()
--- arithmetic on a text
return 'x' + 1
--- comparison
return {} < {}
--- a global that is not there
return nosuch
--- a global function that is not there
return nosuch()
--- a global is set
x = 1
--- a function is defined globally
function f() end
--- globals of other Lua versions
return {pcall(function() return getfenv end)}
--- os, io, debug, require, dofile, print, newproxy's family
local names = {'io', 'debug', 'require', 'dofile', 'loadfile', 'print', 'package', 'module', 'getfenv', 'setfenv'}
local t = {}
for _, name in ipairs(names) do t[#t + 1] = tostring(pcall(function() return _G[name] end)) end
return t
--- setresp
redis.setresp(4)
--- setresp without an argument
redis.setresp()
--- log
redis.log(1)
--- log with a bad level
redis.log('x', 'y')
--- log with a level out of range
redis.log(9, 'y')
--- set_repl
redis.set_repl(9)
--- set_repl without an argument
redis.set_repl()
--- sha1hex
redis.sha1hex()
--- acl_check_cmd
return {tostring(redis.acl_check_cmd('get', 'x')), tostring(redis.acl_check_cmd('set', 'x', 'y'))}
--- acl_check_cmd of an unknown command
redis.acl_check_cmd('nosuch')
--- acl_check_cmd of nothing
redis.acl_check_cmd()
--- read-only tables: a library
redis.call = nil
--- read-only tables: a field of the globals
_G.x = 1
--- read-only tables: string
string.rep = nil
--- read-only tables: rawset
rawset(redis, 'x', 1)
--- read-only tables: rawset of the globals
rawset(_G, 'x', 1)
--- read-only tables: table.insert
table.insert(string, 1)
--- read-only tables: setmetatable
setmetatable(_G, {})
--- read-only tables: setmetatable of a library
setmetatable(cjson, {})
--- read-only tables: KEYS as a global
KEYS = {}
--- KEYS itself can change
KEYS[1] = 'changed' return KEYS[1]
--- metatables of one's own
local t = setmetatable({}, {__index = function(t, k) return k .. '!' end}) return {t.x, rawget(t, 'x')}
--- a metatable is protected if it says so
local t = setmetatable({}, {__metatable = 'locked'}) return {getmetatable(t), tostring(pcall(setmetatable, t, {}))}
--- it does not compile
return return
--- it does not compile: an end is missing
if true then
--- it does not compile: a text does not end
return 'x
--- it does not compile: a bad character
return $
--- the shebang
#!lua
return 1
--- the shebang with flags
#!lua flags=no-writes,allow-oom,allow-stale,no-cluster,allow-cross-slot-keys
return redis.call('get', KEYS[1])
--- no-writes
#!lua flags=no-writes
return redis.call('set', KEYS[1], 1)
--- no-writes and a command that may write
#!lua flags=no-writes
return redis.call('publish', 'x', 'y')
--- an unknown flag
#!lua flags=bogus
return 1
--- an unknown option
#!lua name=x
return 1
--- another engine
#!js
return 1
--- no engine
#!
return 1
--- an error's line after the shebang
#!lua

error('here')
--- stack overflow
local function f() return 1 + f() end return f()
--- too many captures and values
return {pcall(string.rep)}
--- unpack
return {unpack({1, 2, 3})}
--- unpack with bounds
return {unpack({1, 2, 3}, 2, 3)}
--- unpack beyond the end
return #{unpack({1, 2, 3}, 1, 100)}
--- unpack of too much
return unpack({}, 1, 1e6)
--- unpack of nothing
return {unpack({}, 5, 1)}
--- select
return {select('#', 1, 2, nil), select(2, 'a', 'b', 'c')}
