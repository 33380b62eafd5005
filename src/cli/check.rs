//! `lazaretto check`: what admission would say of a manifest or an image, before anybody applies it.
//!
//! The same pure core decides as in admission: [`crate::index`], [`crate::judgement`], [`crate::verdict`], and [`crate::lookups`]
//! where registries are asked. What differs is only where knowledge comes from ([`world`], [`hand`]): what is not known here is "not
//! known", never "unknown to the cluster", so that no policy opens on the ignorance of a pipeline.

pub(super) mod hand;
mod manifest;
mod report;
pub(super) mod world;

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use clap::Args;
use jiff::Timestamp;
use kube::Client;

use self::{
    hand::{Asking, Hand},
    manifest::{Bearer, Skipped},
    report::{Judged, Report, Verdict},
    world::{World, Written},
};
use super::{Exit, cluster::ClusterArguments, input, output};
use crate::{
    access::Demand,
    api::ShortDuration,
    image::{Digest, Reference},
    judgement::{FieldPath, Scope, Setting, Spoken},
    keyring::Keyring,
    pod::MOST_IMAGES,
    verdict::Sight,
};

const EXIT_CODES: &str = "Exit codes: 0 admitted, 1 refused, 2 usage or unreadable input, 3 not known yet.";

#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct CheckArguments {
    /// Manifests with pods or workloads, YAML or JSON; `-` for standard input
    #[arg(value_name = "MANIFEST", required_unless_present = "images")]
    manifests: Vec<PathBuf>,
    /// An image to judge by itself; may be repeated
    #[arg(long = "image", value_name = "REF")]
    images: Vec<String>,

    /// Policies, registries, waivers and namespaces, YAML or JSON; over the cluster's with --cluster; may be repeated
    #[arg(long = "policy", value_name = "FILE", help_heading = "What is known")]
    policies: Vec<PathBuf>,
    /// Image statuses, as `kubectl get imagestatuses -o yaml` prints them; believed at any age; may be repeated
    #[arg(long = "facts", value_name = "FILE", help_heading = "What is known")]
    facts: Vec<PathBuf>,
    /// The digest that a tag stands for; may be repeated
    #[arg(long = "tag", value_name = "NAME:TAG=DIGEST", value_parser = tag, help_heading = "What is known")]
    tags: Vec<(Reference, Digest)>,
    /// Read policies, registries, waivers, namespaces and image statuses from the cluster of the kubeconfig
    #[arg(long, help_heading = "What is known")]
    cluster: bool,
    #[command(flatten)]
    of_cluster: ClusterArguments,

    /// Ask the registries for what is missing
    #[arg(long, help_heading = "Registries")]
    registries: bool,
    /// A Docker configuration with credentials for them
    #[arg(long, value_name = "FILE", requires = "registries", help_heading = "Registries")]
    docker_config: Option<PathBuf>,
    /// The credentials of `docker login`: $DOCKER_CONFIG/config.json, or that in ~/.docker
    #[arg(long, requires = "registries", conflicts_with = "docker_config", help_heading = "Registries")]
    docker_login: bool,
    /// How long registries may take, all together
    #[arg(long, value_name = "DURATION", default_value = "30s", help_heading = "Registries")]
    timeout: ShortDuration,

    /// The namespace, whatever the manifest says
    #[arg(long, short, value_name = "NAME", help_heading = "Judged as")]
    namespace: Option<String>,
    /// A label of the namespace; may be repeated
    #[arg(long = "namespace-label", value_name = "KEY=VALUE", value_parser = label, help_heading = "Judged as")]
    namespace_labels: Vec<(String, String)>,
    /// The ServiceAccount, whatever the manifest says
    #[arg(long, value_name = "NAME", help_heading = "Judged as")]
    service_account: Option<String>,
    /// Policies in mode Warn refuse as well
    #[arg(long, help_heading = "Judged as")]
    strict: bool,

    /// The form of the output
    #[arg(long, short, value_enum, default_value_t)]
    output: output::Format,
}

fn tag(text: &str) -> Result<(Reference, Digest), String> {
    let (name, digest) = text.split_once('=').ok_or("write it NAME:TAG=sha256:...")?;
    let reference = Reference::parse(name).map_err(|error| error.to_string())?;
    if reference.digest().is_some() {
        return Err("the name has a digest already".to_owned());
    }
    Ok((reference, digest.parse().map_err(|error: crate::image::DigestError| error.to_string())?))
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').filter(|(key, _)| !key.is_empty()).ok_or("write it KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// One object, with its images and the policies that speak of them.
struct Case<'a> {
    subject: &'a Subject,
    judged: Result<(Setting<'a>, Vec<Spoken<'a>>), (Verdict, String)>,
}

