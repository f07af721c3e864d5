//! The mixer of a layer at work: checks its tensors, and mixes the tokens of the layer.

use crate::error::Result;
use crate::forward::buffers::Buffer;
use crate::forward::groups::Group;
use crate::forward::mixer::Mixer;
use crate::forward::model::{Layer, Model};
use crate::forward::pass::Pass;
use crate::forward::projections::Projections;
use crate::forward::vectors::add;
use crate::forward::weights::Weights;
use crate::forward::{convolution, delta_net, latent, mamba};

impl Mixer {
    /// Checks the tensors of a layer.
    ///
    /// # Errors
    /// Returns an error about the model if a tensor is missing or has another shape than the metadata says.
    pub fn check(self, weights: &Weights, model: &Model, layer: &Layer) -> Result<()> {
        let attention = || Projections::find(weights, model, layer).map(drop);
        match self {
            Self::None => Ok(()),
            Self::Attention => attention(),
            Self::LatentAttention => latent::check(weights, model, layer),
            Self::DeltaNet => delta_net::check(weights, model, layer),
            Self::Mamba => mamba::check(weights, model, layer, false),
            Self::Mamba2 => mamba::check(weights, model, layer, true),
            Self::AttentionAndMamba2 => {
                attention()?;
                mamba::check(weights, model, layer, true)
            }
            Self::GatedConvolution => convolution::check(weights, model, layer),
        }
    }
}

impl Pass<'_> {
    /// Mixes the tokens of a layer; `input` is its normalized input. `None` if nothing mixes them.
    pub(super) fn mix(&mut self, layer: &Layer, group: &Group, input: &[f32]) -> Result<Option<Buffer>> {
        Ok(Some(match layer.mixer {
            Mixer::None => return Ok(None),
            Mixer::Attention => self.attention(layer, group, input)?,
            Mixer::LatentAttention => self.latent_attention(layer, group, input)?,
            Mixer::DeltaNet => self.delta_net(layer, group, input)?,
            Mixer::Mamba => self.mamba(layer, group, input)?,
            Mixer::Mamba2 => self.mamba2(layer, group, input)?,
            Mixer::AttentionAndMamba2 => {
                let mut y = self.attention(layer, group, input)?;
                add(&mut y, &self.mamba2(layer, group, input)?, 1.0);
                y
            }
            Mixer::GatedConvolution => self.gated_convolution(layer, group, input)?,
        }))
    }
}
