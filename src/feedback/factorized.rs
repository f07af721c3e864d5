//! The second moments of a tensor's inputs, factorized for the solver.

use rayon::prelude::*;

use super::pivot_order::pivot_order;
use super::scales::Format;
use super::state::FactorizedBlock;
use crate::error::Result;
use crate::formats::calibration::SecondMoments;
use crate::linalg::matrix::MatRef;
use crate::linalg::udu;
use crate::quant::weighting::normalize;
use crate::simd::{Isa, dispatch};

/// The share of the mean diagonal that is added to the diagonal before the factorization. It is a tenth of the share of GPTQ
/// (Frantar et al. 2022), because [`shrinkage`] comes first. `docs/decisions/0010-damping.md` has the measurement.
pub const DAMPING: f32 = 0.001;

/// The largest share by which second moments are shrunk to their diagonal.
const MAX_SHRINKAGE: f32 = 0.3;
/// The number of tokens per side of a block of H up to which the moments are shrunk by [`MAX_SHRINKAGE`].
const TOKENS_PER_SIDE: f32 = 16.0;

/// Number of rows that are multiplied by H or by its inverse together.
const LANES: usize = 32;
/// Number of rows of H that a row is multiplied by at a time.
const UNROLLED: usize = 4;

/// Returns the share by which the moments of a block of side `block` are shrunk to their diagonal before the solver uses
/// them: the mean over `tokens` tokens fits these tokens better than other text, and the more so the fewer tokens there
/// are for each of the block's `block` inputs. `docs/decisions/0009-shrinkage.md` has the measurement.
///
/// ```
/// use srd_rs::feedback::shrinkage;
///
/// assert_eq!(shrinkage(2048, 8192), 0.3);
/// assert_eq!(shrinkage(256, 16384), 0.075);
/// ```
pub fn shrinkage(block: usize, tokens: u64) -> f32 {
    MAX_SHRINKAGE * (TOKENS_PER_SIDE * block as f32 / tokens.max(1) as f32).min(1.0)
}

/// The damped second moments H of a tensor's inputs with their factorization, for
/// [`quantize_rows`](super::quantize_rows).
#[derive(Debug)]
pub struct FactorizedMoments {
    pub(super) n: usize,
    pub(super) block: usize,
    /// H, `[n, block]`, damped, by column.
    pub(super) h: Vec<f32>,
    /// A, `[n, block]`, strictly lower in each block; rows and columns are positions.
    a: Vec<f32>,
    /// D, `[n]`, by position.
    d: Vec<f32>,
    /// The column of its block at each position.
    order: Vec<u32>,
    importance: Vec<f32>,
    /// First column and number of columns of each block.
    pub(super) blocks: Vec<(usize, usize)>,
}

impl FactorizedMoments {
    /// Factorizes `moments` after adding `damping` times the mean diagonal to the diagonal. Returns `None` if all moments
    /// are zero, because then nothing is known of the inputs.
    ///
    /// # Errors
    /// Returns [`Error::NonFinite`](crate::Error::NonFinite) if a moment is not finite.
    pub fn new(moments: SecondMoments, damping: f32) -> Result<Option<Self>> {
        let (n, block, diagonal) = (moments.n, moments.block, moments.diagonal());
        let Some(importance) = normalize(&diagonal) else { return Ok(None) };
        let mean = diagonal.iter().map(|&v| f64::from(v)).sum::<f64>() / n as f64;
        let blocks: Vec<_> = moments.blocks().collect();
        let mut all = Self {
            n,
            block,
            h: moments.values,
            a: vec![0.0; n * block],
            d: vec![0.0; n],
            order: Vec::with_capacity(n),
            importance,
            blocks,
        };
        for i in 0..n {
            all.h[i * block + i % block] += (f64::from(damping) * mean) as f32;
        }
        for (start, len) in all.blocks.clone() {
            all.factorize(start, len)?;
        }
        Ok(Some(all))
    }

    /// Chooses the order of a block's columns, and factorizes the block in this order.
    fn factorize(&mut self, start: usize, len: usize) -> Result<()> {
        let (at, stride) = (start * self.block, self.block);
        let h = &self.h[at..];
        let order = pivot_order(h, stride, len);
        let mut sorted = Vec::with_capacity(len * len);
        for &i in &order {
            let row = &h[i as usize * stride..][..len];
            sorted.extend(order.iter().map(|&j| row[j as usize]));
        }
        if let Some(udu) = udu::factorize(MatRef::from_row_major_slice(&sorted, len, len), 0.0)? {
            for (p, row) in self.a[at..].chunks_mut(stride).take(len).enumerate() {
                row.iter_mut().take(p).enumerate().for_each(|(k, to)| *to = udu.a[k * len + p]);
            }
            self.d[start..start + len].copy_from_slice(&udu.d);
        }
        self.order.extend(order);
        Ok(())
    }

    /// Multiplies whole rows by the inverse of H, in place. The columns of a block of H that is zero become zero.
    pub fn multiply_by_inverse(&self, rows: &mut [f32]) {
        rows.par_chunks_mut(LANES * self.n).for_each_init(Vec::new, |lanes, rows| {
            for &(start, len) in &self.blocks {
                self.solve(start, len, rows, lanes);
            }
        });
    }

