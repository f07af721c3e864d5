//! Reads a calibration file: the header at once, the moments of an input when they are asked for. Nothing in the file is
//! trusted.

use std::collections::HashMap;
use std::fs::File;
use std::hash::Hasher;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::SecondMoments;
use super::header::{FORMAT, GRANULE, Info, Input, Metadata, NOT_CALIBRATION, Quantized};
use super::sums;
use crate::dtype::GgmlType;
use crate::error::{Error, Place, Result};
use crate::formats::safetensors::{self, TensorInfo};
use crate::formats::sink::Sink;
use crate::formats::source::open_regular;
use crate::input::ReadAt;
use crate::progress::Progress;
use crate::sign::file::hash_range;
use crate::sign::{Hash, Sha256, sha256, to_hex};

/// Bytes at the start of a calibration file that contain its `format`.
const PROBE: u64 = 4 << 10;
/// Floats that are read at a time.
const PIECE: usize = 256 << 10;

/// An open calibration file.
#[derive(Debug)]
pub struct Calibration {
    path: PathBuf,
    file: File,
    /// Which tokens the statistics come from.
    pub info: Info,
    /// Identity of the file: `sha256:` and the SHA-256 of the header in hex. The header has the SHA-256 of the data.
    pub digest: String,
    inputs: Vec<Stored>,
    by_tensor: HashMap<String, usize>,
    /// The quantized tensors by name, with the place of their blocks.
    quantized: HashMap<String, StoredBlocks>,
    /// What is verified when it is read; see [`Calibration::open_kept`].
    unread: Option<Unread>,
}

/// The parts of a file that are verified when they are read: the moments of each expert of each input, then the quantized tensors.
#[derive(Debug)]
struct Unread {
    parts: Vec<Hash>,
    /// The quantized tensors that are verified, which are not read in one piece.
    verified: Vec<AtomicBool>,
}

#[derive(Debug)]
struct StoredBlocks {
    of: Quantized,
    tensor: TensorInfo,
    /// Number of the part.
    part: usize,
}

#[derive(Debug)]
struct Stored {
    input: Input,
    tensor: TensorInfo,
    n: usize,
    block: usize,
    stacked: bool,
    /// Number of the part of the first expert.
    part: usize,
}

/// The statistics of the input of one tensor. They are still in their file.
#[derive(Debug, Clone)]
pub struct Moments {
    calibration: Arc<Calibration>,
    input: usize,
}

/// The blocks of a quantized tensor. They are still in their file.
#[derive(Debug, Clone)]
pub struct Blocks {
    calibration: Arc<Calibration>,
    /// What is known of the tensor.
    pub of: Quantized,
    /// Offset of the blocks in the file, and the number of bytes.
    offset: u64,
    bytes: u64,
    /// Number of the part.
    part: usize,
}

impl Blocks {
    /// Reads the bytes from `start` on. They must be inside the tensor.
    ///
    /// # Errors
    /// [`Error::Io`] from the disk, [`Error::Format`] when the bytes were changed since they were verified.
    pub fn read(&self, start: u64, out: &mut [u8]) -> Result<()> {
        let Calibration { file, path, unread, .. } = &*self.calibration;
        if let Some(unread) = unread.as_ref().filter(|u| !u.verified[self.part].load(Ordering::Relaxed)) {
            let range = self.offset..self.offset + self.bytes;
            if hash_range(file, path, range, &Progress::default())? != unread.parts[self.part] {
                return Err(changed(Place::file(path).tensor(&self.of.tensor)));
            }
            unread.verified[self.part].store(true, Ordering::Relaxed);
        }
        file.read_exact_from(self.offset + start, out).map_err(|e| Error::io(path, "read", e))
    }
}

impl Calibration {
    /// Returns whether the first bytes of a file are those of a calibration file. False if the file cannot be read.
    pub fn recognize(path: &Path) -> bool {
        let Ok((file, size)) = open_regular(path) else { return false };
        let mut start = vec![0; size.min(PROBE) as usize];
        let quoted = format!("\"{FORMAT}\"");
        file.read_exact_from(0, &mut start).is_ok()
            && start.get(8) == Some(&b'{')
            && start.windows(quoted.len()).any(|w| w == quoted.as_bytes())
    }

    /// Opens a calibration file, and reads all of its data once to compare their SHA-256 with the one in the header. So
    /// the digest, which covers the header alone, stands for the data as well.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be read, [`Error::Format`] when it is no calibration file, is cut short,
    /// contradicts itself or has other data than its header says.
    pub fn open(path: &Path) -> Result<Self> {
        let (file, size) = open_regular(path)?;
        let calibration = Self::from_file(file, path)?;
        calibration.verify(size)?;
        Ok(calibration)
    }

