//! A real LDAP directory.

use std::{fs, net::TcpStream, path::PathBuf, process::Command, time::Duration};

use tempfile::TempDir;
use xtask::process::Group;

use super::{env, run, wait_for, write_certificate};

/// slapd with the people of `dc=one,dc=test`. Dropping it stops it.
pub(crate) struct Slapd {
    dir: TempDir,
    pub(crate) port: u16,
    pub(crate) tls_port: u16,
    server: Option<Group>,
}

/// Who may search.
pub(crate) const READER: (&str, &str) = ("cn=reader,dc=one,dc=test", "reader-secret");

impl Slapd {
    /// Starts a directory of these people: `uid`, `mail`, and password.
    pub(crate) fn start(people: &[(&str, &str, &str)]) -> Self {
        let dir = tempfile::tempdir_in(env("POSTERN_TEST_TMP")).unwrap();
        write_certificate(dir.path());
        let [port, tls_port] = xtask::services::free_ports().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        fs::create_dir(dir.path().join("db")).unwrap();
        let schemas = ["core", "cosine", "inetorgperson"]
            .map(|name| format!("include /etc/ldap/schema/{name}.schema\n"));
        let conf = format!(
            "{}modulepath /usr/lib/ldap\nmoduleload back_mdb\npidfile {}\nTLSCertificateFile {}\n\
             TLSCertificateKeyFile {}\ndatabase mdb\nsuffix \"dc=one,dc=test\"\ndirectory {}\nmaxsize 10485760\n\
             access to attrs=userPassword by anonymous auth by * none\n\
             access to * by dn.exact=\"{}\" read by * none\n",
            schemas.concat(),
            at("pid"),
            at("cert.pem"),
            at("key.pem"),
            at("db"),
            READER.0
        );
        fs::write(at("slapd.conf"), conf).unwrap();
        let mut ldif = format!(
            "dn: dc=one,dc=test\nobjectClass: dcObject\nobjectClass: organization\ndc: one\no: One\n\n\
             dn: {}\nobjectClass: person\ncn: reader\nsn: reader\nuserPassword: {}\n\n",
            READER.0, READER.1
        );
        for (uid, mail, password) in people {
            ldif += &format!(
                "dn: uid={uid},dc=one,dc=test\nobjectClass: inetOrgPerson\nuid: {uid}\ncn: {uid}\nsn: {uid}\n\
                 mail: {mail}\nuserPassword: {password}\n\n"
            );
        }
        fs::write(at("people.ldif"), ldif).unwrap();
        run(Command::new("slapadd")
            .args(["-f", &at("slapd.conf"), "-l", &at("people.ldif")])
            .env("PATH", path()));
        let mut slapd = Self { dir, port, tls_port, server: None };
        slapd.up();
        slapd
    }

    /// Starts it again on the same ports.
    pub(crate) fn up(&mut self) {
        let conf = self.dir.path().join("slapd.conf").display().to_string();
        let urls = format!("ldap://127.0.0.1:{}/ ldaps://127.0.0.1:{}/", self.port, self.tls_port);
        let log = fs::File::create(self.dir.path().join("log")).unwrap();
        let mut command = Command::new("slapd");
        command.args(["-f", &conf, "-h", &urls, "-d", "stats"]).env("PATH", path()).stderr(log);
        self.server = Some(Group::spawn(&mut command, libc::SIGTERM, libc::SIGKILL).unwrap());
        let port = self.port;
        wait_for("slapd is ready", Duration::from_secs(20), || TcpStream::connect(("127.0.0.1", port)).ok());
    }

    /// Kills it.
    pub(crate) fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.kill();
        }
    }

    /// What it logged of operations.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    /// Its certificate, PEM.
    pub(crate) fn certificate(&self) -> String {
        fs::read_to_string(self.certificate_path()).unwrap()
    }

    fn certificate_path(&self) -> PathBuf {
        self.dir.path().join("cert.pem")
    }
}

/// Servers are where an ordinary user's PATH does not look.
fn path() -> String {
    format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default())
}
