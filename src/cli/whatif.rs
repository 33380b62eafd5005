//! `lazaretto whatif`: what a policy or a Registry would refuse of what runs and of what templates name, before anybody applies it.
//!
//! The cluster is read, and no registry is asked: what is judged by is what Lazaretto has written down ([`crate::whatif`]).

mod gather;
mod report;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, bail};
use clap::Args;
use jiff::Timestamp;
use serde_json::Value;

use self::{
    gather::{Cluster, Named},
    report::{Bearer, Found, Report, Verdict},
};
use super::{
    Exit,
    check::world::{World, Written},
    cluster::ClusterArguments,
    input, output,
};
use crate::{
    debts::Inner,
    facts::Outcome,
    image::{Reference, Subject},
    index::Known,
    judgement::{Scope, Setting},
    origin::Rival,
    running::Pod,
    sentence,
    watch::SharedIndex,
    whatif::{Asked, Effect, Records, Stand, View, compare, judge},
};

const EXIT_CODES: &str = "Exit codes: 0 nothing more would be refused, 1 something would, 2 usage, unreadable input or a cluster that does not answer, 3 nothing is known to be, and of some it is not known.";

#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct WhatIfArguments {
    /// Policies and registries as they are to be applied, YAML or JSON, `-` for standard input; also waivers and namespaces. Each takes the place
    /// of the cluster's object of its name, and its policies are judged as if they enforced; may be repeated
    #[arg(long = "policy", short = 'f', visible_alias = "registry", value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// A namespace that is not judged, besides those that the installation excludes; may be repeated
    #[arg(long = "exclude-namespace", value_name = "NAME")]
    excluded: Vec<String>,
    /// Also list what is refused already
    #[arg(long)]
    all: bool,
    /// The form of the output
    #[arg(long, short, value_enum, default_value_t)]
    output: output::Format,
    #[command(flatten)]
    cluster: ClusterArguments,
}

pub(super) async fn run(arguments: WhatIfArguments) -> anyhow::Result<Exit> {
    // What is wrong with the files is told before the cluster is asked for anything.
    let objects = objects(&arguments.files)?;
    let changed: BTreeSet<&str> = objects.iter().filter_map(|(_, object)| policy(object)).collect();
    let mut alone = Written::default();
    take(&mut alone, &objects)?;
    world(alone)?;

    let (client, _) = arguments.cluster.connect().await?;
    let mut now = Written::from_cluster(&client).await?;
    let cluster = Cluster::read(&client, &mut now, &arguments.excluded).await?;
    let mut then = now.clone();
    take(&mut then, &objects)?;
    let (now, then) = (world(now)?, world(then)?);
    now.read_images(&client).await?;
    output::progress(&format!("judging {} pods and the templates", cluster.pods.len()));
    let report = judge_all(&cluster, &now, &then, |policy| changed.contains(policy));
    match arguments.output {
        output::Format::Json => output::print_json(&report)?,
        output::Format::Table => {
            let table = report.table(arguments.all, output::coloured());
            if !table.is_empty() {
                output::print(&table)?;
            }
            output::note(&report.summary(arguments.all));
        }
    }
    Ok(report.answer.exit())
}

fn world(written: Written) -> anyhow::Result<World> {
    World::new(written, HashMap::new(), BTreeMap::new())
}

/// The objects of the files, each with where it is from.
fn objects(files: &[PathBuf]) -> anyhow::Result<Vec<(String, Value)>> {
    if files.iter().filter(|path| *path == Path::new("-")).count() > 1 {
        bail!("only one of the inputs can be standard input");
    }
    let mut all = Vec::new();
    for path in files {
        let source = input::name(path);
        let objects = input::objects(&input::read(path, input::MANIFEST_LIMIT)?, &source)?;
        if objects.is_empty() {
            bail!("{source} is empty: there is nothing to try");
        }
        if objects.iter().any(|object| object.get("kind").and_then(Value::as_str) == Some("ImageStatus")) {
            bail!("{source}: image statuses are read from the cluster; `lazaretto check --facts` takes them from files");
        }
        all.extend(objects.into_iter().map(|object| (source.clone(), object)));
    }
    Ok(all)
}

fn take(written: &mut Written, objects: &[(String, Value)]) -> anyhow::Result<()> {
    objects.iter().try_for_each(|(source, object)| written.take(object.clone()).with_context(|| format!("cannot read {source}")))
}

/// The name of a policy.
fn policy(object: &Value) -> Option<&str> {
    let kind = object.get("kind").and_then(Value::as_str)?;
    object.pointer("/metadata/name").and_then(Value::as_str).filter(|_| kind == "QuarantinePolicy")
}

/// What is written of images, in the cluster.
struct Recorded<'a> {
    index: &'a SharedIndex,
    inner: Inner,
    /// Those of which an image was seen.
    repositories: HashSet<String>,
}

