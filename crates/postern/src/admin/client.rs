//! A REST client of our own API.

use std::time::Duration;

use anyhow::Context as _;
use reqwest::{Method, Url};
use serde_json::Value;

/// Longest time for a request: a little more than the server's own limit.
const TIMEOUT: Duration = Duration::from_secs(40);
/// Items asked for on a page.
const PAGE: &str = "1000";

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
        let http = reqwest::Client::builder().timeout(TIMEOUT).build()?;
        Ok(Self { base, token: token.to_owned(), http })
    }

    pub(super) async fn get(&self, path: &[&str]) -> anyhow::Result<Option<Value>> {
        self.request(Method::GET, self.at(path), None).await
    }

    pub(super) async fn post(&self, path: &[&str], body: &Value) -> anyhow::Result<Option<Value>> {
        self.request(Method::POST, self.at(path), Some(body)).await
    }

    pub(super) async fn put(&self, path: &[&str], body: &Value) -> anyhow::Result<Option<Value>> {
        self.request(Method::PUT, self.at(path), Some(body)).await
    }

    pub(super) async fn delete(&self, path: &[&str]) -> anyhow::Result<Option<Value>> {
        self.request(Method::DELETE, self.at(path), None).await
    }

    /// All items of a list, page by page.
    pub(super) async fn list(&self, path: &[&str]) -> anyhow::Result<Option<Value>> {
        let mut items = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let mut url = self.at(path);
            url.query_pairs_mut().append_pair("limit", PAGE);
            if let Some(after) = &after {
                url.query_pairs_mut().append_pair("after", after);
            }
            let mut page = self.request(Method::GET, url, None).await?.context("the answer is empty")?;
            if let Some(Value::Array(page)) = page.get_mut("items") {
                items.append(page);
            }
            match page.get("next").and_then(Value::as_str) {
                Some(next) => after = Some(next.to_owned()),
                None => return Ok(Some(Value::Array(items))),
            }
        }
    }

    /// The URL of a path under `/v1`; each segment is escaped, so that no name can leave its place.
    fn at(&self, path: &[&str]) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().push("v1").extend(path);
        }
        url
    }

    async fn request(&self, method: Method, url: Url, body: Option<&Value>) -> anyhow::Result<Option<Value>> {
        let mut request = self.http.request(method, url).bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await?;
        let status = response.status();
        let text = response.text().await?;
        if status.is_success() {
            return if text.is_empty() { Ok(None) } else { Ok(Some(serde_json::from_str(&text)?)) };
        }
        let problem: Value = serde_json::from_str(&text).unwrap_or_default();
        let detail = problem.get("detail").and_then(Value::as_str).unwrap_or("no detail was given");
        match problem.get("field").and_then(Value::as_str) {
            Some(field) => anyhow::bail!("{status}: {field}: {detail}"),
            None => anyhow::bail!("{status}: {detail}"),
        }
    }
}
