//! The factorized second moments that the workers quantize with. The first worker that needs them factorizes them; tensors
//! with the same input share them; old ones are dropped when the memory is needed.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use crate::convert::planned::PlannedTensor;
use crate::dtype::GgmlType;
use crate::error::Result;
use crate::feedback::{self, FactorizedMoments};
use crate::formats::calibration::Moments;
use crate::quant::recipe::EMBEDDING;

/// Share of the identity that is mixed into the moments of a tied embedding. A tied embedding is looked up by row as well
/// as multiplied, so the plain squared error counts too. `docs/decisions/0005-feedback.md` has the measurement.
const LOOKUP_SHARE: f32 = 0.5;
/// How long a worker sleeps that waits for another worker and finds no work to help with.
const WAIT: Duration = Duration::from_micros(50);

/// What identifies factorized moments: the input of the calibration file, the expert, and whether the identity is mixed
/// into the moments.
type Key = (Moments, usize, bool);

/// Factorized moments that one worker computes and all workers use.
#[derive(Default)]
struct Slot {
    /// True once a worker has begun to factorize.
    begun: AtomicBool,
    result: OnceLock<Result<Option<Arc<FactorizedMoments>>>>,
}

impl Slot {
    /// Returns the result. The first caller computes it; the others meanwhile help with the products of the factorization,
    /// which run on the same pool of threads.
    fn get(
        &self,
        make: impl FnOnce() -> Result<Option<Arc<FactorizedMoments>>>,
    ) -> &Result<Option<Arc<FactorizedMoments>>> {
        if !self.begun.swap(true, Ordering::Relaxed) {
            return self.result.get_or_init(make);
        }
        loop {
            if let Some(result) = self.result.get() {
                return result;
            }
            if rayon::yield_now() != Some(rayon::Yield::Executed) {
                std::thread::sleep(WAIT);
            }
        }
    }
}

/// What options are chosen for: a tensor, its type, the moments of its inputs, and the expert.
type Choice = (String, GgmlType, Option<Moments>, usize);

/// The options that were chosen.
type Chosen = HashMap<Choice, Arc<OnceLock<Result<feedback::SolverOptions>>>>;

/// A cache of factorized moments.
pub struct FactorCache {
    /// The entries with their sizes in bytes; the last used entry is at the end.
    slots: Mutex<Vec<(Key, u64, Arc<Slot>)>>,
    chosen: Mutex<Chosen>,
    /// Number of bytes that entries may take, beyond those that are in use.
    max_bytes: u64,
}

impl FactorCache {
    /// Makes an empty cache of at most `max_bytes`, beyond the entries that are in use.
    pub fn new(max_bytes: u64) -> Self {
        Self { slots: Mutex::default(), chosen: Mutex::default(), max_bytes }
    }

    /// Returns the factorized moments for an expert (0 for a plain matrix) of `tensor`. `None` if the calibration saw
    /// nothing of its inputs.
    ///
    /// # Errors
    /// Returns the errors of reading the moments.
    pub fn get(
        &self,
        tensor: &PlannedTensor,
        moments: &Moments,
        expert: usize,
    ) -> Result<Option<Arc<FactorizedMoments>>> {
        let is_looked_up = tensor.bound.name == EMBEDDING;
        let key = (moments.clone(), expert, is_looked_up);
        let bytes = FactorizedMoments::bytes(moments.n(), moments.block());
        let slot = self.slot(key, bytes);
        match slot.get(|| make(moments, expert, is_looked_up)) {
            Ok(factorized) => Ok(factorized.clone()),
            // An error cannot be cloned, so every other worker makes it again.
            Err(_) => make(moments, expert, is_looked_up),
        }
    }

    /// Returns the options for an expert of `tensor`. The first caller finds them with `choose`.
    ///
    /// # Errors
    /// Returns the errors of `choose`.
    pub fn options(
        &self,
        tensor: &PlannedTensor,
        expert: usize,
        choose: impl Fn() -> Result<feedback::SolverOptions>,
    ) -> Result<feedback::SolverOptions> {
        let mut chosen = self.chosen.lock().unwrap_or_else(|p| p.into_inner());
        let of = (tensor.bound.name.clone(), tensor.ty, tensor.moments.clone(), expert);
        let slot = Arc::clone(chosen.entry(of).or_default());
        drop(chosen);
        match slot.get_or_init(&choose) {
            Ok(options) => Ok(*options),
            Err(_) => choose(),
        }
    }

    /// Returns the entry of a key, which is added if it is new. Drops the entries that were not used for the longest time
    /// until the others fit.
    fn slot(&self, key: Key, bytes: u64) -> Arc<Slot> {
        let mut slots = self.slots.lock().unwrap_or_else(|p| p.into_inner());
        let slot = match slots.iter().position(|s| s.0 == key) {
            Some(i) => slots.remove(i),
            None => (key, bytes, Arc::default()),
        };
        let mut rest = self.max_bytes.saturating_sub(bytes);
        let last_dropped = slots.iter().rposition(|s| match rest.checked_sub(s.1) {
            Some(left) => {
                rest = left;
                false
            }
            None => true,
        });
        slots.drain(..last_dropped.map_or(0, |i| i + 1));
        let result = Arc::clone(&slot.2);
        slots.push(slot);
        result
    }
}

fn make(moments: &Moments, expert: usize, is_looked_up: bool) -> Result<Option<Arc<FactorizedMoments>>> {
    let mut moments = moments.read(expert)?;
    moments.shrink_to_diagonal(feedback::shrinkage(moments.block, moments.tokens));
    if is_looked_up {
        moments.mix_identity(LOOKUP_SHARE);
    }
    Ok(FactorizedMoments::new(moments, feedback::DAMPING)?.map(Arc::new))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[test]
    fn one_worker_factorizes_and_the_others_wait_for_it() {
        let (slot, calls) = (Slot::default(), AtomicUsize::new(0));
        let pool = rayon::ThreadPoolBuilder::new().num_threads(4).build().unwrap();
        let helped = AtomicUsize::new(0);
        pool.broadcast(|_| {
            let result = slot.get(|| {
                calls.fetch_add(1, Ordering::Relaxed);
                // The other workers are all in `get`: only they can take the other half of a join.
                for _ in 0..100 {
                    rayon::join(
                        || std::thread::sleep(Duration::from_millis(1)),
                        || helped.fetch_add(1, Ordering::Relaxed),
                    );
                }
                Ok(None)
            });
            assert!(matches!(result, Ok(None)));
        });
        assert_eq!((calls.into_inner(), helped.into_inner()), (1, 100));
    }
}
