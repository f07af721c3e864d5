//! The kinds of mixers, which mix the tokens of a layer: attention of several kinds, or a recurrence. The tensors of a layer show
//! its kind.

use crate::forward::weights::Weights;

/// What mixes the tokens of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mixer {
    /// Nothing: the layer is a feed-forward network.
    None,
    /// Attention with keys and values for each head, or for a group of heads.
    Attention,
    /// Attention with one compressed key for all heads.
    LatentAttention,
    /// The gated delta rule.
    DeltaNet,
    /// Mamba.
    Mamba,
    /// Mamba 2.
    Mamba2,
    /// The sum of attention and Mamba 2.
    AttentionAndMamba2,
    /// A gated short convolution.
    GatedConvolution,
}

impl Mixer {
    /// Finds what mixes the tokens of layer `index`. A layer without a mixer counts as attention, whose tensors are missing
    /// then, unless `may_lack` is set.
    pub fn find(weights: &Weights, index: usize, may_lack: bool) -> Self {
        let has = |name: &str| weights.has(&format!("blk.{index}.{name}.weight"));
        match (has("attn_output"), has("ssm_in"), has("ssm_x")) {
            _ if has("attn_kv_a_mqa") => Self::LatentAttention,
            _ if has("shortconv.in_proj") => Self::GatedConvolution,
            (true, true, false) => Self::AttentionAndMamba2,
            (true, ..) => Self::Attention,
            (false, _, true) => Self::Mamba,
            (false, true, false) => Self::Mamba2,
            _ if has("ssm_beta") || has("ssm_ba") => Self::DeltaNet,
            _ if may_lack => Self::None,
            _ => Self::Attention,
        }
    }

    /// Returns whether the mixer has heads of queries and keys.
    pub fn attends(self) -> bool {
        matches!(self, Self::Attention | Self::LatentAttention | Self::AttentionAndMamba2)
    }

    /// Returns the tensors, without `blk.N.`, that this mixer has beside those of ordinary attention.
    pub fn tensors(self) -> &'static [&'static str] {
        match self {
            Self::None => &[],
            Self::Attention => &["attn_gate", "attn_sinks", "attn_sub_norm"],
            Self::LatentAttention => &[
                "attn_q_a",
                "attn_q_a_norm",
                "attn_q_b",
                "attn_kv_a_mqa",
                "attn_kv_a_norm",
                "attn_k_b",
                "attn_v_b",
            ],
            Self::DeltaNet => &[
                "attn_gate",
                "ssm_a",
                "ssm_alpha",
                "ssm_ba",
                "ssm_beta",
                "ssm_conv1d",
                "ssm_dt",
                "ssm_norm",
                "ssm_out",
            ],
            Self::Mamba => &[
                "ssm_a",
                "ssm_b_norm",
                "ssm_c_norm",
                "ssm_conv1d",
                "ssm_d",
                "ssm_dt",
                "ssm_dt_norm",
                "ssm_in",
                "ssm_out",
                "ssm_x",
            ],
            Self::Mamba2 | Self::AttentionAndMamba2 => {
                &["ssm_a", "ssm_conv1d", "ssm_d", "ssm_dt", "ssm_in", "ssm_norm", "ssm_out"]
            }
            Self::GatedConvolution => &["shortconv.conv", "shortconv.in_proj", "shortconv.out_proj"],
        }
    }
}
