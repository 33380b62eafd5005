//! Reads the trusted roots that policies and Registries name, from ConfigMaps and Secrets of our own namespace, and reads them again.
//!
//! They are few and change a few times a year, so they are asked for one by one and by name: no right to list, no watch of everything
//! that is there. One that cannot be read, or no longer, stays as it was read last; what needs one that was never read waits.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    api::TrustRootSource,
    proof::TrustRoot,
    watch::SharedIndex,
    writer::{CallError, bounded},
};

/// How often each is read again.
const EVERY: Duration = Duration::from_secs(45);
/// How soon, where one could not be read.
const SOON: Duration = Duration::from_secs(5);

/// Reads until it is told to stop. `changed` counts changes of the rules, and is told of roots that are new.
pub async fn run(client: Client, namespace: String, index: SharedIndex, changed: watch::Sender<u64>, stop: CancellationToken) {
    let mut rules = changed.subscribe();
    loop {
        rules.mark_unchanged();
        let sources = index.read().rules().root_sources();
        let failed = pass(&client, &namespace, &index, &changed, &sources).await;
        let wait = if failed { SOON } else { EVERY };
        let more = async {
            // What changes most often is not about roots.
            while rules.changed().await.is_ok() {
                if index.read().rules().root_sources() != sources {
                    return;
                }
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = more => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Reads each once. Says whether one could not be read.
async fn pass(
    client: &Client,
    namespace: &str,
    index: &SharedIndex,
    changed: &watch::Sender<u64>,
    sources: &BTreeSet<TrustRootSource>,
) -> bool {
    let mut failed = false;
    for source in sources {
        let found = read(client, namespace, source).await;
        match found.and_then(|json| TrustRoot::read(&json).map_err(|error| error.to_string())) {
            Ok(root) => {
                if index.write().apply_root(source, &Arc::new(root)) {
                    tracing::info!(%source, "a trusted root is in force");
                    changed.send_modify(|count| *count += 1);
                }
            }
            Err(why) => {
                failed = true;
                if index.write().note_root_fault(source, &why) {
                    tracing::warn!(%source, why, "a trusted root cannot be read; what is signed under it is not known");
                    changed.send_modify(|count| *count += 1);
                }
            }
        }
    }
    failed
}

async fn read(client: &Client, namespace: &str, source: &TrustRootSource) -> Result<Vec<u8>, String> {
    let lacks = || format!("it has no key {}", source.key);
    let failed = |error: CallError| error.to_string();
    if let Some(name) = &source.config_map_name {
        let object = bounded(Api::<ConfigMap>::namespaced(client.clone(), namespace).get(name)).await.map_err(failed)?;
        let text = object.data.and_then(|mut data| data.remove(&source.key)).map(String::into_bytes);
        let bytes = || object.binary_data.and_then(|mut data| data.remove(&source.key)).map(|bytes| bytes.0);
        return text.or_else(bytes).ok_or_else(lacks);
    }
    let name = source.secret_name.as_deref().unwrap_or_default();
    let object = bounded(Api::<Secret>::namespaced(client.clone(), namespace).get(name)).await.map_err(failed)?;
    object.data.and_then(|mut data| data.remove(&source.key)).map(|bytes| bytes.0).ok_or_else(lacks)
}
