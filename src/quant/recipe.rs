//! Recipes: which block type every tensor of a model gets.
//!
//! A recipe such as `Q4_K_M` names a *mix*: a base type for most matrices, and wider types where the model is more
//! sensitive (the output matrix, attention values, some of the FFN outputs). The choice follows llama-quantize, so that a
//! file made here has the same types, tensor by tensor.
//!
//! llama-quantize derives two facts from the list of tensors alone: the number of attention-value matrices (`attn_v`, fused
//! `attn_qkv` and `attn_kv_b` all count), and whether the embeddings are tied (there is no `output.weight`). The FFN outputs
//! are not counted: their number is the model's block count. The position of a matrix among its kind is a running count in
//! file order ([`layered_order`]), except in mixture-of-experts models, where the FFN outputs take the layer number from
//! the name.
//!
//! ```
//! use srd_rs::quant::recipe::Recipe;
//!
//! let recipe = Recipe::from_name("q4_k_m").unwrap();
//! assert_eq!((recipe.name(), recipe.file_type()), ("Q4_K_M", 15));
//! ```

use crate::dtype::GgmlType;
use crate::error::{Error, Place, Result};
use regex::{Regex, RegexBuilder};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// A mix of types. The names are llama-quantize's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[allow(non_camel_case_types)]
#[allow(missing_docs, reason = "llama-quantize's documentation describes its mixes")]
pub enum Recipe {
    TQ1_0,
    TQ2_0,
    IQ2_XXS,
    IQ2_XS,
    IQ2_S,
    IQ2_M,
    Q2_K_S,
    Q2_K,
    IQ3_XXS,
    IQ3_XS,
    IQ3_S,
    IQ3_M,
    Q3_K_S,
    Q3_K_M,
    Q3_K_L,
    IQ4_XS,
    IQ4_NL,
    MXFP4_MOE,
    NVFP4,
    Q4_0,
    Q4_1,
    Q4_K_S,
    Q4_K_M,
    Q5_0,
    Q5_1,
    Q5_K_S,
    Q5_K_M,
    Q6_K,
    Q8_0,
    F16,
    BF16,
    F32,
}

/// When a matrix gets a type other than the base. `i` is its place among the matrices of its kind, and `n` the number of
/// layers (for attention values the number of these).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    Always,
    /// `i` is below this number.
    First(u32),
    /// `i` is in the first of this many equal parts of the layers.
    FirstPart(u32),
    /// The layers that [`uses_more_bits`] picks.
    MoreBits,
    /// At least four heads share one key and value.
    SharedValues,
    /// The first eighth of the layers, if the inputs of the matrices are known.
    FirstEighthKnown,
    /// The first eighth of the layers, if the inputs of the matrices are not known.
    FirstEighthUnknown,
    /// The inputs of the matrices are not known.
    Unknown,
    /// At least four heads share one key and value, or there are at least four experts.
    SharedOrExperts,
    /// There are eight experts, on the layers that [`uses_more_bits`] picks.
    MoreBitsOfEight,
}

/// Rules for one kind of matrix: the first that holds gives the type, else the matrix gets the base.
type Rules = &'static [(When, GgmlType)];

/// The types that a recipe chooses. `None` stands for the base type.
struct Mix {
    recipe: Recipe,
    name: &'static str,
    /// `general.file_type`.
    file_type: u32,
    base: GgmlType,
    /// The output matrix.
    output: GgmlType,
    /// The token embeddings, where they are not the output matrix too.
    embedding: Option<GgmlType>,
    /// Attention queries and keys.
    attn_qk: Option<GgmlType>,
    attn_v: Rules,
    attn_output: Option<GgmlType>,
    /// Attention outputs of models with eight experts.
    moe8_attn_output: Option<GgmlType>,
    ffn_down: Rules,
    /// FFN outputs of Falcon, which are less sensitive; else those of `ffn_down`.
    falcon_ffn_down: Option<Rules>,
    /// Attention outputs of Falcon.
    falcon_attn_output: Option<GgmlType>,
    /// FFN gates and inputs of all layers but the first and the last eighth.
    ffn_middle: Option<GgmlType>,
    /// Every matrix that is no stack of experts, the output included.
    dense: Option<GgmlType>,
    /// Attention values and keys of models with eight experts.
    moe8_attn: GgmlType,
    /// Whether the rules are those of llama-quantize for two bits: without exceptions for Falcon and for 70B, and with the
    /// running count of FFN outputs.
    two_bits: bool,
}

const fn mix(recipe: Recipe, name: &'static str, file_type: u32, base: GgmlType) -> Mix {
    Mix {
        recipe,
        name,
        file_type,
        base,
        output: GgmlType::Q6_K,
        embedding: None,
        attn_qk: None,
        attn_v: &[],
        attn_output: None,
        moe8_attn_output: None,
        ffn_down: &[],
        falcon_ffn_down: None,
        falcon_attn_output: None,
        ffn_middle: None,
        dense: None,
        moe8_attn: GgmlType::Q8_0,
        two_bits: false,
    }
}

