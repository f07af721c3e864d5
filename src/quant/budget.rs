//! Chooses one of several sizes for each of several items, so that the total cost is least and the total size fits a budget:
//! the multiple-choice knapsack problem. The items are tensors and the choices are types.
//!
//! The solution is exact where the sizes have a large common divisor, as the sizes of matrices have. Otherwise sizes are
//! rounded up to one of at least 65,536 units of the budget, and what the rounding leaves over is spent by the best changes of
//! one or two items that fit.
//!
//! ```
//! use srd_rs::quant::budget::{Choice, choose};
//!
//! let sizes = |costs: [f64; 3]| [100, 200, 300].iter().zip(costs).map(|(&bytes, cost)| Choice { bytes, cost }).collect();
//! // The second item gains more from its first upgrade than the first item from both of its upgrades.
//! let items: Vec<Vec<Choice>> = vec![sizes([5.0, 4.0, 3.5]), sizes([9.0, 2.0, 1.0])];
//! assert_eq!(choose(&items, 300), Ok(vec![0, 1]));
//! assert_eq!(choose(&items, 199), Err(200));
//! ```

/// One size of an item.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choice {
    /// Size in bytes.
    pub bytes: u64,
    /// Cost of the item at this size.
    pub cost: f64,
}

/// Number of units of the budget where the sizes are rounded.
const UNITS: u64 = 1 << 16;
/// Most moves, or pairs of moves, that are made after the sizes were rounded.
const MAX_MOVES: usize = 1000;
/// Number of units up to which the sizes are exact.
const MAX_EXACT_UNITS: u64 = 1 << 18;

/// Returns for each item the index of its choice. Fails with the smallest possible total size if that is above `budget`.
///
/// # Errors
/// The smallest total size.
///
/// # Panics
/// If an item has no choice.
pub fn choose(items: &[Vec<Choice>], budget: u64) -> Result<Vec<usize>, u64> {
    let useful: Vec<Vec<usize>> = items.iter().map(|choices| undominated(choices)).collect();
    let mut chosen: Vec<usize> = useful.iter().map(|order| order[0]).collect();
    let smallest: u64 = items.iter().zip(&chosen).map(|(choices, &i)| choices[i].bytes).sum();
    let room = budget.checked_sub(smallest).ok_or(smallest)?;
    let extra = |item: usize, i: usize| items[item][i].bytes - items[item][useful[item][0]].bytes;
    let divisor = (0..items.len())
        .flat_map(|item| useful[item].iter().map(move |&i| (item, i)))
        .fold(0, |a, (item, i)| gcd(a, extra(item, i)));
    if divisor == 0 {
        return Ok(chosen);
    }
    let largest: u64 = (0..items.len()).map(|item| extra(item, useful[item][useful[item].len() - 1])).sum();
    let room = room.min(largest);
    let unit = if room / divisor <= MAX_EXACT_UNITS { divisor } else { room.div_ceil(UNITS) };
    let units = (room / unit) as usize;

    // `cost[u]` is the least cost of the items so far within `u` units; `taken` has the choices that lead there.
    let mut cost = vec![0.0; units + 1];
    let mut taken = vec![0u8; items.len() * (units + 1)];
    for (item, taken) in taken.chunks_exact_mut(units + 1).enumerate() {
        let mut next = vec![f64::INFINITY; units + 1];
        for (number, &i) in useful[item].iter().enumerate() {
            let (by, own) = (extra(item, i).div_ceil(unit) as usize, items[item][i].cost);
            for (u, before) in (by..=units).zip(&cost) {
                if before + own < next[u] {
                    (next[u], taken[u]) = (before + own, number as u8);
                }
            }
        }
        cost = next;
    }
    let mut left = units;
    for (item, taken) in taken.chunks_exact(units + 1).enumerate().rev() {
        chosen[item] = useful[item][usize::from(taken[left])];
        left -= extra(item, chosen[item]).div_ceil(unit) as usize;
    }
    spend_rest(items, &useful, budget, &mut chosen);
    Ok(chosen)
}

/// One item gets another choice.
#[derive(Debug, Clone, Copy)]
struct Move {
    item: usize,
    /// The new choice.
    to: usize,
    /// Bytes that the item grows by; negative if it shrinks.
    bytes: i64,
    /// What the total cost falls by; negative if it rises.
    gain: f64,
}

/// Spends the bytes that the rounding of the sizes left over: makes the pair of moves that lowers the total cost most, or the
/// single move, as long as one fits. A pair shrinks one item to make room for another.
fn spend_rest(items: &[Vec<Choice>], useful: &[Vec<usize>], budget: u64, chosen: &mut [usize]) {
    for _ in 0..MAX_MOVES {
        let total: u64 = items.iter().zip(&*chosen).map(|(choices, &i)| choices[i].bytes).sum();
        let room = (budget - total) as i64;
        let mut moves = Vec::new();
        for (item, choices) in items.iter().enumerate() {
            let now = choices[chosen[item]];
            moves.extend(useful[item].iter().filter(|&&to| to != chosen[item]).map(|&to| {
                let bytes = choices[to].bytes as i64 - now.bytes as i64;
                Move { item, to, bytes, gain: now.cost - choices[to].cost }
            }));
        }
        let Some(best) = best_moves(moves, room) else { return };
        best.iter().for_each(|m| chosen[m.item] = m.to);
    }
}

