//! Who the servers are, and which of them leads.

use async_trait::async_trait;
use jcm_model::ServerId;

/// One server as the others see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its id.
    pub id: ServerId,
    /// Where clients and peers reach it, `host:port`.
    pub advertise: String,
    /// Where it stands; may be empty.
    pub zone: String,
    /// The version of its program.
    pub version: String,
}

/// Who the servers are, and which of them leads.
#[async_trait]
pub trait Membership: Send + Sync + std::fmt::Debug {
    /// Makes this server known, until it leaves or is lost.
    async fn join(&self, member: Member) -> Result<(), crate::LoadError>;

    /// Makes this server unknown again, before it stops.
    async fn leave(&self);

    /// The live servers, in the order of their ids.
    fn members(&self) -> Vec<Member>;

    /// The server that leads, where that is known.
    fn leader(&self) -> Option<ServerId>;

    /// Rises with every new leader. What only a leader may do carries it, and a store refuses an older one.
    fn epoch(&self) -> u64;
}

/// A server on its own: the only member, and the leader for good.
#[derive(Debug, Default)]
pub struct Solo {
    member: std::sync::Mutex<Option<Member>>,
}

#[async_trait]
impl Membership for Solo {
    async fn join(&self, member: Member) -> Result<(), crate::LoadError> {
        *self.member.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(member);
        Ok(())
    }

    async fn leave(&self) {
        *self.member.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = None;
    }

    fn members(&self) -> Vec<Member> {
        self.member.lock().unwrap_or_else(std::sync::PoisonError::into_inner).iter().cloned().collect()
    }

    fn leader(&self) -> Option<ServerId> {
        self.members().pop().map(|member| member.id)
    }

    fn epoch(&self) -> u64 {
        1
    }
}