/// A mix of IQ2 types. `wide` is the type of the more sensitive matrices.
const fn two_bit_mix(
    recipe: Recipe,
    name: &'static str,
    file_type: u32,
    base: GgmlType,
    wide: GgmlType,
    rules: (Rules, Rules),
) -> Mix {
    Mix {
        output: GgmlType::Q5_K,
        embedding: Some(wide),
        attn_v: rules.0,
        ffn_down: rules.1,
        moe8_attn: GgmlType::Q4_K,
        moe8_attn_output: Some(GgmlType::Q5_K),
        two_bits: true,
        ..mix(recipe, name, file_type, base)
    }
}

#[rustfmt::skip]
const MIXES: &[Mix] = {
    use GgmlType as T;
    use When as W;
    const MOE8: Option<GgmlType> = Some(T::Q5_K);
    const LOW: (Rules, Rules) = (&[(W::SharedOrExperts, T::Q4_K), (W::Always, T::Q2_K)], &[(W::FirstPart(8), T::Q2_K)]);
    const HIGH: (Rules, Rules) = (&[(W::SharedOrExperts, T::Q4_K), (W::Always, T::IQ3_S)], &[(W::FirstPart(8), T::IQ3_S)]);
    &[
        Mix { embedding: Some(T::Q4_K), ..mix(Recipe::TQ1_0, "TQ1_0", 36, T::TQ1_0) },
        Mix { embedding: Some(T::Q4_K), ..mix(Recipe::TQ2_0, "TQ2_0", 37, T::TQ2_0) },
        two_bit_mix(Recipe::IQ2_XXS, "IQ2_XXS", 19, T::IQ2_XXS, T::Q2_K, LOW),
        two_bit_mix(Recipe::IQ2_XS, "IQ2_XS", 20, T::IQ2_XS, T::Q2_K, LOW),
        Mix { attn_output: Some(T::IQ3_S), ..two_bit_mix(Recipe::IQ2_S, "IQ2_S", 28, T::IQ2_XS, T::IQ3_S, HIGH) },
        Mix { attn_output: Some(T::IQ3_S), ..two_bit_mix(Recipe::IQ2_M, "IQ2_M", 29, T::IQ2_S, T::IQ3_S, HIGH) },
        Mix {
            attn_v: &[(W::SharedValues, T::Q4_K)],
            ffn_down: &[(W::FirstPart(8), T::Q4_K)],
            ..mix(Recipe::Q2_K_S, "Q2_K_S", 21, T::Q2_K)
        },
        Mix {
            attn_v: &[(W::SharedValues, T::Q4_K), (W::Always, T::Q3_K)],
            attn_output: Some(T::Q3_K),
            moe8_attn_output: MOE8,
            ffn_down: &[(W::Always, T::Q3_K)],
            ..mix(Recipe::Q2_K, "Q2_K", 10, T::Q2_K)
        },
        Mix {
            output: T::Q5_K,
            embedding: Some(T::IQ3_S),
            attn_qk: Some(T::IQ2_S),
            attn_v: &[(W::SharedValues, T::Q4_K), (W::Unknown, T::IQ3_S)],
            attn_output: Some(T::IQ3_S),
            moe8_attn_output: MOE8,
            ffn_down: &[(W::FirstEighthUnknown, T::Q4_K), (W::Unknown, T::Q3_K)],
            ..mix(Recipe::IQ3_XXS, "IQ3_XXS", 23, T::IQ3_XXS)
        },
        Mix {
            attn_qk: Some(T::IQ3_XXS),
            attn_v: &[(W::SharedValues, T::Q4_K)],
            moe8_attn_output: MOE8,
            ffn_middle: Some(T::IQ3_XXS),
            ..mix(Recipe::IQ3_XS, "IQ3_XS", 22, T::IQ3_S)
        },
        Mix {
            attn_v: &[(W::SharedValues, T::Q4_K)],
            moe8_attn_output: MOE8,
            ..mix(Recipe::IQ3_S, "IQ3_S", 26, T::IQ3_S)
        },
        Mix {
            attn_v: &[(W::Always, T::Q4_K)],
            attn_output: Some(T::Q4_K),
            moe8_attn_output: MOE8,
            ffn_down: &[(W::FirstPart(8), T::Q4_K), (W::MoreBitsOfEight, T::Q4_K)],
            ..mix(Recipe::IQ3_M, "IQ3_M", 27, T::IQ3_S)
        },
        Mix { moe8_attn_output: MOE8, ..mix(Recipe::Q3_K_S, "Q3_K_S", 11, T::Q3_K) },
        Mix {
            attn_v: &[(W::First(2), T::Q5_K), (W::Always, T::Q4_K)],
            attn_output: Some(T::Q4_K),
            moe8_attn_output: MOE8,
            ffn_down: &[(W::FirstPart(16), T::Q5_K), (W::Always, T::Q4_K)],
            falcon_ffn_down: Some(&[(W::FirstPart(16), T::Q5_K), (W::MoreBits, T::Q4_K)]),
            ..mix(Recipe::Q3_K_M, "Q3_K_M", 12, T::Q3_K)
        },
        Mix {
            attn_v: &[(W::Always, T::Q5_K)],
            attn_output: Some(T::Q5_K),
            ffn_down: &[(W::Always, T::Q5_K)],
            falcon_ffn_down: Some(&[(W::Always, T::Q4_K)]),
            falcon_attn_output: Some(T::Q4_K),
            ..mix(Recipe::Q3_K_L, "Q3_K_L", 13, T::Q3_K)
        },
        Mix {
            attn_v: &[(W::SharedValues, T::Q5_K)],
            moe8_attn_output: MOE8,
            ffn_down: &[(W::FirstEighthUnknown, T::Q5_K)],
            ..mix(Recipe::IQ4_XS, "IQ4_XS", 30, T::IQ4_XS)
        },
        Mix {
            attn_v: &[(W::SharedValues, T::Q5_K)],
            moe8_attn_output: MOE8,
            ffn_down: &[(W::FirstEighthUnknown, T::Q5_K)],
            ..mix(Recipe::IQ4_NL, "IQ4_NL", 25, T::IQ4_NL)
        },
        Mix { dense: Some(T::Q8_0), ..mix(Recipe::MXFP4_MOE, "MXFP4_MOE", 38, T::MXFP4) },
        mix(Recipe::NVFP4, "NVFP4", 39, T::BF16),
        Mix { ffn_down: &[(W::FirstEighthKnown, T::Q4_1)], ..mix(Recipe::Q4_0, "Q4_0", 2, T::Q4_0) },
        mix(Recipe::Q4_1, "Q4_1", 3, T::Q4_1),
        Mix {
            attn_v: &[(W::First(4), T::Q5_K)],
            moe8_attn_output: MOE8,
            ffn_down: &[(W::FirstPart(8), T::Q5_K)],
            falcon_ffn_down: Some(&[]),
            ..mix(Recipe::Q4_K_S, "Q4_K_S", 14, T::Q4_K)
        },
        Mix {
            attn_v: &[(W::MoreBits, T::Q6_K)],
            moe8_attn_output: MOE8,
            ffn_down: &[(W::MoreBits, T::Q6_K)],
            falcon_ffn_down: Some(&[(W::FirstPart(16), T::Q6_K), (W::MoreBits, T::Q5_K)]),
            ..mix(Recipe::Q4_K_M, "Q4_K_M", 15, T::Q4_K)
        },
        Mix { ffn_down: &[(W::FirstEighthKnown, T::Q5_1)], ..mix(Recipe::Q5_0, "Q5_0", 8, T::Q5_0) },
        mix(Recipe::Q5_1, "Q5_1", 9, T::Q5_1),
        mix(Recipe::Q5_K_S, "Q5_K_S", 16, T::Q5_K),
        Mix {
            attn_v: &[(W::MoreBits, T::Q6_K)],
            ffn_down: &[(W::MoreBits, T::Q6_K)],
            ..mix(Recipe::Q5_K_M, "Q5_K_M", 17, T::Q5_K)
        },
        mix(Recipe::Q6_K, "Q6_K", 18, T::Q6_K),
        mix(Recipe::Q8_0, "Q8_0", 7, T::Q8_0),
        mix(Recipe::F16, "F16", 1, T::F16),
        mix(Recipe::BF16, "BF16", 32, T::BF16),
        mix(Recipe::F32, "F32", 0, T::F32),
    ]
};

