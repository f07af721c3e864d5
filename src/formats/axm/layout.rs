//! The preamble and the header of a container, and the place of everything in the file. The reader and the writer both
//! compute the places from the header; the manifest only repeats them.
//!
//! ```
//! use srd_rs::dtype::GgmlType;
//! use srd_rs::formats::axm::layout::shard_weights;
//!
//! // A Q4_K tensor of 4096 rows of 4096 weights has 9 MiB, which are two shards of whole rows.
//! let weights = shard_weights(GgmlType::Q4_K, 4096, 4096 * 4096);
//! assert_eq!(weights % 4096, 0);
//! assert_eq!((4096 * 4096u64).div_ceil(weights), 2);
//! ```

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use crate::dtype::GgmlType;
use crate::formats::gguf::{align_up, name_fault, tensor_bytes};
use crate::quant::residual::{self, Bits};
use crate::sign::keys::KeyId;
use crate::sign::{Hash, from_hex};

/// The first 8 bytes. As in PNG, they are not text, and a conversion of line ends or a stripped eighth bit breaks
/// them.
pub const MAGIC: [u8; 8] = *b"\x89AXM\r\n\x1a\n";
/// The version of the format that this crate reads and writes.
pub const VERSION: u32 = 1;
/// The number of the only suite of algorithms: SHA-256, HMAC-SHA256, HKDF-SHA256, and Ed25519 where there is a
/// signature.
pub const ALGORITHMS: u32 = 1;
/// The name of the format, as the header has it.
pub const FORMAT: &str = "srd-axm/1";

/// The length of the preamble.
pub const PREAMBLE_BYTES: u64 = 256;
/// Shards and the manifest begin at multiples of this many bytes.
pub const ALIGNMENT: u64 = 64 << 10;
/// A shard of the base has at most this many bytes.
pub const MAX_SHARD: u64 = 64 << 20;
/// The length of the shards that the writer cuts, in bytes: long enough that padding costs less than 1 % of the file,
/// and short enough that many cores have work.
pub const SHARD_BYTES: u64 = 8 << 20;
/// The header's JSON has at most this many bytes.
pub const MAX_HEADER: u64 = 16 << 20;
/// The GGUF headers of all parts have at most this many bytes altogether.
pub const MAX_GGUF_HEADERS: u64 = 64 << 20;
/// A container holds a GGUF of at most this many parts.
pub const MAX_PARTS: usize = 4096;
/// A container has at most this many shards, so that the manifest has at most 52 MiB. With shards of 8 MiB this is
/// enough for a model of 4 TiB.
pub const MAX_SHARDS: u64 = 1 << 19;

/// The first 8 bytes of the manifest.
pub const MANIFEST_MAGIC: [u8; 8] = *b"AXMMANI1";
/// The length of the manifest before its entries.
pub const MANIFEST_HEAD: u64 = 64;
/// The length of an entry of the manifest; each shard has one entry.
pub const ENTRY_BYTES: u64 = 104;
/// The length of the seal: fingerprint, tag, public key, signature, and the SHA-256 of these.
pub const SEAL_BYTES: u64 = 32 + 32 + 32 + 64 + 32;

/// The first 256 bytes of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preamble {
    /// The version of the format: [`VERSION`].
    pub version: u32,
    /// The suite of algorithms: [`ALGORITHMS`].
    pub algorithms: u32,
    /// The length of the header's JSON.
    pub header_bytes: u64,
    /// The offset of the first shard.
    pub data_offset: u64,
    /// The offset of the manifest.
    pub manifest_offset: u64,
    /// The length of the manifest.
    pub manifest_bytes: u64,
    /// The length of the container.
    pub file_bytes: u64,
    /// The number of shards.
    pub n_shards: u32,
    /// The SHA-256 of the header's JSON.
    pub header_hash: Hash,
    /// The salt from which the keys of this container are derived.
    pub salt: Hash,
    /// The id of the master key that signed.
    pub key_id: KeyId,
}

