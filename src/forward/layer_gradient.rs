//! The way back through a layer.

use std::collections::BTreeMap;

use crate::error::Result;
use crate::forward::activation;
use crate::forward::arch::Activation;
use crate::forward::attention::attend;
use crate::forward::attention_gradient::{self, attention_gradient};
use crate::forward::buffers::Buffer;
use crate::forward::embed::PerLayer;
use crate::forward::ffn::Dense;
use crate::forward::gradient_observer::GradientObserver;
use crate::forward::groups::Group;
use crate::forward::model::Layer;
use crate::forward::pass::Pass;
use crate::forward::projections::Projections;
use crate::forward::spill::SpillBuffer;
use crate::forward::vectors::{add, scale};
use crate::forward::weights::Linear;

/// What the way back collects from layer to layer.
pub(super) struct Collected<'a> {
    /// The derivatives by the outputs of the matrices.
    pub gradients: &'a mut dyn GradientObserver,
    /// The derivatives by keys and values that later layers have used, by the layer that computes the keys and values.
    pub of_keys: BTreeMap<usize, [SpillBuffer; 2]>,
}

/// The parts of an attention that its derivatives need.
struct Attention {
    of: Projections,
    /// The product with the matrix of queries.
    queries: Buffer,
    /// The products with the matrices of keys and values; `None` in a layer that uses those of an earlier layer.
    own: Option<[Buffer; 2]>,
    /// The finished queries, keys and values.
    finished: [Buffer; 3],
    /// The outputs, before a norm behind them.
    outputs: Buffer,
}

/// The parts of a feed-forward network that its derivatives need.
struct FeedForward {
    of: Dense,
    gate: Option<Buffer>,
    up: Buffer,
    /// The outputs, before a norm behind them.
    outputs: Buffer,
}

