//! The nodes of the sorted set's [tree](super::tree): plain arrays that are searched and shifted.

use std::cmp::Ordering;

/// Elements a leaf.
pub(super) const LEAF_MAX: usize = 64;
const _: () = assert!(LEAF_MAX.is_multiple_of(BLOCK) && INNER_MAX.is_multiple_of(BLOCK));
/// Children an inner node.
pub(super) const INNER_MAX: usize = 64;
/// No node.
pub(super) const NONE: u32 = u32::MAX;

/// Elements next to each other in order.
#[derive(Clone)]
pub(super) struct Leaf {
    pub len: usize,
    pub prev: u32,
    pub next: u32,
    /// Infinite from `len` on.
    pub scores: [f64; LEAF_MAX],
    pub ids: [u32; LEAF_MAX],
}

/// Children next to each other, with the first element and the number of elements of each.
#[derive(Clone)]
pub(super) struct Inner {
    pub len: usize,
    /// Infinite from `len` on.
    pub scores: [f64; INNER_MAX],
    pub ids: [u32; INNER_MAX],
    pub children: [u32; INNER_MAX],
    pub counts: [u32; INNER_MAX],
}

/// One child of an inner node.
#[derive(Clone, Copy)]
pub(super) struct Child {
    pub score: f64,
    pub id: u32,
    pub node: u32,
    pub count: u32,
}

/// The number of elements that come before `score` and, where scores are equal, before the member
/// to which `cmp` compares an id's member. The scores alone decide unless there are ties.
///
/// Scores are counted rather than searched: that is a few vector instructions on independent cache
/// lines, where a binary search waits for one line after the other. First the last ones of blocks of a
/// cache line, then those of the one block that is left. What lies behind the last element must be
/// infinite.
#[inline]
fn count_before<const N: usize>(
    scores: &[f64; N],
    ids: &[u32],
    score: f64,
    cmp: impl Fn(u32) -> Ordering,
    and_equal: bool,
) -> usize {
    let at = first_from(scores, score);
    if at >= ids.len() || scores[at] != score {
        return at;
    }
    let ties = scores[at..ids.len()].partition_point(|&other| other == score);
    let before = |&id: &u32| {
        let order = cmp(id);
        order.is_lt() || (and_equal && order.is_eq())
    };
    at + ids[at..at + ties].partition_point(before)
}

/// Scores of a block: a cache line.
const BLOCK: usize = 8;

/// The number of scores that are less than `score`, of scores in order.
#[inline]
fn first_from<const N: usize>(scores: &[f64; N], score: f64) -> usize {
    let (blocks, _) = scores.as_chunks::<BLOCK>();
    let whole = blocks.iter().map(|block| u64::from(block[BLOCK - 1] < score)).sum::<u64>();
    let inside = blocks
        .get(whole as usize)
        .map_or(0, |block| block.iter().map(|&other| u64::from(other < score)).sum::<u64>());
    whole as usize * BLOCK + inside as usize
}

/// Shifts the values from `at` on up by one and puts `value` there.
#[inline]
fn insert<T: Copy>(values: &mut [T], len: usize, at: usize, value: T) {
    values.copy_within(at..len, at + 1);
    values[at] = value;
}

#[inline]
fn remove<T: Copy>(values: &mut [T], len: usize, at: usize) {
    values.copy_within(at + 1..len, at);
}

impl Leaf {
    pub fn new() -> Self {
        Leaf {
            len: 0,
            prev: NONE,
            next: NONE,
            scores: [f64::INFINITY; LEAF_MAX],
            ids: [0; LEAF_MAX],
        }
    }

    pub fn insert(&mut self, at: usize, score: f64, id: u32) {
        insert(&mut self.scores, self.len, at, score);
        insert(&mut self.ids, self.len, at, id);
        self.len += 1;
    }

    pub fn remove(&mut self, at: usize) {
        remove(&mut self.scores, self.len, at);
        remove(&mut self.ids, self.len, at);
        self.len -= 1;
        self.scores[self.len] = f64::INFINITY;
    }

    #[inline]
    pub fn count_before(
        &self,
        score: f64,
        cmp: impl Fn(u32) -> Ordering,
        and_equal: bool,
    ) -> usize {
        count_before(&self.scores, &self.ids[..self.len], score, cmp, and_equal)
    }

