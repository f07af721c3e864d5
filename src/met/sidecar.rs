//! The sidecar: what a GGUF says about its slots, measured from its own tensor table and written as JSON.
//!
//! Every byte of the file belongs to exactly one part: to the slot of the layer whose tensor it is (with
//! the padding behind it), or else to the embedding part: header, token embeddings, output matrix, norms
//! and RoPE factors outside the layers. So the sizes add up to the size of the file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

use super::policy::{self, Intent, Policy};
use super::slots::{CUSTOM_NOTE, MOE_NOTE, Slot, Split};
use crate::error::{Error, Place, Result};
use crate::formats::gguf::{GgufFile, GgufTensor};
use crate::progress::Progress;
use crate::quant::recipe::layer_of;

/// Version of the form of the JSON.
pub const MET_VERSION: u32 = 1;

/// Most bytes of a sidecar that are read: a thousand times a usual one.
const MAX_SIDECAR: u64 = 16 << 20;

const REMAKE: &str = "Make it again with `srd-rs met`";

/// The sidecar as it stands in the JSON; `docs/met.md` describes each field.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sidecar {
    pub met_version: u32,
    /// The program that wrote it.
    pub generator: String,
    pub file: FileFacts,
    /// Of the signed container that the GGUF came from, where one is known.
    pub fingerprint: Option<String>,
    pub model: ModelFacts,
    pub embedding_slot: EmbeddingSlot,
    pub slots: BTreeMap<Slot, SlotFacts>,
    /// Layer -> slot.
    pub chunk_map: BTreeMap<u32, Slot>,
    pub hydration_policy: Policy,
    pub intent_ram_budget: BTreeMap<Intent, Budget>,
    /// `None` for dense models.
    pub moe: Option<Moe>,
}

/// Which GGUF this is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileFacts {
    pub name: String,
    pub bytes: u64,
    /// Everything before the tensor data.
    pub header_bytes: u64,
    /// SHA-256 of the header, hex: tells files of the same size apart without reading their weights.
    pub header_sha256: String,
    /// SHA-256 of the whole file, hex, where it was computed.
    pub sha256: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelFacts {
    pub architecture: String,
    pub name: Option<String>,
    pub n_layer: u32,
    /// In bytes: where tensors may begin.
    pub alignment: u32,
}

/// What belongs to no layer: always resident.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmbeddingSlot {
    pub always_pinned: bool,
    pub tensors: usize,
    pub bytes: u64,
    pub byte_ranges: Vec<ByteRange>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlotFacts {
    /// `None` in models of fewer layers than slots.
    pub layers: Option<LayerRange>,
    pub tensors: usize,
    pub bytes: u64,
    /// With the experts of one token: their share of the expert tensors, and all of the others.
    pub active_bytes: u64,
    /// One run of the file.
    pub contiguous: bool,
    pub byte_ranges: Vec<ByteRange>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerRange {
    pub first: u32,
    pub last: u32,
    pub count: u32,
}

/// `bytes` from `offset` of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ByteRange {
    pub offset: u64,
    pub bytes: u64,
}

impl ByteRange {
    pub fn range(self) -> Range<u64> {
        // Of a measured range the end is inside a file.
        self.offset..self.offset.saturating_add(self.bytes)
    }
}

/// Bytes of weights resident for an intent, the embedding part included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// With all experts: what hydration brings in.
    pub bytes: u64,
    /// With the experts of one token.
    pub active_bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Moe {
    pub num_experts: u64,
    pub experts_per_token: u64,
    pub active_frac: f64,
    pub chunk_note: String,
}

/// A part of a file: the embedding part, or a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    Embedding,
    Slot(Slot),
}

impl Part {
    pub fn all() -> impl Iterator<Item = Self> {
        std::iter::once(Self::Embedding).chain(Slot::ALL.map(Self::Slot))
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Embedding => "embedding",
            Self::Slot(slot) => slot.name(),
        }
    }

    /// # Errors
    /// [`Error::Usage`] for a name that is none.
    pub fn parse(name: &str) -> Result<Self> {
        Self::all().find(|p| p.name() == name).ok_or_else(|| {
            let fix = "Use embedding, early, factual, reasoning or governance";
            Error::usage(format!("'{name}' is no slot"), fix)
        })
    }
}

