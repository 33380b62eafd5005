//! What our objects go with when an installation is removed.
//!
//! The chart makes neither the Secret with the certificates nor the Lease, nor does it fill the webhook configuration; so helm does not
//! remove what the program wrote. Owners do: the garbage collector takes an object away when its last owner is gone.
//!
//! - The Secret and the Lease go with our ServiceAccount, which helm makes and removes.
//! - The webhook configuration is helm's and goes first. That it also goes with our namespace is for those who delete that instead:
//!   webhooks that nobody answers would stay behind.

use std::time::Duration;

use k8s_openapi::{
    api::core::v1::{Namespace, ServiceAccount},
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::{Api, Client, Resource};

use crate::writer::{CallError, bounded};

/// Turns for a ServiceAccount that the API server does not show us at once.
const TURNS: usize = 3;
/// Between them.
const PAUSE: Duration = Duration::from_secs(1);

/// Our ServiceAccount, to be the owner of what we make. None when it cannot be read: what we make then stays behind when it goes, which
/// is no reason not to serve.
pub async fn service_account(client: Client, namespace: &str, name: &str) -> Vec<OwnerReference> {
    let api = Api::<ServiceAccount>::namespaced(client, namespace);
    for turn in 1..=TURNS {
        match bounded(api.get_metadata(name)).await {
            Ok(object) => return reference::<ServiceAccount>(&object.metadata).into_iter().collect(),
            Err(error @ CallError::NotFound) => {
                tracing::warn!(name, %error, "no ServiceAccount to own the Secret and the Lease: they stay when the installation goes");
                return Vec::new();
            }
            Err(error) => {
                tracing::warn!(name, %error, "the ServiceAccount that is to own the Secret and the Lease was not read");
                if turn < TURNS {
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
    Vec::new()
}

/// A namespace, to be the owner of what has none of its own.
pub async fn namespace(client: Client, name: &str) -> Result<OwnerReference, CallError> {
    let object = bounded(Api::<Namespace>::all(client).get_metadata(name)).await?;
    reference::<Namespace>(&object.metadata).ok_or(CallError::NotFound)
}

fn reference<K: Resource<DynamicType = ()>>(metadata: &kube::api::ObjectMeta) -> Option<OwnerReference> {
    Some(OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: metadata.name.clone()?,
        uid: metadata.uid.clone()?,
        block_owner_deletion: None,
        controller: None,
    })
}

#[cfg(test)]
mod tests {
    use http::{Request, Response};
    use kube::client::Body;
    use serde_json::json;

    use super::*;

    /// A client of an API server that answers each request for the given path with a status and an object.
    fn client(path: &'static str, code: u16, object: serde_json::Value) -> Client {
        let service = tower::service_fn(move |request: Request<Body>| {
            assert_eq!(request.uri().path(), path);
            let answer = Response::builder().status(code).body(Body::from(object.to_string().into_bytes())).unwrap();
            async { Ok::<_, std::convert::Infallible>(answer) }
        });
        Client::new(service, "default")
    }

    #[tokio::test]
    async fn owners_are_named_with_their_uid() {
        let account = json!({
            "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": { "name": "lazaretto", "uid": "one" },
        });
        let found = service_account(client("/api/v1/namespaces/n/serviceaccounts/lazaretto", 200, account), "n", "lazaretto").await;
        let expected = json!([{ "apiVersion": "v1", "kind": "ServiceAccount", "name": "lazaretto", "uid": "one" }]);
        assert_eq!(json!(found), expected);

        let object = json!({ "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": { "name": "n", "uid": "two" } });
        let found = namespace(client("/api/v1/namespaces/n", 200, object), "n").await.unwrap();
        assert_eq!(json!(found), json!({ "apiVersion": "v1", "kind": "Namespace", "name": "n", "uid": "two" }));
    }

    #[tokio::test(start_paused = true)]
    async fn a_missing_account_owns_nothing_and_an_unreadable_one_is_asked_for_again() {
        let status =
            |code: u16, reason: &str| json!({ "kind": "Status", "status": "Failure", "message": "m", "reason": reason, "code": code });
        let path = "/api/v1/namespaces/n/serviceaccounts/lazaretto";
        let begun = tokio::time::Instant::now();
        assert_eq!(service_account(client(path, 404, status(404, "NotFound")), "n", "lazaretto").await, []);
        assert_eq!(begun.elapsed(), Duration::ZERO);
        assert_eq!(service_account(client(path, 500, status(500, "InternalError")), "n", "lazaretto").await, []);
        assert_eq!(begun.elapsed(), Duration::from_secs(2), "three turns");
    }
}
