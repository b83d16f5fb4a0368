//! Places on the earth as 52-bit integers whose order keeps near places near: a geohash.
//!
//! Latitude and longitude are numbered in 2^26 steps each, and their bits alternate, longitude
//! first. So every square of a grid of 2^step by 2^step cells is one range of integers, and a circle
//! or a box is covered by a cell and its eight neighbours of a suitable size. The ranges of
//! coordinates are those of Web Mercator (EPSG:3857); distances are great circles on a sphere
//! (haversine formula), as in Redis, whose replies these must match.

use crate::known_bugs::{self, Bug};
use std::f64::consts::PI;

/// Greatest longitude, degrees.
pub const LONGITUDE_MAX: f64 = 180.0;
/// Greatest latitude, degrees.
pub const LATITUDE_MAX: f64 = 85.051_128_78;
/// Bits of each coordinate.
const STEP_MAX: u32 = 26;
/// Radius of the earth, metres.
const EARTH_RADIUS: f64 = 6_372_797.560_856;
/// Half of the earth's circumference in Web Mercator, metres.
const MERCATOR_MAX: f64 = 20_037_726.37;
const ALPHABET: &[u8; 32] = b"0123456789bcdefghjkmnpqrstuvwxyz";
/// Characters of a geohash in text form.
const TEXT_LEN: usize = 11;

/// A place, in degrees.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Place {
    /// Longitude.
    pub longitude: f64,
    /// Latitude.
    pub latitude: f64,
}

/// What is searched, in metres.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Shape {
    /// A circle.
    Circle {
        /// Its radius.
        radius: f64,
    },
    /// A box along the meridians.
    Box {
        /// East to west.
        width: f64,
        /// North to south.
        height: f64,
    },
}

/// Puts a zero bit before each of the 32.
fn spread(bits: u32) -> u64 {
    let mut bits = u64::from(bits);
    bits = (bits | bits << 16) & 0x0000_FFFF_0000_FFFF;
    bits = (bits | bits << 8) & 0x00FF_00FF_00FF_00FF;
    bits = (bits | bits << 4) & 0x0F0F_0F0F_0F0F_0F0F;
    bits = (bits | bits << 2) & 0x3333_3333_3333_3333;
    (bits | bits << 1) & 0x5555_5555_5555_5555
}

/// Every second bit.
fn gather(bits: u64) -> u32 {
    let mut bits = bits & 0x5555_5555_5555_5555;
    bits = (bits | bits >> 1) & 0x3333_3333_3333_3333;
    bits = (bits | bits >> 2) & 0x0F0F_0F0F_0F0F_0F0F;
    bits = (bits | bits >> 4) & 0x00FF_00FF_00FF_00FF;
    bits = (bits | bits >> 8) & 0x0000_FFFF_0000_FFFF;
    (bits | bits >> 16) as u32
}

/// A cell of the grid of 2^step by 2^step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cell {
    x: u32,
    y: u32,
    step: u32,
}

/// The part of the earth that a cell is.
struct Area {
    west: f64,
    east: f64,
    south: f64,
    north: f64,
}

impl Cell {
    fn of(place: Place, latitude_max: f64, step: u32) -> Cell {
        let scale = (1u64 << step) as f64;
        let offset = |value: f64, max: f64| ((value + max) / (max + max) * scale) as u32;
        let x = offset(place.longitude, LONGITUDE_MAX);
        Cell { x, y: offset(place.latitude, latitude_max), step }
    }

    fn bits(self) -> u64 {
        spread(self.y) | spread(self.x) << 1
    }

    fn area(self) -> Area {
        let scale = (1u64 << self.step) as f64;
        let at = |n: f64, max: f64| -max + n / scale * (max + max);
        let (x, y) = (f64::from(self.x), f64::from(self.y));
        Area {
            west: at(x, LONGITUDE_MAX),
            east: at(x + 1.0, LONGITUDE_MAX),
            south: at(y, LATITUDE_MAX),
            north: at(y + 1.0, LATITUDE_MAX),
        }
    }

