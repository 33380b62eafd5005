//! Makes authorities and leaves.

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
    string::Ia5String,
};
use rustls_pki_types::ServerName;
use time::OffsetDateTime;

use super::plan::{BACKDATE, Contents, Pair, Step};

/// Two years: renewed after sixteen months, which leaves eight for an installation that was switched off to come back without a gap.
pub(super) const AUTHORITY_LIFE: SignedDuration = SignedDuration::from_hours(24 * 730);

/// Ninety days: renewed every sixty, so that the renewal is a path that is walked and not one that is feared.
pub(super) const LEAF_LIFE: SignedDuration = SignedDuration::from_hours(24 * 90);

/// A certificate could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(super) enum IssueError {
    #[error(transparent)]
    Make(#[from] rcgen::Error),
    #[error("the year is out of range")]
    Range(#[from] time::error::ComponentRange),
    #[error("the time is out of range")]
    Time(#[from] jiff::Error),
    #[error("no authority to sign with")]
    NoAuthority,
    #[error("what was made cannot be read back")]
    Unreadable,
}

/// What the Secret should hold after `step`.
pub(super) fn carry_out(step: Step, from: Contents, names: &[ServerName<'static>], now: Timestamp) -> Result<Contents, IssueError> {
    let leaf = |authority: &Option<Pair>| leaf(authority.as_ref().ok_or(IssueError::NoAuthority)?, names, now).map(Some);
    Ok(match step {
        Step::Keep => from,
        Step::RenewLeaf => Contents { leaf: leaf(&from.authority)?, ..from },
        Step::AnnounceAuthority => Contents { next: Some(authority(now)?), ..from },
        Step::PromoteAuthority => Contents {
            leaf: leaf(&from.next)?,
            authority: from.next,
            next: None,
            previous: from.authority.map(|authority| authority.certificate),
        },
        Step::Create => {
            let new = Some(authority(now)?);
            Contents { leaf: leaf(&new)?, authority: new, next: None, previous: from.authority.map(|old| old.certificate) }
        }
    })
}

fn authority(now: Timestamp) -> Result<Pair, IssueError> {
    let key = KeyPair::generate()?;
    let mut params = lasting(now, now + AUTHORITY_LIFE)?;
    // A name for each: verifiers look issuers up by name, and two keys under one name make them guess.
    params.distinguished_name.push(DnType::CommonName, format!("lazaretto authority {now:.0}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let certificate = params.self_signed(&key)?.pem();
    Pair::read(certificate.as_bytes(), key.serialize_pem().as_bytes()).ok_or(IssueError::Unreadable)
}

/// Never outlives its authority.
fn leaf(authority: &Pair, names: &[ServerName<'static>], now: Timestamp) -> Result<Pair, IssueError> {
    let signer = KeyPair::from_pem(std::str::from_utf8(&authority.key).map_err(|_| IssueError::Unreadable)?)?;
    let issuer = Issuer::from_ca_cert_der(&authority.certificate.der, signer)?;
    let key = KeyPair::generate()?;
    let mut params = lasting(now, (now + LEAF_LIFE).min(authority.certificate.not_after))?;
    params.distinguished_name.push(DnType::CommonName, "lazaretto");
    params.subject_alt_names = names.iter().filter_map(|name| subject(name).transpose()).collect::<Result<_, _>>()?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let certificate = params.signed_by(&key, &issuer)?.pem();
    Pair::read(certificate.as_bytes(), key.serialize_pem().as_bytes()).ok_or(IssueError::Unreadable)
}

fn subject(name: &ServerName<'_>) -> Result<Option<SanType>, rcgen::Error> {
    Ok(match name {
        ServerName::DnsName(name) => Some(SanType::DnsName(Ia5String::try_from(name.as_ref())?)),
        ServerName::IpAddress(address) => Some(SanType::IpAddress((*address).into())),
        _ => None,
    })
}

fn lasting(from: Timestamp, until: Timestamp) -> Result<CertificateParams, IssueError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.not_before = OffsetDateTime::from_unix_timestamp((from - BACKDATE).as_second())?;
    params.not_after = OffsetDateTime::from_unix_timestamp(until.as_second())?;
    Ok(params)
}
