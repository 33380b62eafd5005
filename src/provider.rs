//! Who keeps the quarantine flag of a registry's images.
//!
//! One small trait, so that a registry with a flag of its own is one file more and nothing else. A keeper *reads* (or, on a
//! person's word, sets) the flag; what the flag means for a pod is [`crate::verdict`]'s, and writing it down is
//! [`crate::writer`]'s.

pub mod acr;
mod managed;

use futures::future::BoxFuture;
use jiff::Timestamp;

pub use managed::Managed;

use crate::{
    api::{Decision, Provider, QuarantineProvider, State},
    facts::{Facts, Manifest},
    history::{Observation, Weight},
    image::Subject,
    registry::{Credentials, Endpoint, Failure, RegistryClient},
};

/// One question to whoever keeps the flag.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// Who asks the registry: a client for this one look-up, so that all its requests have one time together.
    pub client: &'a RegistryClient,
    /// Where.
    pub endpoint: &'a Endpoint,
    /// With what.
    pub credentials: &'a Credentials,
    /// About which image.
    pub subject: &'a Subject,
    /// What ran before the flag was kept has been adopted. Only [`Managed`] asks.
    pub adopted: bool,
    /// The time.
    pub now: Timestamp,
}

/// What a keeper says of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Its state.
    State(Observation),
    /// It cannot be said yet.
    Pending(String),
}

/// Who keeps the quarantine flag of a registry's images.
pub trait Keeper: Send + Sync {
    /// What the keeper says of an image, now. The registry has confirmed that the digest is there when this ends well.
    fn observe<'a>(&'a self, question: Question<'a>) -> BoxFuture<'a, Result<Seen, Failure>>;

    /// Carries a person's decision out at the registry that keeps the flag.
    fn carry_out<'a>(&'a self, question: Question<'a>, decision: &'a Decision) -> BoxFuture<'a, Result<(), Failure>>;
}

/// The keeper for a provider.
#[must_use]
pub fn keeper(provider: QuarantineProvider) -> &'static dyn Keeper {
    match provider {
        QuarantineProvider::Managed => &Managed,
        QuarantineProvider::AzureContainerRegistry => &acr::AzureContainerRegistry,
        QuarantineProvider::None => &Nobody,
    }
}

/// Nobody keeps a flag: an image that is there is `Unmanaged`.
#[derive(Clone, Copy, Debug)]
pub struct Nobody;

impl Keeper for Nobody {
    fn observe<'a>(&'a self, question: Question<'a>) -> BoxFuture<'a, Result<Seen, Failure>> {
        Box::pin(async move {
            let manifest = confirm(&question).await?;
            let facts = Facts {
                state: State::Unmanaged,
                since: question.now,
                by: question.endpoint.host.clone(),
                reason: "nobody keeps a quarantine flag for this registry".to_owned(),
                details: String::new(),
                provider: Provider::None,
                observed_at: question.now,
                manifest,
            };
            Ok(Seen::State(Observation { facts, weight: Weight::Seen }))
        })
    }

    fn carry_out<'a>(&'a self, _: Question<'a>, _: &'a Decision) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async {
            Err(Failure::Forbidden("nobody keeps a quarantine flag for this registry, so there is nothing to decide".to_owned()))
        })
    }
}

/// Reads the manifest by its digest, which confirms that the registry has it.
///
/// # Errors
/// However the question ended instead.
pub async fn confirm(question: &Question<'_>) -> Result<Manifest, Failure> {
    let answer =
        question.client.manifest(question.endpoint, question.credentials, question.subject.repository(), question.subject.digest()).await?;
    Ok(answer.manifest)
}
