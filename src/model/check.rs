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
const WITH_MERGES: [&str; 4] = ["gpt2", "whitespace", "gemma4", "hybriddna"];
const WITHOUT_MERGES: [&str; 5] = ["llama", "bert", "t5", "rwkv", "plamo2"];
/// Values of `rope.scaling.type` that llama.cpp reads; it aborts at any other.
pub const ROPE_SCALINGS: [&str; 4] = ["none", "linear", "yarn", "longrope"];
/// Keys, behind the architecture, that llama.cpp reads with one type of GGUF and no other.
const COUNTS: [&str; 9] = [
    "vocab_size",
    "nextn_predict_layers",
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
/// Architectures whose layers have the plain matrices of attention and of a feed-forward network, with the sizes that the
/// metadata state.
const PLAIN: &str = "\
    cohere2 command-r ernie4_5 exaone exaone4 gemma gemma-embedding gemma2 gemma3 gpt-oss granite \
    hunyuan-dense internlm2 llama llama-embed mistral3 olmo2 qwen2 qwen2moe qwen2vl qwen3 qwen3moe \
    qwen3vl smollm3 stablelm starcoder2";
/// Other architectures whose embeddings are as wide as the metadata state.
const EMBEDDED: &str = "\
    afmoe apertus arctic arwkv7 bailingmoe bailingmoe2 bailingmoe3 bert bitnet bloom chameleon chatglm \
    codeshell cohere2moe dbrx deci deepseek deepseek2 deepseek2-ocr deepseek32 deepseek4 dots1 dots3note \
    dream ernie4_5-moe eurobert exaone-moe falcon falcon-h1 gemma3n gemma4 gemma4-assistant glm-dsa glm4 \
    glm4moe glm5-next gpt2 granite_swa granitehybrid granitemoe graniteswitch grok grovemoe hrm_text \
    hunyuan-moe hunyuan_vl hy_v3 hy_v4 jais jais2 jamba jina-bert-v2 kimi-k3 kimi-linear laguna lfm2 \
    lfm2moe llada llada-moe llama4 maincoder mamba mamba2 maple mellum mimo2 minicpm minicpm3 minimax-01 \
    minimax-m2 minimax-m3 mistral4 modern-bert mpt muse-glimmer nanbeige nemotron_h nemotron_h_moe neo-bert \
    nomic-bert nomic-bert-moe openelm orion paddleocr pangu-embedded phi3 phimoe plamo2 plamo3 plm \
    qwen qwen35 qwen35moe qwen3next qwen3vlmoe qwen4exp refact rnd1 rwkv6 rwkv6qwen2 rwkv7 smallthinker \
    spark2_5 starcoder step35 t5 t5encoder talkie xverse";
/// Architectures of which llama.cpp turns whole heads.
const WHOLE_ROPE: &str = "llama llama-embed";
/// Numbers that llama.cpp adds to a variance.
const EPSILONS: [&str; 3] =
    ["attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon", "attention.group_norm_epsilon"];
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
    let checked = checked.and_then(|()| check_sizes(kv, &tensors)).and_then(|()| check_shapes(kv, &tensors));
    checked.map_err(|what| {
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
            Some("suppress_tokens") => (matches!(value, Value::Array(_)), "an array"),
            _ if key == "general.file_type" => (matches!(value, Value::U32(_)), "UINT32"),
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
            &PER_LAYER,
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
    for key in EPSILONS.map(|name| format!("{arch}.{name}")) {
        if let Some(&Value::F32(value)) = kv.get(&key)
            && (value < 0.0 || value.is_nan())
        {
            return Err(format!("'{key}' is {value}, not a number of 0 or more"));
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
            let mut bytes = tokens.iter().zip(types).filter(|(_, ty)| **ty == BYTE_TOKEN);
            let kind = kv.get("tokenizer.ggml.model").and_then(Value::as_str);
            if kind == Some("bert") && bytes.next().is_some() {
                return Err("'tokenizer.ggml.model' is 'bert', but there are byte tokens".into());
            }
            if let Some((text, _)) = bytes.find(|(text, _)| !is_byte(text)) {
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
    if let (Some(n), Some(predicting)) = (count("block_count")?, count("nextn_predict_layers")?)
        && predicting > n
    {
        return Err(format!("'{}' is {predicting}, but there are {n} layers", key("nextn_predict_layers")));
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

/// Compares the matrices with the sizes that the metadata state. A size that is not stated is not compared.
fn check_shapes(kv: &KeyValues, tensors: &[&GgufTensor]) -> Checked {
    let Some(arch) = kv.get("general.architecture").and_then(Value::as_str) else { return Ok(()) };
    let is_one_of = |names: &str| names.split(' ').any(|name| name == arch);
    let is_plain = is_one_of(PLAIN);
    let count = |name: &str| kv.get(&format!("{arch}.{name}")).and_then(Value::as_u64);
    let Some(width) = count("embedding_length").filter(|_| is_plain || is_one_of(EMBEDDED)) else {
        return Ok(());
    };
    let by_name: HashMap<&str, &[u64]> = tensors.iter().map(|t| (t.name.as_str(), t.ne.as_slice())).collect();
    let fits = |name: &str, wanted: &[Option<u64>]| -> Checked {
        let Some(ne) = by_name.get(name) else { return Ok(()) };
        let size = |i: usize| ne.get(i).copied().unwrap_or(1);
        if (0..wanted.len()).all(|i| wanted[i].is_none_or(|n| n == size(i))) {
            return Ok(());
        }
        let wanted: Vec<String> = wanted.iter().map(|n| n.map_or("any".into(), |n| n.to_string())).collect();
        let wanted = wanted.join(", ");
        Err(format!("the tensor '{name}' has the shape {ne:?}, but the metadata state [{wanted}]"))
    };
    fits("token_embd.weight", &[Some(width)])?;
    // A model with a second size of heads has it in some layers.
    if !is_plain || count("attention.key_length_swa").is_some() {
        return Ok(());
    }
    for name in ["output_norm.weight", "output.weight"] {
        fits(name, &[Some(width)])?;
    }
    let of_layer = |name: &str, layer: usize| match kv.get(&format!("{arch}.{name}")) {
        Some(Value::Array(Array::U32(values))) => values.get(layer).map(|&n| u64::from(n)),
        Some(Value::Array(Array::I32(values))) => values.get(layer).and_then(|&n| u64::try_from(n).ok()),
        other => other.and_then(Value::as_u64),
    };
    let by_default = of_layer("attention.head_count", 0).filter(|&n| n > 0).map(|n| width / n);
    let key = count("attention.key_length").or(by_default);
    let value = count("attention.value_length").or(by_default);
    if let (Some(turned), Some(key)) = (count("rope.dimension_count"), key)
        && is_one_of(WHOLE_ROPE)
        && turned != key
    {
        return Err(format!("'{arch}.rope.dimension_count' is {turned}, but a head has {key} values"));
    }
    let times = |n: Option<u64>, size: Option<u64>| n?.checked_mul(size?);
    let experts = count("expert_count").filter(|&n| n > 0);
    for layer in 0..count("block_count").unwrap_or(0).min(MAX_LAYERS) as usize {
        let heads = of_layer("attention.head_count", layer);
        let key_heads = of_layer("attention.head_count_kv", layer).or(heads);
        let feed_forward = of_layer("feed_forward_length", layer);
        let (queries, keys) = (times(heads, key), times(key_heads, key));
        let (values, outputs) = (times(key_heads, value), times(heads, value));
        let width = Some(width);
        let shapes: [(&str, &[Option<u64>]); 16] = [
            ("attn_norm.weight", &[width]),
            ("ffn_norm.weight", &[width]),
            ("attn_q.weight", &[width, queries]),
            ("attn_k.weight", &[width, keys]),
            ("attn_v.weight", &[width, values]),
            ("attn_output.weight", &[outputs, width]),
            ("attn_q.bias", &[queries]),
            ("attn_k.bias", &[keys]),
            ("attn_v.bias", &[values]),
            ("ffn_gate.weight", &[width, feed_forward]),
            ("ffn_up.weight", &[width, feed_forward]),
            ("ffn_down.weight", &[feed_forward, width]),
            ("ffn_gate_inp.weight", &[width, experts]),
            ("ffn_gate_exps.weight", &[width, None, experts]),
            ("ffn_up_exps.weight", &[width, None, experts]),
            ("ffn_down_exps.weight", &[None, width, experts]),
        ];
        for (name, wanted) in shapes {
            fits(&format!("blk.{layer}.{name}"), wanted)?;
        }
    }
    Ok(())
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
        kv.set("llama.embedding_length", Value::U32(32));
        kv.set("llama.feed_forward_length", Value::U32(48));
        kv.set("llama.attention.head_count", Value::U32(4));
        kv.set("llama.attention.head_count_kv", Value::Array(Array::I32(vec![0, 2])));
        kv.set("tokenizer.ggml.model", Value::String("llama".into()));
        let mut tokens = Strings::new();
        ["<s>", "<0x0A>", "a"].iter().for_each(|t| tokens.push(t));
        kv.set("tokenizer.ggml.tokens", Value::Array(Array::String(tokens)));
        kv.set("tokenizer.ggml.scores", Value::Array(Array::F32(vec![0.0; 3])));
        kv.set("tokenizer.ggml.token_type", Value::Array(Array::I32(vec![3, 6, 1])));
        kv.set("tokenizer.ggml.bos_token_id", Value::U32(0));
        let shapes: [(&str, &[u64]); 6] = [
            ("token_embd.weight", &[32, 3]),
            ("output_norm.weight", &[32]),
            ("blk.0.attn_q.weight", &[32, 32]),
            ("blk.1.attn_q.weight", &[32, 32]),
            ("blk.1.attn_k.weight", &[32, 16]),
            ("blk.1.ffn_down.weight", &[48, 32]),
        ];
        let tensor = |(name, ne): &(&str, &[u64])| GgufTensor {
            name: name.to_string(),
            ne: ne.to_vec(),
            ty: GgmlType::F32,
            offset: 0,
            bytes: 0,
        };
        (kv, shapes.iter().map(tensor).collect())
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
            ("llama.block_count", Value::U32(0), "not 1 to 6"),
            ("llama.block_count", Value::U32(u32::MAX), "not 1 to 6"),
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
            (
                "llama.embedding_length",
                Value::U32(33),
                "'token_embd.weight' has the shape [32, 3], but the metadata state [33]",
            ),
            (
                "llama.attention.head_count",
                Value::U32(5),
                "'blk.0.attn_q.weight' has the shape [32, 32], but the metadata state [32, 30]",
            ),
            ("llama.attention.head_count", Value::U32(8), "'blk.1.attn_k.weight' has the shape [32, 16]"),
            ("llama.attention.head_count", Value::U64(4), "not a count (UINT32) or an array of counts"),
            ("llama.attention.head_count_kv", Value::U32(4), "'blk.1.attn_k.weight' has the shape [32, 16]"),
            ("llama.attention.key_length", Value::U32(16), "'blk.0.attn_q.weight' has the shape [32, 32]"),
            ("llama.feed_forward_length", Value::U32(32), "'blk.1.ffn_down.weight' has the shape [48, 32]"),
            (
                "llama.feed_forward_length",
                Value::Array(Array::U32(vec![48, 32])),
                "'blk.1.ffn_down.weight' has the shape [48, 32]",
            ),
            ("llama.attention.layer_norm_rms_epsilon", Value::F32(-1.0), "not a number of 0 or more"),
            ("llama.attention.layer_norm_rms_epsilon", Value::F32(f32::NAN), "not a number of 0 or more"),
            ("llama.rope.dimension_count", Value::U32(4), "but a head has 8 values"),
            ("llama.nextn_predict_layers", Value::U32(3), "is 3, but there are 2 layers"),
            ("llama.vocab_size", Value::U64(3), "not a count"),
            ("general.file_type", Value::I32(1), "not UINT32"),
            ("tokenizer.ggml.suppress_tokens", Value::String("x".into()), "not an array"),
            ("tokenizer.ggml.model", Value::String("bert".into()), "but there are byte tokens"),
            ("tokenizer.ggml.model", Value::String("hybriddna".into()), "there are no merges"),
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
        // What is not stated is not compared, and of an unknown architecture nothing is known.
        for key in ["embedding_length", "feed_forward_length", "attention.head_count"] {
            assert_eq!(fault(|kv| drop(kv.remove(&format!("llama.{key}")))), None, "{key}");
        }
        let unknown = fault(|kv| {
            kv.set("general.architecture", Value::String("magic".into()));
            kv.set("magic.embedding_length", Value::U32(33));
        });
        assert_eq!(unknown, None);
        let longer = fault(|kv| {
            kv.set("tokenizer.ggml.tokens", strings(&["a", "b", "c", "d"]));
            kv.remove("tokenizer.ggml.scores");
            kv.remove("tokenizer.ggml.token_type");
        });
        assert!(longer.unwrap().contains("token_embd.weight has 3 rows"));
    }
}
