//! Measures a sidecar from the tensor table of a GGUF.
//!
//! Every byte of the file belongs to exactly one part. A tensor of a layer, and the padding behind it, belongs to the
//! slot of the layer. Everything else (the header, the token embeddings, the output matrix, the norms and the RoPE
//! factors outside the layers) belongs to the embedding part, but for the tables of which a token reads one row each,
//! which are a part of their own. So the sizes of the parts add up to the size of the file. A
//! split GGUF is measured as a whole: its files follow one another, and each range says which file it lies in.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use super::schema::{
    Access, AccessFacts, Budget, ByteRange, EmbeddingSlot, ExpertHeat, FileFacts, Known, LayerRange,
    MET_VERSION, ModelFacts, Moe, Part, Sidecar, SlotFacts, TableFacts, TensorFacts,
};
use crate::error::{Error, Place, Result};
use crate::formats::gguf::{Gguf, GgufFile, GgufTensor};
use crate::met::policy::{self, Intent, Policy};
use crate::met::slots::{CUSTOM_NOTE, MOE_NOTE, Slot, Split};
use crate::progress::Progress;
use crate::quant::recipe::{PER_LAYER_TABLE, layer_of};
use crate::sign::file::hash_range;
use crate::sign::to_hex;

/// What a sidecar says that the GGUF does not say.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The layers of the slots; by default [`Split::of_depth`].
    pub split: Option<Split>,
    /// The slots that each intent needs; by default [`policy::standard`].
    pub policy: Option<Policy>,
    /// The fingerprint of the container that the GGUF came from.
    pub fingerprint: Option<String>,
    /// The version of the JSON; by default [`MET_VERSION`].
    pub version: Option<u32>,
    /// The projector beside the GGUF.
    pub projector: Option<FileFacts>,
    /// What is known from the conversion. What does not fit the GGUF is left out.
    pub known: Known,
}

impl FileFacts {
    /// Reads the facts of a GGUF of one file, such as a projector. `sha256` is `None`.
    ///
    /// # Errors
    /// As [`Gguf::open`], and [`Error::Io`] if the header cannot be read again for its digest.
    pub fn of(path: &Path) -> Result<Self> {
        file_facts(&Gguf::open(path)?.parts()[0])
    }
}

/// Tables that are looked up by the number of a token or of a position. A token embedding is a table only where the model
/// has an output matrix of its own: otherwise the embedding is the output matrix too, and each token reads all of it.
pub const TABLES: [&str; 4] =
    ["token_embd.weight", PER_LAYER_TABLE, "token_types.weight", "position_embd.weight"];

impl Sidecar {
    /// Measures a GGUF from its header. `file.sha256` is `None`, because the weights are not read: [`file_sha256`]
    /// gives it.
    ///
    /// # Errors
    /// [`Error::Model`] for a GGUF without layers, and for expert counts that contradict each other; [`Error::Io`] if the
    /// header cannot be read again for its digest.
    pub fn measure(gguf: &Gguf, options: &Options) -> Result<Self> {
        let n_layer = n_layer(gguf)?;
        let split = options.split.unwrap_or_else(|| Split::of_depth(n_layer));
        if split.n_layer() != n_layer {
            let what = format!("the slots have {} layers, but the model has {n_layer}", split.n_layer());
            return Err(Error::usage(what, "Give each layer to one slot"));
        }
        let moe = moe(gguf, &split)?;
        let version = options.version.unwrap_or(MET_VERSION);
        let mut tally = Tally::of(gguf, &split, moe.as_ref(), version > 1)?;
        let embedding_slot = tally.embedding();
        let slots: BTreeMap<_, _> = Slot::ALL.into_iter().map(|s| (s, tally.slot(s, &split))).collect();
        let hydration_policy = options.policy.clone().unwrap_or_else(policy::standard);
        let mut files = gguf.parts().iter().map(file_facts).collect::<Result<Vec<_>>>()?;
        let more_files = files.split_off(1);
        Ok(Self {
            met_version: version,
            generator: concat!("srd-rs ", env!("CARGO_PKG_VERSION")).into(),
            file: files.swap_remove(0),
            more_files,
            projector: options.projector.clone(),
            fingerprint: options.fingerprint.clone(),
            model: model_facts(gguf, n_layer),
            intent_ram_budget: budgets(&hydration_policy, &embedding_slot, &slots),
            embedding_slot,
            tables: (version > 1).then(|| tally.tables()),
            access: (version > 1).then(|| tally.access()),
            chunk_map: (0..n_layer).filter_map(|l| Some((l, split.slot_of(l)?))).collect(),
            slots,
            hydration_policy,
            tensors: (version > 2).then(|| tally.listed(&options.known)),
            expert_heat: heat(&options.known, moe.as_ref(), n_layer).filter(|_| version > 2),
            moe,
        })
    }
}

