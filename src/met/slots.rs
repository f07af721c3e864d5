//! The four slots of depth, and how the layers of a model are split into them.
//!
//! ```
//! use srd_rs::met::slots::{Slot, Split};
//!
//! let split = Split::of_depth(30);
//! assert_eq!(split.layers(Slot::Early), 0..6);
//! assert_eq!(split.slot_of(29), Some(Slot::Governance));
//! ```

use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A range of the depth of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Slot {
    /// The first 20 % of the layers.
    Early,
    /// The layers from 20 % to 40 %.
    Factual,
    /// The layers from 40 % to 77 %.
    Reasoning,
    /// The last 23 % of the layers.
    Governance,
}

impl Slot {
    /// All slots, by depth.
    pub const ALL: [Self; 4] = [Self::Early, Self::Factual, Self::Reasoning, Self::Governance];

    /// Returns the name, as the JSON has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Early => "early",
            Self::Factual => "factual",
            Self::Reasoning => "reasoning",
            Self::Governance => "governance",
        }
    }

    /// Reads a name; returns `None` for a name that is not the name of a slot.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.name() == name)
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The percentage of the depth at which each slot ends. Dense models and mixture-of-experts models have the same split:
/// 20, 20, 37 and 23 %.
const ENDS: [u64; 4] = [20, 40, 77, 100];

/// The note on the split in the sidecar of a mixture-of-experts model.
pub const MOE_NOTE: &str = "20/20/37/23 split — architecture-agnostic for MoE";

/// The note on the split if the user has given the layers of the slots.
pub const CUSTOM_NOTE: &str = "custom split";

const SLOTS_FORM: &str = "Write early=0-5,factual=6-11,reasoning=12-22,governance=23-29";

/// The layers of each slot. Every layer of the model is in exactly one slot, and the slots are in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Split {
    /// For each slot, the first layer after the slot. The last value is the number of layers.
    ends: [u32; 4],
}

impl Split {
    /// The standard split of a model of `n_layer` layers. Each boundary is rounded to a whole layer. A model with fewer
    /// layers than slots has one layer in each of the first slots.
    pub fn of_depth(n_layer: u32) -> Self {
        let rounded = |per_cent: u64| ((u64::from(n_layer) * per_cent + 50) / 100) as u32;
        let mut ends = ENDS.map(rounded);
        for (i, end) in ends.iter_mut().enumerate() {
            *end = (*end).max(n_layer.min(i as u32 + 1));
        }
        Self { ends }
    }

    /// Makes a split from the layers of each slot. Returns `None` if the ranges do not follow one another from layer 0
    /// to
    /// `n_layer`.
    pub fn from_ranges(ranges: &[Range<u32>; 4], n_layer: u32) -> Option<Self> {
        let mut next = 0;
        let mut ends = [0; 4];
        for (range, end) in ranges.iter().zip(&mut ends) {
            if !range.is_empty() {
                if range.start != next {
                    return None;
                }
                next = range.end;
            }
            *end = next;
        }
        (next == n_layer).then_some(Self { ends })
    }

    /// Parses text such as `early=0-5,factual=6-11,reasoning=12-22,governance=23-29`, which has the first and the last
    /// layer of each slot. A slot that is left out has no layers.
    ///
    /// # Errors
    /// [`Error::Usage`] for an unknown slot, for text that is not a range, and for layers that are left out or named
    /// twice.
    pub fn parse(text: &str, n_layer: u32) -> Result<Self> {
        let mut ranges: [Option<Range<u32>>; 4] = Default::default();
        for part in text.split(',') {
            let (slot, range) = parse_part(part)?;
            if ranges[slot as usize].replace(range).is_some() {
                return Err(Error::usage(format!("slot '{slot}' is given twice"), SLOTS_FORM));
            }
        }
        Self::from_ranges(&ranges.map(Option::unwrap_or_default), n_layer).ok_or_else(|| {
            let what = format!("the slots '{text}' are not the layers 0 to {} in order", n_layer - 1);
            Error::usage(what, SLOTS_FORM)
        })
    }

    /// Returns the layers of a slot. The range is empty in models of fewer layers than slots.
    pub fn layers(&self, slot: Slot) -> Range<u32> {
        let i = slot as usize;
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        start..self.ends[i]
    }

