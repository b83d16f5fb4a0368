//! The file of users: one `user` line each, read as a whole or not at all.

use super::parse::Context;
use super::{Acl, DEFAULT, Rules, USERS_MAX, User, Users, apply_all};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

/// Longest file that is read.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// Mistakes that are listed before the rest is left out.
const ERRORS_MAX: usize = 20;

impl Acl {
    /// ACL LOAD: the users of the file, instead of those that there are. Returns the names of those
    /// that are gone.
    ///
    /// # Errors
    /// Every mistake with its line; nothing has changed then.
    pub fn load(&self, context: Context<'_>, path: &Path) -> Result<Vec<String>, String> {
        let mut text = Vec::new();
        std::fs::File::open(path)
            .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut text))
            .map_err(|error| {
                let error = crate::config::os_text(&error);
                format!("Error loading ACLs, opening file '{}': {error}", path.display())
            })?;
        if text.len() as u64 > FILE_BYTES_MAX {
            return Err(format!("Error loading ACLs: '{}' is too long", path.display()));
        }
        let fresh = read(context, path, &text)?;
        Ok(self.replace(context, fresh))
    }

    /// Takes over users that were read. One that there is keeps its sessions.
    fn replace(&self, context: Context<'_>, fresh: BTreeMap<String, Rules>) -> Vec<String> {
        let _one_at_a_time = self.changing.lock();
        let mut users = self.users.write();
        let mut old = std::mem::take(&mut *users);
        let mut new = Users::new();
        for (name, rules) in fresh {
            let user = match old.remove(&name) {
                Some(user) => {
                    if *user.rules() != rules {
                        user.set_rules(rules);
                    }
                    user
                }
                None => Arc::new(User::new(name.clone(), rules)),
            };
            new.insert(name, user);
        }
        if let Some(user) = old.remove(DEFAULT) {
            user.set_rules(Rules::unrestricted(context.registry));
            new.insert(DEFAULT.into(), user);
        }
        *users = new;
        drop(users);
        self.look_at_default();
        old.into_keys().collect()
    }

    /// ACL SAVE: writes all users into the file, which is replaced as a whole or not at all.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn save(&self, path: &Path) -> std::io::Result<()> {
        let mut text = Vec::new();
        for line in self.lines() {
            text.extend_from_slice(&line);
            text.push(b'\n');
        }
        crate::config::replace_file(path, &text)
    }
}

fn read(context: Context<'_>, path: &Path, text: &[u8]) -> Result<BTreeMap<String, Rules>, String> {
    let mut users = BTreeMap::new();
    let mut errors = Vec::new();
    for (at, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        if let Err(error) = read_line(context, line, &mut users) {
            if errors.len() == ERRORS_MAX {
                break;
            }
            errors.push(format!("{}:{}: {error}. ", path.display(), at + 1));
        }
    }
    if errors.is_empty() {
        return Ok(users);
    }
    let warning = "WARNING: ACL errors detected, no change to the previously active ACL rules was \
                   performed";
    Err(errors.concat() + warning)
}

fn read_line(
    context: Context<'_>,
    line: &[u8],
    users: &mut BTreeMap<String, Rules>,
) -> Result<(), String> {
    let words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    let words: Vec<&[u8]> = words.collect();
    let [b"user", name, rest @ ..] = words.as_slice() else {
        return Err("should start with user keyword followed by the username".into());
    };
    let name = std::str::from_utf8(name)
        .ok()
        .filter(|name| !name.contains('\0'))
        .ok_or("username contains invalid characters")?;
    if users.contains_key(name) {
        return Err(format!("WARNING: Duplicate user '{name}' found"));
    }
    if users.len() >= USERS_MAX {
        return Err("there are too many users".into());
    }
    let mut rules = Rules::new(context.registry, context.all_channels);
    apply_all(&mut rules, rest, context).map_err(|error| {
        error.trim_start_matches("ERR Error in ACL SETUSER modifier ").to_owned()
    })?;
    users.insert(name.to_owned(), rules);
    Ok(())
}
