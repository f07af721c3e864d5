//! The container of a conversion: planned with the GGUF, filled by the same walk over the weights.

use std::path::PathBuf;

use serde::Serialize;

use crate::convert::plan::{PlannedFile, PlannedTensor, Provenance};
use crate::error::{Error, Place, Result};
use crate::formats::axm::layout::{
    ALIGNMENT, FORMAT, GgufPart, Header, Layout, PlaneInfo, ResidualInfo, Tensor, shard_weights,
};
use crate::formats::axm::writer::Writer;
use crate::formats::sink::Sink;
use crate::quant::residual::{self, Bits};
use crate::sign::ed25519::SignKey;
use crate::sign::keys::MasterKey;
use crate::sign::{Hash, Sha256, sha256, to_hex};

const ID_DOMAIN: &[u8] = b"srd-axm v1 container\0";
/// Key of the GGUF that names its container. The fingerprint covers the GGUF's header and so cannot be in
/// it.
pub const ID_KEY: &str = "srd.axm.id";

/// What the user asks of a container.
#[derive(Debug, Clone)]
pub struct ContainerOptions {
    pub path: PathBuf,
    /// Bits of the residual; none for no residual planes.
    pub residual: Option<Bits>,
    pub provenance: Provenance,
}

/// A container, its layout known before a weight is read.
#[derive(Debug)]
pub struct PlannedContainer {
    pub path: PathBuf,
    pub header: Header,
    pub layout: Layout,
}

/// Id of the container: SHA-256 over what is converted how, and the GGUF headers as they are without the
/// id. Strings are ended by a zero, which none of them holds.
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

/// Everything of a plan that a container is made of.
pub struct Parts<'a> {
    pub id: Hash,
    pub arch: &'a str,
    pub quant: &'a str,
    pub tensors: &'a [PlannedTensor],
    pub files: &'a [PlannedFile],
}

/// # Errors
/// [`Error::Model`] when the container would be too large.
pub fn plan(options: &ContainerOptions, parts: &Parts) -> Result<PlannedContainer> {
    let header = Header {
        alignment: ALIGNMENT,
        arch: parts.arch.to_string(),
        container: to_hex(&parts.id),
        files: parts.files.iter().map(gguf_part).collect(),
        format: FORMAT.into(),
        method: options.provenance.method.clone(),
        quant: parts.quant.to_string(),
        seed: options.provenance.seed,
        source_digest: options.provenance.source_digest.clone(),
        sources: options.provenance.sources.clone(),
        tensors: parts.tensors.iter().map(|t| tensor(t, options.residual)).collect(),
        tool: tool(),
    };
    let too_large = || Error::model(Place::file(&options.path), "would exceed 2^64 bytes", "Use --no-axm");
    let json = header.to_json();
    // What is written is what a reader accepts.
    let header = Header::parse(&json)
        .map_err(|what| Error::model(Place::file(&options.path), what, "Use --no-axm"))?;
    let layout = Layout::of(&header, json.len() as u64).ok_or_else(too_large)?;
    Ok(PlannedContainer { path: options.path.clone(), header, layout })
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
    let weights = shard_weights(t.ty, t.bound.row_len(), n);
    let shards = n.div_ceil(weights) as u32;
    // A copied tensor has lost nothing.
    let bits = bits.filter(|_| residual::wanted(t.ty) && t.copy.is_none());
    let residual = bits
        .and_then(|bits| Some(ResidualInfo { bits: bits.get() as u64, bytes: bits.plane_bytes(n)?, shards }));
    Tensor {
        base: PlaneInfo { bytes: t.bytes, shards },
        file: t.file as u32,
        name: t.bound.name.clone(),
        ne: t.bound.ne.clone(),
        offset: t.offset,
        residual,
        shard_weights: weights,
        ty: t.ty.name().into(),
    }
}

/// The container of a running conversion.
pub struct ContainerSink<'a> {
    plan: &'a PlannedContainer,
    sink: Sink,
    writer: Writer<'a>,
}

/// One shard that is being written: its bytes go through the hash and to the file in order.
pub struct ShardSink {
    number: usize,
    /// In the file, of the next byte to write.
    offset: u64,
    hasher: Sha256,
}

/// What a finished container is known by.
#[derive(Debug, Clone, Serialize)]
pub struct Sealed {
    pub path: PathBuf,
    pub bytes: u64,
    pub fingerprint: String,
    pub container: String,
    pub key_id: String,
    pub signed: bool,
}

impl ShardSink {
    /// Takes the next bytes into the hash. This is fastest while the bytes are in a near cache.
    pub fn hash(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
    }
}

impl<'a> ContainerSink<'a> {
    /// # Errors
    /// As [`Sink::create`].
    pub fn create(
        plan: &'a PlannedContainer,
        files: &[PlannedFile],
        key: &MasterKey,
        overwrite: bool,
    ) -> Result<Self> {
        let writer = Writer::new(&plan.header, &plan.layout, key);
        let sink = Sink::create(&plan.path, plan.layout.file_bytes, overwrite)?;
        let front = writer.front();
        sink.write_at(&front, 0)?;
        let mut at = front.len() as u64;
        for file in files {
            sink.write_at(&file.header, at)?;
            at += file.header.len() as u64;
        }
        Ok(Self { plan, sink, writer })
    }

    /// Shard `number` of the file.
    pub fn shard(&self, number: usize) -> ShardSink {
        let offset = self.plan.layout.shards[number].offset;
        ShardSink { number, offset, hasher: Sha256::default() }
    }

    pub fn base_shard(&self, tensor: usize, index: usize) -> ShardSink {
        self.shard(self.plan.layout.first[tensor] + index)
    }

    pub fn residual_shard(&self, tensor: usize, index: usize) -> Option<(ShardSink, Bits)> {
        let t = &self.plan.header.tensors[tensor];
        let number = self.plan.layout.first[tensor] + t.base.shards as usize + index;
        t.bits().map(|bits| (self.shard(number), bits))
    }

    /// Writes the next bytes of a shard. Many at a time, as every call costs the system time.
    pub fn write(&self, shard: &mut ShardSink, bytes: &[u8]) -> Result<()> {
        self.sink.write_at(bytes, shard.offset)?;
        shard.offset += bytes.len() as u64;
        Ok(())
    }

    /// Puts the digest of a complete shard into the manifest, and returns its SHA-256.
    pub fn finish_shard(&self, shard: ShardSink) -> Hash {
        let hash = shard.hasher.finish();
        self.writer.finish_shard(shard.number, hash);
        hash
    }

    /// Writes manifest and seal; what remains is to give the file its name.
    pub fn seal(self, key: &MasterKey, sign_key: Option<&SignKey>) -> Result<(Sink, Sealed)> {
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
