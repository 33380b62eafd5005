//! The entries of the webhook configuration, as a function of the policies that are there.
//!
//! - `enforce`: pods, failing closed, only while some policy enforces, and only for the namespaces that enforcing policies choose;
//! - `observe`: pods, failing open, for policies in modes Warn and Audit;
//! - `templates`: workloads, failing open, 1 s: warnings only.
//!
//! So an installation that only audits blocks nobody, whatever becomes of it. What the cluster needs to heal never reaches us: excluded
//! namespaces, the mirror pods of nodes, deletes, status, and updates of pods that change no image.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::{
    ByteString,
    api::admissionregistration::v1::{MatchCondition, RuleWithOperations, ServiceReference, ValidatingWebhook, WebhookClientConfig},
    apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement},
};

use super::Settings;
use crate::{api::Mode, index::Rules};

/// Distinct namespace selectors for which an entry of its own is made; beyond them one entry speaks for every namespace. Selectors that
/// ask for nothing but a value of one and the same label count as one.
const MOST_SELECTORS: usize = 16;

/// Judges updates of pods only when an image changed: labels and status of running pods never depend on us. Containers of a pod neither come
/// nor go nor change places, so it is enough to compare them one by one; a search for each would cost a large pod more than the API server allows.
const IMAGES_CHANGED: &str = "request.operation != 'UPDATE' || request.?subResource.orValue('') == 'ephemeralcontainers' || \
object.spec.containers.map(c, c.?image.orValue('')) != oldObject.spec.containers.map(c, c.?image.orValue('')) || \
object.spec.?initContainers.orValue([]).map(c, c.?image.orValue('')) != oldObject.spec.?initContainers.orValue([]).map(c, c.?image.orValue(''))";

/// The mirror of a static pod, made by the very node that it names.
const NO_MIRROR: &str = "!(request.operation == 'CREATE' && 'system:nodes' in request.userInfo.groups && \
request.userInfo.username == 'system:node:' + object.spec.?nodeName.orValue('') && \
object.metadata.?annotations['kubernetes.io/config.mirror'].hasValue())";

/// What the entries are made of.
#[derive(Clone, Debug, PartialEq)]
pub struct Entries {
    /// The entries, in the order in which the API server calls them.
    pub webhooks: Vec<ValidatingWebhook>,
}

/// The entries that these rules ask for, with the CA bundle that the API server is to trust.
#[must_use]
pub fn entries(rules: &Rules, settings: &Settings, ca_bundle: &[u8]) -> Entries {
    let selectors = |mode: fn(Mode) -> bool| -> Vec<Option<LabelSelector>> {
        let mut seen: BTreeMap<String, Option<LabelSelector>> = BTreeMap::new();
        let mut values: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for policy in rules.policies.values().filter(|policy| mode(policy.mode)) {
            let selector = policy.selector().cloned();
            if let Some((key, value)) = selector.as_ref().and_then(only_label) {
                values.entry(key.to_owned()).or_default().insert(value.to_owned());
                continue;
            }
            let key = serde_json::to_string(&selector).unwrap_or_default();
            seen.insert(key, selector);
        }
        for (key, values) in values {
            let requirement = LabelSelectorRequirement { key, operator: "In".to_owned(), values: Some(values.into_iter().collect()) };
            let selector = Some(LabelSelector { match_labels: None, match_expressions: Some(vec![requirement]) });
            seen.insert(serde_json::to_string(&selector).unwrap_or_default(), selector);
        }
        if seen.values().any(Option::is_none) || seen.len() > MOST_SELECTORS {
            return vec![None];
        }
        seen.into_values().collect()
    };
    let mut webhooks = Vec::new();
    for (at, selector) in selectors(|mode| mode == Mode::Enforce).into_iter().enumerate() {
        let name = numbered("enforce", at);
        webhooks.push(pods(&name, "/validate/enforce", "Fail", selector.as_ref(), settings, ca_bundle));
    }
    for (at, selector) in selectors(|mode| mode != Mode::Enforce).into_iter().enumerate() {
        let name = numbered("observe", at);
        webhooks.push(pods(&name, "/validate/observe", "Ignore", selector.as_ref(), settings, ca_bundle));
    }
    if !rules.policies.is_empty() {
        webhooks.push(templates(settings, ca_bundle));
    }
    Entries { webhooks }
}

