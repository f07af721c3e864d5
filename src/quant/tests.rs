//! What every encoding must do, whatever its search: the same bytes on every instruction set, finite and close values,
//! exact values where they can be exact.

use proptest::prelude::*;

use super::format::{BlockFormat, MAX_BLOCK, Scales};
use super::{
    BLOCK_FORMATS, QUANTIZABLE, Weighting, dequantize, dequantize_at, max_abs, oracle, quantize, quantize_at,
    with_block_format,
};
use crate::dtype::{GgmlType, QK_K};
use crate::simd::Isa;

fn bytes_of(ty: GgmlType, n: usize) -> usize {
    ty.row_bytes(n as u64).expect("whole blocks") as usize
}

fn round_trip(ty: GgmlType, row: &[f32], h: Option<&[f32]>) -> Vec<f32> {
    let mut bytes = vec![0; bytes_of(ty, row.len())];
    let mut back = vec![f32::NAN; row.len()];
    quantize(ty, row, row.len(), h, &mut bytes);
    dequantize(ty, &bytes, &mut back);
    back
}

fn squared_error(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum()
}

/// The number of largest steps between the levels of a side, or of both sides in a format with mins, and whether there
/// are mins.
fn steps(ty: GgmlType) -> (f32, bool) {
    with_block_format!(ty, F => {
        let largest_step = F::TABLE.windows(2).fold(1.0f32, |a, pair| a.max(pair[1] - pair[0]));
        let span = if F::MINS { F::LEVELS.1 } else { F::LEVELS.1.min(-F::LEVELS.0) };
        (span / largest_step, F::MINS)
    })
    .expect("a block format")
}

#[test]
fn the_registry_agrees_with_the_type_table() {
    assert!(BLOCK_FORMATS.iter().all(|ty| QUANTIZABLE.contains(ty)));
    for &ty in BLOCK_FORMATS {
        with_block_format!(ty, F => {
            assert_eq!((F::TYPE, F::BLOCK, F::BYTES), (ty, ty.block_len(), ty.block_bytes()));
            assert!(F::BLOCK <= MAX_BLOCK && F::BLOCK.is_multiple_of(F::SUB), "{ty:?} has whole sub-blocks");
            assert!(F::LEVELS.0 + F::ZERO >= 0.0 && F::LEVELS.1 + F::ZERO <= 255.0);
            assert!(F::SUB.is_multiple_of(16), "dequantize works on 16 weights with one scale");
        });
    }
}

#[test]
fn zeros_stay_zeros() {
    for &ty in QUANTIZABLE {
        assert!(round_trip(ty, &[0.0; 512], None).iter().all(|&v| v == 0.0), "{ty:?}");
        assert!(round_trip(ty, &[0.0; 256], Some(&[1.0; 256])).iter().all(|&v| v == 0.0), "{ty:?}");
    }
}

#[test]
fn constants_come_back_to_the_precision_of_the_scale() {
    // The scale of MXFP4 is a power of 2, which holds hardly any constant.
    for ty in BLOCK_FORMATS.iter().filter(|ty| **ty != GgmlType::MXFP4) {
        for c in [1.0f32, -1.0, 0.0371, -512.7, 3e4, -3e4] {
            // The f16 scale of IQ4_XS is 4064 times smaller than the largest weight, and subnormal for small weights.
            if *ty == GgmlType::IQ4_XS && c.abs() < 1.0 {
                continue;
            }
            for v in round_trip(*ty, &[c; 256], None) {
                assert!((v - c).abs() <= 5e-4 * c.abs(), "{ty:?}: {c} came back as {v}");
            }
        }
    }
}

#[test]
fn the_largest_weights_do_not_overflow_the_scales() {
    for &ty in BLOCK_FORMATS {
        for pattern in [[1.0f32, 1.0], [-1.0, -1.0], [1.0, -1.0], [-1.0, 0.0]] {
            let row: Vec<f32> = (0..256).map(|i| pattern[i % 2] * max_abs(ty)).collect();
            let back = round_trip(ty, &row, None);
            assert!(back.iter().all(|v| v.is_finite()), "{ty:?} {pattern:?}");
            let share = squared_error(&row, &back) / squared_error(&row, &[0.0; 256]);
            assert!(share < 0.01, "{ty:?} {pattern:?}: relative error {share}");
        }
    }
}

