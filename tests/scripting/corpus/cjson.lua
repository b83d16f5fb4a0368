--- arrays and objects
return {cjson.encode({1, 2, 3}), cjson.encode({}), cjson.encode({a = 1}), cjson.encode({1, 2, nil, 4}), cjson.encode({[1] = 1, [2] = 2, [4] = 4}), cjson.encode({{}, {{}}})}
--- scalars
return {cjson.encode(1), cjson.encode(1.5), cjson.encode('x'), cjson.encode(true), cjson.encode(nil), cjson.encode(cjson.null)}
--- numbers
return {cjson.encode(0.1), cjson.encode(1e15), cjson.encode(123456789012345), cjson.encode(99999999999999), cjson.encode(-0), cjson.encode(1/3), cjson.encode(1e-7), cjson.encode(2^53), cjson.encode(1e100)}
--- texts
return cjson.encode('a/b"\\\n\r\t\b\f\1\127é\0x')
--- keys
return {cjson.encode({[1.5] = 1}), cjson.encode({['a"b'] = 1}), cjson.encode({[-1] = 1}), cjson.encode({[0] = 1})}
--- a key that is a boolean
return cjson.encode({[true] = 1})
--- a function
return cjson.encode(function() end)
--- a function inside
return cjson.encode({a = function() end})
--- not a number
return cjson.encode(0/0)
--- infinity
return cjson.encode({1/0})
--- sparse arrays
return cjson.encode({[1] = 1, [100] = 2})
--- sparse arrays that become objects
cjson.encode_sparse_array(true) local r = cjson.encode({[100] = 2}) cjson.encode_sparse_array(false, 2, 10) return r
--- settings
return {cjson.encode_sparse_array(), cjson.encode_max_depth(), cjson.decode_max_depth(), cjson.encode_number_precision(), tostring(cjson.encode_keep_buffer()), tostring(cjson.encode_invalid_numbers()), tostring(cjson.decode_invalid_numbers())}
--- precision
local old = cjson.encode_number_precision() cjson.encode_number_precision(3) local r = cjson.encode(3.14159) cjson.encode_number_precision(old) return r
--- invalid numbers
cjson.encode_invalid_numbers('null') local a = cjson.encode(0/0) cjson.encode_invalid_numbers(true) local b = cjson.encode(1/0) cjson.encode_invalid_numbers(false) return {a, b}
--- bad settings
return {pcall(cjson.encode_max_depth, 0), pcall(cjson.encode_number_precision, 20), pcall(cjson.encode_sparse_array, 'x')}
--- no argument
return cjson.encode()
--- two arguments
return cjson.encode(1, 2)
--- too deep
local t = {} for i = 1, 1001 do t = {t} end return cjson.encode(t)
--- a table that holds itself
local t = {} t.t = t return cjson.encode(t)
--- decode
local t = cjson.decode('{"a":[1,2.5,"x",true,false,null],"b":{"c":{}}}') return {t.a[1], tostring(t.a[2]), t.a[3], t.a[4], tostring(t.a[5]), tostring(t.a[6] == cjson.null), type(t.b.c)}
--- decode scalars
return {cjson.decode('1'), cjson.decode('"x"'), cjson.decode('true'), tostring(cjson.decode('null') == cjson.null), tostring(cjson.decode('-0.5e3'))}
--- decode escapes
return cjson.decode('"\\u0041\\u00e9\\u20ac\\ud83d\\ude00\\n\\t\\"\\\\\\/\\b\\f\\r"')
--- decode and encode again
return cjson.encode(cjson.decode('[1,[2,[3]],{"a":null}]'))
--- errors of decode
local t = {}
for _, text in ipairs({'', ' ', '[1,', '{"a"', '{"a":}', '{a:1}', '[1 2]', 'nul', '"abc', '"\\x"', '"\\u12"', '-', '1e', '[1]x', '"\\ud800"', '"\\ud800\\u0041"', '{"a":1,}', '[,]', '.5', '{"a" 1}', '{"a":1 "b"}', '[1,]', ']', '}', ':', ',', '{', '[', '"\\u00zz"', 'tru', 'truex', '{1:2}', '[1}'}) do
  local ok, e = pcall(cjson.decode, text) t[#t + 1] = tostring(ok) .. ' ' .. tostring(e)
end
return t
--- numbers that JSON has not
local t = {}
for _, text in ipairs({'01', '+1', '1.', '0x10', '0x1p4', 'inf', '-inf', 'nan', 'Infinity', '1e5', '1E+5', '-5', '1e400', '1e-400', '123456789012345678901234567890', '0.1e1', '00', '-01'}) do
  local ok, e = pcall(cjson.decode, text) t[#t + 1] = text .. ' ' .. tostring(ok) .. ' ' .. tostring(e):gsub('-nan', 'nan')
end
return t
--- decode without invalid numbers
cjson.decode_invalid_numbers(false)
local t = {}
for _, text in ipairs({'01', '+1', '0x10', 'inf', 'nan', '1'}) do
  local ok, e = pcall(cjson.decode, text) t[#t + 1] = tostring(ok) .. ' ' .. tostring(e)
end
cjson.decode_invalid_numbers(true)
return t
--- too deep to decode
return cjson.decode(('['):rep(1001) .. (']'):rep(1001))
--- as deep as it goes
return type(cjson.decode(('['):rep(1000) .. (']'):rep(1000)))
--- UTF-16
return cjson.decode('\0"x"')
--- a zero byte ends it
return cjson.decode('1 \0 junk')
--- decode of what is no text
return cjson.decode({})
--- decode of a number
return cjson.decode(12)
--- names
return {cjson._NAME, cjson._VERSION, type(cjson.null), tostring(cjson.null)}
--- duplicate keys
return cjson.decode('{"a":1,"a":2}').a
--- an empty key
return cjson.encode(cjson.decode('{"":1}'))
