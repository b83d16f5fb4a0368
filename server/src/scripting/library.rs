//! Functions: libraries of Lua code that register them, by FUNCTION LOAD.
//!
//! The engine keeps the libraries' text as part of the state. Each worker loads what it finds there
//! into an interpreter of its own, when its next function is called; what a library keeps in local
//! variables from one call to the next is therefore the worker's.

use super::interpreter::{Interpreter, failure};
use super::lua::{Failed, Kind, Raise, Stack};
use super::shebang::{ScriptFlags, flag};
use crate::host::Host;
use ashlar_engine::error::Error;
use std::collections::{BTreeMap, HashMap};
use std::ffi::{CStr, c_int};
use std::sync::Arc;

/// Most functions of one library.
pub const FUNCTIONS_MAX: usize = 10_000;
/// Name of a library's chunk, as errors show it.
const CHUNK: &CStr = c"@user_function";
/// Instructions of a library after which its time is looked at.
const LOOK_INSTRUCTIONS: c_int = 100_000;

/// A function, as its library has registered it.
#[derive(Clone, Debug)]
pub struct Registered {
    /// Its name.
    pub name: Vec<u8>,
    /// The function, by its number in the interpreter.
    pub function: c_int,
    /// What it says of itself.
    pub flags: ScriptFlags,
    /// What it is for.
    pub description: Option<Vec<u8>>,
}

/// A library that is loaded.
#[derive(Debug)]
pub struct Library {
    /// Its text, with the first line.
    pub text: Arc<[u8]>,
    /// Its functions.
    pub functions: Vec<Registered>,
}

/// A worker's functions.
pub struct Functions {
    /// Where they run.
    pub interpreter: Interpreter,
    /// The libraries, by name.
    pub libraries: BTreeMap<Box<[u8]>, Library>,
    by_name: HashMap<Vec<u8>, (c_int, ScriptFlags)>,
    version: u64,
}

/// Names of libraries and functions.
fn is_name(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
}

const BAD_NAME: &str = "ERR Library names can only contain letters, numbers, or underscores(_) and \
                        must be at least one character long";

/// The name in a library's first line, and the rest of its text.
///
/// # Errors
/// Redis's texts.
pub fn parse_library(text: &[u8]) -> Result<(&[u8], &[u8]), Error> {
    if !text.starts_with(b"#!") {
        return Err(Error::text("ERR Missing library metadata"));
    }
    let Some(end) = text.iter().position(|byte| *byte == b'\n') else {
        return Err(Error::text("ERR Invalid library metadata"));
    };
    let (line, rest) = text.split_at(end);
    let mut words = line[2..].split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    let engine = words.next().unwrap_or_default();
    let mut name = None;
    for word in words {
        match (word.strip_prefix(b"name="), name) {
            (Some(_), Some(_)) => {
                return Err(Error::text(
                    "ERR Invalid metadata value, name argument was given multiple times",
                ));
            }
            (Some(value), None) => name = Some(value),
            (None, _) => {
                let word = String::from_utf8_lossy(word);
                return Err(Error::owned(format!("ERR Invalid metadata value given: {word}")));
            }
        }
    }
    let Some(name) = name else { return Err(Error::text("ERR Library name was not given")) };
    if !is_name(name) {
        return Err(Error::text(BAD_NAME));
    }
    if !engine.eq_ignore_ascii_case(b"lua") {
        let engine = String::from_utf8_lossy(engine);
        return Err(Error::owned(format!("ERR Engine '{engine}' not found")));
    }
    Ok((name, rest))
}

impl Functions {
    /// A worker's functions, none of which is loaded yet.
    ///
    /// # Errors
    /// Where there is no memory.
    pub fn new() -> Result<Functions, Error> {
        Ok(Functions::of(Interpreter::new(0)?))
    }

    /// Those of an interpreter, none of which is loaded yet.
    pub fn of(interpreter: Interpreter) -> Functions {
        let (libraries, by_name) = (BTreeMap::new(), HashMap::new());
        Functions { interpreter, libraries, by_name, version: 0 }
    }

    /// The function of that name.
    pub fn find(&self, name: &[u8]) -> Option<(c_int, ScriptFlags)> {
        self.by_name.get(name).copied()
    }