    /// Opens a calibration file of a cache. The first time all of its data are read, as by [`Calibration::open`], and the digest of
    /// each part is written beside the file. From then on each part is compared with its digest when it is read.
    ///
    /// # Errors
    /// As [`Calibration::open`].
    pub fn open_kept(path: &Path) -> Result<Self> {
        let (file, size) = open_regular(path)?;
        let mut calibration = Self::from_file(file, path)?;
        let ranges = calibration.parts();
        match sums::read(path, &calibration.digest, ranges.len()) {
            Some(parts) => {
                let verified = parts.iter().map(|_| AtomicBool::new(false)).collect();
                calibration.unread = Some(Unread { parts, verified });
            }
            None => {
                calibration.verify(size)?;
                let hash = |range| hash_range(&calibration.file, path, range, &Progress::default());
                let parts = ranges.into_iter().map(hash).collect::<Result<Vec<_>>>()?;
                // Where the digests cannot be kept, all data are read the next time as well.
                let _ = sums::write(path, &calibration.digest, &parts);
            }
        }
        Ok(calibration)
    }

    /// Compares the data of a file of `size` bytes with the header.
    fn verify(&self, size: u64) -> Result<()> {
        let path = &self.path;
        let json = header_json(&self.file, path)?;
        let start = 8 + json.len() as u64;
        let found = to_hex(&hash_range(&self.file, path, start..size, &Progress::default())?);
        if Metadata::parse(&json, path)?.data_sha256()? == found {
            return Ok(());
        }
        let what = "has data whose SHA-256 is not the one in its header (data.sha256)";
        Err(Error::format(Place::file(path).at(start), what, DAMAGED))
    }

    /// Writes a copy of the file. All bytes are compared with the digests on the way.
    ///
    /// # Errors
    /// As [`Sink::create`] and [`Sink::commit`]; [`Error::Io`] from the disk, [`Error::Format`] when the bytes were changed since
    /// the file was opened.
    pub fn copy_to(&self, target: &Path, overwrite: bool) -> Result<()> {
        let (file, path) = (&self.file, &self.path);
        let size = file.metadata().map_err(|e| Error::io(path, "read", e))?.len();
        let json = header_json(file, path)?;
        let start = 8 + json.len() as u64;
        let metadata = Metadata::parse(&json, path)?;
        let sink = Sink::create(target, size, overwrite)?;
        sink.write_at(&(json.len() as u64).to_le_bytes(), 0)?;
        sink.write_at(&json, 8)?;
        let (mut hash, mut piece) = (Sha256::default(), vec![0; 4 * PIECE]);
        for at in (start..size).step_by(piece.len()) {
            let bytes = &mut piece[..(size - at).min(4 * PIECE as u64) as usize];
            file.read_exact_from(at, bytes).map_err(|e| Error::io(path, "read", e))?;
            hash.update(bytes);
            sink.write_at(bytes, at)?;
        }
        if digest_of(&json) != self.digest || to_hex(&hash.finish()) != metadata.data_sha256()? {
            return Err(changed(Place::file(path)));
        }
        sink.commit()
    }

    /// Returns the ranges of the parts, by their numbers.
    fn parts(&self) -> Vec<Range<u64>> {
        let mut parts = Vec::new();
        for stored in &self.inputs {
            let bytes = 4 * (stored.n * stored.block) as u64;
            let starts = (0..stored.input.tokens.len() as u64).map(|e| stored.tensor.offset + e * bytes);
            parts.extend(starts.map(|start| start..start + bytes));
        }
        let mut blocks: Vec<_> = self.quantized.values().collect();
        blocks.sort_unstable_by_key(|blocks| blocks.part);
        parts.extend(blocks.iter().map(|b| b.tensor.offset..b.tensor.offset + b.bytes()));
        parts
    }

