//! The sentences that people read in a refusal, a warning or an audit annotation.
//!
//! Each names the image, what is known of it, the policy, and what to do. None says more about a registry than its reader may
//! see: what is absent and what is forbidden read the same.

use std::time::Duration;

use jiff::Timestamp;

use crate::{
    api::{MAX_CHILDREN, Provider, State},
    facts::{BusyCause, Facts},
    history::clip,
    image::Subject,
    judgement::FieldPath,
    verdict::{Unknown, Why},
};

/// Characters that one warning may have; the API server cuts longer ones.
pub const WARNING_LIMIT: usize = 256;
/// Characters that a refusal may have.
pub const REFUSAL_LIMIT: usize = 4096;

/// One image of one pod, in words.
#[derive(Clone, Debug)]
pub struct Place<'a> {
    /// `spec.containers[web].image`.
    pub path: String,
    /// As the author wrote it, without control characters and at most [`IMAGE_LIMIT`] of its characters.
    pub image: String,
    /// What it stands for, when that is known.
    pub subject: Option<&'a Subject>,
    /// The digest of that.
    pub digest: Option<String>,
}

/// Characters of an image's name that are shown, and of where it stands.
pub const IMAGE_LIMIT: usize = 400;

impl<'a> Place<'a> {
    /// Puts it into words.
    #[must_use]
    pub fn new(path: FieldPath<'_>, image: &str, subject: Option<&'a Subject>) -> Self {
        let digest = subject.map(|subject| subject.digest().to_string());
        Self { path: clip(&path.to_string(), IMAGE_LIMIT), image: clip(image, IMAGE_LIMIT), subject, digest }
    }

    /// The digest, where the author did not write it.
    fn unwritten(&self) -> Option<&str> {
        self.digest.as_deref().filter(|_| !self.image.contains('@'))
    }
}

/// Why an image is refused by these policies, as one sentence or two.
#[must_use]
pub fn refusal(place: &Place<'_>, why: &Why, policies: &[&str]) -> String {
    let (before, digest, after) = place.unwritten().map_or(("", "", ""), |digest| (" (", digest, ")"));
    [&*place.path, " ", &place.image, before, digest, after, ": ", &reason(why, place.subject), " [", &list(policies), "]"].concat()
}

/// `policy a`, `policies a, b`; the first few of many.
fn list(policies: &[&str]) -> String {
    const SHOWN: usize = 4;
    match policies {
        [policy] => format!("policy {policy}"),
        all if all.len() <= SHOWN => format!("policies {}", all.join(", ")),
        all => format!("policies {} and {} more", all[..SHOWN].join(", "), all.len() - SHOWN),
    }
}

/// The same as a warning: at most [`WARNING_LIMIT`] characters, the cause first.
#[must_use]
pub fn warning(place: &Place<'_>, why: &Why, policies: &[&str]) -> String {
    let (short, list) = (short(why), list(policies));
    clip(&format!("lazaretto: {}: {short} [{list}] {}", place.path, place.image), WARNING_LIMIT)
}

