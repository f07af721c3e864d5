//! The factored second moments that the workers quantise with: made when the first worker needs them, shared by
//! tensors with the same input, and dropped when others need the room.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};

use crate::convert::planned::PlannedTensor;
use crate::error::Result;
use crate::feedback::{self, FactorizedMoments};
use crate::formats::calibration::Moments;

/// Share of plain squared error in what a tied embedding is quantised for: it is looked up by row as well as
/// multiplied. `docs/decisions/0005-feedback.md` has the measurement.
const LOOKED_UP: f32 = 0.5;
/// The tensor that may be both.
const EMBEDDING: &str = "token_embd.weight";

/// Which factor: input of the calibration file, expert, and whether it is mixed for looking up.
type Key = (usize, usize, bool);
type Slot = Arc<OnceLock<Result<Option<Arc<FactorizedMoments>>>>>;

/// What was chosen for an expert of a tensor.
type Chosen = HashMap<(String, usize), Arc<OnceLock<Result<feedback::SolverOptions>>>>;

/// The factors in use, the last used one at the end.
pub struct Factors {
    slots: Mutex<Vec<(Key, u64, Slot)>>,
    chosen: Mutex<Chosen>,
    /// Bytes that factors may take, beyond those that are being worked with.
    room: u64,
}

impl Factors {
    pub fn new(room: u64) -> Self {
        Self { slots: Mutex::default(), chosen: Mutex::default(), room }
    }

    /// The factor for an expert (0 for a plain matrix) of `tensor`; `None` if nothing was seen of its inputs.
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

    /// The options for an expert of `tensor`: `choose` finds them, once.
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
        let mut rest = self.room.saturating_sub(bytes);
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
        moments.mix_identity(LOOKED_UP);
    }
    Ok(FactorizedMoments::new(moments, feedback::DAMPING)?.map(Arc::new))
}
