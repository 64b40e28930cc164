use super::*;

#[test]
fn a_mailbox_overrides_its_tenant() {
    let tenant = Policy { pop3: Some(true), expire_days: Some(30), ..Policy::default() };
    let mailbox = Policy { expire_days: Some(7), ..Policy::default() };
    let merged = mailbox.or(&tenant);
    assert_eq!((merged.pop3, merged.expire_days, merged.dele), (Some(true), Some(7), None));
}

#[test]
fn deletion_keeps_for_as_long_as_any_rule_says() {
    let days = |days| Duration::from_hours(24) * days;
    let mut rules = Rules::default();
    assert_eq!(rules.kept(), Duration::ZERO);
    rules.mailbox.undelete_days = Some(3);
    assert_eq!((rules.kept(), rules.undelete_window()), (days(3), days(3)));
    rules.mailbox.dele = Some(DeleMeaning::Hide);
    assert_eq!(rules.kept(), days(30));
    rules.mailbox.hide_days = Some(1);
    assert_eq!(rules.kept(), days(3));
    rules.mailbox.undelete_days = Some(365);
    assert_eq!(rules.kept(), days(30), "the tenant's limit");
    rules.tenant.kept_days_max = Some(100);
    assert_eq!(rules.undelete_window(), days(100));
}

#[test]
fn json_is_strict_and_says_only_what_is_set() {
    let policy: Policy =
        serde_json::from_str(r#"{"dele":"hide","login_mechanisms":["USER","SCRAM-SHA-256"]}"#).unwrap();
    assert!(policy.takes(LoginMechanism::ScramSha256) && !policy.takes(LoginMechanism::Plain));
    let nothing = Policy::default();
    assert!(nothing.takes(LoginMechanism::Plain) && !nothing.takes(LoginMechanism::External));
    let text = serde_json::to_string(&policy).unwrap();
    assert_eq!(text, r#"{"login_mechanisms":["USER","SCRAM-SHA-256"],"dele":"hide"}"#);
    assert!(serde_json::from_str::<Policy>(r#"{"expire":1}"#).is_err());
    assert!(serde_json::from_str::<TenantLimits>(r#"{"sessions_max":-1}"#).is_err());
}

#[test]
fn values_out_of_bounds_are_named() {
    let problem = |policy: Policy| policy.problem().map(|(field, _)| field);
    assert_eq!(problem(Policy::default()), None);
    assert_eq!(problem(Policy { expire_days: Some(0), ..Policy::default() }), Some("expire_days"));
    let takeover = |secs| Policy { takeover_after_secs: Some(secs), ..Policy::default() };
    assert_eq!((problem(takeover(0)), takeover(0).takeover_after()), (None, None));
    assert_eq!(problem(takeover(3601)), Some("takeover_after_secs"));
    assert_eq!(takeover(1).takeover_after(), Some(Duration::from_secs(5)));
    assert_eq!(Policy::default().takeover_after(), Some(Duration::from_secs(30)));
    assert_eq!(problem(Policy { greeting: Some("a\r\nb".into()), ..Policy::default() }), Some("greeting"));
    let octets = Policy { message_octets_max: Some(u64::MAX), ..Policy::default() };
    assert_eq!(problem(octets), Some("message_octets_max"));
}
