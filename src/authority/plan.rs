//! What the Secret says, and what should become of it: values in, values out.

use std::{collections::BTreeMap, fmt};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::ByteString;
use rustls::{
    RootCertStore,
    client::{verify_server_cert_signed_by_trust_anchor, verify_server_name},
    server::ParsedCertificate,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject};

use crate::tls;

/// How long an authority stands in the bundle before it signs what is served: more than any replica or API server may lag behind.
pub(super) const OVERLAP: SignedDuration = SignedDuration::from_hours(1);

/// Certificates begin this much before they are made, for clocks that are behind.
pub(super) const BACKDATE: SignedDuration = SignedDuration::from_mins(5);

/// Keys of the Secret's data. The leaf bears the names of type `kubernetes.io/tls`, so that a person finds what is expected.
mod key {
    pub(super) const LEAF: (&str, &str) = ("tls.crt", "tls.key");
    pub(super) const AUTHORITY: (&str, &str) = ("ca.crt", "ca.key");
    pub(super) const NEXT: (&str, &str) = ("next-ca.crt", "next-ca.key");
    pub(super) const PREVIOUS: &str = "previous-ca.crt";
}

/// A certificate and the key that belongs to it; proven to match when read.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) certificate: Certificate,
    /// PEM. In no log and no `Debug`.
    pub(super) key: Vec<u8>,
}

/// A readable certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Certificate {
    pub(super) pem: Vec<u8>,
    pub(super) der: CertificateDer<'static>,
    pub(super) not_before: Timestamp,
    pub(super) not_after: Timestamp,
}

/// The Secret's content. What is missing, unreadable or does not match its key is `None`: nobody could use it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Contents {
    /// What is served.
    pub(super) leaf: Option<Pair>,
    /// Signs leaves.
    pub(super) authority: Option<Pair>,
    /// Announced: in the bundle, signs nothing yet.
    pub(super) next: Option<Pair>,
    /// Signed what a lagging replica may still serve. Its key is gone.
    pub(super) previous: Option<Certificate>,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// All is well.
    Keep,
    /// A new leaf from the same authority.
    RenewLeaf,
    /// Make the next authority and put it in the bundle.
    AnnounceAuthority,
    /// The announced authority becomes the one that signs, with a new leaf.
    PromoteAuthority,
    /// Nothing to build on: a new authority and a new leaf at once.
    Create,
}

/// Decides. `confirmed` is the bundle that was read back from the webhook configurations, empty if none was.
pub(super) fn plan(contents: &Contents, names: &[ServerName<'static>], confirmed: &[u8], now: Timestamp) -> Step {
    let next = contents.next.as_ref().filter(|next| next.certificate.covers(now));
    let Some(authority) = contents.authority.as_ref().filter(|authority| authority.certificate.covers(now)) else {
        return if next.is_some() { Step::PromoteAuthority } else { Step::Create };
    };
    let authority = &authority.certificate;
    if let Some(next) = next {
        let announced = next.certificate.not_before + BACKDATE;
        let trusted = contains(confirmed, &next.certificate.der) || now >= authority.at(5, 6);
        if trusted && now >= announced + OVERLAP {
            return Step::PromoteAuthority;
        }
    }
    let sound = |leaf: &Pair| now < leaf.certificate.at(2, 3) && verifies(&leaf.certificate.der, names, &authority.pem, now);
    if !contents.leaf.as_ref().is_some_and(sound) {
        return Step::RenewLeaf;
    }
    if next.is_none() && now >= authority.at(2, 3) {
        return Step::AnnounceAuthority;
    }
    Step::Keep
}

/// Whether a client that trusts the PEM `bundle` takes `leaf` for each of `names` at `now`.
///
/// As strict as Go's verifier, which the API server uses: rustls lets an expired root pass, Go does not.
pub(super) fn verifies(leaf: &CertificateDer<'_>, names: &[ServerName<'static>], bundle: &[u8], now: Timestamp) -> bool {
    let (Ok(leaf), Ok(seconds)) = (ParsedCertificate::try_from(leaf), u64::try_from(now.as_second())) else { return false };
    let mut roots = RootCertStore::empty();
    let living = certificates(bundle).filter(|root| tls::validity(root).is_some_and(|(begin, end)| begin <= now && now < end));
    roots.add_parsable_certificates(living);
    let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
    let algorithms = tls::provider().signature_verification_algorithms.all;
    names.iter().all(|name| verify_server_name(&leaf, name).is_ok())
        && verify_server_cert_signed_by_trust_anchor(&leaf, &roots, &[], at, algorithms).is_ok()
}

