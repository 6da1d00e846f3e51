//! s3s-fs with what it lacks of S3: exclusive conditional requests, lists during removals, conditions of a read,
//! and the error for an upload that is not open.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::request::Parts;
use http::{HeaderMap, HeaderName, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use s3s::service::S3Service;
use s3s::{Body, StdError};
use tokio::sync::{Mutex, RwLock};

use crate::body::Counted;
use crate::entry::{Entry, Kind};

/// Store of all connections.
pub struct Store {
    service: S3Service,
    /// Folder with a folder for each bucket.
    folder: PathBuf,
    /// Held while a request is carried out that depends on whether an object exists: s3s-fs looks for the
    /// object, and writes it later.
    making: Mutex<()>,
    /// Taken by requests that remove objects, and alone by lists: s3s-fs fails if a file vanishes before it
    /// knows its size.
    listing: RwLock<()>,
}

impl Store {
    /// Store in a folder.
    pub fn new(service: S3Service, folder: &Path) -> Self {
        Self {
            service,
            folder: folder.to_owned(),
            making: Mutex::default(),
            listing: RwLock::default(),
        }
    }

    /// Answers a request as S3 does.
    pub async fn answer(
        &self,
        entry: &Arc<Entry>,
        parts: Parts,
        body: Counted<Incoming>,
    ) -> Result<Response<Body>, StdError> {
        let is_conditional = [header::IF_NONE_MATCH, header::IF_MATCH]
            .iter()
            .any(|name| parts.headers.contains_key(name));
        match entry.kind {
            Kind::Part | Kind::Complete | Kind::Abort if self.is_unknown_upload(&parts) => {
                drain(body).await?;
                refusal(entry, StatusCode::NOT_FOUND, "NoSuchUpload")
            }
            Kind::Put | Kind::Complete if is_conditional => {
                // The body comes first, so that a slow client delays no other.
                let body = Body::from(body.collect().await?.to_bytes());
                let _alone = self.making.lock().await;
                self.call(parts, body).await
            }
            Kind::Delete | Kind::DeleteMany => {
                let body = Body::from(body.collect().await?.to_bytes());
                let _removing = self.listing.read().await;
                self.call(parts, body).await
            }
            Kind::List => {
                let _listing = self.listing.write().await;
                self.call(parts, Body::http_body_unsync(body)).await
            }
            Kind::Get | Kind::Head if is_conditional => {
                let headers = parts.headers.clone();
                let answer = self.call(parts, Body::http_body_unsync(body)).await?;
                judged(entry, &headers, answer)
            }
            _ => self.call(parts, Body::http_body_unsync(body)).await,
        }
    }

    async fn call(&self, parts: Parts, body: Body) -> Result<Response<Body>, StdError> {
        let answer = self.service.call(Request::from_parts(parts, body)).await;
        answer.map_err(|error| format!("{error:?}").into())
    }

    /// Whether an upload has ended or never begun.
    fn is_unknown_upload(&self, parts: &Parts) -> bool {
        let query = parts.uri.query().unwrap_or_default();
        let upload = query
            .split('&')
            .find_map(|pair| pair.strip_prefix("uploadId="));
        upload.is_some_and(|upload| {
            let is_plain = upload
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
            !is_plain || !self.folder.join(format!(".upload-{upload}.json")).exists()
        })
    }
}

/// The answer to a read, if the object fulfils the conditions of the request.
fn judged(
    entry: &Entry,
    request: &HeaderMap,
    answer: Response<Body>,
) -> Result<Response<Body>, StdError> {
    let tag = answer.headers().get(header::ETAG);
    let names_it = |name: &HeaderName| {
        let wanted = request.get(name)?;
        Some(answer.status().is_success() && (wanted == "*" || Some(wanted) == tag))
    };
    if names_it(&header::IF_MATCH) == Some(false) && answer.status().is_success() {
        refusal(entry, StatusCode::PRECONDITION_FAILED, "PreconditionFailed")
    } else if names_it(&header::IF_NONE_MATCH) == Some(true) {
        let mut unchanged = Response::new(Body::empty());
        *unchanged.status_mut() = StatusCode::NOT_MODIFIED;
        Ok(unchanged)
    } else {
        Ok(answer)
    }
}

/// Reads a body to its end.
pub async fn drain(mut body: Counted<Incoming>) -> Result<(), StdError> {
    while let Some(frame) = body.frame().await {
        frame?;
    }
    Ok(())
}

/// Answer with an error, as S3 words it.
pub fn refusal(entry: &Entry, status: StatusCode, code: &str) -> Result<Response<Body>, StdError> {
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
