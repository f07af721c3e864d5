//! Containers: keys, verification, extraction.

use std::path::{Path, PathBuf};
use std::time::Instant;

use pyo3::prelude::*;
use serde_json::{Value, json};

use crate::convert::extract::{self, ExtractOptions};
use crate::convert::resign;
use crate::error::{Error, Result};
use crate::formats::axm;
use crate::formats::axm::layout::SourceFile;
use crate::formats::axm::reader::Expected;
use crate::os;
use crate::progress::Progress;
use crate::py::convert::Plan;
use crate::py::errors::ToPy;
use crate::py::files::write_whole;
use crate::py::options::{Signing, cpus, parse_recipe, parse_tensor_types};
use crate::py::records::{Names, Shape, record};
use crate::py::sealed::SealedContainer;
use crate::py::watch::{detached, watched};
use crate::sign::attest::{self, Subject};
use crate::sign::ed25519::{self, SignKey};
use crate::sign::keys::{self, MasterKey};
use crate::sign::{Hash, from_hex, to_hex};

record! {
    /// What a verification found. A verification that fails raises VerificationError instead.
    ///
    /// `verified` is true if the container was held against a master key, a public key or a fingerprint. Without any of
    /// them (``use_key=False``) it is false, and then only integrity is known: nothing is damaged, but anybody may have
    /// made the file.
    /// `authentic` is true if the tags were checked with the master key. `public_key` is the key of the Ed25519
    /// signature in the container; whose key it is, is known only if `public_key_checked` is true. `model` is the name
    /// in the metadata of the GGUF, `quant` the mix, `files` the name of the GGUF or of its parts, `sources` the files
    /// that were converted, and `source_digest` their digest. `revision` is the id and the commit of a model that came from
    /// the hub.
    Verification [path, verified, authentic, model, quant, bytes] {
        path: PathBuf,
        verified: bool,
        fingerprint: String,
        id: String,
        key_id: String,
        authentic: bool,
        public_key: Option<String>,
        public_key_checked: bool,
        fingerprint_checked: bool,
        model: Option<String>,
        quant: String,
        files: Names,
        sources: Names,
        source_digest: String,
        revision: Option<String>,
        bytes: u64,
        seconds: f64,
    }
}

record! {
    /// A tensor of a container. `bytes` counts the base plane, `residual_bytes` the residual plane, which has
    /// `residual_bits` bits per weight (0 for none); `offset` is that of the base plane in the container, whose shards have
    /// `shard_weights` weights each.
    ContainerTensor {
        name: String,
        shape: Shape,
        r#type: String,
        bytes: u64,
        residual_bits: u64,
        residual_bytes: u64,
        offset: u64,
        shard_weights: u64,
    }
}

record! {
    /// The signed header of a container. `id` and `key_id` are hex digits; `files` has the name of the GGUF, or of its
    /// parts.
    ContainerHeader [arch, method, quant, seed, n_shards, file_bytes] {
        arch: String,
        id: String,
        fingerprint: String,
        key_id: String,
        public_key: Option<String>,
        tool: String,
        method: String,
        quant: String,
        seed: u64,
        source_digest: String,
        revision: Option<String>,
        files: Names,
        n_shards: usize,
        file_bytes: u64,
    }
}

/// What a container is held against, from `srd_rs.options.Checks`.
#[derive(FromPyObject)]
pub struct Checks {
    key_file: Option<PathBuf>,
    /// False if the user wants no master key, and then integrity alone is enough.
    use_key: bool,
    public_key: Option<PathBuf>,
    fingerprint: Option<String>,
    /// The name of the model or of its GGUF.
    name: Option<String>,
}

impl Checks {
    /// The master key. A default key that is not the container's does not matter to a third party who has given a
    /// public key or a fingerprint.
    fn key(&self, container: &axm::Container) -> Result<Option<MasterKey>> {
        if !self.use_key {
            return Ok(None);
        }
        let found = keys::find(self.key_file.as_deref()).map(|found| found.map(|(key, _)| key));
        let has_other_anchor = self.public_key.is_some() || self.fingerprint.is_some();
        if self.key_file.is_none() && has_other_anchor {
            return Ok(found.ok().flatten().filter(|key| key.id() == container.preamble.key_id));
        }
        found
    }

