//! Q4_K: 256 weights in 144 bytes, 4.5 bits per weight.
//!
//! Eight sub-blocks of 32 weights, `w = d * scale * q - dmin * min`, `q` of 4 bits.
//!
//! | bytes | what |
//! | --- | --- |
//! | 0..2 | `d`, f16 |
//! | 2..4 | `dmin`, f16 |
//! | 4..16 | eight 6-bit scales and mins, see [`super::search::pack_scales`] |
//! | 16..144 | codes: byte `32 c + l` holds weight `64 c + l` in its low and `64 c + 32 + l` in its high half |

use half::f16;

use super::search::{self, Codes4, Grid, SUB};
use crate::dtype::QK_K;
use crate::simd_level::Level;

/// Bytes of a block.
pub const BYTES: usize = 144;
/// Largest magnitude whose min (`dmin` of 65504 times 63) can still be written.
pub const MAX_ABS: f32 = 65504.0 * 63.0;

/// The block of `grid` and codes of at most 15.
pub fn pack(grid: &Grid, codes: &[u8; QK_K], out: &mut [u8; BYTES]) {
    out[0..2].copy_from_slice(&grid.d.to_le_bytes());
    out[2..4].copy_from_slice(&grid.dmin.to_le_bytes());
    out[4..16].copy_from_slice(&search::pack_scales(&grid.scales, &grid.mins));
    for (i, byte) in out[16..].iter_mut().enumerate() {
        let at = i / SUB * 2 * SUB + i % SUB;
        *byte = codes[at] | codes[at + SUB] << 4;
    }
}

/// Scales and mins of a block.
pub fn scales(block: &[u8; BYTES]) -> Grid {
    let (scales, mins) = search::unpack_scales(block[4..16].try_into().expect("12 bytes"));
    let d = f16::from_le_bytes([block[0], block[1]]);
    let dmin = f16::from_le_bytes([block[2], block[3]]);
    Grid { d, dmin, scales, mins }
}

/// Scales and mins and codes of a block.
pub fn unpack(block: &[u8; BYTES]) -> (Grid, [u8; QK_K]) {
    let codes = std::array::from_fn(|i| {
        let byte = block[16 + i / (2 * SUB) * SUB + i % SUB];
        if i % (2 * SUB) < SUB { byte & 15 } else { byte >> 4 }
    });
    (scales(block), codes)
}

/// Quantises a row of whole super-blocks with the scalar reference. `importance`: the `h_ii` of the
/// row's columns.
pub fn quantize_row(row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    super::k_rows::quantize_row::<Codes4, BYTES>(row, importance, out, pack);
}

/// Writes the weights of whole blocks to `out`.
pub fn dequantize_row(bytes: &[u8], out: &mut [f32]) {
    super::k_rows::dequantize_row::<BYTES>(bytes, out, unpack);
}

/// As [`dequantize_row`], with the best instructions this CPU has.
pub fn dequantize_rows(bytes: &[u8], out: &mut [f32]) {
    super::simd::dequant::rows::<super::simd::dequant::Q4K>(crate::simd_level::level(), bytes, out);
}

/// Quantises rows of `n_per_row` weights with the best shell this CPU has.
pub fn quantize_rows(rows: &[f32], n_per_row: usize, importance: Option<&[f32]>, out: &mut [u8]) {
    quantize_rows_at(crate::simd_level::level(), rows, n_per_row, importance, out);
}

/// The same with the shell of `level`, which the CPU must have. All levels give the same bytes.
pub fn quantize_rows_at(
    level: Level,
    rows: &[f32],
    n_per_row: usize,
    importance: Option<&[f32]>,
    out: &mut [u8],
) {
    assert!(level <= crate::simd_level::level() || crate::simd_level::available().contains(&level));
    if super::simd::affine_rows::<Codes4>(level, rows, importance, out) {
        return;
    }
    let row_bytes = n_per_row / QK_K * BYTES;
    for (row, out) in rows.chunks_exact(n_per_row).zip(out.chunks_exact_mut(row_bytes)) {
        quantize_row(row, importance, out);
    }
}
