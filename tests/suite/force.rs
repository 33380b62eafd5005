//! Opening by force fails.
//!
//! The policy opens for outages and for credentials that are refused (`registryUnavailable` and `unauthorized: Allow`), and not for an
//! image that is slow. The registry is well. Whatever the author of a pod does then, nothing of it is evidence about the registry: no image
//! comes in unjudged, and a pod of another namespace is judged in its turn.

use std::{collections::BTreeMap, time::Duration};

use futures::future::join_all;
use lazaretto::{
    api::{Allowance, WhenUnknown},
    image::Digest,
    registry::{ClientOptions, Proxies},
};
use tokio::{io::AsyncWriteExt as _, net::TcpListener, time::sleep};

use crate::support::{
    registry::{Access, FakeRegistry, Fault, Quirk, TokenServer},
    world::{Answer, Listed, PATIENCE, World, open, open_for_outages},
};

/// One answer of the registry.
const ANSWER: Duration = Duration::from_millis(100);
/// As many look-ups as one namespace floods with.
const FLOOD: usize = 2_000;
/// The default limit is 50 requests a second, and two namespaces take turns.
const TURN: Duration = Duration::from_millis(40);
/// Timers end at whole milliseconds: what waits from between two of them waits that much longer.
const TICK: Duration = Duration::from_millis(1);

/// A registry that is well and takes its time, with the image of a modest namespace.
async fn well() -> FakeRegistry {
    let registry = FakeRegistry::start().await;
    registry.push_image("modest/app", "1", "modest");
    registry.quirk("*", Quirk::Delay(ANSWER));
    registry
}

/// Digests that nobody has pushed.
fn random_digests(registry: &FakeRegistry, repository: &str) -> Vec<String> {
    let digest = |number: usize| Digest::of(format!("{repository} {number}").as_bytes());
    (0..FLOOD).map(|number| format!("{}/{repository}@{}", registry.host(), digest(number))).collect()
}

async fn flood(world: &World, namespace: &str, images: &[String]) -> Vec<Answer> {
    join_all(images.iter().map(|image| world.ask_from(namespace, image, PATIENCE))).await
}

/// Asks for the modest namespace's image once the flood is on its way.
async fn modest(world: &World, registry: &FakeRegistry) -> Answer {
    sleep(Duration::from_secs(1)).await;
    world.ask_from("modest", &format!("{}/modest/app:1", registry.host()), PATIENCE).await
}

/// A tag and its digest: two answers, each in its turn.
#[track_caller]
fn is_judged_in_turn(answer: &Answer) {
    answer.admits("Registry");
    assert!(answer.took <= 2 * (ANSWER + TURN) + TICK, "two answers and two turns: {:?}", answer.took);
}

/// How many answers there are of each code.
fn count(answers: &[Answer], code: u64) -> usize {
    answers.iter().filter(|answer| answer.status.as_ref().map_or(200, |(code, _)| *code) == code).count()
}

