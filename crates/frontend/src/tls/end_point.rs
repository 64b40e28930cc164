//! `tls-server-end-point`: what binds a login to the certificate that the client saw (RFC 5929 §4).

use aws_lc_rs::digest::{Algorithm, SHA224, SHA256, SHA384, SHA512, digest};
use rustls::pki_types::CertificateDer;
use x509_parser::{
    prelude::{FromDer as _, X509Certificate},
    signature_algorithm::SignatureAlgorithm,
};

/// The hash of a certificate by the function that its signature was made with; SHA-256 in place of MD5 and SHA-1.
/// `None` where there is no single such function, as with Ed25519: then there is no such binding (§4.1).
pub(super) fn hash(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let signature = &parsed.signature_algorithm;
    let oid = match SignatureAlgorithm::try_from(signature) {
        Ok(SignatureAlgorithm::RSASSA_PSS(parameters)) => parameters.hash_algorithm_oid().to_id_string(),
        _ => signature.algorithm.to_id_string(),
    };
    Some(digest(function(&oid)?, certificate).as_ref().to_vec())
}

/// The hash function of a signature algorithm, or of itself.
fn function(oid: &str) -> Option<&'static Algorithm> {
    match oid {
        // MD5 and SHA-1 with RSA, DSA and ECDSA, and alone.
        "1.2.840.113549.1.1.4" | "1.2.840.113549.1.1.5" | "1.2.840.10040.4.3" | "1.2.840.10045.4.1"
        | "1.3.14.3.2.26"
        // SHA-256 likewise.
        | "1.2.840.113549.1.1.11" | "2.16.840.1.101.3.4.3.2" | "1.2.840.10045.4.3.2" | "2.16.840.1.101.3.4.2.1" => {
            Some(&SHA256)
        }
        "1.2.840.113549.1.1.14" | "2.16.840.1.101.3.4.3.1" | "1.2.840.10045.4.3.1" | "2.16.840.1.101.3.4.2.4" => {
            Some(&SHA224)
        }
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" | "2.16.840.1.101.3.4.2.2" => Some(&SHA384),
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" | "2.16.840.1.101.3.4.2.3" => Some(&SHA512),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, SignatureAlgorithm};

    use super::*;

    #[track_caller]
    fn check(algorithm: &'static SignatureAlgorithm, octets: Option<usize>) {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let certificate = CertificateParams::new(["pop.test".to_owned()]).unwrap().self_signed(&key).unwrap();
        let hash = hash(certificate.der());
        assert_eq!(hash.as_ref().map(Vec::len), octets);
        if octets == Some(32) {
            assert_eq!(hash.unwrap(), digest(&SHA256, certificate.der()).as_ref());
        }
    }

    #[test]
    fn rfc_5929_4_1_the_hash_is_that_of_the_signature() {
        check(&rcgen::PKCS_ECDSA_P256_SHA256, Some(32));
        check(&rcgen::PKCS_ECDSA_P384_SHA384, Some(48));
        check(&rcgen::PKCS_ED25519, None);
        assert_eq!(function("1.2.840.113549.1.1.5"), Some(&SHA256), "in place of SHA-1");
        assert_eq!(function("1.2.840.113549.1.1.4"), Some(&SHA256), "in place of MD5");
        assert_eq!(function("1.2.840.113549.1.1.13"), Some(&SHA512));
    }
}
