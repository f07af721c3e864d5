//! Sums second moments while the forward pass computes the inputs of the matrices.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::calibrate::weighing;
use crate::error::{Error, Place, Result};
use crate::formats::calibration::{
    Calibration, Info, Input, Output, Quantized, SecondMoments, Writer, block_side, values,
};
use crate::forward::{Observer, RunOptions, TokenWeights};
use crate::linalg::moments::{self, PIECE};
use crate::model::bound::BoundModel;
use crate::os;
use crate::progress::Progress;
use crate::quant::recipe::layer_of;

/// An expert that has seen at least this many tokens for each value of a block has moments of its own. The moments of other
/// experts are blended with those of their layer; see [`Accumulator`].
pub const BLEND: u64 = 2;
/// The least CPU time between two moments at which a pass is kept.
const INTERVAL: Duration = Duration::from_millis(100);
/// The pass computes for at least this many times the CPU time that it took to keep it, before it is kept again. Time on the clock
/// would say how busy the machine is: a pass that waits for others would be kept seldom.
const SHARE_OF_TIME: u32 = 20;

/// An [`Observer`] that writes a calibration file.
///
/// The sums of a layer are written when the pass reaches the next layer, so that the sums of one layer are in memory at a
/// time. The sums of tensors that belong to no layer are kept until the end.
///
/// Experts see few tokens. For an expert that saw `t` tokens, with blocks of side `B`, its own mean `H_e` and the mean `P`
/// over all tokens of all experts of the layer, the file gets `w H_e + (1 - w) P` with `w = min(1, t / (2 B))`.
pub struct Accumulator {
    writer: Writer,
    open: Open,
    /// The first tensors of the groups that have been written.
    written: HashSet<String>,
    layer: Option<u32>,
    /// The CPU time of the process when the pass began or was kept the last time, and the CPU time that it took to keep it.
    kept: (Duration, Duration),
    /// How often the pass was kept.
    keeps: u32,
    /// The least CPU time between two moments at which the pass is kept, and how many times what it took to keep it.
    interval: Duration,
    times: u32,
}

/// The sums that are not written yet.
pub(super) struct Open {
    /// The side of the blocks that was asked for; 0 stands for all of H.
    block: usize,
    /// For each tensor the length of a row, and the number of experts in its stack (0 for a plain matrix).
    shapes: HashMap<String, (usize, usize)>,
    groups: Vec<Group>,
    /// True if no more inputs follow for the matrices whose inputs come now.
    pub(super) is_last: bool,
}

/// Tensors that share their input, with the sums of its second moments.
struct Group {
    tensors: Vec<String>,
    layer: Option<u32>,
    n: usize,
    block: usize,
    stacked: bool,
    /// One sum, or one for each expert.
    sums: Vec<Sums>,
}

/// The sum of `x^T x` in diagonal blocks. The values are empty until the first token.
///
/// The sum is one of pieces of [`PIECE`] tokens, so the last tokens wait until their piece is whole. Its bits depend on the order of
/// the tokens, and not on how the tokens are spread over calls: neither memory nor the number of machines changes them.
#[derive(Default)]
struct Sums {
    values: Vec<f32>,
    tokens: u64,
    /// Rows of inputs that are among the tokens, and not yet in the values.
    waiting: Vec<f32>,
}

impl Accumulator {
    /// Begins a calibration file for the inputs of the matrices among `tensors`, in blocks of `info.block` values. A tensor
    /// is a name and a shape in GGUF's order (the length of a row first).
    ///
    /// # Errors
    /// Returns [`Error::Usage`] if `info.block` is not a multiple of 256 or if the output exists, and [`Error::Io`] if the
    /// output cannot be written.
    pub fn create(tensors: &[(&str, &[u64])], info: Info, output: &Output) -> Result<Self> {
        Self::create_with(tensors, info, output, 0)
    }

