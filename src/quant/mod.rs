//! Block formats, and the mixes (recipes) that choose among them.
//!
//! [`quantize`] writes rows of f32 weights as blocks of a type, [`dequantize`] reads blocks back. The byte layouts are
//! ggml's. Every function gives the same bytes on every CPU.
//!
//! A block format is one file here that implements [`BlockFormat`], and one line of the registry below. An encoding
//! without blocks, such as F16, implements [`Encoding`] instead, and so do the formats whose codes are points of a grid. A
//! format that is only read implements [`Decoding`]. [`residual`] is the plane of codes that restores what a format has lost.
//!
//! # Examples
//!
//! ```
//! use srd_rs::dtype::GgmlType;
//! use srd_rs::quant::{dequantize, quantize};
//!
//! let row: Vec<f32> = (0..256).map(|i| (i as f32 / 40.0).sin()).collect();
//! let mut blocks = vec![0; GgmlType::Q6_K.row_bytes(256).unwrap() as usize];
//! quantize(GgmlType::Q6_K, &row, 256, None, &mut blocks);
//! let mut back = vec![0.0; 256];
//! dequantize(GgmlType::Q6_K, &blocks, &mut back);
//! assert!(row.iter().zip(&back).all(|(a, b)| (a - b).abs() < 0.02));
//! ```

use crate::dtype::GgmlType;
use crate::simd::{Isa, dispatch};

pub(crate) mod arithmetic;
mod block32;
pub mod budget;
pub mod format;
mod importance;
mod iq1;
pub(crate) mod iq1_m;
pub(crate) mod iq1_s;
pub(crate) mod iq2_s;
pub(crate) mod iq2_xs;
pub(crate) mod iq2_xxs;
pub(crate) mod iq3_s;
pub(crate) mod iq3_xxs;
pub(crate) mod iq4_nl;
pub(crate) mod iq4_xs;
mod k_affine;
mod k_symmetric;
mod lattice;
pub(crate) mod mxfp4;
pub(crate) mod nvfp4;
#[cfg(test)]
mod oracle;
pub(crate) mod plain;
pub(crate) mod q1_0;
pub(crate) mod q2_0;
pub(crate) mod q2_k;
pub(crate) mod q3_k;
pub(crate) mod q4_0;
pub(crate) mod q4_1;
pub(crate) mod q4_k;
pub(crate) mod q5_0;
pub(crate) mod q5_1;
pub(crate) mod q5_k;
pub(crate) mod q6_k;
pub(crate) mod q8_0;
pub mod recipe;
pub mod residual;
mod ternary;
#[cfg(test)]
mod tests;
pub(crate) mod tq1_0;
pub(crate) mod tq2_0;
mod two_bits;
pub(crate) mod weighting;

pub use format::{BlockFormat, Decoding, Encoding};
pub use importance::Weighting;
pub use weighting::Columns;

