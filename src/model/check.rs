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

use std::collections::HashMap;
use std::path::Path;

use crate::error::{Error, Place, Result};
use crate::formats::gguf::GgufTensor;
use crate::formats::gguf::values::{Array, KeyValues, Strings, Value};
use crate::quant::recipe::layer_of;

/// Most values of an attention head, and most rotary dimensions. Real models have up to 576.
const MAX_HEAD: u64 = 1 << 16;
/// Most layers that llama.cpp has room for.
const MAX_LAYERS: u64 = 512;
/// Most experts that llama.cpp has room for.
const MAX_EXPERTS: u64 = 1024;
/// Values of `tokenizer.ggml.model` that llama.cpp reads. Without a vocabulary, there are no tokens.
const NO_VOCABULARY: [&str; 2] = ["none", "no_vocab"];
const WITH_MERGES: [&str; 3] = ["gpt2", "whitespace", "gemma4"];
const WITHOUT_MERGES: [&str; 6] = ["llama", "bert", "t5", "rwkv", "plamo2", "hybriddna"];
/// Values of `rope.scaling.type` that llama.cpp reads; it aborts at any other.
const ROPE_SCALINGS: [&str; 4] = ["none", "linear", "yarn", "longrope"];
/// Keys, behind the architecture, that llama.cpp reads with one type of GGUF and no other.
const COUNTS: [&str; 7] = [
    "block_count",
    "embedding_length",
    "context_length",
    "expert_count",
    "attention.key_length",
    "attention.value_length",
    "rope.dimension_count",
];
const FLOATS: [&str; 4] = [
    "attention.layer_norm_rms_epsilon",
    "attention.layer_norm_epsilon",
    "rope.freq_base",
    "rope.scaling.factor",
];
/// Keys that are given once, or once for each layer.
const PER_LAYER: [&str; 4] =
    ["attention.head_count", "attention.head_count_kv", "feed_forward_length", "expert_used_count"];
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
    let checked = check_types(kv).and_then(|()| check_vocabulary(kv, &tensors));
    checked.and_then(|()| check_sizes(kv, &tensors)).map_err(|what| {
        let fix = "llama.cpp cannot load such a file: convert the model again from its checkpoint";
        Error::model(Place::file(path), what, fix)
    })
}

type Checked = std::result::Result<(), String>;

/// llama.cpp does not load a file with a key whose type is not the very one that it asks for.
fn check_types(kv: &KeyValues) -> Checked {
    for (key, value) in kv.iter() {
        let vocabulary = key.strip_prefix("tokenizer.ggml.");
        let (fits, wanted) = match vocabulary {
            Some("model" | "pre") => (matches!(value, Value::String(_)), "a string"),
            Some("token_type_count") => (matches!(value, Value::U32(_)), "UINT32"),
            Some("remove_extra_whitespaces") => (matches!(value, Value::Bool(_)), "BOOL"),
            Some(name) if name.starts_with("add_") => (matches!(value, Value::Bool(_)), "BOOL"),
            _ if matches!(key, "general.name" | "general.architecture" | "tokenizer.chat_template") => {
                (matches!(value, Value::String(_)), "a string")
            }
            _ => (true, ""),
        };
        if !fits {
            return Err(wrong_type(key, value, wanted));
        }
    }
    let Some(arch) = kv.get("general.architecture").and_then(Value::as_str) else { return Ok(()) };
    type Fits = fn(&Value) -> bool;
    let kinds: [(&[&str], Fits, &str); 5] = [
        (
            &["expert_used_count"],
            |value| matches!(value, Value::U32(_) | Value::Array(Array::U32(_) | Array::I32(_))),
            "a count (UINT32) or an array of counts",
        ),
        (&COUNTS, |value| matches!(value, Value::U32(_)), "a count (UINT32)"),
        (&FLOATS, |value| matches!(value, Value::F32(_)), "FLOAT32"),
        (&["attention.causal"], |value| matches!(value, Value::Bool(_)), "BOOL"),
        (&["rope.scaling.type"], |value| matches!(value, Value::String(_)), "a string"),
    ];
    for (names, fits, wanted) in kinds {
        for key in names.iter().map(|name| format!("{arch}.{name}")) {
            if let Some(value) = kv.get(&key).filter(|value| !fits(value)) {
                return Err(wrong_type(&key, value, wanted));
            }
        }
    }
    let key = format!("{arch}.rope.scaling.type");
    match kv.get(&key).and_then(Value::as_str).filter(|kind| !ROPE_SCALINGS.contains(kind)) {
        Some(kind) => {
            Err(format!("'{key}' is '{}', not one of {}", kind.escape_debug(), ROPE_SCALINGS.join(", ")))
        }
        None => Ok(()),
    }
}

