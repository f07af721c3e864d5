//! PyO3: argument parsing, GIL release, error mapping; nothing else.

mod axm;
mod calibrate;
mod convert;
mod errors;
mod forward;
mod inspect;
mod met;
mod metadata;
mod quant;
mod watch;

use pyo3::prelude::*;

/// The native half of the `srd_rs` package.
#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    errors::register(module)?;
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<convert::Plan>()?;
    module.add_class::<axm::Container>()?;
    module.add_class::<calibrate::Calibration>()?;
    module.add_function(wrap_pyfunction!(calibrate::calibrate, module)?)?;
    module.add_function(wrap_pyfunction!(calibrate::is_calibration, module)?)?;
    module.add_function(wrap_pyfunction!(calibrate::open_calibration, module)?)?;
    module.add_function(wrap_pyfunction!(calibrate::random_tokens, module)?)?;
    module.add_function(wrap_pyfunction!(axm::open_container, module)?)?;
    module.add_function(wrap_pyfunction!(axm::make_master_key, module)?)?;
    module.add_function(wrap_pyfunction!(axm::make_sign_key, module)?)?;
    module.add_function(wrap_pyfunction!(convert::plan_checkpoint, module)?)?;
    module.add_function(wrap_pyfunction!(convert::plan_gguf, module)?)?;
    module.add_function(wrap_pyfunction!(forward::forward_logits, module)?)?;
    module.add_function(wrap_pyfunction!(inspect::read_checkpoint, module)?)?;
    module.add_function(wrap_pyfunction!(inspect::read_checkpoint_layout, module)?)?;
    module.add_function(wrap_pyfunction!(inspect::read_gguf, module)?)?;
    module.add_class::<met::Hydrator>()?;
    module.add_function(wrap_pyfunction!(met::met_check, module)?)?;
    module.add_function(wrap_pyfunction!(met::met_sidecar, module)?)?;
    module.add_function(wrap_pyfunction!(quant::instruction_sets, module)?)?;
    module.add_function(wrap_pyfunction!(quant::quantizable_types, module)?)?;
    module.add_function(wrap_pyfunction!(quant::quantize, module)?)?;
    module.add_function(wrap_pyfunction!(quant::quantize_calibrated, module)?)?;
    module.add_function(wrap_pyfunction!(quant::dequantize, module)?)
}
