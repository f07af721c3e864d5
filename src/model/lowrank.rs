//! Adds the update of a LoRA adapter to a weight: `W + scale * up * down`, in f32.
//!
//! `up` has a row for each row of the weight, `down` a column for each column, and the rank of the update is the side that
//! they share. A DoRA adapter also states the length that each row has after the update. Every element is the same sum in the
//! same order, whatever run it is read in, so the bytes do not depend on threads or memory.

use crate::error::Result;

/// Reads the elements of a part from an index on.
pub type Read<'r, T> = dyn FnMut(&T, u64, &mut [f32]) -> Result<()> + 'r;

/// Ranks that go through a row together: the row stays in registers for so many products.
const STEP: usize = 4;

/// A weight with the update of an adapter. `T` is a part that can be read.
#[derive(Debug)]
pub struct Merged<T> {
    /// The weight: `rows x cols`.
    pub of: T,
    /// `rows x rank`.
    pub up: T,
    /// `rank x cols`.
    pub down: T,
    /// The factor of the update.
    pub scale: f32,
    /// The length of each row (DoRA).
    pub magnitude: Option<T>,
    /// Columns of the weight.
    pub cols: u64,
    /// The side that `up` and `down` share.
    pub rank: u64,
}

impl<T> Merged<T> {
    /// The parts that are read.
    pub fn parts(&self) -> impl Iterator<Item = &T> {
        [&self.of, &self.up, &self.down].into_iter().chain(&self.magnitude)
    }

    /// Writes the elements `start .. start + out.len()` to `out`. `read` reads the parts.
    ///
    /// # Errors
    /// Those of `read`.
    pub fn read(&self, start: u64, out: &mut [f32], read: &mut Read<T>) -> Result<()> {
        if out.is_empty() {
            return Ok(());
        }
        let Some(magnitude) = &self.magnitude else {
            read(&self.of, start, out)?;
            return self.add(start, out, read);
        };
        // The length of a row needs the whole row.
        let (first, end) = (start / self.cols, (start + out.len() as u64).div_ceil(self.cols));
        let mut rows = vec![0.0; ((end - first) * self.cols) as usize];
        read(&self.of, first * self.cols, &mut rows)?;
        self.add(first * self.cols, &mut rows, read)?;
        let mut lengths = vec![0.0; (end - first) as usize];
        read(magnitude, first, &mut lengths)?;
        for (row, wanted) in rows.chunks_exact_mut(self.cols as usize).zip(lengths) {
            let length = row.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt() as f32;
            let factor = wanted / length;
            row.iter_mut().for_each(|x| *x *= factor);
        }
        let within = (start - first * self.cols) as usize;
        out.copy_from_slice(&rows[within..within + out.len()]);
        Ok(())
    }

    /// Adds the update to the elements from `start` on.
    fn add(&self, start: u64, out: &mut [f32], read: &mut Read<T>) -> Result<()> {
        let (first, last) = (start / self.cols, (start + out.len() as u64 - 1) / self.cols);
        let rank = self.rank as usize;
        // Of a run inside one row, only its columns are read.
        let from = if first == last { start % self.cols } else { 0 };
        let width = if first == last { out.len() as u64 } else { self.cols };
        let mut down = vec![0.0; rank * width as usize];
        if width == self.cols {
            read(&self.down, 0, &mut down)?;
        } else {
            for (k, piece) in (0u64..).zip(down.chunks_exact_mut(width as usize)) {
                read(&self.down, k * self.cols + from, piece)?;
            }
        }
        let mut up = vec![0.0; (last - first + 1) as usize * rank];
        read(&self.up, first * self.rank, &mut up)?;
        let mut update = vec![0.0; width as usize];
        let mut out = out;
        let mut at = start;
        for factors in up.chunks_exact(rank) {
            let skipped = (at % self.cols - from) as usize;
            let n = (width as usize - skipped).min(out.len());
            let (piece, rest) = out.split_at_mut(n);
            update.fill(0.0);
            multiply(factors, &down, &mut update);
            piece.iter_mut().zip(&update[skipped..]).for_each(|(x, u)| *x += self.scale * u);
            at += n as u64;
            out = rest;
        }
        Ok(())
    }
}

/// Adds the product of a row of factors and a matrix with as many rows to `out`, rank by rank.
fn multiply(factors: &[f32], matrix: &[f32], out: &mut [f32]) {
    let n = out.len();
    for (factors, rows) in factors.chunks(STEP).zip(matrix.chunks(STEP * n)) {
        if let &[a, b, c, d] = factors {
            let (first, rest) = rows.split_at(n);
            let (second, rest) = rest.split_at(n);
            let (third, fourth) = rest.split_at(n);
            let columns = first.iter().zip(second).zip(third.iter().zip(fourth));
            for (x, ((p, q), (r, s))) in out.iter_mut().zip(columns) {
                *x = *x + a * p + b * q + c * r + d * s;
            }
        } else {
            for (factor, row) in factors.iter().zip(rows.chunks_exact(n)) {
                out.iter_mut().zip(row).for_each(|(x, y)| *x += factor * y);
            }
        }
    }
}
