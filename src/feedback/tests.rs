use proptest::prelude::*;

use super::*;
use crate::formats::calibration::SecondMoments;
use crate::quant::{self, BLOCK_FORMATS};
use crate::simd::f16;

/// Returns roughly normal numbers. A seed always gives the same numbers.
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

/// Returns moments of inputs that have a mean and resemble their neighbours.
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

fn options(feedback: bool, descent_rounds: usize, beam_width: usize) -> SolverOptions {
    SolverOptions { feedback, descent_rounds, beam_width, dither: Some(0.06) }
}

/// Returns the blocks of the rows, and the cost that the solver reports.
fn quantized(
    ty: GgmlType,
    w: &[f32],
    moments: &FactorizedMoments,
    options: &SolverOptions,
) -> (Vec<u8>, f64) {
    let mut out = vec![0; ty.row_bytes(w.len() as u64).unwrap() as usize];
    let noise = Noise::new(7, "t");
    let cost = quantize_rows(ty, Rows { weights: w, noise: &noise, first: 0 }, moments, options, &mut out);
    (out, cost)
}

/// Returns the sum of `(v - w) H (v - w)^T` over the rows, with the damped H, in f64.
fn cost(ty: GgmlType, w: &[f32], blocks: &[u8], moments: &FactorizedMoments) -> f64 {
    let mut v = vec![0.0; w.len()];
    quant::dequantize(ty, blocks, &mut v);
    let n = moments.n;
    let mut sum = 0.0;
    for (w, v) in w.chunks(n).zip(v.chunks(n)) {
        let e: Vec<f64> = w.iter().zip(v).map(|(w, v)| f64::from(w - v)).collect();
        for &(start, len) in &moments.blocks {
            for i in start..start + len {
                let row = &moments.h[i * moments.block..][..len];
                sum += e[i] * row.iter().zip(&e[start..]).map(|(&h, e)| f64::from(h) * e).sum::<f64>();
            }
        }
    }
    sum
}

fn factorized(moments: SecondMoments) -> FactorizedMoments {
    FactorizedMoments::new(moments, DAMPING).unwrap().unwrap()
}

#[test]
fn the_reported_cost_is_that_of_the_blocks_and_every_step_lowers_it() {
    let w = numbers(1, 20 * 512);
    let h = factorized(moments(2, 512, 256));
    for ty in BLOCK_FORMATS.iter().copied().filter(|&ty| supports(ty)) {
        let steps = [(false, 0, 1), (true, 0, 1), (true, 1, 1), (true, 2, 1), (true, 3, 1), (true, 3, 4)];
        let costs = steps.map(|(feedback, rounds, width)| {
            let (blocks, reported) = quantized(ty, &w, &h, &options(feedback, rounds, width));
            let real = cost(ty, &w, &blocks, &h);
            assert!((reported / real - 1.0).abs() < 2e-3, "{ty:?}: {reported} is not {real}");
            real
        });
        // The codes of Q8_0 and the levels of the IQ4 formats need more bits than the beam keeps, so they have no beam.
        assert!(costs[..5].is_sorted_by(|a, b| a > b), "{ty:?}: {costs:?}");
        let has_beam = !matches!(ty, GgmlType::Q8_0 | GgmlType::IQ4_NL | GgmlType::IQ4_XS);
        assert!(costs[5] < costs[4] || !has_beam && costs[5] == costs[4], "{ty:?}: {costs:?}");
        assert!(costs[3] < 0.8 * costs[0], "{ty:?}: {costs:?}");
    }
}

#[test]
fn larger_blocks_of_h_cost_less_under_all_of_it() {
    let w = numbers(3, 16 * 512);
    let all = factorized(moments(4, 512, 512));
    let of = |block| {
        let h = factorized(moments(4, 512, block));
        let (blocks, _) = quantized(GgmlType::Q4_K, &w, &h, &options(true, 2, 1));
        cost(GgmlType::Q4_K, &w, &blocks, &all)
    };
    let (small, large) = (of(256), of(512));
    assert!(large < small, "{large} is not below {small}");
}

