//! An image with the policies that speak of it, before anybody is asked, and what has to be found out of it.

use std::sync::Arc;

use smallvec::SmallVec;

use super::Subjected;
use crate::{
    access::Demand,
    image::Reference,
    origin::Rival,
    policy::{Policy, RegistryEntry},
    proof::Proof,
    verdict::Opinion,
};

/// One image with the policies that speak of it, and what those say that need no more than its name.
#[derive(Clone, Debug)]
pub struct Spoken<'a> {
    /// The image.
    pub subjected: Subjected<'a>,
    /// The Registry that speaks of it.
    pub registry: Option<&'a Arc<RegistryEntry>>,
    /// Those that go before it, and are to be asked first.
    pub rivals: Vec<Rival>,
    pub(super) demand: Demand,
    /// Whoever is answered may see what those hold of it.
    pub(super) told: bool,
    pub(super) views: Vec<View<'a>>,
}

#[derive(Clone, Debug)]
pub(super) struct View<'a> {
    pub(super) policy: &'a Policy,
    /// None where more must be known.
    pub(super) opinion: Option<Opinion<'a>>,
}

impl<'a> Spoken<'a> {
    /// No policy speaks of it.
    #[must_use]
    pub const fn is_unspoken(&self) -> bool {
        self.views.is_empty()
    }

    /// What its Registry asks of the pod.
    #[must_use]
    pub const fn demand(&self) -> Demand {
        self.demand
    }

    /// The pod has to prove by its pull secrets that it may use it.
    #[must_use]
    pub fn proves_access(&self) -> bool {
        self.demand == Demand::PullSecret
    }

    /// The image, if some policy needs to know more than its name.
    #[must_use]
    pub fn wants(&self) -> Option<&Reference> {
        let image = self.subjected.image.as_ref().ok()?;
        self.views.iter().any(|view| view.opinion.is_none()).then_some(image)
    }

    /// Those of which some policy needs to know more than the name, each image once.
    #[must_use]
    pub fn wanted<'s>(all: &'s [Self]) -> Vec<Want<'s, 'a>> {
        let mut wanted: Vec<Want<'_, '_>> = Vec::with_capacity(all.len());
        for spoken in all {
            if let Some(image) = spoken.wants()
                && !wanted.iter().any(|held| held.image == image)
            {
                let open = spoken.views.iter().filter(|view| view.opinion.is_none() && view.policy.proof.is_asked());
                let mut proofs: SmallVec<[&Proof; 2]> = SmallVec::new();
                for view in open {
                    let proof: &Proof = &view.policy.proof;
                    if !proofs.iter().any(|held| std::ptr::eq(*held, proof)) {
                        proofs.push(proof);
                    }
                }
                let facts = spoken.views.iter().any(|view| view.opinion.is_none() && view.policy.needs_facts());
                wanted.push(Want { image, registry: spoken.registry, rivals: &spoken.rivals, demand: spoken.demand, facts, proofs });
            }
        }
        wanted
    }
}

/// An image about which more has to be known than its name.
#[derive(Clone, Debug)]
pub struct Want<'s, 'a> {
    /// The image.
    pub image: &'s Reference,
    /// The Registry that speaks of it.
    pub registry: Option<&'a Arc<RegistryEntry>>,
    /// Those that go before it, and are to be asked first.
    pub rivals: &'s [Rival],
    /// What that asks of the pod.
    pub demand: Demand,
    /// Something has to be known of the image itself, and not only its origin or whether the pod may use it.
    pub facts: bool,
    /// What has to be proven of it.
    pub proofs: SmallVec<[&'a Proof; 2]>,
}
