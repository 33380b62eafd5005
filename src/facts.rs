//! What is known of an image, and what a look-up may end in.