    fn expected<'a>(&self, key: Option<&'a MasterKey>) -> Result<Expected<'a>> {
        let fingerprint = self.fingerprint.as_deref().map(parse_fingerprint).transpose()?;
        let public_key = self.public_key.as_deref().map(ed25519::read_public).transpose()?;
        Ok(Expected { key, public_key, fingerprint, name: self.name.clone(), integrity_only: !self.use_key })
    }
}

fn parse_fingerprint(text: &str) -> Result<Hash> {
    from_hex(text.trim().strip_prefix("sha256:").unwrap_or(text.trim())).ok_or_else(|| {
        Error::usage(
            format!("'{text}' is not a fingerprint"),
            "Give the 64 hexadecimal digits that convert printed",
        )
    })
}

/// Makes a master key file, by default the default one. Returns its path and the id of the key.
#[pyfunction]
#[pyo3(signature = (path=None))]
pub fn make_master_key(py: Python<'_>, path: Option<PathBuf>) -> PyResult<(PathBuf, String)> {
    detached(py, || {
        let is_default = path.is_none();
        let path = path.map_or_else(keys::default_file, Ok)?;
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
        if let Some(folder) = folder.filter(|f| !f.exists()) {
            // Nobody else has to see what lies in the folder of the default key file.
            let made =
                if is_default { os::create_private_folder(folder) } else { std::fs::create_dir_all(folder) };
            made.map_err(|e| Error::io(folder, "create", e))?;
        }
        let key = MasterKey::generate()?;
        key.save(&path)?;
        Ok((path, to_hex(&key.id())))
    })
}

/// Makes an Ed25519 key pair in two PEM files. Returns the public key in hex.
#[pyfunction]
pub fn make_sign_key(py: Python<'_>, private: PathBuf, public: PathBuf) -> PyResult<String> {
    detached(py, || SignKey::generate(&private, &public).map(|key| to_hex(&key.public())))
}

/// An opened .axm container or manifest file; everything but its shards has been checked.
#[pyclass(frozen, module = "srd_rs._core")]
pub struct Container {
    inner: axm::Container,
}

/// Opens a container or a manifest file.
#[pyfunction]
pub fn open_container(py: Python<'_>, path: PathBuf) -> PyResult<Container> {
    detached(py, || axm::Container::open(path)).map(|inner| Container { inner })
}

#[pymethods]
impl Container {
    #[getter]
    fn header(&self) -> ContainerHeader {
        let (c, h) = (&self.inner, &self.inner.header);
        ContainerHeader {
            arch: h.arch.clone(),
            id: h.container.clone(),
            fingerprint: to_hex(&c.fingerprint),
            key_id: to_hex(&c.preamble.key_id),
            public_key: c.public_key().map(|k| to_hex(&k)),
            tool: h.tool.clone(),
            method: h.method.clone(),
            quant: h.quant.clone(),
            seed: h.seed,
            source_digest: h.source_digest.clone(),
            revision: h.revision.clone(),
            files: Names(h.files.iter().map(|f| f.name.clone()).collect()),
            n_shards: c.layout.shards.len(),
            file_bytes: c.layout.file_bytes,
        }
    }

    #[getter]
    fn tensors(&self) -> Vec<ContainerTensor> {
        let layout = &self.inner.layout;
        let tensors = self.inner.header.tensors.iter().zip(&layout.first);
        tensors
            .map(|(t, &first)| ContainerTensor {
                name: t.name.clone(),
                shape: Shape(t.ne.clone()),
                r#type: t.ty.clone(),
                bytes: t.base.bytes,
                residual_bits: t.residual.as_ref().map_or(0, |r| r.bits),
                residual_bytes: t.residual.as_ref().map_or(0, |r| r.bytes),
                offset: layout.shards[first].offset,
                shard_weights: t.shard_weights,
            })
            .collect()
    }