#[test]
fn rows_do_not_depend_on_their_neighbours() {
    // More rows than take the steps of the solver together, and two groups of columns in a block of H.
    let w = numbers(5, 150 * 512);
    let h = factorized(moments(6, 512, 512));
    let options = options(true, 2, 4);
    let (whole, _) = quantized(GgmlType::Q4_K, &w, &h, &options);
    let noise = Noise::new(7, "t");
    let mut pieces = Vec::new();
    for (first, rows) in [(0, 5), (5, 17), (22, 78), (100, 50)] {
        let mut out = vec![0; rows * 2 * 144];
        let weights = &w[first * 512..(first + rows) * 512];
        let rows = Rows { weights, noise: &noise, first: first as u64 };
        quantize_rows(GgmlType::Q4_K, rows, &h, &options, &mut out);
        pieces.extend(out);
    }
    assert_eq!(pieces, whole);
}

#[test]
fn noise_depends_on_the_seed_and_on_nothing_else() {
    let w = numbers(8, 16 * 256);
    let h = factorized(moments(9, 256, 256));
    let with = |seed| {
        let mut out = vec![0; 16 * 144];
        let noise = Noise::new(seed, "t");
        let rows = Rows { weights: &w, noise: &noise, first: 0 };
        quantize_rows(GgmlType::Q4_K, rows, &h, &options(true, 1, 4), &mut out);
        out
    };
    assert_eq!(with(1), with(1));
    assert_ne!(with(1), with(2));
}

#[test]
fn noise_is_chosen_where_it_gains() {
    let w = numbers(10, 32 * 256);
    let h = factorized(moments(11, 256, 256));
    let noise = Noise::new(0, "t");
    let rows = Rows { weights: &w, noise: &noise, first: 0 };
    let asked = SolverOptions { dither: None, ..options(true, 2, 4) };
    let chosen = choose_dither(GgmlType::Q4_K, rows, &h, &asked);
    assert!(chosen.dither.is_some_and(|dither| DITHER_AMPLITUDES.contains(&dither)), "{chosen:?}");
    assert_eq!(choose_dither(GgmlType::Q4_K, rows, &h, &options(true, 2, 4)), options(true, 2, 4));
    // Weights that are codes already leave nothing to gain.
    let zeros = vec![0.0; 32 * 256];
    let rows = Rows { weights: &zeros, ..rows };
    let chosen = choose_dither(GgmlType::Q4_K, rows, &h, &asked);
    assert_eq!((chosen.dither, chosen.beam_width), (Some(0.0), 1));
}

