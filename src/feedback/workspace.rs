//! The buffers of a group of rows in the solver.

use super::beam::Beam;
use super::scales::{Format, Scales};
use super::vector::{F32x16, ROWS};

/// The buffers of a group of [`ROWS`] rows, as wide as a block of H.
#[derive(Default)]
pub(super) struct Workspace {
    /// [`ROWS`] rows of the block, one after another: first the weights, after solving their codes.
    pub rows: Vec<f32>,
    pub scales: Vec<Scales>,
    /// Weights by column.
    pub w: Vec<F32x16>,
    /// Codes by column.
    pub q: Vec<F32x16>,
    /// Residuals `w - v` by column.
    pub e: Vec<F32x16>,
    /// Residuals `w - v` by position.
    pub e_by_position: Vec<F32x16>,
    /// J of each row.
    pub cost: F32x16,
    pub beam: Beam,
    pub targets: Vec<F32x16>,
    pub noise: Vec<F32x16>,
    /// Scratch for the search of scales: the rows of a group.
    pub group_rows: Vec<f32>,
    /// Scratch for the search of scales: the packed blocks of a group.
    pub blocks: Vec<u8>,
}

impl Workspace {
    /// Makes the buffers as long as a block of H with `len` columns of a format.
    pub fn resize(&mut self, format: &Format, len: usize) {
        let buffers = [
            &mut self.w,
            &mut self.q,
            &mut self.e,
            &mut self.e_by_position,
            &mut self.targets,
            &mut self.noise,
        ];
        for buffer in buffers {
            buffer.resize(len, F32x16::default());
        }
        self.rows.resize(ROWS * len, 0.0);
        self.scales.resize(len / format.block, Scales::default());
    }
}
