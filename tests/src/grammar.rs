//! Random calls made from the syntax lines of the command table.
//!
//! Most calls are valid and meet the others on a few shared keys, so that they find something to
//! work on; some are mutated into wrong arity, wrong types and wrong tokens. Values come from pools
//! by the name of the argument, with the edges that matter for it.

use crate::pools;
use crate::random::Random;
use crate::resp::Argv;
use ashlar_engine::command::Flags;
use ashlar_engine::commands::syntax::{Arg, ArgKind, parse};
use ashlar_engine::engine::command_table;

/// How often a repeated argument comes at the most.
const REPEAT_MAX: usize = 4;

/// One command, or one subcommand of a container.
#[derive(Clone, Debug)]
pub struct Spec {
    /// `GET`, or `XGROUP CREATE`.
    pub name: String,
    /// The family in lower case, as the command table groups it: `string`, `sorted-set`.
    pub family: String,
    /// Its arguments.
    pub args: Vec<Arg>,
}

impl Spec {
    /// A spec from a line such as `INCRBY key increment:integer`: leading upper-case words up to
    /// `words` name the command.
    pub fn new(family: &str, name: &str, syntax: &str) -> Spec {
        match parse(syntax) {
            Ok(args) => Spec { name: name.to_owned(), family: family.to_owned(), args },
            Err(error) => panic!("the syntax of {name}: {error}: {syntax}"),
        }
    }
}

/// The engine's commands, subcommands instead of their containers.
pub fn table() -> Vec<Spec> {
    let mut specs = Vec::new();
    for command in command_table().all() {
        let family = command.group.name();
        if command.run.is_some() && !command.flags.contains(Flags::INTERNAL) {
            specs.push(Spec::new(family, command.name, command.syntax));
        }
        for sub in command.subcommands {
            let name = format!("{} {}", command.name, sub.name);
            specs.push(Spec::new(family, &name, sub.syntax));
        }
    }
    specs
}

/// Makes random calls.
#[derive(Debug)]
pub struct Generator {
    /// The generator of everything random here; tests may draw from it too.
    pub random: Random,
    /// How many calls in a hundred are mutated.
    pub mutated_percent: usize,
}

/// What the arguments so far say about the ones to come.
#[derive(Default)]
struct State<'a> {
    command: &'a str,
    family: &'a str,
    /// What `numkeys` or the like announced.
    announced: Option<usize>,
    /// Where integers are, and what they are called: `COUNT count`.
    integers: Vec<(usize, String)>,
}

/// What an argument that takes an integer is called within its command; `None` for others.
fn integer_name(arg: &Arg) -> Option<String> {
    let token = arg.token.as_ref().map(|token| format!("{token} ")).unwrap_or_default();
    let is_integer = matches!(arg.kind, ArgKind::Integer | ArgKind::UnixTime);
    is_integer.then(|| format!("{token}{}", arg.name))
}

/// The integers that a command takes, by their names in [`Generator::marked_call`].
pub fn integers(args: &[Arg]) -> Vec<String> {
    let inside = |arg: &Arg| match &arg.kind {
        ArgKind::OneOf(args) | ArgKind::Block(args) => integers(args),
        _ => integer_name(arg).into_iter().collect(),
    };
    args.iter().flat_map(inside).collect()
}

impl Generator {
    /// A generator whose calls follow from `seed`.
    pub fn new(seed: u64) -> Generator {
        Generator { random: Random::new(seed), mutated_percent: 12 }
    }

    /// One call of this command.
    pub fn call(&mut self, spec: &Spec) -> Argv {
        let names = spec.name.split(' ').count();
        let mut argv = self.marked_call(spec).0;
        if self.random.chance(self.mutated_percent) {
            self.mutate(&mut argv, names);
        }
        argv
    }

    /// One call as the syntax says, and where its integers are.
    pub fn marked_call(&mut self, spec: &Spec) -> (Argv, Vec<(usize, String)>) {
        let mut argv: Argv = spec.name.split(' ').map(|word| word.as_bytes().to_vec()).collect();
        let mut state = State { command: &spec.name, family: &spec.family, ..State::default() };
        self.sequence(&spec.args, &mut state, &mut argv);
        (argv, state.integers)
    }

    fn sequence(&mut self, args: &[Arg], state: &mut State<'_>, out: &mut Argv) {
        let mut at = 0;
        while let Some(arg) = args.get(at) {
            let optional = args[at..].iter().take_while(|arg| arg.optional).count();
            if optional > 1 {
                // Options may come in any order.
                let mut order: Vec<usize> = (at..at + optional).collect();
                if self.random.chance(30) {
                    let (a, b) = (self.random.below(optional), self.random.below(optional));
                    order.swap(a, b);
                }
                order.iter().for_each(|&index| self.argument(&args[index], None, state, out));
                at += optional;
                continue;
            }
            let next = args.get(at + 1);
            match next {
                Some(list) if arg.name.starts_with("num") && list.multiple => {
                    at += 1;
                    self.counted(arg, list, state, out);
                }
                // `STREAMS key... id...`: as many of the one as of the other
                Some(other) if arg.multiple && other.multiple && !other.optional => {
                    at += 1;
                    let count = Some(self.repetitions());
                    self.argument(arg, count, state, out);
                    let count = if self.random.chance(5) { None } else { count };
                    self.argument(other, count, state, out);
                }
                _ => self.argument(arg, None, state, out),
            }
            at += 1;
        }
    }

