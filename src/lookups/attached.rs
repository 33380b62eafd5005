//! What is attached to a digest: fetched and checked.
//!
//! Four places are looked in: the referrers of the digest (by the registry's list, or its fallback tag), and cosign's older tags for
//! signatures and attestations. Each thing is checked as soon as it is here, and forgotten; what stays is the evidence. What is there and cannot be
//! used (too large, another digest, no bundle) proves nothing, and the evidence says so.

use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use jiff::Timestamp;

use super::ask::{Context, Parts};
use crate::{
    api::Evidence,
    facts::{Busy, Outcome},
    image::Digest,
    proof::{
        Authority,
        bundle::{self, MEDIA_TYPE as BUNDLE},
        gather::{self, Checked, Form, Found as Thing, Life},
        simple,
    },
    registry::{Artifact, Failure, Layer, Notes, Referrer, RegistryClient, TagOrDigest},
};

/// Referrers that are looked into.
const MOST_CANDIDATES: usize = 64;
/// Things that are checked of one image.
const MOST_THINGS: usize = 128;
/// Requests for one digest at once.
const AT_ONCE: usize = 4;
/// Bytes of one thing at a host without a Registry object, which its author may own.
const UNLISTED: usize = 1 << 20;
/// Characters of a tag (OCI distribution 1.1, "pulling manifests").
const LONGEST_TAG: usize = 128;
const MISSING: &str = "the registry lists it and does not have it";
/// What makers attach to an image about its life.
const LIFECYCLE: &str = "application/vnd.microsoft.artifact.lifecycle";
/// A DSSE envelope by itself.
const ENVELOPE: &str = "application/vnd.dsse.envelope.v1+json";

impl Parts {
    /// Everything that is there about a digest, checked.
    pub(super) async fn attached<E>(
        self: &Arc<Self>,
        context: &Context<'_>,
        digest: &Digest,
        authorities: &Arc<[Arc<Authority>]>,
    ) -> Result<Evidence, Outcome<E>> {
        let (endpoint, credentials, repository) = (context.endpoint, &*context.access.credentials, context.repository);
        let tag = digest.to_string().replace(':', "-");
        let by_tag = async |suffix: &str| {
            let tag = format!("{tag}.{suffix}");
            if tag.len() > LONGEST_TAG {
                // Nobody can have written it.
                return Ok(None);
            }
            self.ask_for(context, async |client| client.artifact(endpoint, credentials, repository, TagOrDigest::Tag(&tag)).await).await
        };
        let list = self.ask_for(context, async |client| client.referrers(endpoint, credentials, repository, digest).await);
        let (referrers, signatures, attestations) = futures::try_join!(list, by_tag("sig"), by_tag("att"))?;
        let mut checked: Vec<Checked> = Vec::new();
        let mut layers: Vec<Layer> = Vec::new();
        for artifact in [signatures, attestations].into_iter().flatten() {
            if artifact.cut {
                checked.push(Checked::unread("it has more signatures under one tag than are read".to_owned()));
            }
            layers.extend(artifact.layers);
        }
        // Some registries show the type of an artifact's configuration, or none: its layers tell.
        let may_be =
            |kind: &str| kind.is_empty() || kind.starts_with(BUNDLE) || kind == ENVELOPE || kind == "application/vnd.oci.empty.v1+json";
        let mut candidates: Vec<Digest> = Vec::new();
        let mut lives: Vec<Life> = Vec::new();
        let lived = |lives: &mut Vec<Life>, notes: Notes| {
            lives.extend(notes.end_of_life.map(|end| Life { end, said: notes.created }));
        };
        for Referrer { digest: name, kind, notes } in referrers.entries {
            let told = notes.end_of_life.is_some();
            if kind == LIFECYCLE && told {
                lived(&mut lives, notes);
                continue;
            }
            if (may_be(&kind) || kind == LIFECYCLE) && !candidates.contains(&name) && candidates.len() <= MOST_CANDIDATES {
                candidates.push(name);
            }
        }
        if referrers.cut || candidates.len() > MOST_CANDIDATES {
            candidates.truncate(MOST_CANDIDATES);
            checked.push(Checked::unread(format!(
                "more than {MOST_CANDIDATES} things that may be signatures refer to it; no more are looked at"
            )));
        }
        let artifacts: Vec<Result<Artifact, String>> = stream::iter(candidates)
            .map(|name| async move {
                let reference = TagOrDigest::Digest(&name);
                let asked = self.ask(context, async |client| client.artifact(endpoint, credentials, repository, reference).await).await;
                // One that cannot be used is no reason not to look at the others; whoever may push may attach it.
                match asked {
                    Outcome::Found(Some(artifact)) => Ok(Ok(artifact)),
                    Outcome::Found(None) | Outcome::Absent | Outcome::Hidden => Ok(Err(format!("{name}: {MISSING}"))),
                    Outcome::Misbehaved(why) => Ok(Err(format!("{name}: {why}"))),
                    Outcome::Refused | Outcome::Blocked(_) => Ok(Err(format!("{name}: the registry does not give it out"))),
                    other => other.found().map(|_| Err(String::new())),
                }
            })
            .buffered(AT_ONCE)
            .try_collect()
            .await?;
        for artifact in artifacts {
            match artifact {
                Ok(artifact) => {
                    lived(&mut lives, artifact.notes);
                    layers.extend(artifact.layers);
                }
                Err(why) => checked.push(Checked::unread(why)),
            }
        }
        layers
            .retain(|layer| layer.media_type.starts_with(BUNDLE) || layer.media_type == ENVELOPE || layer.media_type == simple::MEDIA_TYPE);
        if layers.is_empty() && checked.is_empty() {
            // A registry may hide from whoever asks that anything is there at all.
            self.ask_for(context, async |client| client.resolve(endpoint, credentials, repository, TagOrDigest::Digest(digest)).await)
                .await?;
        }
        if layers.len() > MOST_THINGS {
            // What is attached last stands last.
            layers.drain(..layers.len() - MOST_THINGS);
            checked.push(Checked::unread(format!("it has more than {MOST_THINGS} signatures; no more are looked at")));
        }
        let things: Vec<Checked> =
            stream::iter(layers).map(|layer| self.check(context, layer, digest, authorities)).buffered(AT_ONCE).try_collect().await?;
        checked.extend(things);
        Ok(gather::conclude(checked, &lives, authorities, Timestamp::now()))
    }

