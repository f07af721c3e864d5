//! What errors of matrices cost the answers of a model.
//!
//! An error d of the outputs of a matrix at a token makes the divergence of the answers about (g d)^2 / 2, where g is the gradient of the
//! log-likelihood of tokens that the model itself has drawn: the mean over the drawn tokens is the Fisher information. The errors of the
//! rows of a matrix do not depend on each other, so |g|^2 times the mean of d^2 stands for (g d)^2, and some of the rows are enough for
//! this mean. Errors of different tokens are taken as independent, too. `docs/decisions/0011-budget.md` has the measurements.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

use crate::error::Result;
use crate::forward::Observer;
use crate::forward::gradient::there_and_back;
use crate::forward::gradient_observer::GradientObserver;
use crate::forward::pass::{RunOptions, tokens_of};
use crate::forward::token_weights::Gradients;
use crate::forward::weights::Linear;
use crate::linalg::gemm::gemm;
use crate::linalg::matrix::{MatMut, MatRef, Update};
use crate::model::bound::BoundModel;
use crate::quant::recipe::EMBEDDING;

/// Some rows of the error of each matrix, by its name: what its rounding adds to its weights.
pub type ErrorRows = HashMap<String, Vec<f32>>;

/// Returns the mean divergence over the tokens, in nats, that the errors of each matrix cause alone, to second order. An embedding that is
/// the output matrix too costs what both cost. Left out are matrices whose gradients are not computed, such as the embeddings of
/// Gemma 4 for each layer, and the errors of embeddings that a norm stands behind. The same tokens are drawn on every machine.
///
/// The result has the same bits for any number of threads, any memory and on every CPU.
///
/// # Errors
/// As [`gradients`](crate::forward::gradients).
pub fn error_costs(
    source: &BoundModel,
    tokens: &[Vec<u32>],
    errors: &ErrorRows,
    options: &RunOptions,
) -> Result<HashMap<String, f64>> {
    let n = tokens_of(tokens);
    let seen = OutputErrors { rows: errors, squares: Mutex::default() };
    let mut found =
        Found { of_layers: Gradients::new(n), of_logits: Gradients::new(n), of_embeddings: BTreeMap::new() };
    there_and_back(source, tokens, (0, 0), 0, &mut &seen, &mut found, options)?;
    let seen = seen.squares.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut costs = HashMap::new();
    for (name, gradients) in found.of_layers.by_name().chain(found.of_logits.by_name()) {
        if let Some(errors) = seen.get(name) {
            let products = gradients.iter().zip(errors).map(|(g, d)| f64::from(*g) * d);
            costs.insert(name.to_string(), products.sum::<f64>() / (2 * n) as f64);
        }
    }
    if let Some(rows) = errors.get(EMBEDDING).filter(|_| !found.of_embeddings.is_empty()) {
        // The error of an embedding is the same wherever its token stands.
        let squares: f64 =
            found.of_embeddings.values().map(|sum| sum.iter().map(|g| g * g).sum::<f64>()).sum();
        *costs.entry(EMBEDDING.to_string()).or_default() += squares * mean_square(rows) / (2 * n) as f64;
    }
    Ok(costs)
}

fn mean_square(values: &[f32]) -> f64 {
    values.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>() / values.len() as f64
}

/// Computes how large the errors of outputs are.
struct OutputErrors<'a> {
    rows: &'a ErrorRows,
    /// The mean square of the errors of the outputs at each token, by matrix.
    squares: Mutex<HashMap<String, Vec<f64>>>,
}

impl Observer for &OutputErrors<'_> {
    fn inputs(&mut self, names: &[&str], expert: Option<usize>, n: usize, x: &[f32]) -> Result<()> {
        for name in names {
            let Some(rows) = self.rows.get(*name).filter(|_| expert.is_none()) else { continue };
            let (tokens, count) = (x.len() / n, rows.len() / n);
            let mut errors = vec![0.0; tokens * count];
            let x = MatRef::from_row_major_slice(x, tokens, n);
            let rows = MatRef::from_row_major_slice(rows, count, n).transpose();
            gemm(x, rows, MatMut::from_row_major_slice(&mut errors, tokens, count), Update::Set);
            let mut squares = self.squares.lock().unwrap_or_else(PoisonError::into_inner);
            let of = squares.entry((*name).to_string()).or_default();
            of.extend(errors.chunks_exact(count).map(mean_square));
        }
        Ok(())
    }
}

/// The derivatives that are found on the way back.
struct Found {
    of_layers: Gradients,
    of_logits: Gradients,
    /// The sum of the derivatives by the embedding of each token.
    of_embeddings: BTreeMap<u32, Vec<f64>>,
}

impl GradientObserver for Found {
    fn of_outputs(&mut self, parts: &[(&Linear, &[f32])], first: usize) {
        self.of_layers.of_outputs(parts, first);
    }

    fn of_logits(&mut self, output: &Linear, gradients: &[f32], first: usize) {
        self.of_logits.of_outputs(&[(output, gradients)], first);
    }

    fn of_embeddings(&mut self, tokens: &[u32], gradients: &[f32]) {
        let width = gradients.len() / tokens.len();
        for (token, row) in tokens.iter().zip(gradients.chunks_exact(width)) {
            let sum = self.of_embeddings.entry(*token).or_insert_with(|| vec![0.0; width]);
            sum.iter_mut().zip(row).for_each(|(sum, g)| *sum += f64::from(*g));
        }
    }
}
