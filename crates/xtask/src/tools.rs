//! Finds the programs that tests need, and installs what is missing where it may.

mod apt;
mod crates;
mod npm;
mod venv;

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::bail;

use crate::{layout::Layout, sys};

/// The programs the tests use, and the Debian packages that bring them. What has no program of its own is known by a
/// file.
const MAIL_TOOLS: [(&str, &str); 26] = [
    ("curl", "curl"),
    ("python3", "python3"),
    ("fetchmail", "fetchmail"),
    ("mpop", "mpop"),
    ("swaks", "swaks"),
    ("openssl", "openssl"),
    ("fail2ban-regex", "fail2ban"),
    // Of the whole of Perl, Net::POP3 included; `perl` itself is in perl-base.
    ("corelist", "perl"),
    ("/usr/share/perl5/Authen/SASL.pm", "libauthen-sasl-perl"),
    ("/usr/share/perl5/Digest/HMAC_MD5.pm", "libdigest-hmac-perl"),
    ("/usr/share/perl5/IO/Socket/SSL.pm", "libio-socket-ssl-perl"),
    ("/usr/share/perl5/Mail/POP3Client.pm", "libmail-pop3client-perl"),
    ("mutt", "mutt"),
    // A terminal for those that want one.
    ("script", "bsdutils"),
    ("kill", "procps"),
    ("ip", "iproute2"),
    ("unshare", "util-linux"),
    ("systemd-socket-activate", "systemd"),
    ("postfix", "postfix"),
    ("promtool", "prometheus"),
    ("haproxy", "haproxy"),
    ("nginx", "nginx libnginx-mod-mail"),
    ("slapd", "slapd"),
    ("slapadd", "slapd"),
    ("node", "nodejs"),
    ("npm", "npm"),
];

/// The programs of a cluster, beside the servers.
const CLUSTER_TOOLS: [(&str, &str); 5] = [
    ("curl", "curl"),
    ("openssl", "openssl"),
    ("haproxy", "haproxy"),
    ("postfix", "postfix"),
    ("prometheus", "prometheus"),
];

/// The programs that check what is deployed.
const DEPLOY_TOOLS: [(&str, &str); 8] = [
    ("python3", "python3"),
    ("openssl", "openssl"),
    ("promtool", "prometheus"),
    ("haproxy", "haproxy"),
    ("docker-compose", "docker-compose"),
    ("shellcheck", "shellcheck"),
    ("systemd-analyze", "systemd"),
    ("lintian", "lintian"),
];

/// What the servers are started from.
#[derive(Debug)]
pub(crate) struct Servers {
    /// The directory of PostgreSQL's programs.
    pub(crate) postgres_bin: PathBuf,
    /// SeaweedFS.
    pub(crate) weed: PathBuf,
}

/// Finds or installs everything the tests need.
pub(crate) fn for_tests(layout: &Layout) -> anyhow::Result<Servers> {
    provide(layout, &MAIL_TOOLS)
}

/// Finds or installs what a cluster of plain processes is made of.
pub(crate) fn for_cluster(layout: &Layout) -> anyhow::Result<Servers> {
    provide(layout, &CLUSTER_TOOLS)
}

/// Finds or installs schemathesis.
pub(crate) fn schemathesis(layout: &Layout) -> anyhow::Result<PathBuf> {
    venv::schemathesis(layout)
}

/// Finds or installs the OpenID provider.
pub(crate) fn oidc(layout: &Layout) -> anyhow::Result<PathBuf> {
    npm::oidc(layout)
}

/// Finds or installs a Python with the libraries of SASL clients.
pub(crate) fn sasl(layout: &Layout) -> anyhow::Result<PathBuf> {
    venv::sasl(layout)
}

/// Finds or unpacks CrowdSec.
pub(crate) fn crowdsec(layout: &Layout) -> anyhow::Result<PathBuf> {
    apt::unpack(layout, "crowdsec")
}

