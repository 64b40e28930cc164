//! OCSP responses that are sent along with a certificate (RFC 6066 §8), while they are fresh.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use der::{Decode as _, asn1::GeneralizedTime};
use x509_ocsp::{BasicOcspResponse, CertStatus, OcspResponse, OcspResponseStatus, SingleResponse};

/// Responses are a few KiB; more is something else.
const OCTETS_MAX: usize = 64 * 1024;

/// A response that says that a certificate is good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Staple {
    pub(super) der: Vec<u8>,
    /// It says so from then on,
    from: SystemTime,
    /// until then.
    until: SystemTime,
}

impl Staple {
    /// Reads a response for the certificate with this serial number.
    pub(super) fn read(der: Vec<u8>, serial: &[u8]) -> Result<Self, &'static str> {
        if der.len() > OCTETS_MAX {
            return Err("is too large");
        }
        let response = OcspResponse::from_der(&der).map_err(|_| "is no OCSP response in DER")?;
        if response.response_status != OcspResponseStatus::Successful {
            return Err("says that the responder failed");
        }
        let basic = response.response_bytes.ok_or("says nothing")?;
        let basic = BasicOcspResponse::from_der(basic.response.as_bytes());
        let basic = basic.map_err(|_| "is of a kind that is not known")?;
        let says = |single: &&SingleResponse| plain(single.cert_id.serial_number.as_bytes()) == plain(serial);
        let responses = basic.tbs_response_data.responses;
        let single = responses.iter().find(says).ok_or("is for another certificate")?;
        if !matches!(single.cert_status, CertStatus::Good(_)) {
            return Err("does not say that the certificate is good");
        }
        // Without an end it would be good for ever, or never (RFC 6960 §4.2.2.1).
        let until = single.next_update.ok_or("does not say for how long it is good")?;
        let (from, until) = (time(single.this_update.0), time(until.0));
        Ok(Self { der, from, until })
    }

    /// Whether it may be sent now.
    pub(super) fn is_fresh(&self) -> bool {
        (self.from..self.until).contains(&SystemTime::now())
    }
}

fn time(at: GeneralizedTime) -> SystemTime {
    UNIX_EPOCH + at.to_unix_duration().min(Duration::from_secs(1 << 40))
}

/// A number without leading zeros.
fn plain(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|octet| **octet == 0).count();
    &number[zeros..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_response_is_none() {
        for (der, problem) in [
            (vec![], "is no OCSP response in DER"),
            (b"garbage".to_vec(), "is no OCSP response in DER"),
            // tryLater (3), as RFC 6960 §4.2.1 encodes it.
            (vec![0x30, 0x03, 0x0a, 0x01, 0x03], "says that the responder failed"),
            (vec![0x30, 0x03, 0x0a, 0x01, 0x00], "says nothing"),
            (vec![0; OCTETS_MAX + 1], "is too large"),
        ] {
            assert_eq!(Staple::read(der, &[1]), Err(problem));
        }
        assert_eq!(plain(&[0, 0, 1, 0]), [1, 0]);
    }
}
