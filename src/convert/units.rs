//! How a plan is cut into work: units, which one worker converts, and chunks, which stay in a cache.

use std::ops::Range;

use crate::convert::planned::{Plan, PlannedTensor};

/// The blocks of every type divide this number of weights, so a row that is longer than a chunk is cut at its multiples.
const CUT: u64 = 256;

/// The tensors of a plan cut into units.
pub struct Units<'a> {
    plan: &'a Plan,
    /// Number of the first unit of each tensor.
    first: Vec<usize>,
    count: usize,
}

/// A run of the weights of one tensor, which one worker converts. Where there is a container, a unit is one shard.
pub struct Unit<'a> {
    /// The tensor that the weights belong to.
    pub tensor: &'a PlannedTensor,
    /// Index of the tensor in the plan.
    pub index: usize,
    /// Number of the unit within its tensor.
    pub number: usize,
    /// Flat index of the first weight.
    pub start: u64,
    /// Flat index behind the last weight.
    pub end: u64,
}

/// A run of weights within a unit: whole rows, or a piece of a row that is longer than a chunk.
pub struct Chunk<'a> {
    /// The tensor that the weights belong to.
    pub tensor: &'a PlannedTensor,
    /// Flat index of the first weight.
    pub start: u64,
    /// Number of weights.
    pub len: u64,
}

impl<'a> Units<'a> {
    /// Cuts the tensors of `plan`.
    pub fn cut(plan: &'a Plan) -> Self {
        let mut count = 0;
        let first = plan.tensors.iter().map(|t| {
            let first = count;
            count += t.bound.n_weights().div_ceil(t.unit_weights) as usize;
            first
        });
        Self { plan, first: first.collect(), count }
    }

    /// Returns the number of units.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Returns the numbers of the units of tensor `index`.
    pub fn of_tensor(&self, index: usize) -> Range<usize> {
        self.first[index]..self.first.get(index + 1).copied().unwrap_or(self.count)
    }

    /// Returns unit `number`, counted over all tensors.
    pub fn get(&self, number: usize) -> Unit<'a> {
        let index = self.first.partition_point(|&first| first <= number) - 1;
        let (tensor, number) = (&self.plan.tensors[index], number - self.first[index]);
        let start = number as u64 * tensor.unit_weights;
        Unit {
            tensor,
            index,
            number,
            start,
            end: (start + tensor.unit_weights).min(tensor.bound.n_weights()),
        }
    }
}

impl<'a> Unit<'a> {
    /// Returns the number of weights.
    pub fn weights(&self) -> u64 {
        self.end - self.start
    }

    /// Returns whether the unit may be cut behind its first `weights` weights.
    pub fn has_cut(&self, weights: u64) -> bool {
        let in_row = (self.start.saturating_add(weights)) % self.tensor.bound.row_len().max(1);
        weights > 0 && weights < self.weights() && in_row.is_multiple_of(CUT)
    }

    /// Returns the chunk of at most `weights` weights that begins at `start`.
    pub fn chunk(&self, start: u64, weights: u64) -> Chunk<'a> {
        let row = self.tensor.bound.row_len();
        let len = if row <= weights { weights / row * row } else { weights.min(row - start % row) };
        Chunk { tensor: self.tensor, start, len: len.min(self.end - start) }
    }
}

/// Returns the largest number of weights that a chunk can have when `weights` fit into memory: a multiple of the blocks of
/// every type, at least one block.
pub fn whole_blocks(weights: u64) -> u64 {
    (weights / CUT * CUT).max(CUT)
}
