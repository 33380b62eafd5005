//! Pull secrets, matched as the kubelet matches them.
