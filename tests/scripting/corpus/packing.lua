--- cmsgpack scalars
local t = {} for _, v in ipairs({0, 1, 127, 128, 255, 256, 65535, 65536, 4294967295, 4294967296, 2^53, -1, -32, -33, -128, -129, -32768, -32769, -2147483648, -2147483649, 1.5, 0.1, 1e300, true, false, '', 'x'}) do t[#t + 1] = cmsgpack.pack(v) end return t
--- cmsgpack nil, null and functions
return {cmsgpack.pack(nil), cmsgpack.pack(cjson.null), cmsgpack.pack(print == 1), cmsgpack.pack(redis.call)}
--- cmsgpack texts by length
local t = {} for _, n in ipairs({31, 32, 255, 256, 65535, 65536}) do local p = cmsgpack.pack(('x'):rep(n)) t[#t + 1] = p:sub(1, 6) t[#t + 1] = #p end return t
--- cmsgpack arrays and maps
return {cmsgpack.pack({}), cmsgpack.pack({1, 2, 3}), cmsgpack.pack({a = 1}), cmsgpack.pack({[1] = 1, [3] = 3}), cmsgpack.pack({[1.5] = 1}), cmsgpack.pack({{}, {{}}}), cmsgpack.pack({[0] = 1})}
--- cmsgpack large arrays
local t = {} for i = 1, 20 do t[i] = i end local p = cmsgpack.pack(t) return {p:sub(1, 5), #p}
--- cmsgpack of several values
return {cmsgpack.pack(1, 'x', {1}), cmsgpack.unpack(cmsgpack.pack(1, 'x', true))}
--- cmsgpack of nothing
return cmsgpack.pack()
--- cmsgpack is cut at depth 16
local t = {1} for i = 1, 20 do t = {t} end return {cmsgpack.pack(t)}
--- cmsgpack round trip
local t = cmsgpack.unpack(cmsgpack.pack({a = {1, 2, {b = 'c'}}, n = -5, f = 1.5, t = true})) return {t.a[1], t.a[3].b, t.n, tostring(t.f), t.t}
--- cmsgpack integers come back
local t = {} for _, v in ipairs({0, 127, 128, 255, 256, 65535, 65536, 4294967295, 4294967296, -1, -32, -33, -128, -129, -32768, -32769, -2147483648, -2147483649}) do t[#t + 1] = tostring(cmsgpack.unpack(cmsgpack.pack(v)) == v) end return t
--- cmsgpack numbers of all forms
return {cmsgpack.unpack('\204\255'), cmsgpack.unpack('\205\1\0'), cmsgpack.unpack('\206\0\1\0\0'), cmsgpack.unpack('\207\0\0\0\1\0\0\0\0'), cmsgpack.unpack('\208\128'), cmsgpack.unpack('\209\128\0'), cmsgpack.unpack('\210\128\0\0\0'), cmsgpack.unpack('\211\255\255\255\255\255\255\255\255'), tostring(cmsgpack.unpack('\202\63\192\0\0')), tostring(cmsgpack.unpack('\203\63\248\0\0\0\0\0\0'))}
--- cmsgpack binary
return {cmsgpack.unpack('\217\1x'), tostring(pcall(cmsgpack.unpack, '\196\1x'))}
--- cmsgpack errors
local t = {} for _, p in ipairs({'\204', '\217\5x', '\145', '\129\1', '\193', '\199\1\1x', '\220\255\255', '\221\255\255\255\255', '\223\255\255\255\255'}) do local ok, e = pcall(cmsgpack.unpack, p) t[#t + 1] = tostring(ok) .. tostring(e) end return t
--- cmsgpack unpack_one and unpack_limit
local p = cmsgpack.pack(1, 2, 3) return {cmsgpack.unpack_one(p), cmsgpack.unpack_one(p, 1), cmsgpack.unpack_one(p, 2), cmsgpack.unpack_limit(p, 2), cmsgpack.unpack_limit(p, 2, 1)}
--- cmsgpack offsets that are wrong
return {pcall(cmsgpack.unpack_one, '\1', 5), pcall(cmsgpack.unpack_one, '\1', -1), pcall(cmsgpack.unpack_limit, '\1', -1)}
--- cmsgpack of an empty text
return {cmsgpack.unpack('')}
--- cmsgpack of what is no text
return cmsgpack.unpack({})
--- cmsgpack names
return {cmsgpack._NAME, cmsgpack._VERSION, cmsgpack._DESCRIPTION, cmsgpack._COPYRIGHT}
--- struct integers
return {struct.pack('b', -1), struct.pack('B', 255), struct.pack('>h', -2), struct.pack('<H', 65535), struct.pack('>l', 1), struct.pack('<L', 1), struct.pack('>i3', -2), struct.pack('>I2', 300), struct.pack('T', 5), struct.pack('>i16', 1), struct.pack('<i16', -1)}
--- struct numbers and texts
return {struct.pack('>f', 1.5), struct.pack('<d', 1.5), struct.pack('s', 'abc'), struct.pack('c2', 'abc'), struct.pack('c0', 'abc'), struct.pack('x'), struct.pack('')}
--- struct alignment
return {struct.pack('!4 b i4', 1, 2), struct.pack('!b d', 1, 2), struct.pack('!2 b i4', 1, 2), struct.pack('! b h b l', 1, 2, 3, 4)}
--- struct unpack
return {struct.unpack('>I2', '\1\44'), struct.unpack('<h', '\254\255'), struct.unpack('b', '\255'), struct.unpack('B', '\255'), struct.unpack('s', 'abc\0def'), struct.unpack('c2', 'abc'), struct.unpack('bc0', '\2abc'), struct.unpack('>i3', '\255\255\254')}
--- struct unpack from a position
return {struct.unpack('b', '\1\2\3', 2), struct.unpack('bb', '\1\2\3', 2)}
--- struct floats
return {tostring(struct.unpack('>f', '\63\192\0\0')), tostring(struct.unpack('<d', '\0\0\0\0\0\0\248\63'))}
--- struct long integers
return {struct.unpack('<i16', ('\255'):rep(16)), tostring(struct.unpack('<I8', ('\255'):rep(8))), struct.unpack('<i8', ('\255'):rep(8))}
--- struct size
return {struct.size('b'), struct.size('i'), struct.size('l'), struct.size('d'), struct.size('!4 b i4'), struct.size('c10'), struct.size('i7'), struct.size('>bhl')}
--- struct errors
local t = {}
for _, f in ipairs({function() return struct.pack('i33', 1) end, function() return struct.pack('q', 1) end, function() return struct.pack('!3', 1) end, function() return struct.pack('c5', 'abc') end, function() return struct.pack('i', 'x') end, function() return struct.unpack('i', 'abc') end, function() return struct.unpack('c0', 'abc') end, function() return struct.unpack('s', 'abc') end, function() return struct.unpack('b', 'abc', 0) end, function() return struct.unpack('b', 'abc', 4) end, function() return struct.unpack('bc0', '\9abc') end, function() return struct.size('s') end, function() return struct.size('c0') end, function() return struct.pack('i99999999999', 1) end, function() return struct.unpack('c2147483647', 'x') end, function() return struct.unpack('b', 'x', 2147483647) end}) do
  local ok, e = pcall(f) t[#t + 1] = tostring(ok) .. ' ' .. tostring(e)
end
return t
