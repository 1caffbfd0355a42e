//! Carrying out one step. Each is one request, whole or nothing, on the session that it was worked out for.

use std::time::{Duration, Instant};

use zookeeper_client as zk;

use super::super::session::{CallError, Session};
use super::election::Candidate;
use super::plan::Step;
use super::reading::{encode_leader, encode_member};
use super::{ELECTION, EPOCH, RING, SERVERS, place};
use crate::Member;

/// How long an answer to a step is waited for. The next look shows what became of it.
const STEP_PATIENCE: Duration = Duration::from_secs(2);

/// Makes the znodes below which servers are kept, where they are not. The epoch is never deleted: its version orders
/// all leaders that there ever were.
pub(super) async fn make_base(session: &Session) -> Result<(), CallError> {
    let options = zk::CreateMode::Persistent.with_acls(session.acls());
    for path in [EPOCH, ELECTION, SERVERS, RING] {
        let made = session
            .call(Instant::now() + STEP_PATIENCE, |client| {
                let options = options.clone();
                async move { client.create(path, b"", &options).await.map(|_| ()) }
            })
            .await;
        match made {
            Ok(()) | Err(CallError::Refused(zk::Error::NodeExists)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Carries a step out for a server, on one session and no other.
pub(super) async fn carry_out(
    session: &Session,
    on_session: i64,
    member: &Member,
    step: Step,
) -> Result<(), CallError> {
    let member = member.clone();
    let acls = session.acls();
    session
        .call(Instant::now() + STEP_PATIENCE, |client| async move {
            if client.session_id().0 != on_session {
                return Err(zk::Error::SessionExpired);
            }
            perform(&client, acls, &member, step).await
        })
        .await
}

async fn perform(
    client: &zk::Client,
    acls: zk::Acls<'static>,
    member: &Member,
    step: Step,
) -> Result<(), zk::Error> {
    let ephemeral = zk::CreateMode::Ephemeral.with_acls(acls);
    let server = place(SERVERS, &member.id);
    let in_ring = place(RING, &member.id);
    match step {
        Step::Register => client.create(&server, &encode_member(member), &ephemeral).await.map(|_| ()),
        Step::Replace { version } => {
            let mut writer = client.new_multi_writer();
            writer.add_delete(&server, Some(version))?;
            writer.add_create(&server, &encode_member(member), &ephemeral)?;
            writer.commit().await.map(|_| ()).map_err(zk::Error::from)
        }
        Step::Unregister => client.delete(&server, None).await,
        Step::Withdraw(candidate) => client.delete(&format!("{ELECTION}/{candidate}"), None).await,
        Step::Stand => {
            let sequential = zk::CreateMode::EphemeralSequential.with_acls(acls);
            let prefix = format!("{ELECTION}/{}", Candidate::prefix(client.session_id().0, &member.id));
            client.create(&prefix, b"", &sequential).await.map(|_| ())
        }
        Step::Lead { after, leader } => {
            let mut writer = client.new_multi_writer();
            // That it stands proves that this session is not over at that moment.
            writer.add_check_version(&format!("{ELECTION}/{}", leader.candidate), 0)?;
            let version = i32::try_from(after).map_err(|_| zk::Error::BadVersion)?;
            writer.add_set_data(EPOCH, &encode_leader(&leader), Some(version))?;
            writer.commit().await.map(|_| ()).map_err(zk::Error::from)
        }
        Step::LeaveRing => client.delete(&in_ring, None).await,
        Step::EnterRing => client.create(&in_ring, b"", &ephemeral).await.map(|_| ()),
        Step::ReenterRing => {
            let mut writer = client.new_multi_writer();
            writer.add_delete(&in_ring, None)?;
            writer.add_create(&in_ring, b"", &ephemeral)?;
            writer.commit().await.map(|_| ()).map_err(zk::Error::from)
        }
    }
}
