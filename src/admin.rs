//! Plain HTTP for the kubelet and for Prometheus: /livez, /readyz, /metrics.