impl Recipe {
    /// Case-insensitive: `q4_k_m`, `Q4_K_M`.
    pub fn from_name(name: &str) -> Option<Self> {
        MIXES.iter().find(|m| m.name.eq_ignore_ascii_case(name)).map(|m| m.recipe)
    }

    /// Every recipe, the smallest first.
    pub fn all() -> impl Iterator<Item = Self> {
        MIXES.iter().map(|m| m.recipe)
    }

    /// Returns the mix whose base is a type: the medium one (`_M`) of several.
    pub fn of_base(ty: GgmlType) -> Option<Self> {
        let mixes = || MIXES.iter().filter(|m| m.base == ty);
        mixes().find(|m| m.name.ends_with("_M")).or(mixes().next_back()).map(|m| m.recipe)
    }

    /// Returns the name, as llama-quantize writes it.
    pub fn name(self) -> &'static str {
        self.mix().name
    }

    /// ggml's id of the mix, the value of `general.file_type`.
    pub fn file_type(self) -> u32 {
        self.mix().file_type
    }

    /// The type of most matrices.
    pub fn base(self) -> GgmlType {
        self.mix().base
    }

    fn mix(self) -> &'static Mix {
        MIXES.iter().find(|m| m.recipe == self).expect("every recipe has a row in MIXES")
    }
}

/// The facts about a tensor that the recipes need.
#[derive(Debug, Clone, Copy)]
pub struct TensorInfo<'a> {
    /// GGUF name.
    pub name: &'a str,
    /// Dimensions in GGUF order: `ne[0]` is the row length.
    pub ne: &'a [u64],
    /// Its type in the unquantized GGUF: what it keeps when it is not to be quantized.
    pub stored: GgmlType,
    /// Whether it keeps `stored` in the recipes of a plain type too.
    pub kept: bool,
}

