//! Opens one file of a GGUF. Every count and size of the header is checked before memory is allocated for it.
//!
//! ```no_run
//! use srd_rs::formats::gguf::GgufFile;
//!
//! let gguf = GgufFile::open("model.gguf")?;
//! for tensor in &gguf.tensors {
//!     println!("{} {:?} {}", tensor.name, tensor.ne, tensor.ty.name());
//! }
//! # Ok::<(), srd_rs::Error>(())
//! ```

use std::collections::HashSet;
use std::fs::File;
use std::path::{Path, PathBuf};

use super::values::{Array, KeyValues, Strings, Value, ValueType};
use super::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT, MAGIC, VERSION, align_up, name_fault, tensor_bytes};
use crate::dtype::GgmlType;
use crate::error::{Error, Place, Result};
use crate::formats::source;
use crate::input::{Input, ReadAt};

/// Largest header that is read, in bytes. The limit bounds the memory that a hostile (sparse) file can take; a vocabulary of
/// 260 000 tokens with its merges needs a sixth of it.
pub const MAX_HEADER: u64 = 128 << 20;

/// Most key/values of a header. Published files have less than 200.
const MAX_KEYS: u64 = 1 << 16;

/// Fewest bytes of a key with its value: length of the key, one byte of key, type, one byte of value.
const MIN_KEY_VALUE: u64 = 8 + 1 + 4 + 1;

/// Fewest bytes of a tensor info: length of the name, one byte of name, number of dimensions, one dimension, type, offset.
const MIN_TENSOR_INFO: u64 = 8 + 1 + 4 + 8 + 4 + 8;

/// Bytes read from the file at a time.
const WINDOW: usize = 1 << 18;

const DAMAGED: &str = "The file is damaged; download or convert it again";

/// A tensor of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GgufTensor {
    /// Name of the tensor.
    pub name: String,
    /// Dimensions, innermost (length of a row) first. This is the reverse of the row-major shape.
    pub ne: Vec<u64>,
    /// Type of the values.
    pub ty: GgmlType,
    /// Offset of the first byte from the start of the file.
    pub offset: u64,
    /// Size in bytes. All bytes lie inside the file.
    pub bytes: u64,
}

/// One file of a GGUF, whose header has been read and checked. No weight has been read.
#[derive(Debug)]
pub struct GgufFile {
    /// Path of the file.
    pub path: PathBuf,
    /// The open file.
    pub file: File,
    /// What the file says of itself.
    pub header: Header,
}

/// What the file says about itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    /// Version of the format, 2 or 3.
    pub version: u32,
    /// Metadata.
    pub kv: KeyValues,
    /// Tensors in the order of the file.
    pub tensors: Vec<GgufTensor>,
    /// Offset of the data section in bytes.
    pub data_offset: u64,
    /// Every tensor begins at a multiple of this number of bytes, counted from the data section.
    pub alignment: u32,
    /// Size of the file in bytes.
    pub file_size: u64,
}

impl Header {
    /// Returns the tensor with this name.
    pub fn find(&self, name: &str) -> Option<&GgufTensor> {
        self.tensors.iter().find(|t| t.name == name)
    }
}

impl std::ops::Deref for GgufFile {
    type Target = Header;

    fn deref(&self) -> &Header {
        &self.header
    }
}

impl GgufFile {
    /// Opens a file and reads its header.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read, [`Error::Format`] if its header is not sound.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let (file, size) = source::open_regular(path)?;
        let header = read_header(&file, size, path)?;
        Ok(Self { path: path.to_path_buf(), file, header })
    }

    /// Returns the open file as an input of weights.
    ///
    /// # Errors
    /// [`Error::Io`] when no more files can be opened.
    pub fn input(&self) -> Result<Input> {
        let file = self.file.try_clone().map_err(|e| Error::io(&self.path, "open", e))?;
        Ok(Input::local(&self.path, file, self.file_size))
    }

    /// Returns the place of a tensor, for messages.
    pub fn place(&self, tensor: &GgufTensor) -> Place {
        Place::file(&self.path).tensor(&tensor.name)
    }

    /// Reads bytes of a tensor, beginning at its byte `offset`.
    ///
    /// # Errors
    /// [`Error::Usage`] if the range is not inside the tensor, [`Error::Io`] if reading fails,
    /// [`Error::Format`] if the file has become shorter since it was opened.
    pub fn read_at(&self, tensor: &GgufTensor, offset: u64, buf: &mut [u8]) -> Result<()> {
        source::read_tensor_at(&self.file, self.place(tensor), (tensor.offset, tensor.bytes), offset, buf)
    }
}

