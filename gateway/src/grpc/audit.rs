//! The delivery log, for anyone who wants to check it.

use std::collections::BTreeMap;

use tonic::{Request, Response, Status};
use waymark_adapters::grpc::convert::timestamp_to_proto;
use waymark_core::audit::{LogEntry, leaf_hash};
use waymark_core::error::ErrorKind;
use waymark_core::id::{EventId, StreamId};
use waymark_core::port::{LogState, SignedCheckpoint};
use waymark_proto::v1;
use waymark_proto::v1::audit_service_server::AuditService;
use waymark_proto::v1::{get_entry_request, get_inclusion_proof_request, get_receipt_request};
use waymark_tlog::note::VerifierKey;
use waymark_tlog::{Checkpoint, Hash, TileId, TlogProof, root_from_tiles, tiles_for_root};

use super::cursor::Kind;
use super::face::{Caller, Face, caller};
use super::page::{Page, SCANS_MAX};
use super::receipt;
use super::referral::{key, page_scope, required};
use super::status::{field, refusal};
use crate::service::{ReceiptKey, ServiceError};

mod leaf;

/// The service.
#[derive(Clone)]
pub(super) struct Audits {
    face: Face,
}

impl Audits {
    pub(super) fn new(face: Face) -> Self {
        Self { face }
    }
}

#[tonic::async_trait]
impl AuditService for Audits {
    async fn get_receipt(
        &self,
        request: Request<v1::GetReceiptRequest>,
    ) -> Result<Response<v1::GetReceiptResponse>, Status> {
        let caller = caller(&request)?;
        let ask = request.into_inner();
        let answer = async {
            let key = match ask.subject {
                Some(get_receipt_request::Subject::EventId(id)) => {
                    ReceiptKey::Event(required("event_id", &id)?)
                }
                Some(get_receipt_request::Subject::Key(named)) => {
                    ReceiptKey::Referral(key("key", Some(named))?)
                }
                Some(get_receipt_request::Subject::RequestId(id)) => ReceiptKey::Message(id),
                None => {
                    return Err(field(
                        "subject",
                        "is required: an event, a referral or a request_id",
                    ));
                }
            };
            let mut accepted = self.face.service.receipt(&caller.principal, &key).await?;
            // The salts open what the sender wrote: they are the sender's alone.
            let sender = LogEntry::decode(&accepted.entry)
                .map_err(|_| corrupt())?
                .org;
            if !caller.principal.speaks_for(&sender) {
                accepted.openings.clear();
            }
            let receipt =
                receipt::of_accept(&self.face, accepted, None, ask.want_proof.into()).await?;
            Ok(v1::GetReceiptResponse {
                receipt: Some(receipt),
            })
        };
        answer.await.map(Response::new).map_err(|e| refusal(&e))
    }

    async fn get_checkpoint(
        &self,
        request: Request<v1::GetCheckpointRequest>,
    ) -> Result<Response<v1::GetCheckpointResponse>, Status> {
        let caller = caller(&request)?;
        let answer = async {
            let state = self.face.service.log_state(&caller.principal).await?;
            let newest = state
                .checkpoint
                .ok_or_else(|| ServiceError::new(ErrorKind::NotFound, "EMPTY_LOG"))?;
            Ok::<_, ServiceError>(v1::GetCheckpointResponse {
                checkpoint: Some(self.checkpoint(newest)?),
            })
        };
        answer.await.map(Response::new).map_err(|e| refusal(&e))
    }

    async fn list_checkpoints(
        &self,
        request: Request<v1::ListCheckpointsRequest>,
    ) -> Result<Response<v1::ListCheckpointsResponse>, Status> {
        let caller = caller(&request)?;
        let answer = self.checkpoints(&caller, request.into_inner()).await;
        answer.map(Response::new).map_err(|e| refusal(&e))
    }

    async fn list_entries(
        &self,
        request: Request<v1::ListEntriesRequest>,
    ) -> Result<Response<v1::ListEntriesResponse>, Status> {
        let caller = caller(&request)?;
        let answer = self.entries(&caller, request.into_inner()).await;
        answer.map(Response::new).map_err(|e| refusal(&e))
    }

