//! Places: sorted sets whose scores are geohashes.

use super::zset::access::read;
use super::zset::{AddOptions, add};
use crate::command::{Command, Flags, Group, Keys};
use crate::context::Cx;
use crate::error::{CmdResult, Error};
use crate::number;
use crate::reply::Reply;
use crate::value::geohash::{self, LATITUDE_MAX, LONGITUDE_MAX, Place};
use smallvec::SmallVec;

pub mod search;

const READ: Flags = Flags::READONLY;

/// The family's commands on single places.
pub const COMMANDS: &[Command] = &[
    Command::new("GEOADD", -5, Group::Geo, geoadd)
        .flags(Flags::WRITE.union(Flags::DENYOOM))
        .keys(Keys::FIRST)
        .syntax("key [NX|XX] [CH] (longitude:double latitude:double member)...")
        .docs("3.2.0", "O(log(N)) for each member", "Adds places or moves them."),
    Command::new("GEOPOS", -2, Group::Geo, geopos)
        .flags(READ)
        .keys(Keys::FIRST)
        .syntax("key [member...]")
        .docs("3.2.0", "O(N) for N members", "Returns the coordinates of places."),
    Command::new("GEOHASH", -2, Group::Geo, geohash_text)
        .flags(READ)
        .keys(Keys::FIRST)
        .syntax("key [member...]")
        .docs("3.2.0", "O(N) for N members", "Returns the geohashes of places as text."),
    Command::new("GEODIST", -4, Group::Geo, geodist)
        .flags(READ)
        .keys(Keys::FIRST)
        .syntax("key member member [M|KM|FT|MI]")
        .docs("3.2.0", "O(1)", "Returns the distance of two places."),
];

/// Metres in a unit of length.
fn parse_unit(arg: &[u8]) -> Result<f64, Error> {
    match () {
        () if arg.eq_ignore_ascii_case(b"m") => Ok(1.0),
        () if arg.eq_ignore_ascii_case(b"km") => Ok(1000.0),
        () if arg.eq_ignore_ascii_case(b"ft") => Ok(0.3048),
        () if arg.eq_ignore_ascii_case(b"mi") => Ok(1609.34),
        () => Err(Error::text("ERR unsupported unit provided. please use M, KM, FT, MI")),
    }
}

fn parse_place(longitude: &[u8], latitude: &[u8]) -> Result<Place, Error> {
    let longitude = number::parse_f64(longitude).ok_or(Error::NotFloat)?;
    let latitude = number::parse_f64(latitude).ok_or(Error::NotFloat)?;
    if longitude.abs() > LONGITUDE_MAX || latitude.abs() > LATITUDE_MAX {
        return Err(Error::owned(format!(
            "ERR invalid longitude,latitude pair {longitude:.6},{latitude:.6}"
        )));
    }
    Ok(Place { longitude, latitude })
}

fn write_distance(reply: &mut Reply<'_>, distance: f64) {
    reply.bulk(format!("{distance:.4}").as_bytes());
}

/// Writes a coordinate with all its digits, without trailing zeros.
fn write_coordinate(reply: &mut Reply<'_>, value: f64) {
    let text = format!("{value:.17}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    let text = if text == "-0" { "0" } else { text };
    if reply.is_resp3() {
        reply.raw(b",");
        reply.raw(text.as_bytes());
        reply.raw(b"\r\n");
    } else {
        reply.bulk(text.as_bytes());
    }
}

fn write_place(reply: &mut Reply<'_>, place: Place) {
    reply.array(2);
    write_coordinate(reply, place.longitude);
    write_coordinate(reply, place.latitude);
}

fn geoadd(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let mut options = AddOptions::default();
    let mut places = &args[2..];
    while let Some((option, rest)) = places.split_first() {
        match () {
            () if option.eq_ignore_ascii_case(b"NX") => options.nx = true,
            () if option.eq_ignore_ascii_case(b"XX") => options.xx = true,
            () if option.eq_ignore_ascii_case(b"CH") => options.ch = true,
            () => break,
        }
        places = rest;
    }
    if !places.len().is_multiple_of(3) || (options.nx && options.xx) {
        return Err(Error::Syntax.into());
    }
    let mut pairs: SmallVec<[(f64, &[u8]); 4]> = SmallVec::with_capacity(places.len() / 3);
    for place in places.chunks_exact(3) {
        pairs.push((geohash::encode(parse_place(place[0], place[1])?) as f64, place[2]));
    }
    if pairs.is_empty() {
        return Err(Error::Syntax.into());
    }
    add(cx, args[1], options, &pairs, reply)
}

fn geopos(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let zset = read(cx, args[1])?;
    reply.array(args.len() - 2);
    for member in &args[2..] {
        match zset.and_then(|zset| zset.score(member)) {
            Some(score) => write_place(reply, geohash::decode(score)),
            None => reply.null_array(),
        }
    }
    Ok(())
}

fn geohash_text(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let zset = read(cx, args[1])?;
    reply.array(args.len() - 2);
    for member in &args[2..] {
        match zset.and_then(|zset| zset.score(member)) {
            Some(score) => reply.bulk(&geohash::text(score)),
            None => reply.null(),
        }
    }
    Ok(())
}

fn geodist(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let unit = match &args[4..] {
        [] => 1.0,
        [unit] => parse_unit(unit)?,
        _ => return Err(Error::Syntax.into()),
    };
    let zset = read(cx, args[1])?;
    let place = |member: &[u8]| Some(geohash::decode(zset?.score(member)?));
    match (place(args[2]), place(args[3])) {
        (Some(a), Some(b)) => write_distance(reply, geohash::distance(a, b) / unit),
        _ => reply.null(),
    }
    Ok(())
}