/// Why, without the image: what is the case, and what to do.
#[must_use]
pub fn reason(why: &Why, subject: Option<&Subject>) -> String {
    match why {
        Why::Denied(reason) => format!("denied: {reason}. Use another image"),
        Why::IndexTooLarge => format!(
            "the index has more than the {MAX_CHILDREN} images that are held of one, and this policy denies some by digest: name the image for the node's platform by its own digest"
        ),
        Why::NoDigest => "the image is named by tag, and this policy wants a digest: write NAME@sha256:...".to_owned(),
        Why::Excluded => {
            "the Registry object of this registry excludes the repository, so that nothing of it is used from there. Use another image".to_owned()
        }
        Why::SourceNotAllowed(allowed) => format!("this policy admits images from {allowed}, and from nowhere else. Use one from there"),
        Why::Unqualified(name) => {
            format!("the image is named without its registry, and each node decides for itself which one that is: write {name}")
        }
        Why::Held(facts) => held(facts, subject),
        Why::Unproven(unproven) => format!("{unproven}. Then try again"),
        Why::Unmanaged { listed: true } => {
            "nobody keeps a quarantine flag for this registry (its Registry object has provider None), and this policy admits released images only".to_owned()
        }
        Why::Unmanaged { listed: false } => {
            "this registry has no Registry object, so nobody keeps a quarantine flag for its images, and this policy admits released images only".to_owned()
        }
        Why::AddressLiteral => "the registry is named by its address, which could be any registry: write its host name, or let a Registry object name the address".to_owned(),
        Why::Shadowed(instead) => format!(
            "a registry that goes before this one (its Registry object has priority) holds a repository of this name, and this may be somebody else's: write {instead} instead"
        ),
        Why::OriginNotShown => {
            "a registry that goes before this one (its Registry object has priority) does not show whether it holds a repository of this name: its Registry object needs credentials that may read all of its repositories".to_owned()
        }
        Why::OriginOpen(why) => format!(
            "a registry that goes before this one (its Registry object has priority) has to say whether it holds a repository of this name: {}",
            reason(why, None)
        ),
        Why::NotFoundOrNotPermitted => {
            "the image was not found, or Lazaretto is not permitted to see it: check the name, and the credentials of the Registry object".to_owned()
        }
        Why::Hidden => {
            "the image was not found, or is in quarantine and hidden (this registry hides the tags of such images), or Lazaretto is not permitted to see it: name it by digest to be told more".to_owned()
        }
        Why::Blocked(block) => format!("the registry blocks it: {} {}. Ask whoever runs the registry's quarantine", block.code, block.message.trim_end_matches('.')),
        Why::Misbehaved(what) => format!("the registry's answer cannot be relied on: {what}"),
        Why::Unknown(unknown) => not_known(unknown),
        Why::Busy(busy) => match busy.cause {
            BusyCause::Deadline => "the registry has not answered yet; the look-up goes on. Try again shortly".to_owned(),
            BusyCause::Throttled => format!("the registry asks to wait {} s before it is asked again", whole_seconds(busy.retry_after)),
            BusyCause::Limit => "this registry's request limit is used up for the moment. Try again shortly".to_owned(),
            BusyCause::QueueFull => "too many images are being looked up at once. Try again shortly".to_owned(),
            BusyCause::Share => "this namespace has too many look-ups under way. Try again shortly".to_owned(),
            BusyCause::Unlisted => {
                "its registry does not answer. It has no Registry object, so no policy can admit its images while it is silent".to_owned()
            }
            BusyCause::Credentials => {
                "Lazaretto cannot read its own credentials for this registry just now. Try again shortly".to_owned()
            }
            BusyCause::Unproven => "what is signed about this image was not fetched yet. Try again shortly".to_owned(),
            BusyCause::Unread => {
                "this policy denies some images by digest, and what is inside this one was not read yet. Try again shortly; if it stays so, the credentials of its Registry object may read its state and not its manifest".to_owned()
            }
        },
        Why::Reference(error) => format!("the image reference is refused: {error}"),
    }
}

/// The cause in a few words.
#[must_use]
pub fn short(why: &Why) -> String {
    match why {
        Why::Denied(reason) => format!("denied: {reason}"),
        Why::IndexTooLarge => "its index has too many images to tell whether a denied one is among them".to_owned(),
        Why::NoDigest => "named by tag, not by digest".to_owned(),
        Why::Excluded => "its repository is excluded".to_owned(),
        Why::SourceNotAllowed(_) => "it comes from a source that is not allowed".to_owned(),
        Why::Unqualified(name) => format!("named without its registry; write {name}"),
        Why::Held(facts) => format!("{} since {}", state(facts.state), second(facts.since)),
        Why::Unproven(unproven) => unproven.to_string(),
        Why::Unmanaged { .. } => "nobody keeps a quarantine flag for it".to_owned(),
        Why::AddressLiteral => "its registry is named by an address".to_owned(),
        Why::Shadowed(instead) => format!("use {instead}: a registry that goes before this one has this name"),
        Why::OriginNotShown => "a registry that goes before this one does not show whether it has this name".to_owned(),
        Why::OriginOpen(why) => format!("of a registry that goes before this one: {}", short(why)),
        Why::NotFoundOrNotPermitted => "not found or not permitted".to_owned(),
        Why::Hidden => "not found, hidden in quarantine, or not permitted".to_owned(),
        Why::Blocked(block) => format!("blocked by the registry: {}", block.code),
        Why::Misbehaved(_) => "the registry's answer cannot be relied on".to_owned(),
        Why::Unknown(Unknown::Pending(_)) => "not analysed yet".to_owned(),
        Why::Unknown(Unknown::Unavailable(_)) => "its registry is unavailable".to_owned(),
        Why::Unknown(Unknown::Unauthorized(_)) => "its registry refuses Lazaretto's credentials".to_owned(),
        Why::Busy(_) => "not known yet".to_owned(),
        Why::Reference(error) => error.clone(),
    }
}

