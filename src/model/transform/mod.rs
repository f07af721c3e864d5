//! Evaluates a [`Transform`] for any run of its elements. The private module `bind` checks names and shapes before.
//!
//! Every node of the tree is a flat, row-major run of elements. So reshaping and stacking cost nothing, and each node only
//! maps a range of its own elements to ranges of its parts. A tensor of any size is read with a few kilobytes of memory.
//!
//! ```no_run
//! use srd_rs::formats::safetensors::Checkpoint;
//! use srd_rs::model::source::Source;
//! use srd_rs::model::spec::Transform;
//! use srd_rs::model::transform::{BoundTransform, Scratch};
//!
//! let source = Source::from_checkpoint(&Checkpoint::open("Llama-3.2-1B")?);
//! let rows = Transform::Rows {
//!     of: Box::new(Transform::Source { tensor: "model.embed_tokens.weight".into() }),
//!     start: 0,
//!     count: 2,
//! };
//! let bound = BoundTransform::bind("first_two", &[2, 2048], &rows, &source)?;
//! let mut values = vec![0.0; 2 * 2048];
//! bound.read(&source, 0, &mut values, &mut Scratch::default())?;
//! # Ok::<(), srd_rs::Error>(())
//! ```

mod bind;
pub mod channels;

use std::sync::{Arc, OnceLock};

use self::bind::Binder;
use self::channels::Channels;
use crate::dtype::GgmlType;
use crate::error::Result;
use crate::model::dequantize::Dequantizer;
use crate::model::lowrank::Merged;
use crate::model::source::Source;
use crate::model::spec::Transform;
use crate::model::view::View;
use crate::simd::fused;

/// A transform bound to its source tensors. All shapes are known and checked.
#[derive(Debug)]
pub struct BoundTransform {
    op: Op,
    shape: Vec<u64>,
    len: u64,
}

#[derive(Debug)]
enum Op {
    Source {
        index: usize,
    },
    PermuteHeads {
        of: Box<BoundTransform>,
        cols: u64,
        head_rows: u64,
    },
    Affine {
        of: Box<BoundTransform>,
        mul: f32,
        add: f32,
    },
    /// The elements of the part from `first` on: the flat form of `Rows`.
    Slice {
        of: Box<BoundTransform>,
        first: u64,
    },
    Concat {
        parts: Vec<BoundTransform>,
    },
    Transpose {
        of: Box<BoundTransform>,
        rows: u64,
        cols: u64,
    },
    Pad {
        of: Box<BoundTransform>,
        value: f32,
    },
    Reshape {
        of: Box<BoundTransform>,
    },
    Dequantize {
        of: Box<Dequantizer>,
        sources: Vec<usize>,
    },
    Product {
        parts: Vec<BoundTransform>,
    },
    Sum {
        parts: Vec<BoundTransform>,
    },
    Bilinear {
        of: Box<BoundTransform>,
        /// Columns of the grid of the part.
        across: u64,
        /// For each row and for each column of the new grid, what it lies between.
        rows: Vec<Between>,
        columns: Vec<Between>,
    },
    NegExp {
        of: Box<BoundTransform>,
    },
    Softplus {
        of: Box<BoundTransform>,
    },
    FoldedNorm {
        weight: Box<BoundTransform>,
        variance: Box<BoundTransform>,
        /// Bias and mean, for the summand; the factor has none.
        shift: Option<Box<(BoundTransform, BoundTransform)>>,
        epsilon: f32,
    },
    Sinusoids {
        /// The frequency of each sine, and of each cosine.
        frequencies: Vec<f32>,
    },
    Ternary {
        of: Box<BoundTransform>,
        /// The reciprocal of the mean magnitude, once it is known.
        inverse: OnceLock<f32>,
    },
    /// Multiplies the columns by the factors of channels, and divides the rows by those of others.
    Scaled {
        of: Arc<BoundTransform>,
        columns: Option<Arc<Channels>>,
        rows: Option<Arc<Channels>>,
        /// Length of a row; 1 in a vector, whose values make the channels.
        width: u64,
    },
    View {
        of: Box<BoundTransform>,
        view: View,
    },
    Merge {
        of: Box<Merged<BoundTransform>>,
    },
    Generated {
        values: Vec<f32>,
    },
}

/// A place on an axis: the two positions that it lies between, each with its weight.
#[derive(Debug, Clone, Copy)]
struct Between {
    positions: [u64; 2],
    weights: [f32; 2],
}

/// Buffers that a thread keeps between calls.
#[derive(Default)]
pub struct Scratch {
    /// Bytes of the source.
    pub raw: Vec<u8>,
    column: Vec<f32>,
    factor: Vec<f32>,
}

fn product(shape: &[u64]) -> Option<u64> {
    shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d))
}

