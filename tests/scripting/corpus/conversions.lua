-- Each script is run on ashlar and on redis-server, which must reply the same. Scripts are
-- separated by lines of `--- what it shows`; each has KEYS k1, k2 and ARGV a, 2, "".

--- values of each type as replies
return {1, 2.9, -2.9, 'text', true, false, nil, 'unseen'}
--- a nested table
return {1, {2, {3, {4, {}}}}, 'x'}
--- nothing
local x = 1
--- nil
return nil
--- false and true
return {false, true, false}
--- numbers out of range
return {1e300, -1e300, 0/0, 1/0, 9007199254740993, -9223372036854775808}
--- status and error tables
return {{ok = 'FINE'}, {err = 'MY error'}, {err = 'single'}, {ok = 'a\r\nb'}, {err = 'a\r\nb'}}
--- an error table alone
return {err = 'MY error text'}
--- a status table alone
return {ok = 'FINE'}
--- status_reply and error_reply
return {redis.status_reply('A'), redis.error_reply('B'), redis.error_reply('-C d'), redis.error_reply('E f'), redis.error_reply(''), redis.error_reply('-')}
--- status_reply with a wrong argument
return {redis.status_reply(1), redis.status_reply(), redis.error_reply({}), redis.error_reply()}
--- doubles, maps, sets, big numbers and texts
return {{double = 3.25}, {map = {a = 1}}, {set = {x = true}}, {big_number = '12345678901234567890'}, {verbatim_string = {format = 'txt', string = 'hello'}}}
--- doubles in RESP3
redis.setresp(3); return {{double = 3.25}, {double = -0.5}, true, false, nil}
--- booleans in RESP3
redis.setresp(3); return {true, false, 1}
--- a table that holds itself is cut
local t = {} t[1] = t return #{t}
--- KEYS and ARGV
return {#KEYS, #ARGV, KEYS[1], KEYS[2], KEYS[3], ARGV[1], ARGV[2], ARGV[3]}
--- replies of commands as Lua values, RESP2
redis.call('set', KEYS[1], 'v') redis.call('rpush', KEYS[2], 1, 2)
local t = {}
for _, value in ipairs({redis.call('get', KEYS[1]), redis.call('get', 'missing'), redis.call('strlen', KEYS[1]), redis.call('set', KEYS[1], 'w'), redis.call('lrange', KEYS[2], 0, -1), redis.call('exists', 'no')}) do
  t[#t + 1] = type(value)
end
return t
--- null is false
return {type(redis.call('get', 'missing')), redis.call('get', 'missing') == false}
--- null is nil in RESP3
redis.setresp(3) return {type(redis.call('get', 'missing'))}
--- a status has ok
return redis.call('set', KEYS[1], 'x').ok
--- a hash in RESP3 is a map
redis.setresp(3) redis.call('hset', KEYS[1], 'f', 'v') local r = redis.call('hgetall', KEYS[1]) return {type(r.map), r.map.f, r}
--- a set in RESP3
redis.setresp(3) redis.call('sadd', KEYS[1], 'm') local r = redis.call('smembers', KEYS[1]) return {type(r.set), tostring(r.set.m), r}
--- a score in RESP3
redis.setresp(3) redis.call('zadd', KEYS[1], 1.5, 'm') local r = redis.call('zscore', KEYS[1], 'm') return {type(r), r.double, r}
--- numbers as arguments
return {redis.call('echo', 1), redis.call('echo', 1.5), redis.call('echo', 0.1), redis.call('echo', 1e15), redis.call('echo', 123456789012345680), redis.call('echo', 1e100), redis.call('echo', -0), redis.call('echo', 2^53)}
--- numbers as text in Lua
return {tostring(0.1), tostring(1e15), tostring(2^53), tostring(-0), 1e100 .. '', tostring(1/0)}
--- numbers of a reply
redis.call('set', KEYS[1], '9007199254740993') return redis.call('incr', KEYS[1])
--- a selected database is the script's own
redis.call('select', 3) redis.call('set', 'in3', 1) return redis.call('exists', 'in3')
--- the database after the script
return redis.call('exists', 'in3')
--- PUBLISH, PING, ECHO, TIME, OBJECT
redis.call('set', KEYS[1], '12') return {redis.call('publish', 'c', 'x'), redis.call('ping'), redis.call('ping', 'x'), #redis.call('time'), redis.call('object', 'encoding', KEYS[1])}
--- random numbers repeat with a seed
math.randomseed(42) local a, b = math.random(1000), math.random(5, 9) math.randomseed(42) return {a, b, math.random(1000), math.random(5, 9)}
--- the seed gives Redis's numbers
math.randomseed(7) return {math.random(1, 1000000), math.random(1, 1000000), tostring(math.random())}
--- math.random without an interval
return math.random(0)
--- math.random with an empty interval
return math.random(2, 1)
--- math.random with too many arguments
return math.random(1, 2, 3)
--- the SHA1 digest
return {redis.sha1hex(''), redis.sha1hex('abc'), redis.sha1hex(12)}
--- constants
return {redis.LOG_DEBUG, redis.LOG_VERBOSE, redis.LOG_NOTICE, redis.LOG_WARNING, redis.REPL_ALL, redis.REPL_NONE, redis.REPL_AOF, redis.REPL_SLAVE, redis.REPL_REPLICA, _VERSION}
--- replicate_commands, breakpoint, debug, set_repl, log
return {redis.replicate_commands(), redis.breakpoint(), tostring(redis.debug('x')), tostring(redis.set_repl(redis.REPL_ALL)), tostring(redis.log(redis.LOG_DEBUG, 'x', 'y'))}
