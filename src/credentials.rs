//! A pod's own credentials: its pull secrets and its ServiceAccount's, where the installation opts in.
//!
//! `get` only, never list or watch, so that RBAC can name what may be read. Matched as the kubelet matches them ([`crate::keyring`]): a Secret that is missing or of
//! another type is passed over, all that match are candidates, and the most specific comes first. What was read is kept for half a minute by namespace and name,
//! and of a Secret that cannot be read now what was read in the last ten minutes: registries do not care that the API server has a bad moment.

use std::{fmt, sync::Arc, time::Duration};

use futures::future::join_all;
use k8s_openapi::{
    NamespaceResourceScope,
    api::core::v1::{Secret, ServiceAccount},
};
use kube::{Api, Client};
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::time::timeout;

use crate::{
    keyring::{Credentials, Holder, Keyring, KeyringError},
    registry::slots::Slots,
};

/// One read of one object. Less than an admission has, so that there is time left to ask the registry without.
const READ_TIMEOUT: Duration = Duration::from_secs(3);
/// What was read is believed so long.
const FRESH: Duration = Duration::from_secs(30);
/// And so long that there is nothing to read: pods come right after their Secrets.
const FRESH_ABSENCE: Duration = Duration::from_secs(3);
/// And so long that it could not be read.
const FRESH_FAILURE: Duration = Duration::from_secs(1);
/// While it cannot be read, what was read before counts so long.
const LAST_KNOWN: Duration = Duration::from_secs(600);
/// Secrets remembered at once, and ServiceAccounts.
const MOST_REMEMBERED: usize = 512;
/// Larger Secrets are read anew each time, so that what is remembered stays within 8 MiB.
const MOST_REMEMBERED_BYTES: usize = 16 << 10;
/// Pull secrets of one pod beyond this many are not read.
const MOST_PULL_SECRETS: usize = 16;

/// Why a pull secret was not used. Holds nothing of its content.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CredentialsError {
    /// There is no such object.
    #[error("{kind} {namespace}/{name} does not exist")]
    Absent {
        /// `Secret` or `ServiceAccount`.
        kind: &'static str,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// The API server refuses it to us, does not answer, or answers nonsense.
    #[error("{kind} {namespace}/{name} cannot be read: {why}")]
    Unreadable {
        /// `Secret` or `ServiceAccount`.
        kind: &'static str,
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
    /// A pod names more pull secrets than are read.
    #[error("the pod names {0} pull secrets, and the first {MOST_PULL_SECRETS} are read")]
    TooMany(usize),
}

/// What a pod has to show a registry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// All that match the image, in the order in which they are to be tried; may be empty.
    pub credentials: Vec<Credentials>,
    /// Pull secrets that exist and could not be used. Missing ones are tolerated, as by the kubelet.
    pub unusable: Vec<CredentialsError>,
}

type Read<T> = Result<Arc<T>, CredentialsError>;
type Memory<T> = Slots<(String, String), Read<T>>;

/// Reads pods' own credentials.
pub struct PodCredentials {
    client: Client,
    secrets: Memory<Secret>,
    accounts: Memory<ServiceAccount>,
}

impl fmt::Debug for PodCredentials {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "PodCredentials({})", self.secrets.len())
    }
}

