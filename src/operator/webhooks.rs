//! Keeps the webhook configuration: the entries that the policies ask for, and the caBundle.
//!
//! The chart makes the object without entries, and removes it before anything else when it is uninstalled. Only a Ready replica that
//! leads fills it, by server-side apply. So an installation whose image cannot be pulled, or that is half gone, blocks nobody, and an
//! upgrade of the chart owns none of what stands here. We hold no right to create the object: after an uninstall it stays gone.

use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use kube::{
    Api,
    api::{Patch, PatchParams},
    runtime::{WatchStreamExt as _, watcher},
};
use serde_json::json;

use super::{Term, entries};
use crate::{
    metrics::{WriteEnd, Written},
    writer::{FIELD_MANAGER, bounded},
};

/// How soon a write that failed is tried again.
const AGAIN: Duration = Duration::from_secs(2);

/// Keeps it until the term ends.
pub(super) async fn run(term: Term) {
    let operator = term.operator.clone();
    let name = operator.settings.webhook_configuration.clone();
    let api = Api::<ValidatingWebhookConfiguration>::all(operator.client.clone());
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut events = std::pin::pin!(watcher(api.clone(), config).default_backoff());
    let mut standing: Option<ValidatingWebhookConfiguration> = None;
    let mut listed = false;
    let mut rules = operator.rules_changed.clone();
    let mut bundle = operator.trust.bundle();
    loop {
        let wait = if listed && operator.readiness.is_ready() {
            match reconcile(&term, &api, standing.as_ref()).await {
                Ok(written) => {
                    if let Some(written) = written {
                        standing = Some(written);
                    }
                    Duration::from_secs(60)
                }
                Err(error) => {
                    tracing::warn!(name, error, "the webhook configuration was not written; trying again");
                    AGAIN
                }
            }
        } else {
            Duration::from_millis(200)
        };
        if let Some(bundle) = standing.as_ref().and_then(common_bundle) {
            operator.trust.confirm(bundle);
        }
        tokio::select! {
            event = events.next() => match event {
                Some(Ok(watcher::Event::Apply(object) | watcher::Event::InitApply(object))) => standing = Some(object),
                Some(Ok(watcher::Event::Delete(_) | watcher::Event::Init)) => standing = None,
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

/// Writes the entries when others stand, and returns what stands then.
async fn reconcile(
    term: &Term,
    api: &Api<ValidatingWebhookConfiguration>,
    standing: Option<&ValidatingWebhookConfiguration>,
) -> Result<Option<ValidatingWebhookConfiguration>, String> {
    let operator = &term.operator;
    // Not there: it is being uninstalled, or the chart is yet to make it.
    let Some(standing) = standing else { return Ok(None) };
    let Some(bundle) = operator.trust.bundle().borrow().clone() else { return Ok(None) };
    let rules = operator.index.read().rules();
    let wanted = entries(&rules, &operator.settings, &bundle).webhooks;
    if standing.webhooks.as_deref().unwrap_or_default() == wanted || !term.may_write() {
        return Ok(None);
    }
    let name = &operator.settings.webhook_configuration;
    let body = json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": { "name": name },
        "webhooks": wanted,
    });
    let params = PatchParams::apply(FIELD_MANAGER).force();
    let written = bounded(api.patch(name, &params, &Patch::Apply(&body))).await;
    operator.metrics.wrote(Written::Webhook, if written.is_ok() { WriteEnd::Done } else { WriteEnd::Failed });
    let written = written.map_err(|error| error.to_string())?;
    let enforced = wanted.iter().filter(|webhook| webhook.failure_policy.as_deref() == Some("Fail")).count();
    tracing::info!(name, entries = wanted.len(), enforced, "webhook entries written");
    Ok(Some(written))
}

/// The bundle that stands in every entry; none where they differ or there is no entry.
fn common_bundle(standing: &ValidatingWebhookConfiguration) -> Option<Vec<u8>> {
    let mut bundles = standing.webhooks.iter().flatten().map(|webhook| webhook.client_config.ca_bundle.as_ref().map(|bundle| &bundle.0));
    let first = bundles.next()??;
    bundles.all(|bundle| bundle == Some(first)).then(|| first.clone())
}
