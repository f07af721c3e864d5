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
    /// xIELU: quadratic above 0, exponential below, with numbers of each layer in the metadata. It has no gate.
    Xielu,
    /// The gate of gpt-oss: g sigmoid(1.702 g) (u + 1), where g is at most 7 and u lies between -7 and 7. It needs a gate.
    ClampedSwiglu,
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
    /// 1 / size of a head.
    OneOverHead,
    /// No scaling.
    One,
    /// The metadata key `attention.scale`; `Head` if the key is absent or 0.
    Key,
    /// 1 / sqrt(`attention.key_length_mla`), times the square of YaRN's magnitude: multi-head latent attention.
    Latent,
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
    /// All layers, unless the metadata key `rope.scaling.finetuned` is false.
    IfFinetuned,
    /// The layers that the metadata key `attention.rope_pattern` names; all layers without the key.
    Pattern,
    /// All layers, and in them whole heads without scaling, whatever the keys say.
    WholeHeads,
}

/// How the outputs of the router become the weights of the experts, unless the key `expert_gating_func` says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gating {
    /// The softmax over all experts.
    Softmax,
    /// The logistic function of each expert.
    Sigmoid,
    /// The softmax over the chosen experts.
    SoftmaxOfChosen,
    /// `Sigmoid` in GLM-4.7-Flash, which is known by its 47 or 48 layers and 154880 tokens; `Softmax` in other models.
    SigmoidInGlm47,
}

/// What YaRN does beyond the keys that every family has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Yarn {
    /// Nothing.
    Plain,
    /// The keys `yarn_beta_fast`, `yarn_beta_slow` and `yarn_log_multiplier` count.
    Mistral,
    /// With `yarn_log_multiplier` the magnitude goes into the factor of the scores, and rotated values keep theirs.
    DeepSeek,
}

/// How the rotated pairs are dealt to the three coordinates of M-RoPE, which are equal for text. The metadata key
/// `rope.dimension_sections` has the numbers of pairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sections {
    /// One coordinate after another.
    Blocks,
    /// In turn.
    Interleaved,
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
    /// The base `rope.freq_base_swa`, or that of the full layers without the key; without scaling.
    Unscaled,
}

/// The tokens to which a window reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// The token itself and the tokens before it, together as many as the window is long.
    Back,
    /// Half the window to each side.
    BothSides,
    /// The tokens are cut into pieces as long as the window, and a token attends to its piece.
    Piece,
}

/// Where the queries are scaled with the logarithm of their position.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Temperature {
    /// Nowhere.
    None,
    /// In every layer, with the key `attention.temperature_scale`.
    Key,
    /// In layers that do not rotate, with this factor and for every so many tokens.
    Unrotated(f32, f32),
}

/// Sliding-window attention of a family.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sliding {
    /// Every n-th layer attends to all tokens, unless the metadata has a pattern.
    pub every: usize,
    /// True if the first of n layers attends to all tokens, and not the last.
    pub full_first: bool,
    /// The tokens to which a window reaches.
    pub reach: Reach,
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
    /// Largest exponent of the slopes of ALiBi, unless the key `attention.max_alibi_bias` names another. 0 stands for no
    /// such biases, and `None` for a family that has none.
    pub alibi: Option<f32>,
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
    /// True if the weights of the chosen experts are scaled to the sum 1, unless the key `expert_weights_norm` says it.
    pub expert_weights_sum_to_1: bool,
    /// How experts are weighted.
    pub gating: Gating,
    /// True if a token attends only to itself and to earlier tokens.
    pub causal: bool,
    /// True if layers without a window are causal even if the metadata says that attention is not.
    pub causal_full_layers: bool,
    /// True if the model ends with a norm and an output matrix.
    pub lm_head: bool,
    /// Name of the norm before the output matrix, without `.weight`.
    pub output_norm: &'static str,
    /// What YaRN does.
    pub yarn: Yarn,
    /// Where queries are scaled with their position.
    pub temperature: Temperature,
    /// How M-RoPE deals its pairs, in models that have it.
    pub sections: Sections,
    /// True if the heads of queries and keys are normalized after they are rotated.
    pub norm_after_rope: bool,
    /// If given, heads of layers that rotate are normalized without weights after they are rotated, unless the model has this
    /// number of experts.
    pub heads_normalized_unless_experts: Option<usize>,
    /// True if the inputs of experts are multiplied by the weights, and not their outputs.
    pub weights_before_experts: bool,
    /// True if the queries of each head come with as many values that gate the head's output.
    pub gated_queries: bool,
    /// True if what gates the heads goes through ln(1 + e^x), and not through the logistic function.
    pub gates_by_softplus: bool,
    /// True if a head of values takes the keys of the head with its number modulo the number of key heads (linear
    /// attention). Else consecutive heads of values share a head of keys.
    pub tiled_heads: bool,
    /// In so many first layers, only gates far above their mean count.
    pub sparse_layers: usize,
    /// True if a layer may lack the mixing of tokens or the feed-forward network.
    pub layers_may_lack_parts: bool,
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
    alibi: None,
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
    gating: Gating::Softmax,
    causal: true,
    causal_full_layers: false,
    lm_head: true,
    output_norm: "output_norm",
    yarn: Yarn::Plain,
    temperature: Temperature::None,
    sections: Sections::Blocks,
    norm_after_rope: false,
    heads_normalized_unless_experts: None,
    weights_before_experts: false,
    gated_queries: false,
    gates_by_softplus: false,
    tiled_heads: false,
    sparse_layers: 0,
    layers_may_lack_parts: false,
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