/// `name.gguf` -> `name.met.json`, beside it.
pub fn sidecar_path(gguf: &Path) -> PathBuf {
    gguf.with_extension("met.json")
}

/// What is not in the file, or decided by the caller.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Layers of the slots; by default by depth.
    pub split: Option<Split>,
    /// By default [`policy::standard`].
    pub policy: Option<Policy>,
    pub fingerprint: Option<String>,
}

impl Sidecar {
    /// Measures a GGUF from its header. `file.sha256` stays open: see [`file_sha256`].
    ///
    /// # Errors
    /// [`Error::Model`] for a part of a split model, a file without layers, or expert counts that make no
    /// sense; [`Error::Io`] if the header cannot be read again for its digest.
    pub fn measure(gguf: &GgufFile, options: &Options) -> Result<Self> {
        refuse_split_file(gguf)?;
        let n_layer = n_layer(gguf)?;
        let split = options.split.unwrap_or_else(|| Split::of_depth(n_layer));
        if split.n_layer() != n_layer {
            let what = format!("the slots have {} layers, the model has {n_layer}", split.n_layer());
            return Err(Error::usage(what, "Give each layer to one slot"));
        }
        let moe = moe(gguf, &split)?;
        let tally = Tally::of(gguf, &split, moe.as_ref())?;
        let embedding_slot = tally.embedding();
        let slots: BTreeMap<_, _> = Slot::ALL.into_iter().map(|s| (s, tally.slot(s, &split))).collect();
        let hydration_policy = options.policy.clone().unwrap_or_else(policy::standard);
        Ok(Self {
            met_version: MET_VERSION,
            generator: concat!("srd-rs ", env!("CARGO_PKG_VERSION")).into(),
            file: file_facts(gguf)?,
            fingerprint: options.fingerprint.clone(),
            model: model_facts(gguf, n_layer),
            intent_ram_budget: budgets(&hydration_policy, &embedding_slot, &slots),
            embedding_slot,
            chunk_map: (0..n_layer).filter_map(|l| Some((l, split.slot_of(l)?))).collect(),
            slots,
            hydration_policy,
            moe,
        })
    }

