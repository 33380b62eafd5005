//! What people wrote, as one consistent set.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use crate::{
    api::TrustRootSource,
    image::{Digest, Reference, Subject},
    origin::{self, Rival},
    policy::{Policy, RegistryEntry, Waiver},
    proof::{Platforms, Proof, Roots},
    verdict::Sight,
};

/// What people wrote, made ready.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Policies by name.
    pub policies: BTreeMap<String, Arc<Policy>>,
    /// Registries by name.
    pub registries: BTreeMap<String, Arc<RegistryEntry>>,
    /// Waivers by name.
    pub waivers: BTreeMap<String, Arc<Waiver>>,
    /// Those of the cluster's nodes.
    pub platforms: Platforms,
    by_host: HashMap<String, Vec<Arc<RegistryEntry>>>,
    /// Those that go before others, by name.
    priority: Vec<Arc<RegistryEntry>>,
    /// By any policy.
    denied: HashSet<Digest>,
}

impl Rules {
    /// Whether some policy denies the digest of an image, that of one inside it, or that of its configuration.
    #[must_use]
    pub fn denies(&self, sight: &Sight) -> bool {
        let denied = |digest: &Digest| self.denied.contains(digest);
        !self.denied.is_empty()
            && (sight.subject.as_ref().is_some_and(|subject| denied(subject.digest()))
                || sight.facts().is_some_and(|facts| facts.manifest.digests().any(denied)))
    }

    pub(super) fn collect_denied(&mut self) {
        self.denied = self.policies.values().flat_map(|policy| policy.denied_digests()).cloned().collect();
    }

    /// Whether some Registry says by the labels of namespaces who may use it.
    #[must_use]
    pub fn asks_labels(&self) -> bool {
        self.registries.values().any(|registry| registry.access.asks_labels())
    }

    /// What policies want to have proven of an image, in whatever namespace, and its Registry for a release.
    #[must_use]
    pub fn proofs_of(&self, subject: &Subject) -> Vec<&Proof> {
        let mut proofs = self.proofs_for(&format!("{}/{}", subject.registry(), subject.repository()));
        proofs.extend(self.registry_for(subject.registry(), subject.repository()).and_then(|registry| registry.release.as_ref()));
        proofs
    }

    /// The same proof as some policy asks for already, if one does.
    pub(super) fn shared(&self, proof: Proof) -> Arc<Proof> {
        let held = self.policies.values().map(|policy| &policy.proof).find(|held| ***held == proof);
        held.cloned().unwrap_or_else(|| Arc::new(proof))
    }

    /// Where the trusted roots are that anything needs, each once.
    #[must_use]
    pub fn root_sources(&self) -> BTreeSet<TrustRootSource> {
        let releases = self.registries.values().filter_map(|registry| registry.release.as_ref());
        let proofs = self.policies.values().map(|policy| &*policy.proof).chain(releases);
        proofs.flat_map(Proof::sources).cloned().collect()
    }

    /// Has those proofs go by the trusted roots that are at hand, and by the platforms of nodes.
    pub(super) fn bind(&mut self, roots: &Roots, those: impl Fn(&Proof) -> bool) {
        let mut bound: Vec<Arc<Proof>> = Vec::new();
        let platforms = &self.platforms;
        for policy in self.policies.values_mut().filter(|policy| those(&policy.proof)) {
            let proof = policy.proof.bound(roots, platforms);
            let shared = bound.iter().find(|held| ***held == proof).cloned().unwrap_or_else(|| Arc::new(proof));
            bound.push(shared.clone());
            Arc::make_mut(policy).proof = shared;
        }
        for registry in self.registries.values_mut() {
            if let Some(proof) = registry.release.as_ref().filter(|proof| those(proof)).map(|proof| proof.bound(roots, platforms)) {
                Arc::make_mut(registry).release = Some(proof);
            }
        }
        self.rehost();
    }

    /// What those policies want to have proven that speak of images of this name.
    pub fn proofs_for(&self, name: &str) -> Vec<&Proof> {
        let policies = self.policies.values().filter(|policy| policy.proof.is_asked() && policy.matches_image(name));
        distinct(policies.map(|policy| &*policy.proof))
    }

    /// The Registry that speaks of this image; the first by name where several do.
    #[must_use]
    pub fn registry_of(&self, image: &Reference) -> Option<&Arc<RegistryEntry>> {
        self.registry_for(image.registry(), image.repository())
    }

    /// The Registry that speaks of this host and repository; the first by name where several do.
    #[must_use]
    pub fn registry_for(&self, host: &str, repository: &str) -> Option<&Arc<RegistryEntry>> {
        self.by_host.get(host)?.iter().find(|entry| entry.covers(repository))
    }

    /// The registries that are asked before that of this image whether they hold its repository.
    #[must_use]
    pub fn rivals(&self, image: &Reference, own: Option<&Arc<RegistryEntry>>) -> Vec<Rival> {
        origin::rivals(&self.priority, image, own.map(AsRef::as_ref))
    }

    pub(super) fn rehost(&mut self) {
        self.by_host.clear();
        self.priority = self.registries.values().filter(|entry| entry.spec.priority).cloned().collect();
        for entry in self.registries.values() {
            for host in &entry.hosts {
                self.by_host.entry(host.clone()).or_default().push(entry.clone());
            }
        }
    }
}

/// Each once, by where it stands.
fn distinct<'a>(proofs: impl Iterator<Item = &'a Proof>) -> Vec<&'a Proof> {
    let mut all: Vec<&Proof> = Vec::new();
    for proof in proofs {
        if !all.iter().any(|held| std::ptr::eq(*held, proof)) {
            all.push(proof);
        }
    }
    all
}
