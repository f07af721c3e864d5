//! Hydration reads the bytes of an intent's slots into the page cache, so that an engine that maps the file finds them
//! in memory. It can also take the other bytes of the file out of the page cache.
//!
//! ```no_run
//! use std::path::Path;
//!
//! use srd_rs::met::hydrate::Hydrator;
//!
//! let hydrator = Hydrator::open(Path::new("model.gguf"), None)?;
//! for part in hydrator.residency()? {
//!     println!("{}: {:?} of {} bytes", part.slot, part.resident_bytes, part.bytes);
//! }
//! # Ok::<(), srd_rs::Error>(())
//! ```

use std::cmp::Reverse;
use std::collections::{HashSet, VecDeque};
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::Serialize;

use super::map::{self, FileMap, Locked};
use super::policy::Intent;
use super::sidecar::{Access, ByteRange, Options, Part, Sidecar, sidecar_path};
use crate::error::{Error, Place, Result};
use crate::formats::gguf::{Gguf, GgufFile};
use crate::os;
use crate::progress::Progress;
use crate::quant::recipe::layer_of;

/// The number of bytes that are requested and read at a time. Kernels limit a single request to read ahead, and some
/// have this limit.
const PIECE: u64 = 512 << 10;
/// The number of pieces that are requested before they are read (16 MiB), so that the disk always has work.
const AHEAD: usize = 32;

/// How to hydrate.
#[derive(Debug, Clone, Copy, Default)]
pub struct HydrateOptions {
    /// The largest number of bytes to read, counted in whole pages. The embedding part comes first, then what every token
    /// reads of the slots, by depth, then the experts, those first that were used most in the calibration. Bytes beyond the
    /// budget are left out.
    pub budget: Option<u64>,
    /// Lock the pages in memory until the hydrator is dropped or evicts them.
    pub lock: bool,
    /// Take the rest of the file out of memory before anything is read.
    pub evict_others: bool,
}

/// What a hydration did. The numbers of bytes count whole pages.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// The intent.
    pub intent: Intent,
    /// The bytes that the intent needs.
    pub wanted_bytes: u64,
    /// The part of these bytes that the budget allowed. All of it is in memory at the end.
    pub hydrated_bytes: u64,
    /// The bytes of the pieces that were read, because at least one of their pages was not in memory.
    pub read_bytes: u64,
    /// The bytes that are locked in memory.
    pub locked_bytes: u64,
    /// The time that the hydration took.
    pub seconds: f64,
}

/// A part of the file, and how much of the part is in memory.
#[derive(Debug, Clone, Serialize)]
pub struct Residency {
    /// The name of the part.
    pub slot: &'static str,
    /// The bytes of the part.
    pub bytes: u64,
    /// The bytes that are in memory. `None` if the kernel does not say: it answers only to a process that owns the file
    /// or may write it.
    pub resident_bytes: Option<u64>,
}

/// An open GGUF, with all of its files, its sidecar and its locked pages.
#[derive(Debug)]
pub struct Hydrator {
    files: Vec<MappedFile>,
    sidecar: Sidecar,
    /// The experts of all slots, those that are used most first.
    experts: Vec<Expert>,
    /// Locked pages, with the numbers of their files.
    locked: Vec<(usize, Locked)>,
}

/// The bytes of one expert in one stack.
#[derive(Debug)]
struct Expert {
    part: Part,
    span: Span,
}

/// One file of the GGUF.
#[derive(Debug)]
struct MappedFile {
    path: PathBuf,
    file: File,
    map: FileMap,
    size: u64,
    /// True if the answers of mincore can be believed for this file.
    residency_is_reliable: bool,
}

/// A range of bytes of the file with this number.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Span {
    file: usize,
    bytes: Range<u64>,
}

impl Span {
    fn len(&self) -> u64 {
        self.bytes.end - self.bytes.start
    }
}

impl From<&ByteRange> for Span {
    fn from(range: &ByteRange) -> Self {
        Self { file: range.file, bytes: range.range() }
    }
}

