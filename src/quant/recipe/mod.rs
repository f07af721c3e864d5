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

mod mixes;
mod names;
mod overrides;

use serde::{Deserialize, Serialize};

use self::mixes::{MIXES, Mix, Rules, When};
use self::names::{Category, category, is_always_q8_0};
pub use self::names::{
    EMBEDDING, OUTPUT, PER_LAYER_TABLE, layer_of, layered_order, may_quantize, split_layer,
};
pub use self::overrides::Overrides;
use crate::dtype::GgmlType;
use crate::error::{Error, Place, Result};

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
        if is_always_q8_0(&self.facts.arch, t.name) {
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
