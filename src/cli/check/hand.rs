//! What is at hand about each image: from files, from the cluster, from its registry. As [`crate::lookups`], it decides nothing; what it
//! cannot tell is a [`Gap`], which no policy opens.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use futures::{StreamExt as _, stream};
use jiff::Timestamp;
use k8s_openapi::{ByteString, api::core::v1::Secret};
use tokio::time::Instant;

use super::world::World;
use crate::{
    access::Demand,
    api::{Evidence, QuarantineProvider, State},
    cli::{input, output},
    facts::{Busy, BusyCause, Outcome},
    image::{Reference, Subject},
    index::{self, Known},
    keyring::{Credentials, Holder, Keyring},
    line::Class,
    lookups::{Access, Asker, Lives, Lookups},
    metrics::Metrics,
    origin::{self, Origin, Rival},
    policy::RegistryEntry,
    proof::Proof,
    registry::{ClientOptions, Proxies, RegistryClient},
    verdict::{Sight, Source},
    wallet::anonymous,
};

/// Images that are asked about at once.
const AT_ONCE: usize = 8;
/// Bytes of a Docker configuration.
const DOCKER_CONFIG_LIMIT: usize = 1 << 20;

/// Why nothing can be said of an image, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Gap {
    /// Nobody was asked which digest a tag stands for.
    Tag,
    /// Nobody was asked about the digest.
    Facts,
    /// The cluster has not seen it.
    Unseen,
    /// The cluster saw it too long ago.
    Stale(State, Timestamp),
    /// Lazaretto keeps the flag, and its records were not given.
    Records,
    /// The registry wants credentials, or others.
    Credentials,
    /// Nobody asked whether the registry shows it to the pod's pull secrets.
    Permit,
    /// The registry had no time to answer.
    Time,
    /// Nobody was asked whether a registry that goes before the image's own holds its repository.
    Origin,
}

impl std::fmt::Display for Gap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tag => f.write_str("not known offline which digest the tag stands for: give --tag NAME:TAG=DIGEST or --registries"),
            Self::Facts => f.write_str("not known offline: give --facts, --registries or --cluster"),
            Self::Unseen => f.write_str("the cluster has not seen it yet: give --registries"),
            Self::Stale(state, seen) => {
                write!(f, "the cluster last saw it {state} at {seen:.0}, too long ago to go by: give --registries")
            }
            Self::Origin => f.write_str(
                "a registry that goes before this one was not asked whether it holds a repository of this name: give --registries",
            ),
            Self::Records => f.write_str("Lazaretto itself keeps the quarantine flag of this registry: give --facts or --cluster"),
            Self::Permit => f.write_str(
                "its Registry wants to have it proven by the pod's pull secrets: give them with --registries and --docker-config, or --docker-login",
            ),
            Self::Time => f.write_str("the registry did not answer in time: try again, or give it longer with --timeout"),
            Self::Credentials => {
                f.write_str("the registry does not show it with these credentials: give --docker-config, or --docker-login")
            }
        }
    }
}

/// What is at hand about one image.
#[derive(Clone, Debug)]
pub(super) struct Hand {
    /// For the pure core.
    pub sight: Sight,
    /// Why it tells nothing, where it does not.
    pub gap: Option<Gap>,
}

/// Asks registries.
pub(in crate::cli) struct Asking {
    lookups: Lookups,
    keyring: Keyring,
    deadline: Instant,
}

impl Asking {
    /// Look-ups for this world that end when `patience` does, and write nothing down.
    pub(in crate::cli) fn new(world: &World, keyring: Keyring, patience: Duration) -> anyhow::Result<Self> {
        let options = ClientOptions { proxies: Proxies::from_environment(), ..ClientOptions::default() };
        let client = RegistryClient::new(options)?;
        let (metrics, _registry) = Metrics::new();
        let lookups = Lookups::new(client.into(), world.index.clone(), None, metrics, Lives::default());
        Ok(Self { lookups, keyring, deadline: Instant::now() + patience })
    }

    /// Whether the registry shows an image to whoever shows what stands for the pod's pull secrets; none where there is nothing to show.
    async fn permit(&self, image: &Reference, registry: &Arc<RegistryEntry>) -> Option<Outcome<()>> {
        let own = |credentials: Credentials| Access {
            identity: credentials.identity(Holder::Pod),
            credentials: Arc::new(credentials),
            own: false,
        };
        let shown: Vec<Access> = self.keyring.lookup(image.name()).into_iter().filter(|found| !found.is_anonymous()).map(own).collect();
        if shown.is_empty() {
            return None;
        }
        Some(self.lookups.permit(image, registry, Ok(shown), "", self.deadline).await)
    }

