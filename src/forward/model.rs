//! A model as its metadata describes it: sizes, scales, and the attention of each layer. llama.cpp reads the same keys in
//! the same way.

use crate::error::{Error, Place, Result};
use crate::forward::activation::{Xielu, softplus};
use crate::forward::arch::{
    self, Activation, AttentionScale, EmbeddingScale, Family, Gating, LogitScale, NormKind, Order, RopeStyle,
    Rotated, Sections, Sliding, SlidingRope, Temperature, Yarn,
};
use crate::forward::keys::Keys;
use crate::forward::mixer::Mixer;
use crate::forward::rope::Rope;
use crate::forward::routing::Routing;
use crate::forward::weights::Weights;
use crate::model::bound::BoundModel;
use crate::quant::recipe::split_layer;

/// Largest number of values in the state of a head.
const MAX_STATE: usize = 1 << 24;
/// Largest number of states of a token.
const MAX_STATES: usize = 64;
/// Largest number of tokens that a convolution sees.
const MAX_TAPS: usize = 1 << 10;

/// What mixes the tokens of a layer.
#[derive(Debug, Clone)]
pub struct Layer {
    /// Number of the layer, from 0.
    pub index: usize,
    /// What mixes the tokens. The following sizes are 0 where nothing attends.
    pub mixer: Mixer,
    /// Number of query heads.
    pub n_head: usize,
    /// Number of heads of keys and values.
    pub n_head_kv: usize,
    /// Number of values in a head of queries or keys.
    pub head_dim: usize,
    /// Number of values in a head of values.
    pub head_dim_v: usize,
    /// Factor of the scores.
    pub scale: f32,
    /// Sliding window: the number of tokens to which a token attends, including itself. `None`: all tokens.
    pub window: Option<usize>,
    /// Causal mask: a token attends only to itself and to earlier tokens.
    pub causal: bool,
    /// Index in [`Model::ropes`]; `None` if the layer does not rotate.
    pub rope: Option<usize>,
    /// The earlier layer whose keys and values this layer uses.
    pub kv_of: Option<usize>,
    /// True if a later layer uses the keys and values of this layer.
    pub kv_shared: bool,
}

/// The sizes of layers with a recurrence.
#[derive(Debug, Clone, Copy)]
pub struct Recurrent {
    /// Number of tokens that the convolution before the recurrence sees.
    pub taps: usize,
    /// Number of values of a token in the recurrence.
    pub inner: usize,
    /// Number of values in a state for each of those values.
    pub state: usize,
    /// Number of heads; for Mamba the number of values from which the sizes of the steps are made.
    pub heads: usize,
    /// Number of groups of heads; for a delta net the number of heads of keys.
    pub groups: usize,
}

/// A model that the forward pass can run.
pub struct Model {
    pub family: &'static Family,
    /// True if attention and the feed-forward network both see the layer's input.
    pub parallel: bool,
    /// Hidden size.
    pub width: usize,
    /// Number of tokens that the model knows.
    pub n_vocab: usize,
    /// Number that norms add to the variance.
    pub eps: f32,
    pub embedding_scale: f32,
    pub residual_scale: f32,
    pub logit_scale: f32,
    pub score_cap: Option<f32>,
    pub logit_cap: Option<f32>,
    /// Largest exponent of the slopes of ALiBi; 0 if there are no such biases.
    pub max_alibi_bias: f32,
    /// Largest magnitude to which queries, keys and values are clamped.
    pub clamp: Option<f32>,
    pub n_expert: usize,
    pub routing: Routing,
    pub recurrent: Recurrent,
    /// Causal mask: a token attends only to itself and to earlier tokens.
    pub causal: bool,
    /// Number of tokens that a gated short convolution sees.
    pub taps: usize,
    /// Number of values in an unpacked query or key of latent attention, and in an unpacked value.
    pub latent_key: usize,
    pub latent_value: usize,
    /// True if Mamba normalizes what it selects, without weights.
    pub norms_of_selection: bool,
    /// Number of values of a token's embedding for each layer; 0 if there are no such embeddings.
    pub per_layer: usize,
    /// Factor and period of the growth of queries with their position.
    pub temperature: Option<(f32, f32)>,
    /// True if this growth is for layers that do not rotate, and counts positions from 1.
    pub temperature_unrotated: bool,
    /// True if heads of layers that rotate are normalized without weights.
    pub heads_normalized: bool,
    /// Number of states of a token, and which of them the layers compute. One state is the residual stream.
    pub states: usize,
    pub active_state: usize,
    /// Activation of the feed-forward part.
    pub activation: Activation,
    /// The numbers of xIELU in each layer; none with another activation.
    pub xielu: Vec<Xielu>,
    /// Factor of what attention adds.
    pub value_scale: f32,
    /// The rotation of layers without a window, then that of layers with one.
    pub ropes: Vec<Rope>,
    pub layers: Vec<Layer>,
}

