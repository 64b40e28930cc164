//! Whose mailbox a client's certificate names.

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

/// The mail addresses in a certificate that was verified in the handshake: rfc822Name in its subjectAltName, and only
/// where there is none emailAddress in its subject (RFC 5280 §4.1.2.6 has it for old ones). None of one that is not valid
/// now: a resumed session goes back to a handshake of some time ago.
pub(crate) fn addresses(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return Vec::new() };
    if !parsed.validity().is_valid() {
        return Vec::new();
    }
    let alternatives = parsed.subject_alternative_name().ok().flatten();
    let mut addresses: Vec<String> = alternatives
        .iter()
        .flat_map(|names| &names.value.general_names)
        .filter_map(|name| match name {
            GeneralName::RFC822Name(address) => Some((*address).to_owned()),
            _ => None,
        })
        .collect();
    if addresses.is_empty() {
        let subject = parsed.subject();
        addresses.extend(subject.iter_email().filter_map(|email| email.as_str().ok()).map(str::to_owned));
    }
    addresses
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, DnValue, KeyPair, SanType};

    use super::*;

    fn certificate(alternatives: &[&str], email: Option<&str>, year: i32) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(["phone.one.test".to_owned()]).unwrap();
        for address in alternatives {
            params.subject_alt_names.push(SanType::Rfc822Name((*address).try_into().unwrap()));
        }
        if let Some(email) = email {
            let oid = vec![1, 2, 840, 113_549, 1, 9, 1];
            let email = DnValue::Ia5String(email.try_into().unwrap());
            params.distinguished_name.push(DnType::CustomDnType(oid), email);
        }
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    #[test]
    fn alternatives_count_before_the_subject() {
        let of = |alternatives: &[&str], email| addresses(&certificate(alternatives, email, 4000));
        assert_eq!(of(&["a@one.test"], Some("b@one.test")), ["a@one.test"]);
        assert_eq!(of(&["a@one.test", "c@one.test"], None), ["a@one.test", "c@one.test"]);
        assert_eq!(of(&[], Some("b@one.test")), ["b@one.test"]);
        assert!(of(&[], None).is_empty(), "a host is no mailbox");
        assert!(addresses(&certificate(&["a@one.test"], None, 2020)).is_empty(), "its time is over");
        assert!(addresses(&CertificateDer::from(vec![1, 2, 3])).is_empty());
    }
}
