//! One detached task per question, any number of waiters.
