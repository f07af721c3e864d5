//! SHA-256's compression (FIPS 180-4) by the SHA instructions, for one message or several side by side.
//!
//! A message is one long chain of dependent rounds: the unit that computes them idles for half of the time.
//! A second message fills the gaps.

#![expect(
    clippy::needless_range_loop,
    reason = "an iterator's closures may not be inlined, nor have the instructions"
)]

use std::arch::x86_64::*;

use super::BLOCK;

#[repr(align(16))]
struct Aligned<T>(T);

/// First 32 bits of the fractional parts of the cube roots of the first 64 primes.
#[rustfmt::skip]
static K: Aligned<[[u32; 4]; 16]> = Aligned([
    [0x428a_2f98, 0x7137_4491, 0xb5c0_fbcf, 0xe9b5_dba5], [0x3956_c25b, 0x59f1_11f1, 0x923f_82a4, 0xab1c_5ed5],
    [0xd807_aa98, 0x1283_5b01, 0x2431_85be, 0x550c_7dc3], [0x72be_5d74, 0x80de_b1fe, 0x9bdc_06a7, 0xc19b_f174],
    [0xe49b_69c1, 0xefbe_4786, 0x0fc1_9dc6, 0x240c_a1cc], [0x2de9_2c6f, 0x4a74_84aa, 0x5cb0_a9dc, 0x76f9_88da],
    [0x983e_5152, 0xa831_c66d, 0xb003_27c8, 0xbf59_7fc7], [0xc6e0_0bf3, 0xd5a7_9147, 0x06ca_6351, 0x1429_2967],
    [0x27b7_0a85, 0x2e1b_2138, 0x4d2c_6dfc, 0x5338_0d13], [0x650a_7354, 0x766a_0abb, 0x81c2_c92e, 0x9272_2c85],
    [0xa2bf_e8a1, 0xa81a_664b, 0xc24b_8b70, 0xc76c_51a3], [0xd192_e819, 0xd699_0624, 0xf40e_3585, 0x106a_a070],
    [0x19a4_c116, 0x1e37_6c08, 0x2748_774c, 0x34b0_bcb5], [0x391c_0cb3, 0x4ed8_aa4a, 0x5b9c_ca4f, 0x682e_6ff3],
    [0x748f_82ee, 0x78a5_636f, 0x84c8_7814, 0x8cc7_0208], [0x90be_fffa, 0xa450_6ceb, 0xbef9_a3f7, 0xc671_78f2],
]);

/// Advances each state over its blocks, of which every message has as many.
#[target_feature(enable = "sha,ssse3,sse4.1")]
pub fn compress<const N: usize>(states: [&mut [u32; 8]; N], blocks: [&[[u8; BLOCK]]; N]) {
    let n = blocks[0].len();
    let mut now = [[_mm_setzero_si128(); 2]; N];
    for s in 0..N {
        assert_eq!(blocks[s].len(), n, "as many blocks of each message");
        now[s] = pack(states[s]);
    }
    for i in 0..n {
        let mut w = [[_mm_setzero_si128(); 4]; N];
        for s in 0..N {
            w[s] = words(&blocks[s][i]);
        }
        now = rounds(now, w);
    }
    for s in 0..N {
        *states[s] = unpack(now[s]);
    }
}

/// The 64 rounds of a block of each message, and the sum that ends it.
#[inline]
#[target_feature(enable = "sha,ssse3,sse4.1")]
fn rounds<const N: usize>(start: [[__m128i; 2]; N], mut w: [[__m128i; 4]; N]) -> [[__m128i; 2]; N] {
    let mut now = start;
    // Four rounds on the words `$a`; the words sixteen rounds on take their place.
    macro_rules! four {
        ($k:expr, $a:literal, $b:literal, $c:literal, $d:literal, $more:literal) => {
            for s in 0..N {
                // SAFETY: 16 bytes of an aligned constant.
                let k = unsafe { _mm_load_si128(K.0[$k].as_ptr().cast()) };
                now[s] = four_rounds(now[s], _mm_add_epi32(w[s][$a], k));
                if $more {
                    w[s][$a] = schedule([w[s][$a], w[s][$b], w[s][$c], w[s][$d]]);
                }
            }
        };
    }
    for k in [0, 4, 8] {
        four!(k, 0, 1, 2, 3, true);
        four!(k + 1, 1, 2, 3, 0, true);
        four!(k + 2, 2, 3, 0, 1, true);
        four!(k + 3, 3, 0, 1, 2, true);
    }
    four!(12, 0, 1, 2, 3, false);
    four!(13, 1, 2, 3, 0, false);
    four!(14, 2, 3, 0, 1, false);
    four!(15, 3, 0, 1, 2, false);
    for s in 0..N {
        now[s] = [_mm_add_epi32(now[s][0], start[s][0]), _mm_add_epi32(now[s][1], start[s][1])];
    }
    now
}

/// The state's words as the instructions have them: a, b, e, f and c, d, g, h, highest lane first.
#[inline]
#[target_feature(enable = "sha,ssse3,sse4.1")]
fn four_rounds([abef, cdgh]: [__m128i; 2], wk: __m128i) -> [__m128i; 2] {
    let cdgh = _mm_sha256rnds2_epu32(cdgh, abef, wk);
    [_mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32::<0x0e>(wk)), cdgh]
}

/// The next four words of the message schedule after these sixteen.
#[inline]
#[target_feature(enable = "sha,ssse3,sse4.1")]
fn schedule(w: [__m128i; 4]) -> __m128i {
    let sum = _mm_add_epi32(_mm_sha256msg1_epu32(w[0], w[1]), _mm_alignr_epi8::<4>(w[3], w[2]));
    _mm_sha256msg2_epu32(sum, w[3])
}

/// A block's sixteen words, which it has with the highest byte first.
#[inline]
#[target_feature(enable = "sha,ssse3,sse4.1")]
fn words(block: &[u8; BLOCK]) -> [__m128i; 4] {
    let swap = _mm_set_epi64x(0x0c0d_0e0f_0809_0a0b, 0x0405_0607_0001_0203);
    let mut w = [_mm_setzero_si128(); 4];
    for i in 0..4 {
        // SAFETY: the bytes 16 i .. 16 i + 16 of 64; the load asks for no alignment.
        let bytes = unsafe { _mm_loadu_si128(block.as_ptr().add(16 * i).cast()) };
        w[i] = _mm_shuffle_epi8(bytes, swap);
    }
    w
}

#[inline]
#[target_feature(enable = "sha,ssse3,sse4.1")]
fn pack(state: &[u32; 8]) -> [__m128i; 2] {
    let [a, b, c, d, e, f, g, h] = state.map(u32::cast_signed);
    [_mm_set_epi32(a, b, e, f), _mm_set_epi32(c, d, g, h)]
}

#[inline]
#[target_feature(enable = "sha,ssse3,sse4.1")]
fn unpack([abef, cdgh]: [__m128i; 2]) -> [u32; 8] {
    let lanes = |v| {
        let low = _mm_cvtsi128_si64(v);
        let high = _mm_cvtsi128_si64(_mm_unpackhi_epi64(v, v));
        [(high >> 32) as u32, high as u32, (low >> 32) as u32, low as u32]
    };
    let ([a, b, e, f], [c, d, g, h]) = (lanes(abef), lanes(cdgh));
    [a, b, c, d, e, f, g, h]
}
