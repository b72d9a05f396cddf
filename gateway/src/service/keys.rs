//! The keyring's epochs, as far as the log tells of them.

use waymark_core::audit::EntryKind;

use super::{Service, ServiceError, actor_of};
use crate::delivery::SYSTEM_IDENTITY;

impl Service {
    /// Notes in the log that a newer epoch of the keyring is in use; does nothing where that was noted before.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn take_key_epoch(&self) -> Result<(), ServiceError> {
        let now = self.now();
        let in_force = self.in_force();
        let Some(triage) = in_force.directory.triage() else {
            return Ok(());
        };
        let draft = self.drafter();
        let system = actor_of(SYSTEM_IDENTITY);
        let stream = draft.stream(now);
        let entry = draft
            .entry_by(EntryKind::AdminAction, stream, system, &triage.agency, now)
            .code("action", "key_epoch")
            .code("epoch", self.store().key_epoch().to_string());
        self.store().take_key_epoch(entry).await?;
        Ok(())
    }
}
