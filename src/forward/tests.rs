//! Tests of whole models: shapes and counts that do not fit must be errors before anything is computed with them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::*;
use crate::dtype::GgmlType;
use crate::error::Error;
use crate::formats::gguf::Gguf;
use crate::formats::gguf::values::{Array, KeyValues, Value};
use crate::formats::gguf::writer::{TensorHeader, encode_header};
use crate::model::bound::BoundModel;
use crate::progress::Progress;

/// A model that a test can spoil before it is written as a GGUF of F32 tensors.
struct Toy {
    arch: &'static str,
    keys: BTreeMap<String, Value>,
    /// Shapes in GGUF's order: the length of a row first.
    tensors: BTreeMap<String, Vec<u64>>,
    /// The tensor whose weights have errors.
    wrong: Option<String>,
}

const WIDTH: u64 = 16;

impl Toy {
    /// Two layers with 4 query heads of 4 values, 2 KV heads, a gated feed-forward network and 11 tokens.
    fn new(arch: &'static str) -> Self {
        let mut toy = Self { arch, keys: BTreeMap::new(), tensors: BTreeMap::new(), wrong: None };
        let counts = [
            ("embedding_length", WIDTH as u32),
            ("block_count", 2),
            ("attention.head_count", 4),
            ("attention.head_count_kv", 2),
            ("context_length", 64),
        ];
        counts.into_iter().for_each(|(key, n)| toy.set(key, Value::U32(n)));
        toy.set("attention.layer_norm_rms_epsilon", Value::F32(1e-5));
        toy.tensor("token_embd.weight", &[WIDTH, 11]);
        toy.tensor("output_norm.weight", &[WIDTH]);
        (0..2).for_each(|layer| toy.layer(layer));
        toy
    }

    /// Adds the tensors of a layer.
    fn layer(&mut self, layer: usize) {
        for (name, ne) in [
            ("attn_norm", &[WIDTH][..]),
            ("attn_q", &[WIDTH, 16]),
            ("attn_k", &[WIDTH, 8]),
            ("attn_v", &[WIDTH, 8]),
            ("attn_output", &[16, WIDTH]),
            ("ffn_norm", &[WIDTH]),
            ("ffn_gate", &[WIDTH, 24]),
            ("ffn_up", &[WIDTH, 24]),
            ("ffn_down", &[24, WIDTH]),
        ] {
            self.tensor(&format!("blk.{layer}.{name}.weight"), ne);
        }
    }

    /// A mixture of 4 experts, of which 2 are used, in the first layer.
    fn mixture() -> Self {
        let mut toy = Self::new("qwen3moe");
        toy.set("expert_count", Value::U32(4));
        toy.set("expert_used_count", Value::U32(2));
        for name in ["ffn_gate", "ffn_up", "ffn_down"] {
            toy.remove(&format!("blk.0.{name}.weight"));
        }
        toy.tensor("blk.0.ffn_gate_inp.weight", &[WIDTH, 4]);
        toy.tensor("blk.0.ffn_gate_exps.weight", &[WIDTH, 8, 4]);
        toy.tensor("blk.0.ffn_up_exps.weight", &[WIDTH, 8, 4]);
        toy.tensor("blk.0.ffn_down_exps.weight", &[8, WIDTH, 4]);
        toy
    }

    fn set(&mut self, key: &str, value: Value) {
        self.keys.insert(format!("{}.{key}", self.arch), value);
    }

    fn tensor(&mut self, name: &str, ne: &[u64]) {
        self.tensors.insert(name.to_string(), ne.to_vec());
    }

    fn remove(&mut self, name: &str) {
        assert!(self.tensors.remove(name).is_some(), "{name}");
    }

    fn write(&self, folder: &Path) -> PathBuf {
        let mut kv = KeyValues::new();
        kv.set("general.architecture", Value::String(self.arch.into()));
        self.keys.iter().for_each(|(key, value)| kv.set(key, value.clone()));
        let headers: Vec<TensorHeader<'_>> =
            self.tensors.iter().map(|(name, ne)| TensorHeader { name, ne, ty: GgmlType::F32 }).collect();
        let encoded = encode_header(&kv, &headers).unwrap();
        let mut bytes = encoded.bytes;
        bytes.resize(encoded.total_size as usize, 0);
        let data = encoded.tensor_offsets.iter().zip(&encoded.tensor_bytes);
        for (seed, (&offset, &len)) in data.enumerate() {
            for (i, value) in bytes[offset as usize..][..len as usize].chunks_exact_mut(4).enumerate() {
                let error = if self.wrong.as_deref() == Some(headers[seed].name) { error(i) } else { 0.0 };
                value.copy_from_slice(&(random(i + 7919 * seed) + error).to_le_bytes());
            }
        }
        let path = folder.join("toy.gguf");
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// Runs the model on two chunks. The observer checks the shapes that the pass promises.
    fn run(&self, max_memory: u64) -> crate::error::Result<Logits> {
        self.run_with(max_memory, &mut Shapes(&self.tensors))
    }

    fn run_with(&self, max_memory: u64, observer: &mut dyn Observer) -> crate::error::Result<Logits> {
        let folder = tempfile::tempdir().unwrap();
        let gguf = Gguf::open(self.write(folder.path()))?;
        let model = BoundModel::from_gguf(&gguf)?;
        let progress = Progress::default();
        let spill_folder = folder.path();
        let options = RunOptions { logits: true, ..options_of(max_memory, spill_folder, &progress) };
        let tokens = [vec![1, 2, 3, 10, 5], vec![0, 7]];
        Ok(run(&model, &tokens, observer, &options)?.expect("logits were asked for"))
    }

    /// Expects an error about the model whose text contains `message`.
    fn refused(&self, message: &str) {
        match self.run(1 << 30) {
            Err(error @ Error::Model { .. }) => {
                let text = error.to_string();
                assert!(text.contains(message), "{text}\ndoes not contain: {message}");
            }
            Err(error) => panic!("another kind of error: {error}"),
            Ok(_) => panic!("accepted, where an error with '{message}' is expected"),
        }
    }
}

/// Returns a number from -1 to 1.
fn random(i: usize) -> f32 {
    ((i as u32).wrapping_mul(0x9E37_79B9) >> 8) as f32 / (1 << 23) as f32 - 1.0
}

/// Returns the error of a weight of a wrong tensor.
fn error(i: usize) -> f32 {
    random(1_000_003 * (i + 1)) / 64.0
}

fn options_of<'a>(max_memory: u64, spill_folder: &'a Path, progress: &'a Progress) -> RunOptions<'a> {
    RunOptions { logits: false, threads: 1, max_memory, spill_folder, progress, token_weights: None }
}

/// An observer that compares what it gets with the shapes of the tensors.
struct Shapes<'a>(&'a BTreeMap<String, Vec<u64>>);

