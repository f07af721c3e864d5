//! The files of a repository of the hub, read by HTTP ranges.
//!
//! A request that fails for a reason that passes (a cut or stalled connection, the status 429 or 5xx) is made again, from the byte
//! where it ended, after the time that the server names or after a time that doubles. A file must keep its size, its version
//! (ETag) and its commit while it is read: what is read is of one revision, or the run ends.
//!
//! ```no_run
//! use srd_rs::input::ReadAt;
//! use srd_rs::input::remote::{Listed, Remote};
//!
//! let url = "https://huggingface.co/org/model/resolve/main/model.safetensors".to_string();
//! let file = Listed { name: "model.safetensors".into(), url, size: 1 << 30, sha256: None };
//! let remote = Remote::new("hf://org/model", vec![file], None, None);
//! let mut length = [0; 8];
//! remote.file(0).read_exact_from(0, &mut length)?;
//! # Ok::<(), std::io::Error>(())
//! ```

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::ReadAt;
use super::ahead::{Ahead, Extent, Fetch};
pub use super::client::Listed;
use super::client::{Client, Known, TRY_AGAIN, Trouble};
use crate::error::FetchError;

/// Number of requests without a byte of answer after which a read fails. `SRD_HTTP_TRIES` is another number.
const TRIES: u32 = 8;
/// Number of connections. `SRD_HTTP_CONNECTIONS` is another number.
const CONNECTIONS: usize = 8;
/// Wait before the second request; it doubles with each further one.
const FIRST_WAIT: Duration = Duration::from_millis(250);
/// Longest wait that the server did not ask for.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// The bytes at the start of a file that are fetched at once and kept: most headers fit.
const HEAD: u64 = 128 << 10;
/// The largest number of bytes of a read that is kept, and how many such reads are kept.
const SMALL: usize = 64 << 10;
const SMALL_RUNS: usize = 1024;
/// Where a header begins at the latest, behind its length.
const HEADER_START: u64 = 8;
/// The largest number of bytes at the start of a file that are kept.
const MAX_HEAD: u64 = 128 << 20;

/// The files of a repository at one commit.
pub struct Remote {
    /// What messages call the repository: `hf://ORG/NAME`.
    label: String,
    files: Vec<State>,
    client: Client,
    connections: usize,
    tries: u32,
    cancelled: AtomicBool,
    received: AtomicU64,
    /// Small tensors that were read, such as the vectors of a layer: planning and calibration read them again.
    small: Mutex<HashMap<Run, Arc<Vec<u8>>>>,
    /// What fetches bytes before they are asked for, while a pass over the weights runs.
    ahead: Mutex<Option<Arc<Ahead>>>,
}

/// Number of a file, offset and number of bytes.
type Run = (usize, u64, usize);

struct State {
    listed: Listed,
    known: Mutex<Known>,
    /// The first bytes of the file.
    head: Mutex<Arc<Vec<u8>>>,
}

/// One file of a [`Remote`].
#[derive(Clone)]
pub struct RemoteFile {
    remote: Arc<Remote>,
    index: usize,
}

impl Remote {
    /// Makes a source of files that the hub has listed. `token` is sent to the server of their addresses and to no other;
    /// `commit` is the commit that the hub must name in its answers. Nothing is asked yet.
    pub fn new(
        label: impl Into<String>,
        files: Vec<Listed>,
        token: Option<String>,
        commit: Option<String>,
    ) -> Arc<Self> {
        let connections = number_of("SRD_HTTP_CONNECTIONS").unwrap_or(CONNECTIONS).clamp(1, 64);
        let state = |listed| State { listed, known: Mutex::default(), head: Mutex::default() };
        Arc::new(Self {
            label: label.into(),
            files: files.into_iter().map(state).collect(),
            client: Client::new(token, commit, connections),
            connections,
            tries: number_of("SRD_HTTP_TRIES").unwrap_or(TRIES as usize).max(1) as u32,
            cancelled: AtomicBool::new(false),
            received: AtomicU64::new(0),
            small: Mutex::default(),
            ahead: Mutex::default(),
        })
    }

