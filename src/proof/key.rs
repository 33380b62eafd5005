//! Public keys, and which signatures they verify.

use std::{borrow::Cow, sync::OnceLock};

use aws_lc_rs::{
    digest,
    signature::{self, UnparsedPublicKey, VerificationAlgorithm},
};
use rustls_pki_types::{SubjectPublicKeyInfoDer, pem::PemObject as _};
use x509_parser::{oid_registry, prelude::FromDer as _, public_key::PublicKey as Parsed, x509::SubjectPublicKeyInfo};

use crate::image::Digest;

/// The most bytes of a key in PEM: RSA with 8192 bits has 1,500.
pub const MAX_PEM_BYTES: usize = 4_096;

/// A public key: ECDSA on P-256 or P-384, Ed25519, or RSA of 2,048 to 8,192 bits.
///
/// A signature is accepted with any of the hashes that signers use with that kind of key: cosign signs with SHA-256 whatever the key,
/// sigstore's other clients with the hash that fits the curve. RSA signatures may have PKCS #1 1.5 or PSS padding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    kind: Kind,
    /// What the algorithms take: the point of a curve, or an RSAPublicKey (RFC 8017, appendix A.1.1).
    bytes: Vec<u8>,
    fingerprint: Digest,
}

/// The kind of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// ECDSA on NIST P-256.
    P256,
    /// ECDSA on NIST P-384.
    P384,
    /// Ed25519, over the message itself.
    Ed25519,
    /// RSA.
    Rsa,
}

impl Kind {
    /// The name for people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::P256 => "ECDSA P-256",
            Self::P384 => "ECDSA P-384",
            Self::Ed25519 => "Ed25519",
            Self::Rsa => "RSA",
        }
    }

    fn algorithms(self) -> &'static [(&'static dyn VerificationAlgorithm, Option<Hash>)] {
        use Hash::{Sha256, Sha384, Sha512};
        match self {
            Self::P256 => &[(&signature::ECDSA_P256_SHA256_ASN1, Some(Sha256)), (&signature::ECDSA_P256_SHA384_ASN1, Some(Sha384))],
            Self::P384 => &[(&signature::ECDSA_P384_SHA384_ASN1, Some(Sha384)), (&signature::ECDSA_P384_SHA256_ASN1, Some(Sha256))],
            Self::Ed25519 => &[(&signature::ED25519, None)],
            Self::Rsa => &[
                (&signature::RSA_PKCS1_2048_8192_SHA256, Some(Sha256)),
                (&signature::RSA_PKCS1_2048_8192_SHA384, Some(Sha384)),
                (&signature::RSA_PKCS1_2048_8192_SHA512, Some(Sha512)),
                (&signature::RSA_PSS_2048_8192_SHA256, Some(Sha256)),
                (&signature::RSA_PSS_2048_8192_SHA384, Some(Sha384)),
                (&signature::RSA_PSS_2048_8192_SHA512, Some(Sha512)),
            ],
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hash {
    Sha256,
    Sha384,
    Sha512,
}

/// Something that was signed, hashed once however many keys are tried on it.
#[derive(Debug)]
pub struct Message<'a> {
    bytes: Cow<'a, [u8]>,
    hashes: [OnceLock<digest::Digest>; 3],
}

impl<'a> Message<'a> {
    /// These bytes.
    #[must_use]
    pub fn new(bytes: impl Into<Cow<'a, [u8]>>) -> Self {
        Self { bytes: bytes.into(), hashes: [const { OnceLock::new() }; 3] }
    }

    fn digest(&self, hash: Hash) -> &digest::Digest {
        let (place, algorithm) = match hash {
            Hash::Sha256 => (0, &digest::SHA256),
            Hash::Sha384 => (1, &digest::SHA384),
            Hash::Sha512 => (2, &digest::SHA512),
        };
        self.hashes[place].get_or_init(|| digest::digest(algorithm, &self.bytes))
    }
}

/// Why a text is no key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// It is no PEM of a public key.
    #[error("no public key in PEM: it has to begin with -----BEGIN PUBLIC KEY-----")]
    NotPem,
    /// More than [`MAX_PEM_BYTES`], or more than one key.
    #[error("give one key, of at most {MAX_PEM_BYTES} bytes")]
    TooMuch,
    /// A kind that is not verified here.
    #[error("a key of a kind that is not verified here: use ECDSA P-256 or P-384, Ed25519, or RSA of 2048 to 8192 bits")]
    Kind,
}

