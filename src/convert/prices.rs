//! What the errors of each tensor cost the answers of the model, by the derivatives of the model: one run there and back serves all
//! tensors. For models whose derivatives are not known, [`sensitivity`](super::sensitivity) measures what the errors of groups of tensors
//! cost.

use std::collections::HashMap;

use crate::convert::measure::Measured;
use crate::convert::planned::Plan;
use crate::convert::sensitivity::Pass;
use crate::error::Result;
use crate::forward;

/// Returns by the names of tensors the mean divergence over the tokens, in nats, for each unit of the error of a
/// [`Candidate`](super::measure::Candidate). Left out are tensors that [`forward::error_costs`] leaves out: all, for a model whose
/// derivatives are not known. The sampled rows of the tensors are used up.
///
/// # Errors
/// The errors of [`forward::error_costs`].
pub fn prices(
    plan: &Plan,
    measured: &mut [Measured],
    tokens: &[Vec<u32>],
    pass: &Pass,
) -> Result<HashMap<String, f64>> {
    if tokens.is_empty() || !forward::has_gradient(&plan.model)? {
        return Ok(HashMap::new());
    }
    let (mut rows, mut errors) = (HashMap::new(), HashMap::new());
    for tensor in measured {
        if let Some(sampled) = tensor.sampled.take() {
            let name = &plan.tensors[tensor.index].bound.name;
            errors.insert(name.clone(), sampled.error);
            rows.insert(name.clone(), sampled.rows);
        }
    }
    let costs = forward::error_costs(&plan.model, tokens, &rows, &pass.forward(false))?;
    let price = |(name, cost): (String, f64)| {
        let price = cost / errors[&name];
        price.is_finite().then_some((name, price))
    };
    Ok(costs.into_iter().filter_map(price).collect())
}
