//! Weights of the squared error, one per column, in the form that the searches take.

/// The prepared weights of the columns of a matrix, or of some of its columns. See [`Weighting::columns`](super::Weighting::columns).
#[derive(Debug, Clone, Copy)]
pub struct Columns<'a>(pub(crate) &'a [f32]);

impl<'a> Columns<'a> {
    /// Returns the weights of the block of `LEN` columns with the number `i`, counted over all rows.
    #[inline(always)]
    pub(super) fn block<const LEN: usize>(self, i: usize) -> &'a [f32; LEN] {
        let blocks = self.0.as_chunks::<LEN>().0;
        &blocks[i % blocks.len()]
    }
}

impl<'a> Columns<'a> {
    /// Returns the weights of `n` blocks of `len` columns from block `i` on, counted over all rows. `gathered` is used
    /// where the blocks span the end of a row.
    #[inline(always)]
    pub(super) fn blocks<'b>(self, i: usize, n: usize, len: usize, gathered: &'b mut [f32]) -> &'b [f32]
    where
        'a: 'b,
    {
        let first = i * len % self.0.len();
        if let Some(weights) = self.0.get(first..first + n * len) {
            return weights;
        }
        for (i, to) in gathered[..n * len].chunks_exact_mut(len).enumerate() {
            to.copy_from_slice(&self.0[(first + i * len) % self.0.len()..][..len]);
        }
        gathered
    }
}

/// Scales importances to a mean of 1 and keeps them above zero, so that columns about which nothing is known still get
/// sensible codes and no sum overflows. Returns `None` if all importances are zero: then there is nothing to weigh by.
pub(crate) fn normalize(importance: &[f32]) -> Option<Vec<f32>> {
    let mean = importance.iter().map(|&v| f64::from(v)).sum::<f64>() / importance.len() as f64;
    if !(mean > 0.0 && mean.is_finite()) {
        return None;
    }
    Some(importance.iter().map(|&v| ((f64::from(v) / mean) as f32).max(1e-6)).collect())
}

/// Exchanges rows and columns within each super-block: `[sub-block][weight]` becomes `[weight][sub-block]`, so that one
/// load gives the same weight of every sub-block. `sub` is the length of a sub-block.
pub(super) fn by_weight<const BLOCK: usize>(mut weights: Vec<f32>, sub: usize) -> Vec<f32> {
    let subs = BLOCK / sub;
    for block in weights.as_chunks_mut::<BLOCK>().0 {
        let plain = *block;
        for (i, w) in block.iter_mut().enumerate() {
            *w = plain[i % subs * sub + i / subs];
        }
    }
    weights
}