impl Model {
    /// Reads a model. `longest` is the number of tokens of the longest chunk.
    ///
    /// # Errors
    /// Returns [`Error::Model`] if the forward pass does not know the architecture, or if metadata or tensors do not fit it.
    pub fn read(source: &BoundModel, weights: &Weights, longest: usize) -> Result<Self> {
        let path = source.path();
        let family = arch::family(&source.arch).ok_or_else(|| unknown(source))?;
        let keys = Keys::new(&source.metadata, &source.arch, path);
        let width = keys.required_size("embedding_length")?;
        let n_layer = keys.required_size("block_count")?;
        if n_layer > source.tensors.len() {
            let what = format!("{n_layer} layers cannot be made of {} tensors", source.tensors.len());
            return Err(path_error(source)(what));
        }
        // Blocks that predict further tokens stand behind the layers and do not change them.
        let n_layer = n_layer.saturating_sub(keys.size("nextn_predict_layers")?.unwrap_or(0)).max(1);
        let mixers: Vec<Mixer> =
            (0..n_layer).map(|i| Mixer::find(weights, i, family.layers_may_lack_parts)).collect();
        check_tensors(source, &mixers)?;
        let eps = match (family.norm, keys.number("attention.layer_norm_rms_epsilon")?) {
            (NormKind::Rms, Some(_)) => "attention.layer_norm_rms_epsilon",
            _ => "attention.layer_norm_epsilon",
        };
        let number = |key: &str| Ok::<_, Error>(keys.number(key)?.map(|n| n as f32));
        let embedding = weights.matrix("token_embd.weight")?;
        weights.check_inputs(&embedding, width)?;
        let parallel = match family.order {
            Order::Parallel => true,
            Order::ParallelIf(key) => keys.flag(key).unwrap_or(true),
            Order::ParallelWithoutNorm => !weights.has("blk.0.ffn_norm.weight"),
            Order::Sequential | Order::PostNorm => false,
        };
        let logit_scale = number("logit_scale")?.filter(|&s| s != 0.0).unwrap_or(1.0);
        let context = keys.count("context_length")?.unwrap_or(longest);
        let mut model = Self {
            family,
            parallel,
            width,
            n_vocab: embedding.rows,
            eps: number(eps)?.unwrap_or(1e-5),
            embedding_scale: match family.embedding {
                EmbeddingScale::SqrtWidth => (width as f32).sqrt(),
                EmbeddingScale::Key => number("embedding_scale")?.filter(|&s| s != 0.0).unwrap_or(1.0),
            },
            residual_scale: number("residual_scale")?.filter(|&s| s != 0.0).unwrap_or(1.0),
            logit_scale: match family.logits {
                LogitScale::None => 1.0,
                LogitScale::Multiply => logit_scale,
                LogitScale::Divide => 1.0 / logit_scale,
            },
            score_cap: cap(family.score_cap, number("attn_logit_softcapping")?),
            logit_cap: cap(family.logit_cap, number("final_logit_softcapping")?),
            max_alibi_bias: match family.alibi {
                Some(usual) => number("attention.max_alibi_bias")?.unwrap_or(usual),
                None => 0.0,
            },
            clamp: number("attention.clamp_kqv")?.filter(|&c| c > 0.0),
            n_expert: keys.size("expert_count")?.unwrap_or(0),
            routing: routing(&keys, family, n_layer, embedding.rows)?,
            recurrent: Recurrent {
                taps: keys.size("ssm.conv_kernel")?.unwrap_or(0),
                inner: keys.size("ssm.inner_size")?.unwrap_or(0),
                state: keys.size("ssm.state_size")?.unwrap_or(0),
                heads: keys.size("ssm.time_step_rank")?.unwrap_or(0),
                groups: keys.size("ssm.group_count")?.unwrap_or(0),
            },
            causal: keys.flag("attention.causal").unwrap_or(family.causal),
            taps: keys.size("shortconv.l_cache")?.unwrap_or(0),
            latent_key: keys.size("attention.key_length_mla")?.unwrap_or(0),
            latent_value: keys.size("attention.value_length_mla")?.unwrap_or(0),
            norms_of_selection: keys.flag("ssm.dt_b_c_rms").unwrap_or(false),
            per_layer: keys.size("embedding_length_per_layer_input")?.unwrap_or(0),
            temperature: None,
            temperature_unrotated: matches!(family.temperature, Temperature::Unrotated(..)),
            heads_normalized: false,
            states: keys.size("altup.num_inputs")?.unwrap_or(1),
            active_state: keys.size("altup.active_idx")?.unwrap_or(0),
            activation: activation(&keys, family)?,
            xielu: if family.activation == Activation::Xielu { xielu(&keys, n_layer)? } else { Vec::new() },
            value_scale: number("attention.value_scale")?.filter(|&s| s != 0.0).unwrap_or(1.0),
            ropes: Vec::new(),
            layers: Vec::new(),
        };
        let heads = Heads::read(&keys, family, width, n_layer)?;
        model.layers = heads.layers(&mixers, path_error(source))?;
        share_keys(&mut model.layers, keys.size("attention.shared_kv_layers")?.unwrap_or(0), source)?;
        model.ropes = heads.ropes(&keys, family, weights, longest, context)?;
        if family.attention_scale == AttentionScale::Latent {
            let scale = latent_scale(&keys, model.latent_key, &model.ropes)?;
            model.layers.iter_mut().for_each(|layer| layer.scale = scale);
        }
        model.heads_normalized = family.heads_normalized_unless_experts.is_some_and(|n| n != model.n_expert);
        if let Temperature::Unrotated(scale, period) = family.temperature {
            model.temperature = Some((scale, period));
        }
        if family.temperature == Temperature::Key
            && let Some(scale) = number("attention.temperature_scale")?.filter(|&s| s != 0.0)
        {
            let stated = match family.attention_scale {
                AttentionScale::Latent => keys.count("attention.temperature_length")?.filter(|&n| n > 0),
                _ => None,
            };
            let original = keys.count("rope.scaling.original_context_length")?.unwrap_or(context);
            let original = stated.unwrap_or(original);
            model.temperature = Some((scale, original as f32));
        }
        model.check_experts(source)?;
        model.check_recurrent(source)?;
        check_scales(source)?;
        if model.active_state >= model.states || model.states > MAX_STATES {
            let what =
                format!("state {} of {} states of a token is computed", model.active_state, model.states);
            return Err(path_error(source)(what));
        }
        Ok(model)
    }