#[test]
fn a_column_nothing_is_known_about_still_gets_sensible_codes() {
    let row: Vec<f32> = (0..256).map(|i| ((i * 37 % 101) as f32 - 50.0) * 0.01).collect();
    let mut h = [1.0; 256];
    h[32..96].fill(0.0);
    for &ty in BLOCK_FORMATS {
        let back = round_trip(ty, &row, Some(&h));
        // Types of few levels leave up to a quarter of the energy.
        let coarse = ty.bpw() < 4.0 || ty == GgmlType::MXFP4;
        let limit = if coarse { 0.25 * squared_error(&row[32..96], &[0.0; 64]) } else { 0.08 };
        assert!(squared_error(&row[32..96], &back[32..96]) < limit, "{ty:?}");
        // Importances that are all zero say nothing: as if there were none.
        assert_eq!(round_trip(ty, &row, Some(&[0.0; 256])), round_trip(ty, &row, None));
    }
}

#[test]
fn importance_lowers_the_error_where_it_is_high() {
    let row: Vec<f32> = (0..1024).map(|i| ((i * i * 31 % 1009) as f32 / 504.5 - 1.0).powi(3)).collect();
    let h: Vec<f32> = (0..1024).map(|i| if i % 7 == 0 { 50.0 } else { 1.0 }).collect();
    let error = |back: &[f32]| -> f64 {
        (0..1024).map(|i| f64::from(h[i]) * f64::from(row[i] - back[i]).powi(2)).sum()
    };
    // Q8_0 has no search, and the others have one scale for 256 weights, or no more than three to choose from.
    let without = [GgmlType::Q8_0, GgmlType::TQ1_0, GgmlType::TQ2_0, GgmlType::MXFP4];
    for &ty in BLOCK_FORMATS.iter().filter(|ty| !without.contains(ty)) {
        let (with, without) = (error(&round_trip(ty, &row, Some(&h))), error(&round_trip(ty, &row, None)));
        assert!(with < 0.95 * without, "{ty:?}: {with} against {without}");
    }
}

/// Packs one block and returns its bytes.
fn packed(ty: GgmlType, scales: &Scales, codes: &[u8]) -> Vec<u8> {
    let mut block = vec![0; ty.block_bytes()];
    with_block_format!(ty, F => F::pack(scales, codes, &mut block)).expect("a block format");
    block
}

#[test]
fn scales_mins_and_codes_lie_where_ggml_reads_them() {
    // d = 1, dmin = 0.5; sub-block 5 has scale 42 and min 21, code 9 for its third weight.
    let mut scales = Scales { d: 1.0, dmin: 0.5, scales: [0.0; 16], mins: [0.0; 16] };
    (scales.scales[5], scales.mins[5]) = (42.0, 21.0);
    let mut codes = [0; 256];
    codes[5 * 32 + 2] = 9;
    let block = packed(GgmlType::Q4_K, &scales, &codes);
    assert_eq!(block[4 + 9], (42 & 15) | (21 & 15) << 4);
    assert_eq!((block[4 + 1] >> 6, block[4 + 5] >> 6), (42 >> 4, 21 >> 4));
    assert_eq!(block[16 + 2 * 32 + 2], 9 << 4);
    let mut back = [0.0; 256];
    dequantize(GgmlType::Q4_K, &block, &mut back);
    assert_eq!((back[5 * 32 + 2], back[5 * 32 + 3]), (42.0 * 9.0 - 10.5, -10.5));

    let nibbles: Vec<u8> = (0..16).map(|i| i | i << 4).collect();
    let codes: [u8; 32] = std::array::from_fn(|i| i as u8 % 16);
    let block = packed(GgmlType::Q4_0, &Scales::one(0.5), &codes);
    assert_eq!((&block[..2], &block[2..]), (&[0x00, 0x38][..], &nibbles[..]));
    let block = packed(GgmlType::Q4_1, &Scales::with_offset(0.5, -3.0), &codes);
    assert_eq!((&block[..4], &block[4..]), (&[0x00, 0x38, 0x00, 0xC2][..], &nibbles[..]));
    let codes: [u8; 32] = std::array::from_fn(|i| i as u8);
    let block = packed(GgmlType::Q5_0, &Scales::one(0.5), &codes);
    assert_eq!((&block[2..6], &block[6..]), (&[0, 0, 0xFF, 0xFF][..], &nibbles[..]));
    let block = packed(GgmlType::Q5_1, &Scales::with_offset(0.5, -3.0), &codes);
    assert_eq!((&block[2..8], &block[8..]), (&[0x00, 0xC2, 0, 0, 0xFF, 0xFF][..], &nibbles[..]));
}

