//! JSON that two readers read alike: no duplicate keys, bounded depth.
//!
//! Parsers differ in which of two equal keys they take (RFC 8259, section 4), so a signer could show one statement to whoever signs it off and
//! another to us. What is signed is therefore walked once before it is read.

use std::{collections::HashSet, fmt};

use serde::de::{Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// Levels of nesting that are read. Real bundles, statements and reports have about twenty.
const DEEPEST: usize = 64;

/// Keys of one object.
const MOST_KEYS: usize = 10_000;

/// Reads a value strictly.
///
/// # Errors
/// What is wrong with it, in words.
pub fn read<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, String> {
    check(bytes)?;
    serde_json::from_slice(bytes).map_err(|error| describe(&error))
}

/// Whether bytes are one JSON value without duplicate keys, no deeper than is read.
///
/// # Errors
/// What is wrong with it, in words.
pub fn check(bytes: &[u8]) -> Result<(), String> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    Walk { depth: 0 }.deserialize_from(&mut reader).map_err(|error| describe(&error))?;
    reader.end().map_err(|error| describe(&error))
}

fn describe(error: &serde_json::Error) -> String {
    if error.is_eof() {
        return "it ends in the middle: is it whole?".to_owned();
    }
    // The reader's own limit, met before ours where a type is read directly.
    let text = error.to_string();
    if text.starts_with("recursion limit exceeded") { too_deep() } else { text }
}

fn too_deep() -> String {
    format!("it is nested deeper than {DEEPEST} levels")
}

#[derive(Clone, Copy)]
struct Walk {
    depth: usize,
}

impl Walk {
    fn deserialize_from<'de, D: Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        reader.deserialize_any(self)
    }

    fn deeper<E: serde::de::Error>(self) -> Result<Self, E> {
        if self.depth >= DEEPEST { Err(E::custom(too_deep())) } else { Ok(Self { depth: self.depth + 1 }) }
    }
}

impl<'de> serde::de::DeserializeSeed<'de> for Walk {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        self.deserialize_from(reader)
    }
}

impl<'de> Visitor<'de> for Walk {
    type Value = ();

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let inner = self.deeper()?;
        while items.next_element_seed(inner)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let inner = self.deeper()?;
        let mut seen = HashSet::new();
        while let Some(key) = entries.next_key::<String>()? {
            if seen.len() >= MOST_KEYS {
                return Err(A::Error::custom(format!("an object in it has more than {MOST_KEYS} keys")));
            }
            if seen.contains(&key) {
                return Err(A::Error::custom(format!("the key `{}` is there twice", crate::history::clip(&key, 64))));
            }
            seen.insert(key);
            entries.next_value_seed(inner)?;
        }
        Ok(())
    }
}
