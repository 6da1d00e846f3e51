//! Body of a request or of an answer that counts its bytes and can end early.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use s3s::StdError;

use crate::entry::Entry;

/// What happens at the end of a body that ends early.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Early {
    /// The connection is closed.
    Close,
    /// Nothing happens any more.
    Hang,
}

/// Body that counts its bytes in the entry of its request.
pub struct Counted<B> {
    inner: B,
    entry: Arc<Entry>,
    counter: fn(&Entry) -> &AtomicU64,
    /// Bytes until the early end.
    rest: Option<(u64, Early)>,
    /// Whether the part before the early end could be sent.
    was_flushed: bool,
}

impl<B> Counted<B> {
    /// Body that is passed on completely.
    pub fn new(inner: B, entry: &Arc<Entry>, counter: fn(&Entry) -> &AtomicU64) -> Self {
        Self {
            inner,
            entry: Arc::clone(entry),
            counter,
            rest: None,
            was_flushed: false,
        }
    }

    /// Ends the body early, after this number of bytes.
    pub fn ending(mut self, bytes: u64, early: Early) -> Self {
        self.rest = Some((bytes, early));
        self
    }
}

impl<B> Body for Counted<B>
where
    B: Body<Data = Bytes> + Unpin,
    StdError: From<B::Error>,
{
    type Data = Bytes;
    type Error = StdError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StdError>>> {
        let this = self.get_mut();
        match this.rest {
            Some((0, Early::Hang)) => return Poll::Pending,
            Some((0, Early::Close)) if this.was_flushed => {
                return Poll::Ready(Some(Err("the connection is closed on purpose".into())));
            }
            Some((0, Early::Close)) => {
                // hyper sends what it has while it waits, but not after an error.
                this.was_flushed = true;
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            _ => (),
        }
        let frame = match Pin::new(&mut this.inner).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => frame,
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error.into()))),
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Pending => return Poll::Pending,
        };
        let frame = match (frame.into_data(), &mut this.rest) {
            (Ok(mut data), Some((rest, _))) => {
                data.truncate(usize::try_from(*rest).unwrap_or(usize::MAX));
                *rest -= data.len() as u64;
                Frame::data(data)
            }
            (Ok(data), None) => Frame::data(data),
            (Err(frame), _) => frame,
        };
        if let Some(data) = frame.data_ref() {
            (this.counter)(&this.entry).fetch_add(data.len() as u64, Ordering::SeqCst);
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_none() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
