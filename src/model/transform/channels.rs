//! Factors of channels: what passes from one matrix to the next can be scaled channel by channel without changing the model, if the rows
//! that make a channel are divided by what the columns that take the channel are multiplied by.

use std::sync::{Arc, Mutex, OnceLock};

use crate::error::Result;
use crate::model::source::Source;
use crate::model::transform::{BoundTransform, Scratch};

/// Weights that are read at a time.
const PIECE: usize = 1 << 14;
/// Largest factor, and the reciprocal of the smallest one, so that a column of nearly zeros does not make another one huge.
const MOST: f64 = 64.0;

/// The factors of the channels between a norm or a matrix and the matrices that take its outputs.
///
/// The columns of these matrices, multiplied by the factors, are alike in size: a factor is one over the root mean square of a column. So
/// the 32 weights of a block, which share a scale, are alike, and each of them has its part of the steps. The factors follow from the
/// weights, so they are computed when a tensor is first read.
#[derive(Debug)]
pub struct Channels {
    /// The matrices that take the channels. Each one counts as much as all before it together.
    takers: Vec<Arc<BoundTransform>>,
    /// Number of values of a head, and of the heads of queries that share the values of a head. `(n, 1)` for n channels without heads.
    heads: (usize, usize),
    factors: OnceLock<Factors>,
    turn: Mutex<()>,
}

/// What the columns that take channels are multiplied by.
#[derive(Debug)]
pub struct Factors {
    /// The factor of each channel.
    pub channels: Vec<f32>,
    /// The factor of each column: that of its channel.
    pub columns: Vec<f32>,
}

impl Channels {
    /// The channels that `takers` take, which are matrices with equally many columns. `heads` are the number of values of a head and of the
    /// heads that share the values: each column of a group of heads is for the same channel.
    pub fn new(takers: Vec<Arc<BoundTransform>>, heads: (usize, usize)) -> Self {
        Self { takers, heads, factors: OnceLock::new(), turn: Mutex::new(()) }
    }

    /// Returns the channel that a column takes.
    fn of_column(&self, column: usize) -> usize {
        let (head, shared) = self.heads;
        column / (head * shared) * head + column % head
    }

    /// Returns the factors of all channels. Their mean is 1, as far as none is at a limit.
    ///
    /// # Errors
    /// As [`BoundTransform::read`].
    pub fn factors(&self, source: &Source, scratch: &mut Scratch) -> Result<&Factors> {
        if let Some(known) = self.factors.get() {
            return Ok(known);
        }
        // One thread reads the matrices, and the others wait for it.
        let _turn = self.turn.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(known) = self.factors.get() {
            return Ok(known);
        }
        let found = self.find(source, scratch)?;
        Ok(self.factors.get_or_init(|| found))
    }

    fn find(&self, source: &Source, scratch: &mut Scratch) -> Result<Factors> {
        let mut sizes: Option<Vec<f64>> = None;
        for taker in &self.takers {
            let found = self.sizes(taker, source, scratch)?;
            sizes = Some(match sizes {
                None => found,
                Some(before) => before.iter().zip(found).map(|(a, b)| (a * b).sqrt()).collect(),
            });
        }
        let inverse = |size: f64| if size.is_finite() && size > 0.0 { 1.0 / size } else { f64::NAN };
        let inverses: Vec<f64> = sizes.unwrap_or_default().into_iter().map(inverse).collect();
        let usable = || inverses.iter().filter(|x| x.is_finite());
        let mean = usable().sum::<f64>() / usable().count().max(1) as f64;
        let factor = |x: f64| if x.is_finite() { (x / mean).clamp(1.0 / MOST, MOST) as f32 } else { 1.0 };
        let channels: Vec<f32> = inverses.into_iter().map(factor).collect();
        let columns = (0..channels.len() * self.heads.1).map(|i| channels[self.of_column(i)]).collect();
        Ok(Factors { channels, columns })
    }

    /// Returns the root mean square of the weights that take each channel.
    fn sizes(&self, taker: &BoundTransform, source: &Source, scratch: &mut Scratch) -> Result<Vec<f64>> {
        let columns = taker.shape().last().copied().unwrap_or(1).max(1) as usize;
        let mut sums = vec![0.0; columns / self.heads.1];
        let taken: Vec<usize> = (0..columns).map(|column| self.of_column(column)).collect();
        let rows = taker.len() / columns as u64;
        let mut piece = vec![0.0; (PIECE / columns).max(1) * columns];
        for first in (0..rows).step_by(piece.len() / columns) {
            let some = piece.len().min((rows - first) as usize * columns);
            taker.read(source, first * columns as u64, &mut piece[..some], scratch)?;
            for row in piece[..some].chunks_exact(columns) {
                row.iter()
                    .zip(&taken)
                    .for_each(|(x, channel)| sums[*channel] += f64::from(*x) * f64::from(*x));
            }
        }
        let count = (rows.max(1) * self.heads.1 as u64) as f64;
        Ok(sums.into_iter().map(|sum| (sum / count).sqrt()).collect())
    }
}
