//! Attestations: an in-toto statement (v1) in a DSSE envelope (v1.0).
//!
//! The subjects are whole files with their SHA-256, as in-toto and the OpenSSF `model_signing` tools name files.
//!
//! ```
//! use serde_json::json;
//! use srd_rs::sign::attest::{Subject, statement};
//!
//! let subject = Subject { name: "model.gguf".into(), sha256: [0; 32] };
//! let statement = statement(&[subject], json!({"seed": 1}));
//! assert_eq!(statement["subject"][0]["name"], "model.gguf");
//! ```

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use super::ed25519::SignKey;
use super::{Hash, sha256, to_hex};

/// The type of the payload of the envelope.
pub const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";
/// The type of the statement.
pub const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v1";
/// The type of the predicate: how a container was converted and verified.
pub const PREDICATE_TYPE: &str = "urn:srd-rs:attestation:conversion:v1";

/// A file and its SHA-256.
#[derive(Debug, Clone)]
pub struct Subject {
    /// The name of the file, without its folder.
    pub name: String,
    /// The SHA-256 of the whole file.
    pub sha256: Hash,
}

/// Makes the statement that `subjects` were made as `predicate` says.
pub fn statement(subjects: &[Subject], predicate: Value) -> Value {
    let subjects: Vec<_> =
        subjects.iter().map(|s| json!({"name": s.name, "digest": {"sha256": to_hex(&s.sha256)}})).collect();
    json!({
        "_type": STATEMENT_TYPE,
        "subject": subjects,
        "predicateType": PREDICATE_TYPE,
        "predicate": predicate,
    })
}

/// Makes the envelope of a statement. The envelope is signed if there is a key; else its list of signatures is empty.
/// `keyid` is the SHA-256 of the 32 bytes of the public key, in hexadecimal digits.
pub fn envelope(statement: &Value, key: Option<&SignKey>) -> Value {
    let payload = statement.to_string();
    let signatures: Vec<_> = key
        .map(|key| {
            let signature = key.sign(&pre_authentication_encoding(payload.as_bytes()));
            json!({"keyid": to_hex(&sha256(&[&key.public()])), "sig": BASE64.encode(signature)})
        })
        .into_iter()
        .collect();
    json!({
        "payloadType": PAYLOAD_TYPE,
        "payload": BASE64.encode(payload.as_bytes()),
        "signatures": signatures,
    })
}

/// The pre-authentication encoding (PAE) of DSSE, which is what the key signs.
fn pre_authentication_encoding(payload: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {PAYLOAD_TYPE} {} ", PAYLOAD_TYPE.len(), payload.len());
    [head.as_bytes(), payload].concat()
}

#[cfg(test)]
mod tests {
    use super::super::ed25519::is_signature;
    use super::*;

    #[test]
    fn an_envelope_holds_the_statement_and_its_signature() {
        let dir = tempfile::tempdir().unwrap();
        let key = SignKey::generate(&dir.path().join("k"), &dir.path().join("k.pub")).unwrap();
        let subject = Subject { name: "a.gguf".into(), sha256: [7; 32] };
        let statement = statement(&[subject], json!({"seed": 1}));
        let envelope = envelope(&statement, Some(&key));
        let payload = BASE64.decode(envelope["payload"].as_str().unwrap()).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&payload).unwrap(), statement);
        let signature = BASE64.decode(envelope["signatures"][0]["sig"].as_str().unwrap()).unwrap();
        let signed = [
            b"DSSEv1 28 application/vnd.in-toto+json ".as_slice(),
            payload.len().to_string().as_bytes(),
            b" ",
            &payload,
        ]
        .concat();
        assert!(is_signature(&key.public(), &signed, &signature.try_into().unwrap()));
        assert_eq!(super::envelope(&statement, None)["signatures"], json!([]));
    }
}
