//! Multi-head latent attention (DeepSeek-V2 2024). All heads share one key: a compressed vector of the token, which is also
//! the value, and a rotated part. The matrices that unpack the compressed vector are multiplied with the queries and with the
//! sums of the values instead, as llama.cpp does it, so that each of these matrices sees the inputs that it will see there.

use crate::error::Result;
use crate::forward::attention::attend;
use crate::forward::buffers::Buffer;
use crate::forward::groups::Group;
use crate::forward::model::{Layer, Model};
use crate::forward::pass::Pass;
use crate::forward::weights::{Linear, Weights};

/// The tensors of latent attention.
struct Latent {
    /// Compresses the input for the queries; `None` if the queries are made of the input at once.
    compress_queries: Option<Linear>,
    queries: Linear,
    /// Makes the compressed vector and the rotated part of the key.
    compress: Linear,
    /// For each head: what unpacks keys and values, `[heads, compressed, plain]` and `[heads, value, compressed]`.
    unpack_keys: Linear,
    unpack_values: Linear,
    output: Linear,
    /// Sizes of the compressed vector, of the rotated and the unrotated part of a query, and of a head's output.
    compressed: usize,
    rotated: usize,
    plain: usize,
    value: usize,
}

impl Latent {
    fn find(weights: &Weights, model: &Model, layer: &Layer) -> Result<Self> {
        let stem = |name: &str| format!("blk.{}.{name}", layer.index);
        let (compressed, heads) = (layer.head_dim_v, layer.n_head);
        let compress = weights.required_linear(&stem("attn_kv_a_mqa"))?;
        let rotated = layer.rope.map_or(0, |rope| model.ropes[rope].dims);
        if layer.n_head_kv != 1 || layer.head_dim != compressed + rotated || model.latent_key <= rotated {
            let what = format!(
                "belongs to keys of {} values, which do not fit {compressed} compressed and {rotated} rotated values",
                layer.head_dim
            );
            return Err(weights.fail(&compress.name, what));
        }
        let (plain, value) = (model.latent_key - rotated, model.latent_value);
        let compress_queries = weights.linear(&stem("attn_q_a"))?;
        let queries = match &compress_queries {
            Some(_) => weights.required_linear(&stem("attn_q_b"))?,
            None => weights.required_linear(&stem("attn_q"))?,
        };
        let found = Self {
            unpack_keys: weights.required_linear(&stem("attn_k_b"))?,
            unpack_values: weights.required_linear(&stem("attn_v_b"))?,
            output: weights.required_linear(&stem("attn_output"))?,
            compress_queries,
            queries,
            compress,
            compressed,
            rotated,
            plain,
            value,
        };
        let inputs = match &found.compress_queries {
            Some(compress) => {
                weights.check_inputs(&compress.matrix, model.width)?;
                compress.rows()
            }
            None => model.width,
        };
        weights.check_shape(&found.queries, heads * (plain + rotated), inputs)?;
        weights.check_shape(&found.compress, compressed + rotated, model.width)?;
        weights.check_shape(&found.unpack_keys, heads * compressed, plain)?;
        weights.check_shape(&found.unpack_values, heads * value, compressed)?;
        weights.check_shape(&found.output, model.width, heads * value)?;
        Ok(found)
    }
}

/// Checks the tensors of latent attention.
///
/// # Errors
/// Returns an error about the model if a tensor is missing or has another shape.
pub fn check(weights: &Weights, model: &Model, layer: &Layer) -> Result<()> {
    Latent::find(weights, model, layer).map(drop)
}

