//! A view of a Lua stack: what the interface offers, without what raises errors.
//!
//! Two rules are the caller's. Slices that [`Stack::bytes`] gives are Lua's memory: the value has
//! to stay on the stack (or in a table that does) for as long as the slice is used. And room for
//! more than 20 values has to be asked for with [`Stack::ensure`].

use super::function::{Check, Raise, enter, guarded};
use super::{Body, Extra, Name};
use ashlar_engine::known_bugs::{self, Bug};
use mlua_sys as ffi;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::marker::PhantomData;

/// Index of a table that scripts cannot reach.
pub const REGISTRY: c_int = ffi::LUA_REGISTRYINDEX;

/// What was called raised an error: its value is on top of the stack.
#[derive(Clone, Copy, Debug)]
pub struct Failed;

/// How a call ended; the error's value is on top of the stack where it did not end well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It returned.
    Done,
    /// It raised an error.
    Raised,
    /// There was no memory, which no handler learns of.
    NoMemory,
}

/// The types of Lua's values.
#[allow(missing_docs, reason = "the names say it")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    None,
    Nil,
    Boolean,
    LightUserdata,
    Number,
    String,
    Table,
    Function,
    Userdata,
    Thread,
}

impl Kind {
    /// The name that scripts see.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::None => "no value",
            Kind::Nil => "nil",
            Kind::Boolean => "boolean",
            Kind::LightUserdata | Kind::Userdata => "userdata",
            Kind::Number => "number",
            Kind::String => "string",
            Kind::Table => "table",
            Kind::Function => "function",
            Kind::Thread => "thread",
        }
    }
}

/// The stack of a state or of a coroutine, for as long as a function runs.
pub struct Stack<'a> {
    pub(super) state: *mut ffi::lua_State,
    pub(super) extra: &'a Extra,
    pub(super) lifetime: PhantomData<&'a mut ffi::lua_State>,
}