impl MappedFile {
    fn new(gguf: &GgufFile) -> Result<Self> {
        let (path, size) = (gguf.path.clone(), gguf.file_size);
        let file = gguf.file.try_clone().map_err(|e| Error::io(&path, "open", e))?;
        let map = FileMap::new(&file).map_err(|e| Error::io(&path, "map", e))?;
        // Without this advice the kernel would read ahead beyond each range, into slots that the intent does not need.
        os::advise(&file, 0..size, os::Usage::Random);
        let residency_is_reliable = os::residency_is_reliable(&path, &file);
        Ok(Self { path, file, map, size, residency_is_reliable })
    }
}

impl Hydrator {
    /// Opens a GGUF with the given sidecar, or else with the sidecar beside the GGUF (`name.met.json`), or else with a
    /// sidecar that is measured now.
    ///
    /// # Errors
    /// The errors of [`Gguf::open`], [`Sidecar::read`] and [`Sidecar::check`].
    pub fn open(path: &Path, sidecar: Option<&Path>) -> Result<Self> {
        let gguf = Gguf::open(path)?;
        let beside = sidecar_path(path);
        let found = sidecar.or_else(|| beside.exists().then_some(beside.as_path()));
        let sidecar = match found {
            Some(found) => {
                let read = Sidecar::read(found)?;
                read.check(&gguf, found)?;
                read
            }
            None => Sidecar::measure(&gguf, &Options::default())?,
        };
        let files = gguf.parts().iter().map(MappedFile::new).collect::<Result<_>>()?;
        let experts = experts(&gguf, &sidecar)?;
        Ok(Self { files, sidecar, experts, locked: Vec::new() })
    }

    /// The number of bytes in a page.
    fn page(&self) -> u64 {
        self.files[0].map.page()
    }

    /// Returns the sidecar.
    pub fn sidecar(&self) -> &Sidecar {
        &self.sidecar
    }

    /// Returns the number of bytes that are locked, in whole pages.
    pub fn locked_bytes(&self) -> u64 {
        self.locked.iter().map(|(_, l)| l.range.end - l.range.start).sum()
    }

    /// Returns how much of each part is in memory: the embedding part first, then the slots.
    ///
    /// # Errors
    /// [`Error::Io`] if the kernel refuses to answer.
    pub fn residency(&self) -> Result<Vec<Residency>> {
        Part::all().map(|part| self.residency_of(part)).collect()
    }

    fn residency_of(&self, part: Part) -> Result<Residency> {
        let resident_of = |range: &ByteRange| {
            let file = &self.files[range.file];
            file.map.resident(range.range()).map_err(|e| Error::io(&file.path, "ask what is resident of", e))
        };
        let resident = match self.files.iter().all(|file| file.residency_is_reliable) {
            true => Some(self.sidecar.ranges(part).iter().map(resident_of).sum::<Result<u64>>()?),
            false => None,
        };
        Ok(Residency { slot: part.name(), bytes: self.sidecar.bytes(part), resident_bytes: resident })
    }