impl Pass<'_> {
    /// Turns `gradient`, the derivatives of a number by the outputs of a layer, into its derivatives by the inputs `x`. `to` receives the
    /// derivatives by the outputs of the layer's matrices, and has those by its keys from the layers behind it.
    pub(super) fn layer_gradient(
        &self,
        layer: &Layer,
        group: &Group,
        x: &[f32],
        gradient: &mut [f32],
        to: &mut Collected,
    ) -> Result<()> {
        let (model, family, width) = (self.model, self.model.family, self.model.width);
        let attention_norm = self.find_layer_norm(layer, family.attention_norm)?;
        let attention_post_norm = self.find_layer_norm(layer, family.attention_post_norm)?;
        let ffn_norm = self.find_layer_norm(layer, family.ffn_norm)?;
        let ffn_post_norm = self.find_layer_norm(layer, family.ffn_post_norm)?;
        // Parallel parts whose norms are one share their input.
        let is_shared = model.parallel && (ffn_norm.is_none() || family.ffn_norm == family.attention_norm);

        let mut input = self.weights.buffers.copy(x);
        attention_norm.iter().for_each(|norm| norm.apply(&mut input, width));
        let attention = self.attention_again(layer, group, &input)?;
        let mut between = self.weights.buffers.copy(x);
        if !model.parallel {
            let mut added = self.weights.buffers.copy(&attention.outputs);
            attention_post_norm.iter().for_each(|norm| norm.apply(&mut added, width));
            add(&mut between, &added, model.residual_scale);
        }
        if !is_shared {
            input.copy_from_slice(&between);
            ffn_norm.iter().for_each(|norm| norm.apply(&mut input, width));
        }
        let ffn = self.feed_forward_again(layer, &input)?;

        scale(gradient, self.output_scale(layer)?);
        if model.per_layer > 0 {
            let mut added = self.weights.buffers.copy(&ffn.outputs);
            ffn_post_norm.iter().for_each(|norm| norm.apply(&mut added, width));
            let mut behind = self.weights.buffers.copy(&between);
            add(&mut behind, &added, model.residual_scale);
            self.per_layer_gradient(layer, group, &behind, gradient, to)?;
        }
        let mut of_outputs = self.weights.buffers.copy(gradient);
        scale(&mut of_outputs, model.residual_scale);
        ffn_post_norm.iter().for_each(|norm| norm.gradient(&ffn.outputs, &mut of_outputs, width));
        let mut of_ffn = self.feed_forward_gradient(ffn, group, &of_outputs, to)?;
        let mut of_outputs = self.weights.buffers.copy(gradient);
        if !is_shared {
            ffn_norm.iter().for_each(|norm| norm.gradient(&between, &mut of_ffn, width));
            add(gradient, &of_ffn, 1.0);
            if !model.parallel {
                of_outputs.copy_from_slice(gradient);
            }
        }
        scale(&mut of_outputs, model.residual_scale);
        attention_post_norm.iter().for_each(|norm| norm.gradient(&attention.outputs, &mut of_outputs, width));
        let mut of_input = self.attention_gradient(layer, group, attention, &mut of_outputs, to)?;
        if is_shared {
            add(&mut of_input, &of_ffn, 1.0);
        }
        attention_norm.iter().for_each(|norm| norm.gradient(x, &mut of_input, width));
        add(gradient, &of_input, 1.0);
        Ok(())
    }

    /// Computes an attention, and keeps what its derivatives need.
    fn attention_again(&self, layer: &Layer, group: &Group, input: &[f32]) -> Result<Attention> {
        let (weights, width) = (self.weights, self.model.width);
        let of = Projections::find(weights, self.model, layer)?;
        let queries = weights.apply(&of.q, input, width)?;
        let mut q = weights.buffers.copy(&queries);
        self.finish_heads(layer, group, "attn_q_norm", &mut q)?;
        let own = self.own_keys(&of, input)?;
        let [k, v] = match &own {
            Some(own) => {
                let mut finished = own.each_ref().map(|x| weights.buffers.copy(x));
                self.finish_keys(layer, group, &mut finished)?;
                finished
            }
            None => self.earlier_keys(layer, group)?,
        };
        let mut sums = weights.buffers.take(group.tokens.len() * layer.n_head * layer.head_dim_v);
        attend(&self.shape(layer), &[], &q, &k, &v, &group.lengths, &mut sums);
        let mut outputs = weights.apply(&of.output, &sums, layer.n_head * layer.head_dim_v)?;
        scale(&mut outputs, self.model.value_scale);
        Ok(Attention { of, queries, own, finished: [q, k, v], outputs })
    }

    /// Returns the derivatives by the input of an attention. `gradient`, those by its outputs, is used up.
    fn attention_gradient(
        &self,
        layer: &Layer,
        group: &Group,
        Attention { of, queries, own, finished, .. }: Attention,
        gradient: &mut [f32],
        to: &mut Collected,
    ) -> Result<Buffer> {
        let weights = self.weights;
        scale(gradient, self.model.value_scale);
        to.gradients.of_outputs(&[(&of.output, gradient)], group.first);
        let mut of_sums = self.zeros(group.tokens.len() * layer.n_head * layer.head_dim_v);
        weights.add_transposed(&of.output.matrix, gradient, &mut of_sums)?;
        let [mut q, mut k, mut v] = finished.each_ref().map(|x| weights.buffers.take(x.len()));
        attention_gradient(
            &self.shape(layer),
            &[],
            finished.each_ref().map(|x| &**x),
            &of_sums,
            &group.lengths,
            attention_gradient::Gradients { q: &mut q, k: &mut k, v: &mut v },
        );
        drop(finished);
        self.heads_gradient(layer, group, "attn_q_norm", &queries, &mut q)?;
        let used_later = layer.kv_of.or(Some(layer.index).filter(|_| layer.kv_shared));
        if let Some(collected) = used_later.and_then(|of| to.of_keys.get_mut(&of)) {
            for (gradient, collected) in [&mut k, &mut v].into_iter().zip(collected) {
                let start = group.first * (gradient.len() / group.tokens.len());
                let mut sum = weights.buffers.take(gradient.len());
                collected.load(start, &mut sum)?;
                add(gradient, &sum, 1.0);
                collected.save(start, gradient)?;
            }
        }
        let mut parts: Vec<(&Linear, &[f32])> = vec![(&of.q, &q)];
        if let (Some([keys, values]), Some(key)) = (own, &of.k) {
            self.heads_gradient(layer, group, "attn_k_norm", &keys, &mut k)?;
            self.value_norm().iter().for_each(|norm| norm.gradient(&values, &mut v, layer.head_dim_v));
            match &of.v {
                Some(value) => parts.extend([(key, &*k), (value, &*v)]),
                None => {
                    add(&mut k, &v, 1.0);
                    parts.push((key, &k));
                }
            }
        }
        to.gradients.of_outputs(&parts, group.first);
        self.input_gradient(&parts, group)
    }

    /// Turns the derivatives by finished queries or keys into those by the products with their matrix.
    fn heads_gradient(
        &self,
        layer: &Layer,
        group: &Group,
        norm: &str,
        product: &[f32],
        gradient: &mut [f32],
    ) -> Result<()> {
        let width = product.len() / group.tokens.len();
        let norm = self.find_head_norm(layer, norm, width)?;
        let rotate = |x: &mut [f32]| {
            layer
                .rope
                .iter()
                .for_each(|rope| self.tables[*rope].rotate(x, width, layer.head_dim, &group.positions));
        };
        let rotate_back = |x: &mut [f32]| {
            layer
                .rope
                .iter()
                .for_each(|rope| self.tables[*rope].gradient(x, width, layer.head_dim, &group.positions));
        };
        if self.model.family.norm_after_rope {
            let mut rotated = self.weights.buffers.copy(product);
            rotate(&mut rotated);
            norm.iter().for_each(|(norm, n)| norm.gradient(&rotated, gradient, *n));
            rotate_back(gradient);
        } else {
            rotate_back(gradient);
            norm.iter().for_each(|(norm, n)| norm.gradient(product, gradient, *n));
        }
        Ok(())
    }

    /// Computes a dense feed-forward network, and keeps what its derivatives need.
    fn feed_forward_again(&self, layer: &Layer, input: &[f32]) -> Result<FeedForward> {
        let (weights, width) = (self.weights, self.model.width);
        let of = Dense::find(weights, self.model, layer, "")?;
        let up = weights.apply(&of.up, input, width)?;
        let gate = of.gate.as_ref().map(|gate| weights.apply(gate, input, width)).transpose()?;
        let mut hidden = weights.buffers.copy(gate.as_ref().unwrap_or(&up));
        match &gate {
            Some(_) => activation::gated(self.model.activation, &mut hidden, &up),
            None => activation::plain(self.model.activation, &mut hidden),
        }
        let outputs = weights.apply(&of.down, &hidden, of.down.matrix.cols)?;
        Ok(FeedForward { of, gate, up, outputs })
    }

    /// Returns the derivatives by the input of a feed-forward network. `gradient` holds those by its outputs.
    fn feed_forward_gradient(
        &self,
        FeedForward { of, mut gate, mut up, .. }: FeedForward,
        group: &Group,
        gradient: &[f32],
        to: &mut Collected,
    ) -> Result<Buffer> {
        to.gradients.of_outputs(&[(&of.down, gradient)], group.first);
        let mut of_hidden = self.zeros(up.len());
        self.weights.add_transposed(&of.down.matrix, gradient, &mut of_hidden)?;
        match &mut gate {
            Some(gate) => activation::gated_gradient(self.model.activation, gate, &mut up, &of_hidden),
            None => activation::plain_gradient(self.model.activation, &mut up, &of_hidden),
        }
        let gate = of.gate.as_ref().zip(gate.as_deref());
        let parts: Vec<(&Linear, &[f32])> = gate.into_iter().chain([(&of.up, &*up)]).collect();
        to.gradients.of_outputs(&parts, group.first);
        self.input_gradient(&parts, group)
    }

    /// Adds to `gradient`, the derivatives by the outputs of the layer, those that go through the embeddings of the tokens for this layer.
    /// `x` is the residual stream to which these embeddings are added.
    fn per_layer_gradient(
        &self,
        layer: &Layer,
        group: &Group,
        x: &[f32],
        gradient: &mut [f32],
        to: &mut Collected,
    ) -> Result<()> {
        let (weights, width, n) = (self.weights, self.model.width, self.model.per_layer);
        let of = PerLayer::find(weights, self.model, layer)?;
        let mut input = self.per_layer_input(layer, group)?;
        let mut gate = weights.apply(&of.gate, x, width)?;
        let mut hidden = weights.buffers.copy(&gate);
        activation::gated(Activation::Gelu, &mut hidden, &input);
        let outputs = weights.apply(&of.projection, &hidden, n)?;
        let mut of_outputs = weights.buffers.copy(gradient);
        let norm = self.find_layer_norm(layer, PerLayer::NORM)?;
        norm.iter().for_each(|norm| norm.gradient(&outputs, &mut of_outputs, width));
        to.gradients.of_outputs(&[(&of.projection, &of_outputs)], group.first);
        let mut of_hidden = self.zeros(hidden.len());
        weights.add_transposed(&of.projection.matrix, &of_outputs, &mut of_hidden)?;
        activation::gated_gradient(Activation::Gelu, &mut gate, &mut input, &of_hidden);
        to.gradients.of_outputs(&[(&of.gate, &gate)], group.first);
        add(gradient, &self.input_gradient(&[(&of.gate, &gate)], group)?, 1.0);
        Ok(())
    }

    /// Returns the derivatives by an input that matrices share. `parts` holds those by the outputs of each matrix.
    fn input_gradient(&self, parts: &[(&Linear, &[f32])], group: &Group) -> Result<Buffer> {
        let mut of_input = self.zeros(group.tokens.len() * self.model.width);
        for (linear, gradient) in parts {
            self.weights.add_transposed(&linear.matrix, gradient, &mut of_input)?;
        }
        Ok(of_input)
    }
}
