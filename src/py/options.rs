//! The options of a conversion, read from the attributes of `srd_rs.options.ConvertOptions`.

use std::path::PathBuf;

use pyo3::prelude::*;

use crate::convert::options::{ContainerOptions, Effort, Provenance};
use crate::error::{Error, Result};
use crate::feedback::SolverOptions;
use crate::quant::recipe::{ModelFacts, Overrides, Recipe};
use crate::quant::residual::Bits;
use crate::sign::ed25519::SignKey;
use crate::sign::keys::{self, MasterKey, Origin};

/// `srd_rs.options.ConvertOptions`, as far as the native module uses the options.
#[derive(FromPyObject)]
pub struct ConvertOptions {
    pub quant: String,
    /// `None` is what `srd_rs.planning` has not chosen yet: the plain search.
    pub effort: Option<String>,
    tensor_types: Vec<String>,
    token_embedding_type: Option<String>,
    output_tensor_type: Option<String>,
    pure: bool,
    exact_types: Vec<(String, String)>,
    pub imatrix: Option<PathBuf>,
    pub srd: SrdOptions,
    pub seed: u64,
    pub split_max_size: Option<u64>,
    pub provenance: bool,
    axm: Option<bool>,
    axm_output: Option<PathBuf>,
    residual_bits: Option<u64>,
    pub key_file: Option<PathBuf>,
    pub sign_key: Option<PathBuf>,
    pub threads: Option<usize>,
    pub max_memory: u64,
    read: String,
    pub allow_nonfinite: bool,
    pub allow_requantize: bool,
    pub scale_channels: bool,
    pub overwrite: bool,
    /// What the key `srd.options` says.
    pub recorded: Option<String>,
}

/// `srd_rs.options.SrdOptions`.
#[derive(FromPyObject)]
pub struct SrdOptions {
    feedback: bool,
    descent_rounds: usize,
    beam_width: usize,
    dither: Option<f32>,
    dither_layers: Option<(f64, f64)>,
}

/// The files of the keys that a container is signed with.
pub struct Signing {
    pub key_file: Option<PathBuf>,
    pub sign_key: Option<PathBuf>,
}

/// What `srd_rs.families` knows of a model, as far as the mixes need it.
#[derive(FromPyObject)]
pub struct Facts {
    arch: String,
    n_layer: u32,
    n_expert: u32,
    n_head: u32,
    n_head_kv: Counts,
}

/// A number of heads for all layers, or one number for each layer.
#[derive(FromPyObject)]
enum Counts {
    One(u32),
    Each(Vec<u32>),
}

impl ConvertOptions {
    /// Whether second moments are used; otherwise the diagonals of a calibration weigh the errors.
    pub fn feedback(&self) -> bool {
        matches!(self.effort.as_deref(), Some("srd" | "max"))
    }

    /// The name of the method that quantizes the weights.
    pub fn method(&self) -> &'static str {
        match self.effort.as_deref() {
            Some("srd") => "srd",
            Some("max") => "srd-max",
            _ => "search",
        }
    }

    /// Whether local weights are read through maps. `auto` reads them at offsets: docs/decisions/0017-map.md has the measurement.
    pub fn maps(&self) -> Result<bool> {
        match self.read.as_str() {
            "auto" | "pread" => Ok(false),
            "map" => Ok(true),
            other => Err(Error::usage(format!("'{other}' is no way to read"), "Use auto, map or pread")),
        }
    }

    /// Whether a container is written beside the GGUF.
    pub fn axm(&self) -> bool {
        self.axm.unwrap_or(false)
    }

    pub fn recipe(&self) -> Result<Recipe> {
        parse_recipe(&self.quant)
    }

    pub fn overrides(&self) -> Result<Overrides> {
        let ty = |name: &Option<String>| name.as_deref().map(Overrides::parse_type).transpose();
        Ok(Overrides {
            tensor_type: parse_tensor_types(&self.tensor_types)?.tensor_type,
            token_embedding: ty(&self.token_embedding_type)?,
            output_tensor: ty(&self.output_tensor_type)?,
            pure: self.pure,
            exact: self
                .exact_types
                .iter()
                .map(|(name, ty)| Ok((name.clone(), Overrides::parse_type(ty)?)))
                .collect::<Result<_>>()?,
        })
    }

    /// The container beside the GGUF `output`.
    pub fn container(
        &self,
        output: &std::path::Path,
        provenance: Option<&Provenance>,
    ) -> Result<Option<ContainerOptions>> {
        let Some(provenance) = provenance.filter(|_| self.axm()) else { return Ok(None) };
        let bits = |n: u64| {
            Bits::new(n)
                .ok_or_else(|| Error::usage(format!("{n} is no width of a residual"), "Use 2, 3 or 4 bits"))
        };
        let path = self.axm_output.clone().unwrap_or_else(|| output.with_extension("axm"));
        let residual = self.residual_bits.filter(|&n| n > 0).map(bits).transpose()?;
        Ok(Some(ContainerOptions { path, residual, provenance: provenance.clone() }))
    }

    pub fn effort(&self) -> Effort {
        Effort { feedback: self.srd.solver(), seed: self.seed, dither_layers: self.srd.dither_layers }
    }

    pub fn signing(&self) -> Signing {
        Signing { key_file: self.key_file.clone(), sign_key: self.sign_key.clone() }
    }

    pub fn threads(&self) -> usize {
        self.threads.unwrap_or_else(cpus)
    }
}

impl SrdOptions {
    pub fn solver(&self) -> SolverOptions {
        SolverOptions {
            feedback: self.feedback,
            descent_rounds: self.descent_rounds,
            beam_width: self.beam_width,
            dither: self.dither,
        }
    }
}

impl Signing {
    /// The master key, made on first use, with its origin, and the Ed25519 key if one is named.
    pub fn load(&self) -> Result<(MasterKey, Origin, Option<SignKey>)> {
        let sign_key = self.sign_key.as_deref().map(SignKey::read).transpose()?;
        let (key, origin) = keys::find_or_make(self.key_file.as_deref())?;
        Ok((key, origin, sign_key))
    }
}

impl From<Facts> for ModelFacts {
    fn from(facts: Facts) -> Self {
        let n_head_kv = match facts.n_head_kv {
            Counts::One(n) => vec![n],
            Counts::Each(each) => each,
        };
        Self {
            arch: facts.arch,
            n_layer: facts.n_layer,
            n_expert: facts.n_expert,
            n_head: facts.n_head,
            n_head_kv,
        }
    }
}

pub fn parse_recipe(name: &str) -> Result<Recipe> {
    Recipe::from_name(name).ok_or_else(|| {
        let known: Vec<_> = Recipe::all().map(Recipe::name).collect();
        Error::usage(format!("'{name}' is no known mix"), format!("Use one of {}", known.join(", ")))
    })
}

/// `REGEX=TYPE`, several times.
pub fn parse_tensor_types(texts: &[String]) -> Result<Overrides> {
    let tensor_type = texts.iter().map(|t| Overrides::parse_tensor_type(t)).collect::<Result<_>>()?;
    Ok(Overrides { tensor_type, ..Overrides::default() })
}

/// The number of CPUs that this process may use: affinity and, in a container, the quota count.
#[pyfunction]
pub fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
