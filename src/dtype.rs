//! Element and block types: their names, ids and geometry. What the bytes of a type mean is in [`crate::quant`], one file
//! per block format.
//!
//! ```
//! use srd_rs::dtype::GgmlType;
//!
//! let ty = GgmlType::from_name("q4_k").unwrap();
//! assert_eq!((ty.block_len(), ty.block_bytes(), ty.bpw()), (256, 144, 4.5));
//! ```

use serde::{Deserialize, Serialize};

/// Weights in a K-quant super-block.
pub const QK_K: usize = 256;

/// Element type of a tensor in a safetensors file that can be decoded to f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SourceType {
    /// IEEE 754 double precision.
    F64,
    /// IEEE 754 single precision.
    F32,
    /// IEEE 754 half precision.
    F16,
    /// bfloat16: the upper half of single precision.
    BF16,
    /// Eight bits with 4 bits of exponent and no infinity.
    F8E4M3,
    /// Eight bits with 5 bits of exponent: the upper half of half precision.
    F8E5M2,
}

/// Type of a tensor in a GGUF file. The names and the discriminants are ggml's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[allow(non_camel_case_types)]
#[allow(
    missing_docs,
    reason = "the name of a type is its description; `quant` describes the types that are written"
)]
#[repr(u32)]
pub enum GgmlType {
    F32 = 0,
    F16 = 1,
    Q4_0 = 2,
    Q4_1 = 3,
    Q5_0 = 6,
    Q5_1 = 7,
    Q8_0 = 8,
    Q8_1 = 9,
    Q2_K = 10,
    Q3_K = 11,
    Q4_K = 12,
    Q5_K = 13,
    Q6_K = 14,
    Q8_K = 15,
    IQ2_XXS = 16,
    IQ2_XS = 17,
    IQ3_XXS = 18,
    IQ1_S = 19,
    IQ4_NL = 20,
    IQ3_S = 21,
    IQ2_S = 22,
    IQ4_XS = 23,
    I8 = 24,
    I16 = 25,
    I32 = 26,
    I64 = 27,
    F64 = 28,
    IQ1_M = 29,
    BF16 = 30,
    TQ1_0 = 34,
    TQ2_0 = 35,
    MXFP4 = 39,
    NVFP4 = 40,
    Q1_0 = 41,
    Q2_0 = 42,
}

/// `(type, name, weights per block, bytes per block)`, as ggml's type table has them.
const GEOMETRY: &[(GgmlType, &str, usize, usize)] = &[
    (GgmlType::F32, "F32", 1, 4),
    (GgmlType::F16, "F16", 1, 2),
    (GgmlType::Q4_0, "Q4_0", 32, 18),
    (GgmlType::Q4_1, "Q4_1", 32, 20),
    (GgmlType::Q5_0, "Q5_0", 32, 22),
    (GgmlType::Q5_1, "Q5_1", 32, 24),
    (GgmlType::Q8_0, "Q8_0", 32, 34),
    (GgmlType::Q8_1, "Q8_1", 32, 36),
    (GgmlType::Q2_K, "Q2_K", 256, 84),
    (GgmlType::Q3_K, "Q3_K", 256, 110),
    (GgmlType::Q4_K, "Q4_K", 256, 144),
    (GgmlType::Q5_K, "Q5_K", 256, 176),
    (GgmlType::Q6_K, "Q6_K", 256, 210),
    (GgmlType::Q8_K, "Q8_K", 256, 292),
    (GgmlType::IQ2_XXS, "IQ2_XXS", 256, 66),
    (GgmlType::IQ2_XS, "IQ2_XS", 256, 74),
    (GgmlType::IQ3_XXS, "IQ3_XXS", 256, 98),
    (GgmlType::IQ1_S, "IQ1_S", 256, 50),
    (GgmlType::IQ4_NL, "IQ4_NL", 32, 18),
    (GgmlType::IQ3_S, "IQ3_S", 256, 110),
    (GgmlType::IQ2_S, "IQ2_S", 256, 82),
    (GgmlType::IQ4_XS, "IQ4_XS", 256, 136),
    (GgmlType::I8, "I8", 1, 1),
    (GgmlType::I16, "I16", 1, 2),
    (GgmlType::I32, "I32", 1, 4),
    (GgmlType::I64, "I64", 1, 8),
    (GgmlType::F64, "F64", 1, 8),
    (GgmlType::IQ1_M, "IQ1_M", 256, 56),
    (GgmlType::BF16, "BF16", 1, 2),
    (GgmlType::TQ1_0, "TQ1_0", 256, 54),
    (GgmlType::TQ2_0, "TQ2_0", 256, 66),
    (GgmlType::MXFP4, "MXFP4", 32, 17),
    (GgmlType::NVFP4, "NVFP4", 64, 36),
    (GgmlType::Q1_0, "Q1_0", 128, 18),
    (GgmlType::Q2_0, "Q2_0", 64, 18),
];

