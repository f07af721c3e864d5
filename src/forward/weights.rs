//! The matrices of a model. A matrix is decoded to f32 a panel of rows at a time and multiplied by all tokens.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, PoisonError, RwLock};

use rayon::prelude::*;

use crate::dtype::GgmlType;
use crate::error::{Error, Place, Result};
use crate::forward::Blocks;
use crate::forward::buffers::{Buffer, Buffers};
use crate::linalg::gemm::{Update, gemm};
use crate::linalg::matrix::{MatMut, MatRef};
use crate::model::bound::BoundModel;
use crate::model::transform::Scratch;
use crate::progress::Progress;
use crate::quant;

/// Number of weights that a thread decodes at a time.
const PIECE: usize = 1 << 16;
/// Number of rows of a table that are gathered together.
const GATHERED: usize = 512;
/// Panels of the transposed product have a multiple of this number of rows: the pieces of which [`gemm`] makes a sum.
const SUMMED: usize = 256;
/// Number of weights in a panel if memory allows. With so many rows packing the tokens for each panel costs little.
const PANEL: usize = 1 << 23;

/// A range of rows of a tensor of the model.
#[derive(Debug, Clone)]
pub struct Matrix {
    tensor: usize,
    /// Number of outputs of the product.
    pub rows: usize,
    /// Number of inputs of the product.
    pub cols: usize,
    /// Index of the first weight in the tensor.
    first: u64,
}

impl Matrix {
    /// Returns a matrix of no model.
    #[cfg(test)]
    pub fn test_of(rows: usize, cols: usize) -> Self {
        Self { tensor: 0, rows, cols, first: 0 }
    }

    /// Returns the given rows.
    ///
    /// # Panics
    /// Panics if the matrix has fewer rows.
    pub fn slice(&self, rows: Range<usize>) -> Self {
        assert!(rows.start <= rows.end && rows.end <= self.rows, "rows {rows:?} of {}", self.rows);
        let first = self.first + (rows.start * self.cols) as u64;
        Self { rows: rows.len(), first, ..self.clone() }
    }
}

/// A matrix with its bias.
#[derive(Debug, Clone)]
pub struct Linear {
    /// Name of the matrix in a GGUF.
    pub name: String,
    pub matrix: Matrix,
    /// The bias of each output; empty if there is none.
    pub bias: Vec<f32>,
}

impl Linear {
    /// Returns the number of outputs.
    pub fn rows(&self) -> usize {
        self.matrix.rows
    }

    /// Returns the part that computes the outputs `rows`.
    pub fn slice(&self, rows: Range<usize>) -> Self {
        let bias = if self.bias.is_empty() { Vec::new() } else { self.bias[rows.clone()].to_vec() };
        Self { name: self.name.clone(), matrix: self.matrix.slice(rows), bias }
    }
}

/// How a tensor is rounded before it is used.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rounding {
    /// The type to which the search for scales quantizes the tensor.
    pub ty: GgmlType,
    /// The share of the error of each weight that stays: the tensor is `w + share (v - w)`, where `v` is `w` quantized.
    pub share: f32,
}

impl From<GgmlType> for Rounding {
    fn from(ty: GgmlType) -> Self {
        Self { ty, share: 1.0 }
    }
}

/// The rounding of the tensor of a name; `None` if the tensor stays as it is.
pub type Rounded<'a> = &'a (dyn Fn(&str) -> Option<Rounding> + Sync);

/// A matrix of a stream that is not that of the model; `None` where the model's own stays.
pub type OfStream = Option<Arc<Blocks>>;

/// Makes the matrices of a name for all streams behind the first one. Streams with one matrix share it.
pub type Replaced<'a> = &'a (dyn Fn(&str) -> Result<Vec<OfStream>> + Sync);

