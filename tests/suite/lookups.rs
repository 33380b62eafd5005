//! What an end without an answer means: evidence about the registry itself, or none.

use std::{sync::Arc, time::Duration};

use lazaretto::{
    api::{self, QuarantineProvider, QuarantineSpec, State},
    facts::{BusyCause, Facts, Outcome},
    image::Reference,
    index::Rules,
    lookups::{Access, Asker, Lives, Lookups},
    metrics::Metrics,
    registry::{ClientOptions, CredentialIdentity, Credentials, Holder, RegistryClient},
    verdict::{Sight, Source},
    wallet,
    watch::SharedIndex,
};
use tokio::time::Instant;

use crate::support::registry::{Access as Door, FakeRegistry, Fault, TokenServer};

/// Look-ups over an index that holds one Registry object.
struct World {
    index: SharedIndex,
    lookups: Arc<Lookups>,
}

impl World {
    fn new(registry: Option<(&FakeRegistry, QuarantineProvider)>) -> Self {
        // Whoever is first; the others find it installed.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let index = SharedIndex::default();
        if let Some((registry, provider)) = registry {
            let spec = api::RegistrySpec { quarantine: QuarantineSpec { provider, processor: None, release: None }, ..registry.spec() };
            let mut object = api::Registry::new("fake", spec);
            let adoption = api::Adoption {
                instant: jiff::Timestamp::UNIX_EPOCH,
                completed: Some(jiff::Timestamp::UNIX_EPOCH),
                adopted: 0,
                unconfirmed: vec![],
            };
            object.status = Some(api::RegistryStatus { adoption: Some(adoption), ..api::RegistryStatus::default() });
            index.write().apply_registry(&object);
        }
        let client = RegistryClient::new(ClientOptions::default()).unwrap();
        let lookups = Lookups::new(Arc::new(client), index.clone(), None, Metrics::new().0, Lives::default());
        Self { index, lookups: Arc::new(lookups) }
    }

    fn rules(&self) -> Arc<Rules> {
        self.index.read().rules()
    }

    async fn see_as(&self, image: &str, access: Access, within: Duration) -> Sight {
        let image = Reference::parse(image).unwrap();
        let rules = self.rules();
        let asker = Asker {
            namespace: "team",
            access: Ok(access),
            deadline: Instant::now() + within,
            record: true,
            processor: false,
            inside: false,
            proofs: &[],
        };
        self.lookups.see(&image, rules.registry_of(&image), &asker).await
    }

    async fn see(&self, image: &str) -> Sight {
        self.see_as(image, wallet::anonymous(), Duration::from_secs(30)).await
    }
}

fn own(user: &str, password: &str) -> Access {
    let credentials = Credentials::basic(user, password);
    Access { identity: credentials.identity(Holder::Registry), credentials: credentials.into(), own: true }
}

fn state(outcome: &Outcome<Arc<Facts>>) -> Option<State> {
    match outcome {
        Outcome::Found(facts) => Some(facts.state),
        _ => None,
    }
}

#[tokio::test]
async fn a_new_image_is_quarantined_where_we_keep_the_flag_and_unmanaged_where_nobody_does() {
    let registry = FakeRegistry::start().await;
    let digest = registry.push_image("team/app", "1", "one");
    for (provider, expected) in [(QuarantineProvider::Managed, State::Quarantined), (QuarantineProvider::None, State::Unmanaged)] {
        let world = World::new(Some((&registry, provider)));
        let sight = world.see(&format!("{}/team/app:1", registry.host())).await;
        assert_eq!(state(&sight.outcome), Some(expected));
        assert_eq!(sight.subject.map(|subject| subject.digest().clone()), Some(digest.clone()));
        assert_eq!(sight.source, Source::Asked);
    }
}

