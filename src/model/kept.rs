//! Weights of FP4 that stay as they are: codes and scales of a checkpoint become blocks of MXFP4 or NVFP4, bit by bit.
//!
//! A tensor can stay where its declaration only moves weights of FP4 (stacks of experts, rows in another order, slices). The
//! codes are then one tensor more with the same declaration, and the scales another: both are read as any tensor is, and
//! what is read is packed. So every move that the weights know works for blocks as well.
//!
//! ```
//! use srd_rs::dtype::GgmlType;
//! use srd_rs::model::kept::{Found, pack};
//!
//! let (codes, scales) = ([7.0; 32], [127.0; 32]);
//! let mut block = [0; 17];
//! assert_eq!(pack(GgmlType::MXFP4, &codes, &scales, &mut block), Found::default());
//! assert_eq!((block[0], block[1]), (127, 0x77));
//! ```

use crate::dtype::{GgmlType, SourceType};
use crate::error::{Error, Place, Result};
use crate::model::dequantize::{Code, Dequantize, Grid, Order, Table};
use crate::model::source::{Encoding, Source};
use crate::model::spec::Transform;
use crate::model::transform::{BoundTransform, Scratch};
use crate::quant::{mxfp4, nvfp4};

/// The exponent of MXFP4 that is no number.
const NO_EXPONENT: u8 = 0xFF;
/// The scale of NVFP4 that is no number; the highest bit is its sign.
const NO_SCALE: u8 = 0x7F;

/// A tensor whose blocks are packed from the codes and scales of the checkpoint.
#[derive(Debug)]
pub struct KeptBlocks {
    /// MXFP4 or NVFP4.
    ty: GgmlType,
    /// The codes, 0 to 15, as numbers.
    codes: BoundTransform,
    /// The byte of the scale of each weight, as a number.
    scales: BoundTransform,
}

/// What [`pack`] has found in the scales of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Found {
    /// The first weight whose scale is not that of the weights that it shares a block with.
    pub torn: Option<usize>,
    /// The first weight with a negative scale.
    pub negative: Option<usize>,
    /// The first weight whose scale is no number.
    pub no_number: Option<usize>,
    /// Weights whose scale is no number. Their blocks are zeros.
    pub replaced: u64,
}

impl KeptBlocks {
    /// Binds the codes and the scales of a tensor. Returns `None` if the tensor is not made of FP4 alone, or if its rows are not
    /// whole blocks.
    ///
    /// # Errors
    /// Those of [`BoundTransform::bind`].
    pub fn bind(name: &str, shape: &[u64], transform: &Transform, source: &Source) -> Result<Option<Self>> {
        let mut ty = None;
        let mut same = true;
        transform.for_each_leaf(&mut |leaf| {
            let found = type_of(leaf, source);
            same &= found.is_some() && (ty.is_none() || ty == found);
            ty = found;
        });
        let row = shape.last().copied().unwrap_or(0);
        let Some(ty) = ty.filter(|ty| same && row > 0 && row.is_multiple_of(ty.block_len() as u64)) else {
            return Ok(None);
        };
        let (Some(codes), Some(scales)) = (transform.moved(&codes_of), transform.moved(&scales_of)) else {
            return Ok(None);
        };
        let bind = |transform| BoundTransform::bind(name, shape, &transform, source);
        Ok(Some(Self { ty, codes: bind(codes)?, scales: bind(scales)? }))
    }

    /// Returns the type of the blocks.
    pub fn ty(&self) -> GgmlType {
        self.ty
    }

    /// Writes the blocks of the weights that begin at `start`, which is the first of a block. `codes` and `scales` are buffers.
    ///
    /// # Errors
    /// As [`Source::read_f32`].
    pub fn read(
        &self,
        source: &Source,
        start: u64,
        [codes, scales]: [&mut Vec<f32>; 2],
        blocks: &mut [u8],
        scratch: &mut Scratch,
    ) -> Result<Found> {
        let n = blocks.len() / self.ty.block_bytes() * self.ty.block_len();
        for (values, part) in [(&mut *codes, &self.codes), (&mut *scales, &self.scales)] {
            values.resize(n, 0.0);
            part.read(source, start, values, scratch)?;
        }
        Ok(pack(self.ty, codes, scales, blocks))
    }
}

/// Packs blocks of MXFP4 or NVFP4. `codes` has the code of each weight, `scales` the byte of its scale.
///
/// # Panics
/// If the lengths do not agree.
pub fn pack(ty: GgmlType, codes: &[f32], scales: &[f32], blocks: &mut [u8]) -> Found {
    let nvfp4 = ty == GgmlType::NVFP4;
    let (block, sub) = if nvfp4 { (ty.block_len(), nvfp4::SUB) } else { (ty.block_len(), ty.block_len()) };
    assert!(codes.len() == scales.len() && blocks.len() == codes.len() / block * ty.block_bytes());
    let mut found = Found::default();
    let subs = block / sub;
    for (i, (codes, scales)) in codes.chunks_exact(sub).zip(scales.chunks_exact(sub)).enumerate() {
        let out = &mut blocks[i / subs * ty.block_bytes()..][..ty.block_bytes()];
        let (heads, nibbles) = out.split_at_mut(subs);
        let nibbles = &mut nibbles[i % subs * sub / 2..][..sub / 2];
        let mut scale = scales[0] as u8;
        let first = |at: &mut Option<usize>, is: bool, off: usize| {
            if is && at.is_none() {
                *at = Some(i * sub + off);
            }
        };
        let other = scales.iter().position(|s| *s != scales[0]);
        first(&mut found.torn, other.is_some(), other.unwrap_or(0));
        let no_number = if nvfp4 { scale & 0x7F == NO_SCALE } else { scale == NO_EXPONENT };
        first(&mut found.no_number, no_number, 0);
        // A scale of minus zero is zero.
        first(&mut found.negative, nvfp4 && scale > 0x80 && !no_number, 0);
        if nvfp4 {
            scale &= 0x7F;
        }
        if no_number {
            found.replaced += sub as u64;
            heads[i % subs] = 0;
            nibbles.fill(0);
            continue;
        }
        heads[i % subs] = scale;
        for (byte, (low, high)) in nibbles.iter_mut().zip(codes.iter().zip(&codes[sub / 2..])) {
            *byte = *low as u8 | (*high as u8) << 4;
        }
    }
    found
}