impl Preamble {
    /// Returns the bytes of the preamble.
    pub fn encode(&self) -> [u8; PREAMBLE_BYTES as usize] {
        let mut out = [0; PREAMBLE_BYTES as usize];
        out[0..8].copy_from_slice(&MAGIC);
        out[8..12].copy_from_slice(&self.version.to_le_bytes());
        out[12..16].copy_from_slice(&self.algorithms.to_le_bytes());
        let numbers = [
            self.header_bytes,
            self.data_offset,
            self.manifest_offset,
            self.manifest_bytes,
            self.file_bytes,
            u64::from(self.n_shards),
        ];
        for (out, n) in out[16..64].chunks_exact_mut(8).zip(numbers) {
            out.copy_from_slice(&n.to_le_bytes());
        }
        out[64..96].copy_from_slice(&self.header_hash);
        out[96..128].copy_from_slice(&self.salt);
        out[128..144].copy_from_slice(&self.key_id);
        out
    }

    /// Reads a preamble.
    ///
    /// # Errors
    /// What is wrong, if the bytes are not a preamble of this version.
    pub fn decode(bytes: &[u8; PREAMBLE_BYTES as usize]) -> Result<Self, String> {
        if bytes[0..8] != MAGIC {
            return Err("does not begin as an .axm container does".into());
        }
        let u32_at = |i: usize| u32::from_le_bytes(bytes[i..i + 4].try_into().expect("4 bytes"));
        let u64_at = |i: usize| u64::from_le_bytes(bytes[i..i + 8].try_into().expect("8 bytes"));
        let (version, algorithms) = (u32_at(8), u32_at(12));
        if version != VERSION {
            return Err(format!("has version {version} of the format; version {VERSION} is read"));
        }
        if algorithms != ALGORITHMS {
            return Err(format!("names the algorithms {algorithms}; only {ALGORITHMS} is accepted"));
        }
        let preamble = Self {
            version,
            algorithms,
            header_bytes: u64_at(16),
            data_offset: u64_at(24),
            manifest_offset: u64_at(32),
            manifest_bytes: u64_at(40),
            file_bytes: u64_at(48),
            n_shards: u32_at(56),
            header_hash: bytes[64..96].try_into().expect("32 bytes"),
            salt: bytes[96..128].try_into().expect("32 bytes"),
            key_id: bytes[128..144].try_into().expect("16 bytes"),
        };
        if preamble.encode() != *bytes {
            return Err("has other bytes than zeros in the reserved part of its first 256".into());
        }
        Ok(preamble)
    }
}

/// The header. Its canonical form is JSON with sorted keys and no white space; the fields here are in that order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// [`ALIGNMENT`].
    pub alignment: u64,
    /// The architecture of the model, as GGUF names it.
    pub arch: String,
    /// The container id: 64 hexadecimal digits.
    pub container: String,
    /// The GGUF, or the parts of a split GGUF.
    pub files: Vec<GgufPart>,
    /// [`FORMAT`].
    pub format: String,
    /// The method of quantization.
    pub method: String,
    /// The name of the mix.
    pub quant: String,
    /// Where the model was downloaded from: the id on the hub, `@`, and the commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// The seed of the noise.
    pub seed: u64,
    /// One digest over all entries of `sources`.
    pub source_digest: String,
    /// The files that the container was made from.
    pub sources: Vec<SourceFile>,
    /// The tensors, in the order of the GGUF.
    pub tensors: Vec<Tensor>,
    /// The program that made the container, and its version.
    pub tool: String,
}

/// A GGUF file, or one part of a split GGUF.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GgufPart {
    /// The length of the file.
    pub bytes: u64,
    /// The number of bytes before the tensor data. The container has these bytes behind its header.
    pub header_bytes: u64,
    /// The SHA-256 of these bytes, in hexadecimal digits.
    pub header_sha256: String,
    /// A file name without a folder.
    pub name: String,
}

