//! A warm admission that asks for signatures, an SBOM and a vulnerability report of every image, beside one that asks for the release alone.
//!
//! Two replicas of the program stand on one thread with the same reviews, policies and ImageStatuses, but that the policies of one ask for
//! everything, and its images have it. Runs alternate, five each.
//!
//! - `proof_throughput_c64`, `proof_throughput_ratio_c64`: the second's reviews a second, and over the first's;
//! - `proof_rejudge_ms`: a key is taken out of all 20 policies, and every image is judged by all of them: time on one core.

use std::time::Duration;

use jiff::Timestamp;
use lazaretto::{
    api::QuarantinePolicy,
    facts::Outcome,
    image::Reference,
    judgement::{FieldPath, Scope, Setting},
    lookups::Lives,
    verdict::{Sight, Source},
};
use tokio::time::Instant;

use crate::{
    figures::{Figures, median},
    load::{Connections, Protocol, Run},
    registry::{Manner, Registry},
    stack::{self, Identity, Replica, Threads},
    world::{self, World},
};

/// Its figures.
pub const FIGURES: [&str; 4] = ["plain_throughput_c64", "proof_throughput_c64", "proof_throughput_ratio_c64", "proof_rejudge_ms"];

const RUNS: usize = 5;
const REQUESTS: usize = 6_000;

/// Measures both.
pub async fn measure(statuses: usize) -> Figures {
    let worlds = [World::new(statuses), World::proven(statuses)];
    let threads = [Threads::new(stack::SERVER_THREAD, 1), Threads::new("registry", 1)];
    let registry = threads[1].run(Registry::start(Manner::default())).await;
    let mut sides = Vec::new();
    for world in &worlds {
        world.name_registries(|_| registry.address());
        let (identity, index) = (Identity::new(), world.index.clone());
        let lives = Lives { tag: Duration::from_secs(3_600), ..Lives::default() };
        let replica = threads[0].run(async move { Replica::start(&identity, &index, None, lives).await }).await;
        let connections = Connections::open(&replica.target, Protocol::Http1, 64).await;
        for _ in 0..2 {
            connections.run(&world.reviews, Run::of(world.reviews.len())).await;
        }
        sides.push((replica, connections, Vec::new()));
    }
    let asked = registry.requests();
    for _ in 0..RUNS {
        for ((_, connections, ran), world) in sides.iter_mut().zip(&worlds) {
            let run = connections.run(&world.reviews, Run::of(REQUESTS)).await;
            assert_eq!(run.unwanted, 0, "a proven image was not admitted");
            ran.push(run.throughput);
        }
    }
    assert_eq!(registry.requests(), asked, "a registry was asked: this was no warm path");
    let [plain, proven] = [0, 1].map(|side: usize| median(sides[side].2.iter().copied()));
    let mut figures = Figures::default();
    figures.add("plain_throughput_c64", plain, "reviews/s");
    figures.add("proof_throughput_c64", proven, "reviews/s");
    figures.add("proof_throughput_ratio_c64", proven / plain, "ratio");
    figures.add("proof_rejudge_ms", rejudge(&worlds[1]).as_secs_f64() * 1e3, "ms");
    figures
}

/// One key less, and everything judged anew.
fn rejudge(world: &World) -> Duration {
    let begun = Instant::now();
    for number in 0..world::POLICIES {
        let mut policy = world::policy(number);
        world::prove(&mut policy, &["ecdsa-p256"]);
        assert!(world.index.write().apply_policy(&world::read::<QuarantinePolicy>(policy)));
    }
    let index = world.index.read();
    let (rules, labels) = (index.rules(), index.namespace("team-1").unwrap());
    let setting = Setting::new(&rules, Scope::Enforce, "team-1", &labels, Timestamp::now());
    let mut admitted = 0_usize;
    for (subject, known) in index.images() {
        let image = Reference::from(subject);
        let text = image.to_string();
        let spoken = setting.spoken(FieldPath::Text("image"), &text);
        let sight = Sight {
            subject: Some(subject.clone()),
            certain: true,
            outcome: Outcome::Found(known.facts.clone()),
            source: Source::Known,
            evidence: known.evidence.clone().map(Outcome::Found),
            ..Sight::blind(None, true, false)
        };
        let considered = setting.consider(spoken, Some(&sight));
        assert_eq!(considered.opinions.len(), world::POLICIES);
        admitted += usize::from(considered.opinions.iter().all(|opinion| opinion.why().is_none()));
    }
    assert_eq!(admitted, index.image_count());
    begun.elapsed()
}
