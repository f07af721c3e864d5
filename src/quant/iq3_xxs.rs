//! IQ3_XXS: 256 weights in 98 bytes, 3.0625 bits per weight. See [`lattice`] for what the parts mean.
//!
//! | bytes | what |
//! | --- | --- |
//! | 0..2 | `d`, f16 |
//! | 2..66 | points |
//! | 66..98 | a word of 32 bits for each sub-block: four times seven signs, then the scale, from the low bits up |

use super::lattice::{self, Grid, Lattice, Parts};
use crate::simd::f16;

/// Weights in a group.
const GROUP: usize = 4;
/// The points.
static GRID: Grid = lattice::grid::<Iq3Xxs, GROUP, 256>(include_bytes!("grids/iq3_xxs.bin"));

/// The format.
pub struct Iq3Xxs;

impl Lattice<GROUP> for Iq3Xxs {
    const SUB: usize = 32;
    const LEVELS: &'static [f32] = &[4.0, 12.0, 20.0, 28.0, 36.0, 44.0, 52.0, 62.0];
    const GRID: &'static Grid = &GRID;
    const EVEN_SIGNS: bool = true;
    const FACTOR: (f32, f32, f32) = (0.5, 1.0, 0.5);

    #[inline(always)]
    fn unpack(block: &[u8]) -> Parts {
        let mut parts = Parts { d: f16::read(block), ..Parts::ZERO };
        for (point, byte) in parts.points.iter_mut().zip(&block[2..66]) {
            *point = u16::from(*byte);
        }
        for (sub, bytes) in block[66..98].as_chunks::<4>().0.iter().enumerate() {
            let word = u32::from_le_bytes(*bytes);
            for l in 0..4 {
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
        for (byte, point) in block[2..66].iter_mut().zip(&parts.points) {
            *byte = *point as u8;
        }
        for (sub, bytes) in block[66..98].as_chunks_mut::<4>().0.iter_mut().enumerate() {
            let mut word = u32::from(parts.scales[sub]) << 28;
            for l in 0..4 {
                word |= u32::from(parts.signs[4 * sub + l] & 127) << (7 * l);
            }
            *bytes = word.to_le_bytes();
        }
    }
}

lattice::encoding!(Iq3Xxs, IQ3_XXS, GROUP, f16::MAX * 7.75 * 62.0);
