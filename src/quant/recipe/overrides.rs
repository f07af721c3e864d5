//! The types of tensors that a user states instead of those of a mix.

use std::collections::HashMap;

use regex::{Regex, RegexBuilder};

use super::names::{Category, PER_LAYER_TABLE, category, may_quantize};
use crate::dtype::GgmlType;
use crate::error::{Error, Result};

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
        GgmlType::from_name(name).filter(|&t| crate::quant::can_quantize(t)).ok_or_else(|| {
            let known: Vec<&str> = crate::quant::QUANTIZABLE.iter().map(|t| t.name()).collect();
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

    pub(super) fn named(&self, tensor: &str) -> Option<GgmlType> {
        self.tensor_type.iter().find(|(pattern, _)| pattern.is_match(tensor)).map(|&(_, ty)| ty)
    }

    /// The types given for embeddings and output. The per-layer embeddings follow the token
    /// embeddings, unless a pattern names them.
    pub(super) fn asked_for(&self, name: &str) -> Option<GgmlType> {
        let per_layer = name == PER_LAYER_TABLE;
        match category(name) {
            Category::TokenEmbedding if per_layer && self.named(name).is_some() => None,
            Category::TokenEmbedding => self.token_embedding,
            Category::Output => self.output_tensor,
            _ => None,
        }
    }
}
