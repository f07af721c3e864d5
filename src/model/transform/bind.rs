//! Binds a [`Transform`] to the tensors of a source: every name is looked up and every shape is checked, before the first
//! element is read.

use std::sync::OnceLock;

use super::{Between, BoundTransform, Op, exp, product};
use crate::error::{Error, Place, Result};
use crate::model::dequantize::Dequantizer;
use crate::model::lowrank::Merged;
use crate::model::source::Source;
use crate::model::spec::Transform;
use crate::model::view::View;

/// Builds the nodes of one output tensor.
pub(super) struct Binder<'a> {
    pub(super) name: &'a str,
    pub(super) source: &'a Source,
}

impl Binder<'_> {
    pub(super) fn fail(&self, what: String) -> Error {
        Error::model(
            Place::file(self.source.path()).tensor(self.name),
            what,
            "Check that config.json belongs to these weights",
        )
    }

    pub(super) fn node(&self, op: Op, shape: Vec<u64>) -> Result<BoundTransform> {
        let len = product(&shape)
            .ok_or_else(|| self.fail(format!("shape {shape:?} has more than 2^64 elements")))?;
        Ok(BoundTransform { op, shape, len })
    }

    pub(super) fn bind(&self, transform: &Transform) -> Result<BoundTransform> {
        match transform {
            Transform::Source { tensor } => self.source_tensor(tensor),
            Transform::PermuteHeads { of, heads } => self.permute(self.bind(of)?, *heads),
            Transform::Affine { of, mul, add } => {
                let of = self.bind(of)?;
                let shape = of.shape.clone();
                self.node(Op::Affine { of: Box::new(of), mul: *mul, add: *add }, shape)
            }
            Transform::Rows { of, start, count } => self.rows(self.bind(of)?, *start, *count),
            Transform::Concat { of } => self.concat(of),
            Transform::Transpose { of, slices } => self.transpose(self.bind(of)?, *slices),
            Transform::PadRows { of, rows, value } => self.pad(self.bind(of)?, *rows, *value),
            Transform::Reshape { of, shape } => {
                let of = self.bind(of)?;
                if product(shape) != Some(of.len) {
                    return Err(self.fail(format!("cannot reshape {:?} to {shape:?}", of.shape)));
                }
                self.node(Op::Reshape { of: Box::new(of) }, shape.clone())
            }
            Transform::Dequantize(said) => {
                let of = Dequantizer::bind(said, self.source)?.map_err(|what| self.fail(what))?;
                let mut sources = Vec::new();
                said.for_each_source(&mut |name| sources.extend(self.source.find(name)));
                self.node(Op::Dequantize { of: Box::new(of), sources }, said.shape.clone())
            }
            Transform::Product { of } => {
                let (parts, shape) = self.equal_parts(of, "product")?;
                self.node(Op::Product { parts }, shape)
            }
            Transform::Sum { of } => {
                let (parts, shape) = self.equal_parts(of, "sum")?;
                self.node(Op::Sum { parts }, shape)
            }
            Transform::Bilinear { of, from, to } => self.bilinear(self.bind(of)?, *from, *to),
            Transform::NegExp { of } => {
                let of = self.bind(of)?;
                let shape = of.shape.clone();
                self.node(Op::NegExp { of: Box::new(of) }, shape)
            }
            Transform::Softplus { of } => {
                let of = self.bind(of)?;
                let shape = of.shape.clone();
                self.node(Op::Softplus { of: Box::new(of) }, shape)
            }
            Transform::FoldedNorm { weight, variance, shift, epsilon } => {
                self.folded_norm(weight, variance, shift.as_deref(), *epsilon)
            }
            Transform::Sinusoids { rows, columns, open } => self.sinusoids(*rows, *columns, *open),
            Transform::Ternary { of } => {
                let of = self.bind(of)?;
                let shape = of.shape.clone();
                self.node(Op::Ternary { of: Box::new(of), inverse: OnceLock::new() }, shape)
            }
            Transform::View { of, shape, strides, offset } => {
                let of = self.bind(of)?;
                let view = View::new(of.len, shape, strides, *offset).ok_or_else(|| {
                    self.fail(format!("a view of shape {shape:?} does not lie inside {:?}", of.shape))
                })?;
                self.node(Op::View { of: Box::new(of), view }, shape.clone())
            }
            Transform::Merge { of, up, down, scale, magnitude } => {
                let of = self.merged(of, up, down, *scale, magnitude.as_deref())?;
                let shape = of.of.shape.clone();
                self.node(Op::Merge { of: Box::new(of) }, shape)
            }
            Transform::Generated { values } => {
                self.node(Op::Generated { values: values.clone() }, vec![values.len() as u64])
            }
        }
    }

    /// Returns parts with equally many elements, and the shape of the first.
    fn equal_parts(&self, of: &[Transform], what: &str) -> Result<(Vec<BoundTransform>, Vec<u64>)> {
        let parts = of.iter().map(|t| self.bind(t)).collect::<Result<Vec<_>>>()?;
        let Some(shape) = parts.first().map(|p| p.shape.clone()) else {
            return Err(self.fail(format!("is a {what} of no parts")));
        };
        if parts.iter().any(|p| p.len != parts[0].len) {
            return Err(self.fail(format!("is a {what} of parts of different sizes")));
        }
        Ok((parts, shape))
    }

    fn bilinear(&self, of: BoundTransform, from: (u64, u64), to: (u64, u64)) -> Result<BoundTransform> {
        let sides = [from.0, from.1, to.0, to.1];
        let positions = from.0.saturating_mul(from.1);
        // So many positions are exact in f32.
        if sides.iter().any(|side| !(1..=1 << 16).contains(side)) || !of.len.is_multiple_of(positions.max(1))
        {
            let shape = &of.shape;
            return Err(
                self.fail(format!("{shape:?} is no table for a grid of {from:?}, or {to:?} is no grid"))
            );
        }
        let shape = vec![to.0 * to.1, of.len / positions];
        let (rows, columns) = (between(from.0, to.0), between(from.1, to.1));
        self.node(Op::Bilinear { of: Box::new(of), across: from.1, rows, columns }, shape)
    }

    fn folded_norm(
        &self,
        weight: &Transform,
        variance: &Transform,
        shift: Option<&(Transform, Transform)>,
        epsilon: f32,
    ) -> Result<BoundTransform> {
        let (weight, variance) = (self.bind(weight)?, self.bind(variance)?);
        let shift = match shift {
            Some((bias, mean)) => Some(Box::new((self.bind(bias)?, self.bind(mean)?))),
            None => None,
        };
        let others = [variance.len].into_iter().chain(shift.iter().flat_map(|s| [s.0.len, s.1.len]));
        if others.into_iter().any(|len| len != weight.len) {
            return Err(self.fail("is a normalization whose parts have different sizes".into()));
        }
        let shape = weight.shape.clone();
        let (weight, variance) = (Box::new(weight), Box::new(variance));
        self.node(Op::FoldedNorm { weight, variance, shift, epsilon }, shape)
    }

    fn sinusoids(&self, rows: u64, columns: u64, open: bool) -> Result<BoundTransform> {
        // Angles up to 2^20 are reduced exactly.
        if !(1..=1 << 20).contains(&rows) || !(4..=1 << 16).contains(&columns) || !columns.is_multiple_of(2) {
            return Err(self.fail(format!("{rows} x {columns} is no table of positions")));
        }
        let half = columns / 2;
        let frequencies = if open {
            let exponents = (0..half).map(|k| k as f32 / half as f32);
            exponents.map(|e| 1.0 / libm::pow(10_000.0, f64::from(e)) as f32).collect()
        } else {
            let step = -((9.210_340_371_976_184 / (half - 1) as f64) as f32); // ln(10000)
            (0..half).map(|k| exp(step * k as f32)).collect()
        };
        self.node(Op::Sinusoids { frequencies }, vec![rows, columns])
    }

    fn merged(
        &self,
        of: &Transform,
        up: &Transform,
        down: &Transform,
        scale: f32,
        magnitude: Option<&Transform>,
    ) -> Result<Merged<BoundTransform>> {
        let (of, up, down) = (self.bind(of)?, self.bind(up)?, self.bind(down)?);
        let magnitude = magnitude.map(|of| self.bind(of)).transpose()?;
        let (&[rows, cols], &[up_rows, rank], &[down_rank, down_cols]) =
            (of.shape.as_slice(), up.shape.as_slice(), down.shape.as_slice())
        else {
            return Err(self.fail(format!("has an update that is no matrix: {:?}", of.shape)));
        };
        let fits = rank > 0 && rank == down_rank && (up_rows, down_cols) == (rows, cols);
        if !fits || magnitude.as_ref().is_some_and(|m| m.len != rows) || !scale.is_finite() {
            let (up, down, whole) = (&up.shape, &down.shape, &of.shape);
            return Err(self.fail(format!("has an update {up:?} x {down:?} that does not fit {whole:?}")));
        }
        Ok(Merged { of, up, down, scale, magnitude, cols, rank })
    }

    fn source_tensor(&self, tensor: &str) -> Result<BoundTransform> {
        let index = self.found(tensor)?;
        self.source.check_decodable(index)?;
        let shape = self.source.shape(index).to_vec();
        self.node(Op::Source { index }, shape)
    }

    pub(super) fn found(&self, tensor: &str) -> Result<usize> {
        let missing = || self.fail(format!("needs '{tensor}', which the checkpoint does not have"));
        self.source.find(tensor).ok_or_else(missing)
    }

    /// Returns the number of rows and the length of a row. Rows run along the first axis; a vector, such as a bias, has rows of
    /// one element.
    fn first_axis(&self, of: &BoundTransform) -> Result<(u64, u64)> {
        match of.shape.first() {
            Some(&rows) if rows > 0 => Ok((rows, of.len / rows)),
            _ => Err(self.fail(format!("has no rows (shape {:?})", of.shape))),
        }
    }

    fn permute(&self, of: BoundTransform, heads: u64) -> Result<BoundTransform> {
        let (rows, cols) = self.first_axis(&of)?;
        if heads == 0 || !rows.is_multiple_of(heads) || !(rows / heads).is_multiple_of(2) {
            return Err(self.fail(format!("{rows} rows cannot be cut into {heads} rotary heads")));
        }
        let shape = of.shape.clone();
        self.node(Op::PermuteHeads { of: Box::new(of), cols, head_rows: rows / heads }, shape)
    }

    fn rows(&self, of: BoundTransform, start: u64, count: u64) -> Result<BoundTransform> {
        // Rows are counted with all leading axes flattened; those of a vector are its elements.
        let cols = if of.shape.len() > 1 { of.shape[of.shape.len() - 1] } else { 1 };
        let rows = of.len.checked_div(cols).unwrap_or(0);
        if start.checked_add(count).is_none_or(|end| end > rows) {
            return Err(self.fail(format!("has {rows} rows, but rows {start} to {start}+{count} are needed")));
        }
        let shape = if of.shape.len() > 1 { vec![count, cols] } else { vec![count] };
        self.node(Op::Slice { of: Box::new(of), first: start * cols }, shape)
    }

    fn concat(&self, of: &[Transform]) -> Result<BoundTransform> {
        let parts = of.iter().map(|t| self.bind(t)).collect::<Result<Vec<_>>>()?;
        let Some(first) = parts.first() else {
            return Err(self.fail("is made of no parts".into()));
        };
        let mut shape = first.shape.clone();
        if shape.is_empty() || parts.iter().any(|p| p.shape.get(1..) != shape.get(1..)) {
            let shapes: Vec<_> = parts.iter().map(|p| &p.shape).collect();
            return Err(self.fail(format!("is made of parts that do not fit: {shapes:?}")));
        }
        shape[0] = parts
            .iter()
            .try_fold(0u64, |n, p| n.checked_add(p.shape[0]))
            .ok_or_else(|| self.fail("has too many rows".into()))?;
        self.node(Op::Concat { parts }, shape)
    }

    fn transpose(&self, of: BoundTransform, slices: u64) -> Result<BoundTransform> {
        let Some(&cols) = of.shape.last().filter(|_| of.shape.len() >= 2) else {
            return Err(self.fail(format!("shape {:?} cannot be transposed", of.shape)));
        };
        let rows = if slices > 0 && cols > 0 { of.len / cols / slices } else { 0 };
        if rows == 0 || rows * cols * slices != of.len {
            return Err(self.fail(format!("shape {:?} is no {slices} matrices", of.shape)));
        }
        let shape = if slices == 1 { vec![cols, rows] } else { vec![slices, cols, rows] };
        self.node(Op::Transpose { of: Box::new(of), rows, cols }, shape)
    }

    fn pad(&self, of: BoundTransform, rows: u64, value: f32) -> Result<BoundTransform> {
        let (have, _) = self.first_axis(&of)?;
        if have > rows {
            return Err(self.fail(format!("has {have} rows, more than the {rows} asked for")));
        }
        let mut shape = of.shape.clone();
        shape[0] = rows;
        self.node(Op::Pad { of: Box::new(of), value }, shape)
    }
}

/// Returns the places of `to` positions on an axis of `from` positions. The first and the last positions of both are the same.
fn between(from: u64, to: u64) -> Vec<Between> {
    let last = from - 1;
    let step = if to > 1 { last as f32 / (to - 1) as f32 } else { 0.0 };
    (0..to)
        .map(|index| {
            let place = step * index as f32;
            let first = (place as u64).min(last);
            let second = (place - first as f32).clamp(0.0, 1.0);
            Between { positions: [first, (first + 1).min(last)], weights: [1.0 - second, second] }
        })
        .collect()
}
