use proptest::prelude::*;

use super::*;
use crate::formats::calibration::SecondMoments;
use crate::quant;

const TYPES: [GgmlType; 8] = [
    GgmlType::Q4_K,
    GgmlType::Q5_K,
    GgmlType::Q6_K,
    GgmlType::Q8_0,
    GgmlType::Q4_0,
    GgmlType::Q4_1,
    GgmlType::Q5_0,
    GgmlType::Q5_1,
];

/// Bell-shaped numbers, the same for a seed.
fn numbers(seed: u64, n: usize) -> Vec<f32> {
    let mut sum = vec![0.0; n.next_multiple_of(16)];
    let mut part = sum.clone();
    for row in 0..4 {
        Noise::new(seed, "test").fill(row, 0, &mut part);
        sum.iter_mut().zip(&part).for_each(|(s, p)| *s += p);
    }
    sum.truncate(n);
    sum
}

/// Moments of inputs with a mean and neighbours that resemble each other.
fn moments(seed: u64, n: usize, block: usize) -> SecondMoments {
    let tokens = 2 * n;
    let mut values = vec![0.0; n * block];
    for t in 0..tokens {
        let x = numbers(seed + 1 + t as u64, n + 2);
        let x: Vec<f32> = (0..n).map(|i| 0.2 + x[i] + x[i + 1] + 0.5 * x[i + 2]).collect();
        for i in 0..n {
            let start = i / block * block;
            for j in start..(start + block).min(n) {
                values[i * block + j - start] += x[i] * x[j] / tokens as f32;
            }
        }
    }
    SecondMoments { n, block, values, tokens: tokens as u64 }
}

fn options(feedback: bool, polish: usize, proposals: usize) -> Options {
    Options { feedback, polish, proposals, tau: Some(0.06), unselected: false }
}

/// Blocks of the rows, and the cost that was reported.
fn quantised(ty: GgmlType, w: &[f32], factor: &Factor, options: &Options) -> (Vec<u8>, f64) {
    let mut out = vec![0; ty.row_bytes(w.len() as u64).unwrap() as usize];
    let noise = Noise::new(7, "t");
    let cost = quantize_rows(ty, Rows { weights: w, noise: &noise, first: 0 }, factor, options, &mut out);
    (out, cost)
}

/// `sum (v - w)^T H (v - w)` under the damped H, in f64.
fn cost(ty: GgmlType, w: &[f32], blocks: &[u8], factor: &Factor) -> f64 {
    let mut v = vec![0.0; w.len()];
    quant::dequantize(ty, blocks, &mut v);
    let n = factor.n;
    let mut sum = 0.0;
    for (w, v) in w.chunks(n).zip(v.chunks(n)) {
        let e: Vec<f64> = w.iter().zip(v).map(|(w, v)| f64::from(w - v)).collect();
        for &(start, len) in &factor.blocks {
            for i in start..start + len {
                let row = &factor.h[i * factor.block..][..len];
                sum += e[i] * row.iter().zip(&e[start..]).map(|(&h, e)| f64::from(h) * e).sum::<f64>();
            }
        }
    }
    sum
}

#[test]
fn the_reported_cost_is_that_of_the_blocks_and_every_step_lowers_it() {
    let w = numbers(1, 20 * 512);
    let factor = Factor::new(moments(2, 512, 256), DAMPING).unwrap().unwrap();
    for ty in TYPES {
        let steps = [(false, 0, 1), (true, 0, 1), (true, 1, 1), (true, 2, 1), (true, 3, 1), (true, 3, 4)];
        let costs = steps.map(|(feedback, polish, proposals)| {
            let (blocks, reported) = quantised(ty, &w, &factor, &options(feedback, polish, proposals));
            let real = cost(ty, &w, &blocks, &factor);
            assert!((reported / real - 1.0).abs() < 2e-3, "{ty:?}: {reported} is not {real}");
            real
        });
        // Q8_0's codes have nothing to choose between.
        assert!(costs[..5].is_sorted_by(|a, b| a > b), "{ty:?}: {costs:?}");
        assert!(costs[5] < costs[4] || ty == GgmlType::Q8_0 && costs[5] == costs[4], "{ty:?}: {costs:?}");
        assert!(costs[3] < 0.8 * costs[0], "{ty:?}: {costs:?}");
    }
}

#[test]
fn larger_blocks_of_h_cost_less_under_all_of_it() {
    let w = numbers(3, 16 * 512);
    let all = Factor::new(moments(4, 512, 512), DAMPING).unwrap().unwrap();
    let of = |block| {
        let factor = Factor::new(moments(4, 512, block), DAMPING).unwrap().unwrap();
        let (blocks, _) = quantised(GgmlType::Q4_K, &w, &factor, &options(true, 2, 1));
        cost(GgmlType::Q4_K, &w, &blocks, &all)
    };
    let (small, large) = (of(256), of(512));
    assert!(large < small, "{large} is not below {small}");
}

#[test]
fn rows_do_not_depend_on_their_neighbours() {
    let w = numbers(5, 37 * 256);
    let factor = Factor::new(moments(6, 256, 256), DAMPING).unwrap().unwrap();
    let options = options(true, 2, 3);
    let (whole, _) = quantised(GgmlType::Q4_K, &w, &factor, &options);
    let noise = Noise::new(7, "t");
    let mut pieces = Vec::new();
    for (first, rows) in [(0, 5), (5, 17), (22, 15)] {
        let mut out = vec![0; rows * 144];
        let weights = &w[first * 256..(first + rows) * 256];
        let rows = Rows { weights, noise: &noise, first: first as u64 };
        quantize_rows(GgmlType::Q4_K, rows, &factor, &options, &mut out);
        pieces.extend(out);
    }
    assert_eq!(pieces, whole);
}

