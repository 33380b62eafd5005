//! Authorities made ready: who is trusted to sign.

use std::{collections::HashMap, fmt, sync::Arc};

use super::{Identity, KeyError, PublicKey, Signer, TrustRoot, keyless::Wanted};
use crate::api::{self, EvidenceItem, TrustRootSource};

/// Characters that tell authorities apart in what was looked for.
const SHORT: usize = 16;

/// The trusted roots that are at hand, by where they are.
pub type Roots = HashMap<TrustRootSource, Arc<TrustRoot>>;

/// Somebody who is trusted to sign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    /// The name by which requirements speak of it.
    pub name: String,
    /// What is trusted.
    pub trust: Trust,
    /// Tells apart what signatures are checked with: a key, or a trusted root, which all identities under it share.
    pub id: Arc<str>,
    /// The same as what was looked for names it; empty where it cannot be looked for yet.
    pub short: Arc<str>,
}

/// What is trusted.
#[derive(Clone, Debug)]
pub enum Trust {
    /// A key.
    Key(PublicKey),
    /// An identity, by a trusted root.
    Keyless {
        /// Who.
        identity: Identity,
        /// Where the root is.
        source: TrustRootSource,
        /// The root, once it was read.
        root: Option<Arc<TrustRoot>>,
    },
}

impl PartialEq for Trust {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Key(key), Self::Key(other)) => key == other,
            (Self::Keyless { identity, source, root }, Self::Keyless { identity: i, source: s, root: r }) => {
                let print = |root: &Option<Arc<TrustRoot>>| root.as_ref().map(|root| root.fingerprint().clone());
                identity == i && source == s && print(root) == print(r)
            }
            _ => false,
        }
    }
}

impl Eq for Trust {}

/// Why an authority cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    /// Its key.
    #[error("{0}")]
    Key(#[from] KeyError),
    /// Neither, or both.
    #[error("give either publicKey or keyless")]
    Neither,
    /// An identity without its half.
    #[error("give either {0} or {0}Pattern")]
    Identity(&'static str),
}

impl Authority {
    /// Reads one. The trusted root of an identity comes later.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(wire: &api::Authority) -> Result<Self, AuthorityError> {
        match (&wire.public_key, &wire.keyless) {
            (Some(pem), None) => {
                let key = PublicKey::from_pem(pem)?;
                let id: Arc<str> = key.fingerprint().to_string().into();
                let short = key.fingerprint().hex().chars().take(SHORT).collect::<String>();
                Ok(Self { name: wire.name.clone(), trust: Trust::Key(key), id, short: short.into() })
            }
            (None, Some(keyless)) => {
                let identity = Identity {
                    issuer: wanted("issuer", keyless.issuer.as_ref(), keyless.issuer_pattern.as_ref())?,
                    subject: wanted("subject", keyless.subject.as_ref(), keyless.subject_pattern.as_ref())?,
                };
                let trust = Trust::Keyless { identity, source: keyless.trust_root.clone(), root: None };
                Ok(Self { name: wire.name.clone(), trust, id: "".into(), short: "".into() })
            }
            _ => Err(AuthorityError::Neither),
        }
    }

    /// Where its trusted root is, where it needs one.
    #[must_use]
    pub const fn source(&self) -> Option<&TrustRootSource> {
        match &self.trust {
            Trust::Key(_) => None,
            Trust::Keyless { source, .. } => Some(source),
        }
    }

    /// The same with the trusted root that is at hand.
    #[must_use]
    pub fn bound(&self, roots: &Roots) -> Self {
        let Trust::Keyless { identity, source, .. } = &self.trust else { return self.clone() };
        let root = roots.get(source).cloned();
        let id = root.as_ref().map_or_else(String::new, |root| format!("root {}", root.fingerprint()));
        let short =
            root.as_ref().map_or_else(String::new, |root| format!("root-{}", root.fingerprint().hex()).chars().take(SHORT).collect());
        let trust = Trust::Keyless { identity: identity.clone(), source: source.clone(), root };
        Self { name: self.name.clone(), trust, id: id.into(), short: short.into() }
    }

    /// Whether it signed a piece of evidence.
    #[must_use]
    pub fn signed(&self, item: &EvidenceItem) -> bool {
        match &self.trust {
            Trust::Key(_) => !item.key.is_empty() && *item.key == *self.id,
            Trust::Keyless { identity, root: Some(_), .. } => {
                item.key.is_empty()
                    && self.id.strip_prefix("root ").is_some_and(|root| *item.root == *root)
                    && identity.holds(&item.issuer, &item.subject)
            }
            Trust::Keyless { root: None, .. } => false,
        }
    }
}

fn wanted(what: &'static str, exact: Option<&String>, pattern: Option<&String>) -> Result<Wanted, AuthorityError> {
    match (exact, pattern) {
        (Some(text), None) => Ok(Wanted::Exact(text.clone())),
        (None, Some(text)) => Ok(Wanted::Pattern(text.clone())),
        _ => Err(AuthorityError::Identity(what)),
    }
}

/// Who signed a piece of evidence, for people.
#[must_use]
pub fn signer(item: &EvidenceItem) -> impl fmt::Display {
    if item.key.is_empty() { format!("{} (by {})", item.subject, item.issuer) } else { format!("key {}", item.key) }
}

/// Writes down who signed.
pub(super) fn sign(item: EvidenceItem, signer: &Signer) -> EvidenceItem {
    match signer {
        Signer::Key(key) => EvidenceItem { key: key.to_string(), ..item },
        Signer::Keyless { issuer, subject, root } => {
            EvidenceItem { issuer: issuer.clone(), subject: subject.clone(), root: root.to_string(), ..item }
        }
    }
}