/// Weights of one super-block: a distribution at some magnitude, with odd values strewn in.
fn super_block() -> impl Strategy<Value = Vec<f32>> {
    let odd = prop_oneof![
        Just(0.0f32),
        Just(-0.0),
        Just(1e-45),
        Just(-1e-40),
        Just(1e-30),
        Just(6e-8),
        Just(-4e6),
        Just(4e6),
        Just(1.0),
        Just(-1.0)
    ];
    let value = prop_oneof![
        4 => (-1.0f32..1.0).boxed(),
        1 => (0.0f32..1.0).boxed(),
        1 => (0.9f32..1.1).boxed(),
        1 => prop::sample::select(vec![0.0f32, 0.25, -0.5, 1.0]).boxed(),
    ];
    let magnitude = prop::sample::select(vec![1e-40f32, 1e-20, 1e-8, 1e-6, 1e-3, 0.02, 1.0, 1e4, 4e6, -1.0]);
    let strewn = prop::collection::vec((0..QK_K, odd), 0..4);
    prop_oneof![
        6 => (prop::collection::vec(value, QK_K), magnitude, strewn).prop_map(|(mut v, m, odd)| {
            v.iter_mut().for_each(|v| *v *= m);
            odd.into_iter().for_each(|(i, o)| v[i] = o);
            v
        }),
        1 => prop::sample::select(vec![0.0f32, 0.1, -0.1, 1e-40, 4e6, -4e6])
            .prop_map(|c| vec![c; QK_K]),
        1 => prop::collection::vec(-1.0f32..1.0, 8)
            .prop_map(|c| (0..QK_K).map(|i| c[i / 32]).collect()),
    ]
}

/// Rows of `columns` super-blocks and perhaps importances, some zero, some huge.
fn rows() -> impl Strategy<Value = (usize, Vec<f32>, Option<Vec<f32>>)> {
    (1usize..4, 1usize..4).prop_flat_map(|(columns, rows)| {
        let importance = prop_oneof![
            8 => (1e-3f32..10.0).boxed(),
            1 => Just(0.0f32).boxed(),
            1 => (1e3f32..1e30).boxed(),
        ];
        let h = prop_oneof![
            prop::collection::vec(importance, columns * QK_K).prop_map(Some),
            Just(Some(vec![0.0; columns * QK_K])),
            Just(None),
            Just(None),
        ];
        let weights = prop::collection::vec(super_block(), columns * rows).prop_map(|b| b.concat());
        (Just(columns * QK_K), weights, h)
    })
}

