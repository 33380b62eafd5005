//! A duration as people write it in a manifest.

use std::{borrow::Cow, fmt, str::FromStr, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// The pattern that the API server enforces; [`ShortDuration::from_str`] reads the same language.
const PATTERN: &str = "^([0-9]{1,6}d)?([0-9]{1,6}h)?([0-9]{1,6}m)?([0-9]{1,6}s)?$";

/// A length of time such as `30s`, `5m`, `1h30m` or `7d`: whole days, hours, minutes and seconds, in that order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ShortDuration(u64);

/// Why a text is not a [`ShortDuration`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a duration: write it like 30s, 5m, 1h30m or 7d")]
pub struct DurationError(String);

impl ShortDuration {
    /// A duration of whole seconds.
    #[must_use]
    pub const fn from_secs(seconds: u64) -> Self {
        Self(seconds)
    }

    /// The length in seconds.
    #[must_use]
    pub const fn as_secs(self) -> u64 {
        self.0
    }

    /// The same length for the standard library.
    #[must_use]
    pub const fn get(self) -> Duration {
        Duration::from_secs(self.0)
    }
}

impl FromStr for ShortDuration {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = || DurationError(text.chars().take(40).collect());
        let mut rest = text;
        let mut seconds = 0;
        for (unit, length) in [('d', 86_400), ('h', 3_600), ('m', 60), ('s', 1)] {
            let Some((number, after)) = rest.split_once(unit) else { continue };
            if number.is_empty() || number.len() > 6 || !number.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(refuse());
            }
            seconds += number.parse::<u64>().map_err(|_| refuse())? * length;
            rest = after;
        }
        if rest.is_empty() && !text.is_empty() { Ok(Self(seconds)) } else { Err(refuse()) }
    }
}

impl TryFrom<String> for ShortDuration {
    type Error = DurationError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<ShortDuration> for String {
    fn from(duration: ShortDuration) -> Self {
        duration.to_string()
    }
}

impl fmt::Display for ShortDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        for (unit, length) in [('d', 86_400), ('h', 3_600), ('m', 60)] {
            if rest >= length {
                write!(f, "{}{unit}", rest / length)?;
                rest %= length;
            }
        }
        if rest > 0 || self.0 == 0 { write!(f, "{rest}s") } else { Ok(()) }
    }
}

impl JsonSchema for ShortDuration {
    fn schema_name() -> Cow<'static, str> {
        "ShortDuration".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "minLength": 2, "maxLength": 28, "pattern": PATTERN })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_write() {
        for (text, seconds) in [("30s", 30), ("5m", 300), ("1h30m", 5_400), ("7d", 604_800), ("0s", 0), ("1d1s", 86_401)] {
            assert_eq!(text.parse::<ShortDuration>().map(ShortDuration::as_secs), Ok(seconds), "{text}");
        }
    }

    #[test]
    fn refuses_the_rest_with_an_example() {
        for text in ["", "5", "m", "-1s", "1s1m", "1.5h", "1w", "9999999s", "1h 30m"] {
            let error = text.parse::<ShortDuration>().unwrap_err();
            assert_eq!(error.to_string(), format!("{text:?} is not a duration: write it like 30s, 5m, 1h30m or 7d"));
        }
    }

    #[test]
    fn writes_what_it_reads() {
        for seconds in [0, 1, 59, 60, 61, 3_600, 86_399, 86_400, 90_061] {
            let text = ShortDuration::from_secs(seconds).to_string();
            assert_eq!(text.parse(), Ok(ShortDuration::from_secs(seconds)), "{text}");
        }
    }
}
