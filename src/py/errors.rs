//! [`Error`] as Python exceptions: one tree, each class also what a Python user would catch.

use pyo3::exceptions::{
    PyBaseException, PyException, PyFileNotFoundError, PyKeyboardInterrupt, PyOSError, PyRuntimeError,
    PyValueError,
};
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
    not_found: Py<PyType>,
    internal: Py<PyType>,
}

static CLASSES: PyOnceLock<Classes> = PyOnceLock::new();

/// A class of `srd_rs.errors` with several bases, which only `type(name, bases, dict)` can make.
fn class(py: Python<'_>, name: &str, doc: &str, bases: &[&Bound<'_, PyType>]) -> PyResult<Py<PyType>> {
    let dict = PyDict::new(py);
    dict.set_item("__module__", "srd_rs.errors")?;
    dict.set_item("__doc__", doc)?;
    if bases.iter().any(|base| base.is(py.get_type::<PyOSError>())) {
        // OSError would put errno and file name in front of the message, which names both already.
        dict.set_item("__str__", py.get_type::<PyBaseException>().getattr("__str__")?)?;
    }
    if bases.iter().all(|base| base.is(py.get_type::<PyException>())) {
        // Errors that Python code raises have the attributes as well.
        for attribute in ["file", "tensor", "offset"] {
            dict.set_item(attribute, py.None())?;
        }
    }
    let made = py.get_type::<PyType>().call1((name, PyTuple::new(py, bases)?, dict))?;
    Ok(made.cast_into::<PyType>()?.unbind())
}

fn make(py: Python<'_>) -> PyResult<Classes> {
    let value = py.get_type::<PyValueError>();
    let os = py.get_type::<PyOSError>();
    let base = class(py, "SrdError", "Base of every error srd_rs raises.", &[&py.get_type::<PyException>()])?;
    let sub =
        |name: &str, doc: &str, other: &Bound<'_, PyType>| class(py, name, doc, &[base.bind(py), other]);
    let io = sub("SrdIOError", "The operating system refused.", &os)?;
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
        not_found: class(
            py,
            "SrdFileNotFoundError",
            "A file or folder does not exist.",
            &[io.bind(py), &py.get_type::<PyFileNotFoundError>()],
        )?,
        internal: sub(
            "InternalError",
            "The native module failed where it should not: a mistake in srd-rs.",
            &py.get_type::<PyRuntimeError>(),
        )?,
        io,
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
        ("SrdFileNotFoundError", &classes.not_found),
        ("InternalError", &classes.internal),
    ];
    named.into_iter().try_for_each(|(name, class)| module.add(name, class.bind(py)))
}

/// The exception for an error. Where they are known, `file`, `tensor` and `offset` become attributes of the exception,
/// and of an I/O error `errno`, `strerror` and `filename` too.
pub fn to_py(py: Python<'_>, error: Error) -> PyErr {
    let classes = match CLASSES.get_or_try_init(py, || make(py)) {
        Ok(classes) => classes,
        Err(e) => return e,
    };
    let not_found = |source: &std::io::Error| source.kind() == std::io::ErrorKind::NotFound;
    let (class, place) = match &error {
        Error::Io { place, source, .. } if not_found(source) => (&classes.not_found, Some(place)),
        Error::Io { place, .. } => (&classes.io, Some(place)),
        Error::Format { place, .. } => (&classes.format, Some(place)),
        Error::Model { place, .. } => (&classes.model, Some(place)),
        Error::NonFinite { place, .. } => (&classes.non_finite, Some(place)),
        Error::Verification { place, .. } => (&classes.verification, Some(place)),
        Error::Usage { .. } => (&classes.usage, None),
        Error::Interrupted => return PyKeyboardInterrupt::new_err(error.to_string()),
    };
    let raised = PyErr::from_type(class.bind(py).clone(), error.to_string());
    let source = match &error {
        Error::Io { source, .. } => Some(source),
        _ => None,
    };
    match annotate(&raised, py, place, source) {
        Ok(()) => raised,
        Err(e) => e,
    }
}

fn annotate(
    raised: &PyErr,
    py: Python<'_>,
    place: Option<&Place>,
    source: Option<&std::io::Error>,
) -> PyResult<()> {
    let value = raised.value(py);
    let file = place.and_then(|p| p.file.as_ref()).map(|file| file.as_os_str()); // a str, as from OSError
    value.setattr("file", file)?;
    value.setattr("tensor", place.and_then(|p| p.tensor.as_ref()))?;
    value.setattr("offset", place.and_then(|p| p.offset))?;
    if let Some(source) = source {
        value.setattr("errno", source.raw_os_error())?;
        value.setattr("strerror", source.to_string())?;
        value.setattr("filename", file)?;
    }
    Ok(())
}

/// The exception for a panic, which said `what`.
pub fn panicked(py: Python<'_>, what: &str) -> PyErr {
    let text =
        format!("internal error: {what}. Set SRD_DEBUG=1 for the backtrace, and report it with the input");
    match CLASSES.get_or_try_init(py, || make(py)) {
        Ok(classes) => PyErr::from_type(classes.internal.bind(py).clone(), text),
        Err(e) => e,
    }
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
