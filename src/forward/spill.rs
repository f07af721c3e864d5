//! Activations that live from layer to layer, in memory or in a temporary file.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::os;

/// A buffer of f32 values in memory, or in a file without a name if memory is short.
pub enum SpillBuffer {
    Memory(Vec<f32>),
    File {
        file: File,
        /// Folder of the file, for error messages.
        folder: PathBuf,
    },
}

impl SpillBuffer {
    /// Makes a buffer of `values` values. `spill` names the folder for a file; without it the values stay in memory.
    ///
    /// # Errors
    /// Returns [`Error::Io`] if the file cannot be made.
    pub fn new(values: usize, spill: Option<&Path>) -> Result<Self> {
        let Some(folder) = spill else { return Ok(Self::Memory(vec![0.0; values])) };
        let file = tempfile::tempfile_in(folder)
            .map_err(|e| Error::io(folder, "make a temporary file for activations in", e))?;
        Ok(Self::File { file, folder: folder.to_path_buf() })
    }

    /// Makes a buffer as [`SpillBuffer::new`] does, whose values are 0.
    ///
    /// # Errors
    /// As [`SpillBuffer::new`].
    pub fn zeros(values: usize, spill: Option<&Path>) -> Result<Self> {
        let buffer = Self::new(values, spill)?;
        if let Self::File { file, folder } = &buffer {
            file.set_len(byte(values))
                .map_err(|e| Error::io(folder, "make a temporary file for activations in", e))?;
        }
        Ok(buffer)
    }

    /// Returns the values, if they are in memory.
    pub fn in_memory(&self) -> Option<&[f32]> {
        match self {
            Self::Memory(values) => Some(values),
            Self::File { .. } => None,
        }
    }

    /// Returns all values. Those of a file are read into memory.
    ///
    /// # Errors
    /// Returns [`Error::Io`] if the file cannot be read.
    pub fn into_values(self) -> Result<Vec<f32>> {
        let bytes = match self {
            Self::Memory(values) => return Ok(values),
            Self::File { ref file, ref folder } => file
                .metadata()
                .map_err(|e| Error::io(folder, "read activations from a temporary file in", e))?
                .len(),
        };
        let mut values = vec![0.0; bytes as usize / size_of::<f32>()];
        self.load(0, &mut values)?;
        Ok(values)
    }

    /// Copies the values from `start` on into `out`.
    ///
    /// # Errors
    /// Returns [`Error::Io`] if the file cannot be read.
    pub fn load(&self, start: usize, out: &mut [f32]) -> Result<()> {
        match self {
            Self::Memory(values) => out.copy_from_slice(&values[start..start + out.len()]),
            Self::File { file, folder } => {
                os::read_exact_at(file, bytemuck::cast_slice_mut(out), byte(start))
                    .map_err(|e| Error::io(folder, "read activations from a temporary file in", e))?
            }
        }
        Ok(())
    }

    /// Copies `values` into the buffer, from `start` on.
    ///
    /// # Errors
    /// Returns [`Error::Io`] if the file cannot be written.
    pub fn save(&mut self, start: usize, values: &[f32]) -> Result<()> {
        match self {
            Self::Memory(all) => all[start..start + values.len()].copy_from_slice(values),
            Self::File { file, folder } => os::write_all_at(file, bytemuck::cast_slice(values), byte(start))
                .map_err(|e| Error::io(folder, "write activations to a temporary file in", e))?,
        }
        Ok(())
    }
}

/// What was looked up of tables of embeddings that come over the network.
pub struct Found {
    /// Number of tokens.
    pub n: usize,
    /// The inputs of the first layer, `[tokens, width]`.
    pub embedded: SpillBuffer,
    /// `[layers, tokens, values of a layer]`.
    pub per_layer: SpillBuffer,
}

/// Returns the offset of a value in the file.
fn byte(value: usize) -> u64 {
    (value * size_of::<f32>()) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_keeps_the_same_values_as_memory() {
        let folder = tempfile::tempdir().unwrap();
        let mut buffers =
            [SpillBuffer::zeros(64, None).unwrap(), SpillBuffer::zeros(64, Some(folder.path())).unwrap()];
        for buffer in &mut buffers {
            let mut out = [f32::NAN; 8];
            buffer.load(28, &mut out).unwrap();
            assert_eq!(out, [0.0; 8]);
            buffer.save(32, &[1.0; 32]).unwrap();
            buffer.save(0, &[-2.5; 32]).unwrap();
            buffer.load(28, &mut out).unwrap();
            assert_eq!(out, [-2.5, -2.5, -2.5, -2.5, 1.0, 1.0, 1.0, 1.0]);
        }
        // Windows has no files without a name: the file vanishes when it is closed.
        assert!(cfg!(windows) || std::fs::read_dir(folder.path()).unwrap().count() == 0);
        for buffer in buffers {
            assert_eq!(buffer.into_values().unwrap(), [[-2.5; 32], [1.0; 32]].concat());
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
