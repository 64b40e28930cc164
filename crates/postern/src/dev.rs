//! `postern dev`: everything in one directory, with a demo tenant, so that a person who has just cloned the
//! repository reads mail after one command.

mod certificate;
mod messages;

use std::{fmt::Write as _, path::Path};

use anyhow::Context as _;
use auth::Password;
use maildrop::{
    Actor, Address, Domain, DomainName, MailboxId, MailboxSettings, NewDelivery, NewMailbox, Outcome,
    RecipientCheck, State, Tenant, TenantId, TenantName, TenantSettings,
    port::{Clock as _, SystemClock},
};

use crate::{
    cli::{DevArgs, say},
    config::{Config, LogFilter, LogFormat},
    files, logging,
    serve::{Listening, Node},
    telemetry::Telemetry,
    wiring::Parts,
};

const TENANT: &str = "demo";
const DOMAIN: &str = "demo.test";
const MAILBOXES: [&str; 2] = ["alice@demo.test", "bob@demo.test"];

/// Runs until a signal says otherwise. A second start finds what the first one left.
pub(crate) async fn run(args: &DevArgs) -> anyhow::Result<()> {
    files::private_dir(&args.data)?;
    let config = configuration(args)?;
    logging::start(&config.log, &Telemetry::default());
    let parts = Parts::open(&config).await?;
    let credentials = populate(&parts, &args.data).await?;
    let node = Node::start(config, parts).await?;
    say(&what_to_try(&node.listening, &credentials, &args.data));
    node.run().await
}

fn configuration(args: &DevArgs) -> anyhow::Result<Config> {
    let mut config = Config::default();
    let (certificate, key) = certificate::ensure(&args.data.join("tls"))?;
    let token_file = args.data.join("admin-token");
    files::secret_file(&token_file, || Ok(format!("{}\n", files::random_text(32)?)))?;
    config.node.data_dir.clone_from(&args.data);
    config.node.drain_timeout = std::time::Duration::from_secs(2);
    config.pop3.listen = args.pop3.0.clone().into_iter().collect();
    config.pop3s.listen = args.pop3s.0.into_iter().collect();
    config.lmtp.listen = args.lmtp.0.clone().into_iter().collect();
    config.admin.listen = args.admin.0.into_iter().collect();
    config.admin.token_file = Some(token_file);
    config.tls.certificate_file = Some(certificate);
    config.tls.key_file = Some(key);
    config.log.format = LogFormat::Text;
    config.log.filter = LogFilter("warn".to_owned());
    Ok(config)
}

/// Makes the demo tenant, if it is not there, and reads the credentials file. Interrupted and started again, it
/// goes on where it was, save that the demo mail itself is delivered only once the mailbox is new.
async fn populate(parts: &Parts, data: &Path) -> anyhow::Result<String> {
    let directory = &parts.store.directory;
    let actor = Actor { name: "postern dev".to_owned(), origin: "local".to_owned(), request: String::new() };
    let credentials = files::secret_file(&data.join("dev-credentials"), || {
        let mut text = String::new();
        for address in MAILBOXES {
            writeln!(text, "{address} {}", files::random_text(12)?)?;
        }
        Ok(text)
    })?;
    let name = TenantName::try_from(TENANT)?;
    let tenant = match directory.tenant_by_name(&name).await? {
        Some(tenant) => tenant.id,
        None => {
            let id = TenantId::generate();
            let key = parts.blob.new_tenant_key(id).await?;
            let tenant = Tenant {
                id,
                name,
                state: State::Active,
                revision: 1,
                settings: TenantSettings::default(),
                key,
                created_at: SystemClock.now(),
            };
            directory.create_tenant(&tenant, &actor).await?;
            id
        }
    };
    if directory.list_domains(tenant, None, 1).await?.is_empty() {
        let name = DomainName::try_from(DOMAIN)?;
        let domain = Domain { name, alias_of: None, created_at: SystemClock.now() };
        directory.create_domain(tenant, &domain, false, &actor).await?;
    }
    for line in credentials.lines() {
        let (address, password) =
            line.split_once(' ').context("dev-credentials: a line is `address password`")?;
        let address = Address::try_from(address)?;
        if directory.mailbox(tenant, &address).await?.is_some() {
            continue;
        }
        let password_hash = parts.hasher.hash(Password::new(password.as_bytes().to_vec())).await?;
        let mailbox = NewMailbox {
            id: MailboxId::generate(),
            address: address.clone(),
            credential: Some(password_hash.into()),
            suspended: false,
            settings: MailboxSettings::default(),
        };
        directory.create_mailboxes(tenant, &[mailbox], &actor, SystemClock.now()).await?;
        if address.as_str() == MAILBOXES[0] {
            deliver_demo(parts, &address).await?;
        }
    }
    Ok(credentials)
}

async fn deliver_demo(parts: &Parts, address: &Address) -> anyhow::Result<()> {
    for message in messages::DEMO {
        let check = parts.deliveries.recipient(address.clone(), None).await?;
        let RecipientCheck::Accepted(recipient) = check else { anyhow::bail!("{address} takes no mail") };
        let new = NewDelivery {
            sender: "postern@demo.test".to_owned(),
            recipients: vec![recipient],
            trace: Vec::new(),
            received_at: SystemClock.now(),
        };
        let mut delivery = parts.deliveries.begin(new).await;
        delivery.write(message.replace('\n', "\r\n").as_bytes()).await;
        if !matches!(delivery.finish().await[..], [Outcome::Delivered(_)]) {
            anyhow::bail!("a demo message could not be delivered");
        }
    }
    Ok(())
}

fn what_to_try(listening: &Listening, credentials: &str, data: &Path) -> String {
    let mut text = String::from("Postern serves. Stop it with Ctrl-C; a second start keeps the mail.\n\n");
    let mut line = |what: &str, addresses: &[String]| {
        for address in addresses {
            let _ = writeln!(text, "  {what:<8} {address}");
        }
    };
    line("POP3", &listening.pop3);
    line("POP3S", &listening.pop3s);
    line("LMTP", &listening.lmtp);
    line("Admin", &listening.admin);
    let data = data.display();
    let _ = write!(text, "\nMailboxes (also in {data}/dev-credentials):\n");
    for credential in credentials.lines() {
        let _ = writeln!(text, "  {credential}");
    }
    let login = credentials.lines().next().unwrap_or_default().replacen(' ', ":", 1);
    let _ = write!(text, "\nTry:\n");
    if let Some(address) = listening.pop3.first().filter(|address| !address.starts_with("unix:")) {
        let _ = writeln!(text, "  curl -u '{login}' pop3://{address}/1");
    }
    if let Some(address) = listening.pop3s.first() {
        let host = address.replace("127.0.0.1", "localhost");
        let _ = writeln!(text, "  curl -u '{login}' --cacert {data}/tls/cert.pem pop3s://{host}/1");
    }
    if let Some(address) = listening.lmtp.first().filter(|address| !address.starts_with("unix:")) {
        let (host, port) = address.rsplit_once(':').unwrap_or((address, "24"));
        let _ = writeln!(
            text,
            "  swaks --protocol LMTP --server {host} --port {port} --from you@example.org --to bob@demo.test"
        );
    }
    if let Some(address) = listening.admin.first() {
        let _ = writeln!(
            text,
            "  curl -H \"Authorization: Bearer $(cat {data}/admin-token)\" http://{address}/v1/tenants"
        );
    }
    text
}
