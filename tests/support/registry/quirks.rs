//! Ways in which registries misbehave, by name: those of real products, and those of strangers' hosts.
//!
//! A [`Fault`] is one thing done to one request. A quirk is how a product behaves, over many requests and with a memory, about one
//! image, one repository or everything. Where a product is named, it was read up or recorded; where none is, nobody is known to do so and
//! the protocol permits it, or a host that an attacker owns would.

use std::{collections::HashMap, time::Duration};

use axum::http::Method;
use jiff::{Timestamp, fmt::rfc2822::DateTimePrinter};
use lazaretto::image::Digest;
use tokio::time::Instant;

use super::{Fault, OCI_MANIFEST, Recorded, errors, image, shelf::Shelf};

/// What Sonatype's Firewall says of what it holds.
pub const FIREWALL: &str = "-------------------->>> REQUESTED ITEM IS QUARANTINED -------------------->>> FOR DETAILS SEE ------>>> https://iq.example/ui/links/firewall/repositories/quarantinedComponent/QUJDREVG <<<------";
/// What Artifactory says of what Xray holds.
pub const XRAY: &str = "Artifact download request rejected: team/app/1/manifest.json was not downloaded due to the download blocking policy configured in Xray for docker-local.";
/// What Harbor says of what its project's policy holds.
pub const HARBOR: &str = "current image with 3 vulnerabilities cannot be pulled due to configured policy in 'Prevent images with vulnerability severity of \"High\" or higher from running.' To continue with pull, please contact your project administrator to exempt matched vulnerabilities through configuring the CVE allowlist.";
/// What Nexus says to those who waited for another's analysis for too long.
pub const COOPERATION: &str = "Cooperative wait timed out on firewall (2 threads cooperating)";
/// Where [`Quirk::RealmElsewhere`] sends whoever wants a token. RFC 6761: nobody is asked for the name.
pub const ELSEWHERE: &str = "https://token.elsewhere.invalid/token";
/// Where [`Quirk::RedirectToPrivate`] sends whoever wants a manifest.
pub const PRIVATE: &str = "https://10.0.0.1/v2/";

/// A way to misbehave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quirk {
    /// Answers rightly, and so late. A Nexus or Artifactory that fetches from its upstream first.
    Delay(Duration),
    /// Takes the connection and the request, and never sends a byte. A Nexus as it comes: `nexus.proxy.cooperation.majorTimeout` is 0 s, which waits for
    /// ever.
    Hang,
    /// Sends the head and the first byte of a body, and then nothing; a HEAD has no body and is answered. A proxy whose upstream stalls.
    HangMidBody,
    /// Answers 404 for what it holds back. Artifactory's virtual repositories with Xray, ACR's tags in quarantine, Nexus for what its upstream blocks.
    NotFoundForBlocked,
    /// Answers 403 for what it holds back, in plain text. Nexus with Sonatype's Firewall.
    ForbiddenText,
    /// The same in the envelope of errors, under a code that says nothing. Artifactory with Xray.
    ForbiddenEnvelope,
    /// The same without a word. Nexus with the Firewall where the reason phrase alone would say why, which HTTP/2 has not; anybody, to a HEAD.
    ForbiddenBare,
    /// Lets an index through, and answers 412 for the images in it. Harbor, whose policies pass over the index.
    ChildBlocked,
    /// Answers 429 with so many seconds to wait. Docker Hub.
    ThrottledFor(Duration),
    /// Answers 429 with the date until which to wait, which RFC 9110 permits; nobody is known to.
    ThrottledUntil(Duration),
    /// Answers 429 and says nothing. Docker Hub against abuse, ACR perhaps.
    Throttled,
    /// Answers for one manifest with another, header and bytes agreeing. A broken mirror; a registry that was taken over.
    WrongDigest,
    /// Gives no `Docker-Content-Digest`, which the specification asked for only of late.
    NoDigest,
    /// Sends a manifest that never ends. A stranger's host.
    EndlessBody,
    /// Sends whoever wants a manifest to an address inside the cluster. A stranger's host.
    RedirectToPrivate,
    /// Sends whoever wants a token to another host. A stranger's; a Nexus behind a proxy that does not know its own name.
    RealmElsewhere,
    /// Moves a tag once it was looked at by HEAD: a GET finds another image. Any registry, when somebody pushes at that moment.
    TagMovesBetweenHeadAndGet,
    /// Moves a tag between the first HEAD and the second. Any registry; ACR when the newer image is released.
    TagMovesBetweenLooks,
    /// Keeps everybody waiting who wants an image while it is analysed for the first time; the analysis goes on when they have left, and
    /// ends so for all who come later. Nexus with the Firewall.
    SlowAnalysis(Duration, Analysed),
    /// Answers HEAD at once, and holds each GET of a manifest open for so long before it answers rightly. Artifactory with Xray and "block unscanned":
    /// `blockUnscannedTimeoutSeconds` is 60.
    Hold(Duration),
    /// Never answers about the first repository that it is asked about, and at once about everything else. Any that fetches from several upstreams.
    OneSlow,
}

