//! Decodes the weights of quantized checkpoints: codes, scales and zero points in tensors of their own.
//!
//! One declaration covers FP8 with scales, compressed-tensors, GPTQ, AWQ, bitsandbytes, MLX, MXFP4, NVFP4 and BitNet:
//! `weight = (value(code) - zero) * scale * times + bias`, in f32 and in this order. The values of `scale`, `zero` and `bias`
//! stand in grids: one value for each block of rows and columns. Which tensor has which part is said by the Python
//! package, which knows the names; everything is checked here, because the names and shapes come from a file.
//!
//! Any run of weights is decoded from the codes of that run, so a tensor of any size needs the memory of a row.
//!
//! ```
//! use srd_rs::model::spec::Transform;
//!
//! let json = r#"{"op": "dequantize", "codes": "q.weight", "shape": [256, 256], "code": {"kind": "float"},
//!     "scale": {"tensor": "q.weight_scale_inv", "block": [128, 128]}}"#;
//! assert!(matches!(serde_json::from_str(json)?, Transform::Dequantize(_)));
//! # Ok::<(), serde_json::Error>(())
//! ```

use serde::Deserialize;

use crate::error::Result;
use crate::model::source::{Encoding, Source};

/// The largest number of rows that can be assigned to groups one by one, and of values in a table of codes.
const MAX_ROWS: u64 = 1 << 24;
const MAX_TABLE: usize = 256;

/// The declaration of a tensor that is decoded from codes.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dequantize {
    /// The tensor of the codes.
    pub codes: String,
    /// The shape of the weights, outermost dimension first.
    pub shape: Vec<u64>,
    /// How a code becomes a value.
    pub code: Code,
    /// The values that codes stand for. Without a table a code stands for itself.
    #[serde(default)]
    pub table: Option<Table>,
    /// The scales.
    #[serde(default)]
    pub scale: Option<Grid>,
    /// What is subtracted from the value of a code. It has the blocks of the scale.
    #[serde(default)]
    pub zero: Option<Zero>,
    /// What is added at the end.
    #[serde(default)]
    pub bias: Option<Grid>,
    /// Every weight is multiplied by this number.
    #[serde(default = "one")]
    pub times: f32,
    /// A tensor with the group of each row (`g_idx` of GPTQ). It takes the place of the blocks of rows.
    #[serde(default)]
    pub groups: Option<String>,
}

/// How the codes of a tensor are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Code {
    /// Every code is a float, such as F8_E4M3.
    Float,
    /// Every code is a signed byte.
    Int8,
    /// The codes are not read: each stands for 1, so that the weights are the scales.
    #[serde(skip)]
    One,
    /// Codes of a few bits.
    Packed {
        /// Bits of a code: 1 to 8.
        bits: u32,
        /// The order of the codes.
        order: Order,
    },
}

/// The order of codes of a few bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// The codes of a row follow each other from the lowest bit of its bytes on.
    Row,
    /// As `Row` for bytes of two codes, where the first code of a byte has the high bits (bitsandbytes).
    HighFirst,
    /// A word of 32 bits has eight codes of a row, in the order 0, 2, 4, 6, 1, 3, 5, 7 (AWQ).
    Awq,
    /// A word of 32 bits has the codes of consecutive rows in one column (GPTQ).
    Column,
    /// A byte has the codes of four rows that are a quarter of all rows apart (BitNet).
    Quarters,
}

/// The values that codes stand for.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum Table {
    /// The values themselves.
    Values(Vec<f32>),
    /// A tensor with the values.
    Tensor {
        /// Name of the tensor.
        tensor: String,
    },
}