    /// Begins a file that gets at most `quantized` quantized tensors as well; see [`Accumulator::add_quantized`].
    ///
    /// # Errors
    /// As [`Accumulator::create`].
    pub fn create_with(
        tensors: &[(&str, &[u64])],
        info: Info,
        output: &Output,
        quantized: usize,
    ) -> Result<Self> {
        let open = Open::new(tensors, info.block)?;
        let experts = open.shapes.values().map(|s| s.1).sum();
        let writer = Writer::create(output, info, open.shapes.len(), experts, quantized)?;
        Ok(Self {
            writer,
            open,
            written: HashSet::new(),
            layer: None,
            kept: (os::cpu_time(), Duration::ZERO),
            keeps: 0,
            interval: INTERVAL,
            times: SHARE_OF_TIME,
        })
    }

    /// Returns the weights of the tokens of all chunks, if the file is to say that its tokens are weighed. They are for the pass that
    /// this accumulator observes.
    ///
    /// # Errors
    /// As [`forward::gradients`](crate::forward::gradients).
    pub fn token_weights(
        &self,
        model: &BoundModel,
        chunks: &[Vec<u32>],
        run: &RunOptions,
    ) -> Result<Option<TokenWeights>> {
        let (info, kept) = (self.writer.info(), self.writer.gradients_file());
        info.weighed.then(|| weighing::token_weights(model, chunks, info, kept, run)).transpose()
    }

    /// Adds a tensor that is quantized already.
    ///
    /// # Errors
    /// [`Error::Io`] when the disk is full.
    pub fn add_quantized(&mut self, quantized: Quantized, blocks: &[u8]) -> Result<()> {
        self.writer.add_quantized(quantized, blocks)
    }

    /// Writes the remaining sums and completes the file.
    ///
    /// # Errors
    /// Returns the errors of [`Writer::finish`].
    pub fn finish(mut self) -> Result<Calibration> {
        self.write_groups(|_| true)?;
        self.writer.finish()
    }

    /// Makes the pass that fills the accumulator, and completes the file. If the pass fails, the file ends as
    /// [`failed`](Self::failed) says.
    ///
    /// # Errors
    /// Those of `pass`, and as [`Accumulator::finish`].
    pub fn fill(mut self, pass: impl FnOnce(&mut Self) -> Result<()>) -> Result<Calibration> {
        match pass(&mut self) {
            Ok(()) => self.finish(),
            Err(error) => {
                self.failed();
                Err(error)
            }
        }
    }

    /// Ends a pass that failed. What is complete is kept if the output is [`Output::Kept`].
    pub fn failed(self) {
        self.writer.failed();
    }

    /// Keeps the pass after every layer, however short the layers are.
    #[cfg(test)]
    pub fn keep_always(&mut self) {
        (self.interval, self.times) = (Duration::ZERO, 0);
    }

    /// Writes the sums of a layer, or with `None` all that remain, before they would be written by themselves. No inputs of their
    /// tensors may follow. Returns the moments that were written since the last call.
    ///
    /// # Errors
    /// [`Error::Io`] from the disk, and [`Error::Model`] for sums that are not finite.
    pub fn complete(&mut self, layer: Option<u32>) -> Result<Calibration> {
        self.write_groups(|group| layer.is_none() || group.layer == layer)?;
        self.writer.written()
    }

    /// Takes the sums of a step over all chunks, which several machines have made: see [`part`](crate::calibrate::part). The steps have to
    /// come in their order.
    ///
    /// # Errors
    /// [`Error::Io`] from the disk, [`Error::Usage`] for a file that holds no such sums, and [`Error::Model`] for sums that are not
    /// finite.
    pub fn take_sums(&mut self, path: &Path) -> Result<()> {
        let mut of_step = Open { groups: Vec::new(), shapes: HashMap::new(), ..self.open };
        of_step.read(path)?;
        for group in of_step.groups {
            let name = &group.tensors[0];
            if self.written.contains(name) || self.open.groups.iter().any(|g| g.tensors[0] == *name) {
                let what = "has inputs in two steps of the pass";
                return Err(Error::model(Place::named_tensor(name), what, "Report this"));
            }
            if let Some(layer) = group.layer {
                self.enter(layer)?;
            }
            self.open.groups.push(group);
        }
        Ok(())
    }

    /// Writes the groups that are done, in the order in which they were begun.
    fn write_groups(&mut self, is_done: impl Fn(&Group) -> bool) -> Result<()> {
        for group in self.open.groups.extract_if(.., |group| is_done(group)) {
            self.written.insert(group.tensors[0].clone());
            group.write(&mut self.writer)?;
        }
        Ok(())
    }