/// Says why a run cannot be kept.
pub fn misfit(found: Found, ty: GgmlType, place: Place) -> Option<Error> {
    let what = match found {
        Found { torn: Some(at), .. } => format!("has weights of several scales in a block, at {at} of a run"),
        Found { negative: Some(at), .. } => format!("has a negative scale, at {at} of a run"),
        _ => return None,
    };
    let fix = "Choose another type with --tensor-type or another mix";
    Some(Error::model(place, format!("{what}, which {} cannot hold", ty.name()), fix))
}

/// Returns the type of the blocks that hold the weights of a leaf, if there is one.
fn type_of(leaf: &Dequantize, source: &Source) -> Option<GgmlType> {
    let is_e2m1 = matches!(&leaf.table, Some(Table::Values(values))
        if values.len() == 16 && values.iter().zip(0u8..).all(|(&v, code)| v == mxfp4::level(code) / 2.0));
    let scale = leaf.scale.as_ref().filter(|scale| {
        is_e2m1
            && leaf.code == (Code::Packed { bits: 4, order: Order::Row })
            && leaf.zero.is_none()
            && leaf.bias.is_none()
            && leaf.groups.is_none()
            && leaf.times == 1.0
            && scale.nested.is_none()
            && scale.factor.is_none()
            && !scale.inverse
    })?;
    let index = source.find(&scale.tensor)?;
    let is_e4m3 = *source.encoding(index) == Encoding::Element(SourceType::F8E4M3);
    let columns = leaf.shape.last().copied().unwrap_or(0);
    match scale.block {
        [1, 32] if scale.exponents && columns.is_multiple_of(32) => Some(GgmlType::MXFP4),
        [1, 16] if !scale.exponents && is_e4m3 && columns.is_multiple_of(16) => Some(GgmlType::NVFP4),
        _ => None,
    }
}

/// The codes of a leaf as numbers.
fn codes_of(leaf: &Dequantize) -> Dequantize {
    Dequantize { table: None, scale: None, ..leaf.clone() }
}

/// The bytes of the scales of a leaf as numbers.
fn scales_of(leaf: &Dequantize) -> Dequantize {
    let scale = leaf.scale.clone().map(|grid| Grid { exponents: false, bytes: true, ..grid });
    Dequantize { code: Code::One, table: None, scale, ..leaf.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::dequantize;

    #[test]
    fn blocks_have_the_values_of_codes_and_scales() {
        for (ty, sub) in [(GgmlType::MXFP4, 32), (GgmlType::NVFP4, 16)] {
            let n = 128;
            let codes: Vec<f32> = (0..n).map(|i| (i * 7 % 16) as f32).collect();
            let scales: Vec<f32> = (0..n).map(|i| (100 + i / sub) as f32).collect();
            let mut blocks = vec![0; ty.row_bytes(n as u64).unwrap() as usize];
            assert_eq!(pack(ty, &codes, &scales, &mut blocks), Found::default());
            let mut values = vec![0.0; n];
            dequantize(ty, &blocks, &mut values);
            for (i, value) in values.into_iter().enumerate() {
                let scale = match ty {
                    GgmlType::MXFP4 => 2f32.powi(100 + (i / sub) as i32 - 127),
                    _ => {
                        (1.0 + ((100 + i / sub) % 8) as f32 / 8.0) * 2f32.powi((100 + i / sub) as i32 / 8 - 7)
                    }
                };
                assert_eq!(value, mxfp4::level(codes[i] as u8) / 2.0 * scale, "{ty:?} {i}");
            }
        }
    }

    #[test]
    fn scales_that_blocks_cannot_hold_are_found() {
        let codes = [1.0; 64];
        let mut scales = [100.0; 64];
        let mut blocks = [0; 36];
        scales[20] = 101.0;
        assert_eq!(pack(GgmlType::NVFP4, &codes, &scales, &mut blocks).torn, Some(20));
        scales[16..32].fill(228.0);
        assert_eq!(pack(GgmlType::NVFP4, &codes, &scales, &mut blocks).negative, Some(16));
        scales[16..32].fill(128.0);
        assert_eq!(pack(GgmlType::NVFP4, &codes, &scales, &mut blocks), Found::default());
        assert_eq!(blocks[1], 0);
        scales[48..].fill(127.0);
        let found = pack(GgmlType::NVFP4, &codes, &scales, &mut blocks);
        assert_eq!((found.no_number, found.replaced, blocks[3], blocks[35]), (Some(48), 16, 0, 0));
        let found = pack(GgmlType::MXFP4, &codes[..32], &[255.0; 32], &mut blocks[..17]);
        assert_eq!((found.no_number, found.replaced), (Some(0), 32));
    }
}
