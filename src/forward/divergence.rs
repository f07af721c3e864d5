//! How far the outputs of two models are from each other: the divergence between their next tokens, or for encoders, which have no logits,
//! the cosine distance between the states of their tokens.
//!
//! ```
//! use srd_rs::forward::divergence::{cosine_distance, divergence};
//!
//! assert_eq!(divergence(&[1.0, 2.0], &[1.0, 2.0]), 0.0);
//! assert!(divergence(&[1.0, 2.0], &[2.0, 1.0]) > 0.0);
//! assert_eq!(cosine_distance(&[1.0, 0.0], &[0.0, 3.0]), 1.0);
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

/// Returns `1 - cos(p, q)` of two states of a token, as `|p/|p| - q/|q||^2 / 2`, which does not cancel. It is 0 where a state is 0.
pub fn cosine_distance(p: &[f32], q: &[f32]) -> f64 {
    let length = |x: &[f32]| x.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt();
    let (of_p, of_q) = (length(p), length(q));
    if of_p == 0.0 || of_q == 0.0 {
        return 0.0;
    }
    let term = |(&p, &q): (&f32, &f32)| (f64::from(p) / of_p - f64::from(q) / of_q).powi(2);
    p.iter().zip(q).map(term).sum::<f64>() / 2.0
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

    #[test]
    fn the_cosine_distance_does_not_depend_on_lengths() {
        assert!(cosine_distance(&[1.0, 2.0], &[2.0, 4.0]) < 1e-15);
        let expected = 1.0 - 1.0 / 2f64.sqrt();
        assert!((cosine_distance(&[3.0, 0.0], &[1.0, 1.0]) - expected).abs() < 1e-12);
        assert_eq!(cosine_distance(&[0.0, 0.0], &[1.0, 1.0]), 0.0);
    }
}
