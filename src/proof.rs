//! Proof that an image is what its makers say: signatures, attestations, and what they attest.
//!
//! Pure: bytes in, a finding or a [`Refusal`] out. Nothing here fetches, waits, or knows a policy. What is checked, in this order
//! ([`Step`]):
//!
//! - with a public key: the bundle can be read; it was made with a key and not with a certificate; its payload is an in-toto statement; the
//!   signature is the key's over the DSSE pre-authentication encoding; the statement names our digest, once. Log entries and
//!   timestamps that come along are not looked at: a key that its owner does not withdraw vouches at any time.
//! - keyless: all that `sigstore-verify` checks against the trusted root (module [`keyless`] lists it), and the same of the statement.
//! - cosign's older form: the signature is the key's over the payload, and the payload names our digest.
//!
//! JSON with duplicate keys is refused throughout: two readers would read it differently.

mod authority;
pub mod bundle;
pub mod dsse;
pub mod gather;
pub mod json;
pub mod key;
pub mod keyless;
pub mod memo;
pub mod platforms;
pub mod report;
mod require;
pub mod sbom;
pub mod simple;
pub mod statement;
#[cfg(test)]
mod tests;
pub mod vex;

use std::fmt;

pub use self::{
    authority::{Authority, AuthorityError, Roots, Trust, signer},
    bundle::Bundle,
    key::{KeyError, PublicKey},
    keyless::{Identity, TrustRoot, TrustRootError},
    platforms::Platforms,
    require::{Asked, Exceptions, NoExceptions, Proof, ProofError, Unproven},
    statement::Statement,
};
use crate::{history::clip, image::Digest};

/// What is checked, in the order in which it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// The bundle is one, and whole.
    Read,
    /// It was made with what is trusted: a key, or a certificate.
    Material,
    /// What is signed is an in-toto statement.
    PayloadType,
    /// When it was signed is proven.
    Time,
    /// The certificate was issued by a trusted authority and was valid then.
    Certificate,
    /// A certificate transparency log has the certificate.
    CertificateLog,
    /// The certificate was issued to whom it should.
    Identity,
    /// A transparency log has the signature.
    Log,
    /// The signature is the signer's over what is signed.
    Signature,
    /// The statement can be read.
    Statement,
    /// It is about our digest.
    Digest,
    /// What it says can be read.
    Predicate,
}

impl Step {
    /// Those of a signature by a key.
    pub const KEY: [Self; 6] = [Self::Read, Self::Material, Self::PayloadType, Self::Signature, Self::Statement, Self::Digest];
    /// Those of a keyless signature.
    pub const KEYLESS: [Self; 11] = [
        Self::Read,
        Self::Material,
        Self::PayloadType,
        Self::Time,
        Self::Certificate,
        Self::CertificateLog,
        Self::Identity,
        Self::Log,
        Self::Signature,
        Self::Statement,
        Self::Digest,
    ];

    /// The word for tables and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "Read",
            Self::Material => "Material",
            Self::PayloadType => "PayloadType",
            Self::Time => "Time",
            Self::Certificate => "Certificate",
            Self::CertificateLog => "CertificateLog",
            Self::Identity => "Identity",
            Self::Log => "Log",
            Self::Signature => "Signature",
            Self::Statement => "Statement",
            Self::Digest => "Digest",
            Self::Predicate => "Predicate",
        }
    }

    /// What holds once it has passed.
    #[must_use]
    pub const fn says(self) -> &'static str {
        match self {
            Self::Read => "the bundle is whole",
            Self::Material => "it was signed with what is trusted here",
            Self::PayloadType => "what is signed is an in-toto statement, or the artifact itself",
            Self::Time => "the time of signing is proven",
            Self::Certificate => "a trusted authority issued the certificate, and it was valid at that time",
            Self::CertificateLog => "a certificate transparency log has the certificate",
            Self::Identity => "it was issued to the wanted identity",
            Self::Log => "a transparency log has the signature",
            Self::Signature => "the signature is right",
            Self::Statement => "the statement can be read",
            Self::Digest => "it is about this digest",
            Self::Predicate => "what it says can be read",
        }
    }
}