#[tokio::test(start_paused = true)]
async fn an_image_that_is_made_slow_stays_out_however_often_and_by_whomever_it_is_asked_for() {
    let registry = well().await;
    registry.push_image("greedy/app", "1", "greedy");
    registry.quirk("greedy/app", Quirk::Hang);
    let world = World::new(open_for_outages()).with(&Listed::new(&registry));
    let image = format!("{}/greedy/app:1", registry.host());
    let insists = async |namespace: usize| {
        for _ in 0..10 {
            let answer = world.ask_from(&format!("greedy-{namespace}"), &image, PATIENCE).await;
            answer.waits(5, "Registry", "not known yet: the registry is well, but did not answer about this image");
            sleep(Duration::from_millis(500)).await;
        }
    };
    let (answer, _) = tokio::join!(modest(&world, &registry), join_all((0..20).map(insists)));
    is_judged_in_turn(&answer);
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_random_digests_fills_the_line_and_delays_another_namespace_by_its_turn() {
    let registry = well().await;
    let world = World::new(open_for_outages()).with(&Listed::new(&registry));
    let images = random_digests(&registry, "greedy/app");
    let (answer, answers) = tokio::join!(modest(&world, &registry), flood(&world, "greedy", &images));
    is_judged_in_turn(&answer);
    assert_eq!(count(&answers, 200), 0);
    for answer in &answers {
        match answer.status.as_ref().map(|(code, _)| *code) {
            Some(403) => answer.refuses("the image was not found, or Lazaretto is not permitted to see it"),
            _ if answer.message.contains("this namespace") => answer.waits(3, "Deadline", "this namespace has too many look-ups under way"),
            _ => answer.waits(1, "Deadline", "the registry has not answered yet; the look-up goes on"),
        }
    }
    let (refused, later) = (count(&answers, 403), count(&answers, 504));
    assert!((400..500).contains(&refused), "as many as the line lets through: {refused} refused, {later} later");
}

/// The places in the line are few, and a question that is not answered keeps its own for seconds.
#[tokio::test(start_paused = true)]
async fn a_flood_of_slow_images_leaves_places_for_other_namespaces() {
    let registry = well().await;
    registry.quirk("greedy/app", Quirk::Hang);
    let world = World::new(open_for_outages()).with(&Listed::new(&registry));
    let images = random_digests(&registry, "greedy/app");
    let (answer, answers) = tokio::join!(modest(&world, &registry), flood(&world, "greedy", &images));
    assert_eq!(count(&answers, 504), FLOOD, "nothing is known of any of them");
    is_judged_in_turn(&answer);
}

#[tokio::test(start_paused = true)]
async fn two_namespaces_that_flood_together_leave_places_for_a_third() {
    let registry = well().await;
    registry.quirk("greedy/app", Quirk::Hang);
    registry.quirk("hungry/app", Quirk::Hang);
    let world = World::new(open_for_outages()).with(&Listed::new(&registry));
    let (greedy, hungry) = (random_digests(&registry, "greedy/app"), random_digests(&registry, "hungry/app"));
    let floods = async { tokio::join!(flood(&world, "greedy", &greedy), flood(&world, "hungry", &hungry)) };
    let (answer, (one, two)) = tokio::join!(modest(&world, &registry), floods);
    assert_eq!(count(&one, 504) + count(&two, 504), 2 * FLOOD, "nothing is known of any of them");
    is_judged_in_turn(&answer);
}

/// The probe must not stand behind the very questions that it is to tell from an outage: on one connection HTTP/2 carries only so many.
#[tokio::test(start_paused = true)]
async fn slow_images_that_fill_a_connection_are_no_outage() {
    let registry = FakeRegistry::builder().tls().streams(8).start().await;
    registry.quirk("greedy/app", Quirk::Hang);
    let world = World::new(open_for_outages()).with(&Listed::new(&registry).within(50, 64));
    let answers = flood(&world, "greedy", &random_digests(&registry, "greedy/app")[..200]).await;
    assert_eq!(count(&answers, 504), 200, "{:?}", answers.iter().find(|answer| answer.allowed));
}

/// An author may have several repositories, have them looked at, and make all of them slow.
#[tokio::test(start_paused = true)]
async fn repositories_of_one_author_say_nothing_about_the_registry() {
    let registry = well().await;
    let world = World::new(open_for_outages()).with(&Listed::new(&registry).shown("robot", "gull"));
    for number in 0..10 {
        registry.push_image(&format!("greedy/{number}"), "1", &format!("greedy {number}"));
        world.ask_from("greedy", &format!("{}/greedy/{number}:1", registry.host()), PATIENCE).await.admits("Registry");
    }
    for number in 0..10 {
        registry.quirk(format!("greedy/{number}").as_str(), Quirk::Hang);
    }
    let slow = random_digests(&registry, "greedy/9");
    for image in &slow[..5] {
        let answer = world.ask_from("greedy", image, PATIENCE).await;
        answer.waits(5, "Registry", "not known yet: the registry is well, but did not answer about this image");
    }
    is_judged_in_turn(&modest(&world, &registry).await);
}

/// However many namespaces and repositories an author has: as long as the registry answers one other, it is well.
#[tokio::test(start_paused = true)]
async fn namespaces_of_one_author_say_nothing_about_the_registry() {
    for door in [Some(("robot", "gull")), None] {
        let registry = well().await;
        let listed = Listed::new(&registry);
        let world = World::new(open_for_outages())
            .with(&door.map_or_else(|| listed.clone(), |(user, password)| listed.clone().shown(user, password)));
        for namespace in ["other", "greedy-0", "greedy-1", "greedy-2", "greedy-3"] {
            let image = format!("{}/{namespace}/app:1", registry.host());
            registry.push_image(&format!("{namespace}/app"), "1", namespace);
            world.ask_from(namespace, &image, PATIENCE).await.admits("Registry");
        }
        for number in 0..4 {
            registry.quirk(format!("greedy-{number}/app").as_str(), Quirk::Hang);
        }
        for (number, image) in random_digests(&registry, "greedy-0/app")[..5].iter().enumerate() {
            let answer = world.ask_from(&format!("greedy-{}", number % 4), image, PATIENCE).await;
            answer.waits(5, "Registry", "not known yet: the registry is well, but did not answer about this image");
        }
        is_judged_in_turn(&modest(&world, &registry).await);
    }
}

/// A replica that began a moment ago was asked about nothing but what is slow: there is more to go by, for others have asked other replicas.
#[tokio::test(start_paused = true)]
async fn namespaces_of_one_author_say_nothing_to_a_replica_that_just_began() {
    let registry = well().await;
    let world = World::new(open_for_outages()).with(&Listed::new(&registry).shown("robot", "gull"));
    for number in 0..20 {
        let (namespace, repository) = (format!("modest-{number}"), format!("modest/{number}"));
        let digest = registry.push_image(&repository, "1", &repository);
        world.index.write().apply_namespace(&namespace, BTreeMap::new());
        world.write_of(&namespace, &format!("{}/{repository}@{digest}", registry.host()), "Unmanaged", "None", None);
    }
    for number in 0..3 {
        registry.push_image(&format!("greedy-{number}/app"), "1", "greedy");
        let image = format!("{}/greedy-{number}/app:1", registry.host());
        world.ask_from(&format!("greedy-{number}"), &image, PATIENCE).await.admits("Registry");
        registry.quirk(format!("greedy-{number}/app").as_str(), Quirk::Hang);
    }
    for image in &random_digests(&registry, "greedy-0/app")[..3] {
        let answer = world.ask_from("greedy-0", image, PATIENCE).await;
        answer.waits(5, "Registry", "not known yet: the registry is well, but did not answer about this image");
    }
}

/// Nearly as slow as a registry may be whose `timeoutSeconds` is 5: to answer late is no outage, nor does it make one last.
#[tokio::test(start_paused = true)]
async fn a_registry_that_takes_its_time_is_well() {
    let registry = FakeRegistry::start().await;
    registry.quirk("*", Quirk::Delay(Duration::from_millis(2_300)));
    registry.quirk("greedy/app", Quirk::Hang);
    let world = World::new(open_for_outages()).with(&Listed::new(&registry));
    for image in &random_digests(&registry, "greedy/app")[..3] {
        let answer = world.ask_from("greedy", image, PATIENCE).await;
        answer.waits(5, "Registry", "not known yet: the registry is well, but did not answer about this image");
    }
}

/// A canary needs a token first, as the last one has expired: three answers, none of them late.
#[tokio::test(start_paused = true)]
async fn a_registry_that_takes_its_time_over_tokens_is_well() {
    let registry = FakeRegistry::builder().access(Access::Bearer(TokenServer::for_user("robot", "gull"))).start().await;
    let world = World::new(open_for_outages()).with(&Listed::new(&registry).shown("robot", "gull"));
    for namespace in ["one", "two"] {
        registry.push_image(&format!("{namespace}/app"), "1", namespace);
        world.ask_from(namespace, &format!("{}/{namespace}/app:1", registry.host()), PATIENCE).await.admits("Registry");
    }
    registry.revoke_tokens();
    registry.quirk("*", Quirk::Delay(Duration::from_millis(1_200)));
    registry.quirk("greedy/app", Quirk::Hang);
    let answer = world.ask_from("greedy", &random_digests(&registry, "greedy/app")[0], PATIENCE).await;
    answer.waits(5, "Registry", "not known yet: the registry is well, but did not answer about this image");
}

/// It has answered, that it is not to be asked for a while; so nobody asks it whether it is alive.
#[tokio::test(start_paused = true)]
async fn a_registry_that_asks_to_be_left_alone_is_well_and_left_alone() {
    let registry = FakeRegistry::start().await;
    registry.quirk("greedy/app", Quirk::Hang);
    registry.quirk("busy/app", Quirk::ThrottledFor(Duration::from_secs(30)));
    let world = World::new(open_for_outages()).with(&Listed::new(&registry));
    let (slow, busy) = (random_digests(&registry, "greedy/app"), random_digests(&registry, "busy/app"));
    let (answer, throttled) = tokio::join!(world.ask_from("greedy", &slow[0], PATIENCE), async {
        sleep(Duration::from_millis(100)).await;
        world.ask_from("busy", &busy[0], PATIENCE).await
    });
    throttled.waits(30, "Deadline", "the registry asks to wait 30 s before it is asked again");
    answer.waits(5, "Registry", "not known yet: the registry is well, but did not answer about this image");
    assert_eq!(registry.requests().len(), 2, "{:?}", registry.log());
}

/// A front door that is broken says nothing as long as the storage behind it answers.
#[tokio::test(start_paused = true)]
async fn a_registry_that_answers_about_images_is_well_though_its_front_door_is_broken() {
    for fault in [Fault::Hang, Fault::Answer(503, Vec::new(), String::new())] {
        let registry = well().await;
        let world = World::new(open_for_outages()).with(&Listed::new(&registry).shown("robot", "gull"));
        for namespace in ["one", "two"] {
            let image = format!("{}/{namespace}/app:1", registry.host());
            registry.push_image(&format!("{namespace}/app"), "1", namespace);
            world.ask_from(namespace, &image, PATIENCE).await.admits("Registry");
        }
        registry.fault("/v2/", fault);
        registry.fault("/manifests/", Fault::Header("x-well", "yes".to_owned()));
        registry.fault("/greedy/app/", Fault::Hang);
        let answer = world.ask_from("greedy", &random_digests(&registry, "greedy/app")[0], PATIENCE).await;
        answer.waits(5, "Registry", "not known yet: the registry is well, but did not answer about this image");
        is_judged_in_turn(&modest(&world, &registry).await);
    }
}

/// An answer in ten that is an error is no outage.
#[tokio::test(start_paused = true)]
async fn errors_by_chance_are_no_outage() {
    let count = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let before = move |_: &crate::support::registry::Recorded| {
        let number = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        number.is_multiple_of(10).then(|| crate::support::registry::error(503, "UNAVAILABLE", "once in ten"))
    };
    let registry = FakeRegistry::builder().before(before).start().await;
    let world = World::new(open_for_outages()).with(&Listed::new(&registry));
    let mut admitted = 0;
    for image in &random_digests(&registry, "greedy/app")[..500] {
        admitted += usize::from(world.ask_from("greedy", image, PATIENCE).await.allowed);
    }
    assert_eq!(admitted, 0);
}

/// What lets in robot, whose password is gull: at once, and by a token.
fn doors() -> [Access; 2] {
    [Access::Basic { user: "robot".into(), password: "gull".into() }, Access::Bearer(TokenServer::for_user("robot", "gull"))]
}

#[tokio::test(start_paused = true)]
async fn a_path_that_is_forbidden_does_not_raise_the_alarm_about_credentials() {
    for door in doors() {
        let registry = FakeRegistry::builder().access(door).start().await;
        registry.push_image("modest/app", "1", "modest");
        let challenge = match registry.access() {
            Access::Bearer(_) => format!("Bearer realm=\"{}/token\",service=\"fake\"", registry.url()),
            _ => "Basic realm=\"x\"".to_owned(),
        };
        registry.fault("/v2/secret/", Fault::Answer(401, vec![("www-authenticate", challenge)], String::new()));
        let world = World::new(open()).with(&Listed::new(&registry).shown("robot", "gull"));
        let secret = random_digests(&registry, "secret/app");
        let (answer, answers) = tokio::join!(modest(&world, &registry), flood(&world, "greedy", &secret[..50]));
        answer.admits("Registry");
        for answer in &answers {
            answer.refuses("the image was not found, or Lazaretto is not permitted to see it");
        }
    }
}

/// Where they are refused for everything the policy decides.
#[tokio::test(start_paused = true)]
async fn credentials_that_are_refused_for_everything_open_what_the_policy_opens_for_that() {
    for door in doors() {
        let registry = FakeRegistry::builder().access(door).start().await;
        registry.push_image("team/app", "1", "app");
        let image = format!("{}/team/app:1", registry.host());
        let ask = async |knobs| World::new(knobs).with(&Listed::new(&registry).shown("robot", "changed")).ask(&image).await;
        ask(open()).await.admits("OpenUnauthorized");
        let shut = WhenUnknown { unauthorized: Allowance::Deny, ..open() };
        ask(shut).await.waits(5, "Registry", "its registry refuses the credentials of its Registry object (");
    }
}

/// What a host without a Registry object does when it is spoken to, through a proxy: nobody else reaches such hosts from here.
#[derive(Clone, Copy, Debug)]
enum Stranger {
    /// Says nothing, not even that it is there.
    Hangs,
    /// The proxy answers for it that it is out.
    Answers503,
    /// Is there, and says nothing to a TLS handshake.
    HangsInside,
}

/// A proxy that leads to nobody but such hosts. It ends with the test.
async fn strangers(stranger: Stranger) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut held = Vec::new();
        loop {
            let (mut connection, _) = listener.accept().await.unwrap();
            match stranger {
                Stranger::Hangs => {}
                Stranger::Answers503 => {
                    connection.write_all(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n").await.unwrap();
                }
                Stranger::HangsInside => connection.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap(),
            }
            held.push(connection);
        }
    });
    format!("http://{address}")
}

