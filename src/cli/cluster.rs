//! The cluster of the kubeconfig: every call bounded in time, every error a sentence.

use std::{collections::BTreeMap, fmt::Debug, time::Duration};

use clap::Args;
use kube::{
    Api, Client, Config, Resource,
    api::ListParams,
    client::ClientBuilder,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde::de::DeserializeOwned;

use super::output;
use crate::{history::clip, unread::Unread};

/// How long one call may take.
const PATIENCE: Duration = Duration::from_secs(15);
/// Objects in one page of a list.
pub(super) const PAGE: u32 = 500;

/// Which cluster.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct ClusterArguments {
    /// The context of the kubeconfig, if not the current one
    #[arg(long, value_name = "NAME", global = true)]
    pub context: Option<String>,
}

impl ClusterArguments {
    /// A client, and the namespace of the context.
    pub(super) async fn connect(&self) -> anyhow::Result<(Client, String)> {
        let mut config = match &self.context {
            None => Config::infer().await.map_err(|error| anyhow::anyhow!("no cluster to ask: {error}"))?,
            Some(context) => {
                let no = |error| anyhow::anyhow!("no cluster to ask: {error}");
                let options = KubeConfigOptions { context: Some(context.clone()), ..KubeConfigOptions::default() };
                Config::from_custom_kubeconfig(Kubeconfig::read().map_err(no)?, &options).await.map_err(no)?
            }
        };
        config.connect_timeout = Some(Duration::from_secs(5));
        config.default_retry = false;
        let namespace = config.default_namespace.clone();
        let client = ClientBuilder::try_from(config).map_err(|error| anyhow::anyhow!("no cluster to ask: {error}"))?.build();
        Ok((client, namespace))
    }
}

/// Every object of a kind but those that cannot be read, which are named: in the cluster they are not in force either.
pub(super) async fn list_readable<K>(client: &Client) -> anyhow::Result<Vec<K>>
where
    K: Resource<DynamicType = (), Scope = kube::core::ClusterResourceScope> + Clone + Debug + DeserializeOwned,
{
    let mut readable = Vec::new();
    for object in list::<Unread<K>>(client).await? {
        match object.read() {
            Ok(object) => readable.push(object),
            Err(invalid) => {
                let (kind, name, error) = (K::kind(&()), invalid.name, clip(&invalid.error, 200));
                output::note(&format!("{kind} {name} cannot be read and counts for nothing: {error}"));
            }
        }
    }
    Ok(readable)
}

/// Every object of a kind, page by page.
pub(super) async fn list<K>(client: &Client) -> anyhow::Result<Vec<K>>
where
    K: Resource<DynamicType = (), Scope = kube::core::ClusterResourceScope> + Clone + Debug + DeserializeOwned,
{
    let api = Api::<K>::all(client.clone());
    let mut all = Vec::new();
    let mut params = ListParams::default().limit(PAGE);
    loop {
        let page = call(&format!("list {}", K::plural(&())), api.list(&params)).await?;
        all.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(all),
        }
    }
}

/// The labels of every object of a kind, by name.
pub(super) async fn labels<K>(client: &Client) -> Result<BTreeMap<String, BTreeMap<String, String>>, Failed>
where
    K: Resource<DynamicType = (), Scope = kube::core::ClusterResourceScope> + Clone + Debug + DeserializeOwned,
{
    let api = Api::<K>::all(client.clone());
    let mut all = BTreeMap::new();
    let mut params = ListParams::default().limit(PAGE);
    loop {
        let page = call(&format!("list {}", K::plural(&())), api.list_metadata(&params)).await?;
        all.extend(
            page.items.into_iter().map(|object| (object.metadata.name.unwrap_or_default(), object.metadata.labels.unwrap_or_default())),
        );
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(all),
        }
    }
}

/// A call that failed, as a sentence.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what}: {why}")]
pub(super) struct Failed {
    what: String,
    why: String,
    /// The status that the server answered with; 0 when it did not answer.
    pub code: u16,
}

/// One call, bounded in time. `what` completes the sentence that begins with "cannot".
pub(super) async fn call<T>(what: &str, call: impl Future<Output = kube::Result<T>>) -> Result<T, Failed> {
    let failed = |why, code| Err(Failed { what: what.to_owned(), why, code });
    match tokio::time::timeout(PATIENCE, call).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => {
            let (why, code) = reason(&error);
            failed(why, code)
        }
        Err(_) => failed(format!("the API server did not answer within {} s", PATIENCE.as_secs()), 0),
    }
}

/// The server's own sentence where it said one.
fn reason(error: &kube::Error) -> (String, u16) {
    match error {
        kube::Error::Api(status) if status.code == 404 && status.message.contains("could not find the requested resource") => {
            ("this cluster does not know Lazaretto's resources; is the chart installed?".to_owned(), status.code)
        }
        kube::Error::Api(status) => (clip(&status.message, 1_000), status.code),
        error => {
            let chain: Vec<String> =
                std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source()).map(ToString::to_string).collect();
            let root = chain.last().map_or("it failed", String::as_str);
            let unreachable = matches!(error, kube::Error::Service(_) | kube::Error::HyperError(_));
            let why = if unreachable { format!("the API server of the kubeconfig cannot be reached: {root}") } else { root.to_owned() };
            (clip(&why, 1_000), 0)
        }
    }
}
