//! Sidecars and hydration.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::prelude::*;

use crate::error::{Error, Result};
use crate::formats::gguf::Gguf;
use crate::met;
use crate::met::hydrate::{self, HydrateOptions};
use crate::met::policy::Intent;
use crate::met::sidecar::{self, FileFacts, Known, Options, Part, Sidecar};
use crate::met::slots::Split;
use crate::progress::Progress;
use crate::py::files::write_whole;
use crate::py::records::record;
use crate::py::watch::{detached, watched};

/// Measures a GGUF, or the one a container holds, and returns its sidecar as JSON; with `output`, writes it there as well. `digest`: read
/// the whole file for its SHA-256. `projector`: the projector beside the GGUF. `known`: what is known from the conversion, as JSON
/// (`errors`, `klds`, `expert_heat`); without it, what the sidecar beside the file knows is kept if that sidecar fits.
#[pyfunction]
#[pyo3(signature = (path, output=None, slots=None, fingerprint=None, digest=true, overwrite=false, projector=None, known=None))]
#[expect(clippy::too_many_arguments, reason = "they are the options of the command")]
pub fn met_sidecar(
    py: Python<'_>,
    path: PathBuf,
    output: Option<PathBuf>,
    slots: Option<String>,
    fingerprint: Option<String>,
    digest: bool,
    overwrite: bool,
    projector: Option<PathBuf>,
    known: Option<String>,
) -> PyResult<String> {
    let state = Progress::default();
    let build = || {
        let (gguf, signed) = met::open::open(&path)?;
        // Of a container only the GGUF's header is at hand, so there is nothing to digest.
        let digest = (digest && signed.is_none()).then_some(&state);
        let known = match &known {
            Some(json) => serde_json::from_str(json).map_err(|e| {
                Error::usage(format!("known: {e}"), "Pass 'errors', 'klds' and 'expert_heat'")
            })?,
            None => known_beside(&path, &gguf),
        };
        let options = Options {
            fingerprint: fingerprint.or(signed),
            projector: projector.as_deref().map(FileFacts::of).transpose()?,
            known,
            ..Options::default()
        };
        let measured = measure(&gguf, slots.as_deref(), options, digest)?;
        let text = measured.to_json();
        if let Some(output) = &output {
            write_whole(output, text.as_bytes(), overwrite)?;
        }
        Ok(text)
    };
    watched(py, build, || state.cancel(), || Ok(()))
}

/// The path of the sidecar beside a GGUF. No file is read.
#[pyfunction]
pub fn sidecar_path(gguf: PathBuf) -> PathBuf {
    sidecar::sidecar_path(&gguf)
}

/// Checks that the sidecar (by default the one beside the GGUF) is that of the GGUF and of its weights.
#[pyfunction]
#[pyo3(signature = (path, sidecar=None))]
pub fn met_check(py: Python<'_>, path: PathBuf, sidecar: Option<PathBuf>) -> PyResult<()> {
    let state = Progress::default();
    let check = || {
        let gguf = Gguf::open(&path)?;
        let place = sidecar.unwrap_or_else(|| sidecar::sidecar_path(&path));
        let read = Sidecar::read(&place)?;
        read.check(&gguf, &place)?;
        read.check_weights(&gguf, &place, &state)
    };
    watched(py, check, || state.cancel(), || Ok(()))
}

/// What the sidecar beside a GGUF knows from the conversion; nothing if there is none, or if the sidecar is of another file.
fn known_beside(path: &Path, gguf: &Gguf) -> Known {
    let place = sidecar::sidecar_path(path);
    let read = Sidecar::read(&place).ok().filter(|sidecar| sidecar.check(gguf, &place).is_ok());
    read.map(|sidecar| sidecar.known()).unwrap_or_default()
}

fn measure(
    gguf: &Gguf,
    slots: Option<&str>,
    mut options: Options,
    digest: Option<&Progress>,
) -> Result<Sidecar> {
    let mut measured = Sidecar::measure(gguf, &options)?;
    if let Some(slots) = slots {
        options.split = Some(Split::parse(slots, measured.model.n_layer)?);
        measured = Sidecar::measure(gguf, &options)?;
    }
    if let Some(progress) = digest {
        let facts = std::iter::once(&mut measured.file).chain(&mut measured.more_files);
        for (facts, file) in facts.zip(gguf.parts()) {
            facts.sha256 = Some(sidecar::file_sha256(file, progress)?);
        }
    }
    Ok(measured)
}

