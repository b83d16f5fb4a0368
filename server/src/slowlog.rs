//! The slow log: the last commands that took longer than `slowlog-log-slower-than`.

use std::collections::VecDeque;

use ashlar_engine::error::Error;
use ashlar_engine::reply::Reply;
use parking_lot::Mutex;

use crate::redact::{REDACTED, secret_positions};

/// The most arguments of a command that are kept; the last of them says how many are missing.
const ARGS_MAX: usize = 32;
/// The most bytes of an argument that are kept.
const ARG_BYTES_MAX: usize = 128;
/// The most commands that are kept, whatever `slowlog-max-len` says.
const ENTRIES_MAX: usize = 1 << 20;

/// One slow command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlowCommand {
    /// Its number since the server was started.
    pub id: u64,
    /// When it ran, in seconds since 1970.
    pub time_seconds: i64,
    /// How long it took.
    pub micros: u64,
    /// Its arguments, cut short and without secrets.
    pub args: Vec<Vec<u8>>,
    /// The client's address.
    pub address: String,
    /// The client's name.
    pub client_name: Vec<u8>,
}

#[derive(Default)]
struct Log {
    next_id: u64,
    entries: VecDeque<SlowCommand>,
}

/// The slow log; one for the whole server.
#[derive(Default)]
pub struct SlowLog {
    log: Mutex<Log>,
}

impl SlowLog {
    /// Enters a command; the caller has compared its time with the threshold. `len_max` is
    /// `slowlog-max-len`.
    pub fn add(
        &self,
        args: &[&[u8]],
        micros: u64,
        time_seconds: i64,
        client: (&str, &[u8]),
        len_max: u64,
    ) {
        let args = shortened(args);
        let (address, client_name) = client;
        let mut log = self.log.lock();
        let id = log.next_id;
        log.next_id += 1;
        log.entries.push_front(SlowCommand {
            id,
            time_seconds,
            micros,
            args,
            address: address.to_owned(),
            client_name: client_name.to_vec(),
        });
        let len_max = usize::try_from(len_max).unwrap_or(usize::MAX).min(ENTRIES_MAX);
        log.entries.truncate(len_max);
    }

    /// How many commands are kept.
    pub fn len(&self) -> usize {
        self.log.lock().entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets all of them.
    pub fn reset(&self) {
        let old = std::mem::take(&mut self.log.lock().entries);
        drop(old);
    }

    /// The newest commands first, `count` of them or all.
    pub fn newest(&self, count: Option<usize>) -> Vec<SlowCommand> {
        let log = self.log.lock();
        log.entries.iter().take(count.unwrap_or(usize::MAX)).cloned().collect()
    }

    /// SLOWLOG GET \[count\]; `args` are the whole command.
    ///
    /// # Errors
    /// If the count is not a number from -1.
    pub fn reply_get(&self, args: &[&[u8]], reply: &mut Reply<'_>) -> Result<(), Error> {
        let count = match args.get(2) {
            None => Some(10),
            Some(count) => match ashlar_engine::number::parse_i64(count) {
                Some(-1) => None,
                Some(count) if count >= 0 => usize::try_from(count).ok(),
                _ => return Err(Error::text("ERR count should be greater than or equal to -1")),
            },
        };
        let commands = self.newest(count);
        reply.array(commands.len());
        for command in commands {
            reply.array(6);
            reply.int(i64::try_from(command.id).unwrap_or(i64::MAX));
            reply.int(command.time_seconds);
            reply.int(i64::try_from(command.micros).unwrap_or(i64::MAX));
            reply.array(command.args.len());
            for arg in &command.args {
                reply.bulk(arg);
            }
            reply.bulk(command.address.as_bytes());
            reply.bulk(&command.client_name);
        }
        Ok(())
    }
}

/// The arguments as they are kept: few, short, without secrets.
fn shortened(args: &[&[u8]]) -> Vec<Vec<u8>> {
    let secret = secret_positions(args);
    let kept = if args.len() > ARGS_MAX { ARGS_MAX - 1 } else { args.len() };
    let one = |(at, arg): (usize, &&[u8])| {
        if secret.contains(&at) {
            return REDACTED.to_vec();
        }
        match arg.split_at_checked(ARG_BYTES_MAX) {
            Some((head, rest)) if !rest.is_empty() => {
                [head, format!("... ({} more bytes)", rest.len()).as_bytes()].concat()
            }
            _ => arg.to_vec(),
        }
    };
    let mut short: Vec<Vec<u8>> = args.iter().enumerate().take(kept).map(one).collect();
    if kept < args.len() {
        short.push(format!("... ({} more arguments)", args.len() - kept).into_bytes());
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_cut_short() {
        let long = [b'x'; 130];
        let short = shortened(&[b"set", &long]);
        assert!(short[1].ends_with(b"xx... (2 more bytes)") && short[1].len() == 128 + 18);
        assert_eq!(shortened(&[b"set", &long[..128]])[1], long[..128]);
        let many = vec![&b"a"[..]; 33];
        let short = shortened(&many);
        assert_eq!((short.len(), short[31].as_slice()), (32, &b"... (2 more arguments)"[..]));
        assert_eq!(shortened(&many[..32]).len(), 32);
        assert_eq!(shortened(&[b"AUTH", b"p"]), [b"AUTH".to_vec(), REDACTED.to_vec()]);
    }

    #[test]
    fn the_newest_are_kept_and_come_first() {
        let log = SlowLog::default();
        for micros in 0..5 {
            log.add(&[b"ping"], micros, 7, ("1.2.3.4:5", b"me"), 3);
        }
        let ids = |count| log.newest(count).iter().map(|entry| entry.id).collect::<Vec<_>>();
        assert_eq!(ids(None), [4, 3, 2]);
        assert_eq!(ids(Some(1)), [4]);
        log.reset();
        assert!(log.is_empty());
        log.add(&[b"ping"], 1, 7, ("", b""), 3);
        assert_eq!(ids(None), [5]);
        log.add(&[b"ping"], 1, 7, ("", b""), 0);
        assert!(log.is_empty());
    }

    #[test]
    fn the_reply_has_six_parts() {
        let log = SlowLog::default();
        log.add(&[b"ping"], 12, 7, ("1.2.3.4:5", b"me"), 3);
        let mut out = Vec::new();
        let mut reply = Reply::new(&mut out, Default::default());
        log.reply_get(&[b"SLOWLOG", b"GET", b"-1"], &mut reply).unwrap();
        let text =
            "*1\r\n*6\r\n:0\r\n:7\r\n:12\r\n*1\r\n$4\r\nping\r\n$9\r\n1.2.3.4:5\r\n$2\r\nme\r\n";
        assert_eq!(String::from_utf8(out.clone()).unwrap(), text);
        for wrong in ["-2", "abc", "9223372036854775808"] {
            let mut reply = Reply::new(&mut out, Default::default());
            let args: [&[u8]; 3] = [b"SLOWLOG", b"GET", wrong.as_bytes()];
            assert!(log.reply_get(&args, &mut reply).is_err());
        }
    }
}
