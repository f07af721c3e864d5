//! Containers: keys, verification, extraction.

use std::path::{Path, PathBuf};
use std::time::Instant;

use pyo3::prelude::*;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::convert::extract::{self, ExtractOptions};
use crate::convert::resign;
use crate::error::{Error, Result};
use crate::formats::axm;
use crate::formats::axm::reader::Expected;
use crate::formats::sink::Sink;
use crate::progress::Progress;
use crate::py::convert::{Plan, parse_recipe};
use crate::py::errors::ToPy;
use crate::py::watch::watched;
use crate::quant::recipe::Overrides;
use crate::sign::attest::{self, Subject};
use crate::sign::ed25519::{self, SignKey};
use crate::sign::keys::{self, MasterKey, Origin};
use crate::sign::{Hash, from_hex, to_hex};

/// The keys that sign a container.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signing {
    key_file: Option<PathBuf>,
    sign_key: Option<PathBuf>,
}

impl Signing {
    pub fn parse(text: &str) -> Result<Self> {
        serde_json::from_str(text).map_err(|e| Error::usage(format!("signing: {e}"), "Report this"))
    }

    /// Loads the master key, which is made on first use, says where it came from, and loads the Ed25519 key if one is
    /// named.
    pub fn load(&self) -> Result<(MasterKey, Origin, Option<SignKey>)> {
        let sign_key = self.sign_key.as_deref().map(SignKey::read).transpose()?;
        let (key, origin) = keys::find_or_make(self.key_file.as_deref())?;
        Ok((key, origin, sign_key))
    }
}

/// `environment`, `file` or `made`, and the path.
pub fn origin_json(origin: &Origin) -> Value {
    match origin {
        Origin::Environment => json!({"from": "environment", "path": null}),
        Origin::File(path) => json!({"from": "file", "path": path}),
        Origin::Made(path) => json!({"from": "made", "path": path}),
    }
}

/// What a container is held against.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Checks {
    key_file: Option<PathBuf>,
    /// False if the user wants no master key, and then integrity alone is enough.
    use_key: bool,
    public_key: Option<PathBuf>,
    fingerprint: Option<String>,
    /// The name of the model or of its GGUF.
    name: Option<String>,
}

impl Checks {
    fn parse(text: &str) -> Result<Self> {
        let checks: Self =
            serde_json::from_str(text).map_err(|e| Error::usage(format!("checks: {e}"), "Report this"))?;
        if !checks.use_key && checks.key_file.is_some() {
            return Err(Error::usage(
                "a key file was given, and no key is wanted",
                "Give only one of the two options",
            ));
        }
        Ok(checks)
    }

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

/// Makes a master key file, by default the default one. Returns JSON: path and key id.
#[pyfunction]
#[pyo3(signature = (path=None))]
pub fn make_master_key(py: Python<'_>, path: Option<PathBuf>) -> PyResult<String> {
    let make = || {
        let path = path.map_or_else(keys::default_file, Ok)?;
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
        if let Some(folder) = folder.filter(|f| !f.exists()) {
            std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, "create", e))?;
        }
        let key = MasterKey::generate()?;
        key.save(&path)?;
        Ok(json!({"path": path, "key_id": to_hex(&key.id())}).to_string())
    };
    make().py(py)
}

/// Makes an Ed25519 key pair in two PEM files. Returns the public key in hex.
#[pyfunction]
pub fn make_sign_key(py: Python<'_>, private: PathBuf, public: PathBuf) -> PyResult<String> {
    SignKey::generate(&private, &public).map(|key| to_hex(&key.public())).py(py)
}

/// An opened .axm container or manifest file; everything but its shards has been checked.
#[pyclass(frozen)]
pub struct Container {
    inner: axm::Container,
}