    /// Reads a sidecar. That it fits a GGUF is checked by [`Sidecar::check`].
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read, [`Error::Format`] when it is no sidecar.
    pub fn read(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|e| Error::io(path, "open", e))?;
        let mut text = String::new();
        let read = file.take(MAX_SIDECAR + 1).read_to_string(&mut text);
        if read.as_ref().is_err_and(|e| e.kind() != std::io::ErrorKind::InvalidData) {
            return Err(Error::io(path, "read", read.unwrap_err()));
        }
        let bad = |what: String| Error::format(Place::file(path), what, REMAKE);
        if read.is_err() || text.len() as u64 > MAX_SIDECAR {
            return Err(bad("is no MET sidecar: not UTF-8, or too large".into()));
        }
        let version: Versioned =
            serde_json::from_str(&text).map_err(|e| bad(format!("is no MET sidecar: {e}")))?;
        if version.met_version != MET_VERSION {
            let what = format!("has version {}; version {MET_VERSION} is read", version.met_version);
            return Err(bad(what));
        }
        serde_json::from_str(&text).map_err(|e| bad(format!("is no sound MET sidecar: {e}")))
    }

    /// Checks that this is the sidecar of that GGUF: its size, its header, and that everything measured
    /// comes out the same. `path` is the sidecar's, for messages. Weights are not read: for them compare
    /// `file.sha256` with [`file_sha256`].
    ///
    /// # Errors
    /// [`Error::Model`] that says what differs.
    pub fn check(&self, gguf: &GgufFile, path: &Path) -> Result<()> {
        let name = gguf.path.display();
        let wrong = |what: String| {
            let fix = format!("Name the GGUF it was made for, or make it again: srd-rs met {name}");
            Error::model(Place::file(path), what, fix)
        };
        if self.file.bytes != gguf.file_size {
            let (own, other) = (self.file.bytes, gguf.file_size);
            return Err(wrong(format!("is of a GGUF of {own} bytes, {name} has {other}")));
        }
        let split = self.split().ok_or_else(|| wrong("its slots are not the layers in order".into()))?;
        let options = Options {
            split: Some(split),
            policy: Some(self.hydration_policy.clone()),
            fingerprint: self.fingerprint.clone(),
        };
        let facts = file_facts(gguf)?;
        if (self.file.header_bytes, &self.file.header_sha256) != (facts.header_bytes, &facts.header_sha256) {
            return Err(wrong(format!("is of another GGUF: {name} has a different header")));
        }
        let measured = Self::measure(gguf, &options).map_err(|e| match e {
            Error::Usage { what, .. } => wrong(what),
            other => other,
        })?;
        match self.difference(&measured) {
            Some(field) => Err(wrong(format!("'{field}' is not what {name} measures"))),
            None => Ok(()),
        }
    }

    /// Checks the weights as well: reads the whole file for its SHA-256. `progress` can end the run early.
    ///
    /// # Errors
    /// [`Error::Model`] if they differ, or the sidecar has no digest to compare with; otherwise as
    /// [`file_sha256`].
    pub fn check_weights(&self, gguf: &GgufFile, path: &Path, progress: &Progress) -> Result<()> {
        let wrong = |what: String| Err(Error::model(Place::file(path), what, REMAKE));
        match &self.file.sha256 {
            None => wrong("has no SHA-256 of the whole file to compare with".into()),
            Some(own) if *own != file_sha256(gguf, progress)? => {
                wrong(format!("is of other weights: the SHA-256 of {} differs", gguf.path.display()))
            }
            Some(_) => Ok(()),
        }
    }

    /// The first field whose measured value differs.
    fn difference(&self, measured: &Self) -> Option<&'static str> {
        let fields = [
            ("model", self.model == measured.model),
            ("embedding_slot", self.embedding_slot == measured.embedding_slot),
            ("slots", self.slots == measured.slots),
            ("chunk_map", self.chunk_map == measured.chunk_map),
            ("intent_ram_budget", self.intent_ram_budget == measured.intent_ram_budget),
            ("moe", self.moe == measured.moe),
        ];
        fields.into_iter().find(|(_, same)| !same).map(|(field, _)| field)
    }

    fn split(&self) -> Option<Split> {
        let range = |slot: Slot| {
            let layers = self.slots.get(&slot)?.layers;
            layers.map_or(Some(0..0), |l| Some(l.first..l.last.checked_add(1)?))
        };
        let [a, b, c, d] = Slot::ALL.map(range);
        Split::from_ranges(&[a?, b?, c?, d?], self.model.n_layer)
    }

    /// The bytes of a part, in file order.
    pub fn ranges(&self, part: Part) -> &[ByteRange] {
        match part {
            Part::Embedding => &self.embedding_slot.byte_ranges,
            Part::Slot(slot) => self.slots.get(&slot).map_or(&[], |s| &s.byte_ranges),
        }
    }

    pub fn bytes(&self, part: Part) -> u64 {
        self.ranges(part).iter().map(|r| r.bytes).sum()
    }

    /// What an intent needs, in the order it is brought in: the embedding part, then the slots by depth.
    ///
    /// # Errors
    /// [`Error::Usage`] if the policy of this sidecar does not know the intent.
    pub fn parts(&self, intent: Intent) -> Result<Vec<Part>> {
        let slots = self.hydration_policy.get(&intent).ok_or_else(|| {
            let what = format!("the sidecar's hydration_policy has no {intent}");
            Error::usage(what, "Add it, or choose an intent it has")
        })?;
        let mut parts = vec![Part::Embedding];
        parts.extend(Slot::ALL.into_iter().filter(|s| slots.contains(s)).map(Part::Slot));
        Ok(parts)
    }

    pub fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("a sidecar is plain data");
        text.push('\n');
        text
    }
}

