//! Checks what llama.cpp takes for granted of the metadata of a GGUF.
//!
//! llama.cpp reads some arrays without looking at their type or length, and uses some numbers as sizes or indices. A GGUF
//! whose metadata break these rules crashes llama.cpp or worse, so such a GGUF is neither converted nor signed.
//!
//! ```
//! use srd_rs::formats::gguf::{KeyValues, Value};
//! use srd_rs::model::check::check_metadata;
//!
//! let mut metadata = KeyValues::new();
//! metadata.set("general.architecture", Value::String("llama".into()));
//! metadata.set("llama.block_count", Value::U32(u32::MAX));
//! let error = check_metadata(&metadata, [].into_iter(), "m.gguf".as_ref()).unwrap_err();
//! assert!(error.to_string().contains("'llama.block_count' is 4294967295"));
//! ```

use std::path::Path;

use crate::error::{Error, Place, Result};
use crate::formats::gguf::GgufTensor;
use crate::formats::gguf::values::{Array, KeyValues, Value};
use crate::quant::recipe::layer_of;

/// Most values of an attention head, and most rotary dimensions. Real models have up to 576.
const MAX_HEAD: u64 = 1 << 16;
/// Most layers that llama.cpp has room for.
const MAX_LAYERS: u64 = 512;
/// `LLAMA_TOKEN_TYPE_BYTE`: a token that stands for one byte.
const BYTE_TOKEN: i32 = 6;

/// Checks the metadata of a model with these tensors.
///
/// # Errors
/// [`Error::Model`], which names the key.
pub fn check_metadata<'a>(
    kv: &KeyValues,
    tensors: impl Iterator<Item = &'a GgufTensor>,
    path: &Path,
) -> Result<()> {
    let tensors: Vec<_> = tensors.collect();
    check_vocabulary(kv, &tensors).and_then(|()| check_sizes(kv, &tensors)).map_err(|what| {
        let fix = "llama.cpp cannot load such a file: convert the model again from its checkpoint";
        Error::model(Place::file(path), what, fix)
    })
}

type Checked = std::result::Result<(), String>;

fn check_vocabulary(kv: &KeyValues, tensors: &[&GgufTensor]) -> Checked {
    let tokens = match kv.get("tokenizer.ggml.tokens") {
        None => return Ok(()),
        Some(Value::Array(Array::String(tokens))) => tokens,
        Some(other) => return Err(wrong_type("tokenizer.ggml.tokens", other, "an array of strings")),
    };
    let n = tokens.len();
    let same_length = |key: &str, len: usize| match len == n {
        true => Ok(()),
        false => Err(format!("'{key}' has {len} values for {n} tokens")),
    };
    match kv.get("tokenizer.ggml.scores") {
        None => {}
        Some(Value::Array(Array::F32(scores))) => same_length("tokenizer.ggml.scores", scores.len())?,
        Some(other) => return Err(wrong_type("tokenizer.ggml.scores", other, "an array of FLOAT32")),
    }
    match kv.get("tokenizer.ggml.token_type") {
        None => {}
        Some(Value::Array(Array::I32(types))) => {
            same_length("tokenizer.ggml.token_type", types.len())?;
            let bytes = tokens.iter().zip(types).filter(|(_, ty)| **ty == BYTE_TOKEN);
            if let Some((text, _)) = bytes.into_iter().find(|(text, _)| !is_byte(text)) {
                return Err(format!(
                    "the byte token '{}' is not written as <0x00> to <0xFF>",
                    text.escape_debug()
                ));
            }
        }
        Some(other) => return Err(wrong_type("tokenizer.ggml.token_type", other, "an array of INT32")),
    }
    match kv.get("tokenizer.ggml.merges") {
        None | Some(Value::Array(Array::String(_))) => {}
        Some(other) => return Err(wrong_type("tokenizer.ggml.merges", other, "an array of strings")),
    }
    match kv.get("tokenizer.ggml.precompiled_charsmap") {
        None | Some(Value::Array(Array::U8(_) | Array::I8(_))) => {}
        Some(other) => {
            return Err(wrong_type("tokenizer.ggml.precompiled_charsmap", other, "an array of bytes"));
        }
    }
    for (key, value) in kv.iter() {
        if key.starts_with("tokenizer.ggml.") && key.ends_with("_token_id") {
            let id = value.as_u64().ok_or_else(|| wrong_type(key, value, "a token id"))?;
            if id >= n as u64 {
                return Err(format!("'{key}' is {id}, but there are {n} tokens"));
            }
        }
    }
    let rows = tensors.iter().find(|t| t.name == "token_embd.weight").and_then(|t| t.ne.get(1));
    match rows {
        Some(&rows) if rows != n as u64 => {
            Err(format!("there are {n} tokens, but token_embd.weight has {rows} rows"))
        }
        _ => Ok(()),
    }
}