    fn check_experts(&self, source: &BoundModel) -> Result<()> {
        let (used, (groups, _)) = (self.routing.used, self.routing.groups);
        if used > self.n_expert || (self.n_expert == 0) != (used == 0) {
            let what = format!("the metadata says that {used} of {} experts are used", self.n_expert);
            return Err(path_error(source)(what));
        }
        if groups > 1 && (groups > self.n_expert || !self.n_expert.is_multiple_of(groups)) {
            let what = format!("the metadata says that {} experts form {groups} groups", self.n_expert);
            return Err(path_error(source)(what));
        }
        Ok(())
    }

    /// Refuses states that no model has, before memory is taken for them.
    fn check_recurrent(&self, source: &BoundModel) -> Result<()> {
        let Recurrent { inner, state, heads, .. } = self.recurrent;
        let values = state.saturating_mul(state.max(inner / heads.max(1)));
        if values <= MAX_STATE && self.recurrent.taps <= MAX_TAPS && self.taps <= MAX_TAPS {
            return Ok(());
        }
        Err(path_error(source)(format!(
            "a state of {values} values for each head is more than any model has"
        )))
    }

    /// Returns the number of values that a token needs in the widest layer. The number says how many tokens fit into memory.
    pub fn values_per_token(&self, source: &BoundModel) -> usize {
        let widest = |suffix: &str| {
            let found = source.tensors.iter().filter(|t| t.name.ends_with(suffix));
            found.map(|t| t.ne.get(1).copied().unwrap_or(1) as usize).max().unwrap_or(0)
        };
        let heads = |l: &Layer| {
            2 * l.n_head * l.head_dim.max(l.head_dim_v) + l.n_head_kv * (l.head_dim + l.head_dim_v)
        };
        let recurrent = 2 * (widest("ssm_in.weight") + widest("ssm_out.weight"))
            + 4 * widest("attn_gate.weight")
            + 2 * (widest("attn_qkv.weight") + widest("shortconv.in_proj.weight"));
        let unpacked = |l: &Layer| l.n_head * (self.latent_key + self.latent_value);
        let attention = self.layers.iter().map(|l| heads(l) + unpacked(l)).max().unwrap_or(0) + recurrent;
        let ffn = 2 * widest("ffn_up.weight");
        let experts = 2 * widest("ffn_up_exps.weight").max(widest("ffn_gate_up_exps.weight") / 2);
        4 * self.width * self.states + attention.max(ffn).max(experts + self.n_expert + 2 * self.width)
    }
}