    /// Reads the bytes that an intent needs into memory. Returns when all of them are in memory.
    ///
    /// # Errors
    /// [`Error::Usage`] for an intent that the policy lacks or a budget below one page; [`Error::Io`] if
    /// reading or locking fails; [`Error::Interrupted`] after [`Progress::cancel`].
    pub fn hydrate(
        &mut self,
        intent: Intent,
        options: &HydrateOptions,
        progress: &Progress,
    ) -> Result<Outcome> {
        let start = Instant::now();
        let parts = self.sidecar.parts(intent)?;
        let page = self.page();
        if options.budget.is_some_and(|b| b < page) {
            let what = format!("a budget of {} bytes is less than one page", options.budget.unwrap_or(0));
            return Err(Error::usage(what, format!("Allow at least {page} bytes")));
        }
        if options.evict_others && !os::CAN_EVICT {
            let what = "this system has no call that takes the other slots out of memory";
            return Err(Error::usage(
                what,
                "Hydrate without evicting: the system drops pages when memory is short",
            ));
        }
        let wanted = self.pages(&parts, u64::MAX);
        let chosen = self.pages(&parts, options.budget.unwrap_or(u64::MAX) / page * page);
        self.locked.clear();
        if options.evict_others {
            let sizes: Vec<u64> = self.files.iter().map(|file| file.size).collect();
            self.drop_pages(&complement(&chosen, &sizes));
        }
        progress.start("", total(&chosen));
        let read_bytes = self.bring_in(&chosen, progress)?;
        if options.lock {
            self.lock(&chosen)?;
        }
        Ok(Outcome {
            intent,
            wanted_bytes: total(&wanted),
            hydrated_bytes: total(&chosen),
            read_bytes,
            locked_bytes: self.locked_bytes(),
            seconds: start.elapsed().as_secs_f64(),
        })
    }

    /// Takes parts out of memory. Pages that another process has mapped stay in memory, and so does a page that has
    /// bytes of a part that is not in `parts`.
    pub fn evict(&mut self, parts: &[Part]) {
        let mut spans: Vec<Span> =
            parts.iter().flat_map(|&p| self.sidecar.ranges(p)).map(Span::from).collect();
        spans.sort_by_key(|s| (s.file, s.bytes.start));
        let whole: Vec<_> = merged(spans).into_iter().filter_map(|s| self.whole_pages(s)).collect();
        self.locked.retain(|(file, l)| {
            let overlaps = |s: &Span| s.bytes.start < l.range.end && l.range.start < s.bytes.end;
            !whole.iter().any(|s| s.file == *file && overlaps(s))
        });
        self.drop_pages(&whole);
    }

    /// Returns the bytes of `parts`, what is needed most first: all but the experts, part by part, then the experts by their
    /// heat.
    fn by_need(&self, parts: &[Part]) -> Vec<Span> {
        let experts = || self.experts.iter().filter(|e| parts.contains(&e.part)).map(|e| &e.span);
        let mut stacks: Vec<Span> = experts().cloned().collect();
        stacks.sort_by_key(|s| (s.file, s.bytes.start));
        let stacks = merged(stacks);
        let ranges = parts.iter().flat_map(|&p| self.sidecar.ranges(p)).map(Span::from);
        ranges.flat_map(|range| without(&range, &stacks)).chain(experts().cloned()).collect()
    }

    /// Returns the pages of `parts` in file order, each page once, up to `budget` bytes of what is needed most.
    fn pages(&self, parts: &[Part], budget: u64) -> Vec<Span> {
        let page = self.page();
        // Only the first page and the last page of a range can hold bytes of another range.
        let mut shared = HashSet::new();
        let mut left = budget;
        let mut chosen = Vec::new();
        for span in self.by_need(parts) {
            let (file, range) = (span.file, span.bytes);
            let (mut first, mut last) = (range.start / page, (range.end - 1) / page);
            let edges = [(file, first), (file, last)];
            first += u64::from(shared.contains(&(file, first)));
            if last >= first && shared.contains(&(file, last)) {
                // Page 0 can be left out only as the first.
                last -= 1;
            }
            shared.extend(edges);
            let end = ((last + 1) * page).min((first * page).saturating_add(left));
            if first * page < end {
                left -= end - first * page;
                chosen.push(Span { file, bytes: first * page..end.min(self.files[file].size) });
            }
        }
        chosen.sort_by_key(|s| (s.file, s.bytes.start));
        merged(chosen)
    }

    /// Returns the pages that lie completely in the range. The end of the file counts as the end of a page.
    fn whole_pages(&self, Span { file, bytes }: Span) -> Option<Span> {
        let (page, size) = (self.page(), self.files[file].size);
        let start = bytes.start.next_multiple_of(page);
        let end = if bytes.end >= size { size } else { bytes.end / page * page };
        (start < end).then_some(Span { file, bytes: start..end })
    }

