//! The chart, installed by helm, and its webhook's Service.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU8, Ordering};

use futures::FutureExt;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::api::ListParams;
use kube::{Api, ResourceExt};

use tokio::sync::OnceCell;

use super::forwarder::Forwarder;
use super::process::Output;
use super::replica::Replica;
use super::wait::{MOMENT, eventually};
use super::{Lab, ROOT};

/// The release's name, which is also that of its Deployment.
pub const RELEASE: &str = "lazaretto";
/// The namespace it is installed into.
pub const NAMESPACE: &str = "lazaretto-system";
/// The Service of the webhook.
pub const SERVICE: &str = "lazaretto-webhook";

/// A laboratory with the chart at its default values and two ready replicas, shared by the tests that leave them as they
/// are: such a test makes a namespace and policies that speak of this namespace only.
pub struct World {
    /// The laboratory.
    pub lab: Lab,
    /// The release in it.
    pub installation: Installation,
    /// Its replicas.
    pub replicas: Vec<Replica>,
}

impl World {
    /// The shared one. Whoever comes first makes it.
    pub async fn shared() -> &'static Self {
        static WORLD: OnceCell<Option<World>> = OnceCell::const_new();
        let world = WORLD.get_or_init(async || AssertUnwindSafe(Self::fresh(&[])).catch_unwind().await.ok());
        world.await.as_ref().expect("the shared installation did not start; the first test that asked for it says why")
    }

    /// One of a test's own, with these values.
    pub async fn fresh(values: &[(&str, &str)]) -> Self {
        let lab = Lab::fresh().await;
        let installation = Installation::new(&lab, values).await;
        let replicas = installation.replicas(&lab, 2).await;
        Self { lab, installation, replicas }
    }
}

/// An installed release. Its pods stay Pending; [`Installation::replica`] runs the program in their stead.
pub struct Installation {
    forwarder: Forwarder,
    next: AtomicU8,
}

impl Installation {
    /// Installs the chart with `values` (`--set`), which returns when the API server has taken every object.
    pub async fn new(lab: &Lab, values: &[(&str, &str)]) -> Self {
        helm(lab, "install", values).await.ok();
        let services: Api<Service> = Api::namespaced(lab.client().await, NAMESPACE);
        let spec = services.get(SERVICE).await.unwrap().spec.unwrap();
        let ip: IpAddr = spec.cluster_ip.unwrap().parse().unwrap();
        let port = u16::try_from(spec.ports.unwrap()[0].port).unwrap();
        Self { forwarder: Forwarder::start(SocketAddr::new(ip, port)).await, next: AtomicU8::new(1) }
    }

    /// `helm upgrade` to the chart with other values; what was set before is kept.
    pub async fn upgrade(&self, lab: &Lab, values: &[(&str, &str)]) -> Output {
        helm(lab, "upgrade", values).await
    }

    /// `helm uninstall`.
    pub async fn uninstall(&self, lab: &Lab) -> Output {
        lab.helm(&["uninstall", RELEASE, "--namespace", NAMESPACE]).await
    }

    /// The Deployment as the API server holds it.
    pub async fn deployment(&self, lab: &Lab) -> Deployment {
        Api::namespaced(lab.client().await, NAMESPACE).get(RELEASE).await.unwrap()
    }

    /// Starts one replica: the program, in the place of a pod of the Deployment. It takes requests once it is ready.
    pub async fn replica(&self, lab: &Lab) -> Replica {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let deployment = self.deployment(lab).await;
        let pod = self.pod(lab, &deployment, usize::from(number)).await;
        Replica::start(lab, &self.forwarder, &deployment, number, &pod).await
    }

    /// Starts `count` replicas and waits until all are ready.
    pub async fn replicas(&self, lab: &Lab, count: usize) -> Vec<Replica> {
        let mut replicas = Vec::new();
        for _ in 0..count {
            replicas.push(self.replica(lab).await);
        }
        for replica in &replicas {
            replica.wait_ready().await;
        }
        self.wait_for_ready(count).await;
        replicas
    }

    /// Waits until exactly `count` replicas take requests through the Service.
    pub async fn wait_for_ready(&self, count: usize) {
        self.forwarder.wait_for_ready(count).await;
    }

    /// The name of the pod that replica `number` stands for: one of the Deployment's own as long as there are any left.
    /// That they exist shows that the installation does not keep itself from starting.
    async fn pod(&self, lab: &Lab, deployment: &Deployment, number: usize) -> String {
        let spec = deployment.spec.as_ref().unwrap();
        if usize::try_from(spec.replicas.unwrap_or(1)).unwrap() < number {
            return format!("{}-extra-{number}", deployment.name_any());
        }
        let labels: Vec<_> = spec.selector.match_labels.iter().flatten().map(|(k, v)| format!("{k}={v}")).collect();
        let selector = ListParams::default().labels(&labels.join(","));
        let pods: Api<Pod> = Api::namespaced(lab.client().await, NAMESPACE);
        eventually(MOMENT, "the Deployment has its pods", async || {
            let mut names: Vec<_> = pods.list(&selector).await?.iter().map(ResourceExt::name_any).collect();
            names.sort();
            names.into_iter().nth(number - 1).ok_or_else(|| anyhow::anyhow!("fewer than {number}"))
        })
        .await
    }
}

/// The Service's port, unless the values name it: 443, or a higher one where only root may listen on that.
fn service_port(lab: &Lab) -> Option<&'static str> {
    let forbidden = TcpListener::bind((lab.addresses.control_plane(), 443));
    forbidden.is_err().then_some("webhook.servicePort=8443")
}

async fn helm(lab: &Lab, verb: &str, values: &[(&str, &str)]) -> Output {
    let chart = format!("{ROOT}/charts/lazaretto");
    let mut arguments = vec![verb, RELEASE, chart.as_str(), "--namespace", NAMESPACE];
    arguments.push(if verb == "install" { "--create-namespace" } else { "--reuse-values" });
    let values: Vec<_> = values.iter().map(|(name, value)| format!("{name}={value}")).collect();
    arguments.extend(service_port(lab).iter().flat_map(|value| ["--set", *value]));
    arguments.extend(values.iter().flat_map(|value| ["--set", value.as_str()]));
    lab.helm(&arguments).await
}
