//! CLIENT LIST and CLIENT KILL: connections by what is known of them.

use crate::acl::Acl;
use crate::clients::Client;
use crate::host::Host;
use crate::mailbox::Message;
use ashlar_engine::error::{CmdResult, Error};
use ashlar_engine::number;
use ashlar_engine::reply::Reply;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A client's line, as CLIENT LIST shows it.
pub fn line(host: &Host<'_, '_>, client: &Client) -> String {
    let registry = &host.shared.registry;
    client.line(host.stamp.now_ms, |id| registry.full_name(id).to_string())
}

const TYPES: [&str; 5] = ["normal", "master", "replica", "slave", "pubsub"];

fn parse_type(arg: &[u8]) -> Result<String, Error> {
    let name = String::from_utf8_lossy(arg).to_ascii_lowercase();
    if TYPES.contains(&name.as_str()) {
        return Ok(name);
    }
    Err(Error::quoting("ERR Unknown client type '{}'", &[arg]))
}

fn parse_id(arg: &[u8]) -> Result<u64, Error> {
    let id = number::parse_i64(arg).and_then(|id| u64::try_from(id).ok());
    id.filter(|id| *id > 0).ok_or(Error::text("ERR client-id should be greater than 0"))
}

/// CLIENT LIST
///
/// # Errors
/// For options that do not exist.
pub fn list(host: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    host.session.publish();
    let mut clients = host.shared.clients.all();
    match &args[2..] {
        [] => {}
        [option, kind] if option.eq_ignore_ascii_case(b"TYPE") => {
            let kind = parse_type(kind)?;
            clients.retain(|client| client.type_name() == kind);
        }
        [option, ids @ ..] if option.eq_ignore_ascii_case(b"ID") && !ids.is_empty() => {
            // Nobody has a number below 1.
            let id = |id: i64| u64::try_from(id).unwrap_or(0);
            let ids = ids.iter().map(|text| number::parse_i64(text).map(id));
            let ids: Option<Vec<u64>> = ids.collect();
            let ids = ids.ok_or(Error::text("ERR Invalid client ID"))?;
            clients = ids.iter().filter_map(|id| host.shared.clients.get(*id)).collect();
        }
        _ => return Err(Error::Syntax.into()),
    }
    let lines: String = clients.iter().map(|client| line(host, client) + "\n").collect();
    reply.verbatim("txt", &lines);
    Ok(())
}

/// Which clients are meant.
#[derive(Default)]
struct Filter {
    id: Option<u64>,
    kind: Option<String>,
    user: Option<String>,
    peer: Option<String>,
    local: Option<String>,
    max_age_s: Option<i64>,
    skip_me: bool,
}

impl Filter {
    fn parse(acl: &Acl, args: &[&[u8]]) -> Result<Filter, Error> {
        let mut filter = Filter { skip_me: true, ..Filter::default() };
        let text = |arg: &[u8]| Some(String::from_utf8_lossy(arg).into_owned());
        if !args.len().is_multiple_of(2) {
            return Err(Error::Syntax);
        }
        for pair in args.chunks_exact(2) {
            let value = pair[1];
            match pair[0].to_ascii_uppercase().as_slice() {
                b"ID" => filter.id = Some(parse_id(value)?),
                b"TYPE" => filter.kind = Some(parse_type(value)?),
                b"USER" if acl.find(value).is_none() => {
                    return Err(Error::quoting("ERR No such user '{}'", &[value]));
                }
                b"USER" => filter.user = text(value),
                b"ADDR" => filter.peer = text(value),
                b"LADDR" => filter.local = text(value),
                b"MAXAGE" => {
                    filter.max_age_s = Some(number::parse_i64(value).ok_or(Error::NotInteger)?);
                }
                b"SKIPME" => {
                    filter.skip_me = match value.to_ascii_uppercase().as_slice() {
                        b"YES" => true,
                        b"NO" => false,
                        _ => return Err(Error::Syntax),
                    }
                }
                _ => return Err(Error::Syntax),
            }
        }
        Ok(filter)
    }

    fn accepts(&self, client: &Client, now_ms: i64) -> bool {
        let age_s = (now_ms - client.created_ms) / 1000;
        self.id.is_none_or(|id| client.address.id == id)
            && self.kind.as_ref().is_none_or(|kind| client.type_name() == kind)
            && self.user.as_ref().is_none_or(|user| client.names.lock().user == *user)
            && self.peer.as_ref().is_none_or(|peer| client.peer == *peer)
            && self.local.as_ref().is_none_or(|local| client.local == *local)
            && self.max_age_s.is_none_or(|max| age_s >= max)
    }
}

/// CLIENT KILL
///
/// # Errors
/// For options that do not exist, and in the old form where there is no such client.
pub fn kill(host: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let old_form = args.len() == 3;
    let filter = if old_form {
        let peer = Some(String::from_utf8_lossy(args[2]).into_owned());
        Filter { peer, ..Filter::default() }
    } else {
        Filter::parse(&host.shared.acl, &args[2..])?
    };
    let mut killed = 0;
    let clients: Vec<Arc<Client>> = host.shared.clients.all();
    for client in clients {
        let me = client.address == host.session.address;
        if !filter.accepts(&client, host.stamp.now_ms) || (me && filter.skip_me) {
            continue;
        }
        killed += 1;
        if me {
            host.session.close_after_reply = true;
        } else {
            client.blocked.store(false, Ordering::Relaxed);
            host.shared.mailboxes[client.address.worker].post(Message::Kill(client.address));
        }
    }
    match (old_form, killed) {
        (true, 0) => return Err(Error::text("ERR No such client").into()),
        (true, _) => reply.ok(),
        (false, killed) => reply.int(killed),
    }
    Ok(())
}