/// The facts about a model that the recipes need.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelFacts {
    /// `general.architecture`.
    pub arch: String,
    /// `<arch>.block_count`.
    pub n_layer: u32,
    /// `<arch>.expert_count`; 0 for a dense model.
    pub n_expert: u32,
    /// `<arch>.attention.head_count` (of the first layer where there is a list).
    pub n_head: u32,
    /// `<arch>.attention.head_count_kv`, per layer or once; empty: the same as `n_head`.
    pub n_head_kv: Vec<u32>,
}

impl ModelFacts {
    /// Returns whether at least four heads of the first layer share one key and value.
    fn shares_values(&self) -> bool {
        let kv = self.n_head_kv.first().copied().unwrap_or(self.n_head);
        self.n_head.checked_div(kv).is_some_and(|heads| heads >= 4)
    }

    /// Returns whether llama.cpp takes the model for "a 70B", whose attention values, shared by many
    /// heads, get Q5_K where they would get Q4_K. It goes by architecture and depth.
    fn is_70b(&self) -> bool {
        match (self.arch.as_str(), self.n_layer) {
            ("llama" | "llama-embed", 80) => {
                let kv = self.n_head_kv.first().copied().unwrap_or(self.n_head);
                self.n_expert != 8 && self.n_head != kv
            }
            ("qwen2" | "deci" | "olmo", 80) | ("jais2", 68) => true,
            _ => false,
        }
    }
}

/// The types that the user asks for instead: `--tensor-type`, `--token-embedding-type`,
/// `--output-tensor-type`, `--pure`.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// The first pattern found anywhere in the name wins. Unlike in llama-quantize, the patterns count for recipes of a
    /// plain type (F16, BF16, F32) as well.
    pub tensor_type: Vec<(Regex, GgmlType)>,
    /// Type of the token embedding table.
    pub token_embedding: Option<GgmlType>,
    /// Type of the output matrix.
    pub output_tensor: Option<GgmlType>,
    /// The base type for every matrix.
    pub pure: bool,
    /// Types of single tensors by name, as a recipe file states them. They count before everything else.
    pub exact: HashMap<String, GgmlType>,
}

impl Overrides {
    /// Parses one `REGEX=TYPE`. Case does not matter: llama-quantize lowers the case of the pattern
    /// (which turns `\D` into `\d`), and GGUF names are lower case.
    ///
    /// # Errors
    /// [`Error::Usage`] when there is no `=`, no such type, or the pattern is not a regular expression.
    pub fn parse_tensor_type(text: &str) -> Result<(Regex, GgmlType)> {
        let (pattern, ty) = text.split_once('=').filter(|(p, _)| !p.is_empty()).ok_or_else(|| {
            Error::usage(
                format!("'{text}' is not of the form REGEX=TYPE"),
                "Write, for example, ffn_down=q6_k",
            )
        })?;
        let regex = RegexBuilder::new(pattern).case_insensitive(true).build().map_err(|e| {
            Error::usage(format!("'{pattern}' is not a regular expression ({e})"), "Correct the pattern")
        })?;
        Ok((regex, Self::parse_type(ty)?))
    }

    /// Parses the name of a type that tensors can be quantized to.
    ///
    /// # Errors
    /// [`Error::Usage`] for anything else.
    pub fn parse_type(name: &str) -> Result<GgmlType> {
        GgmlType::from_name(name).filter(|&t| super::can_quantize(t)).ok_or_else(|| {
            let known: Vec<&str> = super::QUANTIZABLE.iter().map(|t| t.name()).collect();
            Error::usage(
                format!("'{name}' is not a tensor type this tool can write"),
                format!("Choose one of {}", known.join(", ")),
            )
        })
    }

    /// Returns whether the user names the type of a matrix.
    pub fn names(&self, tensor: &str) -> bool {
        let fixed = match category(tensor) {
            Category::TokenEmbedding => self.token_embedding.is_some(),
            Category::Output => self.output_tensor.is_some(),
            _ => false,
        };
        fixed || self.exact.contains_key(tensor) || self.named(tensor).is_some()
    }

    /// Returns whether the pattern with this index decides the type of a tensor of the shape `ne`. A pattern does not where
    /// the tensor is never quantized, or where another option or an earlier pattern names the type.
    pub fn is_decided_by(&self, index: usize, arch: &str, tensor: &str, ne: &[u64]) -> bool {
        let first = self.tensor_type.iter().position(|(pattern, _)| pattern.is_match(tensor));
        let others = self.exact.contains_key(tensor) || self.asked_for(tensor).is_some();
        first == Some(index) && !others && may_quantize(arch, tensor, ne)
    }

    fn named(&self, tensor: &str) -> Option<GgmlType> {
        self.tensor_type.iter().find(|(pattern, _)| pattern.is_match(tensor)).map(|&(_, ty)| ty)
    }

