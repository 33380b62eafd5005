//! Policies, registries, waivers and image statuses by name.
