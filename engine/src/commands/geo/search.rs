//! Places within a circle or a box.

use super::{parse_place, parse_unit, write_distance, write_place};
use crate::command::{Command, Flags, Group, KeyList, Keys};
use crate::commands::zset::access::{read, store};
use crate::context::Cx;
use crate::error::{CmdResult, Error};
use crate::number;
use crate::reply::Reply;
use crate::value::geohash::{self, Place, Shape};
use crate::value::zset::{RangeSpec, ScoreBound, Zset, ZsetRef};

const READ: Flags = Flags::READONLY;
const STORE: Flags = Flags::WRITE.union(Flags::DENYOOM);

/// The family's searches.
pub const COMMANDS: &[Command] = &[
    Command::new("GEOSEARCH", -7, Group::Geo, geosearch)
        .flags(READ)
        .keys(Keys::FIRST)
        .syntax(
            "key (FROMMEMBER member|FROMLONLAT (longitude:double latitude:double)) \
             (BYRADIUS (radius:double (M|KM|FT|MI))|\
             BYBOX (width:double height:double (M|KM|FT|MI))) \
             [ASC|DESC] [COUNT (count:integer [ANY])] [WITHCOORD] [WITHDIST] [WITHHASH]",
        )
        .docs("6.2.0", "O(N+log(M))", "Returns the places within a circle or a box."),
    Command::new("GEOSEARCHSTORE", -8, Group::Geo, geosearchstore)
        .flags(STORE)
        .keys(Keys::FIRST_TWO)
        .syntax(
            "destination source \
             (FROMMEMBER member|FROMLONLAT (longitude:double latitude:double)) \
             (BYRADIUS (radius:double (M|KM|FT|MI))|\
             BYBOX (width:double height:double (M|KM|FT|MI))) \
             [ASC|DESC] [COUNT (count:integer [ANY])] [STOREDIST]",
        )
        .docs("6.2.0", "O(N+log(M))", "Stores the places within a circle or a box in a key."),
    Command::new("GEORADIUS", -6, Group::Geo, georadius)
        .flags(STORE.union(Flags::MOVABLE_KEYS))
        .keys(Keys::Custom(radius_keys))
        .syntax(
            "key longitude:double latitude:double radius:double (M|KM|FT|MI) [WITHCOORD] \
             [WITHDIST] [WITHHASH] [COUNT (count:integer [ANY])] [ASC|DESC] \
             [STORE key|STOREDIST key]",
        )
        .docs("3.2.0", "O(N+log(M))", "Returns or stores the places around a point."),
    Command::new("GEORADIUS_RO", -6, Group::Geo, georadius_ro)
        .flags(READ)
        .keys(Keys::FIRST)
        .syntax(
            "key longitude:double latitude:double radius:double (M|KM|FT|MI) [WITHCOORD] \
             [WITHDIST] [WITHHASH] [COUNT (count:integer [ANY])] [ASC|DESC]",
        )
        .docs("3.2.10", "O(N+log(M))", "Returns the places around a point."),
    Command::new("GEORADIUSBYMEMBER", -5, Group::Geo, georadiusbymember)
        .flags(STORE.union(Flags::MOVABLE_KEYS))
        .keys(Keys::Custom(radius_keys))
        .syntax(
            "key member radius:double (M|KM|FT|MI) [WITHCOORD] [WITHDIST] [WITHHASH] \
             [COUNT (count:integer [ANY])] [ASC|DESC] [STORE key|STOREDIST key]",
        )
        .docs("3.2.0", "O(N+log(M))", "Returns or stores the places around a member."),
    Command::new("GEORADIUSBYMEMBER_RO", -5, Group::Geo, georadiusbymember_ro)
        .flags(READ)
        .keys(Keys::FIRST)
        .syntax(
            "key member radius:double (M|KM|FT|MI) [WITHCOORD] [WITHDIST] [WITHHASH] \
             [COUNT (count:integer [ANY])] [ASC|DESC]",
        )
        .docs("3.2.10", "O(N+log(M))", "Returns the places around a member."),
];

