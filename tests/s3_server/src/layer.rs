//! Layer between the connections and the store: it records requests, and fails some.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::{Request, Response, StatusCode, header};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::service::Service;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{Body, StdError};

use crate::body::{Counted, Early};
use crate::entry::{Entry, Kind};
use crate::fault::Act;
use crate::google;
use crate::operations::Store;
use crate::state::State;

/// Service of a connection.
#[derive(Clone)]
pub struct Layer {
    /// For requests with a signature.
    signed: S3Service,
    /// For those of Google's client.
    google: S3Service,
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
    /// Layer before a store that somebody with the keys can use.
    pub fn new(store: Store, access_key: &str, secret_key: &str, state: &Arc<State>) -> Self {
        let google = S3ServiceBuilder::new(store.clone()).build();
        let mut signed = S3ServiceBuilder::new(store);
        signed.set_auth(SimpleAuth::from_single(access_key, secret_key));
        Self {
            signed: signed.build(),
            google,
            state: Arc::clone(state),
        }
    }

    async fn answer(self, request: Request<Incoming>) -> Result<Response<Body>, StdError> {
        let (mut parts, body) = request.into_parts();
        let is_google = google::translate(&mut parts);
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
        let service = match is_google {
            true => self.google,
            false => self.signed,
        };
        let request = Request::from_parts(parts, Body::http_body_unsync(body));
        let answer = service.call(request).await;
        let answer = answer.map_err(|error| format!("{error:?}"))?;
        match act {
            Act::Lose => return Err("the answer is lost on purpose".into()),
            Act::Hold => self.state.healed().await,
            _ => (),
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

/// Reads a body to its end.
async fn drain(mut body: Counted<Incoming>) -> Result<(), StdError> {
    while let Some(frame) = body.frame().await {
        frame?;
    }
    Ok(())
}

/// Answer with an error, as S3 words it.
fn refusal(entry: &Entry, status: StatusCode, code: &str) -> Result<Response<Body>, StdError> {
    entry.status.store(status.as_u16(), Ordering::SeqCst);
    let text = match entry.kind {
        Kind::Head => String::new(),
        _ => format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>The test server \
             refuses this</Message><RequestId>0</RequestId></Error>"
        ),
    };
    Ok(Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, "application/xml")
        .body(Body::from(text))?)
}
