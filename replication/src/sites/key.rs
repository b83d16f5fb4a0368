//! What the sites know of one key, beside the value that the engine holds.
//!
//! A key is a map of elements by name; a name begins with the [`Kind`], so that keys whose type was
//! changed by one site while another site wrote the old one have elements of both. Then the
//! newest kind shows. A string that one site wrote, or a counter that one site increments, is most of
//! all keys, and has a [`Short`] form; [`super::table`] packs these, and small keys of other kinds.

use super::element::{Element, SiteId};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, RangeBounds};

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
    /// Elements of which something is undone.
    undone: BTreeSet<Box<[u8]>>,
}

impl Many {
    /// Puts an element in, which was or was not there, or takes it out if it is empty.
    fn put(&mut self, name: &[u8], was_live: bool, element: Element) {
        let kind = usize::from(name.first().copied().unwrap_or(0)).min(KINDS - 1);
        let is_live = element.is_live();
        self.live[kind] = self.live[kind] + u32::from(is_live) - u32::from(was_live);
        if element.removed_at() == 0 || element.parts().is_empty() {
            self.undone.remove(name);
        } else if !self.undone.contains(name) {
            self.undone.insert(name.into());
        }
        if element.parts().is_empty() {
            self.elements.remove(name);
        } else if let Some(slot) = self.elements.get_mut(name) {
            *slot = Slot::of(element);
        } else {
            self.elements.insert(name.into(), Slot::of(element));
        }
    }
}

/// A string in the shortest form: one site wrote it and the engine holds it, or one site counts in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Short {
    /// The site.
    pub site: SiteId,
    /// Stamp of its write, or of its last increment.
    pub stamp: u64,
    /// Of a counter: the increments after this stamp are counted, and their sum.
    pub counted: Option<(u64, i64)>,
}

impl Short {
    fn of(element: &Element) -> Option<Short> {
        let plain = element.as_plain().map(|(site, stamp)| Short { site, stamp, counted: None });
        plain.or_else(|| {
            let (site, stamp, since, sum) = element.as_count()?;
            Some(Short { site, stamp, counted: Some((since, sum)) })
        })
    }

    /// Its digest, as that of its element.
    pub(super) fn digest(self, hash: u64) -> u64 {
        self.element().digest(hash, STRING)
    }

    fn element(self) -> Element {
        match self.counted {
            None => Element::written(self.site, self.stamp, None),
            Some((since, sum)) => Element::counted(self.site, self.stamp, since, sum),
        }
    }
}

/// What the sites know of a key.
#[derive(Clone, Debug, Default)]
pub struct Key(State);

#[derive(Clone, Debug, Default)]
enum State {
    /// Nothing.
    #[default]
    None,
    Short(Short),
    Many(Box<Many>),
}

/// The name of a string's only element.
pub(super) const STRING: &[u8] = &[Kind::String as u8];

impl From<Short> for Key {
    fn from(short: Short) -> Key {
        Key(State::Short(short))
    }
}

impl Key {
    fn many(&mut self) -> &mut Many {
        if !matches!(self.0, State::Many(_)) {
            let mut many = Box::<Many>::default();
            if let State::Short(short) = self.0 {
                many.put(STRING, false, short.element());
            }
            self.0 = State::Many(many);
        }
        match &mut self.0 {
            State::Many(many) => many,
            State::None | State::Short(_) => unreachable!("it was turned into many above"),
        }
    }

    /// Takes the short form where it is enough.
    pub fn shrink(&mut self) {
        let State::Many(many) = &self.0 else { return };
        if many.elements.len() > 1 {
            return;
        }
        match many.elements.first_key_value() {
            None => self.0 = State::None,
            Some((name, slot)) if **name == *STRING => {
                if let Some(short) = Short::of(&slot.view()) {
                    self.0 = State::Short(short);
                }
            }
            Some(_) => {}
        }
    }

    /// The short form, if it has that.
    pub fn as_short(&self) -> Option<Short> {
        match self.0 {
            State::Short(short) => Some(short),
            State::None | State::Many(_) => None,
        }
    }

