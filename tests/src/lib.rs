//! Tests that see the whole of ashlar.
