//! The walk: plan, source, pipeline, sink.
