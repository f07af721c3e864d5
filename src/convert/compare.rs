//! Compares what a conversion makes with a GGUF that is there, instead of writing a second file.
//!
//! The comparison is a destination like the others: it gets the blocks of every unit, reads the same bytes of the GGUF and
//! refuses the first unit that differs. Tensors are found by name, so that a difference in the metadata, which moves all
//! tensors, does not hide whether the weights are the same. What is no tensor is compared when the GGUF is opened: the
//! header, and the padding between the tensors.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::path::Path;

use crate::convert::destination::{Destination, Finished, UnitWriter};
use crate::convert::planned::{Plan, PlannedFile};
use crate::convert::source_hashes::SourceHash;
use crate::convert::units::Unit;
use crate::error::{Error, Place, Result};
use crate::formats::axm::reader::parse_gguf_header;
use crate::formats::gguf::{Gguf, GgufFile, KeyValues};
use crate::input::ReadAt;
use crate::sign::Hash;

const FIX: &str = "The GGUF was not made from this checkpoint in this way, or it was changed afterwards";
/// Bytes of padding that are read at a time.
const PADDING: u64 = 1 << 16;

/// A GGUF, while a conversion is compared with it.
pub struct Comparison {
    gguf: Gguf,
    /// Part and index in the part of each planned tensor.
    places: HashMap<String, (usize, usize)>,
    /// The first difference outside the tensors.
    outside: Option<Error>,
}

impl Comparison {
    /// Opens the GGUF at `path`, finds every planned tensor in it, and compares everything that is no tensor.
    ///
    /// # Errors
    /// [`Error::Verification`] when a tensor is missing, superfluous, or of another type or shape; the errors of
    /// [`Gguf::open`].
    pub fn open(plan: &Plan, path: &Path) -> Result<Self> {
        let gguf = Gguf::open(path)?;
        let mut places = HashMap::new();
        for (part, file) in gguf.parts().iter().enumerate() {
            for (index, tensor) in file.tensors.iter().enumerate() {
                places.insert(tensor.name.clone(), (part, index));
            }
        }
        for planned in &plan.tensors {
            let name = &planned.bound.name;
            let Some(&(part, index)) = places.get(name) else {
                let what = "is missing, and the conversion writes it";
                return Err(Error::verification(Place::file(path).tensor(name), what, FIX));
            };
            let (file, tensor) = (&gguf.parts()[part], &gguf.parts()[part].tensors[index]);
            if (tensor.ty, &tensor.ne) != (planned.ty, &planned.bound.ne) {
                let what = format!(
                    "has the type {} and the shape {:?}, and the conversion writes {} and {:?}",
                    tensor.ty.name(),
                    tensor.ne,
                    planned.ty.name(),
                    planned.bound.ne
                );
                return Err(Error::verification(file.place(tensor), what, FIX));
            }
        }
        let planned: HashSet<_> = plan.tensors.iter().map(|t| t.bound.name.as_str()).collect();
        if let Some((part, extra)) = gguf.tensors().find(|(_, t)| !planned.contains(t.name.as_str())) {
            let place = gguf.parts()[part].place(extra);
            return Err(Error::verification(place, "is no tensor that the conversion writes", FIX));
        }
        let outside = outside(plan, &gguf)?;
        Ok(Self { gguf, places, outside })
    }
}

impl Destination for Comparison {
    fn begin<'u>(&'u self, unit: &Unit<'u>) -> Box<dyn UnitWriter + 'u> {
        let offset = unit.tensor.ty.row_bytes(unit.start).expect("units are cut at block boundaries");
        let (part, index) = self.places[&unit.tensor.bound.name];
        Box::new(Compared { file: &self.gguf.parts()[part], index, offset, found: Vec::new() })
    }

    fn finish(self: Box<Self>, _: &[SourceHash]) -> Result<Finished> {
        match self.outside {
            Some(error) => Err(error),
            None => Ok(Finished { sinks: Vec::new(), sealed: None }),
        }
    }
}

/// A unit that is compared.
struct Compared<'u> {
    file: &'u GgufFile,
    /// Index of the tensor in the file.
    index: usize,
    /// Offset of the next byte in the tensor.
    offset: u64,
    found: Vec<u8>,
}

