//! A policy, a registry and a waiver made ready: patterns compiled, texts read once, what cannot be read refused with a sentence.
//!
//! The wire types stop here. [`crate::index`] keeps the last form that could be read, so a policy that somebody breaks does not
//! open anything; the operator shows the sentence in the object's `Ready` condition.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::{ParseExpressionError, Selector, SelectorExt as _};

use crate::{
    access::{AccessRules, Demand, Who},
    api::{self, Level, Mode, QuarantineProvider},
    facts::Manifest,
    history::clip,
    image::{Digest, Reference, is_path_component},
    pattern::Pattern,
    proof::{Asked, Proof, ProofError},
};

mod labels;
mod waiver;

pub use self::waiver::Waiver;

/// A policy made ready.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Its name.
    pub name: String,
    /// What it does with its verdict.
    pub mode: Mode,
    /// The namespaces that it speaks of; none for every one.
    namespaces: Option<Selector>,
    selector: Option<LabelSelector>,
    images: Vec<Pattern>,
    exclude: Vec<Pattern>,
    allowed: Vec<Pattern>,
    allowed_in_words: Arc<str>,
    deny: Vec<Deny>,
    denies_digests: bool,
    /// What it asks for.
    pub require: api::Require,
    /// What of that has to be proven by signatures. Policies that ask for the same share it, so that it is judged once.
    pub proof: Arc<Proof>,
    /// What it does when nobody knows.
    pub when_unknown: api::WhenUnknown,
    /// What it does about pods whose image is no longer good.
    pub when_revoked: api::Revocation,
}

#[derive(Clone, Debug)]
struct Deny {
    what: Denied,
    reason: String,
}

#[derive(Clone, Debug)]
enum Denied {
    Image(Pattern),
    Digest(Digest),
}

