//! The one adoption: what runs, or is named by a template older than the instant at which Lazaretto begins to keep the flag, is
//! released, on record, so that switching quarantine on in a living cluster locks nobody out.
//!
//! Once a Registry: `status.adoption` says when and how much, and only we may write it (the guard sees to that). An image that is
//! known to be bad is never adopted, even if nobody kept the flag in the meantime. What runs is adopted as it is; what is only named must
//! be confirmed by the registry, or a template could name today what is pushed tomorrow. For the same reason an old template counts from
//! the last change of an image in it.

use std::{collections::BTreeMap, sync::Arc};

use futures::{StreamExt as _, stream};
use jiff::Timestamp;
use kube::Client;
use tokio::time::Instant;

use super::Term;
use crate::{
    api::{Adoption, ImageStatus, Provider, State},
    facts::{Facts, Manifest, Outcome},
    history::{self, Observation, Weight},
    image::{Reference, Subject},
    lookups::{Access, Asker},
    policy::RegistryEntry,
    running, templates,
};

/// Questions to the registry at once.
const AT_ONCE: usize = 8;
/// How long one question may wait for its turn and its answer.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);
/// After how long an adoption that the registry does not let come to its end is ended without it.
const GIVE_UP: i64 = 600;

/// An image that a workload's template names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// What it names.
    pub image: String,
    /// The namespace of the workload.
    pub namespace: String,
    /// Since when the workload names it.
    pub since: Option<Timestamp>,
}

/// Every image that a template names.
pub async fn templates(client: &Client) -> Result<Vec<Template>, String> {
    let mut all = Vec::new();
    templates::each(client, |template| {
        let namespace = template.metadata.namespace.clone().unwrap_or_default();
        let since = running::named_since(template.metadata);
        let named = template.pod.images();
        all.extend(named.map(|named| Template { image: named.image.to_owned(), namespace: namespace.clone(), since }));
    })
    .await?;
    Ok(all)
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
    let older = |since: Option<Timestamp>| since.is_some_and(|since| since <= instant);
    term.inventory.each(|namespace, pod| {
        if !older(pod.since) {
            return;
        }
        for image in pod.make.containers.iter().map(|container| &container.image) {
            let Some(named) = image.named.as_ref().filter(|named| ours(named)) else { continue };
            if let Some(subject) = &image.subject {
                found.running.insert(subject.clone(), namespace.to_string());
            }
            found.named.insert(named.clone(), namespace.to_string());
        }
        for image in pod.make.volumes.iter().filter_map(|reference| Reference::parse(reference).ok()).filter(ours) {
            found.named.insert(image, namespace.to_string());
        }
    });
    for template in templates(&term.operator.client).await?.into_iter().filter(|template| older(template.since)) {
        if let Ok(image) = Reference::parse(&template.image)
            && ours(&image)
        {
            found.named.insert(image, template.namespace);
        }
    }
    Ok(found)
}

/// Goes on with the adoption; returns it as it stands then. `completed` is set when every image was settled, or when registry or API
/// server have not let that happen for ten minutes: until then no new image of the registry is judged, so it has to end.
pub(super) async fn go_on(term: &Term, registry: &Arc<RegistryEntry>, access: &Access, adoption: Adoption) -> Result<Adoption, String> {
    term.inventory.listed().await;
    let found = find(term, registry, adoption.instant).await?;
    let running = stream::iter(found.running).map(|(subject, namespace)| async move {
        // It runs, so it is adopted whatever the registry says; what is inside is read where it can be.
        let manifest = match term.operator.lookups.manifest_of(&subject, registry, access).await {
            Outcome::Found(manifest) => manifest,
            _ => Manifest::default(),
        };
        (subject.to_string(), adopt(term, &subject, manifest, &namespace).await)
    });
    let named = stream::iter(found.named).map(|(image, namespace)| async move {
        let end = match confirmed(term, registry, access, &image).await {
            Outcome::Found((subject, manifest)) => adopt(term, &subject, manifest, &namespace).await,
            Outcome::Absent | Outcome::Hidden | Outcome::Refused | Outcome::Blocked(_) | Outcome::Misbehaved(_) => End::Unconfirmed,
            Outcome::Pending(_) | Outcome::Unavailable(_) | Outcome::Unauthorized(_) | Outcome::Busy(_) => End::Open,
        };
        (image.to_string(), end)
    });
    let mut ends: Vec<(String, End)> = running.buffer_unordered(AT_ONCE).collect().await;
    ends.extend(named.buffer_unordered(AT_ONCE).collect::<Vec<_>>().await);
    if !term.may_write() {
        return Err("no longer leading".to_owned());
    }
    let now = Timestamp::now();
    let adopted = u32::try_from(ends.iter().filter(|(_, end)| *end == End::Adopted).count()).unwrap_or(u32::MAX);
    let open = ends.iter().any(|(_, end)| *end == End::Open);
    let mut unconfirmed: Vec<String> =
        ends.into_iter().filter(|(_, end)| matches!(end, End::Unconfirmed | End::Open)).map(|(image, _)| image).collect();
    unconfirmed.sort_unstable();
    unconfirmed.truncate(20);
    let over = now.duration_since(adoption.instant).as_secs() >= GIVE_UP;
    let completed = (!open || over).then_some(now);
    tracing::info!(registry = registry.name, adopted, unconfirmed = unconfirmed.len(), completed = completed.is_some(), "adoption");
    Ok(Adoption { completed, adopted: adoption.adopted + adopted, unconfirmed, ..adoption })
}

