//! A B+tree of (score, member id) that counts the elements below every child.
//!
//! ```text
//! inner:  [first score, first id, child, count] x 64
//! leaf:   scores [f64; 64] | ids [u32; 64]          linked to its neighbours
//! ```
//! A search reads arrays of scores only; members, which lie elsewhere, are compared where scores
//! are equal. The counts give ranks and the element at a rank in O(log n). A node that is less than a
//! quarter full merges with a neighbour where both together leave some room; it does not
//! borrow. So two neighbours always hold three quarters of a node together once elements were
//! removed from one of them, which bounds the height without the cost of strict balance.

use std::cmp::Ordering;
use std::ops::Range;

use smallvec::SmallVec;

use super::node::{Child, INNER_MAX, Inner, LEAF_MAX, Leaf, NONE, Nodes};

/// Inner nodes from the root down, each with the child that was taken.
type Path = SmallVec<[(u32, usize); 8]>;

/// An element: its score, its id, and what compares the member of an id to its own member.
pub(super) struct Element<C> {
    pub score: f64,
    pub id: u32,
    pub cmp: C,
}

/// Sorted (score, id) pairs.
#[derive(Clone)]
pub(super) struct Tree {
    leaves: Nodes<Leaf>,
    inners: Nodes<Inner>,
    root: u32,
    /// Levels of inner nodes; the root is a leaf if there is none.
    height: usize,
    len: usize,
}

