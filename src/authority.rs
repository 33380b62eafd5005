//! The certificate authority and the leaf, in a Secret that the replicas share.
