//! Who may use what of a registry: a borrowed sight of an image is no permission to run it.
//!
//! The registry gives tokens by path: `library/` to everybody, `coolteam/` to the user `coolteam`, and `shared/` to `robot`, who is Lazaretto itself and
//! may see all. Its Registry says the same of pods.

use std::time::Duration;

use lazaretto::{image::Digest, review};
use serde_json::{Value, json};

use crate::support::{
    registry::{Access, FakeRegistry, Fault, TokenServer},
    world::{Answer, Asks, Listed, PATIENCE, World, open, open_for_outages, shut},
};

const TEAM: Asks<'_> = Asks { namespace: "coolteam", account: "default", pull_secrets: &["pull"], beside: &[] };
const STRANGER: Asks<'_> = Asks { namespace: "elsewhere", account: "default", pull_secrets: &["pull"], beside: &[] };
const NOBODY: Asks<'_> = Asks { namespace: "elsewhere", account: "default", pull_secrets: &[], beside: &[] };
const SENTENCE: &str = "the image was not found, or Lazaretto is not permitted to see it";

fn rules() -> Value {
    json!([
        { "paths": ["library/**"], "anonymous": true },
        { "paths": ["coolteam/proven/**"], "prove": "PullSecret" },
        { "paths": ["coolteam/both/**"], "allow": { "namespaces": ["coolteam"] }, "prove": "PullSecret" },
        { "paths": ["coolteam/**"], "allow": { "namespaces": ["coolteam"], "serviceAccounts": [{ "namespace": "ci", "name": "runner" }] } },
    ])
}

fn tokens() -> TokenServer {
    let users = TokenServer::for_user("robot", "own");
    let server = users.right(None, "library/").right(Some("robot"), "").right(Some("coolteam"), "coolteam/");
    let mut users = server.users.clone();
    users.insert("coolteam".to_owned(), "pass".to_owned());
    users.insert("stranger".to_owned(), "pass".to_owned());
    TokenServer { users, ..server }
}

struct Scene {
    registry: FakeRegistry,
    world: World,
}

impl Scene {
    async fn new(knobs: lazaretto::api::WhenUnknown) -> Self {
        let registry = FakeRegistry::builder().tokens(tokens()).start().await;
        for repository in ["library/base", "coolteam/app", "coolteam/proven/app", "coolteam/both/app", "other/app"] {
            registry.push_image(repository, "1", repository);
        }
        let host = registry.host();
        let world = World::new(knobs)
            .with(&Listed::new(&registry).shown("robot", "own").accessed(&rules()))
            .with_pull_secret("coolteam", "pull", &host, ("coolteam", "pass"))
            .with_pull_secret("elsewhere", "pull", &host, ("stranger", "pass"))
            .with_pull_secret("elsewhere", "bad", &host, ("coolteam", "guessed"));
        Self { registry, world }
    }

    async fn ask(&self, who: &Asks<'_>, image: &str) -> Answer {
        self.world.ask_as(who, &format!("{}/{image}", self.registry.host()), PATIENCE).await
    }

    /// The image is known and good, to whoever may see it.
    fn warm(&self, repository: &str) -> String {
        let digest = Digest::of(&crate::support::registry::image(repository));
        let subject = format!("{repository}@{digest}");
        self.world.write(&format!("{}/{subject}", self.registry.host()), "Unmanaged", "None");
        subject
    }
}

/// What a refused pod gets of an image, but for the image's own name.
fn word(answer: &Answer, image: &str) -> (Answer, Duration) {
    let mut answer = answer.clone();
    answer.message = answer.message.replace(image, "IMAGE");
    let took = std::mem::take(&mut answer.took);
    (answer, took)
}

