//! What lies where in a container. Reader and writer both compute it from the header: the manifest
//! only repeats it.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use crate::dtype::GgmlType;
use crate::formats::gguf::{align_up, name_fault, tensor_bytes};
use crate::quant::residual::{self, Bits};
use crate::sign::keys::KeyId;
use crate::sign::{Hash, from_hex};

/// Like PNG's: not text, and broken by line-end conversion or a stripped eighth bit.
pub const MAGIC: [u8; 8] = *b"\x89AXM\r\n\x1a\n";
pub const VERSION: u32 = 1;
/// SHA-256, HMAC-SHA256, HKDF-SHA256, and Ed25519 where there is a signature: the only suite there is.
pub const ALGORITHMS: u32 = 1;
/// Name of the format in the header.
pub const FORMAT: &str = "srd-axm/1";

pub const PREAMBLE_BYTES: u64 = 256;
/// Shards and the manifest begin at multiples of this.
pub const ALIGNMENT: u64 = 64 << 10;
/// A shard of the base is at most this long.
pub const MAX_SHARD: u64 = 64 << 20;
/// What the writer cuts: long enough that padding costs under 1 %, short enough to spread over cores.
pub const SHARD_BYTES: u64 = 8 << 20;
/// The header's JSON is at most this long.
pub const MAX_HEADER: u64 = 64 << 20;

pub const MANIFEST_MAGIC: [u8; 8] = *b"AXMMANI1";
pub const MANIFEST_HEAD: u64 = 64;
pub const ENTRY_BYTES: u64 = 104;
/// Fingerprint, tag, public key, signature, checksum of these.
pub const SEAL_BYTES: u64 = 32 + 32 + 32 + 64 + 32;

/// The first 256 bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preamble {
    pub version: u32,
    pub algorithms: u32,
    pub header_bytes: u64,
    pub data_offset: u64,
    pub manifest_offset: u64,
    pub manifest_bytes: u64,
    pub file_bytes: u64,
    pub n_shards: u32,
    /// SHA-256 of the header's JSON.
    pub header_hash: Hash,
    pub salt: Hash,
    pub key_id: KeyId,
}

impl Preamble {
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

    /// What is wrong with it, if it is none of this version.
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

/// The canonical header: JSON with sorted keys and no white space, which is the order of the fields here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    pub alignment: u64,
    pub arch: String,
    /// Container id: 64 hex digits.
    pub container: String,
    /// The GGUF, or its parts.
    pub files: Vec<GgufPart>,
    pub format: String,
    pub method: String,
    pub quant: String,
    pub seed: u64,
    pub source_digest: String,
    pub sources: Vec<SourceFile>,
    pub tensors: Vec<Tensor>,
    pub tool: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GgufPart {
    pub bytes: u64,
    /// Everything before the tensor data; stored in the container behind the header.
    pub header_bytes: u64,
    pub header_sha256: String,
    pub name: String,
}

/// A file of the source: SHA-256 of all of it, or of the header alone of a weight file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceFile {
    pub bytes: u64,
    pub hashed_bytes: u64,
    pub name: String,
    pub sha256: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tensor {
    pub base: PlaneInfo,
    /// Index in `files`.
    pub file: u32,
    pub name: String,
    /// GGUF's order: row length first.
    pub ne: Vec<u64>,
    /// In its GGUF, from the start of the file.
    pub offset: u64,
    pub residual: Option<ResidualInfo>,
    /// Weights in each shard of either plane but the last.
    pub shard_weights: u64,
    #[serde(rename = "type")]
    pub ty: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlaneInfo {
    pub bytes: u64,
    pub shards: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResidualInfo {
    pub bits: u64,
    pub bytes: u64,
    pub shards: u32,
}

impl Tensor {
    /// # Panics
    /// If the header has not been checked.
    pub fn ggml_type(&self) -> GgmlType {
        GgmlType::from_name(&self.ty).expect("types are checked")
    }

    pub fn n_weights(&self) -> u64 {
        self.ne.iter().product()
    }

    pub fn bits(&self) -> Option<Bits> {
        self.residual.as_ref().and_then(|r| Bits::new(r.bits))
    }
}

impl Header {
    /// The bytes that are stored and hashed.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a header is plain data")
    }

    /// Reads a header and checks all that does not need the rest of the file.
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
        let mut names = HashSet::new();
        for file in &self.files {
            check_file_name(&file.name)?;
            let hash: Option<Hash> = from_hex(&file.header_sha256);
            if hash.is_none() || file.header_bytes > file.bytes || !names.insert(file.name.as_str()) {
                return Err(format!("describes the GGUF '{}' wrongly", file.name.escape_debug()));
            }
        }
        self.sources.iter().try_for_each(|s| check_file_name(&s.name))?;
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

    pub fn container_id(&self) -> Option<Hash> {
        from_hex(&self.container)
    }

    /// Bytes of the GGUF headers behind the JSON; `None` on overflow.
    pub fn gguf_header_bytes(&self) -> Option<u64> {
        self.files.iter().try_fold(0u64, |sum, f| sum.checked_add(f.header_bytes))
    }

    /// Of both planes of all tensors.
    pub fn count_shards(&self) -> u64 {
        let of =
            |t: &Tensor| u64::from(t.base.shards) + t.residual.as_ref().map_or(0, |r| u64::from(r.shards));
        self.tensors.iter().map(of).sum()
    }
}

/// A name that cannot lead out of the folder it is used in.
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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plane {
    /// The blocks that are in the GGUF.
    Base = 0,
    /// What the base lost.
    Residual = 1,
}

impl Plane {
    pub fn name(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Residual => "residual",
        }
    }
}

/// A run of one plane of one tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    pub tensor: u32,
    pub plane: Plane,
    pub index: u32,
    pub count: u32,
    pub offset: u64,
    pub length: u64,
}

/// Where everything is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    pub data_offset: u64,
    /// In file order: tensor by tensor, base before residual.
    pub shards: Vec<Shard>,
    /// Number of each tensor's first shard of the base; its residual follows its base.
    pub first: Vec<usize>,
    pub manifest_offset: u64,
    pub manifest_bytes: u64,
    pub file_bytes: u64,
}

impl Layout {
    /// Of a checked header whose JSON has `json_bytes` bytes; `None` if anything overflows.
    pub fn of(header: &Header, json_bytes: u64) -> Option<Self> {
        let front = PREAMBLE_BYTES.checked_add(json_bytes)?.checked_add(header.gguf_header_bytes()?)?;
        let data_offset = align_up(front, ALIGNMENT)?;
        let mut layout = Self {
            data_offset,
            shards: Vec::with_capacity(usize::try_from(header.count_shards()).ok()?),
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

    /// Bytes of a manifest file: the container without its shards.
    pub fn detached_bytes(&self) -> u64 {
        self.data_offset + (self.file_bytes - self.manifest_offset)
    }
}

/// Weights of each shard of a tensor: whole rows where they fit, else multiples of 256.
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
