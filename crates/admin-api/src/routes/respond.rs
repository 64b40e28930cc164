//! Answers that several routes give.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;

use crate::resources::Page;

/// A resource with its entity tag.
pub(super) fn tagged<T: Serialize>(status: StatusCode, revision: i64, resource: T) -> Response {
    (status, [(header::ETAG, format!("\"{revision}\""))], Json(resource)).into_response()
}

/// A page, and where the next one is (RFC 8288).
pub(super) fn listed<T: Serialize>(page: Page<T>, uri: &Uri, cursor: &str) -> Response {
    let link = page.next.as_deref().map(|next| next_link(uri, cursor, next));
    let mut response = Json(page).into_response();
    if let Some(Ok(link)) = link.map(HeaderValue::try_from) {
        response.headers_mut().insert(header::LINK, link);
    }
    response
}

fn next_link(uri: &Uri, cursor: &str, next: &str) -> String {
    let is_cursor = |pair: &&str| pair.split('=').next() == Some(cursor);
    let others = uri.query().unwrap_or("").split('&').filter(|pair| !pair.is_empty() && !is_cursor(pair));
    let query: Vec<String> =
        others.map(str::to_owned).chain([format!("{cursor}={}", escaped(next))]).collect();
    format!("<{}?{}>; rel=\"next\"", uri.path(), query.join("&"))
}

/// Everything but what stands for itself in a query (RFC 3986 §2.3).
fn escaped(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, octet| {
        if octet.is_ascii_alphanumeric() || b"-._~".contains(&octet) {
            out.push(char::from(octet));
        } else {
            out.push_str(&format!("%{octet:02X}"));
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_asked_for_as_this_one_was() {
        let uri: Uri = "/v1/tenants/one/mailboxes?after=x&limit=2&search=a%40b".parse().unwrap();
        assert_eq!(
            next_link(&uri, "after", "b\u{f6}@one.test"),
            "</v1/tenants/one/mailboxes?limit=2&search=a%40b&after=b%C3%B6%40one.test>; rel=\"next\""
        );
        let uri: Uri = "/v1/tenants".parse().unwrap();
        assert_eq!(next_link(&uri, "after", "one"), "</v1/tenants?after=one>; rel=\"next\"");
    }
}
