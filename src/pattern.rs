//! placeholder
#![allow(missing_docs, clippy::all, clippy::pedantic)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(String);
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a pattern")]
pub struct PatternError;
impl Pattern {
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        Ok(Self(text.into()))
    }
    pub fn parse_path(text: &str) -> Result<Self, PatternError> {
        Ok(Self(text.into()))
    }
    pub fn matches(&self, name: &str) -> bool {
        match self.0.strip_suffix("/**") {
            Some(p) => name.starts_with(p),
            None => self.0 == "**" || self.0 == name,
        }
    }
}