/// Reads and checks the header of a source of `size` bytes. Messages name `path`.
///
/// # Errors
/// As [`GgufFile::open`].
pub fn read_header<S: ReadAt + ?Sized>(source: &S, size: u64, path: &Path) -> Result<Header> {
    let mut r = Cursor::new(source, size, path);
    let (version, n_tensors, n_kv) = read_counts(&mut r)?;
    let kv = read_key_values(&mut r, n_kv)?;
    let alignment = alignment_of(&kv, &r)?;
    let infos = read_tensor_infos(&mut r, n_tensors)?;
    let data_offset = match infos.is_empty() {
        true => r.at(),
        false => align_up(r.at(), alignment.into())
            .filter(|&start| start <= size)
            .ok_or_else(|| r.bad(format!("the file ends before its data section, alignment {alignment}")))?,
    };
    let tensors = place_tensors(infos, data_offset, alignment, size, path)?;
    Ok(Header { version, kv, tensors, data_offset, alignment, file_size: size })
}

/// The refusal of a version that is not read. The file can be sound, so the message says which kind of file it is.
fn unread_version<S: ReadAt + ?Sized>(r: &Cursor<'_, S>, version: u32) -> Error {
    let (what, fix) = match version {
        1 => (
            "is a GGUF of version 1, which llama.cpp reads no more".into(),
            "Convert the original checkpoint",
        ),
        4..=0xffff => {
            let what = format!("is a GGUF of version {version}, and versions 2 and {VERSION} are known");
            (what, "Read it with a newer srd-rs, or convert the original checkpoint")
        }
        _ if version.swap_bytes() <= 0xffff && version != 0 => (
            "is a GGUF for big-endian machines".into(),
            "Convert the original checkpoint, or turn the bytes round",
        ),
        _ => (format!("has GGUF version {version}; versions 2 and {VERSION} are read"), DAMAGED),
    };
    Error::format(Place::file(r.path).at(4), what, fix)
}

fn read_counts<S: ReadAt + ?Sized>(r: &mut Cursor<'_, S>) -> Result<(u32, u64, u64)> {
    r.what("the magic");
    if r.take::<4>()? != MAGIC {
        return Err(r.bad_at(0, "is no GGUF file: it does not begin with 'GGUF'".into()));
    }
    r.what("the version");
    let version = u32::from_le_bytes(r.take()?);
    if version != 2 && version != VERSION {
        return Err(unread_version(r, version));
    }
    r.what("the counts");
    let n_tensors = u64::from_le_bytes(r.take()?);
    let n_kv = u64::from_le_bytes(r.take()?);
    // Both together: each of them takes bytes that follow.
    let least = n_tensors
        .checked_mul(MIN_TENSOR_INFO)
        .and_then(|t| n_kv.checked_mul(MIN_KEY_VALUE)?.checked_add(t))
        .filter(|&n| n <= r.remaining());
    if least.is_none() {
        let what = format!("{n_kv} key/values and {n_tensors} tensors do not fit into the file");
        return Err(r.bad_at(8, what));
    }
    let most = crate::formats::most_tensors(r.size);
    if n_tensors > most || n_kv > MAX_KEYS {
        let what = format!("has {n_kv} keys and {n_tensors} tensors; at most {MAX_KEYS} and {most} are read");
        return Err(r.bad_at(8, what));
    }
    Ok((version, n_tensors, n_kv))
}

fn read_key_values<S: ReadAt + ?Sized>(r: &mut Cursor<'_, S>, n: u64) -> Result<KeyValues> {
    let mut kv = KeyValues::new();
    for i in 0..n {
        r.what("a metadata key");
        let at = r.at();
        let key = r.string()?;
        if key.is_empty() {
            return Err(r.bad_at(at, format!("the key of key/value {i} is empty")));
        }
        if kv.contains(&key) {
            return Err(r.bad_at(at, format!("the key '{}' occurs twice", key.escape_debug())));
        }
        let value = read_value(r).map_err(|e| in_key(e, &key))?;
        kv.push(key, value)?;
    }
    Ok(kv)
}

/// Adds the key to a message about its value.
fn in_key(e: Error, key: &str) -> Error {
    match e {
        Error::Format { place, what, fix } => {
            let shown: String = key.chars().take(80).collect();
            Error::Format { place, what: format!("key '{}': {what}", shown.escape_debug()), fix }
        }
        other => other,
    }
}

