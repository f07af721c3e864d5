//! What a model family declares: the output tensors, and how each follows from the source. The declarations are data.
//!
//! The JSON form is the contract with the Python package; `docs/architecture.md` shows it.
//!
//! ```
//! use srd_rs::model::spec::{TensorSpec, Transform};
//!
//! let json = r#"{"name": "blk.0.attn_q.weight", "shape": [64, 64], "store": "auto",
//!     "transform": {"op": "permute_heads", "heads": 4, "of": {"op": "source", "tensor": "q.weight"}}}"#;
//! let spec: TensorSpec = serde_json::from_str(json)?;
//! assert!(matches!(spec.transform, Transform::PermuteHeads { heads: 4, .. }));
//! # Ok::<(), serde_json::Error>(())
//! ```

use serde::Deserialize;

use crate::model::dequantize::Dequantize;

/// Whether a mix may change the type of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Placement {
    /// The mix decides.
    Auto,
    /// F32 in every mix: norms, biases, routers and other tensors of one dimension.
    F32,
    /// Integers that are copied: the source is a tensor of type I32.
    I32,
    /// Integers that are computed, such as ids of tokens. They are exact in f32, so each is below 2^24.
    I64,
    /// Blocks of NVFP4 that are packed from the codes and scales of the checkpoint. The scale of the whole tensor is another
    /// tensor.
    Nvfp4,
}

/// One output tensor.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorSpec {
    /// Name of the tensor in the GGUF.
    pub name: String,
    /// Row-major shape, outermost dimension first. `ne` of a GGUF is the reverse.
    pub shape: Vec<u64>,
    /// Whether a mix may change the type.
    pub store: Placement,
    /// How the values follow from the source.
    pub transform: Transform,
}

/// How values follow from the source. Every transform can produce any run of its elements without the rest, so all of them
/// stream; [`Transform::Ternary`] looks through its tensor once before.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum Transform {
    /// A tensor of the source, unchanged.
    Source {
        /// Name of the tensor in the source.
        tensor: String,
    },
    /// Rotary rows in GGUF's order. Hugging Face has the first halves of a head before the second halves, GGUF has them
    /// interleaved: `reshape(heads, 2, rows / heads / 2, cols).swapaxes(1, 2)`.
    PermuteHeads {
        /// The rows in Hugging Face's order.
        of: Box<Transform>,
        /// Number of heads.
        heads: u64,
    },
    /// `x * mul + add`, in f32.
    Affine {
        /// The values `x`.
        of: Box<Transform>,
        /// The factor, by default 1.
        #[serde(default = "one")]
        mul: f32,
        /// The summand, by default 0.
        #[serde(default)]
        add: f32,
    },
    /// Rows `start .. start + count`.
    Rows {
        /// The tensor whose rows are taken.
        of: Box<Transform>,
        /// The first row.
        start: u64,
        /// Number of rows.
        count: u64,
    },
    /// Parts one after another along the first axis. This also stacks experts: the shape of the tensor says so.
    Concat {
        /// The parts.
        of: Vec<Transform>,
    },
    /// Transposed matrices. The rows are `slices` equal groups, each of which is a matrix.
    Transpose {
        /// The matrices.
        of: Box<Transform>,
        /// Number of matrices, by default 1.
        #[serde(default = "one_slice")]
        slices: u64,
    },
    /// Rows of `value` are appended until there are `rows`.
    PadRows {
        /// The rows that are there.
        of: Box<Transform>,
        /// Number of rows at the end.
        rows: u64,
        /// The value of the new rows, by default 0.
        #[serde(default)]
        value: f32,
    },
    /// The same elements in the same order under another shape.
    Reshape {
        /// The elements.
        of: Box<Transform>,
        /// The new shape, outermost dimension first.
        shape: Vec<u64>,
    },
    /// Weights of a quantized checkpoint, decoded from codes and scales.
    Dequantize(Box<Dequantize>),
    /// The products of the elements of several parts with equally many elements, in f32.
    Product {
        /// The factors, at least one.
        of: Vec<Transform>,
    },
    /// The sums of the elements of several parts with equally many elements, in f32 and from the first part to the last.
    Sum {
        /// The summands, at least one.
        of: Vec<Transform>,
    },
    /// A table with a row for each position of a grid, for a grid of another size whose corners stay where they are: between
    /// positions, rows are interpolated linearly along both axes. The result has a row for each position of the new grid.
    Bilinear {
        /// The table.
        of: Box<Transform>,
        /// Rows and columns of the grid of the table.
        from: (u64, u64),
        /// Rows and columns of the new grid.
        to: (u64, u64),
    },
    /// `-exp(x)`, rounded to f32. State space models store their decay rates as logarithms.
    NegExp {
        /// The values `x`.
        of: Box<Transform>,
    },
    /// `ln(1 + e^x)`, rounded to f32. Attention over sound has scales that are stored so.
    Softplus {
        /// The values `x`.
        of: Box<Transform>,
    },
    /// A normalization over a batch, whose statistics are fixed, is a factor and a summand for each channel: this is the factor
    /// `weight / sqrt(variance + epsilon)`, or with `shift` the summand `bias - mean * factor`. Each step is rounded to f32.
    FoldedNorm {
        /// The weights of the normalization.
        weight: Box<Transform>,
        /// The variances.
        variance: Box<Transform>,
        /// The biases and the means, for the summand.
        #[serde(default)]
        shift: Option<Box<(Transform, Transform)>>,
        /// What is added to the variance.
        epsilon: f32,
    },
    /// Positions as sines and cosines: row `i` has the sines of `i * f` and then the cosines, where `f` falls from 1 to 1/10000
    /// in equal ratios.
    Sinusoids {
        /// Number of positions.
        rows: u64,
        /// Twice the number of frequencies.
        columns: u64,
        /// True if 1/10000 would be the frequency behind the last one.
        #[serde(default)]
        open: bool,
    },
    /// A selection of elements in another order: element `(i, j, ...)` is element `offset + i * strides[0] + j * strides[1]
    /// + ...` of the part. Slices along an axis, every n-th row and another order of axes are views.
    View {
        /// The elements.
        of: Box<Transform>,
        /// The shape of the view, outermost dimension first.
        shape: Vec<u64>,
        /// The distance of neighbors along each dimension, in elements of the part.
        strides: Vec<u64>,
        /// The first element.
        #[serde(default)]
        offset: u64,
    },
    /// The nearest of the three values `-s`, `0` and `s`, where `s` is the mean magnitude of the tensor and at least 1e-5. BitNet
    /// models are trained so that these values are their weights. The tensor is read once before its first value is known.
    Ternary {
        /// The values.
        of: Box<Transform>,
    },
    /// A weight with the update of a LoRA adapter: `of + scale * up * down`, in f32. With `magnitude`, each row is then scaled to
    /// this length (DoRA).
    Merge {
        /// The weight, a matrix.
        of: Box<Transform>,
        /// The factor of the update with a row for each row of the weight.
        up: Box<Transform>,
        /// The factor of the update with a column for each column of the weight.
        down: Box<Transform>,
        /// The number that the product is multiplied by.
        scale: f32,
        /// The length of each row.
        #[serde(default)]
        magnitude: Option<Box<Transform>>,
    },
    /// Values that are in no source, for example rope factors.
    Generated {
        /// The values.
        values: Vec<f32>,
    },
}

