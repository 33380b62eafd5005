//! Authorities made ready: who is trusted to sign.

use std::sync::Arc;

use super::{KeyError, PublicKey};
use crate::api;

/// Digits of a fingerprint that tell authorities apart in what was looked for.
const SHORT: usize = 16;

/// Somebody who is trusted to sign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    /// The name by which requirements speak of it.
    pub name: String,
    /// Its key.
    pub key: PublicKey,
    /// As evidence names it.
    pub id: Arc<str>,
    /// As what was looked for names it.
    pub short: Arc<str>,
}

impl Authority {
    /// Reads one.
    ///
    /// # Errors
    /// Its key cannot be read.
    pub fn read(wire: &api::Authority) -> Result<Self, KeyError> {
        let key = PublicKey::from_pem(&wire.public_key)?;
        let id = key.fingerprint().to_string();
        let short = key.fingerprint().hex().chars().take(SHORT).collect::<String>();
        Ok(Self { name: wire.name.clone(), key, id: id.into(), short: short.into() })
    }
}
