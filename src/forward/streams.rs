//! Who sees the inputs of the matrices during a pass, with one stream of activations or with several.

use std::collections::HashSet;

use crate::error::Result;
use crate::forward::buffers::Buffer;
use crate::forward::{Observer, Quantizer};

/// What the residual stream lacks while a part of a layer is computed.
pub(super) struct Missing {
    /// What the first stream has more, a row for each token.
    pub values: Buffer,
    /// The weights of the norm that stands between the part of the layer and the residual stream; empty if there is none.
    pub norm: Vec<f32>,
}

/// How the output of a part of a layer gets to the residual stream.
pub(super) enum Way {
    /// It is added as it is.
    Plain,
    /// It is added after the RMSNorm of a name.
    Normed(String),
    /// In another way.
    Other,
}

/// Who sees the inputs of the matrices.
pub(super) enum Seen<'a> {
    By(&'a mut dyn Observer),
    /// All rows of activations are those of two streams, one half after the other.
    WithSecondStream(&'a mut dyn Quantizer),
    /// Streams of which only the divergences from the first one are wanted, a list for each stream behind it.
    Divergences(&'a mut [Vec<f64>]),
}

impl<'a> Seen<'a> {
    pub fn observer(&mut self) -> Option<&mut dyn Observer> {
        match self {
            Seen::By(observer) => Some(&mut **observer),
            Seen::WithSecondStream(quantizer) => Some(&mut **quantizer),
            Seen::Divergences(_) => None,
        }
    }

    pub fn shortened<'b>(self) -> Seen<'b>
    where
        'a: 'b,
    {
        match self {
            Seen::By(observer) => Seen::By(observer),
            Seen::WithSecondStream(quantizer) => Seen::WithSecondStream(quantizer),
            Seen::Divergences(to) => Seen::Divergences(to),
        }
    }

    pub fn reads(&self, tensor: &str) -> bool {
        match self {
            Seen::By(observer) => observer.reads(tensor),
            Seen::WithSecondStream(quantizer) => quantizer.reads(tensor),
            Seen::Divergences(_) => false,
        }
    }

    pub fn finished(&mut self, layer: Option<usize>) -> Result<()> {
        match self {
            Seen::By(observer) => observer.finished(layer),
            Seen::WithSecondStream(quantizer) => quantizer.finished(layer),
            Seen::Divergences(_) => Ok(()),
        }
    }
}

/// How far a layer is that all groups of chunks go through again and again, each time up to the first input whose matrices are
/// not quantized: what comes behind needs the quantized matrices.
#[derive(Default)]
pub(super) struct Sweep {
    /// Number of the group, the number of its first token, and whether it is the last group and the only one.
    pub group: usize,
    pub first: usize,
    pub is_last: bool,
    pub is_only: bool,
    /// True if a group waits for quantized matrices.
    pub is_waiting: bool,
    /// Inputs whose matrices are quantized, by the name of the first matrix.
    pub quantized: HashSet<String>,
    /// Inputs that were shown to the observer, with the expert and the group.
    pub shown: HashSet<(String, Option<usize>, usize)>,
}
