//! An image at its registry against what policies and Registries in files want to have proven of it.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use anyhow::{Context as _, bail};
use clap::Args;
use jiff::Timestamp;
use serde::Serialize;

use crate::{
    api::{Evidence, Requirement, ShortDuration},
    cli::{
        Exit,
        check::{
            docker_login,
            hand::{Asking, docker_config},
            world::{World, Written},
        },
        input,
        output::{self, Cell, Colour},
    },
    facts::Outcome,
    image::{Reference, Subject},
    keyring::Keyring,
    proof::{NoExceptions, Proof, Unproven, platforms},
    sentence,
    verdict::outcome_why,
};

#[derive(Debug, Args)]
pub(super) struct ImageArguments {
    /// The image, by tag or digest
    #[arg(value_name = "IMAGE", requires = "policies")]
    pub(super) image: Option<String>,
    /// Policies and Registries, YAML or JSON, with what has to be proven; may be repeated
    #[arg(long = "policy", value_name = "FILE", requires = "image", help_heading = "An image")]
    policies: Vec<PathBuf>,
    /// The platform of a node, such as linux/amd64, for which the images of an index have to be proven; may be repeated. All, if left out
    #[arg(long = "platform", value_name = "OS/ARCH", value_parser = platform, requires = "image", help_heading = "An image")]
    platforms: Vec<String>,
    /// A Docker configuration with credentials for the registry
    #[arg(long, value_name = "FILE", requires = "image", help_heading = "An image")]
    docker_config: Option<PathBuf>,
    /// The credentials of `docker login`
    #[arg(long, requires = "image", conflicts_with = "docker_config", help_heading = "An image")]
    docker_login: bool,
    /// How long the registry may take
    #[arg(long, value_name = "DURATION", default_value = "30s", help_heading = "An image")]
    timeout: ShortDuration,
}

fn platform(text: &str) -> Result<String, String> {
    platforms::of_node(&platforms::labels(text))
        .ok_or_else(|| "give an operating system and an architecture, such as linux/arm64".to_owned())
}

/// What one policy or Registry wants, and what came of it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Check {
    #[serde(rename = "for")]
    by: String,
    requirement: Requirement,
    result: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    detail: String,
    /// What came of it for each image of an index, where the index itself does not do.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    platforms: Vec<Image>,
}

/// What came of a requirement for one image of an index.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Image {
    platform: String,
    result: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    detail: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    image: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<String>,
    verified: bool,
    /// Why nothing is known, where nothing is.
    #[serde(skip_serializing_if = "Option::is_none")]
    unknown: Option<String>,
    checks: Vec<Check>,
    #[serde(skip_serializing_if = "Option::is_none")]
    evidence: Option<Arc<Evidence>>,
}

pub(super) async fn run(image: &str, arguments: &ImageArguments, format: output::Format) -> anyhow::Result<Exit> {
    let reference = Reference::parse(image).with_context(|| format!("cannot read the image {image}"))?;
    let mut written = Written::default();
    for path in &arguments.policies {
        let (name, text) = (input::name(path), input::read(path, input::MANIFEST_LIMIT)?);
        for object in input::objects(&text, &name)? {
            written.take(object).with_context(|| format!("cannot read {name}"))?;
        }
    }
    for platform in &arguments.platforms {
        written.run_on(platform);
    }
    let world = World::new(written, std::collections::HashMap::new(), BTreeMap::new())?;
    let wanted = wanted(&world, &reference);
    if wanted.is_empty() {
        bail!("nothing in these files asks for a signature, an SBOM or a report of {}", reference.name());
    }
    if let Some((by, source)) = wanted.iter().find_map(|(by, proof)| Some((by, proof.missing_root()?))) {
        bail!("{by} goes by the trusted root in {source}: give it as a ConfigMap of that name in --policy");
    }
    let keyring = match (&arguments.docker_config, arguments.docker_login) {
        (Some(path), _) => docker_config(path)?,
        (None, true) => docker_config(&docker_login()?)?,
        (None, false) => Keyring::default(),
    };
    let proofs: Vec<&Proof> = wanted.iter().map(|(_, proof)| *proof).collect();
    let (subject, outcome) = Asking::new(&world, keyring, arguments.timeout.get())?.prove(&reference, &world, &proofs).await;
    let report = report(image, subject, &wanted, &outcome);
    match format {
        output::Format::Json => output::print_json(&report)?,
        output::Format::Table => {
            output::print(&output::table(&["FOR", "REQUIREMENT", "RESULT", "DETAIL"], &rows(&report), output::coloured()))?;
            if let Some(why) = &report.unknown {
                output::note(why);
            }
        }
    }
    Ok(match &outcome {
        Outcome::Found(_) if report.verified => Exit::Done,
        Outcome::Found(_) => Exit::Refused,
        _ => Exit::NotYet,
    })
}

