//! Tells the owners of pods what became of what they run: Events, on the workload that somebody wrote and not on what a controller made of it.

use std::sync::Arc;

use k8s_openapi::{
    api::{core::v1::ObjectReference, events::v1::Event},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, GroupVersionKind, PostParams},
};
use tokio::sync::mpsc;

use super::super::Term;
use crate::{
    debts::{Change, Told},
    history::clip,
    image::Digest,
    memory::Memory,
    metrics::{WriteEnd, Written},
    running::Owner,
    writer::{CallError, bounded},
};

/// Workloads that are remembered by what a controller made of them.
pub(super) const MOST_WORKLOADS: usize = 2_048;
/// Characters of a note that the API server takes.
const NOTE: usize = 1_000;

/// Workloads by what a controller made of them, and where.
pub(super) type Workloads = Memory<(String, Arc<Owner>), Arc<Owner>>;

/// Tells until the term ends, one at a time: this is how many Events there can be.
pub(super) async fn run(term: Term, mut told: mpsc::Receiver<Told>) {
    let mut workloads = Memory::new(MOST_WORKLOADS);
    while let Some(told) = told.recv().await {
        if !term.may_write() {
            return;
        }
        let owner = match &told.owner {
            Some(owner) => Some(workload(&term.operator.client, &told.namespace, owner, &mut workloads).await),
            None => None,
        };
        let event = event(&told, owner.as_deref(), &term.operator.settings.pod_name, jiff::Timestamp::now());
        let api = Api::<Event>::namespaced(term.operator.client.clone(), &told.namespace);
        let end = match bounded(api.create(&PostParams::default(), &event)).await {
            // Its name is made of what it says: a former leader has told it.
            Ok(_) | Err(CallError::AlreadyExists) => WriteEnd::Done,
            Err(error) => {
                tracing::warn!(namespace = &*told.namespace, %error, "an Event was not written");
                WriteEnd::Failed
            }
        };
        term.operator.metrics.wrote(Written::Event, end);
    }
}

/// Who made a ReplicaSet or a Job; anything else is a workload itself.
pub(super) async fn workload(client: &Client, namespace: &str, owner: &Arc<Owner>, known: &mut Workloads) -> Arc<Owner> {
    let (group, version) = owner.api_version.split_once('/').unwrap_or(("", &owner.api_version));
    if !matches!((group, owner.kind.as_str()), ("apps", "ReplicaSet") | ("batch", "Job")) {
        return owner.clone();
    }
    // By all that the pod says, and where: it may say anything.
    let key = (namespace.to_owned(), owner.clone());
    if let Some(known) = known.get(&key) {
        return known.clone();
    }
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &owner.kind));
    let api = Api::<DynamicObject>::namespaced_with(client.clone(), namespace, &resource);
    let object = match bounded(api.get_metadata(&owner.name)).await {
        Ok(object) => object,
        Err(error) => {
            tracing::debug!(namespace, kind = owner.kind, name = owner.name, %error, "who made it is not known");
            return owner.clone();
        }
    };
    let maker = object.metadata.owner_references.into_iter().flatten().find(|maker| maker.controller == Some(true));
    let workload = maker.map_or_else(
        || owner.clone(),
        |maker| Arc::new(Owner { api_version: maker.api_version, kind: maker.kind, name: maker.name, uid: maker.uid }),
    );
    known.insert(key, workload.clone());
    workload
}