/// One value for each block of rows and columns.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grid {
    /// The tensor of the values.
    pub tensor: String,
    /// Rows and columns of a block. Blocks begin anew with each matrix of a stack.
    pub block: [u64; 2],
    /// The bytes of the tensor are exponents: byte `b` is `2^(b - 127)` (E8M0).
    #[serde(default)]
    pub exponents: bool,
    /// The values are the bytes of the tensor, as numbers.
    #[serde(skip)]
    pub bytes: bool,
    /// The bytes of the tensor are codes of scales that were quantized themselves.
    #[serde(default)]
    pub nested: Option<Nested>,
    /// A tensor with one number by which every value is multiplied.
    #[serde(default)]
    pub factor: Option<String>,
    /// The values are divided by the factor.
    #[serde(default)]
    pub divide_by_factor: bool,
    /// The weights are divided by the values, not multiplied.
    #[serde(default)]
    pub inverse: bool,
}

/// Scales that were quantized themselves: `table[code] * scale[index / block] + offset`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nested {
    /// The tensor of the 256 values of codes.
    pub table: String,
    /// The tensor of the scales of scales.
    pub scale: String,
    /// Scales that share a scale.
    pub block: u64,
    /// The summand.
    pub offset: f32,
}

/// What is subtracted from the value of a code.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum Zero {
    /// One number.
    Constant(f32),
    /// Codes of a few bits, one for each value of the scale's grid.
    Packed {
        /// The tensor of the codes.
        tensor: String,
        /// Bits of a code.
        bits: u32,
        /// The order of the codes.
        order: Order,
        /// What is added to each code.
        plus: f32,
    },
}

fn one() -> f32 {
    1.0
}

impl Dequantize {
    /// Calls `f` with the name of every source tensor.
    pub fn for_each_source<'a>(&'a self, f: &mut impl FnMut(&'a str)) {
        f(&self.codes);
        if let Some(Table::Tensor { tensor }) = &self.table {
            f(tensor);
        }
        for grid in [&self.scale, &self.bias].into_iter().flatten() {
            f(&grid.tensor);
            grid.factor.iter().for_each(|name| f(name));
            if let Some(nested) = &grid.nested {
                f(&nested.table);
                f(&nested.scale);
            }
        }
        if let Some(Zero::Packed { tensor, .. }) = &self.zero {
            f(tensor);
        }
        self.groups.iter().for_each(|name| f(name));
    }
}

/// A declaration bound to its source. All sizes are checked.
#[derive(Debug)]
pub struct Dequantizer {
    codes: Codes,
    table: Option<Vec<f32>>,
    scale: Option<BoundGrid>,
    zero: BoundZero,
    bias: Option<BoundGrid>,
    times: f32,
    groups: Option<Vec<u32>>,
    shape: Shape,
}

/// The weights as a stack of matrices.
#[derive(Debug, Clone, Copy)]
struct Shape {
    matrices: u64,
    rows: u64,
    cols: u64,
}

#[derive(Debug)]
enum BoundZero {
    None,
    Constant(f32),
    Packed { codes: Codes, plus: f32 },
}

/// Why a declaration does not fit the checkpoint.
type Misfit = String;

impl Dequantizer {
    /// Binds a declaration to `source`.
    ///
    /// # Errors
    /// The inner error is a sentence that says what does not fit. The outer error is an [`Error`](crate::Error) of
    /// reading the small tensors: tables, factors, groups.
    pub fn bind(said: &Dequantize, source: &Source) -> Result<std::result::Result<Self, Misfit>> {
        let shape = match said.shape.as_slice() {
            [lead @ .., rows, cols] if *rows > 0 && *cols > 0 => {
                match lead.iter().try_fold(1u64, |n, &d| n.checked_mul(d)) {
                    Some(matrices) if matrices > 0 => Shape { matrices, rows: *rows, cols: *cols },
                    _ => return Ok(Err(format!("has the shape {:?}", said.shape))),
                }
            }
            _ => return Ok(Err(format!("has the shape {:?}, a matrix is expected", said.shape))),
        };
        if shape.matrices.checked_mul(shape.rows).and_then(|n| n.checked_mul(shape.cols)).is_none() {
            return Ok(Err("has more than 2^64 weights".into()));
        }
        Binding { source, shape }.bind(said)
    }