fn one() -> f32 {
    1.0
}

fn one_slice() -> u64 {
    1
}

impl Transform {
    /// Calls `f` with each declaration of weights that are decoded from codes, as long as weights are only moved.
    pub fn for_each_leaf<'a>(&'a self, f: &mut impl FnMut(&'a Dequantize)) {
        match self {
            Self::Dequantize(leaf) => f(leaf),
            Self::Concat { of } => of.iter().for_each(|part| part.for_each_leaf(f)),
            Self::PermuteHeads { of, .. }
            | Self::Rows { of, .. }
            | Self::Transpose { of, .. }
            | Self::View { of, .. }
            | Self::Reshape { of, .. } => of.for_each_leaf(f),
            _ => {}
        }
    }

    /// Returns the same moves of other leaves. `None` if weights are computed or if some of them are in no code.
    pub fn moved(&self, leaf: &impl Fn(&Dequantize) -> Dequantize) -> Option<Self> {
        let part = |of: &Self| of.moved(leaf).map(Box::new);
        Some(match self {
            Self::Dequantize(of) => Self::Dequantize(Box::new(leaf(of))),
            Self::Concat { of } => {
                Self::Concat { of: of.iter().map(|of| of.moved(leaf)).collect::<Option<_>>()? }
            }
            Self::PermuteHeads { of, heads } => Self::PermuteHeads { of: part(of)?, heads: *heads },
            Self::Rows { of, start, count } => Self::Rows { of: part(of)?, start: *start, count: *count },
            Self::Transpose { of, slices } => Self::Transpose { of: part(of)?, slices: *slices },
            Self::Reshape { of, shape } => Self::Reshape { of: part(of)?, shape: shape.clone() },
            Self::View { of, shape, strides, offset } => {
                Self::View { of: part(of)?, shape: shape.clone(), strides: strides.clone(), offset: *offset }
            }
            _ => return None,
        })
    }

    /// Calls `f` with the name of every source tensor, in order.
    pub fn for_each_source<'a>(&'a self, f: &mut impl FnMut(&'a str)) {
        match self {
            Self::Source { tensor } => f(tensor),
            Self::Concat { of } | Self::Product { of } | Self::Sum { of } => {
                of.iter().for_each(|part| part.for_each_source(f));
            }
            Self::PermuteHeads { of, .. }
            | Self::Affine { of, .. }
            | Self::Rows { of, .. }
            | Self::Transpose { of, .. }
            | Self::PadRows { of, .. }
            | Self::Bilinear { of, .. }
            | Self::NegExp { of }
            | Self::Softplus { of }
            | Self::Ternary { of }
            | Self::View { of, .. }
            | Self::Reshape { of, .. } => of.for_each_source(f),
            Self::Dequantize(of) => of.for_each_source(f),
            Self::FoldedNorm { weight, variance, shift, .. } => {
                weight.for_each_source(f);
                variance.for_each_source(f);
                if let Some(shift) = shift {
                    shift.0.for_each_source(f);
                    shift.1.for_each_source(f);
                }
            }
            Self::Generated { .. } | Self::Sinusoids { .. } => {}
            Self::Merge { of, up, down, magnitude, .. } => {
                [of, up, down].into_iter().chain(magnitude).for_each(|part| part.for_each_source(f));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_of_the_contract_parses() {
        let json = r#"{"name": "blk.0.attn_q.weight", "shape": [8, 4], "store": "auto", "transform":
            {"op": "permute_heads", "heads": 2, "of": {"op": "source", "tensor": "q"}}}"#;
        let spec: TensorSpec = serde_json::from_str(json).unwrap();
        let mut names = Vec::new();
        spec.transform.for_each_source(&mut |n| names.push(n));
        assert_eq!(names, ["q"]);
        assert!(serde_json::from_str::<TensorSpec>(&json.replace("heads\"", "heeds\"")).is_err());
    }
}
