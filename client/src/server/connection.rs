//! Sessions: statements, COPY, and the wait for what the server sends. libpq carries them, or a connection
//! of our own ([`native`](crate::server::native)).

use std::cell::RefCell;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context as _, Result};
use libpq::Connection;
use libpq::connection::Info;
use rustix::net::{RecvFlags, recv};

use crate::server::libpq_link::LibpqLink;
use crate::server::native::link::Link;
use crate::server::native::parameters::Parameters;
use crate::server::silent_wait::Silence;
pub use crate::server::silent_wait::{Failure, Row, Watch};

/// A session of the server.
pub struct Session {
    carrier: Carrier,
    watch: Option<Watch>,
}

/// What carries a session.
enum Carrier {
    Libpq(LibpqLink),
    Native {
        link: RefCell<Link>,
        /// The same socket, to look whether there is input.
        socket: OwnedFd,
    },
}

impl Session {
    /// Takes over a connection of libpq.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn new(connection: Connection) -> Result<Self> {
        Ok(Self {
            carrier: Carrier::Libpq(LibpqLink::new(connection)?),
            watch: None,
        })
    }

    /// Takes over a connection of our own.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn native(link: Link) -> Result<Self> {
        let socket = link.socket().try_clone_to_owned();
        Ok(Self {
            carrier: Carrier::Native {
                link: RefCell::new(link),
                socket: socket.context("could not wait for a connection")?,
            },
            watch: None,
        })
    }

    /// The connection of libpq, which the first session has, and each that is not for streams.
    fn libpq(&self) -> Result<&Connection> {
        match &self.carrier {
            Carrier::Libpq(link) => Ok(link.connection()),
            Carrier::Native { .. } => anyhow::bail!("libpq does not carry this session"),
        }
    }

    /// Whether libpq does not carry it.
    pub fn is_native(&self) -> bool {
        matches!(self.carrier, Carrier::Native { .. })
    }

    /// Whether it is a connection of our own with TLS.
    pub fn has_tls(&self) -> bool {
        match &self.carrier {
            Carrier::Libpq(_) => false,
            Carrier::Native { link, .. } => link.borrow().has_tls(),
        }
    }

    /// Parameters for sessions of our own to the same server, if it can have any.
    pub fn native_parameters(&self) -> Option<Parameters> {
        let parameters = Parameters::of(self.libpq().ok()?)?;
        // A statement, because the binding of libpq cannot say that the server has not told its encoding.
        let rows = self.rows("SHOW server_encoding", &[]).ok()?;
        let encoding = rows.first().and_then(|row| row.first()?.as_deref());
        // Its messages need not be UTF-8.
        (encoding != Some(b"SQL_ASCII")).then_some(parameters)
    }

    /// Keywords and values by which libpq finds the server of this session again.
    ///
    /// # Errors
    /// Errors of libpq.
    pub fn place(&self) -> Result<[(&'static str, String); 3]> {
        let connection = self.libpq()?;
        Ok([
            ("host", connection.host()?),
            ("hostaddr", connection.hostaddr()?),
            ("port", connection.port()?),
        ])
    }

    /// Whether a connection parameter has a value, whatever it comes from.
    ///
    /// # Errors
    /// Errors of libpq.
    pub fn has_parameter(&self, keyword: &str) -> Result<bool> {
        let settings = self.libpq()?.info()?;
        Ok(settings.get(keyword).is_some_and(|info| info.val.is_some()))
    }

    /// Sets the watch over the waits of this session.
    pub fn watch(&mut self, watch: Watch) {
        self.watch = Some(watch);
    }

    /// Makes sure that the server answers within a time.
    ///
    /// # Errors
    /// Errors of the server, and [`Failure`] if it does not answer.
    pub fn check_answer(&self, limit: Option<Duration>) -> Result<()> {
        let watch = limit.map(Watch::hard);
        self.rows_under("SELECT", &[], watch.as_ref())?;
        Ok(())
    }

    /// Runs a statement and returns its rows.
    ///
    /// # Errors
    /// Errors of the server.
    pub fn rows(&self, statement: &str, values: &[&[u8]]) -> Result<Vec<Row>> {
        self.rows_under(statement, values, self.watch.as_ref())
    }

    fn rows_under(
        &self,
        statement: &str,
        values: &[&[u8]],
        watch: Option<&Watch>,
    ) -> Result<Vec<Row>> {
        match &self.carrier {
            Carrier::Libpq(link) => link.rows(statement, values, watch),
            Carrier::Native { link, socket } => {
                let mut silence = Silence::new(watch);
                let mut link = link.borrow_mut();
                link.rows(statement, values, &mut |is_silent| {
                    look(&mut silence, socket.as_fd(), is_silent)
                })
            }
        }
    }

    /// Runs a `COPY … TO STDOUT` and hands its data to `take`, in pieces of any size. Where that fails, the session is
    /// of no more use.
    ///
    /// # Errors
    /// Errors of the server, as [`Failure`], and those of `take`.
    pub fn copy(&self, statement: &str, take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let watch = self.watch.as_ref();
        match &self.carrier {
            Carrier::Libpq(link) => link.copy(statement, watch, take),
            Carrier::Native { link, socket } => {
                let mut silence = Silence::new(watch);
                let mut link = link.borrow_mut();
                let mut idle = |is_silent| look(&mut silence, socket.as_fd(), is_silent);
                link.copy(statement, &mut idle, take)
            }
        }
    }

    /// How this session was opened, for another that is to be like it: keywords of a connection
    /// string and their values.
    ///
    /// # Errors
    /// Errors of libpq.
    pub fn parameters(&self) -> Result<Vec<(String, String)>> {
        const NOT_FOR_OTHERS: [&str; 3] = ["replication", "dbname", "fallback_application_name"];
        let settings = self.libpq()?.info()?;
        let mut parameters: Vec<_> = settings
            .into_values()
            .filter_map(|Info { keyword, val, .. }| Some((keyword, val?)))
            .filter(|(keyword, value)| {
                !value.is_empty() && !NOT_FOR_OTHERS.contains(&keyword.as_str())
            })
            .collect();
        parameters.sort();
        Ok(parameters)
    }

    /// The version of its server, as libpq has it: 150020 is 15.20.
    ///
    /// # Errors
    /// Where libpq does not carry it.
    pub fn server_version(&self) -> Result<i32> {
        Ok(self.libpq()?.server_version())
    }
}

/// Counts the silence of a connection of our own.
fn look(silence: &mut Silence<'_>, socket: BorrowedFd<'_>, is_silent: bool) -> Result<()> {
    if is_silent {
        silence.check(|| {
            let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
            let read = recv(socket, &mut [0][..], flags);
            Ok(read.is_ok_and(|(count, _)| count > 0))
        })
    } else {
        silence.end();
        Ok(())
    }
}
