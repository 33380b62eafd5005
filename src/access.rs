//! Which pods may use which repositories of a registry, as far as its Registry object says.
//!
//! Pure, and apart from what is known of images: that an image is known, good and in every node's cache is no permission to use it. Of the rules the
//! first counts that speaks of a repository; where there are rules and none speaks of it, nobody may use it. What a rule asks for is a [`Demand`];
//! whether a pod's own credentials meet it is asked elsewhere ([`crate::lookups`]), and judged in [`crate::verdict`].

use std::collections::BTreeMap;

use kube::core::{Selector, SelectorExt as _};

use crate::{
    api::{self, Account},
    pattern::Pattern,
    policy::{Unreadable, path_patterns, selector},
};

/// What has to be the case for a pod to use an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Demand {
    /// Nothing.
    #[default]
    Nothing,
    /// The registry shows it to everybody: it is asked without credentials.
    Anonymous,
    /// The registry shows it to whoever shows the pod's own pull secrets.
    PullSecret,
    /// The pod may not use it.
    Forbidden,
    /// Nobody uses what the Registry excludes.
    Impossible,
}

/// A pod, as far as rules know it. Nothing of it is its author's to choose without a right to it.
#[derive(Clone, Copy, Debug)]
pub struct Who<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// That namespace's labels.
    pub labels: &'a BTreeMap<String, String>,
    /// Its ServiceAccount.
    pub service_account: &'a str,
}

/// The access rules of a Registry, made ready.
#[derive(Clone, Debug, Default)]
pub struct AccessRules(Vec<Rule>);

#[derive(Clone, Debug)]
struct Rule {
    paths: Vec<Pattern>,
    to: To,
}

#[derive(Clone, Debug)]
enum To {
    Everybody,
    Those { allow: Option<Allow>, prove: bool },
}

#[derive(Clone, Debug)]
struct Allow {
    selector: Option<Selector>,
    namespaces: Vec<String>,
    accounts: Vec<Account>,
}

impl Allow {
    fn read(allow: &api::AccessAllow) -> Result<Self, Unreadable> {
        let api::AccessAllow { namespace_selector, namespaces, service_accounts } = allow;
        let selector = match namespace_selector {
            // To Kubernetes it is every namespace; here nobody means that who does not say `anonymous`.
            Some(empty) if is_empty(empty) => {
                return Err(Unreadable::Access("an empty namespaceSelector allows nobody: leave it out".to_owned()));
            }
            Some(given) => Some(selector(given.clone()).map_err(|why| Unreadable::Access(format!("namespaceSelector: {why}")))?),
            None => None,
        };
        Ok(Self { selector, namespaces: namespaces.clone(), accounts: service_accounts.clone() })
    }

    fn holds(&self, who: &Who<'_>) -> bool {
        self.namespaces.iter().any(|namespace| namespace == who.namespace)
            || self.accounts.iter().any(|account| account.namespace == who.namespace && account.name == who.service_account)
            || self.selector.as_ref().is_some_and(|selector| selector.matches(who.labels))
    }
}

fn is_empty(selector: &k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector) -> bool {
    selector.match_labels.as_ref().is_none_or(BTreeMap::is_empty) && selector.match_expressions.as_ref().is_none_or(Vec::is_empty)
}

impl AccessRules {
    /// Makes rules ready.
    ///
    /// # Errors
    /// A pattern or selector that cannot be read, or a rule that does not say for whom it is.
    pub fn read(rules: &[api::AccessRule]) -> Result<Self, Unreadable> {
        let read = |rule: &api::AccessRule| {
            let to = match (rule.anonymous, &rule.allow, rule.prove) {
                (true, None, None) => To::Everybody,
                (false, None, None) | (true, ..) => {
                    return Err(Unreadable::Access("say for whom a rule is: either anonymous: true, or allow, prove or both".to_owned()));
                }
                (false, allow, prove) => To::Those { allow: allow.as_ref().map(Allow::read).transpose()?, prove: prove.is_some() },
            };
            Ok(Rule { paths: path_patterns("spec.access", &rule.paths)?, to })
        };
        Ok(Self(rules.iter().map(read).collect::<Result<_, _>>()?))
    }

    /// What the rules ask of a pod that wants to use a repository.
    #[must_use]
    pub fn demand(&self, repository: &str, who: &Who<'_>) -> Demand {
        if self.0.is_empty() {
            return Demand::Nothing;
        }
        let speaks = |rule: &&Rule| rule.paths.iter().any(|pattern| pattern.matches(repository));
        match self.0.iter().find(speaks).map(|rule| &rule.to) {
            None => Demand::Forbidden,
            Some(To::Everybody) => Demand::Anonymous,
            Some(To::Those { allow: Some(allow), .. }) if !allow.holds(who) => Demand::Forbidden,
            Some(To::Those { prove: true, .. }) => Demand::PullSecret,
            Some(To::Those { prove: false, .. }) => Demand::Nothing,
        }
    }

    /// Whether they choose namespaces by their labels.
    #[must_use]
    pub fn asks_labels(&self) -> bool {
        self.0.iter().any(|rule| matches!(&rule.to, To::Those { allow: Some(Allow { selector: Some(_), .. }), .. }))
    }
}

#[cfg(test)]
mod tests;
