//! The second moments of a tensor's inputs, ready for quantising.

use super::order::order;
use super::solve::Moments;
use crate::error::Result;
use crate::formats::calibration::SecondMoments;
use crate::linalg::gemm::Mat;
use crate::linalg::ldl;
use crate::quant::search::normalised_importance;

/// Share of the mean diagonal that is added to it.
pub const DAMPING: f32 = 0.01;

/// The second moments of a tensor's inputs, factored for [`quantize_rows`](super::quantize_rows).
#[derive(Debug)]
pub struct Factor {
    pub(super) n: usize,
    pub(super) block: usize,
    /// `[n, block]`, damped.
    pub(super) h: Vec<f32>,
    /// `[n, block]`, strictly lower in each block, rows and columns by position.
    a: Vec<f32>,
    /// By position.
    d: Vec<f32>,
    /// The column of its block at each position.
    order: Vec<u32>,
    importance: Vec<f32>,
    pub(super) blocks: Vec<(usize, usize)>,
}

impl Factor {
    /// `damping`: share of the mean diagonal that is added to it. `None` if nothing is known: all moments are zero.
    ///
    /// # Errors
    /// [`Error::NonFinite`](crate::Error::NonFinite) if a moment is not finite.
    pub fn new(moments: SecondMoments, damping: f32) -> Result<Option<Self>> {
        let (n, block, diagonal) = (moments.n, moments.block, moments.diagonal());
        let Some(importance) = normalised_importance(&diagonal) else { return Ok(None) };
        let mean = diagonal.iter().map(|&v| f64::from(v)).sum::<f64>() / n as f64;
        let blocks: Vec<_> = moments.blocks().collect();
        let mut all = Self {
            n,
            block,
            h: moments.values,
            a: vec![0.0; n * block],
            d: vec![0.0; n],
            order: Vec::with_capacity(n),
            importance,
            blocks,
        };
        for i in 0..n {
            all.h[i * block + i % block] += (f64::from(damping) * mean) as f32;
        }
        for (start, len) in all.blocks.clone() {
            all.factorise(start, len)?;
        }
        Ok(Some(all))
    }

    /// The order of a block's columns, and its factors in that order.
    fn factorise(&mut self, start: usize, len: usize) -> Result<()> {
        let (at, stride) = (start * self.block, self.block);
        let h = &self.h[at..];
        let order = order(h, stride, len);
        let mut sorted = Vec::with_capacity(len * len);
        for &i in &order {
            let row = &h[i as usize * stride..][..len];
            sorted.extend(order.iter().map(|&j| row[j as usize]));
        }
        if let Some(factors) = ldl::factorise(Mat::rows(&sorted, len, len), 0.0)? {
            for (p, row) in self.a[at..].chunks_mut(stride).take(len).enumerate() {
                row.iter_mut().take(p).enumerate().for_each(|(k, to)| *to = factors.a[k * len + p]);
            }
            self.d[start..start + len].copy_from_slice(&factors.d);
        }
        self.order.extend(order);
        Ok(())
    }

    /// Memory that a factor takes.
    pub fn bytes(n: usize, block: usize) -> u64 {
        2 * (n * block * size_of::<f32>()) as u64
    }

    pub(super) fn moments(&self, start: usize, len: usize) -> Moments<'_> {
        let at = start * self.block..(start + len) * self.block;
        Moments {
            len,
            stride: self.block,
            h: &self.h[at.clone()],
            a: &self.a[at],
            d: &self.d[start..start + len],
            order: &self.order[start..start + len],
            importance: &self.importance[start..start + len],
        }
    }
}