impl BoundTransform {
    /// Binds `transform` to `source` for the output tensor `name`, whose row-major shape is `shape`. Checks that every
    /// source tensor exists and that the shapes fit.
    ///
    /// # Errors
    /// [`Error::Model`], which names the tensor.
    pub fn bind(name: &str, shape: &[u64], transform: &Transform, source: &Source) -> Result<Self> {
        let bound = Binder { name, source }.bind(transform)?;
        if product(shape) != Some(bound.len) {
            return Err(Binder { name, source }.fail(format!(
                "has the shape {:?} in the checkpoint where the config asks for {:?}",
                bound.shape, shape
            )));
        }
        Ok(bound)
    }

    /// Binds a tensor of integers, which is copied: it must be a tensor of the source of the type `ty` and of this shape.
    ///
    /// # Errors
    /// [`Error::Model`], which names the tensor.
    pub fn integers(
        name: &str,
        shape: &[u64],
        transform: &Transform,
        source: &Source,
        ty: GgmlType,
    ) -> Result<Self> {
        let binder = Binder { name, source };
        let Transform::Source { tensor } = transform else {
            return Err(binder.fail("is made of integers, which are copied only".into()));
        };
        let index = binder.found(tensor)?;
        if source.encoding(index).as_ggml() != Some(ty) || source.shape(index) != shape {
            let (found, wanted, encoding) = (source.shape(index), ty.name(), source.encoding(index).name());
            return Err(binder.fail(format!(
                "has the shape {found:?} and the type {encoding} in the source, where {shape:?} and {wanted} are expected"
            )));
        }
        binder.node(Op::Source { index }, shape.to_vec())
    }

    /// The tensor with its columns multiplied by the factors of `columns`, and its rows, or the values of a vector, divided by those of
    /// `rows`.
    pub fn scaled(of: Arc<Self>, columns: Option<Arc<Channels>>, rows: Option<Arc<Channels>>) -> Self {
        let width = if of.shape.len() > 1 { of.shape[of.shape.len() - 1] } else { 1 };
        let (shape, len) = (of.shape.clone(), of.len);
        Self { op: Op::Scaled { of, columns, rows, width }, shape, len }
    }

    /// Returns the shape, row-major.
    pub fn shape(&self) -> &[u64] {
        &self.shape
    }

    /// Returns the number of elements.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Returns whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the index of the source tensor if the output is that very tensor.
    pub fn as_source(&self) -> Option<usize> {
        match &self.op {
            Op::Source { index } => Some(*index),
            Op::Reshape { of } => of.as_source(),
            _ => None,
        }
    }

    /// Calls `f` with the index of each source tensor.
    pub fn for_each_source(&self, f: &mut impl FnMut(usize)) {
        match &self.op {
            Op::Source { index } => f(*index),
            Op::Concat { parts } | Op::Product { parts } | Op::Sum { parts } => {
                parts.iter().for_each(|p| p.for_each_source(f));
            }
            Op::Dequantize { sources, .. } => sources.iter().for_each(|&index| f(index)),
            Op::Generated { .. } | Op::Sinusoids { .. } => {}
            Op::FoldedNorm { weight, variance, shift, .. } => {
                weight.for_each_source(f);
                variance.for_each_source(f);
                if let Some(shift) = shift {
                    shift.0.for_each_source(f);
                    shift.1.for_each_source(f);
                }
            }
            Op::Merge { of } => of.parts().for_each(|part| part.for_each_source(f)),
            Op::Scaled { of, .. } => of.for_each_source(f),
            Op::PermuteHeads { of, .. }
            | Op::Affine { of, .. }
            | Op::Slice { of, .. }
            | Op::Transpose { of, .. }
            | Op::Pad { of, .. }
            | Op::Bilinear { of, .. }
            | Op::NegExp { of }
            | Op::Softplus { of }
            | Op::Ternary { of, .. }
            | Op::View { of, .. }
            | Op::Reshape { of } => of.for_each_source(f),
        }
    }