impl UnitWriter for Compared<'_> {
    fn write(&mut self, blocks: &[u8]) -> Result<()> {
        let tensor = &self.file.tensors[self.index];
        self.found.resize(blocks.len(), 0);
        self.file.read_at(tensor, self.offset, &mut self.found)?;
        if self.found != blocks {
            let at = self.found.iter().zip(blocks).position(|(a, b)| a != b).expect("the bytes differ");
            let within = self.offset + at as u64;
            let what = format!(
                "differs from the conversion: byte {within} of its {} bytes is {}, and {} was made",
                tensor.bytes, self.found[at], blocks[at]
            );
            return Err(Error::verification(self.file.place(tensor).at(tensor.offset + within), what, FIX));
        }
        self.offset += blocks.len() as u64;
        Ok(())
    }

    fn hashes(&mut self) -> Result<Vec<Hash>> {
        Ok(Vec::new())
    }

    fn finish(self: Box<Self>) -> Result<Vec<Hash>> {
        Ok(Vec::new())
    }
}

/// The first difference outside the tensors: in the number of files, in a header, in the padding, or in the size.
fn outside(plan: &Plan, gguf: &Gguf) -> Result<Option<Error>> {
    let (planned, found) = (plan.files.len(), gguf.parts().len());
    if planned != found {
        let what = format!("consists of {found} files, and the conversion writes {planned}");
        return Ok(Some(Error::verification(Place::file(gguf.path()), what, FIX)));
    }
    for (planned, file) in plan.files.iter().zip(gguf.parts()) {
        if let Some(error) = header_difference(planned, file)? {
            return Ok(Some(error));
        }
        if planned.bytes != file.file_size {
            let what = format!("has {} bytes, and the conversion writes {}", file.file_size, planned.bytes);
            return Ok(Some(Error::verification(Place::file(&file.path), what, FIX)));
        }
        // The headers are equal, so the tensors lie where they are planned.
        let mut end = file.data_offset;
        let mut ends: Vec<_> = file.tensors.iter().map(|t| t.offset..t.offset + t.bytes).collect();
        ends.push(file.file_size..file.file_size);
        for tensor in ends {
            if let Some(error) = padding_difference(file, end..tensor.start)? {
                return Ok(Some(error));
            }
            end = tensor.end;
        }
    }
    Ok(None)
}

fn header_difference(planned: &PlannedFile, file: &GgufFile) -> Result<Option<Error>> {
    let mut found = vec![0; planned.header.len().min(file.file_size as usize)];
    file.file.read_exact_from(0, &mut found).map_err(|e| Error::io(&file.path, "read", e))?;
    if found == planned.header {
        return Ok(None);
    }
    let place = || Place::file(&file.path);
    let made = parse_gguf_header(&planned.header, planned.bytes, &file.path)?;
    let what = match different_key(&file.kv, &made.kv) {
        Some(what) => what,
        None => {
            let at = found.iter().zip(&planned.header).position(|(a, b)| a != b).unwrap_or(found.len());
            format!("the header differs from the conversion at byte {at}, with the same metadata")
        }
    };
    Ok(Some(Error::verification(
        place(),
        format!("the tensors are those of the conversion, but {what}"),
        FIX,
    )))
}

/// What differs first in the metadata, in the order of the keys of the conversion.
fn different_key(found: &KeyValues, made: &KeyValues) -> Option<String> {
    for (key, value) in made.iter() {
        match found.get(key) {
            None => return Some(format!("the metadata key '{}' is missing", key.escape_debug())),
            Some(other) if other != value => {
                return Some(format!("the metadata key '{}' has another value", key.escape_debug()));
            }
            Some(_) => {}
        }
    }
    let extra = found.iter().map(|(key, _)| key).find(|key| !made.contains(key));
    extra.map(|key| format!("the conversion does not write the metadata key '{}'", key.escape_debug()))
}

/// Padding is zeros.
fn padding_difference(file: &GgufFile, range: Range<u64>) -> Result<Option<Error>> {
    let mut at = range.start;
    let mut buffer = Vec::new();
    while at < range.end {
        buffer.resize((range.end - at).min(PADDING) as usize, 0);
        file.file.read_exact_from(at, &mut buffer).map_err(|e| Error::io(&file.path, "read", e))?;
        if let Some(n) = buffer.iter().position(|&byte| byte != 0) {
            let what = "lies between two tensors and is not zero";
            return Ok(Some(Error::verification(Place::file(&file.path).at(at + n as u64), what, FIX)));
        }
        at += buffer.len() as u64;
    }
    Ok(None)
}
