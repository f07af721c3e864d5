//! A layer of the model: its norms, its attention, and how their outputs are added to the residual stream.

use rayon::prelude::*;

use crate::error::Result;
use crate::forward::activation;
use crate::forward::arch::{NormKind, Order, Reach};
use crate::forward::attention::{self, Shape};
use crate::forward::buffers::Buffer;
use crate::forward::groups::Group;
use crate::forward::mixer::Mixer;
use crate::forward::model::Layer;
use crate::forward::norm::Norm;
use crate::forward::pass::Pass;
use crate::forward::projections::Projections;
use crate::forward::spill::SpillBuffer;
use crate::forward::streams::Way;
use crate::forward::vectors::{PIECE, add, scale};

impl Pass<'_> {
    /// Applies the norm `STEM.weight`, `STEM.bias` to rows of the hidden size. Does nothing if the model has no such norm.
    pub(super) fn normalize(&self, stem: &str, x: &mut [f32]) -> Result<()> {
        self.norm_of_rows(stem, x, self.model.width)
    }

    /// Applies a norm to rows of `n` values. Does nothing if the model has no such norm.
    pub(super) fn norm_of_rows(&self, stem: &str, x: &mut [f32], n: usize) -> Result<()> {
        self.find_norm(stem, n)?.iter().for_each(|norm| norm.apply(x, n));
        Ok(())
    }

    /// Returns the norm `STEM.weight`, `STEM.bias` of rows of `n` values; `None` if the model has no such norm.
    fn find_norm(&self, stem: &str, n: usize) -> Result<Option<Norm>> {
        let weight = match self.weights.vector(&format!("{stem}.weight"), n)? {
            // One norm of Falcon-H1 is named without `.weight`.
            None => self.weights.vector(stem, n)?,
            found => found,
        };
        weight.map(|weight| self.norm_with(stem, weight)).transpose()
    }

    fn norm_with(&self, stem: &str, weight: Vec<f32>) -> Result<Norm> {
        let bias = self.weights.vector(&format!("{stem}.bias"), weight.len())?.unwrap_or_default();
        Ok(Norm { weight, bias, ..Norm::without_weights(self.model.family.norm, self.model.eps) })
    }

    /// Returns a norm that the family names without `blk.N.`. An empty name stands for no norm.
    pub(super) fn find_layer_norm(&self, layer: &Layer, name: &str) -> Result<Option<Norm>> {
        let family = self.model.family;
        if family.norms_without_weights && matches!(name, "attn_norm" | "ffn_norm" | "output_norm") {
            return Ok(Some(Norm::without_weights(family.norm, self.model.eps)));
        }
        match name {
            "" => Ok(None),
            name => self.find_norm(&format!("blk.{}.{name}", layer.index), self.model.width),
        }
    }

    /// Returns the norm before the output matrix.
    pub(super) fn find_output_norm(&self) -> Result<Option<Norm>> {
        let (family, eps) = (self.model.family, self.model.eps);
        match family.norms_without_weights {
            true => Ok(Some(Norm::without_weights(family.norm, eps))),
            false => self.find_norm(family.output_norm, self.model.width),
        }
    }

    /// Applies a norm that the family names without `blk.N.`. An empty name stands for no norm.
    fn layer_norm(&self, layer: &Layer, name: &str, x: &mut [f32]) -> Result<()> {
        self.find_layer_norm(layer, name)?.iter().for_each(|norm| norm.apply(x, self.model.width));
        Ok(())
    }

    /// Computes a layer in place of its input `x`, the residual stream.
    pub(super) fn layer(&mut self, layer: &Layer, group: &Group, x: &mut [f32]) -> Result<()> {
        let (model, family) = (self.model, self.model.family);
        if model.states > 1 {
            return self.layer_of_states(layer, group, x);
        }
        let after = family.order == Order::PostNorm;
        let mut input = self.weights.buffers.copy(x);
        let named = |name: &str| self.weights.has(&format!("blk.{}.{name}.weight", layer.index));
        // A second norm of this name belongs to attention alone, or comes behind the norm of the sum.
        let second = named("attn_norm_2");
        let before = if second && !after { "attn_norm_2" } else { family.attention_norm };
        let own_norm = named(family.ffn_norm) && family.ffn_norm != before;
        self.layer_norm(layer, before, &mut input)?;
        let way = |post: &str, is_one: bool| match post {
            _ if after => Way::Other,
            _ if family.norms_without_weights || post.is_empty() || !named(post) => Way::Plain,
            _ if is_one && family.norm == NormKind::Rms => {
                Way::Normed(format!("blk.{}.{post}.weight", layer.index))
            }
            _ => Way::Other,
        };
        let attention_way = match layer.mixer {
            Mixer::AttentionAndMamba2 => Way::Other,
            _ => way(family.attention_post_norm, true),
        };
        let ffn_way = way(family.ffn_post_norm, !named("ffn_gate_inp"));
        self.note_missing(x, None, &attention_way)?;
        let mut attended = self.mix(layer, group, &input)?;
        let parallel = model.parallel;
        if let Some(attended) = &mut attended {
            if !after {
                self.layer_norm(layer, family.attention_post_norm, attended)?;
            }
            if !parallel {
                add(x, attended, model.residual_scale);
            }
            if after {
                self.layer_norm(layer, family.attention_post_norm, x)?;
            }
            if after && second {
                add(x, &input, 1.0);
                self.layer_norm(layer, "attn_norm_2", x)?;
            }
        }
        if self.has_feed_forward(layer) {
            if !parallel || own_norm {
                input.copy_from_slice(x);
                self.layer_norm(layer, family.ffn_norm, &mut input)?;
            }
            let added = attended.as_deref().filter(|_| parallel);
            self.note_missing(x, added, &ffn_way)?;
            let mut y = self.feed_forward(layer, x, &input)?;
            self.missing = None;
            if let Some(attended) = attended.filter(|_| parallel) {
                add(x, &attended, model.residual_scale);
            }
            if !after {
                self.layer_norm(layer, family.ffn_post_norm, &mut y)?;
            }
            add(x, &y, model.residual_scale);
            if after {
                self.layer_norm(layer, family.ffn_post_norm, x)?;
            }
        }
        if model.per_layer > 0 {
            self.add_per_layer(layer, group, x)?;
        }
        scale(x, self.output_scale(layer)?);
        Ok(())
    }

    /// Returns the factor of the outputs of a layer; 1 in most models.
    pub(super) fn output_scale(&self, layer: &Layer) -> Result<f32> {
        let found = self.weights.vector(&format!("blk.{}.layer_output_scale.weight", layer.index), 1)?;
        Ok(found.map_or(1.0, |factor| factor[0]))
    }

    /// Computes the attention of a layer for its normalized input.
    pub(super) fn attention(&mut self, layer: &Layer, group: &Group, input: &[f32]) -> Result<Buffer> {
        let width = self.model.width;
        let of = Projections::find(self.weights, self.model, layer)?;
        self.observe(&of.observed(), None, width, input)?;
        let mut q = self.weights.apply(&of.q, input, width)?;
        let mut gate = None;
        if self.model.family.gated_queries {
            let parts = self.split_heads(&q, layer.head_dim);
            (q, gate) = (parts.0, Some(parts.1));
        }
        if let Some(matrix) = &of.gate {
            gate = Some(self.weights.apply(matrix, input, width)?);
        }
        self.finish_heads(layer, group, "attn_q_norm", &mut q)?;
        if !self.model.temperature_unrotated || layer.rope.is_none() {
            self.scale_by_temperature(group, &mut q);
        }
        let [k, v] = self.keys_and_values(layer, group, &of, input)?;
        let mut sums = self.weights.buffers.take(group.tokens.len() * layer.n_head * layer.head_dim_v);
        let sinks = self.weights.vector(&format!("blk.{}.attn_sinks.weight", layer.index), layer.n_head)?;
        attention::attend(
            &self.shape(layer),
            &sinks.unwrap_or_default(),
            &q,
            &k,
            &v,
            &group.lengths,
            &mut sums,
        );
        drop((q, k, v));
        let n = layer.n_head * layer.head_dim_v;
        match gate {
            Some(gate) if gate.len() < sums.len() || self.model.family.gates_by_softplus => {
                activation::gated_by_heads(&mut sums, &gate, self.model.family.gates_by_softplus);
            }
            Some(gate) => activation::gated_by_sigmoid(&mut sums, &gate),
            None => {}
        }
        self.norm_of_rows(&format!("blk.{}.attn_sub_norm", layer.index), &mut sums, n)?;
        self.observe(&[&of.output], None, n, &sums)?;
        let mut added = self.weights.apply(&of.output, &sums, n)?;
        if self.model.value_scale != 1.0 {
            scale(&mut added, self.model.value_scale);
        }
        Ok(added)
    }

    /// Returns whether a layer has a feed-forward network. A network whose tensors are missing is reported later, unless
    /// layers may lack it.
    fn has_feed_forward(&self, layer: &Layer) -> bool {
        let has = |name: &str| self.weights.has(&format!("blk.{}.{name}.weight", layer.index));
        !self.model.family.layers_may_lack_parts || has("ffn_up") || has("ffn_gate_inp")
    }

    /// Splits rows of pairs of parts of `n` values into the first and the second parts.
    fn split_heads(&self, x: &[f32], n: usize) -> (Buffer, Buffer) {
        let (mut first, mut second) =
            (self.weights.buffers.take(x.len() / 2), self.weights.buffers.take(x.len() / 2));
        let parts = first.par_chunks_mut(n).zip(second.par_chunks_mut(n));
        parts.zip(x.par_chunks(2 * n)).for_each(|((first, second), x)| {
            first.copy_from_slice(&x[..n]);
            second.copy_from_slice(&x[n..]);
        });
        (first, second)
    }

    /// Returns the shape of a layer's attention.
    pub(super) fn shape(&self, layer: &Layer) -> Shape {
        Shape {
            n_head: layer.n_head,
            n_head_kv: layer.n_head_kv,
            head_dim: layer.head_dim,
            head_dim_v: layer.head_dim_v,
            scale: layer.scale,
            cap: self.model.score_cap,
            window: layer.window,
            reach: self.model.family.sliding.map_or(Reach::Back, |s| s.reach),
            causal: layer.causal,
            max_alibi_bias: self.model.max_alibi_bias,
        }
    }

    /// Clamps, normalizes and rotates the heads of queries or keys.
    pub(super) fn finish_heads(&self, layer: &Layer, group: &Group, norm: &str, x: &mut [f32]) -> Result<()> {
        self.clamp(x);
        let width = x.len() / group.tokens.len();
        let norm = self.find_head_norm(layer, norm, width)?;
        let last = self.model.family.norm_after_rope;
        if let Some(rope) = layer.rope.filter(|_| last) {
            self.tables[rope].rotate(x, width, layer.head_dim, &group.positions);
        }
        if let Some((norm, n)) = norm {
            norm.apply(x, n);
        }
        if let Some(rope) = layer.rope.filter(|_| !last) {
            self.tables[rope].rotate(x, width, layer.head_dim, &group.positions);
            if self.model.heads_normalized {
                let norm = Norm::without_weights(self.model.family.norm, self.model.eps);
                norm.apply(x, layer.head_dim);
            }
        }
        Ok(())
    }

    /// Returns the norm of heads in rows of `width` values, and the number of values that are normalized together; `None` if the
    /// layer has no such norm.
    pub(super) fn find_head_norm(
        &self,
        layer: &Layer,
        name: &str,
        width: usize,
    ) -> Result<Option<(Norm, usize)>> {
        let stem = format!("blk.{}.{name}", layer.index);
        let found = self.weights.head_norm(&format!("{stem}.weight"), layer.head_dim, width)?;
        found.map(|(weight, n)| Ok((self.norm_with(&stem, weight)?, n))).transpose()
    }

    fn clamp(&self, x: &mut [f32]) {
        if let Some(limit) = self.model.clamp {
            x.par_chunks_mut(PIECE).for_each(|x| x.iter_mut().for_each(|x| *x = x.clamp(-limit, limit)));
        }
    }

    /// Scales queries beyond the trained context with the logarithm of their position, as Llama 4 does.
    pub(super) fn scale_by_temperature(&self, group: &Group, q: &mut [f32]) {
        let Some((factor, period)) = self.model.temperature else { return };
        let next = u32::from(self.model.temperature_unrotated);
        let width = q.len() / group.tokens.len();
        q.par_chunks_mut(width).zip(&group.positions).for_each(|(q, &position)| {
            let by = libm::logf(((position + next) as f32 / period).floor() + 1.0) * factor + 1.0;
            q.iter_mut().for_each(|q| *q *= by);
        });
    }

    /// Returns the keys and the values of a layer: computed from its input, or those of an earlier layer.
    fn keys_and_values(
        &mut self,
        layer: &Layer,
        group: &Group,
        of: &Projections,
        input: &[f32],
    ) -> Result<[Buffer; 2]> {
        let Some(mut own) = self.own_keys(of, input)? else { return self.earlier_keys(layer, group) };
        self.finish_keys(layer, group, &mut own)?;
        if let Some(kept) = self.kv.get_mut(&layer.index) {
            for ((kept, values), head_dim) in
                kept.iter_mut().zip(&own).zip([layer.head_dim, layer.head_dim_v])
            {
                kept.save(group.first * layer.n_head_kv * head_dim, values)?;
            }
        }
        Ok(own)
    }

    /// Returns the products of a layer's input with the matrices of keys and values; `None` in a layer that uses those of an earlier
    /// layer. The values may be the keys.
    pub(super) fn own_keys(&self, of: &Projections, input: &[f32]) -> Result<Option<[Buffer; 2]>> {
        let (weights, width) = (self.weights, self.model.width);
        let Some(key) = &of.k else { return Ok(None) };
        let keys = weights.apply(key, input, width)?;
        let values = match &of.v {
            Some(value) => weights.apply(value, input, width)?,
            None => weights.buffers.copy(&keys),
        };
        Ok(Some([keys, values]))
    }

    /// Turns the products of [`Pass::own_keys`] into the keys and the values of the attention.
    pub(super) fn finish_keys(&self, layer: &Layer, group: &Group, [k, v]: &mut [Buffer; 2]) -> Result<()> {
        self.finish_heads(layer, group, "attn_k_norm", k)?;
        self.clamp(v);
        self.value_norm().iter().for_each(|norm| norm.apply(v, layer.head_dim_v));
        Ok(())
    }

    /// Returns the norm of the heads of values, which has no weights; `None` in most models.
    pub(super) fn value_norm(&self) -> Option<Norm> {
        let family = self.model.family;
        family.value_norm.then(|| Norm::without_weights(family.norm, self.model.eps))
    }

    /// Returns the keys and the values that a layer has from an earlier layer.
    pub(super) fn earlier_keys(&self, layer: &Layer, group: &Group) -> Result<[Buffer; 2]> {
        let earlier =
            layer.kv_of.expect("only layers without keys of their own ask for those of another layer");
        let [keys, values] = &self.kv[&earlier];
        let take = |kept: &SpillBuffer, of_token: usize| {
            let mut values = self.weights.buffers.take(group.tokens.len() * of_token);
            kept.load(group.first * of_token, &mut values)?;
            Ok(values)
        };
        let n = layer.n_head_kv;
        Ok([take(keys, n * layer.head_dim)?, take(values, n * layer.head_dim_v)?])
    }
}