impl Observer for Shapes<'_> {
    fn inputs(&mut self, tensors: &[&str], expert: Option<usize>, n: usize, x: &[f32]) -> Result<()> {
        for name in tensors {
            let ne = &self.0[*name];
            assert_eq!((ne[0], ne.len() == 3), (n as u64, expert.is_some()), "{name}");
            assert!(x.len().is_multiple_of(n) && x.iter().all(|x| x.is_finite()), "{name}");
        }
        Ok(())
    }
}

#[test]
fn sound_models_run_and_memory_does_not_change_the_bits() {
    for toy in [Toy::new("llama"), Toy::new("qwen2"), Toy::mixture()] {
        let logits = toy.run(1 << 30).unwrap();
        assert_eq!((logits.columns, logits.values.len()), (11, 7 * 11));
        assert!(logits.values.iter().all(|x| x.is_finite()));
        let spilled = toy.run(1 << 10).unwrap();
        assert!(logits.values.iter().zip(&spilled.values).all(|(a, b)| a.to_bits() == b.to_bits()));
    }
}

/// An observer that keeps the states behind each layer, and goes on from one of them.
#[derive(Default)]
struct Keeper {
    kept: Vec<Vec<Vec<f32>>>,
    from: Option<(usize, Vec<Vec<f32>>)>,
    /// The names of the matrices whose inputs were seen behind the states.
    seen: Vec<String>,
}

impl Observer for Keeper {
    fn inputs(&mut self, tensors: &[&str], _: Option<usize>, _: usize, _: &[f32]) -> Result<()> {
        self.seen.extend(tensors.iter().map(ToString::to_string));
        Ok(())
    }

    fn layers_done(&mut self, layers: usize, states: &[&[f32]]) -> Result<()> {
        assert_eq!(layers, self.from.as_ref().map_or(0, |f| f.0) + self.kept.len() + 1);
        self.kept.push(states.iter().map(|s| s.to_vec()).collect());
        Ok(())
    }

    fn resume(&mut self, _: &Progress) -> Result<Option<(usize, Vec<Vec<f32>>)>> {
        self.seen.clear();
        Ok(self.from.clone())
    }
}

#[test]
fn a_pass_goes_on_behind_any_layer_with_the_same_bits() {
    let mut shared = Toy::new("gemma4");
    shared.set("attention.shared_kv_layers", Value::U32(1));
    shared.set("attention.key_length", Value::U32(4));
    for (toy, states) in [(Toy::new("llama"), [1, 1]), (Toy::mixture(), [1, 1]), (shared, [3, 1])] {
        let mut keeper = Keeper::default();
        let whole = toy.run_with(1 << 30, &mut keeper).unwrap();
        assert_eq!(keeper.kept.iter().map(Vec::len).collect::<Vec<_>>(), states);
        for (layer, kept) in keeper.kept.iter().enumerate() {
            // Where memory is short, the states go to a file, from which nothing is kept.
            for max_memory in [1 << 30, 1 << 10] {
                let from = Some((layer + 1, kept.clone()));
                let mut second = Keeper { from, ..Keeper::default() };
                let logits = toy.run_with(max_memory, &mut second).unwrap();
                assert!(logits.values.iter().zip(&whole.values).all(|(a, b)| a.to_bits() == b.to_bits()));
                let rest = if max_memory > 1 << 20 { &keeper.kept[layer + 1..] } else { &[] };
                assert_eq!(second.kept, rest);
                let is_of = |i: usize| move |name: &String| name.starts_with(&format!("blk.{i}."));
                assert!(
                    !second.seen.iter().any(is_of(layer))
                        && second.seen.iter().any(|n| n == "output.weight" || n == "token_embd.weight")
                );
            }
        }
    }
    for states in [vec![Vec::new(); 5], vec![Vec::new()]] {
        let mut keeper = Keeper { from: Some((1, states)), ..Keeper::default() };
        let error = Toy::new("llama").run_with(1 << 30, &mut keeper).unwrap_err();
        assert!(error.to_string().contains("another model"), "{error}");
    }
}

