//! What a user gets from a registry that misbehaves, one quirk a test: with every knob of `whenUnknown` shut, and with every knob open.
//!
//! Nobody keeps a flag here unless a test says so, and the policy admits what is unmanaged: what a registry answers well about is let in,
//! so whatever is refused is refused for the quirk.

use std::{collections::BTreeSet, time::Duration};

use lazaretto::{
    api::{QuarantineProvider, WhenUnknown},
    image::Digest,
};

use crate::support::{
    registry::{
        FakeRegistry, Place, Quirk,
        quirks::{Analysed, FIREWALL, HARBOR, XRAY, moved},
    },
    world::{Answer, Listed, PATIENCE, World, open, open_for_outages, shut},
};

/// A registry with `team/app:1`, and a world that knows it.
struct Scene {
    registry: FakeRegistry,
    digest: Digest,
    world: World,
}

impl Scene {
    async fn new(knobs: WhenUnknown, place: impl Into<Place>, quirk: Quirk) -> Self {
        Self::kept_by(QuarantineProvider::None, knobs, place, quirk).await
    }

    async fn kept_by(provider: QuarantineProvider, knobs: WhenUnknown, place: impl Into<Place>, quirk: Quirk) -> Self {
        let registry = FakeRegistry::start().await;
        let digest = registry.push_image("team/app", "1", "one");
        registry.quirk(place, quirk);
        let world = World::new(knobs).with(&Listed::new(&registry).kept_by(provider));
        Self { registry, digest, world }
    }

    fn by_tag(&self) -> String {
        self.named("team/app:1")
    }

    fn by_digest(&self) -> String {
        self.named(&format!("team/app@{}", self.digest))
    }

    fn named(&self, image: &str) -> String {
        format!("{}/{image}", self.registry.host())
    }

    async fn ask(&self) -> Answer {
        self.world.ask(&self.by_tag()).await
    }
}

/// The registry is well and this one answer is not there: only `pending` opens that, and the finding is in time for one review.
async fn is_pending(place: &str, quirk: Quirk, sentence: &str) {
    for knobs in [shut(), open_for_outages()] {
        let scene = Scene::new(knobs, place, quirk).await;
        let answer = scene.ask().await;
        answer.waits(5, "Registry", &format!("not known yet: {}", sentence.replace("HOST", &scene.registry.host())));
        assert!(answer.took < PATIENCE, "{:?}", answer.took);
    }
    let scene = Scene::new(open(), place, quirk).await;
    scene.ask().await.admits("OpenPending");
}

/// The registry is well and did not answer in time.
#[track_caller]
fn held_up(answer: &Answer, opens: bool) {
    if opens {
        answer.admits("OpenPending");
    } else {
        answer.waits(5, "Registry", "not known yet: the registry is well, but did not answer about this image (no answer from ");
    }
}

/// The registry itself is down: only `registryUnavailable` opens that.
async fn is_unavailable(quirk: Quirk, sentence: &str) {
    let pending_alone = WhenUnknown { pending: open().pending, ..shut() };
    for knobs in [shut(), pending_alone] {
        let scene = Scene::new(knobs, "*", quirk).await;
        let answer = scene.ask().await;
        answer.waits(5, "Registry", &format!("its registry is unavailable ({})", sentence.replace("HOST", &scene.registry.host())));
        assert!(answer.took < PATIENCE, "{:?}", answer.took);
    }
    for knobs in [open(), open_for_outages()] {
        Scene::new(knobs, "*", quirk).await.ask().await.admits("OpenUnavailable");
    }
}

/// Refused in these words, whatever the knobs, by tag and by digest.
async fn is_refused(quirk: Quirk, sentence: &str) {
    for knobs in [shut(), open()] {
        let scene = Scene::new(knobs, "team/app", quirk).await;
        scene.ask().await.refuses(sentence);
        scene.world.ask(&scene.by_digest()).await.refuses(sentence);
    }
}

#[test]
fn every_quirk_has_a_name_of_its_own() {
    let names: BTreeSet<_> = Quirk::ALL.iter().map(|quirk| quirk.name()).collect();
    assert_eq!(names.len(), Quirk::ALL.len());
}

