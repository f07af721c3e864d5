//! What IQ1_S and IQ1_M share: eight weights are a point of a grid, whose coordinates are -1, 0 and 1, moved by a shift
//! and multiplied by a scale.
//!
//! A weight is `(d * (2 * scale + 1)) * (coordinate + shift)`. `d` is an f16, `scale` an integer of three bits, and the
//! shift is 1/8 with a sign. The grid is ggml's (see NOTICE); `scripts/make_grids.py` wrote it to `grids/`. Blocks of these
//! types are read, not written.

/// Weights of a point.
pub const GROUP: usize = 8;
/// The magnitude of the shift.
const SHIFT: f32 = 0.125;
/// Number of points in the grid.
const POINTS: usize = 2048;
/// The coordinates of the points. In the file a point is a word of 16 bits: the coordinates plus 1, from the low bits up.
static GRID: [[i8; GROUP]; POINTS] = {
    let words = include_bytes!("grids/iq1_s.bin");
    let mut points = [[0; GROUP]; POINTS];
    let mut i = 0;
    while i < POINTS {
        let word = words[2 * i] as u16 | (words[2 * i + 1] as u16) << 8;
        let mut k = 0;
        while k < GROUP {
            points[i][k] = (word >> (2 * k) & 3) as i8 - 1;
            k += 1;
        }
        i += 1;
    }
    points
};

/// Writes the weights of a point. `scale` is the integer scale, `point` has eleven bits.
#[inline(always)]
pub fn group(d: f32, scale: u16, point: u16, negative: bool, out: &mut [f32]) {
    let factor = d * f32::from(2 * scale + 1);
    let shift = if negative { -SHIFT } else { SHIFT };
    for (w, &coordinate) in out.iter_mut().zip(&GRID[usize::from(point)]) {
        *w = factor * (f32::from(coordinate) + shift);
    }
}