/// Attention and a delta net in turn; the norm before the feed-forward network has the name of one after attention.
const QWEN35: Family = Family {
    arch: "qwen35",
    attention_post_norm: "",
    ffn_norm: "post_attention_norm",
    sections: Sections::Interleaved,
    gated_queries: true,
    tiled_heads: true,
    ..QWEN
};

const QWEN3VL: Family = Family { arch: "qwen3vl", sections: Sections::Interleaved, ..QWEN };

const GRANITE: Family = Family {
    arch: "granite",
    rotated: Rotated::IfFinetuned,
    attention_scale: AttentionScale::Key,
    logits: LogitScale::Divide,
    ..LLAMA
};

/// Multi-head latent attention.
const DEEPSEEK2: Family = Family {
    arch: "deepseek2",
    attention_scale: AttentionScale::Latent,
    expert_weights_sum_to_1: false,
    gating: Gating::SigmoidInGlm47,
    yarn: Yarn::DeepSeek,
    temperature: Temperature::Key,
    ..LLAMA
};

const MAMBA: Family = Family { arch: "mamba", rotated: Rotated::None, layers_may_lack_parts: true, ..LLAMA };

/// A layer is one part: a mixer of tokens or a feed-forward network.
const NEMOTRON_H: Family = Family {
    arch: "nemotron_h",
    activation: Activation::ReluSquared,
    attention_scale: AttentionScale::Key,
    ffn_norm: "attn_norm",
    ..MAMBA
};

const HUNYUAN: Family = Family { arch: "hunyuan-dense", norm_after_rope: true, ..QWEN };

const LFM2: Family = Family { arch: "lfm2", output_norm: "token_embd_norm", ..QWEN };

/// BERT with rotated queries and keys, and a gate.
const NOMIC_BERT: Family = Family {
    arch: "nomic-bert",
    activation: Activation::Silu,
    order: Order::PostNorm,
    causal: false,
    lm_head: false,
    attention_norm: "",
    attention_post_norm: "attn_output_norm",
    ffn_norm: "",
    ffn_post_norm: "layer_output_norm",
    ..GPT
};

const fn sliding(every: usize, window: Option<usize>, rope: SlidingRope) -> Option<Sliding> {
    Some(Sliding { every, full_first: false, reach: Reach::Back, window, rope, only_layers: None })
}

const fn reaching(reach: Reach, full_first: bool, sliding: Option<Sliding>) -> Option<Sliding> {
    match sliding {
        Some(sliding) => Some(Sliding { reach, full_first, ..sliding }),
        None => None,
    }
}