/// A file that the container was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceFile {
    /// The length of the file.
    pub bytes: u64,
    /// For a weight file, the SHA-256 of the whole file, in hexadecimal digits. Containers of older versions have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_sha256: Option<String>,
    /// The number of bytes that `sha256` covers, from the start of the file: the header alone for a weight file, else
    /// the whole file.
    pub hashed_bytes: u64,
    /// A file name without a folder.
    pub name: String,
    /// A SHA-256 in hexadecimal digits.
    pub sha256: String,
}

impl SourceFile {
    /// Returns the SHA-256 of the whole file, if it is known.
    pub fn whole_sha256(&self) -> Option<&str> {
        match self.hashed_bytes == self.bytes {
            true => Some(&self.sha256),
            false => self.file_sha256.as_deref(),
        }
    }
}

/// A tensor and its planes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tensor {
    /// The plane of the blocks.
    pub base: PlaneInfo,
    /// The index in [`Header::files`] of the GGUF that has the tensor.
    pub file: u32,
    /// The name, as the GGUF has it.
    pub name: String,
    /// The dimensions in GGUF's order: the length of a row comes first.
    pub ne: Vec<u64>,
    /// The offset of the tensor, counted from the start of its GGUF.
    pub offset: u64,
    /// The plane of what quantizing lost, if it was kept.
    pub residual: Option<ResidualInfo>,
    /// The number of weights in each shard of either plane except the last shard.
    pub shard_weights: u64,
    /// The name of the type, as ggml has it.
    #[serde(rename = "type")]
    pub ty: String,
}

/// The size of a base plane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlaneInfo {
    /// The number of bytes in all shards.
    pub bytes: u64,
    /// The number of shards.
    pub shards: u32,
}

/// The size of a residual plane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResidualInfo {
    /// The number of bits for each weight: 2, 3 or 4.
    pub bits: u64,
    /// The number of bytes in all shards.
    pub bytes: u64,
    /// The number of shards.
    pub shards: u32,
}

impl Tensor {
    /// The type of the tensor.
    ///
    /// # Panics
    /// If the header has not been checked.
    pub fn ggml_type(&self) -> GgmlType {
        GgmlType::from_name(&self.ty).expect("types are checked")
    }

    /// The number of weights in the tensor.
    pub fn n_weights(&self) -> u64 {
        self.ne.iter().product()
    }

    /// The number of bits of the residual, if there is a residual.
    pub fn bits(&self) -> Option<Bits> {
        self.residual.as_ref().and_then(|r| Bits::new(r.bits))
    }
}

