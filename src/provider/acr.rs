//! Azure Container Registry keeps the flag.

use futures::future::BoxFuture;

use super::{Keeper, Question, Seen};
use crate::{api::Decision, registry::Failure};

/// Azure Container Registry's quarantine.
#[derive(Clone, Copy, Debug)]
pub struct AzureContainerRegistry;

impl Keeper for AzureContainerRegistry {
    fn observe<'a>(&'a self, _: Question<'a>) -> BoxFuture<'a, Result<Seen, Failure>> {
        Box::pin(async { Err(Failure::Forbidden("this reader is still to land".to_owned())) })
    }

    fn carry_out<'a>(&'a self, _: Question<'a>, _: &'a Decision) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async { Err(Failure::Forbidden("this reader is still to land".to_owned())) })
    }
}