fn path_error(source: &BoundModel) -> impl Fn(String) -> Error {
    move |what| Error::model(Place::file(source.path()), what, "Check that the model loads in llama.cpp")
}

/// Refuses matrices whose scale is in a tensor of its own, as those of NVFP4 are: products here do not know such scales.
fn check_scales(source: &BoundModel) -> Result<()> {
    let known = |name: &str| ["ffn_gate_inp.scale", "ffn_down_exps.scale"].iter().any(|k| name.ends_with(k));
    match source.tensors.iter().find(|t| t.name.ends_with(".scale") && !known(&t.name)) {
        None => Ok(()),
        Some(scale) => Err(Error::model(
            Place::file(source.path()).tensor(&scale.name),
            "is the scale of a matrix, which a calibration does not know",
            "Calibrate the original checkpoint, or use --effort fast",
        )),
    }
}

fn unknown(source: &BoundModel) -> Error {
    let known: Vec<_> = arch::names().collect();
    let what = format!(
        "models of the architecture '{}' cannot be run to calibrate them (known: {})",
        source.arch,
        known.join(", ")
    );
    let fix = "Pass statistics made by another tool with --imatrix FILE, or use --effort fast";
    Error::model(Place::file(source.path()), what, fix)
}

fn cap(default: Option<f32>, stated: Option<f32>) -> Option<f32> {
    default.map(|d| stated.unwrap_or(d)).filter(|&c| c != 0.0)
}

/// The tensors that the forward pass can use, without `blk.N.`.
const KNOWN: &[&str] = &[
    "token_embd",
    "token_embd_norm",
    "token_types",
    "position_embd",
    "per_layer_token_embd",
    "per_layer_model_proj",
    "per_layer_proj_norm",
    "rope_freqs",
    "rope_factors_long",
    "rope_factors_short",
    "output_norm",
    "output",
    "attn_norm",
    "attn_q",
    "attn_k",
    "attn_v",
    "attn_qkv",
    "attn_q_norm",
    "attn_k_norm",
    "attn_output",
    "attn_output_norm",
    "post_attention_norm",
    "ffn_norm",
    "ffn_gate",
    "ffn_up",
    "ffn_down",
    "post_ffw_norm",
    "layer_output_norm",
    "ffn_gate_inp",
    "ffn_gate_exps",
    "ffn_up_exps",
    "ffn_down_exps",
    "ffn_gate_up_exps",
    "ffn_gate_inp_shexp",
    "ffn_gate_shexp",
    "ffn_up_shexp",
    "ffn_down_shexp",
    "pre_ffw_norm_2",
    "post_ffw_norm_1",
    "post_ffw_norm_2",
    "inp_gate",
    "proj",
    "post_norm",
    "layer_output_scale",
    "attn_norm_2",
    "exp_probs_b",
    "ffn_sub_norm",
    "ffn_latent_down",
    "ffn_latent_up",
    "enc.output_norm",
    "altup_proj",
    "altup_unembd_proj",
    "altup_router",
    "altup_router_norm",
    "altup_predict_coef",
    "altup_correct_coef",
    "altup_correct_scale",
    "laurel_l",
    "laurel_r",
    "laurel_post_norm",
];

