//! Block formats and the mixes (recipes) that choose among them.

pub mod k_rows;
#[cfg(test)]
mod k_tests;
pub mod q4_k;
pub mod q5_k;
pub mod q6_k;
pub mod search;
mod simd;

use crate::dtype::GgmlType;

/// See docs/contracts.md; stands in for the full dispatch while only the K-quants are here.
pub fn quantize(ty: GgmlType, rows: &[f32], n_per_row: usize, importance: Option<&[f32]>, out: &mut [u8]) {
    match ty {
        GgmlType::Q4_K => q4_k::quantize_rows(rows, n_per_row, importance, out),
        GgmlType::Q5_K => q5_k::quantize_rows(rows, n_per_row, importance, out),
        GgmlType::Q6_K => q6_k::quantize_rows(rows, n_per_row, importance, out),
        other => panic!("{} is not a K-quant", other.name()),
    }
}

/// Writes the weights of whole blocks.
pub fn dequantize(ty: GgmlType, bytes: &[u8], out: &mut [f32]) {
    match ty {
        GgmlType::Q4_K => q4_k::dequantize_row(bytes, out),
        GgmlType::Q5_K => q5_k::dequantize_row(bytes, out),
        GgmlType::Q6_K => q6_k::dequantize_row(bytes, out),
        other => panic!("{} is not a K-quant", other.name()),
    }
}

/// Largest magnitude that cannot overflow a scale of the type.
pub fn max_abs(ty: GgmlType) -> f32 {
    match ty {
        GgmlType::Q4_K => q4_k::MAX_ABS,
        GgmlType::Q5_K => q5_k::MAX_ABS,
        GgmlType::Q6_K => q6_k::MAX_ABS,
        other => panic!("{} is not a K-quant", other.name()),
    }
}
