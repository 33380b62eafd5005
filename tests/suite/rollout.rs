//! A roll-out of thousands of pods at a registry that bears few requests, and says so only by 429.
//!
//! Each Deployment's pods are created as its ReplicaSet's controller creates them: one, then twice as many at a time; a create that is told
//! to come back does so after the time that it is told (client-go, ten times at the most); after a failure the rest waits for 5 ms, doubled
//! each time. What is found out is written down, and the watch brings it.

use std::{sync::Arc, time::Duration};

use axum::response::Response;
use futures::future::join_all;
use lazaretto::image::Digest;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

use crate::support::{
    registry::{FakeRegistry, Recorded, error},
    world::{Listed, PATIENCE, World, shut},
};

const DEPLOYMENTS: usize = 1_000;
/// Of each.
const PODS: usize = 10;
/// Requests a second that the registry bears, in bursts of a second's worth.
const BORNE: f64 = 20.0;
/// What it names in a 429.
const LEFT_ALONE: Duration = Duration::from_secs(1);
/// Requests that were under way when the first 429 was sent arrive within this time; a timer's grain.
const UNDER_WAY: Duration = Duration::from_millis(2);

/// A registry's own limit.
struct Limit {
    bucket: f64,
    filled: Instant,
    /// Since when, and until when, it wants to be left alone.
    closed: Option<(Instant, Instant)>,
    served: usize,
    refused: usize,
    /// Requests that came though it had asked to be left alone.
    early: usize,
}

impl Limit {
    fn new() -> Self {
        Self { bucket: BORNE, filled: Instant::now(), closed: None, served: 0, refused: 0, early: 0 }
    }

    fn take(&mut self) -> Option<Response> {
        let now = Instant::now();
        self.bucket = (self.bucket + (now - self.filled).as_secs_f64() * BORNE).min(BORNE);
        self.filled = now;
        let closed = self.closed.filter(|(_, until)| now < *until);
        if let Some((since, until)) = closed {
            self.early += usize::from(now > since + UNDER_WAY && now + UNDER_WAY < until);
        } else if self.bucket >= 1.0 {
            self.bucket -= 1.0;
            self.served += 1;
            return None;
        } else {
            self.closed = Some((now, now + LEFT_ALONE));
        }
        self.refused += 1;
        let mut response = error(429, "TOOMANYREQUESTS", "slowly");
        response.headers_mut().insert("retry-after", LEFT_ALONE.as_secs().into());
        Some(response)
    }
}

/// Creates one pod as client-go does. Says whether it is there.
async fn create(world: &World, namespace: &str, image: &str) -> bool {
    for _ in 0..=10 {
        let answer = world.ask_from(namespace, image, PATIENCE).await;
        if answer.allowed {
            return true;
        }
        let Some(seconds) = answer.retry_after else { panic!("refused for good: {answer:?}") };
        sleep(Duration::from_secs(seconds)).await;
    }
    false
}

/// Creates the pods of one Deployment.
async fn roll_out(world: &World, namespace: &str, image: &str) {
    let (mut missing, mut back_off) = (PODS, Duration::from_millis(5));
    let mut written = false;
    while missing > 0 {
        let mut batch = 1;
        while missing > 0 {
            let made = join_all((0..batch.min(missing)).map(|_| create(world, namespace, image))).await;
            missing -= made.iter().filter(|made| **made).count();
            if made.contains(&true) && !written {
                world.write(image, "Unmanaged", "None");
                written = true;
            }
            if made.contains(&false) {
                sleep(back_off).await;
                back_off = (back_off * 2).min(Duration::from_secs(1_000));
                break;
            }
            batch *= 2;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_large_roll_out_takes_as_long_as_its_registry_takes_for_the_requests() {
    let limit = Arc::new(Mutex::new(Limit::new()));
    let held = limit.clone();
    let registry = FakeRegistry::builder().before(move |_: &Recorded| held.lock().take()).start().await;
    let image = |number: usize| {
        let digest: Digest = registry.push_image(&format!("team/{number}"), "1", &number.to_string());
        format!("{}/team/{number}@{digest}", registry.host())
    };
    // One image alone, to know what one takes.
    let alone = World::new(shut()).with(&Listed::new(&registry));
    alone.ask(&image(DEPLOYMENTS)).await.admits("Registry");
    let needed = DEPLOYMENTS * std::mem::take(&mut limit.lock().served);

    let world = World::new(shut()).with(&Listed::new(&registry));
    let images: Vec<String> = (0..DEPLOYMENTS).map(image).collect();
    let begun = Instant::now();
    join_all(images.iter().enumerate().map(|(number, image)| {
        let world = &world;
        async move { roll_out(world, &format!("team-{}", number % 10), image).await }
    }))
    .await;
    let took = begun.elapsed().as_secs_f64();
    let limit = limit.lock();
    eprintln!("{} requests served, {} refused, {took:.1} s for all pods", limit.served, limit.refused);
    assert_eq!(limit.served, needed, "each image is looked at once");
    assert_eq!(limit.early, 0, "a request came though the registry had asked to be left alone");
    assert!(limit.refused > 0, "the limit was never met");
    #[allow(clippy::cast_precision_loss, reason = "a few thousand")]
    let least = needed as f64 / BORNE;
    assert!(took <= 1.25 * least, "{took:.1} s for what takes {least:.1} s at the least");
}