/// How an analysis ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Analysed {
    /// The image is in quarantine: 403.
    Quarantined,
    /// The image is hidden: 404.
    Hidden,
    /// The image may be pulled.
    Released,
    /// The analysis fails: 500.
    Broken,
    /// Whoever waited has waited too long: 503 with Nexus' words for it.
    TooLong,
    /// Not at all.
    Never,
}

impl Quirk {
    /// All, as they are by hand.
    pub const ALL: [Self; 21] = [
        Self::Delay(Duration::from_secs(3)),
        Self::Hang,
        Self::HangMidBody,
        Self::NotFoundForBlocked,
        Self::ForbiddenText,
        Self::ForbiddenEnvelope,
        Self::ForbiddenBare,
        Self::ChildBlocked,
        Self::ThrottledFor(Duration::from_secs(7)),
        Self::ThrottledUntil(Duration::from_secs(7)),
        Self::Throttled,
        Self::WrongDigest,
        Self::NoDigest,
        Self::EndlessBody,
        Self::RedirectToPrivate,
        Self::RealmElsewhere,
        Self::TagMovesBetweenHeadAndGet,
        Self::TagMovesBetweenLooks,
        Self::SlowAnalysis(Duration::from_secs(20), Analysed::Quarantined),
        Self::Hold(Duration::from_secs(60)),
        Self::OneSlow,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Delay(_) => "delay",
            Self::Hang => "hang",
            Self::HangMidBody => "hang-mid-body",
            Self::NotFoundForBlocked => "not-found-for-blocked",
            Self::ForbiddenText => "forbidden-text",
            Self::ForbiddenEnvelope => "forbidden-envelope",
            Self::ForbiddenBare => "forbidden-bare",
            Self::ChildBlocked => "child-blocked",
            Self::ThrottledFor(_) => "throttled-for",
            Self::ThrottledUntil(_) => "throttled-until",
            Self::Throttled => "throttled",
            Self::WrongDigest => "wrong-digest",
            Self::NoDigest => "no-digest",
            Self::EndlessBody => "endless-body",
            Self::RedirectToPrivate => "redirect-to-private",
            Self::RealmElsewhere => "realm-elsewhere",
            Self::TagMovesBetweenHeadAndGet => "tag-moves-between-head-and-get",
            Self::TagMovesBetweenLooks => "tag-moves-between-looks",
            Self::SlowAnalysis(..) => "slow-analysis",
            Self::Hold(_) => "hold",
            Self::OneSlow => "one-slow",
        }
    }

    /// What it does, in a line.
    pub const fn about(self) -> &'static str {
        match self {
            Self::Delay(_) => "answers rightly, after --seconds (3)",
            Self::Hang => "takes requests and never sends a byte",
            Self::HangMidBody => "sends the first byte of a body and no more",
            Self::NotFoundForBlocked => "404 for what is held back (Artifactory's virtual repositories, ACR's tags)",
            Self::ForbiddenText => "403 in plain text (Nexus with the Firewall)",
            Self::ForbiddenEnvelope => "403 in the envelope of errors (Artifactory with Xray)",
            Self::ForbiddenBare => "403 without a word",
            Self::ChildBlocked => "412 for the images of an index that is let through (Harbor)",
            Self::ThrottledFor(_) => "429 with Retry-After in --seconds (7) (Docker Hub)",
            Self::ThrottledUntil(_) => "429 with Retry-After as the date in --seconds (7)",
            Self::Throttled => "429 without Retry-After",
            Self::WrongDigest => "answers for one manifest with another",
            Self::NoDigest => "no Docker-Content-Digest",
            Self::EndlessBody => "manifests that never end",
            Self::RedirectToPrivate => "redirects to an address inside the cluster",
            Self::RealmElsewhere => "wants a token of a server on another host",
            Self::TagMovesBetweenHeadAndGet => "a tag moves once it was looked at by HEAD",
            Self::TagMovesBetweenLooks => "a tag moves before the second HEAD",
            Self::SlowAnalysis(..) => "keeps all waiting for the first analysis, --seconds (20) long, then 403 (Nexus with the Firewall)",
            Self::Hold(_) => "holds each GET of a manifest for --seconds (60) (Artifactory with Xray)",
            Self::OneSlow => "never answers about the first repository that it is asked about",
        }
    }

    /// The same with another time, where there is one.
    #[must_use]
    pub const fn lasting(self, time: Duration) -> Self {
        match self {
            Self::Delay(_) => Self::Delay(time),
            Self::ThrottledFor(_) => Self::ThrottledFor(time),
            Self::ThrottledUntil(_) => Self::ThrottledUntil(time),
            Self::SlowAnalysis(_, ends) => Self::SlowAnalysis(time, ends),
            Self::Hold(_) => Self::Hold(time),
            other => other,
        }
    }
}

