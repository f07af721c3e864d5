//! The data that the steps of the solver share: one block of H, and the scale of a sub-block.

use std::ops::Range;

use super::scales::{Format, Scales};
use super::vector::F32x16;
use crate::quant::arithmetic::signed_inverse;
use crate::quant::format::nearest_level;
use crate::simd::Vector;

/// Number of columns whose order is free and whose scales are searched together: one super-block, or as many smaller
/// blocks.
pub(super) const GROUP: usize = 256;
/// Largest number of sub-blocks in a group.
pub(super) const SUB_BLOCKS: usize = GROUP / 16;

/// One diagonal block of the damped H with its factorization, and the format of the weights. All matrices are row-major
/// with rows `stride` apart.
#[derive(Clone, Copy)]
pub(super) struct FactorizedBlock<'a> {
    pub format: &'static Format,
    /// Number of columns of the block.
    pub len: usize,
    pub stride: usize,
    /// H by column, `[len, len]`.
    pub h: &'a [f32],
    /// A by position, strictly lower: row p, column k holds `A_kp`.
    pub a: &'a [f32],
    /// The pivots D by position.
    pub d: &'a [f32],
    /// The column at each position. The positions of a [`GROUP`] hold the columns of this group.
    pub order: &'a [u32],
    /// Importance of the columns, for the search of scales.
    pub importance: &'a [f32],
}

/// A source of dither: fills in the noise of a group of [`ROWS`](super::vector::ROWS) rows by column, in quantization steps.
pub(super) type NoiseSource<'a> = &'a mut dyn FnMut(usize, &mut [F32x16]);

/// The scale of a sub-block: code `q` stands for the weight `step * q - offset`.
#[derive(Clone, Copy)]
pub(super) struct SubBlock<V: Vector> {
    pub step: V::F,
    pub offset: V::F,
    pub inverse: V::F,
}

/// A [`SubBlock`] in memory.
#[derive(Clone, Copy, Default)]
pub(super) struct StoredSubBlock {
    step: F32x16,
    offset: F32x16,
    inverse: F32x16,
}

impl<V: Vector> SubBlock<V> {
    /// Returns the scale of sub-block `i` of a block.
    #[inline(always)]
    pub fn of(v: V, scales: &Scales, i: usize) -> Self {
        let step = v.mul(v.load(&scales.d.0), v.load(&scales.scale[i].0));
        let offset = v.mul(v.load(&scales.dmin.0), v.load(&scales.min[i].0));
        Self { step, offset, inverse: signed_inverse(v, step) }
    }

    /// Returns the scale of the sub-block that a column belongs to.
    #[inline(always)]
    pub fn at(v: V, format: &Format, scales: &[Scales], column: usize) -> Self {
        Self::of(v, &scales[column / format.block], column % format.block / format.sub)
    }

    #[inline(always)]
    pub fn load(v: V, from: &StoredSubBlock) -> Self {
        let StoredSubBlock { step, offset, inverse } = from;
        Self { step: v.load(&step.0), offset: v.load(&offset.0), inverse: v.load(&inverse.0) }
    }

    #[inline(always)]
    fn store(self, v: V, to: &mut StoredSubBlock) {
        v.store(self.step, &mut to.step.0);
        v.store(self.offset, &mut to.offset.0);
        v.store(self.inverse, &mut to.inverse.0);
    }

    /// Returns the codes nearest to the targets `t`.
    #[inline(always)]
    pub fn codes(self, v: V, format: &Format, t: V::F) -> V::F {
        let q = v.mul(v.add(t, self.offset), self.inverse);
        nearest_level(v, q, format.codes, format.table)
    }

    /// Returns the weights that the codes `q` stand for.
    #[inline(always)]
    pub fn values(self, v: V, q: V::F) -> V::F {
        v.sub(v.mul(self.step, q), self.offset)
    }
}

/// Returns the scales of the sub-blocks of a group of columns.
#[inline(always)]
pub(super) fn sub_blocks<V: Vector>(
    v: V,
    format: &Format,
    scales: &[Scales],
    group: &Range<usize>,
) -> [StoredSubBlock; SUB_BLOCKS] {
    let mut all = [StoredSubBlock::default(); SUB_BLOCKS];
    for (i, to) in all.iter_mut().take(group.len() / format.sub).enumerate() {
        SubBlock::at(v, format, scales, group.start + i * format.sub).store(v, to);
    }
    all
}
