//! Evidence about a registry itself: looked for where a question ended without an answer, and at the end of an outage.
//!
//! What counts as evidence is [`super::health`]'s; here it is asked for.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt as _, stream::FuturesUnordered};
use tokio::time::Instant;

use super::{
    Access,
    ask::{Context, Parts, endpoint},
    health::{Episode, FIRST_LOOK, Health, LAST_LOOK, MOST_CANARIES},
    keys::{Door, ProbeKey},
    sources::Sources,
    tags::is_ours,
};
use crate::{
    facts::{Busy, Outage, Outcome, OutcomeKind},
    flights::{Found, Ticket},
    image::Subject,
    line::{Class, Line},
    metrics::{Asked, QuestionLabels},
    policy::RegistryEntry,
    registry::{Endpoint, Failure, Pass, Request, TagOrDigest},
};

/// How long a probe's finding counts as evidence.
const EVIDENCE: Duration = Duration::from_secs(2);
/// From one look at a registry's front door to the next.
const BETWEEN_PINGS: Duration = Duration::from_millis(100);
/// While a registry is out, what one request of a short look has whether it still is.
const HALF_OPEN: Duration = Duration::from_millis(500);
/// About how many images. It comes often, and there is a longer look every few seconds.
const GLANCE: usize = 3;
/// How long a question waits for such a look at the most: where its requests are answered there may be a token to fetch first.
const WAIT_FOR_LOOK: Duration = Duration::from_secs(2);
/// How long what such a look found counts.
const BETWEEN_HALF_OPEN: Duration = Duration::from_millis(250);
/// A question that could be answered without the registry waits for a look only when the last one began longer ago than this: where questions
/// keep coming, so do looks.
const LOOKED_LATELY: Duration = Duration::from_secs(1);
/// Requests of a look-up that needs a token: refused with a challenge, the token, and once more.
const REQUESTS: u32 = 3;
/// The least time that a probe has.
const SHORTEST_PROBE: Duration = Duration::from_millis(500);

/// What the health of a registry is looked into for: whose question about what it did not answer.
#[derive(Clone, Debug)]
pub(super) struct About {
    registry: Arc<str>,
    endpoint: Endpoint,
    access: Access,
    health: Arc<Health>,
    line: Line,
    namespace: Arc<str>,
    repository: Arc<str>,
}

impl About {
    pub(super) fn of(context: &Context<'_>, registry: &RegistryEntry, sources: &Sources) -> Self {
        Self {
            registry: registry.name.as_str().into(),
            endpoint: context.endpoint.clone(),
            access: context.access.clone(),
            health: sources.health(&registry.name, context.endpoint),
            line: sources.line(&context.endpoint.host, Some(registry)),
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

    pub(super) const fn health(&self) -> &Arc<Health> {
        &self.health
    }

    pub(super) const fn line(&self) -> &Line {
        &self.line
    }
}

impl Parts {
    pub(super) async fn outage<T>(self: &Arc<Self>, context: &Context<'_>, outage: Outage) -> Outcome<T> {
        let Some(registry) = context.registry else {
            return Outcome::Busy(Busy::UNLISTED);
        };
        let deadline = Instant::now() + context.endpoint.timeout;
        let about = About::of(context, registry, &self.sources);
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
            about.health.note_look();
            tracing::warn!(registry = &*about.registry, host = about.endpoint.host, outage = outage.message, "a registry is out");
            tokio::spawn(self.clone().await_recovery(about.clone(), episode));
        }
    }

    /// Whether a registry is well, as far as there is evidence that the author of one image cannot make: it answers about some of the images
    /// that other namespaces asked for, in other repositories. Its storage may be out while its front door is not, and the other way round.
    /// Where there are too few such images, whether it answers anything at all. One that asks for no requests for a while has answered.
    ///
    /// At most `most` are asked about, and no single request has more than `time`.
    async fn is_well(&self, about: &About, besides: Option<(&str, &str)>, most: usize, time: Duration) -> bool {
        // Whether that is still so nobody knows; an outage does not end by it.
        let left_alone = || about.health.out().is_none();
        if about.line.closed().is_some() {
            return left_alone();
        }
        let mut endpoint = about.endpoint.clone();
        endpoint.timeout = time;
        self.read_written(about);
        let Some(canaries) = about.health.canaries(besides).filter(|_| is_ours(&about.access)) else {
            return self.answers_at_all(&endpoint, &about.line, time).await.unwrap_or_else(left_alone);
        };
        let ask = canaries.iter().take(most).map(|canary| {
            let client = self.client.within(Pass::past(about.line.clone(), REQUESTS * time).each(time));
            let (endpoint, credentials) = (&endpoint, &about.access.credentials);
            async move {
                let resolve = client.resolve(endpoint, credentials, &canary.repository, TagOrDigest::Digest(&canary.digest));
                // Others may be asking for the same token, in which case it waits for them.
                tokio::time::timeout(REQUESTS * time, resolve).await.map_or(Some(false), |end| says_well(&end))
            }
        });
        let mut asked: FuturesUnordered<_> = ask.collect();
        let mut unasked = false;
        while let Some(end) = asked.next().await {
            match end {
                // One answer is enough.
                Some(true) => return true,
                Some(false) => {}
                None => unasked = true,
            }
        }
        unasked && left_alone()
    }

    /// Whether its front door answers. It is asked twice, for one answer in ten that is an error makes no outage: again when the first comes to
    /// nothing, or beside it when that takes long.
    /// None where it asked to be left alone meanwhile.
    async fn answers_at_all(&self, endpoint: &Endpoint, line: &Line, time: Duration) -> Option<bool> {
        let end = Instant::now() + time;
        let ping = async || {
            let left = end.saturating_duration_since(Instant::now());
            says_well(&self.client.within(Pass::past(line.clone(), left)).ping(endpoint).await)
        };
        let mut first = std::pin::pin!(ping());
        match tokio::time::timeout(time / 2, &mut first).await {
            Ok(Some(false)) => {
                tokio::time::sleep(BETWEEN_PINGS).await;
                ping().await
            }
            Ok(said) => said,
            Err(_) => {
                let mut second = std::pin::pin!(ping());
                tokio::select! {
                    said = &mut first => if said == Some(false) { second.await } else { said },
                    said = &mut second => if said == Some(false) { first.await } else { said },
                }
            }
        }
    }

    /// Reads from what is written which images the registry has answered about, whichever replica asked, for namespaces that there are.
    fn read_written(&self, about: &About) {
        about.health.read_written(|add| {
            let index = self.index.read();
            let rules = index.rules();
            let ours = |subject: &Subject| {
                let registry = || rules.registry_for(subject.registry(), subject.repository());
                *subject.registry() == *about.endpoint.host && registry().is_some_and(|registry| *registry.name == *about.registry)
            };
            for (subject, known) in index.images().filter(|(subject, _)| ours(subject)) {
                // What is bad may be hidden, and what nobody uses may be gone.
                let shown = !known.blank && !known.facts.state.is_bad() && known.unused_since.is_none();
                let namespace = known.first_seen_in.as_deref().filter(|name| shown && index.namespace(name).is_some());
                if let Some(namespace) = namespace {
                    add(namespace, subject.repository(), subject.digest());
                }
            }
        });
    }

    /// Looks whether it is well, for whoever's question was not answered.
    pub(super) async fn probe(self: Arc<Self>, about: About) -> Found<bool> {
        // The evidence must be there before the first review's patience ends.
        let time = probe_time(&about.endpoint);
        let well = self.is_well(&about, Some((&about.namespace, &about.repository)), MOST_CANARIES, time).await;
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
            if self.is_well(&about, None, MOST_CANARIES, probe_time(&about.endpoint)).await {
                self.well_again(&about.registry, &about.health);
            }
        }
    }

