//! Judges a review.
