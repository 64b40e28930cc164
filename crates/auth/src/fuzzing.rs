//! Doors for the fuzz targets to what is nobody else's. Not for use.

use crate::Password;

/// The password's octets.
pub fn octets_of(password: &Password) -> &[u8] {
    password.expose()
}
