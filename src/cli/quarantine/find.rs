//! Which ImageStatus a person means.

use anyhow::bail;
use kube::{Api, Client};

use crate::{
    api::ImageStatus,
    cli::cluster,
    image::{Reference, Subject},
};

/// Digits of a digest that are enough to name an image by.
const FEWEST_DIGITS: usize = 12;
/// Images that a message lists.
const LISTED: usize = 5;

/// What a person wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Wanted {
    /// An image by digest.
    Subject(Subject),
    /// The beginning of a digest, with its algorithm.
    Digest(String),
    /// The name of an object.
    Name(String),
    /// An image without a digest.
    Tag(Reference),
}

/// What there is of it.
#[derive(Clone, Debug)]
pub(super) enum Found {
    /// The object.
    Object(Box<ImageStatus>),
    /// An image by digest, of which nothing is known.
    Nothing(Subject),
}

fn read(text: &str) -> anyhow::Result<Wanted> {
    if let Some(digits) = text.strip_prefix("sha256:") {
        let hexadecimal = digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
        if !hexadecimal || !(FEWEST_DIGITS..=64).contains(&digits.len()) {
            bail!("{text}: give {FEWEST_DIGITS} to 64 of the digits 0-9 and a-f");
        }
        return Ok(Wanted::Digest(text.to_owned()));
    }
    if !text.is_empty() && !text.contains(['/', ':', '@']) {
        return Ok(Wanted::Name(text.to_owned()));
    }
    let reference = Reference::parse(text).map_err(|error| anyhow::anyhow!("{text}: {error}"))?;
    Ok(reference.subject().map_or_else(|| Wanted::Tag(reference), Wanted::Subject))
}

/// Finds the object that a person means.
///
/// # Errors
/// None is meant, or several could be; the sentence says how to be clear.
pub(super) async fn find(client: &Client, text: &str) -> anyhow::Result<Found> {
    let wanted = read(text)?;
    let name = match &wanted {
        Wanted::Subject(subject) => Some(subject.object_name()),
        Wanted::Name(name) => Some(name.clone()),
        Wanted::Digest(_) | Wanted::Tag(_) => None,
    };
    if let Some(name) = name {
        let api = Api::<ImageStatus>::all(client.clone());
        let object = cluster::call(&format!("get imagestatus {name}"), api.get_opt(&name)).await?;
        // The name is a handle; the subject is the key. Where nothing was written yet another object may have what was.
        let written = |object: &ImageStatus| object.status.as_ref().is_some_and(|status| !status.history.is_empty());
        let same = |object: &ImageStatus| matches!(&wanted, Wanted::Name(_)) || (is_of(object, &wanted) && written(object));
        if let Some(object) = object.filter(same) {
            return Ok(Found::Object(Box::new(object)));
        }
    }
    if let Wanted::Name(name) = &wanted {
        bail!(
            "there is no ImageStatus {name}: `lazaretto quarantine list --all` shows what there is; an image is named by digest, registry/repository@sha256:..."
        );
    }
    pick(&wanted, text, cluster::list::<ImageStatus>(client).await?)
}

fn is_of(object: &ImageStatus, wanted: &Wanted) -> bool {
    let Ok(subject) = object.spec.subject.parse::<Subject>() else { return false };
    match wanted {
        Wanted::Subject(wanted) => subject == *wanted,
        Wanted::Digest(beginning) => subject.digest().to_string().starts_with(beginning.as_str()),
        Wanted::Tag(reference) => subject.registry() == reference.registry() && subject.repository() == reference.repository(),
        Wanted::Name(_) => false,
    }
}

/// The one that is meant, among all.
fn pick(wanted: &Wanted, text: &str, all: Vec<ImageStatus>) -> anyhow::Result<Found> {
    let mut matching: Vec<ImageStatus> = all.into_iter().filter(|object| is_of(object, wanted)).collect();
    // Where several objects speak of one subject, the strictest is the one that counts.
    matching.sort_by_key(|object| {
        let state = object.status.as_ref().filter(|status| !status.history.is_empty()).map(|status| status.state);
        (object.spec.subject.clone(), std::cmp::Reverse(state))
    });
    matching.dedup_by(|later, earlier| later.spec.subject == earlier.spec.subject);
    match wanted {
        Wanted::Tag(_) if matching.is_empty() => {
            bail!(
                "{text}: a tag does not say which image; name it by digest, registry/repository@sha256:... (nothing is known of this repository)"
            )
        }
        Wanted::Tag(_) => {
            bail!("{text}: a tag does not say which image; name it by digest. Known of this repository:\n{}", listed(&matching))
        }
        _ if matching.len() > 1 => bail!("{text} is the beginning of several images; name one of them:\n{}", listed(&matching)),
        _ => {}
    }
    match (matching.pop(), wanted) {
        (Some(object), _) => Ok(Found::Object(Box::new(object))),
        (None, Wanted::Subject(subject)) => Ok(Found::Nothing(subject.clone())),
        (None, _) => bail!("no ImageStatus has a digest that begins with {text}: name the image as registry/repository@sha256:..."),
    }
}