/// The one label that a selector asks for, when it asks for nothing else.
fn only_label(selector: &LabelSelector) -> Option<(&str, &str)> {
    let labels = selector.match_labels.as_ref().filter(|labels| labels.len() == 1)?;
    let (key, value) = labels.first_key_value()?;
    selector.match_expressions.as_ref().is_none_or(Vec::is_empty).then_some((key, value))
}

fn numbered(kind: &str, at: usize) -> String {
    if at == 0 { format!("{kind}.lazaretto.dev") } else { format!("{kind}-{at}.lazaretto.dev") }
}

fn pods(
    name: &str,
    path: &str,
    failure: &str,
    selector: Option<&LabelSelector>,
    settings: &Settings,
    ca_bundle: &[u8],
) -> ValidatingWebhook {
    let condition = |name: &str, expression: &str| MatchCondition { name: name.to_owned(), expression: expression.to_owned() };
    ValidatingWebhook {
        match_conditions: Some(vec![condition("images-changed", IMAGES_CHANGED), condition("no-mirror-pod", NO_MIRROR)]),
        rules: Some(vec![
            rule("", &["v1"], &["pods"], &["CREATE", "UPDATE"]),
            // An ephemeral container is added by an update of the subresource; a client may also create through it.
            rule("", &["v1"], &["pods/ephemeralcontainers"], &["CREATE", "UPDATE"]),
        ]),
        failure_policy: Some(failure.to_owned()),
        timeout_seconds: Some(settings.webhook_timeout_seconds),
        ..base(name, path, selector, settings, ca_bundle)
    }
}

fn templates(settings: &Settings, ca_bundle: &[u8]) -> ValidatingWebhook {
    let both = ["CREATE", "UPDATE"];
    ValidatingWebhook {
        rules: Some(vec![
            rule("", &["v1"], &["replicationcontrollers"], &both),
            // Not ReplicaSets: a Deployment's author has the warning already, and nobody reads a controller's.
            rule("apps", &["v1"], &["deployments", "statefulsets", "daemonsets"], &both),
            rule("batch", &["v1"], &["jobs", "cronjobs"], &both),
        ]),
        failure_policy: Some("Ignore".to_owned()),
        timeout_seconds: Some(1),
        match_conditions: Some(vec![MatchCondition {
            name: "spec-changed".to_owned(),
            expression: "request.operation == 'CREATE' || object.spec != oldObject.spec".to_owned(),
        }]),
        ..base("templates.lazaretto.dev", "/warn", None, settings, ca_bundle)
    }
}

/// Every field that the API server would fill in is set, so that what stands can be compared with what should.
fn base(name: &str, path: &str, selector: Option<&LabelSelector>, settings: &Settings, ca_bundle: &[u8]) -> ValidatingWebhook {
    ValidatingWebhook {
        name: name.to_owned(),
        admission_review_versions: vec!["v1".to_owned()],
        side_effects: "NoneOnDryRun".to_owned(),
        match_policy: Some("Equivalent".to_owned()),
        object_selector: Some(LabelSelector::default()),
        namespace_selector: Some(namespaces(selector, settings)),
        client_config: WebhookClientConfig {
            ca_bundle: Some(ByteString(ca_bundle.to_vec())),
            service: Some(ServiceReference {
                name: settings.service_name.clone(),
                namespace: settings.namespace.clone(),
                path: Some(path.to_owned()),
                port: Some(settings.service_port),
            }),
            url: None,
        },
        failure_policy: None,
        match_conditions: None,
        rules: None,
        timeout_seconds: None,
    }
}

/// A policy's own selector, less the namespaces that are never judged, our own always among them.
fn namespaces(selector: Option<&LabelSelector>, settings: &Settings) -> LabelSelector {
    let mut selector = selector.cloned().unwrap_or_default();
    let excluded: BTreeSet<String> = settings.excluded.iter().cloned().chain([settings.namespace.clone()]).collect();
    selector.match_expressions.get_or_insert_default().push(LabelSelectorRequirement {
        key: "kubernetes.io/metadata.name".to_owned(),
        operator: "NotIn".to_owned(),
        values: Some(excluded.into_iter().collect()),
    });
    selector
}

