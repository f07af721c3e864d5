//! IQ2_S: 256 weights in 82 bytes, 2.5625 bits per weight. See [`lattice`] for what the parts mean.
//!
//! | bytes | what |
//! | --- | --- |
//! | 0..2 | `d`, f16 |
//! | 2..34 | low eight bits of the points |
//! | 34..66 | signs |
//! | 66..74 | high two bits of the points, four in a byte |
//! | 74..82 | scales, two in a byte |

use super::lattice::{self, Grid, Lattice, Parts};
use crate::simd::f16;

/// Weights in a group.
const GROUP: usize = 8;
/// The points.
static GRID: Grid = lattice::grid::<Iq2S, GROUP, 1024>(include_bytes!("grids/iq2_s.bin"));

/// The format.
pub struct Iq2S;

impl Lattice<GROUP> for Iq2S {
    const SUB: usize = 16;
    const LEVELS: &'static [f32] = &[8.0, 25.0, 43.0];
    const GRID: &'static Grid = &GRID;
    const EVEN_SIGNS: bool = false;
    const FACTOR: (f32, f32, f32) = (0.5, 1.0, 0.25);

    #[inline(always)]
    fn unpack(block: &[u8]) -> Parts {
        let mut parts = Parts { d: f16::read(block), ..Parts::ZERO };
        for group in 0..32 {
            let high = u16::from(block[66 + group / 4] >> (group % 4 * 2) & 3);
            parts.points[group] = u16::from(block[2 + group]) | high << 8;
        }
        parts.signs.copy_from_slice(&block[34..66]);
        for sub in 0..16 {
            parts.scales[sub] = block[74 + sub / 2] >> (sub % 2 * 4) & 15;
        }
        parts
    }

    #[inline(always)]
    fn pack(parts: &Parts, block: &mut [u8]) {
        block.fill(0);
        f16::write(parts.d, block);
        for group in 0..32 {
            block[2 + group] = parts.points[group] as u8;
            block[66 + group / 4] |= ((parts.points[group] >> 8) as u8) << (group % 4 * 2);
        }
        block[34..66].copy_from_slice(&parts.signs);
        for sub in 0..16 {
            block[74 + sub / 2] |= parts.scales[sub] << (sub % 2 * 4);
        }
    }
}

lattice::encoding!(Iq2S, IQ2_S, GROUP, f16::MAX * 3.875 * 43.0);
