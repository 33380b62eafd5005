//! What a registry may be shown.

use std::fmt;

/// The user name under which Azure Container Registry takes a refresh token for a password.
pub const REFRESH_TOKEN_USER: &str = "00000000-0000-0000-0000-000000000000";

/// What to show a registry, or nothing. Its content appears in no `Debug`.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum Credentials {
    /// Nothing.
    #[default]
    Anonymous,
    /// A user and a password.
    Basic {
        /// The user.
        user: String,
        /// The password; may hold colons.
        password: String,
    },
    /// A refresh token, also called identity token: worth access tokens at the registry's token server.
    RefreshToken {
        /// The token.
        token: String,
    },
}

impl Credentials {
    /// A user and a password, or the refresh token that some registries hand out under a user name of noughts.
    #[must_use]
    pub fn basic(user: impl Into<String>, password: impl Into<String>) -> Self {
        let (user, password) = (user.into(), password.into());
        if user == REFRESH_TOKEN_USER { Self::RefreshToken { token: password } } else { Self::Basic { user, password } }
    }

    /// Whether there is nothing to show.
    pub const fn is_anonymous(&self) -> bool {
        matches!(self, Self::Anonymous)
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Anonymous => "Anonymous",
            Self::Basic { .. } => "Basic(redacted)",
            Self::RefreshToken { .. } => "RefreshToken(redacted)",
        })
    }
}

/// Whose credentials they are. What one holder may see is not told to another, though their secrets be the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Holder {
    /// The Registry object names them: Lazaretto's own.
    Registry,
    /// A pod or its ServiceAccount names them.
    Pod,
}

/// Tells credentials apart without knowing them: a keyed hash of the content under a salt that lives as long as the process. Made by
/// [`Credentials::identity`], in the module `registry`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub enum CredentialIdentity {
    /// None were shown.
    Anonymous,
    /// These.
    Held {
        /// Whose they are.
        holder: Holder,
        /// The keyed hash.
        mark: [u8; 16],
    },
}

impl fmt::Debug for CredentialIdentity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => formatter.write_str("Anonymous"),
            Self::Held { holder, .. } => write!(formatter, "{holder:?}(redacted)"),
        }
    }
}