    /// The types given for embeddings and output. The per-layer embeddings follow the token
    /// embeddings, unless a pattern names them.
    fn asked_for(&self, name: &str) -> Option<GgmlType> {
        let per_layer = name == "per_layer_token_embd.weight";
        match category(name) {
            Category::TokenEmbedding if per_layer && self.named(name).is_some() => None,
            Category::TokenEmbedding => self.token_embedding,
            Category::Output => self.output_tensor,
            _ => None,
        }
    }
}

/// Chooses the type of every tensor. `tensors` is the whole model in llama-quantize's order
/// ([`layered_order`]); the result is in the same order.
///
/// `known` says whether the inputs of the matrices are known, from an imatrix or a calibration: a few mixes of
/// llama-quantize choose other types then.
///
/// A recipe of a plain type (F16, BF16, F32) gives that type to every matrix that would be
/// quantized; the others keep `stored`, so a converter passes what its own `--outtype` stores.
///
/// # Errors
/// [`Error::Model`] when a mixture-of-experts FFN output has no layer number below `n_layer` in
/// its name; [`Error::Usage`] when an override's blocks do not fit the rows of the tensor it names.
pub fn assign(
    recipe: Recipe,
    facts: &ModelFacts,
    known: bool,
    overrides: &Overrides,
    tensors: &[TensorInfo<'_>],
) -> Result<Vec<GgmlType>> {
    let mut chooser = Chooser::new(recipe.mix(), facts, known, overrides, tensors);
    tensors.iter().map(|t| chooser.choose(t)).collect()
}

/// llama-quantize's file order: the tensors outside the layers sorted by name, then layer by layer,
/// each sorted by name (bytewise). Returns indices into `names`.
pub fn layered_order(names: &[&str]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..names.len()).collect();
    order.sort_by_key(|&i| (layer_of(names[i]), names[i]));
    order
}

/// Returns the layer of a tensor whose name begins with `blk.<decimal number>.`, and `None` for any other name.
pub fn layer_of(name: &str) -> Option<u32> {
    split_layer(name).0
}

/// Splits `blk.7.ffn_up.weight` into the layer 7 and `ffn_up.weight`. Any other name has no layer and stays whole.
pub fn split_layer(name: &str) -> (Option<u32>, &str) {
    let parts = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
    let parts = parts.filter(|(number, _)| number.bytes().all(|b| b.is_ascii_digit()));
    match parts.and_then(|(number, rest)| Some((number.parse().ok()?, rest))) {
        Some((layer, rest)) => (Some(layer), rest),
        None => (None, name),
    }
}

/// The kinds of matrices that the mixes tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Category {
    Output,
    TokenEmbedding,
    /// Attention values, alone or fused with queries and keys.
    AttnV,
    AttnK,
    AttnQ,
    AttnOutput,
    FfnGate,
    FfnUp,
    FfnDown,
    Other,
}

/// `(part of the name, kind)`: the first that is found decides.
const CATEGORIES: &[(&str, Category)] = &[
    ("attn_qkv.weight", Category::AttnV),
    ("attn_kv_b.weight", Category::AttnV),
    ("attn_v.weight", Category::AttnV),
    ("attn_k.weight", Category::AttnK),
    ("attn_q.weight", Category::AttnQ),
    ("attn_output.weight", Category::AttnOutput),
    ("ffn_up", Category::FfnUp),
    ("ffn_gate", Category::FfnGate),
    ("ffn_down", Category::FfnDown),
];

fn category(name: &str) -> Category {
    match name {
        "output.weight" => Category::Output,
        "token_embd.weight" | "per_layer_token_embd.weight" => Category::TokenEmbedding,
        _ => CATEGORIES.iter().find(|(part, _)| name.contains(part)).map_or(Category::Other, |c| c.1),
    }
}

/// Parts of names of matrices that are never quantized: norms, routers, position tables and other
/// small or sensitive ones.
const KEPT: &[&str] = &[
    "_norm.weight",
    // Routing of experts.
    "ffn_gate_inp.weight",
    "ffn_gate_tid2eid.weight",
    // Gemma 3n's and Gemma 4's small projections.
    "altup",
    "laurel",
    "per_layer_model_proj",
    // State space models: short convolutions.
    "ssm_conv1d",
    "shortconv.conv.weight",
    // Sparse attention indexers.
    "indexer.k_proj.weight",
    "indexer.q_proj.weight",
    // RWKV.
    "time_mix_first.weight",
    "time_mix_w0.weight",
    "time_mix_w1.weight",
    "time_mix_w2.weight",
    "time_mix_v0.weight",
    "time_mix_v1.weight",
    "time_mix_v2.weight",
    "time_mix_a0.weight",
    "time_mix_a1.weight",
    "time_mix_a2.weight",
    "time_mix_g1.weight",
    "time_mix_g2.weight",
    "time_mix_decay_w1.weight",
    "time_mix_decay_w2.weight",
    "time_mix_lerp_fused.weight",
    // T5's relative positions.
    "attn_rel_b.weight",
    // Vision and audio towers.
    ".position_embd",
    "sam.pos_embd",
    "sam.neck.",
    "sam.net_",
    ".rel_pos",
    ".patch_embd",
    ".patch_merger",
    "a.rvq.codebook",
    "mm.a.code_embd",
];

