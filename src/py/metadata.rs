//! GGUF metadata from and to Python values.

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyString};

use crate::error::{Error, Place};
use crate::formats::gguf::values::{Array, KeyValues, Strings, Value, ValueType};
use crate::py::errors::ToPy;

/// Builds metadata from an iterable of `(key, kind, value)`.
///
/// # Errors
/// UsageError for an unknown kind or a key given twice; Python's own errors for a value that does not fit its kind.
pub fn from_py(entries: &Bound<'_, PyAny>) -> PyResult<KeyValues> {
    let mut kv = KeyValues::new();
    for entry in entries.try_iter()? {
        let (key, kind, value): (String, String, Bound<'_, PyAny>) = entry?.extract()?;
        let value = match kind.strip_prefix("ARRAY[").and_then(|k| k.strip_suffix(']')) {
            Some(element) => Value::Array(array(&key, element, &value)?),
            None => scalar(&key, &kind, &value)?,
        };
        kv.push(key, value).py(entries.py())?;
    }
    Ok(kv)
}

fn unknown(py: Python<'_>, key: &str, kind: &str) -> PyErr {
    let error = Error::format(
        Place::default(),
        format!("metadata key '{key}': '{kind}' is no GGUF value type"),
        "Use a name of the GGUF specification, such as UINT32 or ARRAY[STRING]",
    );
    crate::py::errors::to_py(py, error)
}

fn scalar(key: &str, kind: &str, v: &Bound<'_, PyAny>) -> PyResult<Value> {
    let unknown = || unknown(v.py(), key, kind);
    Ok(match ValueType::from_name(kind).ok_or_else(unknown)? {
        ValueType::U8 => Value::U8(v.extract()?),
        ValueType::I8 => Value::I8(v.extract()?),
        ValueType::U16 => Value::U16(v.extract()?),
        ValueType::I16 => Value::I16(v.extract()?),
        ValueType::U32 => Value::U32(v.extract()?),
        ValueType::I32 => Value::I32(v.extract()?),
        ValueType::U64 => Value::U64(v.extract()?),
        ValueType::I64 => Value::I64(v.extract()?),
        ValueType::F32 => Value::F32(v.extract()?),
        ValueType::F64 => Value::F64(v.extract()?),
        ValueType::Bool => Value::Bool(v.extract()?),
        ValueType::String => Value::String(v.extract()?),
        ValueType::Array => return Err(unknown()),
    })
}

fn array(key: &str, kind: &str, v: &Bound<'_, PyAny>) -> PyResult<Array> {
    let unknown = || unknown(v.py(), key, kind);
    Ok(match ValueType::from_name(kind).ok_or_else(unknown)? {
        ValueType::U8 => Array::U8(v.extract()?),
        ValueType::I8 => Array::I8(v.extract()?),
        ValueType::U16 => Array::U16(v.extract()?),
        ValueType::I16 => Array::I16(v.extract()?),
        ValueType::U32 => Array::U32(v.extract()?),
        ValueType::I32 => Array::I32(v.extract()?),
        ValueType::U64 => Array::U64(v.extract()?),
        ValueType::I64 => Array::I64(v.extract()?),
        ValueType::F32 => Array::F32(v.extract()?),
        ValueType::F64 => Array::F64(v.extract()?),
        ValueType::Bool => Array::Bool(v.extract()?),
        // One at a time into one buffer: a vocabulary is never held twice as separate strings.
        ValueType::String => {
            let mut strings = Strings::new();
            for item in v.try_iter()? {
                strings.push(item?.cast::<PyString>()?.to_str()?);
            }
            Array::String(strings)
        }
        ValueType::Array => return Err(unknown()),
    })
}

/// `(key, kind, value)` triples with arrays cut to `max_items`, and the full length of each array.
pub fn to_py<'py>(
    py: Python<'py>,
    kv: &KeyValues,
    max_items: usize,
) -> PyResult<(Bound<'py, PyList>, Bound<'py, PyDict>)> {
    let entries = PyList::empty(py);
    let lengths = PyDict::new(py);
    for (key, value) in kv.iter() {
        if let Value::Array(a) = value {
            lengths.set_item(key, a.len())?;
        }
        entries.append((key, value.kind(), value_to_py(py, value, max_items)?))?;
    }
    Ok((entries, lengths))
}

fn value_to_py<'py>(py: Python<'py>, value: &Value, max_items: usize) -> PyResult<Bound<'py, PyAny>> {
    macro_rules! plain {
        ($v:expr) => {
            Ok($v.into_pyobject(py)?.to_owned().into_any())
        };
    }
    match value {
        Value::U8(v) => plain!(v),
        Value::I8(v) => plain!(v),
        Value::U16(v) => plain!(v),
        Value::I16(v) => plain!(v),
        Value::U32(v) => plain!(v),
        Value::I32(v) => plain!(v),
        Value::U64(v) => plain!(v),
        Value::I64(v) => plain!(v),
        Value::F32(v) => plain!(v),
        Value::F64(v) => plain!(v),
        Value::Bool(v) => plain!(v),
        Value::String(v) => plain!(v),
        Value::Array(a) => array_to_py(py, a, max_items),
    }
}

fn array_to_py<'py>(py: Python<'py>, array: &Array, max: usize) -> PyResult<Bound<'py, PyAny>> {
    macro_rules! head {
        ($v:expr) => {
            PyList::new(py, &$v[..$v.len().min(max)])
        };
    }
    let list = match array {
        Array::U8(v) => PyList::new(py, v.iter().take(max).map(|&b| u32::from(b)).collect::<Vec<_>>()),
        Array::I8(v) => head!(v),
        Array::U16(v) => head!(v),
        Array::I16(v) => head!(v),
        Array::U32(v) => head!(v),
        Array::I32(v) => head!(v),
        Array::U64(v) => head!(v),
        Array::I64(v) => head!(v),
        Array::F32(v) => head!(v),
        Array::F64(v) => head!(v),
        Array::Bool(v) => head!(v),
        Array::String(v) => PyList::new(py, v.iter().take(max).collect::<Vec<_>>()),
    }?;
    Ok(list.into_any())
}
