//! placeholder
#![allow(missing_docs, clippy::all, clippy::pedantic)]
#[derive(Clone, Debug)]
pub struct Condition;
impl Condition {
    pub fn set(&self, _: bool) {}
    pub fn beat(&self) {}
}