    async fn get_entry(
        &self,
        request: Request<v1::GetEntryRequest>,
    ) -> Result<Response<v1::GetEntryResponse>, Status> {
        let caller = caller(&request)?;
        let answer = self.entry(&caller, request.into_inner()).await;
        answer.map(Response::new).map_err(|e| refusal(&e))
    }

    async fn get_inclusion_proof(
        &self,
        request: Request<v1::GetInclusionProofRequest>,
    ) -> Result<Response<v1::GetInclusionProofResponse>, Status> {
        let caller = caller(&request)?;
        let answer = self.inclusion(&caller, request.into_inner()).await;
        answer.map(Response::new).map_err(|e| refusal(&e))
    }

    async fn get_consistency_proof(
        &self,
        request: Request<v1::GetConsistencyProofRequest>,
    ) -> Result<Response<v1::GetConsistencyProofResponse>, Status> {
        let caller = caller(&request)?;
        let answer = self.consistency(&caller, request.into_inner()).await;
        answer.map(Response::new).map_err(|e| refusal(&e))
    }
}

fn no_entry() -> ServiceError {
    ServiceError::new(ErrorKind::NotFound, "NO_SUCH_ENTRY")
}

fn corrupt() -> ServiceError {
    ServiceError::new(ErrorKind::Corrupt, "STORED_DATA_CORRUPT")
}

/// A tree's size: the log's own when the caller names none.
fn size_within(name: &str, asked: u64, state: &LogState) -> Result<u64, ServiceError> {
    match asked {
        _ if state.size == 0 => Err(no_entry()),
        0 => Ok(state.size),
        size if size <= state.size => Ok(size),
        _ => Err(field(name, format!("the log has {} entries", state.size))),
    }
}

fn show(index: u64, bytes: Vec<u8>) -> Result<v1::Entry, ServiceError> {
    let event = LogEntry::decode(&bytes).map_err(|_| corrupt())?.event;
    Ok(v1::Entry {
        index,
        leaf_hash: leaf_hash(&bytes).to_vec(),
        event_id: event.to_string(),
        entry: bytes,
    })
}

impl Audits {
    async fn checkpoints(
        &self,
        caller: &Caller,
        ask: v1::ListCheckpointsRequest,
    ) -> Result<v1::ListCheckpointsResponse, ServiceError> {
        if ask.after_size > 0 && !ask.page_token.is_empty() {
            return Err(field(
                "after_size",
                "does not go with a token: leave it out",
            ));
        }
        let bare = v1::ListCheckpointsRequest::default();
        let scope = page_scope(&caller.principal, &bare);
        let page = Page::read(Kind::Checkpoints, scope, ask.page_size, &ask.page_token)?;
        let after = page.number().unwrap_or(ask.after_size);
        let service = &self.face.service;
        let found = service
            .checkpoints(&caller.principal, after, page.size)
            .await?;
        let last = found.last().filter(|_| found.len() == page.len());
        let next_page_token = last
            .map(|signed| page.token(&signed.size.to_be_bytes()))
            .unwrap_or_default();
        let checkpoints = found.into_iter().map(|signed| self.checkpoint(signed));
        Ok(v1::ListCheckpointsResponse {
            checkpoints: checkpoints.collect::<Result<_, _>>()?,
            next_page_token,
        })
    }

