//! Zoned storage in user space.
