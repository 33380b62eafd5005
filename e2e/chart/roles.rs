//! What the program and the people may do, as RBAC answers it.

use crate::lab::Lab;
use crate::lab::install::NAMESPACE;
use crate::lab::wait::{MOMENT, eventually};

use super::installed;

/// Asks RBAC each question of `yes` and `no`: words of `kubectl auth can-i`.
async fn asks(lab: &Lab, user: &str, yes: &[&str], no: &[&str]) {
    for (questions, expected) in [(yes, "yes"), (no, "no")] {
        for question in questions {
            let words: Vec<_> = ["auth", "can-i", "--as", user].into_iter().chain(question.split(' ')).collect();
            // The authorizer learns of a new binding a moment later; what it must not allow, it does not allow at any time.
            eventually(MOMENT, &format!("{user} {question}: {expected}"), async || {
                let answer = lab.kubectl(&words).await;
                if answer.stdout.trim() == expected { Ok(()) } else { Err(answer) }
            })
            .await;
        }
    }
}

#[tokio::test]
async fn the_program_has_the_rights_it_needs_and_no_others() {
    let lab = installed().await;
    let user = format!("system:serviceaccount:{NAMESPACE}:lazaretto");
    let yes = [
        "watch quarantinepolicies.lazaretto.dev",
        "patch registries.lazaretto.dev --subresource=status",
        "create imagestatuses.lazaretto.dev",
        "update imagestatuses.lazaretto.dev --subresource=status",
        "delete imagestatuses.lazaretto.dev",
        "watch pods -A",
        "list cronjobs.batch -A",
        "create events.events.k8s.io -n default",
        "patch validatingwebhookconfigurations/lazaretto",
        "watch validatingwebhookconfigurations/lazaretto",
        "create leases -n lazaretto-system",
        "update leases/lazaretto -n lazaretto-system",
        "get secrets/registry-credentials -n lazaretto-system",
        "watch secrets/lazaretto-tls -n lazaretto-system",
        "get serviceaccounts/lazaretto -n lazaretto-system",
    ];
    let no = [
        "update quarantinepolicies.lazaretto.dev",
        "update registries.lazaretto.dev",
        "create waivers.lazaretto.dev",
        "update imagestatuses.lazaretto.dev",
        "patch imagestatuses.lazaretto.dev",
        "release imagestatuses.lazaretto.dev --subresource=quarantine",
        "quarantine imagestatuses.lazaretto.dev --subresource=quarantine",
        "create pods -A",
        "delete pods -A",
        "get nodes",
        "update deployments.apps -A",
        "create validatingwebhookconfigurations",
        "patch validatingwebhookconfigurations/another",
        "list validatingwebhookconfigurations",
        "patch validatingadmissionpolicies/lazaretto-status",
        "update leases/another -n lazaretto-system",
        "list secrets -n lazaretto-system",
        "update secrets/another -n lazaretto-system",
        "get secrets/any -n default",
        "get serviceaccounts/any -n default",
        "update namespaces",
        "create subjectaccessreviews.authorization.k8s.io",
    ];
    asks(lab, &user, &yes, &no).await;
}

#[tokio::test]
async fn a_viewer_reads_a_releaser_decides_an_author_writes_policy() {
    let lab = installed().await;
    for role in ["viewer", "releaser", "policy-author"] {
        let (binding, role, user) = (format!("role-of-{role}"), format!("--clusterrole=lazaretto-{role}"), format!("--user=the-{role}"));
        lab.kubectl(&["create", "clusterrolebinding", &binding, &role, &user]).await.ok();
    }
    let read = [
        "watch imagestatuses.lazaretto.dev",
        "get quarantinepolicies.lazaretto.dev",
        "list registries.lazaretto.dev",
        "get waivers.lazaretto.dev",
    ];
    let decide =
        ["release imagestatuses.lazaretto.dev --subresource=quarantine", "quarantine imagestatuses.lazaretto.dev --subresource=quarantine"];
    let author = ["create quarantinepolicies.lazaretto.dev", "delete registries.lazaretto.dev", "update waivers.lazaretto.dev"];
    let nobody = [
        "delete imagestatuses.lazaretto.dev",
        "update imagestatuses.lazaretto.dev --subresource=status",
        "update registries.lazaretto.dev --subresource=status",
        "get secrets -n lazaretto-system",
    ];
    for people in ["the-viewer", "the-releaser", "the-policy-author"] {
        asks(lab, people, &read, &nobody).await;
    }
    // A hold before anybody has asked for the image makes the object.
    let write = ["create imagestatuses.lazaretto.dev", "patch imagestatuses.lazaretto.dev"];
    asks(lab, "the-viewer", &[], &[&decide[..], &author, &write].concat()).await;
    asks(lab, "the-releaser", &[&decide[..], &write].concat(), &author).await;
    asks(lab, "the-policy-author", &author, &[&decide[..], &write].concat()).await;

    // Nobody gains them by holding one of Kubernetes' own roles.
    lab.kubectl(&["create", "clusterrolebinding", "an-admin", "--clusterrole=admin", "--user=an-admin"]).await.ok();
    asks(lab, "an-admin", &["get pods -A"], &[&read[..], &decide, &author].concat()).await;
}

/// Reading the pull secrets of every pod is asked for, or not given.
#[tokio::test]
async fn pull_secrets_are_read_only_where_that_is_asked_for() {
    let lab = Lab::start().await;
    for (enabled, expected) in [("false", false), ("true", true)] {
        let setting = format!("pullSecrets.enabled={enabled}");
        let rendered = super::template(lab, &["--set", &setting]).await.ok().stdout;
        let role = super::objects(&rendered)
            .into_iter()
            .find(|object| object["kind"] == "ClusterRole" && object["metadata"]["name"] == "lazaretto");
        let rules = role.unwrap()["rules"].clone();
        let secrets: Vec<_> = rules.as_array().unwrap().iter().filter(|rule| rule["resources"].to_string().contains("secrets")).collect();
        assert_eq!(secrets.len(), usize::from(expected));
        assert!(secrets.iter().all(|rule| rule["verbs"] == serde_json::json!(["get"])), "{secrets:?}");
    }
}