    /// Writes the groups of all other layers, because the pass has reached `layer`.
    fn enter(&mut self, layer: u32) -> Result<()> {
        if self.layer.replace(layer) == Some(layer) {
            return Ok(());
        }
        self.write_groups(|group| group.layer.is_some_and(|l| l != layer))
    }
}

impl Open {
    pub(super) fn new(tensors: &[(&str, &[u64])], block: u64) -> Result<Self> {
        let block = usize::try_from(block).unwrap_or(usize::MAX);
        block_side(block, block)?;
        let matrices = tensors.iter().filter(|(_, ne)| ne.len() >= 2).map(|(name, ne)| {
            let experts = ne.get(2).map_or(0, |&e| e as usize);
            (name.to_string(), (ne[0] as usize, experts))
        });
        Ok(Self { block, shapes: matrices.collect(), groups: Vec::new(), is_last: false })
    }

    /// Adds rows of inputs of the tensors.
    pub(super) fn add(&mut self, tensors: &[&str], expert: Option<usize>, n: usize, x: &[f32]) -> Result<()> {
        if !x.len().is_multiple_of(n.max(1)) {
            let what = format!("got {} values for rows of {n}", x.len());
            return Err(Error::model(Place::named_tensor(tensors[0]), what, "Report this"));
        }
        let at = self.group(tensors, expert.is_some(), n)?;
        self.groups[at].add(expert.unwrap_or(0), x, self.is_last)
    }

    /// Returns the index in `groups` of the group of `tensors`. A new group is added.
    fn group(&mut self, tensors: &[&str], stacked: bool, n: usize) -> Result<usize> {
        let fail = |what: String| Err(Error::model(Place::named_tensor(tensors[0]), what, "Report this"));
        if let Some(at) = self.groups.iter().position(|g| g.tensors[0] == tensors[0]) {
            let same = self.groups[at].tensors == tensors && self.groups[at].n == n;
            return if same { Ok(at) } else { fail("has two different inputs".into()) };
        }
        let mut experts = 0;
        for name in tensors {
            match self.shapes.get(*name) {
                Some(&(len, count)) if len == n && (count > 0) == stacked => experts = count,
                Some(&(len, _)) => {
                    return fail(format!("has an input of {n} values, but '{name}' has rows of {len}"));
                }
                None => {
                    return fail(format!(
                        "shares its input with '{name}', which is not a matrix of the model"
                    ));
                }
            }
        }
        let sums = std::iter::repeat_with(Sums::default).take(experts.max(1)).collect();
        self.groups.push(Group {
            tensors: tensors.iter().map(ToString::to_string).collect(),
            layer: layer_of(tensors[0]),
            n,
            block: block_side(self.block, n)?,
            stacked,
            sums,
        });
        Ok(self.groups.len() - 1)
    }

    /// What the groups are, and their values.
    fn kept(&self) -> (Vec<OpenGroup>, impl Iterator<Item = &[f32]>) {
        let sums = self.groups.iter().flat_map(|group| &group.sums);
        let values = sums.flat_map(|sums| [sums.values.as_slice(), sums.waiting.as_slice()]);
        (self.groups.iter().map(OpenGroup::of).collect(), values)
    }

    /// Takes the groups that [`Open::kept`] has returned. Returns whether they are valid.
    fn restore(&mut self, groups: Vec<OpenGroup>, mut values: impl Iterator<Item = Vec<f32>>) -> bool {
        let groups = groups.into_iter().map(|group| group.with(&mut values)).collect::<Option<_>>();
        groups.is_some_and(|groups| {
            self.groups = groups;
            values.next().is_none()
        })
    }

    /// Writes all sums to a file.
    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let (groups, values) = self.kept();
        values::write(path, &groups, &values.collect::<Vec<_>>())
    }

    /// Reads what [`Open::write`] has written.
    pub(super) fn read(&mut self, path: &Path) -> Result<()> {
        let (groups, values) = values::read(path)?;
        match self.restore(groups, values.into_iter()) {
            true => Ok(()),
            false => Err(values::invalid(path)),
        }
    }
}