/// Checks that the forward pass knows every tensor. With a tensor left out it would compute another model.
fn check_tensors(source: &BoundModel, mixers: &[Mixer]) -> Result<()> {
    let unknown = source.tensors.iter().map(|t| &t.name).find(|name| {
        let (layer, inner) = split_layer(name);
        let of_mixer = match layer.map(|layer| mixers.get(layer as usize)) {
            // A block that predicts further tokens.
            Some(None) => return false,
            Some(Some(mixer)) => mixer.tensors(),
            None => &[],
        };
        let stem = inner.rsplit_once('.').map_or(inner, |n| n.0);
        // A classifier or dense layers after the last layer do not change the layers.
        !KNOWN.contains(&stem)
            && !of_mixer.contains(&stem)
            && !stem.starts_with("cls")
            && !stem.starts_with("dense_")
    });
    match unknown {
        None => Ok(()),
        Some(name) => Err(Error::model(
            Place::file(source.path()).tensor(name),
            format!("is not a tensor that the forward pass knows of the architecture '{}'", source.arch),
            "Pass statistics made by another tool with --imatrix FILE, or use --effort fast",
        )),
    }
}

/// Lets the last `shared` layers use the keys and values of the last layer of their kind (with or without a window) that
/// has its own.
fn share_keys(layers: &mut [Layer], shared: usize, source: &BoundModel) -> Result<()> {
    let own = layers.len().checked_sub(shared).filter(|&n| n > 0 || shared == 0);
    let own = own.ok_or_else(|| {
        path_error(source)(format!("none of the {} layers has keys of its own", layers.len()))
    })?;
    for i in own..layers.len() {
        let of = (0..own).rev().find(|&j| layers[j].window.is_some() == layers[i].window.is_some());
        let of = of.ok_or_else(|| {
            path_error(source)(format!("layer {i} has no earlier layer whose keys it could use"))
        })?;
        if layers[of].n_head_kv != layers[i].n_head_kv {
            let heads = (layers[i].n_head_kv, layers[of].n_head_kv);
            let what = format!(
                "layer {i} has {} KV heads, but uses the {} KV heads of layer {of}",
                heads.0, heads.1
            );
            return Err(path_error(source)(what));
        }
        layers[i].kv_of = Some(of);
        layers[of].kv_shared = true;
    }
    Ok(())
}

/// The metadata from which the attention of the layers follows.
struct Heads {
    family: &'static Family,
    n_head: Vec<usize>,
    n_head_kv: Vec<usize>,
    /// Sizes of a key and of a value: in layers without a window, then in layers with one.
    sizes: [(usize, usize); 2],
    width: usize,
    /// The window of each layer.
    windows: Vec<Option<usize>>,
    sliding: Option<Sliding>,
    causal: bool,
    stated_scale: Option<f32>,
    /// The value of `rope.scaling.finetuned`.
    finetuned: bool,
    /// True if the metadata says that there is no window, so that all layers are alike.
    always_rotated: bool,
    /// The layers that `attention.rope_pattern` names.
    rope_pattern: Option<Vec<bool>>,
}

/// A layer in which no token attends to others.
fn without_attention(index: usize, mixer: Mixer) -> Layer {
    Layer {
        index,
        mixer,
        n_head: 0,
        n_head_kv: 0,
        head_dim: 0,
        head_dim_v: 0,
        scale: 1.0,
        window: None,
        causal: true,
        rope: None,
        kv_of: None,
        kv_shared: false,
    }
}

