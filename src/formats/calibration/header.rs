//! The metadata of a calibration file: strings in the header of a safetensors file.

use std::collections::HashMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{Error, Place, Result};

/// Value of the metadata key `format`, which tells a calibration file from other safetensors files.
pub const FORMAT: &str = "srd-calibration";
pub const VERSION: &str = "1";
/// Blocks are multiples of this, the super-blocks of the K-quants.
pub const GRANULE: usize = 256;
/// Suffix of the name of moments. The name of the first tensor that the input feeds stands before the suffix.
pub const SUFFIX: &str = ".moments";

pub const NOT_CALIBRATION: &str = "Name a calibration file that srd-rs calibrate wrote, or make it again";

/// Suffix of the name of a quantized tensor.
pub const BLOCKS_SUFFIX: &str = ".blocks";

/// Which tokens the statistics come from.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Info {
    /// `random`, `builtin`, or the name of the text file.
    pub text: String,
    /// SHA-256 of the text in hex. `None` for random tokens.
    pub text_sha256: Option<String>,
    /// Seed of random tokens, and of the tokens that the model draws where tokens are weighed.
    pub seed: u64,
    /// Whether a token counts by the length of its gradient: see [`forward::gradients`](crate::forward::gradients).
    pub weighed: bool,
    /// Number of tokens that the model was run on.
    pub tokens: u64,
    /// Number of tokens of a chunk. The model sees each chunk alone.
    pub ctx: u64,
    /// Side of the blocks that was asked for; 0 for all of H.
    pub block: u64,
    /// Digest of the model, as in the key `srd.source.digest` of a conversion.
    pub source_digest: String,
}

impl Info {
    /// Returns the number of chunks.
    pub fn chunks(&self) -> u64 {
        self.tokens.div_ceil(self.ctx.max(1))
    }
}

/// An input of the model: the tensors that it feeds, and the number of tokens that it was seen with.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// GGUF names of the tensors that the input feeds. The first name is that of the moments.
    pub tensors: Vec<String>,
    /// One count, or one for each expert of a stack.
    pub tokens: Vec<u64>,
}

impl Input {
    /// Returns the name of the moments in the file.
    pub fn moments_name(&self) -> String {
        format!("{}{SUFFIX}", self.tensors[0])
    }
}

/// A tensor that was quantized while the statistics were taken, under the inputs that the quantized tensors before it give it.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Quantized {
    /// GGUF name of the tensor.
    pub tensor: String,
    /// Name of its type.
    pub r#type: String,
    /// Sum of `(v - w) H (v - w)^T` over the rows.
    pub error: f64,
    /// Number of rows.
    pub rows: u64,
    /// Sum of `w H w^T` over the sampled rows.
    pub energy: f64,
    /// Number of the sampled rows, so that `energy * rows / sampled` estimates the sum over all rows.
    pub sampled: u64,
}

impl Quantized {
    /// Returns the name of the blocks in the file.
    pub fn blocks_name(&self) -> String {
        format!("{}{BLOCKS_SUFFIX}", self.tensor)
    }
}

/// Returns the side of the blocks of an input of `n` values, where `wanted` was asked for (0 for all of H).
///
/// # Errors
/// [`Error::Usage`] when `wanted` is no multiple of 256.
pub fn block_side(wanted: usize, n: usize) -> Result<usize> {
    if !wanted.is_multiple_of(GRANULE) {
        let what = format!("blocks of {wanted} do not fit the super-blocks of {GRANULE} weights");
        return Err(Error::usage(what, "Use a multiple of 256, or 0 for all of H"));
    }
    Ok(if wanted == 0 { n } else { wanted.min(n) })
}

