//! What replicas agree on, and put back when somebody takes it away: the entries of the webhook configuration, the certificate.

use std::time::Duration;

use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, ResourceExt as _};
use reqwest::tls::TlsInfo;
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use serde_json::json;
use tokio::time::Instant;

use crate::healing::{Site, bundle, configuration, entries, until_entries};
use crate::lab::install::{NAMESPACE, RELEASE, SERVICE};
use crate::lab::replica::Replica;
use crate::lab::wait::{MOMENT, eventually, until};
use crate::lab::{Lab, ROOT};

/// What makes an object what it is to us: its entries and its owner.
fn kept(object: &ValidatingWebhookConfiguration) -> serde_json::Value {
    json!([object.webhooks, object.metadata.owner_references])
}

#[tokio::test]
async fn whatever_is_done_to_the_entries_is_undone() {
    let site = Site::new(&[]).await;
    let lab = &site.world.lab;
    let before = configuration(lab).await.unwrap();
    let names: Vec<_> = before.webhooks.iter().flatten().map(|entry| entry.name.as_str()).collect();
    assert_eq!(names, ["enforce.lazaretto.dev", "templates.lazaretto.dev"]);
    let free = site.free_traffic().await;
    let begun = Instant::now();
    let foreign = json!({
        "name": "foreign.example.com", "admissionReviewVersions": ["v1"], "sideEffects": "None", "failurePolicy": "Ignore",
        "clientConfig": { "service": { "name": "foreign", "namespace": "default" } },
        "rules": [{ "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"] }],
    });
    let strange =
        base64::Engine::encode(&base64::prelude::BASE64_STANDARD, crate::lab::control_plane::Authority::new("somebody else's").pem());
    for (what, patch) in [
        ("the list is removed", json!([{ "op": "remove", "path": "/webhooks" }])),
        ("a caBundle is removed", json!([{ "op": "remove", "path": "/webhooks/0/clientConfig/caBundle" }])),
        (
            "the caBundles are somebody else's",
            json!([
                { "op": "replace", "path": "/webhooks/0/clientConfig/caBundle", "value": strange },
                { "op": "replace", "path": "/webhooks/1/clientConfig/caBundle", "value": strange },
            ]),
        ),
        ("an entry fails open", json!([{ "op": "replace", "path": "/webhooks/0/failurePolicy", "value": "Ignore" }])),
        ("an entry matches nothing", json!([{ "op": "replace", "path": "/webhooks/0/rules", "value": [] }])),
        (
            "a condition is added that never holds",
            json!([
                { "op": "add", "path": "/webhooks/0/matchConditions/-", "value": { "name": "never", "expression": "false" } },
            ]),
        ),
        ("an entry is added", json!([{ "op": "add", "path": "/webhooks/-", "value": foreign }])),
        ("the owner is removed", json!([{ "op": "remove", "path": "/metadata/ownerReferences" }])),
    ] {
        let patch = ["patch", "validatingwebhookconfiguration", "lazaretto", "--type=json", "-p", &patch.to_string()];
        lab.kubectl(&patch).await.ok();
        undone(lab, what, &before).await;
    }
    // helm, told to replace what it finds.
    let chart = format!("{ROOT}/charts/lazaretto");
    let force = ["upgrade", RELEASE, &chart, "--namespace", NAMESPACE, "--reuse-values", "--server-side=false", "--force-replace"];
    lab.helm(&force).await.ok();
    undone(lab, "helm replaced the object", &before).await;
    site.works().await;
    let (made, longest) = free.unharmed(begun);
    eprintln!("agreement: {made} pods in a free namespace meanwhile, the slowest in {longest:?}");
}

async fn undone(lab: &Lab, what: &str, before: &ValidatingWebhookConfiguration) {
    let begun = Instant::now();
    let api: Api<ValidatingWebhookConfiguration> = Api::all(lab.client().await);
    let as_before = |object: Option<&ValidatingWebhookConfiguration>| object.is_some_and(|object| kept(object) == kept(before));
    until(api, "lazaretto", &format!("{what}: undone"), as_before).await;
    let took = begun.elapsed();
    eprintln!("agreement: {what}: undone after {took:?}");
    assert!(took < Duration::from_secs(10), "{what}: within seconds");
}

/// The certificate that a replica shows to a client that trusts `authority` and nobody else.
async fn shown(replica: &Replica, authority: &[u8]) -> anyhow::Result<Vec<u8>> {
    let name = format!("{SERVICE}.{NAMESPACE}.svc");
    let http = reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only([reqwest::Certificate::from_pem(authority)?])
        .tls_info(true)
        .resolve(&name, replica.webhook())
        .timeout(Duration::from_secs(5))
        .build()?;
    let answer = http.get(format!("https://{name}:{}/", replica.webhook().port())).send().await?;
    let info = answer.extensions().get::<TlsInfo>().expect("asked for");
    Ok(info.peer_certificate().expect("a certificate").to_vec())
}

#[tokio::test]
async fn replicas_agree_on_a_new_certificate_when_the_secret_is_deleted() {
    let site = Site::new(&[]).await;
    let lab = &site.world.lab;
    let secrets: Api<Secret> = Api::namespaced(lab.client().await, NAMESPACE);
    let traffic = site.enforced_traffic().await;
    traffic.flows(10).await;
    for turn in 1..=3 {
        let old = secrets.get("lazaretto-tls").await.unwrap();
        let standing = bundle(&entries(lab).await).to_vec();
        let begun = Instant::now();
        lab.kubectl(&["delete", "secret", "lazaretto-tls", "-n", NAMESPACE]).await.ok();
        let anew = |object: Option<&Secret>| object.is_some_and(|object| object.uid() != old.uid());
        let new = until(secrets.clone(), "lazaretto-tls", "it is made anew", anew).await.unwrap();
        let made = begun.elapsed();
        until_entries(lab, "the entries trust the new authority", |entries| bundle(entries) != standing).await;
        let trusted = begun.elapsed();
        let data = new.data.as_ref().unwrap();
        let leaf = CertificateDer::from_pem_slice(&data["tls.crt"].0).unwrap().to_vec();
        for replica in &site.world.replicas {
            eventually(MOMENT, &format!("{} shows the new certificate", replica.pod()), async || {
                let seen = shown(replica, &data["ca.crt"].0).await?;
                anyhow::ensure!(seen == leaf, "another one");
                Ok(())
            })
            .await;
        }
        let shown = begun.elapsed();
        traffic.flows_again(5).await;
        traffic.flows(10).await;
        let (failed, gap) = traffic.gap(begun);
        eprintln!(
            "agreement: deletion {turn}: made anew after {made:?}, trusted after {trusted:?}, shown by both after {shown:?}; {failed} pods refused within {gap:?}"
        );
        assert!(gap < Duration::from_secs(10), "service goes on within seconds");
        assert_eq!(bundle(&entries(lab).await), data["ca.crt"].0, "one authority, and all trust it");
        let unchanged = secrets.get("lazaretto-tls").await.unwrap();
        assert_eq!((unchanged.uid(), unchanged.data), (new.uid(), new.data.clone()), "nobody made another");
        assert_eq!(unchanged.metadata.owner_references, old.metadata.owner_references, "with the same owner");
    }
}