/// Why an object cannot be made ready.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// The object itself: another version of the program wrote its definition.
    #[error("{0}")]
    Object(String),
    /// The namespace selector.
    #[error("spec.match.namespaceSelector: {0}")]
    Selector(String),
    /// A pattern.
    #[error("{field}: {why}")]
    Pattern {
        /// Where it stands.
        field: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// A digest.
    #[error("{field}: {why}")]
    Digest {
        /// Where it stands.
        field: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// A host.
    #[error("spec.hosts: {0}")]
    Host(String),
    /// Who is trusted, and what has to be signed.
    #[error("{0}")]
    Proof(ProofError),
    /// Who may use it.
    #[error("spec.access: {0}")]
    Access(String),
    /// The endpoint.
    #[error("spec.endpoint: {0}")]
    Endpoint(String),
    /// The mirror.
    #[error("spec.mirror.endpoint: {0}")]
    Mirror(String),
    /// The certificates.
    #[error("spec.caBundle: {0}")]
    CaBundle(String),
}

fn patterns(field: &'static str, texts: &[String]) -> Result<Vec<Pattern>, Unreadable> {
    texts.iter().map(|text| Pattern::parse(text).map_err(|error| Unreadable::Pattern { field, why: error.to_string() })).collect()
}

pub(crate) fn path_patterns(field: &'static str, texts: &[String]) -> Result<Vec<Pattern>, Unreadable> {
    texts.iter().map(|text| Pattern::parse_path(text).map_err(|error| Unreadable::Pattern { field, why: error.to_string() })).collect()
}

/// A label selector made ready; else what is wrong with it.
pub(crate) fn selector(given: LabelSelector) -> Result<Selector, String> {
    labels::check(&given)?;
    Selector::try_from(given).map_err(|error: ParseExpressionError| error.to_string())
}

fn digests(field: &'static str, texts: &[String]) -> Result<Vec<Digest>, Unreadable> {
    let read = |text: &String| text.parse::<Digest>().map_err(|error| Unreadable::Digest { field, why: error.to_string() });
    texts.iter().map(read).collect()
}

impl TryFrom<&api::QuarantinePolicy> for Policy {
    type Error = Unreadable;

    fn try_from(object: &api::QuarantinePolicy) -> Result<Self, Unreadable> {
        let spec = &object.spec;
        let namespaces = match spec.matching.namespace_selector.clone() {
            Some(given) if given.match_labels.is_some() || given.match_expressions.is_some() => {
                Some(selector(given).map_err(Unreadable::Selector)?)
            }
            _ => None,
        };
        let deny = spec.deny.iter().map(|rule| {
            let what = match (&rule.image, &rule.digest) {
                (Some(image), _) => Denied::Image(
                    Pattern::parse(image).map_err(|error| Unreadable::Pattern { field: "spec.deny", why: error.to_string() })?,
                ),
                (None, Some(digest)) => Denied::Digest(
                    digest
                        .parse()
                        .map_err(|error: crate::image::DigestError| Unreadable::Digest { field: "spec.deny", why: error.to_string() })?,
                ),
                (None, None) => return Err(Unreadable::Pattern { field: "spec.deny", why: "give either image or digest".into() }),
            };
            Ok(Deny { what, reason: rule.reason.clone() })
        });
        let deny: Vec<Deny> = deny.collect::<Result<_, _>>()?;
        let proof = Proof::read(&Asked {
            authorities: &spec.authorities,
            signatures: spec.require.signatures.as_ref(),
            sbom: spec.require.sbom.as_ref(),
            vulnerabilities: spec.require.vulnerabilities.as_ref(),
            life: spec.require.end_of_life.as_ref(),
        });
        let mut proof = proof.map_err(Unreadable::Proof)?;
        proof.even_held = spec.require.released != Level::Deny;
        Ok(Self {
            name: object.metadata.name.clone().unwrap_or_default(),
            mode: spec.mode,
            selector: namespaces.is_some().then(|| spec.matching.namespace_selector.clone()).flatten(),
            namespaces,
            images: patterns("spec.match.images", &spec.matching.images)?,
            exclude: patterns("spec.match.excludeImages", &spec.matching.exclude_images)?,
            allowed_in_words: allowed_in_words(spec.require.sources.as_ref()),
            allowed: match &spec.require.sources {
                Some(sources) => patterns("spec.require.sources.allowed", &sources.allowed)?,
                None => Vec::new(),
            },
            denies_digests: deny.iter().any(|rule| matches!(rule.what, Denied::Digest(_))),
            deny,
            proof: Arc::new(proof),
            require: spec.require.clone(),
            when_unknown: spec.when_unknown.clone(),
            when_revoked: spec.when_revoked,
        })
    }
}

/// The first few of the sources that a policy allows.
fn allowed_in_words(sources: Option<&api::RequireSources>) -> Arc<str> {
    const SHOWN: usize = 4;
    let allowed = sources.map_or(&[][..], |sources| &sources.allowed);
    let shown = allowed.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    match allowed.len().saturating_sub(SHOWN) {
        0 => shown.into(),
        more => format!("{shown} and {more} more").into(),
    }
}

impl Policy {
    /// Whether it speaks of namespaces with these labels.
    #[must_use]
    pub fn matches_namespace(&self, labels: &BTreeMap<String, String>) -> bool {
        self.namespaces.as_ref().is_none_or(|selector| selector.matches(labels))
    }

    /// The selector by which it chooses namespaces; none for every one.
    #[must_use]
    pub const fn selector(&self) -> Option<&LabelSelector> {
        self.selector.as_ref()
    }

    /// Whether it speaks of every namespace, so that none has to be read to know.
    #[must_use]
    pub const fn matches_every_namespace(&self) -> bool {
        self.namespaces.is_none()
    }

    /// Whether it speaks of the image with this canonical name.
    #[must_use]
    pub fn matches_image(&self, name: &str) -> bool {
        (self.images.is_empty() || self.images.iter().any(|pattern| pattern.matches(name))) && !self.excludes_image(name)
    }

    /// Whether it leaves the image with this canonical name alone.
    #[must_use]
    pub fn excludes_image(&self, name: &str) -> bool {
        self.exclude.iter().any(|pattern| pattern.matches(name))
    }

    /// Where images may come from, in words, if the one with this canonical name comes from elsewhere.
    #[must_use]
    pub fn elsewhere(&self, name: &str) -> Option<Arc<str>> {
        let allowed = self.allowed.is_empty() || self.allowed.iter().any(|pattern| pattern.matches(name));
        (!allowed).then(|| self.allowed_in_words.clone())
    }

    /// How much it weighs that an image is named without its registry.
    #[must_use]
    pub fn unqualified(&self) -> Level {
        self.require.sources.as_ref().map_or(Level::Off, |sources| sources.unqualified)
    }

    /// The reason of the rule that denies this name, or this digest by itself.
    #[must_use]
    pub fn denies(&self, image: &Reference) -> Option<&str> {
        let hit = |rule: &&Deny| match &rule.what {
            Denied::Image(pattern) => pattern.matches(image.name()),
            Denied::Digest(digest) => image.digest() == Some(digest),
        };
        self.deny.iter().find(hit).map(|rule| rule.reason.as_str())
    }

    /// The digests that it denies.
    pub fn denied_digests(&self) -> impl Iterator<Item = &Digest> {
        self.deny.iter().filter_map(|rule| match &rule.what {
            Denied::Digest(digest) => Some(digest),
            Denied::Image(_) => None,
        })
    }

    /// The reason of the rule that denies a digest, that of an image inside it, or that of its configuration.
    #[must_use]
    pub fn denies_digest(&self, digest: &Digest, manifest: &Manifest) -> Option<&str> {
        let hit = |rule: &&Deny| match &rule.what {
            Denied::Image(_) => false,
            Denied::Digest(denied) => denied == digest || manifest.digests().any(|inside| inside == denied),
        };
        self.deny.iter().find(hit).map(|rule| rule.reason.as_str())
    }

    /// Whether anything must be known of an image to judge it. Where not, no registry is asked.
    #[must_use]
    pub fn needs_facts(&self) -> bool {
        self.require.released != Level::Off || self.denies_digests || self.proof.is_asked()
    }

    /// Whether it denies any image by its digest.
    #[must_use]
    pub const fn denies_digests(&self) -> bool {
        self.denies_digests
    }
}

/// A Registry made ready.
#[derive(Clone, Debug)]
pub struct RegistryEntry {
    /// The object's name.
    pub name: String,
    /// The canonical hosts.
    pub hosts: Vec<String>,
    repositories: Vec<Pattern>,
    exclude: Vec<Pattern>,
    /// Who may use which of them.
    pub access: AccessRules,
    /// How it is reached, and how much it may be asked.
    pub spec: api::RegistrySpec,
    /// Who keeps the flag.
    pub provider: QuarantineProvider,
    /// Tells apart who is asked, where and how: another one when the object is changed in a way that makes old answers another's.
    pub place: u64,
    /// Who may run what is in quarantine.
    pub processor: Option<api::Processor>,
    /// What has to be proven for an image to be released by that.
    pub release: Option<Proof>,
    /// Why the criteria for that cannot be read: then nothing is released by them, and the Registry holds as it is otherwise.
    pub release_error: Option<String>,
    /// How often to look again.
    pub poll_interval: Duration,
    /// When the flag began to be kept by us and what ran then was adopted: `None` before it was done.
    pub adopted: Option<Timestamp>,
    /// What was written of images in use was true at this time.
    pub last_complete_pass: Option<Timestamp>,
    /// But for these.
    pub exceptions: Vec<String>,
    /// More could not be looked at than `exceptions` names: then the pass speaks for none.
    pub exceptions_cut: bool,
    /// The leader's last look found it out.
    pub unreachable: bool,
}

impl TryFrom<&api::Registry> for RegistryEntry {
    type Error = Unreadable;

    fn try_from(object: &api::Registry) -> Result<Self, Unreadable> {
        let spec = &object.spec;
        let hosts = spec.hosts.iter().map(|host| canonical_host(host)).collect::<Result<Vec<_>, _>>()?;
        if let Some(text) = &spec.endpoint {
            url::Url::parse(text).map_err(|error| Unreadable::Endpoint(error.to_string()))?;
        }
        if let Some(mirror) = &spec.mirror {
            url::Url::parse(&mirror.endpoint).map_err(|error| Unreadable::Mirror(error.to_string()))?;
        }
        let prefixes = [("spec.pathPrefix", &spec.path_prefix)];
        let mirrored = spec.mirror.iter().map(|mirror| ("spec.mirror.pathPrefix", &mirror.path_prefix));
        for (field, prefix) in prefixes.into_iter().chain(mirrored) {
            let wrong = prefix.as_ref().and_then(|prefix| prefix.split('/').find(|part| !is_path_component(part)));
            if let Some(part) = wrong {
                return Err(Unreadable::Pattern { field, why: format!("`{}` is no part of a repository path", clip(part, 64)) });
            }
        }
        if let Some(pem) = &spec.ca_bundle {
            use rustls_pki_types::{CertificateDer, pem::PemObject as _};
            let count = CertificateDer::pem_slice_iter(pem.as_bytes()).flatten().count();
            if count == 0 {
                return Err(Unreadable::CaBundle("no certificate in PEM".into()));
            }
        }
        let status = object.status.clone().unwrap_or_default();
        let (release, release_error) = match release(&spec.quarantine) {
            Ok(release) => (release, None),
            Err(error) => (None, Some(format!("spec.quarantine.release: {error}"))),
        };
        Ok(Self {
            release,
            release_error,
            name: object.metadata.name.clone().unwrap_or_default(),
            hosts,
            repositories: path_patterns("spec.repositories", &spec.repositories)?,
            exclude: path_patterns("spec.exclude", &spec.exclude)?,
            access: AccessRules::read(&spec.access)?,
            provider: spec.quarantine.provider,
            place: place(object.metadata.name.as_deref(), spec),
            processor: spec.quarantine.processor.clone(),
            spec: spec.clone(),
            poll_interval: spec.poll_interval.get().max(Duration::from_secs(10)),
            adopted: status.adoption.as_ref().and_then(|adoption| adoption.completed),
            last_complete_pass: status.last_complete_pass,
            unreachable: status.conditions.iter().any(|condition| condition.type_ == "Reachable" && condition.status == "False"),
            exceptions_cut: usize::try_from(status.exceptions_total).unwrap_or(usize::MAX) > status.exceptions.len(),
            exceptions: status.exceptions.into_iter().map(|exception| exception.subject).collect(),
        })
    }
}

/// What releases images by their proof, where Lazaretto keeps the flag.
fn release(spec: &api::QuarantineSpec) -> Result<Option<Proof>, ProofError> {
    let Some(release) = spec.release.as_ref().filter(|_| spec.provider == QuarantineProvider::Managed) else { return Ok(None) };
    let mut proof = Proof::read(&Asked {
        authorities: &release.authorities,
        signatures: release.signatures.as_ref(),
        sbom: release.sbom.as_ref(),
        vulnerabilities: release.vulnerabilities.as_ref(),
        life: None,
    })?;
    // Criteria that ask for nothing would release everything.
    proof.even_held = true;
    Ok(Some(proof).filter(Proof::is_asked))
}

fn place(name: Option<&str>, spec: &api::RegistrySpec) -> u64 {
    use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};
    let provider = spec.quarantine.provider;
    BuildHasherDefault::<DefaultHasher>::default().hash_one((
        name,
        &spec.endpoint,
        &spec.mirror,
        spec.plain_http,
        &spec.ca_bundle,
        provider,
    ))
}