fn read_value<S: ReadAt + ?Sized>(r: &mut Cursor<'_, S>) -> Result<Value> {
    r.what("a metadata value");
    let ty = read_type(r)?;
    Ok(match ty {
        ValueType::U8 => Value::U8(u8::from_le_bytes(r.take()?)),
        ValueType::I8 => Value::I8(i8::from_le_bytes(r.take()?)),
        ValueType::U16 => Value::U16(u16::from_le_bytes(r.take()?)),
        ValueType::I16 => Value::I16(i16::from_le_bytes(r.take()?)),
        ValueType::U32 => Value::U32(u32::from_le_bytes(r.take()?)),
        ValueType::I32 => Value::I32(i32::from_le_bytes(r.take()?)),
        ValueType::F32 => Value::F32(f32::from_le_bytes(r.take()?)),
        ValueType::Bool => Value::Bool(read_bools(r, 1)?[0]),
        ValueType::String => Value::String(r.string()?),
        ValueType::Array => Value::Array(read_array(r)?),
        ValueType::U64 => Value::U64(u64::from_le_bytes(r.take()?)),
        ValueType::I64 => Value::I64(i64::from_le_bytes(r.take()?)),
        ValueType::F64 => Value::F64(f64::from_le_bytes(r.take()?)),
    })
}

fn read_type<S: ReadAt + ?Sized>(r: &mut Cursor<'_, S>) -> Result<ValueType> {
    let at = r.at();
    let id = u32::from_le_bytes(r.take()?);
    ValueType::from_id(id).ok_or_else(|| r.bad_at(at, format!("unknown value type {id}")))
}

fn read_array<S: ReadAt + ?Sized>(r: &mut Cursor<'_, S>) -> Result<Array> {
    let at = r.at();
    let ty = read_type(r)?;
    let n = u64::from_le_bytes(r.take()?);
    Ok(match ty {
        ValueType::U8 => Array::U8(read_numbers(r, n, u8::from_le_bytes)?),
        ValueType::I8 => Array::I8(read_numbers(r, n, i8::from_le_bytes)?),
        ValueType::U16 => Array::U16(read_numbers(r, n, u16::from_le_bytes)?),
        ValueType::I16 => Array::I16(read_numbers(r, n, i16::from_le_bytes)?),
        ValueType::U32 => Array::U32(read_numbers(r, n, u32::from_le_bytes)?),
        ValueType::I32 => Array::I32(read_numbers(r, n, i32::from_le_bytes)?),
        ValueType::F32 => Array::F32(read_numbers(r, n, f32::from_le_bytes)?),
        ValueType::Bool => Array::Bool(read_bools(r, n)?),
        ValueType::String => Array::String(read_strings(r, n)?),
        ValueType::Array => return Err(r.bad_at(at, "an array of arrays, which is not supported".into())),
        ValueType::U64 => Array::U64(read_numbers(r, n, u64::from_le_bytes)?),
        ValueType::I64 => Array::I64(read_numbers(r, n, i64::from_le_bytes)?),
        ValueType::F64 => Array::F64(read_numbers(r, n, f64::from_le_bytes)?),
    })
}

fn read_numbers<S: ReadAt + ?Sized, T, const N: usize>(
    r: &mut Cursor<'_, S>,
    n: u64,
    from: impl Fn([u8; N]) -> T,
) -> Result<Vec<T>> {
    let mut left = r.room_for(n, N as u64)?;
    let mut numbers = Vec::with_capacity(left);
    while left > 0 {
        let count = left.min(WINDOW / N);
        numbers.extend(r.window(count * N)?.as_chunks::<N>().0.iter().map(|&b| from(b)));
        left -= count;
    }
    Ok(numbers)
}

fn read_bools<S: ReadAt + ?Sized>(r: &mut Cursor<'_, S>, n: u64) -> Result<Vec<bool>> {
    let at = r.at();
    let raw = read_numbers(r, n, u8::from_le_bytes)?;
    match raw.iter().position(|&b| b > 1) {
        Some(i) => Err(r.bad_at(at + i as u64, format!("a bool has the value {}", raw[i]))),
        None => Ok(raw.into_iter().map(|b| b == 1).collect()),
    }
}

