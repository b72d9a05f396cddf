//! Who is in the area, as the directory says.

use std::sync::Arc;

use jiff::civil::Date;
use tonic::{Request, Response, Status};
use waymark_core::access::{Action, Principal, Relationship, permit};
use waymark_core::directory::{self, Validity, unbundle};
use waymark_core::error::ErrorKind;
use waymark_core::id::{AgencyId, Pathway, ServiceId};
use waymark_proto::v1;
use waymark_proto::v1::directory_service_server::DirectoryService;

use super::cursor::Kind;
use super::face::{Face, caller};
use super::page::Page;
use super::referral::{agency_id, page_scope, parsed};
use super::status::{field, refusal};
use super::write;
use crate::service::{InForce, ServiceError, load_release};

/// Characters in an ODS code.
const ODS_CODE_MAX: usize = 9;
/// Bytes of a release's number, before the last service's id, in a page's position.
const NUMBER_BYTES: usize = 8;

/// The service.
#[derive(Clone)]
pub(super) struct Directories {
    face: Face,
}

impl Directories {
    pub(super) fn new(face: Face) -> Self {
        Self { face }
    }
}

#[tonic::async_trait]
impl DirectoryService for Directories {
    async fn list_services(
        &self,
        request: Request<v1::ListServicesRequest>,
    ) -> Result<Response<v1::ListServicesResponse>, Status> {
        let caller = caller(&request)?;
        let answer = self.services(&caller.principal, request.into_inner()).await;
        answer.map(Response::new).map_err(|e| refusal(&e))
    }

    async fn get_agency(
        &self,
        request: Request<v1::GetAgencyRequest>,
    ) -> Result<Response<v1::GetAgencyResponse>, Status> {
        let caller = caller(&request)?;
        let answer = self.agency(&caller.principal, &request.into_inner());
        answer.map(Response::new).map_err(|e| refusal(&e))
    }

    async fn get_release(
        &self,
        request: Request<v1::GetReleaseRequest>,
    ) -> Result<Response<v1::GetReleaseResponse>, Status> {
        let caller = caller(&request)?;
        let answer = self.release(&caller.principal, &request.into_inner()).await;
        answer.map(Response::new).map_err(|e| refusal(&e))
    }
}

/// Where a page of services begins: a release, and the last service shown.
struct Position {
    number: u64,
    after: String,
}

impl Position {
    fn read(bytes: &[u8]) -> Option<Self> {
        let (number, after) = bytes.split_at_checked(NUMBER_BYTES)?;
        let after = std::str::from_utf8(after).ok()?.to_owned();
        Some(Self {
            number: u64::from_be_bytes(number.try_into().ok()?),
            after,
        })
    }

    fn write(number: u64, after: &ServiceId) -> Vec<u8> {
        let mut bytes = number.to_be_bytes().to_vec();
        bytes.extend_from_slice(after.as_str().as_bytes());
        bytes
    }
}

impl Directories {
    async fn services(
        &self,
        principal: &Principal,
        ask: v1::ListServicesRequest,
    ) -> Result<v1::ListServicesResponse, ServiceError> {
        let pathway: Option<Pathway> = parsed("pathway", &ask.pathway)?;
        let agency: Option<AgencyId> = parsed("agency_id", &ask.agency_id)?;
        let current = self.face.service.read_directory(principal)?;
        let rest = v1::ListServicesRequest {
            page_size: 0,
            page_token: String::new(),
            ..ask.clone()
        };
        let page = Page::read(
            Kind::Services,
            page_scope(principal, &rest),
            ask.page_size,
            &ask.page_token,
        )?;
        let position = page.position.as_deref().and_then(Position::read);
        let release = match &position {
            Some(position) => self.at(current, position.number).await?,
            None => current,
        };
        let today = self.face.service.now().london_date();
        let after = position
            .as_ref()
            .map_or("", |position| position.after.as_str());
        let found = release.directory.services.values().filter(|service| {
            service.id.as_str() > after
                && service.validity.valid_to.is_none_or(|last| last >= today)
                && pathway
                    .as_ref()
                    .is_none_or(|pathway| service.pathways.contains(pathway))
                && agency
                    .as_ref()
                    .is_none_or(|agency| service.agency == *agency)
        });
        let (shown, next_page_token) =
            page.cut(found, |last| Position::write(release.number, &last.id));
        Ok(v1::ListServicesResponse {
            services: shown.into_iter().map(service).collect(),
            next_page_token,
            directory_release: release.number,
        })
    }

    /// The release that a list began with: its pages stay with it.
    async fn at(&self, current: Arc<InForce>, number: u64) -> Result<Arc<InForce>, ServiceError> {
        if number == current.number {
            return Ok(current);
        }
        let gone = || {
            field(
                "page_token",
                "is of a release that is not there any more: begin again without one",
            )
        };
        let release = self
            .face
            .service
            .store()
            .release_by_number(number)
            .await?
            .ok_or_else(gone)?;
        let loaded = load_release(&release);
        let directory =
            loaded.map_err(|_| ServiceError::new(ErrorKind::Corrupt, "STORED_RELEASE"))?;
        Ok(Arc::new(InForce { number, directory }))
    }