/// An observer that notes all inputs, by the matrices and the expert.
#[derive(Default, PartialEq, Debug)]
struct Inputs(BTreeMap<(String, Option<usize>), Vec<u32>>);

impl Observer for Inputs {
    fn inputs(&mut self, tensors: &[&str], expert: Option<usize>, _: usize, x: &[f32]) -> Result<()> {
        let noted = self.0.entry((tensors.join(" "), expert)).or_default();
        noted.extend(x.iter().map(|x| x.to_bits()));
        Ok(())
    }
}

#[test]
fn the_steps_of_shares_of_the_chunks_show_the_inputs_of_one_pass() {
    let mut shared = Toy::new("gemma4");
    shared.set("attention.shared_kv_layers", Value::U32(1));
    shared.set("attention.key_length", Value::U32(4));
    for toy in [Toy::new("llama"), Toy::mixture(), shared] {
        let folder = tempfile::tempdir().unwrap();
        let model = BoundModel::from_gguf(&Gguf::open(toy.write(folder.path())).unwrap()).unwrap();
        let tokens = [vec![1, 2, 3, 10, 5], vec![0, 7], vec![4, 4, 9]];
        let (progress, spill_folder) = (Progress::default(), folder.path());
        let options = |max_memory| options_of(max_memory, spill_folder, &progress);
        let mut whole = Inputs::default();
        run(&model, &tokens, &mut whole, &options(1 << 30)).unwrap();
        // Where memory is short, the states come from a file.
        for max_memory in [1 << 30, 1 << 10] {
            let (mut found, steps) = (Inputs::default(), steps(&model).unwrap());
            assert_eq!(steps, 3);
            let mut states = [Vec::new(), Vec::new()];
            for number in 0..steps {
                for (share, states) in [&tokens[..1], &tokens[1..]].into_iter().zip(&mut states) {
                    let step = Step { number, longest: 5, states: std::mem::take(states) };
                    *states = run_step(&model, share, step, &mut found, &options(max_memory)).unwrap();
                }
            }
            assert_eq!(found, whole);
            let beyond = Step { number: steps, longest: 5, states: Vec::new() };
            assert!(run_step(&model, &tokens, beyond, &mut found, &options(max_memory)).is_err());
            let wrong = Step { number: 1, longest: 5, states: vec![vec![0.0]] };
            assert!(run_step(&model, &tokens, wrong, &mut found, &options(max_memory)).is_err());
        }
    }
}

#[test]
fn variants_that_compute_layer_by_layer_together_have_the_logits_of_their_own_passes() {
    for toy in [Toy::new("llama"), Toy::mixture()] {
        let folder = tempfile::tempdir().unwrap();
        let model = BoundModel::from_gguf(&Gguf::open(toy.write(folder.path())).unwrap()).unwrap();
        let tokens = [vec![1, 2, 3, 10, 5], vec![0, 7]];
        let half = |name: &str| name.contains("attn_v").then_some(Rounding { ty: GgmlType::F16, share: 0.5 });
        let whole = |name: &str| name.contains("ffn").then_some(GgmlType::BF16.into());
        let variants: [Rounded; 3] = [&|_| None, &half, &whole];
        // Where memory is short, the states lie in files, and the chunks are groups of their own.
        for max_memory in [1 << 30, 1 << 10] {
            let progress = Progress::default();
            let options = options_of(max_memory, folder.path(), &progress);
            let options = RunOptions { logits: true, threads: 2, ..options };
            let mut found = Vec::new();
            let mut keep = |number: usize, logits: Logits| {
                found.push((number, logits.values));
                Ok(())
            };
            run_variants(&model, &tokens, &variants, &options, &mut keep).unwrap();
            assert_eq!(progress.done(), progress.total());
            for (number, rounded) in variants.iter().enumerate() {
                let own = run_rounded(&model, &tokens, &mut NoObserver, &options, rounded).unwrap().unwrap();
                assert_eq!(found[number], (number, own.values));
            }
            assert!(found[0].1 != found[1].1 && found[0].1 != found[2].1 && found[1].1 != found[2].1);
            assert!(run_variants(&model, &tokens, &[], &options, &mut |_, _| unreachable!()).is_ok());
        }
    }
}

#[test]
fn a_network_with_xielu_has_neither_a_gate_nor_experts() {
    let mut toy = Toy::new("apertus");
    for (name, x) in [("alpha_n", 0.8), ("alpha_p", 0.8), ("beta", 0.5), ("eps", -1e-6)] {
        toy.keys.insert(format!("xielu.{name}"), Value::F32(x));
    }
    let message = |toy: &Toy| toy.run(1 << 30).unwrap_err().to_string();
    assert!(message(&toy).contains("which xIELU does not use"), "{}", message(&toy));
    (0..2).for_each(|layer| toy.remove(&format!("blk.{layer}.ffn_gate.weight")));
    assert!(toy.run(1 << 30).unwrap().values.iter().all(|x| x.is_finite()));
    toy.tensor("blk.1.ffn_up.weight", &[WIDTH, 48]);
    assert!(message(&toy).contains("which xIELU does not use"), "{}", message(&toy));
    for (name, tensor) in Toy::mixture().tensors.into_iter().filter(|(name, _)| name.contains("ffn_")) {
        toy.tensors.insert(name, tensor);
    }
    toy.set("expert_count", Value::U32(4));
    toy.set("expert_used_count", Value::U32(2));
    assert!(message(&toy).contains("cannot be xIELU"), "{}", message(&toy));
}