    /// Reads the header of an open calibration file; `path` is used in messages and metadata. The data are not compared
    /// with the header.
    ///
    /// # Errors
    /// As [`Calibration::open`].
    pub fn from_file(file: File, path: &Path) -> Result<Self> {
        let size = file.metadata().map_err(|e| Error::io(path, "read", e))?.len();
        let tensors = safetensors::read_header(&file, size, path)?;
        let json = header_json(&file, path)?;
        let metadata = Metadata::parse(&json, path)?;
        let (info, inputs) = (metadata.info()?, metadata.inputs()?);
        let mut by_name: HashMap<String, TensorInfo> =
            tensors.into_iter().map(|t| (t.name.clone(), t)).collect();
        let mut part = 0;
        let stored = inputs
            .into_iter()
            .map(|input| match by_name.remove(&input.moments_name()) {
                Some(tensor) => {
                    let first = part;
                    part += input.tokens.len();
                    Stored::check(input, tensor, first, path)
                }
                None => Err(bad(path, &input.moments_name(), "is named in 'inputs', but not there".into())),
            })
            .collect::<Result<Vec<_>>>()?;
        let mut quantized = HashMap::new();
        for of in metadata.quantized()? {
            match by_name.remove(&of.blocks_name()) {
                Some(tensor) if tensor.dtype.name() == "U8" => {
                    quantized.insert(of.tensor.clone(), StoredBlocks { of, tensor, part });
                    part += 1;
                }
                _ => return Err(bad(path, &of.tensor, "is named in 'quantized', but not there".into())),
            }
        }
        if let Some(name) = by_name.keys().min() {
            return Err(bad(path, name, "belongs to no input".into()));
        }
        let by_tensor = index(&stored, path)?;
        if by_tensor.is_empty() && quantized.is_empty() {
            return Err(Error::format(Place::file(path), "holds no statistics", NOT_CALIBRATION));
        }
        let digest = digest_of(&json);
        let path = path.to_path_buf();
        Ok(Self { path, file, info, digest, inputs: stored, by_tensor, quantized, unread: None })
    }

    /// The inputs of a file that is still being written.
    pub(super) fn of_inputs(
        file: File,
        path: &Path,
        info: Info,
        inputs: Vec<(Input, TensorInfo)>,
    ) -> Result<Self> {
        // No part has a digest yet.
        let check = |(input, tensor)| Stored::check(input, tensor, 0, path);
        let inputs = inputs.into_iter().map(check).collect::<Result<Vec<_>>>()?;
        let (by_tensor, path) = (index(&inputs, path)?, path.to_path_buf());
        let (digest, quantized) = (String::new(), HashMap::new());
        Ok(Self { path, file, info, digest, inputs, by_tensor, quantized, unread: None })
    }

    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the number of tensors whose inputs are known, or that are quantized.
    pub fn len(&self) -> usize {
        self.by_tensor.len() + self.quantized.len()
    }

    /// Returns whether there are no tensors.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the names of the tensors whose inputs are known, sorted.
    pub fn tensors(&self) -> Vec<&str> {
        let mut names: Vec<_> = self.by_tensor.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    /// Returns the statistics for the tensor `name`, `None` if the file has none.
    pub fn get(self: &Arc<Self>, name: &str) -> Option<Moments> {
        let input = *self.by_tensor.get(name)?;
        Some(Moments { calibration: Arc::clone(self), input })
    }

    /// Returns the quantized form of a tensor of the type `ty` that has `bytes` bytes; `None` if the file has none.
    ///
    /// # Errors
    /// [`Error::Model`] when the file has the tensor in another type or size.
    pub fn blocks_of(self: &Arc<Self>, name: &str, ty: GgmlType, bytes: u64) -> Result<Option<Blocks>> {
        let Some(StoredBlocks { of, tensor, part }) = self.quantized.get(name) else { return Ok(None) };
        if of.r#type == ty.name() && tensor.shape.as_slice() == [bytes] {
            let (calibration, offset) = (Arc::clone(self), tensor.offset);
            return Ok(Some(Blocks { calibration, of: of.clone(), offset, bytes, part: *part }));
        }
        let what = format!(
            "is quantized as {} in the calibration, and the output has it as {} of {bytes} bytes",
            of.r#type,
            ty.name()
        );
        let place = Place::file(&self.path).tensor(name);
        Err(Error::model(place, what, "Use a calibration that was made for this very model and mix"))
    }

    /// Returns the statistics for a tensor of shape `ne`, and checks that they fit the tensor.
    ///
    /// # Errors
    /// [`Error::Model`] when the statistics are for another shape, because the file then belongs to another model.
    pub fn of(self: &Arc<Self>, name: &str, ne: &[u64]) -> Result<Option<Moments>> {
        let Some(moments) = self.get(name) else { return Ok(None) };
        let dim = |i: usize| ne.get(i).copied().unwrap_or(1);
        let (n, experts) = (moments.n() as u64, moments.experts() as u64);
        if n == dim(0) && experts == dim(2) {
            return Ok(Some(moments));
        }
        let has = |n: u64, e: u64| if e == 1 { format!("{n} inputs") } else { format!("{e} x {n} inputs") };
        let what =
            format!("has the statistics of {}, the model has {}", has(n, experts), has(dim(0), dim(2)));
        let place = Place::file(&self.path).tensor(name);
        Err(Error::model(place, what, "Use the calibration that was made for this very model"))
    }
}

