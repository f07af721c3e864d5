//! Dither with selection: several trajectories of each row side by side, of which the cheapest go on.
//!
//! What a trajectory has cost so far says how good it is, since what is to come costs every one of them the same on
//! average (`sum_p D_p u_p^2` with u the residual of the target at p). So at every tile of columns each survivor makes
//! three proposals, its targets plain, with noise added and with the same noise subtracted, and the cheapest of all
//! survive: the M-algorithm of sequential decoding (Anderson and Mohan 1984) with dithered rounding for its branches.
//!
//! Lanes are rows, so survivors are arrays: their residuals are kept apart for the last [`WINDOW`] columns. What lies
//! further back is the best one's; those that took another way there are dropped.

use std::ops::Range;

use super::grid::Format;
use super::lanes::{Lane, Lanes, ROWS, TILE, Word, dots};
use super::solve::{GROUP, Moments, SUBS, StoredSub, Sub};

/// Survivors at most.
pub(super) const MOST: usize = 8;
/// Signs of the noise in the proposals of a survivor.
const SIGNS: [f32; 3] = [0.0, 1.0, -1.0];
/// Columns that survivors may differ in.
const WINDOW: usize = 32;
/// Bits of a code in a word; formats with larger codes have nothing to choose between.
const CODE_BITS: usize = 7;
/// Above the codes of a tile: the survivor it goes on from.
const PARENT: i32 = (CODE_BITS * TILE) as i32;

/// The survivors of each row, ascending by cost; an infinite cost: there is none.
#[derive(Default)]
pub(super) struct Survivors {
    cost: [Lane; MOST],
    /// The columns of the group that survivors may differ in, by position in the group.
    open: Range<usize>,
    /// Residuals and codes of the group: for each column, or tile, those of all survivors.
    e: Vec<Lane>,
    codes: Vec<Word>,
}

/// The cheapest proposals so far, ascending: what they cost, and their codes with the survivor they go on from.
#[derive(Clone, Copy)]
struct Found<L: Lanes, const M: usize> {
    cost: [L::F; M],
    what: [L::W; M],
}

/// The next columns.
pub(super) struct Tile<'a> {
    /// Position of the first one, and the first of its group.
    pub at: usize,
    pub group: usize,
    pub subs: &'a [StoredSub; SUBS],
    /// By column: weights, and noise in steps.
    pub w: &'a [Lane],
    pub noise: &'a [Lane],
}

/// Where settled columns go: codes and residuals by column, residuals by position.
pub(super) struct Settled<'a> {
    pub q: &'a mut [Lane],
    pub e: &'a mut [Lane],
    pub by_position: &'a mut [Lane],
}

/// Whether the codes of a format are small enough to be kept here.
pub(super) fn fit<F: Format>() -> bool {
    let most = ((1 << CODE_BITS) / 2) as f32;
    -most <= F::CODES.0 && F::CODES.1 < most
}

impl Survivors {
    /// One survivor of no cost.
    pub fn reset(&mut self) {
        self.open = 0..0;
        self.e.resize(GROUP * MOST, Lane::default());
        self.codes.resize(GROUP / TILE * MOST, Word::default());
        self.cost[0] = Lane::default();
        self.forget_others();
    }

    fn forget_others(&mut self) {
        self.cost[1..].fill(Lane([f32::INFINITY; ROWS]));
    }

    /// Of the best.
    pub fn cost(&self) -> Lane {
        self.cost[0]
    }

    /// Takes the columns of a tile, M trajectories at most; what falls out of the window is settled.
    #[inline(always)]
    pub fn advance<F: Format, L: Lanes, const M: usize>(
        &mut self,
        l: L,
        m: Moments<'_>,
        tile: &Tile<'_>,
        to: &mut Settled<'_>,
    ) {
        let (mut columns, mut subs) = ([0; TILE], [0; TILE]);
        for i in 0..TILE {
            columns[i] = m.order[tile.at + i] as usize;
            subs[i] = (columns[i] - tile.group) / F::SUB;
        }
        let found = self.propose::<F, L, M>(l, m, tile, (&columns, &subs), to.by_position);
        self.select(l, found, tile, (&columns, &subs));
        if self.open.len() > WINDOW {
            self.settle::<L, M>(l, m, tile.group, TILE, to);
            self.drop_strangers::<L, M>(l);
        }
    }

