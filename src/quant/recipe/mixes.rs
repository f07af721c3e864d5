//! The mixes of llama-quantize as data: the base type of each mix, and the rules for the matrices that get another type.

use super::Recipe;
use crate::dtype::GgmlType;

/// When a matrix gets a type other than the base. `i` is its place among the matrices of its kind, and `n` the number of
/// layers (for attention values the number of these).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
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
pub(super) type Rules = &'static [(When, GgmlType)];

/// The types that a recipe chooses. `None` stands for the base type.
pub(super) struct Mix {
    pub(super) recipe: Recipe,
    pub(super) name: &'static str,
    /// `general.file_type`.
    pub(super) file_type: u32,
    pub(super) base: GgmlType,
    /// The output matrix.
    pub(super) output: GgmlType,
    /// The token embeddings, where they are not the output matrix too.
    pub(super) embedding: Option<GgmlType>,
    /// Attention queries and keys.
    pub(super) attn_qk: Option<GgmlType>,
    pub(super) attn_v: Rules,
    pub(super) attn_output: Option<GgmlType>,
    /// Attention outputs of models with eight experts.
    pub(super) moe8_attn_output: Option<GgmlType>,
    pub(super) ffn_down: Rules,
    /// FFN outputs of Falcon, which are less sensitive; else those of `ffn_down`.
    pub(super) falcon_ffn_down: Option<Rules>,
    /// Attention outputs of Falcon.
    pub(super) falcon_attn_output: Option<GgmlType>,
    /// FFN gates and inputs of all layers but the first and the last eighth.
    pub(super) ffn_middle: Option<GgmlType>,
    /// Every matrix that is no stack of experts, the output included.
    pub(super) dense: Option<GgmlType>,
    /// Attention values and keys of models with eight experts.
    pub(super) moe8_attn: GgmlType,
    /// Whether the rules are those of llama-quantize for two bits: without exceptions for Falcon and for 70B, and with the
    /// running count of FFN outputs.
    pub(super) two_bits: bool,
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
pub(super) const MIXES: &[Mix] = {
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
