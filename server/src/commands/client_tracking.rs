//! CLIENT TRACKING and what belongs to it: how a client asks for client-side caching.

use crate::host::Host;
use crate::session::Session;
use crate::shared::Shared;
use crate::tracking::{Mode, PREFIXES_MAX, SessionTracking};
use ashlar_engine::error::{CmdResult, Error};
use ashlar_engine::executor::Executor;
use ashlar_engine::keyspace::Tracker;
use ashlar_engine::number;
use ashlar_engine::reply::Reply;
use std::sync::atomic::Ordering;

/// The options of CLIENT TRACKING.
#[derive(Default)]
struct Options<'a> {
    redirect: u64,
    broadcast: bool,
    opt_in: bool,
    opt_out: bool,
    no_loop: bool,
    prefixes: Vec<&'a [u8]>,
}

impl<'a> Options<'a> {
    fn parse(shared: &Shared, args: &[&'a [u8]]) -> Result<Options<'a>, Error> {
        let mut options = Options::default();
        let mut rest = args;
        while let Some((option, after)) = rest.split_first() {
            rest = after;
            match (option.to_ascii_uppercase().as_slice(), after.first()) {
                (b"REDIRECT", Some(id)) => {
                    if options.redirect != 0 {
                        let text = "ERR A client can only redirect to a single other client";
                        return Err(Error::text(text));
                    }
                    let id = number::parse_i64(id).ok_or(Error::NotInteger)?;
                    let id = u64::try_from(id).ok().filter(|id| shared.clients.get(*id).is_some());
                    options.redirect = id.ok_or(Error::text(
                        "ERR The client ID you want redirect to does not exist",
                    ))?;
                    rest = &after[1..];
                }
                (b"PREFIX", Some(prefix)) => {
                    options.prefixes.push(prefix);
                    rest = &after[1..];
                }
                (b"BCAST", _) => options.broadcast = true,
                (b"OPTIN", _) => options.opt_in = true,
                (b"OPTOUT", _) => options.opt_out = true,
                (b"NOLOOP", _) => options.no_loop = true,
                _ => return Err(Error::Syntax),
            }
        }
        Ok(options)
    }

    fn mode(&self) -> Mode {
        match (self.broadcast, self.opt_in, self.opt_out) {
            (true, ..) => Mode::Broadcast,
            (_, true, _) => Mode::OptIn,
            (_, _, true) => Mode::OptOut,
            _ => Mode::All,
        }
    }

    /// Whether the options go together, and with how the client tracks already.
    fn check(&self, now: Option<&SessionTracking>) -> Result<(), Error> {
        if !self.broadcast && !self.prefixes.is_empty() {
            return Err(Error::text("ERR PREFIX option requires BCAST mode to be enabled"));
        }
        if now.is_some_and(|now| (now.mode == Mode::Broadcast) != self.broadcast) {
            return Err(Error::text(
                "ERR You can't switch BCAST mode on/off before disabling tracking for this client, \
                 and then re-enabling it with a different mode.",
            ));
        }
        if self.broadcast && (self.opt_in || self.opt_out) {
            return Err(Error::text("ERR OPTIN and OPTOUT are not compatible with BCAST"));
        }
        if self.opt_in && self.opt_out {
            return Err(Error::text("ERR You can't specify both OPTIN mode and OPTOUT mode"));
        }
        let before = now.map(|now| now.mode);
        if self.opt_in && before == Some(Mode::OptOut)
            || self.opt_out && before == Some(Mode::OptIn)
        {
            return Err(Error::text(
                "ERR You can't switch OPTIN/OPTOUT mode before disabling tracking for this client, \
                 and then re-enabling it with a different mode.",
            ));
        }
        if self.broadcast {
            let existing = now.map(|now| now.prefixes.as_slice()).unwrap_or_default();
            self.check_prefixes(existing)?;
        }
        Ok(())
    }

    /// No key may begin with two prefixes of a client, or it would be told twice.
    fn check_prefixes(&self, existing: &[Box<[u8]>]) -> Result<(), Error> {
        if existing.len() + self.prefixes.len() > PREFIXES_MAX {
            return Err(Error::text("ERR too many prefixes"));
        }
        let overlap = |a: &[u8], b: &[u8]| a.starts_with(b) || b.starts_with(a);
        let error = |prefix: &[u8], kind: &str, other: &[u8]| {
            let (prefix, other) = (String::from_utf8_lossy(prefix), String::from_utf8_lossy(other));
            Error::owned(format!(
                "ERR Prefix '{prefix}' overlaps with {kind} prefix '{other}'. Prefixes for a \
                 single client must not overlap."
            ))
        };
        for (at, prefix) in self.prefixes.iter().enumerate() {
            if let Some(other) = existing.iter().find(|other| overlap(other, prefix)) {
                return Err(error(prefix, "an existing", other));
            }
            let later = &self.prefixes[at + 1..];
            if let Some(other) = later.iter().find(|other| overlap(other, prefix)) {
                return Err(error(prefix, "another provided", other));
            }
        }
        Ok(())
    }
}

/// CLIENT TRACKING
///
/// # Errors
/// Where options do not go together, with Redis's texts.
pub fn tracking(host: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let options = Options::parse(host.shared, &args[3..])?;
    match args[2].to_ascii_uppercase().as_slice() {
        b"ON" => {
            options.check(host.session.tracking.as_deref())?;
            start(host, &options);
        }
        b"OFF" => stop(host.shared, host.exec, host.session),
        _ => return Err(Error::Syntax.into()),
    }
    reply.ok();
    Ok(())
}

fn start(host: &mut Host<'_, '_>, options: &Options<'_>) {
    let before = host.session.tracking.take();
    let (mut prefixes, tracker) = match before {
        Some(before) => (before.prefixes, before.tracker),
        None => (Vec::new(), Tracker::new(host.session.address.id)),
    };
    prefixes.extend(options.prefixes.iter().map(|prefix| Box::from(*prefix)));
    if options.broadcast
        && options.prefixes.is_empty()
        && !prefixes.iter().any(|one| one.is_empty())
    {
        prefixes.push(Box::default());
    }
    let how = SessionTracking {
        mode: options.mode(),
        caching: false,
        no_loop: options.no_loop,
        redirect: options.redirect,
        prefixes,
        tracker,
    };
    host.shared.tracking.start(host.exec, &host.session.client, &how);
    host.session.tracking = Some(Box::new(how));
}

/// Ends the tracking of a session, if it is on.
pub fn stop(shared: &Shared, exec: &mut Executor<'_>, session: &mut Session) {
    if let Some(how) = session.tracking.take() {
        shared.tracking.stop(exec, &session.client, &how);
    }
}

/// CLIENT CACHING
///
/// # Errors
/// Where the mode of tracking does not go with it, with Redis's texts.
pub fn caching(host: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let Some(tracking) = &mut host.session.tracking else {
        return Err(Error::text(
            "ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN \
             or OPTOUT mode enabled",
        )
        .into());
    };
    let (wanted, text) = match args[2].to_ascii_uppercase().as_slice() {
        b"YES" => (
            Mode::OptIn,
            "ERR CLIENT CACHING YES is only valid when tracking is enabled in OPTIN mode.",
        ),
        b"NO" => (
            Mode::OptOut,
            "ERR CLIENT CACHING NO is only valid when tracking is enabled in OPTOUT mode.",
        ),
        _ => return Err(Error::Syntax.into()),
    };
    if tracking.mode != wanted {
        return Err(Error::text(text).into());
    }
    tracking.caching = true;
    reply.ok();
    Ok(())
}

/// CLIENT GETREDIR
///
/// # Errors
/// None.
pub fn get_redir(host: &mut Host<'_, '_>, _: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    reply.int(redirect(host.session));
    Ok(())
}

fn redirect(session: &Session) -> i64 {
    let tracking = session.tracking.as_ref();
    tracking.map_or(-1, |tracking| i64::try_from(tracking.redirect).unwrap_or(0))
}

/// CLIENT TRACKINGINFO
///
/// # Errors
/// None.
pub fn tracking_info(host: &mut Host<'_, '_>, _: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let mut flags = Vec::new();
    let tracking = host.session.tracking.as_deref();
    flags.push(if tracking.is_some() { "on" } else { "off" });
    if let Some(tracking) = tracking {
        match tracking.mode {
            Mode::All => {}
            Mode::Broadcast => flags.push("bcast"),
            Mode::OptIn => flags.push("optin"),
            Mode::OptOut => flags.push("optout"),
        }
        if tracking.caching {
            flags.push(if tracking.mode == Mode::OptIn { "caching-yes" } else { "caching-no" });
        }
        if tracking.no_loop {
            flags.push("noloop");
        }
        if host.session.client.broken_redirect.load(Ordering::Relaxed) {
            flags.push("broken_redirect");
        }
    }
    reply.map(3);
    reply.bulk(b"flags");
    reply.set(flags.len());
    flags.iter().for_each(|flag| reply.bulk(flag.as_bytes()));
    reply.bulk(b"redirect");
    reply.int(redirect(host.session));
    reply.bulk(b"prefixes");
    let mut prefixes = tracking.map(|tracking| tracking.prefixes.clone()).unwrap_or_default();
    prefixes.sort_unstable();
    reply.array(prefixes.len());
    prefixes.iter().for_each(|prefix| reply.bulk(prefix));
    Ok(())
}
