//! Matrices of the model, decoded to f32 a panel of rows at a time and multiplied with all tokens.

use std::collections::HashMap;
use std::ops::Range;

use rayon::prelude::*;

use crate::error::{Error, Place, Result};
use crate::forward::buffers::{Buffer, Buffers};
use crate::linalg::gemm::{Update, gemm};
use crate::linalg::matrix::{MatMut, MatRef};
use crate::model::bound::BoundModel;
use crate::model::transform::Scratch;
use crate::progress::Progress;

/// Weights that a thread decodes at a time.
const PIECE: usize = 1 << 16;
/// Weights of a panel, where memory allows: enough rows that packing the tokens for each panel costs little.
const PANEL: usize = 1 << 23;

/// Rows of a tensor of the model.
#[derive(Debug, Clone)]
pub struct Matrix {
    tensor: usize,
    /// Outputs of the product.
    pub rows: usize,
    /// Inputs of the product.
    pub cols: usize,
    /// Of the tensor, flat.
    first: u64,
}

impl Matrix {
    pub fn slice(&self, rows: Range<usize>) -> Self {
        debug_assert!(rows.end <= self.rows);
        let first = self.first + (rows.start * self.cols) as u64;
        Self { rows: rows.len(), first, ..self.clone() }
    }
}

/// A matrix and its bias (empty: none).
#[derive(Debug, Clone)]
pub struct Linear {
    /// Of the matrix, in the GGUF.
    pub name: String,
    pub matrix: Matrix,
    pub bias: Vec<f32>,
}

impl Linear {
    pub fn rows(&self) -> usize {
        self.matrix.rows
    }

    /// The part that makes the outputs `rows`.
    pub fn slice(&self, rows: Range<usize>) -> Self {
        let bias = if self.bias.is_empty() { Vec::new() } else { self.bias[rows.clone()].to_vec() };
        Self { name: self.name.clone(), matrix: self.matrix.slice(rows), bias }
    }
}

/// The model's tensors by name.
pub struct Weights<'a> {
    model: &'a BoundModel,
    by_name: HashMap<&'a str, usize>,
    progress: &'a Progress,
    panel: usize,
    pub buffers: Buffers,
}

impl<'a> Weights<'a> {
    /// `max_memory`: bytes that panels may take.
    pub fn new(model: &'a BoundModel, progress: &'a Progress, max_memory: u64) -> Self {
        let by_name = model.tensors.iter().enumerate().map(|(i, t)| (t.name.as_str(), i)).collect();
        let panel = (max_memory as usize / (2 * size_of::<f32>())).clamp(PIECE, PANEL);
        Self { model, by_name, progress, panel, buffers: Buffers::default() }
    }

    pub fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    fn fail(&self, name: &str, what: String) -> Error {
        let place = Place::file(self.model.path()).tensor(name);
        Error::model(place, what, "Check that the model loads in llama.cpp")
    }

    /// # Errors
    /// [`Error::Model`] if the model does not have it.
    pub fn matrix(&self, name: &str) -> Result<Matrix> {
        self.find(name).ok_or_else(|| self.fail(name, "is missing".into()))
    }

    /// The tensor as one matrix: a stack of experts is seen as all their rows.
    pub fn find(&self, name: &str) -> Option<Matrix> {
        let tensor = *self.by_name.get(name)?;
        let of = &self.model.tensors[tensor];
        let cols = of.row_len() as usize;
        Some(Matrix { tensor, rows: of.n_weights() as usize / cols, cols, first: 0 })
    }

    /// All weights of a small tensor; None where the model has none of that name.
    pub fn vector(&self, name: &str) -> Result<Option<Vec<f32>>> {
        let Some(matrix) = self.find(name) else { return Ok(None) };
        let mut values = vec![0.0; matrix.rows * matrix.cols];
        self.read(&matrix, &mut values)?;
        Ok(Some(values))
    }

    /// # Errors
    /// As `vector`, and [`Error::Model`] if it has not `n` values.
    pub fn vector_of(&self, name: &str, n: usize) -> Result<Option<Vec<f32>>> {
        let values = self.vector(name)?;
        match &values {
            Some(v) if v.len() != n => {
                Err(self.fail(name, format!("has {} values where {n} are expected", v.len())))
            }
            _ => Ok(values),
        }
    }

    /// # Errors
    /// [`Error::Model`] unless the matrix takes `cols` inputs.
    pub fn check_inputs(&self, matrix: &Matrix, cols: usize) -> Result<()> {
        if matrix.cols == cols {
            return Ok(());
        }
        let name = &self.model.tensors[matrix.tensor].name;
        Err(self.fail(name, format!("takes {} inputs where there are {cols}", matrix.cols)))
    }

