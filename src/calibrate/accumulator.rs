//! Sums up second moments while a forward pass names its inputs.

use std::collections::HashMap;

use crate::error::{Error, Place, Result};
use crate::formats::calibration::{Calibration, Info, Input, Output, SecondMoments, Writer, block_side};
use crate::forward::Observer;
use crate::linalg::moments;
use crate::quant::recipe::layer_of;

/// An expert has statistics of its own once it has seen this many tokens per value of a block; below that they
/// are blended with those of its layer. See [`Accumulator`].
pub const BLEND: u64 = 2;

/// An [`Observer`] that writes a calibration file. A layer's sums are written as soon as the pass names the
/// next layer, so that one layer's are in memory at a time; what belongs to no layer is kept to the end.
///
/// Experts: with `t` tokens seen, blocks of side `B`, the expert's own mean `H_e` and the mean `P` over all
/// tokens of all experts of the layer, the file gets `w H_e + (1 - w) P` with `w = min(1, t / (2 B))`.
pub struct Accumulator {
    writer: Writer,
    /// Side of the blocks that was asked for; 0: all of H.
    block: usize,
    /// Tensor -> (length of a row, experts in its stack or 0).
    shapes: HashMap<String, (usize, usize)>,
    open: Vec<Group>,
    /// First tensors of the groups that have been written.
    written: HashMap<String, ()>,
    layer: Option<u32>,
}

/// Tensors that share their input.
struct Group {
    tensors: Vec<String>,
    layer: Option<u32>,
    n: usize,
    block: usize,
    stacked: bool,
    /// One, or one for each expert.
    sums: Vec<Sums>,
}

/// `sum x x^T` in diagonal blocks; empty until a token was seen.
#[derive(Default)]
struct Sums {
    values: Vec<f32>,
    tokens: u64,
}

impl Accumulator {
    /// Statistics of the inputs of the matrices among `tensors`, each a name and a shape (`ne`, row length first),
    /// in blocks of `info.block` values.
    ///
    /// # Errors
    /// [`Error::Usage`] when `info.block` is no multiple of 256 or the output exists, [`Error::Io`] when the output
    /// cannot be written.
    pub fn create(tensors: &[(&str, &[u64])], info: Info, output: &Output) -> Result<Self> {
        let block = usize::try_from(info.block).unwrap_or(usize::MAX);
        block_side(block, block)?;
        let shapes: HashMap<_, _> = tensors
            .iter()
            .filter(|(_, ne)| ne.len() >= 2)
            .map(|(name, ne)| {
                let experts = ne.get(2).map_or(0, |&e| e as usize);
                (name.to_string(), (ne[0] as usize, experts))
            })
            .collect();
        let experts = shapes.values().map(|s| s.1).sum();
        let writer = Writer::create(output, info, shapes.len(), experts)?;
        Ok(Self { writer, block, shapes, open: Vec::new(), written: HashMap::new(), layer: None })
    }

    /// Writes what is left and completes the file.
    ///
    /// # Errors
    /// As [`Writer::finish`].
    pub fn finish(mut self) -> Result<Calibration> {
        for group in std::mem::take(&mut self.open) {
            group.write(&mut self.writer)?;
        }
        self.writer.finish()
    }

    /// The place of the group of `tensors` in `open`, made if it is new.
    fn group(&mut self, tensors: &[&str], stacked: bool, n: usize) -> Result<usize> {
        let fail = |what: String| Err(Error::model(Place::named_tensor(tensors[0]), what, "Report this"));
        if let Some(at) = self.open.iter().position(|g| g.tensors[0] == tensors[0]) {
            let same = self.open[at].tensors == tensors && self.open[at].n == n;
            return if same { Ok(at) } else { fail("is fed by two different inputs".into()) };
        }
        if self.written.contains_key(tensors[0]) {
            return fail("was named again after its layer".into());
        }
        let mut experts = 0;
        for name in tensors {
            match self.shapes.get(*name) {
                Some(&(len, count)) if len == n && (count > 0) == stacked => experts = count,
                Some(&(len, _)) => return fail(format!("'{name}' has rows of {len}, its input {n} values")),
                None => return fail(format!("'{name}' is no matrix of the model")),
            }
        }
        let sums = std::iter::repeat_with(Sums::default).take(experts.max(1)).collect();
        self.open.push(Group {
            tensors: tensors.iter().map(ToString::to_string).collect(),
            layer: layer_of(tensors[0]),
            n,
            block: block_side(self.block, n)?,
            stacked,
            sums,
        });
        Ok(self.open.len() - 1)
    }

