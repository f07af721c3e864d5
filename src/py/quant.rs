//! Single tensors in and out as numpy arrays.

use numpy::{
    Element, PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray1, PyReadonlyArray2, PyUntypedArrayMethods,
};
use pyo3::prelude::*;

use crate::dtype::GgmlType;
use crate::error::{Error, Place};
use crate::feedback::{self, FactorizedMoments};
use crate::formats::calibration::SecondMoments;
use crate::noise::Noise;
use crate::py::errors::ToPy;
use crate::py::options::SrdOptions;
use crate::py::watch::detached;
use crate::quant;

fn usage(what: String, fix: &str) -> Error {
    Error::usage(what, fix)
}

fn parse_type(name: &str) -> crate::Result<GgmlType> {
    GgmlType::from_name(name)
        .ok_or_else(|| usage(format!("'{name}' is no GGUF tensor type"), "Name one such as Q4_K or F16"))
}

/// Number of rows from the middle of the matrix on which the amplitude of the noise is chosen, as a conversion does.
const SAMPLE_ROWS: usize = 16;

const CONTIGUOUS: &str = "Pass a C-contiguous array (numpy.ascontiguousarray)";

/// The elements row by row; a transposed view is contiguous too, but not in this order.
fn c_order<'a, T: Element>(array: &'a PyReadonlyArray2<'_, T>) -> crate::Result<&'a [T]> {
    let not_rows = || usage("the rows are not contiguous".into(), CONTIGUOUS);
    if !array.is_c_contiguous() {
        return Err(not_rows());
    }
    array.as_slice().map_err(|_| not_rows())
}

/// Every weight is finite and fits the type's scales.
fn check(ty: GgmlType, rows: &[f32]) -> crate::Result<()> {
    let limit = quant::max_abs(ty);
    match rows.iter().position(|w| w.is_nan() || w.abs() > limit) {
        None => Ok(()),
        Some(i) => Err(Error::NonFinite {
            place: Place::named_tensor("array"),
            index: i as u64,
            what: format!("weight at flat index {i} is {}: {} cannot hold it", rows[i], ty.name()),
            fix: "Remove or clip it".into(),
        }),
    }
}

/// Returns the names of the types that [`quantize`] writes.
#[pyfunction]
pub fn quantizable_types() -> Vec<&'static str> {
    quant::QUANTIZABLE.iter().map(|ty| ty.name()).collect()
}

/// Returns the names of the types that [`dequantize`] reads.
#[pyfunction]
pub fn readable_types() -> Vec<&'static str> {
    quant::QUANTIZABLE.iter().chain(quant::READ_ONLY).map(|ty| ty.name()).collect()
}

/// Returns the names of the instruction sets that this CPU has and that the crate has code for, the narrowest first.
/// `SRD_MAX_ISA` takes one of these names.
#[pyfunction]
pub fn instruction_sets() -> Vec<&'static str> {
    crate::simd::Isa::available().into_iter().map(|isa| isa.name()).collect()
}

/// `weights` f32 `[rows, n]` -> u8 `[rows, bytes of a row]`; `importance` f32 `[n]`.
#[pyfunction]
#[pyo3(signature = (weights, r#type, importance=None))]
pub fn quantize<'py>(
    py: Python<'py>,
    weights: PyReadonlyArray2<'py, f32>,
    r#type: &str,
    importance: Option<PyReadonlyArray1<'py, f32>>,
) -> PyResult<Bound<'py, PyArray2<u8>>> {
    let ty = parse_type(r#type).py(py)?;
    let (rows, n) = (weights.shape()[0], weights.shape()[1]);
    let row_bytes = ty.row_bytes(n as u64).filter(|_| n > 0 && quant::can_quantize(ty));
    let Some(row_bytes) = row_bytes else {
        let what = format!("rows of {n} weights cannot be quantized to {}", ty.name());
        return Err(usage(what, "Use another type or rows of whole blocks")).py(py);
    };
    let data = c_order(&weights).py(py)?;
    let importance = match &importance {
        None => None,
        Some(h) if h.len() == n => {
            Some(h.as_slice().map_err(|_| usage("importance is not contiguous".into(), CONTIGUOUS)).py(py)?)
        }
        Some(h) => {
            let what = format!("importance has {} values for rows of {n}", h.len());
            return Err(usage(what, "Pass one value per column")).py(py);
        }
    };
    let out = detached(py, || {
        check(ty, data)?;
        let mut out = vec![0u8; rows * row_bytes as usize];
        quant::quantize(ty, data, n, importance, &mut out);
        Ok(out)
    })?;
    PyArray1::from_vec(py, out).reshape([rows, row_bytes as usize])
}