    /// Fetches one thing and checks it.
    async fn check<E>(
        self: &Arc<Self>,
        context: &Context<'_>,
        layer: Layer,
        digest: &Digest,
        authorities: &Arc<[Arc<Authority>]>,
    ) -> Result<Checked, Outcome<E>> {
        let Layer { media_type, digest: name, size, signature } = layer;
        let limit = if media_type == simple::MEDIA_TYPE { simple::MAX_BYTES } else { bundle::MAX_BYTES };
        let skip = |why: String| Ok(Checked::unread(format!("{name}: {why}")));
        let limit = if context.registry.is_some() { limit } else { limit.min(UNLISTED) };
        let Some(size) = usize::try_from(size).ok().filter(|size| *size <= limit) else {
            return skip(format!("it has {size} bytes, and at most {limit} are read"));
        };
        let Ok(_room) = self.rooms.of(context.registry.map(|registry| &*registry.name)).take(size).await else {
            return skip("there is no room for it".to_owned());
        };
        let (endpoint, credentials, repository) = (context.endpoint, &*context.access.credentials, context.repository);
        let fetched: Outcome<Option<bytes::Bytes>> =
            self.ask(context, async |client| client.blob(endpoint, credentials, repository, &name, size.max(1)).await).await;
        let bytes = match fetched {
            Outcome::Found(Some(bytes)) => bytes,
            Outcome::Found(None) | Outcome::Absent | Outcome::Hidden => return skip(MISSING.to_owned()),
            Outcome::Misbehaved(why) => return skip(why),
            Outcome::Refused | Outcome::Blocked(_) => return skip("the registry does not give it out".to_owned()),
            other => return other.found().map(|_| Checked::default()),
        };
        let form = if media_type == ENVELOPE {
            Form::Envelope
        } else if media_type == simple::MEDIA_TYPE {
            let Some(signature) = signature else { return skip("it has no signature".to_owned()) };
            Form::Simple(signature)
        } else {
            Form::Bundle
        };
        let thing = Thing { digest: name, bytes, form };
        let (digest, authorities) = (digest.clone(), authorities.clone());
        match tokio::task::spawn_blocking(move || gather::check(&thing, &authorities, &digest)).await {
            Ok(checked) => Ok(checked),
            Err(error) => {
                tracing::error!(%error, "a signature was not checked");
                Err(Outcome::Busy(Busy::UNANSWERED))
            }
        }
    }

    pub(super) async fn ask_for<T, E>(
        self: &Arc<Self>,
        context: &Context<'_>,
        question: impl AsyncFnOnce(RegistryClient) -> Result<T, Failure>,
    ) -> Result<T, Outcome<E>> {
        self.ask(context, question).await.found()
    }
}
