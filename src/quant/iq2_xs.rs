//! IQ2_XS: 256 weights in 74 bytes, 2.3125 bits per weight. See [`lattice`] for what the parts mean.
//!
//! | bytes | what |
//! | --- | --- |
//! | 0..2 | `d`, f16 |
//! | 2..66 | a word of 16 bits for each group: the point in nine bits, then seven signs, from the low bits up |
//! | 66..74 | scales, two in a byte |

use super::lattice::{self, Grid, Lattice, Parts};
use crate::simd::f16;

/// Weights in a group.
const GROUP: usize = 8;
/// The points.
static GRID: Grid = lattice::grid::<Iq2Xs, GROUP, 512>(include_bytes!("grids/iq2_xs.bin"));

/// The format.
pub struct Iq2Xs;

impl Lattice<GROUP> for Iq2Xs {
    const SUB: usize = 16;
    const LEVELS: &'static [f32] = &[8.0, 25.0, 43.0];
    const GRID: &'static Grid = &GRID;
    const EVEN_SIGNS: bool = true;
    const FACTOR: (f32, f32, f32) = (0.5, 1.0, 0.25);

    #[inline(always)]
    fn unpack(block: &[u8]) -> Parts {
        let mut parts = Parts { d: f16::read(block), ..Parts::ZERO };
        for (group, bytes) in block[2..66].as_chunks::<2>().0.iter().enumerate() {
            let word = u16::from_le_bytes(*bytes);
            parts.points[group] = word & 511;
            parts.signs[group] = lattice::eight_signs(u32::from(word >> 9));
        }
        for sub in 0..16 {
            parts.scales[sub] = block[66 + sub / 2] >> (sub % 2 * 4) & 15;
        }
        parts
    }

    #[inline(always)]
    fn pack(parts: &Parts, block: &mut [u8]) {
        block.fill(0);
        f16::write(parts.d, block);
        for (group, bytes) in block[2..66].as_chunks_mut::<2>().0.iter_mut().enumerate() {
            let word = parts.points[group] | u16::from(parts.signs[group] & 127) << 9;
            *bytes = word.to_le_bytes();
        }
        for sub in 0..16 {
            block[66 + sub / 2] |= parts.scales[sub] << (sub % 2 * 4);
        }
    }
}

lattice::encoding!(Iq2Xs, IQ2_XS, GROUP, f16::MAX * 3.875 * 43.0);
