//! Which credentials a look-up shows: the Registry's own, or, where the installation opts in, the pod's.
//!
//! A Secret that was read is kept for a while and read again beside the review that finds it old, so that a warm review asks nobody.

use std::{collections::HashMap, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{
    credentials::PodCredentials,
    image::Reference,
    keyring::{Holder, Keyring},
    lookups::Access,
    policy::RegistryEntry,
    registry::{CredentialIdentity, Credentials},
    writer::bounded,
};

/// After this long a Secret is read again, beside whoever asks.
const FRESH: Duration = Duration::from_secs(30);
/// After this long it is read again before it is used.
const STALE: Duration = Duration::from_secs(300);
/// A Secret that could not be read is tried again after this long.
const MISSING: Duration = Duration::from_secs(5);

#[derive(Clone, Debug)]
struct Held {
    secret: Result<Arc<Secret>, String>,
    read: Instant,
    reading: bool,
}

/// Credentials for registries.
#[derive(Clone, Default)]
pub struct Wallet {
    /// Secrets of our own namespace; none outside a cluster.
    secrets: Option<Api<Secret>>,
    held: Arc<Mutex<HashMap<String, Held>>>,
    /// Pods' own credentials, where the installation opts in.
    pods: Option<Arc<PodCredentials>>,
    /// What is shown to listed registries without a Secret: from a Docker configuration file, for `check`.
    keyring: Option<Arc<Keyring>>,
}

/// Nothing is shown.
#[must_use]
pub fn anonymous() -> Access {
    Access { credentials: Credentials::Anonymous, identity: CredentialIdentity::Anonymous, own: false }
}

impl std::fmt::Debug for Wallet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wallet").field("pods", &self.pods.is_some()).finish_non_exhaustive()
    }
}

fn access(credentials: Credentials, holder: Holder) -> Access {
    let identity = credentials.identity(holder);
    Access { credentials, identity, own: holder == Holder::Registry }
}

impl Wallet {
    /// Credentials out of Secrets of our own namespace, and of pods where the installation opts in.
    #[must_use]
    pub fn new(client: Client, namespace: &str, pods: bool) -> Self {
        let pods = pods.then(|| Arc::new(PodCredentials::new(client.clone())));
        Self { secrets: Some(Api::namespaced(client, namespace)), pods, ..Self::default() }
    }

    /// Credentials out of a Docker configuration file.
    #[must_use]
    pub fn of_keyring(keyring: Keyring) -> Self {
        Self { keyring: Some(Arc::new(keyring)), ..Self::default() }
    }

    /// What to show the registry of an image that a pod names.
    ///
    /// # Errors
    /// A sentence, when the Registry's own credentials cannot be had.
    pub async fn access(
        &self,
        registry: Option<&RegistryEntry>,
        image: &Reference,
        namespace: &str,
        service_account: &str,
        pull_secrets: &[&str],
    ) -> Result<Access, String> {
        match registry {
            Some(registry) if registry.spec.credentials.is_some() => self.own(registry, image.registry()).await,
            _ => match &self.pods {
                Some(pods) => {
                    let found = pods.find(namespace, service_account, pull_secrets, &image.name()).await;
                    Ok(found.map_or_else(anonymous, |credentials| access(credentials, Holder::Pod)))
                }
                None => Ok(self.known(registry, image)),
            },
        }
    }

    /// The same without asking anybody, for what is never refused.
    #[must_use]
    pub fn known(&self, registry: Option<&RegistryEntry>, image: &Reference) -> Access {
        if let Some(keyring) = &self.keyring {
            return keyring.lookup(&image.name()).into_iter().next().map_or_else(anonymous, |credentials| access(credentials, Holder::Pod));
        }
        let Some(secret) = registry.and_then(|registry| registry.spec.credentials.as_ref()) else { return anonymous() };
        let held = self.held.lock().get(&secret.secret_name).map(|held| held.secret.clone());
        match held {
            Some(Ok(secret)) => of_secret(&secret, image.registry()).unwrap_or_else(|_| anonymous()),
            Some(Err(_)) | None => anonymous(),
        }
    }

    /// The Registry's own credentials for one of its hosts; nothing where it names none.
    ///
    /// # Errors
    /// A sentence, when they cannot be had.
    pub async fn own(&self, registry: &RegistryEntry, host: &str) -> Result<Access, String> {
        let Some(secret) = &registry.spec.credentials else { return Ok(anonymous()) };
        let secret = self.secret(&secret.secret_name).await?;
        of_secret(&secret, host)
    }

    async fn secret(&self, name: &str) -> Result<Arc<Secret>, String> {
        let now = Instant::now();
        if let Some(held) = self.held.lock().get_mut(name) {
            let age = now - held.read;
            match &held.secret {
                Ok(secret) if age < FRESH => return Ok(secret.clone()),
                Ok(secret) if age < STALE => {
                    let secret = secret.clone();
                    if !held.reading {
                        held.reading = true;
                        let wallet = self.clone();
                        let name = name.to_owned();
                        tokio::spawn(async move { wallet.read(&name).await });
                    }
                    return Ok(secret);
                }
                Err(error) if age < MISSING => return Err(error.clone()),
                Ok(_) | Err(_) => {}
            }
        }
        self.read(name).await
    }

    async fn read(&self, name: &str) -> Result<Arc<Secret>, String> {
        let Some(api) = &self.secrets else { return Err(format!("the Secret {name} cannot be read outside the cluster")) };
        let secret = bounded(api.get(name)).await.map(Arc::new).map_err(|error| format!("the Secret {name} cannot be read: {error}"));
        let held = Held { secret: secret.clone(), read: Instant::now(), reading: false };
        self.held.lock().insert(name.to_owned(), held);
        secret
    }
}

fn of_secret(secret: &Secret, host: &str) -> Result<Access, String> {
    let name = secret.metadata.name.as_deref().unwrap_or_default();
    match Keyring::of_registry(secret, host) {
        Ok(Some(credentials)) => Ok(access(credentials, Holder::Registry)),
        Ok(None) => Err(format!("the Secret {name} holds no credentials for {host}")),
        Err(error) => Err(format!("the Secret {name} cannot be used: {error}")),
    }
}
