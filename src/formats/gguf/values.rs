//! Typed metadata values. Arrays are kept compact, because a vocabulary has up to half a million strings.
//!
//! ```
//! use srd_rs::formats::gguf::{Array, KeyValues, Strings, Value};
//!
//! let mut metadata = KeyValues::new();
//! metadata.set("general.architecture", Value::String("llama".into()));
//! let tokens: Strings = ["<s>", "</s>"].into_iter().collect();
//! metadata.set("tokenizer.ggml.tokens", Value::Array(Array::String(tokens)));
//! assert_eq!(metadata.get("tokenizer.ggml.tokens").unwrap().kind(), "ARRAY[STRING]");
//! assert_eq!(metadata.iter().next().unwrap().0, "general.architecture");
//! ```

use std::collections::HashMap;

use crate::error::{Error, Result};

/// Type of a metadata value. The discriminants are the ids in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum ValueType {
    /// An unsigned 8-bit integer.
    U8 = 0,
    /// A signed 8-bit integer.
    I8 = 1,
    /// An unsigned 16-bit integer.
    U16 = 2,
    /// A signed 16-bit integer.
    I16 = 3,
    /// An unsigned 32-bit integer.
    U32 = 4,
    /// A signed 32-bit integer.
    I32 = 5,
    /// A 32-bit float.
    F32 = 6,
    /// A truth value, one byte in the file.
    Bool = 7,
    /// UTF-8 text.
    String = 8,
    /// An array of values of one type.
    Array = 9,
    /// An unsigned 64-bit integer.
    U64 = 10,
    /// A signed 64-bit integer.
    I64 = 11,
    /// A 64-bit float.
    F64 = 12,
}

