//! Reads the header of one safetensors file in one pass over its JSON, and checks every fact of it.

use std::borrow::Cow;
use std::fmt;
use std::path::Path;

use serde::Deserializer as _;
use serde::de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor};

use super::{Dtype, MAX_HEADER, TensorInfo};
use crate::error::{Error, Place, Result};
use crate::formats::most_tensors;
use crate::formats::source::read_at;
use crate::input::ReadAt;

/// Bytes before the header. They hold the length of the header.
const LENGTH_BYTES: u64 = 8;

/// Most dimensions of a tensor, as in torch and NumPy.
const MAX_DIMS: usize = 64;

/// Key of the metadata, which is no tensor.
const METADATA: &str = "__metadata__";

/// Most keys of the metadata. Published files have a few, and one for each tensor at most.
const MAX_METADATA_KEYS: usize = 1 << 16;

const DAMAGED: &str = "The file is damaged; download or save it again";

const WITHOUT_METADATA: &str =
    "The keys hold notes on the file and no weights; save the file again without these keys";

/// Reads and checks the header of a file of `size` bytes. Messages name `path`. The tensors have the order of the header, and
/// their `shard` is 0.
///
/// # Errors
/// [`Error::Format`] if anything in the header is wrong, [`Error::Io`] if reading fails.
pub fn read_header<S: ReadAt + ?Sized>(file: &S, size: u64, path: &Path) -> Result<Vec<TensorInfo>> {
    let json = read_json(file, size, path)?;
    let data_start = LENGTH_BYTES + json.len() as u64;
    let entries = parse(&json, most_tensors(size), path)?;
    drop(json);
    check_coverage(&entries, data_start, size, path)?;
    entries.into_iter().map(|e| e.into_tensor(data_start, path)).collect()
}

fn read_json<S: ReadAt + ?Sized>(file: &S, size: u64, path: &Path) -> Result<Vec<u8>> {
    let bad = |at, what: String| Err(Error::format(Place::file(path).at(at), what, DAMAGED));
    if size < LENGTH_BYTES {
        return bad(0, format!("no safetensors file: {size} bytes hold no header length"));
    }
    let mut length = [0; LENGTH_BYTES as usize];
    read_at(file, Place::file(path), 0, &mut length)?;
    let length = u64::from_le_bytes(length);
    if length > size - LENGTH_BYTES {
        let rest = size - LENGTH_BYTES;
        return bad(0, format!("the header is said to have {length} bytes, but only {rest} follow"));
    }
    if length > MAX_HEADER {
        return bad(0, format!("the header has {length} bytes, more than the {MAX_HEADER} allowed"));
    }
    // At most 100 MB, and no more than the file has.
    let mut json = vec![0; length as usize];
    read_at(file, Place::file(path), LENGTH_BYTES, &mut json)?;
    if json.first() != Some(&b'{') {
        return bad(LENGTH_BYTES, "the header does not begin with '{'".into());
    }
    Ok(json)
}

/// An entry of the header. Its offsets count from the start of the data section.
struct Entry {
    name: String,
    dtype: Dtype,
    shape: Vec<u64>,
    begin: u64,
    end: u64,
}

impl Entry {
    fn into_tensor(self, data_start: u64, path: &Path) -> Result<TensorInfo> {
        let bytes = self.end - self.begin;
        let offset = data_start + self.begin;
        let wrong = |what| Error::format(Place::file(path).tensor(&self.name).at(offset), what, DAMAGED);
        match self.dtype.tensor_bytes(&self.shape) {
            Some(need) if need == bytes => {}
            Some(need) => {
                let (dtype, shape) = (self.dtype.name(), &self.shape);
                return Err(wrong(format!("{dtype} {shape:?} takes {need} bytes, but has {bytes}")));
            }
            None => return Err(wrong(format!("the size of shape {:?} is no whole u64", self.shape))),
        }
        let Self { name, dtype, shape, .. } = self;
        Ok(TensorInfo { name, dtype, shape, shard: 0, offset, bytes })
    }
}

