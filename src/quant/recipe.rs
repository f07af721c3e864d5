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

/// A mix of types. The names are llama-quantize's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[allow(non_camel_case_types)]
#[allow(missing_docs, reason = "llama-quantize's documentation describes its mixes")]
pub enum Recipe {
    Q4_K_M,
    Q4_K_S,
    Q5_K_M,
    Q5_K_S,
    Q6_K,
    Q8_0,
    F16,
    BF16,
    F32,
}

/// The types that a recipe chooses. `None` stands for the base type.
struct Mix {
    recipe: Recipe,
    name: &'static str,
    /// `general.file_type`.
    file_type: u32,
    base: GgmlType,
    /// Attention values and FFN outputs on the layers that [`uses_more_bits`] picks.
    sensitive: Option<GgmlType>,
    /// The first four attention values, and the first eighth of the FFN outputs.
    early: Option<GgmlType>,
    /// Attention outputs of models with eight experts.
    moe8_attn_output: Option<GgmlType>,
}

const fn mix(recipe: Recipe, name: &'static str, file_type: u32, base: GgmlType) -> Mix {
    Mix { recipe, name, file_type, base, sensitive: None, early: None, moe8_attn_output: None }
}

#[rustfmt::skip]
const MIXES: &[Mix] = {
    use GgmlType as T;
    &[
        Mix { sensitive: Some(T::Q6_K), moe8_attn_output: Some(T::Q5_K), ..mix(Recipe::Q4_K_M, "Q4_K_M", 15, T::Q4_K) },
        Mix { early: Some(T::Q5_K),     moe8_attn_output: Some(T::Q5_K), ..mix(Recipe::Q4_K_S, "Q4_K_S", 14, T::Q4_K) },
        Mix { sensitive: Some(T::Q6_K),                                  ..mix(Recipe::Q5_K_M, "Q5_K_M", 17, T::Q5_K) },
        mix(Recipe::Q5_K_S, "Q5_K_S", 16, T::Q5_K),
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

    /// Every recipe, smallest mixes first.
    pub fn all() -> impl Iterator<Item = Self> {
        MIXES.iter().map(|m| m.recipe)
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

    fn named(&self, tensor: &str) -> Option<GgmlType> {
        self.tensor_type.iter().find(|(pattern, _)| pattern.is_match(tensor)).map(|&(_, ty)| ty)
    }
}

/// Chooses the type of every tensor. `tensors` is the whole model in llama-quantize's order
/// ([`layered_order`]); the result is in the same order.
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
    overrides: &Overrides,
    tensors: &[TensorInfo<'_>],
) -> Result<Vec<GgmlType>> {
    let mut chooser = Chooser::new(recipe.mix(), facts, overrides, tensors);
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
    AttnOutput,
    FfnDown,
    Other,
}

/// `(part of the name, kind)`: the first that is found decides. `attn_q.weight`, `ffn_up` and
/// `ffn_gate` stand here only because they come before what follows them.
const CATEGORIES: &[(&str, Category)] = &[
    ("attn_qkv.weight", Category::AttnV),
    ("attn_kv_b.weight", Category::AttnV),
    ("attn_v.weight", Category::AttnV),
    ("attn_k.weight", Category::AttnK),
    ("attn_q.weight", Category::Other),
    ("attn_output.weight", Category::AttnOutput),
    ("ffn_up", Category::Other),
    ("ffn_gate", Category::Other),
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

/// Returns whether a tensor is a matrix that recipes may quantize.
pub fn may_quantize(name: &str, ne: &[u64]) -> bool {
    let is_matrix = ne.iter().skip(1).any(|&n| n > 1);
    is_matrix
        && name.ends_with("weight")
        && !KEPT_NAMES.contains(&name)
        && !KEPT.iter().any(|part| name.contains(part))
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
        T::Q2_K | T::Q3_K => T::Q4_0,
        T::Q4_K => T::Q5_0,
        T::Q5_K => T::Q5_1,
        T::Q6_K => T::Q8_0,
        T::IQ4_XS => T::IQ4_NL,
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
    overrides: &'a Overrides,
    tied: bool,
    n_attn_v: u32,
    /// Attention values met so far.
    i_attn_v: u32,
    /// FFN outputs met so far.
    i_ffn_down: u32,
}

impl<'a> Chooser<'a> {
    fn new(
        mix: &'a Mix,
        facts: &'a ModelFacts,
        overrides: &'a Overrides,
        tensors: &[TensorInfo<'_>],
    ) -> Self {
        let count = |kind| tensors.iter().filter(|t| category(t.name) == kind).count();
        Self {
            mix,
            facts,
            overrides,
            tied: count(Category::Output) == 0,
            n_attn_v: u32::try_from(count(Category::AttnV)).unwrap_or(u32::MAX),
            i_attn_v: 0,
            i_ffn_down: 0,
        }
    }

    fn choose(&mut self, t: &TensorInfo<'_>) -> Result<GgmlType> {
        if !may_quantize(t.name, t.ne) {
            return Ok(t.stored);
        }
        let kind = category(t.name);
        if let Some(ty) = self.asked_for(t.name, kind) {
            return check_fit(ty, t);
        }
        let ty = match self.overrides.named(t.name) {
            Some(ty) => ty,
            None if !is_quantized(self.mix.base) => return Ok(self.mix.base),
            None if self.overrides.pure => self.mix.base,
            None => self.mixed(t, kind)?,
        };
        Ok(fallback(ty, t.ne[0]))
    }

    /// The types given for embeddings and output. The per-layer embeddings follow the token
    /// embeddings, unless a pattern names them.
    fn asked_for(&self, name: &str, kind: Category) -> Option<GgmlType> {
        let per_layer = name == "per_layer_token_embd.weight";
        match kind {
            Category::TokenEmbedding if per_layer && self.overrides.named(name).is_some() => None,
            Category::TokenEmbedding => self.overrides.token_embedding,
            Category::Output => self.overrides.output_tensor,
            _ => None,
        }
    }

    /// Returns the type that the mix gives, before the row length is looked at.
    fn mixed(&mut self, t: &TensorInfo<'_>, kind: Category) -> Result<GgmlType> {
        let eight_experts = self.facts.n_expert == 8;
        Ok(match kind {
            Category::Output => self.output(t),
            Category::TokenEmbedding if self.tied => self.output(t),
            Category::AttnV => self.attn_v(),
            Category::AttnK if eight_experts => GgmlType::Q8_0,
            Category::AttnOutput if eight_experts && !self.is_falcon() => {
                self.mix.moe8_attn_output.unwrap_or(self.mix.base)
            }
            Category::FfnDown => self.ffn_down(t.name)?,
            _ => self.mix.base,
        })
    }

    /// The output matrix, or the embeddings that serve as one.
    fn output(&self, t: &TensorInfo<'_>) -> GgmlType {
        match self.overrides.output_tensor {
            Some(ty) => ty,
            None if self.is_falcon() || !fits(self.mix.base, t.ne[0]) => GgmlType::Q8_0,
            None if self.mix.base == GgmlType::Q8_0 => GgmlType::Q8_0,
            None => GgmlType::Q6_K,
        }
    }

    fn attn_v(&mut self) -> GgmlType {
        let i = self.i_attn_v;
        self.i_attn_v += 1;
        if self.facts.n_expert == 8 {
            return GgmlType::Q8_0;
        }
        let wide = self.mix.sensitive.filter(|_| uses_more_bits(i, self.n_attn_v));
        let early = self.mix.early.filter(|_| i < 4);
        let ty = wide.or(early).unwrap_or(self.mix.base);
        if ty == GgmlType::Q4_K && self.facts.is_70b() { GgmlType::Q5_K } else { ty }
    }

    fn ffn_down(&mut self, name: &str) -> Result<GgmlType> {
        let n = self.facts.n_layer;
        let i = if self.facts.n_expert > 1 { self.layer_number(name)? } else { self.i_ffn_down };
        self.i_ffn_down += 1;
        if self.is_falcon() {
            return Ok(self.falcon_ffn_down(i, n));
        }
        let wide = self.mix.sensitive.filter(|_| uses_more_bits(i, n));
        let early = self.mix.early.filter(|_| i < n / 8);
        Ok(wide.or(early).unwrap_or(self.mix.base))
    }

    /// Falcon's FFN outputs are less sensitive: Q4_K_M goes one step lower, Q4_K_S has no early layers.
    fn falcon_ffn_down(&self, i: u32, n: u32) -> GgmlType {
        match self.mix.recipe {
            Recipe::Q4_K_M if i < n / 16 => GgmlType::Q6_K,
            Recipe::Q4_K_M if uses_more_bits(i, n) => GgmlType::Q5_K,
            Recipe::Q5_K_M if uses_more_bits(i, n) => GgmlType::Q6_K,
            _ => self.mix.base,
        }
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
        let infos: Vec<_> =
            tensors.iter().map(|&(name, ne)| TensorInfo { name, ne, stored: GgmlType::F32 }).collect();
        assign(recipe, facts, &Overrides::default(), &infos).unwrap()
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
    fn an_override_that_does_not_fit_is_an_error() {
        let overrides = Overrides { token_embedding: Some(GgmlType::Q6_K), ..Overrides::default() };
        let t = TensorInfo { name: "token_embd.weight", ne: &[100, 4], stored: GgmlType::F32 };
        let facts = ModelFacts::default();
        let text = assign(Recipe::Q4_K_M, &facts, &overrides, &[t]).unwrap_err().to_string();
        assert!(text.contains("token_embd.weight") && text.contains("100"), "{text}");
    }

    #[test]
    fn an_expert_matrix_without_a_layer_number_is_an_error() {
        let facts = ModelFacts { arch: "llama".into(), n_layer: 2, n_expert: 8, ..ModelFacts::default() };
        for name in ["ffn_down_exps.weight", "blk.2.ffn_down_exps.weight", "blk.99999999999.ffn_down.weight"]
        {
            let t = TensorInfo { name, ne: &[256, 4, 8], stored: GgmlType::F32 };
            assert!(assign(Recipe::Q4_K_M, &facts, &Overrides::default(), &[t]).is_err(), "{name}");
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
