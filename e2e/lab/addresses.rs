//! The loopback addresses of one laboratory: a 127.x.0.0/16 of its own, so that several run side by side.

use std::net::{IpAddr, Ipv4Addr, TcpListener};

/// A claimed range. All of 127.0.0.0/8 is local: whoever listens on a Service's cluster IP *is* that Service to the API
/// server.
pub struct Addresses {
    x: u8,
    // Held as long as the range is used. The kernel gives it to one, and takes it back when its holder ends.
    _claim: TcpListener,
}

impl Addresses {
    /// Claims a range that no other run holds. 127.0 and 127.1 are left to the machine and to the demonstration.
    pub fn claim() -> Self {
        const CLAIM_PORT: u16 = 6442;
        const COUNT: u32 = 250;
        /// Of etcd and the API server.
        const LISTENS: [u16; 3] = [2379, 2380, 6443];
        (0..COUNT)
            .find_map(|n| {
                let x = u8::try_from(2 + std::process::id().wrapping_add(n) % COUNT).unwrap();
                let free = |port: u16| TcpListener::bind((Ipv4Addr::new(127, x, 128, 1), port)).ok();
                let claim = free(CLAIM_PORT)?;
                // The servers of whoever held it before may not have ended yet.
                LISTENS.into_iter().all(|port| free(port).is_some()).then_some(Self { x, _claim: claim })
            })
            .expect("a free range within 127.0.0.0/8")
    }

    /// Where Services get their cluster IPs.
    pub fn services(&self) -> String {
        format!("127.{}.0.0/17", self.x)
    }

    /// The first cluster IP: the API server's own Service.
    pub fn kubernetes_service(&self) -> IpAddr {
        Ipv4Addr::new(127, self.x, 0, 1).into()
    }

    /// Where etcd, the API server and the controller-manager listen.
    pub fn control_plane(&self) -> IpAddr {
        Ipv4Addr::new(127, self.x, 128, 1).into()
    }

    /// Where the replica number `n` of the program listens.
    pub fn replica(&self, n: u8) -> IpAddr {
        Ipv4Addr::new(127, self.x, 129, n).into()
    }
}
