//! Weighs the tokens of a calibration by their gradients, batch by batch, so that little is lost when the way back is interrupted.

use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Place, Result};
use crate::formats::calibration::{Info, values};
use crate::forward::{self, Gradients, Names, RunOptions, TokenWeights, tokens_of};
use crate::model::bound::BoundModel;

/// Largest number of batches. Each batch reads the weights again, and an interruption loses the last batch.
pub const BATCHES: usize = 16;
/// What the weight of a token costs, in passes: the way to the output, and on the way back each layer once more and its derivatives.
pub const PASSES: usize = 3;
/// The part of a calibration's time that goes into the weights of its tokens.
const PART_OF_TIME: f64 = PASSES as f64 / (PASSES + 1) as f64;

/// What stands in front of the squares of gradients in a file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Note {
    /// What the gradients are kept for; `None` in a part of a calibration.
    info: Option<Info>,
    names: Vec<Names>,
}

/// Returns the weights of the tokens of all chunks. What is complete is kept in the file `kept`, and taken from there.
///
/// # Errors
/// As [`forward::gradients`].
pub(super) fn token_weights(
    model: &BoundModel,
    chunks: &[Vec<u32>],
    info: &Info,
    mut kept: Option<&Path>,
    run: &RunOptions,
) -> Result<TokenWeights> {
    // Weights that come over the network are read as seldom as possible.
    let lengths: Vec<usize> = chunks.iter().map(Vec::len).collect();
    let batches = runs(&lengths, if model.source.is_remote() { 1 } else { BATCHES });
    let ends: Vec<usize> = batches.iter().map(|batch| tokens_of(&chunks[..batch.end])).collect();
    let (longest, total) = (lengths.iter().copied().max().unwrap_or(0), tokens_of(chunks));
    let mut found = kept.and_then(|path| read_own(path, info)).unwrap_or_default();
    if !ends.contains(&found.tokens()) {
        found = Gradients::default();
    }
    for (batch, end) in batches.into_iter().zip(ends) {
        let first = found.tokens();
        if end <= first {
            continue;
        }
        let part = |tokens: usize| PART_OF_TIME * tokens as f64 / total as f64;
        run.progress.enter_part(part(first), part(end));
        let next = forward::gradients(model, &chunks[batch], (first, longest), info.seed, run)?;
        append(&mut found, next, model.path())?;
        // A run that cannot be kept, because the disk is full, goes on all the same.
        kept = kept.filter(|path| write(path, Some(info), &found).is_ok());
    }
    run.progress.enter_part(PART_OF_TIME, 1.0);
    Ok(found.weights(0..total))
}

/// Computes the gradients of some chunks, which begin with the token number `first`, and writes them to a file, so that several machines
/// weigh the tokens together. `longest` is the number of tokens of the longest chunk of all.
///
/// # Errors
/// As [`forward::gradients`], and [`Error::Io`] from the disk.
pub fn weigh_part(
    model: &BoundModel,
    chunks: &[Vec<u32>],
    (first, longest): (usize, usize),
    seed: u64,
    to: &Path,
    run: &RunOptions,
) -> Result<()> {
    let found = forward::gradients(model, chunks, (first, longest), seed, run)?;
    write(to, None, &found)
}

/// Returns the weights of the tokens of a share, from the files of all parts in the order of their tokens. The share begins with the
/// token number `first` and has `count` tokens.
///
/// # Errors
/// [`Error::Io`] and [`Error::Model`] for files that [`weigh_part`] has not written for these tokens.
pub(super) fn weights_of_parts(parts: &[PathBuf], first: usize, count: usize) -> Result<TokenWeights> {
    let mut all = Gradients::default();
    for path in parts {
        let (note, squares) = values::read::<Note>(path)?;
        let next = Gradients::of(note.names, squares).ok_or_else(|| values::invalid(path))?;
        append(&mut all, next, path)?;
    }
    match parts.last() {
        Some(path) if all.tokens() < first + count => Err(values::invalid(path)),
        _ => Ok(all.weights(first..first + count)),
    }
}

/// Cuts chunks of these lengths into at most `most` runs of about as many tokens.
///
/// ```
/// assert_eq!(srd_rs::calibrate::runs(&[512, 512, 512, 512, 100], 2), [0..3, 3..5]);
/// ```
pub fn runs(lengths: &[usize], most: usize) -> Vec<Range<usize>> {
    let (total, mut tokens, mut start, mut found) = (lengths.iter().sum::<usize>(), 0, 0, Vec::new());
    for (number, length) in lengths.iter().enumerate() {
        tokens += length;
        if tokens * most >= total * (found.len() + 1) {
            found.push(start..number + 1);
            start = number + 1;
        }
    }
    found
}

fn append(all: &mut Gradients, next: Gradients, path: &Path) -> Result<()> {
    match all.append(next) {
        true => Ok(()),
        false => {
            let what = "has gradients of other matrices for some of the tokens";
            Err(Error::model(Place::file(path), what, "Report this"))
        }
    }
}

fn write(path: &Path, info: Option<&Info>, gradients: &Gradients) -> Result<()> {
    values::write(path, &Note { info: info.cloned(), names: gradients.names() }, &gradients.squares())
}

/// Reads gradients that were kept for a calibration. Returns `None` where there are none.
fn read_own(path: &Path, info: &Info) -> Option<Gradients> {
    let (note, squares) = values::read_own::<Note>(path)?;
    if note.info.as_ref() != Some(info) {
        return None;
    }
    Gradients::of(note.names, squares)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_have_about_as_many_tokens() {
        let lengths = [5; 40];
        let found = runs(&lengths, 16);
        assert_eq!((found.len(), found[0].start, found[15].end), (16, 0, 40));
        assert!(found.windows(2).all(|pair| pair[0].end == pair[1].start));
        assert!(found.iter().all(|batch| (2..=3).contains(&batch.len())), "{found:?}");
        assert_eq!(runs(&lengths[..3], 16), [0..1, 1..2, 2..3]);
        let whole = runs(&lengths, 1);
        assert_eq!((whole.len(), whole[0].clone()), (1, 0..40));
    }
}