/// `weights` f32 `[rows, n]`, `moments` f32 `[n, block]` -> u8 `[rows, bytes of a row]` and the sum of
/// `(v - w)^T H (v - w)` over the rows: residual feedback (effort srd) for one matrix.
#[pyfunction]
pub fn quantize_calibrated<'py>(
    py: Python<'py>,
    weights: PyReadonlyArray2<'py, f32>,
    r#type: &str,
    moments: PyReadonlyArray2<'py, f32>,
    options: SrdOptions,
    seed: u64,
) -> PyResult<(Bound<'py, PyArray2<u8>>, f64)> {
    let ty = parse_type(r#type).py(py)?;
    let (rows, n) = (weights.shape()[0], weights.shape()[1]);
    let row_bytes = ty.row_bytes(n as u64).filter(|_| n > 0 && feedback::supports(ty));
    let Some(row_bytes) = row_bytes else {
        let what = format!("rows of {n} weights cannot be quantized to {} with moments", ty.name());
        return Err(usage(what, "Use another type or rows of whole blocks")).py(py);
    };
    let (data, h) = (c_order(&weights).py(py)?, c_order(&moments).py(py)?);
    let (moment_rows, block) = (moments.shape()[0], moments.shape()[1]);
    let options = options.solver();
    let (out, cost) = detached(py, || {
        check(ty, data)?;
        options.check()?;
        let moments = SecondMoments { n, block, values: h.to_vec(), tokens: 0 };
        let valid = moment_rows == n && moments.is_valid(ty.block_len());
        let factor = if valid { FactorizedMoments::new(moments, feedback::DAMPING)? } else { None };
        let factor = factor.ok_or_else(|| {
            let what = format!("the moments do not describe {n} inputs in blocks");
            usage(what, "Pass finite float32 [n, block], block a multiple of 256 or n, not all zero")
        })?;
        let mut out = vec![0u8; rows * row_bytes as usize];
        let noise = Noise::new(seed, "");
        let rows_in = |weights, first| feedback::Rows { weights, noise: &noise, first };
        let taken = rows.min(SAMPLE_ROWS);
        let first = (rows - taken) / 2;
        let sample = rows_in(&data[first * n..][..taken * n], first as u64);
        let options = feedback::choose_dither(ty, sample, &factor, &options);
        let cost = feedback::quantize_rows(ty, rows_in(data, 0), &factor, &options, &mut out);
        Ok((out, cost))
    })?;
    Ok((PyArray1::from_vec(py, out).reshape([rows, row_bytes as usize])?, cost))
}

/// u8 `[rows, bytes of a row]` -> f32 `[rows, n]`.
#[pyfunction]
pub fn dequantize<'py>(
    py: Python<'py>,
    blocks: PyReadonlyArray2<'py, u8>,
    r#type: &str,
) -> PyResult<Bound<'py, PyArray2<f32>>> {
    let ty = parse_type(r#type).py(py)?;
    let (rows, bytes) = (blocks.shape()[0], blocks.shape()[1]);
    if !quant::can_dequantize(ty) || bytes % ty.block_bytes() != 0 {
        let what = format!("rows of {bytes} bytes cannot be read as {}", ty.name());
        return Err(usage(what, "Pass whole blocks of a type that srd_rs reads")).py(py);
    }
    let n = bytes / ty.block_bytes() * ty.block_len();
    let data = c_order(&blocks).py(py)?;
    let out = detached(py, || {
        let mut out = vec![0f32; rows * n];
        quant::dequantize(ty, data, &mut out);
        Ok(out)
    })?;
    PyArray1::from_vec(py, out).reshape([rows, n])
}
