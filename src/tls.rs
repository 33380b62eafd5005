//! The certificate in use, and the TLS listener.
