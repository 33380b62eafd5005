//! Judges a review: reads it, finds out what is at hand, lets the pure core decide, and says it.

mod meanwhile;

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client};
use tokio::time::Instant;

use self::meanwhile::{ByNow, Looked, consider_anew, meanwhile, sight_in};
use crate::{
    access::Demand,
    audit::{Admission, Desk},
    facts::Outcome,
    history::clip,
    image::Reference,
    index::Rules,
    judgement::{self, Answer, Considered, FieldPath, Judgement, Scope, Setting, Spoken, Want},
    line::Class,
    lookups::{Access, Asker, Lookups, NoAccess},
    metrics::{Metrics, Phase, PhaseLabels, ReviewLabels},
    origin::{self, Origin, Rival},
    pod::{self, MOST_IMAGES, Named, Pod},
    policy::RegistryEntry,
    review::{Request, Response},
    verdict::{Basis, Sight},
    wallet::{Wallet, anonymous},
    watch::SharedIndex,
    writer::{CallError, bounded},
};

/// Characters of what an audit line says about a request, each: the API server's names are no longer, and others may reach the port.
const MOST_OF_A_FIELD: usize = 512;

/// What judges reviews.
pub struct Gate {
    /// Everything that is known by watching.
    pub index: SharedIndex,
    /// Asks for what is not.
    pub lookups: Arc<Lookups>,
    /// Credentials for registries.
    pub wallet: Arc<Wallet>,
    /// Reads a namespace that the index does not hold. Without it, an unknown namespace has no labels.
    pub client: Option<Client>,
    /// Namespaces that are never judged.
    pub excluded: HashSet<String>,
    /// Where admissions are written down that were not a plain yes.
    pub audit: Desk,
    /// The metrics.
    pub metrics: Metrics,
}

/// The pod whose images are judged.
struct Bearer<'a> {
    namespace: &'a str,
    service_account: &'a str,
    pull_secrets: Vec<&'a str>,
}

impl<'a> Bearer<'a> {
    fn of(pod: &'a Pod<'a>, namespace: &'a str) -> Self {
        let secrets = pod.spec.image_pull_secrets.iter().flatten().filter_map(|secret| secret.name.as_deref());
        Self {
            namespace,
            service_account: pod.spec.service_account_name.as_deref().filter(|name| !name.is_empty()).unwrap_or("default"),
            pull_secrets: secrets.take(16).collect(),
        }
    }

    fn is_processor(&self, registry: Option<&Arc<RegistryEntry>>) -> bool {
        registry.is_some_and(|registry| registry.is_processor(self.namespace, self.service_account))
    }
}

/// What is asked about all images of a pod alike.
#[derive(Clone, Copy)]
struct Question<'a> {
    bearer: &'a Bearer<'a>,
    deadline: Instant,
    record: bool,
    inside: bool,
}

/// The labels of a namespace.
type Labels = Arc<BTreeMap<String, String>>;

/// A request whose pods are read, as far as they can be.
type PodRequest<'a> = Request<'a, Result<Pod<'a>, String>>;

