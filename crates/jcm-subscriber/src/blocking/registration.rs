//! Registrations of programs without a runtime.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use jcm_model::{ClusterName, LeaseId, NodeId};

use crate::blocking::park;
use crate::blocking::subscriber::Background;
use crate::registration::{
    self as inner, LeaveError, RegisterError, RegistrationEnd, RegistrationOver, RegistrationStatus,
};

/// How a program is to be registered, see [`register`](crate::Subscriber::register).
#[derive(Debug, Clone)]
#[must_use = "nothing is registered until `start` is called"]
pub struct RegistrationBuilder {
    inner: inner::RegistrationBuilder,
    background: Background,
}

/// A node that this program is, kept in its cluster while this lives, see [`Registration`](crate::Registration).
#[derive(Debug)]
#[must_use = "dropped, it lapses"]
pub struct Registration {
    inner: inner::Registration,
    background: Background,
}

impl RegistrationBuilder {
    pub(super) fn new(inner: inner::RegistrationBuilder, background: Background) -> Self {
        Self { inner, background }
    }

    /// See [`ttl`](crate::RegistrationBuilder::ttl).
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.inner = self.inner.ttl(ttl);
        self
    }

    /// See [`address`](crate::RegistrationBuilder::address).
    pub fn address(mut self, address: impl Into<IpAddr>) -> Self {
        self.inner = self.inner.address(address);
        self
    }

    /// See [`ready_at_once`](crate::RegistrationBuilder::ready_at_once).
    pub fn ready_at_once(mut self) -> Self {
        self.inner = self.inner.ready_at_once();
        self
    }

    /// See [`wait_for_cluster`](crate::RegistrationBuilder::wait_for_cluster).
    pub fn wait_for_cluster(mut self) -> Self {
        self.inner = self.inner.wait_for_cluster();
        self
    }

    /// Registers the program, see [`start`](crate::RegistrationBuilder::start).
    pub fn start(self) -> Result<Registration, RegisterError> {
        let Self { inner, background } = self;
        let cluster = inner.cluster().map_err(RegisterError::Name)?;
        // Only with its thread does a task end before it is done.
        let started = park::wait(background.runtime.spawn(inner.start()));
        let inner = started.map_err(|_| RegisterError::Stopped { cluster })??;
        Ok(Registration { inner, background })
    }
}

impl Registration {
    /// Its cluster.
    pub fn cluster(&self) -> &ClusterName {
        self.inner.cluster()
    }

    /// Which lease the node has.
    pub fn lease(&self) -> LeaseId {
        self.inner.lease()
    }

    /// How it stands.
    pub fn status(&self) -> RegistrationStatus {
        self.inner.status()
    }

    /// Waits until the node is there, and answers its id; `None` when it is not in time.
    pub fn registered(&self, timeout: Duration) -> Result<Option<NodeId>, RegistrationOver> {
        within(timeout, self.inner.registered()).transpose()
    }

    /// Says that callers may come, and waits until that is stored. Answers whether it was in time; it is said in any case.
    pub fn ready(&self, timeout: Duration) -> Result<bool, RegistrationOver> {
        Ok(within(timeout, self.inner.ready()).transpose()?.is_some())
    }

    /// Waits until the registration is over, and answers why; `None` when it is not by then.
    pub fn ended(&self, timeout: Duration) -> Option<RegistrationEnd> {
        within(timeout, self.inner.ended())
    }

    /// Leaves the cluster, see [`leave`](crate::Registration::leave).
    pub fn leave(self, drain: Duration) -> Result<(), LeaveError> {
        let Self { inner, background } = self;
        let cluster = inner.cluster().clone();
        let left = park::wait(background.runtime.spawn(inner.leave(drain)));
        left.unwrap_or(Err(LeaveError { cluster, reason: None }))
    }

    /// The same for `async` code.
    pub fn as_async(&self) -> &inner::Registration {
        &self.inner
    }
}

/// A time-out beyond what the clock can say is none.
fn within<T>(timeout: Duration, future: impl Future<Output = T>) -> Option<T> {
    park::wait_until(future, Instant::now().checked_add(timeout))
}