/// Why something proves nothing, and at which step that came out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Refusal {
    /// Where it failed.
    pub step: Step,
    /// In words; at most 256 characters, no secrets.
    pub why: String,
}

impl Refusal {
    /// A refusal at a step.
    #[must_use]
    pub fn at(step: Step, why: impl fmt::Display) -> Self {
        Self { step, why: clip(&why.to_string(), 256) }
    }
}

/// As much of what a stranger wrote as may be shown to others: a word, and no prose.
fn token(text: &str) -> String {
    let plain = |letter: &char| letter.is_ascii_alphanumeric() || "-._:/+;=".contains(*letter);
    text.chars().take_while(plain).take(80).collect()
}

/// Who signed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Signer {
    /// Whoever holds the private half of a key: SHA-256 of its SubjectPublicKeyInfo in DER.
    Key(Digest),
    /// Whoever an issuer says, by a certificate under this trusted root.
    Keyless {
        /// The certificate's OIDC issuer; at most 256 bytes.
        issuer: String,
        /// Its e-mail address or URI; at most 256 bytes.
        subject: String,
        /// SHA-256 of the trusted root as it was given.
        root: Digest,
    },
}

impl fmt::Display for Signer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(fingerprint) => write!(out, "key {fingerprint}"),
            Self::Keyless { issuer, subject, .. } => write!(out, "{subject} (by {issuer})"),
        }
    }
}

/// Something that was signed about our digest, by somebody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attested<'a> {
    /// Who.
    pub signer: Signer,
    /// What.
    pub said: Said<'a>,
}

/// What was signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said<'a> {
    /// An in-toto statement about the digest.
    Statement(Statement<'a>),
    /// The artifact itself, or cosign's older payload: a signature and no more.
    Signature,
}

/// What an envelope or a message is held against.
#[derive(Clone, Copy, Debug)]
pub enum Subject<'a> {
    /// A digest that was found out elsewhere.
    Digest(&'a Digest),
    /// The bytes themselves, as Ed25519 wants them for a bare signature.
    Artifact(&'a [u8]),
}

impl Subject<'_> {
    /// The digest; that of an artifact is its SHA-256.
    #[must_use]
    pub fn digest(&self) -> Digest {
        match self {
            Self::Digest(digest) => (*digest).clone(),
            Self::Artifact(bytes) => Digest::of(bytes),
        }
    }
}

/// Checks a bundle with a public key.
///
/// # Errors
/// The first step that fails.
pub fn with_key<'a>(bundle: &'a Bundle, key: &PublicKey, subject: Subject<'_>) -> Result<Attested<'a>, Refusal> {
    bundle.made_with(key)?;
    let signer = Signer::Key(key.fingerprint().clone());
    let said = match &bundle.content {
        bundle::Content::Envelope(envelope) => {
            envelope.expect_statement()?;
            envelope.verify(key)?;
            Said::Statement(Statement::about(&envelope.payload, &subject.digest())?)
        }
        bundle::Content::Message(message) => {
            message.verify(key, subject)?;
            Said::Signature
        }
    };
    Ok(Attested { signer, said })
}

/// Checks a bundle against a trusted root, whoever the certificate was issued to: that is for whoever asks to compare.
///
/// # Errors
/// The first step that fails.
pub fn keyless<'a>(bundle: &'a Bundle, root: &TrustRoot, subject: Subject<'_>) -> Result<Attested<'a>, Refusal> {
    if let bundle::Content::Envelope(envelope) = &bundle.content {
        envelope.expect_statement()?;
    }
    let signer = root.verify(bundle, subject)?;
    let said = match &bundle.content {
        bundle::Content::Envelope(envelope) => Said::Statement(Statement::about(&envelope.payload, &subject.digest())?),
        bundle::Content::Message(_) => Said::Signature,
    };
    Ok(Attested { signer, said })
}