/// The kind of the vocabulary is known, and what it is made of is there.
fn check_kind(kv: &KeyValues) -> Checked {
    let has = |key: &str| kv.get(key).is_some();
    let Some(kind) = kv.get("tokenizer.ggml.model").and_then(Value::as_str) else {
        return match has("tokenizer.ggml.tokens") {
            true => Err("there are tokens, but no 'tokenizer.ggml.model'".into()),
            false => Ok(()),
        };
    };
    if NO_VOCABULARY.contains(&kind) {
        return Ok(());
    }
    let merges = WITH_MERGES.contains(&kind);
    if !merges && !WITHOUT_MERGES.contains(&kind) {
        return Err(format!("'tokenizer.ggml.model' is '{}', which is unknown", kind.escape_debug()));
    }
    let needed: &[&str] = if merges { &["tokens", "merges"] } else { &["tokens"] };
    match needed.iter().find(|name| !has(&format!("tokenizer.ggml.{name}"))) {
        Some(name) => Err(format!("'tokenizer.ggml.model' is '{kind}', but there are no {name}")),
        None => Ok(()),
    }
}

/// llama.cpp aborts when two tokens have one text. It gives tokens without text names of their own.
fn check_texts(tokens: &Strings) -> Checked {
    let mut seen = HashMap::with_capacity(tokens.len());
    for (i, text) in tokens.iter().enumerate().filter(|(_, text)| !text.is_empty()) {
        if let Some(other) = seen.insert(text, i) {
            return Err(format!("the tokens {other} and {i} have the same text '{}'", text.escape_debug()));
        }
    }
    Ok(())
}

