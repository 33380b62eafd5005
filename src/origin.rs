//! Priority resolution: which registries are asked before the one at which an image is named, and what comes of what they say.
//!
//! A stranger may publish the name of an internal repository at a public registry, and a manifest without the host, or with the wrong one, gets the
//! stranger's image. So where a Registry is marked `priority`, an image of another registry is admitted only when none of those that go before it
//! holds its repository. What is compared is the path of the repository, without what says only where it is kept: `library/` of Docker Hub, and the
//! [`path_prefix`](crate::api::RegistrySpec::path_prefix) under which a registry keeps what others name without it.
//!
//! That a registry holds a path is a fact about the repository and not about a tag: an internal name is not free because one of its tags is. Everything
//! here is a function of values; [`crate::lookups`] asks, with the Registry's own credentials and never with those of a pod, whose author could bring
//! some that see nothing.

use std::{convert::Infallible, sync::Arc};

use jiff::Timestamp;

use crate::{
    facts::{Busy, Outcome},
    image::Reference,
    policy::RegistryEntry,
};

const HUB: &str = "docker.io";
const HUB_LIBRARY: &str = "library/";

/// A registry that goes before the one at which an image is named, and what the image's repository would be there.
#[derive(Clone, Debug)]
pub struct Rival {
    /// The registry.
    pub registry: Arc<RegistryEntry>,
    /// The repository there.
    pub repository: Box<str>,
}

impl PartialEq for Rival {
    /// The same question at the same place.
    fn eq(&self, other: &Self) -> bool {
        (self.registry.place, self.host(), &self.repository) == (other.registry.place, other.host(), &other.repository)
    }
}

impl Rival {
    /// The host under which it is asked and named.
    #[must_use]
    pub fn host(&self) -> &str {
        self.registry.hosts.first().map_or("", String::as_str)
    }

    /// The host and the repository.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.host(), self.repository)
    }

    /// The reference to use instead.
    fn instead(&self, image: &Reference) -> String {
        let mut text = self.name();
        if let Some(tag) = image.tag() {
            text += &format!(":{tag}");
        }
        if let Some(digest) = image.digest() {
            text += &format!("@{digest}");
        }
        text
    }
}

/// Those that go before the registry of an image, `own`, and may hold its repository. None where that has priority itself.
#[must_use]
pub fn rivals(priority: &[Arc<RegistryEntry>], image: &Reference, own: Option<&RegistryEntry>) -> Vec<Rival> {
    if priority.is_empty() || own.is_some_and(|own| own.spec.priority) {
        return Vec::new();
    }
    let path = own.map_or_else(|| image.repository(), |own| without_prefix(image.repository(), own));
    let short = path.strip_prefix(HUB_LIBRARY).filter(|_| image.registry() == HUB);
    let mut all = Vec::new();
    for registry in priority {
        for path in short.into_iter().chain([path]) {
            let repository: Box<str> = match &registry.spec.path_prefix {
                Some(prefix) => format!("{prefix}/{path}").into(),
                None => path.into(),
            };
            // Two Registries may speak of one host: an image does not shadow itself.
            let itself = *repository == *image.repository() && registry.hosts.iter().any(|host| host == image.registry());
            // What may not be drawn from it is nobody's to be drawn instead.
            if !itself && registry.covers(&repository) && !registry.excludes(&repository) {
                all.push(Rival { registry: registry.clone(), repository });
            }
        }
    }
    all
}

/// What others name the repository.
fn without_prefix<'r>(repository: &'r str, own: &RegistryEntry) -> &'r str {
    let prefix = own.spec.path_prefix.as_deref();
    let rest = prefix.and_then(|prefix| repository.strip_prefix(prefix)?.strip_prefix('/'));
    rest.unwrap_or(repository)
}

/// What a rival said, and when it last said that it does not hold the repository.
#[derive(Clone, Debug, PartialEq)]
pub struct Said {
    /// Whether it holds it, or how the question ended.
    pub outcome: Outcome<bool>,
    /// When it was last found not to.
    pub free_at: Option<Timestamp>,
}

/// Whether an image may be drawn from where it is named, as far as other registries go before that.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Origin {
    /// None that goes before it holds the repository.
    #[default]
    Free,
    /// One does: the reference to use instead.
    Held(Arc<str>),
    /// One of them has not said.
    Open {
        /// Why not.
        outcome: Outcome<Infallible>,
        /// When the last of those that have not said was found not to hold it; none where one never was.
        free_at: Option<Timestamp>,
    },
}

/// What comes of what each rival said. One that holds it outweighs one that does not answer.
#[must_use]
pub fn weigh(image: &Reference, said: &[(&Rival, Said)]) -> Origin {
    if let Some((rival, _)) = said.iter().find(|(_, said)| said.outcome == Outcome::Found(true)) {
        return Origin::Held(rival.instead(image).into());
    }
    let open = || said.iter().filter_map(|(_, said)| Some((said.outcome.clone().found::<Infallible>().err()?, said.free_at)));
    let Some((outcome, _)) = open().next() else { return Origin::Free };
    // None comes before every time.
    let free_at = open().map(|(_, free_at)| free_at).min().flatten();
    Origin::Open { outcome, free_at }
}

