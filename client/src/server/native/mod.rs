//! Sessions under TLS without libpq, for streams.
//!
//! libpq reads each TLS record in two system calls, and copies each message twice. These sessions read
//! many records at once and hand messages on where they were decrypted. libpq connects the first session
//! all the same: it knows all parameters, and only where each of them is handled here, a session of a
//! worker is opened this way ([`parameters`]). Whatever fails is left to libpq, which says the error.

pub mod link;
pub mod login;
pub mod parameters;
pub mod tls;
pub mod transport;
pub mod wire;
