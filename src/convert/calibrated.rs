//! Quantizes the matrices of a model layer by layer while the calibration is made, so that weights that come over the network are
//! read once for both.
//!
//! When the forward pass has finished a layer, the moments of its inputs are known and its weights are still kept. Its matrices are
//! then quantized as [`run`](crate::convert::run) would quantize them, and written to their places in the output. All that is missing
//! is written by `run`, which takes [`Written`] for what an interrupted run has left: it reads the bytes again and compares them with
//! their hashes. The bytes of the output are the same.

use std::ops::Range;
use std::sync::Arc;

use crate::calibrate::Accumulator;
use crate::convert::chunk::Converter;
use crate::convert::options::RunOptions;
use crate::convert::outputs::Outputs;
use crate::convert::planned::{Plan, PlannedTensor};
use crate::convert::run;
use crate::convert::units::{Unit, Units};
use crate::convert::written::Written;
use crate::error::{Error, Result};
use crate::feedback;
use crate::formats::calibration::{Calibration, Info, Output};
use crate::formats::sink::Left;
use crate::forward::{self, Observer};
use crate::progress::Progress;
use crate::quant::recipe;

/// Runs the model of `plan` on chunks of tokens, writes the calibration file, and quantizes the matrices of each layer as soon as
/// the inputs of the layer are known.
///
/// The plan is that of the whole output, made before its calibration is known. `options` are those of the
/// [`run`](crate::convert::run::run) that completes the output.
///
/// # Errors
/// [`Error::Usage`] for a plan with a container; as [`forward::run`] and [`run`](crate::convert::run::run). Nothing is left then.
pub fn calibrate(
    plan: &Plan,
    tokens: &[Vec<u32>],
    (info, output): (Info, &Output),
    options: &RunOptions,
    pass: &forward::RunOptions,
) -> Result<(Calibration, Written)> {
    options.effort.feedback.check()?;
    if plan.container.is_some() {
        let what = "a container is not written while its calibration is made";
        return Err(Error::usage(what, "Make the calibration first"));
    }
    let shapes: Vec<_> = plan.model.tensors.iter().map(|t| (t.name.as_str(), t.ne.as_slice())).collect();
    let mut written = Written::nothing(plan);
    let made = Accumulator::create(&shapes, info, output)?.fill(|accumulator| {
        let token_weights = accumulator.token_weights(&plan.model, tokens, pass)?;
        let pass = &forward::RunOptions { token_weights: token_weights.as_ref(), ..*pass };
        // From here on a failure removes the files.
        let outputs = Outputs::create(plan, options, Some(Left::Nothing), pass.progress)?;
        let mut quantizer = LayerQuantizer {
            plan,
            options,
            accumulator,
            outputs: &outputs,
            units: Units::cut(plan),
            written: &mut written,
            threads: pass.threads,
            progress: pass.progress,
            last: 0,
        };
        forward::run(&plan.model, tokens, &mut quantizer, pass).map(drop)
    })?;
    Ok((made, written))
}

/// An [`Observer`] that converts the tensors of each layer.
struct LayerQuantizer<'a> {
    plan: &'a Plan,
    options: &'a RunOptions<'a>,
    accumulator: &'a mut Accumulator,
    outputs: &'a Outputs<'a>,
    units: Units<'a>,
    written: &'a mut Written,
    threads: usize,
    progress: &'a Progress,
    /// The last layer that is not finished: the one behind those that are.
    last: u32,
}

impl LayerQuantizer<'_> {
    /// Returns whether a tensor of a layer, or the output matrix, can be converted as soon as the layer is finished. A type without
    /// feedback takes the diagonals of the whole calibration.
    fn is_converted(tensor: &PlannedTensor) -> bool {
        tensor.is_unchanged() || tensor.ty.block_len() == 1 || feedback::supports(tensor.ty)
    }

    /// Converts the tensors of a layer, or those of `None`: the output matrix. Their inputs are in `moments`.
    fn convert(&mut self, layer: Option<u32>, moments: &Arc<Calibration>) -> Result<()> {
        let is_of = |t: &PlannedTensor| match layer {
            Some(layer) => recipe::layer_of(&t.bound.name) == Some(layer),
            None => t.bound.name == recipe::OUTPUT,
        };
        let mut tensors: Vec<(Range<usize>, PlannedTensor)> = Vec::new();
        for (index, tensor) in self.plan.tensors.iter().enumerate() {
            if is_of(tensor) && Self::is_converted(tensor) {
                let known = Some(moments).filter(|_| feedback::supports(tensor.ty) && !tensor.packed);
                let moments = known.map_or(Ok(None), |m| m.of(&tensor.bound.name, &tensor.bound.ne))?;
                let tensor = PlannedTensor { moments, ..tensor.without_statistics() };
                tensors.push((self.units.of_tensor(index), tensor));
            }
        }
        let units = tensors.iter().flat_map(|(units, t)| units.clone().map(move |n| (n, t)));
        let units: Vec<_> = units.map(|(n, tensor)| (n, Unit { tensor, ..self.units.get(n) })).collect();
        let converter = Converter::new(self.plan, self.options, self.threads);
        // The steps of the forward pass are counted, not the bytes.
        let progress = (self.progress, &Progress::default());
        let made = run::convert_units(&units, self.outputs, &converter, self.threads, progress)?;
        self.written.add(made);
        Ok(())
    }
}

impl Observer for LayerQuantizer<'_> {
    fn inputs(&mut self, tensors: &[&str], expert: Option<usize>, n: usize, x: &[f32]) -> Result<()> {
        self.accumulator.inputs(tensors, expert, n, x)
    }

    fn group(&mut self, is_last: bool) {
        self.accumulator.group(is_last);
    }

    fn reads(&self, tensor: &str) -> bool {
        self.plan.tensors.iter().any(|t| t.bound.name == tensor && Self::is_converted(t))
            && (recipe::layer_of(tensor).is_some() || tensor == recipe::OUTPUT)
    }

    fn finished(&mut self, layer: Option<usize>) -> Result<()> {
        let layer = layer.map(|layer| layer as u32);
        let moments = Arc::new(self.accumulator.complete(layer)?);
        if let Some(layer) = layer {
            self.last = layer + 1;
            return self.convert(Some(layer), &moments);
        }
        self.convert(Some(self.last), &moments)?;
        self.convert(None, &moments)
    }
}
