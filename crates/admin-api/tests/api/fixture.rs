//! An API with everything below it, asked without a network.

use std::{sync::Arc, time::Duration};

use admin_api::{AdminApi, AdminToken, ApiLimits, Rate};
use auth::{Backends, BackendsConfig, Hasher, HasherConfig, Metrics};
use axum::{
    Router,
    body::Body,
    http::{HeaderMap, Request, StatusCode},
};
use blob::{
    BlobLayout, DiskConfig, DiskStore, Guard, KeyWrap, Keyring, MasterKey, ObjectStore, OwnConfig, OwnStores,
    Packs, PacksConfig, S3Config,
    weather::{ShelterConfig, Unwatched},
};
use http_body_util::BodyExt as _;
use index::{Sqlite, Store};
use maildrop::{
    Bulletins, Deliveries, FairGate, Maildrops, NodeId, Releaser, TenantCache, Throttle, TrafficLog,
    port::{BlobStore, SystemClock},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tower::ServiceExt as _;

/// The bootstrap token.
pub(crate) const TOKEN: &str = "0123456789abcdef-bootstrap";

pub(crate) struct Fixture {
    pub(crate) router: Router,
    /// What was counted and is not written yet.
    pub(crate) traffic: TrafficLog,
    _dir: TempDir,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) octets: Vec<u8>,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.octets).unwrap_or(Value::Null)
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.octets).unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The kind of the problem, without what all have in common.
    pub(crate) fn problem(&self) -> String {
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:?}");
        let document = self.json();
        assert_eq!(document["status"], self.status.as_u16(), "{document}");
        assert_eq!(document["request"], self.header("x-request-id"), "{document}");
        let kind = document["type"].as_str().unwrap();
        kind.strip_prefix("urn:postern:problem:").unwrap().to_owned()
    }

    #[track_caller]
    pub(crate) fn is(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.octets));
        self
    }

    #[track_caller]
    pub(crate) fn refused(self, status: u16, kind: &str, field: &str) -> Self {
        assert_eq!((self.status.as_u16(), self.problem().as_str()), (status, kind), "{}", self.text());
        assert_eq!(self.json()["field"].as_str().unwrap_or(""), field, "{}", self.text());
        self
    }
}

/// Lets buckets be reached on loopback alone, where nobody listens.
#[derive(Debug)]
struct NowhereElse;

impl Guard for NowhereElse {
    fn allows(&self, _: &str, address: std::net::IpAddr, _: bool) -> bool {
        address.is_loopback()
    }
}

impl Fixture {
    pub(crate) async fn new() -> Self {
        // Tests are faster than people.
        let rate = Rate { per_second: 10_000.0, burst: 10_000.0 };
        Self::with_limits(ApiLimits { requests: rate, failures: rate, message_octets_max: 1_000_000 }).await
    }

