//! The slots of depth that the intent of a request needs.
//!
//! ```
//! use srd_rs::met::policy::{Intent, standard};
//! use srd_rs::met::slots::Slot;
//!
//! assert_eq!(standard()[&Intent::parse("inform")?], [Slot::Early]);
//! assert_eq!(standard()[&Intent::Harm], Slot::ALL);
//! # Ok::<(), srd_rs::Error>(())
//! ```

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::slots::Slot;
use crate::error::{Error, Result};

/// What a request is about, as the caller has classified it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Intent {
    /// The request asks for information.
    Inform,
    /// The request needs a question back.
    Clarify,
    /// The request is to be refused.
    Refuse,
    /// The classifier is not sure.
    Uncertain,
    /// The request may do harm.
    Harm,
    /// The request may deceive.
    Deceive,
}

impl Intent {
    /// All intents.
    pub const ALL: [Self; 6] =
        [Self::Inform, Self::Clarify, Self::Refuse, Self::Uncertain, Self::Harm, Self::Deceive];

    /// Returns the name in capital letters, as the JSON has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Inform => "INFORM",
            Self::Clarify => "CLARIFY",
            Self::Refuse => "REFUSE",
            Self::Uncertain => "UNCERTAIN",
            Self::Harm => "HARM",
            Self::Deceive => "DECEIVE",
        }
    }

    /// Reads a name in capital or small letters.
    ///
    /// # Errors
    /// [`Error::Usage`] for a name that is not the name of an intent.
    pub fn parse(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|i| i.name().eq_ignore_ascii_case(name)).ok_or_else(|| {
            let known = Self::ALL.map(Self::name).join(", ");
            Error::usage(format!("'{name}' is not an intent"), format!("Use one of {known}"))
        })
    }
}

impl fmt::Display for Intent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The slots of every intent, in order of depth. The embedding part is not listed, because every intent needs it.
pub type Policy = BTreeMap<Intent, Vec<Slot>>;

/// The standard policy. INFORM needs the early slot; CLARIFY, REFUSE and UNCERTAIN need the governance slot as well;
/// HARM and DECEIVE need all slots.
pub fn standard() -> Policy {
    use Intent::{Clarify, Deceive, Harm, Inform, Refuse, Uncertain};
    let few = vec![Slot::Early, Slot::Governance];
    let all = Slot::ALL.to_vec();
    BTreeMap::from([
        (Inform, vec![Slot::Early]),
        (Clarify, few.clone()),
        (Refuse, few.clone()),
        (Uncertain, few),
        (Harm, all.clone()),
        (Deceive, all),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_standard_policy_as_json() {
        let text = serde_json::to_string(&standard()).unwrap();
        let all = r#"["early","factual","reasoning","governance"]"#;
        let few = r#"["early","governance"]"#;
        let expected = format!(
            r#"{{"INFORM":["early"],"CLARIFY":{few},"REFUSE":{few},"UNCERTAIN":{few},"HARM":{all},"DECEIVE":{all}}}"#
        );
        assert_eq!(text, expected);
        assert_eq!(serde_json::from_str::<Policy>(&text).unwrap(), standard());
    }

    #[test]
    fn names_are_read_in_any_case() {
        for intent in Intent::ALL {
            assert_eq!(Intent::parse(&intent.name().to_lowercase()).unwrap(), intent);
        }
        assert!(Intent::parse("LEARN").unwrap_err().to_string().contains("INFORM, CLARIFY"));
    }
}
