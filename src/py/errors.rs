//! [`Error`] as Python exceptions: one tree, each class also what a Python user would catch.

use pyo3::exceptions::{PyException, PyKeyboardInterrupt, PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTuple, PyType};

use crate::error::{Error, Place};

struct Classes {
    base: Py<PyType>,
    format: Py<PyType>,
    model: Py<PyType>,
    non_finite: Py<PyType>,
    usage: Py<PyType>,
    verification: Py<PyType>,
    io: Py<PyType>,
}

static CLASSES: PyOnceLock<Classes> = PyOnceLock::new();

/// A class of `srd_rs.errors` with several bases, which only `type(name, bases, dict)` can make.
fn class(py: Python<'_>, name: &str, doc: &str, bases: &[&Bound<'_, PyType>]) -> PyResult<Py<PyType>> {
    let dict = PyDict::new(py);
    dict.set_item("__module__", "srd_rs.errors")?;
    dict.set_item("__doc__", doc)?;
    let made = py.get_type::<PyType>().call1((name, PyTuple::new(py, bases)?, dict))?;
    Ok(made.cast_into::<PyType>()?.unbind())
}

fn make(py: Python<'_>) -> PyResult<Classes> {
    let value = py.get_type::<PyValueError>();
    let os = py.get_type::<PyOSError>();
    let base = class(py, "SrdError", "Base of every error srd_rs raises.", &[&py.get_type::<PyException>()])?;
    let sub =
        |name: &str, doc: &str, other: &Bound<'_, PyType>| class(py, name, doc, &[base.bind(py), other]);
    Ok(Classes {
        format: sub("FormatError", "A file breaks its own format.", &value)?,
        model: sub(
            "ModelError",
            "The files are well formed, but are not a model that can be converted as asked.",
            &value,
        )?,
        non_finite: sub(
            "NonFiniteError",
            "A weight is NaN, infinite, or too large for the scales of the chosen type.",
            &value,
        )?,
        usage: sub("UsageError", "The caller asked for something that makes no sense.", &value)?,
        verification: sub(
            "VerificationError",
            "A signed file is not what was signed: damaged, altered, or signed with another key.",
            &value,
        )?,
        io: sub("SrdIOError", "The operating system refused.", &os)?,
        base: base.clone_ref(py),
    })
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    let classes = CLASSES.get_or_try_init(py, || make(py))?;
    let named = [
        ("SrdError", &classes.base),
        ("FormatError", &classes.format),
        ("ModelError", &classes.model),
        ("NonFiniteError", &classes.non_finite),
        ("UsageError", &classes.usage),
        ("VerificationError", &classes.verification),
        ("SrdIOError", &classes.io),
    ];
    named.into_iter().try_for_each(|(name, class)| module.add(name, class.bind(py)))
}

/// The exception for an error; `file`, `tensor` and `offset` become its attributes where known.
pub fn to_py(py: Python<'_>, error: Error) -> PyErr {
    let classes = match CLASSES.get_or_try_init(py, || make(py)) {
        Ok(classes) => classes,
        Err(e) => return e,
    };
    let (class, place) = match &error {
        Error::Io { place, .. } => (&classes.io, Some(place)),
        Error::Format { place, .. } => (&classes.format, Some(place)),
        Error::Model { place, .. } => (&classes.model, Some(place)),
        Error::NonFinite { place, .. } => (&classes.non_finite, Some(place)),
        Error::Verification { place, .. } => (&classes.verification, Some(place)),
        Error::Usage { .. } => (&classes.usage, None),
        Error::Interrupted => return PyKeyboardInterrupt::new_err(error.to_string()),
    };
    let raised = PyErr::from_type(class.bind(py).clone(), error.to_string());
    if let Err(e) = annotate(&raised, py, place) {
        return e;
    }
    raised
}

fn annotate(raised: &PyErr, py: Python<'_>, place: Option<&Place>) -> PyResult<()> {
    let value = raised.value(py);
    value.setattr("file", place.and_then(|p| p.file.as_ref()))?;
    value.setattr("tensor", place.and_then(|p| p.tensor.as_ref()))?;
    value.setattr("offset", place.and_then(|p| p.offset))
}

/// `result.py(py)?` instead of a match at every call.
pub trait ToPy<T> {
    fn py(self, py: Python<'_>) -> PyResult<T>;
}

impl<T> ToPy<T> for crate::Result<T> {
    fn py(self, py: Python<'_>) -> PyResult<T> {
        self.map_err(|e| to_py(py, e))
    }
}
