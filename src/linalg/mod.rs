//! Dense linear algebra in f32 with the same bits for any number of threads and on every CPU.

pub mod gemm;
