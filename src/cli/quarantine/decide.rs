//! `lazaretto quarantine hold`, `release` and `fail`.

use std::time::Duration;

use anyhow::bail;
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use kube::{
    Api, Client,
    api::PostParams,
    core::ObjectMeta,
    runtime::wait::{Condition, await_condition},
};

use super::{
    find::Found,
    show::{dealt_with, state},
};
use crate::{
    api::{Decision, DecisionState, ImageStatus, ImageStatusSpec, Provider, State},
    cli::{
        Exit, Refusal,
        cluster::{self, Failed},
        output,
    },
    image::Subject,
};

/// Turns after which a write that keeps losing races is given up.
const TURNS: usize = 5;

/// What a person orders.
#[derive(Clone, Debug)]
pub(super) struct Order {
    pub state: DecisionState,
    pub by: String,
    pub reason: String,
    pub details: Option<String>,
}

/// What came of an order.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Done {
    /// In words.
    pub said: String,
    /// The object's name.
    pub name: String,
    /// The generation of the spec that the status has yet to answer, if any.
    pub wait_for: Option<i64>,
}

/// What is to be done about an order.
#[derive(Debug, PartialEq)]
enum Step {
    /// The image is in that state.
    There,
    /// Somebody decided the same a moment ago.
    Decided(String),
    /// The very same decision was dealt with, and the image is in another state all the same.
    InVain(Option<State>),
    /// This decision is to be written.
    Write(Decision),
}

fn step(object: &ImageStatus, order: &Order) -> Step {
    let target = State::from(order.state);
    let current = state(object);
    let standing = object.spec.quarantine.as_ref();
    let pending = standing.filter(|_| !dealt_with(object));
    match pending {
        Some(pending) if pending.state == order.state => return Step::Decided(pending.by.clone()),
        None if current == Some(target) => return Step::There,
        _ => {}
    }
    let decision = Decision {
        state: order.state,
        by: order.by.clone(),
        reason: order.reason.clone(),
        details: order.details.clone(),
        expects: current,
    };
    // Written again it would change nothing, so nobody would look at it again.
    if standing == Some(&decision) { Step::InVain(current) } else { Step::Write(decision) }
}

/// The user name under which the API server knows whoever runs this.
pub(super) async fn own_name(client: &Client) -> anyhow::Result<String> {
    let api = Api::<SelfSubjectReview>::all(client.clone());
    let review = SelfSubjectReview { metadata: ObjectMeta::default(), status: None };
    let review = cluster::call("ask who I am", api.create(&PostParams::default(), &review)).await?;
    match review.status.and_then(|status| status.user_info?.username).filter(|name| !name.is_empty()) {
        Some(name) => Ok(name),
        None => bail!("the API server does not say who you are, and a decision must name who decides"),
    }
}

/// Writes the decision, unless it is there already.
pub(super) async fn decide(api: &Api<ImageStatus>, found: Found, order: &Order) -> anyhow::Result<Done> {
    let mut object = match found {
        Found::Object(object) => *object,
        Found::Nothing(subject) => return create(api, &subject, order).await,
    };
    let (name, image, decided_on) = (object.metadata.name.clone().unwrap_or_default(), object.spec.subject.clone(), state(&object));
    let target = State::from(order.state);
    for _ in 0..TURNS {
        let done = |said: String, wait_for| Ok(Done { said, name: name.clone(), wait_for });
        let decision = match step(&object, order) {
            Step::There => return done(format!("{image} is {target} already"), None),
            Step::Decided(by) => return done(format!("{image}: {by} decided the same already"), object.metadata.generation),
            Step::InVain(current) => bail!(
                "the same decision stands already and was dealt with, but the image is {}: give another --reason to decide anew",
                words(current)
            ),
            Step::Write(decision) => decision,
        };
        object.spec.quarantine = Some(decision);
        match cluster::call(&format!("{} {image}", verb(order.state)), api.replace(&name, &PostParams::default(), &object)).await {
            Ok(written) => {
                let keeper = written.status.as_ref().map(|status| status.provider);
                let vain = if keeper == Some(Provider::None) {
                    " (nobody keeps a quarantine flag for this registry: the decision has no effect until its Registry object names a provider)"
                } else {
                    ""
                };
                return done(format!("{image}: {} -> {target} by {}{vain}", words(decided_on), order.by), written.metadata.generation);
            }
            Err(failed) if failed.code == 409 => {
                object = cluster::call(&format!("get imagestatus {name}"), api.get(&name)).await?;
                if state(&object) != decided_on {
                    let refusal = format!(
                        "{image} is {} by now, and was {} when this was decided: look at it again with lazaretto quarantine show",
                        words(state(&object)),
                        words(decided_on)
                    );
                    return Err(Refusal(refusal).into());
                }
            }
            Err(failed) => return Err(refused(failed)),
        }
    }
    bail!("others keep writing {name}: try again")
}