    /// The cell so many cells to the east and north; the grid goes around in both directions. A
    /// coordinate at its very maximum lies one cell beyond the grid, and only a move along its own
    /// axis brings it back: so a search finds the same members as in Redis.
    fn moved(self, east: i32, north: i32) -> Cell {
        let mask = ((1u64 << self.step) - 1) as u32;
        let stays = |by: i32| by == 0 && !known_bugs::is_back(Bug::GeoEdges);
        let along =
            |at: u32, by: i32| if stays(by) { at } else { at.wrapping_add_signed(by) & mask };
        Cell { x: along(self.x, east), y: along(self.y, north), ..self }
    }

    /// The scores of the places in the cell: from the first to before the second.
    fn scores(self) -> (f64, f64) {
        let shift = 2 * (STEP_MAX - self.step);
        ((self.bits() << shift) as f64, ((self.bits() + 1) << shift) as f64)
    }
}

/// The geohash of a place, which is the score of its member.
pub fn encode(place: Place) -> u64 {
    Cell::of(place, LATITUDE_MAX, STEP_MAX).bits()
}

/// The place of a score: the middle of its cell. Scores that are no geohash give some place too.
pub fn decode(score: f64) -> Place {
    let bits = to_bits(score);
    let area = Cell { x: gather(bits >> 1), y: gather(bits), step: STEP_MAX }.area();
    Place {
        longitude: ((area.west + area.east) / 2.0).clamp(-LONGITUDE_MAX, LONGITUDE_MAX),
        latitude: ((area.south + area.north) / 2.0).clamp(-LATITUDE_MAX, LATITUDE_MAX),
    }
}

/// A score as an integer, negative and huge ones as x86-64 converts them.
fn to_bits(score: f64) -> u64 {
    const TOP: f64 = 9_223_372_036_854_775_808.0;
    let signed = |value: f64| if (-TOP..TOP).contains(&value) { value as i64 } else { i64::MIN };
    if score < TOP { signed(score) as u64 } else { signed(score - TOP) as u64 ^ 1 << 63 }
}

/// The geohash in its usual text form, which has latitudes up to 90 degrees.
pub fn text(score: f64) -> [u8; TEXT_LEN] {
    let bits = Cell::of(decode(score), 90.0, STEP_MAX).bits();
    let mut text = [ALPHABET[0]; TEXT_LEN];
    // 52 bits make ten characters and two bits, which Redis leaves out.
    for (at, letter) in text.iter_mut().take(10).enumerate() {
        *letter = ALPHABET[(bits >> (52 - (at + 1) * 5)) as usize & 31];
    }
    text
}

/// The distance of two places, metres.
pub fn distance(a: Place, b: Place) -> f64 {
    let v = ((radians(b.longitude) - radians(a.longitude)) / 2.0).sin();
    if v == 0.0 {
        return latitude_distance(a.latitude, b.latitude);
    }
    let (from, to) = (radians(a.latitude), radians(b.latitude));
    let u = ((to - from) / 2.0).sin();
    2.0 * EARTH_RADIUS * (u * u + from.cos() * to.cos() * v * v).sqrt().asin()
}

fn latitude_distance(a: f64, b: f64) -> f64 {
    EARTH_RADIUS * (radians(b) - radians(a)).abs()
}

/// Degrees to radians, rounded as Redis does.
fn radians(degrees: f64) -> f64 {
    degrees * (PI / 180.0)
}

fn degrees(radians: f64) -> f64 {
    radians / (PI / 180.0)
}

impl Shape {
    /// The distance of `place` from `center`, metres, if it lies within the shape.
    pub fn distance_within(self, center: Place, place: Place) -> Option<f64> {
        match self {
            Shape::Circle { radius } => {
                Some(distance(center, place)).filter(|&distance| distance <= radius)
            }
            Shape::Box { width, height } => {
                if latitude_distance(place.latitude, center.latitude) > height / 2.0 {
                    return None;
                }
                let beside = Place { longitude: center.longitude, latitude: place.latitude };
                if distance(place, beside) > width / 2.0 {
                    return None;
                }
                Some(distance(center, place))
            }
        }
    }

    /// Half of the width and of the height, and the radius of a circle around it all.
    fn extent(self) -> (f64, f64, f64) {
        match self {
            Shape::Circle { radius } => (radius, radius, radius),
            Shape::Box { width, height } => {
                let (x, y) = (width / 2.0, height / 2.0);
                (x, y, (x * x + y * y).sqrt())
            }
        }
    }