    /// Reads the spans into memory, and returns the number of bytes that were not in memory.
    fn bring_in(&self, spans: &[Span], progress: &Progress) -> Result<u64> {
        let mut missing = VecDeque::with_capacity(AHEAD);
        let mut pieces = spans.iter().flat_map(cut);
        let mut buffer = vec![0; PIECE as usize];
        let mut read = 0;
        loop {
            progress.check()?;
            while missing.len() < AHEAD
                && let Some(piece) = pieces.next()
            {
                if self.is_resident(&piece) {
                    progress.add(piece.len());
                } else {
                    os::advise(&self.files[piece.file].file, piece.bytes.clone(), os::Usage::Soon);
                    missing.push_back(piece);
                }
            }
            let Some(piece) = missing.pop_front() else { return Ok(read) };
            self.touch(&piece, &mut buffer)?;
            read += piece.len();
            progress.add(piece.len());
        }
    }

    fn is_resident(&self, piece: &Span) -> bool {
        let file = &self.files[piece.file];
        file.residency_is_reliable && file.map.resident(piece.bytes.clone()).is_ok_and(|n| n == piece.len())
    }

    /// Reads a piece. The kernel may ignore the request to read ahead, but it cannot ignore a read.
    fn touch(&self, piece: &Span, buffer: &mut [u8]) -> Result<()> {
        let (MappedFile { path, file, .. }, start) = (&self.files[piece.file], piece.bytes.start);
        os::read_exact_at(file, &mut buffer[..piece.len() as usize], start).map_err(|source| Error::Io {
            place: Place::file(path).at(start),
            action: "read",
            source,
            fix: "Check the disk, and check that nobody has replaced the file in the meantime",
        })
    }

    fn lock(&mut self, spans: &[Span]) -> Result<()> {
        for Span { file, bytes } in spans {
            let MappedFile { path, file: open, .. } = &self.files[*file];
            let locked = map::lock(open, bytes.clone()).map_err(|source| Error::Io {
                place: Place::file(path).at(bytes.start),
                action: "lock the pages in memory of",
                source,
                fix: "Raise the limit of locked memory (ulimit -l), or hydrate without locking",
            })?;
            self.locked.push((*file, locked));
        }
        Ok(())
    }

    /// Takes `spans`, which are whole pages, out of memory.
    fn drop_pages(&self, spans: &[Span]) {
        for (number, MappedFile { path, file, .. }) in self.files.iter().enumerate() {
            let own = spans.iter().filter(|s| s.file == number);
            let ranges: Vec<_> = own.map(|s| s.bytes.clone()).collect();
            // Pages that are not yet on the disk cannot be dropped, so they are written first. The call fails on a
            // read-only file system, which has no such pages.
            let _ = os::sync_file(file);
            os::page_out(path, file, &ranges);
            ranges.into_iter().for_each(|r| os::advise(file, r, os::Usage::NotSoon));
        }
    }
}

/// Returns the experts of a GGUF, those first that the sidecar says were used most. Without heat, or at the same heat, they
/// are in file order.
fn experts(gguf: &Gguf, sidecar: &Sidecar) -> Result<Vec<Expert>> {
    let Some(moe) = &sidecar.moe else { return Ok(Vec::new()) };
    let measured;
    let tensors = match &sidecar.tensors {
        Some(tensors) => tensors,
        None => {
            let options = Options { split: sidecar.split(), ..Options::default() };
            measured = Sidecar::measure(gguf, &options)?.tensors.unwrap_or_default();
            &measured
        }
    };
    let heat = |layer: u32| sidecar.expert_heat.as_ref().and_then(|h| h.layers.get(&layer));
    let mut found = Vec::new();
    for (name, facts) in tensors.iter().filter(|(_, facts)| facts.access == Access::Experts) {
        let counts = layer_of(name).and_then(heat);
        let part = Part::parse(&facts.part)?;
        let bytes = facts.bytes / moe.num_experts;
        for expert in 0..moe.num_experts {
            let used = counts.and_then(|c| c.get(expert as usize)).copied().unwrap_or(0);
            let start = facts.offset + expert * bytes;
            found.push((used, Expert { part, span: Span { file: facts.file, bytes: start..start + bytes } }));
        }
    }
    found.sort_by_key(|(used, e)| (Reverse(*used), e.span.file, e.span.bytes.start));
    Ok(found.into_iter().map(|(_, expert)| expert).collect())
}

