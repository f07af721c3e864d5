//! What the supported architectures are made of, as data over one skeleton. What a model's tensors tell (biases,
//! gates, experts, norms that are there or not) is not repeated here: the pass looks for them by name.

/// How vectors are normalised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Norm {
    /// x / rms(x)
    Rms,
    /// (x - mean(x)) / deviation(x)
    Layer,
}

/// Which values of a head are rotated together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopeStyle {
    /// 2 i and 2 i + 1.
    Pairs,
    /// i and i + half of the rotated ones.
    Halves,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    Silu,
    /// The tanh form: what llama.cpp computes for every model, also those trained with the erf form.
    Gelu,
    ReluSquared,
}

/// How attention and feed-forward are joined to the residual.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// First attention is added, then the feed-forward of the sum.
    Sequential,
    /// Both start from the layer's input.
    Parallel,
    /// As this metadata key says.
    ParallelIf(&'static str),
    /// Parallel in models that have no norm of their own for the feed-forward.
    ParallelWithoutNorm,
    /// The sums are normalised, not the inputs.
    PostNorm,
}

/// What token embeddings are multiplied with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EmbeddingScale {
    /// By `embedding_scale`, where the metadata has it.
    Key,
    /// By the square root of the hidden size.
    SqrtWidth,
}

/// What scores are multiplied with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttentionScale {
    /// 1 / sqrt(size of a head)
    Head,
    One,
    /// `attention.scale`, where it is there and not 0; else as `Head`.
    Key,
    /// 1 / sqrt(hidden size / heads) in the model with so many layers, else as `Head`.
    WidthIfLayers(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogitScale {
    None,
    Multiply,
    Divide,
}

/// Which layers rotate queries and keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rotated {
    All,
    None,
    /// Sliding layers; all of them in a model without any.
    Sliding,
    /// All but every n-th.
    ButEvery(usize),
}

/// The rotation of sliding layers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum SlidingRope {
    Same,
    /// The base of `rope.freq_base_swa`, where the metadata has it; else all as in the full layers.
    SameButBase,
    /// The base of `rope.freq_base_swa` or this, not scaled.
    Own(f64),
    /// The base of the full layers, not scaled.
    Unscaled,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sliding {
    /// Every n-th layer is full, unless the metadata has a pattern.
    pub every: usize,
    /// Where the metadata does not say; without either no layer slides.
    pub window: Option<usize>,
    pub rope: SlidingRope,
    /// Only the model with so many layers slides.
    pub only_layers: Option<usize>,
}

#[derive(Debug, Clone, Copy)]
pub struct Family {
    /// `general.architecture`
    pub arch: &'static str,
    pub norm: Norm,
    pub rope: RopeStyle,
    pub rotated: Rotated,
    pub activation: Activation,
    pub order: Order,
    pub embedding: EmbeddingScale,
    pub attention_scale: AttentionScale,
    pub logits: LogitScale,
    pub sliding: Option<Sliding>,
    /// Names of the norms, without `blk.N.` and `.weight`; one that is not there is not applied.
    pub attention_norm: &'static str,
    pub attention_post_norm: &'static str,
    pub ffn_norm: &'static str,
    pub ffn_post_norm: &'static str,
    /// Norms have no weights.
    pub bare_norms: bool,
    /// Values are normalised (without weights).
    pub value_norm: bool,
    /// Scores are capped by this tanh, unless `attn_logit_softcapping` says otherwise.
    pub score_cap: Option<f32>,
    /// Logits are capped by this tanh, unless `final_logit_softcapping` says otherwise; 0 is no cap.
    pub logit_cap: Option<f32>,
    /// The weights of the chosen experts are made to sum to 1.
    pub expert_weights_sum_to_1: bool,
    pub causal: bool,
    /// Full layers are causal even where the metadata says that attention is not.
    pub causal_full_layers: bool,
    /// There is a norm before the output matrix, and one such matrix.
    pub head: bool,
    /// The yarn parameters and the temperature of long contexts are read.
    pub long_context_keys: bool,
}

const LLAMA: Family = Family {
    arch: "llama",
    norm: Norm::Rms,
    rope: RopeStyle::Pairs,
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
    bare_norms: false,
    value_norm: false,
    score_cap: None,
    logit_cap: None,
    expert_weights_sum_to_1: true,
    causal: true,
    causal_full_layers: false,
    head: true,
    long_context_keys: false,
};

const QWEN: Family = Family { rope: RopeStyle::Halves, ..LLAMA };

/// LayerNorm with biases and a plain feed-forward.
const GPT: Family =
    Family { norm: Norm::Layer, activation: Activation::Gelu, rope: RopeStyle::Halves, ..LLAMA };

const GEMMA: Family = Family {
    arch: "gemma",
    rope: RopeStyle::Halves,
    activation: Activation::Gelu,
    embedding: EmbeddingScale::SqrtWidth,
    ..LLAMA
};

const COHERE: Family = Family {
    arch: "command-r",
    norm: Norm::Layer,
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
    Family { arch: "olmo", norm: Norm::Layer, bare_norms: true, ..LLAMA },
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
        head: false,
        attention_norm: "",
        attention_post_norm: "attn_output_norm",
        ffn_norm: "",
        ffn_post_norm: "layer_output_norm",
        ..GPT
    },
];

/// None for an architecture that the pass does not know.
pub fn family(arch: &str) -> Option<&'static Family> {
    FAMILIES.iter().find(|f| f.arch == arch)
}

/// The architectures that the pass knows.
pub fn names() -> impl Iterator<Item = &'static str> {
    FAMILIES.iter().map(|f| f.arch)
}