    async fn entries(
        &self,
        caller: &Caller,
        ask: v1::ListEntriesRequest,
    ) -> Result<v1::ListEntriesResponse, ServiceError> {
        let stream: Option<StreamId> = match ask.stream_id.as_slice() {
            [] => None,
            bytes => {
                let bytes = bytes
                    .try_into()
                    .map_err(|_| field("stream_id", "is 16 bytes"))?;
                Some(StreamId::from_bytes(bytes))
            }
        };
        if ask.start_index > 0 && !ask.page_token.is_empty() {
            return Err(field(
                "start_index",
                "does not go with a token: leave it out",
            ));
        }
        let bare = v1::ListEntriesRequest {
            page_size: 0,
            page_token: String::new(),
            start_index: 0,
            stream_id: ask.stream_id.clone(),
        };
        let scope = page_scope(&caller.principal, &bare);
        let page = Page::read(Kind::Entries, scope, ask.page_size, &ask.page_token)?;
        let mut next = page.number().unwrap_or(ask.start_index);
        // Only what the tree of this size holds, so that the pages of one list are of a growing, never a changing, log.
        let tree_size = self.face.service.log_state(&caller.principal).await?.size;
        let mut entries = Vec::new();
        for _ in 0..SCANS_MAX {
            let found = self
                .face
                .service
                .entries(&caller.principal, next, page.size)
                .await?;
            if found.is_empty() {
                break;
            }
            for entry in found {
                if entry.index >= tree_size || entries.len() == page.len() {
                    break;
                }
                next = entry.index + 1;
                let own = LogEntry::decode(&entry.bytes)
                    .map_err(|_| corrupt())?
                    .stream;
                if stream.is_none_or(|stream| stream == own) {
                    entries.push(show(entry.index, entry.bytes)?);
                }
            }
            if entries.len() == page.len() || next >= tree_size {
                break;
            }
        }
        let next_page_token = if next < tree_size {
            page.token(&next.to_be_bytes())
        } else {
            String::new()
        };
        Ok(v1::ListEntriesResponse {
            entries,
            next_page_token,
            tree_size,
        })
    }

    async fn entry(
        &self,
        caller: &Caller,
        ask: v1::GetEntryRequest,
    ) -> Result<v1::GetEntryResponse, ServiceError> {
        let (index, bytes) = match ask.subject {
            Some(get_entry_request::Subject::Index(index)) => self.entry_at(caller, index).await?,
            Some(get_entry_request::Subject::EventId(id)) => {
                let id: EventId = required("event_id", &id)?;
                let (index, bytes) = self.face.service.entry(&caller.principal, id).await?;
                (index.ok_or_else(no_entry)?, bytes)
            }
            Some(get_entry_request::Subject::LeafHash(hash)) => {
                let size = self.face.service.log_state(&caller.principal).await?.size;
                self.entry_at(
                    caller,
                    leaf::index_of(&self.face.service, &hash, size).await?,
                )
                .await?
            }
            None => {
                return Err(field(
                    "subject",
                    "is required: an index, an event or a leaf hash",
                ));
            }
        };
        Ok(v1::GetEntryResponse {
            entry: Some(show(index, bytes)?),
        })
    }

    async fn entry_at(&self, caller: &Caller, index: u64) -> Result<(u64, Vec<u8>), ServiceError> {
        let found = self
            .face
            .service
            .entries(&caller.principal, index, 1)
            .await?;
        let found = found
            .into_iter()
            .find(|entry| entry.index == index)
            .ok_or_else(no_entry)?;
        Ok((found.index, found.bytes))
    }

    async fn inclusion(
        &self,
        caller: &Caller,
        ask: v1::GetInclusionProofRequest,
    ) -> Result<v1::GetInclusionProofResponse, ServiceError> {
        let service = &self.face.service;
        let state = service.log_state(&caller.principal).await?;
        let size = size_within("tree_size", ask.tree_size, &state)?;
        let index = match ask.subject {
            Some(get_inclusion_proof_request::Subject::Index(index)) if index < size => index,
            Some(get_inclusion_proof_request::Subject::Index(_)) => {
                return Err(field(
                    "index",
                    format!("is below the size of the tree, {size}"),
                ));
            }
            Some(get_inclusion_proof_request::Subject::LeafHash(hash)) => {
                leaf::index_of(service, &hash, size).await?
            }
            None => return Err(field("subject", "is required: an index or a leaf hash")),
        };
        let hashes = service.inclusion(index, size).await?;
        let (mut checkpoint, mut tlog_proof) = (None, Vec::new());
        if let Some(signed) = self.signed(&state, size).await? {
            let entries = service.store().entries(index, 1).await?;
            let (_, bytes) = entries
                .first()
                .filter(|(at, _)| *at == index)
                .ok_or_else(corrupt)?;
            let proof = TlogProof {
                index,
                hashes: hashes.clone(),
                checkpoint_note: signed.note.clone(),
                extra: None,
            };
            // What does not verify is never handed out.
            proof
                .verify(&Hash::from_bytes(leaf_hash(bytes)), &self.key()?)
                .map_err(|_| corrupt())?;
            tlog_proof = proof.encode().into_bytes();
            checkpoint = Some(self.checkpoint(signed)?);
        }
        Ok(v1::GetInclusionProofResponse {
            index,
            tree_size: size,
            hashes: hashes.iter().map(|hash| hash.as_bytes().to_vec()).collect(),
            root_hash: self.root(&state, size).await?,
            checkpoint,
            tlog_proof,
        })
    }

