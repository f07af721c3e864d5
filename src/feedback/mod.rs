//! Quantisation under the second moments of the inputs: residual feedback, dither, polish (section 5 of the design).
//!
//! Rows of a matrix do not depend on each other: [`ROWS`] of them are worked on side by side, one diagonal block of H
//! after another. Cost per weight, for blocks of B: `B / 2` fused multiply-adds for a trajectory of feedback and B for
//! a round of polish.

#![expect(
    clippy::needless_range_loop,
    reason = "several arrays of registers are walked side by side, in what must be inlined"
)]

mod factor;
mod grid;
mod lanes;
mod order;
mod polish;
#[cfg(target_arch = "x86_64")]
mod simd;
mod solve;
mod survivors;
#[cfg(test)]
mod tests;

use serde::Deserialize;

pub use factor::{DAMPING, Factor};
use grid::Format;
use lanes::{Lane, Plain, ROWS};
use solve::{Moments, Steps, Work};

use crate::dtype::GgmlType;
use crate::noise::Noise;
use crate::simd_level::{Level, level};

/// What is done to a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Diffuse residuals; without it the columns are rounded one by one.
    pub feedback: bool,
    /// Rounds of coordinate descent on scales and codes.
    pub polish: usize,
    /// K, the partial solutions of each row that go on side by side; at most [`MOST_PROPOSALS`]. 1: no noise.
    pub proposals: usize,
    /// Amplitude of the noise in steps; `None` asks for the best of [`TAUS`] for each tensor.
    pub tau: Option<f32>,
    /// Noise that nothing is compared with: for the ablation only.
    pub unselected: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { feedback: true, polish: 2, proposals: 4, tau: None, unselected: false }
    }
}

/// More partial solutions than these are not kept.
pub const MOST_PROPOSALS: usize = survivors::MOST;
/// Amplitudes that are tried on a sample of a tensor's rows.
pub const TAUS: [f32; 3] = [0.1, 0.2, 0.3];
/// What noise must gain on the sample to be used: less is chance.
const WORTH: f64 = 0.999;

/// Which rows these are, for their noise.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    pub weights: &'a [f32],
    pub noise: &'a Noise,
    /// Number of the first one in its tensor.
    pub first: u64,
}

/// Whether [`quantize_rows`] has feedback for the type.
pub fn supports(ty: GgmlType) -> bool {
    use GgmlType::*;
    matches!(ty, Q4_K | Q5_K | Q6_K | Q4_0 | Q4_1 | Q5_0 | Q5_1 | Q8_0)
}

/// Quantises whole rows of `factor`'s length. Returns the sum of J over the rows.
///
/// # Panics
/// If [`supports`] is false for the type or the lengths do not agree.
pub fn quantize_rows(
    ty: GgmlType,
    rows: Rows<'_>,
    factor: &Factor,
    options: &Options,
    out: &mut [u8],
) -> f64 {
    match ty {
        GgmlType::Q4_K => quantize_as::<grid::Q4K>(rows, factor, options, out),
        GgmlType::Q5_K => quantize_as::<grid::Q5K>(rows, factor, options, out),
        GgmlType::Q6_K => quantize_as::<grid::Q6K>(rows, factor, options, out),
        GgmlType::Q4_0 => quantize_as::<grid::Q40>(rows, factor, options, out),
        GgmlType::Q4_1 => quantize_as::<grid::Q41>(rows, factor, options, out),
        GgmlType::Q5_0 => quantize_as::<grid::Q50>(rows, factor, options, out),
        GgmlType::Q5_1 => quantize_as::<grid::Q51>(rows, factor, options, out),
        GgmlType::Q8_0 => quantize_as::<grid::Q80>(rows, factor, options, out),
        _ => panic!("no feedback for {}", ty.name()),
    }
}

/// `options` with the amplitude of [`TAUS`] that costs the least on `rows`, a sample of the tensor; one proposal without
/// noise where none gains.
pub fn calibrated(ty: GgmlType, rows: Rows<'_>, factor: &Factor, options: &Options) -> Options {
    if options.tau.is_some() || options.proposals <= 1 {
        return *options;
    }
    let mut out = vec![0; ty.row_bytes(rows.weights.len() as u64).expect("whole rows") as usize];
    let plain = Options { proposals: 1, tau: Some(0.0), ..*options };
    let mut best = (WORTH * quantize_rows(ty, rows, factor, &plain, &mut out), plain);
    for tau in TAUS {
        let noisy = Options { tau: Some(tau), ..*options };
        let cost = quantize_rows(ty, rows, factor, &noisy, &mut out);
        if cost < best.0 {
            best = (cost, noisy);
        }
    }
    best.1
}

