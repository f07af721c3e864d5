//! The fields of a sidecar, as its JSON has them, and how a sidecar is read and written.

use std::collections::BTreeMap;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Place, Result};
use crate::formats::gguf::split::first_part;
use crate::formats::source::open_regular;
use crate::met::policy::{Intent, Policy};
use crate::met::slots::{Slot, Split};

/// The version of the JSON that this crate writes.
pub const MET_VERSION: u32 = 3;
/// The oldest version that this crate reads. Version 1 knows no access classes: the tables belong to the embedding part.
/// Version 2 lists no tensors and no heat.
pub const OLDEST_VERSION: u32 = 1;
/// The largest sidecar that is read, in bytes. A usual sidecar has a thousandth of this.
const MAX_SIDECAR: u64 = 16 << 20;

pub(super) const REMAKE: &str = "Make the sidecar again with `srd-rs met`";

/// A sidecar, with the fields of its JSON. `docs/met.md` describes each field.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sidecar {
    /// The version of the JSON: [`OLDEST_VERSION`] to [`MET_VERSION`].
    pub met_version: u32,
    /// The program that wrote the sidecar.
    pub generator: String,
    /// The GGUF that the sidecar is about, or the first part of a split GGUF.
    pub file: FileFacts,
    /// The other parts of a split GGUF, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub more_files: Vec<FileFacts>,
    /// The projector of a model that sees or hears: a GGUF of its own beside this one. No slot has its bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub projector: Option<FileFacts>,
    /// The fingerprint of the signed container that the GGUF came from, if one is known.
    pub fingerprint: Option<String>,
    /// The model in the GGUF.
    pub model: ModelFacts,
    /// The bytes that belong to no layer.
    pub embedding_slot: EmbeddingSlot,
    /// The tables of which a token reads one row each. `None` in version 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tables: Option<TableFacts>,
    /// The bytes of each slot.
    pub slots: BTreeMap<Slot, SlotFacts>,
    /// The slot of each layer.
    pub chunk_map: BTreeMap<u32, Slot>,
    /// The slots that each intent needs.
    pub hydration_policy: Policy,
    /// The memory that each intent needs.
    pub intent_ram_budget: BTreeMap<Intent, Budget>,
    /// The experts of the model; `None` for dense models.
    pub moe: Option<Moe>,
    /// The tensors of each part by the name of the part and the access class. `None` in version 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<BTreeMap<String, BTreeMap<Access, AccessFacts>>>,
    /// The tensors by their names. `None` before version 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tensors: Option<BTreeMap<String, TensorFacts>>,
    /// How often the experts were used while the model was calibrated, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expert_heat: Option<ExpertHeat>,
}

/// A tensor: where it lies, how a token reads it, and what its rounding costs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorFacts {
    /// The name of the part that the tensor belongs to.
    pub part: String,
    /// The access class.
    pub access: Access,
    /// The number of the file, as in [`ByteRange`].
    #[serde(default, skip_serializing_if = "is_zero")]
    pub file: usize,
    /// The offset of the first byte in the file. Expert `e` of a stack begins at `offset + e * bytes / num_experts`.
    pub offset: u64,
    /// The number of bytes, without padding.
    pub bytes: u64,
    /// The number of bytes that one token reads.
    pub token_bytes: u64,
    /// The energy that rounding adds to the output of the matrix, as a share of the energy of the output, where SRD has
    /// measured it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<f64>,
    /// What rounding adds to the KLD of the model, in nats, where the choice of types within a budget has measured it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kld: Option<f64>,
}

/// How often the experts were used while the model was calibrated.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExpertHeat {
    /// The number of tokens of the calibration.
    pub tokens: u64,
    /// For each layer with experts, the number of tokens that used each expert.
    pub layers: BTreeMap<u32, Vec<u64>>,
}

/// What is known from the conversion alone: no GGUF says it.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Known {
    /// `error` of [`TensorFacts`], by the name of the tensor.
    pub errors: BTreeMap<String, f64>,
    /// `kld` of [`TensorFacts`], by the name of the tensor.
    pub klds: BTreeMap<String, f64>,
    /// How often the experts were used.
    pub expert_heat: Option<ExpertHeat>,
}

/// The GGUF that a sidecar is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileFacts {
    /// The name of the file, without its folder.
    pub name: String,
    /// The length of the file.
    pub bytes: u64,
    /// The number of bytes before the tensor data.
    pub header_bytes: u64,
    /// The SHA-256 of the header in hexadecimal digits. It tells files of one size apart without reading their weights.
    pub header_sha256: String,
    /// The SHA-256 of the whole file in hexadecimal digits, if it was computed.
    pub sha256: Option<String>,
}

