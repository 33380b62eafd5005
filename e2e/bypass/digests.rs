//! Tags that lie about digests, and digests that are somewhere else.

use std::time::Duration;

use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::time::{MissedTickBehavior, interval};

use super::{IN_QUARANTINE, NOT_FOUND, Scene, pod, read, registry};
use crate::lab::wait::{MOMENT, eventually};
use crate::story;

/// With a tag and a digest the node pulls the digest: so it is the digest that is judged.
#[tokio::test]
async fn beside_a_digest_a_tag_says_nothing() {
    let scene = Scene::new().await;
    let registry = registry().await;
    let (good, good_digest) = scene.push_released("app", "good").await;
    let (bad, bad_digest) = scene.push("app", "bad").await;
    let covered = format!("{good}@{bad_digest}");
    scene.refused(&pod("p", &covered)).await.says(&[&format!("spec.containers[c].image {covered}: {IN_QUARANTINE}"), &bad_digest]);
    scene.create(&pod("p", &format!("{bad}@{good_digest}"))).await.unwrap();
    // A tag that does not exist is as good as any other.
    let nowhere = format!("{}:nowhere@{bad_digest}", registry.tagged(&scene.repository("app"), "x").trim_end_matches(":x"));
    scene.refused(&pod("q", &nowhere)).await.says(&[&format!("{nowhere}: {IN_QUARANTINE}")]);
}

/// What was judged is a repository's digest. The same bytes in another repository are another image, if they are there at all.
#[tokio::test]
async fn a_digest_counts_in_its_own_repository_only() {
    let scene = Scene::new().await;
    let registry = registry().await;
    let (_, digest) = scene.push_released("app", "1").await;
    scene.create(&pod("p", &registry.pinned(&scene.repository("app"), &digest))).await.unwrap();
    scene.push("other", "1").await;
    let elsewhere = registry.pinned(&scene.repository("other"), &digest);
    scene.refused(&pod("q", &elsewhere)).await.says(&[&format!("spec.containers[c].image {elsewhere}: {NOT_FOUND}")]);
    let nowhere = registry.pinned(&scene.repository("none"), &digest);
    scene.refused(&pod("q", &nowhere)).await.says(&[NOT_FOUND]);

    // The same image, pushed there: in quarantine, whatever became of the first.
    let variant = format!("{}:1", scene.repository("app"));
    assert_eq!(registry.push(&scene.repository("copy"), "1", &variant).await, digest);
    let copy = registry.tagged(&scene.repository("copy"), "1");
    scene.refused(&pod("q", &copy)).await.says(&[&format!("{copy} ({digest}): {IN_QUARANTINE}")]);
    scene.create(&pod("r", &registry.pinned(&scene.repository("app"), &digest))).await.unwrap();
}

/// A tag is judged as it stands when the pod is admitted, or as it stood up to ten seconds before: so long a replica keeps the digest
/// of a tag. Who needs more writes digests (`require.digest`). What a node pulls within that time is found by its imageID.
#[tokio::test]
async fn a_tag_that_moves_is_found_out() {
    let scene = Scene::new().await;
    let registry = registry().await;
    let repository = scene.repository("app");
    let (image, first) = scene.push_released("app", "moving").await;
    let second = registry.push(&repository, "moving", "the second thing under this tag, in quarantine").await;
    assert_ne!(first, second);
    scene.refused(&pod("q", &registry.pinned(&repository, &second))).await.says(&[IN_QUARANTINE]);

    // Within the tag's life: judged as the first digest. The node asks the registry itself, and runs the second.
    scene.create(&pod("p", &image)).await.unwrap();
    let status = json!({ "status": { "phase": "Running", "containerStatuses": [{
        "name": "c", "image": image, "imageID": registry.pinned(&repository, &second), "ready": true, "restartCount": 0,
        "state": { "running": { "startedAt": "2026-01-01T00:00:00Z" } },
    }] } });
    scene.pods().patch_status("p", &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    eventually(2 * MOMENT, "the leader counts what runs though it would be refused", async || {
        let mut count = 0.0;
        for replica in scene.replicas {
            count += replica.metric("lazaretto_running_refused", &[]).await;
        }
        if count >= 1.0 { Ok(()) } else { Err(count) }
    })
    .await;

    // After it: nothing more starts by this tag.
    let mut ticks = interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let refused = eventually(Duration::from_secs(30) + MOMENT, "the tag is asked for again", async || {
        ticks.tick().await;
        match scene.pods().create(&super::dry_run(), &read(&pod("q", &image))).await {
            Err(kube::Error::Api(status)) if status.code == 403 => Ok(status.message),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    assert!(refused.contains(&format!("spec.containers[c].image {image} ({second}): {IN_QUARANTINE}")), "{refused}");
    // Each replica remembers for itself; by now both have asked again.
    eventually(Duration::from_secs(30) + MOMENT, "no replica admits it", async || {
        for replica in scene.replicas {
            let answer = scene.ask(replica, "/validate", &scene.review(&pod("q", &image))).await;
            if answer["allowed"] == true {
                return Err(answer);
            }
        }
        Ok(())
    })
    .await;
    let real = scene.pods().create(&PostParams::default(), &read(&pod("q", &image))).await;
    assert!(real.is_err(), "{real:?}");
}

/// Released is the image that was asked about: not one that an index holds, nor the index that holds it.
#[tokio::test]
async fn an_index_and_its_images_are_released_one_by_one() {
    let scene = Scene::new().await;
    let registry = registry().await;
    let repository = scene.repository("app");
    let (index, children) = registry.push_index(&repository, "1", &repository).await;
    let (image, child) = (registry.tagged(&repository, "1"), registry.pinned(&repository, &children[0]));
    scene.refused(&pod("p", &image)).await.says(&[&format!("{image} ({index}): {IN_QUARANTINE}")]);
    scene.refused(&pod("p", &child)).await.says(&[&format!("{child}: {IN_QUARANTINE}")]);
    scene.release(&child, &children[0]).await;
    scene.create(&pod("child", &child)).await.unwrap();
    scene.refused(&pod("p", &image)).await.says(&[&format!("{image} ({index}): {IN_QUARANTINE}")]);
    assert!(story::image_status(scene.lab, &children[1]).await.is_none(), "nobody asked about the other one");
}
