//! The container of a conversion. It is planned together with the GGUF, and filled while the weights are converted.
//!
//! [`plan`] makes the header and the layout, [`ContainerSink`] writes the file, and [`ContainerDestination`] is the
//! sink as one destination of a conversion.

use crate::convert::destination::{Converted, Destination, Finished, UnitWriter};
use crate::convert::options::ContainerOptions;
use crate::convert::planned::{PlannedContainer, PlannedFile, PlannedTensor};
use crate::convert::report::Sealed;
use crate::convert::source_hashes::SourceHash;
use crate::convert::units::Unit;
use crate::dtype::GgmlType;
use crate::error::{Error, Place, Result};
use crate::formats::axm::layout::{
    ALIGNMENT, FORMAT, GgufPart, Header, Layout, PlaneInfo, ResidualInfo, SourceFile, Tensor,
};
use crate::formats::axm::writer::Writer;
use crate::formats::sink::{Left, Sink};
use crate::noise::Noise;
use crate::progress::Progress;
use crate::quant;
use crate::quant::residual::{self, Bits, Run};
use crate::sign::ed25519::SignKey;
use crate::sign::keys::MasterKey;
use crate::sign::{Hash, Sha256, sha256, to_hex};

/// The number of bytes of residual codes that are written at a time.
const WRITE: usize = 1 << 20;
/// The number of weights whose residuals are encoded at a time, so that the weights, their base and its values stay in
/// the L1 cache. The number is a multiple of the block length of every type.
const RESIDUAL_WEIGHTS: usize = 2048;
const ID_DOMAIN: &[u8] = b"srd-axm v1 container\0";
/// The key of the GGUF that has the id of its container. The GGUF cannot have the fingerprint, because the fingerprint
/// covers the GGUF's header.
pub const ID_KEY: &str = "srd.axm.id";

/// Returns the container id: the SHA-256 of what is converted, how it is converted, and the GGUF headers as they are
/// without the id. Each string ends with a zero byte, which no string contains.
pub fn container_id(options: &ContainerOptions, quant: &str, headers: &[PlannedFile]) -> Hash {
    let provenance = &options.provenance;
    let text =
        [&provenance.source_digest, &provenance.method, quant, &tool()].map(|s| format!("{s}\0")).concat();
    let bits = options.residual.map_or(0, |b| b.get() as u64);
    let mut parts = vec![
        ID_DOMAIN.to_vec(),
        text.into_bytes(),
        provenance.seed.to_le_bytes().to_vec(),
        bits.to_le_bytes().to_vec(),
    ];
    parts.extend(headers.iter().map(|f| sha256(&[&f.header]).to_vec()));
    sha256(&parts.iter().map(Vec::as_slice).collect::<Vec<_>>())
}

fn tool() -> String {
    format!("srd-rs {}", env!("CARGO_PKG_VERSION"))
}

/// The parts of a plan from which a container is made.
pub struct Parts<'a> {
    /// The container id.
    pub id: Hash,
    /// The architecture, as GGUF names it.
    pub arch: &'a str,
    /// The name of the mix.
    pub quant: &'a str,
    /// The tensors, in file order.
    pub tensors: &'a [PlannedTensor],
    /// The GGUF, or its parts.
    pub files: &'a [PlannedFile],
}

/// Plans a container: its header, and the place of every shard.
///
/// # Errors
/// [`Error::Model`] when the container would be larger than the format allows.
pub fn plan(options: &ContainerOptions, parts: &Parts) -> Result<PlannedContainer> {
    let header = Header {
        alignment: ALIGNMENT,
        arch: parts.arch.to_string(),
        container: to_hex(&parts.id),
        files: parts.files.iter().map(gguf_part).collect(),
        format: FORMAT.into(),
        method: options.provenance.method.clone(),
        quant: parts.quant.to_string(),
        revision: options.provenance.revision.clone(),
        seed: options.provenance.seed,
        source_digest: options.provenance.source_digest.clone(),
        sources: options.provenance.sources.iter().map(source).collect(),
        tensors: parts.tensors.iter().map(|t| tensor(t, options.residual)).collect(),
        tool: tool(),
    };
    let too_large =
        || Error::model(Place::file(&options.path), "would be larger than the format allows", "Use --no-axm");
    let json = header.to_json();
    // The header is parsed, so that nothing is written that a reader refuses.
    let header = Header::parse(&json)
        .map_err(|what| Error::model(Place::file(&options.path), what, "Use --no-axm"))?;
    let layout = Layout::of(&header, json.len() as u64).ok_or_else(too_large)?;
    Ok(PlannedContainer { path: options.path.clone(), header, layout })
}