    /// Loads what the engine has and this worker has not, and drops what the engine has no more.
    pub fn refresh(&mut self, host: &mut Host<'_, '_>) {
        if self.version == host.shared.engine.libraries().version() {
            return;
        }
        let (libraries, version) = host.shared.engine.libraries().all();
        let is_current = |library: &Library, name: &[u8]| {
            libraries.iter().any(|(other, text)| **other == *name && *text == library.text)
        };
        let gone: Vec<Box<[u8]>> = self
            .libraries
            .iter()
            .filter(|(name, library)| !is_current(library, name))
            .map(|(name, _)| name.clone())
            .collect();
        gone.iter().for_each(|name| self.drop_library(name));
        for (name, text) in libraries {
            if self.libraries.contains_key(&name) {
                continue;
            }
            match self.load(host, &text) {
                Ok(functions) => self.keep(&name, text, functions),
                Err(error) => tracing::error!(
                    "the function library {} cannot be loaded: {error}",
                    String::from_utf8_lossy(&name)
                ),
            }
        }
        self.version = version;
    }

    fn keep(&mut self, name: &[u8], text: Arc<[u8]>, functions: Vec<Registered>) {
        for function in &functions {
            self.by_name.insert(function.name.clone(), (function.function, function.flags));
        }
        self.libraries.insert(name.into(), Library { text, functions });
    }

    fn drop_library(&mut self, name: &[u8]) {
        let Some(library) = self.libraries.remove(name) else { return };
        for function in &library.functions {
            self.by_name.remove(&function.name);
        }
        self.let_go(&library.functions);
    }

    /// Lets go of functions that were registered.
    pub fn let_go(&mut self, functions: &[Registered]) {
        let stack = &mut self.interpreter.lua.stack();
        functions.iter().for_each(|function| stack.let_go(function.function));
    }

    /// Runs a library's text and returns what it registers.
    ///
    /// # Errors
    /// Why it cannot be loaded.
    pub fn load(&mut self, host: &mut Host<'_, '_>, text: &[u8]) -> Result<Vec<Registered>, Error> {
        let (_, code) = parse_library(text)?;
        if code.len() > super::base::SOURCE_BYTES_MAX {
            return Err(Error::text("ERR the library is too large"));
        }
        let interpreter = &mut self.interpreter;
        let run = &interpreter.lua.extra().run;
        run.reset(host.stamp.seed);
        run.agree(host.session.applies);
        run.loading.set(true);
        run.registered.take();
        interpreter.lua.set_hook(LOOK_INSTRUCTIONS);
        let result = run_library(interpreter, host, code);
        interpreter.lua.set_hook(0);
        if let Some(panic) = interpreter.lua.take_panic() {
            std::panic::resume_unwind(panic);
        }
        let run = &interpreter.lua.extra().run;
        run.loading.set(false);
        let functions = run.registered.take();
        let result = match result {
            Ok(()) if functions.is_empty() => Err(Error::text("ERR No functions registered")),
            other => other,
        };
        match result {
            Ok(()) => Ok(functions),
            Err(error) => {
                self.let_go(&functions);
                Err(error)
            }
        }
    }
}

/// Compiles a library and runs it with the names that libraries find.
fn run_library(
    interpreter: &mut Interpreter,
    host: &mut Host<'_, '_>,
    code: &[u8],
) -> Result<(), Error> {
    let globals = interpreter.globals;
    let handler = interpreter.handler();
    let stack = &mut interpreter.lua.stack();
    stack.push_kept(handler);
    if stack.load(code, CHUNK).is_err() {
        let reason = String::from_utf8_lossy(stack.bytes(-1).unwrap_or_default()).into_owned();
        stack.set_top(0);
        return Err(Error::owned(format!("ERR Error compiling function: {reason}")));
    }
    let show = |stack: &mut Stack<'_>, names| {
        stack.push_kept(globals.front);
        stack.push_kept(names);
        stack.set_field(-2, c"__index");
        stack.pop(1);
    };
    show(stack, globals.library_names);
    let run = &stack.extra().run;
    let outcome = run.lend_for_loading(host, || stack.call(0, 0, 1));
    let result = outcome.map_err(|Failed| {
        stack.get_field(-1, c"err");
        let reason = match stack.bytes(-1) {
            Some(reason) => String::from_utf8_lossy(reason).into_owned(),
            None => {
                stack.pop(1);
                failure(stack, b"").message().into_owned()
            }
        };
        Error::owned(format!("ERR Error registering functions: {reason}"))
    });
    stack.set_top(0);
    show(stack, globals.names);
    result
}

