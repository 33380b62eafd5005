//! A pod's own credentials: its pull secrets and its ServiceAccount's, where the installation opts in.
//!
//! `get` only, and as the kubelet would: a Secret that is missing or of another type is passed over, all that match are candidates,
//! and the most specific comes first. What was found is kept for a minute by namespace, account and names; never across namespaces.

use std::{collections::HashMap, time::Duration};

use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::{Api, Client};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{
    keyring::{Credentials, Holder, Keyring},
    writer::{CallError, bounded},
};

/// How long a keyring that was read is kept.
const FRESH: Duration = Duration::from_secs(60);
/// Keyrings that are kept.
const MOST: usize = 4_096;
/// Pull secrets of one pod that are read.
const MOST_SECRETS: usize = 16;

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    namespace: String,
    service_account: String,
    secrets: Vec<String>,
}

/// Reads pods' own credentials.
pub struct PodCredentials {
    client: Client,
    held: Mutex<HashMap<Key, (Instant, Keyring)>>,
}

impl PodCredentials {
    /// Reads with this client, which needs `get` on Secrets and ServiceAccounts of every namespace.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client, held: Mutex::default() }
    }

    /// The first credentials that the pod has for an image; none when it has none.
    ///
    /// `name` is the image's canonical name without tag or digest.
    pub async fn find(&self, namespace: &str, service_account: &str, secrets: &[&str], name: &str) -> Option<Credentials> {
        let key = Key {
            namespace: namespace.to_owned(),
            service_account: service_account.to_owned(),
            secrets: secrets.iter().take(MOST_SECRETS).map(|&secret| secret.to_owned()).collect(),
        };
        let held = self.held.lock().get(&key).filter(|(read, _)| read.elapsed() < FRESH).map(|(_, keyring)| keyring.clone());
        let keyring = match held {
            Some(keyring) => keyring,
            None => {
                let keyring = self.read(&key).await;
                let mut held = self.held.lock();
                if held.len() >= MOST {
                    held.retain(|_, (read, _)| read.elapsed() < FRESH);
                }
                if held.len() < MOST {
                    held.insert(key, (Instant::now(), keyring.clone()));
                }
                keyring
            }
        };
        keyring.lookup(name).into_iter().next()
    }

    async fn read(&self, key: &Key) -> Keyring {
        let mut names = key.secrets.clone();
        if names.is_empty() {
            // The API server copies the account's secrets into a pod that lists none; a template has not been through that yet.
            let accounts = Api::<ServiceAccount>::namespaced(self.client.clone(), &key.namespace);
            if let Ok(account) = bounded(accounts.get(&key.service_account)).await {
                let secrets = account.image_pull_secrets.unwrap_or_default();
                names = secrets.into_iter().take(MOST_SECRETS).map(|secret| secret.name).collect();
            }
        }
        let secrets = Api::<Secret>::namespaced(self.client.clone(), &key.namespace);
        let mut keyring = Keyring::default();
        for name in names {
            match bounded(secrets.get(&name)).await {
                Ok(secret) => {
                    if let Err(error) = keyring.add(&secret, Holder::Pod) {
                        tracing::debug!(namespace = key.namespace, name, %error, "a pull secret cannot be read");
                    }
                }
                Err(CallError::NotFound) => {}
                Err(error) => tracing::warn!(namespace = key.namespace, name, %error, "a pull secret was not read"),
            }
        }
        keyring
    }
}