/// The key that is searched, and the one that is stored to.
fn radius_keys(args: &[&[u8]], keys: &mut KeyList) {
    keys.push(1);
    let stores =
        |arg: &&[u8]| arg.eq_ignore_ascii_case(b"STORE") || arg.eq_ignore_ascii_case(b"STOREDIST");
    let options = args.get(5..args.len().saturating_sub(1)).unwrap_or_default();
    if let Some(at) = options.iter().rposition(stores) {
        keys.push(5 + at + 1);
    }
}

/// Which command it is.
#[derive(Clone, Copy, PartialEq)]
enum Form {
    /// GEORADIUS and GEORADIUSBYMEMBER; whether they may store.
    Radius(bool),
    Search,
    SearchStore,
}

/// What the options ask for.
struct Query<'a> {
    center: Option<Place>,
    shape: Option<Shape>,
    /// Metres of the unit in which distances are given.
    unit: f64,
    with_distance: bool,
    with_hash: bool,
    with_place: bool,
    /// Nearest or farthest first.
    descending: Option<bool>,
    count: Option<u64>,
    any: bool,
    target: Option<&'a [u8]>,
    store_distance: bool,
}

struct Found {
    member: Vec<u8>,
    score: f64,
    place: Place,
    /// Metres.
    distance: f64,
}

fn parse_circle(radius: &[u8], unit: &[u8]) -> Result<(Shape, f64), Error> {
    let radius = number::parse_f64(radius).ok_or(Error::text("ERR need numeric radius"))?;
    if radius < 0.0 {
        return Err(Error::text("ERR radius cannot be negative"));
    }
    let unit = parse_unit(unit)?;
    Ok((Shape::Circle { radius: radius * unit }, unit))
}

fn parse_box(width: &[u8], height: &[u8], unit: &[u8]) -> Result<(Shape, f64), Error> {
    let width = number::parse_f64(width).ok_or(Error::text("ERR need numeric width"))?;
    let height = number::parse_f64(height).ok_or(Error::text("ERR need numeric height"))?;
    if width < 0.0 || height < 0.0 {
        return Err(Error::text("ERR height or width cannot be negative"));
    }
    let unit = parse_unit(unit)?;
    Ok((Shape::Box { width: width * unit, height: height * unit }, unit))
}

/// The place of a member. Where the key is not there, any will do: nothing will be found.
fn place_of(zset: Option<ZsetRef<'_>>, member: &[u8]) -> Result<Place, Error> {
    let Some(zset) = zset else { return Ok(Place { longitude: 0.0, latitude: 0.0 }) };
    let score = zset.score(member);
    let score = score.ok_or(Error::text("ERR could not decode requested zset member"))?;
    Ok(geohash::decode(score))
}

impl<'a> Query<'a> {
    fn new() -> Self {
        Query {
            center: None,
            shape: None,
            unit: 1.0,
            with_distance: false,
            with_hash: false,
            with_place: false,
            descending: None,
            count: None,
            any: false,
            target: None,
            store_distance: false,
        }
    }

    fn around(center: Place, (shape, unit): (Shape, f64)) -> Self {
        Query { center: Some(center), shape: Some(shape), unit, ..Query::new() }
    }

