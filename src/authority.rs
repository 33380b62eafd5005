//! The certificate authority and the leaf, in a Secret that the replicas share.
//!
//! One Secret, because replicas share one Service: with an authority per replica the last to write the caBundle would win, and the others would
//! serve an issuer that nobody knows. Any replica makes or renews it, by compare-and-swap on resourceVersion; the loser of a race takes what
//! the winner wrote. No leader is needed, so certificates do not wait for an election.
//!
//! # The order of a rotation
//!
//! A leaf may be served only where its authority is already trusted, and an authority may leave the bundle only when nobody serves its leaves.
//! Replicas, API servers and the one who injects the bundle all lag, so each step is its own write and waits for the one before:
//!
//! 1. *Announce.* At two thirds of the authority's life the next one is made and put into the bundle. It signs nothing.
//! 2. *Confirm.* Whoever injects the bundle reads it back from the API server and calls [`Trust::confirm`].
//! 3. *Promote.* An hour after 1 at the earliest, and after 2, the next authority signs a new leaf and takes its place. The old certificate
//!    stays in the bundle (`previous-ca.crt`, without its key), for the replica that has not yet seen the new leaf.
//!
//! Without a confirmation step 3 happens at five sixths of the authority's life all the same: who could not confirm for four months will not
//! before it ends, and by then waiting breaks what promoting may still save (an installation that injects the bundle by other means, say).
//!
//! A new leaf from the same authority needs no such order. A Secret that was deleted is made anew, which is how a person throws a key away;
//! one whose authority cannot be read or is over is made anew too. Then leaf and bundle change at once, and the calls between them fail: a
//! second or two, unless nobody injects.
//!
//! # Rights
//!
//! In the own namespace: `create` on secrets, and `get`, `list`, `watch`, `update` on the one by name. List and watch are allowed by name
//! since they carry the field selector `metadata.name=…`.

mod issue;
mod plan;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::{Stream, StreamExt};
use jiff::Timestamp;
use k8s_openapi::{
    ByteString,
    api::core::v1::Secret,
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::{
    Api, Client,
    api::PostParams,
    runtime::{WatchStreamExt, watcher},
};
use rustls_pki_types::ServerName;
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::tls::CurrentCertificate;
use issue::carry_out;
use plan::{Contents, Step, plan};

/// The longest that one call to the API server may take.
const CALL: Duration = Duration::from_secs(10);

/// How often the wall clock is asked whether something is due. A turn begins with a read, so this also catches what a silent watch withheld.
const TICK: Duration = Duration::from_secs(60);

/// When to try again after a turn that failed.
const RETRY: Duration = Duration::from_secs(5);

/// Turns are no closer than this, however often somebody else writes the Secret.
const SPACING: Duration = Duration::from_secs(1);

/// Steps and lost races in one turn. A rotation takes two; more means that somebody writes against us.
const STEPS: usize = 5;

/// Where the Secret is and for whom the leaf is made.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The Secret's namespace: our own.
    pub namespace: String,
    /// The Secret's name.
    pub secret: String,
    /// The names that the leaf must answer to.
    pub names: Names,
    /// What the Secret is deleted with. Set when it is made, never later.
    pub owners: Vec<OwnerReference>,
}

