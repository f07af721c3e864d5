//! The destinations of a run: opened before the first weight is read, named together after the last one.

use std::path::{Path, PathBuf};

use crate::convert::compare::Comparison;
use crate::convert::container::ContainerDestination;
use crate::convert::destination::{Converted, Destination, UnitWriter};
use crate::convert::files::Files;
use crate::convert::options::RunOptions;
use crate::convert::parts::Parts;
use crate::convert::planned::Plan;
use crate::convert::report::Sealed;
use crate::convert::source_hashes::SourceHash;
use crate::convert::units::Unit;
use crate::error::{Error, Result};
use crate::formats::sink::{self, Left};
use crate::os;
use crate::progress::Progress;
use crate::sign::Hash;

/// Everything that a run writes.
pub struct Outputs<'a> {
    destinations: Vec<Box<dyn Destination + 'a>>,
}

impl<'a> Outputs<'a> {
    /// Opens the destinations of `plan`. All paths are checked before the first file is created. `left` says what an earlier run
    /// has left; without it nothing is kept when the run is interrupted.
    ///
    /// # Errors
    /// As [`Sink::create`](sink::Sink::create); [`Error::Usage`] when there is a container to sign and no key;
    /// [`Error::Verification`] when a GGUF is compared and is another one.
    pub fn create(
        plan: &'a Plan,
        options: &RunOptions<'a>,
        left: Option<Left>,
        progress: &'a Progress,
    ) -> Result<Self> {
        if let Some(gguf) = options.against {
            return Ok(Self { destinations: vec![Box::new(Comparison::open(plan, gguf)?)] });
        }
        let targets = plan.targets(options.gguf);
        let places: Vec<_> = targets.iter().map(|path| place_of(path)).collect();
        if let Some(second) = (0..places.len()).find(|&i| places[..i].contains(&places[i])) {
            let twice = targets[second];
            let what = format!("two outputs would have the name {}", twice.display());
            return Err(Error::usage(what, "Give the GGUF and the container different names"));
        }
        let mut inputs = plan.model.source.file_ids()?;
        inputs.extend(plan.inputs.iter().filter_map(|path| os::file_id_of(path).ok()));
        targets.into_iter().try_for_each(|path| {
            // What an earlier run has named is compared when it is opened.
            sink::check_target(path, options.overwrite || left == Some(Left::Complete))?;
            sink::check_not_input(path, &inputs)
        })?;
        let mut destinations: Vec<Box<dyn Destination + 'a>> = Vec::new();
        match options.handover {
            Some(handover) => {
                destinations.push(Box::new(Parts::new(plan, options.overwrite, handover, progress)));
            }
            None if options.gguf => {
                destinations.push(Box::new(Files::create(plan, options.overwrite, left)?));
            }
            None => {}
        }
        if let Some(planned) = &plan.container {
            let key = options.key.ok_or_else(|| {
                let fix = "Set SRD_MASTER_KEY, name a key file, or convert without a container";
                Error::usage("there is no key to sign the container with", fix)
            })?;
            let signing = (key, options.sign_key);
            destinations.push(Box::new(ContainerDestination::create(
                planned,
                &plan.files,
                signing,
                options.overwrite,
                left,
            )?));
        }
        Ok(Self { destinations })
    }

    /// Begins a unit in every destination.
    pub fn begin<'u>(&'u self, unit: &Unit<'u>) -> Writers<'u> {
        Writers(self.destinations.iter().map(|d| d.begin(unit)).collect())
    }

    /// Goes on with a unit of which an earlier run has written the first `done` weights, if every destination has the bytes with
    /// these hashes. Returns `None` if one has not.
    ///
    /// # Errors
    /// As [`Destination::resume`].
    pub fn resume<'u>(
        &'u self,
        unit: &Unit<'u>,
        done: u64,
        hashes: &[Hash],
        progress: &Progress,
    ) -> Result<Option<Writers<'u>>> {
        let mut hashes = hashes.iter().copied();
        let mut writers = Vec::new();
        for destination in &self.destinations {
            match destination.resume(unit, done, &mut hashes, progress)? {
                Some(writer) => writers.push(writer),
                None => return Ok(None),
            }
        }
        Ok(hashes.next().is_none().then_some(Writers(writers)))
    }

    /// Completes every destination and gives all files their names. `sources` has the hashes of the source files. `complete` is
    /// called just before the first file gets its name.
    ///
    /// # Errors
    /// As [`sink::commit_all`].
    pub fn commit(
        self,
        sources: &[SourceHash],
        complete: impl FnOnce() -> Result<()>,
    ) -> Result<Option<Sealed>> {
        let (mut sinks, mut sealed) = (Vec::new(), None);
        for destination in self.destinations {
            let finished = destination.finish(sources)?;
            sinks.extend(finished.sinks);
            sealed = sealed.or(finished.sealed);
        }
        complete()?;
        sink::commit_all(sinks)?;
        Ok(sealed)
    }
}

/// The path of an output with the links and dots of its folder resolved, so that two names of one file are equal.
fn place_of(path: &Path) -> PathBuf {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_path_buf());
    folder.join(path.file_name().unwrap_or_default())
}

/// One unit on its way to every destination.
pub struct Writers<'u>(Vec<Box<dyn UnitWriter + 'u>>);

impl Writers<'_> {
    /// Shows a chunk to every destination.
    ///
    /// # Errors
    /// [`Error::Io`] from writing.
    pub fn see(&mut self, chunk: &Converted) -> Result<()> {
        self.0.iter_mut().try_for_each(|w| w.see(chunk))
    }

    /// Writes the next blocks to every destination.
    ///
    /// # Errors
    /// [`Error::Io`] from writing.
    pub fn write(&mut self, blocks: &[u8]) -> Result<()> {
        self.0.iter_mut().try_for_each(|w| w.write(blocks))
    }

    /// Writes what is held back to every destination. Returns the hashes of what was written so far.
    ///
    /// # Errors
    /// [`Error::Io`] from writing.
    pub fn hashes(&mut self) -> Result<Vec<Hash>> {
        let hashes: Vec<_> = self.0.iter_mut().map(|w| w.hashes()).collect::<Result<_>>()?;
        Ok(hashes.concat())
    }

    /// Completes the unit in every destination. Returns the hashes of what was written.
    ///
    /// # Errors
    /// [`Error::Io`] from writing.
    pub fn finish(self) -> Result<Vec<Hash>> {
        let hashes: Vec<_> = self.0.into_iter().map(|w| w.finish()).collect::<Result<_>>()?;
        Ok(hashes.concat())
    }
}
