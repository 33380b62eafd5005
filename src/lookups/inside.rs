//! Looks inside an index for its proof: at those of its images that some node may run.
//!
//! Only where what is attached to the index itself does not prove what some policy or Registry asks of it: that is enough for most, and to look at
//! each image costs as much again. Everything is part of one flight, and of one answer.
//!
//! The images are those that the manifest names, nested indexes included, as they were read when the image was judged; attestations are none of
//! them. Whoever pushes an index chooses how many there are, so few are looked at. One that the registry does not have or does not show cannot be
//! proven, which is said of it; where the registry cannot be asked at all nothing is known of the whole.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use jiff::Timestamp;

use super::ask::{Context, Parts};
use crate::{
    api::{Evidence, MAX_PLATFORMS},
    facts::{Child, Manifest, Outcome},
    image::{Digest, Subject},
    proof::{
        Authority, NoExceptions, Proof,
        gather::{Inside, join},
        platforms::{ALL, Platforms, label},
    },
};

/// Images of one index at once.
const AT_ONCE: usize = 2;

impl Parts {
    /// What is there about an image, and about the images inside it where that matters.
    pub(super) async fn gather<E>(
        self: &Arc<Self>,
        context: &Context<'_>,
        subject: &Subject,
        authorities: &Arc<[Arc<Authority>]>,
    ) -> Result<Evidence, Outcome<E>> {
        let itself = self.attached(context, subject.digest(), authorities).await?;
        let rules = self.index.read().rules();
        let (proofs, now) = (rules.proofs_of(subject), Timestamp::now());
        let matters = |proof: &&Proof| proof.judge(&itself, &NoExceptions, now).is_err_and(|unproven| unproven.unlooked);
        if !proofs.is_empty() && !proofs.iter().any(matters) {
            return Ok(itself);
        }
        let manifest = self.manifest(context, subject).await?;
        if manifest.config.is_some() {
            return Ok(join(itself, vec![ALL.to_owned()], Vec::new()));
        }
        let (children, platforms) = (chosen(&manifest.children, &rules.platforms), rules.platforms.names());
        if children.len() > MAX_PLATFORMS {
            let why = format!(
                "the index has {} images that nodes may run, and at most {MAX_PLATFORMS} are looked at; what is attached to the index itself counts",
                children.len()
            );
            return Ok(join(itself, platforms, vec![(ALL.to_owned(), Err(why))]));
        }
        let look = |(platform, digest): (String, Digest)| async move {
            let found = match self.attached(context, &digest, authorities).await {
                Ok(found) => Ok(found),
                Err(Outcome::Absent | Outcome::Hidden) => Err("the registry does not have this image, or hides it".to_owned()),
                Err(Outcome::Refused) => Err("the registry does not give this image out".to_owned()),
                Err(Outcome::Blocked(block)) => Err(format!("the registry blocks this image ({})", block.code)),
                Err(Outcome::Misbehaved(why)) => Err(why),
                Err(end) => return Err(end),
            };
            Ok((platform, found))
        };
        let found: Vec<Inside> = stream::iter(children).map(look).buffered(AT_ONCE).try_collect().await?;
        Ok(join(itself, platforms, found))
    }

    /// What is inside: as it is written, or as the registry has it.
    async fn manifest<E>(self: &Arc<Self>, context: &Context<'_>, subject: &Subject) -> Result<Manifest, Outcome<E>> {
        let known = self.index.read().image(subject);
        if let Some(known) = known.filter(|known| !known.facts.manifest.is_unread() && !known.facts.manifest.cut) {
            return Ok(known.facts.manifest.clone());
        }
        let (endpoint, credentials, repository) = (context.endpoint, &*context.access.credentials, context.repository);
        let answer = self.ask_for(context, async |client| client.manifest(endpoint, credentials, repository, subject.digest()).await);
        Ok(answer.await?.manifest)
    }
}

/// The images that nodes of these platforms may run, each once, by names that tell them apart.
fn chosen(children: &[Child], nodes: &Platforms) -> Vec<(String, Digest)> {
    let mut seen: HashSet<&Child> = HashSet::new();
    let mut counts: HashMap<String, usize> = HashMap::new();
    let mut images: Vec<(String, Digest)> = Vec::new();
    for child in children.iter().filter(|child| seen.insert(child)) {
        let label = label(&child.platform);
        let count = counts.entry(label.clone()).or_default();
        *count += 1;
        let name = if *count == 1 { label } else { format!("{label}+{count}") };
        images.push((name, child.digest.clone()));
    }
    let chosen = nodes.choose(images.iter().map(|(name, _)| name.as_str()));
    images.into_iter().zip(chosen).filter_map(|(image, chosen)| chosen.then_some(image)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_images_of_an_index_have_names_that_tell_them_apart() {
        let child = |number: u8, platform: &str| Child { digest: Digest::of(&[number]), platform: platform.to_owned() };
        let children = [
            child(1, "linux/amd64"),
            child(2, "windows/amd64"),
            child(3, "linux/amd64"),
            child(1, "linux/amd64"),
            child(1, "linux/arm64/v8"),
            child(4, "any"),
        ];
        let names = |nodes: &[&str]| {
            let images = chosen(&children, &Platforms::of(nodes.iter().copied().map(Some)));
            images
                .into_iter()
                .map(|(name, digest)| (name, children.iter().position(|child| child.digest == digest).unwrap()))
                .collect::<Vec<_>>()
        };
        let named = |expected: &[(&str, usize)]| expected.iter().map(|(name, at)| ((*name).to_owned(), *at)).collect::<Vec<_>>();
        assert_eq!(names(&["linux/amd64"]), named(&[("linux/amd64", 0), ("linux/amd64+2", 2), ("any", 5)]));
        let all = [("linux/amd64", 0), ("windows/amd64", 1), ("linux/amd64+2", 2), ("linux/arm64/v8", 0), ("any", 5)];
        assert_eq!(names(&[]), named(&all));
    }
}