#[tokio::test]
async fn many_who_ask_at_once_ask_once() {
    let registry = FakeRegistry::start().await;
    registry.push_image("team/app", "1", "one");
    let world = Arc::new(World::new(Some((&registry, QuarantineProvider::Managed))));
    let image = format!("{}/team/app:1", registry.host());
    let askers = (0..200).map(|_| {
        let (world, image) = (world.clone(), image.clone());
        tokio::spawn(async move { world.see(&image).await.outcome })
    });
    for asker in futures::future::join_all(askers).await {
        assert_eq!(state(&asker.unwrap()), Some(State::Quarantined));
    }
    assert_eq!(registry.count("/manifests/"), 2, "the tag once, the digest once: {:?}", registry.log());
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_hangs_is_unavailable_by_evidence() {
    let registry = FakeRegistry::start().await;
    registry.push_image("team/app", "1", "one");
    registry.fault("/v2/", Fault::Hang);
    let world = World::new(Some((&registry, QuarantineProvider::Managed)));
    let begun = Instant::now();
    let sight = world.see(&format!("{}/team/app:1", registry.host())).await;
    assert!(matches!(sight.outcome, Outcome::Unavailable(_)), "{:?}", sight.outcome);
    assert!(begun.elapsed() < Duration::from_millis(8_500), "within the patience of one review: {:?}", begun.elapsed());
}

/// One Registry object lists two hosts. What is found out about one says nothing about the other.
#[tokio::test(start_paused = true)]
async fn one_host_that_is_out_makes_no_outage_of_another() {
    let (well, mut out) = (FakeRegistry::start().await, FakeRegistry::start().await);
    well.push_image("team/app", "1", "one");
    well.fault("/manifests/", Fault::Hang);
    let world = World::new(Some((&well, QuarantineProvider::Managed)));
    let spec = api::RegistrySpec { hosts: vec![well.host(), out.host()], ..well.spec() };
    assert!(world.index.write().apply_registry(&api::Registry::new("fake", spec)));
    out.close().await;
    let image = format!("{}/team/app:1", well.host());
    let slow = world.see(&image);
    let gone = async {
        // So that what is found out about the other is still fresh.
        tokio::time::sleep(Duration::from_secs(4)).await;
        world.see(&format!("{}/team/app:1", out.host())).await
    };
    let (slow, gone) = tokio::join!(slow, gone);
    assert!(matches!(&gone.outcome, Outcome::Unavailable(_)), "{:?}", gone.outcome);
    assert!(matches!(&slow.outcome, Outcome::Pending(why) if why.starts_with("the registry is well")), "{:?}", slow.outcome);
}

#[tokio::test(start_paused = true)]
async fn one_slow_image_on_a_healthy_registry_is_pending_and_never_unavailable() {
    let registry = FakeRegistry::start().await;
    registry.push_image("team/app", "1", "one");
    registry.fault("/manifests/", Fault::Hang);
    let world = World::new(Some((&registry, QuarantineProvider::Managed)));
    let sight = world.see(&format!("{}/team/app:1", registry.host())).await;
    assert!(matches!(&sight.outcome, Outcome::Pending(why) if why.starts_with("the registry is well")), "{:?}", sight.outcome);
}

#[tokio::test(start_paused = true)]
async fn a_waiter_whose_own_time_runs_out_knows_nothing_and_the_look_up_goes_on() {
    let registry = FakeRegistry::start().await;
    registry.push_image("team/app", "1", "one");
    registry.fault("/manifests/", Fault::Delay(Duration::from_secs(2)));
    let world = World::new(Some((&registry, QuarantineProvider::Managed)));
    let image = format!("{}/team/app:1", registry.host());
    let impatient = world.see_as(&image, wallet::anonymous(), Duration::from_millis(500)).await;
    assert!(matches!(&impatient.outcome, Outcome::Busy(busy) if busy.cause == BusyCause::Deadline), "{:?}", impatient.outcome);
    let patient = world.see(&image).await;
    assert_eq!(state(&patient.outcome), Some(State::Quarantined));
    assert_eq!(registry.count("/manifests/1"), 1, "the first one's question was answered: {:?}", registry.log());
}

#[tokio::test]
async fn a_host_without_a_registry_object_is_not_looked_for_inside() {
    let world = World::new(None);
    let sight = world.see("127.0.0.1:9/team/app:1").await;
    assert!(!sight.listed);
    assert!(matches!(&sight.outcome, Outcome::Misbehaved(why) if why.contains("address")), "{:?}", sight.outcome);
}

#[tokio::test]
async fn credentials_that_are_refused_for_one_path_only_are_no_alarm() {
    let door = Door::Bearer(TokenServer::for_user("robot", "right"));
    let registry = FakeRegistry::builder().access(door).start().await;
    registry.push_image("team/app", "1", "one");
    let world = World::new(Some((&registry, QuarantineProvider::Managed)));
    let image = format!("{}/team/app:1", registry.host());
    let right = world.see_as(&image, own("robot", "right"), Duration::from_secs(30)).await;
    assert_eq!(state(&right.outcome), Some(State::Quarantined));
    let wrong = world.see_as(&image, own("robot", "wrong"), Duration::from_secs(30)).await;
    assert!(matches!(wrong.outcome, Outcome::Unauthorized(_)), "refused for everything: {:?}", wrong.outcome);
    let pod = Credentials::basic("robot", "wrong");
    let pod = Access { identity: pod.identity(Holder::Pod), credentials: pod.into(), own: false };
    let stranger = world.see_as(&image, pod, Duration::from_secs(30)).await;
    assert_eq!(stranger.outcome, Outcome::Refused, "a pod's own credentials never raise the Registry's alarm");
    assert_ne!(own("robot", "right").identity, CredentialIdentity::Anonymous);
}

#[tokio::test]
async fn what_is_not_there_is_absent() {
    let registry = FakeRegistry::start().await;
    let world = World::new(Some((&registry, QuarantineProvider::Managed)));
    assert_eq!(world.see(&format!("{}/team/none:1", registry.host())).await.outcome, Outcome::Absent);
    let hidden = World::new(Some((&registry, QuarantineProvider::AzureContainerRegistry)));
    assert_eq!(hidden.see(&format!("{}/team/none:1", registry.host())).await.outcome, Outcome::Hidden);
}

/// A dry run writes nothing, and a write may fail: what is known to be bad stays so when nobody keeps the flag any more.
#[tokio::test]
async fn an_observation_that_is_not_written_clears_nothing() {
    let registry = FakeRegistry::start().await;
    let digest = registry.push_image("team/app", "1", "one");
    let world = World::new(Some((&registry, QuarantineProvider::None)));
    let image = format!("{}/team/app@{digest}", registry.host());
    let written = |state: &str| {
        let transition = serde_json::json!({ "number": 1, "at": "2026-01-01T00:00:00Z", "state": state, "by": "lazaretto", "reason": "" });
        let object: api::ImageStatus = serde_json::from_value(serde_json::json!({
            "apiVersion": "lazaretto.dev/v1alpha1", "kind": "ImageStatus", "metadata": { "name": "one" }, "spec": { "subject": image },
            "status": { "state": state, "provider": "Managed", "history": [transition] },
        }))
        .unwrap();
        world.index.write().apply_image(&object, jiff::Timestamp::now())
    };
    for (state_before, expected) in [("Quarantined", State::Quarantined), ("Failed", State::Failed), ("Released", State::Unmanaged)] {
        assert!(written(state_before));
        // By the pod's own credentials each time others, so that none finds what another has just found.
        let pod = Credentials::basic("pod", state_before);
        let access = Access { identity: pod.identity(Holder::Pod), credentials: pod.into(), own: false };
        assert_eq!(state(&world.see_as(&image, access, Duration::from_secs(30)).await.outcome), Some(expected), "{state_before}");
    }
}
