//! A beam search over the codes of each row: several candidate roundings side by side, of which the cheapest are kept.
//!
//! The cost of a candidate so far, `sum_p D_p u_p^2` with u the residual of the target at p, says how good the candidate
//! is, because the remaining columns cost every candidate the same on average. At every tile of columns each candidate
//! makes three proposals: its targets are rounded as they are, with noise added, and with the same noise subtracted. The
//! cheapest of all proposals become the candidates of the next tile. This is the M-algorithm of sequential decoding
//! (Anderson and Mohan 1984) with dithered rounding as its branches.
//!
//! Each vector lane is a row, so the beam holds arrays for each candidate. Candidates may differ only in the last
//! [`WINDOW`] columns. When a column leaves the window, the best candidate's code for this column becomes final, and
//! candidates that disagree are removed.

use std::ops::Range;

use super::scales::Format;
use super::state::{FactorizedBlock, GROUP, SUB_BLOCKS, StoredSubBlock, SubBlock};
use super::vector::{F32x16, ROWS, TILE, U32x16, dots, is_one_register};
use crate::simd::Vector;

/// Largest number of candidates of a row.
pub(super) const MAX_WIDTH: usize = 8;
/// Signs of the noise in the proposals of a candidate.
const SIGNS: [f32; 3] = [0.0, 1.0, -1.0];
/// Number of columns in which candidates may differ.
const WINDOW: usize = 32;
/// Bits of a code in a word. Formats with larger codes are so fine that no other code is ever better.
const CODE_BITS: usize = 7;
/// Position of the parent (the candidate that a proposal continues) in a word, above the codes of a tile.
const PARENT: u32 = (CODE_BITS * TILE) as u32;

/// The candidates of each row, in ascending order of cost. An infinite cost marks a place without a candidate.
#[derive(Default)]
pub(super) struct Beam {
    cost: [F32x16; MAX_WIDTH],
    /// The columns in which candidates may differ, by position in the group.
    window: Range<usize>,
    /// Residuals of the group: for each column those of all candidates.
    e: Vec<F32x16>,
    /// Codes of the group: for each tile those of all candidates.
    codes: Vec<U32x16>,
}

/// The cheapest proposals so far, in ascending order of cost: their costs, and their codes with their parents.
#[derive(Clone, Copy)]
struct Cheapest<V: Vector, const M: usize> {
    cost: [V::F; M],
    word: [V::U; M],
}

/// The next [`TILE`] columns.
pub(super) struct Tile<'a> {
    /// Position of the first column.
    pub at: usize,
    /// Position of the first column of the group.
    pub group: usize,
    pub subs: &'a [StoredSubBlock; SUB_BLOCKS],
    /// Weights by column.
    pub w: &'a [F32x16],
    /// Targets by column, which the groups before leave to the group.
    pub targets: &'a [F32x16],
    /// Noise by column, in quantization steps.
    pub noise: &'a [F32x16],
}

/// Receives the columns whose codes are final.
pub(super) struct FinalColumns<'a> {
    /// Codes by column.
    pub q: &'a mut [F32x16],
    /// Residuals by column.
    pub e: &'a mut [F32x16],
    /// Residuals by position.
    pub e_by_position: &'a mut [F32x16],
}

/// Returns whether the codes of a format fit into [`CODE_BITS`].
pub(super) fn supports(format: &Format) -> bool {
    let limit = ((1 << CODE_BITS) / 2) as f32;
    -limit <= format.codes.0 && format.codes.1 < limit
}

impl Beam {
    /// Starts with one candidate whose cost is zero.
    pub fn reset(&mut self) {
        self.window = 0..0;
        self.e.resize(GROUP * MAX_WIDTH, F32x16::default());
        self.codes.resize(GROUP / TILE * MAX_WIDTH, U32x16::default());
        self.cost[0] = F32x16::default();
        self.keep_best_only();
    }

    /// Removes all candidates but the best.
    fn keep_best_only(&mut self) {
        self.cost[1..].fill(F32x16([f32::INFINITY; ROWS]));
    }