    /// Whether a registry that is out answers again, for a question that came meanwhile: one look for all of them, so that the first review after
    /// a recovery is answered by the registry and not by what was true a few seconds ago. What was asked before the question came may have been
    /// asked before the recovery: such a look that found nothing is followed by another. A question that could be answered without the registry
    /// need not `wait` where looks keep coming.
    pub(super) async fn answers_again(self: &Arc<Self>, about: About, wait: bool) -> bool {
        let key = ProbeKey::Again(about.door());
        let look = || {
            let (parts, asked) = (self.clone(), about.clone());
            async move {
                asked.health.note_look();
                let well = parts.is_well(&asked, None, GLANCE, HALF_OPEN).await;
                if well {
                    parts.well_again(&asked.registry, &asked.health);
                }
                Found { value: well, fresh_for: BETWEEN_HALF_OPEN }
            }
        };
        let came = Instant::now();
        let lately = about.health.last_look().is_some_and(|last| came.duration_since(last) < LOOKED_LATELY);
        if !wait && lately {
            self.probes.launch(key, about.ticket(), look);
            return false;
        }
        match self.probes.peek(&key) {
            Some(true) => return true,
            // That look began before the question came.
            Some(false) => tokio::time::sleep(BETWEEN_HALF_OPEN).await,
            None => {}
        }
        let within = || Instant::now() + WAIT_FOR_LOOK;
        let mut well = self.probes.get(key.clone(), about.ticket(), within(), look).await.unwrap_or_default();
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
        let (endpoint, credentials) = (context.endpoint.clone(), context.access.credentials.clone());
        let client = self.client.within(Pass::past(self.sources.line(&endpoint.host, Some(registry)), endpoint.timeout));
        let ask = || async move {
            let request = Request { method: http::Method::GET, path: "/v2/", scopes: &[], body: None };
            let refuses = matches!(client.request(&endpoint, &credentials, request).await, Err(Failure::Unauthorized(_)));
            Found { value: refuses, fresh_for: EVIDENCE }
        };
        self.probes.get(key, ticket(&registry.name), deadline, ask).await.unwrap_or_default()
    }
}

/// Whether an end is an answer of the registry's; none where it was not asked.
const fn says_well<T>(end: &Result<T, Failure>) -> Option<bool> {
    match end {
        Err(Failure::Outage(_)) => Some(false),
        Err(Failure::Held(_)) => None,
        _ => Some(true),
    }
}

fn probe_time(endpoint: &Endpoint) -> Duration {
    (endpoint.timeout / 2).max(SHORTEST_PROBE)
}

/// Probes are nobody's share.
const fn ticket(registry: &str) -> Ticket<'_> {
    Ticket { asker: "", destination: registry }
}
