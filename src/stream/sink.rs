//! Sinks: stages that the bytes of an archive pass, one on top of another.
//!
//! ```text
//! Archive ──> CompressSink ──> ThrottleSink ──> ClientSink, or BlackholeSink
//! ```
//!
//! Follows bbsink in backup/basebackup_sink.h. Each stage owns the next one. The archive fills a
//! message and sends it; a stage empties it, or has the next one do so, before it returns. After
//! the last message the archive calls [`Sink::finish`] once.

use crate::server::client;
use crate::server::report::Result;

use super::message::Message;

/// Stage of a stream.
pub trait Sink {
    /// Takes the payload of a message, which is empty afterwards. A message without payload may be
    /// given, and does nothing.
    ///
    /// # Errors
    /// Those of the stages below. A cancel raises.
    fn send(&mut self, message: &mut Message) -> Result<()>;

    /// Sends what the stage still holds. No message follows.
    ///
    /// # Errors
    /// As [`Sink::send`].
    fn finish(&mut self) -> Result<()>;
}

/// The stream of the running COPY.
pub struct ClientSink;

impl ClientSink {
    /// Begins to send.
    #[must_use]
    pub fn new() -> Self {
        client::enlarge_local_buffer();
        Self
    }
}

impl Sink for ClientSink {
    fn send(&mut self, message: &mut Message) -> Result<()> {
        if !message.is_empty() {
            message.send();
        }
        Ok(())
    }

    /// Asks the operating system whether the client is still there: what it has not received must
    /// not count as sent.
    fn finish(&mut self) -> Result<()> {
        client::check_connection();
        Ok(())
    }
}

/// Sink that drops everything, for streams that only verify.
pub struct BlackholeSink;

impl Sink for BlackholeSink {
    fn send(&mut self, message: &mut Message) -> Result<()> {
        message.clear();
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        Ok(())
    }
}
