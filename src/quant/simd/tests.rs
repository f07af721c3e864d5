//! Every shell gives the bytes of the scalar reference.

use proptest::prelude::*;

use super::array::Array;
use super::{Importance, walk};
use crate::dtype::QK_K;
use crate::quant::search::{self, Codes, Codes4, Codes5};
use crate::quant::{q4_k, q5_k, q6_k};
use crate::simd_level::{Level, available};

type Reference = fn(&[f32], Option<&[f32]>, &mut [u8]);
type AtLevel = fn(Level, &[f32], usize, Option<&[f32]>, &mut [u8]);

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

fn same_bytes(
    block: usize,
    reference: Reference,
    at_level: AtLevel,
    portable: impl Fn(&[f32], Option<&[f32]>, &mut [u8]),
    (columns, rows, h): (usize, Vec<f32>, Option<Vec<f32>>),
) {
    let (h, blank) = (h.as_deref(), vec![0u8; rows.len() / QK_K * block]);
    let mut expected = blank.clone();
    let row_bytes = columns / QK_K * block;
    for (row, out) in rows.chunks_exact(columns).zip(expected.chunks_exact_mut(row_bytes)) {
        reference(row, h, out);
    }
    for level in available() {
        let mut got = blank.clone();
        at_level(level, &rows, columns, h, &mut got);
        assert!(got == expected, "{} differs from the reference", level.name());
    }
    let mut got = blank;
    portable(&rows, h, &mut got);
    assert!(got == expected, "the generic algorithm differs from the reference");
}

/// Two super-blocks at a time in 16 lanes and an odd one in 8, as with AVX-512.
fn affine_rows<C: Codes>(rows: &[f32], h: Option<&Importance>, out: &mut [u8]) {
    let pairs = rows.len() / (2 * QK_K);
    let (rows, last) = rows.split_at(pairs * 2 * QK_K);
    let (out, last_out) = out.split_at_mut(pairs * 2 * C::BYTES);
    walk::affine_rows::<_, C, 16>(Array::<16>, rows, h, 0, out);
    walk::affine_rows::<_, C, 8>(Array::<8>, last, h, 2 * pairs, last_out);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn q4_k_shells_give_the_bytes_of_the_reference(case in rows()) {
        same_bytes(q4_k::BYTES, q4_k::quantize_row, q4_k::quantize_rows_at, |x, h, out| {
            let h = h.and_then(|h| Importance::new(h, search::SUB));
            affine_rows::<Codes4>(x, h.as_ref(), out);
        }, case);
    }

    #[test]
    fn q5_k_shells_give_the_bytes_of_the_reference(case in rows()) {
        same_bytes(q5_k::BYTES, q5_k::quantize_row, q5_k::quantize_rows_at, |x, h, out| {
            let h = h.and_then(|h| Importance::new(h, search::SUB));
            affine_rows::<Codes5>(x, h.as_ref(), out);
        }, case);
    }

    #[test]
    fn q6_k_shells_give_the_bytes_of_the_reference(case in rows()) {
        same_bytes(q6_k::BYTES, q6_k::quantize_row, q6_k::quantize_rows_at, |x, h, out| {
            let h = h.and_then(|h| Importance::new(h, q6_k::SUB));
            walk::signed_rows::<_, 16, 1>(Array::<16>, x, h.as_ref(), out);
        }, case);
    }
}