    /// Solves `x H = b` for the rows b under one block of H. `lanes` is scratch memory.
    ///
    /// By position H is `U D U^T` with `U = I + A`, so that `(x U) D U^T = b` is solved from the last position to the first one,
    /// and then x from the first to the last.
    fn solve(&self, start: usize, len: usize, rows: &mut [f32], lanes: &mut Vec<[f32; LANES]>) {
        let (a, d) = (&self.a[start * self.block..], &self.d[start..start + len]);
        let order = &self.order[start..start + len];
        lanes.clear();
        lanes.resize(len, [0.0; LANES]);
        for (lane, row) in rows.chunks_exact(self.n).enumerate() {
            lanes.iter_mut().zip(order).for_each(|(v, &i)| v[lane] = row[start + i as usize]);
        }
        solve_lanes(Isa::detect(), a, d, self.block, lanes);
        for (lane, row) in rows.chunks_exact_mut(self.n).enumerate() {
            lanes.iter().zip(order).for_each(|(v, &i)| row[start + i as usize] = v[lane]);
        }
    }

    /// Returns the importance of each input: the diagonal of H, normalized to a mean of 1.
    pub fn importance(&self) -> &[f32] {
        &self.importance
    }

    /// Returns the sum of `w H w^T` over whole rows.
    pub fn energy(&self, rows: &[f32]) -> f64 {
        self.energies(rows.chunks_exact(self.n)).iter().sum()
    }

    /// Returns `w H w^T` for each of some rows.
    pub fn energies<'a>(&self, rows: impl IntoIterator<Item = &'a [f32]>) -> Vec<f64> {
        let rows: Vec<&[f32]> = rows.into_iter().collect();
        let (mut energies, mut products) = (vec![0.0; rows.len()], Vec::new());
        for (rows, energies) in rows.chunks(LANES).zip(energies.chunks_mut(LANES)) {
            for &(start, len) in &self.blocks {
                let h = &self.h[start * self.block..];
                let rows: Vec<&[f32]> = rows.iter().map(|row| &row[start..start + len]).collect();
                add_energies(Isa::detect(), h, self.block, &rows, &mut products, energies);
            }
        }
        energies
    }

    /// Returns the bytes that the factorized moments of `n` inputs in blocks of `block` keep.
    pub fn bytes(n: usize, block: usize) -> u64 {
        2 * (n * block * size_of::<f32>()) as u64
    }

    /// Returns the block of H of the columns `start .. start + len`, for weights of a format.
    pub(super) fn at(&self, start: usize, len: usize, format: &'static Format) -> FactorizedBlock<'_> {
        let at = start * self.block..(start + len) * self.block;
        FactorizedBlock {
            format,
            len,
            stride: self.block,
            h: &self.h[at.clone()],
            a: &self.a[at],
            d: &self.d[start..start + len],
            order: &self.order[start..start + len],
            importance: &self.importance[start..start + len],
        }
    }
}

dispatch! {
    /// Adds `w H w^T` of each row w to its energy. H is symmetric, so that the products with its rows are summed side by side.
    fn add_energies(
        _simd: S,
        h: &[f32],
        stride: usize,
        rows: &[&[f32]],
        products: &mut Vec<f32>,
        energies: &mut [f64],
    ) {
        let len = rows.first().map_or(0, |row| row.len());
        products.clear();
        products.resize(rows.len() * len, 0.0);
        let whole = len / UNROLLED * UNROLLED;
        for j in (0..whole).step_by(UNROLLED) {
            let of_h: [&[f32]; UNROLLED] = std::array::from_fn(|i| &h[(j + i) * stride..][..len]);
            for (w, products) in rows.iter().zip(products.chunks_exact_mut(len)) {
                let w: [f32; UNROLLED] = std::array::from_fn(|i| w[j + i]);
                for (column, to) in products.iter_mut().enumerate() {
                    for i in 0..UNROLLED {
                        *to += of_h[i][column] * w[i];
                    }
                }
            }
        }
        for j in whole..len {
            for (w, products) in rows.iter().zip(products.chunks_exact_mut(len)) {
                products.iter_mut().zip(&h[j * stride..]).for_each(|(to, &h)| *to += h * w[j]);
            }
        }
        for ((w, products), energy) in rows.iter().zip(products.chunks_exact(len)).zip(energies) {
            for (&w, &product) in w.iter().zip(products) {
                *energy += f64::from(w) * f64::from(product);
            }
        }
    }

    /// Solves `x (U D U^T) = b` in place for b by position: `lanes[p]` has position p of all rows.
    fn solve_lanes(_simd: S, a: &[f32], d: &[f32], stride: usize, lanes: &mut [[f32; LANES]]) {
        let len = lanes.len();
        for k in (0..len).rev() {
            let (before, from_k) = lanes.split_at_mut(k);
            let row = &a[k * stride..][..k];
            for (to, &a) in before.iter_mut().zip(row) {
                for lane in 0..LANES {
                    to[lane] -= a * from_k[0][lane];
                }
            }
        }
        for p in 0..len {
            let (before, from_p) = lanes.split_at_mut(p);
            let inverse = if d[p] > 0.0 { 1.0 / d[p] } else { 0.0 };
            let mut x = from_p[0];
            for lane in 0..LANES {
                x[lane] *= inverse;
            }
            let row = &a[p * stride..][..p];
            for (v, &a) in before.iter().zip(row) {
                for lane in 0..LANES {
                    x[lane] -= a * v[lane];
                }
            }
            from_p[0] = x;
        }
    }
}
