//! What the sites know of one key, beside the value that the engine holds.
//!
//! A key is a map of elements by name; a name begins with the [`Kind`], so that keys whose type was
//! changed by one site while another site wrote the old one have elements of both. Then the
//! newest kind shows. A string that one site wrote is most of all keys, and takes 16 bytes.

use super::element::{Element, SiteId};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Bound;

/// What an element is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Kind {
    /// The value of a string; its name is empty.
    String = 0,
    /// A field of a hash.
    Hash = 1,
    /// A member of a set.
    Set = 2,
    /// A member of a sorted set; its value are the eight bytes of the score.
    Zset = 3,
    /// An item of a list; its name is its place, see [`super::order`].
    List = 4,
    /// An entry of a stream; its name is its id, 16 bytes, big-endian.
    Stream = 5,
    /// The time at which the key expires, eight bytes; its name is empty.
    Expiry = 6,
}

/// Number of kinds.
pub const KINDS: usize = 7;

impl Kind {
    /// All of them.
    pub const ALL: [Kind; KINDS] =
        [Kind::String, Kind::Hash, Kind::Set, Kind::Zset, Kind::List, Kind::Stream, Kind::Expiry];

    /// Its name, as TYPE has it.
    pub fn label(self) -> &'static str {
        match self {
            Kind::String => "string",
            Kind::Hash => "hash",
            Kind::Set => "set",
            Kind::Zset => "zset",
            Kind::List => "list",
            Kind::Stream => "stream",
            Kind::Expiry => "expiry",
        }
    }

    /// The kind of this number.
    pub fn from_number(number: u8) -> Option<Kind> {
        Kind::ALL.get(usize::from(number)).copied()
    }

    /// The name of an element of this kind.
    pub fn name(self, rest: &[u8]) -> Vec<u8> {
        let mut name = Vec::with_capacity(1 + rest.len());
        name.push(self as u8);
        name.extend_from_slice(rest);
        name
    }

    /// The kind of an element's name.
    pub fn of(name: &[u8]) -> Option<Kind> {
        name.first().and_then(|kind| Kind::from_number(*kind))
    }
}

/// An element in the shortest form.
#[derive(Clone, Debug)]
enum Slot {
    /// Written by one site; the engine holds the value.
    Plain(SiteId, u64),
    /// Written by one site, with a value of eight bytes: a score.
    Score(SiteId, u64, [u8; 8]),
    Full(Box<Element>),
}

impl Slot {
    fn of(element: Element) -> Slot {
        match (element.as_plain(), element.as_score()) {
            (Some((site, stamp)), _) => Slot::Plain(site, stamp),
            (None, Some((site, stamp, score))) => Slot::Score(site, stamp, score),
            (None, None) => Slot::Full(Box::new(element)),
        }
    }