fn listed(objects: &[ImageStatus]) -> String {
    let line = |object: &ImageStatus| {
        let state = object.status.as_ref().map_or("not seen yet", |status| status.state.as_str());
        format!("{} ({state})", object.spec.subject)
    };
    let mut lines: Vec<String> = objects.iter().take(LISTED).map(line).collect();
    if objects.len() > LISTED {
        lines.push(format!("and {} more", objects.len() - LISTED));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{ImageStatusSpec, ImageStatusStatus, State, Transition};

    fn object(name: &str, subject: &str, state: State) -> ImageStatus {
        let mut object = ImageStatus::new(name, ImageStatusSpec { subject: subject.to_owned(), quarantine: None });
        let transition = Transition { number: 1, at: jiff::Timestamp::UNIX_EPOCH, state, by: "b".into(), reason: "r".into() };
        object.status = Some(ImageStatusStatus { state, history: vec![transition], ..ImageStatusStatus::default() });
        object
    }

    fn subject(repository: &str, digit: char) -> String {
        format!("registry.corp/{repository}@sha256:{}", digit.to_string().repeat(64))
    }

    fn found(text: &str, all: &[ImageStatus]) -> anyhow::Result<String> {
        pick(&read(text)?, text, all.to_vec()).map(|found| match found {
            Found::Object(object) => object.metadata.name.unwrap(),
            Found::Nothing(subject) => format!("nothing of {subject}"),
        })
    }

    fn error(text: &str, all: &[ImageStatus]) -> String {
        found(text, all).unwrap_err().to_string()
    }

    #[test]
    fn an_image_is_found_by_digest_and_by_the_beginning_of_one() {
        let all = [object("a", &subject("app", 'a'), State::Quarantined), object("b", &subject("app", 'b'), State::Released)];
        assert_eq!(found(&subject("app", 'b'), &all).unwrap(), "b");
        assert_eq!(found("sha256:aaaaaaaaaaaa", &all).unwrap(), "a");
        assert_eq!(found(&subject("app", 'c'), &all).unwrap(), format!("nothing of {}", subject("app", 'c')));
        assert!(error("sha256:cccccccccccc", &all).starts_with("no ImageStatus has a digest that begins with sha256:cccccccccccc"));
    }

    #[test]
    fn of_two_objects_for_one_image_the_strictest_counts() {
        let all = [object("a", &subject("app", 'a'), State::Released), object("z", &subject("app", 'a'), State::Failed)];
        assert_eq!(found("sha256:aaaaaaaaaaaa", &all).unwrap(), "z");
        // One in which nothing was written yet says nothing, whatever its defaults are.
        let mut blank = all.clone();
        blank[1].status = Some(ImageStatusStatus { state: State::Failed, ..ImageStatusStatus::default() });
        assert_eq!(found("sha256:aaaaaaaaaaaa", &blank).unwrap(), "a");
    }

    #[test]
    fn what_could_be_several_is_told_apart() {
        let all = [object("a", &subject("one", 'a'), State::Quarantined), object("b", &subject("two", 'a'), State::Released)];
        let text = error("sha256:aaaaaaaaaaaa", &all);
        assert!(text.starts_with("sha256:aaaaaaaaaaaa is the beginning of several images; name one of them:\n"), "{text}");
        assert!(text.contains(&format!("{} (Quarantined)", subject("one", 'a'))), "{text}");
    }

    #[test]
    fn a_tag_is_answered_with_the_digests_of_its_repository() {
        let all = [object("a", &subject("app", 'a'), State::Quarantined)];
        let text = error("registry.corp/app:1", &all);
        assert_eq!(
            text,
            format!(
                "registry.corp/app:1: a tag does not say which image; name it by digest. Known of this repository:\n{} (Quarantined)",
                subject("app", 'a')
            )
        );
        assert!(error("registry.corp/other:1", &all).ends_with("(nothing is known of this repository)"));
    }

    #[test]
    fn what_is_written_is_read_as_what_it_is() {
        assert_eq!(read("0123456789abcdef-app").unwrap(), Wanted::Name("0123456789abcdef-app".into()));
        assert!(matches!(read("registry.corp/app:1").unwrap(), Wanted::Tag(_)));
        for text in ["sha256:abc", "sha256:ABCDEFABCDEF", "sha256:zzzzzzzzzzzz"] {
            assert_eq!(read(text).unwrap_err().to_string(), format!("{text}: give 12 to 64 of the digits 0-9 and a-f"));
        }
    }
}