/// Returns what is left of a range without `holes`, which are in file order and do not overlap.
fn without(range: &Span, holes: &[Span]) -> Vec<Span> {
    let mut left = Vec::new();
    let mut start = range.bytes.start;
    for hole in holes.iter().filter(|h| h.file == range.file) {
        let (from, to) = (hole.bytes.start.max(start), hole.bytes.end.min(range.bytes.end));
        if from < to {
            if start < from {
                left.push(Span { file: range.file, bytes: start..from });
            }
            start = to;
        }
    }
    if start < range.bytes.end {
        left.push(Span { file: range.file, bytes: start..range.bytes.end });
    }
    left
}

fn total(spans: &[Span]) -> u64 {
    spans.iter().map(Span::len).sum()
}

fn cut(span: &Span) -> impl Iterator<Item = Span> + use<> {
    let (file, end) = (span.file, span.bytes.end);
    let starts = (span.bytes.start..end).step_by(PIECE as usize);
    starts.map(move |at| Span { file, bytes: at..(at + PIECE).min(end) })
}

/// Joins neighbours that touch; the order stays.
fn merged(spans: Vec<Span>) -> Vec<Span> {
    let mut out: Vec<Span> = Vec::with_capacity(spans.len());
    for span in spans {
        match out.last_mut() {
            Some(last) if last.file == span.file && last.bytes.end == span.bytes.start => {
                last.bytes.end = span.bytes.end;
            }
            _ => out.push(span),
        }
    }
    out
}