#[test]
fn noise_depends_on_the_seed_and_on_nothing_else() {
    let w = numbers(8, 16 * 256);
    let factor = Factor::new(moments(9, 256, 256), DAMPING).unwrap().unwrap();
    let with = |seed| {
        let mut out = vec![0; 16 * 144];
        let noise = Noise::new(seed, "t");
        let rows = Rows { weights: &w, noise: &noise, first: 0 };
        quantize_rows(GgmlType::Q4_K, rows, &factor, &options(true, 1, 4), &mut out);
        out
    };
    assert_eq!(with(1), with(1));
    assert_ne!(with(1), with(2));
}

#[test]
fn noise_is_chosen_where_it_gains() {
    let w = numbers(10, 32 * 256);
    let factor = Factor::new(moments(11, 256, 256), DAMPING).unwrap().unwrap();
    let noise = Noise::new(0, "t");
    let rows = Rows { weights: &w, noise: &noise, first: 0 };
    let asked = Options { tau: None, ..options(true, 2, 4) };
    let chosen = calibrated(GgmlType::Q4_K, rows, &factor, &asked);
    assert!(chosen.tau.is_some_and(|tau| TAUS.contains(&tau)), "{chosen:?}");
    assert_eq!(calibrated(GgmlType::Q4_K, rows, &factor, &options(true, 2, 4)), options(true, 2, 4));
    // Weights on the grid leave nothing to gain.
    let zeros = vec![0.0; 32 * 256];
    let rows = Rows { weights: &zeros, ..rows };
    let chosen = calibrated(GgmlType::Q4_K, rows, &factor, &asked);
    assert_eq!((chosen.tau, chosen.proposals), (Some(0.0), 1));
}

#[test]
fn unknown_inputs_give_no_factor_and_unseen_columns_still_good_codes() {
    let zero = SecondMoments { n: 256, block: 256, values: vec![0.0; 1 << 16], tokens: 0 };
    assert!(Factor::new(zero.clone(), DAMPING).unwrap().is_none());
    let mut half = moments(12, 256, 256);
    for i in 0..256 {
        for j in 0..256 {
            if i >= 128 || j >= 128 {
                half.values[i * 256 + j] = 0.0;
            }
        }
    }
    let factor = Factor::new(half, DAMPING).unwrap().unwrap();
    let w = numbers(13, 16 * 256);
    let (blocks, _) = quantised(GgmlType::Q4_K, &w, &factor, &Options::default());
    let mut v = vec![0.0; w.len()];
    quant::dequantize(GgmlType::Q4_K, &blocks, &mut v);
    let off = w.iter().zip(&v).map(|(w, v)| (w - v).abs()).fold(0.0, f32::max);
    assert!(off < 0.3, "a weight moved by {off}");
    let mut bad = zero;
    bad.values[3] = f32::NAN;
    bad.values[0] = 1.0;
    assert!(Factor::new(bad, DAMPING).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn every_level_gives_the_same_bytes(seed: u32, which in 0usize..8, scale in -20i32..20, polish in 0usize..3, proposals in 1usize..9) {
        let ty = TYPES[which];
        let seed = u64::from(seed);
        let w: Vec<f32> = numbers(seed, 16 * 256).iter().map(|w| w * f32::powi(2.0, scale)).collect();
        let factor = Factor::new(moments(seed, 256, 256), DAMPING).unwrap().unwrap();
        let m = factor.moments(0, 256);
        let steps = Steps { feedback: true, polish, proposals, unselected: false };
        let mut works = crate::simd_level::available().into_iter().map(|level| {
            let at = |work: &mut Work| match ty {
                GgmlType::Q4_K => run::<grid::Q4K>(level, m, steps, &w, work),
                GgmlType::Q5_K => run::<grid::Q5K>(level, m, steps, &w, work),
                GgmlType::Q6_K => run::<grid::Q6K>(level, m, steps, &w, work),
                GgmlType::Q8_0 => run::<grid::Q80>(level, m, steps, &w, work),
                GgmlType::Q4_0 => run::<grid::Q40>(level, m, steps, &w, work),
                GgmlType::Q4_1 => run::<grid::Q41>(level, m, steps, &w, work),
                GgmlType::Q5_0 => run::<grid::Q50>(level, m, steps, &w, work),
                _ => run::<grid::Q51>(level, m, steps, &w, work),
            };
            let mut work = Work::default();
            at(&mut work);
            let scales: Vec<f32> = work.grids.iter().flat_map(|g| [g.d.0, g.scale[0].0, g.min[0].0].concat()).collect();
            let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            (bits(&work.cost.0), bits(&work.rows), bits(&scales))
        });
        let first = works.next().unwrap();
        for other in works {
            prop_assert_eq!(&first, &other);
        }
    }
}

fn run<F: Format>(level: Level, m: Moments<'_>, steps: Steps, w: &[f32], work: &mut Work) {
    work.resize::<F>(m.len);
    work.rows.copy_from_slice(w);
    let noise = Noise::new(1, "t");
    let rows = Rows { weights: w, noise: &noise, first: 0 };
    shell::<F>(level, m, steps, &mut |to| draw(rows, 0.2, 0, to), work);
}
