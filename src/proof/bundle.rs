//! Sigstore bundles (sigstore/protobuf-specs, sigstore_bundle.proto), versions 0.1 to 0.3.

use ::base64::{Engine as _, engine::general_purpose};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    PublicKey, Refusal, Step, Subject,
    dsse::{self, Envelope},
    key,
};

/// The most bytes of a bundle. An SBOM within may be large.
pub const MAX_BYTES: usize = 24 << 20;
/// What the media types of bundles begin with.
pub const MEDIA_TYPE: &str = "application/vnd.dev.sigstore.bundle";

const VERSIONS: [&str; 4] = [
    "application/vnd.dev.sigstore.bundle.v0.3+json",
    "application/vnd.dev.sigstore.bundle+json;version=0.3",
    "application/vnd.dev.sigstore.bundle+json;version=0.2",
    "application/vnd.dev.sigstore.bundle+json;version=0.1",
];

/// A bundle as it was read, unproven.
#[derive(Clone, Debug)]
pub struct Bundle {
    /// What it was made with.
    pub material: Material,
    /// What is signed.
    pub content: Content,
    /// As it came, for whoever checks certificates.
    text: String,
}

/// What a signature was made with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Material {
    /// A key, with a hint which.
    PublicKey {
        /// Free text; cosign writes the base64 of the key's SHA-256.
        hint: String,
    },
    /// A certificate.
    Certificate,
}

/// What is signed.
#[derive(Clone, Debug)]
pub enum Content {
    /// A DSSE envelope.
    Envelope(Envelope),
    /// The artifact itself.
    Message(Message),
}

/// A signature over the artifact itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    signature: Vec<u8>,
    /// SHA-256 of the artifact, if the bundle says so.
    sha256: Option<Vec<u8>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire<'a> {
    #[serde(default)]
    media_type: String,
    #[serde(borrow)]
    verification_material: Option<WireMaterial<'a>>,
    #[serde(borrow)]
    dsse_envelope: Option<dsse::Wire<'a>>,
    message_signature: Option<WireMessage>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireMaterial<'a> {
    public_key: Option<WireHint>,
    #[serde(borrow)]
    certificate: Option<&'a RawValue>,
    #[serde(borrow)]
    x509_certificate_chain: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct WireHint {
    #[serde(default)]
    hint: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireMessage {
    message_digest: Option<WireDigest>,
    signature: String,
}

#[derive(Deserialize)]
struct WireDigest {
    algorithm: String,
    digest: String,
}

/// Standard base64, as protobuf's JSON has it; readers take it without padding, too.
pub(super) fn base64(text: &str) -> Option<Vec<u8>> {
    let engine = if text.len().is_multiple_of(4) { &general_purpose::STANDARD } else { &general_purpose::STANDARD_NO_PAD };
    engine.decode(text).ok()
}

impl Bundle {
    /// Reads a bundle.
    ///
    /// # Errors
    /// It is none, not whole, too large, or of a version that is not read.
    pub fn read(bytes: &[u8]) -> Result<Self, Refusal> {
        let refuse = |why: String| Refusal::at(Step::Read, why);
        if bytes.len() > MAX_BYTES {
            return Err(refuse(format!("it has more than {} MiB", MAX_BYTES >> 20)));
        }
        let wire: Wire<'_> = super::json::read(bytes).map_err(|why| refuse(format!("no bundle: {why}")))?;
        if !VERSIONS.contains(&wire.media_type.as_str()) {
            return Err(refuse(format!(
                "no bundle of a version that is read here (0.1 to 0.3): its media type is `{}`",
                super::token(&wire.media_type)
            )));
        }
        let Some(material) = wire.verification_material else { return Err(refuse("it has no verificationMaterial".to_owned())) };
        let material = match (material.public_key, material.certificate, material.x509_certificate_chain) {
            (Some(WireHint { hint }), None, None) => Material::PublicKey { hint },
            (None, Some(_), None) | (None, None, Some(_)) => Material::Certificate,
            (None, None, None) => return Err(refuse("it has neither a key's hint nor a certificate".to_owned())),
            _ => return Err(refuse("it has more than one of a key's hint, a certificate and a chain".to_owned())),
        };
        let content = match (wire.dsse_envelope, wire.message_signature) {
            (Some(envelope), None) => {
                let envelope = Envelope::from_wire(&envelope)?;
                if envelope.signatures() != 1 {
                    return Err(refuse("the envelope of a bundle has one signature, this has more".to_owned()));
                }
                Content::Envelope(envelope)
            }
            (None, Some(message)) => Content::Message(Message::from_wire(&message)?),
            (None, None) => return Err(refuse("it has neither a dsseEnvelope nor a messageSignature".to_owned())),
            (Some(_), Some(_)) => return Err(refuse("it has both a dsseEnvelope and a messageSignature".to_owned())),
        };
        let text = std::str::from_utf8(bytes).map_err(|_| refuse("it is no UTF-8".to_owned()))?;
        // Only certificates are checked by its text.
        let text = if material == Material::Certificate { text.to_owned() } else { String::new() };
        Ok(Self { material, content, text })
    }

    /// The text of a bundle with a certificate.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// A hint is no proof, and most are right: one that names another key saves the attempt.
    pub(super) fn made_with(&self, key: &PublicKey) -> Result<(), Refusal> {
        let Material::PublicKey { hint } = &self.material else {
            return Err(Refusal::at(Step::Material, "it was signed with a certificate, and a key is trusted"));
        };
        match base64(hint) {
            Some(hint) if hint.len() == 32 && hint != key.sha256() => {
                Err(Refusal::at(Step::Material, "it was signed with another key: its hint is that key's SHA-256"))
            }
            _ => Ok(()),
        }
    }
}

impl Message {
    fn from_wire(wire: &WireMessage) -> Result<Self, Refusal> {
        let read = |text: &str, what: &str| {
            base64(text).filter(|bytes| !bytes.is_empty()).ok_or_else(|| Refusal::at(Step::Read, format!("the {what} is no base64")))
        };
        let sha256 = match &wire.message_digest {
            Some(digest) if digest.algorithm == "SHA2_256" => Some(read(&digest.digest, "message's digest")?),
            _ => None,
        };
        Ok(Self { signature: read(&wire.signature, "message's signature")?, sha256 })
    }

    pub(super) fn verify(&self, key: &PublicKey, subject: Subject<'_>) -> Result<(), Refusal> {
        let digest = subject.digest();
        let Some(sha256) = digest.sha256() else {
            return Err(Refusal::at(Step::Digest, "a message is compared by SHA-256: give a sha256 digest"));
        };
        if self.sha256.as_deref().is_some_and(|said| said != sha256) {
            return Err(Refusal::at(Step::Digest, format!("it is about another digest than {digest}")));
        }
        let verifies = match subject {
            Subject::Artifact(bytes) => Some(key.verifies(&key::Message::new(bytes), &self.signature)),
            Subject::Digest(_) => key.verifies_digest(sha256, &self.signature),
        };
        match verifies {
            Some(true) => Ok(()),
            Some(false) => Err(Refusal::at(Step::Signature, "the signature is not this key's over this artifact")),
            None => Err(Refusal::at(
                Step::Signature,
                format!(
                    "what a key of this kind ({}) signed cannot be told from its digest: give the artifact itself",
                    key.kind().as_str()
                ),
            )),
        }
    }
}
