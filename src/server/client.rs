//! The connection to the client (libpq/libpq.h, libpq/libpq-be.h): CopyData messages without a copy.
//!
//! Up to 16 `pq_putmessage` copies everything through an 8 kB buffer; from 17 on it does what is
//! done here, no faster and no slower, so that one path serves all versions. Here that buffer is
//! flushed, and a whole message goes to secure_write() from where the file was read to, under TLS
//! and GSSAPI too.
//!
//! While secure_write() waits for a client that does not read, it serves a termination and the
//! death of the postmaster, but no cancel, because the message is begun: COPY of the server does
//! the same. [`check_interrupts`] has a termination between two messages not wait for it either.
//! [`Begun`] keeps a crash or an immediate shutdown of the server from waiting for it.

use core::ffi::{c_char, c_int, c_void};
use core::ptr;

use pgrx::pg_sys;

use super::interrupt;
use super::parameters;

/// PQcommMethods in libpq/libpq.h, which pgrx does not bind.
#[repr(C)]
struct CommMethods {
    comm_reset: unsafe extern "C-unwind" fn(),
    flush: unsafe extern "C-unwind" fn() -> c_int,
    flush_if_writable: unsafe extern "C-unwind" fn() -> c_int,
    is_send_pending: unsafe extern "C-unwind" fn() -> bool,
    putmessage: unsafe extern "C-unwind" fn(c_char, *const c_char, usize) -> c_int,
    putmessage_noblock: unsafe extern "C-unwind" fn(c_char, *const c_char, usize),
}

#[allow(ffi_unwind_calls)]
mod bindings {
    use super::{CommMethods, c_void};
    use pgrx::pg_sys;

    #[pgrx::pg_guard]
    unsafe extern "C-unwind" {
        pub fn secure_write(port: *mut pg_sys::Port, data: *mut c_void, length: usize) -> isize;
        pub fn pq_check_connection() -> bool;
    }

    unsafe extern "C" {
        pub static PqCommMethods: *const CommMethods;
    }
}

/// The beginning of Port in libpq/libpq-be.h, which pgrx does not bind.
#[repr(C)]
pub(super) struct PortHead {
    pub(super) sock: c_int,
}

/// The buffer that a socket of this machine is asked to have, in bytes. The system gives twice that
/// if it lets a process have it, and so much in any case as it allows.
const LOCAL_BUFFER: c_int = 512 * 1024;

/// Bytes of a message's head: its type and its length.
pub const HEADROOM: usize = 5;

/// Bytes of the largest payload that fits a message's length field and PQ_LARGE_MESSAGE_LIMIT.
const LARGEST_PAYLOAD: usize = 0x3FFF_FFFF - 4;

/// Sends one CopyData message. The first [`HEADROOM`] bytes of `message` are for the head, which
/// is written here; the payload follows.
///
/// Where the client has gone, the session ends.
///
/// # Panics
/// Where the message has no room for its head or is larger than the protocol allows.
pub fn send_copy_data(message: &mut [u8]) {
    let payload = message.len() - HEADROOM;
    assert!(
        payload <= LARGEST_PAYLOAD,
        "a message this large breaks the protocol"
    );
    message[0] = b'd';
    message[1..HEADROOM].copy_from_slice(&(payload as u32 + 4).to_be_bytes());

    flush_server_buffer();
    let largest_write = if is_encrypted() {
        parameters::encrypted_record_size()
    } else {
        message.len()
    };
    let _begun = Begun::now();
    let mut sent = 0;
    while sent < message.len() {
        let end = message.len().min(sent + largest_write);
        let rest = &mut message[sent..end];
        // SAFETY: guarded; MyProcPort is the connection of this session, which has one because
        // the COPY goes to a client. After the flush it blocks until all is written.
        let count = unsafe {
            bindings::secure_write(pg_sys::MyProcPort, rest.as_mut_ptr().cast(), rest.len())
        };
        match usize::try_from(count) {
            Ok(count) if count > 0 => sent += count,
            _ if std::io::Error::last_os_error().kind() == std::io::ErrorKind::Interrupted => {}
            _ => end_lost_connection(),
        }
    }
}

/// A message is begun: as long as this lives the session sends no other, which would lie inside of it.
///
/// `PqCommBusy` does that in pqcomm.c, and has no symbol. It matters to quickdie(), the handler of SIGQUIT,
/// whose last words would wait for a client that does not read, with all signals blocked. The postmaster
/// kills such a process after five seconds, and up to 15 that can cost the server its restart: the signals
/// that it then gets can all come before its select(), which nothing ends for a minute, and the startup
/// process gives up waiting for a checkpointer by then.
struct Begun(pg_sys::CommandDest::Type);