// SAFETY, for all blocks below unless one says more: `state` is valid and used by this thread only;
// indexes are of values that the caller put there; room on the stack is the caller's to ask for; and
// since `in_rust` is set, no allocation fails, which is what these functions would raise.
#[allow(clippy::undocumented_unsafe_blocks, reason = "the comment above is of all of them")]
impl<'a> Stack<'a> {
    /// What belongs to the state.
    pub fn extra(&self) -> &'a Extra {
        self.extra
    }

    /// Number of values; of a function's arguments before it pushes anything.
    pub fn top(&self) -> c_int {
        unsafe { ffi::lua_gettop(self.state) }
    }

    /// Makes room for `more` values, or raises an error.
    ///
    /// # Errors
    /// Where Lua's stack would be too large.
    pub fn ensure(&mut self, more: c_int) -> Result<(), Raise> {
        if self.has_room(more) {
            return Ok(());
        }
        Err(self.error_plain("stack overflow"))
    }

    /// Makes room for `more` values, if that is possible, and for an error besides.
    pub fn has_room(&mut self, more: c_int) -> bool {
        const ERROR: c_int = 8;
        unsafe { ffi::lua_checkstack(self.state, more + ERROR) != 0 }
    }

    /// The type of a value.
    #[inline]
    pub fn kind(&self, index: c_int) -> Kind {
        match unsafe { ffi::lua_type(self.state, index) } {
            ffi::LUA_TNIL => Kind::Nil,
            ffi::LUA_TBOOLEAN => Kind::Boolean,
            ffi::LUA_TLIGHTUSERDATA => Kind::LightUserdata,
            ffi::LUA_TNUMBER => Kind::Number,
            ffi::LUA_TSTRING => Kind::String,
            ffi::LUA_TTABLE => Kind::Table,
            ffi::LUA_TFUNCTION => Kind::Function,
            ffi::LUA_TUSERDATA => Kind::Userdata,
            ffi::LUA_TTHREAD => Kind::Thread,
            _ => Kind::None,
        }
    }

    /// The bytes of a string; `None` for anything else. See the module's rule on their life.
    #[inline]
    pub fn bytes(&self, index: c_int) -> Option<&'a [u8]> {
        let mut len = 0;
        unsafe {
            if ffi::lua_type(self.state, index) != ffi::LUA_TSTRING {
                return None;
            }
            let bytes = ffi::lua_tolstring(self.state, index, &mut len);
            Some(std::slice::from_raw_parts(bytes.cast::<u8>(), len))
        }
    }

    /// As [`Stack::bytes`]; a number is turned into its text, in its place on the stack.
    pub fn text(&mut self, index: c_int) -> Option<&'a [u8]> {
        if self.kind(index) == Kind::Number {
            let mut len = 0;
            unsafe { ffi::lua_tolstring(self.state, index, &mut len) };
        }
        self.bytes(index)
    }

    /// A number, or a string that is one, as Lua converts it.
    #[inline]
    pub fn number(&self, index: c_int) -> Option<f64> {
        match self.kind(index) {
            Kind::Number => Some(unsafe { ffi::lua_tonumber(self.state, index) }),
            Kind::String if unsafe { ffi::lua_isnumber(self.state, index) } != 0 => {
                Some(unsafe { ffi::lua_tonumber(self.state, index) })
            }
            _ => None,
        }
    }

    /// Whether a value is neither nil nor false.
    pub fn is_true(&self, index: c_int) -> bool {
        unsafe { ffi::lua_toboolean(self.state, index) != 0 }
    }

    /// Whether a value is the null pointer, which stands for JSON's null.
    pub fn is_null(&self, index: c_int) -> bool {
        self.kind(index) == Kind::LightUserdata
            && unsafe { ffi::lua_touserdata(self.state, index) }.is_null()
    }

    /// The address of a table, to tell tables apart.
    pub fn address(&self, index: c_int) -> usize {
        unsafe { ffi::lua_topointer(self.state, index) as usize }
    }

    /// The length that `#` gives for a table or string.
    pub fn len(&self, index: c_int) -> usize {
        unsafe { ffi::lua_objlen(self.state, index) }
    }

    /// Pushes nil.
    pub fn push_nil(&mut self) {
        unsafe { ffi::lua_pushnil(self.state) }
    }

    /// Pushes a truth value.
    pub fn push_bool(&mut self, value: bool) {
        unsafe { ffi::lua_pushboolean(self.state, c_int::from(value)) }
    }

    /// Pushes a number.
    #[inline]
    pub fn push_number(&mut self, value: f64) {
        unsafe { ffi::lua_pushnumber(self.state, value) }
    }

    /// Pushes a string.
    #[inline]
    pub fn push_bytes(&mut self, bytes: &[u8]) {
        unsafe { ffi::lua_pushlstring_(self.state, bytes.as_ptr().cast(), bytes.len()) }
    }

    /// Pushes the null pointer.
    pub fn push_null(&mut self) {
        unsafe { ffi::lua_pushlightuserdata(self.state, std::ptr::null_mut()) }
    }

    /// Pushes a copy of a value.
    pub fn push_copy(&mut self, index: c_int) {
        unsafe { ffi::lua_pushvalue(self.state, index) }
    }

    /// Pushes an empty table with room for so many elements and fields.
    pub fn push_table(&mut self, elements: usize, fields: usize) {
        let bound = |count: usize| c_int::try_from(count).unwrap_or(c_int::MAX);
        unsafe { ffi::lua_createtable(self.state, bound(elements), bound(fields)) }
    }

    /// Pushes a function in Rust.
    pub fn push_function(&mut self, body: Body) {
        // SAFETY: `enter` turns its upvalue back into the `Body` that it was made from.
        unsafe {
            ffi::lua_pushlightuserdata(self.state, body as *mut c_void);
            ffi::lua_pushcclosure(self.state, enter, 1);
        }
    }

    /// Replaces one of Lua's own functions, on top of the stack, by itself behind a check.
    pub fn guard(&mut self, check: Check) {
        // SAFETY: `guarded` turns its first upvalue back into the `Check` that it was made from.
        unsafe {
            ffi::lua_pushlightuserdata(self.state, check as *mut c_void);
            ffi::lua_insert(self.state, -2);
            ffi::lua_pushcclosure(self.state, guarded, 2);
        }
    }

    /// Pushes `{err = text}`.
    pub fn push_error_table(&mut self, text: &[u8]) {
        self.push_tagged(Name::Err, |stack| stack.push_bytes(text));
    }

    /// Removes the topmost `count` values.
    #[inline]
    pub fn pop(&mut self, count: c_int) {
        unsafe { ffi::lua_settop(self.state, -count - 1) }
    }

    /// Makes the stack have `count` values.
    pub fn set_top(&mut self, count: c_int) {
        unsafe { ffi::lua_settop(self.state, count) }
    }

    /// Removes a value from the middle.
    pub fn remove(&mut self, index: c_int) {
        unsafe { ffi::lua_remove(self.state, index) }
    }

    /// Moves the topmost value to a place.
    pub fn insert(&mut self, index: c_int) {
        unsafe { ffi::lua_insert(self.state, index) }
    }

    /// Pops the topmost value into the place of another.
    pub fn replace(&mut self, index: c_int) {
        unsafe { ffi::lua_replace(self.state, index) }
    }

    /// Pushes `table[n]`, without metamethods.
    #[inline]
    pub fn get_index(&mut self, table: c_int, n: c_int) {
        unsafe { ffi::lua_rawgeti_(self.state, table, n) }
    }

    /// Pops a value into `table[n]`, without metamethods.
    #[inline]
    pub fn set_index(&mut self, table: c_int, n: c_int) {
        unsafe { ffi::lua_rawseti_(self.state, table, n) }
    }

    /// Replaces the key on top by its value in the table, without metamethods.
    pub fn get(&mut self, table: c_int) {
        unsafe { ffi::lua_rawget_(self.state, table) }
    }

    /// Pops a value and the key below it into a table, without metamethods. A key that cannot be
    /// one (nil, not a number) is popped and that is all.
    pub fn set(&mut self, table: c_int) {
        let bad = match self.kind(-2) {
            Kind::Nil | Kind::None => true,
            Kind::Number => unsafe { ffi::lua_tonumber(self.state, -2) }.is_nan(),
            _ => false,
        };
        if bad {
            return self.pop(2);
        }
        unsafe { ffi::lua_rawset(self.state, table) }
    }

    /// Pushes a field, without metamethods.
    pub fn get_field(&mut self, table: c_int, name: &CStr) {
        let table = self.absolute(table);
        self.push_bytes(name.to_bytes());
        self.get(table);
    }

    /// Pops a value into a field, without metamethods.
    pub fn set_field(&mut self, table: c_int, name: &CStr) {
        let table = self.absolute(table);
        self.push_bytes(name.to_bytes());
        self.insert(-2);
        self.set(table);
    }

    /// Replaces the key on top by the next key of a table and its value; pops it at the end.
    pub fn next(&mut self, table: c_int) -> bool {
        // It raises an error only for a key that is not in the table: callers go on from keys that
        // it gave, and do not change the table meanwhile.
        unsafe { ffi::lua_next(self.state, table) != 0 }
    }

    /// Pushes a value's metatable, if there is one.
    pub fn push_metatable(&mut self, index: c_int) -> bool {
        unsafe { ffi::lua_getmetatable(self.state, index) != 0 }
    }

    /// Pops a table and makes it a value's metatable.
    pub fn set_metatable(&mut self, index: c_int) {
        unsafe { ffi::lua_setmetatable(self.state, index) };
    }

    /// Pops a table and makes it the one of the globals.
    pub fn set_globals(&mut self) {
        unsafe { ffi::lua_replace(self.state, ffi::LUA_GLOBALSINDEX) }
    }

    /// Pushes the table of the globals.
    pub fn push_globals(&mut self) {
        self.push_copy(ffi::LUA_GLOBALSINDEX);
    }

    /// Pops a value and keeps it; returns its number for [`Stack::push_kept`].
    pub fn keep(&mut self) -> c_int {
        unsafe { ffi::luaL_ref(self.state, ffi::LUA_REGISTRYINDEX) }
    }

    /// Pushes a value that was kept.
    pub fn push_kept(&mut self, number: c_int) {
        self.get_index(ffi::LUA_REGISTRYINDEX, number);
    }

    /// Lets go of a value that was kept.
    pub fn let_go(&mut self, number: c_int) {
        unsafe { ffi::luaL_unref(self.state, ffi::LUA_REGISTRYINDEX, number) }
    }

    /// An index that does not change with what is pushed.
    pub fn absolute(&self, index: c_int) -> c_int {
        if index < 0 && index > ffi::LUA_REGISTRYINDEX { self.top() + index + 1 } else { index }
    }

    /// Compiles source text and pushes the function; pushes an error's text where it is wrong.
    /// Precompiled code is refused: Lua does not check it.
    ///
    /// # Errors
    /// Where the text does not compile.
    pub fn load(&mut self, source: &[u8], name: &CStr) -> Result<(), Failed> {
        // Lua's parser does not hold on to the chunk's name: it has to stay on the stack, or the
        // collector may take it while the parser still uses it (CVE-2025-49844).
        self.push_bytes(name.to_bytes());
        // With a blank in front, what looks like precompiled code is text, and wrong.
        let is_refused =
            source.first() == Some(&0x1B) && !known_bugs::is_back(Bug::BytecodeIsLoaded);
        let text: &[u8] = if is_refused { b" \x1B" } else { source };
        let status = unsafe {
            let (text, len) = (text.as_ptr().cast::<c_char>(), text.len());
            ffi::luaL_loadbuffer(self.state, text, len, name.as_ptr())
        };
        self.remove(-2);
        if status == ffi::LUA_OK { Ok(()) } else { Err(Failed) }
    }

    /// Whether the function on top of the stack, in Lua, may assign to globals.
    pub fn may_assign_globals(&mut self) -> bool {
        unsafe extern "C-unwind" fn write(
            _: *mut ffi::lua_State,
            bytes: *const c_void,
            len: usize,
            out: *mut c_void,
        ) -> c_int {
            // SAFETY: `out` is the Vec below, and Lua gives so many bytes.
            unsafe {
                let bytes = std::slice::from_raw_parts(bytes.cast::<u8>(), len);
                (*out.cast::<Vec<u8>>()).extend_from_slice(bytes);
            }
            0
        }
        let mut dump = Vec::new();
        let status = unsafe { ffi::lua_dump_(self.state, write, (&raw mut dump).cast::<c_void>()) };
        status != 0 || super::opcodes::may_assign_globals(&dump)
    }

    /// Pops a table and makes it the one in which the function below it finds globals.
    pub fn set_environment(&mut self) {
        unsafe { ffi::lua_setfenv(self.state, -2) };
    }

    /// Calls the function below its arguments, without letting errors through; the results, or
    /// the error's value, replace them. `handler` is the place of an error handler, or 0.
    ///
    /// # Errors
    /// Where the function raised an error.
    #[inline]
    pub fn call(&mut self, args: c_int, results: c_int, handler: c_int) -> Result<(), Failed> {
        if self.run(args, results, handler) == End::Done { Ok(()) } else { Err(Failed) }
    }

    /// As [`Stack::call`], and tells how it ended.
    pub fn run(&mut self, args: c_int, results: c_int, handler: c_int) -> End {
        self.extra.in_rust.set(false);
        let status = unsafe { ffi::lua_pcall(self.state, args, results, handler) };
        self.extra.in_rust.set(true);
        match status {
            ffi::LUA_OK => End::Done,
            ffi::LUA_ERRMEM => End::NoMemory,
            _ => End::Raised,
        }
    }

    /// Opens Lua's own libraries: base with coroutines, table, string and math.
    pub fn open_libraries(&mut self) {
        let libraries: [ffi::lua_CFunction; 4] =
            [ffi::luaopen_base, ffi::luaopen_table, ffi::luaopen_string, ffi::luaopen_math];
        for library in libraries {
            unsafe { ffi::lua_pushcclosure(self.state, library, 0) };
            self.push_bytes(b"");
            // Opening a library fails only for lack of memory; then its names are missing.
            if self.call(1, 0, 0).is_err() {
                self.pop(1);
            }
        }
    }

    /// The garbage collector: bytes in use, after a full collection if `collect` is set.
    pub fn collect(&mut self, collect: bool) -> usize {
        // Lua frees while Rust is on top, which needs no memory; there are no finalizers.
        if collect {
            unsafe { ffi::lua_gc(self.state, ffi::LUA_GCCOLLECT, 0) };
        }
        self.extra.used_bytes.get()
    }

    /// Where the function at a level of the call stack is: its source, line, and whether it is C.
    pub fn place(&self, level: c_int) -> Option<(&'a [u8], c_int, bool)> {
        // SAFETY: a zeroed lua_Debug is valid, and getinfo fills in what `Sl` asks for.
        unsafe {
            let mut debug: ffi::lua_Debug = std::mem::zeroed();
            if ffi::lua_getstack(self.state, level, &mut debug) == 0 {
                return None;
            }
            ffi::lua_getinfo(self.state, c"nSl".as_ptr(), &mut debug);
            let source = CStr::from_ptr(debug.source).to_bytes();
            let is_c = CStr::from_ptr(debug.what) == c"C";
            Some((source, debug.currentline, is_c))
        }
    }

    /// An error with the place of the caller in front, as Lua's own functions raise it.
    pub fn error(&mut self, text: &str) -> Raise {
        unsafe { ffi::luaL_where(self.state, 1) };
        self.push_bytes(text.as_bytes());
        unsafe { ffi::lua_concat(self.state, 2) };
        Raise(())
    }

    /// An error that is just this text.
    pub fn error_plain(&mut self, text: &str) -> Raise {
        self.push_bytes(text.as_bytes());
        Raise(())
    }

    /// The value on top of the stack is raised.
    pub fn raise(&mut self) -> Raise {
        Raise(())
    }

    /// The error for an argument that is not what it should be.
    pub fn arg_error(&mut self, arg: c_int, text: &str) -> Raise {
        // SAFETY: as in `place`; `name` is a C string or null.
        let (name, is_method) = unsafe {
            let mut debug: ffi::lua_Debug = std::mem::zeroed();
            if ffi::lua_getstack(self.state, 0, &mut debug) == 0 {
                return self.error(&format!("bad argument #{arg} ({text})"));
            }
            ffi::lua_getinfo(self.state, c"n".as_ptr(), &mut debug);
            let name = match debug.name.is_null() {
                true => "?".into(),
                false => CStr::from_ptr(debug.name).to_string_lossy(),
            };
            (name, CStr::from_ptr(debug.namewhat) == c"method")
        };
        let arg = if is_method { arg - 1 } else { arg };
        if is_method && arg == 0 {
            return self.error(&format!("calling '{name}' on bad self ({text})"));
        }
        self.error(&format!("bad argument #{arg} to '{name}' ({text})"))
    }

    /// The error for an argument of another type.
    pub fn type_error(&mut self, arg: c_int, wanted: &str) -> Raise {
        let got = self.kind(arg).name();
        self.arg_error(arg, &format!("{wanted} expected, got {got}"))
    }

    /// A number as argument.
    ///
    /// # Errors
    /// Where it is not one.
    pub fn arg_number(&mut self, arg: c_int) -> Result<f64, Raise> {
        self.number(arg).ok_or(()).map_err(|()| self.type_error(arg, "number"))
    }

    /// A string, or a number as its text, as argument.
    ///
    /// # Errors
    /// Where it is neither.
    pub fn arg_bytes(&mut self, arg: c_int) -> Result<&'a [u8], Raise> {
        self.text(arg).ok_or(()).map_err(|()| self.type_error(arg, "string"))
    }
}