    /// Reads the options.
    fn parse(
        &mut self,
        mut args: &[&'a [u8]],
        form: Form,
        zset: Option<ZsetRef<'_>>,
    ) -> Result<(), Error> {
        while let Some((option, rest)) = args.split_first() {
            let is = |name: &str| option.eq_ignore_ascii_case(name.as_bytes());
            args = match rest {
                _ if is("WITHDIST") => {
                    self.with_distance = true;
                    rest
                }
                _ if is("WITHHASH") => {
                    self.with_hash = true;
                    rest
                }
                _ if is("WITHCOORD") => {
                    self.with_place = true;
                    rest
                }
                _ if is("ANY") => {
                    self.any = true;
                    rest
                }
                _ if is("ASC") || is("DESC") => {
                    self.descending = Some(is("DESC"));
                    rest
                }
                [count, rest @ ..] if is("COUNT") => {
                    let count = number::parse_i64(count).ok_or(Error::NotInteger)?;
                    let count = u64::try_from(count).ok().filter(|count| *count > 0);
                    self.count = Some(count.ok_or(Error::text("ERR COUNT must be > 0"))?);
                    rest
                }
                [key, rest @ ..]
                    if form == Form::Radius(true) && (is("STORE") || is("STOREDIST")) =>
                {
                    self.target = Some(key);
                    self.store_distance = is("STOREDIST");
                    rest
                }
                _ if form == Form::SearchStore && is("STOREDIST") => {
                    self.store_distance = true;
                    rest
                }
                _ if matches!(form, Form::Radius(_)) => return Err(Error::Syntax),
                _ => self.parse_area(option, rest, zset)?,
            };
        }
        Ok(())
    }

    /// Reads one of the options that say where GEOSEARCH looks; returns what is behind it.
    fn parse_area<'b>(
        &mut self,
        option: &[u8],
        rest: &'b [&'a [u8]],
        zset: Option<ZsetRef<'_>>,
    ) -> Result<&'b [&'a [u8]], Error> {
        let is = |name: &str| option.eq_ignore_ascii_case(name.as_bytes());
        match rest {
            [member, rest @ ..] if is("FROMMEMBER") && self.center.is_none() => {
                self.center = Some(place_of(zset, member)?);
                Ok(rest)
            }
            [longitude, latitude, rest @ ..] if is("FROMLONLAT") && self.center.is_none() => {
                self.center = Some(parse_place(longitude, latitude)?);
                Ok(rest)
            }
            [radius, unit, rest @ ..] if is("BYRADIUS") && self.shape.is_none() => {
                let (shape, unit) = parse_circle(radius, unit)?;
                (self.shape, self.unit) = (Some(shape), unit);
                Ok(rest)
            }
            [width, height, unit, rest @ ..] if is("BYBOX") && self.shape.is_none() => {
                let (shape, unit) = parse_box(width, height, unit)?;
                (self.shape, self.unit) = (Some(shape), unit);
                Ok(rest)
            }
            _ => Err(Error::Syntax),
        }
    }

    /// Refuses options that do not go together; returns what is searched.
    fn check(&self, form: Form, name: &[u8]) -> Result<(Place, Shape), Error> {
        if self.target.is_some() && (self.with_distance || self.with_hash || self.with_place) {
            return Err(Error::text(if form == Form::SearchStore {
                "ERR GEOSEARCHSTORE is not compatible with WITHDIST, WITHHASH and WITHCOORD options"
            } else {
                "ERR STORE option in GEORADIUS is not compatible with WITHDIST, WITHHASH and \
                 WITHCOORD options"
            }));
        }
        let name = String::from_utf8_lossy(name);
        let center = self.center.ok_or_else(|| {
            Error::owned(format!(
                "ERR exactly one of FROMMEMBER or FROMLONLAT can be specified for {name}"
            ))
        })?;
        let shape = self.shape.ok_or_else(|| {
            Error::owned(format!(
                "ERR exactly one of BYRADIUS and BYBOX can be specified for {name}"
            ))
        })?;
        if self.any && self.count.is_none() {
            return Err(Error::text("ERR the ANY argument requires COUNT argument"));
        }
        Ok((center, shape))
    }

    /// The places, in the order asked for, no more than asked for.
    fn search(&self, zset: ZsetRef<'_>, center: Place, shape: Shape) -> Vec<Found> {
        let count_max = self.count.and_then(|count| usize::try_from(count).ok());
        let count_max = count_max.unwrap_or(usize::MAX);
        let enough = if self.any { count_max } else { usize::MAX };
        let mut found = Vec::new();
        for (first, end) in geohash::covering(shape, center) {
            let first = ScoreBound { value: first, exclusive: false };
            let end = ScoreBound { value: end, exclusive: true };
            let ranks = zset.resolve(&RangeSpec::Score(first, end));
            zset.for_range(ranks, false, |member, score| {
                if found.len() >= enough {
                    return;
                }
                let place = geohash::decode(score);
                if let Some(distance) = shape.distance_within(center, place) {
                    found.push(Found { member: member.to_vec(), score, place, distance });
                }
            });
        }
        let by_default = self.count.is_some() && !self.any;
        match self.descending {
            Some(true) => found.sort_by(|a, b| b.distance.total_cmp(&a.distance)),
            Some(false) => found.sort_by(|a, b| a.distance.total_cmp(&b.distance)),
            None if by_default => found.sort_by(|a, b| a.distance.total_cmp(&b.distance)),
            None => {}
        }
        found.truncate(count_max);
        found
    }

    fn write(&self, found: &[Found], reply: &mut Reply<'_>) {
        let details = [self.with_distance, self.with_hash, self.with_place];
        let details = details.into_iter().filter(|wanted| *wanted).count();
        reply.array(found.len());
        for place in found {
            if details > 0 {
                reply.array(details + 1);
            }
            reply.bulk(&place.member);
            if self.with_distance {
                write_distance(reply, place.distance / self.unit);
            }
            if self.with_hash {
                reply.int(place.score as i64);
            }
            if self.with_place {
                write_place(reply, place.place);
            }
        }
    }
}

