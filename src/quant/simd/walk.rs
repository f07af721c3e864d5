//! The walks over the super-blocks of rows, for registers of `N` lanes: 8 are one super-block of Q4_K or Q5_K or half
//! of one of Q6_K, 16 are twice that.

use super::{Importance, Lanes, affine, pack, signed};
use crate::quant::q6_k;
use crate::quant::search::{Codes, SUB, SUBS};

/// Rows to Q4_K or Q5_K, whole registers of them. `first`: the number of the first super-block of `rows` in the whole,
/// for the importances.
#[inline(always)]
pub(super) fn affine_rows<L: Lanes, C: Codes, const N: usize>(
    l: L,
    rows: &[f32],
    h: Option<&Importance>,
    first: usize,
    out: &mut [u8],
) {
    let blocks = N / SUBS;
    let mut work = affine::Group::new(l);
    let mut words = [[0; 16]; 8];
    let (mut scales, mut mins, mut d, mut dmin) = ([0.0; N], [0.0; N], [0.0; N], [0.0; N]);
    for (i, (x, out)) in rows.chunks_exact(N * SUB).zip(out.chunks_exact_mut(blocks * C::BYTES)).enumerate() {
        let at = first + blocks * i;
        work.fill(l, x, h.map(|h| [h.of(at), h.of(at + blocks - 1)]));
        let g = work.search::<C>(l);
        work.assign::<C>(l, &g, &mut words);
        l.store(g.scales, &mut scales);
        l.store(g.mins, &mut mins);
        l.store(g.d, &mut d);
        l.store(g.dmin, &mut dmin);
        for (k, out) in out.chunks_exact_mut(C::BYTES).enumerate() {
            let lane = SUBS * k;
            let grid = pack::Affine {
                d: d[lane],
                dmin: dmin[lane],
                scales: scales[lane..].first_chunk().expect("8 lanes"),
                mins: mins[lane..].first_chunk().expect("8 lanes"),
            };
            pack::affine::<C>(&grid, &words, lane, out);
        }
    }
}

/// Rows to Q6_K, a super-block in `H` registers of `N` lanes: `H * N` is 16.
#[inline(always)]
pub(super) fn signed_rows<L: Lanes, const N: usize, const H: usize>(
    l: L,
    rows: &[f32],
    h: Option<&Importance>,
    out: &mut [u8],
) {
    let mut work = std::array::from_fn::<_, H, _>(|_| signed::Part::new(l));
    let mut words = [[[0; 16]; 4]; H];
    let (mut scales, mut d) = ([0.0; 16], [0.0; N]);
    let out = out.as_chunks_mut::<{ q6_k::BYTES }>().0;
    for (i, (x, out)) in rows.as_chunks::<256>().0.iter().zip(out).enumerate() {
        signed::fill(l, &mut work, x, h.map(|h| h.of(i)));
        let g = signed::search(l, &work);
        signed::assign(l, &work, &g, &mut words);
        for (k, &part) in g.scales.iter().enumerate() {
            l.store(part, &mut scales[N * k..]);
        }
        l.store(g.d, &mut d);
        pack::q6_k(d[0], &scales, |k, j| words[j / N][k][j % N], out);
    }
}