fn quantize_as<F: Format>(rows: Rows<'_>, factor: &Factor, options: &Options, out: &mut [u8]) -> f64 {
    let n = factor.n;
    let row_bytes = n / F::BLOCK * F::TYPE.block_bytes();
    assert!(rows.weights.len().is_multiple_of(n) && out.len() == rows.weights.len() / n * row_bytes);
    let mut job = Job { factor, options, work: Work::default() };
    let mut total = 0.0;
    let groups = rows.weights.chunks(ROWS * n).zip(out.chunks_mut(ROWS * row_bytes));
    for (i, (weights, out)) in groups.enumerate() {
        let first = rows.first + (i * ROWS) as u64;
        let cost = job.group::<F>(Rows { weights, first, ..rows }, out);
        total += cost.iter().take(weights.len() / n).map(|&c| f64::from(c)).sum::<f64>();
    }
    total
}

struct Job<'a> {
    factor: &'a Factor,
    options: &'a Options,
    work: Work,
}

impl Job<'_> {
    /// At most [`ROWS`] rows. Returns the cost of each; that of missing ones means nothing.
    fn group<F: Format>(&mut self, rows: Rows<'_>, out: &mut [u8]) -> [f32; ROWS] {
        let mut total = [0.0; ROWS];
        for &(start, len) in &self.factor.blocks {
            self.work.resize::<F>(len);
            let pieces = rows.weights.chunks_exact(self.factor.n).map(|row| &row[start..start + len]);
            for (to, from) in self.work.rows.chunks_exact_mut(len).zip(pieces) {
                to.copy_from_slice(from);
            }
            let steps = Steps {
                feedback: self.options.feedback,
                proposals: self.options.proposals.max(1),
                unselected: self.options.unselected,
                polish: self.options.polish,
            };
            let tau = self.options.tau.unwrap_or(0.0);
            let mut draw = |noise: &mut [Lane]| draw(rows, tau, start, noise);
            shell::<F>(level(), self.factor.moments(start, len), steps, &mut draw, &mut self.work);
            total.iter_mut().zip(&self.work.cost.0).for_each(|(total, cost)| *total += cost);
            self.write::<F>((start, len), out);
        }
        total
    }

    /// Writes the blocks of the columns `start .. start + len`.
    fn write<F: Format>(&self, (start, len): (usize, usize), out: &mut [u8]) {
        let row_bytes = self.factor.n / F::BLOCK * F::TYPE.block_bytes();
        let rows = out.chunks_exact_mut(row_bytes).zip(self.work.rows.chunks_exact(len));
        for (lane, (row, codes)) in rows.enumerate() {
            let blocks = row.chunks_exact_mut(F::TYPE.block_bytes()).skip(start / F::BLOCK);
            for ((grid, codes), block) in self.work.grids.iter().zip(codes.chunks(F::BLOCK)).zip(blocks) {
                F::write(grid, lane, codes, block);
            }
        }
    }
}

/// Noise for the columns from `start` on, in steps.
fn draw(rows: Rows<'_>, tau: f32, start: usize, noise: &mut [Lane]) {
    let mut row = vec![0.0; noise.len()];
    for l in 0..ROWS {
        rows.noise.fill(rows.first + l as u64, start as u64, &mut row);
        for (to, u) in noise.iter_mut().zip(&row) {
            to.0[l] = 2.0 * tau * u;
        }
    }
}

/// Runs the solver compiled for `level`.
fn shell<F: Format>(level: Level, m: Moments<'_>, steps: Steps, draw: solve::Draw<'_>, work: &mut Work) {
    #[cfg(target_arch = "x86_64")]
    if level >= Level::Avx2 {
        return simd::solve_avx2::<F>(m, steps, draw, work);
    }
    let _ = level;
    solve::solve::<F, _>(Plain, m, steps, draw, work);
}