    /// Writes the elements `start .. start + out.len()` to `out`, decoded to f32.
    ///
    /// # Errors
    /// As [`Source::read_f32`].
    ///
    /// # Panics
    /// If the run is not inside the tensor.
    pub fn read(&self, source: &Source, start: u64, out: &mut [f32], scratch: &mut Scratch) -> Result<()> {
        assert!(
            start.checked_add(out.len() as u64).is_some_and(|end| end <= self.len),
            "a run lies in its tensor"
        );
        match &self.op {
            Op::Source { index } => source.read_f32(*index, start, out, &mut scratch.raw),
            Op::Dequantize { of, .. } => of.read(source, start, out, &mut scratch.raw),
            Op::Merge { of } => of.read(start, out, &mut |part, at, run| part.read(source, at, run, scratch)),
            Op::Generated { values } => {
                out.copy_from_slice(&values[start as usize..start as usize + out.len()]);
                Ok(())
            }
            Op::Reshape { of } => of.read(source, start, out, scratch),
            Op::Slice { of, first } => of.read(source, first + start, out, scratch),
            Op::Affine { of, mul, add } => {
                of.read(source, start, out, scratch)?;
                // A sum with 0 would turn -0 into 0.
                match *add {
                    0.0 => out.iter_mut().for_each(|x| *x *= mul),
                    add => out.iter_mut().for_each(|x| *x = *x * mul + add),
                }
                Ok(())
            }
            Op::Product { parts } => read_combined(parts, |x, y| x * y, source, start, out, scratch),
            Op::Sum { parts } => read_combined(parts, |x, y| x + y, source, start, out, scratch),
            Op::Bilinear { of, across, rows, columns } => {
                let mut corner = std::mem::take(&mut scratch.factor);
                let width = self.len / (rows.len() * columns.len()) as u64;
                let done = for_each_row(start, width, out, |at, column, piece| {
                    let (row, place) = (at / columns.len() as u64, at % columns.len() as u64);
                    let (y, x) = (rows[row as usize], columns[place as usize]);
                    corner.resize(piece.len(), 0.0);
                    piece.fill(0.0);
                    // Sums of four products depend on their order: this is the order of PyTorch.
                    for (i, j) in [(1, 0), (1, 1), (0, 1), (0, 0)] {
                        let from = (y.positions[i] * across + x.positions[j]) * width + column;
                        of.read(source, from, &mut corner, scratch)?;
                        let weight = y.weights[i] * x.weights[j];
                        piece
                            .iter_mut()
                            .zip(&corner)
                            .for_each(|(sum, &value)| *sum = fused(weight, value, *sum));
                    }
                    Ok(())
                });
                scratch.factor = corner;
                done
            }
            Op::NegExp { of } => {
                of.read(source, start, out, scratch)?;
                out.iter_mut().for_each(|x| *x = -exp(*x));
                Ok(())
            }
            Op::Softplus { of } => {
                of.read(source, start, out, scratch)?;
                out.iter_mut().for_each(|x| *x = softplus(*x));
                Ok(())
            }
            Op::FoldedNorm { weight, variance, shift, epsilon } => {
                let mut factor = std::mem::take(&mut scratch.factor);
                factor.resize(out.len(), 0.0);
                let done = read_folded_norm(
                    weight,
                    variance,
                    shift.as_deref(),
                    *epsilon,
                    source,
                    start,
                    out,
                    &mut factor,
                    scratch,
                );
                scratch.factor = factor;
                done
            }
            Op::Sinusoids { frequencies } => {
                let half = frequencies.len() as u64;
                for (at, x) in (start..).zip(out.iter_mut()) {
                    let (row, column) = (at / (2 * half), at % (2 * half));
                    let angle = row as f32 * frequencies[(column % half) as usize];
                    *x = sin_or_cos(angle, column >= half);
                }
                Ok(())
            }
            Op::Ternary { of, inverse } => {
                let inverse = match inverse.get() {
                    Some(known) => *known,
                    None => {
                        // Threads that come here together find the same value.
                        let found = 1.0 / mean_magnitude(of, source, scratch)?.max(1e-5);
                        *inverse.get_or_init(|| found)
                    }
                };
                of.read(source, start, out, scratch)?;
                out.iter_mut().for_each(|x| *x = (*x * inverse).round_ties_even().clamp(-1.0, 1.0) / inverse);
                Ok(())
            }
            Op::Scaled { of, columns, rows, width } => {
                of.read(source, start, out, scratch)?;
                let columns = columns.as_ref().map(|c| c.factors(source, scratch)).transpose()?;
                let rows = rows.as_ref().map(|r| r.factors(source, scratch)).transpose()?;
                for_each_row(start, *width, out, |row, column, piece| {
                    if let Some(factors) = columns {
                        piece.iter_mut().zip(&factors.columns[column as usize..]).for_each(|(x, f)| *x *= f);
                    }
                    if let Some(factors) = rows {
                        piece.iter_mut().for_each(|x| *x /= factors.channels[row as usize]);
                    }
                    Ok(())
                })
            }
            Op::View { of, view } => {
                let mut buffer = std::mem::take(&mut scratch.column);
                let done =
                    view.read(start, out, &mut buffer, |at, piece| of.read(source, at, piece, scratch));
                scratch.column = buffer;
                done
            }
            Op::Pad { of, value } => {
                let inside = of.len.saturating_sub(start).min(out.len() as u64) as usize;
                let (head, tail) = out.split_at_mut(inside);
                tail.fill(*value);
                if head.is_empty() { Ok(()) } else { of.read(source, start, head, scratch) }
            }
            Op::Concat { parts } => read_concat(parts, source, start, out, scratch),
            Op::PermuteHeads { of, cols, head_rows } => for_each_row(start, *cols, out, |row, col, piece| {
                of.read(source, unpermuted(row, *head_rows) * cols + col, piece, scratch)
            }),
            Op::Transpose { of, rows, cols } => {
                read_transposed(of, *rows, *cols, source, start, out, scratch)
            }
        }
    }
}

