//! Signs a container with another key, for instance after a change of keys. The weights stay as they are.
//!
//! ```no_run
//! use std::path::Path;
//!
//! use srd_rs::convert::resign::resign;
//! use srd_rs::formats::axm::Container;
//! use srd_rs::formats::axm::reader::Expected;
//! use srd_rs::progress::Progress;
//! use srd_rs::sign::keys::read_file;
//!
//! let (old, new) = (read_file(Path::new("old.key"))?, read_file(Path::new("new.key"))?);
//! let expected = Expected { key: Some(&old), ..Expected::default() };
//! let container = Container::open("model.axm")?;
//! let output = Path::new("signed.axm");
//! resign(&container, &expected, output, (&new, None), (4, false), &Progress::default())?;
//! # Ok::<(), srd_rs::Error>(())
//! ```

use std::path::Path;

use crate::convert::container::ContainerSink;
use crate::convert::planned::{PlannedContainer, PlannedFile};
use crate::convert::report::Sealed;
use crate::error::{Error, Result};
use crate::formats::axm::Container;
use crate::formats::axm::reader::Expected;
use crate::formats::sink::check_not_input;
use crate::os;
use crate::progress::Progress;
use crate::sign::ed25519::SignKey;
use crate::sign::keys::MasterKey;

/// The number of bytes that are copied at a time.
const WINDOW: usize = 1 << 20;

/// Copies `container` to `output` and signs the copy with `key`. Every shard is compared with the manifest while it is
/// copied.
///
/// # Errors
/// [`Error::Verification`] when the container is not the one that `expected` describes, or when a shard is not the
/// signed one;
/// [`Error::Usage`] for a manifest file. After an error there is no output file.
pub fn resign(
    container: &Container,
    expected: &Expected,
    output: &Path,
    (key, sign_key): (&MasterKey, Option<&SignKey>),
    (threads, overwrite): (usize, bool),
    progress: &Progress,
) -> Result<Sealed> {
    container.authenticate(expected)?;
    if container.detached {
        let what = format!("{} is a manifest without shards", container.path.display());
        return Err(Error::usage(what, "Name the container itself"));
    }
    let planned = PlannedContainer {
        path: output.to_path_buf(),
        header: container.header.clone(),
        layout: container.layout.clone(),
    };
    let files = container.header.files.iter().enumerate().map(|(i, f)| {
        Ok(PlannedFile { path: f.name.clone().into(), header: container.gguf_header(i)?, bytes: f.bytes })
    });
    let source = os::file_id(&container.file).map_err(|e| Error::io(&container.path, "read", e))?;
    check_not_input(output, &[source])?;
    let sink = ContainerSink::create(&planned, &files.collect::<Result<Vec<_>>>()?, key, overwrite)?;
    container.for_each_shard(threads, progress, |number, shard, buffer| {
        let (mut out, mut at) = (sink.shard(number), 0);
        while at < shard.length {
            progress.check()?;
            buffer.resize((shard.length - at).min(WINDOW as u64) as usize, 0);
            container.read_shard(shard, at, buffer)?;
            out.hash(buffer);
            sink.write(&mut out, buffer)?;
            progress.add(buffer.len() as u64);
            at += buffer.len() as u64;
        }
        // `authenticate` has checked the manifest, which has this SHA-256.
        if sink.finish_shard(out) != *container.shard_hash(number) {
            return Err(container.not_signed(number));
        }
        container.check_padding(number, buffer)
    })?;
    let (sink, sealed) = sink.seal(key, sign_key)?;
    sink.commit()?;
    Ok(sealed)
}
