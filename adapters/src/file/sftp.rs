//! A folder on an SFTP server (SSH file transfer protocol, version 3, as OpenSSH speaks it). One session serves one
//! attempt or one round; who answers is the server whose host key the settings pin, or nothing is sent.

use std::ops::ControlFlow;
use std::sync::Arc;

use russh::Disconnect;
use russh::client::{Config, Handle, Handler};
use russh::keys::{HashAlg, PrivateKeyWithHashAlg, PublicKeyOrCertificate, decode_secret_key};
use russh_sftp::client::RawSftpSession;
use russh_sftp::client::error::Error as SftpError;
use russh_sftp::protocol::{FileAttributes, OpenFlags, StatusCode};
use tokio::time::{Instant, timeout_at};
use waymark_core::time::Timestamp;

use super::config::Sftp;
use super::name::Name;
use super::place::{Entry, Listing, PART_SUFFIX, PlaceError, Sub};
use crate::connect::{self, ConnectError, Stage};
use crate::context::Secrets;
use crate::limits::CONNECT_TIMEOUT;

/// Bytes of one read or write: what every server takes.
const CHUNK_BYTES: usize = 32 * 1024;
/// The longest that one request may take.
const REQUEST_TIMEOUT_S: u64 = 30;

/// How far an attempt to reach a server got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reached {
    /// Not connected.
    Nothing,
    /// TCP.
    Tcp,
    /// SSH, and the server is the bound one.
    Identity,
}

/// Takes the server that has one of the pinned host keys, and no other.
struct Pinned {
    host_keys: Vec<String>,
    seen: Arc<std::sync::OnceLock<bool>>,
}

impl Handler for Pinned {
    type Error = russh::Error;

    async fn check_server_key(
        &mut self,
        presented: &PublicKeyOrCertificate,
    ) -> Result<bool, Self::Error> {
        // A certificate of a host would have to be judged by its authority: the settings pin keys alone.
        let known = match presented {
            PublicKeyOrCertificate::PublicKey { key, .. } => {
                let fingerprint = key.fingerprint(HashAlg::Sha256).to_string();
                self.host_keys.contains(&fingerprint)
            }
            PublicKeyOrCertificate::Certificate(_) => false,
        };
        // Asked once for each key exchange; the first answer is the one that decides.
        let _first = self.seen.set(known);
        Ok(known)
    }
}

/// An open session.
pub(super) struct Remote {
    session: RawSftpSession,
    ssh: Handle<Pinned>,
    directory: String,
    fsync: bool,
}

/// Why a server was not reached, and how far it got.
pub(super) type Unreached = (Reached, PlaceError);

impl Remote {
    /// Connects, proves the server, shows our key and opens the endpoint's folder.
    pub(super) async fn open(
        settings: &Sftp,
        secrets: &dyn Secrets,
        until: Instant,
    ) -> Result<Self, Unreached> {
        let key = settings.key.resolve(secrets);
        let key = key.and_then(|bytes| {
            let text = std::str::from_utf8(&bytes).ok()?;
            decode_secret_key(text, None).ok()
        });
        let key =
            key.ok_or_else(|| (Reached::Nothing, PlaceError::Key(settings.key.to_string())))?;
        let by = until.min(Instant::now() + CONNECT_TIMEOUT);
        let stream = connect::tcp(&settings.address, by).await;
        let stream = stream.map_err(|error| (Reached::Nothing, error.into()))?;
        let seen = Arc::new(std::sync::OnceLock::new());
        let pinned = Pinned {
            host_keys: settings.host_keys.clone(),
            seen: Arc::clone(&seen),
        };
        let config = Arc::new(Config::default());
        let connecting = russh::client::connect_stream(config, stream, pinned);
        let late = |at, stage| move |_| (at, ConnectError::Timeout(stage).into());
        let ssh = timeout_at(by, connecting)
            .await
            .map_err(late(Reached::Tcp, Stage::Tls))?;
        let mut ssh = ssh.map_err(|_| match seen.get() {
            Some(false) => (Reached::Tcp, PlaceError::WrongHost),
            Some(true) | None => (Reached::Tcp, ConnectError::Handshake.into()),
        })?;
        let at = Reached::Identity;
        let rest = async {
            let key = PrivateKeyWithHashAlg::new(Arc::new(key), Some(HashAlg::Sha512));
            let shown = ssh.authenticate_publickey(settings.user.clone(), key).await;
            if !shown.map_err(|_| PlaceError::Session)?.success() {
                return Err(PlaceError::RefusedUs);
            }
            let channel = ssh
                .channel_open_session()
                .await
                .map_err(|_| PlaceError::Session)?;
            let asked = channel.request_subsystem(true, "sftp").await;
            asked.map_err(|_| PlaceError::Session)?;
            let session = RawSftpSession::new(channel.into_stream());
            session.set_timeout(REQUEST_TIMEOUT_S);
            let version = session.init().await.map_err(failed)?;
            let fsync = version
                .extensions
                .get("fsync@openssh.com")
                .is_some_and(|v| v == "1");
            Ok((session, fsync))
        };
        let opened = timeout_at(until, rest)
            .await
            .map_err(late(at, Stage::Application))?;
        let (session, fsync) = opened.map_err(|error| (at, error))?;
        let remote = Self {
            session,
            ssh,
            directory: settings.directory.clone(),
            fsync,
        };
        let folders = timeout_at(until, remote.folders())
            .await
            .map_err(late(at, Stage::Application))?;
        folders.map_err(|error| (at, error))?;
        Ok(remote)
    }