    /// Settles what is open of the group at position `group` as the best has it; the others are dropped.
    #[inline(always)]
    pub fn finish<L: Lanes, const M: usize>(
        &mut self,
        l: L,
        m: Moments<'_>,
        group: usize,
        to: &mut Settled<'_>,
    ) {
        self.settle::<L, M>(l, m, group, self.open.len(), to);
        self.open = 0..0;
        self.forget_others();
    }

    /// Writes the best one's first `n` open columns.
    #[inline(always)]
    fn settle<L: Lanes, const M: usize>(
        &self,
        l: L,
        m: Moments<'_>,
        group: usize,
        n: usize,
        to: &mut Settled<'_>,
    ) {
        for at in (self.open.start..self.open.start + n).step_by(TILE) {
            let codes = codes(l, l.load_word(&self.codes[at / TILE * M]));
            for i in 0..TILE {
                let (e, column) = (self.e[(at + i) * M], m.order[group + at + i] as usize);
                l.store(codes[i], &mut to.q[column]);
                to.e[column] = e;
                to.by_position[group + at + i] = e;
            }
        }
    }

    /// Closes the first open tile and drops those survivors that had it otherwise than the best.
    #[inline(always)]
    fn drop_strangers<L: Lanes, const M: usize>(&mut self, l: L) {
        let codes = &self.codes[self.open.start / TILE * M..][..M];
        let best = l.load_word(&codes[0]);
        for s in 1..M {
            let same = l.same(l.load_word(&codes[s]), best);
            let cost = l.pick(same, l.load(&self.cost[s]), l.splat(f32::INFINITY));
            l.store(cost, &mut self.cost[s]);
        }
        self.open.start += TILE;
    }

    /// The cheapest of all proposals.
    #[inline(always)]
    fn propose<F: Format, L: Lanes, const M: usize>(
        &self,
        l: L,
        m: Moments<'_>,
        tile: &Tile<'_>,
        (columns, subs): (&[usize; TILE], &[usize; TILE]),
        by_position: &[Lane],
    ) -> Found<L, M> {
        let (p, settled) = (tile.at, tile.group + self.open.start);
        let mut common = [l.splat(0.0); TILE];
        for i in 0..TILE {
            common[i] = l.load(&tile.w[columns[i]]);
        }
        let common = dots(l, m.a, m.stride, (p, 0), &by_position[..settled], common);
        let mut found = Found { cost: [l.splat(f32::INFINITY); M], what: [l.word(0); M] };
        for s in 0..M {
            let t = self.open_dots::<L, M>(l, m, p, s, common);
            let cost = l.load(&self.cost[s]);
            let parent = l.word((s as u32) << PARENT);
            for sign in SIGNS {
                let (cost, what) = round::<F, L>(l, m, tile, (columns, subs), t, sign, cost);
                found.insert(l, cost, l.or(what, parent));
            }
        }
        found
    }

    /// [`dots`] with survivor `s`'s open columns.
    #[inline(always)]
    fn open_dots<L: Lanes, const M: usize>(
        &self,
        l: L,
        m: Moments<'_>,
        p: usize,
        s: usize,
        sums: [L::F; TILE],
    ) -> [L::F; TILE] {
        let open = self.e[self.open.start * M..self.open.end * M].as_chunks::<M>().0;
        let first = p * m.stride + p - open.len();
        let (a, b) = (&m.a[first..][..open.len()], &m.a[first + m.stride..][..open.len()]);
        let (c, d) = (&m.a[first + 2 * m.stride..][..open.len()], &m.a[first + 3 * m.stride..][..open.len()]);
        let [mut to_a, mut to_b, mut to_c, mut to_d] = sums;
        for i in 0..open.len() {
            let e = l.load(&open[i][s]);
            to_a = l.mul_add(l.splat(a[i]), e, to_a);
            to_b = l.mul_add(l.splat(b[i]), e, to_b);
            to_c = l.mul_add(l.splat(c[i]), e, to_c);
            to_d = l.mul_add(l.splat(d[i]), e, to_d);
        }
        [to_a, to_b, to_c, to_d]
    }