/// The tensors of a model by name, and the buffers that products use.
pub struct Weights<'a> {
    model: &'a BoundModel,
    by_name: HashMap<&'a str, usize>,
    progress: &'a Progress,
    /// Number of weights in a panel.
    panel: usize,
    /// The rounding of each tensor.
    rounded: Vec<Option<Rounding>>,
    /// The types to which the streams behind the first one round the embeddings that they look up.
    embeddings: Vec<GgmlType>,
    /// The matrices of the streams behind the first one, by the index of the tensor. All streams have the model's own matrix
    /// where there is nothing.
    others: RwLock<HashMap<usize, Arc<[OfStream]>>>,
    /// Makes the matrices of the other streams when they are needed.
    replaced: Option<Replaced<'a>>,
    pub buffers: Buffers,
}

impl<'a> Weights<'a> {
    /// Makes the table of names. Panels take at most `max_memory` bytes.
    pub fn new(model: &'a BoundModel, progress: &'a Progress, max_memory: u64) -> Self {
        let by_name = model.tensors.iter().enumerate().map(|(i, t)| (t.name.as_str(), i)).collect();
        let panel = (max_memory as usize / (2 * size_of::<f32>())).clamp(PIECE, PANEL);
        let rounded = vec![None; model.tensors.len()];
        let (others, buffers) = (RwLock::default(), Buffers::default());
        let embeddings = Vec::new();
        Self { model, by_name, progress, panel, rounded, embeddings, others, replaced: None, buffers }
    }

    /// Lets the rows of activations be those of several streams, one stream after another. `embeddings` gives for each stream behind
    /// the first one the type to which it rounds the embeddings that it looks up.
    pub fn with_streams(self, embeddings: &[GgmlType]) -> Self {
        Self { embeddings: embeddings.to_vec(), ..self }
    }

    /// Returns the types to which the streams behind the first one round the embeddings that they look up.
    pub fn embeddings(&self) -> &[GgmlType] {
        &self.embeddings
    }

    /// Takes the matrices of the streams behind the first one from `replaced`, each when it is needed first in a layer.
    pub fn replaced_by(self, replaced: Replaced<'a>) -> Self {
        Self { replaced: Some(replaced), ..self }
    }

    /// Sets a matrix of the second one of two streams.
    pub fn set_second(&self, name: &str, blocks: Blocks) {
        if let Some(&tensor) = self.by_name.get(name) {
            self.set_others(tensor, Arc::new([Some(Arc::new(blocks))]));
        }
    }