/// Checks that the ranges follow one another without holes or overlaps, and end where the file ends.
fn check_coverage(entries: &[Entry], data_start: u64, size: u64, path: &Path) -> Result<()> {
    let data_bytes = size - data_start;
    let mut order: Vec<&Entry> = entries.iter().collect();
    order.sort_by_key(|e| (e.begin, e.end));
    let mut covered = 0;
    for e in order {
        let wrong = |what| {
            let place = Place::file(path).tensor(&e.name).at(data_start.saturating_add(e.begin));
            Err(Error::format(place, what, DAMAGED))
        };
        if e.begin > e.end {
            return wrong(format!("begins at {} of the data, after its end {}", e.begin, e.end));
        }
        if e.begin < covered {
            return wrong(format!("begins at {} of the data, inside the tensor before it", e.begin));
        }
        if e.begin > covered {
            return wrong(format!(
                "bytes {covered} to {} of the data before it belong to no tensor",
                e.begin
            ));
        }
        if e.end > data_bytes {
            return wrong(format!("ends at {} of the data, the file has {data_bytes} bytes of it", e.end));
        }
        covered = e.end;
    }
    if covered < data_bytes {
        let what = format!("{} bytes after the last tensor belong to none", data_bytes - covered);
        return Err(Error::format(Place::file(path).at(data_start + covered), what, DAMAGED));
    }
    Ok(())
}

fn parse(json: &[u8], most: u64, path: &Path) -> Result<Vec<Entry>> {
    let mut header = Header { entries: Vec::new(), current: None, most, is_flooded: false };
    let mut parser = serde_json::Deserializer::from_slice(json);
    let outcome = parser.deserialize_map(&mut header).and_then(|()| parser.end());
    if let Err(e) = outcome {
        let mut place = Place::file(path).at(LENGTH_BYTES + byte_of(json, &e));
        place.tensor = header.current;
        let fix = if header.is_flooded { WITHOUT_METADATA } else { DAMAGED };
        return Err(Error::format(place, format!("the header is not valid: {}", bare_message(&e)), fix));
    }
    let mut names: Vec<&str> = header.entries.iter().map(|e| e.name.as_str()).collect();
    names.sort_unstable();
    if let Some(pair) = names.windows(2).find(|p| p[0] == p[1]) {
        return Err(Error::format(Place::file(path).tensor(pair[0]), "is in the header twice", DAMAGED));
    }
    Ok(header.entries)
}

/// Returns the offset of an error in the JSON text, in bytes.
pub(super) fn byte_of(json: &[u8], e: &serde_json::Error) -> u64 {
    let before: usize =
        json.split_inclusive(|&b| b == b'\n').take(e.line().saturating_sub(1)).map(<[u8]>::len).sum();
    (before + e.column().saturating_sub(1)) as u64
}

/// Returns the message of serde_json without line and column, because the place has the offset in bytes.
pub(super) fn bare_message(e: &serde_json::Error) -> String {
    let text = e.to_string();
    let position = format!(" at line {} column {}", e.line(), e.column());
    text.strip_suffix(&position).unwrap_or(&text).to_string()
}

/// Visits the top-level object.
struct Header {
    entries: Vec<Entry>,
    /// Name of the entry that is being parsed, for messages.
    current: Option<String>,
    /// Most entries that are read.
    most: u64,
    /// Whether the metadata have more keys than are read.
    is_flooded: bool,
}

impl<'de> Visitor<'de> for &mut Header {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        let mut has_metadata = false;
        while let Some(name) = map.next_key::<String>()? {
            if name == METADATA {
                if std::mem::replace(&mut has_metadata, true) {
                    return Err(de::Error::custom("__metadata__ occurs twice"));
                }
                map.next_value_seed(Metadata { is_flooded: &mut self.is_flooded })?;
                continue;
            }
            if self.entries.len() as u64 == self.most {
                let what = format!("more than {} tensors in a file of this size", self.most);
                return Err(de::Error::custom(what));
            }
            self.current = Some(name.clone());
            let (dtype, shape, (begin, end)) = map.next_value_seed(Fields)?;
            self.entries.push(Entry { name, dtype, shape, begin, end });
            self.current = None;
        }
        Ok(())
    }
}

