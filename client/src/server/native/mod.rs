//! Sessions without libpq, for streams: by socket, by TCP and under TLS.
//!
//! libpq copies each message twice, and under TLS reads each record in two system calls. These sessions read
//! many records at once and hand messages on where they were decrypted. libpq connects the first session
//! all the same: it knows all parameters, and only where each of them is handled here, a session of a
//! worker is opened this way ([`parameters`]). Whatever fails is left to libpq, which says the error.

pub mod link;
pub mod login;
pub mod parameters;
pub mod tls;
pub mod transport;
pub mod wire;
