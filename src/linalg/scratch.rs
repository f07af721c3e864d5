//! Buffers that a thread keeps for its packed panels.

use bytemuck::{Pod, Zeroable};
use std::cell::Cell;

/// Sixteen floats in a cache line of their own.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([f32; 16]);

thread_local! {
    static KEPT: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
}

/// Runs `work` on `first` and `second` floats, each beginning a cache line, that hold anything.
pub fn with_panels<T>(first: usize, second: usize, work: impl FnOnce(&mut [f32], &mut [f32]) -> T) -> T {
    let mut lines = KEPT.take();
    let split = first.div_ceil(16);
    let wanted = split + second.div_ceil(16);
    if lines.len() < wanted {
        lines.resize(wanted, Line([0.0; 16]));
    }
    let (a, b) = lines[..wanted].split_at_mut(split);
    let result = work(&mut floats(a)[..first], &mut floats(b)[..second]);
    KEPT.set(lines);
    result
}

fn floats(lines: &mut [Line]) -> &mut [f32] {
    bytemuck::cast_slice_mut(lines)
}