/// What the checks of `deploy/` and `helm/` are run by.
#[derive(Debug)]
pub(crate) struct DeployTools {
    /// A Python with Helm, the schemas of Kubernetes, and YAML.
    pub(crate) python: PathBuf,
    /// checkov.
    pub(crate) checkov: PathBuf,
    /// hadolint.
    pub(crate) hadolint: PathBuf,
    /// lychee.
    pub(crate) lychee: PathBuf,
    /// mdBook.
    pub(crate) mdbook: PathBuf,
    /// cargo-deb.
    pub(crate) cargo_deb: PathBuf,
}

/// Finds or installs what the checks of `deploy/` and `helm/` are run by.
pub(crate) fn deploy(layout: &Layout) -> anyhow::Result<DeployTools> {
    provide_programs(layout, &DEPLOY_TOOLS)?;
    Ok(DeployTools {
        python: venv::helm(layout)?,
        checkov: venv::checkov(layout)?,
        hadolint: venv::hadolint(layout)?,
        lychee: venv::lychee(layout)?,
        mdbook: crates::install(layout, &crates::MDBOOK)?,
        cargo_deb: crates::install(layout, &crates::CARGO_DEB)?,
    })
}

/// Finds or installs a Python with Helm as a library.
pub(crate) fn helm(layout: &Layout) -> anyhow::Result<PathBuf> {
    venv::helm(layout)
}

/// Finds or installs getmail6.
pub(crate) fn getmail(layout: &Layout) -> anyhow::Result<PathBuf> {
    venv::getmail(layout)
}

/// Finds or installs node-pop3.
pub(crate) fn node_pop3(layout: &Layout) -> anyhow::Result<PathBuf> {
    npm::node_pop3(layout)
}

/// Finds or installs the servers, and these programs (with their packages).
pub(crate) fn provide(layout: &Layout, programs: &[(&str, &str)]) -> anyhow::Result<Servers> {
    let mut wanted = programs.to_vec();
    wanted.push(("python3", "python3"));
    if postgres_bin().is_none() && sys::is_root() {
        // By a name that no program has.
        wanted.push(("/nonexistent/postgres", "postgresql"));
    }
    provide_programs(layout, &wanted)?;
    let postgres_bin = match postgres_bin() {
        Some(bin) => bin,
        // Without root, PostgreSQL comes like SeaweedFS does.
        None => venv::postgres_bin(layout)?,
    };
    Ok(Servers { postgres_bin, weed: venv::weed(layout)? })
}

/// Installs what is missing of these programs, by their packages.
fn provide_programs(layout: &Layout, programs: &[(&str, &str)]) -> anyhow::Result<()> {
    let missing = programs.iter().filter(|(what, _)| !is_there(what)).map(|(_, package)| *package);
    // A program may need several packages.
    let mut missing: Vec<&str> = missing.flat_map(str::split_ascii_whitespace).collect();
    missing.sort_unstable();
    missing.dedup();
    if missing.is_empty() { Ok(()) } else { apt::install(layout, &missing) }
}

/// Whether a program is installed, or a file by its whole path.
fn is_there(what: &str) -> bool {
    if what.starts_with('/') { Path::new(what).exists() } else { find(what).is_some() }
}

/// Where a program is, if it is installed.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    // An ordinary user's PATH often lacks the directories of servers.
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path).chain(system).map(|dir| dir.join(program)).find(|file| is_executable(file))
}

/// The newest PostgreSQL server's programs.
fn postgres_bin() -> Option<PathBuf> {
    let complete = |bin: &Path| ["initdb", "postgres", "psql"].iter().all(|p| is_executable(&bin.join(p)));
    let mut found: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .filter(|(_, bin)| complete(bin))
        .collect();
    found.sort();
    let packaged = found.pop().map(|(_, bin)| bin);
    packaged.or_else(|| find("postgres")?.parent().map(Path::to_path_buf).filter(|bin| complete(bin)))
}

fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Says what a person without root must do.
fn ask_root(packages: &[&str]) -> anyhow::Result<()> {
    bail!(
        "some programs are missing, and only root may install them; run\n    \
         sudo apt-get update && sudo apt-get install -y --no-install-recommends {}",
        packages.join(" ")
    )
}