/// Everything that wants something proven of an image of this name.
fn wanted<'w>(world: &'w World, image: &Reference) -> Vec<(String, &'w Proof)> {
    let policies = world.rules.policies.values().filter(|policy| policy.proof.is_asked() && policy.matches_image(image.name()));
    let mut wanted: Vec<(String, &Proof)> = policies.map(|policy| (format!("policy {}", policy.name), &*policy.proof)).collect();
    if let Some(registry) = world.rules.registry_of(image)
        && let Some(release) = &registry.release
    {
        wanted.push((format!("registry {}", registry.name), release));
    }
    wanted
}

fn report(image: &str, subject: Option<Subject>, wanted: &[(String, &Proof)], outcome: &Outcome<Arc<Evidence>>) -> Report {
    let evidence = match outcome {
        Outcome::Found(evidence) => Some(evidence),
        _ => None,
    };
    let now = Timestamp::now();
    let mut checks = Vec::new();
    for (by, proof) in wanted {
        for requirement in proof.requirements() {
            let (result, detail) = told(evidence.map(|evidence| proof.end(requirement, evidence, &NoExceptions, now)));
            let inside = evidence.map(|evidence| proof.inside(requirement, evidence, &NoExceptions, now)).unwrap_or_default();
            let image = |(platform, end): (&str, _)| {
                let (result, detail) = told(Some(end));
                Image { platform: platform.to_owned(), result, detail }
            };
            let platforms = inside.into_iter().map(image).collect();
            checks.push(Check { by: by.clone(), requirement, result, detail, platforms });
        }
    }
    Report {
        image: image.to_owned(),
        subject: subject.map(|subject| subject.to_string()),
        verified: evidence.is_some() && checks.iter().all(|check| check.result == "Passed"),
        unknown: evidence.is_none().then(|| sentence::reason(&outcome_why(outcome), None)),
        checks,
        evidence: evidence.cloned(),
    }
}

/// The word for an end, and why.
fn told(end: Option<Result<(), Unproven>>) -> (&'static str, String) {
    match end {
        None => ("Unknown", String::new()),
        Some(Ok(())) => ("Passed", String::new()),
        Some(Err(unproven)) => ("Failed", unproven.to_string()),
    }
}

fn rows(report: &Report) -> Vec<Vec<Cell>> {
    let row = |first: &str, second: String, result: &'static str, detail: &str| {
        let colour = match result {
            "Passed" => Colour::Green,
            "Failed" => Colour::Red,
            _ => Colour::Yellow,
        };
        vec![first.into(), second.as_str().into(), Cell::new(result, colour), detail.into()]
    };
    let rows = |check: &Check| {
        // Each image says why by itself.
        let detail = if check.platforms.is_empty() { &*check.detail } else { "" };
        let mut rows = vec![row(&check.by, check.requirement.as_str().to_owned(), check.result, detail)];
        rows.extend(check.platforms.iter().map(|image| row("", format!("  {}", image.platform), image.result, &image.detail)));
        rows
    };
    report.checks.iter().flat_map(rows).collect()
}