/// A host as references have it, or why it is none. Read through the one reader of references, so that the two never differ.
fn canonical_host(text: &str) -> Result<String, Unreadable> {
    let reference = Reference::parse(&format!("{text}/x")).map_err(|error| Unreadable::Host(format!("{text}: {error}")))?;
    if reference.registry() == text && reference.repository().ends_with('x') {
        Ok(text.to_owned())
    } else {
        Err(Unreadable::Host(format!("{text}: write {} instead, as image names do", reference.registry())))
    }
}

impl RegistryEntry {
    /// Whether this repository may never be drawn from it.
    #[must_use]
    pub fn excludes(&self, repository: &str) -> bool {
        self.exclude.iter().any(|pattern| pattern.matches(repository))
    }

    /// Whether it speaks of this repository of one of its hosts.
    #[must_use]
    pub fn covers(&self, repository: &str) -> bool {
        self.repositories.is_empty() || self.repositories.iter().any(|pattern| pattern.matches(repository))
    }

    /// What has to be the case for a pod to use this repository.
    #[must_use]
    pub fn demand(&self, repository: &str, who: &Who<'_>) -> Demand {
        if self.excludes(repository) {
            return Demand::Impossible;
        }
        match self.access.demand(repository, who) {
            // Such a registry shows the states of images to nobody without credentials.
            Demand::Anonymous if self.provider == QuarantineProvider::AzureContainerRegistry => Demand::Nothing,
            demand => demand,
        }
    }

    /// Whether a pod that runs as this ServiceAccount is the quarantine processor's.
    #[must_use]
    pub fn is_processor(&self, namespace: &str, service_account: &str) -> bool {
        self.processor.as_ref().is_some_and(|processor| processor.namespace == namespace && processor.service_account == service_account)
    }
}