fn certificates(pem: &[u8]) -> impl Iterator<Item = CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem).filter_map(Result::ok)
}

fn contains(bundle: &[u8], certificate: &CertificateDer<'_>) -> bool {
    certificates(bundle).any(|one| one == *certificate)
}

// === impl Contents ===

impl Contents {
    pub(super) fn read(data: &BTreeMap<String, ByteString>) -> Self {
        let bytes = |key: &str| data.get(key).map(|bytes| bytes.0.as_slice());
        let pair = |(certificate, key)| Pair::read(bytes(certificate)?, bytes(key)?);
        Self {
            leaf: pair(key::LEAF),
            authority: pair(key::AUTHORITY).filter(Pair::may_sign),
            next: pair(key::NEXT).filter(Pair::may_sign),
            previous: bytes(key::PREVIOUS).and_then(Certificate::read),
        }
    }

    /// Puts the content into `data` and leaves what is not ours.
    pub(super) fn write(&self, data: &mut BTreeMap<String, ByteString>) {
        let mut set = |key: &str, value: Option<&Vec<u8>>| match value {
            Some(bytes) => data.insert(key.to_owned(), ByteString(bytes.clone())),
            None => data.remove(key),
        };
        for (key, pair) in [(key::LEAF, &self.leaf), (key::AUTHORITY, &self.authority), (key::NEXT, &self.next)] {
            set(key.0, pair.as_ref().map(|pair| &pair.certificate.pem));
            set(key.1, pair.as_ref().map(|pair| &pair.key));
        }
        set(key::PREVIOUS, self.previous.as_ref().map(|previous| &previous.pem));
    }

    /// The caBundle: whoever trusts it trusts every leaf that any replica may serve, now and after the next step.
    pub(super) fn bundle(&self) -> Vec<u8> {
        let current = [&self.authority, &self.next].into_iter().flatten().map(|pair| &pair.certificate);
        let mut bundle = Vec::new();
        for certificate in current.chain(&self.previous) {
            bundle.extend_from_slice(&certificate.pem);
            if !bundle.ends_with(b"\n") {
                bundle.push(b'\n');
            }
        }
        bundle
    }
}

// === impl Pair, Certificate ===

impl Pair {
    pub(super) fn read(chain: &[u8], key: &[u8]) -> Option<Self> {
        tls::certified_key(chain, key).ok()?;
        Some(Self { certificate: Certificate::read(chain)?, key: key.to_vec() })
    }
}

impl Pair {
    /// Whether it is an authority's. What a leaf signed no API server takes, though everything here would.
    fn may_sign(&self) -> bool {
        x509_parser::parse_x509_certificate(&self.certificate.der).is_ok_and(|(_, certificate)| certificate.is_ca())
    }
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pair").field("not_after", &self.certificate.not_after).finish_non_exhaustive()
    }
}

impl Certificate {
    fn read(pem: &[u8]) -> Option<Self> {
        let der = CertificateDer::from_pem_slice(pem).ok()?;
        let (not_before, not_after) = tls::validity(&der)?;
        Some(Self { pem: pem.to_vec(), der, not_before, not_after })
    }

    fn covers(&self, now: Timestamp) -> bool {
        self.not_before <= now && now < self.not_after
    }

    /// The instant when this share of its life is over.
    fn at(&self, part: i32, of: i32) -> Timestamp {
        self.not_before + self.not_before.duration_until(self.not_after) / of * part
    }
}
