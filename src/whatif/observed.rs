//! What policies that only observe would refuse of what runs, once they enforce.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use jiff::Timestamp;

use super::{Asked, Records, View, judge};
use crate::{
    api::MAX_WOULD_REFUSE,
    history::clip,
    judgement::Setting,
    running::{Owner, Pod},
    sentence,
};

/// What each policy would refuse of the pods that were gone through.
#[derive(Debug, Default)]
pub struct Observed {
    policies: BTreeMap<Arc<str>, Tally>,
}

/// What one policy would refuse.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Pods of which it would refuse an image.
    pub pods: u32,
    /// Who made them.
    pub owners: u32,
    /// Pods of which it would refuse none that is known, and some is not.
    pub not_known: u32,
    /// The first of those that it would refuse.
    pub first: Vec<Found>,
}

/// Pods of one owner with an image that would be refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Their namespace.
    pub namespace: Arc<str>,
    /// Who made them; none for a pod that somebody made by hand.
    pub owner: Option<Arc<Owner>>,
    /// One of them.
    pub pod: Arc<str>,
    /// Its container; `volume` for an image volume.
    pub container: Arc<str>,
    /// The image, as they name it.
    pub image: String,
    /// Why.
    pub reason: Arc<str>,
    /// How many there are.
    pub pods: u32,
}

#[derive(Debug, Default)]
struct Tally {
    seen: Seen,
    owners: HashSet<Box<str>>,
}

/// What a policy says of an image that it does not plainly admit.
#[derive(Clone, Debug)]
struct Said {
    policy: Arc<str>,
    /// Why it refuses; none where it is not known.
    refuses: Option<Arc<str>>,
}

impl Observed {
    /// Goes through the pods of one namespace, by the policies that the setting has.
    pub fn namespace(
        &mut self,
        setting: &Setting<'_>,
        namespace: &Arc<str>,
        pods: &[(Arc<str>, Arc<Pod>)],
        records: &impl Records,
        now: Timestamp,
    ) {
        if setting.is_silent() {
            return;
        }
        let volume: Arc<str> = "volume".into();
        // Most pods of a namespace have few images and accounts among them. By where their texts stand: those are held once.
        let mut said: HashMap<(*const u8, *const u8), Arc<[Said]>> = HashMap::new();
        for (name, pod) in pods {
            let make = &pod.make;
            let containers = make.containers.iter().map(|container| {
                let image = &container.image;
                (&container.name, &*image.text, image.subject.as_ref())
            });
            let volumes = make.volumes.iter().map(|reference| (&volume, &**reference, None));
            let mut met: Vec<(Arc<str>, bool)> = Vec::new();
            for (container, text, running) in containers.chain(volumes) {
                let key = (text.as_ptr(), make.service_account.as_ptr());
                let asked = Asked { text, running, namespace, service_account: &make.service_account };
                let said = said.entry(key).or_insert_with(|| say(setting, asked, records, now)).clone();
                for said in &*said {
                    match met.iter_mut().find(|(policy, _)| *policy == said.policy) {
                        Some((_, refuses)) => *refuses |= said.refuses.is_some(),
                        None => met.push((said.policy.clone(), said.refuses.is_some())),
                    }
                    if let Some(reason) = &said.refuses {
                        let found = || Found {
                            namespace: namespace.clone(),
                            owner: pod.owner.clone(),
                            pod: name.clone(),
                            container: container.clone(),
                            image: clip(text, 400),
                            reason: reason.clone(),
                            pods: 1,
                        };
                        self.policies.entry(said.policy.clone()).or_default().list(found());
                    }
                }
            }
            for (policy, refuses) in met {
                self.policies.entry(policy).or_default().count(pod, refuses);
            }
        }
    }

    /// All were gone through.
    #[must_use]
    pub fn end(self) -> BTreeMap<Arc<str>, Seen> {
        let count = |tally: Tally| Seen { owners: u32::try_from(tally.owners.len()).unwrap_or(u32::MAX), ..tally.seen };
        self.policies.into_iter().map(|(policy, tally)| (policy, count(tally))).collect()
    }
}

fn say<'a>(setting: &Setting<'a>, asked: Asked<'a>, records: &impl Records, now: Timestamp) -> Arc<[Said]> {
    let said = judge(setting, asked, records, now).stands.into_iter().filter_map(|stand| {
        let refuses = match stand.view {
            View::Admits => return None,
            View::Refuses(why) => Some(clip(&sentence::short(&why), 200).into()),
            View::NotKnown(_) => None,
        };
        Some(Said { policy: stand.policy.into(), refuses })
    });
    said.collect()
}

impl Tally {
    fn count(&mut self, pod: &Pod, refuses: bool) {
        if refuses {
            self.seen.pods += 1;
            let owner = pod.owner.as_ref().map_or(&*pod.uid, |owner| &*owner.uid);
            if !self.owners.contains(owner) {
                self.owners.insert(owner.into());
            }
        } else {
            self.seen.not_known += 1;
        }
    }

    fn list(&mut self, found: Found) {
        let same = |held: &&mut Found| {
            held.owner.is_some()
                && (&held.owner, &held.namespace, &held.container, &held.image, &held.reason)
                    == (&found.owner, &found.namespace, &found.container, &found.image, &found.reason)
        };
        let first = &mut self.seen.first;
        if let Some(held) = first.iter_mut().find(same) {
            held.pods += 1;
        } else if first.len() < MAX_WOULD_REFUSE {
            first.push(found);
        }
    }
}
