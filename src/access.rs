//! Which pods may use which repositories of a registry, as far as its Registry object says.
//!
//! Pure, and apart from what is known of images: that an image is known, good and in every node's cache is no permission to use it.

/// What has to be the case for a pod to use an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Demand {
    /// Nothing.
    #[default]
    Nothing,
    /// Nobody uses what the Registry excludes.
    Impossible,
}

#[cfg(test)]
mod tests;
