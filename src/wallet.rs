//! Which credentials a look-up shows: the Registry's own, or, where the installation opts in, the pod's.

use crate::{
    image::Reference,
    lookups::Access,
    policy::RegistryEntry,
    registry::{CredentialIdentity, Credentials},
};

/// Credentials for registries.
#[derive(Debug, Default)]
pub struct Wallet {}

impl Wallet {
    /// What to show the registry of an image that a pod names.
    pub async fn access(
        &self,
        registry: Option<&RegistryEntry>,
        image: &Reference,
        _namespace: &str,
        _service_account: &str,
        _pull_secrets: &[&str],
    ) -> Result<Access, String> {
        self.known(registry, image)
    }

    /// The same without asking the API server.
    pub fn known(&self, _registry: Option<&RegistryEntry>, _image: &Reference) -> Result<Access, String> {
        Ok(Access { credentials: Credentials::Anonymous, identity: CredentialIdentity::Anonymous, own: true })
    }
}
