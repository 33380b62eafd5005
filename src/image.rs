//! An image reference, read as containerd reads it and made canonical.

/// A stand-in until the reader lands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(String);
