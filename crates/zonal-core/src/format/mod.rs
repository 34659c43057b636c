//! Byte layouts of the image.