/// Only the version, so that a newer form is told from a broken one.
#[derive(Deserialize)]
struct Versioned {
    met_version: u32,
}

/// Bytes and tensors of one part while they are counted.
#[derive(Debug, Clone, Default)]
struct Count {
    ranges: Vec<ByteRange>,
    tensors: usize,
    /// Bytes of the experts that one token leaves alone.
    idle: u64,
}

impl Count {
    fn add(&mut self, range: Range<u64>) {
        let bytes = range.end - range.start;
        match self.ranges.last_mut() {
            _ if bytes == 0 => {}
            Some(last) if last.range().end == range.start => last.bytes += bytes,
            _ => self.ranges.push(ByteRange { offset: range.start, bytes }),
        }
    }

    fn bytes(&self) -> u64 {
        self.ranges.iter().map(|r| r.bytes).sum()
    }
}

/// The file, byte by byte, given to its parts.
struct Tally {
    parts: BTreeMap<Part, Count>,
}

impl Tally {
    fn of(gguf: &GgufFile, split: &Split, moe: Option<&Moe>) -> Result<Self> {
        let mut tally = Self { parts: Part::all().map(|p| (p, Count::default())).collect() };
        tally.part(Part::Embedding).add(0..gguf.data_offset);
        let tensors = &gguf.tensors;
        let mut end = gguf.data_offset;
        for (i, tensor) in tensors.iter().enumerate() {
            // The padding behind a tensor goes with it.
            let padded = (tensor.offset + tensor.bytes).next_multiple_of(gguf.alignment.into());
            end = tensors.get(i + 1).map_or(padded.min(gguf.file_size), |next| next.offset);
            let part = part_of(gguf, tensor, split)?;
            let count = tally.part(part);
            count.add(tensor.offset..end);
            count.tensors += 1;
            count.idle += moe.map_or(0, |m| idle_bytes(tensor, m));
        }
        // Whatever someone has appended to the file.
        tally.part(Part::Embedding).add(end..gguf.file_size);
        Ok(tally)
    }

    fn part(&mut self, part: Part) -> &mut Count {
        self.parts.entry(part).or_default()
    }

    fn embedding(&self) -> EmbeddingSlot {
        let count = &self.parts[&Part::Embedding];
        EmbeddingSlot {
            always_pinned: true,
            tensors: count.tensors,
            bytes: count.bytes(),
            byte_ranges: count.ranges.clone(),
        }
    }

    fn slot(&self, slot: Slot, split: &Split) -> SlotFacts {
        let count = &self.parts[&Part::Slot(slot)];
        let layers = split.layers(slot);
        let range = LayerRange {
            first: layers.start,
            last: layers.end.saturating_sub(1),
            count: layers.len() as u32,
        };
        SlotFacts {
            layers: (!layers.is_empty()).then_some(range),
            tensors: count.tensors,
            bytes: count.bytes(),
            active_bytes: count.bytes() - count.idle,
            contiguous: count.ranges.len() <= 1,
            byte_ranges: count.ranges.clone(),
        }
    }
}

fn part_of(gguf: &GgufFile, tensor: &GgufTensor, split: &Split) -> Result<Part> {
    let Some(layer) = layer_of(&tensor.name) else { return Ok(Part::Embedding) };
    split.slot_of(layer).map(Part::Slot).ok_or_else(|| {
        let what = format!("is of layer {layer}, but the model has {}", split.n_layer());
        Error::model(gguf.place(tensor), what, "The metadata is wrong: convert the model again")
    })
}