    /// The place of the element with this score and id.
    #[inline]
    pub fn find(&self, score: f64, id: u32) -> Option<usize> {
        let first = first_from(&self.scores, score);
        let ids = self.ids[..self.len].get(first..)?;
        ids.iter().position(|&other| other == id).map(|at| first + at)
    }

    /// Moves the elements from `at` on to the end of `to`.
    pub fn move_to(&mut self, at: usize, to: &mut Leaf) {
        let moved = self.len - at;
        to.scores[to.len..to.len + moved].copy_from_slice(&self.scores[at..self.len]);
        to.ids[to.len..to.len + moved].copy_from_slice(&self.ids[at..self.len]);
        to.len += moved;
        self.scores[at..self.len].fill(f64::INFINITY);
        self.len = at;
    }
}

impl Inner {
    pub fn new() -> Self {
        Inner {
            len: 0,
            scores: [f64::INFINITY; INNER_MAX],
            ids: [0; INNER_MAX],
            children: [NONE; INNER_MAX],
            counts: [0; INNER_MAX],
        }
    }

    pub fn insert(&mut self, at: usize, child: Child) {
        insert(&mut self.scores, self.len, at, child.score);
        insert(&mut self.ids, self.len, at, child.id);
        insert(&mut self.children, self.len, at, child.node);
        insert(&mut self.counts, self.len, at, child.count);
        self.len += 1;
    }

    pub fn remove(&mut self, at: usize) {
        remove(&mut self.scores, self.len, at);
        remove(&mut self.ids, self.len, at);
        remove(&mut self.children, self.len, at);
        remove(&mut self.counts, self.len, at);
        self.len -= 1;
        self.scores[self.len] = f64::INFINITY;
    }

    #[inline]
    pub fn count_before(
        &self,
        score: f64,
        cmp: impl Fn(u32) -> Ordering,
        and_equal: bool,
    ) -> usize {
        count_before(&self.scores, &self.ids[..self.len], score, cmp, and_equal)
    }

    /// Number of elements below this node.
    pub fn total(&self) -> u32 {
        self.counts[..self.len].iter().sum()
    }

    /// Moves the children from `at` on to the end of `to`.
    pub fn move_to(&mut self, at: usize, to: &mut Inner) {
        let (from, end) = (at..self.len, to.len + self.len - at);
        to.scores[to.len..end].copy_from_slice(&self.scores[from.clone()]);
        to.ids[to.len..end].copy_from_slice(&self.ids[from.clone()]);
        to.children[to.len..end].copy_from_slice(&self.children[from.clone()]);
        to.counts[to.len..end].copy_from_slice(&self.counts[from]);
        to.len = end;
        self.scores[at..self.len].fill(f64::INFINITY);
        self.len = at;
    }
}

/// Nodes by number. A node that is freed gives its memory back; its number is used again.
#[derive(Clone)]
pub(super) struct Nodes<T> {
    nodes: Vec<Option<Box<T>>>,
    free: Vec<u32>,
}

impl<T> Nodes<T> {
    pub fn new() -> Self {
        Nodes { nodes: Vec::new(), free: Vec::new() }
    }

    pub fn add(&mut self, node: T) -> u32 {
        let node = Some(Box::new(node));
        if let Some(number) = self.free.pop() {
            self.nodes[number as usize] = node;
            return number;
        }
        self.nodes.push(node);
        self.nodes.len() as u32 - 1
    }

    #[inline]
    pub fn get(&self, number: u32) -> &T {
        self.nodes[number as usize].as_ref().expect("a node that is linked to exists")
    }

    #[inline]
    pub fn get_mut(&mut self, number: u32) -> &mut T {
        self.nodes[number as usize].as_mut().expect("a node that is linked to exists")
    }

    pub fn take(&mut self, number: u32) -> Box<T> {
        self.free.push(number);
        self.nodes[number as usize].take().expect("a node that is linked to exists")
    }

    /// Bytes taken on the heap.
    pub fn memory(&self) -> usize {
        (self.nodes.len() - self.free.len()) * size_of::<T>()
            + self.nodes.capacity() * size_of::<Option<Box<T>>>()
            + self.free.capacity() * size_of::<u32>()
    }
}
