//! Which arguments of a command are secrets, for SLOWLOG, MONITOR and the audit of commands.

use crate::config::Id;

/// What is shown in place of a secret.
pub const REDACTED: &[u8] = b"(redacted)";

/// The positions of passwords among a command's arguments, name included.
pub fn secret_positions(args: &[&[u8]]) -> Vec<usize> {
    let Some(name) = args.first() else { return Vec::new() };
    let is = |at: usize, word: &str| {
        args.get(at).is_some_and(|arg| arg.eq_ignore_ascii_case(word.as_bytes()))
    };
    let all = 0..args.len();
    match name.to_ascii_uppercase().as_slice() {
        b"AUTH" => all.skip(1).collect(),
        b"ACL" if is(1, "SETUSER") => all.skip(2).collect(),
        b"CONFIG" if is(1, "SET") => {
            let named = |at: &usize| {
                let id = args.get(at - 1).and_then(|name| Id::find(name));
                id.is_some_and(|id| id.setting().secret)
            };
            all.skip(3).step_by(2).filter(named).collect()
        }
        b"HELLO" => {
            let auth = all.skip(2).find(|at| is(*at, "AUTH"));
            auth.map_or_else(Vec::new, |at| (at + 1..args.len().min(at + 3)).collect())
        }
        b"MIGRATE" => {
            // MIGRATE host port key db timeout, then the options up to KEYS.
            let end = all.clone().skip(6).find(|at| is(*at, "KEYS")).unwrap_or(args.len());
            let options = 6.min(end)..end;
            let auth = options.clone().find(|at| is(*at, "AUTH"));
            let auth2 = options.clone().find(|at| is(*at, "AUTH2"));
            options
                .filter(|at| {
                    auth.is_some_and(|auth| *at == auth + 1)
                        || auth2.is_some_and(|auth| *at == auth + 1 || *at == auth + 2)
                })
                .collect()
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_found() {
        for (line, secret) in [
            ("get a", &[][..]),
            ("auth pass", &[1]),
            ("AUTH user pass", &[1, 2]),
            ("hello 3 auth u p setname x", &[3, 4]),
            ("hello 3", &[]),
            ("config set requirepass p timeout 1 masterauth q", &[3, 7]),
            ("config get requirepass", &[]),
            ("acl setuser u >p", &[2, 3]),
            ("migrate h 1 k 0 5 COPY AUTH p KEYS auth x", &[8]),
            ("migrate h 1 k 0 5 auth2 u p", &[7, 8]),
        ] {
            let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
            assert_eq!(secret_positions(&args), secret, "{line}");
        }
    }
}
