//! `lazaretto quarantine list` and `show`.

use clap::{Args, ValueEnum};
use jiff::Timestamp;
use kube::{Client, ResourceExt as _};
use serde::Serialize;

use super::find::{self, Found};
use crate::{
    api::{Decision, ImageStatus, Provider, State, Transition},
    cli::{
        Exit, cluster,
        output::{self, Cell, Colour},
    },
    index::Known,
    sentence,
    verdict::Why,
};

#[derive(Debug, Args)]
pub(super) struct ListArguments {
    /// Only images in this state; may be repeated
    #[arg(long = "state", value_name = "STATE", value_enum, ignore_case = true)]
    states: Vec<StateName>,
    /// Images in every state
    #[arg(long, conflicts_with = "states")]
    all: bool,
    /// The form of the output
    #[arg(long, short, value_enum, default_value_t)]
    output: output::Format,
}

#[derive(Debug, Args)]
pub(super) struct ShowArguments {
    /// An image by digest (`registry/repository@sha256:...`), the name of its ImageStatus, or at least 12 digits of its digest (`sha256:...`)
    image: String,
    /// The form of the output
    #[arg(long, short, value_enum, default_value_t)]
    output: output::Format,
}

/// A [`State`] on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "PascalCase")]
enum StateName {
    Quarantined,
    Failed,
    Pending,
    Unmanaged,
    Released,
}

impl From<StateName> for State {
    fn from(name: StateName) -> Self {
        match name {
            StateName::Quarantined => Self::Quarantined,
            StateName::Failed => Self::Failed,
            StateName::Pending => Self::Pending,
            StateName::Unmanaged => Self::Unmanaged,
            StateName::Released => Self::Released,
        }
    }
}

/// One image, for programs.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry<'a> {
    image: &'a str,
    name: &'a str,
    /// None while nothing has been seen of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<State>,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<Timestamp>,
    by: &'a str,
    reason: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    details: &'a str,
    provider: Provider,
    #[serde(skip_serializing_if = "Option::is_none")]
    observed_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    decision: Option<DecisionEntry<'a>>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    history: &'a [Transition],
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct DecisionEntry<'a> {
    #[serde(flatten)]
    decision: &'a Decision,
    /// Lazaretto has answered it, whatever came of it.
    dealt_with: bool,
}

/// Whether Lazaretto has answered the decision that stands in the spec.
pub(super) fn dealt_with(object: &ImageStatus) -> bool {
    object
        .status
        .as_ref()
        .is_some_and(|status| status.observed_generation.is_some() && status.observed_generation == object.metadata.generation)
}

/// The state, once something was seen.
pub(super) fn state(object: &ImageStatus) -> Option<State> {
    object.status.as_ref().filter(|status| !status.history.is_empty()).map(|status| status.state)
}

fn entry(object: &ImageStatus, with_history: bool) -> Entry<'_> {
    let status = object.status.as_ref();
    Entry {
        image: &object.spec.subject,
        name: object.metadata.name.as_deref().unwrap_or_default(),
        state: state(object),
        since: status.and_then(|status| status.since),
        by: status.map_or("", |status| &status.by),
        reason: status.map_or("", |status| &status.reason),
        details: status.map_or("", |status| &status.details),
        provider: status.map_or(Provider::None, |status| status.provider),
        observed_at: status.and_then(|status| status.observed_at),
        decision: object.spec.quarantine.as_ref().map(|decision| DecisionEntry { decision, dealt_with: dealt_with(object) }),
        history: status.filter(|_| with_history).map_or(&[], |status| &status.history),
    }
}

pub(super) async fn list(client: &Client, arguments: &ListArguments) -> anyhow::Result<Exit> {
    let mut all = cluster::list::<ImageStatus>(client).await?;
    let states: Vec<State> = arguments.states.iter().copied().map(State::from).collect();
    let known = all.len();
    all.retain(|object| arguments.all || wanted(state(object), &states));
    // The longest held first.
    all.sort_by_key(|object| (object.status.as_ref().and_then(|status| status.since), object.name_any()));
    match arguments.output {
        output::Format::Json => {
            let images: Vec<Entry<'_>> = all.iter().map(|object| entry(object, false)).collect();
            output::print_json(&serde_json::json!({ "images": images }))?;
        }
        output::Format::Table if all.is_empty() => {
            output::note(&format!("no image is in such a state; {known} are known, and --all shows them"));
        }
        output::Format::Table => output::print(&list_table(&all, output::coloured()))?,
    }
    Ok(Exit::Done)
}

