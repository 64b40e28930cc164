//! Databases and buckets, each test's own.

use std::{
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use super::{env, run};

/// 32 octets in base64.
pub(crate) const MASTER_KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

/// A name nobody else has.
pub(crate) fn unique(prefix: &str) -> String {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    format!("{prefix}{}n{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed))
}

/// A database on a PostgreSQL server.
#[derive(Debug, Clone)]
pub(crate) struct Database {
    server: String,
    name: String,
}

impl Database {
    /// A new database on the shared server.
    pub(crate) fn new() -> Self {
        Self::on(&env("POSTERN_TEST_PG_URL"))
    }

    /// A new database on the server at this URL.
    pub(crate) fn on(server: &str) -> Self {
        let database = Self { server: server.to_owned(), name: unique("it") };
        psql(server, &format!("CREATE DATABASE {}", database.name));
        database
    }

    pub(crate) fn url(&self) -> String {
        let (base, _) = self.server.rsplit_once('/').unwrap();
        format!("{base}/{}", self.name)
    }

    /// Runs SQL; gives what it printed, columns by `|`.
    pub(crate) fn sql(&self, sql: &str) -> String {
        psql(&self.url(), sql)
    }
}

fn psql(url: &str, sql: &str) -> String {
    let psql = std::path::Path::new(&env("POSTERN_TEST_PG_BIN")).join("psql");
    let output =
        run(Command::new(psql).args([url, "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", sql]));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A bucket on an S3 server.
#[derive(Debug, Clone)]
pub(crate) struct Bucket {
    pub(crate) endpoint: String,
    pub(crate) name: String,
}

impl Bucket {
    /// A new bucket on the shared server.
    pub(crate) fn new() -> Self {
        Self::on(&env("POSTERN_TEST_S3_ENDPOINT"))
    }

    /// A new bucket on the server at this URL.
    pub(crate) fn on(endpoint: &str) -> Self {
        let bucket = Self { endpoint: endpoint.to_owned(), name: unique("it-") };
        bucket.curl("", &["--retry-all-errors", "-X", "PUT"]);
        bucket
    }

    /// Asks for `path` in it (a key, or a query) by curl with these options, and gives the answer's body.
    fn curl(&self, path: &str, options: &[&str]) -> Vec<u8> {
        let credentials = format!("{}:{}", xtask::services::ADMIN_KEY, xtask::services::ADMIN_SECRET);
        let url = format!("{}/{}{path}", self.endpoint, self.name);
        let sigv4 = ["-sf", "--retry", "5", "--aws-sigv4", "aws:amz:us-east-1:s3", "-u", &credentials];
        run(Command::new("curl").args(sigv4).args(options).arg(&url)).stdout
    }

    /// Puts an object into it.
    pub(crate) fn put(&self, key: &str, body: &str) {
        let unsigned = "x-amz-content-sha256: UNSIGNED-PAYLOAD";
        self.curl(&format!("/{key}"), &["-X", "PUT", "-H", unsigned, "--data-binary", body]);
    }

    /// Deletes an object.
    pub(crate) fn delete(&self, key: &str) {
        self.curl(&format!("/{key}"), &["-X", "DELETE"]);
    }

    /// Keys and octets of all packs in it.
    pub(crate) fn packs(&self) -> Vec<(String, u64)> {
        let mut all = self.list("t/");
        all.retain(|(key, _)| key.contains("/p/"));
        all
    }

    /// Keys of all that begins so.
    pub(crate) fn objects(&self, prefix: &str) -> Vec<String> {
        self.list(prefix).into_iter().map(|(key, _)| key).collect()
    }

    fn list(&self, prefix: &str) -> Vec<(String, u64)> {
        let mut all: Vec<(String, u64)> = Vec::new();
        loop {
            let after = all.last().map(|(key, _)| format!("&start-after={}", key.replace('/', "%2F")));
            let prefix = prefix.trim_end_matches('/').replace('/', "%2F");
            let query = format!("?list-type=2&prefix={prefix}{}", after.unwrap_or_default());
            let text = String::from_utf8(self.curl(&query, &[])).unwrap();
            let between = |text: &str, tag: &str| {
                let (_, rest) = text.split_once(&format!("<{tag}>"))?;
                Some(rest.split_once('<')?.0.to_owned())
            };
            let page = text.split("<Contents>").skip(1).map(|object| {
                (between(object, "Key").unwrap(), between(object, "Size").unwrap().parse().unwrap())
            });
            let before = all.len();
            all.extend(page);
            if all.len() == before || !text.contains("<IsTruncated>true") {
                return all;
            }
        }
    }
}

/// Where a node keeps things.
#[derive(Debug, Clone)]
pub(crate) enum Stores {
    /// SQLite and disk under the node's directory.
    Embedded,
    /// PostgreSQL and S3.
    Servers(Database, Bucket),
}

impl Stores {
    /// A database and a bucket on the shared servers.
    pub(crate) fn servers() -> Self {
        Self::Servers(Database::new(), Bucket::new())
    }

    /// Runs SQL on the database.
    pub(crate) fn execute(&self, sql: &str) {
        self.database().sql(sql);
    }

    /// Runs SQL that gives one number, or no row.
    pub(crate) fn number(&self, sql: &str) -> Option<i64> {
        self.database().sql(sql).parse().ok()
    }

    /// Runs SQL that gives one text.
    pub(crate) fn text(&self, sql: &str) -> String {
        self.database().sql(sql)
    }

    /// How many packs are in the bucket.
    pub(crate) fn object_count(&self) -> u64 {
        self.bucket().packs().len() as u64
    }

    /// The bucket.
    pub(crate) fn bucket(&self) -> &Bucket {
        match self {
            Self::Servers(_, bucket) => bucket,
            Self::Embedded => panic!("there is no bucket"),
        }
    }

    fn database(&self) -> &Database {
        match self {
            Self::Servers(database, _) => database,
            Self::Embedded => panic!("there is no server"),
        }
    }

    /// The configuration's part about them.
    pub(crate) fn toml(&self) -> String {
        match self {
            Self::Embedded => String::new(),
            Self::Servers(database, bucket) => format!(
                "[index]\nurl = \"{}\"\n[blob]\nkind = \"s3\"\nbucket = \"{}\"\nendpoint = \"{}\"\n\
                 region = \"us-east-1\"\nread_timeout = \"2s\"\nconnect_timeout = \"1s\"\n\
                 [keys]\nmaster_key = \"{MASTER_KEY}\"\n",
                database.url(),
                bucket.name,
                bucket.endpoint
            ),
        }
    }
}
