//! What the policies of a namespace make of an image that runs there.

use std::sync::Arc;

use jiff::Timestamp;

use super::{Finding, exact};
use crate::{
    api::Revocation,
    facts::Outcome,
    image::Subject,
    index::Rules,
    judgement::Setting,
    origin::{self, Rival},
    running::Image,
    sentence,
    verdict::{Case, Opinion, Settled, Sight, Source, Why},
};

/// What the policies of a namespace make of an image that runs there.
#[derive(Clone, Debug)]
pub(super) struct Standing {
    /// Policies that have not judged it.
    pub(super) owing: Arc<[Arc<str>]>,
    /// Policies that refuse it.
    pub(super) refused: Arc<[Arc<str>]>,
    /// Why the first of them does.
    pub(super) why: String,
    /// Since when it is bad, where it was good before and that is all that is wrong with it.
    pub(super) fell: Option<Timestamp>,
    /// None of the policies that refuse it wants that to be told to the owners of pods.
    pub(super) quiet: bool,
    /// Some policy has judged it.
    pub(super) judged: bool,
    /// It rests on a look-up of which nothing is written.
    pub(super) asked: bool,
    /// The Registry that speaks of it.
    pub(super) registry: Option<String>,
    /// By which name something is written of it.
    pub(super) by: Option<Subject>,
}

impl Standing {
    /// None where its name cannot be read: nobody can be asked about it, and admission refuses it.
    pub(super) fn of(
        setting: &Setting<'_>,
        rules: &Rules,
        namespace: &str,
        service_account: &str,
        image: &Image,
        found: Option<Finding>,
        held: impl Fn(&Rival) -> Option<Outcome<bool>>,
    ) -> Option<Self> {
        let (named, subject) = image.named.as_ref().zip(image.subject.as_ref())?;
        let registry = rules.registry_of(named);
        let demand = setting.demand(registry, named, service_account);
        let policies = setting.policies_for(&Ok(named.clone()));
        let running = exact(subject);
        let (by, known) = found.as_ref().and_then(|found| found.written.clone()).unzip();
        let asked = found.as_ref().is_some_and(|found| found.asked);
        let fell_at = known.as_ref().filter(|_| !asked).and_then(|known| known.fell);
        let evidence = known.and_then(|known| known.evidence.clone()).map(Outcome::Found);
        let rivals = if policies.is_empty() { Vec::new() } else { rules.rivals(named, registry) };
        let (contested, told) = (!rivals.is_empty(), setting.is_told(&rivals, service_account));
        let origin = origin::recall(&running, &rivals, held);
        let processor = registry.is_some_and(|registry| registry.is_processor(namespace, service_account));
        // Its permission was asked for when the pod was admitted; nobody asks again for what runs.
        let unseen = Sight { origin, ..Sight::blind(Some(Outcome::Found(())), registry.is_some(), processor) };
        let seen = |found: Finding| Sight {
            evidence,
            subject: Some(subject.clone()),
            certain: true,
            outcome: found.outcome,
            source: Source::Known,
            ..unseen.clone()
        };
        // Of what nothing is known its origin may be.
        let sight = found.map(seen).or_else(|| contested.then(|| unseen.clone()));
        let (mut owing, mut refused) = (Vec::new(), Vec::new());
        let mut first: Option<Why> = None;
        let (mut fell, mut quiet, mut judged) = (true, true, false);
        for policy in policies {
            let case = Case { demand, contested, told, ..setting.case(policy, &running) };
            let opinion = match &sight {
                Some(sight) => Some(Opinion::of(&case, sight)),
                None => Opinion::by_name(&case, registry.is_some()),
            };
            match opinion.map(|opinion| opinion.settled) {
                Some(Settled::Admit(_)) => judged = true,
                Some(Settled::Refuse(why)) => {
                    judged = true;
                    refused.push(Arc::from(policy.name.as_str()));
                    fell &= matches!(why, Why::Held(_));
                    quiet &= policy.when_revoked == Revocation::Ignore;
                    first.get_or_insert(why);
                }
                Some(Settled::Later(..)) | None => owing.push(Arc::from(policy.name.as_str())),
            }
        }
        Some(Self {
            owing: owing.into(),
            fell: fell_at.filter(|_| fell && !refused.is_empty()),
            refused: refused.into(),
            why: first.as_ref().map_or_else(String::new, sentence::short),
            quiet,
            judged,
            asked,
            registry: registry.map(|registry| registry.name.clone()),
            by,
        })
    }

    /// Nothing is wrong and nothing is owed.
    pub(super) fn is_clear(&self) -> bool {
        self.owing.is_empty() && self.refused.is_empty()
    }
}
