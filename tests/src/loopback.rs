//! Addresses of 127.0.0.0/8 that no other test uses.
//!
//! A test that restarts a server or a node on its port must find that port free. On 127.0.0.1 the source
//! port of any outgoing connection may sit on it; on an address of its own nothing does, because the kernel
//! sends from 127.0.0.1.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, Ordering};

/// Addresses that one test process takes before they repeat: more than the largest suite needs.
const PER_PROCESS: u32 = 1 << 10;
/// 127.1.0.0 up to 127.254.255.255: the ends of the block are network and broadcast addresses.
const FIRST: u32 = 0x7f01_0000;
const USABLE: u32 = 254 << 16;

static NEXT: AtomicU32 = AtomicU32::new(0);

pub fn next() -> Ipv4Addr {
    let sequence = NEXT.fetch_add(1, Ordering::Relaxed) % PER_PROCESS;
    let offset = std::process::id().wrapping_mul(PER_PROCESS).wrapping_add(sequence) % USABLE;
    Ipv4Addr::from(FIRST + offset)
}