/// Returns the parts of the files, of which `sizes` has the lengths, that are in none of the spans. The spans do not
/// overlap.
fn complement(spans: &[Span], sizes: &[u64]) -> Vec<Span> {
    let rest = |(file, &size): (usize, &u64)| {
        let mut own: Vec<_> = spans.iter().filter(|s| s.file == file).map(|s| s.bytes.clone()).collect();
        own.sort_by_key(|r| r.start);
        let ends: Vec<_> = std::iter::once(0).chain(own.iter().map(|r| r.end)).collect();
        let starts = own.into_iter().map(|r| r.start).chain(std::iter::once(size));
        let gaps = ends.into_iter().zip(starts).filter(|(a, b)| a < b);
        gaps.map(|(a, b)| Span { file, bytes: a..b }).collect::<Vec<_>>()
    };
    sizes.iter().enumerate().flat_map(rest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::met::sidecar::{ExpertHeat, Known, TensorFacts};
    use crate::met::testing::{Model, PAGE};

    fn opened(model: &Model) -> (tempfile::TempDir, Hydrator) {
        // The folder is not in /tmp, which may be a file system in memory, where nothing can be evicted.
        let target = concat!(env!("CARGO_MANIFEST_DIR"), "/target");
        std::fs::create_dir_all(target).unwrap();
        let dir = tempfile::tempdir_in(target).unwrap();
        let path = model.write(dir.path());
        let hydrator = Hydrator::open(&path, None).unwrap();
        (dir, hydrator)
    }

    fn resident(h: &Hydrator) -> Vec<u64> {
        h.residency().unwrap().into_iter().map(|r| r.resident_bytes.unwrap()).collect()
    }

    fn sizes(h: &Hydrator) -> Vec<u64> {
        h.residency().unwrap().into_iter().map(|r| r.bytes).collect()
    }

    /// Takes all parts out of memory. Returns false on a file system that keeps evicted pages; there the tests cannot see
    /// that something is not in memory, and check everything else.
    fn evict_all(h: &mut Hydrator) -> bool {
        h.evict(&Part::all().collect::<Vec<_>>());
        resident(h).iter().sum::<u64>() == 0
    }

    /// Returns whether two sizes differ by at most two pages: the first and the last page of a part may be shared.
    fn near(a: u64, b: u64) -> bool {
        a.abs_diff(b) <= 2 * PAGE
    }

    #[test]
    #[cfg_attr(not(target_os = "linux"), ignore = "this system does not tell which pages are in memory")]
    fn an_intent_makes_its_slots_resident_and_nothing_else() {
        let (_dir, mut h) = opened(&Model::dense(10).wide());
        let evicts = evict_all(&mut h);
        let size = sizes(&h);
        for (intent, parts) in [
            (Intent::Inform, vec![0, 1]),
            (Intent::Clarify, vec![0, 1, 4]),
            (Intent::Harm, vec![0, 1, 2, 3, 4]),
        ] {
            evict_all(&mut h);
            let outcome = h.hydrate(intent, &HydrateOptions::default(), &Progress::default()).unwrap();
            let now = resident(&h);
            for i in 0..5 {
                let expected = if parts.contains(&i) || !evicts { size[i] } else { 0 };
                assert!(near(now[i], expected), "{intent}: {now:?} of {size:?}");
            }
            let expected: u64 = parts.iter().map(|&i| size[i]).sum();
            assert!(near(outcome.wanted_bytes, expected) && outcome.hydrated_bytes == outcome.wanted_bytes);
            assert_eq!(outcome.read_bytes, if evicts { outcome.hydrated_bytes } else { 0 });
            let again = h.hydrate(intent, &HydrateOptions::default(), &Progress::default()).unwrap();
            assert_eq!(again.read_bytes, 0);
        }
        // Everything is in memory now. The other parts are evicted on request.
        let options = HydrateOptions { evict_others: true, ..HydrateOptions::default() };
        h.hydrate(Intent::Inform, &options, &Progress::default()).unwrap();
        let now = resident(&h);
        assert!(near(now[0], size[0]) && near(now[1], size[1]), "{now:?} of {size:?}");
        assert!(!evicts || now[2..].iter().all(|&n| n <= 2 * PAGE), "{now:?} of {size:?}");
    }

    #[test]
    #[cfg_attr(not(target_os = "linux"), ignore = "this system does not tell which pages are in memory")]
    fn a_budget_is_respected_to_the_page() {
        let (_dir, mut h) = opened(&Model::dense(10).wide());
        let evicts = evict_all(&mut h);
        let total: u64 = sizes(&h).iter().sum();
        for budget in [PAGE, 3 * PAGE + 1, total / 3, total / 2, 2 * total] {
            evict_all(&mut h);
            let options = HydrateOptions { budget: Some(budget), ..HydrateOptions::default() };
            let outcome = h.hydrate(Intent::Harm, &options, &Progress::default()).unwrap();
            let chosen = outcome.hydrated_bytes;
            assert!(chosen <= budget && chosen + PAGE > budget.min(total), "{chosen} of {budget}");
            assert!(!evicts || chosen == resident(&h).iter().sum::<u64>());
            assert_eq!(outcome.wanted_bytes, total);
        }
        let options = HydrateOptions { budget: Some(PAGE - 1), ..HydrateOptions::default() };
        assert!(matches!(h.hydrate(Intent::Harm, &options, &Progress::default()), Err(Error::Usage { .. })));
    }

    #[test]
    #[cfg_attr(not(target_os = "linux"), ignore = "this system does not tell which pages are in memory")]
    fn locked_pages_stay_until_they_are_evicted() {
        let (_dir, mut h) = opened(&Model::dense(10).wide());
        let options = HydrateOptions { lock: true, budget: Some(4 * PAGE), ..HydrateOptions::default() };
        match h.hydrate(Intent::Inform, &options, &Progress::default()) {
            Err(Error::Io { action, .. }) => {
                assert_eq!(action, "lock the pages in memory of");
                // Not even four pages may be locked here: the error is the right one, and locks are not tested.
                assert_eq!(h.locked_bytes(), 0);
                return;
            }
            outcome => assert_eq!(outcome.unwrap().locked_bytes, 4 * PAGE),
        }
        // Someone else cannot evict them.
        let file = &h.files[0];
        os::advise(&file.file, 0..file.size, os::Usage::NotSoon);
        assert!(file.map.resident(0..4 * PAGE).unwrap() == 4 * PAGE);
        h.evict(&[Part::Embedding]);
        assert_eq!(h.locked_bytes(), 0);
    }

    #[test]
    fn a_stopped_hydration_ends() {
        let (_dir, mut h) = opened(&Model::dense(4));
        let progress = Progress::default();
        progress.cancel();
        let ended = h.hydrate(Intent::Harm, &HydrateOptions::default(), &progress);
        assert!(matches!(ended, Err(Error::Interrupted)));
    }

    #[test]
    #[cfg_attr(not(target_os = "linux"), ignore = "this system does not tell which pages are in memory")]
    fn the_experts_that_are_used_most_come_first() {
        let model = Model::moe(10, 8, 2).wide();
        let target = concat!(env!("CARGO_MANIFEST_DIR"), "/target");
        let dir = tempfile::tempdir_in(target).unwrap();
        let path = model.write(dir.path());
        let gguf = Gguf::open(&path).unwrap();
        // In each layer expert 5 was used by all tokens, and expert 2 by half of them.
        let counts = vec![1, 1, 50, 1, 1, 100, 1, 1];
        let layers = (0..10).map(|layer| (layer, counts.clone())).collect();
        let known = Known { expert_heat: Some(ExpertHeat { tokens: 100, layers }), ..Known::default() };
        let sidecar = Sidecar::measure(&gguf, &Options { known, ..Options::default() }).unwrap();
        std::fs::write(sidecar_path(&path), sidecar.to_json()).unwrap();
        let mut h = Hydrator::open(&path, None).unwrap();
        let evicts = evict_all(&mut h);
        let tensors = sidecar.tensors.as_ref().unwrap();
        let (stacks, others): (Vec<_>, Vec<_>) = tensors.values().partition(|t| t.access == Access::Experts);
        assert_eq!(stacks.len(), 10);
        let expert = stacks[0].bytes / 8;
        let rest = sidecar.file.bytes - stacks.iter().map(|t| t.bytes).sum::<u64>();
        assert!(others.iter().map(|t| t.bytes).sum::<u64>() <= rest);
        // The budget has room for everything but experts, and for the two experts of each layer that are used most. It counts
        // whole pages, so that an expert costs up to two pages more than its bytes.
        let budget = rest + 20 * expert + 30 * PAGE;
        let options = HydrateOptions { budget: Some(budget), ..HydrateOptions::default() };
        let outcome = h.hydrate(Intent::Harm, &options, &Progress::default()).unwrap();
        assert_eq!(outcome.wanted_bytes, sidecar.file.bytes.next_multiple_of(PAGE).min(sidecar.file.bytes));
        let there = |t: &TensorFacts, e: u64| {
            let start = t.offset + e * expert;
            h.files[0].map.resident(start..start + expert).unwrap()
        };
        for stack in &stacks {
            assert!(near(there(stack, 5), expert) && near(there(stack, 2), expert));
            let cold: u64 = [0, 1, 3, 4, 6, 7].map(|e| there(stack, e)).iter().sum();
            assert!(!evicts || cold <= 16 * PAGE, "{cold} bytes of experts that are hardly used");
        }
        // A budget below that gets the hottest alone.
        let spans = h.pages(&h.sidecar.parts(Intent::Harm).unwrap(), rest + 10 * expert);
        let holds = |t: &TensorFacts, e: u64| {
            let middle = t.offset + e * expert + expert / 2;
            spans.iter().any(|s| s.bytes.contains(&middle))
        };
        assert!(stacks.iter().all(|t| !holds(t, 2) && !holds(t, 0)));
        assert!(stacks.iter().filter(|t| holds(t, 5)).count() >= 9);
        // Without heat the experts come in file order, behind everything else.
        std::fs::remove_file(sidecar_path(&path)).unwrap();
        let h = Hydrator::open(&path, None).unwrap();
        let spans = h.pages(&h.sidecar.parts(Intent::Harm).unwrap(), rest + 8 * expert);
        let holds = |t: &TensorFacts| spans.iter().any(|s| s.bytes.contains(&(t.offset + t.bytes / 2)));
        let mut by_offset = stacks.clone();
        by_offset.sort_by_key(|t| t.offset);
        assert!(holds(by_offset[0]) && by_offset[2..].iter().all(|t| !holds(t)));
        assert!(others.iter().all(|t| holds(t)));
    }

    #[test]
    fn holes_are_left_out() {
        let span = |file, bytes: Range<u64>| Span { file, bytes };
        let holes = [span(0, 2..4), span(0, 6..9), span(1, 0..5)];
        assert_eq!(without(&span(0, 0..7), &holes), [span(0, 0..2), span(0, 4..6)]);
        assert_eq!(without(&span(0, 3..10), &holes), [span(0, 4..6), span(0, 9..10)]);
        assert_eq!(without(&span(1, 1..4), &holes), []);
        assert_eq!(without(&span(2, 1..4), &holes), [span(2, 1..4)]);
    }

    #[test]
    fn what_is_left_and_what_touches() {
        let span = |file, bytes: Range<u64>| Span { file, bytes };
        let left = complement(&[span(0, 4..8), span(0, 0..2), span(1, 0..3)], &[10, 4]);
        assert_eq!(left, [span(0, 2..4), span(0, 8..10), span(1, 3..4)]);
        assert_eq!(complement(&[], &[10]), [span(0, 0..10)]);
        assert_eq!(complement(&[span(0, 0..5), span(0, 5..10)], &[10]), []);
        let touching = vec![span(0, 0..2), span(0, 2..3), span(0, 5..6), span(1, 6..7)];
        assert_eq!(merged(touching), [span(0, 0..3), span(0, 5..6), span(1, 6..7)]);
        let pieces: Vec<_> = cut(&span(2, 5..PIECE + 6)).collect();
        assert_eq!(pieces, [span(2, 5..PIECE + 5), span(2, PIECE + 5..PIECE + 6)]);
    }

    #[test]
    #[cfg_attr(not(target_os = "linux"), ignore = "this system does not tell which pages are in memory")]
    fn all_files_of_a_split_gguf_are_hydrated() {
        let target = concat!(env!("CARGO_MANIFEST_DIR"), "/target");
        let dir = tempfile::tempdir_in(target).unwrap();
        let paths = Model::dense(10).wide().write_split(dir.path(), 3);
        let mut h = Hydrator::open(&paths[2], None).unwrap();
        let evicts = evict_all(&mut h);
        let outcome = h.hydrate(Intent::Harm, &HydrateOptions::default(), &Progress::default()).unwrap();
        let size: u64 = paths.iter().map(|path| path.metadata().unwrap().len()).sum();
        assert_eq!(outcome.hydrated_bytes, size);
        assert!(!evicts || outcome.read_bytes == size);
        assert_eq!(resident(&h), sizes(&h));
        let one = HydrateOptions { evict_others: true, ..HydrateOptions::default() };
        let outcome = h.hydrate(Intent::Inform, &one, &Progress::default()).unwrap();
        let now: u64 = resident(&h).iter().sum();
        assert!(!evicts || near(now, outcome.hydrated_bytes), "{now} of {}", outcome.hydrated_bytes);
    }
}
