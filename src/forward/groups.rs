//! Chunks of tokens, and the groups of chunks that are computed together.

use crate::error::{Error, Result};

pub(super) fn longest(tokens: &[Vec<u32>]) -> Result<usize> {
    let fix = "Pass a text of at least a few hundred tokens";
    if let Some(empty) = tokens.iter().position(Vec::is_empty) {
        return Err(Error::usage(format!("chunk {empty} has no tokens"), fix));
    }
    tokens.iter().map(Vec::len).max().ok_or_else(|| Error::usage("there are no chunks of tokens", fix))
}

pub(super) fn check_tokens(tokens: &[Vec<u32>], n_vocab: usize) -> Result<()> {
    for (i, chunk) in tokens.iter().enumerate() {
        if let Some(token) = chunk.iter().find(|&&t| t as usize >= n_vocab) {
            let what =
                format!("token {token} of chunk {i} is out of range: the model knows {n_vocab} tokens");
            return Err(Error::usage(what, "Use the model's own tokenizer"));
        }
    }
    Ok(())
}

/// Chunks that are computed together.
pub(super) struct Group {
    /// Number of the first token among all tokens.
    pub(super) first: usize,
    pub tokens: Vec<u32>,
    /// Position of each token in its chunk.
    pub positions: Vec<u32>,
    /// Number of tokens of each chunk.
    pub lengths: Vec<usize>,
}

impl Group {
    /// Returns the group with all chunks once for each stream, one stream after another.
    pub fn repeated(self, streams: usize) -> Self {
        Self {
            first: streams * self.first,
            tokens: self.tokens.repeat(streams),
            positions: self.positions.repeat(streams),
            lengths: self.lengths.repeat(streams),
        }
    }
}

/// Cuts the chunks into groups of at most `limit` tokens, but of at least one chunk.
pub(super) fn groups(tokens: &[Vec<u32>], limit: usize) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    let mut first = 0;
    for chunk in tokens {
        if groups.last().is_none_or(|g| g.tokens.len() + chunk.len() > limit) {
            groups.push(Group { first, tokens: Vec::new(), positions: Vec::new(), lengths: Vec::new() });
        }
        let group = groups.last_mut().expect("one has just been pushed if there was none");
        group.tokens.extend(chunk);
        group.positions.extend(0..chunk.len() as u32);
        group.lengths.push(chunk.len());
        first += chunk.len();
    }
    groups
}