#[test]
fn counts_that_the_tensors_cannot_hold_are_refused() {
    for (count, message) in [(u32::MAX, "block_count"), (100, "100 layers cannot be made of 20 tensors")] {
        let mut toy = Toy::new("llama");
        toy.set("block_count", Value::U32(count));
        toy.refused(message);
    }
    let mut toy = Toy::new("llama");
    toy.set("block_count", Value::U32(3));
    toy.refused("blk.2.attn_output.weight");
    for key in ["embedding_length", "attention.head_count", "attention.key_length", "expert_count"] {
        let mut toy = Toy::new("llama");
        toy.set(key, Value::U32(u32::MAX));
        toy.refused(key);
        toy.set(key, Value::U32(1 << 24));
        toy.refused("");
    }
    let mut toy = Toy::new("llama");
    toy.set("attention.head_count_kv", Value::Array(Array::U32(vec![2, u32::MAX])));
    toy.refused("head_count_kv");
    let mut toy = Toy::new("llama");
    toy.set("expert_used_count", Value::U32(2));
    toy.refused("2 of 0 experts");
}

#[test]
fn heads_without_values_are_refused() {
    for key in ["attention.key_length", "attention.value_length"] {
        let mut toy = Toy::new("gemma4");
        toy.set(key, Value::U32(0));
        for layer in 0..2 {
            toy.remove(&format!("blk.{layer}.attn_v.weight"));
        }
        toy.refused("a head has no values");
    }
    let mut toy = Toy::new("llama");
    toy.set("attention.head_count", Value::U32(32));
    toy.set("attention.head_count_kv", Value::U32(32));
    toy.refused("a head has no values");
}

#[test]
fn missing_values_are_refused_unless_keys_can_serve() {
    let mut toy = Toy::new("gemma4");
    toy.set("attention.key_length", Value::U32(4));
    toy.remove("blk.1.attn_v.weight");
    assert!(toy.run(1 << 30).is_ok());
    toy.set("attention.value_length", Value::U32(64));
    toy.tensor("blk.0.attn_v.weight", &[WIDTH, 128]);
    for layer in 0..2 {
        toy.tensor(&format!("blk.{layer}.attn_output.weight"), &[256, WIDTH]);
    }
    toy.refused("cannot serve as 128 values");
}

#[test]
fn layers_that_share_keys_need_as_many_heads() {
    let mut toy = Toy::new("gemma4");
    toy.set("attention.shared_kv_layers", Value::U32(1));
    toy.set("attention.key_length", Value::U32(4));
    assert!(toy.run(1 << 30).is_ok());
    toy.set("attention.head_count_kv", Value::Array(Array::U32(vec![2, 4])));
    toy.refused("layer 1 has 4 KV heads, but uses the 2 KV heads of layer 0");
    toy.set("attention.head_count_kv", Value::U32(2));
    for shared in [2, 3, u32::MAX] {
        toy.set("attention.shared_kv_layers", Value::U32(shared));
        toy.refused("");
    }
}

#[test]
fn tensors_of_another_shape_are_refused() {
    let cases: &[(&str, &[u64], &str)] = &[
        ("token_embd.weight", &[8, 11], "takes 8 inputs"),
        ("output_norm.weight", &[8], "has 8 values where the model needs 16"),
        ("blk.0.attn_norm.weight", &[8], "has 8 values where the model needs 16"),
        ("blk.0.ffn_norm.weight", &[32], "has 32 values"),
        ("blk.0.attn_q.weight", &[WIDTH, 20], "has 20 outputs where the model needs 16"),
        ("blk.0.attn_q.weight", &[8, 16], "takes 8 inputs"),
        ("blk.1.attn_k.weight", &[WIDTH, 4], "has 4 outputs"),
        ("blk.1.attn_v.weight", &[WIDTH, 16], "has 16 outputs"),
        ("blk.1.attn_output.weight", &[16, 4], "has 4 outputs"),
        ("blk.1.attn_output.weight", &[20, WIDTH], "takes 20 inputs"),
        ("blk.0.ffn_gate.weight", &[WIDTH, 12], "has 12 outputs where the model needs 24"),
        ("blk.0.ffn_up.weight", &[WIDTH, 48], "has 48 outputs where the model needs 24"),
        ("blk.0.ffn_up.weight", &[8, 24], "takes 8 inputs"),
        ("blk.0.ffn_down.weight", &[2, WIDTH], "has 24 outputs where the model needs 2"),
        ("blk.0.ffn_down.weight", &[24, 65536], "has 65536 outputs where the model needs 16"),
        ("blk.0.attn_q_norm.weight", &[2], "does not fit heads of 4"),
        ("blk.0.attn_k_norm.weight", &[4, 3], "does not fit heads of 4"),
        ("blk.0.attn_q.bias", &[15], "has 15 values where the model needs 16"),
        ("output.weight", &[8, 11], "takes 8 inputs"),
        ("rope_freqs.weight", &[3], "has 3 values where the model needs 2"),
        ("blk.0.ffn_exotic.weight", &[4], "is not a tensor that the forward pass knows"),
        ("token_types.weight", &[8, 2], "takes 8 inputs"),
        ("position_embd.weight", &[8, 64], "takes 8 inputs"),
    ];
    for (name, ne, message) in cases {
        let mut toy = Toy::new("llama");
        toy.tensor(name, ne);
        toy.refused(message);
    }
    for (name, ne) in [("attn_q_norm", &[4][..]), ("attn_q_norm", &[4, 4]), ("attn_k_norm", &[8])] {
        let mut toy = Toy::new("llama");
        toy.tensor(&format!("blk.0.{name}.weight"), ne);
        assert!(toy.run(1 << 30).is_ok(), "{name} {ne:?}");
    }
}

