//! The supported architectures, as a table: each one is a [`Family`], a set of choices over one common skeleton.
//!
//! The table does not repeat what the tensors of a model show (biases, gates, experts, optional norms): the forward pass
//! looks for these tensors by name. The choices are those of llama.cpp, which reads the same files.
//!
//! ```
//! use srd_rs::forward::arch::{RopeStyle, family};
//!
//! assert_eq!(family("llama").unwrap().rope, RopeStyle::Adjacent);
//! assert!(family("no such architecture").is_none());
//! ```

/// The kind of normalization.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// RMSNorm: x / rms(x).
    Rms,
    /// LayerNorm: (x - mean(x)) / deviation(x).
    Layer,
}

/// The pairs of values of a head that RoPE rotates together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopeStyle {
    /// Values 2 i and 2 i + 1 form a pair ("normal" in llama.cpp).
    Adjacent,
    /// Values i and i + n / 2 of the n rotated values form a pair ("NEOX" in llama.cpp).
    Halves,
}

/// The activation function of the feed-forward network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// SiLU: x sigmoid(x).
    Silu,
    /// GELU in its tanh form. llama.cpp computes this form for every model, even if the model was trained with the erf form.
    Gelu,
    /// The square of ReLU.
    ReluSquared,
}

/// How attention and the feed-forward network are added to the residual stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Attention is added first; the feed-forward network sees the sum.
    Sequential,
    /// Attention and the feed-forward network both see the layer's input.
    Parallel,
    /// A metadata key says whether the two are parallel.
    ParallelIf(&'static str),
    /// The two are parallel in models whose feed-forward network has no norm of its own.
    ParallelWithoutNorm,
    /// Sequential, but the sums are normalized instead of the inputs.
    PostNorm,
}

/// The factor of the token embeddings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EmbeddingScale {
    /// The metadata key `embedding_scale`, or 1 without the key.
    Key,
    /// The square root of the hidden size.
    SqrtWidth,
}

/// The factor of the attention scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttentionScale {
    /// 1 / sqrt(size of a head).
    Head,
    /// No scaling.
    One,
    /// The metadata key `attention.scale`; `Head` if the key is absent or 0.
    Key,
    /// 1 / sqrt(hidden size / heads) in the model with this number of layers, `Head` in other models.
    WidthIfLayers(usize),
}

/// What the metadata key `logit_scale` does to the logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogitScale {
    /// The key is ignored.
    None,
    /// The logits are multiplied by the value.
    Multiply,
    /// The logits are divided by the value.
    Divide,
}

/// The layers that rotate queries and keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rotated {
    /// All layers.
    All,
    /// No layer.
    None,
    /// The layers with sliding-window attention; all layers in a model without such layers.
    Sliding,
    /// All layers except every n-th.
    ButEvery(usize),
}

/// The rotation in layers with sliding-window attention.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum SlidingRope {
    /// The rotation of the full layers.
    Same,
    /// The rotation of the full layers, but with the base `rope.freq_base_swa` if the metadata has the key.
    SameButBase,
    /// The base `rope.freq_base_swa`, or this base without the key; without scaling.
    Own(f64),
    /// The base of the full layers, without scaling.
    Unscaled,
}

/// Sliding-window attention of a family.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sliding {
    /// Every n-th layer attends to all tokens, unless the metadata has a pattern.
    pub every: usize,
    /// The window if the metadata does not name one. Without either no layer has a window.
    pub window: Option<usize>,
    /// The rotation in layers with a window.
    pub rope: SlidingRope,
    /// If given, only the model with this number of layers has windows.
    pub only_layers: Option<usize>,
}

/// An architecture: the choices that its tensors do not show.
#[derive(Debug, Clone, Copy)]
pub struct Family {
    /// The value of `general.architecture`.
    pub arch: &'static str,
    /// Which norm the layers use.
    pub norm: NormKind,
    /// Which values of a head a rotation pairs.
    pub rope: RopeStyle,
    /// Which layers rotate queries and keys.
    pub rotated: Rotated,
    /// Activation of the feed-forward part.
    pub activation: Activation,
    /// Order of the steps of a layer.
    pub order: Order,
    /// Scale of the token embeddings.
    pub embedding: EmbeddingScale,
    /// Scale of the attention scores.
    pub attention_scale: AttentionScale,
    /// Scale of the logits.
    pub logits: LogitScale,
    /// Sliding-window attention, if the architecture has it.
    pub sliding: Option<Sliding>,
    /// Name of the norm before attention, without `blk.N.` and `.weight`. A norm that the model lacks is not applied, and
    /// an empty name stands for no norm.
    pub attention_norm: &'static str,
    /// Name of the norm after attention.
    pub attention_post_norm: &'static str,
    /// Name of the norm before the feed-forward network.
    pub ffn_norm: &'static str,
    /// Name of the norm after the feed-forward network.
    pub ffn_post_norm: &'static str,
    /// True if the norms have no weights.
    pub norms_without_weights: bool,
    /// True if the heads of values are normalized, without weights.
    pub value_norm: bool,
    /// Cap of the scores by tanh, unless the key `attn_logit_softcapping` names another. 0 is no cap.
    pub score_cap: Option<f32>,
    /// Cap of the logits by tanh, unless the key `final_logit_softcapping` names another. 0 is no cap.
    pub logit_cap: Option<f32>,
    /// True if the weights of the chosen experts are scaled to the sum 1.
    pub expert_weights_sum_to_1: bool,
    /// True if a token attends only to itself and to earlier tokens.
    pub causal: bool,
    /// True if layers without a window are causal even if the metadata says that attention is not.
    pub causal_full_layers: bool,
    /// True if the model ends with a norm and an output matrix.
    pub lm_head: bool,
    /// True if the metadata may have YaRN parameters and a temperature for long contexts.
    pub long_context_keys: bool,
}

