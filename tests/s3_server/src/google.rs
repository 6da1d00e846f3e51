//! Requests of object_store's client for Google Cloud Storage, which speaks the XML API.
//!
//! That API has the requests and answers of S3, and other headers. Its place is the folder [`PLACE`] of the server.
//! Nothing is signed, and every token is good. The only condition is that there is no object yet.

use http::request::Parts;
use http::{HeaderValue, Uri, header};

/// Begin of the paths.
const PLACE: &str = "/google";

/// Makes a request for Google one for S3, without a signature. Returns whether it was one.
pub fn translate(request: &mut Parts) -> bool {
    let Some(place) = request.uri.path_and_query() else {
        return false;
    };
    let rest = place.as_str().strip_prefix(PLACE);
    let Some(Ok(uri)) = rest.map(str::parse::<Uri>) else {
        return false;
    };
    request.uri = uri;
    let headers = &mut request.headers;
    headers.remove(header::AUTHORIZATION);
    if let Some(generation) = headers.remove("x-goog-if-generation-match") {
        // A condition that is not known must not be taken as met.
        let (name, value) = match generation.as_bytes() {
            b"0" => (header::IF_NONE_MATCH, "*"),
            _ => (header::IF_MATCH, "\"unknown\""),
        };
        headers.insert(name, HeaderValue::from_static(value));
    }
    true
}
