//! Plain results: frozen classes whose fields Python reads, with a `repr` that names them.

use pyo3::IntoPyObject;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

/// Defines a frozen Python class of read-only fields. Methods of the class may follow the fields. The `repr` shows all fields, or
/// those in brackets behind the name.
macro_rules! record {
    (@shown [] $all:tt) => { record!(@shown $all []) };
    (@shown [$($field:ident),+] $all:tt) => { &[$(stringify!($field)),+] };
    ($(#[$meta:meta])* $name:ident $([$($shown:ident),+])? { $($(#[$field_meta:meta])* $field:ident: $ty:ty,)+ } $($methods:tt)*) => {
        $(#[$meta])*
        #[pyclass(frozen, get_all, eq, module = "srd_rs._core")]
        #[derive(Debug, Clone, PartialEq)]
        pub struct $name { $($(#[$field_meta])* pub $field: $ty,)+ }

        #[pymethods]
        impl $name {
            fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
                $crate::py::records::repr(slf.as_any(), record!(@shown [$($($shown),+)?] [$($field),+]))
            }

            /// The fields by name.
            fn to_dict<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, pyo3::types::PyDict>> {
                $crate::py::records::to_dict(slf.as_any(), &[$(stringify!($field)),+])
            }

            $($methods)*
        }
    };
}
pub(super) use record;

/// `Name(field=value, ...)`.
pub fn repr(object: &Bound<'_, PyAny>, fields: &[&str]) -> PyResult<String> {
    let fields = fields
        .iter()
        .map(|field| {
            let field = field.trim_start_matches("r#");
            Ok(format!("{field}={}", object.getattr(field)?.repr()?))
        })
        .collect::<PyResult<Vec<_>>>()?;
    Ok(format!("{}({})", object.get_type().name()?, fields.join(", ")))
}

pub fn to_dict<'py>(object: &Bound<'py, PyAny>, fields: &[&str]) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(object.py());
    for field in fields {
        let field = field.trim_start_matches("r#");
        dict.set_item(field, object.getattr(field)?)?;
    }
    Ok(dict)
}

/// The dimensions of a tensor: a tuple in Python.
#[derive(Debug, Clone, PartialEq)]
pub struct Shape(pub Vec<u64>);

impl<'py> IntoPyObject<'py> for &Shape {
    type Target = PyTuple;
    type Output = Bound<'py, PyTuple>;
    type Error = PyErr;

    fn into_pyobject(self, py: Python<'py>) -> PyResult<Self::Output> {
        PyTuple::new(py, &self.0)
    }
}

/// Names of types: a tuple in Python.
#[derive(Debug, Clone, PartialEq)]
pub struct Names(pub Vec<String>);

impl<'py> IntoPyObject<'py> for &Names {
    type Target = PyTuple;
    type Output = Bound<'py, PyTuple>;
    type Error = PyErr;

    fn into_pyobject(self, py: Python<'py>) -> PyResult<Self::Output> {
        PyTuple::new(py, &self.0)
    }
}
