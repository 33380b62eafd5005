//! The one adoption: what runs, or is named by a template older than the instant at which Lazaretto begins to keep the flag, is
//! released, on record, so that switching quarantine on in a living cluster locks nobody out.
//!
//! Once a Registry: `status.adoption` says when and how much, and only we may write it (the guard sees to that). An image that is
//! known to be bad is never adopted. What runs is adopted as it is; what is only named must be confirmed by the registry, or a
//! template could name today what is pushed tomorrow.

use std::{collections::BTreeMap, sync::Arc};

use futures::{StreamExt as _, stream};
use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet},
    batch::v1::{CronJob, Job},
    core::v1::ReplicationController,
};
use kube::{Api, Client, Resource, ResourceExt as _, api::ListParams};
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::Instant;

use super::{Term, inventory};
use crate::{
    api::{Adoption, Provider, State},
    facts::{Facts, Manifest, Outcome},
    history::{self, Observation},
    image::{Reference, Subject},
    lookups::{Access, Asker},
    pod,
    policy::RegistryEntry,
    writer::bounded,
};

/// Questions to the registry at once.
const AT_ONCE: usize = 8;
/// How long one question may wait for its turn and its answer.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);
/// After how long an adoption that the registry does not let come to its end is ended without it.
const GIVE_UP: i64 = 600;
/// Templates of one kind that are read at the most.
const MOST_TEMPLATES: usize = 100_000;

/// An image that a workload's template names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// What it names.
    pub image: String,
    /// The namespace of the workload.
    pub namespace: String,
    /// When the workload was made.
    pub created: Option<Timestamp>,
}

/// Every image that a template names.
pub async fn templates(client: &Client) -> Result<Vec<Template>, String> {
    let mut all = Vec::new();
    read::<Deployment>(client, "Deployment", &mut all).await?;
    read::<ReplicaSet>(client, "ReplicaSet", &mut all).await?;
    read::<StatefulSet>(client, "StatefulSet", &mut all).await?;
    read::<DaemonSet>(client, "DaemonSet", &mut all).await?;
    read::<Job>(client, "Job", &mut all).await?;
    read::<CronJob>(client, "CronJob", &mut all).await?;
    read::<ReplicationController>(client, "ReplicationController", &mut all).await?;
    Ok(all)
}

async fn read<K>(client: &Client, kind: &str, all: &mut Vec<Template>) -> Result<(), String>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope> + Clone + DeserializeOwned + Serialize + std::fmt::Debug,
{
    let api = Api::<K>::all(client.clone());
    let mut page = ListParams::default().limit(500);
    let mut count = 0;
    loop {
        let list = bounded(api.list(&page)).await.map_err(|error| format!("cannot list templates of kind {kind}: {error}"))?;
        for object in &list.items {
            // Through the very reader that admission uses, so that the two never name different images.
            let json = serde_json::to_string(object).map_err(|error| error.to_string())?;
            if let Ok(Some(template)) = pod::template(kind, &json) {
                let namespace = object.namespace().unwrap_or_default();
                let created = object.creation_timestamp().map(|time| time.0);
                all.extend(template.images().map(|named| Template {
                    image: named.image.to_owned(),
                    namespace: namespace.clone(),
                    created,
                }));
            }
        }
        count += list.items.len();
        page.continue_token = list.metadata.continue_.filter(|token| !token.is_empty());
        if page.continue_token.is_none() || count >= MOST_TEMPLATES {
            return Ok(());
        }
    }
}

/// What is to be adopted for one registry: what runs, and what is only named.
#[derive(Debug, Default)]
struct Found {
    running: BTreeMap<Subject, String>,
    named: BTreeMap<Reference, String>,
}