#[tokio::test(start_paused = true)]
async fn a_host_without_a_registry_object_opens_nothing_by_silence() {
    for stranger in [Stranger::Hangs, Stranger::Answers503, Stranger::HangsInside] {
        let registry = well().await;
        let proxies = Proxies::new(None, Some(strangers(stranger).await), "127.0.0.1");
        let world = World::through(open(), ClientOptions { proxies, ..ClientOptions::default() }).with(&Listed::new(&registry));
        let images: Vec<String> = (0..200).map(|number| format!("registry-{number}.greedy.example/app:1")).collect();
        let again = async {
            let first = flood(&world, "greedy", &images).await;
            (first, flood(&world, "greedy", &images).await)
        };
        let (answer, (first, second)) = tokio::join!(modest(&world, &registry), again);
        for answer in first.iter().chain(&second) {
            answer.waits(5, "Deadline", "its registry does not answer. It has no Registry object, so no policy can admit its images");
        }
        is_judged_in_turn(&answer);
    }
}

/// Everything at once, for a minute.
#[tokio::test(start_paused = true)]
async fn all_of_it_at_once_opens_nothing_and_holds_up_nobody_for_long() {
    let registry = well().await;
    for repository in ["greedy/slow", "greedy/held"] {
        registry.push_image(repository, "1", repository);
    }
    registry.quirk("greedy/slow", Quirk::Hang);
    registry.quirk("greedy/held", Quirk::Hold(Duration::from_secs(60)));
    let proxies = Proxies::new(None, Some(strangers(Stranger::Hangs).await), "127.0.0.1");
    let options = ClientOptions { proxies, ..ClientOptions::default() };
    let world = World::through(open_for_outages(), options).with(&Listed::new(&registry).shown("robot", "gull"));
    let mut images = random_digests(&registry, "greedy/app");
    images.extend(random_digests(&registry, "greedy/slow").into_iter().take(100));
    images.extend(["greedy/slow:1", "greedy/held:1"].map(|image| format!("{}/{image}", registry.host())));
    images.extend((0..100).map(|number| format!("registry-{number}.greedy.example/app:1")));
    let floods = async {
        let mut admitted = 0;
        for _ in 0..6 {
            admitted += count(&flood(&world, "greedy", &images).await, 200);
            sleep(Duration::from_secs(1)).await;
        }
        admitted
    };
    let others = async {
        for number in 0..50 {
            let repository = format!("modest/{number}");
            registry.push_image(&repository, "1", &repository);
            let answer = world.ask_from("modest", &format!("{}/{repository}:1", registry.host()), PATIENCE).await;
            is_judged_in_turn(&answer);
            sleep(Duration::from_secs(1)).await;
        }
    };
    let (admitted, ()) = tokio::join!(floods, others);
    assert_eq!(admitted, 0);
}