impl Header {
    /// Returns the canonical JSON, which is stored and hashed.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a header is plain data")
    }

    /// Reads a header and checks everything that does not need the rest of the file.
    ///
    /// # Errors
    /// What is wrong with the header.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let header: Self = serde_json::from_slice(bytes).map_err(|e| format!("has a header that is {e}"))?;
        if header.to_json() != bytes {
            return Err("has a header that is not in canonical form".into());
        }
        header.check()?;
        Ok(header)
    }

    fn check(&self) -> Result<(), String> {
        if self.format != FORMAT || self.alignment != ALIGNMENT {
            return Err(format!("has the format '{}', alignment {}", self.format, self.alignment));
        }
        self.container_id().ok_or("has a container id that is not 64 hex digits")?;
        if self.files.is_empty() {
            return Err("names no GGUF".into());
        }
        if self.files.len() > MAX_PARTS {
            return Err(format!(
                "names {} parts of a GGUF; at most {MAX_PARTS} are accepted",
                self.files.len()
            ));
        }
        let mut names = HashSet::new();
        for file in &self.files {
            check_file_name(&file.name)?;
            let hash: Option<Hash> = from_hex(&file.header_sha256);
            if hash.is_none() || file.header_bytes > file.bytes || !names.insert(file.name.as_str()) {
                return Err(format!("describes the GGUF '{}' wrongly", file.name.escape_debug()));
            }
        }
        for source in &self.sources {
            check_file_name(&source.name)?;
            if source.file_sha256.as_ref().is_some_and(|text| from_hex::<32>(text).is_none()) {
                return Err(format!("describes the source '{}' wrongly", source.name.escape_debug()));
            }
        }
        let mut names = HashSet::new();
        for tensor in &self.tensors {
            self.check_tensor(tensor)
                .map_err(|what| format!("has a tensor '{}' that {what}", tensor.name.escape_debug()))?;
            if !names.insert(tensor.name.as_str()) {
                return Err(format!("has the tensor '{}' twice", tensor.name.escape_debug()));
            }
        }
        Ok(())
    }

    fn check_tensor(&self, t: &Tensor) -> Result<(), String> {
        if let Some(fault) = name_fault(&t.name) {
            return Err(fault);
        }
        let ty = GgmlType::from_name(&t.ty).filter(|ty| ty.name() == t.ty).ok_or("is of an unknown type")?;
        let bytes = tensor_bytes(&t.ne, ty)?;
        let file = self.files.get(t.file as usize).ok_or("is in no GGUF")?;
        if t.offset < file.header_bytes || t.offset.checked_add(bytes).is_none_or(|end| end > file.bytes) {
            return Err("is not inside its GGUF".into());
        }
        let n = t.n_weights();
        let count = n.checked_div(t.shard_weights).ok_or("has shards of no weights")?;
        let count = count + u64::from(!n.is_multiple_of(t.shard_weights));
        let shard = ty.row_bytes(t.shard_weights.min(n)).filter(|&b| b <= MAX_SHARD);
        shard.ok_or("has shards that are too long or cut a block")?;
        if t.base.bytes != bytes || u64::from(t.base.shards) != count {
            return Err("has a base plane of the wrong size".into());
        }
        let Some(r) = &t.residual else { return Ok(()) };
        let bits =
            Bits::new(r.bits).filter(|_| residual::wanted(ty)).ok_or("has a residual it cannot have")?;
        let whole = t.shard_weights >= n || t.shard_weights.is_multiple_of(residual::SUB as u64);
        if !whole || bits.plane_bytes(n) != Some(r.bytes) || r.shards != t.base.shards {
            return Err("has a residual plane of the wrong size".into());
        }
        Ok(())
    }

    /// The container id.
    pub fn container_id(&self) -> Option<Hash> {
        from_hex(&self.container)
    }

    /// The number of bytes of the GGUF headers behind the JSON; `None` if the sum overflows.
    pub fn gguf_header_bytes(&self) -> Option<u64> {
        self.files.iter().try_fold(0u64, |sum, f| sum.checked_add(f.header_bytes))
    }

    /// The number of shards of both planes of all tensors.
    pub fn count_shards(&self) -> u64 {
        let count =
            |t: &Tensor| u64::from(t.base.shards) + t.residual.as_ref().map_or(0, |r| u64::from(r.shards));
        self.tensors.iter().map(count).sum()
    }
}

/// Checks that a file name cannot lead out of the folder in which it is used.
fn check_file_name(name: &str) -> Result<(), String> {
    let bad = name.is_empty()
        || name.len() > 255
        || name == "."
        || name == ".."
        || name.contains(['/', '\\', '\0', ':'])
        || name.chars().any(char::is_control);
    if bad {
        Err(format!("names the file '{}', which is no plain file name", name.escape_debug()))
    } else {
        Ok(())
    }
}

/// One of the two planes of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plane {
    /// The blocks that the GGUF has.
    Base = 0,
    /// What quantizing to the base lost.
    Residual = 1,
}

impl Plane {
    /// The name of the plane, as messages have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Residual => "residual",
        }
    }
}

/// A shard: a run of one plane of one tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    /// The index of the tensor in the header.
    pub tensor: u32,
    /// The plane.
    pub plane: Plane,
    /// The number of the shard in its plane.
    pub index: u32,
    /// The number of shards in the plane.
    pub count: u32,
    /// The offset of the shard in the container.
    pub offset: u64,
    /// The number of bytes in the shard.
    pub length: u64,
}

/// The place of everything in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// The offset of the first shard.
    pub data_offset: u64,
    /// The shards in file order: tensor by tensor, the base before the residual.
    pub shards: Vec<Shard>,
    /// For each tensor, the index in `shards` of the first shard of its base. The residual follows the base.
    pub first: Vec<usize>,
    /// The offset of the manifest.
    pub manifest_offset: u64,
    /// The length of the manifest.
    pub manifest_bytes: u64,
    /// The length of the container.
    pub file_bytes: u64,
}

