//! A pool of large buffers. Fresh pages from the system would cost more time than the arithmetic between the products.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

use rayon::prelude::*;

/// The buffers that are not in use.
#[derive(Debug, Clone, Default)]
pub struct Buffers {
    free: Arc<Mutex<Vec<Vec<f32>>>>,
}

/// A buffer that returns to its pool when it is dropped.
#[derive(Debug)]
pub struct Buffer {
    values: Vec<f32>,
    len: usize,
    pool: Buffers,
}

impl Buffers {
    /// Returns a buffer of `len` values. The values are unspecified.
    pub fn take(&self, len: usize) -> Buffer {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let fitting = (0..free.len()).filter(|&i| free[i].len() >= len).min_by_key(|&i| free[i].len());
        let values = match fitting {
            Some(i) => free.swap_remove(i),
            None => {
                // No free buffer is long enough: drop one and allocate a new one, so that the pool never holds more buffers
                // than were in use at the peak.
                free.pop();
                vec![0.0; len]
            }
        };
        drop(free);
        Buffer { values, len, pool: self.clone() }
    }

    /// Returns a buffer with a copy of `values`.
    pub fn copy(&self, values: &[f32]) -> Buffer {
        let mut buffer = self.take(values.len());
        buffer.copy_from_slice(values);
        buffer
    }

    /// Returns a buffer with `n` values, from `first` on, of each row of `width` values.
    pub fn columns(&self, values: &[f32], width: usize, first: usize, n: usize) -> Buffer {
        let mut buffer = self.take(values.len() / width * n);
        let rows = buffer.par_chunks_exact_mut(n.max(1)).zip(values.par_chunks_exact(width));
        rows.for_each(|(to, row)| to.copy_from_slice(&row[first..first + n]));
        buffer
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.values[..self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.values[..self.len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let values = std::mem::take(&mut self.values);
        self.pool.free.lock().unwrap_or_else(PoisonError::into_inner).push(values);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again_and_no_more_are_kept_than_were_in_use() {
        let buffers = Buffers::default();
        let first = buffers.take(100);
        let address = first.as_ptr();
        drop(first);
        let again = buffers.take(40);
        assert_eq!((again.as_ptr(), again.len()), (address, 40));
        drop(again);
        drop(buffers.take(200));
        assert_eq!(buffers.free.lock().unwrap().len(), 1);
        assert_eq!(&*buffers.copy(&[1.0, 2.0]), [1.0, 2.0]);
        assert_eq!(&*buffers.columns(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 3, 1, 2), [2.0, 3.0, 5.0, 6.0]);
    }
}