    /// Verifies the shards, or the GGUF files in `paths` against this container or manifest file.
    /// `progress(done_bytes, total_bytes)` is called about 20 times a second.
    #[pyo3(signature = (checks, paths, threads=None, progress=None))]
    fn verify(
        &self,
        py: Python<'_>,
        checks: Checks,
        paths: Vec<PathBuf>,
        threads: Option<usize>,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Verification> {
        let threads = threads.unwrap_or_else(cpus);
        let key = detached(py, || checks.key(&self.inner))?;
        let expected = detached(py, || checks.expected(key.as_ref()))?;
        let (state, start, c) = (Progress::default(), Instant::now(), &self.inner);
        let base = || c.header.tensors.iter().map(|t| t.base.bytes).sum();
        let total: u64 = if paths.is_empty() { c.shard_bytes() } else { base() };
        let work = || match paths.is_empty() {
            true => c.verify(&expected, threads, &state),
            false => c.verify_gguf(&paths, &expected, threads, &state),
        };
        watched(py, work, || state.cancel(), || tick(py, &progress, &state, total))?;
        Ok(Verification {
            path: paths.first().unwrap_or(&c.path).clone(),
            fingerprint: to_hex(&c.fingerprint),
            id: c.header.container.clone(),
            key_id: to_hex(&c.preamble.key_id),
            verified: expected.has_anchor(),
            authentic: key.is_some(),
            public_key: c.public_key().map(|k| to_hex(&k)),
            public_key_checked: checks.public_key.is_some(),
            fingerprint_checked: checks.fingerprint.is_some(),
            model: c.model_name.clone(),
            quant: c.header.quant.clone(),
            files: Names(c.header.files.iter().map(|f| f.name.clone()).collect()),
            sources: Names(c.header.sources.iter().map(|f| f.name.clone()).collect()),
            source_digest: c.header.source_digest.clone(),
            revision: c.header.revision.clone(),
            bytes: state.done(),
            seconds: start.elapsed().as_secs_f64(),
        })
    }

    /// Plans files from the container, which must have been verified.
    #[pyo3(signature = (output, quant=None, alpha=None, safetensors=false, tensor_types=None))]
    fn plan_extract(
        &self,
        py: Python<'_>,
        output: PathBuf,
        quant: Option<String>,
        alpha: Option<f32>,
        safetensors: bool,
        tensor_types: Option<Vec<String>>,
    ) -> PyResult<Plan> {
        detached(py, || {
            let recipe = quant.as_deref().map(parse_recipe).transpose()?;
            let overrides = parse_tensor_types(&tensor_types.unwrap_or_default())?;
            let options = ExtractOptions { output, recipe, overrides, alpha, safetensors };
            extract::plan(&self.inner, &options).map(|inner| Plan { inner })
        })
    }

    /// Copies the container to `output` and signs the copy with other keys; `checks` names the old key. `drop_signature`
    /// allows that an Ed25519 signature is lost.
    #[pyo3(signature = (checks, output, key_file=None, sign_key=None, threads=None, overwrite=false, drop_signature=false, progress=None))]
    #[allow(clippy::too_many_arguments)]
    fn resign(
        &self,
        py: Python<'_>,
        checks: Checks,
        output: PathBuf,
        key_file: Option<PathBuf>,
        sign_key: Option<PathBuf>,
        threads: Option<usize>,
        overwrite: bool,
        drop_signature: bool,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<SealedContainer> {
        let threads = threads.unwrap_or_else(cpus);
        if self.inner.public_key().is_some() && sign_key.is_none() && !drop_signature {
            let what = format!(
                "{} has an Ed25519 signature, which covers its old fingerprint and would be lost",
                self.inner.path.display()
            );
            let fix = "Sign again with --sign-key, or use --drop-signature if the signature may be lost";
            return Err(Error::usage(what, fix)).py(py);
        }
        let old = detached(py, || checks.key(&self.inner))?;
        let expected = detached(py, || checks.expected(old.as_ref()))?;
        let (key, origin, sign_key) = detached(py, || Signing { key_file, sign_key }.load())?;
        let state = Progress::default();
        let with = (&key, sign_key.as_ref());
        let work = || resign::resign(&self.inner, &expected, &output, with, (threads, overwrite), &state);
        let total = self.inner.shard_bytes();
        let sealed = watched(py, work, || state.cancel(), || tick(py, &progress, &state, total))?;
        Ok(SealedContainer::new(sealed, Some(&origin)))
    }

    /// Writes the manifest file, from the container that is open.
    #[pyo3(signature = (output, overwrite=false))]
    fn detach(&self, py: Python<'_>, output: PathBuf, overwrite: bool) -> PyResult<()> {
        detached(py, || write_whole(&output, &self.inner.detach()?, overwrite))
    }

    /// Writes an in-toto statement in a DSSE envelope to `output`. The statement is on the GGUF files in `paths`, or on
    /// the container if there are none; `verified` goes into the predicate. The files are read once more, and every byte
    /// that goes into their hashes is checked again.
    #[pyo3(signature = (paths, verified, sign_key, output, overwrite=false, progress=None))]
    #[allow(clippy::too_many_arguments)]
    fn attest(
        &self,
        py: Python<'_>,
        paths: Vec<PathBuf>,
        verified: &Bound<'_, Verification>,
        sign_key: Option<PathBuf>,
        output: PathBuf,
        overwrite: bool,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<()> {
        let (state, c, verified) = (Progress::default(), &self.inner, verified.get());
        let total = match paths.is_empty() {
            true => c.layout.file_bytes,
            false => c.header.files.iter().map(|f| f.bytes).sum(),
        };
        let work = || {
            let key = sign_key.as_deref().map(SignKey::read).transpose()?;
            let subjects: Vec<_> = match paths.is_empty() {
                true => vec![subject(&c.path, c.whole_hash(&state)?)],
                false => {
                    let hashes = c.whole_hash_of_gguf(&paths, &state)?;
                    paths.iter().zip(hashes).map(|(path, hash)| subject(path, hash)).collect()
                }
            };
            let statement = attest::statement(&subjects, self.predicate(verified));
            let envelope = format!("{}\n", attest::envelope(&statement, key.as_ref()));
            write_whole(&output, envelope.as_bytes(), overwrite)
        };
        watched(py, work, || state.cancel(), || tick(py, &progress, &state, total))
    }
}

impl Container {
    /// What a reader of a statement needs to know of a verification; how long the verification took is no part of it.
    fn predicate(&self, verified: &Verification) -> Value {
        let verified = json!({
            "fingerprint": verified.fingerprint,
            "container": verified.id,
            "key_id": verified.key_id,
            "verified": verified.verified,
            "authentic": verified.authentic,
            "public_key": verified.public_key,
            "public_key_checked": verified.public_key_checked,
            "fingerprint_checked": verified.fingerprint_checked,
            "model": verified.model,
            "quant": verified.quant,
            "files": verified.files.0,
            "sources": verified.sources.0,
            "source_digest": verified.source_digest,
        });
        let h = &self.inner.header;
        let sources: Vec<_> = h.sources.iter().map(source_descriptor).collect();
        json!({
            "tool": h.tool,
            "model": self.inner.model_name,
            "files": h.files.iter().map(|f| f.name.as_str()).collect::<Vec<_>>(),
            "method": h.method,
            "seed": h.seed,
            "recipe": h.quant,
            "architecture": h.arch,
            "container": h.container,
            "fingerprint": to_hex(&self.inner.fingerprint),
            "keyId": to_hex(&self.inner.preamble.key_id),
            "sourceDigest": h.source_digest,
            "revision": h.revision,
            "sources": sources,
            "verified": verified,
        })
    }
}

/// A source file as in-toto describes a resource. A `digest` of in-toto is the digest of a whole file, so the digest of the
/// header of a weight file has another name.
fn source_descriptor(source: &SourceFile) -> Value {
    let mut out = json!({"name": source.name, "bytes": source.bytes});
    if let Some(sha256) = source.whole_sha256() {
        out["digest"] = json!({ "sha256": sha256 });
    }
    if source.hashed_bytes != source.bytes {
        out["annotations"] = json!({"headerBytes": source.hashed_bytes, "headerSha256": source.sha256});
    }
    out
}

fn subject(path: &Path, sha256: Hash) -> Subject {
    Subject { name: path.file_name().unwrap_or_default().to_string_lossy().into_owned(), sha256 }
}

fn tick(py: Python<'_>, progress: &Option<Py<PyAny>>, state: &Progress, total: u64) -> PyResult<()> {
    match progress {
        Some(f) => f.call1(py, (state.done(), total)).map(drop),
        None => Ok(()),
    }
}