impl PodCredentials {
    /// Reads with this client, which needs `get` on Secrets and ServiceAccounts of every namespace.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client, secrets: Slots::new(MOST_REMEMBERED), accounts: Slots::new(MOST_REMEMBERED) }
    }

    /// The first credentials that the pod has for an image; none when it has none. What could not be used is logged.
    ///
    /// `name` is the image's canonical name without tag or digest.
    pub async fn find(&self, namespace: &str, service_account: &str, secrets: &[&str], name: &str) -> Option<Credentials> {
        let found = self.all(namespace, service_account, secrets, name).await;
        for error in &found.unusable {
            tracing::warn!(namespace, %error, "a pull secret was not used");
        }
        found.credentials.into_iter().next()
    }

    /// All credentials that the pod has for an image.
    ///
    /// The ServiceAccount's pull secrets count when the pod names none of its own, as in the API server, which copies them into a pod before any webhook sees
    /// it; a template has not been through that yet.
    pub async fn all(&self, namespace: &str, service_account: &str, secrets: &[&str], name: &str) -> Found {
        let mut found = Found::default();
        let mut names: Vec<String> = secrets.iter().map(|&secret| secret.to_owned()).collect();
        if names.is_empty() {
            let account = remembered(&self.accounts, "ServiceAccount", &self.client, namespace, service_account, |_| true).await;
            match account {
                Ok(account) => names.extend(account.image_pull_secrets.iter().flatten().map(|secret| secret.name.clone())),
                Err(CredentialsError::Absent { .. }) => {}
                Err(error) => found.unusable.push(error),
            }
        }
        if names.len() > MOST_PULL_SECRETS {
            found.unusable.push(CredentialsError::TooMany(names.len()));
            names.truncate(MOST_PULL_SECRETS);
        }
        let small = |secret: &Secret| {
            secret.data.iter().flatten().map(|(key, value)| key.len() + value.0.len()).sum::<usize>() <= MOST_REMEMBERED_BYTES
        };
        let read = join_all(names.iter().map(|name| remembered(&self.secrets, "Secret", &self.client, namespace, name, small))).await;
        let mut keyring = Keyring::default();
        for (name, read) in names.iter().zip(read) {
            let content = |error| CredentialsError::Content { namespace: cut(namespace), name: cut(name), error };
            match read.and_then(|secret| keyring.add(&secret, Holder::Pod).map_err(content)) {
                Ok(()) | Err(CredentialsError::Absent { .. }) => {}
                Err(error) => found.unusable.push(error),
            }
        }
        found.credentials = keyring.lookup(name);
        found
    }
}

/// An object from memory, or from the API server: one asks, the others wait.
async fn remembered<K: Named>(
    memory: &Memory<K>,
    kind: &'static str,
    client: &Client,
    namespace: &str,
    name: &str,
    worth: impl FnOnce(&K) -> bool,
) -> Read<K> {
    let slot = memory.slot((namespace.to_owned(), name.to_owned()));
    if let Some(read) = slot.current() {
        return read;
    }
    let _reading = slot.renewal.lock().await;
    if let Some(read) = slot.current() {
        return read;
    }
    match get(kind, client.clone(), namespace, name).await {
        Ok(object) => {
            let is_worth = worth(&object);
            let read = Ok(Arc::new(object));
            if is_worth {
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

/// What is fetched by its name in a namespace.
trait Named: kube::Resource<Scope = NamespaceResourceScope, DynamicType = ()> + DeserializeOwned + Clone + fmt::Debug {}

impl Named for Secret {}
impl Named for ServiceAccount {}

/// One object by its name.
async fn get<K: Named>(kind: &'static str, client: Client, namespace: &str, name: &str) -> Result<K, CredentialsError> {
    let absent = || CredentialsError::Absent { kind, namespace: cut(namespace), name: cut(name) };
    let unreadable = |why: String| CredentialsError::Unreadable { kind, namespace: cut(namespace), name: cut(name), why };
    // A pod may name anything, and the client puts it into a path as it is: `../../other/secrets/x` must not be asked for. No object has such a name.
    if !is_name(namespace) || !is_name(name) {
        return Err(absent());
    }
    match timeout(READ_TIMEOUT, Api::<K>::namespaced(client, namespace).get_opt(name)).await {
        Ok(Ok(Some(object))) => Ok(object),
        Ok(Ok(None)) => Err(absent()),
        Ok(Err(kube::Error::Api(status))) => Err(unreadable(format!("the API server answers {} {}", status.code, status.reason))),
        // What a parser says may quote a Secret.
        Ok(Err(kube::Error::SerdeError(_))) => Err(unreadable("the API server answers with something else".to_owned())),
        Ok(Err(error)) => {
            tracing::debug!(kind, namespace, name, %error, "cannot be read");
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
