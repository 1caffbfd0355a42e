//! Registrations of programs under test: they stand as soon as they are asked for.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use jcm_model::{LeaseId, Revision};
use tokio::sync::watch;

use crate::registration::{RegistrationEnd, RegistrationStatus};
use crate::session::leases::{LeaseEvent, Wanted};

#[derive(Debug, Default)]
pub(crate) struct Registrations(Mutex<HashMap<LeaseId, watch::Sender<RegistrationStatus>>>);

impl Registrations {
    pub(crate) fn register(&self, wanted: &Wanted) -> watch::Receiver<RegistrationStatus> {
        let spec = wanted.me.spec(Some(wanted.lease), wanted.online).expect("it was tried before");
        let node = spec.id.clone().unwrap_or_else(|| spec.default_id());
        let status = RegistrationStatus::Registered { node, revision: Revision(1), online: wanted.online };
        let (sender, receiver) = watch::channel(status);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(wanted.lease.id(), sender);
        receiver
    }

    pub(crate) fn take(&self, event: &LeaseEvent) {
        let mut standing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            LeaseEvent::Ready { lease } => {
                if let Some(sender) = standing.get(lease) {
                    sender.send_modify(|status| {
                        if let RegistrationStatus::Registered { online, .. } = status {
                            *online = true;
                        }
                    });
                }
            }
            LeaseEvent::Leave { lease, .. } => {
                if let Some(sender) = standing.remove(lease) {
                    sender.send_replace(RegistrationStatus::Ended(RegistrationEnd::Left));
                }
            }
            _ => {}
        }
    }
}