/// The bytes and tensors of one part, while they are counted.
#[derive(Debug, Clone, Default)]
struct Count {
    ranges: Vec<ByteRange>,
    tensors: usize,
    /// The bytes of the experts that one token does not use.
    idle: u64,
    access: BTreeMap<Access, AccessFacts>,
}

impl Count {
    fn add(&mut self, file: usize, range: Range<u64>) {
        let bytes = range.end - range.start;
        match self.ranges.last_mut() {
            _ if bytes == 0 => {}
            Some(last) if last.file == file && last.range().end == range.start => last.bytes += bytes,
            _ => self.ranges.push(ByteRange { file, offset: range.start, bytes }),
        }
    }

    fn bytes(&self) -> u64 {
        self.ranges.iter().map(|r| r.bytes).sum()
    }
}

/// Gives every byte of all files to one part.
struct Tally {
    parts: BTreeMap<Part, Count>,
    /// The tensors of which a token reads one row.
    tables: Vec<&'static str>,
    listed: BTreeMap<String, TensorFacts>,
}

impl Tally {
    fn of(gguf: &Gguf, split: &Split, moe: Option<&Moe>, with_tables: bool) -> Result<Self> {
        let tied = !gguf.tensors().any(|(_, t)| t.name == "output.weight");
        let is_table = |name: &&str| with_tables && !(tied && *name == TABLES[0]);
        let tables = TABLES.into_iter().filter(is_table).collect();
        let mut tally = Self {
            parts: Part::all().map(|p| (p, Count::default())).collect(),
            tables,
            listed: BTreeMap::new(),
        };
        for (number, file) in gguf.parts().iter().enumerate() {
            tally.add_file(number, file, split, moe)?;
        }
        Ok(tally)
    }