/// One object before anything is known of policies.
struct Subject {
    kind: String,
    name: String,
    namespace: String,
    service_account: String,
    /// Path and reference.
    images: Vec<(String, String)>,
}

pub(super) async fn run(arguments: CheckArguments) -> anyhow::Result<Exit> {
    let stdin = arguments.manifests.iter().chain(&arguments.policies).chain(&arguments.facts).filter(|path| *path == Path::new("-"));
    if stdin.count() > 1 {
        bail!("only one of the inputs can be standard input");
    }
    if arguments.of_cluster.context.is_some() && !arguments.cluster {
        bail!("--context names a cluster: give --cluster as well");
    }
    let (client, own_namespace) = if arguments.cluster {
        let (client, namespace) = arguments.of_cluster.connect().await?;
        (Some(client), namespace)
    } else {
        (None, "default".to_owned())
    };
    let (subjects, skipped) = subjects(&arguments, &own_namespace)?;
    let mut world = world(&arguments, client.as_ref()).await?;
    if let Some(client) = &client {
        for subject in &subjects {
            world.read_namespace(client, &subject.namespace).await?;
        }
    }
    let cases: Vec<Case<'_>> = subjects.iter().map(|subject| case(subject, &world)).collect();
    let hands = hands(&arguments, &cases, &world, client.as_ref()).await?;
    let objects: Vec<Judged> = cases.into_iter().map(|case| judge(case, &world, &hands, arguments.strict)).collect();
    let report = Report { answer: objects.iter().map(|object| object.answer).max().unwrap_or(Verdict::Admit), objects, skipped };
    match arguments.output {
        output::Format::Json => output::print_json(&report)?,
        output::Format::Table => {
            output::print(&report.table(output::coloured()))?;
            if !report.skipped.is_empty() {
                let names: Vec<String> = report.skipped.iter().map(|skipped| format!("{} {}", skipped.kind, skipped.name)).collect();
                output::note(&format!("not judged, since no pod is known in it: {}", names.join(", ")));
            }
        }
    }
    Ok(report.answer.exit())
}

/// What is to be judged, from the manifests and the command line.
fn subjects(arguments: &CheckArguments, own_namespace: &str) -> anyhow::Result<(Vec<Subject>, Vec<Skipped>)> {
    let namespace = |named: Option<&str>| arguments.namespace.as_deref().or(named).unwrap_or(own_namespace).to_owned();
    let service_account = |named: Option<&str>| {
        let named = named.filter(|name| !name.is_empty());
        arguments.service_account.as_deref().or(named).unwrap_or("default").to_owned()
    };
    let (mut subjects, mut skipped) = (Vec::new(), Vec::new());
    for path in &arguments.manifests {
        let source = input::name(path);
        let objects = input::objects(&input::read(path, input::MANIFEST_LIMIT)?, &source)?;
        if objects.is_empty() {
            bail!("{source} is empty: there is nothing to judge");
        }
        for object in objects {
            let bearer: Bearer = match manifest::sort(&object).with_context(|| format!("cannot read {source}"))? {
                Ok(bearer) => bearer,
                Err(other) => {
                    skipped.push(other);
                    continue;
                }
            };
            let pod = bearer.pod().with_context(|| format!("cannot read {source}"))?.unwrap_or_default();
            subjects.push(Subject {
                images: pod.images().map(|named| (named.path(), named.image.to_owned())).collect(),
                namespace: namespace(bearer.namespace.as_deref()),
                service_account: service_account(pod.spec.service_account_name.as_deref()),
                kind: bearer.kind.clone(),
                name: bearer.name.clone(),
            });
        }
    }
    subjects.extend(arguments.images.iter().map(|image| Subject {
        kind: "Image".to_owned(),
        name: image.clone(),
        namespace: namespace(None),
        service_account: service_account(None),
        images: vec![("image".to_owned(), image.clone())],
    }));
    Ok((subjects, skipped))
}

