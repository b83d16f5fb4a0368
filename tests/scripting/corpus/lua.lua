--- loadstring
return loadstring('return 1 + 1')()
--- loadstring with an error
local f, e = loadstring('return +') return {tostring(f), e}
--- loadstring with a name
local f, e = loadstring('return +', '@name') return {tostring(f), e}
--- loadstring sees the same globals
return loadstring('return KEYS[1]')()
--- loadstring refuses bytecode
local f, e = loadstring('\27Lua') return {tostring(f), e}
--- load
local parts = {'return ', '1', '+1'} local n = 0 return load(function() n = n + 1 return parts[n] end)()
--- string functions
return {('abc'):upper(), ('x'):rep(3), ('abc'):sub(2), ('abc'):byte(1, -1), #('abc'), ('abc'):reverse(), string.char(97, 98)}
--- string.format
return {string.format('%5.2f|%d|%s|%q|%x|%5s|%-5s|', 3.14159, 42, 'x', 'a"b', 255, 'r', 'l')}
--- string.find and match
return {('hello world'):find('o w'), ('key=value'):match('(%w+)=(%w+)'), ('abc'):find('b', 1, true)}
--- string.gsub
return {('hello'):gsub('l', 'L'), ('abc'):gsub('%w', '%0%0'), ('abc'):gsub('', '-'), ('x y'):gsub('%w', {x = '1'})}
--- string.gmatch
local t = {} for k, v in ('a=1,b=2'):gmatch('(%w+)=(%w+)') do t[#t + 1] = k .. v end return t
--- string.rep
return {('ab'):rep(3), ('ab'):rep(0), ('ab'):rep(-1), #('ab'):rep(1000)}
--- table functions
local t = {3, 1, 2} table.sort(t) table.insert(t, 4) table.insert(t, 1, 0) table.remove(t, 2) return {table.concat(t, ','), #t, table.getn(t), table.maxn(t)}
--- table.sort with an order
local t = {3, 1, 2} table.sort(t, function(a, b) return a > b end) return t
--- table.foreach
local s = '' table.foreachi({'a', 'b'}, function(i, v) s = s .. i .. v end) return s
--- pairs and next
local n = 0 for k, v in pairs({a = 1, b = 2, 3}) do n = n + v end return {n, tostring(next({}))}
--- pairs over a library
local n = 0 for k, v in pairs(redis) do n = n + 1 end return n > 10
--- next of a library
return {tostring(next(string) ~= nil), tostring(rawget(string, 'rep') ~= nil), tostring(rawget(_G, 'string') ~= nil)}
--- coroutines
local c = coroutine.create(function(a) local b = coroutine.yield(a + 1) return b * 2 end)
return {coroutine.resume(c, 1), coroutine.resume(c, 5), coroutine.status(c), coroutine.resume(c)}
--- a command in a coroutine
return coroutine.wrap(function() redis.call('set', KEYS[1], 'c') return redis.call('get', KEYS[1]) end)()
--- math
return {math.floor(2.7), math.ceil(2.1), math.max(1, 5, 3), math.abs(-3), math.fmod(7, 3), math.huge == 1/0, string.format('%.5f', math.pi), math.modf(3.7)}
--- tonumber
return {tonumber('12'), tonumber('0x10'), tonumber('1e2'), tonumber('z', 36), tostring(tonumber('x')), tonumber('  5  ')}
--- type and tostring
return {type(nil), type(1), type('x'), type({}), type(print == nil), type(redis.call), tostring(nil), tostring(true)}
--- collectgarbage
return {type(collectgarbage('count')), collectgarbage(), gcinfo() > 0}
--- collectgarbage with a bad option
return collectgarbage('bogus')
--- assert
return {pcall(assert, false, 'message'), pcall(assert, nil), assert(1, 2)}
--- rawequal, rawget
local t = {1} return {rawequal(t, t), rawequal(t, {}), rawget(t, 1)}
--- bit
return {bit.tobit(0xffffffff), bit.tobit(2^31), bit.bnot(0), bit.band(0xff, 0x0f, 0x3), bit.bor(1, 2, 4), bit.bxor(5, 1), bit.lshift(1, 31), bit.rshift(-1, 24), bit.arshift(-256, 4), bit.rol(0x12345678, 12), bit.ror(0x12345678, 12), bit.bswap(0x12345678)}
--- bit with shifts beyond the width
return {bit.lshift(1, 32), bit.lshift(1, 33), bit.rshift(1, -1), bit.tobit(1e15), bit.tobit(-1.5), bit.tobit(2.5), bit.band(3.7, 7)}
--- bit.tohex
return {bit.tohex(1), bit.tohex(-1), bit.tohex(255, 4), bit.tohex(255, -4), bit.tohex(0x12345678, 2), bit.tohex(1, 100), bit.tohex(1, 0)}
--- bit with a bad argument
return bit.band('x')
--- bit without an argument
return bit.bnot()
