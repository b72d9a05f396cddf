//! The real clock and the real source of randomness: built by the composition root alone.

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use uuid::{NoContext, Timestamp as UuidTime, Uuid};
use waymark_core::time::{Clock, Timestamp};

/// The system's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that reads the time"
    )]
    fn now(&self) -> Timestamp {
        let since = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        Timestamp::from_ms(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }
}

/// Randomness as an argument.
pub trait Random: Send + Sync {
    /// Fills a buffer with random bytes.
    fn fill(&self, buffer: &mut [u8]);
}

/// The system's source of randomness.
#[derive(Debug, Default)]
pub struct SystemRandomness(SystemRandom);

impl SystemRandomness {
    /// Opens the source.
    pub fn new() -> Self {
        Self(SystemRandom::new())
    }
}

impl Random for SystemRandomness {
    fn fill(&self, buffer: &mut [u8]) {
        // The operating system's generator does not fail once it has answered at all, which start-up checks.
        let _filled: Result<(), aws_lc_rs::error::Unspecified> = self.0.fill(buffer);
    }
}

/// Draws a UUIDv7 of an instant.
pub fn uuid_v7(random: &dyn Random, at: Timestamp) -> Uuid {
    let ms = u64::try_from(at.as_ms()).unwrap_or(0);
    let nanos = u32::try_from(ms % 1000 * 1_000_000).unwrap_or(0);
    let base = Uuid::new_v7(UuidTime::from_unix(NoContext, ms / 1000, nanos));
    let mut bytes = *base.as_bytes();
    let mut fresh = [0u8; 10];
    random.fill(&mut fresh);
    for (slot, byte) in bytes.iter_mut().skip(6).zip(fresh) {
        *slot = byte;
    }
    if let Some(b) = bytes.get_mut(6) {
        *b = 0x70 | (*b & 0x0f);
    }
    if let Some(b) = bytes.get_mut(8) {
        *b = 0x80 | (*b & 0x3f);
    }
    Uuid::from_bytes(bytes)
}

/// Draws 16 random bytes without meaning.
pub fn random_16(random: &dyn Random) -> [u8; 16] {
    let mut out = [0u8; 16];
    random.fill(&mut out);
    out
}

/// Draws a salt.
pub fn salt(random: &dyn Random) -> [u8; 32] {
    let mut out = [0u8; 32];
    random.fill(&mut out);
    out
}

/// Draws a number in 0..=1023, for jitter.
pub fn jitter(random: &dyn Random) -> u16 {
    let mut out = [0u8; 2];
    random.fill(&mut out);
    u16::from_be_bytes(out) & 1023
}
