//! A termination between two messages, with a client that reads or does not.

#[pgrx::pg_schema]
mod tests {
    use core::ffi::c_int;
    use std::io::{Error, ErrorKind, Read, Write};
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    use pgrx::{pg_sys, pg_test};

    use crate::server::client::{PortHead, skip_final_message};

    /// Has this session's connection lead elsewhere until it is dropped, and puts back what a
    /// termination changes.
    struct Elsewhere {
        socket: c_int,
        output: pg_sys::CommandDest::Type,
        pending: c_int,
    }

    impl Elsewhere {
        fn to(stream: &UnixStream) -> Self {
            // SAFETY: the session of a test has a connection, and nothing is sent meanwhile.
            unsafe {
                let port = pg_sys::MyProcPort.cast::<PortHead>();
                let before = Self {
                    socket: (*port).sock,
                    output: pg_sys::whereToSendOutput,
                    pending: pg_sys::ProcDiePending as c_int,
                };
                (*port).sock = stream.as_raw_fd();
                before
            }
        }
    }

    impl Drop for Elsewhere {
        fn drop(&mut self) {
            // SAFETY: the session's connection outlives the test; these are the values found in it.
            unsafe {
                (*pg_sys::MyProcPort.cast::<PortHead>()).sock = self.socket;
                pg_sys::whereToSendOutput = self.output;
                pg_sys::ProcDiePending = self.pending as _;
            }
        }
    }

    fn says_something() -> bool {
        // SAFETY: a plain variable.
        unsafe { pg_sys::whereToSendOutput == pg_sys::CommandDest::DestRemote }
    }

    /// Writes until there is no more room; returns how much that was.
    fn fill(stream: &mut UnixStream) -> usize {
        let mut written = 0;
        loop {
            match stream.write(&[0; 4096]) {
                Ok(length) => written += length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return written,
                Err(error) => panic!("{error}"),
            }
        }
    }

    #[pg_test]
    fn a_termination_says_nothing_where_it_would_have_to_wait() -> Result<(), Error> {
        let (mut ours, mut client) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let elsewhere = Elsewhere::to(&ours);

        // SAFETY: the flag is put back before anything looks at it.
        unsafe { pg_sys::ProcDiePending = 1 };
        skip_final_message();
        let with_room = says_something();

        let written = fill(&mut ours);
        // SAFETY: a plain variable; no interrupt is served between here and its reset.
        unsafe { pg_sys::ProcDiePending = 0 };
        skip_final_message();
        let without_termination = says_something();
        // SAFETY: the flag is put back before anything looks at it.
        unsafe { pg_sys::ProcDiePending = 1 };
        skip_final_message();
        let without_room = says_something();
        drop(elsewhere);

        client.read_exact(&mut vec![0; written])?;
        assert!(with_room, "a client that reads was told nothing");
        assert!(without_termination, "nothing had happened");
        assert!(!without_room, "it would have waited for the client");
        Ok(())
    }
}