/// Returns the one or two moves of different items that grow by at most `room` together and gain most; `None` if no moves gain.
fn best_moves(mut moves: Vec<Move>, room: i64) -> Option<Vec<Move>> {
    moves.sort_by(|a, b| a.bytes.cmp(&b.bytes).then(a.item.cmp(&b.item)).then(a.to.cmp(&b.to)));
    // The two moves of different items that gain most among the first moves, for each number of first moves.
    let mut leaders: Vec<[Option<Move>; 2]> = vec![[None; 2]];
    for &m in &moves {
        let [first, second] = leaders[leaders.len() - 1];
        let gains_more = |than: Option<Move>| than.is_none_or(|than| m.gain > than.gain);
        leaders.push(match first {
            Some(f) if f.item == m.item => [if gains_more(first) { Some(m) } else { first }, second],
            _ if gains_more(first) => [Some(m), first],
            _ if gains_more(second) => [first, Some(m)],
            _ => [first, second],
        });
    }
    let mut best: (f64, Vec<Move>) = (0.0, Vec::new());
    for &m in &moves {
        if m.bytes <= room && m.gain > best.0 {
            best = (m.gain, vec![m]);
        }
        let fitting = moves.partition_point(|other| other.bytes <= room - m.bytes);
        let partner = leaders[fitting].iter().flatten().find(|other| other.item != m.item);
        if let Some(&other) = partner
            && m.gain + other.gain > best.0
        {
            best = (m.gain + other.gain, vec![m, other]);
        }
    }
    (!best.1.is_empty()).then_some(best.1)
}

/// Returns the indices of the choices for which no other choice is both smaller and cheaper, the smallest first: at most 256.
fn undominated(choices: &[Choice]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..choices.len()).collect();
    order.sort_by(|&a, &b| {
        let (a, b) = (choices[a], choices[b]);
        a.bytes.cmp(&b.bytes).then(a.cost.total_cmp(&b.cost))
    });
    let mut least = f64::INFINITY;
    let first = *order.first().expect("an item has a choice");
    order.retain(|&i| {
        let better = choices[i].cost < least || i == first;
        least = least.min(choices[i].cost);
        better
    });
    order.truncate(256);
    order
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn totals(items: &[Vec<Choice>], chosen: &[usize]) -> (u64, f64) {
        items
            .iter()
            .zip(chosen)
            .fold((0, 0.0), |(bytes, cost), (choices, &i)| (bytes + choices[i].bytes, cost + choices[i].cost))
    }

    /// Tries all combinations.
    fn exhaustive(items: &[Vec<Choice>], budget: u64) -> Option<f64> {
        let mut best: Option<f64> = None;
        let count: usize = items.iter().map(Vec::len).product();
        for mut number in 0..count {
            let chosen: Vec<usize> = items
                .iter()
                .map(|choices| {
                    let i = number % choices.len();
                    number /= choices.len();
                    i
                })
                .collect();
            let (bytes, cost) = totals(items, &chosen);
            if bytes <= budget && best.is_none_or(|best| cost < best) {
                best = Some(cost);
            }
        }
        best
    }

    proptest! {
        #[test]
        fn the_choice_is_the_best_of_all(
            sizes in prop::collection::vec(prop::collection::vec((1u64..60, 0u32..1000), 1..5), 1..6),
            budget in 0u64..250,
        ) {
            let choice = |&(bytes, cost): &(u64, u32)| Choice { bytes, cost: f64::from(cost) };
            let items: Vec<Vec<Choice>> = sizes.iter().map(|item| item.iter().map(choice).collect()).collect();
            match choose(&items, budget) {
                Ok(chosen) => {
                    let (bytes, cost) = totals(&items, &chosen);
                    prop_assert!(bytes <= budget);
                    prop_assert_eq!(Some(cost), exhaustive(&items, budget));
                }
                Err(smallest) => {
                    prop_assert!(smallest > budget && exhaustive(&items, budget).is_none());
                    prop_assert!(exhaustive(&items, smallest).is_some());
                }
            }
        }
    }

    proptest! {
        // A case takes a tenth of a second.
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn rounded_sizes_stay_within_the_budget_and_use_it(
            sizes in prop::collection::vec((1u64 << 20..1 << 30, 0.0f64..1.0), 100), share in 0.05f64..0.95,
        ) {
            let scales = [(1.0, 1.0), (1.3, 0.5), (1.7, 0.2), (2.1, 0.1)];
            let item = |&(bytes, cost): &(u64, f64)| scales.iter()
                .map(|&(size, part)| Choice { bytes: (bytes as f64 * size) as u64, cost: (cost + 1e-3) * part }).collect();
            let items: Vec<Vec<Choice>> = sizes.iter().map(item).collect();
            let total = |last: bool| -> u64 { items.iter().map(|c: &Vec<Choice>| c[if last { 3 } else { 0 }].bytes).sum() };
            let budget = total(false) + (share * (total(true) - total(false)) as f64) as u64;
            let chosen = choose(&items, budget).unwrap();
            let (bytes, _) = totals(&items, &chosen);
            prop_assert!(bytes <= budget, "{bytes} of {budget}");
            // What is left over is too little for the next size of any item, and no change of two items lowers the cost
            // within the budget.
            for (of, &i) in items.iter().zip(&chosen) {
                prop_assert!(of.get(i + 1).is_none_or(|next| bytes - of[i].bytes + next.bytes > budget), "{bytes} of {budget}");
            }
            for (a, (of_a, &i)) in items.iter().zip(&chosen).enumerate() {
                for (of_b, &j) in items[a + 1..].iter().zip(&chosen[a + 1..]) {
                    let (fixed, now) = (bytes - of_a[i].bytes - of_b[j].bytes, of_a[i].cost + of_b[j].cost);
                    for (p, q) in of_a.iter().flat_map(|p| of_b.iter().map(move |q| (p, q))) {
                        prop_assert!(p.cost + q.cost >= now * (1.0 - 1e-12) || fixed + p.bytes + q.bytes > budget);
                    }
                }
            }
        }
    }
}
