//! A real OpenID provider, whose tokens say what a test wants.

use std::{fs, net::SocketAddr, net::TcpStream, process::Command, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value;
use tempfile::TempDir;
use xtask::process::Group;

use super::{Http, env, wait_for};

/// An issuer. Dropping it stops it.
pub(crate) struct Oidc {
    _dir: TempDir,
    script: String,
    port: u16,
    server: Option<Group>,
}

/// oauth2-mock-server, asked for tokens with claims of ours, and for new keys; what it says of tokens when it is asked
/// is what stands in them, to those who know the password.
const SCRIPT: &str = r"
import { createServer } from 'node:http';
import { OAuth2Issuer, OAuth2Service } from 'oauth2-mock-server';
const port = Number(process.argv[2]);
const issuer = new OAuth2Issuer();
issuer.url = `http://localhost:${port}`;
await issuer.keys.generate('RS256');
const service = new OAuth2Service(issuer);
service.on('beforeTokenSigning', (token, req) => {
  Object.assign(token.payload, JSON.parse(req.body.claims ?? '{}'));
  Object.assign(token.header, JSON.parse(req.body.header ?? '{}'));
});
service.on('beforeIntrospect', (res, req) => {
  const expected = 'Basic ' + Buffer.from('postern:client+s%C3%A9cret').toString('base64');
  if (req.headers.authorization !== expected) { res.statusCode = 401; res.body = {}; return; }
  try {
    const claims = JSON.parse(Buffer.from(req.form.get('token').split('.')[1], 'base64url'));
    res.body = { ...claims, active: claims.revoked !== true };
  } catch { res.body = { active: false }; }
});
const server = createServer(async (req, res) => {
  // Of the endpoints this one alone does not read what it is sent.
  if (req.url === '/introspect') {
    let text = '';
    for await (const chunk of req) text += chunk;
    req.form = new URLSearchParams(text);
  }
  service.requestHandler(req, res);
});
// From then on tokens are signed by another key.
process.on('SIGUSR2', async () => {
  await issuer.keys.generate('ES256', { kid: 'next' });
  const build = issuer.buildToken.bind(issuer);
  issuer.buildToken = (options) => build({ ...options, kid: 'next' });
});
server.listen(port, '127.0.0.1');
";

impl Oidc {
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir_in(env("POSTERN_TEST_TMP")).unwrap();
        // Imports are looked for from where the script is.
        let script = std::path::Path::new(&env("POSTERN_TEST_OIDC"))
            .join(format!("provider-{}.mjs", std::process::id()))
            .display()
            .to_string();
        fs::write(&script, SCRIPT).unwrap();
        let [port] = xtask::services::free_ports().unwrap();
        let mut oidc = Self { _dir: dir, script, port, server: None };
        oidc.up();
        oidc
    }

    pub(crate) fn up(&mut self) {
        let mut command = Command::new("node");
        command.args([&self.script, &self.port.to_string()]).stdout(std::process::Stdio::null());
        self.server = Some(Group::spawn(&mut command, libc::SIGTERM, libc::SIGKILL).unwrap());
        let port = self.port;
        wait_for("the issuer is ready", Duration::from_secs(30), || {
            TcpStream::connect(("127.0.0.1", port)).ok()
        });
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.kill();
        }
    }

    /// Makes another key, `next`, beside the first.
    pub(crate) fn rotate(&self) {
        self.server.as_ref().unwrap().signal(libc::SIGUSR2);
        let has_two = || (self.http().get("/jwks").1.matches("\"kid\"").count() == 2).then_some(());
        wait_for("another key", Duration::from_secs(10), has_two);
    }

    /// What tokens of it name as their issuer.
    pub(crate) fn issuer(&self) -> String {
        format!("http://localhost:{}", self.port)
    }

    /// A token with these claims and this in its header.
    pub(crate) fn token(&self, claims: &Value, header: &Value) -> String {
        let encoded = |value: &Value| {
            value.to_string().bytes().fold(String::new(), |text, octet| text + &format!("%{octet:02X}"))
        };
        let form = format!(
            "grant_type=password&username=x&password=y&claims={}&header={}",
            encoded(claims),
            encoded(header)
        );
        let (status, _, body) =
            self.http().raw("POST", "/token", "application/x-www-form-urlencoded", form.as_bytes());
        assert_eq!(status, 200, "{body}");
        let body: Value = serde_json::from_str(&body).unwrap();
        body["access_token"].as_str().unwrap().to_owned()
    }

    fn http(&self) -> Http {
        Http::new(SocketAddr::from(([127, 0, 0, 1], self.port)), "")
    }
}

impl Drop for Oidc {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.script);
    }
}

/// The message of OAUTHBEARER, as AUTH takes it.
pub(crate) fn oauthbearer(user: &str, token: &str) -> String {
    STANDARD.encode(format!("n,a={user},\u{1}host=localhost\u{1}port=110\u{1}auth=Bearer {token}\u{1}\u{1}"))
}

/// The message of XOAUTH2, as AUTH takes it.
pub(crate) fn xoauth2(user: &str, token: &str) -> String {
    STANDARD.encode(format!("user={user}\u{1}auth=Bearer {token}\u{1}\u{1}"))
}