    /// Returns the cost of the best candidate of each row.
    pub fn cost(&self) -> F32x16 {
        self.cost[0]
    }

    /// Adds the columns of a tile to at most M candidates. Columns that leave the window become final.
    #[inline(always)]
    pub fn advance<V: Vector, const M: usize>(
        &mut self,
        v: V,
        block: FactorizedBlock<'_>,
        tile: &Tile<'_>,
        to: &mut FinalColumns<'_>,
    ) {
        let (mut columns, mut subs) = ([0; TILE], [0; TILE]);
        for i in 0..TILE {
            columns[i] = block.order[tile.at + i] as usize;
            subs[i] = (columns[i] - tile.group) / block.format.sub;
        }
        let cheapest = self.propose::<V, M>(v, block, tile, (&columns, &subs), to.e_by_position);
        self.replace(v, cheapest, tile, (&columns, &subs));
        if self.window.len() > WINDOW {
            self.finalize::<V, M>(v, block, tile.group, TILE, to);
            self.prune_diverged::<V, M>(v);
        }
    }

    /// Makes the rest of the window final as the best candidate has it, and removes the other candidates. `group` is the
    /// position of the first column of the group.
    #[inline(always)]
    pub fn finish<V: Vector, const M: usize>(
        &mut self,
        v: V,
        block: FactorizedBlock<'_>,
        group: usize,
        to: &mut FinalColumns<'_>,
    ) {
        self.finalize::<V, M>(v, block, group, self.window.len(), to);
        self.window = 0..0;
        self.keep_best_only();
    }

    /// Writes the best candidate's first `n` columns of the window.
    #[inline(always)]
    fn finalize<V: Vector, const M: usize>(
        &self,
        v: V,
        block: FactorizedBlock<'_>,
        group: usize,
        n: usize,
        to: &mut FinalColumns<'_>,
    ) {
        for at in (self.window.start..self.window.start + n).step_by(TILE) {
            let codes = codes(v, v.load_u32(&self.codes[at / TILE * M].0));
            for i in 0..TILE {
                let (e, column) = (self.e[(at + i) * M], block.order[group + at + i] as usize);
                v.store(codes[i], &mut to.q[column].0);
                to.e[column] = e;
                to.e_by_position[group + at + i] = e;
            }
        }
    }

    /// Removes the candidates that differ from the best one in the first tile of the window, then moves the window past
    /// this tile.
    #[inline(always)]
    fn prune_diverged<V: Vector, const M: usize>(&mut self, v: V) {
        let codes = &self.codes[self.window.start / TILE * M..][..M];
        let best = v.load_u32(&codes[0].0);
        for s in 1..M {
            let agrees = v.eq_u32(v.load_u32(&codes[s].0), best);
            let cost = v.select(agrees, v.load(&self.cost[s].0), v.splat(f32::INFINITY));
            v.store(cost, &mut self.cost[s].0);
        }
        self.window.start += TILE;
    }

    /// Returns the cheapest of all proposals for a tile.
    #[inline(always)]
    fn propose<V: Vector, const M: usize>(
        &self,
        v: V,
        block: FactorizedBlock<'_>,
        tile: &Tile<'_>,
        (columns, subs): (&[usize; TILE], &[usize; TILE]),
        e_by_position: &[F32x16],
    ) -> Cheapest<V, M> {
        let (p, fixed) = (tile.at, tile.group + self.window.start);
        let mut common = [v.splat(0.0); TILE];
        for i in 0..TILE {
            common[i] = v.load(&tile.targets[columns[i]].0);
        }
        let common =
            dots(v, block.a, block.stride, (p, tile.group), &e_by_position[tile.group..fixed], common);
        let mut cheapest = Cheapest { cost: [v.splat(f32::INFINITY); M], word: [v.splat_u32(0); M] };
        let targets = self.window_dots::<V, M>(v, block, p, common);
        for s in 0..M {
            let cost = v.load(&self.cost[s].0);
            let parent = v.splat_u32((s as u32) << PARENT);
            for sign in SIGNS {
                let (cost, codes) = round(v, block, tile, (columns, subs), targets[s], sign, cost);
                cheapest.insert(v, cost, v.or(codes, parent));
            }
        }
        cheapest
    }

