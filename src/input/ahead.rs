//! Fetches the bytes of remote files before they are asked for.
//!
//! A pass over the weights says in which order it will read the tensors. Their bytes are cut into blocks. Several connections
//! fetch the blocks in this order into a buffer of a fixed size, at most so far before the reader that the buffer holds what they
//! fetch. A block leaves the buffer when its bytes have been read. A reader that asks for a block which is not there fetches it.
//!
//! A block that the pass reads again later is kept in a temporary file until then, so that it comes over the network once.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use super::kept::{KeptBlocks, Key};
use crate::error::FetchError;

/// Largest and smallest number of bytes of a block.
const MAX_BLOCK: u64 = 4 << 20;
const MIN_BLOCK: u64 = 256 << 10;
/// Number of blocks that the buffer holds if blocks may have any size.
const BLOCKS: u64 = 32;
/// Number of blocks that the buffer holds at least.
const MIN_BLOCKS: usize = 4;
/// Number of blocks that the buffer holds at most for each connection: one that arrives, and some that wait for a reader. More of
/// them are only more memory to fill for the first time.
const AHEAD: usize = 4;
/// A read that is so many times farther ahead than the buffer reaches does not follow the schedule, unless so many reads come from
/// there one after another.
const FAR: usize = 4;
const FAR_READS: usize = 16;
/// How often a waiting reader looks whether the run was cancelled.
const TICK: Duration = Duration::from_millis(100);

/// A run of bytes of a remote file that a pass will read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Number of the file.
    pub file: usize,
    /// Offset of the first byte.
    pub start: u64,
    /// Number of bytes.
    pub bytes: u64,
}

/// The buffer of a pass.
pub struct Ahead {
    block: u64,
    /// Number of blocks in the buffer. Readers that fetch for themselves may exceed it for a moment.
    capacity: usize,
    /// The blocks in the order in which they are read, and the number of bytes that are read of each.
    schedule: Vec<(Key, u64)>,
    /// Where each block is in the schedule.
    places: HashMap<Key, Vec<usize>>,
    /// The blocks that are read again later.
    kept: Option<KeptBlocks>,
    state: Mutex<State>,
    changed: Condvar,
    ended: AtomicBool,
}

#[derive(Default)]
struct State {
    blocks: HashMap<Key, Slot>,
    /// Index in the schedule of the next block to fetch.
    cursor: usize,
    /// Index in the schedule behind the last block that was asked for.
    front: usize,
    /// Number of the last reads that were far ahead of that.
    far: usize,
    /// Buffers that can be used again.
    free: Vec<Vec<u8>>,
}

enum Slot {
    Fetching,
    Ready {
        bytes: Arc<Vec<u8>>,
        /// Number of bytes that the pass has still to read.
        unread: u64,
        /// The place in the schedule that the block was fetched for.
        place: usize,
    },
    Failed(FetchError),
}

/// What the bytes are fetched from.
pub(super) trait Fetch: Send + Sync {
    /// Fetches the bytes of a file from `start` on. `is_wanted` is asked between pieces.
    fn fetch(
        &self,
        file: usize,
        start: u64,
        buf: &mut [u8],
        is_wanted: &dyn Fn() -> bool,
    ) -> Result<(), FetchError>;
    /// Returns the size of a file in bytes.
    fn size(&self, file: usize) -> u64;
    /// Returns whether all reads were ended.
    fn is_cancelled(&self) -> bool;
}

