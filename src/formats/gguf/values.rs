//! Typed metadata values. Arrays are kept compact: a vocabulary has half a million strings.

use std::collections::HashMap;

use crate::error::{Error, Result};

/// Type of a metadata value; the discriminants are the ids in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum ValueType {
    U8 = 0,
    I8 = 1,
    U16 = 2,
    I16 = 3,
    U32 = 4,
    I32 = 5,
    F32 = 6,
    Bool = 7,
    String = 8,
    Array = 9,
    U64 = 10,
    I64 = 11,
    F64 = 12,
}

/// `(type, name as gguf-py prints it, bytes of one value; 0 where that varies)`.
const TYPES: &[(ValueType, &str, usize)] = &[
    (ValueType::U8, "UINT8", 1),
    (ValueType::I8, "INT8", 1),
    (ValueType::U16, "UINT16", 2),
    (ValueType::I16, "INT16", 2),
    (ValueType::U32, "UINT32", 4),
    (ValueType::I32, "INT32", 4),
    (ValueType::F32, "FLOAT32", 4),
    (ValueType::Bool, "BOOL", 1),
    (ValueType::String, "STRING", 0),
    (ValueType::Array, "ARRAY", 0),
    (ValueType::U64, "UINT64", 8),
    (ValueType::I64, "INT64", 8),
    (ValueType::F64, "FLOAT64", 8),
];

impl ValueType {
    pub fn from_id(id: u32) -> Option<Self> {
        TYPES.get(id as usize).map(|t| t.0)
    }

    /// `UINT32`, `STRING`, ...
    pub fn from_name(name: &str) -> Option<Self> {
        TYPES.iter().find(|t| t.1 == name).map(|t| t.0)
    }

    pub fn id(self) -> u32 {
        self as u32
    }

    pub fn name(self) -> &'static str {
        TYPES[self as usize].1
    }

    /// Bytes of one value in the file; `None` for strings and arrays.
    pub fn size(self) -> Option<usize> {
        Some(TYPES[self as usize].2).filter(|&n| n > 0)
    }
}

/// A list of strings in one buffer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Strings {
    text: String,
    /// Where each string ends in `text`.
    ends: Vec<u32>,
}

impl Strings {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Bytes of all strings together.
    pub fn text_bytes(&self) -> usize {
        self.text.len()
    }

    /// # Panics
    /// If the strings together exceed 4 GiB, which no vocabulary comes near.
    pub fn push(&mut self, s: &str) {
        self.text.push_str(s);
        self.ends.push(u32::try_from(self.text.len()).expect("strings of an array exceed 4 GiB"));
    }

    pub fn get(&self, i: usize) -> Option<&str> {
        let end = *self.ends.get(i)? as usize;
        let start = if i == 0 { 0 } else { self.ends[i - 1] as usize };
        Some(&self.text[start..end])
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> {
        (0..self.len()).map(|i| self.get(i).expect("i is below the length"))
    }

    /// Takes over raw bytes cut at `ends` (not decreasing, the last at the end of the bytes); on
    /// failure the index of the first string that is not UTF-8.
    pub(super) fn from_bytes(bytes: Vec<u8>, ends: Vec<u32>) -> std::result::Result<Self, usize> {
        let holding = |byte: usize| ends.partition_point(|&end| end as usize <= byte);
        let text = String::from_utf8(bytes).map_err(|e| holding(e.utf8_error().valid_up_to()))?;
        // Together valid, each is valid exactly if no cut goes through a character.
        match ends.iter().position(|&end| !text.is_char_boundary(end as usize)) {
            Some(i) => Err(i),
            None => Ok(Self { text, ends }),
        }
    }
}

impl<S: AsRef<str>> FromIterator<S> for Strings {
    fn from_iter<I: IntoIterator<Item = S>>(items: I) -> Self {
        let mut strings = Self::new();
        items.into_iter().for_each(|s| strings.push(s.as_ref()));
        strings
    }
}

/// A typed array. Arrays of arrays do not occur in practice and llama.cpp refuses them; so do we.
#[derive(Debug, Clone, PartialEq)]
pub enum Array {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    F32(Vec<f32>),
    Bool(Vec<bool>),
    String(Strings),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F64(Vec<f64>),
}

impl Array {
    pub fn element_type(&self) -> ValueType {
        match self {
            Self::U8(_) => ValueType::U8,
            Self::I8(_) => ValueType::I8,
            Self::U16(_) => ValueType::U16,
            Self::I16(_) => ValueType::I16,
            Self::U32(_) => ValueType::U32,
            Self::I32(_) => ValueType::I32,
            Self::F32(_) => ValueType::F32,
            Self::Bool(_) => ValueType::Bool,
            Self::String(_) => ValueType::String,
            Self::U64(_) => ValueType::U64,
            Self::I64(_) => ValueType::I64,
            Self::F64(_) => ValueType::F64,
        }
    }