    /// The pass has reached `layer`: what belongs to others is complete.
    fn enter(&mut self, layer: u32) -> Result<()> {
        if self.layer.replace(layer) == Some(layer) {
            return Ok(());
        }
        let done = |g: &mut Group| g.layer.is_some_and(|l| l != layer);
        for group in self.open.extract_if(.., done) {
            self.written.insert(group.tensors[0].clone(), ());
            group.write(&mut self.writer)?;
        }
        Ok(())
    }
}

impl Observer for Accumulator {
    fn inputs(&mut self, tensors: &[&str], expert: Option<usize>, n: usize, x: &[f32]) -> Result<()> {
        if tensors.is_empty() || x.is_empty() {
            return Ok(());
        }
        if !x.len().is_multiple_of(n.max(1)) {
            let what = format!("got {} values for rows of {n}", x.len());
            return Err(Error::model(Place::named_tensor(tensors[0]), what, "Report this"));
        }
        if let Some(layer) = layer_of(tensors[0]) {
            self.enter(layer)?;
        }
        let at = self.group(tensors, expert.is_some(), n)?;
        self.open[at].add(expert.unwrap_or(0), x)
    }
}

impl Group {
    fn add(&mut self, expert: usize, x: &[f32]) -> Result<()> {
        let (n, block) = (self.n, self.block);
        let count = self.sums.len();
        let Some(sums) = self.sums.get_mut(expert) else {
            let what = format!("has no expert {expert}: they are {count}");
            return Err(Error::model(Place::named_tensor(&self.tensors[0]), what, "Report this"));
        };
        sums.values.resize(n * block, 0.0);
        let rows = x.len() / n;
        moments::accumulate(x, n, block, &mut sums.values);
        sums.tokens += rows as u64;
        Ok(())
    }

    fn write(mut self, writer: &mut Writer) -> Result<()> {
        let tokens = self.sums.iter().map(|s| s.tokens).collect();
        let pooled = self.pooled();
        writer.start(Input { tensors: self.tensors.clone(), tokens }, self.n, self.block, self.stacked);
        for i in 0..self.sums.len() {
            let sums = std::mem::take(&mut self.sums[i]);
            let moments = self.mean(sums, pooled.as_deref());
            if moments.values.iter().any(|v| !v.is_finite()) {
                let what = "its inputs overflow in the forward pass";
                let fix = "Check the checkpoint; --effort fast converts it without calibration";
                return Err(Error::model(Place::named_tensor(&self.tensors[0]), what, fix));
            }
            writer.append(&moments.values)?;
        }
        Ok(())
    }

    /// The mean over all tokens of all experts; none for a plain matrix or where all have seen enough.
    fn pooled(&self) -> Option<Vec<f32>> {
        let enough = BLEND * self.block as u64;
        if !self.stacked || self.sums.iter().all(|s| s.tokens >= enough) {
            return None;
        }
        let mut mean = vec![0.0; self.n * self.block];
        for sums in self.sums.iter().filter(|s| s.tokens > 0) {
            mean.iter_mut().zip(&sums.values).for_each(|(m, v)| *m += v);
        }
        let tokens: u64 = self.sums.iter().map(|s| s.tokens).sum();
        let scale = 1.0 / tokens.max(1) as f32;
        mean.iter_mut().for_each(|m| *m *= scale);
        Some(mean)
    }

    fn mean(&self, sums: Sums, pooled: Option<&[f32]>) -> SecondMoments {
        let Sums { mut values, tokens } = sums;
        values.resize(self.n * self.block, 0.0);
        let enough = BLEND * self.block as u64;
        match pooled.filter(|_| tokens < enough) {
            // w / tokens is 1 / enough.
            Some(pooled) => {
                let (own, rest) = (1.0 / enough as f32, (enough - tokens) as f32 / enough as f32);
                values.iter_mut().zip(pooled).for_each(|(v, p)| *v = *v * own + p * rest);
            }
            None => {
                let scale = 1.0 / tokens.max(1) as f32;
                values.iter_mut().for_each(|v| *v *= scale);
            }
        }
        // The sums have their upper triangles alone; dividing by one changes nothing.
        moments::symmetrize(&mut values, self.n, self.block, 1);
        SecondMoments { n: self.n, block: self.block, values, tokens }
    }
}