impl Records for Recorded<'_> {
    fn known(&self, subject: &Subject) -> Option<Arc<Known>> {
        self.inner.written(&self.index.read(), subject).map(|(_, known)| known)
    }

    fn stands_for(&self, image: &Reference) -> Option<Subject> {
        self.index.read().tagged(image).map(|(subject, _)| subject)
    }

    /// What was seen of a repository there is held there; that nothing was says nothing.
    fn held(&self, rival: &Rival) -> Option<Outcome<bool>> {
        let seen = |host: &String| self.repositories.contains(&format!("{host}/{}", rival.repository));
        rival.registry.hosts.iter().any(seen).then_some(Outcome::Found(true))
    }
}

fn judge_all(cluster: &Cluster, now: &World, then: &World, changed: impl Fn(&str) -> bool) -> Report {
    let mut report = Report::new(cluster.excluded.clone());
    let (inner, repositories) = {
        let index = now.index.read();
        let mut inner = Inner::wanted(&index, cluster.pods.images().filter_map(|image| image.subject.as_ref()));
        for (subject, known) in index.images() {
            inner.learn(subject, known);
        }
        let repositories = index.images().map(|(subject, _)| format!("{}/{}", subject.registry(), subject.repository())).collect();
        (inner, repositories)
    };
    let records = Recorded { index: &now.index, inner, repositories };
    let time = Timestamp::now();
    for namespace in cluster.namespaces() {
        // A namespace that was deleted meanwhile has nothing any more.
        let (Ok(before), Ok(after)) = (now.labels(&namespace), then.labels(&namespace)) else { continue };
        let was = Setting::new(&now.rules, Scope::All, &namespace, &before, time);
        let becomes = Setting::new(&then.rules, Scope::All, &namespace, &after, time);
        let judge = |asked: Asked<'_>| {
            let (was, becomes) = (judge(&was, asked, &records, time), judge(&becomes, asked, &records, time));
            found(&compare(&was.stands, &becomes.stands, &changed), becomes.subject.as_ref())
        };
        let pods = cluster.pods.pods_in(&namespace);
        let running = running(&pods);
        for template in cluster.templates_in(&namespace) {
            let images = template.images.iter().map(|Named { container, image }| {
                let running = running.get(image.as_str()).copied().flatten();
                let asked = Asked { text: image, running, namespace: &namespace, service_account: &template.service_account };
                (&**container, &**image, judge(asked))
            });
            report.add(Bearer::Template, &namespace, &template.name, images);
        }
        // Most pods of a namespace have few images and accounts among them. By where their texts stand: those are held once.
        let mut held: HashMap<(*const u8, *const u8), Arc<Found>> = HashMap::new();
        for (name, pod) in &pods {
            let containers = pod.make.containers.iter().map(|container| {
                let image = &container.image;
                (&*container.name, &*image.text, image.subject.as_ref())
            });
            let volumes = pod.make.volumes.iter().map(|reference| ("volume", &**reference, None));
            let service_account = &*pod.make.service_account;
            let images = containers.chain(volumes).map(|(container, text, running)| {
                let asked = Asked { text, running, namespace: &namespace, service_account };
                let key = (text.as_ptr(), service_account.as_ptr());
                (container, text, held.entry(key).or_insert_with(|| judge(asked)).clone())
            });
            report.add(Bearer::Pod, &namespace, &cluster.workload(name, pod), images);
        }
    }
    report.end()
}

/// What runs under each name; none where that is not one and the same.
fn running(pods: &[(Arc<str>, Arc<Pod>)]) -> HashMap<&str, Option<&Subject>> {
    let mut running: HashMap<&str, Option<&Subject>> = HashMap::new();
    for image in pods.iter().flat_map(|(_, pod)| &pod.make.containers).map(|container| &container.image) {
        let Some(subject) = &image.subject else { continue };
        let held = running.entry(&image.text).or_insert(Some(subject));
        *held = held.filter(|held| *held == subject);
    }
    running
}

/// What came of one image.
fn found(effect: &Effect<'_, '_>, subject: Option<&Subject>) -> Arc<Found> {
    let (verdict, stands): (_, &[&Stand<'_>]) = match effect {
        Effect::None => (None, &[]),
        Effect::NotKnown(stands) => (Some(Verdict::NotKnown), stands),
        Effect::Refused(stands) => (Some(Verdict::Refused), stands),
        Effect::Already(stands) => (Some(Verdict::Already), stands),
    };
    let reason = |view: &View| match view {
        View::Admits => String::new(),
        View::Refuses(why) => sentence::short(why),
        View::NotKnown(gap) => gap.to_string(),
    };
    let policies =
        stands.iter().map(|stand| report::Said { policy: stand.policy.to_owned(), mode: stand.mode, reason: reason(&stand.view) });
    Arc::new(Found { verdict, digest: subject.map(|subject| subject.digest().to_string()), policies: policies.collect() })
}