    /// Writes the weights `start .. start + out.len()`, counted through all rows, to `out`.
    ///
    /// # Errors
    /// As [`Source::read_f32`].
    ///
    /// # Panics
    /// If the run is not inside the tensor.
    pub fn read(&self, source: &Source, start: u64, out: &mut [f32], raw: &mut Vec<u8>) -> Result<()> {
        let cols = self.shape.cols;
        let mut at = start;
        let mut out = out;
        while !out.is_empty() {
            let (row, col) = (at / cols, at % cols);
            let n = (cols - col).min(out.len() as u64);
            let (piece, rest) = out.split_at_mut(n as usize);
            self.read_row(source, row, col, piece, raw)?;
            at += n;
            out = rest;
        }
        Ok(())
    }

    fn read_row(
        &self,
        source: &Source,
        row: u64,
        col: u64,
        out: &mut [f32],
        raw: &mut Vec<u8>,
    ) -> Result<()> {
        self.codes.read(source, row, col, out, raw)?;
        if let Some(table) = &self.table {
            out.iter_mut().for_each(|v| *v = table[*v as usize]);
        }
        let mut values = Vec::new();
        match (&self.zero, &self.scale) {
            (BoundZero::Constant(zero), _) => out.iter_mut().for_each(|v| *v -= zero),
            (BoundZero::Packed { codes, plus }, Some(grid)) => {
                let (line, from, to) = self.cells(grid, row, col, out.len() as u64);
                values.resize((to - from) as usize, 0.0);
                codes.read(source, line, from, &mut values, raw)?;
                grid.for_each(col, out, from, &values, |v, zero| v - (zero + plus));
            }
            _ => {}
        }
        if let Some(grid) = &self.scale {
            self.read_cells(grid, source, row, col, out.len() as u64, &mut values, raw)?;
            let from = col / grid.block[1];
            if grid.inverse {
                grid.for_each(col, out, from, &values, |v, scale| v / scale);
            } else {
                grid.for_each(col, out, from, &values, |v, scale| v * scale);
            }
        }
        if self.times != 1.0 {
            out.iter_mut().for_each(|v| *v *= self.times);
        }
        if let Some(grid) = &self.bias {
            self.read_cells(grid, source, row, col, out.len() as u64, &mut values, raw)?;
            grid.for_each(col, out, col / grid.block[1], &values, |v, bias| v + bias);
        }
        Ok(())
    }

    /// Returns the line of a grid that belongs to a row of weights, and the range of its cells for `n` columns.
    fn cells(&self, grid: &BoundGrid, row: u64, col: u64, n: u64) -> (u64, u64, u64) {
        let (matrix, within) = (row / self.shape.rows, row % self.shape.rows);
        let line = match &self.groups {
            Some(groups) => u64::from(groups[within as usize]),
            None => within / grid.block[0],
        };
        let [_, width] = grid.block;
        (matrix * grid.lines + line, col / width, (col + n - 1) / width + 1)
    }

    #[allow(clippy::too_many_arguments, reason = "the place of a run takes three numbers")]
    fn read_cells(
        &self,
        grid: &BoundGrid,
        source: &Source,
        row: u64,
        col: u64,
        n: u64,
        values: &mut Vec<f32>,
        raw: &mut Vec<u8>,
    ) -> Result<()> {
        let (line, from, to) = self.cells(grid, row, col, n);
        values.resize((to - from) as usize, 0.0);
        grid.read(source, line * grid.cells + from, values, raw)
    }
}

/// A grid bound to its tensor.
#[derive(Debug)]
struct BoundGrid {
    index: usize,
    block: [u64; 2],
    /// Cells in a line.
    cells: u64,
    /// Lines of one matrix.
    lines: u64,
    exponents: bool,
    bytes: bool,
    nested: Option<BoundNested>,
    factor: f32,
    divide_by_factor: bool,
    inverse: bool,
}

