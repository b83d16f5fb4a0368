//! ACL: users and their permissions.

use crate::acl::log::Entry;
use crate::acl::parse::Context;
use crate::acl::user::hex;
use crate::acl::{CATEGORIES, Reason, Rules, User};
use crate::config::ids;
use crate::host::Host;
use crate::mailbox::Message;
use crate::registry::HostCommand;
use ashlar_engine::command::{Command, Flags, Group};
use ashlar_engine::error::{CmdResult, Error};
use ashlar_engine::number;
use ashlar_engine::reply::Reply;
use std::path::PathBuf;
use std::sync::Arc;

const ANY: Flags = Flags::NOSCRIPT.union(Flags::LOADING).union(Flags::STALE);
const ADMIN: Flags = ANY.union(Flags::ADMIN).union(Flags::DANGEROUS);

const fn sub(
    name: &'static str,
    arity: i32,
    flags: Flags,
    syntax: &'static str,
    summary: &'static str,
) -> Command {
    Command::hosted(name, arity, Group::Server).flags(flags).syntax(syntax).docs(
        "6.0.0",
        "O(N) for N users or rules",
        summary,
    )
}

/// The family's commands.
pub const COMMANDS: &[HostCommand] = &[HostCommand::container(
    Command::hosted("ACL", -2, Group::Server).docs("6.0.0", "", "Users and their permissions."),
    &[
        HostCommand::new(
            sub("CAT", -2, ANY, "[category]", "Lists categories, or the commands of one."),
            cat,
        ),
        HostCommand::new(
            sub("DELUSER", -3, ADMIN, "username...", "Removes users; closes their connections."),
            del_user,
        ),
        HostCommand::new(
            sub("DRYRUN", -4, ADMIN, "username command [arg...]", "Asks what a user may do."),
            dry_run,
        ),
        HostCommand::new(
            sub("GENPASS", -2, ANY, "[bits:integer]", "Makes a random password."),
            gen_pass,
        ),
        HostCommand::new(sub("GETUSER", 3, ADMIN, "username", "Describes a user."), get_user),
        HostCommand::new(sub("LIST", 2, ADMIN, "", "Shows all users with their rules."), list),
        HostCommand::new(sub("LOAD", 2, ADMIN, "", "Reads the file of users again."), load),
        HostCommand::new(
            sub("LOG", -2, ADMIN, "[count:integer|RESET]", "Shows the last refusals."),
            log,
        ),
        HostCommand::new(sub("SAVE", 2, ADMIN, "", "Writes the file of users."), save),
        HostCommand::new(
            sub("SETUSER", -3, ADMIN, "username [rule...]", "Makes or changes a user."),
            set_user,
        ),
        HostCommand::new(sub("USERS", 2, ADMIN, "", "Lists the names of all users."), users),
        HostCommand::new(sub("WHOAMI", 2, ANY, "", "Tells the connection's user."), whoami),
        HostCommand::new(sub("HELP", 2, ANY, "", "Lists the subcommands."), help),
    ],
)];

fn context<'a>(host: &Host<'_, 'a>) -> Context<'a> {
    Context {
        registry: &host.shared.registry,
        all_channels: host.shared.settings.flag(ids::ACL_PUBSUB_DEFAULT),
    }
}

fn cat(host: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    match args {
        [_, _] => {
            reply.array(CATEGORIES.len());
            CATEGORIES.iter().for_each(|category| reply.bulk(category.as_bytes()));
        }
        [_, _, wanted] => {
            let shown = String::from_utf8_lossy(wanted).into_owned();
            let category = shown.to_ascii_lowercase();
            if !CATEGORIES.contains(&category.as_str()) {
                return Err(Error::owned(format!("ERR Unknown category '{shown}'")).into());
            }
            let registry = &host.shared.registry;
            let ids: Vec<usize> = registry
                .in_category(&category)
                .filter(|id| registry.subcommands(*id).next().is_none())
                .collect();
            reply.array(ids.len());
            ids.iter().for_each(|id| reply.bulk(registry.full_name(*id).as_bytes()));
        }
        _ => return Err(Error::arity("acl|cat").into()),
    }
    Ok(())
}

fn set_user(host: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let user = host.shared.acl.set_user(context(host), args[2], &args[3..]);
    let user = user.map_err(Error::owned)?;
    close_subscribers(host, &user);
    reply.ok();
    Ok(())
}

