//! Every operation gives the bits of the portable vector on every instruction set that the CPU has.

use super::{Isa, Simd, Vector, dispatch};

/// Values of every kind that the operations allow: no NaN, magnitudes below 2^22, ties, zeros and subnormals.
fn values(seed: u64) -> [f32; 64] {
    let special = [0.0, -0.0, 0.5, -0.5, 1.5, 2.5, -2.5, 1e-40, -1e-40, 6e-8, 65504.0, -70000.0, 4e6, -4e6];
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    std::array::from_fn(|i| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let bits = (state >> 33) as u32;
        match bits % 5 {
            0 => special[bits as usize / 5 % special.len()],
            1 => (bits % 41) as f32 * 0.5 - 10.0,
            _ => ((bits % 100_000) as f32 - 50_000.0) * 10f32.powi(i as i32 % 9 - 6),
        }
    })
}

/// Runs every operation of one width on `x` and `y` and appends the bits of the results.
#[inline(always)]
fn run<V: Vector>(v: V, x: &[f32; 64], y: &[f32; 64], out: &mut Vec<u32>) {
    let mut floats = [0.0; 64];
    let mut words = [0; 64];
    let mut bytes = [0; 64];
    macro_rules! keep {
        ($($value:expr),* $(,)?) => {$(
            v.store($value, &mut floats);
            out.extend(floats[..V::N].iter().map(|f| if f.is_nan() { 0x7fc0_0000 } else { f.to_bits() }));
        )*};
    }
    macro_rules! keep_words {
        ($($value:expr),* $(,)?) => {$(
            v.store_u32($value, &mut words);
            out.extend_from_slice(&words[..V::N]);
        )*};
    }
    for at in (0..64).step_by(V::N) {
        let (a, b, c) = (v.load(&x[at..]), v.load(&y[at..]), v.load(&x[64 - at - V::N..]));
        keep!(v.add(a, b), v.sub(a, b), v.mul(a, b), v.div(a, b), v.mul_add(a, b, c));
        keep!(v.sqrt(v.abs(a)), v.abs(a), v.min(a, b), v.max(a, b), v.min(a, a), v.splat(1.25));
        keep!(v.round_ties_even(a), v.round_to_f16(a), v.min_bits(a, v.splat(3.0)));
        keep!(v.clamp_bits(a, v.splat(3.0)), v.clamp(a, v.splat(-2.0), v.splat(3.0)));
        keep!(v.select(v.lt(a, b), a, b), v.select(v.eq(a, v.abs(a)), b, a), v.select(v.gt(a, b), c, b));
        let (low, high) = (v.lt(a, b), v.lt(b, c));
        keep!(v.select(v.mask_and(low, high), a, b), v.select(v.mask_or(low, high), a, b));
        keep!(v.swap::<1>(a), v.swap::<2>(a));
        if V::N > 4 {
            keep!(v.swap::<4>(a));
        }
        if V::N > 8 {
            keep!(v.swap::<8>(a));
        }
        let (p, q) = (v.to_bits(a), v.to_bits(b));
        keep_words!(v.and(p, q), v.or(p, q), v.xor(p, q), v.splat_u32(7), v.to_i32(a));
        keep_words!(v.shl::<5>(p), v.shr::<5>(p), v.shr_i32::<5>(p), v.shl::<0>(p), v.shr::<31>(p));
        keep_words!(v.min_i32(p, q), v.max_i32(p, q), v.select_u32(v.eq_u32(p, q), p, v.load_u32(&words)));
        keep!(v.from_bits(v.xor(p, v.splat_u32(1))), v.from_i32(p));
        v.store_low_bytes([p, q, v.xor(p, q), v.to_bits(c)], &mut bytes);
        out.extend(bytes[..4 * V::N].iter().map(|&b| u32::from(b)));
        let (low, high) = v.widening_mul(p, q);
        keep_words!(low, high, v.load_bytes(&bytes));
        out.extend([v.reduce_sum(a), v.reduce_max(a), v.first(a)].map(f32::to_bits));
    }
    for column in v.load_transposed(x, 4) {
        keep!(column);
    }
    let mut back = [0.0; 64];
    v.store_transposed(v.load_transposed(x, 4), &mut back, 4);
    assert_eq!(
        back[..4 * V::N].iter().map(|v| v.to_bits()).collect::<Vec<_>>(),
        x[..4 * V::N].iter().map(|v| v.to_bits()).collect::<Vec<_>>()
    );
    if V::N >= 8 {
        keep!(v.load_eights(x[40..].first_chunk().unwrap(), y[8..].first_chunk().unwrap()));
    }
}

dispatch! {
    fn all(simd: S, x: &[f32; 64], y: &[f32; 64], out: &mut Vec<u32>) {
        assert_eq!((S::X8::N, S::X16::N), (8, 16));
        run(simd.x8(), x, y, out);
        run(simd.x16(), x, y, out);
    }
}

#[test]
fn every_instruction_set_gives_the_bits_of_the_portable_one() {
    for seed in 0..200 {
        let (x, y) = (values(2 * seed), values(2 * seed + 1));
        let mut expected = Vec::new();
        all(Isa::PORTABLE, &x, &y, &mut expected);
        for isa in Isa::available() {
            let mut out = Vec::new();
            all(isa, &x, &y, &mut out);
            let first = expected.iter().zip(&out).position(|(a, b)| a != b);
            assert!(expected == out, "{isa:?} differs at {first:?}, seed {seed}");
        }
    }
}

#[test]
fn reductions_run_in_the_documented_order() {
    let x: [f32; 16] = std::array::from_fn(|i| 1.0 / (i as f32 + 3.0));
    let eight = |s: &[f32]| ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
    let folded: [f32; 8] = std::array::from_fn(|i| x[i] + x[i + 8]);
    let v = super::Portable;
    assert_eq!(v.x8().reduce_sum(v.x8().load(&x)).to_bits(), eight(&x).to_bits());
    assert_eq!(v.x16().reduce_sum(v.x16().load(&x)).to_bits(), eight(&folded).to_bits());
}
