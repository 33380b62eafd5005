//! The arguments of `lazaretto serve`. The chart gives them; each can also be set by its environment variable.

use std::net::SocketAddr;

use clap::{Args, ValueEnum};

use crate::api::ShortDuration;

/// How logs are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// Answers admission; the one replica that holds the Lease also operates.
#[derive(Args, Clone, Debug)]
pub struct ServeArguments {
    /// Where the API server reaches the webhook, by TLS.
    #[arg(long, env = "LAZARETTO_WEBHOOK_ADDRESS", default_value = "0.0.0.0:8443")]
    pub webhook_address: SocketAddr,
    /// Where probes and Prometheus reach us, by plain HTTP.
    #[arg(long, env = "LAZARETTO_ADMIN_ADDRESS", default_value = "0.0.0.0:8080")]
    pub admin_address: SocketAddr,
    /// Our own namespace.
    #[arg(long, env = "POD_NAMESPACE")]
    pub namespace: String,
    /// The name of this replica.
    #[arg(long, env = "POD_NAME")]
    pub pod_name: String,
    /// The Service that the API server reaches the webhook by.
    #[arg(long, env = "LAZARETTO_SERVICE_NAME", default_value = "lazaretto-webhook")]
    pub service_name: String,
    /// Its port.
    #[arg(long, env = "LAZARETTO_SERVICE_PORT", default_value_t = 443, value_parser = clap::value_parser!(i32).range(1..=65_535))]
    pub service_port: i32,
    /// The ValidatingWebhookConfiguration to keep; the chart makes it without entries.
    #[arg(long, env = "LAZARETTO_WEBHOOK_CONFIGURATION", default_value = "lazaretto")]
    pub webhook_configuration: String,
    /// How long the API server waits for a verdict.
    #[arg(long, env = "LAZARETTO_WEBHOOK_TIMEOUT_SECONDS", default_value_t = 10, value_parser = clap::value_parser!(i32).range(2..=30))]
    pub webhook_timeout_seconds: i32,
    /// Namespaces that are never judged; our own is always among them.
    #[arg(long, env = "LAZARETTO_EXCLUDED_NAMESPACES", value_delimiter = ',')]
    pub excluded_namespaces: Vec<String>,
    /// Ask registries without credentials of their own with the pod's pull secrets. Needs `get` on Secrets and ServiceAccounts everywhere.
    #[arg(long, env = "LAZARETTO_POD_PULL_SECRETS", default_value_t = false, action = clap::ArgAction::Set)]
    pub pod_pull_secrets: bool,
    /// For how long an image must have been unused before its ImageStatus is removed.
    #[arg(long, env = "LAZARETTO_COLLECT_AFTER", default_value = "14d")]
    pub collect_after: ShortDuration,
    /// ImageStatus objects in all, at most.
    #[arg(long, env = "LAZARETTO_MAX_IMAGE_STATUSES", default_value_t = 50_000)]
    pub max_image_statuses: usize,
    /// ImageStatus objects of images first asked for in one namespace, at most.
    #[arg(long, env = "LAZARETTO_MAX_IMAGE_STATUSES_PER_NAMESPACE", default_value_t = 2_000)]
    pub max_image_statuses_per_namespace: usize,
    /// Seconds between SIGTERM and the closing of the port.
    #[arg(long, env = "LAZARETTO_DRAIN_SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(0..=300))]
    pub drain_seconds: u64,
    /// The cluster's own address ranges: registries without a Registry object are never reached there.
    #[arg(long, env = "LAZARETTO_CLUSTER_RANGES", value_delimiter = ',')]
    pub cluster_ranges: Vec<String>,
    /// More names or addresses for the serving certificate.
    #[arg(long = "tls-name", env = "LAZARETTO_TLS_NAMES", value_delimiter = ',')]
    pub tls_names: Vec<String>,
    /// error, warn, info, debug or trace. Audit lines are written at any level.
    #[arg(long, env = "LAZARETTO_LOG_LEVEL", default_value = "info")]
    pub log_level: tracing::level_filters::LevelFilter,
    /// How logs are written.
    #[arg(long, env = "LAZARETTO_LOG_FORMAT", value_enum, default_value = "json")]
    pub log_format: LogFormat,
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        serve: ServeArguments,
    }

    fn read(arguments: &[&str]) -> Result<ServeArguments, clap::Error> {
        let own = ["lazaretto", "--namespace=lazaretto-system", "--pod-name=lazaretto-0"];
        Only::try_parse_from(own.iter().chain(arguments)).map(|only| only.serve)
    }

    #[test]
    fn the_arguments_of_the_chart_are_read() {
        let arguments = read(&[
            "--webhook-address=[::]:9443",
            "--excluded-namespaces=kube-system,cni",
            "--pod-pull-secrets=true",
            "--collect-after=7d",
            "--cluster-ranges=10.0.0.0/8,fd00::/8",
            "--tls-name=a",
            "--tls-name=b",
            "--log-level=debug",
            "--log-format=text",
        ])
        .unwrap();
        assert_eq!(arguments.webhook_address.to_string(), "[::]:9443");
        assert_eq!(arguments.excluded_namespaces, ["kube-system", "cni"]);
        assert!(arguments.pod_pull_secrets);
        assert_eq!(arguments.collect_after.to_string(), "7d");
        assert_eq!(arguments.cluster_ranges, ["10.0.0.0/8", "fd00::/8"]);
        assert_eq!(arguments.tls_names, ["a", "b"]);
        assert_eq!((arguments.log_level, arguments.log_format), (tracing::level_filters::LevelFilter::DEBUG, LogFormat::Text));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (argument, words) in [
            ("--webhook-timeout-seconds=31", "31 is not in 2..=30"),
            ("--collect-after=2w", "\"2w\" is not a duration: write it like 30s, 5m, 1h30m or 7d"),
            ("--service-port=0", "0 is not in 1..=65535"),
            ("--webhook-address=8443", "invalid socket address syntax"),
        ] {
            let error = read(&[argument]).unwrap_err().to_string();
            assert!(error.contains(words), "{argument}: {error}");
        }
    }
}