/// The same, for names given in full.
const KEPT_NAMES: &[&str] = &["position_embd.weight", "token_types.weight"];

/// Parts of names of matrices that are never quantized in one architecture: small ones that choose what the others see.
const KEPT_IN: &[(&str, &[&str])] = &[(
    "glm5-next",
    &[
        "hc_",
        "indexer.attn_q_b",
        "indexer.attn_k",
        "indexer.proj",
        "indexer_compressor_gate",
        "indexer_compressor_ape",
        "ssm_f_a.weight",
        "ssm_f_b.weight",
        "ssm_g_a.weight",
        "ssm_g_b.weight",
        "ssm_beta.weight",
        "attn_kv_a_mqa.weight",
        "attn_k_b.weight",
        "attn_v_b.weight",
    ],
)];

/// Parts of names of matrices that mixes give at least Q8_0 in one architecture.
const AT_LEAST_Q8_0_IN: &[(&str, &[&str])] = &[("glm5-next", &["attn_q_a", "attn_q_b", "nextn.eh_proj"])];

fn listed(lists: &[(&str, &[&str])], arch: &str, name: &str) -> bool {
    lists.iter().any(|(of, parts)| *of == arch && parts.iter().any(|part| name.contains(part)))
}

/// Returns whether a tensor of a model of architecture `arch` is a matrix that recipes may quantize.
pub fn may_quantize(arch: &str, name: &str, ne: &[u64]) -> bool {
    let is_matrix = ne.iter().skip(1).any(|&n| n > 1);
    is_matrix
        && name.ends_with("weight")
        && !KEPT_NAMES.contains(&name)
        && !KEPT.iter().any(|part| name.contains(part))
        && !listed(KEPT_IN, arch, name)
}

/// The layers that `_M` mixes widen: the first and the last eighth, and every third between.
fn uses_more_bits(i: u32, n: u32) -> bool {
    let eighth = n / 8;
    i < eighth || i >= 7 * n / 8 || (i - eighth) % 3 == 2
}

/// The wider-block type's stand-in with blocks of 32, for rows that do not fit 256.
fn with_small_blocks(ty: GgmlType) -> Option<GgmlType> {
    use GgmlType as T;
    Some(match ty {
        T::Q2_K | T::Q3_K | T::TQ1_0 | T::TQ2_0 => T::Q4_0,
        T::Q4_K => T::Q5_0,
        T::Q5_K => T::Q5_1,
        T::Q6_K => T::Q8_0,
        T::IQ2_XXS | T::IQ2_XS | T::IQ2_S | T::IQ3_XXS | T::IQ3_S | T::IQ4_XS => T::IQ4_NL,
        _ => return None,
    })
}

fn fits(ty: GgmlType, row: u64) -> bool {
    row.is_multiple_of(ty.block_len() as u64)
}

/// `ty`, or what stands in for it where the row is no whole number of its blocks; in the end F16.
fn fallback(ty: GgmlType, row: u64) -> GgmlType {
    if fits(ty, row) {
        return ty;
    }
    with_small_blocks(ty).filter(|&t| fits(t, row)).unwrap_or(GgmlType::F16)
}

/// The state of one pass over the tensors.
struct Chooser<'a> {
    mix: &'a Mix,
    facts: &'a ModelFacts,
    /// Whether the inputs of the matrices are known.
    known: bool,
    overrides: &'a Overrides,
    tied: bool,
    n_attn_v: u32,
    /// Attention values met so far.
    i_attn_v: u32,
    /// FFN outputs met so far.
    i_ffn_down: u32,
    /// FFN gates and FFN inputs met so far.
    i_ffn_gate: u32,
    i_ffn_up: u32,
}

