//! Who may do what: one table. A route that is not in it answers nobody.

use axum::http::Method;
use maildrop::Role;

use Role::{PlatformAdmin, Provisioning, TenantAdmin, TenantReader};

/// Those who run the platform.
const PLATFORM: &[Role] = &[PlatformAdmin];
/// Those who run the tenant, too.
const ADMIN: &[Role] = &[PlatformAdmin, TenantAdmin];
/// Those who may look at the tenant, too.
const READ: &[Role] = &[PlatformAdmin, TenantAdmin, TenantReader];
/// Those who may look at the tenant's mailboxes and domains, too.
const LOOK: &[Role] = &[PlatformAdmin, TenantAdmin, TenantReader, Provisioning];
/// Those who may create and suspend mailboxes, too.
const PROVISION: &[Role] = &[PlatformAdmin, TenantAdmin, Provisioning];

/// Method, route, and the roles that may. Routes with `{tenant}` are within one tenant: a tenant's key is good for
/// its own alone, which is checked before this.
pub(crate) const TABLE: &[(Method, &str, &[Role])] = &[
    (Method::GET, "/v1/tenants", PLATFORM),
    (Method::POST, "/v1/tenants", PLATFORM),
    (Method::GET, "/v1/tenants/{tenant}", READ),
    // A tenant's administrator may change the policy alone: see `routes/tenants.rs`.
    (Method::PATCH, "/v1/tenants/{tenant}", ADMIN),
    (Method::DELETE, "/v1/tenants/{tenant}", PLATFORM),
    (Method::POST, "/v1/tenants/{tenant}/suspend", PLATFORM),
    (Method::POST, "/v1/tenants/{tenant}/resume", PLATFORM),
    (Method::GET, "/v1/deletions", PLATFORM),
    (Method::GET, "/v1/sessions", PLATFORM),
    (Method::GET, "/v1/audit", PLATFORM),
    (Method::GET, "/v1/audit/export", PLATFORM),
    (Method::GET, "/v1/api-keys", PLATFORM),
    (Method::POST, "/v1/api-keys", PLATFORM),
    (Method::DELETE, "/v1/api-keys/{id}", PLATFORM),
    (Method::GET, "/v1/tenants/{tenant}/domains", LOOK),
    (Method::POST, "/v1/tenants/{tenant}/domains", ADMIN),
    (Method::GET, "/v1/tenants/{tenant}/domains/{domain}", LOOK),
    (Method::DELETE, "/v1/tenants/{tenant}/domains/{domain}", ADMIN),
    (Method::GET, "/v1/tenants/{tenant}/mailboxes", LOOK),
    (Method::POST, "/v1/tenants/{tenant}/mailboxes", PROVISION),
    (Method::POST, "/v1/tenants/{tenant}/mailboxes/bulk", PROVISION),
    (Method::GET, "/v1/tenants/{tenant}/mailboxes/{address}", LOOK),
    (Method::PATCH, "/v1/tenants/{tenant}/mailboxes/{address}", ADMIN),
    (Method::DELETE, "/v1/tenants/{tenant}/mailboxes/{address}", ADMIN),
    (Method::POST, "/v1/tenants/{tenant}/mailboxes/{address}/suspend", PROVISION),
    (Method::POST, "/v1/tenants/{tenant}/mailboxes/{address}/resume", PROVISION),
    (Method::PUT, "/v1/tenants/{tenant}/mailboxes/{address}/password", ADMIN),
    (Method::GET, "/v1/tenants/{tenant}/mailboxes/{address}/app-passwords", READ),
    (Method::POST, "/v1/tenants/{tenant}/mailboxes/{address}/app-passwords", ADMIN),
    (Method::DELETE, "/v1/tenants/{tenant}/mailboxes/{address}/app-passwords/{id}", ADMIN),
    (Method::GET, "/v1/tenants/{tenant}/mailboxes/{address}/messages", READ),
    (Method::POST, "/v1/tenants/{tenant}/mailboxes/{address}/messages", ADMIN),
    (Method::GET, "/v1/tenants/{tenant}/mailboxes/{address}/messages/{uid}", READ),
    (Method::DELETE, "/v1/tenants/{tenant}/mailboxes/{address}/messages/{uid}", ADMIN),
    // What a message says is for those alone who could read it anyway, by setting the password.
    (Method::GET, "/v1/tenants/{tenant}/mailboxes/{address}/messages/{uid}/raw", ADMIN),
    (Method::POST, "/v1/tenants/{tenant}/mailboxes/{address}/messages/{uid}/restore", ADMIN),
    (Method::GET, "/v1/tenants/{tenant}/bulletins", READ),
    (Method::POST, "/v1/tenants/{tenant}/bulletins", ADMIN),
    (Method::GET, "/v1/tenants/{tenant}/bulletins/{id}", READ),
    (Method::DELETE, "/v1/tenants/{tenant}/bulletins/{id}", ADMIN),
    (Method::GET, "/v1/tenants/{tenant}/aliases", READ),
    (Method::POST, "/v1/tenants/{tenant}/aliases", ADMIN),
    (Method::GET, "/v1/tenants/{tenant}/aliases/{address}", READ),
    (Method::DELETE, "/v1/tenants/{tenant}/aliases/{address}", ADMIN),
    (Method::GET, "/v1/tenants/{tenant}/sessions", READ),
    (Method::DELETE, "/v1/tenants/{tenant}/sessions/{id}", ADMIN),
    (Method::GET, "/v1/tenants/{tenant}/usage", READ),
    (Method::GET, "/v1/tenants/{tenant}/audit", READ),
    (Method::GET, "/v1/tenants/{tenant}/audit/export", READ),
    (Method::GET, "/v1/tenants/{tenant}/api-keys", READ),
    (Method::POST, "/v1/tenants/{tenant}/api-keys", ADMIN),
    (Method::DELETE, "/v1/tenants/{tenant}/api-keys/{id}", ADMIN),
    (Method::GET, "/v1/tenants/{tenant}/login", READ),
    (Method::PUT, "/v1/tenants/{tenant}/login", ADMIN),
    (Method::DELETE, "/v1/tenants/{tenant}/login", ADMIN),
    // Where packs go, and by whose credentials, is between the platform and the tenant: a mistake makes mail unreadable.
    (Method::GET, "/v1/tenants/{tenant}/bucket", READ),
    (Method::PUT, "/v1/tenants/{tenant}/bucket", PLATFORM),
    (Method::DELETE, "/v1/tenants/{tenant}/bucket", PLATFORM),
    (Method::DELETE, "/v1/tenants/{tenant}/bucket/stores/{number}", PLATFORM),
    (Method::GET, "/v1/tenants/{tenant}/certificates", READ),
    (Method::GET, "/v1/tenants/{tenant}/certificates/{host}", READ),
    (Method::PUT, "/v1/tenants/{tenant}/certificates/{host}", ADMIN),
    (Method::DELETE, "/v1/tenants/{tenant}/certificates/{host}", ADMIN),
];