/// What the metadata of a GGUF say about its model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelFacts {
    /// The architecture, as GGUF names it.
    pub architecture: String,
    /// The name of the model, if the metadata have one.
    pub name: Option<String>,
    /// The number of layers.
    pub n_layer: u32,
    /// Tensors begin at multiples of this many bytes.
    pub alignment: u32,
}

/// The bytes that belong to no layer. Every intent needs them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmbeddingSlot {
    /// Always true.
    pub always_pinned: bool,
    /// The number of tensors.
    pub tensors: usize,
    /// The number of bytes.
    pub bytes: u64,
    /// The bytes in the file, in file order.
    pub byte_ranges: Vec<ByteRange>,
}

/// The tables that are looked up. No intent needs them as a whole, because a token reads one row of each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableFacts {
    /// The number of tensors.
    pub tensors: usize,
    /// The number of bytes.
    pub bytes: u64,
    /// The bytes in the files, in file order.
    pub byte_ranges: Vec<ByteRange>,
}

/// How a token reads a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// Each token reads all bytes.
    EveryToken,
    /// Each token reads one row of a table.
    Rows,
    /// Each token reads the experts that it uses, out of a stack.
    Experts,
}

/// The tensors of an access class in one part. The padding between tensors is not counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessFacts {
    /// The number of tensors.
    pub tensors: usize,
    /// The number of bytes.
    pub bytes: u64,
    /// The number of bytes that one token reads.
    pub token_bytes: u64,
}

/// The layers and the bytes of a slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlotFacts {
    /// The layers; `None` for a slot without layers.
    pub layers: Option<LayerRange>,
    /// The number of tensors.
    pub tensors: usize,
    /// The number of bytes.
    pub bytes: u64,
    /// The number of bytes that one token needs: the share of its experts of the expert tensors, and all other tensors.
    pub active_bytes: u64,
    /// True if the bytes are one run of one file.
    pub contiguous: bool,
    /// The bytes in the files, in file order.
    pub byte_ranges: Vec<ByteRange>,
}

/// A range of layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerRange {
    /// The first layer.
    pub first: u32,
    /// The last layer.
    pub last: u32,
    /// The number of layers.
    pub count: u32,
}

/// A range of bytes of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ByteRange {
    /// The number of the file: 0 is the GGUF or its first part. The JSON leaves 0 out.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub file: usize,
    /// The offset of the first byte in the file.
    pub offset: u64,
    /// The number of bytes.
    pub bytes: u64,
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

impl ByteRange {
    /// Returns the range as Rust has it.
    pub fn range(self) -> Range<u64> {
        // A measured range ends inside its file. A range that was read from JSON may overflow.
        self.offset..self.offset.saturating_add(self.bytes)
    }
}

/// The memory that an intent needs, the embedding part included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// The number of bytes with all experts, which is what hydration reads.
    pub bytes: u64,
    /// The number of bytes with the experts of one token.
    pub active_bytes: u64,
}

/// The experts of a mixture-of-experts model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Moe {
    /// The number of experts in a layer.
    pub num_experts: u64,
    /// The number of experts that a token uses.
    pub experts_per_token: u64,
    /// `experts_per_token` divided by `num_experts`.
    pub active_frac: f64,
    /// How the layers were split into slots.
    pub chunk_note: String,
}

/// A part of a file: the embedding part, the tables, or a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// The bytes that belong to no layer.
    Embedding,
    /// The tables of which a token reads one row each.
    Tables,
    /// The bytes of the layers of a slot.
    Slot(Slot),
}

impl Part {
    /// Returns the embedding part, the slots by depth, and then the tables.
    pub fn all() -> impl Iterator<Item = Self> {
        let slots = Slot::ALL.into_iter().map(Self::Slot);
        std::iter::once(Self::Embedding).chain(slots).chain(std::iter::once(Self::Tables))
    }

    /// Returns the name that the command line and the JSON use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Embedding => "embedding",
            Self::Tables => "tables",
            Self::Slot(slot) => slot.name(),
        }
    }

    /// Reads the name of a part.
    ///
    /// # Errors
    /// [`Error::Usage`] for a name that is none.
    pub fn parse(name: &str) -> Result<Self> {
        Self::all().find(|p| p.name() == name).ok_or_else(|| {
            let fix = "Use embedding, early, factual, reasoning, governance or tables";
            Error::usage(format!("'{name}' is not a slot"), fix)
        })
    }
}

/// The path of the sidecar beside a GGUF: `name.gguf` has `name.met.json`. The sidecar of a split GGUF has the name of the
/// first part.
pub fn sidecar_path(gguf: &Path) -> PathBuf {
    first_part(gguf).with_extension("met.json")
}