impl Tree {
    pub fn new() -> Self {
        let mut leaves = Nodes::new();
        let root = leaves.add(Leaf::new());
        Tree { leaves, inners: Nodes::new(), root, height: 0, len: 0 }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// Bytes taken on the heap.
    pub fn memory(&self) -> usize {
        self.leaves.memory() + self.inners.memory()
    }

    /// Adds an element that is not there yet.
    pub fn insert(&mut self, element: Element<impl Fn(u32) -> Ordering>) {
        let Element { score, id, cmp } = element;
        let mut path = Path::new();
        let mut node = self.root;
        for _ in 0..self.height {
            let inner = self.inners.get_mut(node);
            let before = inner.count_before(score, &cmp, true);
            let at = before.saturating_sub(1);
            if before == 0 {
                (inner.scores[0], inner.ids[0]) = (score, id);
            }
            inner.counts[at] += 1;
            path.push((node, at));
            node = inner.children[at];
        }
        self.len += 1;
        let leaf = self.leaves.get_mut(node);
        let at = leaf.count_before(score, &cmp, false);
        if leaf.len < LEAF_MAX {
            leaf.insert(at, score, id);
        } else {
            self.split_leaf(path, node, at, score, id);
        }
    }

    /// Splits a full leaf and adds an element at `at` of it.
    fn split_leaf(&mut self, path: Path, number: u32, at: usize, score: f64, id: u32) {
        let leaf = self.leaves.get_mut(number);
        // Elements that come in order fill their leaves.
        let cut = if at == LEAF_MAX && leaf.next == NONE { LEAF_MAX } else { LEAF_MAX / 2 };
        let mut right = Leaf::new();
        leaf.move_to(cut, &mut right);
        if at > cut || cut == LEAF_MAX {
            right.insert(at - cut, score, id);
        } else {
            leaf.insert(at, score, id);
        }
        (right.prev, right.next) = (number, leaf.next);
        let next = leaf.next;
        let left_count = leaf.len as u32;
        let (first_score, first_id, count) = (right.scores[0], right.ids[0], right.len as u32);
        let node = self.leaves.add(right);
        self.leaves.get_mut(number).next = node;
        if next != NONE {
            self.leaves.get_mut(next).prev = node;
        }
        self.add_child(path, left_count, Child { score: first_score, id: first_id, node, count });
    }

    /// Adds `right` behind the child that `path` leads to, which now has `left_count` elements.
    fn add_child(&mut self, mut path: Path, mut left_count: u32, mut right: Child) {
        while let Some((number, at)) = path.pop() {
            let inner = self.inners.get_mut(number);
            inner.counts[at] = left_count;
            if inner.len < INNER_MAX {
                return inner.insert(at + 1, right);
            }
            let cut = if at + 1 == INNER_MAX { INNER_MAX - 1 } else { INNER_MAX / 2 };
            let mut split = Inner::new();
            inner.move_to(cut, &mut split);
            if at + 1 > cut {
                split.insert(at + 1 - cut, right);
            } else {
                inner.insert(at + 1, right);
            }
            left_count = inner.total();
            let (score, id, count) = (split.scores[0], split.ids[0], split.total());
            right = Child { score, id, node: self.inners.add(split), count };
        }
        let (score, id) = self.first_of(self.root);
        let mut root = Inner::new();
        root.insert(0, Child { score, id, node: self.root, count: left_count });
        root.insert(1, right);
        self.root = self.inners.add(root);
        self.height += 1;
    }

    fn first_of(&self, root: u32) -> (f64, u32) {
        if self.height == 0 {
            let leaf = self.leaves.get(root);
            (leaf.scores[0], leaf.ids[0])
        } else {
            let inner = self.inners.get(root);
            (inner.scores[0], inner.ids[0])
        }
    }

    /// The leaf and place of an element.
    fn locate(&self, element: Element<impl Fn(u32) -> Ordering>, path: &mut Path) -> (u32, usize) {
        let mut node = self.root;
        for _ in 0..self.height {
            let inner = self.inners.get(node);
            let at = inner.count_before(element.score, &element.cmp, true).saturating_sub(1);
            path.push((node, at));
            node = inner.children[at];
        }
        let leaf = self.leaves.get(node);
        let at = leaf.find(element.score, element.id);
        (node, at.expect("every member is in the tree"))
    }

    /// Removes an element.
    pub fn remove(&mut self, element: Element<impl Fn(u32) -> Ordering>) {
        let mut path = Path::new();
        let (leaf, at) = self.locate(element, &mut path);
        self.remove_at(path, leaf, at);
    }

    /// Removes and returns the element at `rank`, which is less than the length.
    pub fn remove_rank(&mut self, rank: usize) -> (f64, u32) {
        let mut path = Path::new();
        let (number, at) = self.select(rank, &mut path);
        let leaf = self.leaves.get(number);
        let removed = (leaf.scores[at], leaf.ids[at]);
        self.remove_at(path, number, at);
        removed
    }

    /// Gives an element another score.
    pub fn rescore(&mut self, element: Element<impl Fn(u32) -> Ordering>, new: f64) {
        let Element { score, id, cmp } = element;
        let mut path = Path::new();
        let (number, at) = self.locate(Element { score, id, cmp: &cmp }, &mut path);
        let leaf = self.leaves.get_mut(number);
        // At the ends of a leaf its neighbours and ancestors would have a say.
        let inside = at > 0 && at + 1 < leaf.len;
        if inside && leaf.scores[at - 1] < new && new < leaf.scores[at + 1] {
            leaf.scores[at] = new;
            return;
        }
        self.remove_at(path, number, at);
        self.insert(Element { score: new, id, cmp });
    }

    /// Gives an element another id.
    pub fn rename(&mut self, element: Element<impl Fn(u32) -> Ordering>, id: u32) {
        let score = element.score;
        let mut path = Path::new();
        let (leaf, at) = self.locate(element, &mut path);
        self.leaves.get_mut(leaf).ids[at] = id;
        if at == 0 {
            self.set_first(&path, score, id);
        }
    }

    /// Tells the ancestors on `path` what the first element below it now is.
    fn set_first(&mut self, path: &[(u32, usize)], score: f64, id: u32) {
        for &(number, at) in path.iter().rev() {
            let inner = self.inners.get_mut(number);
            (inner.scores[at], inner.ids[at]) = (score, id);
            if at > 0 {
                break;
            }
        }
    }

    fn remove_at(&mut self, mut path: Path, number: u32, at: usize) {
        for &(inner, at) in &path {
            self.inners.get_mut(inner).counts[at] -= 1;
        }
        self.len -= 1;
        let leaf = self.leaves.get_mut(number);
        leaf.remove(at);
        let (len, score, id) = (leaf.len, leaf.scores[0], leaf.ids[0]);
        if at == 0 && len > 0 {
            self.set_first(&path, score, id);
        }
        if len >= LEAF_MAX / 4 {
            return;
        }
        let Some((mut parent, at)) = path.pop() else { return };
        if !self.merge_leaf(parent, at) {
            return;
        }
        loop {
            let inner = self.inners.get(parent);
            let (len, score, id) = (inner.len, inner.scores[0], inner.ids[0]);
            if len > 0 {
                self.set_first(&path, score, id);
            }
            let Some((grandparent, at)) = path.pop() else { break };
            if len >= INNER_MAX / 4 || !self.merge_inner(grandparent, at) {
                return;
            }
            parent = grandparent;
        }
        while self.height > 0 && self.inners.get(self.root).len == 1 {
            self.root = self.inners.take(self.root).children[0];
            self.height -= 1;
        }
    }

    /// Merges a leaf with a neighbour if both fit into one. Returns whether the parent lost a child.
    fn merge_leaf(&mut self, parent: u32, at: usize) -> bool {
        let inner = self.inners.get(parent);
        let Some(left) = merge_with(inner, at, LEAF_MAX, |node| self.leaves.get(node).len) else {
            return false;
        };
        let (to, from) = (inner.children[left.to], inner.children[left.from]);
        let count = inner.counts[left.from];
        let mut gone = self.leaves.take(from);
        if left.to != left.from {
            let kept = self.leaves.get_mut(to);
            gone.move_to(0, kept);
            self.inners.get_mut(parent).counts[left.to] += count;
        }
        if gone.prev != NONE {
            self.leaves.get_mut(gone.prev).next = gone.next;
        }
        if gone.next != NONE {
            self.leaves.get_mut(gone.next).prev = gone.prev;
        }
        self.inners.get_mut(parent).remove(left.from);
        true
    }

    /// Merges an inner node with a neighbour if both fit into one. Returns whether the parent lost
    /// a child.
    fn merge_inner(&mut self, parent: u32, at: usize) -> bool {
        let inner = self.inners.get(parent);
        let Some(left) = merge_with(inner, at, INNER_MAX, |node| self.inners.get(node).len) else {
            return false;
        };
        let (to, from) = (inner.children[left.to], inner.children[left.from]);
        let count = inner.counts[left.from];
        let mut gone = self.inners.take(from);
        if left.to != left.from {
            gone.move_to(0, self.inners.get_mut(to));
            self.inners.get_mut(parent).counts[left.to] += count;
        }
        self.inners.get_mut(parent).remove(left.from);
        true
    }

    /// The leaf and place of the element at `rank`, which is less than the length.
    fn select(&self, mut rank: usize, path: &mut Path) -> (u32, usize) {
        let mut node = self.root;
        for _ in 0..self.height {
            let inner = self.inners.get(node);
            let mut at = 0;
            while rank >= inner.counts[at] as usize {
                rank -= inner.counts[at] as usize;
                at += 1;
            }
            path.push((node, at));
            node = inner.children[at];
        }
        (node, rank)
    }

    /// The rank of an element.
    pub fn rank(&self, element: Element<impl Fn(u32) -> Ordering>) -> usize {
        let mut path = Path::new();
        let (_, at) = self.locate(element, &mut path);
        at + self.count_left_of(&path)
    }

    /// How many elements from the first on satisfy `is_before`, which none after that do.
    pub fn count_while(&self, is_before: impl Fn(f64, u32) -> bool) -> usize {
        let mut path = Path::new();
        let mut node = self.root;
        for _ in 0..self.height {
            let inner = self.inners.get(node);
            let before =
                partition_point(inner.len, |at| is_before(inner.scores[at], inner.ids[at]));
            let at = before.saturating_sub(1);
            path.push((node, at));
            node = inner.children[at];
        }
        let leaf = self.leaves.get(node);
        self.count_left_of(&path)
            + partition_point(leaf.len, |at| is_before(leaf.scores[at], leaf.ids[at]))
    }

    fn count_left_of(&self, path: &[(u32, usize)]) -> usize {
        let counts = |&(inner, at): &(u32, usize)| &self.inners.get(inner).counts[..at];
        path.iter().flat_map(counts).map(|&count| count as usize).sum()
    }

    /// Calls `each` with the scores and ids of these ranks, from the highest down if `reverse`.
    pub fn for_range(&self, ranks: Range<usize>, reverse: bool, mut each: impl FnMut(f64, u32)) {
        let end = ranks.end.min(self.len);
        let mut left = end.saturating_sub(ranks.start);
        if left == 0 {
            return;
        }
        let first = if reverse { end - 1 } else { ranks.start };
        let (mut number, mut at) = self.select(first, &mut Path::new());
        loop {
            let leaf = self.leaves.get(number);
            if reverse {
                let taken = left.min(at + 1);
                (at + 1 - taken..=at).rev().for_each(|at| each(leaf.scores[at], leaf.ids[at]));
                left -= taken;
                number = leaf.prev;
            } else {
                let taken = left.min(leaf.len - at);
                (at..at + taken).for_each(|at| each(leaf.scores[at], leaf.ids[at]));
                left -= taken;
                number = leaf.next;
            }
            if left == 0 || number == NONE {
                return;
            }
            at = if reverse { self.leaves.get(number).len - 1 } else { 0 };
        }
    }
}

/// Which child goes, into which other; both are one where it is empty and just goes.
struct Merge {
    to: usize,
    from: usize,
}

fn merge_with(parent: &Inner, at: usize, max: usize, len: impl Fn(u32) -> usize) -> Option<Merge> {
    let len = |at: usize| len(parent.children[at]);
    let own = len(at);
    let fits = |other: usize| own + len(other) <= max / 4 * 3;
    if own == 0 {
        Some(Merge { to: at, from: at })
    } else if at + 1 < parent.len && fits(at + 1) {
        Some(Merge { to: at, from: at + 1 })
    } else if at > 0 && fits(at - 1) {
        Some(Merge { to: at - 1, from: at })
    } else {
        None
    }
}

fn partition_point(len: usize, is_before: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, len);
    while low < high {
        let middle = (low + high) / 2;
        if is_before(middle) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

#[cfg(test)]
impl Tree {
    /// Checks every invariant of the structure.
    pub fn check(&self) {
        let mut leaves = Vec::new();
        let (count, ..) = self.check_node(self.root, self.height, &mut leaves);
        assert_eq!(count as usize, self.len);
        let mut prev = NONE;
        for (at, &number) in leaves.iter().enumerate() {
            let leaf = self.leaves.get(number);
            assert_eq!(leaf.prev, prev);
            assert_eq!(leaf.next, leaves.get(at + 1).copied().unwrap_or(NONE));
            prev = number;
        }
    }

    fn check_node(&self, node: u32, height: usize, leaves: &mut Vec<u32>) -> (u32, f64, u32) {
        if height == 0 {
            let leaf = self.leaves.get(node);
            assert!(leaf.len > 0 || self.len == 0);
            assert!(leaf.scores[..leaf.len].is_sorted());
            leaves.push(node);
            return (leaf.len as u32, leaf.scores[0], leaf.ids[0]);
        }
        let inner = self.inners.get(node);
        assert!(inner.len > 0 && (inner.len > 1 || node != self.root));
        for at in 0..inner.len {
            let (count, score, id) = self.check_node(inner.children[at], height - 1, leaves);
            assert_eq!(count, inner.counts[at]);
            assert_eq!((score, id), (inner.scores[at], inner.ids[at]));
        }
        (inner.total(), inner.scores[0], inner.ids[0])
    }
}