/// Bytes of a tensor's experts beyond those of one token; 0 where it has none.
fn idle_bytes(tensor: &GgufTensor, moe: &Moe) -> u64 {
    let stacked = tensor.name.contains("_exps.") && tensor.ne.last() == Some(&moe.num_experts);
    if !stacked || !tensor.bytes.is_multiple_of(moe.num_experts) {
        return 0;
    }
    tensor.bytes / moe.num_experts * (moe.num_experts - moe.experts_per_token)
}

fn refuse_split_file(gguf: &GgufFile) -> Result<()> {
    match gguf.kv.get("split.count").and_then(|v| v.as_u64()) {
        None | Some(0 | 1) => Ok(()),
        Some(n) => {
            let what = format!("is one of the {n} files of a split model; a sidecar is about one file");
            let fix = "Convert without --split-max-size, or join the parts with llama-gguf-split --merge";
            Err(Error::model(Place::file(&gguf.path), what, fix))
        }
    }
}

fn arch(gguf: &GgufFile) -> &str {
    gguf.kv.get("general.architecture").and_then(|v| v.as_str()).unwrap_or("")
}

fn count(gguf: &GgufFile, key: &str) -> Option<u64> {
    gguf.kv.get(&format!("{}.{key}", arch(gguf))).and_then(|v| v.as_u64())
}

/// Layers as the metadata state them, or else as the tensors show them. Each has tensors in the file, so
/// nothing is allocated by a number alone.
fn n_layer(gguf: &GgufFile) -> Result<u32> {
    let seen = gguf.tensors.iter().filter_map(|t| layer_of(&t.name)).max();
    let stated = count(gguf, "block_count");
    let bad = |what: String| {
        Error::model(Place::file(&gguf.path), what, "Name a GGUF of a language model (tensors blk.N.*)")
    };
    let Some(seen) = seen else { return Err(bad("has no layers to put into slots".into())) };
    let n = stated.unwrap_or(u64::from(seen) + 1);
    if n > gguf.tensors.len() as u64 || n > u32::MAX.into() {
        return Err(bad(format!("states {n} layers, but has {} tensors", gguf.tensors.len())));
    }
    Ok(n as u32)
}

fn moe(gguf: &GgufFile, split: &Split) -> Result<Option<Moe>> {
    let num_experts = count(gguf, "expert_count").unwrap_or(0);
    if num_experts == 0 {
        return Ok(None);
    }
    let experts_per_token = count(gguf, "expert_used_count").unwrap_or(0);
    if !(1..=num_experts).contains(&experts_per_token) {
        let what = format!("has {num_experts} experts and uses {experts_per_token} of them per token");
        let fix = "The metadata (expert_count, expert_used_count) are wrong: convert the model again";
        return Err(Error::model(Place::file(&gguf.path), what, fix));
    }
    let by_depth = *split == Split::of_depth(split.n_layer());
    Ok(Some(Moe {
        num_experts,
        experts_per_token,
        active_frac: experts_per_token as f64 / num_experts as f64,
        chunk_note: if by_depth { MOE_NOTE } else { CUSTOM_NOTE }.into(),
    }))
}

fn model_facts(gguf: &GgufFile, n_layer: u32) -> ModelFacts {
    ModelFacts {
        architecture: arch(gguf).to_string(),
        name: gguf.kv.get("general.name").and_then(|v| v.as_str()).map(str::to_string),
        n_layer,
        alignment: gguf.alignment,
    }
}

fn file_facts(gguf: &GgufFile) -> Result<FileFacts> {
    Ok(FileFacts {
        name: gguf.path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        bytes: gguf.file_size,
        header_bytes: gguf.data_offset,
        header_sha256: sha256(gguf, gguf.data_offset, &Progress::default())?,
        sha256: None,
    })
}

fn budgets(
    policy: &Policy,
    embedding: &EmbeddingSlot,
    slots: &BTreeMap<Slot, SlotFacts>,
) -> BTreeMap<Intent, Budget> {
    let sum = |wanted: &[Slot], of: fn(&SlotFacts) -> u64| {
        let each = slots.iter().filter(|(slot, _)| wanted.contains(slot)).map(|(_, facts)| of(facts));
        embedding.bytes + each.sum::<u64>()
    };
    let budget = |w: &[Slot]| Budget { bytes: sum(w, |s| s.bytes), active_bytes: sum(w, |s| s.active_bytes) };
    policy.iter().map(|(&intent, wanted)| (intent, budget(wanted))).collect()
}

