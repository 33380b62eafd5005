//! Asks registries that go before another whether they hold a repository ([`crate::origin`]), once for everybody who waits.
//!
//! Asked is with the Registry's own credentials, or nobody's. That something is held is kept longer than that it is not: the first refuses, and
//! is as safe late as early; the second lets a stranger's image in, and is what changes when a team makes a repository. How each was last found
//! is remembered beyond that for outages and for what runs already; in an outage, what is written of images that were run from there counts, too.

use std::sync::Arc;

use futures::{FutureExt as _, future::BoxFuture};
use jiff::Timestamp;
use tokio::time::Instant;

use super::{
    Access, Lookups, NoAccess,
    ask::{Context, Parts, endpoint},
    busy,
    keys::HoldsKey,
    ticket,
};
use crate::{
    facts::{Busy, Outcome},
    flights::Found,
    image::Subject,
    line::Class,
    memory::Memory,
    metrics::{Asked, QuestionLabels},
    origin::{Rival, Said},
};

type Flight = BoxFuture<'static, Found<Outcome<bool>>>;

/// A repository at whichever place is asked.
type Repository = (u64, Box<str>);

/// Repositories of which it is remembered how they were last found: those that are held, and the others.
const MOST_FOUND: usize = 16_384;
/// Seconds after which it is asked again about what runs.
const REGULARLY: i64 = 3_600;

impl Lookups {
    /// What a registry has said of a repository a moment ago. None where it has to be asked.
    #[must_use]
    pub fn held_at_hand(&self, rival: &Rival, access: &Access) -> Option<Said> {
        match self.parts.holds.peek(&HoldsKey::new(rival, access))? {
            found @ Outcome::Found(_) => Some(Said { outcome: found, free_at: None }),
            _ => None,
        }
    }

    /// What a registry says of a repository, at the latest at the deadline.
    pub async fn held(&self, rival: &Rival, access: Result<Access, NoAccess>, namespace: &str, deadline: Instant, class: Class) -> Said {
        let access = match access {
            Ok(access) => access,
            Err(_) if self.is_held(rival) => return Said { outcome: Outcome::Found(true), free_at: None },
            Err(why) => return Said { outcome: why.outcome(), free_at: self.free_at(rival) },
        };
        let (key, ticket) = (HoldsKey::new(rival, &access), ticket(Some(&rival.registry), namespace));
        let flight = || self.parts.clone().held(rival.clone(), access, namespace.to_owned(), class);
        let outcome = self.parts.holds.get(key, ticket, deadline, flight).await.unwrap_or_else(busy);
        match outcome {
            found @ Outcome::Found(_) => Said { outcome: found, free_at: None },
            // What it was found to hold it holds until it says otherwise: an outage opens nothing that is known to be bad.
            _ if self.is_held(rival) => Said { outcome: Outcome::Found(true), free_at: None },
            other => Said { outcome: other, free_at: self.free_at(rival) },
        }
    }

    /// Has it asked, so that whoever comes next finds it.
    pub fn launch_held(&self, rival: &Rival, access: Access, namespace: &str, class: Class) {
        let (key, ticket) = (HoldsKey::new(rival, &access), ticket(Some(&rival.registry), namespace));
        self.parts.holds.launch(key, ticket, || self.parts.clone().held(rival.clone(), access, namespace.to_owned(), class));
    }

    /// How a registry was last found by this replica, at any age: whether it holds it, or that it does not show that.
    #[must_use]
    pub fn last_held(&self, rival: &Rival) -> Option<Outcome<bool>> {
        self.parts.found_held.lock().get(&place(rival)).map(|(outcome, _)| outcome)
    }

    /// Has it asked again where that was long ago, for what runs.
    pub fn refresh_held(&self, rival: &Rival, access: impl FnOnce() -> Option<Access>) {
        let last = self.parts.found_held.lock().get(&place(rival));
        if last.is_some_and(|(_, at)| Timestamp::now().duration_since(at).as_secs() > REGULARLY)
            && let Some(access) = access()
        {
            self.launch_held(rival, access, "", Class::Polling);
        }
    }

