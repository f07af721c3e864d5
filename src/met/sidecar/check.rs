//! Checks that a sidecar fits a GGUF.

use std::path::Path;

use super::measure::{Options, file_facts, file_sha256};
use super::schema::{REMAKE, Sidecar};
use crate::error::{Error, Place, Result};
use crate::formats::gguf::Gguf;
use crate::progress::Progress;

impl Sidecar {
    /// Checks that this is the sidecar of `gguf`: that the size and the header are the same, and that measuring `gguf`
    /// gives the same values. `path` is the path of the sidecar, for messages. The weights are not read:
    /// [`Sidecar::check_weights`] does that.
    ///
    /// # Errors
    /// [`Error::Model`], which says what differs.
    pub fn check(&self, gguf: &Gguf, path: &Path) -> Result<()> {
        let name = gguf.path().display();
        let wrong = |what: String| {
            let fix = format!(
                "Name the GGUF that the sidecar was made for, or make the sidecar again: srd-rs met {name}"
            );
            Error::model(Place::file(path), what, fix)
        };
        let (own, other) = (self.files().count(), gguf.parts().len());
        if own != other {
            return Err(wrong(format!("belongs to a GGUF of {own} files, but {name} has {other} files")));
        }
        for (facts, file) in self.files().zip(gguf.parts()) {
            let (own, other, name) = (facts.bytes, file.file_size, file.path.display());
            if own != other {
                return Err(wrong(format!("belongs to a GGUF of {own} bytes, but {name} has {other} bytes")));
            }
        }
        let split = self.split().ok_or_else(|| wrong("has slots that are not the layers in order".into()))?;
        let options = Options {
            split: Some(split),
            policy: Some(self.hydration_policy.clone()),
            fingerprint: self.fingerprint.clone(),
            version: Some(self.met_version),
            projector: self.projector.clone(),
            known: self.known(),
        };
        for (own, file) in self.files().zip(gguf.parts()) {
            let facts = file_facts(file)?;
            if (own.header_bytes, &own.header_sha256) != (facts.header_bytes, &facts.header_sha256) {
                let name = file.path.display();
                return Err(wrong(format!("belongs to another GGUF: {name} has a different header")));
            }
        }
        let measured = Self::measure(gguf, &options).map_err(|e| match e {
            Error::Usage { what, .. } => wrong(what),
            other => other,
        })?;
        match self.difference(&measured) {
            Some(field) => Err(wrong(format!("has a '{field}' that differs from the one that {name} gives"))),
            None => Ok(()),
        }
    }

    /// Checks the weights: reads the whole files and compares their SHA-256. `progress` can end the run early.
    ///
    /// # Errors
    /// [`Error::Model`] if the digests differ or the sidecar has no digest; otherwise as [`file_sha256`].
    pub fn check_weights(&self, gguf: &Gguf, path: &Path, progress: &Progress) -> Result<()> {
        let wrong = |what: String| Err(Error::model(Place::file(path), what, REMAKE));
        for (facts, file) in self.files().zip(gguf.parts()) {
            match &facts.sha256 {
                None => {
                    return wrong(
                        "has no SHA-256 of the whole file, so the weights cannot be checked".into(),
                    );
                }
                Some(own) if *own != file_sha256(file, progress)? => {
                    let name = file.path.display();
                    return wrong(format!("belongs to other weights: the SHA-256 of {name} differs"));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// Returns the first field whose measured value differs.
    fn difference(&self, measured: &Self) -> Option<&'static str> {
        let fields = [
            ("model", self.model == measured.model),
            ("embedding_slot", self.embedding_slot == measured.embedding_slot),
            ("tables", self.tables == measured.tables),
            ("slots", self.slots == measured.slots),
            ("chunk_map", self.chunk_map == measured.chunk_map),
            ("intent_ram_budget", self.intent_ram_budget == measured.intent_ram_budget),
            ("moe", self.moe == measured.moe),
            ("access", self.access == measured.access),
            ("tensors", self.tensors == measured.tensors),
            ("expert_heat", self.expert_heat == measured.expert_heat),
        ];
        fields.into_iter().find(|(_, same)| !same).map(|(field, _)| field)
    }
}
