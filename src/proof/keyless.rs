//! Keyless signatures: a certificate of minutes, issued to an identity, and logs that prove when it was used.
//!
//! The checks are those of the crate `sigstore-verify`, offline, against a trusted root that the caller brings
//! (sigstore/protobuf-specs, sigstore_trustroot.proto). All of these have to pass:
//!
//! - at least one proven time of signing: the log's signed entry timestamp over the integrated time, or an RFC 3161 timestamp of a trusted
//!   authority; every time that comes along has to be right, and there is no falling back to now;
//! - the certificate chains to a certificate authority that the root trusts at each of these times, was valid at each, and is for code signing;
//! - its signed certificate timestamp is a trusted certificate transparency log's;
//! - the log entry's inclusion proof leads to a checkpoint that a trusted log signed, and its inclusion promise, if any, is that log's;
//! - the signature is the certificate's over the payload, and the log entry is about this payload, signature and certificate.
//!
//! What is not checked: revocation of certificates (Sigstore has none), and whether the log is consistent over time, which takes a witness.
//! Who the certificate was issued to is compared by [`Identity`].

use std::fmt;

use sigstore_verify::{CertificateError, Error, VerificationPolicy, Verifier, trust_root::TrustedRoot as Wire, types};

use super::{Bundle, Refusal, Signer, Step, Subject, bundle::Material};
use crate::{history::clip, image::Digest};

/// The most bytes of a trusted root; the public one has 7,000.
pub const MAX_ROOT_BYTES: usize = 256 << 10;

/// A trusted root: the authorities and logs that are believed, each for its time.
pub struct TrustRoot {
    verifier: Verifier,
    fingerprint: Digest,
}

impl fmt::Debug for TrustRoot {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("TrustRoot").field("fingerprint", &self.fingerprint).finish_non_exhaustive()
    }
}

/// Why a text is no trusted root.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no trusted root: {0}")]
pub struct TrustRootError(String);

impl TrustRoot {
    /// Reads a trusted root in JSON.
    ///
    /// # Errors
    /// It is none, or something in it is malformed.
    pub fn read(json: &[u8]) -> Result<Self, TrustRootError> {
        let refuse = |why: String| TrustRootError(clip(&why, 256));
        if json.len() > MAX_ROOT_BYTES {
            return Err(refuse(format!("it has more than {} KiB", MAX_ROOT_BYTES >> 10)));
        }
        super::json::check(json).map_err(refuse)?;
        let text = std::str::from_utf8(json).map_err(|_| refuse("it is no UTF-8".to_owned()))?;
        let root = Wire::from_json(text).map_err(|error| refuse(error.to_string()))?;
        if root.certificate_authorities.is_empty() || root.tlogs.is_empty() || root.ctlogs.is_empty() {
            return Err(refuse("it needs certificateAuthorities, tlogs and ctlogs".to_owned()));
        }
        let verifier = Verifier::new(&root).map_err(|error| refuse(error.to_string()))?;
        Ok(Self { verifier, fingerprint: Digest::of(json) })
    }

    /// SHA-256 of its bytes.
    #[must_use]
    pub const fn fingerprint(&self) -> &Digest {
        &self.fingerprint
    }

    pub(super) fn verify(&self, bundle: &Bundle, subject: Subject<'_>) -> Result<Signer, Refusal> {
        if matches!(bundle.material, Material::PublicKey { .. }) {
            return Err(Refusal::at(Step::Material, "it was signed with a key, and certificates are trusted"));
        }
        let parsed = types::Bundle::from_json(bundle.text()).map_err(|error| Refusal::at(Step::Read, format!("no bundle: {error}")))?;
        let digest = subject.digest();
        let Some(sha256) = digest.sha256() else {
            return Err(Refusal::at(Step::Digest, "keyless signatures are compared by SHA-256: give a sha256 digest"));
        };
        let policy = VerificationPolicy::any_identity();
        let verified = match subject {
            Subject::Artifact(bytes) => self.verifier.verify(bytes, &parsed, &policy),
            Subject::Digest(_) => self.verifier.verify(types::Sha256Hash::new(*sha256), &parsed, &policy),
        };
        let verified = verified.map_err(|error| Refusal::at(step(&error), error))?;
        if !(verified.certificate_verified() && verified.sct_verified() && verified.tlog_verified()) {
            return Err(Refusal::at(Step::Certificate, "not everything was checked"));
        }
        let (Some(subject), Some(issuer)) = (verified.identity(), verified.issuer()) else {
            return Err(Refusal::at(Step::Identity, "the certificate names no identity, or no issuer"));
        };
        let whole = |text: &str| {
            // A longer one, cut, could be somebody else's.
            let plain = text.len() <= 256 && !text.chars().any(char::is_control);
            plain
                .then(|| text.to_owned())
                .ok_or_else(|| Refusal::at(Step::Identity, "the certificate's identity has more than 256 bytes, or control characters"))
        };
        Ok(Signer::Keyless { issuer: whole(issuer)?, subject: whole(subject.as_str())?, root: self.fingerprint.clone() })
    }
}