/// By default what is held back, and what nothing was seen of yet.
fn wanted(state: Option<State>, states: &[State]) -> bool {
    match state {
        None => states.is_empty(),
        Some(state) if states.is_empty() => matches!(state, State::Quarantined | State::Failed | State::Pending),
        Some(state) => states.contains(&state),
    }
}

fn list_table(all: &[ImageStatus], coloured: bool) -> String {
    let rows: Vec<Vec<Cell>> = all
        .iter()
        .map(|object| {
            let entry = entry(object, false);
            vec![entry.image.into(), cell(entry.state), second(entry.since).as_str().into(), entry.by.into(), entry.reason.into()]
        })
        .collect();
    output::table(&["IMAGE", "STATE", "SINCE", "BY", "REASON"], &rows, coloured)
}

fn cell(state: Option<State>) -> Cell {
    let colour = match state {
        Some(State::Released) => Colour::Green,
        Some(State::Quarantined | State::Failed) => Colour::Red,
        Some(State::Pending | State::Unmanaged) | None => Colour::Yellow,
    };
    Cell::new(state.map_or("", State::as_str), colour)
}

fn second(time: Option<Timestamp>) -> String {
    time.map_or_else(String::new, |time| format!("{time:.0}"))
}

pub(super) async fn show(client: &Client, arguments: &ShowArguments) -> anyhow::Result<Exit> {
    let object = match find::find(client, &arguments.image).await? {
        Found::Object(object) => object,
        Found::Nothing(subject) => anyhow::bail!(
            "nothing is known of {subject}: it is looked up when a pod first asks for it. To hold it now: lazaretto quarantine hold {subject} --reason TEXT"
        ),
    };
    match arguments.output {
        output::Format::Json => output::print_json(&entry(&object, true))?,
        output::Format::Table => output::print(&page(&object, output::coloured()))?,
    }
    Ok(Exit::Done)
}

/// Everything about one image, for people.
fn page(object: &ImageStatus, coloured: bool) -> String {
    let entry = entry(object, true);
    let mut rows: Vec<Vec<Cell>> = Vec::new();
    let mut row = |name: &str, value: Cell| rows.push(vec![name.into(), value]);
    row("Image", entry.image.into());
    row("State", cell(entry.state));
    row("Since", second(entry.since).as_str().into());
    row("By", entry.by.into());
    row("Reason", entry.reason.into());
    if !entry.details.is_empty() {
        row("Details", entry.details.into());
    }
    row("Kept by", keeper(entry.provider).into());
    row("Seen", second(entry.observed_at).as_str().into());
    if let Some(DecisionEntry { decision, dealt_with }) = &entry.decision {
        let end = if *dealt_with { "dealt with" } else { "not dealt with yet" };
        let text = format!("{:?} by {} ({}), {end}", decision.state, decision.by, decision.reason);
        row("Decision", text.as_str().into());
    }
    row("Object", format!("imagestatus/{}", entry.name).as_str().into());
    let mut text = output::table(&[], &rows, coloured);
    if !entry.history.is_empty() {
        let rows: Vec<Vec<Cell>> = entry
            .history
            .iter()
            .map(|transition| {
                vec![
                    transition.number.to_string().as_str().into(),
                    second(Some(transition.at)).as_str().into(),
                    cell(Some(transition.state)),
                    transition.by.as_str().into(),
                    transition.reason.as_str().into(),
                ]
            })
            .collect();
        text += "\n";
        text += &output::table(&["NUMBER", "AT", "STATE", "BY", "REASON"], &rows, coloured);
    }
    text + "\n" + &next(object) + "\n"
}

fn keeper(provider: Provider) -> &'static str {
    match provider {
        Provider::Managed => "Lazaretto",
        Provider::AzureContainerRegistry => "Azure Container Registry",
        Provider::None => "nobody",
    }
}