    fn access(&self, name: &str) -> Access {
        let credentials = self.keyring.lookup(name).into_iter().next().unwrap_or_default();
        Access { identity: credentials.identity(Holder::Registry), credentials: Arc::new(credentials), own: true }
    }

    /// What is signed about an image.
    pub(in crate::cli) async fn prove(
        &self,
        image: &Reference,
        world: &World,
        proofs: &[&Proof],
    ) -> (Option<Subject>, Outcome<Arc<Evidence>>) {
        let (registry, access) = (world.rules.registry_of(image), Ok(self.access(image.name())));
        let asker = Asker { namespace: "", access, deadline: self.deadline, record: false, processor: false, inside: false, proofs };
        let subject = match image.subject() {
            Some(subject) => subject,
            None => match self.lookups.digest_of(image, registry, &asker).await.0.found() {
                Ok(digest) => image.with_digest(digest),
                Err(end) => return (None, end),
            },
        };
        let outcome = self.lookups.prove(&subject, registry, &asker, Class::Admission).await;
        (Some(subject), outcome.unwrap_or(Outcome::Absent))
    }

    async fn see(&self, image: &Reference, world: &World, demand: Demand) -> (Sight, Arc<Credentials>) {
        let access = if demand == Demand::Anonymous { anonymous() } else { self.access(image.name()) };
        let credentials = access.credentials.clone();
        let proofs = world.rules.proofs_for(image.name());
        let asker = Asker {
            namespace: "",
            access: Ok(access),
            deadline: self.deadline,
            record: false,
            processor: false,
            inside: true,
            proofs: &proofs,
        };
        (self.lookups.see(image, world.rules.registry_of(image), &asker).await, credentials)
    }

    /// Whether other registries go before that of an image.
    async fn origin(&self, image: &Reference, rivals: &[Rival]) -> Origin {
        let said = rivals.iter().map(|rival| async move {
            (rival, self.lookups.held(rival, Ok(self.access(&rival.name())), "", self.deadline, Class::Admission).await)
        });
        origin::weigh(image, &futures::future::join_all(said).await)
    }
}

/// The credentials of a Docker configuration.
pub(in crate::cli) fn docker_config(path: &Path) -> anyhow::Result<Keyring> {
    let text = input::read(path, DOCKER_CONFIG_LIMIT)?;
    let helpers = serde_json::from_str::<serde_json::Value>(&text)
        .is_ok_and(|config| config.get("credsStore").is_some() || config.get("credHelpers").is_some());
    if helpers {
        output::note(&format!("{} names credential helpers, which are not run; only its `auths` are used", input::name(path)));
    }
    let secret = Secret {
        type_: Some("kubernetes.io/dockerconfigjson".to_owned()),
        data: Some([(".dockerconfigjson".to_owned(), ByteString(text.into_bytes()))].into()),
        ..Secret::default()
    };
    let mut keyring = Keyring::default();
    keyring.add(&secret, Holder::Registry).with_context(|| format!("cannot read {}", input::name(path)))?;
    Ok(keyring)
}

/// What is at hand about each of these images.
pub(super) async fn gather(
    images: BTreeMap<Reference, Demand>,
    world: &World,
    asking: Option<&Asking>,
    cluster: bool,
) -> HashMap<Reference, Hand> {
    stream::iter(images)
        .map(|(image, demand)| async move {
            let mut hand = at_hand(&image, demand, world, asking, cluster).await;
            if let (Demand::PullSecret, Some(registry)) = (demand, world.rules.registry_of(&image)) {
                hand.sight.permit = match asking {
                    Some(asking) => asking.permit(&image, registry).await,
                    None => None,
                };
                if hand.sight.permit.is_none() {
                    hand.gap = Some(Gap::Permit);
                }
            }
            let hand = with_origin(hand, &image, world, asking).await;
            (image, hand)
        })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await
}

/// The same with what registries say that go before the image's own.
async fn with_origin(mut hand: Hand, image: &Reference, world: &World, asking: Option<&Asking>) -> Hand {
    let rivals = world.rules.rivals(image, world.rules.registry_of(image));
    if rivals.is_empty() {
        return hand;
    }
    hand.sight.origin = match asking {
        Some(asking) => asking.origin(image, &rivals).await,
        None => Origin::Open { outcome: Outcome::Busy(Busy::UNANSWERED), free_at: None },
    };
    let gap = match (&hand.sight.origin, asking) {
        (Origin::Free | Origin::Held(_), _) => None,
        (Origin::Open { .. }, None) => Some(Gap::Origin),
        // The cluster has credentials of its own.
        (Origin::Open { outcome: Outcome::Unauthorized(_) | Outcome::Refused, .. }, _) => Some(Gap::Credentials),
        (Origin::Open { outcome: Outcome::Busy(Busy { cause: BusyCause::Deadline, .. }), .. }, _) => Some(Gap::Time),
        (Origin::Open { .. }, Some(_)) => None,
    };
    // What is refused for its origin is refused, whatever else is not known.
    hand.gap = if matches!(hand.sight.origin, Origin::Held(_)) { None } else { hand.gap.or(gap) };
    hand
}