fn refuse(stack: &mut Stack<'_>, text: &str) -> Raise {
    stack.push_error_table(text.as_bytes());
    stack.raise()
}

/// `redis.register_function(name, callback)`, or with a table of named arguments.
pub fn register_function(stack: &mut Stack<'_>) -> Result<c_int, Raise> {
    let run = &stack.extra().run;
    if !run.loading.get() {
        let text = "ERR redis.register_function can only be called on FUNCTION LOAD command";
        return Err(refuse(stack, text));
    }
    let registered = match stack.top() {
        1 => named_arguments(stack)?,
        2 => {
            if stack.kind(1) != Kind::String {
                let text = "ERR first argument to redis.register_function must be a string";
                return Err(refuse(stack, text));
            }
            if stack.kind(2) != Kind::Function {
                let text = "ERR second argument to redis.register_function must be a function";
                return Err(refuse(stack, text));
            }
            let name = stack.bytes(1).unwrap_or_default().to_vec();
            stack.push_copy(2);
            let function = stack.keep();
            Registered { name, function, flags: ScriptFlags::empty(), description: None }
        }
        _ => {
            let text = "ERR wrong number of arguments to redis.register_function";
            return Err(refuse(stack, text));
        }
    };
    let known = run.registered.borrow().iter().any(|one| one.name == registered.name);
    let error = if !is_name(&registered.name) {
        Some(BAD_NAME)
    } else if known {
        Some("ERR Function already exists in the library")
    } else if run.registered.borrow().len() >= FUNCTIONS_MAX {
        Some("ERR too many functions in the library")
    } else {
        None
    };
    if let Some(text) = error {
        stack.let_go(registered.function);
        return Err(refuse(stack, text));
    }
    run.registered.borrow_mut().push(registered);
    Ok(0)
}

/// The one argument: a table of named ones.
fn named_arguments(stack: &mut Stack<'_>) -> Result<Registered, Raise> {
    if stack.kind(1) != Kind::Table {
        let text = "ERR calling redis.register_function with a single argument is only applicable \
                    to Lua table (representing named arguments).";
        return Err(refuse(stack, text));
    }
    let (mut name, mut description) = (None, None);
    let mut flags = ScriptFlags::empty();
    let mut has_callback = false;
    stack.push_nil();
    while stack.next(1) {
        let key = stack.bytes(-2).unwrap_or_default();
        let value = stack.bytes(-1);
        let problem = match (key, value) {
            (b"function_name", Some(text)) => {
                name = Some(text.to_vec());
                None
            }
            (b"function_name", None) => {
                Some("function_name argument given to redis.register_function must be a string")
            }
            (b"description", Some(text)) => {
                description = Some(text.to_vec());
                None
            }
            (b"description", None) => {
                Some("description argument given to redis.register_function must be a string")
            }
            (b"callback", _) if stack.kind(-1) == Kind::Function => {
                has_callback = true;
                None
            }
            (b"callback", _) => {
                Some("callback argument given to redis.register_function must be a function")
            }
            (b"flags", _) if stack.kind(-1) == Kind::Table => match read_flags(stack) {
                Some(read) => {
                    flags = read;
                    None
                }
                None => Some("unknown flag given"),
            },
            (b"flags", _) => Some(
                "flags argument to redis.register_function must be a table representing function \
                 flags",
            ),
            _ => Some("unknown argument given to redis.register_function"),
        };
        if let Some(text) = problem {
            return Err(refuse(stack, &format!("ERR {text}")));
        }
        stack.pop(1);
    }
    let Some(name) = name else {
        let text = "ERR redis.register_function must get a function name argument";
        return Err(refuse(stack, text));
    };
    if !has_callback {
        let text = "ERR redis.register_function must get a callback argument";
        return Err(refuse(stack, text));
    }
    stack.get_field(1, c"callback");
    let function = stack.keep();
    Ok(Registered { name, function, flags, description })
}

/// The flags in the table on top of the stack; `None` where one is unknown.
fn read_flags(stack: &mut Stack<'_>) -> Option<ScriptFlags> {
    let table = stack.top();
    let mut flags = ScriptFlags::empty();
    let mut n = 1;
    loop {
        stack.get_index(table, n);
        if stack.kind(-1) == Kind::Nil {
            stack.set_top(table);
            return Some(flags);
        }
        let known = stack.bytes(-1).and_then(flag);
        stack.set_top(table);
        flags |= known?;
        n += 1;
    }
}
