//! An image reference, read as containerd reads it and made canonical.