    /// Returns `sums` plus the dot products with the columns of the window, as each candidate has them.
    #[inline(always)]
    fn window_dots<V: Vector, const M: usize>(
        &self,
        v: V,
        block: FactorizedBlock<'_>,
        p: usize,
        sums: [V::F; TILE],
    ) -> [[V::F; TILE]; M] {
        let mut all = [sums; M];
        if is_one_register::<V>() {
            for s in (0..M).step_by(2) {
                self.add_window_dots::<V, M, 2>(v, block, p, s, &mut all);
            }
        } else {
            for s in 0..M {
                self.add_window_dots::<V, M, 1>(v, block, p, s, &mut all);
            }
        }
        all
    }

    /// Adds the dot products of `C` candidates from `first` on. M is 2, 4 or 8.
    #[inline(always)]
    fn add_window_dots<V: Vector, const M: usize, const C: usize>(
        &self,
        v: V,
        block: FactorizedBlock<'_>,
        p: usize,
        first: usize,
        all: &mut [[V::F; TILE]; M],
    ) {
        let window = self.e[self.window.start * M..self.window.end * M].as_chunks::<M>().0;
        let at = p * block.stride + p - window.len();
        let rows: [&[f32]; TILE] = [0, 1, 2, 3].map(|c| &block.a[at + c * block.stride..][..window.len()]);
        let mut sums = [[v.splat(0.0); TILE]; C];
        sums.copy_from_slice(&all[first..first + C]);
        for i in 0..window.len() {
            let mut e = [v.splat(0.0); C];
            for c in 0..C {
                e[c] = v.load(&window[i][first + c].0);
            }
            for row in 0..TILE {
                let a = v.splat(rows[row][i]);
                for c in 0..C {
                    sums[c][row] = v.mul_add(a, e[c], sums[c][row]);
                }
            }
        }
        all[first..first + C].copy_from_slice(&sums);
    }

    /// Replaces the beam by the `M` cheapest proposals.
    #[inline(always)]
    fn replace<V: Vector, const M: usize>(
        &mut self,
        v: V,
        cheapest: Cheapest<V, M>,
        tile: &Tile<'_>,
        (columns, subs): (&[usize; TILE], &[usize; TILE]),
    ) {
        for s in 0..M {
            v.store(cheapest.cost[s], &mut self.cost[s].0);
        }
        let columns_of_window = self.window.start * M..self.window.end * M;
        for e in self.e[columns_of_window].as_chunks_mut::<M>().0 {
            let mut old = [v.splat(0.0); M];
            for s in 0..M {
                old[s] = v.load(&e[s].0);
            }
            for s in 0..M {
                let parent = v.shr::<PARENT>(cheapest.word[s]);
                let mut new = old[0];
                for other in 1..M {
                    new = v.select(v.eq_u32(parent, v.splat_u32(other as u32)), old[other], new);
                }
                v.store(new, &mut e[s].0);
            }
        }
        let tiles_of_window = self.window.start / TILE * M..self.window.end / TILE * M;
        for codes in self.codes[tiles_of_window].as_chunks_mut::<M>().0 {
            let mut old = [v.splat_u32(0); M];
            for s in 0..M {
                old[s] = v.load_u32(&codes[s].0);
            }
            for s in 0..M {
                let parent = v.shr::<PARENT>(cheapest.word[s]);
                let mut new = old[0];
                for other in 1..M {
                    new = v.select_u32(v.eq_u32(parent, v.splat_u32(other as u32)), old[other], new);
                }
                v.store_u32(new, &mut codes[s].0);
            }
        }
        for s in 0..M {
            let word = v.and(cheapest.word[s], v.splat_u32((1 << PARENT) - 1));
            v.store_u32(word, &mut self.codes[self.window.end / TILE * M + s].0);
            let codes = codes(v, word);
            for i in 0..TILE {
                let value = SubBlock::load(v, &tile.subs[subs[i]]).values(v, codes[i]);
                let e = v.sub(v.load(&tile.w[columns[i]].0), value);
                v.store(e, &mut self.e[(self.window.end + i) * M + s].0);
            }
        }
        self.window.end += TILE;
    }
}