/// What a quirk is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Everything: `/v2/` and the token server as well.
    Everywhere,
    /// The manifests of a repository.
    Repository(String),
    /// One tag or digest of a repository, and what is asked by that name.
    Named(String, String),
}

impl From<&str> for Place {
    /// `*`, `team/app`, `team/app:1` or `team/app@sha256:...`.
    fn from(text: &str) -> Self {
        match text.split_once('@').or_else(|| text.rsplit_once(':')) {
            _ if text == "*" => Self::Everywhere,
            None => Self::Repository(text.to_owned()),
            Some((repository, reference)) => Self::Named(repository.to_owned(), reference.to_owned()),
        }
    }
}

impl Place {
    fn holds(&self, request: &Recorded) -> bool {
        match (self, request.manifest()) {
            (Self::Everywhere, _) => true,
            (Self::Repository(repository), Some((asked, _))) => asked == repository,
            (Self::Named(repository, reference), Some(asked)) => asked == (repository, reference),
            (_, None) => false,
        }
    }
}

/// What is done to one request: it waits, and then meets a fault or the truth.
#[derive(Clone, Debug, Default)]
pub(super) struct Plan {
    pub(super) wait: Duration,
    pub(super) fault: Option<Fault>,
}

/// The quirks that a registry has, each where it has it.
#[derive(Default)]
pub(super) struct Quirks(Vec<Placed>);

struct Placed {
    place: Place,
    quirk: Quirk,
    /// When the analysis of a repository's image began.
    began: HashMap<String, Instant>,
    /// How often a tag was looked at by HEAD.
    looks: HashMap<(String, String), usize>,
    /// The repository that is slow.
    slow: Option<String>,
}

