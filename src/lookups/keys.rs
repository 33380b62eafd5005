//! What flights are told apart by.

use std::sync::Arc;

use crate::{
    api::{Evidence, MAX_EVIDENCE_BYTES},
    facts::{Child, Facts, Manifest, Outcome},
    flights::Weigh,
    image::{Digest, Reference, Subject},
    origin::Rival,
    policy::RegistryEntry,
    registry::{CredentialIdentity, Endpoint},
};

use super::Access;

/// The digest of a tag, for whoever shows this.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct ResolveKey {
    pub(super) image: Reference,
    pub(super) access: CredentialIdentity,
    /// Where it is asked, as [`place`] has it.
    pub(super) place: u64,
}

/// What a Registry object says of who is asked: answers of before a change of that are none after it.
pub(super) fn place(registry: Option<&Arc<RegistryEntry>>) -> u64 {
    registry.map_or(0, |registry| registry.place)
}

/// The facts about a digest, for whoever shows this.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct JudgeKey {
    pub(super) subject: Subject,
    pub(super) access: CredentialIdentity,
    /// Where it is asked, as [`place`] has it.
    pub(super) place: u64,
    /// Whether what is found is written down: a dry run must not be answered for by one that writes, nor the other way round.
    pub(super) record: bool,
}

/// Whether an image is shown to whoever shows this.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct PermitKey {
    pub(super) image: Reference,
    pub(super) access: CredentialIdentity,
    /// Where it is asked, as [`place`] has it.
    pub(super) place: u64,
}

/// Whether a repository is shown to whoever shows this.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct ShownKey {
    name: Box<str>,
    access: CredentialIdentity,
    place: u64,
}

impl ShownKey {
    pub(super) fn new(image: &Reference, access: CredentialIdentity, place: u64) -> Self {
        Self { name: image.name().into(), access, place }
    }
}

/// What is signed about a digest, for whoever shows this.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct ProveKey {
    pub(super) subject: Subject,
    pub(super) access: CredentialIdentity,
    /// Where it is asked, as [`place`] has it.
    pub(super) place: u64,
    /// Who is looked for, and for which platforms inside an index.
    pub(super) wanted: u64,
    /// Whether what is found is written down.
    pub(super) record: bool,
}

/// Whether a registry holds a repository.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct HoldsKey {
    place: u64,
    access: CredentialIdentity,
    /// With its host.
    repository: Box<str>,
}

impl HoldsKey {
    pub(super) fn new(rival: &Rival, access: &Access) -> Self {
        Self { place: rival.registry.place, access: access.identity, repository: rival.name().into() }
    }

    pub(super) fn is_of(&self, registry: &RegistryEntry) -> bool {
        self.place == registry.place
    }
}

impl Weigh for HoldsKey {
    fn weight(&self) -> usize {
        self.repository.len()
    }
}

/// Where a registry is spoken to. One Registry object may list several hosts, of which one is out and the others are well.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Door {
    /// The Registry object's name.
    registry: Arc<str>,
    base: Box<str>,
}

impl Door {
    pub(super) fn new(registry: &str, endpoint: &Endpoint) -> Self {
        Self { registry: registry.into(), base: endpoint.base.as_str().into() }
    }
}

/// Whether a registry is well.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum ProbeKey {
    /// Whether it answers about what others than this namespace asked for.
    Well(Door, Arc<str>),
    /// Whether it answers again.
    Again(Door),
    /// Whether it refuses these for everything.
    Refuses(Door, CredentialIdentity),
}

/// Whose a tag's last digest is: the Registry's own credentials are one, whatever they hold now, so that a Secret that changes or
/// goes does not make a known bad tag an unknown one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct TagKey {
    image: Reference,
    stranger: Option<CredentialIdentity>,
}

impl TagKey {
    pub(super) fn new(image: &Reference, access: Option<&Access>) -> Self {
        Self { image: image.clone(), stranger: access.filter(|access| !access.own).map(|access| access.identity) }
    }
}

/// An `Arc<str>` beside its own bytes.
const COUNTS: usize = 16;

fn image(reference: &Reference) -> usize {
    COUNTS + reference.name().len() + reference.tag().map_or(0, |tag| COUNTS + tag.len()) + reference.digest().map_or(0, Weigh::weight)
}

fn manifest(manifest: &Manifest) -> usize {
    let children = manifest.children.iter().map(|child| size_of::<Child>() + child.digest.weight() + child.platform.len());
    manifest.config.as_ref().map_or(0, Weigh::weight) + children.sum::<usize>()
}

impl Weigh for Digest {
    fn weight(&self) -> usize {
        // One of sha256 is whole in its own bytes.
        if self.algorithm() == "sha256" { 0 } else { COUNTS + 64 }
    }
}

impl Weigh for ResolveKey {
    fn weight(&self) -> usize {
        image(&self.image)
    }
}

impl Weigh for PermitKey {
    fn weight(&self) -> usize {
        image(&self.image)
    }
}

impl Weigh for () {
    fn weight(&self) -> usize {
        0
    }
}

impl Weigh for JudgeKey {
    fn weight(&self) -> usize {
        COUNTS + self.subject.registry().len() + self.subject.repository().len() + self.subject.digest().weight()
    }
}

impl Weigh for ProveKey {
    fn weight(&self) -> usize {
        COUNTS + self.subject.registry().len() + self.subject.repository().len() + self.subject.digest().weight()
    }
}

impl Weigh for Arc<Evidence> {
    fn weight(&self) -> usize {
        // What is kept is bounded by its JSON, and takes about as much again in memory.
        2 * MAX_EVIDENCE_BYTES
    }
}

impl ProbeKey {
    pub(super) fn is_of(&self, registry: &str) -> bool {
        let (Self::Well(door, _) | Self::Again(door) | Self::Refuses(door, _)) = self;
        *door.registry == *registry
    }
}

impl Weigh for Door {
    fn weight(&self) -> usize {
        self.registry.len() + self.base.len()
    }
}

impl Weigh for ProbeKey {
    fn weight(&self) -> usize {
        match self {
            Self::Refuses(door, _) | Self::Again(door) => door.weight(),
            Self::Well(door, namespace) => door.weight() + namespace.len(),
        }
    }
}

impl Weigh for bool {
    fn weight(&self) -> usize {
        1
    }
}

impl Weigh for Arc<Facts> {
    fn weight(&self) -> usize {
        size_of::<Facts>() + self.by.len() + self.reason.len() + self.details.len() + manifest(&self.manifest)
    }
}

impl<T: Weigh> Weigh for Outcome<T> {
    fn weight(&self) -> usize {
        match self {
            Self::Found(value) => value.weight(),
            Self::Blocked(block) => block.code.len() + block.message.len(),
            Self::Pending(text) | Self::Unauthorized(text) | Self::Misbehaved(text) => text.len(),
            Self::Unavailable(outage) => outage.message.len(),
            Self::Absent | Self::Hidden | Self::Refused | Self::Busy(_) => 0,
        }
    }
}
