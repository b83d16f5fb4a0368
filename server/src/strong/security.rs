//! How the links of a cluster are protected: with `tls-cluster yes` by the server's certificates.

use crate::shared::Shared;
use ashlar_replication::runtime::Security;
use ashlar_replication::tls::Secure;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often the log says that the same address is refused: nodes try again five times a second.
const SAID_EVERY: Duration = Duration::from_secs(10);
/// Refusals that are remembered for that.
const REFUSALS_MAX: usize = 1_024;

/// The links of this node.
pub(super) struct Links {
    shared: Arc<Shared>,
    said: Mutex<HashMap<(IpAddr, String), Instant>>,
}

impl Links {
    pub fn new(shared: &Arc<Shared>) -> Links {
        Links { shared: shared.clone(), said: Mutex::default() }
    }
}

impl Security for Links {
    fn secure(&self) -> Option<Secure> {
        self.shared.tls.cluster()
    }

    fn source(&self) -> Option<IpAddr> {
        self.shared.settings.source()
    }

    fn refused(&self, peer: SocketAddr, why: &str) {
        let mut said = self.said.lock();
        let now = Instant::now();
        said.retain(|_, at| now.duration_since(*at) < SAID_EVERY);
        if said.len() < REFUSALS_MAX && said.insert((peer.ip(), why.to_owned()), now).is_none() {
            tracing::warn!("no link of the cluster with {peer}: {why}");
        }
    }
}