/// The type, its name in gguf-py, and the bytes of one value (0 where the size varies).
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
    /// Returns the type with this id in the file.
    pub fn from_id(id: u32) -> Option<Self> {
        TYPES.get(id as usize).map(|t| t.0)
    }

    /// Returns the type with this name, such as `UINT32` or `STRING`.
    pub fn from_name(name: &str) -> Option<Self> {
        TYPES.iter().find(|t| t.1 == name).map(|t| t.0)
    }

    /// Returns the id of the type in the file.
    pub fn id(self) -> u32 {
        self as u32
    }

    /// Returns the name of the type, such as `UINT32` or `STRING`.
    pub fn name(self) -> &'static str {
        TYPES[self as usize].1
    }

    /// Returns the bytes of one value in the file, `None` for strings and arrays.
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
    /// Makes an empty list.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the number of strings.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Returns whether there are no strings.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Returns the bytes of all strings together.
    pub fn text_bytes(&self) -> usize {
        self.text.len()
    }

    /// Appends a string.
    ///
    /// # Panics
    /// If the strings together exceed 4 GiB, which no vocabulary comes near.
    pub fn push(&mut self, s: &str) {
        self.text.push_str(s);
        self.ends.push(u32::try_from(self.text.len()).expect("strings of an array exceed 4 GiB"));
    }

    /// Returns string `i`, counted from 0.
    pub fn get(&self, i: usize) -> Option<&str> {
        let end = *self.ends.get(i)? as usize;
        let start = if i == 0 { 0 } else { self.ends[i - 1] as usize };
        Some(&self.text[start..end])
    }

    /// Returns the strings in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> {
        (0..self.len()).map(|i| self.get(i).expect("i is below the length"))
    }

    /// Takes over raw bytes that are cut at `ends`. The ends do not decrease, and the last one is the end of the bytes.
    ///
    /// # Errors
    /// The index of the first string that is not UTF-8.
    pub(super) fn from_bytes(bytes: Vec<u8>, ends: Vec<u32>) -> std::result::Result<Self, usize> {
        let holding = |byte: usize| ends.partition_point(|&end| end as usize <= byte);
        let text = String::from_utf8(bytes).map_err(|e| holding(e.utf8_error().valid_up_to()))?;
        // The bytes are valid together, so each string is valid exactly if no cut goes through a character.
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

/// A typed array. There are no arrays of arrays: llama.cpp refuses them, and models do not use them.
#[derive(Debug, Clone, PartialEq)]
pub enum Array {
    /// Unsigned 8-bit integers.
    U8(Vec<u8>),
    /// Signed 8-bit integers.
    I8(Vec<i8>),
    /// Unsigned 16-bit integers.
    U16(Vec<u16>),
    /// Signed 16-bit integers.
    I16(Vec<i16>),
    /// Unsigned 32-bit integers.
    U32(Vec<u32>),
    /// Signed 32-bit integers.
    I32(Vec<i32>),
    /// 32-bit floats.
    F32(Vec<f32>),
    /// Truth values.
    Bool(Vec<bool>),
    /// Texts.
    String(Strings),
    /// Unsigned 64-bit integers.
    U64(Vec<u64>),
    /// Signed 64-bit integers.
    I64(Vec<i64>),
    /// 64-bit floats.
    F64(Vec<f64>),
}

impl Array {
    /// Returns the type of the elements.
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

    /// Returns the number of elements.
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

    /// Returns whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A metadata value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// An unsigned 8-bit integer.
    U8(u8),
    /// A signed 8-bit integer.
    I8(i8),
    /// An unsigned 16-bit integer.
    U16(u16),
    /// A signed 16-bit integer.
    I16(i16),
    /// An unsigned 32-bit integer.
    U32(u32),
    /// A signed 32-bit integer.
    I32(i32),
    /// A 32-bit float.
    F32(f32),
    /// A truth value, one byte in the file.
    Bool(bool),
    /// UTF-8 text.
    String(String),
    /// An array of values of one type.
    Array(Array),
    /// An unsigned 64-bit integer.
    U64(u64),
    /// A signed 64-bit integer.
    I64(i64),
    /// A 64-bit float.
    F64(f64),
}

impl Value {
    /// Returns the type of the value.
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

    /// Returns the name of the type, such as `UINT32` or `ARRAY[STRING]`.
    pub fn kind(&self) -> String {
        match self {
            Self::Array(a) => format!("ARRAY[{}]", a.element_type().name()),
            other => other.value_type().name().to_string(),
        }
    }

    /// Returns the value if it is an integer that is not negative.
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

    /// Returns the value if it is a float.
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            Self::F32(v) => Some(v.into()),
            Self::F64(v) => Some(v),
            _ => None,
        }
    }

    /// Returns the value if it is a truth value.
    pub fn as_bool(&self) -> Option<bool> {
        if let Self::Bool(v) = self { Some(*v) } else { None }
    }

    /// Returns the value if it is text.
    pub fn as_str(&self) -> Option<&str> {
        if let Self::String(v) = self { Some(v) } else { None }
    }

    /// Returns the value if it is an array.
    pub fn as_array(&self) -> Option<&Array> {
        if let Self::Array(v) = self { Some(v) } else { None }
    }
}

/// Metadata: keys with values, in the order of the file. Every key occurs once.
#[derive(Debug, Clone, Default)]
pub struct KeyValues {
    entries: Vec<(String, Value)>,
    /// Index into `entries` for every key.
    positions: HashMap<String, usize>,
}

/// Two metadata are equal if they have the same entries in the same order.
impl PartialEq for KeyValues {
    fn eq(&self, other: &Self) -> bool {
        self.entries == other.entries
    }
}

impl KeyValues {
    /// Makes metadata without entries.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns the value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.positions.get(key).map(|&i| &self.entries[i].1)
    }

    /// Returns whether the key is there.
    pub fn contains(&self, key: &str) -> bool {
        self.positions.contains_key(key)
    }

    /// Returns the entries in order.
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

    /// Replaces the value of a key, whose place stays, or appends the key.
    pub fn set(&mut self, key: &str, value: Value) {
        match self.positions.get(key) {
            Some(&i) => self.entries[i].1 = value,
            None => {
                self.positions.insert(key.to_string(), self.entries.len());
                self.entries.push((key.to_string(), value));
            }
        }
    }

    /// Keeps the entries whose keys `keep` accepts, in their order.
    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.entries.retain(|(key, _)| keep(key));
        self.positions = self.entries.iter().enumerate().map(|(i, (key, _))| (key.clone(), i)).collect();
    }

    /// Removes a key and returns its value. The other keys keep their order.
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
        kv.retain(|key| key != "b");
        assert_eq!((kv.get("b"), kv.get("c"), kv.len()), (None, Some(&Value::U32(1)), 1));
    }
}