#[derive(Debug)]
struct BoundNested {
    table: Vec<f32>,
    scale: usize,
    block: u64,
    offset: f32,
}

impl BoundGrid {
    fn read(&self, source: &Source, first: u64, out: &mut [f32], raw: &mut Vec<u8>) -> Result<()> {
        if let Some(nested) = &self.nested {
            raw.resize(out.len(), 0);
            source.read_raw(self.index, first, raw)?;
            let codes = raw.clone();
            let last = first + out.len() as u64 - 1;
            let mut scales = vec![0.0; (last / nested.block - first / nested.block + 1) as usize];
            source.read_f32(nested.scale, first / nested.block, &mut scales, raw)?;
            for (i, (v, &code)) in (first..).zip(out.iter_mut().zip(&codes)) {
                let scale = scales[(i / nested.block - first / nested.block) as usize];
                *v = nested.table[code as usize] * scale + nested.offset;
            }
        } else if self.exponents {
            raw.resize(out.len(), 0);
            source.read_raw(self.index, first, raw)?;
            out.iter_mut().zip(raw.iter()).for_each(|(v, &b)| *v = power_of_two(b));
        } else if self.bytes {
            raw.resize(out.len(), 0);
            source.read_raw(self.index, first, raw)?;
            out.iter_mut().zip(raw.iter()).for_each(|(v, &b)| *v = f32::from(b));
        } else {
            source.read_f32(self.index, first, out, raw)?;
        }
        match self.divide_by_factor {
            true => out.iter_mut().for_each(|v| *v /= self.factor),
            false => out.iter_mut().for_each(|v| *v *= self.factor),
        }
        Ok(())
    }

    /// Combines each weight of a row, whose first is in column `col`, with the value of its cell. `values[0]` is that of
    /// the cell `from`.
    fn for_each(&self, col: u64, out: &mut [f32], from: u64, values: &[f32], f: impl Fn(f32, f32) -> f32) {
        let width = self.block[1];
        if width == 1 {
            out.iter_mut().zip(values).for_each(|(v, &x)| *v = f(*v, x));
            return;
        }
        let mut at = col;
        let mut out = out;
        while !out.is_empty() {
            let n = (width - at % width).min(out.len() as u64);
            let (piece, rest) = out.split_at_mut(n as usize);
            let x = values[(at / width - from) as usize];
            piece.iter_mut().for_each(|v| *v = f(*v, x));
            at += n;
            out = rest;
        }
    }
}

/// Returns `2^(byte - 127)`. The byte 255 is NaN.
fn power_of_two(byte: u8) -> f32 {
    match byte {
        0 => f32::from_bits(0x0040_0000),
        255 => f32::NAN,
        b => f32::from_bits(u32::from(b) << 23),
    }
}

/// A matrix of codes bound to its tensor.
#[derive(Debug)]
struct Codes {
    index: usize,
    code: Code,
    /// Rows of all matrices.
    rows: u64,
    cols: u64,
    /// Bytes of a row of the tensor, for packed codes.
    stride: u64,
}

