//! Logins that a tenant's back end verifies: what its answers mean here.

use std::sync::Arc;

use maildrop::{
    Address, Credential, LoginScope,
    port::{Account, Clock as _, LoginDomain, LoginLookup, SystemClock},
};

use crate::{AuthError, Authenticator, Password, Verified, address_of, backend::Backend, sasl::at_domain};

impl Authenticator {
    /// Verifies a password by the back end of its tenant. It is asked whether there is such a mailbox or not, so that
    /// its answers take as long.
    pub(crate) async fn verify_elsewhere(
        &self,
        backend: &Backend,
        domain: &LoginDomain,
        account: Option<Account>,
        address: &Address,
        password: &Password,
    ) -> Result<Verified, AuthError> {
        let tenant = Some(domain.tenant);
        let bad = || AuthError::BadCredentials { tenant };
        // By whatever domain it is called, a mailbox has one name.
        let asked = Address::new(address.local_part(), &domain.name).map_err(|_| bad())?;
        let answer = backend.is_password(&asked, password).await;
        let outcome = match answer {
            Ok(true) => "good",
            Ok(false) => "refused",
            Err(_) => "unavailable",
        };
        self.count(backend.kind(), outcome);
        match (answer, account) {
            (Ok(true), Some(account)) => {
                let verified = match backend.remember {
                    Some(remember) if remember.is_zero() => Verified::of(&account),
                    remember => {
                        let until = remember.map(|remember| SystemClock.now() + remember);
                        self.remember(
                            &account,
                            address,
                            password,
                            (Credential::Password, LoginScope::Full, until),
                        )
                    }
                };
                if !backend.offline.is_zero() {
                    self.verified.keep_for_offline(&asked, password, &verified.access);
                }
                Ok(verified)
            }
            (Ok(false), _) => {
                self.verified.forget_for_offline(&asked, password);
                Err(bad())
            }
            (Ok(true), None) => Err(bad()),
            (Err(away), account) => {
                let account = account.filter(|account| {
                    self.verified.was_good(&asked, password, &Verified::of(account).access, backend.offline)
                });
                match account {
                    Some(account) => {
                        self.count("offline", "good");
                        Ok(Verified::of(&account))
                    }
                    // The same for everybody, mailbox or not.
                    None if !backend.offline.is_zero() => Err(AuthError::Undecided { tenant: domain.tenant }),
                    None => Err(away.into()),
                }
            }
        }
    }

    /// Verifies a token (OAUTHBEARER, XOAUTH2): whose it is, the issuer of the tenant says whose mailbox is asked for.
    pub(crate) async fn verify_token(&self, login: &str, token: &str) -> Result<Verified, AuthError> {
        let bad = |tenant| AuthError::BadCredentials { tenant };
        let Some(address) = address_of(login) else { return Err(bad(None)) };
        let LoginLookup { domain, account } = self.look_up(&address).await?;
        let Some(domain) = domain else { return Err(bad(None)) };
        let tenant = Some(domain.tenant);
        let Some(backend) = self.backend(&domain).await? else { return Err(bad(tenant)) };
        let holder = backend.holder(token).await.inspect_err(|_| self.count("token", "unavailable"))?;
        // The name of the mailbox, under its own domain or the one it was called by, or the part before.
        let is_it = |holder: &str| {
            let local = |at: &str| Address::new(address.local_part(), at).ok();
            match Address::try_from(holder) {
                Ok(holder) => local(&domain.name).as_ref() == Some(&holder) || address == holder,
                // In a tenant with several domains a part before is somebody's of one of them.
                Err(_) => {
                    let at = backend.default_domain.as_ref().unwrap_or(&domain.name);
                    let found = Address::new(holder, at).ok().filter(|_| !holder.contains('@'));
                    found.is_some() && found == local(&domain.name)
                }
            }
        };
        let good = holder.as_deref().is_some_and(is_it);
        match account {
            Some(account) if good => {
                self.count("token", "good");
                Ok(by_token(&account))
            }
            _ => {
                self.count("token", "refused");
                Err(bad(tenant))
            }
        }
    }

    /// Verifies a token that comes without the name of a mailbox: it is the one the token names, if it is of the tenant
    /// that this domain is of. Gives the name as well.
    pub(crate) async fn verify_token_at(
        &self,
        domain: &str,
        token: &str,
    ) -> Result<(String, Verified), AuthError> {
        let bad = || AuthError::BadCredentials { tenant: None };
        let anybody = Address::new("nobody", domain).map_err(|_| bad())?;
        let of_host = self.look_up(&anybody).await?.domain.ok_or_else(bad)?;
        let Some(backend) = self.backend(&of_host).await? else { return Err(bad()) };
        let holder = backend.holder(token).await.inspect_err(|_| self.count("token", "unavailable"))?;
        let at = backend.default_domain.as_ref().unwrap_or(&of_host.name);
        let address = holder.and_then(|holder| Address::try_from(&*at_domain(holder, Some(at))).ok());
        if let Some(address) = address {
            let LoginLookup { domain, account } = self.look_up(&address).await?;
            if let Some(account) = account
                && domain.is_some_and(|domain| domain.tenant == of_host.tenant)
            {
                self.count("token", "good");
                return Ok((address.to_string(), by_token(&account)));
            }
        }
        self.count("token", "refused");
        Err(AuthError::BadCredentials { tenant: Some(of_host.tenant) })
    }

    /// What verifies the logins of a domain, where that was ever set.
    pub(crate) async fn backend(&self, domain: &LoginDomain) -> Result<Option<Arc<Backend>>, AuthError> {
        if domain.login_version == 0 {
            return Ok(None);
        }
        let backends = self.backends.as_ref().ok_or(AuthError::Unavailable(None))?;
        backends.of(domain.tenant, domain.login_version).await.map(Some)
    }
}

/// A login to this account by a token.
fn by_token(account: &Account) -> Verified {
    let mut verified = Verified::of(account);
    verified.access.credential = Credential::Token;
    verified
}