record! {
    /// What a hydration did, in bytes of whole pages.
    ///
    /// `wanted_bytes` is what the intent needs, `hydrated_bytes` what of it the budget allowed (all in memory at the
    /// end), `read_bytes` what of that was not in memory before, `locked_bytes` what is locked now.
    Hydration {
        intent: String,
        wanted_bytes: u64,
        hydrated_bytes: u64,
        read_bytes: u64,
        locked_bytes: u64,
        seconds: f64,
    }
}

record! {
    /// A part of a file and how many of its bytes are in memory.
    ///
    /// `resident_bytes` is None where the kernel does not tell: the kernel tells only for files that one owns or may
    /// write.
    Residency {
        slot: String,
        bytes: u64,
        resident_bytes: Option<u64>,
    }
}

/// A GGUF with its sidecar. `close` lets its locked pages go.
#[pyclass(frozen, module = "srd_rs._core")]
pub struct Hydrator {
    inner: Mutex<Option<hydrate::Hydrator>>,
}

#[pymethods]
impl Hydrator {
    #[new]
    #[pyo3(signature = (path, sidecar=None))]
    fn new(py: Python<'_>, path: PathBuf, sidecar: Option<PathBuf>) -> PyResult<Self> {
        let opened = detached(py, || hydrate::Hydrator::open(&path, sidecar.as_deref()))?;
        Ok(Self { inner: Mutex::new(Some(opened)) })
    }

    /// The sidecar as JSON text.
    fn sidecar(&self, py: Python<'_>) -> PyResult<String> {
        self.with(py, |h| Ok(h.sidecar().to_json()))
    }

    /// Brings in what `intent` needs. `progress(done_bytes, total_bytes)` is called about 20 times a second.
    #[pyo3(signature = (intent, budget=None, lock=false, evict_others=false, progress=None))]
    fn hydrate(
        &self,
        py: Python<'_>,
        intent: &str,
        budget: Option<u64>,
        lock: bool,
        evict_others: bool,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Hydration> {
        let intent = detached(py, || Intent::parse(intent))?;
        let options = HydrateOptions { budget, lock, evict_others };
        let state = Progress::default();
        let work = || open(&mut self.guard())?.hydrate(intent, &options, &state);
        let tick = || match &progress {
            Some(f) => f.call1(py, (state.done(), state.total())).map(drop),
            None => Ok(()),
        };
        let outcome = watched(py, work, || state.cancel(), tick)?;
        Ok(Hydration {
            intent: outcome.intent.name().to_string(),
            wanted_bytes: outcome.wanted_bytes,
            hydrated_bytes: outcome.hydrated_bytes,
            read_bytes: outcome.read_bytes,
            locked_bytes: outcome.locked_bytes,
            seconds: outcome.seconds,
        })
    }

    /// Takes these parts out of memory: "embedding" or the name of a slot.
    fn evict(&self, py: Python<'_>, slots: Vec<String>) -> PyResult<()> {
        self.with(py, |h| {
            let parts = slots.iter().map(|s| Part::parse(s)).collect::<Result<Vec<_>>>()?;
            h.evict(&parts);
            Ok(())
        })
    }

    /// How much of each part is in memory.
    fn residency(&self, py: Python<'_>) -> PyResult<Vec<Residency>> {
        let parts = self.with(py, |h| h.residency())?;
        let part = |p: hydrate::Residency| Residency {
            slot: p.slot.to_string(),
            bytes: p.bytes,
            resident_bytes: p.resident_bytes,
        };
        Ok(parts.into_iter().map(part).collect())
    }

    fn locked_bytes(&self, py: Python<'_>) -> PyResult<u64> {
        self.with(py, |h| Ok(h.locked_bytes()))
    }

    fn close(&self, py: Python<'_>) {
        py.detach(|| self.guard().take());
    }
}

impl Hydrator {
    fn guard(&self) -> MutexGuard<'_, Option<hydrate::Hydrator>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T: Send>(
        &self,
        py: Python<'_>,
        f: impl FnOnce(&mut hydrate::Hydrator) -> Result<T> + Send,
    ) -> PyResult<T> {
        detached(py, || f(open(&mut self.guard())?))
    }
}

fn open(inner: &mut Option<hydrate::Hydrator>) -> Result<&mut hydrate::Hydrator> {
    inner.as_mut().ok_or_else(|| Error::usage("the hydrator is closed", "Open a new one"))
}