/// Encodes the metadata of a complete file. `data_sha256` is the SHA-256 of everything behind the header.
pub fn encode(
    info: &Info,
    inputs: &[Input],
    quantized: &[Quantized],
    data_sha256: &str,
) -> Map<String, Value> {
    let text = |v: &str| Value::String(v.to_string());
    let number = |v: u64| Value::String(v.to_string());
    let mut map = Map::new();
    map.insert("format".into(), text(FORMAT));
    map.insert("version".into(), text(VERSION));
    map.insert("tool".into(), text(concat!("srd-rs ", env!("CARGO_PKG_VERSION"))));
    map.insert("source.digest".into(), text(&info.source_digest));
    map.insert("text".into(), text(&info.text));
    if let Some(sha256) = &info.text_sha256 {
        map.insert("text.sha256".into(), text(sha256));
    }
    map.insert("seed".into(), number(info.seed));
    if info.weighed {
        map.insert("tokens.weighed".into(), text("gradient"));
    }
    map.insert("tokens".into(), number(info.tokens));
    map.insert("ctx".into(), number(info.ctx));
    map.insert("block".into(), number(info.block));
    map.insert("data.sha256".into(), text(data_sha256));
    let inputs = serde_json::to_string(inputs).expect("names and numbers");
    map.insert("inputs".into(), Value::String(inputs));
    if !quantized.is_empty() {
        let quantized = serde_json::to_string(quantized).expect("names and numbers");
        map.insert("quantized".into(), Value::String(quantized));
    }
    map
}

/// The strings of a header. Messages name `path`.
pub struct Metadata<'a> {
    path: &'a Path,
    strings: HashMap<String, String>,
}

/// The part of a safetensors header that is read here. `formats::safetensors` reads the tensors.
#[derive(Deserialize)]
struct Header {
    #[serde(rename = "__metadata__", default)]
    metadata: HashMap<String, String>,
}

impl<'a> Metadata<'a> {
    /// Parses the JSON of a header that `read_header` has accepted.
    ///
    /// # Errors
    /// [`Error::Format`] when the header is not that of a calibration file of this version.
    pub fn parse(json: &[u8], path: &'a Path) -> Result<Self> {
        let header: Header = serde_json::from_slice(json)
            .map_err(|e| Error::format(Place::file(path), format!("its metadata: {e}"), NOT_CALIBRATION))?;
        let metadata = Self { path, strings: header.metadata };
        if metadata.strings.get("format").map(String::as_str) != Some(FORMAT) {
            return Err(metadata.wrong("is safetensors, but no calibration file".into()));
        }
        match metadata.get("version")? {
            VERSION => Ok(metadata),
            other => Err(metadata.wrong(format!("has version '{}', not {VERSION}", other.escape_debug()))),
        }
    }

    /// The SHA-256, in hexadecimal digits, of everything behind the header.
    ///
    /// # Errors
    /// [`Error::Format`] when the metadata do not have it.
    pub fn data_sha256(&self) -> Result<&str> {
        self.get("data.sha256")
    }

    pub fn info(&self) -> Result<Info> {
        Ok(Info {
            text: self.get("text")?.to_string(),
            text_sha256: self.strings.get("text.sha256").cloned(),
            seed: self.number("seed")?,
            weighed: self.weighed()?,
            tokens: self.number("tokens")?,
            ctx: self.number("ctx")?,
            block: self.number("block")?,
            source_digest: self.get("source.digest")?.to_string(),
        })
    }

    fn weighed(&self) -> Result<bool> {
        match self.strings.get("tokens.weighed").map(String::as_str) {
            None => Ok(false),
            Some("gradient") => Ok(true),
            Some(other) => {
                let what =
                    format!("its tokens are weighed by '{}', which is not known", other.escape_debug());
                Err(self.wrong(what))
            }
        }
    }

    pub fn inputs(&self) -> Result<Vec<Input>> {
        let inputs: Vec<Input> = serde_json::from_str(self.get("inputs")?)
            .map_err(|e| self.wrong(format!("the metadata 'inputs' is not valid: {e}")))?;
        match inputs.iter().any(|i| i.tensors.is_empty() || i.tokens.is_empty()) {
            true => Err(self.wrong("has an input without tensors or counts".into())),
            false => Ok(inputs),
        }
    }

    pub fn quantized(&self) -> Result<Vec<Quantized>> {
        let Some(text) = self.strings.get("quantized") else { return Ok(Vec::new()) };
        serde_json::from_str(text)
            .map_err(|e| self.wrong(format!("the metadata 'quantized' is not valid: {e}")))
    }

    fn get(&self, key: &str) -> Result<&str> {
        let value = self.strings.get(key).map(String::as_str);
        value.ok_or_else(|| self.wrong(format!("the metadata has no '{key}'")))
    }

    fn number(&self, key: &str) -> Result<u64> {
        self.get(key)?.parse().map_err(|_| self.wrong(format!("the metadata '{key}' is no number")))
    }

    fn wrong(&self, what: String) -> Error {
        Error::format(Place::file(self.path), what, NOT_CALIBRATION)
    }
}
