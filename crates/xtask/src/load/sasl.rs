//! Logging in by SASL, as a client does (RFC 5034).

use std::{collections::HashMap, fmt::Write as _, num::NonZeroU32, sync::Mutex};

use ::hmac::{Hmac, KeyInit as _, Mac as _};
use anyhow::{Context as _, bail};
use aws_lc_rs::{digest, hmac, pbkdf2};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use md5::Md5;

use super::wire::Wire;

/// A way to log in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mechanism {
    /// USER and PASS.
    User,
    Plain,
    CramMd5,
    ScramSha1,
    ScramSha256,
}

/// Salted passwords by salt and rounds: clients remember them (RFC 5802 §5.1), and the load generator must not be what is
/// measured.
static SALTED: Mutex<Option<HashMap<(String, u32, bool), Vec<u8>>>> = Mutex::new(None);

/// Logs in.
pub(crate) async fn login(
    wire: &mut Wire,
    mechanism: Mechanism,
    user: &str,
    password: &str,
) -> anyhow::Result<()> {
    match mechanism {
        Mechanism::User => {
            wire.ask(&format!("USER {user}\r\n"), "+OK").await?;
            wire.ask(&format!("PASS {password}\r\n"), "+OK").await
        }
        Mechanism::Plain => {
            let response = base64(format!("\0{user}\0{password}").as_bytes());
            wire.ask(&format!("AUTH PLAIN {response}\r\n"), "+OK").await
        }
        Mechanism::CramMd5 => {
            let challenge = challenge(wire, "AUTH CRAM-MD5").await?;
            let mac = hmac_md5(password.as_bytes(), &challenge)?;
            let response = base64(format!("{user} {}", hex(&mac)).as_bytes());
            wire.ask(&format!("{response}\r\n"), "+OK").await
        }
        Mechanism::ScramSha1 => scram(wire, false, user, password).await,
        Mechanism::ScramSha256 => scram(wire, true, user, password).await,
    }
}

/// SCRAM (RFC 5802, RFC 7677) without channel binding.
async fn scram(wire: &mut Wire, sha256: bool, user: &str, password: &str) -> anyhow::Result<()> {
    let (name, hash, mac_of) = if sha256 {
        ("SCRAM-SHA-256", &digest::SHA256, hmac::HMAC_SHA256)
    } else {
        ("SCRAM-SHA-1", &digest::SHA1_FOR_LEGACY_USE_ONLY, hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY)
    };
    let mut random = [0; 18];
    aws_lc_rs::rand::fill(&mut random).ok().context("random octets")?;
    let nonce = base64(&random);
    let first = format!("n={user},r={nonce}");
    let command = format!("AUTH {name} {}", base64(format!("n,,{first}").as_bytes()));
    let server_first = String::from_utf8(challenge(wire, &command).await?).context("server-first-message")?;
    let field = |name: &str| {
        server_first.split(',').find_map(|field| field.strip_prefix(name)).context("server-first-message")
    };
    let (nonce, salt, rounds) = (field("r=")?, field("s=")?, field("i=")?.parse::<NonZeroU32>()?);
    let key = (salt.to_owned(), rounds.get(), sha256);
    let known = SALTED.lock().ok().and_then(|salted| salted.as_ref()?.get(&key).cloned());
    let salted = match known {
        Some(salted) => salted,
        None => {
            let mut salted = vec![0; hash.output_len];
            let algorithm = if sha256 { pbkdf2::PBKDF2_HMAC_SHA256 } else { pbkdf2::PBKDF2_HMAC_SHA1 };
            pbkdf2::derive(algorithm, rounds, &unbase64(salt)?, password.as_bytes(), &mut salted);
            if let Ok(mut all) = SALTED.lock() {
                all.get_or_insert_default().insert(key, salted.clone());
            }
            salted
        }
    };
    let mac = |key: &[u8], text: &[u8]| hmac::sign(&hmac::Key::new(mac_of, key), text);
    let client_key = mac(&salted, b"Client Key");
    let stored_key = digest::digest(hash, client_key.as_ref());
    let without_proof = format!("c=biws,r={nonce}");
    let message = format!("{first},{server_first},{without_proof}");
    let signature = mac(stored_key.as_ref(), message.as_bytes());
    let proof: Vec<u8> = client_key.as_ref().iter().zip(signature.as_ref()).map(|(a, b)| a ^ b).collect();
    let last = base64(format!("{without_proof},p={}", base64(&proof)).as_bytes());
    wire.send(format!("{last}\r\n").as_bytes()).await?;
    let answer = wire.line().await?;
    if answer.starts_with(b"+ ") {
        return wire.ask("\r\n", "+OK").await;
    }
    if !answer.starts_with(b"+OK") {
        bail!("{name}: {}", String::from_utf8_lossy(answer));
    }
    Ok(())
}

async fn challenge(wire: &mut Wire, command: &str) -> anyhow::Result<Vec<u8>> {
    wire.send(format!("{command}\r\n").as_bytes()).await?;
    let line = String::from_utf8_lossy(wire.line().await?).into_owned();
    match line.strip_prefix("+ ") {
        Some(challenge) => unbase64(challenge),
        None => bail!("{command}: {line}"),
    }
}

/// The response to a CRAM-MD5 challenge (RFC 2195).
fn hmac_md5(key: &[u8], text: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut mac = Hmac::<Md5>::new_from_slice(key).ok().context("key")?;
    mac.update(text);
    Ok(mac.finalize().into_bytes().to_vec())
}

fn hex(octets: &[u8]) -> String {
    octets.iter().fold(String::new(), |mut text, octet| {
        let _ = write!(text, "{octet:02x}");
        text
    })
}

fn base64(octets: &[u8]) -> String {
    STANDARD.encode(octets)
}

fn unbase64(text: &str) -> anyhow::Result<Vec<u8>> {
    STANDARD.decode(text).context("base64")
}
