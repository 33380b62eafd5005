//! Digests: the one name that an image cannot change behind.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::clip;

/// Number of lower-case hex digits by algorithm. containerd also reads sha384, which no registry must serve and no client here computes.
const ALGORITHMS: [(&str, usize); 2] = [("sha256", 64), ("sha512", 128)];

/// A digest as OCI writes it: `sha256:` and 64, or `sha512:` and 128 lower-case hex digits. In the order of the texts.
///
/// Held as the bytes that the digits stand for: digests are compared and looked up far more often than they are shown.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(Bytes);

/// Digits of the longest digest.
const LONGEST_HEX: usize = 128;

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Bytes {
    Sha256([u8; 32]),
    /// So rare that the others should not pay for its length.
    Sha512(Arc<[u8; 64]>),
}

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
        let mut digest = [0; 32];
        for (to, from) in digest.iter_mut().zip(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref()) {
            *to = *from;
        }
        Self(Bytes::Sha256(digest))
    }

    /// `sha256` or `sha512`.
    pub const fn algorithm(&self) -> &'static str {
        match self.0 {
            Bytes::Sha256(_) => "sha256",
            Bytes::Sha512(_) => "sha512",
        }
    }

    /// The hex digits: 64 or 128.
    pub fn hex(&self) -> String {
        self.digits(&mut [0; LONGEST_HEX]).to_owned()
    }

    /// The bytes of a sha256 digest.
    pub const fn sha256(&self) -> Option<&[u8; 32]> {
        match &self.0 {
            Bytes::Sha256(bytes) => Some(bytes),
            Bytes::Sha512(_) => None,
        }
    }

    fn bytes(&self) -> &[u8] {
        match &self.0 {
            Bytes::Sha256(bytes) => bytes,
            Bytes::Sha512(bytes) => &**bytes,
        }
    }

    /// The hex digits, without a String.
    fn digits<'t>(&self, text: &'t mut [u8; LONGEST_HEX]) -> &'t str {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let bytes = self.bytes();
        for (byte, pair) in bytes.iter().zip(text.as_chunks_mut::<2>().0) {
            *pair = [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]];
        }
        // Digits are UTF-8.
        str::from_utf8(&text[..2 * bytes.len()]).unwrap_or_default()
    }
}

/// The bytes that so many lower-case hex digits stand for.
fn from_hex<const LENGTH: usize>(hex: &str) -> Option<[u8; LENGTH]> {
    let mut bytes = [0; LENGTH];
    let (pairs, rest) = hex.as_bytes().as_chunks::<2>();
    if !rest.is_empty() || pairs.len() != LENGTH {
        return None;
    }
    // Without a way out in the middle, so that it can be done for many digits at once.
    let mut all = true;
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        let (high, low) = (digit(*high), digit(*low));
        all &= (high | low) < 16;
        *byte = high << 4 | (low & 15);
    }
    all.then_some(bytes)
}

/// What a lower-case hex digit stands for; anything from 16 for what is none.
const fn digit(byte: u8) -> u8 {
    match byte {
        b'0'..=b'9' => byte - b'0',
        b'a'..=b'f' => byte - b'a' + 10,
        _ => u8::MAX,
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
        let bytes = match wanted {
            64 => from_hex(hex).map(Bytes::Sha256),
            _ => from_hex(hex).map(|bytes| Bytes::Sha512(Arc::new(bytes))),
        };
        bytes.map(Self).ok_or_else(|| DigestError::NotHex(clip(text)))
    }
}

pub(super) const fn is_lower_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.algorithm())?;
        formatter.write_str(":")?;
        formatter.write_str(self.digits(&mut [0; LONGEST_HEX]))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}