async fn at_hand(image: &Reference, demand: Demand, world: &World, asking: Option<&Asking>, cluster: bool) -> Hand {
    let listed = world.rules.registry_of(image).is_some();
    let hand = |subject, outcome, last, gap| Hand {
        sight: Sight { subject, certain: true, outcome, last, source: Source::Known, ..Sight::blind(None, listed, false) },
        gap,
    };
    let known = |subject: Subject, known: &Known| {
        let mut hand = hand(Some(subject), Outcome::Found(known.facts.clone()), None, None);
        hand.sight.evidence = known.evidence.clone().map(Outcome::Found);
        hand
    };
    let subject = image.subject().or_else(|| world.tags.get(image).map(|digest| image.with_digest(digest.clone())));
    if let Some(subject) = &subject
        && let Some(given) = world.given.image(subject)
    {
        return known(subject.clone(), &given);
    }
    if let Some(asking) = asking {
        let asked = subject.as_ref().map_or_else(|| image.clone(), Reference::from);
        let (sight, credentials) = asking.see(&asked, world, demand).await;
        if let Some(subject) = &sight.subject
            && let Some(given) = world.given.image(subject)
        {
            return known(subject.clone(), &given);
        }
        let gap = gap_of(&sight, &credentials, world.rules.registry_of(image).map(AsRef::as_ref), cluster);
        // What is to be shown to everybody is shown no credentials, whatever are given.
        let gap = gap.filter(|gap| demand != Demand::Anonymous || *gap != Gap::Credentials);
        let sight = if gap.is_some() { Sight { outcome: Outcome::Busy(Busy::UNANSWERED), ..sight } } else { sight };
        return Hand { sight, gap };
    }
    let Some(subject) = subject else { return hand(None, Outcome::Busy(Busy::UNANSWERED), None, Some(Gap::Tag)) };
    let written = world.index.read().image(&subject);
    let Some(written) = written else {
        let gap = if cluster { Gap::Unseen } else { Gap::Facts };
        return hand(Some(subject), Outcome::Busy(Busy::UNANSWERED), None, Some(gap));
    };
    let registry = world.rules.registry_of(image).map(AsRef::as_ref);
    if index::is_believed(&written, &subject, registry, Timestamp::now()) {
        return known(subject, &written);
    }
    let seen = index::last_seen(&written, &subject, registry);
    let gap = Gap::Stale(written.facts.state, seen);
    hand(Some(subject), Outcome::Busy(Busy::UNANSWERED), Some((written.facts.clone(), seen)), Some(gap))
}

/// What the registry's answer leaves open because it is this program that asked, and not the cluster.
fn gap_of(sight: &Sight, credentials: &Credentials, registry: Option<&RegistryEntry>, cluster: bool) -> Option<Gap> {
    let managed = registry.is_some_and(|registry| registry.provider == QuarantineProvider::Managed);
    match &sight.outcome {
        // The registry has the image; whether it was released stands in the cluster's records.
        Outcome::Found(_) | Outcome::Pending(_) if managed && !cluster => Some(Gap::Records),
        // The cluster has credentials of its own: these being refused says nothing about it.
        Outcome::Unauthorized(_) => Some(Gap::Credentials),
        Outcome::Refused if credentials.is_anonymous() => Some(Gap::Credentials),
        Outcome::Busy(Busy { cause: BusyCause::Deadline, .. }) => Some(Gap::Time),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::{Facts, Outage, OutageKind};

    fn sight(outcome: Outcome<Arc<Facts>>) -> Sight {
        Sight { outcome, ..Sight::blind(None, true, false) }
    }

    #[test]
    fn refused_credentials_say_nothing_about_the_cluster() {
        let shown = Credentials::basic("a", "b");
        let gap = |outcome, credentials: &Credentials| gap_of(&sight(outcome), credentials, None, true);
        assert_eq!(gap(Outcome::Unauthorized("no".into()), &shown), Some(Gap::Credentials));
        assert_eq!(gap(Outcome::Refused, &Credentials::Anonymous), Some(Gap::Credentials));
        assert_eq!(gap(Outcome::Refused, &shown), None, "who has an account and may not see it is told so");
        let outage = Outage { kind: OutageKind::Connect, message: String::new() };
        assert_eq!(gap(Outcome::Unavailable(outage), &shown), None, "an outage is the policy's to judge");
    }
}
