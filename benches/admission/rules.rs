//! A warm admission where 200 Registries with 1,000 rules speak of the hosts of every image, beside one where a single Registry with one rule does.
//!
//! Four replicas of the program stand on one thread with the same reviews, policies and ImageStatuses. All Registries name all hosts and differ in
//! their `repositories`; each has five access rules, or five exclude patterns. Runs alternate, five each.
//!
//! - `rules_one_throughput`: one Registry, one rule;
//! - `rules_first_ratio`: the first Registry and its first rule are the ones that speak of the images; over that of one;
//! - `rules_last_ratio`: the last Registry and its last rule;
//! - `rules_none_ratio`: the last Registry, and none of the exclude patterns.

use std::{net::SocketAddr, time::Duration};

use lazaretto::lookups::Lives;
use serde_json::{Value, json};

use crate::{
    figures::{Figures, median},
    load::{Connections, Protocol, Run},
    registry::{Manner, Registry},
    stack::{self, Identity, Replica, Threads},
    world::{self, World},
};

/// Its figures.
pub const FIGURES: [&str; 4] = ["rules_one_throughput", "rules_first_ratio", "rules_last_ratio", "rules_none_ratio"];

const RUNS: usize = 5;
const REQUESTS: usize = 6_000;
const REGISTRIES: usize = 200;
const RULES: usize = 5;

/// Which of them speak of the images.
#[derive(Clone, Copy)]
enum Match {
    One,
    First,
    Last,
    None,
}

impl Match {
    fn registries(self, endpoint: SocketAddr) -> Vec<Value> {
        let (registries, rules, at) = match self {
            Self::One => (1, 1, (0, 0)),
            Self::First => (REGISTRIES, RULES, (0, 0)),
            Self::Last | Self::None => (REGISTRIES, RULES, (REGISTRIES - 1, RULES - 1)),
        };
        (0..registries).map(|number| self.registry(number, rules, at, endpoint)).collect()
    }

    fn registry(self, number: usize, rules: usize, (speaks, rule): (usize, usize), endpoint: SocketAddr) -> Value {
        let mut object = world::registry(0, endpoint);
        object["metadata"]["name"] = format!("registry-{number:03}").into();
        object["spec"]["hosts"] = world::hosts().into();
        let repositories = if number == speaks { "team-*/services/**".to_owned() } else { format!("other-{number}/**") };
        object["spec"]["repositories"] = json!([repositories]);
        let path = |at: usize| if (number, at) == (speaks, rule) { "team-*/**".to_owned() } else { format!("nothing-{number}-{at}/**") };
        if matches!(self, Self::None) {
            object["spec"]["exclude"] = (0..rules).map(|at| format!("team-*/excluded-{number}-{at}/**")).collect();
        } else {
            let allow = json!({ "namespaceSelector": { "matchLabels": { "environment": "production" } } });
            object["spec"]["access"] = (0..rules).map(|at| json!({ "paths": [path(at)], "allow": allow })).collect();
        }
        object
    }
}

/// Measures all four.
pub async fn measure(statuses: usize) -> Figures {
    let threads = [Threads::new(stack::SERVER_THREAD, 1), Threads::new("registry", 1)];
    let registry = threads[1].run(Registry::start(Manner::default())).await;
    let world = World::new(statuses);
    let mut sides = Vec::new();
    for matching in [Match::One, Match::First, Match::Last, Match::None] {
        // Rules are all that differs: the reviews are the same.
        let side = World::new(statuses);
        side.bring(matching.registries(registry.address()));
        let (identity, index) = (Identity::new(), side.index.clone());
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
        for (_, connections, ran) in &mut sides {
            let run = connections.run(&world.reviews, Run::of(REQUESTS)).await;
            assert_eq!(run.unwanted, 0, "a known good image was not admitted");
            ran.push(run.throughput);
        }
    }
    assert_eq!(registry.requests(), asked, "a registry was asked: this was no warm path");
    let [one, first, last, none] = [0, 1, 2, 3].map(|side: usize| median(sides[side].2.iter().copied()));
    let mut figures = Figures::default();
    figures.add(FIGURES[0], one, "reviews/s");
    for (name, value) in FIGURES[1..].iter().zip([first, last, none]) {
        figures.add(*name, value / one, "ratio");
    }
    figures
}