impl StoredBlocks {
    fn bytes(&self) -> u64 {
        self.tensor.shape.iter().product()
    }
}

impl Stored {
    fn check(input: Input, tensor: TensorInfo, part: usize, path: &Path) -> Result<Self> {
        let fail = |what: String| Err(bad(path, &tensor.name, what));
        if tensor.dtype.name() != "F32" {
            return fail(format!("is {}, not F32", tensor.dtype.name()));
        }
        let (experts, n, block, stacked) = match *tensor.shape.as_slice() {
            [n, block] => (1, n, block, false),
            [experts, n, block] => (experts, n, block, true),
            _ => return fail(format!("has the shape {:?}, not [n, block]", tensor.shape)),
        };
        if experts != input.tokens.len() as u64 {
            return fail(format!("has {experts} matrices and {} counts", input.tokens.len()));
        }
        let fits = n > 0 && block <= n && (block == n || (block > 0 && block.is_multiple_of(GRANULE as u64)));
        if !fits || n > i32::MAX as u64 {
            return fail(format!("has blocks of {block} for {n} inputs"));
        }
        // Both are below 2^31.
        Ok(Self { n: n as usize, block: block as usize, stacked, input, tensor, part })
    }
}

/// Two are equal where they are those of one input of one open file. Tensors that share an input have equal ones.
impl PartialEq for Moments {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.calibration, &other.calibration) && self.input == other.input
    }
}

impl Eq for Moments {}

impl std::hash::Hash for Moments {
    fn hash<H: Hasher>(&self, state: &mut H) {
        std::hash::Hash::hash(&(Arc::as_ptr(&self.calibration), self.input), state);
    }
}

impl Moments {
    fn stored(&self) -> &Stored {
        &self.calibration.inputs[self.input]
    }

    /// Returns the index of the input in the file.
    pub fn input(&self) -> usize {
        self.input
    }

    /// Returns the number of values of the input.
    pub fn n(&self) -> usize {
        self.stored().n
    }

    /// Returns the side of the blocks.
    pub fn block(&self) -> usize {
        self.stored().block
    }

    /// Returns the number of matrices in the stack, each of which has its own statistics; 1 for a plain matrix.
    pub fn experts(&self) -> usize {
        self.stored().input.tokens.len()
    }

    /// Returns whether these are the inputs of a stack of experts.
    pub fn is_stack(&self) -> bool {
        self.stored().stacked
    }

    /// Returns the number of tokens that an expert (0 for a plain matrix) saw.
    pub fn tokens(&self, expert: usize) -> u64 {
        self.stored().input.tokens[expert]
    }

    /// Reads the statistics of an expert (0 for a plain matrix). They take `n * block` floats of memory.
    ///
    /// # Errors
    /// [`Error::Io`] from the disk, [`Error::Format`] when the values are no second moments: not finite, a
    /// negative square, not symmetric.
    pub fn read(&self, expert: usize) -> Result<SecondMoments> {
        let Stored { n, block, .. } = *self.stored();
        let mut values = Vec::with_capacity(n * block);
        self.read_values(expert, &mut |piece| values.extend_from_slice(piece))?;
        let moments = SecondMoments { n, block, values, tokens: self.tokens(expert) };
        match fault(&moments) {
            None => Ok(moments),
            Some((at, what)) => Err(self.wrong(expert, at, what)),
        }
    }

    /// Returns `h_ii` of every expert, one after another. The blocks are read a piece at a time.
    ///
    /// # Errors
    /// As [`Moments::read`], for the values that are looked at.
    pub fn diagonal(&self) -> Result<Vec<f32>> {
        let Stored { n, block, .. } = *self.stored();
        let mut diagonal = Vec::with_capacity(n * self.experts());
        for expert in 0..self.experts() {
            let mut next = 0;
            let mut at = 0;
            let mut pick = |piece: &[f32]| {
                while next < n && next * block + next % block < at + piece.len() {
                    diagonal.push(piece[next * block + next % block - at]);
                    next += 1;
                }
                at += piece.len();
            };
            self.read_values(expert, &mut pick)?;
            let own = &diagonal[expert * n..];
            if let Some(i) = own.iter().position(|v| !(v.is_finite() && *v >= 0.0)) {
                return Err(self.wrong(expert, i * block + i % block, not_a_square(own[i])));
            }
        }
        Ok(diagonal)
    }