/// What came of one image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// It is released now.
    Adopted,
    /// It was known before, and stays as it is.
    Known,
    /// The registry does not have it.
    Unconfirmed,
    /// It could not be asked or not be written; there will be another turn.
    Open,
}

/// What the registry has under a name, and what is inside.
async fn confirmed(term: &Term, registry: &Arc<RegistryEntry>, access: &Access, image: &Reference) -> Outcome<(Subject, Manifest)> {
    let subject = match image.subject() {
        Some(subject) => subject,
        None => {
            let (access, deadline) = (Ok(access.clone()), Instant::now() + PATIENCE);
            let asker = Asker { namespace: "", access, deadline, record: true, processor: false, inside: true, proofs: &[] };
            match term.operator.lookups.digest_of(image, Some(registry), &asker).await.0.found() {
                Ok(digest) => image.with_digest(digest),
                Err(end) => return end,
            }
        }
    };
    term.operator.lookups.manifest_of(&subject, registry, access).await.map(|manifest| (subject, manifest))
}

async fn adopt(term: &Term, subject: &Subject, manifest: Manifest, namespace: &str) -> End {
    if !term.may_write() {
        return End::Open;
    }
    let (known, names) = {
        let index = term.operator.index.read();
        (index.image(subject), index.names_of(subject).map(str::to_owned).collect::<Vec<_>>())
    };
    if known.is_some_and(|known| known.facts.provider == Provider::Managed) {
        return End::Known;
    }
    for name in if names.is_empty() { vec![subject.object_name()] } else { names } {
        match term.operator.writer.get(&name).await {
            Ok(Some(object)) if was_bad(&object, subject) => return End::Known,
            Ok(_) => {}
            Err(error) => return failed(subject, &error),
        }
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
        manifest,
    };
    match term.operator.writer.adopt(subject, &Observation { facts, weight: Weight::First }, namespace).await {
        Ok(object) => {
            term.operator.index.write().apply_written(&object, now);
            if object.status.is_some_and(|status| status.state == State::Released) { End::Adopted } else { End::Known }
        }
        Err(error) => failed(subject, &error),
    }
}

fn failed(subject: &Subject, error: &crate::writer::WriteError) -> End {
    tracing::warn!(%subject, %error, "an image was not adopted; trying again");
    End::Open
}

/// Whether the image was bad when somebody last kept its flag.
fn was_bad(object: &ImageStatus, subject: &Subject) -> bool {
    object.spec.subject == subject.to_string() && history::kept(object).is_some_and(State::is_bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_bad_is_not_adopted_because_nobody_kept_the_flag_for_a_while() {
        let subject: Subject = format!("registry.corp/app@sha256:{}", "a".repeat(64)).parse().unwrap();
        let bad = |decision: Option<&str>, states: &[&str]| {
            let transition = |(number, state)| serde_json::json!({"number": number, "at": "2026-01-01T00:00:00Z", "state": state, "by": "b", "reason": "r"});
            let history: Vec<_> = (1..).zip(states).map(transition).collect();
            let decision = decision.map(|state| serde_json::json!({"state": state, "by": "b", "reason": "r"}));
            let object = serde_json::json!({
                "apiVersion": "lazaretto.dev/v1alpha1", "kind": "ImageStatus", "metadata": {"name": "n"},
                "spec": {"subject": subject.to_string(), "quarantine": decision}, "status": {"history": history},
            });
            was_bad(&serde_json::from_value(object).unwrap(), &subject)
        };
        assert!(bad(None, &["Quarantined", "Unmanaged"]));
        assert!(bad(None, &["Released", "Failed", "Unmanaged", "Pending"]));
        assert!(!bad(None, &["Quarantined", "Released", "Unmanaged"]));
        assert!(!bad(None, &["Unmanaged"]) && !bad(None, &[]));
        assert!(bad(Some("Failed"), &["Unmanaged"]), "a decision that nobody carried out yet");
        assert!(!bad(Some("Released"), &["Quarantined", "Unmanaged"]));
    }
}