    fn is_held(&self, rival: &Rival) -> bool {
        self.last_held(rival) == Some(Outcome::Found(true))
    }

    fn free_at(&self, rival: &Rival) -> Option<Timestamp> {
        self.parts.found_held.lock().get(&place(rival)).filter(|(outcome, _)| *outcome == Outcome::Found(false)).map(|(_, at)| at)
    }
}

/// How repositories were last found, at whichever place, and when. Those that are held are remembered apart: whoever asks for many that are not
/// makes none of them forgotten.
#[derive(Debug)]
pub(super) struct FoundHeld {
    held: Memory<Repository, Timestamp>,
    others: Memory<Repository, (Outcome<bool>, Timestamp)>,
}

impl Default for FoundHeld {
    fn default() -> Self {
        Self { held: Memory::new(MOST_FOUND), others: Memory::new(MOST_FOUND) }
    }
}

impl FoundHeld {
    fn get(&self, repository: &Repository) -> Option<(Outcome<bool>, Timestamp)> {
        let held = self.held.get(repository).map(|at| (Outcome::Found(true), *at));
        held.or_else(|| self.others.get(repository).cloned())
    }

    /// Nothing is learnt from what is merely not known.
    fn learn(&mut self, repository: Repository, outcome: &Outcome<bool>, now: Timestamp) {
        match outcome {
            Outcome::Found(true) => {
                self.others.remove(&repository);
                self.held.insert(repository, now);
            }
            Outcome::Found(false) => {
                self.held.remove(&repository);
                self.others.insert(repository, (outcome.clone(), now));
            }
            Outcome::Absent | Outcome::Hidden | Outcome::Refused | Outcome::Blocked(_) | Outcome::Misbehaved(_) => {
                self.others.insert(repository, (outcome.clone(), now));
            }
            Outcome::Pending(_) | Outcome::Unavailable(_) | Outcome::Unauthorized(_) | Outcome::Busy(_) => {}
        }
    }
}

fn place(rival: &Rival) -> Repository {
    (rival.registry.place, rival.name().into())
}

impl Parts {
    /// Whether something is written of any image of that repository.
    fn was_seen(&self, rival: &Rival) -> bool {
        let of = |subject: &Subject| {
            subject.repository() == &*rival.repository && rival.registry.hosts.iter().any(|host| host == subject.registry())
        };
        self.index.read().images().any(|(subject, _)| of(subject))
    }

    fn held(self: Arc<Self>, rival: Rival, access: Access, namespace: String, class: Class) -> Flight {
        async move {
            let outcome = match endpoint(rival.host(), Some(&rival.registry)) {
                Ok(endpoint) => {
                    let (registry, repository) = (Some(&rival.registry), &*rival.repository);
                    let known = self.found_held.lock().get(&place(&rival)).is_some();
                    let context =
                        Context { registry, endpoint: &endpoint, access: &access, repository, class, namespace: &namespace, known };
                    self.ask(&context, async |client| client.holds(&endpoint, &access.credentials, repository).await).await
                }
                Err(error) => Outcome::Misbehaved(error),
            };
            self.metrics.questions.get_or_create(&QuestionLabels { question: Asked::Holds, outcome: outcome.kind() }).inc();
            let rules = self.index.read().rules();
            let now = rules.registries.get(&rival.registry.name).map(|registry| Rival { registry: registry.clone(), ..rival.clone() });
            let outcome = match outcome {
                // Somebody else answered than whom the Registry object names by now.
                Outcome::Found(_) if now.as_ref() != Some(&rival) => Outcome::Busy(Busy::UNANSWERED),
                other => other,
            };
            self.found_held.lock().learn(place(&rival), &outcome, Timestamp::now());
            if let Outcome::Found(held) = outcome {
                return self.found(outcome, if held { self.lives.held } else { self.lives.free });
            }
            // What somebody has run from there is written, and told so to every replica: it was held, whoever was asked.
            let outcome = if self.was_seen(&rival) { Outcome::Found(true) } else { outcome };
            self.found(outcome, self.lives.not_yet)
        }
        .boxed()
    }
}