/// The DNS names and addresses of the leaf.
#[derive(Clone, Debug)]
pub struct Names(Vec<ServerName<'static>>);

/// A name that is neither a DNS name nor an IP address.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is neither a DNS name nor an IP address")]
pub struct InvalidName(String);

/// Keeps the Secret, the certificate in use and the bundle up to date.
pub struct Authority {
    secrets: Api<Secret>,
    settings: Settings,
    certificate: Arc<CurrentCertificate>,
    bundle: watch::Sender<Option<Vec<u8>>>,
    confirmed: watch::Receiver<Vec<u8>>,
}

/// The bundle, for whoever injects it.
pub struct Trust {
    bundle: watch::Receiver<Option<Vec<u8>>>,
    confirmed: watch::Sender<Vec<u8>>,
}

/// A turn that did not come to its end. It is tried again.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("the API server did not answer within {} s", CALL.as_secs())]
    Slow,
    #[error(transparent)]
    Kube(#[from] kube::Error),
    #[error("a certificate could not be made: {0}")]
    Issue(#[from] issue::IssueError),
    #[error("somebody else keeps changing the Secret")]
    Contended,
}

// === impl Names ===

impl Names {
    /// The names of a Service within the cluster (the API server asks for the first), and `extra` ones, DNS or IP.
    pub fn new(service: &str, namespace: &str, extra: &[String]) -> Result<Self, InvalidName> {
        let own = ["svc", "svc.cluster.local"].map(|suffix| format!("{service}.{namespace}.{suffix}"));
        let all = own.into_iter().chain([format!("{service}.{namespace}")]).chain(extra.iter().cloned());
        all.map(|name| ServerName::try_from(name.clone()).map_err(|_| InvalidName(name))).collect::<Result<_, _>>().map(Self)
    }
}

// === impl Trust ===

impl Trust {
    /// The caBundle to inject, PEM. None until the first certificate is in use.
    pub fn bundle(&self) -> watch::Receiver<Option<Vec<u8>>> {
        self.bundle.clone()
    }

    /// Says what now stands in *every* webhook configuration of ours, as read back from the API server: where several differ, nothing.
    pub fn confirm(&self, standing: Vec<u8>) {
        self.confirmed.send_if_modified(|old| {
            let changed = *old != standing;
            *old = standing;
            changed
        });
    }
}

// === impl Authority ===

impl Authority {
    /// Nothing is asked of the API server before [`run`](Self::run).
    pub fn new(client: Client, settings: Settings, certificate: Arc<CurrentCertificate>) -> (Self, Trust) {
        let (bundle, bundle_receiver) = watch::channel(None);
        let (confirmed_sender, confirmed) = watch::channel(Vec::new());
        let secrets = Api::namespaced(client, &settings.namespace);
        let trust = Trust { bundle: bundle_receiver, confirmed: confirmed_sender };
        (Self { secrets, settings, certificate, bundle, confirmed }, trust)
    }

    /// Runs until `stop`. A failure is logged and tried again; what is in use stays in use.
    ///
    /// To load before binding: spawn this and wait until [`Trust::bundle`] holds something.
    pub async fn run(mut self, stop: CancellationToken) {
        let selector = format!("metadata.name={}", self.settings.secret);
        let events = watcher(self.secrets.clone(), watcher::Config::default().fields(&selector)).default_backoff();
        tokio::pin!(events);
        loop {
            let begun = Instant::now();
            let outcome = tokio::select! {
                outcome = self.turn(Timestamp::now()) => outcome,
                () = stop.cancelled() => return,
            };
            let pause = match outcome {
                Ok(()) => TICK,
                Err(error) => {
                    tracing::warn!(%error, secret = self.settings.secret, "the certificate's Secret is not settled; trying again");
                    RETRY
                }
            };
            let woken = async {
                tokio::select! {
                    () = changes(&mut events) => {}
                    Ok(()) = self.confirmed.changed() => {}
                    () = tokio::time::sleep(pause) => {}
                }
                tokio::time::sleep_until(begun + SPACING).await;
            };
            tokio::select! {
                () = woken => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Reads the Secret, puts it to use, and takes steps until there is nothing to do.
    async fn turn(&mut self, now: Timestamp) -> Result<(), Error> {
        for _ in 0..STEPS {
            let stored = bounded(self.secrets.get_opt(&self.settings.secret)).await?;
            let contents = stored.as_ref().and_then(|secret| secret.data.as_ref()).map(Contents::read).unwrap_or_default();
            let step = plan(&contents, &self.settings.names.0, &self.confirmed.borrow_and_update(), now);
            if step != Step::Create {
                self.adopt(&contents);
            }
            if step == Step::Keep {
                return Ok(());
            }
            let next = carry_out(step, contents, &self.settings.names.0, now)?;
            match self.write(stored, &next).await {
                Ok(()) => tracing::info!(?step, secret = self.settings.secret, "certificates renewed"),
                Err(Error::Kube(kube::Error::Api(status)))
                    if status.is_conflict() || status.is_already_exists() || status.is_not_found() =>
                {
                    tracing::debug!(?step, "another replica was first");
                }
                Err(error) => return Err(error),
            }
        }
        Err(Error::Contended)
    }

    /// Creates, or replaces exactly the version that was read; foreign keys, type and metadata stay.
    async fn write(&self, stored: Option<Secret>, contents: &Contents) -> Result<(), Error> {
        let parameters = PostParams::default();
        if let Some(mut secret) = stored {
            contents.write(secret.data.get_or_insert_default());
            bounded(self.secrets.replace(&self.settings.secret, &parameters, &secret)).await?;
        } else {
            let mut data = BTreeMap::<String, ByteString>::new();
            contents.write(&mut data);
            let metadata = ObjectMeta {
                name: Some(self.settings.secret.clone()),
                labels: Some([("app.kubernetes.io/managed-by".to_owned(), "lazaretto".to_owned())].into()),
                owner_references: (!self.settings.owners.is_empty()).then(|| self.settings.owners.clone()),
                ..ObjectMeta::default()
            };
            let secret = Secret { metadata, data: Some(data), type_: Some("Opaque".to_owned()), ..Secret::default() };
            bounded(self.secrets.create(&parameters, &secret)).await?;
        }
        Ok(())
    }

    /// Puts to use what can be used: a leaf that is about to be renewed is still better than none.
    fn adopt(&self, contents: &Contents) {
        let Some(leaf) = &contents.leaf else { return };
        if let Err(error) = self.certificate.set_pem(&leaf.certificate.pem, &leaf.key) {
            tracing::warn!(%error, "the certificate in use stays");
            return;
        }
        self.bundle.send_if_modified(|bundle| {
            let new = Some(contents.bundle());
            let changed = *bundle != new;
            *bundle = new;
            changed
        });
    }
}

async fn bounded<T>(call: impl Future<Output = kube::Result<T>>) -> Result<T, Error> {
    Ok(tokio::time::timeout(CALL, call).await.map_err(|_| Error::Slow)??)
}

/// Until the watch reports a change, or the end of a list, in which the Secret may be missing. Its failures are only noted: it comes back by
/// itself, and the tick does its work in the meantime.
async fn changes(events: &mut (impl Stream<Item = watcher::Result<watcher::Event<Secret>>> + Unpin)) {
    loop {
        match events.next().await {
            Some(Ok(watcher::Event::Apply(_) | watcher::Event::Delete(_) | watcher::Event::InitDone)) => return,
            Some(Ok(watcher::Event::Init | watcher::Event::InitApply(_))) => {}
            Some(Err(error)) => tracing::debug!(%error, "the watch on the certificate's Secret was interrupted"),
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests;
