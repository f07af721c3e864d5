//! The matrices of a layer's attention, under the names of GGUF.

use crate::error::Result;
use crate::forward::model::{Layer, Model};
use crate::forward::weights::{Linear, Weights};

/// The matrices of a layer's attention. Those of queries, keys and values may be parts of one tensor.
pub(super) struct Projections {
    pub q: Linear,
    /// `None` in a layer that uses the keys of an earlier layer.
    pub k: Option<Linear>,
    /// `None` if the values are the keys.
    pub v: Option<Linear>,
    /// Makes what gates the sums of the values, or each head of them; `None` in most models.
    pub gate: Option<Linear>,
    pub output: Linear,
}

impl Projections {
    /// Finds the matrices and checks their shapes.
    ///
    /// # Errors
    /// Returns [`Error::Model`] if a matrix is missing or has another shape than the heads of the layer.
    pub(super) fn find(weights: &Weights, model: &Model, layer: &Layer) -> Result<Self> {
        let stem = |name: &str| format!("blk.{}.{name}", layer.index);
        let parts = if model.family.gated_queries { 2 } else { 1 };
        let (n_q, n_k) = (parts * layer.n_head * layer.head_dim, layer.n_head_kv * layer.head_dim);
        let n_v = layer.n_head_kv * layer.head_dim_v;
        let own = layer.kv_of.is_none();
        let output = weights.required_linear(&stem("attn_output"))?;
        weights.check_shape(&output, model.width, layer.n_head * layer.head_dim_v)?;
        let gate = weights.linear(&stem("attn_gate"))?;
        gate.iter().try_for_each(|g| {
            let of_heads = g.rows() == layer.n_head;
            weights.check_shape(g, layer.n_head * if of_heads { 1 } else { layer.head_dim_v }, model.width)
        })?;
        let found = match weights.linear(&stem("attn_qkv"))? {
            Some(fused) => {
                weights.check_outputs(&fused, n_q + n_k + n_v)?;
                let k = fused.slice(n_q..n_q + n_k);
                let v = fused.slice(n_q + n_k..n_q + n_k + n_v);
                Self { q: fused.slice(0..n_q), k: Some(k).filter(|_| own), v: Some(v), gate, output }
            }
            None => Self {
                q: weights.required_linear(&stem("attn_q"))?,
                k: if own { Some(weights.required_linear(&stem("attn_k"))?) } else { None },
                v: weights.linear(&stem("attn_v"))?.filter(|_| own),
                gate,
                output,
            },
        };
        weights.check_shape(&found.q, n_q, model.width)?;
        found.k.iter().try_for_each(|k| weights.check_shape(k, n_k, model.width))?;
        found.v.iter().try_for_each(|v| weights.check_shape(v, n_v, model.width))?;
        if own && found.v.is_none() && n_v != n_k {
            let what = format!("is missing, and keys of {n_k} values cannot serve as {n_v} values");
            return Err(weights.fail(&format!("{}.weight", stem("attn_v")), what));
        }
        Ok(found)
    }

    /// Returns the matrices that share the layer's input, each tensor once.
    pub fn observed(&self) -> Vec<&Linear> {
        let all = [Some(&self.q), self.k.as_ref(), self.v.as_ref(), self.gate.as_ref()];
        let mut all: Vec<&Linear> = all.into_iter().flatten().collect();
        all.dedup_by(|a, b| a.name == b.name);
        all
    }
}