impl Observer for Accumulator {
    fn inputs(&mut self, tensors: &[&str], expert: Option<usize>, n: usize, x: &[f32]) -> Result<()> {
        if tensors.is_empty() || x.is_empty() {
            return Ok(());
        }
        if let Some(layer) = layer_of(tensors[0]) {
            self.enter(layer)?;
        }
        if self.written.contains(tensors[0]) {
            let what = "has inputs after its layer was finished";
            return Err(Error::model(Place::named_tensor(tensors[0]), what, "Report this"));
        }
        self.open.add(tensors, expert, n, x)
    }

    fn group(&mut self, is_last: bool) {
        self.open.is_last = is_last;
    }

    fn layers_done(&mut self, layers: usize, states: &[&[f32]]) -> Result<()> {
        let ((last, took), begin) = (self.kept, os::cpu_time());
        if !self.writer.keeps() || begin.saturating_sub(last) < self.interval.max(took * self.times) {
            return Ok(());
        }
        // The groups of the layer are kept with their sums, and not written: the order of the file depends on no time.
        let mut written: Vec<_> = self.written.iter().cloned().collect();
        written.sort_unstable();
        let (open, sums) = self.open.kept();
        let note = serde_json::to_value(Note { layers, states: states.len(), written, open })
            .expect("names and numbers");
        let values: Vec<_> = states.iter().copied().chain(sums).collect();
        // A pass that cannot be kept, because the disk is full, goes on all the same.
        if self.writer.keep(note, &values).is_err() {
            self.interval = Duration::MAX;
        }
        let end = os::cpu_time();
        self.keeps += 1;
        // Each of the two files is made once, which takes ten times as long as to write into it again, so these times say nothing
        // about the next ones.
        let took = if self.keeps <= 2 { Duration::ZERO } else { end.saturating_sub(begin) };
        self.kept = (end, took);
        Ok(())
    }

    fn resume(&mut self, progress: &Progress) -> Result<Option<(usize, Vec<Vec<f32>>)>> {
        let Some((note, mut values)) = self.writer.resume(progress)? else { return Ok(None) };
        let wrong =
            || Error::usage("what is kept of the interrupted calibration is not valid", "Use --no-cache");
        let note: Note = serde_json::from_value(note).map_err(|_| wrong())?;
        if note.states > values.len() {
            return Err(wrong());
        }
        let sums = values.split_off(note.states).into_iter();
        if !self.open.restore(note.open, sums) {
            return Err(wrong());
        }
        self.written = note.written.into_iter().collect();
        Ok(Some((note.layers, values)))
    }
}

/// What is kept of the accumulator.
#[derive(Serialize, Deserialize)]
struct Note {
    /// Number of layers that are complete.
    layers: usize,
    /// Number of buffers of the pass. The sums of the open groups stand behind them.
    states: usize,
    written: Vec<String>,
    open: Vec<OpenGroup>,
}

/// A [`Group`] without its sums.
#[derive(Serialize, Deserialize)]
struct OpenGroup {
    tensors: Vec<String>,
    layer: Option<u32>,
    n: usize,
    block: usize,
    stacked: bool,
    /// The numbers of tokens of the sums.
    tokens: Vec<u64>,
}

impl OpenGroup {
    fn of(group: &Group) -> Self {
        Self {
            tensors: group.tensors.clone(),
            layer: group.layer,
            n: group.n,
            block: group.block,
            stacked: group.stacked,
            tokens: group.sums.iter().map(|sums| sums.tokens).collect(),
        }
    }

    /// The group with the next sums.
    fn with(self, sums: &mut impl Iterator<Item = Vec<f32>>) -> Option<Group> {
        let Self { tensors, layer, n, block, stacked, tokens } = self;
        let sums = tokens
            .into_iter()
            .map(|tokens| Some(Sums { values: sums.next()?, tokens, waiting: sums.next()? }));
        let sums: Vec<Sums> = sums.collect::<Option<_>>()?;
        let fits = |sums: &Sums| {
            (sums.values.is_empty() || Some(sums.values.len()) == n.checked_mul(block))
                && sums.waiting.len().is_multiple_of(n.max(1))
                && sums.waiting.len() / n.max(1) < PIECE
        };
        (!tensors.is_empty() && sums.iter().all(fits)).then_some(Group {
            tensors,
            layer,
            n,
            block,
            stacked,
            sums,
        })
    }
}