#[test]
fn a_fused_gate_needs_twice_the_rows() {
    let mut toy = Toy::new("phi3");
    toy.remove("blk.0.ffn_gate.weight");
    toy.tensor("blk.0.ffn_up.weight", &[WIDTH, 48]);
    assert!(toy.run(1 << 30).is_ok());
    toy.tensor("blk.0.ffn_up.weight", &[WIDTH, 47]);
    toy.refused("has 47 outputs where the model needs 24");
    let mut toy = Toy::new("llama");
    for name in ["attn_q", "attn_k", "attn_v"] {
        toy.remove(&format!("blk.1.{name}.weight"));
    }
    toy.tensor("blk.1.attn_qkv.weight", &[WIDTH, 32]);
    assert!(toy.run(1 << 30).is_ok());
    toy.tensor("blk.1.attn_qkv.weight", &[WIDTH, 31]);
    toy.refused("has 31 outputs where the model needs 32");
}

#[test]
fn experts_of_another_shape_are_refused() {
    let cases: &[(&str, &[u64], &str)] = &[
        ("ffn_gate_inp", &[WIDTH, 3], "has 3 outputs where the model needs 4"),
        ("ffn_gate_inp", &[8, 4], "takes 8 inputs"),
        ("ffn_up_exps", &[WIDTH, 4, 4], "is not a stack of 4 matrices of 8 rows"),
        ("ffn_up_exps", &[WIDTH, 8, 3], "is not a stack of 4 matrices of 8 rows"),
        ("ffn_up_exps", &[8, 8, 4], "takes 8 inputs"),
        ("ffn_gate_exps", &[WIDTH, 6, 4], "is not a stack of 4 matrices of 8 rows"),
        ("ffn_down_exps", &[8, 20, 4], "is not a stack of 4 matrices of 16 rows"),
        ("ffn_down_exps", &[4, WIDTH, 4], "is not a stack of 4 matrices of 4 rows"),
        ("ffn_gate_inp_shexp", &[WIDTH, 2], "has 2 outputs where the model needs 1"),
    ];
    for (name, ne, message) in cases {
        let mut toy = Toy::mixture();
        toy.tensor(&format!("blk.0.{name}.weight"), ne);
        if name.ends_with("_shexp") {
            toy.tensor("blk.0.ffn_gate_shexp.weight", &[WIDTH, 8]);
            toy.tensor("blk.0.ffn_up_shexp.weight", &[WIDTH, 8]);
            toy.tensor("blk.0.ffn_down_shexp.weight", &[8, WIDTH]);
        }
        toy.refused(message);
    }
    for (key, n) in [("expert_count", 5), ("expert_used_count", 5), ("expert_count", 1 << 24)] {
        let mut toy = Toy::mixture();
        toy.set(key, Value::U32(n));
        toy.refused("");
    }
}

#[test]
fn a_window_that_no_layer_uses_costs_no_memory() {
    let mut toy = Toy::new("gemma3");
    toy.set("attention.key_length_swa", Value::U32(1 << 24));
    toy.set("attention.key_length", Value::U32(4));
    assert!(toy.run(1 << 30).is_ok(), "no layer has a window");
    toy.set("attention.sliding_window", Value::U32(4));
    toy.refused("outputs where the model needs");
}

