//! IQ3_S: 256 weights in 110 bytes, 3.4375 bits per weight. See [`lattice`] for what the parts mean.
//!
//! | bytes | what |
//! | --- | --- |
//! | 0..2 | `d`, f16 |
//! | 2..66 | low eight bits of the points |
//! | 66..74 | ninth bits: bit `j` of byte `i` belongs to group `8 i + j` |
//! | 74..106 | signs |
//! | 106..110 | scales, two in a byte |

use super::lattice::{self, Grid, Lattice, Parts};
use crate::simd::f16;

/// Weights in a group.
const GROUP: usize = 4;
/// The points.
static GRID: Grid = lattice::grid::<Iq3S, GROUP, 512>(include_bytes!("grids/iq3_s.bin"));

/// The format.
pub struct Iq3S;

impl Lattice<GROUP> for Iq3S {
    const SUB: usize = 32;
    const LEVELS: &'static [f32] = &[1.0, 3.0, 5.0, 7.0, 9.0, 11.0, 13.0, 15.0];
    const GRID: &'static Grid = &GRID;
    const EVEN_SIGNS: bool = false;
    const FACTOR: (f32, f32, f32) = (1.0, 2.0, 1.0);

    #[inline(always)]
    fn unpack(block: &[u8]) -> Parts {
        let mut parts = Parts { d: f16::read(block), ..Parts::ZERO };
        for group in 0..64 {
            let high = u16::from(block[66 + group / 8] >> (group % 8) & 1);
            parts.points[group] = u16::from(block[2 + group]) | high << 8;
        }
        parts.signs.copy_from_slice(&block[74..106]);
        for sub in 0..8 {
            parts.scales[sub] = block[106 + sub / 2] >> (sub % 2 * 4) & 15;
        }
        parts
    }

    #[inline(always)]
    fn pack(parts: &Parts, block: &mut [u8]) {
        block.fill(0);
        f16::write(parts.d, block);
        for (group, point) in parts.points.iter().enumerate() {
            block[2 + group] = *point as u8;
            block[66 + group / 8] |= ((point >> 8) as u8) << (group % 8);
        }
        block[74..106].copy_from_slice(&parts.signs);
        for sub in 0..8 {
            block[106 + sub / 2] |= parts.scales[sub] << (sub % 2 * 4);
        }
    }
}

lattice::encoding!(Iq3S, IQ3_S, GROUP, f16::MAX * 31.0 * 15.0);