    /// Makes the six folders where they are missing; the endpoint's own must be there.
    async fn folders(&self) -> Result<(), PlaceError> {
        let own = self
            .session
            .lstat(self.directory.clone())
            .await
            .map_err(failed)?;
        if !own.attrs.file_type().is_dir() {
            return Err(PlaceError::NoFolder);
        }
        for sub in Sub::ALL {
            let path = format!("{}/{}", self.directory, sub.as_str());
            match self.session.lstat(path.clone()).await.map_err(failed) {
                Ok(found) if found.attrs.file_type().is_dir() => {}
                Ok(_) => return Err(PlaceError::Exists),
                Err(PlaceError::NoFolder) => {
                    self.session
                        .mkdir(path, FileAttributes::empty())
                        .await
                        .map_err(failed)?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn path(&self, sub: Sub, name: &str) -> String {
        format!("{}/{}/{name}", self.directory, sub.as_str())
    }

    /// What a name stands for, links not followed; `None` when nothing has it.
    async fn look(&self, path: &str) -> Result<Option<FileAttributes>, PlaceError> {
        match self.session.lstat(path.to_owned()).await.map_err(failed) {
            Ok(found) => Ok(Some(found.attrs)),
            Err(PlaceError::NoFolder) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Looks at the files of a folder, until told that it is enough; entries that are no files, or whose names are none
    /// that a file here may have, have no name.
    async fn each(
        &self,
        sub: Sub,
        mut look: impl FnMut(Option<Entry>) -> ControlFlow<()> + Send,
    ) -> Result<(), PlaceError> {
        let path = format!("{}/{}", self.directory, sub.as_str());
        let handle = self.session.opendir(path).await.map_err(failed)?.handle;
        let mut enough = ControlFlow::Continue(());
        while enough.is_continue() {
            let page = match self.session.readdir(handle.clone()).await {
                Ok(page) => page,
                Err(SftpError::Status(status)) if status.status_code == StatusCode::Eof => break,
                Err(error) => return Err(failed(error)),
            };
            let files = page.files.into_iter();
            let mut files = files.filter(|file| ![".", ".."].contains(&file.filename.as_str()));
            enough = files.try_for_each(|file| {
                let regular = file.attrs.file_type().is_file();
                let name = Name::parse(&file.filename).ok().filter(|_| regular);
                let seconds = i64::from(file.attrs.mtime.unwrap_or_default());
                look(name.map(|name| Entry {
                    name,
                    size: file.attrs.size.unwrap_or_default(),
                    modified: Timestamp::from_ms(seconds * 1_000),
                }))
            });
        }
        self.session.close(handle).await.map_err(failed)?;
        Ok(())
    }

    pub(super) async fn list(&self, sub: Sub, most: usize) -> Result<Listing, PlaceError> {
        let mut listing = Listing::default();
        self.each(sub, |entry| {
            if listing.files.len() + listing.unusable >= most {
                listing.more = true;
                return ControlFlow::Break(());
            }
            match entry {
                Some(entry) => listing.files.push(entry),
                None => listing.unusable += 1,
            }
            ControlFlow::Continue(())
        })
        .await?;
        listing.files.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(listing)
    }

    pub(super) async fn old(
        &self,
        sub: Sub,
        before: Timestamp,
        most: usize,
    ) -> Result<Vec<Name>, PlaceError> {
        let mut old = Vec::new();
        self.each(sub, |entry| {
            old.extend(entry.filter(|e| e.modified < before).map(|e| e.name));
            if old.len() >= most {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })
        .await?;
        Ok(old)
    }

    pub(super) async fn read(
        &self,
        sub: Sub,
        name: &Name,
        bytes_max: u64,
    ) -> Result<Option<Vec<u8>>, PlaceError> {
        let path = self.path(sub, name.as_str());
        let Some(found) = self.look(&path).await?.filter(|f| f.file_type().is_file()) else {
            return Ok(None);
        };
        if found.size.unwrap_or_default() > bytes_max {
            return Err(PlaceError::TooLarge);
        }
        let opened = self
            .session
            .open(path, OpenFlags::READ, FileAttributes::empty())
            .await;
        let handle = match opened.map_err(failed) {
            Ok(opened) => opened.handle,
            Err(PlaceError::NoFolder) => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::new();
        loop {
            let offset = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            if offset > bytes_max {
                return Err(PlaceError::TooLarge);
            }
            let length = u32::try_from(CHUNK_BYTES).unwrap_or(u32::MAX);
            match self.session.read(handle.clone(), offset, length).await {
                Ok(chunk) if chunk.data.is_empty() => break,
                Ok(chunk) => bytes.extend_from_slice(&chunk.data),
                Err(SftpError::Status(status)) if status.status_code == StatusCode::Eof => break,
                Err(error) => return Err(failed(error)),
            }
        }
        self.session.close(handle).await.map_err(failed)?;
        Ok(Some(bytes))
    }

    pub(super) async fn put(&self, sub: Sub, name: &Name, bytes: &[u8]) -> Result<(), PlaceError> {
        let part = self.path(sub, &format!("{name}{PART_SUFFIX}"));
        // What an interrupted attempt left; a link of that name goes too, and is not written through.
        if self.look(&part).await?.is_some() {
            self.session.remove(part.clone()).await.map_err(failed)?;
        }
        let flags = OpenFlags::WRITE | OpenFlags::CREATE | OpenFlags::EXCLUDE;
        let opened = self
            .session
            .open(part.clone(), flags, FileAttributes::empty())
            .await;
        let handle = opened.map_err(failed)?.handle;
        let mut offset = 0u64;
        for chunk in bytes.chunks(CHUNK_BYTES) {
            let written = self
                .session
                .write(handle.clone(), offset, chunk.to_vec())
                .await;
            written.map_err(failed)?;
            offset = offset.saturating_add(u64::try_from(chunk.len()).unwrap_or(u64::MAX));
        }
        if self.fsync {
            self.session.fsync(handle.clone()).await.map_err(failed)?;
        }
        self.session.close(handle).await.map_err(failed)?;
        let renamed = self
            .session
            .rename(part, self.path(sub, name.as_str()))
            .await;
        renamed.map(|_| ()).map_err(failed)
    }

    pub(super) async fn shift(
        &self,
        from: Sub,
        to: Sub,
        name: &Name,
        now: Timestamp,
    ) -> Result<(), PlaceError> {
        let (from, to) = (self.path(from, name.as_str()), self.path(to, name.as_str()));
        if self.look(&from).await?.is_none() {
            return Ok(());
        }
        if self.look(&to).await?.is_some() {
            self.session.remove(to.clone()).await.map_err(failed)?;
        }
        match self.session.rename(from, to.clone()).await.map_err(failed) {
            Ok(_) => {}
            Err(PlaceError::NoFolder) => return Ok(()),
            Err(error) => return Err(error),
        }
        // A server that keeps the time of the content alone shows no time of the move: where it does not let us set
        // one, the file is as old as its content.
        let seconds = u32::try_from(now.as_ms() / 1_000).ok();
        let moved = FileAttributes {
            atime: seconds,
            mtime: seconds,
            ..FileAttributes::empty()
        };
        if self.session.setstat(to, moved).await.is_err() {
            tracing::debug!("the SFTP server sets no times of files");
        }
        Ok(())
    }

    pub(super) async fn remove(&self, sub: Sub, name: &Name) -> Result<(), PlaceError> {
        match self
            .session
            .remove(self.path(sub, name.as_str()))
            .await
            .map_err(failed)
        {
            Ok(_) | Err(PlaceError::NoFolder) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Says goodbye; a server that does not listen any more is left all the same.
    pub(super) async fn close(&self, until: Instant) {
        let bye = self.ssh.disconnect(Disconnect::ByApplication, "", "en");
        if !matches!(timeout_at(until, bye).await, Ok(Ok(()))) {
            tracing::debug!("an SFTP session did not end in order");
        }
    }
}

/// A server's own words may repeat a name: they are not kept.
fn failed(error: SftpError) -> PlaceError {
    match error {
        SftpError::Status(status) => match status.status_code {
            StatusCode::NoSuchFile => PlaceError::NoFolder,
            StatusCode::PermissionDenied => PlaceError::Denied,
            _ => PlaceError::Session,
        },
        SftpError::Timeout => ConnectError::Timeout(Stage::Application).into(),
        SftpError::IO(_)
        | SftpError::Limited(_)
        | SftpError::UnexpectedPacket
        | SftpError::UnexpectedBehavior(_) => PlaceError::Session,
    }
}
