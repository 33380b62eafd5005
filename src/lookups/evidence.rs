//! Evidence about a registry itself: looked for where a question ended without an answer, and at the end of an outage.
//!
//! What counts as evidence is [`super::health`]'s; here it is asked for.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt as _, stream::FuturesUnordered};
use tokio::time::Instant;

use super::{
    Access,
    ask::{Context, Parts, endpoint},
    health::{Episode, FIRST_LOOK, Health, LAST_LOOK},
    keys::{Door, ProbeKey},
    tags::is_ours,
};
use crate::{
    facts::{Busy, Outage, Outcome, OutcomeKind},
    flights::{Found, Ticket},
    line::Class,
    metrics::{Asked, QuestionLabels},
    policy::RegistryEntry,
    registry::{Endpoint, Failure, Pass, Request, TagOrDigest},
};

/// How long a probe's finding counts as evidence.
const EVIDENCE: Duration = Duration::from_secs(2);
/// From one look at a registry's front door to the next.
const BETWEEN_PINGS: Duration = Duration::from_millis(100);
/// How long a question waits, while a registry is out, for a look whether it still is; and the time of that look.
const HALF_OPEN: Duration = Duration::from_millis(500);
/// How long what such a look found counts.
const BETWEEN_HALF_OPEN: Duration = Duration::from_millis(250);
/// The least time that a probe has.
const SHORTEST_PROBE: Duration = Duration::from_millis(500);

/// What the health of a registry is looked into for: whose question about what it did not answer.
#[derive(Clone, Debug)]
pub(super) struct About {
    registry: Arc<str>,
    endpoint: Endpoint,
    access: Access,
    health: Arc<Health>,
    namespace: Arc<str>,
    repository: Arc<str>,
}

impl About {
    pub(super) fn of(context: &Context<'_>, registry: &RegistryEntry, health: Arc<Health>) -> Self {
        Self {
            registry: registry.name.as_str().into(),
            endpoint: context.endpoint.clone(),
            access: context.access.clone(),
            health,
            namespace: context.namespace.into(),
            repository: context.repository.into(),
        }
    }

    pub(super) fn key(&self) -> ProbeKey {
        ProbeKey::Well(self.door(), self.namespace.clone())
    }

    fn door(&self) -> Door {
        Door::new(&self.registry, &self.endpoint)
    }

    pub(super) fn ticket(&self) -> Ticket<'_> {
        ticket(&self.registry)
    }
}

impl Parts {
    pub(super) async fn outage<T>(self: &Arc<Self>, context: &Context<'_>, outage: Outage) -> Outcome<T> {
        let Some(registry) = context.registry else {
            return Outcome::Busy(Busy::UNLISTED);
        };
        let deadline = Instant::now() + context.endpoint.timeout;
        let about = About::of(context, registry, self.sources.health(&registry.name, context.endpoint));
        if let Some(outage) = about.health.out() {
            // Somebody else has found it out meanwhile.
            return Outcome::Unavailable(outage);
        }
        let probe = || self.clone().probe(about.clone());
        match self.probes.get(about.key(), about.ticket(), deadline, probe).await {
            Ok(false) => {}
            Ok(true) => {
                let message = outage.message;
                return Outcome::Pending(format!("the registry is well, but did not answer about this image ({message})"));
            }
            Err(why) => return super::busy(why),
        }
        self.found_out(&about, &outage);
        Outcome::Unavailable(outage)
    }

    /// The operator's regular look at a registry ended in an outage: it counts as one only with the evidence that every other has to have.
    pub(super) async fn suspect(self: &Arc<Self>, registry: &Arc<RegistryEntry>, endpoint: &Endpoint, access: &Access, outage: &Outage) {
        let context =
            Context { registry: Some(registry), endpoint, access, repository: "", class: Class::Polling, namespace: "", known: false };
        let _found: Outcome<()> = self.outage(&context, outage.clone()).await;
    }

    /// A registry is out, by evidence about itself.
    fn found_out(self: &Arc<Self>, about: &About, outage: &Outage) {
        if let Some(episode) = about.health.found_out(outage) {
            tracing::warn!(registry = &*about.registry, host = about.endpoint.host, outage = outage.message, "a registry is out");
            tokio::spawn(self.clone().await_recovery(about.clone(), episode));
        }
    }

    /// Whether a registry is well, as far as there is evidence that the author of one image cannot make: it answers about some of the images
    /// that other namespaces asked for, in other repositories. Its storage may be out while its front door is not, and the other way round.
    /// Where there are too few such images, whether it answers anything at all.
    async fn is_well(&self, about: &About, besides: Option<(&str, &str)>, time: Duration) -> bool {
        let mut endpoint = about.endpoint.clone();
        endpoint.timeout = time;
        let Some(canaries) = about.health.canaries(besides).filter(|_| is_ours(&about.access)) else {
            // Twice: one answer in ten that is an error makes no outage.
            endpoint.timeout = time.saturating_sub(BETWEEN_PINGS) / 2;
            for wait in [Duration::ZERO, BETWEEN_PINGS] {
                tokio::time::sleep(wait).await;
                if !matches!(self.client.within(Pass::free(endpoint.timeout)).ping(&endpoint).await, Err(Failure::Outage(_))) {
                    return true;
                }
            }
            return false;
        };
        let ask = canaries.iter().map(|canary| {
            let client = self.client.within(Pass::free(endpoint.timeout));
            let (endpoint, credentials) = (&endpoint, &about.access.credentials);
            async move { client.resolve(endpoint, credentials, &canary.repository, TagOrDigest::Digest(&canary.digest)).await }
        });
        let mut asked: FuturesUnordered<_> = ask.collect();
        while let Some(end) = asked.next().await {
            // One answer is enough.
            if !matches!(end, Err(Failure::Outage(_))) {
                return true;
            }
        }
        false
    }

