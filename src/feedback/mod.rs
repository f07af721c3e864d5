//! The solver: quantizes rows of weights so that the outputs of the matrix change least, given the second moments of its
//! inputs.
//!
//! For a row w and its quantized form v the cost is `J = (v - w) H (v - w)^T` with H = the mean of `x x^T` over
//! calibration inputs, in diagonal blocks. [`quantize_rows`] searches the scales of each block format, diffuses the residual
//! of each column into the later columns (GPTQ, Frantar et al. 2022, in the form of LDLQ, Chee et al. 2023), keeps the best
//! of several dithered candidates (the M-algorithm, Anderson and Mohan 1984), and improves scales and codes by coordinate
//! descent (QuantEase, Behdin et al. 2023). `docs/decisions/0005-feedback.md` has the measurements.
//!
//! Rows do not depend on each other; 16 rows are solved side by side, one block of H after another, and four times 16 rows take
//! the same steps one after another, so that the rows of H that a step needs are fetched once for all of them. Fused multiply-adds
//! for each weight, for blocks of H with B columns: B / 2 for feedback without a beam, and B for each round of coordinate
//! descent.
//!
//! ```
//! use srd_rs::dtype::GgmlType;
//! use srd_rs::feedback::{DAMPING, FactorizedMoments, Rows, SolverOptions, quantize_rows};
//! use srd_rs::formats::calibration::SecondMoments;
//! use srd_rs::noise::Noise;
//!
//! // Two rows of 256 weights, and moments in which neighbouring inputs are alike.
//! let weights: Vec<f32> = (0..512).map(|i| ((i * 37 % 101) as f32 - 50.0) / 100.0).collect();
//! let near = |i: usize, j: usize| 0.5f32.powi(i.abs_diff(j) as i32);
//! let values = (0..256 * 256).map(|at| near(at / 256, at % 256)).collect();
//! let moments = SecondMoments { n: 256, block: 256, values, tokens: 1000 };
//! let moments = FactorizedMoments::new(moments, DAMPING)?.expect("the moments are not all zero");
//!
//! let noise = Noise::new(0, "example");
//! let rows = Rows { weights: &weights, noise: &noise, first: 0 };
//! let mut blocks = [0; 2 * 144];
//! let best = quantize_rows(GgmlType::Q4_K, rows, &moments, &SolverOptions::default(), &mut blocks);
//! let rounded = SolverOptions { feedback: false, descent_rounds: 0, ..SolverOptions::default() };
//! assert!(best < quantize_rows(GgmlType::Q4_K, rows, &moments, &rounded, &mut blocks));
//! # Ok::<(), srd_rs::Error>(())
//! ```

#![expect(
    clippy::needless_range_loop,
    reason = "several arrays of registers are indexed side by side, in code that must be inlined"
)]

mod beam;
mod coordinate_descent;
mod factorized;
mod pivot_order;
mod scales;
mod solve;
mod state;
#[cfg(test)]
mod tests;
mod vector;
mod workspace;

use serde::Deserialize;

pub use factorized::{DAMPING, FactorizedMoments, shrinkage};
use scales::Format;
use state::{FactorizedBlock, NoiseSource};
use vector::{F32x16, ROWS, TOGETHER};
use workspace::Workspace;

use crate::dtype::GgmlType;
use crate::error::{Error, Result};
use crate::noise::Noise;
use crate::simd::{Isa, dispatch};

/// How much work the solver does for a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SolverOptions {
    /// Diffuses residuals into later columns. Without feedback every column is rounded alone.
    pub feedback: bool,
    /// Number of rounds of coordinate descent on scales and codes.
    pub descent_rounds: usize,
    /// K, the number of candidate roundings kept for each row (beam width): one of [`BEAM_WIDTHS`]. A width of 1 uses no
    /// noise.
    pub beam_width: usize,
    /// Amplitude of the noise, in quantization steps. `None` asks for the best of [`DITHER_AMPLITUDES`] for each tensor.
    pub dither: Option<f32>,
}

