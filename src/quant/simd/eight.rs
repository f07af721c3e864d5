//! Rows of super-blocks in registers of 8 lanes: one of Q4_K or Q5_K at a time, or one of Q6_K in two halves.

use super::{Importance, Lanes, affine, pack, signed};
use crate::quant::q6_k;
use crate::quant::search::Codes;

/// Rows to Q4_K or Q5_K. `first`: the number of the first super-block of `rows` in the whole, for the importances.
#[inline(always)]
pub(super) fn affine_rows<L: Lanes, C: Codes>(
    l: L,
    rows: &[f32],
    h: Option<&Importance>,
    first: usize,
    out: &mut [u8],
) {
    let mut work = affine::Group::new(l);
    let mut words = [[0; 16]; 8];
    let (mut scales, mut mins, mut d, mut dmin) = ([0.0; 8], [0.0; 8], [0.0; 8], [0.0; 8]);
    for (i, (x, out)) in rows.as_chunks::<256>().0.iter().zip(out.chunks_exact_mut(C::BYTES)).enumerate() {
        let h = h.map(|h| [h.of(first + i); 2]);
        work.fill(l, x, h);
        let g = work.search::<C>(l);
        work.assign::<C>(l, &g, &mut words);
        l.store(g.scales, &mut scales);
        l.store(g.mins, &mut mins);
        l.store(g.d, &mut d);
        l.store(g.dmin, &mut dmin);
        let grid = pack::Affine { d: d[0], dmin: dmin[0], scales: &scales, mins: &mins };
        pack::affine::<C>(&grid, &words, 0, out);
    }
}

/// Rows to Q6_K.
#[inline(always)]
pub(super) fn signed_rows<L: Lanes>(l: L, rows: &[f32], h: Option<&Importance>, out: &mut [u8]) {
    let mut work = [signed::Part::new(l), signed::Part::new(l)];
    let mut words = [[[0; 16]; 4]; 2];
    let (mut scales, mut d) = ([0.0; 16], [0.0; 8]);
    let out = out.as_chunks_mut::<{ q6_k::BYTES }>().0;
    for (i, (x, out)) in rows.as_chunks::<256>().0.iter().zip(out).enumerate() {
        let h = h.map(|h| h.of(i));
        signed::fill(l, &mut work, x, h);
        let g = signed::search(l, &work);
        signed::assign(l, &work, &g, &mut words);
        l.store(g.scales[0], &mut scales);
        l.store(g.scales[1], &mut scales[8..]);
        l.store(g.d, &mut d);
        pack::q6_k(d[0], &scales, |k, j| words[j / 8][k][j % 8], out);
    }
}
