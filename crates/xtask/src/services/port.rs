//! Free ports.

use std::{
    net::{Ipv4Addr, TcpListener},
    sync::atomic::{AtomicU16, Ordering},
};

use anyhow::bail;

// Under the range the kernel takes the ports of outgoing connections from (32768 and up, ip(7)).
const FIRST: u16 = 15_000;
const COUNT: u16 = 17_000;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// Ports of the loopback interface that nothing listens on. Another process may take one meanwhile, so that
/// whoever uses them must be ready to try again.
pub fn free_ports<const N: usize>() -> anyhow::Result<[u16; N]> {
    // Neighbouring processes begin far from each other.
    let base = (std::process::id().wrapping_mul(7919) % u32::from(COUNT)) as u16;
    let mut ports = [0; N];
    let mut held = Vec::new();
    let mut tries = 0;
    for slot in &mut ports {
        *slot = loop {
            if tries == COUNT {
                bail!("no free port on 127.0.0.1");
            }
            tries += 1;
            let step = NEXT.fetch_add(1, Ordering::Relaxed);
            let port = FIRST + ((u32::from(base) + u32::from(step)) % u32::from(COUNT)) as u16;
            if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
                held.push(listener);
                break port;
            }
        };
    }
    Ok(ports)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_differ() {
        let [a, b, c] = free_ports().expect("three free ports");
        assert!(a != b && b != c && a != c);
    }
}