    /// Returns the slot of a layer, or `None` for a layer that the model does not have.
    pub fn slot_of(&self, layer: u32) -> Option<Slot> {
        Slot::ALL.into_iter().find(|&s| self.layers(s).contains(&layer))
    }

    /// Returns the number of layers of the model.
    pub fn n_layer(&self) -> u32 {
        self.ends[3]
    }
}

fn parse_part(part: &str) -> Result<(Slot, Range<u32>)> {
    let parsed = part.split_once('=').and_then(|(name, layers)| {
        let slot = Slot::from_name(name.trim())?;
        let (first, last) = layers.split_once('-').unwrap_or((layers, layers));
        let (first, last) = (first.trim().parse::<u32>().ok()?, last.trim().parse::<u32>().ok()?);
        (first <= last).then_some((slot, first..last.checked_add(1)?))
    });
    parsed.ok_or_else(|| Error::usage(format!("'{part}' is not a slot with its layers"), SLOTS_FORM))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn counts(n: u32) -> [usize; 4] {
        Slot::ALL.map(|s| Split::of_depth(n).layers(s).len())
    }

    #[test]
    fn known_depths() {
        // 20/20/37/23 of 30: the ranges that the first sidecars of a 30-layer model had.
        assert_eq!(counts(30), [6, 6, 11, 7]);
        assert_eq!(counts(100), [20, 20, 37, 23]);
        assert_eq!(counts(35), [7, 7, 13, 8]);
        assert_eq!(
            [counts(1), counts(2), counts(3), counts(4)],
            [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1; 4]]
        );
    }

    #[test]
    fn every_depth_adds_up_and_stays_near_its_share() {
        for n in 1..=200u32 {
            let split = Split::of_depth(n);
            assert_eq!(counts(n).iter().sum::<usize>(), n as usize);
            for (slot, share) in Slot::ALL.into_iter().zip([20.0, 20.0, 37.0, 23.0]) {
                let layers = split.layers(slot);
                // Both boundaries are within half a layer of theirs.
                let exact = f64::from(n) * share / 100.0;
                assert!(n < 4 || (layers.len() as f64 - exact).abs() <= 1.0, "{n} layers, {slot}");
                assert!(n < 4 || !layers.is_empty(), "{n} layers, {slot}");
                assert!(layers.clone().all(|l| split.slot_of(l) == Some(slot)));
            }
            assert_eq!(split.slot_of(n), None);
        }
    }

    #[test]
    fn slots_by_hand() {
        let split = Split::parse("early=0-1, factual=2,reasoning=3-8,governance=9-9", 10).unwrap();
        assert_eq!(Slot::ALL.map(|s| split.layers(s)), [0..2, 2..3, 3..9, 9..10]);
        let split = Split::parse("early=0-3,governance=4-9", 10).unwrap();
        assert_eq!(split.layers(Slot::Reasoning).len(), 0);
        for bad in [
            "",
            "early",
            "early=0-9,early=0-9",
            "early=0-8",
            "early=0-10",
            "early=1-9",
            "late=0-9",
            "early=9-0",
            "early=0-4,governance=6-9",
            "early=0-5,governance=5-9",
            "governance=0-4,early=5-9",
            "early=0-4294967295",
        ] {
            assert!(matches!(Split::parse(bad, 10), Err(Error::Usage { .. })), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(mut cuts in prop::array::uniform3(0u32..=200), n in 1u32..=200) {
            cuts.sort_unstable();
            let ends = [cuts[0].min(n), cuts[1].min(n), cuts[2].min(n), n];
            let split = Split { ends };
            let ranges = Slot::ALL.map(|s| split.layers(s));
            prop_assert_eq!(Split::from_ranges(&ranges, n), Some(split));
            let text: Vec<_> = Slot::ALL.into_iter().filter(|&s| !split.layers(s).is_empty())
                .map(|s| format!("{s}={}-{}", split.layers(s).start, split.layers(s).end - 1)).collect();
            prop_assert_eq!(Split::parse(&text.join(","), n).unwrap(), split);
        }
    }
}
