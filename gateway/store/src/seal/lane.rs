//! Lanes as they are shown: an endpoint, and a child that nothing else names.

use aws_lc_rs::cipher::{
    AES_256, DecryptingKey, DecryptionContext, EncryptingKey, UnboundCipherKey,
};
use waymark_core::id::{EndpointId, LaneId, SubjectId};
use waymark_core::port::StoreError;

use super::Seal;
use crate::error::internal;

/// What stands between the endpoint and the child; the last one of an id counts.
const SEPARATOR: char = ':';

impl Seal {
    /// A lane as it is shown: its endpoint, and its subject enciphered under a key of that endpoint, so that the lanes of
    /// one child at two endpoints have nothing in common. One block that never comes twice needs no nonce.
    pub(crate) fn lane(
        &self,
        endpoint: &EndpointId,
        subject: SubjectId,
    ) -> Result<LaneId, StoreError> {
        let mut block = *subject.as_bytes();
        EncryptingKey::ecb(self.lane_key(endpoint)?)
            .and_then(|key| key.encrypt(&mut block))
            .map_err(internal)?;
        let text = format!("{endpoint}{SEPARATOR}{}", hex::encode(block));
        LaneId::try_from(text).map_err(internal)
    }

    /// The lane that is shown under an id; `None` for one that no lane is shown under.
    pub(crate) fn lane_of(
        &self,
        lane: &LaneId,
    ) -> Result<Option<(EndpointId, SubjectId)>, StoreError> {
        let Some((endpoint, subject)) = lane.as_str().rsplit_once(SEPARATOR) else {
            return Ok(None);
        };
        let mut block = [0; 16];
        let (Ok(endpoint), Ok(())) = (
            endpoint.parse::<EndpointId>(),
            hex::decode_to_slice(subject, &mut block),
        ) else {
            return Ok(None);
        };
        DecryptingKey::ecb(self.lane_key(&endpoint)?)
            .and_then(|key| key.decrypt(&mut block, DecryptionContext::None).map(|_| ()))
            .map_err(internal)?;
        Ok(Some((endpoint, SubjectId::from_bytes(block))))
    }

    fn lane_key(&self, endpoint: &EndpointId) -> Result<UnboundCipherKey, StoreError> {
        let key = self.keyed("lane.id", &[endpoint.as_str().as_bytes()]);
        UnboundCipherKey::new(&AES_256, &key).map_err(internal)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Keyring;
    use super::*;

    fn seal() -> Seal {
        Seal::new(&Keyring::generate().unwrap()).unwrap()
    }

    #[test]
    fn a_lane_reads_back_and_says_nothing_of_the_child_elsewhere() {
        let seal = seal();
        let child = SubjectId::from_bytes([7; 16]);
        let (mllp, mesh): (EndpointId, EndpointId) =
            ("r1l:mllp".parse().unwrap(), "mesh".parse().unwrap());
        let lane = seal.lane(&mllp, child).unwrap();
        assert_eq!(seal.lane(&mllp, child).unwrap(), lane, "the same each time");
        assert_eq!(seal.lane_of(&lane).unwrap(), Some((mllp.clone(), child)));
        let (_, here) = lane.as_str().rsplit_once(SEPARATOR).unwrap();
        let there = seal.lane(&mesh, child).unwrap();
        assert!(
            !there.as_str().ends_with(here),
            "two endpoints show nothing in common"
        );
        assert_ne!(here, hex::encode(child.as_bytes()));
        assert_ne!(
            self::seal().lane(&mllp, child).unwrap(),
            lane,
            "another deployment shows another"
        );
    }

    #[test]
    fn what_no_lane_is_shown_under_is_no_lane() {
        let seal = seal();
        for text in [
            "mllp",
            "mllp:",
            "mllp:00",
            "mllp:zz",
            ":00112233445566778899aabbccddeeff",
        ] {
            let lane: LaneId = text.parse().unwrap();
            assert_eq!(seal.lane_of(&lane).unwrap(), None, "{text}");
        }
    }
}