impl Begun {
    fn now() -> Self {
        // SAFETY: a plain variable of this process, which its own functions set in the same way.
        unsafe {
            let destination = pg_sys::whereToSendOutput;
            pg_sys::whereToSendOutput = pg_sys::CommandDest::DestNone;
            Self(destination)
        }
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        // SAFETY: as in now(). A FATAL, after which nothing may be sent, does not come here.
        unsafe { pg_sys::whereToSendOutput = self.0 }
    }
}

/// Whether the connection of this session is encrypted, by TLS or GSSAPI.
#[must_use]
pub fn is_encrypted() -> bool {
    // SAFETY: null in a process without an entry, else the entry of this process, which nobody else
    // writes. A connection that GSSAPI only authenticates counts too.
    let entry = unsafe { pg_sys::MyBEEntry.as_ref() };
    entry.is_some_and(|entry| entry.st_ssl || entry.st_gss)
}

/// Gives a connection within this machine a larger buffer than it has, so that the client has
/// something to read while the next message is filled. To be called before a stream, as often as
/// one likes. The buffer of a connection to elsewhere grows by itself.
pub fn enlarge_local_buffer() {
    #[cfg(target_os = "linux")]
    // SAFETY: MyProcPort is as in send_copy_data(), and begins with its socket. The values are
    // integers of this size. Where the system refuses, the stream is slower, and nothing else.
    unsafe {
        let socket = (*pg_sys::MyProcPort.cast::<PortHead>()).sock;
        let mut length = size_of::<c_int>() as libc::socklen_t;
        let mut domain: c_int = 0;
        let domain_place = (&raw mut domain).cast();
        let level = libc::SOL_SOCKET;
        if libc::getsockopt(
            socket,
            level,
            libc::SO_DOMAIN,
            domain_place,
            &raw mut length,
        ) == 0
            && domain == libc::AF_UNIX
        {
            let size = ptr::from_ref(&LOCAL_BUFFER).cast();
            libc::setsockopt(socket, level, libc::SO_SNDBUF, size, length);
        }
    }
}

/// Serves interrupts between two messages.
///
/// The final message of a terminated session would wait for a client that does not read. It is
/// skipped then, as ProcessClientWriteInterrupt() does.
pub fn check_interrupts() {
    skip_final_message();
    interrupt::check();
}

/// Has a pending termination send no message to a client that would have to make room for it.
pub(super) fn skip_final_message() {
    // SAFETY: plain variables of this process; the server's own code sets them in the same way.
    unsafe {
        if pg_sys::ProcDiePending != 0 && !has_room() {
            pg_sys::whereToSendOutput = pg_sys::CommandDest::DestNone;
        }
    }
}

/// Whether the socket accepts bytes without waiting, or there is no socket.
fn has_room() -> bool {
    // SAFETY: null in a process without a client, such as a background worker that reads into the
    // blackhole; else the connection of this session, which begins with its socket.
    let Some(port) = (unsafe { pg_sys::MyProcPort.cast::<PortHead>().as_ref() }) else {
        return true;
    };
    let mut poll = libc::pollfd {
        fd: port.sock,
        events: libc::POLLOUT,
        revents: 0,
    };
    // SAFETY: one entry, and no time to wait.
    unsafe { libc::poll(&raw mut poll, 1, 0) > 0 }
}

/// Checks that the client is still there, as far as the operating system knows. If it has gone, the
/// session ends.
pub fn check_connection() {
    flush_server_buffer();
    // SAFETY: guarded; looks at the socket without waiting.
    if !unsafe { bindings::pq_check_connection() } {
        end_lost_connection();
    }
}

/// Sends what the server has buffered, so that messages keep their order.
fn flush_server_buffer() {
    // SAFETY: the table is set before any statement runs. A function pointer has no guard of
    // pgrx's, and the flush serves interrupts: hence the guard here. The closure owns nothing.
    let status = unsafe {
        #[allow(ffi_unwind_calls)]
        pg_sys::ffi::pg_guard_ffi_boundary(|| ((*bindings::PqCommMethods).flush)())
    };
    if status != 0 {
        end_lost_connection();
    }
}

/// The connection is lost: ends the session as the server's own send functions do, by
/// "connection to client lost", which runs the exit callbacks.
fn end_lost_connection() -> ! {
    // SAFETY: the flags that the server's own code sets at this point.
    unsafe {
        pg_sys::ClientConnectionLost = 1;
        pg_sys::InterruptPending = 1;
    }
    interrupt::check();
    // Interrupts can be held off by no code of ours; should they be, an ERROR must end the stream.
    pgrx::error!("connection to client lost")
}
