//! Typed reading of a model's metadata.

use std::path::Path;

use crate::error::{Error, Place, Result};
use crate::formats::gguf::values::{Array, KeyValues, Value};

/// The `ARCH.*` keys of a model.
pub struct Keys<'a> {
    kv: &'a KeyValues,
    arch: &'a str,
    path: &'a Path,
}

impl<'a> Keys<'a> {
    pub fn new(kv: &'a KeyValues, arch: &'a str, path: &'a Path) -> Self {
        Self { kv, arch, path }
    }

    fn get(&self, key: &str) -> Option<&'a Value> {
        self.kv.get(&format!("{}.{key}", self.arch))
    }

    fn refuse(&self, key: &str, what: &str) -> Error {
        let what = format!("the metadata key '{}.{key}' {what}", self.arch);
        Error::model(Place::file(self.path), what, "Check that the model loads in llama.cpp")
    }

    pub fn number(&self, key: &str) -> Result<Option<f64>> {
        let value = |v: &Value| v.as_f64().or_else(|| v.as_u64().map(|n| n as f64));
        match self.get(key).map(value) {
            None => Ok(None),
            Some(Some(n)) if n.is_finite() => Ok(Some(n)),
            Some(_) => Err(self.refuse(key, "is no finite number")),
        }
    }

    pub fn count(&self, key: &str) -> Result<Option<usize>> {
        match self.get(key).map(Value::as_u64) {
            None => Ok(None),
            Some(Some(n)) if n <= 1 << 32 => Ok(Some(n as usize)),
            Some(_) => Err(self.refuse(key, "is no sensible count")),
        }
    }

    pub fn needed_count(&self, key: &str) -> Result<usize> {
        self.count(key)?.filter(|&n| n > 0).ok_or_else(|| self.refuse(key, "is missing"))
    }

    pub fn flag(&self, key: &str) -> Option<bool> {
        self.get(key).and_then(Value::as_bool)
    }

    pub fn text(&self, key: &str) -> Option<&'a str> {
        self.get(key).and_then(Value::as_str)
    }

    /// A count given once or for each of `n` layers.
    pub fn per_layer(&self, key: &str, n: usize) -> Result<Option<Vec<usize>>> {
        let listed: Vec<usize> = match self.get(key) {
            None => return Ok(None),
            Some(Value::Array(Array::U32(v))) => v.iter().map(|&c| c as usize).collect(),
            Some(Value::Array(Array::I32(v))) => v.iter().map(|&c| c.max(0) as usize).collect(),
            Some(_) => return Ok(self.count(key)?.map(|c| vec![c; n])),
        };
        if listed.len() < n {
            return Err(self.refuse(key, &format!("has {} values for {n} layers", listed.len())));
        }
        Ok(Some(listed[..n].to_vec()))
    }

    /// A flag for each of `n` layers; None where the key is no list.
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
