//! Telling credentials apart without keeping them.

use std::sync::LazyLock;

use aws_lc_rs::{
    hmac,
    rand::{SecureRandom, SystemRandom},
};

use super::{CredentialIdentity, Credentials, Holder};

/// The salt of this process. It is written nowhere, so an identity that leaks says nothing about the secret behind it, and two processes never agree.
static SALT: LazyLock<hmac::Key> = LazyLock::new(|| {
    let mut salt = [0_u8; 32];
    // The system's generator does not fail on Linux; were it to, the marks would still tell credentials apart, and they never leave the process.
    let _filled = SystemRandom::new().fill(&mut salt);
    hmac::Key::new(hmac::HMAC_SHA256, &salt)
});

impl Credentials {
    /// The same for the same content and holder within this process. Nothing to show is the same for every holder.
    #[must_use]
    pub fn identity(&self, holder: Holder) -> CredentialIdentity {
        let (kind, parts) = match self {
            Self::Anonymous => return CredentialIdentity::Anonymous,
            Self::Basic { user, password } => (1_u8, [user.as_str(), password.as_str()]),
            Self::RefreshToken { token } => (2, [token.as_str(), ""]),
        };
        let mut context = hmac::Context::with_key(&SALT);
        context.update(&[kind]);
        for part in parts {
            // Lengths keep `a` + `bc` apart from `ab` + `c`.
            context.update(&part.len().to_be_bytes());
            context.update(part.as_bytes());
        }
        let mut mark = [0; 16];
        for (to, from) in mark.iter_mut().zip(context.sign().as_ref()) {
            *to = *from;
        }
        CredentialIdentity::Held { holder, mark }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_kind_and_holder_tell_credentials_apart() {
        let basic = Credentials::basic("a", "bc");
        assert_eq!(basic.identity(Holder::Pod), Credentials::basic("a", "bc").identity(Holder::Pod));
        let others = [
            basic.identity(Holder::Registry),
            Credentials::basic("ab", "c").identity(Holder::Pod),
            Credentials::basic("a", "bd").identity(Holder::Pod),
            Credentials::RefreshToken { token: "abc".into() }.identity(Holder::Pod),
            Credentials::RefreshToken { token: "a".into() }.identity(Holder::Pod),
            Credentials::Anonymous.identity(Holder::Pod),
        ];
        for (at, other) in others.iter().enumerate() {
            assert_ne!(&basic.identity(Holder::Pod), other);
            assert!(!others[at + 1..].contains(other));
        }
        assert_eq!(Credentials::Anonymous.identity(Holder::Pod), Credentials::Anonymous.identity(Holder::Registry));
    }

    #[test]
    fn debug_shows_neither_secret_nor_mark() {
        let basic = Credentials::basic("robot", "s3a:gull");
        assert_eq!(format!("{basic:?} {:?}", basic.identity(Holder::Pod)), "Basic(redacted) Pod(redacted)");
        let token = Credentials::basic("00000000-0000-0000-0000-000000000000", "jwt");
        assert_eq!(token, Credentials::RefreshToken { token: "jwt".into() });
        assert_eq!(format!("{token:?}"), "RefreshToken(redacted)");
    }
}