impl Heads {
    fn read(keys: &Keys, family: &'static Family, width: usize, n_layer: usize) -> Result<Self> {
        let n_head = keys.per_layer("attention.head_count", n_layer)?.unwrap_or_default();
        let n_head_kv = keys.per_layer("attention.head_count_kv", n_layer)?.unwrap_or_else(|| n_head.clone());
        let default = width / n_head.first().copied().unwrap_or(1).max(1);
        let size = |key: &str, default| Ok::<_, Error>(keys.size(key)?.unwrap_or(default));
        let full = (size("attention.key_length", default)?, size("attention.value_length", default)?);
        let narrow = (size("attention.key_length_swa", full.0)?, size("attention.value_length_swa", full.1)?);
        if full.0.min(full.1).min(narrow.0).min(narrow.1) == 0 {
            return Err(keys.refuse("attention.key_length", "or a size like it is 0: a head has no values"));
        }
        let sliding = family.sliding.filter(|s| s.only_layers.is_none_or(|n| n == n_layer));
        let windows = match sliding {
            Some(sliding) => windows(keys, sliding, n_layer)?,
            None => vec![None; n_layer],
        };
        let stated_scale = keys.number("attention.scale")?.map(|s| s as f32).filter(|&s| s != 0.0);
        let causal = keys.flag("attention.causal").unwrap_or(family.causal);
        let sizes = [full, narrow];
        let finetuned = keys.flag("rope.scaling.finetuned").unwrap_or(true);
        Ok(Self {
            family,
            n_head,
            n_head_kv,
            sizes,
            width,
            windows,
            sliding,
            causal,
            stated_scale,
            finetuned,
            always_rotated: sliding.is_some() && keys.count("attention.sliding_window")? == Some(0),
            rope_pattern: keys.flags("attention.rope_pattern", n_layer)?,
        })
    }

    fn layers(&self, mixers: &[Mixer], error: impl Fn(String) -> Error) -> Result<Vec<Layer>> {
        mixers
            .iter()
            .enumerate()
            .map(|(index, &mixer)| {
                if !mixer.attends() {
                    return Ok(without_attention(index, mixer));
                }
                let (n_head, n_head_kv) = (
                    self.n_head.get(index).copied().unwrap_or(0),
                    self.n_head_kv.get(index).copied().unwrap_or(0),
                );
                if n_head == 0 || n_head_kv == 0 || n_head % n_head_kv != 0 {
                    return Err(error(format!("layer {index} has {n_head} heads and {n_head_kv} KV heads")));
                }
                let window = self.windows[index];
                let (head_dim, head_dim_v) = self.sizes[usize::from(window.is_some())];
                Ok(Layer {
                    index,
                    mixer,
                    n_head,
                    n_head_kv,
                    head_dim,
                    head_dim_v,
                    scale: self.scale(head_dim, n_head),
                    window,
                    causal: self.causal || (self.family.causal_full_layers && window.is_none()),
                    rope: self.is_rotated(index).then_some(usize::from(window.is_some())),
                    kv_of: None,
                    kv_shared: false,
                })
            })
            .collect()
    }

    fn scale(&self, head_dim: usize, n_head: usize) -> f32 {
        let of_head = 1.0 / (head_dim as f32).sqrt();
        match self.family.attention_scale {
            AttentionScale::Head => of_head,
            AttentionScale::OneOverHead => 1.0 / head_dim as f32,
            AttentionScale::One => 1.0,
            AttentionScale::Key => self.stated_scale.unwrap_or(of_head),
            AttentionScale::Latent => of_head,
            AttentionScale::WidthIfLayers(n) if n == self.windows.len() => {
                1.0 / ((self.width / n_head) as f32).sqrt()
            }
            AttentionScale::WidthIfLayers(_) => of_head,
        }
    }

    fn is_rotated(&self, layer: usize) -> bool {
        match self.family.rotated {
            Rotated::All | Rotated::WholeHeads => true,
            Rotated::None => false,
            Rotated::Sliding => self.windows[layer].is_some() || self.sliding.is_none(),
            Rotated::ButEvery(n) => !(layer + 1).is_multiple_of(n) || self.always_rotated,
            Rotated::IfFinetuned => self.finetuned,
            Rotated::Pattern => self.rope_pattern.as_ref().is_none_or(|pattern| pattern[layer]),
        }
    }

