//! Azure Container Registry keeps the flag.
//!
//! The flag is `quarantineState` among an image's attributes at `/acr/v1`. `Passed` is a release and `Failed` a failure, in whatever case they are
//! written; any other word, or none, is quarantine. So it is with whatever cannot be read of an image that is there: 403, or 404 for a digest that
//! the distribution API has, says "in quarantine" and never "released". 404 or 403 from both is not knowledge about an image at all (a digest that
//! was made up; the registry's firewall) and stays the failure that it is: a mistake in a network rule must not put all images into quarantine.
//!
//! **Rights.** The Registry's credentials need AcrPull and AcrQuarantineReader; to carry decisions out, AcrPush and AcrQuarantineWriter as well.
//!
//! **The registry's policy must be on.** Data-plane credentials cannot see whether it is. While it is off, images that nobody has judged have no
//! state and are quarantined here, and the reason says so; but Azure's own scanner writes `Passed` for whatever it has looked at, with findings or
//! without, and that cannot be told from a release.
//!
//! **Children.** Azure does not say whether a judgement of an index is one of its images. Recorded exchanges show scanners that judge the images and
//! leave the index without a state, and a kubelet pulls the image, so an index that `Passed` is looked through: the attributes of its first 16 images
//! (attestations left out), four at a time, and the strictest *written* state wins. A child without a state says nothing, since the index may speak for
//! it, nor does one that is not there. An index in any other state is not looked through. What it costs is one request for each image of an index.
//!
//! **Time.** `lastUpdateTime` tells the push or the last tag; recorded exchanges leave it alone when attributes change. So `since` is the earliest
//! time at which the state can have been written, and the history has when it was seen.
//!
//! The answer's `api-version` is left out as every client of the quarantine does: the published 2021-07-01 does not name these fields any more.

mod attributes;

use std::{fmt::Write, slice};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, future::BoxFuture, stream};
use http::{Method, StatusCode};
use serde_json::json;

use self::attributes::{Attributes, clip};
use super::{Keeper, Question, Seen, confirm};
use crate::{
    api::{Decision, DecisionState, Provider, State},
    facts::{Block, Child, Facts, Manifest},
    history::{Observation, Weight},
    image::Digest,
    registry::{Answer, Failure, Request},
};

/// So many images of an index are asked about; an ImageStatus remembers as many.
const MOST_CHILDREN: usize = 16;
/// So many of them at once.
const CHILDREN_AT_ONCE: usize = 4;
/// Characters of `description` in the schema of `quarantineDetails`.
const MOST_DESCRIPTION: usize = 1024;

/// Azure Container Registry's quarantine.
#[derive(Clone, Copy, Debug)]
pub struct AzureContainerRegistry;

impl Keeper for AzureContainerRegistry {
    fn observe<'a>(&'a self, question: Question<'a>) -> BoxFuture<'a, Result<Seen, Failure>> {
        Box::pin(async move { observe(&question).await.map(Seen::State) })
    }

    fn carry_out<'a>(&'a self, question: Question<'a>, decision: &'a Decision) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move { carry_out(&question, decision).await })
    }
}

async fn observe(question: &Question<'_>) -> Result<Observation, Failure> {
    let attributes = match ask(question, question.subject.digest()).await {
        Ok(attributes) => attributes,
        Err(Failure::Blocked(block)) if is_quarantine(&block) => return Ok(blocked(question, &block)),
        Err(hidden @ (Failure::NotFound | Failure::Forbidden(_))) => return unread(question, &hidden).await,
        Err(failure) => return Err(failure),
    };
    let read = confirm(question).await;
    if attributes.state != State::Released {
        // The state is known; the manifest is only for matching what runs, and may be blocked as well.
        return Ok(told(question, &attributes, &attributes.reason(), read.unwrap_or_default()));
    }
    let manifest = match read {
        Ok(manifest) => manifest,
        Err(Failure::Blocked(block)) if is_quarantine(&block) => return Ok(blocked(question, &block)),
        // Credentials that may read attributes and nothing else.
        Err(Failure::Forbidden(_) | Failure::Unauthorized(_)) => Manifest { children: attributes.children.clone(), ..Manifest::default() },
        Err(failure) => return Err(failure),
    };
    Ok(match strictest_child(question, &manifest.children).await? {
        Some((child, written)) => {
            let held = if written.state == State::Failed { "failed" } else { "is in quarantine" };
            let reason = format!("its image for {} {held} at the registry: {}", child.platform, child.digest);
            told(question, &written, &reason, manifest)
        }
        None => told(question, &attributes, &attributes.reason(), manifest),
    })
}