    /// What was found is what survives.
    #[inline(always)]
    fn select<L: Lanes, const M: usize>(
        &mut self,
        l: L,
        found: Found<L, M>,
        tile: &Tile<'_>,
        (columns, subs): (&[usize; TILE], &[usize; TILE]),
    ) {
        for s in 0..M {
            l.store(found.cost[s], &mut self.cost[s]);
        }
        let open = self.open.start * M..self.open.end * M;
        for e in self.e[open].as_chunks_mut::<M>().0 {
            let mut old = [l.splat(0.0); M];
            for s in 0..M {
                old[s] = l.load(&e[s]);
            }
            for s in 0..M {
                let parent = l.right::<PARENT>(found.what[s]);
                let mut new = old[0];
                for other in 1..M {
                    new = l.pick(l.same(parent, l.word(other as u32)), old[other], new);
                }
                l.store(new, &mut e[s]);
            }
        }
        let open = self.open.start / TILE * M..self.open.end / TILE * M;
        for codes in self.codes[open].as_chunks_mut::<M>().0 {
            let mut old = [l.word(0); M];
            for s in 0..M {
                old[s] = l.load_word(&codes[s]);
            }
            for s in 0..M {
                let parent = l.right::<PARENT>(found.what[s]);
                let mut new = l.word(0);
                for other in 0..M {
                    new = l.or(new, l.and(l.same(parent, l.word(other as u32)), old[other]));
                }
                l.store_word(new, &mut codes[s]);
            }
        }
        for s in 0..M {
            let what = l.and(found.what[s], l.word((1 << PARENT) - 1));
            l.store_word(what, &mut self.codes[self.open.end / TILE * M + s]);
            let codes = codes(l, what);
            for i in 0..TILE {
                let v = Sub::load(l, &tile.subs[subs[i]]).values(l, codes[i]);
                let e = l.sub(l.load(&tile.w[columns[i]]), v);
                l.store(e, &mut self.e[(self.open.end + i) * M + s]);
            }
        }
        self.open.end += TILE;
    }
}

impl<L: Lanes, const M: usize> Found<L, M> {
    /// Puts a proposal in its place; one that costs exactly what another does is the same one.
    #[inline(always)]
    fn insert(&mut self, l: L, mut cost: L::F, mut what: L::W) {
        for s in 0..M {
            let old = self.cost[s];
            cost = l.pick(l.equal(cost, old), l.splat(f32::INFINITY), cost);
            (what, self.what[s]) = l.swap(l.less(cost, old), what, self.what[s]);
            self.cost[s] = l.least(cost, old);
            cost = l.most(cost, old);
        }
    }
}

/// The codes for targets `t`, with noise times `sign`, and what they raise the cost to.
#[inline(always)]
fn round<F: Format, L: Lanes>(
    l: L,
    m: Moments<'_>,
    tile: &Tile<'_>,
    (columns, subs): (&[usize; TILE], &[usize; TILE]),
    mut t: [L::F; TILE],
    sign: f32,
    mut cost: L::F,
) -> (L::F, L::W) {
    let mut bits = [l.word(0); TILE];
    for i in 0..TILE {
        let sub = Sub::load(l, &tile.subs[subs[i]]);
        let mut wanted = t[i];
        if sign != 0.0 {
            let noise = l.mul(l.load(&tile.noise[columns[i]]), l.splat(sign));
            wanted = l.mul_add(noise, sub.step, wanted);
        }
        let q = sub.codes::<F>(l, wanted);
        let v = sub.values(l, q);
        let u = l.sub(t[i], v);
        cost = l.mul_add(l.mul(u, l.splat(m.d[tile.at + i])), u, cost);
        bits[i] = l.low_bits(q, CODE_BITS);
        let e = l.sub(l.load(&tile.w[columns[i]]), v);
        for k in i + 1..TILE {
            t[k] = l.mul_add(l.splat(m.a[(tile.at + k) * m.stride + tile.at + i]), e, t[k]);
        }
    }
    let [a, b, c, d] = bits;
    let (low, high) = (l.or(a, l.left::<N>(b)), l.or(l.left::<{ 2 * N }>(c), l.left::<{ 3 * N }>(d)));
    (cost, l.or(low, high))
}

const REST: i32 = 32 - CODE_BITS as i32;
const N: i32 = CODE_BITS as i32;

/// The codes of a word.
#[inline(always)]
fn codes<L: Lanes>(l: L, word: L::W) -> [L::F; TILE] {
    [
        code(l, l.left::<REST>(word)),
        code(l, l.left::<{ REST - N }>(word)),
        code(l, l.left::<{ REST - 2 * N }>(word)),
        code(l, l.left::<{ REST - 3 * N }>(word)),
    ]
}

/// The code in the highest bits.
#[inline(always)]
fn code<L: Lanes>(l: L, word: L::W) -> L::F {
    l.floats(l.right_signed::<REST>(word))
}

const _: () = assert!(TILE == 4 && WINDOW.is_multiple_of(TILE) && CODE_BITS * TILE + 3 <= 32);