impl Pass<'_> {
    /// Computes the latent attention of a layer for its normalized input.
    pub(super) fn latent_attention(&mut self, layer: &Layer, group: &Group, input: &[f32]) -> Result<Buffer> {
        let (weights, width, tokens) = (self.weights, self.model.width, group.tokens.len());
        let of = Latent::find(weights, self.model, layer)?;
        let first = of.compress_queries.as_ref().unwrap_or(&of.queries);
        self.observe(&[first, &of.compress], None, width, input)?;
        let queries = match &of.compress_queries {
            Some(compress) => {
                let mut few = weights.apply(compress, input, width)?;
                self.norm_of_rows(&format!("blk.{}.attn_q_a_norm", layer.index), &mut few, compress.rows())?;
                self.observe(&[&of.queries], None, compress.rows(), &few)?;
                weights.apply(&of.queries, &few, compress.rows())?
            }
            None => weights.apply(&of.queries, input, width)?,
        };
        let (mut keys, values) = self.latent_keys(layer, group, &of, input)?;
        let mut absorbed = self.absorb(layer, &of, &queries)?;
        self.rotate_tails(layer, group, of.rotated, &mut absorbed);
        self.rotate_tails(layer, group, of.rotated, &mut keys);
        self.scale_by_temperature(group, &mut absorbed);
        let mut sums = weights.buffers.take(tokens * layer.n_head * of.compressed);
        attend(&self.shape(layer), &[], &absorbed, &keys, &values, &group.lengths, &mut sums);
        let (n, heads) = (of.compressed, layer.n_head);
        let mut y = weights.buffers.take(tokens * heads * of.value);
        for head in 0..heads {
            let x = weights.buffers.columns(&sums, heads * n, head * n, n);
            self.observe(&[&of.unpack_values], Some(head), n, &x[..x.len() / self.streams()])?;
            let unpacked =
                weights.apply(&of.unpack_values.slice(head * of.value..(head + 1) * of.value), &x, n)?;
            set_columns(&mut y, &unpacked, heads * of.value, head * of.value, of.value);
        }
        self.observe(&[&of.output], None, heads * of.value, &y)?;
        weights.apply(&of.output, &y, heads * of.value)
    }

    /// Returns the keys (without rotation) and the values.
    fn latent_keys(
        &mut self,
        layer: &Layer,
        group: &Group,
        of: &Latent,
        input: &[f32],
    ) -> Result<(Buffer, Buffer)> {
        let mut keys = self.weights.apply(&of.compress, input, self.model.width)?;
        let n = of.compressed + of.rotated;
        let mut values = self.weights.buffers.columns(&keys, n, 0, of.compressed);
        self.norm_of_rows(&format!("blk.{}.attn_kv_a_norm", layer.index), &mut values, of.compressed)?;
        debug_assert_eq!(values.len(), group.tokens.len() * of.compressed);
        set_columns(&mut keys, &values, n, 0, of.compressed);
        Ok((keys, values))
    }

    /// Multiplies the unrotated part of each query with the matrix that would unpack the keys of its head.
    fn absorb(&mut self, layer: &Layer, of: &Latent, queries: &[f32]) -> Result<Buffer> {
        let (weights, heads) = (self.weights, layer.n_head);
        let (from, to) = (of.plain + of.rotated, of.compressed + of.rotated);
        let tokens = queries.len() / (heads * from);
        let mut absorbed = weights.buffers.take(tokens * heads * to);
        for head in 0..heads {
            let plain = weights.buffers.columns(queries, heads * from, head * from, of.plain);
            let own = plain.len() / self.streams();
            self.observe(&[&of.unpack_keys], Some(head), of.plain, &plain[..own])?;
            let unpack = of.unpack_keys.slice(head * of.compressed..(head + 1) * of.compressed);
            let y = weights.apply(&unpack, &plain, of.plain)?;
            set_columns(&mut absorbed, &y, heads * to, head * to, of.compressed);
            let rotated = weights.buffers.columns(queries, heads * from, head * from + of.plain, of.rotated);
            set_columns(&mut absorbed, &rotated, heads * to, head * to + of.compressed, of.rotated);
        }
        Ok(absorbed)
    }

    /// Rotates the last `n` values of each head of `layer.head_dim` values.
    fn rotate_tails(&self, layer: &Layer, group: &Group, n: usize, x: &mut [f32]) {
        let Some(rope) = layer.rope.filter(|_| n > 0) else { return };
        let (heads, size) = (x.len() / group.tokens.len() / layer.head_dim, layer.head_dim);
        for head in 0..heads {
            let mut tails = self.weights.buffers.columns(x, heads * size, (head + 1) * size - n, n);
            self.tables[rope].rotate(&mut tails, n, n, &group.positions);
            set_columns(x, &tails, heads * size, (head + 1) * size - n, n);
        }
    }
}

/// Writes rows of `n` values to the place from `first` on of rows of `width` values.
fn set_columns(x: &mut [f32], part: &[f32], width: usize, first: usize, n: usize) {
    let rows = x.chunks_exact_mut(width).zip(part.chunks_exact(n.max(1)));
    rows.for_each(|(row, from)| row[first..first + n].copy_from_slice(from));
}