    pub fn len(&self) -> usize {
        match self {
            Self::U8(v) => v.len(),
            Self::I8(v) => v.len(),
            Self::U16(v) => v.len(),
            Self::I16(v) => v.len(),
            Self::U32(v) => v.len(),
            Self::I32(v) => v.len(),
            Self::F32(v) => v.len(),
            Self::Bool(v) => v.len(),
            Self::String(v) => v.len(),
            Self::U64(v) => v.len(),
            Self::I64(v) => v.len(),
            Self::F64(v) => v.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A metadata value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(String),
    Array(Array),
    U64(u64),
    I64(i64),
    F64(f64),
}

impl Value {
    pub fn value_type(&self) -> ValueType {
        match self {
            Self::U8(_) => ValueType::U8,
            Self::I8(_) => ValueType::I8,
            Self::U16(_) => ValueType::U16,
            Self::I16(_) => ValueType::I16,
            Self::U32(_) => ValueType::U32,
            Self::I32(_) => ValueType::I32,
            Self::F32(_) => ValueType::F32,
            Self::Bool(_) => ValueType::Bool,
            Self::String(_) => ValueType::String,
            Self::Array(_) => ValueType::Array,
            Self::U64(_) => ValueType::U64,
            Self::I64(_) => ValueType::I64,
            Self::F64(_) => ValueType::F64,
        }
    }

    /// `UINT32`, `ARRAY[STRING]`, ...
    pub fn kind(&self) -> String {
        match self {
            Self::Array(a) => format!("ARRAY[{}]", a.element_type().name()),
            other => other.value_type().name().to_string(),
        }
    }

    /// Any integer that is not negative.
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Self::U8(v) => Some(v.into()),
            Self::U16(v) => Some(v.into()),
            Self::U32(v) => Some(v.into()),
            Self::U64(v) => Some(v),
            Self::I8(v) => v.try_into().ok(),
            Self::I16(v) => v.try_into().ok(),
            Self::I32(v) => v.try_into().ok(),
            Self::I64(v) => v.try_into().ok(),
            _ => None,
        }
    }

    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            Self::F32(v) => Some(v.into()),
            Self::F64(v) => Some(v),
            _ => None,
        }
    }

    pub fn as_bool(&self) -> Option<bool> {
        if let Self::Bool(v) = self { Some(*v) } else { None }
    }

    pub fn as_str(&self) -> Option<&str> {
        if let Self::String(v) = self { Some(v) } else { None }
    }

    pub fn as_array(&self) -> Option<&Array> {
        if let Self::Array(v) = self { Some(v) } else { None }
    }
}

/// Metadata in file order, each key once.
#[derive(Debug, Clone, Default)]
pub struct KeyValues {
    entries: Vec<(String, Value)>,
    /// Key to index into `entries`.
    positions: HashMap<String, usize>,
}

/// Equal if the entries are, in the same order.
impl PartialEq for KeyValues {
    fn eq(&self, other: &Self) -> bool {
        self.entries == other.entries
    }
}

impl KeyValues {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn get(&self, key: &str) -> Option<&Value> {
        self.positions.get(key).map(|&i| &self.entries[i].1)
    }

    pub fn contains(&self, key: &str) -> bool {
        self.positions.contains_key(key)
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(k, v)| (k.as_str(), v))
    }

    /// Appends a new key.
    ///
    /// # Errors
    /// [`Error::Usage`] if the key is empty or already there.
    pub fn push(&mut self, key: impl Into<String>, value: Value) -> Result<()> {
        let key = key.into();
        if key.is_empty() {
            return Err(Error::usage("a metadata key is empty", "Name it"));
        }
        if self.contains(&key) {
            return Err(Error::usage(format!("the metadata key '{key}' is given twice"), "Give it once"));
        }
        self.positions.insert(key.clone(), self.entries.len());
        self.entries.push((key, value));
        Ok(())
    }

    /// Replaces the value of a key where it stands, or appends the key.
    pub fn set(&mut self, key: &str, value: Value) {
        match self.positions.get(key) {
            Some(&i) => self.entries[i].1 = value,
            None => {
                self.positions.insert(key.to_string(), self.entries.len());
                self.entries.push((key.to_string(), value));
            }
        }
    }

    /// Removes a key; the others keep their order.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        let at = self.positions.remove(key)?;
        let (_, value) = self.entries.remove(at);
        self.positions.values_mut().filter(|i| **i > at).for_each(|i| *i -= 1);
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn type_ids_are_their_positions() {
        for (id, t) in (0..).zip(TYPES) {
            assert_eq!(t.0.id(), id);
            assert_eq!(ValueType::from_id(id), Some(t.0));
        }
        assert_eq!(ValueType::from_id(13), None);
    }

    #[test]
    fn strings_find_the_one_that_is_not_utf8() {
        assert_eq!(Strings::from_bytes(b"ab\xffc".to_vec(), vec![1, 2, 4]), Err(2));
        // Valid together, but cut through a character.
        assert_eq!(Strings::from_bytes("aé".as_bytes().to_vec(), vec![1, 2, 3]), Err(1));
        let good = Strings::from_bytes("aé".as_bytes().to_vec(), vec![0, 1, 3, 3]).unwrap();
        assert_eq!(good.iter().collect::<Vec<_>>(), ["", "a", "é", ""]);
    }

    #[test]
    fn set_replaces_in_place_and_remove_keeps_the_order() {
        let mut kv = KeyValues::new();
        for key in ["a", "b", "c"] {
            kv.push(key, Value::U32(1)).unwrap();
        }
        assert!(kv.push("b", Value::U32(2)).is_err());
        kv.set("b", Value::Bool(true));
        assert_eq!(kv.remove("a"), Some(Value::U32(1)));
        assert_eq!(kv.get("b"), Some(&Value::Bool(true)));
        assert_eq!(kv.get("c"), Some(&Value::U32(1)));
        assert_eq!(kv.iter().map(|e| e.0).collect::<Vec<_>>(), ["b", "c"]);
    }
}