static FAMILIES: &[Family] = &[
    LLAMA,
    Family { arch: "mistral3", yarn: Yarn::Mistral, temperature: Temperature::Key, ..LLAMA },
    Family { arch: "internlm2", ..LLAMA },
    Family { arch: "arcee", activation: Activation::ReluSquared, ..LLAMA },
    Family { arch: "smollm3", rotated: Rotated::ButEvery(4), ..LLAMA },
    GRANITE,
    Family { arch: "granitemoe", ..GRANITE },
    Family { arch: "granitehybrid", ..GRANITE },
    Family { arch: "minicpm", logits: LogitScale::Divide, ..LLAMA },
    Family {
        arch: "granite_swa",
        rotated: Rotated::Pattern,
        sliding: sliding(1, None, SlidingRope::Same),
        ..GRANITE
    },
    Family {
        arch: "llama4",
        rotated: Rotated::ButEvery(4),
        sliding: reaching(Reach::Piece, false, sliding(4, Some(8192), SlidingRope::SameButBase)),
        gating: Gating::Sigmoid,
        expert_weights_sum_to_1: false,
        temperature: Temperature::Unrotated(0.1, 8192.0),
        heads_normalized_unless_experts: Some(128),
        weights_before_experts: true,
        ..LLAMA
    },
    Family { arch: "maincoder", norm_after_rope: true, ..LLAMA },
    Family { arch: "xverse", ..LLAMA },
    Family { arch: "llada", causal: false, ..LLAMA },
    Family { arch: "neo-bert", causal: false, lm_head: false, output_norm: "enc.output_norm", ..LLAMA },
    Family { arch: "ernie4_5", ..LLAMA },
    Family { arch: "ernie4_5-moe", ..LLAMA },
    Family { arch: "deepseek", expert_weights_sum_to_1: false, ..LLAMA },
    DEEPSEEK2,
    Family { arch: "mistral4", ..DEEPSEEK2 },
    Family {
        arch: "deepseek2-ocr",
        rope: RopeStyle::Halves,
        rotated: Rotated::WholeHeads,
        expert_weights_sum_to_1: false,
        ..LLAMA
    },
    Family { arch: "deci", attention_scale: AttentionScale::Key, layers_may_lack_parts: true, ..LLAMA },
    Family { arch: "llama-embed", causal: false, lm_head: false, ..LLAMA },
    Family { arch: "refact", rotated: Rotated::None, alibi: Some(8.0), ..LLAMA },
    Family { arch: "bailingmoe", expert_weights_sum_to_1: false, ..LLAMA },
    Family { arch: "chatglm", ..LLAMA },
    Family { arch: "glm4", ..LLAMA },
    Family {
        arch: "glm4moe",
        attention_post_norm: "",
        ffn_norm: "post_attention_norm",
        expert_weights_sum_to_1: false,
        gating: Gating::Sigmoid,
        ..QWEN
    },
    Family {
        arch: "gpt-oss",
        activation: Activation::ClampedSwiglu,
        attention_post_norm: "",
        ffn_norm: "post_attention_norm",
        expert_weights_sum_to_1: false,
        gating: Gating::SoftmaxOfChosen,
        sliding: sliding(2, None, SlidingRope::SameButBase),
        ..QWEN
    },
    QWEN35,
    Family { arch: "qwen35moe", ..QWEN35 },
    Family { arch: "qwen3next", tiled_heads: false, attention_scale: AttentionScale::Key, ..QWEN35 },
    Family { arch: "qwen2vl", ..QWEN },
    QWEN3VL,
    Family { arch: "qwen3vlmoe", ..QWEN3VL },
    Family { arch: "dbrx", norm: NormKind::Layer, ffn_norm: "attn_output_norm", ..QWEN },
    Family { arch: "plamo3", sliding: sliding(8, None, SlidingRope::Own(10_000.0)), ..QWEN },
    Family {
        arch: "afmoe",
        rotated: Rotated::ButEvery(4),
        embedding: EmbeddingScale::SqrtWidth,
        sliding: sliding(4, None, SlidingRope::SameButBase),
        expert_weights_sum_to_1: false,
        gating: Gating::Sigmoid,
        ..QWEN
    },
    Family { arch: "dots1", expert_weights_sum_to_1: false, ..QWEN },
    Family { arch: "bailingmoe2", expert_weights_sum_to_1: false, ..QWEN },
    Family { arch: "exaone", ..QWEN },
    Family {
        arch: "exaone-moe",
        rotated: Rotated::Sliding,
        expert_weights_sum_to_1: false,
        sliding: sliding(4, Some(128), SlidingRope::SameButBase),
        ..QWEN
    },
    HUNYUAN,
    Family { arch: "hunyuan-moe", ..HUNYUAN },
    Family { arch: "hunyuan_vl", ..HUNYUAN },
    Family { arch: "hy_v3", gating: Gating::Sigmoid, expert_weights_sum_to_1: false, ..QWEN },
    Family {
        arch: "laguna",
        sliding: reaching(Reach::Back, true, sliding(4, None, SlidingRope::Unscaled)),
        gating: Gating::Sigmoid,
        expert_weights_sum_to_1: false,
        gates_by_softplus: true,
        ..QWEN
    },
    Family {
        arch: "spark2_5",
        activation: Activation::Gelu,
        sliding: sliding(1, None, SlidingRope::SameButBase),
        ..QWEN
    },
    Family {
        arch: "mimo2",
        sliding: sliding(1, None, SlidingRope::SameButBase),
        gating: Gating::Sigmoid,
        ..QWEN
    },
    Family { arch: "apertus", activation: Activation::Xielu, attention_scale: AttentionScale::Key, ..QWEN },
    Family { arch: "minimax-m2", ..QWEN },
    Family { arch: "bitnet", ..QWEN },
    Family { arch: "qwen", ..QWEN },
    Family { arch: "dream", causal: false, ..QWEN },
    Family { arch: "rnd1", causal: false, ..QWEN },
    Family { arch: "llada-moe", causal: false, expert_weights_sum_to_1: false, ..QWEN },
    Family { arch: "eurobert", causal: false, lm_head: false, ..QWEN },
    Family { arch: "pangu-embedded", ..QWEN },
    Family { arch: "paddleocr", ..QWEN },
    Family { arch: "openelm", ..QWEN },
    Family { arch: "mellum", sliding: sliding(4, None, SlidingRope::Unscaled), ..QWEN },
    Family { arch: "jais2", norm: NormKind::Layer, activation: Activation::ReluSquared, ..QWEN },
    Family { arch: "orion", norm: NormKind::Layer, ..QWEN },
    Family { arch: "phimoe", ..QWEN },
    LFM2,
    Family { arch: "lfm2moe", ..LFM2 },
    MAMBA,
    Family { arch: "mamba2", ..MAMBA },
    Family { arch: "jamba", rotated: Rotated::None, expert_weights_sum_to_1: false, ..LLAMA },
    NEMOTRON_H,
    Family { arch: "nemotron_h_moe", expert_weights_sum_to_1: false, gating: Gating::Sigmoid, ..NEMOTRON_H },
    Family { arch: "falcon-h1", attention_scale: AttentionScale::Key, ..QWEN },
    Family { arch: "falcon", order: Order::Parallel, ffn_norm: "attn_norm", ..GPT },
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
            full_first: false,
            reach: Reach::Back,
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
        arch: "gemma-embedding",
        causal: false,
        lm_head: false,
        sliding: reaching(Reach::BothSides, false, sliding(6, None, SlidingRope::Own(10_000.0))),
        ..GEMMA
    },
    Family {
        arch: "gemma3n",
        attention_scale: AttentionScale::One,
        sliding: sliding(5, None, SlidingRope::Own(10_000.0)),
        value_norm: true,
        logit_cap: Some(30.0),
        sparse_layers: 10,
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
    Family { arch: "starcoder", rotated: Rotated::None, ..GPT },
    Family { arch: "codeshell", ..GPT },
    Family { arch: "bloom", rotated: Rotated::None, alibi: Some(8.0), ..GPT },
    Family { arch: "mpt", rotated: Rotated::None, alibi: Some(0.0), ..GPT },
    Family {
        arch: "jais",
        rotated: Rotated::None,
        activation: Activation::Silu,
        attention_scale: AttentionScale::OneOverHead,
        alibi: Some(0.0),
        ..GPT
    },
    Family {
        arch: "modern-bert",
        causal: false,
        lm_head: false,
        sliding: reaching(Reach::BothSides, true, sliding(3, None, SlidingRope::SameButBase)),
        ..GPT
    },
    Family { arch: "gptneox", order: Order::ParallelIf("use_parallel_residual"), ..GPT },
    Family { arch: "phi2", order: Order::Parallel, ..GPT },
    Family { arch: "starcoder2", ..GPT },
    Family { arch: "nemotron", activation: Activation::ReluSquared, ..GPT },
    Family { arch: "stablelm", activation: Activation::Silu, order: Order::ParallelWithoutNorm, ..GPT },
    Family { arch: "bert", rotated: Rotated::None, activation: Activation::Gelu, ..NOMIC_BERT },
    Family {
        arch: "jina-bert-v2",
        rotated: Rotated::None,
        activation: Activation::Gelu,
        alibi: Some(8.0),
        ..NOMIC_BERT
    },
    NOMIC_BERT,
    Family {
        arch: "nomic-bert-moe",
        activation: Activation::Gelu,
        expert_weights_sum_to_1: false,
        ..NOMIC_BERT
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
