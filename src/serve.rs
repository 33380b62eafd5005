//! Makes the parts of a replica, joins them, and ends when one that matters ends.

use std::{collections::HashSet, sync::Arc, time::Duration};

use anyhow::Context as _;
use futures::{FutureExt as _, future::BoxFuture};
use k8s_openapi::api::core::v1::{Namespace, Node};
use kube::{Client, client::ClientBuilder, config::Config, core::PartialObjectMeta};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::{
    Layer as _,
    filter::{LevelFilter, Targets},
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

use crate::{
    admin::{self, Condition, Readiness},
    api::{ImageStatus, QuarantinePolicy, Registry, Waiver},
    audit,
    authority::{self, Authority},
    cli::serve::{LogFormat, ServeArguments},
    gate::Gate,
    lease::Lease,
    lookups::{Lives, Lookups},
    metrics::Metrics,
    operator::{self, Operator},
    owners,
    registry::{ClientOptions, Proxies, RegistryClient},
    roots,
    shutdown::{self, Shutdown, Tasks},
    tls::{CurrentCertificate, Limits, Listener},
    wallet::Wallet,
    watch::{self as watches, Images, Namespaces, Nodes, Rules, SharedIndex},
    webhook,
    writer::{Caps, Writer},
};

/// The names of the Lease, of the Secret with the certificates and of the ServiceAccount that owns both; the chart's rights name them, too.
const LEASE: &str = "lazaretto";
const TLS_SECRET: &str = "lazaretto-tls";
const SERVICE_ACCOUNT: &str = "lazaretto";

/// Runs a replica until a signal, or until a part that matters ends.
///
/// # Errors
/// When the arguments cannot be used, or what ended too early.
pub async fn run(arguments: ServeArguments) -> anyhow::Result<()> {
    logging(&arguments);
    let client = client().await?;
    let (metrics, families) = Metrics::new();
    let readiness = Readiness::default();
    let shutdown = Shutdown::default();
    let mut tasks = Tasks::new(shutdown.clone());
    let draining = readiness.condition("not-draining");
    draining.set(true);

    let index = SharedIndex::default();
    let caps = Caps { total: arguments.max_image_statuses, per_namespace: arguments.max_image_statuses_per_namespace };
    let writer = Writer::new(client.clone(), index.clone(), caps, metrics.clone());
    let registries = RegistryClient::new(client_options(&arguments)?).context("cannot make the registry client")?;
    let lookups = Arc::new(Lookups::new(Arc::new(registries), index.clone(), Some(writer.clone()), metrics.clone(), Lives::default()));
    let wallet = Arc::new(Wallet::new(client.clone(), &arguments.namespace, arguments.pod_pull_secrets));

    let (rules_sender, rules_changed) = watch::channel(0);
    let (images_sender, images_changed) = watch::channel(0);
    let roots = roots::run(client.clone(), arguments.namespace.clone(), index.clone(), rules_sender.clone(), shutdown.stopping().clone());
    tasks.spawn("trusted-roots", roots);
    let watched = spawn_watches(&mut tasks, shutdown.stopping(), &client, &index, &readiness, rules_sender, images_sender, &lookups);

    let certificate = Arc::new(CurrentCertificate::default());
    let names = authority::Names::new(&arguments.service_name, &arguments.namespace, &arguments.tls_names)?;
    let owners = owners::service_account(client.clone(), &arguments.namespace, SERVICE_ACCOUNT).await;
    let settings =
        authority::Settings { namespace: arguments.namespace.clone(), secret: TLS_SECRET.to_owned(), names, owners: owners.clone() };
    let (authority, trust) = Authority::new(client.clone(), settings, certificate.clone());
    let mut bundle = trust.bundle();
    tasks.spawn("authority", authority.run(shutdown.stopping().clone()));
    let certified = readiness.condition("certificate");

    let excluded: HashSet<String> =
        arguments.excluded_namespaces.iter().filter(|name| !name.is_empty()).cloned().chain([arguments.namespace.clone()]).collect();
    let (audit, writing) = audit::Desk::new();
    tasks.spawn("audit", writing);
    let gate = Arc::new(Gate {
        audit,
        index: index.clone(),
        lookups: lookups.clone(),
        wallet: wallet.clone(),
        client: Some(client.clone()),
        excluded: excluded.clone(),
        metrics: metrics.clone(),
    });

    let administration = Listener::plain(arguments.admin_address, admin::limits())
        .await
        .with_context(|| format!("cannot listen on {}", arguments.admin_address))?;
    tracing::info!(address = %administration.address(), "probes and metrics");
    tasks.try_spawn("admin", administration.serve(admin::router(readiness.clone(), Arc::new(families)), shutdown.stopping().clone()));

    // Whoever cannot shake hands should not be connected to: the webhook's port opens with the first certificate.
    let (address, stopping, serving) = (arguments.webhook_address, shutdown.stopping().clone(), certificate.clone());
    tasks.try_spawn("webhook", async move {
        tokio::select! {
            found = bundle.wait_for(Option::is_some) => drop(found.map_err(|_| anyhow::anyhow!("the authority ended"))?),
            () = stopping.cancelled() => return anyhow::Ok(()),
        }
        let listener = Listener::tls(address, serving, Limits::default()).await.with_context(|| format!("cannot listen on {address}"))?;
        tracing::info!(address = %listener.address(), "webhook");
        certified.set(true);
        listener.serve(webhook::router(gate), stopping).await.context("the webhook's listener failed")
    });

    let (lease, leadership) = Lease::new(client.clone(), &arguments.namespace, LEASE, &arguments.pod_name);
    let lease = lease.owned_by(owners);
    let operator = Operator::new(operator::Parts {
        client,
        settings: operator::Settings {
            namespace: arguments.namespace.clone(),
            pod_name: arguments.pod_name.clone(),
            service_name: arguments.service_name.clone(),
            service_port: arguments.service_port,
            webhook_configuration: arguments.webhook_configuration.clone(),
            webhook_timeout_seconds: arguments.webhook_timeout_seconds,
            excluded,
            collect_after: arguments.collect_after,
        },
        index,
        lookups: lookups.clone(),
        wallet,
        writer,
        metrics: metrics.clone(),
        readiness: readiness.clone(),
        watched,
        trust,
        rules_changed,
        images_changed,
    });
    // The operator ends before the Lease is released: after the release another acts at once.
    let operating = CancellationToken::new();
    let (stopping, released) = (shutdown.stopping().clone(), operating.clone());
    tasks.spawn("operator", async move {
        operator.run(leadership, stopping).await;
        released.cancel();
    });
    tasks.spawn("lease", lease.run(operating));
    tasks.spawn("gauges", gauges(metrics, lookups, certificate, shutdown.stopping().clone()));

    let signals = shutdown::signals().context("cannot take signals")?;
    tokio::spawn(shutdown.clone().follow(signals, Duration::from_secs(arguments.drain_seconds)));
    let drain = shutdown.draining().clone();
    tokio::spawn(async move {
        drain.cancelled().await;
        draining.set(false);
    });
    tracing::info!(version = env!("CARGO_PKG_VERSION"), pod = arguments.pod_name, "started");
    let longest = Duration::from_secs(u64::try_from(arguments.webhook_timeout_seconds).unwrap_or(10) + 5);
    tasks.join(longest).await.map_err(Into::into)
}

/// A client for the API server whose calls have deadlines of their own, so that it must not retry by itself.
async fn client() -> anyhow::Result<Client> {
    let mut config = Config::infer().await.context("cannot find out how to reach the API server")?;
    config.connect_timeout = Some(Duration::from_secs(5));
    config.default_retry = false;
    Ok(ClientBuilder::try_from(config).context("cannot make a client for the API server")?.build())
}

fn client_options(arguments: &ServeArguments) -> anyhow::Result<ClientOptions> {
    let ranges = arguments.cluster_ranges.iter().filter(|range| !range.is_empty());
    let cluster_ranges =
        ranges.map(|range| range.parse().with_context(|| format!("--cluster-ranges {range}"))).collect::<Result<_, _>>()?;
    Ok(ClientOptions { cluster_ranges, proxies: Proxies::from_environment() })
}

#[allow(clippy::too_many_arguments, reason = "the wiring of six watches, read once")]
fn spawn_watches(
    tasks: &mut Tasks,
    stopping: &CancellationToken,
    client: &Client,
    index: &SharedIndex,
    readiness: &Readiness,
    rules_changed: watch::Sender<u64>,
    images_changed: watch::Sender<u64>,
    lookups: &Arc<Lookups>,
) -> Vec<Condition> {
    // A watch knows no end of its own.
    let mut spawn = |name: &'static str, watch: BoxFuture<'static, ()>| {
        let stopping = stopping.clone();
        tasks.spawn(name, async move { stopping.run_until_cancelled_owned(watch).await.unwrap_or_default() });
    };
    let conditions = ["policies", "registries", "waivers", "namespaces", "images", "nodes"].map(|name| readiness.condition(name));
    let [policies, registries, waivers, namespaces, images_ready, nodes_ready] = conditions.clone();
    let config = watches::config;
    spawn(
        "watch-policies",
        watches::run::<QuarantinePolicy>(client.clone(), config(), Rules::new(index.clone(), rules_changed.clone()), policies).boxed(),
    );
    spawn(
        "watch-registries",
        watches::run::<Registry>(client.clone(), config(), Rules::new(index.clone(), rules_changed.clone()), registries).boxed(),
    );
    spawn(
        "watch-waivers",
        watches::run::<Waiver>(client.clone(), config(), Rules::new(index.clone(), rules_changed.clone()), waivers).boxed(),
    );
    let nodes = Nodes::new(index.clone(), rules_changed);
    spawn(
        "watch-nodes",
        watches::run::<PartialObjectMeta<Node>>(client.clone(), config().page_size(watches::PAGE_OF_NODES), nodes, nodes_ready).boxed(),
    );
    let labels = Namespaces::new(index.clone());
    spawn("watch-namespaces", watches::run::<PartialObjectMeta<Namespace>>(client.clone(), config(), labels, namespaces).boxed());
    let lookups = lookups.clone();
    let wake = move |name: &str| {
        images_changed.send_modify(|count| *count += 1);
        lookups.heard(name);
    };
    let images = Images::new(index.clone(), wake);
    spawn("watch-images", watches::run::<ImageStatus>(client.clone(), config().page_size(watches::PAGE), images, images_ready).boxed());
    conditions.into()
}

/// Gauges that are read and not counted.
async fn gauges(metrics: Metrics, lookups: Arc<Lookups>, certificate: Arc<CurrentCertificate>, stop: CancellationToken) {
    loop {
        lookups.sweep();
        let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        let (answers, bytes) = lookups.kept();
        metrics.flights.set(count(lookups.aloft()));
        metrics.answers.set(count(answers));
        metrics.answer_bytes.set(count(bytes));
        metrics.registries_out.set(count(lookups.registries_out()));
        if let Some(end) = certificate.not_after() {
            metrics.certificate_expiry.set(end.duration_since(jiff::Timestamp::now()).as_secs());
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(5)) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// What is logged: audit lines at any level, ourselves at the one that was asked for, others when they warn. But for the Kubernetes
/// client, which warns of an answer that it cannot read with the whole of it, and an answer may be a Secret.
fn filter(level: LevelFilter) -> Targets {
    Targets::new()
        .with_target("lazaretto", level)
        .with_target(audit::TARGET, tracing::Level::TRACE)
        .with_target("kube_client::client", tracing::Level::ERROR)
        .with_default(tracing::Level::WARN)
}

/// Logs go to standard output.
fn logging(arguments: &ServeArguments) {
    let filter = filter(arguments.log_level);
    let layer = tracing_subscriber::fmt::layer();
    // A subscriber that is there already is a test's.
    let _ = match arguments.log_format {
        LogFormat::Json => tracing_subscriber::registry().with(layer.json().flatten_event(true).with_filter(filter)).try_init(),
        LogFormat::Text => tracing_subscriber::registry().with(layer.with_filter(filter)).try_init(),
    };
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, io, sync::Arc};

    use http::{Request, Response};
    use k8s_openapi::api::core::v1::Secret;
    use kube::{Api, client::Body};
    use parking_lot::Mutex;
    use tracing::instrument::WithSubscriber as _;

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn an_answer_that_cannot_be_read_stays_out_of_the_log() {
        let secret = r#"{"apiVersion":"v1","kind":"Secret","metadata":{"name":5},"data":{"tls.key":"aHVudGVyMg=="}}"#;
        let service =
            tower::service_fn(move |_: Request<Body>| async { Ok::<_, Infallible>(Response::new(Body::from(secret.as_bytes().to_vec()))) });
        let secrets: Api<Secret> = Api::default_namespaced(Client::new(service, "n"));
        for (filter, said) in [(Targets::new().with_default(tracing::Level::WARN), true), (filter(LevelFilter::TRACE), false)] {
            let written = Written::default();
            let writer = written.clone();
            let layer = tracing_subscriber::fmt::layer().with_writer(move || writer.clone()).with_filter(filter);
            let get = async { secrets.get("s").await.unwrap_err() };
            get.with_subscriber(tracing_subscriber::registry().with(layer)).await;
            let log = String::from_utf8(written.0.lock().clone()).unwrap();
            assert_eq!(log.contains("aHVudGVyMg=="), said, "{log}");
        }
    }
}
