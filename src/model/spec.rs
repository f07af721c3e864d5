//! What the model rooms ask for: the output tensors and how each follows from the source, as data.
//!
//! The JSON form is the contract with `python/srd_rs/transforms.py`; `docs/architecture.md` shows it.

use serde::Deserialize;

/// How an output tensor stays or changes its type under a recipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Store {
    /// The recipe decides.
    Auto,
    /// F32 under every recipe: norms, biases, routers, one-dimensional tensors.
    F32,
}

/// One output tensor.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorSpec {
    /// GGUF name.
    pub name: String,
    /// Row-major shape, outermost first; GGUF's `ne` is the reverse.
    pub shape: Vec<u64>,
    pub store: Store,
    pub transform: Transform,
}

/// The closed set of transforms. Each can produce any run of its elements without the rest, so all
/// of them stream.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum Transform {
    /// A tensor of the source, unchanged.
    Source { tensor: String },
    /// Rotary rows from Hugging Face's order (first halves, then second halves of a head) to
    /// GGUF's interleaved one: `reshape(heads, 2, rows / heads / 2, cols).swapaxes(1, 2)`.
    PermuteHeads { of: Box<Transform>, heads: u64 },
    /// `x * mul + add`, in f32.
    Affine {
        of: Box<Transform>,
        #[serde(default = "one")]
        mul: f32,
        #[serde(default)]
        add: f32,
    },
    /// Rows `start .. start + count`.
    Rows { of: Box<Transform>, start: u64, count: u64 },
    /// Parts one after another along the first axis; also stacks experts (the tensor's shape says so).
    Concat { of: Vec<Transform> },
    /// Each of `slices` equal groups of rows is a matrix; each is transposed.
    Transpose {
        of: Box<Transform>,
        #[serde(default = "one_slice")]
        slices: u64,
    },
    /// Rows of `value` appended until there are `rows`.
    PadRows {
        of: Box<Transform>,
        rows: u64,
        #[serde(default)]
        value: f32,
    },
    /// The same elements in the same order under another shape.
    Reshape { of: Box<Transform>, shape: Vec<u64> },
    /// Values that are in no source: rope factors.
    Generated { values: Vec<f32> },
}

fn one() -> f32 {
    1.0
}

fn one_slice() -> u64 {
    1
}

impl Transform {
    /// Calls `f` with the name of every source tensor, in order.
    pub fn for_each_source<'a>(&'a self, f: &mut impl FnMut(&'a str)) {
        match self {
            Self::Source { tensor } => f(tensor),
            Self::Concat { of } => of.iter().for_each(|part| part.for_each_source(f)),
            Self::PermuteHeads { of, .. }
            | Self::Affine { of, .. }
            | Self::Rows { of, .. }
            | Self::Transpose { of, .. }
            | Self::PadRows { of, .. }
            | Self::Reshape { of, .. } => of.for_each_source(f),
            Self::Generated { .. } => {}
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