#[tokio::test(start_paused = true)]
async fn delay_is_waited_for_by_whoever_has_the_time() {
    for knobs in [shut(), open()] {
        let scene = Scene::new(knobs, "*", Quirk::Delay(Duration::from_secs(2))).await;
        let hasty = scene.world.ask_from("team", &scene.by_tag(), Duration::from_secs(1)).await;
        hasty.waits(1, "Deadline", "the registry has not answered yet; the look-up goes on. Try again shortly");
        let answer = scene.ask().await;
        answer.admits("Registry");
        assert_eq!(answer.took.as_secs(), 3, "the tag was asked for a second ago, and the digest takes two more: {:?}", answer.took);
        assert_eq!(scene.registry.log().len(), 2, "{:?}", scene.registry.log());
    }
}

#[tokio::test(start_paused = true)]
async fn hang_is_an_outage_once_the_registry_answers_nothing_else_either() {
    is_unavailable(Quirk::Hang, "no answer from HOST within 5s").await;
}

#[tokio::test(start_paused = true)]
async fn hang_mid_body_is_an_outage_only_where_everything_hangs() {
    is_pending("team/app", Quirk::HangMidBody, "the registry is well, but did not answer about this image (no answer from HOST within 5s)")
        .await;
    is_unavailable(Quirk::HangMidBody, "no answer from HOST within 5s").await;
}

#[tokio::test]
async fn not_found_for_blocked_is_refused_and_says_what_it_may_mean() {
    is_refused(
        Quirk::NotFoundForBlocked,
        "the image was not found, or Lazaretto is not permitted to see it: check the name, and the credentials of the Registry object",
    )
    .await;
    for knobs in [shut(), open()] {
        let scene = Scene::kept_by(QuarantineProvider::AzureContainerRegistry, knobs, "team/app", Quirk::NotFoundForBlocked).await;
        scene.ask().await.refuses("the image was not found, or is in quarantine and hidden (this registry hides the tags of such images)");
    }
}

#[tokio::test]
async fn forbidden_text_is_a_block_in_the_registrys_words() {
    is_refused(Quirk::ForbiddenText, &format!("the registry blocks it: QUARANTINED {FIREWALL}")).await;
}

#[tokio::test]
async fn forbidden_envelope_is_a_block_in_the_registrys_words() {
    is_refused(Quirk::ForbiddenEnvelope, &format!("the registry blocks it: DENIED {XRAY}")).await;
}

#[tokio::test]
async fn forbidden_bare_is_not_told_from_what_is_not_there() {
    is_refused(Quirk::ForbiddenBare, "the image was not found, or Lazaretto is not permitted to see it").await;
}