    /// Looks whether it is well, for whoever's question was not answered.
    pub(super) async fn probe(self: Arc<Self>, about: About) -> Found<bool> {
        // The evidence must be there before the first review's patience ends.
        let time = probe_time(&about.endpoint);
        let well = self.is_well(&about, Some((&about.namespace, &about.repository)), time).await;
        let outcome = if well { OutcomeKind::Found } else { OutcomeKind::Unavailable };
        self.metrics.questions.get_or_create(&QuestionLabels { question: Asked::Probe, outcome }).inc();
        Found { value: well, fresh_for: EVIDENCE }
    }

    /// Looks for the end of an outage, and then forgets what was answered while it lasted.
    async fn await_recovery(self: Arc<Self>, about: About, episode: Episode) {
        let mut wait = FIRST_LOOK;
        loop {
            tokio::time::sleep(wait).await;
            if !about.health.lasts(episode) {
                return;
            }
            wait = (wait * 2).min(LAST_LOOK);
            let rules = self.index.read().rules();
            let now = rules.registries.get(&*about.registry).and_then(|registry| endpoint(&about.endpoint.host, Some(registry)).ok());
            if now.is_none_or(|now| now.base != about.endpoint.base) {
                // Nobody asks there any more. Whoever names it again begins anew.
                self.sources.forget(&about.registry, &about.endpoint);
                return;
            }
            if !Arc::ptr_eq(&self.sources.health(&about.registry, &about.endpoint), &about.health) {
                // It was named again, and has a health of its own.
                return;
            }
            if self.is_well(&about, None, probe_time(&about.endpoint)).await {
                self.well_again(&about.registry, &about.health);
            }
        }
    }

    /// Whether a registry that is out answers again, for a question that came meanwhile: one look for all of them, so that the first review after
    /// a recovery is answered by the registry and not by what was true a few seconds ago. What was asked before the question came may have been
    /// asked before the recovery: such a look that found nothing is followed by another.
    pub(super) async fn answers_again(self: &Arc<Self>, about: About, wait: bool) -> bool {
        let key = ProbeKey::Again(about.door());
        let look = || {
            let (parts, asked) = (self.clone(), about.clone());
            async move {
                asked.health.note_look();
                let well = parts.is_well(&asked, None, HALF_OPEN).await;
                if well {
                    parts.well_again(&asked.registry, &asked.health);
                }
                Found { value: well, fresh_for: BETWEEN_HALF_OPEN }
            }
        };
        if !wait {
            self.probes.launch(key, about.ticket(), look);
            return false;
        }
        let came = Instant::now();
        let within = || Instant::now() + HALF_OPEN;
        let mut well = match self.probes.peek(&key) {
            Some(well) => return well,
            None => self.probes.get(key.clone(), about.ticket(), within(), look).await.unwrap_or_default(),
        };
        if !well && about.health.last_look() < Some(came) {
            self.probes.forget(|held, _| *held == key);
            well = self.probes.get(key, about.ticket(), within(), look).await.unwrap_or_default();
        }
        well
    }

    /// A registry answers, by whatever sign.
    pub(super) fn well_again(&self, registry: &str, health: &Health) {
        if health.found_well() {
            tracing::info!(registry, "a registry is well again");
            self.probes.forget(|key, _| key.is_of(registry));
            let rules = self.index.read().rules();
            let there = |host: &str, repository: &str| rules.registry_for(host, repository).is_some_and(|found| found.name == registry);
            self.resolves.forget(|key, end| !matches!(end, Outcome::Found(_)) && there(key.image.registry(), key.image.repository()));
            self.holds.forget(|key, end| {
                !matches!(end, Outcome::Found(_)) && rules.registries.get(registry).is_some_and(|found| key.is_of(found))
            });
            self.judges.forget(|key, end| !matches!(end, Outcome::Found(_)) && there(key.subject.registry(), key.subject.repository()));
            self.proofs.forget(|key, end| !matches!(end, Outcome::Found(_)) && there(key.subject.registry(), key.subject.repository()));
            self.permissions.forget(|key, end| !matches!(end, Outcome::Found(())) && there(key.image.registry(), key.image.repository()));
            self.recovered.send_modify(|count| *count += 1);
        }
    }

    /// Whether the registry refuses these credentials for everything and not only for one path, which a pod's author may choose.
    pub(super) async fn refuses_everything(self: &Arc<Self>, context: &Context<'_>, registry: &RegistryEntry) -> bool {
        let key = ProbeKey::Refuses(Door::new(&registry.name, context.endpoint), context.access.identity);
        let deadline = Instant::now() + context.endpoint.timeout;
        let (parts, endpoint, credentials) = (self.clone(), context.endpoint.clone(), context.access.credentials.clone());
        let ask = || async move {
            let request = Request { method: http::Method::GET, path: "/v2/", scopes: &[], body: None };
            let refuses = matches!(parts.client.request(&endpoint, &credentials, request).await, Err(Failure::Unauthorized(_)));
            Found { value: refuses, fresh_for: EVIDENCE }
        };
        self.probes.get(key, ticket(&registry.name), deadline, ask).await.unwrap_or_default()
    }
}

fn probe_time(endpoint: &Endpoint) -> Duration {
    (endpoint.timeout / 2).max(SHORTEST_PROBE)
}

/// Probes are nobody's share.
const fn ticket(registry: &str) -> Ticket<'_> {
    Ticket { asker: "", destination: registry }
}