const LLAMA: Family = Family {
    arch: "llama",
    norm: NormKind::Rms,
    rope: RopeStyle::Adjacent,
    rotated: Rotated::All,
    activation: Activation::Silu,
    order: Order::Sequential,
    embedding: EmbeddingScale::Key,
    attention_scale: AttentionScale::Head,
    logits: LogitScale::None,
    sliding: None,
    attention_norm: "attn_norm",
    attention_post_norm: "post_attention_norm",
    ffn_norm: "ffn_norm",
    ffn_post_norm: "post_ffw_norm",
    norms_without_weights: false,
    value_norm: false,
    score_cap: None,
    logit_cap: None,
    expert_weights_sum_to_1: true,
    causal: true,
    causal_full_layers: false,
    lm_head: true,
    long_context_keys: false,
};

const QWEN: Family = Family { rope: RopeStyle::Halves, ..LLAMA };

/// LayerNorm with biases, and a feed-forward network without a gate.
const GPT: Family =
    Family { norm: NormKind::Layer, activation: Activation::Gelu, rope: RopeStyle::Halves, ..LLAMA };

const GEMMA: Family = Family {
    arch: "gemma",
    rope: RopeStyle::Halves,
    activation: Activation::Gelu,
    embedding: EmbeddingScale::SqrtWidth,
    ..LLAMA
};

const COHERE: Family = Family {
    arch: "command-r",
    norm: NormKind::Layer,
    order: Order::Parallel,
    logits: LogitScale::Multiply,
    ..LLAMA
};

const fn sliding(every: usize, window: Option<usize>, rope: SlidingRope) -> Option<Sliding> {
    Some(Sliding { every, window, rope, only_layers: None })
}

static FAMILIES: &[Family] = &[
    LLAMA,
    Family { arch: "mistral3", long_context_keys: true, ..LLAMA },
    Family { arch: "internlm2", ..LLAMA },
    Family { arch: "arcee", activation: Activation::ReluSquared, ..LLAMA },
    Family { arch: "smollm3", rotated: Rotated::ButEvery(4), ..LLAMA },
    Family { arch: "granite", attention_scale: AttentionScale::Key, logits: LogitScale::Divide, ..LLAMA },
    Family { arch: "olmo", norm: NormKind::Layer, norms_without_weights: true, ..LLAMA },
    Family { arch: "qwen2", ..QWEN },
    Family { arch: "qwen2moe", expert_weights_sum_to_1: false, ..QWEN },
    Family { arch: "qwen3", ..QWEN },
    Family { arch: "qwen3moe", ..QWEN },
    Family { arch: "olmo2", sliding: sliding(4, None, SlidingRope::Unscaled), ..QWEN },
    Family { arch: "olmoe", expert_weights_sum_to_1: false, ..QWEN },
    Family {
        arch: "exaone4",
        rotated: Rotated::Sliding,
        sliding: Some(Sliding {
            every: 4,
            window: Some(4096),
            rope: SlidingRope::Same,
            only_layers: Some(64),
        }),
        ..QWEN
    },
    Family { arch: "seed_oss", attention_post_norm: "", ffn_norm: "post_attention_norm", ..QWEN },
    Family { arch: "phi3", ..QWEN },
    GEMMA,
    Family {
        arch: "gemma2",
        attention_scale: AttentionScale::WidthIfLayers(46),
        sliding: sliding(2, Some(4096), SlidingRope::SameButBase),
        score_cap: Some(50.0),
        logit_cap: Some(30.0),
        ..GEMMA
    },
    Family {
        arch: "gemma3",
        attention_scale: AttentionScale::WidthIfLayers(62),
        sliding: sliding(6, None, SlidingRope::Own(10_000.0)),
        logit_cap: Some(0.0),
        ..GEMMA
    },
    Family {
        arch: "gemma4",
        attention_scale: AttentionScale::One,
        sliding: sliding(6, None, SlidingRope::Own(10_000.0)),
        value_norm: true,
        causal_full_layers: true,
        logit_cap: Some(30.0),
        ..GEMMA
    },
    COHERE,
    Family {
        arch: "cohere2",
        rotated: Rotated::Sliding,
        sliding: sliding(4, None, SlidingRope::Same),
        ..COHERE
    },
    Family { arch: "gpt2", rotated: Rotated::None, ..GPT },
    Family { arch: "gptneox", order: Order::ParallelIf("use_parallel_residual"), ..GPT },
    Family { arch: "phi2", order: Order::Parallel, ..GPT },
    Family { arch: "starcoder2", ..GPT },
    Family { arch: "nemotron", activation: Activation::ReluSquared, ..GPT },
    Family { arch: "stablelm", activation: Activation::Silu, order: Order::ParallelWithoutNorm, ..GPT },
    Family {
        arch: "bert",
        rotated: Rotated::None,
        order: Order::PostNorm,
        causal: false,
        lm_head: false,
        attention_norm: "",
        attention_post_norm: "attn_output_norm",
        ffn_norm: "",
        ffn_post_norm: "layer_output_norm",
        ..GPT
    },
];

/// Returns the family of an architecture; `None` if the forward pass does not know it.
pub fn family(arch: &str) -> Option<&'static Family> {
    FAMILIES.iter().find(|f| f.arch == arch)
}

/// Returns the names of all architectures that the forward pass knows.
pub fn names() -> impl Iterator<Item = &'static str> {
    FAMILIES.iter().map(|f| f.arch)
}