    fn add_file(&mut self, number: usize, gguf: &GgufFile, split: &Split, moe: Option<&Moe>) -> Result<()> {
        self.part(Part::Embedding).add(number, 0..gguf.data_offset);
        let tensors = &gguf.tensors;
        let mut end = gguf.data_offset;
        for (i, tensor) in tensors.iter().enumerate() {
            // The padding behind a tensor belongs to the tensor's part.
            let padded = (tensor.offset + tensor.bytes).next_multiple_of(gguf.alignment.into());
            end = tensors.get(i + 1).map_or(padded.min(gguf.file_size), |next| next.offset);
            let table = self.tables.contains(&tensor.name.as_str());
            let part = if table { Part::Tables } else { part_of(gguf, tensor, split)? };
            let idle = moe.map_or(0, |m| idle_bytes(tensor, m));
            let (class, read) = match (table, idle) {
                (true, _) => (Access::Rows, tensor.bytes / tensor.ne.get(1).copied().unwrap_or(1).max(1)),
                (false, 0) => (Access::EveryToken, tensor.bytes),
                (false, idle) => (Access::Experts, tensor.bytes - idle),
            };
            let count = self.part(part);
            count.add(number, tensor.offset..end);
            count.tensors += 1;
            count.idle += idle;
            let facts = count.access.entry(class).or_default();
            facts.tensors += 1;
            facts.bytes += tensor.bytes;
            facts.token_bytes += read;
            let listed = TensorFacts {
                part: part.name().into(),
                access: class,
                file: number,
                offset: tensor.offset,
                bytes: tensor.bytes,
                token_bytes: read,
                error: None,
                kld: None,
            };
            self.listed.insert(tensor.name.clone(), listed);
        }
        // Bytes that someone has appended to the file belong to the embedding part.
        self.part(Part::Embedding).add(number, end..gguf.file_size);
        Ok(())
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

    fn tables(&self) -> TableFacts {
        let count = &self.parts[&Part::Tables];
        TableFacts { tensors: count.tensors, bytes: count.bytes(), byte_ranges: count.ranges.clone() }
    }

    /// Takes the list of the tensors, with what is known of each.
    fn listed(&mut self, known: &Known) -> BTreeMap<String, TensorFacts> {
        let mut listed = std::mem::take(&mut self.listed);
        let sound = |value: Option<&f64>| value.copied().filter(|v| v.is_finite() && *v >= 0.0);
        for (name, facts) in &mut listed {
            facts.error = sound(known.errors.get(name));
            facts.kld = sound(known.klds.get(name));
        }
        listed
    }

    fn access(&self) -> BTreeMap<String, BTreeMap<Access, AccessFacts>> {
        self.parts.iter().map(|(part, count)| (part.name().to_string(), count.access.clone())).collect()
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

/// Returns the heat that is known, if it is of the layers and of the number of experts of this model.
fn heat(known: &Known, moe: Option<&Moe>, n_layer: u32) -> Option<ExpertHeat> {
    let (heat, moe) = (known.expert_heat.as_ref()?, moe?);
    let fits = |(&layer, counts): (&u32, &Vec<u64>)| {
        layer < n_layer && counts.len() as u64 == moe.num_experts && counts.iter().all(|&n| n <= heat.tokens)
    };
    (!heat.layers.is_empty() && heat.layers.iter().all(fits)).then(|| heat.clone())
}

fn part_of(gguf: &GgufFile, tensor: &GgufTensor, split: &Split) -> Result<Part> {
    let Some(layer) = layer_of(&tensor.name) else { return Ok(Part::Embedding) };
    split.slot_of(layer).map(Part::Slot).ok_or_else(|| {
        let what = format!("belongs to layer {layer}, but the model has {} layers", split.n_layer());
        Error::model(gguf.place(tensor), what, "The metadata is wrong: convert the model again")
    })
}

/// The bytes of a tensor's experts that one token does not use; 0 for a tensor without experts.
fn idle_bytes(tensor: &GgufTensor, moe: &Moe) -> u64 {
    let stacked = tensor.name.contains("_exps.") && tensor.ne.last() == Some(&moe.num_experts);
    if !stacked || !tensor.bytes.is_multiple_of(moe.num_experts) {
        return 0;
    }
    tensor.bytes / moe.num_experts * (moe.num_experts - moe.experts_per_token)
}

fn arch(gguf: &Gguf) -> &str {
    gguf.metadata().get("general.architecture").and_then(|v| v.as_str()).unwrap_or("")
}

fn count(gguf: &Gguf, key: &str) -> Option<u64> {
    gguf.metadata().get(&format!("{}.{key}", arch(gguf))).and_then(|v| v.as_u64())
}

/// The number of layers that the metadata state, or else that the tensors show. A number larger than the number of
/// tensors is refused, so that a wrong number cannot ask for much memory.
fn n_layer(gguf: &Gguf) -> Result<u32> {
    let seen = gguf.tensors().filter_map(|(_, t)| layer_of(&t.name)).max();
    let stated = count(gguf, "block_count");
    let bad = |what: String| {
        Error::model(Place::file(gguf.path()), what, "Name a GGUF of a language model (tensors blk.N.*)")
    };
    let Some(seen) = seen else { return Err(bad("has no layers".into())) };
    let n = stated.unwrap_or(u64::from(seen) + 1);
    let tensors = gguf.tensors().count();
    if n > tensors as u64 || n > u32::MAX.into() {
        return Err(bad(format!("states {n} layers, but has only {tensors} tensors")));
    }
    Ok(n as u32)
}

fn moe(gguf: &Gguf, split: &Split) -> Result<Option<Moe>> {
    let num_experts = count(gguf, "expert_count").unwrap_or(0);
    if num_experts == 0 {
        return Ok(None);
    }
    let experts_per_token = count(gguf, "expert_used_count").unwrap_or(0);
    if !(1..=num_experts).contains(&experts_per_token) {
        let what = format!("has {num_experts} experts, but a token uses {experts_per_token} of them");
        let fix = "The metadata expert_count and expert_used_count are wrong: convert the model again";
        return Err(Error::model(Place::file(gguf.path()), what, fix));
    }
    let by_depth = *split == Split::of_depth(split.n_layer());
    Ok(Some(Moe {
        num_experts,
        experts_per_token,
        active_frac: experts_per_token as f64 / num_experts as f64,
        chunk_note: if by_depth { MOE_NOTE } else { CUSTOM_NOTE }.into(),
    }))
}

fn model_facts(gguf: &Gguf, n_layer: u32) -> ModelFacts {
    ModelFacts {
        architecture: arch(gguf).to_string(),
        name: gguf.metadata().get("general.name").and_then(|v| v.as_str()).map(str::to_string),
        n_layer,
        alignment: gguf.parts()[0].alignment,
    }
}

/// The name, the sizes and the header's digest of a GGUF.
pub(super) fn file_facts(gguf: &GgufFile) -> Result<FileFacts> {
    Ok(FileFacts {
        name: gguf.path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        bytes: gguf.file_size,
        header_bytes: gguf.data_offset,
        header_sha256: to_hex(&hash_range(
            &gguf.file,
            &gguf.path,
            0..gguf.data_offset,
            &Progress::default(),
        )?),
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

/// The SHA-256 of one whole file in hexadecimal digits. `progress` can end the run early.
///
/// # Errors
/// [`Error::Io`] when the file cannot be read, [`Error::Interrupted`] when the run was cancelled.
pub fn file_sha256(gguf: &GgufFile, progress: &Progress) -> Result<String> {
    Ok(to_hex(&hash_range(&gguf.file, &gguf.path, 0..gguf.file_size, progress)?))
}