fn step(error: &Error) -> Step {
    match error {
        Error::IdentityMismatch { .. } | Error::IssuerMismatch { .. } => Step::Identity,
        Error::SignatureInvalid(_) | Error::UnsupportedArtifact(_) | Error::ArtifactRead(_) => Step::Signature,
        Error::ArtifactMismatch(_) => Step::Digest,
        Error::Certificate(CertificateError::Sct(_)) => Step::CertificateLog,
        Error::Certificate(_) => Step::Certificate,
        Error::TransparencyLog(_) => Step::Log,
        Error::Timestamp(_) => Step::Time,
        // A log entry without its proof is found out when the bundle's shape is looked at.
        Error::Bundle(
            sigstore_verify::bundle::Error::MissingInclusionProof(_) | sigstore_verify::bundle::Error::MissingInclusionPromise(_),
        ) => Step::Log,
        Error::Bundle(sigstore_verify::bundle::Error::MissingSigningTimeEvidence) => Step::Time,
        _ => Step::Read,
    }
}

/// Whom a certificate has to have been issued to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The OIDC issuer.
    pub issuer: Wanted,
    /// The e-mail address or URI.
    pub subject: Wanted,
}

/// One of the two, exactly or by an anchored pattern.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Wanted {
    /// This text and no other.
    Exact(String),
    /// The whole of the text: `*` stands for anything but a `/`, `**` for anything.
    Pattern(String),
}

impl Wanted {
    /// Whether a text is wanted.
    #[must_use]
    pub fn holds(&self, text: &str) -> bool {
        match self {
            Self::Exact(wanted) => wanted == text,
            Self::Pattern(pattern) => glob(pattern.as_bytes(), text.as_bytes()),
        }
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Exact(text) | Self::Pattern(text)) = self;
        out.write_str(text)
    }
}

impl Identity {
    /// Whether somebody is meant.
    #[must_use]
    pub fn holds(&self, issuer: &str, subject: &str) -> bool {
        self.issuer.holds(issuer) && self.subject.holds(subject)
    }

    /// Whether a signer is meant.
    ///
    /// # Errors
    /// It is somebody else.
    pub fn expect(&self, signer: &Signer) -> Result<(), Refusal> {
        match signer {
            Signer::Keyless { issuer, subject, .. } if self.holds(issuer, subject) => Ok(()),
            other => {
                Err(Refusal::at(Step::Identity, format!("it was signed by {other}, and not by {} (by {})", self.subject, self.issuer)))
            }
        }
    }
}

/// Both texts are short, so every place of the text is looked at for every place of the pattern, at the most: no pattern is slow.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let mut held = vec![false; text.len() + 1];
    held[0] = true;
    let mut rest = pattern;
    while let Some((&first, after)) = rest.split_first() {
        let mut next = vec![false; text.len() + 1];
        if first == b'*' {
            let any = after.first() == Some(&b'*');
            rest = if any { &after[1..] } else { after };
            let mut reached = false;
            for place in 0..=text.len() {
                reached |= held[place];
                next[place] = reached;
                // A star that does not cross a slash ends before it.
                if !any && text.get(place) == Some(&b'/') {
                    reached = false;
                }
            }
        } else {
            rest = after;
            for place in 0..text.len() {
                next[place + 1] = held[place] && text[place] == first;
            }
        }
        held = next;
    }
    held[text.len()]
}
