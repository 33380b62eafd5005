//! Which credentials a look-up shows: the Registry's own, or, where the installation opts in, the pod's.

use std::sync::{Arc, LazyLock};

use kube::Client;

use crate::{
    credentials::{CredentialsError, Identified, SecretReader},
    image::Reference,
    keyring::{Holder, Keyring},
    lookups::{Access, NoAccess},
    policy::RegistryEntry,
    registry::{CredentialIdentity, Credentials},
};

/// Credentials for registries.
#[derive(Clone, Default)]
pub struct Wallet {
    /// Reads Secrets, and remembers them for a while; none outside a cluster.
    secrets: Option<Arc<SecretReader>>,
    /// Whether pods' own credentials are used: the installation opts in.
    pods: bool,
    /// What is shown where there is no Secret: from a Docker configuration file, for `check`.
    keyring: Option<Arc<Keyring>>,
}

/// Nothing is shown.
#[must_use]
pub fn anonymous() -> Access {
    static NOTHING: LazyLock<Arc<Credentials>> = LazyLock::new(Arc::default);
    Access { credentials: NOTHING.clone(), identity: CredentialIdentity::Anonymous, own: false }
}

impl std::fmt::Debug for Wallet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wallet").field("pods", &self.pods).finish_non_exhaustive()
    }
}

fn access(credentials: Credentials, holder: Holder) -> Access {
    let Identified { credentials, identity } = Identified::new(credentials, holder);
    Access { credentials, identity, own: holder == Holder::Registry }
}

fn no_access(error: &CredentialsError) -> NoAccess {
    match error {
        // Which of a Registry's hosts is named is the author's choice: that the Secret lacks one says nothing about the registry.
        CredentialsError::Unreadable { .. } | CredentialsError::OtherHosts { .. } => NoAccess::Later(error.to_string()),
        _ => NoAccess::Broken(error.to_string()),
    }
}

fn own(Identified { credentials, identity }: Identified) -> Access {
    Access { credentials, identity, own: true }
}

impl Wallet {
    /// Credentials out of Secrets of our own namespace, and of pods where the installation opts in.
    #[must_use]
    pub fn new(client: Client, namespace: &str, pods: bool) -> Self {
        Self { secrets: Some(Arc::new(SecretReader::new(client, namespace))), pods, keyring: None }
    }

    /// Credentials out of a Docker configuration file.
    #[must_use]
    pub fn of_keyring(keyring: Keyring) -> Self {
        Self { keyring: Some(Arc::new(keyring)), ..Self::default() }
    }

    /// What to show the registry of an image that a pod names.
    ///
    /// # Errors
    /// When the Registry's own credentials cannot be had.
    pub async fn access(
        &self,
        registry: Option<&RegistryEntry>,
        image: &Reference,
        namespace: &str,
        pull_secrets: &[&str],
    ) -> Result<Access, NoAccess> {
        match (registry, &self.secrets) {
            (Some(registry), _) if registry.spec.credentials.is_some() => self.own(registry, image.registry()).await,
            (_, Some(secrets)) if self.pods => {
                let found = secrets.pod_credentials(namespace, pull_secrets, image.name()).await;
                for error in &found.unusable {
                    tracing::debug!(namespace, %error, "a pull secret cannot be used");
                }
                Ok(found.credentials.into_iter().next().map_or_else(anonymous, |credentials| access(credentials, Holder::Pod)))
            }
            _ => Ok(self.known(registry, image)),
        }
    }

    /// What a pod itself has to show the registry of an image, whatever the Registry's own credentials are. Nothing where the installation does not read
    /// pull secrets.
    ///
    /// # Errors
    /// When the API server does not show them just now.
    pub async fn of_pod(&self, image: &Reference, namespace: &str, pull_secrets: &[&str]) -> Result<Vec<Access>, NoAccess> {
        let credentials = match (&self.keyring, &self.secrets) {
            (Some(keyring), _) => keyring.lookup(image.name()),
            (None, Some(secrets)) if self.pods => {
                let found = secrets.pod_credentials(namespace, pull_secrets, image.name()).await;
                let unread = |error: &&CredentialsError| matches!(error, CredentialsError::Unreadable { .. });
                if let (true, Some(error)) = (found.credentials.is_empty(), found.unusable.iter().find(unread)) {
                    return Err(NoAccess::Later(error.to_string()));
                }
                found.credentials
            }
            _ => Vec::new(),
        };
        Ok(credentials.into_iter().map(|credentials| access(credentials, Holder::Pod)).collect())
    }

    /// What to show the registry of an image, without asking anybody, for what is never refused.
    #[must_use]
    pub fn known(&self, registry: Option<&RegistryEntry>, image: &Reference) -> Access {
        if let Some(keyring) = &self.keyring {
            return keyring.lookup(image.name()).into_iter().next().map_or_else(anonymous, |credentials| access(credentials, Holder::Pod));
        }
        let secret = registry.and_then(|registry| registry.spec.credentials.as_ref());
        let known = secret
            .zip(self.secrets.as_ref())
            .and_then(|(secret, reader)| reader.known_registry_credentials(&secret.secret_name, image.registry()));
        known.and_then(Result::ok).map_or_else(anonymous, own)
    }

    /// What to show the registry of an image, if nobody has to be asked for it.
    #[must_use]
    pub fn at_hand(&self, registry: Option<&RegistryEntry>, image: &Reference) -> Option<Access> {
        match (registry.and_then(|registry| registry.spec.credentials.as_ref()), &self.secrets) {
            (Some(secret), Some(reader)) => reader.fresh_registry_credentials(&secret.secret_name, image.registry())?.ok().map(own),
            (None, Some(_)) if self.pods => None,
            _ => Some(self.known(registry, image)),
        }
    }

    /// The Registry's own credentials for one of its hosts; nothing where it names none.
    ///
    /// # Errors
    /// When they cannot be had.
    pub async fn own(&self, registry: &RegistryEntry, host: &str) -> Result<Access, NoAccess> {
        let Some(secret) = &registry.spec.credentials else { return Ok(anonymous()) };
        match &self.secrets {
            Some(reader) => reader.registry_credentials(&secret.secret_name, host).await.map(own).map_err(|error| no_access(&error)),
            None => match &self.keyring {
                Some(keyring) => Ok(keyring
                    .lookup(&format!("{host}/"))
                    .into_iter()
                    .next()
                    .map_or_else(anonymous, |found| access(found, Holder::Registry))),
                None => Err(NoAccess::Later(format!("the Secret {} cannot be read outside the cluster", secret.secret_name))),
            },
        }
    }

    /// The same if nobody has to be asked for it.
    #[must_use]
    pub fn own_at_hand(&self, registry: &RegistryEntry, host: &str) -> Option<Access> {
        match (&registry.spec.credentials, &self.secrets) {
            (None, _) => Some(anonymous()),
            (Some(secret), Some(reader)) => reader.fresh_registry_credentials(&secret.secret_name, host)?.ok().map(own),
            (Some(_), None) => None,
        }
    }

    /// Has a Registry's credentials read anew at the next question: it refused them.
    pub fn forget(&self, registry: &RegistryEntry) {
        if let Some((secret, reader)) = registry.spec.credentials.as_ref().zip(self.secrets.as_ref()) {
            reader.forget_registry_credentials(&secret.secret_name);
        }
    }
}