/// The images of which some policy speaks, with what can be said of their names.
fn spoken<'a>(setting: &Setting<'a>, named: &[Named<'a>]) -> Vec<Spoken<'a>> {
    let spoken = named.iter().map(|named| setting.spoken(FieldPath::Pod(*named), named.image));
    spoken.filter(|spoken| !spoken.is_unspoken()).collect()
}

/// Whether it takes a namespace's labels to know what these rules say there.
fn asks_labels(rules: &Rules, scope: Scope) -> bool {
    let mut policies = rules.policies.values().filter(|policy| scope.holds(policy.mode));
    rules.asks_labels() || policies.any(|policy| !policy.matches_every_namespace())
}

impl Gate {
    /// Answers a review of a pod, before `deadline`.
    pub async fn review(&self, request: &PodRequest<'_>, scope: Scope, deadline: Instant) -> Response {
        let started = Instant::now();
        let response = self.answer(request, scope, deadline).await;
        let phase = PhaseLabels { phase: Phase::Total };
        self.metrics.review_duration.get_or_create(&phase).observe(started.elapsed().as_secs_f64());
        response
    }

    async fn answer(&self, request: &PodRequest<'_>, scope: Scope, deadline: Instant) -> Response {
        let uid = request.uid.as_ref();
        let namespace = request.namespace.as_deref().unwrap_or_default();
        let judged = matches!(request.operation.as_ref(), "CREATE" | "UPDATE")
            && request.kind.kind == "Pod"
            && request.kind.group.is_empty()
            && matches!(request.sub_resource.as_deref(), None | Some("" | "ephemeralcontainers"));
        if !judged || self.excluded.contains(namespace) {
            return Response::allow(uid);
        }
        let pod = match &request.object {
            Some(Ok(pod)) => pod,
            Some(Err(error)) => return self.unreadable(uid, &format!("cannot read the pod: {error}")),
            None => return self.unreadable(uid, "the request has no object"),
        };
        let old = match &request.old_object {
            Some(Ok(old)) => Some(old),
            Some(Err(error)) => return self.unreadable(uid, &format!("cannot read the pod as it was: {error}")),
            None => None,
        };
        if pod.is_mirror_by(&request.user_info.username, &request.user_info.groups) {
            return plain(uid, Basis::MirrorPod);
        }
        let named: Vec<Named<'_>> = match old {
            Some(old) if request.operation == "UPDATE" => pod.new_images(old),
            _ => pod.images().collect(),
        };
        if named.is_empty() {
            return plain(uid, Basis::NothingNew);
        }
        let (rules, labels) = match self.rules_there(namespace, scope, deadline).await {
            Ok(there) => there,
            Err(why) => return Response::later(uid, why, 2),
        };
        let begun = Timestamp::now();
        let bearer = Bearer::of(pod, namespace);
        let setting_at = |rules, labels: &Option<Labels>, now| {
            let none = BTreeMap::new();
            Setting::new(rules, scope, namespace, labels.as_deref().unwrap_or(&none), now).of_account(bearer.service_account)
        };
        let setting = setting_at(&rules, &labels, begun);
        let spoken = spoken(&setting, &named);
        if spoken.is_empty() {
            return plain(uid, Basis::NoPolicy);
        }
        if spoken.len() > MOST_IMAGES {
            return Response::refuse(uid, format!("the pod names {} images; at most {MOST_IMAGES} can be judged at once", spoken.len()));
        }
        let dry_run = request.dry_run.unwrap_or_default();
        let wanted = Spoken::wanted(&spoken);
        let question = Question { bearer: &bearer, deadline, record: !dry_run, inside: setting.denies_digests() };
        let (sights, waited) = self.sights(&wanted, &question).await;
        let looked = |(want, sight): (Want<'_, '_>, Sight)| Looked { image: want.image.clone(), demand: want.demand, sight };
        let mut looked: Vec<Looked> = wanted.into_iter().zip(sights).map(looked).collect();
        let by_now = waited.then(|| meanwhile(&self.index.read(), namespace, begun, &mut looked));
        let same = |by_now: &ByNow| {
            let labels = by_now.labels.is_none() || labels.is_none() || by_now.labels == labels;
            labels && Arc::ptr_eq(&rules, &by_now.rules) && setting.holds_until(by_now.now)
        };
        let mut judgement = match by_now {
            Some(by_now) if !same(&by_now) => {
                let changed = || Response::later(uid, "policies or registries changed while this pod was judged: try again".to_owned(), 1);
                let labels = by_now.labels.or(labels);
                if labels.is_none() && self.client.is_some() && asks_labels(&by_now.rules, scope) {
                    return changed();
                }
                let setting = setting_at(&by_now.rules, &labels, by_now.now);
                match consider_anew(&rules, (&by_now.rules, &setting), &bearer, &named, &looked) {
                    None => return changed(),
                    Some(considered) if considered.is_empty() => return plain(uid, Basis::NoPolicy),
                    Some(considered) => judgement::conclude(&considered),
                }
            }
            by_now => {
                let now = by_now.map_or(begun, |by_now| by_now.now);
                judgement::conclude(&setting.at(now).consider_all(spoken, sight_in(&looked)))
            }
        };
        self.tell(request, pod, &mut judgement, dry_run);
        respond(uid, judgement)
    }

    /// Warns about what a workload's template names, from known facts only, and never refuses.
    pub fn warn(&self, request: &Request<'_>) -> Response {
        let uid = request.uid.as_ref();
        let namespace = request.namespace.as_deref().unwrap_or_default();
        if self.excluded.contains(namespace) {
            return Response::allow(uid);
        }
        let template = request.object.map(|object| pod::template(&request.kind.kind, object.get()));
        // What cannot be read here is refused where its pods are made, with its reason.
        let Some(Ok(Some(pod))) = template else { return Response::allow(uid) };
        let (rules, labels) = {
            let index = self.index.read();
            (index.rules(), index.namespace(namespace))
        };
        // By the labels of a namespace that is not known yet nobody can tell what may be said there.
        let Some(labels) = labels.or_else(|| (!rules.asks_labels()).then(Arc::default)) else { return Response::allow(uid) };
        let bearer = Bearer::of(&pod, namespace);
        let setting = Setting::new(&rules, Scope::All, namespace, &labels, Timestamp::now()).of_account(bearer.service_account);
        let (record, inside) = (!request.dry_run.unwrap_or_default(), setting.denies_digests());
        let glance = |want: &Want<'_, '_>| {
            let Want { image, registry, rivals, demand, facts, proofs } = want;
            let access = match demand {
                Demand::Anonymous => anonymous(),
                Demand::Nothing => self.wallet.known(registry.map(AsRef::as_ref), image),
                // Nobody asks for a template what it takes to be told.
                Demand::PullSecret | Demand::Forbidden | Demand::Impossible => return None,
            };
            let (origin, access) = (self.origin_at_a_glance(image, rivals, namespace), Ok(access));
            let (processor, deadline) = (bearer.is_processor(*registry), Instant::now());
            let asker = Asker { namespace, access, deadline, record, processor, inside, proofs };
            let sight = if *facts { self.lookups.glance(image, *registry, &asker) } else { None };
            // A warning may speak of the origin alone, where that is all that is known.
            match origin {
                Origin::Held(_) => Some(Sight { origin, ..sight.unwrap_or_else(|| Sight::blind(None, registry.is_some(), processor)) }),
                Origin::Free | Origin::Open { .. } => sight,
            }
        };
        let spoken = pod.images().take(MOST_IMAGES).map(|named| setting.spoken(FieldPath::Pod(named), named.image));
        let consider = spoken.map(|spoken| {
            let sight = Spoken::wanted(std::slice::from_ref(&spoken)).first().and_then(glance);
            setting.consider(spoken, sight.as_ref())
        });
        let considered: Vec<Considered<'_>> = consider.collect();
        let mut response = Response::allow(uid);
        response.warnings = judgement::as_warnings(&considered);
        response
    }

    /// What is at hand about each of these images, and whether anything had to be waited for. What is not at hand yet is asked for, for all of
    /// them at once.
    async fn sights(&self, wanted: &[Want<'_, '_>], question: &Question<'_>) -> (Vec<Sight>, bool) {
        let Question { bearer, deadline, inside, .. } = *question;
        if wanted.is_empty() {
            return (Vec::new(), false);
        }
        let started = Instant::now();
        let at_hand = |want: &Want<'_, '_>| {
            let unshown = match want.demand {
                Demand::PullSecret => true,
                Demand::Anonymous => is_by_digest(want) && !self.lookups.was_permitted(want.image, want.registry, &anonymous()),
                Demand::Nothing | Demand::Forbidden | Demand::Impossible => false,
            };
            if unshown {
                return None;
            }
            let origin = self.origin_at_hand(want)?;
            let (listed, processor) = (want.registry.is_some(), bearer.is_processor(want.registry));
            if !want.facts {
                return Some(Sight { origin, ..Sight::blind(None, listed, processor) });
            }
            let access = || match want.demand {
                Demand::Anonymous => Some(anonymous()),
                _ => self.wallet.at_hand(want.registry.map(AsRef::as_ref), want.image),
            };
            let sight = self.lookups.at_hand(want.image, want.registry, processor, (inside, &want.proofs), access)?;
            Some(Sight { origin, ..sight })
        };
        let mut sights: Vec<Option<Sight>> = wanted.iter().map(at_hand).collect();
        let waits = sights.iter().any(Option::is_none);
        if waits {
            let missing = wanted.iter().zip(&mut sights).filter(|(_, sight)| sight.is_none());
            join_all(missing.map(|(want, sight)| async move {
                let (found, origin) = futures::join!(self.look(want, question), self.origin(want, bearer.namespace, deadline));
                *sight = Some(Sight { origin, ..found });
            }))
            .await;
        }
        let phase = PhaseLabels { phase: Phase::Lookup };
        self.metrics.review_duration.get_or_create(&phase).observe(started.elapsed().as_secs_f64());
        (sights.into_iter().flatten().collect(), waits)
    }

    /// What is at hand about an image, or is found out.
    async fn look(&self, want: &Want<'_, '_>, question: &Question<'_>) -> Sight {
        let Question { bearer, deadline, record, inside } = *question;
        let Want { image, registry, demand, facts, .. } = *want;
        let (listed, processor) = (registry.is_some(), bearer.is_processor(registry));
        let permit = self.permit(want, bearer, deadline).await;
        let opens = |permit: &Outcome<()>| matches!(permit, Outcome::Found(()) | Outcome::Unavailable(_));
        if !facts || !permit.as_ref().is_none_or(opens) {
            return Sight::blind(permit, listed, processor);
        }
        let access = async {
            match demand {
                Demand::Anonymous => Ok(anonymous()),
                _ => self.wallet.access(registry.map(AsRef::as_ref), image, bearer.namespace, &bearer.pull_secrets).await,
            }
        };
        let access = in_time(access, deadline).await;
        let asker = Asker { namespace: bearer.namespace, access, deadline, record, processor, inside, proofs: &want.proofs };
        Sight { permit, ..self.lookups.see(image, registry, &asker).await }
    }

    /// Whether other registries go before that of an image, as far as nobody has to be asked or waited for.
    fn origin_at_hand(&self, want: &Want<'_, '_>) -> Option<Origin> {
        if want.rivals.is_empty() {
            return Some(Origin::Free);
        }
        let held = |rival| self.lookups.held_at_hand(rival, &self.access_at_hand(rival)?);
        let said = want.rivals.iter().map(|rival| Some((rival, held(rival)?)));
        Some(origin::weigh(want.image, &said.collect::<Option<Vec<_>>>()?))
    }

    fn access_at_hand(&self, rival: &Rival) -> Option<Access> {
        self.wallet.own_at_hand(&rival.registry, rival.host())
    }

    /// The same for what is never refused; what is not at hand is asked for, so that the next one finds it.
    fn origin_at_a_glance(&self, image: &Reference, rivals: &[Rival], namespace: &str) -> Origin {
        let mut known = Vec::with_capacity(rivals.len());
        for rival in rivals {
            let Some(access) = self.access_at_hand(rival) else { continue };
            match self.lookups.held_at_hand(rival, &access) {
                Some(said) => known.push((rival, said)),
                None => self.lookups.launch_held(rival, access, namespace, Class::Admission),
            }
        }
        origin::weigh(image, &known)
    }

    /// Whether other registries go before that of an image; they are asked, all at once.
    async fn origin(&self, want: &Want<'_, '_>, namespace: &str, deadline: Instant) -> Origin {
        let said = want.rivals.iter().map(|rival| async move {
            let access = in_time(self.wallet.own(&rival.registry, rival.host()), deadline).await;
            (rival, self.lookups.held(rival, access, namespace, deadline, Class::Admission).await)
        });
        origin::weigh(want.image, &join_all(said).await)
    }

    /// Whether the registry shows an image to whoever shows the pod's pull secrets, or nothing, where it has to.
    async fn permit(&self, want: &Want<'_, '_>, bearer: &Bearer<'_>, deadline: Instant) -> Option<Outcome<()>> {
        let registry = want.registry?;
        let shown = match want.demand {
            Demand::PullSecret => {
                let shown = self.wallet.of_pod(want.image, bearer.namespace, &bearer.pull_secrets);
                let shows = |access: &Access| !access.credentials.is_anonymous();
                in_time(shown, deadline).await.map(|shown| shown.into_iter().filter(shows).collect())
            }
            Demand::Anonymous if is_by_digest(want) => Ok(vec![anonymous()]),
            Demand::Nothing | Demand::Anonymous | Demand::Forbidden | Demand::Impossible => return None,
        };
        Some(self.lookups.permit(want.image, registry, shown, bearer.namespace, deadline).await)
    }

    /// The rules, and the labels of a namespace, where it takes them to know what the rules say there. One that the index does not hold is read
    /// live before "no policy matches" is believed: it may have been made a moment ago.
    async fn rules_there(&self, namespace: &str, scope: Scope, deadline: Instant) -> Result<(Arc<Rules>, Option<Labels>), String> {
        let (rules, labels) = {
            let index = self.index.read();
            (index.rules(), index.namespace(namespace))
        };
        let Some(client) = self.client.clone().filter(|_| labels.is_none() && asks_labels(&rules, scope)) else {
            return Ok((rules, labels));
        };
        let api = Api::<Namespace>::all(client);
        let labels = match tokio::time::timeout_at(deadline, bounded(api.get_metadata(namespace))).await {
            Ok(Ok(object)) => Arc::new(object.metadata.labels.unwrap_or_default()),
            Ok(Err(CallError::NotFound)) => Arc::default(),
            Ok(Err(error)) => return Err(format!("cannot read the namespace's labels, by which policies choose: {error}")),
            Err(_) => return Err("cannot read the namespace's labels in time, by which policies choose".to_owned()),
        };
        // That took a while, in which rules may have changed.
        Ok((self.index.read().rules(), Some(labels)))
    }

    fn unreadable(&self, uid: &str, why: &str) -> Response {
        self.metrics.unreadable_requests.inc();
        Response::refuse(uid, why.to_owned())
    }

    fn tell(&self, request: &PodRequest<'_>, pod: &Pod<'_>, judgement: &mut Judgement, dry_run: bool) {
        for ((verdict, mode, basis), count) in &judgement.tallies {
            self.metrics.reviews.get_or_create(&ReviewLabels { verdict: *verdict, mode: *mode, basis: *basis }).inc_by(*count);
        }
        if judgement.lines.is_empty() {
            return;
        }
        let name = pod.metadata.name.as_deref().or(pod.metadata.generate_name.as_deref()).unwrap_or_default();
        self.audit.hand_in(Admission {
            at: Timestamp::now(),
            uid: clip(&request.uid, MOST_OF_A_FIELD),
            namespace: clip(request.namespace.as_deref().unwrap_or_default(), MOST_OF_A_FIELD),
            object: format!("Pod/{}", clip(name, MOST_OF_A_FIELD)),
            user: clip(&request.user_info.username, MOST_OF_A_FIELD),
            dry_run,
            lines: std::mem::take(&mut judgement.lines),
        });
    }
}

