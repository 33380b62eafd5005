//! Keeps the webhook configuration: the entries that the policies ask for, and the caBundle.
//!
//! The chart makes the object without entries, and removes it before anything else when it is uninstalled. Only a Ready replica that
//! leads fills it, by server-side apply. So an installation whose image cannot be pulled, or that is half gone, blocks nobody, and an
//! upgrade of the chart owns none of what stands here. We hold no right to create the object: after an uninstall it stays gone.

use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::{
    api::admissionregistration::v1::{ValidatingWebhook, ValidatingWebhookConfiguration},
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
    runtime::{WatchStreamExt as _, watcher},
};
use serde_json::json;
use tokio::time::Instant;

use super::{Term, entries};
use crate::{
    metrics::{WriteEnd, Written},
    owners,
    writer::{FIELD_MANAGER, bounded},
};

/// How soon a write that failed is tried again.
const AGAIN: Duration = Duration::from_secs(2);

/// How often what stands is compared when nothing seems to change.
const EVERY: Duration = Duration::from_secs(60);

/// Keeps it until the term ends.
pub(super) async fn run(term: Term) {
    let operator = term.operator.clone();
    let name = operator.settings.webhook_configuration.clone();
    let api = Api::<ValidatingWebhookConfiguration>::all(operator.client.clone());
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut events = std::pin::pin!(watcher(api.clone(), config).default_backoff());
    let mut keeper = Keeper { term, api, standing: None, owner: None, brake: Brake::default() };
    let mut listed = false;
    let mut rules = operator.rules_changed.clone();
    let mut bundle = operator.trust.bundle();
    loop {
        let wait = if listed && operator.readiness.is_ready() {
            match keeper.reconcile().await {
                Ok(wait) => wait,
                Err(error) => {
                    tracing::warn!(name, error, "the webhook configuration was not written; trying again");
                    AGAIN
                }
            }
        } else {
            Duration::from_millis(200)
        };
        if let Some(bundle) = keeper.standing.as_ref().and_then(common_bundle) {
            operator.trust.confirm(bundle);
        }
        tokio::select! {
            event = events.next() => match event {
                Some(Ok(watcher::Event::Apply(object) | watcher::Event::InitApply(object))) => keeper.standing = Some(object),
                Some(Ok(watcher::Event::Delete(_) | watcher::Event::Init)) => keeper.standing = None,
                Some(Ok(watcher::Event::InitDone)) => listed = true,
                Some(Err(error)) => tracing::warn!(error = %crate::history::clip(&error.to_string(), 300), "watching the webhook configuration"),
                None => return,
            },
            _ = rules.changed() => {}
            _ = bundle.changed() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

struct Keeper {
    term: Term,
    api: Api<ValidatingWebhookConfiguration>,
    /// The object as it was last seen or written.
    standing: Option<ValidatingWebhookConfiguration>,
    /// Our namespace. It never changes while we live in it, so it is read once.
    owner: Option<OwnerReference>,
    brake: Brake,
}

impl Keeper {
    /// Writes the entries when others stand. Returns after what time to look again, if nothing changes meanwhile.
    async fn reconcile(&mut self) -> Result<Duration, String> {
        let operator = self.term.operator.clone();
        // Not there: it is being uninstalled, or the chart is yet to make it.
        let Some(standing) = &self.standing else { return Ok(EVERY) };
        let Some(bundle) = operator.trust.bundle().borrow().clone() else { return Ok(EVERY) };
        let owner = match &self.owner {
            Some(owner) => owner.clone(),
            None => {
                let owner = owners::namespace(operator.client.clone(), &operator.settings.namespace).await;
                self.owner.insert(owner.map_err(|error| format!("our namespace, which is to own it, was not read: {error}"))?).clone()
            }
        };
        let rules = operator.index.read().rules();
        let wanted = entries(&rules, &operator.settings, &bundle).webhooks;
        let ours = standing.metadata.owner_references.iter().flatten().any(|one| *one == owner);
        if ours && standing.webhooks.as_deref().unwrap_or_default() == wanted {
            return Ok(EVERY);
        }
        if !self.term.may_write() {
            return Ok(AGAIN);
        }
        if let Some(rest) = self.brake.holds(&wanted) {
            return Ok(rest);
        }
        self.brake.wrote(&wanted);
        let written = self.write(&wanted, &owner).await;
        operator.metrics.wrote(Written::Webhook, if written.is_ok() { WriteEnd::Done } else { WriteEnd::Failed });
        let enforced = wanted.iter().filter(|webhook| webhook.failure_policy.as_deref() == Some("Fail")).count();
        self.standing = Some(written?);
        tracing::info!(name = operator.settings.webhook_configuration, entries = wanted.len(), enforced, "webhook entries written");
        Ok(EVERY)
    }

    async fn write(&self, wanted: &[ValidatingWebhook], owner: &OwnerReference) -> Result<ValidatingWebhookConfiguration, String> {
        let name = &self.term.operator.settings.webhook_configuration;
        let body = json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingWebhookConfiguration",
            "metadata": { "name": name, "ownerReferences": [owner] },
            "webhooks": wanted,
        });
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let mut written = bounded(self.api.patch(name, &params, &Patch::Apply(&body))).await.map_err(|error| error.to_string())?;
        if written.webhooks.as_deref().unwrap_or_default() == wanted {
            return Ok(written);
        }
        // Apply leaves alone what others added: an entry of their own, or a condition within one of ours, which may switch it off.
        tracing::warn!(name, "somebody else changed the webhook entries; they are replaced");
        written.webhooks = Some(wanted.to_vec());
        let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        bounded(self.api.replace(name, &params, &written)).await.map_err(|error| error.to_string())
    }
}

/// Keeps two who want different entries from writing against each other without end: the same entries are put back at once a few times
/// in a row, and then once in ten seconds. Other entries are written at once.
#[derive(Debug, Default)]
struct Brake {
    last: Vec<ValidatingWebhook>,
    /// The instant up to which writes were spent, each at the price of [`Brake::PRICE`].
    spent: Option<Instant>,
}

impl Brake {
    const PRICE: Duration = Duration::from_secs(10);
    const CREDIT: Duration = Duration::from_secs(90);

    /// For how long these entries must wait; none when they may be written now.
    fn holds(&self, wanted: &[ValidatingWebhook]) -> Option<Duration> {
        let ahead = self.spent.filter(|_| self.last == wanted)?.saturating_duration_since(Instant::now());
        ahead.checked_sub(Self::CREDIT).filter(|rest| !rest.is_zero())
    }

    fn wrote(&mut self, wanted: &[ValidatingWebhook]) {
        let now = Instant::now();
        let spent = self.spent.filter(|_| self.last == wanted).map_or(now, |spent| spent.max(now));
        self.spent = Some(spent + Self::PRICE);
        self.last = wanted.to_vec();
    }
}

/// The bundle that stands in every entry; none where they differ or there is no entry.
fn common_bundle(standing: &ValidatingWebhookConfiguration) -> Option<Vec<u8>> {
    let mut bundles = standing.webhooks.iter().flatten().map(|webhook| webhook.client_config.ca_bundle.as_ref().map(|bundle| &bundle.0));
    let first = bundles.next()??;
    bundles.all(|bundle| bundle == Some(first)).then(|| first.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_same_entries_are_put_back_at_once_only_a_few_times() {
        let [ours, others] = ["a", "b"].map(|name| vec![ValidatingWebhook { name: name.to_owned(), ..ValidatingWebhook::default() }]);
        let mut brake = Brake::default();
        let mut waited = Vec::new();
        for _ in 0..13 {
            let rest = brake.holds(&ours).unwrap_or_default();
            assert_eq!(brake.holds(&others), None, "other entries need not wait");
            waited.push(rest.as_secs());
            tokio::time::advance(rest).await;
            assert_eq!(brake.holds(&ours), None);
            brake.wrote(&ours);
        }
        assert_eq!(waited, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10, 10, 10]);
        brake.wrote(&others);
        assert_eq!(brake.holds(&ours), None, "the policies changed meanwhile");
    }
}