/// What is known before anybody is asked.
async fn world(arguments: &CheckArguments, client: Option<&Client>) -> anyhow::Result<World> {
    let mut written = match client {
        Some(client) => Written::from_cluster(client).await?,
        None => Written::default(),
    };
    let files = arguments.policies.iter().map(|path| (path, input::MANIFEST_LIMIT));
    for (path, limit) in files.chain(arguments.facts.iter().map(|path| (path, input::FACTS_LIMIT))) {
        let source = input::name(path);
        for object in input::objects(&input::read(path, limit)?, &source)? {
            written.take(object).with_context(|| format!("cannot read {source}"))?;
        }
    }
    if client.is_none() && !written.has_policies() {
        bail!("there is no policy to judge by: give --policy FILE or --cluster");
    }
    let mut tags = HashMap::new();
    for (reference, digest) in &arguments.tags {
        if tags.insert(reference.clone(), digest.clone()).is_some_and(|before| before != *digest) {
            bail!("--tag says two things of {reference}");
        }
    }
    World::new(written, tags, arguments.namespace_labels.iter().cloned().collect::<BTreeMap<_, _>>())
}

/// Finds the policies that speak of each image of an object.
fn case<'a>(subject: &'a Subject, world: &'a World) -> Case<'a> {
    let judged = if subject.images.len() > MOST_IMAGES {
        let why = format!("it names {} images; at most {MOST_IMAGES} can be judged at once", subject.images.len());
        Err((Verdict::Refuse, why))
    } else {
        world.labels(&subject.namespace).map_err(|why| (Verdict::Later, why)).map(|labels| {
            let setting = Setting::new(&world.rules, Scope::All, &subject.namespace, &labels, Timestamp::now());
            let setting = setting.of_account(&subject.service_account);
            let spoken = subject.images.iter().map(|(path, text)| setting.spoken(FieldPath::Text(path), text)).collect();
            (setting, spoken)
        })
    };
    Case { subject, judged }
}

/// What is at hand about the images of which some policy needs to know more than the name.
async fn hands(
    arguments: &CheckArguments,
    cases: &[Case<'_>],
    world: &World,
    client: Option<&Client>,
) -> anyhow::Result<HashMap<Reference, Hand>> {
    let judged = cases.iter().filter_map(|case| case.judged.as_ref().ok());
    let mut wanted: BTreeMap<Reference, Demand> = BTreeMap::new();
    for want in judged.flat_map(|(_, spoken)| Spoken::wanted(spoken)) {
        // What is asked of one pod may not be asked of another; whoever need not prove it is not judged by the proof.
        let held = wanted.entry(want.image.clone()).or_default();
        *held = want.demand.max(*held);
    }
    if wanted.is_empty() {
        return Ok(HashMap::new());
    }
    if let Some(client) = client {
        world.read_images(client).await?;
    }
    let keyring = match (&arguments.docker_config, arguments.docker_login) {
        (Some(path), _) => hand::docker_config(path)?,
        (None, true) => hand::docker_config(&docker_login()?)?,
        (None, false) => Keyring::default(),
    };
    let asking = arguments.registries.then(|| Asking::new(world, keyring, arguments.timeout.get())).transpose()?;
    Ok(hand::gather(wanted, world, asking.as_ref(), client.is_some()).await)
}

/// Where `docker login` leaves credentials.
pub(super) fn docker_login() -> anyhow::Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let directory = set("DOCKER_CONFIG").or_else(|| Some(set("HOME")?.join(".docker")));
    Ok(directory.context("neither DOCKER_CONFIG nor HOME is set: give --docker-config FILE")?.join("config.json"))
}

/// Lets the pure core judge one object.
fn judge(case: Case<'_>, world: &World, hands: &HashMap<Reference, Hand>, strict: bool) -> Judged {
    let Subject { kind, name, namespace, service_account, .. } = case.subject;
    let judged =
        |answer, reason, images| Judged { kind: kind.clone(), name: name.clone(), namespace: namespace.clone(), answer, reason, images };
    let (setting, spoken) = match case.judged {
        Ok(judged) => judged,
        Err((answer, why)) => return judged(answer, Some(why), Vec::new()),
    };
    let sight = |image: &Reference| {
        let processor = world.rules.registry_of(image).is_some_and(|registry| registry.is_processor(namespace, service_account));
        Some((image.clone(), Sight { processor, ..hands.get(image)?.sight.clone() }))
    };
    let sights: HashMap<Reference, Sight> = spoken.iter().filter_map(|spoken| sight(spoken.subjected.image.as_ref().ok()?)).collect();
    let setting = setting.at(Timestamp::now());
    let considered = setting.consider_all(spoken, |image| sights.get(image));
    let answer = report::answer(&considered, strict);
    let images = considered.iter().map(|considered| report::image(considered, hands)).collect();
    judged(answer, None, images)
}