/// An index is one image: where nobody keeps a flag for it, it is let in, and the node is refused what the registry blocks. Who keeps the
/// flag decides about the index, and whoever names the child is told why not.
#[tokio::test]
async fn child_blocked_is_refused_to_whoever_names_the_child() {
    for knobs in [shut(), open()] {
        for provider in [QuarantineProvider::None, QuarantineProvider::Managed] {
            let scene = Scene::kept_by(provider, knobs.clone(), "team/app", Quirk::ChildBlocked).await;
            let index = scene.registry.push_index("team/app", Some("multi"), &[(&scene.digest, "linux", "amd64")]);
            let child = scene.world.ask(&scene.by_digest()).await;
            child.refuses(&format!("the registry blocks it: PROJECTPOLICYVIOLATION {}", &HARBOR[..200]));
            let answer = scene.world.ask(&scene.named("team/app:multi")).await;
            assert_eq!(answer.digest, Some(index.to_string()));
            match provider {
                QuarantineProvider::Managed => answer.refuses("in quarantine since "),
                _ => answer.admits("Registry"),
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn throttled_for_a_time_is_not_asked_before_it_is_over() {
    for knobs in [shut(), open()] {
        let scene = Scene::new(knobs, "*", Quirk::ThrottledFor(Duration::from_secs(7))).await;
        scene.ask().await.waits(7, "Deadline", "the registry asks to wait 7 s before it is asked again");
        let other = scene.world.ask_from("other", &scene.named("team/other:1"), PATIENCE).await;
        other.waits(7, "Deadline", "the registry asks to wait 7 s before it is asked again");
        assert_eq!(other.took, Duration::ZERO, "told at once");
        assert_eq!(scene.registry.log(), ["HEAD /v2/team/app/manifests/1"]);
        scene.registry.clear_quirks();
        tokio::time::advance(Duration::from_millis(7_100)).await;
        scene.ask().await.admits("Registry");
    }
}

#[tokio::test(start_paused = true)]
async fn throttled_until_a_date_is_the_time_until_then() {
    for knobs in [shut(), open()] {
        let scene = Scene::new(knobs, "*", Quirk::ThrottledUntil(Duration::from_secs(7))).await;
        let answer = scene.ask().await;
        // A date has whole seconds, and the clock goes on.
        let seconds = answer.retry_after.filter(|seconds| (6..=7).contains(seconds)).unwrap_or_else(|| panic!("{answer:?}"));
        answer.waits(seconds, "Deadline", &format!("the registry asks to wait {seconds} s before it is asked again"));
    }
}

#[tokio::test(start_paused = true)]
async fn throttled_without_a_time_is_asked_again_after_a_time_of_our_own() {
    for knobs in [shut(), open()] {
        let scene = Scene::new(knobs, "*", Quirk::Throttled).await;
        for seconds in [1, 1, 2] {
            scene.ask().await.waits(seconds, "Deadline", &format!("the registry asks to wait {seconds} s before it is asked again"));
            tokio::time::advance(Duration::from_secs(4)).await;
        }
        assert_eq!(scene.registry.count("/manifests/"), 3, "each time once: {:?}", scene.registry.log());
    }
}

#[tokio::test]
async fn wrong_digest_is_never_believed() {
    is_refused(Quirk::WrongDigest, "the registry's answer cannot be relied on: the registry answered for sha256:").await;
}

#[tokio::test]
async fn no_digest_is_made_up_for_by_the_bytes() {
    for knobs in [shut(), open()] {
        let scene = Scene::new(knobs, "*", Quirk::NoDigest).await;
        let answer = scene.ask().await;
        answer.admits("Registry");
        assert_eq!(answer.digest, Some(scene.digest.to_string()));
        let digest = format!("GET /v2/team/app/manifests/{}", scene.digest);
        assert_eq!(scene.registry.log(), ["HEAD /v2/team/app/manifests/1", "GET /v2/team/app/manifests/1", &digest]);
    }
}

#[tokio::test]
async fn endless_body_is_given_up() {
    is_refused(Quirk::EndlessBody, "the registry's answer cannot be relied on: 127.0.0.1:").await;
    for knobs in [shut(), open()] {
        let scene = Scene::new(knobs, "team/app", Quirk::EndlessBody).await;
        let sentence = format!("{} sends more than 4 MiB", scene.registry.host());
        scene.ask().await.refuses(&sentence);
    }
}

#[tokio::test]
async fn redirect_to_private_is_not_followed() {
    is_refused(
        Quirk::RedirectToPrivate,
        "the registry's answer cannot be relied on: `10.0.0.1` is at no public address, and only the hosts of a Registry object may be elsewhere",
    )
    .await;
}

#[tokio::test]
async fn realm_elsewhere_gets_no_credentials() {
    for knobs in [shut(), open()] {
        let registry = FakeRegistry::start().await;
        registry.push_image("team/app", "1", "one");
        registry.quirk("*", Quirk::RealmElsewhere);
        let world = World::new(knobs).with(&Listed::new(&registry).shown("robot", "gull"));
        world.ask(&format!("{}/team/app:1", registry.host())).await.refuses(
            "the registry's answer cannot be relied on: the registry names the token server `https://token.elsewhere.invalid/token`; credentials are not sent there: it \
             shares no domain with the registry",
        );
        assert!(registry.requests().iter().all(|request| request.authorization().is_none()), "{:?}", registry.requests());
    }
    // Whoever has nothing to lose would go there, and finds nobody.
    let sentence = "the registry is well, but did not answer about this image (the name `token.elsewhere.invalid` does not resolve)";
    is_pending("*", Quirk::RealmElsewhere, sentence).await;
}

/// A tag is judged as it stood when it was looked at, and the digest that was judged is on record.
#[tokio::test]
async fn tag_moves_between_head_and_get_and_the_first_is_judged() {
    for knobs in [shut(), open()] {
        for (first, second) in [("Released", "Quarantined"), ("Quarantined", "Released")] {
            let scene = Scene::kept_by(QuarantineProvider::Managed, knobs.clone(), "team/app", Quirk::TagMovesBetweenHeadAndGet).await;
            scene.world.write(&scene.by_digest(), first, "Managed");
            scene.world.write(&scene.named(&format!("team/app@{}", Digest::of(moved("1").as_bytes()))), second, "Managed");
            let answer = scene.ask().await;
            assert_eq!(answer.digest, Some(scene.digest.to_string()));
            match first {
                "Released" => answer.admits("Registry"),
                _ => answer.refuses("in quarantine since 2026-01-01T00:00:00Z by jane (she looked)"),
            }
            assert_eq!(scene.registry.log(), ["HEAD /v2/team/app/manifests/1"], "the tag is asked for once");
        }
        // And where it is not known yet, what is read is what was looked at.
        let scene = Scene::new(knobs, "team/app", Quirk::TagMovesBetweenHeadAndGet).await;
        let answer = scene.ask().await;
        answer.admits("Registry");
        assert_eq!(answer.digest, Some(scene.digest.to_string()));
        assert_eq!(scene.registry.log()[1], format!("GET /v2/team/app/manifests/{}", scene.digest));
    }
}

/// What was good about a tag does not go over to the image that it stands for next.
#[tokio::test(start_paused = true)]
async fn tag_moves_between_looks_and_each_is_judged_by_itself() {
    for knobs in [shut(), open()] {
        let scene = Scene::kept_by(QuarantineProvider::Managed, knobs, "team/app", Quirk::TagMovesBetweenLooks).await;
        scene.world.write(&scene.by_digest(), "Released", "Managed");
        scene.ask().await.admits("Registry");
        scene.ask().await.admits("KnownFacts");
        assert_eq!(scene.registry.log().len(), 1, "what a tag stands for is remembered for ten seconds");
        tokio::time::advance(Duration::from_secs(10)).await;
        let answer = scene.ask().await;
        answer.refuses("in quarantine since ");
        assert_eq!(answer.digest, Some(Digest::of(moved("1").as_bytes()).to_string()));
    }
}

#[tokio::test(start_paused = true)]
async fn slow_analysis_is_pending_until_it_is_over_and_then_a_block() {
    let quirk = Quirk::SlowAnalysis(Duration::from_secs(20), Analysed::Quarantined);
    for (knobs, opens) in [(shut(), false), (open_for_outages(), false), (open(), true)] {
        let scene = Scene::new(knobs, "team/app", quirk).await;
        for second in [0, 7, 14] {
            let answer = scene.ask().await;
            held_up(&answer, opens);
            assert!(answer.took < PATIENCE, "{second}: {:?}", answer.took);
            tokio::time::advance(Duration::from_secs(7).saturating_sub(answer.took)).await;
        }
        scene.ask().await.refuses("the registry blocks it: QUARANTINED ");
    }
}

#[tokio::test(start_paused = true)]
async fn hold_is_pending_for_as_long_as_it_lasts_and_holds_up_nobody_else() {
    let quirk = Quirk::Hold(Duration::from_secs(60));
    for (knobs, opens) in [(shut(), false), (open_for_outages(), false), (open(), true)] {
        let scene = Scene::new(knobs, "team/app", quirk).await;
        scene.registry.push_image("team/other", "1", "other");
        for _ in 0..8 {
            let answer = scene.ask().await;
            held_up(&answer, opens);
            assert!(answer.took < PATIENCE, "{:?}", answer.took);
            let other = scene.world.ask(&scene.named("team/other:1")).await;
            other.admits(&other.basis);
            assert!(matches!(other.basis.as_str(), "Registry" | "KnownFacts") && other.took < Duration::from_secs(1), "{other:?}");
            tokio::time::advance(Duration::from_secs(3)).await;
        }
        let gets = scene.registry.log().iter().filter(|line| line.starts_with("GET /v2/team/app/")).count();
        assert_eq!(gets, 8, "one question at a time, and none that nobody asked for");
    }
}

#[tokio::test(start_paused = true)]
async fn one_slow_is_pending_and_all_others_are_answered_meanwhile() {
    for (knobs, opens) in [(shut(), false), (open_for_outages(), false), (open(), true)] {
        let scene = Scene::new(knobs, "*", Quirk::OneSlow).await;
        (0..20).for_each(|number| drop(scene.registry.push_image(&format!("team/well-{number}"), "1", &number.to_string())));
        let others = async {
            // The slow one is asked for first.
            tokio::time::sleep(Duration::from_millis(100)).await;
            for number in 0..20 {
                let answer = scene.world.ask(&scene.named(&format!("team/well-{number}:1"))).await;
                answer.admits("Registry");
                assert!(answer.took < Duration::from_millis(100), "{number}: {:?}", answer.took);
            }
        };
        let (slow, ()) = tokio::join!(scene.ask(), others);
        held_up(&slow, opens);
    }
}
