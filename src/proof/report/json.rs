//! What the readers of predicates share about JSON.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, SeqAccess, Visitor},
};
use serde_json::error::Category;

/// A list of which no more than `MOST` elements are kept.
pub(in crate::proof) struct Few<T, const MOST: usize> {
    kept: Vec<T>,
    more: bool,
}

impl<T, const MOST: usize> Few<T, MOST> {
    /// There is nothing in the list.
    pub(in crate::proof) const fn is_empty(&self) -> bool {
        self.kept.is_empty() && !self.more
    }

    /// The elements; none when there are more than `MOST`.
    pub(in crate::proof) fn all(self) -> Option<Vec<T>> {
        (!self.more).then_some(self.kept)
    }
}

impl<'de, T: Deserialize<'de>, const MOST: usize> Deserialize<'de> for Few<T, MOST> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader<T, const MOST: usize>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>, const MOST: usize> Visitor<'de> for Reader<T, MOST> {
            type Value = Few<T, MOST>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut kept = Vec::new();
                while kept.len() < MOST {
                    match list.next_element()? {
                        Some(element) => kept.push(element),
                        None => return Ok(Few { kept, more: false }),
                    }
                }
                let mut more = false;
                while list.next_element::<IgnoredAny>()?.is_some() {
                    more = true;
                }
                Ok(Few { kept, more })
            }
        }

        deserializer.deserialize_seq(Reader(PhantomData))
    }
}

/// What is wrong and where, without a piece of the document. The position counts from the beginning of the document or of the part that was
/// being read.
pub(in crate::proof) fn unreadable(error: &serde_json::Error) -> String {
    let what = match error.classify() {
        Category::Eof | Category::Io => "it ends too early",
        Category::Syntax => "it is not JSON",
        Category::Data => {
            let text = error.to_string();
            // The names of fields are ours, and no value is shown by these.
            if text.starts_with("missing field") || text.starts_with("duplicate field") {
                return text.chars().take(120).collect();
            }
            "a field has another type than its format gives it"
        }
    };
    format!("{what} (line {}, column {})", error.line(), error.column())
}