impl Default for SolverOptions {
    fn default() -> Self {
        Self { feedback: true, descent_rounds: 2, beam_width: 4, dither: None }
    }
}

impl SolverOptions {
    /// Checks that the solver can do what the options say.
    ///
    /// # Errors
    /// Returns [`Error::Usage`] if the beam width is none of [`BEAM_WIDTHS`], or if the amplitude of the noise is negative
    /// or not finite.
    pub fn check(&self) -> Result<()> {
        if !BEAM_WIDTHS.contains(&self.beam_width) {
            let what = format!("the solver has no beam of {} candidates", self.beam_width);
            return Err(Error::usage(what, "Choose 1, 2, 4 or 8 candidates"));
        }
        match self.dither {
            Some(dither) if !(dither.is_finite() && dither >= 0.0) => {
                let what = format!("the noise cannot have an amplitude of {dither} steps");
                Err(Error::usage(what, "Choose a number from 0 to 1, or leave the choice to the solver"))
            }
            _ => Ok(()),
        }
    }
}

/// The beam widths that the solver has.
pub const BEAM_WIDTHS: [usize; 4] = [1, 2, 4, beam::MAX_WIDTH];
/// The amplitudes, in quantization steps, that [`choose_dither`] tries on a sample of a tensor's rows.
pub const DITHER_AMPLITUDES: [f32; 3] = [0.1, 0.2, 0.3];
/// The share by which noise must lower the cost of the sample to be used. A smaller gain can be chance.
const MIN_GAIN: f64 = 0.001;

/// Rows of a tensor, with the source of their noise.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    /// Whole rows, one after another.
    pub weights: &'a [f32],
    /// The noise of the tensor.
    pub noise: &'a Noise,
    /// Number of the first row in its tensor, which selects its noise.
    pub first: u64,
}

/// Returns whether [`quantize_rows`] can quantize to the type.
pub fn supports(ty: GgmlType) -> bool {
    scales::format(ty).is_some()
}

/// Quantizes whole rows, each as long as the moments have columns, into packed blocks. Returns the sum of J over the rows.
///
/// The bytes depend on each row, its number and the moments alone: neither on the other rows nor on the CPU.
///
/// # Panics
/// Panics if [`supports`] is false for the type, if [`SolverOptions::check`] refuses the options, or if the lengths do not
/// agree.
pub fn quantize_rows(
    ty: GgmlType,
    rows: Rows<'_>,
    moments: &FactorizedMoments,
    options: &SolverOptions,
    out: &mut [u8],
) -> f64 {
    assert!(BEAM_WIDTHS.contains(&options.beam_width), "a beam of {} candidates", options.beam_width);
    let Some(format) = scales::format(ty) else { panic!("no feedback for {}", ty.name()) };
    let n = moments.n;
    let row_bytes = n / format.block * ty.block_bytes();
    assert!(rows.weights.len().is_multiple_of(n) && out.len() == rows.weights.len() / n * row_bytes);
    let (isa, dither) = (Isa::detect(), options.dither.unwrap_or(0.0));
    let mut costs = vec![[0.0f32; ROWS]; (rows.weights.len() / n).div_ceil(ROWS)];
    let mut workspaces: Vec<Workspace> = Vec::new();
    workspaces.resize_with(costs.len().min(TOGETHER), Workspace::default);
    // The blocks of H are the outer loop and groups of rows the inner loop, so that a block of H stays in the cache for all
    // rows.
    for &(start, len) in &moments.blocks {
        workspaces.iter_mut().for_each(|ws| ws.resize(format, len));
        let groups = rows.weights.chunks(ROWS * n).zip(out.chunks_mut(ROWS * row_bytes)).zip(&mut costs);
        let mut groups: Vec<_> = groups.collect();
        for (i, groups) in groups.chunks_mut(TOGETHER).enumerate() {
            let used = &mut workspaces[..groups.len()];
            for (ws, ((weights, _), _)) in used.iter_mut().zip(&*groups) {
                for (to, row) in ws.rows.chunks_exact_mut(len).zip(weights.chunks_exact(n)) {
                    to.copy_from_slice(&row[start..start + len]);
                }
            }
            let mut noise = |group: usize, to: &mut [F32x16]| {
                let first = rows.first + ((i * TOGETHER + group) * ROWS) as u64;
                fill_noise(rows.noise, first, start, dither, to);
            };
            solve_on(isa, moments.at(start, len, format), options, &mut noise, used);
            for (ws, ((_, out), costs)) in used.iter().zip(groups) {
                costs.iter_mut().zip(&ws.cost.0).for_each(|(sum, cost)| *sum += cost);
                pack(format, ws, start, len, row_bytes, out);
            }
        }
    }
    // A group of fewer rows than lanes has costs without meaning in the other lanes.
    costs.iter().flatten().take(rows.weights.len() / n).map(|&cost| f64::from(cost)).sum()
}