    fn view(&self) -> Cow<'_, Element> {
        match self {
            Slot::Plain(site, stamp) => Cow::Owned(Element::written(*site, *stamp, None)),
            Slot::Score(site, stamp, score) => {
                Cow::Owned(Element::written(*site, *stamp, Some(score[..].into())))
            }
            Slot::Full(element) => Cow::Borrowed(element),
        }
    }

    fn into_element(self) -> Element {
        match self {
            Slot::Plain(site, stamp) => Element::written(site, stamp, None),
            Slot::Score(site, stamp, score) => {
                Element::written(site, stamp, Some(score[..].into()))
            }
            Slot::Full(element) => *element,
        }
    }

    fn is_live(&self) -> bool {
        match self {
            Slot::Plain(..) | Slot::Score(..) => true,
            Slot::Full(element) => element.is_live(),
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Many {
    elements: BTreeMap<Box<[u8]>, Slot>,
    /// Elements of each kind that are there.
    live: [u32; KINDS],
}

/// What the sites know of a key.
#[derive(Clone, Debug)]
pub struct Key(State);

#[derive(Clone, Debug)]
enum State {
    /// A string that one site wrote and the engine holds.
    Plain(SiteId, u64),
    Many(Box<Many>),
}

const STRING: &[u8] = &[Kind::String as u8];

impl Default for Key {
    fn default() -> Key {
        Key(State::Many(Box::default()))
    }
}

impl Key {
    fn many(&mut self) -> &mut Many {
        if let State::Plain(site, stamp) = self.0 {
            let mut many = Many::default();
            many.elements.insert(STRING.into(), Slot::Plain(site, stamp));
            many.live[Kind::String as usize] = 1;
            self.0 = State::Many(Box::new(many));
        }
        match &mut self.0 {
            State::Many(many) => many,
            State::Plain(..) => unreachable!("it was turned into many above"),
        }
    }

    /// Takes the short form where it is enough.
    pub fn shrink(&mut self) {
        if let State::Many(many) = &self.0
            && many.elements.len() == 1
            && let Some((name, Slot::Plain(site, stamp))) = many.elements.first_key_value()
            && **name == *STRING
        {
            self.0 = State::Plain(*site, *stamp);
        }
    }

    /// An element.
    pub fn get(&self, name: &[u8]) -> Option<Cow<'_, Element>> {
        match &self.0 {
            State::Plain(site, stamp) if name == STRING => {
                Some(Cow::Owned(Element::written(*site, *stamp, None)))
            }
            State::Plain(..) => None,
            State::Many(many) => many.elements.get(name).map(Slot::view),
        }
    }

    /// Changes an element, which is a new one if there was none.
    pub fn update<T>(&mut self, name: &[u8], change: impl FnOnce(&mut Element) -> T) -> T {
        let many = self.many();
        let Many { elements, live } = many;
        let kind = usize::from(name.first().copied().unwrap_or(0)).min(KINDS - 1);
        let slot = match elements.get_mut(name) {
            Some(slot) => slot,
            None => elements.entry(name.into()).or_insert(Slot::Full(Box::default())),
        };
        let was = slot.is_live();
        let mut element = std::mem::replace(slot, Slot::Plain(0, 0)).into_element();
        let result = change(&mut element);
        let is = element.is_live();
        if element.parts().is_empty() {
            elements.remove(name);
        } else {
            *slot = Slot::of(element);
        }
        live[kind] = live[kind] + u32::from(is) - u32::from(was);
        result
    }

    /// Whether nothing is known of it.
    pub fn is_empty(&self) -> bool {
        match &self.0 {
            State::Plain(..) => false,
            State::Many(many) => many.elements.is_empty(),
        }
    }

    /// Elements of a kind that are there.
    pub fn live(&self, kind: Kind) -> u32 {
        match &self.0 {
            State::Plain(..) => u32::from(kind == Kind::String),
            State::Many(many) => many.live[kind as usize],
        }
    }

    /// Elements that are remembered, whether they are there or not.
    pub fn len(&self) -> usize {
        match &self.0 {
            State::Plain(..) => 1,
            State::Many(many) => many.elements.len(),
        }
    }

    /// The names and elements from a name on, in their order.
    pub fn from<'a>(
        &'a self,
        start: &[u8],
    ) -> impl DoubleEndedIterator<Item = (&'a [u8], Cow<'a, Element>)> {
        let (plain, many) = match &self.0 {
            State::Plain(site, stamp) => (Some((*site, *stamp)), None),
            State::Many(many) => (None, Some(many)),
        };
        let plain = plain.filter(|_| start <= STRING);
        let plain = plain
            .map(|(site, stamp)| (STRING, Cow::Owned(Element::written(site, stamp, None))))
            .into_iter();
        let range = (Bound::Included(start), Bound::Unbounded);
        let many = many.map(|many| many.elements.range::<[u8], _>(range)).into_iter().flatten();
        plain.chain(many.map(|(name, slot)| (&**name, slot.view())))
    }

    /// All names and elements.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&[u8], Cow<'_, Element>)> {
        self.from(&[])
    }

    /// The elements of a kind that are there, in the order of their names, without the kind.
    pub fn live_of(
        &self,
        kind: Kind,
    ) -> impl DoubleEndedIterator<Item = (&[u8], Cow<'_, Element>)> {
        let all = match &self.0 {
            State::Plain(site, stamp) => {
                let here = (kind == Kind::String).then_some((*site, *stamp));
                (here, None)
            }
            State::Many(many) => {
                let (start, end) = ([kind as u8], [kind as u8 + 1]);
                let range = (Bound::Included(&start[..]), Bound::Excluded(&end[..]));
                (None, Some(many.elements.range::<[u8], _>(range)))
            }
        };
        let plain =
            all.0.map(|(site, stamp)| (STRING, Cow::Owned(Element::written(site, stamp, None))));
        let many = all.1.into_iter().flatten().map(|(name, slot)| (&**name, slot.view()));
        let live = plain.into_iter().chain(many).filter(|(_, element)| element.is_live());
        live.map(|(name, element)| (&name[1..], element))
    }

    /// The kind that shows: the one with the newest write, if there are elements of several.
    pub fn kind(&self) -> Option<Kind> {
        let data = Kind::ALL.into_iter().filter(|kind| *kind != Kind::Expiry);
        let mut there = data.filter(|kind| self.live(*kind) > 0);
        let first = there.next()?;
        let Some(second) = there.next() else { return Some(first) };
        let newest = |kind: &Kind| self.live_of(*kind).map(|(_, one)| one.newest()).max();
        [first, second].into_iter().chain(there).max_by_key(newest)
    }

    /// When it expires by the longest of the expiries that were set without knowing each other;
    /// `None` if never.
    pub fn expiry(&self) -> Option<i64> {
        if self.live(Kind::Expiry) == 0 {
            return None;
        }
        let element = self.get(&[Kind::Expiry as u8])?;
        let times = element.writes().into_iter().filter_map(|part| {
            let bytes: [u8; 8] = part.value.as_deref()?.try_into().ok()?;
            Some(i64::from_le_bytes(bytes))
        });
        times.max().filter(|at_ms| *at_ms != i64::MAX)
    }

    /// Who is to remove the key, if it had expired by a time and every site knows all of it: then no
    /// longer expiry can come any more. It is the site that set the expiry.
    pub fn expired_by(&self, stable: u64, before_ms: i64) -> Option<SiteId> {
        self.expiry().filter(|at_ms| *at_ms < before_ms)?;
        if self.iter().any(|(_, element)| element.last_stamp() > stable) {
            return None;
        }
        let element = self.get(&[Kind::Expiry as u8])?;
        element.winner().map(|part| part.site)
    }

    /// Takes in what another site knows of an element.
    pub fn join(&mut self, name: &[u8], element: &Element) {
        self.update(name, |mine| mine.join(element));
    }

    /// Forgets what every site knows to be undone: all that happened up to the stamp `stable`.
    /// Returns how many elements that is.
    pub fn forget(&mut self, stable: u64) -> usize {
        let before = self.len();
        if let State::Many(many) = &mut self.0 {
            many.elements.retain(|_, slot| match slot {
                Slot::Plain(..) | Slot::Score(..) => true,
                Slot::Full(element) => {
                    let gone = element.forget(stable);
                    let rest = std::mem::take(&mut **element);
                    *slot = Slot::of(rest);
                    !gone
                }
            });
        }
        self.shrink();
        before - self.len()
    }

    /// Whether there is anything that may be forgotten some day.
    pub fn has_undone(&self) -> bool {
        match &self.0 {
            State::Plain(..) => false,
            State::Many(many) => {
                many.live[Kind::Expiry as usize] > 0
                    || many.elements.values().any(|slot| match slot {
                        Slot::Plain(..) | Slot::Score(..) => false,
                        Slot::Full(element) => element.removed_at() != 0,
                    })
            }
        }
    }

    /// Whether it is a string that one site wrote, with nothing to remember besides.
    pub fn is_plain(&self) -> bool {
        matches!(self.0, State::Plain(..))
    }

    /// A digest of what shows of it, the same at all sites that know the same: the sum of those of
    /// its elements.
    pub fn digest(&self, key: &[u8]) -> u64 {
        let digests = self.iter().map(|(name, element)| element.digest(key, name));
        digests.fold(0, u64::wrapping_add)
    }
}
