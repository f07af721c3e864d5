//! Strided views: which elements of a flat tensor a selection takes, read in runs.
//!
//! A view has a shape, a stride for each dimension, and an offset, as arrays of NumPy have. A slice along an axis, every n-th
//! row, and another order of axes are views. Reading any run of a view takes a bounded buffer, and neighbors are read
//! together wherever they lie close to each other.

use std::ops::Range;

use crate::error::Result;

/// Most elements that are read at once to pick some of them.
const SPAN: u64 = 1 << 16;
/// A region is read as a whole if at least one in so many of its elements is taken.
const DENSITY: u64 = 4;
/// Neighbors that are at most so far apart are read together.
const GAP: u64 = 16;

/// A selection of the elements of a flat tensor.
#[derive(Debug)]
pub struct View {
    shape: Vec<u64>,
    strides: Vec<u64>,
    offset: u64,
    how: How,
}

/// How runs of a view are read.
#[derive(Debug)]
enum How {
    /// The dimensions from this one on are one run of `u64` elements.
    Runs(usize, u64),
    /// The dimensions from this one on lie in a small region, of which the view takes this many elements, and the region
    /// spans so many.
    Regions(usize, u64, u64),
    /// Elements along this dimension lie close together, and those of the last dimensions do not: as in a transposed matrix.
    Columns(usize),
}

impl View {
    /// Returns the view, or `None` if it has elements outside the `len` elements of the tensor, or none at all.
    pub fn new(len: u64, shape: &[u64], strides: &[u64], offset: u64) -> Option<Self> {
        if shape.len() != strides.len() || shape.contains(&0) {
            return None;
        }
        let last = shape
            .iter()
            .zip(strides)
            .try_fold(offset, |at, (&n, &stride)| at.checked_add((n - 1).checked_mul(stride)?))?;
        shape.iter().try_fold(1u64, |n, &size| n.checked_mul(size))?;
        if last >= len {
            return None;
        }
        let how = how(shape, strides);
        Some(Self { shape: shape.to_vec(), strides: strides.to_vec(), offset, how })
    }

    /// Writes the elements `start .. start + out.len()` of the view to `out`. `read` reads a run of the tensor.
    ///
    /// # Errors
    /// Those of `read`.
    pub fn read(
        &self,
        start: u64,
        out: &mut [f32],
        buffer: &mut Vec<f32>,
        mut read: impl FnMut(u64, &mut [f32]) -> Result<()>,
    ) -> Result<()> {
        let block = match self.how {
            How::Runs(_, n) | How::Regions(_, n, _) => n,
            How::Columns(dim) => self.shape[dim..].iter().product(),
        };
        let (mut at, mut out) = (start, out);
        while !out.is_empty() {
            let (index, first) = (at / block, at % block);
            let n = (block - first).min(out.len() as u64);
            let (piece, rest) = out.split_at_mut(n as usize);
            let taken = first..first + n;
            match self.how {
                How::Runs(dim, _) => read(self.position(0..dim, index) + first, piece)?,
                How::Regions(dim, _, span) => {
                    buffer.resize(span as usize, 0.0);
                    read(self.position(0..dim, index), buffer)?;
                    let inner = self.shape.len();
                    for (value, i) in piece.iter_mut().zip(taken) {
                        *value = buffer[(self.position(dim..inner, i) - self.offset) as usize];
                    }
                }
                How::Columns(dim) => self.read_columns(dim, index, taken, piece, buffer, &mut read)?,
            }
            at += n;
            out = rest;
        }
        Ok(())
    }