    /// A count and the list that it announces.
    fn counted(&mut self, count: &Arg, list: &Arg, state: &mut State<'_>, out: &mut Argv) {
        let repeat = self.repetitions();
        state.announced = Some(repeat);
        match self.random.chance(5) {
            true => self.once(count, state, out),
            false => {
                state.integers.extend(integer_name(count).map(|name| (out.len(), name)));
                out.push(repeat.to_string().into_bytes());
            }
        }
        self.argument(list, Some(repeat), state, out);
    }

    fn repetitions(&mut self) -> usize {
        match self.random.chance(60) {
            true => 1 + self.random.below(2),
            false => 1 + self.random.below(REPEAT_MAX),
        }
    }

    fn argument(
        &mut self,
        arg: &Arg,
        repeat: Option<usize>,
        state: &mut State<'_>,
        out: &mut Argv,
    ) {
        if arg.optional && !self.random.chance(35) {
            return;
        }
        let repeat = match (arg.multiple, repeat, arg.name.as_str(), state.announced) {
            (false, ..) => 1,
            (true, Some(repeat), ..) => repeat,
            (true, None, "weight", Some(keys)) if self.random.chance(90) => keys,
            (true, None, ..) => self.repetitions(),
        };
        for index in 0..repeat {
            if let Some(token) = &arg.token
                && (index == 0 || arg.multiple_token)
            {
                out.push(self.token(token));
            }
            self.once(arg, state, out);
        }
    }

    /// Tokens match in any case.
    fn token(&mut self, token: &str) -> Vec<u8> {
        match self.random.chance(10) {
            true => token.to_ascii_lowercase().into_bytes(),
            false => token.as_bytes().to_vec(),
        }
    }

    fn once(&mut self, arg: &Arg, state: &mut State<'_>, out: &mut Argv) {
        match &arg.kind {
            ArgKind::Token => {}
            ArgKind::OneOf(choices) => {
                let choice = &choices[self.random.below(choices.len())];
                // A choice is not left out: the group around it already decided that.
                let choice = Arg { optional: false, ..choice.clone() };
                self.argument(&choice, None, state, out);
            }
            ArgKind::Block(args) => self.sequence(args, state, out),
            ArgKind::Key => out.push(pools::key(&mut self.random, state.family, state.command)),
            kind => {
                state.integers.extend(integer_name(arg).map(|name| (out.len(), name)));
                out.push(pools::value(&mut self.random, state.command, &arg.name, kind));
            }
        }
    }

    fn mutate(&mut self, argv: &mut Argv, names: usize) {
        let at = names + self.random.below(argv.len() - names);
        match self.random.below(7) {
            0 => argv.truncate(at.max(1)),
            1 => argv.push(pools::junk(&mut self.random)),
            2 if at < argv.len() => argv[at] = pools::junk(&mut self.random),
            3 if at < argv.len() => argv.insert(at, pools::junk(&mut self.random)),
            4 if at < argv.len() => {
                argv.remove(at);
            }
            5 if at < argv.len() => {
                let other = names + self.random.below(argv.len() - names);
                argv.swap(at, other);
            }
            6 if at < argv.len() => argv.insert(at, argv[at].clone()),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::join;

    fn calls(seed: u64, mutated_percent: usize, spec: &Spec) -> Vec<Argv> {
        let mut generator = Generator { mutated_percent, ..Generator::new(seed) };
        (0..200).map(|_| generator.call(spec)).collect()
    }

    #[test]
    fn the_same_seed_makes_the_same_calls() {
        let spec = Spec::new("hash", "HSET", "key (field value)...");
        assert_eq!(calls(7, 12, &spec), calls(7, 12, &spec));
        assert_ne!(calls(7, 12, &spec), calls(8, 12, &spec));
    }

    #[test]
    fn calls_follow_the_syntax() {
        let spec = Spec::new("hash", "HSET", "key (field value)...");
        for argv in calls(1, 0, &spec) {
            assert_eq!((argv.len() % 2, argv.len() >= 4), (0, true), "{}", join(&argv));
        }
        let spec = Spec::new("string", "SET", "key value [NX|XX] [EX seconds:integer|KEEPTTL]");
        let calls = calls(1, 0, &spec);
        let has = |word: &[u8]| calls.iter().any(|argv| argv.iter().any(|arg| arg == word));
        assert!(has(b"NX") && has(b"XX") && has(b"EX") && has(b"KEEPTTL"));
    }

    #[test]
    fn counts_announce_what_follows() {
        let syntax = "numkeys:integer key... [WEIGHTS weight:double...]";
        let spec = Spec::new("sorted-set", "ZUNION", syntax);
        let right = |argv: &Argv| {
            let keys: usize = String::from_utf8_lossy(&argv[1]).parse().unwrap_or(99);
            argv.len() == 2 + keys || argv.len() == 3 + 2 * keys
        };
        let calls = calls(1, 0, &spec);
        assert!(calls.iter().filter(|argv| right(argv)).count() > 150);
    }
}
