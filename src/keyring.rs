//! Credentials, and which of a Secret's belong to an image.
//!
//! A pod's pull secrets are matched as the kubelet matches them (`pkg/credentialprovider/keyring.go`): a reader that found more would judge an image that the
//! node cannot pull, one that found less would refuse an image that it can. Where the kubelet ignores an entry, so does this.
//!
//! Two things are ours alone and hold only for the Secret of a Registry object ([`Holder::Registry`]): the type `kubernetes.io/basic-auth`, and Docker's `identitytoken`,
//! which the kubelet does not read.

mod credentials;
mod key;

use std::{cmp::Reverse, collections::BTreeMap};

use base64::{
    Engine as _,
    alphabet::STANDARD,
    engine::DecodePaddingMode,
    engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig},
};
use k8s_openapi::api::core::v1::Secret;
use serde::Deserialize;
use thiserror::Error;

pub use self::credentials::{CredentialIdentity, Credentials, Holder, REFRESH_TOKEN_USER};
use self::key::Key;

/// Kubernetes' own limit for a Secret.
const MOST_BYTES: usize = 1 << 20;
/// More entries than this in one Secret are refused.
const MOST_ENTRIES: usize = 1024;

const DOCKER_CONFIG_JSON: (&str, &str) = ("kubernetes.io/dockerconfigjson", ".dockerconfigjson");
const DOCKER_CFG: (&str, &str) = ("kubernetes.io/dockercfg", ".dockercfg");
const BASIC_AUTH: &str = "kubernetes.io/basic-auth";