impl Layout {
    /// Computes the layout of a checked header whose JSON has `json_bytes` bytes. Returns `None` if a number overflows
    /// or if there are more than [`MAX_SHARDS`] shards.
    pub fn of(header: &Header, json_bytes: u64) -> Option<Self> {
        let front = PREAMBLE_BYTES.checked_add(json_bytes)?.checked_add(header.gguf_header_bytes()?)?;
        let data_offset = align_up(front, ALIGNMENT)?;
        let shards = header.count_shards();
        if shards > MAX_SHARDS {
            return None;
        }
        let mut layout = Self {
            data_offset,
            shards: Vec::with_capacity(shards as usize),
            first: Vec::with_capacity(header.tensors.len()),
            manifest_offset: data_offset,
            manifest_bytes: 0,
            file_bytes: 0,
        };
        for (i, tensor) in header.tensors.iter().enumerate() {
            layout.first.push(layout.shards.len());
            let ty = tensor.ggml_type();
            layout.add_plane(i as u32, tensor, Plane::Base, |n| ty.row_bytes(n))?;
            if let Some(bits) = tensor.bits() {
                layout.add_plane(i as u32, tensor, Plane::Residual, |n| bits.plane_bytes(n))?;
            }
        }
        layout.manifest_bytes = MANIFEST_HEAD + ENTRY_BYTES * layout.shards.len() as u64;
        layout.file_bytes =
            layout.manifest_offset.checked_add(layout.manifest_bytes)?.checked_add(SEAL_BYTES)?;
        Some(layout)
    }

    fn add_plane(
        &mut self,
        number: u32,
        tensor: &Tensor,
        plane: Plane,
        bytes: impl Fn(u64) -> Option<u64>,
    ) -> Option<()> {
        let n = tensor.n_weights();
        for index in 0..tensor.base.shards {
            let start = tensor.shard_weights * u64::from(index);
            let length = bytes(tensor.shard_weights.min(n - start))?;
            let offset = self.manifest_offset;
            self.manifest_offset = align_up(offset.checked_add(length)?, ALIGNMENT)?;
            self.shards.push(Shard {
                tensor: number,
                plane,
                index,
                count: tensor.base.shards,
                offset,
                length,
            });
        }
        Some(())
    }

    /// The length of a manifest file, which is the container without its shards.
    pub fn detached_bytes(&self) -> u64 {
        self.data_offset + (self.file_bytes - self.manifest_offset)
    }
}

/// The number of weights in each shard of a tensor of `n` weights in rows of `row` weights: whole rows where a row fits
/// into [`SHARD_BYTES`], else a multiple of 256 weights.
pub fn shard_weights(ty: GgmlType, row: u64, n: u64) -> u64 {
    let most = SHARD_BYTES * ty.block_len() as u64 / ty.block_bytes() as u64;
    let cut = if row <= most { most / row * row } else { most / 256 * 256 };
    cut.min(n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for name in ["", ".", "..", "../x", "/etc/passwd", "a/b", "a\\b", "C:x", "a\0b", "a\nb"] {
            assert!(check_file_name(name).is_err(), "{name:?}");
        }
        assert!(check_file_name("model..Q4_K_M.gguf").is_ok());
    }

    #[test]
    fn shards_are_whole_rows_and_never_too_long() {
        for (ty, row, n) in [
            (GgmlType::Q4_K, 1536, 1536 * 262_144),
            (GgmlType::F32, 7, 7),
            (GgmlType::F32, 1 << 30, 1 << 30),
            (GgmlType::Q6_K, 8960, 8960 * 262_144),
        ] {
            let w = shard_weights(ty, row, n);
            assert!(w == n || w.is_multiple_of(row) || row > w && w.is_multiple_of(256));
            assert!(ty.row_bytes(w).unwrap() <= SHARD_BYTES);
        }
    }
}