#[test]
fn unknown_inputs_give_none_and_unseen_columns_still_get_good_codes() {
    let zero = SecondMoments { n: 256, block: 256, values: vec![0.0; 1 << 16], tokens: 0 };
    assert!(FactorizedMoments::new(zero.clone(), DAMPING).unwrap().is_none());
    let mut half = moments(12, 256, 256);
    for i in 0..256 {
        for j in 0..256 {
            if i >= 128 || j >= 128 {
                half.values[i * 256 + j] = 0.0;
            }
        }
    }
    let h = factorized(half);
    let w = numbers(13, 16 * 256);
    let (blocks, _) = quantized(GgmlType::Q4_K, &w, &h, &SolverOptions::default());
    let mut v = vec![0.0; w.len()];
    quant::dequantize(GgmlType::Q4_K, &blocks, &mut v);
    let off = w.iter().zip(&v).map(|(w, v)| (w - v).abs()).fold(0.0, f32::max);
    assert!(off < 0.3, "a weight moved by {off}");
    let mut bad = zero;
    bad.values[3] = f32::NAN;
    bad.values[0] = 1.0;
    assert!(FactorizedMoments::new(bad, DAMPING).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn every_level_gives_the_same_bytes(seed: u32, which: usize, scale in -20i32..20, descent_rounds in 0usize..3, width in 0usize..4) {
        let types: Vec<_> = BLOCK_FORMATS.iter().copied().filter(|&ty| supports(ty)).collect();
        let ty = types[which % types.len()];
        let seed = u64::from(seed);
        // A pair of groups of rows and one more, and two groups of columns.
        let w: Vec<f32> = numbers(seed, 3 * 16 * 512).iter().map(|w| w * f32::powi(2.0, scale)).collect();
        let h = factorized(moments(seed, 512, 512));
        let format = scales::format(ty).unwrap();
        let options = SolverOptions { feedback: true, descent_rounds, beam_width: BEAM_WIDTHS[width], dither: None };
        let mut results = Isa::available().into_iter().map(|isa| {
            let mut groups: [Workspace; 3] = Default::default();
            for (ws, w) in groups.iter_mut().zip(w.chunks_exact(16 * 512)) {
                ws.resize(format, 512);
                ws.rows.copy_from_slice(w);
            }
            let noise = Noise::new(1, "t");
            let mut fill = |group, to: &mut [F32x16]| fill_noise(&noise, 16 * group as u64, 0, 0.2, to);
            solve_on(isa, h.at(0, 512, format), &options, &mut fill, &mut groups);
            let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            groups.each_ref().map(|ws| {
                let scales: Vec<f32> = ws.scales.iter().flat_map(|g| [g.d.0, g.scale[0].0, g.min[0].0].concat()).collect();
                (bits(&ws.cost.0), bits(&ws.rows), bits(&scales))
            })
        });
        let first = results.next().unwrap();
        for other in results {
            prop_assert_eq!(&first, &other);
        }
    }
}

#[test]
fn only_the_beam_widths_that_exist_are_accepted() {
    for beam_width in 0..12 {
        let checked = SolverOptions { beam_width, ..SolverOptions::default() }.check();
        assert_eq!(checked.is_ok(), [1, 2, 4, 8].contains(&beam_width), "{beam_width}");
        if let Err(error) = checked {
            assert!(
                matches!(error, Error::Usage { .. }) && error.to_string().contains("1, 2, 4 or 8"),
                "{error}"
            );
        }
    }
    for dither in [-0.1, f32::NAN, f32::INFINITY] {
        assert!(SolverOptions { dither: Some(dither), ..SolverOptions::default() }.check().is_err());
    }
}

/// Eight weights with the codes -2 to 1 and one scale: small enough to try all codes.
static TINY: Format = Format {
    ty: GgmlType::Q4_0,
    block: 8,
    sub: 8,
    codes: (-2.0, 1.0),
    table: &[],
    scales: None,
    mins: false,
    scale_is_f16: true,
    search: |_, rows, importance, _, to| {
        for (lane, row) in rows.chunks_exact(importance.len()).enumerate() {
            let largest = row.iter().fold(0.0f32, |a, v| a.max(v.abs()));
            to[0].d.0[lane] = f16::round(largest / 2.0);
            to[0].scale[0].0[lane] = 1.0;
        }
    },
    read: |_, _, _| panic!("the solver does not read blocks"),
    write: |_, _, _, _| panic!("the solver does not write blocks"),
};

/// Returns the smallest J of `w` over all codes of [`TINY`], with the scale `d`. Without `d` each row of codes has its best
/// scale, of any sign and not rounded to f16; no solver can be better.
fn exhaustive(w: &[f64], h: &[f64], d: Option<f64>) -> f64 {
    let n = w.len();
    let product = |x: &[f64], y: &[f64]| -> f64 {
        (0..n).map(|i| x[i] * (0..n).map(|j| h[i * n + j] * y[j]).sum::<f64>()).sum()
    };
    let alone = product(w, w);
    let cost = |code: usize| {
        let q: Vec<f64> = (0..n).map(|i| (code >> (2 * i) & 3) as f64 - 2.0).collect();
        let (square, mixed) = (product(&q, &q), product(&q, w));
        match d {
            Some(d) => alone + d * (d * square - 2.0 * mixed),
            None if square > 0.0 => alone - mixed * mixed / square,
            None => alone,
        }
    };
    (0..1 << (2 * n)).map(cost).fold(f64::INFINITY, f64::min)
}

/// Solves [`ROWS`] rows of 8 weights. Returns the scale and J of each row, J computed in f64 from the codes.
fn solve_tiny(h: &FactorizedMoments, w: &[f32], options: &SolverOptions) -> Vec<(f64, f64)> {
    let mut ws = Workspace::default();
    ws.resize(&TINY, 8);
    ws.rows.copy_from_slice(w);
    let noise = Noise::new(1, "t");
    let mut fill = |_, to: &mut [F32x16]| {
        let mut all = [F32x16::default(); 256];
        fill_noise(&noise, 0, 0, 0.3, &mut all);
        to.copy_from_slice(&all[..8]);
    };
    solve_on(Isa::detect(), h.at(0, 8, &TINY), options, &mut fill, std::slice::from_mut(&mut ws));
    let rows = w.chunks_exact(8).zip(ws.rows.chunks_exact(8));
    rows.enumerate()
        .map(|(lane, (w, q))| {
            let d = ws.scales[0].d.0[lane];
            let e: Vec<f64> = w.iter().zip(q).map(|(w, q)| f64::from(w - d * q)).collect();
            let at = |i: usize| (0..8).map(|j| e[i] * f64::from(h.h[i * 8 + j]) * e[j]).sum::<f64>();
            let cost = (0..8).map(at).sum::<f64>();
            assert!(
                (f64::from(ws.cost.0[lane]) / cost - 1.0).abs() < 1e-3,
                "the reported cost is not the cost"
            );
            (f64::from(d), cost)
        })
        .collect()
}

/// The oracle of the solver: the best of all codes of rows of 8 weights.
#[test]
fn the_solver_is_never_below_the_optimum_and_near_the_best_codes() {
    let variants = [(false, 0, 1), (true, 0, 1), (true, 2, 1), (true, 0, 8), (true, 2, 4), (true, 2, 8)];
    let mut ratios = vec![Vec::new(); variants.len()];
    for seed in 0..3 {
        let h = factorized(moments(100 + 20 * seed, 8, 8));
        let h64: Vec<f64> = h.h.iter().map(|&v| v.into()).collect();
        let w = numbers(50 + seed, ROWS * 8);
        let rows: Vec<Vec<f64>> = w.chunks_exact(8).map(|w| w.iter().map(|&v| v.into()).collect()).collect();
        let optima: Vec<f64> = rows.iter().map(|w| exhaustive(w, &h64, None)).collect();
        for (ratios, (feedback, rounds, width)) in ratios.iter_mut().zip(variants) {
            let solved = solve_tiny(&h, &w, &options(feedback, rounds, width));
            for ((w, (d, cost)), optimum) in rows.iter().zip(solved).zip(&optima) {
                assert!(cost > 0.999 * optimum, "the cost {cost} is below the optimum {optimum}");
                ratios.push(cost / exhaustive(w, &h64, Some(d)));
            }
        }
    }
    let mut means = Vec::new();
    for (ratios, variant) in ratios.iter().zip(variants) {
        let mean = (ratios.iter().map(|r| r.ln()).sum::<f64>() / ratios.len() as f64).exp();
        let worst = ratios.iter().fold(0.0, |a: f64, &b| a.max(b));
        println!(
            "{variant:?}: cost over that of the best codes for its scales: mean {mean:.3}, worst {worst:.2}"
        );
        means.push(mean);
    }
    let [rounding, feedback, descent, .., best] = means[..] else { unreachable!("six variants") };
    assert!(feedback < rounding && descent < feedback && best <= descent, "{means:?}");
    assert!(best < 1.1, "{means:?}");
}

#[test]
fn the_inverse_undoes_the_product_with_h() {
    for (n, block) in [(512, 256), (300, 300), (576, 256)] {
        let h = factorized(moments(7, n, block));
        let rows = numbers(8, 21 * n);
        let mut products = vec![0.0; rows.len()];
        for (product, row) in products.chunks_exact_mut(n).zip(rows.chunks_exact(n)) {
            for &(start, len) in &h.blocks {
                for i in 0..len {
                    let of_h = &h.h[(start + i) * block..][..len];
                    let sum = of_h.iter().zip(&row[start..]).map(|(h, w)| f64::from(*h) * f64::from(*w));
                    product[start + i] = sum.sum::<f64>() as f32;
                }
            }
        }
        h.multiply_by_inverse(&mut products);
        let worst = products.iter().zip(&rows).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 2e-3, "{worst} for {n} inputs in blocks of {block}");
    }
}

#[test]
fn the_energies_of_many_rows_are_those_of_each_row() {
    for (n, block) in [(512, 256), (301, 301), (576, 256)] {
        let h = factorized(moments(9, n, block));
        let rows = numbers(10, 37 * n);
        let energies = h.energies(rows.chunks_exact(n));
        assert_eq!(energies.len(), 37);
        for (row, &energy) in rows.chunks_exact(n).zip(&energies) {
            assert_eq!(h.energy(row), energy);
            // The energy is what it costs to round the row to zeros.
            let zeros = vec![0; GgmlType::F32.row_bytes(n as u64).unwrap() as usize];
            let expected = cost(GgmlType::F32, row, &zeros, &h);
            assert!((energy - expected).abs() < 1e-5 * expected, "{energy}, and {expected} expected");
        }
        assert!((h.energy(&rows) - energies.iter().sum::<f64>()).abs() < 1e-9 * h.energy(&rows));
    }
    assert!(factorized(moments(9, 256, 256)).energies([]).is_empty());
}