/// Visits `__metadata__`: strings, each of whose keys occurs once. Nothing of the metadata is kept.
struct Metadata<'a> {
    is_flooded: &'a mut bool,
}

impl<'de> DeserializeSeed<'de> for Metadata<'_> {
    type Value = ();

    fn deserialize<D: de::Deserializer<'de>>(self, d: D) -> std::result::Result<(), D::Error> {
        d.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Metadata<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of strings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        let mut keys = std::collections::HashSet::new();
        while let Some((key, _)) = map.next_entry::<String, Text<'de>>()? {
            if !keys.insert(key) {
                return Err(de::Error::custom("a key of __metadata__ occurs twice"));
            }
            if keys.len() > MAX_METADATA_KEYS {
                *self.is_flooded = true;
                return Err(de::Error::custom(format!("more than {MAX_METADATA_KEYS} keys of __metadata__")));
            }
        }
        Ok(())
    }
}

/// A string, borrowed where it has no escapes.
#[derive(serde::Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// Visits the object of one tensor. It has `dtype`, `shape` and `data_offsets`, each once, and nothing else.
struct Fields;

type FieldValues = (Dtype, Vec<u64>, (u64, u64));

impl<'de> DeserializeSeed<'de> for Fields {
    type Value = FieldValues;

    fn deserialize<D: de::Deserializer<'de>>(self, d: D) -> std::result::Result<FieldValues, D::Error> {
        d.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Fields {
    type Value = FieldValues;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with dtype, shape and data_offsets")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<FieldValues, A::Error> {
        let (mut dtype, mut shape, mut offsets) = (None, None, None);
        while let Some(Text(key)) = map.next_key()? {
            let repeated = match key.as_ref() {
                "dtype" => dtype.replace(parse_dtype(&map.next_value::<Text>()?.0)?).is_some(),
                "shape" => shape.replace(map.next_value_seed(Dims)?).is_some(),
                "data_offsets" => offsets.replace(map.next_value::<(u64, u64)>()?).is_some(),
                other => {
                    let what = format!("unknown field '{}'", shorten(other));
                    return Err(de::Error::custom(what));
                }
            };
            if repeated {
                return Err(de::Error::custom(format!("{key} occurs twice")));
            }
        }
        Ok((
            dtype.ok_or_else(|| de::Error::missing_field("dtype"))?,
            shape.ok_or_else(|| de::Error::missing_field("shape"))?,
            offsets.ok_or_else(|| de::Error::missing_field("data_offsets"))?,
        ))
    }
}

fn parse_dtype<E: de::Error>(name: &str) -> std::result::Result<Dtype, E> {
    Dtype::from_name(name).ok_or_else(|| E::custom(format!("unknown dtype '{}'", shorten(name))))
}

/// Visits a shape. Stops at the first dimension that is too many.
struct Dims;

impl<'de> DeserializeSeed<'de> for Dims {
    type Value = Vec<u64>;

    fn deserialize<D: de::Deserializer<'de>>(self, d: D) -> std::result::Result<Vec<u64>, D::Error> {
        d.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Dims {
    type Value = Vec<u64>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of dimensions")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<Vec<u64>, A::Error> {
        let mut dims = Vec::new();
        while let Some(dim) = seq.next_element()? {
            if dims.len() == MAX_DIMS {
                return Err(de::Error::custom(format!("a shape has more than {MAX_DIMS} dimensions")));
            }
            dims.push(dim);
        }
        Ok(dims)
    }
}

/// Prepares text of the file for a message: escapes the text and cuts it.
pub(super) fn shorten(text: &str) -> String {
    const SHOWN: usize = 60;
    let shown: String = text.chars().take(SHOWN).collect();
    let dots = if shown.len() < text.len() { "..." } else { "" };
    format!("{}{dots}", shown.escape_debug())
}
