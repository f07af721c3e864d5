//! Small GGUFs for the tests of this module.

use std::path::{Path, PathBuf};

use crate::dtype::GgmlType;
use crate::formats::gguf::split::part_path;
use crate::formats::gguf::{KeyValues, SPLIT_COUNT, SPLIT_NO, TensorHeader, Value, encode_header};

pub const PAGE: u64 = 4096;

/// A model that [`Model::write`] writes as a GGUF. Its tensors have names and dimensions and are in file order.
pub struct Model {
    pub n_layer: u32,
    pub experts: Option<(u64, u64)>,
    pub tensors: Vec<(String, Vec<u64>)>,
    /// The number of bytes that are appended to the file.
    pub appended: usize,
    /// The factor by which each matrix has more rows than `tensors` says.
    rows: u64,
}

impl Model {
    pub fn dense(n_layer: u32) -> Self {
        let mut tensors: Vec<(String, Vec<u64>)> =
            ["output_norm.weight", "token_embd.weight"].map(|n| (n.to_string(), vec![33, 3])).to_vec();
        for layer in 0..n_layer {
            let name = |part| format!("blk.{layer}.{part}.weight");
            tensors.push((name("attn_q"), vec![33, 5]));
            tensors.push((name("ffn_norm"), vec![33]));
        }
        Self { n_layer, experts: None, tensors, appended: 0, rows: 1 }
    }

    pub fn moe(n_layer: u32, experts: u64, used: u64) -> Self {
        let mut model = Self::dense(n_layer);
        model.experts = Some((experts, used));
        let with_experts = model.tensors.into_iter().flat_map(|(name, ne)| {
            let stacked = name
                .strip_suffix("ffn_norm.weight")
                .map(|layer| (format!("{layer}ffn_up_exps.weight"), vec![32, 2, experts]));
            std::iter::once((name, ne)).chain(stacked)
        });
        model.tensors = with_experts.collect();
        model
    }

    /// Returns the same model with parts of several hundred pages each.
    pub fn wide(mut self) -> Self {
        self.rows = 1000;
        self
    }

    fn metadata(&self) -> KeyValues {
        let mut kv = KeyValues::new();
        kv.set("general.architecture", Value::String("llama".into()));
        kv.set("llama.block_count", Value::U32(self.n_layer));
        if let Some((experts, used)) = self.experts {
            kv.set("llama.expert_count", Value::U32(experts as u32));
            kv.set("llama.expert_used_count", Value::U32(used as u32));
        }
        kv
    }

    pub fn write(&self, folder: &Path) -> PathBuf {
        let kv = self.metadata();
        let path = folder.join("m.gguf");
        self.write_file(&path, &kv, &self.tensors);
        path
    }

    /// Writes the model in `count` files.
    pub fn write_split(&self, folder: &Path, count: usize) -> Vec<PathBuf> {
        let groups = self.tensors.chunks(self.tensors.len().div_ceil(count)).enumerate();
        let files = groups.map(|(i, tensors)| {
            let mut kv = if i == 0 { self.metadata() } else { KeyValues::new() };
            kv.set(SPLIT_NO, Value::U16(i as u16));
            kv.set(SPLIT_COUNT, Value::U16(count as u16));
            let path = part_path(&folder.join("m.gguf"), i, count);
            self.write_file(&path, &kv, tensors);
            path
        });
        files.collect()
    }

    fn write_file(&self, path: &Path, kv: &KeyValues, tensors: &[(String, Vec<u64>)]) {
        let sizes: Vec<Vec<u64>> = tensors.iter().map(|(_, ne)| self.scaled(ne)).collect();
        let infos: Vec<_> = tensors
            .iter()
            .zip(&sizes)
            .map(|((name, _), ne)| TensorHeader { name, ne, ty: GgmlType::F32 })
            .collect();
        let header = encode_header(kv, &infos).unwrap();
        let mut bytes = header.bytes;
        bytes.resize(header.total_size as usize + self.appended, 1);
        std::fs::write(path, bytes).unwrap();
    }

    fn scaled(&self, ne: &[u64]) -> Vec<u64> {
        match ne {
            [row, n, rest @ ..] => [&[*row, n * self.rows], rest].concat(),
            vector => vector.to_vec(),
        }
    }
}