impl Codes {
    /// Writes the values of the codes in `row` from column `col` on.
    fn read(&self, source: &Source, row: u64, col: u64, out: &mut [f32], raw: &mut Vec<u8>) -> Result<()> {
        let (bits, order) = match self.code {
            Code::Float => return source.read_f32(self.index, row * self.cols + col, out, raw),
            Code::Int8 => {
                raw.resize(out.len(), 0);
                source.read_raw(self.index, row * self.cols + col, raw)?;
                out.iter_mut().zip(raw.iter()).for_each(|(v, &b)| *v = f32::from(b as i8));
                return Ok(());
            }
            Code::One => {
                out.fill(1.0);
                return Ok(());
            }
            Code::Packed { bits, order } => (bits, order),
        };
        let n = out.len() as u64;
        let mask = (1u32 << bits) - 1;
        match order {
            Order::Row | Order::HighFirst => {
                let first_bit = col * u64::from(bits);
                let (first, last) = (first_bit / 8, (first_bit + n * u64::from(bits) - 1) / 8);
                raw.resize((last - first + 1) as usize, 0);
                source.read_raw(self.index, row * self.stride + first, raw)?;
                if order == Order::HighFirst {
                    raw.iter_mut().for_each(|b| *b = b.rotate_left(4));
                }
                raw.push(0);
                for (i, v) in (0u64..).zip(out.iter_mut()) {
                    let bit = first_bit - first * 8 + i * u64::from(bits);
                    let byte = (bit / 8) as usize;
                    let pair = u32::from(raw[byte]) | u32::from(raw[byte + 1]) << 8;
                    *v = ((pair >> (bit % 8)) & mask) as f32;
                }
            }
            Order::Awq => {
                let (first, last) = (col / 8, (col + n - 1) / 8);
                raw.resize((last - first + 1) as usize * 4, 0);
                source.read_raw(self.index, row * self.stride + first * 4, raw)?;
                let words = raw.as_chunks::<4>().0;
                for (i, v) in (col..).zip(out.iter_mut()) {
                    let word = u32::from_le_bytes(words[(i / 8 - first) as usize]);
                    let nibble = [0, 4, 1, 5, 2, 6, 3, 7][(i % 8) as usize];
                    *v = ((word >> (4 * nibble)) & 15) as f32;
                }
            }
            Order::Column => {
                let per_word = u64::from(32 / bits);
                let shift = (row % per_word) as u32 * bits;
                raw.resize(out.len() * 4, 0);
                source.read_raw(self.index, (row / per_word * self.cols + col) * 4, raw)?;
                for (v, word) in out.iter_mut().zip(raw.as_chunks::<4>().0) {
                    *v = ((u32::from_le_bytes(*word) >> shift) & mask) as f32;
                }
            }
            Order::Quarters => {
                let quarter = self.rows / 4;
                let shift = 2 * (row / quarter);
                raw.resize(out.len(), 0);
                source.read_raw(self.index, row % quarter * self.cols + col, raw)?;
                out.iter_mut().zip(raw.iter()).for_each(|(v, &b)| *v = f32::from((b >> shift) & 3));
            }
        }
        Ok(())
    }
}

/// Binds one declaration.
struct Binding<'a> {
    source: &'a Source,
    shape: Shape,
}

/// Returns the inner error of [`Dequantizer::bind`].
macro_rules! fit {
    ($result:expr) => {
        match $result {
            Ok(value) => value,
            Err(misfit) => return Ok(Err(misfit)),
        }
    };
}

