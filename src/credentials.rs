//! Credentials out of Secrets: the Registry's own in our namespace, and, where the installation opts in, a pod's pull secrets.
//!
//! Secrets are only ever fetched by name (`get`), never listed or watched, so that RBAC can name them one by one. What was read is kept for half a minute, and of a
//! Secret that cannot be read now what was read in the last ten minutes: the registries do not care that the API server has a bad moment.

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use futures::future::join_all;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use parking_lot::Mutex;
use thiserror::Error;
use tokio::time::timeout;

use crate::{
    keyring::{CredentialIdentity, Credentials, Holder, Keyring, KeyringError},
    registry::slots::Slots,
};

/// One read of one object.
const READ_TIMEOUT: Duration = Duration::from_secs(3);
/// What was read is believed so long.
const FRESH: Duration = Duration::from_secs(30);
/// And so long that there is nothing to read: pods come right after their Secrets.
const FRESH_ABSENCE: Duration = Duration::from_secs(3);
/// And so long that it could not be read.
const FRESH_FAILURE: Duration = Duration::from_secs(1);
/// While it cannot be read, what was read before counts so long.
const LAST_KNOWN: Duration = Duration::from_secs(600);
/// Secrets remembered at once.
const MOST_SECRETS: usize = 512;
/// Larger Secrets of strangers are read anew each time, so that what is remembered stays within 8 MiB.
const MOST_REMEMBERED_BYTES: usize = 16 << 10;
/// Pull secrets of one pod beyond this many are not read.
pub const MOST_PULL_SECRETS: usize = 16;

/// Credentials that cannot be had. Holds nothing of a Secret's content.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CredentialsError {
    /// There is no such object.
    #[error("Secret {namespace}/{name} does not exist")]
    Absent {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// The API server refuses it to us, does not answer, or answers nonsense.
    #[error("Secret {namespace}/{name} cannot be read: {why}")]
    Unreadable {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// What stands in the way.
        why: String,
    },
    /// Its content makes no sense.
    #[error("Secret {namespace}/{name}: {error}")]
    Content {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// What is wrong.
        error: KeyringError,
    },
    /// It speaks of other registries only.
    #[error("Secret {namespace}/{name} has no entry for {host}")]
    OtherHosts {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// The registry.
        host: String,
    },
    /// A pod names more pull secrets than are read.
    #[error("the pod names {0} pull secrets, and the first {MOST_PULL_SECRETS} are read")]
    TooMany(usize),
}

/// What a pod has to show a registry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodCredentials {
    /// All that match the image, in the order in which they are to be tried; may be empty.
    pub credentials: Vec<Credentials>,
    /// Pull secrets that exist and could not be used. Missing ones are tolerated, as by the kubelet.
    pub unusable: Vec<CredentialsError>,
}

/// Credentials made ready to be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identified {
    /// What is shown.
    pub credentials: Arc<Credentials>,
    /// What tells it apart from others.
    pub identity: CredentialIdentity,
}

impl Identified {
    /// Made ready for this holder.
    #[must_use]
    pub fn new(credentials: Credentials, holder: Holder) -> Self {
        Self { identity: credentials.identity(holder), credentials: Arc::new(credentials) }
    }
}

/// A Secret as it was read. What a Registry object's Secret has for a host is read out of it once: every review of a tag needs it.
struct Held {
    secret: Secret,
    /// By host; only hosts of Registry objects are asked for.
    of_hosts: Mutex<HashMap<String, Result<Identified, CredentialsError>>>,
}

type Read = Result<Arc<Held>, CredentialsError>;

/// Reads Secrets, sparingly.
pub struct SecretReader {
    client: Client,
    namespace: String,
    slots: Slots<(String, String), Read>,
}

impl fmt::Debug for SecretReader {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "SecretReader({})", self.slots.len())
    }
}

impl SecretReader {
    /// `namespace`: Lazaretto's own, where the Secrets of Registry objects are.
    #[must_use]
    pub fn new(client: Client, namespace: impl Into<String>) -> Self {
        Self { client, namespace: namespace.into(), slots: Slots::new(MOST_SECRETS) }
    }

    /// What a Registry object's Secret has for one of its hosts.
    pub async fn registry_credentials(&self, secret_name: &str, host: &str) -> Result<Identified, CredentialsError> {
        let held = self.secret(&self.namespace, secret_name).await?;
        self.of_registry(&held, secret_name, host)
    }

    /// The same from memory, without asking the API server. None when the Secret has to be read first.
    pub fn fresh_registry_credentials(&self, secret_name: &str, host: &str) -> Option<Result<Identified, CredentialsError>> {
        let read = self.slots.find(&(self.namespace.clone(), secret_name.to_owned()))?.current()?;
        Some(read.and_then(|held| self.of_registry(&held, secret_name, host)))
    }

    /// The same, and older: none when the Secret was not read in the last ten minutes.
    pub fn known_registry_credentials(&self, secret_name: &str, host: &str) -> Option<Result<Identified, CredentialsError>> {
        let read = self.slots.find(&(self.namespace.clone(), secret_name.to_owned()))?.last(LAST_KNOWN)?;
        Some(read.and_then(|held| self.of_registry(&held, secret_name, host)))
    }

