//! Blocks from codes that lie four to a word: `words[k][j]` holds codes `4k..4k + 4` of sub-block
//! `j`. The byte order of the words is that of the file.

use half::f16;

use crate::quant::search::{Codes, pack_scales};
use crate::quant::{q4_k, q5_k, q6_k};

const LOW: u32 = 0x0f0f_0f0f;

/// One super-block of the grid, as floats.
pub(super) struct Affine<'a> {
    pub d: f32,
    pub dmin: f32,
    pub scales: &'a [f32; 8],
    pub mins: &'a [f32; 8],
}

impl Affine<'_> {
    #[inline(always)]
    fn header(&self, out: &mut [u8; 16]) {
        out[0..2].copy_from_slice(&f16::from_f32(self.d).to_le_bytes());
        out[2..4].copy_from_slice(&f16::from_f32(self.dmin).to_le_bytes());
        let bytes = |v: &[f32; 8]| v.map(|v| v as u8);
        out[4..16].copy_from_slice(&pack_scales(&bytes(self.scales), &bytes(self.mins)));
    }
}

/// Codes of `words[..][first..first + 8]`.
#[inline(always)]
fn column(words: &[[u32; 16]; 8], k: usize, first: usize) -> &[u32; 8] {
    words[k].as_chunks::<8>().0[first / 8..].first().expect("first is 0 or 8")
}

#[inline(always)]
fn low_halves(words: &[[u32; 16]; 8], first: usize, out: &mut [u8; 128]) {
    let (out, _) = out.as_chunks_mut::<4>();
    for k in 0..8 {
        let w = column(words, k, first);
        for c in 0..4 {
            out[c * 8 + k] = ((w[2 * c] & LOW) | (w[2 * c + 1] & LOW) << 4).to_le_bytes();
        }
    }
}

#[inline(always)]
fn q4_k(a: &Affine, words: &[[u32; 16]; 8], first: usize, out: &mut [u8; q4_k::BYTES]) {
    let (head, codes) = out.split_first_chunk_mut::<16>().expect("144 bytes");
    a.header(head);
    low_halves(words, first, codes.try_into().expect("128 bytes"));
}

#[inline(always)]
fn q5_k(a: &Affine, words: &[[u32; 16]; 8], first: usize, out: &mut [u8; q5_k::BYTES]) {
    let (head, rest) = out.split_first_chunk_mut::<16>().expect("176 bytes");
    let (fifth, codes) = rest.split_first_chunk_mut::<32>().expect("160 bytes");
    a.header(head);
    for (k, out) in fifth.as_chunks_mut::<4>().0.iter_mut().enumerate() {
        let w = column(words, k, first);
        let mut bits = 0;
        for (j, w) in w.iter().enumerate() {
            bits |= (w >> 4 & 0x0101_0101) << j;
        }
        *out = bits.to_le_bytes();
    }
    low_halves(words, first, codes.try_into().expect("128 bytes"));
}

/// `word(k, j)` as above, for sub-blocks of 16.
#[inline(always)]
pub(super) fn q6_k(
    d: f32,
    scales: &[f32; 16],
    word: impl Fn(usize, usize) -> u32,
    out: &mut [u8; q6_k::BYTES],
) {
    let (words, tail) = out.as_chunks_mut::<4>();
    for half in 0..2 {
        for k in 0..4 {
            for r in 0..4 {
                let (a, b) = (word(k, 8 * half + r), word(k, 8 * half + 4 + r));
                words[half * 16 + r * 4 + k] = ((a & LOW) | (b & LOW) << 4).to_le_bytes();
            }
            for e in 0..2 {
                let mut bits = 0;
                for g in 0..4 {
                    bits |= (word(k, 8 * half + 2 * g + e) >> 4 & 0x0303_0303) << (2 * g);
                }
                words[32 + half * 8 + e * 4 + k] = bits.to_le_bytes();
            }
        }
    }
    for (out, s) in words[48..52].iter_mut().zip(scales.as_chunks::<4>().0) {
        *out = s.map(|s| s as i8 as u8);
    }
    tail.copy_from_slice(&f16::from_f32(d).to_le_bytes());
}

/// A block of Q4_K or Q5_K; `out` is `C::BYTES` long.
#[inline(always)]
pub(super) fn affine<C: Codes>(a: &Affine, words: &[[u32; 16]; 8], first: usize, out: &mut [u8]) {
    if C::BYTES == q4_k::BYTES {
        q4_k(a, words, first, out.try_into().expect("a block"));
    } else {
        q5_k(a, words, first, out.try_into().expect("a block"));
    }
}