impl Ahead {
    /// Plans to fetch `extents` in this order. At most `memory` bytes are in the buffer, and at least four small blocks. What is
    /// read again later is kept in a temporary file in the folder `keep_in`. Without a folder it is fetched again.
    pub(super) fn new(extents: &[Extent], memory: u64, connections: usize, keep_in: Option<&Path>) -> Self {
        let block = (memory / BLOCKS).clamp(MIN_BLOCK, MAX_BLOCK);
        let capacity = ((memory / block) as usize).clamp(MIN_BLOCKS, MIN_BLOCKS.max(AHEAD * connections));
        let mut schedule: Vec<(Key, u64)> = Vec::new();
        for extent in extents.iter().filter(|e| e.bytes > 0) {
            let end = extent.start + extent.bytes;
            for number in extent.start / block..=(end - 1) / block {
                let bytes = end.min((number + 1) * block) - extent.start.max(number * block);
                let key = (extent.file, number);
                match schedule.last_mut().filter(|(last, _)| *last == key) {
                    Some((_, all)) => *all += bytes,
                    None => schedule.push((key, bytes)),
                }
            }
        }
        let mut places: HashMap<Key, Vec<usize>> = HashMap::new();
        for (place, (key, _)) in schedule.iter().enumerate() {
            places.entry(*key).or_default().push(place);
        }
        let kept = keep_in.filter(|_| places.len() < schedule.len());
        let kept = kept.and_then(|folder| KeptBlocks::new(folder, block));
        let (state, changed, ended) = (Mutex::default(), Condvar::new(), AtomicBool::new(false));
        Self { block, capacity, schedule, places, kept, state, changed, ended }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|p| p.into_inner())
    }

    /// Returns the number of threads that are of use.
    pub(super) fn workers(&self, connections: usize) -> usize {
        connections.min(self.capacity / 2)
    }

    /// Ends the threads that fetch.
    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
        let _state = self.lock();
        self.changed.notify_all();
    }

    fn is_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// Fetches one block after another until the pass ends.
    pub(super) fn work(&self, source: &dyn Fetch) {
        loop {
            let mut state = self.lock();
            let (key, place) = loop {
                if self.is_ended() || source.is_cancelled() {
                    return;
                }
                match self.next(&mut state) {
                    Some(found) => break found,
                    None => {
                        let waited = self.changed.wait_timeout(state, TICK);
                        state = waited.unwrap_or_else(|p| p.into_inner()).0;
                    }
                }
            };
            let buffer = state.free.pop().unwrap_or_default();
            drop(state);
            self.fetch(source, key, place, self.schedule[place].1, buffer);
        }
    }

    /// Chooses the next block to fetch ahead, and marks it. `None` if there is none, or no room.
    fn next(&self, state: &mut State) -> Option<(Key, usize)> {
        state.cursor = state.cursor.max(state.front.saturating_sub(self.capacity));
        while let Some((key, bytes)) = self.schedule.get(state.cursor).copied() {
            if state.cursor >= state.front + self.capacity {
                return None;
            }
            if !state.blocks.contains_key(&key) {
                if !self.make_room(state) {
                    return None;
                }
                state.blocks.insert(key, Slot::Fetching);
                state.cursor += 1;
                return Some((key, state.cursor - 1));
            }
            // The block is there already. If another part of the pass had asked for it, it is kept for this one as well.
            if let Some(Slot::Ready { unread, place, .. }) = state.blocks.get_mut(&key)
                && *place < state.cursor
            {
                *unread += bytes;
                *place = state.cursor;
            }
            state.cursor += 1;
        }
        None
    }

    /// Makes room for one block: a block that was read goes, else one that the pass has left far behind.
    fn make_room(&self, state: &mut State) -> bool {
        if state.blocks.len() < self.capacity {
            return true;
        }
        let left_behind = state.front.saturating_sub(self.capacity);
        let goes = state.blocks.iter().find_map(|(key, slot)| match slot {
            Slot::Ready { unread, place, .. } => (*unread == 0 || *place < left_behind).then_some(*key),
            _ => None,
        });
        goes.is_some_and(|key| {
            state.remove(key);
            true
        })
    }

    /// Makes room for a block that a reader waits for: where nothing else can go, the block that is read last goes.
    fn force_room(&self, state: &mut State) {
        if self.make_room(state) {
            return;
        }
        let ready = state.blocks.iter().filter_map(|(key, slot)| match slot {
            Slot::Ready { place, .. } => Some((*place, *key)),
            _ => None,
        });
        if let Some((place, key)) = ready.max() {
            state.remove(key);
            state.cursor = state.cursor.min(place);
        }
    }

    /// Fetches a block that is marked, of which `unread` bytes will be read.
    fn fetch(&self, source: &dyn Fetch, key: Key, place: usize, unread: u64, mut buffer: Vec<u8>) {
        let range = self.range(source, key);
        let bytes = (range.end - range.start) as usize;
        if buffer.capacity() < bytes {
            // New memory of the system is zero already.
            buffer = vec![0; bytes];
        }
        buffer.resize(bytes, 0);
        let is_kept = self.kept.as_ref().is_some_and(|kept| kept.read(key, &mut buffer));
        let result = match is_kept {
            true => Ok(()),
            false => source.fetch(key.0, range.start, &mut buffer, &|| !self.is_ended()),
        };
        if let (Some(kept), Ok(())) = (&self.kept, &result) {
            self.keep(kept, key, place, &buffer);
        }
        let slot = match result {
            Ok(()) => Slot::Ready { bytes: Arc::new(buffer), unread, place },
            Err(error) => Slot::Failed(error),
        };
        self.lock().blocks.insert(key, slot);
        self.changed.notify_all();
    }

    /// Keeps a block that was fetched for `place`, if it is read again behind that. Blocks that the pass has left behind for good are
    /// not kept any longer.
    fn keep(&self, kept: &KeptBlocks, key: Key, place: usize, bytes: &[u8]) {
        if let Some(&last) =
            self.places.get(&key).and_then(|places| places.last()).filter(|&&last| last > place)
        {
            kept.write(key, last, bytes);
        }
        let front = self.lock().front;
        kept.drop_before(front.saturating_sub(self.capacity));
    }

    fn range(&self, source: &dyn Fetch, (file, number): Key) -> Range<u64> {
        let start = number * self.block;
        start..(start + self.block).min(source.size(file))
    }

    /// Fills `buf` with the bytes of a file from `offset` on.
    pub(super) fn read(
        &self,
        source: &dyn Fetch,
        file: usize,
        mut offset: u64,
        mut buf: &mut [u8],
    ) -> Result<(), FetchError> {
        while !buf.is_empty() {
            let number = offset / self.block;
            let within = (offset - number * self.block) as usize;
            let n = buf.len().min(self.block as usize - within);
            let (piece, rest) = buf.split_at_mut(n);
            let bytes = self.get(source, (file, number))?;
            piece.copy_from_slice(&bytes[within..within + n]);
            drop(bytes);
            self.note_read((file, number), n as u64);
            (buf, offset) = (rest, offset + n as u64);
        }
        Ok(())
    }

    /// Notes that `n` bytes of a block were read. Their reader no longer holds the block, so that its buffer can be used again.
    fn note_read(&self, key: Key, n: u64) {
        if let Some(Slot::Ready { unread, .. }) = self.lock().blocks.get_mut(&key) {
            *unread = unread.saturating_sub(n);
            if *unread == 0 {
                self.changed.notify_all();
            }
        }
    }

    /// Returns a block.
    fn get(&self, source: &dyn Fetch, key: Key) -> Result<Arc<Vec<u8>>, FetchError> {
        let mut state = self.lock();
        let place = self.reach(&mut state, key);
        loop {
            match state.blocks.get(&key) {
                Some(Slot::Ready { bytes, .. }) => return Ok(Arc::clone(bytes)),
                Some(Slot::Failed(error)) => return Err(error.clone()),
                Some(Slot::Fetching) => {
                    if source.is_cancelled() {
                        return Err(FetchError::Cancelled);
                    }
                    let waited = self.changed.wait_timeout(state, TICK);
                    state = waited.unwrap_or_else(|p| p.into_inner()).0;
                }
                None => {
                    self.force_room(&mut state);
                    state.blocks.insert(key, Slot::Fetching);
                    let buffer = state.free.pop().unwrap_or_default();
                    // A block that is read once more is wanted now, although its place has passed.
                    let now = place.map_or(state.front, |place| place.max(state.front.saturating_sub(1)));
                    drop(state);
                    let unread = place.map_or(self.block, |place| self.schedule[place].1);
                    self.fetch(source, key, now, unread, buffer);
                    state = self.lock();
                }
            }
        }
    }

    /// Notes that the pass has come to a block, and returns its place in the schedule, if it has one.
    fn reach(&self, state: &mut State, key: Key) -> Option<usize> {
        let places = self.places.get(&key)?;
        let from = state.front.saturating_sub(self.capacity);
        let place = *places.iter().find(|&&place| place >= from).unwrap_or(&places[0]);
        let is_far = place > state.front + FAR * self.capacity;
        state.far = if is_far { state.far + 1 } else { 0 };
        if place >= state.front && (!is_far || state.far >= FAR_READS) {
            state.front = place + 1;
            self.changed.notify_all();
        }
        Some(place)
    }
}