fn rule(group: &str, versions: &[&str], resources: &[&str], operations: &[&str]) -> RuleWithOperations {
    let texts = |all: &[&str]| Some(all.iter().map(|&text| text.to_owned()).collect());
    RuleWithOperations {
        api_groups: texts(&[group]),
        api_versions: texts(versions),
        resources: texts(resources),
        operations: texts(operations),
        scope: Some("*".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::{Match, QuarantinePolicy, QuarantinePolicySpec, ShortDuration},
        index::Index,
    };

    fn settings() -> Settings {
        Settings {
            namespace: "lazaretto-system".into(),
            pod_name: "p".into(),
            service_name: "lazaretto-webhook".into(),
            service_port: 443,
            webhook_configuration: "lazaretto".into(),
            webhook_timeout_seconds: 10,
            excluded: ["kube-system".to_owned()].into(),
            collect_after: ShortDuration::from_secs(1),
        }
    }

    fn names(policies: &[(Mode, Option<&str>)]) -> Vec<(String, String)> {
        let mut index = Index::default();
        for (at, (mode, team)) in policies.iter().enumerate() {
            let selector = team.map(|team| {
                // `key:` asks for a label of that key, anything else for a value of `team`.
                let labels = team.strip_suffix(':').is_none().then(|| BTreeMap::from([("team".to_owned(), team.to_owned())]));
                let key = team
                    .strip_suffix(':')
                    .map(|key| vec![LabelSelectorRequirement { key: key.to_owned(), operator: "Exists".to_owned(), values: None }]);
                LabelSelector { match_labels: labels, match_expressions: key }
            });
            let spec = QuarantinePolicySpec {
                mode: *mode,
                matching: Match { namespace_selector: selector, ..Match::default() },
                ..QuarantinePolicySpec::default()
            };
            index.apply_policy(&QuarantinePolicy::new(&format!("p{at}"), spec));
        }
        let entries = entries(&index.rules(), &settings(), b"ca");
        entries.webhooks.into_iter().map(|webhook| (webhook.name, webhook.failure_policy.unwrap_or_default())).collect()
    }

    fn pair(name: &str, failure: &str) -> (String, String) {
        (format!("{name}.lazaretto.dev"), failure.to_owned())
    }

    #[test]
    fn an_installation_that_only_audits_fails_open() {
        assert_eq!(names(&[]), []);
        assert_eq!(names(&[(Mode::Audit, None), (Mode::Warn, Some("a"))]), [pair("observe", "Ignore"), pair("templates", "Ignore")]);
    }

    #[test]
    fn only_enforced_namespaces_fail_closed() {
        assert_eq!(
            names(&[(Mode::Enforce, Some("a")), (Mode::Enforce, Some("b")), (Mode::Enforce, Some("a")), (Mode::Audit, None)]),
            [pair("enforce", "Fail"), pair("observe", "Ignore"), pair("templates", "Ignore")],
            "two values of one label are one selector"
        );
        assert_eq!(names(&[(Mode::Enforce, Some("a")), (Mode::Enforce, None)]), [pair("enforce", "Fail"), pair("templates", "Ignore")]);
        let of = |count: usize, colon: &str| -> Vec<String> { (0..count).map(|n| format!("t{n}{colon}")).collect() };
        let count = |teams: &[String]| names(&teams.iter().map(|team| (Mode::Enforce, Some(team.as_str()))).collect::<Vec<_>>()).len();
        assert_eq!(count(&of(100, "")), 2, "a hundred values of one label are one selector");
        assert_eq!(count(&of(MOST_SELECTORS, ":")), MOST_SELECTORS + 1);
        assert_eq!(count(&of(MOST_SELECTORS + 1, ":")), 2, "too many selectors become one entry for all");
    }

    #[test]
    fn our_own_namespace_is_never_judged() {
        let selector = namespaces(None, &settings());
        let values = selector.match_expressions.unwrap().remove(0).values.unwrap();
        assert_eq!(values, ["kube-system", "lazaretto-system"]);
    }
}
