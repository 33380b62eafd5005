//! Collects ImageStatus objects that nothing has used for long: never while bad, decided upon, or waiting to be emitted, and never
//! where Lazaretto keeps the flag: there the object *is* the flag, and an image that came back would be in quarantine again.

use std::{collections::HashSet, time::Duration};

use jiff::Timestamp;

use super::{Term, adopt};
use crate::{
    api::Provider,
    image::{Digest, Reference},
};

/// How often unused images are looked for.
const EVERY: Duration = Duration::from_secs(1_800);

/// Collects until the term ends.
pub(super) async fn run(term: Term) {
    term.inventory.listed().await;
    loop {
        if let Err(error) = once(&term).await {
            tracing::warn!(error, "unused images were not looked for; trying again later");
        }
        tokio::time::sleep(EVERY).await;
    }
}

async fn once(term: &Term) -> Result<(), String> {
    let operator = &term.operator;
    let used = used(term).await?;
    let now = Timestamp::now();
    let keep = i64::try_from(operator.settings.collect_after.as_secs()).unwrap_or(i64::MAX);
    let work: Vec<(String, bool, bool)> = {
        let index = operator.index.read();
        let one = |(subject, known): (&crate::image::Subject, &std::sync::Arc<crate::index::Known>)| {
            let digests = std::iter::once(subject.digest())
                .chain(&known.facts.manifest.config)
                .chain(known.facts.manifest.children.iter().map(|child| &child.digest));
            let in_use = digests.into_iter().any(|digest| used.contains(digest));
            let ours = known.facts.provider == Provider::Managed;
            let may_go = !ours && !known.facts.state.is_bad() && !known.decided && known.waiting == 0 && !known.undecided;
            let old = known.unused_since.is_some_and(|since| now.duration_since(since).as_secs() >= keep);
            let mark = known.unused_since.is_some() == in_use;
            (mark || (!in_use && old && may_go)).then(|| (known.name.clone(), in_use, !in_use && old && may_go))
        };
        index.images().filter_map(one).collect()
    };
    for (name, in_use, collect) in work {
        if !term.may_write() {
            return Ok(());
        }
        let result = if collect {
            match operator.writer.get(&name).await {
                Ok(Some(object))
                    if object.spec.quarantine.is_none() && !object.status.as_ref().is_some_and(|status| status.state.is_bad()) =>
                {
                    operator.writer.delete(&object).await
                }
                Ok(_) => Ok(()),
                Err(error) => Err(error),
            }
        } else {
            let mark = operator.writer.change(&name, |object| {
                let mut status = object.status.clone()?;
                status.unused_since = if in_use { None } else { Some(now) };
                Some(status)
            });
            mark.await.map(drop)
        };
        if let Err(error) = result {
            tracing::warn!(name, %error, "an unused image was neither marked nor collected");
        }
    }
    Ok(())
}

/// Every digest that a pod runs, or that a pod or template names.
async fn used(term: &Term) -> Result<HashSet<Digest>, String> {
    let mut used = HashSet::new();
    let mut add = |text: &str| used.extend(Reference::parse(text).ok().and_then(|image| image.digest().cloned()));
    for named in adopt::templates(&term.operator.client).await? {
        add(&named.image);
    }
    term.inventory.each(|_, pod| {
        for image in pod.make.containers.iter().map(|container| &container.image) {
            used.extend(image.named.as_ref().and_then(|named| named.digest().cloned()));
            used.extend(image.digest.clone());
        }
        for reference in &pod.make.volumes {
            used.extend(Reference::parse(reference).ok().and_then(|image| image.digest().cloned()));
        }
    });
    Ok(used)
}