/// Returns `options` with the amplitude of [`DITHER_AMPLITUDES`] that costs least on `rows`, a sample of the tensor. If no
/// amplitude lowers the cost by a thousandth, the returned options have a beam width of 1 and no noise. Options that state
/// an amplitude or a beam width of 1 are returned as they are.
///
/// # Panics
/// Panics as [`quantize_rows`].
pub fn choose_dither(
    ty: GgmlType,
    rows: Rows<'_>,
    moments: &FactorizedMoments,
    options: &SolverOptions,
) -> SolverOptions {
    if options.dither.is_some() || options.beam_width <= 1 {
        return *options;
    }
    let mut out = vec![0; ty.row_bytes(rows.weights.len() as u64).expect("whole rows") as usize];
    let plain = SolverOptions { beam_width: 1, dither: Some(0.0), ..*options };
    let mut best = ((1.0 - MIN_GAIN) * quantize_rows(ty, rows, moments, &plain, &mut out), plain);
    for dither in DITHER_AMPLITUDES {
        let dithered = SolverOptions { dither: Some(dither), ..*options };
        let cost = quantize_rows(ty, rows, moments, &dithered, &mut out);
        if cost < best.0 {
            best = (cost, dithered);
        }
    }
    best.1
}

/// Packs the blocks of the columns `start .. start + len` into rows of `row_bytes`.
fn pack(format: &Format, ws: &Workspace, start: usize, len: usize, row_bytes: usize, out: &mut [u8]) {
    let rows = out.chunks_exact_mut(row_bytes).zip(ws.rows.chunks_exact(len));
    for (lane, (row, codes)) in rows.enumerate() {
        let blocks = row.chunks_exact_mut(format.ty.block_bytes()).skip(start / format.block);
        for ((scales, codes), block) in ws.scales.iter().zip(codes.chunks(format.block)).zip(blocks) {
            (format.write)(scales, lane, codes, block);
        }
    }
}

/// Fills in the noise of [`ROWS`] rows from row `first` on, for the columns from `start` on, in quantization steps.
fn fill_noise(noise: &Noise, first: u64, start: usize, dither: f32, to: &mut [F32x16]) {
    let mut row = vec![0.0; to.len()];
    for lane in 0..ROWS {
        noise.fill(first + lane as u64, start as u64, &mut row);
        for (to, u) in to.iter_mut().zip(&row) {
            to.0[lane] = 2.0 * dither * u;
        }
    }
}

dispatch! {
    /// Runs the solver compiled for an instruction set.
    fn solve_on(
        simd: S,
        block: FactorizedBlock<'_>,
        options: &SolverOptions,
        noise: NoiseSource<'_>,
        groups: &mut [Workspace],
    ) {
        solve::solve(simd.x16(), block, options, noise, groups);
    }
}