    /// The shape's bounds around `center`.
    fn bounds(self, center: Place) -> Area {
        let (width, height, _) = self.extent();
        let Place { longitude, latitude } = center;
        let north = degrees(height / EARTH_RADIUS);
        // Meridians are closest together, and the box widest in degrees, on the pole's side.
        let widest = if latitude < 0.0 { latitude - north } else { latitude + north };
        let east = degrees(width / EARTH_RADIUS / radians(widest).cos());
        Area {
            west: longitude - east,
            east: longitude + east,
            south: latitude - north,
            north: latitude + north,
        }
    }
}

/// The size of cells that a shape of this radius fits into with the neighbours.
fn step_for(radius: f64, latitude: f64) -> u32 {
    if radius == 0.0 {
        return STEP_MAX;
    }
    let (mut range, mut step) = (radius, 1i32);
    while range < MERCATOR_MAX {
        range *= 2.0;
        step += 1;
    }
    step -= 2;
    // Towards the poles cells get narrower.
    step -= i32::from(latitude.abs() > 66.0) + i32::from(latitude.abs() > 80.0);
    step.clamp(1, STEP_MAX as i32) as u32
}

/// Ranges of scores (from the first to before the second) that hold all places of a shape, and
/// others.
pub fn covering(shape: Shape, center: Place) -> Vec<(f64, f64)> {
    let bounds = shape.bounds(center);
    let mut step = step_for(shape.extent().2, center.latitude);
    let mut cell = Cell::of(center, LATITUDE_MAX, step);
    let is_too_small = cell.moved(0, 1).area().north < bounds.north
        || cell.moved(0, -1).area().south > bounds.south
        || cell.moved(1, 0).area().east < bounds.east
        || cell.moved(-1, 0).area().west > bounds.west;
    if step > 1 && is_too_small {
        step -= 1;
        cell = Cell::of(center, LATITUDE_MAX, step);
    }
    let area = cell.area();
    let is_needed = |(east, north): (i32, i32)| {
        step < 2
            || !((north < 0 && area.south < bounds.south)
                || (north > 0 && area.north > bounds.north)
                || (east < 0 && area.west < bounds.west)
                || (east > 0 && area.east > bounds.east))
    };
    let around = [(0, 0), (0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (-1, 1), (1, -1), (-1, -1)];
    let mut cells: Vec<Cell> = around
        .into_iter()
        .filter(|&direction| is_needed(direction))
        .map(|(east, north)| cell.moved(east, north))
        .collect();
    // A grid of few cells meets itself: the neighbours on both sides are the same then.
    cells.dedup();
    cells.into_iter().map(Cell::scores).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PALERMO: Place = Place { longitude: 13.361389, latitude: 38.115556 };
    const CATANIA: Place = Place { longitude: 15.087269, latitude: 37.502669 };

    #[test]
    fn places_come_back_nearly() {
        assert_eq!(encode(PALERMO), 3_479_099_956_230_698);
        assert_eq!(encode(CATANIA), 3_479_447_370_796_909);
        let back = decode(encode(PALERMO) as f64);
        assert!(distance(back, PALERMO) < 0.6);
        assert_eq!(&text(encode(PALERMO) as f64), b"sqc8b49rny0");
        let far = distance(decode(encode(PALERMO) as f64), decode(encode(CATANIA) as f64));
        assert_eq!(format!("{far:.4}"), "166274.1516");
    }

    #[test]
    fn a_covering_holds_what_is_within() {
        let mut random = 1u64;
        let mut next = |max: f64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99);
            ((random >> 11) as f64 / (1u64 << 53) as f64 * 2.0 - 1.0) * max
        };
        for _ in 0..2000 {
            let center = Place { longitude: next(170.0), latitude: next(70.0) };
            let shape = if next(1.0) > 0.0 {
                Shape::Circle { radius: next(100_000.0).abs() + 1.0 }
            } else {
                Shape::Box { width: next(1e5).abs() + 1.0, height: next(1e5).abs() + 1.0 }
            };
            let near = Place {
                longitude: center.longitude + next(1.0),
                latitude: center.latitude + next(1.0),
            };
            let score = encode(near) as f64;
            if shape.distance_within(center, decode(score)).is_some() {
                let ranges = covering(shape, center);
                assert!(ranges.iter().any(|range| (range.0..range.1).contains(&score)));
            }
        }
    }
}