    /// Returns the rotation of layers without a window, and that of layers with one.
    fn ropes(
        &self,
        keys: &Keys,
        family: &Family,
        weights: &Weights,
        longest: usize,
        context: usize,
    ) -> Result<Vec<Rope>> {
        if family.rotated == Rotated::None {
            return Ok(Vec::new());
        }
        let [full, narrow] = self.sizes;
        let whole = family.rotated == Rotated::WholeHeads;
        let dims = keys.size("rope.dimension_count")?.filter(|_| !whole).unwrap_or(full.0).min(full.0);
        let mut full = full_rope(keys, family, weights, dims, longest, context)?;
        if whole {
            full = Rope { scale: 1.0, extrapolation: 0.0, magnitude: 1.0, divisors: None, ..full };
        }
        let dims = keys.size("rope.dimension_count_swa")?.unwrap_or(dims).min(narrow.0);
        let base = keys.number("rope.freq_base_swa")?;
        let unscaled = |base| Rope { scale: 1.0, divisors: None, dims, base, ..full.clone() };
        let narrow = match self.sliding.map_or(SlidingRope::Same, |s| s.rope) {
            SlidingRope::Same => Rope { dims, ..full.clone() },
            SlidingRope::SameButBase => Rope { dims, base: base.unwrap_or(full.base), ..full.clone() },
            SlidingRope::Own(default) => unscaled(base.unwrap_or(default)),
            SlidingRope::Unscaled => {
                Rope { extrapolation: 0.0, magnitude: 1.0, ..unscaled(base.unwrap_or(full.base)) }
            }
        };
        Ok(vec![full, narrow])
    }
}

/// Returns the window of each layer; `None` stands for attention to all tokens.
fn windows(keys: &Keys, sliding: Sliding, n_layer: usize) -> Result<Vec<Option<usize>>> {
    let window = keys.count("attention.sliding_window")?.or(sliding.window).filter(|&w| w > 0);
    let slides = match keys.flags("attention.sliding_window_pattern", n_layer)? {
        Some(flags) => flags,
        None => {
            let every = keys.size("attention.sliding_window_pattern")?.unwrap_or(sliding.every);
            let full = |i: usize| i % every == if sliding.full_first { 0 } else { every - 1 };
            (0..n_layer).map(|i| every == 0 || !full(i)).collect()
        }
    };
    Ok(slides.into_iter().map(|slides| window.filter(|_| slides)).collect())
}

