//! The API group `lazaretto.dev/v1alpha1`.
