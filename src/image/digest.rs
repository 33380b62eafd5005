//! Digests: the one name that an image cannot change behind.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::clip;

/// Number of lower-case hex digits by algorithm. containerd also reads sha384, which no registry must serve and no client here computes.
const ALGORITHMS: [(&str, usize); 2] = [("sha256", 64), ("sha512", 128)];

/// A digest as OCI writes it: `sha256:` and 64, or `sha512:` and 128 lower-case hex digits.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(Arc<str>);

/// Why a text is no digest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// No algorithm, or one that is not read.
    #[error("`{0}` is no digest that is read here: write sha256: and 64, or sha512: and 128 lower-case hex digits")]
    Algorithm(String),
    /// Too short or too long.
    #[error("a {algorithm} digest has {wanted} hex digits, this one has {found}")]
    Length {
        /// sha256 or sha512.
        algorithm: &'static str,
        /// The right number.
        wanted: usize,
        /// What is there, in bytes.
        found: usize,
    },
    /// Something that is no lower-case hex digit.
    #[error("the digest `{0}` is not in lower-case hex digits: write only 0-9 and a-f")]
    NotHex(String),
}

impl Digest {
    /// The sha256 digest of bytes.
    pub fn of(bytes: &[u8]) -> Self {
        use fmt::Write as _;
        let mut text = String::with_capacity(71);
        text.push_str("sha256:");
        for byte in aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref() {
            let _ = write!(text, "{byte:02x}");
        }
        Self(text.into())
    }

    /// `sha256` or `sha512`.
    pub fn algorithm(&self) -> &str {
        self.0.split_once(':').map_or("", |(algorithm, _)| algorithm)
    }

    /// The hex digits: 64 or 128.
    pub fn hex(&self) -> &str {
        self.0.split_once(':').map_or("", |(_, hex)| hex)
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let known = |(given, hex)| ALGORITHMS.iter().find(|(name, _)| *name == given).map(|(name, digits)| (*name, *digits, hex));
        let (algorithm, wanted, hex): (_, _, &str) =
            text.split_once(':').and_then(known).ok_or_else(|| DigestError::Algorithm(clip(text)))?;
        if hex.len() != wanted {
            return Err(DigestError::Length { algorithm, wanted, found: hex.len() });
        }
        if !hex.bytes().all(is_lower_hex) {
            return Err(DigestError::NotHex(clip(text)));
        }
        Ok(Self(text.into()))
    }
}

pub(super) const fn is_lower_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}
