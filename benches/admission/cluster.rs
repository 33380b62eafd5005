//! The laboratory of the end-to-end tests, for the parts that need a real API server: one for all of them, with the chart in it and no
//! replica.

use std::{path::Path, time::Duration};

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use tokio::sync::OnceCell;
use url::Url;

use crate::e2e::lab::{Lab, install::Installation};

/// The chart's namespace.
pub use crate::e2e::lab::install::NAMESPACE;
/// The ServiceAccount that the chart makes for the program.
pub const ACCOUNT: &str = "lazaretto";

/// The laboratory. Whoever comes first starts it and installs the chart; its processes end with ours.
pub async fn lab() -> &'static Lab {
    static INSTALLATION: OnceCell<Installation> = OnceCell::const_new();
    let lab = Lab::start().await;
    INSTALLATION.get_or_init(|| Installation::new(lab, &[])).await;
    lab
}

/// A client as the program makes it for itself. It belongs to the runtime that this is called on.
pub async fn client(kubeconfig: &Path) -> Client {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).unwrap();
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    config.connect_timeout = Some(Duration::from_secs(5));
    config.default_retry = false;
    Client::try_from(config).unwrap()
}

/// The way to an API server, for those who show it what others gave them.
#[derive(Clone)]
pub struct Reach {
    /// Where it is.
    pub server: Url,
    /// Believes it.
    pub http: reqwest::Client,
}

/// The API server of a kubeconfig file.
pub async fn reach(kubeconfig: &Path) -> Reach {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    let roots = config.root_cert.iter().flatten().map(|der| reqwest::Certificate::from_der(der).unwrap());
    let http = reqwest::Client::builder().no_proxy().tls_certs_only(roots).build().unwrap();
    Reach { server: config.cluster_url.to_string().parse().unwrap(), http }
}
