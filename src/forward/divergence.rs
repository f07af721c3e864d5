//! The divergence between two models' next tokens, from their logits.
//!
//! ```
//! use srd_rs::forward::divergence::divergence;
//!
//! assert_eq!(divergence(&[1.0, 2.0], &[1.0, 2.0]), 0.0);
//! assert!(divergence(&[1.0, 2.0], &[2.0, 1.0]) > 0.0);
//! ```

/// Returns `KL(softmax(p) || softmax(q))` of two rows of logits, in nats.
pub fn divergence(p: &[f32], q: &[f32]) -> f64 {
    let (of_p, of_q) = (log_sum(p), log_sum(q));
    let term = |(&p, &q): (&f32, &f32)| {
        let (p, q) = (f64::from(p) - of_p, f64::from(q) - of_q);
        p.exp() * (p - q)
    };
    p.iter().zip(q).map(term).sum::<f64>().max(0.0)
}

/// Returns the logarithm of the sum of the exponentials.
fn log_sum(row: &[f32]) -> f64 {
    let largest = f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    largest + row.iter().map(|&x| (f64::from(x) - largest).exp()).sum::<f64>().ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_divergence_is_that_of_the_formula() {
        // Half and half against a quarter and three quarters, and a row that is the same but for a constant.
        let expected = 0.5 * (0.5f64 / 0.25).ln() + 0.5 * (0.5f64 / 0.75).ln();
        assert!((divergence(&[1.0, 1.0], &[0.0, 3.0f32.ln()]) - expected).abs() < 1e-7);
        assert!(divergence(&[5.0, 6.0], &[7.0, 8.0]).abs() < 1e-12);
    }
}
