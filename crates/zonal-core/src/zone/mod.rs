//! The zone word and the rules over it.
