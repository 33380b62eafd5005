//! What is held of each registry between questions: the line in front of it and its health.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;

use super::health::Health;
use crate::{api::Limits, line::Line, policy::RegistryEntry, registry::Endpoint};

/// Lines of hosts without a Registry object that are kept: their names come from authors of pods.
const MOST_UNLISTED: usize = 1_024;
/// Requests a second, and at once, at a host without a Registry object.
const UNLISTED: (u32, u32) = (20, 4);

/// The registries that were asked anything.
#[derive(Debug, Default)]
pub(super) struct Sources {
    lines: Mutex<Lines>,
    /// By the Registry object's name and where it is spoken to: of two objects for one host, one may be a proxy whose upstream is down.
    healths: Mutex<HashMap<(String, String), Arc<Health>>>,
}

#[derive(Debug, Default)]
struct Lines {
    listed: HashMap<String, (Limits, Line)>,
    unlisted: HashMap<String, Line>,
}

impl Sources {
    /// The line of a Registry, or of a host that none names.
    pub(super) fn line(&self, host: &str, registry: Option<&RegistryEntry>) -> Line {
        let mut lines = self.lines.lock();
        let Some(registry) = registry else {
            if let Some(line) = lines.unlisted.get(host) {
                return line.clone();
            }
            if lines.unlisted.len() >= MOST_UNLISTED {
                // Those where nobody waits; one that comes back begins with a full bucket, which for a stranger's host is no harm.
                lines.unlisted.retain(|_, line| line.waiting() > 0);
            }
            let (requests_per_second, concurrent_requests) = UNLISTED;
            let line = Line::new(&Limits { requests_per_second, concurrent_requests, ..Limits::default() });
            lines.unlisted.insert(host.to_owned(), line.clone());
            return line;
        };
        let limits = &registry.spec.limits;
        match lines.listed.get(&registry.name) {
            Some((held, line)) if held == limits => line.clone(),
            _ => {
                let line = Line::new(limits);
                lines.listed.insert(registry.name.clone(), (limits.clone(), line.clone()));
                line
            }
        }
    }

    /// The health of a registry that a Registry object names.
    pub(super) fn health(&self, registry: &str, endpoint: &Endpoint) -> Arc<Health> {
        self.healths.lock().entry((registry.to_owned(), endpoint.base.to_string())).or_default().clone()
    }

    /// Nobody speaks to it there any more.
    pub(super) fn forget(&self, registry: &str, endpoint: &Endpoint) {
        self.healths.lock().remove(&(registry.to_owned(), endpoint.base.to_string()));
    }

    /// Whether a registry is out, wherever it is spoken to.
    pub(super) fn is_out(&self, registry: &str) -> bool {
        self.healths.lock().iter().any(|((name, _), health)| name == registry && health.out().is_some())
    }

    /// How many registries are out.
    pub(super) fn out(&self) -> usize {
        self.healths.lock().values().filter(|health| health.out().is_some()).count()
    }

    /// Forgets registries that are gone.
    pub(super) fn keep(&self, exists: impl Fn(&str) -> bool) {
        self.lines.lock().listed.retain(|name, _| exists(name));
        self.healths.lock().retain(|(name, _), _| exists(name));
    }
}
