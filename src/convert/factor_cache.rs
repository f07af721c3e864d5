//! The factorized second moments that the workers quantize with. A factor is made when the first worker needs it, serves all
//! tensors with the same input, and is dropped when others need the memory.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};

use crate::convert::planned::PlannedTensor;
use crate::error::Result;
use crate::feedback::{self, FactorizedMoments};
use crate::formats::calibration::Moments;

/// Share of the plain squared error in the objective of a tied embedding, which is looked up by row as well as multiplied.
/// `docs/decisions/0005-feedback.md` has the measurement.
const LOOKUP_SHARE: f32 = 0.5;
/// The tensor that may be looked up and multiplied.
const EMBEDDING: &str = "token_embd.weight";

/// What tells factors apart: input of the calibration file, expert, and whether the plain squared error is mixed in.
type Key = (usize, usize, bool);
type Slot = Arc<OnceLock<Result<Option<Arc<FactorizedMoments>>>>>;

/// What was chosen for an expert of a tensor.
type Chosen = HashMap<(String, usize), Arc<OnceLock<Result<feedback::SolverOptions>>>>;

/// A cache of factors.
pub struct FactorCache {
    slots: Mutex<Vec<(Key, u64, Slot)>>,
    chosen: Mutex<Chosen>,
    /// Bytes that the factors in the cache may take. FactorCache in use come on top.
    capacity: u64,
}

impl FactorCache {
    pub fn new(capacity: u64) -> Self {
        Self { slots: Mutex::default(), chosen: Mutex::default(), capacity }
    }

    /// Returns the factor for an expert (0 for a plain matrix) of `tensor`, `None` if no input was seen.
    ///
    /// # Errors
    /// Those of reading the moments.
    pub fn get(
        &self,
        tensor: &PlannedTensor,
        moments: &Moments,
        expert: usize,
    ) -> Result<Option<Arc<FactorizedMoments>>> {
        let looked_up = tensor.bound.name == EMBEDDING;
        let key = (moments.input(), expert, looked_up);
        let bytes = FactorizedMoments::bytes(moments.n(), moments.block());
        let slot = self.slot(key, bytes);
        let made = slot.get_or_init(|| make(moments, expert, looked_up));
        match made {
            Ok(factor) => Ok(factor.clone()),
            // An error cannot be cloned: whoever comes second makes it anew.
            Err(_) => make(moments, expert, looked_up),
        }
    }

    /// Returns the options for an expert of `tensor`. `choose` finds them, once.
    ///
    /// # Errors
    /// Those of `choose`.
    pub fn options(
        &self,
        tensor: &PlannedTensor,
        expert: usize,
        choose: impl Fn() -> Result<feedback::SolverOptions>,
    ) -> Result<feedback::SolverOptions> {
        let mut chosen = self.chosen.lock().unwrap_or_else(|p| p.into_inner());
        let slot = Arc::clone(chosen.entry((tensor.bound.name.clone(), expert)).or_default());
        drop(chosen);
        match slot.get_or_init(&choose) {
            Ok(options) => Ok(*options),
            Err(_) => choose(),
        }
    }

    fn slot(&self, key: Key, bytes: u64) -> Slot {
        let mut slots = self.slots.lock().unwrap_or_else(|p| p.into_inner());
        let slot = match slots.iter().position(|s| s.0 == key) {
            Some(i) => slots.remove(i),
            None => (key, bytes, Slot::default()),
        };
        let mut rest = self.capacity.saturating_sub(bytes);
        let keep_from = slots.iter().rposition(|s| match rest.checked_sub(s.1) {
            Some(left) => {
                rest = left;
                false
            }
            None => true,
        });
        slots.drain(..keep_from.map_or(0, |i| i + 1));
        let result = Arc::clone(&slot.2);
        slots.push(slot);
        result
    }
}

fn make(moments: &Moments, expert: usize, looked_up: bool) -> Result<Option<Arc<FactorizedMoments>>> {
    let mut moments = moments.read(expert)?;
    if looked_up {
        moments.mix_identity(LOOKUP_SHARE);
    }
    Ok(FactorizedMoments::new(moments, feedback::DAMPING)?.map(Arc::new))
}