    /// Returns the number of files.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Returns whether there are no files.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Returns a file by its number.
    pub fn file(self: &Arc<Self>, index: usize) -> RemoteFile {
        RemoteFile { remote: Arc::clone(self), index }
    }

    /// Returns a file by its name in the repository.
    pub fn find(self: &Arc<Self>, name: &str) -> Option<RemoteFile> {
        let index = self.files.iter().position(|f| f.listed.name == name)?;
        Some(self.file(index))
    }

    /// Returns the names of the files.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.files.iter().map(|f| f.listed.name.as_str())
    }

    /// Returns what messages call the repository.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Returns the number of bytes that were received.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Ends all reads, also those that wait. They fail with [`FetchError::Cancelled`].
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// Fetches the starts of the files with these numbers, several at a time. A failure shows when the start is read.
    pub fn fetch_heads(self: &Arc<Self>, files: &[usize]) {
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..self.connections.min(files.len()) {
                scope.spawn(|| {
                    while let Some(&file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if self.head(file, 1).is_err() {
                            break;
                        }
                    }
                });
            }
        });
    }

    /// Makes one request and reads its answer. `got` counts the bytes of `buf` that are there.
    fn attempt(
        &self,
        file: usize,
        start: u64,
        buf: &mut [u8],
        got: &mut usize,
        is_wanted: &dyn Fn() -> bool,
    ) -> Result<(), Trouble> {
        let state = &self.files[file];
        let mut known = lock(&state.known).clone();
        let range = (start + *got as u64, start + buf.len() as u64);
        let answer = self.client.ask(&state.listed, range, &mut known);
        if !matches!(answer, Err(Trouble::Final(_))) {
            lock(&state.known).clone_from(&known);
        }
        let mut answer = answer?;
        while *got < buf.len() {
            self.check(is_wanted).map_err(Trouble::Final)?;
            let n = answer.read(&mut buf[*got..])?;
            *got += n;
            self.received.fetch_add(n as u64, Ordering::Relaxed);
        }
        Ok(())
    }

    fn check(&self, is_wanted: &dyn Fn() -> bool) -> Result<(), FetchError> {
        if self.cancelled.load(Ordering::Relaxed) || !is_wanted() {
            Err(FetchError::Cancelled)
        } else {
            Ok(())
        }
    }

    fn wait(&self, time: Duration, is_wanted: &dyn Fn() -> bool) -> Result<(), FetchError> {
        let end = Instant::now() + time;
        while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            self.check(is_wanted)?;
            std::thread::sleep(left.min(Duration::from_millis(50)));
        }
        Ok(())
    }

    /// Returns the start of a file, with at least `bytes` bytes.
    fn head(&self, file: usize, bytes: u64) -> Result<Arc<Vec<u8>>, FetchError> {
        let state = &self.files[file];
        let mut head = lock(&state.head);
        let want = bytes.max(HEAD.min(state.listed.size));
        if (head.len() as u64) < want {
            let mut longer = head.to_vec();
            let start = longer.len();
            longer.resize(want as usize, 0);
            self.fetch(file, start as u64, &mut longer[start..], &|| true)?;
            *head = Arc::new(longer);
        }
        Ok(Arc::clone(&head))
    }

    /// Begins to fetch `extents` in this order, before they are read. At most `memory` bytes wait to be read. What is read again
    /// later is kept in a temporary file in the folder `keep_in`. Fetching ends when the [`Reading`] is dropped.
    pub fn read_ahead(self: &Arc<Self>, extents: &[Extent], memory: u64, keep_in: Option<&Path>) -> Reading {
        let ahead = Arc::new(Ahead::new(extents, memory, self.connections, keep_in));
        *lock(&self.ahead) = Some(Arc::clone(&ahead));
        for number in 0..ahead.workers(self.connections) {
            let (remote, ahead) = (Arc::clone(self), Arc::clone(&ahead));
            let worker = std::thread::Builder::new().name(format!("fetch-{number}"));
            // Without a thread the readers fetch for themselves.
            drop(worker.spawn(move || ahead.work(&*remote)));
        }
        Reading { remote: Arc::clone(self), ahead }
    }
}

