//! What was written of an output while its calibration was made.

use pyo3::prelude::*;

use crate::convert::written;

/// The part of an output that `calibrate_and_quantize` has written, for `Plan.run`. Its files vanish with it, unless a run has taken
/// them.
#[pyclass(frozen, module = "srd_rs._core")]
pub struct Written {
    pub(super) inner: written::Written,
}
