//! What is in a file, without its weights.

use std::path::PathBuf;

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyTuple};

use crate::error::{Error, Place, Result};
use crate::formats::gguf::{Gguf, split};
use crate::input::Input;
use crate::model::check::check_metadata;
use crate::model::source::Source;
use crate::py::metadata;
use crate::py::remote::{RemoteFiles, open_checkpoint};
use crate::py::watch::{detached, watched};

/// `(name, dtype, shape, shard file name, offset in the file, bytes)` of every tensor of a checkpoint folder or
/// .safetensors file, in file order. The weight files are `remote` where they are given.
#[pyfunction]
#[pyo3(signature = (path, remote=None))]
pub fn read_checkpoint_layout<'py>(
    py: Python<'py>,
    path: PathBuf,
    remote: Option<&RemoteFiles>,
) -> PyResult<Bound<'py, PyList>> {
    let remote = remote.map(|r| &r.inner);
    let cancel = || remote.into_iter().for_each(|r| r.cancel());
    let checkpoint = watched(py, || open_checkpoint(&path, remote), cancel, || Ok(()))?;
    let shards: Vec<String> = checkpoint.shards().iter().map(Input::name).collect();
    let rows = checkpoint
        .tensors()
        .iter()
        .map(|t| {
            let shape = PyTuple::new(py, &t.shape)?;
            (&t.name, t.dtype.name(), shape, &shards[t.shard], t.offset, t.bytes).into_pyobject(py)
        })
        .collect::<PyResult<Vec<_>>>()?;
    PyList::new(py, rows)
}

/// The bytes of small tensors of a checkpoint by name. A tensor of more than `most` bytes is refused: no weight passes
/// through Python, but a few formats keep shapes in a tensor.
#[pyfunction]
#[pyo3(signature = (path, names, most, remote=None))]
pub fn read_small_tensors<'py>(
    py: Python<'py>,
    path: PathBuf,
    names: Vec<String>,
    most: u64,
    remote: Option<&RemoteFiles>,
) -> PyResult<Bound<'py, PyDict>> {
    let remote = remote.map(|r| &r.inner);
    let read = detached(py, || {
        let source = Source::from_checkpoint(&open_checkpoint(&path, remote)?);
        let read_one = |name: &String| {
            let place = || Place::file(&path).tensor(name);
            let Some(index) = source.find(name) else {
                return Err(Error::model(place(), "is missing", "Download the checkpoint again"));
            };
            if source.bytes(index) > most {
                let what = format!("has {} bytes, at most {most} are read", source.bytes(index));
                return Err(Error::model(place(), what, "Download the checkpoint again"));
            }
            let mut bytes = vec![0; source.bytes(index) as usize];
            source.read_raw(index, 0, &mut bytes)?;
            Ok(bytes)
        };
        names.iter().map(read_one).collect::<Result<Vec<_>>>()
    })?;
    let found = PyDict::new(py);
    for (name, bytes) in names.iter().zip(&read) {
        found.set_item(name, PyBytes::new(py, bytes))?;
    }
    Ok(found)
}

/// Header of a GGUF: `version`, `alignment`, and `data_offset` of the file or of the first part of a split GGUF,
/// `file_size` of all parts together, `metadata` as (key, kind, value) with arrays cut to `max_items` values, `lengths`
/// (key -> full length) for the arrays, `tensors` as (name, ne, type, offset, bytes), and `parts` as (path, number of
/// tensors): the tensors of the first part come first.
#[pyfunction]
#[pyo3(signature = (path, max_items=None))]
pub fn read_gguf<'py>(
    py: Python<'py>,
    path: PathBuf,
    max_items: Option<usize>,
) -> PyResult<Bound<'py, PyDict>> {
    let gguf = detached(py, || Gguf::open(&path))?;
    let first = &gguf.parts()[0];
    let out = PyDict::new(py);
    out.set_item("version", first.version)?;
    out.set_item("alignment", first.alignment)?;
    out.set_item("data_offset", first.data_offset)?;
    out.set_item("file_size", gguf.parts().iter().map(|p| p.file_size).sum::<u64>())?;
    let (entries, lengths) = metadata::to_py(py, gguf.metadata(), max_items.unwrap_or(usize::MAX))?;
    out.set_item("metadata", entries)?;
    out.set_item("lengths", lengths)?;
    let tensors = gguf
        .tensors()
        .map(|(_, t)| (&t.name, PyTuple::new(py, &t.ne)?, t.ty.name(), t.offset, t.bytes).into_pyobject(py))
        .collect::<PyResult<Vec<_>>>()?;
    out.set_item("tensors", PyList::new(py, tensors)?)?;
    let parts = gguf.parts().iter().map(|p| (p.path.clone(), p.tensors.len()));
    out.set_item("parts", parts.collect::<Vec<_>>())?;
    Ok(out)
}

/// Reads the headers of a GGUF and checks what llama.cpp takes for granted of its metadata.
#[pyfunction]
pub fn check_gguf_model(py: Python<'_>, path: PathBuf) -> PyResult<()> {
    detached(py, || {
        let gguf = Gguf::open(&path)?;
        check_metadata(gguf.metadata(), gguf.tensors().map(|(_, tensor)| tensor), gguf.path())
    })
}

/// The first part of a split GGUF that `path` names a part of, or `path` itself for any other name. No file is read.
#[pyfunction]
pub fn first_part(path: PathBuf) -> PathBuf {
    split::first_part(&path)
}

/// The path of part `index` (from 0) of the `count` parts of the GGUF `whole`.
#[pyfunction]
pub fn part_path(whole: PathBuf, index: usize, count: usize) -> PathBuf {
    split::part_path(&whole, index, count)
}