impl PublicKey {
    /// Reads a key in PEM (`PUBLIC KEY`: SubjectPublicKeyInfo, RFC 5280 section 4.1).
    ///
    /// # Errors
    /// It is none, or of a kind that is not verified here.
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        if pem.len() > MAX_PEM_BYTES || pem.matches("-----BEGIN").count() > 1 {
            return Err(KeyError::TooMuch);
        }
        let der = SubjectPublicKeyInfoDer::from_pem_slice(pem.as_bytes()).map_err(|_| KeyError::NotPem)?;
        Self::from_der(&der)
    }

    fn from_der(der: &[u8]) -> Result<Self, KeyError> {
        let (rest, info) = SubjectPublicKeyInfo::from_der(der).map_err(|_| KeyError::NotPem)?;
        if !rest.is_empty() {
            return Err(KeyError::NotPem);
        }
        let algorithm = &info.algorithm.algorithm;
        let point = info.subject_public_key.data.to_vec();
        let (kind, bytes) = if *algorithm == oid_registry::OID_KEY_TYPE_EC_PUBLIC_KEY {
            let curve = info.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
            match (curve, point.len()) {
                (Some(curve), 65) if curve == oid_registry::OID_EC_P256 => (Kind::P256, point),
                (Some(curve), 97) if curve == oid_registry::OID_NIST_EC_P384 => (Kind::P384, point),
                _ => return Err(KeyError::Kind),
            }
        } else if *algorithm == oid_registry::OID_SIG_ED25519 && point.len() == 32 {
            (Kind::Ed25519, point)
        } else if *algorithm == oid_registry::OID_PKCS1_RSAENCRYPTION {
            match info.parsed() {
                Ok(Parsed::RSA(key)) if (2_048..=8_192).contains(&key.key_size()) => (Kind::Rsa, point),
                _ => return Err(KeyError::Kind),
            }
        } else {
            return Err(KeyError::Kind);
        };
        Ok(Self { kind, bytes, fingerprint: Digest::of(der) })
    }

    /// What kind it is.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// SHA-256 of its SubjectPublicKeyInfo in DER: what cosign gives as the hint of a bundle, in another writing.
    #[must_use]
    pub const fn fingerprint(&self) -> &Digest {
        &self.fingerprint
    }

    pub(super) fn sha256(&self) -> &[u8] {
        self.fingerprint.sha256().map_or(&[], |sha256| sha256.as_slice())
    }

    /// Whether a signature over a message is this key's.
    #[must_use]
    pub fn verifies(&self, message: &Message<'_>, signature: &[u8]) -> bool {
        self.kind.algorithms().iter().any(|(algorithm, hash)| {
            let key = UnparsedPublicKey::new(*algorithm, &self.bytes);
            match hash {
                Some(hash) => key.verify_digest(message.digest(*hash), signature).is_ok(),
                None => key.verify(&message.bytes, signature).is_ok(),
            }
        })
    }

    /// Whether a signature over a message is this key's, when only the message's SHA-256 is at hand. `None` where that is not enough to tell:
    /// Ed25519 signs the message itself, and a P-384 key most often another hash.
    #[must_use]
    pub fn verifies_digest(&self, sha256: &[u8; 32], signature: &[u8]) -> Option<bool> {
        let digest = digest::Digest::import_less_safe(sha256, &digest::SHA256).ok()?;
        let by_sha256 = self.kind.algorithms().iter().filter(|(_, hash)| *hash == Some(Hash::Sha256));
        let verifies = |algorithm| UnparsedPublicKey::new(algorithm, &self.bytes).verify_digest(&digest, signature).is_ok();
        let verified = by_sha256.map(|(algorithm, _)| *algorithm).any(verifies);
        match self.kind {
            _ if verified => Some(true),
            Kind::P256 | Kind::Rsa => Some(false),
            Kind::P384 | Kind::Ed25519 => None,
        }
    }
}