impl Toy {
    /// The first layer mixes its tokens with the given tensors instead of attention.
    fn with_mixer(
        arch: &'static str,
        sizes: &[(&'static str, u32)],
        tensors: &[(&'static str, &[u64])],
    ) -> Self {
        let mut toy = Self::new(arch);
        for name in ["attn_q", "attn_k", "attn_v", "attn_output"] {
            toy.remove(&format!("blk.0.{name}.weight"));
        }
        sizes.iter().for_each(|(key, n)| toy.set(key, Value::U32(*n)));
        tensors.iter().for_each(|(name, ne)| toy.tensor(&format!("blk.0.{name}"), ne));
        toy
    }

    /// Expects that a tensor of the first layer with each of the shapes is refused.
    fn refuses_shapes(&mut self, cases: &[(&str, &[u64], &str)]) {
        for (name, ne, message) in cases {
            let name = format!("blk.0.{name}");
            let right = self.tensors.insert(name.clone(), ne.to_vec()).unwrap();
            self.refused(message);
            self.tensors.insert(name, right);
        }
    }
}

const STATES: &[(&str, u32)] = &[
    ("ssm.conv_kernel", 3),
    ("ssm.inner_size", 16),
    ("ssm.state_size", 4),
    ("ssm.time_step_rank", 4),
    ("ssm.group_count", 2),
];

#[test]
fn state_spaces_of_another_shape_are_refused() {
    let mut toy = Toy::with_mixer(
        "granitehybrid",
        STATES,
        &[
            ("ssm_in.weight", &[WIDTH, 52]),
            ("ssm_conv1d.weight", &[3, 32]),
            ("ssm_a", &[1, 4]),
            ("ssm_d", &[1, 4]),
            ("ssm_dt.bias", &[4]),
            ("ssm_norm.weight", &[8, 2]),
            ("ssm_out.weight", &[16, WIDTH]),
        ],
    );
    assert!(toy.run(1 << 30).is_ok());
    toy.refuses_shapes(&[
        ("ssm_in.weight", &[WIDTH, 51], "has 51 outputs where the model needs 52"),
        ("ssm_conv1d.weight", &[4, 32], "has 128 values where the model needs 96"),
        ("ssm_a", &[2, 4], "has 8 values where the model needs 4"),
        ("ssm_out.weight", &[8, WIDTH], "takes 8 inputs where the model has 16"),
    ]);
    for (key, n) in [("ssm.group_count", 3), ("ssm.group_count", 0), ("ssm.time_step_rank", 0)] {
        toy.set(key, Value::U32(n));
        toy.refused("which do not fit 16 values");
        STATES.iter().for_each(|(key, n)| toy.set(key, Value::U32(*n)));
    }
    toy.set("ssm.state_size", Value::U32(1 << 20));
    toy.refused("more than any model has");
}

#[test]
fn delta_nets_of_another_shape_are_refused() {
    let mut toy = Toy::with_mixer(
        "qwen35",
        STATES,
        &[
            ("attn_qkv.weight", &[WIDTH, 32]),
            ("attn_gate.weight", &[WIDTH, 16]),
            ("ssm_beta.weight", &[WIDTH, 4]),
            ("ssm_alpha.weight", &[WIDTH, 4]),
            ("ssm_conv1d.weight", &[3, 32]),
            ("ssm_a", &[4]),
            ("ssm_dt.bias", &[4]),
            ("ssm_norm.weight", &[4]),
            ("ssm_out.weight", &[16, WIDTH]),
        ],
    );
    toy.tensor("blk.1.attn_q.weight", &[WIDTH, 32]);
    assert!(toy.run(1 << 30).is_ok());
    toy.refuses_shapes(&[
        ("attn_qkv.weight", &[WIDTH, 48], "has 48 outputs where the model needs 32"),
        ("ssm_beta.weight", &[WIDTH, 8], "has 8 outputs where the model needs 4"),
        ("ssm_norm.weight", &[16], "has 16 values where the model needs 4"),
    ]);
    toy.tensor("blk.1.attn_q.weight", &[WIDTH, 16]);
    toy.refused("has 16 outputs where the model needs 32");
    toy.tensor("blk.1.attn_q.weight", &[WIDTH, 32]);
    toy.set("ssm.group_count", Value::U32(3));
    toy.refused("which do not fit 16 values");
}

#[test]
fn latent_attention_of_another_shape_is_refused() {
    let sizes = [
        ("attention.head_count_kv", 1),
        ("attention.key_length", 10),
        ("attention.value_length", 8),
        ("attention.key_length_mla", 6),
        ("attention.value_length_mla", 5),
        ("rope.dimension_count", 2),
    ];
    let tensors: &[(&str, &[u64])] = &[
        ("attn_q.weight", &[WIDTH, 24]),
        ("attn_kv_a_mqa.weight", &[WIDTH, 10]),
        ("attn_kv_a_norm.weight", &[8]),
        ("attn_k_b.weight", &[4, 8, 4]),
        ("attn_v_b.weight", &[8, 5, 4]),
        ("attn_output.weight", &[20, WIDTH]),
    ];
    let mut toy = Toy::with_mixer("deepseek2", &sizes, tensors);
    toy.set("block_count", Value::U32(1));
    toy.tensors.retain(|name, _| !name.starts_with("blk.1."));
    assert!(toy.run(1 << 30).is_ok());
    toy.refuses_shapes(&[
        ("attn_q.weight", &[WIDTH, 16], "has 16 outputs where the model needs 24"),
        ("attn_kv_a_mqa.weight", &[WIDTH, 9], "has 9 outputs where the model needs 10"),
        ("attn_k_b.weight", &[4, 8, 3], "has 24 outputs where the model needs 32"),
        ("attn_v_b.weight", &[5, 8, 4], "takes 5 inputs where the model has 8"),
    ]);
    toy.set("rope.dimension_count", Value::U32(4));
    toy.refused("do not fit 8 compressed and 4 rotated values");
}

/// Models whose derivatives are known, with the parts that they may have.
fn with_gradients() -> Vec<Toy> {
    let plain = Toy::new("llama");
    let mut biased = Toy::new("qwen2");
    for (name, n) in [("attn_q", 16), ("attn_k", 8), ("attn_v", 8)] {
        biased.tensor(&format!("blk.0.{name}.bias"), &[n]);
    }
    let mut normed = Toy::new("qwen3");
    let mut gemma = Toy::new("gemma2");
    gemma.set("attn_logit_softcapping", Value::F32(2.0));
    gemma.set("final_logit_softcapping", Value::F32(3.0));
    gemma.set("attention.sliding_window", Value::U32(3));
    for layer in 0..2 {
        for name in ["attn_q_norm", "attn_k_norm"] {
            normed.tensor(&format!("blk.{layer}.{name}.weight"), &[4]);
        }
        for name in ["post_attention_norm", "post_ffw_norm"] {
            gemma.tensor(&format!("blk.{layer}.{name}.weight"), &[WIDTH]);
        }
    }
    let mut fused = Toy::new("phi3");
    let mut parallel = Toy::new("phi2");
    let mut layer_norm = Toy::new("starcoder2");
    for layer in 0..2 {
        let blk = format!("blk.{layer}");
        for name in ["attn_q", "attn_k", "attn_v", "ffn_gate", "ffn_up"] {
            fused.remove(&format!("{blk}.{name}.weight"));
        }
        fused.tensor(&format!("{blk}.attn_qkv.weight"), &[WIDTH, 32]);
        fused.tensor(&format!("{blk}.ffn_up.weight"), &[WIDTH, 48]);
        parallel.remove(&format!("{blk}.ffn_norm.weight"));
        for toy in [&mut parallel, &mut layer_norm] {
            toy.set("attention.layer_norm_epsilon", Value::F32(1e-5));
            toy.remove(&format!("{blk}.ffn_gate.weight"));
            toy.tensor(&format!("{blk}.attn_norm.bias"), &[WIDTH]);
            toy.tensor(&format!("{blk}.ffn_down.bias"), &[WIDTH]);
        }
        layer_norm.tensor(&format!("{blk}.ffn_norm.bias"), &[WIDTH]);
    }
    // Two layers use the keys of the first one, whose values are its keys.
    let mut shared = Toy::new("gemma4");
    shared.set("attention.shared_kv_layers", Value::U32(2));
    shared.set("attention.key_length", Value::U32(4));
    shared.set("embedding_length_per_layer_input", Value::U32(3));
    shared.tensor("per_layer_token_embd.weight", &[9, 11]);
    shared.tensor("per_layer_model_proj.weight", &[WIDTH, 9]);
    shared.tensor("per_layer_proj_norm.weight", &[3]);
    shared.set("block_count", Value::U32(3));
    shared.layer(2);
    shared.remove("blk.0.attn_v.weight");
    for layer in 0..3 {
        let blk = format!("blk.{layer}");
        shared.tensor(&format!("{blk}.inp_gate.weight"), &[WIDTH, 3]);
        shared.tensor(&format!("{blk}.proj.weight"), &[3, WIDTH]);
        shared.tensor(&format!("{blk}.post_norm.weight"), &[WIDTH]);
        shared.tensor(&format!("{blk}.layer_output_scale.weight"), &[1]);
    }
    vec![plain, biased, normed, gemma, fused, parallel, layer_norm, shared]
}

#[test]
fn the_way_back_through_the_layers_has_the_quotients_of_differences() {
    use crate::forward::groups::groups;
    use crate::forward::layer_gradient::Collected;
    use crate::forward::pass::on_pass;
    use crate::forward::spill::SpillBuffer;
    use crate::forward::streams::Seen;
    use crate::forward::token_weights::Gradients;
    use crate::forward::weights::Weights;

    let tokens = [vec![1, 2, 3, 10, 5], vec![0, 7]];
    let values = |n: usize, seed: usize| -> Vec<f32> {
        (0..n).map(|i| (((i + seed) * 7919 % 101) as f32 - 50.0) / 50.0).collect()
    };
    for toy in with_gradients() {
        let folder = tempfile::tempdir().unwrap();
        let model = BoundModel::from_gguf(&Gguf::open(toy.write(folder.path())).unwrap()).unwrap();
        assert!(has_gradient(&model).unwrap(), "{}", toy.arch);
        let progress = Progress::default();
        let (max_memory, spill_folder) = (1 << 30, folder.path());
        let options = options_of(max_memory, spill_folder, &progress);
        let weights = Weights::new(&model, &progress, max_memory);
        let (x, by) = (values(7 * WIDTH as usize, 1), values(7 * WIDTH as usize, 40));
        on_pass(&model, &tokens, Seen::By(&mut NoObserver), &options, weights, 5, |mut pass| {
            let groups = groups(&tokens, 100);
            pass.buffers(&tokens, &options, &groups)?;
            let (group, layers) = (&groups[0], &pass.model.layers);
            // The last layers, from each one on, so that a wrong derivative is found where it is.
            for first in (0..layers.len()).rev() {
                if layers[first..].iter().any(|layer| layer.kv_of.is_some_and(|of| of < first)) {
                    pass.layer(&layers[0], group, &mut x.clone())?;
                }
                let mut inputs = vec![x.clone()];
                for layer in &layers[first..] {
                    let mut next = inputs[inputs.len() - 1].clone();
                    pass.layer(layer, group, &mut next)?;
                    inputs.push(next);
                }
                let mut found = by.clone();
                let of_keys = [layers[0].head_dim, layers[0].head_dim_v]
                    .map(|n| SpillBuffer::zeros(7 * layers[0].n_head_kv * n, None).unwrap());
                let mut gradients = Gradients::new(7);
                let mut to = Collected { gradients: &mut gradients, of_keys: [(0, of_keys)].into() };
                for (layer, x) in layers[first..].iter().zip(&inputs).rev() {
                    pass.layer_gradient(layer, group, x, &mut found, &mut to)?;
                }
                for at in (0..x.len()).step_by(5) {
                    let mut number = |step: f32| {
                        let mut x = x.clone();
                        x[at] += step;
                        for layer in &layers[first..] {
                            pass.layer(layer, group, &mut x)?;
                        }
                        Ok::<_, Error>(
                            x.iter().zip(&by).map(|(x, g)| f64::from(*x) * f64::from(*g)).sum::<f64>(),
                        )
                    };
                    let expected = (number(1.0 / 512.0)? - number(-1.0 / 512.0)?) * 256.0;
                    let error = (f64::from(found[at]) - expected).abs();
                    assert!(
                        error < 0.02 * (1.0 + expected.abs()),
                        "{} from {first}, {at}: {} {expected}",
                        toy.arch,
                        found[at]
                    );
                }
            }
            Ok(())
        })
        .unwrap();
    }
}

#[test]
fn memory_and_threads_do_not_change_the_weights_of_tokens() {
    let tokens = [vec![1, 2, 3, 10, 5], vec![0, 7], vec![4, 4, 9]];
    for toy in with_gradients() {
        let folder = tempfile::tempdir().unwrap();
        let model = BoundModel::from_gguf(&Gguf::open(toy.write(folder.path())).unwrap()).unwrap();
        let run = |threads, max_memory, seed| {
            let progress = Progress::default();
            let spill_folder = folder.path();
            let options = RunOptions { threads, ..options_of(max_memory, spill_folder, &progress) };
            let gradients = gradients(&model, &tokens, (0, 0), seed, &options).unwrap();
            assert_eq!(progress.done(), progress.total());
            let mut parts = Gradients::default();
            for (chunk, first) in tokens.chunks(1).zip([0, 5, 7]) {
                assert!(parts.append(super::gradients(&model, chunk, (first, 5), seed, &options).unwrap()));
            }
            assert_eq!(gradients, parts, "{}", toy.arch);
            let found = gradients.weights(0..10);
            let first = if toy.arch == "phi3" { "blk.0.attn_qkv.weight" } else { "blk.0.attn_q.weight" };
            let inputs = [first, "blk.1.attn_output.weight", "blk.1.ffn_down.weight"];
            inputs.map(|name| found.factors(name).unwrap().to_vec())
        };
        let found = run(1, 1 << 30, 7);
        for factors in &found {
            let mean = factors.iter().map(|f| f * f).sum::<f32>() / factors.len() as f32;
            assert!((mean - 1.0).abs() < 1e-5, "{}: {factors:?}", toy.arch);
        }
        assert_eq!(found, run(2, 1 << 30, 7), "{}", toy.arch);
        assert_eq!(found, run(1, 1 << 10, 7), "{}", toy.arch);
        assert_ne!(found, run(1, 1 << 30, 8), "{}", toy.arch);
    }
}

#[test]
fn tokens_of_experts_and_of_long_chunks_are_not_weighed() {
    let folder = tempfile::tempdir().unwrap();
    let (progress, spill_folder) = (Progress::default(), folder.path());
    let options = options_of(1 << 20, spill_folder, &progress);
    let weights = |toy: &Toy, length: usize| {
        let model = BoundModel::from_gguf(&Gguf::open(toy.write(spill_folder)).unwrap()).unwrap();
        gradients(&model, &[vec![1; length]], (0, 0), 0, &options)
    };
    let error = weights(&Toy::mixture(), 8).expect_err("the derivatives of experts are not known");
    assert!(error.to_string().contains("--weigh-tokens"), "{error}");
    let error = weights(&Toy::new("llama"), 5000).expect_err("the chunk is too long");
    assert!(error.to_string().contains("--ctx"), "{error}");
}

#[test]
fn errors_cost_about_what_the_derivatives_say() {
    let tokens: Vec<Vec<u32>> =
        (0..300).map(|i| (0..5).map(|t| (random(31 * i + t).abs() * 10.9) as u32).collect()).collect();
    for mut toy in with_gradients() {
        let folder = tempfile::tempdir().unwrap();
        let progress = Progress::default();
        let options = options_of(1 << 30, folder.path(), &progress);
        let written =
            |toy: &Toy| BoundModel::from_gguf(&Gguf::open(toy.write(folder.path())).unwrap()).unwrap();
        let logits = |model: &BoundModel| {
            let options = RunOptions { logits: true, ..options };
            run(model, &tokens, &mut NoObserver, &options).unwrap().unwrap()
        };
        let model = written(&toy);
        let is_matrix = |name: &str, ne: &[u64]| ne.len() == 2 && !name.starts_with("per_layer");
        let matrices = toy.tensors.iter().filter(|(name, ne)| is_matrix(name, ne));
        let errors_of = |ne: &[u64]| (0..ne.iter().product::<u64>() as usize).map(error).collect();
        let errors: ErrorRows = matrices.map(|(name, ne)| (name.clone(), errors_of(ne))).collect();
        let costs = error_costs(&model, &tokens, &errors, &options).unwrap();
        // Two layers of one model do not use the keys and values that they have.
        let unused = if toy.arch == "gemma4" { 4 } else { 0 };
        assert_eq!(costs.len() + unused, errors.len(), "{}", toy.arch);
        for (threads, max_memory) in [(2, 1 << 30), (1, 1 << 10)] {
            let options = RunOptions { threads, max_memory, ..options };
            assert_eq!(costs, error_costs(&model, &tokens, &errors, &options).unwrap(), "{}", toy.arch);
        }
        let base = logits(&model);
        let mut logarithms = Vec::new();
        for (name, cost) in &costs {
            toy.wrong = Some(name.clone());
            let kld = base.mean_divergence(&logits(&written(&toy)));
            let ratio = cost / kld;
            assert!((0.03..30.0).contains(&ratio), "{} {name}: {cost} {kld}", toy.arch);
            logarithms.push(ratio.ln());
        }
        // The errors of few rows are not independent, but those of all matrices together nearly are.
        let mean = logarithms.iter().sum::<f64>() / logarithms.len() as f64;
        assert!(mean.abs() < 0.5, "{}: {mean}", toy.arch);
    }
}