/// The Event of an end. Its name is made of what it says, so that nobody is told twice.
fn event(told: &Told, owner: Option<&Owner>, instance: &str, now: jiff::Timestamp) -> Event {
    let pod = ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        name: Some(told.pod.to_string()),
        namespace: Some(told.namespace.to_string()),
        uid: Some(told.uid.to_string()),
        field_path: Some(format!("spec.containers{{{}}}", told.container)),
        resource_version: None,
    };
    let owner = owner.map(|owner| ObjectReference {
        api_version: Some(owner.api_version.clone()),
        kind: Some(owner.kind.clone()),
        name: Some(owner.name.clone()),
        namespace: Some(told.namespace.to_string()),
        uid: Some(owner.uid.clone()),
        ..ObjectReference::default()
    });
    let (reason, type_, note) = words(told);
    let regarding = owner.as_ref().unwrap_or(&pod);
    let text = format!("{reason} {:?} {} {} {:?}", regarding.uid, told.uid, told.subject, told.at);
    let name = format!("lazaretto-{}", &Digest::of(text.as_bytes()).hex()[..16]);
    Event {
        metadata: kube::api::ObjectMeta { name: Some(name), namespace: Some(told.namespace.to_string()), ..Default::default() },
        event_time: Some(MicroTime(now)),
        reporting_controller: Some("lazaretto.dev/lazaretto".to_owned()),
        reporting_instance: Some(instance.to_owned()),
        action: Some("Judge".to_owned()),
        reason: Some(reason.to_owned()),
        type_: Some(type_.to_owned()),
        note: Some(clip(&note, NOTE)),
        regarding: Some(regarding.clone()),
        related: owner.is_some().then_some(pod),
        ..Event::default()
    }
}

/// Reason, type and note.
fn words(told: &Told) -> (&'static str, &'static str, String) {
    let image = &told.subject;
    let many = match told.containers {
        1 => format!("pod {} runs", told.pod),
        count => format!("{count} containers, of pod {} among others, run", told.pod),
    };
    let policies = told.policies.join(", ");
    match told.change {
        Change::Breached => ("DebtBreached", "Warning", format!("{many} {image}, which is refused [policy {policies}]: {}", told.why)),
        Change::Revoked => (
            "ImageRevoked",
            "Warning",
            format!("{many} {image}, which was good and is refused since [policy {policies}]: {}. New pods do not start", told.why),
        ),
        Change::Settled => ("DebtSettled", "Normal", format!("{many} {image}, which was not judged before and is admitted now")),
        Change::Owing => ("DebtOwed", "Normal", format!("{many} {image}, which is not judged yet [policy {policies}]")),
        Change::Lapsed => ("DebtLapsed", "Normal", format!("{image} is run no more by pod {}, and was never judged", told.pod)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_told_on_the_workload_and_once() {
        let owner = |kind: &str| Owner { api_version: "apps/v1".into(), kind: kind.into(), name: "web".into(), uid: "o".into() };
        let subject = format!("registry.corp/app@sha256:{}", "a".repeat(64));
        let mut told = Told {
            change: Change::Breached,
            namespace: "team".into(),
            owner: None,
            pod: "web-1".into(),
            uid: "u".into(),
            container: "c".into(),
            subject: subject.parse().unwrap(),
            policies: vec!["strict".into()],
            why: "in quarantine".into(),
            quiet: false,
            at: None,
            containers: 3,
        };
        let now = jiff::Timestamp::UNIX_EPOCH;
        let first = event(&told, Some(&owner("Deployment")), "replica-1", now);
        let again = event(&told, Some(&owner("Deployment")), "replica-2", now);
        assert_eq!(first.metadata.name, again.metadata.name);
        assert_eq!((first.type_.as_deref(), first.reason.as_deref()), (Some("Warning"), Some("DebtBreached")));
        let note = format!("3 containers, of pod web-1 among others, run {subject}, which is refused [policy strict]: in quarantine");
        assert_eq!(first.note.as_deref(), Some(note.as_str()));
        assert_eq!(first.regarding.and_then(|regarding| regarding.kind).as_deref(), Some("Deployment"));
        assert_eq!(first.related.and_then(|related| related.name).as_deref(), Some("web-1"));
        told.change = Change::Revoked;
        told.at = Some(now);
        let revoked = event(&told, None, "replica-1", now);
        assert_ne!(revoked.metadata.name, again.metadata.name);
        assert_eq!(revoked.regarding.and_then(|regarding| regarding.kind).as_deref(), Some("Pod"));
    }
}