    /// An element.
    pub fn get(&self, name: &[u8]) -> Option<Cow<'_, Element>> {
        match &self.0 {
            State::Short(short) if name == STRING => Some(Cow::Owned(short.element())),
            State::None | State::Short(_) => None,
            State::Many(many) => many.elements.get(name).map(Slot::view),
        }
    }

    /// Puts an element in that was not there.
    pub(super) fn put(&mut self, name: &[u8], element: Element) {
        self.many().put(name, false, element);
    }

    /// Changes an element, which is a new one if there was none.
    pub fn update<T>(&mut self, name: &[u8], change: impl FnOnce(&mut Element) -> T) -> T {
        if name == STRING && !matches!(self.0, State::Many(_)) {
            let short = std::mem::take(&mut self.0);
            let mut element = match short {
                State::Short(short) => short.element(),
                State::None | State::Many(_) => Element::default(),
            };
            let result = change(&mut element);
            match Short::of(&element) {
                Some(short) => self.0 = State::Short(short),
                None if element.parts().is_empty() => {}
                None => self.put(name, element),
            }
            return result;
        }
        let many = self.many();
        let element = many.elements.get_mut(name);
        let slot = element.map(|slot| std::mem::replace(slot, Slot::Plain(0, 0)));
        let was = slot.as_ref().is_some_and(Slot::is_live);
        let mut element = slot.map_or_else(Element::default, Slot::into_element);
        let result = change(&mut element);
        many.put(name, was, element);
        result
    }

    /// Whether nothing is known of it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Elements of a kind that are there.
    pub fn live(&self, kind: Kind) -> u32 {
        match &self.0 {
            State::None => 0,
            State::Short(_) => u32::from(kind == Kind::String),
            State::Many(many) => many.live[kind as usize],
        }
    }

    /// Elements that are remembered, whether they are there or not.
    pub fn len(&self) -> usize {
        match &self.0 {
            State::None => 0,
            State::Short(_) => 1,
            State::Many(many) => many.elements.len(),
        }
    }

    /// The names and elements within bounds, in their order.
    fn range<'a>(
        &'a self,
        start: Bound<&[u8]>,
        end: Bound<&[u8]>,
    ) -> impl DoubleEndedIterator<Item = (&'a [u8], Cow<'a, Element>)> + use<'a> {
        let (short, many) = match &self.0 {
            State::None => (None, None),
            State::Short(short) => (Some(*short), None),
            State::Many(many) => (None, Some(many.elements.range::<[u8], _>((start, end)))),
        };
        let within = |name| RangeBounds::<[u8]>::contains(&(start, end), name);
        let short = short.filter(|_| within(STRING));
        let short = short.map(|short| (STRING, Cow::Owned(short.element())));
        let many = many.into_iter().flatten().map(|(name, slot)| (&**name, slot.view()));
        short.into_iter().chain(many)
    }

    /// The names and elements from a name on, in their order.
    pub fn range_from<'a>(
        &'a self,
        start: &[u8],
    ) -> impl DoubleEndedIterator<Item = (&'a [u8], Cow<'a, Element>)> + use<'a> {
        self.range(Bound::Included(start), Bound::Unbounded)
    }

    /// All names and elements.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&[u8], Cow<'_, Element>)> {
        self.range_from(&[])
    }

    /// The elements of a kind that are there, in the order of their names, without the kind.
    pub fn live_of(
        &self,
        kind: Kind,
    ) -> impl DoubleEndedIterator<Item = (&[u8], Cow<'_, Element>)> {
        let (start, end) = ([kind as u8], [kind as u8 + 1]);
        let all = self.range(Bound::Included(&start), Bound::Excluded(&end));
        let live = all.filter(|(_, element)| element.is_live());
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
            for name in std::mem::take(&mut many.undone) {
                let Some(slot) = many.elements.get_mut(&name) else { continue };
                let slot = std::mem::replace(slot, Slot::Plain(0, 0));
                let was = slot.is_live();
                let mut element = slot.into_element();
                element.forget(stable);
                many.put(&name, was, element);
            }
        }
        self.shrink();
        before - self.len()
    }

    /// Whether there is anything that may be forgotten some day.
    pub fn has_undone(&self) -> bool {
        match &self.0 {
            State::None | State::Short(_) => false,
            State::Many(many) => many.live[Kind::Expiry as usize] > 0 || !many.undone.is_empty(),
        }
    }

    /// A digest of what shows of it, the same at all sites that know the same: the sum of those of
    /// its elements. `hash` is that of the key.
    pub fn digest(&self, hash: u64) -> u64 {
        let digests = self.iter().map(|(name, element)| element.digest(hash, name));
        digests.fold(0, u64::wrapping_add)
    }
}