fn is_byte(text: &str) -> bool {
    let digits = text.strip_prefix("<0x").and_then(|t| t.strip_suffix('>'));
    digits.is_some_and(|d| d.len() == 2 && d.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn check_sizes(kv: &KeyValues, tensors: &[&GgufTensor]) -> Checked {
    let Some(arch) = kv.get("general.architecture").and_then(Value::as_str) else { return Ok(()) };
    let key = |name: &str| format!("{arch}.{name}");
    let count = |name: &str| -> std::result::Result<Option<u64>, String> {
        match kv.get(&key(name)) {
            None => Ok(None),
            Some(value) => value.as_u64().map(Some).ok_or_else(|| wrong_type(&key(name), value, "a count")),
        }
    };
    let positive = |name: &str, limit: u64| match count(name)? {
        Some(n) if n == 0 || n > limit => Err(format!("'{}' is {n}, not 1 to {limit}", key(name))),
        _ => Ok(()),
    };
    // Every layer has at least one tensor.
    positive("block_count", MAX_LAYERS.min(tensors.len() as u64))?;
    if let Some(n) = count("block_count")? {
        check_layers(n, kv.get(&key("attention.head_count")), tensors)?;
    }
    positive("embedding_length", u64::from(u32::MAX))?;
    positive("context_length", u64::from(u32::MAX))?;
    let has_attention =
        tensors.iter().any(|t| t.name.ends_with(".attn_q.weight") || t.name.ends_with(".attn_qkv.weight"));
    if has_attention {
        for name in ["attention.head_count", "attention.head_count_kv"] {
            check_heads(&key(name), kv.get(&key(name)))?;
        }
        for name in ["attention.key_length", "attention.value_length", "rope.dimension_count"] {
            if let Some(n) = count(name)?.filter(|&n| n > MAX_HEAD) {
                return Err(format!("'{}' is {n}, more than {MAX_HEAD}", key(name)));
            }
        }
    }
    let (experts, used) = (count("expert_count")?.unwrap_or(0), count("expert_used_count")?);
    match used.filter(|&used| used > experts || (experts > 0 && used == 0)) {
        Some(used) => Err(format!("'{}' is {used} of {experts} experts", key("expert_used_count"))),
        None => Ok(()),
    }
}

/// A file that has the first layer has all layers: otherwise it is one part of a model. A draft model that predicts further
/// tokens has the last layers alone, and a model with numbers of heads of its own for each layer may have empty layers.
fn check_layers(n: u64, heads: Option<&Value>, tensors: &[&GgufTensor]) -> Checked {
    if matches!(heads, Some(Value::Array(_))) {
        return Ok(());
    }
    let mut found = vec![false; n.min(MAX_LAYERS) as usize];
    for tensor in tensors {
        if let Some(slot) = layer_of(&tensor.name).and_then(|layer| found.get_mut(layer as usize)) {
            *slot = true;
        }
    }
    match found.iter().position(|found| !found) {
        Some(layer) if found.first() == Some(&true) => Err(format!(
            "there are {n} layers, but layer {layer} has no tensor, so the file is a part of a model"
        )),
        _ => Ok(()),
    }
}

/// A number of heads is given once, or once for each layer. A layer without attention has none, but not every layer.
fn check_heads(key: &str, value: Option<&Value>) -> Checked {
    let none = match value {
        None => false,
        Some(Value::Array(Array::U32(v))) => v.iter().all(|&n| n == 0),
        Some(Value::Array(Array::I32(v))) if v.iter().any(|&n| n < 0) => true,
        Some(Value::Array(Array::I32(v))) => v.iter().all(|&n| n == 0),
        Some(value) => value.as_u64().ok_or_else(|| wrong_type(key, value, "a count"))? == 0,
    };
    if none { Err(format!("'{key}' states no heads, but the model has attention")) } else { Ok(()) }
}

fn wrong_type(key: &str, value: &Value, wanted: &str) -> String {
    format!("'{}' is {}, not {wanted}", key.escape_debug(), value.kind())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::GgmlType;
    use crate::formats::gguf::values::Strings;

    fn sound() -> (KeyValues, Vec<GgufTensor>) {
        let mut kv = KeyValues::new();
        kv.set("general.architecture", Value::String("llama".into()));
        kv.set("llama.block_count", Value::U32(2));
        kv.set("llama.attention.head_count", Value::U32(4));
        kv.set("llama.attention.head_count_kv", Value::Array(Array::I32(vec![0, 2])));
        let mut tokens = Strings::new();
        ["<s>", "<0x0A>", "a"].iter().for_each(|t| tokens.push(t));
        kv.set("tokenizer.ggml.tokens", Value::Array(Array::String(tokens)));
        kv.set("tokenizer.ggml.scores", Value::Array(Array::F32(vec![0.0; 3])));
        kv.set("tokenizer.ggml.token_type", Value::Array(Array::I32(vec![3, 6, 1])));
        kv.set("tokenizer.ggml.bos_token_id", Value::U32(0));
        let names = ["token_embd.weight", "blk.0.attn_q.weight", "blk.1.attn_q.weight"];
        let tensor = |name: &&str| GgufTensor {
            name: name.to_string(),
            ne: vec![32, 3],
            ty: GgmlType::F32,
            offset: 0,
            bytes: 0,
        };
        (kv, names.iter().map(tensor).collect())
    }

    fn fault(change: impl Fn(&mut KeyValues)) -> Option<String> {
        let (mut kv, tensors) = sound();
        change(&mut kv);
        let result = check_metadata(&kv, tensors.iter(), Path::new("m.gguf"));
        result.err().map(|e| e.to_string())
    }

    #[test]
    fn sound_metadata_pass() {
        assert_eq!(fault(|_| {}), None);
        assert_eq!(fault(|kv| drop(kv.remove("tokenizer.ggml.tokens"))), None);
    }

    #[test]
    fn metadata_that_break_llama_cpp_are_refused() {
        let strings = |texts: &[&str]| {
            let mut tokens = Strings::new();
            texts.iter().for_each(|t| tokens.push(t));
            Value::Array(Array::String(tokens))
        };
        let cases: Vec<(&str, Value, &str)> = vec![
            (
                "tokenizer.ggml.scores",
                Value::Array(Array::U8(vec![0; 3])),
                "ARRAY[UINT8], not an array of FLOAT32",
            ),
            ("tokenizer.ggml.scores", Value::Array(Array::F32(vec![0.0; 2])), "has 2 values for 3 tokens"),
            ("tokenizer.ggml.token_type", Value::Array(Array::U8(vec![1; 3])), "not an array of INT32"),
            ("tokenizer.ggml.token_type", Value::Array(Array::I32(vec![6, 6, 1])), "byte token '<s>'"),
            ("tokenizer.ggml.tokens", strings(&["<s>", "<0x-1>", "a"]), "byte token '<0x-1>'"),
            ("tokenizer.ggml.tokens", Value::U32(3), "not an array of strings"),
            ("tokenizer.ggml.merges", Value::U32(3), "not an array of strings"),
            ("tokenizer.ggml.bos_token_id", Value::U32(u32::MAX), "but there are 3 tokens"),
            ("tokenizer.ggml.eos_token_id", Value::I32(-1), "not a token id"),
            ("llama.block_count", Value::U32(0), "not 1 to 3"),
            ("llama.block_count", Value::U32(u32::MAX), "not 1 to 3"),
            ("llama.attention.head_count", Value::U32(0), "states no heads"),
            ("llama.attention.head_count_kv", Value::Array(Array::U32(vec![0, 0])), "states no heads"),
            ("llama.attention.key_length", Value::U32(i32::MAX as u32), "more than 65536"),
            ("llama.embedding_length", Value::U32(0), "'llama.embedding_length' is 0"),
            ("llama.expert_used_count", Value::U32(4), "4 of 0 experts"),
        ];
        for (key, value, message) in cases {
            let text = fault(|kv| kv.set(key, value.clone())).unwrap_or_default();
            assert!(text.contains(message), "{key}: {text}");
        }
        let longer = fault(|kv| {
            kv.set("tokenizer.ggml.tokens", strings(&["a"; 4]));
            kv.remove("tokenizer.ggml.scores");
            kv.remove("tokenizer.ggml.token_type");
        });
        assert!(longer.unwrap().contains("token_embd.weight has 3 rows"));
    }
}