    pub(crate) async fn with_limits(limits: ApiLimits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let sqlite = Sqlite::open(&dir.path().join("index.sqlite")).await.unwrap();
        let store = Store::from(Arc::new(sqlite));
        let disk = DiskStore::open(DiskConfig::new(dir.path().join("packs"))).await.unwrap();
        let master = Arc::new(MasterKey::parse(MASTER).unwrap());
        let (disk, layout): (Arc<dyn ObjectStore>, _) = (Arc::new(disk), BlobLayout::new("").unwrap());
        let own = OwnStores::new(
            Arc::clone(&store.directory),
            Keyring::new(Arc::clone(&master) as Arc<dyn KeyWrap>),
            Arc::clone(&disk),
            layout.clone(),
            OwnConfig {
                s3: S3Config::new(""),
                shelter: ShelterConfig::default(),
                guard: Arc::new(NowhereElse),
                watch: Arc::new(Unwatched),
                large_uploads_max: 2,
                memory_octets: 1 << 20,
                ahead_octets: 1 << 20,
                stores_max: 10,
            },
        );
        let packs = Packs::new(disk, Keyring::new(master), layout, PacksConfig::default());
        let blob: Arc<dyn BlobStore> = Arc::new(packs.with_own(own.clone()));
        let tenants = TenantCache::new(Arc::clone(&store.directory));
        let (releaser, _) = Releaser::start(Arc::clone(&store.index));
        let (directory, index) = (Arc::clone(&store.directory), Arc::clone(&store.index));
        let node = NodeId::generate();
        let maildrops = Maildrops::new(
            Arc::clone(&index),
            Arc::clone(&blob),
            tenants.clone(),
            node,
            releaser,
            turns(),
            turns(),
        );
        let deliveries = Deliveries::new(
            Arc::clone(&directory),
            Arc::clone(&index),
            Arc::clone(&blob),
            tenants.clone(),
            Throttle::default(),
            turns(),
            turns(),
        );
        let bulletin_writers =
            Bulletins::new(Arc::clone(&store.bulletins), Arc::clone(&blob), tenants.clone(), turns());
        let config = HasherConfig { memory_kib: 64, passes: 1, ..HasherConfig::default() };
        let registry = prometheus::Registry::new();
        let backends = Backends::new(
            Arc::clone(&directory),
            Arc::clone(&blob),
            tenants,
            BackendsConfig::default(),
            Metrics::new(&registry).unwrap(),
        );
        let api = AdminApi {
            directory,
            index,
            records: Arc::clone(&store.records),
            bulletins: Arc::clone(&store.bulletins),
            blob,
            maildrops,
            deliveries,
            bulletin_writers,
            traffic: TrafficLog::new(Arc::clone(&store.records)),
            hasher: Hasher::new(config).unwrap(),
            backends,
            buckets: Arc::new(own),
            clock: Arc::new(SystemClock),
            token: AdminToken::new(TOKEN).unwrap(),
            registry,
            metrics_public: false,
            limits,
            draining: Arc::new(|| false),
            manages: true,
        };
        Self { traffic: api.traffic.clone(), router: api.router(), _dir: dir }
    }

    /// With tenants `one` and `two`, a domain each, and a mailbox `a` in each.
    pub(crate) async fn with_tenants() -> Self {
        let api = Self::new().await;
        for tenant in ["one", "two"] {
            api.post("/v1/tenants", json!({ "name": tenant })).await.is(201);
            let path = format!("/v1/tenants/{tenant}/domains");
            api.post(&path, json!({ "name": format!("{tenant}.test") })).await.is(201);
            let path = format!("/v1/tenants/{tenant}/mailboxes");
            api.post(&path, json!({ "address": format!("a@{tenant}.test"), "password": "pw" })).await.is(201);
        }
        api
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        let sent = self.router.clone().oneshot(request);
        let response = tokio::time::timeout(Duration::from_secs(60), sent).await.unwrap().unwrap();
        let (parts, body) = response.into_parts();
        let octets = body.collect().await.unwrap().to_bytes().to_vec();
        Answer { status: parts.status, headers: parts.headers, octets }
    }

    /// Sends a request with these headers, as the platform's administrator where they do not say otherwise.
    pub(crate) async fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        if !headers.iter().any(|(name, _)| *name == "authorization") {
            request = request.header("authorization", format!("Bearer {TOKEN}"));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(body.into()).unwrap()).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.request("GET", path, &[], Body::empty()).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.request("DELETE", path, &[], Body::empty()).await
    }

    pub(crate) async fn json(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &Value,
    ) -> Answer {
        let headers = [headers, &[("content-type", "application/json")]].concat();
        self.request(method, path, &headers, body.to_string()).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.json("POST", path, &[], &body).await
    }

    pub(crate) async fn patch(&self, path: &str, body: Value) -> Answer {
        self.json("PATCH", path, &[], &body).await
    }

    /// A new key of this role, of the tenant or of the platform.
    pub(crate) async fn key(&self, tenant: Option<&str>, role: &str) -> String {
        let path = tenant.map_or("/v1/api-keys".to_owned(), |name| format!("/v1/tenants/{name}/api-keys"));
        let answer = self.post(&path, json!({ "label": role, "role": role })).await.is(201);
        format!("Bearer {}", answer.json()["key"].as_str().unwrap())
    }
}

/// More turns than any test takes.
fn turns() -> FairGate {
    FairGate::new(100, 100)
}

const MASTER: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