/// A source file, with a place for the SHA-256 of a weight file, which is known at the end of the run.
fn source(file: &SourceFile) -> SourceFile {
    let is_weights = file.hashed_bytes < file.bytes;
    SourceFile { file_sha256: is_weights.then(|| "0".repeat(64)), ..file.clone() }
}

fn gguf_part(file: &PlannedFile) -> GgufPart {
    GgufPart {
        bytes: file.bytes,
        header_bytes: file.header.len() as u64,
        header_sha256: to_hex(&sha256(&[&file.header])),
        name: file.path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
    }
}

fn tensor(t: &PlannedTensor, bits: Option<Bits>) -> Tensor {
    let n = t.bound.n_weights();
    let shards = n.div_ceil(t.unit_weights) as u32;
    // A copied tensor has lost nothing, so it needs no residual.
    let bits = bits.filter(|_| residual::wanted(t.ty) && !t.is_unchanged());
    let residual = bits
        .and_then(|bits| Some(ResidualInfo { bits: bits.get() as u64, bytes: bits.plane_bytes(n)?, shards }));
    Tensor {
        base: PlaneInfo { bytes: t.bytes, shards },
        file: t.file as u32,
        name: t.bound.name.clone(),
        ne: t.bound.ne.clone(),
        offset: t.offset,
        residual,
        shard_weights: t.unit_weights,
        ty: t.ty.name().into(),
    }
}

/// A container that is being written.
pub struct ContainerSink<'a> {
    plan: &'a PlannedContainer,
    sink: Sink,
    writer: Writer<'a>,
}

/// One shard that is being written: its bytes go through the hash and to the file in order.
pub struct ShardSink {
    number: usize,
    /// The offset in the file of the next byte.
    offset: u64,
    hasher: Sha256,
}

impl ShardSink {
    /// Takes the next bytes into the hash. This is fastest while the bytes are in a near cache.
    pub fn hash(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
    }
}

impl<'a> ContainerSink<'a> {
    /// Creates the file and writes the GGUF headers.
    ///
    /// # Errors
    /// As [`Sink::create`].
    pub fn create(
        plan: &'a PlannedContainer,
        files: &[PlannedFile],
        key: &MasterKey,
        overwrite: bool,
    ) -> Result<Self> {
        let sink = Sink::create(&plan.path, plan.layout.file_bytes, overwrite)?;
        Self::on(sink, plan, files, key)
    }

    /// Writes the GGUF headers into `sink`.
    fn on(sink: Sink, plan: &'a PlannedContainer, files: &[PlannedFile], key: &MasterKey) -> Result<Self> {
        let writer = Writer::new(&plan.header, &plan.layout, key);
        // `seal` writes the preamble and the header, with the hashes of the source files.
        let mut at = writer.front().len() as u64;
        for file in files {
            sink.write_at(&file.header, at)?;
            at += file.header.len() as u64;
        }
        Ok(Self { plan, sink, writer })
    }

    /// Begins shard `number` of the file.
    pub fn shard(&self, number: usize) -> ShardSink {
        let offset = self.plan.layout.shards[number].offset;
        ShardSink { number, offset, hasher: Sha256::default() }
    }

    /// Begins shard `index` of the base of a tensor.
    pub fn base_shard(&self, tensor: usize, index: usize) -> ShardSink {
        self.shard(self.plan.layout.first[tensor] + index)
    }

    /// Begins shard `index` of the residual of a tensor, and returns its bits for each weight. Returns `None` for a
    /// tensor without a residual.
    pub fn residual_shard(&self, tensor: usize, index: usize) -> Option<(ShardSink, Bits)> {
        let t = &self.plan.header.tensors[tensor];
        let number = self.plan.layout.first[tensor] + t.base.shards as usize + index;
        t.bits().map(|bits| (self.shard(number), bits))
    }

    /// Writes the next bytes of a shard. Every call costs system time, so callers write many bytes at a time.
    ///
    /// # Errors
    /// [`Error::Io`] when the disk is full or fails.
    pub fn write(&self, shard: &mut ShardSink, bytes: &[u8]) -> Result<()> {
        self.sink.write_at(bytes, shard.offset)?;
        shard.offset += bytes.len() as u64;
        Ok(())
    }

