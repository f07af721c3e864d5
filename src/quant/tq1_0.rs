//! TQ1_0: 256 weights in 54 bytes, 1.6875 bits per weight, for models that were trained with ternary weights.
//!
//! A weight is `scale * (code - 1)` with a code of 0, 1 or 2. A byte holds the number with five codes as its digits to the
//! base 3, times 256/243 and rounded up, so that a multiplication by 3 brings the next digit above bit 8.
//!
//! | bytes | what |
//! | --- | --- |
//! | 0..32 | weights 0 to 159: byte `l` holds the weights `l`, `l + 32`, ... `l + 128` |
//! | 32..48 | weights 160 to 239: byte `l` of 16 holds the weights `l`, `l + 16`, ... `l + 64` |
//! | 48..52 | weights 240 to 255: byte `l` of 4 holds the weights `l`, `l + 4`, `l + 8` and `l + 12` |
//! | 52..54 | scale, f16 |

use super::format::{BlockFormat, MAX_BLOCK, Scales};
use super::ternary;
use super::weighting::{Columns, normalize};
use crate::dtype::GgmlType;
use crate::simd::{Simd, f16};

/// First byte, number of bytes, first weight and digits of the three parts of a block.
const PARTS: [(usize, usize, usize, usize); 3] = [(0, 32, 0, 5), (32, 16, 160, 5), (48, 4, 240, 4)];
/// The digits of a byte.
const DIGITS: usize = 5;
/// The powers of 3.
const POWERS: [u8; DIGITS] = [1, 3, 9, 27, 81];

/// The format.
pub struct Tq10;

impl BlockFormat for Tq10 {
    const TYPE: GgmlType = GgmlType::TQ1_0;
    const MAX_ABS: f32 = f16::MAX;
    const SUB: usize = MAX_BLOCK;
    const LEVELS: (f32, f32) = (-1.0, 1.0);
    const SCALES: Option<(f32, f32)> = None;
    const MINS: bool = false;
    const FEEDBACK: bool = false;

    #[inline(always)]
    fn scales(block: &[u8]) -> Scales {
        Scales::one(f16::read(&block[52..]))
    }

    #[inline(always)]
    fn codes(block: &[u8], codes: &mut [u8; MAX_BLOCK]) {
        for (at, bytes, first, digits) in PARTS {
            for digit in 0..digits {
                for l in 0..bytes {
                    let rest = block[at + l].wrapping_mul(POWERS[digit]);
                    codes[first + digit * bytes + l] = ((u16::from(rest) * 3) >> 8) as u8;
                }
            }
        }
    }

    #[inline(always)]
    fn pack(scales: &Scales, codes: &[u8], block: &mut [u8]) {
        for (at, bytes, first, digits) in PARTS {
            for l in 0..bytes {
                let mut number = 0u16;
                for digit in 0..DIGITS {
                    let code = if digit < digits { codes[first + digit * bytes + l] } else { 0 };
                    number = 3 * number + u16::from(code);
                }
                block[at + l] = (number * 256).div_ceil(243) as u8;
            }
        }
        f16::write(scales.d, &mut block[52..]);
    }

    fn weights(importance: &[f32]) -> Option<Vec<f32>> {
        normalize(importance)
    }

    #[inline(always)]
    fn quantize<S: Simd>(simd: S, rows: &[f32], columns: Option<Columns<'_>>, out: &mut [u8]) {
        ternary::quantize::<Self, S>(simd, rows, columns, out);
    }
}
