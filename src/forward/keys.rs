//! Reads typed values from a model's metadata.

use std::path::Path;

use crate::error::{Error, Place, Result};
use crate::formats::gguf::values::{Array, KeyValues, Value};

/// Largest size (layers, heads, experts, values of a vector) that is accepted. Products of two sizes fit into 64 bits.
const MAX_SIZE: usize = 1 << 24;

/// The metadata keys of a model that begin with its architecture.
pub struct Keys<'a> {
    kv: &'a KeyValues,
    arch: &'a str,
    path: &'a Path,
}

impl<'a> Keys<'a> {
    /// Reads the keys `arch.*` of `kv`. `path` names the model in errors.
    pub fn new(kv: &'a KeyValues, arch: &'a str, path: &'a Path) -> Self {
        Self { kv, arch, path }
    }

    fn get(&self, key: &str) -> Option<&'a Value> {
        self.kv.get(&format!("{}.{key}", self.arch))
    }

    /// Returns the error that a key has a wrong value.
    pub fn refuse(&self, key: &str, what: &str) -> Error {
        let what = format!("the metadata key '{}.{key}' {what}", self.arch);
        Error::model(Place::file(self.path), what, "Check that the model loads in llama.cpp")
    }

    /// Returns a number; `None` if the key is absent.
    ///
    /// # Errors
    /// Returns [`Error::Model`] if the value is not a finite number.
    pub fn number(&self, key: &str) -> Result<Option<f64>> {
        let value = |v: &Value| v.as_f64().or_else(|| v.as_u64().map(|n| n as f64));
        match self.get(key).map(value) {
            None => Ok(None),
            Some(Some(n)) if n.is_finite() => Ok(Some(n)),
            Some(_) => Err(self.refuse(key, "is not a finite number")),
        }
    }

    /// Returns a count of tokens; `None` if the key is absent.
    ///
    /// # Errors
    /// Returns [`Error::Model`] if the value is not an integer from 0 to 2^32.
    pub fn count(&self, key: &str) -> Result<Option<usize>> {
        match self.get(key).map(Value::as_u64) {
            None => Ok(None),
            Some(Some(n)) if n <= 1 << 32 => Ok(Some(n as usize)),
            Some(_) => Err(self.refuse(key, "is not a count from 0 to 2^32")),
        }
    }

    /// Returns a size of the model (a number of layers, heads, experts or values); `None` if the key is absent.
    ///
    /// # Errors
    /// Returns [`Error::Model`] if the value is not an integer up to [`MAX_SIZE`].
    pub fn size(&self, key: &str) -> Result<Option<usize>> {
        self.count(key)?.map(|n| self.check_size(key, n)).transpose()
    }

    fn check_size(&self, key: &str, n: usize) -> Result<usize> {
        if n <= MAX_SIZE { Ok(n) } else { Err(self.refuse(key, &format!("is {n}, more than any model has"))) }
    }

    /// Returns a size that every model states.
    ///
    /// # Errors
    /// Returns [`Error::Model`] if the key is absent, or if the value is not an integer from 1 to [`MAX_SIZE`].
    pub fn required_size(&self, key: &str) -> Result<usize> {
        self.size(key)?.filter(|&n| n > 0).ok_or_else(|| self.refuse(key, "is missing or 0"))
    }

    /// Returns the numbers of pairs of M-RoPE's coordinates; `None` if the model does not have M-RoPE.
    ///
    /// # Errors
    /// Returns [`Error::Model`] if there are more than four numbers, or if a number is larger than [`MAX_SIZE`].
    pub fn sections(&self) -> Result<Option<[usize; 4]>> {
        const KEY: &str = "rope.dimension_sections";
        let listed: Vec<usize> = match self.get(KEY) {
            Some(Value::Array(Array::U32(v))) => v.iter().map(|&c| c as usize).collect(),
            Some(Value::Array(Array::I32(v))) => v.iter().map(|&c| c.max(0) as usize).collect(),
            _ => return Ok(None),
        };
        if listed.len() > 4 {
            return Err(self.refuse(KEY, "has more than four values"));
        }
        let mut sections = [0; 4];
        for (to, n) in sections.iter_mut().zip(listed) {
            *to = self.check_size(KEY, n)?;
        }
        Ok(Some(sections).filter(|s| s[0] > 0 && s[1] > 0))
    }

    /// Returns a truth value; `None` if the key is absent or has another type.
    pub fn flag(&self, key: &str) -> Option<bool> {
        self.get(key).and_then(Value::as_bool)
    }

    /// Returns a string; `None` if the key is absent or has another type.
    pub fn text(&self, key: &str) -> Option<&'a str> {
        self.get(key).and_then(Value::as_str)
    }

    /// Returns a size for each of `n` layers, which the metadata gives once or for each layer. `None` if the key is absent.
    ///
    /// # Errors
    /// Returns [`Error::Model`] if there are fewer than `n` values, or if a value is larger than [`MAX_SIZE`].
    pub fn per_layer(&self, key: &str, n: usize) -> Result<Option<Vec<usize>>> {
        let listed: Vec<usize> = match self.get(key) {
            None => return Ok(None),
            Some(Value::Array(Array::U32(v))) => v.iter().map(|&c| c as usize).collect(),
            Some(Value::Array(Array::I32(v))) => v.iter().map(|&c| c.max(0) as usize).collect(),
            Some(_) => return Ok(self.size(key)?.map(|c| vec![c; n])),
        };
        if listed.len() < n {
            return Err(self.refuse(key, &format!("has {} values for {n} layers", listed.len())));
        }
        listed[..n].iter().map(|&c| self.check_size(key, c)).collect::<Result<_>>().map(Some)
    }

    /// Returns a number for each of `n` layers, which the metadata gives once or for each layer. `key` is a whole key, without
    /// the architecture before it.
    ///
    /// # Errors
    /// Returns [`Error::Model`] if the key is absent, if there are fewer than `n` values, or if a value is not finite.
    pub fn numbers(&self, key: &str, n: usize) -> Result<Vec<f32>> {
        let listed: Vec<f32> = match self.kv.get(key) {
            Some(Value::Array(Array::F32(v))) => v.clone(),
            Some(value) => value.as_f64().map(|x| vec![x as f32; n]).unwrap_or_default(),
            None => Vec::new(),
        };
        if listed.len() < n || listed.iter().any(|x| !x.is_finite()) {
            let what = format!("the metadata key '{key}' is not a list of {n} finite numbers");
            return Err(Error::model(
                Place::file(self.path),
                what,
                "Check that the model loads in llama.cpp",
            ));
        }
        Ok(listed[..n].to_vec())
    }

    /// Returns a truth value for each of `n` layers; `None` if the key is absent or not a list.
    ///
    /// # Errors
    /// Returns [`Error::Model`] if there are fewer than `n` values.
    pub fn flags(&self, key: &str, n: usize) -> Result<Option<Vec<bool>>> {
        let listed: Vec<bool> = match self.get(key) {
            Some(Value::Array(Array::Bool(v))) => v.clone(),
            Some(Value::Array(Array::U32(v))) => v.iter().map(|&c| c != 0).collect(),
            Some(Value::Array(Array::I32(v))) => v.iter().map(|&c| c != 0).collect(),
            _ => return Ok(None),
        };
        if listed.len() < n {
            return Err(self.refuse(key, &format!("has {} values for {n} layers", listed.len())));
        }
        Ok(Some(listed[..n].to_vec()))
    }
}