async fn find(term: &Term, registry: &RegistryEntry, instant: Timestamp) -> Result<Found, String> {
    let mut found = Found::default();
    let rules = term.operator.index.read().rules();
    let ours = |image: &Reference| rules.registry_of(image).is_some_and(|entry| entry.name == registry.name);
    let older = |created: Option<Timestamp>| created.is_some_and(|created| created <= instant);
    for pod in term.inventory.snapshot().into_iter().filter(|pod| older(pod.created)) {
        for running in &pod.containers {
            let Some((image, subject)) = inventory::running_subject(running) else { continue };
            if !ours(&image) {
                continue;
            }
            if let Some(subject) = subject {
                found.running.insert(subject, pod.namespace.to_string());
            }
            found.named.insert(image, pod.namespace.to_string());
        }
    }
    for template in templates(&term.operator.client).await?.into_iter().filter(|template| older(template.created)) {
        if let Ok(image) = Reference::parse(&template.image)
            && ours(&image)
        {
            found.named.insert(image, template.namespace);
        }
    }
    Ok(found)
}

/// Goes on with the adoption; returns it as it stands then. `completed` is set when every image was settled, or when the
/// registry has not let that happen for ten minutes.
pub(super) async fn go_on(term: &Term, registry: &Arc<RegistryEntry>, access: &Access, adoption: Adoption) -> Result<Adoption, String> {
    term.inventory.listed().await;
    let found = find(term, registry, adoption.instant).await?;
    let mut adopted = 0;
    let mut unconfirmed = Vec::new();
    let mut open = 0;
    for (subject, namespace) in &found.running {
        adopted += u32::from(adopt(term, subject, namespace).await?);
    }
    let questions = stream::iter(found.named).map(|(image, namespace)| async move {
        let asker =
            Asker { namespace: "", access: Ok(access.clone()), deadline: Instant::now() + PATIENCE, record: true, processor: false };
        let outcome = term.operator.lookups.confirm(&image, Some(registry), &asker).await;
        (image, namespace, outcome)
    });
    let answers: Vec<_> = questions.buffer_unordered(AT_ONCE).collect().await;
    for (image, namespace, outcome) in answers {
        match outcome {
            Outcome::Found(digest) => adopted += u32::from(adopt(term, &image.with_digest(digest), &namespace).await?),
            Outcome::Absent | Outcome::Hidden | Outcome::Refused | Outcome::Blocked(_) | Outcome::Misbehaved(_) => {
                unconfirmed.push(image.to_string());
            }
            Outcome::Pending(_) | Outcome::Unavailable(_) | Outcome::Unauthorized(_) | Outcome::Busy(_) => {
                unconfirmed.push(image.to_string());
                open += 1;
            }
        }
    }
    let now = Timestamp::now();
    let over = now.duration_since(adoption.instant).as_secs() >= GIVE_UP;
    unconfirmed.sort_unstable();
    unconfirmed.truncate(20);
    let completed = (open == 0 || over).then_some(now);
    tracing::info!(registry = registry.name, adopted, unconfirmed = unconfirmed.len(), completed = completed.is_some(), "adoption");
    Ok(Adoption { completed, adopted: adoption.adopted + adopted, unconfirmed, ..adoption })
}

/// Says whether it is newly adopted.
async fn adopt(term: &Term, subject: &Subject, namespace: &str) -> Result<bool, String> {
    if !term.may_write() {
        return Err("no longer leading".to_owned());
    }
    let known = term.operator.index.read().image(subject);
    if known.is_some_and(|known| known.facts.provider == Provider::Managed) {
        return Ok(false);
    }
    let now = Timestamp::now();
    let facts = Facts {
        state: State::Released,
        since: now,
        by: "lazaretto".to_owned(),
        reason: "adopted: in use before quarantine was switched on".to_owned(),
        details: String::new(),
        provider: Provider::Managed,
        observed_at: now,
        manifest: Manifest::default(),
    };
    match term.operator.writer.record(subject, &Observation { facts, explicit: false }, namespace).await {
        Ok(object) => {
            term.operator.index.write().apply_image(&object, now);
            Ok(object.status.is_some_and(|status| status.state == State::Released))
        }
        Err(error) => Err(history::clip(&error.to_string(), 300)),
    }
}