    fn agency(
        &self,
        principal: &Principal,
        ask: &v1::GetAgencyRequest,
    ) -> Result<v1::GetAgencyResponse, ServiceError> {
        let id = agency_id("agency_id", &ask.agency_id)?;
        let release = self.face.service.read_directory(principal)?;
        let found = release.directory.agencies.get(&id);
        let agency =
            found.ok_or_else(|| ServiceError::new(ErrorKind::NotFound, "NO_SUCH_AGENCY"))?;
        let own = principal.speaks_for(&id);
        let shown = own || permit(principal, Action::ApplyDirectory, Relationship::None).is_ok();
        let identities = release
            .directory
            .identities
            .values()
            .filter(|identity| shown && identity.agency == id);
        let services = release
            .directory
            .services
            .values()
            .filter(|service| service.agency == id);
        let (valid_from, valid_to) = days(agency.validity);
        let agency = v1::Agency {
            agency_id: id.to_string(),
            name: agency.name.clone(),
            ods_code: ods_code(&id),
            identities: identities.map(|identity| identity.name.clone()).collect(),
            service_ids: services.map(|service| service.id.to_string()).collect(),
            valid_from,
            valid_to,
        };
        Ok(v1::GetAgencyResponse {
            agency: Some(agency),
            directory_release: release.number,
        })
    }

    async fn release(
        &self,
        principal: &Principal,
        ask: &v1::GetReleaseRequest,
    ) -> Result<v1::GetReleaseResponse, ServiceError> {
        let current = self.face.service.read_directory(principal)?.number;
        let number = if ask.directory_release == 0 {
            current
        } else {
            ask.directory_release
        };
        if !ask.include_files {
            let listed = self.face.service.releases(principal).await?;
            let found = listed.iter().find(|release| release.number == number);
            if let Some(found) = found {
                let release = Some(write::release(found, current));
                return Ok(v1::GetReleaseResponse {
                    release,
                    files: Vec::new(),
                });
            }
        }
        let found = self
            .face
            .service
            .release(principal, Some(number))
            .await
            .map_err(|refused| match refused.kind {
                // Whoever may not read the files learns only that the release is not among those listed.
                ErrorKind::Denied if !ask.include_files => {
                    ServiceError::new(ErrorKind::NotFound, "NO_SUCH_RELEASE")
                }
                _ => refused,
            })?;
        let mut files = Vec::new();
        if ask.include_files {
            let bundled = unbundle(&found.bundle).map_err(|e| ServiceError {
                cause: Some(Box::new(e)),
                ..ServiceError::new(ErrorKind::Corrupt, "STORED_RELEASE")
            })?;
            files.extend(bundled.into_iter().map(|file| v1::DirectoryFile {
                path: file.path,
                content: file.text.into_bytes(),
            }));
        }
        Ok(v1::GetReleaseResponse {
            release: Some(write::release(&found, current)),
            files,
        })
    }
}

/// One service that can be referred to.
fn service(service: &directory::Service) -> v1::Service {
    let (valid_from, valid_to) = days(service.validity);
    v1::Service {
        service_id: service.id.to_string(),
        name: service.name.clone(),
        agency_id: service.agency.to_string(),
        pathways: service.pathways.iter().map(ToString::to_string).collect(),
        valid_from,
        valid_to,
    }
}

fn days(validity: Validity) -> (String, String) {
    let day = |day: Option<Date>| day.map(|day| day.to_string()).unwrap_or_default();
    (day(validity.valid_from), day(validity.valid_to))
}

/// The ODS code of an agency whose id is one.
fn ods_code(id: &AgencyId) -> String {
    let text = id.as_str();
    let is_code = text.len() <= ODS_CODE_MAX
        && text
            .bytes()
            .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit());
    if is_code {
        text.to_owned()
    } else {
        String::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_of_services_stays_with_its_release() {
        let id: ServiceId = "autism-under-5".parse().unwrap();
        let read = Position::read(&Position::write(12, &id)).unwrap();
        assert_eq!((read.number, read.after.as_str()), (12, "autism-under-5"));
        assert!(Position::read(&[0; NUMBER_BYTES - 1]).is_none());
    }

    #[test]
    fn an_ods_code_is_at_most_nine_letters_and_digits() {
        assert_eq!(ods_code(&"EE1234567".parse().unwrap()), "EE1234567");
        for id in ["EE12345678", "ee123456", "area:team"] {
            assert_eq!(ods_code(&id.parse().unwrap()), "", "{id}");
        }
    }
}