fn check_vocabulary(kv: &KeyValues, tensors: &[&GgufTensor]) -> Checked {
    check_kind(kv)?;
    let tokens = match kv.get("tokenizer.ggml.tokens") {
        None => return Ok(()),
        Some(Value::Array(Array::String(tokens))) => tokens,
        Some(other) => return Err(wrong_type("tokenizer.ggml.tokens", other, "an array of strings")),
    };
    check_texts(tokens)?;
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
            let &Value::U32(id) = value else { return Err(wrong_type(key, value, "a token id (UINT32)")) };
            if u64::from(id) >= n as u64 {
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
        // This model runs its layers several times, and counts each time.
        let layers = if arch == "hrm_text" {
            count("hrm.layers_per_stack")?.map_or(n, |n| n.saturating_mul(2))
        } else {
            n
        };
        check_layers(layers, kv.get(&key("attention.head_count")), tensors)?;
        for name in PER_LAYER {
            if let Some(Value::Array(values)) = kv.get(&key(name))
                && values.len() as u64 != n
            {
                return Err(format!("'{}' has {} values for {n} layers", key(name), values.len()));
            }
        }
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
    let experts = count("expert_count")?.unwrap_or(0);
    let used = match kv.get(&key("expert_used_count")) {
        // Some models have a number for each layer.
        Some(Value::Array(Array::U32(values))) => values.iter().max().map(|&n| u64::from(n)),
        Some(Value::Array(Array::I32(values))) => values.iter().max().and_then(|&n| u64::try_from(n).ok()),
        _ => count("expert_used_count")?,
    };
    if experts > MAX_EXPERTS {
        return Err(format!("'{}' is {experts}, more than {MAX_EXPERTS}", key("expert_count")));
    }
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
    let beyond = tensors.iter().find(|t| layer_of(&t.name).is_some_and(|layer| u64::from(layer) >= n));
    if let Some(tensor) = beyond {
        return Err(format!("there are {n} layers, but a tensor '{}'", tensor.name.escape_debug()));
    }
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

    fn sound() -> (KeyValues, Vec<GgufTensor>) {
        let mut kv = KeyValues::new();
        kv.set("general.architecture", Value::String("llama".into()));
        kv.set("llama.block_count", Value::U32(2));
        kv.set("llama.attention.head_count", Value::U32(4));
        kv.set("llama.attention.head_count_kv", Value::Array(Array::I32(vec![0, 2])));
        kv.set("tokenizer.ggml.model", Value::String("llama".into()));
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
        let bare = |kv: &mut KeyValues| drop(kv.remove("tokenizer.ggml.tokens"));
        assert!(fault(bare).unwrap().contains("there are no tokens"));
        let none = |kv: &mut KeyValues| {
            bare(kv);
            kv.set("tokenizer.ggml.model", Value::String("none".into()));
        };
        assert_eq!(fault(none), None);
        let nothing = |kv: &mut KeyValues| {
            bare(kv);
            kv.remove("tokenizer.ggml.model");
        };
        assert_eq!(fault(nothing), None);
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
            ("llama.expert_used_count", Value::U64(4), "not a count (UINT32) or an array of counts"),
            (
                "llama.expert_used_count",
                Value::Array(Array::F32(vec![1.0; 2])),
                "not a count (UINT32) or an array",
            ),
            ("llama.expert_used_count", Value::Array(Array::U32(vec![0, 4])), "4 of 0 experts"),
            ("llama.expert_count", Value::U32(1 << 31), "more than 1024"),
            ("llama.context_length", Value::U64(512), "not a count (UINT32)"),
            ("llama.rope.freq_base", Value::F64(1e4), "not FLOAT32"),
            ("llama.rope.scaling.type", Value::String("magic".into()), "not one of none, linear"),
            ("llama.attention.causal", Value::U32(1), "not BOOL"),
            ("llama.attention.head_count", Value::Array(Array::U32(vec![4])), "1 values for 2 layers"),
            ("llama.feed_forward_length", Value::Array(Array::U32(vec![4; 3])), "3 values for 2 layers"),
            ("llama.block_count", Value::U32(1), "1 layers, but a tensor 'blk.1.attn_q.weight'"),
            ("general.name", Value::U32(5), "not a string"),
            ("tokenizer.chat_template", strings(&["a"]), "not a string"),
            ("tokenizer.ggml.add_bos_token", Value::String("true".into()), "not BOOL"),
            ("tokenizer.ggml.add_space_prefix", Value::U8(1), "not BOOL"),
            ("tokenizer.ggml.eos_token_id", Value::U64(2), "not a token id (UINT32)"),
            ("tokenizer.ggml.model", Value::String("magic".into()), "is 'magic', which is unknown"),
            ("tokenizer.ggml.model", Value::String("gpt2".into()), "there are no merges"),
            (
                "tokenizer.ggml.tokens",
                strings(&["a", "<0x0A>", "a"]),
                "the tokens 0 and 2 have the same text 'a'",
            ),
        ];
        for (key, value, message) in cases {
            let text = fault(|kv| kv.set(key, value.clone())).unwrap_or_default();
            assert!(text.contains(message), "{key}: {text}");
        }
        let longer = fault(|kv| {
            kv.set("tokenizer.ggml.tokens", strings(&["a", "b", "c", "d"]));
            kv.remove("tokenizer.ggml.scores");
            kv.remove("tokenizer.ggml.token_type");
        });
        assert!(longer.unwrap().contains("token_embd.weight has 3 rows"));
    }
}
