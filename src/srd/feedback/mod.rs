//! Quantisation under the second moments of the inputs: residual feedback, dither, polish (section 5 of the design).
//!
//! Rows of a matrix do not depend on each other: [`ROWS`] of them are worked on side by side, one diagonal block of H
//! after another. Cost per weight, for blocks of B: `B / 2` fused multiply-adds for the feedback and about `3 B` for a
//! round of polish.

mod grid;
mod lanes;
#[cfg(target_arch = "x86_64")]
mod simd;
mod solve;
#[cfg(test)]
mod tests;

use serde::Deserialize;

use grid::Format;
use lanes::{Lane, ROWS, ZERO};
use solve::{Moments, Steps, Work};

use crate::dtype::GgmlType;
use crate::error::Result;
use crate::linalg::gemm::Mat;
use crate::linalg::ldl;
use crate::quant::search::normalised_importance;
use crate::simd_level::{Level, level};
use crate::srd::calibration::SecondMoments;
use crate::srd::noise::Noise;

/// What is done to a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Diffuse residuals; without it the columns are rounded one by one.
    pub feedback: bool,
    /// Rounds of coordinate descent: on the codes, before each but the first also on the scales.
    pub polish: usize,
    /// Trajectories, of which each row keeps the best for each block of H; the first has no noise.
    pub proposals: usize,
    /// Amplitude of the noise in steps; `None` asks for the best of [`TAUS`] for each tensor.
    pub tau: Option<f32>,
    /// Noise on a single trajectory that nothing is compared with: for the ablation only.
    pub unselected: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { feedback: true, polish: 3, proposals: 4, tau: None, unselected: false }
    }
}

/// Amplitudes that are tried on a sample of a tensor's rows.
pub const TAUS: [f32; 4] = [0.03, 0.06, 0.12, 0.2];
/// What noise must gain on the sample to be used: less is chance.
const WORTH: f64 = 0.999;

/// Share of the mean diagonal that is added to it.
pub const DAMPING: f32 = 0.01;

/// The second moments of a tensor's inputs, factored for [`quantize_rows`].
#[derive(Debug)]
pub struct Factor {
    n: usize,
    block: usize,
    /// `[n, block]`, damped.
    h: Vec<f32>,
    /// `[n, block]`, strictly upper in each block.
    a: Vec<f32>,
    importance: Vec<f32>,
    blocks: Vec<(usize, usize)>,
}

impl Factor {
    /// `damping`: share of the mean diagonal that is added to it. `None` if nothing is known: all moments are zero.
    ///
    /// # Errors
    /// [`Error::NonFinite`](crate::Error::NonFinite) if a moment is not finite.
    pub fn new(moments: SecondMoments, damping: f32) -> Result<Option<Self>> {
        let (n, block, diagonal) = (moments.n, moments.block, moments.diagonal());
        let Some(importance) = normalised_importance(&diagonal) else { return Ok(None) };
        let mean = diagonal.iter().map(|&v| f64::from(v)).sum::<f64>() / n as f64;
        let blocks: Vec<_> = moments.blocks().collect();
        let (mut h, mut a) = (moments.values, vec![0.0; n * block]);
        for i in 0..n {
            h[i * block + i % block] += (f64::from(damping) * mean) as f32;
        }
        for &(start, len) in &blocks {
            let at = start * block;
            let view = Mat { data: &h[at..], rows: len, cols: len, row_stride: block, col_stride: 1 };
            if let Some(factors) = ldl::factorise(view, 0.0)? {
                for (to, from) in a[at..].chunks_mut(block).zip(factors.a.chunks_exact(len)) {
                    to[..len].copy_from_slice(from);
                }
            }
        }
        Ok(Some(Self { n, block, h, a, importance, blocks }))
    }

    /// Memory that a factor takes.
    pub fn bytes(n: usize, block: usize) -> u64 {
        2 * (n * block * size_of::<f32>()) as u64
    }

    fn moments(&self, start: usize, len: usize) -> Moments<'_> {
        let at = start * self.block..(start + len) * self.block;
        Moments {
            len,
            stride: self.block,
            h: &self.h[at.clone()],
            a: &self.a[at],
            importance: &self.importance[start..start + len],
        }
    }
}

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
    let mut job = Job { factor, options, work: Work::default(), noise: Vec::new(), best: Best::default() };
    let mut total = 0.0;
    let groups = rows.weights.chunks(ROWS * n).zip(out.chunks_mut(ROWS * row_bytes));
    for (i, (weights, out)) in groups.enumerate() {
        let first = rows.first + (i * ROWS) as u64;
        let cost = job.group::<F>(Rows { weights, first, ..rows }, out);
        total += cost.iter().take(weights.len() / n).map(|&c| f64::from(c)).sum::<f64>();
    }
    total
}

