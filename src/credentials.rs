//! Credentials out of Secrets: the Registry's own in our namespace, and, where the installation opts in, a pod's pull secrets.
