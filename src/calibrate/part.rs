//! A part of a calibration: one step of the pass over some of the chunks, so that several machines calibrate together.
//!
//! The chunks are cut into shares of successive chunks. The sums of a step begin with the first share; the machine that has the next
//! share goes on with them, as one machine would, while the first machine computes the next step. So the bits are those of one machine.
//! The sums over all shares are given to [`Accumulator::take_sums`](crate::calibrate::Accumulator::take_sums).
//!
//! ```no_run
//! use srd_rs::calibrate::{Accumulator, part::{self, Part}};
//! use srd_rs::forward::{self, RunOptions};
//! use srd_rs::model::bound::BoundModel;
//!
//! /// Calibrates in two shares, which could as well run on two machines.
//! fn calibrate(
//!     model: &BoundModel, shares: [&[Vec<u32>]; 2], accumulator: &mut Accumulator, run: &RunOptions,
//! ) -> srd_rs::Result<()> {
//!     for step in 0..forward::steps(model)? {
//!         let mut sums = None;
//!         for (share, tokens) in shares.into_iter().enumerate() {
//!             let states = |step: usize| format!("states-{share}-{step}").into();
//!             let (from, to) = (step.checked_sub(1).map(states), (states(step), format!("sums-{share}-{step}").into()));
//!             let part = Part { step, longest: 512, block: 256, states: from, sums, to, gradients: Vec::new(), first: 0 };
//!             part::run(model, tokens, &part, run)?;
//!             sums = Some(part.to.1);
//!         }
//!         accumulator.take_sums(&sums.expect("there are two shares"))?;
//!     }
//!     Ok(())
//! }
//! ```

use std::path::PathBuf;

use crate::calibrate::accumulator::Open;
use crate::calibrate::weighing::weights_of_parts;
use crate::error::Result;
use crate::formats::calibration::values;
use crate::forward::{self, Observer, RunOptions, Step};
use crate::model::bound::BoundModel;

/// What a part computes, and the files that it reads and writes.
pub struct Part {
    /// Number of the step of the pass.
    pub step: usize,
    /// Number of tokens of the longest chunk of all shares.
    pub longest: usize,
    /// The side of the blocks that was asked for.
    pub block: u64,
    /// The states of this share behind the step before; `None` for the first step.
    pub states: Option<PathBuf>,
    /// The sums of this step over the shares before; `None` for the first share.
    pub sums: Option<PathBuf>,
    /// Where the states and the sums behind this part are written.
    pub to: (PathBuf, PathBuf),
    /// Where the tokens are weighed, the files of [`weigh_part`](crate::calibrate::weigh_part) for all tokens in their order.
    pub gradients: Vec<PathBuf>,
    /// Number of the first token of this share among all tokens.
    pub first: usize,
}

/// Computes a part for the chunks of a share.
///
/// # Errors
/// As [`forward::run_step`], and [`values::read`] for files that other parts have left.
pub fn run(model: &BoundModel, tokens: &[Vec<u32>], part: &Part, options: &RunOptions) -> Result<()> {
    let shapes: Vec<_> = model.tensors.iter().map(|t| (t.name.as_str(), t.ne.as_slice())).collect();
    let mut sums = Open::new(&shapes, part.block)?;
    part.sums.iter().try_for_each(|path| sums.read(path))?;
    let states = part.states.as_deref().map(values::read::<()>).transpose()?;
    let states = states.map(|((), states)| states).unwrap_or_default();
    let step = Step { number: part.step, longest: part.longest, states };
    let count = forward::tokens_of(tokens);
    let weights = match part.gradients.is_empty() {
        true => None,
        false => Some(weights_of_parts(&part.gradients, part.first, count)?),
    };
    let options = &RunOptions { token_weights: weights.as_ref(), ..*options };
    let states = forward::run_step(model, tokens, step, &mut Sums(&mut sums), options)?;
    sums.write(&part.to.1)?;
    // The states come last: where they are, the part is complete.
    values::write(&part.to.0, &(), &states.iter().map(Vec::as_slice).collect::<Vec<_>>())
}

/// An [`Observer`] that goes on with sums. The next share may have more inputs, so the last tokens always wait for the rest of their
/// piece.
struct Sums<'a>(&'a mut Open);

impl Observer for Sums<'_> {
    fn inputs(&mut self, tensors: &[&str], expert: Option<usize>, n: usize, x: &[f32]) -> Result<()> {
        if tensors.is_empty() || x.is_empty() {
            return Ok(());
        }
        self.0.add(tensors, expert, n, x)
    }
}
