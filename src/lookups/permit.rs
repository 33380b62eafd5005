//! Whether a registry shows an image to whoever shows a pod's own pull secrets.
//!
//! Asked by a HEAD of the manifest, once for everybody who shows the same. That it does is remembered for a while for the whole repository, told apart by
//! what was shown, so that a warm admission asks nobody and an outage takes nobody's permission away. That it does not is remembered for seconds, and of
//! the one image: a name that is misspelt bars nobody from the others.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    Access, Lookups, NoAccess,
    ask::{Context, Parts, endpoint},
    busy,
    keys::{PermitKey, ShownKey, place},
    ticket,
};
use crate::{
    facts::{Busy, Outcome},
    flights::Found,
    image::Reference,
    line::Class,
    memory::Memory,
    metrics::{Asked, QuestionLabels},
    policy::RegistryEntry,
    registry::TagOrDigest,
};

/// Credentials that are tried for one image. A kubelet tries all; here each is a question to a registry.
const MOST_TRIED: usize = 8;
/// Permissions that are remembered.
const MOST_PERMITS: usize = 16_384;

/// Who was seen to be shown which repositories, and until when that counts.
#[derive(Debug)]
pub(super) struct Permits(Mutex<Memory<ShownKey, Instant>>);

impl Default for Permits {
    fn default() -> Self {
        Self(Mutex::new(Memory::new(MOST_PERMITS)))
    }
}

impl Permits {
    fn hold(&self, key: &ShownKey) -> bool {
        self.0.lock().get(key).is_some_and(|until| *until > Instant::now())
    }
}

impl Lookups {
    /// Whether it was shown to whoever shows this a while ago.
    #[must_use]
    pub fn was_permitted(&self, image: &Reference, registry: Option<&Arc<RegistryEntry>>, access: &Access) -> bool {
        self.parts.permits.hold(&ShownKey::new(image, access.identity, place(registry)))
    }

    /// Whether the registry shows an image to whoever shows one of these, asked until the deadline. Whoever has nothing to show is refused without a
    /// question.
    pub async fn permit(
        &self,
        image: &Reference,
        registry: &Arc<RegistryEntry>,
        shown: Result<Vec<Access>, NoAccess>,
        namespace: &str,
        deadline: Instant,
    ) -> Outcome<()> {
        let shown = match shown {
            Ok(shown) => shown,
            Err(why) => return why.outcome(),
        };
        let shown: Vec<Access> = shown.into_iter().take(MOST_TRIED).collect();
        let place = place(Some(registry));
        if shown.iter().any(|access| self.parts.permits.hold(&ShownKey::new(image, access.identity, place))) {
            return Outcome::Found(());
        }
        let mut open = None;
        for access in shown {
            let key = PermitKey { image: image.clone(), access: access.identity, place };
            let (parts, asked, namespace) = (self.parts.clone(), key.clone(), namespace.to_owned());
            let share = namespace.clone();
            let flight = || parts.prove_access(asked, registry.clone(), access, namespace);
            let end = self.parts.permissions.get(key, ticket(Some(registry), &share), deadline, flight).await.unwrap_or_else(busy);
            match end {
                Outcome::Found(()) => return end,
                Outcome::Pending(_) | Outcome::Unavailable(_) | Outcome::Busy(_) => open = open.or(Some(end)),
                Outcome::Absent
                | Outcome::Hidden
                | Outcome::Refused
                | Outcome::Blocked(_)
                | Outcome::Misbehaved(_)
                | Outcome::Unauthorized(_) => {}
            }
        }
        open.unwrap_or(Outcome::Refused)
    }
}

impl Parts {
    async fn prove_access(
        self: Arc<Self>,
        key: PermitKey,
        registry: Arc<RegistryEntry>,
        access: Access,
        namespace: String,
    ) -> Found<Outcome<()>> {
        let outcome = self.ask_permit(&key.image, &registry, &access, &namespace).await;
        self.metrics.questions.get_or_create(&QuestionLabels { question: Asked::Permit, outcome: outcome.kind() }).inc();
        let elsewhere = self.place_of(key.image.registry(), key.image.repository()) != key.place;
        let outcome = match outcome {
            // Somebody else answered than whom the Registry object names by now.
            Outcome::Found(()) if elsewhere => Outcome::Busy(Busy::UNANSWERED),
            other => other,
        };
        let found = self.found(outcome, self.lives.permit);
        if matches!(found.value, Outcome::Found(())) {
            let shown = ShownKey::new(&key.image, key.access, key.place);
            self.permits.0.lock().insert(shown, Instant::now() + found.fresh_for);
        }
        found
    }

    async fn ask_permit(
        self: &Arc<Self>,
        image: &Reference,
        registry: &Arc<RegistryEntry>,
        access: &Access,
        namespace: &str,
    ) -> Outcome<()> {
        let endpoint = match endpoint(image.registry(), Some(registry)) {
            Ok(endpoint) => endpoint,
            Err(error) => return Outcome::Misbehaved(error),
        };
        let repository = image.repository();
        let context =
            Context { registry: Some(registry), endpoint: &endpoint, access, repository, class: Class::Admission, namespace, known: false };
        let reference = match image.digest() {
            Some(digest) => TagOrDigest::Digest(digest),
            None => TagOrDigest::Tag(image.tag().unwrap_or("latest")),
        };
        self.ask(&context, async |client| client.permits(&endpoint, &access.credentials, repository, reference).await).await
    }
}
