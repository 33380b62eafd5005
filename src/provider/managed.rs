//! Lazaretto keeps the flag itself, for any registry.
//!
//! A digest that the registry confirms is in quarantine from the first time it is seen until a person releases it. The flag is the
//! ImageStatus: this keeper only says what a *new* image is. Until the one adoption of what ran before is done, a new image is
//! Pending and nothing is written, so that switching the flag on in a living cluster locks nobody out.

use futures::future::BoxFuture;

use super::{Keeper, Question, Seen, confirm};
use crate::{
    api::{Decision, Provider, State},
    facts::Facts,
    history::{Observation, Weight},
    registry::Failure,
};

/// Lazaretto keeps the flag.
#[derive(Clone, Copy, Debug)]
pub struct Managed;

impl Keeper for Managed {
    fn observe<'a>(&'a self, question: Question<'a>) -> BoxFuture<'a, Result<Seen, Failure>> {
        Box::pin(async move {
            let manifest = confirm(&question).await?;
            if !question.adopted {
                return Ok(Seen::Pending(
                    "quarantine is being switched on for this registry, and what already runs is being adopted".to_owned(),
                ));
            }
            let facts = Facts {
                state: State::Quarantined,
                since: question.now,
                by: "lazaretto".to_owned(),
                reason: "new, and nobody has released it yet".to_owned(),
                details: String::new(),
                provider: Provider::Managed,
                observed_at: question.now,
                manifest,
            };
            Ok(Seen::State(Observation { facts, weight: Weight::First }))
        })
    }

    /// The ImageStatus is the flag: nothing to do at the registry.
    fn carry_out<'a>(&'a self, _: Question<'a>, _: &'a Decision) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async { Ok(()) })
    }
}
