//! Weights of the squared error, one per column: what an imatrix says about the columns of a tensor.

use std::ops::Range;

use super::format::Encoding;
use super::weighting::Columns;
use super::with_encoding;
use crate::dtype::GgmlType;

/// The importances of the columns of one matrix, prepared for the search of one type.
///
/// # Examples
///
/// ```
/// use srd_rs::dtype::GgmlType;
/// use srd_rs::quant::{Weighting, quantize_weighted};
///
/// let (row, importance) = ([0.25; 512], [1.0; 512]);
/// let weighting = Weighting::new(GgmlType::Q4_K, &importance);
/// // The second half of the row gives the same bytes alone as it gives in the whole row.
/// let (mut whole, mut half) = ([0; 288], [0; 144]);
/// quantize_weighted(GgmlType::Q4_K, &row, weighting.columns(0..512), &mut whole);
/// quantize_weighted(GgmlType::Q4_K, &row[256..], weighting.columns(256..512), &mut half);
/// assert_eq!(half, whole[144..]);
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Weighting {
    /// One weight per column, in the order in which the search of the type reads them within a block.
    weights: Option<Vec<f32>>,
}

impl Weighting {
    /// Prepares `importance`, the mean squares of the inputs that meet each column, for quantizing to `ty`.
    ///
    /// # Panics
    /// If [`can_quantize`](super::can_quantize) is false for the type.
    pub fn new(ty: GgmlType, importance: &[f32]) -> Self {
        Self { weights: with_encoding!(ty, F => <F as Encoding>::weights(importance)) }
    }

    /// Returns the weights of some of the columns: whole blocks of the type. `None` if all columns count the same.
    pub fn columns(&self, columns: Range<usize>) -> Option<Columns<'_>> {
        self.weights.as_ref().map(|weights| Columns(&weights[columns]))
    }
}
