//! Scratch memory that a thread keeps for its packed panels.

use bytemuck::{Pod, Zeroable};
use std::cell::Cell;

/// Sixteen floats that fill one cache line of 64 bytes.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct CacheLine([f32; 16]);

thread_local! {
    static PANELS: Cell<Vec<CacheLine>> = const { Cell::new(Vec::new()) };
}

/// Calls `work` with two thread-local scratch slices of `first` and `second` floats, both aligned to 64 bytes. Their
/// contents are unspecified.
pub fn with_panels<T>(first: usize, second: usize, work: impl FnOnce(&mut [f32], &mut [f32]) -> T) -> T {
    let mut lines = PANELS.take();
    let split = first.div_ceil(16);
    let wanted = split + second.div_ceil(16);
    if lines.len() < wanted {
        lines.resize(wanted, CacheLine([0.0; 16]));
    }
    let (a, b) = lines[..wanted].split_at_mut(split);
    let result = work(&mut floats(a)[..first], &mut floats(b)[..second]);
    PANELS.set(lines);
    result
}

fn floats(lines: &mut [CacheLine]) -> &mut [f32] {
    bytemuck::cast_slice_mut(lines)
}