impl<'a> Chooser<'a> {
    fn new(
        mix: &'a Mix,
        facts: &'a ModelFacts,
        known: bool,
        overrides: &'a Overrides,
        tensors: &[TensorInfo<'_>],
    ) -> Self {
        let count = |kind| tensors.iter().filter(|t| category(t.name) == kind).count();
        Self {
            mix,
            facts,
            known,
            overrides,
            tied: count(Category::Output) == 0,
            n_attn_v: u32::try_from(count(Category::AttnV)).unwrap_or(u32::MAX),
            i_attn_v: 0,
            i_ffn_down: 0,
            i_ffn_gate: 0,
            i_ffn_up: 0,
        }
    }

    fn choose(&mut self, t: &TensorInfo<'_>) -> Result<GgmlType> {
        if !may_quantize(&self.facts.arch, t.name, t.ne) {
            return Ok(t.stored);
        }
        let kind = category(t.name);
        if let Some(&ty) = self.overrides.exact.get(t.name) {
            return check_fit(ty, t);
        }
        if let Some(ty) = self.overrides.asked_for(t.name) {
            return check_fit(ty, t);
        }
        let ty = match self.overrides.named(t.name) {
            Some(ty) => ty,
            None if !is_quantized(self.mix.base) => return Ok(if t.kept { t.stored } else { self.mix.base }),
            None if self.overrides.pure => self.mix.base,
            None => self.mixed(t, kind)?,
        };
        Ok(fallback(ty, t.ne[0]))
    }

    /// Returns the type that the mix gives, before the row length is looked at.
    fn mixed(&mut self, t: &TensorInfo<'_>, kind: Category) -> Result<GgmlType> {
        let eight_experts = self.facts.n_expert == 8;
        if listed(AT_LEAST_Q8_0_IN, &self.facts.arch, t.name) {
            return Ok(GgmlType::Q8_0);
        }
        let is_output = kind == Category::Output || self.tied && kind == Category::TokenEmbedding;
        if let Some(dense) = self.mix.dense {
            let experts = !is_output && t.ne.get(2).is_some_and(|&n| n > 1);
            return Ok(if experts { self.mix.base } else { dense });
        }
        Ok(match kind {
            _ if is_output => self.output(t),
            Category::TokenEmbedding => self.mix.embedding.unwrap_or(self.mix.base),
            Category::AttnV => self.attn_v(),
            Category::AttnK if eight_experts => self.mix.moe8_attn,
            Category::AttnK | Category::AttnQ => self.mix.attn_qk.unwrap_or(self.mix.base),
            Category::AttnOutput => self.attn_output(),
            Category::FfnDown => self.ffn_down(t.name)?,
            Category::FfnGate | Category::FfnUp => self.ffn_middle(t.name, kind)?,
            _ => self.mix.base,
        })
    }

    /// The output matrix, or the embeddings that serve as one.
    fn output(&self, t: &TensorInfo<'_>) -> GgmlType {
        match self.overrides.output_tensor {
            Some(ty) => ty,
            None if self.is_falcon() || !fits(self.mix.base, t.ne[0]) => GgmlType::Q8_0,
            None if self.mix.base == GgmlType::Q8_0 => GgmlType::Q8_0,
            None => self.mix.output,
        }
    }

    /// Returns the type that the first rule which holds gives to matrix `i` of `n`.
    fn by_rules(&self, rules: Rules, i: u32, n: u32) -> GgmlType {
        let holds = |when| match when {
            When::Always => true,
            When::First(count) => i < count,
            When::FirstPart(parts) => i < n / parts,
            When::MoreBits => uses_more_bits(i, n),
            When::SharedValues => self.facts.shares_values(),
            When::FirstEighthKnown => self.known && i < n / 8,
            When::FirstEighthUnknown => !self.known && i < n / 8,
            When::Unknown => !self.known,
            When::SharedOrExperts => self.facts.shares_values() || self.facts.n_expert >= 4,
            When::MoreBitsOfEight => self.facts.n_expert == 8 && uses_more_bits(i, n),
        };
        rules.iter().find(|rule| holds(rule.0)).map_or(self.mix.base, |rule| rule.1)
    }

    fn attn_v(&mut self) -> GgmlType {
        let i = self.i_attn_v;
        self.i_attn_v += 1;
        if self.facts.n_expert == 8 {
            return self.mix.moe8_attn;
        }
        match self.by_rules(self.mix.attn_v, i, self.n_attn_v) {
            GgmlType::Q3_K | GgmlType::Q4_K if self.facts.is_70b() && !self.mix.two_bits => GgmlType::Q5_K,
            ty => ty,
        }
    }

    fn attn_output(&self) -> GgmlType {
        let other = match self.facts.n_expert {
            _ if self.is_falcon() && !self.mix.two_bits => self.mix.falcon_attn_output,
            8 => self.mix.moe8_attn_output,
            _ => self.mix.attn_output,
        };
        other.unwrap_or(self.mix.base)
    }

    fn ffn_down(&mut self, name: &str) -> Result<GgmlType> {
        let n = self.facts.n_layer;
        let named = self.facts.n_expert > 1 && !self.mix.two_bits;
        let i = if named { self.layer_number(name)? } else { self.i_ffn_down };
        self.i_ffn_down += 1;
        let falcon = self.mix.falcon_ffn_down.filter(|_| self.is_falcon());
        Ok(self.by_rules(falcon.unwrap_or(self.mix.ffn_down), i, n))
    }

    /// FFN gates and inputs.
    fn ffn_middle(&mut self, name: &str, kind: Category) -> Result<GgmlType> {
        let Some(ty) = self.mix.ffn_middle else { return Ok(self.mix.base) };
        let n = self.facts.n_layer;
        let count = if kind == Category::FfnGate { &mut self.i_ffn_gate } else { &mut self.i_ffn_up };
        let met = *count;
        *count += 1;
        let i = if self.facts.n_expert > 1 { self.layer_number(name)? } else { met };
        Ok(if (n / 8..7 * n / 8).contains(&i) { ty } else { self.mix.base })
    }

    fn layer_number(&self, name: &str) -> Result<u32> {
        layer_of(name).filter(|&i| i < self.facts.n_layer).ok_or_else(|| {
            Error::model(
                Place::named_tensor(name),
                format!("its name gives no layer below the block count, {}", self.facts.n_layer),
                "Check block_count and the tensor names of the model",
            )
        })
    }

    fn is_falcon(&self) -> bool {
        self.facts.arch == "falcon"
    }
}

fn is_quantized(ty: GgmlType) -> bool {
    ty.block_len() > 1
}

fn check_fit(ty: GgmlType, t: &TensorInfo<'_>) -> Result<GgmlType> {
    if fits(ty, t.ne[0]) {
        return Ok(ty);
    }
    Err(Error::usage(
        format!("tensor '{}' has rows of {}, which {} cannot hold", t.name, t.ne[0], ty.name()),
        format!("Choose a type whose blocks of {} divide the row, or F16", ty.block_len()),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn types(recipe: Recipe, facts: &ModelFacts, tensors: &[(&str, &[u64])]) -> Vec<GgmlType> {
        let infos: Vec<_> = tensors
            .iter()
            .map(|&(name, ne)| TensorInfo { name, ne, stored: GgmlType::F32, kept: false })
            .collect();
        assign(recipe, facts, false, &Overrides::default(), &infos).unwrap()
    }

    #[test]
    fn names_and_file_types_round_trip() {
        for recipe in Recipe::all() {
            assert_eq!(Recipe::from_name(&recipe.name().to_lowercase()), Some(recipe));
        }
        assert_eq!(Recipe::Q4_K_M.file_type(), 15);
        assert_eq!(Recipe::from_name("Q4_K"), None);
    }

    #[test]
    fn order_is_outside_first_then_layers_by_number() {
        let names = ["blk.10.a", "blk.2.b", "output.weight", "blk.2.a", "blk.x", "token_embd.weight"];
        let sorted: Vec<_> = layered_order(&names).into_iter().map(|i| names[i]).collect();
        assert_eq!(sorted, ["blk.x", "output.weight", "token_embd.weight", "blk.2.a", "blk.2.b", "blk.10.a"]);
    }

    #[test]
    fn rows_that_do_not_fit_get_smaller_blocks_and_then_f16() {
        let facts = ModelFacts { arch: "llama".into(), n_layer: 1, ..ModelFacts::default() };
        let one = |row| types(Recipe::Q4_K_S, &facts, &[("blk.0.attn_q.weight", &[row, 4])])[0];
        assert_eq!([one(256), one(288), one(100)], [GgmlType::Q4_K, GgmlType::Q5_0, GgmlType::F16]);
    }

    #[test]
    fn a_plain_recipe_keeps_what_the_converter_stores_otherwise() {
        let t = |kept| TensorInfo { name: "blk.0.x.weight", ne: &[256, 4], stored: GgmlType::F32, kept };
        for (recipe, kept, ty) in [
            (Recipe::BF16, false, GgmlType::BF16),
            (Recipe::BF16, true, GgmlType::F32),
            (Recipe::Q4_K_M, true, GgmlType::Q4_K),
        ] {
            let facts = ModelFacts::default();
            assert_eq!(assign(recipe, &facts, false, &Overrides::default(), &[t(kept)]).unwrap(), [ty]);
        }
    }

    #[test]
    fn an_override_that_does_not_fit_is_an_error() {
        let overrides = Overrides { token_embedding: Some(GgmlType::Q6_K), ..Overrides::default() };
        let t = TensorInfo { name: "token_embd.weight", ne: &[100, 4], stored: GgmlType::F32, kept: false };
        let facts = ModelFacts::default();
        let text = assign(Recipe::Q4_K_M, &facts, false, &overrides, &[t]).unwrap_err().to_string();
        assert!(text.contains("token_embd.weight") && text.contains("100"), "{text}");
    }

    #[test]
    fn an_expert_matrix_without_a_layer_number_is_an_error() {
        let facts = ModelFacts { arch: "llama".into(), n_layer: 2, n_expert: 8, ..ModelFacts::default() };
        for name in ["ffn_down_exps.weight", "blk.2.ffn_down_exps.weight", "blk.99999999999.ffn_down.weight"]
        {
            let t = TensorInfo { name, ne: &[256, 4, 8], stored: GgmlType::F32, kept: false };
            assert!(assign(Recipe::Q4_K_M, &facts, false, &Overrides::default(), &[t]).is_err(), "{name}");
        }
    }

    #[test]
    fn bad_overrides_say_what_to_write() {
        for text in ["attn_v", "=q8_0", "attn_v=q9", "attn_v=iq1_s", "(=q8_0"] {
            assert!(Overrides::parse_tensor_type(text).is_err(), "{text}");
        }
        let (regex, ty) = Overrides::parse_tensor_type("ATTN_V=q8_0").unwrap();
        assert!(regex.is_match("blk.3.attn_v.weight") && ty == GgmlType::Q8_0);
    }
}