impl State {
    fn remove(&mut self, key: Key) {
        if let Some(Slot::Ready { bytes, .. }) = self.blocks.remove(&key)
            && let Ok(buffer) = Arc::try_unwrap(bytes)
        {
            self.free.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    fn extent(file: usize, start: u64, bytes: u64) -> Extent {
        Extent { file, start, bytes }
    }

    #[test]
    fn extents_are_cut_into_blocks_and_neighbours_share_one() {
        let memory = MIN_BLOCK * BLOCKS;
        let b = MIN_BLOCK;
        let ahead = Ahead::new(&[extent(0, 10, b), extent(0, b + 10, 5), extent(1, 0, 0)], memory, 8, None);
        assert_eq!(ahead.schedule, [((0, 0), b - 10), ((0, 1), 15)]);
        assert_eq!(ahead.capacity, BLOCKS as usize);
    }

    #[test]
    fn a_schedule_is_fetched_in_its_order_within_the_buffer() {
        let b = MIN_BLOCK;
        let ahead = Ahead::new(&[extent(0, 0, 100 * b), extent(0, 0, 3 * b)], 8 * b, 2, None);
        let mut state = ahead.lock();
        let taken: Vec<u64> = std::iter::from_fn(|| ahead.next(&mut state)).map(|(key, _)| key.1).collect();
        assert_eq!(taken, [0, 1, 2, 3, 4, 5, 6, 7]);
        // Block 0 was read: there is room for one more.
        state.blocks.insert((0, 0), Slot::Ready { bytes: Arc::default(), unread: 0, place: 0 });
        assert_eq!(ahead.reach(&mut state, (0, 0)), Some(0));
        assert_eq!(ahead.next(&mut state), Some(((0, 8), 8)));
        assert_eq!(ahead.next(&mut state), None);
        // A reader that needs a block at once displaces the one that is read last.
        state
            .blocks
            .values_mut()
            .for_each(|s| *s = Slot::Ready { bytes: Arc::default(), unread: 1, place: 0 });
        state.blocks.insert((0, 8), Slot::Ready { bytes: Arc::default(), unread: 1, place: 8 });
        ahead.force_room(&mut state);
        assert!(!state.blocks.contains_key(&(0, 8)));
        assert_eq!(state.cursor, 8);
    }

    #[test]
    fn one_read_far_ahead_does_not_end_what_lies_before_it() {
        let b = MIN_BLOCK;
        let ahead = Ahead::new(&[extent(0, 0, 200 * b)], 4 * b, 1, None);
        let mut state = ahead.lock();
        ahead.reach(&mut state, (0, 150));
        assert_eq!(state.front, 0);
        ahead.reach(&mut state, (0, 2));
        assert_eq!(state.front, 3);
        // A pass that has really left out so much is followed.
        for n in 0..FAR_READS as u64 {
            ahead.reach(&mut state, (0, 150 + n));
        }
        assert_eq!(state.front, 150 + FAR_READS);
    }

    /// Counts the bytes that are fetched of a file whose byte `i` is `i / MIN_BLOCK`.
    struct Counting(AtomicU64);

    impl Fetch for Counting {
        fn fetch(
            &self,
            _: usize,
            start: u64,
            buf: &mut [u8],
            _: &dyn Fn() -> bool,
        ) -> Result<(), FetchError> {
            self.0.fetch_add(buf.len() as u64, Ordering::Relaxed);
            (start..).zip(buf).for_each(|(i, b)| *b = (i / MIN_BLOCK) as u8);
            Ok(())
        }

        fn size(&self, _: usize) -> u64 {
            40 * MIN_BLOCK
        }

        fn is_cancelled(&self) -> bool {
            false
        }
    }

    #[test]
    fn what_is_read_three_times_is_fetched_once_where_it_may_be_kept() {
        let folder = tempfile::tempdir().unwrap();
        let b = MIN_BLOCK;
        // A layer of 20 blocks is read three times, and another one once.
        let order =
            [extent(0, 0, 20 * b), extent(0, 0, 20 * b), extent(0, 0, 20 * b), extent(0, 20 * b, 20 * b)];
        // The buffer itself still holds a few blocks when they are read again.
        for (keep_in, fetched) in [(Some(folder.path()), 40..=40), (None, 70..=80)] {
            let (source, ahead) = (Counting(AtomicU64::new(0)), Ahead::new(&order, 4 * b, 1, keep_in));
            for wanted in order {
                for number in 0..wanted.bytes / b {
                    let mut bytes = vec![0; b as usize];
                    ahead.read(&source, 0, wanted.start + number * b, &mut bytes).unwrap();
                    assert!(bytes.iter().all(|&v| u64::from(v) == wanted.start / b + number));
                }
            }
            assert!(fetched.contains(&(source.0.load(Ordering::Relaxed) / b)));
            let kept = ahead.kept.as_ref().map(|kept| kept.len());
            assert_eq!(kept, keep_in.map(|_| 0), "what was left behind is not kept any longer");
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
