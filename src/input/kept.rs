//! Blocks of remote files that a pass reads again, in a file without a name. What cannot be kept, because the disk is full for
//! example, is fetched again.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::Path;
use std::sync::{Mutex, MutexGuard};

use crate::os;

/// Number of a file, and number of a block in the file.
pub type Key = (usize, u64);

/// Blocks in a temporary file.
pub struct KeptBlocks {
    file: File,
    /// Number of bytes of a block.
    block: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Number of the slot in the file of each block that is kept.
    slots: HashMap<Key, u64>,
    /// The blocks by the place in the schedule at which they are read for the last time.
    last: BTreeMap<usize, Key>,
    /// Slots that can be used again.
    free: Vec<u64>,
    /// Number of slots that the file has.
    count: u64,
}

impl KeptBlocks {
    /// Makes the file for blocks of `block` bytes. `None` if the folder takes no file.
    pub fn new(folder: &Path, block: u64) -> Option<Self> {
        Some(Self { file: tempfile::tempfile_in(folder).ok()?, block, state: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|p| p.into_inner())
    }

    /// Returns the number of blocks that are kept.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.lock().slots.len()
    }

    /// Keeps a block until its last place in the schedule is left behind.
    pub fn write(&self, key: Key, last: usize, bytes: &[u8]) {
        let mut state = self.lock();
        if state.slots.contains_key(&key) {
            return;
        }
        let slot = state.free.pop().unwrap_or(state.count);
        state.count = state.count.max(slot + 1);
        drop(state);
        let is_written = os::write_all_at(&self.file, bytes, slot * self.block).is_ok();
        let mut state = self.lock();
        if is_written && !state.slots.contains_key(&key) {
            state.slots.insert(key, slot);
            state.last.insert(last, key);
        } else {
            state.free.push(slot);
        }
    }

    /// Reads a block. Returns false if it is not kept.
    pub fn read(&self, key: Key, bytes: &mut [u8]) -> bool {
        let Some(slot) = self.lock().slots.get(&key).copied() else { return false };
        os::read_exact_at(&self.file, bytes, slot * self.block).is_ok()
            // The block may have been dropped, and its slot used again, while it was read.
            && self.lock().slots.get(&key) == Some(&slot)
    }

    /// Keeps the blocks no longer that are read for the last time before `place`.
    pub fn drop_before(&self, place: usize) {
        let mut state = self.lock();
        while let Some(entry) = state.last.first_entry().filter(|entry| *entry.key() < place) {
            let key = entry.remove();
            let slot = state.slots.remove(&key);
            state.free.extend(slot);
        }
    }
}
