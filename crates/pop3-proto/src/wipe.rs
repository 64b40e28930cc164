//! Best-effort wiping of buffers that held a password.

/// Overwrites `bytes` with zeros in a way the optimiser has to take seriously. Copies the allocator, the
/// kernel or a swap device made earlier are beyond reach: this shortens a secret's life, it does not end it.
pub(crate) fn wipe(bytes: &mut [u8]) {
    bytes.fill(0);
    std::hint::black_box(bytes);
}