/// What a person can do about it.
fn next(object: &ImageStatus) -> String {
    let name = &object.spec.subject;
    let known = Known::read(object, Timestamp::UNIX_EPOCH);
    if object.spec.quarantine.is_some() && !dealt_with(object) {
        return "Next: the decision waits for Lazaretto to carry it out, which takes a second or so while a replica leads.".to_owned();
    }
    match (state(object), known) {
        (None, _) => "Next: nothing; it is looked at when a pod asks for it.".to_owned(),
        (Some(State::Quarantined | State::Failed), Some((subject, known))) => {
            format!("Next: {}", sentence::reason(&Why::Held(known.facts), Some(&subject)))
        }
        (Some(State::Pending), _) => "Next: wait; the registry is still analysing it.".to_owned(),
        (Some(State::Unmanaged), _) => {
            "Next: nothing can be decided, since nobody keeps a quarantine flag for this registry: set spec.quarantine.provider of its Registry object.".to_owned()
        }
        (Some(_), _) => format!("Next: to take it back, lazaretto quarantine hold {name} --reason TEXT"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{DecisionState, ImageStatusSpec, ImageStatusStatus};

    fn object(state: State) -> ImageStatus {
        let subject = format!("registry.corp/app@sha256:{}", "a".repeat(64));
        let mut object = ImageStatus::new("0123-app", ImageStatusSpec { subject, quarantine: None });
        object.metadata.generation = Some(1);
        let at = Timestamp::from_second(1_767_225_600).unwrap();
        object.status = Some(ImageStatusStatus {
            observed_generation: Some(1),
            state,
            since: Some(at),
            by: "lazaretto".into(),
            reason: "new".into(),
            provider: Provider::Managed,
            observed_at: Some(at),
            history: vec![Transition { number: 1, at, state, by: "lazaretto".into(), reason: "new".into() }],
            ..ImageStatusStatus::default()
        });
        object
    }

    #[test]
    fn the_list_shows_what_is_held_unless_asked_otherwise() {
        let shown = |states: &[State]| {
            let all =
                [None, Some(State::Released), Some(State::Unmanaged), Some(State::Pending), Some(State::Quarantined), Some(State::Failed)];
            all.into_iter().filter(|state| wanted(*state, states)).collect::<Vec<_>>()
        };
        assert_eq!(shown(&[]), [None, Some(State::Pending), Some(State::Quarantined), Some(State::Failed)]);
        assert_eq!(shown(&[State::Released]), [Some(State::Released)]);
    }

    #[test]
    fn the_list_is_a_table() {
        let text = list_table(&[object(State::Quarantined)], false);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0].split_whitespace().collect::<Vec<_>>(), ["IMAGE", "STATE", "SINCE", "BY", "REASON"]);
        assert!(lines[1].ends_with("   Quarantined   2026-01-01T00:00:00Z   lazaretto   new"), "{text}");
    }

    #[test]
    fn the_page_tells_the_history_and_what_to_do() {
        let text = page(&object(State::Quarantined), false);
        assert!(text.contains("State     Quarantined\n"), "{text}");
        assert!(text.contains("1        2026-01-01T00:00:00Z   Quarantined   lazaretto   new\n"), "{text}");
        assert!(text.contains("Next: in quarantine since 2026-01-01T00:00:00Z by lazaretto (new). Whoever has the role lazaretto-releaser may release it: lazaretto quarantine release registry.corp/app@sha256:"), "{text}");
        let text = page(&object(State::Released), false);
        assert!(text.contains("Next: to take it back, lazaretto quarantine hold registry.corp/app@sha256:"), "{text}");
    }

    #[test]
    fn a_decision_that_waits_is_shown_to_wait() {
        let mut object = object(State::Quarantined);
        object.metadata.generation = Some(2);
        object.spec.quarantine =
            Some(Decision { state: DecisionState::Released, by: "alice".into(), reason: "scanned".into(), details: None, expects: None });
        let text = page(&object, false);
        assert!(text.contains("Released by alice (scanned), not dealt with yet\n"), "{text}");
        assert!(text.contains("Next: the decision waits for Lazaretto to carry it out"), "{text}");
        let json = serde_json::to_value(entry(&object, false)).unwrap();
        assert_eq!(json["decision"]["dealtWith"], false);
        assert_eq!(json["decision"]["by"], "alice");
    }
}
