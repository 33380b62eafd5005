//! The AdmissionReview as it is on the wire.