/// Expands to everything that has one case per encoding.
macro_rules! registry {
    (($d:tt) read_only { $($read:ident = $read_in:ident::$read_type:ident;)* } plain { $($plain:ident = $plain_in:ident::$plain_type:ident;)* } lattices { $($lattice:ident = $lattice_in:ident::$lattice_type:ident;)* } blocks { $($block:ident = $block_in:ident::$block_type:ident;)* }) => {
        /// The types that [`quantize`] writes and [`dequantize`] reads.
        pub const QUANTIZABLE: &[GgmlType] = &[$(GgmlType::$plain,)* $(GgmlType::$block,)* $(GgmlType::$lattice,)*];

        /// The types that [`dequantize`] reads and [`quantize`] does not write.
        pub const READ_ONLY: &[GgmlType] = &[$(GgmlType::$read,)*];

        /// The types of [`QUANTIZABLE`] that are block formats.
        pub const BLOCK_FORMATS: &[GgmlType] = &[$(GgmlType::$block,)*];

        /// `with_encoding!(ty, F => e)` is `e` with the type `F` that implements [`Encoding`] for `ty`.
        macro_rules! with_encoding {
            ($d ty:expr, $d F:ident => $d e:expr) => {
                match $d ty {
                    $($crate::dtype::GgmlType::$plain => { type $d F = $crate::quant::$plain_in::$plain_type; $d e })*
                    $($crate::dtype::GgmlType::$lattice => { type $d F = $crate::quant::$lattice_in::$lattice_type; $d e })*
                    $($crate::dtype::GgmlType::$block => { type $d F = $crate::quant::$block_in::$block_type; $d e })*
                    ty => panic!("{} is no type that can be quantized", ty.name()),
                }
            };
        }

        /// `with_decoding!(ty, F => e)` is `e` with the type `F` that implements [`Decoding`](format::Decoding) for `ty`.
        macro_rules! with_decoding {
            ($d ty:expr, $d F:ident => $d e:expr) => {
                match $d ty {
                    $($crate::dtype::GgmlType::$read => { type $d F = $crate::quant::$read_in::$read_type; $d e })*
                    ty => with_encoding!(ty, $d F => $d e),
                }
            };
        }

        /// `with_block_format!(ty, F => e)` is `Some(e)` with the type `F` that implements [`BlockFormat`] for `ty`, and
        /// `None` if `ty` is no block format.
        macro_rules! with_block_format {
            ($d ty:expr, $d F:ident => $d e:expr) => {
                match $d ty {
                    $($crate::dtype::GgmlType::$block => { type $d F = $crate::quant::$block_in::$block_type; Some($d e) })*
                    _ => None,
                }
            };
        }
    };
}

// The registry. A new format needs its line here, and nothing else in this file but its `mod`.
registry! { ($)
    read_only {
    IQ1_S = iq1_s::Iq1S;
    IQ1_M = iq1_m::Iq1M;
    NVFP4 = nvfp4::Nvfp4;
    Q1_0 = q1_0::Q10;
    Q2_0 = q2_0::Q20;
    }
    plain {
    F32 = plain::F32;
    F16 = plain::F16;
    BF16 = plain::Bf16;
    }
    lattices {
    IQ3_S = iq3_s::Iq3S;
    IQ3_XXS = iq3_xxs::Iq3Xxs;
    IQ2_S = iq2_s::Iq2S;
    IQ2_XS = iq2_xs::Iq2Xs;
    IQ2_XXS = iq2_xxs::Iq2Xxs;
    }
    blocks {
    Q8_0 = q8_0::Q80;
    Q6_K = q6_k::Q6K;
    Q5_K = q5_k::Q5K;
    Q4_K = q4_k::Q4K;
    Q5_1 = q5_1::Q51;
    Q5_0 = q5_0::Q50;
    Q4_1 = q4_1::Q41;
    Q4_0 = q4_0::Q40;
    IQ4_NL = iq4_nl::Iq4Nl;
    IQ4_XS = iq4_xs::Iq4Xs;
    Q3_K = q3_k::Q3K;
    Q2_K = q2_k::Q2K;
    MXFP4 = mxfp4::Mxfp4;
    TQ2_0 = tq2_0::Tq20;
    TQ1_0 = tq1_0::Tq10;
    }
}
pub(crate) use {with_block_format, with_encoding};

/// Returns whether [`quantize`] can write the type, and [`dequantize`] can read the type.
pub fn can_quantize(ty: GgmlType) -> bool {
    QUANTIZABLE.contains(&ty)
}

/// Returns whether the importances of the columns change what [`quantize`] gives for the type.
pub fn weighs(ty: GgmlType) -> bool {
    let rising: Vec<f32> = (1..=256u16).map(f32::from).collect();
    can_quantize(ty) && ty.block_len() > 1 && Weighting::new(ty, &rising).columns(0..ty.block_len()).is_some()
}

/// Returns whether [`dequantize`] can read the type.
pub fn can_dequantize(ty: GgmlType) -> bool {
    can_quantize(ty) || READ_ONLY.contains(&ty)
}

