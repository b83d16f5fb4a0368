//! ashlar as a server.