    /// Takes the next bytes of a shard from the file, as an earlier run has written them. Returns whether their SHA-256 is
    /// `expected`. The shard must be at its start.
    ///
    /// # Errors
    /// As [`hash_range`](crate::sign::file::hash_range).
    fn skip(
        &self,
        shard: &mut ShardSink,
        bytes: u64,
        expected: Option<Hash>,
        progress: &Progress,
    ) -> Result<bool> {
        shard.hasher = self.sink.hasher_of(shard.offset..shard.offset + bytes, progress)?;
        shard.offset += bytes;
        Ok(expected == Some(shard.hasher.clone().finish()))
    }

    /// Puts the digest of a complete shard into the manifest, and returns its SHA-256.
    pub fn finish_shard(&self, shard: ShardSink) -> Hash {
        let start = self.plan.layout.shards[shard.number].offset;
        self.sink.start_writeback(start..shard.offset);
        let hash = shard.hasher.finish();
        self.writer.finish_shard(shard.number, hash);
        hash
    }

    /// Puts the SHA-256 of the whole source files into the header.
    fn set_source_hashes(&mut self, hashes: &[SourceHash]) {
        let mut header = self.plan.header.clone();
        for source in &mut header.sources {
            let hash = hashes.iter().find(|(name, _)| *name == source.name);
            if let (Some(text), Some((_, hash))) = (&mut source.file_sha256, hash) {
                *text = to_hex(hash);
            }
        }
        self.writer.replace_header(&header);
    }

    /// Writes the preamble, the header, the manifest and the seal, and returns the sink, whose file has no name yet.
    ///
    /// # Errors
    /// [`Error::Io`] when the disk is full or fails.
    pub fn seal(self, key: &MasterKey, sign_key: Option<&SignKey>) -> Result<(Sink, Sealed)> {
        self.sink.write_at(&self.writer.front(), 0)?;
        let (end, fingerprint) = self.writer.finish(sign_key);
        self.sink.write_at(&end, self.plan.layout.manifest_offset)?;
        let sealed = Sealed {
            path: self.plan.path.clone(),
            bytes: self.plan.layout.file_bytes,
            fingerprint: to_hex(&fingerprint),
            container: self.plan.header.container.clone(),
            key_id: to_hex(&key.id()),
            signed: sign_key.is_some(),
        };
        Ok((self.sink, sealed))
    }
}

/// The container of a conversion, as one of its destinations.
pub struct ContainerDestination<'a> {
    container: ContainerSink<'a>,
    key: &'a MasterKey,
    sign_key: Option<&'a SignKey>,
}

impl<'a> ContainerDestination<'a> {
    /// Creates the container and writes the GGUF headers. `left` says what an earlier run has left; without it the file is
    /// not kept when the run is interrupted.
    ///
    /// # Errors
    /// As [`Sink::create`].
    pub fn create(
        plan: &'a PlannedContainer,
        files: &[PlannedFile],
        (key, sign_key): (&'a MasterKey, Option<&'a SignKey>),
        overwrite: bool,
        left: Option<Left>,
    ) -> Result<Self> {
        let bytes = plan.layout.file_bytes;
        let sink = match left {
            Some(left) => Sink::resume(&plan.path, bytes, overwrite, left)?,
            None => Sink::create(&plan.path, bytes, overwrite)?,
        };
        let container = ContainerSink::on(sink, plan, files, key)?;
        if left.is_some_and(|left| left != Left::Nothing) {
            let shards = plan.layout.shards.iter().map(|s| s.offset..s.offset + s.length);
            let headers: usize = files.iter().map(|f| f.header.len()).sum();
            let front = 0..container.writer.front().len() as u64 + headers as u64;
            let end = plan.layout.manifest_offset..bytes;
            container.sink.clear_except(shards.chain([front, end]).collect(), bytes)?;
        }
        Ok(Self { container, key, sign_key })
    }
}

impl Destination for ContainerDestination<'_> {
    fn begin<'u>(&'u self, unit: &Unit<'u>) -> Box<dyn UnitWriter + 'u> {
        Box::new(ShardPair::begin(&self.container, unit))
    }

    fn resume<'u>(
        &'u self,
        unit: &Unit<'u>,
        done: u64,
        hashes: &mut dyn Iterator<Item = Hash>,
        progress: &Progress,
    ) -> Result<Option<Box<dyn UnitWriter + 'u>>> {
        let mut pair = ShardPair::begin(&self.container, unit);
        let base = unit.tensor.ty.row_bytes(done).expect("units are cut at block boundaries");
        let is_same = self.container.skip(&mut pair.base, base, hashes.next(), progress)?
            && match &mut pair.residual {
                Some(Residual { shard, bits, .. }) => {
                    let codes = bits.plane_bytes(done).expect("blocks are whole sub-blocks");
                    self.container.skip(shard, codes, hashes.next(), progress)?
                }
                None => true,
            };
        Ok(is_same.then(|| -> Box<dyn UnitWriter> { Box::new(pair) }))
    }

    fn finish(mut self: Box<Self>, sources: &[SourceHash]) -> Result<Finished> {
        self.container.set_source_hashes(sources);
        let (sink, sealed) = self.container.seal(self.key, self.sign_key)?;
        Ok(Finished { sinks: vec![sink], sealed: Some(sealed) })
    }
}