/// Closes the connections of a user that listen to what it may no longer listen to.
fn close_subscribers(host: &mut Host<'_, '_>, user: &User) {
    let rules = user.rules();
    let own = host.session.address;
    let mut closed = Vec::new();
    host.shared.pubsub.for_each(|is_pattern, channel, client| {
        if client.names.lock().user == user.name && !rules.allows_channel(channel, is_pattern) {
            closed.push(client.address);
        }
    });
    for address in closed {
        if address == own {
            host.session.close_after_reply = true;
        } else {
            host.shared.mailboxes[address.worker].post(Message::Kill(address));
        }
    }
}

/// Closes the connections of users that are gone.
fn close_clients(host: &mut Host<'_, '_>, names: &[String]) {
    for client in host.shared.clients.all() {
        if !names.contains(&client.names.lock().user) {
            continue;
        }
        let address = client.address;
        if address == host.session.address {
            host.session.close_after_reply = true;
        } else {
            host.shared.mailboxes[address.worker].post(Message::Kill(address));
        }
    }
}

fn del_user(host: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    if args[2..].contains(&&b"default"[..]) {
        return Err(Error::text("ERR The 'default' user cannot be removed").into());
    }
    let deleted: Vec<String> = args[2..]
        .iter()
        .filter(|name| host.shared.acl.delete(name))
        .map(|name| String::from_utf8_lossy(name).into_owned())
        .collect();
    close_clients(host, &deleted);
    reply.int(deleted.len() as i64);
    Ok(())
}

fn get_user(host: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let Some(user) = host.shared.acl.find(args[2]) else {
        reply.null();
        return Ok(());
    };
    let rules = user.rules();
    reply.map(6);
    reply.bulk(b"flags");
    let flags = rules.flags();
    reply.set(flags.len());
    flags.iter().for_each(|flag| reply.bulk(flag.as_bytes()));
    reply.bulk(b"passwords");
    reply.array(rules.passwords.len());
    rules.passwords.iter().for_each(|hash| reply.bulk(hex(hash).as_bytes()));
    selector(reply, &rules, 0);
    reply.bulk(b"selectors");
    reply.array(rules.selectors.len() - 1);
    for nth in 1..rules.selectors.len() {
        reply.map(3);
        selector(reply, &rules, nth);
    }
    Ok(())
}

fn selector(reply: &mut Reply<'_>, rules: &Rules, nth: usize) {
    let selector = &rules.selectors[nth];
    reply.bulk(b"commands");
    reply.bulk(selector.show_commands().as_bytes());
    reply.bulk(b"keys");
    reply.bulk(&selector.show_keys());
    reply.bulk(b"channels");
    reply.bulk(&selector.show_channels());
}

fn list(host: &mut Host<'_, '_>, _: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let lines = host.shared.acl.lines();
    reply.array(lines.len());
    lines.iter().for_each(|line| reply.bulk(line));
    Ok(())
}

fn users(host: &mut Host<'_, '_>, _: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let users: Vec<Arc<User>> = host.shared.acl.all();
    reply.array(users.len());
    users.iter().for_each(|user| reply.bulk(user.name.as_bytes()));
    Ok(())
}

fn whoami(host: &mut Host<'_, '_>, _: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    reply.bulk(host.session.identity.user.name.as_bytes());
    Ok(())
}

fn gen_pass(_: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    const BITS_MAX: i64 = 4096;
    let bits = match args {
        [_, _] => 256,
        [_, _, bits] => number::parse_i64(bits).ok_or(Error::NotInteger)?,
        _ => return Err(Error::arity("acl|genpass").into()),
    };
    if !(1..=BITS_MAX).contains(&bits) {
        return Err(Error::text(
            "ERR ACL GENPASS argument must be the number of bits for the output password, a \
             positive number up to 4096",
        )
        .into());
    }
    let digits = usize::try_from(bits).unwrap_or(0).div_ceil(4);
    let mut random = vec![0; digits.div_ceil(2)];
    getrandom::fill(&mut random).map_err(|error| Error::owned(format!("ERR {error}")))?;
    let mut text: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    text.truncate(digits);
    reply.bulk(text.as_bytes());
    Ok(())
}

fn dry_run(host: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let Some(user) = host.shared.acl.find(args[2]) else {
        let name = String::from_utf8_lossy(args[2]);
        return Err(Error::owned(format!("ERR User '{name}' not found")).into());
    };
    let registry = &host.shared.registry;
    let call = &args[3..];
    if registry.find(call[0]).is_none() {
        let name = String::from_utf8_lossy(call[0]);
        return Err(Error::owned(format!("ERR Command '{name}' not found")).into());
    }
    let resolved = registry.resolve(call)?;
    match user.rules().check(resolved, call) {
        Ok(()) => reply.ok(),
        Err(denied) => {
            let object = match denied.reason {
                Reason::Command | Reason::Auth => registry.full_name(resolved.id).into(),
                _ => String::from_utf8_lossy(call[denied.at]),
            };
            let text = match denied.reason {
                Reason::Command | Reason::Auth => {
                    format!("This user has no permissions to run the '{object}' command")
                }
                Reason::Key => {
                    format!("This user has no permissions to access the '{object}' key")
                }
                Reason::Channel => {
                    format!("This user has no permissions to access the '{object}' channel")
                }
            };
            reply.bulk(text.as_bytes());
        }
    }
    Ok(())
}