impl GgmlType {
    /// The types of integers that a model can hold beside its weights. Such tensors are copied, and never decoded.
    pub const COPIED: [Self; 2] = [Self::I32, Self::I64];

    /// Returns the type with a ggml id. A removed or unknown id gives `None`.
    pub fn from_id(id: u32) -> Option<Self> {
        GEOMETRY.iter().map(|g| g.0).find(|t| t.id() == id)
    }

    /// Returns the type with a name. Upper and lower case count the same: `q4_k`, `Q4_K`.
    pub fn from_name(name: &str) -> Option<Self> {
        GEOMETRY.iter().find(|g| g.1.eq_ignore_ascii_case(name)).map(|g| g.0)
    }

    /// Returns ggml's id of the type.
    pub const fn id(self) -> u32 {
        self as u32
    }

    const fn geometry(self) -> &'static (GgmlType, &'static str, usize, usize) {
        let mut i = 0;
        while GEOMETRY[i].0 as u32 != self as u32 {
            i += 1;
        }
        &GEOMETRY[i]
    }

    /// Returns the name, as ggml writes it.
    pub const fn name(self) -> &'static str {
        self.geometry().1
    }

    /// Returns the number of weights in a block: 1 for plain element types.
    pub const fn block_len(self) -> usize {
        self.geometry().2
    }

    /// Returns the number of bytes of a block.
    pub const fn block_bytes(self) -> usize {
        self.geometry().3
    }

    /// Returns the number of bytes of a row of `n` weights. `None` if `n` is no multiple of the block length, or if the
    /// size overflows.
    pub fn row_bytes(self, n: u64) -> Option<u64> {
        let &(_, _, len, bytes) = self.geometry();
        n.is_multiple_of(len as u64).then(|| (n / len as u64).checked_mul(bytes as u64)).flatten()
    }

    /// Returns the number of bits per weight.
    pub fn bpw(self) -> f64 {
        let &(_, _, len, bytes) = self.geometry();
        bytes as f64 * 8.0 / len as f64
    }
}

impl SourceType {
    /// Returns the type with the name of a safetensors header: `F64`, `F32`, `F16`, `BF16`, `F8_E4M3` or `F8_E5M2`.
    pub fn from_safetensors(name: &str) -> Option<Self> {
        Some(match name {
            "F64" => Self::F64,
            "F32" => Self::F32,
            "F16" => Self::F16,
            "BF16" => Self::BF16,
            "F8_E4M3" => Self::F8E4M3,
            "F8_E5M2" => Self::F8E5M2,
            _ => return None,
        })
    }

    /// Returns the number of bytes of an element.
    pub fn bytes(self) -> usize {
        match self {
            Self::F64 => 8,
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::F8E4M3 | Self::F8E5M2 => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_bytes_needs_whole_blocks_and_does_not_overflow() {
        assert_eq!(GgmlType::Q4_K.row_bytes(512), Some(288));
        assert_eq!(GgmlType::Q4_K.row_bytes(100), None);
        assert_eq!(GgmlType::F64.row_bytes(u64::MAX), None);
        assert_eq!(GgmlType::from_id(4), None);
        assert_eq!(GgmlType::from_name("q6_k"), Some(GgmlType::Q6_K));
    }
}