/// The shards of one unit: the shard of the blocks and, for a tensor with a residual plane, the shard of what the
/// blocks lost.
struct ShardPair<'u> {
    container: &'u ContainerSink<'u>,
    base: ShardSink,
    residual: Option<Residual>,
}

/// The residual shard of a unit.
struct Residual {
    shard: ShardSink,
    bits: Bits,
    noise: Noise,
    /// The values of the blocks, and then what the blocks lost.
    values: Vec<f32>,
    steps: Vec<f32>,
    /// The codes that are not written yet.
    codes: Vec<u8>,
}

impl<'u> ShardPair<'u> {
    fn begin(container: &'u ContainerSink<'u>, unit: &Unit<'u>) -> Self {
        let residual = container.residual_shard(unit.index, unit.number).map(|(shard, bits)| Residual {
            shard,
            bits,
            noise: Noise::new(container.plan.header.seed, &unit.tensor.bound.name),
            values: Vec::new(),
            steps: Vec::new(),
            codes: Vec::new(),
        });
        Self { container, base: container.base_shard(unit.index, unit.number), residual }
    }
}

impl UnitWriter for ShardPair<'_> {
    fn see(&mut self, converted: &Converted) -> Result<()> {
        self.base.hash(converted.blocks);
        let Some(residual) = &mut self.residual else { return Ok(()) };
        residual.encode(converted);
        if residual.codes.len() >= WRITE {
            self.container.write(&mut residual.shard, &residual.codes)?;
            residual.codes.clear();
        }
        Ok(())
    }

    fn write(&mut self, blocks: &[u8]) -> Result<()> {
        self.container.write(&mut self.base, blocks)
    }

    fn hashes(&mut self) -> Result<Vec<Hash>> {
        let mut hashes = vec![self.base.hasher.clone().finish()];
        if let Some(Residual { shard, codes, .. }) = &mut self.residual {
            self.container.write(shard, codes)?;
            codes.clear();
            hashes.push(shard.hasher.clone().finish());
        }
        Ok(hashes)
    }

    fn finish(self: Box<Self>) -> Result<Vec<Hash>> {
        let mut hashes = vec![self.container.finish_shard(self.base)];
        if let Some(Residual { mut shard, codes, .. }) = self.residual {
            self.container.write(&mut shard, &codes)?;
            hashes.push(self.container.finish_shard(shard));
        }
        Ok(hashes)
    }
}

impl Residual {
    /// Encodes what the blocks of a chunk lost.
    fn encode(&mut self, converted: &Converted) {
        let ty: GgmlType = converted.chunk.tensor.ty;
        let row = converted.chunk.tensor.bound.row_len();
        let plane = |n: u64| self.bits.plane_bytes(n).expect("blocks are whole sub-blocks") as usize;
        let base = |n: u64| ty.row_bytes(n).expect("pieces are cut at block boundaries") as usize;
        self.values.resize(RESIDUAL_WEIGHTS, 0.0);
        self.steps.resize(RESIDUAL_WEIGHTS / residual::SUB, 0.0);
        let first = self.codes.len();
        self.codes.resize(first + plane(converted.chunk.len), 0);
        let codes = &mut self.codes[first..];
        for (i, weights) in converted.weights.chunks(RESIDUAL_WEIGHTS).enumerate() {
            let (at, n) = ((i * RESIDUAL_WEIGHTS) as u64, weights.len());
            let blocks = &converted.blocks[base(at)..base(at + n as u64)];
            let (lost, steps) = (&mut self.values[..n], &mut self.steps[..n / residual::SUB]);
            quant::dequantize(ty, blocks, lost);
            lost.iter_mut().zip(weights).for_each(|(v, w)| *v = *w - *v);
            residual::steps(ty, blocks, steps);
            let start = converted.chunk.start + at;
            let run = Run { noise: &self.noise, bits: self.bits, start, row, steps };
            residual::encode(run, lost, &mut codes[plane(at)..plane(at + n as u64)]);
        }
        self.shard.hash(codes);
    }
}