impl Binding<'_> {
    fn bind(&self, said: &Dequantize) -> Result<std::result::Result<Dequantizer, Misfit>> {
        let rows = self.shape.matrices * self.shape.rows;
        let codes = fit!(self.codes(&said.codes, said.code, rows, self.shape.cols));
        let groups = match &said.groups {
            Some(name) => Some(fit!(self.groups(name)?)),
            None => None,
        };
        let scale = match &said.scale {
            Some(grid) => Some(fit!(self.grid(grid, groups.as_deref())?)),
            None => None,
        };
        let bias = match &said.bias {
            Some(grid) => Some(fit!(self.grid(grid, groups.as_deref())?)),
            None => None,
        };
        let zero = match (&said.zero, &scale) {
            (None, _) => BoundZero::None,
            (Some(Zero::Constant(value)), _) => BoundZero::Constant(*value),
            (Some(Zero::Packed { tensor, bits, order, plus }), Some(grid)) => {
                let code = Code::Packed { bits: *bits, order: *order };
                let codes = fit!(self.codes(tensor, code, grid.lines * self.shape.matrices, grid.cells));
                BoundZero::Packed { codes, plus: *plus }
            }
            (Some(Zero::Packed { .. }), None) => return Ok(Err("has zero points but no scales".into())),
        };
        let table = match &said.table {
            None => None,
            Some(Table::Values(values)) => Some(values.clone()),
            Some(Table::Tensor { tensor }) => Some(fit!(self.small(tensor, MAX_TABLE as u64)?)),
        };
        let n_codes = match said.code {
            Code::Packed { bits, .. } => 1usize << bits,
            _ => 0,
        };
        if table.as_ref().is_some_and(|t| t.len() < n_codes || n_codes == 0) {
            return Ok(Err(format!("has a table that does not cover its {n_codes} codes")));
        }
        let times = said.times;
        Ok(Ok(Dequantizer { codes, table, scale, zero, bias, times, groups, shape: self.shape }))
    }

    fn find(&self, name: &str) -> std::result::Result<usize, Misfit> {
        let index = self.source.find(name);
        index.ok_or_else(|| format!("needs '{name}', which the checkpoint does not have"))
    }

    /// Says that a tensor does not hold as many bytes as are needed.
    fn check_bytes(&self, index: usize, needed: Option<u64>) -> std::result::Result<(), Misfit> {
        let has = self.source.bytes(index);
        if needed.is_some_and(|bytes| has == bytes) {
            return Ok(());
        }
        let needed = needed.map_or("more than 2^64".to_string(), |bytes| bytes.to_string());
        Err(format!("needs {needed} bytes of '{}', which has {has}", self.source.name(index)))
    }

    fn codes(&self, name: &str, code: Code, rows: u64, cols: u64) -> std::result::Result<Codes, Misfit> {
        let index = self.find(name)?;
        let mut stride = 0;
        match code {
            Code::Float => self.check_floats(index, rows.checked_mul(cols))?,
            Code::Int8 => self.check_bytes(index, rows.checked_mul(cols))?,
            Code::One => {}
            Code::Packed { bits, order } => {
                if !(1..=8).contains(&bits) {
                    return Err(format!("has codes of {bits} bits, 1 to 8 are known"));
                }
                let has = self.source.bytes(index);
                match order {
                    Order::Row | Order::HighFirst => {
                        stride = has / rows;
                        let least = cols.checked_mul(u64::from(bits)).map(|n| n.div_ceil(8));
                        let fits = has == stride * rows
                            && least.is_some_and(|least| least <= stride && stride < least + 4)
                            && (order == Order::Row || bits == 4 && (rows == 1 || cols.is_multiple_of(2)));
                        if !fits {
                            let what = format!("has {has} bytes of codes in '{name}', which are not");
                            return Err(format!("{what} {rows} rows of {cols} codes of {bits} bits"));
                        }
                    }
                    Order::Awq => {
                        stride = cols.div_ceil(8) * 4;
                        if bits != 4 {
                            return Err(format!("has AWQ codes of {bits} bits, 4 are known"));
                        }
                        self.check_bytes(index, rows.checked_mul(stride))?;
                    }
                    Order::Column => {
                        if !32u32.is_multiple_of(bits) {
                            return Err(format!("has codes of {bits} bits in columns, which cross words"));
                        }
                        let words = rows.div_ceil(u64::from(32 / bits));
                        self.check_bytes(index, words.checked_mul(cols).and_then(|n| n.checked_mul(4)))?;
                    }
                    Order::Quarters => {
                        if bits != 2 || !rows.is_multiple_of(4) {
                            return Err(format!(
                                "has {rows} rows of {bits} bits, four quarters are expected"
                            ));
                        }
                        self.check_bytes(index, (rows / 4).checked_mul(cols))?;
                    }
                }
            }
        }
        Ok(Codes { index, code, rows, cols, stride })
    }

    fn check_floats(&self, index: usize, needed: Option<u64>) -> std::result::Result<(), Misfit> {
        let has = self.source.shape(index).iter().try_fold(1u64, |n, &d| n.checked_mul(d));
        let name = self.source.name(index);
        match self.source.encoding(index) {
            Encoding::Element(_) if needed.is_some() && has == needed => Ok(()),
            Encoding::Element(_) => {
                let needed = needed.map_or("more than 2^64".to_string(), |n| n.to_string());
                Err(format!("needs {needed} values of '{name}', which has {}", has.unwrap_or(0)))
            }
            other => Err(format!("needs floats in '{name}', which has the type {}", other.name())),
        }
    }

    fn grid(&self, said: &Grid, groups: Option<&[u32]>) -> Result<std::result::Result<BoundGrid, Misfit>> {
        let index = fit!(self.find(&said.tensor));
        let [height, width] = said.block;
        if height == 0 || width == 0 {
            return Ok(Err("has empty blocks of scales".into()));
        }
        let cells = self.shape.cols.div_ceil(width);
        let elements = self.source.shape(index).iter().try_fold(1u64, |n, &d| n.checked_mul(d));
        let lines = match groups {
            // As many groups as there are lines of scales.
            Some(groups) => {
                let lines = elements.unwrap_or(0) / cells;
                if groups.iter().any(|&g| u64::from(g) >= lines) {
                    return Ok(Err(format!("has rows in groups beyond the {lines} groups there are")));
                }
                lines
            }
            None => self.shape.rows.div_ceil(height),
        };
        let needed = lines.checked_mul(cells).and_then(|n| n.checked_mul(self.shape.matrices));
        if said.exponents || said.bytes || said.nested.is_some() {
            fit!(self.check_bytes(index, needed));
        } else {
            fit!(self.check_floats(index, needed));
        }
        let nested = match &said.nested {
            None => None,
            Some(nested) => {
                let table = fit!(self.small(&nested.table, MAX_TABLE as u64)?);
                let scale = fit!(self.find(&nested.scale));
                if nested.block == 0 || table.len() < MAX_TABLE {
                    return Ok(Err("has quantized scales without a table of 256 values".into()));
                }
                fit!(self.check_floats(scale, needed.map(|n| n.div_ceil(nested.block))));
                Some(BoundNested { table, scale, block: nested.block, offset: nested.offset })
            }
        };
        let factor = match &said.factor {
            None => 1.0,
            Some(name) => match fit!(self.small(name, 1)?).first() {
                Some(&factor) => factor,
                None => return Ok(Err(format!("needs one value in '{name}', which is empty"))),
            },
        };
        Ok(Ok(BoundGrid {
            index,
            block: said.block,
            cells,
            lines,
            exponents: said.exponents,
            bytes: said.bytes,
            nested,
            factor,
            divide_by_factor: said.divide_by_factor,
            inverse: said.inverse,
        }))
    }

    /// Reads a small tensor of floats whole.
    fn small(&self, name: &str, most: u64) -> Result<std::result::Result<Vec<f32>, Misfit>> {
        let index = fit!(self.find(name));
        let n = self.source.shape(index).iter().try_fold(1u64, |n, &d| n.checked_mul(d));
        let Some(n) = n.filter(|&n| n <= most) else {
            return Ok(Err(format!("needs at most {most} values in '{name}', which has more")));
        };
        fit!(self.check_floats(index, Some(n)));
        let mut values = vec![0.0; n as usize];
        self.source.read_f32(index, 0, &mut values, &mut Vec::new())?;
        Ok(Ok(values))
    }

    /// Reads the group of each row.
    fn groups(&self, name: &str) -> Result<std::result::Result<Vec<u32>, Misfit>> {
        let index = fit!(self.find(name));
        if self.shape.matrices != 1 || self.shape.rows > MAX_ROWS {
            return Ok(Err(format!("has {} rows in groups, which are too many", self.shape.rows)));
        }
        fit!(self.check_bytes(index, Some(self.shape.rows * 4)));
        let mut raw = vec![0; self.shape.rows as usize * 4];
        self.source.read_raw(index, 0, &mut raw)?;
        Ok(Ok(raw.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect()))
    }
}