fn state(state: State) -> &'static str {
    match state {
        State::Quarantined => "in quarantine",
        State::Failed => "found unfit",
        State::Pending => "being analysed",
        State::Released => "released",
        State::Unmanaged => "unmanaged",
    }
}

/// What the details of an image begin with that waits for its proof.
pub const WAITS: &str = "waits: ";

fn held(facts: &Facts, subject: Option<&Subject>) -> String {
    let mut text = String::with_capacity(512);
    text += state(facts.state);
    text += " since ";
    text += &second(facts.since);
    if !facts.by.is_empty() {
        text += " by ";
        text += &facts.by;
    }
    if !facts.reason.is_empty() {
        text += " (";
        text += &facts.reason;
        text.push(')');
    }
    if let Some(missing) = facts.details.strip_prefix(WAITS) {
        text += &format!(". It is released as soon as that is proven: {missing}");
    }
    let name = subject.map_or_else(|| "IMAGE".to_owned(), ToString::to_string);
    text += &match facts.provider {
        Provider::Managed => {
            format!(". Whoever has the role lazaretto-releaser may release it: lazaretto quarantine release {name} --reason TEXT")
        }
        Provider::AzureContainerRegistry => {
            ". Only the registry's quarantine processor can release it (role AcrQuarantineWriter, state Passed)".to_owned()
        }
        Provider::None => String::new(),
    };
    text
}

fn not_known(unknown: &Unknown) -> String {
    match unknown {
        Unknown::Pending(why) => format!("not known yet: {why}. Try again shortly"),
        Unknown::Unavailable(outage) => {
            format!("its registry is unavailable ({}), and this policy waits until it can be asked", outage.message)
        }
        Unknown::Unauthorized(why) => {
            format!("its registry refuses the credentials of its Registry object ({why}), and this policy waits until it can be asked")
        }
    }
}

/// A time to wait, for people: whoever came back any sooner would be told to wait once more.
fn whole_seconds(time: Duration) -> u64 {
    (time.as_secs() + u64::from(time.subsec_nanos() > 0)).max(1)
}

/// A time to the second, for people.
fn second(time: Timestamp) -> String {
    Timestamp::from_second(time.as_second()).unwrap_or(time).to_string()
}

/// Joins refusals into one message within [`REFUSAL_LIMIT`]: every image by itself on a line where there are several.
#[must_use]
pub fn join(mut lines: Vec<String>) -> String {
    lines.dedup();
    if lines.len() == 1 {
        return clip_lines(lines.remove(0));
    }
    let total = lines.len();
    let mut text = String::with_capacity(REFUSAL_LIMIT.min(lines.iter().map(|line| line.len() + 1).sum()));
    for (at, line) in lines.iter().enumerate() {
        if text.len() + line.len() > REFUSAL_LIMIT - 64 {
            text += &format!("\nand {} more", total - at);
            break;
        }
        if !text.is_empty() {
            text.push('\n');
        }
        text += line;
    }
    text
}

fn clip_lines(text: String) -> String {
    if text.len() <= REFUSAL_LIMIT {
        return text;
    }
    text.chars().take(REFUSAL_LIMIT).collect()
}