/// The best of several proposals.
#[derive(Default)]
struct Best {
    cost: Lane,
    q: Vec<Lane>,
    grids: Vec<grid::Grid>,
}

struct Job<'a> {
    factor: &'a Factor,
    options: &'a Options,
    work: Work,
    noise: Vec<Lane>,
    best: Best,
}

impl Job<'_> {
    /// At most [`ROWS`] rows; missing ones are zeros that nobody reads.
    fn group<F: Format>(&mut self, rows: Rows<'_>, out: &mut [u8]) -> Lane {
        let mut total = ZERO;
        for &(start, len) in &self.factor.blocks {
            self.work.resize::<F>(len);
            for (j, to) in self.work.w.iter_mut().enumerate() {
                *to = ZERO;
                for (to, row) in to.iter_mut().zip(rows.weights.chunks_exact(self.factor.n)) {
                    *to = row[start + j];
                }
            }
            self.proposals::<F>(rows, start, len);
            total.iter_mut().zip(&self.best.cost).for_each(|(total, cost)| *total += cost);
            self.write::<F>(start, out);
        }
        total
    }

    fn proposals<F: Format>(&mut self, rows: Rows<'_>, start: usize, len: usize) {
        let m = self.factor.moments(start, len);
        let steps = Steps { feedback: self.options.feedback, polish: self.options.polish };
        for k in 0..self.options.proposals.max(1) {
            let noisy = k > 0 || self.options.unselected;
            if noisy {
                self.draw(rows, k as u64, start, len);
            }
            let noise = noisy.then_some(self.noise.as_slice());
            let cost = shell::<F>(level(), m, steps, noise, &mut self.work);
            self.keep(k == 0, &cost);
        }
    }

    /// Noise of proposal `k`.
    fn draw(&mut self, rows: Rows<'_>, k: u64, start: usize, len: usize) {
        self.noise.resize(len, ZERO);
        let tau = self.options.tau.unwrap_or(0.0);
        let mut row = vec![0.0; len];
        for l in 0..ROWS {
            rows.noise.fill((rows.first + l as u64) | k << 48, start as u64, &mut row);
            for (to, u) in self.noise.iter_mut().zip(&row) {
                to[l] = 2.0 * tau * u;
            }
        }
    }

    /// Takes over the rows of `work` that cost less than the best so far, or all.
    fn keep(&mut self, all: bool, cost: &Lane) {
        if all {
            self.best.cost = *cost;
            self.best.q.clone_from(&self.work.q);
            self.best.grids.clone_from(&self.work.grids);
            return;
        }
        let better: [bool; ROWS] = std::array::from_fn(|l| cost[l] < self.best.cost[l]);
        let take = |to: &mut Lane, from: &Lane| {
            for l in 0..ROWS {
                if better[l] {
                    to[l] = from[l];
                }
            }
        };
        take(&mut self.best.cost, cost);
        self.best.q.iter_mut().zip(&self.work.q).for_each(|(to, from)| take(to, from));
        for (to, from) in self.best.grids.iter_mut().zip(&self.work.grids) {
            take(&mut to.d, &from.d);
            take(&mut to.dmin, &from.dmin);
            to.scale.iter_mut().zip(&from.scale).for_each(|(to, from)| take(to, from));
            to.min.iter_mut().zip(&from.min).for_each(|(to, from)| take(to, from));
        }
    }

    fn write<F: Format>(&self, start: usize, out: &mut [u8]) {
        let row_bytes = self.factor.n / F::BLOCK * F::TYPE.block_bytes();
        let mut codes = vec![0.0; F::BLOCK];
        for (l, row) in out.chunks_exact_mut(row_bytes).enumerate() {
            let blocks = row.chunks_exact_mut(F::TYPE.block_bytes()).skip(start / F::BLOCK);
            for ((grid, q), block) in self.best.grids.iter().zip(self.best.q.chunks(F::BLOCK)).zip(blocks) {
                for (code, q) in codes.iter_mut().zip(q) {
                    *code = q[l];
                }
                F::write(grid, l, &codes, block);
            }
        }
    }
}

/// Runs the solver compiled for `level`.
fn shell<F: Format>(
    level: Level,
    m: Moments<'_>,
    steps: Steps,
    noise: Option<&[Lane]>,
    work: &mut Work,
) -> Lane {
    #[cfg(target_arch = "x86_64")]
    if level >= Level::Avx2 {
        return simd::solve_avx2::<F>(m, steps, noise, work);
    }
    let _ = level;
    solve::solve::<F>(m, steps, noise, work)
}