/// The one route on which a tenant that is being deleted can still be named: to hear how far that has come.
pub(crate) const DELETION: (Method, &str) = (Method::DELETE, "/v1/tenants/{tenant}");

/// The roles that may use `method` on `route`; `None` where nobody may: the table does not know it.
pub(crate) fn allowed(method: &Method, route: &str) -> Option<&'static [Role]> {
    // HEAD is GET without the body (RFC 9110 §9.3.2).
    let method = if *method == Method::HEAD { &Method::GET } else { method };
    TABLE.iter().find(|(m, r, _)| m == method && *r == route).map(|(_, _, roles)| *roles)
}

/// The methods that `route` knows, as `Allow` says them.
pub(crate) fn methods(route: &str) -> String {
    let mut methods: Vec<&str> =
        TABLE.iter().filter(|(_, r, _)| *r == route).map(|(method, _, _)| method.as_str()).collect();
    if methods.contains(&"GET") {
        methods.push("HEAD");
    }
    methods.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_listed_is_nobodys() {
        assert_eq!(allowed(&Method::GET, "/v1/tenants"), Some(PLATFORM));
        assert_eq!(allowed(&Method::HEAD, "/v1/tenants"), Some(PLATFORM));
        assert_eq!(allowed(&Method::PUT, "/v1/tenants"), None);
        assert_eq!(allowed(&Method::GET, "/v1/tenants/one"), None);
        assert_eq!(methods("/v1/tenants"), "GET, POST, HEAD");
    }

    #[test]
    fn the_table_and_the_routes_are_the_same() {
        let document = crate::openapi::document();
        let mut routes = Vec::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for method in item.as_object().unwrap().keys() {
                if path.starts_with("/v1") {
                    routes.push((method.to_uppercase(), path.clone()));
                }
            }
        }
        let mut table: Vec<_> = TABLE.iter().map(|(m, r, _)| (m.to_string(), (*r).to_owned())).collect();
        routes.sort();
        table.sort();
        assert_eq!(
            routes, table,
            "each route needs its line in the authorization table, and the other way round"
        );
    }

    #[test]
    fn a_platform_administrator_may_everything_and_metrics_keys_nothing() {
        for (method, route, roles) in TABLE {
            assert!(roles.contains(&PlatformAdmin), "{method} {route}");
            assert!(!roles.contains(&Role::Metrics), "{method} {route}");
            let of_tenant = roles.iter().any(|role| role.is_of_tenant());
            assert!(!of_tenant || route.starts_with("/v1/tenants/{tenant}"), "{method} {route}");
        }
    }
}