impl<V: Vector, const M: usize> Cheapest<V, M> {
    /// Inserts a proposal in order of cost.
    ///
    /// A proposal that costs exactly as much as an earlier one is taken for the same rounding and dropped. Two proposals of
    /// one candidate often are the same rounding, and comparing their codes would cost more. In rows of very few distinct
    /// values different roundings can have equal costs; then the beam loses one of two equally good candidates.
    #[inline(always)]
    fn insert(&mut self, v: V, mut cost: V::F, mut word: V::U) {
        for s in 0..M {
            let old = self.cost[s];
            cost = v.select(v.eq(cost, old), v.splat(f32::INFINITY), cost);
            let better = v.lt(cost, old);
            let old_word = self.word[s];
            self.word[s] = v.select_u32(better, word, old_word);
            word = v.select_u32(better, old_word, word);
            self.cost[s] = v.min(cost, old);
            cost = v.max(cost, old);
        }
    }
}

/// Rounds the targets `t` with `sign` times the noise. Returns the cost including these columns, and their codes.
#[inline(always)]
fn round<V: Vector>(
    v: V,
    block: FactorizedBlock<'_>,
    tile: &Tile<'_>,
    (columns, subs): (&[usize; TILE], &[usize; TILE]),
    mut t: [V::F; TILE],
    sign: f32,
    mut cost: V::F,
) -> (V::F, V::U) {
    let mut bits = [v.splat_u32(0); TILE];
    for i in 0..TILE {
        let sub = SubBlock::load(v, &tile.subs[subs[i]]);
        let mut target = t[i];
        if sign != 0.0 {
            let noise = v.mul(v.load(&tile.noise[columns[i]].0), v.splat(sign));
            target = v.mul_add(noise, sub.step, target);
        }
        let q = sub.codes(v, block.format, target);
        let value = sub.values(v, q);
        let u = v.sub(t[i], value);
        cost = v.mul_add(v.mul(u, v.splat(block.d[tile.at + i])), u, cost);
        bits[i] = v.and(v.to_i32(q), v.splat_u32((1 << CODE_BITS) - 1));
        let e = v.sub(v.load(&tile.w[columns[i]].0), value);
        for k in i + 1..TILE {
            t[k] = v.mul_add(v.splat(block.a[(tile.at + k) * block.stride + tile.at + i]), e, t[k]);
        }
    }
    let [a, b, c, d] = bits;
    let (low, high) = (v.or(a, v.shl::<N>(b)), v.or(v.shl::<{ 2 * N }>(c), v.shl::<{ 3 * N }>(d)));
    (cost, v.or(low, high))
}

/// Bits of a word above its lowest code.
const REST: u32 = 32 - CODE_BITS as u32;
/// [`CODE_BITS`], as a number of bits to shift by.
const N: u32 = CODE_BITS as u32;

/// Returns the codes in a word.
#[inline(always)]
fn codes<V: Vector>(v: V, word: V::U) -> [V::F; TILE] {
    [
        code(v, v.shl::<REST>(word)),
        code(v, v.shl::<{ REST - N }>(word)),
        code(v, v.shl::<{ REST - 2 * N }>(word)),
        code(v, v.shl::<{ REST - 3 * N }>(word)),
    ]
}

/// Returns the code in the highest bits of a word.
#[inline(always)]
fn code<V: Vector>(v: V, word: V::U) -> V::F {
    v.from_i32(v.shr_i32::<REST>(word))
}

const _: () = assert!(TILE == 4 && WINDOW.is_multiple_of(TILE) && CODE_BITS * TILE + 3 <= 32);
