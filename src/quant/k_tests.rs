//! What a block of Q4_K, Q5_K or Q6_K must do, whatever the search: finite, close, exact where it can be.

use proptest::prelude::*;

use super::search::{self, Grid};
use super::{q4_k, q5_k, q6_k};
use crate::dtype::QK_K;
use half::f16;

/// A type's name, block size, largest magnitude, quantiser and dequantiser, and its largest step: the range
/// or, for Q6_K, the largest magnitude, over the number of steps.
type Kind = (&'static str, usize, f32, fn(&[f32], Option<&[f32]>, &mut [u8]), fn(&[u8], &mut [f32]), f32);

const KINDS: [Kind; 3] = [
    ("Q4_K", q4_k::BYTES, q4_k::MAX_ABS, q4_k::quantize_row, q4_k::dequantize_row, 15.0),
    ("Q5_K", q5_k::BYTES, q5_k::MAX_ABS, q5_k::quantize_row, q5_k::dequantize_row, 31.0),
    ("Q6_K", q6_k::BYTES, q6_k::MAX_ABS, q6_k::quantize_row, q6_k::dequantize_row, 31.0),
];

fn round_trip(kind: &Kind, row: &[f32], h: Option<&[f32]>) -> Vec<f32> {
    let mut bytes = vec![0; row.len() / QK_K * kind.1];
    let mut back = vec![f32::NAN; row.len()];
    kind.3(row, h, &mut bytes);
    kind.4(&bytes, &mut back);
    back
}

fn squared_error(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum()
}

#[test]
fn zeros_stay_zeros() {
    for kind in &KINDS {
        assert!(round_trip(kind, &[0.0; 512], None).iter().all(|&v| v == 0.0), "{}", kind.0);
        assert!(round_trip(kind, &[0.0; 256], Some(&[1.0; 256])).iter().all(|&v| v == 0.0), "{}", kind.0);
    }
}

#[test]
fn constants_come_back_to_the_precision_of_the_scale() {
    for kind in &KINDS {
        for c in [1.0f32, -1.0, 0.0371, -512.7, 3e6, -3e6] {
            for v in round_trip(kind, &[c; 256], None) {
                assert!((v - c).abs() <= 5e-4 * c.abs(), "{}: {c} came back as {v}", kind.0);
            }
        }
    }
}

#[test]
fn the_largest_weights_do_not_overflow_the_scales() {
    for kind in &KINDS {
        for pattern in [[1.0f32, 1.0], [-1.0, -1.0], [1.0, -1.0], [-1.0, 0.0]] {
            let row: Vec<f32> = (0..256).map(|i| pattern[i % 2] * kind.2).collect();
            let back = round_trip(kind, &row, None);
            let share = squared_error(&row, &back) / squared_error(&row, &[0.0; 256]);
            assert!(share < 1e-3, "{} {pattern:?}: relative error {share}", kind.0);
        }
    }
}

#[test]
fn a_column_nothing_is_known_about_still_gets_sensible_codes() {
    let row: Vec<f32> = (0..256).map(|i| ((i * 37 % 101) as f32 - 50.0) * 0.01).collect();
    let mut h = [1.0; 256];
    h[32..96].fill(0.0);
    for kind in &KINDS {
        let back = round_trip(kind, &row, Some(&h));
        assert!(squared_error(&row[32..96], &back[32..96]) < 0.08, "{}", kind.0);
        // Importances that are all zero say nothing: as if there were none.
        assert_eq!(round_trip(kind, &row, Some(&[0.0; 256])), round_trip(kind, &row, None));
    }
}

#[test]
fn importance_lowers_the_error_where_it_is_high() {
    let row: Vec<f32> = (0..1024).map(|i| ((i * i * 31 % 1009) as f32 / 504.5 - 1.0).powi(3)).collect();
    let h: Vec<f32> = (0..1024).map(|i| if i % 7 == 0 { 50.0 } else { 1.0 }).collect();
    let error = |back: &[f32]| -> f64 {
        (0..1024).map(|i| f64::from(h[i]) * f64::from(row[i] - back[i]).powi(2)).sum()
    };
    for kind in &KINDS {
        let (with, without) =
            (error(&round_trip(kind, &row, Some(&h))), error(&round_trip(kind, &row, None)));
        assert!(with < 0.95 * without, "{}: {with} against {without}", kind.0);
    }
}

#[test]
fn scales_and_mins_lie_where_ggml_reads_them() {
    // d = 1, dmin = 0.5; sub-block 5 has scale 42 and min 21, code 9 for its third weight.
    let mut grid = Grid { d: f16::ONE, dmin: f16::from_f32(0.5), scales: [0; 8], mins: [0; 8] };
    (grid.scales[5], grid.mins[5]) = (42, 21);
    let mut codes = [0; 256];
    codes[5 * 32 + 2] = 9;
    let mut block = [0; q4_k::BYTES];
    q4_k::pack(&grid, &codes, &mut block);
    assert_eq!(block[4 + 9], (42 & 15) | (21 & 15) << 4);
    assert_eq!((block[4 + 1] >> 6, block[4 + 5] >> 6), (42 >> 4, 21 >> 4));
    assert_eq!(block[16 + 2 * 32 + 2], 9 << 4);
    let mut back = [0.0; 256];
    q4_k::dequantize_row(&block, &mut back);
    assert_eq!((back[5 * 32 + 2], back[5 * 32 + 3]), (42.0 * 9.0 - 10.5, -10.5));
}

proptest! {
    #[test]
    fn packing_is_undone_by_unpacking(
        d in any::<u16>(), dmin in any::<u16>(),
        scales in prop::array::uniform8(0u8..64), mins in prop::array::uniform8(0u8..64),
        signed in prop::array::uniform16(any::<i8>()),
        codes in prop::collection::vec(0u8..64, 256),
    ) {
        let six: [u8; 256] = codes.try_into().expect("256");
        let (four, five) = (six.map(|q| q & 15), six.map(|q| q & 31));
        prop_assert_eq!(search::unpack_scales(&search::pack_scales(&scales, &mins)), (scales, mins));
        let (d, dmin) = (f16::from_bits(d), f16::from_bits(dmin));
        let grid = Grid { d, dmin, scales, mins };
        let mut block = [0; q4_k::BYTES];
        q4_k::pack(&grid, &four, &mut block);
        let (g, c) = q4_k::unpack(&block);
        prop_assert_eq!((g.d.to_bits(), g.dmin.to_bits(), g.scales, g.mins, c), (d.to_bits(), dmin.to_bits(), scales, mins, four));
        let mut block = [0; q5_k::BYTES];
        q5_k::pack(&grid, &five, &mut block);
        let (g, c) = q5_k::unpack(&block);
        prop_assert_eq!((g.d.to_bits(), g.dmin.to_bits(), g.scales, g.mins, c), (d.to_bits(), dmin.to_bits(), scales, mins, five));
        let mut block = [0; q6_k::BYTES];
        q6_k::pack(&q6_k::Grid { d, scales: signed }, &six, &mut block);
        let (g, c) = q6_k::unpack(&block);
        prop_assert_eq!((g.d.to_bits(), g.scales, c), (d.to_bits(), signed, six));
    }

    #[test]
    fn no_weight_is_off_by_more_than_rounding_and_the_grid_allow(
        row in prop::collection::vec(-1.0f32..1.0, 256), exponent in -1i32..6,
    ) {
        let row: Vec<f32> = row.iter().map(|v| v * 10f32.powi(exponent)).collect();
        let largest = row.iter().fold(0.0f32, |a, v| a.max(v.abs()));
        for kind in &KINDS {
            let range = if kind.0 == "Q6_K" { largest } else { 2.0 * largest };
            let back = round_trip(kind, &row, None);
            for (v, w) in back.iter().zip(&row) {
                // Half a step from rounding; wider steps, cut extremes and rounded scales cost more.
                prop_assert!((v - w).abs() <= 2.0 * range / kind.5, "{}: {} came back as {}", kind.0, w, v);
            }
        }
    }

    #[test]
    fn any_finite_weights_give_finite_weights(
        bits in prop::collection::vec(any::<u32>(), 256), h in prop::option::of(prop::collection::vec(0.0f32..1e9, 256)),
    ) {
        for kind in &KINDS {
            let row: Vec<f32> = bits.iter().map(|&b| f32::from_bits(b))
                .map(|v| if v.is_finite() { v.clamp(-kind.2, kind.2) } else { 0.0 }).collect();
            prop_assert!(round_trip(kind, &row, h.as_deref()).iter().all(|v| v.is_finite()), "{}", kind.0);
        }
    }
}
