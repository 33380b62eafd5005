//! The numbered history of an image's transitions, and the merge that appends to it.
