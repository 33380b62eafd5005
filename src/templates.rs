//! The pod templates of workloads, read from the API server page by page.

use k8s_openapi::api::{
    apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet},
    batch::v1::{CronJob, Job},
    core::v1::ReplicationController,
};
use kube::{
    Api, Client, Resource,
    api::{ListParams, ObjectMeta},
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    pod::{self, Pod},
    writer::bounded,
};

/// Templates of one kind that are read at the most.
const MOST_TEMPLATES: usize = 100_000;

/// One workload with its template.
#[derive(Debug)]
pub struct Template<'a> {
    /// Its kind.
    pub kind: &'static str,
    /// Names and owners.
    pub metadata: &'a ObjectMeta,
    /// The template.
    pub pod: &'a Pod<'a>,
}

/// Shows every workload that has a template, and returns the kinds of which there are more than are read.
///
/// # Errors
/// A sentence that names the kind that cannot be listed.
pub async fn each(client: &Client, mut take: impl FnMut(&Template<'_>)) -> Result<Vec<&'static str>, String> {
    let mut cut = Vec::new();
    for (kind, whole) in [
        ("Deployment", read::<Deployment>(client, "Deployment", &mut take).await?),
        ("ReplicaSet", read::<ReplicaSet>(client, "ReplicaSet", &mut take).await?),
        ("StatefulSet", read::<StatefulSet>(client, "StatefulSet", &mut take).await?),
        ("DaemonSet", read::<DaemonSet>(client, "DaemonSet", &mut take).await?),
        ("Job", read::<Job>(client, "Job", &mut take).await?),
        ("CronJob", read::<CronJob>(client, "CronJob", &mut take).await?),
        ("ReplicationController", read::<ReplicationController>(client, "ReplicationController", &mut take).await?),
    ] {
        if !whole {
            cut.push(kind);
        }
    }
    Ok(cut)
}

/// Whether all were read.
async fn read<K>(client: &Client, kind: &'static str, take: &mut impl FnMut(&Template<'_>)) -> Result<bool, String>
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
            if let Ok(Some(pod)) = pod::template(kind, &json) {
                take(&Template { kind, metadata: object.meta(), pod: &pod });
            }
        }
        count += list.items.len();
        page.continue_token = list.metadata.continue_.filter(|token| !token.is_empty());
        if page.continue_token.is_none() || count >= MOST_TEMPLATES {
            return Ok(page.continue_token.is_none());
        }
    }
}