/// A pass whose bytes are fetched ahead. Fetching ends when it is dropped.
pub struct Reading {
    remote: Arc<Remote>,
    ahead: Arc<Ahead>,
}

impl Drop for Reading {
    fn drop(&mut self) {
        *lock(&self.remote.ahead) = None;
        self.ahead.end();
    }
}

impl Fetch for Remote {
    fn fetch(
        &self,
        file: usize,
        start: u64,
        buf: &mut [u8],
        is_wanted: &dyn Fn() -> bool,
    ) -> Result<(), FetchError> {
        let (mut got, mut tries) = (0, 0);
        while got < buf.len() {
            self.check(is_wanted)?;
            let before = got;
            let Err(trouble) = self.attempt(file, start, buf, &mut got, is_wanted) else { continue };
            if got > before {
                tries = 0;
            }
            tries += 1;
            let (why, wait) = match trouble {
                Trouble::Final(error) => return Err(error),
                Trouble::Expired(why) => {
                    lock(&self.files[file].known).resolved = None;
                    (why, (tries == 1).then_some(Duration::ZERO))
                }
                Trouble::Passing { why, wait } => (why, wait),
            };
            if tries >= self.tries {
                return Err(FetchError::failed(format!("{why} ({tries} times)"), TRY_AGAIN));
            }
            let backoff = (FIRST_WAIT * 2u32.pow((tries - 1).min(16))).min(LONGEST_WAIT);
            self.wait(wait.unwrap_or(backoff), is_wanted)?;
        }
        Ok(())
    }

    fn size(&self, file: usize) -> u64 {
        self.files[file].listed.size
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").field("label", &self.label).field("files", &self.files.len()).finish()
    }
}

impl RemoteFile {
    /// Returns what messages call the file: `hf://ORG/NAME/FILE`.
    pub fn address(&self) -> String {
        format!("{}/{}", self.remote.label, self.listed().name)
    }

    /// Returns the size in bytes.
    pub fn size(&self) -> u64 {
        self.listed().size
    }

    /// Returns the SHA-256 of the file in hexadecimal digits, if the hub names one.
    pub fn sha256(&self) -> Option<&str> {
        self.listed().sha256.as_deref()
    }

    /// Returns the repository.
    pub fn remote(&self) -> &Arc<Remote> {
        &self.remote
    }

    /// Returns the number of the file in the repository.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Returns the address of the file at its commit, which says which version is read.
    pub fn url(&self) -> &str {
        &self.listed().url
    }

    fn listed(&self) -> &Listed {
        &self.remote.files[self.index].listed
    }
}

impl ReadAt for RemoteFile {
    fn read_exact_from(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let end = offset.checked_add(buf.len() as u64).filter(|&end| end <= self.size());
        let Some(end) = end else { return Err(io::ErrorKind::UnexpectedEof.into()) };
        let (remote, file) = (&self.remote, self.index);
        let ahead = lock(&remote.ahead).clone();
        if let Some(ahead) = ahead {
            return ahead.read(&**remote, file, offset, buf).map_err(io::Error::from);
        }
        // A header begins within the first bytes and is read more than once.
        let kept = lock(&remote.files[file].head).len() as u64;
        if end <= MAX_HEAD && (offset <= HEADER_START || end <= kept.max(HEAD.min(self.size()))) {
            let head = remote.head(file, end)?;
            buf.copy_from_slice(&head[offset as usize..end as usize]);
            return Ok(());
        }
        if buf.len() > SMALL {
            return Ok(remote.fetch(file, offset, buf, &|| true)?);
        }
        let run = (file, offset, buf.len());
        let found = lock(&remote.small).get(&run).cloned();
        if let Some(bytes) = found {
            buf.copy_from_slice(&bytes);
            return Ok(());
        }
        remote.fetch(file, offset, buf, &|| true)?;
        let mut small = lock(&remote.small);
        if small.len() < SMALL_RUNS {
            small.insert(run, Arc::new(buf.to_vec()));
        }
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|p| p.into_inner())
}

fn number_of(variable: &str) -> Option<usize> {
    std::env::var(variable).ok()?.parse().ok()
}
