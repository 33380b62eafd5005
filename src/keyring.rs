//! Credentials, and which of a Secret's belong to an image.

mod credentials;

pub use credentials::{CredentialIdentity, Credentials, Holder};
