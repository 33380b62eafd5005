//! Every image that a pod will pull, with its field path.
