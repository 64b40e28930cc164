//! A REST client of our own API.

use std::time::Duration;

use anyhow::Context as _;
use reqwest::{Method, RequestBuilder, Response, Url, header::CONTENT_TYPE};
use serde_json::Value;

/// Longest time for a request: a little more than the server's own limit.
const TIMEOUT: Duration = Duration::from_secs(40);
/// Longest pause in what is streamed: a little more than the server's own limit, too.
const PAUSE: Duration = Duration::from_secs(60);
/// Items asked for on a page.
const PAGE: &str = "1000";

/// The parameters of a query.
pub(super) type Query = Vec<(&'static str, String)>;

/// The API at some address, with a token.
pub(super) struct Client {
    base: Url,
    token: String,
    http: reqwest::Client,
}

impl Client {
    pub(super) fn new(url: &str, token: &str) -> anyhow::Result<Self> {
        let base: Url = url.parse().with_context(|| format!("\"{url}\" is no URL"))?;
        anyhow::ensure!(!base.cannot_be_a_base(), "\"{url}\" is no URL");
        let http = reqwest::Client::builder().read_timeout(PAUSE).build()?;
        Ok(Self { base, token: token.to_owned(), http })
    }

    pub(super) async fn get(&self, path: &[&str]) -> anyhow::Result<Option<Value>> {
        self.get_with(path, Vec::new()).await
    }

    pub(super) async fn get_with(&self, path: &[&str], query: Query) -> anyhow::Result<Option<Value>> {
        json(self.request(Method::GET, path, &query).timeout(TIMEOUT)).await
    }

    pub(super) async fn post(&self, path: &[&str], body: &Value) -> anyhow::Result<Option<Value>> {
        json(self.request(Method::POST, path, &[]).timeout(TIMEOUT).json(body)).await
    }

    /// Asks for something to be done that needs no more words.
    pub(super) async fn ask(&self, path: &[&str]) -> anyhow::Result<Option<Value>> {
        json(self.request(Method::POST, path, &[]).timeout(TIMEOUT)).await
    }

    pub(super) async fn put(&self, path: &[&str], body: &Value) -> anyhow::Result<Option<Value>> {
        json(self.request(Method::PUT, path, &[]).timeout(TIMEOUT).json(body)).await
    }

    pub(super) async fn patch(&self, path: &[&str], body: &Value) -> anyhow::Result<Option<Value>> {
        json(self.request(Method::PATCH, path, &[]).timeout(TIMEOUT).json(body)).await
    }

    pub(super) async fn delete(&self, path: &[&str]) -> anyhow::Result<Option<Value>> {
        json(self.request(Method::DELETE, path, &[]).timeout(TIMEOUT)).await
    }

    /// All items of a list, page by page.
    pub(super) async fn list(&self, path: &[&str], query: Query) -> anyhow::Result<Option<Value>> {
        self.pages(path, query, "after", None).await
    }

    /// Items of a list, page by page, whose cursor has this name; up to `most`.
    pub(super) async fn pages(
        &self,
        path: &[&str],
        query: Query,
        cursor: &'static str,
        most: Option<usize>,
    ) -> anyhow::Result<Option<Value>> {
        let mut items = Vec::new();
        let mut next: Option<String> = None;
        loop {
            let mut query = query.clone();
            let left = most.map(|most| (most - items.len()).min(1000).to_string());
            query.push(("limit", left.unwrap_or_else(|| PAGE.to_owned())));
            query.extend(next.take().map(|next| (cursor, next)));
            let mut page = self.get_with(path, query).await?.context("the answer is empty")?;
            if let Some(Value::Array(page)) = page.get_mut("items") {
                items.append(page);
            }
            next = page.get("next").and_then(Value::as_str).map(str::to_owned);
            if next.is_none() || most.is_some_and(|most| items.len() >= most) {
                return Ok(Some(Value::Array(items)));
            }
        }
    }

    /// Sends a body as it comes; gives the answer as soon as it begins.
    pub(super) async fn send(
        &self,
        path: &[&str],
        query: Query,
        media_type: &'static str,
        body: reqwest::Body,
    ) -> anyhow::Result<Response> {
        checked(self.request(Method::POST, path, &query).header(CONTENT_TYPE, media_type).body(body)).await
    }

    /// Asks for something that may be long.
    pub(super) async fn fetch(&self, path: &[&str], query: Query) -> anyhow::Result<Response> {
        checked(self.request(Method::GET, path, &query)).await
    }

    fn request(&self, method: Method, path: &[&str], query: &[(&str, String)]) -> RequestBuilder {
        let mut url = self.at(path);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        self.http.request(method, url).bearer_auth(&self.token)
    }

    /// The URL of a path under `/v1`; each segment is escaped, so that no name can leave its place.
    fn at(&self, path: &[&str]) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().push("v1").extend(path);
        }
        url
    }
}

async fn json(request: RequestBuilder) -> anyhow::Result<Option<Value>> {
    let text = checked(request).await?.text().await?;
    if text.is_empty() { Ok(None) } else { Ok(Some(serde_json::from_str(&text)?)) }
}

/// Sends a request; what the API refuses is an error that says why.
async fn checked(request: RequestBuilder) -> anyhow::Result<Response> {
    let response = request.send().await?;
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let problem: Value = serde_json::from_str(&response.text().await?).unwrap_or_default();
    anyhow::bail!("{status}: {}", reason(&problem));
}

/// What a problem document says is wrong.
pub(super) fn reason(problem: &Value) -> String {
    let text = |key| problem.get(key).and_then(Value::as_str);
    let detail = text("detail").unwrap_or("no detail was given");
    text("field").map_or_else(|| detail.to_owned(), |field| format!("{field}: {detail}"))
}
