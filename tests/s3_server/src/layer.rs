//! Layer between the connections and the store: it records requests, and fails some.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::{Request, Response, StatusCode, header};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::service::Service;
use s3s::{Body, StdError};

use crate::body::{Counted, Early};
use crate::fault::Act;
use crate::state::State;
use crate::store::{Store, drain, refusal};

/// Service of a connection.
#[derive(Clone)]
pub struct Layer {
    store: Arc<Store>,
    state: Arc<State>,
}

impl Service<Request<Incoming>> for Layer {
    type Response = Response<Body>;
    /// hyper answers an error by closing the connection.
    type Error = StdError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, StdError>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        Box::pin(self.clone().answer(request))
    }
}

impl Layer {
    /// Layer before a store.
    pub fn new(store: Store, state: Arc<State>) -> Self {
        let store = Arc::new(store);
        Self { store, state }
    }

    async fn answer(self, request: Request<Incoming>) -> Result<Response<Body>, StdError> {
        let (parts, body) = request.into_parts();
        let length = body.size_hint().exact().unwrap_or_default();
        let (entry, act) = self.state.arrived(&parts, length);
        let mut body = Counted::new(body, &entry, |entry| &entry.received);
        let early = match act {
            Act::Cut => Some(Early::Close),
            Act::Hang => Some(Early::Hang),
            _ => None,
        };
        match (&act, early) {
            (Act::Stall, _) => std::future::pending().await,
            (Act::Close, _) => return Err("the connection is closed on purpose".into()),
            (Act::Status(status, code), _) => {
                drain(body).await?;
                return refusal(&entry, StatusCode::from_u16(*status)?, code);
            }
            (_, Some(early)) if length > 0 => {
                body = body.ending(length / 2, early);
                drain(body).await?;
                return Err("the body is not as long as it was".into());
            }
            _ => (),
        }
        let answer = self.store.answer(&entry, parts, body).await?;
        if matches!(act, Act::Lose) {
            return Err("the answer is lost on purpose".into());
        }
        entry
            .status
            .store(answer.status().as_u16(), Ordering::SeqCst);
        let length = length_of(&answer);
        Ok(answer.map(|body| {
            let body = Counted::new(body, &entry, |entry| &entry.sent);
            Body::http_body_unsync(match early {
                Some(early) => body.ending(length / 2, early),
                None => body,
            })
        }))
    }
}

/// Length of an answer's body, 0 if it is not known.
fn length_of(answer: &Response<Body>) -> u64 {
    let header = answer.headers().get(header::CONTENT_LENGTH);
    header
        .and_then(|length| length.to_str().ok()?.parse().ok())
        .or_else(|| answer.body().size_hint().exact())
        .unwrap_or_default()
}