/// Reads a run of each part and combines the elements, from the first part to the last.
fn read_combined(
    parts: &[BoundTransform],
    combine: impl Fn(f32, f32) -> f32,
    source: &Source,
    start: u64,
    out: &mut [f32],
    scratch: &mut Scratch,
) -> Result<()> {
    let Some((first, others)) = parts.split_first() else { return Ok(()) };
    let mut buffer = std::mem::take(&mut scratch.factor);
    buffer.resize(out.len(), 0.0);
    let mut done = first.read(source, start, out, scratch);
    for part in others {
        done = done.and_then(|()| part.read(source, start, &mut buffer, scratch));
        out.iter_mut().zip(&buffer).for_each(|(x, &y)| *x = combine(*x, y));
    }
    scratch.factor = buffer;
    done
}

/// Reads the factor (or with `shift` the summand) of a normalization over a batch whose statistics are fixed. Each step is
/// rounded to f32.
#[expect(
    clippy::too_many_arguments,
    reason = "two tensors, two more for the summand, and the run that is read"
)]
fn read_folded_norm(
    weight: &BoundTransform,
    variance: &BoundTransform,
    shift: Option<&(BoundTransform, BoundTransform)>,
    epsilon: f32,
    source: &Source,
    start: u64,
    out: &mut [f32],
    buffer: &mut [f32],
    scratch: &mut Scratch,
) -> Result<()> {
    weight.read(source, start, out, scratch)?;
    variance.read(source, start, buffer, scratch)?;
    out.iter_mut().zip(&*buffer).for_each(|(x, v)| *x /= (v + epsilon).sqrt());
    if let Some((bias, mean)) = shift {
        mean.read(source, start, buffer, scratch)?;
        out.iter_mut().zip(&*buffer).for_each(|(x, m)| *x *= m);
        bias.read(source, start, buffer, scratch)?;
        out.iter_mut().zip(&*buffer).for_each(|(x, b)| *x = b - *x);
    }
    Ok(())
}

// The functions of the system's library differ between systems, and the same model must give the same bytes everywhere. So
// these take the ones of the crate libm in f64, and round once.

/// Returns e^x.
fn exp(x: f32) -> f32 {
    libm::exp(f64::from(x)) as f32
}

/// Returns ln(1 + e^x).
fn softplus(x: f32) -> f32 {
    let x = f64::from(x);
    // e^x alone would overflow: ln(1 + e^x) = max(x, 0) + ln(1 + e^-|x|).
    (x.max(0.0) + libm::log1p(libm::exp(-x.abs()))) as f32
}

/// Returns sin(x) or cos(x).
fn sin_or_cos(x: f32, cosine: bool) -> f32 {
    let x = f64::from(x);
    (if cosine { libm::cos(x) } else { libm::sin(x) }) as f32
}

/// Returns the row of the Hugging Face tensor that becomes `row`. Within a head of `n` rows, row `2 i + j` of the GGUF comes
/// from row `j n / 2 + i`.
fn unpermuted(row: u64, head_rows: u64) -> u64 {
    let (head, within) = (row / head_rows, row % head_rows);
    head * head_rows + (within % 2) * (head_rows / 2) + within / 2
}

/// Cuts a flat run into pieces of rows, and calls `f(row, first column, piece of out)` for each.
fn for_each_row(
    start: u64,
    cols: u64,
    mut out: &mut [f32],
    mut f: impl FnMut(u64, u64, &mut [f32]) -> Result<()>,
) -> Result<()> {
    let mut at = start;
    while !out.is_empty() {
        let (row, col) = (at / cols, at % cols);
        let n = (cols - col).min(out.len() as u64);
        let (piece, rest) = out.split_at_mut(n as usize);
        f(row, col, piece)?;
        at += n;
        out = rest;
    }
    Ok(())
}

fn read_concat(
    parts: &[BoundTransform],
    source: &Source,
    mut start: u64,
    mut out: &mut [f32],
    scratch: &mut Scratch,
) -> Result<()> {
    for part in parts {
        if out.is_empty() {
            break;
        }
        if start >= part.len {
            start -= part.len;
            continue;
        }
        let n = (part.len - start).min(out.len() as u64);
        let (piece, rest) = out.split_at_mut(n as usize);
        part.read(source, start, piece, scratch)?;
        start = 0;
        out = rest;
    }
    Ok(())
}