    /// Drops the matrices of the streams behind the first one, whose layer is done.
    pub fn drop_others(&self) {
        self.others.write().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn set_others(&self, tensor: usize, matrices: Arc<[OfStream]>) {
        self.others.write().unwrap_or_else(PoisonError::into_inner).insert(tensor, matrices);
    }

    /// Returns the matrices of the streams behind the first one; `None` if all streams have the model's own.
    fn others_of(&self, tensor: usize) -> Result<Option<Arc<[OfStream]>>> {
        let known = self.others.read().unwrap_or_else(PoisonError::into_inner).get(&tensor).map(Arc::clone);
        let (None, Some(replaced)) = (&known, self.replaced) else { return Ok(known) };
        let made = replaced(&self.model.tensors[tensor].name)?;
        if made.iter().all(Option::is_none) {
            return Ok(None);
        }
        let made: Arc<[_]> = made.into();
        self.set_others(tensor, Arc::clone(&made));
        Ok(Some(made))
    }

    /// Rounds tensors before they are used.
    pub fn rounded_by(mut self, rounded: Rounded) -> Self {
        for (tensor, to) in self.model.tensors.iter().zip(&mut self.rounded) {
            *to = rounded(&tensor.name).filter(|by| fits(by.ty, tensor.row_len()));
        }
        self
    }

    /// Returns the weights of the same model with tensors rounded before they are used. Both use the same buffers.
    pub fn rounded_copy(&self, rounded: Rounded) -> Self {
        let buffers = self.buffers.clone();
        let copy = Self { panel: self.panel, buffers, ..Self::new(self.model, self.progress, 0) };
        copy.rounded_by(rounded)
    }

    /// Returns whether the tensors come over the network.
    pub fn is_remote(&self) -> bool {
        self.model.source.is_remote()
    }

    /// Returns whether the model has a tensor of this name.
    pub fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// Returns an error about a tensor.
    pub fn fail(&self, name: &str, what: String) -> Error {
        let place = Place::file(self.model.path()).tensor(name);
        Error::model(place, what, "Check that the model loads in llama.cpp")
    }

    /// Returns a tensor as one matrix: the matrices of a stack of experts one below the other.
    ///
    /// # Errors
    /// Returns [`Error::Model`] if the model does not have the tensor, or if the tensor is empty.
    pub fn matrix(&self, name: &str) -> Result<Matrix> {
        self.find(name)?.ok_or_else(|| self.fail(name, "is missing".into()))
    }

    /// Returns a tensor as one matrix; `None` if the model does not have the tensor.
    ///
    /// # Errors
    /// Returns [`Error::Model`] if the tensor is empty.
    pub fn find(&self, name: &str) -> Result<Option<Matrix>> {
        let Some(&tensor) = self.by_name.get(name) else { return Ok(None) };
        let of = &self.model.tensors[tensor];
        let (weights, cols) = (of.n_weights() as usize, of.row_len() as usize);
        if weights == 0 {
            return Err(self.fail(name, "is empty".into()));
        }
        Ok(Some(Matrix { tensor, rows: weights / cols, cols, first: 0 }))
    }

    /// Returns all `n` weights of a small tensor; `None` if the model does not have the tensor. The size is checked before
    /// the weights are read.
    ///
    /// # Errors
    /// Returns [`Error::Model`] if the tensor has another size, and the errors of reading.
    pub fn vector(&self, name: &str, n: usize) -> Result<Option<Vec<f32>>> {
        let Some(matrix) = self.find(name)? else { return Ok(None) };
        if matrix.rows * matrix.cols != n {
            let found = matrix.rows * matrix.cols;
            return Err(self.fail(name, format!("has {found} values where the model needs {n}")));
        }
        let mut values = vec![0.0; n];
        self.read(&matrix, &mut values)?;
        Ok(Some(values))
    }

    /// Returns all `n` weights of a small tensor.
    ///
    /// # Errors
    /// As [`Weights::vector`], and [`Error::Model`] if the model does not have the tensor.
    pub fn required_vector(&self, name: &str, n: usize) -> Result<Vec<f32>> {
        self.vector(name, n)?.ok_or_else(|| self.fail(name, "is missing".into()))
    }

    /// Returns the parameters of a norm of heads, and the number of values that are normalized together: `head_dim`, with
    /// one row of parameters or one for each head, or all `width` values. `None` if the model does not have the norm.
    ///
    /// # Errors
    /// Returns [`Error::Model`] if the tensor has another shape, and the errors of reading.
    pub fn head_norm(&self, name: &str, head_dim: usize, width: usize) -> Result<Option<(Vec<f32>, usize)>> {
        let Some(Matrix { rows, cols, .. }) = self.find(name)? else { return Ok(None) };
        if !(cols == width && rows == 1 || cols == head_dim && width.is_multiple_of(rows * head_dim)) {
            let what =
                format!("is [{rows}, {cols}], which does not fit heads of {head_dim} in {width} values");
            return Err(self.fail(name, what));
        }
        Ok(self.vector(name, rows * cols)?.map(|values| (values, cols)))
    }

    /// Checks the number of inputs of a matrix.
    ///
    /// # Errors
    /// Returns [`Error::Model`] if the matrix does not take `cols` inputs.
    pub fn check_inputs(&self, matrix: &Matrix, cols: usize) -> Result<()> {
        if matrix.cols == cols {
            return Ok(());
        }
        let name = &self.model.tensors[matrix.tensor].name;
        Err(self.fail(name, format!("takes {} inputs where the model has {cols}", matrix.cols)))
    }

    /// Checks the number of outputs of a matrix.
    ///
    /// # Errors
    /// Returns [`Error::Model`] if the matrix does not have `rows` outputs.
    pub fn check_outputs(&self, linear: &Linear, rows: usize) -> Result<()> {
        if linear.rows() == rows {
            return Ok(());
        }
        Err(self.fail(&linear.name, format!("has {} outputs where the model needs {rows}", linear.rows())))
    }

    /// Checks the inputs and the outputs of a matrix.
    ///
    /// # Errors
    /// Returns [`Error::Model`] if the matrix is not `[rows, cols]`.
    pub fn check_shape(&self, linear: &Linear, rows: usize, cols: usize) -> Result<()> {
        self.check_inputs(&linear.matrix, cols)?;
        self.check_outputs(linear, rows)
    }

    /// Decodes all of `matrix` into `out`, in parallel.
    fn read(&self, matrix: &Matrix, out: &mut [f32]) -> Result<()> {
        self.read_of(matrix, None, out)
    }

    /// Decodes all of `matrix`, or the same rows of `blocks`.
    fn read_of(&self, matrix: &Matrix, blocks: Option<&Blocks>, out: &mut [f32]) -> Result<()> {
        self.progress.check()?;
        let of = &self.model.tensors[matrix.tensor].source;
        let rows = (PIECE / matrix.cols).max(1) * matrix.cols;
        if let Some(blocks) = blocks {
            out.par_chunks_mut(rows).enumerate().for_each(|(i, out)| {
                let bytes =
                    |weights: u64| blocks.ty.row_bytes(weights).expect("rows are whole blocks") as usize;
                let first = matrix.first + (i * rows) as u64;
                let range = bytes(first)..bytes(first + out.len() as u64);
                quant::dequantize(blocks.ty, &blocks.bytes[range], out);
            });
            return Ok(());
        }
        let scratch = || (Scratch::default(), Vec::new());
        out.par_chunks_mut(rows).enumerate().try_for_each_init(scratch, |(scratch, blocks), (i, out)| {
            of.read(&self.model.source, matrix.first + (i * rows) as u64, out, scratch)?;
            round(self.rounded[matrix.tensor], out, blocks);
            Ok(())
        })
    }

    /// Decodes the given columns of the given rows of `matrix` into `out`, one row after another.
    ///
    /// # Errors
    /// Returns the errors of reading.
    ///
    /// # Panics
    /// Panics if a row or a column is outside the matrix.
    pub fn gather(
        &self,
        matrix: &Matrix,
        rows: &[u32],
        columns: Range<usize>,
        out: &mut [f32],
    ) -> Result<()> {
        self.gather_as(matrix, rows, columns, out, self.rounded[matrix.tensor])
    }

    /// Computes [`Weights::gather`] with rows that are rounded to a type, if they are whole blocks of it.
    ///
    /// # Errors
    /// Returns the errors of reading.
    ///
    /// # Panics
    /// As [`Weights::gather`].
    pub fn gather_rounded(
        &self,
        matrix: &Matrix,
        rows: &[u32],
        columns: Range<usize>,
        out: &mut [f32],
        ty: GgmlType,
    ) -> Result<()> {
        let rounding = fits(ty, matrix.cols as u64).then(|| ty.into());
        self.gather_as(matrix, rows, columns, out, rounding)
    }

    fn gather_as(
        &self,
        matrix: &Matrix,
        rows: &[u32],
        columns: Range<usize>,
        out: &mut [f32],
        rounding: Option<Rounding>,
    ) -> Result<()> {
        let of = &self.model.tensors[matrix.tensor].source;
        assert!(columns.end <= matrix.cols && rows.iter().all(|&row| (row as usize) < matrix.rows));
        // In the order of the rows, so that a table that comes over the network is read once from its start to its end.
        let mut pairs: Vec<_> = out.chunks_exact_mut(columns.len()).zip(rows).collect();
        pairs.sort_by_key(|(_, row)| **row);
        let scratch = || (Scratch::default(), Vec::new());
        pairs.chunks_mut(GATHERED).try_for_each(|pairs| {
            pairs.par_iter_mut().with_min_len(16).try_for_each_init(
                scratch,
                |(scratch, blocks), (out, row)| {
                    let start = matrix.first + (**row as usize * matrix.cols + columns.start) as u64;
                    of.read(&self.model.source, start, out, scratch)?;
                    round(rounding, out, blocks);
                    Ok(())
                },
            )
        })
    }

    /// Returns the matrix `STEM.weight` with its bias `STEM.bias`; `None` if the model does not have the matrix.
    ///
    /// # Errors
    /// Returns [`Error::Model`] if the matrix is empty or the bias does not fit, and the errors of reading.
    pub fn linear(&self, stem: &str) -> Result<Option<Linear>> {
        let name = format!("{stem}.weight");
        let Some(matrix) = self.find(&name)? else { return Ok(None) };
        let bias = self.vector(&format!("{stem}.bias"), matrix.rows)?.unwrap_or_default();
        Ok(Some(Linear { name, matrix, bias }))
    }

    /// Returns the matrix `STEM.weight` with its bias.
    ///
    /// # Errors
    /// As [`Weights::linear`], and [`Error::Model`] if the model does not have the matrix.
    pub fn required_linear(&self, stem: &str) -> Result<Linear> {
        self.linear(stem)?.ok_or_else(|| self.fail(&format!("{stem}.weight"), "is missing".into()))
    }

    /// Returns `W x + b` for rows x of `cols` values.
    ///
    /// # Errors
    /// Returns [`Error::Model`] if W does not take `cols` inputs, and the errors of [`Weights::multiply`].
    pub fn apply(&self, linear: &Linear, x: &[f32], cols: usize) -> Result<Buffer> {
        let mut y = self.buffers.take(x.len() / cols * linear.rows());
        self.apply_to(linear, x, cols, &mut y)?;
        Ok(y)
    }

    /// Computes [`Weights::apply`] into `y`.
    ///
    /// # Errors
    /// As [`Weights::apply`].
    pub fn apply_to(&self, linear: &Linear, x: &[f32], cols: usize, y: &mut [f32]) -> Result<()> {
        self.check_inputs(&linear.matrix, cols)?;
        let rows = linear.rows();
        self.multiply(&linear.matrix, x, y)?;
        if !linear.bias.is_empty() {
            y.par_chunks_mut(rows).for_each(|y| y.iter_mut().zip(&linear.bias).for_each(|(y, b)| *y += b));
        }
        Ok(())
    }

    /// Computes `y = x W^T` for the rows of `x`. While a panel of W is multiplied, the next panel is read. The rows of all streams
    /// stand one stream after another, and where a stream has a matrix of its own, this is the W of its rows.
    ///
    /// # Errors
    /// Returns the errors of reading, and [`Error::Interrupted`] if the run was cancelled.
    ///
    /// # Panics
    /// Panics if `x` or `y` does not have the length of its shape.
    pub fn multiply(&self, matrix: &Matrix, x: &[f32], y: &mut [f32]) -> Result<()> {
        let Some(others) = self.others_of(matrix.tensor)? else {
            return self.multiply_by(matrix, None, x, y);
        };
        let streams: Vec<Option<&Arc<Blocks>>> =
            std::iter::once(None).chain(others.iter().map(Option::as_ref)).collect();
        assert!((x.len() / matrix.cols).is_multiple_of(streams.len()), "streams of different lengths");
        let (of_x, of_y) = (x.len() / streams.len(), y.len() / streams.len());
        let (mut x, mut y) = (x, y);
        for same in streams.chunk_by(|a, b| a.map(Arc::as_ptr) == b.map(Arc::as_ptr)) {
            let (these, rest) = x.split_at(same.len() * of_x);
            let (to, more) = y.split_at_mut(same.len() * of_y);
            self.multiply_by(matrix, same[0].map(|blocks| &**blocks), these, to)?;
            (x, y) = (rest, more);
        }
        Ok(())
    }

    fn multiply_by(&self, matrix: &Matrix, blocks: Option<&Blocks>, x: &[f32], y: &mut [f32]) -> Result<()> {
        let (rows, cols) = (matrix.rows, matrix.cols);
        let tokens = x.len() / cols;
        assert_eq!((tokens * cols, tokens * rows), (x.len(), y.len()));
        // All panels have one size: packing the tokens for a small last panel would cost as much as for a full one.
        let panels = rows.div_ceil((self.panel / cols).max(1));
        let step = rows.div_ceil(panels);
        let panel = |at: usize| matrix.slice(at..(at + step).min(rows));
        let spare = if step < rows { step * cols } else { 0 };
        let (mut now, mut next) = (self.buffers.take(step * cols), self.buffers.take(spare));
        let first = panel(0);
        self.read_of(&first, blocks, &mut now[..first.rows * cols])?;
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
                    self.read_of(&following, blocks, &mut next[..following.rows * cols])
                }
                false => Ok(()),
            };
            rayon::join(product, read).1?;
            std::mem::swap(&mut now, &mut next);
        }
        Ok(())
    }

    /// Adds `y W` to `x` for the rows of `y`: where `y` holds derivatives by the outputs of [`Weights::multiply`], this adds those by
    /// the inputs. The model's own matrix is used, not those of other streams.
    ///
    /// # Errors
    /// As [`Weights::multiply`].
    ///
    /// # Panics
    /// As [`Weights::multiply`].
    pub fn add_transposed(&self, matrix: &Matrix, y: &[f32], x: &mut [f32]) -> Result<()> {
        let (rows, cols) = (matrix.rows, matrix.cols);
        let tokens = x.len() / cols;
        assert_eq!((tokens * cols, tokens * rows), (x.len(), y.len()));
        // Panels of whole pieces of the sums change no bit of them.
        let step = (self.panel / cols / SUMMED * SUMMED).max(SUMMED).min(rows);
        let mut panel = self.buffers.take(step * cols);
        for at in (0..rows).step_by(step) {
            let n = step.min(rows - at);
            self.read(&matrix.slice(at..at + n), &mut panel[..n * cols])?;
            let w = MatRef::from_row_major_slice(&panel[..n * cols], n, cols);
            let y = MatRef::from_slice_with_strides(&y[at..], tokens, n, rows, 1);
            gemm(y, w, MatMut::from_row_major_slice(x, tokens, cols), Update::Add);
        }
        Ok(())
    }
}

/// Returns whether rows of `row` weights can be quantized to a type.
fn fits(ty: GgmlType, row: u64) -> bool {
    quant::can_quantize(ty) && row.is_multiple_of(ty.block_len() as u64)
}

/// Rounds whole blocks of weights. `blocks` is scratch memory.
fn round(rounding: Option<Rounding>, weights: &mut [f32], blocks: &mut Vec<u8>) {
    let Some(Rounding { ty, share }) = rounding else { return };
    let Some(bytes) = ty.row_bytes(weights.len() as u64) else { return };
    let limit = quant::max_abs(ty);
    weights.iter_mut().for_each(|w| *w = w.clamp(-limit, limit));
    blocks.resize(bytes as usize, 0);
    quant::quantize(ty, weights, weights.len(), None, blocks);
    if share == 1.0 {
        return quant::dequantize(ty, blocks, weights);
    }
    let mut back = vec![0.0; weights.len()];
    quant::dequantize(ty, blocks, &mut back);
    weights.iter_mut().zip(back).for_each(|(w, v)| *w += share * (v - *w));
}
