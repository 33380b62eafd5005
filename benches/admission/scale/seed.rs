//! What the API server holds when the leader begins.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::{
    api::core::v1::{Namespace, Secret},
    serde::{Serialize, de::DeserializeOwned},
};
use kube::{Api, Client, Resource, api::PostParams};
use lazaretto::{
    api::{ImageStatus, QuarantinePolicy, Registry, Waiver},
    metrics::Metrics,
    writer::{FIELD_MANAGER, apply_status},
};
use serde_json::{Value, json};

use crate::{
    cluster::{self, NAMESPACE},
    world::{self, read},
};

/// Writes under way.
const AT_ONCE: usize = 48;
/// Every so manieth object is weighed.
const WEIGHED: usize = 100;

async fn create<K>(api: &Api<K>, object: Value) -> K
where
    K: Resource + Clone + std::fmt::Debug + Serialize + DeserializeOwned,
{
    let object: K = read(object);
    api.create(&PostParams::default(), &object).await.unwrap_or_else(|error| panic!("{object:?}: {error}"))
}

/// Namespaces, policies, waivers, Registries (whose flags have been kept for long) and the Secret with their credentials. Their statuses are
/// the program's to write.
pub async fn rules(people: PathBuf, program: PathBuf, registry: SocketAddr) {
    let (people, program) = (cluster::client(&people).await, cluster::client(&program).await);
    let namespaces: Api<Namespace> = Api::all(people.clone());
    for number in 0..world::NAMESPACES {
        let labels = world::labels(number);
        create(&namespaces, json!({ "metadata": { "name": format!("team-{number}"), "labels": labels } })).await;
    }
    create::<Secret>(&Api::namespaced(people.clone(), NAMESPACE), world::secret()).await;
    for number in 0..world::POLICIES {
        create::<QuarantinePolicy>(&Api::all(people.clone()), world::policy(number)).await;
    }
    for number in 0..world::WAIVERS {
        create::<Waiver>(&Api::all(people.clone()), world::waiver(number)).await;
    }
    let registries: Api<Registry> = Api::all(program);
    for number in 0..world::REGISTRIES {
        let object = world::registry(number, registry);
        let status = object["status"].clone();
        create::<Registry>(&Api::all(people.clone()), object).await;
        apply_status(&registries, &format!("registry-{number}"), status, FIELD_MANAGER, &Metrics::new().0).await.unwrap();
    }
}

/// ImageStatuses, each created and then given its status, as the program does it. Returns how large they are in JSON, on average.
pub async fn statuses(program: PathBuf, statuses: usize) -> f64 {
    let client = Arc::new(cluster::client(&program).await);
    let weights: Vec<usize> = stream::iter(0..statuses)
        .map(|number| tokio::spawn(status(client.clone(), number)))
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await
        .unwrap();
    let weighed: Vec<f64> = weights.into_iter().filter(|weight| *weight > 0).map(crate::figures::count).collect();
    weighed.iter().sum::<f64>() / crate::figures::count(weighed.len())
}

async fn status(client: Arc<Client>, number: usize) -> usize {
    let api: Api<ImageStatus> = Api::all((*client).clone());
    let object = world::status(number, "Released");
    let status = read::<ImageStatus>(object.clone()).status;
    let mut made: ImageStatus = create(&api, object).await;
    made.status = status;
    let name = made.metadata.name.clone().unwrap();
    let written = api.replace_status(&name, &PostParams::default(), &made).await.unwrap();
    if number.is_multiple_of(WEIGHED) { serde_json::to_vec(&written).unwrap().len() } else { 0 }
}