impl Sums {
    /// Adds rows of `n` inputs. The last ones wait for the rest of their piece.
    fn add(&mut self, x: &[f32], n: usize, block: usize) {
        self.tokens += (x.len() / n) as u64;
        self.values.resize(n * block, 0.0);
        let missing = if self.waiting.is_empty() { 0 } else { PIECE * n - self.waiting.len() };
        let (first, x) = x.split_at(missing.min(x.len()));
        self.waiting.extend_from_slice(first);
        if self.waiting.len() == PIECE * n {
            self.complete(n, block);
        }
        let (whole, rest) = x.split_at(x.len() / (PIECE * n) * (PIECE * n));
        if !whole.is_empty() {
            moments::accumulate(whole, n, block, &mut self.values);
        }
        self.waiting.extend_from_slice(rest);
    }

    /// Adds the rows that wait, as the last piece.
    fn complete(&mut self, n: usize, block: usize) {
        if !self.waiting.is_empty() {
            moments::accumulate(&self.waiting, n, block, &mut self.values);
            self.waiting = Vec::new();
        }
    }
}

impl Group {
    /// Adds rows of inputs of an expert. `is_last` says that no more rows follow.
    fn add(&mut self, expert: usize, x: &[f32], is_last: bool) -> Result<()> {
        let (n, block) = (self.n, self.block);
        let count = self.sums.len();
        let Some(sums) = self.sums.get_mut(expert) else {
            let what = format!("has inputs of expert {expert}, but only {count} experts");
            return Err(Error::model(Place::named_tensor(&self.tensors[0]), what, "Report this"));
        };
        sums.add(x, n, block);
        if is_last {
            sums.complete(n, block);
        }
        Ok(())
    }

    /// Writes the means of the group.
    fn write(mut self, writer: &mut Writer) -> Result<()> {
        self.sums.iter_mut().for_each(|sums| sums.complete(self.n, self.block));
        let tokens = self.sums.iter().map(|s| s.tokens).collect();
        let pooled = self.pooled();
        writer.start(Input { tensors: self.tensors.clone(), tokens }, self.n, self.block, self.stacked);
        for i in 0..self.sums.len() {
            let sums = std::mem::take(&mut self.sums[i]);
            let moments = self.mean(sums, pooled.as_deref());
            if moments.values.iter().any(|v| !v.is_finite()) {
                let what = "has inputs that overflow in the forward pass";
                let fix =
                    "Check that the weights are finite, or use --effort fast, which needs no calibration";
                return Err(Error::model(Place::named_tensor(&self.tensors[0]), what, fix));
            }
            writer.append(&moments.values)?;
        }
        Ok(())
    }

    /// Returns the mean over all tokens of all experts. `None` for a plain matrix, or if all experts have seen enough tokens.
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

    /// Returns the mean of an expert, blended with `pooled` if the expert has seen too few tokens.
    fn mean(&self, sums: Sums, pooled: Option<&[f32]>) -> SecondMoments {
        let Sums { mut values, tokens, .. } = sums;
        values.resize(self.n * self.block, 0.0);
        let enough = BLEND * self.block as u64;
        match pooled.filter(|_| tokens < enough) {
            // w H_e = (t / enough) (sum / t) = sum / enough.
            Some(pooled) => {
                let (own, rest) = (1.0 / enough as f32, (enough - tokens) as f32 / enough as f32);
                values.iter_mut().zip(pooled).for_each(|(v, p)| *v = *v * own + p * rest);
            }
            None => {
                let scale = 1.0 / tokens.max(1) as f32;
                values.iter_mut().for_each(|v| *v *= scale);
            }
        }
        // Fills in the lower triangles; the division by one token changes nothing.
        moments::symmetrize(&mut values, self.n, self.block, 1);
        SecondMoments { n: self.n, block: self.block, values, tokens }
    }
}