/// The same by what was last found, where nobody is asked: what was never found out opens nothing.
#[must_use]
pub fn recall(image: &Reference, rivals: &[Rival], held: impl Fn(&Rival) -> Option<Outcome<bool>>) -> Origin {
    let said = rivals.iter().map(|rival| (rival, Said { outcome: held(rival).unwrap_or(Outcome::Busy(Busy::UNANSWERED)), free_at: None }));
    weigh(image, &said.collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        api,
        facts::{Outage, OutageKind},
    };

    fn registry(name: &str, spec: &serde_json::Value) -> Arc<RegistryEntry> {
        let object = json!({ "apiVersion": "lazaretto.dev/v1alpha1", "kind": "Registry", "metadata": { "name": name }, "spec": spec });
        Arc::new(RegistryEntry::try_from(&serde_json::from_value::<api::Registry>(object).unwrap()).unwrap())
    }

    fn asked(priority: &[Arc<RegistryEntry>], image: &str, own: Option<&RegistryEntry>) -> Vec<String> {
        let image = Reference::parse(image).unwrap();
        rivals(priority, &image, own).iter().map(|rival| format!("{}/{}", rival.host(), rival.repository)).collect()
    }

    #[test]
    fn the_path_is_asked_for_without_what_says_only_where_it_is_kept() {
        let plain = registry("plain", &json!({ "hosts": ["registry.corp"], "priority": true }));
        let proxy = registry("proxy", &json!({ "hosts": ["proxy.corp:5000", "localhost"], "priority": true, "pathPrefix": "hub/cache" }));
        let team = registry("team", &json!({ "hosts": ["team.corp"], "priority": true, "repositories": ["team/**"] }));
        let outer = registry("outer", &json!({ "hosts": ["outer.example"], "pathPrefix": "mirror" }));
        let all = [plain.clone(), proxy.clone(), team];
        let cases: [(&str, Option<&RegistryEntry>, &[&str]); 8] = [
            ("acme/payments:1.7", None, &["registry.corp/acme/payments", "proxy.corp:5000/hub/cache/acme/payments"]),
            (
                "nginx",
                None,
                &[
                    "registry.corp/nginx",
                    "registry.corp/library/nginx",
                    "proxy.corp:5000/hub/cache/nginx",
                    "proxy.corp:5000/hub/cache/library/nginx",
                ],
            ),
            ("ghcr.io/library/nginx", None, &["registry.corp/library/nginx", "proxy.corp:5000/hub/cache/library/nginx"]),
            ("quay.io/team/app", None, &["registry.corp/team/app", "proxy.corp:5000/hub/cache/team/app", "team.corp/team/app"]),
            ("outer.example/mirror/acme/app", Some(&outer), &["registry.corp/acme/app", "proxy.corp:5000/hub/cache/acme/app"]),
            ("outer.example/mirrored/app", Some(&outer), &["registry.corp/mirrored/app", "proxy.corp:5000/hub/cache/mirrored/app"]),
            ("registry.corp/acme/payments", Some(&plain), &[]),
            ("localhost/elsewhere/app", Some(&proxy), &[]),
        ];
        for (image, own, wanted) in cases {
            assert_eq!(asked(&all, image, own), wanted, "{image}");
        }
        assert_eq!(asked(&[], "acme/payments", None), [""; 0]);
        // Another Registry of the same host, for some of its paths.
        let part = registry("part", &json!({ "hosts": ["registry.corp"], "repositories": ["team/**"] }));
        assert_eq!(asked(&[plain], "registry.corp/team/app:1", Some(&part)), [""; 0], "nothing shadows itself");
    }

    #[test]
    fn one_that_holds_it_outweighs_one_that_is_silent_and_silence_is_no_answer() {
        let plain = registry("plain", &json!({ "hosts": ["registry.corp"], "priority": true }));
        let other = registry("other", &json!({ "hosts": ["other.corp"], "priority": true }));
        let image = Reference::parse("docker.io/acme/payments:1.7").unwrap();
        let rivals = rivals(&[plain, other], &image, None);
        let message = || Outage { kind: OutageKind::Connect, message: "out".to_owned() };
        let outage = || Outcome::Unavailable(message());
        let open = |free_at| Origin::Open { outcome: Outcome::Unavailable(message()), free_at };
        let weighed = |first: Outcome<bool>, second: Outcome<bool>, free: [Option<i64>; 2]| {
            let said = |outcome, at: Option<i64>| Said { outcome, free_at: at.map(|at| Timestamp::from_second(at).unwrap()) };
            weigh(&image, &[(&rivals[0], said(first, free[0])), (&rivals[1], said(second, free[1]))])
        };
        let (yes, no) = (Outcome::Found(true), Outcome::Found(false));
        assert_eq!(weighed(no.clone(), no.clone(), [None, None]), Origin::Free);
        assert_eq!(weighed(no.clone(), yes.clone(), [None, None]), Origin::Held("other.corp/acme/payments:1.7".into()));
        assert_eq!(weighed(outage(), yes, [None, None]), Origin::Held("other.corp/acme/payments:1.7".into()));
        assert_eq!(weighed(outage(), no.clone(), [None, Some(9)]), open(None));
        assert_eq!(weighed(outage(), outage(), [Some(7), None]), open(None));
        let at = Some(Timestamp::from_second(7).unwrap());
        assert_eq!(weighed(outage(), outage(), [Some(9), Some(7)]), open(at));
        assert_eq!(weighed(Outcome::Refused, no, [Some(7), None]), Origin::Open { outcome: Outcome::Refused, free_at: at });
    }
}