/// Something is to be known of an image that is named by its digest: then nobody asks the registry for that, who could tell whether everybody may see it.
fn is_by_digest(want: &Want<'_, '_>) -> bool {
    want.facts && want.image.digest().is_some()
}

async fn in_time<T>(access: impl Future<Output = Result<T, NoAccess>>, deadline: Instant) -> Result<T, NoAccess> {
    let late = || Err(NoAccess::Later("the API server did not show the credentials in time".to_owned()));
    tokio::time::timeout_at(deadline, access).await.unwrap_or_else(|_| late())
}

fn plain(uid: &str, basis: Basis) -> Response {
    let mut response = Response::allow(uid);
    response.audit_annotations.insert("basis", basis.as_str().into());
    response
}

fn respond(uid: &str, judgement: Judgement) -> Response {
    let mut response = match judgement.answer {
        Answer::Admit => Response::allow(uid),
        Answer::Refuse(message) => Response::refuse(uid, message),
        Answer::Later(message, after) => Response::later(uid, message, seconds(after)),
    };
    response.warnings = judgement.warnings;
    response.audit_annotations = judgement.annotations;
    response
}

/// Whole seconds to wait, at least 1 and at most 30: longer, and a client that would have come back gives up.
fn seconds(after: Duration) -> u32 {
    u32::try_from(after.as_secs() + u64::from(after.subsec_nanos() > 0)).unwrap_or(30).clamp(1, 30)
}