/// A Secret that cannot be read. The text holds nothing of its content but the names of hosts.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum KeyringError {
    /// Of another type.
    #[error("it is of type `{0}`, not kubernetes.io/dockerconfigjson, kubernetes.io/dockercfg or kubernetes.io/basic-auth")]
    Type(String),
    /// Without the key that its type promises.
    #[error("it has no key `{0}`")]
    Missing(&'static str),
    /// Larger than Kubernetes permits, or with too many entries.
    #[error("it is too large")]
    TooLarge,
    /// Not the JSON of a Docker configuration.
    #[error("`{key}` is not a Docker configuration (line {line}, column {column})")]
    Json {
        /// The key in the Secret.
        key: &'static str,
        /// The line in its value.
        line: usize,
        /// The column there.
        column: usize,
    },
    /// `auth` is not the base64 of user, colon and password.
    #[error("`auth` of `{0}` is not the base64 of user:password")]
    Auth(String),
    /// User name or password is not text.
    #[error("`{0}` is not UTF-8")]
    Text(&'static str),
}

/// The credentials of some Secrets by what they are for.
#[derive(Clone, Debug, Default)]
pub struct Keyring {
    /// Keys in the kubelet's order: reverse lexicographic, so that longer paths come before shorter ones of the same host.
    entries: BTreeMap<Reverse<String>, (Key, Vec<Credentials>)>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct DockerConfigJson {
    auths: Option<BTreeMap<String, Option<Entry>>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    username: Option<String>,
    password: Option<String>,
    auth: Option<String>,
    #[serde(rename = "identitytoken")]
    identity_token: Option<String>,
}

impl Keyring {
    /// Adds what a pull secret holds, as the kubelet would: a Secret of another type, or without its key, adds nothing.
    ///
    /// # Errors
    /// Where the kubelet would fail the pull.
    pub fn add(&mut self, secret: &Secret, holder: Holder) -> Result<(), KeyringError> {
        let kind = secret.type_.as_deref().unwrap_or_default();
        let value = |key: &str| secret.data.as_ref().and_then(|data| data.get(key)).map_or(&[][..], |value| &value.0);
        let auths = if kind == DOCKER_CONFIG_JSON.0 && !value(DOCKER_CONFIG_JSON.1).is_empty() {
            read::<DockerConfigJson>(DOCKER_CONFIG_JSON.1, value(DOCKER_CONFIG_JSON.1))?.auths.unwrap_or_default()
        } else if kind == DOCKER_CFG.0 && !value(DOCKER_CFG.1).is_empty() {
            read(DOCKER_CFG.1, value(DOCKER_CFG.1))?
        } else {
            return Ok(());
        };
        if auths.len() > MOST_ENTRIES {
            return Err(KeyringError::TooLarge);
        }
        // All or nothing: the kubelet, too, drops a Secret with one entry that it cannot read.
        let mut read = Vec::with_capacity(auths.len());
        for (location, entry) in auths {
            let credentials = entry.unwrap_or_default().credentials(&location, holder)?;
            read.push((location, credentials));
        }
        for (location, credentials) in read {
            if let Some(key) = Key::read(&location) {
                self.entries.entry(Reverse(key.to_string())).or_insert_with(|| (key, Vec::new())).1.push(credentials);
            }
        }
        Ok(())
    }

    /// All credentials for an image, in the order in which they are to be tried.
    ///
    /// `image_name`: the canonical host and repository, without tag or digest: `docker.io/library/nginx`.
    pub fn lookup(&self, image_name: &str) -> Vec<Credentials> {
        let found: Vec<_> =
            self.entries.values().filter(|(key, _)| key.matches(image_name)).flat_map(|(_, credentials)| credentials.clone()).collect();
        if found.is_empty() && key::is_default_registry(image_name) {
            return self
                .entries
                .get(&Reverse(key::DEFAULT_REGISTRY.to_owned()))
                .map(|(_, credentials)| credentials.clone())
                .unwrap_or_default();
        }
        found
    }

    /// The credentials of a Registry object's own Secret for one of its hosts: the first that are for the host at large, else the first for a part of it.
    ///
    /// # Errors
    /// As [`KeyringError`]; `Ok(None)` when the Secret speaks of other hosts only.
    pub fn of_registry(secret: &Secret, host: &str) -> Result<Option<Credentials>, KeyringError> {
        let kind = secret.type_.as_deref().unwrap_or_default();
        if kind == BASIC_AUTH {
            let text = |key: &'static str| {
                let value = secret.data.as_ref().and_then(|data| data.get(key)).ok_or(KeyringError::Missing(key))?;
                if value.0.len() > MOST_BYTES {
                    return Err(KeyringError::TooLarge);
                }
                std::str::from_utf8(&value.0).map_err(|_| KeyringError::Text(key))
            };
            return Ok(Some(Credentials::basic(text("username")?, text("password")?)));
        }
        let Some((_, key)) = [DOCKER_CONFIG_JSON, DOCKER_CFG].into_iter().find(|(name, _)| *name == kind) else {
            return Err(KeyringError::Type(kind.chars().take(64).collect()));
        };
        if secret.data.as_ref().is_none_or(|data| !data.contains_key(key)) {
            return Err(KeyringError::Missing(key));
        }
        let mut keyring = Self::default();
        keyring.add(secret, Holder::Registry)?;
        let at_large = keyring.lookup(&format!("{host}/")).into_iter().next();
        Ok(at_large.or_else(|| {
            keyring.entries.values().find(|(key, _)| key.matches_host(host)).and_then(|(_, credentials)| credentials.first().cloned())
        }))
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// Reads JSON under the cap. What serde says of an error may quote the content, so only the place is kept.
fn read<'a, T: Deserialize<'a>>(key: &'static str, value: &'a [u8]) -> Result<T, KeyringError> {
    if value.len() > MOST_BYTES {
        return Err(KeyringError::TooLarge);
    }
    serde_json::from_slice(value).map_err(|error| KeyringError::Json { key, line: error.line(), column: error.column() })
}

impl Entry {
    fn credentials(self, location: &str, holder: Holder) -> Result<Credentials, KeyringError> {
        if let (Holder::Registry, Some(token)) = (holder, self.identity_token.filter(|token| !token.is_empty())) {
            return Ok(Credentials::RefreshToken { token });
        }
        let (user, password) = match self.auth.filter(|auth| !auth.is_empty()) {
            // It overrides `username` and `password`.
            Some(auth) => decode(&auth).ok_or_else(|| KeyringError::Auth(location.chars().take(255).collect()))?,
            None => (self.username.unwrap_or_default(), self.password.unwrap_or_default()),
        };
        Ok(if user.is_empty() && password.is_empty() { Credentials::Anonymous } else { Credentials::basic(user, password) })
    }
}

/// base64 of `user:password`, padded or not; the first colon parts them. Line ends are skipped, as Go does.
fn decode(auth: &str) -> Option<(String, String)> {
    const LENIENT: GeneralPurpose = GeneralPurpose::new(
        &STANDARD,
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent).with_decode_allow_trailing_bits(true),
    );
    let compact: String = auth.chars().filter(|character| !matches!(character, '\r' | '\n')).collect();
    let text = String::from_utf8(LENIENT.decode(compact).ok()?).ok()?;
    let (user, password) = text.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

#[cfg(test)]
mod tests;