impl Quirks {
    /// Those that came later go first.
    pub(super) fn set(&mut self, place: Place, quirk: Quirk) {
        self.0.insert(0, Placed { place, quirk, began: HashMap::new(), looks: HashMap::new(), slow: None });
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// What is done to a request, and by which quirk, if it meets one.
    pub(super) fn plan(&mut self, request: &Recorded, shelf: &mut Shelf) -> Option<(Quirk, Plan)> {
        let placed = self.0.iter_mut().find(|placed| placed.place.holds(request))?;
        Some((placed.quirk, placed.plan(request, shelf)?))
    }
}

/// The bytes of the image that a tag is moved to.
pub fn moved(tag: &str) -> String {
    String::from_utf8(image(&format!("moved {tag}")).to_vec()).unwrap()
}

fn envelope(status: u16, code: &str, message: &str) -> Fault {
    Fault::Answer(status, vec![("content-type", "application/json".to_owned())], errors(code, message))
}

fn served(text: String) -> Fault {
    let digest = Digest::of(text.as_bytes()).to_string();
    let length = text.len().to_string();
    let headers = vec![("content-type", OCI_MANIFEST.to_owned()), ("docker-content-digest", digest), ("content-length", length)];
    Fault::Answer(200, headers, text)
}

fn throttled(retry_after: Option<String>) -> Fault {
    let headers = retry_after.map(|value| ("retry-after", value)).into_iter().collect();
    Fault::Answer(429, headers, errors("TOOMANYREQUESTS", "You have reached your pull rate limit."))
}

fn date(ahead: Duration) -> String {
    let date = Timestamp::now() + jiff::SignedDuration::try_from(ahead).unwrap();
    DateTimePrinter::new().timestamp_to_rfc9110_string(&date).unwrap()
}

impl Placed {
    /// None where the quirk leaves this request alone.
    fn plan(&mut self, request: &Recorded, shelf: &mut Shelf) -> Option<Plan> {
        let at_once = |fault: Fault| Some(Plan { wait: Duration::ZERO, fault: Some(fault) });
        match self.quirk {
            Quirk::Delay(wait) => return Some(Plan { wait, fault: None }),
            Quirk::Hang => return at_once(Fault::Hang),
            Quirk::HangMidBody => return at_once(Fault::HangInBody),
            Quirk::ThrottledFor(wait) => return at_once(throttled(Some(wait.as_secs().to_string()))),
            Quirk::ThrottledUntil(wait) => return at_once(throttled(Some(date(wait)))),
            Quirk::Throttled => return at_once(throttled(None)),
            Quirk::RealmElsewhere => {
                let challenge = format!("Bearer realm=\"{ELSEWHERE}\",service=\"fake\"");
                return at_once(Fault::Answer(
                    401,
                    vec![("www-authenticate", challenge)],
                    errors("UNAUTHORIZED", "authentication required"),
                ));
            }
            _ => {}
        }
        let (repository, reference) = request.manifest()?;
        match self.quirk {
            Quirk::NotFoundForBlocked => at_once(envelope(404, "MANIFEST_UNKNOWN", "The named manifest is not known to the registry.")),
            Quirk::ForbiddenText => at_once(Fault::Answer(403, vec![("content-type", "text/plain".to_owned())], FIREWALL.to_owned())),
            Quirk::ForbiddenEnvelope => at_once(envelope(403, "DENIED", XRAY)),
            Quirk::ForbiddenBare => at_once(Fault::Answer(403, Vec::new(), String::new())),
            Quirk::ChildBlocked if shelf.is_child(repository, reference) => at_once(envelope(412, "PROJECTPOLICYVIOLATION", HARBOR)),
            Quirk::WrongDigest => at_once(served(String::from_utf8(image(&format!("instead of {reference}")).to_vec()).unwrap())),
            Quirk::NoDigest => at_once(Fault::Header("docker-content-digest", String::new())),
            Quirk::EndlessBody => at_once(Fault::EndlessBody),
            Quirk::RedirectToPrivate => {
                at_once(Fault::Answer(307, vec![("location", format!("{PRIVATE}{repository}/manifests/{reference}"))], String::new()))
            }
            Quirk::TagMovesBetweenHeadAndGet | Quirk::TagMovesBetweenLooks if !reference.contains(':') => {
                let head = request.method == Method::HEAD;
                let looks = self.looks.entry((repository.to_owned(), reference.to_owned())).or_default();
                *looks += usize::from(head);
                if *looks > 1 || (!head && self.quirk == Quirk::TagMovesBetweenHeadAndGet) {
                    let digest = shelf.push(repository, None, OCI_MANIFEST, moved(reference).into());
                    shelf.tag(repository, reference, &digest);
                }
                None
            }
            Quirk::SlowAnalysis(takes, ends) => {
                let began = *self.began.entry(repository.to_owned()).or_insert_with(Instant::now);
                let wait = (began + takes).saturating_duration_since(Instant::now());
                let fault = match ends {
                    Analysed::Quarantined => Some(Fault::Answer(403, Vec::new(), FIREWALL.to_owned())),
                    Analysed::Hidden => Some(envelope(404, "MANIFEST_UNKNOWN", "manifest unknown")),
                    Analysed::Released => None,
                    Analysed::Broken => Some(envelope(500, "UNKNOWN", "the analysis failed")),
                    Analysed::TooLong => Some(Fault::Answer(503, Vec::new(), COOPERATION.to_owned())),
                    Analysed::Never => Some(Fault::Hang),
                };
                Some(Plan { wait, fault })
            }
            Quirk::Hold(wait) if request.method == Method::GET => Some(Plan { wait, fault: None }),
            Quirk::OneSlow if self.slow.get_or_insert_with(|| repository.to_owned()) == repository => at_once(Fault::Hang),
            _ => None,
        }
    }
}