/// The attributes of one manifest of the subject's repository.
async fn ask(question: &Question<'_>, digest: &Digest) -> Result<Attributes, Failure> {
    let repository = question.subject.repository();
    let path = path(repository, digest);
    let scopes = [format!("repository:{repository}:pull")];
    let answer = question.client.get_json(question.endpoint, question.credentials, &path, &scopes).await?;
    Attributes::read(&answer, digest).map_err(Failure::Misbehaved)
}

fn path(repository: &str, digest: &Digest) -> String {
    format!("/acr/v1/{repository}/_manifests/{digest}")
}

/// What is the case when the attributes are not shown: nothing, unless the registry has the image.
async fn unread(question: &Question<'_>, hidden: &Failure) -> Result<Observation, Failure> {
    match confirm(question).await {
        Ok(manifest) => {
            let status = if *hidden == Failure::NotFound { 404 } else { 403 };
            let reason = format!(
                "the registry does not show Lazaretto its quarantine state ({status}), so it counts as quarantined: the Registry's credentials need the role AcrQuarantineReader"
            );
            Ok(told(question, &Attributes::unknown(), &reason, manifest))
        }
        Err(Failure::Blocked(block)) if is_quarantine(&block) => Ok(blocked(question, &block)),
        Err(failure) => Err(failure),
    }
}

/// `IMAGE_QUARANTINED`. Other policies of the registry, such as a lock, are no quarantine.
fn is_quarantine(block: &Block) -> bool {
    block.code.to_ascii_uppercase().contains("QUARANTIN")
}

fn blocked(question: &Question<'_>, block: &Block) -> Observation {
    let reason = format!("the registry blocks it: {} {}", block.code, block.message);
    told(question, &Attributes::unknown(), &reason, Manifest::default())
}

/// The child whose written state is the strictest, if any is not released.
async fn strictest_child(question: &Question<'_>, children: &[Child]) -> Result<Option<(Child, Attributes)>, Failure> {
    let held: Vec<(Child, Attributes)> = stream::iter(children.iter().take(MOST_CHILDREN).cloned())
        .map(|child| async move {
            let written = match ask(question, &child.digest).await {
                Ok(written) => written,
                Err(Failure::Blocked(block)) if is_quarantine(&block) => Attributes::quarantined(),
                // The index's attributes are shown, and only what is in quarantine is hidden.
                Err(Failure::Forbidden(_)) => Attributes::quarantined(),
                Err(Failure::NotFound) => return Ok(None),
                Err(failure) => return Err(failure),
            };
            let held = written.state.is_bad() && written.word.is_some();
            Ok(held.then_some((child, written)))
        })
        .buffered(CHILDREN_AT_ONCE)
        .try_filter_map(async |held| Ok(held))
        .try_collect()
        .await?;
    // Of equals the first, so that the answer stays the same from one look to the next.
    Ok(held.into_iter().reduce(|strictest, next| if next.1.state > strictest.1.state { next } else { strictest }))
}

fn told(question: &Question<'_>, attributes: &Attributes, reason: &str, manifest: Manifest) -> Observation {
    let host = &question.endpoint.host;
    let facts = Facts {
        state: attributes.state,
        since: attributes.since.unwrap_or(question.now).min(question.now),
        // The scanner's name is anything that whoever judged wrote there: it never stands alone, where it could be taken for a person's.
        by: match attributes.scanner.as_str() {
            "" => host.clone(),
            scanner => format!("{scanner} at {host}"),
        },
        reason: clip(reason, 256),
        details: attributes.summary.clone(),
        provider: Provider::AzureContainerRegistry,
        observed_at: question.now,
        manifest,
    };
    let weight = if matches!(facts.state, State::Released | State::Failed) { Weight::Explicit } else { Weight::Seen };
    Observation { facts, weight }
}