    /// Reads all values of an expert, a piece at a time, and compares them with their digest at the end.
    fn read_values(&self, expert: usize, take: &mut dyn FnMut(&[f32])) -> Result<()> {
        let Stored { n, block, part, .. } = *self.stored();
        let len = n * block;
        let expected = self.calibration.unread.as_ref().map(|unread| unread.parts[part + expert]);
        let mut hasher = expected.map(|_| Sha256::default());
        let mut bytes = vec![0; len.min(PIECE) * 4];
        let mut floats = Vec::with_capacity(len.min(PIECE));
        let mut done = 0;
        while done < len {
            let piece = &mut bytes[..(len - done).min(PIECE) * 4];
            let at = self.offset(expert, done);
            self.calibration.file.read_exact_from(at, piece).map_err(|source| Error::Io {
                place: self.place().at(at),
                action: "read",
                source,
                fix: "Check the disk, and that nothing writes to the file",
            })?;
            hasher.iter_mut().for_each(|hasher| hasher.update(piece));
            floats.clear();
            floats.extend(piece.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)));
            take(&floats);
            done += floats.len();
        }
        match hasher.map(Sha256::finish) == expected {
            true => Ok(()),
            false => Err(changed(self.place().at(self.offset(expert, 0)))),
        }
    }

    /// Returns the offset of a value in the file. The value is inside the file, because the header was checked.
    fn offset(&self, expert: usize, value: usize) -> u64 {
        let Stored { n, block, tensor, .. } = self.stored();
        tensor.offset + 4 * (expert as u64 * *n as u64 * *block as u64 + value as u64)
    }

    fn place(&self) -> Place {
        Place::file(&self.calibration.path).tensor(&self.stored().tensor.name)
    }

    fn wrong(&self, expert: usize, value: usize, what: String) -> Error {
        Error::format(self.place().at(self.offset(expert, value)), what, NOT_CALIBRATION)
    }
}

const DAMAGED: &str = "The file is damaged or was altered: remove the file, and make the calibration again";

fn changed(place: Place) -> Error {
    Error::format(place, "has other bytes than when the calibration was made", DAMAGED)
}

fn not_a_square(value: f32) -> String {
    format!("has {value} where the mean of squares stands")
}

/// Returns the first value that cannot be in second moments, and why.
fn fault(m: &SecondMoments) -> Option<(usize, String)> {
    if let Some(at) = m.values.iter().position(|v| !v.is_finite()) {
        return Some((at, format!("has {}, which is not finite", m.values[at])));
    }
    for (start, len) in m.blocks() {
        for i in 0..len {
            let row = (start + i) * m.block;
            if m.values[row + i] < 0.0 {
                return Some((row + i, not_a_square(m.values[row + i])));
            }
            let asymmetric = (0..i).find(|&j| m.values[row + j] != m.values[(start + j) * m.block + i]);
            if let Some(j) = asymmetric {
                return Some((row + j, "has a block that is not symmetric".into()));
            }
            if let Some(j) = (len..m.block).find(|&j| m.values[row + j] != 0.0) {
                return Some((row + j, "has values beyond its last column".into()));
            }
        }
    }
    None
}

/// Returns the input that feeds each tensor. No tensor has two inputs.
fn index(stored: &[Stored], path: &Path) -> Result<HashMap<String, usize>> {
    let mut by_tensor = HashMap::new();
    for (i, s) in stored.iter().enumerate() {
        for name in &s.input.tensors {
            if by_tensor.insert(name.clone(), i).is_some() {
                return Err(bad(path, name, "is fed by two inputs".into()));
            }
        }
    }
    Ok(by_tensor)
}

/// Reads the JSON of a header whose length has been checked.
fn header_json(file: &File, path: &Path) -> Result<Vec<u8>> {
    let read = |at, buf: &mut [u8]| file.read_exact_from(at, buf).map_err(|e| Error::io(path, "read", e));
    let mut length = [0; 8];
    read(0, &mut length)?;
    let length = u64::from_le_bytes(length).min(safetensors::MAX_HEADER);
    let mut json = vec![0; length as usize];
    read(8, &mut json)?;
    Ok(json)
}

/// Returns the identity of a file by its header.
fn digest_of(json: &[u8]) -> String {
    format!("sha256:{}", to_hex(&sha256(&[json])))
}

fn bad(path: &Path, tensor: &str, what: String) -> Error {
    Error::format(Place::file(path).tensor(tensor), what, NOT_CALIBRATION)
}