/// Transposes matrices of `rows x cols` to `cols x rows`. Several output rows are made together, so that a read of the source
/// takes a piece of a row instead of one element.
fn read_transposed(
    of: &BoundTransform,
    rows: u64,
    cols: u64,
    source: &Source,
    start: u64,
    out: &mut [f32],
    scratch: &mut Scratch,
) -> Result<()> {
    let matrix = rows * cols;
    let mut at = start;
    let mut out = out;
    while !out.is_empty() {
        let (slice, within) = (at / matrix, at % matrix);
        let n = (matrix - within).min(out.len() as u64);
        let (piece, rest) = out.split_at_mut(n as usize);
        let (first, last) = (within / rows, (within + n - 1) / rows);
        let mut column = std::mem::take(&mut scratch.column);
        column.resize((last - first + 1) as usize, 0.0);
        for r in 0..rows {
            of.read(source, slice * matrix + r * cols + first, &mut column, scratch)?;
            for (c, &value) in (first..).zip(&column) {
                if let Some(i) = (c * rows + r).checked_sub(within)
                    && i < n
                {
                    piece[i as usize] = value;
                }
            }
        }
        scratch.column = column;
        at += n;
        out = rest;
    }
    Ok(())
}

/// Returns the mean magnitude of all values, summed in order in f64.
fn mean_magnitude(of: &BoundTransform, source: &Source, scratch: &mut Scratch) -> Result<f32> {
    let mut buffer = vec![0.0f32; of.len.min(1 << 14) as usize];
    let (mut at, mut sum) = (0u64, 0.0f64);
    while at < of.len {
        let n = (of.len - at).min(buffer.len() as u64) as usize;
        of.read(source, at, &mut buffer[..n], scratch)?;
        sum += buffer[..n].iter().map(|&x| f64::from(x.abs())).sum::<f64>();
        at += n as u64;
    }
    Ok((sum / of.len as f64) as f32)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::error::Error;

    /// A source with one F32 tensor `t` holding 0, 1, 2, ... and its folder.
    fn counting(shape: &[u64]) -> (tempfile::TempDir, Source) {
        let n: u64 = shape.iter().product();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.safetensors");
        let header = serde_json::json!({"t": {"dtype": "F32", "shape": shape, "data_offsets": [0, n * 4]}})
            .to_string();
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        (0..n).for_each(|i| bytes.extend((i as f32).to_le_bytes()));
        std::fs::write(&path, bytes).unwrap();
        let checkpoint = crate::formats::safetensors::Checkpoint::open(&path).unwrap();
        let source = Source::from_checkpoint(&checkpoint);
        (dir, source)
    }

    fn transform(json: &str) -> Transform {
        serde_json::from_str(&json.replace('T', r#"{"op": "source", "tensor": "t"}"#)).unwrap()
    }

    fn all(shape: &[u64], json: &str, out: &[u64]) -> Vec<f32> {
        let (_dir, source) = counting(shape);
        let bound = BoundTransform::bind("x", out, &transform(json), &source).unwrap();
        let mut values = vec![f32::NAN; bound.len as usize];
        bound.read(&source, 0, &mut values, &mut Scratch::default()).unwrap();
        values
    }

    #[test]
    fn channels_are_scaled() {
        // Two rows of two heads of two columns, which share their channels: 0 a 0 b and 0 c 0 d. Channel 0 is never used.
        let json = r#"{"op": "generated", "values": [0.0, 1.0, 0.0, 7.0, 0.0, 5.0, 0.0, 5.0]}"#;
        let (_dir, source) = counting(&[2]);
        let bind = |shape: &[u64], json: &str| {
            let json = format!(r#"{{"op": "reshape", "shape": {shape:?}, "of": {json}}}"#);
            Arc::new(BoundTransform::bind("x", shape, &transform(&json), &source).unwrap())
        };
        let taker = bind(&[2, 4], json);
        let channels = Arc::new(Channels::new(vec![Arc::clone(&taker)], (2, 2)));
        let scratch = &mut Scratch::default();
        let factors = channels.factors(&source, scratch).unwrap();
        assert_eq!((factors.channels.as_slice(), factors.columns.as_slice()), (&[1.0; 2][..], &[1.0; 4][..]));
        // The sizes of the columns are 1 and 3 in one matrix, and 4 and 12 in the other.
        let ones = |values: &str| bind(&[1, 2], &format!(r#"{{"op": "generated", "values": {values}}}"#));
        let two = vec![ones("[1.0, 3.0]"), ones("[-4.0, 12.0]")];
        let channels = Arc::new(Channels::new(two, (2, 1)));
        let columns = BoundTransform::scaled(ones("[1.0, 3.0]"), Some(Arc::clone(&channels)), None);
        let norm = bind(&[2], r#"{"op": "generated", "values": [1.0, 1.0]}"#);
        let rows = BoundTransform::scaled(norm, None, Some(channels));
        let mut read = |of: &BoundTransform| {
            let mut values = vec![f32::NAN; of.len() as usize];
            of.read(&source, 0, &mut values, scratch).unwrap();
            let mut last = [f32::NAN];
            of.read(&source, of.len() - 1, &mut last, scratch).unwrap();
            assert_eq!(last[0], values[values.len() - 1]);
            values
        };
        assert_eq!(read(&columns), [1.5, 1.5]);
        assert_eq!(read(&rows), [1.0 / 1.5, 1.0 / 0.5]);
        assert_eq!(columns.as_source(), None);
    }

    #[test]
    fn heads_are_interleaved() {
        // Two heads of four rows of one element: halves (0 1 | 2 3) become pairs 0 2 1 3.
        let values = all(&[8, 1], r#"{"op": "permute_heads", "heads": 2, "of": T}"#, &[8, 1]);
        assert_eq!(values, [0., 2., 1., 3., 4., 6., 5., 7.]);
        // A bias is permuted by elements.
        assert_eq!(all(&[8], r#"{"op": "permute_heads", "heads": 2, "of": T}"#, &[8]), values);
    }

    #[test]
    fn transposes_every_slice() {
        let values = all(&[2, 2, 3], r#"{"op": "transpose", "slices": 2, "of": T}"#, &[2, 3, 2]);
        assert_eq!(values, [0., 3., 1., 4., 2., 5., 6., 9., 7., 10., 8., 11.]);
    }

    #[test]
    fn views_take_and_reorder() {
        // Every second row of a matrix, and its columns in another order.
        let every = r#"{"op": "view", "of": T, "shape": [2, 3], "strides": [6, 1], "offset": 3}"#;
        assert_eq!(all(&[4, 3], every, &[2, 3]), [3., 4., 5., 9., 10., 11.]);
        let columns = r#"{"op": "view", "of": T, "shape": [2, 2, 2], "strides": [4, 1, 2]}"#;
        assert_eq!(all(&[2, 4], columns, &[2, 4]), [0., 2., 1., 3., 4., 6., 5., 7.]);
    }

    #[test]
    fn exp_is_that_of_the_library() {
        let steps = (0..400_000).map(|i| i as f32 * 0.0005 - 110.0);
        for x in steps.chain([0.0, -0.0, 88.72, 88.73, 1e9, -1e9, f32::INFINITY, f32::NEG_INFINITY]) {
            let wanted = f64::from(x).exp() as f32;
            assert!(exp(x) == wanted || (exp(x).to_bits().abs_diff(wanted.to_bits()) <= 1), "{x}");
        }
        assert!(exp(f32::NAN).is_nan());
        let values = all(&[3], r#"{"op": "neg_exp", "of": T}"#, &[3]);
        assert_eq!(values, [-1.0, -std::f32::consts::E, -7.389_056]);
    }

    #[test]
    fn softplus_is_that_of_the_library() {
        for i in -40_000..40_000 {
            let x = i as f32 * 0.002;
            let wanted = (f64::from(x).exp().ln_1p()) as f32;
            let found = softplus(x);
            assert!(found.to_bits().abs_diff(wanted.to_bits()) <= 1, "{x}: {found} {wanted}");
        }
        for x in [1e9f32, f32::INFINITY] {
            assert_eq!(softplus(x), x);
        }
        assert!(softplus(f32::NAN).is_nan());
        assert_eq!(softplus(f32::NEG_INFINITY), softplus(-200.0));
        let values = all(&[2], r#"{"op": "softplus", "of": T}"#, &[2]);
        assert_eq!(values, [std::f32::consts::LN_2, 1f64.exp().ln_1p() as f32]);
    }

    #[test]
    fn sines_and_cosines_are_those_of_the_library() {
        for i in 0..400_000 {
            let x = i as f32 * 0.0391;
            for (found, wanted) in [(sin_or_cos(x, false), x as f64), (sin_or_cos(x, true), x as f64)]
                .into_iter()
                .zip([f64::sin as fn(f64) -> f64, f64::cos])
                .map(|((found, x), function)| (found, function(x) as f32))
            {
                assert!((found - wanted).abs() <= 6e-8 * wanted.abs() + 1e-13, "{x}: {found} {wanted}");
            }
        }
    }

    #[test]
    fn positions_are_sines_and_then_cosines() {
        let json = r#"{"op": "sinusoids", "rows": 3, "columns": 4}"#;
        let values = all(&[1], json, &[3, 4]);
        let wanted = [0.0, 0.0, 1.0, 1.0, 1.0, 1e-4, 1.0, 1.0, 2.0, 2e-4, 2.0, 2e-4f64];
        for (index, value) in values.iter().enumerate() {
            let angle = wanted[index / 4 * 4 + index % 2];
            let angle = if index / 4 == 0 { 0.0 } else { angle };
            let exact = if index % 4 < 2 { angle.sin() } else { angle.cos() };
            assert!((f64::from(*value) - exact).abs() < 1e-7, "{index}: {value} {exact}");
        }
        let open = all(&[1], &json.replace("4}", "4, \"open\": true}"), &[3, 4]);
        assert!((f64::from(open[5]) - 0.01f64.sin()).abs() < 1e-7, "{open:?}");
        assert_eq!((open[4], open[6]), (values[4], values[6]));
    }

    #[test]
    fn a_normalization_with_fixed_statistics_is_a_factor_and_a_summand() {
        let factor = r#"{"op": "folded_norm", "weight": T, "variance": T, "epsilon": 1.0}"#;
        assert_eq!(all(&[4], factor, &[4]), [0.0, 1.0 / 2f32.sqrt(), 2.0 / 3f32.sqrt(), 1.5]);
        let shift = factor.replace(r#""epsilon""#, r#""shift": [T, T], "epsilon""#);
        let wanted = [0.0, 1.0 - 1.0 / 2f32.sqrt(), 2.0 - 2.0 / 3f32.sqrt() * 2.0, 3.0 - 1.5 * 3.0];
        assert_eq!(all(&[4], &shift, &[4]), wanted);
    }

    #[test]
    fn ternary_values_are_the_mean_magnitude_or_nothing() {
        let centred = r#"{"op": "affine", "add": -4.0, "of": T}"#;
        let values = all(&[3, 3], &format!(r#"{{"op": "ternary", "of": {centred}}}"#), &[3, 3]);
        let mean = 20.0f32 / 9.0; // of 4, 3, 2, 1, 0, 1, 2, 3, 4: one is nearer to nothing than to the mean
        let s = 1.0 / (1.0 / mean);
        assert_eq!(values, [-s, -s, -s, 0.0, 0.0, 0.0, s, s, s]);
        assert_eq!(
            all(&[2], r#"{"op": "ternary", "of": {"op": "affine", "mul": 0.0, "of": T}}"#, &[2]),
            [0.0; 2]
        );
    }

    #[test]
    fn an_update_of_low_rank_is_added() {
        // The weight is 0 to 11 in three rows of four; the factors are its first column and its first row.
        let up = r#"{"op": "view", "of": T, "shape": [3, 1], "strides": [4, 1]}"#;
        let down = r#"{"op": "view", "of": T, "shape": [1, 4], "strides": [4, 1]}"#;
        let json = |more: &str| {
            format!(r#"{{"op": "merge", "of": T, "up": {up}, "down": {down}, "scale": 0.5{more}}}"#)
        };
        let plain = all(&[3, 4], &json(""), &[3, 4]);
        assert_eq!(plain, [0., 1., 2., 3., 4., 7., 10., 13., 8., 13., 18., 23.]);
        let long = r#", "magnitude": {"op": "generated", "values": [1.0, 2.0, 3.0]}"#;
        let scaled = all(&[3, 4], &json(long), &[3, 4]);
        for (i, (row, wanted)) in scaled.chunks(4).zip([1.0f32, 2.0, 3.0]).enumerate() {
            assert!((row.iter().map(|x| x * x).sum::<f32>().sqrt() - wanted).abs() < 1e-6, "{i}");
        }
        // Runs of any length give the same values.
        let (_dir, source) = counting(&[3, 4]);
        for (json, whole) in [(json(""), plain), (json(long), scaled)] {
            let bound = BoundTransform::bind("x", &[3, 4], &transform(&json), &source).unwrap();
            for start in 0..12 {
                for end in start..=12 {
                    let mut run = vec![f32::NAN; end - start];
                    bound.read(&source, start as u64, &mut run, &mut Scratch::default()).unwrap();
                    assert_eq!(run, whole[start..end], "{start}..{end}");
                }
            }
        }
        let (_dir, source) = counting(&[3, 4]);
        let wrong = transform(r#"{"op": "merge", "of": T, "up": T, "down": T, "scale": 1.0}"#);
        assert!(BoundTransform::bind("x", &[3, 4], &wrong, &source).is_err());
    }

    #[test]
    fn products_are_taken_element_by_element() {
        let values =
            all(&[2, 2], r#"{"op": "product", "of": [T, {"op": "affine", "add": 1.0, "of": T}]}"#, &[4]);
        assert_eq!(values, [0., 2., 6., 12.]);
    }

    #[test]
    fn sums_are_taken_element_by_element() {
        let values = all(&[2, 2], r#"{"op": "sum", "of": [T, {"op": "affine", "add": 1.0, "of": T}]}"#, &[4]);
        assert_eq!(values, [1., 3., 5., 7.]);
    }

    #[test]
    fn a_grid_of_another_size_lies_between_the_old_positions() {
        // The positions of a grid of 2 rows and 3 columns have two values each: 0, 1; 2, 3; ...
        let of = |to: &str| format!(r#"{{"op": "bilinear", "from": [2, 3], "to": {to}, "of": T}}"#);
        let same = all(&[6, 2], &of("[2, 3]"), &[6, 2]);
        assert_eq!(same, (0..12).map(|x| x as f32).collect::<Vec<_>>());
        assert_eq!(all(&[6, 2], &of("[1, 1]"), &[1, 2]), [0., 1.]);
        // Along an axis of linear values, interpolation gives linear values.
        let finer = all(&[6, 2], &of("[3, 5]"), &[15, 2]);
        let wanted: Vec<f32> = (0..15)
            .flat_map(|at| [0., 1.].map(|part| (at / 5) as f32 * 3. + (at % 5) as f32 + part))
            .collect();
        assert_eq!(finer, wanted);
    }

    #[test]
    fn rows_concat_pad_affine_generated() {
        let values = all(
            &[3, 2],
            r#"{"op": "pad_rows", "rows": 5, "value": -1.0, "of": {"op": "concat", "of": [
                {"op": "rows", "start": 2, "count": 1, "of": T},
                {"op": "affine", "mul": 2.0, "add": 1.0, "of": {"op": "rows", "start": 0, "count": 1, "of": T}},
                {"op": "reshape", "shape": [1, 2], "of": {"op": "generated", "values": [7.0, 8.0]}}]}}"#,
            &[5, 2],
        );
        assert_eq!(values, [4., 5., 1., 3., 7., 8., -1., -1., -1., -1.]);
    }

    #[test]
    fn rows_of_a_stack_are_counted_through_all_its_matrices() {
        let values = all(&[2, 2, 2], r#"{"op": "rows", "start": 1, "count": 2, "of": T}"#, &[2, 2]);
        assert_eq!(values, [2., 3., 4., 5.]);
        assert_eq!(all(&[4], r#"{"op": "rows", "start": 1, "count": 2, "of": T}"#, &[2]), [1., 2.]);
    }

    #[test]
    fn shapes_that_do_not_follow_are_refused() {
        let (_dir, source) = counting(&[3, 2]);
        for (json, shape) in [
            ("T", vec![3, 3]),
            (r#"{"op": "source", "tensor": "absent"}"#, vec![3, 2]),
            (r#"{"op": "permute_heads", "heads": 2, "of": T}"#, vec![3, 2]),
            (r#"{"op": "rows", "start": 2, "count": 2, "of": T}"#, vec![2, 2]),
            (r#"{"op": "reshape", "shape": [4, 2], "of": T}"#, vec![4, 2]),
            (r#"{"op": "concat", "of": []}"#, vec![0]),
            (r#"{"op": "product", "of": []}"#, vec![0]),
            (r#"{"op": "product", "of": [T, {"op": "rows", "start": 0, "count": 1, "of": T}]}"#, vec![3, 2]),
            (r#"{"op": "sum", "of": []}"#, vec![0]),
            (r#"{"op": "bilinear", "from": [2, 2], "to": [1, 1], "of": T}"#, vec![1, 1]),
            (r#"{"op": "bilinear", "from": [3, 0], "to": [1, 1], "of": T}"#, vec![1, 1]),
            (r#"{"op": "bilinear", "from": [3, 1], "to": [3, 4294967296], "of": T}"#, vec![1, 1]),
            (r#"{"op": "sinusoids", "rows": 3, "columns": 3}"#, vec![3, 3]),
            (r#"{"op": "sinusoids", "rows": 0, "columns": 4}"#, vec![0, 4]),
            (r#"{"op": "sinusoids", "rows": 3, "columns": 18446744073709551614}"#, vec![3]),
            (
                r#"{"op": "folded_norm", "weight": T, "variance": {"op": "generated", "values": [1.0]}, "epsilon": 1.0}"#,
                vec![3, 2],
            ),
            (r#"{"op": "view", "of": T, "shape": [3], "strides": [2], "offset": 2}"#, vec![3]),
            (r#"{"op": "view", "of": T, "shape": [2, 2], "strides": [1]}"#, vec![2, 2]),
            (r#"{"op": "view", "of": T, "shape": [4294967296, 4294967296], "strides": [0, 0]}"#, vec![0]),
            (r#"{"op": "view", "of": T, "shape": [2], "strides": [18446744073709551615]}"#, vec![2]),
        ] {
            let error = BoundTransform::bind("x", &shape, &transform(json), &source).unwrap_err();
            assert!(matches!(error, Error::Model { .. }), "{json}: {error}");
        }
    }

    proptest! {
        /// Any piece of a transform equals that piece of the whole.
        #[test]
        fn pieces_equal_the_whole(start in 0u64..96, len in 0u64..96) {
            let json = r#"{"op": "concat", "of": [
                {"op": "transpose", "slices": 2, "of": {"op": "reshape", "shape": [2, 4, 6], "of": T}},
                {"op": "reshape", "shape": [2, 6, 4], "of": {"op": "permute_heads", "heads": 3, "of": T}}]}"#;
            let whole = all(&[12, 4], json, &[4, 6, 4]);
            let (_dir, source) = counting(&[12, 4]);
            let bound = BoundTransform::bind("x", &[4, 6, 4], &transform(json), &source).unwrap();
            let end = (start + len).min(96);
            let mut piece = vec![f32::NAN; (end - start) as usize];
            bound.read(&source, start, &mut piece, &mut Scratch::default()).unwrap();
            prop_assert_eq!(&piece[..], &whole[start as usize..end as usize]);
        }
    }
}