/// Returns the largest `|w|` that [`quantize`] takes: no larger weight is sure to keep the f16 scales of a block (or, for
/// plain types, the weight itself) finite.
///
/// # Panics
/// If [`can_quantize`] is false for the type.
pub fn max_abs(ty: GgmlType) -> f32 {
    with_encoding!(ty, F => <F as Encoding>::MAX_ABS)
}

/// Quantizes whole rows. The function uses one thread: the caller cuts the work.
///
/// `rows` holds rows of `n_per_row` weights, finite and at most [`max_abs`] in magnitude (plain types take any bit
/// pattern). `out` has the type's row bytes for each row. `importance` holds `n_per_row` weights of the squared error, the
/// same for every row: the mean squares of the inputs that meet each column. Without importances every column counts the
/// same. To quantize parts of rows under importances, see [`quantize_weighted`].
///
/// # Panics
/// If [`can_quantize`] is false for the type, or the lengths do not agree.
pub fn quantize(ty: GgmlType, rows: &[f32], n_per_row: usize, importance: Option<&[f32]>, out: &mut [u8]) {
    check_lengths(ty, rows.len(), n_per_row, out.len());
    assert!(importance.is_none_or(|h| h.len() == n_per_row), "one importance per column");
    let weighting = importance.map(|h| Weighting::new(ty, h));
    quantize_weighted(ty, rows, weighting.as_ref().and_then(|w| w.columns(0..n_per_row)), out);
}

/// Quantizes whole rows, or the same columns of several rows, under importances that were prepared before. `columns`
/// belongs to the columns of one row of `rows`.
///
/// # Panics
/// If [`can_quantize`] is false for the type, or the lengths do not agree.
pub fn quantize_weighted(ty: GgmlType, rows: &[f32], columns: Option<Columns<'_>>, out: &mut [u8]) {
    quantize_at(Isa::detect(), ty, rows, columns, out);
}

/// Does the same as [`quantize_weighted`] with a given instruction set. All give the same bytes.
pub fn quantize_at(isa: Isa, ty: GgmlType, rows: &[f32], columns: Option<Columns<'_>>, out: &mut [u8]) {
    check_lengths(ty, rows.len(), rows.len(), out.len());
    with_encoding!(ty, F => quantize_as::<F>(isa, rows, columns, out));
}

/// Reads blocks back into weights, to the bit as ggml does. `bytes` holds whole blocks, `out` has room for one value per
/// weight.
///
/// # Panics
/// If [`can_dequantize`] is false for the type, or the lengths do not agree.
pub fn dequantize(ty: GgmlType, bytes: &[u8], out: &mut [f32]) {
    dequantize_at(Isa::detect(), ty, bytes, out);
}

/// Does the same as [`dequantize`] with a given instruction set. All give the same bits.
pub fn dequantize_at(isa: Isa, ty: GgmlType, bytes: &[u8], out: &mut [f32]) {
    check_lengths(ty, out.len(), out.len(), bytes.len());
    with_decoding!(ty, F => dequantize_as::<F>(isa, bytes, out));
}

dispatch! {
    /// Quantizes whole blocks to a format that is known to the compiler.
    pub(crate) fn quantize_as<F: Encoding>(simd: S, rows: &[f32], columns: Option<Columns<'_>>, out: &mut [u8]) {
        F::quantize(simd, rows, columns, out);
    }

    fn dequantize_as<F: Decoding>(simd: S, bytes: &[u8], out: &mut [f32]) {
        F::dequantize(simd, bytes, out);
    }
}

/// Checks that the lengths which a caller passes describe whole rows of whole blocks.
fn check_lengths(ty: GgmlType, weights: usize, n_per_row: usize, bytes: usize) {
    if weights == 0 {
        assert_eq!(bytes, 0, "there are {bytes} bytes for no weights");
        return;
    }
    assert!(weights.is_multiple_of(n_per_row), "{weights} weights are not whole rows of {n_per_row} weights");
    let row_bytes = ty.row_bytes(n_per_row as u64).expect("a row is whole blocks");
    assert_eq!(bytes as u64, row_bytes * (weights / n_per_row) as u64, "the bytes do not match the weights");
}
