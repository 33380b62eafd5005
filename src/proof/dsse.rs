//! DSSE envelopes (secure-systems-lab/dsse, protocol.md and envelope.md).

use std::sync::Arc;

use serde::Deserialize;

use super::{PublicKey, Refusal, Step, key::Message};

/// The payload type of in-toto statements.
pub const IN_TOTO: &str = "application/vnd.in-toto+json";
/// Signatures of one envelope that are tried.
const MOST_SIGNATURES: usize = 4;

/// An envelope: a payload, its type, and signatures over both.
#[derive(Clone, Debug)]
pub struct Envelope {
    /// What is signed.
    pub payload: Vec<u8>,
    /// Its type.
    pub payload_type: String,
    signatures: Vec<Vec<u8>>,
    /// What is signed, made once.
    signed: Arc<Message<'static>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Wire<'a> {
    #[serde(borrow)]
    payload: std::borrow::Cow<'a, str>,
    payload_type: String,
    #[serde(default)]
    signatures: Vec<WireSignature>,
}

#[derive(Deserialize)]
struct WireSignature {
    #[serde(default)]
    sig: String,
}

impl Envelope {
    /// Reads an envelope that stands by itself, as the layers of cosign's `.att` images are.
    ///
    /// # Errors
    /// It is none, or not whole.
    pub fn read(bytes: &[u8]) -> Result<Self, Refusal> {
        let wire: Wire<'_> = super::json::read(bytes).map_err(|why| Refusal::at(Step::Read, format!("no DSSE envelope: {why}")))?;
        Self::from_wire(&wire)
    }

    pub(super) fn from_wire(wire: &Wire<'_>) -> Result<Self, Refusal> {
        let read = |text: &str, what: &str| {
            super::bundle::base64(text).ok_or_else(|| Refusal::at(Step::Read, format!("the envelope's {what} is no base64")))
        };
        let signatures: Vec<Vec<u8>> =
            wire.signatures.iter().map(|signature| read(&signature.sig, "signature")).collect::<Result<_, _>>()?;
        if signatures.is_empty() || signatures.iter().any(Vec::is_empty) {
            return Err(Refusal::at(Step::Read, "the envelope has no signature"));
        }
        if signatures.len() > MOST_SIGNATURES {
            return Err(Refusal::at(Step::Read, format!("the envelope has more than {MOST_SIGNATURES} signatures")));
        }
        let payload = read(&wire.payload, "payload")?;
        let signed = Arc::new(Message::new(pae(&wire.payload_type, &payload)));
        Ok(Self { payload, payload_type: wire.payload_type.clone(), signatures, signed })
    }

    /// Signatures that it has.
    #[must_use]
    pub fn signatures(&self) -> usize {
        self.signatures.len()
    }

    /// Whether the payload says of itself that it is an in-toto statement. The type is signed with it.
    ///
    /// # Errors
    /// It is something else.
    pub fn expect_statement(&self) -> Result<(), Refusal> {
        if self.payload_type == IN_TOTO {
            return Ok(());
        }
        Err(Refusal::at(
            Step::PayloadType,
            format!("the payload is `{}`, and no in-toto statement ({IN_TOTO})", super::token(&self.payload_type)),
        ))
    }

    /// Whether one of the signatures is the key's.
    ///
    /// # Errors
    /// None is.
    pub fn verify(&self, key: &PublicKey) -> Result<(), Refusal> {
        if self.signatures.iter().any(|signature| key.verifies(&self.signed, signature)) {
            return Ok(());
        }
        let kind = key.kind().as_str();
        Err(Refusal::at(
            Step::Signature,
            format!("the signature is not this {kind} key's over this payload: another key, or changed since"),
        ))
    }
}

/// What is signed: the pre-authentication encoding of a payload and its type.
#[must_use]
pub fn pae(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut bytes = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len()).into_bytes();
    bytes.extend_from_slice(payload);
    bytes
}
