//! IQ2_XXS: 256 weights in 66 bytes, 2.0625 bits per weight. See [`lattice`] for what the parts mean.
//!
//! | bytes | what |
//! | --- | --- |
//! | 0..2 | `d`, f16 |
//! | 2..66 | eight bytes for each sub-block: four points, then a word of 32 bits with four times seven signs and the scale, from the low bits up |

use super::lattice::{self, Grid, Lattice, Parts};
use crate::simd::f16;

/// Weights in a group.
const GROUP: usize = 8;
/// The points.
static GRID: Grid = lattice::grid::<Iq2Xxs, GROUP, 256>(include_bytes!("grids/iq2_xxs.bin"));

/// The format.
pub struct Iq2Xxs;

impl Lattice<GROUP> for Iq2Xxs {
    const SUB: usize = 32;
    const LEVELS: &'static [f32] = &[8.0, 25.0, 43.0];
    const GRID: &'static Grid = &GRID;
    const EVEN_SIGNS: bool = true;
    const FACTOR: (f32, f32, f32) = (0.5, 1.0, 0.25);

    #[inline(always)]
    fn unpack(block: &[u8]) -> Parts {
        let mut parts = Parts { d: f16::read(block), ..Parts::ZERO };
        for (sub, bytes) in block[2..66].as_chunks::<8>().0.iter().enumerate() {
            let word = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
            for (l, &point) in bytes[..4].iter().enumerate() {
                parts.points[4 * sub + l] = u16::from(point);
                parts.signs[4 * sub + l] = lattice::eight_signs(word >> (7 * l));
            }
            parts.scales[sub] = (word >> 28) as u8;
        }
        parts
    }

    #[inline(always)]
    fn pack(parts: &Parts, block: &mut [u8]) {
        block.fill(0);
        f16::write(parts.d, block);
        for (sub, bytes) in block[2..66].as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let mut word = u32::from(parts.scales[sub]) << 28;
            for (l, byte) in bytes[..4].iter_mut().enumerate() {
                *byte = parts.points[4 * sub + l] as u8;
                word |= u32::from(parts.signs[4 * sub + l] & 127) << (7 * l);
            }
            bytes[4..].copy_from_slice(&word.to_le_bytes());
        }
    }
}

lattice::encoding!(Iq2Xxs, IQ2_XXS, GROUP, f16::MAX * 3.875 * 43.0);