fn read_strings<S: ReadAt + ?Sized>(r: &mut Cursor<'_, S>, n: u64) -> Result<Strings> {
    let at = r.at();
    let n = r.room_for(n, 8)?;
    let mut ends = Vec::with_capacity(n);
    let mut bytes = Vec::new();
    for _ in 0..n {
        r.string_bytes(&mut bytes)?;
        // Below 2^32, since the whole header is.
        ends.push(bytes.len() as u32);
    }
    Strings::from_bytes(bytes, ends).map_err(|i| r.bad_at(at, format!("string {i} is not UTF-8")))
}

fn alignment_of<S: ReadAt + ?Sized>(kv: &KeyValues, r: &Cursor<'_, S>) -> Result<u32> {
    match kv.get(ALIGNMENT_KEY) {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(Value::U32(a)) if a.is_power_of_two() => Ok(*a),
        Some(Value::U32(a)) => Err(r.bad(format!("{ALIGNMENT_KEY} is {a}, not a power of two"))),
        Some(other) => Err(r.bad(format!("{ALIGNMENT_KEY} is {}, not UINT32", other.kind()))),
    }
}

/// A tensor info as the file has it: its offset counts from the data section.
struct Info {
    tensor: GgufTensor,
    /// Offset of the info itself, for messages.
    at: u64,
}

fn read_tensor_infos<S: ReadAt + ?Sized>(r: &mut Cursor<'_, S>, n: u64) -> Result<Vec<Info>> {
    r.what("a tensor info");
    let mut infos = Vec::with_capacity(r.room_for(n, MIN_TENSOR_INFO)?);
    for i in 0..n {
        let at = r.at();
        let name = r.string().map_err(|e| in_info(e, i))?;
        if let Some(what) = name_fault(&name) {
            return Err(r.bad_at(at, format!("tensor {i} {what}")));
        }
        infos.push(read_info(r, &name, at).map_err(|e| with_tensor(e, &name))?);
    }
    Ok(infos)
}

fn in_info(e: Error, i: u64) -> Error {
    match e {
        Error::Format { place, what, fix } => {
            Error::Format { place, what: format!("the name of tensor {i}: {what}"), fix }
        }
        other => other,
    }
}

fn with_tensor(e: Error, name: &str) -> Error {
    match e {
        Error::Format { place, what, fix } => Error::Format { place: place.tensor(name), what, fix },
        other => other,
    }
}

fn read_info<S: ReadAt + ?Sized>(r: &mut Cursor<'_, S>, name: &str, at: u64) -> Result<Info> {
    let n_dims = u32::from_le_bytes(r.take()?);
    if n_dims == 0 || n_dims as usize > super::MAX_DIMS {
        return Err(r.bad_at(at, format!("has {n_dims} dimensions, not 1 to {}", super::MAX_DIMS)));
    }
    let mut ne = Vec::with_capacity(n_dims as usize);
    for _ in 0..n_dims {
        ne.push(u64::from_le_bytes(r.take()?));
    }
    let id = u32::from_le_bytes(r.take()?);
    let ty = GgmlType::from_id(id)
        .ok_or_else(|| r.bad_at(at, format!("has the type {id}, which is unknown or was removed")))?;
    let bytes = tensor_bytes(&ne, ty).map_err(|what| r.bad_at(at, what))?;
    let offset = u64::from_le_bytes(r.take()?);
    Ok(Info { tensor: GgufTensor { name: name.to_string(), ne, ty, offset, bytes }, at })
}

/// Checks that the tensors follow one another in order, with nothing but padding to the alignment between them, and makes
/// their offsets absolute.
fn place_tensors(
    infos: Vec<Info>,
    data_offset: u64,
    alignment: u32,
    size: u64,
    path: &Path,
) -> Result<Vec<GgufTensor>> {
    let names: HashSet<&str> = infos.iter().map(|i| i.tensor.name.as_str()).collect();
    let unique = names.len() == infos.len();
    drop(names);
    if !unique {
        return Err(duplicate_name(&infos, path));
    }
    let mut expected = 0u64;
    let mut tensors = Vec::with_capacity(infos.len());
    for Info { mut tensor, at } in infos {
        let wrong = |what| Error::format(Place::file(path).tensor(&tensor.name).at(at), what, DAMAGED);
        if tensor.offset != expected {
            let what = format!("lies at {} of the data, not at {expected} after the last", tensor.offset);
            return Err(wrong(what));
        }
        let end = data_offset
            .checked_add(tensor.offset)
            .and_then(|start| start.checked_add(tensor.bytes))
            .filter(|&end| end <= size);
        let Some(end) = end else {
            let what =
                format!("needs {} bytes at {} of the data, beyond the end", tensor.bytes, tensor.offset);
            return Err(wrong(what));
        };
        // Cannot overflow: the end is inside a file, far below 2^64 - 2^31.
        expected = align_up(end - data_offset, alignment.into())
            .ok_or_else(|| wrong("its padding overflows".to_string()))?;
        tensor.offset += data_offset;
        tensors.push(tensor);
    }
    Ok(tensors)
}