/// Holds an image before anybody has asked for it. Nobody can be let go in advance: there is nothing yet that was judged.
async fn create(api: &Api<ImageStatus>, subject: &Subject, order: &Order) -> anyhow::Result<Done> {
    if order.state == DecisionState::Released {
        return Err(Refusal(format!(
            "nothing is known of {subject}, so there is nothing to release: it is looked up when a pod first asks for it; check the digest with lazaretto quarantine list"
        ))
        .into());
    }
    let decision =
        Decision { state: order.state, by: order.by.clone(), reason: order.reason.clone(), details: order.details.clone(), expects: None };
    let name = subject.object_name();
    let object = ImageStatus::new(&name, ImageStatusSpec { subject: subject.to_string(), quarantine: Some(decision) });
    let what = format!("{} {subject}, which nobody has asked for yet", verb(order.state));
    let written = cluster::call(&what, api.create(&PostParams::default(), &object)).await.map_err(refused)?;
    let said = format!("{subject}: -> {} by {}, before anybody asked for it", State::from(order.state), order.by);
    Ok(Done { said, name, wait_for: written.metadata.generation })
}

/// A no of the API server, its guard included, is an answer; the rest is a failure.
fn refused(failed: Failed) -> anyhow::Error {
    if matches!(failed.code, 403 | 422) { Refusal(failed.to_string()).into() } else { failed.into() }
}

fn verb(state: DecisionState) -> &'static str {
    match state {
        DecisionState::Released => "release",
        DecisionState::Quarantined => "hold",
        DecisionState::Failed => "fail",
    }
}

fn words(state: Option<State>) -> &'static str {
    state.map_or("not seen yet", State::as_str)
}

/// Met once the status answers this generation of the spec.
fn answered(generation: i64) -> impl Condition<ImageStatus> {
    move |object: Option<&ImageStatus>| {
        object.is_none_or(|object| {
            object.status.as_ref().and_then(|status| status.observed_generation).is_some_and(|observed| observed >= generation)
        })
    }
}

/// Waits until the status answers the decision, and says what it came to.
pub(super) async fn wait(
    api: &Api<ImageStatus>,
    name: &str,
    decided: DecisionState,
    generation: i64,
    patience: Duration,
) -> anyhow::Result<Exit> {
    if patience.is_zero() {
        return Ok(Exit::Done);
    }
    let target = State::from(decided);
    match tokio::time::timeout(patience, await_condition(api.clone(), name, answered(generation))).await {
        Err(_) => {
            output::note(&format!(
                "the decision is written, but Lazaretto has not answered it within {} s: is a replica leading? `lazaretto quarantine show {name}` shows what became of it",
                patience.as_secs()
            ));
            Ok(Exit::NotYet)
        }
        Ok(Err(error)) => {
            output::note(&format!("the decision is written, but its status cannot be watched: {error}"));
            Ok(Exit::NotYet)
        }
        Ok(Ok(object)) => match object.as_ref().map(state) {
            Some(Some(state)) if state == target => Ok(Exit::Done),
            Some(now) => {
                output::note(&format!(
                    "the decision was dealt with, but the image is {}: `lazaretto quarantine show {name}` says who keeps its flag, and Lazaretto's log why",
                    words(now)
                ));
                Ok(Exit::Refused)
            }
            None => bail!("the ImageStatus {name} was deleted meanwhile"),
        },
    }
}

#[cfg(test)]
mod tests;
