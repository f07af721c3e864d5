//! Block formats and the mixes (recipes) that choose among them.
//!
//! One file per format: what its bytes mean, its quantiser and its dequantiser. The byte layouts are
//! ggml's. Every quantiser gives the same bytes on every CPU: the SIMD shells compute what the scalar
//! code computes, in the same order, without fused multiply-add.

use crate::dtype::GgmlType;

pub mod bf16;
pub(crate) mod block32;
pub mod f16;
pub mod float32;
mod k_rows;
#[cfg(test)]
mod k_tests;
pub mod q4_0;
pub mod q4_1;
pub mod q4_k;
pub mod q5_0;
pub mod q5_1;
pub mod q5_k;
pub mod q6_k;
pub mod q8_0;
pub mod recipe;
pub mod residual;
pub mod search;
mod simd;
pub(crate) mod simd_basic;

/// The types that [`quantize`] writes.
pub const QUANTIZABLE: &[GgmlType] = &[
    GgmlType::F32,
    GgmlType::F16,
    GgmlType::BF16,
    GgmlType::Q8_0,
    GgmlType::Q6_K,
    GgmlType::Q5_K,
    GgmlType::Q4_K,
    GgmlType::Q5_1,
    GgmlType::Q5_0,
    GgmlType::Q4_1,
    GgmlType::Q4_0,
];

/// Whether [`quantize`] can write the type.
pub fn can_quantize(ty: GgmlType) -> bool {
    QUANTIZABLE.contains(&ty)
}

/// Whether [`dequantize`] can read the type.
pub fn can_dequantize(ty: GgmlType) -> bool {
    can_quantize(ty)
}

/// The largest `|w|` that [`quantize`] takes: no larger weight is sure to keep the f16 scales of a
/// block (or, for plain types, the weight itself) finite.
///
/// # Panics
/// If [`can_quantize`] is false for the type.
pub fn max_abs(ty: GgmlType) -> f32 {
    match ty {
        GgmlType::F32 => float32::MAX_ABS,
        GgmlType::F16 => f16::MAX_ABS,
        GgmlType::BF16 => bf16::MAX_ABS,
        GgmlType::Q4_0 => q4_0::MAX_ABS,
        GgmlType::Q4_1 => q4_1::MAX_ABS,
        GgmlType::Q5_0 => q5_0::MAX_ABS,
        GgmlType::Q5_1 => q5_1::MAX_ABS,
        GgmlType::Q8_0 => q8_0::MAX_ABS,
        GgmlType::Q4_K => q4_k::MAX_ABS,
        GgmlType::Q5_K => q5_k::MAX_ABS,
        GgmlType::Q6_K => q6_k::MAX_ABS,
        _ => panic!("no quantiser for {}", ty.name()),
    }
}

/// Quantises whole rows. Single threaded: the caller cuts the work.
///
/// `rows` holds k rows of `n_per_row` weights, finite and at most [`max_abs`] in magnitude (plain
/// types take any bit pattern); `out` has k times the type's row bytes. `importance` holds
/// `n_per_row` weights of the squared error, the same for every row: the mean squares of the inputs
/// that meet each column. Without it every column counts the same.
///
/// # Panics
/// If [`can_quantize`] is false for the type, or the lengths do not agree.
pub fn quantize(ty: GgmlType, rows: &[f32], n_per_row: usize, importance: Option<&[f32]>, out: &mut [u8]) {
    check_lengths(ty, rows.len(), n_per_row, out.len());
    assert!(importance.is_none_or(|h| h.len() == n_per_row), "one importance per column");
    match ty {
        GgmlType::F32 => float32::quantize(rows, out),
        GgmlType::F16 => f16::quantize(rows, out),
        GgmlType::BF16 => bf16::quantize(rows, out),
        GgmlType::Q4_0 => q4_0::quantize(rows, n_per_row, importance, out),
        GgmlType::Q4_1 => q4_1::quantize(rows, n_per_row, importance, out),
        GgmlType::Q5_0 => q5_0::quantize(rows, n_per_row, importance, out),
        GgmlType::Q5_1 => q5_1::quantize(rows, n_per_row, importance, out),
        GgmlType::Q8_0 => q8_0::quantize(rows, n_per_row, importance, out),
        GgmlType::Q4_K => q4_k::quantize_rows(rows, n_per_row, importance, out),
        GgmlType::Q5_K => q5_k::quantize_rows(rows, n_per_row, importance, out),
        GgmlType::Q6_K => q6_k::quantize_rows(rows, n_per_row, importance, out),
        _ => panic!("no quantiser for {}", ty.name()),
    }
}

/// Reads blocks back into weights, to the bit as ggml does. `bytes` holds whole blocks, `out` one
/// weight for each.
///
/// # Panics
/// If [`can_dequantize`] is false for the type, or the lengths do not agree.
pub fn dequantize(ty: GgmlType, bytes: &[u8], out: &mut [f32]) {
    check_lengths(ty, out.len(), out.len(), bytes.len());
    match ty {
        GgmlType::F32 => float32::dequantize(bytes, out),
        GgmlType::F16 => f16::dequantize(bytes, out),
        GgmlType::BF16 => bf16::dequantize(bytes, out),
        GgmlType::Q4_0 => q4_0::dequantize(bytes, out),
        GgmlType::Q4_1 => q4_1::dequantize(bytes, out),
        GgmlType::Q5_0 => q5_0::dequantize(bytes, out),
        GgmlType::Q5_1 => q5_1::dequantize(bytes, out),
        GgmlType::Q8_0 => q8_0::dequantize(bytes, out),
        GgmlType::Q4_K => q4_k::dequantize_rows(bytes, out),
        GgmlType::Q5_K => q5_k::dequantize_rows(bytes, out),
        GgmlType::Q6_K => q6_k::dequantize_rows(bytes, out),
        _ => panic!("no dequantiser for {}", ty.name()),
    }
}

/// The lengths a caller passes must describe whole rows of whole blocks.
fn check_lengths(ty: GgmlType, weights: usize, n_per_row: usize, bytes: usize) {
    if weights == 0 {
        assert_eq!(bytes, 0, "no weights, but bytes");
        return;
    }
    assert!(weights.is_multiple_of(n_per_row), "{weights} weights are no whole rows of {n_per_row}");
    let row_bytes = ty.row_bytes(n_per_row as u64).expect("rows of whole blocks");
    assert_eq!(bytes as u64, row_bytes * (weights / n_per_row) as u64, "bytes do not match weights");
}