fn duplicate_name(infos: &[Info], path: &Path) -> Error {
    let mut seen = HashSet::new();
    let twice = infos.iter().find(|i| !seen.insert(i.tensor.name.as_str()));
    let place = match twice {
        Some(info) => Place::file(path).tensor(&info.tensor.name).at(info.at),
        None => Place::file(path),
    };
    Error::format(place, "occurs twice", DAMAGED)
}

/// Reads forwards through a window of the source, never past its end or [`MAX_HEADER`].
struct Cursor<'a, S: ?Sized> {
    source: &'a S,
    path: &'a Path,
    /// Bytes in the source.
    size: u64,
    /// Offset where reading stops: the size of the source, or less.
    limit: u64,
    /// Bytes of the source from `window_at` on.
    window: Vec<u8>,
    window_at: u64,
    /// Index of the next byte in the window.
    next: usize,
    /// What is being read, for messages.
    doing: &'static str,
}

impl<'a, S: ReadAt + ?Sized> Cursor<'a, S> {
    fn new(source: &'a S, size: u64, path: &'a Path) -> Self {
        let limit = size.min(MAX_HEADER);
        Self { source, path, size, limit, window: Vec::new(), window_at: 0, next: 0, doing: "the header" }
    }

    fn what(&mut self, doing: &'static str) {
        self.doing = doing;
    }

    fn at(&self) -> u64 {
        self.window_at + self.next as u64
    }

    fn remaining(&self) -> u64 {
        self.limit - self.at()
    }

    fn bad(&self, what: String) -> Error {
        self.bad_at(self.at(), what)
    }

    fn bad_at(&self, at: u64, what: String) -> Error {
        Error::format(Place::file(self.path).at(at), what, DAMAGED)
    }

    fn too_short(&self, wanted: impl std::fmt::Display) -> Error {
        let (doing, left) = (self.doing, self.remaining());
        let end = if self.limit < self.size { "the largest header that is read" } else { "the file" };
        self.bad(format!("{doing} takes {wanted} bytes, but {end} ends after {left}"))
    }

    /// Returns the next `n <= WINDOW` bytes.
    fn window(&mut self, n: usize) -> Result<&[u8]> {
        if self.window.len() - self.next < n {
            self.refill(n)?;
        }
        let start = self.next;
        self.next += n;
        Ok(&self.window[start..self.next])
    }

    fn refill(&mut self, n: usize) -> Result<()> {
        if n as u64 > self.remaining() {
            return Err(self.too_short(n));
        }
        let at = self.at();
        let fill = self.remaining().min(WINDOW.max(n) as u64) as usize;
        self.window.resize(fill, 0);
        self.window_at = at;
        self.next = 0;
        source::read_at(self.source, Place::file(self.path), at, &mut self.window)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.window(N)?);
        Ok(bytes)
    }

    /// Checks that `n` things of at least `each` bytes follow.
    fn room_for(&self, n: u64, each: u64) -> Result<usize> {
        match n.checked_mul(each) {
            Some(bytes) if bytes <= self.remaining() => Ok(n as usize),
            _ => Err(self.too_short(format_args!("{n} times {each}"))),
        }
    }

    /// Appends the bytes of a length-prefixed string.
    fn string_bytes(&mut self, out: &mut Vec<u8>) -> Result<()> {
        let n = u64::from_le_bytes(self.take()?);
        let mut left = self.room_for(n, 1)?;
        while left > 0 {
            let piece = left.min(WINDOW);
            out.extend_from_slice(self.window(piece)?);
            left -= piece;
        }
        Ok(())
    }

    fn string(&mut self) -> Result<String> {
        let at = self.at();
        let mut bytes = Vec::new();
        self.string_bytes(&mut bytes)?;
        String::from_utf8(bytes).map_err(|_| self.bad_at(at, format!("{} is not UTF-8", self.doing)))
    }
}