/// SHA-256 of the whole file, hex. `progress` can end the run early.
///
/// # Errors
/// [`Error::Io`] when it cannot be read, [`Error::Interrupted`] when it was stopped.
pub fn file_sha256(gguf: &GgufFile, progress: &Progress) -> Result<String> {
    sha256(gguf, gguf.file_size, progress)
}

/// Of the first `bytes`.
fn sha256(gguf: &GgufFile, bytes: u64, progress: &Progress) -> Result<String> {
    let mut context = Context::new(&SHA256);
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    while at < bytes {
        progress.check()?;
        let n = (bytes - at).min(buffer.len() as u64) as usize;
        gguf.file.read_exact_at(&mut buffer[..n], at).map_err(|e| Error::io(&gguf.path, "read", e))?;
        context.update(&buffer[..n]);
        at += n as u64;
    }
    Ok(context.finish().as_ref().iter().map(|b| format!("{b:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::met::testing::Model;
    use proptest::prelude::*;

    fn measured(model: &Model) -> (tempfile::TempDir, GgufFile, Sidecar) {
        let dir = tempfile::tempdir().unwrap();
        let gguf = GgufFile::open(model.write(dir.path())).unwrap();
        let sidecar = Sidecar::measure(&gguf, &Options::default()).unwrap();
        (dir, gguf, sidecar)
    }

    fn written(dir: &tempfile::TempDir, sidecar: &Sidecar) -> PathBuf {
        let path = dir.path().join("x.met.json");
        std::fs::write(&path, sidecar.to_json()).unwrap();
        path
    }

    /// Every byte of the file is in exactly one range.
    fn assert_covers(s: &Sidecar) {
        let mut ranges: Vec<_> = Part::all().flat_map(|p| s.ranges(p)).map(|r| r.range()).collect();
        ranges.sort_by_key(|r| r.start);
        let mut next = 0;
        for r in ranges {
            assert_eq!(r.start, next);
            next = r.end;
        }
        assert_eq!(next, s.file.bytes);
        assert_eq!(s.embedding_slot.bytes + s.slots.values().map(|f| f.bytes).sum::<u64>(), s.file.bytes);
        assert_eq!(s.intent_ram_budget[&Intent::Harm].bytes, s.file.bytes);
    }

    #[test]
    fn dense() {
        let (_dir, gguf, s) = measured(&Model::dense(10));
        assert_covers(&s);
        assert_eq!(s.moe, None);
        let layers = Slot::ALL.map(|slot| s.slots[&slot].layers.unwrap().count);
        assert_eq!(layers, [2, 2, 4, 2]);
        assert!(s.slots.values().all(|f| f.contiguous && f.bytes == f.active_bytes));
        assert_eq!(s.chunk_map.len(), 10);
        assert_eq!(s.chunk_map[&4], Slot::Reasoning);
        assert_eq!(s.embedding_slot.byte_ranges[0].offset, 0);
        let early = &s.slots[&Slot::Early].byte_ranges[0];
        assert_eq!(early.offset, gguf.find("blk.0.attn_q.weight").unwrap().offset);
        assert_eq!(s.intent_ram_budget[&Intent::Inform].bytes, s.embedding_slot.bytes + early.bytes);
    }

    #[test]
    fn eight_experts_two_active() {
        let (_dir, gguf, s) = measured(&Model::moe(10, 8, 2));
        assert_covers(&s);
        let moe = s.moe.as_ref().unwrap();
        assert_eq!((moe.num_experts, moe.experts_per_token, moe.active_frac), (8, 2, 0.25));
        assert!(moe.chunk_note.starts_with("20/20/37/23"), "{}", moe.chunk_note);
        let experts = gguf.find("blk.0.ffn_up_exps.weight").unwrap().bytes;
        let early = &s.slots[&Slot::Early];
        assert_eq!(early.bytes - early.active_bytes, 2 * experts / 4 * 3);
        let harm = s.intent_ram_budget[&Intent::Harm];
        assert_eq!(harm.bytes - harm.active_bytes, 10 * experts / 4 * 3);
    }

    #[test]
    fn layers_in_another_order_and_bytes_behind_the_end() {
        let mut model = Model::dense(10);
        model.tensors.reverse();
        model.appended = 77;
        let (_dir, gguf, s) = measured(&model);
        assert_covers(&s);
        assert_eq!(s.embedding_slot.byte_ranges.last().unwrap().range().end, gguf.file_size);
        // One tensor of layer 0 at the other end of the file.
        let first = model.tensors.pop().unwrap();
        model.tensors.insert(0, first);
        let (_dir, _, s) = measured(&model);
        assert_covers(&s);
    }

    #[test]
    fn a_sidecar_is_read_back_and_fits_its_file_alone() {
        let (dir, gguf, s) = measured(&Model::moe(10, 8, 2));
        let path = written(&dir, &s);
        let read = Sidecar::read(&path).unwrap();
        assert_eq!(read, s);
        read.check(&gguf, &path).unwrap();

        let (_other_dir, other, _) = measured(&Model::moe(12, 8, 2));
        let text = read.check(&other, &path).unwrap_err().to_string();
        assert!(text.contains("bytes") && text.contains("srd-rs met"), "{text}");

        let mut renamed = Model::moe(10, 8, 2);
        renamed.tensors[0].0 = "token_embe.weight".into();
        let (_dir, same_size, _) = measured(&renamed);
        assert_eq!(same_size.file_size, gguf.file_size);
        let text = read.check(&same_size, &path).unwrap_err().to_string();
        assert!(text.contains("different header"), "{text}");
    }

    #[test]
    fn an_edited_sidecar_is_found() {
        let (dir, gguf, s) = measured(&Model::moe(10, 8, 2));
        let path = written(&dir, &s);
        type Edit<'a> = (&'a str, &'a dyn Fn(&mut Sidecar));
        let edits: [Edit<'_>; 7] = [
            ("embedding_slot", &|s| s.embedding_slot.byte_ranges[0].bytes += 1),
            ("slots", &|s| s.slots.get_mut(&Slot::Early).unwrap().bytes -= 1),
            ("slots", &|s| s.slots.get_mut(&Slot::Factual).unwrap().byte_ranges[0].offset = u64::MAX),
            ("chunk_map", &|s| {
                s.chunk_map.insert(0, Slot::Governance);
            }),
            ("intent_ram_budget", &|s| s.intent_ram_budget.get_mut(&Intent::Inform).unwrap().bytes = 1),
            ("moe", &|s| s.moe.as_mut().unwrap().active_frac = 0.5),
            ("slots are not", &|s| s.slots.get_mut(&Slot::Early).unwrap().layers.as_mut().unwrap().last = 5),
        ];
        for (field, edit) in edits {
            let mut edited = s.clone();
            edit(&mut edited);
            let text = edited.check(&gguf, &path).unwrap_err().to_string();
            assert!(text.contains(field), "{field}: {text}");
        }
        // A policy of one's own is no damage, as long as the budget goes with it.
        let policy = Policy::from([(Intent::Inform, vec![Slot::Factual])]);
        let options = Options { policy: Some(policy), ..Options::default() };
        let own = Sidecar::measure(&gguf, &options).unwrap();
        own.check(&gguf, &path).unwrap();
        assert!(matches!(own.parts(Intent::Harm), Err(Error::Usage { .. })));
    }

    #[test]
    fn files_that_are_no_sidecar() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.met.json");
        let (_dir, _, s) = measured(&Model::dense(4));
        let newer = s.to_json().replacen("\"met_version\": 1", "\"met_version\": 2", 1);
        let cut = s.to_json()[..300].to_string();
        for (text, what) in [
            ("", "no MET sidecar"),
            ("{}", "met_version"),
            ("[1]", "no sound MET sidecar"),
            (cut.as_str(), "no MET sidecar"),
            ("{\"met_version\": 1}", "no sound MET sidecar"),
            (newer.as_str(), "version 2"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = Sidecar::read(&path).unwrap_err();
            assert!(matches!(error, Error::Format { .. }) && error.to_string().contains(what), "{error}");
        }
        std::fs::write(&path, [0xff, 0xfe]).unwrap();
        assert!(matches!(Sidecar::read(&path), Err(Error::Format { .. })));
        assert!(matches!(Sidecar::read(&dir.path().join("none")), Err(Error::Io { .. })));
    }

    #[test]
    fn models_that_have_no_sidecar() {
        let refused = |model: &Model| {
            let dir = tempfile::tempdir().unwrap();
            let gguf = GgufFile::open(model.write(dir.path())).unwrap();
            Sidecar::measure(&gguf, &Options::default()).unwrap_err().to_string()
        };
        let mut none = Model::dense(2);
        none.tensors.retain(|(name, _)| !name.starts_with("blk."));
        assert!(refused(&none).contains("no layers"));
        let mut few = Model::dense(4);
        few.n_layer = 2;
        assert!(refused(&few).contains("of layer 2, but the model has 2"));
        let mut many = Model::dense(4);
        many.n_layer = u32::MAX;
        assert!(refused(&many).contains("states 4294967295 layers"));
        assert!(refused(&Model::moe(4, 8, 9)).contains("uses 9"));
        let mut split = Model::dense(4);
        split.split_count = 3;
        assert!(refused(&split).contains("3 files"));
    }

    #[test]
    fn the_digest_is_that_of_the_file() {
        let (_dir, gguf, s) = measured(&Model::dense(2));
        let bytes = std::fs::read(&gguf.path).unwrap();
        let hex = |b: &[u8]| -> String {
            ring::digest::digest(&SHA256, b).as_ref().iter().map(|b| format!("{b:02x}")).collect()
        };
        assert_eq!(file_sha256(&gguf, &Progress::default()).unwrap(), hex(&bytes));
        assert_eq!(s.file.header_sha256, hex(&bytes[..gguf.data_offset as usize]));
        let cancelled = Progress::default();
        cancelled.cancel();
        assert!(matches!(file_sha256(&gguf, &cancelled), Err(Error::Interrupted)));

        let checked = |s: &Sidecar| s.check_weights(&gguf, Path::new("x.json"), &Progress::default());
        assert!(checked(&s).unwrap_err().to_string().contains("no SHA-256"));
        let mut with = s.clone();
        with.file.sha256 = Some(hex(&bytes));
        checked(&with).unwrap();
        let mut changed = bytes;
        *changed.last_mut().unwrap() ^= 1;
        std::fs::write(&gguf.path, changed).unwrap();
        with.check(&GgufFile::open(&gguf.path).unwrap(), Path::new("x.json")).unwrap();
        assert!(checked(&with).unwrap_err().to_string().contains("other weights"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn any_depth_and_order_covers_the_file(
            n in 1u32..=200, experts in prop::option::of(1u64..9), seed in any::<u64>(), shuffled in any::<bool>(),
        ) {
            let mut model = experts.map_or_else(|| Model::dense(n), |e| Model::moe(n, e, 1));
            if shuffled {
                model.tensors.sort_by_key(|(name, _)| {
                    name.bytes().fold(seed, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3))
                });
            }
            let (dir, gguf, s) = measured(&model);
            assert_covers(&s);
            prop_assert!(shuffled || s.slots.values().all(|f| f.contiguous));
            prop_assert_eq!(s.slots.values().filter_map(|f| f.layers).map(|l| l.count).sum::<u32>(), n);
            let path = written(&dir, &s);
            Sidecar::read(&path).unwrap().check(&gguf, &path).unwrap();
        }
    }
}