    /// # Errors
    /// [`Error::Model`] unless it has `rows` outputs.
    pub fn check_outputs(&self, linear: &Linear, rows: usize) -> Result<()> {
        if linear.rows() == rows {
            return Ok(());
        }
        Err(self.fail(&linear.name, format!("has {} outputs where {rows} are expected", linear.rows())))
    }

    /// Decodes all of `matrix` to `out`, in parallel.
    fn read(&self, matrix: &Matrix, out: &mut [f32]) -> Result<()> {
        self.progress.check()?;
        let of = &self.model.tensors[matrix.tensor].source;
        let rows = (PIECE / matrix.cols).max(1) * matrix.cols;
        out.par_chunks_mut(rows).enumerate().try_for_each_init(Scratch::default, |scratch, (i, out)| {
            of.read(&self.model.source, matrix.first + (i * rows) as u64, out, scratch)
        })
    }

    /// Decodes the given rows of `matrix` to `out`, one after another.
    pub fn gather(
        &self,
        matrix: &Matrix,
        rows: &[u32],
        columns: Range<usize>,
        out: &mut [f32],
    ) -> Result<()> {
        let of = &self.model.tensors[matrix.tensor].source;
        let pairs = out.par_chunks_mut(columns.len()).zip(rows).with_min_len(16);
        pairs.try_for_each_init(Scratch::default, |scratch, (out, &row)| {
            let start = matrix.first + (row as usize * matrix.cols + columns.start) as u64;
            of.read(&self.model.source, start, out, scratch)
        })
    }

    /// `STEM.weight` with `STEM.bias`, if the model has it.
    pub fn linear(&self, stem: &str) -> Result<Option<Linear>> {
        let name = format!("{stem}.weight");
        let Some(matrix) = self.find(&name) else { return Ok(None) };
        let bias = self.vector_of(&format!("{stem}.bias"), matrix.rows)?.unwrap_or_default();
        Ok(Some(Linear { name, matrix, bias }))
    }

    /// # Errors
    /// [`Error::Model`] if the model does not have it.
    pub fn needed_linear(&self, stem: &str) -> Result<Linear> {
        self.linear(stem)?.ok_or_else(|| self.fail(&format!("{stem}.weight"), "is missing".into()))
    }

    /// `W x + b` of rows of `cols` values.
    pub fn apply(&self, linear: &Linear, x: &[f32], cols: usize) -> Result<Buffer> {
        let mut y = self.buffers.take(x.len() / cols * linear.rows());
        self.apply_to(linear, x, cols, &mut y)?;
        Ok(y)
    }

    /// As `apply`, into `y`.
    pub fn apply_to(&self, linear: &Linear, x: &[f32], cols: usize, y: &mut [f32]) -> Result<()> {
        self.check_inputs(&linear.matrix, cols)?;
        let rows = linear.rows();
        self.multiply(&linear.matrix, x, y)?;
        if !linear.bias.is_empty() {
            y.par_chunks_mut(rows).for_each(|y| y.iter_mut().zip(&linear.bias).for_each(|(y, b)| *y += b));
        }
        Ok(())
    }

    /// `y = x W^T` for rows of `x`. While a panel of W is multiplied, the next is read.
    ///
    /// # Errors
    /// Those of reading; [`Error::Interrupted`] when the run was cancelled.
    pub fn multiply(&self, matrix: &Matrix, x: &[f32], y: &mut [f32]) -> Result<()> {
        let (rows, cols) = (matrix.rows, matrix.cols);
        let tokens = x.len() / cols;
        debug_assert_eq!((tokens * cols, tokens * rows), (x.len(), y.len()));
        // Panels of one size: packing the tokens for a small last one would cost as much as for a full one.
        let panels = rows.div_ceil((self.panel / cols).max(1));
        let step = rows.div_ceil(panels);
        let panel = |at: usize| matrix.slice(at..(at + step).min(rows));
        let spare = if step < rows { step * cols } else { 0 };
        let (mut now, mut next) = (self.buffers.take(step * cols), self.buffers.take(spare));
        let first = panel(0);
        self.read(&first, &mut now[..first.rows * cols])?;
        for at in (0..rows).step_by(step) {
            let n = step.min(rows - at);
            let product = || {
                let w = MatRef::from_row_major_slice(&now[..n * cols], n, cols).transpose();
                let y = MatMut::from_row_major_slice_with_stride(&mut y[at..], tokens, n, rows);
                gemm(MatRef::from_row_major_slice(x, tokens, cols), w, y, Update::Set);
            };
            let read = || match at + step < rows {
                true => {
                    let following = panel(at + step);
                    self.read(&following, &mut next[..following.rows * cols])
                }
                false => Ok(()),
            };
            rayon::join(product, read).1?;
            std::mem::swap(&mut now, &mut next);
        }
        Ok(())
    }
}