    /// Has a Registry object's Secret read anew at the next question: the registry refused what it held.
    pub fn forget_registry_credentials(&self, secret_name: &str) {
        if let Some(slot) = self.slots.find(&(self.namespace.clone(), secret_name.to_owned())) {
            slot.forget_if(|_| true);
        }
    }

    /// What a pod's pull secrets have for an image, matched as the kubelet does.
    ///
    /// `image_name`: canonical host and repository, `docker.io/library/nginx`. For a pod under admission its own list is complete: the ServiceAccount's pull
    /// secrets were put there before any webhook was asked, when it had none.
    pub async fn pod_credentials(&self, namespace: &str, pull_secrets: &[&str], image_name: &str) -> PodCredentials {
        let mut found = PodCredentials::default();
        if pull_secrets.len() > MOST_PULL_SECRETS {
            found.unusable.push(CredentialsError::TooMany(pull_secrets.len()));
        }
        let names = &pull_secrets[..pull_secrets.len().min(MOST_PULL_SECRETS)];
        let mut keyring = Keyring::default();
        for (name, read) in names.iter().zip(join_all(names.iter().map(|name| self.secret(namespace, name))).await) {
            let added = read.and_then(|held| {
                keyring.add(&held.secret, Holder::Pod).map_err(|error| CredentialsError::Content {
                    namespace: namespace.to_owned(),
                    name: (*name).to_owned(),
                    error,
                })
            });
            match added {
                Ok(()) | Err(CredentialsError::Absent { .. }) => {}
                Err(error) => found.unusable.push(error),
            }
        }
        found.credentials = keyring.lookup(image_name);
        found
    }

    fn of_registry(&self, held: &Held, name: &str, host: &str) -> Result<Identified, CredentialsError> {
        let mut of_hosts = held.of_hosts.lock();
        if let Some(known) = of_hosts.get(host) {
            return known.clone();
        }
        let (namespace, name) = (self.namespace.clone(), name.to_owned());
        let read = match Keyring::of_registry(&held.secret, host) {
            Ok(Some(credentials)) => Ok(Identified::new(credentials, Holder::Registry)),
            Ok(None) => Err(CredentialsError::OtherHosts { namespace, name, host: host.to_owned() }),
            Err(error) => Err(CredentialsError::Content { namespace, name, error }),
        };
        of_hosts.insert(host.to_owned(), read.clone());
        read
    }

    /// A Secret from memory, or from the API server: one asks, the others wait.
    async fn secret(&self, namespace: &str, name: &str) -> Read {
        let slot = self.slots.slot((namespace.to_owned(), name.to_owned()));
        if let Some(read) = slot.current() {
            return read;
        }
        let _reading = slot.renewal.lock().await;
        if let Some(read) = slot.current() {
            return read;
        }
        let read = get(self.client.clone(), namespace, name).await;
        match read {
            Ok(mut secret) => {
                secret.metadata = kube::api::ObjectMeta::default();
                let size: usize = secret.data.iter().flatten().map(|(key, value)| key.len() + value.0.len()).sum();
                let read = Ok(Arc::new(Held { secret, of_hosts: Mutex::default() }));
                if size <= MOST_REMEMBERED_BYTES || namespace == self.namespace {
                    slot.keep(read.clone(), FRESH);
                }
                read
            }
            Err(error @ CredentialsError::Unreadable { .. }) => {
                if let Some(Ok(last)) = slot.last(LAST_KNOWN) {
                    tracing::warn!(%error, "goes on with what was read before");
                    slot.extend(FRESH_FAILURE);
                    return Ok(last);
                }
                slot.keep(Err(error.clone()), FRESH_FAILURE);
                Err(error)
            }
            Err(error) => {
                slot.keep(Err(error.clone()), FRESH_ABSENCE);
                Err(error)
            }
        }
    }
}

/// One Secret by its name.
async fn get(client: Client, namespace: &str, name: &str) -> Result<Secret, CredentialsError> {
    let absent = || CredentialsError::Absent { namespace: cut(namespace), name: cut(name) };
    let unreadable = |why: String| CredentialsError::Unreadable { namespace: cut(namespace), name: cut(name), why };
    // A pod may name anything, and the client puts it into a path as it is: `../../other/secrets/x` must not be asked for. No object has such a name.
    if !is_name(namespace) || !is_name(name) {
        return Err(absent());
    }
    match timeout(READ_TIMEOUT, Api::<Secret>::namespaced(client, namespace).get_opt(name)).await {
        Ok(Ok(Some(object))) => Ok(object),
        Ok(Ok(None)) => Err(absent()),
        Ok(Err(kube::Error::Api(status))) => Err(unreadable(format!("the API server answers {} {}", status.code, status.reason))),
        // What a parser says may quote a Secret.
        Ok(Err(kube::Error::SerdeError(_))) => Err(unreadable("the API server answers with something else".to_owned())),
        Ok(Err(error)) => {
            tracing::debug!(namespace, name, %error, "cannot be read");
            Err(unreadable("the API server cannot be reached".to_owned()))
        }
        Err(_) => Err(unreadable(format!("the API server did not answer within {}s", READ_TIMEOUT.as_secs()))),
    }
}

/// RFC 1123 subdomain, as the names of Secrets, ServiceAccounts and namespaces are.
fn is_name(text: &str) -> bool {
    let plain =
        |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    text.len() <= 253 && text.split('.').all(plain)
}

fn cut(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(253).collect()
}

#[cfg(test)]
mod tests;