async fn carry_out(question: &Question<'_>, decision: &Decision) -> Result<(), Failure> {
    let (state, word) = match decision.state {
        DecisionState::Released => ("Passed", "released"),
        DecisionState::Failed => ("Failed", "failed"),
        DecisionState::Quarantined => {
            return Err(Failure::Forbidden(
                "Azure Container Registry cannot put an image back into quarantine: fail it to keep it from being pulled".to_owned(),
            ));
        }
    };
    let body = json!({ "quarantineState": state, "quarantineDetails": details(decision, word).to_string() });
    let body = Bytes::from(body.to_string());
    let repository = question.subject.repository();
    let pushing = format!("repository:{repository}:pull,push");
    // The quarantine's documentation writes with `pull,push`; recorded exchanges show the registry ask for this scope instead.
    let writing = format!("repository:{repository}:metadata_write");
    let mut answer = patch(question, slice::from_ref(&pushing), body.clone()).await;
    if matches!(answer, Err(Failure::Forbidden(_))) {
        answer = patch(question, &[pushing, writing], body).await;
    }
    let needed =
        |why: &str| format!("{why}. To carry decisions out, the Registry's credentials need the roles AcrPush and AcrQuarantineWriter");
    match answer.and_then(|answer| match answer.status {
        StatusCode::OK | StatusCode::NO_CONTENT => Ok(()),
        _ => Err(answer.failure()),
    }) {
        Err(Failure::Forbidden(why)) => Err(Failure::Forbidden(needed(&why))),
        Err(Failure::Unauthorized(why)) => Err(Failure::Unauthorized(needed(&why))),
        end => end,
    }
}

async fn patch(question: &Question<'_>, scopes: &[String], body: Bytes) -> Result<Answer, Failure> {
    let path = path(question.subject.repository(), question.subject.digest());
    let request = Request { method: Method::PATCH, path: &path, scopes, body: Some(body) };
    question.client.request(question.endpoint, question.credentials, request).await
}

/// The details of a decision, within the schema that Azure/acr publishes for `quarantineDetails`.
fn details(decision: &Decision, word: &str) -> serde_json::Value {
    let more = decision.details.as_deref().unwrap_or_default();
    let is_link = more.starts_with("https://") || more.starts_with("http://");
    let mut description = format!("{}: {}", decision.by, decision.reason);
    if !more.is_empty() && !is_link {
        let _infallible = write!(description, " ({more})");
    }
    let mut details = json!({
        "scanner": "lazaretto",
        "state": word,
        "result": { "version": env!("CARGO_PKG_VERSION"), "summary": [], "description": clip(&description, MOST_DESCRIPTION) },
    });
    if is_link {
        details["link"] = more.into();
    }
    details
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decision(details: Option<&str>) -> Decision {
        Decision {
            state: DecisionState::Released,
            by: "alice@corp.example".into(),
            reason: "reviewed".into(),
            details: details.map(Into::into),
            expects: None,
        }
    }

    #[test]
    fn details_name_us_who_and_why() {
        let version = env!("CARGO_PKG_VERSION");
        let result = |description: &str| json!({ "version": version, "summary": [], "description": description });
        assert_eq!(
            details(&decision(None), "released"),
            json!({ "scanner": "lazaretto", "state": "released", "result": result("alice@corp.example: reviewed") })
        );
        assert_eq!(
            details(&decision(Some("https://tickets.example/7")), "released"),
            json!({ "scanner": "lazaretto", "state": "released", "link": "https://tickets.example/7", "result": result("alice@corp.example: reviewed") })
        );
        assert_eq!(details(&decision(Some("ticket 7")), "failed")["result"]["description"], "alice@corp.example: reviewed (ticket 7)");
    }

    #[test]
    fn a_description_is_never_longer_than_the_schema_permits() {
        let long = Decision { by: "b".repeat(256), reason: "r".repeat(256), details: Some("d".repeat(512)), ..decision(None) };
        assert_eq!(details(&long, "released")["result"]["description"].as_str().unwrap().chars().count(), MOST_DESCRIPTION);
    }

    #[test]
    fn a_lock_is_no_quarantine() {
        let block = |code: &str| Block { code: code.into(), message: String::new() };
        assert!(is_quarantine(&block("IMAGE_QUARANTINED")) && is_quarantine(&block("image_quarantined")));
        assert!(!is_quarantine(&block("REGISTRY_DISALLOWED_OPERATION")) && !is_quarantine(&block("DENIED")));
    }
}