impl Sidecar {
    /// Reads a sidecar file. [`Sidecar::check`] then checks that it fits a GGUF.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be read, [`Error::Model`] when it is not a regular file, [`Error::Format`]
    /// when it is not a sidecar.
    pub fn read(path: &Path) -> Result<Self> {
        let (file, _) = open_regular(path)?;
        let mut bytes = Vec::new();
        file.take(MAX_SIDECAR + 1).read_to_end(&mut bytes).map_err(|e| Error::io(path, "read", e))?;
        Self::parse(&bytes, path)
    }

    /// Parses the bytes of a sidecar file; `path` is used in messages only.
    ///
    /// # Errors
    /// [`Error::Format`] when the bytes are not a sidecar.
    pub fn parse(bytes: &[u8], path: &Path) -> Result<Self> {
        let bad = |what: String| Error::format(Place::file(path), what, REMAKE);
        if bytes.len() as u64 > MAX_SIDECAR {
            return Err(bad(format!("is not a MET sidecar: it has more than {MAX_SIDECAR} bytes")));
        }
        let version: Versioned =
            serde_json::from_slice(bytes).map_err(|e| bad(format!("is not a MET sidecar: {e}")))?;
        if !(OLDEST_VERSION..=MET_VERSION).contains(&version.met_version) {
            let what = format!(
                "has version {} of the sidecar; this program reads the versions {OLDEST_VERSION} to {MET_VERSION}",
                version.met_version
            );
            return Err(bad(what));
        }
        let read: Self =
            serde_json::from_slice(bytes).map_err(|e| bad(format!("is not a sound MET sidecar: {e}")))?;
        let (classes, listed) = (version.met_version > 1, version.met_version > 2);
        if read.tables.is_some() != classes || read.access.is_some() != classes {
            let what = "is not a sound MET sidecar: 'tables' and 'access' belong to version 2 and later, which have both";
            return Err(bad(what.into()));
        }
        if read.tensors.is_some() != listed || read.expert_heat.is_some() && !listed {
            let what = "is not a sound MET sidecar: 'tensors' and 'expert_heat' belong to version 3, which has tensors";
            return Err(bad(what.into()));
        }
        Ok(read)
    }

    /// Returns the files, in order.
    pub fn files(&self) -> impl Iterator<Item = &FileFacts> {
        std::iter::once(&self.file).chain(&self.more_files)
    }

    /// Returns what the sidecar knows from the conversion.
    pub fn known(&self) -> Known {
        let tensors = || self.tensors.iter().flatten();
        Known {
            errors: tensors().filter_map(|(name, t)| Some((name.clone(), t.error?))).collect(),
            klds: tensors().filter_map(|(name, t)| Some((name.clone(), t.kld?))).collect(),
            expert_heat: self.expert_heat.clone(),
        }
    }

    /// The split that the slots describe; `None` if the slots are not the layers in order.
    pub(in crate::met) fn split(&self) -> Option<Split> {
        let range = |slot: Slot| {
            let layers = self.slots.get(&slot)?.layers;
            layers.map_or(Some(0..0), |l| Some(l.first..l.last.checked_add(1)?))
        };
        let [a, b, c, d] = Slot::ALL.map(range);
        Split::from_ranges(&[a?, b?, c?, d?], self.model.n_layer)
    }

    /// Returns the byte ranges of a part, in file order.
    pub fn ranges(&self, part: Part) -> &[ByteRange] {
        match part {
            Part::Embedding => &self.embedding_slot.byte_ranges,
            Part::Tables => self.tables.as_ref().map_or(&[], |t| &t.byte_ranges),
            Part::Slot(slot) => self.slots.get(&slot).map_or(&[], |s| &s.byte_ranges),
        }
    }

    /// Returns the number of bytes of a part.
    pub fn bytes(&self, part: Part) -> u64 {
        self.ranges(part).iter().map(|r| r.bytes).sum()
    }

    /// Returns the parts that an intent needs, in the order in which they are read: the embedding part, then the slots
    /// by depth.
    ///
    /// # Errors
    /// [`Error::Usage`] if the policy of this sidecar does not know the intent.
    pub fn parts(&self, intent: Intent) -> Result<Vec<Part>> {
        let slots = self.hydration_policy.get(&intent).ok_or_else(|| {
            let what = format!("the hydration_policy of the sidecar has no {intent}");
            Error::usage(what, "Add the intent to the policy, or choose an intent that the policy has")
        })?;
        let mut parts = vec![Part::Embedding];
        parts.extend(Slot::ALL.into_iter().filter(|s| slots.contains(s)).map(Part::Slot));
        Ok(parts)
    }

    /// Returns the sidecar as JSON text that ends with a line end.
    pub fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("a sidecar is plain data");
        text.push('\n');
        text
    }
}

/// The version alone, which tells a newer sidecar from a broken one.
#[derive(Deserialize)]
struct Versioned {
    met_version: u32,
}