    /// Reads a part of one block of the dimensions from `dim` on. For each place of the inner dimensions, the elements along
    /// `dim` that the part has are read together.
    fn read_columns(
        &self,
        dim: usize,
        block: u64,
        part: Range<u64>,
        out: &mut [f32],
        buffer: &mut Vec<f32>,
        read: &mut impl FnMut(u64, &mut [f32]) -> Result<()>,
    ) -> Result<()> {
        let inner: u64 = self.shape[dim + 1..].iter().product();
        let (first, last) = (part.start / inner, (part.end - 1) / inner);
        let stride = self.strides[dim];
        let base = self.position(0..dim, block);
        let together = stride <= GAP;
        for place in 0..inner {
            let at = base + self.position(dim + 1..self.shape.len(), place) - self.offset;
            if together {
                buffer.resize(((last - first) * stride + 1) as usize, 0.0);
                read(at + first * stride, buffer)?;
            }
            for index in first..=last {
                let element = index * inner + place;
                if !part.contains(&element) {
                    continue;
                }
                let value = &mut out[(element - part.start) as usize];
                if together {
                    *value = buffer[((index - first) * stride) as usize];
                } else {
                    read(at + index * stride, std::slice::from_mut(value))?;
                }
            }
        }
        Ok(())
    }

    /// Returns where the element with the flat number `index` of these dimensions lies, with all other dimensions at 0.
    fn position(&self, dims: Range<usize>, mut index: u64) -> u64 {
        let mut at = self.offset;
        for dim in dims.rev() {
            at += index % self.shape[dim] * self.strides[dim];
            index /= self.shape[dim];
        }
        at
    }
}

fn how(shape: &[u64], strides: &[u64]) -> How {
    let (mut run, mut runs_from) = (1, shape.len());
    while runs_from > 0 && (shape[runs_from - 1] == 1 || strides[runs_from - 1] == run) {
        runs_from -= 1;
        run *= shape[runs_from];
    }
    if run >= SPAN / DENSITY || runs_from == 0 {
        return How::Runs(runs_from, run);
    }
    let (mut taken, mut span) = (1, 1);
    let mut best = None;
    for dim in (0..shape.len()).rev() {
        // The last position of the view is inside the tensor, so this cannot overflow.
        span += (shape[dim] - 1) * strides[dim];
        taken *= shape[dim];
        if span > SPAN {
            break;
        }
        if span <= DENSITY * taken {
            best = Some((dim, taken, span));
        }
    }
    let nearest = (0..shape.len()).filter(|&dim| shape[dim] > 1).min_by_key(|&dim| strides[dim]);
    match (best, nearest) {
        (Some((_, taken, _)), _) if run > 1 && run >= taken => How::Runs(runs_from, run),
        (Some((dim, taken, span)), _) if taken > 1 => How::Regions(dim, taken, span),
        (_, Some(dim)) if run == 1 => How::Columns(dim),
        _ => How::Runs(runs_from, run),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Any piece of any view has the elements that the definition of a view names.
        #[test]
        fn pieces_follow_the_definition(
            dims in proptest::collection::vec((1u64..9, 0u64..70), 1..5),
            offset in 0u64..5,
            ends in (0u64..4096, 0u64..4096),
        ) {
            let (shape, strides): (Vec<_>, Vec<_>) = dims.into_iter().unzip();
            let len = offset + shape.iter().zip(&strides).map(|(n, s)| (n - 1) * s).sum::<u64>() + 1;
            prop_assert!(View::new(len - 1, &shape, &strides, offset).is_none());
            let view = View::new(len, &shape, &strides, offset).unwrap();
            let total: u64 = shape.iter().product();
            let (start, end) = (ends.0.min(ends.1) % total, total.min(ends.0.max(ends.1)));
            let mut out = vec![f32::NAN; end.saturating_sub(start) as usize];
            let read = |at: u64, piece: &mut [f32]| {
                assert!(at + piece.len() as u64 <= len);
                piece.iter_mut().zip(at..).for_each(|(value, i)| *value = i as f32);
                Ok(())
            };
            view.read(start, &mut out, &mut Vec::new(), read).unwrap();
            for (value, index) in out.into_iter().zip(start..) {
                prop_assert_eq!(value, view.position(0..shape.len(), index) as f32);
            }
        }
    }

    #[test]
    fn a_transposed_matrix_is_read_by_pieces_of_rows() {
        let view = View::new(1 << 20, &[1024, 1024], &[1, 1024], 0).unwrap();
        let (mut reads, mut out) = (0, vec![0.0; 64 * 1024]);
        let count = |_: u64, _: &mut [f32]| {
            reads += 1;
            Ok(())
        };
        view.read(0, &mut out, &mut Vec::new(), count).unwrap();
        assert_eq!(reads, 1024);
    }
}
