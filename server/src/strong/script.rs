//! Scripts and functions as a group agrees on them.
//!
//! ```text
//! EVAL text ...                                                       by a user who may do everything
//! ASHLAR.SCRIPT  full u8 | rules | text of the library | EVAL ..., FCALL ...     otherwise
//! ```
//! Every replica runs them, so whatever decides what they do goes with the call: whether memory was above
//! `maxmemory` where it was proposed, what the user may do who sent it, and of a function its library, of which
//! replicas may have another version at that moment.

use crate::acl::parse::{Context, apply, merge_selectors};
use crate::acl::{Rules, User};
use crate::config::ids;
use crate::host::Host;
use crate::memory;
use crate::registry::{Registry, Resolved};
use crate::scripting::cache::parse_sha;
use crate::scripting::with_functions;
use crate::session::{AgreedScript, Session};
use crate::shared::Shared;
use ashlar_engine::command::Group;
use ashlar_engine::error::Error;
use ashlar_replication::raft::OwnedCall;
use ashlar_replication::topology::Release;
use std::sync::Arc;

const NAME: &[u8] = b"ASHLAR.SCRIPT";
/// Arguments before those of the command.
const HEAD: usize = 4;
const FULL: &[u8] = b"1";

/// What a script's user may do, as words of ACL SETUSER. Passwords are not among them.
fn show(rules: &Rules) -> Vec<u8> {
    let selectors = rules.selectors.iter().enumerate().map(|(nth, selector)| {
        let shown = selector.show();
        if nth == 0 { shown } else { [b"(", &shown[..], b")"].concat() }
    });
    selectors.collect::<Vec<_>>().join(&b' ')
}

fn read(registry: &Registry, text: &[u8]) -> Result<Rules, Error> {
    let wrong = || Error::text("ERR the rules of the script's user cannot be read");
    let context = Context { registry, all_channels: false };
    let words = text.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
    let words = merge_selectors(&words.collect::<Vec<_>>()).map_err(|_| wrong())?;
    let mut rules = Rules { on: true, no_password: true, ..Rules::new(registry, false) };
    for word in words {
        apply(&mut rules, &word, context).map_err(|_| wrong())?;
    }
    Ok(rules)
}

impl Host<'_, '_> {
    /// A call to be proposed.
    ///
    /// # Errors
    /// Where there is no such script or function, or the cluster is too old for it.
    pub(super) fn owned(
        &mut self,
        resolved: &Resolved,
        args: &[&[u8]],
    ) -> Result<OwnedCall, Error> {
        let db = self.session.db;
        let mut owned: Vec<Vec<u8>> = args.iter().map(|arg| arg.to_vec()).collect();
        if resolved.command.group != Group::Scripting {
            return Ok(OwnedCall { db, args: owned });
        }
        let is_function = resolved.command.name.starts_with("FCALL");
        if resolved.command.name == "EVALSHA" && args.len() > 1 {
            let script = parse_sha(&owned[1]).and_then(|sha| self.shared.scripts.cache.get(&sha));
            let text = "NOSCRIPT No matching script. Please use EVAL.";
            owned[1] = script.ok_or_else(|| Error::text(text))?.body.to_vec();
            owned[0] = b"EVAL".to_vec();
        }
        let full =
            self.shared.settings.number(ids::MAXMEMORY) != 0 && !memory::has_room(self.shared);
        let user = &mut self.session.identity;
        let rules = if user.user.is_unrestricted() { Vec::new() } else { show(user.rules()) };
        let library = if is_function { self.library_of(args[1])? } else { Arc::default() };
        if !full && rules.is_empty() && !is_function {
            return Ok(OwnedCall { db, args: owned });
        }
        let member = self.shared.cluster.get();
        if member.is_none_or(|member| member.topology().release() < Release::FUNCTIONS) {
            let needed = Release::FUNCTIONS;
            let text = format!("ERR This needs all nodes of the cluster to be of release {needed}");
            return Err(Error::owned(text));
        }
        let full = if full { FULL.to_vec() } else { b"0".to_vec() };
        owned.splice(0..0, [NAME.to_vec(), full, rules, library.to_vec()]);
        Ok(OwnedCall { db, args: owned })
    }

    /// The text of the library that has a function.
    fn library_of(&mut self, function: &[u8]) -> Result<Arc<[u8]>, Error> {
        with_functions(self, |_, functions| {
            let has = |name: &[u8]| name == function;
            let library = functions
                .libraries
                .values()
                .find(|library| library.functions.iter().any(|function| has(&function.name)));
            let library = library.ok_or(Error::text("ERR Function not found"))?;
            Ok(library.text.clone())
        })
    }
}

/// The command in a call that was agreed on.
pub(super) fn command_of<'a, 'b>(args: &'b [&'a [u8]]) -> &'b [&'a [u8]] {
    if args.len() > HEAD && args[0] == NAME { &args[HEAD..] } else { args }
}

/// Prepares the session for a call that was agreed on.
///
/// # Errors
/// If its head cannot be read, on every replica alike.
pub(super) fn enter(shared: &Shared, session: &mut Session, args: &[&[u8]]) -> Result<(), Error> {
    session.agreed = AgreedScript::default();
    if args.len() <= HEAD || args[0] != NAME {
        return Ok(());
    }
    session.agreed.full = args[1] == FULL;
    session.agreed.library = args[3].into();
    if !args[2].is_empty() {
        let rules = read(&shared.registry, args[2])?;
        session.become_user(Arc::new(User::new("cluster-script".into(), rules)));
        session.agreed.restricted = true;
    }
    Ok(())
}

/// The end of what [`enter`] has begun; `user` is who runs what everybody may.
pub(super) fn leave(session: &mut Session, user: &Arc<User>) {
    if session.agreed.restricted {
        session.become_user(user.clone());
    }
    session.agreed = AgreedScript::default();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::FAMILIES;

    #[test]
    fn rules_come_back_without_passwords() {
        let registry = Registry::new(FAMILIES);
        let context = Context { registry: &registry, all_channels: true };
        let mut rules = Rules::new(&registry, true);
        let words =
            "on >secret -@all +eval +config|get ~app:* %R~shared:* resetchannels &news (+get ~x*)";
        let words: Vec<&[u8]> = words.split(' ').map(str::as_bytes).collect();
        for word in merge_selectors(&words).unwrap() {
            apply(&mut rules, &word, context).unwrap();
        }
        let text = show(&rules);
        assert!(!text.contains(&b'#'), "{}", String::from_utf8_lossy(&text));
        assert_eq!(read(&registry, &text).unwrap().selectors, rules.selectors);
        assert!(read(&registry, b"+nothing").is_err());
        assert!(read(&registry, b"(+get").is_err());
    }
}