    async fn consistency(
        &self,
        caller: &Caller,
        ask: v1::GetConsistencyProofRequest,
    ) -> Result<v1::GetConsistencyProofResponse, ServiceError> {
        let state = self.face.service.log_state(&caller.principal).await?;
        let to = size_within("to_size", ask.to_size, &state)?;
        if ask.from_size == 0 || ask.from_size > to {
            return Err(field("from_size", format!("is 1 to {to}")));
        }
        let hashes = self
            .face
            .service
            .consistency(&caller.principal, ask.from_size, to)
            .await?;
        let newest = state.checkpoint.clone().filter(|_| to == state.size);
        Ok(v1::GetConsistencyProofResponse {
            from_size: ask.from_size,
            to_size: to,
            hashes: hashes.iter().map(|hash| hash.as_bytes().to_vec()).collect(),
            from_root_hash: self.root(&state, ask.from_size).await?,
            to_root_hash: self.root(&state, to).await?,
            checkpoint: newest.map(|signed| self.checkpoint(signed)).transpose()?,
        })
    }

    /// The checkpoint that was signed at a size, if one was.
    async fn signed(
        &self,
        state: &LogState,
        size: u64,
    ) -> Result<Option<SignedCheckpoint>, ServiceError> {
        if size == state.size {
            return Ok(state.checkpoint.clone());
        }
        Ok(self.face.service.store().checkpoint(size).await?)
    }

    /// The root of the tree of a size, computed from its tiles.
    async fn root(&self, state: &LogState, size: u64) -> Result<Vec<u8>, ServiceError> {
        if size == state.size {
            return Ok(state.root.to_vec());
        }
        let ids = tiles_for_root(size).map_err(|_| corrupt())?;
        let tiles: BTreeMap<TileId, Vec<u8>> = self
            .face
            .service
            .store()
            .tiles(&ids)
            .await?
            .into_iter()
            .collect();
        let root: Hash = root_from_tiles(size, &tiles).map_err(|_| corrupt())?;
        Ok(root.as_bytes().to_vec())
    }

    fn key(&self) -> Result<VerifierKey, ServiceError> {
        VerifierKey::parse(self.face.service.log_vkey()).map_err(|_| corrupt())
    }

    fn checkpoint(&self, signed: SignedCheckpoint) -> Result<v1::Checkpoint, ServiceError> {
        let read = Checkpoint::open(&signed.note, &self.key()?).map_err(|_| corrupt())?;
        Ok(v1::Checkpoint {
            origin: read.origin().to_owned(),
            tree_size: read.size(),
            root_hash: read.root().as_bytes().to_vec(),
            note: signed.note.into_bytes(),
            signed_at: Some(timestamp_to_proto(signed.at)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_at_most_the_log() {
        let state = |size| LogState {
            size,
            root: [0; 32],
            checkpoint: None,
            accepted: 0,
        };
        assert_eq!(size_within("tree_size", 0, &state(7)).unwrap(), 7);
        assert_eq!(size_within("tree_size", 7, &state(7)).unwrap(), 7);
        assert_eq!(
            size_within("tree_size", 8, &state(7))
                .unwrap_err()
                .violations[0]
                .field,
            "tree_size"
        );
        assert_eq!(
            size_within("tree_size", 0, &state(0)).unwrap_err().kind,
            ErrorKind::NotFound
        );
    }
}