/// Runs a search whose options start at `args[options_at]`.
fn run(
    cx: &mut Cx<'_>,
    args: &[&[u8]],
    form: Form,
    options_at: usize,
    start: impl FnOnce(Option<ZsetRef<'_>>) -> Result<Query<'static>, Error>,
    reply: &mut Reply<'_>,
) -> CmdResult {
    let source = if form == Form::SearchStore { 2 } else { 1 };
    let zset = read(cx, args[source])?;
    let mut query: Query<'_> = start(zset)?;
    if form == Form::SearchStore {
        query.target = Some(args[1]);
    }
    query.parse(&args[options_at..], form, zset)?;
    let (center, shape) = query.check(form, args[0])?;
    let found = zset.map_or(Vec::new(), |zset| query.search(zset, center, shape));
    let Some(target) = query.target else {
        query.write(&found, reply);
        return Ok(());
    };
    let mut stored = Zset::new();
    for place in found {
        let score = if query.store_distance { place.distance / query.unit } else { place.score };
        stored.upsert(&place.member, |_| Some(score));
    }
    let event = if form == Form::SearchStore { "geosearchstore" } else { "georadiusstore" };
    store(cx, target, stored, event, reply);
    cx.tell_value(target);
    Ok(())
}

fn geosearch(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    run(cx, args, Form::Search, 2, |_| Ok(Query::new()), reply)
}

fn geosearchstore(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    run(cx, args, Form::SearchStore, 3, |_| Ok(Query::new()), reply)
}

fn around_point(
    cx: &mut Cx<'_>,
    args: &[&[u8]],
    may_store: bool,
    reply: &mut Reply<'_>,
) -> CmdResult {
    let start = |_: Option<ZsetRef<'_>>| {
        let center = parse_place(args[2], args[3])?;
        Ok(Query::around(center, parse_circle(args[4], args[5])?))
    };
    run(cx, args, Form::Radius(may_store), 6, start, reply)
}

fn georadius(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    around_point(cx, args, true, reply)
}

fn georadius_ro(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    around_point(cx, args, false, reply)
}

fn around_member(
    cx: &mut Cx<'_>,
    args: &[&[u8]],
    may_store: bool,
    reply: &mut Reply<'_>,
) -> CmdResult {
    let start = |zset: Option<ZsetRef<'_>>| {
        let center = place_of(zset, args[2])?;
        let circle = match zset {
            Some(_) => parse_circle(args[3], args[4])?,
            // Redis does not look at the radius either where there is nothing to search.
            None => (Shape::Circle { radius: 0.0 }, 1.0),
        };
        Ok(Query::around(center, circle))
    };
    run(cx, args, Form::Radius(may_store), 5, start, reply)
}

fn georadiusbymember(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    around_member(cx, args, true, reply)
}

fn georadiusbymember_ro(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    around_member(cx, args, false, reply)
}
