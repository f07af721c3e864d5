//! The forward pass, for whoever wants to see what calibration sees.

use numpy::{PyArray1, PyArray2, PyArrayMethods};
use pyo3::prelude::*;

use crate::error::Result;
use crate::forward::{self, Observer, RunOptions};
use crate::progress::Progress;
use crate::py::convert::Plan;
use crate::py::watch::watched;

/// Tensors, expert, values in a row, rows, sum of the squares of the values.
type Seen = (Vec<String>, Option<usize>, usize, usize, f64);

/// What the matrices were fed, in the order in which they were.
#[derive(Default)]
struct Summary {
    seen: Vec<Seen>,
}

impl Observer for Summary {
    fn inputs(&mut self, tensors: &[&str], expert: Option<usize>, n: usize, x: &[f32]) -> Result<()> {
        let squares = x.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        let names = tensors.iter().map(ToString::to_string).collect();
        self.seen.push((names, expert, n, x.len() / n, squares));
        Ok(())
    }
}

/// The architectures that the forward pass knows, so that models of them can be calibrated.
#[pyfunction]
pub fn forward_architectures() -> Vec<&'static str> {
    forward::arch::names().collect()
}

/// Logits of every token of every chunk, f32 `[tokens, vocabulary]` (an encoder: its last states, `[tokens, hidden
/// size]`), and what each matrix was fed: (tensors, expert, values in a row, rows, sum of squares).
#[pyfunction]
#[pyo3(signature = (plan, tokens, threads, max_memory=4294967296))]
pub fn forward_logits<'py>(
    py: Python<'py>,
    plan: &Plan,
    tokens: Vec<Vec<u32>>,
    threads: usize,
    max_memory: u64,
) -> PyResult<(Bound<'py, PyArray2<f32>>, Vec<Seen>)> {
    let (progress, mut summary) = (Progress::default(), Summary::default());
    let spill_folder = plan.inner.folder();
    let options = RunOptions {
        logits: true,
        threads,
        max_memory,
        spill_folder,
        progress: &progress,
        token_weights: None,
    };
    let work = || forward::run(&plan.inner.model, &tokens, &mut summary, &options);
    let logits = watched(py, work, || progress.cancel(), || Ok(()))?.expect("logits were asked for");
    let rows = logits.values.len() / logits.columns;
    let array = PyArray1::from_vec(py, logits.values).reshape([rows, logits.columns])?;
    Ok((array, summary.seen))
}