const NO_FILE: &str = "ERR This Redis instance is not configured to use an ACL file. You may want \
                       to specify users via the ACL SETUSER command and then issue a CONFIG REWRITE \
                       (assuming you have a Redis configuration file set) in order to store users \
                       in the Redis configuration.";

fn file(host: &Host<'_, '_>) -> Result<PathBuf, Error> {
    let path = host.shared.settings.string(ids::ACLFILE);
    if path.is_empty() { Err(Error::text(NO_FILE)) } else { Ok(path.into()) }
}

fn load(host: &mut Host<'_, '_>, _: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let path = file(host)?;
    let loaded = host.shared.acl.load(context(host), &path);
    let gone = loaded.map_err(|error| Error::owned(format!("ERR {error}")))?;
    close_clients(host, &gone);
    for user in host.shared.acl.all() {
        close_subscribers(host, &user);
    }
    reply.ok();
    Ok(())
}

fn save(host: &mut Host<'_, '_>, _: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let path = file(host)?;
    if let Err(error) = host.shared.acl.save(&path) {
        tracing::warn!("the users could not be written to {}: {error}", path.display());
        let text = "ERR There was an error trying to save the ACLs. Please check the server logs \
                    for more information";
        return Err(Error::text(text).into());
    }
    reply.ok();
    Ok(())
}

fn log(host: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let count = match args {
        [_, _] => 10,
        [_, _, word] if word.eq_ignore_ascii_case(b"RESET") => {
            host.shared.acl.log.reset();
            reply.ok();
            return Ok(());
        }
        [_, _, count] => number::parse_i64(count).ok_or(Error::NotInteger)?.max(0),
        _ => return Err(Error::arity("acl|log").into()),
    };
    let entries = host.shared.acl.log.newest(usize::try_from(count).unwrap_or(0));
    reply.array(entries.len());
    for entry in &entries {
        log_entry(reply, entry, host.stamp.now_ms);
    }
    Ok(())
}

fn log_entry(reply: &mut Reply<'_>, entry: &Entry, now_ms: i64) {
    let reason = match entry.reason {
        Reason::Command => "command",
        Reason::Key => "key",
        Reason::Auth => "auth",
        Reason::Channel => "channel",
    };
    reply.map(10);
    reply.bulk(b"count");
    reply.int(entry.count as i64);
    let texts: [(&str, &[u8]); 4] = [
        ("reason", reason.as_bytes()),
        ("context", entry.place.name().as_bytes()),
        ("object", &entry.object),
        ("username", entry.user.as_bytes()),
    ];
    for (field, value) in texts {
        reply.bulk(field.as_bytes());
        reply.bulk(value);
    }
    reply.bulk(b"age-seconds");
    reply.double((now_ms - entry.created_ms).max(0) as f64 / 1000.0);
    reply.bulk(b"client-info");
    reply.bulk(entry.client.as_bytes());
    let numbers = [
        ("entry-id", entry.id as i64),
        ("timestamp-created", entry.created_ms),
        ("timestamp-last-updated", entry.updated_ms),
    ];
    for (field, number) in numbers {
        reply.bulk(field.as_bytes());
        reply.int(number);
    }
}

fn help(_: &mut Host<'_, '_>, _: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let lines = [
        ("CAT [<category>]", "List all categories, or the commands that belong to <category>."),
        ("DELUSER <username> [<username> ...]", "Delete a list of users."),
        ("DRYRUN <username> <command> [<arg> ...]", "Return whether the user can execute this."),
        ("GETUSER <username>", "Get the user's details."),
        ("GENPASS [<bits>]", "Generate a secure 256-bit user password, or of another size."),
        ("LIST", "Show users details in config file format."),
        ("LOAD", "Reload users from the ACL file."),
        ("LOG [<count> | RESET]", "Show the ACL log entries."),
        ("SAVE", "Save the current config to the ACL file."),
        ("SETUSER <username> <attribute> [...]", "Create or modify a user."),
        ("USERS", "List all the registered usernames."),
        ("WHOAMI", "Return the current connection username."),
    ];
    super::help(reply, "ACL", &lines);
    Ok(())
}