#[tokio::test(start_paused = true)]
async fn a_known_image_is_no_permission_to_use_it() {
    let scene = Scene::new(open()).await;
    for repository in ["coolteam/app", "coolteam/proven/app", "coolteam/both/app", "other/app"] {
        let image = scene.warm(repository);
        for who in [STRANGER, NOBODY, Asks { pull_secrets: &["bad"], ..STRANGER }, Asks { pull_secrets: &["none"], ..STRANGER }] {
            let answer = scene.ask(&who, &image).await;
            answer.refuses(SENTENCE);
            assert_eq!((answer.digest, answer.warnings), (None, Vec::new()), "{repository}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_teams_pod_uses_what_is_its_own_and_nobody_what_no_rule_speaks_of() {
    let scene = Scene::new(shut()).await;
    for image in ["coolteam/app:1", "coolteam/proven/app:1", "coolteam/both/app:1"] {
        scene.ask(&TEAM, image).await.admits("Registry");
    }
    scene.ask(&Asks { namespace: "ci", account: "runner", pull_secrets: &[], beside: &[] }, "coolteam/app:1").await.admits("Registry");
    scene.ask(&Asks { namespace: "ci", ..TEAM }, "coolteam/app:1").await.refuses(SENTENCE);
    // Its own pull secret opens it anywhere; where the namespace counts as well, not there.
    let lent = scene.world.with_pull_secret("elsewhere", "lent", &scene.registry.host(), ("coolteam", "pass"));
    let scene = Scene { world: lent, ..scene };
    let lent = Asks { pull_secrets: &["lent"], ..STRANGER };
    scene.ask(&lent, "coolteam/proven/app:1").await.admits("Registry");
    scene.ask(&lent, "coolteam/both/app:1").await.refuses(SENTENCE);
    for who in [TEAM, STRANGER, NOBODY] {
        scene.ask(&who, "other/app:1").await.refuses(SENTENCE);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_free_to_all_is_asked_without_credentials() {
    let scene = Scene::new(shut()).await;
    for who in [TEAM, STRANGER, NOBODY] {
        scene.ask(&who, "library/base:1").await.admits("Registry");
    }
    let shown = scene.registry.requests().iter().filter(|request| request.basic().is_some()).count();
    assert_eq!(shown, 0, "{:?}", scene.registry.log());
    // Where the registry does not show it to everybody it is not found, though Lazaretto itself might see it.
    let rules = json!([{ "paths": ["**"], "anonymous": true }]);
    let world = scene.world.with(&Listed::new(&scene.registry).shown("robot", "own").accessed(&rules));
    let scene = Scene { world, ..scene };
    // The token server grants a token, and not for what it was asked for.
    scene.ask(&NOBODY, "coolteam/app:1").await.refuses(SENTENCE);
    // By digest neither, however well that is known; and what everybody may see is asked for once.
    let known = scene.warm("coolteam/app");
    scene.ask(&NOBODY, &known).await.refuses(SENTENCE);
    let free = scene.warm("library/base");
    scene.ask(&NOBODY, &free).await.admits("KnownFacts");
    let asked = scene.registry.requests().len();
    scene.ask(&NOBODY, &free).await.admits("KnownFacts");
    assert_eq!(scene.registry.requests().len(), asked, "{:?}", scene.registry.log());
    scene.registry.set_access(Access::Basic { user: "robot".to_owned(), password: "own".to_owned() });
    scene.ask(&NOBODY, "coolteam/proven/app:1").await.refuses(SENTENCE);
}

/// Whatever stands there: nothing, what is good, what is in quarantine, what is known and what is not.
#[tokio::test(start_paused = true)]
async fn whoever_may_not_see_an_image_cannot_tell_whether_it_is_there() {
    for knobs in [shut(), open()] {
        let scene = Scene::new(knobs).await;
        let known = scene.warm("coolteam/proven/app");
        let host = scene.registry.host();
        let held = scene.registry.push_image("coolteam/proven/held", "1", "held");
        scene.world.write(&format!("{host}/coolteam/proven/held@{held}"), "Quarantined", "Managed");
        scene.registry.push_image("coolteam/proven/new", "1", "new");
        for (there, missing) in [
            ("coolteam/app:1", "coolteam/none:1"),
            ("coolteam/proven/app:1", "coolteam/proven/none:1"),
            (&*known, &*known.replace("app@", "none@")),
            (&format!("coolteam/proven/held@{held}"), &format!("coolteam/proven/none@{held}")),
            ("coolteam/proven/new:1", "coolteam/proven/new:2"),
            ("coolteam/both/app:1", "coolteam/both/none:1"),
            ("other/app:1", "other/none:1"),
        ] {
            for who in [STRANGER, NOBODY, Asks { pull_secrets: &["bad"], ..STRANGER }] {
                let there = word(&scene.ask(&who, there).await, &format!("{host}/{there}"));
                let missing = word(&scene.ask(&who, missing).await, &format!("{host}/{missing}"));
                assert_eq!(there.0, missing.0);
                there.0.refuses(SENTENCE);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_same_questions_are_asked_whether_it_is_there_or_not() {
    let scene = Scene::new(shut()).await;
    scene.warm("coolteam/proven/app");
    let asked = async |image: &str| {
        scene.registry.forget_requests();
        scene.ask(&STRANGER, image).await.refuses(SENTENCE);
        let log = scene.registry.log();
        log.into_iter().map(|line| line.replace("/none/", "/app/")).collect::<Vec<_>>()
    };
    let first = asked("coolteam/proven/app:1").await;
    assert_eq!(first, asked("coolteam/proven/none:1").await);
    assert!(first.iter().all(|line| !line.starts_with("GET /v2/")), "{first:?}");
}

#[tokio::test(start_paused = true)]
async fn a_proof_is_remembered_for_the_repository_and_for_who_showed_it() {
    let scene = Scene::new(shut()).await;
    scene.registry.push_image("coolteam/proven/app", "2", "two");
    let (one, two) = (scene.warm("coolteam/proven/app"), "coolteam/proven/app:2");
    scene.ask(&TEAM, &one).await.admits("KnownFacts");
    let before = scene.registry.requests().len();
    assert!(before > 0);
    for _ in 0..100 {
        scene.ask(&TEAM, &one).await.admits("KnownFacts");
    }
    assert_eq!(scene.registry.requests().len(), before, "warm admission asks nobody");
    scene.ask(&STRANGER, &one).await.refuses(SENTENCE);
    // A misspelt name bars nobody from the others.
    scene.ask(&TEAM, "coolteam/proven/ap:1").await.refuses(SENTENCE);
    scene.ask(&TEAM, two).await.admits("Registry");
    // What the registry does not show any more counts until it is asked again.
    scene.registry.set_access(Access::Bearer(TokenServer { rights: vec![(Some("robot".to_owned()), String::new())], ..tokens() }));
    scene.registry.revoke_tokens();
    scene.ask(&TEAM, &one).await.admits("KnownFacts");
    tokio::time::sleep(Duration::from_secs(601)).await;
    scene.ask(&TEAM, &one).await.refuses(SENTENCE);
}

#[tokio::test(start_paused = true)]
async fn an_outage_takes_no_proof_away_and_makes_none() {
    for (knobs, opens) in [(shut(), false), (open_for_outages(), true)] {
        let mut scene = Scene::new(knobs).await;
        let image = scene.warm("coolteam/proven/app");
        scene.ask(&TEAM, &image).await.admits("KnownFacts");
        scene.registry.close().await;
        scene.ask(&TEAM, &image).await.admits("KnownFacts");
        let answer = scene.ask(&STRANGER, &image).await;
        if opens {
            answer.admits("OpenUnavailable");
        } else {
            answer.waits(5, "Registry", "its registry is unavailable (");
            assert_eq!(answer.digest, None);
        }
        // Who has nothing to show has nothing that an outage could keep from being proven.
        scene.ask(&NOBODY, &image).await.refuses(SENTENCE);
        scene.ask(&STRANGER, "coolteam/app:1").await.refuses(SENTENCE);
    }
}

/// One slow answer is its author's choice.
#[tokio::test(start_paused = true)]
async fn a_slow_proof_opens_nothing() {
    let scene = Scene::new(open()).await;
    let image = scene.warm("coolteam/proven/app");
    scene.registry.fault("/manifests/", Fault::Hang);
    let answer = scene.ask(&STRANGER, &image).await;
    assert!(!answer.allowed && answer.status.as_ref().is_some_and(|(code, _)| *code == 504), "{answer:?}");
    assert_eq!(answer.digest, None);
}

#[tokio::test(start_paused = true)]
async fn many_who_show_the_same_are_one_question() {
    let scene = Scene::new(shut()).await;
    let image = scene.warm("coolteam/proven/app");
    let burst = futures::future::join_all((0..200).map(|_| scene.ask(&TEAM, &image))).await;
    for answer in burst {
        answer.admits("KnownFacts");
    }
    assert_eq!(scene.registry.count("/manifests/"), 2, "one without and one with a token: {:?}", scene.registry.log());
}

/// A template is warned of what its author may know anyway.
#[tokio::test(start_paused = true)]
async fn a_templates_warnings_tell_a_stranger_nothing() {
    let scene = Scene::new(shut()).await;
    let host = scene.registry.host();
    for repository in ["coolteam/app", "coolteam/proven/app"] {
        let digest = Digest::of(&crate::support::registry::image(repository));
        scene.world.write(&format!("{host}/{repository}@{digest}"), "Quarantined", "Managed");
        let warn = |name: &str| {
            let image = format!("{host}/{name}@{digest}");
            let pod = json!({ "spec": { "containers": [{ "name": "web", "image": image }] } });
            let review = json!({
                "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
                "request": {
                    "uid": "u", "operation": "CREATE", "namespace": "elsewhere", "userInfo": { "username": "u" },
                    "kind": { "group": "apps", "version": "v1", "kind": "Deployment" }, "object": { "spec": { "template": pod } },
                },
            })
            .to_string();
            let request = review::read(review.as_bytes()).unwrap();
            scene.world.gate.warn(&request).warnings.into_iter().map(|line| line.replace(name, "NAME")).collect::<Vec<_>>()
        };
        let told = warn(repository);
        assert_eq!(told, warn(&repository.replace("app", "none")));
        assert!(told.iter().all(|line| line.contains("not found or not permitted")), "{told:?}");
    }
}