/// Opens a container or a manifest file.
#[pyfunction]
pub fn open_container(py: Python<'_>, path: PathBuf) -> PyResult<Container> {
    py.detach(|| axm::Container::open(path)).py(py).map(|inner| Container { inner })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Extraction {
    output: PathBuf,
    quant: Option<String>,
    alpha: Option<f32>,
    safetensors: bool,
    tensor_types: Vec<String>,
}

#[pymethods]
impl Container {
    /// JSON: header, fingerprint, key id, public key, sizes.
    fn to_json(&self) -> String {
        let c = &self.inner;
        let mut out = serde_json::to_value(&c.header).expect("a header is plain data");
        let more = json!({
            "fingerprint": to_hex(&c.fingerprint),
            "key_id": to_hex(&c.preamble.key_id),
            "public_key": c.public_key().map(|k| to_hex(&k)),
            "detached": c.detached,
            "file_bytes": c.layout.file_bytes,
            "shard_bytes": c.shard_bytes(),
            "n_shards": c.layout.shards.len(),
            "data_offset": c.layout.data_offset,
            "manifest_offset": c.layout.manifest_offset,
            "base_offsets": c.layout.first.iter().map(|&i| c.layout.shards[i].offset).collect::<Vec<_>>(),
        });
        if let (Value::Object(out), Value::Object(more)) = (&mut out, more) {
            out.extend(more);
        }
        out.to_string()
    }

    /// Verifies the shards, or the GGUF files in `paths` against this container or manifest file.
    /// `checks` is JSON; `progress(done_bytes, total_bytes)` is called about 20 times a second. Returns JSON.
    #[pyo3(signature = (checks, paths, threads, progress=None))]
    fn verify(
        &self,
        py: Python<'_>,
        checks: &str,
        paths: Vec<PathBuf>,
        threads: usize,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<String> {
        let checks = Checks::parse(checks).py(py)?;
        let key = checks.key(&self.inner).py(py)?;
        let expected = checks.expected(key.as_ref()).py(py)?;
        let (state, start, c) = (Progress::default(), Instant::now(), &self.inner);
        let base = || c.header.tensors.iter().map(|t| t.base.bytes).sum();
        let total: u64 = if paths.is_empty() { c.shard_bytes() } else { base() };
        let work = || match paths.is_empty() {
            true => c.verify(&expected, threads, &state),
            false => c.verify_gguf(&paths, &expected, threads, &state),
        };
        watched(py, work, || state.cancel(), || tick(py, &progress, &state, total))?;
        Ok(json!({
            "fingerprint": to_hex(&c.fingerprint),
            "container": c.header.container,
            "key_id": to_hex(&c.preamble.key_id),
            "verified": expected.has_anchor(),
            "authentic": key.is_some(),
            "public_key": c.public_key().map(|k| to_hex(&k)),
            "public_key_checked": checks.public_key.is_some(),
            "fingerprint_checked": checks.fingerprint.is_some(),
            "model": c.model_name,
            "quant": c.header.quant,
            "files": c.header.files.iter().map(|f| f.name.as_str()).collect::<Vec<_>>(),
            "sources": c.header.sources.iter().map(|f| f.name.as_str()).collect::<Vec<_>>(),
            "source_digest": c.header.source_digest,
            "bytes": state.done(),
            "seconds": start.elapsed().as_secs_f64(),
        })
        .to_string())
    }

    /// Plans files from the container, which must have been verified.
    fn plan_extract(&self, py: Python<'_>, options: &str) -> PyResult<Plan> {
        let build = || {
            let e: Extraction = serde_json::from_str(options)
                .map_err(|e| Error::usage(format!("options: {e}"), "Check the arguments of the call"))?;
            let tensor_type = e.tensor_types.iter().map(|t| Overrides::parse_tensor_type(t));
            let options = ExtractOptions {
                output: e.output,
                recipe: e.quant.as_deref().map(parse_recipe).transpose()?,
                overrides: Overrides {
                    tensor_type: tensor_type.collect::<Result<_>>()?,
                    ..Overrides::default()
                },
                alpha: e.alpha,
                safetensors: e.safetensors,
            };
            extract::plan(&self.inner, &options).map(|inner| Plan { inner })
        };
        py.detach(build).py(py)
    }

    /// Signs the container with another key, and writes it to `output`. `checks` has the old key. `drop_signature`
    /// allows that an Ed25519 signature is lost. Returns JSON.
    #[pyo3(signature = (checks, output, signing, threads, overwrite, drop_signature=false, progress=None))]
    #[allow(clippy::too_many_arguments)]
    fn resign(
        &self,
        py: Python<'_>,
        checks: &str,
        output: PathBuf,
        signing: &str,
        threads: usize,
        overwrite: bool,
        drop_signature: bool,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<String> {
        let checks = Checks::parse(checks).py(py)?;
        let old = checks.key(&self.inner).py(py)?;
        let expected = checks.expected(old.as_ref()).py(py)?;
        let signing = Signing::parse(signing).py(py)?;
        if self.inner.public_key().is_some() && signing.sign_key.is_none() && !drop_signature {
            let what = format!(
                "{} has an Ed25519 signature, which covers its old fingerprint and would be lost",
                self.inner.path.display()
            );
            let fix = "Sign again with --sign-key, or use --drop-signature if the signature may be lost";
            return Err(Error::usage(what, fix)).py(py);
        }
        let (key, _, sign_key) = signing.load().py(py)?;
        let state = Progress::default();
        let with = (&key, sign_key.as_ref());
        let work = || resign::resign(&self.inner, &expected, &output, with, (threads, overwrite), &state);
        let total = self.inner.shard_bytes();
        let sealed = watched(py, work, || state.cancel(), || tick(py, &progress, &state, total))?;
        Ok(serde_json::to_string(&sealed).expect("plain data"))
    }

    /// Writes the manifest file, from the container that is open.
    #[pyo3(signature = (output, overwrite=false))]
    fn detach(&self, py: Python<'_>, output: PathBuf, overwrite: bool) -> PyResult<()> {
        let write = || write_file(&output, &self.inner.detach()?, overwrite);
        py.detach(write).py(py)
    }

    /// Writes an in-toto statement in a DSSE envelope to `output`. The statement is on the GGUF files in `paths`, or on
    /// the container if there are none; `verified`, which is JSON, goes into the predicate. The files are read once
    /// more, and every byte that goes into their hashes is checked again.
    #[pyo3(signature = (paths, verified, sign_key, output, overwrite=false, progress=None))]
    #[allow(clippy::too_many_arguments)]
    fn attest(
        &self,
        py: Python<'_>,
        paths: Vec<PathBuf>,
        verified: &str,
        sign_key: Option<PathBuf>,
        output: PathBuf,
        overwrite: bool,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<()> {
        let (state, c) = (Progress::default(), &self.inner);
        let verified: Value = serde_json::from_str(verified)
            .map_err(|e| Error::usage(format!("verified: {e}"), "Report this"))
            .py(py)?;
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
            write_file(&output, envelope.as_bytes(), overwrite)
        };
        watched(py, work, || state.cancel(), || tick(py, &progress, &state, total))
    }
}

impl Container {
    fn predicate(&self, verified: Value) -> Value {
        let h = &self.inner.header;
        // A `digest` of in-toto is the digest of a whole file, so that of a weight file's header has another name.
        let sources: Vec<_> = h
            .sources
            .iter()
            .map(|s| match s.hashed_bytes == s.bytes {
                true => json!({"name": s.name, "bytes": s.bytes, "digest": {"sha256": s.sha256}}),
                false => json!({
                    "name": s.name,
                    "bytes": s.bytes,
                    "annotations": {"headerBytes": s.hashed_bytes, "headerSha256": s.sha256},
                }),
            })
            .collect();
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
            "sources": sources,
            "verified": verified,
        })
    }
}

fn subject(path: &Path, sha256: Hash) -> Subject {
    Subject { name: path.file_name().unwrap_or_default().to_string_lossy().into_owned(), sha256 }
}

/// Writes a small file, whole or not at all.
fn write_file(output: &Path, bytes: &[u8], overwrite: bool) -> Result<()> {
    let sink = Sink::create(output, bytes.len() as u64, overwrite)?;
    sink.write_at(bytes, 0)?;
    sink.commit()
}

fn tick(py: Python<'_>, progress: &Option<Py<PyAny>>, state: &Progress, total: u64) -> PyResult<()> {
    match progress {
        Some(f) => f.call1(py, (state.done(), total)).map(drop),
        None => Ok(()),
    }
}