/// Every instruction set gives the bytes of the oracle, or of the portable code where there is no oracle.
fn same_bytes(ty: GgmlType, (columns, rows, h): &(usize, Vec<f32>, Option<Vec<f32>>)) {
    let limit = max_abs(ty);
    let rows: Vec<f32> = rows.iter().map(|w| w.clamp(-limit, limit)).collect();
    let blank = vec![0xAA; bytes_of(ty, rows.len())];
    let mut expected = blank.clone();
    let weighting = h.as_ref().map(|h| Weighting::new(ty, h));
    let weights = weighting.as_ref().and_then(|w| w.columns(0..*columns));
    if !oracle::quantize(ty, &rows, *columns, h.as_deref(), &mut expected) {
        quantize_at(Isa::PORTABLE, ty, &rows, weights, &mut expected);
    }
    let mut back = vec![f32::NAN; rows.len()];
    dequantize_at(Isa::PORTABLE, ty, &expected, &mut back);
    assert!(back.iter().all(|v| v.is_finite()));
    for isa in Isa::available() {
        let mut bytes = blank.clone();
        quantize_at(isa, ty, &rows, weights, &mut bytes);
        assert!(bytes == expected, "{ty:?}: {isa:?} differs from the oracle");
        let mut values = vec![f32::NAN; rows.len()];
        dequantize_at(isa, ty, &bytes, &mut values);
        assert!(values.iter().zip(&back).all(|(a, b)| a.to_bits() == b.to_bits()), "{ty:?}: {isa:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn every_instruction_set_gives_the_bytes_of_the_oracle(case in rows()) {
        for &ty in BLOCK_FORMATS {
            same_bytes(ty, &case);
        }
    }
}

proptest! {
    /// Any bytes: also infinite and subnormal scales, and scales that are not numbers.
    #[test]
    fn dequantizing_follows_the_formula_on_every_instruction_set(bytes in prop::collection::vec(any::<u8>(), 640)) {
        for &ty in BLOCK_FORMATS {
            let blocks = bytes.len() / ty.block_bytes();
            let bytes = &bytes[..blocks * ty.block_bytes()];
            let mut expected = Vec::new();
            with_block_format!(ty, F => for block in bytes.chunks_exact(F::BYTES) {
                let (scales, mut codes) = (F::scales(block), [0; MAX_BLOCK]);
                F::codes(block, &mut codes);
                expected.extend((0..F::BLOCK).map(|i| {
                    let value = scales.d * scales.scales[i / F::SUB] * (f32::from(codes[i]) - F::ZERO);
                    if F::MINS { value - scales.dmin * scales.mins[i / F::SUB] } else { value }
                }));
            });
            for isa in Isa::available() {
                let mut out = vec![f32::NAN; expected.len()];
                dequantize_at(isa, ty, bytes, &mut out);
                let same = out.iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan());
                prop_assert!(same, "{:?} {:?}", ty, isa);
            }
        }
    }

    /// Reading a block and writing what was read gives the block again.
    #[test]
    fn packing_undoes_unpacking(bytes in prop::collection::vec(any::<u8>(), 256)) {
        for &ty in BLOCK_FORMATS {
            let block = &bytes[..ty.block_bytes()];
            with_block_format!(ty, F => {
                let (scales, mut codes) = (F::scales(block), [0; MAX_BLOCK]);
                F::codes(block, &mut codes);
                prop_assume!(!scales.d.is_nan() && !scales.dmin.is_nan());
                let mut again = vec![0xAA; F::BYTES];
                F::pack(&scales, &codes[..F::BLOCK], &mut again);
                // MXFP4 has two zeros, and many bytes of TQ1_0 hold the same digits.
                if matches!(ty, GgmlType::MXFP4 | GgmlType::TQ1_0) {
                    let (mut first, mut second) = (vec![0.0; F::BLOCK], vec![0.0; F::BLOCK]);
                    dequantize(ty, block, &mut first);
                    dequantize(ty, &again, &mut second);
                    prop_assert_eq!(first, second, "{:?}", ty);
                } else {
                    prop_assert_eq!(&again[..], block, "{:?}", ty);
                }
            });
        }
    }

    /// Pieces of a row give the bytes of the whole row, with importances and without.
    #[test]
    fn pieces_of_rows_give_the_bytes_of_whole_rows(case in rows(), cut in 0usize..4) {
        let (columns, rows, h) = case;
        let cut = cut * QK_K % columns;
        for &ty in BLOCK_FORMATS {
            let limit = max_abs(ty);
            let row: Vec<f32> = rows[..columns].iter().map(|w| w.clamp(-limit, limit)).collect();
            let weighting = h.as_ref().map(|h| Weighting::new(ty, h));
            let weights = |from, to| weighting.as_ref().and_then(|w| w.columns(from..to));
            let (mut whole, mut pieces) = (vec![0; bytes_of(ty, columns)], vec![0; bytes_of(ty, columns)]);
            quantize_at(Isa::detect(), ty, &row, weights(0, columns), &mut whole);
            let (left, right) = pieces.split_at_mut(bytes_of(ty, cut));
            quantize_at(Isa::detect(), ty, &row[..cut], weights(0, cut), left);
            quantize_at(Isa::detect(), ty, &row[cut..], weights(cut, columns), right);
            prop_assert!(whole == pieces, "{:?}", ty);
        }
    }

    #[test]
    fn no_weight_is_off_by_more_than_rounding_and_the_scales_allow(
        row in prop::collection::vec(-1.0f32..1.0, 256), exponent in -1i32..5,
    ) {
        let row: Vec<f32> = row.iter().map(|v| v * 10f32.powi(exponent)).collect();
        let largest = row.iter().fold(0.0f32, |a, v| a.max(v.abs()));
        for &ty in BLOCK_FORMATS {
            let (steps, has_min) = steps(ty);
            let range = if has_min { 2.0 * largest } else { largest };
            let back = round_trip(ty, &row, None);
            for (v, w) in back.iter().zip(&row) {
                // Half a step from rounding; wider steps, cut extremes and rounded scales cost more.
                prop_assert!((v - w).abs() <= 2.0 * range / steps, "{:?}: {} came back as {}", ty, w, v);
            }
        }
    }

    #[test]
    fn any_finite_weights_give_finite_weights(
        bits in prop::collection::vec(any::<u32>(), 256), h in prop::option::of(prop::collection::vec(0.0f32..1e9, 256)),
    ) {
        for &ty in BLOCK_FORMATS {
            let limit = max_abs(ty);
            let row: Vec<f32> = bits.iter().map(|&b| f32::from_bits(b))
                .map(|v| if v.is_finite() { v.clamp(-limit, limit) } else { 0.0 }).collect();
            prop_assert!(round_trip(ty, &row, h.as_deref()).iter().all(|v| v.is_finite()), "{:?}", ty);
        }
    }
}