fn full_rope(
    keys: &Keys,
    family: &Family,
    weights: &Weights,
    dims: usize,
    longest: usize,
    context: usize,
) -> Result<Rope> {
    let kind = keys.text("rope.scaling.type").unwrap_or("linear");
    let factor = match keys.number("rope.scaling.factor")? {
        Some(factor) => Some(factor),
        None => keys.number("rope.scale_linear")?,
    };
    let scale = match factor {
        Some(factor) if factor != 0.0 && kind != "none" => 1.0 / factor,
        _ => 1.0,
    };
    let original = keys.count("rope.scaling.original_context_length")?.unwrap_or(context);
    let long = |key: &str| if family.yarn == Yarn::Mistral { keys.number(key) } else { Ok(None) };
    let mut magnitude = keys.number("rope.scaling.attn_factor")?.unwrap_or(1.0);
    if kind == "yarn"
        && family.yarn != Yarn::Plain
        && let Some(multiplier) = keys.number("rope.scaling.yarn_log_multiplier")?.filter(|&m| m != 0.0)
    {
        // DeepSeek's two multipliers are equal, and cancel.
        let multiplier = if family.yarn == Yarn::DeepSeek { 1.0 } else { multiplier };
        let at = |m: f64| if scale >= 1.0 { 1.0 } else { 0.1 * m * libm::log(1.0 / scale) + 1.0 };
        magnitude *= at(1.0) / at(multiplier) / (1.0 + 0.1 * libm::log(1.0 / scale));
    }
    let factors = if weights.has("rope_freqs.weight") {
        "rope_freqs.weight"
    } else if longest > original {
        "rope_factors_long.weight"
    } else {
        "rope_factors_short.weight"
    };
    let mut base = keys.number("rope.freq_base")?.unwrap_or(10_000.0);
    if let Some(alpha) = keys.number("rope.scaling.alpha")?.filter(|&alpha| alpha > 0.0) {
        base *= libm::pow(alpha, dims as f64 / (dims as f64 - 2.0));
    }
    let sections = keys.sections()?;
    let mut divisors = weights.vector(factors, dims / 2)?;
    if let Some(sections) = sections {
        stop_pairs(sections, family.sections, dims / 2, &mut divisors);
    }
    Ok(Rope {
        style: if sections.is_some() { RopeStyle::Halves } else { family.rope },
        dims,
        base,
        scale,
        extrapolation: if kind == "yarn" { 1.0 } else { 0.0 },
        magnitude,
        beta_fast: long("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
        beta_slow: long("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
        original_context: original,
        divisors,
    })
}

/// Stops the pairs that M-RoPE gives to its fourth coordinate, which is 0 for text.
fn stop_pairs(sections: [usize; 4], order: Sections, pairs: usize, divisors: &mut Option<Vec<f32>>) {
    let total = sections.iter().sum::<usize>();
    let stops = |pair: usize| {
        let at = pair % total;
        match order {
            Sections::Blocks => at >= total - sections[3],
            Sections::Interleaved => at >= 3 * sections[at % 3],
        }
    };
    if (0..pairs).any(stops) {
        let divisors = divisors.get_or_insert_with(|| vec![1.0; pairs]);
        (0..pairs).filter(|&pair| stops(pair)).for_each(|pair| divisors[pair] = f32::INFINITY);
    }
}

/// Returns the factor of the scores of latent attention: YaRN's magnitude counts for queries and for keys.
fn latent_scale(keys: &Keys, key: usize, ropes: &[Rope]) -> Result<f32> {
    let log = ropes.first().map_or(0.0, |rope| libm::log(1.0 / rope.scale));
    let magnitude = ropes.first().map_or(1.0, |rope| rope.magnitude) * (1.0 + 0.1 * log);
    let multiplier = keys.number("rope.scaling.yarn_log_multiplier")?.unwrap_or(0.0);
    let magnitude = magnitude * (1.0 + multiplier * log);
    Ok((magnitude * magnitude / (key as f64).sqrt()) as f32)
}

/// Reads the numbers of xIELU. The metadata have those of the training, which softplus makes positive.
fn xielu(keys: &Keys, n_layer: usize) -> Result<Vec<Xielu>> {
    let [alpha_n, alpha_p, beta, eps] = ["xielu.alpha_n", "xielu.alpha_p", "xielu.beta", "xielu.eps"];
    let (alpha_n, alpha_p) = (keys.numbers(alpha_n, n_layer)?, keys.numbers(alpha_p, n_layer)?);
    let (beta, eps) = (keys.numbers(beta, n_layer)?, keys.numbers(eps, n_layer)?);
    let of = |i: usize| Xielu {
        alpha_n: beta[i] + softplus(alpha_n[i]),
        alpha_p: softplus(alpha_p[i]),
        beta: beta[i],
        eps: eps[i],
    };
    Ok((0..n_layer).map(of).collect())
}

fn activation(keys: &Keys, family: &Family) -> Result<Activation> {
    match keys.text("hidden_activation").filter(|_| family.activation != Activation::Xielu) {
        None => Ok(family.activation),
        Some("gelu") => Ok(Activation::Gelu),
        Some("silu" | "swish") => Ok(Activation::Silu),
        Some(_) => Err(keys.refuse("hidden_activation", "is not a function that the forward pass knows")),
    }
}

fn routing(keys: &Keys, family: &Family, n_layer: usize, n_vocab: usize) -> Result<Routing> {
    let gating = match (keys.count("expert_gating_func")?, family.gating) {
        (None | Some(0), Gating::SigmoidInGlm47) if matches!(n_layer, 47 | 48) && n_vocab == 154_880 => {
            Gating::Sigmoid
        }
        (None | Some(0), gating) => gating,
        (Some(1), _) => Gating::Softmax,
        (Some(2), _) => Gating::Sigmoid,
        (Some(3), _) => Gating::SoftmaxOfChosen,
        _ => return Err(keys.refuse("expert_gating_func", "is not a function that the forward pass knows")),
    };
    Ok(Routing {
        used: keys.size("expert_used_count")?.unwrap_or(0),
        gating,
        to_one: keys.flag("expert_weights_norm").unwrap_or(family.expert_weights_sum_to_1),
        scale: keys.number("expert_weights_scale")?.filter(|&s| s != 0.0).unwrap_or(1.0) as f32,
        groups: (
            keys.size("expert_group_count")?.unwrap_or(0),
            keys.size("expert_group_used_count")?.unwrap_or(0),
        ),
    })
}
